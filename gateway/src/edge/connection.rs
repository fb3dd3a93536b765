//! One task per connection: pumps a `ServerSession` between quinn streams, the router and the registry.
//!
//! Reads never wait for writes: what a slow peer does not take stays in [`Outgoing`], within the session's and the delivery
//! window's bounds, while S0 is served on. Everything that may take long (checking credentials, waiting for room in the
//! router, reading the store) is a boxed future that is gone when done, so that an idle connection is small.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use quinn::{Connection, ReadError, RecvStream, SendStream, VarInt, WriteError};
use quipu_core::delivery::{DeliveryWindow, Offer, Want};
use quipu_core::record::{Command, CommandKind, Fact};
use quipu_protocol::credentials::{Hello, Jwt};
use quipu_protocol::error::{CloseCode, RejectCode, StreamCode};
use quipu_protocol::event::{
    Change, DeviceCommand, Notice, Outcome, Privacy, Rejection, Reply, ReplyTo,
};
use quipu_protocol::frame::{self, FrameType};
use quipu_protocol::id::{ConversationId, Cursor, DeviceId, RequestId, UserId};
use quipu_protocol::limits::{
    BLOB_STREAMS_MAX, FRAME_BYTES_MAX, REASON_BYTES_MAX, SESSION_TRANSMIT_BYTES_MAX,
};
use quipu_protocol::retry_after;
use quipu_protocol::session::{ServerOutput, ServerSession};
use quipu_protocol::wire;
use tokio::sync::Semaphore;
use tokio::time::Sleep;

use super::admission::Unwelcomed;
use super::attendance::Attendance;
use super::lane::Outgoing;
use super::throttle::{Held, Throttle};
use super::{Shared, attachments, request};
use crate::accounts::{Admitted, Refusal, now_ms};
use crate::queries::{Checked, InboxPage, QueryError};
use crate::registry::{Attached, Mailbox, MailboxItem, Taken, notice_frame};
use crate::router::{NoRoom, Submission, Unavailable};

/// Bytes of S0 read at once.
const READ_BYTES_MAX: usize = 16 * 1024;
/// Answers waiting for the peer's credit above which no more of its commands are read.
const S0_WAITING_BYTES_MAX: usize = FRAME_BYTES_MAX;
/// First wait before an inbox page that ended at a missing history row is read again; doubles with each try.
const GAP_WAIT_MIN: Duration = Duration::from_millis(2);
/// Longest such wait.
const GAP_WAIT_MAX: Duration = Duration::from_millis(500);
/// Tries without progress after which the session is closed with UNAVAILABLE: about half a minute.
const GAP_TRIES_MAX: u32 = 64;

/// Bytes that wait on a lane above which notices are dropped. They have no window: nobody acks them.
const LANE_NOTICES_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;

// S0 is closed with BUSY only after its peer was given the chance to read.
const _: () = assert!(S0_WAITING_BYTES_MAX < SESSION_TRANSMIT_BYTES_MAX);

const TOO_MANY_COMMANDS: &str = "QP-RATE-3: this user gives too many commands";

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a session waits for besides its streams.
enum Work {
    /// HELLO was judged.
    Admitted(Box<Result<Admitted, Refusal>>),
    /// A command is queued, or was answered without the log.
    Submitted(Result<Option<Box<Reply>>, Refused>),
    /// What the user hides is known now, and this command waited for it.
    Privacy(Result<Privacy, QueryError>, Box<CommandKind>),
}

/// Why a command could not be carried to the log.
struct Refused;

impl From<Unavailable> for Refused {
    fn from(_: Unavailable) -> Self {
        Self
    }
}

impl From<QueryError> for Refused {
    fn from(_: QueryError) -> Self {
        Self
    }
}

/// What a turn of the loop begins with.
enum Happened {
    Received(Bytes),
    S0Ended,
    Written,
    LaneOpened(SendStream),
    LaneStopped,
    Mail,
    Due,
    Done(Work),
    Page(Result<InboxPage, QueryError>),
    Request(SendStream, RecvStream),
    StrayStream(RecvStream),
    Datagram,
    Lost,
}

