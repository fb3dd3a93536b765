//! Whether a run's figures are worth something: who was the bottleneck, and did what was to happen happen.

use crate::measure::{Measurement, MemorySlope, PhaseResult};
use crate::second::MemoryPoint;

/// A generator that gets to one send in a hundred later than this measured itself.
const LAG_P99_MAX_MS: f64 = 5.0;
/// A generator thread that is busier than this has no room left to be on time.
const GENERATOR_CORES_MAX: f64 = 0.85;
/// Of the datagrams that came to the generator, those that may find its own sockets full. Each that is lost costs somebody a
/// retransmission, so this is where the 99.9th percentile becomes the generator's.
const OWN_DROPS_SHARE_MAX: f64 = 0.001;
/// Fewer than these are too few to speak of a share.
const OWN_DROPS_MIN: u64 = 20;
/// Connections that a slope is taken over at the least.
const SLOPE_CONNECTIONS_MIN: u64 = 100;

/// Adds to `measured` why it is invalid, if it is.
pub(crate) fn judge(measured: &mut Measurement) {
    let processes = measured.scenario.processes.max(1) as f64;
    let own_drops = measured.phases.iter().filter_map(own_drops);
    measured.invalid.extend(own_drops);
    for phase in &measured.phases {
        if phase.closed_loop || phase.offered_per_second.is_none() || is_upheaval(phase) {
            continue;
        }
        let name = &phase.name;
        let cores = phase.generator_cpu_seconds / phase.seconds.max(f64::MIN_POSITIVE) / processes;
        if let Some(lag) = phase.latency.lag.quantile_ms(0.99)
            && lag > LAG_P99_MAX_MS
        {
            measured.invalid.push(format!(
                "{name}: generator-bound: one send in a hundred was started {lag:.1} ms late or later (at most \
                 {LAG_P99_MAX_MS} ms); lower --rate or add --processes"
            ));
        }
        if cores > GENERATOR_CORES_MAX {
            measured.invalid.push(format!(
                "{name}: generator-bound: each of its processes was busy for {:.0} % of the time (at most {:.0} %); lower \
                 --rate or add --processes",
                cores * 100.0,
                GENERATOR_CORES_MAX * 100.0
            ));
        }
    }
    let under_way = measured.totals.under_way_at_stop;
    if under_way > 0 && !measured.interrupted {
        measured.invalid.push(format!(
            "{under_way} messages, edits or files were still under way {:.0} s after the last phase, when the run stopped \
             waiting: none of them is lost, and the gateway was not done; lower --rate, or give the last drain more time",
            measured.overtime_seconds
        ));
    }
    if measured.interrupted {
        // Somebody wanted an early end; what was measured until then stands.
        return;
    }
    let late = measured.phases.iter().filter(|phase| phase.timed_out);
    let mut reasons: Vec<String> = late
        .map(|phase| format!("{}: not done within its {:.0} s", phase.name, phase.seconds))
        .collect();
    if measured.missing > 0 {
        reasons.push(format!(
            "{} of {} devices were not connected at the end",
            measured.missing, measured.scenario.connections
        ));
    }
    measured.invalid.append(&mut reasons);
}

/// Why a phase says nothing of the gateway, if the generator did not take out of its sockets what came.
///
/// In a storm and in a change of addresses sockets go and everybody comes at once: what is lost then is the transport's business.
fn own_drops(phase: &PhaseResult) -> Option<String> {
    let came = phase.datagrams;
    let share = came.dropped_share();
    let is_measured = !is_upheaval(phase) && phase.migration.is_none();
    let too_many = came.dropped >= OWN_DROPS_MIN && share > OWN_DROPS_SHARE_MAX;
    (is_measured && too_many).then(|| {
        format!(
            "{}: generator-bound: {} of {} datagrams ({:.2} %, at most {:.1} %) found the generator's own sockets full, so what \
             was late or lost here is not the gateway's; use more sockets (--processes), fewer connections, or a larger buffer: \
             sysctl -w net.core.rmem_max={}",
            phase.name,
            came.dropped,
            came.received + came.dropped,
            share * 100.0,
            OWN_DROPS_SHARE_MAX * 100.0,
            crate::transport::SOCKET_BUFFER_BYTES
        )
    })
}

/// In a storm everybody connects at once and latency is that of being away; nothing is claimed of the generator's lateness.
fn is_upheaval(phase: &PhaseResult) -> bool {
    phase.storm.is_some()
}

