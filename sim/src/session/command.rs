//! Commands of a session: what the edge checks itself, then the router.

use quipu_core::record::{Command, CommandKind};
use quipu_core::row::EntityKey;
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{Change, DeviceCommand, Outcome, Rejection, Reply, ReplyTo};
use quipu_protocol::id::{RequestId, UserId};

use super::Working;
use crate::world::{LinkNo, World};

impl World {
    pub(super) fn command(&mut self, gateway: usize, link: LinkNo, command: DeviceCommand) {
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
            DeviceCommand::Change {
                request, change, ..
            } => match &**change {
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
}
