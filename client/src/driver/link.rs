//! One connection from its handshake to its end: pumps a session between the streams, the cache and the outbox.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use quinn::{ConnectionError, RecvStream, SendStream, VarInt};
use quipu_protocol::credentials::Hello;
use quipu_protocol::error::CloseCode;
use quipu_protocol::event::{Event, EventBody, Notice, Outcome, Reply, ReplyTo};
use quipu_protocol::id::{ConversationId, RequestId, UserId};
use quipu_protocol::limits::REASON_BYTES_MAX;
use quipu_protocol::retry_after;
use quipu_protocol::session::{
    ClientOutput, ClientSession, LaneId, Outbox, Receipts, SendBlocked, Settled,
};
use quipu_protocol::welcome::{GoAway, Welcome};
use tokio::time::{Instant, timeout};

use super::liveness::Liveness;
use super::streams::{Progress, Source, Streams};
use super::{Answer, Command, Driver, Stop, again, lock, refuse};
use crate::backoff::jitter;
use crate::cache::{Tables, Turn};
use crate::error::{Error, Refusal};
use crate::events::{ClientEvent, ConnectionState, InboxHead, OfflineReason};
use crate::fleeting::Listening;
use crate::groups;
use crate::listed;
use crate::model::Account;
use crate::net::{self, Net};
use crate::pin::Verdict;
use crate::token::{self, Token};

/// Bytes that are read before they are written to the cache in one transaction.
const TURN_BYTES_MAX: usize = 128 * 1024;
/// OPEN_DIRECTs of the application that wait for an answer at once. At the limit the call fails.
const OPENS_MAX: usize = 256;
/// How soon after a move to another socket the gateway must be heard, before the client connects anew.
const REBIND_DEADLINE: Duration = Duration::from_secs(3);

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The application closed the client.
    Stop(Stop),
    /// It broke or was refused.
    Lost { reason: OfflineReason, again: Again },
}

/// When to connect again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Again {
    /// Not by itself.
    Never,
    /// At once.
    Now,
    /// After the next delay of the back-off.
    BackOff,
    /// After a random part of this.
    After { at_most: Duration },
    /// After this and the next delay of the back-off: the gateway has named a time.
    AtLeast { wait: Duration },
    /// At another gateway, after a random part of this.
    Elsewhere {
        authority: String,
        at_most: Duration,
    },
}

impl Ended {
    pub(super) fn lost(reason: OfflineReason, again: Again) -> Self {
        Self::Lost { reason, again }
    }

    /// The data folder fails: perhaps the disk is full, and will not be later.
    pub(super) fn storage(error: &Error) -> Self {
        tracing::error!(%error, "the cache fails");
        Self::lost(OfflineReason::Storage(error.to_string()), Again::BackOff)
    }

    fn unreachable(why: impl Into<String>) -> Self {
        Self::lost(OfflineReason::Unreachable(why.into()), Again::BackOff)
    }
}

/// A connection with S0 open and nothing said.
#[derive(Debug)]
pub(super) struct Opened {
    connection: quinn::Connection,
    send: SendStream,
    receive: RecvStream,
}

/// Connects to the first address of a gateway that answers.
pub(super) async fn connect(
    net: &mut Net,
    authority: &str,
    keep_alive: Duration,
    limit: Duration,
) -> Result<Opened, Ended> {
    let addresses = net::resolve(authority)
        .await
        .map_err(|error| Ended::unreachable(error.to_string()))?;
    let limit = limit / addresses.len() as u32;
    let mut last = Ended::unreachable(format!("{authority} does not answer"));
    for address in addresses {
        let (connecting, verifier) = net
            .connect(authority, address, keep_alive)
            .map_err(|error| Ended::unreachable(error.to_string()))?;
        let connection = match timeout(limit, connecting).await {
            Err(_) => continue,
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                if let Verdict::Changed(changed) = verifier.take_verdict() {
                    let reason = OfflineReason::CertificateChanged(Box::new(changed));
                    return Err(Ended::lost(reason, Again::Never));
                }
                last = lost(authority, &error);
                continue;
            }
        };
        // A resumed TLS session shows no certificate: it was checked when the session began.
        if let Verdict::Accepted(shown) = verifier.take_verdict() {
            net.remember(authority, shown)
                .map_err(|error| Ended::storage(&error))?;
        }
        let (send, receive) = connection
            .open_bi()
            .await
            .map_err(|error| lost(authority, &error))?;
        return Ok(Opened {
            connection,
            send,
            receive,
        });
    }
    Err(last)
}