/// Serves a connection until it is closed. The peer's first bidirectional stream is S0. `unwelcomed` is given back when its
/// device is let in.
pub(super) async fn serve(shared: Arc<Shared>, connection: Connection, unwelcomed: Unwelcomed) {
    let session = ServerSession::new(Instant::now());
    let deadline = session.poll_timeout().unwrap_or_else(Instant::now);
    let s0 = tokio::time::timeout_at(deadline.into(), connection.accept_bi()).await;
    match s0 {
        Ok(Ok((send, receive))) => {
            let mut driver = Driver::new(shared, connection, session, (send, receive), unwelcomed);
            driver.run().await;
            // Boxed, so that a connection is no larger while it lives.
            Box::pin(driver.leave()).await;
        }
        Ok(Err(_lost)) => {}
        Err(_late) => close(
            &connection,
            CloseCode::HelloTimeout,
            "QP-HELLO-5: HELLO did not come in time",
        ),
    }
}

/// Closes a connection with a reason, cut to its limit.
pub(super) fn close(connection: &Connection, code: CloseCode, reason: &str) {
    let end = reason.floor_char_boundary(REASON_BYTES_MAX);
    connection.close(VarInt::from_u32(code.code()), &reason.as_bytes()[..end]);
}

/// The loop has ended; the connection is closed.
struct Ended;

struct Driver {
    shared: Arc<Shared>,
    connection: Connection,
    session: ServerSession,
    s0_send: SendStream,
    s0_receive: RecvStream,
    s0: Outgoing,
    /// Received and not yet taken by the session, which takes no more while a command waits for the router.
    input: Bytes,
    lane_send: Option<SendStream>,
    lane: Outgoing,
    mailbox: Arc<Mailbox>,
    /// Until WELCOME.
    unwelcomed: Option<Unwelcomed>,
    /// Present from WELCOME on.
    member: Option<Member>,
    /// HELLO being judged, or a command on its way; one at a time, which keeps the commands' order.
    work: Option<Boxed<Work>>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What a session has once its device is let in.
struct Member {
    user: UserId,
    device: DeviceId,
    window: DeliveryWindow,
    attendance: Attendance,
    reading: Option<Boxed<Result<InboxPage, QueryError>>>,
    /// Tries in a row that found the next event's history row missing.
    gap_tries: u32,
    /// When the inbox is read again after such a try.
    retry_at: Option<Instant>,
    throttle: Throttle,
    /// Blob streams that the connection may open still; made with the first stream beside S0.
    blobs: Option<Arc<Semaphore>>,
    /// What others may not learn of the user; `None`: not asked for yet.
    privacy: Option<Privacy>,
    /// Notices were dropped, and the client has not been told.
    check_due: bool,
    _attached: Attached,
    _counted: Counted,
}

/// Counts a session while it lives.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.with.metrics.sessions.inc();
        Self(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.with.metrics.sessions.dec();
    }
}

impl Driver {
    fn new(
        shared: Arc<Shared>,
        connection: Connection,
        session: ServerSession,
        (s0_send, s0_receive): (SendStream, RecvStream),
        unwelcomed: Unwelcomed,
    ) -> Self {
        Self {
            shared,
            connection,
            session,
            s0_send,
            s0_receive,
            s0: Outgoing::default(),
            input: Bytes::new(),
            lane_send: None,
            lane: Outgoing::default(),
            mailbox: Mailbox::new(),
            unwelcomed: Some(unwelcomed),
            member: None,
            work: None,
            timer: None,
        }
    }

    async fn run(&mut self) {
        while let Ok(()) = self.settle() {
            let happened = self.happen().await;
            if self.handle(happened).is_err() {
                return;
            }
        }
    }

    /// Tells the log that the session is over, and up to where its device has come.
    async fn leave(mut self) {
        // From here on nothing is pushed to it, so that the log may say so.
        if let Some(Member {
            user,
            window,
            attendance,
            ..
        }) = self.member.take()
        {
            let fact = attendance.detached(window.acked());
            // Without a router the gateway is stopping, and its next life finds out.
            let _ = carry(&self.shared, Submission::Fact(user, fact)).await;
        }
    }

