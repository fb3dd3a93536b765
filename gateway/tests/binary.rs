//! The binary as an operator meets it: one clear line and exit code 1 for each mistake, 0 after SIGTERM.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// The gateway on a free port, without admin pages, with data in `data`.
fn gateway(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quipu-gateway"));
    command
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "off", "--data"])
        .arg(data)
        .stdin(Stdio::null());
    command
}

/// Runs a gateway that is expected to refuse, and returns the one line that it says.
fn refusal(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().expect("the binary runs");
    assert_eq!(status.code(), Some(1));
    let said = String::from_utf8(stderr).expect("text");
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| !line.contains(" WARN "))
        .collect();
    assert_eq!(lines.len(), 1, "{said}");
    lines[0].to_owned()
}

/// A gateway that has said that it is ready; killed if the test ends before it does.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> (Self, String) {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut running = Self(child.expect("the binary runs"));
        let mut out = BufReader::new(running.0.stdout.take().expect("piped"));
        let mut said = String::new();
        while !said.contains("register NAME") {
            assert_ne!(
                out.read_line(&mut said).expect("text"),
                0,
                "it ended: {said}"
            );
        }
        (running, said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_says_what_comes_next_and_ends_well_on_sigterm() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let (mut running, said) = Running::start(&mut gateway(&data));
    for part in [
        "address",
        "fingerprint",
        "registration  open",
        "cargo run --release -p quipu-tui",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let second = refusal(&mut gateway(&data));
    assert!(second.contains("in use by another gateway"), "{second}");
    let sent = Command::new("kill")
        .args(["-TERM", &running.0.id().to_string()])
        .status();
    assert!(sent.expect("kill runs").success());
    assert_eq!(running.0.wait().expect("it ends").code(), Some(0));

    let verified = Command::new(env!("CARGO_BIN_EXE_quipu-gateway"))
        .args(["verify", "--data"])
        .arg(&data)
        .output()
        .expect("the binary runs");
    assert!(verified.status.success());
    assert!(String::from_utf8_lossy(&verified.stdout).contains("no problem found"));
}

#[test]
fn each_mistake_has_its_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");

    let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_quipu-gateway"));
    command
        .args(["--listen", &address, "--admin-listen", "off", "--data"])
        .arg(&data);
    let line = refusal(&mut command);
    assert!(
        line.contains(&address) && line.contains("is in use"),
        "{line}"
    );

    let line = refusal(gateway(&data).args([
        "--tls-certificate",
        "absent.pem",
        "--tls-key",
        "absent.pem",
    ]));
    assert!(
        line.contains("cannot read certificate absent.pem"),
        "{line}"
    );

    let line = refusal(gateway(&data).env("QUIPU_EDGE_MAX_CONNECTION", "1"));
    assert!(line.contains("QUIPU_EDGE_MAX_CONNECTIONS"), "{line}");

    std::fs::write(data.join("IDENTITY"), "format 99\nlife 1\nshards 64\n").expect("writable");
    let line = refusal(&mut gateway(&data));
    assert!(line.contains(&data.display().to_string()), "{line}");

    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("writable");
    let line = refusal(&mut gateway(&file));
    assert!(line.contains(&file.display().to_string()), "{line}");
}

#[test]
fn print_sample_prints_the_documented_file() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_quipu-gateway"))
        .args(["config", "print-sample"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut said = String::new();
    let mut out = child.stdout.take().expect("piped");
    out.read_to_string(&mut said).expect("text");
    assert!(child.wait().expect("it ends").success());
    assert_eq!(said, quipu_gateway::config::sample());
}
