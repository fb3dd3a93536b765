//! Several generator processes as one run: starts them, keeps them in step, adds up what they measured, and misses none.

mod crew;
mod sum;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use self::crew::{Crew, Heard, State};
use self::sum::Sum;
use crate::gateway::Gateway;
use crate::measure::{Board, Measurement};
use crate::scenario::Scenario;
use crate::stop::Stop;
use crate::talk::{Said, Step, Told, Work};

/// Generator processes of a run at the most.
pub(crate) const PROCESSES_MAX: usize = 64;
/// Lines of all processes that wait for the coordinator; above it the processes wait too.
const HEARD_MAX: usize = 256;
/// Between two looks at the clock and at the wish to stop.
const LOOK: Duration = Duration::from_millis(50);
/// A process that says nothing for so long, while each tells of every second, is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// What a run may take above the length of its phases: conversations are opened, processes wait
/// for each other, and what is still under way is waited for and looked up.
const SLACK: Duration = Duration::from_secs(240);
/// How long processes that were told to stop may take until they are killed.
const STOP_MAX: Duration = Duration::from_secs(20);

/// A run of several processes.
struct Coordinator<'a> {
    scenario: &'a Scenario,
    gateway: Arc<Mutex<Gateway>>,
    crew: Crew,
    sum: Sum,
    board: Board,
    stop: Stop,
    /// When the processes were told to come to an end.
    stopping: Option<Instant>,
    /// Why a process did not come to its end, one sentence each.
    lost: Vec<String>,
}

/// Plays a scenario in `processes` processes against a gateway that is there. Must run in a `LocalSet`.
pub(crate) async fn play(
    scenario: &Scenario,
    gateway: Gateway,
    processes: usize,
    board: Board,
    stop: Stop,
) -> anyhow::Result<Measurement> {
    ensure!(
        processes <= PROCESSES_MAX && scenario.clients() >= processes as u64,
        "--processes is between 1 and {PROCESSES_MAX}, and not above the number of connections"
    );
    ensure!(
        !scenario.talks() || scenario.conversations() >= processes as u64,
        "{processes} processes need as many pairs or groups, and there are {}",
        scenario.conversations()
    );
    let (say, mut heard) = mpsc::channel(HEARD_MAX);
    let crew = Crew::start(&works(scenario, &gateway, processes), &say, &board)?;
    drop(say);
    let sum = Sum::new(scenario, processes, gateway.pid, board.clone());
    let mut coordinator = Coordinator {
        scenario,
        gateway: Arc::new(Mutex::new(gateway)),
        crew,
        sum,
        board,
        stop,
        stopping: None,
        lost: Vec::new(),
    };
    coordinator.announce();
    let deadline = Instant::now() + scenario.length_max() + SLACK;
    let mut tick = tokio::time::interval(LOOK);
    while coordinator.crew.is_working() {
        tokio::select! {
            heard = heard.recv() => {
                let (number, heard) = heard.context("every process has an ear of its own")?;
                coordinator.hear(number, heard).await?;
            }
            _ = tick.tick() => coordinator.look_after(deadline).await?,
        }
    }
    Ok(coordinator.finish())
}

/// What each process is to do.
fn works(scenario: &Scenario, gateway: &Gateway, processes: usize) -> Vec<Work> {
    let number = rand::random();
    let (mut first_pair, mut first_account) = (0, 0);
    let parts = processes as u64;
    (0..parts)
        .map(|part| {
            let scenario = scenario.part(part, parts);
            let work = Work {
                scenario: scenario.to_toml(),
                number,
                first_pair,
                address: gateway.address,
                tokens: gateway.tokens.clone(),
                first_account,
            };
            first_pair += scenario.conversations() as u32;
            first_account += scenario.clients() as usize;
            work
        })
        .collect()
}

