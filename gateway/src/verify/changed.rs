//! Compares what inboxes say has happened to messages with what the messages say of it.

use std::collections::BTreeMap;

use quipu_core::row::InboxKind;
use quipu_protocol::event::{ChangedKind, Content, Message};

/// How far a message has come, as somebody knows it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Known {
    version: u32,
    gone: bool,
}

/// The changed messages of one conversation, by seq.
#[derive(Debug, Default)]
pub(super) struct Changes {
    told: BTreeMap<u64, Known>,
    kept: BTreeMap<u64, Known>,
    /// Gone messages of which something is left.
    leftover: Vec<u64>,
}

impl Changes {
    /// An inbox says that something happened; whether it keeps words of it, which it must not.
    pub(super) fn tell(&mut self, kind: &InboxKind) -> bool {
        let InboxKind::Changed(changed) = kind else {
            return false;
        };
        let known = self.told.entry(changed.seq.get()).or_default();
        known.version = known.version.max(changed.version);
        match &changed.kind {
            ChangedKind::Gone(_) => known.gone = true,
            ChangedKind::Edited(content) => return has_words(content),
            ChangedKind::Reacted { .. } => {}
        }
        false
    }

    /// The history has a message.
    pub(super) fn keep(&mut self, message: &Message) {
        let seq = message.seq.get();
        let gone = matches!(message.content, Content::Gone(_));
        let version = message.state.as_ref().map_or(0, |state| state.version);
        if version > 0 || gone {
            self.kept.insert(seq, Known { version, gone });
        }
        let state = message.state.iter();
        let mut left = state.map(|state| !state.reactions.is_empty() || state.edits > 0);
        if gone && left.any(|left| left) {
            self.leftover.push(seq);
        }
    }

    /// What does not agree, as the ends of sentences.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let told = self.told.iter().filter_map(|(seq, told)| {
            let kept = self.kept.get(seq).copied().unwrap_or_default();
            if told.gone && !kept.gone {
                return Some(format!(
                    "message {seq}, which was deleted and is still there"
                ));
            }
            (told.version > kept.version).then(|| {
                format!(
                    "message {seq} in version {}, and inboxes know version {}",
                    kept.version, told.version
                )
            })
        });
        let leftover = self.leftover.iter();
        told.chain(leftover.map(|seq| format!("message {seq}, which is gone and not empty")))
    }
}

fn has_words(content: &Content) -> bool {
    !content.text().is_empty() || !content.attachments().is_empty()
}
