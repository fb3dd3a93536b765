//! One seed from its first to its last event, and what came of it.

use std::time::Instant;

use quipu_core::row::{Account, EntityKey};
use quipu_core::shard::ShardId;
use quipu_protocol::id::ConversationId;

use crate::checker::{Rest, Violation};
use crate::names::fingerprint;
use crate::plan::{Plan, SECOND};
use crate::rng::Rng;
use crate::sabotage::Sabotage;
use crate::trace::Trace;
use crate::world::World;

/// Makes the seed of what people do beside writing out of the seed of the run.
const LIVES: u64 = 0x6c69_7665_7300_0000;
/// Makes the seed of what inboxes keep out of it.
const KEEPS: u64 = 0x6b65_6570_7300_0000;
/// Makes the seed of how many changes of pulled groups are told of out of it.
const CHANGES: u64 = 0x6368_616e_6765_7300;
/// Makes the seed of who watches whom out of it.
const WATCHES: u64 = 0x7761_7463_6800_0000;

/// What came of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Which.
    pub seed: u64,
    /// Steps that were traced.
    pub events: u64,
    /// Hash of all of them: the same for every run of a seed.
    pub trace: u64,
    /// Promises that were broken.
    pub violations: Vec<Violation>,
}

/// How to run a seed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Break this promise on purpose.
    pub sabotage: Option<Sabotage>,
    /// Print every step.
    pub text: bool,
    /// People only write and read, as they do in a part of the seeds anyway.
    pub plain: bool,
    /// Inboxes keep everything and nobody watches, as in a part of the seeds anyway.
    pub keep_all: bool,
}

/// Runs a seed. A machine that panics has broken a promise too.
pub fn run(seed: u64, options: Options) -> Outcome {
    let judged = std::panic::catch_unwind(|| run_to_the_end(seed, options));
    judged.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Outcome {
            seed,
            events: 0,
            trace: 0,
            violations: vec![Violation {
                rule: "panic",
                what: text.unwrap_or_default(),
            }],
        }
    })
}

fn run_to_the_end(seed: u64, options: Options) -> Outcome {
    let Options {
        sabotage,
        text,
        plain,
        keep_all,
    } = options;
    let mut rng = Rng::new(seed);
    let mut lives = Rng::new(seed ^ LIVES);
    let mut plan = Plan::new(&mut rng, &mut lives);
    if plain {
        plan.acts = Vec::new();
    } else {
        if lives.chance(100) {
            plan.forget_much();
        }
        plan.late_copies = lives.pick(&[0, 0, 100, 400]);
    }
    if !plain && !keep_all {
        plan.keep_little(&mut Rng::new(seed ^ KEEPS));
        plan.watch(&mut Rng::new(seed ^ WATCHES));
        plan.changes_kept = Rng::new(seed ^ CHANGES).pick(&[2, 10, u64::MAX, u64::MAX]);
    }
    let trace = Trace::new(text);
    trace.say(|| format!("{plan:#?}"));
    // Its value never shows: machines are told times relative to it.
    let mut world = World::new(plan, rng, trace, sabotage, Instant::now());
    world.start();
    world.populate();
    world.start_faults();
    let end = world.plan.duration;
    while world.step(end) && world.checker.violations().is_empty() {}
    if world.checker.violations().is_empty() {
        world.heal();
        world.come_to_rest();
    }
    Outcome {
        seed,
        events: world.trace.events(),
        trace: world.trace.hash(),
        violations: world.checker.violations().to_vec(),
    }
}

impl World {
    /// Lets everything happen that still happens, then judges.
    fn come_to_rest(&mut self) {
        let limit = self.now + Self::HEAL;
        while self.now < limit {
            let until = self.now + SECOND;
            while self.step(until) {}
            if !self.checker.violations().is_empty() {
                return;
            }
            if self.is_at_rest() {
                self.judge();
                return self.judge_presence();
            }
        }
        let stuck = self.what_is_stuck();
        self.checker.condemn("does not come to rest", stuck);
    }

