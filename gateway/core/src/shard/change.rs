//! Passes a change that a device asks for to the decisions about groups, messages or the user's own account.

use quipu_protocol::event::{Change, Outcome, Reply, ReplyTo};
use quipu_protocol::id::RequestId;

use super::entities::Entities;
use super::turn::Turn;
use super::{conversation, group, message, own};
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
        Change::SetTimer(conversation, _) => {
            conversation::needs(*conversation, asked.command.user, need);
        }
        Change::Edit {
            conversation, seq, ..
        }
        | Change::Delete(conversation, seq)
        | Change::React {
            conversation, seq, ..
        } => {
            conversation::needs(*conversation, asked.command.user, need);
            message::needs((*conversation, *seq), need);
        }
        Change::Report {
            conversation, seq, ..
        } => {
            conversation::needs(*conversation, asked.command.user, need);
            if let Some(seq) = seq {
                message::needs((*conversation, *seq), need);
            }
        }
        Change::RenameDevice(..) | Change::RevokeDevice(_) => {
            need(EntityKey::Account(asked.command.user));
        }
        Change::Block(..) | Change::SetPrivacy(_) => {
            need(EntityKey::Settings(asked.command.user));
        }
    }
}

/// Makes the change, or says why not; answers, or sends on what will.
pub(super) fn apply(entities: &mut Entities, turn: &mut Turn, asked: Asked) {
    let Some(outcome) = decide(entities, turn, asked) else {
        return;
    };
    let is_done = outcome == Outcome::Done;
    let to = ReplyTo::Request(asked.request);
    let command = asked.command;
    let reply = Reply { to, outcome };
    match asked.change.conversation() {
        Some(_) => turn.answer(command.user, command.device, reply),
        None => turn.answer_here(command.user, command.device, reply),
    }
    // Behind the answer, as the device may be the one that asked.
    if let Change::RevokeDevice(device) = asked.change
        && is_done
    {
        turn.revoked(command.user, *device);
    }
}

/// `None`: another shard answers.
fn decide(entities: &mut Entities, turn: &mut Turn, asked: Asked) -> Option<Outcome> {
    Some(match asked.change {
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
        Change::SetTimer(id, keep_ms) => {
            message::set_timer(entities, turn, asked.command, *id, *keep_ms)
        }
        Change::Edit {
            conversation,
            seq,
            content,
        } => message::edit(
            entities,
            turn,
            asked.command,
            (*conversation, *seq),
            content,
        ),
        Change::Delete(id, seq) => message::delete(entities, turn, asked.command, (*id, *seq)),
        Change::React {
            conversation,
            seq,
            emoji,
            on,
        } => {
            let place = (*conversation, *seq);
            message::react(entities, turn, asked.command, place, (emoji, *on))
        }
        Change::RenameDevice(device, label) => {
            own::rename_device(entities, turn, asked.command, *device, label)
        }
        Change::RevokeDevice(device) => own::revoke_device(entities, turn, asked.command, *device),
        Change::Block(user, on) => return own::block(entities, turn, asked, *user, *on),
        Change::Report {
            conversation,
            seq,
            reason,
        } => own::report(entities, turn, asked.command, (*conversation, *seq), reason),
        Change::SetPrivacy(privacy) => own::set_privacy(entities, turn, asked.command, *privacy),
    })
}
