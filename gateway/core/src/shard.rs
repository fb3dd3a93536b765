//! Applies records in log order to one shard's users and conversations and says what must happen next.

mod change;
mod conversation;
mod effects;
mod entities;
mod group;
mod message;
mod note;
mod own;
mod presence;
mod roster;
mod turn;
mod user;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;

use quipu_protocol::id::{ConversationId, UserId};
use siphasher::sip::SipHasher24;

pub use self::effects::{Action, Dropped, Effects};
use self::entities::Entities;
use self::turn::Turn;
use crate::record::{CommandKind, EntryBody, Position, Record, Source};
use crate::retention::Retention;
use crate::row::{CorruptRow, EntityKey, Row, ShardRow};

/// One shard of the cluster, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// How many shards there are, from 1; fixed for a cluster's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardCount(pub u16);

impl ShardCount {
    /// The shard of a user: SipHash-2-4 with zero keys over `"u"` and the name, modulo the count.
    pub fn of_user(self, user: &UserId) -> ShardId {
        self.of(b'u', user.as_str().as_bytes())
    }

    /// The shard of a conversation: the same over `"c"` and its 16 bytes.
    pub fn of_conversation(self, conversation: &ConversationId) -> ShardId {
        self.of(b'c', conversation.as_bytes())
    }

    /// Every shard.
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        (0..self.0).map(ShardId)
    }

    fn of(self, domain: u8, bytes: &[u8]) -> ShardId {
        let mut hasher = SipHasher24::new();
        hasher.write(&[domain]);
        hasher.write(bytes);
        ShardId((hasher.finish() % u64::from(self.0.max(1))) as u16)
    }
}

/// The users and conversations of one shard, as far as they are in memory, and how far its log is applied.
///
/// ```text
///   record ──> missing ──> load ──> apply ──> outgoing  (append, wait until durable)
///                                     │  └──> rows + drain_dirty  (commit)
///                                     └─────> actions  (perform, then evict)
/// ```
///
/// Everything that a decision depends on is in the records and in the rows, so that a shard that crashed between any two
/// of these steps repeats them with the same results, and receivers drop the entries that they have.
#[derive(Debug, Clone)]
pub struct ShardState {
    shard: ShardId,
    shards: ShardCount,
    row: ShardRow,
    row_changed: bool,
    entities: Entities,
    numbering: turn::Numbering,
    /// Members whose positions the current record has moved, and whether others see that; empty between records.
    moved: BTreeMap<(ConversationId, UserId), bool>,
}

impl ShardState {
    /// A shard before its first record.
    pub fn new(shard: ShardId, shards: ShardCount) -> Self {
        Self::at(shard, shards, ShardRow::default())
    }

    /// A shard as its row left it; `None`: it has no row yet. Entities are loaded when a record needs them.
    pub fn restore(
        shard: ShardId,
        shards: ShardCount,
        shard_row: Option<&[u8]>,
    ) -> Result<Self, CorruptRow> {
        let row = match shard_row {
            Some(value) => ShardRow::decode(value)?,
            None => ShardRow::default(),
        };
        Ok(Self::at(shard, shards, row))
    }

    fn at(shard: ShardId, shards: ShardCount, row: ShardRow) -> Self {
        Self {
            shard,
            shards,
            row,
            row_changed: false,
            entities: Entities::default(),
            numbering: turn::Numbering::default(),
            moved: BTreeMap::new(),
        }
    }

    /// Which shard it is.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The last record that was applied.
    pub fn applied(&self) -> Position {
        self.row.applied
    }

    /// What its inboxes keep; `None`: it was never told, and they keep everything.
    pub fn keeps(&self) -> Option<Retention> {
        self.row.keep
    }

    /// The highest entry that came from each shard, ascending by shard; for tools that check a store against its log.
    pub fn marks(&self) -> impl Iterator<Item = Source> {
        self.row.marks.values().copied()
    }