    /// Waits for the next thing. What has been waiting longest for us comes first: finished work, then what lets the peer
    /// go on, then new input.
    async fn happen(&mut self) -> Happened {
        let takes_input = self.input.is_empty() && self.s0.len() < S0_WAITING_BYTES_MAX;
        let opens_lane = self.member.is_some() && self.lane_send.is_none();
        let reading = self
            .member
            .as_mut()
            .and_then(|member| member.reading.as_mut());
        tokio::select! {
            biased;
            work = poll_or_wait(self.work.as_mut()) => {
                self.work = None;
                Happened::Done(work)
            }
            written = self.s0.write_some(&mut self.s0_send), if !self.s0.is_empty() => match written {
                Ok(()) => Happened::Written,
                Err(WriteError::ConnectionLost(_)) => Happened::Lost,
                Err(_) => Happened::S0Ended,
            },
            written = write_lane(&mut self.lane, self.lane_send.as_mut()), if !self.lane.is_empty() => match written {
                Ok(()) => Happened::Written,
                Err(WriteError::ConnectionLost(_)) => Happened::Lost,
                Err(_) => Happened::LaneStopped,
            },
            () = self.mailbox.ready() => Happened::Mail,
            chunk = self.s0_receive.read_chunk(READ_BYTES_MAX, true), if takes_input => match chunk {
                Ok(Some(chunk)) => Happened::Received(chunk.bytes),
                Err(ReadError::ConnectionLost(_)) => Happened::Lost,
                Ok(None) | Err(_) => Happened::S0Ended,
            },
            page = poll_or_wait(reading) => Happened::Page(page),
            () = poll_or_wait(self.timer.as_mut()) => Happened::Due,
            opened = self.connection.open_uni(), if opens_lane => {
                opened.map_or(Happened::Lost, Happened::LaneOpened)
            }
            stream = self.connection.accept_bi() => {
                stream.map_or(Happened::Lost, |(send, receive)| Happened::Request(send, receive))
            }
            stream = self.connection.accept_uni() => stream.map_or(Happened::Lost, Happened::StrayStream),
            datagram = self.connection.read_datagram() => datagram.map_or(Happened::Lost, |_| Happened::Datagram),
        }
    }

    fn handle(&mut self, happened: Happened) -> Result<(), Ended> {
        match happened {
            Happened::Received(bytes) => self.input = bytes,
            Happened::S0Ended => self.session.handle_finish(),
            Happened::Written => {}
            Happened::LaneOpened(stream) => self.lane_send = Some(stream),
            Happened::LaneStopped => self.session.close(
                CloseCode::CriticalStreamClosed,
                "QP-STREAM-2: the lane stays open as long as the connection",
            ),
            Happened::Mail => self.take_mail(),
            Happened::Due => {
                self.timer = None;
                self.session.handle_timeout(Instant::now());
                self.retry_read();
                self.check_attendance();
            }
            Happened::Done(Work::Admitted(result)) => self.admitted(*result),
            Happened::Done(Work::Submitted(result)) => match result {
                Ok(Some(reply)) => self.session.reply(&reply),
                Ok(None) => {}
                Err(Refused) => self.unavailable(),
            },
            Happened::Done(Work::Privacy(result, command)) => match (result, &mut self.member) {
                (Ok(privacy), Some(member)) => {
                    // One that came with the mail meanwhile is newer.
                    member.privacy.get_or_insert(privacy);
                    self.pass_on(*command);
                }
                (Ok(_), None) => {}
                (Err(_), _) => self.unavailable(),
            },
            Happened::Page(page) => self.take_page(page),
            Happened::Request(send, receive) => self.start_request(send, receive),
            Happened::StrayStream(mut stream) => {
                self.shared.with.metrics.stray_uni_streams.inc();
                let _ = stream.stop(VarInt::from_u32(StreamCode::UnknownStream.code()));
            }
            Happened::Datagram => {
                self.shared.with.metrics.datagrams_ignored.inc();
            }
            Happened::Lost => return Err(Ended),
        }
        Ok(())
    }

    /// Carries out what the session asks for, as far as it goes without waiting, and arms what has to be waited for.
    fn settle(&mut self) -> Result<(), Ended> {
        loop {
            if !self.input.is_empty() && self.work.is_none() {
                self.session.handle_bytes(Instant::now(), &mut self.input);
            }
            // A command on its way holds back the ones behind it.
            if self.work.is_some() {
                break;
            }
            match self.session.poll_output() {
                Some(output) => self.carry_out(output)?,
                None if self.input.has_remaining() => {}
                None => break,
            }
        }
        if self.s0.len() > SESSION_TRANSMIT_BYTES_MAX {
            self.shared
                .with
                .metrics
                .sessions_closed_unread_replies
                .inc();
            return self.end(CloseCode::Busy, "QP-REPLY-3: replies are not being read");
        }
        self.say_check();
        self.start_reading();
        if let Some(member) = &mut self.member {
            let in_flight = member.window.in_flight_events() > 0;
            member.attendance.sent(in_flight, Instant::now);
        }
        self.arm_timer();
        Ok(())
    }

