//! Posts a webhook: HTTP/1.1 over TCP or TLS, one URL, a few connections that are used again.
//!
//! Redirects are not followed and cookies not kept: where messages are told about is the operator's to say, and nobody else's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::sign::{SecretError, Signer};
use crate::tls;

/// Bytes of an answer's body that are read so that its connection can be used again; a longer one costs the connection.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Longest time that a receiver can ask to be left alone with Retry-After; a longer one counts as this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);
/// What the receiver sees as the client's name.
const AGENT: &str = concat!("quipu-gateway/", env!("CARGO_PKG_VERSION"));

/// Why webhooks cannot be posted as configured. The operator must act.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Not an address for webhooks.
    #[error(
        "notify.url {0:?} is not http:// or https:// with a host; for example https://push.example.org/quipu"
    )]
    Url(String),
    /// The file with further certificates cannot be used.
    #[error("notify.ca: cannot read certificates from {}: {why}", path.display())]
    Certificates {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The secrets cannot be used.
    #[error("notify.secrets: {0}")]
    Secrets(#[from] SecretError),
    /// rustls refuses the settings.
    #[error("notify: cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// How the receiver answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// With a 2xx: it has the webhook.
    Taken,
    /// With 410: it wants no webhook ever again.
    Gone,
    /// With something else.
    Refused {
        /// The status.
        status: u16,
        /// How long it asks to be left alone; at most [`RETRY_AFTER_MAX`].
        retry_after: Option<Duration>,
    },
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// The receiver cannot be reached.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
    /// It does not speak HTTP, or broke off.
    #[error("no answer: {0}")]
    Broken(String),
}

/// One webhook, ready to be posted any number of times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The same in every try.
    pub id: String,
    /// JSON.
    pub body: Bytes,
}

/// Posts to one URL.
pub struct Client {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    authority: HeaderValue,
    signer: Signer,
    timeout: Duration,
    /// Connections that wait for the next webhook; never more than were in use at once.
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    idle_max: usize,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// Takes a URL apart; `None` if webhooks cannot be posted to it.
pub fn parse_url(url: &str) -> Option<Uri> {
    let uri: Uri = url.parse().ok()?;
    let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority()?;
    // What stands before an @ would be a password in a log line one day.
    (scheme && !authority.host().is_empty() && !authority.as_str().contains('@')).then_some(uri)
}

impl Client {
    /// `ca`: a PEM file with certificates to trust besides the system's; empty: none. `timeout` is for one try as a whole;
    /// `idle_max` connections are kept for the next one.
    pub fn new(
        url: &str,
        ca: &Path,
        signer: Signer,
        timeout: Duration,
        idle_max: usize,
    ) -> Result<Self, EndpointError> {
        let wrong = || EndpointError::Url(url.to_owned());
        let uri = parse_url(url).ok_or_else(wrong)?;
        let host = uri.host().ok_or_else(wrong)?;
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let secure = uri.scheme_str() == Some("https");
        if !secure && !is_loopback(&host) {
            tracing::warn!(%host, "notify.url is http: who can listen in between sees who gets messages from whom");
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        Ok(Self {
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            tls: secure.then(|| connector(ca)).transpose()?,
            authority: HeaderValue::from_str(authority).map_err(|_| wrong())?,
            uri,
            host,
            signer,
            timeout,
            idle: Mutex::default(),
            idle_max,
        })
    }

    /// Posts a webhook once. `now` is Unix time in seconds.
    pub async fn post(&self, webhook: &Webhook, now: u64) -> Result<Answer, PostError> {
        let posted = tokio::time::timeout(self.timeout, self.post_on_some(webhook, now));
        posted.await.unwrap_or(Err(PostError::Timeout))
    }

    /// On a connection that is there, or on a new one. A connection that waited may have been closed by the receiver in the
    /// same moment: that is no try.
    async fn post_on_some(&self, webhook: &Webhook, now: u64) -> Result<Answer, PostError> {
        let waiting = self.idle.lock().pop();
        if let Some(mut connection) = waiting
            && connection.ready().await.is_ok()
        {
            match self.post_on(&mut connection, webhook, now).await {
                Ok(answer) => return Ok(self.take(answer, connection).await),
                Err(error) if error.is_canceled() || error.is_incomplete_message() => {}
                Err(error) => return Err(broken(&error)),
            }
        }
        let mut connection = self.connect().await?;
        let answer = self.post_on(&mut connection, webhook, now).await;
        let answer = answer.map_err(|error| broken(&error))?;
        Ok(self.take(answer, connection).await)
    }

    async fn post_on(
        &self,
        connection: &mut SendRequest<Full<Bytes>>,
        webhook: &Webhook,
        now: u64,
    ) -> hyper::Result<Response<Incoming>> {
        let mut request = Request::new(Full::new(webhook.body.clone()));
        *request.method_mut() = Method::POST;
        // Host carries the authority; the request line only the path.
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().unwrap_or_default();
        let signature = self.signer.sign(&webhook.id, now, &webhook.body);
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.authority.clone());
        headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert("webhook-timestamp", HeaderValue::from(now));
        for (name, value) in [
            ("webhook-id", &webhook.id),
            ("webhook-signature", &signature),
        ] {
            // Both are letters, digits and a few signs of base64.
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        connection.send_request(request).await
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, PostError> {
        let unreachable = |error: &dyn std::fmt::Display| PostError::Connect(error.to_string());
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(|error| unreachable(&error))?;
        // One write a request; waiting for more would only add to its time.
        let _ = stream.set_nodelay(true);
        let connection = match &self.tls {
            None => handshake(TokioIo::new(stream)).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone());
                let name = name.map_err(|error| unreachable(&error))?;
                let stream = tls.connect(name, stream).await;
                handshake(TokioIo::new(stream.map_err(|error| unreachable(&error))?)).await
            }
        };
        connection.map_err(|error| unreachable(&error))
    }

