//! Several shards with their logs and one store, and processors that crash, repeat themselves and come twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use quipu_core::record::{Entry, Record};
use quipu_core::row::{Conversation, EntityKey, InboxKind};
use quipu_core::shard::{Action, Effects, ShardCount, ShardId, ShardState};
use quipu_protocol::event::EventBody;
use quipu_protocol::id::{ConversationId, MessageId, TimestampMs, UserId};

use crate::story::{self, Story, steps};
use crate::support::{self, Store};

/// How far a processor comes in a turn.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Turn {
    Whole,
    /// Dies when it has appended to so many shards, before the commit.
    DiesAppending {
        after: usize,
    },
    /// Dies between commit and actions.
    DiesCommitted,
    /// Is taken for dead while it lives: another one takes over from the store, and it appends its turn late, then notices.
    Superseded,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Move {
    pub(crate) shard: usize,
    pub(crate) records: usize,
    pub(crate) turn: Turn,
    /// How many commands of the story the router appends before.
    pub(crate) commands: usize,
}

pub(crate) fn moves() -> impl Strategy<Value = Vec<Move>> {
    let turn = prop_oneof![
        5 => Just(Turn::Whole),
        2 => (0..4usize).prop_map(|after| Turn::DiesAppending { after }),
        1 => Just(Turn::DiesCommitted),
        1 => Just(Turn::Superseded),
    ];
    let one = (0..8usize, 1..5usize, turn, 0..6usize);
    let one = one.prop_map(|(shard, records, turn, commands)| Move {
        shard,
        records,
        turn,
        commands,
    });
    prop::collection::vec(one, 1..120)
}

pub(crate) struct Cluster {
    count: ShardCount,
    pub(crate) store: Store,
    logs: Vec<Vec<(TimestampMs, Bytes)>>,
    processors: Vec<ShardState>,
    time: u64,
    /// Pushed events, by user and number: repeats have to be equal.
    pushed: BTreeMap<(UserId, u64), EventBody>,
}

impl Cluster {
    pub(crate) fn new(count: u16) -> Self {
        let count = ShardCount(count);
        Self {
            count,
            store: Store::default(),
            logs: vec![Vec::new(); usize::from(count.0)],
            processors: count
                .iter()
                .map(|shard| ShardState::new(shard, count))
                .collect(),
            time: 0,
            pushed: BTreeMap::new(),
        }
    }

    fn append(&mut self, shard: ShardId, entries: &[Entry]) {
        self.time += 1;
        let record = (TimestampMs(self.time), Record::encode_entries(entries));
        self.logs[usize::from(shard.0)].push(record);
    }

    pub(crate) fn route(&mut self, entries: &[Entry]) {
        let mut records: BTreeMap<ShardId, Vec<Entry>> = BTreeMap::new();
        for entry in entries {
            let shard = support::routed(entry, self.count);
            records.entry(shard).or_default().push(entry.clone());
        }
        for (shard, entries) in records {
            self.append(shard, &entries);
        }
    }

    /// One turn of a shard's processor; says whether there was anything to do.
    pub(crate) fn turn(&mut self, shard: usize, records: usize, turn: Turn) -> bool {
        let id = ShardId(shard as u16);
        let mut effects = Effects::default();
        let state = &mut self.processors[shard];
        let from = state.applied();
        let todo = self.logs[shard].iter().skip(from.0 as usize).take(records);
        let mut position = from;
        let mut batch = Vec::new();
        for (time, payload) in todo {
            position = position.next();
            batch.push(Record::decode(position, *time, payload).unwrap());
        }
        if position == from {
            return false;
        }
        // As a processor does: all of the batch is loaded before any of it is applied.
        self.store.load(state, &batch, &[]);
        for record in &batch {
            state.apply(record, &mut effects);
        }
        if matches!(turn, Turn::Superseded) {
            self.processors[shard] = self.store.restore(id, self.count);
            self.turn(shard, records / 2 + 1, Turn::Whole);
            // The late one: what it appends is dropped by the receivers, and its commit is fenced off.
            self.append_outgoing(&effects, usize::MAX);
            return true;
        }
        let after = match turn {
            Turn::DiesAppending { after } => after,
            Turn::Whole | Turn::DiesCommitted | Turn::Superseded => usize::MAX,
        };
        self.append_outgoing(&effects, after);
        if matches!(turn, Turn::DiesAppending { .. }) {
            self.processors[shard] = self.store.restore(id, self.count);
            return true;
        }
        self.store
            .checkpoint(&mut self.processors[shard], &mut effects);
        if matches!(turn, Turn::DiesCommitted) {
            self.processors[shard] = self.store.restore(id, self.count);
            return true;
        }
        self.processors[shard].evict(records);
        for action in effects.actions {
            if let Action::Push { user, event } = action {
                let key = (user, event.inbox_seq.get());
                let before = self.pushed.insert(key, event.body.clone());
                assert!(
                    before.is_none_or(|before| before == event.body),
                    "{key:?} changed"
                );
            }
        }
        true
    }

