//! The entities of a shard that are in memory, which of them changed, and when each was last needed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quipu_protocol::event::Message;
use quipu_protocol::id::{ChangeNumber, ConversationId, Seq, UserId};

use super::{ShardCount, ShardId};
use crate::record::Position;
use crate::row::{
    Account, Answers, Conversation, CorruptRow, DeadLetters, EntityKey, HistoryRow, Inbox,
    Membership, News, Place, Presence, Roster, Row, Settings,
};

/// A conversation in memory: its row, and whom its events go to.
#[derive(Debug, Clone)]
pub(super) struct OpenConversation {
    pub(super) row: Conversation,
    /// The members of a direct one by their shards, both ascending.
    pub(super) audience: Vec<(ShardId, Vec<UserId>)>,
}

/// Whom an event of a conversation goes to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Audience<'a> {
    /// These users, by their shards.
    Users(&'a [(ShardId, Vec<UserId>)]),
    /// All members of a group.
    Group {
        id: ConversationId,
        pulled: bool,
        /// The last change of a pulled one.
        changes: ChangeNumber,
        /// The shards that have members, with their numbers.
        shards: &'a [(ShardId, u32)],
    },
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

    /// Whom its events go to.
    pub(super) fn audience(&self, id: ConversationId) -> Audience<'_> {
        match &self.row.group {
            None => Audience::Users(&self.audience),
            Some(group) => Audience::Group {
                id,
                pulled: group.pulled.is_some(),
                changes: group.changes,
                shards: &group.shards,
            },
        }
    }
}

/// A roster in memory: its row, and whom a spread goes to.
#[derive(Debug, Clone, Default)]
pub(super) struct OpenRoster {
    row: Roster,
    members: Arc<[UserId]>,
    /// From this message on all of them see everything; `None`: they see all there is.
    seen_by_all: Option<Seq>,
}

impl OpenRoster {
    fn new(row: Roster) -> Self {
        let mut open = Self {
            row,
            ..Self::default()
        };
        open.gather();
        open
    }

    fn gather(&mut self) {
        self.members = self.row.members().collect();
        let places = self.row.entries.iter().map(|entry| entry.place);
        let firsts = places.filter_map(|place| match place {
            Place::Member { first, .. } => Some(first),
            Place::Invited | Place::Untold => None,
        });
        self.seen_by_all = firsts.max();
    }

    /// The members that live here, ascending.
    pub(super) fn members(&self) -> &Arc<[UserId]> {
        &self.members
    }

    /// Those of them who may see a message.
    pub(super) fn members_who_see(&self, seq: Seq) -> Arc<[UserId]> {
        match self.seen_by_all.is_none_or(|first| first <= seq) {
            true => Arc::clone(&self.members),
            false => self.row.members_who_see(seq).collect(),
        }
    }

    pub(super) fn place(&self, user: &UserId) -> Option<Place> {
        self.row.place(user)
    }

    pub(super) fn set(&mut self, user: UserId, place: Option<Place>) {
        let first = |place| match place {
            Some(Place::Member { first, .. }) => Some(first),
            Some(Place::Invited | Place::Untold) | None => None,
        };
        let was = first(self.row.place(&user));
        self.row.set(user, place);
        if was != first(place) {
            self.gather();
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
    members: Table<(ConversationId, UserId), Membership>,
    /// All of this shard.
    rosters: Table<ConversationId, (ShardId, OpenRoster)>,
    /// All of this shard.
    answers: Table<UserId, (ShardId, Answers)>,
    /// As well.
    news: Table<ConversationId, (ShardId, News)>,
}

/// A conversation of a group, and what it keeps of one user.
pub(super) type Seated<'a> = (
    Entity<'a, ConversationId, OpenConversation>,
    Entity<'a, (ConversationId, UserId), Membership>,
);

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

