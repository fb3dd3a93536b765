//! `quipu-loadgen loss-curve`: plays one scenario at several rates of loss, and sets what came of it side by side.

use std::path::PathBuf;

use anyhow::ensure;
use serde::Serialize;

use crate::gateway::Target;
use crate::measure::{Histogram, Measurement};
use crate::percentiles::Percentiles;
use crate::report;
use crate::report::model::{Outcome, Report};
use crate::scenario::Changes;
use crate::scenario_run::{self, Stage};
use crate::stop::Stop;

/// Name and version of the JSON form.
const SCHEMA: &str = "quipu-loadgen/loss-curve/1";
/// Points of a curve at the most: each is a whole run.
const POINTS_MAX: usize = 20;

/// Plays a scenario at several rates of loss and prints throughput, latency and retransmissions side by side.
///
/// Every point is a run of its own, with a gateway of its own unless --server names one. Exit code 2: a run had faults or was
/// invalid.
#[derive(Debug, clap::Args)]
pub(crate) struct LossCurve {
    /// A name or a file that ends in .toml; its [network] has the delay, and its loss is replaced
    #[arg(default_value = "loss")]
    scenario: String,
    /// Shares of the datagrams that vanish on each way, in percent
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_values_t = [0.0, 1.0, 5.0, 10.0])]
    loss: Vec<f64>,
    #[command(flatten)]
    changes: Changes,
    #[command(flatten)]
    target: Target,
    /// Write the table, with the whole report of every run, to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table and the charts of every run to this file, as one page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What came of one rate of loss.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Point {
    /// Share of the datagrams that vanish on each way.
    pub(crate) loss: f64,
    /// Messages delivered a second in the closed loop, where the scenario has one.
    pub(crate) most_per_second: Option<f64>,
    /// Messages delivered a second in the open loop, where it has one.
    pub(crate) paced_per_second: Option<f64>,
    /// From due to delivery in the open loop.
    pub(crate) deliver: Percentiles,
    /// From the start of a handshake to WELCOME.
    pub(crate) login: Percentiles,
    /// QUIC packets that the devices sent.
    pub(crate) packets_sent: u64,
    /// Of them, those that they took for lost, and whose frames they sent again.
    pub(crate) packets_lost: u64,
    /// Datagrams that the network dropped, of both ways together.
    pub(crate) network_drops: u64,
    /// Messages that were verified.
    pub(crate) verified: u64,
    /// `passed`, `invalid`, `faults`.
    pub(crate) outcome: Outcome,
}

/// All of them.
#[derive(Debug, Serialize)]
pub(crate) struct Curve {
    schema: &'static str,
    pub(crate) scenario: String,
    pub(crate) points: Vec<Point>,
    /// The run behind each point.
    pub(crate) reports: Vec<Report>,
}

impl LossCurve {
    /// Does it and says the exit code.
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        ensure!(
            self.loss.len() <= POINTS_MAX && self.loss.iter().all(|one| (0.0..100.0).contains(one)),
            "--loss takes up to {POINTS_MAX} numbers from 0 to below 100, as in 0,1,5,10"
        );
        let mut scenario = scenario_run::read(&self.scenario)?;
        scenario.change(&self.changes)?;
        let stop = Stop::default();
        stop.heed_interrupts()?;
        let stage = Stage::plain(&stop);
        let mut curve = Curve {
            schema: SCHEMA,
            scenario: scenario.name.clone(),
            points: Vec::new(),
            reports: Vec::new(),
        };
        for percent in &self.loss {
            if stop.is_set() {
                break;
            }
            scenario.network.loss = percent / 100.0;
            eprintln!("{} at {percent} % loss", scenario.name);
            let measured = tokio::select! {
                measured = scenario_run::play(&scenario, &self.target, &stage) => measured?,
                () = stop.wished_twice() => break,
            };
            let report = scenario_run::report_of(&scenario, &measured, &[])?;
            let outcome = report.verdict.outcome;
            curve
                .points
                .push(Point::of(scenario.network.loss, &measured, outcome));
            curve.reports.push(report);
        }
        report::command::write(None, &curve.markdown())?;
        if let Some(path) = &self.json {
            report::command::write(Some(path), &serde_json::to_string_pretty(&curve)?)?;
        }
        if let Some(path) = &self.html {
            report::command::write(Some(path), &report::html::loss_curve(&curve))?;
        }
        let codes = curve.points.iter().map(|point| point.outcome.exit_code());
        Ok(codes.max().unwrap_or_default())
    }
}

