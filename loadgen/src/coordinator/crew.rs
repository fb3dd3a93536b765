//! The generator processes of a run: started, listened to, spoken to, and ended with the run.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::mpsc;

use crate::measure::Board;
use crate::talk::{Said, Step, Told, Work};

/// What comes from a process.
pub(super) enum Heard {
    Said(Said),
    /// Its standard output has ended: so has the process.
    Gone,
}

/// Where a process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Working,
    Waiting(Step),
    Done,
    Lost,
}

/// All of them.
pub(super) struct Crew(Vec<Member>);

struct Member {
    child: Child,
    orders: Option<ChildStdin>,
    state: State,
    last_heard: Instant,
}

impl Drop for Member {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Crew {
    /// Starts one process for each part of the work. What they say goes to `say`, what they complain of to the board.
    pub(super) fn start(
        works: &[Work],
        say: &mpsc::Sender<(usize, Heard)>,
        board: &Board,
    ) -> anyhow::Result<Self> {
        let mut crew = Self(Vec::new());
        for (number, work) in works.iter().enumerate() {
            crew.0
                .push(Member::start(number, say.clone(), board.clone())?);
            crew.tell(number, &Told::Work(Box::new(work.clone())));
        }
        Ok(crew)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells a process. One that is gone cannot be told; that it is gone is heard elsewhere.
    pub(super) fn tell(&mut self, number: usize, told: &Told) {
        if let (Some(orders), Ok(line)) = (&mut self.0[number].orders, serde_json::to_string(told))
        {
            let _ = writeln!(orders, "{line}").and_then(|()| orders.flush());
        }
    }

    pub(super) fn set(&mut self, number: usize, state: State) {
        self.0[number].state = state;
    }

    /// A process has let itself be heard.
    pub(super) fn heard_of(&mut self, number: usize) {
        self.0[number].last_heard = Instant::now();
    }

    /// How long a process has said nothing.
    pub(super) fn silence(&self, number: usize) -> Duration {
        self.0[number].last_heard.elapsed()
    }

    /// Those that have neither ended nor been lost.
    pub(super) fn at_work(&self) -> Vec<usize> {
        (0..self.0.len())
            .filter(|one| self.is_at_work(*one))
            .collect()
    }

    pub(super) fn is_at_work(&self, number: usize) -> bool {
        match self.0[number].state {
            State::Working | State::Waiting(_) => true,
            State::Done | State::Lost => false,
        }
    }

    pub(super) fn is_working(&self) -> bool {
        !self.at_work().is_empty()
    }

    /// Those that wait for the others, and where.
    pub(super) fn waiting(&self) -> Vec<(usize, Step)> {
        let step = |(number, member): (usize, &Member)| match member.state {
            State::Waiting(step) => Some((number, step)),
            State::Working | State::Done | State::Lost => None,
        };
        self.0.iter().enumerate().filter_map(step).collect()
    }

    /// Ends a process, if it has not ended by itself, and says how it ended.
    pub(super) fn end(&mut self, number: usize) -> String {
        let member = &mut self.0[number];
        // It may have closed its output and hang all the same.
        let _ = member.child.kill();
        match member.child.wait() {
            Ok(status) => format!("ended before its report ({status})"),
            Err(error) => format!("cannot be waited for ({error})"),
        }
    }
}

impl Member {
    fn start(
        number: usize,
        say: mpsc::Sender<(usize, Heard)>,
        board: Board,
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("agent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the coordinator, which tells the others.
            .process_group(0)
            .spawn()
            .context("start a generator process")?;
        let orders = child.stdin.take();
        let said = child.stdout.take().context("its output is a pipe")?;
        let complaints = child.stderr.take().context("its errors are a pipe")?;
        let member = Self {
            child,
            orders,
            state: State::Working,
            last_heard: Instant::now(),
        };
        std::thread::Builder::new()
            .name(format!("hears {number}"))
            .spawn(move || {
                for line in BufReader::new(said).lines().map_while(Result::ok) {
                    // A line that is none of ours is as good as the end: nothing after it can be trusted.
                    let Ok(said) = serde_json::from_str(&line) else {
                        break;
                    };
                    if say.blocking_send((number, Heard::Said(said))).is_err() {
                        return;
                    }
                }
                let _ = say.blocking_send((number, Heard::Gone));
            })?;
        std::thread::Builder::new()
            .name(format!("reads {number}"))
            .spawn(move || {
                for line in BufReader::new(complaints).lines().map_while(Result::ok) {
                    board.complain("a generator process", &line);
                }
            })?;
        Ok(member)
    }
}
