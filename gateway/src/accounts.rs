//! Who may connect: registering, logging in, session tokens, and where the device's events go on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quipu_core::record::{Command, CommandKind, NewDevice};
use quipu_core::row::{Account, Inbox};
use quipu_protocol::credentials::{Credentials, Hello, Jwt, Resume, Token};
use quipu_protocol::error::{CloseCode, RejectCode};
use quipu_protocol::event::Outcome;
use quipu_protocol::id::{Cursor, DeviceId, RequestId, TimestampMs, UserId};
use quipu_protocol::retry_after;
use quipu_protocol::welcome::{Limits, Welcome};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::config::{self, Registration};
use crate::external::{Believed, Disbelief, Issuer};
use crate::password::{Password, PasswordError, Passwords};
use crate::queries::{Queries, QueryError};
use crate::rates::Rates;
use crate::registry::Registry;
use crate::router::{Router, Unavailable};
use crate::telemetry::Metrics;

/// What WELCOME says about this software.
pub const AGENT: &str = concat!("quipu-gateway/", env!("CARGO_PKG_VERSION"));

/// Why a HELLO was refused: the code and reason that the connection is closed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// What the client concludes.
    pub code: CloseCode,
    /// For a person.
    pub reason: &'static str,
    /// When to come again, if that is known.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// The reason as it goes into the close, with the time in front.
    pub fn words(&self) -> String {
        match self.retry_after {
            Some(time) => retry_after::reason(time, self.reason),
            None => self.reason.to_owned(),
        }
    }
}

const fn refusal(code: CloseCode, reason: &'static str) -> Refusal {
    Refusal {
        code,
        reason,
        retry_after: None,
    }
}

const fn too_often(wait: Duration, reason: &'static str) -> Refusal {
    Refusal {
        retry_after: Some(wait),
        ..refusal(CloseCode::RateLimited, reason)
    }
}

/// The same for an unknown user, a wrong password and a wrong token, so that nobody learns who has an account.
const WRONG: Refusal = refusal(
    CloseCode::Unauthenticated,
    "unknown user, wrong password or wrong token",
);
const UNAVAILABLE: Refusal = refusal(
    CloseCode::Unavailable,
    "the log or the store does not answer",
);

impl From<QueryError> for Refusal {
    fn from(_: QueryError) -> Self {
        // `Queries` has logged it.
        UNAVAILABLE
    }
}

impl From<Unavailable> for Refusal {
    fn from(_: Unavailable) -> Self {
        UNAVAILABLE
    }
}

impl From<PasswordError> for Refusal {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => refusal(CloseCode::Busy, "too many log-ins at once"),
            PasswordError::Failed(why) => {
                tracing::error!(why, "cannot hash or check a password");
                refusal(CloseCode::Internal, "cannot check the password")
            }
        }
    }
}

const NO_ISSUER: &str = "this gateway takes no tokens of an issuer";
const EXPIRED: &str = "QP-TOKEN-3: the token is over, show a newer one";

/// A device that is let in.
#[derive(Debug)]
pub struct Admitted {
    /// What it is told.
    pub welcome: Welcome,
    /// When its session ends unless it shows a newer token; `None`: not by itself.
    pub expires_at: Option<Instant>,
}

/// What a known device shows besides its session token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entered {
    /// Nothing.
    ByDevice,
    /// A token of the issuer.
    WithToken,
}

/// Who may register, decided at start.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Policy {
    Open,
    Invitation(String),
    Closed,
}

/// Decides about HELLOs.
pub struct Accounts {
    policy: Policy,
    passwords: Passwords,
    queries: Queries,
    router: Router,
    registry: Arc<Registry>,
    rates: Arc<Rates>,
    issuer: Option<Arc<Issuer>>,
    life: u64,
    answer_timeout: Duration,
    metrics: Arc<Metrics>,
}

