//! The numbers of a run: what they are called, what they count, and how they come from a report's data.
//!
//! Gates, comparisons, text, Markdown and HTML all read these; nothing is computed twice.

mod table;

use std::collections::BTreeMap;

use super::distribution::Distribution;
use super::model::{Measure, Phase, Report};
use crate::measure::Verdicts;

/// Numbers by name; a number that was not measured is not there.
pub(crate) type Metrics = BTreeMap<String, f64>;

/// What a number is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Milliseconds that somebody waited.
    Milliseconds,
    /// Seconds that somebody waited.
    Seconds,
    /// Microseconds of processor time.
    Microseconds,
    /// Things a second.
    PerSecond,
    /// Things.
    Count,
    /// KiB.
    Kibibytes,
    /// MiB.
    Mebibytes,
    /// Processors kept busy.
    Cores,
    /// Parts of a hundred.
    Percent,
}

impl Unit {
    /// Every one.
    const ALL: [Self; 9] = [
        Self::Milliseconds,
        Self::Seconds,
        Self::Microseconds,
        Self::PerSecond,
        Self::Count,
        Self::Kibibytes,
        Self::Mebibytes,
        Self::Cores,
        Self::Percent,
    ];

    /// As it is written behind a number.
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::Microseconds => "us",
            Self::PerSecond => "/s",
            Self::Count => "",
            Self::Kibibytes => "KiB",
            Self::Mebibytes => "MiB",
            Self::Cores => "cores",
            Self::Percent => "%",
        }
    }

    /// The unit that is written `symbol`.
    pub(crate) fn of_symbol(symbol: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.symbol() == symbol)
    }

    /// A number with as many digits as mean something, and its unit.
    pub(crate) fn show(self, value: f64) -> String {
        let number = match self {
            Self::Count if value.fract() == 0.0 => grouped(value),
            Self::PerSecond if value >= 100.0 => grouped(value.round()),
            Self::Milliseconds
            | Self::Seconds
            | Self::Microseconds
            | Self::PerSecond
            | Self::Count
            | Self::Kibibytes
            | Self::Mebibytes
            | Self::Cores
            | Self::Percent => match value.abs() {
                below if below >= 10_000.0 => grouped(value.round()),
                below if below >= 100.0 => format!("{value:.0}"),
                below if below >= 10.0 => format!("{value:.1}"),
                _ => format!("{value:.2}"),
            },
        };
        match self {
            Self::Count => number,
            Self::PerSecond | Self::Percent => format!("{number}{}", self.symbol()),
            Self::Milliseconds
            | Self::Seconds
            | Self::Microseconds
            | Self::Kibibytes
            | Self::Mebibytes
            | Self::Cores => format!("{number} {}", self.symbol()),
        }
    }
}

/// A whole number with its thousands told apart.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    if value < 0.0 {
        out.push('-');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Which way a number should move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Lower,
    Higher,
    /// It describes the load, not the gateway.
    Neither,
}

/// A point of a distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Point {
    Quantile(f64),
    Max,
}

/// Where a number comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    Latency(Measure, Point),
    /// From phases: of one, or of the whole run together.
    Of(fn(&Together) -> Option<f64>),
    /// From the whole run only.
    OfRun(fn(&Report) -> Option<f64>),
    /// One kind of the verdicts' faults.
    Fault(&'static str),
}

/// One number.
#[derive(Debug, Clone)]
pub(crate) struct Definition {
    /// What gates and JSON call it.
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) better: Better,
    /// In words.
    pub(crate) what: String,
    source: Source,
}

impl Definition {
    /// Whether a phase has it too, so that a gate may name the phase.
    pub(crate) fn of_phases(&self) -> bool {
        match self.source {
            Source::Latency(..) | Source::Of(_) => true,
            Source::OfRun(_) | Source::Fault(_) => false,
        }
    }
}

/// Points of each distribution: prefix, where, words.
const POINTS: [(&str, Point, &str); 5] = [
    ("p50", Point::Quantile(0.5), "median"),
    ("p90", Point::Quantile(0.9), "90th percentile"),
    ("p99", Point::Quantile(0.99), "99th percentile"),
    ("p999", Point::Quantile(0.999), "99.9th percentile"),
    ("max", Point::Max, "longest"),
];

