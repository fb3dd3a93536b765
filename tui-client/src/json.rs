//! The lines of `--json`, as SCHEMA.md documents them. Fields are only ever added.

mod lists;
mod news;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use quipu_protocol::event::{Attachment, Content, Gone, Message, Note, Role};
use quipu_protocol::id::{ConversationId, MessageId, Seq, TimestampMs, UserId};
use serde::Serialize;

pub(crate) use self::lists::{
    ConversationLine, DeviceLine, MemberLine, PresenceLine, SettingsLine, VersionLine,
};
pub(crate) use self::news::{ChangedLine, InvitedLine, PresentLine, TypingLine};

/// A message, as `listen --json` and `history --json` print it. What a message does not have is left out.
#[derive(Debug, Serialize)]
pub(crate) struct MessageLine<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    conversation: String,
    seq: u64,
    id: String,
    from: &'a str,
    text: &'a str,
    sent_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mentions: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forwarded: Option<ForwardedPart>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<AttachmentPart<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<NotePart<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edited_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reactions: Vec<ReactionPart<'a>>,
}

/// Where forwarded words come from.
#[derive(Debug, Serialize)]
struct ForwardedPart {
    from: String,
    sent_at: String,
}

/// A file of a message.
#[derive(Debug, Serialize)]
struct AttachmentPart<'a> {
    hash: String,
    size: u64,
    media_type: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    width: u32,
    #[serde(skip_serializing_if = "is_zero")]
    height: u32,
    #[serde(skip_serializing_if = "is_zero")]
    duration_ms: u32,
}

/// Something that happened in the conversation; `from` of the message did it.
#[derive(Debug, Default, Serialize)]
struct NotePart<'a> {
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_ms: Option<u64>,
}

/// A sign of a user.
#[derive(Debug, Serialize)]
struct ReactionPart<'a> {
    user: &'a str,
    emoji: &'a str,
}

impl<'a> MessageLine<'a> {
    /// The line of a message.
    pub(crate) fn new(message: &'a Message) -> Self {
        let (rich, note, deleted) = match &message.content {
            Content::Text(_) => (None, None, None),
            Content::Rich(rich) => (Some(&**rich), None, None),
            Content::Note(note) => (None, Some(NotePart::new(note)), None),
            Content::Gone(gone) => (None, None, Some(gone_word(*gone))),
        };
        let state = message.state.as_deref();
        let reactions = state.map_or(&[][..], |state| &state.reactions);
        Self {
            kind: if note.is_some() { "note" } else { "message" },
            conversation: message.conversation.to_string(),
            seq: message.seq.get(),
            id: message.id.to_string(),
            from: message.from.as_str(),
            text: message.content.text(),
            sent_at: rfc3339(message.sent_at),
            reply_to: rich.and_then(|rich| rich.reply_to).map(Seq::get),
            mentions: rich.map_or_else(Vec::new, |rich| {
                rich.mentions.iter().map(UserId::as_str).collect()
            }),
            forwarded: rich
                .and_then(|rich| rich.forwarded.as_ref())
                .map(|forwarded| ForwardedPart {
                    from: forwarded.from.to_string(),
                    sent_at: rfc3339(forwarded.sent_at),
                }),
            attachments: message
                .content
                .attachments()
                .iter()
                .map(AttachmentPart::new)
                .collect(),
            note,
            deleted,
            edited_at: state.and_then(|state| state.edited_at).map(rfc3339),
            expires_at: state.and_then(|state| state.expires_at).map(rfc3339),
            reactions: reactions
                .iter()
                .map(|reaction| ReactionPart {
                    user: reaction.user.as_str(),
                    emoji: &reaction.emoji,
                })
                .collect(),
        }
    }
}

impl<'a> AttachmentPart<'a> {
    fn new(file: &'a Attachment) -> Self {
        Self {
            hash: file.hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            size: file.size,
            media_type: &file.media_type,
            name: &file.name,
            width: file.width,
            height: file.height,
            duration_ms: file.duration_ms,
        }
    }
}

impl<'a> NotePart<'a> {
    fn new(note: &'a Note) -> Self {
        let part = |what| Self {
            what,
            ..Self::default()
        };
        let with = |what, user: &UserId| Self {
            user: Some(user.to_string()),
            ..part(what)
        };
        match note {
            Note::Created(title) => Self {
                title: Some(title),
                ..part("created")
            },
            Note::Joined => part("joined"),
            Note::Left => part("left"),
            Note::Invited(user) => with("invited", user),
            Note::Removed(user) => with("removed", user),
            Note::Role(user, role) => Self {
                role: Some(role_word(*role)),
                ..with("role", user)
            },
            Note::Title(title) => Self {
                title: Some(title),
                ..part("title")
            },
            Note::Topic(topic) => Self {
                topic: Some(topic),
                ..part("topic")
            },
            Note::Timer(keep_ms) => Self {
                keep_ms: Some(*keep_ms),
                ..part("timer")
            },
            Note::Pulled => part("pulled"),
        }
    }
}

/// A message that the gateway has for good, as `send --json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct SentLine {
    conversation: String,
    seq: u64,
    id: String,
}

impl SentLine {
    /// The line of an acked message.
    pub(crate) fn new(conversation: ConversationId, seq: Seq, id: MessageId) -> Self {
        Self {
            conversation: conversation.to_string(),
            seq: seq.get(),
            id: id.to_string(),
        }
    }
}

/// A file that is where it should be, as `upload --json` and `download --json` print it.
#[derive(Debug, Serialize)]
pub(crate) struct FileLine<'a> {
    pub(crate) conversation: String,
    pub(crate) hash: String,
    pub(crate) size: u64,
    #[serde(rename = "type")]
    pub(crate) media_type: &'a str,
    pub(crate) name: &'a str,
    pub(crate) moved: u64,
    /// Of the message that an upload sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
}

/// How far a transfer is, as `--json --progress` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct ProgressLine {
    pub(crate) done: u64,
    pub(crate) total: u64,
}

/// A change that the gateway has carried out.
#[derive(Debug, Serialize)]
pub(crate) struct DoneLine {
    done: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
}

impl DoneLine {
    /// The line of a command, by its name.
    pub(crate) fn new(
        done: &'static str,
        conversation: Option<ConversationId>,
        seq: Option<Seq>,
    ) -> Self {
        Self {
            done,
            conversation: conversation.map(|id| id.to_string()),
            seq: seq.map(Seq::get),
        }
    }
}

/// What a role is called.
pub(crate) fn role_word(role: Role) -> &'static str {
    match role {
        Role::Member => "member",
        Role::Admin => "admin",
        Role::Owner => "owner",
    }
}

fn gone_word(gone: Gone) -> &'static str {
    match gone {
        Gone::Deleted => "deleted",
        Gone::Expired => "expired",
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// UTC with milliseconds: `2026-11-03T12:00:00.000Z`. A time that no calendar knows becomes the last one it does.
pub(crate) fn rfc3339(at: TimestampMs) -> String {
    let ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    let at = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
    at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}
