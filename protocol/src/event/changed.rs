//! News of a message after it was sent, and invitations: the events beside messages and receipts.

use bytes::Bytes;

use super::Message;
use super::content::{Content, Gone};
use super::convert::{conversation, user};
use crate::id::{ChangeNumber, ConversationId, Seq, TimestampMs, UserId};
use crate::limits::EMOJI_BYTES_MAX;
use crate::violation::Violation;
use crate::wire;

/// Something happened to a message after it was sent. Applies when `version` is above what a device has of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Where.
    pub conversation: ConversationId,
    /// To which message.
    pub seq: Seq,
    /// The message's version after it, from 1.
    pub version: u32,
    /// Who did it; `None`: the gateway, because the message's time was over.
    pub by: Option<UserId>,
    /// When the log took it.
    pub at: TimestampMs,
    /// What.
    pub kind: ChangedKind,
}

/// What happened to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangedKind {
    /// It says this now.
    Edited(Content),
    /// It says nothing any more.
    Gone(Gone),
    /// A sign of `by` came or went.
    Reacted {
        /// 1 to [`EMOJI_BYTES_MAX`] bytes.
        emoji: String,
        /// Whether it is there now.
        on: bool,
    },
}

/// Somebody wants the user in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Which group.
    pub conversation: ConversationId,
    /// Who asks.
    pub by: UserId,
    /// The group's title.
    pub title: String,
    /// When the log took it.
    pub at: TimestampMs,
}

/// News of a group that is too large to have its messages in every inbox: not numbered, not acked, not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A new message, and the last change of the group before it. A gap in front of it is read from the history.
    Message(Message, ChangeNumber),
    /// Something happened to a message; the number of this change in the group.
    Changed(Box<Changed>, ChangeNumber),
    /// Notices were dropped: ask for the heads of all such groups.
    Check,
}

impl TryFrom<wire::Notice> for Notice {
    type Error = Violation;

    fn try_from(notice: wire::Notice) -> Result<Self, Violation> {
        const RULE: &str = "QP-NOTICE-1";
        let changes = ChangeNumber(notice.changes);
        match notice.kind {
            Some(wire::notice::Kind::Message(message)) => {
                Ok(Self::Message(message.try_into()?, changes))
            }
            Some(wire::notice::Kind::Changed(_)) if changes == ChangeNumber::START => Err(
                Violation::new(RULE, "a change of a pulled group has a number"),
            ),
            Some(wire::notice::Kind::Changed(changed)) => {
                Ok(Self::Changed(Box::new(changed.try_into()?), changes))
            }
            Some(wire::notice::Kind::Check(_)) => Ok(Self::Check),
            None => Err(Violation::new(RULE, "a notice says what is new")),
        }
    }
}

impl From<&Notice> for wire::Notice {
    fn from(notice: &Notice) -> Self {
        let (kind, changes) = match notice {
            Notice::Message(message, changes) => {
                (wire::notice::Kind::Message(message.into()), *changes)
            }
            Notice::Changed(changed, changes) => {
                (wire::notice::Kind::Changed((&**changed).into()), *changes)
            }
            Notice::Check => (
                wire::notice::Kind::Check(wire::Check {}),
                ChangeNumber::START,
            ),
        };
        Self {
            kind: Some(kind),
            changes: changes.0,
        }
    }
}

impl TryFrom<wire::Changed> for Changed {
    type Error = Violation;

    fn try_from(changed: wire::Changed) -> Result<Self, Violation> {
        const RULE: &str = "QP-EVENT-8";
        let kind = match changed.kind {
            Some(wire::changed::Kind::Edited(content)) => ChangedKind::Edited(
                Content::try_from(content).map_err(|bad| Violation::new(RULE, bad.reason))?,
            ),
            Some(wire::changed::Kind::Deleted(gone)) => ChangedKind::Gone(gone.into()),
            Some(wire::changed::Kind::Reacted(reacted))
                if (1..=EMOJI_BYTES_MAX).contains(&reacted.emoji.len()) =>
            {
                ChangedKind::Reacted {
                    emoji: reacted.emoji,
                    on: reacted.on,
                }
            }
            Some(wire::changed::Kind::Reacted(_)) | None => {
                return Err(Violation::new(RULE, "a change says what changed"));
            }
        };
        if changed.version == 0 {
            return Err(Violation::new(RULE, "a changed message has a version"));
        }
        Ok(Self {
            conversation: conversation(&changed.conversation, RULE)?,
            seq: Seq::new(changed.seq).map_err(|_| Violation::new(RULE, "a seq is not 0"))?,
            version: changed.version,
            by: match changed.by.as_str() {
                "" => None,
                name => Some(user(name, RULE)?),
            },
            at: TimestampMs(changed.at_ms),
            kind,
        })
    }
}

impl From<&Changed> for wire::Changed {
    fn from(changed: &Changed) -> Self {
        let kind = match &changed.kind {
            ChangedKind::Edited(content) => wire::changed::Kind::Edited(content.into()),
            ChangedKind::Gone(gone) => wire::changed::Kind::Deleted((*gone).into()),
            ChangedKind::Reacted { emoji, on } => wire::changed::Kind::Reacted(wire::Reacted {
                emoji: emoji.clone(),
                on: *on,
            }),
        };
        Self {
            conversation: Bytes::copy_from_slice(changed.conversation.as_bytes()),
            seq: changed.seq.get(),
            version: changed.version,
            by: changed.by.map(|by| by.to_string()).unwrap_or_default(),
            at_ms: changed.at.0,
            kind: Some(kind),
        }
    }
}

impl TryFrom<wire::Invitation> for Invitation {
    type Error = Violation;

    fn try_from(invitation: wire::Invitation) -> Result<Self, Violation> {
        const RULE: &str = "QP-EVENT-9";
        Ok(Self {
            conversation: conversation(&invitation.conversation, RULE)?,
            by: user(&invitation.by, RULE)?,
            title: invitation.title,
            at: TimestampMs(invitation.at_ms),
        })
    }
}

impl From<&Invitation> for wire::Invitation {
    fn from(invitation: &Invitation) -> Self {
        Self {
            conversation: Bytes::copy_from_slice(invitation.conversation.as_bytes()),
            by: invitation.by.to_string(),
            title: invitation.title.clone(),
            at_ms: invitation.at.0,
        }
    }
}
