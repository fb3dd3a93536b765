//! The log in one process, on raft-engine: one group per shard, one fsync per gathered batch.
//!
//! Whoever waits for its append writes all that waits, in its own thread: the hand-over to a writer's thread and back would
//! cost two changes of thread for each append. The log's own thread serves those who do not wait, and deletes old files.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock};
use quipu_core::record::Position;
use quipu_core::shard::ShardId;
use quipu_protocol::id::TimestampMs;
use raft_engine::env::{DefaultFileSystem, FileSystem};
use raft_engine::{Command, Config, Engine, LogBatch, ReadableSize, RecoveryMode};

use self::entry::{Entries, Entry};
use self::tail::{Found, Tail};
use super::queue::{Append, AppendQueue};
use super::stats::{LogStats, count};
use super::{
    AppendDone, Log, LogError, LogIdentity, StoredRecord, Wake, check_batch, check_shard,
    unix_time_now,
};
use crate::folder::{DataFolder, FolderLock};

mod entry;
mod tail;

/// Records written with one fsync, unless a single append has more.
const GATHER_RECORDS_MAX: usize = 8 * 1024;
/// Payload bytes written with one fsync, unless a single append has more.
const GATHER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most records that one read takes from the disk.
const DISK_READ_RECORDS_MAX: usize = 4 * 1024;
/// Most bytes that one read takes from the disk, unless its first record has more.
const DISK_READ_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Size at which the engine begins a new file, in MiB.
const FILE_MIB: u64 = 32;
/// Size of all files above which the engine deletes and rewrites old ones, in MiB.
const PURGE_ABOVE_MIB: u64 = 256;
/// The engine looks for files to delete at most this often.
const PURGE_INTERVAL: Duration = Duration::from_secs(5);

/// Why the log of a data folder cannot be opened. A human must act.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the log in {path}: {why}")]
pub struct OpenLogError {
    /// Where it is.
    pub path: String,
    /// What the engine said.
    pub why: String,
}

/// The log in a data folder.
///
/// A failed write or fsync is final: what is on the disk after it is unknown, so every append from then on, and those that
/// wait, end with [`LogError::Closed`]. The process is expected to exit; the next start reads what did reach the disk.
pub struct EmbeddedLog<F: FileSystem + 'static = DefaultFileSystem> {
    shared: Arc<Shared<F>>,
    writer: Option<JoinHandle<()>>,
}

struct Shared<F: FileSystem + 'static> {
    identity: LogIdentity,
    engine: Engine<F>,
    queue: AppendQueue,
    /// Held by whoever writes. Appends leave the queue under it only, so that they come to stand in its order.
    writing: Mutex<()>,
    tails: Vec<Mutex<Tail>>,
    wakes: Mutex<Vec<Wake>>,
    /// Read: somebody reads files. Write: the engine deletes files.
    files: RwLock<()>,
    stats: Arc<LogStats>,
    /// Dropped after the engine.
    _folder: FolderLock,
}

impl EmbeddedLog {
    /// Opens the log of a data folder, or makes it. A torn end, as a crash leaves it, is cut off; damage anywhere else is an
    /// error.
    pub fn open(folder: &DataFolder) -> Result<Self, OpenLogError> {
        Self::open_on(folder, Arc::new(DefaultFileSystem))
    }
}

