//! One look a second at the run, at the gateway and at the generator itself.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Counters, World};
use crate::measure::{Board, Sample};
use crate::process;

const SECOND: Duration = Duration::from_secs(1);

/// Processor time and memory of generator and gateway, and what the kernel dropped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) own: process::Sample,
    pub(super) gateway: Option<(u32, process::Sample)>,
    pub(super) udp_drops: u64,
}

impl Look {
    /// Looks now. A gateway that is gone is not there.
    pub(super) fn now(gateway: Option<u32>) -> Self {
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
    pub(super) fn gateway_cpu(&self, before: &Self) -> Option<Duration> {
        let (pid, after) = self.gateway?;
        Some(match before.gateway {
            Some((known, before)) if known == pid => after.cpu.saturating_sub(before.cpu),
            Some(_) | None => after.cpu,
        })
    }

    pub(super) fn own_cpu(&self, before: &Self) -> Duration {
        self.own.cpu.saturating_sub(before.own.cpu)
    }
}

/// Adds a sample at every full second, for as long as the task lives.
pub(super) async fn sample(world: Rc<World>, board: Board, gateway: super::phases::Pid) {
    let began = Instant::now();
    let mut before = (began, Counters::default(), Look::now(gateway.get()), 0);
    for second in 1.. {
        tokio::time::sleep_until((began + SECOND * second).into()).await;
        let (now, look) = (Instant::now(), Look::now(gateway.get()));
        let drops = world.ports.drops();
        let mut engine = world.engine.borrow_mut();
        let counters = engine.counters;
        let (at, then, looked, dropped) = &before;
        let cores = |cpu: Duration| cpu.as_secs_f64() / (now - *at).as_secs_f64();
        let second = &mut engine.second;
        let sample = Sample {
            at_seconds: (now - began).as_secs_f64(),
            target: counters.due - then.due,
            sent: counters.sent - then.sent,
            acked: counters.acked - then.acked,
            delivered: counters.delivered - then.delivered,
            shed: counters.shed - then.shed,
            logins: counters.logins - then.logins,
            connections_lost: counters.lost - then.lost,
            deliver_p50_ms: second.deliver.quantile_ms(0.5),
            deliver_p99_ms: second.deliver.quantile_ms(0.99),
            deliver_p999_ms: second.deliver.quantile_ms(0.999),
            ack_p50_ms: second.ack.quantile_ms(0.5),
            ack_p99_ms: second.ack.quantile_ms(0.99),
            lag_p99_ms: second.lag.quantile_ms(0.99),
            gateway_cores: look.gateway_cpu(looked).map(cores),
            gateway_rss_bytes: look.gateway.map(|(_, one)| one.resident_bytes),
            generator_cores: cores(look.own_cpu(looked)),
            generator_rss_bytes: look.own.resident_bytes,
            udp_drops: look.udp_drops.saturating_sub(looked.udp_drops),
            network_drops: drops - dropped,
            ..Sample::default()
        };
        second.deliver.clear();
        second.ack.clear();
        second.lag.clear();
        let sample = Sample {
            phase: engine.phase,
            connections: engine.online,
            ..sample
        };
        engine.show(&board);
        board.update(|progress| progress.samples.push(sample));
        before = (now, counters, look, drops);
    }
}

impl super::Engine {
    /// Writes how the run stands.
    pub(super) fn show(&self, board: &Board) {
        board.update(|progress| {
            progress.phase = self.phase;
            progress.under_way = self.ledger.under_way() + self.waiting;
            progress.connections = self.online;
            progress.verdicts = self.verdicts();
            progress.totals = self.totals.clone();
            progress.failures.clone_from(&self.failures);
        });
    }
}
