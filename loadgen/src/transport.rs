//! QUIC and TLS settings of the simulated clients and of the echo server, and the sockets that they share.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quipu_protocol::limits;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{CipherSuite, SupportedCipherSuite};

use crate::any_certificate::AnyCertificate;

/// The protocol that a gateway speaks.
pub(crate) const ALPN_QUIPU: &[u8] = b"quipu/1";
/// The protocol of the bare echo server, so that nobody takes one for the other.
pub(crate) const ALPN_ECHO: &[u8] = b"quipu-echo/1";
/// What a socket that carries thousands of connections asks the kernel for; the default of 208 KiB drops datagrams.
pub(crate) const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// The name in the certificates made here; nobody verifies it.
pub(crate) const SERVER_NAME: &str = "localhost";

/// The settings of a gateway's edge (gateway/src/edge.rs), so that a ratio compares the work above the transport and not two
/// sets of windows. The streams are those that the peer may open.
fn transport(bidi_streams: u32, uni_streams: u32) -> quinn::TransportConfig {
    let bytes = |count: usize| quinn::VarInt::from_u32(count as u32);
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(bidi_streams.into())
        .max_concurrent_uni_streams(uni_streams.into())
        .stream_receive_window(bytes(limits::STREAM_WINDOW_BYTES))
        .receive_window(bytes(limits::STREAM_WINDOW_BYTES * 4))
        .send_window(128 << 10)
        .send_fairness(false)
        .datagram_receive_buffer_size(Some(4 << 10))
        .datagram_send_buffer_size(4 << 10)
        .mtu_discovery_config(None)
        .allow_spin(false)
        .max_idle_timeout(Some(bytes(limits::IDLE_TIMEOUT_MS as usize).into()));
    transport
}

/// The suites in the order in which Quipu's client asks for them (client/src/net.rs), for both servers alike.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    let is_second =
        |suite: &SupportedCipherSuite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(is_second);
    Arc::new(provider)
}

/// How a simulated client connects: TLS 1.3, no resumption, so that every handshake is a whole one.
pub(crate) fn client_config(alpn: &[u8]) -> anyhow::Result<quinn::ClientConfig> {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider())))
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    // The gateway opens one lane today and up to four by the specification; no bidirectional stream.
    let mut transport = transport(0, 4);
    transport.keep_alive_interval(Some(Duration::from_millis(limits::KEEP_ALIVE_MS)));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// How the echo server listens: an ECDSA P-256 certificate of its own, and otherwise the settings of a gateway.
pub(crate) fn echo_server_config() -> anyhow::Result<quinn::ServerConfig> {
    let made = rcgen::generate_simple_self_signed(vec![SERVER_NAME.to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    tls.alpn_protocols = vec![ALPN_ECHO.to_vec()];
    tls.send_tls13_tickets = 1;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport(
        limits::REQUEST_STREAMS_MAX as u32 + 1,
        1,
    )));
    Ok(config)
}

/// A UDP socket with buffers for many connections. Says on standard error when the kernel gave less.
pub(crate) fn socket(address: SocketAddr) -> anyhow::Result<std::net::UdpSocket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    let got = socket.recv_buffer_size()?;
    if got < SOCKET_BUFFER_BYTES {
        eprintln!(
            "warning: receive buffer of {got} bytes instead of {SOCKET_BUFFER_BYTES}; raise net.core.rmem_max and net.core.wmem_max"
        );
    }
    socket
        .bind(&address.into())
        .with_context(|| format!("bind a UDP socket to {address}"))?;
    Ok(socket.into())
}

/// Where a client of `server` binds: a free port of the loopback for a server there, of any interface for another.
pub(crate) fn any_address(server: SocketAddr) -> SocketAddr {
    match (server.is_ipv4(), server.ip().is_loopback()) {
        (true, true) => (Ipv4Addr::LOCALHOST, 0).into(),
        (true, false) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        (false, true) => (Ipv6Addr::LOCALHOST, 0).into(),
        (false, false) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
