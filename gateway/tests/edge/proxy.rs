//! An HTTP proxy between a gateway and its bucket, which fails in the ways that buckets and networks do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use quipu_gateway::config::Media;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::bucket::Bucket;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// So many requests are answered with this status; then nothing is wrong.
    Status(u16, u64),
    /// Requests are taken and never answered.
    Silent,
    /// The bodies of answers stop after so many bytes, and nothing more comes.
    StopsAfter(usize),
    /// All connections are cut, and so is each that is made.
    Gone,
}

/// The proxy. Dropping it ends it.
pub(crate) struct Proxy {
    settings: Media,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

struct State {
    to: SocketAddr,
    fault: Mutex<Fault>,
    /// Requests that something was wrong with.
    failed: AtomicU64,
    /// Told when connections are to be cut.
    cut: watch::Sender<()>,
}

type Answer = Response<BoxBody<Bytes, io::Error>>;

impl Proxy {
    pub(crate) async fn start(bucket: &Bucket) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let settings = bucket.settings();
        let to = settings.endpoint.strip_prefix("http://");
        let state = Arc::new(State {
            to: to.and_then(|to| to.parse().ok()).expect("an address"),
            fault: Mutex::new(Fault::None),
            failed: AtomicU64::new(0),
            cut: watch::channel(()).0,
        });
        Self {
            settings: Media {
                endpoint: format!("http://{address}"),
                ..settings
            },
            serving: tokio::spawn(serve(listener, Arc::clone(&state))),
            state,
        }
    }

    /// What a gateway is told to use the bucket through here.
    pub(crate) fn settings(&self) -> Media {
        self.settings.clone()
    }

    /// From now on this is wrong. What was asked before stays as it is, unless the connection is cut.
    pub(crate) fn set(&self, fault: Fault) {
        *self.state.fault.lock() = fault;
        if fault == Fault::Gone {
            self.state.cut.send_replace(());
        }
    }

    /// Requests that something was wrong with.
    pub(crate) fn failed(&self) -> u64 {
        self.state.failed.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    let mut cut = state.cut.subscribe();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((socket, _)) = accepted
                    && *state.fault.lock() != Fault::Gone
                {
                    connections.spawn(serve_one(socket, Arc::clone(&state)));
                }
            }
            _ = cut.changed() => connections.shutdown().await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_one(socket: TcpStream, state: Arc<State>) {
    let answer = service_fn(move |request| answer(Arc::clone(&state), request));
    // An error means that one of the sides has gone.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(socket), answer)
        .await;
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> io::Result<Answer> {
    let fault = state.next();
    if fault != Fault::None {
        state.failed.fetch_add(1, Ordering::SeqCst);
    }
    match fault {
        Fault::Status(status, _) => {
            // A service that is overloaded takes the request all the same.
            request
                .into_body()
                .collect()
                .await
                .map_err(io::Error::other)?;
            let mut answer = Response::new(whole(Bytes::from_static(b"<Error>not now</Error>")));
            *answer.status_mut() = status.try_into().map_err(io::Error::other)?;
            Ok(answer)
        }
        Fault::Silent => std::future::pending().await,
        Fault::StopsAfter(length) => {
            let (parts, body) = pass_on(state.to, request).await?.into_parts();
            if body.len() <= length {
                return Ok(Response::from_parts(parts, whole(body)));
            }
            let begin = Frame::data(body.slice(..length));
            let begin = stream::iter([Ok(begin)]);
            let rest = stream::pending::<io::Result<Frame<Bytes>>>();
            let body = StreamBody::new(futures_util::StreamExt::chain(begin, rest));
            Ok(Response::from_parts(parts, BoxBody::new(body)))
        }
        Fault::None | Fault::Gone => Ok(pass_on(state.to, request).await?.map(whole)),
    }
}

impl State {
    /// What happens to the next request.
    fn next(&self) -> Fault {
        let mut fault = self.fault.lock();
        match &mut *fault {
            Fault::Status(_, 0) => *fault = Fault::None,
            Fault::Status(_, left) => {
                *left -= 1;
                return *fault;
            }
            Fault::None | Fault::Silent | Fault::StopsAfter(_) | Fault::Gone => {}
        }
        *fault
    }
}

/// Asks the bucket.
async fn pass_on(to: SocketAddr, request: Request<Incoming>) -> io::Result<Response<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let socket = TokioIo::new(TcpStream::connect(to).await?);
    let made = hyper::client::conn::http1::handshake(socket).await;
    let (mut sender, connection) = made.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let request = Request::from_parts(parts, Full::new(body));
    let asked = async {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        Ok::<_, hyper::Error>((parts, body.collect().await?.to_bytes()))
    };
    let asked = asked.await;
    connection.abort();
    let (parts, body) = asked.map_err(io::Error::other)?;
    Ok(Response::from_parts(parts, body))
}

fn whole(body: Bytes) -> BoxBody<Bytes, io::Error> {
    BoxBody::new(Full::new(body).map_err(|never| match never {}))
}