impl<F: FileSystem + 'static> EmbeddedLog<F> {
    /// The same on another file system: for tests that make the disk fail.
    pub fn open_on(folder: &DataFolder, file_system: Arc<F>) -> Result<Self, OpenLogError> {
        let path = folder.log_path().display().to_string();
        let failed = |why: String| OpenLogError {
            path: path.clone(),
            why,
        };
        let config = Config {
            dir: path.clone(),
            recovery_mode: RecoveryMode::TolerateTailCorruption,
            recovery_threads: 2,
            // Chat text gains little and every read of one record would unpack its whole batch.
            batch_compression_threshold: ReadableSize(0),
            target_file_size: ReadableSize::mb(FILE_MIB),
            purge_threshold: ReadableSize::mb(PURGE_ABOVE_MIB),
            ..Config::default()
        };
        let identity = folder.identity();
        let open = || -> Result<_, raft_engine::Error> {
            let engine = Engine::open_with_file_system(config, file_system)?;
            let tails = identity
                .shards
                .iter()
                .map(|shard| Ok(Mutex::new(read_tail(&engine, shard)?)))
                .collect::<Result<Vec<_>, raft_engine::Error>>()?;
            Ok((engine, tails))
        };
        // raft-engine panics on some kinds of damage.
        let opened = catch_unwind(AssertUnwindSafe(open));
        let (engine, tails) = opened
            .map_err(|panic| failed(panic_text(&*panic)))?
            .map_err(|error| failed(error.to_string()))?;
        let shared = Arc::new(Shared {
            identity,
            engine,
            queue: AppendQueue::default(),
            writing: Mutex::default(),
            tails,
            wakes: Mutex::default(),
            files: RwLock::default(),
            stats: Arc::default(),
            _folder: folder.hold(),
        });
        let writer = std::thread::Builder::new()
            .name("quipu-log".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || Writer::new(&shared).run()
            })
            .map_err(|error| failed(format!("cannot start a thread: {error}")))?;
        Ok(Self {
            shared,
            writer: Some(writer),
        })
    }

    /// What it has counted since it was opened.
    pub fn stats(&self) -> Arc<LogStats> {
        Arc::clone(&self.shared.stats)
    }

    /// Bytes of the log's files that hold something.
    pub fn disk_bytes(&self) -> usize {
        self.shared.engine.get_used_size()
    }
}

impl<F: FileSystem + 'static> Drop for EmbeddedLog<F> {
    /// Writes what waits and ends.
    fn drop(&mut self) {
        self.shared.queue.close("the gateway is stopping");
        super::join_writer(self.writer.take());
    }
}

/// raft-engine's number of a shard's group; 0 is not used by anybody.
fn group(shard: ShardId) -> u64 {
    u64::from(shard.0) + 1
}

fn read_tail<F: FileSystem>(
    engine: &Engine<F>,
    shard: ShardId,
) -> Result<Tail, raft_engine::Error> {
    let last = engine.last_index(group(shard)).unwrap_or(0);
    let first = engine.first_index(group(shard)).unwrap_or(1);
    let time = match last {
        0 => TimestampMs(0),
        last => {
            let newest = engine
                .get_entry::<Entries>(group(shard), last)?
                .ok_or(raft_engine::Error::EntryNotFound)?;
            StoredRecord::from(newest).time
        }
    };
    Ok(Tail::new(shard, Position(first), Position(last), time))
}

impl<F: FileSystem + 'static> Shared<F> {
    fn tail(&self, shard: ShardId) -> Result<&Mutex<Tail>, LogError> {
        check_shard(self.identity.shards, shard)?;
        Ok(&self.tails[usize::from(shard.0)])
    }

    fn read_disk(
        &self,
        shard: ShardId,
        from: u64,
        end: u64,
        max_bytes: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let end = end.min(from + DISK_READ_RECORDS_MAX as u64);
        let max_bytes = Some(max_bytes.min(DISK_READ_BYTES_MAX));
        let mut entries: Vec<Entry> = Vec::new();
        let read = || {
            let _files = self.files.read();
            self.engine.fetch_entries_to::<Entries>(
                group(shard),
                from,
                end,
                max_bytes,
                &mut entries,
            )
        };
        // raft-engine panics when an entry is not the one that its index names.
        let result = catch_unwind(AssertUnwindSafe(read))
            .map_err(|panic| LogError::Read(panic_text(&*panic).into()))?;
        match result {
            Ok(_) => Ok(entries.into_iter().map(StoredRecord::from).collect()),
            // Trimmed since the caller looked.
            Err(raft_engine::Error::EntryCompacted) => Err(LogError::Trimmed {
                shard,
                first: self.tail(shard)?.lock().first(),
                after: Position(from - 1),
            }),
            Err(error) => Err(LogError::Read(error.to_string().into())),
        }
    }
}

