//! Decisions about a user's own account: devices, privacy, blocks, complaints.

use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{Outcome, Privacy, Reply, ReplyTo};
use quipu_protocol::id::{ConversationId, DeviceId, RequestId, Seq, UserId};
use quipu_protocol::limits::BLOCKS_MAX;

use super::change::Asked;
use super::conversation::rights;
use super::entities::{Entities, OpenConversation};
use super::message::seen;
use super::turn::{Turn, rejected};
use crate::limits::REPORTS_PER_CONVERSATION_MAX;
use crate::record::Command;
use crate::row::{Conversation, IndexKey, Member, Report, Settings};

/// Gives a device of the user another label.
pub(super) fn rename_device(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    device: DeviceId,
    label: &str,
) -> Outcome {
    let mut entity = entities.account(command.user, turn.position);
    let known = entity.get().and_then(|account| account.device(device));
    match known {
        None => return not_yours(),
        Some(known) if known.label == label => return Outcome::Done,
        Some(_) => {}
    }
    let devices = entity.change().map(|account| account.devices.iter_mut());
    let mut devices = devices.into_iter().flatten();
    if let Some(known) = devices.find(|known| known.id == device) {
        label.clone_into(&mut known.label);
    }
    turn.account(&command.user, device);
    Outcome::Done
}

/// Takes a device of the user, and with it its token, out of the account. Whoever answers the command then throws the device
/// out ([`Turn::revoked`]), in this order because the device may be the one that asks.
pub(super) fn revoke_device(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    device: DeviceId,
) -> Outcome {
    let mut entity = entities.account(command.user, turn.position);
    if entity.get().is_none_or(|row| row.device(device).is_none()) {
        return not_yours();
    }
    if let Some(account) = entity.change() {
        account.devices.retain(|known| known.id != device);
    }
    turn.account(&command.user, device);
    Outcome::Done
}

fn not_yours() -> Outcome {
    rejected(
        RejectCode::Invalid,
        "QP-SELF-1: your account has no such device",
    )
}

/// What others may learn of the user from now on.
pub(super) fn set_privacy(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    privacy: Privacy,
) -> Outcome {
    change_settings(entities, turn, command.user, |settings| {
        let changes = settings.privacy != privacy;
        settings.privacy = privacy;
        changes
    });
    Outcome::Done
}

/// Takes no messages from a user any more, or takes them again, and tells the shard of the direct conversation. `None`: that
/// shard answers, when it holds.
pub(super) fn block(
    entities: &mut Entities,
    turn: &mut Turn,
    asked: Asked,
    user: UserId,
    on: bool,
) -> Option<Outcome> {
    let command = asked.command;
    if user == command.user {
        return Some(rejected(
            RejectCode::Invalid,
            "QP-SELF-2: nobody blocks oneself; choose another user",
        ));
    }
    let settings = entities.settings(command.user, turn.position);
    let blocked = settings.get().map_or(&[][..], |row| &row.blocked);
    let at = match (blocked.binary_search(&user), on) {
        // Said before, and perhaps still on its way: this answer comes behind it.
        (Ok(_), true) | (Err(_), false) => None,
        (Err(_), true) if blocked.len() >= BLOCKS_MAX => {
            return Some(rejected(
                RejectCode::TooMany,
                "you have blocked as many users as you may; take one back first",
            ));
        }
        (Ok(at), false) | (Err(at), true) => Some(at),
    };
    if let Some(at) = at {
        change_settings(entities, turn, command.user, |settings| {
            match on {
                true => settings.blocked.insert(at, user),
                false => drop(settings.blocked.remove(at)),
            }
            true
        });
    }
    turn.blocked(command, asked.request, (user, on));
    None
}

/// Has the shard of the direct conversation answer a block that was made before, behind the one that holds now: the user may
/// have taken it back since.
pub(super) fn block_again(entities: &mut Entities, turn: &mut Turn, asked: Asked, user: UserId) {
    let settings = entities.settings(asked.command.user, turn.position);
    let on = settings
        .get()
        .is_some_and(|row| row.blocked.binary_search(&user).is_ok());
    turn.blocked(asked.command, asked.request, (user, on));
}

