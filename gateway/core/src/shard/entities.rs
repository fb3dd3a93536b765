//! The entities of a shard that are in memory, which of them changed, and when each was last needed.

use std::collections::BTreeMap;

use bytes::Bytes;
use quipu_protocol::event::Message;
use quipu_protocol::id::{ConversationId, Seq, UserId};

use super::{ShardCount, ShardId};
use crate::record::Position;
use crate::row::{
    Account, Conversation, CorruptRow, DeadLetters, EntityKey, HistoryRow, Inbox, Presence, Row,
    Settings,
};

/// A conversation in memory: its row, and whom its events go to.
#[derive(Debug, Clone)]
pub(super) struct OpenConversation {
    pub(super) row: Conversation,
    /// The members by their shards, both ascending.
    pub(super) audience: Vec<(ShardId, Vec<UserId>)>,
}

impl OpenConversation {
    pub(super) fn new(row: Conversation, shards: ShardCount) -> Self {
        let mut by_shard: BTreeMap<ShardId, Vec<UserId>> = BTreeMap::new();
        for member in &row.members {
            let shard = shards.of_user(&member.user);
            by_shard.entry(shard).or_default().push(member.user);
        }
        Self {
            row,
            audience: by_shard.into_iter().collect(),
        }
    }
}

/// All that is in memory. The shell bounds it with [`evict`](Self::evict).
#[derive(Debug, Clone, Default)]
pub(super) struct Entities {
    accounts: Table<UserId, Account>,
    inboxes: Table<UserId, Inbox>,
    conversations: Table<ConversationId, OpenConversation>,
    messages: Table<(ConversationId, Seq), Message>,
    settings: Table<UserId, Settings>,
    presences: Table<UserId, Presence>,
    dead_letters: Table<ShardId, DeadLetters>,
}

impl Entities {
    pub(super) fn account(&mut self, user: UserId, at: Position) -> Entity<'_, UserId, Account> {
        self.accounts.entity(user, at)
    }

    pub(super) fn inbox(&mut self, user: UserId, at: Position) -> Entity<'_, UserId, Inbox> {
        self.inboxes.entity(user, at)
    }

    pub(super) fn conversation(
        &mut self,
        id: ConversationId,
        at: Position,
    ) -> Entity<'_, ConversationId, OpenConversation> {
        self.conversations.entity(id, at)
    }

    pub(super) fn presence(&mut self, user: UserId, at: Position) -> Entity<'_, UserId, Presence> {
        self.presences.entity(user, at)
    }

    pub(super) fn dead_letters(
        &mut self,
        shard: ShardId,
        at: Position,
    ) -> Entity<'_, ShardId, DeadLetters> {
        self.dead_letters.entity(shard, at)
    }

    #[allow(dead_code, reason = "changes of messages use it, which come next")]
    pub(super) fn message(
        &mut self,
        conversation: ConversationId,
        seq: Seq,
        at: Position,
    ) -> Entity<'_, (ConversationId, Seq), Message> {
        self.messages.entity((conversation, seq), at)
    }

    #[allow(
        dead_code,
        reason = "changes of the own account use it, which come next"
    )]
    pub(super) fn settings(&mut self, user: UserId, at: Position) -> Entity<'_, UserId, Settings> {
        self.settings.entity(user, at)
    }

    pub(super) fn contains(&self, key: &EntityKey) -> bool {
        match key {
            EntityKey::Account(user) => self.accounts.slots.contains_key(user),
            EntityKey::Inbox(user) => self.inboxes.slots.contains_key(user),
            EntityKey::Conversation(id) => self.conversations.slots.contains_key(id),
            EntityKey::Message(id, seq) => self.messages.slots.contains_key(&(*id, *seq)),
            EntityKey::Settings(user) => self.settings.slots.contains_key(user),
            EntityKey::Presence(user) => self.presences.slots.contains_key(user),
            EntityKey::DeadLetters(shard) => self.dead_letters.slots.contains_key(shard),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.accounts.slots.len()
            + self.inboxes.slots.len()
            + self.conversations.slots.len()
            + self.messages.slots.len()
            + self.settings.slots.len()
            + self.presences.slots.len()
            + self.dead_letters.slots.len()
    }

    pub(super) fn load(
        &mut self,
        shards: ShardCount,
        key: EntityKey,
        row: Option<&[u8]>,
    ) -> Result<(), CorruptRow> {
        match key {
            EntityKey::Account(user) => {
                self.accounts
                    .load(user, row.map(Account::decode).transpose()?);
            }
            EntityKey::Inbox(user) => {
                self.inboxes.load(user, row.map(Inbox::decode).transpose()?);
            }
            EntityKey::Conversation(id) => {
                let row = row.map(Conversation::decode).transpose()?;
                let open = row.map(|row| OpenConversation::new(row, shards));
                self.conversations.load(id, open);
            }
            EntityKey::Message(id, seq) => {
                let row = row.map(|row| HistoryRow::decode_value(id, seq, row));
                self.messages
                    .load((id, seq), row.transpose()?.map(|row| row.0));
            }
            EntityKey::Settings(user) => {
                let row = row.map(Settings::decode).transpose()?;
                self.settings.load(user, row);
            }
            EntityKey::Presence(user) => {
                self.presences
                    .load(user, row.map(Presence::decode).transpose()?);
            }
            EntityKey::DeadLetters(shard) => {
                self.dead_letters
                    .load(shard, row.map(DeadLetters::decode).transpose()?);
            }
        }
        Ok(())
    }

    pub(super) fn drain_dirty(&mut self, rows: &mut Vec<Row>) {
        self.accounts
            .drain(|user, account| rows.push(row(EntityKey::Account(user), account.encode())));
        self.inboxes
            .drain(|user, inbox| rows.push(row(EntityKey::Inbox(user), inbox.encode())));
        self.conversations
            .drain(|id, open| rows.push(row(EntityKey::Conversation(id), open.row.encode())));
        self.messages
            .drain(|_, message| rows.push(Row::History(HistoryRow(message.clone()))));
        self.settings
            .drain(|user, settings| rows.push(row(EntityKey::Settings(user), settings.encode())));
        self.presences
            .drain(|user, presence| rows.push(row(EntityKey::Presence(user), presence.encode())));
        self.dead_letters
            .drain(|shard, dead| rows.push(row(EntityKey::DeadLetters(shard), dead.encode())));
    }

    pub(super) fn evict(&mut self, keep: usize) {
        let len = self.len();
        if len <= keep + keep / 8 {
            return;
        }
        let mut oldest_first = Vec::with_capacity(len);
        let users = self.accounts.clean();
        oldest_first.extend(users.map(|(at, user)| (at, EntityKey::Account(user))));
        let users = self.inboxes.clean();
        oldest_first.extend(users.map(|(at, user)| (at, EntityKey::Inbox(user))));
        let conversations = self.conversations.clean();
        oldest_first.extend(conversations.map(|(at, id)| (at, EntityKey::Conversation(id))));
        let messages = self.messages.clean();
        oldest_first.extend(messages.map(|(at, (id, seq))| (at, EntityKey::Message(id, seq))));
        let users = self.settings.clean();
        oldest_first.extend(users.map(|(at, user)| (at, EntityKey::Settings(user))));
        let users = self.presences.clean();
        oldest_first.extend(users.map(|(at, user)| (at, EntityKey::Presence(user))));
        let shards = self.dead_letters.clean();
        oldest_first.extend(shards.map(|(at, shard)| (at, EntityKey::DeadLetters(shard))));
        oldest_first.sort_unstable();
        for (_, key) in oldest_first.into_iter().take(len - keep) {
            match key {
                EntityKey::Account(user) => drop(self.accounts.slots.remove(&user)),
                EntityKey::Inbox(user) => drop(self.inboxes.slots.remove(&user)),
                EntityKey::Conversation(id) => drop(self.conversations.slots.remove(&id)),
                EntityKey::Message(id, seq) => drop(self.messages.slots.remove(&(id, seq))),
                EntityKey::Settings(user) => drop(self.settings.slots.remove(&user)),
                EntityKey::Presence(user) => drop(self.presences.slots.remove(&user)),
                EntityKey::DeadLetters(shard) => drop(self.dead_letters.slots.remove(&shard)),
            }
        }
    }
}

