//! What a device may change beside sending: groups, messages, and its user's own account (COMMAND).

use bytes::Bytes;

use super::content::{BadContent, Content, Role};
use super::{Outcome, Refusal, Rejection, Reply, ReplyTo};
use crate::error::RejectCode;
use crate::id::{ClientSeq, ConversationId, DeviceId, RequestId, Seq, UserId};
use crate::limits::{
    EMOJI_BYTES_MAX, INVITES_MAX, KEEP_MS_MAX, KEEP_MS_MIN, LABEL_BYTES_MAX, REPORT_BYTES_MAX,
    TITLE_BYTES_MAX, TOPIC_BYTES_MAX,
};
use crate::wire;

/// A change that a device asks for. Asking for it twice under one client seq has the effect of asking once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Make a group with the user as its owner.
    CreateGroup(NewGroup),
    /// Give a group another title or topic.
    SetGroup {
        /// Which group.
        conversation: ConversationId,
        /// `None`: stays.
        title: Option<String>,
        /// `None`: stays.
        topic: Option<String>,
    },
    /// Ask users into a group.
    Invite {
        /// Which group.
        conversation: ConversationId,
        /// 1 to [`INVITES_MAX`], ascending.
        users: Vec<UserId>,
    },
    /// Become a member: of an open group, or of one that invited the user.
    Join(ConversationId),
    /// Stop being a member, or decline an invitation.
    Leave(ConversationId),
    /// Take a member out of a group, or an invitation back.
    Remove(ConversationId, UserId),
    /// Give a member a role.
    SetRole(ConversationId, UserId, Role),
    /// Keep new messages for so many milliseconds; 0: for good.
    SetTimer(ConversationId, u64),
    /// Let a message of this user say something else.
    Edit {
        /// Where.
        conversation: ConversationId,
        /// Which message.
        seq: Seq,
        /// What it says from now on.
        content: Content,
    },
    /// Take a message's content away, for everybody.
    Delete(ConversationId, Seq),
    /// Put a sign on a message, or take it back.
    React {
        /// Where.
        conversation: ConversationId,
        /// Which message.
        seq: Seq,
        /// 1 to [`EMOJI_BYTES_MAX`] bytes.
        emoji: String,
        /// Whether it is to be there.
        on: bool,
    },
    /// Give a device of this user another label.
    RenameDevice(DeviceId, String),
    /// Throw a device of this user out.
    RevokeDevice(DeviceId),
    /// Take no messages from a user, or take them again.
    Block(UserId, bool),
    /// Complain to the operator.
    Report {
        /// Where.
        conversation: ConversationId,
        /// About which message; `None`: about the conversation.
        seq: Option<Seq>,
        /// 1 to [`REPORT_BYTES_MAX`] bytes.
        reason: String,
    },
    /// What others may learn of the user.
    SetPrivacy(Privacy),
}

/// What a new group is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewGroup {
    /// Its id, drawn by the client; a group's.
    pub conversation: ConversationId,
    /// 1 to [`TITLE_BYTES_MAX`] bytes.
    pub title: String,
    /// At most [`TOPIC_BYTES_MAX`] bytes.
    pub topic: String,
    /// Whether anybody who knows the id may join.
    pub open: bool,
    /// Whether who joins later sees what was said before.
    pub history_from_start: bool,
    /// Whom to invite, at most [`INVITES_MAX`], ascending.
    pub invite: Vec<UserId>,
}

/// What others do not learn of a user. Who hides something does not see it of others either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Privacy {
    /// Read positions.
    pub hide_read: bool,
    /// That the user is writing.
    pub hide_typing: bool,
    /// Whether the user is here now.
    pub hide_presence: bool,
    /// When the user was last here.
    pub hide_last_seen: bool,
}

impl Change {
    /// The conversation that it is about; `None`: it is about the user.
    pub fn conversation(&self) -> Option<&ConversationId> {
        match self {
            Self::CreateGroup(group) => Some(&group.conversation),
            Self::SetGroup { conversation, .. }
            | Self::Invite { conversation, .. }
            | Self::Join(conversation)
            | Self::Leave(conversation)
            | Self::Remove(conversation, _)
            | Self::SetRole(conversation, ..)
            | Self::SetTimer(conversation, _)
            | Self::Edit { conversation, .. }
            | Self::Delete(conversation, _)
            | Self::React { conversation, .. }
            | Self::Report { conversation, .. } => Some(conversation),
            Self::RenameDevice(..)
            | Self::RevokeDevice(_)
            | Self::Block(..)
            | Self::SetPrivacy(_) => None,
        }
    }
}

// ---------------------------------------------------------------- from the wire

const fn bad(reason: &'static str) -> BadContent {
    BadContent {
        code: RejectCode::Invalid,
        reason,
    }
}

fn conversation(bytes: &[u8]) -> Result<ConversationId, BadContent> {
    ConversationId::from_slice(bytes).map_err(|_| bad("QP-CMD-2: a conversation id has 16 bytes"))
}

fn group(bytes: &[u8]) -> Result<ConversationId, BadContent> {
    let id = conversation(bytes)?;
    if !id.is_group() {
        return Err(bad("QP-CMD-2: the id of a group has its top bit set"));
    }
    Ok(id)
}

