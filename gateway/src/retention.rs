//! Tells the shards through their logs what their inboxes keep, when the settings have changed.

use quipu_core::record::{Entry, EntryBody};
use quipu_core::retention::Retention;
use quipu_core::row::CorruptRow;
use quipu_core::shard::ShardState;

use crate::batch::Batch;
use crate::config;
use crate::log::{Log, LogError};
use crate::store::{Store, StoreError};

/// Why the shards could not be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RetentionError {
    /// A shard's row cannot be read.
    #[error("read what a shard keeps: {0}")]
    Row(#[from] CorruptRow),
    /// The store failed.
    #[error("read what a shard keeps: {0}")]
    Store(#[from] StoreError),
    /// The log took nothing.
    #[error("tell the shards what they keep: {0}")]
    Log(#[from] LogError),
}

/// Appends what the settings say to the log of each shard that was told something else, and waits until it is durable. What the
/// logs held must be applied.
pub fn tell(
    log: &dyn Log,
    store: &dyn Store,
    settings: &config::Inbox,
) -> Result<(), RetentionError> {
    let milliseconds = u64::try_from(settings.keep_for.as_millis()).unwrap_or(u64::MAX);
    let keep = Retention::new(u64::from(settings.keep_events), milliseconds);
    let shards = log.identity().shards;
    let mut batch = Batch::default();
    for shard in shards.iter() {
        let row = store.shard(shard)?;
        let state = ShardState::restore(shard, shards, row.as_deref())?;
        if state.keeps() != Some(keep) {
            let body = EntryBody::Keep(keep);
            batch.push(shard, Entry { source: None, body });
        }
    }
    let records = batch.into_records();
    if !records.is_empty() {
        log.append_and_wait(records)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quipu_core::record::{Position, Record};
    use quipu_core::shard::{Effects, ShardCount, ShardId};

    use super::*;
    use crate::log::MemoryLog;
    use crate::store::MemoryStore;

    #[test]
    fn each_shard_is_told_what_it_was_not_told_yet() {
        let (log, store) = (MemoryLog::new(ShardCount(2)), MemoryStore::new());
        let mut settings = config::Inbox {
            keep_events: 5,
            keep_for: Duration::from_secs(1),
        };
        let last = || [0, 1].map(|shard| log.last(ShardId(shard)).expect("memory").0);
        tell(&log, &store, &settings).expect("told");
        assert_eq!(last(), [1, 1]);
        // One shard comes to it.
        let stored = log.read(ShardId(1), Position::START, 1, 1).expect("memory");
        let stored = stored.first().expect("a record");
        let record = Record::decode(stored.position, stored.time, &stored.payload);
        let mut state = ShardState::new(ShardId(1), ShardCount(2));
        state.apply(&record.expect("ours"), &mut Effects::default());
        assert_eq!(state.keeps(), Some(Retention::new(5, 1_000)));
        let mut rows = Vec::new();
        state.drain_dirty(&mut rows);
        store.commit(rows).expect("memory");
        tell(&log, &store, &settings).expect("told");
        assert_eq!(last(), [2, 1]);
        settings.keep_events = 6;
        tell(&log, &store, &settings).expect("told");
        assert_eq!(last(), [3, 2]);
    }
}
