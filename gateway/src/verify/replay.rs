//! Applies in memory what a log holds beyond its store, as the next start of the gateway would.

use std::collections::{BTreeMap, BTreeSet};

use quipu_core::record::{Entry, Position, Record};
use quipu_core::row::{CorruptRow, HistoryRow, IndexKey, Row};
use quipu_core::shard::{Effects, ShardId, ShardState};
use quipu_protocol::id::{Cursor, TimestampMs};

use super::Report;
use crate::log::{Log, StoredRecord};
use crate::offline::DataError;
use crate::store::{HistoryRange, MemoryStore, Store, StoreError};

/// Records read at once.
const READ_RECORDS: usize = 1024;
/// Bytes read at once.
const READ_BYTES: usize = 8 * 1024 * 1024;
/// Entities that a shard keeps in memory between two reads.
const ENTITIES_KEPT: usize = 16 * 1024;
/// Rounds of sending between shards. A command leads to deliveries and those to nothing, so two would do.
const ROUNDS_MAX: usize = 8;

/// The log's tail, applied.
pub(super) struct Replay<'a> {
    log: &'a dyn Log,
    store: &'a dyn Store,
    /// What applying made.
    rows: MemoryStore,
    /// Rows of the index that applying put or took away: the store's are older.
    indexed: BTreeSet<IndexKey>,
    states: BTreeMap<ShardId, ShardState>,
    /// Sent to a shard and not applied there yet, with the time of the record that sent it.
    pending: BTreeMap<ShardId, Vec<(TimestampMs, Entry)>>,
    replayed: u64,
}

impl<'a> Replay<'a> {
    pub(super) fn new(log: &'a dyn Log, store: &'a dyn Store) -> Self {
        Self {
            log,
            store,
            rows: MemoryStore::new(),
            indexed: BTreeSet::new(),
            states: BTreeMap::new(),
            pending: BTreeMap::new(),
            replayed: 0,
        }
    }

    /// The rows that applying made, to be read over those of the store.
    pub(super) fn rows(&self) -> &MemoryStore {
        &self.rows
    }

    /// Checks the shards' positions and applies what the store lacks.
    pub(super) fn run(&mut self, report: &mut Report) -> Result<(), DataError> {
        for shard in self.log.identity().shards.iter() {
            report.shards += 1;
            let (first, last) = (self.log.first(shard)?, self.log.last(shard)?);
            report.log_records += last.next().0 - first.0;
            if let Some(state) = self.restore(shard, first, last, report)? {
                self.states.insert(shard, state);
            }
        }
        // All of what is in the logs first: it may hold what a replayed record sends again.
        let shards: Vec<ShardId> = self.states.keys().copied().collect();
        for shard in shards {
            if let Err(error) = self.apply_log(shard)? {
                report.problem(format!(
                    "shard {}: {error}; its log is not replayed further",
                    shard.0
                ));
                self.states.remove(&shard);
            }
        }
        report.replayed_records = self.replayed;
        self.apply_pending(report)
    }

    /// A shard as its row left it, unless that cannot be.
    fn restore(
        &self,
        shard: ShardId,
        first: Position,
        last: Position,
        report: &mut Report,
    ) -> Result<Option<ShardState>, DataError> {
        let shards = self.log.identity().shards;
        let row = self.store.shard(shard)?;
        let state = match ShardState::restore(shard, shards, row.as_deref()) {
            Ok(state) => state,
            Err(error) => {
                report.problem(format!("shard {}: {error}", shard.0));
                return Ok(None);
            }
        };
        let mut possible = true;
        let applied = state.applied();
        if applied > last || applied.next() < first {
            report.problem(format!(
                "shard {} has applied record {} and its log holds {} to {}",
                shard.0, applied.0, first.0, last.0
            ));
            possible = false;
        }
        for mark in state.marks() {
            let sent = match mark.shard.0 < shards.0 {
                true => self.log.last(mark.shard)?,
                false => Position::START,
            };
            if mark.position > sent {
                report.problem(format!(
                    "shard {} has an entry of record {} of shard {}, whose log ends at {}",
                    shard.0, mark.position.0, mark.shard.0, sent.0
                ));
            }
        }
        Ok(possible.then_some(state))
    }

    fn apply_log(&mut self, shard: ShardId) -> Result<Result<(), CorruptRow>, DataError> {
        loop {
            let applied = self.states[&shard].applied();
            let records = self.log.read(shard, applied, READ_RECORDS, READ_BYTES)?;
            if records.is_empty() {
                return Ok(Ok(()));
            }
            for StoredRecord {
                position,
                time,
                payload,
            } in records
            {
                let applied = Record::decode(position, time, &payload)
                    .map_err(StoreError::from)
                    .and_then(|record| self.apply(shard, &record));
                match applied {
                    Ok(()) => self.replayed += 1,
                    Err(StoreError::Corrupt(error)) => return Ok(Err(error)),
                    Err(error @ (StoreError::Closed(_) | StoreError::Backend(_))) => {
                        return Err(error.into());
                    }
                }
            }
        }
    }

