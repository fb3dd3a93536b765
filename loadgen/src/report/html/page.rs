//! The page around the charts: verdict, numbers, phases, environment.

use std::fmt::Write as _;

use super::chart::Chart;
use super::{curve, escape, timeline};
use crate::loss_curve::Curve;
use crate::report::compare::{Change, Comparison};
use crate::report::distribution::Distribution;
use crate::report::metrics::{self, Unit};
use crate::report::model::{Measure, Outcome, Report};
use crate::report::text;

const STYLE: &str = include_str!("style.css");

/// Writing to a String cannot fail.
macro_rules! html {
    ($out:expr, $($text:tt)*) => {{ let _ = write!($out, $($text)*); }};
}

/// One run.
pub(super) fn report(report: &Report) -> String {
    let mut out = begin(&format!(
        "{}: {}",
        report.run.scenario,
        report.verdict.outcome.words()
    ));
    html!(
        out,
        "<h1>{}</h1>\n<p>{}</p>\n",
        escape(&report.run.scenario),
        escape(&report.run.about)
    );
    verdict(&mut out, report);
    tiles(&mut out, report);
    charts(&mut out, &timeline::charts(report));
    charts(&mut out, curves(report).as_slice());
    phases(&mut out, report);
    numbers(&mut out, report);
    environment(&mut out, report);
    details(
        &mut out,
        "The configuration",
        &pretty(&report.configuration),
    );
    end(out)
}

/// Two sides.
pub(super) fn comparison(comparison: &Comparison, base: &[Report], new: &[Report]) -> String {
    let mut out = begin("Comparison");
    html!(
        out,
        "<h1>Comparison</h1>\n<p>{} runs before, {} after.</p>\n",
        base.len(),
        new.len()
    );
    let bad = comparison.exit_code(1) != 0;
    let class = if bad { "verdict bad" } else { "verdict good" };
    html!(out, "<div class=\"{class}\"><ul>");
    for line in comparison.verdict() {
        html!(out, "<li>{}</li>", escape(&line));
    }
    out.push_str("</ul></div>\n");
    charts(&mut out, &overlay_curves(base, new));
    if let (Some(base), Some(new)) = (base.first(), new.first()) {
        charts(&mut out, &timeline::overlay(base, new));
    }
    table(
        &mut out,
        "Metrics",
        &["metric", "base", "new", "ratio", "95 % interval", "change"],
    );
    for row in &comparison.rows {
        let class = match (row.missed, row.change) {
            (true, _) | (false, Change::Worse) => "bad",
            (false, Change::Better) => "good",
            (false, Change::Unclear | Change::Same | Change::Moved | Change::Missing) => "",
        };
        html!(out, "<tr><th scope=\"row\">{}</th>", escape(&row.metric));
        let cells = row.cells();
        for cell in &cells[..4] {
            html!(out, "<td>{}</td>", escape(cell));
        }
        html!(
            out,
            "<td class=\"{class}\">{}</td></tr>\n",
            escape(&cells[4])
        );
    }
    end_table(&mut out);
    end(out)
}

/// One table, then the charts of each run.
pub(super) fn loss_curve(curve: &Curve) -> String {
    let mut out = begin(&format!("{}: loss curve", curve.scenario));
    html!(out, "<h1>{}: loss curve</h1>\n", escape(&curve.scenario));
    table(&mut out, "Rates of loss", &Curve::HEADINGS);
    for row in curve.rows() {
        html!(out, "<tr><th scope=\"row\">{}</th>", escape(&row[0]));
        for cell in &row[1..] {
            html!(out, "<td>{}</td>", escape(cell));
        }
        out.push_str("</tr>\n");
    }
    end_table(&mut out);
    charts(&mut out, loss_curves(curve).as_slice());
    for (row, report) in curve.rows().iter().zip(&curve.reports) {
        html!(out, "<h2>{} loss</h2>\n", escape(&row[0]));
        verdict(&mut out, report);
    }
    end(out)
}

fn begin(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{}</title><style>\n{STYLE}</style></head><body><main>\n",
        escape(title)
    )
}

fn end(mut out: String) -> String {
    out.push_str("</main></body></html>\n");
    out
}

