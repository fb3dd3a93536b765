//! The one task that keeps a client connected: attempts, pauses, redirects, and what all its parts share.

mod changes;
mod link;
mod liveness;
mod route;
mod streams;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quipu_protocol::credentials::{Credentials, Hello};
use quipu_protocol::error::{CloseCode, Retry};
use quipu_protocol::event::Content;
use quipu_protocol::id::{ConversationId, Cursor, MessageId, Seq, TimestampMs, UserId};
use quipu_protocol::limits::BLOB_STREAMS_MAX;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::backoff::{Backoff, jitter};
use crate::cache::{Cache, StoredSession, Tables};
use crate::config::{Config, EVENT_STREAM_EVENTS};
use crate::error::Error;
use crate::events::{ClientEvent, ConnectionState, InboxHead, OfflineReason};
use crate::fleeting::Fleeting;
use crate::groups::CatchUp;
use crate::model::{About, Account, LocalMessage, MessageChange, Taken, Target};
use crate::net::Net;
use crate::pin::Pins;
use crate::token;
pub(crate) use changes::Asked;
use changes::Changes;
use link::{Again, Ended};
use route::Route;

/// The client's name and version in HELLO.
const AGENT: &str = concat!("quipu-client/", env!("CARGO_PKG_VERSION"));
/// How long the last packets of a close may take.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest pause before a token file that has no good token is read again.
const TOKEN_RETRY: Duration = Duration::from_secs(2);

/// Who a new device says it is.
pub(crate) enum SignIn {
    /// A name, its password, and whether to make the account.
    Password {
        name: UserId,
        password: String,
        register: bool,
    },
    /// Whoever the token in this file names.
    Token(PathBuf),
}

impl fmt::Debug for SignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { name, register, .. } => f
                .debug_struct("Password")
                .field("name", name)
                .field("register", register)
                .finish_non_exhaustive(),
            Self::Token(file) => f.debug_tuple("Token").field(file).finish(),
        }
    }
}

/// Where the answer to a command goes.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// What the handle asks of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    SignIn(SignIn, Answer<Account>),
    OpenDirect(UserId, Answer<ConversationId>),
    Change(Box<Asked>),
    Rebind(Answer<()>),
    Close(Answer<()>),
}

/// What the handle and the driver share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) cache: Cache,
    state: watch::Sender<ConnectionState>,
    /// `None` once the driver has stopped, so that whoever waits for news learns that there will be none.
    news: Arc<Mutex<Option<Publisher>>>,
    connection: Mutex<Option<quinn::Connection>>,
    /// Blob streams that may be opened still. Further transfers wait.
    pub(crate) blobs: Semaphore,
    /// Which large groups are being caught up with.
    pub(crate) groups: CatchUp,
    /// Typing and presence.
    pub(crate) fleeting: Fleeting,
}

#[derive(Debug)]
struct Publisher {
    events: broadcast::Sender<ClientEvent>,
    head: watch::Sender<InboxHead>,
}

/// Starts the driver of one client.
pub(crate) async fn start(
    config: Config,
    cache: Cache,
    commands: mpsc::Receiver<Command>,
) -> Result<Arc<Shared>, Error> {
    let session = cache.run(|cache| Ok(cache.session())).await?;
    let head = session.map_or_else(InboxHead::default, |session| InboxHead {
        life: session.resume.life,
        cursor: session.resume.cursor,
    });
    let publisher = Publisher {
        events: broadcast::channel(EVENT_STREAM_EVENTS).0,
        head: watch::channel(head).0,
    };
    let offline = ConnectionState::Offline {
        reason: OfflineReason::NotSignedIn,
        retry_at: None,
    };
    let state = if session.is_some() {
        ConnectionState::Connecting
    } else {
        offline
    };
    let shared = Arc::new(Shared {
        cache,
        state: watch::channel(state).0,
        news: Arc::new(Mutex::new(Some(publisher))),
        connection: Mutex::new(None),
        blobs: Semaphore::new(BLOB_STREAMS_MAX),
        groups: CatchUp::default(),
        fleeting: Fleeting::default(),
    });
    let pins = Arc::new(Pins::open(config.certificate, config.data.as_deref())?);
    let driver = Driver {
        net: Net::new(&config, pins),
        route: Route::new(config.server.clone()),
        backoff: Backoff::new(config.backoff_base, config.backoff_max),
        rng: match config.backoff_seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::seed_from_u64(rand::random()),
        },
        keep_alive: config.keep_alive,
        config,
        shared: Arc::clone(&shared),
        commands,
        sign_in: None,
        changes: Changes::default(),
    };
    tokio::spawn(driver.run());
    Ok(shared)
}

impl Shared {
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<ClientEvent> {
        match &*lock(&self.news) {
            Some(publisher) => publisher.events.subscribe(),
            None => broadcast::channel(1).1,
        }
    }

