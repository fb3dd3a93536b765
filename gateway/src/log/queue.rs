//! The bounded queue of appends between the callers of a log and whoever writes them.

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

impl State {
    fn take(&mut self, records_max: usize, bytes_max: usize) -> Vec<Append> {
        let mut taken = Vec::new();
        let (mut records, mut bytes) = (0, 0);
        while let Some((append, append_bytes)) = self.waiting.front() {
            records += append.batch.len();
            bytes += append_bytes;
            if !taken.is_empty() && (records > records_max || bytes > bytes_max) {
                break;
            }
            if let Some((append, append_bytes)) = self.waiting.pop_front() {
                self.bytes -= append_bytes;
                taken.push(append);
            }
        }
        taken
    }
}

impl AppendQueue {
    /// Adds an append and wakes the writer, or gives the reason why not.
    pub(super) fn push(&self, append: Append) -> Result<(), LogError> {
        self.push_quietly(append)?;
        self.filled.notify_one();
        Ok(())
    }

    /// Adds an append that its caller sees to itself.
    pub(super) fn push_quietly(&self, append: Append) -> Result<(), LogError> {
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
        Ok(())
    }

    /// Waits until there is something to do, and takes nothing but the nudge: says whether there was one. `None`: closed and
    /// empty, the writer ends.
    pub(super) fn wait(&self) -> Option<bool> {
        let mut state = self.state.lock();
        while state.waiting.is_empty() && !state.nudged {
            if state.closed.is_some() {
                return None;
            }
            self.filled.wait(&mut state);
        }
        Some(std::mem::take(&mut state.nudged))
    }

    /// Takes what has gathered: at most `records_max` records with `bytes_max` payload bytes, but one append at least if there
    /// is one.
    pub(super) fn take_waiting(&self, records_max: usize, bytes_max: usize) -> Vec<Append> {
        self.state.lock().take(records_max, bytes_max)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: usize) -> Append {
        Append {
            batch: vec![(ShardId(0), Bytes::from(vec![0; bytes]))],
            done: Box::new(|_| ()),
        }
    }

    fn taken(queue: &AppendQueue, records: usize, bytes: usize) -> usize {
        queue.take_waiting(records, bytes).len()
    }

    #[test]
    fn it_is_full_by_count_and_by_bytes() {
        let queue = AppendQueue::default();
        for _ in 0..QUEUE_APPENDS_MAX {
            queue.push(one(1)).unwrap();
        }
        assert_eq!(queue.push(one(1)), Err(LogError::Full));
        assert_eq!(taken(&queue, 10, usize::MAX), 10);
        queue.push(one(1)).unwrap();

        let queue = AppendQueue::default();
        queue.push(one(QUEUE_BYTES_MAX)).unwrap();
        assert_eq!(queue.push(one(1)), Err(LogError::Full));
        assert_eq!(taken(&queue, 1, 1), 1, "one append always goes");
        queue.push(one(1)).unwrap();
    }

    #[test]
    fn a_turn_is_bounded_by_records_and_by_bytes() {
        let queue = AppendQueue::default();
        (0..9).for_each(|_| queue.push(one(10)).unwrap());
        assert_eq!(taken(&queue, 3, usize::MAX), 3);
        assert_eq!(taken(&queue, usize::MAX, 25), 2);
        assert_eq!(taken(&queue, usize::MAX, usize::MAX), 4);
    }

    #[test]
    fn closed_it_ends_after_what_waits() {
        let queue = AppendQueue::default();
        queue.push(one(1)).unwrap();
        queue.close("first");
        queue.close("second");
        assert_eq!(queue.push(one(1)), Err(LogError::Closed("first".into())));
        assert_eq!(queue.wait(), Some(false));
        assert_eq!(taken(&queue, 9, 9), 1);
        assert_eq!(queue.wait(), None);
    }
}
