//! A report as a Markdown block for a pull request: verdict, one row a phase, and where it was measured.

use std::fmt::Write as _;

use super::metrics::{self, Metrics};
use super::model::Report;
use super::text;

/// Columns of the phases' table: heading, and the metrics in it.
const COLUMNS: [(&str, &[&str]); 8] = [
    ("offered", &["offered_rate"]),
    ("delivered", &["deliver_rate"]),
    (
        "deliver p50 / p99 / p99.9",
        &["p50_deliver", "p99_deliver", "p999_deliver"],
    ),
    ("ack p99", &["p99_ack"]),
    ("log-ins", &["login_rate"]),
    ("gateway CPU each", &["gateway_us_per_delivery"]),
    (
        "cores gateway / generator",
        &["gateway_cores", "generator_cores"],
    ),
    (
        "drops generator / gateway",
        &["generator_drops", "gateway_drops"],
    ),
];

/// The block.
pub(crate) fn render(report: &Report) -> String {
    let mut out = format!(
        "**{}: {}** · {} · seed {} · {:.0} s\n\n{}\n",
        escape(&report.run.scenario),
        report.verdict.outcome.words(),
        escape(&report.run.about),
        report.run.seed,
        report.run.seconds,
        text::sentence(report),
    );
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    for why in &report.verdict.invalid {
        line(format!("- INVALID: {}", escape(why)));
    }
    for gate in &report.verdict.gates {
        line(format!("- gate {}", escape(&gate.line())));
    }
    for (kind, failure) in &report.failures {
        line(format!(
            "- failure: {} ({}): {}",
            escape(kind),
            failure.count,
            escape(&failure.example)
        ));
    }
    line(String::new());
    let headings: Vec<&str> = COLUMNS.iter().map(|(heading, _)| *heading).collect();
    line(format!("| phase | s | {} |", headings.join(" | ")));
    line(format!("|---|---:|{}", "---:|".repeat(COLUMNS.len())));
    for phase in &report.phases {
        let cells: Vec<String> = COLUMNS
            .iter()
            .map(|(_, names)| cell(&phase.metrics, names))
            .collect();
        line(format!(
            "| {} | {:.0} | {} |",
            escape(&phase.name),
            phase.seconds,
            cells.join(" | ")
        ));
    }
    line(String::new());
    line(run_row(report));
    let environment = &report.environment;
    line(format!(
        "\n<sub>{}, {} cores, {:.0} GiB, Linux {}, {}</sub>",
        escape(&environment.cpu_model),
        environment.cores,
        environment.memory_bytes as f64 / (1u64 << 30) as f64,
        escape(&environment.kernel),
        environment
            .git_revision
            .as_deref()
            .unwrap_or("no git revision"),
    ));
    out
}

/// What only the whole run has, and the ratio to the ceiling.
fn run_row(report: &Report) -> String {
    let mut parts = Vec::new();
    for name in [
        "connections",
        "gateway_kib_per_connection",
        "gateway_us_per_login",
        "back_90",
        "back_99",
        "back_100",
    ] {
        if let Some(value) = shown(&report.metrics, name) {
            parts.push(format!("{name} {value}"));
        }
    }
    for (name, bare) in &report.ceiling {
        if let Some(value) = report.metrics.get(name) {
            parts.push(format!("{name} {:.2} of bare quinn's", value / bare));
        }
    }
    parts.join(" · ")
}

fn cell(metrics: &Metrics, names: &[&str]) -> String {
    let values: Vec<String> = names
        .iter()
        .filter_map(|name| shown(metrics, name))
        .collect();
    match values.is_empty() {
        true => "-".to_owned(),
        false => values.join(" / "),
    }
}

fn shown(metrics: &Metrics, name: &str) -> Option<String> {
    let value = metrics.get(name)?;
    Some(metrics::definition(name)?.unit.show(*value))
}

/// What Markdown would take for its own.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => out.push(' '),
            '|' | '<' | '>' | '*' | '_' | '`' | '\\' | '[' | ']' => {
                let _ = write!(out, "\\{c}");
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn reads_well() {
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!("report_markdown", render(&sample::report()));
        });
    }

    #[test]
    fn names_its_columns_by_metrics_that_exist() {
        for (_, names) in COLUMNS {
            for name in names {
                assert!(metrics::definition(name).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn a_failures_text_cannot_break_the_table() {
        assert_eq!(escape("a|b\nc<d>"), "a\\|b c\\<d\\>");
    }
}
