//! What a report holds. Its JSON form is described by `schema/report.schema.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::distribution::Distribution;
use super::environment::Environment;
use super::metrics::Metrics;
use crate::measure::{DrainEnd, Failure, MemorySlope, MigrationResult, Sample, Totals};

/// Name and version of the JSON form. A field that changes its meaning or goes away makes a new version; a new field does not.
pub(crate) const SCHEMA: &str = "quipu-loadgen/report/1";

/// The JSON form, described.
pub(crate) const JSON_SCHEMA: &str = include_str!("../../schema/report.schema.json");

/// All of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// [`SCHEMA`].
    pub(crate) schema: String,
    pub(crate) run: Run,
    pub(crate) environment: Environment,
    /// The whole scenario as it was run, with every default filled in.
    pub(crate) configuration: serde_json::Value,
    pub(crate) verdict: Verdict,
    /// The whole run in numbers: what gates and comparisons look at. Made from the phases by [`Report::finish`].
    pub(crate) metrics: Metrics,
    /// The same numbers of a bare QUIC echo in the same shape on the same machine, where they were measured.
    pub(crate) ceiling: Metrics,
    pub(crate) phases: Vec<Phase>,
    /// The run second by second.
    pub(crate) series: Vec<Sample>,
    pub(crate) totals: Totals,
    pub(crate) memory: MemorySlope,
    /// What broke on the way, survived or not, by kind.
    pub(crate) failures: BTreeMap<String, Failure>,
}

/// Which run it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Name of the scenario.
    pub(crate) scenario: String,
    /// What it does, in a sentence.
    pub(crate) about: String,
    /// Everything random in the run comes from it. A string, since JSON's numbers are not exact beyond 2^53.
    pub(crate) seed: String,
    /// Milliseconds since 1970.
    pub(crate) started_unix_ms: u64,
    /// Seconds from the first connection to the end of the drain.
    pub(crate) seconds: f64,
    pub(crate) ended: Ended,
    /// How the wait for what was under way ended after the last phase. Absent in reports of older versions, as is the next.
    #[serde(default)]
    pub(crate) drained: DrainEnd,
    /// How long that wait took, in seconds.
    #[serde(default)]
    pub(crate) overtime_s: f64,
}

/// How a run came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    /// All phases were run.
    Finished,
    /// Somebody ended it: the report has what was measured until then.
    Interrupted,
}

impl Ended {
    /// For a reader.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Interrupted => "interrupted: what was measured until then",
        }
    }
}

/// What to think of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    /// Faults by kind, those with none included.
    pub(crate) faults: BTreeMap<String, u64>,
    /// Why the numbers are worth nothing, if they are.
    pub(crate) invalid: Vec<String>,
    pub(crate) gates: Vec<GateResult>,
}

/// The verdict in a word; the worst that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// No fault, valid, every gate met.
    Passed,
    /// Correct and valid, but a gate was missed.
    GateMissed,
    /// The generator was the bottleneck, or devices were lost: the numbers say nothing about the gateway.
    Invalid,
    /// A message was lost, doubled, reordered, changed or given to somebody else.
    Faults,
}

impl Outcome {
    /// What the process says to its caller: 0, 1 for a missed gate, 2 for faults and invalid runs.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::GateMissed => 1,
            Self::Invalid | Self::Faults => 2,
        }
    }

    /// For a reader.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Passed => "PASSED",
            Self::GateMissed => "GATE MISSED",
            Self::Invalid => "INVALID",
            Self::Faults => "FAULTS",
        }
    }
}

/// A gate and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct GateResult {
    /// As it was written.
    pub(crate) gate: String,
    pub(crate) met: bool,
    /// What was measured, in the metric's unit; `None`: the run does not have this metric, and the gate is missed.
    pub(crate) value: Option<f64>,
    /// The metric's unit.
    pub(crate) unit: String,
}

/// What a latency is measured from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    /// From when a message was due to its receiver's having verified it.
    Deliver,
    /// From when a message was due to the sender's ack.
    Ack,
    /// From when a message was written to its delivery: what a tool without a schedule would print.
    DeliverService,
    /// From when a message was written to its ack.
    AckService,
    /// From when a message was due to when the generator got to it.
    Lag,
    /// From the start of a handshake to a logged-in session.
    Login,
    /// From the loss of a connection to a session on the next one.
    Reconnect,
    /// From when a device came in by plan to its having read a message that was due before.
    CatchUp,
}

impl Measure {
    /// Every one, in the order of a report.
    pub(crate) const ALL: [Self; 8] = [
        Self::Deliver,
        Self::Ack,
        Self::DeliverService,
        Self::AckService,
        Self::Lag,
        Self::Login,
        Self::Reconnect,
        Self::CatchUp,
    ];

