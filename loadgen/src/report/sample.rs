//! A run that never was, for tests: three phases with every kind of number that a report can have.

use std::collections::BTreeMap;

use super::model::Report;
use crate::measure::{
    DrainEnd, Environment, Failure, Histogram, Measurement, MemorySlope, MigrationResult,
    PhaseResult, Sample, ScenarioInfo, StormResult, Totals, Verdicts,
};

/// The report of [`measurement`].
pub(crate) fn report() -> Report {
    scaled(1)
}

/// The same where everything took `factor` times as long.
pub(crate) fn scaled(factor: u64) -> Report {
    let mut measured = measurement();
    for phase in &mut measured.phases {
        slow(&mut phase.latency.deliver, factor);
        slow(&mut phase.latency.ack, factor);
    }
    let mut report = super::build::report(
        &measured,
        serde_json::json!({"name": "example", "seed": 42, "connections": 1000}),
        &[],
    );
    // Tests must not depend on the machine they run on.
    report.environment = super::environment::Environment {
        kernel: "6.1.0".to_owned(),
        cpu_model: "Example CPU".to_owned(),
        cores: 2,
        memory_bytes: 24 << 30,
        cpu_governor: Some("performance".to_owned()),
        open_files_max: Some(1_048_576),
        sysctls: BTreeMap::from([("net.core.rmem_max".to_owned(), "212992".to_owned())]),
        versions: BTreeMap::from([
            ("quipu-gateway".to_owned(), "0.1.0 (test)".to_owned()),
            ("quipu-loadgen".to_owned(), "0.1.0".to_owned()),
        ]),
        gateway_is_local: true,
        optimised: true,
        git_revision: Some("0123456789abcdef".to_owned()),
    };
    report
}

fn slow(histogram: &mut Histogram, factor: u64) {
    let buckets: Vec<_> = histogram.buckets().collect();
    histogram.clear();
    for (us, count) in buckets {
        histogram.record_us(us * factor, count);
    }
}

/// What an engine would hand over.
pub(crate) fn measurement() -> Measurement {
    let phases = vec![ramp(), talk(), storm()];
    Measurement {
        scenario: ScenarioInfo {
            name: "example".to_owned(),
            about: "A thousand devices log in, a hundred pairs talk, all are thrown off."
                .to_owned(),
            seed: 42,
            connections: 1_000,
            pairs: 100,
            groups: 0,
            processes: 1,
            toml: "seed = 42\n".to_owned(),
        },
        environment: Environment {
            generator: "0.1.0".to_owned(),
            gateway: "0.1.0 (test)".to_owned(),
            gateway_is_local: true,
            ..Environment::default()
        },
        started_at_ms: 1_700_000_000_000,
        seconds: 30.0,
        samples: (0..30).map(second).collect(),
        phases,
        verdicts: Verdicts::default(),
        totals: Totals {
            messages: 10_000,
            acked: 10_000,
            delivered: 10_000,
            logins: 2_000,
            resumed: 1_000,
            resent: 3,
            throttled: 0,
            wire_duplicates: 4,
            groups: 7,
            receipts_sent: 900,
            ..Totals::default()
        },
        failures: BTreeMap::from([(
            "connection lost".to_owned(),
            Failure {
                count: 2,
                example: "device 17: timed out <after 30 s> & \"gone\"".to_owned(),
            },
        )]),
        memory: MemorySlope {
            gateway_kib: Some(41.5),
            generator_kib: Some(38.25),
        },
        invalid: Vec::new(),
        missing: 0,
        interrupted: false,
        drain_end: DrainEnd::Settled,
        overtime_seconds: 0.0,
    }
}

fn ramp() -> PhaseResult {
    let mut phase = PhaseResult {
        name: "ramp".to_owned(),
        kind: "ramp".to_owned(),
        seconds: 5.0,
        logins: 1_000,
        gateway_cpu_seconds: Some(2.0),
        gateway_rss_bytes: Some(90 << 20),
        generator_cpu_seconds: 2.5,
        ..PhaseResult::default()
    };
    spread(&mut phase.latency.login, 4_000, 1_000);
    phase
}

