//! Which changes of a group of notices are in all that the cache has of it, and what of it has to be read again.

use quipu_protocol::event::{Changed, ChangedKind, Content, Gone, Message};
use quipu_protocol::id::{ChangeNumber, ConversationId, Seq};
use quipu_protocol::query::{ChangedMessage, Changes};
use quipu_protocol::session::ChangeMark;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::inbox::changes::{find, refresh, version};
use super::{Tables, row};
use crate::error::Error;
use crate::events::ClientEvent;

/// What a page of changes did.
#[derive(Debug)]
pub(crate) struct CaughtUp {
    /// To tell the application.
    pub(crate) events: Vec<ClientEvent>,
    /// Where the cache is now.
    pub(crate) mark: ChangeMark,
}

impl Tables {
    /// How far the cache has the changes of a group.
    pub(crate) fn mark(&self, id: &ConversationId) -> Result<ChangeMark, Error> {
        read(&self.db, id)
    }

    /// The gateway says which change is the group's last. Whether the cache lacks some.
    pub(crate) fn hear_changes(
        &mut self,
        id: &ConversationId,
        last: ChangeNumber,
    ) -> Result<bool, Error> {
        let tx = self.db.transaction()?;
        let mark = hear(&tx, id, last)?;
        tx.commit()?;
        Ok(mark.is_behind())
    }

    /// Applies what was changed after a number to what is here, and says what is news of that. What is not here has the changes in it
    /// when it comes.
    pub(crate) fn take_changes(
        &mut self,
        id: &ConversationId,
        after: ChangeNumber,
        page: &Changes,
    ) -> Result<CaughtUp, Error> {
        let tx = self.db.transaction()?;
        let mut events = Vec::new();
        for news in &page.messages {
            let message = &news.message;
            if let Some(old) = find(&tx, id, message.seq)? {
                let news = differences(&old, news).into_iter();
                events.extend(news.map(|changed| ClientEvent::Changed(Box::new(changed))));
                refresh(&tx, message)?;
            }
        }
        if page.too_old {
            tx.prepare_cached(
                "UPDATE conversation SET stale_to = (SELECT max(seq) FROM message WHERE conversation = ?1) WHERE id = ?1",
            )?
            .execute([id.as_bytes()])?;
        }
        let mut mark = read(&tx, id)?;
        mark.catch_up(after, page.through);
        write(&tx, id, mark)?;
        tx.commit()?;
        Ok(CaughtUp { events, mark })
    }

    /// The last message that is to be read again, and all that are here in front of it.
    pub(crate) fn stale_to(&self, id: &ConversationId) -> Result<Option<Seq>, Error> {
        let stale: Option<Option<i64>> = self
            .db
            .prepare_cached("SELECT stale_to FROM conversation WHERE id = ?1")?
            .query_row([id.as_bytes()], |row| row.get(0))
            .optional()?;
        Ok(stale
            .flatten()
            .and_then(|seq| Seq::new(seq.cast_unsigned()).ok()))
    }

    /// What is above `below` was read again; `None`: there is nothing more that the user may read.
    pub(crate) fn reread(&self, id: &ConversationId, below: Option<Seq>) -> Result<(), Error> {
        self.db
            .prepare_cached(
                "UPDATE conversation SET stale_to = (SELECT max(seq) FROM message WHERE conversation = ?1 AND seq <= ?2)
                 WHERE id = ?1",
            )?
            .execute(params![id.as_bytes(), row::store(below)])?;
        Ok(())
    }

    /// Drops what was not read again.
    pub(crate) fn drop_stale(&mut self, id: &ConversationId) -> Result<(), Error> {
        let tx = self.db.transaction()?;
        let dropped = tx
            .prepare_cached(
                "DELETE FROM message WHERE conversation = ?1 AND seq <= (SELECT stale_to FROM conversation WHERE id = ?1)",
            )?
            .execute([id.as_bytes()])?;
        tx.prepare_cached("UPDATE conversation SET stale_to = NULL WHERE id = ?1")?
            .execute([id.as_bytes()])?;
        tx.commit()?;
        self.messages = self.messages.saturating_sub(dropped);
        Ok(())
    }
}