    fn append_outgoing(&mut self, effects: &Effects, shards: usize) {
        let mut records: BTreeMap<ShardId, Vec<Entry>> = BTreeMap::new();
        for (to, entry) in &effects.outgoing {
            records.entry(*to).or_default().push(entry.clone());
        }
        for (to, entries) in records.into_iter().take(shards) {
            self.append(to, &entries);
        }
    }

    pub(crate) fn settle(&mut self) {
        while (0..self.processors.len())
            .fold(false, |any, shard| self.turn(shard, 3, Turn::Whole) | any)
        {}
    }
}

proptest! {
    #![proptest_config(crate::config(96))]

    #[test]
    fn every_accepted_message_reaches_every_inbox_once_and_in_order(
        count in 1u16..=6,
        steps in steps(60),
        moves in moves(),
    ) {
        let story = story::story(&steps);
        let mut cluster = Cluster::new(count);
        // Accounts and conversations first; what follows meets the crashes.
        let (setup, mut rest) = story.entries.split_at(14);
        cluster.route(&setup[..4]);
        cluster.settle();
        cluster.route(&setup[4..]);
        cluster.settle();
        for one in moves {
            let (now, later) = rest.split_at(one.commands.min(rest.len()));
            rest = later;
            cluster.route(now);
            cluster.turn(one.shard % usize::from(count), one.records, one.turn);
        }
        for entry in rest {
            cluster.route(std::slice::from_ref(entry));
        }
        cluster.settle();
        judge(&cluster, &story)?;
    }
}

/// Knows the rows only: what was promised to people has to be in them.
fn judge(cluster: &Cluster, story: &Story) -> Result<(), TestCaseError> {
    let store = &cluster.store;
    let mut history: BTreeMap<ConversationId, Vec<MessageId>> = BTreeMap::new();
    for ((conversation, seq), row) in &store.history {
        let messages = history.entry(*conversation).or_default();
        messages.push(row.0.id);
        prop_assert_eq!(
            messages.len() as u64,
            *seq,
            "seqs of a conversation are dense"
        );
    }
    let mut stored: Vec<MessageId> = history.values().flatten().copied().collect();
    let mut sent = story.sent.clone();
    stored.sort_unstable();
    sent.sort_unstable();
    prop_assert_eq!(stored, sent, "each message is in the history once");

    let mut inboxes: BTreeMap<UserId, u64> = BTreeMap::new();
    let mut seen: BTreeMap<(UserId, ConversationId), u64> = BTreeMap::new();
    for ((user, inbox_seq), row) in &store.inbox {
        let before = inboxes.insert(*user, *inbox_seq).unwrap_or(0);
        prop_assert_eq!(before + 1, *inbox_seq, "inbox seqs of a user are dense");
        if let InboxKind::Message { conversation, seq } = &row.kind {
            let last = seen.insert((*user, *conversation), seq.get()).unwrap_or(0);
            prop_assert_eq!(
                last + 1,
                seq.get(),
                "an inbox has each message once, in order"
            );
        }
    }
    for (key, value) in &store.entities {
        let EntityKey::Conversation(id) = key else {
            continue;
        };
        let row = Conversation::decode(value).unwrap();
        let head = row.head.map_or(0, |seq| seq.get());
        prop_assert_eq!(
            head,
            history.get(id).map_or(0, |messages| messages.len() as u64)
        );
        for member in &row.members {
            let has = seen.get(&(member.user, *id)).copied().unwrap_or(0);
            prop_assert_eq!(has, head, "{} has the whole conversation", member.user);
            prop_assert!(member.read <= member.delivered && member.delivered <= row.head);
        }
    }
    for ((user, inbox_seq), body) in &cluster.pushed {
        let row = &store.inbox[&(*user, *inbox_seq)];
        match (&row.kind, body) {
            (InboxKind::Message { conversation, seq }, EventBody::Message(message)) => {
                prop_assert_eq!((conversation, seq), (&message.conversation, &message.seq));
            }
            (InboxKind::Receipt(kept), EventBody::Receipt(pushed)) => prop_assert_eq!(kept, pushed),
            _ => prop_assert!(false, "pushed {body:?}, kept {row:?}"),
        }
    }
    Ok(())
}
