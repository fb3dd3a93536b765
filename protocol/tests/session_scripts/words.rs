//! The language of the session scripts: `verb key=value ...`, and frames separated by `|`.
#![allow(unreachable_pub, reason = "a module of a test is no API")]

use bytes::Bytes;
use quipu_protocol::credentials::Hello;
use quipu_protocol::error::{CloseCode, RejectCode};
use quipu_protocol::event::{DeviceCommand, Event, EventBody, Receipt};
use quipu_protocol::frame::{FrameDecoder, FrameType, RawFrame, StreamKind};
use quipu_protocol::id::{Cursor, MessageId, RequestId};
use quipu_protocol::welcome::Welcome;
use quipu_protocol::wire;

use crate::common::{self, conversation, frame, inbox_seq, message, seq, unhex, user};

/// One command: a verb, and words behind it of which some are `key=value`.
pub struct Words<'a> {
    line: &'a str,
}

impl<'a> Words<'a> {
    pub fn of(line: &'a str) -> Self {
        Self { line: line.trim() }
    }

    pub fn verb(&self) -> &'a str {
        self.line.split(' ').next().unwrap_or_default()
    }

    /// Value of `key`; a value in quotation marks may have spaces.
    pub fn find(&self, key: &str) -> Option<&'a str> {
        let (_, rest) = self.line.split_once(&format!(" {key}="))?;
        match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next(),
            None => rest.split(' ').next(),
        }
    }

    pub fn text(&self, key: &str, default: &'a str) -> &'a str {
        self.find(key).unwrap_or(default)
    }

    pub fn number(&self, key: &str, default: u64) -> u64 {
        self.find(key)
            .map_or(default, |value| value.parse().expect("a number"))
    }

    /// HELLO of `client` and of `recv hello`: `login` unless `cursor` is given.
    pub fn hello(&self) -> Hello {
        match self.find("cursor") {
            None => common::login(),
            Some(_) => common::session(self.number("cursor", 0), self.number("life", 9)),
        }
    }

    pub fn welcome(&self) -> Welcome {
        let mut welcome = common::welcome();
        welcome.resumed = self.text("resumed", "false") == "true";
        welcome.cursor = Cursor(self.number("cursor", 0));
        welcome.life = self.number("life", 9);
        welcome.user = user(self.text("user", "ana"));
        welcome.limits.sends_in_flight = self.number("sends_in_flight", 64) as u32;
        welcome
    }

    /// The bytes of all frames behind the verb.
    pub fn frames(&self) -> Vec<u8> {
        let (_, frames) = self.line.split_once(' ').expect("frames follow the verb");
        frames
            .split(" | ")
            .flat_map(|frame| Words::of(frame).frame())
            .collect()
    }

    /// The bytes of one frame.
    fn frame(&self) -> Bytes {
        match self.verb() {
            "hex" => unhex(self.text("bytes", "")).into(),
            "hello" => frame(FrameType::Hello, &wire::Hello::from(self.hello())),
            "welcome" => frame(FrameType::Welcome, &wire::Welcome::from(self.welcome())),
            "send" => self.send(),
            "open-direct" => {
                let open = wire::OpenDirect {
                    request: self.number("request", 1),
                    peer: self.text("peer", "ben").into(),
                };
                frame(FrameType::OpenDirect, &open)
            }
            "receipt" => {
                let receipt = wire::Receipt {
                    conversation: Bytes::copy_from_slice(conversation().as_bytes()),
                    delivered: self.number("delivered", 0),
                    read: self.number("read", 0),
                };
                frame(FrameType::Receipt, &receipt)
            }
            "refresh" => {
                let refresh = wire::Refresh {
                    request: self.number("request", 1),
                    jwt: self.text("jwt", "newer").into(),
                };
                frame(FrameType::Refresh, &refresh)
            }
            "ack" => {
                let cursor = self.number("cursor", 0);
                frame(FrameType::Ack, &wire::Ack { cursor })
            }
            "accepted" => {
                let reply = wire::Reply {
                    to: Some(wire::reply::To::Send(wire::SendRef {
                        conversation: Bytes::copy_from_slice(conversation().as_bytes()),
                        client_seq: self.number("client_seq", 1),
                    })),
                    outcome: Some(wire::reply::Outcome::Accepted(wire::Accepted {
                        seq: self.number("seq", 1),
                    })),
                };
                frame(FrameType::Reply, &reply)
            }
            "go-away" => {
                let go_away = wire::GoAway {
                    code: CloseCode::Redirect.code(),
                    authority: self.text("authority", "").into(),
                    ..wire::GoAway::default()
                };
                frame(FrameType::GoAway, &go_away)
            }
            "lane" => {
                let lane = wire::Lane {
                    index: 0,
                    lanes: self.number("lanes", 1) as u32,
                };
                frame(FrameType::Lane, &lane)
            }
            "event" => self.event(),
            other => panic!("no frame is called {other}"),
        }
    }

    fn send(&self) -> Bytes {
        let text = match self.number("bytes", 0) {
            0 => self.text("text", "hi").to_owned(),
            bytes => "x".repeat(bytes as usize),
        };
        let id = MessageId([0xab; 16]);
        let send = wire::Send {
            client_seq: self.number("client_seq", 1),
            conversation: Bytes::copy_from_slice(
                &conversation().as_bytes()[..self.number("conversation_bytes", 16) as usize],
            ),
            id: Bytes::copy_from_slice(&id.as_bytes()[..self.number("id_bytes", 16) as usize]),
            content: Some(wire::Content {
                kind: Some(wire::content::Kind::Text(text)),
            }),
        };
        frame(FrameType::Send, &send)
    }

    /// A message of ana's device, or with `from` of somebody else; with `read` a receipt of ben's.
    fn event(&self) -> Bytes {
        let number = self.number("n", 1);
        let body = match self.find("read") {
            Some(_) => EventBody::Receipt(Receipt {
                conversation: conversation(),
                user: user("ben"),
                delivered: Some(seq(self.number("delivered", 1))),
                read: Some(seq(self.number("read", 1))),
            }),
            None => {
                let mut message = message(number, self.number("client_seq", 1), "hi");
                message.from = user(self.text("from", "ana"));
                EventBody::Message(message)
            }
        };
        common::event_frame(&Event {
            inbox_seq: inbox_seq(number),
            body,
        })
    }
}