    pub(crate) fn inbox_head(&self) -> watch::Receiver<InboxHead> {
        match &*lock(&self.news) {
            Some(publisher) => publisher.head.subscribe(),
            None => watch::channel(InboxHead::default()).1,
        }
    }

    pub(crate) fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    /// The connection, for requests beside the session.
    pub(crate) fn online(&self) -> Result<quinn::Connection, Error> {
        let connection = lock(&self.connection).clone();
        connection.ok_or_else(|| match &*self.state.borrow() {
            ConnectionState::Offline { reason, .. } => Error::Offline(reason.to_string()),
            ConnectionState::Connecting | ConnectionState::Online { .. } => {
                Error::Offline("connecting".into())
            }
        })
    }

    pub(crate) async fn enqueue(
        &self,
        target: Target,
        contents: Vec<Content>,
    ) -> Result<Vec<LocalMessage>, Error> {
        let now = wall_clock();
        let messages = contents
            .into_iter()
            .map(|content| (MessageId(rand::random()), content))
            .collect();
        let news = Arc::clone(&self.news);
        let work = move |cache: &mut Tables| {
            let publisher = lock(&news);
            let publisher = publisher.as_ref().ok_or(Error::Closed)?;
            let queued = cache.enqueue(target, messages, now)?;
            if publisher.events.receiver_count() > 0 {
                for local in &queued {
                    publisher.send(ClientEvent::Queued(Arc::new(local.clone())));
                }
            }
            Ok(queued)
        };
        let queued = self.cache.run(work).await?;
        for local in &queued {
            self.has_sent(local.conversation);
        }
        Ok(queued)
    }

    pub(crate) async fn enqueue_change(
        &self,
        about: About,
        what: MessageChange,
    ) -> Result<Taken, Error> {
        let now = wall_clock();
        let news = Arc::clone(&self.news);
        let work = move |cache: &mut Tables| {
            let publisher = lock(&news);
            let publisher = publisher.as_ref().ok_or(Error::Closed)?;
            let taken = cache.enqueue_change(about, what, now)?;
            if let Taken::Queued(queued) = &taken
                && publisher.events.receiver_count() > 0
            {
                publisher.send(ClientEvent::ChangeQueued(Arc::new(queued.clone())));
            }
            Ok(taken)
        };
        self.cache.run(work).await
    }

    pub(crate) async fn wait_acked(&self, id: MessageId) -> Result<Seq, Error> {
        let (waiter, end) = oneshot::channel();
        self.cache.run(move |cache| cache.wait(id, waiter)).await?;
        end.await.map_err(|_| Error::Closed)?
    }

    pub(crate) async fn mark_read(
        &self,
        conversation: ConversationId,
        seq: Seq,
    ) -> Result<(), Error> {
        self.cache
            .run(move |cache| cache.mark_read(conversation, seq))
            .await
    }

    /// Tells everybody who listens; what it is about is in the cache already.
    pub(crate) fn announce(&self, event: ClientEvent) {
        if let Some(publisher) = &*lock(&self.news) {
            publisher.send(event);
        }
    }

    fn set_state(&self, state: ConnectionState) {
        self.state.send_replace(state);
    }

    fn set_connection(&self, connection: Option<quinn::Connection>) {
        *lock(&self.connection) = connection;
    }
}

impl Publisher {
    fn send(&self, event: ClientEvent) {
        // Nobody listens: the cache has it.
        let _ = self.events.send(event);
    }

    fn raise_head(&self, cursor: Cursor) {
        self.head
            .send_if_modified(|head| std::mem::replace(&mut head.cursor, cursor) != cursor);
    }
}

/// Everything that outlives one connection.
#[derive(Debug)]
struct Driver {
    config: Config,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    net: Net,
    route: Route,
    backoff: Backoff,
    rng: StdRng,
    keep_alive: Duration,
    sign_in: Option<(SignIn, Answer<Account>)>,
    /// What was asked for and not answered.
    changes: Changes,
}

/// Why the driver stops: somebody may wait for it.
type Stop = Option<Answer<()>>;

/// How a wait ended.
enum Waited<T> {
    Done(T),
    Stop(Stop),
}

impl Driver {
    async fn run(mut self) {
        let stop = self.serve().await;
        self.changes.give_up("the client was closed");
        self.shared.cache.outbound().stop();
        lock(&self.shared.news).take();
        self.shared.set_connection(None);
        self.shared.cache.close().await;
        self.shared.set_state(ConnectionState::Offline {
            reason: OfflineReason::Closed,
            retry_at: None,
        });
        self.net.finish(CLOSE_TIMEOUT).await;
        if let Some(answer) = stop {
            let _ = answer.send(Ok(()));
        }
    }