/// Every number, in the order of a report.
pub(crate) fn definitions() -> Vec<Definition> {
    let mut all = Vec::new();
    let mut add = |name: &str, unit, better, what: &str, source| {
        all.push(Definition {
            name: name.to_owned(),
            unit,
            better,
            what: what.to_owned(),
            source,
        });
    };
    for measure in Measure::ALL {
        for (prefix, point, words) in POINTS {
            add(
                &format!("{prefix}_{}", measure.name()),
                Unit::Milliseconds,
                Better::Lower,
                &format!("{words}, {}", measure.words()),
                Source::Latency(measure, point),
            );
        }
    }
    for (name, unit, better, what, source) in table::ROWS {
        add(name, *unit, *better, what, *source);
    }
    for (kind, _) in Verdicts::default().each() {
        let what = format!("faults of the kind `{kind}`");
        add(kind, Unit::Count, Better::Lower, &what, Source::Fault(kind));
    }
    all
}

/// The number called `name`.
pub(crate) fn definition(name: &str) -> Option<Definition> {
    definitions().into_iter().find(|known| known.name == name)
}

/// The numbers of the whole run.
pub(crate) fn of_run(report: &Report) -> Metrics {
    let together = Together::of(report, 0..report.phases.len());
    let of = |definition: &Definition| match definition.source {
        Source::Latency(measure, point) => together.latency(measure, point),
        Source::Of(of) => of(&together),
        Source::OfRun(of) => of(report),
        Source::Fault(kind) => report.verdict.faults.get(kind).map(|count| *count as f64),
    };
    gather(of)
}

/// The numbers of phase number `at`.
pub(crate) fn of_phase(report: &Report, at: usize) -> Metrics {
    let together = Together::of(report, at..at + 1);
    let of = |definition: &Definition| match definition.source {
        Source::Latency(measure, point) => together.latency(measure, point),
        Source::Of(of) => of(&together),
        Source::OfRun(_) | Source::Fault(_) => None,
    };
    gather(of)
}

fn gather(of: impl Fn(&Definition) -> Option<f64>) -> Metrics {
    definitions()
        .into_iter()
        .filter_map(|definition| {
            // JSON has no infinity; a number that is none was not measured.
            let value = of(&definition).filter(|value| value.is_finite())?;
            Some((definition.name, rounded(value)))
        })
        .collect()
}

/// To nine digits: more mean nothing, and these survive every JSON parser exactly.
fn rounded(value: f64) -> f64 {
    format!("{value:.8e}").parse().unwrap_or(value)
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| 100.0 * part as f64 / whole as f64)
}

/// Sums over some phases.
#[derive(Debug, Default)]
struct Sums {
    seconds: f64,
    due: u64,
    sent: u64,
    acked: u64,
    delivered: u64,
    shed: u64,
    logins: u64,
    connections_lost: u64,
    udp_drops: u64,
    generator_drops: u64,
    /// Datagrams that came to the generator, the dropped ones included.
    generator_datagrams: u64,
    /// `None` while no phase knows it.
    gateway_drops: Option<u64>,
    /// `None` once a phase does not know it.
    gateway_cpu_s: Option<f64>,
    generator_cpu_s: f64,
}

impl Sums {
    fn of<'a>(phases: impl Iterator<Item = &'a Phase>) -> Self {
        let mut sums = Self {
            gateway_cpu_s: Some(0.0),
            ..Self::default()
        };
        for phase in phases {
            sums.seconds += phase.seconds;
            sums.due += phase.due;
            sums.sent += phase.sent;
            sums.acked += phase.acked;
            sums.delivered += phase.delivered;
            sums.shed += phase.shed;
            sums.logins += phase.logins;
            sums.connections_lost += phase.connections_lost;
            sums.udp_drops += phase.udp_drops;
            sums.generator_drops += phase.generator_drops;
            sums.generator_datagrams += phase.generator_received + phase.generator_drops;
            if let Some(drops) = phase.gateway_drops {
                *sums.gateway_drops.get_or_insert(0) += drops;
            }
            sums.gateway_cpu_s = sums
                .gateway_cpu_s
                .zip(phase.gateway_cpu_s)
                .map(|(a, b)| a + b);
            sums.generator_cpu_s += phase.generator_cpu_s;
        }
        sums
    }

    fn rate(&self, count: u64) -> Option<f64> {
        (count > 0 && self.seconds > 0.0).then(|| count as f64 / self.seconds)
    }

    fn gateway_us_each(&self, count: u64) -> Option<f64> {
        (count > 0).then_some(self.gateway_cpu_s? * 1e6 / count as f64)
    }

    fn gateway_cores(&self) -> Option<f64> {
        (self.seconds > 0.0).then_some(self.gateway_cpu_s? / self.seconds)
    }

    fn generator_cores(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.generator_cpu_s / self.seconds)
    }
}