    /// Adds to `keys` the entities that `apply` would need for this record and that are not in memory. Which inboxes a message
    /// of a group needs, only its roster tells: the shell loads what is named and asks again until nothing is.
    pub fn missing(&self, record: &Record, keys: &mut BTreeSet<EntityKey>) {
        if record.position <= self.row.applied {
            return;
        }
        let mut need = |key: EntityKey| {
            if !self.entities.contains(&key) {
                keys.insert(key);
            }
        };
        for entry in &record.entries {
            match &entry.body {
                EntryBody::Command(command) => match &command.kind {
                    CommandKind::Send { conversation, .. }
                    | CommandKind::Receipt { conversation, .. } => {
                        conversation::needs(*conversation, command.user, &mut need);
                    }
                    CommandKind::OpenDirect { peer, .. } => need(EntityKey::Conversation(
                        ConversationId::direct(&command.user, peer),
                    )),
                    CommandKind::Register { .. } => {
                        need(EntityKey::Account(command.user));
                        need(EntityKey::Inbox(command.user));
                    }
                    CommandKind::AddDevice { .. } => need(EntityKey::Account(command.user)),
                    CommandKind::Change { .. } => {
                        if let Some(asked) = change::Asked::of(command) {
                            change::needs(asked, self.shard, &mut need);
                        }
                    }
                },
                EntryBody::Deliver { to, event } => {
                    to.iter().for_each(|to| user::needs(*to, event, &mut need));
                }
                EntryBody::Fact { user, .. } => {
                    need(EntityKey::Inbox(*user));
                    need(EntityKey::Presence(*user));
                    need(EntityKey::DeadLetters(self.shard));
                }
                EntryBody::Answer { .. } | EntryBody::Keep(_) => {}
                EntryBody::Spread {
                    group,
                    pulled,
                    changes: _,
                    event,
                } => {
                    let to = (*group, *pulled);
                    roster::spread_needs(&self.entities, self.shard, to, event, &mut need);
                }
                EntryBody::Standing {
                    conversation, user, ..
                } => roster::standing_needs(self.shard, *conversation, *user, &mut need),
                EntryBody::Blocked { by, user, .. } => {
                    need(EntityKey::Conversation(ConversationId::direct(by, user)));
                }
                EntryBody::Expire { conversation, seqs } => {
                    for seq in seqs {
                        message::needs((*conversation, *seq), &mut need);
                    }
                }
            }
        }
    }

    /// Takes an entity's row from the store; `None`: there is no such row. What is in memory already is newer and stays.
    ///
    /// The row must not be ahead of [`applied`](Self::applied). Where a shard can have two owners for a while, the shell looks at the
    /// shard's row behind its reads, and begins anew from the store if that is not the position it stands at: the refusal of its commit
    /// would come too late, as what the turn sends is durable by then.
    pub fn load(&mut self, key: EntityKey, row: Option<&[u8]>) -> Result<(), CorruptRow> {
        self.entities.load(self.shards, key, row)
    }

    /// Applies the next record and adds what follows from it to `effects`. A record that was applied before changes nothing.
    ///
    /// # Panics
    ///
    /// When the shell skipped a record, or did not load what [`missing`](Self::missing) named: going on would number
    /// messages anew and overwrite history.
    pub fn apply(&mut self, record: &Record, effects: &mut Effects) {
        if record.position <= self.row.applied {
            return;
        }
        assert!(
            record.position == self.row.applied.next(),
            "shard {} has applied record {} and was given {}",
            self.shard.0,
            self.row.applied.0,
            record.position.0,
        );
        for entry in &record.entries {
            if let Some(source) = &entry.source
                && !self.admit(source, effects)
            {
                continue;
            }
            let made = effects.rows.len();
            self.apply_entry(record, &entry.body, effects);
            self.entities.made(&effects.rows[made..]);
        }
        self.announce_receipts(record, effects);
        self.row.applied = record.position;
        self.row_changed = true;
    }

    /// Whether an entry from another processor is news; remembers that it came.
    fn admit(&mut self, source: &Source, effects: &mut Effects) -> bool {
        if source.shard.0 >= self.shards.0 {
            effects.dropped.misrouted += 1;
            return false;
        }
        let mark = self.row.marks.entry(source.shard).or_insert(Source {
            shard: source.shard,
            position: Position::START,
            index: 0,
        });
        if *source <= *mark {
            effects.dropped.repeats += 1;
            return false;
        }
        *mark = *source;
        true
    }

