//! Finds the messages whose time is over and puts that into the logs of their conversations.
//!
//! Nobody waits for it: reads hide what is over, swept or not. The sweep takes it out of the store.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quipu_core::record::{Entry, EntryBody};
use quipu_core::row::{IndexKey, IndexRange};
use quipu_core::shard::ShardCount;
use quipu_protocol::id::{ConversationId, Seq, TimestampMs};

use crate::batch::Batch;
use crate::log::{Log, LogError, unix_time_now};
use crate::periodic::{AtTheEnd, Periodic};
use crate::store::{Store, StoreError};

/// Time between two sweeps.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// Messages that are on their way out at once. What is due beyond them waits for a later sweep, and counts as waiting.
pub const SWEEP_MESSAGES_MAX: usize = 4_096;
/// Messages of one conversation in one entry.
const ENTRY_MESSAGES_MAX: usize = 1_024;
/// How long a sweep trusts that a processor will come to what an earlier one has put into the log. Saying it again is
/// harmless.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the sweeper counts.
#[derive(Debug, Default)]
pub struct ExpiryStats {
    /// Sweeps that found something.
    pub sweeps: AtomicU64,
    /// Messages whose end was put into the log.
    pub messages: AtomicU64,
    /// Sweeps that found as much as they take at once, so that messages may be waiting.
    pub full: AtomicU64,
    /// Sweeps that the log had no room for; the next one tries again.
    pub refused: AtomicU64,
}

/// Why a sweep was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SweepError {
    /// The store cannot be read.
    #[error("read what is due: {0}")]
    Store(#[from] StoreError),
    /// The log takes nothing.
    #[error("append what is over: {0}")]
    Log(#[from] LogError),
}

/// A thread that sweeps until it is dropped.
///
/// It ends at the first failure of log or store. Messages then stay in the store, hidden from every reader; the processors
/// stop the gateway over the same failure.
pub struct Expiry {
    _thread: Periodic,
    stats: Arc<ExpiryStats>,
}

impl Expiry {
    /// Starts the thread.
    pub fn start(
        log: Arc<dyn Log>,
        store: Arc<dyn Store>,
        interval: Duration,
    ) -> std::io::Result<Self> {
        let stats = Arc::new(ExpiryStats::default());
        let mut sweeper = Sweeper::new(log, store, Arc::clone(&stats));
        let work = move || match sweeper.sweep(unix_time_now(), Instant::now()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                tracing::error!(%error, "expired messages stay in the store, hidden");
                ControlFlow::Break(())
            }
        };
        Ok(Self {
            _thread: Periodic::start("quipu-expiry", interval, AtTheEnd::Nothing, work)?,
            stats,
        })
    }

    /// What it has counted.
    pub fn stats(&self) -> &Arc<ExpiryStats> {
        &self.stats
    }
}

/// One sweep after the other.
struct Sweeper {
    log: Arc<dyn Log>,
    store: Arc<dyn Store>,
    stats: Arc<ExpiryStats>,
    /// What is in the log and still in the store, and since when; at most [`SWEEP_MESSAGES_MAX`].
    under_way: BTreeMap<IndexKey, Instant>,
}

impl Sweeper {
    fn new(log: Arc<dyn Log>, store: Arc<dyn Store>, stats: Arc<ExpiryStats>) -> Self {
        Self {
            log,
            store,
            stats,
            under_way: BTreeMap::new(),
        }
    }

