//! Values that several tests use: two users, their devices, and one of every frame.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file is a crate of its own and uses a part of it"
)]

use bytes::{Bytes, BytesMut};
use quipu_protocol::credentials::{Credentials, Hello, Resume};
use quipu_protocol::datagram::{self, Typing};
use quipu_protocol::error::{CloseCode, RejectCode};
use quipu_protocol::event::{
    Change, Changed, ChangedKind, Content, Event, EventBody, Invitation, Message, NewGroup, Note,
    Notice, Outcome, Receipt, Rejection, Reply, ReplyTo, Rich,
};
use quipu_protocol::frame::{FrameType, StreamKind, encode};
use quipu_protocol::history::{HistoryPage, HistoryRequest};
use quipu_protocol::id::{
    ChangeNumber, ClientSeq, ConversationId, Cursor, DeviceId, InboxSeq, MessageId, RequestId, Seq,
    TimestampMs, UserId,
};
use quipu_protocol::limits::DATAGRAM_BYTES_MAX;
use quipu_protocol::media::{Blob, Download, MediaHash, MediaType, Upload, UploadId};
use quipu_protocol::query::{Answer, ChangedMessage, Changes, PresenceEntry, Query};
use quipu_protocol::welcome::{GoAway, Limits, Welcome};
use quipu_protocol::wire;

pub fn user(name: &str) -> UserId {
    UserId::new(name).expect("tests use good names")
}

pub fn device() -> DeviceId {
    DeviceId::new(0x0102_0304_0506_0708).expect("it is not 0")
}

pub fn seq(value: u64) -> Seq {
    Seq::new(value).expect("tests count from 1")
}

pub fn client_seq(value: u64) -> ClientSeq {
    ClientSeq::new(value).expect("tests count from 1")
}

pub fn inbox_seq(value: u64) -> InboxSeq {
    InboxSeq::new(value).expect("tests count from 1")
}

/// The direct conversation of ana and ben.
pub fn conversation() -> ConversationId {
    ConversationId::direct(&user("ana"), &user("ben"))
}

pub fn hello(credentials: Credentials) -> Hello {
    Hello {
        agent: "quipu/0.1".into(),
        credentials,
        resume: None,
    }
}

pub fn login() -> Hello {
    hello(Credentials::Login {
        name: user("ana"),
        password: "correct horse".into(),
        label: "laptop".into(),
    })
}

pub fn session(cursor: u64, life: u64) -> Hello {
    Hello {
        resume: Some(Resume {
            cursor: Cursor(cursor),
            life,
        }),
        ..hello(Credentials::Session {
            name: user("ana"),
            device: device(),
            token: [0x5a; 32],
        })
    }
}

/// The answer to [`login`].
pub fn welcome() -> Welcome {
    Welcome {
        user: user("ana"),
        device: device(),
        token: Some([0x5a; 32]),
        resumed: false,
        cursor: Cursor::START,
        life: 9,
        server_time: TimestampMs(1_800_000_000_000),
        agent: "quipu-gateway/0.1".into(),
        limits: Limits::default(),
        gateway: String::new(),
        next_gateways: vec!["b.example:4433".into()],
    }
}

/// A message of ana's device to ben.
pub fn message(seq_value: u64, client_seq_value: u64, text: &str) -> Message {
    Message {
        conversation: conversation(),
        seq: seq(seq_value),
        id: MessageId([0xab; 16]),
        from: user("ana"),
        from_device: device(),
        client_seq: client_seq(client_seq_value),
        to: Some(user("ben")),
        sent_at: TimestampMs(1_800_000_000_001),
        content: Content::Text(text.into()),
        state: None,
    }
}

pub fn frame(kind: FrameType, body: &impl prost::Message) -> Bytes {
    let mut out = BytesMut::new();
    encode(kind, body, &mut out);
    out.freeze()
}