    /// As metrics and JSON call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Deliver => "deliver",
            Self::Ack => "ack",
            Self::DeliverService => "deliver_service",
            Self::AckService => "ack_service",
            Self::Lag => "lag",
            Self::Login => "login",
            Self::Reconnect => "reconnect",
            Self::CatchUp => "catch_up",
        }
    }

    /// For a reader.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Deliver => "from when a message was due to its verified delivery",
            Self::Ack => "from when a message was due to its ack",
            Self::DeliverService => "from when a message was written to its verified delivery",
            Self::AckService => "from when a message was written to its ack",
            Self::Lag => "from when a message was due to when the generator got to it",
            Self::Login => "from the start of a handshake to a logged-in session",
            Self::Reconnect => "from the loss of a connection to a session on the next one",
            Self::CatchUp => {
                "from when a device came in by plan to its having read what was said before"
            }
        }
    }
}

/// One phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Phase {
    /// Unique in the run.
    pub(crate) name: String,
    /// What it does: `ramp`, `hold`, `rate`, `storm`, ...
    pub(crate) kind: String,
    /// Seconds since the run began.
    pub(crate) started_s: f64,
    pub(crate) seconds: f64,
    /// A finished message started the next one: there was no schedule, and latencies are not those of users.
    pub(crate) closed_loop: bool,
    /// Its time was over before its goal was reached.
    pub(crate) timed_out: bool,
    /// Mean rate that the scenario asked for.
    pub(crate) offered_per_second: Option<f64>,
    /// Messages that the schedule had due.
    pub(crate) due: u64,
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    /// Deliveries that a receiver verified.
    pub(crate) delivered: u64,
    /// Sends left out because too many waited already.
    pub(crate) shed: u64,
    /// Sessions opened or resumed.
    pub(crate) logins: u64,
    /// Connections that ended without being asked to.
    pub(crate) connections_lost: u64,
    /// Processor time; `None` where the gateway is not on this machine.
    pub(crate) gateway_cpu_s: Option<f64>,
    /// Resident memory at its end.
    pub(crate) gateway_resident_bytes: Option<u64>,
    pub(crate) generator_cpu_s: f64,
    /// Datagrams that the kernel dropped because a socket's buffer was full.
    pub(crate) udp_drops: u64,
    /// Of them, at the generator's own sockets. Absent in reports of older versions, as the next two.
    #[serde(default)]
    pub(crate) generator_drops: u64,
    /// Datagrams that the generator took out of its sockets.
    #[serde(default)]
    pub(crate) generator_received: u64,
    /// Of the dropped, at the gateway's sockets; `None` where it is not on this machine.
    #[serde(default)]
    pub(crate) gateway_drops: Option<u64>,
    pub(crate) latencies: BTreeMap<Measure, Distribution>,
    pub(crate) storm: Option<Storm>,
    pub(crate) migration: Option<MigrationResult>,
    /// The phase in numbers. Made by [`Report::finish`].
    pub(crate) metrics: Metrics,
}

/// How a crowd that was thrown off came back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Storm {
    /// How the connections ended.
    pub(crate) how: String,
    pub(crate) dropped: u64,
    /// Of them, back at the end of the phase.
    pub(crate) back: u64,
    pub(crate) attempts: u64,
    /// From the start of the storm to each return.
    pub(crate) returns: Distribution,
}

impl Report {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// The text is not JSON, is no report, or is one of another version.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let json: serde_json::Value = serde_json::from_str(text).context("not JSON")?;
        match json.get("schema").and_then(serde_json::Value::as_str) {
            Some(SCHEMA) => serde_json::from_value(json).context("not as its schema says"),
            Some(other) => anyhow::bail!(
                "its schema is {other:?}, this program reads {SCHEMA:?}: use the program that wrote it"
            ),
            None => anyhow::bail!("no report of quipu-loadgen: it does not say \"schema\""),
        }
    }

    /// As a file.
    pub(crate) fn to_json(&self) -> String {
        // Only a map with keys that are no strings could fail, and there is none.
        let mut text = serde_json::to_string_pretty(self).expect("every key is a string");
        text.push('\n');
        text
    }

    /// Computes the metrics of the phases and the run, judges the gates, and says the verdict in a word.
    pub(crate) fn finish(&mut self, gates: &[super::gate::Gate]) {
        for at in 0..self.phases.len() {
            self.phases[at].metrics = super::metrics::of_phase(self, at);
        }
        self.metrics = super::metrics::of_run(self);
        self.judge(gates);
    }

    /// Judges `gates` instead of those that were judged before.
    pub(crate) fn judge(&mut self, gates: &[super::gate::Gate]) {
        self.verdict.gates = gates.iter().map(|gate| gate.judge(self)).collect();
        let verdict = &self.verdict;
        self.verdict.outcome = if verdict.faults.values().any(|count| *count > 0) {
            Outcome::Faults
        } else if !verdict.invalid.is_empty() {
            Outcome::Invalid
        } else if verdict.gates.iter().any(|gate| !gate.met) {
            Outcome::GateMissed
        } else {
            Outcome::Passed
        };
    }
}
