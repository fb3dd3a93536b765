//! The gateway as a child process: started, killed with SIGKILL, stopped politely, verified.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long a gateway may take to replay its log and be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to stop when asked.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);
/// Pause between two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Where a gateway runs, over all its lives.
pub(crate) struct Gateway {
    program: PathBuf,
    folder: PathBuf,
    listen: SocketAddr,
    admin: SocketAddr,
    /// Settings that are not as the gateway has them by itself, as variables of its environment.
    settings: BTreeMap<&'static str, String>,
    child: Option<Child>,
}

impl Gateway {
    /// Chooses free ports; starts nothing yet.
    pub(crate) fn new(program: &Path, folder: &Path) -> Result<Self> {
        // Both sockets are closed again at once. Nobody else is given these ports for a while.
        let listen = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        let admin = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        Ok(Self {
            program: program.to_owned(),
            folder: folder.to_owned(),
            listen,
            admin,
            settings: BTreeMap::new(),
            child: None,
        })
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen
    }

    /// The data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("gateway")
    }

    /// From its next start on groups that are made are pulled above so many members; `None`: as the gateway has it by itself.
    pub(crate) fn set_fan_out_max(&mut self, members: Option<usize>) {
        match members {
            Some(members) => self.set("QUIPU_GROUPS_FAN_OUT_MAX", &members.to_string()),
            None => {
                self.settings.remove("QUIPU_GROUPS_FAN_OUT_MAX");
            }
        }
    }

    /// From its next start on it has this setting, given as a variable of its environment.
    pub(crate) fn set(&mut self, variable: &'static str, value: &str) {
        self.settings.insert(variable, value.to_owned());
    }

    /// Starts it. Does not wait until it is ready.
    pub(crate) fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the gateway runs already");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("gateway.log"))?;
        let child = Command::new(&self.program)
            .args(["--listen", &self.listen.to_string()])
            .args(["--admin-listen", &self.admin.to_string()])
            .arg("--data")
            .arg(self.data())
            .envs(&self.settings)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until it says that it is ready.
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        while !is_ready(self.admin) {
            let child = self.child.as_mut().context("the gateway was not started")?;
            if let Some(status) = child.try_wait()? {
                self.child = None;
                bail!("the gateway ended by itself: {status}; its output is in gateway.log");
            }
            ensure!(
                Instant::now() < deadline,
                "the gateway is not ready after {} s; its output is in gateway.log",
                READY_WITHIN.as_secs()
            );
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// SIGKILL: no destructor runs, nothing is flushed, no peer is told.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the gateway does not run")?;
        if let Some(status) = child.try_wait()? {
            bail!("the gateway ended by itself: {status}; its output is in gateway.log");
        }
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits until it has ended well.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the gateway does not run")?;
        let sent = Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status()
            .context("run kill")?;
        ensure!(sent.success(), "kill: {sent}");
        let deadline = Instant::now() + STOPPED_WITHIN;
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "the gateway stopped with {status}");
                return Ok(());
            }
            if Instant::now() >= deadline {
                child.kill()?;
                child.wait()?;
                bail!(
                    "the gateway does not stop within {} s of SIGTERM",
                    STOPPED_WITHIN.as_secs()
                );
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Runs `quipu-gateway verify` on its folder.
    pub(crate) fn verify(&self) -> Result<()> {
        let output = Command::new(&self.program)
            .arg("verify")
            .arg("--data")
            .arg(self.data())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("start {}", self.program.display()))?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        print!("{said}");
        ensure!(output.status.success(), "verify: {}", output.status);
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already; then there is nothing to clean up.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Asks the admin page. Any failure means: not yet.
fn is_ready(admin: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(admin) else {
        return false;
    };
    let timeout = Some(Duration::from_secs(1));
    let mut answer = String::new();
    let asked = stream
        .set_read_timeout(timeout)
        .and_then(|()| stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: crash\r\n\r\n"))
        .and_then(|()| stream.read_to_string(&mut answer));
    asked.is_ok() && answer.starts_with("HTTP/1.1 200")
}