pub fn event_frame(event: &Event) -> Bytes {
    frame(FrameType::Event, &wire::Event::from(event))
}

pub fn lane_frame() -> Bytes {
    frame(FrameType::Lane, &wire::Lane { index: 0, lanes: 1 })
}

/// A frame with what it shows and where it travels.
pub struct Example {
    pub title: &'static str,
    pub stream: StreamKind,
    pub bytes: Bytes,
}

fn example(title: &'static str, stream: StreamKind, bytes: Bytes) -> Example {
    Example {
        title,
        stream,
        bytes,
    }
}

/// At least one frame of every type.
pub fn examples() -> Vec<Example> {
    let mut examples = examples_from_client();
    examples.extend(examples_from_gateway());
    examples.extend(blob_examples_from_gateway());
    examples.extend(datagrams());
    examples
}

/// One frame each, without a stream.
fn datagrams() -> Vec<Example> {
    let typing = |on| Typing {
        conversation: conversation(),
        on,
    };
    let entry = |name, here, seen_at| PresenceEntry {
        user: user(name),
        here,
        seen_at,
        order: 7,
    };
    let known = [
        entry("ben", true, None),
        entry("cleo", false, Some(TimestampMs(1_800_000_000_004))),
        entry("dan", false, None),
    ];
    let mut presence = datagram::presence(&known, DATAGRAM_BYTES_MAX);
    vec![
        example(
            "TYPING: the user writes",
            StreamKind::DatagramFromClient,
            datagram::typing(&typing(true), None),
        ),
        example(
            "TYPING: ben does no longer",
            StreamKind::DatagramFromGateway,
            datagram::typing(&typing(false), Some(&user("ben"))),
        ),
        example(
            "PRESENCE: ben is here, cleo was, of dan nothing is told",
            StreamKind::DatagramFromGateway,
            presence.pop().expect("it fits one datagram"),
        ),
    ]
}

fn examples_from_client() -> Vec<Example> {
    let s0 = |title, bytes| example(title, StreamKind::S0FromClient, bytes);
    let hello_frame = |hello: Hello| frame(FrameType::Hello, &wire::Hello::from(hello));
    let register = hello(Credentials::Register {
        name: user("ana"),
        password: "correct horse".into(),
        label: "laptop".into(),
        invitation: "k4".into(),
    });
    let send = wire::Send {
        client_seq: 1,
        conversation: Bytes::copy_from_slice(conversation().as_bytes()),
        id: Bytes::copy_from_slice(&[0xab; 16]),
        content: Some(Content::Text("hi ben".into()).into()),
    };
    let open = wire::OpenDirect {
        request: 1,
        peer: "ben".into(),
    };
    let receipt = wire::Receipt {
        conversation: Bytes::copy_from_slice(conversation().as_bytes()),
        delivered: 12,
        read: 10,
    };
    let history = HistoryRequest {
        conversation: conversation(),
        first: None,
        last: Some(seq(300)),
        limit: 50,
        newest_first: true,
    };
    vec![
        s0("HELLO: register", hello_frame(register)),
        s0("HELLO: login", hello_frame(login())),
        s0(
            "HELLO: session, with cursor 300 of life 9",
            hello_frame(session(300, 9)),
        ),
        s0("SEND", frame(FrameType::Send, &send)),
        s0("OPEN_DIRECT", frame(FrameType::OpenDirect, &open)),
        s0("RECEIPT", frame(FrameType::Receipt, &receipt)),
        s0(
            "COMMAND: make a group and invite ben",
            frame(
                FrameType::Command,
                &wire::Command::numbered(RequestId(2), ClientSeq::new(6).ok(), &create_group()),
            ),
        ),
        s0(
            "COMMAND: edit message 12",
            frame(
                FrameType::Command,
                &wire::Command::numbered(RequestId(3), ClientSeq::new(8).ok(), &edit()),
            ),
        ),
        s0(
            "REFRESH",
            frame(
                FrameType::Refresh,
                &wire::Refresh {
                    request: 4,
                    jwt: "e30.e30.AA".into(),
                },
            ),
        ),
        s0("ACK", frame(FrameType::Ack, &wire::Ack { cursor: 300 })),
        example(
            "HISTORY: the newest 50 up to seq 300",
            StreamKind::RequestFromClient,
            frame(FrameType::History, &wire::HistoryRequest::from(&history)),
        ),
        example(
            "QUERY: the conversation's entry",
            StreamKind::RequestFromClient,
            frame(
                FrameType::Query,
                &wire::Query {
                    kind: Some(wire::query::Kind::Conversation(wire::ConversationRef {
                        conversation: Bytes::copy_from_slice(conversation().as_bytes()),
                    })),
                },
            ),
        ),
        example(
            "UPLOAD: a picture that was in another conversation",
            StreamKind::BlobFromClient,
            frame(FrameType::Upload, &wire::Upload::from(&upload())),
        ),
        example(
            "DOWNLOAD: from byte 65536",
            StreamKind::BlobFromClient,
            frame(FrameType::Download, &wire::Download::from(&download())),
        ),
    ]
}

