//! Developer commands of the Quipu workspace: `cargo xtask <command>`.
//!
//! This crate depends on no other crate of the workspace, so that it can generate code for them when they do not compile.

mod codegen;
mod shell;
mod simulate;
mod test;
mod tmux;
mod trials;

use clap::{Parser, Subcommand};

use trials::Profile;

/// Developer commands of the Quipu workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the Rust types that are generated from the .proto files.
    Generate {
        /// Write nothing; fail when a committed file is stale.
        #[arg(long)]
        check: bool,
    },
    /// Kill the gateway in a loop under load; says what was acked, lost, doubled, reordered.
    #[command(disable_help_flag = true)]
    Crash {
        /// `--kills N`, `--seed S`, `--users N`, `--help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Use the gateway and the terminal client as people and scripts do: real processes in real terminals.
    E2e,
    /// Whole clusters in virtual time: one seed chooses a world and its faults, and a checker judges what people saw.
    #[command(disable_help_flag = true)]
    Simulate {
        /// `--seeds N`, `--seed S`, `--trace`, `--sabotage X`, `--help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Install what the tests need, then run all of them, the long ones in their short form.
    Test,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Generate { check: true } => codegen::check(),
        Command::Generate { check: false } => codegen::generate(),
        Command::Crash { arguments } => {
            trials::build_and_run(Profile::Release, "crash", &arguments)
        }
        Command::E2e => {
            tmux::ensure_installed()?;
            trials::build_and_run(Profile::Debug, "e2e", &[])
        }
        Command::Simulate { arguments } => simulate::build_and_run(&arguments),
        Command::Test => test::run(),
    }
}
