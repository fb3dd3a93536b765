//! Each verdict fires: real runs through a proxy that breaks one promise, judged by their reports and exit codes.

mod proxy;
mod support;

use proxy::{Proxy, Sabotage};
use support::{Gateway, Outcome};

/// Devices of a run.
const DEVICES: usize = 8;
/// Runs at one time: they mostly wait.
const AT_ONCE: usize = 4;

/// A closed loop, so that a busy machine makes no run invalid; the drain is short, since what is lost never comes.
const STEADY: &str = r#"
    name = "sabotage"
    [[population]]
    name = "people"
    clients = 8
    [graph]
    pairs = 4
    [[phase]]
    kind = "ramp"
    for = "60s"
    [[phase]]
    kind = "rate"
    for = "1s"
    mode = "closed"
    outstanding = 2
    [[phase]]
    kind = "drain"
    for = "4s"
"#;

/// Two groups of four; everybody edits what was said, and says what was read.
const GROUPS: &str = r#"
    name = "groups"
    [[population]]
    name = "people"
    clients = 8
    [graph]
    kind = "groups"
    size = 4
    [traffic]
    receipts = "100%"
    edits = "50%"
    [[phase]]
    kind = "ramp"
    for = "60s"
    [[phase]]
    kind = "rate"
    for = "2s"
    mode = "closed"
    outstanding = 2
    [[phase]]
    kind = "drain"
    for = "4s"
"#;

/// Every message brings a file.
const FILES: &str = r#"
    name = "files"
    [[population]]
    name = "people"
    clients = 8
    [graph]
    pairs = 4
    [traffic]
    media = "100%"
    media_bytes = "1..40000"
    [[phase]]
    kind = "ramp"
    for = "60s"
    [[phase]]
    kind = "rate"
    for = "2s"
    mode = "closed"
    outstanding = 2
    [[phase]]
    kind = "drain"
    for = "4s"
"#;

/// Half of the devices are away for a second, and the others write to them.
const AWAY: &str = r#"
    name = "away"
    late_after = "300ms"
    [[population]]
    name = "people"
    clients = 8
    [graph]
    pairs = 4
    [[phase]]
    kind = "ramp"
    for = "60s"
    [[phase]]
    kind = "storm"
    drop = "50%"
    away = "1s"
    backoff = "10ms..20ms"
    mode = "closed"
    outstanding = 2
    for = "30s"
    [[phase]]
    kind = "drain"
    for = "10s"
"#;

/// A sabotage, and the verdict that it must bring, alone.
const CASES: [(Sabotage, &str, Option<&str>); 23] = [
    (Sabotage::None, STEADY, None),
    (Sabotage::Busy, STEADY, None),
    (Sabotage::SwallowSend, STEADY, Some("lost")),
    (Sabotage::InventAck, STEADY, Some("acked_but_lost")),
    (Sabotage::DropDelivery, STEADY, Some("acked_but_lost")),
    (Sabotage::DropOwn, STEADY, Some("unacked")),
    (Sabotage::Repeat, STEADY, Some("duplicated")),
    (Sabotage::Swap, STEADY, Some("reordered")),
    (Sabotage::WrongAck, STEADY, Some("disagreed")),
    (Sabotage::Misdeliver, STEADY, Some("misdelivered")),
    (Sabotage::Corrupt, STEADY, Some("corrupted")),
    (Sabotage::Ghost, STEADY, Some("ghosts")),
    (Sabotage::Refuse, STEADY, Some("rejected")),
    (Sabotage::Late, AWAY, Some("late")),
    (Sabotage::None, GROUPS, None),
    (Sabotage::DropDelivery, GROUPS, Some("acked_but_lost")),
    (Sabotage::Swap, GROUPS, Some("reordered")),
    (Sabotage::Repeat, GROUPS, Some("duplicated")),
    (Sabotage::DropNote, GROUPS, Some("acked_but_lost")),
    (Sabotage::DropEdit, GROUPS, Some("acked_but_lost")),
    (Sabotage::ForgeReceipt, GROUPS, Some("ghosts")),
    (Sabotage::None, FILES, None),
    (Sabotage::CorruptFile, FILES, Some("corrupted")),
];

#[test]
fn every_verdict_fires_and_fires_alone() {
    let gateway = Gateway::start(DEVICES * CASES.len());
    let numbered: Vec<_> = CASES.into_iter().enumerate().collect();
    let mut wrong = Vec::new();
    for group in numbered.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let gateway = &gateway;
            let runs = group
                .iter()
                .map(|(number, case)| scope.spawn(move || judge(gateway, *number, *case)));
            let runs: Vec<_> = runs.collect();
            wrong.extend(runs.into_iter().filter_map(|run| run.join().unwrap().err()));
        });
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n----\n"));
}

/// Plays one case and says what is not as it must be.
fn judge(
    gateway: &Gateway,
    number: usize,
    (sabotage, scenario, verdict): (Sabotage, &str, Option<&str>),
) -> Result<(), String> {
    let proxy = Proxy::start(gateway.address, sabotage);
    let file = gateway.file(&format!("scenario-{number}.toml"));
    std::fs::write(&file, scenario).unwrap();
    let json = gateway.file(&format!("report-{number}.json"));
    let run = gateway
        .play(&file, proxy.address, (number, DEVICES), &json)
        .output()
        .unwrap();
    let struck = proxy.stop();
    let outcome = Outcome::of(&run, &json);
    let faults = outcome.faults();
    let found: Vec<&str> = faults.iter().map(|(kind, _)| kind.as_str()).collect();
    let as_planned = match (sabotage, verdict) {
        (Sabotage::None, _) => struck == 0 && outcome.code == Some(0) && found.is_empty(),
        // It is put off and comes all the same.
        (_, None) => {
            struck == 3
                && outcome.code == Some(0)
                && found.is_empty()
                && outcome.total("throttled") == 3
        }
        (Sabotage::Late, Some(verdict)) => outcome.code == Some(2) && found == [verdict],
        (_, Some(verdict)) => {
            struck == 1 && outcome.code == Some(2) && faults == [(verdict.to_owned(), 1)]
        }
    };
    let faults_of_a_report = outcome.report["verdict"]["faults"].as_object().unwrap();
    for kind in faults_of_a_report.keys() {
        let has_case = |case: &(_, _, Option<&str>)| case.2 == Some(kind);
        assert!(CASES.iter().any(has_case), "no case makes {kind} fire");
    }
    match as_planned && outcome.total("delivered") > 20 {
        true => Ok(()),
        false => Err(format!(
            "{sabotage:?} struck {struck} times: expected {verdict:?}, found {faults:?}, exit code {:?}\n{}",
            outcome.code, outcome.said
        )),
    }
}
