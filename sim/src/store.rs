//! The simulated store: commits are visible at once and durable later; a crash takes back the newest of them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use quipu_core::record::Position;
use quipu_core::row::{
    EntityKey, EntityPlace, HistoryRow, InboxRow, IndexKey, IndexRange, NumberedChange, Row,
};
use quipu_core::shard::{ShardCount, ShardId, ShardState};
use quipu_protocol::id::{ChangeNumber, ConversationId, Cursor, InboxSeq, Seq, UserId};

/// The key of a row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Entity(EntityKey),
    History(ConversationId, u64),
    Inbox(UserId, u64),
    Shard(u16),
    Index(Vec<u8>),
}

/// Where an entity's row is; a message's is the one of the history.
fn entity_key(key: EntityKey) -> Key {
    match key.place() {
        EntityPlace::Own => Key::Entity(key),
        EntityPlace::History(conversation, seq) => Key::History(conversation, seq.get()),
    }
}

/// Somebody else has committed more of a shard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fenced;

/// All rows, and how to take back what is not durable.
#[derive(Debug)]
pub(crate) struct Store {
    shards: ShardCount,
    rows: BTreeMap<Key, Bytes>,
    /// For each commit that is not durable, oldest first: what was there before it.
    undo: VecDeque<Vec<(Key, Option<Bytes>)>>,
    /// Whether a stale owner's commit is refused.
    pub(crate) fences: bool,
}

impl Store {
    pub(crate) fn new(shards: u16) -> Self {
        Self {
            shards: ShardCount(shards),
            rows: BTreeMap::new(),
            undo: VecDeque::new(),
            fences: true,
        }
    }

    /// Writes rows, all or none, if each shard still stands where the turn began: an owner that is behind may have mixed
    /// what it had in memory with rows of a later one, so that even a commit that goes further than the store would spoil it.
    pub(crate) fn commit(
        &mut self,
        rows: &[Row],
        began: &[(ShardId, Position)],
    ) -> Result<(), Fenced> {
        let stands = |(shard, began): &(ShardId, Position)| self.applied(*shard) == *began;
        if self.fences && !began.iter().all(stands) {
            return Err(Fenced);
        }
        let mut before = Vec::with_capacity(rows.len());
        for row in rows {
            let (key, value) = match row {
                Row::History(row) => {
                    let key = Key::History(*row.conversation(), row.seq().get());
                    (key, Some(row.encode_value()))
                }
                Row::Inbox(row) => (
                    Key::Inbox(row.user, row.inbox_seq.get()),
                    Some(row.encode_value()),
                ),
                Row::Entity(key, value) => (entity_key(*key), Some(value.clone())),
                Row::Shard(shard, value) => (Key::Shard(shard.0), Some(value.clone())),
                Row::Index(key, value) => (Key::Index(key.encode()), value.clone()),
                Row::Trimmed(user, inbox_seq) => (Key::Inbox(*user, inbox_seq.get()), None),
            };
            let old = self.put(key.clone(), value);
            before.push((key, old));
        }
        self.undo.push_back(before);
        Ok(())
    }

    fn put(&mut self, key: Key, value: Option<Bytes>) -> Option<Bytes> {
        match value {
            Some(value) => self.rows.insert(key, value),
            None => self.rows.remove(&key),
        }
    }

    /// Makes the oldest commits durable, all but the newest `but`.
    pub(crate) fn flush(&mut self, but: usize) {
        let commits = self.undo.len().saturating_sub(but);
        self.undo.drain(..commits);
    }

    /// Commits that a crash could take back.
    pub(crate) fn behind(&self) -> usize {
        self.undo.len()
    }

    /// A crash: the newest commits are gone.
    pub(crate) fn lose(&mut self, commits: usize) {
        for _ in 0..commits {
            for (key, old) in self.undo.pop_back().into_iter().flatten().rev() {
                self.put(key, old);
            }
        }
        // What is left was on the disk.
        self.undo.clear();
    }

    /// The position that a shard's row would have if everything not durable were lost.
    pub(crate) fn applied_durably(&self, shard: ShardId) -> Position {
        let key = Key::Shard(shard.0);
        let oldest = self
            .undo
            .iter()
            .flatten()
            .find(|(undone, _)| *undone == key);
        match oldest {
            Some((_, before)) => self.applied_in(shard, before.as_ref()),
            None => self.applied(shard),
        }
    }

