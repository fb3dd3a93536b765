//! Several generator processes as one run: what they measured adds up, and one that is gone is missed.

mod support;

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Gateway, LOADGEN, Outcome};

const DEVICES: usize = 40;
/// A debug build on a busy machine takes its time; nothing may take longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// A run of `processes` processes whose load lasts for `seconds`.
fn start(gateway: &Gateway, processes: usize, seconds: u64, json: &Path) -> Child {
    gateway
        .play("smoke", gateway.address, (0, DEVICES), json)
        .args(["--rate", "100"])
        .args(["--processes", &processes.to_string()])
        .args(["--connections", &DEVICES.to_string()])
        .args(["--seconds", &seconds.to_string()])
        .args(["--server-pid", &gateway.pid().to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the end of a run, which comes whatever happens.
fn end(mut run: Child, json: &Path) -> Outcome {
    let mut errors = run.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        errors.read_to_end(&mut text).map(|_| text)
    });
    let began = Instant::now();
    while run.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            let _ = run.kill();
            let _ = run.wait();
            panic!("the run hangs");
        }
        // A look at a child's state, up to the deadline above.
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut output = run.wait_with_output().unwrap();
    output.stderr = errors.join().unwrap().unwrap();
    Outcome::of(&output, json)
}

/// The generator processes of a run: its children.
fn agents(run: &Child) -> Vec<u32> {
    let tasks = format!("/proc/{0}/task/{0}/children", run.id());
    let children = std::fs::read_to_string(tasks).unwrap_or_default();
    let numbers = children.split_whitespace().map(|pid| pid.parse().unwrap());
    let is_agent = |pid: &u32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split('\0').any(|word| word == "agent")
    };
    numbers.filter(is_agent).collect()
}

#[test]
fn two_processes_measure_what_one_would() {
    let gateway = Gateway::start(DEVICES);
    let json = gateway.file("report.json");
    let run = start(&gateway, 2, 2, &json);
    let outcome = end(run, &json);
    let (said, report) = (&outcome.said, &outcome.report);
    // A machine that is busy with other tests may make the run invalid; faults are another matter.
    assert!(outcome.faults().is_empty(), "{said}");
    assert_eq!(
        outcome.total("messages"),
        outcome.total("delivered"),
        "{said}"
    );
    assert_eq!(outcome.total("messages"), outcome.total("acked"), "{said}");
    assert!(outcome.total("logins") >= DEVICES as u64 * 3 / 2, "{said}");
    let phases = report["phases"].as_array().unwrap();
    let kinds: Vec<_> = phases
        .iter()
        .map(|phase| phase["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        ["ramp", "rate", "migrate", "slow_reader", "storm", "drain"]
    );
    // The rates of both are that of the scenario, and the histograms hold what both have counted.
    let rate = &phases[1];
    assert_eq!(
        rate["offered_per_second"].as_f64().unwrap().round(),
        100.0,
        "{said}"
    );
    let sum = |name: &str| -> u64 {
        let of = |phase: &serde_json::Value| phase["latencies"][name]["count"].as_u64();
        phases.iter().filter_map(of).sum()
    };
    assert_eq!(sum("deliver"), outcome.total("delivered"), "{said}");
    assert_eq!(sum("login"), outcome.total("logins"), "{said}");
    let storm = &phases[4]["storm"];
    assert_eq!(storm["dropped"], storm["back"], "{said}");
    // The coordinator has looked at the gateway for them.
    assert!(rate["gateway_cpu_s"].as_f64().unwrap() > 0.0, "{said}");
    let series = report["series"].as_array().unwrap();
    let most = series
        .iter()
        .map(|second| second["connections"].as_u64().unwrap())
        .max();
    assert_eq!(most, Some(DEVICES as u64), "{said}");
    assert!(
        series
            .iter()
            .any(|second| second["gateway_rss_bytes"].as_u64().is_some())
    );
}

#[test]
fn a_process_that_is_killed_is_missed_and_nothing_hangs() {
    let gateway = Gateway::start(DEVICES);
    let json = gateway.file("report.json");
    // Long enough to be in the middle of it when the process is killed, wherever that is.
    let run = start(&gateway, 2, 600, &json);
    let began = Instant::now();
    let victim = loop {
        if let [_, victim] = agents(&run)[..] {
            break victim;
        }
        assert!(began.elapsed() < PATIENCE, "there are no two processes");
        // A look at the run's children, up to the deadline above.
        std::thread::sleep(Duration::from_millis(20));
    };
    let killed = Command::new("kill")
        .args(["-KILL", &victim.to_string()])
        .status();
    assert!(killed.unwrap().success());
    let outcome = end(run, &json);
    assert_eq!(outcome.code, Some(2), "{}", outcome.said);
    assert_eq!(
        outcome.report["verdict"]["outcome"], "invalid",
        "{}",
        outcome.said
    );
    let invalid = outcome.report["verdict"]["invalid"][0].as_str().unwrap();
    assert!(
        invalid.contains("of 2 ended before its report (signal: 9")
            && invalid.contains("its 20 devices"),
        "{invalid}"
    );
}

#[test]
fn a_second_interrupt_ends_a_run_at_once_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Command::new(LOADGEN)
        .args(["run", "smoke", "--no-tui", "--processes", "2"])
        .args(["--connections", "20", "--seconds", "600"])
        .arg("--gateway")
        .arg(support::gateway_program())
        .arg("--data-in")
        .arg(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while agents(&run).len() < 2 {
        assert!(began.elapsed() < PATIENCE, "there are no two processes");
        // A look at the run's children, up to the deadline above.
        std::thread::sleep(Duration::from_millis(20));
    }
    let agents = agents(&run);
    let code = loop {
        if let Some(status) = run.try_wait().unwrap() {
            break status.code();
        }
        assert!(began.elapsed() < PATIENCE, "the run does not end");
        let pid = run.id().to_string();
        let _ = Command::new("kill").args(["-INT", &pid]).status();
        // The kernel joins signals that come before the first was taken: they are sent until one is taken as the second.
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(code, Some(130));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    for agent in agents {
        assert!(
            !Path::new(&format!("/proc/{agent}")).exists(),
            "{agent} is still there"
        );
    }
}

#[test]
fn more_processes_than_pairs_are_refused() {
    let gateway = Gateway::start(DEVICES);
    let json = gateway.file("report.json");
    let outcome = end(start(&gateway, 21, 1, &json), &json);
    assert_eq!(outcome.code, Some(1), "{}", outcome.said);
    assert!(
        outcome.said.contains("21 processes need as many pairs"),
        "{}",
        outcome.said
    );
}
