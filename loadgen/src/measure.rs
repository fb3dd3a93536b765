//! What a run measured, as plain data: everything that reports, comparisons, gates and the live screen are made of.
//!
//! The engine fills it and decides nothing about how it is shown. All of it serialises; several generator processes send it to
//! their coordinator, which merges histograms and verdicts, so that no percentile is ever an average of percentiles.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram as Hdr;
use serde::{Deserialize, Serialize};

use crate::second::Standing;

/// Longest latency told apart from a longer one, in microseconds: a minute.
pub(crate) const LATENCY_US_MAX: u64 = 60_000_000;
/// Decimal digits to which a latency is kept.
pub(crate) const SIGNIFICANT_DIGITS: u8 = 3;
/// Kinds of failure that a run tells apart; further ones are counted under the last.
const FAILURE_KINDS_MAX: usize = 64;

/// A whole run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// What was to happen.
    pub(crate) scenario: ScenarioInfo,
    /// Where it happened.
    pub(crate) environment: Environment,
    /// When the run began, in milliseconds since 1970.
    pub(crate) started_at_ms: u64,
    /// Length of the run from the first connection to the verdict, in seconds.
    pub(crate) seconds: f64,
    /// One for each second, oldest first.
    pub(crate) samples: Vec<Sample>,
    /// One for each phase that was begun, in their order.
    pub(crate) phases: Vec<PhaseResult>,
    /// Faults by kind; all zero in a correct run.
    pub(crate) verdicts: Verdicts,
    /// What the verdicts are about.
    pub(crate) totals: Totals,
    /// What broke on the way and was survived or not: connections lost, log-ins that failed. Text to count and first example.
    pub(crate) failures: BTreeMap<String, Failure>,
    /// Memory of one more connection.
    pub(crate) memory: MemorySlope,
    /// Why the figures are worth nothing, one sentence each; empty: they are valid.
    pub(crate) invalid: Vec<String>,
    /// Devices that were not connected at the end.
    pub(crate) missing: u64,
    /// Somebody ended the run before its time; it says what was measured until then.
    pub(crate) interrupted: bool,
    /// How the wait for what was under way ended.
    pub(crate) drain_end: DrainEnd,
    /// How long that wait took after the end of the last phase, in seconds.
    pub(crate) overtime_seconds: f64,
}

/// How the wait for what was under way at the end of a run ended. Ascending: of several processes the last one counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DrainEnd {
    /// Everything had come.
    #[default]
    Settled,
    /// Everybody was connected, and nothing came for a while.
    Still,
    /// Its time was over, and something still came, or somebody was not connected.
    Limit,
    /// Somebody ended the run.
    Interrupted,
}

impl DrainEnd {
    /// For a reader.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Still => "still: nothing came any more",
            Self::Limit => "limit: the wait was over",
            Self::Interrupted => "interrupted",
        }
    }
}

impl Measurement {
    /// Whether every message arrived once, in order and unchanged, and the figures are the gateway's and not the generator's.
    pub(crate) fn clean(&self) -> bool {
        self.verdicts.clean() && self.invalid.is_empty()
    }
}

/// The scenario as it was run, overrides applied.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ScenarioInfo {
    /// Its name.
    pub(crate) name: String,
    /// One sentence.
    pub(crate) about: String,
    /// From which every choice of the run follows.
    pub(crate) seed: u64,
    /// Devices.
    pub(crate) connections: u64,
    /// Pairs of users that talk.
    pub(crate) pairs: u64,
    /// Groups.
    #[serde(default)]
    pub(crate) groups: u64,
    /// Generator processes.
    pub(crate) processes: u64,
    /// The whole scenario as TOML; with the seed it repeats the run.
    pub(crate) toml: String,
}

