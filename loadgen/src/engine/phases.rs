//! Plays a scenario's phases one after the other, and makes the measurement of the run.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::Semaphore;

use super::sampler::{self, Look, MemoryPoints};
use super::seat::{Leave, Line};
use super::{
    BACKOFF, Counters, Engine, READ_BYTES, Sending, Weather, World, connect, last, media, pull,
};
use crate::account::Account;
use crate::conductor::Conductor;
use crate::measure::{
    Board, Datagrams, DrainEnd, Measurement, MigrationResult, PhaseResult, Sample, ScenarioInfo,
    StormResult, merge_failures,
};
use crate::pacer::Pacer;
use crate::ports::Ports;
use crate::scenario::{How, Kind, Mode, Phase, Scenario, Storm};
use crate::seed::{Purpose, Seed};
use crate::stop::Stop;
use crate::transport::ALPN_QUIPU;
use crate::verify::RunId;

/// How often progress is looked at while waiting.
const LOOK: Duration = Duration::from_millis(20);
/// Between two looks at the schedule; the timer is no finer.
const PACE: Duration = Duration::from_millis(1);
/// How long all conversations may take to open, where no phase of their own says so.
const OPEN_MAX: Duration = Duration::from_secs(60);
/// Without an event for so long, everything that is under way has come.
const QUIET: Duration = Duration::from_millis(300);
/// How long quiet is waited for.
const QUIET_MAX: Duration = Duration::from_secs(3);
/// An interrupted run gives what is under way this long.
const INTERRUPTED_DRAIN: Duration = Duration::from_secs(2);

/// The process of the gateway, which changes when it is killed and started again.
pub(crate) type Pid = Rc<Cell<Option<u32>>>;

/// What one generator process is to do.
pub(crate) struct Job {
    /// Its scenario, or its part of it.
    pub(crate) scenario: Scenario,
    /// Names its messages.
    pub(crate) run: RunId,
    /// Where the gateway is.
    pub(crate) address: SocketAddr,
    /// As many as the scenario has clients.
    pub(crate) accounts: Vec<Account>,
    /// Keeps the processes of a run together, and kills and starts the gateway.
    pub(crate) conductor: Conductor,
    /// Where progress is shown.
    pub(crate) board: Board,
    /// Set when somebody ends the run before its time.
    pub(crate) stop: Stop,
}

/// The wait after the last phase.
struct Overtime {
    end: DrainEnd,
    seconds: f64,
    /// Something still came when it ended.
    arriving: bool,
}

/// One run.
struct Stage {
    world: Rc<World>,
    scenario: Scenario,
    conductor: Rc<Conductor>,
    board: Board,
    stop: Stop,
    began: Instant,
    memory: MemoryPoints,
    pid: Pid,
    /// What the last closed loop delivered a second.
    closed_rate: Cell<f64>,
}

/// Plays the scenario. Must run in a `LocalSet`.
pub(crate) async fn run(job: Job) -> anyhow::Result<Measurement> {
    let (scenario, accounts) = (&job.scenario, job.accounts);
    let clients = scenario.clients() as usize;
    let world = Rc::new(World {
        engine: RefCell::new(Engine::new(scenario, job.run, &accounts)),
        ports: Ports::open(
            job.address,
            ALPN_QUIPU,
            clients,
            scenario.network,
            Seed(scenario.seed),
        )?,
        accounts,
        turns: Semaphore::new(connect::ATTEMPTS_AT_ONCE),
        reads: Semaphore::new(pull::READS_AT_ONCE),
        transfers: Semaphore::new(media::TRANSFERS_AT_ONCE),
        buffer: RefCell::new(vec![0; READ_BYTES].into()),
    });
    let stage = Stage {
        pid: job.conductor.gateway_pid(),
        world,
        scenario: job.scenario,
        conductor: Rc::new(job.conductor),
        board: job.board,
        memory: MemoryPoints::default(),
        stop: job.stop,
        began: Instant::now(),
        closed_rate: Cell::new(0.0),
    };
    let (world, conductor) = (&stage.world, &stage.conductor);
    let sampler = tokio::task::spawn_local(sampler::sample(
        world.clone(),
        stage.board.clone(),
        conductor.clone(),
    ));
    let memory = tokio::task::spawn_local(sampler::memory(
        world.clone(),
        stage.memory.clone(),
        conductor.clone(),
    ));
    let played = stage.play().await?;
    let overtime = stage.overtime().await;
    sampler.abort();
    memory.abort();
    let mut measurement = stage.finish(played, &overtime);
    stage.world.ports.close().await;
    // Now that the connections are over, their packets are counted.
    let engine = stage.engine();
    measurement.totals.packets_sent = engine.totals.packets_sent;
    measurement.totals.packets_lost = engine.totals.packets_lost;
    drop(engine);
    Ok(measurement)
}

