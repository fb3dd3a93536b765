//! A real S3 service over a folder, in the test's process: it checks signatures, and it can be cut off and come back.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use quipu_gateway::config::{Media, SecretText};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// The one bucket that is there.
pub(crate) const NAME: &str = "quipu-files";
const ACCESS_KEY: &str = "quipu-test";
const SECRET_KEY: &str = "only for tests";

/// The service. Dropping it ends it and removes its folder.
pub(crate) struct Bucket {
    address: SocketAddr,
    /// Requests that are served still; the connection of any other is cut.
    left: Arc<AtomicU64>,
    serving: JoinHandle<Infallible>,
    folder: tempfile::TempDir,
}

impl Bucket {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join(NAME)).expect("a bucket is a folder");
        let files = s3s_fs::FileSystem::new(folder.path()).expect("a folder to serve");
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let serving = serve(listener, service.build(), Arc::clone(&left));
        Self {
            address,
            left,
            serving: tokio::spawn(serving),
            folder,
        }
    }

    /// What a gateway is told to use it.
    pub(crate) fn settings(&self) -> Media {
        Media {
            endpoint: format!("http://{}", self.address),
            bucket: NAME.to_owned(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SecretText(SECRET_KEY.to_owned()),
            ..Media::default()
        }
    }

    /// Cuts the connection of every request after so many more.
    pub(crate) fn down_after(&self, requests: u64) {
        self.left.store(requests, Ordering::SeqCst);
    }

    /// Serves again.
    pub(crate) fn up(&self) {
        self.down_after(u64::MAX);
    }

    /// Objects that are in the bucket, whatever they are.
    pub(crate) fn objects(&self) -> usize {
        let mut folders = vec![self.folder.path().join(NAME)];
        let mut count = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let entry = entry.expect("an entry");
                match entry.file_type().expect("a type").is_dir() {
                    true => folders.push(entry.path()),
                    false => count += 1,
                }
            }
        }
        count
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, service: S3Service, left: Arc<AtomicU64>) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        if let Ok((socket, _)) = listener.accept().await {
            connections.spawn(serve_one(socket, service.clone(), Arc::clone(&left)));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_one(socket: TcpStream, service: S3Service, left: Arc<AtomicU64>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let is_served = left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok();
        let answer = is_served.then(|| Service::call(&service, request));
        async move {
            let down = || io::Error::other("the service is down");
            answer.ok_or_else(down)?.await.map_err(io::Error::other)
        }
    });
    // An error is what `answer` gave, or that the gateway has gone.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(socket), answer)
        .await;
}
