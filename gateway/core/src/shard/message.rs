//! Decisions about messages that were sent before: edits, deletions, reactions, the end of their time, and complaints.

use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{
    Changed, ChangedKind, Content, EventBody, Gone, Message, MessageState, Note, Outcome, Reaction,
    Role,
};
use quipu_protocol::id::{ConversationId, Seq, TimestampMs, UserId};
use quipu_protocol::limits::{DELETE_WINDOW_MS, EDIT_WINDOW_MS, EDITS_MAX, REACTIONS_MAX};

use super::conversation::{Rights, announce, rights, write_note};
use super::entities::Entities;
use super::turn::{Turn, rejected};
use crate::record::Command;
use crate::row::{Conversation, EntityKey, IndexKey, NumberedChange, OldContent};

/// Where a message stands.
pub(super) type Place = (ConversationId, Seq);

/// Names the entities that a decision about a message needs, beside what its conversation needs.
pub(super) fn needs((id, seq): Place, need: &mut impl FnMut(EntityKey)) {
    need(EntityKey::Message(id, seq));
}

// ---------------------------------------------------------------- sending

/// Why a new message is not taken; `None`: it is.
pub(super) fn refused(row: &Conversation, from: &UserId, content: &Content) -> Option<Outcome> {
    if row.has_blocked(from) {
        return Some(blocked());
    }
    reply_to(content).filter(|reply_to| Some(*reply_to) > row.head)?;
    Some(reply_to_later())
}

/// What a new message begins with in a conversation that keeps messages for so long.
pub(super) fn first_state(keep_ms: u64, sent_at: TimestampMs) -> Option<Box<MessageState>> {
    if keep_ms == 0 {
        return None;
    }
    Some(Box::new(MessageState {
        expires_at: Some(TimestampMs(sent_at.0.saturating_add(keep_ms))),
        ..MessageState::default()
    }))
}

fn reply_to(content: &Content) -> Option<Seq> {
    match content {
        Content::Rich(rich) => rich.reply_to,
        Content::Text(_) | Content::Note(_) | Content::Gone(_) => None,
    }
}

fn reply_to_later() -> Outcome {
    rejected(
        RejectCode::Invalid,
        "QP-SEND-8: a message replies to an earlier one",
    )
}

fn blocked() -> Outcome {
    rejected(RejectCode::Blocked, "this user takes nothing from you")
}

// ---------------------------------------------------------------- the changes

/// Lets a message of the user say something else. What it says already is done already.
pub(super) fn edit(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    place: Place,
    content: &Content,
) -> Outcome {
    if let Err(refused) = words_allowed(entities, turn, command, place) {
        return refused;
    }
    let mut entity = entities.message(place.0, place.1, turn.position);
    let Some(message) = entity.get().filter(|message| !is_gone(message, turn.time)) else {
        return unknown_message();
    };
    let state = message.state.as_deref().cloned().unwrap_or_default();
    if message.from != command.user {
        return rejected(
            RejectCode::Forbidden,
            "only who wrote a message may change it",
        );
    }
    if message.content == *content {
        return Outcome::Done;
    }
    if is_over(message.sent_at, EDIT_WINDOW_MS, turn.time) {
        return rejected(
            RejectCode::WindowClosed,
            "this message is too old to be changed",
        );
    }
    if reply_to(content) >= Some(message.seq) {
        return reply_to_later();
    }
    let (Some(version), true) = (
        state.version.checked_add(1),
        (state.edits as usize) < EDITS_MAX,
    ) else {
        return rejected(
            RejectCode::TooMany,
            "this message was changed as often as it may be",
        );
    };
    let Some(message) = entity.change() else {
        return unknown_message();
    };
    let old = std::mem::replace(&mut message.content, content.clone());
    let edits = state.edits + 1;
    message.state = Some(Box::new(MessageState {
        version,
        edited_at: Some(turn.time),
        edits,
        ..state
    }));
    refer(turn, place, &old, content);
    let key = IndexKey::Version(place.0, place.1, edits);
    turn.index(key, Some(OldContent(old).encode()));
    let kind = ChangedKind::Edited(content.clone());
    tell(entities, turn, command, place, (version, kind));
    Outcome::Done
}

