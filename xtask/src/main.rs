//! Developer commands of the Quipu workspace: `cargo xtask <command>`.
//!
//! This crate depends on no other crate of the workspace, so that it can generate code for them when they do not compile.

mod codegen;
mod shell;
mod test;
mod tmux;

use clap::{Parser, Subcommand};

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
    /// Install what the tests need, then run all of them, the long ones in their short form.
    Test,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Generate { check: true } => codegen::check(),
        Command::Generate { check: false } => codegen::generate(),
        Command::Test => test::run(),
    }
}
