//! The measurement of a gateway beside the bare transport: a scenario for the engine, and the figures that come out of it.

use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use crate::gateway::Target;
use crate::measure::{Measurement, PhaseResult, Verdicts};
use crate::pacer::Arrival;
use crate::plan::{FIRST_STEP, Plan, Ramp, Throughput};
use crate::scenario::{Extras, Graph, Kind, Mode, Network, Phase, Population, Scenario, Traffic};
use crate::scenario_run::{self, Stage};
use crate::stop::Stop;

/// How long each ramp and each drain may take.
const RAMP_MAX: Duration = Duration::from_secs(600);
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// What the open loop asks for, of what the closed loop gave.
const HALF: f64 = 0.5;

// Names of the phases whose figures are looked for afterwards.
const FIRST: &str = "first";
const FIRST_QUIET: &str = "first-quiet";
const ALL: &str = "all";
const ALL_QUIET: &str = "all-quiet";
const MOST: &str = "most";
const PACED: &str = "paced";

/// The figures of a gateway.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub(crate) ramp: Ramp,
    /// Closed loop: as many messages as go.
    pub(crate) most: Throughput,
    /// Open loop at a stated rate.
    pub(crate) paced: Throughput,
    /// Messages that the ledger judged, warm-up and drain included.
    pub(crate) verified: u64,
    pub(crate) verdicts: Verdicts,
    /// Sends of the open loop that were left out because too many waited.
    pub(crate) shed: u64,
    /// Why the run is worth nothing, if it is.
    pub(crate) invalid: Option<String>,
}

impl Figures {
    /// Whether every message arrived once, in order and unchanged, and every device stayed connected.
    pub(crate) fn clean(&self) -> bool {
        self.verdicts.clean() && self.invalid.is_none()
    }

    fn of(measured: &Measurement) -> anyhow::Result<Self> {
        let phase = |name: &str| {
            let found = measured.phases.iter().find(|phase| phase.name == name);
            found.with_context(|| format!("the run ended before its phase {name:?}"))
        };
        let lost: u64 = measured
            .phases
            .iter()
            .map(|phase| phase.connections_lost)
            .sum();
        let mut invalid = measured.invalid.clone();
        if lost > 0 {
            invalid.push(format!("{lost} connections were lost"));
        }
        Ok(Self {
            ramp: ramp(
                phase(FIRST)?,
                phase(FIRST_QUIET)?,
                phase(ALL)?,
                phase(ALL_QUIET)?,
            ),
            most: throughput(phase(MOST)?),
            paced: throughput(phase(PACED)?),
            verified: measured.totals.messages,
            verdicts: measured.verdicts.clone(),
            shed: measured.totals.shed,
            invalid: (!invalid.is_empty()).then(|| invalid.join("; ")),
        })
    }
}

/// Starts (or finds) the gateway and measures it. `rate` is that of the open loop; without it, half of what the closed loop
/// gave. Must run in a `LocalSet`.
pub(crate) async fn measure(
    plan: &Plan,
    target: &Target,
    rate: Option<f64>,
    stop: &Stop,
) -> anyhow::Result<Figures> {
    let measured = scenario_run::play(&scenario(plan, rate), target, &Stage::plain(stop)).await?;
    Figures::of(&measured)
}

/// The plan as phases: a few connect, then all, so that memory has a slope; as many messages as go, then a schedule.
fn scenario(plan: &Plan, rate: Option<f64>) -> Scenario {
    let bytes = (plan.bytes, plan.bytes);
    let closed = Mode::Closed {
        outstanding: plan.outstanding,
    };
    let arrival = Arrival::Constant;
    let paced = match rate {
        Some(rate) => Mode::Open {
            rates: (rate, rate),
            arrival,
        },
        None => Mode::OpenShare {
            share: HALF,
            arrival,
        },
    };
    let phase = |name: &str, length, kind| Phase {
        name: name.to_owned(),
        length,
        traffic: None,
        kind,
    };
    let ramp = |name, share| {
        let handshakes = plan.handshakes;
        let kind = Kind::Ramp {
            share,
            rate: None,
            handshakes,
        };
        phase(name, RAMP_MAX, kind)
    };
    let load = |name, length, mode| Phase {
        traffic: Some(Traffic { mode, bytes }),
        ..phase(name, length, Kind::Rate)
    };
    Scenario {
        name: "bench".to_owned(),
        about: "Log-ins, memory, and one-to-one messages, as many as go and at a schedule."
            .to_owned(),
        seed: 1,
        late_after: DRAIN_MAX,
        server: None,
        tokens: None,
        populations: vec![Population {
            name: "people".to_owned(),
            clients: plan.connections as u64,
        }],
        graph: Graph {
            population: 0,
            pairs: plan.pairs as u64,
            groups: None,
        },
        extras: Extras::default(),
        network: Network::default(),
        phases: vec![
            ramp(FIRST, FIRST_STEP),
            phase(FIRST_QUIET, plan.settle, Kind::Hold),
            ramp(ALL, 1.0),
            phase(ALL_QUIET, plan.settle, Kind::Hold),
            load("warm-up", plan.warm_up(), closed),
            load(MOST, plan.window(), closed),
            phase("drain", DRAIN_MAX, Kind::Drain),
            load(PACED, plan.window(), paced),
            phase("drain", DRAIN_MAX, Kind::Drain),
        ],
    }
}

