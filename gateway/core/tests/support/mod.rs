//! A store in memory, and short names for what tests build.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quipu_core::limits::FAN_OUT_MAX_DEFAULT;
use quipu_core::record::{Command, CommandKind, Entry, EntryBody, Fact, NewDevice, Record};
use quipu_core::row::{EntityKey, HistoryRow, InboxRow, IndexKey, Row};
use quipu_core::shard::{Effects, ShardCount, ShardId, ShardState};
use quipu_protocol::event::{Change, Content};
use quipu_protocol::id::{ClientSeq, ConversationId, DeviceId, MessageId, RequestId, Seq, UserId};

/// What is committed. A row that never changes is only ever written again with the same value.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Store {
    pub(crate) entities: BTreeMap<EntityKey, Bytes>,
    pub(crate) shards: BTreeMap<ShardId, Bytes>,
    pub(crate) history: BTreeMap<(ConversationId, u64), HistoryRow>,
    pub(crate) inbox: BTreeMap<(UserId, u64), InboxRow>,
    pub(crate) index: BTreeMap<IndexKey, Bytes>,
}

impl Store {
    pub(crate) fn commit(&mut self, rows: impl IntoIterator<Item = Row>) {
        for row in rows {
            match row {
                Row::History(row) => {
                    // Through its bytes, as a real store would.
                    let (conversation, seq) = (*row.conversation(), row.seq());
                    let stored =
                        HistoryRow::decode_value(conversation, seq, &row.encode_value()).unwrap();
                    assert_eq!(stored, row);
                    let before = self.history.insert((conversation, seq.get()), row.clone());
                    let version = |row: &HistoryRow| row.0.state.as_ref().map_or(0, |s| s.version);
                    assert!(
                        before
                            .is_none_or(|before| before == row || version(&before) < version(&row)),
                        "{row:?} changed"
                    );
                }
                Row::Inbox(row) => {
                    let stored =
                        InboxRow::decode_value(row.user, row.inbox_seq, &row.encode_value());
                    assert_eq!(stored.unwrap(), row);
                    let key = (row.user, row.inbox_seq.get());
                    let before = self.inbox.insert(key, row.clone());
                    assert!(before.is_none_or(|before| before == row), "{row:?} changed");
                }
                Row::Entity(key, value) => {
                    self.entities.insert(key, value);
                }
                Row::Shard(shard, value) => {
                    self.shards.insert(shard, value);
                }
                Row::Index(key, Some(value)) => {
                    self.index.insert(key, value);
                }
                Row::Index(key, None) => {
                    self.index.remove(&key);
                }
                Row::Trimmed(user, inbox_seq) => {
                    self.inbox.remove(&(user, inbox_seq.get()));
                }
            }
        }
    }

    pub(crate) fn restore(&self, shard: ShardId, shards: ShardCount) -> ShardState {
        let row = self.shards.get(&shard).map(Bytes::as_ref);
        ShardState::restore(shard, shards, row).unwrap()
    }

    /// Loads what a record needs, then applies it.
    pub(crate) fn apply(&self, state: &mut ShardState, record: &Record, effects: &mut Effects) {
        self.load(state, std::slice::from_ref(record), &effects.rows);
        state.apply(record, effects);
    }

    /// Loads what records need, until nothing is missing. `pending` are rows that are not committed yet.
    pub(crate) fn load(&self, state: &mut ShardState, records: &[Record], pending: &[Row]) {
        loop {
            let mut missing = BTreeSet::new();
            for record in records {
                state.missing(record, &mut missing);
            }
            if missing.is_empty() {
                return;
            }
            for key in missing {
                let row = self.row(&key, pending);
                state.load(key, row.as_deref()).unwrap();
            }
        }
    }

    /// The value of an entity. What `pending` has of messages counts as committed: a real shell commits it before it loads
    /// again.
    fn row(&self, key: &EntityKey, pending: &[Row]) -> Option<Bytes> {
        let EntityKey::Message(conversation, seq) = key else {
            return self.entities.get(key).cloned();
        };
        let pending = pending.iter().rev().find_map(|row| match row {
            Row::History(row) if (row.conversation(), row.seq()) == (conversation, *seq) => {
                Some(row)
            }
            _ => None,
        });
        let row = pending.or_else(|| self.history.get(&(*conversation, seq.get())));
        row.map(HistoryRow::encode_value)
    }

