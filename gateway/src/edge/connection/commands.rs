//! The way of a device's command: its rate, what it claims, its files, and then the router.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quipu_core::record::{Command, CommandKind};
use quipu_protocol::credentials::Jwt;
use quipu_protocol::error::{CloseCode, RejectCode};
use quipu_protocol::event::{Change, DeviceCommand, Outcome, Rejection, Reply, ReplyTo};
use quipu_protocol::id::{ConversationId, DeviceId, RequestId, UserId};
use quipu_protocol::retry_after;

use super::{Driver, Refused, Work};
use crate::edge::throttle::Held;
use crate::edge::{Shared, attachments};
use crate::queries::Checked;
use crate::router::{NoRoom, Submission};

const TOO_MANY_COMMANDS: &str = "QP-RATE-3: this user gives too many commands";

impl Driver {
    pub(super) fn submit(&mut self, command: DeviceCommand) {
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
    pub(super) fn pass_on(&mut self, mut kind: CommandKind) {
        let Some(member) = &self.member else { return };
        let (user, device) = (member.user, member.device);
        let shared = Arc::clone(&self.shared);
        if let CommandKind::Receipt { quiet, .. } = &mut kind {
            let Some(settings) = &member.settings else {
                // Read with the first receipt and not with every log-in, most of which come without one.
                self.work = Some(Box::pin(async move {
                    let settings = shared.with.queries.settings(user).await;
                    Work::Settings(settings, Box::new(kind))
                }));
                return;
            };
            *quiet = settings.privacy.hide_read;
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
    pub(super) fn refresh(&mut self, request: RequestId, jwt: &Jwt) {
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
pub(super) async fn carry(
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
    let (media, metrics) = (&shared.with.media, &shared.with.metrics);
    if let Some(reply) = attachments::answer_instead(media, metrics, user, &command).await {
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
