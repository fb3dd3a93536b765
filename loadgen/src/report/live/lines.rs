//! A running run as lines of text: each second once, and each new fault or kind of failure when it is seen.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::measure::{Progress, Sample};
use crate::report::metrics::{Unit, grouped};

/// What was said already.
#[derive(Debug, Default)]
pub(super) struct Told {
    seconds: usize,
    phase: Option<usize>,
    faults: BTreeMap<&'static str, u64>,
    failures: BTreeMap<String, u64>,
}

impl Told {
    /// What is new in `progress`.
    pub(super) fn next(&mut self, progress: &Progress) -> Vec<String> {
        let mut lines = Vec::new();
        for second in progress.samples.iter().skip(self.seconds) {
            if self.phase != Some(second.phase) {
                self.phase = Some(second.phase);
                let name = progress.phase_names.get(second.phase);
                let number = second.phase + 1;
                lines.push(format!(
                    "phase {number} of {}: {}",
                    progress.phase_names.len(),
                    name.map_or("-", String::as_str)
                ));
            }
            lines.push(line(second));
        }
        self.seconds = self.seconds.max(progress.samples.len());
        for (kind, count) in progress.verdicts.each() {
            if self.faults.get(kind).copied().unwrap_or(0) < count {
                self.faults.insert(kind, count);
                lines.push(format!("FAULT: {} {kind}", grouped(count as f64)));
            }
        }
        for (kind, failure) in &progress.failures {
            let told = self.failures.entry(kind.clone()).or_insert(0);
            // Each power of ten again: a flood must be seen, and must not flood.
            if *told == 0 || failure.count >= *told * 10 {
                *told = failure.count;
                let count = grouped(failure.count as f64);
                lines.push(format!(
                    "failure: {kind}: {count} times, the first: {}",
                    failure.example
                ));
            }
        }
        lines
    }
}

fn line(second: &Sample) -> String {
    let mut out = format!(
        "{:>6.0} s  {:>9} connections  {:>8} sent/s  {:>8} delivered/s",
        second.at_seconds,
        grouped(second.connections as f64),
        grouped(second.sent as f64),
        grouped(second.delivered as f64),
    );
    // Writing to a String cannot fail.
    if let (Some(p50), Some(p99)) = (second.deliver_p50_ms, second.deliver_p99_ms) {
        let show = |ms| Unit::Milliseconds.show(ms);
        let _ = write!(out, "  p50 {} p99 {}", show(p50), show(p99));
    }
    for (count, what) in [
        (second.logins, "log-ins"),
        (second.connections_lost, "connections lost"),
        (second.shed, "shed"),
        (second.generator_drops, "datagrams dropped at the generator"),
        (
            second.gateway_drops.unwrap_or(0),
            "datagrams dropped at the gateway",
        ),
    ] {
        if count > 0 {
            let _ = write!(out, "  {} {what}", grouped(count as f64));
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
        let mut progress = sample::progress();
        progress.verdicts.lost = 3;
        let lines = Told::default().next(&progress).join("\n");
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!("live_lines", lines);
        });
    }

    #[test]
    fn nothing_is_said_twice_and_floods_are_thinned() {
        let mut progress = sample::progress();
        let mut told = Told::default();
        assert!(!told.next(&progress).is_empty());
        assert_eq!(told.next(&progress), Vec::<String>::new());
        for failure in progress.failures.values_mut() {
            failure.count += 1;
        }
        assert_eq!(told.next(&progress), Vec::<String>::new());
        for failure in progress.failures.values_mut() {
            failure.count *= 10;
        }
        assert_eq!(told.next(&progress).len(), progress.failures.len());
    }
}