    /// Applies one record to a shard that has a state.
    fn apply(&mut self, shard: ShardId, record: &Record) -> Result<(), StoreError> {
        let Some(state) = self.states.get_mut(&shard) else {
            return Ok(());
        };
        loop {
            let mut keys = BTreeSet::new();
            state.missing(record, &mut keys);
            if keys.is_empty() {
                break;
            }
            let keys: Vec<_> = keys.into_iter().collect();
            let newer = self.rows.entities(&keys)?;
            let older = self.store.entities(&keys)?;
            for ((key, newer), older) in keys.into_iter().zip(newer).zip(older) {
                state.load(key, newer.or(older).as_deref())?;
            }
        }
        let mut effects = Effects::default();
        state.apply(record, &mut effects);
        let mut rows = effects.rows;
        state.drain_dirty(&mut rows);
        let indexed = rows.iter().filter_map(|row| match row {
            Row::Index(key, _) => Some(key.clone()),
            Row::Shard(..)
            | Row::Entity(..)
            | Row::History(_)
            | Row::Inbox(_)
            | Row::Trimmed(..) => None,
        });
        self.indexed.extend(indexed);
        self.rows.commit(rows)?;
        state.evict(ENTITIES_KEPT);
        for (to, entry) in effects.outgoing {
            self.pending
                .entry(to)
                .or_default()
                .push((record.time, entry));
        }
        Ok(())
    }

    /// Applies what replayed records have sent, as if it had been appended; shards drop what they have.
    fn apply_pending(&mut self, report: &mut Report) -> Result<(), DataError> {
        for _ in 0..ROUNDS_MAX {
            let pending = std::mem::take(&mut self.pending);
            if pending.is_empty() {
                return Ok(());
            }
            for (shard, sent) in pending {
                let Some(state) = self.states.get(&shard) else {
                    continue;
                };
                let record = Record {
                    position: state.applied().next(),
                    time: sent.last().map_or(TimestampMs(0), |(time, _)| *time),
                    entries: sent.into_iter().map(|(_, entry)| entry).collect(),
                };
                match self.apply(shard, &record) {
                    Ok(()) => {}
                    Err(StoreError::Corrupt(error)) => {
                        report.problem(format!("shard {}: {error}", shard.0));
                        self.states.remove(&shard);
                    }
                    Err(error @ (StoreError::Closed(_) | StoreError::Backend(_))) => {
                        return Err(error.into());
                    }
                }
            }
        }
        report.problem("the shards go on sending to each other without end");
        Ok(())
    }

    /// Whether a row of the store has a newer one in memory. Rows that never change must be the same in both.
    pub(super) fn replaces(&self, row: &Row, report: &mut Report) -> bool {
        if self.replayed == 0 {
            return false;
        }
        // The memory store has no way to fail.
        match row {
            Row::Shard(shard, _) => matches!(self.rows.shard(*shard), Ok(Some(_))),
            Row::Entity(key, _) => {
                let found = self.rows.entities(std::slice::from_ref(key));
                found.is_ok_and(|found| found.iter().any(Option::is_some))
            }
            Row::History(row) => {
                let range = HistoryRange {
                    first: row.seq(),
                    last: Some(row.seq()),
                    ..HistoryRange::ALL
                };
                let found = self.rows.history(row.conversation(), range);
                let found = found.unwrap_or_default().pop();
                // The replay goes on where the store stops, so that what it has is as new or newer.
                if found
                    .as_ref()
                    .is_some_and(|found| found != row && version_of(found) <= version_of(row))
                {
                    report.problem(format!(
                        "message {} of conversation {} differs from what the log makes of it",
                        row.seq(),
                        row.conversation()
                    ));
                }
                found.is_some()
            }
            Row::Inbox(row) => {
                let after = Cursor(row.inbox_seq.get() - 1);
                let found = self.rows.inbox(&row.user, after, 1);
                let found = found.unwrap_or_default().pop();
                let found = found.filter(|found| found.inbox_seq == row.inbox_seq);
                if found.as_ref().is_some_and(|found| found != row) {
                    report.problem(format!(
                        "entry {} of the inbox of {} differs from what the log makes of it",
                        row.inbox_seq, row.user
                    ));
                }
                found.is_some()
            }
            // A scan gives none.
            Row::Trimmed(..) => false,
            Row::Index(key, _) => self.indexed.contains(key),
        }
    }
}

fn version_of(row: &HistoryRow) -> u32 {
    row.0.state.as_ref().map_or(0, |state| state.version)
}
