//! The lines of what the gateway is asked for: conversations, members, versions, devices, settings.

use quipu_protocol::event::Content;
use quipu_protocol::id::{DeviceId, Seq, UserId};
use quipu_protocol::query::{ConversationEntry, DeviceEntry, MemberEntry, PresenceEntry, Settings};
use serde::Serialize;

use super::{MessageLine, rfc3339, role_word};

/// A conversation, as `conversations --json` and `group info --json` print it.
#[derive(Debug, Serialize)]
pub(crate) struct ConversationLine<'a> {
    conversation: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invited_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    open: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history_from_start: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<u64>,
    first: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<u64>,
    unread: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_read: Option<u64>,
    activity: String,
    keep_ms: u64,
    blocked: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<MessageLine<'a>>,
}

impl<'a> ConversationLine<'a> {
    /// The line of a conversation.
    pub(crate) fn new(entry: &'a ConversationEntry) -> Self {
        let group = entry.group.as_ref();
        Self {
            conversation: entry.conversation.to_string(),
            peer: entry.peer.map(|peer| peer.to_string()),
            title: group.map(|group| group.title.as_str()),
            topic: group.map(|group| group.topic.as_str()),
            role: group.and_then(|group| group.role).map(role_word),
            invited_by: group
                .and_then(|group| group.invited_by)
                .map(|by| by.to_string()),
            members: group.map(|group| group.members),
            open: group.map(|group| group.open),
            history_from_start: group.map(|group| group.history_from_start),
            head: entry.head.map(Seq::get),
            first: entry.first.get(),
            read: entry.read.map(Seq::get),
            unread: entry.unread,
            peer_read: entry.peer_read.map(Seq::get),
            activity: rfc3339(entry.activity),
            keep_ms: entry.keep_ms,
            blocked: entry.blocked,
            last: entry.last.as_ref().map(MessageLine::new),
        }
    }
}

/// A member of a group, or somebody who is invited.
#[derive(Debug, Serialize)]
pub(crate) struct MemberLine {
    user: String,
    role: &'static str,
    invited: bool,
}

impl MemberLine {
    /// The line of a member.
    pub(crate) fn new(member: &MemberEntry) -> Self {
        Self {
            user: member.user.to_string(),
            role: role_word(member.role),
            invited: member.invited,
        }
    }
}

/// What a message said.
#[derive(Debug, Serialize)]
pub(crate) struct VersionLine<'a> {
    version: u32,
    text: &'a str,
}

impl<'a> VersionLine<'a> {
    /// The line of a version.
    pub(crate) fn new(version: u32, content: &'a Content) -> Self {
        Self {
            version,
            text: content.text(),
        }
    }
}

/// A device of the user.
#[derive(Debug, Serialize)]
pub(crate) struct DeviceLine<'a> {
    device: String,
    label: &'a str,
    added_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen_at: Option<String>,
    connected: bool,
    this: bool,
}

impl<'a> DeviceLine<'a> {
    /// The line of a device; `this` is the one that asks.
    pub(crate) fn new(entry: &'a DeviceEntry, this: DeviceId) -> Self {
        Self {
            device: entry.device.to_string(),
            label: &entry.label,
            added_at: rfc3339(entry.added_at),
            seen_at: entry.seen_at.map(rfc3339),
            connected: entry.connected,
            this: entry.device == this,
        }
    }
}

/// Whether a user is here.
#[derive(Debug, Serialize)]
pub(crate) struct PresenceLine<'a> {
    user: &'a str,
    known: bool,
    here: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen_at: Option<String>,
}

impl<'a> PresenceLine<'a> {
    /// The line of a user; `entry`: what the gateway tells, if it tells anything.
    pub(crate) fn new(user: &'a UserId, entry: Option<&PresenceEntry>) -> Self {
        Self {
            user: user.as_str(),
            known: entry.is_some(),
            here: entry.is_some_and(|entry| entry.here),
            seen_at: entry.and_then(|entry| entry.seen_at).map(rfc3339),
        }
    }

    /// The same for a person.
    pub(crate) fn words(&self) -> String {
        match (&self.seen_at, self.here) {
            (_, true) => "here".to_owned(),
            (Some(at), false) => format!("last seen {at}"),
            (None, false) => "not known, or not for you to know".to_owned(),
        }
    }
}

/// What the user has set.
#[derive(Debug, Serialize)]
pub(crate) struct SettingsLine<'a> {
    hide_read: bool,
    hide_typing: bool,
    hide_presence: bool,
    hide_last_seen: bool,
    blocked: Vec<&'a str>,
}

impl<'a> SettingsLine<'a> {
    /// The line of the settings.
    pub(crate) fn new(settings: &'a Settings) -> Self {
        Self {
            hide_read: settings.privacy.hide_read,
            hide_typing: settings.privacy.hide_typing,
            hide_presence: settings.privacy.hide_presence,
            hide_last_seen: settings.privacy.hide_last_seen,
            blocked: settings.blocked.iter().map(UserId::as_str).collect(),
        }
    }
}
