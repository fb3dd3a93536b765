//! The gateway under measurement: a process of its own with a data folder of its own, both gone when the run is over.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::account::Account;
use crate::measure::Board;
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
    /// The file that the accounts were read from.
    pub(crate) tokens: PathBuf,
    /// Its process, when it runs on this machine.
    pub(crate) pid: Option<u32>,
    own: Option<Own>,
}

/// A gateway that this program started, with what it takes to start it again.
struct Own {
    program: PathBuf,
    // In this order: the process ends before its folder goes.
    server: Option<Server>,
    folder: tempfile::TempDir,
    /// Where what it prints is shown.
    board: Board,
}

impl Gateway {
    /// Ends its process with SIGKILL, at once.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        let own = self.own.as_mut().context(NOT_OURS)?;
        own.server = None;
        self.pid = None;
        Ok(())
    }

    /// Starts it again with the same data at the same address, and waits until it is ready.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        let own = self.own.as_mut().context(NOT_OURS)?;
        let server = own.serve(self.address)?;
        self.pid = Some(server.pid());
        own.server = Some(server);
        Ok(())
    }
}

const NOT_OURS: &str = "only a gateway that this program started can be killed; leave --server out";

impl Own {
    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn tokens(&self) -> PathBuf {
        self.folder.path().join("tokens.csv")
    }

    fn serve(&self, address: SocketAddr) -> anyhow::Result<Server> {
        let mut command = Command::new(&self.program);
        command
            .arg("--data")
            .arg(self.data())
            .args(["--listen", &address.to_string()])
            .args(["--admin-listen", "off"])
            // Ctrl-C is for us: the gateway is needed until the report is there.
            .process_group(0);
        let shown = address.to_string();
        let (server, ()) = Server::start(command, START_PATIENCE, &self.board, move |line| {
            line.contains(&shown).then_some(())
        })?;
        Ok(server)
    }
}

impl Target {
    /// Makes `accounts` accounts and starts the gateway, or reads them where one runs already.
    pub(crate) fn start(&self, accounts: usize, board: &Board) -> anyhow::Result<Gateway> {
        let gateway = match (&self.server, &self.tokens) {
            (Some(server), Some(tokens)) => Gateway {
                address: *server,
                accounts: read_tokens(tokens)?,
                tokens: tokens.clone(),
                pid: self.server_pid,
                own: None,
            },
            _ => self.start_own(accounts, board)?,
        };
        ensure!(
            gateway.accounts.len() >= accounts,
            "{accounts} connections need as many accounts, and there are {}",
            gateway.accounts.len()
        );
        Ok(gateway)
    }

    fn start_own(&self, accounts: usize, board: &Board) -> anyhow::Result<Gateway> {
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
        let mut own = Own {
            program,
            server: None,
            folder,
            board: board.clone(),
        };
        provision(&own.program, &own.data(), accounts, &own.tokens())?;
        let address = free_address()?;
        let server = own.serve(address)?;
        let pid = server.pid();
        own.server = Some(server);
        Ok(Gateway {
            address,
            accounts: read_tokens(&own.tokens())?,
            tokens: own.tokens(),
            pid: Some(pid),
            own: Some(own),
        })
    }

    /// Whether it is one that runs already.
    pub(crate) fn is_given(&self) -> bool {
        self.server.is_some()
    }

    /// Takes the gateway that a scenario names, unless the command line names one.
    pub(crate) fn or(
        mut self,
        server: Option<&str>,
        tokens: Option<&Path>,
    ) -> anyhow::Result<Self> {
        if let (None, Some(server), Some(tokens)) = (self.server, server, tokens) {
            let found = server.parse();
            self.server =
                Some(found.with_context(|| format!("server {server}: expected HOST:PORT"))?);
            self.tokens = Some(tokens.to_owned());
        }
        Ok(self)
    }
}

fn provision(program: &Path, data: &Path, accounts: usize, tokens: &Path) -> anyhow::Result<()> {
    let made = Command::new(program)
        .arg("provision")
        .arg("--data")
        .arg(data)
        .args(["--prefix", PREFIX, "--count", &accounts.to_string()])
        .arg("--tokens")
        .arg(tokens)
        .output()
        .with_context(|| format!("start {}", program.display()))?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr);
        bail!("making {accounts} accounts failed: {}", said.trim());
    }
    Ok(())
}

/// Reads a file of accounts.
pub(crate) fn read_tokens(path: &Path) -> anyhow::Result<Vec<Account>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Account::read_all(&text)
}

/// An address that nobody listens on at the moment.
fn free_address() -> anyhow::Result<SocketAddr> {
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    Ok(UdpSocket::bind(any)?.local_addr()?)
}
