//! A small loss curve against real gateways: loss costs retransmissions, and no message.

mod support;

use std::process::Command;

use support::{LOADGEN, gateway_program};

#[test]
fn loss_costs_retransmissions_and_no_message() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("curve.json");
    let run = Command::new(LOADGEN)
        .args(["loss-curve", "loss", "--loss", "0,10"])
        .args(["--connections", "10", "--rate", "40", "--seconds", "2"])
        .arg("--gateway")
        .arg(gateway_program())
        .arg("--data-in")
        .arg(folder.path())
        .arg("--json")
        .arg(&json)
        .arg("--html")
        .arg(folder.path().join("curve.html"))
        .output()
        .unwrap();
    let said = format!("{run:?}");
    let table = String::from_utf8_lossy(&run.stdout);
    assert!(
        table.contains("| 0.0 % |") && table.contains("| 10.0 % |"),
        "{said}"
    );
    let curve = std::fs::read_to_string(&json).expect(&said);
    let curve: serde_json::Value = serde_json::from_str(&curve).unwrap();
    let points = curve["points"].as_array().unwrap();
    let number = |at: usize, name: &str| points[at][name].as_u64().unwrap();
    assert_eq!(number(0, "network_drops"), 0, "{said}");
    assert!(number(1, "network_drops") > 10, "{said}");
    assert!(
        number(1, "packets_lost") > 5 && number(1, "packets_sent") > 100,
        "{said}"
    );
    for at in 0..2 {
        // A machine that is busy with other tests may make the run invalid; faults are another matter.
        let report = &curve["reports"][at];
        let faults = report["verdict"]["faults"].as_object().unwrap();
        assert!(faults.values().all(|count| count == 0), "{said}");
        assert!(number(at, "verified") > 40, "{said}");
        assert_eq!(
            report["totals"]["messages"], points[at]["verified"],
            "{said}"
        );
    }
    assert!(folder.path().join("curve.html").exists());
}
