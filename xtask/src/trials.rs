//! Builds the programs and starts the trials of whole processes: `crash` and `e2e`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

/// How the programs on trial are built.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Profile {
    /// As the tests are; shares their build.
    Debug,
    /// As they are shipped.
    Release,
}

/// Builds what is missing, then runs a trial. What it prints last stays the last line.
pub(crate) fn build_and_run(profile: Profile, trial: &str, arguments: &[String]) -> Result<()> {
    let mut build = shell::cargo(&["build", "--locked", "--workspace", "--bins"]);
    if matches!(profile, Profile::Release) {
        build.arg("--release");
    }
    shell::run(&mut build)?;
    shell::run(&mut command(profile, trial, arguments)?)
}

/// The command that runs a trial that is built.
pub(crate) fn command(profile: Profile, trial: &str, arguments: &[String]) -> Result<Command> {
    let mut command = Command::new(folder(profile)?.join("quipu-trials"));
    command
        .arg(trial)
        .args(arguments)
        .current_dir(shell::root());
    Ok(command)
}

/// Where cargo puts programs: this one runs from the debug folder, wherever the target folder is.
fn folder(profile: Profile) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let debug = own.parent().context("a program has a folder")?;
    Ok(match profile {
        Profile::Debug => debug.to_owned(),
        Profile::Release => debug.with_file_name("release"),
    })
}