fn user(name: &str) -> Result<UserId, BadContent> {
    UserId::new(name).map_err(|_| bad("QP-CMD-2: a user is named by a user id"))
}

fn users(names: &[String]) -> Result<Vec<UserId>, BadContent> {
    if names.len() > INVITES_MAX {
        return Err(bad("QP-CMD-2: too many users in one invitation"));
    }
    let mut users: Vec<UserId> = names
        .iter()
        .map(|name| user(name))
        .collect::<Result<_, _>>()?;
    users.sort_unstable();
    users.dedup();
    Ok(users)
}

fn seq(seq: u64) -> Result<Seq, BadContent> {
    Seq::new(seq).map_err(|_| bad("QP-CMD-2: a seq is not 0"))
}

fn device(device: u64) -> Result<DeviceId, BadContent> {
    DeviceId::new(device).map_err(|_| bad("QP-CMD-2: a device id is not 0"))
}

fn sized(text: String, min: usize, max: usize) -> Result<String, BadContent> {
    if !(min..=max).contains(&text.len()) {
        return Err(bad("QP-CMD-2: a text is empty or too long"));
    }
    Ok(text)
}

impl TryFrom<wire::Command> for (RequestId, Option<ClientSeq>, Change) {
    type Error = Refusal;

    fn try_from(command: wire::Command) -> Result<Self, Refusal> {
        let request = RequestId(command.request);
        let client_seq = ClientSeq::new(command.client_seq).ok();
        let change = match command.kind {
            Some(kind) => Change::try_from(kind),
            None => Err(bad("QP-CMD-2: a command of this version says what to do")),
        };
        change
            .map(|change| (request, client_seq, change))
            .map_err(|bad| refusal(request, bad))
    }
}

/// The answer to a change that cannot be asked for like this.
fn refusal(request: RequestId, bad: BadContent) -> Refusal {
    Refusal::Rejected(Reply {
        to: ReplyTo::Request(request),
        outcome: Outcome::Rejected(Rejection::new(bad.code, bad.reason)),
    })
}

/// The answer to a change without a client seq.
pub(super) fn unnumbered(request: RequestId) -> Refusal {
    refusal(request, bad("QP-CMD-3: a change has a client seq from 1"))
}

impl TryFrom<wire::command::Kind> for Change {
    type Error = BadContent;

    fn try_from(kind: wire::command::Kind) -> Result<Self, BadContent> {
        use wire::command::Kind;
        Ok(match kind {
            Kind::CreateGroup(new) => Self::CreateGroup(NewGroup {
                conversation: group(&new.conversation)?,
                title: sized(new.title, 1, TITLE_BYTES_MAX)?,
                topic: sized(new.topic, 0, TOPIC_BYTES_MAX)?,
                open: new.open,
                history_from_start: new.history_from_start,
                invite: users(&new.invite)?,
            }),
            Kind::SetGroup(set) => Self::SetGroup {
                conversation: group(&set.conversation)?,
                title: set
                    .title
                    .map(|t| sized(t, 1, TITLE_BYTES_MAX))
                    .transpose()?,
                topic: set
                    .topic
                    .map(|t| sized(t, 0, TOPIC_BYTES_MAX))
                    .transpose()?,
            },
            Kind::Invite(invite) if invite.users.is_empty() => {
                return Err(bad("QP-CMD-2: an invitation names somebody"));
            }
            Kind::Invite(invite) => Self::Invite {
                conversation: group(&invite.conversation)?,
                users: users(&invite.users)?,
            },
            Kind::Join(to) => Self::Join(group(&to.conversation)?),
            Kind::Leave(from) => Self::Leave(group(&from.conversation)?),
            Kind::Remove(member) => Self::Remove(group(&member.conversation)?, user(&member.user)?),
            Kind::SetRole(set) => Self::SetRole(
                group(&set.conversation)?,
                user(&set.user)?,
                Role::from_wire(set.role).ok_or_else(|| bad("QP-CMD-2: a role of this version"))?,
            ),
            Kind::SetTimer(set) => {
                if set.keep_ms != 0 && !(KEEP_MS_MIN..=KEEP_MS_MAX).contains(&set.keep_ms) {
                    return Err(bad("QP-CMD-2: messages are kept 5 seconds to 365 days"));
                }
                Self::SetTimer(conversation(&set.conversation)?, set.keep_ms)
            }
            Kind::Edit(edit) => Self::Edit {
                conversation: conversation(&edit.conversation)?,
                seq: seq(edit.seq)?,
                content: Content::from_client(edit.content)?,
            },
            Kind::Delete(message) => {
                Self::Delete(conversation(&message.conversation)?, seq(message.seq)?)
            }
            Kind::React(react) => Self::React {
                conversation: conversation(&react.conversation)?,
                seq: seq(react.seq)?,
                emoji: sized(react.emoji, 1, EMOJI_BYTES_MAX)?,
                on: react.on,
            },
            Kind::RenameDevice(rename) => Self::RenameDevice(
                device(rename.device)?,
                sized(rename.label, 0, LABEL_BYTES_MAX)?,
            ),
            Kind::RevokeDevice(revoke) => Self::RevokeDevice(device(revoke.device)?),
            Kind::Block(block) => Self::Block(user(&block.user)?, block.on),
            Kind::Report(report) => Self::Report {
                conversation: conversation(&report.conversation)?,
                seq: Seq::new(report.seq).ok(),
                reason: sized(report.reason, 1, REPORT_BYTES_MAX)?,
            },
            Kind::SetPrivacy(privacy) => Self::SetPrivacy(privacy.into()),
        })
    }
}

