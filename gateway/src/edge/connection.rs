//! One task per connection: pumps a `ServerSession` between quinn streams, the router and the registry.
//!
//! Reads never wait for writes: what a slow peer does not take stays in [`Outgoing`], within the session's and the delivery
//! window's bounds, while S0 is served on. Everything that may take long (checking credentials, waiting for room in the
//! router, reading the store) is a boxed future that is gone when done, so that an idle connection is small.

mod admission;
mod commands;
mod delivery;
mod fleeting;

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf as _, Bytes};
use quinn::{Connection, ReadError, RecvStream, SendStream, VarInt, WriteError};
use quipu_core::delivery::DeliveryWindow;
use quipu_core::record::CommandKind;
use quipu_core::row::Settings;
use quipu_protocol::error::{CloseCode, StreamCode};
use quipu_protocol::event::Reply;
use quipu_protocol::id::{DeviceId, UserId};
use quipu_protocol::limits::{
    BLOB_STREAMS_MAX, FRAME_BYTES_MAX, REASON_BYTES_MAX, SESSION_TRANSMIT_BYTES_MAX,
};
use quipu_protocol::session::{ServerOutput, ServerSession};
use tokio::sync::Semaphore;
use tokio::time::Sleep;

use super::admission::Unwelcomed;
use super::attendance::Attendance;
use super::lane::Outgoing;
use super::talk::{Found, Talk};
use super::throttle::Throttle;
use super::{Shared, request};
use crate::accounts::{Admitted, Refusal};
use crate::ephemeral::{Watch, Watching};
use crate::queries::{InboxPage, QueryError};
use crate::registry::{Attached, Mailbox};
use crate::router::Unavailable;

/// Bytes of S0 read at once.
const READ_BYTES_MAX: usize = 16 * 1024;
/// Answers waiting for the peer's credit above which no more of its commands are read.
const S0_WAITING_BYTES_MAX: usize = FRAME_BYTES_MAX;
// S0 is closed with BUSY only after its peer was given the chance to read.
const _: () = assert!(S0_WAITING_BYTES_MAX < SESSION_TRANSMIT_BYTES_MAX);

pub(super) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a session waits for besides its streams.
enum Work {
    /// HELLO was judged.
    Admitted(Box<Result<Admitted, Refusal>>),
    /// A command is queued, or was answered without the log.
    Submitted(Result<Option<Box<Reply>>, Refused>),
    /// What the user has decided about others is known now, and this command waited for it.
    Settings(Result<Settings, QueryError>, Box<CommandKind>),
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
    Datagram(Bytes),
    Found(Found),
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
    /// The close that waits until S0 is written, and its reason.
    farewell: Option<(CloseCode, String)>,
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
    /// What the user has decided about others; `None`: not asked for yet.
    settings: Option<Arc<Settings>>,
    /// Typing and presence; made when there is some.
    talk: Option<Box<Talk>>,
    /// Whom the session watches; made with the first stream beside S0.
    watch: Option<Watch>,
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
            farewell: None,
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

    /// Waits for the next thing. What has been waiting longest for us comes first: finished work, then what lets the peer
    /// go on, then new input.
    async fn happen(&mut self) -> Happened {
        let takes_input = self.input.is_empty() && self.s0.len() < S0_WAITING_BYTES_MAX;
        let opens_lane = self.member.is_some() && self.lane_send.is_none();
        let (reading, finding) = match &mut self.member {
            Some(member) => (
                member.reading.as_mut(),
                member.talk.as_mut().and_then(|talk| talk.finding.as_mut()),
            ),
            None => (None, None),
        };
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
            found = poll_or_wait(finding) => Happened::Found(found),
            opened = self.connection.open_uni(), if opens_lane => {
                opened.map_or(Happened::Lost, Happened::LaneOpened)
            }
            stream = self.connection.accept_bi() => {
                stream.map_or(Happened::Lost, |(send, receive)| Happened::Request(send, receive))
            }
            stream = self.connection.accept_uni() => stream.map_or(Happened::Lost, Happened::StrayStream),
            datagram = self.connection.read_datagram() => datagram.map_or(Happened::Lost, Happened::Datagram),
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
            Happened::Done(Work::Settings(result, command)) => match (result, &mut self.member) {
                (Ok(settings), Some(member)) => {
                    // One that came with the mail meanwhile is newer.
                    member.settings.get_or_insert_with(|| Arc::new(settings));
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
            Happened::Datagram(datagram) => self.hear(&datagram),
            Happened::Found(found) => self.found(found),
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

    /// Ends the loop and closes the connection: at once, or when its device was given the chance to read what S0 holds.
    fn end(&mut self, code: CloseCode, reason: &str) -> Result<(), Ended> {
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
        match code {
            // Perhaps the device has asked for it, and is to have its answer.
            CloseCode::Revoked => self.farewell = Some((code, reason.to_owned())),
            CloseCode::Ok
            | CloseCode::Internal
            | CloseCode::ProtocolViolation
            | CloseCode::FrameTooLarge
            | CloseCode::Unsupported
            | CloseCode::CriticalStreamClosed
            | CloseCode::HelloTimeout
            | CloseCode::Unauthenticated
            | CloseCode::NameTaken
            | CloseCode::RegistrationClosed
            | CloseCode::InvalidCredentials
            | CloseCode::Replaced
            | CloseCode::TooManyDevices
            | CloseCode::TokenExpired
            | CloseCode::Busy
            | CloseCode::Unavailable
            | CloseCode::Shutdown
            | CloseCode::RateLimited
            | CloseCode::Redirect => close(&self.connection, code, reason),
        }
        Err(Ended)
    }

    fn unavailable(&mut self) {
        let reason = "the log or the store does not answer";
        self.session.close(CloseCode::Unavailable, reason);
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
        let watch = member.watch.get_or_insert_with(|| {
            let registry = &shared.with.registry;
            Watch(Watching::new(registry, member.user, &self.mailbox))
        });
        let watching = Arc::clone(&watch.0);
        let served = request::serve(shared, watching, send, receive, place, blobs);
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