/// The machine and the programs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Environment {
    /// Version of this program.
    pub(crate) generator: String,
    /// What the gateway calls itself.
    pub(crate) gateway: String,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Processor model.
    pub(crate) processor: String,
    /// Processors that this process may use.
    pub(crate) processors: u64,
    /// Memory of the machine, in bytes.
    pub(crate) memory_bytes: u64,
    /// Whether the gateway is on this machine, so that both share its processors.
    pub(crate) gateway_is_local: bool,
    /// Whether this is an optimised build; a debug build's figures mean little.
    pub(crate) optimised: bool,
    /// Kernel settings that matter (`net.core.rmem_max` and the like) and limits (`open files`).
    pub(crate) limits: BTreeMap<String, String>,
}

/// One second of a run. Rates are counts of this second.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// End of the second, in seconds since the run began.
    pub(crate) at_seconds: f64,
    /// Number of the phase that it ended in.
    pub(crate) phase: usize,
    /// Sends that were due.
    pub(crate) target: u64,
    /// Messages that were written to a connection.
    pub(crate) sent: u64,
    /// Messages that their senders saw acked.
    pub(crate) acked: u64,
    /// Messages that their receivers saw and found right.
    pub(crate) delivered: u64,
    /// Sends left out, because too many of their pair were under way.
    pub(crate) shed: u64,
    /// Devices logged in at the end of the second.
    pub(crate) connections: u64,
    /// Devices that logged in.
    pub(crate) logins: u64,
    /// Connections that ended without being asked to.
    pub(crate) connections_lost: u64,
    /// From due to delivery, of the messages delivered in this second, in milliseconds; `None`: there were none.
    pub(crate) deliver_p50_ms: Option<f64>,
    /// The same.
    pub(crate) deliver_p99_ms: Option<f64>,
    /// The same. Absent in reports of older versions.
    #[serde(default)]
    pub(crate) deliver_p999_ms: Option<f64>,
    /// From due to ack, in milliseconds.
    pub(crate) ack_p50_ms: Option<f64>,
    /// The same.
    pub(crate) ack_p99_ms: Option<f64>,
    /// From due to the generator's getting to it, in milliseconds.
    pub(crate) lag_p99_ms: Option<f64>,
    /// Processors that the gateway kept busy; `None` where it is not ours to look at, as all that follow.
    pub(crate) gateway_cores: Option<f64>,
    /// Its resident memory.
    pub(crate) gateway_rss_bytes: Option<u64>,
    /// Processors that the generator kept busy, all of its processes together.
    pub(crate) generator_cores: f64,
    /// Its resident memory.
    pub(crate) generator_rss_bytes: u64,
    /// Datagrams that the kernel dropped because a socket's buffer was full: those of every process on this machine.
    pub(crate) udp_drops: u64,
    /// Of them, at the generator's own sockets, all of its processes together. Absent in reports of older versions.
    #[serde(default)]
    pub(crate) generator_drops: u64,
    /// Of them, at the gateway's sockets; `None` where it is not ours to look at. Absent in reports of older versions.
    #[serde(default)]
    pub(crate) gateway_drops: Option<u64>,
    /// Datagrams that the scenario's lossy network dropped.
    pub(crate) network_drops: u64,
}

