//! Decides whether a short read is made where it is asked for, or on a thread that may block.
//!
//! Nearly every read of one row finds it in memory, in some microseconds, and a change of thread costs several times that. But
//! a read that does wait for the disk, made by one of the threads that carry connections, stops all of its connections. So
//! the time that reads have waited in place is counted, and while it is above its share they go to the threads that may block.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A read that takes no longer has not waited for a disk.
const SHORT: Duration = Duration::from_micros(100);
/// Of the time that passes, at most one part in so many is spent waiting in place.
const SHARE: u32 = 20;
/// Waiting that may come at once. One read passes it by its own length at the most, and each thread may be making one.
const BURST: Duration = Duration::from_millis(5);

/// Counts the time that reads have waited in place.
#[derive(Debug)]
pub(crate) struct InPlace {
    started: Instant,
    /// When all waiting so far is paid for, in nanoseconds after the start.
    paid_at: AtomicU64,
}

impl InPlace {
    /// Nothing has waited yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            started: now,
            paid_at: AtomicU64::new(0),
        }
    }

    /// Whether a read may be made in place now.
    pub(crate) fn allows(&self, now: Instant) -> bool {
        let paid_at = self.paid_at.load(Ordering::Relaxed);
        paid_at <= self.since_start(now) + nanoseconds(BURST * SHARE)
    }

    /// A read was made in place and took so long.
    pub(crate) fn took(&self, now: Instant, time: Duration) {
        let waited = time.saturating_sub(SHORT);
        if waited.is_zero() {
            return;
        }
        let (now, owed) = (self.since_start(now), nanoseconds(waited * SHARE));
        let pay = |paid_at: u64| Some(paid_at.max(now).saturating_add(owed));
        // Never refused.
        let _ = self
            .paid_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
    }

    fn since_start(&self, now: Instant) -> u64 {
        nanoseconds(now.duration_since(self.started))
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn reads_from_memory_are_always_made_in_place() {
        let start = Instant::now();
        let in_place = InPlace::new(start);
        (0..10_000).for_each(|_| in_place.took(start, SHORT));
        assert!(in_place.allows(start));
    }

    #[test]
    fn reads_that_wait_go_elsewhere_until_the_time_they_took_is_small_again() {
        let start = Instant::now();
        let in_place = InPlace::new(start);
        in_place.took(start, SHORT + BURST);
        assert!(in_place.allows(start), "a burst is allowed");
        in_place.took(start, SHORT + 10 * MS);
        assert!(!in_place.allows(start));
        let paid = start + 10 * MS * SHARE;
        assert!(!in_place.allows(paid - MS));
        assert!(in_place.allows(paid));
    }

    #[test]
    fn what_is_paid_for_is_not_saved_up() {
        let start = Instant::now();
        let in_place = InPlace::new(start);
        let later = start + Duration::from_secs(3600);
        in_place.took(later, SHORT + BURST * 2);
        assert!(!in_place.allows(later));
    }
}
