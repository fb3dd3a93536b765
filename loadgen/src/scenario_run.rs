//! `quipu-loadgen run`: reads the scenario, looks at the machine, starts the gateway, plays, reports.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::ceiling::{self, Ceiling};
use crate::conductor::Conductor;
use crate::coordinator;
use crate::engine::{self, Job};
use crate::gateway::Target;
use crate::measure::{Board, Measurement};
use crate::plan::Plan;
use crate::preflight::Machine;
use crate::report::{self, live};
use crate::scenario::{Changes, NAMES, Scenario, builtin};
use crate::stop::Stop;
use crate::verify::RunId;

/// Somebody did not want to wait for the report.
const EXIT_INTERRUPTED: u8 = 130;
/// As the command line checks it.
const PROCESSES_MAX: i64 = coordinator::PROCESSES_MAX as i64;

/// Plays a scenario against a gateway and verifies every message.
///
/// Exit code 0: all is well. 1: a gate was missed. 2: a message was lost, doubled, reordered or changed, or the run was invalid.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// A name (smoke, idle-100k, direct-messages, reconnect-storm, migrate, backlog, mixed-100k, groups,
    /// big-group, loss) or a file that ends in .toml
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
    /// Generator processes that share the work
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=PROCESSES_MAX))]
    processes: u16,
    /// Do not measure bare quinn after the run, which takes some five seconds and gives the report its ratios
    #[arg(long)]
    no_ceiling: bool,
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
        let stop = Stop::default();
        stop.heed_interrupts()?;
        tokio::select! {
            code = self.play(&scenario, &target, &stop) => code,
            () = stop.wished_twice() => {
                eprintln!("ended at once: there is no report");
                Ok(EXIT_INTERRUPTED)
            }
        }
    }

    async fn play(&self, scenario: &Scenario, target: &Target, stop: &Stop) -> anyhow::Result<u8> {
        let stage = Stage {
            processes: usize::from(self.processes),
            no_tui: self.no_tui,
            stop: stop.clone(),
        };
        let measured = play(scenario, target, &stage).await?;
        // Elsewhere the gateway has another machine and another way to it: there is nothing to compare.
        let is_comparable = measured.environment.gateway_is_local && !measured.interrupted;
        let ceiling = match is_comparable && !self.no_ceiling {
            true => ceiling_of(scenario, stop).await,
            false => None,
        };
        self.report(scenario, &measured, ceiling.as_ref())
    }

    fn report(
        &self,
        scenario: &Scenario,
        measured: &Measurement,
        ceiling: Option<&Ceiling>,
    ) -> anyhow::Result<u8> {
        let mut report = report_of(scenario, measured, &self.gate)?;
        if let Some(ceiling) = ceiling {
            report.set_ceiling(&serde_json::to_value(ceiling)?)?;
        }
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

/// The report of a run.
pub(crate) fn report_of(
    scenario: &Scenario,
    measured: &Measurement,
    gates: &[report::gate::Gate],
) -> anyhow::Result<report::model::Report> {
    let configuration = toml::from_str(&scenario.to_toml()).context("the scenario as TOML")?;
    Ok(report::build::report(measured, configuration, gates))
}

/// Bare quinn on the same machine, now that it has nothing else to do. Without it the report has no ratios, and stands.
async fn ceiling_of(scenario: &Scenario, stop: &Stop) -> Option<Ceiling> {
    eprintln!("measuring bare quinn for the ratios, some five seconds; Ctrl-C leaves it out");
    let (plan, board) = (Plan::short(scenario), Board::default());
    tokio::select! {
        measured = ceiling::measure(&plan, &board) => match measured {
            Ok(ceiling) => Some(ceiling),
            Err(error) => {
                eprintln!("bare quinn was not measured: {error:#}");
                None
            }
        },
        () = stop.wished() => None,
    }
}

/// The scenario of that name, or in that file.
pub(crate) fn read(name: &str) -> anyhow::Result<Scenario> {
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

/// How a scenario is played, beside what it says itself.
pub(crate) struct Stage {
    /// Generator processes.
    pub(crate) processes: usize,
    /// Lines in place of a live screen.
    pub(crate) no_tui: bool,
    /// Ends it before its time.
    pub(crate) stop: Stop,
}

impl Stage {
    /// One process, and no screen.
    pub(crate) fn plain(stop: &Stop) -> Self {
        Self {
            processes: 1,
            no_tui: true,
            stop: stop.clone(),
        }
    }
}

/// Looks at the machine, starts the gateway, and plays a scenario against it. Must run in a `LocalSet`.
pub(crate) async fn play(
    scenario: &Scenario,
    target: &Target,
    stage: &Stage,
) -> anyhow::Result<Measurement> {
    check(scenario, target)?;
    let clients = scenario.clients() as usize;
    let (stop, board) = (stage.stop.clone(), Board::default());
    let mut gateway = target.start(clients, &board)?;
    let mut accounts = std::mem::take(&mut gateway.accounts);
    accounts.truncate(clients);
    let pressed = stop.clone();
    let how = live::How::choose(stage.no_tui);
    let _live = live::Live::start(board.clone(), how, move || pressed.set())?;
    if stage.processes > 1 {
        return coordinator::play(scenario, gateway, stage.processes, board, stop).await;
    }
    engine::run(Job {
        scenario: scenario.clone(),
        run: RunId {
            number: rand::random(),
            first_pair: 0,
        },
        address: gateway.address,
        accounts,
        conductor: Conductor::alone(gateway),
        board,
        stop,
    })
    .await
}
