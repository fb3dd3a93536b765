//! Groups against a real gateway: pushed ones over two processes, and one that is read from the history by who was away.

mod support;

use std::path::Path;

use support::{Gateway, Outcome};

/// Accounts of a gateway; no scenario has more devices.
const DEVICES: usize = 40;

fn run(gateway: &Gateway, scenario: &Path, more: &[&str]) -> Outcome {
    let json = gateway.file("report.json");
    let output = gateway
        .play(scenario, gateway.address, (0, DEVICES), &json)
        .args(more)
        .output()
        .unwrap();
    Outcome::of(&output, &json)
}

#[test]
fn groups_of_many_sizes_with_receipts_edits_and_files_are_verified_over_two_processes() {
    const SCENARIO: &str = r#"
        name = "everything"
        [[population]]
        name = "people"
        clients = 24
        [graph]
        kind = "mixed"
        pairs = 4
        size = "3..6"
        group_share = "50%"
        [traffic]
        receipts = "100%"
        edits = "30%"
        media = "20%"
        media_bytes = "1000..70000"
        [[phase]]
        kind = "ramp"
        [[phase]]
        kind = "rate"
        for = "3s"
        rate = "60/s"
        [[phase]]
        kind = "storm"
        drop = "50%"
        backoff = "100ms..500ms"
        for = "60s"
        rate = "40/s"
        [[phase]]
        kind = "drain"
    "#;
    let gateway = Gateway::start(DEVICES);
    let scenario = gateway.file("everything.toml");
    std::fs::write(&scenario, SCENARIO).unwrap();
    let outcome = run(&gateway, &scenario, &["--processes", "2"]);
    let said = &outcome.said;
    // A machine that is busy with other tests may make the run invalid; faults are another matter.
    assert!(outcome.faults().is_empty(), "{said}");
    assert_eq!(outcome.report["run"]["drained"], "settled", "{said}");
    let total = |name: &str| outcome.total(name);
    assert_eq!(total("acked"), total("messages"), "{said}");
    assert!(total("delivered") > total("messages"), "{said}");
    assert!(total("groups") >= 3, "{said}");
    // One who is left over is no group.
    let members = total("joined") + total("groups");
    assert!((15..=16).contains(&members), "{said}");
    // Each sees its own note, and those of all who join later.
    assert!(total("notes") > 16, "{said}");
    assert!(total("receipts_sent") > 0 && total("receipts_seen") >= total("receipts_sent"));
    assert!(
        total("edits") > 10 && total("edits_seen") > total("edits"),
        "{said}"
    );
    assert!(total("uploads") > 10, "{said}");
    assert_eq!(total("uploads"), total("downloads"), "{said}");
    assert_eq!(total("uploaded_bytes"), total("downloaded_bytes"), "{said}");
}

#[test]
fn a_group_above_the_fan_out_limit_is_told_by_notices_and_read_by_who_comes_later() {
    let gateway = Gateway::start_with(DEVICES, &["--groups-fan-out-max", "5"]);
    let changes = ["--connections", "40", "--rate", "20", "--seconds", "3"];
    let outcome = run(&gateway, Path::new("big-group"), &changes);
    let said = &outcome.said;
    assert!(outcome.faults().is_empty(), "{said}");
    assert_eq!(outcome.report["run"]["drained"], "settled", "{said}");
    let total = |name: &str| outcome.total(name);
    assert_eq!((total("groups"), total("joined")), (1, 39), "{said}");
    assert!(total("messages") > 30, "{said}");
    assert_eq!(total("acked"), total("messages"), "{said}");
    assert_eq!(total("delivered"), 39 * total("messages"), "{said}");
    // Four of them were there and were told; the others have read it.
    assert!(total("notices") >= 3 * total("messages"), "{said}");
    assert!(total("pulls") >= 36 && total("pages") >= 36, "{said}");
    let phases = outcome.report["phases"].as_array().unwrap();
    let talk = phases.iter().find(|phase| phase["name"] == "talk").unwrap();
    let count = |name: &str| talk["latencies"][name]["count"].as_u64().unwrap();
    assert_eq!(
        count("deliver") + count("catch_up"),
        total("delivered"),
        "{said}"
    );
    assert!(count("catch_up") >= 36 * total("messages"), "{said}");
}

#[test]
fn a_large_group_survives_storms_and_is_read_to_the_end() {
    const SCENARIO: &str = r#"
        name = "thrown off"
        [[population]]
        name = "people"
        clients = 24
        [graph]
        kind = "groups"
        size = 12
        [[phase]]
        kind = "ramp"
        [[phase]]
        kind = "storm"
        drop = "75%"
        away = "500ms"
        backoff = "100ms..1s"
        for = "60s"
        rate = "40/s"
        [[phase]]
        kind = "rate"
        for = "2s"
        rate = "40/s"
        [[phase]]
        kind = "drain"
    "#;
    let gateway = Gateway::start_with(DEVICES, &["--groups-fan-out-max", "4"]);
    let scenario = gateway.file("thrown.toml");
    std::fs::write(&scenario, SCENARIO).unwrap();
    let outcome = run(&gateway, &scenario, &[]);
    let said = &outcome.said;
    assert!(outcome.faults().is_empty(), "{said}");
    assert_eq!(
        outcome.total("delivered"),
        11 * outcome.total("messages"),
        "{said}"
    );
    assert!(outcome.total("pages") > 0, "{said}");
}
