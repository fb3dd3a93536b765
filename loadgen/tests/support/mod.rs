//! A real gateway in a process of its own, and runs of the load generator against it.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(crate) const LOADGEN: &str = env!("CARGO_BIN_EXE_quipu-loadgen");

/// The gateway beside the generator, built if it is missing.
pub(crate) fn gateway_program() -> PathBuf {
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

/// A gateway with accounts; ends with this value, and its folder goes.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    accounts: Vec<String>,
    child: Child,
    folder: tempfile::TempDir,
}

impl Gateway {
    /// Starts one.
    pub(crate) fn start(accounts: usize) -> Self {
        Self::start_with(accounts, &[])
    }

    /// Starts one with further settings.
    pub(crate) fn start_with(accounts: usize, settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (data, tokens) = (folder.path().join("data"), folder.path().join("tokens"));
        let made = Command::new(gateway_program())
            .arg("provision")
            .arg("--data")
            .arg(&data)
            .args(["--prefix", "load-", "--count", &accounts.to_string()])
            .arg("--tokens")
            .arg(&tokens)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        drop(socket);
        let mut child = Command::new(gateway_program())
            .arg("--data")
            .arg(&data)
            .args(["--listen", &address.to_string(), "--admin-listen", "off"])
            .args(settings)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.any(|line| line.unwrap().contains(&address.to_string()));
        assert!(ready, "the gateway ended before it was ready");
        // Whatever it still says must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let accounts = std::fs::read_to_string(&tokens).unwrap();
        Self {
            address,
            accounts: accounts.lines().map(str::to_owned).collect(),
            child,
            folder,
        }
    }

    /// A tokens file with `count` accounts of its own for run number `run`.
    pub(crate) fn tokens(&self, run: usize, count: usize) -> PathBuf {
        let file = self.folder.path().join(format!("tokens-{run}"));
        let accounts = &self.accounts[run * count..(run + 1) * count];
        std::fs::write(&file, accounts.join("\n")).unwrap();
        file
    }

    /// The generator, to play a scenario against `address`, this gateway or a proxy of it, with the accounts of run number
    /// `run`.
    pub(crate) fn play(
        &self,
        scenario: impl AsRef<OsStr>,
        address: SocketAddr,
        (run, devices): (usize, usize),
        json: &Path,
    ) -> Command {
        let mut command = Command::new(LOADGEN);
        command
            .arg("run")
            .arg(scenario)
            .args(["--no-tui", "--no-ceiling"])
            .args(["--server", &address.to_string()])
            .arg("--tokens")
            .arg(self.tokens(run, devices))
            .arg("--json")
            .arg(json);
        command
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A file of that name in the gateway's folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came of a run.
pub(crate) struct Outcome {
    /// Exit code of the generator.
    pub(crate) code: Option<i32>,
    /// Its report; null, if it wrote none.
    pub(crate) report: serde_json::Value,
    /// Everything it printed.
    pub(crate) said: String,
}

impl Outcome {
    /// Of a generator that has ended, and was to write its report to `json`.
    pub(crate) fn of(output: &std::process::Output, json: &Path) -> Self {
        let report = std::fs::read_to_string(json).unwrap_or_default();
        Self {
            code: output.status.code(),
            report: serde_json::from_str(&report).unwrap_or_default(),
            said: format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }

    /// The verdicts that are not zero.
    pub(crate) fn faults(&self) -> Vec<(String, u64)> {
        let faults = self.report["verdict"]["faults"].as_object();
        let faults = faults.unwrap_or_else(|| panic!("no report:\n{}", self.said));
        let count = |count: &serde_json::Value| count.as_u64().unwrap();
        let found = faults.iter().map(|(kind, n)| (kind.clone(), count(n)));
        found.filter(|(_, count)| *count > 0).collect()
    }

    /// One of the report's totals.
    pub(crate) fn total(&self, name: &str) -> u64 {
        self.report["totals"][name].as_u64().unwrap()
    }
}
