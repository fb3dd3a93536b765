//! The one place where an engine's measurement becomes a report.

use std::collections::BTreeMap;

use super::distribution::Distribution;
use super::environment::Environment;
use super::gate::Gate;
use super::model::{Ended, Measure, Outcome, Phase, Report, Run, SCHEMA, Storm, Verdict};
use crate::measure::{self, Measurement, PhaseResult};

/// The report of a run, its gates judged. `configuration` is the whole scenario, defaults filled in.
pub(crate) fn report(
    measured: &Measurement,
    configuration: serde_json::Value,
    gates: &[Gate],
) -> Report {
    let verdict = Verdict {
        outcome: Outcome::Passed,
        faults: measured
            .verdicts
            .each()
            .map(|(kind, count)| (kind.to_owned(), count))
            .into(),
        invalid: measured.invalid.clone(),
        gates: Vec::new(),
    };
    let mut report = Report {
        schema: SCHEMA.to_owned(),
        run: Run {
            scenario: measured.scenario.name.clone(),
            about: measured.scenario.about.clone(),
            seed: measured.scenario.seed.to_string(),
            started_unix_ms: measured.started_at_ms,
            seconds: measured.seconds,
            ended: match measured.interrupted {
                true => Ended::Interrupted,
                false => Ended::Finished,
            },
            drained: measured.drain_end,
            overtime_s: measured.overtime_seconds,
        },
        environment: environment(&measured.environment),
        configuration,
        verdict,
        metrics: BTreeMap::new(),
        ceiling: BTreeMap::new(),
        phases: measured.phases.iter().map(phase).collect(),
        series: measured.samples.clone(),
        totals: measured.totals.clone(),
        memory: measured.memory.clone(),
        failures: measured.failures.clone(),
    };
    name_apart(&mut report.phases);
    report.finish(gates);
    report
}

/// What the engine noted, and what it did not look at.
fn environment(noted: &measure::Environment) -> Environment {
    let mut here = Environment::here();
    let known = |text: &String| (!text.is_empty()).then(|| text.clone());
    here.kernel = known(&noted.kernel).unwrap_or(here.kernel);
    here.cpu_model = known(&noted.processor).unwrap_or(here.cpu_model);
    if noted.processors > 0 {
        here.cores = noted.processors;
    }
    if noted.memory_bytes > 0 {
        here.memory_bytes = noted.memory_bytes;
    }
    for (program, version) in [
        ("quipu-loadgen", &noted.generator),
        ("quipu-gateway", &noted.gateway),
    ] {
        if let Some(version) = known(version) {
            here.versions.insert(program.to_owned(), version);
        }
    }
    here.sysctls.extend(noted.limits.clone());
    here.gateway_is_local = noted.gateway_is_local;
    here.optimised = noted.optimised;
    here
}

fn phase(measured: &PhaseResult) -> Phase {
    let measure_of = |name: &str| Measure::ALL.into_iter().find(|known| known.name() == name);
    let latencies = measured
        .latency
        .each()
        .into_iter()
        .filter(|(_, histogram)| histogram.count() > 0)
        .filter_map(|(name, histogram)| {
            let counted = histogram
                .buckets()
                .map(|(us, count)| (us, u64::from(count)));
            Some((measure_of(name)?, Distribution::of(counted)))
        })
        .collect();
    Phase {
        name: measured.name.clone(),
        kind: measured.kind.clone(),
        started_s: measured.began_seconds,
        seconds: measured.seconds,
        closed_loop: measured.closed_loop,
        timed_out: measured.timed_out,
        offered_per_second: measured.offered_per_second,
        due: measured.due,
        sent: measured.sent,
        acked: measured.acked,
        delivered: measured.delivered,
        shed: measured.shed,
        logins: measured.logins,
        connections_lost: measured.connections_lost,
        gateway_cpu_s: measured.gateway_cpu_seconds,
        gateway_resident_bytes: measured.gateway_rss_bytes,
        generator_cpu_s: measured.generator_cpu_seconds,
        udp_drops: measured.udp_drops,
        generator_drops: measured.datagrams.dropped,
        generator_received: measured.datagrams.received,
        gateway_drops: measured.datagrams.gateway_dropped,
        latencies,
        storm: measured.storm.as_ref().map(|storm| Storm {
            how: storm.how.clone(),
            dropped: storm.dropped,
            back: storm.back,
            attempts: storm.attempts,
            returns: Distribution::of(
                storm
                    .returns_ms
                    .iter()
                    .map(|ms| (u64::from(*ms) * 1_000, 1)),
            ),
        }),
        migration: measured.migration.clone(),
        metrics: BTreeMap::new(),
    }
}

/// Numbers phases that share a name, so that a gate can name each.
fn name_apart(phases: &mut [Phase]) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for phase in phases {
        let count = seen.entry(phase.name.clone()).or_insert(0);
        *count += 1;
        if *count > 1 {
            phase.name = format!("{}-{count}", phase.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn nothing_of_a_measurement_is_lost() {
        let measured = sample::measurement();
        let report = report(&measured, serde_json::json!({"seconds": 3}), &[]);
        assert_eq!(report.phases.len(), measured.phases.len());
        for (phase, from) in report.phases.iter().zip(&measured.phases) {
            for (name, histogram) in from.latency.each() {
                let measure = Measure::ALL.into_iter().find(|m| m.name() == name).unwrap();
                let taken = phase.latencies.get(&measure);
                assert_eq!(
                    taken.map_or(0, Distribution::count),
                    histogram.count(),
                    "{name} of {}",
                    phase.name
                );
                assert_eq!(
                    taken.and_then(|taken| taken.quantile_ms(0.99)),
                    histogram.quantile_ms(0.99)
                );
            }
            let (storm, from) = (phase.storm.as_ref(), from.storm.as_ref());
            assert_eq!(
                storm.map(|storm| storm.returns.count()),
                from.map(|storm| storm.back)
            );
        }
        assert_eq!(report.series, measured.samples);
        assert_eq!(report.environment.versions["quipu-gateway"], "0.1.0 (test)");
    }

    #[test]
    fn phases_of_one_name_are_numbered() {
        let mut measured = sample::measurement();
        for phase in &mut measured.phases {
            phase.name = "step".to_owned();
        }
        let report = report(&measured, serde_json::Value::Null, &[]);
        let names: Vec<_> = report
            .phases
            .iter()
            .map(|phase| phase.name.as_str())
            .collect();
        assert_eq!(names, ["step", "step-2", "step-3"]);
    }
}
