//! What happens to messages and groups after they are kept: edits, deletions, reactions, titles, and notices.

use prost::Message as _;
use quipu_protocol::event::{
    Changed, ChangedKind, Content, Message, MessageState, Note, Notice, Reaction,
};
use quipu_protocol::id::{ChangeNumber, ConversationId, Seq};
use quipu_protocol::wire;
use rusqlite::{OptionalExtension, Transaction, params};

use super::super::row::{self, MESSAGE};
use super::super::{gaps, invitations, marks};
use super::{Changes, Inserted, answered, insert};
use crate::error::Error;
use crate::events::ClientEvent;
use crate::model::Account;

/// Applies a change whose version is news to the cached message, and announces it. A message that is not cached has the
/// change in it when it is fetched, unless a page was read before it: so it is remembered for a while.
pub(super) fn changed(
    tx: &Transaction<'_>,
    changed: Changed,
    changes: &mut Changes,
) -> Result<(), Error> {
    match find(tx, &changed.conversation, changed.seq)? {
        Some(mut message) => {
            if !bring(&mut message, &changed) {
                return Ok(());
            }
            refresh(tx, &message)?;
        }
        None => changes.ahead.push(changed.clone()),
    }
    changes.events.push(ClientEvent::Changed(Box::new(changed)));
    Ok(())
}

/// How often a message was changed, as far as it says.
pub(in super::super) fn version(message: &Message) -> u32 {
    message.state.as_ref().map_or(0, |state| state.version)
}

/// Makes of a message what a change says. False: the change is in it already.
pub(super) fn bring(message: &mut Message, changed: &Changed) -> bool {
    if changed.version <= version(message) {
        return false;
    }
    let state = message.state.get_or_insert_default();
    state.version = changed.version;
    match &changed.kind {
        ChangedKind::Edited(content) => {
            message.content = content.clone();
            state.edited_at = Some(changed.at);
        }
        ChangedKind::Gone(gone) => {
            message.content = Content::Gone(*gone);
            state.reactions = Vec::new();
        }
        ChangedKind::Reacted { emoji, on } => {
            if let Some(user) = changed.by {
                let reaction = Reaction {
                    user,
                    emoji: emoji.clone(),
                };
                react(&mut state.reactions, reaction, *on);
            }
        }
    }
    true
}

fn react(reactions: &mut Vec<Reaction>, reaction: Reaction, on: bool) {
    match (reactions.binary_search(&reaction), on) {
        (Err(at), true) => reactions.insert(at, reaction),
        (Ok(at), false) => drop(reactions.remove(at)),
        (Ok(_), true) | (Err(_), false) => {}
    }
}

pub(in super::super) fn find(
    tx: &Transaction<'_>,
    conversation: &ConversationId,
    seq: Seq,
) -> Result<Option<Message>, Error> {
    let sql = format!("SELECT {MESSAGE} FROM message WHERE conversation = ?1 AND seq = ?2");
    let mut statement = tx.prepare_cached(&sql)?;
    let key = params![conversation.as_bytes(), seq.get().cast_signed()];
    let mut found = statement.query_and_then(key, row::message)?;
    found.next().transpose()
}

/// Takes over what a newer version of a cached message says.
pub(in super::super) fn refresh(tx: &Transaction<'_>, message: &Message) -> Result<(), Error> {
    let Some(state) = &message.state else {
        return Ok(());
    };
    tx.prepare_cached(
        "UPDATE message SET text = ?3, content = ?4, version = ?5, state = ?6
         WHERE conversation = ?1 AND seq = ?2 AND version < ?5",
    )?
    .execute(params![
        message.conversation.as_bytes(),
        message.seq.get().cast_signed(),
        message.content.text(),
        row::more_than_text(&message.content),
        state.version,
        state_bytes(Some(state)),
    ])?;
    Ok(())
}

/// Makes of a message what the cache has of it, if that is newer.
pub(super) fn renew(tx: &Transaction<'_>, message: &mut Message) -> Result<(), Error> {
    let kept = find(tx, &message.conversation, message.seq)?;
    if let Some(kept) = kept.filter(|kept| version(kept) > version(message)) {
        *message = kept;
    }
    Ok(())
}

/// What is stored of a message's state.
pub(super) fn state_bytes(state: Option<&MessageState>) -> Option<Vec<u8>> {
    state.map(|state| wire::MessageState::from(state).encode_to_vec())
}

/// Keeps what a note says of the group as a whole.
pub(super) fn note(
    tx: &Transaction<'_>,
    account: &Account,
    message: &Message,
) -> Result<(), Error> {
    let Content::Note(note) = &message.content else {
        return Ok(());
    };
    let id = message.conversation.as_bytes();
    if invitations::ends(note, &message.from, &account.user) {
        invitations::answered(tx, &message.conversation)?;
    }
    match &**note {
        Note::Created(title) | Note::Title(title) => {
            tx.prepare_cached(
                "INSERT INTO conversation (id, title, opened) VALUES (?1, ?2, 1)
                 ON CONFLICT DO UPDATE SET title = excluded.title",
            )?
            .execute(params![id, title])?;
        }
        Note::Joined if message.from == account.user => set_gone(tx, id, false)?,
        Note::Pulled => set_pulled(tx, id)?,
        Note::Left if message.from == account.user => set_gone(tx, id, true)?,
        Note::Removed(user) if *user == account.user => set_gone(tx, id, true)?,
        Note::Joined
        | Note::Left
        | Note::Removed(_)
        | Note::Invited(_)
        | Note::Role(..)
        | Note::Topic(_)
        | Note::Timer(_) => {}
    }
    Ok(())
}

