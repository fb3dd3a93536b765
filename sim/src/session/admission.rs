//! Who is let in: the HELLO is judged, an account command decided, the session welcomed or sent elsewhere.

use bytes::BytesMut;
use quipu_core::delivery::DeliveryWindow;
use quipu_core::record::{Command, CommandKind, NewDevice};
use quipu_core::row::{Account, EntityKey, Inbox};
use quipu_protocol::credentials::{Credentials, Hello, Resume, Token};
use quipu_protocol::error::{CloseCode, RejectCode};
use quipu_protocol::event::Outcome;
use quipu_protocol::frame::{self, FrameType};
use quipu_protocol::id::{Cursor, DeviceId, InboxSeq, RequestId, UserId};
use quipu_protocol::welcome::{Limits, Welcome};
use quipu_protocol::wire;

use super::{LIFE, Member, UNAVAILABLE, Working};
use crate::plan::{SECOND, Us};
use crate::sabotage::Sabotage;
use crate::world::{AtGateway, LinkNo, Stream, World};

/// How long an account command may take.
const ANSWER_TIMEOUT: Us = 10 * SECOND;
const WRONG: (CloseCode, &str) = (CloseCode::Unauthenticated, "unknown user or wrong token");

impl World {
    pub(super) fn authenticate(&mut self, gateway: usize, link: LinkNo, hello: Hello) {
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
            } => self.let_back_in(gateway, link, (name, device, token), hello.resume),
        }
    }

    /// A device that the account knows goes on from its cursor, or begins anew.
    fn let_back_in(
        &mut self,
        gateway: usize,
        link: LinkNo,
        (name, device, token): (UserId, DeviceId, Token),
        resume: Option<Resume>,
    ) {
        let account = self.account(&name);
        let known = account.and_then(|account| Some(account.device(device)?.token_hash));
        if known != Some(token) && self.sabotage != Some(Sabotage::AdmitRevoked) {
            return self.admit_later(gateway, link, Err(WRONG));
        }
        let inbox = self.inbox(&name);
        let head = inbox.head.map_or(Cursor::START, InboxSeq::cursor);
        let trusts = self.sabotage == Some(Sabotage::TrustCursors);
        let is_usable = |resume: &Resume| {
            let is_ours = resume.life == LIFE && resume.cursor <= head;
            trusts || (is_ours && inbox.keeps_after(resume.cursor))
        };
        let resume = resume.filter(is_usable);
        let cursor = resume.map_or_else(|| inbox.start(), |resume| resume.cursor);
        let welcome = self.welcome(name, device, None, (cursor, resume.is_some()));
        self.admit_later(gateway, link, Ok(welcome));
    }

    pub(crate) fn inbox(&self, user: &UserId) -> Inbox {
        let row = self.store.entity(EntityKey::Inbox(*user));
        row.and_then(|row| Inbox::decode(row).ok())
            .unwrap_or_default()
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
        // A new device begins where its user's inbox begins now.
        let start = self.inbox(&user).start();
        let it = &mut self.gateways[gateway];
        it.expected.insert((user, device, request), link);
        if let Some(session) = it.sessions.get_mut(&link) {
            session.working = Some(Working::Deciding {
                user,
                device,
                token,
                start,
            });
        }
        self.submit(gateway, link, Command { user, device, kind });
        self.tell_gateway(gateway, ANSWER_TIMEOUT, AtGateway::AnswerTimeout(link));
    }

    pub(super) fn decided(&mut self, gateway: usize, link: LinkNo, outcome: Outcome) {
        let Some(session) = self.session(gateway, link) else {
            return;
        };
        let Some(Working::Deciding {
            user,
            device,
            token,
            start,
        }) = session.working
        else {
            return;
        };
        let result = match outcome {
            Outcome::Done => Ok(self.welcome(user, device, Some(token), (start, false))),
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
        (cursor, resumed): (Cursor, bool),
    ) -> Welcome {
        Welcome {
            user,
            device,
            token,
            resumed,
            cursor,
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
}
