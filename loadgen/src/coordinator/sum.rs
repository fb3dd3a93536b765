//! What the processes of a run measured, added up: seconds, phases, histograms, verdicts, and the gateway's own figures beside.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::engine::{self, Look};
use crate::judge;
use crate::measure::{
    Board, Measurement, MemorySlope, PhaseResult, Sample, ScenarioInfo, Totals, Verdicts,
    merge_failures,
};
use crate::process;
use crate::scenario::Scenario;
use crate::second::{MemoryPoint, Second, Standing};

/// Looks at memory that are kept at the most; what comes later has no part in the slope.
const MEMORY_MAX: usize = 20_000;
/// Seconds of a process that wait for those of the others; a process that is further ahead is waited for no longer.
const AHEAD_MAX: usize = 60;

/// Adds up.
pub(super) struct Sum {
    info: ScenarioInfo,
    lengths: Vec<f64>,
    board: Board,
    began: Instant,
    gateway: Option<u32>,
    parts: Vec<Part>,
    samples: Vec<Sample>,
    /// At the end of the last second that was published.
    looked: (Instant, Look),
    memory: Vec<MemoryPoint>,
    /// What the gateway had used when each phase began.
    phases: Vec<(usize, Look)>,
    phase_began: Instant,
}

/// What one process has said so far.
#[derive(Default)]
struct Part {
    seconds: VecDeque<Second>,
    standing: Standing,
    memory: MemoryPoint,
    measured: Option<Measurement>,
}

impl Sum {
    pub(super) fn new(
        scenario: &Scenario,
        processes: usize,
        gateway: Option<u32>,
        board: Board,
    ) -> Self {
        let now = Instant::now();
        let seconds = |phase: &crate::scenario::Phase| phase.length.as_secs_f64();
        Self {
            info: ScenarioInfo {
                processes: processes as u64,
                ..engine::info(scenario)
            },
            lengths: scenario.phases.iter().map(seconds).collect(),
            board,
            began: now,
            gateway,
            parts: (0..processes).map(|_| Part::default()).collect(),
            samples: Vec::new(),
            looked: (now, Look::now(gateway)),
            memory: Vec::new(),
            phases: Vec::new(),
            phase_began: now,
        }
    }

    /// The scenario as the report names it.
    pub(super) fn info(&self) -> ScenarioInfo {
        self.info.clone()
    }

    /// The gateway was killed, or is there again.
    pub(super) fn set_gateway(&mut self, pid: Option<u32>) {
        self.gateway = pid;
    }

    /// All processes begin a phase.
    pub(super) fn phase(&mut self, number: usize) {
        self.phases.push((number, Look::now(self.gateway)));
        self.phase_began = Instant::now();
        self.board.update(|progress| {
            progress.phase = number;
            progress.phase_seconds_max = self.lengths.get(number).copied().unwrap_or_default();
        });
    }

    /// Time goes by.
    pub(super) fn tick(&self) {
        self.board.update(|progress| {
            progress.seconds = self.began.elapsed().as_secs_f64();
            progress.phase_seconds = self.phase_began.elapsed().as_secs_f64();
        });
    }

    /// A process has lived through a second.
    pub(super) fn second(&mut self, number: usize, second: Second, standing: Standing) {
        let part = &mut self.parts[number];
        part.standing = standing;
        part.seconds.push_back(second);
    }

    /// A process has looked at its memory.
    pub(super) fn memory(&mut self, number: usize, point: MemoryPoint) {
        self.parts[number].memory = point;
        if self.memory.len() >= MEMORY_MAX {
            return;
        }
        let sum = |of: fn(&MemoryPoint) -> u64| self.parts.iter().map(|one| of(&one.memory)).sum();
        self.memory.push(MemoryPoint {
            connections: sum(|one| one.connections),
            gateway_bytes: self.gateway.and_then(process::resident),
            generator_bytes: sum(|one| one.generator_bytes),
        });
    }

    /// A process has come to its end.
    pub(super) fn done(&mut self, number: usize, measured: Measurement) {
        self.parts[number].measured = Some(measured);
    }

    /// Shows the seconds that all of these processes have lived through.
    pub(super) fn publish(&mut self, at_work: &[usize]) {
        loop {
            let waits = |one: &usize| self.parts[*one].seconds.is_empty();
            let ahead = self.parts.iter().any(|part| part.seconds.len() > AHEAD_MAX);
            if at_work.iter().any(waits) && !ahead {
                return;
            }
            let mut seconds = self
                .parts
                .iter_mut()
                .filter_map(|part| part.seconds.pop_front());
            let Some(mut sum) = seconds.next() else {
                return;
            };
            seconds.for_each(|second| sum.merge(&second));
            self.show(&sum);
        }
    }