    fn carry_out(&mut self, output: ServerOutput) -> Result<(), Ended> {
        match output {
            ServerOutput::Transmit(bytes) => self.s0.push(bytes),
            ServerOutput::Authenticate(hello) => self.authenticate(hello),
            ServerOutput::Command(command) => self.submit(command),
            ServerOutput::Refresh { request, jwt } => self.refresh(request, &jwt),
            ServerOutput::Acked(cursor) => self.acked(cursor),
            ServerOutput::Close { code, reason } => return self.end(code, &reason),
        }
        Ok(())
    }

    /// Closes the connection, with a last try to send what S0 still holds.
    fn end(&self, code: CloseCode, reason: &str) -> Result<(), Ended> {
        let metrics = &self.shared.with.metrics;
        match code {
            CloseCode::ProtocolViolation
            | CloseCode::FrameTooLarge
            | CloseCode::Unsupported
            | CloseCode::CriticalStreamClosed
            | CloseCode::HelloTimeout => {
                metrics.sessions_closed_for_violation.inc();
            }
            CloseCode::Replaced => {
                metrics.sessions_replaced.inc();
            }
            CloseCode::Unavailable => {
                metrics.sessions_closed_unavailable.inc();
            }
            CloseCode::Ok
            | CloseCode::Internal
            | CloseCode::Unauthenticated
            | CloseCode::NameTaken
            | CloseCode::RegistrationClosed
            | CloseCode::InvalidCredentials
            | CloseCode::TooManyDevices
            | CloseCode::TokenExpired
            | CloseCode::Revoked
            | CloseCode::Busy
            | CloseCode::Shutdown
            | CloseCode::RateLimited
            | CloseCode::Redirect => {}
        }
        tracing::debug!(peer = %self.connection.remote_address(), %code, reason, "closing");
        close(&self.connection, code, reason);
        Err(Ended)
    }

    fn unavailable(&mut self) {
        let reason = "the log or the store does not answer";
        self.session.close(CloseCode::Unavailable, reason);
    }

    fn authenticate(&mut self, hello: Hello) {
        let shared = Arc::clone(&self.shared);
        let from = self.connection.remote_address().ip();
        self.work = Some(Box::pin(async move {
            Work::Admitted(Box::new(shared.with.accounts.admit(hello, from).await))
        }));
    }

    fn admitted(&mut self, result: Result<Admitted, Refusal>) {
        let Admitted {
            welcome,
            expires_at,
        } = match result {
            Ok(admitted) => admitted,
            Err(refusal) => return self.session.close(refusal.code, &refusal.words()),
        };
        let (user, device, cursor) = (welcome.user, welcome.device, welcome.cursor);
        self.session.welcome(welcome);
        if !self.session.is_welcomed() {
            // It timed out, or was told to go away, while its credentials were being checked.
            return;
        }
        self.unwelcomed = None;
        if let Some(at) = expires_at {
            self.session.expire_at(at);
        }
        // Attached before the inbox is read for the first time, or an event between the two would be missed.
        let attached = self
            .shared
            .with
            .registry
            .attach(user, device, Arc::clone(&self.mailbox));
        let attendance = Attendance::new(&self.shared.with.sessions, device);
        self.announce(user, attendance.attached(cursor));
        self.member = Some(Member {
            user,
            device,
            window: DeliveryWindow::new(cursor),
            attendance,
            reading: None,
            gap_tries: 0,
            retry_at: None,
            throttle: Throttle::default(),
            blobs: None,
            privacy: None,
            check_due: false,
            _attached: attached,
            _counted: Counted::new(&self.shared),
        });
        let mut bytes = BytesMut::new();
        let lane = wire::Lane { index: 0, lanes: 1 };
        frame::encode(FrameType::Lane, &lane, &mut bytes);
        self.lane.push(bytes.freeze());
        if self.shared.draining.load(Ordering::SeqCst) {
            self.go_away();
        }
    }

    /// Tells the log that the session began; before any command of it.
    fn announce(&mut self, user: UserId, fact: Fact) {
        let shared = Arc::clone(&self.shared);
        match shared.with.router.try_submit(Submission::Fact(user, fact)) {
            Ok(()) => {
                shared.with.metrics.facts_submitted.inc();
            }
            Err(NoRoom::Full(fact)) => {
                self.work = Some(Box::pin(async move {
                    Work::Submitted(carry(&shared, *fact).await)
                }));
            }
            Err(NoRoom::Unavailable(_)) => self.unavailable(),
        }
    }

