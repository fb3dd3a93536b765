//! Server processes under measurement: started, watched through `/proc`, and ended with the run.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context as _, bail};
use parking_lot::Mutex;

use crate::measure::Board;

/// Kernel clock ticks a second in `/proc/<pid>/stat`: 100 on every Linux that we know (`getconf CLK_TCK`).
const TICKS_PER_SECOND: u64 = 100;

/// Lines of a child that are kept until it is ready.
const SAID_LINES_MAX: usize = 50;

/// A child that dies with this value.
pub(crate) struct Server {
    child: Child,
}

impl Server {
    /// Starts `command` and waits until `ready` recognises one line of its standard output or standard error.
    ///
    /// What it prints on standard error is a complaint and goes to the board; what it prints until it is ready is part of the
    /// error, if there is one.
    pub(crate) fn start<T: Send + 'static>(
        mut command: Command,
        patience: Duration,
        board: &Board,
        ready: impl Fn(&str) -> Option<T> + Send + Sync + Clone + 'static,
    ) -> anyhow::Result<(Self, T)> {
        let path = Path::new(command.get_program());
        let program = path.file_name().unwrap_or_default().to_string_lossy();
        let program = program.into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let (found, wait) = mpsc::sync_channel(2);
        let said = Said::default();
        if let Some(out) = child.stdout.take() {
            watch(out, ready.clone(), found.clone(), said.clone(), |_| {});
        }
        if let Some(err) = child.stderr.take() {
            let (board, who) = (board.clone(), program.clone());
            let complain = move |line: &str| board.complain(&who, line);
            watch(err, ready, found, said.clone(), complain);
        }
        let server = Self { child };
        match wait.recv_timeout(patience) {
            Ok(value) => Ok((server, value)),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!(
                    "{program} is not ready after {} s; it said:{}",
                    patience.as_secs(),
                    said.text()
                )
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                bail!(
                    "{program} ended before it was ready; it said:{}",
                    said.text()
                )
            }
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when the child is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a child said before it was ready, the first lines of it.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<String>>>);

impl Said {
    fn add(&self, line: &str) {
        let mut lines = self.0.lock();
        if lines.len() < SAID_LINES_MAX {
            lines.push(line.to_owned());
        }
    }

    fn text(&self) -> String {
        let lines = self.0.lock();
        lines.iter().map(|line| format!("\n  {line}")).collect()
    }
}

/// Reads `stream` to its end on a thread of its own; the child must never block on a full pipe.
fn watch<T: Send + 'static>(
    stream: impl std::io::Read + Send + 'static,
    ready: impl Fn(&str) -> Option<T> + Send + 'static,
    found: mpsc::SyncSender<T>,
    said: Said,
    each: impl Fn(&str) + Send + 'static,
) {
    std::thread::spawn(move || {
        let mut found = Some(found);
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            each(&line);
            said.add(&line);
            if let Some(value) = found.as_ref().and_then(|_| ready(&line))
                && let Some(found) = found.take()
            {
                let _ = found.try_send(value);
            }
        }
    });
}

/// What `/proc` says of a process at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// CPU time of all threads so far, user and system.
    pub(crate) cpu: Duration,
    /// Resident memory.
    pub(crate) resident_bytes: u64,
}

/// Looks at process `pid`.
pub(crate) fn sample(pid: u32) -> anyhow::Result<Sample> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("read /proc/{pid}/stat: has the server ended?"))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(Sample {
        cpu: cpu_time(&stat).context("unexpected form of /proc/<pid>/stat")?,
        resident_bytes: resident_bytes(&status).context("no VmRSS in /proc/<pid>/status")?,
    })
}

/// Resident memory of process `pid`, in bytes; `None`: it is gone.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    resident_bytes(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// Fields 14 and 15 of `stat`, counted behind the name in parentheses, which may hold blanks itself.
fn cpu_time(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis(
        (user + system) * 1_000 / TICKS_PER_SECOND,
    ))
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_lines() {
        let stat = "4242 (a (strange) name) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20";
        assert_eq!(cpu_time(stat), Some(Duration::from_secs(4)));
        assert_eq!(
            resident_bytes("VmPeak:\t 9 kB\nVmRSS:\t  12 kB\n"),
            Some(12 * 1024)
        );
        assert_eq!(resident_bytes("VmPeak:\t 9 kB\n"), None);
    }

    #[test]
    fn sees_itself() {
        let here = sample(std::process::id()).unwrap();
        assert!(here.resident_bytes > 1 << 20);
    }
}