impl<F: FileSystem + 'static> Log for EmbeddedLog<F> {
    fn identity(&self) -> LogIdentity {
        self.shared.identity
    }

    fn append(&self, batch: Vec<(ShardId, Bytes)>, done: AppendDone) -> Result<(), LogError> {
        check_batch(self.shared.identity.shards, &batch)?;
        let pushed = self.shared.queue.push(Append { batch, done });
        self.shared.count_refusal(pushed)
    }

    fn append_and_wait(&self, batch: Vec<(ShardId, Bytes)>) -> Result<Vec<Position>, LogError> {
        check_batch(self.shared.identity.shards, &batch)?;
        let answer: Arc<Mutex<Option<_>>> = Arc::default();
        let tell = Arc::clone(&answer);
        let done = Box::new(move |result| *tell.lock() = Some(result));
        let pushed = self.shared.queue.push_quietly(Append { batch, done });
        self.shared.count_refusal(pushed)?;
        let writing = self.shared.writing.lock();
        loop {
            let told = answer.lock().take();
            if let Some(told) = told {
                return told;
            }
            if !self.shared.write_waiting(&writing) {
                // Somebody took it and panicked.
                return Err(LogError::Closed("an append was not answered".into()));
            }
        }
    }

    fn read(
        &self,
        shard: ShardId,
        after: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<StoredRecord>, LogError> {
        let tail = self.shared.tail(shard)?;
        let found = tail.lock().find(after, max_records, max_bytes)?;
        match found {
            Found::Here(records) => {
                count(&self.shared.stats.tail_reads, 1);
                Ok(records)
            }
            Found::OnDisk(from, end) => {
                count(&self.shared.stats.disk_reads, 1);
                self.shared.read_disk(shard, from, end, max_bytes)
            }
        }
    }

    fn last(&self, shard: ShardId) -> Result<Position, LogError> {
        Ok(self.shared.tail(shard)?.lock().last())
    }

    fn first(&self, shard: ShardId) -> Result<Position, LogError> {
        Ok(self.shared.tail(shard)?.lock().first())
    }

    fn trim(&self, shard: ShardId, up_to: Position) -> Result<(), LogError> {
        if self.shared.tail(shard)?.lock().trim(up_to) {
            self.shared.queue.nudge();
        }
        Ok(())
    }

    fn on_durable(&self, wake: Wake) {
        self.shared.wakes.lock().push(wake);
    }
}

/// The writer thread's own state.
struct Writer<'a, F: FileSystem + 'static> {
    shared: &'a Shared<F>,
    purged_at: Instant,
}

impl<F: FileSystem + 'static> Drop for Writer<'_, F> {
    /// However the thread ends, nobody waits for it in vain.
    fn drop(&mut self) {
        self.shared.fail("the log's thread has ended");
    }
}

impl<'a, F: FileSystem + 'static> Writer<'a, F> {
    fn new(shared: &'a Shared<F>) -> Self {
        Self {
            shared,
            purged_at: Instant::now(),
        }
    }

    fn run(&mut self) {
        while let Some(nudged) = self.shared.queue.wait() {
            let writing = self.shared.writing.lock();
            while self.shared.write_waiting(&writing) {}
            drop(writing);
            if nudged && let Err(why) = self.trim_and_purge() {
                self.shared.fail(&format!("writing failed: {why}"));
            }
        }
    }

    /// Tells the engine what may go, and now and then has it delete files. Appends go on meanwhile.
    fn trim_and_purge(&mut self) -> Result<(), String> {
        let mut batch = LogBatch::default();
        for shard in self.shared.identity.shards.iter() {
            let first = self.shared.tails[usize::from(shard.0)].lock().take_trim();
            if let Some(first) = first {
                let index = first.0;
                batch.add_command(group(shard), Command::Compact { index });
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        // Not synced: if a crash undoes it, the log merely keeps more.
        let shared = self.shared;
        shared.guarded(|engine| engine.write(&mut batch, false).map(drop))?;
        if self.purged_at.elapsed() < PURGE_INTERVAL {
            return Ok(());
        }
        self.purged_at = Instant::now();
        count(&shared.stats.purges, 1);
        let _files = shared.files.write();
        shared.guarded(|engine| engine.purge_expired_files().map(drop))
    }
}

/// Closes the log when a turn of writing does not come to its end: a `done` panicked, and those behind it were dropped.
struct FailOnPanic<'a, F: FileSystem + 'static>(&'a Shared<F>);

impl<F: FileSystem + 'static> Drop for FailOnPanic<'_, F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("whoever wrote the log has panicked");
        }
    }
}