    /// Judges an answer, and keeps its connection if its body is short.
    async fn take(
        &self,
        answer: Response<Incoming>,
        connection: SendRequest<Full<Bytes>>,
    ) -> Answer {
        let (head, body) = answer.into_parts();
        let whole = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let mut idle = self.idle.lock();
        if whole.is_ok() && !connection.is_closed() && idle.len() < self.idle_max {
            idle.push(connection);
        }
        judge(head.status, &head.headers, SystemTime::now())
    }
}

async fn handshake<T>(io: TokioIo<T>) -> hyper::Result<SendRequest<Full<Bytes>>>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(io).await?;
    // Ends when the sender is dropped, or the receiver closes.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a webhook connection ended");
        }
    });
    Ok(sender)
}

fn broken(error: &hyper::Error) -> PostError {
    PostError::Broken(error.to_string())
}

fn judge(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Answer {
    if status.is_success() {
        return Answer::Taken;
    }
    if status == StatusCode::GONE {
        return Answer::Gone;
    }
    let retry_after = headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| retry_after(text, now));
    Answer::Refused {
        status: status.as_u16(),
        retry_after,
    }
}

/// Seconds, or a date.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(now)
            .unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

fn connector(ca: &Path) -> Result<TlsConnector, EndpointError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "some certificates that the system trusts cannot be read");
    }
    roots.add_parsable_certificates(system.certs);
    if !ca.as_os_str().is_empty() {
        add_certificates(&mut roots, ca).map_err(|why| EndpointError::Certificates {
            path: ca.into(),
            why,
        })?;
    }
    let mut config = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn add_certificates(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let mut found = 0;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
        found += 1;
    }
    match found {
        0 => Err("it has no certificate".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_cannot_be_posted_to_are_refused() {
        for url in [
            "https://example.org/hook?x=1",
            "http://[::1]:8080",
            "http://localhost",
        ] {
            assert!(parse_url(url).is_some(), "{url}");
        }
        for url in [
            "",
            "example.org",
            "ftp://example.org",
            "/hook",
            "https://",
            "https://u:p@example.org",
        ] {
            assert!(parse_url(url).is_none(), "{url}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let seconds = |text| retry_after(text, now).map(|wait| wait.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(seconds("99999999"), Some(RETRY_AFTER_MAX.as_secs()));
        assert_eq!(seconds("soon"), None);
        assert_eq!(seconds("-1"), None);
    }
}