    fn is_at_rest(&self) -> bool {
        (0..self.devices.len()).all(|device| self.device_is_at_rest(device))
            && self.gateways.iter().all(|gateway| gateway.is_idle())
            && self.log.under_way.is_empty()
            && self.devices.iter().all(|device| {
                let number = device.link.as_ref().map(|link| link.number);
                let link = number.and_then(|number| self.links.get(&number));
                device.is_out || link.is_some_and(|link| link.is_alive() && link.is_quiet())
            })
            && self.gateways.iter().all(|gateway| {
                let mut sessions = gateway.sessions.values();
                sessions.all(|session| session.is_quiet())
            })
            && (0..self.plan.shards).all(|shard| self.shard_is_at_rest(ShardId(shard)))
    }

    fn shard_is_at_rest(&self, shard: ShardId) -> bool {
        self.store.applied(shard) == self.log.last(shard)
    }

    fn what_is_stuck(&self) -> String {
        let mut stuck = Vec::new();
        for device in 0..self.devices.len() {
            if !self.device_is_at_rest(device) {
                let it = &self.devices[device];
                let session = it.disk.session();
                stuck.push(format!(
                    "device {device}: signed in {}, connected {}, welcomed {}, waiting {}, unreported {:?}, unanswered {:?}, cursor {:?}",
                    session.is_some(),
                    it.link.is_some(),
                    it.link.as_ref().is_some_and(|link| link.welcomed),
                    it.disk.waiting().len(),
                    it.disk.unreported(),
                    it.link.as_ref().map(|link| (link.asked.len(), link.questions.len(), link.is_asking)),
                    session.map(|session| (session.resume.cursor, self.inbox_head(session.user))),
                ));
            }
        }
        for (number, gateway) in self.gateways.iter().enumerate() {
            if !gateway.is_idle() {
                stuck.push(format!("gateway {number} is busy, alive {}", gateway.alive));
            }
        }
        for shard in (0..self.plan.shards).map(ShardId) {
            if !self.shard_is_at_rest(shard) {
                stuck.push(format!(
                    "shard {} has applied {} of {}",
                    shard.0,
                    self.store.applied(shard).0,
                    self.log.last(shard).0
                ));
            }
        }
        stuck.join("; ")
    }

    fn judge(&mut self) {
        let mut ids = vec![ConversationId([0; 16]); self.names.talks.len()];
        for (id, talk) in &self.names.talks {
            ids[*talk] = *id;
        }
        let now = self.wall_clock();
        let mut rest = Rest {
            clock_was_ahead: self.clock_was_ahead,
            ..Rest::default()
        };
        for id in ids {
            let rows = self.store.history(id, 1);
            let messages = rows.map(|row| self.names.kept(&self.readable(row.0), now));
            rest.history.push(messages.collect());
        }
        for device in self.devices.iter().filter(|device| !device.is_out) {
            let kept = device.disk.kept();
            let kept =
                kept.map(|((id, seq), kept)| ((self.names.talk(id), seq.get()), kept.clone()));
            rest.kept.insert(device.number, kept.collect());
        }
        self.checker.at_rest(&rest);
        self.judge_labels();
        self.judge_retention();
    }

    fn judge_labels(&mut self) {
        for device in &self.devices {
            let (false, Some(session)) = (device.is_out, device.disk.session()) else {
                continue;
            };
            let account = self.store.entity(EntityKey::Account(session.user));
            let account = account.and_then(|row| Account::decode(row).ok());
            let known = account
                .as_ref()
                .and_then(|account| account.device(session.device));
            match known {
                Some(known) => self
                    .checker
                    .judge_label(device.number, fingerprint(&known.label)),
                None => {
                    let what = format!("device {} is not in its account", device.number);
                    self.checker.condemn("a device is lost", what);
                }
            }
        }
    }
}