fn talk() -> PhaseResult {
    let mut phase = PhaseResult {
        name: "talk".to_owned(),
        kind: "rate".to_owned(),
        began_seconds: 5.0,
        seconds: 15.0,
        offered_per_second: Some(667.0),
        due: 10_005,
        sent: 10_000,
        acked: 10_000,
        delivered: 10_000,
        shed: 5,
        gateway_cpu_seconds: Some(6.0),
        gateway_rss_bytes: Some(95 << 20),
        generator_cpu_seconds: 7.5,
        udp_drops: 12,
        datagrams: crate::measure::Datagrams {
            received: 29_993,
            dropped: 7,
            gateway_dropped: Some(5),
        },
        ..PhaseResult::default()
    };
    spread(&mut phase.latency.deliver, 2_000, 10_000);
    spread(&mut phase.latency.ack, 1_800, 10_000);
    spread(&mut phase.latency.deliver_service, 1_900, 10_000);
    spread(&mut phase.latency.ack_service, 1_700, 10_000);
    spread(&mut phase.latency.lag, 60, 10_000);
    phase
}

fn storm() -> PhaseResult {
    let mut phase = PhaseResult {
        name: "storm".to_owned(),
        kind: "storm".to_owned(),
        began_seconds: 20.0,
        seconds: 10.0,
        logins: 998,
        connections_lost: 2,
        gateway_cpu_seconds: Some(3.0),
        gateway_rss_bytes: Some(99 << 20),
        generator_cpu_seconds: 3.0,
        storm: Some(StormResult {
            how: "silent".to_owned(),
            dropped: 1_000,
            back: 998,
            attempts: 1_010,
            returns_ms: (0..998).map(|n| 500 + n * 8).collect(),
        }),
        migration: Some(MigrationResult {
            sockets: 2,
            connections: 50,
            lost: 1,
        }),
        ..PhaseResult::default()
    };
    spread(&mut phase.latency.reconnect, 800_000, 998);
    spread(&mut phase.latency.catch_up, 90_000, 500);
    phase
}

/// `count` latencies around `middle_us` with a long tail.
fn spread(histogram: &mut Histogram, middle_us: u64, count: u64) {
    for n in 0..count {
        let rank = (n as f64 + 0.5) / count as f64;
        // The quantile function of a log-logistic distribution.
        let factor = (rank / (1.0 - rank)).powf(0.25);
        histogram.record_us((middle_us as f64 * factor) as u64, 1);
    }
}

fn second(n: u64) -> Sample {
    let talking = (5..20).contains(&n);
    let wave = 1.0 + (300.0 * (n as f64).sin()).round() / 1_000.0;
    let of = |middle: f64| (middle * wave * 1_000.0).round() / 1_000.0;
    Sample {
        at_seconds: (n + 1) as f64,
        phase: match n {
            0..5 => 0,
            5..20 => 1,
            _ => 2,
        },
        target: if talking { 667 } else { 0 },
        sent: if talking { 667 } else { 0 },
        acked: if talking { 666 } else { 0 },
        delivered: if talking {
            (667.0 * wave.min(1.0)) as u64
        } else {
            0
        },
        connections: match n {
            0..5 => (n + 1) * 200,
            5..20 => 1_000,
            _ => 100 * (n - 19).min(9) + 98,
        },
        logins: if talking { 0 } else { 200 },
        deliver_p50_ms: talking.then_some(of(2.0)),
        deliver_p99_ms: talking.then_some(of(9.0)),
        deliver_p999_ms: talking.then_some(of(14.0)),
        ack_p50_ms: talking.then_some(of(1.8)),
        ack_p99_ms: talking.then_some(of(8.0)),
        lag_p99_ms: talking.then_some(of(0.2)),
        gateway_cores: Some(of(0.4)),
        gateway_rss_bytes: Some((60 + n) << 20),
        generator_cores: of(0.5),
        generator_rss_bytes: (50 + n) << 20,
        udp_drops: if n == 12 { 12 } else { 0 },
        generator_drops: if n == 12 { 7 } else { 0 },
        gateway_drops: Some(if n == 12 { 5 } else { 0 }),
        ..Sample::default()
    }
}

/// The run of [`measurement`] in its middle.
pub(crate) fn progress() -> crate::measure::Progress {
    let measured = measurement();
    crate::measure::Progress {
        scenario: measured.scenario,
        phase_names: measured
            .phases
            .into_iter()
            .map(|phase| phase.name)
            .collect(),
        phase: 1,
        phase_seconds: 9.0,
        phase_seconds_max: 15.0,
        seconds: 14.0,
        seconds_max: 60.0,
        samples: measured.samples.into_iter().take(14).collect(),
        under_way: 12,
        connections: 1_000,
        totals: Totals {
            delivered: 6_003,
            ..Totals::default()
        },
        failures: measured.failures,
        ..crate::measure::Progress::default()
    }
}
