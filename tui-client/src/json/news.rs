//! The lines of `listen --json` beside messages: what happened to messages, and invitations.

use quipu_protocol::event::{Changed, ChangedKind, Gone, Invitation};
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