/// The slope of resident memory over connections, from looks before the first messages.
pub(crate) fn memory_slope(looks: &[MemoryPoint]) -> MemorySlope {
    let most = looks.iter().map(|one| one.connections).max().unwrap_or(0);
    // Above what a process needs at all.
    let points = |bytes: fn(&MemoryPoint) -> Option<u64>| -> Vec<(f64, f64)> {
        looks
            .iter()
            .filter(|look| look.connections * 10 >= most && most >= SLOPE_CONNECTIONS_MIN)
            .filter_map(|look| Some((look.connections as f64, bytes(look)? as f64 / 1024.0)))
            .collect()
    };
    MemorySlope {
        gateway_kib: slope(&points(|look| look.gateway_bytes)),
        generator_kib: slope(&points(|look| Some(look.generator_bytes))),
    }
}

/// Least squares; `None` without two different places.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let together: f64 = points
        .iter()
        .map(|(x, y)| (x - mean_x) * (y - mean_y))
        .sum();
    (spread > 0.0).then(|| together / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_leaves_out_what_a_process_needs_at_all() {
        let at = |connections: u64, kib: u64| MemoryPoint {
            connections,
            gateway_bytes: Some(kib * 1024),
            generator_bytes: 0,
        };
        let looks: Vec<MemoryPoint> = (1..=10)
            .map(|n| at(n * 1_000, 50_000 + n * 30_000))
            .collect();
        let slope = memory_slope(&looks);
        assert!(
            (slope.gateway_kib.unwrap() - 30.0).abs() < 1e-6,
            "{slope:?}"
        );
        assert_eq!(memory_slope(&looks[..1]).gateway_kib, None);
        assert_eq!(memory_slope(&[]).gateway_kib, None);
    }

    fn rate(lag_ms: u64, cpu: f64) -> PhaseResult {
        let mut phase = PhaseResult {
            kind: "rate".to_owned(),
            offered_per_second: Some(1.0),
            seconds: 10.0,
            generator_cpu_seconds: cpu,
            ..PhaseResult::default()
        };
        phase.latency.lag.record_us(lag_ms * 1_000, 100);
        phase
    }

    fn reasons(phase: PhaseResult) -> Vec<String> {
        let mut measured = crate::measure::empty();
        measured.phases.push(phase);
        judge(&mut measured);
        measured.invalid
    }

    #[test]
    fn what_was_still_under_way_makes_a_run_invalid_unless_somebody_ended_it() {
        let mut measured = crate::measure::empty();
        measured.totals.under_way_at_stop = 3;
        let mut interrupted = measured.clone();
        interrupted.interrupted = true;
        judge(&mut measured);
        assert!(measured.invalid[0].starts_with("3 messages, edits or files"));
        judge(&mut interrupted);
        assert!(interrupted.invalid.is_empty());
    }

    #[test]
    fn a_generator_that_loses_datagrams_at_its_own_sockets_says_so() {
        let lossy = |dropped: u64| {
            let mut phase = rate(1, 1.0);
            phase.datagrams.received = 100_000 - dropped;
            phase.datagrams.dropped = dropped;
            phase
        };
        // The share is that of all that came: one in a thousand is allowed.
        assert!(reasons(lossy(100)).is_empty());
        let said = reasons(lossy(2_000));
        assert_eq!(said.len(), 1);
        for part in [
            "2000 of 100000 datagrams (2.00 %, at most 0.1 %)",
            "--processes",
            "net.core.rmem_max",
        ] {
            assert!(said[0].contains(part), "{said:?}");
        }
        // Too few to speak of a share, whatever it is.
        let mut silent = lossy(OWN_DROPS_MIN - 1);
        silent.datagrams.received = 0;
        assert!(reasons(silent).is_empty());
        // A phase without messages is measured as well; a storm is not, nor a change of addresses.
        let mut hold = lossy(2_000);
        hold.offered_per_second = None;
        assert_eq!(reasons(hold).len(), 1);
        let mut storm = lossy(2_000);
        storm.storm = Some(crate::measure::StormResult::default());
        assert!(reasons(storm).is_empty());
        let mut migration = lossy(2_000);
        migration.migration = Some(crate::measure::MigrationResult::default());
        assert!(reasons(migration).is_empty());
        // What the gateway lost is its own, and counts in its figures.
        let mut gateway = lossy(0);
        gateway.datagrams.gateway_dropped = Some(2_000);
        assert!(reasons(gateway).is_empty());
    }

    #[test]
    fn a_generator_that_was_the_bottleneck_says_so() {
        assert!(reasons(rate(1, 5.0)).is_empty());
        assert!(reasons(rate(20, 5.0))[0].contains("20.0 ms late"));
        assert!(reasons(rate(1, 9.5))[0].contains("95 %"));
        let mut late = rate(1, 1.0);
        late.timed_out = true;
        assert_eq!(reasons(late).len(), 1);
        let mut closed = rate(20, 9.9);
        closed.closed_loop = true;
        assert!(reasons(closed).is_empty());
    }
}
