//! The store of one process, on fjall: one keyspace per kind of row, one atomic batch per commit, fsync only on `sync`.

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Guard, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use quipu_core::row::{EntityKey, EntityPlace, HistoryRow, InboxRow, IndexKey, IndexRange, Row};
use quipu_core::shard::ShardId;
use quipu_protocol::id::{ConversationId, Cursor, InboxSeq, UserId};

use super::rows::{last_of, take_history};
use super::{Durable, HistoryRange, Store, StoreError, keys};
use crate::folder::{DataFolder, FolderLock};

/// Memtable of each keyspace, in bytes. Larger ones stall longer when they are written out and replay longer at start.
const MEMTABLE_BYTES: u64 = 8 * 1024 * 1024;
/// Journals that may exist before memtables are forced out, in bytes; the smallest that fjall allows.
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;
/// Threads that write out memtables and compact; one is enough beside the gateway's own work, and measured fastest.
const WORKER_THREADS: usize = 1;
/// Memory for blocks read from the disk, in bytes, unless configured.
pub const CACHE_BYTES_DEFAULT: u64 = 128 * 1024 * 1024;

/// The life that the store belongs to, in the keyspace `meta`.
const LIFE_KEY: &[u8] = b"life";

/// Why the store of a data folder cannot be opened. A human must act.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the store in {path}: {why}")]
pub struct OpenStoreError {
    /// Where it is.
    pub path: String,
    /// What the engine said.
    pub why: String,
}

/// Rows in fjall keyspaces, keyed as `keys.rs` says.
///
/// Inbox rows are written once and never change, and go from the front; history rows seldom change. Never used here, because fjall has had defects in them: clearing
/// a keyspace, FIFO compaction, key-value separation, weak tombstones.
pub struct FjallStore {
    database: Database,
    shards: Keyspace,
    entities: Keyspace,
    history: Keyspace,
    inbox: Keyspace,
    index: Keyspace,
    /// Dropped after the engine.
    _folder: FolderLock,
}

impl FjallStore {
    /// Opens the store of a data folder, or makes it. `cache_bytes`: memory for blocks read from the disk.
    pub fn open(folder: &DataFolder, cache_bytes: u64) -> Result<Self, OpenStoreError> {
        let path = folder.store_path();
        let failed = |why: String| OpenStoreError {
            path: path.display().to_string(),
            why,
        };
        let (store, meta) = Self::open_keyspaces(&path, cache_bytes, folder.hold())
            .map_err(|error| failed(error.to_string()))?;
        let life = folder.identity().life.to_be_bytes();
        match meta
            .get(LIFE_KEY)
            .map_err(|error| failed(error.to_string()))?
        {
            Some(found) if *found == life => Ok(store),
            Some(_) => Err(failed(
                "it belongs to another log; put the folder back together from one copy".into(),
            )),
            None => {
                meta.insert(LIFE_KEY, life)
                    .and_then(|()| store.database.persist(PersistMode::SyncAll))
                    .map_err(|error| failed(error.to_string()))?;
                Ok(store)
            }
        }
    }

    fn open_keyspaces(
        path: &Path,
        cache_bytes: u64,
        lock: FolderLock,
    ) -> fjall::Result<(Self, Keyspace)> {
        let database = Database::builder(path)
            .cache_size(cache_bytes)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(WORKER_THREADS)
            .open()?;
        let open = |name| {
            database.keyspace(name, || {
                KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES)
            })
        };
        let meta = open("meta")?;
        let store = Self {
            shards: open("shards")?,
            entities: open("entities")?,
            history: open("history")?,
            inbox: open("inbox")?,
            index: open("index")?,
            database,
            _folder: lock,
        };
        Ok((store, meta))
    }

    /// Bytes on the disk.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.database.disk_space()?)
    }

    fn insert(&self, batch: &mut OwnedWriteBatch, row: &Row) {
        match row {
            Row::Shard(shard, value) => batch.insert(&self.shards, keys::shard(*shard), &value[..]),
            Row::Entity(key, value) => batch.insert(&self.entities, keys::entity(key), &value[..]),
            Row::History(row) => {
                let key = keys::history(row.conversation(), row.seq());
                batch.insert(&self.history, key, &row.encode_value()[..]);
            }
            Row::Inbox(row) => {
                let key = keys::inbox(&row.user, row.inbox_seq);
                batch.insert(&self.inbox, key, &row.encode_value()[..]);
            }
            Row::Index(key, Some(value)) => batch.insert(&self.index, key.encode(), &value[..]),
            Row::Index(key, None) => batch.remove(&self.index, key.encode()),
            Row::Trimmed(user, inbox_seq) => {
                batch.remove(&self.inbox, keys::inbox(user, *inbox_seq));
            }
        }
    }
}

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        Self::Backend(error.to_string().into())
    }
}

