//! What an embedded log counts, for the metrics endpoint to read.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the log was opened; they only grow.
#[derive(Debug, Default)]
pub struct LogStats {
    /// Calls of `append` that were written.
    pub appends: AtomicU64,
    /// Records written.
    pub records: AtomicU64,
    /// Payload bytes written.
    pub payload_bytes: AtomicU64,
    /// Batches written, each with one fsync.
    pub syncs: AtomicU64,
    /// Microseconds spent in writing and fsync.
    pub sync_us: AtomicU64,
    /// Calls of `append` refused because the queue was full.
    pub refused_full: AtomicU64,
    /// Reads that the tail in memory answered.
    pub tail_reads: AtomicU64,
    /// Reads that went to the disk.
    pub disk_reads: AtomicU64,
    /// Times that the engine looked for files to delete.
    pub purges: AtomicU64,
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