fn group() -> ConversationId {
    ConversationId([0xc0; 16])
}

fn create_group() -> Change {
    Change::CreateGroup(NewGroup {
        conversation: group(),
        title: "climbing".into(),
        topic: String::new(),
        open: false,
        history_from_start: true,
        invite: vec![user("ben")],
    })
}

fn edit() -> Change {
    Change::Edit {
        conversation: conversation(),
        seq: seq(12),
        content: Content::Rich(Box::new(Rich {
            text: "hi @ben".into(),
            reply_to: Some(seq(11)),
            mentions: vec![user("ben")],
            forwarded: None,
            attachments: Vec::new(),
        })),
    }
}

fn changed() -> Changed {
    Changed {
        conversation: conversation(),
        seq: seq(12),
        version: 2,
        by: Some(user("ben")),
        at: TimestampMs(1_800_000_000_002),
        kind: ChangedKind::Reacted {
            emoji: "👍".into(),
            on: true,
        },
    }
}

/// The upload that the vectors are about.
fn upload() -> Upload {
    Upload {
        upload: UploadId([0xcd; 16]),
        conversation: conversation(),
        hash: MediaHash([0xee; 32]),
        size: 100_000,
        media_type: MediaType::new("image/jpeg").expect("a media type"),
        source: Some(ConversationId([0x80; 16])),
    }
}

fn download() -> Download {
    Download {
        conversation: conversation(),
        hash: MediaHash([0xee; 32]),
        offset: 65_536,
        length: 0,
    }
}

fn blob_examples_from_gateway() -> Vec<Example> {
    let blob = |title, bytes| example(title, StreamKind::BlobFromGateway, bytes);
    vec![
        blob(
            "UPLOAD_STATE: the gateway has the first 65536 bytes",
            frame(
                FrameType::UploadState,
                &wire::UploadState { offset: 65_536 },
            ),
        ),
        blob(
            "UPLOADED",
            frame(
                FrameType::Uploaded,
                &wire::Uploaded {
                    hash: Bytes::copy_from_slice(&[0xee; 32]),
                    size: 100_000,
                },
            ),
        ),
        blob(
            "BLOB: the rest of the picture follows",
            frame(
                FrameType::Blob,
                &wire::Blob::from(&Blob {
                    size: 100_000,
                    media_type: upload().media_type,
                    offset: 65_536,
                    length: 34_464,
                }),
            ),
        ),
    ]
}

fn examples_from_gateway() -> Vec<Example> {
    let mut examples = answers_on_s0();
    examples.extend(on_the_lane());
    examples.extend(answers_to_requests());
    examples
}

