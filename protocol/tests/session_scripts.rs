//! Runs the scripts under `scripts/session`: commands go into one session machine, what it says is recorded below each.
//!
//! A line that starts with `>` is a command, `#` starts a comment, and the lines between are the recorded output.
//! `BLESS=1 cargo test -p quipu-protocol --test session_scripts` records anew; review the difference like code.

mod common;
#[path = "session_scripts/words.rs"]
mod words;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{client_seq, conversation, seq, user};
use quipu_protocol::error::CloseCode;
use quipu_protocol::event::{Content, Outcome, Rejection, Reply, ReplyTo};
use quipu_protocol::frame::StreamKind;
use quipu_protocol::id::{Cursor, MessageId, RequestId};
use quipu_protocol::session::{ClientOutput, ClientSession, LaneId, ServerOutput, ServerSession};
use quipu_protocol::welcome::GoAway;
use words::{Words, close_code, frames, reject_code};

#[test]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/session");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the scripts are there")
        .map(|entry| entry.expect("the folder can be read").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let script = std::fs::read_to_string(&path).expect("a script is text");
        let ran = run(&script);
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, ran).expect("a script can be written");
        } else {
            assert_eq!(
                ran,
                script,
                "{} says something else; if that is right, run with BLESS=1",
                path.display()
            );
        }
    }
}

/// The script with the output of this run.
fn run(script: &str) -> String {
    let mut machine = Machine::None;
    let start = common::start();
    let mut now = start;
    let mut out = String::new();
    let mut lines = script.lines().peekable();
    while let Some(line) = lines.next() {
        writeln!(out, "{line}").expect("strings take everything");
        let Some(command) = line.strip_prefix("> ") else {
            continue;
        };
        // What was recorded gives way to what is said now.
        while lines
            .next_if(|next| !next.starts_with(['>', '#']) && !next.is_empty())
            .is_some()
        {}
        let before = machine.poll_timeout();
        machine.perform(&Words::of(command), &mut now);
        machine.record(&mut out);
        let after = machine.poll_timeout();
        if after != before {
            let timer = match after {
                Some(due) => format!("at {} ms", due.duration_since(start).as_millis()),
                None => "none".to_owned(),
            };
            writeln!(out, "    timer {timer}").expect("strings take everything");
        }
    }
    out
}

/// The machine under test.
enum Machine {
    None,
    Server(ServerSession),
    Client(ClientSession),
}

impl Machine {
    fn perform(&mut self, words: &Words<'_>, now: &mut Instant) {
        match words.verb() {
            "gateway" => *self = Self::Server(ServerSession::new(*now)),
            "client" => *self = Self::Client(ClientSession::new(*now, words.hello())),
            "wait" => {
                *now += Duration::from_millis(words.number("ms", 0));
                match self {
                    Self::None => panic!("a script starts with `gateway` or `client`"),
                    Self::Server(server) => server.handle_timeout(*now),
                    Self::Client(client) => client.handle_timeout(*now),
                }
            }
            verb => match self {
                Self::None => panic!("a script starts with `gateway` or `client`, not {verb}"),
                Self::Server(server) => perform_server(server, words, *now),
                Self::Client(client) => perform_client(client, words, *now),
            },
        }
    }

