//! A log that lives as long as its value: for tests and simulations, and the plain reading of the contract.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;
use quipu_core::record::Position;
use quipu_core::shard::{ShardCount, ShardId};
use quipu_protocol::id::TimestampMs;

use super::queue::{Append, AppendQueue};
use super::{
    AppendDone, Log, LogError, LogIdentity, StoredRecord, Wake, check_batch, check_shard,
    unix_time_now,
};

/// Records per shard in memory; one thread appends them, as in every other log.
pub struct MemoryLog {
    identity: LogIdentity,
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    queue: AppendQueue,
    shards: Mutex<Vec<ShardLog>>,
    wakes: Mutex<Vec<Wake>>,
}

#[derive(Default)]
struct ShardLog {
    /// Positions trimmed; the front of `records` is the one after.
    trimmed: u64,
    records: VecDeque<StoredRecord>,
}

impl ShardLog {
    fn last(&self) -> Position {
        Position(self.trimmed + self.records.len() as u64)
    }
}

impl MemoryLog {
    /// An empty log of so many shards, under a random life.
    pub fn new(shards: ShardCount) -> Self {
        let shared = Arc::new(Shared::default());
        shared
            .shards
            .lock()
            .resize_with(usize::from(shards.0), ShardLog::default);
        let writer = std::thread::Builder::new()
            .name("quipu-log-mem".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || write_until_closed(&shared)
            })
            // A test machine that cannot start one thread cannot run the test.
            .expect("a thread for the memory log");
        Self {
            identity: LogIdentity {
                life: rand::random(),
                shards,
            },
            shared,
            writer: Some(writer),
        }
    }

    /// Fails like a disk would: every append from now on, and those that wait, end with [`LogError::Closed`].
    pub fn fail(&self, why: &str) {
        let (waiting, why) = self.shared.queue.fail(why);
        for append in waiting {
            (append.done)(Err(LogError::Closed(Arc::clone(&why))));
        }
        self.shared.queue.nudge();
    }
}

impl Drop for MemoryLog {
    fn drop(&mut self) {
        self.shared.queue.close("the gateway is stopping");
        super::join_writer(self.writer.take());
    }
}

fn write_until_closed(shared: &Shared) {
    while shared.queue.wait().is_some() {
        for Append { batch, done } in shared.queue.take_waiting(usize::MAX, usize::MAX) {
            let time = unix_time_now();
            let (positions, touched) = store_batch(shared, batch, time);
            done(Ok(positions));
            let wakes = shared.wakes.lock().clone();
            for shard in touched {
                wakes.iter().for_each(|wake| wake(shard));
            }
        }
    }
}

fn store_batch(
    shared: &Shared,
    batch: Vec<(ShardId, Bytes)>,
    time: TimestampMs,
) -> (Vec<Position>, Vec<ShardId>) {
    let mut shards = shared.shards.lock();
    let mut positions = Vec::with_capacity(batch.len());
    let mut touched = Vec::with_capacity(batch.len());
    for (shard, payload) in batch {
        // `append` has checked the shard.
        let log = &mut shards[usize::from(shard.0)];
        let position = log.last().next();
        let time = log.records.back().map_or(time, |last| last.time.max(time));
        log.records.push_back(StoredRecord {
            position,
            time,
            payload,
        });
        positions.push(position);
        touched.push(shard);
    }
    touched.sort_unstable();
    touched.dedup();
    (positions, touched)
}

impl Log for MemoryLog {
    fn identity(&self) -> LogIdentity {
        self.identity
    }

    fn append(&self, batch: Vec<(ShardId, Bytes)>, done: AppendDone) -> Result<(), LogError> {
        check_batch(self.identity.shards, &batch)?;
        self.shared.queue.push(Append { batch, done })
    }

    fn read(
        &self,
        shard: ShardId,
        after: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        check_shard(self.identity.shards, shard)?;
        let shards = self.shared.shards.lock();
        let log = &shards[usize::from(shard.0)];
        let Some(skip) = after.0.checked_sub(log.trimmed) else {
            let first = Position(log.trimmed + 1);
            return Err(LogError::Trimmed {
                shard,
                first,
                after,
            });
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let mut records = Vec::new();
        let mut bytes = 0usize;
        for record in log.records.iter().skip(skip).take(max_records.max(1)) {
            bytes = bytes.saturating_add(record.payload.len());
            if bytes > max_bytes && !records.is_empty() {
                break;
            }
            records.push(record.clone());
        }
        Ok(records)
    }

    fn last(&self, shard: ShardId) -> Result<Position, LogError> {
        check_shard(self.identity.shards, shard)?;
        Ok(self.shared.shards.lock()[usize::from(shard.0)].last())
    }

    fn first(&self, shard: ShardId) -> Result<Position, LogError> {
        check_shard(self.identity.shards, shard)?;
        let trimmed = self.shared.shards.lock()[usize::from(shard.0)].trimmed;
        Ok(Position(trimmed + 1))
    }

    fn trim(&self, shard: ShardId, up_to: Position) -> Result<(), LogError> {
        check_shard(self.identity.shards, shard)?;
        let mut shards = self.shared.shards.lock();
        let log = &mut shards[usize::from(shard.0)];
        while log.trimmed < up_to.0 && log.records.pop_front().is_some() {
            log.trimmed += 1;
        }
        Ok(())
    }

    fn on_durable(&self, wake: Wake) {
        self.shared.wakes.lock().push(wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::log::{SHARDS, append, suite};

    #[test]
    fn passes_the_contract() {
        suite(&mut || Box::new(MemoryLog::new(SHARDS)));
    }

    #[test]
    fn fails_like_a_disk() {
        let log = MemoryLog::new(SHARDS);
        append(&log, &[(0, b"a")]).unwrap();
        log.fail("broken");
        let refused = append(&log, &[(0, b"b")]);
        assert_eq!(refused, Err(LogError::Closed("broken".into())));
        assert_eq!(log.last(ShardId(0)), Ok(Position(1)));
    }
}