/// How far the cache has the changes of a group; of one that it does not know, nothing is here that could lack any.
pub(super) fn read(db: &Connection, id: &ConversationId) -> Result<ChangeMark, Error> {
    let mark = db
        .prepare_cached("SELECT changes, changes_told FROM conversation WHERE id = ?1")?
        .query_row([id.as_bytes()], |row| {
            let (has, told): (i64, i64) = (row.get(0)?, row.get(1)?);
            let number = |stored: i64| ChangeNumber(stored.cast_unsigned());
            Ok(ChangeMark::new(number(has), number(told)))
        })
        .optional()?;
    Ok(mark.unwrap_or_default())
}

/// Stores it, in a transaction with what was kept or changed.
pub(super) fn write(
    tx: &Transaction<'_>,
    id: &ConversationId,
    mark: ChangeMark,
) -> Result<(), Error> {
    tx.prepare_cached("UPDATE conversation SET changes = ?2, changes_told = ?3 WHERE id = ?1")?
        .execute(params![
            id.as_bytes(),
            mark.has().0.cast_signed(),
            mark.told().0.cast_signed()
        ])?;
    Ok(())
}

/// Whether no message of a conversation is here.
pub(super) fn is_empty(tx: &Transaction<'_>, id: &ConversationId) -> Result<bool, Error> {
    let found = tx
        .prepare_cached("SELECT 1 FROM message WHERE conversation = ?1 LIMIT 1")?
        .exists([id.as_bytes()])?;
    Ok(!found)
}

/// Notes the last change of a group. If nothing of it is here, nothing lacks a change.
pub(super) fn hear(
    tx: &Transaction<'_>,
    id: &ConversationId,
    last: ChangeNumber,
) -> Result<ChangeMark, Error> {
    let before = read(tx, id)?;
    let mut mark = before;
    match is_empty(tx, id)? {
        true => mark.keep(last, true),
        false => mark.hear(last),
    }
    if mark != before {
        write(tx, id, mark)?;
    }
    Ok(mark)
}

/// What became of a message between two of its versions, as the changes of it would have said it.
fn differences(old: &Message, news: &ChangedMessage) -> Vec<Changed> {
    let new = &news.message;
    let mut found = Vec::new();
    if version(new) <= version(old) {
        return Vec::new();
    }
    let state = new.state.as_deref();
    let signs = |message: &Message| {
        let state = message.state.as_deref();
        state.map_or_else(Vec::new, |state| state.reactions.clone())
    };
    match &new.content {
        content if *content == old.content => {}
        Content::Gone(gone) => {
            let by = (*gone == Gone::Deleted).then_some(news.by);
            found.push((by, news.at, ChangedKind::Gone(*gone)));
        }
        content @ (Content::Text(_) | Content::Rich(_) | Content::Note(_)) => {
            let at = state.and_then(|state| state.edited_at).unwrap_or(news.at);
            found.push((Some(new.from), at, ChangedKind::Edited(content.clone())));
        }
    }
    if !matches!(new.content, Content::Gone(_)) {
        let (before, now) = (signs(old), signs(new));
        let gone = before.iter().filter(|sign| !now.contains(sign));
        let come = now.iter().filter(|sign| !before.contains(sign));
        let signs = gone
            .map(|sign| (sign, false))
            .chain(come.map(|sign| (sign, true)));
        found.extend(signs.map(|(sign, on)| {
            let emoji = sign.emoji.clone();
            (Some(sign.user), news.at, ChangedKind::Reacted { emoji, on })
        }));
    }
    // Each of them was one change at least, so that these numbers are above what the application has.
    let before_first = version(new).saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
    let numbered = (before_first.saturating_add(1)..).zip(found);
    let changed = numbered.map(|(version, (by, at, kind))| Changed {
        conversation: new.conversation,
        seq: new.seq,
        version,
        by,
        at,
        kind,
    });
    changed.collect()
}