impl Stage {
    async fn play(&self) -> anyhow::Result<Vec<PhaseResult>> {
        self.announce();
        let mut results = Vec::new();
        for (number, phase) in self.scenario.phases.iter().enumerate() {
            let drains = phase.kind == Kind::Drain;
            if self.stop.is_set() && !drains {
                continue;
            }
            self.begin(number, phase);
            let result = self.phase(number, phase).await;
            results.push(result.with_context(|| format!("phase {}", phase.name))?);
        }
        Ok(results)
    }

    fn announce(&self) {
        let names = self.scenario.phases.iter().map(|phase| phase.name.clone());
        self.board.update(|progress| {
            progress.scenario = info(&self.scenario);
            progress.phase_names = names.collect();
            progress.seconds_max = self.scenario.length_max().as_secs_f64();
        });
    }

    fn begin(&self, number: usize, phase: &Phase) {
        let mut engine = self.engine();
        engine.phase = number;
        engine.latencies.resize_with(number + 1, Default::default);
        engine.quiet &=
            matches!(phase.kind, Kind::Ramp { .. } | Kind::Hold) && phase.traffic.is_none();
        if let Kind::Ramp { share, .. } = phase.kind {
            let devices = (engine.seats.len() as f64 * share).ceil() as usize;
            engine.expected = engine.expected.max(devices);
        }
        drop(engine);
        self.board.update(|progress| {
            progress.phase = number;
            progress.phase_seconds = 0.0;
            progress.phase_seconds_max = phase.length.as_secs_f64();
        });
    }

    async fn phase(&self, number: usize, phase: &Phase) -> anyhow::Result<PhaseResult> {
        if phase.traffic.is_some() {
            let until = Instant::now() + OPEN_MAX;
            self.open_conversations(until, 0).await?;
        }
        self.conductor.at_phase(number).await?;
        let (before, look) = (self.engine().counters, Look::now(self.pid.get()));
        let datagrams = self.datagrams();
        let began = Instant::now();
        let mut result = PhaseResult {
            datagrams,
            number,
            name: phase.name.clone(),
            kind: phase.kind.name().to_owned(),
            began_seconds: (began - self.began).as_secs_f64(),
            ..PhaseResult::default()
        };
        let pacing = self.start_traffic(number, phase, began, &mut result);
        let end = began + phase.length;
        match &phase.kind {
            Kind::Ramp {
                share,
                rate,
                handshakes,
            } => {
                let devices = (self.world.accounts.len() as f64 * share).ceil() as usize;
                connect::ramp(&self.world, devices, *rate, *handshakes, end, &self.stop).await?;
                let there = |engine: &mut Engine| engine.online >= devices as u64;
                result.timed_out = !self.wait(end, there).await;
            }
            Kind::Open { handshakes } => self.open_conversations(end, *handshakes).await?,
            Kind::Hold | Kind::Rate => self.wait_out(end).await,
            Kind::Storm(storm) => self.storm(number, storm, end, &mut result).await?,
            Kind::Migrate { fraction } => {
                result.migration = Some(self.migrate(number, *fraction, end).await?);
            }
            Kind::SlowReader {
                fraction,
                pause,
                population,
            } => {
                let devices = self.scenario.devices_of(*population);
                self.slow(number, devices, *fraction, began + *pause, end)
                    .await;
            }
            Kind::Drain => result.timed_out = !self.drain(end).await,
        }
        if let Some(pacing) = pacing {
            pacing.abort();
        }
        let mut engine = self.engine();
        // What was due before the end and found no look since.
        engine.pace(Some(end.min(Instant::now())));
        engine.sending = Sending::Nothing;
        drop(engine);
        self.world.start_jobs();
        self.measure(&mut result, began, &before, &look);
        Ok(result)
    }

