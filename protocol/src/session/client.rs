//! The client's half of a session: from HELLO to the close, on S0 and on the lane.

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};

use super::in_flight::{Full, InFlight};
use super::inbox::{Arrival, Inbox, check_window};
use super::outputs::Outputs;
use super::server::misplaced;
use crate::credentials::{Credentials, Hello, Jwt, Resume};
use crate::error::CloseCode;
use crate::event::{Change, Content, DeviceCommand, Event, EventBody, Notice, Reply, ReplyTo};
use crate::frame::{FrameDecoder, FrameSet, FrameType, RawFrame, StreamKind};
use crate::id::{ClientSeq, ConversationId, Cursor, DeviceId, MessageId, RequestId, Seq, UserId};
use crate::limits::{TEXT_BYTES_MAX, WELCOME_TIMEOUT_MS};
use crate::violation::Violation;
use crate::welcome::{GoAway, Limits, Welcome};
use crate::wire;

/// One of the gateway's lanes: the index of its QUIC stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u64);

/// What the client must do for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientOutput {
    /// Write these bytes to S0.
    Transmit(Bytes),
    /// The device is let in. Comes once, before every `Event` and `Reply`.
    Welcomed(Welcome),
    /// The next event of the inbox: each inbox seq once, without gaps, from `Welcome.cursor` on.
    Event(Event),
    /// News of a large group; not numbered, and it may be missing.
    Notice(Notice),
    /// The answer to a command that has no event.
    Reply(Reply),
    /// The gateway will close the connection.
    GoAway(GoAway),
    /// Close the connection. The last output.
    Close {
        /// Why.
        code: CloseCode,
        /// For a person.
        reason: String,
    },
}

/// Why a command is not sent. Nothing has changed; the caller keeps it and tries again when the reason is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendBlocked {
    /// WELCOME has not come yet.
    #[error("the gateway has not let this device in yet")]
    NotWelcomed,
    /// The session is over.
    #[error("the session is closed")]
    Closed,
    /// The conversation has as many unanswered SENDs as it may; an answer makes room.
    #[error("too many unanswered messages in this conversation")]
    ConversationFull,
    /// The connection has as many unanswered SENDs as it may; an answer makes room.
    #[error("too many unanswered messages on this connection")]
    ConnectionFull,
    /// This very SEND waits for its answer already.
    #[error("this message waits for its answer already")]
    InFlight,
    /// Bytes wait for S0; polling the outputs makes room.
    #[error("the connection does not take more at the moment")]
    OutputFull,
    /// The gateway would refuse the text; only another text helps.
    #[error("the text is longer than the {0} bytes that the gateway accepts")]
    TextTooLong(u32),
}

/// The client's half of a session.
///
/// ```text
///              WELCOME                               GOAWAY
///   AwaitWelcome ───────────────────────> Open ─────────────────> Open (commands are still taken until the close)
///        │  events are held, bounded        │
///        │ WELCOME_TIMEOUT                  │ violation, finish of a stream, close()
///        └──────────────────┬───────────────┘
///                           v
///                        Closed
/// ```
///
/// The lane's bytes can overtake S0 on the way. Events that come before WELCOME are held, up to the delivery window, and
/// handed out after it.
#[derive(Debug)]
pub struct ClientSession {
    phase: Phase,
    s0: FrameDecoder,
    lane: Option<Lane>,
    outputs: Outputs<ClientOutput>,
}

#[derive(Debug)]
enum Phase {
    AwaitWelcome(Box<AwaitWelcome>),
    Open(Box<Open>),
    Closed,
}

/// What HELLO said, to hold WELCOME against, and what came too early.
#[derive(Debug)]
struct AwaitWelcome {
    until: Instant,
    /// `None`: the issuer's token says it.
    name: Option<UserId>,
    /// `None`: the gateway makes a new device and gives it a token.
    device: Option<DeviceId>,
    resume: Option<Resume>,
    held: Vec<(Event, usize)>,
    held_bytes: usize,
    /// Whether a notice came, which is not held.
    noticed: bool,
}

#[derive(Debug)]
struct Open {
    user: UserId,
    device: DeviceId,
    limits: Limits,
    inbox: Inbox,
    in_flight: InFlight,
}

