//! Puts what router, processors, registry, log and store count on the metrics page.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::ephemeral::Hub;
use crate::expiry::ExpiryStats;
use crate::log::stats::LogStats;
use crate::processor::ProcessorStats;
use crate::registry::Registry;
use crate::router::RouterStats;
use crate::store::stats::StoreStats;
use crate::telemetry::{Kind, Metrics};

/// Shows fields of `$stats`, each read when the page is asked for.
macro_rules! show {
    ($metrics:expr, $stats:expr, $( $kind:ident $name:literal: $($field:ident).+, $help:literal; )*) => {
        $( {
            let stats = Arc::clone($stats);
            $metrics.show(Kind::$kind, $name, $help, move || stats.$($field).+.load(Ordering::Relaxed));
        } )*
    };
}

/// What the log counts.
pub(crate) fn log(metrics: &Metrics, stats: &Arc<LogStats>) {
    show!(metrics, stats,
        Counter "log_appends": appends, "Appends written to the log";
        Counter "log_records": records, "Records written to the log";
        Counter "log_payload_bytes": payload_bytes, "Payload bytes written to the log";
        Counter "log_syncs": syncs, "Batches written to the log, each with one fsync";
        Counter "log_sync_microseconds": sync_us, "Time spent in writing the log and fsync";
        Counter "log_refused_full": refused_full, "Appends refused because the log's queue was full";
        Counter "log_tail_reads": tail_reads, "Reads of the log that its tail in memory answered";
        Counter "log_disk_reads": disk_reads, "Reads of the log that went to the disk";
    );
}

/// What the write-behind store counts.
pub(crate) fn store(metrics: &Metrics, stats: &Arc<StoreStats>) {
    show!(metrics, stats,
        Counter "store_commits": commits, "Batches committed to the store";
        Counter "store_rows": rows, "Rows committed to the store";
        Counter "store_flushes": flushes, "Times that rows were moved from memory to the disk";
        Counter "store_flushed_rows": flushed_rows, "Rows moved from memory to the disk";
        Counter "store_flushed_bytes": flushed_bytes, "Estimated bytes of these rows";
        Counter "store_flush_microseconds": flush_us, "Time spent in moving rows to the disk";
        Counter "store_stalls": stalls, "Commits that waited because too many rows were in memory";
        Counter "store_stall_microseconds": stall_us, "Time that these commits waited";
        Counter "store_syncs": syncs, "Times that the store was made durable";
        Gauge "store_overlay_bytes": overlay_bytes, "Estimated bytes of rows in memory and not handed to the disk";
    );
}

/// What the sweeper of expired messages counts.
pub(crate) fn expiry(metrics: &Metrics, stats: &Arc<ExpiryStats>) {
    show!(metrics, stats,
        Counter "expiry_sweeps": sweeps, "Sweeps that found messages whose time was over";
        Counter "expiry_messages": messages, "Messages whose end was put into the log";
        Counter "expiry_full": full, "Sweeps that took as much as they may, so that messages may be waiting";
        Counter "expiry_refused": refused, "Sweeps put off because the log's queue was full";
    );
}

/// What the router counts.
pub(crate) fn router(metrics: &Metrics, stats: &Arc<RouterStats>) {
    show!(metrics, stats,
        Counter "router_commands": commands, "Commands appended to the log";
        Counter "router_appends": appends, "Appends that carried them";
        Counter "router_waits": waits, "Times that a session waited because the router's queue was full";
    );
}

/// What the processors count.
pub(crate) fn processors(metrics: &Metrics, stats: &Arc<ProcessorStats>) {
    show!(metrics, stats,
        Counter "processor_turns": turns, "Turns of processors that had something to do";
        Counter "processor_records": records, "Records applied";
        Counter "processor_outgoing": outgoing, "Entries sent to other shards";
        Counter "processor_actions": actions, "Pushes and answers performed";
        Counter "processor_repeats": repeats, "Entries dropped because they came before; normal after a crash";
        Counter "processor_misrouted": misrouted, "Entries dropped because they belong to another shard; a fault";
        Counter "processor_without_inbox": without_inbox, "Events dropped because their user has no account; a fault";
        Counter "inbox_rows_trimmed": trimmed, "Inbox rows removed because inbox.keep_events or inbox.keep_for was passed";
    );
}

/// What the registry counts.
pub(crate) fn registry(metrics: &Metrics, registry: &Arc<Registry>) {
    let read = |metric: fn(&Registry) -> u64| {
        let registry = Arc::clone(registry);
        move || metric(&registry)
    };
    metrics.show(
        Kind::Counter,
        "mailbox_events",
        "Events offered to sessions",
        read(|registry| registry.stats().pushed.load(Ordering::Relaxed)),
    );
    metrics.show(
        Kind::Counter,
        "mailbox_events_dropped",
        "Events that a full mailbox dropped; their sessions catch up from the store",
        read(|registry| registry.stats().dropped.load(Ordering::Relaxed)),
    );
    hub(metrics, registry);
    metrics.show(
        Kind::Counter,
        "answers_unclaimed",
        "Answers whose session was gone; the device asks again",
        read(|registry| registry.stats().answers_unclaimed.load(Ordering::Relaxed)),
    );
}

/// What the hub of typing and presence counts.
fn hub(metrics: &Metrics, registry: &Arc<Registry>) {
    let show = |kind, name, help, metric: fn(&Hub) -> u64| {
        let registry = Arc::clone(registry);
        metrics.show(kind, name, help, move || metric(registry.hub()));
    };
    show(
        Kind::Counter,
        "typing_told",
        "News of typing offered to sessions",
        |hub| hub.stats().typing.load(Ordering::Relaxed),
    );
    show(
        Kind::Counter,
        "typing_dropped",
        "News of typing that a filling mailbox dropped",
        |hub| hub.stats().typing_dropped.load(Ordering::Relaxed),
    );
    show(
        Kind::Counter,
        "presence_told",
        "Changes of presence offered to sessions",
        |hub| hub.stats().presence.load(Ordering::Relaxed),
    );
    show(
        Kind::Counter,
        "presence_watches_refused",
        "Users that a session is not told of because too many are watched; it asks again now and then",
        |hub| hub.stats().watches_refused.load(Ordering::Relaxed),
    );
    show(
        Kind::Gauge,
        "presence_watches",
        "Users watched, once for each session that does",
        |hub| hub.watches() as u64,
    );
}
