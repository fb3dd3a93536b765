//! Runs the cases against a gateway at any address and prints TAP or JSON.

use std::net::ToSocketAddrs as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use quipu_conformance::cases;
use quipu_conformance::expected::{self, Expected, Verdict};
use quipu_conformance::raw::Dialer;
use quipu_conformance::report;
use quipu_conformance::suite::{self, Profile};
use quipu_conformance::trust::Trust;

/// Checks a Quipu gateway against SPEC.md, with raw frames, hostile ones included.
///
/// Registration must be open on it. Exit code 0: every case came out as expected; 1: some did not, or nothing could be run.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// The gateway under test, HOST:PORT
    #[arg(long, default_value = "127.0.0.1:4433")]
    server: String,
    /// SHA-256 fingerprint of its certificate; without it any certificate is accepted
    #[arg(long)]
    fingerprint: Option<Trust>,
    /// How to print the outcomes
    #[arg(long, value_enum, default_value_t = Format::Tap)]
    format: Format,
    /// Run only the cases whose name contains this
    #[arg(long, default_value = "")]
    filter: String,
    /// Expected verdicts to use in place of the built-in ones
    #[arg(long)]
    expected: Option<PathBuf>,
    /// Run the cases that need small limits, and only those; the gateway is one that runs with conformance/small-limits.toml
    #[arg(long)]
    small_limits: bool,
    /// Print the names of all cases and their rules, and run none
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// Test Anything Protocol, version 14
    Tap,
    /// One JSON object with a list of outcomes
    Json,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.list {
        for case in cases::all() {
            println!("{:<44} {}", case.name, case.rules.join(" "));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let text = match &arguments.expected {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?
        }
        None => expected::OURS.to_owned(),
    };
    let profile = match arguments.small_limits {
        true => Profile::SmallLimits,
        false => Profile::Any,
    };
    let expected = Expected::read(&text, cases::all())?.of_profile(profile, cases::all());
    let server = arguments
        .server
        .to_socket_addrs()
        .with_context(|| format!("--server {}: want HOST:PORT", arguments.server))?
        .next()
        .with_context(|| format!("{} has no address", arguments.server))?;
    let dialer = Dialer::new(server, arguments.fingerprint.unwrap_or(Trust::Any))?;
    let wanted = |case: &suite::Case| {
        case.name.contains(&arguments.filter) && !matches!(expected.of(case.name), Verdict::Skip(_))
    };
    let outcomes = suite::run(&dialer, wanted, |outcome| {
        eprintln!("{}", report::line(outcome));
    })
    .await?;
    match arguments.format {
        Format::Tap => print!("{}", report::tap(&outcomes, &expected)),
        Format::Json => println!("{}", report::json(&outcomes, &expected)?),
    }
    let clean = outcomes
        .iter()
        .all(|outcome| expected.surprise(outcome).is_none());
    Ok(match clean {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
