//! Every setting of a client: unit, default, effect.

use std::path::PathBuf;
use std::time::Duration;

use quipu_protocol::limits::KEEP_ALIVE_MS;

use crate::pin::Fingerprint;

/// Messages that may wait in the outbox, refused ones included. At the limit `send` fails with [`Error::OutboxFull`](crate::Error::OutboxFull).
pub const OUTBOX_MESSAGES_MAX: usize = 10_000;
/// Bytes of text that may wait in the outbox. At the limit `send` fails the same way.
pub const OUTBOX_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Changes of messages that may wait in the outbox, refused ones included. At the limit one more fails with
/// [`Error::ChangesFull`](crate::Error::ChangesFull).
pub const CHANGES_MAX: usize = 1_000;
/// Bytes of new contents that may wait in the outbox. At the limit one more fails the same way.
pub const CHANGES_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Messages that the cache keeps unless configured. Above it the oldest arrivals go; the gateway still has them.
pub const CACHED_MESSAGES_MAX: usize = 1_000_000;
/// Events that a slow reader of the event stream may be behind before it is told that it missed some.
pub const EVENT_STREAM_EVENTS: usize = 1024;

/// How a client is set up. Everything has a default except, in practice, `server` and `data`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder for the account, the message cache, the outbox and the pinned certificates. Made if missing, readable by its
    /// owner only. `None`: everything in memory, gone at the end; meant for tests and load generators.
    pub data: Option<PathBuf>,
    /// `HOST:PORT` of a gateway. Default `127.0.0.1:4433`.
    pub server: String,
    /// Which certificates are accepted. Default: pin on first use.
    pub certificate: CertificatePolicy,
    /// Shown in the account's device list, at most 64 bytes. Default: empty.
    pub device_label: String,
    /// For gateways that ask for one when registering. Default: none.
    pub invitation: Option<String>,
    /// An endpoint to share with other clients, for thousands of them in one process. Default: one socket for this client.
    /// A client with a shared endpoint does not rebind when the network changes; it reconnects.
    pub endpoint: Option<quinn::Endpoint>,
    /// First bound of the random delay before a reconnection; it doubles up to `backoff_max`. Default 250 ms.
    pub backoff_base: Duration,
    /// Longest bound of the random delay. Default 30 s.
    pub backoff_max: Duration,
    /// How long one attempt to connect may take, from the first packet to WELCOME. Default 10 s.
    pub connect_timeout: Duration,
    /// Silence after something was sent that asks for an answer, until the connection is taken for dead. Default 5 s. Too
    /// small: stalls of a mobile network cost a reconnection. Too large: a gateway that was killed is noticed late.
    pub answer_timeout: Duration,
    /// How often QUIC lets the gateway hear from an idle client, until WELCOME says otherwise. Default 25 s.
    pub keep_alive: Duration,
    /// First guess of the round trip, which sets how soon a lost first packet is repeated (three times this). Default 333 ms.
    pub initial_rtt: Duration,
    /// How often the local address towards the gateway is compared, to notice a change of network. `None`: never. Default 3 s.
    pub network_poll: Option<Duration>,
    /// Whether "delivered" is reported to the senders of messages. Default yes.
    pub delivery_receipts: bool,
    /// Shortest time between two receipts for one conversation. Default 1 s.
    pub receipt_interval: Duration,
    /// Whether the others of the direct conversations are watched, so that [`Client::presence`](crate::Client::presence) knows
    /// who is here. Costs a question now and then. Default no.
    pub presence: bool,
    /// Messages kept in the cache. Default [`CACHED_MESSAGES_MAX`].
    pub cached_messages_max: usize,
    /// Seed for the delays of reconnection, so that a test can repeat them. Default: random.
    pub backoff_seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: None,
            server: "127.0.0.1:4433".into(),
            certificate: CertificatePolicy::PinOnFirstUse,
            device_label: String::new(),
            invitation: None,
            endpoint: None,
            backoff_base: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(5),
            keep_alive: Duration::from_millis(KEEP_ALIVE_MS),
            initial_rtt: Duration::from_millis(333),
            network_poll: Some(Duration::from_secs(3)),
            delivery_receipts: true,
            receipt_interval: Duration::from_secs(1),
            presence: false,
            cached_messages_max: CACHED_MESSAGES_MAX,
            backoff_seed: None,
        }
    }
}

/// Which certificate of a gateway is accepted. In every case the gateway must prove that it holds the certificate's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CertificatePolicy {
    /// Remember the one that an address shows first, refuse another one later.
    #[default]
    PinOnFirstUse,
    /// Only this one, whatever was remembered.
    Fingerprint(Fingerprint),
    /// Whatever is shown first from now on, and remember it in place of the old one. For one run, after a person decided.
    AcceptNew,
}
