//! Gates: a condition on a metric, such as `p99_deliver<10ms` or `talk.deliver_rate>=10k/s`.

use std::fmt;
use std::str::FromStr;

use super::metrics::{self, Unit};
use super::model::{GateResult, Report};

/// `[PHASE.]METRIC OPERATOR VALUE[UNIT]`
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gate {
    /// As it was written.
    text: String,
    /// The whole run without one.
    phase: Option<String>,
    metric: String,
    operator: Operator,
    /// In the metric's unit.
    limit: f64,
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

impl Operator {
    /// Longer ones first, so that `<=` is not read as `<`.
    const WRITTEN: [(&'static str, Self); 6] = [
        ("<=", Self::LessOrEqual),
        (">=", Self::GreaterOrEqual),
        ("==", Self::Equal),
        ("<", Self::Less),
        (">", Self::Greater),
        ("=", Self::Equal),
    ];

    fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::Less => value < limit,
            Self::LessOrEqual => value <= limit,
            Self::Equal => value == limit,
            Self::GreaterOrEqual => value >= limit,
            Self::Greater => value > limit,
        }
    }
}

/// What is wrong with a gate, and how to write it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GateError {
    /// No comparison in it.
    #[error(
        "{0:?} compares nothing: write METRIC OPERATOR VALUE, such as 'p99_deliver<10ms' (operators: < <= == >= >)"
    )]
    NoOperator(String),
    /// A name that no report has.
    #[error("there is no metric {name:?}{}; `quipu-loadgen metrics` lists them all", hint(.near))]
    UnknownMetric {
        /// As it was written.
        name: String,
        /// The most similar one.
        near: Option<String>,
    },
    /// A metric that exists for the whole run only.
    #[error("{metric} exists for the whole run only: leave out {phase:?} and the point")]
    NotOfPhases {
        /// The metric.
        metric: String,
        /// The phase that was named.
        phase: String,
    },
    /// Not a number.
    #[error(
        "{0:?} is not a number: write digits, with a point, k (thousand) or M (million), such as 2.5k"
    )]
    NotANumber(String),
    /// A unit of another kind of number.
    #[error("{metric} is counted in {expected}; {found:?} is something else")]
    WrongUnit {
        /// The metric.
        metric: String,
        /// The units that it may have.
        expected: String,
        /// What was written.
        found: String,
    },
}

fn hint(near: &Option<String>) -> String {
    near.as_ref()
        .map_or_else(String::new, |near| format!(" (did you mean {near}?)"))
}

impl Gate {
    /// Whether `report` meets it. A metric that the run does not have misses it: a gate must not pass because nothing was
    /// measured.
    pub(crate) fn judge(&self, report: &Report) -> GateResult {
        let metrics = match &self.phase {
            None => Some(&report.metrics),
            Some(name) => report
                .phases
                .iter()
                .find(|phase| phase.name == *name)
                .map(|phase| &phase.metrics),
        };
        let value = metrics
            .and_then(|metrics| metrics.get(&self.metric))
            .copied();
        GateResult {
            gate: self.text.clone(),
            met: value.is_some_and(|value| self.operator.holds(value, self.limit)),
            value,
            unit: self.unit.symbol().to_owned(),
        }
    }
}

impl GateResult {
    /// In a line: the gate, what was measured, and what came of it.
    pub(crate) fn line(&self) -> String {
        let verdict = if self.met { "met" } else { "MISSED" };
        let unit = metrics::Unit::of_symbol(&self.unit);
        match (self.value, unit) {
            (Some(value), Some(unit)) => {
                format!("{verdict}: {} (measured {})", self.gate, unit.show(value))
            }
            (Some(value), None) => {
                format!("{verdict}: {} (measured {value} {})", self.gate, self.unit)
            }
            (None, _) => format!("{verdict}: {} (not measured in this run)", self.gate),
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Gate {
    type Err = GateError;

    fn from_str(text: &str) -> Result<Self, GateError> {
        let text = text.trim();
        let at = text.find(['<', '>', '=']);
        let split = at.and_then(|at| {
            let (left, right) = text.split_at(at);
            Operator::WRITTEN.iter().find_map(|(written, operator)| {
                Some((left.trim(), *operator, right.strip_prefix(written)?.trim()))
            })
        });
        let Some((subject, operator, value)) = split else {
            return Err(GateError::NoOperator(text.to_owned()));
        };
        // Phases may be called anything; metrics have no point in them.
        let (phase, name) = match subject.rsplit_once('.') {
            Some((phase, name)) => (Some(phase.to_owned()), name),
            None => (None, subject),
        };
        let Some(definition) = metrics::definition(name) else {
            return Err(GateError::UnknownMetric {
                name: name.to_owned(),
                near: nearest(name),
            });
        };
        if let (Some(phase), false) = (&phase, definition.of_phases()) {
            return Err(GateError::NotOfPhases {
                metric: definition.name,
                phase: phase.clone(),
            });
        }
        let limit = limit(&definition, value)?;
        Ok(Self {
            text: text.to_owned(),
            phase,
            metric: definition.name,
            operator,
            limit,
            unit: definition.unit,
        })
    }
}

/// Units that may stand behind a limit, each with its size in the metric's own unit.
fn units(unit: Unit) -> &'static [(&'static str, f64)] {
    match unit {
        Unit::Milliseconds => &[("us", 1e-3), ("ms", 1.0), ("s", 1e3)],
        Unit::Seconds => &[("ms", 1e-3), ("s", 1.0), ("min", 60.0)],
        Unit::Microseconds => &[("us", 1.0), ("ms", 1e3)],
        Unit::PerSecond => &[("/s", 1.0)],
        Unit::Count => &[("", 1.0)],
        Unit::Kibibytes => &[("KiB", 1.0), ("MiB", 1024.0)],
        Unit::Mebibytes => &[("KiB", 1.0 / 1024.0), ("MiB", 1.0), ("GiB", 1024.0)],
        Unit::Cores => &[("", 1.0), ("cores", 1.0)],
        Unit::Percent => &[("%", 1.0)],
    }
}

fn limit(definition: &metrics::Definition, written: &str) -> Result<f64, GateError> {
    let end = written
        .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_'))
        .unwrap_or(written.len());
    let (digits, rest) = written.split_at(end);
    let number: f64 = digits
        .replace('_', "")
        .parse()
        .map_err(|_| GateError::NotANumber(written.to_owned()))?;
    let known = units(definition.unit);
    let size = |unit: &str| {
        known
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, size)| *size)
    };
    let scaled = [("", 1.0), ("k", 1e3), ("M", 1e6)]
        .into_iter()
        .find_map(|(prefix, scale)| Some(scale * size(rest.strip_prefix(prefix)?.trim())?));
    match scaled {
        Some(scale) => Ok(number * scale),
        None => Err(GateError::WrongUnit {
            metric: definition.name.clone(),
            expected: known
                .iter()
                .map(|(name, _)| {
                    if name.is_empty() {
                        "plain numbers"
                    } else {
                        name
                    }
                })
                .collect::<Vec<_>>()
                .join(" or "),
            found: rest.to_owned(),
        }),
    }
}