    /// Tells the log when the device has stopped acking, or goes on.
    fn check_attendance(&mut self) {
        let Some(member) = &mut self.member else {
            return;
        };
        let now = Instant::now();
        let cursor = member.window.acked();
        let Some(fact) = member.attendance.check(now, now_ms(), cursor) else {
            return;
        };
        let with = &self.shared.with;
        let told = with.router.try_submit(Submission::Fact(member.user, fact));
        member.attendance.told(told.is_ok(), now);
        if told.is_ok() {
            with.metrics.facts_submitted.inc();
            if member.attendance.is_stalled() {
                with.metrics.sessions_stalled.inc();
            }
        }
    }

    fn go_away(&mut self) {
        let go_away = self.shared.go_away();
        self.session.go_away(Instant::now(), go_away);
    }

    fn submit(&mut self, command: DeviceCommand) {
        let Some(member) = &self.member else {
            // The session passes on commands of welcomed devices only.
            return;
        };
        let (user, device) = (member.user, member.device);
        if self.is_too_much(user, &command) {
            return;
        }
        if attachments::of_command(&command).is_some() {
            let shared = Arc::clone(&self.shared);
            self.work = Some(Box::pin(async move {
                Work::Submitted(carry_with_files(&shared, user, device, command).await)
            }));
            return;
        }
        let kind = CommandKind::of_device(command, self.shared.with.fan_out_max);
        self.pass_on(kind);
    }

    /// Hands a command to the router, or first finds out what has to be known about it.
    fn pass_on(&mut self, mut kind: CommandKind) {
        let Some(member) = &self.member else { return };
        let (user, device) = (member.user, member.device);
        let shared = Arc::clone(&self.shared);
        if let CommandKind::Receipt { quiet, .. } = &mut kind {
            let Some(privacy) = &member.privacy else {
                // Read with the first receipt and not with every log-in, most of which come without one.
                self.work = Some(Box::pin(async move {
                    let privacy = shared.with.queries.privacy(user).await;
                    Work::Privacy(privacy, Box::new(kind))
                }));
                return;
            };
            *quiet = privacy.hide_read;
        }
        if let Some(claims) = Claims::of(user, &kind) {
            let command = Command { user, device, kind };
            self.work = Some(Box::pin(async move {
                Work::Submitted(check_and_carry(&shared, claims, command).await)
            }));
            return;
        }
        match shared
            .with
            .router
            .try_submit(Command { user, device, kind })
        {
            Ok(()) => {
                shared.with.metrics.commands_accepted.inc();
            }
            Err(NoRoom::Full(command)) => {
                self.work = Some(Box::pin(async move {
                    Work::Submitted(carry(&shared, *command).await)
                }));
            }
            Err(NoRoom::Unavailable(_)) => self.unavailable(),
        }
    }

    /// Judges a newer token. A signature costs some microseconds, so it is checked here.
    fn refresh(&mut self, request: RequestId, jwt: &Jwt) {
        let Some(user) = self.member.as_ref().map(|member| member.user) else {
            return;
        };
        let to = ReplyTo::Request(request);
        if let Err(wait) = self.shared.with.rates.command(&user) {
            return self.session.reply(&too_often(to, wait, TOO_MANY_COMMANDS));
        }
        let outcome = match self.shared.with.accounts.refresh(&user, jwt) {
            Ok(until) => {
                self.shared.with.metrics.tokens_refreshed.inc();
                self.session.expire_at(until);
                Outcome::Done
            }
            Err(why) => Outcome::Rejected(Rejection::new(RejectCode::Forbidden, why)),
        };
        self.session.reply(&Reply { to, outcome });
    }

