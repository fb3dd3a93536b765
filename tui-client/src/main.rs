//! The terminal client `quipu`: a screen, and the same without it for scripts.
//!
//! Where a change goes: what the screen knows and decides is in [`app`], how it looks in [`view`], which key does what in
//! [`keymap`], what goes between it, the terminal and the SDK in [`runtime`] and [`terminal`]. The commands without the screen
//! are in [`commands`], their arguments in [`cli`], their JSON in [`json`]. Text from others is made drawable in [`text`] only.

mod app;
mod cli;
mod commands;
mod json;
mod keymap;
mod runtime;
mod terminal;
#[cfg(test)]
mod tests;
mod text;
mod view;
mod words;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(&cli) {
        Ok(code) => code,
        Err(error) => {
            commands::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(cli: &Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let code = match &cli.command {
        Some(command) => {
            log_to_stderr();
            runtime.block_on(commands::run(cli, command))?.into()
        }
        None => {
            runtime.block_on(runtime::run(cli))?;
            ExitCode::SUCCESS
        }
    };
    // A thread that still waits for standard input must not hold the process.
    runtime.shutdown_background();
    Ok(code)
}

/// Logs what QUIPU_LOG asks for, such as `quipu_client=debug`; nothing without it. The screen has no place for a log.
fn log_to_stderr() {
    if let Ok(filter) = EnvFilter::try_from_env("QUIPU_LOG") {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .init();
    }
}
