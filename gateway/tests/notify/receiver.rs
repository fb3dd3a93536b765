//! A small HTTP/1.1 receiver that does what a test tells it to, and checks signatures by a computation of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

/// The secret that tests sign with, and its bytes.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Longest time that anything in these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Webhooks that a test has not looked at yet.
const UNSEEN_MAX: usize = 4096;

/// What the receiver does with the next request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Answers with this status and these header lines, each with its line end.
    Answer(u16, &'static str),
    /// Answers nothing, for as long as the peer waits.
    Stall,
    /// Reads the request and closes the connection.
    HangUp,
    /// Answers 400 if the body holds this, else 200.
    RefuseIf(&'static str),
}

/// One request, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Webhook {
    pub(crate) request_line: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Webhook {
    pub(crate) fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    /// The body, after its signature was found right.
    pub(crate) fn verified(&self, secret: &str) -> serde_json::Value {
        let timestamp = &self.headers["webhook-timestamp"];
        let mut signed = format!("{}.{timestamp}.", self.id()).into_bytes();
        signed.extend_from_slice(&self.body);
        let key = STANDARD
            .decode(secret.strip_prefix("whsec_").expect("a secret"))
            .expect("base64");
        let expected = format!("v1,{}", STANDARD.encode(hmac_sha256(&key, &signed)));
        let signatures = &self.headers["webhook-signature"];
        assert!(
            signatures.split(' ').any(|signature| signature == expected),
            "{signatures} has no {expected}"
        );
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// RFC 2104, written out: the gateway's own comes from another library.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    assert!(
        key.len() <= 64,
        "a longer key would have to be hashed first"
    );
    let padded = |with: u8| -> Vec<u8> {
        let key = key.iter().copied().chain(std::iter::repeat(0)).take(64);
        key.map(|byte| byte ^ with).collect()
    };
    let inner = Sha256::digest([&padded(0x36), message].concat());
    Sha256::digest([&padded(0x5c)[..], &inner[..]].concat()).to_vec()
}

/// A running receiver; it stops when it is dropped.
pub(crate) struct Receiver {
    address: SocketAddr,
    behaviour: watch::Sender<Behaviour>,
    came: mpsc::Receiver<Webhook>,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Receiver {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), behaviour, None).await
    }

    /// On a given address, for one that was there before.
    pub(crate) async fn at(
        address: SocketAddr,
        behaviour: Behaviour,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (behaviour, told) = watch::channel(behaviour);
        let (tell, came) = mpsc::channel(UNSEEN_MAX);
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                counted.fetch_add(1, Ordering::SeqCst);
                serving.spawn(accept(stream, tls.clone(), told.clone(), tell.clone()));
            }
        });
        Self {
            address,
            behaviour,
            came,
            connections,
            task,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook?a=b", self.address)
    }

    /// From the next request on.
    pub(crate) fn behave(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The next webhook, whatever is done with it.
    pub(crate) async fn next(&mut self) -> Webhook {
        let next = tokio::time::timeout(PATIENCE, self.came.recv());
        next.await.expect("a webhook in time").expect("it runs")
    }

    /// A webhook that has come already.
    pub(crate) fn try_next(&mut self) -> Option<Webhook> {
        self.came.try_recv().ok()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    told: watch::Receiver<Behaviour>,
    tell: mpsc::Sender<Webhook>,
) {
    // However a connection ends, the next one is served.
    let _ = match tls {
        None => serve(stream, told, tell).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => serve(stream, told, tell).await,
            Err(error) => Err(error),
        },
    };
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    told: watch::Receiver<Behaviour>,
    tell: mpsc::Sender<Webhook>,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let Some(webhook) = read_request(&mut stream, &mut bytes).await? else {
            return Ok(());
        };
        // Decided before the test sees it, so that it may tell what comes next.
        let behaviour = match told.borrow().clone() {
            Behaviour::RefuseIf(part) => {
                let body = String::from_utf8_lossy(&webhook.body);
                Behaviour::Answer(if body.contains(part) { 400 } else { 200 }, "")
            }
            behaviour @ (Behaviour::Answer(..) | Behaviour::Stall | Behaviour::HangUp) => behaviour,
        };
        tell.send(webhook).await.map_err(std::io::Error::other)?;
        match behaviour {
            Behaviour::Answer(status, headers) => {
                let answer =
                    format!("HTTP/1.1 {status} Whatever\r\n{headers}Content-Length: 2\r\n\r\nok");
                stream.write_all(answer.as_bytes()).await?;
            }
            Behaviour::Stall => {
                // Until the peer gives up and closes.
                while stream.read_buf(&mut bytes).await? > 0 {}
                return Ok(());
            }
            Behaviour::HangUp | Behaviour::RefuseIf(_) => return Ok(()),
        }
    }
}

/// Reads one request; `None`: the peer closed in between.
async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
) -> std::io::Result<Option<Webhook>> {
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            break bytes.drain(..end + 4).collect::<Vec<u8>>();
        }
        if stream.read_buf(bytes).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8(head).expect("a head is text");
    let mut lines = head.lines();
    let request_line = lines.next().expect("a request line").to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers["content-length"].parse().expect("a length");
    while bytes.len() < length {
        if stream.read_buf(bytes).await? == 0 {
            return Ok(None);
        }
    }
    let body = bytes.drain(..length).collect();
    Ok(Some(Webhook {
        request_line,
        headers,
        body,
    }))
}
