//! The operator's pages over HTTP/1.1: `/metrics`, `/healthz`, `/readyz`, `/dead-letters`, `/reports`.
//!
//! Answers GET, one request a connection. Connections, bytes and time are bounded, because a browser or a scraper that hangs
//! must not cost the gateway anything.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quipu_core::shard::ShardCount;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::config::AdminListen;
use crate::notify::dead_letters;
use crate::reports;
use crate::store::Store;
use crate::telemetry::Metrics;

/// Connections served at once; others are closed unanswered.
const CONNECTIONS_MAX: usize = 16;
/// Bytes of a request that are read; a longer one is refused.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// Time for reading a request and writing its answer.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// `/metrics`.
    pub metrics: Arc<Metrics>,
    /// `/readyz`.
    pub ready: Arc<AtomicBool>,
    /// `/dead-letters` and `/reports`.
    pub store: Arc<dyn Store>,
    /// How many shards the store has.
    pub shards: ShardCount,
}

/// The running pages; they stop when it is dropped.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Admin {
    /// Serves the pages. A taken address is a warning and `None`: messages matter more than their statistics.
    pub async fn start(listen: AdminListen, pages: Pages) -> Option<Self> {
        let AdminListen::At(wanted) = listen else {
            return None;
        };
        let bound = TcpListener::bind(wanted).await;
        let listener = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
        match listener {
            Ok((address, listener)) => {
                let task = tokio::spawn(serve(listener, pages));
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

async fn serve(listener: TcpListener, pages: Pages) {
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
            pages.metrics.admin_refused.inc();
            continue;
        };
        let pages = pages.clone();
        tokio::spawn(async move {
            let served = tokio::time::timeout(REQUEST_TIME_MAX, answer(stream, &pages));
            if !matches!(served.await, Ok(Ok(()))) {
                pages.metrics.admin_refused.inc();
            }
            drop(place);
        });
    }
}

async fn answer(mut stream: TcpStream, pages: &Pages) -> std::io::Result<()> {
    let mut request = Vec::with_capacity(1024);
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() >= REQUEST_BYTES_MAX || stream.read_buf(&mut request).await? == 0 {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    }
    let (status, kind, body) = match path(&request) {
        Some(b"/dead-letters") => dead_letters(pages.clone()).await,
        Some(b"/reports") => complaints(pages.clone()).await,
        path => page(path, pages),
    };
    pages.metrics.admin_requests.inc();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

type Page = (&'static str, &'static str, String);

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const LINES: &str = "application/jsonl; charset=utf-8";

/// What a GET asks for; `None`: it is no GET.
fn path(request: &[u8]) -> Option<&[u8]> {
    let line = request
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    (words.next() == Some(b"GET")).then(|| words.next().unwrap_or_default())
}

fn page(path: Option<&[u8]>, pages: &Pages) -> Page {
    let text = |status, text: &str| (status, TEXT, text.to_owned());
    match path {
        None => text("405 Method Not Allowed", "only GET\n"),
        Some(b"/metrics") => ("200 OK", METRICS, pages.metrics.render()),
        Some(b"/healthz") => text("200 OK", "ok\n"),
        Some(b"/readyz") if pages.ready.load(Ordering::Relaxed) => text("200 OK", "ready\n"),
        Some(b"/readyz") => text("503 Service Unavailable", "not ready\n"),
        Some(_) => text(
            "404 Not Found",
            "try /metrics, /healthz, /readyz, /dead-letters or /reports\n",
        ),
    }
}

/// Webhooks that were given up, a line of JSON for each.
async fn dead_letters(pages: Pages) -> Page {
    let list = move || dead_letters::list(&*pages.store, pages.shards);
    match tokio::task::spawn_blocking(list).await {
        Ok(Ok(letters)) => ("200 OK", LINES, dead_letters::lines(&letters)),
        Ok(Err(error)) => ("500 Internal Server Error", TEXT, format!("{error}\n")),
        Err(error) => ("500 Internal Server Error", TEXT, format!("{error}\n")),
    }
}

/// What users have complained about.
async fn complaints(pages: Pages) -> Page {
    match tokio::task::spawn_blocking(move || reports::text(&*pages.store)).await {
        Ok(Ok(reports)) => ("200 OK", TEXT, reports),
        Ok(Err(error)) => ("500 Internal Server Error", TEXT, format!("{error}\n")),
        Err(error) => ("500 Internal Server Error", TEXT, format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    fn pages() -> Pages {
        Pages {
            metrics: Arc::new(Metrics::new()),
            ready: Arc::new(AtomicBool::new(false)),
            store: Arc::new(MemoryStore::new()),
            shards: ShardCount(4),
        }
    }

    async fn started() -> (Admin, Pages) {
        let listen = AdminListen::At(([127, 0, 0, 1], 0).into());
        let pages = pages();
        let admin = Admin::start(listen, pages.clone()).await;
        (admin.expect("a free port"), pages)
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
        let (admin, Pages { metrics, ready, .. }) = started().await;
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
            ask(&admin, b"GET /reports HTTP/1.1\r\n\r\n")
                .await
                .ends_with("no complaints\n")
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
        let (admin, Pages { metrics, .. }) = started().await;
        let endless = vec![b'x'; REQUEST_BYTES_MAX * 4];
        assert_eq!(ask(&admin, &endless).await, "");
        while metrics.admin_refused.get() == 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_no_reason_to_stop() {
        let (admin, pages) = started().await;
        let taken = AdminListen::At(admin.address());
        assert!(Admin::start(taken, pages).await.is_none());
    }
}
