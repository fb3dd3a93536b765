//! The gateway's half of a session: from HELLO to the close, on S0.

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};

use super::outputs::Outputs;
use crate::credentials::{Hello, Jwt};
use crate::error::{CloseCode, RejectCode};
use crate::event::{DeviceCommand, Outcome, Refusal, Rejection, Reply, ReplyTo};
use crate::frame::{FrameDecoder, FrameError, FrameSet, FrameType, RawFrame, StreamKind};
use crate::id::{Cursor, RequestId};
use crate::limits::{AUTH_TIMEOUT_MS, HELLO_TIMEOUT_MS, TEXT_BYTES_MAX};
use crate::violation::Violation;
use crate::welcome::{GoAway, Welcome};
use crate::wire;

/// What the gateway must do for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerOutput {
    /// Write these bytes to S0.
    Transmit(Bytes),
    /// Decide whether to let the device in: [`ServerSession::welcome`], or [`ServerSession::close`] with the code that says
    /// why not. Comes once.
    Authenticate(Hello),
    /// Carry out a command of the device. Only after [`ServerSession::welcome`].
    Command(DeviceCommand),
    /// Judge a newer token of the device's user: [`ServerSession::expire_at`] if it is good, and a
    /// [`reply`](ServerSession::reply) in any case. Only in a session that expires.
    Refresh {
        /// What the reply is to.
        request: RequestId,
        /// The token.
        jwt: Jwt,
    },
    /// The device keeps every event up to here. Grows from one to the next; the shell checks that it was sent.
    Acked(Cursor),
    /// Close the connection. The last output.
    Close {
        /// Why.
        code: CloseCode,
        /// For a person.
        reason: String,
    },
}

/// The gateway's half of a session.
///
/// ```text
///                HELLO                      welcome()
///   AwaitHello ─────────> Authenticating ─────────────> Serving
///       │                       │                          │
///       │ HELLO_TIMEOUT         │ AUTH_TIMEOUT             │ violation, finish of S0,
///       │ any other frame       │ any frame                │ close()
///       │                       │ close()                  │
///       └───────────────────────┴──────────┬───────────────┘
///                                          v
///         go_away() from anywhere ───>  Closed   at the deadline that GOAWAY named; until then a welcomed session
///                                                is served on, and one that is not is no longer listened to
/// ```
///
/// Frames that the client sends before its WELCOME are violations, not early work: a client that waits is simple, and
/// nothing has to be kept for somebody unknown.
#[derive(Debug)]
pub struct ServerSession {
    phase: Phase,
    decoder: FrameDecoder,
    outputs: Outputs<ServerOutput>,
    /// Highest cursor acked on this connection.
    acked: Cursor,
    /// Whether the shell has to be told of `acked`.
    acked_is_news: bool,
    /// Longest text this gateway accepts; as its WELCOME says.
    text_bytes_max: u32,
    /// When the token that the session was entered with is over; `None`: it was entered without one.
    expires_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    AwaitHello {
        until: Instant,
    },
    Authenticating {
        until: Instant,
    },
    Serving,
    /// GOAWAY is said.
    Draining {
        until: Instant,
        code: CloseCode,
        welcomed: bool,
    },
}

const BEFORE_HELLO: FrameSet = FrameSet::of(&[FrameType::Hello]);
const AFTER_WELCOME: FrameSet = FrameSet::of(&[
    FrameType::Send,
    FrameType::OpenDirect,
    FrameType::Receipt,
    FrameType::Ack,
    FrameType::Command,
    FrameType::Refresh,
]);

impl ServerSession {
    /// The session of a connection whose handshake completed at `now`.
    pub fn new(now: Instant) -> Self {
        let mut decoder = FrameDecoder::new(StreamKind::S0FromClient);
        decoder.accept(BEFORE_HELLO);
        Self {
            phase: Phase::AwaitHello {
                until: now + Duration::from_millis(HELLO_TIMEOUT_MS),
            },
            decoder,
            outputs: Outputs::new(),
            acked: Cursor::START,
            acked_is_news: false,
            text_bytes_max: TEXT_BYTES_MAX as u32,
            expires_at: None,
        }
    }

    /// Takes bytes of S0, in any split. Leaves some in `input` when the outputs are full: poll them and call again.
    pub fn handle_bytes(&mut self, now: Instant, input: &mut impl Buf) {
        while self.is_listening() {
            if !self.outputs.has_room() {
                return;
            }
            match self.decoder.decode(input) {
                Ok(Some(frame)) => {
                    if let Err(violation) = self.handle_frame(now, &frame) {
                        self.close(violation.code, &violation.to_string());
                    }
                }
                Ok(None) => return,
                Err(error) => self.refuse_header(error),
            }
        }
        input.advance(input.remaining());
    }