/// One or more phases, taken together.
struct Together {
    all: Sums,
    /// Those in which messages were started.
    loaded: Sums,
    /// Those of [`opening`].
    opening: Sums,
    latencies: BTreeMap<Measure, Distribution>,
    connections: Option<u64>,
    gateway_rss: Option<u64>,
    generator_rss: Option<u64>,
    thrown_off: u64,
    back: u64,
    returns: Distribution,
    migration_lost: Option<u64>,
}

impl Together {
    fn of(report: &Report, range: std::ops::Range<usize>) -> Self {
        let phases = &report.phases[range.clone()];
        let seconds = || {
            report
                .series
                .iter()
                .filter(|second| range.contains(&second.phase))
        };
        let mut latencies = BTreeMap::new();
        let (mut thrown_off, mut back, mut returns) = (0, 0, Distribution::new());
        for phase in phases {
            for (measure, distribution) in &phase.latencies {
                latencies
                    .entry(*measure)
                    .or_insert_with(Distribution::new)
                    .merge(distribution);
            }
            if let Some(storm) = &phase.storm {
                thrown_off += storm.dropped;
                back += storm.back;
                returns.merge(&storm.returns);
            }
        }
        let gateway_rss = phases
            .iter()
            .filter_map(|phase| phase.gateway_resident_bytes);
        Self {
            all: Sums::of(phases.iter()),
            loaded: Sums::of(phases.iter().filter(|phase| phase.starts_messages())),
            opening: Sums::of(opening(phases)),
            latencies,
            connections: seconds().map(|second| second.connections).max(),
            gateway_rss: seconds()
                .filter_map(|second| second.gateway_rss_bytes)
                .chain(gateway_rss)
                .max(),
            generator_rss: seconds().map(|second| second.generator_rss_bytes).max(),
            thrown_off,
            back,
            returns,
            migration_lost: phases
                .iter()
                .filter_map(|phase| phase.migration.as_ref().map(|migration| migration.lost))
                .reduce(|a, b| a + b),
        }
    }

    fn latency(&self, measure: Measure, point: Point) -> Option<f64> {
        let distribution = self.latencies.get(&measure)?;
        match point {
            Point::Quantile(quantile) => distribution.quantile_ms(quantile),
            Point::Max => distribution.max_ms(),
        }
    }

    /// Seconds until `wanted` (0 to 1) of those thrown off were back; `None`: they were not.
    fn back(&self, wanted: f64) -> Option<f64> {
        let needed = (self.thrown_off as f64 * wanted).ceil();
        if self.thrown_off == 0 || (self.returns.count() as f64) < needed {
            return None;
        }
        let of_returned = needed / self.returns.count() as f64;
        Some(self.returns.quantile_ms(of_returned)? / 1_000.0)
    }

    fn back_share(&self) -> Option<f64> {
        share(self.back, self.thrown_off)
    }
}

impl Phase {
    /// Whether the phase's load is messages.
    fn starts_messages(&self) -> bool {
        self.due > 0 || self.sent > 0
    }
}

/// The phases that say how fast sessions open: ramps, or where there is none, storms. A few that reconnect during a hold say
/// nothing about a rate, nor does a phase that sends besides.
fn opening(phases: &[Phase]) -> impl Iterator<Item = &Phase> {
    let is = |phase: &Phase, kind: &str| phase.kind == kind && !phase.starts_messages();
    let kind = match phases.iter().any(|phase| is(phase, "ramp")) {
        true => "ramp",
        false => "storm",
    };
    phases.iter().filter(move |phase| is(phase, kind))
}
