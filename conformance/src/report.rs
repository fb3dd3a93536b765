//! Outcomes as text: one line each while running, TAP or JSON at the end.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cases;
use crate::expected::{Expected, Verdict};
use crate::suite::Outcome;

/// One line for a person who waits.
pub fn line(outcome: &Outcome) -> String {
    let mark = match &outcome.result {
        Ok(()) => "ok  ".to_owned(),
        Err(_) => "FAIL".to_owned(),
    };
    let error = outcome.result.as_ref().err();
    format!(
        "{mark} {:<44} {:>5} ms{}",
        outcome.name,
        outcome.took.as_millis(),
        error.map(|e| format!("  {e}")).unwrap_or_default()
    )
}

/// TAP version 14. Skipped cases are listed with their reason.
pub fn tap(outcomes: &[Outcome], expected: &Expected) -> String {
    let skipped = skipped(expected);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "TAP version 14\n1..{}", outcomes.len() + skipped.len());
    for (number, outcome) in (1..).zip(outcomes) {
        let mark = match outcome.result {
            Ok(()) => "ok",
            Err(_) => "not ok",
        };
        let _ = write!(out, "{mark} {number} - {}", outcome.name);
        if let Verdict::Fail(reason) = expected.of(outcome.name) {
            let _ = write!(out, " # TODO {reason}");
        }
        out.push('\n');
        if let Some(surprise) = expected.surprise(outcome) {
            let _ = writeln!(out, "  ---\n  message: {surprise:?}\n  ...");
        }
    }
    for (number, (name, reason)) in (outcomes.len() + 1..).zip(skipped) {
        let _ = writeln!(out, "ok {number} - {name} # SKIP {reason}");
    }
    out
}

#[derive(Serialize)]
struct Report<'a> {
    /// Version of this form.
    schema: u32,
    outcomes: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    rules: &'a [&'a str],
    /// `pass`, `fail` or `skip`.
    verdict: &'a str,
    /// Whether that was expected.
    expected: bool,
    /// What was seen instead, or why it was skipped.
    reason: Option<&'a str>,
    took_ms: u64,
}

/// One JSON object: `{"schema": 1, "outcomes": [{name, rules, verdict, expected, reason, took_ms}]}`.
pub fn json(outcomes: &[Outcome], expected: &Expected) -> serde_json::Result<String> {
    let run = outcomes.iter().map(|outcome| Entry {
        name: outcome.name,
        rules: outcome.rules,
        verdict: match outcome.result {
            Ok(()) => "pass",
            Err(_) => "fail",
        },
        expected: expected.surprise(outcome).is_none(),
        reason: outcome.result.as_ref().err().map(String::as_str),
        took_ms: u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX),
    });
    let skipped = skipped(expected);
    let skipped = skipped.iter().map(|(name, reason)| Entry {
        name,
        rules: &[],
        verdict: "skip",
        expected: true,
        reason: Some(reason),
        took_ms: 0,
    });
    serde_json::to_string_pretty(&Report {
        schema: 1,
        outcomes: run.chain(skipped).collect(),
    })
}

fn skipped(expected: &Expected) -> Vec<(&'static str, String)> {
    let reason = |name| match expected.of(name) {
        Verdict::Skip(reason) => Some((name, reason.clone())),
        Verdict::Pass | Verdict::Fail(_) => None,
    };
    cases::all()
        .iter()
        .filter_map(|case| reason(case.name))
        .collect()
}
