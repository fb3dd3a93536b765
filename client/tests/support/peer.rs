//! A gateway that does what a test tells it: the protocol's server half on a real socket, with every decision scripted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use quipu_client::protocol::credentials::Hello;
use quipu_client::protocol::error::{CloseCode, RejectCode};
use quipu_client::protocol::event::{DeviceCommand, Event, Notice, Reply};
use quipu_client::protocol::frame::{self, FrameDecoder, FrameType, StreamKind};
use quipu_client::protocol::history::{HistoryPage, HistoryRequest};
use quipu_client::protocol::id::{Cursor, DeviceId, TimestampMs};
use quipu_client::protocol::query::{Answer, Query};
use quipu_client::protocol::session::{ServerOutput, ServerSession};
use quipu_client::protocol::welcome::{GoAway, Limits, Welcome};
use quipu_client::protocol::wire;

/// A listening peer.
pub(crate) struct Peer {
    endpoint: Endpoint,
}

/// One device's session with it.
pub(crate) struct Session {
    pub(crate) connection: Connection,
    machine: ServerSession,
    send: SendStream,
    receive: RecvStream,
    lane: Option<SendStream>,
    pub(crate) hello: Hello,
}

impl Peer {
    pub(crate) fn new() -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let certificate =
            rcgen::generate_simple_self_signed(["peer".to_owned()]).expect("a certificate");
        let key =
            rustls::pki_types::PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.cert.der().clone()], key.into())
            .expect("a key of its certificate");
        tls.alpn_protocols = vec![b"quipu/1".to_vec()];
        let tls = QuicServerConfig::try_from(tls).expect("a QUIC cipher");
        let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
        let endpoint = Endpoint::server(config, super::any()).expect("a socket");
        Self { endpoint }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().expect("is bound")
    }

    /// Takes the next connection up to its HELLO.
    pub(crate) async fn hello(&self) -> Session {
        super::within("a connection", async {
            let connection = self
                .endpoint
                .accept()
                .await
                .expect("listens")
                .await
                .expect("a handshake");
            let (send, mut receive) = connection.accept_bi().await.expect("S0");
            let mut machine = ServerSession::new(Instant::now());
            let hello = loop {
                if let Some(ServerOutput::Authenticate(hello)) = machine.poll_output() {
                    break hello;
                }
                let chunk = receive
                    .read_chunk(4096, true)
                    .await
                    .expect("reads")
                    .expect("S0 stays open");
                machine.handle_bytes(Instant::now(), &mut chunk.bytes.clone());
            };
            Session {
                connection,
                machine,
                send,
                receive,
                lane: None,
                hello,
            }
        })
        .await
    }
}

impl Session {
    /// Lets the device in: with a token if it is new.
    pub(crate) async fn welcome(&mut self, token: bool, resumed: bool, cursor: u64, life: u64) {
        self.machine.welcome(Welcome {
            user: *self.hello.credentials.name().expect("a named user"),
            device: DeviceId::new(7).expect("not 0"),
            token: token.then_some([1; 32]),
            resumed,
            cursor: Cursor(cursor),
            life,
            server_time: TimestampMs(0),
            agent: "peer".into(),
            limits: Limits::default(),
            gateway: String::new(),
            next_gateways: Vec::new(),
        });
        self.flush().await;
    }

    pub(crate) async fn go_away(&mut self, code: CloseCode, authority: String) {
        let go_away = GoAway {
            code,
            reason: String::new(),
            authority,
            deadline_ms: 60_000,
            jitter_ms: 10,
        };
        self.machine.go_away(Instant::now(), go_away);
        self.flush().await;
    }

    /// Answers a command. All that the device has said is to be read before.
    pub(crate) async fn reply(&mut self, reply: &Reply) {
        self.machine.reply(reply);
        self.flush().await;
    }

    /// Sends an event on the lane.
    pub(crate) async fn event(&mut self, event: &Event) {
        self.lane(FrameType::Event, &wire::Event::from(event)).await;
    }

    /// Sends news of a large group on the lane.
    pub(crate) async fn notice(&mut self, notice: &Notice) {
        self.lane(FrameType::Notice, &wire::Notice::from(notice))
            .await;
    }

    /// Answers the next request for history, and says what was asked.
    pub(crate) async fn answer_history(&self, page: &HistoryPage) -> HistoryRequest {
        let page = wire::HistoryPage::from(page);
        self.answer_request(FrameType::HistoryPage, &page).await
    }

    /// Says that it is busy to the next request for history, and what was asked.
    pub(crate) async fn is_busy_for_history(&self, retry_after_ms: u64) -> HistoryRequest {
        let busy = wire::Rejected {
            code: RejectCode::Busy.code(),
            retry_after_ms,
            ..wire::Rejected::default()
        };
        self.answer_request(FrameType::Failure, &busy).await
    }