    /// Appends the end of every message that is due and not under way already, the earliest first.
    fn sweep(&mut self, time: TimestampMs, at: Instant) -> Result<(), SweepError> {
        let due = self
            .store
            .index(&IndexRange::Due(time), SWEEP_MESSAGES_MAX)?;
        let mut still = BTreeMap::new();
        let mut over: BTreeMap<ConversationId, Vec<Seq>> = BTreeMap::new();
        for (key, _) in &due {
            // The range gives no other.
            let IndexKey::Due(_, conversation, seq) = key else {
                continue;
            };
            match self.under_way.get(key) {
                Some(since) if at.saturating_duration_since(*since) < PATIENCE => {
                    still.insert(key.clone(), *since);
                }
                Some(_) | None => {
                    over.entry(*conversation).or_default().push(*seq);
                    still.insert(key.clone(), at);
                }
            }
        }
        let full = u64::from(due.len() >= SWEEP_MESSAGES_MAX);
        self.stats.full.fetch_add(full, Ordering::Relaxed);
        if over.is_empty() {
            self.under_way = still;
            return Ok(());
        }
        let messages: usize = over.values().map(Vec::len).sum();
        let batch = batch_of(over, self.log.identity().shards);
        match self.log.append_and_wait(batch.into_records()) {
            Ok(_) => {}
            Err(LogError::Full) => {
                self.stats.refused.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        self.under_way = still;
        self.stats.sweeps.fetch_add(1, Ordering::Relaxed);
        let messages = messages as u64;
        self.stats.messages.fetch_add(messages, Ordering::Relaxed);
        Ok(())
    }
}

fn batch_of(over: BTreeMap<ConversationId, Vec<Seq>>, shards: ShardCount) -> Batch {
    let mut batch = Batch::default();
    for (conversation, mut seqs) in over {
        seqs.sort_unstable();
        for seqs in seqs.chunks(ENTRY_MESSAGES_MAX) {
            let body = EntryBody::Expire {
                conversation,
                seqs: seqs.to_vec(),
            };
            let entry = Entry { source: None, body };
            batch.push(shards.of_conversation(&conversation), entry);
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quipu_core::record::{Position, Record};
    use quipu_core::row::Row;

    use super::*;
    use crate::log::MemoryLog;
    use crate::store::MemoryStore;

    fn due(at: u64, conversation: u8, seq: u64) -> IndexKey {
        let seq = Seq::new(seq).expect("not 0");
        IndexKey::Due(TimestampMs(at), ConversationId([conversation; 16]), seq)
    }

    fn sweeper(keys: &[IndexKey]) -> Sweeper {
        let store = MemoryStore::default();
        let there = |key: &IndexKey| Row::Index(key.clone(), Some(Bytes::new()));
        store
            .commit(keys.iter().map(there).collect())
            .expect("memory");
        let log = MemoryLog::new(ShardCount(1));
        Sweeper::new(Arc::new(log), Arc::new(store), Arc::default())
    }

    /// What the log holds, as pairs of the conversation's number and the seqs.
    fn appended(sweeper: &Sweeper) -> Vec<(u8, Vec<u64>)> {
        let shard = quipu_core::shard::ShardId(0);
        let records = sweeper.log.read(shard, Position::START, 100, usize::MAX);
        let mut found = Vec::new();
        for stored in records.expect("memory") {
            let record = Record::decode(stored.position, stored.time, &stored.payload);
            for entry in record.expect("ours").entries {
                if let EntryBody::Expire { conversation, seqs } = entry.body {
                    let seqs = seqs.iter().map(|seq| seq.get()).collect();
                    found.push((conversation.as_bytes()[0], seqs));
                }
            }
        }
        found
    }

    #[test]
    fn what_is_due_is_appended_once_for_each_conversation() {
        let mut sweeper = sweeper(&[due(5, 2, 9), due(6, 1, 1), due(6, 2, 3), due(7, 1, 2)]);
        let start = Instant::now();
        sweeper.sweep(TimestampMs(4), start).expect("nothing due");
        assert_eq!(appended(&sweeper), []);
        sweeper.sweep(TimestampMs(6), start).expect("swept");
        assert_eq!(appended(&sweeper), [(1, vec![1]), (2, vec![3, 9])]);
        // Nobody has applied it yet, and it is not said again at once.
        sweeper.sweep(TimestampMs(6), start).expect("swept");
        assert_eq!(appended(&sweeper).len(), 2);
        sweeper.sweep(TimestampMs(7), start).expect("swept");
        assert_eq!(appended(&sweeper)[2..], [(1, vec![2])]);
    }

    #[test]
    fn what_nobody_comes_to_is_said_again_after_a_while() {
        let key = due(5, 1, 1);
        let mut sweeper = sweeper(std::slice::from_ref(&key));
        let start = Instant::now();
        sweeper.sweep(TimestampMs(5), start).expect("swept");
        sweeper
            .sweep(TimestampMs(5), start + PATIENCE)
            .expect("swept");
        assert_eq!(appended(&sweeper).len(), 2);
        sweeper
            .store
            .commit(vec![Row::Index(key, None)])
            .expect("memory");
        sweeper
            .sweep(TimestampMs(5), start + PATIENCE)
            .expect("swept");
        assert!(sweeper.under_way.is_empty());
    }

    #[test]
    fn a_sweep_is_bounded_and_says_so() {
        let keys: Vec<IndexKey> = (1..=SWEEP_MESSAGES_MAX as u64 + 5)
            .map(|seq| due(seq, 1, seq))
            .collect();
        let mut sweeper = sweeper(&keys);
        let (time, start) = (TimestampMs(u64::MAX), Instant::now());
        sweeper.sweep(time, start).expect("swept");
        let seqs: usize = appended(&sweeper).iter().map(|(_, seqs)| seqs.len()).sum();
        assert_eq!(seqs, SWEEP_MESSAGES_MAX);
        assert_eq!(sweeper.stats.full.load(Ordering::Relaxed), 1);
    }
}
