//! A report as text for a terminal: everything that its JSON says, the histograms' inner points and single seconds left out.

use std::fmt::Write as _;

use super::metrics::{self, Definition, Metrics, Unit};
use super::model::{Measure, Report};

/// The whole report.
pub(crate) fn render(report: &Report) -> String {
    let mut out = String::new();
    heading(&mut out, report);
    verdict(&mut out, report);
    latencies(&mut out, "latency of the whole run, ms", &report.metrics);
    numbers(&mut out, report);
    phases(&mut out, report);
    ended(&mut out, report);
    environment(&mut out, report);
    out
}

/// Writing to a String cannot fail.
macro_rules! line {
    ($out:expr, $($text:tt)*) => {{ let _ = writeln!($out, $($text)*); }};
}

fn heading(out: &mut String, report: &Report) {
    let run = &report.run;
    line!(out, "{}: {}", run.scenario, run.about);
    line!(
        out,
        "seed {}, {:.1} s, {}, started {} ms after 1970, {}",
        run.seed,
        run.seconds,
        run.ended.words(),
        run.started_unix_ms,
        report.schema
    );
}

/// Also what gives reason to doubt the numbers.
fn verdict(out: &mut String, report: &Report) {
    let verdict = &report.verdict;
    line!(out, "\n{}", verdict.outcome.words());
    line!(out, "  {}", sentence(report));
    for why in &verdict.invalid {
        line!(out, "  INVALID: {why}");
    }
    for gate in &verdict.gates {
        line!(out, "  gate {}", gate.line());
    }
    for (kind, failure) in &report.failures {
        line!(
            out,
            "  failure: {kind}: {} times, the first: {}",
            metrics::grouped(failure.count as f64),
            failure.example
        );
    }
    if !report.environment.optimised {
        line!(out, "  This was a debug build: its figures mean little.");
    }
}

/// What the ledger found, in a sentence.
pub(crate) fn sentence(report: &Report) -> String {
    let messages = metrics::grouped(report.totals.messages as f64);
    let faults: Vec<String> = report
        .verdict
        .faults
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(kind, count)| format!("{} {kind}", metrics::grouped(*count as f64)))
        .collect();
    let kinds: Vec<&str> = report.verdict.faults.keys().map(String::as_str).collect();
    match faults.is_empty() {
        true => format!(
            "{messages} messages verified, none of: {}.",
            kinds.join(", ")
        ),
        false => format!(
            "{messages} messages verified, FAULTS: {}.",
            faults.join(", ")
        ),
    }
}

/// One row for each distribution that has anything.
fn latencies(out: &mut String, title: &str, metrics: &Metrics) {
    let measured: Vec<Measure> = Measure::ALL
        .into_iter()
        .filter(|measure| metrics.contains_key(&format!("max_{}", measure.name())))
        .collect();
    if measured.is_empty() {
        return;
    }
    line!(
        out,
        "\n{title:<34} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max"
    );
    for measure in measured {
        let _ = write!(out, "  {:<32}", measure.name());
        for point in ["p50", "p90", "p99", "p999", "max"] {
            let value = metrics.get(&format!("{point}_{}", measure.name()));
            let _ = write!(out, " {:>9}", value.map_or_else(dash, |ms| number(*ms)));
        }
        out.push('\n');
    }
}

/// All other metrics, beside the ceiling where that was measured.
fn numbers(out: &mut String, report: &Report) {
    line!(out, "\nnumbers of the whole run");
    for definition in metrics::definitions() {
        let name = &definition.name;
        let Some(value) = report.metrics.get(name) else {
            continue;
        };
        // The verdict has said so.
        if report.verdict.faults.get(name) == Some(&0) {
            continue;
        }
        if is_latency(&definition) && !report.ceiling.contains_key(name) {
            continue;
        }
        line!(
            out,
            "  {name:<30} {:>14}{}  {}",
            definition.unit.show(*value),
            ceiling(report, &definition, *value),
            definition.what
        );
    }
    let missing: Vec<String> = metrics::definitions()
        .into_iter()
        .filter(|definition| !report.metrics.contains_key(&definition.name))
        .map(|definition| definition.name)
        .collect();
    if !missing.is_empty() {
        line!(out, "  not measured: {}", missing.join(" "));
    }
}

/// The ceiling's number and our share of it.
fn ceiling(report: &Report, definition: &Definition, value: f64) -> String {
    report
        .ceiling
        .get(&definition.name)
        .map_or_else(String::new, |bare| {
            format!(
                " ({:.2} of bare quinn's {})",
                value / bare,
                definition.unit.show(*bare)
            )
        })
}

fn is_latency(definition: &Definition) -> bool {
    Measure::ALL
        .iter()
        .any(|measure| definition.name.ends_with(&format!("_{}", measure.name())))
        && definition.unit == Unit::Milliseconds
}