/// What one phase gave.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct PhaseResult {
    /// Which phase of the scenario it is, from 0.
    pub(crate) number: usize,
    /// As the scenario calls it, or its kind.
    pub(crate) name: String,
    /// `ramp`, `open`, `hold`, `rate`, `storm`, `migrate`, `slow_reader`, `drain`.
    pub(crate) kind: String,
    /// When it began, in seconds since the run began.
    pub(crate) began_seconds: f64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Mean rate that the scenario asked for; `None`: no sends, or a closed loop.
    pub(crate) offered_per_second: Option<f64>,
    /// A finished message starts the next one. Latencies of a closed loop are not those of users.
    pub(crate) closed_loop: bool,
    /// Sends that were due.
    pub(crate) due: u64,
    /// Messages written to a connection.
    pub(crate) sent: u64,
    /// Messages acked.
    pub(crate) acked: u64,
    /// Messages delivered.
    pub(crate) delivered: u64,
    /// Sends left out.
    pub(crate) shed: u64,
    /// Log-ins.
    pub(crate) logins: u64,
    /// Connections that ended without being asked to.
    pub(crate) connections_lost: u64,
    /// Latencies of the messages due in this phase, whenever they finished, by what was timed.
    pub(crate) latency: Latencies,
    /// Processor time of the gateway.
    pub(crate) gateway_cpu_seconds: Option<f64>,
    /// Its memory at the end.
    pub(crate) gateway_rss_bytes: Option<u64>,
    /// Processor time of the generator.
    pub(crate) generator_cpu_seconds: f64,
    /// Datagrams that the kernel dropped: those of every process on this machine.
    pub(crate) udp_drops: u64,
    /// What came to the generator and what did not, and to the gateway.
    pub(crate) datagrams: Datagrams,
    /// Of a storm.
    pub(crate) storm: Option<StormResult>,
    /// Of a migration.
    pub(crate) migration: Option<MigrationResult>,
    /// It reached its time limit before its end (connections missing after a ramp or a storm, messages after a drain).
    pub(crate) timed_out: bool,
}

impl PhaseResult {
    /// Messages delivered in each second of the phase.
    pub(crate) fn delivered_per_second(&self) -> f64 {
        self.delivered as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Gateway processor time of one delivered message, in microseconds; `None` without a delivery.
    pub(crate) fn gateway_us_per_delivery(&self) -> Option<f64> {
        (self.delivered > 0).then_some(self.gateway_cpu_seconds? * 1e6 / self.delivered as f64)
    }

    /// Adds what another generator process saw of the same phase. The gateway's own figures stay as they are.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.seconds = self.seconds.max(other.seconds);
        self.offered_per_second = match (self.offered_per_second, other.offered_per_second) {
            (Some(ours), Some(theirs)) => Some(ours + theirs),
            (one, other) => one.or(other),
        };
        self.due += other.due;
        self.sent += other.sent;
        self.acked += other.acked;
        self.delivered += other.delivered;
        self.shed += other.shed;
        self.logins += other.logins;
        self.connections_lost += other.connections_lost;
        self.latency.merge(&other.latency);
        self.generator_cpu_seconds += other.generator_cpu_seconds;
        self.datagrams.received += other.datagrams.received;
        self.datagrams.dropped += other.datagrams.dropped;
        self.timed_out |= other.timed_out;
        match (&mut self.storm, &other.storm) {
            (Some(ours), Some(theirs)) => ours.merge(theirs),
            (ours @ None, theirs) => ours.clone_from(theirs),
            (Some(_), None) => {}
        }
        match (&mut self.migration, &other.migration) {
            (Some(ours), Some(theirs)) => ours.merge(theirs),
            (ours @ None, theirs) => ours.clone_from(theirs),
            (Some(_), None) => {}
        }
    }
}

/// Whose sockets were full when datagrams came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Datagrams {
    /// Taken out of the generator's sockets.
    pub(crate) received: u64,
    /// Dropped by the kernel at the generator's sockets.
    pub(crate) dropped: u64,
    /// Dropped by the kernel at the gateway's sockets; `None` where it is not ours to look at.
    pub(crate) gateway_dropped: Option<u64>,
}

impl Datagrams {
    /// Share (0 to 1) of what came to the generator that it lost by itself.
    pub(crate) fn dropped_share(&self) -> f64 {
        let came = self.received + self.dropped;
        self.dropped as f64 / came.max(1) as f64
    }
}

