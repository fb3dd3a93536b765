//! Makes the store durable now and then, and lets the log forget what the store certainly has.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use quipu_core::record::Position;
use quipu_core::row::CorruptRow;
use quipu_core::shard::ShardState;

use crate::log::{Log, LogError};
use crate::periodic::{AtTheEnd, Periodic};
use crate::store::{Store, StoreError};

/// Records of each shard that the log keeps although the store has them durably: should the store prove to have lost its
/// newest rows, it can be rolled forward again from an older copy of a shard's row.
pub const TRIM_MARGIN_RECORDS: u64 = 256;
/// Time between two checkpoints. Longer: more memory in the engines and more to replay after a crash.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// Why a checkpoint could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The store could not be made durable.
    #[error("sync the store: {0}")]
    Store(#[from] StoreError),
    /// A shard's row cannot be read.
    #[error("read the store: {0}")]
    Row(#[from] CorruptRow),
    /// The log did not take the trim.
    #[error("trim the log: {0}")]
    Log(#[from] LogError),
}

/// Makes everything committed so far durable, then trims each shard's log to `margin` records below what its durable row has
/// applied. A crash in between merely leaves more log.
pub fn checkpoint(log: &dyn Log, store: &dyn Store, margin: u64) -> Result<(), CheckpointError> {
    let shards = log.identity().shards;
    for (shard, row) in store.sync()?.shards {
        let applied = ShardState::restore(shard, shards, Some(&row))?.applied();
        let up_to = Position(applied.0.saturating_sub(margin));
        if up_to > Position::START {
            log.trim(shard, up_to)?;
        }
    }
    Ok(())
}

/// A thread that makes checkpoints until it is dropped, and one last one then.
///
/// It ends at the first checkpoint that fails. Nothing is lost by that: the log is no longer trimmed, and the processors hear
/// of a broken store from their own commits.
#[derive(Debug)]
pub struct Checkpointer {
    _thread: Periodic,
}

impl Checkpointer {
    /// Starts the thread.
    pub fn start(
        log: Arc<dyn Log>,
        store: Arc<dyn Store>,
        interval: Duration,
    ) -> std::io::Result<Self> {
        let work = move || match checkpoint(&*log, &*store, TRIM_MARGIN_RECORDS) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                tracing::error!(%error, "no checkpoint; the log is not trimmed any more");
                ControlFlow::Break(())
            }
        };
        Ok(Self {
            _thread: Periodic::start("quipu-checkpoint", interval, AtTheEnd::OnceMore, work)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use quipu_core::record::{Entry, EntryBody, Record};
    use quipu_core::shard::{Effects, ShardId};
    use quipu_protocol::event::{Outcome, Reply, ReplyTo};
    use quipu_protocol::id::{DeviceId, RequestId, TimestampMs, UserId};

    use super::*;
    use crate::contract::log::{SHARDS, append};
    use crate::log::MemoryLog;
    use crate::store::{MemoryStore, WriteBehind, WriteBehindOptions};

    const SHARD: ShardId = ShardId(1);

    /// Applies records that change nothing but the position.
    fn apply(log: &dyn Log, store: &dyn Store, state: &mut ShardState, count: u64) {
        let user = UserId::new("ann").unwrap();
        let entry = Entry {
            source: None,
            body: EntryBody::Answer {
                user,
                device: DeviceId::new(1).unwrap(),
                reply: Reply {
                    to: ReplyTo::Request(RequestId(1)),
                    outcome: Outcome::Done,
                },
            },
        };
        let payload = Record::encode_entries(&[entry]);
        for _ in 0..count {
            let position = append(log, &[(SHARD.0, &payload)]).unwrap()[0];
            let record = Record::decode(position, TimestampMs(1), &payload).unwrap();
            state.apply(&record, &mut Effects::default());
            let mut rows = Vec::new();
            state.drain_dirty(&mut rows);
            store.commit(rows).unwrap();
        }
    }

    #[test]
    fn the_log_keeps_a_margin_below_what_is_durable() {
        let log = MemoryLog::new(SHARDS);
        let store = MemoryStore::new();
        let mut state = ShardState::new(SHARD, SHARDS);
        apply(&log, &store, &mut state, 9);
        checkpoint(&log, &store, 10).unwrap();
        assert_eq!(log.first(SHARD), Ok(Position(1)));
        apply(&log, &store, &mut state, 11);
        append(&log, &[(SHARD.0, b"appended and not applied")]).unwrap();
        checkpoint(&log, &store, 10).unwrap();
        assert_eq!(log.first(SHARD), Ok(Position(11)));
        assert_eq!(log.first(ShardId(0)), Ok(Position(1)));
    }

    #[test]
    fn what_is_only_in_memory_does_not_trim_the_log() {
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new(SHARDS));
        let options = WriteBehindOptions {
            flush_interval: Duration::from_secs(3600),
            overlay_bytes_max: usize::MAX,
        };
        let store = Arc::new(WriteBehind::new(MemoryStore::new(), options).unwrap());
        let mut state = ShardState::new(SHARD, SHARDS);
        apply(&*log, &*store, &mut state, 300);
        assert!(store.inner().shard(SHARD).unwrap().is_none());
        // Its last checkpoint comes when it is dropped, long before the interval ends.
        let hour = Duration::from_secs(3600);
        let as_store: Arc<dyn Store> = Arc::clone(&store) as _;
        let checkpointer = Checkpointer::start(Arc::clone(&log), as_store, hour).unwrap();
        assert_eq!(log.first(SHARD), Ok(Position(1)));
        drop(checkpointer);
        assert_eq!(
            log.first(SHARD),
            Ok(Position(300 - TRIM_MARGIN_RECORDS + 1))
        );
        assert!(store.inner().shard(SHARD).unwrap().is_some());
    }
}