fn phases(out: &mut String, report: &Report) {
    for phase in &report.phases {
        line!(
            out,
            "\nphase {} ({}): from {:.1} s, {:.1} s{}{}{}",
            phase.name,
            phase.kind,
            phase.started_s,
            phase.seconds,
            phase
                .offered_per_second
                .map_or_else(String::new, |rate| format!(
                    ", {} asked for",
                    Unit::PerSecond.show(rate)
                )),
            if phase.closed_loop {
                ", closed loop"
            } else {
                ""
            },
            if phase.timed_out { ", TIMED OUT" } else { "" },
        );
        let others: Vec<String> = metrics::definitions()
            .into_iter()
            .filter(|definition| !is_latency(definition))
            .filter_map(|definition| {
                let value = phase.metrics.get(&definition.name)?;
                Some(format!(
                    "{} {}",
                    definition.name,
                    definition.unit.show(*value)
                ))
            })
            .collect();
        for few in others.chunks(4) {
            line!(out, "  {}", few.join(", "));
        }
        if let Some(storm) = &phase.storm {
            line!(
                out,
                "  thrown off ({}): {}, back: {}, attempts: {}",
                storm.how,
                storm.dropped,
                storm.back,
                storm.attempts
            );
        }
        if let Some(migration) = &phase.migration {
            line!(
                out,
                "  changed address: {} sockets with {} connections, of which {} were lost",
                migration.sockets,
                migration.connections,
                migration.lost
            );
        }
        latencies(out, "  latency, ms", &phase.metrics);
    }
}

fn ended(out: &mut String, report: &Report) {
    let totals = &report.totals;
    line!(
        out,
        "\ntotals: {} messages, {} acked, {} delivered, {} shed, {} log-ins ({} resumed, {} resynced), {} resent, \
         {} put off, {} duplicates on the wire, {} of earlier runs",
        totals.messages,
        totals.acked,
        totals.delivered,
        totals.shed,
        totals.logins,
        totals.resumed,
        totals.resynced,
        totals.resent,
        totals.throttled,
        totals.wire_duplicates,
        totals.earlier
    );
    let beside = [
        ("groups", totals.groups),
        ("joined", totals.joined),
        ("notes", totals.notes),
        ("notices", totals.notices),
        ("checks", totals.checks),
        ("pulls", totals.pulls),
        ("pages", totals.pages),
        ("receipts_sent", totals.receipts_sent),
        ("receipts_seen", totals.receipts_seen),
        ("edits", totals.edits),
        ("edits_seen", totals.edits_seen),
        ("uploads", totals.uploads),
        ("uploaded_bytes", totals.uploaded_bytes),
        ("downloads", totals.downloads),
        ("downloaded_bytes", totals.downloaded_bytes),
    ];
    let counted = beside.iter().filter(|(_, count)| *count > 0);
    let counted: Vec<String> = counted.map(|(name, n)| format!("{n} {name}")).collect();
    if !counted.is_empty() {
        line!(out, "beside: {}", counted.join(", "));
    }
    line!(
        out,
        "drained: {}, after {:.1} s, {} still under way",
        report.run.drained.words(),
        report.run.overtime_s,
        totals.under_way_at_stop
    );
}

fn environment(out: &mut String, report: &Report) {
    line!(out, "\nenvironment");
    for (what, value) in report.environment.rows() {
        line!(out, "  {what:<30} {value}");
    }
}

/// Milliseconds in a table.
fn number(ms: f64) -> String {
    Unit::Milliseconds
        .show(ms)
        .trim_end_matches(" ms")
        .to_owned()
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn says_everything_that_the_json_says() {
        let mut report = sample::report();
        report.ceiling.insert("login_rate".to_owned(), 250.0);
        report.finish(&["p99_deliver<1us".parse().unwrap()]);
        let text = render(&report);
        for (name, value) in &report.metrics {
            let definition = metrics::definition(name).unwrap();
            let shown = definition.unit.show(*value);
            let shown = shown.trim_end_matches(" ms");
            assert!(text.contains(shown), "{name} = {shown} is not in\n{text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        for part in ["run", "environment", "verdict", "failures", "totals"] {
            for leaf in leaves(&json[part]) {
                assert!(text.contains(&leaf), "{leaf:?} of {part} is not in\n{text}");
            }
        }
        for phase in &report.phases {
            assert!(text.contains(&format!("phase {} ({})", phase.name, phase.kind)));
        }
    }

    /// Strings and whole numbers as a reader expects them.
    fn leaves(json: &serde_json::Value) -> Vec<String> {
        use serde_json::Value;
        match json {
            Value::Null | Value::Bool(_) => Vec::new(),
            Value::Number(number) if number.is_u64() => {
                let number = number.as_u64().unwrap();
                // Memory is shown in GiB.
                vec![if number >= 1 << 30 && number.is_multiple_of(1 << 30) {
                    (number >> 30).to_string()
                } else {
                    number.to_string()
                }]
            }
            Value::Number(_) => Vec::new(),
            // The outcome is told in words of its own.
            Value::String(text) if text == "gate_missed" => vec!["GATE MISSED".to_owned()],
            Value::String(text) => vec![text.clone()],
            Value::Array(all) => all.iter().flat_map(leaves).collect(),
            Value::Object(all) => all.values().flat_map(leaves).collect(),
        }
    }

    #[test]
    fn doubts_are_said_first() {
        let mut report = sample::report();
        report.verdict.faults.insert("lost".to_owned(), 7);
        report.verdict.invalid.push("too slow".to_owned());
        report.environment.optimised = false;
        report.finish(&[]);
        let text = render(&report);
        let beginning: String = text.lines().take(10).collect();
        for part in [
            "FAULTS: 7 lost",
            "INVALID: too slow",
            "debug build",
            "2 times",
        ] {
            assert!(beginning.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn reads_well() {
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!("report_text", render(&sample::report()));
        });
    }
}
