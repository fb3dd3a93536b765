//! Passes a change that a device asks for to the decisions about groups, messages or the user's own account.

use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{Change, Outcome, Reply, ReplyTo};
use quipu_protocol::id::RequestId;

use super::entities::Entities;
use super::turn::{Turn, rejected};
use super::{conversation, group};
use crate::record::Command;
use crate::row::EntityKey;

/// A change, and what came with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// Who asks.
    pub(super) command: &'a Command,
    /// Echoed in the answer.
    pub(super) request: RequestId,
    /// For what.
    pub(super) change: &'a Change,
    /// For a new group: members up to which its messages go into every inbox.
    pub(super) fan_out_max: u32,
}

/// Names the entities that a change needs.
pub(super) fn needs(asked: Asked, need: &mut impl FnMut(EntityKey)) {
    match asked.change {
        Change::CreateGroup(new) => {
            conversation::needs(new.conversation, asked.command.user, need);
            for user in &new.invite {
                need(EntityKey::Member(new.conversation, *user));
            }
        }
        Change::Invite {
            conversation,
            users,
        } => {
            conversation::needs(*conversation, asked.command.user, need);
            for user in users {
                need(EntityKey::Member(*conversation, *user));
            }
        }
        Change::SetGroup { conversation, .. }
        | Change::Join(conversation)
        | Change::Leave(conversation) => {
            conversation::needs(*conversation, asked.command.user, need);
        }
        Change::Remove(conversation, user) | Change::SetRole(conversation, user, _) => {
            conversation::needs(*conversation, asked.command.user, need);
            need(EntityKey::Member(*conversation, *user));
        }
        Change::SetTimer(..) => {}
        Change::Edit { .. } => {}
        Change::Delete(..) => {}
        Change::React { .. } => {}
        Change::RenameDevice(..) => {}
        Change::RevokeDevice(_) => {}
        Change::Block(..) => {}
        Change::Report { .. } => {}
        Change::SetPrivacy(_) => {}
    }
}

/// Makes the change, or says why not; answers in any case.
pub(super) fn apply(entities: &mut Entities, turn: &mut Turn, asked: Asked) {
    let outcome = match asked.change {
        Change::CreateGroup(new) => group::create(entities, turn, asked, new),
        Change::SetGroup {
            conversation,
            title,
            topic,
        } => {
            let texts = (title.as_deref(), topic.as_deref());
            group::set(entities, turn, asked.command, *conversation, texts)
        }
        Change::Invite {
            conversation,
            users,
        } => group::invite(entities, turn, asked.command, *conversation, users),
        Change::Join(id) => group::join(entities, turn, asked.command, *id),
        Change::Leave(id) => group::leave(entities, turn, asked.command, *id),
        Change::Remove(id, user) => group::remove(entities, turn, asked.command, *id, *user),
        Change::SetRole(id, user, role) => {
            group::set_role(entities, turn, asked.command, *id, (*user, *role))
        }
        Change::SetTimer(..) => not_yet(entities),
        Change::Edit { .. } => not_yet(entities),
        Change::Delete(..) => not_yet(entities),
        Change::React { .. } => not_yet(entities),
        Change::RenameDevice(..) => not_yet(entities),
        Change::RevokeDevice(_) => not_yet(entities),
        Change::Block(..) => not_yet(entities),
        Change::Report { .. } => not_yet(entities),
        Change::SetPrivacy(_) => not_yet(entities),
    };
    let to = ReplyTo::Request(asked.request);
    let command = asked.command;
    let reply = Reply { to, outcome };
    match asked.change.conversation() {
        Some(_) => turn.answer(command.user, command.device, reply),
        None => turn.answer_here(command.user, command.device, reply),
    }
}

fn not_yet(_: &mut Entities) -> Outcome {
    rejected(RejectCode::Internal, "not yet")
}
