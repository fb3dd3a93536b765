//! What a message says: a text, a text with something to it, a note of the gateway, or nothing any more.

use bytes::Bytes;

use super::convert::user;
use crate::error::RejectCode;
use crate::id::{Seq, TimestampMs, UserId};
use crate::limits::{
    ATTACHMENTS_MAX, CONTENT_BYTES_MAX, FILE_NAME_BYTES_MAX, MEDIA_TYPE_BYTES_MAX, MENTIONS_MAX,
    TEXT_BYTES_MAX, THUMBNAIL_BYTES_MAX,
};
use crate::violation::Violation;
use crate::wire;

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// 1 to [`TEXT_BYTES_MAX`] bytes.
    Text(String),
    /// A text with something to it; at most [`CONTENT_BYTES_MAX`] bytes on the wire.
    Rich(Box<Rich>),
    /// Something that happened in the conversation; only the gateway writes it.
    Note(Box<Note>),
    /// Nothing any more; only the gateway writes it.
    Gone(Gone),
}

/// A text with something to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rich {
    /// Not empty without an attachment.
    pub text: String,
    /// An earlier message of the same conversation.
    pub reply_to: Option<Seq>,
    /// Whom it speaks to, at most [`MENTIONS_MAX`].
    pub mentions: Vec<UserId>,
    /// Where the words come from.
    pub forwarded: Option<Forwarded>,
    /// Files, at most [`ATTACHMENTS_MAX`].
    pub attachments: Vec<Attachment>,
}

/// Where forwarded words come from. As the forwarding client says it; the gateway does not check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// Who wrote them.
    pub from: UserId,
    /// When.
    pub sent_at: TimestampMs,
}

/// A file that was uploaded to the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// BLAKE3 of the file.
    pub hash: [u8; 32],
    /// Bytes, from 1.
    pub size: u64,
    /// For example `image/jpeg`; 1 to [`MEDIA_TYPE_BYTES_MAX`] bytes.
    pub media_type: String,
    /// For a person, never a path; at most [`FILE_NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Pixels; 0: not known or none.
    pub width: u32,
    /// Pixels; 0: not known or none.
    pub height: u32,
    /// Milliseconds; 0: not known or none.
    pub duration_ms: u32,
    /// A small JPEG made by the sender; at most [`THUMBNAIL_BYTES_MAX`] bytes.
    pub thumbnail: Bytes,
}

/// What happened in a conversation beside the messages of its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The group was made, with this title.
    Created(String),
    /// The sender of the note joined.
    Joined,
    /// The sender of the note left.
    Left,
    /// The sender of the note invited this user.
    Invited(UserId),
    /// The sender of the note removed this user.
    Removed(UserId),
    /// The sender of the note gave this user this role.
    Role(UserId, Role),
    /// The group has this title now.
    Title(String),
    /// The group has this topic now.
    Topic(String),
    /// New messages are kept for so many milliseconds now; 0: for good.
    Timer(u64),
    /// The group has become too large for inboxes: this is its last event there, and what follows comes as notices.
    Pulled,
}

/// What a member of a group may do. Ascending in power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads and writes.
    Member,
    /// Invites, removes members, sets title, topic and timer, deletes messages.
    Admin,
    /// All of it, and gives roles; there is one.
    Owner,
}

/// Why a message has no content any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// Somebody deleted it.
    Deleted,
    /// Its time was over.
    Expired,
}

/// What happened to a message after it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MessageState {
    /// Changes so far.
    pub version: u32,
    /// When its content was last edited.
    pub edited_at: Option<TimestampMs>,
    /// When it goes.
    pub expires_at: Option<TimestampMs>,
    /// Ascending by user, then emoji; empty in an EVENT, which has to stay small.
    pub reactions: Vec<Reaction>,
    /// Contents before this one; at most [`EDITS_MAX`](crate::limits::EDITS_MAX).
    pub edits: u32,
}

/// One user's sign on a message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reaction {
    /// Whose.
    pub user: UserId,
    /// 1 to [`EMOJI_BYTES_MAX`](crate::limits::EMOJI_BYTES_MAX) bytes.
    pub emoji: String,
}