/// The metric whose name takes the fewest changes, when they are few.
fn nearest(name: &str) -> Option<String> {
    metrics::definitions()
        .into_iter()
        .map(|known| (distance(name, &known.name), known.name))
        .min()
        .filter(|(changes, _)| *changes <= name.len() / 4)
        .map(|(_, known)| known)
}

/// Letters to insert, remove or replace to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn limit_of(text: &str) -> f64 {
        text.parse::<Gate>().unwrap().limit
    }

    #[test]
    fn units_are_converted_to_the_metrics_own() {
        for (text, limit) in [
            ("p99_deliver<10ms", 10.0),
            ("p99_deliver < 500us", 0.5),
            ("p50_ack<=2s", 2_000.0),
            ("deliver_rate>=10k/s", 10_000.0),
            ("deliver_rate >= 1.5M /s", 1_500_000.0),
            ("lost=0", 0.0),
            ("lost==0", 0.0),
            ("connections>=100_000", 100_000.0),
            ("connections>=100k", 100_000.0),
            ("back_100<1min", 60.0),
            ("gateway_kib_per_connection<1MiB", 1_024.0),
            ("gateway_rss<4GiB", 4_096.0),
            ("gateway_cores<1.5", 1.5),
            ("gateway_us_per_delivery<0.1ms", 100.0),
            ("shed_share<0.1%", 0.1),
        ] {
            assert!((limit_of(text) - limit).abs() < 1e-9, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, complaint) in [
            ("p99_deliver", "compares nothing"),
            ("", "compares nothing"),
            ("p99_delivr<1ms", "did you mean p99_deliver?"),
            ("speed<1ms", "there is no metric \"speed\";"),
            ("<1ms", "there is no metric \"\""),
            ("p99_deliver<", "is not a number"),
            ("p99_deliver<fast", "is not a number"),
            ("p99_deliver<1.2.3ms", "is not a number"),
            ("p99_deliver<-1ms", "is not a number"),
            ("p99_deliver<10", "counted in us or ms or s"),
            ("p99_deliver<10MiB", "\"MiB\" is something else"),
            ("lost<1ms", "plain numbers"),
            ("deliver_rate>5", "counted in /s"),
            ("talk.lost=0", "for the whole run only"),
            ("p99_deliver=>1ms", "is not a number"),
        ] {
            let error = text.parse::<Gate>().unwrap_err().to_string();
            assert!(error.contains(complaint), "{text}: {error}");
        }
    }

    #[test]
    fn every_metric_can_be_gated_in_its_own_unit() {
        for definition in metrics::definitions() {
            let text = format!("{}<=1{}", definition.name, definition.unit.symbol());
            assert!((limit_of(&text) - 1.0).abs() < 1e-9, "{text}");
        }
    }

    #[test]
    fn operators_hold_as_they_read() {
        for (operator, below, at, above) in [
            ("<", true, false, false),
            ("<=", true, true, false),
            ("==", false, true, false),
            (">=", false, true, true),
            (">", false, false, true),
        ] {
            let gate: Gate = format!("lost{operator}5").parse().unwrap();
            for (value, met) in [(4.0, below), (5.0, at), (6.0, above)] {
                let mut report = sample::report();
                report.metrics.insert("lost".to_owned(), value);
                assert_eq!(gate.judge(&report).met, met, "{value} {operator} 5");
            }
        }
    }

    #[test]
    fn a_gate_looks_at_the_run_or_at_one_phase() {
        let report = sample::report();
        let judge = |text: &str| text.parse::<Gate>().unwrap().judge(&report);
        let run = judge("p99_deliver<1s");
        assert_eq!(run.value, report.metrics.get("p99_deliver").copied());
        assert!(run.met);
        let phase = judge("talk.sent_rate>1/s");
        let talk = report.phases.iter().find(|phase| phase.name == "talk");
        assert_eq!(phase.value, talk.unwrap().metrics.get("sent_rate").copied());
        assert!(phase.met);
        for text in ["nowhere.p99_deliver<1s", "ramp.p99_deliver<1s"] {
            let unmeasured = judge(text);
            assert_eq!((unmeasured.met, unmeasured.value), (false, None), "{text}");
            assert!(unmeasured.line().contains("not measured"), "{text}");
        }
    }
}
