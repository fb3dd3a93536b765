//! Looks at the run, at the gateway and at the generator itself: once a second, and at memory more often while devices connect.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Counters, World};
use crate::conductor::Conductor;
use crate::measure::{Board, Sample};
use crate::process;
use crate::second::{MemoryPoint, Second, Standing};

const SECOND: Duration = Duration::from_secs(1);
/// Between two looks at memory in a ramp; the first ones are closer together, so that a short ramp has a slope too.
const MEMORY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
/// Looks that are close together.
const MEMORY_FIRST: usize = 250;
/// Looks at memory of a run at the most; what comes later has no part in the slope.
const MEMORY_MAX: usize = 20_000;

/// Memory seen before the first messages.
pub(super) type MemoryPoints = Rc<RefCell<Vec<MemoryPoint>>>;

/// Processor time and memory of generator and gateway, and what the kernel dropped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) own: process::Sample,
    pub(crate) gateway: Option<(u32, process::Sample)>,
    pub(crate) udp_drops: u64,
}

impl Look {
    /// Looks now. A gateway that is gone is not there.
    pub(crate) fn now(gateway: Option<u32>) -> Self {
        let nothing = process::Sample {
            cpu: Duration::ZERO,
            resident_bytes: 0,
        };
        Self {
            own: process::sample(std::process::id()).unwrap_or(nothing),
            gateway: gateway.and_then(|pid| Some((pid, process::sample(pid).ok()?))),
            udp_drops: process::udp_drops().unwrap_or_default(),
        }
    }

    /// Processor time of the gateway since an earlier look; one that was started in between has used it all since.
    pub(crate) fn gateway_cpu(&self, before: &Self) -> Option<Duration> {
        let (pid, after) = self.gateway?;
        Some(match before.gateway {
            Some((known, before)) if known == pid => after.cpu.saturating_sub(before.cpu),
            Some(_) | None => after.cpu,
        })
    }

    /// Processor time of this process since an earlier look.
    pub(crate) fn own_cpu(&self, before: &Self) -> Duration {
        self.own.cpu.saturating_sub(before.own.cpu)
    }
}

/// Tells board and conductor of every full second, for as long as the task lives.
pub(super) async fn sample(world: Rc<World>, board: Board, conductor: Rc<Conductor>) {
    let gateway = conductor.gateway_pid();
    let began = Instant::now();
    let mut before = (began, Counters::default(), Look::now(gateway.get()), 0);
    for number in 1.. {
        tokio::time::sleep_until((began + SECOND * number).into()).await;
        let (now, look) = (Instant::now(), Look::now(gateway.get()));
        let drops = world.ports.drops();
        let mut engine = world.engine.borrow_mut();
        let counters = engine.counters;
        let (at, then, looked, dropped) = &before;
        let cores = |cpu: Duration| cpu.as_secs_f64() / (now - *at).as_secs_f64();
        let sample = Sample {
            at_seconds: (now - began).as_secs_f64(),
            phase: engine.phase,
            target: counters.due - then.due,
            sent: counters.sent - then.sent,
            acked: counters.acked - then.acked,
            delivered: counters.delivered - then.delivered,
            shed: counters.shed - then.shed,
            connections: engine.online,
            logins: counters.logins - then.logins,
            connections_lost: counters.lost - then.lost,
            gateway_cores: look.gateway_cpu(looked).map(cores),
            gateway_rss_bytes: look.gateway.map(|(_, one)| one.resident_bytes),
            generator_cores: cores(look.own_cpu(looked)),
            generator_rss_bytes: look.own.resident_bytes,
            udp_drops: look.udp_drops.saturating_sub(looked.udp_drops),
            network_drops: drops - dropped,
            ..Sample::default()
        };
        let second = Second {
            sample,
            ..std::mem::take(&mut engine.second)
        };
        let standing = engine.standing();
        drop(engine);
        board.update(|progress| progress.samples.push(second.sample()));
        board.show(&standing);
        conductor.second(second, standing);
        before = (now, counters, look, drops);
    }
}

/// Looks at memory until the first messages are sent, for as long as the task lives.
pub(super) async fn memory(world: Rc<World>, points: MemoryPoints, conductor: Rc<Conductor>) {
    let gateway = conductor.gateway_pid();
    while points.borrow().len() < MEMORY_MAX {
        let pause = match points.borrow().len() < MEMORY_FIRST {
            true => MEMORY.0,
            false => MEMORY.1,
        };
        tokio::time::sleep(pause).await;
        let (connections, quiet) = {
            let engine = world.engine.borrow();
            (engine.online, engine.quiet)
        };
        if !quiet {
            return;
        }
        let look = Look::now(gateway.get());
        let point = MemoryPoint {
            connections,
            gateway_bytes: look.gateway.map(|(_, one)| one.resident_bytes),
            generator_bytes: look.own.resident_bytes,
        };
        points.borrow_mut().push(point);
        conductor.memory(point);
    }
}

impl super::Engine {
    /// How the run stands.
    fn standing(&self) -> Standing {
        Standing {
            under_way: self.under_way(),
            connections: self.online,
            verdicts: self.verdicts(),
            totals: self.totals.clone(),
            failures: self.failures.clone(),
        }
    }
}
