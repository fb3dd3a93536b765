//! Parse arguments, load configuration, run until a signal, exit with a meaningful code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use quipu_gateway::config::{Config, Overrides, SETTINGS, sample};
use quipu_gateway::telemetry;

// The allocator of the C library keeps the memory of a handshake storm and is slower on small, short-lived buffers.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let matches = arguments().get_matches();
    match run(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quipu-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    match matches.subcommand() {
        Some(("config", _)) => {
            print!("{}", sample());
            Ok(())
        }
        _ => serve(matches),
    }
}

fn serve(matches: &ArgMatches) -> anyhow::Result<()> {
    let config = load(matches)?;
    telemetry::init_logging(&config.log)?;
    Ok(())
}

/// The command line: one flag for each setting, and the subcommands.
fn arguments() -> Command {
    let run = Command::new("quipu-gateway")
        .about("An instant-messaging gateway native to QUIC. Without a subcommand it runs.")
        .version(env!("CARGO_PKG_VERSION"))
        .args_conflicts_with_subcommands(true)
        .arg(
            Arg::new("config-file")
                .long("config")
                .env("QUIPU_CONFIG")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Configuration file (TOML); see `quipu-gateway config print-sample`"),
        )
        .subcommand(
            Command::new("config")
                .about("About the configuration")
                .subcommand_required(true)
                .subcommand(
                    Command::new("print-sample")
                        .about("Prints every setting, documented, at its default"),
                ),
        );
    SETTINGS.iter().fold(run, |run, setting| {
        run.arg(
            Arg::new(setting.key)
                .long(setting.flag())
                .value_name("VALUE")
                .help(format!(
                    "{} [default: {}]",
                    setting.what.trim(),
                    setting.default
                )),
        )
    })
}

/// The configuration that arguments, environment and file make together.
fn load(matches: &ArgMatches) -> anyhow::Result<Config> {
    let flags = SETTINGS
        .iter()
        .filter_map(|setting| {
            let text: &String = matches.get_one(setting.key)?;
            Some((setting.key.to_owned(), text.clone()))
        })
        .collect();
    let overrides = Overrides {
        file: matches.get_one::<PathBuf>("config-file").cloned(),
        // A variable that is not text cannot be one of ours.
        variables: std::env::vars_os()
            .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)))
            .collect(),
        flags,
    };
    Ok(Config::load(&overrides)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        arguments().debug_assert();
    }
}
