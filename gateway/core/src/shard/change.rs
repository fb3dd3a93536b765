//! Passes a change that a device asks for to the decisions about groups, messages or the user's own account.

use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{Change, Outcome, Reply, ReplyTo};
use quipu_protocol::id::RequestId;

use super::entities::Entities;
use super::turn::{Turn, rejected};
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
    #[allow(dead_code, reason = "groups use it, which come next")]
    pub(super) fan_out_max: u32,
}

/// Names the entities that a change needs.
pub(super) fn needs(asked: Asked, need: &mut impl FnMut(EntityKey)) {
    let _ = (asked, need);
}

/// Makes the change, or says why not; answers in any case.
pub(super) fn apply(entities: &mut Entities, turn: &mut Turn, asked: Asked) {
    let outcome = match asked.change {
        Change::CreateGroup(_) => not_yet(entities),
        Change::SetGroup { .. } => not_yet(entities),
        Change::Invite { .. } => not_yet(entities),
        Change::Join(_) => not_yet(entities),
        Change::Leave(_) => not_yet(entities),
        Change::Remove(..) => not_yet(entities),
        Change::SetRole(..) => not_yet(entities),
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
