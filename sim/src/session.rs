//! The gateway's end of one connection: pumps the session machine as the edge does, with mailbox, window and catch-up.

mod admission;
mod catch_up;
mod command;
mod mailbox;
mod registry;

use bytes::{Bytes, BytesMut};
use quipu_core::delivery::DeliveryWindow;
use quipu_protocol::credentials::Token;
use quipu_protocol::error::CloseCode;
use quipu_protocol::id::{Cursor, DeviceId, UserId};
use quipu_protocol::session::{ServerOutput, ServerSession};

use self::mailbox::Mailbox;
use crate::plan::Us;
use crate::world::{AtGateway, LinkNo, Stream, World};

pub(crate) use self::catch_up::Page;

/// The inbox's life; there is one log, and it lives for ever.
pub(crate) const LIFE: u64 = 7;
/// Bytes that wait for S0's credit above which no more commands are taken.
const S0_WAITING_BYTES_MAX: usize = 32 * 1024;
const UNAVAILABLE: (CloseCode, &str) = (CloseCode::Unavailable, "the log does not answer");

/// One connection at its gateway.
#[derive(Debug)]
pub(crate) struct Session {
    session: ServerSession,
    /// Received and not taken by the machine yet.
    input: BytesMut,
    /// HELLO being judged, or a command that waits for room: one at a time keeps the order.
    working: Option<Working>,
    member: Option<Member>,
    mailbox: Mailbox,
    due: Option<Us>,
    /// Whom it watches, and how often it has begun to.
    pub(crate) watching: Vec<UserId>,
    pub(crate) watches: u64,
}

#[derive(Debug)]
enum Working {
    Admitting,
    /// Waits for the shard's answer to an account command.
    Deciding {
        user: UserId,
        device: DeviceId,
        token: Token,
        /// Where its events begin.
        start: Cursor,
    },
    Submitting,
}

#[derive(Debug)]
struct Member {
    user: UserId,
    device: DeviceId,
    window: DeliveryWindow,
    reading: bool,
    gap_tries: u32,
    retry_at: Option<Us>,
}

impl Session {
    /// Whose it is, once it has begun.
    pub(crate) fn user(&self) -> Option<UserId> {
        self.member.as_ref().map(|member| member.user)
    }

    /// Whether nothing waits in its mailbox.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.mailbox.woken && self.mailbox.items.is_empty()
    }
}

impl World {
    pub(crate) fn accept(&mut self, gateway: usize, link: LinkNo) {
        if !self.links.contains_key(&link) {
            return;
        }
        let session = Session {
            session: ServerSession::new(self.instant()),
            input: BytesMut::new(),
            working: None,
            member: None,
            mailbox: Mailbox::default(),
            due: None,
            watching: Vec::new(),
            watches: 0,
        };
        self.gateways[gateway].sessions.insert(link, session);
        self.settle(gateway, link);
    }

    fn session(&mut self, gateway: usize, link: LinkNo) -> Option<&mut Session> {
        self.gateways[gateway].sessions.get_mut(&link)
    }

    pub(crate) fn received(&mut self, gateway: usize, link: LinkNo, bytes: Bytes) {
        if let Some(session) = self.session(gateway, link) {
            session.input.extend_from_slice(&bytes);
            self.settle(gateway, link);
        }
    }

    pub(crate) fn session_due(&mut self, gateway: usize, link: LinkNo) {
        let (now, instant) = (self.now, self.instant());
        let Some(session) = self.session(gateway, link) else {
            return;
        };
        if session.due.is_some_and(|due| due <= now) {
            session.due = None;
        }
        session.session.handle_timeout(instant);
        if let Some(member) = &mut session.member
            && member.retry_at.is_some_and(|at| at <= now)
        {
            member.retry_at = None;
        }
        self.settle(gateway, link);
    }

    /// Carries out what the machine asks for, as far as it goes without waiting.
    pub(crate) fn settle(&mut self, gateway: usize, link: LinkNo) {
        loop {
            let instant = self.instant();
            let s0_waits = self.waiting(link, Stream::Down) >= S0_WAITING_BYTES_MAX;
            let Some(session) = self.session(gateway, link) else {
                return;
            };
            let mut taken = 0;
            if !session.input.is_empty() && session.working.is_none() && !s0_waits {
                let before = session.input.len();
                session.session.handle_bytes(instant, &mut session.input);
                taken = before - session.input.len();
            }
            let output = if session.working.is_none() {
                session.session.poll_output()
            } else {
                None
            };
            if taken > 0 {
                self.read(link, Stream::Up, taken);
            }
            match output {
                Some(output) => self.carry_out(gateway, link, output),
                None if taken > 0 => {}
                None => break,
            }
        }
        self.start_reading(gateway, link);
        self.arm(gateway, link);
    }

    fn carry_out(&mut self, gateway: usize, link: LinkNo, output: ServerOutput) {
        match output {
            ServerOutput::Transmit(bytes) => self.write(link, Stream::Down, &bytes),
            ServerOutput::Authenticate(hello) => self.authenticate(gateway, link, hello),
            ServerOutput::Command(command) => self.command(gateway, link, command),
            ServerOutput::Refresh { .. } => {
                let what = "a session without a token's deadline was given a newer one";
                self.checker.condemn("protocol", what);
            }
            ServerOutput::Acked(cursor) => {
                let session = self.session(gateway, link);
                if let Some(member) = session.and_then(|session| session.member.as_mut())
                    && let Err(ahead) = member.window.ack(cursor)
                {
                    self.checker.condemn("ack ahead", ahead.to_string());
                }
            }
            ServerOutput::Close { code, reason } => self.close(gateway, link, code, &reason),
        }
    }

    fn close(&mut self, gateway: usize, link: LinkNo, code: CloseCode, reason: &str) {
        match code {
            CloseCode::ProtocolViolation
            | CloseCode::FrameTooLarge
            | CloseCode::Unsupported
            | CloseCode::Internal => {
                let what = format!("the gateway closed a session with {code}: {reason}");
                self.checker.condemn("protocol", what);
            }
            _ => {}
        }
        self.note(
            "session-closed",
            &[("link", link), ("code", u64::from(code.code()))],
        );
        self.close_from_gateway(link, Some(code));
        self.end_session(gateway, link);
    }

    /// The session leaves the registry.
    pub(crate) fn end_session(&mut self, gateway: usize, link: LinkNo) {
        self.watch_nobody(gateway, link);
        let it = &mut self.gateways[gateway];
        let Some(session) = it.sessions.remove(&link) else {
            return;
        };
        if let Some(member) = &session.member
            && let Some(attached) = it.registry.get_mut(&member.user)
        {
            attached.retain(|(_, other)| *other != link);
            if attached.is_empty() {
                it.registry.remove(&member.user);
            }
        }
        let user = session.member.map(|member| member.user);
        it.expected.retain(|_, waits| *waits != link);
        if let Some(user) = user {
            self.attends(gateway, user);
        }
    }

    fn arm(&mut self, gateway: usize, link: LinkNo) {
        let Some(session) = self.gateways[gateway].sessions.get(&link) else {
            return;
        };
        let retry_at = session.member.as_ref().and_then(|member| member.retry_at);
        let timeout = session.session.poll_timeout().map(|at| self.at(at));
        let Some(due) = timeout.into_iter().chain(retry_at).min() else {
            return;
        };
        if session.due.is_some_and(|set| set <= due) {
            return;
        }
        let after = due.saturating_sub(self.now);
        if let Some(session) = self.session(gateway, link) {
            session.due = Some(due);
        }
        self.tell_gateway(gateway, after, AtGateway::Due(link));
    }
}