    /// Every byte of every row, to look for what must not be there.
    pub(crate) fn bytes(&self) -> Vec<Vec<u8>> {
        let history = self.history.values().map(|row| row.encode_value().to_vec());
        let inbox = self.inbox.values().map(|row| row.encode_value().to_vec());
        let entities = self.entities.values().map(|row| row.to_vec());
        let index = self
            .index
            .iter()
            .map(|(key, row)| [&key.encode(), &row[..]].concat());
        let shards = self.shards.values().map(|row| row.to_vec());
        history
            .chain(inbox)
            .chain(entities)
            .chain(index)
            .chain(shards)
            .collect()
    }

    /// Commits everything that a state has to write.
    pub(crate) fn checkpoint(&mut self, state: &mut ShardState, effects: &mut Effects) {
        let mut rows = std::mem::take(&mut effects.rows);
        state.drain_dirty(&mut rows);
        self.commit(rows);
    }
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn device(number: u64) -> DeviceId {
    DeviceId::new(number).unwrap()
}

pub(crate) fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

pub(crate) fn client_seq(number: u64) -> ClientSeq {
    ClientSeq::new(number).unwrap()
}

/// An entry that a router would append.
pub(crate) fn command(user: UserId, device: DeviceId, kind: CommandKind) -> Entry {
    Entry {
        source: None,
        body: EntryBody::Command(Command { user, device, kind }),
    }
}

/// What a gateway would append about a user.
pub(crate) fn fact(user: UserId, fact: Fact) -> Entry {
    Entry {
        source: None,
        body: EntryBody::Fact { user, fact },
    }
}

/// The shard of an entry that a router appends.
pub(crate) fn routed(entry: &Entry, shards: ShardCount) -> ShardId {
    match &entry.body {
        EntryBody::Command(command) => command.shard(shards),
        EntryBody::Fact { user, .. } => shards.of_user(user),
        EntryBody::Deliver { .. }
        | EntryBody::Answer { .. }
        | EntryBody::Spread { .. }
        | EntryBody::Standing { .. }
        | EntryBody::Blocked { .. }
        | EntryBody::Keep(_)
        | EntryBody::Expire { .. } => panic!("no router appends this: {entry:?}"),
    }
}

/// A message id that says which send it names.
pub(crate) fn message_id(user: &UserId, device: DeviceId, number: u64) -> MessageId {
    let mut id = [0; 16];
    let name = user.as_str().as_bytes();
    let len = name.len().min(6);
    id[..len].copy_from_slice(&name[..len]);
    id[6..8].copy_from_slice(&(device.get() as u16).to_be_bytes());
    id[8..].copy_from_slice(&number.to_be_bytes());
    MessageId(id)
}

pub(crate) fn send(
    from: UserId,
    from_device: DeviceId,
    conversation: ConversationId,
    number: u64,
    text: &str,
) -> Entry {
    let kind = CommandKind::Send {
        conversation,
        client_seq: client_seq(number),
        id: message_id(&from, from_device, number),
        content: Content::Text(text.to_owned()),
    };
    command(from, from_device, kind)
}

pub(crate) fn register(name: UserId, with: DeviceId, request: u64, secret: u8) -> Entry {
    let kind = CommandKind::Register {
        request: RequestId(request),
        password: Some("$argon2id$".to_owned()),
        device: new_device(secret),
    };
    command(name, with, kind)
}

pub(crate) fn new_device(secret: u8) -> NewDevice {
    NewDevice {
        label: "a device".to_owned(),
        token_hash: [secret; 32],
    }
}

/// A change that a router would append.
pub(crate) fn change(by: UserId, with: DeviceId, request: u64, change: Change) -> Entry {
    let kind = CommandKind::Change {
        request: RequestId(request),
        client_seq: ClientSeq::new(request).ok(),
        change: Box::new(change),
        fan_out_max: FAN_OUT_MAX_DEFAULT,
    };
    command(by, with, kind)
}

pub(crate) fn open(by: UserId, with: DeviceId, peer: UserId, request: u64) -> Entry {
    let request = RequestId(request);
    command(by, with, CommandKind::OpenDirect { request, peer })
}

/// The id of a group that a test calls so.
pub(crate) fn group(name: &str) -> ConversationId {
    let mut id = [0; 16];
    id[0] = 0xff;
    let len = name.len().min(15);
    id[1..=len].copy_from_slice(&name.as_bytes()[..len]);
    ConversationId(id)
}
