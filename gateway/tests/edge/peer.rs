//! A gateway's edge over a log and a store in memory, and a client that speaks raw frames to it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{
    Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig, VarInt,
};
use quipu_core::shard::ShardCount;
use quipu_gateway::accounts::{self, Accounts};
use quipu_gateway::config::{ByteCount, Config};
use quipu_gateway::edge::{Edge, Sessions, Surroundings};
use quipu_gateway::expiry::Expiry;
use quipu_gateway::external::Issuer;
use quipu_gateway::log::{Log, MemoryLog};
use quipu_gateway::media::Media;
use quipu_gateway::processor::{self, Processors};
use quipu_gateway::queries::Queries;
use quipu_gateway::rates::Rates;
use quipu_gateway::registry::Registry;
use quipu_gateway::retention;
use quipu_gateway::router::Router;
use quipu_gateway::store::{MemoryStore, Store};
use quipu_gateway::telemetry::Metrics;
use quipu_gateway::tls::{self, Identity};
use quipu_protocol::credentials::{Credentials, Hello, Resume, Token};
use quipu_protocol::error::CloseCode;
use quipu_protocol::event::{Change, Event, EventBody, Message, Outcome, Reply};
use quipu_protocol::frame::{self, FrameDecoder, FrameType, RawFrame, StreamKind};
use quipu_protocol::history::HistoryPage;
use quipu_protocol::id::{ClientSeq, ConversationId, DeviceId, RequestId, UserId};
use quipu_protocol::query::Query;
use quipu_protocol::welcome::Welcome;
use quipu_protocol::wire;

/// Nothing here takes longer; a test that does has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Between two sweeps of expired messages.
const SWEEP_INTERVAL: Duration = Duration::from_millis(50);

/// A gateway without disks.
pub(crate) struct Gateway {
    pub(crate) edge: Edge,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) media: Arc<Media>,
    /// What the processors have written, to look at.
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Arc<Registry>,
    _expiry: Expiry,
    _processors: Processors,
    _data: tempfile::TempDir,
}