    /// Fills in what was counted since the phase began.
    fn measure(&self, result: &mut PhaseResult, began: Instant, before: &Counters, look: &Look) {
        let (now, after) = (self.engine().counters, Look::now(self.pid.get()));
        result.seconds = began.elapsed().as_secs_f64();
        result.due = now.due - before.due;
        result.sent = now.sent - before.sent;
        result.acked = now.acked - before.acked;
        result.delivered = now.delivered - before.delivered;
        result.shed = now.shed - before.shed;
        result.logins = now.logins - before.logins;
        result.connections_lost = now.lost - before.lost;
        result.gateway_cpu_seconds = after.gateway_cpu(look).map(|cpu| cpu.as_secs_f64());
        result.gateway_rss_bytes = after.gateway.map(|(_, one)| one.resident_bytes);
        result.generator_cpu_seconds = after.own_cpu(look).as_secs_f64();
        result.udp_drops = after.udp_drops.saturating_sub(look.udp_drops);
        let (begin, end) = (result.datagrams, self.datagrams());
        result.datagrams = Datagrams {
            received: end.received - begin.received,
            dropped: end.dropped.saturating_sub(begin.dropped),
            gateway_dropped: after.gateway_drops(look),
        };
        if result.closed_loop {
            self.closed_rate.set(result.delivered_per_second());
        }
        if let Some(migration) = &mut result.migration {
            migration.lost = result.connections_lost;
        }
    }

    /// What has come to our sockets so far, and what found them full.
    fn datagrams(&self) -> Datagrams {
        Datagrams {
            received: self.world.ports.tally().received(),
            dropped: self.world.ports.dropped_by_kernel(),
            gateway_dropped: None,
        }
    }

    /// Starts the phase's messages. Open loop: a task that looks at the schedule every millisecond.
    fn start_traffic(
        &self,
        number: usize,
        phase: &Phase,
        began: Instant,
        result: &mut PhaseResult,
    ) -> Option<tokio::task::JoinHandle<()>> {
        let traffic = phase.traffic.as_ref()?;
        let mut engine = self.engine();
        engine.bytes = traffic.bytes;
        let (rates, arrival) = match traffic.mode {
            Mode::Closed { outstanding } => {
                result.closed_loop = true;
                engine.sending = Sending::Closed;
                for conversation in 0..engine.places.len() {
                    // An earlier phase may have left some under way.
                    for _ in engine.unfinished[conversation] as usize..outstanding {
                        engine.start_turn(conversation);
                    }
                }
                drop(engine);
                self.world.start_jobs();
                return None;
            }
            Mode::Open { rates, arrival } => (rates, arrival),
            Mode::OpenShare { share, arrival } => {
                let rate = self.closed_rate.get() * share;
                ((rate, rate), arrival)
            }
        };
        result.offered_per_second = Some((rates.0 + rates.1) / 2.0);
        let pacer = Pacer::new(rates, phase.length, arrival, engine.seed, number as u64);
        engine.sending = Sending::Open { pacer, began };
        drop(engine);
        Some(tokio::task::spawn_local(pace(self.world.clone())))
    }

    /// Has all conversations opened. Up to `visitors` devices that are away come for it and leave when they have done it.
    async fn open_conversations(&self, until: Instant, visitors: usize) -> anyhow::Result<()> {
        self.engine().open_conversations();
        let mut visiting = BTreeSet::new();
        let open = loop {
            let (open, come) = self.engine().visit(&mut visiting, visitors);
            for device in come {
                connect::bring_in(&self.world, device, Duration::ZERO, None);
            }
            let now = Instant::now();
            if open || now >= until || self.stop.is_set() {
                break open;
            }
            self.wait_out(until.min(now + LOOK)).await;
        };
        anyhow::ensure!(
            open || self.stop.is_set(),
            "{} of {} conversations could not be opened in time: {:?}",
            self.engine().unopened,
            self.engine().places.len(),
            self.engine().failures
        );
        Ok(())
    }

    async fn storm(
        &self,
        number: usize,
        storm: &Storm,
        end: Instant,
        result: &mut PhaseResult,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        {
            let mut engine = self.engine();
            engine.backoff = storm.backoff;
            engine.weather = Some(Weather {
                began,
                away: storm.away,
                returns_ms: Vec::new(),
                attempts: 0,
            });
            engine.counters.returned = 0;
        }
        let dropped = match storm.how {
            How::Close => self.throw_off(number, storm, end).await,
            How::Silent => self.vanish(number, storm, end).await?,
            How::Kill => self.kill(storm).await?,
        };
        let back = self
            .wait(end, |engine| {
                engine.counters.returned >= dropped && engine.all_online()
            })
            .await;
        let mut engine = self.engine();
        engine.backoff = BACKOFF;
        if let Some(mut weather) = engine.weather.take() {
            weather.returns_ms.sort_unstable();
            result.storm = Some(StormResult {
                how: storm.how.name().to_owned(),
                dropped,
                back: weather.returns_ms.len() as u64,
                attempts: weather.attempts,
                returns_ms: weather.returns_ms,
            });
        }
        result.timed_out = !back;
        Ok(())
    }