fn read_shard_row(guard: Guard) -> Result<(ShardId, Bytes), StoreError> {
    let (key, value) = guard.into_inner()?;
    Ok((keys::read_shard(&key)?, Bytes::copy_from_slice(&value)))
}

fn read_history_row(guard: Guard) -> Result<HistoryRow, StoreError> {
    let (key, value) = guard.into_inner()?;
    let (conversation, seq) = keys::read_history(&key)?;
    Ok(HistoryRow::decode_value(conversation, seq, &value)?)
}

fn read_inbox_row(guard: Guard) -> Result<InboxRow, StoreError> {
    let (key, value) = guard.into_inner()?;
    let (user, inbox_seq) = keys::read_inbox(&key)?;
    Ok(InboxRow::decode_value(user, inbox_seq, &value)?)
}

fn read_index_row(guard: Guard) -> Result<(IndexKey, Bytes), StoreError> {
    let (key, value) = guard.into_inner()?;
    Ok((IndexKey::decode(&key)?, Bytes::copy_from_slice(&value)))
}

impl Store for FjallStore {
    fn commit(&self, rows: Vec<Row>) -> Result<(), StoreError> {
        // No durability: the batch reaches the operating system, and the log still holds what it was made from.
        let mut batch = self.database.batch().durability(None);
        rows.iter().for_each(|row| self.insert(&mut batch, row));
        Ok(batch.commit()?)
    }

    fn entities(&self, keys: &[EntityKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
        keys.iter()
            .map(|key| {
                let value = match key.place() {
                    EntityPlace::History(conversation, seq) => {
                        self.history.get(keys::history(&conversation, seq))?
                    }
                    EntityPlace::Own => self.entities.get(keys::entity(key))?,
                };
                Ok(value.map(|value| Bytes::copy_from_slice(&value)))
            })
            .collect()
    }

    fn shard(&self, shard: ShardId) -> Result<Option<Bytes>, StoreError> {
        let value = self.shards.get(keys::shard(shard))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn history(
        &self,
        conversation: &ConversationId,
        range: HistoryRange,
    ) -> Result<Vec<HistoryRow>, StoreError> {
        let last = last_of(&range);
        if last < range.first {
            return Ok(Vec::new());
        }
        let first = keys::history(conversation, range.first);
        let rows = self
            .history
            .range(first..=keys::history(conversation, last));
        if range.newest_first {
            take_history(&range, rows.rev().map(read_history_row))
        } else {
            take_history(&range, rows.map(read_history_row))
        }
    }

    fn inbox(
        &self,
        user: &UserId,
        after: Cursor,
        limit: usize,
    ) -> Result<Vec<InboxRow>, StoreError> {
        if after.0 == u64::MAX {
            return Ok(Vec::new());
        }
        let first = keys::inbox(user, after.next());
        let last = keys::inbox(user, InboxSeq::new(u64::MAX).unwrap_or(InboxSeq::FIRST));
        let rows = self.inbox.range(first..=last);
        rows.take(limit).map(read_inbox_row).collect()
    }

    fn index(
        &self,
        range: &IndexRange,
        limit: usize,
    ) -> Result<Vec<(IndexKey, Bytes)>, StoreError> {
        let (start, end) = range.bounds();
        let rows = self.index.range(start..end);
        rows.take(limit).map(read_index_row).collect()
    }

    fn sync(&self) -> Result<Durable, StoreError> {
        // Read before the fsync, so that every row in the answer is older than it.
        let rows = self.shards.iter().map(read_shard_row);
        let shards = rows.collect::<Result<_, _>>()?;
        self.database.persist(PersistMode::SyncData)?;
        Ok(Durable { shards })
    }

    fn scan(&self, visit: &mut dyn FnMut(Row) -> ControlFlow<()>) -> Result<(), StoreError> {
        let shards = self.shards.iter().map(|guard| {
            let (shard, value) = read_shard_row(guard)?;
            Ok(Row::Shard(shard, value))
        });
        let entities = self.entities.iter().map(|guard| {
            let (key, value) = guard.into_inner()?;
            let key = keys::read_entity(&key)?;
            Ok(Row::Entity(key, Bytes::copy_from_slice(&value)))
        });
        let history = self
            .history
            .iter()
            .map(|g| read_history_row(g).map(Row::History));
        let inbox = self.inbox.iter().map(|g| read_inbox_row(g).map(Row::Inbox));
        let index = self.index.iter().map(|guard| {
            let (key, value) = read_index_row(guard)?;
            Ok(Row::Index(key, Some(value)))
        });
        let all: [Box<dyn Iterator<Item = Result<Row, StoreError>> + '_>; 5] = [
            Box::new(shards),
            Box::new(entities),
            Box::new(history),
            Box::new(inbox),
            Box::new(index),
        ];
        for row in all.into_iter().flatten() {
            if visit(row?).is_break() {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
