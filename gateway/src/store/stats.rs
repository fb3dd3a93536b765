//! What a write-behind store counts, for the metrics endpoint to read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters since the store was opened; all but `overlay_bytes` only grow.
#[derive(Debug, Default)]
pub struct StoreStats {
    /// Calls of `commit`.
    pub commits: AtomicU64,
    /// Rows committed.
    pub rows: AtomicU64,
    /// Batches written to the store below.
    pub flushes: AtomicU64,
    /// Rows written to the store below; fewer than `rows` where rows replaced each other in memory.
    pub flushed_rows: AtomicU64,
    /// Estimated bytes of these rows.
    pub flushed_bytes: AtomicU64,
    /// Microseconds spent in writing them.
    pub flush_us: AtomicU64,
    /// Commits that had to wait because the overlay was full.
    pub stalls: AtomicU64,
    /// Microseconds that they waited.
    pub stall_us: AtomicU64,
    /// Calls of `sync` that ended well.
    pub syncs: AtomicU64,
    /// Estimated bytes of rows in memory that are not handed to the store below.
    pub overlay_bytes: AtomicU64,
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// Adds a time to a counter of microseconds.
pub(super) fn count_us(counter: &AtomicU64, time: Duration) {
    count(counter, u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}