    /// Devices close their connections, spread over the storm's time.
    async fn throw_off(&self, number: usize, storm: &Storm, end: Instant) -> u64 {
        let devices = self.scenario.devices_of(storm.population);
        let seed = Seed(self.scenario.seed);
        let group = number as u64;
        let mut chosen: Vec<(Duration, usize)> = seed
            .choose(group, devices.len(), storm.drop)
            .into_iter()
            .map(|at| {
                let moment = seed.unit(Purpose::Moment, group, at as u64);
                (storm.within.mul_f64(moment), devices.start + at)
            })
            .collect();
        chosen.sort_unstable();
        let began = Instant::now();
        let mut dropped = 0;
        for (moment, device) in chosen {
            if began.elapsed() < moment {
                self.wait_out(end.min(began + moment)).await;
            }
            dropped += u64::from(self.engine().throw(device, Leave::Close, true));
        }
        dropped
    }

    /// Whole sockets vanish.
    async fn vanish(&self, number: usize, storm: &Storm, end: Instant) -> anyhow::Result<u64> {
        let ports = &self.world.ports;
        let chosen = Seed(self.scenario.seed).choose(number as u64, ports.len(), storm.drop);
        let pause = storm.within / chosen.len().max(1) as u32;
        let mut dropped = 0;
        for port in chosen {
            ports.vanish(port)?;
            dropped += self.engine().throw_all(|device| ports.of(device) == port);
            if !pause.is_zero() {
                self.wait_out(end.min(Instant::now() + pause)).await;
            }
        }
        Ok(dropped)
    }

    /// The gateway is killed and started again.
    async fn kill(&self, storm: &Storm) -> anyhow::Result<u64> {
        self.conductor.kill().await?;
        let dropped = self.engine().throw_all(|_| true);
        tokio::time::sleep(storm.down).await;
        self.conductor.restart().await?;
        Ok(dropped)
    }

    /// Sockets get new ports.
    async fn migrate(
        &self,
        number: usize,
        fraction: f64,
        end: Instant,
    ) -> anyhow::Result<MigrationResult> {
        let ports = &self.world.ports;
        let chosen = Seed(self.scenario.seed).choose(number as u64, ports.len(), fraction);
        for port in &chosen {
            ports.rebind(*port)?;
        }
        let on_them = |(device, seat): (usize, &super::Seat)| {
            seat.line == Line::Online && chosen.contains(&ports.of(device))
        };
        let connections = self
            .engine()
            .seats
            .iter()
            .enumerate()
            .filter(|one| on_them(*one))
            .count();
        self.wait_out(end).await;
        Ok(MigrationResult {
            sockets: chosen.len() as u64,
            connections: connections as u64,
            lost: 0,
        })
    }

    /// Some devices do not read for a time.
    async fn slow(
        &self,
        number: usize,
        devices: std::ops::Range<usize>,
        fraction: f64,
        awake: Instant,
        end: Instant,
    ) {
        let chosen = Seed(self.scenario.seed).choose(number as u64, devices.len(), fraction);
        let set = |paused| {
            let mut engine = self.engine();
            for at in &chosen {
                engine.set_paused(devices.start + at, paused);
            }
        };
        set(true);
        self.wait_out(awake.min(end)).await;
        set(false);
        self.wait_out(end).await;
    }

    /// Waits until every message has been seen by all whom it is for and everybody is there. False: time is over.
    async fn drain(&self, end: Instant) -> bool {
        let done = |engine: &mut Engine| engine.settled() && engine.all_online();
        if !self.stop.is_set() {
            return self.wait(end, done).await || done(&mut self.engine());
        }
        let until = Instant::now() + INTERRUPTED_DRAIN;
        while Instant::now() < until && !done(&mut self.engine()) {
            tokio::time::sleep(LOOK).await;
        }
        done(&mut self.engine())
    }