/// From here on messages of the group come as notices, and are asked for after a reconnect.
fn set_pulled(tx: &Transaction<'_>, id: &[u8; 16]) -> Result<(), Error> {
    tx.prepare_cached(
        "INSERT INTO conversation (id, pulled, opened) VALUES (?1, 1, 1) ON CONFLICT DO UPDATE SET pulled = 1",
    )?
    .execute([id])?;
    Ok(())
}

fn set_gone(tx: &Transaction<'_>, id: &[u8; 16], gone: bool) -> Result<(), Error> {
    tx.prepare_cached(
        "INSERT INTO conversation (id, gone, opened) VALUES (?1, ?2, 1)
         ON CONFLICT DO UPDATE SET gone = excluded.gone",
    )?
    .execute(params![id, gone])?;
    Ok(())
}

/// Applies the change of a notice, unless one of the same message is still to come or was dropped: then all changes are asked for
/// that are not here.
fn noticed_change(
    tx: &Transaction<'_>,
    (news, number): (Changed, ChangeNumber),
    changes: &mut Changes,
) -> Result<(), Error> {
    let id = news.conversation;
    let known = find(tx, &id, news.seq)?;
    let version = known.as_ref().map(version);
    let mut mark = marks::read(tx, &id)?;
    if version.is_some_and(|version| news.version > version.saturating_add(1)) {
        mark.hear(number);
    } else {
        changed(tx, news, changes)?;
        mark.change(number);
    }
    marks::write(tx, &id, mark)?;
    if mark.is_behind() {
        ask_for(&id, None, changes);
    }
    Ok(())
}

/// Messages of a group are missing behind `after`, or not as they are now: they are to be fetched.
pub(super) fn missing(
    tx: &Transaction<'_>,
    (id, after): (&ConversationId, u64),
    changes: &mut Changes,
) -> Result<(), Error> {
    gaps::remember(tx, id.as_bytes(), after)?;
    ask_for(id, Some(after), changes);
    Ok(())
}

/// Changes of a group are to be fetched, and messages behind a seq, if there is one; or what is not known of a group that was joined.
pub(super) fn ask_for(id: &ConversationId, after: Option<u64>, changes: &mut Changes) {
    let mut known = changes.behind.iter_mut();
    match known.find(|(conversation, _)| conversation == id) {
        Some((_, before)) => *before = lower(*before, after),
        None => changes.behind.push((*id, after)),
    }
}

/// Of two places behind which messages are missing the lower one; `None`: none are.
pub(crate) fn lower(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Keeps a notice of a large group. A message that does not follow the last one shows that others are missing.
pub(super) fn notice(
    tx: &Transaction<'_>,
    account: &Account,
    notice: Notice,
    changes: &mut Changes,
) -> Result<(), Error> {
    let (message, as_of) = match notice {
        Notice::Message(message, as_of) => (message, as_of),
        Notice::Changed(news, number) => return noticed_change(tx, (*news, number), changes),
        Notice::Check => return Ok(()),
    };
    let id = message.conversation;
    let head: Option<i64> = tx
        .prepare_cached("SELECT head FROM conversation WHERE id = ?1")?
        .query_row([message.conversation.as_bytes()], |row| row.get(0))
        .optional()?;
    set_pulled(tx, message.conversation.as_bytes())?;
    let alone = marks::is_empty(tx, &message.conversation)?;
    let mut mark = marks::read(tx, &message.conversation)?;
    mark.hear(as_of);
    if insert(tx, account, &message, None)? == Inserted::Yes {
        changes.inserted += 1;
        mark.keep(as_of, alone);
        let known = changes.conversations.get(&message.conversation);
        let before = known.and_then(|known| known.head).map_or(0, Seq::get);
        let before = before.max(head.unwrap_or(0).cast_unsigned());
        if before + 1 < message.seq.get() {
            missing(tx, (&message.conversation, before), changes)?;
        }
        let known = changes
            .conversations
            .entry(message.conversation)
            .or_default();
        known.head = known.head.max(Some(message.seq));
        known.last_at = known.last_at.max(message.sent_at.0);
        answered(tx, account, &message, changes)?;
        note(tx, account, &message)?;
        changes
            .events
            .push(ClientEvent::Noticed(std::sync::Arc::new(message)));
    }
    marks::write(tx, &id, mark)?;
    if mark.is_behind() {
        ask_for(&id, None, changes);
    }
    Ok(())
}