fn answers_on_s0() -> Vec<Example> {
    let s0 = |title, bytes| example(title, StreamKind::S0FromGateway, bytes);
    let reply = |to, outcome| frame(FrameType::Reply, &wire::Reply::from(&Reply { to, outcome }));
    let to_send = ReplyTo::Send {
        conversation: conversation(),
        client_seq: client_seq(1),
    };
    let opened = Outcome::Opened {
        conversation: conversation(),
        head: None,
    };
    let stale = Rejection {
        retry_after_ms: 0,
        ..Rejection::new(RejectCode::StaleClientSeq, "")
    };
    let go_away = GoAway {
        code: CloseCode::Redirect,
        reason: "you live elsewhere".into(),
        authority: "b.example:4433".into(),
        deadline_ms: 5_000,
        jitter_ms: 0,
    };
    vec![
        s0(
            "WELCOME",
            frame(FrameType::Welcome, &wire::Welcome::from(welcome())),
        ),
        s0(
            "REPLY: accepted before, as seq 12",
            reply(to_send, Outcome::Accepted(seq(12))),
        ),
        s0("REPLY: rejected", reply(to_send, Outcome::Rejected(stale))),
        s0(
            "REPLY: done",
            reply(ReplyTo::Request(RequestId(3)), Outcome::Done),
        ),
        s0(
            "REPLY: opened, without a message yet",
            reply(ReplyTo::Request(RequestId(1)), opened),
        ),
        s0(
            "GOAWAY: redirect",
            frame(FrameType::GoAway, &wire::GoAway::from(go_away)),
        ),
    ]
}

fn on_the_lane() -> Vec<Example> {
    let lane = |title, bytes| example(title, StreamKind::Lane, bytes);
    let event = |body| {
        event_frame(&Event {
            inbox_seq: inbox_seq(301),
            body,
        })
    };
    let receipt = Receipt {
        conversation: conversation(),
        user: user("ben"),
        delivered: Some(seq(12)),
        read: None,
    };
    vec![
        lane("LANE", lane_frame()),
        lane(
            "EVENT: a message",
            event(EventBody::Message(message(12, 1, "hi ben"))),
        ),
        lane("EVENT: a receipt", event(EventBody::Receipt(receipt))),
        lane(
            "EVENT: a reaction",
            event(EventBody::Changed(Box::new(changed()))),
        ),
        lane(
            "EVENT: an invitation",
            event(EventBody::Invitation(Box::new(Invitation {
                conversation: group(),
                by: user("ana"),
                title: "climbing".into(),
                at: TimestampMs(1_800_000_000_003),
            }))),
        ),
        lane(
            "EVENT: somebody joined the group",
            event(EventBody::Message(Message {
                conversation: group(),
                to: None,
                client_seq: client_seq(u64::MAX),
                content: Content::Note(Box::new(Note::Joined)),
                ..message(2, 1, "")
            })),
        ),
        lane(
            "NOTICE: notices were dropped",
            frame(FrameType::Notice, &wire::Notice::from(&Notice::Check)),
        ),
        lane(
            "NOTICE: the seventh change of the group",
            frame(
                FrameType::Notice,
                &wire::Notice::from(&Notice::Changed(
                    Box::new(Changed {
                        conversation: group(),
                        ..changed()
                    }),
                    ChangeNumber(7),
                )),
            ),
        ),
    ]
}

