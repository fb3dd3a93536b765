//! What the log holds: records of entries, their positions, their sources.

pub(crate) mod codec;
pub(crate) mod fact;
mod redact;

use bytes::Bytes;
use quipu_protocol::event::{Change, Content, DeviceCommand, EventBody, Invitation, Reply, Role};
use quipu_protocol::id::{
    ChangeNumber, ClientSeq, ConversationId, DeviceId, MessageId, RequestId, Seq, TimestampMs,
    UserId,
};

pub use self::fact::{Fact, GivenUp, SessionId};
use crate::retention::Retention;
use crate::row::CorruptRow;
use crate::shard::{ShardCount, ShardId};

/// Version of the rules by which [`ShardState::apply`](crate::shard::ShardState::apply) turns records into state. Raised by
/// every change that gives the same records another outcome; a record names the version that it needs, and a gateway that
/// only knows older ones stops in front of it.
pub const STATE_MACHINE_VERSION: u32 = 6;

/// Where a record stands in its shard's log: 1 for the first, gap-free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl Position {
    /// Before the first record.
    pub const START: Self = Self(0);

    /// The position after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One entry of a shard's log: what was appended, where it came to stand, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log of its shard.
    pub position: Position,
    /// When the log took it.
    pub time: TimestampMs,
    /// What it carries, in order.
    pub entries: Vec<Entry>,
}

impl Record {
    /// Encodes entries as the payload of a record; position and time are the log's to add.
    pub fn encode_entries(entries: &[Entry]) -> Bytes {
        codec::encode_entries(entries)
    }

    /// Reads a record back from its payload. An error means that a human must act: the bytes are damaged, or a newer
    /// gateway wrote them; the shard stops in front of it.
    pub fn decode(
        position: Position,
        time: TimestampMs,
        payload: &[u8],
    ) -> Result<Self, CorruptRow> {
        Ok(Self {
            position,
            time,
            entries: codec::decode_entries(payload)?,
        })
    }
}

/// Where an entry that a processor sent came from. The receiving shard keeps the highest one per source shard and drops
/// what is not above it, so that a crash, a slow owner or two owners at once send nothing twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The shard whose processor sent it.
    pub shard: ShardId,
    /// The record that made it do so.
    pub position: Position,
    /// Which of the entries that this record sent to the receiving shard, from 0.
    pub index: u32,
}

/// One entry of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `None` when a router appended it for a device.
    pub source: Option<Source>,
    /// What it asks or tells.
    pub body: EntryBody,
}

/// What an entry asks or tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryBody {
    /// A device asks something of a conversation or an account.
    Command(Command),
    /// Something for the inboxes of users of this shard.
    Deliver {
        /// Whose inboxes, in ascending order.
        to: Vec<UserId>,
        /// What.
        event: EventBody,
    },
    /// The answer to a device's command; never kept in an inbox.
    Answer {
        /// Whose device.
        user: UserId,
        /// Which device.
        device: DeviceId,
        /// What to tell it.
        reply: Reply,
    },
    /// Something for the members of a group that live on this shard, whom its roster names.
    Spread {
        /// Which group.
        group: ConversationId,
        /// Whether it is too large for inbox rows: those who are here get a notice, the others find the head.
        pulled: bool,
        /// The last change of a pulled group; of a change its own number. None: it was logged before changes had one, or the group
        /// is pushed.
        changes: ChangeNumber,
        /// What.
        event: EventBody,
    },
    /// What a user of this shard is to a conversation from now on.
    Standing {
        /// Which conversation.
        conversation: ConversationId,
        /// Who.
        user: UserId,
        /// What.
        standing: Standing,
    },
    /// A member of a direct conversation takes no messages from the other any more, or takes them again.
    Blocked {
        /// Who decides.
        by: UserId,
        /// About whom.
        user: UserId,
        /// Whether it is so now.
        on: bool,
        /// Which command of which device of the first one is answered when it holds.
        asked: Option<(DeviceId, RequestId)>,
    },
    /// The time of messages is over. A gateway appends it when the clock passes what [`Due`](crate::row::IndexKey::Due) rows
    /// say.
    Expire {
        /// Where.
        conversation: ConversationId,
        /// Which, ascending.
        seqs: Vec<Seq>,
    },
    /// From here on the inboxes of this shard keep so much. A gateway appends it when its settings differ from what the shard
    /// was told last.
    Keep(Retention),
    /// Something that happened at a gateway to a user of this shard.
    Fact {
        /// Who.
        user: UserId,
        /// What.
        fact: Fact,
    },
}

