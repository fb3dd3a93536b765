//! Runs before a change beside runs after it: for each metric the ratio, how sure it is, and whether a gate allows it.

mod bootstrap;
mod differences;

use std::fmt::Write as _;
use std::str::FromStr;

use serde::Serialize;

use super::metrics::{self, Better, Definition, Unit};
use super::model::{Outcome, Report};
pub(crate) use differences::differences;

/// Metrics that a gate judges unless others are named: with all of them, one in twenty would be beyond its interval by chance.
const JUDGED: [&str; 12] = [
    "p50_deliver",
    "p99_deliver",
    "p99_ack",
    "p99_login",
    "deliver_rate",
    "login_rate",
    "gateway_us_per_delivery",
    "gateway_us_per_login",
    "gateway_kib_per_connection",
    "back_99",
    "shed",
    "faults",
];
/// Runs a side from which an interval means something.
const RUNS_ENOUGH: usize = 5;

/// How much worse a metric may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Percent(f64);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let complaint = || format!("{text:?} is no share: write it as 5%");
        let number: f64 = text
            .trim()
            .strip_suffix('%')
            .and_then(|digits| digits.trim().parse().ok())
            .ok_or_else(complaint)?;
        match (0.0..=1_000.0).contains(&number) {
            true => Ok(Self(number)),
            false => Err(complaint()),
        }
    }
}

/// What became of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    /// In the good direction, and the interval says that it is no chance (or there is no interval).
    Better,
    /// In the bad direction, likewise.
    Worse,
    /// The interval includes no change.
    Unclear,
    /// Exactly the same.
    Same,
    /// It moved, and says nothing about the gateway.
    Moved,
    /// Measured on one side only.
    Missing,
}

impl Change {
    /// For a reader.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Unclear => "within noise",
            Self::Same => "same",
            Self::Moved => "moved",
            Self::Missing => "on one side only",
        }
    }
}

/// One metric on both sides.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) metric: String,
    pub(crate) unit: &'static str,
    /// Mean of the runs before.
    pub(crate) base: Option<f64>,
    /// Mean of the runs after.
    pub(crate) new: Option<f64>,
    /// New over base; `None` where base is zero and new is not.
    pub(crate) ratio: Option<f64>,
    /// Where the ratio lies in 95 of 100 repetitions; `None` with one run a side.
    pub(crate) interval: Option<(f64, f64)>,
    pub(crate) change: Change,
    /// The gate judged it, and it is worse than allowed.
    pub(crate) missed: bool,
    /// The gate judged it, and only the interval saved it.
    pub(crate) doubtful: bool,
}

/// All metrics of both sides.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Comparison {
    pub(crate) base_runs: usize,
    pub(crate) new_runs: usize,
    /// Percent by which a metric may be worse.
    pub(crate) gate: Option<f64>,
    /// Why the sides are not comparable, where it was forced.
    pub(crate) differences: Vec<String>,
    /// Runs that are worth nothing: which, and why.
    pub(crate) unfit: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

impl Comparison {
    /// Compares; neither side may be empty. `judged` are the metrics that the gate looks at; none: [`JUDGED`].
    pub(crate) fn of(
        base: &[Report],
        new: &[Report],
        gate: Option<Percent>,
        judged: &[String],
        differences: Vec<String>,
    ) -> Self {
        let gate = gate.map(|gate| gate.0);
        let named = !judged.is_empty();
        let is_judged = |name: &str| match named {
            true => judged.iter().any(|judged| judged == name),
            false => JUDGED.contains(&name),
        };
        let rows = metrics::definitions()
            .into_iter()
            .filter_map(|definition| {
                let values = |reports: &[Report]| -> Vec<f64> {
                    let of = |report: &Report| report.metrics.get(&definition.name).copied();
                    reports.iter().filter_map(of).collect()
                };
                let (before, after) = (values(base), values(new));
                let gate = gate.filter(|_| is_judged(&definition.name));
                if before.is_empty() && after.is_empty() && !(named && gate.is_some()) {
                    return None;
                }
                Some(Row::of(&definition, &before, &after, gate))
            })
            .collect();
        Self {
            base_runs: base.len(),
            new_runs: new.len(),
            gate,
            differences,
            unfit: unfit("base", base).chain(unfit("new", new)).collect(),
            rows,
        }
    }

