//! The gateway under measurement: a process of its own with a data folder of its own, both gone when the run is over.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::account::Account;
use crate::process::Server;

/// How long a gateway may take to start, a debug build on a busy machine included.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// What the names of generated accounts start with.
const PREFIX: &str = "load-";

/// Which gateway to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Target {
    /// Program to start; without it, `quipu-gateway` beside this program
    #[arg(long, value_name = "PATH")]
    gateway: Option<PathBuf>,
    /// Where its data folder is made (and removed); without it, the folder for temporary files. Its disk is part of the
    /// measurement: the folder for temporary files may be in memory
    #[arg(long, value_name = "DIR")]
    data_in: Option<PathBuf>,
    /// A gateway that runs already, in place of starting one
    #[arg(long, value_name = "HOST:PORT", requires = "tokens")]
    server: Option<SocketAddr>,
    /// Accounts on it, as `quipu-gateway provision --tokens FILE` wrote them
    #[arg(long, value_name = "FILE", requires = "server")]
    tokens: Option<PathBuf>,
    /// Process id of `--server`, when it runs on this machine, to sample its processor time and memory
    #[arg(long, value_name = "PID", requires = "server")]
    server_pid: Option<u32>,
}

/// A gateway that is there, and accounts on it.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) accounts: Vec<Account>,
    /// Its process, when it runs on this machine.
    pub(crate) pid: Option<u32>,
    // In this order: the process ends before its folder goes.
    _server: Option<Server>,
    _data: Option<tempfile::TempDir>,
}

impl Target {
    /// Makes `accounts` accounts and starts the gateway, or reads them where one runs already.
    pub(crate) fn start(&self, accounts: usize) -> anyhow::Result<Gateway> {
        let gateway = match (&self.server, &self.tokens) {
            (Some(server), Some(tokens)) => Gateway {
                address: *server,
                accounts: read_tokens(tokens)?,
                pid: self.server_pid,
                _server: None,
                _data: None,
            },
            _ => self.start_own(accounts)?,
        };
        ensure!(
            gateway.accounts.len() >= accounts,
            "{accounts} connections need as many accounts, and there are {}",
            gateway.accounts.len()
        );
        Ok(gateway)
    }

    fn start_own(&self, accounts: usize) -> anyhow::Result<Gateway> {
        let program = match &self.gateway {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("quipu-gateway"),
        };
        ensure!(
            program.exists(),
            "no gateway at {}; build it with `cargo build --release -p quipu-gateway`, or name one with --gateway",
            program.display()
        );
        let folder = match &self.data_in {
            Some(parent) => tempfile::tempdir_in(parent),
            None => tempfile::tempdir(),
        }
        .context("make a data folder")?;
        let data = folder.path().join("data");
        let tokens = folder.path().join("tokens.csv");
        provision(&program, &data, accounts, &tokens)?;
        let address = free_address()?;
        let mut command = Command::new(&program);
        command
            .arg("--data")
            .arg(&data)
            .args(["--listen", &address.to_string()])
            .args(["--admin-listen", "off"]);
        let shown = address.to_string();
        let (server, ()) = Server::start(command, START_PATIENCE, move |line| {
            line.contains(&shown).then_some(())
        })?;
        Ok(Gateway {
            address,
            accounts: read_tokens(&tokens)?,
            pid: Some(server.pid()),
            _server: Some(server),
            _data: Some(folder),
        })
    }
}

fn provision(program: &Path, data: &Path, accounts: usize, tokens: &Path) -> anyhow::Result<()> {
    let status = Command::new(program)
        .arg("provision")
        .arg("--data")
        .arg(data)
        .args(["--prefix", PREFIX, "--count", &accounts.to_string()])
        .arg("--tokens")
        .arg(tokens)
        .status()
        .with_context(|| format!("start {}", program.display()))?;
    if !status.success() {
        bail!("making {accounts} accounts failed; its output is above");
    }
    Ok(())
}

fn read_tokens(path: &Path) -> anyhow::Result<Vec<Account>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Account::read_all(&text)
}

/// An address that nobody listens on at the moment.
fn free_address() -> anyhow::Result<SocketAddr> {
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    Ok(UdpSocket::bind(any)?.local_addr()?)
}