/// One connection.
pub(super) struct Link<'a> {
    driver: &'a mut Driver,
    authority: String,
    connection: quinn::Connection,
    streams: Streams,
    session: ClientSession,
    /// Until when WELCOME must come; `None` after it.
    welcome_until: Option<Instant>,
    /// WELCOME, until the cache has taken it over.
    welcome: Option<Welcome>,
    account: Option<Account>,
    turn: Turn,
    outbox: Outbox,
    receipts: Receipts,
    requests: u64,
    opens: BTreeMap<RequestId, (UserId, Answer<ConversationId>)>,
    token: Option<ShownToken>,
    closing: Option<(CloseCode, String)>,
    go_away: Option<Leaving>,
    liveness: Liveness,
    liveness_at: Instant,
    network: Network,
    /// Typing and presence, from WELCOME on.
    listening: Option<Listening>,
}

/// The issuer's token that the session rests on.
struct ShownToken {
    file: PathBuf,
    shown: Token,
    newer: Pin<Box<dyn Future<Output = Token> + Send>>,
    /// The REFRESH that has no answer yet.
    request: Option<RequestId>,
}

impl ShownToken {
    fn new(file: PathBuf, shown: Token) -> Self {
        Self {
            newer: Box::pin(token::next(file.clone(), shown.clone())),
            file,
            shown,
            request: None,
        }
    }
}

/// The next token of the file; never, if the session rests on none.
async fn newer(token: &mut Option<ShownToken>) -> Token {
    match token {
        Some(token) => token.newer.as_mut().await,
        None => std::future::pending().await,
    }
}

/// What a GOAWAY announced.
struct Leaving {
    notice: GoAway,
    /// When to leave for the other gateway by itself.
    at: Option<Instant>,
}

/// The route of the machine, and what became of the last move.
struct Network {
    local: Option<IpAddr>,
    poll_at: Option<Instant>,
    /// Datagrams received before the last move, and until when one more must come.
    moved: Option<(u64, Instant)>,
}

impl<'a> Link<'a> {
    pub(super) fn new(
        driver: &'a mut Driver,
        authority: String,
        opened: Opened,
        hello: Hello,
        token: Option<(PathBuf, Token)>,
        until: Instant,
    ) -> Self {
        let now = Instant::now();
        let liveness = Liveness::new(driver.config.answer_timeout);
        let network = Network {
            local: net::local_address_towards(opened.connection.remote_address()),
            poll_at: driver.config.network_poll.map(|poll| now + poll),
            moved: None,
        };
        Self {
            authority,
            connection: opened.connection,
            streams: Streams::new(opened.send, opened.receive),
            session: ClientSession::new(now.into_std(), hello),
            welcome_until: Some(until),
            welcome: None,
            account: None,
            turn: Turn::default(),
            outbox: Outbox::default(),
            receipts: Receipts::new(driver.config.receipt_interval),
            // A late answer to a request of an earlier connection (QP-REPLY-2) must not look like one to a request of this one.
            requests: u64::from(rand::random::<u32>()) << 16,
            opens: BTreeMap::new(),
            token: token.map(|(file, shown)| ShownToken::new(file, shown)),
            closing: None,
            go_away: None,
            liveness_at: now + liveness.interval(),
            liveness,
            network,
            listening: None,
            driver,
        }
    }

    /// Pumps until the end.
    pub(super) async fn run(mut self) -> Ended {
        let ended = loop {
            if let Err(ended) = self.take_turn().await {
                break ended;
            }
            if let Err(ended) = self.wait().await {
                break ended;
            }
        };
        let (code, reason) = self
            .closing
            .take()
            .unwrap_or((CloseCode::Ok, String::new()));
        self.connection
            .close(VarInt::from_u32(code.code()), reason.as_bytes());
        for (_, (_, answer)) in std::mem::take(&mut self.opens) {
            let _ = answer.send(Err(Error::Offline("the connection broke".into())));
        }
        self.driver.changes.interrupted();
        ended
    }

