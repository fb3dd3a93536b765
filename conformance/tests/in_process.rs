//! All cases against this repository's gateway, started in the test's own process.

use quipu_conformance::cases;
use quipu_conformance::expected::{Expected, OURS};
use quipu_conformance::raw::Dialer;
use quipu_conformance::report;
use quipu_conformance::suite::{self, Profile};
use quipu_conformance::trust::Trust;
use quipu_gateway::Gateway;
use quipu_gateway::config::{Config, Overrides};

mod common;

/// The settings of the second profile.
const SMALL_LIMITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/small-limits.toml");

/// `QUIPU_CASE=hello/` runs only the cases whose name contains that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_gateway_follows_the_specification() {
    let folder = tempfile::tempdir().unwrap();
    run(&common::config(folder.path()), Profile::Any).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_gateway_follows_the_specification_at_small_limits() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = common::config(folder.path());
    let settings = Overrides {
        file: Some(SMALL_LIMITS.into()),
        ..Overrides::default()
    };
    let small = Config::load(&settings).unwrap();
    (config.limits, config.groups, config.inbox) = (small.limits, small.groups, small.inbox);
    run(&config, Profile::SmallLimits).await;
}

async fn run(config: &Config, profile: Profile) {
    let gateway = Gateway::start(config).await.unwrap();
    let expected = Expected::read(OURS, cases::all()).unwrap();
    let expected = expected.of_profile(profile, cases::all());
    let dialer = Dialer::new(gateway.address(), Trust::Any).unwrap();
    let filter = std::env::var("QUIPU_CASE").unwrap_or_default();
    let outcomes = suite::run(
        &dialer,
        |case| case.name.contains(&filter) && expected.runs(case),
        |outcome| println!("{}", report::line(outcome)),
    )
    .await
    .unwrap();
    let surprises: Vec<String> = outcomes
        .iter()
        .filter_map(|outcome| Some(format!("{}: {}", outcome.name, expected.surprise(outcome)?)))
        .collect();
    assert!(surprises.is_empty(), "\n{}", surprises.join("\n"));
    gateway.shutdown().await.unwrap();
}