impl Gateway {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub(crate) fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..Config::default()
        };
        config.accounts.hash_memory = ByteCount(64 << 10);
        config.accounts.hash_passes = 1;
        config.edge.socket_buffer = ByteCount(64 << 10);
        config.edge.drain_timeout = Duration::from_millis(300);
        change(&mut config);
        let data = tempfile::tempdir().expect("a temporary folder");
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new(ShardCount(8)));
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let registry = Registry::with_grace(config.presence.grace);
        let metrics = Arc::new(Metrics::new());
        // Ends with the test's runtime.
        let watched = Arc::clone(&registry);
        tokio::spawn(async move { watched.hub().run().await });
        let surroundings = processor::Surroundings {
            log: Arc::clone(&log),
            store: Arc::clone(&store),
            registry: Arc::clone(&registry),
            topic: Arc::default(),
        };
        let processors = Processors::start(&surroundings, 1, |error| panic!("{error}"));
        retention::tell(&*log, &*store, &config.inbox).expect("a log that takes it");
        let (router, _thread) = Router::start(Arc::clone(&log), || {}).expect("a thread");
        let expiry = Expiry::start(Arc::clone(&log), Arc::clone(&store), SWEEP_INTERVAL);
        let queries = Queries::new(
            Arc::clone(&store),
            log.identity().shards,
            config.limits.queries as usize,
            Arc::clone(&metrics),
        );
        let rates = Rates::new(&config.limits, Arc::clone(&metrics));
        let media = Media::open(
            &config.media,
            data.path(),
            queries.clone(),
            Arc::clone(&metrics),
        );
        let accounts = Accounts::new(
            &config.accounts,
            config.listen,
            config.limits.answer_timeout,
            accounts::Surroundings {
                queries: queries.clone(),
                router: router.clone(),
                registry: Arc::clone(&registry),
                rates: Arc::clone(&rates),
                issuer: Issuer::open(&config.external).expect("keys"),
                life: log.identity().life,
                metrics: Arc::clone(&metrics),
            },
        );
        let media = media.expect("a folder for media");
        let with = Surroundings {
            accounts: accounts.expect("parameters argon2 takes"),
            queries,
            router,
            registry: Arc::clone(&registry),
            rates,
            sessions: Sessions::new(1, None),
            media: Arc::clone(&media),
            metrics: Arc::clone(&metrics),
            fan_out_max: config.groups.fan_out_max,
        };
        let identity = Identity::open(&config.tls, data.path()).expect("a certificate");
        let edge = Edge::start(config.listen, &config.edge, &config.limits, &identity, with);
        Self {
            edge: edge.expect("a free port"),
            metrics,
            media,
            store,
            registry,
            _expiry: expiry.expect("a thread"),
            _processors: processors.expect("nothing to replay"),
            _data: data,
        }
    }

    /// A connection after its handshake, without any stream.
    pub(crate) async fn connect(&self) -> Connection {
        self.try_connect(tls::ALPN).await.expect("connected")
    }

    pub(crate) async fn try_connect(&self, alpn: &[u8]) -> Result<Connection, ConnectionError> {
        self.try_connect_from(1, alpn).await
    }

    /// Connects from 127.0.0.`host`: every one of these is an address of its own.
    pub(crate) async fn connect_from(&self, host: u8) -> Result<Connection, ConnectionError> {
        self.try_connect_from(host, tls::ALPN).await
    }

    async fn try_connect_from(&self, host: u8, alpn: &[u8]) -> Result<Connection, ConnectionError> {
        let local = SocketAddr::from(([127, 0, 0, host], 0));
        let endpoint = Endpoint::client(local).expect("a socket");
        let connecting =
            endpoint.connect_with(client_config(alpn), self.edge.address(), "localhost");
        connecting.expect("a valid configuration").await
    }

    /// A connection with S0 open and HELLO said.
    pub(crate) async fn hello(&self, credentials: Credentials, resume: Option<Resume>) -> Peer {
        let mut peer = Peer::on(self.connect().await).await;
        peer.say_hello(credentials, resume).await;
        peer
    }

    /// Like [`hello`](Self::hello), from an address of its own.
    pub(crate) async fn hello_from(&self, host: u8, credentials: Credentials) -> Peer {
        let connection = self.connect_from(host).await.expect("connected");
        let mut peer = Peer::on(connection).await;
        peer.say_hello(credentials, None).await;
        peer
    }

    /// A welcomed session of a new account.
    pub(crate) async fn register(&self, name: &str) -> Peer {
        let mut peer = self.hello(register(name), None).await;
        peer.welcomed().await;
        peer
    }
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).expect("a valid name")
}

pub(crate) fn register(name: &str) -> Credentials {
    Credentials::Register {
        name: user(name),
        password: format!("password of {name}"),
        label: "test".into(),
        invitation: String::new(),
    }
}

pub(crate) fn login(name: &str, password: &str) -> Credentials {
    Credentials::Login {
        name: user(name),
        password: password.into(),
        label: "test".into(),
    }
}

pub(crate) fn session(name: &str, device: DeviceId, token: Token) -> Credentials {
    Credentials::Session {
        name: user(name),
        device,
        token,
    }
}

/// Waits, within the test's patience.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it took too long")
}

/// The code that the gateway closes the connection with.
pub(crate) async fn close_code(connection: &Connection) -> CloseCode {
    match soon(connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => {
            CloseCode::from_code(close.error_code.into_inner())
        }
        other => panic!("not closed by the application: {other}"),
    }
}

/// The code and the reason that the gateway closes the connection with.
pub(crate) async fn close_reason(connection: &Connection) -> (CloseCode, String) {
    match soon(connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => {
            let code = CloseCode::from_code(close.error_code.into_inner());
            (code, String::from_utf8_lossy(&close.reason).into_owned())
        }
        other => panic!("not closed by the application: {other}"),
    }
}

/// A client that says what a test tells it to.
pub(crate) struct Peer {
    pub(crate) connection: Connection,
    pub(crate) s0: SendStream,
    pub(crate) answers: Frames,
    pub(crate) welcome: Option<Welcome>,
    pub(crate) lane: Option<Frames>,
    next_client_seq: u64,
}

