//! Keeps commits in memory and moves them to a slower store behind the callers' backs, many at a time.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use quipu_core::row::{EntityKey, HistoryRow, InboxRow, IndexKey, IndexRange, Row};
use quipu_core::shard::ShardId;
use quipu_protocol::id::{ConversationId, Cursor, InboxSeq, Seq, UserId};

use super::rows::{Rows, read_index, take_history};
use super::stats::{StoreStats, count, count_us};
use super::{Durable, HistoryRange, Store, StoreError};

/// How much is kept back, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteBehindOptions {
    /// The overlay is written out this long after the last time. Longer: more rows replace each other in memory, and more
    /// of the log is replayed after a crash.
    pub flush_interval: Duration,
    /// The overlay is written out at once above this many bytes, and commits wait while it stays above. As much again may
    /// be on its way to the store below.
    pub overlay_bytes_max: usize,
}

impl Default for WriteBehindOptions {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_millis(500),
            overlay_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// A store in front of another one.
///
/// ```text
/// commit ─> active overlay ── freeze ──> frozen overlay ── one inner commit ──> inner store
/// read   ─> active, else frozen, else inner
/// ```
/// Everything that one flush moves becomes one atomic commit of the inner store, so a crash leaves the inner store as some
/// prefix of the commits had made it. A flush that fails is final: commits fail from then on, reads go on.
pub struct WriteBehind<S: Store> {
    shared: Arc<Shared<S>>,
    flusher: Option<JoinHandle<()>>,
}

struct Shared<S> {
    inner: S,
    options: WriteBehindOptions,
    state: Mutex<State>,
    /// The flusher waits here for something to do.
    wanted: Condvar,
    /// Callers wait here for the end of a flush.
    flushed: Condvar,
    stats: Arc<StoreStats>,
}

#[derive(Default)]
struct State {
    active: Rows,
    frozen: Option<Arc<Rows>>,
    /// Commits so far.
    commits: u64,
    /// Commits that are in the inner store.
    commits_flushed: u64,
    /// Somebody waits for a flush.
    flush_wanted: bool,
    closing: bool,
    /// What waits is given up instead of being written.
    aborted: bool,
    failed: Option<Arc<str>>,
}

impl State {
    /// Looks in the overlays, newest first.
    fn find<T>(&self, look: impl Fn(&Rows) -> Option<T>) -> Option<T> {
        look(&self.active).or_else(|| look(self.frozen.as_deref()?))
    }

    /// The overlays, oldest first.
    fn overlays(&self) -> impl Iterator<Item = &Rows> {
        self.frozen.as_deref().into_iter().chain([&self.active])
    }
}

impl<S: Store> WriteBehind<S> {
    /// Puts an overlay and its flusher thread in front of a store.
    pub fn new(inner: S, options: WriteBehindOptions) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            inner,
            options,
            state: Mutex::default(),
            wanted: Condvar::new(),
            flushed: Condvar::new(),
            stats: Arc::default(),
        });
        let flusher = std::thread::Builder::new()
            .name("quipu-flush".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || flush_until_closed(&shared)
            })?;
        Ok(Self {
            shared,
            flusher: Some(flusher),
        })
    }

    /// What it has counted so far.
    pub fn stats(&self) -> Arc<StoreStats> {
        Arc::clone(&self.shared.stats)
    }

    /// The store behind it.
    pub fn inner(&self) -> &S {
        &self.shared.inner
    }

    /// Ends without writing what is in memory only, as a crash would; for tests.
    #[cfg(any(test, feature = "test-util"))]
    pub fn abort(self) {
        self.shared.state.lock().aborted = true;
    }

    /// Waits until everything committed so far is in the inner store.
    fn flush(&self) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        let target = state.commits;
        while state.commits_flushed < target {
            fail_if_failed(&state)?;
            state.flush_wanted = true;
            self.shared.wanted.notify_one();
            self.shared.flushed.wait(&mut state);
        }
        Ok(())
    }
}

impl<S: Store> Drop for WriteBehind<S> {
    /// Writes what is in memory and ends.
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.wanted.notify_one();
        if let Some(flusher) = self.flusher.take()
            && flusher.join().is_err()
        {
            tracing::error!("the store's flusher thread had panicked");
        }
    }
}

fn fail_if_failed(state: &State) -> Result<(), StoreError> {
    match &state.failed {
        Some(why) => Err(StoreError::Closed(Arc::clone(why))),
        None => Ok(()),
    }
}

/// However the flusher ends, nobody waits for it in vain.
struct FailOnDrop<'a, S>(&'a Shared<S>);

impl<S> Drop for FailOnDrop<'_, S> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state
            .failed
            .get_or_insert_with(|| "the store's flusher has ended".into());
        self.0.flushed.notify_all();
    }
}

