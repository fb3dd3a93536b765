//! Applies the logs of the shards that this gateway owns: read, apply, append, commit, act.
//!
//! A few threads, each with shards of its own. One turn serves all of a thread's shards that have new records, so that
//! they share one append, one wait for the disk and one store batch. The order within a turn is the promise:
//!
//! 1. read the durable records behind each shard's applied position (bounded by records and bytes)
//! 2. load the entities they touch
//! 3. `apply`: no I/O, no clock, no randomness
//! 4. append what goes to other shards, and wait until it is durable
//! 5. commit rows, entities and applied positions in one store batch
//! 6. act: push events, answer commands
//!
//! A crash after any step means that the same records are applied again from the stored position: entries that were
//! already sent are dropped by their source mark, rows are written again with the same content, and events that were
//! already pushed have numbers that the device knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use quipu_core::record::{Position, Record};
use quipu_core::row::{CorruptRow, EntityKey, Row};
use quipu_core::shard::{Action, Effects, ShardCount, ShardId, ShardState};

use crate::batch::Batch;
use crate::ephemeral::Published;
use crate::log::{Log, LogError};
use crate::notify::Topic;
use crate::pace::Pace;
use crate::registry::Registry;
use crate::store::{Store, StoreError};

/// Records of one shard in one turn.
pub const TURN_RECORDS_MAX: usize = 1_024;
/// Bytes of records in one turn, shared evenly by the shards that have some; a shard's first record always goes.
pub const TURN_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Least time between the beginnings of two turns of a thread.
const TURN_TIME: Duration = Duration::from_millis(1);
/// Bytes that one append sends to other shards; a turn that sends more makes several, one after the other.
const APPEND_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Entities that a gateway keeps in memory between turns, shared evenly by its shards. Beyond it the ones that were not
/// touched for the longest time are forgotten and read again when needed. A busy direct conversation takes about 2 KiB.
pub const ENTITIES_KEPT_MAX: usize = 128 * 1024;

