//! A latency distribution in a report: a few points to read, and the whole histogram to compute any other from.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

/// Latencies in microseconds. In JSON, points in milliseconds and the histogram in HdrHistogram's V2 encoding, deflated, in base64,
/// as the tools of every HdrHistogram library read it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub(crate) struct Distribution(Histogram<u64>);

/// A distribution as JSON has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Written {
    count: u64,
    min_ms: f64,
    mean_ms: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
    /// Microseconds.
    hdr_v2_deflate: String,
}

impl Distribution {
    /// Nothing recorded: 1 microsecond to an hour, three digits. Longer ones count as an hour.
    pub(crate) fn new() -> Self {
        const HOUR_US: u64 = 3_600_000_000;
        // The bounds are constants that the library accepts.
        Self(Histogram::new_with_bounds(1, HOUR_US, 3).expect("constant bounds"))
    }

    /// Of pairs of a latency in microseconds and how often it was.
    pub(crate) fn of(counted: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut all = Self::new();
        for (us, count) in counted {
            all.0.saturating_record_n(us.max(1), count);
        }
        all
    }

    /// Counts one latency.
    #[cfg(test)]
    pub(crate) fn record_us(&mut self, us: u64) {
        self.0.saturating_record(us.max(1));
    }

    /// Adds what `other` has.
    pub(crate) fn merge(&mut self, other: &Self) {
        for step in other.0.iter_recorded() {
            self.0
                .saturating_record_n(step.value_iterated_to(), step.count_at_value());
        }
    }

    /// How many latencies it has.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency below which the share `quantile` (0 to 1) lies, in milliseconds; `None` without any.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| milliseconds(self.0.value_at_quantile(quantile)))
    }

    /// The longest, in milliseconds.
    pub(crate) fn max_ms(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| milliseconds(self.0.max()))
    }

    fn encode(&self) -> String {
        let mut bytes = Vec::new();
        // Fails only for a histogram whose counts are too many for memory, or a writer that refuses; a Vec does not.
        V2DeflateSerializer::new()
            .serialize(&self.0, &mut bytes)
            .expect("a Vec takes every byte");
        STANDARD.encode(bytes)
    }

    fn decode(text: &str) -> Result<Self, String> {
        let bytes = STANDARD
            .decode(text)
            .map_err(|error| format!("a histogram is not base64: {error}"))?;
        Deserializer::new()
            .deserialize::<u64, _>(&mut bytes.as_slice())
            .map(|histogram| {
                let steps = histogram.iter_recorded();
                Self::of(steps.map(|step| (step.value_iterated_to(), step.count_at_value())))
            })
            .map_err(|error| format!("a histogram is not in the V2 deflate encoding: {error}"))
    }
}

fn milliseconds(us: u64) -> f64 {
    us as f64 / 1_000.0
}

impl fmt::Debug for Distribution {
    /// Without its thousands of buckets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Distribution({}, {})", self.0.len(), self.encode())
    }
}

impl From<Distribution> for Written {
    fn from(from: Distribution) -> Self {
        let at = |quantile| from.quantile_ms(quantile).unwrap_or(0.0);
        Self {
            count: from.0.len(),
            min_ms: milliseconds(from.0.min()),
            mean_ms: from.0.mean() / 1_000.0,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: from.max_ms().unwrap_or(0.0),
            hdr_v2_deflate: from.encode(),
        }
    }
}

impl TryFrom<Written> for Distribution {
    type Error = String;

    fn try_from(from: Written) -> Result<Self, String> {
        let read = Self::decode(&from.hdr_v2_deflate)?;
        match read.count() == from.count {
            true => Ok(read),
            false => Err(format!(
                "a histogram holds {} latencies where the report says {}: the file was changed",
                read.count(),
                from.count
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_percentile_survives_the_file() {
        let mut written = Distribution::new();
        for us in (1..=100_000).step_by(7) {
            written.record_us(us);
        }
        let json = serde_json::to_string(&written).unwrap();
        let read: Distribution = serde_json::from_str(&json).unwrap();
        assert_eq!(read, written);
        for quantile in [0.0, 0.1, 0.5, 0.77, 0.99, 0.9999, 1.0] {
            assert_eq!(read.quantile_ms(quantile), written.quantile_ms(quantile));
        }
        assert!((read.quantile_ms(0.5).unwrap() - 50.0).abs() < 0.1);
    }

    #[test]
    fn merging_is_recording_both() {
        let (mut low, mut high, mut both) = (
            Distribution::new(),
            Distribution::new(),
            Distribution::new(),
        );
        for us in 1..=500 {
            low.record_us(us);
            high.record_us(us * 1_000);
            both.record_us(us);
            both.record_us(us * 1_000);
        }
        low.merge(&high);
        assert_eq!(low, both);
    }

    #[test]
    fn an_empty_one_has_no_percentiles() {
        let none = Distribution::new();
        assert_eq!((none.quantile_ms(0.5), none.max_ms()), (None, None));
        let read: Distribution =
            serde_json::from_str(&serde_json::to_string(&none).unwrap()).unwrap();
        assert_eq!(read.count(), 0);
    }

    #[test]
    fn a_changed_file_is_refused() {
        let mut one = Distribution::new();
        one.record_us(5);
        let json = serde_json::to_string(&one).unwrap();
        for (from, to, complaint) in [
            ("\"count\":1", "\"count\":2", "was changed"),
            ("HIST", "HI%T", "not base64"),
            ("HIST", "TSIH", "V2 deflate"),
        ] {
            let changed = json.replace(from, to);
            assert_ne!(changed, json, "{from}");
            let error = serde_json::from_str::<Distribution>(&changed).unwrap_err();
            assert!(error.to_string().contains(complaint), "{error}");
        }
    }
}