#[derive(Debug)]
struct Lane {
    id: LaneId,
    decoder: FrameDecoder,
}

const BEFORE_WELCOME: FrameSet = FrameSet::of(&[FrameType::Welcome, FrameType::GoAway]);
const AFTER_WELCOME: FrameSet = FrameSet::of(&[FrameType::Reply, FrameType::GoAway]);
const LANE_START: FrameSet = FrameSet::of(&[FrameType::Lane]);
const LANE_EVENTS: FrameSet = FrameSet::of(&[FrameType::Event, FrameType::Notice]);

impl ClientSession {
    /// Starts a session: HELLO is the first thing to transmit.
    pub fn new(now: Instant, hello: Hello) -> Self {
        let mut s0 = FrameDecoder::new(StreamKind::S0FromGateway);
        s0.accept(BEFORE_WELCOME);
        let device = match &hello.credentials {
            Credentials::Register { .. } | Credentials::Login { .. } => None,
            Credentials::External { device, .. } => device.map(|(device, _)| device),
            Credentials::Session { device, .. } => Some(*device),
        };
        let phase = Phase::AwaitWelcome(Box::new(AwaitWelcome {
            until: now + Duration::from_millis(WELCOME_TIMEOUT_MS),
            name: hello.credentials.name().copied(),
            device,
            resume: hello.resume,
            held: Vec::new(),
            held_bytes: 0,
            noticed: false,
        }));
        let mut outputs = Outputs::new();
        outputs.frame(FrameType::Hello, &wire::Hello::from(hello));
        Self {
            phase,
            s0,
            lane: None,
            outputs,
        }
    }

    /// Takes bytes of S0, in any split. Leaves some in `input` when the outputs are full: poll them and call again.
    pub fn handle_s0(&mut self, _now: Instant, input: &mut impl Buf) {
        while !self.is_closed() {
            if !self.outputs.has_room() {
                return;
            }
            match self.s0.decode(input) {
                Ok(Some(frame)) => {
                    if let Err(violation) = self.handle_s0_frame(&frame) {
                        self.close(violation.code, &violation.to_string());
                    }
                }
                Ok(None) => return,
                Err(error) => self.close(error.close_code(), &error.to_string()),
            }
        }
        input.advance(input.remaining());
    }

    /// Takes bytes of a lane, in any split. Leaves some in `input` when the outputs are full: poll them and call again.
    pub fn handle_lane(&mut self, _now: Instant, lane: LaneId, input: &mut impl Buf) {
        if self.is_closed() {
            input.advance(input.remaining());
            return;
        }
        let known = self.lane.get_or_insert_with(|| {
            let mut decoder = FrameDecoder::new(StreamKind::Lane);
            decoder.accept(LANE_START);
            Lane { id: lane, decoder }
        });
        if known.id != lane {
            self.close(
                CloseCode::ProtocolViolation,
                "QP-STREAM-3: there is one lane in this version",
            );
        }
        while let Some(lane) = self.lane.as_mut() {
            if !self.outputs.has_room() {
                return;
            }
            match lane.decoder.decode(input) {
                Ok(Some(frame)) => {
                    if let Err(violation) = self.handle_lane_frame(&frame) {
                        self.close(violation.code, &violation.to_string());
                    }
                }
                Ok(None) => return,
                Err(error) => self.close(error.close_code(), &error.to_string()),
            }
        }
        input.advance(input.remaining());
    }

    /// The gateway finished or reset S0 or the lane, or asked the client to stop sending on S0.
    pub fn handle_finish(&mut self) {
        self.close(
            CloseCode::CriticalStreamClosed,
            "QP-STREAM-2: S0 and the lane stay open as long as the connection",
        );
    }