    /// The client finished or reset S0, or asked the gateway to stop sending on it.
    pub fn handle_finish(&mut self) {
        self.close(
            CloseCode::CriticalStreamClosed,
            "QP-STREAM-2: S0 stays open as long as the connection",
        );
    }

    /// The time that [`poll_timeout`](Self::poll_timeout) named has come. Harmless at any other time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            return self.close(
                CloseCode::TokenExpired,
                "QP-TOKEN-3: the issuer's token is over, connect with a newer one",
            );
        }
        match self.phase {
            Phase::AwaitHello { .. } => {
                self.close(
                    CloseCode::HelloTimeout,
                    "QP-HELLO-5: HELLO did not come in time",
                );
            }
            Phase::Authenticating { .. } => self.close(
                CloseCode::Unavailable,
                "the gateway could not answer HELLO in time, try again later",
            ),
            Phase::Serving => {}
            Phase::Draining { code, .. } => {
                self.close(code, "the time that GOAWAY named has come");
            }
        }
    }

    /// Lets the device in. Does nothing when the session is no longer waiting for it (it timed out, or said GOAWAY).
    pub fn welcome(&mut self, welcome: Welcome) {
        if !matches!(self.phase, Phase::Authenticating { .. }) {
            return;
        }
        self.phase = Phase::Serving;
        self.decoder.accept(AFTER_WELCOME);
        self.acked = welcome.cursor;
        self.text_bytes_max = welcome.limits.text_bytes;
        self.outputs
            .frame(FrameType::Welcome, &wire::Welcome::from(welcome));
    }

    /// Ends a welcomed session with TOKEN_EXPIRED at that time. A later call replaces the time.
    pub const fn expire_at(&mut self, at: Instant) {
        if self.is_welcomed() {
            self.expires_at = Some(at);
        }
    }

    /// Answers a command. Does nothing when the device is not welcomed or the session is closed.
    ///
    /// Closes with BUSY when the device does not read its answers
    /// ([`SESSION_TRANSMIT_BYTES_MAX`](crate::limits::SESSION_TRANSMIT_BYTES_MAX)).
    pub fn reply(&mut self, reply: &Reply) {
        if !self.is_welcomed() {
            return;
        }
        self.outputs
            .frame(FrameType::Reply, &wire::Reply::from(reply));
        if self.outputs.is_overfull() {
            self.close(CloseCode::Busy, "QP-REPLY-3: replies are not being read");
        }
    }

    /// Announces the close, which follows by itself when the announced time is over. The first announcement counts.
    pub fn go_away(&mut self, now: Instant, go_away: GoAway) {
        if matches!(self.phase, Phase::Draining { .. }) {
            return;
        }
        self.phase = Phase::Draining {
            until: now + Duration::from_millis(u64::from(go_away.deadline_ms)),
            code: go_away.code,
            welcomed: self.phase == Phase::Serving,
        };
        self.outputs
            .frame(FrameType::GoAway, &wire::GoAway::from(go_away));
    }

    /// Ends the session, for example because HELLO is refused or because the shell found a violation. The first one counts.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        self.outputs.close(code, reason);
        // Nothing is decoded any more: let go of an unfinished body.
        self.decoder = FrameDecoder::new(StreamKind::S0FromClient);
    }

    /// Ends the session at once, because the device has no place here any more: commands that were not passed on are dropped, and
    /// the device asks again wherever it comes back. A [`close`](Self::close) would wait for room for them.
    pub fn end(&mut self, code: CloseCode, reason: &str) {
        self.outputs.end(code, reason);
        self.decoder = FrameDecoder::new(StreamKind::S0FromClient);
    }

    /// The next thing to do; `None`: nothing until something happens.
    pub fn poll_output(&mut self) -> Option<ServerOutput> {
        if let Some(bytes) = self.outputs.take_transmit() {
            return Some(ServerOutput::Transmit(bytes));
        }
        if std::mem::take(&mut self.acked_is_news) {
            return Some(ServerOutput::Acked(self.acked));
        }
        if let Some(output) = self.outputs.take_queued() {
            return Some(output);
        }
        let (code, reason) = self.outputs.take_close()?;
        Some(ServerOutput::Close { code, reason })
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due; `None`: never, as things are.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.outputs.is_closed() {
            return None;
        }
        let phase = match self.phase {
            Phase::AwaitHello { until }
            | Phase::Authenticating { until }
            | Phase::Draining { until, .. } => Some(until),
            Phase::Serving => None,
        };
        phase.into_iter().chain(self.expires_at).min()
    }

    /// Whether the device is let in and the session not closed.
    pub const fn is_welcomed(&self) -> bool {
        matches!(
            self.phase,
            Phase::Serving | Phase::Draining { welcomed: true, .. }
        ) && !self.outputs.is_closed()
    }

    /// Heap memory held for unfinished input and unpolled output, in bytes; 0 while the session is idle.
    pub fn heap_bytes(&self) -> usize {
        self.decoder.buffered_bytes() + self.outputs.heap_bytes()
    }

    /// Whether bytes of the client still matter.
    const fn is_listening(&self) -> bool {
        !self.outputs.is_closed()
            && !matches!(
                self.phase,
                Phase::Draining {
                    welcomed: false,
                    ..
                }
            )
    }

    /// Closes because of a header. What the client was told to wait for makes the better reason.
    fn refuse_header(&mut self, error: FrameError) {
        let before_welcome = match self.phase {
            Phase::AwaitHello { .. } => Some("QP-HELLO-1: the first frame on S0 is HELLO"),
            Phase::Authenticating { .. } => {
                Some("QP-HELLO-4: a client sends nothing between HELLO and WELCOME")
            }
            Phase::Serving | Phase::Draining { .. } => None,
        };
        match (error, before_welcome) {
            (FrameError::Unexpected(_), Some(reason)) => {
                self.close(CloseCode::ProtocolViolation, reason);
            }
            (FrameError::Unexpected(FrameType::Hello), None) => {
                self.close(
                    CloseCode::ProtocolViolation,
                    "QP-HELLO-1: HELLO comes once on a connection",
                );
            }
            (error, _) => self.close(error.close_code(), &error.to_string()),
        }
    }

    /// Takes a frame that the decoder admitted in this phase.
    fn handle_frame(&mut self, now: Instant, frame: &RawFrame) -> Result<(), Violation> {
        match frame.kind {
            FrameType::Hello => {
                let hello = Hello::try_from(frame.message::<wire::Hello>()?)?;
                self.phase = Phase::Authenticating {
                    until: now + Duration::from_millis(AUTH_TIMEOUT_MS),
                };
                self.decoder.accept(FrameSet::NONE);
                self.outputs.push(ServerOutput::Authenticate(hello));
            }
            FrameType::Send => {
                let command = frame.message::<wire::Send>()?.try_into();
                self.take_command(command)?;
            }
            FrameType::OpenDirect => {
                let command = frame.message::<wire::OpenDirect>()?.try_into();
                self.take_command(command)?;
            }
            FrameType::Command => {
                let command = frame.message::<wire::Command>()?.try_into();
                self.take_command(command)?;
            }
            FrameType::Refresh => self.take_refresh(frame.message()?),
            FrameType::Receipt => {
                let receipt = frame.message::<wire::Receipt>()?;
                let says_nothing = receipt.delivered == 0 && receipt.read == 0;
                let command = receipt.try_into()?;
                if !says_nothing {
                    self.take_command(Ok(command))?;
                }
            }
            FrameType::Ack => {
                let cursor = Cursor(frame.message::<wire::Ack>()?.cursor);
                if cursor > self.acked {
                    self.acked = cursor;
                    self.acked_is_news = true;
                }
            }
            FrameType::Welcome
            | FrameType::Reply
            | FrameType::GoAway
            | FrameType::Lane
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
            | FrameType::Blob => return Err(misplaced()),
        }
        Ok(())
    }

    /// Passes a newer token on, or says here that there is nothing to refresh.
    fn take_refresh(&mut self, refresh: wire::Refresh) {
        let request = RequestId(refresh.request);
        let refused = |what| Reply {
            to: ReplyTo::Request(request),
            outcome: Outcome::Rejected(Rejection::new(RejectCode::Invalid, what)),
        };
        if self.expires_at.is_none() {
            return self.reply(&refused("QP-TOKEN-4: this session does not expire"));
        }
        match Jwt::new(refresh.jwt) {
            Some(jwt) => self.outputs.push(ServerOutput::Refresh { request, jwt }),
            None => self.reply(&refused("QP-TOKEN-4: a token has 1 to 4096 bytes")),
        }
    }

    /// Passes a command on, or answers it here when its content is out of range.
    fn take_command(&mut self, command: Result<DeviceCommand, Refusal>) -> Result<(), Violation> {
        match command {
            Ok(DeviceCommand::Send {
                conversation,
                client_seq,
                content,
                ..
            }) if content.text().len() > self.text_bytes_max as usize => self.reply(&Reply {
                to: ReplyTo::Send {
                    conversation,
                    client_seq,
                },
                outcome: Outcome::Rejected(Rejection::new(
                    RejectCode::TextTooLong,
                    "QP-SEND-3: the text is longer than Limits.text_bytes",
                )),
            }),
            Ok(command) => self.outputs.push(ServerOutput::Command(command)),
            Err(Refusal::Rejected(reply)) => self.reply(&reply),
            Err(Refusal::Violation(violation)) => return Err(violation),
        }
        Ok(())
    }
}

/// A frame that the decoder should not have admitted. Kept as a value so that no arm can panic.
pub(super) const fn misplaced() -> Violation {
    Violation::new("QP-FRAME-7", "a frame travels on its stream only")
}
