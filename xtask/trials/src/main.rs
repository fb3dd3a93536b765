//! Trials of whole processes: killed under load, typed into in real terminals. `cargo xtask` builds them and starts this.

mod crash;
mod e2e;
mod gateway;
mod programs;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Trials of whole processes.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    trial: Trial,
}

#[derive(Subcommand)]
enum Trial {
    /// Kill the gateway in a loop under load, and judge what was lost, doubled or reordered.
    Crash(crash::Arguments),
    /// Use the gateway and the terminal client as people and scripts do.
    E2e,
}

fn main() -> ExitCode {
    match Arguments::parse().trial {
        Trial::Crash(arguments) => crash::run(&arguments),
        Trial::E2e => e2e::run(),
    }
}