/// Full distributions, all in microseconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Latencies {
    /// From when a send was due to its delivery: what a user waits, and what `p99_deliver` means.
    pub(crate) deliver: Histogram,
    /// From when a send was due to its ack (`p99_ack`).
    pub(crate) ack: Histogram,
    /// From when a message was really written to its delivery: what a tool without a schedule would print (`service`).
    pub(crate) deliver_service: Histogram,
    /// From when a message was really written to its ack.
    pub(crate) ack_service: Histogram,
    /// From when a send was due to when the generator got to it (`lag`): the generator's own lateness.
    pub(crate) lag: Histogram,
    /// From the start of a handshake to WELCOME, of the log-ins that succeeded (`login`).
    pub(crate) login: Histogram,
    /// From the loss of a connection to WELCOME on the next one (`reconnect`).
    pub(crate) reconnect: Histogram,
    /// Of messages that were due before a device came in by plan: from its WELCOME to when it had read them (`catch_up`).
    #[serde(default)]
    pub(crate) catch_up: Histogram,
}

impl Latencies {
    /// Adds another process's.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.deliver.merge(&other.deliver);
        self.ack.merge(&other.ack);
        self.deliver_service.merge(&other.deliver_service);
        self.ack_service.merge(&other.ack_service);
        self.lag.merge(&other.lag);
        self.login.merge(&other.login);
        self.reconnect.merge(&other.reconnect);
        self.catch_up.merge(&other.catch_up);
    }

    /// Name and distribution of each, in the order in which a report shows them.
    pub(crate) fn each(&self) -> [(&'static str, &Histogram); 8] {
        [
            ("deliver", &self.deliver),
            ("ack", &self.ack),
            ("deliver_service", &self.deliver_service),
            ("ack_service", &self.ack_service),
            ("lag", &self.lag),
            ("login", &self.login),
            ("reconnect", &self.reconnect),
            ("catch_up", &self.catch_up),
        ]
    }
}

/// How a crowd came back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct StormResult {
    /// `silent`, `close` or `kill`.
    pub(crate) how: String,
    /// Connections thrown off.
    pub(crate) dropped: u64,
    /// Of them, back when the phase ended.
    pub(crate) back: u64,
    /// Attempts it took.
    pub(crate) attempts: u64,
    /// Milliseconds from the start of the storm to each return, ascending; what percentiles are taken from.
    pub(crate) returns_ms: Vec<u32>,
}

impl StormResult {
    /// Seconds until `share` (0 to 1) of those dropped were back; `None`: they were not.
    pub(crate) fn seconds_to(&self, share: f64) -> Option<f64> {
        let wanted = (self.dropped as f64 * share).ceil() as usize;
        let at = self.returns_ms.get(wanted.checked_sub(1)?)?;
        Some(f64::from(*at) / 1_000.0)
    }

    fn merge(&mut self, other: &Self) {
        self.dropped += other.dropped;
        self.back += other.back;
        self.attempts += other.attempts;
        self.returns_ms.extend(&other.returns_ms);
        self.returns_ms.sort_unstable();
    }
}

/// What a change of address did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct MigrationResult {
    /// Sockets that got a new port.
    pub(crate) sockets: u64,
    /// Connections on them.
    pub(crate) connections: u64,
    /// Of those, lost during the phase.
    pub(crate) lost: u64,
}

impl MigrationResult {
    fn merge(&mut self, other: &Self) {
        self.sockets += other.sockets;
        self.connections += other.connections;
        self.lost += other.lost;
    }
}

/// Faults by kind. A run in which any is not zero has failed, however fast it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdicts {
    /// Sent, never acked and never seen by the receiver.
    pub(crate) lost: u64,
    /// Acked and not seen by every member, the sender's own inbox included: the worst of all. So are edits that were done, notes
    /// of who joined, and files that were confirmed and cannot be fetched.
    pub(crate) acked_but_lost: u64,
    /// Seen by the receiver and never acked.
    pub(crate) unacked: u64,
    /// Shown twice to one member, repeats on the wire that the inbox number gives away left out.
    pub(crate) duplicated: u64,
    /// Seen after a later one; or a receipt went back.
    pub(crate) reordered: u64,
    /// Two members saw different messages at one place, or an ack named another place.
    pub(crate) disagreed: u64,
    /// Seen by somebody whom it was not for.
    pub(crate) misdelivered: u64,
    /// Text, id or sender are not those that were sent; or bytes of a file.
    pub(crate) corrupted: u64,
    /// Nobody sent it, or it had been refused; or a receipt of what nobody has said.
    pub(crate) ghosts: u64,
    /// Refused by the gateway for good.
    pub(crate) rejected: u64,
    /// Acked while its receiver was away, and shown later than the scenario allows after the return.
    pub(crate) late: u64,
}