fn verdict(out: &mut String, report: &Report) {
    let class = match report.verdict.outcome {
        Outcome::Passed => "good",
        Outcome::GateMissed | Outcome::Invalid | Outcome::Faults => "bad",
    };
    html!(
        out,
        "<div class=\"verdict {class}\"><strong>{}</strong> {}<ul>",
        report.verdict.outcome.words(),
        escape(&text::sentence(report))
    );
    for why in &report.verdict.invalid {
        html!(out, "<li>INVALID: {}</li>", escape(why));
    }
    for gate in &report.verdict.gates {
        html!(out, "<li>gate {}</li>", escape(&gate.line()));
    }
    for (kind, failure) in &report.failures {
        html!(
            out,
            "<li>failure: {}: {} times, the first: {}</li>",
            escape(kind),
            metrics::grouped(failure.count as f64),
            escape(&failure.example)
        );
    }
    if !report.environment.optimised {
        out.push_str("<li>This was a debug build: its figures mean little.</li>");
    }
    html!(
        out,
        "</ul>seed {}, {:.1} s, {}</div>\n",
        escape(&report.run.seed),
        report.run.seconds,
        report.run.ended.words()
    );
}

/// The numbers that are asked for first.
fn tiles(out: &mut String, report: &Report) {
    const FIRST: [(&str, &str); 8] = [
        ("connections", "connections"),
        ("deliver_rate", "delivered"),
        ("p50_deliver", "delivery p50"),
        ("p99_deliver", "delivery p99"),
        ("login_rate", "log-ins"),
        ("gateway_us_per_delivery", "gateway CPU a delivery"),
        ("gateway_kib_per_connection", "gateway memory a connection"),
        ("back_99", "99 % back after"),
    ];
    out.push_str("<div class=\"tiles\">");
    for (name, words) in FIRST {
        let (Some(value), Some(definition)) = (report.metrics.get(name), metrics::definition(name))
        else {
            continue;
        };
        let ratio = report.ceiling.get(name).map_or_else(String::new, |bare| {
            format!("<small>{:.2} of bare quinn's</small>", value / bare)
        });
        html!(
            out,
            "<div><span>{words}</span><b>{}</b>{ratio}</div>",
            escape(&definition.unit.show(*value))
        );
    }
    out.push_str("</div>\n");
}

fn charts(out: &mut String, charts: &[Chart]) {
    for chart in charts {
        html!(out, "<figure>{}</figure>\n", chart.svg());
    }
}

/// All phases taken together.
fn merged<'a>(reports: impl Iterator<Item = &'a Report>, measure: Measure) -> Distribution {
    let mut all = Distribution::new();
    for report in reports {
        for phase in &report.phases {
            if let Some(distribution) = phase.latencies.get(&measure) {
                all.merge(distribution);
            }
        }
    }
    all
}

fn curves(report: &Report) -> Vec<Chart> {
    let of = |measure| merged([report].into_iter(), measure);
    let (deliver, ack, service) = (
        of(Measure::Deliver),
        of(Measure::Ack),
        of(Measure::DeliverService),
    );
    let (login, reconnect) = (of(Measure::Login), of(Measure::Reconnect));
    let name = str::to_owned;
    let messages = curve::chart(
        "curve",
        "Share of messages that were faster",
        &[
            (name("due to delivery"), "c1", &deliver),
            (name("due to ack"), "c4", &ack),
            (name("sent to delivery"), "c2 dash", &service),
        ],
    );
    let sessions = curve::chart(
        "sessions",
        "Share of sessions that opened faster",
        &[
            (name("log-in"), "c1", &login),
            (name("reconnect"), "c3", &reconnect),
        ],
    );
    messages.into_iter().chain(sessions).collect()
}