    /// Goes from connection to connection until it is told to stop.
    async fn serve(&mut self) -> Stop {
        let mut state = self.shared.state.borrow().clone();
        loop {
            if !matches!(state, ConnectionState::Connecting)
                && let Waited::Stop(stop) = self.offline(state).await
            {
                return stop;
            }
            self.shared.set_state(ConnectionState::Connecting);
            let ended = self.attempt().await;
            self.shared.cache.outbound().stop();
            self.shared.set_connection(None);
            match ended {
                Ended::Stop(stop) => return stop,
                Ended::Lost { reason, again } => {
                    tracing::info!(%reason, "connection lost");
                    state = self.after(reason, again);
                }
            }
        }
    }

    /// What to do after a connection ended: the state to be in.
    fn after(&mut self, reason: OfflineReason, again: Again) -> ConnectionState {
        let retry_after = match again {
            Again::Never => None,
            Again::Now => Some(Duration::ZERO),
            Again::After { at_most } => Some(jitter(at_most, &mut self.rng)),
            // All that were turned away in one moment were told nearly the same time.
            Again::AtLeast { wait } => Some(wait + self.backoff.next(&mut self.rng)),
            Again::Elsewhere {
                ref authority,
                at_most,
            } if self.route.redirected(authority.clone()) => {
                if self.sign_in.is_some() {
                    return ConnectionState::Connecting;
                }
                Some(jitter(at_most, &mut self.rng))
            }
            Again::BackOff | Again::Elsewhere { .. } => {
                self.route.failed();
                Some(self.backoff.next(&mut self.rng))
            }
        };
        if let Some((_, answer)) = self.sign_in.take() {
            // Signing in is one attempt: the password is not kept for another.
            let _ = answer.send(Err(reason.into()));
            return ConnectionState::Offline {
                reason: OfflineReason::NotSignedIn,
                retry_at: None,
            };
        }
        match retry_after {
            Some(Duration::ZERO) => ConnectionState::Connecting,
            Some(pause) => ConnectionState::Offline {
                reason,
                retry_at: Some(Instant::now() + pause),
            },
            None => ConnectionState::Offline {
                reason,
                retry_at: None,
            },
        }
    }

    /// Waits until it is time to connect.
    async fn offline(&mut self, state: ConnectionState) -> Waited<()> {
        let retry_at = match &state {
            ConnectionState::Offline { retry_at, .. } => *retry_at,
            ConnectionState::Connecting | ConnectionState::Online { .. } => Some(Instant::now()),
        };
        if let ConnectionState::Offline {
            reason,
            retry_at: None,
        } = &state
        {
            self.changes.give_up(&reason.to_string());
        }
        let reason = match &state {
            ConnectionState::Offline { reason, .. } => reason.clone(),
            ConnectionState::Connecting | ConnectionState::Online { .. } => OfflineReason::Closed,
        };
        self.shared.set_state(state);
        loop {
            let command = tokio::select! {
                () = sleep_until(retry_at) => return Waited::Done(()),
                command = self.commands.recv() => command,
            };
            match command {
                None => return Waited::Stop(None),
                Some(Command::Close(answer)) => return Waited::Stop(Some(answer)),
                Some(Command::SignIn(sign_in, answer)) => {
                    self.sign_in = Some((sign_in, answer));
                    return Waited::Done(());
                }
                Some(Command::OpenDirect(_, answer)) => {
                    let _ = answer.send(Err(Error::Offline(reason.to_string())));
                }
                Some(Command::Change(asked)) => {
                    let _ = asked.answer.send(Err(Error::Offline(reason.to_string())));
                }
                Some(Command::Rebind(answer)) => {
                    let rebound = self.net.rebind().map(drop);
                    let _ = answer.send(rebound);
                    if !matches!(reason, OfflineReason::NotSignedIn) {
                        return Waited::Done(());
                    }
                }
            }
        }
    }

    /// One connection, from the first packet to its end.
    async fn attempt(&mut self) -> Ended {
        let known = |cache: &mut Tables| Ok((cache.session(), cache.token_file()));
        let (session, token_file) = match self.shared.cache.run(known).await {
            Ok(known) => known,
            Err(error) => return Ended::storage(&error),
        };
        let token_file = match (&self.sign_in, session) {
            (Some((SignIn::Token(file), _)), None) => Some(file.clone()),
            (Some((SignIn::Password { .. }, _)) | None, _) | (Some(_), Some(_)) => token_file,
        };
        let shown = match &token_file {
            Some(file) => match token::load(file).await {
                Ok(token) => Some(token),
                Err(why) => {
                    let again = Again::After {
                        at_most: TOKEN_RETRY,
                    };
                    return Ended::lost(OfflineReason::NoToken(why), again);
                }
            },
            None => None,
        };
        let Some(credentials) = self.credentials(session.as_ref(), shown.as_ref()) else {
            return Ended::lost(OfflineReason::NotSignedIn, Again::Never);
        };
        let hello = Hello {
            agent: AGENT.into(),
            credentials,
            resume: session.map(|session| session.resume),
        };
        let shown = token_file.zip(shown);
        let deadline = Instant::now() + self.config.connect_timeout;
        let authority = self.route.authority();
        let opened = match self.connect(&authority, deadline).await {
            Waited::Stop(stop) => return Ended::Stop(stop),
            Waited::Done(Ok(opened)) => opened,
            Waited::Done(Err(ended)) => return ended,
        };
        link::Link::new(self, authority, opened, hello, shown, deadline)
            .run()
            .await
    }