/// Changes the settings of a user; `how` says whether it did. Who has to know is told.
fn change_settings(
    entities: &mut Entities,
    turn: &mut Turn,
    user: UserId,
    how: impl FnOnce(&mut Settings) -> bool,
) {
    let mut entity = entities.settings(user, turn.position);
    let mut settings = entity.get().cloned().unwrap_or_default();
    if how(&mut settings) {
        turn.settings(&user, &settings);
        turn.decided(user, settings.clone());
        entity.put(settings);
    }
}

/// Keeps in a direct conversation whether one side takes messages of the other, and answers who asked for it: no message
/// that is accepted from here on gets through. One that nobody has opened is made for it.
pub(super) fn blocked(
    entities: &mut Entities,
    turn: &mut Turn,
    (by, user): (UserId, UserId),
    on: bool,
    asked: Option<(DeviceId, RequestId)>,
) {
    let id = ConversationId::direct(&by, &user);
    if turn.shards.of_conversation(&id) != turn.shard {
        turn.effects.dropped.misrouted += 1;
        return;
    }
    keep_blocked(entities, turn, id, (by, user), on);
    if let Some((device, request)) = asked {
        let to = ReplyTo::Request(request);
        let outcome = Outcome::Done;
        turn.answer(by, device, Reply { to, outcome });
    }
}

fn keep_blocked(
    entities: &mut Entities,
    turn: &Turn,
    id: ConversationId,
    (by, user): (UserId, UserId),
    on: bool,
) {
    let mut entity = entities.conversation(id, turn.position);
    if entity.get().is_none() {
        if !on {
            return;
        }
        let row = Conversation {
            unopened: true,
            ..Conversation::new([by, user], turn.time)
        };
        entity.put(OpenConversation::new(row, turn.shards));
    }
    if let Some(member) = entity.change().and_then(|open| open.row.member_mut(&by)) {
        member.blocks = on;
    }
}

/// Keeps a complaint for the operator, with what the message says now. The same one again is done already.
pub(super) fn report(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    (id, seq): (ConversationId, Option<Seq>),
    reason: &str,
) -> Outcome {
    let allowed = match seq {
        Some(seq) => seen(entities, turn, command, (id, seq)),
        None => rights(entities, turn, id, command.user),
    };
    if let Err(refused) = allowed {
        return refused;
    }
    let mut message = seq.and_then(|seq| {
        let entity = entities.message(id, seq, turn.position);
        entity.get().cloned()
    });
    if let Some(message) = &mut message {
        message.hide_expired(turn.time);
    }
    let kept = with_member(entities, turn, id, command.user, |member| {
        let seq = seq.map_or(0, Seq::get);
        match member.reports.binary_search(&seq) {
            Ok(_) => Some(Outcome::Done),
            Err(_) if member.reports.len() >= REPORTS_PER_CONVERSATION_MAX => Some(rejected(
                RejectCode::TooMany,
                "you have complained about this conversation as often as you may",
            )),
            Err(at) => {
                member.reports.insert(at, seq);
                None
            }
        }
    });
    if let Some(outcome) = kept.flatten() {
        return outcome;
    }
    let report = Report {
        reason: reason.to_owned(),
        message,
    };
    let key = IndexKey::Report(turn.time, id, command.user, seq);
    turn.index(key, Some(report.encode()));
    turn.reported(id, &command.user, seq);
    Outcome::Done
}

/// What a conversation keeps of a member, wherever that is, to change it.
fn with_member<T>(
    entities: &mut Entities,
    turn: &Turn,
    id: ConversationId,
    user: UserId,
    how: impl FnOnce(&mut Member) -> T,
) -> Option<T> {
    if id.is_group() {
        let mut entity = entities.member(id, user, turn.position);
        return Some(how(&mut entity.change()?.member));
    }
    let mut entity = entities.conversation(id, turn.position);
    let member = entity.change()?.row.member_mut(&user)?;
    Some(how(member))
}