    /// 2 where a run is worth nothing, `missed` where a gate was missed, else 0.
    pub(crate) fn exit_code(&self, missed: u8) -> u8 {
        if !self.unfit.is_empty() {
            return 2;
        }
        match self.rows.iter().any(|row| row.missed) {
            true => missed,
            false => 0,
        }
    }

    /// What the comparison is worth and what the gate says.
    pub(crate) fn verdict(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.unfit.iter().map(|why| format!("UNFIT: {why}")));
        for difference in &self.differences {
            lines.push(format!("NOT COMPARABLE, forced: {difference}"));
        }
        if self.base_runs.min(self.new_runs) < RUNS_ENOUGH {
            lines.push(format!(
                "{} and {} runs: with fewer than {RUNS_ENOUGH} a side, chance may look like a change.",
                self.base_runs, self.new_runs
            ));
        }
        let Some(gate) = self.gate else { return lines };
        let of = |pick: fn(&Row) -> bool| -> Vec<&str> {
            let picked = self.rows.iter().filter(|row| pick(row));
            picked.map(|row| row.metric.as_str()).collect()
        };
        let (missed, doubtful) = (of(|row| row.missed), of(|row| row.doubtful));
        if !missed.is_empty() {
            lines.push(format!(
                "GATE MISSED, worse by more than {gate}%: {}",
                missed.join(", ")
            ));
        }
        if !doubtful.is_empty() {
            lines.push(format!(
                "worse by more than {gate}% but within noise, more runs would tell: {}",
                doubtful.join(", ")
            ));
        }
        if missed.is_empty() && doubtful.is_empty() {
            lines.push(format!(
                "gate met: nothing judged is worse by more than {gate}%"
            ));
        }
        lines
    }

    /// As a table for a terminal.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{:<30} {:>13} {:>13} {:>7} {:>15}",
            "metric", "base", "new", "ratio", "95 % interval"
        );
        for row in &self.rows {
            let cells = row.cells();
            let _ = writeln!(
                out,
                "{:<30} {:>13} {:>13} {:>7} {:>15}  {}",
                row.metric, cells[0], cells[1], cells[2], cells[3], cells[4]
            );
        }
        out.push('\n');
        for line in self.verdict() {
            let _ = writeln!(out, "{line}");
        }
        out
    }

    /// As a table for a pull request.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::from(
            "| metric | base | new | ratio | 95 % interval | |\n|---|---:|---:|---:|---:|---|\n",
        );
        for row in &self.rows {
            let _ = writeln!(out, "| `{}` | {} |", row.metric, row.cells().join(" | "));
        }
        out.push('\n');
        for line in self.verdict() {
            let _ = writeln!(out, "- {}", super::markdown::escape(&line));
        }
        out
    }

    /// As JSON.
    pub(crate) fn json(&self) -> String {
        // Only a map with keys that are no strings could fail, and there is none.
        let mut text = serde_json::to_string_pretty(self).expect("every key is a string");
        text.push('\n');
        text
    }
}