impl Verdicts {
    /// Whether nothing went wrong.
    pub(crate) fn clean(&self) -> bool {
        *self == Self::default()
    }

    /// Name and count of each, in the order in which a report shows them.
    pub(crate) fn each(&self) -> [(&'static str, u64); 11] {
        [
            ("lost", self.lost),
            ("acked_but_lost", self.acked_but_lost),
            ("unacked", self.unacked),
            ("duplicated", self.duplicated),
            ("reordered", self.reordered),
            ("disagreed", self.disagreed),
            ("misdelivered", self.misdelivered),
            ("corrupted", self.corrupted),
            ("ghosts", self.ghosts),
            ("rejected", self.rejected),
            ("late", self.late),
        ]
    }

    /// Adds another process's.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.lost += other.lost;
        self.acked_but_lost += other.acked_but_lost;
        self.unacked += other.unacked;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.disagreed += other.disagreed;
        self.misdelivered += other.misdelivered;
        self.corrupted += other.corrupted;
        self.ghosts += other.ghosts;
        self.rejected += other.rejected;
        self.late += other.late;
    }
}

/// Counts over the whole run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Messages that the ledger judged: all that were due and not shed.
    pub(crate) messages: u64,
    /// Acked.
    pub(crate) acked: u64,
    /// Delivered.
    pub(crate) delivered: u64,
    /// Sends left out.
    pub(crate) shed: u64,
    /// Log-ins, repeated ones included.
    pub(crate) logins: u64,
    /// Of them, resumed where the device had stopped.
    pub(crate) resumed: u64,
    /// Of them, told to start over although the device had been there before (RESYNC).
    pub(crate) resynced: u64,
    /// SENDs written again on a later connection, because their answer had not come.
    pub(crate) resent: u64,
    /// Commands that the gateway put off (BUSY, RATE_LIMITED) and that were given again after their time: no fault.
    #[serde(default)]
    pub(crate) throttled: u64,
    /// Events that came again on a later connection and were known by their inbox number: duplicates on the wire, no fault.
    pub(crate) wire_duplicates: u64,
    /// Messages of earlier runs that were still in the inboxes; they are not judged.
    pub(crate) earlier: u64,
    /// QUIC packets that the devices sent.
    #[serde(default)]
    pub(crate) packets_sent: u64,
    /// Of them, those that were taken for lost, and whose frames were sent again.
    #[serde(default)]
    pub(crate) packets_lost: u64,
    /// Messages, notes, edits and files that were still under way when the run stopped waiting, proven: the generator had not sent them
    /// yet, or the history has them and whoever lacks them was still being sent events or was away. Not lost; the run is invalid.
    #[serde(default)]
    pub(crate) under_way_at_stop: u64,
    /// Groups that were made.
    #[serde(default)]
    pub(crate) groups: u64,
    /// Members who joined them.
    #[serde(default)]
    pub(crate) joined: u64,
    /// Notes of groups that members were shown: who made it, who joined.
    #[serde(default)]
    pub(crate) notes: u64,
    /// Notices of pulled groups.
    #[serde(default)]
    pub(crate) notices: u64,
    /// Of them, those that only said that others were dropped.
    #[serde(default)]
    pub(crate) checks: u64,
    /// Times a device went to read the history of its pulled group.
    #[serde(default)]
    pub(crate) pulls: u64,
    /// Pages of history that they read.
    #[serde(default)]
    pub(crate) pages: u64,
    /// Receipts that devices sent, each with the latest positions.
    #[serde(default)]
    pub(crate) receipts_sent: u64,
    /// Receipts that devices were told of, their own included.
    #[serde(default)]
    pub(crate) receipts_seen: u64,
    /// Edits that authors made.
    #[serde(default)]
    pub(crate) edits: u64,
    /// Edits that members were told of and found right, authors included.
    #[serde(default)]
    pub(crate) edits_seen: u64,
    /// Files brought.
    #[serde(default)]
    pub(crate) uploads: u64,
    /// Bytes of them.
    #[serde(default)]
    pub(crate) uploaded_bytes: u64,
    /// Files fetched and found right.
    #[serde(default)]
    pub(crate) downloads: u64,
    /// Bytes of them.
    #[serde(default)]
    pub(crate) downloaded_bytes: u64,
}