impl<F: FileSystem + 'static> Shared<F> {
    fn count_refusal(&self, pushed: Result<(), LogError>) -> Result<(), LogError> {
        if matches!(pushed, Err(LogError::Full)) {
            count(&self.stats.refused_full, 1);
        }
        pushed
    }

    /// Takes nothing more, and tells those that wait.
    fn fail(&self, why: &str) {
        let (waiting, why) = self.queue.fail(why);
        for append in waiting {
            (append.done)(Err(LogError::Closed(Arc::clone(&why))));
        }
    }

    /// Writes a batch of what waits; false if nothing does. A failure is final.
    fn write_waiting(&self, _writing: &MutexGuard<'_, ()>) -> bool {
        let appends = self
            .queue
            .take_waiting(GATHER_RECORDS_MAX, GATHER_BYTES_MAX);
        if appends.is_empty() {
            return false;
        }
        let _guard = FailOnPanic(self);
        if let Err(why) = self.write(appends) {
            tracing::error!(%why, "the log cannot be written; the gateway must restart");
            self.fail(&format!("writing failed: {why}"));
        }
        true
    }

    /// Numbers, writes, publishes and answers a gathered batch.
    fn write(&self, appends: Vec<Append>) -> Result<(), String> {
        let now = unix_time_now();
        let mut records: BTreeMap<ShardId, Vec<StoredRecord>> = BTreeMap::new();
        let mut answers = Vec::with_capacity(appends.len());
        for Append { batch, done } in appends {
            let positions: Vec<Position> = batch
                .into_iter()
                .map(|(shard, payload)| self.number(&mut records, shard, payload, now))
                .collect();
            answers.push((done, positions));
        }
        if let Err(why) = self.write_records(&records) {
            let closed: Arc<str> = format!("writing failed: {why}").into();
            // Nothing more may be taken before the first caller hears of it.
            self.queue.close(&closed);
            for (done, _) in answers {
                done(Err(LogError::Closed(Arc::clone(&closed))));
            }
            return Err(why);
        }
        let shards: Vec<ShardId> = records.keys().copied().collect();
        for (shard, records) in records {
            let mut tail = self.tails[usize::from(shard.0)].lock();
            records.into_iter().for_each(|record| tail.push(record));
        }
        count(&self.stats.appends, answers.len() as u64);
        for (done, positions) in answers {
            done(Ok(positions));
        }
        let wakes = self.wakes.lock().clone();
        for shard in shards {
            wakes.iter().for_each(|wake| wake(shard));
        }
        Ok(())
    }

    /// Gives a payload its position and time, after those of its shard that go into the same batch.
    fn number(
        &self,
        records: &mut BTreeMap<ShardId, Vec<StoredRecord>>,
        shard: ShardId,
        payload: Bytes,
        now: TimestampMs,
    ) -> Position {
        let earlier = records.entry(shard).or_default();
        let (last, time) = match earlier.last() {
            Some(record) => (record.position, record.time),
            None => {
                // `append` has checked the shard.
                let tail = self.tails[usize::from(shard.0)].lock();
                (tail.last(), tail.time())
            }
        };
        earlier.push(StoredRecord {
            position: last.next(),
            time: now.max(time),
            payload,
        });
        last.next()
    }

    /// Returns when all of it is on the disk.
    fn write_records(&self, records: &BTreeMap<ShardId, Vec<StoredRecord>>) -> Result<(), String> {
        let started = Instant::now();
        let stats = &self.stats;
        let mut batch = LogBatch::with_capacity(records.len());
        for (shard, records) in records {
            let entries: Vec<Entry> = records.iter().map(Entry::from).collect();
            batch
                .add_entries::<Entries>(group(*shard), &entries)
                .map_err(|error| error.to_string())?;
            let bytes: usize = records.iter().map(|record| record.payload.len()).sum();
            count(&stats.records, records.len() as u64);
            count(&stats.payload_bytes, bytes as u64);
        }
        self.guarded(|engine| engine.write(&mut batch, true).map(drop))?;
        count(&stats.syncs, 1);
        count(&stats.sync_us, started.elapsed().as_micros() as u64);
        Ok(())
    }

    /// Runs the engine; it panics when an fsync fails, which is as final as an error.
    fn guarded(
        &self,
        work: impl FnOnce(&Engine<F>) -> Result<(), raft_engine::Error>,
    ) -> Result<(), String> {
        match catch_unwind(AssertUnwindSafe(|| work(&self.engine))) {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(panic) => Err(panic_text(&*panic)),
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("the engine panicked")
        .to_owned()
}

#[cfg(test)]
mod tests;