    pub(super) fn message(
        &mut self,
        conversation: ConversationId,
        seq: Seq,
        at: Position,
    ) -> Entity<'_, (ConversationId, Seq), Message> {
        self.messages.entity((conversation, seq), at)
    }

    pub(super) fn settings(&mut self, user: UserId, at: Position) -> Entity<'_, UserId, Settings> {
        self.settings.entity(user, at)
    }

    pub(super) fn member(
        &mut self,
        id: ConversationId,
        user: UserId,
        at: Position,
    ) -> Entity<'_, (ConversationId, UserId), Membership> {
        self.members.entity((id, user), at)
    }

    /// Both at once.
    pub(super) fn seated(&mut self, id: ConversationId, user: UserId, at: Position) -> Seated<'_> {
        let conversation = self.conversations.entity(id, at);
        (conversation, self.members.entity((id, user), at))
    }

    pub(super) fn roster(
        &mut self,
        id: ConversationId,
        at: Position,
    ) -> Entity<'_, ConversationId, (ShardId, OpenRoster)> {
        self.rosters.entity(id, at)
    }

    pub(super) fn answers(
        &mut self,
        user: UserId,
        at: Position,
    ) -> Entity<'_, UserId, (ShardId, Answers)> {
        self.answers.entity(user, at)
    }

    pub(super) fn news(
        &mut self,
        id: ConversationId,
        at: Position,
    ) -> Entity<'_, ConversationId, (ShardId, News)> {
        self.news.entity(id, at)
    }

    /// The members of a group that live here, if its roster is in memory.
    pub(super) fn spread_to(&self, id: &ConversationId) -> Option<&[UserId]> {
        let slot = self.rosters.slots.get(id)?;
        Some(slot.value.as_ref().map_or(&[], |(_, open)| open.members()))
    }

    /// Takes over new messages whose absence is known, because a later record of the same turn changes them.
    pub(super) fn made(&mut self, rows: &[Row]) {
        if self.messages.slots.is_empty() {
            return;
        }
        for row in rows {
            if let Row::History(HistoryRow(message)) = row
                && let Some(slot) = self
                    .messages
                    .slots
                    .get_mut(&(message.conversation, message.seq))
            {
                slot.value = Some(message.clone());
            }
        }
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
            EntityKey::Member(id, user) => self.members.slots.contains_key(&(*id, *user)),
            EntityKey::Roster(id, _) => self.rosters.slots.contains_key(id),
            EntityKey::Answers(user, _) => self.answers.slots.contains_key(user),
            EntityKey::News(id, _) => self.news.slots.contains_key(id),
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
            + self.members.slots.len()
            + self.rosters.slots.len()
            + self.answers.slots.len()
            + self.news.slots.len()
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
            EntityKey::Member(id, user) => {
                let row = row.map(|row| Membership::decode(user, row)).transpose()?;
                self.members.load((id, user), row);
            }
            EntityKey::Roster(id, shard) => {
                let row = row.map(Roster::decode).transpose()?;
                let open = row.map(|row| (shard, OpenRoster::new(row)));
                self.rosters.load(id, open);
            }
            EntityKey::Answers(user, shard) => {
                let row = row.map(Answers::decode).transpose()?;
                self.answers.load(user, row.map(|row| (shard, row)));
            }
            EntityKey::News(id, shard) => {
                let row = row.map(News::decode).transpose()?;
                self.news.load(id, row.map(|news| (shard, news)));
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
        self.members.drain(|(id, user), member| {
            rows.push(row(EntityKey::Member(id, user), member.encode()));
        });
        self.rosters.drain(|id, (shard, open)| {
            rows.push(row(EntityKey::Roster(id, *shard), open.row.encode()));
        });
        self.answers.drain(|user, (shard, answers)| {
            rows.push(row(EntityKey::Answers(user, *shard), answers.encode()));
        });
        self.news.drain(|id, (shard, news)| {
            rows.push(row(EntityKey::News(id, *shard), news.encode()));
        });
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
        let members = self.members.clean();
        oldest_first.extend(members.map(|(at, (id, user))| (at, EntityKey::Member(id, user))));
        // The shard does not matter: all of them are this one's.
        let rosters = self.rosters.clean();
        oldest_first.extend(rosters.map(|(at, id)| (at, EntityKey::Roster(id, ShardId(0)))));
        let users = self.answers.clean();
        oldest_first.extend(users.map(|(at, user)| (at, EntityKey::Answers(user, ShardId(0)))));
        let news = self.news.clean();
        oldest_first.extend(news.map(|(at, id)| (at, EntityKey::News(id, ShardId(0)))));
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
                EntityKey::Member(id, user) => drop(self.members.slots.remove(&(id, user))),
                EntityKey::Roster(id, _) => drop(self.rosters.slots.remove(&id)),
                EntityKey::Answers(user, _) => drop(self.answers.slots.remove(&user)),
                EntityKey::News(id, _) => drop(self.news.slots.remove(&id)),
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