    /// The time that [`poll_timeout`](Self::poll_timeout) named has come. Harmless at any other time.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::AwaitWelcome(waiting) if waiting.until <= now => self.close(
                CloseCode::Unavailable,
                "the gateway did not answer HELLO in time",
            ),
            Phase::Open(open) => open.inbox.handle_timeout(now),
            Phase::AwaitWelcome(_) | Phase::Closed => {}
        }
    }

    /// Sends a message. It waits for its answer from now on: its own event, or a reply.
    pub fn send(
        &mut self,
        conversation: ConversationId,
        client_seq: ClientSeq,
        id: MessageId,
        content: Content,
    ) -> Result<(), SendBlocked> {
        let (open, outputs) = self.ready()?;
        let text_bytes_max = open.limits.text_bytes.min(TEXT_BYTES_MAX as u32);
        if content.text().len() > text_bytes_max as usize {
            return Err(SendBlocked::TextTooLong(text_bytes_max));
        }
        let limit = open.limits.sends_in_flight as usize;
        open.in_flight
            .add(conversation, client_seq, limit)
            .map_err(|full| match full {
                Full::Conversation => SendBlocked::ConversationFull,
                Full::Connection => SendBlocked::ConnectionFull,
                Full::Repeated => SendBlocked::InFlight,
            })?;
        outputs.command(DeviceCommand::Send {
            client_seq,
            conversation,
            id,
            content,
        });
        Ok(())
    }

    /// Makes sure that the direct conversation with `peer` exists. The reply carries `request`.
    pub fn open_direct(&mut self, request: RequestId, peer: &UserId) -> Result<(), SendBlocked> {
        let (_, outputs) = self.ready()?;
        outputs.command(DeviceCommand::OpenDirect {
            request,
            peer: *peer,
        });
        Ok(())
    }

    /// Asks for a change. The reply carries `request`; asking again under its client seq after a reconnect is harmless.
    pub fn change(
        &mut self,
        request: RequestId,
        client_seq: ClientSeq,
        change: Change,
    ) -> Result<(), SendBlocked> {
        let (_, outputs) = self.ready()?;
        let change = Box::new(change);
        outputs.command(DeviceCommand::Change {
            request,
            client_seq,
            change,
        });
        Ok(())
    }

    /// Shows a newer token of the issuer, before the one that the session was entered with is over. The reply carries
    /// `request`.
    pub fn refresh(&mut self, request: RequestId, jwt: &Jwt) -> Result<(), SendBlocked> {
        let (_, outputs) = self.ready()?;
        let refresh = wire::Refresh {
            request: request.0,
            jwt: jwt.expose().to_owned(),
        };
        outputs.frame(FrameType::Refresh, &refresh);
        Ok(())
    }

    /// Says what this user's devices have received and what the user has read. The caller coalesces: at most about one a
    /// second for a conversation (QP-RECEIPT-3).
    pub fn receipt(
        &mut self,
        conversation: ConversationId,
        delivered: Option<Seq>,
        read: Option<Seq>,
    ) -> Result<(), SendBlocked> {
        let (_, outputs) = self.ready()?;
        outputs.command(DeviceCommand::Receipt {
            conversation,
            delivered,
            read,
        });
        Ok(())
    }

    /// The application has stored every event up to `cursor`; the machine decides when to ack. Before WELCOME, and above
    /// what has come, it says nothing.
    pub fn kept(&mut self, now: Instant, cursor: Cursor) {
        match &mut self.phase {
            Phase::Open(open) => open.inbox.keep(now, cursor),
            Phase::AwaitWelcome(_) | Phase::Closed => {}
        }
    }

    /// Ends the session. The first close counts.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        self.outputs.close(code, reason);
        self.phase = Phase::Closed;
        self.lane = None;
        // Nothing is decoded any more: let go of an unfinished body.
        self.s0 = FrameDecoder::new(StreamKind::S0FromGateway);
    }

    /// The next thing to do; `None`: nothing until something happens.
    pub fn poll_output(&mut self) -> Option<ClientOutput> {
        if let Phase::Open(open) = &mut self.phase
            && let Some(cursor) = open.inbox.take_ack()
        {
            let ack = wire::Ack { cursor: cursor.0 };
            self.outputs.frame(FrameType::Ack, &ack);
        }
        if let Some(bytes) = self.outputs.take_transmit() {
            return Some(ClientOutput::Transmit(bytes));
        }
        if let Some(output) = self.outputs.take_queued() {
            return Some(output);
        }
        let (code, reason) = self.outputs.take_close()?;
        Some(ClientOutput::Close { code, reason })
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due; `None`: never, as things are.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.phase {
            Phase::AwaitWelcome(waiting) => Some(waiting.until),
            Phase::Open(open) => open.inbox.poll_timeout(),
            Phase::Closed => None,
        }
    }

    /// The last event handed out or queued; `None` before WELCOME and after the close.
    pub fn received(&self) -> Option<Cursor> {
        match &self.phase {
            Phase::Open(open) => Some(open.inbox.received()),
            Phase::AwaitWelcome(_) | Phase::Closed => None,
        }
    }

    /// Unanswered SENDs of this connection, over all conversations.
    pub fn in_flight(&self) -> usize {
        match &self.phase {
            Phase::Open(open) => open.in_flight.total(),
            Phase::AwaitWelcome(_) | Phase::Closed => 0,
        }
    }

    /// Heap memory held, in bytes: the state of the phase, unfinished input, unpolled output, and what waits for an answer
    /// or an ack. An idle session holds the first alone.
    pub fn heap_bytes(&self) -> usize {
        let phase = match &self.phase {
            Phase::AwaitWelcome(waiting) => size_of::<AwaitWelcome>() + waiting.held_bytes,
            Phase::Open(open) => {
                size_of::<Open>() + open.inbox.heap_bytes() + open.in_flight.heap_bytes()
            }
            Phase::Closed => 0,
        };
        let lane = self
            .lane
            .as_ref()
            .map_or(0, |lane| lane.decoder.buffered_bytes());
        phase + lane + self.s0.buffered_bytes() + self.outputs.heap_bytes()
    }

    /// Whether the session is over.
    pub const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// What a command needs: an open session and room for its bytes. An ACK that waits goes with it.
    fn ready(&mut self) -> Result<(&mut Open, &mut Outputs<ClientOutput>), SendBlocked> {
        match &mut self.phase {
            Phase::AwaitWelcome(_) => Err(SendBlocked::NotWelcomed),
            Phase::Closed => Err(SendBlocked::Closed),
            Phase::Open(_) if !self.outputs.has_transmit_room() => Err(SendBlocked::OutputFull),
            Phase::Open(open) => {
                open.inbox.ride();
                Ok((open, &mut self.outputs))
            }
        }
    }

    fn handle_s0_frame(&mut self, frame: &RawFrame) -> Result<(), Violation> {
        match frame.kind {
            FrameType::Welcome => {
                let welcome = frame.message::<wire::Welcome>()?.try_into()?;
                self.handle_welcome(welcome)
            }
            FrameType::Reply => {
                let reply = Reply::try_from(frame.message::<wire::Reply>()?)?;
                if let (
                    Phase::Open(open),
                    ReplyTo::Send {
                        conversation,
                        client_seq,
                    },
                ) = (&mut self.phase, &reply.to)
                {
                    open.in_flight.answered(conversation, *client_seq);
                }
                self.outputs.push(ClientOutput::Reply(reply));
                Ok(())
            }
            FrameType::GoAway => {
                let go_away = frame.message::<wire::GoAway>()?.into();
                self.outputs.push(ClientOutput::GoAway(go_away));
                Ok(())
            }
            FrameType::Hello
            | FrameType::Send
            | FrameType::OpenDirect
            | FrameType::Receipt
            | FrameType::Ack
            | FrameType::Command
            | FrameType::Refresh
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
            | FrameType::Blob => Err(misplaced()),
        }
    }

    /// Opens the session and hands out what came before WELCOME.
    fn handle_welcome(&mut self, welcome: Welcome) -> Result<(), Violation> {
        let Phase::AwaitWelcome(waiting) = &mut self.phase else {
            return Err(misplaced());
        };
        waiting.check(&welcome)?;
        let held = std::mem::take(&mut waiting.held);
        let noticed = waiting.noticed;
        self.phase = Phase::Open(Box::new(Open {
            user: welcome.user,
            device: welcome.device,
            limits: welcome.limits,
            inbox: Inbox::new(welcome.cursor),
            in_flight: InFlight::default(),
        }));
        self.s0.accept(AFTER_WELCOME);
        self.outputs.push(ClientOutput::Welcomed(welcome));
        for (event, bytes) in held {
            self.handle_event(event, bytes)?;
        }
        if noticed {
            self.outputs.push(ClientOutput::Notice(Notice::Check));
        }
        Ok(())
    }

    fn handle_lane_frame(&mut self, frame: &RawFrame) -> Result<(), Violation> {
        match frame.kind {
            FrameType::Lane => {
                let wire::Lane { index, lanes } = frame.message()?;
                if (index, lanes) != (0, 1) {
                    return Err(Violation::new(
                        "QP-STREAM-3",
                        "there is one lane in this version",
                    ));
                }
                if let Some(lane) = &mut self.lane {
                    lane.decoder.accept(LANE_EVENTS);
                }
                Ok(())
            }
            FrameType::Notice => {
                let notice = frame.message::<wire::Notice>()?.try_into()?;
                self.handle_notice(notice);
                Ok(())
            }
            FrameType::Event => {
                let event = frame.message::<wire::Event>()?.try_into()?;
                self.handle_event(event, frame.body.len())
            }
            FrameType::Hello
            | FrameType::Welcome
            | FrameType::Send
            | FrameType::OpenDirect
            | FrameType::Receipt
            | FrameType::Ack
            | FrameType::Reply
            | FrameType::GoAway
            | FrameType::Command
            | FrameType::Refresh
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
            | FrameType::Blob => Err(misplaced()),
        }
    }

    /// Passes a notice on. One that overtakes WELCOME is not kept, but that there was one is: the application has to look.
    fn handle_notice(&mut self, notice: Notice) {
        match &mut self.phase {
            Phase::AwaitWelcome(waiting) => waiting.noticed = true,
            Phase::Open(_) => self.outputs.push(ClientOutput::Notice(notice)),
            Phase::Closed => {}
        }
    }

    fn handle_event(&mut self, event: Event, bytes: usize) -> Result<(), Violation> {
        match &mut self.phase {
            Phase::AwaitWelcome(waiting) => return waiting.hold(event, bytes),
            Phase::Open(open) => {
                if open.inbox.receive(event.inbox_seq, bytes)? == Arrival::Repeat {
                    return Ok(());
                }
                open.take_answer(&event.body);
            }
            Phase::Closed => return Ok(()),
        }
        self.outputs.push(ClientOutput::Event(event));
        Ok(())
    }
}

