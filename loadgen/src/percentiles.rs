//! A few points of a distribution, as the measurements against the bare transport print them.

use serde::Serialize;

use crate::measure::Histogram;

/// A few points of a distribution, in milliseconds; all zero when nothing was counted.
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

impl From<&Histogram> for Percentiles {
    fn from(histogram: &Histogram) -> Self {
        let ms = |quantile| histogram.quantile_ms(quantile).unwrap_or_default();
        Self {
            count: histogram.count(),
            p50_ms: ms(0.5),
            p90_ms: ms(0.9),
            p99_ms: ms(0.99),
            p999_ms: ms(0.999),
            max_ms: histogram.max_ms().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn they_are_in_milliseconds() {
        let mut histogram = Histogram::default();
        assert_eq!(Percentiles::from(&histogram).p99_ms, 0.0);
        for ms in 1..=100 {
            histogram.record(Duration::from_millis(ms));
        }
        let seen = Percentiles::from(&histogram);
        assert!((seen.p50_ms - 50.0).abs() < 0.1, "{seen:?}");
        assert!((seen.p99_ms - 99.0).abs() < 0.1, "{seen:?}");
        assert_eq!(seen.count, 100);
    }
}
