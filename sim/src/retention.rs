//! What inboxes keep: gateways tell it to their shards, operators change it, and what was in force is judged.

use std::collections::BTreeMap;

use quipu_core::record::{Entry, EntryBody, Position, Record};
use quipu_core::retention::Retention;
use quipu_core::row::Row;
use quipu_core::shard::{ShardId, ShardState};
use quipu_protocol::credentials::Hello;
use quipu_protocol::id::{Cursor, InboxSeq, TimestampMs, UserId};

use crate::gateway::records;
use crate::log::{Appender, Batch};
use crate::plan::{MS, SECOND};
use crate::sabotage::Sabotage;
use crate::world::{AtGateway, Event, World};

/// Time between two looks whether the shards have replayed.
const LOOK_INTERVAL: u64 = 20 * MS;

/// What a turn did to an inbox.
#[derive(Debug)]
pub(crate) struct Came {
    user: UserId,
    seq: InboxSeq,
    what: Change,
}

#[derive(Debug)]
enum Change {
    /// An event, by a record of this time, while the shard kept so much.
    Added(TimestampMs, Option<Retention>),
    Trimmed,
}

impl Came {
    /// What a record did to inboxes, by the rows that it made.
    pub(crate) fn of(
        time: TimestampMs,
        keeps: Option<Retention>,
        rows: &[Row],
    ) -> impl Iterator<Item = Self> + '_ {
        let added = rows.iter().filter_map(move |row| match row {
            Row::Inbox(row) => Some(Self {
                user: row.user,
                seq: row.inbox_seq,
                what: Change::Added(time, keeps),
            }),
            Row::Trimmed(..)
            | Row::History(_)
            | Row::Entity(..)
            | Row::Shard(..)
            | Row::Index(..) => None,
        });
        // An event makes room for itself before it comes.
        let trimmed = rows.iter().filter_map(|row| match row {
            Row::Trimmed(user, seq) => Some(Self {
                user: *user,
                seq: *seq,
                what: Change::Trimmed,
            }),
            Row::Inbox(_) | Row::History(_) | Row::Entity(..) | Row::Shard(..) | Row::Index(..) => {
                None
            }
        });
        added.chain(trimmed)
    }
}

impl World {
    /// An operator has changed what inboxes keep, and starts the gateways anew, one after the other.
    pub(crate) fn change_settings(&mut self) {
        self.setting += 1;
        self.note("settings", &[("number", self.setting as u64)]);
        for gateway in 0..self.gateways.len() {
            let after = self.rng.below(2 * SECOND);
            self.schedule(after, Event::Restart(gateway));
        }
        if self.setting + 1 < self.plan.keeps.len() {
            let part = self.plan.duration / self.plan.keeps.len() as u64;
            self.schedule(part, Event::Settings);
        }
    }

    /// A gateway has to tell the shards that it took over what they keep.
    pub(crate) fn find_untold(&mut self, gateway: usize) {
        if self.gateways[gateway].keeps.is_none() {
            return;
        }
        let mine = self.store_shards().iter();
        let mine: Vec<ShardId> = mine.filter(|shard| self.owns(gateway, *shard)).collect();
        self.gateways[gateway].untold.extend(mine);
        self.tell_gateway(gateway, 0, AtGateway::TellKeeps);
    }

    /// Tells the shards what they keep, once they know all that they were told before.
    pub(crate) fn tell_keeps(&mut self, gateway: usize) {
        let Some(keep) = self.gateways[gateway].keeps else {
            return;
        };
        self.checker.may_keep(keep.events, keep.ms);
        let told = match self.sabotage {
            Some(Sabotage::KeepLess) => Retention::new(keep.events / 2, keep.ms / 2),
            Some(_) | None => keep,
        };
        let mut batch = BTreeMap::new();
        for shard in self.gateways[gateway].untold.clone() {
            let is_mine = self.owns(gateway, shard);
            if is_mine && !self.has_replayed(gateway, shard) {
                continue;
            }
            self.gateways[gateway].untold.remove(&shard);
            if is_mine && self.kept_by(shard) != Some(told) {
                let body = EntryBody::Keep(told);
                batch.insert(shard, vec![Entry { source: None, body }]);
            }
        }
        if !batch.is_empty() {
            self.append(gateway, Appender::Keeper, records(batch));
        }
        if !self.gateways[gateway].untold.is_empty() {
            self.tell_gateway(gateway, LOOK_INTERVAL, AtGateway::TellKeeps);
        }
    }

    /// What the inboxes of a shard keep, by its row.
    fn kept_by(&self, shard: ShardId) -> Option<Retention> {
        let row = self.store.shard(shard).map(AsRef::as_ref);
        let state = ShardState::restore(shard, self.store_shards(), row);
        state.ok().and_then(|state| state.keeps())
    }

    /// What is durable of it in the log is what a shard has to come to.
    pub(crate) fn keeps_are_durable(&mut self, batch: &Batch) {
        if self.plan.keeps.is_empty() {
            return;
        }
        for (shard, payload) in batch {
            let record = Record::decode(Position::START, TimestampMs(0), payload);
            for entry in record.into_iter().flat_map(|record| record.entries) {
                if let EntryBody::Keep(keep) = entry.body {
                    self.keeps_told.insert(*shard, keep);
                }
            }
        }
    }

    /// Tells the checker what a turn did to inboxes, in its order.
    pub(crate) fn judge_came(&mut self, came: Vec<Came>) {
        for came in came {
            let person = self.names.person(&came.user);
            let seq = came.seq.get();
            match came.what {
                Change::Added(time, keeps) => {
                    let keeps = keeps.map(|keep| keep.events);
                    self.checker.came(person, seq, time.0, keeps);
                }
                Change::Trimmed => self.checker.trimmed(person, seq),
            }
        }
    }

    /// At rest: shards keep what they were told last, and inboxes have what they keep.
    pub(crate) fn judge_retention(&mut self) {
        for shard in self.store_shards().iter() {
            let (kept, told) = (self.kept_by(shard), self.keeps_told.get(&shard).copied());
            if kept != told {
                let what = format!("shard {} keeps {kept:?} and was told {told:?}", shard.0);
                self.checker.condemn("settings are forgotten", what);
            }
        }
        for user in self.names.people.clone() {
            let inbox = self.inbox(&user);
            let rows = self.store.inbox(user, Cursor::START, usize::MAX);
            let rows: Vec<u64> = rows.iter().map(|row| row.inbox_seq.get()).collect();
            let person = self.names.person(&user);
            let head = inbox.head.map_or(0, InboxSeq::get);
            self.checker
                .judge_inbox(person, (inbox.floor.0, head), &rows);
        }
    }

    /// Some devices come from another life of the log, or know more of the inbox than there is: a folder that was copied, a log
    /// that was put back. Whether this one does.
    pub(crate) fn make_strange(&mut self, hello: &mut Hello) -> bool {
        let often = self.plan.strange_hellos;
        let Some(resume) = hello.resume.as_mut().filter(|_| often > 0) else {
            return false;
        };
        if !self.rng.chance(often) {
            return false;
        }
        match self.rng.chance(500) {
            true => resume.life += 1,
            // Farther than anybody comes while the answer is on its way.
            false => resume.cursor.0 += 1_000_000,
        }
        true
    }
}
