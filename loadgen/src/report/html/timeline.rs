//! The charts over time.

use super::chart::{Axis, Band, Chart, Line};
use super::scale::Scale;
use crate::measure::Sample;
use crate::report::metrics::{Unit, grouped};
use crate::report::model::Report;

/// Lines of a chart: name, class, and the value of a second.
type Lines<'a> = &'a [(&'a str, &'static str, fn(&Sample) -> Option<f64>)];

/// All of them for one run.
pub(super) fn charts(report: &Report) -> Vec<Chart> {
    let over = |id: &str, title: &str, log: bool, show: fn(f64) -> String, lines: Lines<'_>| {
        chart(report, id, title, log, show, lines)
    };
    vec![
        over(
            "rate",
            "Messages a second",
            false,
            count,
            &[
                ("due", "c2 dash", |s| Some(s.target as f64)),
                ("sent", "c4", |s| Some(s.sent as f64)),
                ("delivered", "c1", |s| Some(s.delivered as f64)),
                ("shed", "c3", |s| Some(s.shed as f64)),
            ],
        ),
        over(
            "latency",
            "Latency since due",
            true,
            milliseconds,
            &[
                ("delivery p50", "c1", |s| s.deliver_p50_ms),
                ("delivery p99", "c3", |s| s.deliver_p99_ms),
                ("delivery p99.9", "c2", |s| s.deliver_p999_ms),
                ("ack p50", "c1 dash", |s| s.ack_p50_ms),
                ("ack p99", "c3 dash", |s| s.ack_p99_ms),
                ("generator's lag p99", "c5 dash", |s| s.lag_p99_ms),
            ],
        ),
        over(
            "connections",
            "Connections",
            false,
            count,
            &[
                ("logged in", "c1", |s| Some(s.connections as f64)),
                ("log-ins a second", "c4", |s| Some(s.logins as f64)),
                ("lost a second", "c3", |s| Some(s.connections_lost as f64)),
            ],
        ),
        over(
            "cpu",
            "Processors kept busy",
            false,
            plain,
            &[
                ("gateway", "c1", |s| s.gateway_cores),
                ("generator", "c5 dash", |s| Some(s.generator_cores)),
            ],
        ),
        over(
            "memory",
            "Resident memory, MiB",
            false,
            count,
            &[
                ("gateway", "c1", |s| s.gateway_rss_bytes.map(mebibytes)),
                ("generator", "c5 dash", |s| {
                    Some(mebibytes(s.generator_rss_bytes))
                }),
            ],
        ),
        over(
            "drops",
            "Datagrams dropped a second",
            false,
            count,
            &[
                ("at the generator's sockets", "c3", |s| {
                    Some(s.generator_drops as f64)
                }),
                ("at the gateway's sockets", "c1", |s| {
                    s.gateway_drops.map(|drops| drops as f64)
                }),
                ("by the scenario's network", "c5 dash", |s| {
                    Some(s.network_drops as f64)
                }),
            ],
        ),
    ]
}

/// Delivered messages and their latency of two runs over each other, time counted from each run's beginning.
pub(super) fn overlay(base: &Report, new: &Report) -> Vec<Chart> {
    let longer = if base.run.seconds > new.run.seconds {
        base
    } else {
        new
    };
    let pair = |id: &str,
                title: &str,
                log,
                show: fn(f64) -> String,
                names: [&str; 2],
                of: fn(&Sample) -> Option<f64>| {
        let mut chart = chart(longer, id, title, log, show, &[]);
        chart.lines = vec![
            line(base, names[0], "c2 dash", of),
            line(new, names[1], "c1", of),
        ];
        chart.y = vertical(&chart.lines, log, show);
        chart.description = describe(&chart.lines, show);
        chart
    };
    let names = ["base", "new"];
    vec![
        pair(
            "rate",
            "Messages delivered a second",
            false,
            count,
            names,
            |s| Some(s.delivered as f64),
        ),
        pair(
            "p99",
            "Latency from due to delivery, 99th percentile",
            true,
            milliseconds,
            names,
            |s| s.deliver_p99_ms,
        ),
        pair("connections", "Connections", false, count, names, |s| {
            Some(s.connections as f64)
        }),
        pair(
            "cpu",
            "Processors that the gateway kept busy",
            false,
            plain,
            names,
            |s| s.gateway_cores,
        ),
        pair(
            "memory",
            "Resident memory of the gateway, MiB",
            false,
            count,
            names,
            |s| s.gateway_rss_bytes.map(mebibytes),
        ),
    ]
}

fn chart(
    report: &Report,
    id: &str,
    title: &str,
    log: bool,
    show: fn(f64) -> String,
    lines: Lines<'_>,
) -> Chart {
    let lines: Vec<Line> = lines
        .iter()
        .map(|(name, class, of)| line(report, name, class, *of))
        .collect();
    let last = report.series.last().map_or(1.0, |second| second.at_seconds);
    // The axis ends where the run does: an empty part would look as if something were missing.
    let ticks = Scale::linear(last).ticks();
    let x = Axis {
        scale: Scale::Linear {
            most: last.max(f64::MIN_POSITIVE),
        },
        ticks: ticks
            .into_iter()
            .filter(|tick| *tick <= last)
            .map(|tick| (tick, format!("{tick} s")))
            .collect(),
    };
    Chart {
        id: id.to_owned(),
        title: title.to_owned(),
        description: describe(&lines, show),
        x,
        y: vertical(&lines, log, show),
        bands: report
            .phases
            .iter()
            .map(|phase| Band {
                name: phase.name.clone(),
                from: phase.started_s,
                to: phase.started_s + phase.seconds,
            })
            .collect(),
        lines,
    }
}

fn line(report: &Report, name: &str, class: &'static str, of: fn(&Sample) -> Option<f64>) -> Line {
    Line {
        name: name.to_owned(),
        class,
        points: report
            .series
            .iter()
            .map(|second| (second.at_seconds, of(second)))
            .collect(),
    }
}

fn vertical(lines: &[Line], log: bool, show: fn(f64) -> String) -> Axis {
    let values = lines
        .iter()
        .flat_map(|line| line.points.iter().filter_map(|(_, value)| *value));
    let scale = match log {
        true => Scale::log(values),
        false => Scale::linear(values.fold(0.0, f64::max)),
    };
    Axis::of(scale, show)
}

/// Least and most of each line.
fn describe(lines: &[Line], show: fn(f64) -> String) -> String {
    let parts: Vec<String> = lines
        .iter()
        .map(|line| {
            let values = || line.points.iter().filter_map(|(_, value)| *value);
            match values().next() {
                None => format!("{}: not measured", line.name),
                Some(_) => format!(
                    "{}: from {} to {}",
                    line.name,
                    show(values().fold(f64::INFINITY, f64::min)),
                    show(values().fold(0.0, f64::max))
                ),
            }
        })
        .collect();
    parts.join("; ")
}

fn milliseconds(value: f64) -> String {
    super::curve::milliseconds(value)
}

/// Ticks below one happen where hardly anything did.
fn count(value: f64) -> String {
    match value.fract() == 0.0 {
        true => grouped(value),
        false => format!("{value:.1}"),
    }
}

fn plain(value: f64) -> String {
    Unit::Cores
        .show(value)
        .trim_end_matches(" cores")
        .to_owned()
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}