    /// Brings what has come to the cache and what waits to the session.
    async fn take_turn(&mut self) -> Result<(), Ended> {
        self.drain();
        if let Some(welcome) = self.welcome.take() {
            self.welcomed(welcome).await?;
        }
        self.commit().await?;
        if self.account.is_some() {
            self.pump().await?;
        }
        self.drain();
        if self.is_done_here() {
            return Err(self.gone());
        }
        match &self.closing {
            Some((code, reason)) => {
                tracing::warn!(%code, %reason, gateway = %self.authority, "closing");
                Err(Ended::unreachable(format!(
                    "closed towards the gateway: {reason}"
                )))
            }
            None => Ok(()),
        }
    }

    /// Takes what the session wants done.
    fn drain(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                ClientOutput::Transmit(bytes) => self.streams.write(&bytes),
                ClientOutput::Welcomed(welcome) => {
                    self.account = Some(Account {
                        user: welcome.user,
                        device: welcome.device,
                    });
                    self.welcome = Some(welcome);
                }
                ClientOutput::Event(event) => self.take_event(event),
                ClientOutput::Notice(Notice::Check) => groups::catch_up_all(&self.driver.shared),
                ClientOutput::Notice(notice) => self.turn.notices.push(notice),
                ClientOutput::Reply(reply) => self.take_reply(reply),
                ClientOutput::GoAway(notice) => self.take_go_away(notice),
                ClientOutput::Close { code, reason } => self.closing = Some((code, reason)),
            }
        }
    }

    fn take_event(&mut self, event: Event) {
        if let EventBody::Message(message) = &event.body {
            let shared = &self.driver.shared;
            shared.has_spoken(message.conversation, message.from);
            if self.driver.config.presence && message.to.is_some() {
                let own = self.account.is_some_and(|me| me.user == message.from);
                let peer = message.to.filter(|_| own).unwrap_or(message.from);
                shared.may_watch(peer);
            }
        }
        if let EventBody::Message(message) = &event.body
            && self
                .account
                .is_some_and(|me| me.user == message.from && me.device == message.from_device)
        {
            self.outbox
                .accepted(message.conversation, message.client_seq);
        }
        self.turn.events.push(event);
    }

    fn take_reply(&mut self, reply: Reply) {
        let now = Instant::now().into_std();
        match (reply.to, reply.outcome) {
            (
                ReplyTo::Send {
                    conversation,
                    client_seq,
                },
                outcome,
            ) => {
                let message = (conversation, client_seq);
                let end = self.outbox.answered(now, message, outcome);
                self.turn.settled.extend(end);
            }
            (ReplyTo::Request(request), outcome) if self.is_refresh(request) => {
                self.take_refreshed(outcome);
            }
            (ReplyTo::Request(request), Outcome::Opened { conversation, head }) => {
                let asked = self.opens.remove(&request);
                let peer = asked.as_ref().map(|(peer, _)| *peer);
                self.outbox.take_opening(request);
                self.outbox.opened(conversation);
                self.turn.settled.push(Settled::Opened {
                    conversation,
                    peer,
                    head,
                });
                if let Some((peer, answer)) = asked {
                    if self.driver.config.presence {
                        self.driver.shared.may_watch(peer);
                    }
                    let _ = answer.send(Ok(conversation));
                }
                self.take_changed(request, Outcome::Opened { conversation, head });
            }
            (ReplyTo::Request(request), Outcome::Done) => {
                self.take_changed(request, Outcome::Done);
            }
            (ReplyTo::Request(request), Outcome::Rejected(rejection)) => {
                if let Some(conversation) = self.outbox.take_opening(request) {
                    self.turn
                        .settled
                        .extend(self.outbox.not_opened(now, conversation, rejection));
                } else if let Some((_, answer)) = self.opens.remove(&request) {
                    let _ = answer.send(Err(Error::Refused(Refusal::from(rejection))));
                } else {
                    self.take_changed(request, Outcome::Rejected(rejection));
                }
            }
            // The protocol crate pairs replies and outcomes; what is left says nothing to a client.
            (ReplyTo::Request(_), Outcome::Accepted(_)) => {}
        }
    }

    fn take_changed(&mut self, request: RequestId, outcome: Outcome) {
        let kept = self.driver.changes.answered(request, outcome);
        self.turn.changes.extend(kept);
    }

    fn is_refresh(&self, request: RequestId) -> bool {
        let asked = self.token.as_ref().and_then(|token| token.request);
        asked == Some(request)
    }

    fn take_refreshed(&mut self, outcome: Outcome) {
        if let Some(token) = &mut self.token {
            token.request = None;
            let file = token.file.display();
            match outcome {
                Outcome::Rejected(rejection) => {
                    tracing::warn!(%file, code = %rejection.code, reason = %rejection.reason, "the newer token was refused");
                }
                Outcome::Done | Outcome::Opened { .. } | Outcome::Accepted(_) => {
                    tracing::info!(%file, "the session rests on the newer token");
                }
            }
        }
    }

    /// Shows the gateway what the file holds now.
    fn refresh(&mut self, found: Token) {
        let Some(token) = &mut self.token else { return };
        let request = RequestId(self.requests);
        let file = token.file.clone();
        match self.session.refresh(request, &found.jwt) {
            Ok(()) => {
                self.requests += 1;
                *token = ShownToken::new(file, found);
                token.request = Some(request);
            }
            // No room now: the file is looked at again soon, and differs still.
            Err(_) => *token = ShownToken::new(file, token.shown.clone()),
        }
    }

    fn take_go_away(&mut self, notice: GoAway) {
        tracing::info!(code = %notice.code, reason = %notice.reason, to = %notice.authority, "the gateway says GOAWAY");
        let within = Duration::from_millis(u64::from(notice.jitter_ms.min(notice.deadline_ms)));
        // The same gateway would still be the one that goes: leave it when nothing is in flight, come back later.
        let at = (!notice.authority.is_empty())
            .then(|| Instant::now() + jitter(within, &mut self.driver.rng));
        self.go_away = Some(Leaving { notice, at });
    }

    /// The device is let in: the cache decides what of it is still true, and everything unanswered is sent again.
    async fn welcomed(&mut self, welcome: Welcome) -> Result<(), Ended> {
        let news = Arc::clone(&self.driver.shared.news);
        let taken = welcome.clone();
        let token_file = self.token.as_ref().map(|token| token.file.clone());
        let work = move |cache: &mut Tables| {
            let welcomed = cache.welcome(&taken, token_file.as_deref())?;
            if let Some(publisher) = &*lock(&news) {
                let resume = welcomed.session.resume;
                publisher.head.send_replace(InboxHead {
                    life: resume.life,
                    cursor: resume.cursor,
                });
                if welcomed.resynced {
                    publisher.send(ClientEvent::Resynced);
                }
                for event in &welcomed.news {
                    publisher.send(event.clone());
                }
            }
            let (waiting, changes) = (cache.waiting()?, cache.waiting_changes()?);
            Ok((welcomed, waiting, changes, cache.unreported(None)?))
        };
        let done = self.driver.shared.cache.run(work).await;
        let (welcomed, waiting, changes, unreported) =
            done.map_err(|error| Ended::storage(&error))?;
        let account = welcomed.session.account;
        tracing::info!(user = %account.user, gateway = %self.authority, resynced = welcomed.resynced,
            waiting = waiting.len(), changes = changes.len(), "online");
        let now = Instant::now().into_std();
        self.outbox.add(waiting);
        self.driver.changes.begin(changes);
        for (conversation, positions) in unreported {
            self.receipts.want(now, conversation, positions);
        }
        self.welcome_until = None;
        self.driver.keep_alive = Duration::from_millis(u64::from(welcome.limits.keep_alive_ms));
        self.driver.route.welcomed(
            self.authority.clone(),
            welcome.gateway,
            welcome.next_gateways,
        );
        self.driver.backoff.reset();
        self.driver
            .shared
            .set_connection(Some(self.connection.clone()));
        self.driver.shared.set_state(ConnectionState::Online {
            gateway: self.authority.as_str().into(),
        });
        if let Some((_, answer)) = self.driver.sign_in.take() {
            let _ = answer.send(Ok(account));
        }
        groups::catch_up_all(&self.driver.shared);
        if let Some(begun) = welcomed.list_due {
            listed::take(&self.driver.shared, begun);
        } else if welcomed.resynced {
            groups::renew_invitations(&self.driver.shared);
        }
        let shared = &self.driver.shared;
        let watches = self.driver.config.presence;
        self.listening = Some(Listening::to(shared, self.connection.clone(), watches));
        Ok(())
    }

    /// Writes what has come in one transaction, then shows it, then lets the session ack it.
    async fn commit(&mut self) -> Result<(), Ended> {
        if self.turn.is_empty() {
            return Ok(());
        }
        let turn = std::mem::take(&mut self.turn);
        let news = Arc::clone(&self.driver.shared.news);
        let delivery_receipts = self.driver.config.delivery_receipts;
        let work = move |cache: &mut Tables| {
            let applied = cache.apply(turn, delivery_receipts)?;
            if let Some(publisher) = &*lock(&news) {
                for event in applied.events {
                    publisher.send(event);
                }
                publisher.raise_head(applied.cursor);
            }
            Ok((applied.cursor, applied.behind))
        };
        let (kept, behind) = self
            .driver
            .shared
            .cache
            .run(work)
            .await
            .map_err(|error| Ended::storage(&error))?;
        self.session.kept(Instant::now().into_std(), kept);
        for (conversation, after) in behind {
            groups::catch_up(&self.driver.shared, conversation, after);
        }
        Ok(())
    }

    /// Hands the session what waits, as far as the connection has room.
    async fn pump(&mut self) -> Result<(), Ended> {
        let now = Instant::now().into_std();
        let news = self.driver.shared.cache.outbound().take();
        self.outbox.add(news.messages);
        self.driver.changes.add_kept(news.changes);
        for (conversation, positions) in news.receipts {
            self.receipts.want(now, conversation, positions);
        }
        while self.streams.has_room()
            && let Some((conversation, positions)) = self.receipts.next(now)
            && self
                .session
                .receipt(conversation, positions.delivered, positions.read)
                .is_ok()
        {
            self.receipts.sent(now, conversation);
            self.drain_transmit();
        }
        // A gateway that goes answers what it has; the rest waits for the next connection.
        let takes_more = self
            .go_away
            .as_ref()
            .is_none_or(|leaving| leaving.at.is_some());
        if takes_more && self.streams.has_room() {
            self.pump_changes().await?;
        }
        while takes_more && self.streams.has_room() {
            let pumped = self.outbox.pump(now, &mut self.session, &mut self.requests);
            if pumped.sync {
                self.sync().await?;
                continue;
            }
            self.turn.settled.extend(pumped.settled);
            let wrote = self.drain_transmit();
            for conversation in &pumped.renumber {
                let id = *conversation;
                let work = move |cache: &mut Tables| cache.renumber(id);
                let renumbered = self
                    .driver
                    .shared
                    .cache
                    .run(work)
                    .await
                    .map_err(|error| Ended::storage(&error))?;
                self.outbox.renumbered(id, &renumbered);
            }
            if !wrote && pumped.renumber.is_empty() {
                break;
            }
        }
        // Refusals that needed no gateway.
        self.commit().await
    }

    /// Asks for the changes that may be asked for now.
    async fn pump_changes(&mut self) -> Result<(), Ended> {
        loop {
            let changes = &mut self.driver.changes;
            let pumped = changes.pump(&mut self.session, &mut self.requests);
            self.drain_transmit();
            if pumped.sync {
                self.sync().await?;
                continue;
            }
            if pumped.renumber.is_empty() {
                return Ok(());
            }
            let work = move |cache: &mut Tables| cache.renumber_changes(&pumped.renumber);
            let renumbered = self.driver.shared.cache.run(work).await;
            let renumbered = renumbered.map_err(|error| Ended::storage(&error))?;
            self.driver.changes.renumbered(&renumbered);
        }
    }

    /// Brings what was answered to the disk, for good.
    async fn sync(&mut self) -> Result<(), Ended> {
        self.commit().await?;
        let synced = self.driver.shared.cache.run(|cache| cache.sync()).await;
        synced.map_err(|error| Ended::storage(&error))?;
        self.outbox.synced();
        self.driver.changes.synced();
        Ok(())
    }

    fn drain_transmit(&mut self) -> bool {
        let before = self.streams.waiting();
        self.drain();
        self.streams.waiting() > before
    }

    /// Waits for the streams, the application or a time, and takes what came.
    async fn wait(&mut self) -> Result<(), Ended> {
        enum Woken {
            Streams(Progress),
            Lane(Result<RecvStream, ConnectionError>),
            Command(Option<Command>),
            Outbound,
            Token(Token),
            Time,
        }
        let at = self.next_time();
        let woken = tokio::select! {
            progress = self.streams.step() => Woken::Streams(progress),
            lane = self.connection.accept_uni() => Woken::Lane(lane),
            command = self.driver.commands.recv() => Woken::Command(command),
            () = self.driver.shared.cache.outbound().changed(), if self.account.is_some() => Woken::Outbound,
            token = newer(&mut self.token), if self.account.is_some() => Woken::Token(token),
            () = tokio::time::sleep_until(at) => Woken::Time,
        };
        match woken {
            Woken::Streams(progress) => self.read(progress).await,
            Woken::Lane(Ok(lane)) if !self.streams.has_lane() => {
                self.streams.set_lane(lane);
                Ok(())
            }
            Woken::Lane(Ok(_)) => {
                self.session.close(
                    CloseCode::ProtocolViolation,
                    "QP-STREAM-3: there is one lane in this version",
                );
                Ok(())
            }
            // The connection is gone; the streams may still hold what came before.
            Woken::Lane(Err(_)) => self.read(Progress::Written).await,
            Woken::Command(command) => self.command(command),
            Woken::Outbound => Ok(()),
            Woken::Token(found) => {
                self.refresh(found);
                Ok(())
            }
            Woken::Time => self.check_times(),
        }
    }

    /// Feeds the session everything that is there already, up to one turn's worth.
    async fn read(&mut self, progress: Progress) -> Result<(), Ended> {
        let mut progress = Some(progress);
        let mut turn_bytes = 0;
        while let Some(now) = progress {
            match now {
                Progress::Written => {}
                Progress::Read(source, read) => {
                    turn_bytes += read;
                    self.feed(source, read);
                }
                Progress::Ended => match self.connection.close_reason() {
                    Some(error) => {
                        // What came before the close counts: the turn is written first.
                        if let Some(welcome) = self.welcome.take() {
                            self.welcomed(welcome).await?;
                        }
                        self.commit().await?;
                        return Err(self.broken(&error));
                    }
                    None => {
                        self.session.handle_finish();
                        return Ok(());
                    }
                },
            }
            if turn_bytes >= TURN_BYTES_MAX || self.closing.is_some() {
                break;
            }
            progress = self.streams.step_now().await;
        }
        Ok(())
    }

    fn feed(&mut self, source: Source, read: usize) {
        let now = Instant::now().into_std();
        let mut bytes = Bytes::copy_from_slice(self.streams.input(read));
        while bytes.has_remaining() {
            match source {
                Source::S0 => self.session.handle_s0(now, &mut bytes),
                Source::Lane(lane) => self.session.handle_lane(now, LaneId(lane), &mut bytes),
            }
            self.drain();
        }
    }

    fn command(&mut self, command: Option<Command>) -> Result<(), Ended> {
        match command {
            None => Err(Ended::Stop(None)),
            Some(Command::Close(answer)) => Err(Ended::Stop(Some(answer))),
            Some(Command::OpenDirect(peer, answer)) if self.account.is_some() => {
                self.open_direct(peer, answer);
                Ok(())
            }
            Some(Command::Rebind(answer)) => {
                let moved = self.rebind();
                let _ = answer.send(Ok(()));
                moved
            }
            Some(Command::Change(asked)) if self.account.is_some() => {
                self.driver.changes.add(*asked);
                Ok(())
            }
            Some(
                command @ (Command::SignIn(..) | Command::OpenDirect(..) | Command::Change(..)),
            ) => {
                refuse(command, self.driver.sign_in.is_some());
                Ok(())
            }
        }
    }

    fn open_direct(&mut self, peer: UserId, answer: Answer<ConversationId>) {
        let request = RequestId(self.requests);
        let asked = if self.opens.len() < OPENS_MAX {
            self.session.open_direct(request, &peer)
        } else {
            Err(SendBlocked::OutputFull)
        };
        match asked {
            Ok(()) => {
                self.requests += 1;
                self.opens.insert(request, (peer, answer));
            }
            Err(blocked) => {
                let _ = answer.send(Err(Error::Offline(blocked.to_string())));
            }
        }
    }

    fn next_time(&self) -> Instant {
        let machines = [
            self.session.poll_timeout(),
            self.outbox.timeout(),
            self.receipts.timeout(),
            self.driver.changes.timeout(),
        ];
        let machines = machines.into_iter().flatten().map(Instant::from_std);
        // What is due but finds no room is tried again when something was written, not in a loop.
        let full = !self.streams.has_room();
        let own = [
            self.welcome_until,
            self.go_away.as_ref().and_then(|leaving| leaving.at),
            self.network.poll_at,
            self.network.moved.map(|(_, until)| until),
        ];
        let machines = machines.filter(|_| !full);
        machines
            .chain(own.into_iter().flatten())
            .fold(self.liveness_at, Instant::min)
    }

    fn check_times(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        self.session.handle_timeout(now.into_std());
        if self.welcome_until.is_some_and(|until| until <= now) {
            return Err(Ended::unreachable(format!(
                "{} did not answer HELLO in time",
                self.authority
            )));
        }
        if let Some(Leaving {
            notice,
            at: Some(at),
        }) = &self.go_away
            && *at <= now
        {
            let again = Again::Elsewhere {
                authority: notice.authority.clone(),
                at_most: Duration::ZERO,
            };
            return Err(Ended::lost(refused(notice.code, &notice.reason), again));
        }
        if self.liveness_at <= now {
            self.liveness_at = now + self.liveness.interval();
            if self
                .liveness
                .is_dead(now.into_std(), &self.connection.stats())
            {
                return Err(Ended::unreachable(format!(
                    "{} stopped answering",
                    self.authority
                )));
            }
        }
        self.check_network(now)
    }

    fn check_network(&mut self, now: Instant) -> Result<(), Ended> {
        if let Some((received, until)) = self.network.moved {
            if self.connection.stats().udp_rx.datagrams > received {
                self.network.moved = None;
            } else if until <= now {
                let reason = OfflineReason::Unreachable(
                    "the connection did not survive the change of network".into(),
                );
                return Err(Ended::lost(reason, Again::Now));
            }
        }
        let Some(poll) = self
            .driver
            .config
            .network_poll
            .filter(|_| self.network.poll_at.is_some_and(|at| at <= now))
        else {
            return Ok(());
        };
        self.network.poll_at = Some(now + poll);
        let local = net::local_address_towards(self.connection.remote_address());
        // No route at all: wait for one.
        if local.is_none() || local == self.network.local {
            return Ok(());
        }
        tracing::info!("the network changed");
        self.network.local = local;
        self.rebind()
    }

    fn rebind(&mut self) -> Result<(), Ended> {
        let changed = |why: &str| OfflineReason::Unreachable(format!("the network changed{why}"));
        match self.driver.net.rebind() {
            Ok(true) => {
                let received = self.connection.stats().udp_rx.datagrams;
                self.network.moved = Some((received, Instant::now() + REBIND_DEADLINE));
                Ok(())
            }
            Ok(false) => Err(Ended::lost(changed(""), Again::Now)),
            Err(error) => Err(Ended::lost(changed(&format!(": {error}")), Again::BackOff)),
        }
    }

    /// Whether the gateway asked to be left alone for a while and everything that was sent is answered.
    fn is_done_here(&self) -> bool {
        self.go_away
            .as_ref()
            .is_some_and(|leaving| leaving.at.is_none())
            && self.session.in_flight() == 0
            && !self.driver.changes.is_waiting()
    }

    /// What the end of the connection means, given what the gateway announced.
    fn broken(&self, error: &ConnectionError) -> Ended {
        if self.go_away.is_some() {
            self.gone()
        } else {
            lost(&self.authority, error)
        }
    }

    /// The end that a GOAWAY announced.
    fn gone(&self) -> Ended {
        let Some(Leaving { notice, .. }) = &self.go_away else {
            return Ended::unreachable("the connection broke");
        };
        let jitter = Duration::from_millis(u64::from(notice.jitter_ms));
        let again = if notice.authority.is_empty() {
            Again::After {
                at_most: jitter.max(self.driver.config.backoff_base),
            }
        } else {
            Again::Elsewhere {
                authority: notice.authority.clone(),
                at_most: jitter,
            }
        };
        Ended::lost(refused(notice.code, &notice.reason), again)
    }
}

fn lost(authority: &str, error: &ConnectionError) -> Ended {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let code = CloseCode::from_code(close.error_code.into_inner());
            let shown = &close.reason[..close.reason.len().min(REASON_BYTES_MAX)];
            let shown = String::from_utf8_lossy(shown);
            let (wait, words) = retry_after::parse(&shown);
            let reason = match wait {
                Some(wait) => format!("{words}; again in {} s", wait.as_secs().max(1)),
                None => words.to_owned(),
            };
            Ended::lost(refused(code, &reason), again(code, wait))
        }
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => Ended::unreachable(format!("{authority}: {error}")),
    }
}

fn refused(code: CloseCode, reason: &str) -> OfflineReason {
    if code == CloseCode::Replaced {
        OfflineReason::Replaced
    } else {
        OfflineReason::Refused {
            code,
            reason: reason.to_owned(),
        }
    }
}
