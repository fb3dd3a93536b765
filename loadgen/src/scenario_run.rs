//! `quipu-loadgen run`: reads the scenario, looks at the machine, starts the gateway, plays, reports.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::conductor::Conductor;
use crate::engine::{self, Job, Stop};
use crate::gateway::Target;
use crate::measure::{Board, Measurement};
use crate::preflight::Machine;
use crate::report::{self, live};
use crate::scenario::{Changes, NAMES, Scenario, builtin};

/// Plays a scenario against a gateway and verifies every message.
///
/// Exit code 0: all is well. 1: a gate was missed. 2: a message was lost, doubled, reordered or changed, or the run was invalid.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// A name (smoke, idle-100k, direct-messages, reconnect-storm, migrate, backlog, mixed-100k) or a file that ends in .toml
    #[arg(default_value = NAMES[0])]
    scenario: String,
    #[command(flatten)]
    changes: Changes,
    #[command(flatten)]
    target: Target,
    /// Write the report with every histogram to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as one page with charts to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// A condition such as 'p99_deliver<10ms'; more than one may be given
    #[arg(long, value_name = "GATE")]
    gate: Vec<report::gate::Gate>,
    /// No live screen; the figures are the same with one
    #[arg(long)]
    no_tui: bool,
    /// Print the scenario, changes applied, and end
    #[arg(long)]
    print: bool,
}

impl Run {
    /// Does it and says the exit code.
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        let mut scenario = read(&self.scenario)?;
        scenario.change(&self.changes)?;
        if self.print {
            report::command::write(None, &scenario.to_toml())?;
            return Ok(0);
        }
        let target = self
            .target
            .clone()
            .or(scenario.server.as_deref(), scenario.tokens.as_deref())?;
        let measurement = play(&scenario, &target, self.no_tui).await?;
        self.report(&scenario, &measurement)
    }

    fn report(&self, scenario: &Scenario, measured: &Measurement) -> anyhow::Result<u8> {
        let configuration = toml::from_str(&scenario.to_toml()).context("the scenario as TOML")?;
        let report = report::build::report(measured, configuration, &self.gate);
        report::command::write(None, &report::text::render(&report))?;
        if let Some(path) = &self.json {
            report::command::write(Some(path), &report.to_json())?;
        }
        if let Some(path) = &self.html {
            report::command::write(Some(path), &report::html::report(&report))?;
        }
        Ok(report.verdict.outcome.exit_code())
    }
}

fn read(name: &str) -> anyhow::Result<Scenario> {
    let path = Path::new(name);
    if path.extension().is_none_or(|end| end != "toml") {
        return builtin(name);
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("read {name}"))?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    Scenario::read(&stem, &text).with_context(|| name.to_owned())
}

/// Refuses what cannot work, and says what may disturb.
fn check(scenario: &Scenario, target: &Target) -> anyhow::Result<()> {
    if scenario.kills() && target.is_given() {
        bail!(
            "scenario {} kills the gateway, which it does to its own only; leave --server out",
            scenario.name
        );
    }
    let findings = Machine::here().check(scenario, !target.is_given());
    for warning in &findings.warnings {
        eprintln!("warning: {warning}");
    }
    if !findings.errors.is_empty() {
        bail!(
            "this machine is not ready for it:\n  {}",
            findings.errors.join("\n  ")
        );
    }
    Ok(())
}

/// Looks at the machine, starts the gateway, and plays a scenario against it. Must run in a `LocalSet`.
pub(crate) async fn play(
    scenario: &Scenario,
    target: &Target,
    no_tui: bool,
) -> anyhow::Result<Measurement> {
    check(scenario, target)?;
    let clients = scenario.clients() as usize;
    let mut gateway = target.start(clients)?;
    let mut accounts = std::mem::take(&mut gateway.accounts);
    accounts.truncate(clients);
    let (stop, board) = (Stop::default(), Board::default());
    tokio::task::spawn_local(stop_on_interrupt(stop.clone()));
    let pressed = stop.clone();
    let how = live::How::choose(no_tui);
    let _live = live::Live::start(board.clone(), how, move || pressed.set())?;
    engine::run(Job {
        scenario: scenario.clone(),
        number: rand::random(),
        address: gateway.address,
        accounts,
        conductor: Conductor::alone(gateway),
        board,
        stop,
    })
    .await
}

/// Ctrl-C ends the run within a few seconds, with a report of what was measured.
async fn stop_on_interrupt(stop: Stop) {
    while tokio::signal::ctrl_c().await.is_ok() {
        stop.set();
    }
}
