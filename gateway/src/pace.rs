//! Keeps the turns of a thread apart, so that under load many things share one.

use std::thread;
use std::time::{Duration, Instant};

/// The least time between the beginnings of two turns. A lone thing is done at once; many share a turn, its wait for the
/// disk, and all that follows from it.
#[derive(Debug)]
pub(crate) struct Pace {
    least: Duration,
    last: Option<Instant>,
}

impl Pace {
    /// No turn has begun yet.
    pub(crate) fn new(least: Duration) -> Self {
        Self { least, last: None }
    }

    /// Waits until the next turn may begin, which it then does.
    pub(crate) fn begin(&mut self) {
        if let Some(left) = self.left(Instant::now()) {
            thread::sleep(left);
        }
        self.last = Some(Instant::now());
    }

    fn left(&self, now: Instant) -> Option<Duration> {
        self.least.checked_sub(now.duration_since(self.last?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_turn_soon_after_another_one_waits() {
        let least = Duration::from_millis(5);
        let mut pace = Pace::new(least);
        let start = Instant::now();
        assert_eq!(pace.left(start), None);
        pace.last = Some(start);
        assert_eq!(pace.left(start + least / 5), Some(least - least / 5));
        assert_eq!(pace.left(start + 2 * least), None);
    }
}
