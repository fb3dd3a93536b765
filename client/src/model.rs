//! What the application sees of accounts, messages and conversations.

use quipu_protocol::event::{Content, Message};
use quipu_protocol::id::{
    ConversationId, DeviceId, InboxSeq, InvalidId, MessageId, Seq, TimestampMs, UserId,
};

use crate::error::Refusal;

/// Who this client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// The user.
    pub user: UserId,
    /// This device among the user's.
    pub device: DeviceId,
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The direct conversation with a user, made if it does not exist.
    User(UserId),
    /// A conversation that exists.
    Conversation(ConversationId),
}

impl Target {
    /// The direct conversation with the user of that name.
    pub fn user(name: &str) -> Result<Self, InvalidId> {
        UserId::new(name).map(Self::User)
    }
}

impl From<UserId> for Target {
    fn from(user: UserId) -> Self {
        Self::User(user)
    }
}

impl From<ConversationId> for Target {
    fn from(conversation: ConversationId) -> Self {
        Self::Conversation(conversation)
    }
}

/// A message of this device that has no place in its conversation's history yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalMessage {
    /// Its name, the same once it is in the history.
    pub id: MessageId,
    /// Where it goes.
    pub conversation: ConversationId,
    /// The other member of a direct conversation.
    pub peer: Option<UserId>,
    /// What it says.
    pub content: Content,
    /// When it was queued, by this machine's clock.
    pub queued_at: TimestampMs,
    /// How far it has come.
    pub state: LocalState,
}

/// How far a message of this device has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalState {
    /// Kept here; sent in order, and again after every reconnection, until the gateway answers.
    Queued,
    /// Acked under this seq; the event that brings it into the history is on its way.
    Acked(Seq),
    /// Refused for good. Kept until [`Client::forget`](crate::Client::forget).
    Refused(Refusal),
}

/// A message together with its place in this user's inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The place.
    pub inbox_seq: InboxSeq,
    /// The message.
    pub message: Message,
}

/// One line of the conversation list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationSummary {
    /// Which.
    pub id: ConversationId,
    /// The other member of a direct conversation.
    pub peer: Option<UserId>,
    /// The title of a group, once it is known.
    pub title: Option<String>,
    /// Whether the user is no longer in it.
    pub gone: bool,
    /// Who asks the user into it, while that is not answered.
    pub invited_by: Option<UserId>,
    /// Seq of the last message that is known to exist.
    pub head: Option<Seq>,
    /// The last message in the cache.
    pub last: Option<Message>,
    /// Messages of others behind the read position.
    pub unread: u64,
    /// This user's own read position, on whichever device.
    pub read: Option<Seq>,
    /// The peer has every message up to this one.
    pub peer_delivered: Option<Seq>,
    /// The peer has read up to this one.
    pub peer_read: Option<Seq>,
    /// Messages of this device that wait in the outbox, refused ones included.
    pub waiting: u64,
}

/// Which cached messages to read, always given in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The last ones.
    Latest,
    /// The last ones below this seq.
    Before(Seq),
    /// The first ones above this seq.
    After(Seq),
    /// Half of them up to and with this seq, half above it.
    Around(Seq),
}

/// A range of a conversation's history to fetch from the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryRange {
    /// From here, inclusive; `None`: from the start.
    pub first: Option<Seq>,
    /// To here, inclusive; `None`: to the head.
    pub last: Option<Seq>,
    /// Messages, 1 to [`HISTORY_PAGE_MESSAGES_MAX`](quipu_protocol::limits::HISTORY_PAGE_MESSAGES_MAX); the page may be shorter.
    pub limit: usize,
    /// Whether the limit counts from the end of the range.
    pub newest_first: bool,
}