    /// After the last phase: waits for what is under way as long as something arrives, and looks up what did not come.
    async fn overtime(&self) -> Overtime {
        let began = Instant::now();
        let end = loop {
            let (now, until) = (Instant::now(), began + last::OVERTIME_MAX);
            let end = self.engine().drain_end(now, until, self.stop.is_set());
            match end {
                Some(end) => break end,
                None => tokio::time::sleep(LOOK).await,
            }
        };
        // To the millisecond.
        let seconds = began.elapsed().as_millis() as f64 / 1_000.0;
        let arriving = self.engine().is_arriving(Instant::now());
        match end {
            DrainEnd::Settled => self.quiet().await,
            DrainEnd::Still | DrainEnd::Limit | DrainEnd::Interrupted => {
                last::look_up(&self.world).await;
            }
        }
        Overtime {
            end,
            seconds,
            arriving,
        }
    }

    /// Waits until nothing more comes: a message that comes twice may do so last.
    async fn quiet(&self) {
        let until = Instant::now() + QUIET_MAX;
        let began = Instant::now();
        while Instant::now() < until {
            let last = self.engine().last_event.max(began);
            if last.elapsed() >= QUIET {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until `done`, or the time, or the end of the run. Says whether it was done.
    async fn wait(&self, until: Instant, mut done: impl FnMut(&mut Engine) -> bool) -> bool {
        loop {
            if done(&mut self.engine()) {
                return true;
            }
            let now = Instant::now();
            if now >= until || self.stop.is_set() {
                return false;
            }
            let next = until.min(now + LOOK);
            tokio::time::sleep_until(next.into()).await;
            self.board.update(|progress| {
                progress.seconds = self.began.elapsed().as_secs_f64();
                progress.phase_seconds += now.elapsed().as_secs_f64();
            });
        }
    }

    async fn wait_out(&self, until: Instant) {
        self.wait(until, |_| false).await;
    }

    fn engine(&self) -> std::cell::RefMut<'_, Engine> {
        self.world.engine.borrow_mut()
    }

    /// The verdict, and everything else that a report needs.
    fn finish(&self, played: Vec<PhaseResult>, overtime: &Overtime) -> Measurement {
        let mut engine = self.engine();
        engine.over = true;
        let phases: Vec<PhaseResult> = played
            .into_iter()
            .map(|result| PhaseResult {
                latency: std::mem::take(&mut engine.latencies[result.number]),
                ..result
            })
            .collect();
        let missing = engine.seats.len() as u64 - engine.online;
        let reckoning = engine.reckon(overtime.arriving);
        let verdicts = reckoning.verdicts;
        engine.totals.under_way_at_stop = reckoning.under_way;
        // A device that is told now has its connection closed, and what it still gets is nobody's business.
        engine.end();
        self.board.update(|progress| {
            progress.done = true;
            progress.verdicts = verdicts.clone();
        });
        let samples: Vec<Sample> = self.board.read().samples;
        let seconds = self.began.elapsed().as_secs_f64();
        let mut measurement = Measurement {
            scenario: info(&self.scenario),
            environment: crate::environment::here(&engine.gateway_agent, self.pid.get().is_some()),
            started_at_ms: crate::environment::now_ms() - (seconds * 1_000.0) as u64,
            seconds,
            memory: crate::judge::memory_slope(&self.memory.borrow()),
            samples,
            phases,
            verdicts,
            totals: engine.totals.clone(),
            failures: engine.failures.clone(),
            missing,
            invalid: Vec::new(),
            interrupted: self.stop.is_set(),
            drain_end: overtime.end,
            overtime_seconds: overtime.seconds,
        };
        merge_failures(&mut measurement.failures, &self.board.complaints());
        crate::judge::judge(&mut measurement);
        measurement
    }
}

impl Engine {
    /// Has these devices vanish; says how many were there.
    fn throw_all(&mut self, of: impl Fn(usize) -> bool) -> u64 {
        let devices = (0..self.seats.len()).filter(|device| of(*device));
        devices
            .map(|device| u64::from(self.throw(device, Leave::Vanish, true)))
            .sum()
    }

    fn end(&mut self) {
        for device in 0..self.seats.len() {
            self.throw(device, Leave::End, false);
        }
    }
}

async fn pace(world: Rc<World>) {
    let mut tick = tokio::time::interval(PACE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        world.engine.borrow_mut().pace(None);
        world.start_jobs();
    }
}

/// A scenario as reports name it.
pub(crate) fn info(scenario: &Scenario) -> ScenarioInfo {
    ScenarioInfo {
        name: scenario.name.clone(),
        about: scenario.about.clone(),
        seed: scenario.seed,
        connections: scenario.clients(),
        pairs: scenario.graph.pairs,
        groups: scenario.group_sizes().len() as u64,
        processes: 1,
        toml: scenario.to_toml(),
    }
}
