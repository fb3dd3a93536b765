//! The QUIC endpoint: socket, transport limits, admission, graceful drain.

mod admission;
mod attachments;
mod attendance;
mod blob;
mod connection;
mod lane;
mod request;
mod talk;
mod throttle;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quinn::{Endpoint, ServerConfig, TransportConfig, VarInt};
use quipu_protocol::error::CloseCode;
use quipu_protocol::limits::{
    BLOB_STREAMS_MAX, IDLE_TIMEOUT_MS, REQUEST_STREAMS_MAX, STREAM_WINDOW_BYTES,
};
use quipu_protocol::welcome::GoAway;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

pub use self::attendance::Sessions;
use crate::accounts::Accounts;
use crate::config::{self, ByteCount};
use crate::media::Media;
use crate::queries::Queries;
use crate::rates::Rates;
use crate::registry::Registry;
use crate::router::Router;
use crate::telemetry::Metrics;
use crate::tls::Identity;

/// Connection attempts that quinn holds until they are accepted or ignored; it refuses further ones. Never reached: the
/// waiting line is shorter.
const INCOMING_MAX: usize = admission::WAITING_MAX * 2;
/// Bytes that one attempt may send before it is accepted, and all of them together. A first flight has one datagram, or two;
/// what a waiting client sends again is the same once more.
const INCOMING_BYTES_MAX: u64 = 4 << 10;
const INCOMING_BYTES_TOTAL_MAX: u64 = 32 << 20;
/// Flow-control window of a connection: S0, and some request streams at once.
const CONNECTION_WINDOW_BYTES: usize = STREAM_WINDOW_BYTES * 4;
/// Datagrams that wait on a connection, for us or for the peer, in bytes. They go out before text, so this is what they can
/// put in its way; above it the oldest that came, and the newest that we would send, are dropped.
const DATAGRAMS_BYTES_MAX: usize = 4 << 10;
/// Unidirectional streams of a client that are open at once: none has a use yet, and a stray one is stopped with a code.
const CLIENT_UNI_STREAMS_MAX: u32 = 1;

/// Why the endpoint cannot be opened. The operator must act.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// Another process has the address.
    #[error(
        "the address {0} is in use; is another gateway running? Choose another with --listen HOST:PORT"
    )]
    AddressInUse(SocketAddr),
    /// The system refuses the address.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// rustls refuses the settings.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// What sessions work with.
pub struct Surroundings {
    /// Decides about HELLOs.
    pub accounts: Accounts,
    /// Reads for sessions.
    pub queries: Queries,
    /// Takes commands.
    pub router: Router,
    /// Where sessions receive.
    pub registry: Arc<Registry>,
    /// How often users and addresses may ask.
    pub rates: Arc<Rates>,
    /// Names them for the log.
    pub sessions: Sessions,
    /// Files.
    pub media: Arc<Media>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Members up to which the messages of a new group go into every inbox.
    pub fan_out_max: u32,
}

/// What all connection tasks share.
struct Shared {
    with: Surroundings,
    settings: config::Edge,
    /// Request streams being served, over all connections.
    requests: Arc<Semaphore>,
    /// Set once, before sessions are told; a session that attaches later tells itself.
    draining: AtomicBool,
}

impl Shared {
    fn go_away(&self) -> GoAway {
        let milliseconds = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        GoAway {
            code: CloseCode::Shutdown,
            reason: "the gateway is stopping".to_owned(),
            authority: String::new(),
            deadline_ms: milliseconds(self.settings.drain_timeout),
            jitter_ms: milliseconds(self.settings.reconnect_jitter),
        }
    }
}

