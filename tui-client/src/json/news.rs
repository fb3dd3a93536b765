//! The lines of `listen --json` beside messages: what happened to messages, invitations, who types and who is here.

use quipu_protocol::event::{Changed, ChangedKind, Gone, Invitation};
use quipu_protocol::id::{ConversationId, UserId};
use quipu_protocol::query::PresenceEntry;
use serde::Serialize;

use super::rfc3339;

/// Something happened to a message after it was sent.
#[derive(Debug, Serialize)]
pub(crate) struct ChangedLine<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    conversation: String,
    seq: u64,
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    emoji: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on: Option<bool>,
}

impl<'a> ChangedLine<'a> {
    /// The line of a change.
    pub(crate) fn new(changed: &'a Changed) -> Self {
        let (kind, text, emoji, on) = match &changed.kind {
            ChangedKind::Edited(content) => ("edited", Some(content.text()), None, None),
            ChangedKind::Gone(Gone::Deleted) => ("deleted", None, None, None),
            ChangedKind::Gone(Gone::Expired) => ("expired", None, None, None),
            ChangedKind::Reacted { emoji, on } => {
                ("reacted", None, Some(emoji.as_str()), Some(*on))
            }
        };
        Self {
            kind,
            conversation: changed.conversation.to_string(),
            seq: changed.seq.get(),
            version: changed.version,
            by: changed.by.map(|by| by.to_string()),
            at: rfc3339(changed.at),
            text,
            emoji,
            on,
        }
    }
}

/// Somebody wants the user in a group.
#[derive(Debug, Serialize)]
pub(crate) struct InvitedLine<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    conversation: String,
    by: String,
    title: &'a str,
    at: String,
}

impl<'a> InvitedLine<'a> {
    /// The line of an invitation.
    pub(crate) fn new(invitation: &'a Invitation) -> Self {
        Self {
            kind: "invited",
            conversation: invitation.conversation.to_string(),
            by: invitation.by.to_string(),
            title: &invitation.title,
            at: rfc3339(invitation.at),
        }
    }
}

/// Somebody writes, or no longer does.
#[derive(Debug, Serialize)]
pub(crate) struct TypingLine {
    #[serde(rename = "type")]
    kind: &'static str,
    conversation: String,
    user: String,
    on: bool,
}

impl TypingLine {
    /// The line of somebody who writes (`on`) or stopped.
    pub(crate) fn new(conversation: &ConversationId, user: &UserId, on: bool) -> Self {
        Self {
            kind: "typing",
            conversation: conversation.to_string(),
            user: user.to_string(),
            on,
        }
    }
}

/// Something else is known of whether somebody is here.
#[derive(Debug, Serialize)]
pub(crate) struct PresentLine {
    #[serde(rename = "type")]
    kind: &'static str,
    user: String,
    here: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen_at: Option<String>,
}

impl PresentLine {
    /// The line of a user.
    pub(crate) fn new(entry: &PresenceEntry) -> Self {
        Self {
            kind: "presence",
            user: entry.user.to_string(),
            here: entry.here,
            seen_at: entry.seen_at.map(rfc3339),
        }
    }
}