/// What [`Accounts`] works with.
pub struct Surroundings {
    /// Reads accounts.
    pub queries: Queries,
    /// Takes account commands.
    pub router: Router,
    /// Gives their answers.
    pub registry: Arc<Registry>,
    /// How often passwords are checked and accounts made.
    pub rates: Arc<Rates>,
    /// Whose tokens are believed, if anybody's.
    pub issuer: Option<Arc<Issuer>>,
    /// The life that cursors of this gateway belong to.
    pub life: u64,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl Accounts {
    /// Takes the rules from the settings; `listening` decides what `auto` means. Computes one password hash.
    pub fn new(
        settings: &config::Accounts,
        listening: SocketAddr,
        answer_timeout: Duration,
        with: Surroundings,
    ) -> Result<Self, PasswordError> {
        let policy = match settings.registration {
            Registration::Open => Policy::Open,
            Registration::Closed => Policy::Closed,
            Registration::Invitation => Policy::Invitation(settings.invitation.clone()),
            Registration::Auto if listening.ip().to_canonical().is_loopback() => Policy::Open,
            Registration::Auto => Policy::Closed,
        };
        Ok(Self {
            policy,
            passwords: Passwords::new(settings, Arc::clone(&with.metrics))?,
            queries: with.queries,
            router: with.router,
            registry: with.registry,
            rates: with.rates,
            issuer: with.issuer,
            life: with.life,
            answer_timeout,
            metrics: with.metrics,
        })
    }

    /// Whether anybody may register now, for the line that start-up prints.
    pub fn registration(&self) -> &'static str {
        match &self.policy {
            Policy::Open => "open",
            Policy::Invitation(_) => "by invitation",
            Policy::Closed => "closed",
        }
    }

