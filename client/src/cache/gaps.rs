//! Which groups of notices lack messages, remembered until they have come.

use quipu_protocol::id::{ConversationId, Seq};
use rusqlite::{OptionalExtension, Transaction, params};

use super::{Tables, row};
use crate::error::Error;

/// Groups that are asked about after one WELCOME, whatever the cache has; far above what a user can be in.
const GROUPS_MAX: i64 = 10_000;

/// A group whose messages come as notices, as the cache knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pulled {
    pub(crate) conversation: ConversationId,
    /// The last seq that the cache knows of.
    pub(crate) head: Option<Seq>,
    /// Messages behind this seq are missing; 0: all but the newest, which are fetched when somebody scrolls there.
    pub(crate) gap_after: Option<u64>,
}

impl Tables {
    /// Groups whose messages come as notices.
    pub(crate) fn pulled(&self) -> Result<Vec<Pulled>, Error> {
        let sql =
            "SELECT id, head, gap_after FROM conversation WHERE pulled = 1 AND gone = 0 LIMIT ?1";
        let mut statement = self.db.prepare_cached(sql)?;
        let found = statement.query_and_then([GROUPS_MAX], |found| {
            let gap_after: Option<i64> = found.get(2)?;
            Ok(Pulled {
                conversation: row::conversation(found, 0)?,
                head: row::optional_seq(found, 1)?,
                gap_after: gap_after.map(i64::cast_unsigned),
            })
        })?;
        found.collect()
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

    /// The gap is closed as far as it is going to be.
    pub(crate) fn close_gap(&self, id: ConversationId) -> Result<(), Error> {
        self.db
            .prepare_cached("UPDATE conversation SET gap_after = NULL WHERE id = ?1")?
            .execute([id.as_bytes()])?;
        Ok(())
    }
}

/// Remembers the lower of two gaps.
pub(super) fn remember(tx: &Transaction<'_>, id: &[u8; 16], after: u64) -> Result<(), Error> {
    tx.prepare_cached(
        "UPDATE conversation SET gap_after = min(coalesce(gap_after, ?2), ?2) WHERE id = ?1",
    )?
    .execute(params![id, after.cast_signed()])?;
    Ok(())
}
