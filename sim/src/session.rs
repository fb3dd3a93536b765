//! The gateway's end of one connection: pumps the session machine as the edge does, with mailbox, window and catch-up.

use bytes::{Bytes, BytesMut};
use quipu_core::delivery::{DeliveryWindow, Offer, Want};
use quipu_core::record::{Command, CommandKind, NewDevice};
use quipu_core::row::{Account, EntityKey, HistoryRow, Inbox, InboxKind};
use quipu_core::shard::ShardId;
use quipu_protocol::credentials::{Credentials, Hello, Token};
use quipu_protocol::error::{CloseCode, RejectCode};
use quipu_protocol::event::{
    Change, Changed, ChangedKind, Content, DeviceCommand, Event, EventBody, MessageState, Notice,
    Outcome, Rejection, Reply, ReplyTo,
};
use quipu_protocol::frame::{self, FrameType};
use quipu_protocol::id::{Cursor, DeviceId, InboxSeq, RequestId, UserId};
use quipu_protocol::session::{ServerOutput, ServerSession};
use quipu_protocol::welcome::{GoAway, Limits, Welcome};
use quipu_protocol::wire;

use crate::plan::{MS, SECOND, Us};
use crate::sabotage::Sabotage;
use crate::world::{AtGateway, LinkNo, Stream, World};

/// The inbox's life; there is one log, and it lives for ever.
pub(crate) const LIFE: u64 = 7;
/// Bytes that wait for S0's credit above which no more commands are taken.
const S0_WAITING_BYTES_MAX: usize = 32 * 1024;
/// Waits before a page that ended at a missing history row is read again.
const GAP_WAIT_MIN: Us = 2 * MS;
const GAP_WAIT_MAX: Us = 500 * MS;
/// Tries without progress after which a session is closed.
const GAP_TRIES_MAX: u32 = 64;
/// How long an account command may take.
const ANSWER_TIMEOUT: Us = 10 * SECOND;

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
}