    fn record(&mut self, out: &mut String) {
        let mut say = |line: String| writeln!(out, "    {line}").expect("strings take everything");
        match self {
            Self::None => {}
            Self::Server(server) => {
                while let Some(output) = server.poll_output() {
                    describe_server(output, &mut say);
                }
            }
            Self::Client(client) => {
                while let Some(output) = client.poll_output() {
                    describe_client(output, &mut say);
                }
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::None => None,
            Self::Server(server) => server.poll_timeout(),
            Self::Client(client) => client.poll_timeout(),
        }
    }
}

/// What the gateway's shell does.
fn perform_server(server: &mut ServerSession, words: &Words<'_>, now: Instant) {
    match words.verb() {
        // Bytes come from the client.
        "recv" => server.handle_bytes(now, &mut words.frames().as_slice()),
        "recv-split" => {
            for byte in words.frames() {
                server.handle_bytes(now, &mut [byte].as_slice());
            }
        }
        "finish" => server.handle_finish(),
        "welcome" => server.welcome(words.welcome()),
        "expire" => server.expire_at(now + Duration::from_millis(words.number("ms", 0))),
        "done" => server.reply(&Reply {
            to: ReplyTo::Request(RequestId(words.number("request", 1))),
            outcome: Outcome::Done,
        }),
        "accepted" => server.reply(&Reply {
            to: ReplyTo::Send {
                conversation: conversation(),
                client_seq: client_seq(words.number("client_seq", 1)),
            },
            outcome: Outcome::Accepted(seq(words.number("seq", 1))),
        }),
        "rejected" => server.reply(&Reply {
            to: ReplyTo::Request(RequestId(words.number("request", 1))),
            outcome: Outcome::Rejected(Rejection::new(reject_code(words.text("code", "")), "")),
        }),
        "go-away" => server.go_away(
            now,
            GoAway {
                code: close_code(words.text("code", "SHUTDOWN")),
                reason: String::new(),
                authority: words.text("authority", "").into(),
                deadline_ms: words.number("deadline", 1_000) as u32,
                jitter_ms: 0,
            },
        ),
        "close" => server.close(
            close_code(words.text("code", "OK")),
            words.text("reason", ""),
        ),
        verb => panic!("a gateway knows no {verb}"),
    }
}

/// What the client's shell does.
fn perform_client(client: &mut ClientSession, words: &Words<'_>, now: Instant) {
    let result = match words.verb() {
        "s0" => {
            client.handle_s0(now, &mut words.frames().as_slice());
            Ok(())
        }
        "lane" => {
            let lane = LaneId(words.number("stream", 3));
            client.handle_lane(now, lane, &mut words.frames().as_slice());
            Ok(())
        }
        "finish" => {
            client.handle_finish();
            Ok(())
        }
        "send" => client.send(
            conversation(),
            client_seq(words.number("client_seq", 1)),
            MessageId([0xab; 16]),
            Content::Text(words.text("text", "hi").into()),
        ),
        "open-direct" => client.open_direct(
            RequestId(words.number("request", 1)),
            &user(words.text("peer", "ben")),
        ),
        "receipt" => client.receipt(
            conversation(),
            Some(seq(words.number("delivered", 1))),
            None,
        ),
        "kept" => {
            client.kept(now, Cursor(words.number("cursor", 0)));
            Ok(())
        }
        "close" => {
            client.close(CloseCode::Ok, "done");
            Ok(())
        }
        verb => panic!("a client knows no {verb}"),
    };
    assert_eq!(
        result.err().map(|blocked| blocked.to_string()),
        words.find("blocked").map(str::to_owned)
    );
}

fn describe_server(output: ServerOutput, say: &mut impl FnMut(String)) {
    match output {
        ServerOutput::Transmit(bytes) => {
            for frame in frames(StreamKind::S0FromGateway, bytes) {
                say(format!("transmit {frame}"));
            }
        }
        ServerOutput::Authenticate(hello) => {
            say(format!(
                "authenticate {:?} resume {:?}",
                hello.credentials, hello.resume
            ));
        }
        ServerOutput::Command(command) => say(format!("command {command:?}")),
        ServerOutput::Refresh { request, jwt } => say(format!("refresh {request:?} {jwt:?}")),
        ServerOutput::Acked(cursor) => say(format!("acked {cursor}")),
        ServerOutput::Close { code, reason } => say(format!("close {code}: {reason}")),
    }
}

fn describe_client(output: ClientOutput, say: &mut impl FnMut(String)) {
    match output {
        ClientOutput::Transmit(bytes) => {
            for frame in frames(StreamKind::S0FromClient, bytes) {
                say(format!("transmit {frame}"));
            }
        }
        ClientOutput::Welcomed(welcome) => say(format!(
            "welcomed {} resumed={} cursor={}",
            welcome.user, welcome.resumed, welcome.cursor
        )),
        ClientOutput::Event(event) => say(format!("event {}", words::event(&event))),
        ClientOutput::Notice(notice) => say(format!("notice {notice:?}")),
        ClientOutput::Reply(reply) => say(format!("reply {:?} {:?}", reply.to, reply.outcome)),
        ClientOutput::GoAway(go_away) => {
            say(format!("go-away {} {}", go_away.code, go_away.authority));
        }
        ClientOutput::Close { code, reason } => say(format!("close {code}: {reason}")),
    }
}
