//! Passes a change that a device asks for, once, to the decisions about groups, messages or the user's own account.

use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{Change, Outcome, Reply, ReplyTo};
use quipu_protocol::id::{ClientSeq, RequestId};

use super::entities::Entities;
use super::turn::{Turn, rejected};
use super::{ShardId, conversation, group, message, own};
use crate::dedup::Known;
use crate::record::{Command, CommandKind};
use crate::row::{Answers, EntityKey, FirstAnswer};

/// A change, and what came with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// Who asks.
    pub(super) command: &'a Command,
    /// Echoed in the answer.
    pub(super) request: RequestId,
    /// The device's number for it; `None`: it is in a log of before changes had one.
    pub(super) client_seq: Option<ClientSeq>,
    /// For what.
    pub(super) change: &'a Change,
    /// For a new group: members up to which its messages go into every inbox.
    pub(super) fan_out_max: u32,
}

impl<'a> Asked<'a> {
    /// The change of a command; `None`: it asks for none.
    pub(super) fn of(command: &'a Command) -> Option<Self> {
        let CommandKind::Change {
            request,
            client_seq,
            change,
            fan_out_max,
        } = &command.kind
        else {
            return None;
        };
        Some(Self {
            command,
            request: *request,
            client_seq: *client_seq,
            change,
            fan_out_max: *fan_out_max,
        })
    }
}

/// Names the entities that a change needs on its shard.
pub(super) fn needs(asked: Asked, shard: ShardId, need: &mut impl FnMut(EntityKey)) {
    if asked.client_seq.is_some() {
        need(EntityKey::Answers(asked.command.user, shard));
    }
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

/// Makes the change, or says why not; answers, or sends on what will. One that was answered before is not decided again: the
/// first copy of it may come late, when the device has gone on to something else.
pub(super) fn apply(entities: &mut Entities, turn: &mut Turn, asked: Asked) {
    let outcome = match known(entities, turn, asked) {
        Known::New => {
            let outcome = decide(entities, turn, asked);
            remember(entities, turn, asked, outcome.as_ref());
            outcome
        }
        Known::Answered(first) => again(entities, turn, asked, first),
        Known::Stale => Some(rejected(
            RejectCode::StaleClientSeq,
            "a later change was answered before this one, which is not made",
        )),
    };
    let Some(outcome) = outcome else { return };
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

/// What the change is to those that its device was answered here.
fn known(entities: &mut Entities, turn: &Turn, asked: Asked) -> Known<FirstAnswer> {
    let (Some(client_seq), command) = (asked.client_seq, asked.command) else {
        return Known::New;
    };
    let answers = entities.answers(command.user, turn.position);
    let answers = answers.get().map(|(_, answers)| answers);
    answers.map_or(Known::New, |row| row.look_up(command.device, client_seq))
}

/// Keeps how the change was answered. `None`: another shard answers, that it is done.
fn remember(entities: &mut Entities, turn: &Turn, asked: Asked, outcome: Option<&Outcome>) {
    let Some(client_seq) = asked.client_seq else {
        return;
    };
    let answer = match outcome {
        // Only a message is accepted.
        Some(Outcome::Done | Outcome::Accepted(_)) | None => FirstAnswer::Done,
        Some(Outcome::Opened { head, .. }) => FirstAnswer::Opened(*head),
        Some(Outcome::Rejected(rejection)) => FirstAnswer::Rejected(rejection.code),
    };
    let (user, from) = (asked.command.user, (asked.command.device, turn.position));
    let mut entity = entities.answers(user, turn.position);
    match entity.change() {
        Some((_, answers)) => answers.remember(from, client_seq, answer),
        None => {
            let mut answers = Answers::default();
            answers.remember(from, client_seq, answer);
            entity.put((turn.shard, answers));
        }
    }
}

/// The first answer again. `None`: another shard answers.
fn again(
    entities: &mut Entities,
    turn: &mut Turn,
    asked: Asked,
    first: FirstAnswer,
) -> Option<Outcome> {
    match (first, asked.change, asked.change.conversation()) {
        (FirstAnswer::Done, Change::Block(user, _), _) => {
            own::block_again(entities, turn, asked, *user);
            None
        }
        (FirstAnswer::Opened(head), _, Some(id)) => Some(conversation::opened(*id, head)),
        // A device that uses a number for something else gets the answer that there is.
        (FirstAnswer::Done | FirstAnswer::Opened(_), _, _) => Some(Outcome::Done),
        (FirstAnswer::Rejected(code), _, _) => Some(rejected(
            code,
            "this change was not made when it was asked for first",
        )),
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