/// Deliveries of the phases with a schedule, a curve for each rate of loss.
fn loss_curves(curve: &Curve) -> Option<Chart> {
    const CLASSES: [&str; 5] = ["c1", "c4", "c5", "c3", "c2 dash"];
    let deliveries = |report: &Report| {
        let mut all = Distribution::new();
        let scheduled = report.phases.iter().filter(|phase| !phase.closed_loop);
        for phase in scheduled {
            if let Some(distribution) = phase.latencies.get(&Measure::Deliver) {
                all.merge(distribution);
            }
        }
        all
    };
    let all: Vec<Distribution> = curve.reports.iter().map(deliveries).collect();
    let series: Vec<(String, &'static str, &Distribution)> = curve
        .rows()
        .into_iter()
        .zip(CLASSES.into_iter().cycle())
        .zip(&all)
        .map(|(([loss, ..], class), deliveries)| (format!("{loss} loss"), class, deliveries))
        .collect();
    curve::chart(
        "loss",
        "Share of messages that were delivered faster",
        &series,
    )
}

fn overlay_curves(base: &[Report], new: &[Report]) -> Vec<Chart> {
    [
        (
            Measure::Deliver,
            "Share of messages that were delivered faster",
        ),
        (Measure::Login, "Share of sessions that opened faster"),
    ]
    .into_iter()
    .filter_map(|(measure, title)| {
        let (before, after) = (merged(base.iter(), measure), merged(new.iter(), measure));
        curve::chart(
            measure.name(),
            title,
            &[
                ("base".to_owned(), "c2 dash", &before),
                ("new".to_owned(), "c1", &after),
            ],
        )
    })
    .collect()
}

fn table(out: &mut String, title: &str, headings: &[&str]) {
    html!(
        out,
        "<h2>{title}</h2>\n<div class=\"wide\"><table><thead><tr>"
    );
    for heading in headings {
        html!(out, "<th scope=\"col\">{}</th>", escape(heading));
    }
    out.push_str("</tr></thead><tbody>\n");
}

fn end_table(out: &mut String) {
    out.push_str("</tbody></table></div>\n");
}

/// A row a metric, a column a phase: what no phase has is left out.
fn phases(out: &mut String, report: &Report) {
    let mut headings = vec!["metric"];
    headings.extend(report.phases.iter().map(|phase| phase.name.as_str()));
    table(out, "Phases", &headings);
    let row = |name: &str, cells: Vec<String>| {
        let cells: String = cells
            .iter()
            .map(|cell| format!("<td>{}</td>", escape(cell)))
            .collect();
        format!("<tr><th scope=\"row\">{}</th>{cells}</tr>\n", escape(name))
    };
    let of_each = |show: &dyn Fn(&crate::report::model::Phase) -> String| {
        report.phases.iter().map(show).collect()
    };
    out.push_str(&row(
        "kind",
        of_each(&|phase| {
            let flags = [
                (phase.closed_loop, ", closed loop"),
                (phase.timed_out, ", TIMED OUT"),
            ];
            let flags = flags
                .iter()
                .filter(|(set, _)| *set)
                .map(|(_, words)| *words);
            phase.kind.clone() + &flags.collect::<String>()
        }),
    ));
    out.push_str(&row(
        "length",
        of_each(&|phase| Unit::Seconds.show(phase.seconds)),
    ));
    for definition in metrics::definitions() {
        if !report
            .phases
            .iter()
            .any(|phase| phase.metrics.contains_key(&definition.name))
        {
            continue;
        }
        out.push_str(&row(
            &definition.name,
            of_each(&|phase| {
                phase
                    .metrics
                    .get(&definition.name)
                    .map_or_else(|| "-".to_owned(), |value| definition.unit.show(*value))
            }),
        ));
    }
    end_table(out);
}

fn numbers(out: &mut String, report: &Report) {
    table(
        out,
        "The whole run",
        &["metric", "value", "bare quinn", "ratio", "meaning"],
    );
    for definition in metrics::definitions() {
        let Some(value) = report.metrics.get(&definition.name) else {
            continue;
        };
        let bare = report.ceiling.get(&definition.name);
        html!(
            out,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td class=\"words\">{}</td></tr>\n",
            escape(&definition.name),
            escape(&definition.unit.show(*value)),
            bare.map_or_else(
                || "-".to_owned(),
                |bare| escape(&definition.unit.show(*bare))
            ),
            bare.map_or_else(|| "-".to_owned(), |bare| format!("{:.2}", value / bare)),
            escape(&definition.what)
        );
    }
    end_table(out);
}

fn environment(out: &mut String, report: &Report) {
    table(out, "Environment", &["what", "value"]);
    for (what, value) in report.environment.rows() {
        html!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"words\">{}</td></tr>\n",
            escape(&what),
            escape(&value)
        );
    }
    end_table(out);
}

fn details(out: &mut String, title: &str, text: &str) {
    html!(
        out,
        "<details><summary>{title}</summary><pre>{}</pre></details>\n",
        escape(text)
    );
}

/// A scenario that is text stays text.
fn pretty(configuration: &serde_json::Value) -> String {
    match configuration {
        serde_json::Value::String(text) => text.clone(),
        other => format!("{other:#}"),
    }
}
