//! Parse arguments, load configuration, run until a signal, exit with a meaningful code.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use quipu_core::shard::ShardCount;
use quipu_gateway::config::{Config, Overrides, SETTINGS, sample};
use quipu_gateway::notify::dead_letters;
use quipu_gateway::{Gateway, provision, reports, telemetry, tls, verify};
use tokio::signal::unix::{SignalKind, signal};

// The allocator of the C library keeps the memory of a handshake storm and is slower on small, short-lived buffers.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Everything here names its provider; this is for what a library might do by itself. Fails only if one is set already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
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
            print(&sample());
            Ok(())
        }
        Some(("verify", arguments)) => run_verify(path(arguments, "data")?),
        Some(("provision", arguments)) => run_provision(arguments),
        Some(("dead-letters", arguments)) => {
            let data = path(arguments, "data")?;
            print(&dead_letters::run(data, arguments.get_flag("retry"))?);
            Ok(())
        }
        Some(("reports", arguments)) => {
            print(&reports::run(path(arguments, "data")?)?);
            Ok(())
        }
        _ => serve(&load(matches)?),
    }
}

fn run_verify(data: &Path) -> anyhow::Result<()> {
    let report = verify::run(data)?;
    print(&format!("{report}\n"));
    if !report.is_sound() {
        bail!("the data in {} is not sound", data.display());
    }
    Ok(())
}

fn run_provision(arguments: &ArgMatches) -> anyhow::Result<()> {
    let prefix: &String = arguments.get_one("prefix").context("--prefix is missing")?;
    let count: u32 = *arguments.get_one("count").context("--count is missing")?;
    let shards: u16 = *arguments.get_one("shards").context("--shards is missing")?;
    let (data, tokens) = (path(arguments, "data")?, path(arguments, "tokens")?);
    provision::run(data, ShardCount(shards), prefix, count, tokens)?;
    print(&format!(
        "{count} accounts made; their tokens are in {}\n",
        tokens.display()
    ));
    Ok(())
}

fn path<'a>(arguments: &'a ArgMatches, name: &str) -> anyhow::Result<&'a Path> {
    let path: &PathBuf = arguments
        .get_one(name)
        .with_context(|| format!("--{name} is missing"))?;
    Ok(path)
}

fn serve(config: &Config) -> anyhow::Result<()> {
    telemetry::init_logging(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve_until_signal(config))
}

/// Runs a gateway until SIGTERM or SIGINT, or until a part of it fails. SIGHUP reads the certificate anew.
async fn serve_until_signal(config: &Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let gateway = Gateway::start(config).await?;
    print(&what_next(&gateway, config));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => reload_certificate(gateway.identity()),
            why = gateway.failed() => bail!("{why}"),
        }
    }
    tracing::info!("stopping: sessions are asked to leave");
    tokio::select! {
        stopped = gateway.shutdown() => stopped.context("cannot make the store durable")?,
        // Killing is always allowed: what was acked is in the log.
        _ = terminate.recv() => bail!("stopped at once by a second signal"),
        _ = interrupt.recv() => bail!("stopped at once by a second signal"),
    }
    tracing::info!("stopped");
    Ok(())
}

fn reload_certificate(identity: &Arc<tls::Identity>) {
    match identity.reload() {
        Ok(fingerprint) => tracing::info!(%fingerprint, "the certificate was read anew"),
        Err(error) => tracing::error!(%error, "the certificate stays as it was"),
    }
}

/// What somebody who has just started a gateway needs to know.
fn what_next(gateway: &Gateway, config: &Config) -> String {
    let address = gateway.address();
    let admin = gateway
        .admin_address()
        .map_or_else(|| "off".to_owned(), |at| format!("http://{at}/metrics"));
    let server = if address == Config::default().listen {
        String::new()
    } else if address.ip().is_unspecified() {
        format!(" --server HOST:{}", address.port())
    } else {
        format!(" --server {address}")
    };
    format!(
        "quipu-gateway {version} is ready\n\n\
         \x20 address       {address} (QUIC, over UDP)\n\
         \x20 data          {data}\n\
         \x20 fingerprint   {fingerprint}\n\
         \x20 registration  {registration}\n\
         \x20 admin pages   {admin}\n\n\
         Chat from another terminal:\n\n\
         \x20 cargo run --release -p quipu-tui --{server} --data ./alice\n\
         \x20 quipu{server} register NAME        (if the client is installed)\n\n",
        version = env!("CARGO_PKG_VERSION"),
        data = config.data.display(),
        fingerprint = gateway.fingerprint(),
        registration = gateway.registration(),
    )
}

/// Writes to standard output. Whoever closed it does not want to read it; that is no reason to stop.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// The command line: one flag for each setting, and the subcommands.
fn arguments() -> Command {
    let run = Command::new("quipu-gateway")
        .about("An instant-messaging gateway native to QUIC. Without a subcommand it runs.")
        .version(env!("CARGO_PKG_VERSION"))
        .args_conflicts_with_subcommands(true)
        .arg(
            path_argument(
                "config",
                "Configuration file (TOML); see `quipu-gateway config print-sample`",
            )
            .id("config-file")
            .env("QUIPU_CONFIG")
            .value_name("FILE"),
        )
        .subcommand(
            Command::new("config")
                .about("About the configuration")
                .subcommand_required(true)
                .subcommand(
                    Command::new("print-sample")
                        .about("Prints every setting, documented, at its default"),
                ),
        )
        .subcommand(
            Command::new("verify")
                .about("Walks the data of a gateway that does not run and proves it consistent")
                .arg(data_argument()),
        )
        .subcommand(
            Command::new("reports")
                .about("Lists what users have complained about, from the data of a gateway that does not run")
                .arg(data_argument()),
        )
        .subcommand(
            Command::new("dead-letters")
                .about("Lists, as lines of JSON, the webhooks that a gateway gave up; it must not run (else: its admin page /dead-letters)")
                .arg(data_argument())
                .arg(
                    Arg::new("retry")
                        .long("retry")
                        .action(ArgAction::SetTrue)
                        .help("Has them tried again when the gateway starts next"),
                ),
        )
        .subcommand(provision_arguments());
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

fn provision_arguments() -> Command {
    let text = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .required(true)
            .value_name("VALUE")
            .help(help)
    };
    Command::new("provision")
        .about("Makes accounts for load tests in the data of a gateway that does not run")
        .arg(data_argument())
        .arg(text("prefix", "User names are this and a number from 0"))
        .arg(
            text("count", "How many accounts")
                .value_parser(value_parser!(u32).range(1..=10_000_000)),
        )
        .arg(
            text(
                "shards",
                "Number of shards, if the data folder has to be made",
            )
            .required(false)
            .default_value("64")
            .value_parser(value_parser!(u16).range(1..=1024)),
        )
        .arg(
            path_argument(
                "tokens",
                "File to write `name,device,token` lines to; must not exist",
            )
            .required(true),
        )
}

fn data_argument() -> Arg {
    path_argument("data", "The data folder")
        .env("QUIPU_DATA")
        .default_value("quipu-data")
}

fn path_argument(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("PATH")
        .value_parser(value_parser!(PathBuf))
        .help(help)
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