impl Totals {
    /// Adds another process's.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.messages += other.messages;
        self.acked += other.acked;
        self.delivered += other.delivered;
        self.shed += other.shed;
        self.logins += other.logins;
        self.resumed += other.resumed;
        self.resynced += other.resynced;
        self.resent += other.resent;
        self.throttled += other.throttled;
        self.wire_duplicates += other.wire_duplicates;
        self.earlier += other.earlier;
        self.packets_sent += other.packets_sent;
        self.packets_lost += other.packets_lost;
        self.under_way_at_stop += other.under_way_at_stop;
        self.groups += other.groups;
        self.joined += other.joined;
        self.notes += other.notes;
        self.notices += other.notices;
        self.checks += other.checks;
        self.pulls += other.pulls;
        self.pages += other.pages;
        self.receipts_sent += other.receipts_sent;
        self.receipts_seen += other.receipts_seen;
        self.edits += other.edits;
        self.edits_seen += other.edits_seen;
        self.uploads += other.uploads;
        self.uploaded_bytes += other.uploaded_bytes;
        self.downloads += other.downloads;
        self.downloaded_bytes += other.downloaded_bytes;
    }
}

/// One kind of failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// How often.
    pub(crate) count: u64,
    /// To whom it happened first, and the whole text.
    pub(crate) example: String,
}

/// Counts a failure under `kind`, with a bound on the kinds.
pub(crate) fn count_failure(
    failures: &mut BTreeMap<String, Failure>,
    kind: &str,
    count: u64,
    example: &str,
) {
    let full = failures.len() >= FAILURE_KINDS_MAX && !failures.contains_key(kind);
    let kind = if full { "other" } else { kind };
    let failure = failures.entry(kind.to_owned()).or_insert_with(|| Failure {
        count: 0,
        example: example.to_owned(),
    });
    failure.count += count;
}

/// Adds failures to others.
pub(crate) fn merge_failures(
    into: &mut BTreeMap<String, Failure>,
    others: &BTreeMap<String, Failure>,
) {
    for (kind, failure) in others {
        count_failure(into, kind, failure.count, &failure.example);
    }
}

/// What one more connection costs, as the slope between two points of the ramp: above what a process needs at all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct MemorySlope {
    /// The gateway, in KiB; `None` where it is not ours to look at or the ramp was too short.
    pub(crate) gateway_kib: Option<f64>,
    /// The generator, in KiB.
    pub(crate) generator_kib: Option<f64>,
}

/// A distribution of latencies from 1 microsecond to a minute to three digits, in constant memory.
///
/// Serialised as the pairs `[microseconds, count]` of its buckets, from which every percentile can be computed again.
#[derive(Debug, Clone)]
pub(crate) struct Histogram(Hdr<u32>);

impl Default for Histogram {
    fn default() -> Self {
        // The bounds are constants that the library accepts.
        Self(Hdr::new_with_bounds(1, LATENCY_US_MAX, SIGNIFICANT_DIGITS).expect("constant bounds"))
    }
}

