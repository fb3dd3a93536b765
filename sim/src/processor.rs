//! The processor's turn, step by step, so that anything can happen between any two: read, load, apply, append, commit, act.

use std::collections::{BTreeMap, BTreeSet};

use quipu_core::record::{Command, CommandKind, Entry, EntryBody, Position, Record};
use quipu_core::row::Row;
use quipu_core::shard::{Action, Effects, ShardCount, ShardId, ShardState};
use quipu_protocol::error::CloseCode;

use crate::gateway::records;
use crate::log::Appender;
use crate::plan::SECOND;
use crate::retention::Came;
use crate::sabotage::Sabotage;
use crate::spoil;
use crate::world::{AtGateway, Phase, World};

/// One processor thread of a gateway.
#[derive(Debug, Default)]
pub(crate) struct Processor {
    shards: BTreeMap<ShardId, Owned>,
    ready: BTreeSet<ShardId>,
    turn: Option<Turn>,
    scheduled: bool,
}

#[derive(Debug)]
struct Owned {
    state: ShardState,
    /// Where the log ended when the shard was restored: until then it only replays.
    replay_until: Position,
    /// It belongs to another gateway now; the turn that is under way is its last.
    leaving: bool,
}

/// A turn between two of its steps.
#[derive(Debug)]
struct Turn {
    /// Where each of its shards stood when it began.
    shards: Vec<(ShardId, Position)>,
    effects: Effects,
    /// Events that it puts into inboxes, with the time of their records, and what the shard keeps then.
    came: Vec<Came>,
    /// Sabotage: the moment between what it sends and what it commits is long.
    dawdles: bool,
}

impl Processor {
    pub(crate) fn is_idle(&self) -> bool {
        self.turn.is_none() && self.ready.is_empty()
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> {
        self.shards.keys().copied()
    }

    /// Gives a shard up, after the turn that is under way.
    pub(crate) fn drop_shard(&mut self, shard: ShardId) {
        self.ready.remove(&shard);
        let busy = self
            .turn
            .as_ref()
            .is_some_and(|turn| turn.shards.iter().any(|(of, _)| *of == shard));
        match self.shards.get_mut(&shard) {
            Some(owned) if busy => owned.leaving = true,
            Some(_) | None => drop(self.shards.remove(&shard)),
        }
    }

    /// Where the log of a shard that is owned here ended when it was restored.
    pub(crate) fn replay_until(&self, shard: ShardId) -> Option<Position> {
        let owned = self.shards.get(&shard).filter(|owned| !owned.leaving)?;
        Some(owned.replay_until)
    }
}

impl World {
    pub(crate) fn store_shards(&self) -> ShardCount {
        ShardCount(self.plan.shards)
    }

    /// Whether the store has what the log of a shard held when this gateway took it over. Before that nobody is let in: a
    /// cursor could be ahead of the inbox.
    pub(crate) fn has_replayed(&self, gateway: usize, shard: ShardId) -> bool {
        let gateway = &self.gateways[gateway];
        let has_replayed = |shard| {
            gateway.processors[gateway.processor_of(shard)]
                .replay_until(shard)
                .is_some_and(|until| self.store.applied(shard) >= until)
        };
        // A gateway alone opens its doors when all of it is there.
        match self.plan.standalone {
            true => self.store_shards().iter().all(has_replayed),
            false => has_replayed(shard),
        }
    }

    /// Takes a shard over from what the store holds; one that is owned already goes on.
    pub(crate) fn restore_shard(&mut self, gateway: usize, shard: ShardId) {
        let number = self.gateways[gateway].processor_of(shard);
        if let Some(owned) = self.gateways[gateway].processors[number]
            .shards
            .get_mut(&shard)
        {
            owned.leaving = false;
            return;
        }
        let row = self.store.shard(shard).cloned();
        let state = match ShardState::restore(shard, self.store_shards(), row.as_deref()) {
            Ok(state) => state,
            Err(error) => return self.checker.condemn("corrupt row", error.to_string()),
        };
        let last = self.log.last(shard);
        if state.applied() > last {
            let what = format!("shard {}: the store is ahead of its log", shard.0);
            self.checker.condemn("gap in a log", what);
        }
        let owned = Owned {
            state,
            replay_until: last,
            leaving: false,
        };
        self.gateways[gateway].processors[number]
            .shards
            .insert(shard, owned);
        self.wake(gateway, shard);
    }