impl AwaitWelcome {
    /// Keeps an event that overtook WELCOME.
    fn hold(&mut self, event: Event, bytes: usize) -> Result<(), Violation> {
        self.held_bytes += bytes;
        check_window(self.held.len() + 1, self.held_bytes)?;
        self.held.push((event, bytes));
        Ok(())
    }

    /// Whether WELCOME answers this HELLO.
    fn check(&self, welcome: &Welcome) -> Result<(), Violation> {
        if self.name.is_some_and(|name| name != welcome.user)
            || self.device.is_some_and(|device| device != welcome.device)
        {
            return Err(Violation::new(
                "QP-WELCOME-5",
                "WELCOME is for the user and the device that said HELLO",
            ));
        }
        if self.device.is_none() && welcome.token.is_none() {
            return Err(Violation::new(
                "QP-WELCOME-3",
                "a new device is given a token",
            ));
        }
        let stopped = self.resume.map_or(Cursor::START, |resume| resume.cursor);
        let lives = self.resume.is_none_or(|resume| resume.life == welcome.life);
        if welcome.resumed && !(lives && welcome.cursor == stopped) {
            return Err(Violation::new(
                "QP-RESUME-2",
                "RESUMED goes on after the cursor and in the life that HELLO named",
            ));
        }
        Ok(())
    }
}

impl Open {
    /// A message of this device is the answer to its SEND.
    fn take_answer(&mut self, body: &EventBody) {
        match body {
            EventBody::Message(message)
                if message.from == self.user && message.from_device == self.device =>
            {
                self.in_flight
                    .answered(&message.conversation, message.client_seq);
            }
            EventBody::Message(_)
            | EventBody::Receipt(_)
            | EventBody::Changed(_)
            | EventBody::Invitation(_) => {}
        }
    }
}