impl From<wire::Privacy> for Privacy {
    fn from(privacy: wire::Privacy) -> Self {
        Self {
            hide_read: privacy.hide_read,
            hide_typing: privacy.hide_typing,
            hide_presence: privacy.hide_presence,
            hide_last_seen: privacy.hide_last_seen,
        }
    }
}

// ---------------------------------------------------------------- to the wire

fn bytes(id: &ConversationId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn names(users: &[UserId]) -> Vec<String> {
    users.iter().map(UserId::to_string).collect()
}

fn reference(conversation: &ConversationId) -> wire::ConversationRef {
    wire::ConversationRef {
        conversation: bytes(conversation),
    }
}

impl wire::Command {
    /// The wire form of a change under the number that its REPLY will echo, and the device's own number for it; `None`: it
    /// has none, which a gateway takes from an old log only.
    pub fn numbered(request: RequestId, client_seq: Option<ClientSeq>, change: &Change) -> Self {
        Self {
            request: request.0,
            client_seq: client_seq.map_or(0, ClientSeq::get),
            kind: Some(change.into()),
        }
    }
}

impl From<&Change> for wire::command::Kind {
    fn from(change: &Change) -> Self {
        match change {
            Change::CreateGroup(new) => Self::CreateGroup(wire::CreateGroup {
                conversation: bytes(&new.conversation),
                title: new.title.clone(),
                topic: new.topic.clone(),
                open: new.open,
                history_from_start: new.history_from_start,
                invite: names(&new.invite),
            }),
            Change::SetGroup {
                conversation,
                title,
                topic,
            } => Self::SetGroup(wire::SetGroup {
                conversation: bytes(conversation),
                title: title.clone(),
                topic: topic.clone(),
            }),
            Change::Invite {
                conversation,
                users,
            } => Self::Invite(wire::Invite {
                conversation: bytes(conversation),
                users: names(users),
            }),
            Change::Join(conversation) => Self::Join(reference(conversation)),
            Change::Leave(conversation) => Self::Leave(reference(conversation)),
            Change::Remove(conversation, user) => Self::Remove(wire::MemberRef {
                conversation: bytes(conversation),
                user: user.to_string(),
            }),
            Change::SetRole(conversation, user, role) => Self::SetRole(wire::SetRole {
                conversation: bytes(conversation),
                user: user.to_string(),
                role: role.to_wire(),
            }),
            Change::SetTimer(conversation, keep_ms) => Self::SetTimer(wire::SetTimer {
                conversation: bytes(conversation),
                keep_ms: *keep_ms,
            }),
            Change::Edit {
                conversation,
                seq,
                content,
            } => edit(conversation, *seq, content),
            Change::Delete(conversation, seq) => Self::Delete(wire::MessageRef {
                conversation: bytes(conversation),
                seq: seq.get(),
            }),
            Change::React {
                conversation,
                seq,
                emoji,
                on,
            } => react(conversation, *seq, emoji, *on),
            Change::RenameDevice(device, label) => Self::RenameDevice(wire::RenameDevice {
                device: device.get(),
                label: label.clone(),
            }),
            Change::RevokeDevice(device) => Self::RevokeDevice(wire::DeviceRef {
                device: device.get(),
            }),
            Change::Block(user, on) => Self::Block(wire::Block {
                user: user.to_string(),
                on: *on,
            }),
            Change::Report {
                conversation,
                seq,
                reason,
            } => Self::Report(wire::Report {
                conversation: bytes(conversation),
                seq: seq.map_or(0, Seq::get),
                reason: reason.clone(),
            }),
            Change::SetPrivacy(privacy) => Self::SetPrivacy((*privacy).into()),
        }
    }
}

fn edit(conversation: &ConversationId, seq: Seq, content: &Content) -> wire::command::Kind {
    wire::command::Kind::Edit(wire::Edit {
        conversation: bytes(conversation),
        seq: seq.get(),
        content: Some(content.into()),
    })
}

fn react(conversation: &ConversationId, seq: Seq, emoji: &str, on: bool) -> wire::command::Kind {
    wire::command::Kind::React(wire::React {
        conversation: bytes(conversation),
        seq: seq.get(),
        emoji: emoji.to_owned(),
        on,
    })
}

impl From<Privacy> for wire::Privacy {
    fn from(privacy: Privacy) -> Self {
        Self {
            hide_read: privacy.hide_read,
            hide_typing: privacy.hide_typing,
            hide_presence: privacy.hide_presence,
            hide_last_seen: privacy.hide_last_seen,
        }
    }
}