    /// A shard has news.
    pub(crate) fn wake(&mut self, gateway: usize, shard: ShardId) {
        let number = self.gateways[gateway].processor_of(shard);
        let processor = &mut self.gateways[gateway].processors[number];
        if processor.shards.contains_key(&shard) {
            processor.ready.insert(shard);
            self.start_turn(gateway, number);
        }
    }

    fn start_turn(&mut self, gateway: usize, number: usize) {
        let processor = &mut self.gateways[gateway].processors[number];
        if processor.scheduled || processor.turn.is_some() || processor.ready.is_empty() {
            return;
        }
        processor.scheduled = true;
        let after = self.step_time();
        self.tell_gateway(gateway, after, AtGateway::Turn(number));
    }

    fn step_time(&mut self) -> u64 {
        let step = self.plan.step;
        self.moment() + self.rng.below(step + 1)
    }

    /// Reads, loads, applies and appends.
    pub(crate) fn turn(&mut self, gateway: usize, number: usize) {
        let processor = &mut self.gateways[gateway].processors[number];
        processor.scheduled = false;
        if processor.turn.is_some() {
            // A shard that was restored in the midst of a turn asked for another one; this one's end begins it.
            return;
        }
        let ready = std::mem::take(&mut processor.ready);
        let mut turn = Turn {
            shards: Vec::new(),
            effects: Effects::default(),
            came: Vec::new(),
            dawdles: false,
        };
        for shard in ready {
            if let Some(began) = self.apply(gateway, number, shard, &mut turn) {
                turn.shards.push((shard, began));
            }
        }
        if turn.shards.is_empty() {
            return;
        }
        let dropped = turn.effects.dropped;
        if dropped.misrouted > 0 {
            let what = format!(
                "{} entries came to a shard that is not theirs",
                dropped.misrouted
            );
            self.checker.condemn("misrouted", what);
        }
        let mut by_shard: BTreeMap<ShardId, Vec<Entry>> = BTreeMap::new();
        for (to, mut entry) in turn.effects.outgoing.drain(..) {
            spoil::entry(self.sabotage, &mut entry);
            turn.dawdles |= self.phase != Phase::Heal && spoil::shows_news(self.sabotage, &entry);
            by_shard.entry(to).or_default().push(entry);
        }
        self.note(
            "turn",
            &[
                ("gateway", gateway as u64),
                ("shards", turn.shards.len() as u64),
                ("sends-to", by_shard.len() as u64),
                ("acts", turn.effects.actions.len() as u64),
            ],
        );
        let processor = &mut self.gateways[gateway].processors[number];
        processor.turn = Some(turn);
        match self.sabotage {
            Some(Sabotage::CommitBeforeAppend) => {
                // The rows first, then what the others have to know.
                if self.commit_rows(gateway, number) {
                    self.append_or_go_on(gateway, number, by_shard);
                }
            }
            Some(Sabotage::PushBeforeCommit) => {
                self.perform(gateway, number);
                self.append_or_go_on(gateway, number, by_shard);
            }
            Some(_) | None => self.append_or_go_on(gateway, number, by_shard),
        }
    }

    fn append_or_go_on(
        &mut self,
        gateway: usize,
        number: usize,
        by_shard: BTreeMap<ShardId, Vec<Entry>>,
    ) {
        if by_shard.is_empty() {
            self.sent(gateway, number);
        } else {
            self.append(gateway, Appender::Processor(number), records(by_shard));
        }
    }

