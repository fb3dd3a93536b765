//! Uses the gateway and the terminal client as people and scripts do: real processes in real terminals.

mod commands;
mod screens;
mod story;
mod terminals;
mod transfers;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

/// What was shown so far.
pub(crate) struct Steps {
    passed: u32,
}

impl Steps {
    /// A promise held.
    fn passed(&mut self, promise: &str) {
        self.passed += 1;
        println!("e2e: {promise}");
    }
}

/// Runs every scenario and says how many promises held.
pub(crate) fn run() -> ExitCode {
    let started = Instant::now();
    let mut steps = Steps { passed: 0 };
    match scenarios(&mut steps) {
        Ok(()) => {
            println!(
                "e2e: {} promises kept in {} s",
                steps.passed,
                started.elapsed().as_secs()
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("e2e: FAILED after {} promises: {error:#}", steps.passed);
            ExitCode::FAILURE
        }
    }
}

fn scenarios(steps: &mut Steps) -> Result<()> {
    for scenario in [commands::run, story::run, transfers::run, screens::run] {
        let folder = tempfile::Builder::new().prefix("quipu-e2e-").tempdir()?;
        if let Err(error) = scenario(folder.path(), steps) {
            println!("e2e: its folder stays at {}", folder.keep().display());
            return Err(error);
        }
    }
    Ok(())
}
