//! `cargo xtask test`: the one command that passes the tests, on any machine that has a Rust toolchain and a C compiler.

use std::time::Instant;

use anyhow::Result;

use crate::{codegen, shell, tmux};

/// Runs everything, in the order in which a failure is cheapest to see.
pub(crate) fn run() -> Result<()> {
    let started = Instant::now();

    println!("== generated code is fresh");
    codegen::check()?;
    tmux::ensure_installed()?;

    // One build for both: the tests proper, and the programs that the tests of whole processes start.
    shell::run(&mut shell::cargo(&[
        "build",
        "--locked",
        "--workspace",
        "--bins",
        "--tests",
        "--examples",
    ]))?;
    let mut counts = Counts::default();
    shell::run_watched(
        &mut shell::cargo(&["test", "--locked", "--workspace", "--no-fail-fast"]),
        |line| counts.see(line),
    )?;

    println!(
        "\nxtask test: {} passed, {} ignored, in {} s",
        counts.passed,
        counts.ignored,
        started.elapsed().as_secs()
    );
    Ok(())
}

/// Adds up the summaries that test programs print.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    ignored: u64,
}

impl Counts {
    /// Reads `test result: ok. 12 passed; 0 failed; 1 ignored; ...`; other lines say nothing.
    fn see(&mut self, line: &str) {
        let Some(summary) = line.strip_prefix("test result: ") else {
            return;
        };
        let number_before = |word: &str| -> u64 {
            let mut before = "";
            for part in summary.split([' ', ';']) {
                if part == word {
                    return before.parse().unwrap_or(0);
                }
                before = part;
            }
            0
        };
        self.passed += number_before("passed");
        self.ignored += number_before("ignored");
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn adds_up_the_summaries() {
        let mut counts = Counts::default();
        counts.see("running 3 tests");
        counts.see("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        counts.see("test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 1.20s");
        assert_eq!(
            counts,
            Counts {
                passed: 15,
                ignored: 1
            }
        );
    }
}
