//! What the store holds: rows that never change, entities that do, and one row per shard.

mod account;
mod answers;
mod conversation;
mod dead_letters;
mod group;
mod history;
mod inbox;
mod index;
mod news;
mod numbered;
mod presence;
mod report;
mod roster;
mod settings;
mod shard;

use bytes::Bytes;
use quipu_protocol::event::{Changed, Invitation, Message, Receipt};
use quipu_protocol::id::{ConversationId, Cursor, DeviceId, InboxSeq, Seq, TimestampMs, UserId};

pub use self::answers::{AnsweredDevice, Answers, FirstAnswer};
pub use self::conversation::{Conversation, Member};
pub use self::dead_letters::{DeadLetter, DeadLetters};
pub use self::group::{Group, Membership, Seat};
pub use self::index::{IndexKey, IndexRange};
pub use self::news::News;
pub use self::numbered::NumberedChange;
pub use self::presence::{OfflineRow, Presence, PresentDevice, Waiting};
pub use self::report::{OldContent, Report};
pub use self::roster::{Place, Roster, RosterEntry};
pub use self::settings::Settings;
pub(crate) use self::shard::ShardRow;
use crate::retention::Age;
use crate::shard::ShardId;

/// Stored bytes that cannot be read. A human must act: start the gateway that wrote them, restore, or rebuild the store
/// from the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a stored {what} cannot be read: {why}")]
pub struct CorruptRow {
    /// Which kind of row.
    pub what: &'static str,
    /// What does not fit.
    pub why: String,
}

/// Names a mutable row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntityKey {
    /// Credentials and devices of a user: [`Account`].
    Account(UserId),
    /// Head of a user's inbox: [`Inbox`].
    Inbox(UserId),
    /// Members, head, receipts and dedup windows of a conversation: [`Conversation`].
    Conversation(ConversationId),
    /// A message, to change it. Its row is the one of the history, and only there: [`HistoryRow`].
    Message(ConversationId, Seq),
    /// Privacy and block list of a user: [`Settings`].
    Settings(UserId),
    /// A member of a group, in the group's shard, or who was one, or is invited: [`Membership`].
    Member(ConversationId, UserId),
    /// The members of a group that live on this shard, in it: [`Roster`].
    Roster(ConversationId, ShardId),
    /// What was answered to the changes that a user's devices asked for on this shard, in it: [`Answers`].
    Answers(UserId, ShardId),
    /// What the members of a pulled group that live on this shard were told of, in it: [`News`].
    News(ConversationId, ShardId),
    /// Which devices of a user are here and how far they are: [`Presence`].
    Presence(UserId),
    /// Webhooks of a shard that were given up: [`DeadLetters`].
    DeadLetters(ShardId),
}

/// Where the value of an entity is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntityPlace {
    /// In a row of its own.
    Own,
    /// In the row of the history with this conversation and seq.
    History(ConversationId, Seq),
}

impl EntityKey {
    /// Where a store finds the entity.
    pub fn place(&self) -> EntityPlace {
        match self {
            Self::Message(conversation, seq) => EntityPlace::History(*conversation, *seq),
            Self::Account(_)
            | Self::Inbox(_)
            | Self::Conversation(_)
            | Self::Settings(_)
            | Self::Member(..)
            | Self::Roster(..)
            | Self::Answers(..)
            | Self::News(..)
            | Self::Presence(_)
            | Self::DeadLetters(_) => EntityPlace::Own,
        }
    }
}

/// One row to write. The same record makes the same rows, so writing one again is harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A message of a conversation's history, as it is now.
    History(HistoryRow),
    /// An entry of a user's inbox; never changes, and goes when it is no longer kept.
    Inbox(InboxRow),
    /// An entity, encoded.
    Entity(EntityKey, Bytes),
    /// The applied position and the source marks of a shard, encoded.
    Shard(ShardId, Bytes),
    /// A small row that is found by a range of keys and may be taken away: `None` does.
    Index(IndexKey, Option<Bytes>),
    /// An entry of a user's inbox that is no longer kept: its row goes.
    Trimmed(UserId, InboxSeq),
}

/// A message, by conversation and seq.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow(pub Message);

/// An inbox entry, by user and inbox seq: a pointer to a history row, or a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxRow {
    /// Whose inbox.
    pub user: UserId,
    /// Its number there.
    pub inbox_seq: InboxSeq,
    /// What it is.
    pub kind: InboxKind,
}

/// What an inbox row holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboxKind {
    /// Points at a history row.
    Message {
        /// Conversation of the message.
        conversation: ConversationId,
        /// Its seq.
        seq: Seq,
    },
    /// Holds the receipt itself.
    Receipt(Receipt),
    /// Holds the change itself; the content of an edit is a placeholder, as the history has the latest one.
    Changed(Box<Changed>),
    /// Holds the invitation itself.
    Invitation(Box<Invitation>),
}

/// Credentials and devices of a user. Its `Debug` keeps what the password's hash is to itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// PHC string of the password's hash; `None`: no log-in by password.
    pub password: Option<String>,
    /// When it was made.
    pub created_at: TimestampMs,
    /// Its devices, ascending by id.
    pub devices: Vec<Device>,
}

/// One device of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// For a person.
    pub label: String,
    /// SHA-256 of its session token.
    pub token_hash: [u8; 32],
    /// When it was added.
    pub added_at: TimestampMs,
}

/// Head of a user's inbox. Made with the account: a user without one has no inbox.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inbox {
    /// Number of the last event; `None`: nothing has happened yet.
    pub head: Option<InboxSeq>,
    /// Number of the last message of somebody else.
    pub incoming: Option<InboxSeq>,
    /// Conversations in the user's list ([`IndexKey::Listed`]).
    pub listed: u32,
    /// Events up to here are no longer kept. Below the head.
    pub floor: Cursor,
    /// Rows up to here are out of the store; at most the floor.
    pub trimmed: Cursor,
    /// How old its events are, ascending; a few.
    pub ages: Vec<Age>,
}
