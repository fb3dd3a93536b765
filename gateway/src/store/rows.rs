//! Rows in memory, sorted by key: the memory store, and the overlay of the write-behind store.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use quipu_core::row::{
    CorruptRow, EntityKey, EntityPlace, HistoryRow, InboxKind, InboxRow, IndexKey, IndexRange, Row,
};
use quipu_core::shard::ShardId;
use quipu_protocol::id::{ConversationId, Cursor, InboxSeq, Seq, UserId};

use super::{HistoryRange, body_bytes};

/// What a row costs in memory beside its variable bytes, in bytes: map node, key and fixed fields. An estimate for bounds.
const ROW_OVERHEAD_BYTES: usize = 200;

/// The last row under each key.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) shards: BTreeMap<ShardId, Bytes>,
    pub(super) entities: BTreeMap<EntityKey, Bytes>,
    pub(super) history: BTreeMap<(ConversationId, Seq), HistoryRow>,
    /// `None`: trimmed.
    pub(super) inbox: BTreeMap<(UserId, InboxSeq), Option<InboxKind>>,
    /// By encoded key; `None`: taken away.
    pub(super) index: BTreeMap<Vec<u8>, Option<Bytes>>,
    /// About what all of it takes in memory.
    pub(super) bytes: usize,
}

impl Rows {
    /// Rows held.
    pub(super) fn len(&self) -> usize {
        self.shards.len()
            + self.entities.len()
            + self.history.len()
            + self.inbox.len()
            + self.index.len()
    }

    /// Adds rows; a later one replaces an earlier one of its key.
    pub(super) fn merge(&mut self, rows: Vec<Row>) {
        for row in rows {
            let bytes = ROW_OVERHEAD_BYTES + variable_bytes(&row);
            let replaced = match row {
                Row::Shard(shard, row) => self.shards.insert(shard, row).map(|old| old.len()),
                Row::Entity(key, row) => self.entities.insert(key, row).map(|old| old.len()),
                Row::History(row) => self
                    .history
                    .insert((row.0.conversation, row.0.seq), row)
                    .map(|old| body_bytes(&old)),
                Row::Inbox(InboxRow {
                    user,
                    inbox_seq,
                    kind,
                }) => self.inbox.insert((user, inbox_seq), Some(kind)).map(|_| 0),
                Row::Trimmed(user, inbox_seq) => {
                    self.inbox.insert((user, inbox_seq), None).map(|_| 0)
                }
                Row::Index(key, value) => self
                    .index
                    .insert(key.encode(), value)
                    .map(|old| old.map_or(0, |old| old.len())),
            };
            self.bytes += bytes;
            if let Some(old) = replaced {
                self.bytes -= ROW_OVERHEAD_BYTES + old;
            }
        }
    }

    /// The value of an entity, if it is here.
    pub(super) fn entity(&self, key: &EntityKey) -> Option<Bytes> {
        match key.place() {
            EntityPlace::History(conversation, seq) => self
                .history
                .get(&(conversation, seq))
                .map(HistoryRow::encode_value),
            EntityPlace::Own => self.entities.get(key).cloned(),
        }
    }

    /// The rows of a range of the index, ascending, lazily; `None`: taken away.
    pub(super) fn index(
        &self,
        range: &IndexRange,
    ) -> impl Iterator<Item = (&Vec<u8>, Option<&Bytes>)> {
        let (start, end) = range.bounds();
        self.index
            .range(start..end)
            .map(|(key, value)| (key, value.as_ref()))
    }

