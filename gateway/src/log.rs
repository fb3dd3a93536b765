//! The contract of the log: per shard an ordered, durable sequence of records, numbered gap-free from 1.

use std::sync::{Arc, mpsc};

use bytes::Bytes;
use quipu_core::record::Position;
use quipu_core::shard::{ShardCount, ShardId};
use quipu_protocol::id::TimestampMs;

pub mod embedded;
pub mod memory;
mod queue;
pub mod stats;

pub use embedded::EmbeddedLog;
pub use memory::MemoryLog;

/// Longest payload of one record, in bytes. A writer that gathers entries ends its record well below this.
pub const RECORD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Appends that may wait for the log's thread; one more is refused with [`LogError::Full`].
pub const QUEUE_APPENDS_MAX: usize = 16 * 1024;
/// Payload bytes that may wait for the log's thread; more is refused, unless nothing waits.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

// One append of the longest record always fits an empty queue, so that `Full` is a matter of time only.
const _: () = assert!(RECORD_BYTES_MAX <= QUEUE_BYTES_MAX);

/// What a log is, beside what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogIdentity {
    /// Random, chosen when the log was made. Cursors of another life are worth nothing.
    pub life: u64,
    /// How many shards it has; fixed for its life.
    pub shards: ShardCount,
}

/// A durable record, its payload not decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its place in the log of its shard.
    pub position: Position,
    /// When the log took it; never decreases within a shard.
    pub time: TimestampMs,
    /// What was appended.
    pub payload: Bytes,
}

/// Why the log did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Too much waits already. Nothing was appended; the same call may succeed later.
    #[error("the log's queue is full; try again later")]
    Full,
    /// The log has stopped: it was closed, or a write failed. Whether an append under way took effect is unknown until
    /// the process starts again.
    #[error("the log is closed: {0}")]
    Closed(Arc<str>),
    /// A fault of the caller: a record above [`RECORD_BYTES_MAX`] or a batch above [`QUEUE_BYTES_MAX`]. Nothing was appended.
    #[error(
        "{0} bytes are above the log's limit of {RECORD_BYTES_MAX} a record or {QUEUE_BYTES_MAX} an append"
    )]
    TooLarge(usize),
    /// A fault of the caller: no such shard. Nothing was appended.
    #[error("the log has no shard {}", .0.0)]
    UnknownShard(ShardId),
    /// The records asked for are trimmed; the oldest one kept is `first`. The reader must be rebuilt from elsewhere.
    #[error("shard {} of the log starts at {} and was asked for what follows {}", .shard.0, .first.0, .after.0)]
    Trimmed {
        /// Of which shard.
        shard: ShardId,
        /// The oldest position kept.
        first: Position,
        /// What was asked for.
        after: Position,
    },
    /// Stored records could not be read back. A human must look at the disk.
    #[error("cannot read the log: {0}")]
    Read(Arc<str>),
}

/// Told how an append ended: the positions in the order of the batch, or why it failed.
pub type AppendDone = Box<dyn FnOnce(Result<Vec<Position>, LogError>) + Send>;

/// Told that a shard has new durable records.
pub type Wake = Arc<dyn Fn(ShardId) + Send + Sync>;

/// The ordered, durable log of every shard. `contract.rs` is the proof of what is written here.
///
/// Every method but the one that waits blocks at most for a disk read; callers are threads of their own or `spawn_blocking`.
pub trait Log: Send + Sync + 'static {
    /// What this log is.
    fn identity(&self) -> LogIdentity;

    /// Appends one record per `(shard, payload)`, in order.
    ///
    /// An error here means that nothing was appended and that `done` is never called. After `Ok`, `done` is called exactly
    /// once, from the thread that writes, when ALL are durable and readable, or when the log has failed. It must be quick and must
    /// not wait for the log. Appends of one thread come to stand in the order of its calls; one batch is contiguous within
    /// each shard, but a crash may keep a prefix of a batch that was not answered.
    fn append(&self, batch: Vec<(ShardId, Bytes)>, done: AppendDone) -> Result<(), LogError>;

    /// The same, and returns when all are durable and readable. Appends of both kinds share one order. A log may do the
    /// work in the thread of the caller, who is then told of the appends of others as well.
    fn append_and_wait(&self, batch: Vec<(ShardId, Bytes)>) -> Result<Vec<Position>, LogError> {
        let (tell, told) = mpsc::sync_channel(1);
        let done = move |result| {
            // Holds one result, and there is only one.
            let _ = tell.send(result);
        };
        self.append(batch, Box::new(done))?;
        let unanswered = |_| Err(LogError::Closed("an append was not answered".into()));
        told.recv().unwrap_or_else(unanswered)
    }

    /// Durable records after `after`, ascending, at most `max_records` with at most `max_bytes` of payload in all; the
    /// first always goes, however long (0 records count as 1). It may give less than it could; only an empty answer says that
    /// nothing follows yet. [`LogError::Trimmed`] when the record after `after` is gone.
    fn read(
        &self,
        shard: ShardId,
        after: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<StoredRecord>, LogError>;

    /// The last durable position; [`Position::START`] before the first.
    fn last(&self, shard: ShardId) -> Result<Position, LogError>;

    /// The oldest position kept; `last + 1` if there is none.
    fn first(&self, shard: ShardId) -> Result<Position, LogError>;

    /// Allows the log to forget records up to and including `up_to` (at most up to `last`). It may keep more than that;
    /// `first` says what it keeps. Trimming less than before changes nothing.
    fn trim(&self, shard: ShardId, up_to: Position) -> Result<(), LogError>;

    /// Calls `wake` whenever a shard has new durable records, after they are readable and after the append was told. It is
    /// called from the thread that writes and must be quick. There is no way back: subscribers live as long as the log.
    fn on_durable(&self, wake: Wake);
}

/// Checks a batch before it is queued: all of it or nothing is appended.
fn check_batch(shards: ShardCount, batch: &[(ShardId, Bytes)]) -> Result<(), LogError> {
    let mut bytes = 0usize;
    for (shard, payload) in batch {
        check_shard(shards, *shard)?;
        bytes = bytes.saturating_add(payload.len());
        if payload.len() > RECORD_BYTES_MAX || bytes > QUEUE_BYTES_MAX {
            return Err(LogError::TooLarge(payload.len().max(bytes)));
        }
    }
    Ok(())
}

fn check_shard(shards: ShardCount, shard: ShardId) -> Result<(), LogError> {
    if shard.0 < shards.0 {
        Ok(())
    } else {
        Err(LogError::UnknownShard(shard))
    }
}

/// Unix time now, in milliseconds; a clock before 1970 counts as 0.
pub(crate) fn unix_time_now() -> TimestampMs {
    let since_epoch = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    TimestampMs(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// Waits for a log's writer thread, unless it is the writer itself that drops the log (from inside a `done`).
fn join_writer(writer: Option<std::thread::JoinHandle<()>>) {
    let Some(writer) = writer else { return };
    if writer.thread().id() != std::thread::current().id() && writer.join().is_err() {
        tracing::error!("the log's writer thread had panicked");
    }
}