/// What a user is to a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: left, removed, or declined.
    Out,
    /// Asked in, and has not joined yet. What they are told of it is the event of their inbox.
    Invited(Box<Invitation>),
    /// A member.
    In {
        /// In a direct conversation always [`Role::Member`].
        role: Role,
        /// The oldest message that the user may see.
        first: Seq,
    },
}

/// A command and who gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The authenticated user.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// What it wants.
    pub kind: CommandKind,
}

/// What a device can ask. Its `Debug` keeps what a password's hash is to itself.
#[derive(Clone, PartialEq, Eq)]
pub enum CommandKind {
    /// Add a message to a conversation.
    Send {
        /// Where to.
        conversation: ConversationId,
        /// The device's number for it.
        client_seq: ClientSeq,
        /// Its name.
        id: MessageId,
        /// What it says.
        content: Content,
    },
    /// Make the direct conversation with `peer` if there is none; the router has checked that the peer exists.
    OpenDirect {
        /// Echoed in the answer.
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
        /// Whether nobody else is to learn of `read`: the user hides it.
        quiet: bool,
    },
    /// Change a group, a message or the user's own account.
    Change {
        /// Echoed in the answer.
        request: RequestId,
        /// The device's number for it, by which a repeat is known; `None`: it was logged before changes had one.
        client_seq: Option<ClientSeq>,
        /// What; the router has checked that users named in it exist.
        change: Box<Change>,
        /// For a new group: members up to which its messages go into every inbox. Fixed for the group's life, so that a
        /// replay does not depend on settings.
        fan_out_max: u32,
    },
    /// Make the account `user`, with `device` as its first device.
    Register {
        /// Echoed in the answer.
        request: RequestId,
        /// PHC string of the password's hash; `None`: nobody can log in by password.
        password: Option<String>,
        /// The first device.
        device: NewDevice,
    },
    /// Add `device` to the account.
    AddDevice {
        /// Echoed in the answer.
        request: RequestId,
        /// The device.
        device: NewDevice,
    },
}

impl CommandKind {
    /// What a device asks of a log. `fan_out_max`: members up to which the messages of a group that this makes go into every
    /// inbox. What a receipt hides, whoever knows the user's privacy decides afterwards.
    pub fn of_device(command: DeviceCommand, fan_out_max: u32) -> Self {
        match command {
            DeviceCommand::Send {
                client_seq,
                conversation,
                id,
                content,
            } => Self::Send {
                conversation,
                client_seq,
                id,
                content,
            },
            DeviceCommand::Receipt {
                conversation,
                delivered,
                read,
            } => Self::Receipt {
                conversation,
                delivered,
                read,
                quiet: false,
            },
            DeviceCommand::Change {
                request,
                client_seq,
                change,
            } => Self::Change {
                request,
                client_seq: Some(client_seq),
                change,
                fan_out_max,
            },
            DeviceCommand::OpenDirect { request, peer } => Self::OpenDirect { request, peer },
        }
    }
}

/// What the account keeps of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDevice {
    /// For a person.
    pub label: String,
    /// SHA-256 of its session token.
    pub token_hash: [u8; 32],
}

impl Command {
    /// The shard whose log it belongs to: the conversation's, or the user's for account work.
    pub fn shard(&self, shards: ShardCount) -> ShardId {
        match &self.kind {
            CommandKind::Send { conversation, .. } | CommandKind::Receipt { conversation, .. } => {
                shards.of_conversation(conversation)
            }
            CommandKind::OpenDirect { peer, .. } => {
                shards.of_conversation(&ConversationId::direct(&self.user, peer))
            }
            CommandKind::Change { change, .. } => match change.conversation() {
                Some(conversation) => shards.of_conversation(conversation),
                None => shards.of_user(&self.user),
            },
            CommandKind::Register { .. } | CommandKind::AddDevice { .. } => {
                shards.of_user(&self.user)
            }
        }
    }
}
