//! What goes wrong, when: each fault of the plan on its own clock, until the storm is over.

use quipu_core::record::Position;
use quipu_core::shard::ShardId;

use crate::plan::{Fault, MS, SECOND, Us};
use crate::sabotage::Sabotage;
use crate::world::{Event, LinkNo, Phase, World};

impl World {
    /// Starts every fault's clock, the store's and the checkpoints'.
    pub(crate) fn start_faults(&mut self) {
        let faults: Vec<Fault> = self.plan.faults.keys().copied().collect();
        for fault in faults {
            self.next_fault(fault);
        }
        self.schedule(self.plan.flush, Event::Flush);
        self.schedule(self.plan.flush, Event::Checkpoint);
        if self.plan.keeps.len() > 1 {
            let part = self.plan.duration / self.plan.keeps.len() as u64;
            self.schedule(part, Event::Settings);
        }
        if !self.plan.acts.is_empty() {
            self.schedule(self.plan.flush, Event::Sweep);
        }
    }

    fn next_fault(&mut self, fault: Fault) {
        if let Some(often) = self.plan.faults.get(&fault) {
            let after = self.rng.between(1, 2 * often);
            self.schedule(after, Event::Fault(fault));
        }
    }

    /// Whether a fault that happens to single things happens to this one.
    pub(crate) fn fault_now(&mut self, fault: Fault, per_mille: u64) -> bool {
        self.phase == Phase::Storm
            && self.plan.faults.contains_key(&fault)
            && self.rng.chance(per_mille)
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        if self.phase == Phase::Heal {
            return;
        }
        self.note(fault.name(), &[]);
        match fault {
            Fault::GatewayKilled => {
                let gateway = self.rng.index(self.gateways.len());
                self.kill_gateway(gateway, "killed");
            }
            Fault::GatewayPaused => {
                let gateway = self.rng.index(self.gateways.len());
                let pause = self.some_time();
                self.pause_gateway(gateway, pause);
            }
            Fault::ShardMoved => {
                let shard = self.rng.index(self.view.owners.len());
                let to = self.rng.index(self.gateways.len());
                self.move_shard(shard, to);
            }
            Fault::TwoOwners => self.two_owners(),
            Fault::LogStalled => self.log_stalled_until = self.now + self.some_time(),
            Fault::StoreStalled => self.store_stalled_until = self.now + self.some_time(),
            Fault::PacketsLost => self.packets_lost_until = self.now + self.some_time(),
            // These happen to single appends: see `durable`.
            Fault::AppendUnanswered | Fault::RecordDoubled => return,
            Fault::LinkCut => self.cut_a_link((true, true)),
            Fault::LinkHalfDead => {
                let to_gateway = self.rng.chance(500);
                self.cut_a_link((to_gateway, !to_gateway));
            }
            Fault::MassReconnect => {
                let links: Vec<LinkNo> = self.links.keys().copied().collect();
                for link in links {
                    self.kill_link(link, (true, true));
                }
            }
            Fault::ClientKilled => {
                let device = self.rng.index(self.devices.len());
                self.kill_device(device, false);
            }
            Fault::ClientPowerLost => {
                let device = self.rng.index(self.devices.len());
                self.kill_device(device, true);
            }
            Fault::DeviceAway => {
                let device = self.rng.index(self.devices.len());
                let away = 4 * self.some_time();
                self.send_device_away(device, away);
            }
            Fault::SlowReader => {
                let device = self.rng.index(self.devices.len());
                self.devices[device].slow_until = self.now + 4 * self.some_time();
            }
            Fault::ClockJump => {
                let jump = self.rng.between(0, 20_000_000) as i64 - 10_000_000;
                self.clock_offset_ms += jump;
                self.clock_was_ahead |= jump < 0;
            }
        }
        self.next_fault(fault);
    }

    /// From a hiccup to something that people notice.
    fn some_time(&mut self) -> Us {
        if self.rng.chance(500) {
            self.rng.between(MS, 200 * MS)
        } else {
            self.rng.between(200 * MS, 5 * SECOND)
        }
    }

    fn cut_a_link(&mut self, directions: (bool, bool)) {
        let alive: Vec<LinkNo> = self
            .links
            .iter()
            .filter(|(_, link)| link.is_alive())
            .map(|(number, _)| *number)
            .collect();
        if !alive.is_empty() {
            let link = self.rng.pick(&alive);
            self.kill_link(link, directions);
        }
    }

    /// A gateway takes a shard over although its owner lives and has not been told: the view reaches the owner late.
    fn two_owners(&mut self) {
        let shard = self.rng.index(self.view.owners.len());
        let to = self.rng.index(self.gateways.len());
        if !self.gateways[to].alive || self.view.owners[shard] == to {
            return;
        }
        self.view.owners[shard] = to;
        self.view.number += 1;
        let view = self.view.clone();
        let late = self.rng.between(SECOND, 5 * SECOND);
        for gateway in 0..self.gateways.len() {
            let after = if gateway == to { 0 } else { late };
            self.tell_gateway(
                gateway,
                after,
                crate::world::AtGateway::NewView(view.clone()),
            );
        }
    }

    pub(crate) fn flush_store(&mut self) {
        if self.store_stalled_until <= self.now {
            let commits = self.store.behind() as u64;
            let but = if self.rng.chance(500) {
                0
            } else {
                self.rng.below(commits + 1)
            };
            self.store.flush(but as usize);
        }
        self.schedule(self.plan.flush, Event::Flush);
    }

    pub(crate) fn checkpoint(&mut self) {
        for shard in 0..self.plan.shards {
            let shard = ShardId(shard);
            let applied = if self.sabotage == Some(Sabotage::TrimEarly) {
                self.store.applied(shard)
            } else {
                self.store.applied_durably(shard)
            };
            let up_to = applied.0.saturating_sub(self.plan.trim_margin);
            self.log.trim(shard, Position(up_to));
        }
        let after = 2 * self.plan.flush;
        self.schedule(after, Event::Checkpoint);
    }

    /// Nothing goes wrong any more: what is stopped goes on, who is away comes back.
    pub(crate) fn heal(&mut self) {
        self.phase = Phase::Heal;
        self.note("heal", &[]);
        self.log_stalled_until = 0;
        self.store_stalled_until = 0;
        self.packets_lost_until = 0;
        for gateway in 0..self.gateways.len() {
            self.resume_gateway(gateway);
        }
        for device in 0..self.devices.len() {
            self.devices[device].slow_until = 0;
            self.return_device(device);
        }
        self.announce_view();
    }
}