    /// The messages of a range in the order that its limits count, lazily.
    pub(super) fn history<'a>(
        &'a self,
        conversation: &ConversationId,
        range: &HistoryRange,
    ) -> Box<dyn Iterator<Item = &'a HistoryRow> + 'a> {
        let last = last_of(range);
        if last < range.first {
            return Box::new(std::iter::empty());
        }
        let rows = self
            .history
            .range((*conversation, range.first)..=(*conversation, last))
            .map(|(_, row)| row);
        if range.newest_first {
            Box::new(rows.rev())
        } else {
            Box::new(rows)
        }
    }

    /// The entries of an inbox after the cursor, ascending, lazily; `None`: trimmed.
    pub(super) fn inbox(
        &self,
        user: &UserId,
        after: Cursor,
    ) -> impl Iterator<Item = (InboxSeq, Option<InboxRow>)> {
        let user = *user;
        let from = (user, after.next());
        // A cursor at the end of 64 bits has nothing after it, and `next` saturates there.
        let rows = (after.0 < u64::MAX)
            .then(|| self.inbox.range((Bound::Included(from), Bound::Unbounded)));
        rows.into_iter()
            .flatten()
            .take_while(move |((owner, _), _)| *owner == user)
            .map(|((user, inbox_seq), kind)| {
                let row = kind.clone().map(|kind| InboxRow {
                    user: *user,
                    inbox_seq: *inbox_seq,
                    kind,
                });
                (*inbox_seq, row)
            })
    }

    /// Every row, in the order of [`Store::scan`](super::Store::scan).
    pub(super) fn iter(&self) -> impl Iterator<Item = Row> {
        let shards = self.shards.iter().map(|(k, v)| Row::Shard(*k, v.clone()));
        let entities = self
            .entities
            .iter()
            .map(|(k, v)| Row::Entity(*k, v.clone()));
        let history = self.history.values().map(|row| Row::History(row.clone()));
        let inbox = self.inbox.iter().map(|((user, inbox_seq), kind)| {
            kind.clone()
                .map_or(Row::Trimmed(*user, *inbox_seq), |kind| {
                    Row::Inbox(InboxRow {
                        user: *user,
                        inbox_seq: *inbox_seq,
                        kind,
                    })
                })
        });
        let index = self.index.iter().filter_map(|(key, value)| {
            // Every key here was encoded by us.
            Some(Row::Index(IndexKey::decode(key).ok()?, value.clone()))
        });
        shards
            .chain(entities)
            .chain(history)
            .chain(inbox)
            .chain(index)
    }
}

/// The last seq of a range.
pub(super) fn last_of(range: &HistoryRange) -> Seq {
    // u64::MAX is not 0, the only number that is no seq.
    range
        .last
        .unwrap_or_else(|| Seq::new(u64::MAX).unwrap_or(Seq::FIRST))
}

fn variable_bytes(row: &Row) -> usize {
    match row {
        Row::Shard(_, bytes) | Row::Entity(_, bytes) => bytes.len(),
        Row::History(row) => body_bytes(row),
        Row::Inbox(_) | Row::Trimmed(..) => 0,
        Row::Index(_, value) => value.as_ref().map_or(0, Bytes::len),
    }
}

/// Reads the keys of found index rows.
pub(super) fn read_index(
    rows: impl Iterator<Item = (Vec<u8>, Bytes)>,
) -> Result<Vec<(IndexKey, Bytes)>, CorruptRow> {
    rows.map(|(key, value)| Ok((IndexKey::decode(&key)?, value)))
        .collect()
}

/// Takes rows until a range's limits are reached and puts them in ascending order.
pub(super) fn take_history<E>(
    range: &HistoryRange,
    rows: impl Iterator<Item = Result<HistoryRow, E>>,
) -> Result<Vec<HistoryRow>, E> {
    let mut taken = Vec::new();
    let mut bytes = 0usize;
    if range.limit == 0 {
        return Ok(taken);
    }
    for row in rows {
        let row = row?;
        bytes = bytes.saturating_add(body_bytes(&row));
        if bytes > range.bytes && !taken.is_empty() {
            break;
        }
        taken.push(row);
        if taken.len() >= range.limit {
            break;
        }
    }
    if range.newest_first {
        taken.reverse();
    }
    Ok(taken)
}