impl Row {
    fn of(definition: &Definition, before: &[f64], after: &[f64], gate: Option<f64>) -> Self {
        let (base, new) = (bootstrap::mean(before), bootstrap::mean(after));
        let both = base.zip(new);
        let ratio = both.and_then(|(base, new)| bootstrap::ratio(base, new));
        let interval = bootstrap::interval(before, after);
        let change = change(definition.better, both, interval);
        // How many percent worse; what was nothing and is something is infinitely worse.
        let worse_by = match (definition.better, both, ratio) {
            (Better::Neither, _, _) => Some(0.0),
            (_, None, _) => None,
            (Better::Lower, Some(_), ratio) => {
                Some(ratio.map_or(f64::INFINITY, |r| (r - 1.0) * 100.0))
            }
            (Better::Higher, Some(_), ratio) => Some(ratio.map_or(0.0, |r| (1.0 - r) * 100.0)),
        };
        let beyond = gate.is_some_and(|gate| worse_by.is_none_or(|by| by > gate));
        Self {
            metric: definition.name.clone(),
            unit: definition.unit.symbol(),
            base,
            new,
            ratio,
            interval,
            change,
            missed: beyond && change != Change::Unclear,
            doubtful: beyond && change == Change::Unclear,
        }
    }

    /// Base, new, ratio, interval and what became of it.
    pub(crate) fn cells(&self) -> [String; 5] {
        let unit = Unit::of_symbol(self.unit);
        let number = |value: Option<f64>| match (value, unit) {
            (Some(value), Some(unit)) => unit.show(value),
            (Some(value), None) => value.to_string(),
            (None, _) => "-".to_owned(),
        };
        [
            number(self.base),
            number(self.new),
            self.ratio
                .map_or_else(|| "-".to_owned(), |r| format!("{r:.3}")),
            self.interval.map_or_else(
                || "-".to_owned(),
                |(low, high)| format!("{low:.3}-{high:.3}"),
            ),
            match (self.missed, self.doubtful) {
                (true, _) => format!("{}, GATE MISSED", self.change.words()),
                (false, true) => format!("{}, beyond the gate", self.change.words()),
                (false, false) => self.change.words().to_owned(),
            },
        ]
    }
}

fn change(better: Better, both: Option<(f64, f64)>, interval: Option<(f64, f64)>) -> Change {
    let Some((base, new)) = both else {
        return Change::Missing;
    };
    if base == new {
        return Change::Same;
    }
    if interval.is_some_and(|(low, high)| low <= 1.0 && 1.0 <= high) {
        return Change::Unclear;
    }
    match (better, new > base) {
        (Better::Neither, _) => Change::Moved,
        (Better::Lower, false) | (Better::Higher, true) => Change::Better,
        (Better::Lower, true) | (Better::Higher, false) => Change::Worse,
    }
}