    /// Applies what a shard has behind its position, and says where that was. `None`: there is nothing.
    fn apply(
        &mut self,
        gateway: usize,
        number: usize,
        shard: ShardId,
        turn: &mut Turn,
    ) -> Option<Position> {
        let judges_inboxes = !self.plan.keeps.is_empty();
        let checks = self.sabotage != Some(Sabotage::LoadAhead);
        let processor = &mut self.gateways[gateway].processors[number];
        let owned = processor.shards.get_mut(&shard)?;
        let records_max = self.plan.turn_records;
        let applied = owned.state.applied();
        let Ok(stored) = self.log.read(shard, applied, records_max) else {
            if self.store.applied(shard) > applied {
                // Another owner went on for so long that the log has forgotten what this one does not know.
                self.begin_anew(gateway, number, shard);
                return None;
            }
            let what = format!("shard {}: the record after {} is gone", shard.0, applied.0);
            self.checker.condemn("gap in a log", what);
            return None;
        };
        if stored.is_empty() {
            return None;
        }
        if stored.len() == records_max {
            processor.ready.insert(shard);
        }
        let mut records = Vec::with_capacity(stored.len());
        for (position, time, payload) in stored {
            match Record::decode(position, time, &payload) {
                Ok(record) => records.push(record),
                Err(error) => {
                    self.checker.condemn("corrupt record", error.to_string());
                    return None;
                }
            }
        }
        let late = match self.plan.late_copies {
            0 => Vec::new(),
            _ => sends(&records),
        };
        // All that the batch needs comes before any of it is applied: what a record makes is then known to a later one.
        loop {
            let mut missing = BTreeSet::new();
            for record in &records {
                owned.state.missing(record, &mut missing);
            }
            if missing.is_empty() {
                break;
            }
            if checks && self.store.applied(shard) != applied {
                // Rows of another owner are ahead of these records, and this one would decide on a mixture of both. What it sends
                // is taken before its commit is refused, and a decision that nobody kept would go to the members.
                self.begin_anew(gateway, number, shard);
                return None;
            }
            for key in missing {
                let row = self.store.entity(key);
                if let Err(error) = owned.state.load(key, row.map(AsRef::as_ref)) {
                    self.checker.condemn("corrupt row", error.to_string());
                    return None;
                }
            }
        }
        for record in &records {
            let rows = turn.effects.rows.len();
            owned.state.apply(record, &mut turn.effects);
            if judges_inboxes {
                let keeps = owned.state.keeps();
                let new = &turn.effects.rows[rows..];
                turn.came.extend(Came::of(record.time, keeps, new));
            }
        }
        for send in late {
            self.come_late(gateway, &send);
        }
        Some(applied)
    }

    /// What the turn sends is durable.
    pub(crate) fn sent(&mut self, gateway: usize, number: usize) {
        let mut after = self.step_time();
        let turn = self.gateways[gateway].processors[number].turn.as_ref();
        if turn.is_some_and(|turn| turn.dawdles) {
            after += self.rng.below(SECOND);
        }
        self.tell_gateway(gateway, after, AtGateway::Commit(number));
    }

    /// Commits.
    pub(crate) fn commit(&mut self, gateway: usize, number: usize) {
        if self.sabotage != Some(Sabotage::CommitBeforeAppend) && !self.commit_rows(gateway, number)
        {
            return;
        }
        let after = self.step_time();
        self.tell_gateway(gateway, after, AtGateway::Act(number));
    }

