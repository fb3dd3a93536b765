//! Checked forms of what travels: messages, events, commands. Made from the wire types, or refused.

mod change;
mod changed;
mod content;
mod convert;

pub use change::{Change, NewGroup, Privacy};
pub use changed::{Changed, ChangedKind, Invitation, Notice};
pub use content::{
    Attachment, BadContent, Content, Forwarded, Gone, MessageState, Note, Reaction, Rich, Role,
};
pub(crate) use convert::shorten;

use crate::error::RejectCode;
use crate::id::{
    ClientSeq, ConversationId, DeviceId, InboxSeq, MessageId, RequestId, Seq, TimestampMs, UserId,
};
use crate::violation::Violation;

/// One message, the same for every member of its conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was sent.
    pub conversation: ConversationId,
    /// Its place there.
    pub seq: Seq,
    /// The name its sender gave it.
    pub id: MessageId,
    /// Who sent it.
    pub from: UserId,
    /// From which device.
    pub from_device: DeviceId,
    /// Under which number of that device.
    pub client_seq: ClientSeq,
    /// The other member of a direct conversation; `None` in a group.
    pub to: Option<UserId>,
    /// When the log took it.
    pub sent_at: TimestampMs,
    /// What it says now.
    pub content: Content,
    /// What happened to it after it was sent; `None`: nothing.
    pub state: Option<Box<MessageState>>,
}

impl Message {
    /// Whether its time is over, whether or not its content was taken away yet.
    pub fn is_expired(&self, now: TimestampMs) -> bool {
        let expires_at = self.state.as_ref().and_then(|state| state.expires_at);
        expires_at.is_some_and(|at| at <= now)
    }

    /// Takes the content away if its time is over: what a reader gets between that time and the sweep (QP-MSG-5).
    pub fn hide_expired(&mut self, now: TimestampMs) {
        let says_something = !matches!(self.content, Content::Gone(_));
        if says_something && self.is_expired(now) {
            self.content = Content::Gone(Gone::Expired);
            if let Some(state) = &mut self.state {
                state.reactions = Vec::new();
            }
        }
    }
}

/// How far a member of a conversation has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Where.
    pub conversation: ConversationId,
    /// Whose position.
    pub user: UserId,
    /// Every message up to this one has reached a device of theirs.
    pub delivered: Option<Seq>,
    /// Every message up to this one was read; never above `delivered`.
    pub read: Option<Seq>,
}

/// What an inbox holds, without its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventBody {
    /// A message, also the user's own: to its sender it is the ack.
    Message(Message),
    /// A position that moved.
    Receipt(Receipt),
    /// Something happened to a message.
    Changed(Box<Changed>),
    /// Somebody wants the user in a group.
    Invitation(Box<Invitation>),
}

/// One entry of a user's inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number in this inbox.
    pub inbox_seq: InboxSeq,
    /// What happened.
    pub body: EventBody,
}

/// What a device asks of the gateway on S0, after WELCOME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceCommand {
    /// Add a message to a conversation.
    Send {
        /// The device's number for it.
        client_seq: ClientSeq,
        /// Where to.
        conversation: ConversationId,
        /// Its name.
        id: MessageId,
        /// What it says.
        content: Content,
    },
    /// Make sure that the direct conversation with `peer` exists.
    OpenDirect {
        /// Echoed in the reply.
        request: RequestId,
        /// The other one.
        peer: UserId,
    },
    /// Positions of this user in a conversation.
    Receipt {
        /// Where.
        conversation: ConversationId,
        /// Received up to here.
        delivered: Option<Seq>,
        /// Read up to here.
        read: Option<Seq>,
    },
    /// Change a group, a message or the user's own account.
    Change {
        /// Echoed in the reply.
        request: RequestId,
        /// The device's number for it.
        client_seq: ClientSeq,
        /// What.
        change: Box<Change>,
    },
}

/// Which command a reply belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyTo {
    /// A SEND.
    Send {
        /// Where it was sent.
        conversation: ConversationId,
        /// The device's number for it.
        client_seq: ClientSeq,
    },
    /// A numbered request.
    Request(RequestId),
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A SEND that was accepted earlier, and its seq.
    Accepted(Seq),
    /// The conversation is there; its last seq.
    Opened {
        /// Its id.
        conversation: ConversationId,
        /// Seq of the last message.
        head: Option<Seq>,
    },
    /// It is done, or was done before.
    Done,
    /// Refused.
    Rejected(Rejection),
}

/// Why a command was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The code.
    pub code: RejectCode,
    /// For a person; at most [`REASON_BYTES_MAX`](crate::limits::REASON_BYTES_MAX) bytes.
    pub reason: String,
    /// Milliseconds to wait before trying again; 0: the code says.
    pub retry_after_ms: u64,
}

impl Rejection {
    /// A rejection without a time to wait.
    pub fn new(code: RejectCode, reason: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
            retry_after_ms: 0,
        }
    }
}

/// What becomes of a command that is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its body is broken so that it cannot even be answered: the connection is closed.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// It can be answered, and is, with this reply. The session goes on.
    #[error("a command was rejected")]
    Rejected(Reply),
}

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// To what.
    pub to: ReplyTo,
    /// With what result.
    pub outcome: Outcome,
}