/// The endpoint that clients connect to. Dropping it closes every connection at once; [`Edge::drain`] is kinder.
pub struct Edge {
    endpoint: Endpoint,
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Edge {
    /// Opens the socket and accepts connections from now on. Must be called within a tokio runtime.
    pub fn start(
        listen: SocketAddr,
        settings: &config::Edge,
        limits: &config::Limits,
        identity: &Arc<Identity>,
        with: Surroundings,
    ) -> Result<Self, EdgeError> {
        let socket = open_socket(listen, settings.socket_buffer, &with.metrics)?;
        let server = server_config(settings, identity)?;
        let endpoint = Endpoint::new(
            identity.endpoint_config(),
            Some(server),
            socket,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(|error| EdgeError::Listen(listen, error))?;
        let address = endpoint
            .local_addr()
            .map_err(|error| EdgeError::Listen(listen, error))?;
        let shared = Arc::new(Shared {
            with,
            settings: settings.clone(),
            requests: Arc::new(Semaphore::new(limits.requests as usize)),
            draining: AtomicBool::new(false),
        });
        let accepting = tokio::spawn(admission::accept(endpoint.clone(), Arc::clone(&shared)));
        Ok(Self {
            endpoint,
            address,
            shared,
            accepting,
        })
    }

    /// Where it listens; tells the port if the settings asked for any.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, says GOAWAY to every session, and waits until all are gone or `edge.drain_timeout` is over. Closes
    /// what is left with SHUTDOWN.
    pub async fn drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.shared
            .with
            .registry
            .for_each(|mailbox| mailbox.go_away());
        let left = self.endpoint.wait_idle();
        // Sessions close themselves at the deadline; a little more lets those closes be sent.
        let patience = self.shared.settings.drain_timeout + Duration::from_millis(500);
        if tokio::time::timeout(patience, left).await.is_err() {
            tracing::info!(
                connections = self.endpoint.open_connections(),
                "closing what has not left"
            );
        }
        self.close().await;
    }

    async fn close(&self) {
        let code = VarInt::from_u32(CloseCode::Shutdown.code());
        self.endpoint.close(code, b"the gateway is stopping");
        // Lets the closes be sent; peers that do not answer are not waited for.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.accepting.abort();
        let code = VarInt::from_u32(CloseCode::Shutdown.code());
        self.endpoint.close(code, b"the gateway is stopping");
    }
}

fn open_socket(
    listen: SocketAddr,
    wanted: ByteCount,
    metrics: &Metrics,
) -> Result<std::net::UdpSocket, EdgeError> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => EdgeError::AddressInUse(listen),
        _ => EdgeError::Listen(listen, error),
    };
    let domain = Domain::for_address(listen);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).map_err(failed)?;
    if listen.is_ipv6() && listen.ip().is_unspecified() {
        // [::] takes IPv4 as well; a system that cannot still takes IPv6.
        let _ = socket.set_only_v6(false);
    }
    socket.bind(&listen.into()).map_err(failed)?;
    // One socket carries everybody, and quinn leaves the buffers at the system's default of some 100 packets.
    let _ = socket.set_recv_buffer_size(wanted.as_usize());
    let _ = socket.set_send_buffer_size(wanted.as_usize());
    let granted = |size: std::io::Result<usize>| size.unwrap_or(0) / KERNEL_BUFFER_FACTOR;
    let (receive, send) = (
        granted(socket.recv_buffer_size()),
        granted(socket.send_buffer_size()),
    );
    metrics.udp_receive_buffer_bytes.set(receive as i64);
    metrics.udp_send_buffer_bytes.set(send as i64);
    if receive.min(send) < wanted.as_usize() {
        tracing::warn!(
            wanted = %wanted, receive, send,
            "the kernel grants smaller UDP buffers than edge.socket_buffer and will drop datagrams under load; raise them \
             with: sysctl -w net.core.rmem_max={0} net.core.wmem_max={0}",
            wanted.0
        );
    }
    Ok(socket.into())
}

/// Linux reports twice what it grants, to account for its own bookkeeping.
const KERNEL_BUFFER_FACTOR: usize = if cfg!(target_os = "linux") { 2 } else { 1 };

fn server_config(
    settings: &config::Edge,
    identity: &Arc<Identity>,
) -> Result<ServerConfig, EdgeError> {
    let var = |value: usize| VarInt::from_u32(u32::try_from(value).unwrap_or(u32::MAX));
    let mut transport = TransportConfig::default();
    transport
        // quinn keeps a map slot for each stream that a peer may open: this is the first knob of memory per connection.
        .max_concurrent_bidi_streams(var(1 + REQUEST_STREAMS_MAX + BLOB_STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(CLIENT_UNI_STREAMS_MAX))
        .stream_receive_window(var(STREAM_WINDOW_BYTES))
        .receive_window(var(CONNECTION_WINDOW_BYTES))
        .send_window(settings.send_window.0)
        // Small frames on few streams: one stream at a time makes fewer packets.
        .send_fairness(false)
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_TIMEOUT_MS as u32).into()))
        // The client keeps the connection alive; both sides doing so would double the packets of an idle one.
        .keep_alive_interval(None)
        .datagram_receive_buffer_size(Some(DATAGRAMS_BYTES_MAX))
        .datagram_send_buffer_size(DATAGRAMS_BYTES_MAX)
        // Chat fits the smallest MTU, and probing costs each connection padded packets every ten minutes.
        .mtu_discovery_config(None)
        .allow_spin(false);
    let mut server = ServerConfig::with_crypto(Arc::new(identity.quic_config()?));
    server
        .transport_config(Arc::new(transport))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL_MAX);
    Ok(server)
}
