//! Which groups of notices lack messages, remembered until they have come.

use quipu_protocol::id::{ConversationId, Seq};
use quipu_protocol::query::ConversationEntry;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{Tables, row};
use crate::error::Error;

/// Groups that are asked about after one WELCOME, whatever the cache has; far above what a user can be in.
const GROUPS_MAX: i64 = 10_000;

/// In the column `pulled`: nobody has said yet what the conversation is. If it is a group, its messages may come as notices.
const UNKNOWN: i64 = 2;

/// A group whose messages come as notices, as the cache knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pulled {
    pub(crate) conversation: ConversationId,
    /// The last seq that the cache knows of.
    pub(crate) head: Option<Seq>,
    /// Messages behind this seq are missing; 0: all but the newest, which are fetched when somebody scrolls there.
    pub(crate) gap_after: Option<u64>,
    /// Messages that are here are to be read again.
    pub(crate) stale: bool,
    /// The gateway is to be asked what it is. It may have no title, come as events, or be no group.
    pub(crate) unknown: bool,
}

impl Tables {
    /// Groups whose messages come as notices.
    pub(crate) fn pulled(&self) -> Result<Vec<Pulled>, Error> {
        let sql =
            "SELECT id, head, gap_after, stale_to, pulled = ?2 OR title IS NULL FROM conversation
                   WHERE pulled > 0 AND gone = 0 LIMIT ?1";
        let mut statement = self.db.prepare_cached(sql)?;
        let found = statement.query_and_then([GROUPS_MAX, UNKNOWN], |found| {
            let gap_after: Option<i64> = found.get(2)?;
            let stale_to: Option<i64> = found.get(3)?;
            Ok(Pulled {
                conversation: row::conversation(found, 0)?,
                head: row::optional_seq(found, 1)?,
                gap_after: gap_after.map(i64::cast_unsigned),
                stale: stale_to.is_some(),
                unknown: found.get(4)?,
            })
        })?;
        found.collect()
    }

    /// What is known of a conversation that the gateway is to be asked about; `None`: it need not be.
    pub(crate) fn unknown(&self, id: &ConversationId) -> Result<Option<Pulled>, Error> {
        let of = |group: &Pulled| group.conversation == *id && group.unknown;
        Ok(self.pulled()?.into_iter().find(of))
    }

    /// The gateway says what the title is and which message is the last: it may have a title that no message here tells of. Says
    /// whether it is news.
    pub(crate) fn retitle(
        &self,
        id: &ConversationId,
        (title, head): (&str, Option<Seq>),
    ) -> Result<bool, Error> {
        let sql = "UPDATE conversation SET title = ?2 WHERE id = ?1 AND title IS NOT ?2 AND coalesce(head, 0) <= ?3";
        let mut statement = self.db.prepare_cached(sql)?;
        Ok(statement.execute(params![id.as_bytes(), title, row::store(head)])? > 0)
    }

    /// Messages behind `after` are missing, or behind an earlier one that is remembered; says which.
    pub(crate) fn open_gap(&mut self, id: ConversationId, after: u64) -> Result<u64, Error> {
        let tx = self.db.transaction()?;
        remember(&tx, id.as_bytes(), after)?;
        let gap: Option<Option<i64>> = tx
            .prepare_cached("SELECT gap_after FROM conversation WHERE id = ?1")?
            .query_row([id.as_bytes()], |row| row.get(0))
            .optional()?;
        tx.commit()?;
        Ok(gap.flatten().map_or(after, i64::cast_unsigned))
    }

    /// The gap is closed as far as it is going to be; or as far as there is history now, when messages are missing `behind` a later
    /// one.
    pub(crate) fn close_gap(&self, id: ConversationId, behind: Option<u64>) -> Result<(), Error> {
        self.db
            .prepare_cached("UPDATE conversation SET gap_after = ?2 WHERE id = ?1")?
            .execute(params![id.as_bytes(), behind.map(u64::cast_signed)])?;
        Ok(())
    }

    /// A history that was read up to here should come to `head`, or to a later one that the cache knows of: says behind which seq
    /// something is missing.
    pub(crate) fn lacks_above(
        &self,
        id: ConversationId,
        reached: u64,
        head: Option<Seq>,
    ) -> Result<Option<u64>, Error> {
        let known: Option<i64> = self
            .db
            .prepare_cached("SELECT head FROM conversation WHERE id = ?1")?
            .query_row([id.as_bytes()], |row| row.get(0))
            .optional()?;
        let head = known
            .map_or(0, i64::cast_unsigned)
            .max(row::store(head).cast_unsigned());
        first_gap(&self.db, id.as_bytes(), (reached, head))
    }
}

/// Behind which seq the first message is missing of those above `reached` up to `head`.
pub(super) fn first_gap(
    db: &Connection,
    id: &[u8; 16],
    (reached, head): (u64, u64),
) -> Result<Option<u64>, Error> {
    let sql =
        "SELECT seq FROM message WHERE conversation = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq";
    let mut statement = db.prepare_cached(sql)?;
    let range = params![id, reached.cast_signed(), head.cast_signed()];
    let mut rows = statement.query(range)?;
    let mut last = reached;
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        if seq.cast_unsigned() != last + 1 {
            break;
        }
        last += 1;
    }
    Ok((last < head).then_some(last))
}

/// Whether the cache knows what this conversation is.
pub(super) fn is_open(tx: &Transaction<'_>, id: &ConversationId) -> Result<bool, Error> {
    let opened: Option<bool> = tx
        .prepare_cached("SELECT opened FROM conversation WHERE id = ?1")?
        .query_row([id.as_bytes()], |row| row.get(0))
        .optional()?;
    Ok(opened.unwrap_or(false))
}

/// The gateway has to be asked what a conversation is: a group that the user has joined, or one that is met for the first time.
pub(super) fn ask_about(tx: &Transaction<'_>, id: &ConversationId) -> Result<(), Error> {
    tx.prepare_cached(
        "INSERT INTO conversation (id, pulled, opened) VALUES (?1, ?2, 1)
         ON CONFLICT DO UPDATE SET pulled = ?2, opened = 1 WHERE pulled = 0",
    )?
    .execute(params![id.as_bytes(), UNKNOWN])?;
    Ok(())
}

/// The last message that is here of a pulled group, if the gateway says that there are later ones. Of one of which nothing is here,
/// nothing is missing in front of what somebody looks at.
pub(super) fn in_front_of(
    tx: &Transaction<'_>,
    entry: &ConversationEntry,
) -> Result<Option<u64>, Error> {
    let is_pulled = entry.group.as_ref().is_some_and(|group| group.pulled);
    let known: Option<i64> = tx
        .prepare_cached("SELECT head FROM conversation WHERE id = ?1 AND head > 0")?
        .query_row([entry.conversation.as_bytes()], |row| row.get(0))
        .optional()?;
    let known = known.filter(|known| is_pulled && *known < row::store(entry.head));
    Ok(known.map(i64::cast_unsigned))
}

/// Remembers the lower of two gaps.
pub(super) fn remember(tx: &Transaction<'_>, id: &[u8; 16], after: u64) -> Result<(), Error> {
    tx.prepare_cached(
        "UPDATE conversation SET gap_after = min(coalesce(gap_after, ?2), ?2) WHERE id = ?1",
    )?
    .execute(params![id, after.cast_signed()])?;
    Ok(())
}
