//! Sockets, TLS and QUIC settings of a client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Endpoint, EndpointConfig, IdleTimeout, TokioRuntime, TransportConfig, VarInt};
use quipu_protocol::limits::{
    FRAME_BYTES_MAX, IDLE_TIMEOUT_MS, REQUEST_STREAMS_MAX, STREAM_WINDOW_BYTES,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CipherSuite, SupportedCipherSuite};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Config;
use crate::error::Error;
use crate::pin::{PinVerifier, Pins};

/// Datagrams that wait, for us or for the gateway, in bytes. Above it the oldest are dropped: they are worth nothing later.
const DATAGRAMS_BYTES_MAX: usize = 8 << 10;
/// The protocol's name in the TLS handshake.
const ALPN: &[u8] = b"quipu/1";
/// Streams that the gateway may open at once: the one lane of this version.
const LANES_MAX: u32 = 1;
/// Unacknowledged bytes that a connection holds for sending. Beyond it the outbox keeps the rest.
const SEND_WINDOW_BYTES: u64 = 512 * 1024;
/// Receive window of a connection: the lane, S0 and every request stream full at once.
const RECEIVE_WINDOW_BYTES: u32 = (STREAM_WINDOW_BYTES * (2 + REQUEST_STREAMS_MAX)) as u32;
/// Asked of the system for the socket, in both directions; it may give less.
const SOCKET_BUFFER_BYTES: usize = 1024 * 1024;
/// TLS tickets kept for one gateway.
const TICKETS_MAX: usize = 4;
/// Addresses of one host name that are tried.
pub(crate) const ADDRESSES_MAX: usize = 4;

// A frame in the making never waits for the connection's window while its own stream has credit.
const _: () = assert!(RECEIVE_WINDOW_BYTES as usize >= STREAM_WINDOW_BYTES + FRAME_BYTES_MAX);

/// The sockets and the TLS state of one client.
#[derive(Debug)]
pub(crate) struct Net {
    provider: Arc<CryptoProvider>,
    pins: Arc<Pins>,
    endpoint: Option<Endpoint>,
    shared: bool,
    tls: Option<Tls>,
    initial_rtt: Duration,
}

/// TLS towards one gateway, kept so that a reconnection can use its tickets.
struct Tls {
    authority: String,
    config: Arc<QuicClientConfig>,
    verifier: Arc<PinVerifier>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

/// The default provider, but AES-128 with SHA-256 is asked for first: processors have instructions for SHA-256 and none for the
/// SHA-384 that comes with AES-256, and a handshake hashes more than it encrypts.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let is_second =
        |suite: &SupportedCipherSuite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256;
    // Stable: the others stay in their order, and all stay allowed.
    provider.cipher_suites.sort_by_key(is_second);
    provider
}

impl Net {
    /// Opens nothing yet.
    pub(crate) fn new(config: &Config, pins: Arc<Pins>) -> Self {
        Self {
            provider: Arc::new(provider()),
            pins,
            endpoint: config.endpoint.clone(),
            shared: config.endpoint.is_some(),
            tls: None,
            initial_rtt: config.initial_rtt,
        }
    }

    /// Begins a handshake with one address of a gateway.
    pub(crate) fn connect(
        &mut self,
        authority: &str,
        address: SocketAddr,
        keep_alive: Duration,
    ) -> Result<(quinn::Connecting, Arc<PinVerifier>), Error> {
        let (tls, verifier) = self.tls(authority)?;
        let mut config = quinn::ClientConfig::new(tls);
        config.transport_config(Arc::new(transport(keep_alive, self.initial_rtt)));
        let endpoint = self.endpoint(address)?;
        let connecting = endpoint
            .connect_with(config, address, host(authority))
            .map_err(|error| Error::Network(format!("{authority}: {error}")))?;
        Ok((connecting, verifier))
    }

    /// Remembers what a finished handshake showed.
    pub(crate) fn remember(
        &self,
        authority: &str,
        shown: crate::pin::Fingerprint,
    ) -> Result<(), Error> {
        self.pins.remember(authority, shown)
    }

    /// Moves to a fresh socket. `false`: the endpoint is shared, and moving it is not this client's business.
    pub(crate) fn rebind(&self) -> Result<bool, Error> {
        match &self.endpoint {
            Some(_) if self.shared => Ok(false),
            Some(endpoint) => {
                let local = endpoint.local_addr().map_err(network)?;
                endpoint.rebind(socket(local.ip())?).map_err(network)?;
                Ok(true)
            }
            None => Ok(true),
        }
    }

    /// Sends what a close left behind, for a moment.
    pub(crate) async fn finish(&mut self, limit: Duration) {
        if let Some(endpoint) = self.endpoint.take()
            && !self.shared
        {
            // A gateway that is gone acknowledges nothing; it times the connection out by itself.
            let _ = tokio::time::timeout(limit, endpoint.wait_idle()).await;
        }
    }