    pub(crate) fn applied(&self, shard: ShardId) -> Position {
        self.applied_in(shard, self.rows.get(&Key::Shard(shard.0)))
    }

    fn applied_in(&self, shard: ShardId, row: Option<&Bytes>) -> Position {
        ShardState::restore(shard, self.shards, row.map(Bytes::as_ref))
            .map_or(Position::START, |state| state.applied())
    }

    /// How far a shard was told by each of the others.
    pub(crate) fn told(&self, shard: ShardId) -> Vec<(ShardId, Position)> {
        let row = self.shard(shard).map(Bytes::as_ref);
        let state = ShardState::restore(shard, self.shards, row);
        let marks = state.iter().flat_map(ShardState::marks);
        marks.map(|mark| (mark.shard, mark.position)).collect()
    }

    pub(crate) fn shard(&self, shard: ShardId) -> Option<&Bytes> {
        self.rows.get(&Key::Shard(shard.0))
    }

    pub(crate) fn entity(&self, key: EntityKey) -> Option<&Bytes> {
        self.rows.get(&entity_key(key))
    }

    /// A message; an unreadable one is as good as none.
    pub(crate) fn message(&self, conversation: ConversationId, seq: Seq) -> Option<HistoryRow> {
        let value = self.rows.get(&Key::History(conversation, seq.get()))?;
        HistoryRow::decode_value(conversation, seq, value).ok()
    }

    /// Every message of a conversation from `first` on, in order.
    pub(crate) fn history(
        &self,
        conversation: ConversationId,
        first: u64,
    ) -> impl Iterator<Item = HistoryRow> + '_ {
        let from = Key::History(conversation, first);
        let to = Key::History(conversation, u64::MAX);
        let rows = self.rows.range(from..=to);
        rows.filter_map(move |(key, value)| match key {
            Key::History(_, seq) => {
                HistoryRow::decode_value(conversation, Seq::new(*seq).ok()?, value).ok()
            }
            Key::Entity(_) | Key::Inbox(..) | Key::Shard(_) | Key::Index(_) => None,
        })
    }

    /// The keys of a range of the index; one that is unreadable is as good as none.
    pub(crate) fn index(&self, range: &IndexRange) -> Vec<IndexKey> {
        let (from, to) = range.bounds();
        let rows = self.rows.range(Key::Index(from)..Key::Index(to));
        rows.filter_map(|(key, _)| match key {
            Key::Index(key) => IndexKey::decode(key).ok(),
            Key::Entity(_) | Key::History(..) | Key::Inbox(..) | Key::Shard(_) => None,
        })
        .collect()
    }

    /// The changes of a group behind a number.
    pub(crate) fn numbered(
        &self,
        group: ConversationId,
        after: ChangeNumber,
    ) -> Vec<(ChangeNumber, NumberedChange)> {
        let (from, to) = IndexRange::Changes(group, after).bounds();
        let rows = self.rows.range(Key::Index(from)..Key::Index(to));
        let read = |(key, value): (&Key, &Bytes)| {
            let Key::Index(key) = key else { return None };
            let Ok(IndexKey::Changed(_, number)) = IndexKey::decode(key) else {
                return None;
            };
            Some((number, NumberedChange::decode(value).ok()?))
        };
        rows.filter_map(read).collect()
    }

    /// At most `limit` entries of an inbox after the cursor.
    pub(crate) fn inbox(&self, user: UserId, after: Cursor, limit: usize) -> Vec<InboxRow> {
        let from = Bound::Excluded(Key::Inbox(user, after.0));
        let to = Bound::Included(Key::Inbox(user, u64::MAX));
        let mut found = Vec::new();
        for (key, value) in self.rows.range((from, to)).take(limit) {
            if let Key::Inbox(user, number) = key
                && let Ok(inbox_seq) = InboxSeq::new(*number)
                && let Ok(row) = InboxRow::decode_value(*user, inbox_seq, value)
            {
                found.push(row);
            }
        }
        found
    }
}