    fn apply_entry(&mut self, record: &Record, body: &EntryBody, effects: &mut Effects) {
        let (entities, mut turn) = self.split(record, effects);
        match body {
            EntryBody::Command(command) => {
                if command.shard(turn.shards) != turn.shard {
                    turn.effects.dropped.misrouted += 1;
                    return;
                }
                match &command.kind {
                    CommandKind::Send {
                        conversation,
                        client_seq,
                        id,
                        content,
                    } => {
                        let send = conversation::Send {
                            conversation: *conversation,
                            client_seq: *client_seq,
                            id: *id,
                            content,
                        };
                        conversation::send(entities, &mut turn, command, &send);
                    }
                    CommandKind::OpenDirect { request, peer } => {
                        conversation::open_direct(entities, &mut turn, command, *request, *peer);
                    }
                    CommandKind::Receipt {
                        conversation,
                        delivered,
                        read,
                        quiet,
                    } => {
                        let said = conversation::Positions {
                            delivered: *delivered,
                            read: *read,
                            quiet: *quiet,
                        };
                        let key = (*conversation, command.user);
                        if let Some(seen) = conversation::receipt(entities, &mut turn, key, said) {
                            *self.moved.entry(key).or_default() |= seen;
                        }
                    }
                    CommandKind::Register {
                        request,
                        password,
                        device,
                    } => {
                        let password = password.as_deref();
                        user::register(entities, &mut turn, command, *request, password, device);
                    }
                    CommandKind::AddDevice { request, device } => {
                        user::add_device(entities, &mut turn, command, *request, device);
                    }
                    CommandKind::Change { .. } => {
                        if let Some(asked) = change::Asked::of(command) {
                            change::apply(entities, &mut turn, asked);
                        }
                    }
                }
            }
            EntryBody::Deliver { to, event } => user::deliver(entities, &mut turn, to, event),
            EntryBody::Answer {
                user,
                device,
                reply,
            } => turn.answer_here(*user, *device, reply.clone()),
            EntryBody::Spread {
                group,
                pulled,
                changes,
                event,
            } => {
                let pulled = pulled.then_some(*changes);
                roster::spread(entities, &mut turn, *group, pulled, event);
            }
            EntryBody::Standing {
                conversation,
                user,
                standing,
            } => roster::standing(entities, &mut turn, *conversation, *user, standing),
            EntryBody::Blocked {
                by,
                user,
                on,
                asked,
            } => own::blocked(entities, &mut turn, (*by, *user), *on, *asked),
            EntryBody::Expire { conversation, seqs } => {
                message::expire(entities, &mut turn, *conversation, seqs);
            }
            EntryBody::Keep(keep) => self.row.keep = Some(*keep),
            EntryBody::Fact { user, .. } if turn.shards.of_user(user) != turn.shard => {
                turn.effects.dropped.misrouted += 1;
            }
            EntryBody::Fact { user, fact } => presence::fact(entities, &mut turn, *user, fact),
        }
    }

    /// One event for each member whose positions the record has moved, however many receipts said so.
    fn announce_receipts(&mut self, record: &Record, effects: &mut Effects) {
        if self.moved.is_empty() {
            return;
        }
        for ((conversation, user), seen) in std::mem::take(&mut self.moved) {
            let (entities, mut turn) = self.split(record, effects);
            conversation::announce_receipt(entities, &mut turn, (conversation, user), seen);
        }
    }

    fn split<'a>(
        &'a mut self,
        record: &Record,
        effects: &'a mut Effects,
    ) -> (&'a mut Entities, Turn<'a>) {
        let turn = Turn {
            shard: self.shard,
            shards: self.shards,
            position: record.position,
            time: record.time,
            keep: self.row.keep,
            numbering: &mut self.numbering,
            digest: &mut self.row.digest,
            effects,
        };
        (&mut self.entities, turn)
    }

    /// Adds the rows of what changed since the last call to `rows`, this shard's own row last; nothing if nothing did.
    pub fn drain_dirty(&mut self, rows: &mut Vec<Row>) {
        self.entities.drain_dirty(rows);
        if std::mem::take(&mut self.row_changed) {
            rows.push(Row::Shard(self.shard, self.row.encode()));
        }
    }

    /// Forgets entities until about `keep` are in memory (an eighth more is let pass, so that a full memory is not searched
    /// every turn), first those that no record has touched for the longest time. Only to be called when all drained rows are
    /// committed: what is forgotten is read back from the store. Changed entities stay.
    pub fn evict(&mut self, keep: usize) {
        self.entities.evict(keep);
    }

    /// How many entities are in memory, those known to be absent included.
    pub fn loaded(&self) -> usize {
        self.entities.len()
    }

    /// Running digest of every decision since the first record: equal on every replica at an equal position, whatever it
    /// holds in memory.
    pub fn digest(&self) -> u64 {
        self.row.digest
    }
}