impl Content {
    /// About what it takes, in bytes: the lengths of its texts and files' descriptions. For limits and buffers.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Rich(rich) => {
                let files = rich.attachments.iter().map(Attachment::bytes);
                rich.text.len() + rich.mentions.len() * 33 + files.sum::<usize>() + 64
            }
            Self::Note(note) => match &**note {
                Note::Created(text) | Note::Title(text) | Note::Topic(text) => text.len(),
                Note::Joined | Note::Left | Note::Timer(_) | Note::Pulled => 8,
                Note::Invited(_) | Note::Removed(_) | Note::Role(..) => 40,
            },
            Self::Gone(_) => 8,
        }
    }

    /// The words of it; empty where there are none.
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Rich(rich) => &rich.text,
            Self::Note(_) | Self::Gone(_) => "",
        }
    }

    /// The files of it.
    pub fn attachments(&self) -> &[Attachment] {
        match self {
            Self::Rich(rich) => &rich.attachments,
            Self::Text(_) | Self::Note(_) | Self::Gone(_) => &[],
        }
    }
}

impl MessageState {
    /// About what it takes, in bytes.
    pub fn bytes(&self) -> usize {
        let reactions = self.reactions.iter();
        16 + reactions.map(|r| r.emoji.len() + 36).sum::<usize>()
    }

    /// Whether it says anything.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Attachment {
    fn bytes(&self) -> usize {
        self.media_type.len() + self.name.len() + self.thumbnail.len() + 72
    }
}

// ---------------------------------------------------------------- from the wire

/// Why a content is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadContent {
    /// The code of the rejection.
    pub code: RejectCode,
    /// For a person; names the rule.
    pub reason: &'static str,
}

const fn bad(reason: &'static str) -> BadContent {
    BadContent {
        code: RejectCode::Invalid,
        reason,
    }
}

const TOO_LONG: BadContent = BadContent {
    code: RejectCode::TextTooLong,
    reason: "QP-SEND-3: the text is longer than Limits.text_bytes",
};

impl TryFrom<wire::Content> for Content {
    type Error = BadContent;

    fn try_from(content: wire::Content) -> Result<Self, BadContent> {
        match content.kind {
            Some(wire::content::Kind::Text(text)) if text.len() > TEXT_BYTES_MAX => Err(TOO_LONG),
            Some(wire::content::Kind::Text(text)) if !text.is_empty() => Ok(Self::Text(text)),
            Some(wire::content::Kind::Text(_)) | None => {
                Err(bad("QP-SEND-3: the content is a text of at least one byte"))
            }
            Some(wire::content::Kind::Rich(rich)) => {
                let rich = Rich::try_from(rich)?;
                let content = Self::Rich(Box::new(rich));
                if content.bytes() > CONTENT_BYTES_MAX {
                    return Err(bad("QP-SEND-8: the content is larger than 24 KiB"));
                }
                Ok(content)
            }
            Some(wire::content::Kind::Note(note)) => {
                let note = Note::try_from(note).map_err(|_| bad("QP-NOTE-1: a note says what"))?;
                Ok(Self::Note(Box::new(note)))
            }
            Some(wire::content::Kind::Gone(gone)) => Ok(Self::Gone(gone.into())),
        }
    }
}

impl Content {
    /// Takes the content of a SEND or an edit: one that a client may write.
    pub fn from_client(content: Option<wire::Content>) -> Result<Self, BadContent> {
        match Self::try_from(content.unwrap_or_default())? {
            Self::Note(_) | Self::Gone(_) => {
                Err(bad("QP-SEND-3: only the gateway writes such a content"))
            }
            content @ (Self::Text(_) | Self::Rich(_)) => Ok(content),
        }
    }
}

impl TryFrom<wire::Rich> for Rich {
    type Error = BadContent;