impl Histogram {
    /// Counts one; what is longer than a minute counts as a minute.
    pub(crate) fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.record_us(us, 1);
    }

    /// Counts `count` of the same.
    pub(crate) fn record_us(&mut self, us: u64, count: u32) {
        // In bounds after the clamp.
        let _ = self.0.record_n(us.clamp(1, LATENCY_US_MAX), count);
    }

    /// Adds another one.
    pub(crate) fn merge(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.0.add(&other.0);
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.0.reset();
    }

    /// How many were counted.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that a share of `quantile` (0 to 1) does not exceed, in milliseconds; `None`: nothing was counted.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(quantile) as f64 / 1_000.0)
    }

    /// The longest, in milliseconds.
    pub(crate) fn max_ms(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.max() as f64 / 1_000.0)
    }

    /// The mean, in milliseconds.
    pub(crate) fn mean_ms(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.mean() / 1_000.0)
    }

    /// Buckets that hold something: highest value in microseconds, and count.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.0
            .iter_recorded()
            .map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value()))
    }
}

impl Serialize for Histogram {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.buckets())
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let buckets = Vec::<(u64, u32)>::deserialize(deserializer)?;
        let mut histogram = Self::default();
        for (us, count) in buckets {
            histogram.record_us(us, count);
        }
        Ok(histogram)
    }
}

/// How a run stands at this moment, for whoever watches it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// What is being run.
    pub(crate) scenario: ScenarioInfo,
    /// Names of all phases.
    pub(crate) phase_names: Vec<String>,
    /// Which of them runs.
    pub(crate) phase: usize,
    /// Seconds since it began.
    pub(crate) phase_seconds: f64,
    /// How long it may take at the most, in seconds.
    pub(crate) phase_seconds_max: f64,
    /// Seconds since the run began.
    pub(crate) seconds: f64,
    /// How long the run may take at the most, in seconds.
    pub(crate) seconds_max: f64,
    /// Every second so far.
    pub(crate) samples: Vec<Sample>,
    /// Messages under way.
    pub(crate) under_way: u64,
    /// Devices logged in.
    pub(crate) connections: u64,
    /// Verdicts so far; losses are known at the end only.
    pub(crate) verdicts: Verdicts,
    /// Counts so far.
    pub(crate) totals: Totals,
    /// Failures so far.
    pub(crate) failures: BTreeMap<String, Failure>,
    /// What other processes printed on their standard error; a part of the failures.
    pub(crate) complaints: BTreeMap<String, Failure>,
    /// The run is over.
    pub(crate) done: bool,
}

/// Where the engine writes its [`Progress`] a few times a second, and others read it. It never waits for them for longer than
/// a copy takes, so that a run with a screen gives the same figures as one without.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board(Arc<Mutex<Progress>>);

impl Board {
    /// A copy of the present state.
    pub(crate) fn read(&self) -> Progress {
        self.lock().clone()
    }