    /// When the session of a user is over who shows a newer token, or why it is not believed.
    pub fn refresh(&self, user: &UserId, jwt: &Jwt) -> Result<Instant, &'static str> {
        let Some(issuer) = &self.issuer else {
            return Err(NO_ISSUER);
        };
        match issuer.judge(jwt, SystemTime::now(), Instant::now()) {
            Ok(believed) if believed.user == *user => Ok(believed.until),
            Ok(_) => Err("the token is another user's"),
            Err(Disbelief::Expired) => Err(EXPIRED),
            Err(Disbelief::Refused(why)) => Err(why),
        }
    }

    /// Answers a HELLO that came `from` an address. Dropping the future is harmless: at worst an account or a device exists whose token nobody has.
    pub async fn admit(&self, hello: Hello, from: IpAddr) -> Result<Admitted, Refusal> {
        let asked = Instant::now();
        let mut expires_at = None;
        let admitted = match hello.credentials {
            Credentials::Register {
                name,
                password,
                label,
                invitation,
            } => match self.may_register(from, &invitation) {
                Ok(()) => self.register(name, Password(password), label).await,
                Err(refusal) => Err(refusal),
            },
            Credentials::Login {
                name,
                password,
                label,
            } => self.log_in(name, Password(password), label, from).await,
            Credentials::External { jwt, label, device } => match self.believe(&jwt) {
                Ok(believed) => {
                    expires_at = Some(believed.until);
                    let user = believed.user;
                    match device {
                        None => self.enter(user, label, from).await,
                        Some((device, token)) => {
                            let how = Entered::WithToken;
                            self.resume(user, device, &token, hello.resume, how).await
                        }
                    }
                }
                Err(refusal) => Err(refusal),
            },
            Credentials::Session {
                name,
                device,
                token,
            } => {
                let how = Entered::ByDevice;
                self.resume(name, device, &token, hello.resume, how).await
            }
        };
        match &admitted {
            Ok(welcome) => {
                self.metrics.sessions_started.inc();
                self.metrics
                    .hello_seconds
                    .observe(asked.elapsed().as_secs_f64());
                if welcome.resumed {
                    self.metrics.sessions_resumed.inc();
                } else if hello.resume.is_some() {
                    self.metrics.sessions_resynced.inc();
                }
            }
            Err(refusal) => {
                self.metrics.sessions_refused.inc();
                if refusal.code == CloseCode::Unauthenticated {
                    self.metrics.credentials_refused.inc();
                }
            }
        }
        admitted.map(|welcome| Admitted {
            welcome,
            expires_at,
        })
    }

    fn believe(&self, jwt: &Jwt) -> Result<Believed, Refusal> {
        let unauthenticated = |why| refusal(CloseCode::Unauthenticated, why);
        let issuer = self
            .issuer
            .as_ref()
            .ok_or_else(|| unauthenticated(NO_ISSUER))?;
        let judged = issuer.judge(jwt, SystemTime::now(), Instant::now());
        judged.map_err(|disbelief| match disbelief {
            Disbelief::Expired => refusal(CloseCode::TokenExpired, EXPIRED),
            Disbelief::Refused(why) => unauthenticated(why),
        })
    }

    /// Adds a device to a user of the issuer, whose account is made if this is the first one.
    async fn enter(&self, user: UserId, label: String, from: IpAddr) -> Result<Welcome, Refusal> {
        let taken = refusal(
            CloseCode::NameTaken,
            "this name has a password and is not the issuer's",
        );
        let mut found = self.queries.account(user).await?;
        if found.is_none() {
            self.rates
                .registration(from)
                .map_err(|wait| too_often(wait, "too many registrations from this address"))?;
            match self.make(user, None, label.clone()).await {
                // Another device of the user was faster, or somebody with a password.
                Err(refusal) if refusal.code == CloseCode::NameTaken => {}
                made => return made,
            }
            found = self.queries.account(user).await?;
        }
        match found {
            Some((account, inbox)) if account.password.is_none() => {
                self.add(user, label, inbox.start()).await
            }
            Some(_) => Err(taken),
            // Taken by a registration that the store does not show yet.
            None => Err(UNAVAILABLE),
        }
    }

    async fn register(
        &self,
        name: UserId,
        password: Password,
        label: String,
    ) -> Result<Welcome, Refusal> {
        let taken = refusal(CloseCode::NameTaken, "this name belongs to somebody");
        // Asked before the password is hashed, which costs more; the shard decides again, in order.
        if self.queries.user_exists(name).await? {
            return Err(taken);
        }
        let password = Some(self.passwords.hash(password).await?);
        self.make(name, password, label).await
    }

    /// Makes an account with one device.
    async fn make(
        &self,
        name: UserId,
        password: Option<String>,
        label: String,
    ) -> Result<Welcome, Refusal> {
        let credentials = NewCredentials::random(label);
        let (device, token) = (credentials.device, credentials.token);
        let (request, kept) = (credentials.request, credentials.kept);
        let kind = CommandKind::Register {
            request,
            password,
            device: kept,
        };
        self.decide(name, device, request, kind).await?;
        self.metrics.registrations.inc();
        Ok(self.welcome(name, device, Some(token), Cursor::START))
    }

    async fn log_in(
        &self,
        name: UserId,
        password: Password,
        label: String,
        from: IpAddr,
    ) -> Result<Welcome, Refusal> {
        // Taken before the password is checked and given back if it was right: many guesses at once gain nothing.
        self.rates
            .password(name, from)
            .map_err(|wait| too_often(wait, "too many wrong passwords for this user from here"))?;
        let found = self.queries.account(name).await?;
        let (stored, start) = match found {
            Some((account, inbox)) => (account.password, inbox.start()),
            None => (None, Cursor::START),
        };
        if !self.passwords.verify(password, stored).await? {
            return Err(WRONG);
        }
        self.rates.password_was_right(name, from);
        self.add(name, label, start).await
    }

    /// Adds a device to an account, whose events begin after `start`.
    async fn add(&self, name: UserId, label: String, start: Cursor) -> Result<Welcome, Refusal> {
        let credentials = NewCredentials::random(label);
        let (device, token) = (credentials.device, credentials.token);
        let (request, kept) = (credentials.request, credentials.kept);
        let kind = CommandKind::AddDevice {
            request,
            device: kept,
        };
        self.decide(name, device, request, kind).await?;
        self.metrics.logins.inc();
        Ok(self.welcome(name, device, Some(token), start))
    }

    async fn resume(
        &self,
        name: UserId,
        device: DeviceId,
        token: &Token,
        resume: Option<Resume>,
        how: Entered,
    ) -> Result<Welcome, Refusal> {
        let found = self.queries.account(name).await?;
        if !token_matches(found.as_ref().map(|(account, _)| account), device, token) {
            return Err(WRONG);
        }
        let has_password = found
            .as_ref()
            .is_some_and(|(account, _)| account.password.is_some());
        match how {
            Entered::WithToken if has_password => return Err(WRONG),
            Entered::ByDevice if !has_password && self.issuer.is_some() => {
                return Err(refusal(
                    CloseCode::Unauthenticated,
                    "QP-TOKEN-2: this account is entered with a token of its issuer",
                ));
            }
            Entered::WithToken | Entered::ByDevice => {}
        }
        let inbox = found.map(|(_, inbox)| inbox).unwrap_or_default();
        if let Some(resume) = resume {
            match self.judge(&resume, &inbox) {
                Usable::Yes => {
                    return Ok(Welcome {
                        resumed: true,
                        ..self.welcome(name, device, None, resume.cursor)
                    });
                }
                Usable::NotKept => {
                    self.metrics.sessions_resynced_for_age.inc();
                }
                Usable::No => {}
            }
        }
        Ok(self.welcome(name, device, None, inbox.start()))
    }

    /// Whether somebody at this address may register now. A wrong invitation counts as well, or it could be guessed.
    fn may_register(&self, from: IpAddr, invitation: &str) -> Result<(), Refusal> {
        self.rates
            .registration(from)
            .map_err(|wait| too_often(wait, "too many registrations from this address"))?;
        match &self.policy {
            Policy::Open => Ok(()),
            // Compared by digest, in constant time, so that the code cannot be guessed byte by byte.
            Policy::Invitation(code) if bool::from(sha256(code).ct_eq(&sha256(invitation))) => {
                Ok(())
            }
            Policy::Invitation(_) => Err(refusal(
                CloseCode::RegistrationClosed,
                "registering here needs an invitation",
            )),
            Policy::Closed => Err(refusal(
                CloseCode::RegistrationClosed,
                "this gateway takes no registrations",
            )),
        }
    }

    /// Sends an account command through the log and waits for the shard's answer.
    async fn decide(
        &self,
        user: UserId,
        device: DeviceId,
        request: RequestId,
        kind: CommandKind,
    ) -> Result<(), Refusal> {
        let expected = self.registry.expect_answer(user, device, request);
        self.router.submit(Command { user, device, kind }).await?;
        let outcome = tokio::time::timeout(self.answer_timeout, expected.outcome()).await;
        match outcome.ok().flatten() {
            Some(Outcome::Done) => Ok(()),
            Some(Outcome::Rejected(rejection)) => Err(match rejection.code {
                RejectCode::NameTaken => {
                    refusal(CloseCode::NameTaken, "this name belongs to somebody")
                }
                RejectCode::TooManyDevices => refusal(
                    CloseCode::TooManyDevices,
                    "this account has as many devices as it may; remove one first",
                ),
                RejectCode::UnknownUser => WRONG,
                RejectCode::Internal
                | RejectCode::UnknownConversation
                | RejectCode::NotAMember
                | RejectCode::Invalid
                | RejectCode::TextTooLong
                | RejectCode::StaleClientSeq
                | RejectCode::Blocked
                | RejectCode::Forbidden
                | RejectCode::TooMany
                | RejectCode::WindowClosed
                | RejectCode::UnknownMessage
                | RejectCode::Conflict
                | RejectCode::UnknownMedia
                | RejectCode::TooLarge
                | RejectCode::Busy
                | RejectCode::RateLimited => {
                    tracing::error!(%user, code = %rejection.code, "an account command was rejected");
                    refusal(CloseCode::Internal, "the account could not be changed")
                }
            }),
            Some(Outcome::Accepted(_) | Outcome::Opened { .. }) => {
                tracing::error!(%user, "an account command got the answer of another one");
                Err(refusal(
                    CloseCode::Internal,
                    "the account could not be changed",
                ))
            }
            None => Err(UNAVAILABLE),
        }
    }

    /// A cursor counts only in its own life, only if the inbox has come that far, and only while everything after it is kept.
    fn judge(&self, resume: &Resume, inbox: &Inbox) -> Usable {
        let head = inbox.head.map_or(Cursor::START, |head| head.cursor());
        if resume.life != self.life || resume.cursor > head {
            return Usable::No;
        }
        match inbox.keeps_after(resume.cursor) {
            true => Usable::Yes,
            false => Usable::NotKept,
        }
    }

    /// For a device that begins anew after `cursor`.
    fn welcome(
        &self,
        user: UserId,
        device: DeviceId,
        token: Option<Token>,
        cursor: Cursor,
    ) -> Welcome {
        Welcome {
            user,
            device,
            token,
            resumed: false,
            cursor,
            life: self.life,
            server_time: now_ms(),
            agent: AGENT.to_owned(),
            limits: Limits::default(),
            gateway: String::new(),
            next_gateways: Vec::new(),
        }
    }
}