impl Coordinator<'_> {
    fn announce(&self) {
        let names = self.scenario.phases.iter().map(|phase| phase.name.clone());
        self.board.update(|progress| {
            progress.scenario = self.sum.info();
            progress.phase_names = names.collect();
            progress.seconds_max = self.scenario.length_max().as_secs_f64();
        });
    }

    async fn hear(&mut self, number: usize, heard: Heard) -> anyhow::Result<()> {
        self.crew.heard_of(number);
        match heard {
            Heard::Said(Said::At(step)) => self.crew.set(number, State::Waiting(step)),
            Heard::Said(Said::Second(second)) => {
                let (second, standing) = *second;
                self.sum.second(number, second, standing);
            }
            Heard::Said(Said::Memory(point)) => self.sum.memory(number, point),
            Heard::Said(Said::Done(measured)) => {
                self.sum.done(number, *measured);
                self.crew.set(number, State::Done);
            }
            Heard::Gone => {
                if self.crew.is_at_work(number) {
                    let how = self.crew.end(number);
                    self.lose(number, &how);
                }
            }
        }
        self.sum.publish(&self.crew.at_work());
        self.advance().await
    }

    /// Lets the processes go on where all have come to the same step.
    async fn advance(&mut self) -> anyhow::Result<()> {
        let waiting = self.crew.waiting();
        let Some((_, step)) = waiting.first().copied() else {
            return Ok(());
        };
        if self.stopping.is_none() {
            if waiting.len() < self.crew.at_work().len() {
                return Ok(());
            }
            if waiting.iter().any(|(_, other)| *other != step) {
                self.lost
                    .push(format!("the processes are out of step: {waiting:?}"));
                self.stop_all();
            } else {
                self.perform(step).await?;
            }
        }
        for (number, _) in waiting {
            self.crew.tell(number, &Told::Go);
            self.crew.set(number, State::Working);
        }
        Ok(())
    }

    async fn perform(&mut self, step: Step) -> anyhow::Result<()> {
        match step {
            Step::Phase(number) => self.sum.phase(number),
            Step::Kill => {
                self.gateway.lock().kill()?;
                self.sum.set_gateway(None);
            }
            Step::Restart => {
                let gateway = self.gateway.clone();
                let restarted = tokio::task::spawn_blocking(move || {
                    let mut gateway = gateway.lock();
                    gateway.restart()?;
                    anyhow::Ok(gateway.pid)
                });
                self.sum.set_gateway(restarted.await??);
            }
        }
        Ok(())
    }

    /// A process is gone before its time: what its devices saw is not known, and the others have nothing to go on for.
    fn lose(&mut self, number: usize, how: &str) {
        self.crew.set(number, State::Lost);
        self.lost.push(format!(
            "generator process {} of {} {how}: its {} devices and their messages were not verified",
            number + 1,
            self.crew.len(),
            self.scenario
                .part(number as u64, self.crew.len() as u64)
                .clients()
        ));
        self.stop_all();
    }

    fn stop_all(&mut self) {
        if self.stopping.is_none() {
            self.stopping = Some(Instant::now());
            for number in self.crew.at_work() {
                self.crew.tell(number, &Told::Stop);
            }
        }
    }

    /// The clock, and the wish to stop.
    async fn look_after(&mut self, deadline: Instant) -> anyhow::Result<()> {
        let now = Instant::now();
        if self.stop.is_set() || now > deadline {
            self.stop_all();
        }
        let over = self.stopping.is_some_and(|since| now > since + STOP_MAX);
        for number in self.crew.at_work() {
            let how = match () {
                () if over => format!("did not end within {} s", STOP_MAX.as_secs()),
                () if self.crew.silence(number) > SILENCE_MAX => {
                    format!("said nothing for {} s", SILENCE_MAX.as_secs())
                }
                () => continue,
            };
            self.crew.end(number);
            self.lose(number, &how);
        }
        self.sum.tick();
        self.advance().await
    }

    fn finish(self) -> Measurement {
        let measured = self.sum.finish(self.lost, self.stopping.is_some());
        self.board.update(|progress| {
            progress.done = true;
            progress.verdicts = measured.verdicts.clone();
            progress.failures = measured.failures.clone();
        });
        measured
    }
}