/// Why a processor stopped. Each means that a human must act; the gateway stops rather than go on without a shard.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    /// The log failed.
    #[error("the log of shard {shard} cannot be used: {1}", shard = .0.0)]
    Log(ShardId, #[source] LogError),
    /// An append failed.
    #[error("the log takes no records: {0}")]
    Append(#[source] LogError),
    /// The store failed.
    #[error("the store cannot be used: {0}")]
    Store(#[from] StoreError),
    /// The operating system gave no thread.
    #[error("cannot start a processor thread: {0}")]
    Thread(#[source] std::io::Error),
    /// A record or a row cannot be read.
    #[error("shard {shard}: {1}", shard = .0.0)]
    Corrupt(ShardId, #[source] CorruptRow),
    /// Records that the store has not seen are gone from the log.
    #[error(
        "shard {}: the store stands at position {applied}, but the log starts at {found}: the two folders do not belong \
         together, or the log was trimmed too early",
        .shard.0
    )]
    Gap {
        /// Which shard.
        shard: ShardId,
        /// Position that the store has.
        applied: u64,
        /// Position of the first record behind it.
        found: u64,
    },
}

/// What the processors count.
#[derive(Debug, Default)]
pub struct ProcessorStats {
    /// Turns that had something to do.
    pub turns: AtomicU64,
    /// Records applied.
    pub records: AtomicU64,
    /// Entries that went to other shards.
    pub outgoing: AtomicU64,
    /// Actions performed.
    pub actions: AtomicU64,
    /// Entries that came before from the same source: normal after a crash.
    pub repeats: AtomicU64,
    /// Entries that belong to another shard, or that name one that does not exist: a fault of whoever appended them.
    pub misrouted: AtomicU64,
    /// Events for a user without an account.
    pub without_inbox: AtomicU64,
    /// Rows of inboxes that are no longer kept.
    pub trimmed: AtomicU64,
}

/// Everything that a processor works with.
#[derive(Clone)]
pub struct Surroundings {
    /// The log that it reads and appends to.
    pub log: Arc<dyn Log>,
    /// Where rows go.
    pub store: Arc<dyn Store>,
    /// The sessions that its actions are for.
    pub registry: Arc<Registry>,
    /// Who wants to know about messages that no device takes.
    pub topic: Arc<Topic>,
}

/// The running processors.
pub struct Processors {
    mailboxes: Vec<Arc<Wake>>,
    threads: Vec<thread::JoinHandle<()>>,
    stats: Arc<ProcessorStats>,
}

impl Processors {
    /// Deals the shards over `threads` threads, restores each from the store and starts. Applies what the log holds
    /// beyond the store before it returns. `failed` is called once by a thread that cannot go on.
    pub fn start(
        surroundings: &Surroundings,
        threads: usize,
        failed: impl Fn(ProcessorError) + Send + Clone + 'static,
    ) -> Result<Self, ProcessorError> {
        let shards = surroundings.log.identity().shards;
        let stats = Arc::new(ProcessorStats::default());
        let mut processors = Vec::new();
        let mut mailboxes = Vec::new();
        for owner in 0..threads.max(1) {
            let owned = shards
                .iter()
                .filter(|shard| usize::from(shard.0) % threads.max(1) == owner);
            let wake = Arc::new(Wake::default());
            processors.push(Processor::restore(
                surroundings,
                shards,
                owned,
                wake.clone(),
                stats.clone(),
            )?);
            mailboxes.push(wake);
        }
        let wakes = mailboxes.clone();
        surroundings.log.on_durable(Arc::new(move |shard: ShardId| {
            wakes[usize::from(shard.0) % wakes.len()].shard(shard);
        }));
        let replayed = Arc::new(Replay::new(processors.len()));
        let mut running = Vec::new();
        for (number, processor) in processors.into_iter().enumerate() {
            let (failed, replayed) = (failed.clone(), replayed.clone());
            let thread = thread::Builder::new()
                .name(format!("processor-{number}"))
                .spawn(move || {
                    if let Err(error) = processor.run(&replayed) {
                        replayed.one_done();
                        failed(error);
                    }
                })
                .map_err(ProcessorError::Thread)?;
            running.push(thread);
        }
        replayed.wait();
        Ok(Self {
            mailboxes,
            threads: running,
            stats,
        })
    }

    /// What they have counted.
    pub fn stats(&self) -> &Arc<ProcessorStats> {
        &self.stats
    }

    /// Lets every thread finish its turn and what is ready behind it, and waits for the threads.
    pub fn stop(self) {
        for wake in &self.mailboxes {
            wake.stop();
        }
        for thread in self.threads {
            // A thread that panicked has said so; there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

/// Counts the threads that have applied what the log held at the start.
struct Replay {
    missing: Mutex<usize>,
    done: Condvar,
}

impl Replay {
    fn new(threads: usize) -> Self {
        Self {
            missing: Mutex::new(threads),
            done: Condvar::new(),
        }
    }

    fn one_done(&self) {
        let mut missing = self.missing.lock();
        *missing = missing.saturating_sub(1);
        self.done.notify_all();
    }

    fn wait(&self) {
        let mut missing = self.missing.lock();
        while *missing > 0 {
            self.done.wait(&mut missing);
        }
    }
}

/// The shards of one thread that have news. At most one entry a shard, so it is bounded by their number.
#[derive(Default)]
struct Wake {
    shards: Mutex<BTreeSet<ShardId>>,
    changed: Condvar,
    stopping: AtomicBool,
}

impl Wake {
    fn shard(&self, shard: ShardId) {
        let mut shards = self.shards.lock();
        let was_empty = shards.is_empty();
        shards.insert(shard);
        if was_empty {
            self.changed.notify_one();
        }
    }

    fn stop(&self) {
        let shards = self.shards.lock();
        self.stopping.store(true, Ordering::Release);
        self.changed.notify_one();
        drop(shards);
    }

    /// Waits for news; false when the gateway stops and there is none left.
    fn wait(&self) -> bool {
        let mut shards = self.shards.lock();
        while shards.is_empty() {
            if self.stopping.load(Ordering::Acquire) {
                return false;
            }
            self.changed.wait(&mut shards);
        }
        true
    }

    fn take(&self) -> BTreeSet<ShardId> {
        std::mem::take(&mut *self.shards.lock())
    }
}

struct Processor {
    surroundings: Surroundings,
    shards: BTreeMap<ShardId, ShardState>,
    wake: Arc<Wake>,
    stats: Arc<ProcessorStats>,
    // Kept between turns for their capacity.
    effects: Effects,
    dirty: Vec<Row>,
}

impl Processor {
    fn restore(
        surroundings: &Surroundings,
        count: ShardCount,
        owned: impl Iterator<Item = ShardId>,
        wake: Arc<Wake>,
        stats: Arc<ProcessorStats>,
    ) -> Result<Self, ProcessorError> {
        let mut shards = BTreeMap::new();
        for shard in owned {
            let row = surroundings.store.shard(shard)?;
            let state = ShardState::restore(shard, count, row.as_deref())
                .map_err(|error| ProcessorError::Corrupt(shard, error))?;
            let last = surroundings
                .log
                .last(shard)
                .map_err(|error| ProcessorError::Log(shard, error))?;
            if state.applied() > last {
                return Err(ProcessorError::Gap {
                    shard,
                    applied: state.applied().0,
                    found: last.0,
                });
            }
            wake.shard(shard);
            shards.insert(shard, state);
        }
        Ok(Self {
            surroundings: surroundings.clone(),
            shards,
            wake,
            stats,
            effects: Effects::default(),
            dirty: Vec::new(),
        })
    }

    fn run(mut self, replayed: &Replay) -> Result<(), ProcessorError> {
        let mut replaying = self.end_of_log()?;
        let mut pace = Pace::new(TURN_TIME);
        loop {
            if replaying.as_ref().is_some_and(|end| self.has_reached(end)) {
                replaying = None;
                replayed.one_done();
            }
            if !self.wake.wait() {
                return Ok(());
            }
            pace.begin();
            let ready = self.wake.take();
            self.turn(&ready)?;
        }
    }

    /// Where each shard's log ends now.
    fn end_of_log(&self) -> Result<Option<BTreeMap<ShardId, Position>>, ProcessorError> {
        let log = &self.surroundings.log;
        let last = |shard: &ShardId| {
            log.last(*shard)
                .map_err(|error| ProcessorError::Log(*shard, error))
        };
        self.shards
            .keys()
            .map(|shard| Ok((*shard, last(shard)?)))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    fn has_reached(&self, end: &BTreeMap<ShardId, Position>) -> bool {
        self.shards
            .iter()
            .all(|(shard, state)| end.get(shard).is_none_or(|end| state.applied() >= *end))
    }

    fn turn(&mut self, ready: &BTreeSet<ShardId>) -> Result<(), ProcessorError> {
        let batch = self.read(ready)?;
        if batch.is_empty() {
            return Ok(());
        }
        self.load(&batch)?;
        self.apply(&batch);
        self.send()?;
        self.commit(&batch)?;
        self.act();
        Ok(())
    }

    /// Reads what each ready shard has behind its applied position. A shard with more than a turn's worth stays ready.
    fn read(
        &self,
        ready: &BTreeSet<ShardId>,
    ) -> Result<Vec<(ShardId, Vec<Record>)>, ProcessorError> {
        let log = &self.surroundings.log;
        let mut batch = Vec::new();
        let bytes_max = TURN_BYTES_MAX / ready.len().max(1);
        for shard in ready {
            let Some(state) = self.shards.get(shard) else {
                continue;
            };
            let stored = log
                .read(*shard, state.applied(), TURN_RECORDS_MAX, bytes_max)
                .map_err(|error| ProcessorError::Log(*shard, error))?;
            let Some(last) = stored.last().map(|record| record.position) else {
                continue;
            };
            let mut records = Vec::with_capacity(stored.len());
            let mut expected = state.applied().next();
            for record in &stored {
                if record.position != expected {
                    return Err(ProcessorError::Gap {
                        shard: *shard,
                        applied: state.applied().0,
                        found: record.position.0,
                    });
                }
                expected = expected.next();
                let record = Record::decode(record.position, record.time, &record.payload)
                    .map_err(|error| ProcessorError::Corrupt(*shard, error))?;
                records.push(record);
            }
            self.stats
                .records
                .fetch_add(records.len() as u64, Ordering::Relaxed);
            if last
                < log
                    .last(*shard)
                    .map_err(|error| ProcessorError::Log(*shard, error))?
            {
                self.wake.shard(*shard);
            }
            batch.push((*shard, records));
        }
        Ok(batch)
    }

    /// Brings the entities that the batch touches into memory: with one read of the store, and one more when it spreads
    /// messages of a group whose roster was not there.
    fn load(&mut self, batch: &[(ShardId, Vec<Record>)]) -> Result<(), ProcessorError> {
        // It ends: what was loaded is not missing again, and what else a record needs depends on its roster only.
        while self.load_missing(batch)? {}
        Ok(())
    }

    /// Loads what is known to be needed; says whether anything was, which may show that more is.
    fn load_missing(&mut self, batch: &[(ShardId, Vec<Record>)]) -> Result<bool, ProcessorError> {
        let mut wanted: Vec<(ShardId, EntityKey)> = Vec::new();
        for (shard, records) in batch {
            let Some(state) = self.shards.get(shard) else {
                continue;
            };
            let mut missing = BTreeSet::new();
            for record in records {
                state.missing(record, &mut missing);
            }
            wanted.extend(missing.into_iter().map(|key| (*shard, key)));
        }
        if wanted.is_empty() {
            return Ok(false);
        }
        let more = wanted
            .iter()
            .any(|(_, key)| matches!(key, EntityKey::Roster(..)));
        let keys: Vec<EntityKey> = wanted.iter().map(|(_, key)| *key).collect();
        let rows = self.surroundings.store.entities(&keys)?;
        for ((shard, key), row) in wanted.into_iter().zip(rows) {
            if let Some(state) = self.shards.get_mut(&shard) {
                state
                    .load(key, row.as_deref())
                    .map_err(|error| ProcessorError::Corrupt(shard, error))?;
            }
        }
        Ok(more)
    }

    fn apply(&mut self, batch: &[(ShardId, Vec<Record>)]) {
        for (shard, records) in batch {
            if let Some(state) = self.shards.get_mut(shard) {
                for record in records {
                    state.apply(record, &mut self.effects);
                }
            }
        }
    }

    /// Appends what the turn sends, one record a receiving shard, and waits until all of it is durable.
    fn send(&mut self) -> Result<(), ProcessorError> {
        if self.effects.outgoing.is_empty() {
            return Ok(());
        }
        self.stats
            .outgoing
            .fetch_add(self.effects.outgoing.len() as u64, Ordering::Relaxed);
        let log = &self.surroundings.log;
        let append = |batch: Batch| {
            let appended = log.append_and_wait(batch.into_records());
            appended.map(drop).map_err(ProcessorError::Append)
        };
        let mut batch = Batch::default();
        for (shard, entry) in self.effects.outgoing.drain(..) {
            if batch.bytes() >= APPEND_BYTES_MAX {
                append(std::mem::take(&mut batch))?;
            }
            batch.push(shard, entry);
        }
        append(batch)
    }

    /// Writes what the turn changed and how far it came, in one batch.
    fn commit(&mut self, batch: &[(ShardId, Vec<Record>)]) -> Result<(), ProcessorError> {
        let mut rows = std::mem::take(&mut self.effects.rows);
        for (shard, _) in batch {
            if let Some(state) = self.shards.get_mut(shard) {
                state.drain_dirty(&mut self.dirty);
            }
        }
        rows.append(&mut self.dirty);
        let trimmed = rows.iter().filter(|row| matches!(row, Row::Trimmed(..)));
        let trimmed = trimmed.count() as u64;
        self.surroundings.store.commit(rows)?;
        self.stats.trimmed.fetch_add(trimmed, Ordering::Relaxed);
        let keep =
            ENTITIES_KEPT_MAX / usize::from(self.surroundings.log.identity().shards.0).max(1);
        for (shard, _) in batch {
            if let Some(state) = self.shards.get_mut(shard) {
                state.evict(keep);
            }
        }
        Ok(())
    }

    /// Performs what the turn asks for, now that nothing of it can be lost.
    fn act(&mut self) {
        let registry = &self.surroundings.registry;
        self.stats.add(&self.effects);
        for action in self.effects.actions.drain(..) {
            match action {
                Action::Push { user, event } => registry.push(&user, event),
                Action::Notice { users, notice } => registry.notice(&users, &notice),
                Action::Revoked { user, device } => registry.revoke(&user, device),
                Action::Settings { user, settings } => {
                    registry.publish(Published::Settings(user, settings));
                }
                Action::Answer {
                    user,
                    device,
                    reply,
                } => registry.answer(&user, device, reply),
                Action::Offline { user, since } => self.surroundings.topic.note(user, since),
            }
        }
        self.effects.clear();
    }
}

impl ProcessorStats {
    fn add(&self, effects: &Effects) {
        let add = |counter: &AtomicU64, by: u64| counter.fetch_add(by, Ordering::Relaxed);
        add(&self.turns, 1);
        add(&self.actions, effects.actions.len() as u64);
        add(&self.repeats, effects.dropped.repeats);
        add(&self.misrouted, effects.dropped.misrouted);
        add(&self.without_inbox, effects.dropped.without_inbox);
    }
}
