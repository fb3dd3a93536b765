//! Quipu's load generator: measures gateways, and the bare transport beside them, and verifies every message that it counts.

mod ceiling;
mod payload;
mod plan;
mod process;
mod recorder;
mod transport;
mod verify;

use clap::{Parser, Subcommand};

use crate::plan::Plan;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures a Quipu gateway and verifies every message that it counts.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure a bare QUIC echo on this machine, in the shape of the same plan
    Ceiling {
        #[command(flatten)]
        plan: Plan,
    },
    /// The other process of `ceiling`
    #[command(hide = true)]
    EchoServer,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // One thread each for generator and echo server: what they need is the same on every run, and the gateway has the rest.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, run(arguments.command))
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::EchoServer => ceiling::serve().await,
        Command::Ceiling { plan } => {
            plan.check()?;
            let figures = ceiling::measure(&plan).await?;
            println!("{}", serde_json::to_string_pretty(&figures)?);
            Ok(())
        }
    }
}
