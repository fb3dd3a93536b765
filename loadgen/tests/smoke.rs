//! Plays a small `smoke` against a real gateway: the whole way from the scenario to the report and the exit code.

mod support;

use std::process::Command;

use support::{LOADGEN, Outcome, gateway_program};

#[test]
fn a_small_smoke_finds_no_fault_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let run = Command::new(LOADGEN)
        .args(["run", "smoke", "--no-tui"])
        .args(["--connections", "40", "--seconds", "2", "--rate", "100"])
        .arg("--gateway")
        .arg(gateway_program())
        .arg("--data-in")
        .arg(folder.path())
        .arg("--json")
        .arg(&report)
        .output()
        .unwrap();
    let outcome = Outcome::of(&run, &report);
    let said = &outcome.said;
    // A machine that is busy with other tests may make the run invalid; faults are another matter.
    assert!(outcome.faults().is_empty(), "{said}");
    assert_eq!(
        outcome.total("delivered"),
        outcome.total("messages"),
        "{said}"
    );
    assert!(outcome.total("delivered") > 100, "{said}");
    assert!(outcome.total("logins") >= 60, "{said}");
    // Bare quinn was measured beside it.
    let ceiling = &outcome.report["ceiling"];
    assert!(ceiling["login_rate"].as_f64().unwrap() > 0.0, "{said}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "only the report is left: {left:?}");
}