/// Runs whose numbers say nothing.
fn unfit<'a>(side: &'a str, reports: &'a [Report]) -> impl Iterator<Item = String> + 'a {
    reports.iter().enumerate().filter_map(move |(at, report)| {
        let why = match report.verdict.outcome {
            Outcome::Passed | Outcome::GateMissed => return None,
            Outcome::Invalid => report.verdict.invalid.join("; "),
            Outcome::Faults => super::text::sentence(report),
        };
        Some(format!("{side} run {}: {why}", at + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    /// Runs whose `p99_deliver` are these, everything else the same.
    fn runs(p99s: &[f64]) -> Vec<Report> {
        let with = |p99: &f64| {
            let mut report = sample::report();
            report.metrics.insert("p99_deliver".to_owned(), *p99);
            report
        };
        p99s.iter().map(with).collect()
    }

    fn compare(base: &[f64], new: &[f64], gate: &str) -> (Row, u8) {
        let gate = Some(gate.parse().unwrap());
        let comparison = Comparison::of(&runs(base), &runs(new), gate, &[], Vec::new());
        let find = |row: &&Row| row.metric == "p99_deliver";
        let row = comparison.rows.iter().find(find).unwrap().clone();
        (row, comparison.exit_code(1))
    }

    #[test]
    fn a_clear_worsening_misses_the_gate() {
        let (row, code) = compare(
            &[10.0, 10.1, 9.9, 10.2, 9.8],
            &[12.0, 12.1, 11.9, 12.2, 11.8],
            "5%",
        );
        let (low, high) = row.interval.unwrap();
        assert!(low > 1.17 && high < 1.23 && low < high, "{row:?}");
        assert!((row.ratio.unwrap() - 1.2).abs() < 1e-9);
        assert_eq!((row.change, row.missed, code), (Change::Worse, true, 1));
        assert_eq!(compare(&[10.0; 5], &[12.0; 5], "25%").1, 0);
    }

    #[test]
    fn noise_does_not() {
        let (row, code) = compare(
            &[5.0, 15.0, 8.0, 12.0, 10.0],
            &[6.0, 19.0, 9.0, 14.0, 11.0],
            "5%",
        );
        assert!(row.ratio.unwrap() > 1.05);
        assert_eq!(
            (row.change, row.missed, row.doubtful, code),
            (Change::Unclear, false, true, 0)
        );
    }

    #[test]
    fn one_run_a_side_is_judged_by_its_numbers() {
        let (row, code) = compare(&[10.0], &[10.6], "5%");
        assert_eq!((row.interval, row.missed, code), (None, true, 1));
        let (row, code) = compare(&[10.0], &[9.0], "5%");
        assert_eq!((row.change, code), (Change::Better, 0));
    }

    #[test]
    fn the_good_direction_depends_on_the_metric() {
        let at = |name: &str, base: f64, new: f64| {
            let definition = metrics::definition(name).unwrap();
            Row::of(&definition, &[base], &[new], Some(5.0))
        };
        assert!(at("deliver_rate", 100.0, 90.0).missed);
        assert!(!at("deliver_rate", 100.0, 110.0).missed);
        assert!(at("faults", 0.0, 1.0).missed, "from none to one");
        assert_eq!(at("faults", 0.0, 0.0).change, Change::Same);
        assert_eq!(at("sent", 1.0, 2.0).change, Change::Moved);
        assert!(!at("sent", 1.0, 2.0).missed);
    }

    #[test]
    fn a_judged_metric_that_one_side_lacks_misses_the_gate() {
        let base = runs(&[1.0]);
        let mut new = runs(&[1.0]);
        new[0].metrics.remove("p99_deliver");
        let gate = Some("5%".parse().unwrap());
        assert_eq!(
            Comparison::of(&base, &new, gate, &[], Vec::new()).exit_code(1),
            1
        );
        let other = ["p50_ack".to_owned()];
        assert_eq!(
            Comparison::of(&base, &new, gate, &other, Vec::new()).exit_code(1),
            0
        );
    }

    #[test]
    fn a_run_with_faults_spoils_the_comparison() {
        let base = runs(&[1.0]);
        let mut new = runs(&[1.0]);
        new[0].verdict.faults.insert("lost".to_owned(), 1);
        new[0].finish(&[]);
        let comparison = Comparison::of(&base, &new, None, &[], Vec::new());
        assert_eq!(comparison.exit_code(1), 2);
        assert!(
            comparison.text().contains("UNFIT: new run 1"),
            "{}",
            comparison.text()
        );
    }

    #[test]
    fn shares_are_parsed() {
        assert_eq!("5%".parse(), Ok(Percent(5.0)));
        assert_eq!(" 0.5 %".parse(), Ok(Percent(0.5)));
        for wrong in ["5", "-1%", "x%", "", "NaN%", "2000%"] {
            assert!(wrong.parse::<Percent>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn judged_metrics_exist() {
        for name in JUDGED {
            assert_ne!(
                metrics::definition(name).unwrap().better,
                Better::Neither,
                "{name}"
            );
        }
    }

    #[test]
    fn reads_well() {
        let gate = Some("5%".parse().unwrap());
        let (base, new) = ([sample::report()], [sample::scaled(2)]);
        let comparison = Comparison::of(&base, &new, gate, &[], Vec::new());
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!("comparison_text", comparison.text());
        });
    }
}
