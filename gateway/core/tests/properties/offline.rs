//! The offline topic against a plain reading of its rule: somebody is in it as long as messages of others wait in their inbox
//! above everything that a device or a webhook has had, and no session takes them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use quipu_core::record::{Entry, EntryBody, Fact, Position, Record};
use quipu_core::row::{EntityKey, IndexKey, OfflineRow, Presence};
use quipu_core::shard::{Action, Effects, ShardCount, ShardId, ShardState};
use quipu_protocol::event::EventBody;
use quipu_protocol::id::{TimestampMs, UserId};

use crate::story::{self, steps};
use crate::support::Store;

/// A user, remembered in full.
#[derive(Debug, Default)]
struct Model {
    /// Inbox numbers of messages of others.
    incoming: Vec<u64>,
    head: u64,
    acked: u64,
    told: u64,
    /// Boot and number of each device's session, and whether it has stalled.
    sessions: BTreeMap<u64, (u64, u64, bool)>,
}

impl Model {
    fn listens(&self) -> bool {
        self.sessions.values().any(|(_, _, stalled)| !stalled)
    }

    fn waits(&self) -> bool {
        let settled = self.acked.max(self.told);
        self.incoming.iter().any(|seq| *seq > settled)
    }

    fn fact(&mut self, fact: &Fact) {
        match fact {
            Fact::Attached {
                device,
                session,
                cursor,
            } => {
                let session = (session.boot, session.number, false);
                self.sessions.insert(device.get(), session);
                self.acked = self.acked.max(cursor.0);
            }
            Fact::Stalled {
                device,
                session,
                cursor,
                ..
            } => {
                if let Some((boot, number, stalled)) = self.sessions.get_mut(&device.get())
                    && (*boot, *number) == (session.boot, session.number)
                {
                    *stalled = true;
                    self.acked = self.acked.max(cursor.0);
                }
            }
            Fact::Detached {
                device,
                session,
                cursor,
            } => {
                let ends = |(boot, number, _): &(u64, u64, bool)| {
                    (*boot, *number) == (session.boot, session.number)
                };
                if self.sessions.get(&device.get()).is_some_and(ends) {
                    self.sessions.remove(&device.get());
                    self.acked = self.acked.max(cursor.0);
                }
            }
            Fact::Vanished { boot, .. } => self.sessions.retain(|_, (of, _, _)| of != boot),
            Fact::Told { through, .. } => self.told = self.told.max(through.0),
            Fact::TellAgain { after } => self.told = self.told.min(after.0),
        }
    }

    fn deliver(&mut self, user: UserId, event: &EventBody) {
        self.head += 1;
        if let EventBody::Message(message) = event
            && message.from != user
        {
            self.incoming.push(self.head);
        }
    }

    /// Compares with what the store says.
    fn check(&self, user: UserId, store: &Store) {
        let row = store.index.get(&IndexKey::Offline(user));
        let row = row.map(|row| OfflineRow::decode(row).unwrap());
        let due = self.waits() && !self.listens();
        assert_eq!(row.is_some(), due, "{user}: {row:?} {self:?}");
        if let Some(row) = row {
            assert_eq!(row.after.0, self.acked.max(self.told));
        }
        let here = store.index.contains_key(&IndexKey::Here(user));
        assert_eq!(here, !self.sessions.is_empty(), "{user}: {self:?}");
        let presence = store.entities.get(&EntityKey::Presence(user));
        let presence = presence.map(|row| Presence::decode(row).unwrap());
        let presence = presence.unwrap_or_default();
        assert_eq!(presence.is_listening(), self.listens());
        assert_eq!(presence.is_here(), !self.sessions.is_empty());
        assert_eq!(presence.offline(), row);
    }
}

proptest! {
    #![proptest_config(crate::config(128))]

    #[test]
    fn who_misses_messages_is_in_the_topic_and_nobody_else(
        steps in steps(80),
        group in 1..5usize,
        forgets in any::<bool>(),
    ) {
        let mut entries: std::collections::VecDeque<Entry> = story::story(&steps).entries.into();
        let (mut store, mut state) = (Store::default(), ShardState::new(ShardId(0), ShardCount(1)));
        let mut users: BTreeMap<UserId, Model> = BTreeMap::new();
        let mut noted: BTreeMap<UserId, Option<TimestampMs>> = BTreeMap::new();
        while !entries.is_empty() {
            let position = Position(state.applied().0 + 1);
            let time = TimestampMs(1000 + position.0 * 10);
            let size = group.min(entries.len());
            let record = Record { position, time, entries: entries.drain(..size).collect() };
            let mut effects = Effects::default();
            store.apply(&mut state, &record, &mut effects);
            store.checkpoint(&mut state, &mut effects.clone());
            if forgets {
                state = store.restore(ShardId(0), ShardCount(1));
            }
            for (_, sent) in effects.outgoing {
                entries.push_back(sent);
            }
            for entry in &record.entries {
                match &entry.body {
                    EntryBody::Fact { user, fact } => {
                        users.entry(*user).or_default().fact(fact);
                    }
                    EntryBody::Deliver { to, event } => {
                        for user in to {
                            users.entry(*user).or_default().deliver(*user, event);
                        }
                    }
                    EntryBody::Command(_)
                    | EntryBody::Answer { .. }
                    | EntryBody::Spread { .. }
                    | EntryBody::Standing { .. }
                    | EntryBody::Blocked { .. }
                    | EntryBody::Keep(_)
                    | EntryBody::Expire { .. } => {}
                }
            }
            for action in &effects.actions {
                if let Action::Offline { user, since } = action {
                    noted.insert(*user, *since);
                }
            }
            for (user, model) in &users {
                model.check(*user, &store);
                // Whoever hears of changes only knows as much as whoever reads the store.
                let row = store.index.get(&IndexKey::Offline(*user));
                let since = row.map(|row| OfflineRow::decode(row).unwrap().since);
                prop_assert_eq!(noted.get(user).copied().flatten(), since);
                prop_assert!(since.is_none_or(|since| since <= time));
            }
        }
        let known: BTreeSet<&UserId> = users.keys().collect();
        for key in store.index.keys() {
            if let IndexKey::Offline(user) | IndexKey::Here(user) = key {
                prop_assert!(known.contains(user));
            }
        }
    }
}