    fn show(&mut self, second: &Second) {
        let (now, look) = (Instant::now(), Look::now(self.gateway));
        let (at, looked) = &self.looked;
        let seconds = (now - *at).as_secs_f64().max(f64::MIN_POSITIVE);
        let sample = Sample {
            gateway_cores: look
                .gateway_cpu(looked)
                .map(|cpu| cpu.as_secs_f64() / seconds),
            gateway_rss_bytes: look.gateway.map(|(_, one)| one.resident_bytes),
            gateway_drops: look.gateway_drops(looked),
            ..second.sample()
        };
        self.looked = (now, look);
        let mut standing = Standing::default();
        for part in &self.parts {
            standing.merge(&part.standing);
        }
        self.board.show(&standing);
        self.board
            .update(|progress| progress.samples.push(sample.clone()));
        self.samples.push(sample);
    }

    /// The measurement of the whole run, judged. `lost`: why processes are missing in it.
    pub(super) fn finish(mut self, lost: Vec<String>, interrupted: bool) -> Measurement {
        self.publish(&[]);
        let phases = self.merged_phases();
        let measured: Vec<&Measurement> = self
            .parts
            .iter()
            .filter_map(|part| part.measured.as_ref())
            .collect();
        let gateway_is_local = self.gateway.is_some();
        let environment = match measured.first() {
            Some(first) => first.environment.clone(),
            None => crate::environment::here("", gateway_is_local),
        };
        let (mut verdicts, mut totals) = (Verdicts::default(), Totals::default());
        let mut failures = self.board.complaints();
        for part in &self.parts {
            match &part.measured {
                Some(measured) => {
                    verdicts.merge(&measured.verdicts);
                    totals.merge(&measured.totals);
                    merge_failures(&mut failures, &measured.failures);
                }
                // What it had told before it was lost; its losses are not known.
                None => {
                    verdicts.merge(&part.standing.verdicts);
                    totals.merge(&part.standing.totals);
                    merge_failures(&mut failures, &part.standing.failures);
                }
            }
        }
        let seconds = self.began.elapsed().as_secs_f64();
        let drain_end = measured.iter().map(|one| one.drain_end).max();
        let overtimes = measured.iter().map(|one| one.overtime_seconds);
        let mut whole = Measurement {
            scenario: self.info.clone(),
            environment: crate::measure::Environment {
                gateway_is_local,
                ..environment
            },
            started_at_ms: crate::environment::now_ms() - (seconds * 1_000.0) as u64,
            seconds,
            samples: self.samples.clone(),
            phases,
            verdicts,
            totals,
            failures,
            memory: self.slope(),
            invalid: lost,
            missing: measured.iter().map(|one| one.missing).sum(),
            interrupted,
            drain_end: drain_end.unwrap_or_default(),
            overtime_seconds: overtimes.fold(0.0, f64::max),
        };
        judge::judge(&mut whole);
        whole
    }

    fn slope(&self) -> MemorySlope {
        judge::memory_slope(&self.memory)
    }

    /// The phases of all processes, with what the gateway used from the beginning of each to that of the next.
    fn merged_phases(&self) -> Vec<PhaseResult> {
        let mut merged: BTreeMap<usize, PhaseResult> = BTreeMap::new();
        for measured in self.parts.iter().filter_map(|part| part.measured.as_ref()) {
            for phase in &measured.phases {
                match merged.get_mut(&phase.number) {
                    Some(known) => known.merge(phase),
                    None => {
                        merged.insert(phase.number, phase.clone());
                    }
                }
            }
        }
        let end = Look::now(self.gateway);
        let ends = self.phases.iter().skip(1).map(|(_, look)| look);
        for ((number, from), to) in self.phases.iter().zip(ends.chain([&end])) {
            if let Some(phase) = merged.get_mut(number) {
                phase.gateway_cpu_seconds = to.gateway_cpu(from).map(|cpu| cpu.as_secs_f64());
                phase.gateway_rss_bytes = to.gateway.map(|(_, one)| one.resident_bytes);
                phase.datagrams.gateway_dropped = to.gateway_drops(from);
                phase.udp_drops = to.udp_drops.saturating_sub(from.udp_drops);
            }
        }
        merged.into_values().collect()
    }
}
