//! Quipu's load generator: measures gateways, and the bare transport beside them, and verifies every message that it counts.

mod account;
mod agent;
mod any_certificate;
mod bench;
mod ceiling;
mod conductor;
mod coordinator;
mod engine;
mod environment;
mod gateway;
mod judge;
mod kernel;
mod loss_curve;
#[allow(
    dead_code,
    reason = "the engine fills it and reports read it, one after the other"
)]
mod measure;
mod network;
mod pacer;
mod payload;
mod percentiles;
mod plan;
mod ports;
mod preflight;
mod process;
#[allow(
    dead_code,
    reason = "`report::build` waits for the engine that hands over a measurement"
)]
mod report;
mod scenario;
mod scenario_run;
mod second;
mod seed;
mod stop;
mod talk;
mod transport;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::gateway::Target;
use crate::measure::Board;
use crate::plan::Plan;
use crate::stop::Stop;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A message was lost, doubled, reordered or changed, or the run is invalid.
const EXIT_FAULTS: u8 = 2;

/// Measures a Quipu gateway and verifies every message that it counts.
///
/// Exit code 2: a message was lost, doubled, reordered or changed, or the run was invalid, however fast it was.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Play a scenario against a gateway, its own or another, and verify every message
    Run(scenario_run::Run),
    /// Play a scenario at several rates of loss, and set throughput, latency and retransmissions side by side
    LossCurve(loss_curve::LossCurve),
    /// Measure a gateway: log-ins, memory, one-to-one messages
    Bench {
        #[command(flatten)]
        plan: Plan,
        #[command(flatten)]
        target: Target,
        /// Messages a second of the open loop; without it, half of what the closed loop gave
        #[arg(long)]
        rate: Option<f64>,
        /// Also write all figures to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Measure a bare QUIC echo on this machine, in the shape of the same plan
    Ceiling {
        #[command(flatten)]
        plan: Plan,
    },
    /// Measure both, one after the other, and print the ratios as Markdown
    Versus {
        #[command(flatten)]
        plan: Plan,
        #[command(flatten)]
        target: Target,
        /// Messages a second of the open loop; without it, half of what the closed loop gave
        #[arg(long)]
        rate: Option<f64>,
        /// Also write all figures to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Show a stored report as text, Markdown or a page with charts, and judge it by gates
    Show(report::command::Show),
    /// Compare stored reports of runs before a change with those of runs after it
    Compare(report::command::Compare),
    /// List every metric of a report as a Markdown table: name, unit, good direction, meaning
    Metrics,
    /// Print the JSON schema of a report
    Schema,
    /// The other process of `ceiling`
    #[command(hide = true)]
    EchoServer,
    /// One of the processes of `run --processes`
    #[command(hide = true)]
    Agent,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    // One thread each for generator and echo server: what they need is the same on every run, and the gateway has the rest.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, run(arguments.command))
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(run) => Ok(ExitCode::from(run.run().await?)),
        Command::LossCurve(curve) => Ok(ExitCode::from(curve.run().await?)),
        Command::EchoServer => {
            ceiling::serve().await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Agent => {
            agent::work().await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Show(show) => Ok(ExitCode::from(show.run()?)),
        Command::Compare(compare) => Ok(ExitCode::from(compare.run()?)),
        Command::Metrics => {
            report::command::write(None, &report::command::list_metrics())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Schema => {
            report::command::write(None, report::model::JSON_SCHEMA)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Ceiling { plan } => {
            plan.check()?;
            let figures = ceiling::measure(&plan, &Board::default()).await?;
            println!("{}", serde_json::to_string_pretty(&figures)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Bench {
            plan,
            target,
            rate,
            json,
        } => {
            plan.check()?;
            let figures = bench::measure(&plan, &target, rate, &stop()?).await?;
            println!("{}", report::versus::alone(&plan, &figures));
            write_json(json, &figures)?;
            Ok(exit(&figures))
        }
        Command::Versus {
            plan,
            target,
            rate,
            json,
        } => {
            plan.check()?;
            let ceiling = ceiling::measure(&plan, &Board::default()).await?;
            let figures = bench::measure(&plan, &target, rate, &stop()?).await?;
            println!("{}", report::versus::comparison(&plan, &ceiling, &figures));
            write_json(json, &(&plan, &ceiling, &figures))?;
            Ok(exit(&figures))
        }
    }
}

/// Ctrl-C ends a measurement.
fn stop() -> anyhow::Result<Stop> {
    let stop = Stop::default();
    stop.heed_interrupts()?;
    Ok(stop)
}

fn write_json(path: Option<PathBuf>, figures: &impl Serialize) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(figures)?;
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

fn exit(figures: &bench::Figures) -> ExitCode {
    match figures.clean() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(EXIT_FAULTS),
    }
}
