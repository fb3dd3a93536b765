//! The operator's pages over HTTP/1.1: `/metrics`, `/healthz`, `/readyz`.
//!
//! Answers GET, one request a connection. Connections, bytes and time are bounded, because a browser or a scraper that hangs
//! must not cost the gateway anything.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::config::AdminListen;
use crate::telemetry::Metrics;

/// Connections served at once; others are closed unanswered.
const CONNECTIONS_MAX: usize = 16;
/// Bytes of a request that are read; a longer one is refused.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// Time for reading a request and writing its answer.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);

/// The running pages; they stop when it is dropped.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Admin {
    /// Serves the pages. A taken address is a warning and `None`: messages matter more than their statistics.
    pub async fn start(
        listen: AdminListen,
        metrics: Arc<Metrics>,
        ready: Arc<AtomicBool>,
    ) -> Option<Self> {
        let AdminListen::At(wanted) = listen else {
            return None;
        };
        let bound = TcpListener::bind(wanted).await;
        let listener = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
        match listener {
            Ok((address, listener)) => {
                let task = tokio::spawn(serve(listener, metrics, ready));
                Some(Self { address, task })
            }
            Err(error) => {
                tracing::warn!(address = %wanted, %error, "no admin pages; choose another admin.listen, or off");
                None
            }
        }
    }

    /// Where they are.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, metrics: Arc<Metrics>, ready: Arc<AtomicBool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Usually "too many open files": waiting is all that helps, and spinning is all that hurts.
                tracing::warn!(%error, "admin pages: cannot accept");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            metrics.admin_refused.inc();
            continue;
        };
        let (metrics, ready) = (Arc::clone(&metrics), Arc::clone(&ready));
        tokio::spawn(async move {
            let served = tokio::time::timeout(REQUEST_TIME_MAX, answer(stream, &metrics, &ready));
            if !matches!(served.await, Ok(Ok(()))) {
                metrics.admin_refused.inc();
            }
            drop(place);
        });
    }
}

async fn answer(
    mut stream: TcpStream,
    metrics: &Metrics,
    ready: &AtomicBool,
) -> std::io::Result<()> {
    let mut request = Vec::with_capacity(1024);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() >= REQUEST_BYTES_MAX || stream.read_buf(&mut request).await? == 0 {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    }
    let (status, kind, body) = page(&request, metrics, ready);
    metrics.admin_requests.inc();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

fn page(
    request: &[u8],
    metrics: &Metrics,
    ready: &AtomicBool,
) -> (&'static str, &'static str, String) {
    const TEXT: &str = "text/plain; charset=utf-8";
    const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let line = request
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    if words.next() != Some(b"GET") {
        return ("405 Method Not Allowed", TEXT, "only GET\n".to_owned());
    }
    match words.next() {
        Some(b"/metrics") => ("200 OK", METRICS, metrics.render()),
        Some(b"/healthz") => ("200 OK", TEXT, "ok\n".to_owned()),
        Some(b"/readyz") if ready.load(Ordering::Relaxed) => ("200 OK", TEXT, "ready\n".to_owned()),
        Some(b"/readyz") => ("503 Service Unavailable", TEXT, "not ready\n".to_owned()),
        _ => (
            "404 Not Found",
            TEXT,
            "try /metrics, /healthz or /readyz\n".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn started() -> (Admin, Arc<Metrics>, Arc<AtomicBool>) {
        let (metrics, ready) = (Arc::new(Metrics::new()), Arc::new(AtomicBool::new(false)));
        let listen = AdminListen::At(([127, 0, 0, 1], 0).into());
        let admin = Admin::start(listen, Arc::clone(&metrics), Arc::clone(&ready)).await;
        (admin.expect("a free port"), metrics, ready)
    }

    async fn ask(admin: &Admin, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(admin.address())
            .await
            .expect("listening");
        let mut answer = String::new();
        // A refusal may come before everything is written.
        let _ = stream.write_all(request).await;
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn the_pages_answer() {
        let (admin, metrics, ready) = started().await;
        metrics.connections.set(3);
        let page = ask(&admin, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(
            page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("quipu_connections 3"),
            "{page}"
        );
        assert!(
            ask(&admin, b"GET /healthz HTTP/1.1\r\n\r\n")
                .await
                .ends_with("ok\n")
        );
        assert!(
            ask(&admin, b"GET /readyz HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 503")
        );
        ready.store(true, Ordering::Relaxed);
        assert!(
            ask(&admin, b"GET /readyz HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 200")
        );
        assert!(
            ask(&admin, b"GET /nothing HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 404")
        );
        assert!(
            ask(&admin, b"POST /metrics HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 405")
        );
    }

    #[tokio::test]
    async fn an_endless_request_is_cut() {
        let (admin, metrics, _ready) = started().await;
        let endless = vec![b'x'; REQUEST_BYTES_MAX * 4];
        assert_eq!(ask(&admin, &endless).await, "");
        while metrics.admin_refused.get() == 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_no_reason_to_stop() {
        let (admin, metrics, ready) = started().await;
        assert!(
            Admin::start(AdminListen::At(admin.address()), metrics, ready)
                .await
                .is_none()
        );
    }
}