fn answers_to_requests() -> Vec<Example> {
    let request = |title, bytes| example(title, StreamKind::RequestFromGateway, bytes);
    let page = HistoryPage {
        messages: vec![message(299, 7, "one"), message(300, 8, "two")],
        more: true,
        head: Some(seq(300)),
        changes: ChangeNumber::START,
    };
    let changes = Answer::Changes(Box::new(Changes {
        messages: vec![ChangedMessage {
            message: Message {
                conversation: group(),
                to: None,
                ..message(12, 1, "hi all")
            },
            by: user("ben"),
            at: TimestampMs(1_800_000_000_004),
        }],
        through: ChangeNumber(7),
        more: false,
        too_old: false,
    }));
    let failure = Rejection::new(RejectCode::NotAMember, "not your conversation");
    vec![
        request(
            "HISTORY_PAGE",
            frame(FrameType::HistoryPage, &wire::HistoryPage::from(&page)),
        ),
        request(
            "ANSWER: the conversation's entry",
            frame(
                FrameType::Answer,
                &wire::Answer {
                    kind: Some(wire::answer::Kind::Conversation(wire::ConversationEntry {
                        conversation: Bytes::copy_from_slice(conversation().as_bytes()),
                        peer: "ben".into(),
                        head: 12,
                        first: 1,
                        delivered: 12,
                        read: 10,
                        unread: 2,
                        activity_ms: 1_800_000_000_001,
                        ..Default::default()
                    })),
                },
            ),
        ),
        request(
            "ANSWER: what was changed in a group",
            frame(FrameType::Answer, &wire::Answer::from(changes)),
        ),
        request(
            "FAILURE",
            frame(FrameType::Failure, &wire::Rejected::from(&failure)),
        ),
    ]
}

/// Checks a frame's body as its receiver does and encodes what was understood again.
pub fn recode(raw: &quipu_protocol::frame::RawFrame) -> Result<Bytes, String> {
    fn text(error: impl std::fmt::Display) -> String {
        error.to_string()
    }
    let kind = raw.kind;
    Ok(match kind {
        FrameType::Hello => {
            let hello = Hello::try_from(raw.message::<wire::Hello>().map_err(text)?);
            frame(kind, &wire::Hello::from(hello.map_err(text)?))
        }
        FrameType::Welcome => {
            let welcome = Welcome::try_from(raw.message::<wire::Welcome>().map_err(text)?);
            frame(kind, &wire::Welcome::from(welcome.map_err(text)?))
        }
        FrameType::Send | FrameType::OpenDirect | FrameType::Receipt | FrameType::Command => {
            recode_command(raw)?
        }
        FrameType::Refresh => frame(kind, &raw.message::<wire::Refresh>().map_err(text)?),
        FrameType::Ack => frame(kind, &raw.message::<wire::Ack>().map_err(text)?),
        FrameType::Reply => {
            let reply = Reply::try_from(raw.message::<wire::Reply>().map_err(text)?);
            frame(kind, &wire::Reply::from(&reply.map_err(text)?))
        }
        FrameType::GoAway => {
            let go_away = GoAway::from(raw.message::<wire::GoAway>().map_err(text)?);
            frame(kind, &wire::GoAway::from(go_away))
        }
        FrameType::Lane => frame(kind, &raw.message::<wire::Lane>().map_err(text)?),
        FrameType::Event => {
            let event = Event::try_from(raw.message::<wire::Event>().map_err(text)?);
            frame(kind, &wire::Event::from(&event.map_err(text)?))
        }
        FrameType::Notice => {
            let notice = Notice::try_from(raw.message::<wire::Notice>().map_err(text)?);
            frame(kind, &wire::Notice::from(&notice.map_err(text)?))
        }
        FrameType::Query => {
            let query = Query::try_from(raw.message::<wire::Query>().map_err(text)?);
            frame(
                kind,
                &wire::Query::from(&query.map_err(|error| error.reason)?),
            )
        }
        FrameType::Answer => {
            let answer = Answer::try_from(raw.message::<wire::Answer>().map_err(text)?);
            frame(kind, &wire::Answer::from(answer.map_err(text)?))
        }
        FrameType::History => {
            let request = raw.message::<wire::HistoryRequest>().map_err(text)?;
            let request = HistoryRequest::try_from(request).map_err(|error| error.reason)?;
            frame(kind, &wire::HistoryRequest::from(&request))
        }
        FrameType::HistoryPage => {
            let page = HistoryPage::try_from(raw.message::<wire::HistoryPage>().map_err(text)?);
            frame(kind, &wire::HistoryPage::from(&page.map_err(text)?))
        }
        FrameType::Failure => {
            let rejection = Rejection::from(raw.message::<wire::Rejected>().map_err(text)?);
            frame(kind, &wire::Rejected::from(&rejection))
        }
        FrameType::Upload => {
            let upload = Upload::try_from(raw.message::<wire::Upload>().map_err(text)?);
            let upload = upload.map_err(|error| error.reason)?;
            frame(kind, &wire::Upload::from(&upload))
        }
        FrameType::UploadState => frame(kind, &raw.message::<wire::UploadState>().map_err(text)?),
        FrameType::Uploaded => frame(kind, &raw.message::<wire::Uploaded>().map_err(text)?),
        FrameType::Download => {
            let download = Download::try_from(raw.message::<wire::Download>().map_err(text)?);
            let download = download.map_err(|error| error.reason)?;
            frame(kind, &wire::Download::from(&download))
        }
        FrameType::Typing => frame(kind, &raw.message::<wire::Typing>().map_err(text)?),
        FrameType::Presence => {
            let users = raw.message::<wire::Presences>().map_err(text)?.users;
            let users = users.into_iter().map(PresenceEntry::try_from);
            let users = users.map(|entry| entry.map(wire::PresenceEntry::from));
            let users = users.collect::<Result<_, _>>().map_err(text)?;
            frame(kind, &wire::Presences { users })
        }
        FrameType::Blob => {
            let blob = Blob::try_from(raw.message::<wire::Blob>().map_err(text)?);
            frame(kind, &wire::Blob::from(&blob.map_err(text)?))
        }
    })
}

