//! What the application sees of accounts, messages and conversations.

use quipu_protocol::event::{Change, Content, Message};
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

/// The name of a queued change in its data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeId(pub u64);

/// Which message is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// One with a place in its conversation.
    Placed(ConversationId, Seq),
    /// One that this device has sent, whether it is acked already or not.
    Queued(MessageId),
}

/// What is to happen to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageChange {
    /// It is to say this.
    Edit(Content),
    /// It is to say nothing any more, to anybody.
    Delete,
    /// It is to bear a sign of this user, or no longer.
    React {
        /// 1 to [`EMOJI_BYTES_MAX`](quipu_protocol::limits::EMOJI_BYTES_MAX) bytes.
        emoji: String,
        /// Whether it is to be there.
        on: bool,
    },
}

impl MessageChange {
    /// As a gateway is asked for it.
    pub(crate) fn of(self, (conversation, seq): (ConversationId, Seq)) -> Change {
        match self {
            Self::Edit(content) => Change::Edit {
                conversation,
                seq,
                content,
            },
            Self::Delete => Change::Delete(conversation, seq),
            Self::React { emoji, on } => Change::React {
                conversation,
                seq,
                emoji,
                on,
            },
        }
    }

    /// About what it takes in the outbox.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Edit(content) => content.bytes(),
            Self::Delete => 0,
            Self::React { emoji, .. } => emoji.len(),
        }
    }
}

/// A change of a message that this device has asked for and that is not made yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalChange {
    /// Its name.
    pub id: ChangeId,
    /// Where.
    pub conversation: ConversationId,
    /// Of which message: by its place, once it has one.
    pub about: About,
    /// What is to happen to it.
    pub what: MessageChange,
    /// When it was asked for, by this machine's clock.
    pub queued_at: TimestampMs,
    /// How far it has come.
    pub state: ChangeState,
}

/// How far a change has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeState {
    /// Kept here and asked for, after every reconnection again, until the gateway answers.
    Queued,
    /// Refused for good. Kept until [`Client::forget_change`](crate::Client::forget_change).
    Refused(Refusal),
}

/// What became of a change when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is on disk and will be made.
    Queued(LocalChange),
    /// It is made: nobody but this device knew of the message yet. An edited one will be sent as it is now, a deleted one not at all.
    Made,
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