    fn endpoint(&mut self, remote: SocketAddr) -> Result<Endpoint, Error> {
        if let Some(endpoint) = &self.endpoint {
            let fits = endpoint
                .local_addr()
                .is_ok_and(|local| local.is_ipv4() == remote.is_ipv4());
            if self.shared || fits {
                return Ok(endpoint.clone());
            }
        }
        let any = match remote.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let endpoint = Endpoint::new(
            EndpointConfig::default(),
            None,
            socket(any)?,
            Arc::new(TokioRuntime),
        )
        .map_err(network)?;
        self.endpoint = Some(endpoint.clone());
        Ok(endpoint)
    }

    fn tls(&mut self, authority: &str) -> Result<(Arc<QuicClientConfig>, Arc<PinVerifier>), Error> {
        if let Some(tls) = &self.tls
            && tls.authority == authority
        {
            return Ok((Arc::clone(&tls.config), Arc::clone(&tls.verifier)));
        }
        let verifier = self.pins.verifier(authority, &self.provider);
        let unusable = |error: &dyn std::fmt::Display| Error::Network(format!("TLS: {error}"));
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| unusable(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<_>)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::in_memory_sessions(TICKETS_MAX);
        let config =
            Arc::new(QuicClientConfig::try_from(config).map_err(|error| unusable(&error))?);
        self.tls = Some(Tls {
            authority: authority.to_owned(),
            config: Arc::clone(&config),
            verifier: Arc::clone(&verifier),
        });
        Ok((config, verifier))
    }
}

/// A socket for one client to share among many: see [`Config::endpoint`].
///
/// Must be called inside a tokio runtime.
pub fn shared_endpoint() -> Result<Endpoint, Error> {
    let socket = socket(IpAddr::V4(Ipv4Addr::UNSPECIFIED))?;
    Endpoint::new(
        EndpointConfig::default(),
        None,
        socket,
        Arc::new(TokioRuntime),
    )
    .map_err(network)
}

/// The addresses of a gateway, at most [`ADDRESSES_MAX`].
pub(crate) async fn resolve(authority: &str) -> Result<Vec<SocketAddr>, Error> {
    let found = tokio::net::lookup_host(authority).await;
    let found = found.map_err(|error| Error::Network(format!("{authority}: {error}")))?;
    let addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
    if addresses.is_empty() {
        return Err(Error::Network(format!("{authority}: no such host")));
    }
    Ok(addresses)
}

/// The address of this machine that packets to `remote` leave from. Connecting a datagram socket sends nothing.
pub(crate) fn local_address_towards(remote: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = match remote.ip() {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let probe = UdpSocket::bind(any).ok()?;
    probe.connect(remote).ok()?;
    probe.local_addr().ok().map(|local| local.ip())
}

/// The name in `HOST:PORT`, without the brackets of an IPv6 address.
fn host(authority: &str) -> &str {
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn socket(ip: IpAddr) -> Result<UdpSocket, Error> {
    let domain = if ip.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let open = || {
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        // What the system gives is enough for one client; more only helps bursts.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        socket.bind(&SocketAddr::new(ip, 0).into())?;
        Ok(socket.into())
    };
    open().map_err(network)
}

fn transport(keep_alive: Duration, initial_rtt: Duration) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle_timeout = u32::try_from(IDLE_TIMEOUT_MS).unwrap_or(u32::MAX);
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(LANES_MAX))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES as u32))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .datagram_receive_buffer_size(Some(DATAGRAMS_BYTES_MAX))
        .datagram_send_buffer_size(DATAGRAMS_BYTES_MAX)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle_timeout))))
        .keep_alive_interval(Some(keep_alive))
        .initial_rtt(initial_rtt);
    transport
}

fn network(error: std::io::Error) -> Error {
    Error::Network(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha_256_is_asked_for_first_and_nothing_is_left_out() {
        let suites = |provider: CryptoProvider| -> Vec<CipherSuite> {
            let suites = provider.cipher_suites.iter();
            suites.map(SupportedCipherSuite::suite).collect()
        };
        let (ours, usual) = (suites(provider()), suites(aws_lc_rs::default_provider()));
        assert_eq!(ours.first(), Some(&CipherSuite::TLS13_AES_128_GCM_SHA256));
        let others = |suites: &[CipherSuite]| -> Vec<CipherSuite> {
            let first = CipherSuite::TLS13_AES_128_GCM_SHA256;
            suites.iter().copied().filter(|one| *one != first).collect()
        };
        assert_eq!(others(&ours), others(&usual));
        assert_eq!(ours.len(), usual.len());
    }
}