/// Takes a message's content away for all. What is gone is done already.
pub(super) fn delete(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    place: Place,
) -> Outcome {
    let role = match seen(entities, turn, command, place) {
        Ok(rights) => rights.role,
        Err(refused) => return refused,
    };
    let mut entity = entities.message(place.0, place.1, turn.position);
    let Some(message) = entity.get() else {
        return unknown_message();
    };
    let over = is_over(message.sent_at, DELETE_WINDOW_MS, turn.time);
    match message.from == command.user {
        _ if role >= Role::Admin => {}
        false => {
            return rejected(
                RejectCode::Forbidden,
                "only who wrote a message, or an admin of the group, may delete it",
            );
        }
        true if is_gone(message, turn.time) => {}
        true if over => {
            return rejected(
                RejectCode::WindowClosed,
                "this message is too old to be deleted",
            );
        }
        true => {}
    }
    if matches!(message.content, Content::Gone(_)) {
        return Outcome::Done;
    }
    let Some(message) = entity.change() else {
        return unknown_message();
    };
    let version = clear(turn, message, Gone::Deleted);
    let kind = ChangedKind::Gone(Gone::Deleted);
    tell(entities, turn, command, place, (version, kind));
    Outcome::Done
}

/// Puts a sign of the user on a message, or takes it back. One that is there, or is not, is done already.
pub(super) fn react(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    place: Place,
    (emoji, on): (&str, bool),
) -> Outcome {
    if let Err(refused) = words_allowed(entities, turn, command, place) {
        return refused;
    }
    let mut entity = entities.message(place.0, place.1, turn.position);
    let Some(message) = entity.get().filter(|message| !is_gone(message, turn.time)) else {
        return unknown_message();
    };
    let mut state = message.state.as_deref().cloned().unwrap_or_default();
    let reaction = Reaction {
        user: command.user,
        emoji: emoji.to_owned(),
    };
    let too_many = || {
        let why = "this message has as many reactions as it may";
        rejected(RejectCode::TooMany, why)
    };
    match (state.reactions.binary_search(&reaction), on) {
        (Ok(_), true) | (Err(_), false) => return Outcome::Done,
        (Err(_), true) if state.reactions.len() >= REACTIONS_MAX => return too_many(),
        (Err(at), true) => state.reactions.insert(at, reaction),
        (Ok(at), false) => drop(state.reactions.remove(at)),
    }
    let Some(version) = state.version.checked_add(1) else {
        return too_many();
    };
    state.version = version;
    if let Some(message) = entity.change() {
        message.state = Some(Box::new(state));
    }
    let emoji = emoji.to_owned();
    let kind = ChangedKind::Reacted { emoji, on };
    tell(entities, turn, command, place, (version, kind));
    Outcome::Done
}

/// Takes away the messages of this shard's conversation whose time is over. Nobody has to be told: everybody knows when.
pub(super) fn expire(entities: &mut Entities, turn: &mut Turn, id: ConversationId, seqs: &[Seq]) {
    if turn.shards.of_conversation(&id) != turn.shard {
        turn.effects.dropped.misrouted += 1;
        return;
    }
    for seq in seqs {
        let mut entity = entities.message(id, *seq, turn.position);
        let due = entity.get().is_some_and(|message| {
            !matches!(message.content, Content::Gone(_)) && message.is_expired(turn.time)
        });
        if due && let Some(message) = entity.change() {
            let version = clear(turn, message, Gone::Expired);
            turn.changed((id, *seq), version);
        }
    }
}

/// Keeps new messages for so long from now on, and notes it.
pub(super) fn set_timer(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    id: ConversationId,
    keep_ms: u64,
) -> Outcome {
    match rights(entities, turn, id, command.user) {
        Err(refused) => return refused,
        Ok(Rights { role, .. }) if id.is_group() && role < Role::Admin => {
            return rejected(
                RejectCode::Forbidden,
                "your role in this group does not allow that",
            );
        }
        Ok(_) => {}
    }
    let mut conversation = entities.conversation(id, turn.position);
    match conversation.get().map(|open| &open.row) {
        Some(row) if row.keep_ms == keep_ms => return Outcome::Done,
        Some(row) if row.has_blocked(&command.user) => return blocked(),
        Some(_) | None => {}
    }
    if let Some(open) = conversation.change() {
        open.row.keep_ms = keep_ms;
    }
    write_note(entities, turn, command, id, Note::Timer(keep_ms));
    Outcome::Done
}

// ---------------------------------------------------------------- who may, and what follows