fn row(key: EntityKey, value: Bytes) -> Row {
    Row::Entity(key, value)
}

/// Entities of one kind.
#[derive(Debug, Clone)]
struct Table<K, T> {
    slots: BTreeMap<K, Slot<T>>,
    /// The changed ones, in the order of their first change.
    dirty: Vec<K>,
}

#[derive(Debug, Clone)]
struct Slot<T> {
    /// `None`: it is known that there is none.
    value: Option<T>,
    /// The last record that needed it.
    touched: Position,
    dirty: bool,
}

impl<K, T> Default for Table<K, T> {
    fn default() -> Self {
        Self {
            slots: BTreeMap::new(),
            dirty: Vec::new(),
        }
    }
}

impl<K: Ord + Copy + std::fmt::Debug, T> Table<K, T> {
    fn load(&mut self, key: K, value: Option<T>) {
        self.slots.entry(key).or_insert(Slot {
            value,
            touched: Position::START,
            dirty: false,
        });
    }

    fn entity(&mut self, key: K, at: Position) -> Entity<'_, K, T> {
        let Some(slot) = self.slots.get_mut(&key) else {
            panic!("{key:?} was not loaded before a record that needs it was applied");
        };
        slot.touched = at;
        Entity {
            key,
            slot,
            dirty: &mut self.dirty,
        }
    }

    fn drain(&mut self, mut visit: impl FnMut(K, &T)) {
        for key in self.dirty.drain(..) {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.dirty = false;
                if let Some(value) = &slot.value {
                    visit(key, value);
                }
            }
        }
    }

    fn clean(&self) -> impl Iterator<Item = (Position, K)> {
        let clean = self.slots.iter().filter(|(_, slot)| !slot.dirty);
        clean.map(|(key, slot)| (slot.touched, *key))
    }
}

/// One entity, or the knowledge that it does not exist.
#[derive(Debug)]
pub(super) struct Entity<'a, K, T> {
    key: K,
    slot: &'a mut Slot<T>,
    dirty: &'a mut Vec<K>,
}

impl<K: Copy, T> Entity<'_, K, T> {
    pub(super) fn get(&self) -> Option<&T> {
        self.slot.value.as_ref()
    }

    /// To change it: its row is written with the next drain.
    pub(super) fn change(&mut self) -> Option<&mut T> {
        if self.slot.value.is_some() {
            self.note();
        }
        self.slot.value.as_mut()
    }

    /// Makes it.
    pub(super) fn put(&mut self, value: T) {
        self.note();
        self.slot.value = Some(value);
    }

    fn note(&mut self) {
        if !self.slot.dirty {
            self.slot.dirty = true;
            self.dirty.push(self.key);
        }
    }
}