    /// Whether the user gives too many commands. Then this one is answered here, or ignored if it has no answer.
    fn is_too_much(&mut self, user: UserId, command: &DeviceCommand) -> bool {
        let shared = Arc::clone(&self.shared);
        let (metrics, take) = (&shared.with.metrics, || shared.with.rates.command(&user));
        let (to, wait) = match command {
            DeviceCommand::Send {
                conversation,
                client_seq,
                ..
            } => {
                let Some(member) = &mut self.member else {
                    return true;
                };
                let judged =
                    member
                        .throttle
                        .judge(Instant::now(), *conversation, *client_seq, take);
                let to = ReplyTo::Send {
                    conversation: *conversation,
                    client_seq: *client_seq,
                };
                match judged {
                    Ok(()) => return false,
                    Err(Held::TooMany(wait)) => (to, wait),
                    Err(Held::Behind(wait)) => {
                        metrics.sends_held_back.inc();
                        (to, wait)
                    }
                    Err(Held::Hopeless(wait)) => {
                        let reason = retry_after::reason(wait, TOO_MANY_COMMANDS);
                        self.session.close(CloseCode::RateLimited, &reason);
                        return true;
                    }
                }
            }
            DeviceCommand::OpenDirect { request, .. } => match take() {
                Ok(()) => return false,
                Err(wait) => (ReplyTo::Request(*request), wait),
            },
            DeviceCommand::Change { request, .. } => match take() {
                Ok(()) => return false,
                Err(wait) => (ReplyTo::Request(*request), wait),
            },
            DeviceCommand::Receipt { .. } => {
                let refused = take().is_err();
                metrics.rate_limited_receipts.inc_by(u64::from(refused));
                return refused;
            }
        };
        self.session.reply(&too_often(to, wait, TOO_MANY_COMMANDS));
        true
    }

    fn acked(&mut self, cursor: Cursor) {
        let Some(member) = &mut self.member else {
            return;
        };
        self.shared.with.metrics.acks_received.inc();
        let before = member.window.acked();
        let acked = member.window.ack(cursor);
        if member.window.acked() > before {
            let in_flight = member.window.in_flight_events() > 0;
            member.attendance.acked(in_flight, Instant::now());
        }
        if let Err(ahead) = acked {
            self.shared.with.metrics.acks_ahead.inc();
            let reason = format!("QP-ACK-2: {ahead}");
            self.session.close(CloseCode::ProtocolViolation, &reason);
        }
    }

    /// Tells the client that notices were dropped, once the lane has room again.
    fn say_check(&mut self) {
        if let Some(member) = &mut self.member
            && member.check_due
            && self.lane.len() <= LANE_NOTICES_BYTES_MAX / 2
        {
            member.check_due = false;
            self.shared.with.metrics.notices_sent.inc();
            self.lane.push(notice_frame(&Notice::Check));
        }
    }

    fn take_mail(&mut self) {
        let Taken {
            items,
            lagged,
            notices_dropped,
            privacy,
            close,
            go_away,
        } = self.mailbox.take();
        let metrics = &self.shared.with.metrics;
        for item in items {
            match item {
                MailboxItem::Reply(reply) => self.session.reply(&reply),
                MailboxItem::Notice(frame) => {
                    let Some(member) = &mut self.member else {
                        continue;
                    };
                    if member.check_due || self.lane.len() > LANE_NOTICES_BYTES_MAX {
                        member.check_due = true;
                        metrics.notices_dropped.inc();
                    } else {
                        metrics.notices_sent.inc();
                        self.lane.push(frame);
                    }
                }
                MailboxItem::Event(event) => {
                    let Some(member) = &mut self.member else {
                        continue;
                    };
                    match member.window.offer(event.inbox_seq) {
                        Offer::Send => {
                            member.window.sent(event.inbox_seq, event.frame.len());
                            metrics.events_pushed.inc();
                            metrics.event_bytes.inc_by(event.frame.len() as u64);
                            self.lane.push(event.frame.clone());
                        }
                        Offer::Known | Offer::Behind => {}
                    }
                }
            }
        }
        if let (Some(_), Some(member)) = (privacy, &mut self.member) {
            member.privacy = privacy;
        }
        if let (Some(inbox_seq), Some(member)) = (lagged, &mut self.member) {
            member.window.missed(inbox_seq);
        }
        if let (true, Some(member)) = (notices_dropped, &mut self.member) {
            member.check_due = true;
        }
        if go_away {
            self.go_away();
        }
        if let Some((code, reason)) = close {
            self.session.close(code, reason);
        }
    }

    /// Reads on in the inbox when the device is behind and its window has room.
    fn start_reading(&mut self) {
        let Some(member) = &mut self.member else {
            return;
        };
        if member.reading.is_some() || member.retry_at.is_some() {
            return;
        }
        match member.window.want() {
            Want::Nothing => {}
            Want::Read {
                after,
                max_events,
                max_bytes,
            } => {
                let (shared, user) = (Arc::clone(&self.shared), member.user);
                member.reading = Some(Box::pin(async move {
                    let queries = &shared.with.queries;
                    queries.inbox_page(user, after, max_events, max_bytes).await
                }));
            }
        }
    }

    fn retry_read(&mut self) {
        if let Some(member) = &mut self.member
            && member.retry_at.is_some_and(|at| at <= Instant::now())
        {
            member.retry_at = None;
        }
    }

