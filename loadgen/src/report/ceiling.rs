//! The transport's ceiling in a report: which of its numbers stand beside which of a run's.

use anyhow::Context as _;
use serde_json::Value;

use super::metrics::Metrics;
use super::model::Report;

/// A metric of a run, and where `quipu-loadgen ceiling` has the same of bare quinn.
const PAIRS: [(&str, &str); 4] = [
    ("login_rate", "/ramp/per_second"),
    ("gateway_us_per_login", "/ramp/server_us_each"),
    ("gateway_kib_per_connection", "/ramp/kib_per_connection"),
    ("gateway_us_per_delivery", "/echo/server_us_each"),
];
/// The echo is a closed loop: only a run without a schedule has a rate that may be held against it.
const RATE: (&str, &str) = ("deliver_rate", "/echo/per_second");

impl Report {
    /// Puts the numbers of a measured ceiling, as `quipu-loadgen ceiling` prints them, beside the run's own.
    ///
    /// # Errors
    ///
    /// It is no such thing.
    pub(crate) fn set_ceiling(&mut self, ceiling: &Value) -> anyhow::Result<()> {
        let number = |path: &str| ceiling.pointer(path).and_then(Value::as_f64);
        number(RATE.1).context("not what `quipu-loadgen ceiling` prints: no echo's rate in it")?;
        let mut loaded = self.phases.iter().filter(|phase| phase.sent > 0).peekable();
        let closed = loaded.peek().is_some() && loaded.all(|phase| phase.closed_loop);
        let numbers: Metrics = PAIRS
            .into_iter()
            .chain(closed.then_some(RATE))
            .filter_map(|(name, path)| Some((name.to_owned(), number(path)?)))
            .collect();
        self.ceiling = numbers;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceiling::Ceiling;
    use crate::measure::Histogram;
    use crate::percentiles::Percentiles;
    use crate::plan::{Ramp, Throughput};
    use crate::report::{metrics, sample, text};

    fn measured() -> Value {
        let ceiling = Ceiling {
            ramp: Ramp {
                connections: 1_000,
                per_second: 250.0,
                kib_per_connection: Some(40.0),
                server_us_each: Some(400.0),
            },
            echo: Throughput {
                offered_per_second: None,
                per_second: 30_000.0,
                ack: Percentiles::from(&Histogram::default()),
                delivery: None,
                lag: None,
                server_us_each: Some(12.0),
                server_cores: Some(0.5),
                generator_cores: 0.5,
            },
        };
        serde_json::to_value(ceiling).unwrap()
    }

    #[test]
    fn each_number_has_its_counterpart() {
        let mut report = sample::report();
        report.set_ceiling(&measured()).unwrap();
        for (name, value) in [
            ("login_rate", 250.0),
            ("gateway_us_per_login", 400.0),
            ("gateway_kib_per_connection", 40.0),
            ("gateway_us_per_delivery", 12.0),
        ] {
            assert_eq!(report.ceiling.get(name), Some(&value), "{name}");
            assert!(metrics::definition(name).is_some(), "{name}");
        }
        assert!(text::render(&report).contains("200/s (0.80 of bare quinn's 250/s)"));
    }

    #[test]
    fn a_rate_is_held_against_it_only_where_there_is_no_schedule() {
        let mut report = sample::report();
        report.set_ceiling(&measured()).unwrap();
        assert_eq!(report.ceiling.get("deliver_rate"), None);
        for phase in &mut report.phases {
            phase.closed_loop = true;
        }
        report.set_ceiling(&measured()).unwrap();
        assert_eq!(report.ceiling.get("deliver_rate"), Some(&30_000.0));
    }

    #[test]
    fn something_else_is_refused() {
        let error = sample::report().set_ceiling(&serde_json::json!({"ramp": 1}));
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("quipu-loadgen ceiling")
        );
    }
}