    /// What to prove oneself with; `None`: there is no account and nobody signs in.
    fn credentials(
        &self,
        session: Option<&StoredSession>,
        shown: Option<&token::Token>,
    ) -> Option<Credentials> {
        if let Some(shown) = shown {
            return Some(Credentials::External {
                jwt: shown.jwt.clone(),
                label: self.config.device_label.clone(),
                device: session.map(|session| (session.account.device, session.token)),
            });
        }
        if let Some(session) = session {
            return Some(Credentials::Session {
                name: session.account.user,
                device: session.account.device,
                token: session.token,
            });
        }
        match &self.sign_in {
            Some((
                SignIn::Password {
                    name,
                    password,
                    register,
                },
                _,
            )) => Some(self.config.credentials(*name, password.clone(), *register)),
            Some((SignIn::Token(_), _)) | None => None,
        }
    }

    /// Opens a connection, answering commands meanwhile.
    async fn connect(
        &mut self,
        authority: &str,
        deadline: Instant,
    ) -> Waited<Result<link::Opened, Ended>> {
        let limit = deadline.saturating_duration_since(Instant::now());
        let connecting = link::connect(&mut self.net, authority, self.keep_alive, limit);
        let connecting = tokio::time::timeout_at(deadline, connecting);
        let busy = self.sign_in.is_some();
        match wait(connecting, &mut self.commands, busy).await {
            Waited::Done(Ok(opened)) => Waited::Done(opened),
            Waited::Done(Err(_)) => Waited::Done(Err(Ended::lost(
                OfflineReason::Unreachable(format!("{authority} does not answer")),
                Again::BackOff,
            ))),
            Waited::Stop(stop) => Waited::Stop(stop),
        }
    }
}

/// Waits for work, answering the commands that come meanwhile.
async fn wait<T>(
    work: impl Future<Output = T>,
    commands: &mut mpsc::Receiver<Command>,
    signing_in: bool,
) -> Waited<T> {
    let mut work = std::pin::pin!(work);
    loop {
        let command = tokio::select! {
            done = &mut work => return Waited::Done(done),
            command = commands.recv() => command,
        };
        match command {
            None => return Waited::Stop(None),
            Some(Command::Close(answer)) => return Waited::Stop(Some(answer)),
            Some(command) => refuse(command, signing_in),
        }
    }
}

/// Answers a command that has no place while connecting.
fn refuse(command: Command, signing_in: bool) {
    let connecting = || Error::Offline("connecting".into());
    match command {
        Command::SignIn(_, answer) => {
            let error = if signing_in {
                Error::Invalid("another sign-in is under way".into())
            } else {
                connecting()
            };
            let _ = answer.send(Err(error));
        }
        Command::OpenDirect(_, answer) => {
            let _ = answer.send(Err(connecting()));
        }
        Command::Change(asked) => {
            let _ = asked.answer.send(Err(connecting()));
        }
        // The attempt that is under way uses the newest route already, or fails and is repeated.
        Command::Rebind(answer) | Command::Close(answer) => {
            let _ = answer.send(Ok(()));
        }
    }
}

impl Config {
    fn credentials(&self, name: UserId, password: String, register: bool) -> Credentials {
        let label = self.device_label.clone();
        if register {
            let invitation = self.invitation.clone().unwrap_or_default();
            Credentials::Register {
                name,
                password,
                label,
                invitation,
            }
        } else {
            Credentials::Login {
                name,
                password,
                label,
            }
        }
    }
}

/// What a close by the gateway means for the next attempt.
fn again(code: CloseCode, retry_after: Option<Duration>) -> Again {
    match code.retry() {
        // The gateway has finished, the application has not: a clean close is a restart, not a refusal.
        Retry::No if code == CloseCode::Ok => Again::BackOff,
        Retry::No => Again::Never,
        Retry::Now => Again::Now,
        // A redirect whose address was not understood.
        Retry::After | Retry::Elsewhere => match retry_after {
            Some(wait) => Again::AtLeast { wait },
            None => Again::BackOff,
        },
    }
}

fn wall_clock() -> TimestampMs {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    TimestampMs(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The values behind these locks are replaced whole, so a panic elsewhere leaves them usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