fn flush_until_closed<S: Store>(shared: &Shared<S>) {
    let _guard = FailOnDrop(shared);
    let mut flushed_at = Instant::now();
    while let Some((rows, commits)) = next_flush(shared, flushed_at) {
        flushed_at = Instant::now();
        let result = shared.inner.commit(rows.iter().collect());
        let mut state = shared.state.lock();
        if let Err(error) = result {
            tracing::error!(%error, "the store cannot be written; the gateway must restart");
            state.failed = Some(format!("writing failed: {error}").into());
            return;
        }
        state.frozen = None;
        state.commits_flushed = commits;
        // Counted before anybody who waits for this flush can look.
        let stats = &shared.stats;
        count(&stats.flushes, 1);
        count(&stats.flushed_rows, rows.len() as u64);
        count(&stats.flushed_bytes, rows.bytes as u64);
        count_us(&stats.flush_us, flushed_at.elapsed());
        drop(state);
        shared.flushed.notify_all();
    }
}

/// Waits for a reason to flush and freezes the overlay. `None`: closed, and nothing is left.
fn next_flush<S: Store>(shared: &Shared<S>, flushed_at: Instant) -> Option<(Arc<Rows>, u64)> {
    let due = flushed_at + shared.options.flush_interval;
    let mut state = shared.state.lock();
    loop {
        if state.aborted {
            return None;
        }
        let pending = state.commits > state.commits_flushed;
        let full = state.active.bytes >= shared.options.overlay_bytes_max;
        if pending && (full || state.flush_wanted || state.closing || Instant::now() >= due) {
            return Some(freeze(shared, &mut state));
        }
        state.flush_wanted = false;
        if state.closing {
            return None;
        }
        if pending {
            shared.wanted.wait_until(&mut state, due);
        } else {
            shared.wanted.wait(&mut state);
        }
    }
}

fn freeze<S>(shared: &Shared<S>, state: &mut MutexGuard<'_, State>) -> (Arc<Rows>, u64) {
    state.flush_wanted = false;
    let rows = Arc::new(std::mem::take(&mut state.active));
    state.frozen = Some(Arc::clone(&rows));
    shared.stats.overlay_bytes.store(0, Ordering::Relaxed);
    // The overlay has room again, although the flush has only begun.
    shared.flushed.notify_all();
    (rows, state.commits)
}

impl<S: Store> Store for WriteBehind<S> {
    fn commit(&self, rows: Vec<Row>) -> Result<(), StoreError> {
        let Shared { options, stats, .. } = &*self.shared;
        let mut state = self.shared.state.lock();
        if state.active.bytes >= options.overlay_bytes_max {
            let since = Instant::now();
            while state.active.bytes >= options.overlay_bytes_max && state.failed.is_none() {
                self.shared.flushed.wait(&mut state);
            }
            count(&stats.stalls, 1);
            count_us(&stats.stall_us, since.elapsed());
        }
        fail_if_failed(&state)?;
        count(&stats.commits, 1);
        count(&stats.rows, rows.len() as u64);
        let was_idle = state.commits == state.commits_flushed;
        state.active.merge(rows);
        state.commits += 1;
        let bytes = state.active.bytes;
        stats.overlay_bytes.store(bytes as u64, Ordering::Relaxed);
        if was_idle || bytes >= options.overlay_bytes_max {
            self.shared.wanted.notify_one();
        }
        Ok(())
    }