    fn take_page(&mut self, page: Result<InboxPage, QueryError>) {
        let Some(member) = &mut self.member else {
            return;
        };
        member.reading = None;
        let Ok(page) = page else {
            return self.unavailable();
        };
        let metrics = &self.shared.with.metrics;
        if page
            .events
            .first()
            .is_some_and(|(first, _)| *first != member.window.next())
        {
            tracing::error!(user = %member.user, next = %member.window.next(), "the inbox has a hole");
            return self
                .session
                .close(CloseCode::Internal, "the inbox has a hole");
        }
        let mut bytes = 0;
        for (inbox_seq, len) in &page.events {
            if !member.window.fits(*len) {
                break;
            }
            member.window.sent(*inbox_seq, *len);
            metrics.events_caught_up.inc();
            bytes += len;
        }
        if bytes > 0 {
            metrics.event_bytes.inc_by(bytes as u64);
            self.lane.push(page.frames.slice(..bytes));
            member.gap_tries = 0;
        } else if page.gap {
            member.gap_tries += 1;
            let wait = GAP_WAIT_MIN * 2u32.pow(member.gap_tries.min(16));
            member.retry_at = Some(Instant::now() + wait.min(GAP_WAIT_MAX));
        }
        if let Err(error) = member.window.page(page.last, page.exhausted) {
            tracing::error!(user = %member.user, %error, "the inbox ends too early");
            return self.unavailable();
        }
        if member.gap_tries > GAP_TRIES_MAX {
            tracing::error!(user = %member.user, next = %member.window.next(), "a history row does not come");
            self.unavailable();
        }
    }

    fn start_request(&mut self, mut send: SendStream, mut receive: RecvStream) {
        let metrics = &self.shared.with.metrics;
        let welcomed = self.session.is_welcomed();
        let Some(member) = self.member.as_mut().filter(|_| welcomed) else {
            metrics.early_request_streams.inc();
            return request::refuse(&mut send, &mut receive, StreamCode::NotWelcomed);
        };
        let Ok(place) = Arc::clone(&self.shared.requests).try_acquire_owned() else {
            metrics.requests_busy.inc();
            return request::refuse(&mut send, &mut receive, StreamCode::Busy);
        };
        let shared = Arc::clone(&self.shared);
        let blobs = || Arc::new(Semaphore::new(BLOB_STREAMS_MAX));
        let blobs = Arc::clone(member.blobs.get_or_insert_with(blobs));
        let served = request::serve(shared, member.user, send, receive, place, blobs);
        tokio::spawn(served);
    }

    /// One timer for the session's deadline and the next try to read; none while neither is due.
    fn arm_timer(&mut self) {
        let retry_at = self.member.as_ref().and_then(|member| member.retry_at);
        let check_at = self
            .member
            .as_ref()
            .and_then(|member| member.attendance.poll_timeout());
        let due = [self.session.poll_timeout(), retry_at, check_at]
            .into_iter()
            .flatten()
            .min();
        let Some(due) = due else {
            self.timer = None;
            return;
        };
        let due = tokio::time::Instant::from_std(due);
        match &mut self.timer {
            Some(timer) if timer.deadline() == due => {}
            Some(timer) => timer.as_mut().reset(due),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(due))),
        }
    }
}

/// Says when to ask again.
fn too_often(to: ReplyTo, wait: Duration, reason: &str) -> Reply {
    // Rounded up: a client that comes a moment too early is rejected once more.
    let milliseconds = wait.as_micros().div_ceil(1000).max(1);
    let rejection = Rejection {
        retry_after_ms: u64::try_from(milliseconds).unwrap_or(u64::MAX),
        ..Rejection::new(RejectCode::RateLimited, reason)
    };
    Reply {
        to,
        outcome: Outcome::Rejected(rejection),
    }
}

/// Polls the future if there is one; otherwise never ends.
async fn poll_or_wait<F: Future + Unpin>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

async fn write_lane(
    lane: &mut Outgoing,
    stream: Option<&mut SendStream>,
) -> Result<(), WriteError> {
    match stream {
        Some(stream) => lane.write_some(stream).await,
        None => pending().await,
    }
}

/// What has to be so before a command goes to the shard of its conversation, which does not know the users of other shards.
/// Accounts never go, so that what was so stays so.
struct Claims {
    request: RequestId,
    /// These users exist.
    exist: Vec<UserId>,
    /// The user is in this conversation, or has room for one more. Commands under way at once may pass the limit by their
    /// number.
    enters: Option<ConversationId>,
    /// It is a new one, if the user is not in it.
    makes_one: bool,
}