fn ramp(
    first: &PhaseResult,
    first_quiet: &PhaseResult,
    all: &PhaseResult,
    all_quiet: &PhaseResult,
) -> Ramp {
    let opened = all.logins.max(1) as f64;
    let grown = first_quiet
        .gateway_rss_bytes
        .zip(all_quiet.gateway_rss_bytes);
    Ramp {
        connections: (first.logins + all.logins) as usize,
        per_second: opened / all.seconds.max(f64::MIN_POSITIVE),
        kib_per_connection: grown
            .map(|(small, large)| (large as f64 - small as f64) / 1024.0 / opened),
        server_us_each: all.gateway_cpu_seconds.map(|cpu| cpu * 1e6 / opened),
    }
}

/// One message counts when its sender has its ack and its receiver has verified it.
fn throughput(phase: &PhaseResult) -> Throughput {
    let finished = phase.acked.min(phase.delivered);
    let seconds = phase.seconds.max(f64::MIN_POSITIVE);
    Throughput {
        offered_per_second: phase.offered_per_second,
        per_second: finished as f64 / seconds,
        ack: (&phase.latency.ack).into(),
        delivery: Some((&phase.latency.deliver).into()),
        lag: Some((&phase.latency.lag).into()),
        server_us_each: phase
            .gateway_cpu_seconds
            .map(|cpu| cpu * 1e6 / finished.max(1) as f64),
        server_cores: phase.gateway_cpu_seconds.map(|cpu| cpu / seconds),
        generator_cores: phase.generator_cpu_seconds / seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::SETTLE;

    fn plan() -> Plan {
        Plan {
            connections: 100,
            pairs: 5,
            outstanding: 2,
            bytes: 120,
            seconds: 10,
            handshakes: 8,
            settle: SETTLE,
        }
    }

    #[test]
    fn the_scenario_can_be_written_down_and_run_again() {
        for rate in [None, Some(500.0)] {
            let scenario = scenario(&plan(), rate);
            let again = Scenario::read("x", &scenario.to_toml()).unwrap();
            assert_eq!(again, scenario);
        }
    }

    #[test]
    fn memory_and_rates_are_those_between_the_two_quiet_phases() {
        let of = |name: &str, change: fn(&mut PhaseResult)| {
            let mut phase = PhaseResult {
                name: name.to_owned(),
                seconds: 2.0,
                ..PhaseResult::default()
            };
            change(&mut phase);
            phase
        };
        let mut measured = crate::measure::empty();
        measured.phases = vec![
            of(FIRST, |phase| phase.logins = 10),
            of(FIRST_QUIET, |phase| phase.gateway_rss_bytes = Some(1 << 20)),
            of(ALL, |phase| {
                phase.logins = 90;
                phase.gateway_cpu_seconds = Some(0.009);
            }),
            of(ALL_QUIET, |phase| {
                phase.gateway_rss_bytes = Some((1 << 20) + 90 * 20 * 1024);
            }),
            of(MOST, |phase| (phase.acked, phase.delivered) = (400, 380)),
            of(PACED, |phase| phase.generator_cpu_seconds = 1.0),
        ];
        let figures = Figures::of(&measured).unwrap();
        assert_eq!(figures.ramp.connections, 100);
        assert_eq!(figures.ramp.per_second, 45.0);
        assert_eq!(figures.ramp.kib_per_connection, Some(20.0));
        assert!((figures.ramp.server_us_each.unwrap() - 100.0).abs() < 1e-6);
        assert_eq!(figures.most.per_second, 190.0);
        assert_eq!(figures.paced.generator_cores, 0.5);
        assert!(figures.clean());
        measured.phases[4].connections_lost = 1;
        assert!(!Figures::of(&measured).unwrap().clean());
        measured.phases.pop();
        let error = Figures::of(&measured).unwrap_err();
        assert!(error.to_string().contains("paced"), "{error}");
    }
}
