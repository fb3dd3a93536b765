//! A store that lives as long as its value: for tests and simulations, and the plain reading of the contract.

use std::convert::Infallible;
use std::ops::ControlFlow;

use bytes::Bytes;
use parking_lot::RwLock;
use quipu_core::row::{EntityKey, HistoryRow, InboxRow, IndexKey, IndexRange, Row};
use quipu_core::shard::ShardId;
use quipu_protocol::id::{ConversationId, Cursor, InboxSeq, UserId};

use super::rows::{Rows, read_index, take_history};
use super::{Durable, HistoryRange, Store, StoreError};

/// Sorted maps behind a lock.
#[derive(Default)]
pub struct MemoryStore {
    rows: RwLock<Rows>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Store for MemoryStore {
    fn commit(&self, rows: Vec<Row>) -> Result<(), StoreError> {
        let removes = rows.iter().any(|row| matches!(row, Row::Index(_, None)));
        let trimmed: Vec<(UserId, InboxSeq)> = rows
            .iter()
            .filter_map(|row| match row {
                Row::Trimmed(user, inbox_seq) => Some((*user, *inbox_seq)),
                Row::History(_)
                | Row::Inbox(_)
                | Row::Entity(..)
                | Row::Shard(..)
                | Row::Index(..) => None,
            })
            .collect();
        let mut held = self.rows.write();
        held.merge(rows);
        for key in trimmed {
            // Written again after it was trimmed, it is there.
            if held.inbox.get(&key).is_some_and(Option::is_none) {
                held.inbox.remove(&key);
            }
        }
        if removes {
            held.index.retain(|_, value| value.is_some());
        }
        Ok(())
    }

    fn entities(&self, keys: &[EntityKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let rows = self.rows.read();
        Ok(keys.iter().map(|key| rows.entity(key)).collect())
    }

    fn shard(&self, shard: ShardId) -> Result<Option<Bytes>, StoreError> {
        Ok(self.rows.read().shards.get(&shard).cloned())
    }

    fn history(
        &self,
        conversation: &ConversationId,
        range: HistoryRange,
    ) -> Result<Vec<HistoryRow>, StoreError> {
        let rows = self.rows.read();
        let found = rows.history(conversation, &range).cloned();
        match take_history(&range, found.map(Ok::<_, Infallible>)) {
            Ok(taken) => Ok(taken),
            Err(never) => match never {},
        }
    }

    fn inbox(
        &self,
        user: &UserId,
        after: Cursor,
        limit: usize,
    ) -> Result<Vec<InboxRow>, StoreError> {
        let rows = self.rows.read();
        let found = rows.inbox(user, after).filter_map(|(_, row)| row);
        Ok(found.take(limit).collect())
    }

    fn index(
        &self,
        range: &IndexRange,
        limit: usize,
    ) -> Result<Vec<(IndexKey, Bytes)>, StoreError> {
        let rows = self.rows.read();
        let found = rows
            .index(range)
            .filter_map(|(key, value)| Some((key.clone(), value?.clone())));
        Ok(read_index(found.take(limit))?)
    }

    fn sync(&self) -> Result<Durable, StoreError> {
        let rows = self.rows.read();
        let shards = rows.shards.iter().map(|(k, v)| (*k, v.clone())).collect();
        Ok(Durable { shards })
    }

    fn scan(&self, visit: &mut dyn FnMut(Row) -> ControlFlow<()>) -> Result<(), StoreError> {
        // Copied out, because `visit` may read from the store.
        let rows: Vec<Row> = self.rows.read().iter().collect();
        for row in rows {
            if visit(row).is_break() {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_the_contract() {
        crate::contract::store::suite(&mut || Box::new(MemoryStore::new()));
    }
}
