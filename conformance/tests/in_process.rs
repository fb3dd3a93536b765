//! All cases against this repository's gateway, started in the test's own process.

use quipu_conformance::cases;
use quipu_conformance::expected::{Expected, OURS};
use quipu_conformance::raw::Dialer;
use quipu_conformance::trust::Trust;
use quipu_conformance::{report, suite};
use quipu_gateway::Gateway;

mod common;

/// `QUIPU_CASE=hello/` runs only the cases whose name contains that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_gateway_follows_the_specification() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&common::config(folder.path()))
        .await
        .unwrap();
    let expected = Expected::read(OURS, cases::all()).unwrap();
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