    fn entities(&self, keys: &[EntityKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let state = self.shared.state.lock();
        let mut found: Vec<Option<Bytes>> = keys
            .iter()
            .map(|key| state.find(|rows| rows.entity(key)))
            .collect();
        drop(state);
        // What was in no overlay then is in the inner store now, if it exists.
        let missing: Vec<usize> = (0..keys.len()).filter(|i| found[*i].is_none()).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        let missing_keys: Vec<EntityKey> = missing.iter().map(|i| keys[*i]).collect();
        let inner = self.shared.inner.entities(&missing_keys)?;
        for (i, value) in missing.into_iter().zip(inner) {
            found[i] = value;
        }
        Ok(found)
    }

    fn shard(&self, shard: ShardId) -> Result<Option<Bytes>, StoreError> {
        let state = self.shared.state.lock();
        let found = state.find(|rows| rows.shards.get(&shard).cloned());
        drop(state);
        match found {
            Some(row) => Ok(Some(row)),
            None => self.shared.inner.shard(shard),
        }
    }

    fn history(
        &self,
        conversation: &ConversationId,
        range: HistoryRange,
    ) -> Result<Vec<HistoryRow>, StoreError> {
        let state = self.shared.state.lock();
        let mut overlay: BTreeMap<Seq, HistoryRow> = BTreeMap::new();
        for rows in state.overlays() {
            // No more than the limit from each can be among the answer.
            let newest = rows.history(conversation, &range).take(range.limit);
            overlay.extend(newest.map(|row| (row.0.seq, row.clone())));
        }
        drop(state);
        let inner = self.shared.inner.history(conversation, range)?;
        if overlay.is_empty() {
            return Ok(inner);
        }
        let inner_end = match range.newest_first {
            true => inner.first(),
            false => inner.last(),
        };
        let inner_end = inner_end.map(|row| row.0.seq);
        let mut merged: BTreeMap<Seq, HistoryRow> =
            inner.into_iter().map(|row| (row.0.seq, row)).collect();
        merged.append(&mut overlay);
        let merged: Vec<HistoryRow> = merged.into_values().collect();
        let cut = Cut {
            inner: &self.shared.inner,
            conversation,
            range,
            inner_end,
        };
        if range.newest_first {
            take_history(&range, cut.rows(merged.into_iter().rev()))
        } else {
            take_history(&range, cut.rows(merged.into_iter()))
        }
    }

    fn inbox(
        &self,
        user: &UserId,
        after: Cursor,
        limit: usize,
    ) -> Result<Vec<InboxRow>, StoreError> {
        let state = self.shared.state.lock();
        let mut merged: BTreeMap<InboxSeq, Option<InboxRow>> = BTreeMap::new();
        for rows in state.overlays() {
            merged.extend(oldest(rows.inbox(user, after), limit));
        }
        drop(state);
        // Each row that was trimmed may hide one of the inner store, so that many more are asked for.
        let trimmed = merged.values().filter(|row| row.is_none()).count();
        let asked = limit.saturating_add(trimmed);
        // If the inner store stops there, then so does what both give together.
        for row in self.shared.inner.inbox(user, after, asked)? {
            merged.entry(row.inbox_seq).or_insert(Some(row));
        }
        Ok(merged.into_values().flatten().take(limit).collect())
    }

    fn index(
        &self,
        range: &IndexRange,
        limit: usize,
    ) -> Result<Vec<(IndexKey, Bytes)>, StoreError> {
        let state = self.shared.state.lock();
        let mut merged: BTreeMap<Vec<u8>, Option<Bytes>> = BTreeMap::new();
        for rows in state.overlays() {
            let found = rows.index(range);
            merged.extend(found.map(|(key, value)| (key.clone(), value.cloned())));
        }
        drop(state);
        // Each row that was taken away may hide one of the inner store, so that many more are asked for.
        let taken_away = merged.values().filter(|value| value.is_none()).count();
        let asked = limit.saturating_add(taken_away);
        for (key, value) in self.shared.inner.index(range, asked)? {
            merged.entry(key.encode()).or_insert(Some(value));
        }
        let kept = merged
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)));
        Ok(read_index(kept.take(limit))?)
    }

    fn sync(&self) -> Result<Durable, StoreError> {
        self.flush()?;
        let durable = self.shared.inner.sync()?;
        count(&self.shared.stats.syncs, 1);
        Ok(durable)
    }

    fn scan(&self, visit: &mut dyn FnMut(Row) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.flush()?;
        self.shared.inner.scan(visit)
    }
}

/// The first rows of an overlay up to the limit, and what it has trimmed before them, which does not count.
fn oldest(
    rows: impl Iterator<Item = (InboxSeq, Option<InboxRow>)>,
    limit: usize,
) -> impl Iterator<Item = (InboxSeq, Option<InboxRow>)> {
    let mut found = 0;
    rows.take_while(move |(_, row)| {
        found += usize::from(row.is_some());
        found <= limit
    })
}

/// Ends merged rows where the inner store stopped because of the byte limit.
///
/// The inner store answers with a prefix of what it has in the range. Beyond that prefix it may have more, which has to come
/// before any later row of the overlay. Seqs are dense, so a row that continues the one before it proves that nothing is
/// between them; only at a gap the inner store must be asked. A row that has changed in the overlay may count other bytes
/// there, so that a page comes out a little shorter than it could be, never with a hole.
struct Cut<'a, S> {
    inner: &'a S,
    conversation: &'a ConversationId,
    range: HistoryRange,
    /// The last row of the inner answer, in the order of the range.
    inner_end: Option<Seq>,
}

impl<'a, S: Store> Cut<'a, S> {
    /// Passes rows on, in the order of the range, up to the first gap that the inner store fills.
    fn rows(
        self,
        rows: impl Iterator<Item = HistoryRow>,
    ) -> impl Iterator<Item = Result<HistoryRow, StoreError>> {
        let mut before: Option<Seq> = None;
        let mut past_inner = false;
        rows.map_while(move |row| {
            let filled = match before {
                Some(before) if past_inner => self.fills_gap(before, row.0.seq),
                Some(_) | None => Ok(false),
            };
            before = Some(row.0.seq);
            past_inner |= self.inner_end == before;
            match filled {
                Ok(false) => Some(Ok(row)),
                Ok(true) => None,
                Err(error) => Some(Err(error)),
            }
        })
    }

    fn fills_gap(&self, before: Seq, next: Seq) -> Result<bool, StoreError> {
        let (low, high) = (before.min(next), before.max(next));
        if low.next() == high {
            return Ok(false);
        }
        let Ok(last) = Seq::new(high.get() - 1) else {
            return Ok(false);
        };
        let gap = HistoryRange {
            first: low.next(),
            last: Some(last),
            limit: 1,
            ..self.range
        };
        Ok(!self.inner.history(self.conversation, gap)?.is_empty())
    }
}

#[cfg(test)]
mod tests;