/// Describes every frame in `bytes`.
pub fn frames(stream: StreamKind, mut bytes: Bytes) -> Vec<String> {
    let mut decoder = FrameDecoder::new(stream);
    let mut described = Vec::new();
    while let Some(raw) = decoder
        .decode(&mut bytes)
        .expect("machines write good frames")
    {
        described.push(describe(&raw));
    }
    assert!(decoder.is_between_frames(), "machines write whole frames");
    described
}

fn describe(raw: &RawFrame) -> String {
    let name = raw.kind.name();
    match raw.kind {
        FrameType::Hello => {
            let hello = raw.message::<wire::Hello>().expect("a good body");
            format!("{name} {:?} resume {:?}", hello.auth, hello.resume)
        }
        FrameType::Welcome => {
            let welcome = raw.message::<wire::Welcome>().expect("a good body");
            format!("{name} {} cursor={}", welcome.user, welcome.cursor)
        }
        FrameType::Send => {
            let send = raw.message::<wire::Send>().expect("a good body");
            let command = DeviceCommand::try_from(send).expect("machines send good messages");
            format!("{name} {command:?}")
        }
        FrameType::OpenDirect => {
            let open = raw.message::<wire::OpenDirect>().expect("a good body");
            format!("{name} {:?} {}", RequestId(open.request), open.peer)
        }
        FrameType::Receipt => {
            let receipt = raw.message::<wire::Receipt>().expect("a good body");
            format!(
                "{name} delivered={} read={}",
                receipt.delivered, receipt.read
            )
        }
        FrameType::Ack => {
            let ack = raw.message::<wire::Ack>().expect("a good body");
            format!("{name} {}", ack.cursor)
        }
        FrameType::Reply => {
            let reply = raw.message::<wire::Reply>().expect("a good body");
            let reply = quipu_protocol::event::Reply::try_from(reply).expect("a good reply");
            format!("{name} {:?} {:?}", reply.to, reply.outcome)
        }
        FrameType::GoAway => {
            let go_away = raw.message::<wire::GoAway>().expect("a good body");
            format!("{name} code={:#x} {}", go_away.code, go_away.authority)
        }
        FrameType::Refresh => {
            let refresh = raw.message::<wire::Refresh>().expect("a good body");
            format!("{name} {}", refresh.request)
        }
        FrameType::Command => {
            let command = raw.message::<wire::Command>().expect("a good body");
            let command = DeviceCommand::try_from(command).expect("machines send good commands");
            format!("{name} {command:?}")
        }
        FrameType::Lane
        | FrameType::Event
        | FrameType::Notice
        | FrameType::History
        | FrameType::HistoryPage
        | FrameType::Query
        | FrameType::Answer
        | FrameType::Failure
        | FrameType::Upload
        | FrameType::UploadState
        | FrameType::Uploaded
        | FrameType::Download
        | FrameType::Typing
        | FrameType::Presence
        | FrameType::Blob => name.to_owned(),
    }
}

/// One event, short.
pub fn event(event: &Event) -> String {
    match &event.body {
        EventBody::Message(message) => format!(
            "{} message seq={} from={} client_seq={}",
            event.inbox_seq, message.seq, message.from, message.client_seq
        ),
        EventBody::Receipt(receipt) => format!(
            "{} receipt user={} delivered={:?} read={:?}",
            event.inbox_seq, receipt.user, receipt.delivered, receipt.read
        ),
        EventBody::Changed(changed) => format!("{} {changed:?}", event.inbox_seq),
        EventBody::Invitation(invitation) => format!("{} {invitation:?}", event.inbox_seq),
    }
}

pub fn close_code(name: &str) -> CloseCode {
    let found = CloseCode::ALL.iter().find(|code| code.name() == name);
    *found.unwrap_or_else(|| panic!("no close code is called {name}"))
}

pub fn reject_code(name: &str) -> RejectCode {
    let found = RejectCode::ALL.iter().find(|code| code.name() == name);
    *found.unwrap_or_else(|| panic!("no reject code is called {name}"))
}
