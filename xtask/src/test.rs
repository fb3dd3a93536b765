//! `cargo xtask test`: the one command that passes the tests, on any machine that has a Rust toolchain and a C compiler.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::trials::Profile;
use crate::{codegen, shell, simulate, tmux, trials};

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

    let end_to_end = trial("e2e", &[]).passes()?;
    let crash = trial("crash", &["--kills", "5", "--users", "6"]).passes()?;
    let simulated = simulate(&["--seeds", SIMULATED_SEEDS]).passes()?;
    // A judge that never condemns proves nothing.
    for (sabotage, kills, figures) in [
        ("lose", "1", " lost=1 doubled=0 reordered=0 leaked=0 "),
        ("double", "1", " lost=0 doubled=1 reordered=0 leaked=0 "),
        ("reorder", "1", " lost=0 doubled=0 reordered=1 leaked=0 "),
        (
            "lose-in-group",
            "1",
            " lost=1 doubled=0 reordered=0 leaked=0 ",
        ),
        (
            "lose-in-pulled",
            "1",
            " lost=1 doubled=0 reordered=0 leaked=0 ",
        ),
        ("leak", "1", " leaked=1 undone=0 "),
        ("undo", "2", " undone=1 files_lost=0 "),
        ("damage-files", "3", " files_lost="),
        ("forget-uploads", "1", " files_lost="),
    ] {
        let arguments = ["--kills", kills, "--users", "2", "--sabotage", sabotage];
        trial("crash", &arguments).fails_with(figures)?;
    }

    println!(
        "\nxtask test: {} passed, {} ignored; {end_to_end}; {crash}; {simulated}; {} s",
        counts.passed,
        counts.ignored,
        started.elapsed().as_secs()
    );
    Ok(())
}

/// Seeds that the simulator runs.
const SIMULATED_SEEDS: &str = "300";

/// How a trial of whole processes ended.
struct Trial {
    result: Result<()>,
    last_line: String,
}

fn trial(name: &str, arguments: &[&str]) -> Trial {
    let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
    let mut last_line = String::new();
    let result = trials::command(Profile::Debug, name, &arguments).and_then(|mut command| {
        shell::run_watched(&mut command, |line| line.clone_into(&mut last_line))
    });
    Trial { result, last_line }
}

/// Runs the simulator.
fn simulate(arguments: &[&str]) -> Trial {
    let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
    let mut last_line = String::new();
    let result = simulate::build()
        .and_then(|()| simulate::command(&arguments))
        .and_then(|mut command| {
            shell::run_watched(&mut command, |line| line.clone_into(&mut last_line))
        });
    Trial { result, last_line }
}

impl Trial {
    /// It must end well; its last line says with which figures.
    fn passes(self) -> Result<String> {
        self.result?;
        Ok(self.last_line)
    }

    /// It must not, and its last line must have these figures; one that ends with `=` is any but 0.
    fn fails_with(self, figures: &str) -> Result<()> {
        let line = &self.last_line;
        let is_said = match figures.strip_suffix('=') {
            Some(_) => line.contains(figures) && !line.contains(&format!("{figures}0 ")),
            None => line.contains(figures),
        };
        ensure!(
            self.result.is_err() && is_said,
            "a spoiled run must fail with `{figures}`, not say `{}`",
            self.last_line
        );
        Ok(())
    }
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