    /// Writes what the turn changed. False: somebody else was faster, and the turn is over.
    fn commit_rows(&mut self, gateway: usize, number: usize) -> bool {
        let sabotage = self.sabotage;
        let keep = match sabotage {
            // What is forgotten is not to be remembered in memory either.
            Some(Sabotage::ForgetRefused) => 0,
            Some(_) | None => self.plan.entities_kept,
        };
        let processor = &mut self.gateways[gateway].processors[number];
        let Some(turn) = &mut processor.turn else {
            return false;
        };
        let mut rows: Vec<Row> = std::mem::take(&mut turn.effects.rows);
        let came = std::mem::take(&mut turn.came);
        for (shard, _) in &turn.shards {
            if let Some(owned) = processor.shards.get_mut(shard) {
                owned.state.drain_dirty(&mut rows);
            }
        }
        rows.retain_mut(|row| spoil::row(sabotage, row));
        let stands = turn.shards.clone();
        self.trace
            .say(|| format!("gateway {gateway} commits from {stands:?}"));
        if self.store.commit(&rows, &stands).is_err() {
            self.fenced(gateway, number);
            return false;
        }
        for (shard, _) in &turn.shards {
            if let Some(owned) = processor.shards.get_mut(shard) {
                owned.state.evict(keep);
            }
        }
        self.judge_came(came);
        true
    }

    /// Another owner has committed more.
    fn fenced(&mut self, gateway: usize, number: usize) {
        self.note("fenced", &[("gateway", gateway as u64)]);
        let processor = &mut self.gateways[gateway].processors[number];
        let shards = processor.turn.take().map(|turn| turn.shards);
        for (shard, _) in shards.into_iter().flatten() {
            self.begin_anew(gateway, number, shard);
        }
        self.start_turn(gateway, number);
    }

    /// Forgets what this owner believes of a shard, which is less than the store has. Its users' devices connect again, as answers
    /// and events for them may have gone to the other owner.
    fn begin_anew(&mut self, gateway: usize, number: usize, shard: ShardId) {
        let processor = &mut self.gateways[gateway].processors[number];
        processor.shards.remove(&shard);
        processor.ready.remove(&shard);
        self.send_away(gateway, shard, CloseCode::Unavailable);
        if self.owns(gateway, shard) {
            self.restore_shard(gateway, shard);
        }
    }

    /// Performs what the turn asks for, and ends it.
    pub(crate) fn act(&mut self, gateway: usize, number: usize) {
        if self.sabotage != Some(Sabotage::PushBeforeCommit) {
            self.perform(gateway, number);
        }
        let processor = &mut self.gateways[gateway].processors[number];
        let Some(turn) = processor.turn.take() else {
            return;
        };
        for (shard, _) in turn.shards {
            if processor
                .shards
                .get(&shard)
                .is_some_and(|owned| owned.leaving)
            {
                processor.shards.remove(&shard);
                processor.ready.remove(&shard);
            }
        }
        self.start_turn(gateway, number);
    }

    fn perform(&mut self, gateway: usize, number: usize) {
        let processor = &mut self.gateways[gateway].processors[number];
        let Some(turn) = &mut processor.turn else {
            return;
        };
        for action in std::mem::take(&mut turn.effects.actions) {
            match action {
                Action::Push { user, event } => self.push(gateway, user, &event),
                Action::Answer {
                    user,
                    device,
                    reply,
                } => self.answer(gateway, user, device, reply),
                Action::Notice { users, notice } => self.offer_notice(gateway, &users, &notice),
                Action::Revoked { user, device } => self.revoked(gateway, user, device),
                Action::Settings { user, settings } => self.decides(gateway, user, &settings),
                // Nobody listens to the offline topic in this world.
                Action::Offline { .. } => {}
            }
        }
    }
}

/// The messages that devices sent, among other things.
fn sends(records: &[Record]) -> Vec<Command> {
    let entries = records.iter().flat_map(|record| &record.entries);
    let commands = entries.filter_map(|entry| match &entry.body {
        EntryBody::Command(command) => Some(command),
        EntryBody::Deliver { .. }
        | EntryBody::Answer { .. }
        | EntryBody::Spread { .. }
        | EntryBody::Standing { .. }
        | EntryBody::Blocked { .. }
        | EntryBody::Expire { .. }
        | EntryBody::Keep(_)
        | EntryBody::Fact { .. } => None,
    });
    let is_send = |command: &&Command| matches!(command.kind, CommandKind::Send { .. });
    commands.filter(is_send).cloned().collect()
}