    /// Changes it.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.lock());
    }

    /// Shows how the run stands.
    pub(crate) fn show(&self, standing: &Standing) {
        self.update(|progress| {
            progress.under_way = standing.under_way;
            progress.connections = standing.connections;
            progress.verdicts = standing.verdicts.clone();
            progress.totals = standing.totals.clone();
            progress.failures = standing.failures.clone();
            merge_failures(&mut progress.failures, &progress.complaints);
        });
    }

    /// Another process printed a line on its standard error. Lines that differ in numbers only are one kind of failure.
    pub(crate) fn complain(&self, who: &str, line: &str) {
        let kind = format!("{who} said: {}", without_numbers(line));
        self.update(|progress| {
            count_failure(&mut progress.complaints, &kind, 1, line.trim());
            count_failure(&mut progress.failures, &kind, 1, line.trim());
        });
    }

    /// What other processes printed so far.
    pub(crate) fn complaints(&self) -> BTreeMap<String, Failure> {
        self.lock().complaints.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        // Plain data is whole after every single assignment, so a reader's panic does not matter.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The head of a line with `#` for every number, and without the time and date in front.
fn without_numbers(line: &str) -> String {
    const CHARS_MAX: usize = 100;
    let mut out = String::new();
    let words = line.split_whitespace();
    let said = words.skip_while(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    for word in said {
        if !out.is_empty() {
            out.push(' ');
        }
        for char in word.chars() {
            match char.is_ascii_digit() {
                true if out.ends_with('#') => {}
                true => out.push('#'),
                false => out.push(char),
            }
        }
    }
    out.chars().take(CHARS_MAX).collect()
}

/// A measurement of nothing.
#[cfg(test)]
pub(crate) fn empty() -> Measurement {
    Measurement {
        scenario: ScenarioInfo::default(),
        environment: Environment::default(),
        started_at_ms: 0,
        seconds: 0.0,
        samples: Vec::new(),
        phases: Vec::new(),
        verdicts: Verdicts::default(),
        totals: Totals::default(),
        failures: BTreeMap::new(),
        memory: MemorySlope::default(),
        invalid: Vec::new(),
        missing: 0,
        interrupted: false,
        drain_end: DrainEnd::Settled,
        overtime_seconds: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_keeps_every_percentile_through_json() {
        let mut histogram = Histogram::default();
        for us in [1, 10, 999, 12_345, 5_000_000, 90_000_000] {
            histogram.record_us(us, 7);
        }
        let text = serde_json::to_string(&histogram).unwrap();
        let back: Histogram = serde_json::from_str(&text).unwrap();
        assert_eq!(back.count(), 42);
        for quantile in [0.0, 0.2, 0.5, 0.9, 0.99, 1.0] {
            assert_eq!(back.quantile_ms(quantile), histogram.quantile_ms(quantile));
        }
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
        assert_eq!(Histogram::default().quantile_ms(0.5), None);
    }

    #[test]
    fn merging_is_counting_together() {
        let (mut one, mut two, mut both) = (
            Histogram::default(),
            Histogram::default(),
            Histogram::default(),
        );
        for us in 1..1_000 {
            if us % 3 == 0 { &mut one } else { &mut two }.record_us(us * us, 1);
            both.record_us(us * us, 1);
        }
        one.merge(&two);
        assert!(one.buckets().eq(both.buckets()));
    }

    #[test]
    fn a_storm_knows_when_its_crowd_was_back() {
        let storm = StormResult {
            dropped: 10,
            back: 9,
            returns_ms: (1..=9).map(|n| n * 1_000).collect(),
            ..StormResult::default()
        };
        assert_eq!(storm.seconds_to(0.9), Some(9.0));
        assert_eq!(storm.seconds_to(1.0), None);
        assert_eq!(StormResult::default().seconds_to(0.9), None);
    }

    #[test]
    fn complaints_are_failures_of_one_kind_whatever_their_numbers() {
        let board = Board::default();
        for line in [
            "2026-11-22T09:34:08.09Z  WARN gateway::log: fsync took 120 ms",
            "2026-11-22T09:34:09.11Z  WARN gateway::log: fsync took 9 ms",
        ] {
            board.complain("gateway", line);
        }
        board.show(&Standing::default());
        let failures = board.read().failures;
        let (kind, failure) = failures.first_key_value().unwrap();
        assert_eq!(kind, "gateway said: WARN gateway::log: fsync took # ms");
        assert_eq!((failures.len(), failure.count), (1, 2));
        assert!(failure.example.contains("120 ms"));
    }

    #[test]
    fn kinds_of_failure_are_bounded() {
        let mut failures = BTreeMap::new();
        for kind in 0..1_000 {
            count_failure(&mut failures, &format!("kind {kind}"), 1, "x");
        }
        assert_eq!(failures.len(), FAILURE_KINDS_MAX + 1);
        assert_eq!(
            failures.values().map(|failure| failure.count).sum::<u64>(),
            1_000
        );
    }
}
