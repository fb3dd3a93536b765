//! The end of a run that is ended while its messages are under way: they are counted as that, and not as lost.

mod proxy;
mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proxy::{Proxy, Sabotage};
use support::{Gateway, Outcome};

const DEVICES: usize = 8;
/// Events that a proxy has passed on when the run is ended: the backlog is there.
const EVENTS: u64 = 40;
/// A debug build on a busy machine takes its time; nothing may take longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// As much under way as goes, for longer than the test takes.
const BUSY: &str = r#"
    name = "busy"
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
    for = "600s"
    mode = "closed"
    outstanding = 32
"#;

#[test]
fn what_is_under_way_when_somebody_ends_a_run_is_not_called_lost() {
    let gateway = Gateway::start(DEVICES);
    let proxy = Proxy::start(gateway.address, Sabotage::Trickle);
    let file = gateway.file("busy.toml");
    std::fs::write(&file, BUSY).unwrap();
    let json = gateway.file("report.json");
    let run = gateway
        .play(&file, proxy.address, (0, DEVICES), &json)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while proxy.events() < EVENTS {
        assert!(began.elapsed() < PATIENCE, "no messages");
        // A look at the proxy's count, up to the deadline above.
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = run.id().to_string();
    let interrupted = Command::new("kill").args(["-INT", &pid]).status();
    assert!(interrupted.unwrap().success());
    let output = run.wait_with_output().unwrap();
    let outcome = Outcome::of(&output, &json);
    let said = &outcome.said;
    assert_eq!(outcome.report["run"]["ended"], "interrupted", "{said}");
    assert_eq!(outcome.report["run"]["drained"], "interrupted", "{said}");
    assert!(outcome.faults().is_empty(), "{said}");
    let (sent, delivered) = (outcome.total("messages"), outcome.total("delivered"));
    let under_way = outcome.total("under_way_at_stop");
    // Each of them was sent, and is either delivered or under way; some of the latter lack the ack only.
    assert!(under_way > 20 && delivered + under_way >= sent, "{said}");
    proxy.stop();
}
