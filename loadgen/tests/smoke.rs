//! Plays a small `smoke` against a real gateway: the whole way from the scenario to the report and the exit code.

use std::path::{Path, PathBuf};
use std::process::Command;

const LOADGEN: &str = env!("CARGO_BIN_EXE_quipu-loadgen");

/// The gateway beside the generator, built if it is missing.
fn gateway() -> PathBuf {
    let program = Path::new(LOADGEN).with_file_name("quipu-gateway");
    if !program.exists() {
        let built = Command::new(env!("CARGO"))
            .args(["build", "-p", "quipu-gateway", "--bin", "quipu-gateway"])
            .status()
            .expect("start cargo");
        assert!(built.success(), "the gateway does not build");
    }
    program
}

#[test]
fn a_small_smoke_finds_no_fault_and_leaves_nothing_behind() {
    let gateway = gateway();
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let run = Command::new(LOADGEN)
        .args(["run", "smoke", "--no-tui"])
        .args(["--connections", "40", "--seconds", "2", "--rate", "100"])
        .arg("--gateway")
        .arg(gateway)
        .arg("--data-in")
        .arg(folder.path())
        .arg("--json")
        .arg(&report)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    let report: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(report).expect(&said)).unwrap();
    // A machine that is busy with other tests may make the run invalid; faults are another matter.
    let faults = report["verdict"]["faults"].as_object().unwrap();
    assert!(faults.values().all(|count| count == 0), "{said}");
    let totals = &report["totals"];
    assert_eq!(totals["delivered"], totals["messages"], "{said}");
    assert!(totals["delivered"].as_u64().unwrap() > 100, "{said}");
    assert!(totals["logins"].as_u64().unwrap() >= 60, "{said}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "only the report is left: {left:?}");
}
