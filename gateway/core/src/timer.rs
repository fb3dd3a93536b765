//! Deadlines as values: a queue of (due, token) in which stale tokens are ignored, never cancelled.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Names one setting of a timer. Its owner keeps the latest; any other that comes due is stale and means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

/// The queue holds as many deadlines as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} deadlines wait already")]
pub struct TimersFull(pub usize);

/// Deadlines in the order in which they come due; equal ones in the order in which they were set.
#[derive(Debug, Clone)]
pub struct Timers {
    waiting: BinaryHeap<Reverse<(Instant, Token)>>,
    next: u64,
    capacity: usize,
}

impl Timers {
    /// A queue of at most `capacity` deadlines, stale ones included.
    pub fn new(capacity: usize) -> Self {
        Self {
            waiting: BinaryHeap::new(),
            next: 0,
            capacity,
        }
    }

    /// Adds a deadline and names it.
    pub fn set(&mut self, due: Instant) -> Result<Token, TimersFull> {
        if self.waiting.len() >= self.capacity {
            return Err(TimersFull(self.capacity));
        }
        let token = Token(self.next);
        self.next += 1;
        self.waiting.push(Reverse((due, token)));
        Ok(token)
    }

    /// When the first one is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse((due, _))| *due)
    }

    /// Takes out the first one that is due. The caller compares it with the token that it keeps.
    pub fn pop_due(&mut self, now: Instant) -> Option<Token> {
        if self.next_due()? > now {
            return None;
        }
        self.waiting.pop().map(|Reverse((_, token))| token)
    }
}