    /// Answers the next question, and says what was asked.
    pub(crate) async fn answer_query(&self, answer: Answer) -> Query {
        let answer = wire::Answer::from(answer);
        let asked: wire::Query = self.answer_stream(FrameType::Answer, &answer).await;
        Query::try_from(asked).expect("in range")
    }

    async fn answer_request(
        &self,
        kind: FrameType,
        message: &impl prost::Message,
    ) -> HistoryRequest {
        let asked: wire::HistoryRequest = self.answer_stream(kind, message).await;
        HistoryRequest::try_from(asked).expect("in range")
    }

    /// Answers the next request, and gives what it was.
    async fn answer_stream<T: prost::Message + Default>(
        &self,
        kind: FrameType,
        message: &impl prost::Message,
    ) -> T {
        super::within("a request", async {
            let (mut send, mut receive) = self.connection.accept_bi().await.expect("a request");
            let mut bytes = Bytes::from(receive.read_to_end(4096).await.expect("a frame"));
            let frame = FrameDecoder::new(StreamKind::RequestFromClient).decode(&mut bytes);
            let frame = frame.expect("sound").expect("whole");
            let asked = frame.message::<T>().expect("the one that is expected");
            let mut answer = BytesMut::new();
            frame::encode(kind, message, &mut answer);
            send.write_all(&answer).await.expect("writes");
            send.finish().expect("is open");
            asked
        })
        .await
    }

    /// Says to the next upload that so many bytes are there, takes some more, and fails. When that was.
    pub(crate) async fn fails_to_keep(&self, offset: u64) -> Instant {
        super::within("an upload", async {
            let (mut send, mut receive) = self.connection.accept_bi().await.expect("an upload");
            let mut decoder = FrameDecoder::new(StreamKind::BlobFromClient);
            let chunk = receive.read_chunk(4096, true).await.expect("reads");
            let mut bytes = chunk.expect("UPLOAD").bytes;
            let upload = decoder.decode(&mut bytes).expect("sound");
            assert_eq!(upload.map(|frame| frame.kind), Some(FrameType::Upload));
            let mut answer = BytesMut::new();
            let state = wire::UploadState { offset };
            frame::encode(FrameType::UploadState, &state, &mut answer);
            send.write_all(&answer).await.expect("writes");
            let some = receive.read_chunk(4096, true).await.expect("reads");
            assert!(some.is_some(), "bytes follow");
            let failed = wire::Rejected {
                code: RejectCode::Internal.code(),
                ..wire::Rejected::default()
            };
            let mut answer = BytesMut::new();
            frame::encode(FrameType::Failure, &failed, &mut answer);
            send.write_all(&answer).await.expect("writes");
            send.finish().expect("is open");
            Instant::now()
        })
        .await
    }

    async fn lane(&mut self, kind: FrameType, message: &impl prost::Message) {
        let mut bytes = BytesMut::new();
        if self.lane.is_none() {
            frame::encode(
                FrameType::Lane,
                &wire::Lane { index: 0, lanes: 1 },
                &mut bytes,
            );
            self.lane = Some(self.connection.open_uni().await.expect("a lane"));
        }
        frame::encode(kind, message, &mut bytes);
        let lane = self.lane.as_mut().expect("opened above");
        lane.write_all(&bytes).await.expect("writes");
    }

    /// The next command of the device, skipping acks.
    pub(crate) async fn command(&mut self) -> DeviceCommand {
        super::within("a command", async {
            loop {
                match self.next().await {
                    ServerOutput::Command(command) => return command,
                    ServerOutput::Acked(_) => {}
                    other => panic!("not a command: {other:?}"),
                }
            }
        })
        .await
    }

    /// The cursor of the next ack, skipping commands.
    pub(crate) async fn acked(&mut self) -> Cursor {
        super::within("an ack", async {
            loop {
                if let ServerOutput::Acked(cursor) = self.next().await {
                    return cursor;
                }
            }
        })
        .await
    }

    async fn next(&mut self) -> ServerOutput {
        loop {
            match self.machine.poll_output() {
                Some(ServerOutput::Transmit(bytes)) => self.write(bytes).await,
                Some(output) => return output,
                None => {
                    let chunk = self
                        .receive
                        .read_chunk(4096, true)
                        .await
                        .expect("reads")
                        .expect("S0 stays open");
                    self.machine
                        .handle_bytes(Instant::now(), &mut chunk.bytes.clone());
                }
            }
        }
    }

    async fn flush(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                ServerOutput::Transmit(bytes) => self.write(bytes).await,
                ServerOutput::Close { code, reason } => {
                    self.connection
                        .close(VarInt::from_u32(code.code()), reason.as_bytes());
                }
                other => panic!("nothing else is expected here: {other:?}"),
            }
        }
    }

    async fn write(&mut self, bytes: Bytes) {
        self.send.write_all(&bytes).await.expect("writes");
    }
}
