//! Looks at the run, at the gateway and at the generator itself: once a second, and at memory more often while devices connect.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Counters, World};
use crate::conductor::Conductor;
use crate::measure::{Board, Sample};
use crate::second::{MemoryPoint, Second, Standing};
use crate::{kernel, process};

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
///
/// What it dropped at the generator's own sockets is asked of those.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) own: process::Sample,
    pub(crate) gateway: Option<(u32, process::Sample)>,
    pub(crate) udp_drops: u64,
    /// At the sockets of the gateway.
    gateway_drops: Option<u64>,
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
            udp_drops: kernel::drops_of_machine().unwrap_or_default(),
            gateway_drops: gateway.and_then(kernel::drops_of_process),
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

    /// Datagrams dropped at the gateway's sockets since an earlier look; one that was started in between begins at none.
    pub(crate) fn gateway_drops(&self, before: &Self) -> Option<u64> {
        let pid = |look: &Self| look.gateway.map(|(pid, _)| pid);
        let known = before.gateway_drops.filter(|_| pid(before) == pid(self));
        Some(self.gateway_drops?.saturating_sub(known.unwrap_or(0)))
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
    let mut before = (began, Counters::default(), Look::now(gateway.get()), [0; 2]);
    for number in 1.. {
        tokio::time::sleep_until((began + SECOND * number).into()).await;
        let (now, look) = (Instant::now(), Look::now(gateway.get()));
        let drops = [world.ports.tally().lost(), world.ports.dropped_by_kernel()];
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
            generator_drops: drops[1].saturating_sub(dropped[1]),
            gateway_drops: look.gateway_drops(looked),
            network_drops: drops[0] - dropped[0],
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
        let point = MemoryPoint {
            connections,
            gateway_bytes: gateway.get().and_then(process::resident),
            generator_bytes: process::resident(std::process::id()).unwrap_or_default(),
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
