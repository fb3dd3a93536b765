//! Latency histograms in constant memory, and the percentiles that a report prints.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency told apart from a longer one: a minute.
const LATENCY_US_MAX: u64 = 60_000_000;

/// Latencies from 1 microsecond to a minute, to three digits.
#[derive(Debug, Clone)]
pub(crate) struct Latency(Histogram<u32>);

impl Latency {
    /// Nothing recorded yet.
    pub(crate) fn new() -> Self {
        // The bounds are constants that the library accepts.
        Self(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("constant bounds"))
    }

    /// Counts one; what is longer than a minute counts as a minute.
    pub(crate) fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(us.max(1));
    }

    /// What a report prints.
    pub(crate) fn percentiles(&self) -> Percentiles {
        let ms = |quantile: f64| self.0.value_at_quantile(quantile) as f64 / 1_000.0;
        Percentiles {
            count: self.0.len(),
            p50_ms: ms(0.5),
            p90_ms: ms(0.9),
            p99_ms: ms(0.99),
            p999_ms: ms(0.999),
            max_ms: self.0.max() as f64 / 1_000.0,
        }
    }
}

/// A few points of a distribution, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Percentiles {
    /// How many latencies the distribution has.
    pub(crate) count: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_milliseconds() {
        let mut latency = Latency::new();
        for ms in 1..=100 {
            latency.record(Duration::from_millis(ms));
        }
        let seen = latency.percentiles();
        assert!((seen.p50_ms - 50.0).abs() < 0.1, "{seen:?}");
        assert!((seen.p99_ms - 99.0).abs() < 0.1, "{seen:?}");
        assert_eq!(seen.count, 100);
        latency.record(Duration::from_secs(3_600));
        assert!(latency.percentiles().max_ms >= 60_000.0);
    }
}