/// Whether a session goes on from a device's cursor.
enum Usable {
    Yes,
    /// It belongs to another life, or is ahead.
    No,
    /// Events after it are gone.
    NotKept,
}

/// Whether the token is the device's. Compares digests in constant time, also for a device that does not exist.
fn token_matches(account: Option<&Account>, device: DeviceId, token: &Token) -> bool {
    let kept = account
        .and_then(|account| account.device(device))
        .map(|device| device.token_hash);
    let matches = sha256(token).ct_eq(&kept.unwrap_or([0; 32]));
    bool::from(matches) && kept.is_some()
}

fn sha256(bytes: impl AsRef<[u8]>) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Unix time by this machine's clock.
pub(crate) fn now_ms() -> TimestampMs {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    TimestampMs(since_epoch.map_or(0, |time| {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    }))
}

/// A new device: its id, its secret, and what the account keeps of it.
pub(crate) struct NewCredentials {
    pub(crate) device: DeviceId,
    pub(crate) token: Token,
    pub(crate) request: RequestId,
    pub(crate) kept: NewDevice,
}

impl NewCredentials {
    pub(crate) fn random(label: String) -> Self {
        let token: Token = rand::random();
        Self {
            device: random_device(),
            token,
            request: RequestId(rand::random()),
            kept: NewDevice {
                label,
                token_hash: sha256(token),
            },
        }
    }
}

fn random_device() -> DeviceId {
    loop {
        if let Ok(device) = DeviceId::new(rand::random()) {
            return device;
        }
    }
}