impl Point {
    fn of(loss: f64, measured: &Measurement, outcome: Outcome) -> Self {
        let (mut deliver, mut login) = (Histogram::default(), Histogram::default());
        let (mut most, mut paced) = (None, None);
        for phase in &measured.phases {
            login.merge(&phase.latency.login);
            if phase.sent == 0 {
                continue;
            }
            let rate = phase.delivered_per_second();
            if phase.closed_loop {
                most = Some(most.map_or(rate, |known: f64| known.max(rate)));
            } else if phase.offered_per_second.is_some() {
                paced = Some(paced.map_or(rate, |known: f64| known.max(rate)));
                deliver.merge(&phase.latency.deliver);
            }
        }
        Self {
            loss,
            most_per_second: most,
            paced_per_second: paced,
            deliver: (&deliver).into(),
            login: (&login).into(),
            packets_sent: measured.totals.packets_sent,
            packets_lost: measured.totals.packets_lost,
            network_drops: measured.samples.iter().map(|one| one.network_drops).sum(),
            verified: measured.totals.delivered,
            outcome,
        }
    }

    /// Share of the devices' packets that they sent again.
    fn resent_share(&self) -> f64 {
        self.packets_lost as f64 / self.packets_sent.max(1) as f64
    }
}

impl Curve {
    /// What the columns are.
    pub(crate) const HEADINGS: [&str; 10] = [
        "loss each way",
        "most, a second",
        "paced, a second",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "log-in p50 ms",
        "packets resent",
        "verified",
        "outcome",
    ];

    /// The rows of the table.
    pub(crate) fn rows(&self) -> Vec<[String; 10]> {
        let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |n| format!("{n:.0}"));
        let row = |point: &Point| {
            [
                format!("{:.1} %", point.loss * 100.0),
                rate(point.most_per_second),
                rate(point.paced_per_second),
                format!("{:.1}", point.deliver.p50_ms),
                format!("{:.1}", point.deliver.p99_ms),
                format!("{:.1}", point.deliver.p999_ms),
                format!("{:.1}", point.login.p50_ms),
                format!(
                    "{} of {} ({:.1} %)",
                    point.packets_lost,
                    point.packets_sent,
                    point.resent_share() * 100.0
                ),
                point.verified.to_string(),
                point.outcome.words().to_owned(),
            ]
        };
        self.points.iter().map(row).collect()
    }

    /// As a Markdown table.
    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let headings = Self::HEADINGS.map(str::to_owned);
        let rules = Self::HEADINGS.map(|_| "---".to_owned());
        let rows: String = self.rows().iter().map(|row| line(row)).collect();
        format!("{}{}{rows}", line(&headings), line(&rules))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::report::sample;

    /// A curve of two runs.
    pub(crate) fn curve() -> Curve {
        let measured = sample::measurement();
        let points = [0.0, 0.05].map(|loss| Point::of(loss, &measured, Outcome::Passed));
        Curve {
            schema: SCHEMA,
            scenario: "loss".to_owned(),
            points: points.into(),
            reports: vec![sample::report(), sample::report()],
        }
    }

    #[test]
    fn latency_is_that_of_the_schedule_and_throughput_that_of_the_closed_loop() {
        let mut measured = sample::measurement();
        let scheduled = Point::of(0.0, &measured, Outcome::Passed);
        assert_eq!(scheduled.most_per_second, None);
        assert!(scheduled.paced_per_second.unwrap() > 0.0);
        assert!(scheduled.deliver.count > 0);
        for phase in &mut measured.phases {
            phase.closed_loop = true;
        }
        let closed = Point::of(0.0, &measured, Outcome::Passed);
        assert_eq!(closed.most_per_second, scheduled.paced_per_second);
        assert_eq!((closed.paced_per_second, closed.deliver.count), (None, 0));
    }

    #[test]
    fn the_table_has_a_row_for_each_rate_of_loss() {
        let text = curve().markdown();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[3].starts_with("| 5.0 % | - |"), "{text}");
        let bars = |line: &&str| line.matches('|').count();
        assert!(
            lines.iter().all(|line| bars(line) == bars(&lines[0])),
            "{text}"
        );
    }
}
