//! Builds the simulator as fast as it gets, with every assertion, and starts it.

use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

/// Builds it and runs it. What it prints last stays the last line.
pub(crate) fn build_and_run(arguments: &[String]) -> Result<()> {
    build()?;
    shell::run(&mut command(arguments)?)
}

/// Builds it.
pub(crate) fn build() -> Result<()> {
    let build = ["build", "--locked", "--profile", "sim", "-p", "quipu-sim"];
    shell::run(&mut shell::cargo(&build))
}

/// The command that runs it once it is built.
pub(crate) fn command(arguments: &[String]) -> Result<Command> {
    let own = std::env::current_exe()?;
    let debug = own.parent().context("a program has a folder")?;
    let folder = debug.with_file_name("sim");
    let mut command = Command::new(folder.join("quipu-sim"));
    command.args(arguments).current_dir(shell::root());
    Ok(command)
}