fn recode_command(raw: &quipu_protocol::frame::RawFrame) -> Result<Bytes, String> {
    use quipu_protocol::event::DeviceCommand;
    fn text(error: impl std::fmt::Debug) -> String {
        format!("{error:?}")
    }
    let command: DeviceCommand = match raw.kind {
        FrameType::Send => {
            let send = raw.message::<wire::Send>().map_err(text)?;
            send.try_into().map_err(text)?
        }
        FrameType::OpenDirect => {
            let open = raw.message::<wire::OpenDirect>().map_err(text)?;
            open.try_into().map_err(text)?
        }
        FrameType::Command => {
            let command = raw.message::<wire::Command>().map_err(text)?;
            command.try_into().map_err(text)?
        }
        _ => {
            let receipt = raw.message::<wire::Receipt>().map_err(text)?;
            receipt.try_into().map_err(text)?
        }
    };
    let mut out = BytesMut::new();
    command.encode(&mut out);
    Ok(out.freeze())
}

/// Two hexadecimal digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Reads what [`hex`] writes, on any number of lines.
pub fn unhex(text: &str) -> Vec<u8> {
    text.split_whitespace()
        .map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal bytes"))
        .collect()
}

/// Short name of a stream's direction, as SPEC.md writes it.
pub fn stream_named(name: &str) -> StreamKind {
    match name {
        "S0FromClient" => StreamKind::S0FromClient,
        "S0FromGateway" => StreamKind::S0FromGateway,
        "Lane" => StreamKind::Lane,
        "RequestFromClient" => StreamKind::RequestFromClient,
        "RequestFromGateway" => StreamKind::RequestFromGateway,
        "BlobFromClient" => StreamKind::BlobFromClient,
        "BlobFromGateway" => StreamKind::BlobFromGateway,
        "DatagramFromClient" => StreamKind::DatagramFromClient,
        "DatagramFromGateway" => StreamKind::DatagramFromGateway,
        other => panic!("{other} is no stream of SPEC.md"),
    }
}

/// Where virtual time starts. Its value never shows: tests speak of the time since.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can be had in no other way"
)]
pub fn start() -> std::time::Instant {
    std::time::Instant::now()
}