    fn try_from(rich: wire::Rich) -> Result<Self, BadContent> {
        if rich.text.len() > TEXT_BYTES_MAX {
            return Err(TOO_LONG);
        }
        if rich.text.is_empty() && rich.attachments.is_empty() {
            return Err(bad("QP-SEND-8: a content has a text or a file"));
        }
        if rich.mentions.len() > MENTIONS_MAX || rich.attachments.len() > ATTACHMENTS_MAX {
            return Err(bad("QP-SEND-8: too many mentions or files in one message"));
        }
        let mentions = rich.mentions.iter().map(|name| UserId::new(name));
        let attachments = rich.attachments.into_iter().map(Attachment::try_from);
        Ok(Self {
            text: rich.text,
            reply_to: Seq::new(rich.reply_to).ok(),
            mentions: mentions
                .collect::<Result<_, _>>()
                .map_err(|_| bad("QP-SEND-8: a mention is a user id"))?,
            forwarded: rich.forwarded.map(Forwarded::try_from).transpose()?,
            attachments: attachments.collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<wire::Forwarded> for Forwarded {
    type Error = BadContent;

    fn try_from(forwarded: wire::Forwarded) -> Result<Self, BadContent> {
        Ok(Self {
            from: UserId::new(&forwarded.from)
                .map_err(|_| bad("QP-SEND-8: forwarded words are from a user id"))?,
            sent_at: TimestampMs(forwarded.sent_at_ms),
        })
    }
}

impl TryFrom<wire::Attachment> for Attachment {
    type Error = BadContent;

    fn try_from(file: wire::Attachment) -> Result<Self, BadContent> {
        let hash = <[u8; 32]>::try_from(&file.hash[..]);
        let hash = hash.map_err(|_| bad("QP-SEND-8: the hash of a file has 32 bytes"))?;
        let in_range = file.size > 0
            && (1..=MEDIA_TYPE_BYTES_MAX).contains(&file.media_type.len())
            && file.name.len() <= FILE_NAME_BYTES_MAX
            && file.thumbnail.len() <= THUMBNAIL_BYTES_MAX;
        if !in_range {
            return Err(bad(
                "QP-SEND-8: a file's size, type, name or thumbnail is out of range",
            ));
        }
        Ok(Self {
            hash,
            size: file.size,
            media_type: file.media_type,
            name: file.name,
            width: file.width,
            height: file.height,
            duration_ms: file.duration_ms,
            thumbnail: file.thumbnail,
        })
    }
}

impl TryFrom<wire::Note> for Note {
    type Error = Violation;

    fn try_from(note: wire::Note) -> Result<Self, Violation> {
        const RULE: &str = "QP-NOTE-1";
        Ok(match note.kind {
            Some(wire::note::Kind::Created(created)) => Self::Created(created.title),
            Some(wire::note::Kind::Joined(_)) => Self::Joined,
            Some(wire::note::Kind::Left(_)) => Self::Left,
            Some(wire::note::Kind::Invited(name)) => Self::Invited(user(&name, RULE)?),
            Some(wire::note::Kind::Removed(name)) => Self::Removed(user(&name, RULE)?),
            Some(wire::note::Kind::Role(role)) => {
                let known = Role::from_wire(role.role);
                let known =
                    known.ok_or_else(|| Violation::new(RULE, "a role is one of this version"))?;
                Self::Role(user(&role.user, RULE)?, known)
            }
            Some(wire::note::Kind::Title(title)) => Self::Title(title),
            Some(wire::note::Kind::Topic(topic)) => Self::Topic(topic),
            Some(wire::note::Kind::TimerMs(keep)) => Self::Timer(keep),
            Some(wire::note::Kind::Pulled(_)) => Self::Pulled,
            None => return Err(Violation::new(RULE, "a note says what happened")),
        })
    }
}

impl From<wire::Gone> for Gone {
    fn from(gone: wire::Gone) -> Self {
        if gone.expired {
            Self::Expired
        } else {
            Self::Deleted
        }
    }
}

impl Role {
    /// Reads a role; `None`: one that this version does not know.
    pub fn from_wire(role: i32) -> Option<Self> {
        match wire::Role::try_from(role).ok()? {
            wire::Role::Unspecified => None,
            wire::Role::Member => Some(Self::Member),
            wire::Role::Admin => Some(Self::Admin),
            wire::Role::Owner => Some(Self::Owner),
        }
    }

    /// The number on the wire and in rows.
    pub const fn to_wire(self) -> i32 {
        match self {
            Self::Member => wire::Role::Member as i32,
            Self::Admin => wire::Role::Admin as i32,
            Self::Owner => wire::Role::Owner as i32,
        }
    }
}

impl TryFrom<wire::MessageState> for MessageState {
    type Error = Violation;

    fn try_from(state: wire::MessageState) -> Result<Self, Violation> {
        let time = |ms| (ms != 0).then_some(TimestampMs(ms));
        let reactions = state.reactions.into_iter().map(|reaction| {
            Ok(Reaction {
                user: user(&reaction.user, "QP-EVENT-5")?,
                emoji: reaction.emoji,
            })
        });
        Ok(Self {
            version: state.version,
            edited_at: time(state.edited_at_ms),
            expires_at: time(state.expires_at_ms),
            reactions: reactions.collect::<Result<_, Violation>>()?,
            edits: state.edits,
        })
    }
}

// ---------------------------------------------------------------- to the wire

impl From<&Content> for wire::Content {
    fn from(content: &Content) -> Self {
        content.clone().into()
    }
}

impl From<Content> for wire::Content {
    fn from(content: Content) -> Self {
        let kind = match content {
            Content::Text(text) => wire::content::Kind::Text(text),
            Content::Rich(rich) => wire::content::Kind::Rich((*rich).into()),
            Content::Note(note) => wire::content::Kind::Note((&*note).into()),
            Content::Gone(gone) => wire::content::Kind::Gone(gone.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl From<Gone> for wire::Gone {
    fn from(gone: Gone) -> Self {
        Self {
            expired: gone == Gone::Expired,
        }
    }
}

impl From<Rich> for wire::Rich {
    fn from(rich: Rich) -> Self {
        Self {
            text: rich.text,
            reply_to: rich.reply_to.map_or(0, Seq::get),
            mentions: rich.mentions.iter().map(UserId::to_string).collect(),
            forwarded: rich.forwarded.map(|forwarded| wire::Forwarded {
                from: forwarded.from.to_string(),
                sent_at_ms: forwarded.sent_at.0,
            }),
            attachments: rich.attachments.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Attachment> for wire::Attachment {
    fn from(file: Attachment) -> Self {
        Self {
            hash: Bytes::copy_from_slice(&file.hash),
            size: file.size,
            media_type: file.media_type,
            name: file.name,
            width: file.width,
            height: file.height,
            duration_ms: file.duration_ms,
            thumbnail: file.thumbnail,
        }
    }
}

impl From<&Note> for wire::Note {
    fn from(note: &Note) -> Self {
        use wire::note::Kind;
        let kind = match note {
            Note::Created(title) => Kind::Created(wire::CreatedNote {
                title: title.clone(),
            }),
            Note::Joined => Kind::Joined(wire::Joined {}),
            Note::Left => Kind::Left(wire::Left {}),
            Note::Invited(user) => Kind::Invited(user.to_string()),
            Note::Removed(user) => Kind::Removed(user.to_string()),
            Note::Role(user, role) => Kind::Role(wire::RoleNote {
                user: user.to_string(),
                role: role.to_wire(),
            }),
            Note::Title(title) => Kind::Title(title.clone()),
            Note::Topic(topic) => Kind::Topic(topic.clone()),
            Note::Timer(keep) => Kind::TimerMs(*keep),
            Note::Pulled => Kind::Pulled(wire::Pulled {}),
        };
        Self { kind: Some(kind) }
    }
}

impl From<&MessageState> for wire::MessageState {
    fn from(state: &MessageState) -> Self {
        Self {
            version: state.version,
            edited_at_ms: state.edited_at.map_or(0, |at| at.0),
            expires_at_ms: state.expires_at.map_or(0, |at| at.0),
            reactions: state
                .reactions
                .iter()
                .map(|reaction| wire::Reaction {
                    user: reaction.user.to_string(),
                    emoji: reaction.emoji.clone(),
                })
                .collect(),
            edits: state.edits,
        }
    }
}
