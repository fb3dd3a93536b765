//! What one generator process says of itself while it runs, in a form that adds up with what the others say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::measure::{Failure, Histogram, Sample, Totals, Verdicts, merge_failures};

/// One second with whole distributions: percentiles of several processes are taken after adding up, never before.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Second {
    /// Counts, without percentiles.
    pub(crate) sample: Sample,
    /// From due to delivery.
    pub(crate) deliver: Histogram,
    /// From due to ack.
    pub(crate) ack: Histogram,
    /// From due to the generator's getting to it.
    pub(crate) lag: Histogram,
}

impl Second {
    /// Adds the same second of another process. What only one of them can look at stays as it is.
    pub(crate) fn merge(&mut self, other: &Self) {
        let (ours, theirs) = (&mut self.sample, &other.sample);
        ours.phase = ours.phase.max(theirs.phase);
        ours.target += theirs.target;
        ours.sent += theirs.sent;
        ours.acked += theirs.acked;
        ours.delivered += theirs.delivered;
        ours.shed += theirs.shed;
        ours.connections += theirs.connections;
        ours.logins += theirs.logins;
        ours.connections_lost += theirs.connections_lost;
        ours.generator_cores += theirs.generator_cores;
        ours.generator_rss_bytes += theirs.generator_rss_bytes;
        // The kernel's count is that of the whole machine: both have looked at the same.
        ours.udp_drops = ours.udp_drops.max(theirs.udp_drops);
        ours.generator_drops += theirs.generator_drops;
        // All look at one gateway.
        ours.gateway_drops = ours.gateway_drops.max(theirs.gateway_drops);
        ours.network_drops += theirs.network_drops;
        self.deliver.merge(&other.deliver);
        self.ack.merge(&other.ack);
        self.lag.merge(&other.lag);
    }

    /// The second with its percentiles.
    pub(crate) fn sample(&self) -> Sample {
        Sample {
            deliver_p50_ms: self.deliver.quantile_ms(0.5),
            deliver_p99_ms: self.deliver.quantile_ms(0.99),
            deliver_p999_ms: self.deliver.quantile_ms(0.999),
            ack_p50_ms: self.ack.quantile_ms(0.5),
            ack_p99_ms: self.ack.quantile_ms(0.99),
            lag_p99_ms: self.lag.quantile_ms(0.99),
            ..self.sample.clone()
        }
    }
}

/// How a process stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// Messages under way.
    pub(crate) under_way: u64,
    /// Devices logged in.
    pub(crate) connections: u64,
    /// Verdicts so far.
    pub(crate) verdicts: Verdicts,
    /// Counts so far.
    pub(crate) totals: Totals,
    /// Failures so far.
    pub(crate) failures: BTreeMap<String, Failure>,
}

impl Standing {
    /// Adds another process's.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.under_way += other.under_way;
        self.connections += other.connections;
        self.verdicts.merge(&other.verdicts);
        self.totals.merge(&other.totals);
        merge_failures(&mut self.failures, &other.failures);
    }
}

/// Memory at one moment of a ramp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemoryPoint {
    /// Devices logged in.
    pub(crate) connections: u64,
    /// Resident memory of the gateway; `None` where it is not ours to look at.
    pub(crate) gateway_bytes: Option<u64>,
    /// Of the generator, all of its processes together.
    pub(crate) generator_bytes: u64,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn percentiles_are_those_of_all_processes_together() {
        let (mut one, mut two) = (Second::default(), Second::default());
        one.sample.delivered = 99;
        two.sample.delivered = 1;
        for _ in 0..99 {
            one.deliver.record(Duration::from_millis(1));
        }
        two.deliver.record(Duration::from_millis(500));
        one.merge(&two);
        let sample = one.sample();
        assert_eq!(sample.delivered, 100);
        // The mean of two medians would be 250 ms.
        assert!(sample.deliver_p50_ms.unwrap() < 1.1, "{sample:?}");
        assert!(sample.deliver_p999_ms.unwrap() > 499.0, "{sample:?}");
    }
}
