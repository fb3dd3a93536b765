//! The bounded queue of appends between the callers of a log and its one writer thread.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use quipu_core::shard::ShardId;

use super::{AppendDone, LogError, QUEUE_APPENDS_MAX, QUEUE_BYTES_MAX};

/// One call of `Log::append`.
pub(super) struct Append {
    pub(super) batch: Vec<(ShardId, Bytes)>,
    pub(super) done: AppendDone,
}

/// First in, first out over all callers; bounded by count and by payload bytes.
#[derive(Default)]
pub(super) struct AppendQueue {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(Append, usize)>,
    bytes: usize,
    /// Set once; says why nothing more is taken.
    closed: Option<Arc<str>>,
    /// Work other than appends is due: the writer wakes for it.
    nudged: bool,
}

/// What the writer has to do next.
pub(super) enum Taken {
    /// Appends to write together, at least one unless the writer was nudged.
    Work(Vec<Append>),
    /// Closed and empty: the writer ends.
    End,
}

impl AppendQueue {
    /// Adds an append, or gives the reason why not.
    pub(super) fn push(&self, append: Append) -> Result<(), LogError> {
        let bytes = append.batch.iter().map(|(_, payload)| payload.len()).sum();
        let mut state = self.state.lock();
        if let Some(why) = &state.closed {
            return Err(LogError::Closed(Arc::clone(why)));
        }
        let full = state.waiting.len() >= QUEUE_APPENDS_MAX
            || state.bytes.saturating_add(bytes) > QUEUE_BYTES_MAX;
        if full && !state.waiting.is_empty() {
            return Err(LogError::Full);
        }
        state.bytes += bytes;
        state.waiting.push_back((append, bytes));
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits for work and takes what has gathered: at most `records_max` records with `bytes_max` payload bytes, but one
    /// append at least.
    pub(super) fn take(&self, records_max: usize, bytes_max: usize) -> Taken {
        let mut state = self.state.lock();
        while state.waiting.is_empty() && !state.nudged {
            if state.closed.is_some() {
                return Taken::End;
            }
            self.filled.wait(&mut state);
        }
        state.nudged = false;
        let mut taken = Vec::new();
        let (mut records, mut bytes) = (0, 0);
        while let Some((append, append_bytes)) = state.waiting.front() {
            records += append.batch.len();
            bytes += append_bytes;
            if !taken.is_empty() && (records > records_max || bytes > bytes_max) {
                break;
            }
            if let Some((append, append_bytes)) = state.waiting.pop_front() {
                state.bytes -= append_bytes;
                taken.push(append);
            }
        }
        Taken::Work(taken)
    }

    /// Wakes the writer for work that is not an append.
    pub(super) fn nudge(&self) {
        self.state.lock().nudged = true;
        self.filled.notify_one();
    }

    /// Takes no more appends; what waits is still written. The first reason stays.
    pub(super) fn close(&self, why: &str) {
        let mut state = self.state.lock();
        state.closed.get_or_insert_with(|| why.into());
        drop(state);
        self.filled.notify_one();
    }

    /// Takes no more appends and gives back those that wait, for the writer to fail them.
    pub(super) fn fail(&self, why: &str) -> (Vec<Append>, Arc<str>) {
        let mut state = self.state.lock();
        let why = Arc::clone(state.closed.get_or_insert_with(|| why.into()));
        state.bytes = 0;
        let waiting = state.waiting.drain(..).map(|(append, _)| append).collect();
        (waiting, why)
    }
}