impl Claims {
    /// Those of a command; `None`: it has none.
    fn of(user: UserId, kind: &CommandKind) -> Option<Self> {
        let claims = |request: &RequestId, exist: &[UserId], enters, makes_one| Self {
            request: *request,
            exist: exist.to_vec(),
            enters,
            makes_one,
        };
        match kind {
            CommandKind::OpenDirect { request, peer } => {
                let enters = ConversationId::direct(&user, peer);
                Some(claims(request, &[*peer], Some(enters), true))
            }
            CommandKind::Change {
                request, change, ..
            } => match &**change {
                Change::CreateGroup(new) => {
                    Some(claims(request, &new.invite, Some(new.conversation), true))
                }
                Change::Invite { users, .. } => Some(claims(request, users, None, false)),
                Change::Block(user, true) => Some(claims(request, &[*user], None, false)),
                Change::Join(group) => Some(claims(request, &[], Some(*group), false)),
                Change::SetGroup { .. }
                | Change::Leave(_)
                | Change::Remove(..)
                | Change::SetRole(..)
                | Change::SetTimer(..)
                | Change::Edit { .. }
                | Change::Delete(..)
                | Change::React { .. }
                | Change::RenameDevice(..)
                | Change::RevokeDevice(_)
                | Change::Block(_, false)
                | Change::Report { .. }
                | Change::SetPrivacy(_) => None,
            },
            CommandKind::Send { .. }
            | CommandKind::Receipt { .. }
            | CommandKind::Register { .. }
            | CommandKind::AddDevice { .. } => None,
        }
    }
}

/// Hands a command or a fact to the router, waiting for room.
async fn carry(
    shared: &Shared,
    submission: impl Into<Submission>,
) -> Result<Option<Box<Reply>>, Refused> {
    let submission = submission.into();
    let counter = match &submission {
        Submission::Command(_) => &shared.with.metrics.commands_accepted,
        Submission::Fact(..) => &shared.with.metrics.facts_submitted,
    };
    shared.with.router.submit(submission).await?;
    counter.inc();
    Ok(None)
}

/// Hands a command that refers to files to the router, if they are there. A reply means that one is not.
async fn carry_with_files(
    shared: &Shared,
    user: UserId,
    device: DeviceId,
    command: DeviceCommand,
) -> Result<Option<Box<Reply>>, Refused> {
    if let Some(reply) = attachments::answer_instead(&shared.with.media, user, &command).await {
        return Ok(Some(Box::new(reply)));
    }
    let kind = CommandKind::of_device(command, shared.with.fan_out_max);
    carry(shared, Command { user, device, kind }).await
}

/// Hands a command to the router, if what it claims is so. A reply means that it needed no log.
async fn check_and_carry(
    shared: &Shared,
    claims: Claims,
    command: Command,
) -> Result<Option<Box<Reply>>, Refused> {
    let (queries, to) = (&shared.with.queries, ReplyTo::Request(claims.request));
    let makes_one = claims.makes_one;
    let user = command.user;
    let rejection = match queries.check(user, claims.exist, claims.enters).await? {
        Checked::Missing(user) => {
            Rejection::new(RejectCode::UnknownUser, format!("there is no user {user}"))
        }
        Checked::NoRoom => Rejection::new(
            RejectCode::TooMany,
            "you have as many conversations as there may be; leave one",
        ),
        Checked::Sound { is_in: false } if makes_one => {
            match shared.with.rates.new_conversation(&user) {
                Ok(()) => return carry(shared, command).await,
                Err(wait) => {
                    let reason = "QP-RATE-3: this user makes too many conversations";
                    return Ok(Some(Box::new(too_often(to, wait, reason))));
                }
            }
        }
        Checked::Sound { .. } => return carry(shared, command).await,
    };
    let outcome = Outcome::Rejected(rejection);
    Ok(Some(Box::new(Reply { to, outcome })))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that `serve` makes.
    fn size_of_future<F>(_serve: impl FnOnce(Arc<Shared>, Connection, Unwelcomed) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_is_small() {
        // Memory per connection is what limits how many there can be; quinn takes about 30 KiB beside this.
        let bytes = size_of_future(serve);
        assert!(bytes <= 2048, "a connection's task has {bytes} bytes");
    }
}