#[derive(Debug)]
enum Working {
    Admitting,
    /// Waits for the shard's answer to an account command.
    Deciding {
        user: UserId,
        device: DeviceId,
        token: Token,
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

/// What processors have for a session.
#[derive(Debug, Default)]
struct Mailbox {
    items: Vec<Item>,
    lagged: Option<InboxSeq>,
    notices_dropped: bool,
    close: Option<(CloseCode, &'static str)>,
    /// A read of it is on its way.
    woken: bool,
}

#[derive(Debug)]
enum Item {
    Event(InboxSeq, Bytes),
    Notice(Bytes),
    Reply(Reply),
}

/// Part of an inbox, as EVENT frames.
#[derive(Debug, Default)]
pub(crate) struct Page {
    frames: BytesMut,
    events: Vec<(InboxSeq, usize)>,
    last: Option<InboxSeq>,
    exhausted: bool,
    gap: bool,
}

/// A notice as the frame that goes onto the lane.
fn notice_frame(notice: &Notice) -> Bytes {
    let mut bytes = BytesMut::new();
    frame::encode(FrameType::Notice, &wire::Notice::from(notice), &mut bytes);
    bytes.freeze()
}

const WRONG: (CloseCode, &str) = (CloseCode::Unauthenticated, "unknown user or wrong token");
const UNAVAILABLE: (CloseCode, &str) = (CloseCode::Unavailable, "the log does not answer");

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
        let it = &mut self.gateways[gateway];
        let Some(session) = it.sessions.remove(&link) else {
            return;
        };
        if let Some(member) = session.member
            && let Some(attached) = it.registry.get_mut(&member.user)
        {
            attached.retain(|(_, other)| *other != link);
            if attached.is_empty() {
                it.registry.remove(&member.user);
            }
        }
        it.expected.retain(|_, waits| *waits != link);
    }

    fn authenticate(&mut self, gateway: usize, link: LinkNo, hello: Hello) {
        let user = match &hello.credentials {
            Credentials::Register { name, .. }
            | Credentials::Login { name, .. }
            | Credentials::Session { name, .. } => *name,
            // Nobody has an issuer in this world.
            Credentials::External { .. } => {
                return self.admit_later(gateway, link, Err(WRONG));
            }
        };
        if let Some(session) = self.session(gateway, link) {
            session.working = Some(Working::Admitting);
        }
        let shard = self.store_shards().of_user(&user);
        let owner = self.gateways[gateway].view.owners[usize::from(shard.0)];
        if owner != gateway {
            self.redirect(gateway, link, owner);
            return;
        }
        let ready =
            self.has_replayed(gateway, shard) || self.sabotage == Some(Sabotage::AdmitEarly);
        if !ready {
            return self.admit_later(gateway, link, Err(UNAVAILABLE));
        }
        match hello.credentials {
            Credentials::Register { name, password, .. } => {
                if self.store.entity(EntityKey::Account(name)).is_some() {
                    let taken = (CloseCode::NameTaken, "this name belongs to somebody");
                    return self.admit_later(gateway, link, Err(taken));
                }
                let (device, token, kept) = self.new_credentials();
                let request = RequestId(self.rng.next());
                let kind = CommandKind::Register {
                    request,
                    password: Some(password),
                    device: kept,
                };
                self.decide(gateway, link, (name, device, token, request), kind);
            }
            Credentials::Login { name, password, .. } => {
                let known = self.account(&name).and_then(|account| account.password);
                if known.as_ref() != Some(&password) {
                    return self.admit_later(gateway, link, Err(WRONG));
                }
                let (device, token, kept) = self.new_credentials();
                let request = RequestId(self.rng.next());
                let kind = CommandKind::AddDevice {
                    request,
                    device: kept,
                };
                self.decide(gateway, link, (name, device, token, request), kind);
            }
            Credentials::External { .. } => {}
            Credentials::Session {
                name,
                device,
                token,
            } => {
                let known = self
                    .account(&name)
                    .and_then(|account| account.device(device).map(|known| known.token_hash));
                if known != Some(token) && self.sabotage != Some(Sabotage::AdmitRevoked) {
                    return self.admit_later(gateway, link, Err(WRONG));
                }
                let inbox = self.store.entity(EntityKey::Inbox(name));
                let head = inbox
                    .and_then(|row| Inbox::decode(row).ok()?.head)
                    .map_or(Cursor::START, InboxSeq::cursor);
                let cursor = hello
                    .resume
                    .filter(|resume| resume.life == LIFE && resume.cursor <= head)
                    .map(|resume| resume.cursor);
                let welcome = self.welcome(name, device, None, cursor);
                self.admit_later(gateway, link, Ok(welcome));
            }
        }
    }

    fn account(&self, user: &UserId) -> Option<Account> {
        Account::decode(self.store.entity(EntityKey::Account(*user))?).ok()
    }

    fn new_credentials(&mut self) -> (DeviceId, Token, NewDevice) {
        let device = DeviceId::new(self.rng.next() | 1).unwrap_or_else(|_| unreachable!());
        let mut token = [0; 32];
        token[..16].copy_from_slice(&self.rng.bytes16());
        token[16..].copy_from_slice(&self.rng.bytes16());
        // A hash of a secret is as good as the secret here: nobody steals the store.
        let kept = NewDevice {
            label: String::new(),
            token_hash: token,
        };
        (device, token, kept)
    }

    fn decide(
        &mut self,
        gateway: usize,
        link: LinkNo,
        (user, device, token, request): (UserId, DeviceId, Token, RequestId),
        kind: CommandKind,
    ) {
        let it = &mut self.gateways[gateway];
        it.expected.insert((user, device, request), link);
        if let Some(session) = it.sessions.get_mut(&link) {
            session.working = Some(Working::Deciding {
                user,
                device,
                token,
            });
        }
        self.submit(gateway, link, Command { user, device, kind });
        self.tell_gateway(gateway, ANSWER_TIMEOUT, AtGateway::AnswerTimeout(link));
    }

    pub(crate) fn answer_timeout(&mut self, gateway: usize, link: LinkNo) {
        let session = self.session(gateway, link);
        if session.is_some_and(|session| matches!(session.working, Some(Working::Deciding { .. })))
        {
            self.admitted(gateway, link, Err(UNAVAILABLE));
        }
    }

    fn admit_later(
        &mut self,
        gateway: usize,
        link: LinkNo,
        result: Result<Welcome, (CloseCode, &'static str)>,
    ) {
        let after = self.moment();
        self.tell_gateway(gateway, after, AtGateway::Admit(link, Box::new(result)));
    }

    fn welcome(
        &self,
        user: UserId,
        device: DeviceId,
        token: Option<Token>,
        cursor: Option<Cursor>,
    ) -> Welcome {
        Welcome {
            user,
            device,
            token,
            resumed: cursor.is_some(),
            cursor: cursor.unwrap_or(Cursor::START),
            life: LIFE,
            server_time: self.wall_clock(),
            agent: String::new(),
            limits: Limits::default(),
            gateway: String::new(),
            next_gateways: Vec::new(),
        }
    }

    pub(crate) fn admitted(
        &mut self,
        gateway: usize,
        link: LinkNo,
        result: Result<Welcome, (CloseCode, &'static str)>,
    ) {
        // The user may have moved while the credentials were being checked, and nobody would push to them here.
        if let Ok(welcome) = &result {
            let shard = self.store_shards().of_user(&welcome.user);
            let owner = self.gateways[gateway].view.owners[usize::from(shard.0)];
            if owner != gateway {
                return self.redirect(gateway, link, owner);
            }
        }
        let Some(session) = self.session(gateway, link) else {
            return;
        };
        session.working = None;
        let welcome = match result {
            Ok(welcome) => welcome,
            Err((code, reason)) => {
                session.session.close(code, reason);
                return self.settle(gateway, link);
            }
        };
        let (user, device, cursor) = (welcome.user, welcome.device, welcome.cursor);
        session.session.welcome(welcome);
        if !session.session.is_welcomed() {
            return self.settle(gateway, link);
        }
        session.member = Some(Member {
            user,
            device,
            window: DeliveryWindow::new(cursor),
            reading: false,
            gap_tries: 0,
            retry_at: None,
        });
        self.attach(gateway, user, device, link);
        self.note("attached", &[("link", link), ("cursor", cursor.0)]);
        let mut lane = BytesMut::new();
        let first = wire::Lane { index: 0, lanes: 1 };
        frame::encode(FrameType::Lane, &first, &mut lane);
        self.write(link, Stream::Lane, &lane);
        self.settle(gateway, link);
    }

    /// The session receives from now on; an older one of the same device ends. Which is older, the connections say: log-ins
    /// may overtake each other.
    fn attach(&mut self, gateway: usize, user: UserId, device: DeviceId, link: LinkNo) {
        let attached = self.gateways[gateway].registry.entry(user).or_default();
        let older = attached.iter().position(|(other, _)| *other == device);
        match older {
            Some(at) => {
                let (_, other) = attached[at];
                attached[at].1 = link.max(other);
                let older = link.min(other);
                let replaced = (CloseCode::Replaced, "this device connected again");
                self.put(gateway, older, |mailbox| {
                    mailbox.close.get_or_insert(replaced);
                });
            }
            None => attached.push((device, link)),
        }
        if self.gateways[gateway].revoked.contains(&(user, device)) {
            self.throw_out(gateway, link);
        }
    }

    /// A device has no access any more: its session ends, and one that is just about to begin.
    pub(crate) fn revoked(&mut self, gateway: usize, user: UserId, device: DeviceId) {
        if self.sabotage == Some(Sabotage::AdmitRevoked) {
            return;
        }
        self.gateways[gateway].revoked.insert((user, device));
        let attached = self.gateways[gateway].registry.get(&user);
        let theirs = attached.into_iter().flatten();
        let theirs = theirs.filter(|(of, _)| *of == device);
        let links: Vec<LinkNo> = theirs.map(|(_, link)| *link).collect();
        self.trace
            .say(|| format!("gateway {gateway} throws out {device} of {user}: {links:?}"));
        for link in links {
            self.throw_out(gateway, link);
        }
    }

    fn throw_out(&mut self, gateway: usize, link: LinkNo) {
        self.put(gateway, link, |mailbox| {
            let revoked = (CloseCode::Revoked, "thrown out");
            mailbox.close.get_or_insert(revoked);
        });
    }

    /// Ends the sessions of a shard's users.
    pub(crate) fn send_away(&mut self, gateway: usize, shard: ShardId, code: CloseCode) {
        let shards = self.store_shards();
        let theirs: Vec<LinkNo> = self.gateways[gateway]
            .registry
            .iter()
            .filter(|(user, _)| shards.of_user(user) == shard)
            .flat_map(|(_, attached)| attached.iter().map(|(_, link)| *link))
            .collect();
        for link in theirs {
            if code == CloseCode::Redirect {
                let owner = self.gateways[gateway].view.owners[usize::from(shard.0)];
                self.redirect(gateway, link, owner);
            } else {
                let reason = "another gateway was faster";
                self.put(gateway, link, |mailbox| {
                    mailbox.close.get_or_insert((code, reason));
                });
            }
        }
    }

    /// Says where the user's gateway is.
    fn redirect(&mut self, gateway: usize, link: LinkNo, owner: usize) {
        let instant = self.instant();
        let deadline_ms = self.rng.below(200) as u32;
        if let Some(session) = self.session(gateway, link) {
            session.working = None;
            session.session.go_away(
                instant,
                GoAway {
                    code: CloseCode::Redirect,
                    reason: String::new(),
                    authority: owner.to_string(),
                    deadline_ms,
                    jitter_ms: 0,
                },
            );
        }
        self.settle(gateway, link);
    }

    fn command(&mut self, gateway: usize, link: LinkNo, command: DeviceCommand) {
        let Some(session) = self.session(gateway, link) else {
            return;
        };
        let Some(member) = &session.member else {
            return;
        };
        let (user, device) = (member.user, member.device);
        if let Some((request, missing)) = self.missing_user(&command) {
            let reason = format!("{missing} has no account");
            let unknown = Rejection::new(RejectCode::UnknownUser, reason);
            let to = ReplyTo::Request(request);
            if let Some(session) = self.session(gateway, link) {
                let outcome = Outcome::Rejected(unknown);
                session.session.reply(&Reply { to, outcome });
            }
            return;
        }
        let kind = CommandKind::of_device(command, self.plan.fan_out_max);
        let command = Command { user, device, kind };
        if !self.submit(gateway, link, command)
            && let Some(session) = self.session(gateway, link)
        {
            session.working = Some(Working::Submitting);
        }
    }

    /// A user that a command names and that has no account: the shard of a conversation does not know the users of others.
    fn missing_user(&self, command: &DeviceCommand) -> Option<(RequestId, UserId)> {
        let (request, named) = match command {
            DeviceCommand::OpenDirect { request, peer } => (*request, vec![*peer]),
            DeviceCommand::Change { request, change } => match &**change {
                Change::CreateGroup(new) => (*request, new.invite.clone()),
                Change::Invite { users, .. } => (*request, users.clone()),
                Change::Block(user, true) => (*request, vec![*user]),
                _ => return None,
            },
            DeviceCommand::Send { .. } | DeviceCommand::Receipt { .. } => return None,
        };
        let has_account = |user: &UserId| self.store.entity(EntityKey::Account(*user)).is_some();
        let missing = named.into_iter().find(|user| !has_account(user))?;
        Some((request, missing))
    }

    /// A command that waited for room has found it.
    pub(crate) fn submitted(&mut self, gateway: usize, link: LinkNo) {
        if let Some(session) = self.session(gateway, link) {
            if matches!(session.working, Some(Working::Submitting)) {
                session.working = None;
            }
            self.settle(gateway, link);
        }
    }

    fn put(&mut self, gateway: usize, link: LinkNo, change: impl FnOnce(&mut Mailbox)) {
        let Some(session) = self.session(gateway, link) else {
            return;
        };
        change(&mut session.mailbox);
        if !std::mem::replace(&mut session.mailbox.woken, true) {
            let after = self.moment();
            self.tell_gateway(gateway, after, AtGateway::Mail(link));
        }
    }

    /// Puts an event into the mailboxes of a user's sessions.
    pub(crate) fn push(&mut self, gateway: usize, user: UserId, event: &Event) {
        self.trace
            .say(|| format!("gateway {gateway} pushes {} to {user}", event.inbox_seq));
        let mut to = self.gateways[gateway]
            .registry
            .get(&user)
            .cloned()
            .unwrap_or_default();
        if self.sabotage == Some(Sabotage::Misdeliver)
            && let Some((_, next)) = self.gateways[gateway].registry.range(user..).nth(1)
        {
            to.extend(next);
        }
        if to.is_empty() {
            return;
        }
        let mut bytes = BytesMut::new();
        frame::encode(FrameType::Event, &wire::Event::from(event), &mut bytes);
        let (bytes, items_max) = (bytes.freeze(), self.plan.mailbox_items);
        for (_, link) in to {
            self.put(gateway, link, |mailbox| {
                // Once one event is dropped the ones after it would only be gaps.
                if mailbox.lagged.is_some() || mailbox.items.len() >= items_max {
                    mailbox.lagged = mailbox.lagged.max(Some(event.inbox_seq));
                } else {
                    let item = Item::Event(event.inbox_seq, bytes.clone());
                    mailbox.items.push(item);
                }
            });
        }
    }

    /// Puts news of a pulled group into the mailboxes of its members' sessions; never into the place of an event.
    pub(crate) fn offer_notice(&mut self, gateway: usize, users: &[UserId], notice: &Notice) {
        let bytes = notice_frame(notice);
        let notices_max = (self.plan.mailbox_items / 2).max(1);
        let registry = &self.gateways[gateway].registry;
        let attached = users.iter().filter_map(|user| registry.get(user)).flatten();
        let links: Vec<LinkNo> = attached.map(|(_, link)| *link).collect();
        for link in links {
            self.put(gateway, link, |mailbox| {
                if mailbox.notices_dropped || mailbox.items.len() >= notices_max {
                    mailbox.notices_dropped = true;
                } else {
                    mailbox.items.push(Item::Notice(bytes.clone()));
                }
            });
        }
    }

    /// Gives an answer to the device's session, or to the account command that waits for it.
    pub(crate) fn answer(&mut self, gateway: usize, user: UserId, device: DeviceId, reply: Reply) {
        if let ReplyTo::Request(request) = reply.to
            && let Some(link) = self.gateways[gateway]
                .expected
                .remove(&(user, device, request))
        {
            return self.decided(gateway, link, reply.outcome);
        }
        let attached = self.gateways[gateway].registry.get(&user);
        let link = attached
            .into_iter()
            .flatten()
            .find(|(other, _)| *other == device)
            .map(|(_, link)| *link);
        if let Some(link) = link {
            self.put(gateway, link, |mailbox| {
                mailbox.items.push(Item::Reply(reply));
            });
        }
    }

    fn decided(&mut self, gateway: usize, link: LinkNo, outcome: Outcome) {
        let Some(session) = self.session(gateway, link) else {
            return;
        };
        let Some(Working::Deciding {
            user,
            device,
            token,
        }) = session.working
        else {
            return;
        };
        let result = match outcome {
            Outcome::Done => Ok(self.welcome(user, device, Some(token), None)),
            Outcome::Rejected(rejection) => Err(match rejection.code {
                RejectCode::NameTaken => (CloseCode::NameTaken, "taken"),
                RejectCode::TooManyDevices => (CloseCode::TooManyDevices, "too many devices"),
                _ => (CloseCode::Internal, "the account could not be changed"),
            }),
            Outcome::Accepted(_) | Outcome::Opened { .. } => {
                (Err((CloseCode::Internal, "the answer of another command"))) as Result<_, _>
            }
        };
        self.admit_later(gateway, link, result);
    }

    pub(crate) fn take_mail(&mut self, gateway: usize, link: LinkNo) {
        let Some(session) = self.session(gateway, link) else {
            return;
        };
        // The next item wakes it again.
        let mailbox = std::mem::take(&mut session.mailbox);
        let mut lane = BytesMut::new();
        for item in mailbox.items {
            match item {
                Item::Reply(reply) => session.session.reply(&reply),
                Item::Notice(bytes) => lane.extend_from_slice(&bytes),
                Item::Event(inbox_seq, bytes) => {
                    if let Some(member) = &mut session.member
                        && member.window.offer(inbox_seq) == Offer::Send
                    {
                        member.window.sent(inbox_seq, bytes.len());
                        lane.extend_from_slice(&bytes);
                    }
                }
            }
        }
        if let (Some(inbox_seq), Some(member)) = (mailbox.lagged, &mut session.member) {
            member.window.missed(inbox_seq);
        }
        if mailbox.notices_dropped && session.member.is_some() {
            lane.extend_from_slice(&notice_frame(&Notice::Check));
        }
        if let Some((code, reason)) = mailbox.close {
            // Nobody waits for room for a command of a session that is over.
            session.working = None;
            session.session.end(code, reason);
        }
        if !lane.is_empty() {
            self.write(link, Stream::Lane, &lane);
        }
        self.settle(gateway, link);
    }

    fn start_reading(&mut self, gateway: usize, link: LinkNo) {
        let session = self.session(gateway, link);
        let Some(member) = session.and_then(|session| session.member.as_mut()) else {
            return;
        };
        if member.reading || member.retry_at.is_some() || member.window.want() == Want::Nothing {
            return;
        }
        member.reading = true;
        let after = self.moment();
        self.tell_gateway(gateway, after, AtGateway::ReadPage(link));
    }

    /// The store is read; what was found takes a while to come back.
    pub(crate) fn read_page(&mut self, gateway: usize, link: LinkNo) {
        let session = self.session(gateway, link);
        let Some(member) = session.and_then(|session| session.member.as_mut()) else {
            return;
        };
        let user = member.user;
        let Want::Read {
            after,
            max_events,
            max_bytes,
        } = member.window.want()
        else {
            member.reading = false;
            return;
        };
        let page = self.inbox_page(user, after, max_events, max_bytes);
        let last = page.last.map_or(0, InboxSeq::get);
        let from = after.0;
        self.note("page", &[("link", link), ("from", from), ("last", last)]);
        let after = self.moment();
        self.tell_gateway(gateway, after, AtGateway::Page(link, Box::new(page)));
    }

    fn inbox_page(&self, user: UserId, after: Cursor, max_events: usize, max_bytes: usize) -> Page {
        let rows = self.store.inbox(user, after, max_events);
        let mut page = Page {
            last: rows.last().map(|row| row.inbox_seq),
            exhausted: rows.len() < max_events,
            ..Page::default()
        };
        for row in rows {
            let body = match row.kind {
                InboxKind::Receipt(receipt) => EventBody::Receipt(receipt),
                InboxKind::Invitation(invitation) => EventBody::Invitation(invitation),
                InboxKind::Changed(changed) => match self.as_it_is_now(*changed) {
                    Some(changed) => EventBody::Changed(Box::new(changed)),
                    None => {
                        page.gap = true;
                        page.exhausted = false;
                        break;
                    }
                },
                InboxKind::Message { conversation, seq } => {
                    let Some(HistoryRow(message)) = self.store.message(conversation, seq) else {
                        page.gap = true;
                        page.exhausted = false;
                        break;
                    };
                    let mut message = self.readable(message);
                    if let Some(state) = &mut message.state {
                        // Each change has an event of its own, which is still to come.
                        let counts = self.sabotage == Some(Sabotage::CountAhead);
                        **state = MessageState {
                            version: if counts { state.version } else { 0 },
                            expires_at: state.expires_at,
                            ..MessageState::default()
                        };
                    }
                    EventBody::Message(message)
                }
            };
            let start = page.frames.len();
            let event = wire::Event::numbered(row.inbox_seq, &body);
            frame::encode(FrameType::Event, &event, &mut page.frames);
            if page.frames.len() > max_bytes && start > 0 {
                page.frames.truncate(start);
                page.exhausted = false;
                break;
            }
            page.events.push((row.inbox_seq, page.frames.len() - start));
        }
        page
    }

    /// A change with the words that the message has now. `None`: the history has not come so far.
    fn as_it_is_now(&self, mut changed: Changed) -> Option<Changed> {
        if !matches!(changed.kind, ChangedKind::Edited(_)) {
            return Some(changed);
        }
        let found = self.store.message(changed.conversation, changed.seq)?;
        let message = self.readable(found.0);
        let version = message.state.as_ref().map_or(0, |state| state.version);
        if version < changed.version && self.sabotage != Some(Sabotage::StaleWords) {
            return None;
        }
        changed.kind = match message.content {
            Content::Gone(gone) => ChangedKind::Gone(gone),
            content => ChangedKind::Edited(content),
        };
        Some(changed)
    }

    pub(crate) fn take_page(&mut self, gateway: usize, link: LinkNo, page: Page) {
        let now = self.now;
        let Some(session) = self.session(gateway, link) else {
            return;
        };
        let Some(member) = &mut session.member else {
            return;
        };
        member.reading = false;
        let mut wrong = None;
        let hole = page
            .events
            .first()
            .is_some_and(|(first, _)| *first != member.window.next());
        if hole {
            wrong = Some(format!("the inbox of {} has a hole", member.user));
        }
        let mut bytes = 0;
        for (inbox_seq, length) in page.events.iter().filter(|_| !hole) {
            if !member.window.fits(*length) {
                break;
            }
            member.window.sent(*inbox_seq, *length);
            bytes += length;
        }
        if bytes > 0 {
            member.gap_tries = 0;
        } else if page.gap {
            member.gap_tries += 1;
            let wait = GAP_WAIT_MIN << member.gap_tries.min(16);
            member.retry_at = Some(now + wait.min(GAP_WAIT_MAX));
        }
        if let Err(error) = member.window.page(page.last, page.exhausted) {
            wrong = Some(format!("{}: {error}", member.user));
        }
        if member.gap_tries > GAP_TRIES_MAX {
            session
                .session
                .close(UNAVAILABLE.0, "a history row does not come");
        }
        if let Some(what) = wrong {
            session.session.close(UNAVAILABLE.0, UNAVAILABLE.1);
            self.checker
                .condemn("the store lacks what was pushed", what);
        }
        if bytes > 0 {
            self.write(link, Stream::Lane, &page.frames[..bytes]);
        }
        self.settle(gateway, link);
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

    /// Inbox entries that a user has, by the store.
    pub(crate) fn inbox_head(&self, user: UserId) -> u64 {
        let row = self.store.entity(EntityKey::Inbox(user));
        row.and_then(|row| Inbox::decode(row).ok()?.head)
            .map_or(0, InboxSeq::get)
    }
}