/// What the user may do in the conversation of a message that the user sees and that is no note, or the answer to any other.
pub(super) fn seen(
    entities: &mut Entities,
    turn: &Turn,
    command: &Command,
    (id, seq): Place,
) -> Result<Rights, Outcome> {
    let rights = rights(entities, turn, id, command.user)?;
    let entity = entities.message(id, seq, turn.position);
    let is_said = |message: &Message| !matches!(message.content, Content::Note(_));
    match entity.get().is_some_and(is_said) && seq >= rights.first {
        true => Ok(rights),
        false => Err(unknown_message()),
    }
}

/// The same for what shows the other side something new: not to who has blocked the user.
fn words_allowed(
    entities: &mut Entities,
    turn: &Turn,
    command: &Command,
    place: Place,
) -> Result<(), Outcome> {
    seen(entities, turn, command, place)?;
    let conversation = entities.conversation(place.0, turn.position);
    let row = conversation.get().map(|open| &open.row);
    match row.is_some_and(|row| row.has_blocked(&command.user)) {
        true => Err(blocked()),
        false => Ok(()),
    }
}

fn unknown_message() -> Outcome {
    rejected(
        RejectCode::UnknownMessage,
        "there is no such message, or it is gone",
    )
}

fn is_over(since: TimestampMs, window_ms: u64, now: TimestampMs) -> bool {
    now.0 > since.0.saturating_add(window_ms)
}

/// Whether it says nothing any more, swept already or not.
fn is_gone(message: &Message, now: TimestampMs) -> bool {
    matches!(message.content, Content::Gone(_)) || message.is_expired(now)
}

/// Takes everything away that the message said or that was put on it, and gives its new version.
fn clear(turn: &mut Turn, message: &mut Message, why: Gone) -> u32 {
    let place = (message.conversation, message.seq);
    let state = message.state.take().unwrap_or_default();
    // Nobody reaches the end of 32 bits by changing one message; going away comes first.
    let version = state.version.saturating_add(1);
    let old = std::mem::replace(&mut message.content, Content::Gone(why));
    message.state = Some(Box::new(MessageState {
        version,
        ..MessageState::default()
    }));
    refer(turn, place, &old, &message.content);
    for edit in 1..=state.edits {
        turn.index(IndexKey::Version(place.0, place.1, edit), None);
    }
    if let Some(at) = state.expires_at {
        turn.index(IndexKey::Due(at, place.0, place.1), None);
    }
    version
}

/// Moves a message's references from the files of one content to those of another.
fn refer(turn: &mut Turn, (id, seq): Place, from: &Content, to: &Content) {
    let has = |content: &Content, hash: &[u8; 32]| {
        content.attachments().iter().any(|file| file.hash == *hash)
    };
    for file in from.attachments().iter().filter(|f| !has(to, &f.hash)) {
        turn.index(IndexKey::MediaRef(id, file.hash, seq), None);
    }
    for file in to.attachments().iter().filter(|f| !has(from, &f.hash)) {
        let here = Some(bytes::Bytes::new());
        turn.index(IndexKey::MediaRef(id, file.hash, seq), here);
    }
}

/// Numbers a change in a pulled group: it is in nobody's inbox, and a device that was away asks for what it missed. The end of
/// a message's time has no number, as the message says when it comes and nothing can follow it.
fn number(entities: &mut Entities, turn: &mut Turn, command: &Command, (id, seq): Place) {
    let mut conversation = entities.conversation(id, turn.position);
    let group = conversation
        .get()
        .and_then(|open| open.row.group.as_deref());
    if group.is_none_or(|group| group.pulled.is_none()) {
        return;
    }
    let group = conversation
        .change()
        .and_then(|open| open.row.group.as_deref_mut());
    let Some(group) = group else { return };
    group.changes = group.changes.next();
    let change = NumberedChange {
        seq,
        by: command.user,
        at: turn.time,
    };
    turn.numbered(id, group.changes, change);
}

fn tell(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    (conversation, seq): Place,
    (version, kind): (u32, ChangedKind),
) {
    turn.changed((conversation, seq), version);
    number(entities, turn, command, (conversation, seq));
    let changed = Changed {
        conversation,
        seq,
        version,
        by: Some(command.user),
        at: turn.time,
        kind,
    };
    let event = EventBody::Changed(Box::new(changed));
    announce(entities, turn, conversation, &event);
}