impl Peer {
    /// Opens S0.
    pub(crate) async fn on(connection: Connection) -> Self {
        let (s0, receive) = connection.open_bi().await.expect("a stream");
        Self {
            connection,
            s0,
            answers: Frames::new(receive, StreamKind::S0FromGateway),
            welcome: None,
            lane: None,
            next_client_seq: 1,
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        // A gateway that has closed is seen when reading.
        let _ = self.s0.write_all(bytes).await;
    }

    pub(crate) async fn say_hello(&mut self, credentials: Credentials, resume: Option<Resume>) {
        let hello = Hello {
            agent: "raw".into(),
            credentials,
            resume,
        };
        let mut bytes = BytesMut::new();
        frame::encode(FrameType::Hello, &wire::Hello::from(hello), &mut bytes);
        self.write(&bytes).await;
    }

    /// Reads WELCOME, and LANE on the lane.
    pub(crate) async fn welcomed(&mut self) -> Welcome {
        let frame = self.answers.next().await;
        assert_eq!(frame.kind, FrameType::Welcome);
        let welcome =
            Welcome::try_from(frame.message::<wire::Welcome>().expect("WELCOME")).expect("valid");
        let lane = soon(self.connection.accept_uni()).await.expect("a lane");
        let mut lane = Frames::new(lane, StreamKind::Lane);
        assert_eq!(lane.next().await.kind, FrameType::Lane);
        self.lane = Some(lane);
        self.welcome = Some(welcome.clone());
        welcome
    }

    pub(crate) fn credentials(&self) -> (DeviceId, Token) {
        let welcome = self.welcome.as_ref().expect("welcomed");
        (welcome.device, welcome.token.expect("a new device"))
    }

    /// Makes the direct conversation with `peer`.
    pub(crate) async fn open_direct(&mut self, peer: &str) -> ConversationId {
        let reply = self.try_open_direct(peer).await;
        assert!(
            matches!(reply.outcome, quipu_protocol::event::Outcome::Opened { .. }),
            "{reply:?}"
        );
        let me = self.welcome.as_ref().expect("welcomed").user;
        ConversationId::direct(&me, &user(peer))
    }

    /// Asks for the direct conversation with `peer`; the answer.
    pub(crate) async fn try_open_direct(&mut self, peer: &str) -> Reply {
        let request = wire::OpenDirect {
            request: 1,
            peer: peer.into(),
        };
        let mut bytes = BytesMut::new();
        frame::encode(FrameType::OpenDirect, &request, &mut bytes);
        self.write(&bytes).await;
        self.reply().await
    }

    /// Asks for a change and gives its outcome.
    pub(crate) async fn change(&mut self, change: Change) -> Outcome {
        self.ask(change).await;
        self.reply().await.outcome
    }

    /// The next client seq of this device.
    pub(crate) fn client_seq(&mut self) -> Option<ClientSeq> {
        let client_seq = ClientSeq::new(self.next_client_seq).ok();
        self.next_client_seq += 1;
        client_seq
    }

    /// Asks for a change.
    pub(crate) async fn ask(&mut self, change: Change) {
        let mut bytes = BytesMut::new();
        let command = wire::Command::numbered(RequestId(77), self.client_seq(), &change);
        frame::encode(FrameType::Command, &command, &mut bytes);
        self.write(&bytes).await;
    }

    pub(crate) async fn reply(&mut self) -> Reply {
        let frame = self.answers.next().await;
        assert_eq!(frame.kind, FrameType::Reply);
        Reply::try_from(frame.message::<wire::Reply>().expect("REPLY")).expect("valid")
    }

    pub(crate) async fn send(&mut self, conversation: ConversationId, text: &str) {
        let content = wire::Content {
            kind: Some(wire::content::Kind::Text(text.into())),
        };
        self.send_content(conversation, content).await;
    }

    pub(crate) async fn send_content(
        &mut self,
        conversation: ConversationId,
        content: wire::Content,
    ) {
        let client_seq = self.client_seq().expect("from 1").get();
        let send = wire::Send {
            client_seq,
            conversation: Bytes::copy_from_slice(conversation.as_bytes()),
            id: Bytes::copy_from_slice(&u128::from(client_seq).to_be_bytes()),
            content: Some(content),
        };
        let mut bytes = BytesMut::new();
        frame::encode(FrameType::Send, &send, &mut bytes);
        self.write(&bytes).await;
    }

    pub(crate) async fn receipt(&mut self, conversation: ConversationId, read: u64) {
        let receipt = wire::Receipt {
            conversation: Bytes::copy_from_slice(conversation.as_bytes()),
            delivered: read,
            read,
        };
        let mut bytes = BytesMut::new();
        frame::encode(FrameType::Receipt, &receipt, &mut bytes);
        self.write(&bytes).await;
    }

    pub(crate) async fn ack(&mut self, cursor: u64) {
        let mut bytes = BytesMut::new();
        frame::encode(FrameType::Ack, &wire::Ack { cursor }, &mut bytes);
        self.write(&bytes).await;
    }

    pub(crate) async fn event(&mut self) -> Event {
        let frame = self.lane.as_mut().expect("welcomed").next().await;
        assert_eq!(frame.kind, FrameType::Event);
        Event::try_from(frame.message::<wire::Event>().expect("EVENT")).expect("valid")
    }

    /// The next event, which is a message.
    pub(crate) async fn message(&mut self) -> (u64, Message) {
        let event = self.event().await;
        match event.body {
            EventBody::Message(message) => (event.inbox_seq.get(), message),
            body @ (EventBody::Receipt(_) | EventBody::Changed(_) | EventBody::Invitation(_)) => {
                panic!("not a message: {body:?}")
            }
        }
    }

    /// The messages of a conversation.
    pub(crate) async fn messages(&self, conversation: ConversationId) -> Vec<Message> {
        let page = self.history(conversation).await;
        assert_eq!(page.kind, FrameType::HistoryPage);
        let page = page.message::<wire::HistoryPage>().expect("a page");
        HistoryPage::try_from(page).expect("valid").messages
    }

    /// Asks on a request stream; the one frame that answers.
    pub(crate) async fn query(&self, query: &Query) -> RawFrame {
        let mut bytes = BytesMut::new();
        frame::encode(FrameType::Query, &wire::Query::from(query), &mut bytes);
        let (mut send, receive) = self.connection.open_bi().await.expect("a stream");
        send.write_all(&bytes).await.expect("written");
        Frames::new(receive, StreamKind::RequestFromGateway)
            .next()
            .await
    }

    /// Asks on a request stream; the one frame that answers.
    pub(crate) async fn history(&self, conversation: ConversationId) -> RawFrame {
        let request = wire::HistoryRequest {
            conversation: Bytes::copy_from_slice(conversation.as_bytes()),
            first: 0,
            last: 0,
            limit: 256,
            newest_first: false,
        };
        let mut bytes = BytesMut::new();
        frame::encode(FrameType::History, &request, &mut bytes);
        let (mut send, receive) = self.connection.open_bi().await.expect("a stream");
        send.write_all(&bytes).await.expect("written");
        Frames::new(receive, StreamKind::RequestFromGateway)
            .next()
            .await
    }
}

/// The frames of one incoming stream.
pub(crate) struct Frames {
    pub(crate) receive: RecvStream,
    decoder: FrameDecoder,
    ready: VecDeque<RawFrame>,
}

impl Frames {
    pub(crate) fn new(receive: RecvStream, kind: StreamKind) -> Self {
        Self {
            receive,
            decoder: FrameDecoder::new(kind),
            ready: VecDeque::new(),
        }
    }

    pub(crate) async fn next(&mut self) -> RawFrame {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return frame;
            }
            let chunk = soon(self.receive.read_chunk(usize::MAX, true)).await;
            let mut bytes = chunk
                .expect("the stream goes on")
                .expect("it has not ended")
                .bytes;
            while let Some(frame) = self.decoder.decode(&mut bytes).expect("valid frames") {
                self.ready.push_back(frame);
            }
        }
    }
}

pub(crate) fn client_config(alpn: &[u8]) -> quinn::ClientConfig {
    let mut crypto = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAll(tls::provider())))
        .with_no_client_auth();
    crypto.alpn_protocols = vec![alpn.to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(crypto).expect("a QUIC suite");
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(64 << 10))
        .max_idle_timeout(Some(VarInt::from_u32(15_000).into()));
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    config
}

/// Takes any certificate: these tests are about what comes after it.
#[derive(Debug)]
struct TrustAll(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _leaf: &rustls::pki_types::CertificateDer<'_>,
        _chain: &[rustls::pki_types::CertificateDer<'_>],
        _name: &rustls::pki_types::ServerName<'_>,
        _ocsp: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &rustls::pki_types::CertificateDer<'_>,
        _signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
