//! Changes of messages and of the own account, as text. Entries beside those of shard.rs:
//!
//! `alice/1 edits SEQ in alice+bob [replying N] [with file N]: TEXT` · `alice/1 deletes SEQ in alice+bob` ·
//! `alice/1 puts SIGN on SEQ in alice+bob` · `alice/1 takes SIGN off SEQ in alice+bob` · `alice/1 keeps MS in alice+bob` ·
//! `alice/1 renames DEVICE: LABEL` · `alice/1 revokes DEVICE` · `alice/1 blocks bob` · `alice/1 unblocks bob` ·
//! `alice/1 hides read|typing|presence|seen ...` · `alice/1 reports alice+bob [SEQ]: REASON` · `expire alice+bob SEQ ...`

use quipu_core::record::{Entry, EntryBody};
use quipu_core::row::{IndexKey, NumberedChange, OldContent, Report};
use quipu_core::shard::ShardId;
use quipu_protocol::event::{
    Attachment, Change, ChangedKind, Content, Message, MessageState, Privacy, Rich,
};
use quipu_protocol::id::ConversationId;

use super::shard::{Cluster, parse};
use crate::support;

/// The change that these words ask for; `None`: they are no change.
pub(super) fn change(
    cluster: &mut Cluster,
    words: &[&str],
    text: &str,
) -> Result<Option<Change>, String> {
    Ok(Some(match words {
        ["edits", seq, "in", name, with @ ..] => Change::Edit {
            conversation: cluster.conversation(name)?,
            seq: support::seq(parse(seq)?),
            content: content(with, text)?,
        },
        ["deletes", seq, "in", name] => {
            Change::Delete(cluster.conversation(name)?, support::seq(parse(seq)?))
        }
        ["puts", emoji, "on", seq, "in", name] => react(cluster, name, seq, emoji, true)?,
        ["takes", emoji, "off", seq, "in", name] => react(cluster, name, seq, emoji, false)?,
        ["keeps", keep_ms, "in", name] => {
            Change::SetTimer(cluster.conversation(name)?, parse(keep_ms)?)
        }
        ["renames", device] => {
            Change::RenameDevice(support::device(parse(device)?), text.to_owned())
        }
        ["revokes", device] => Change::RevokeDevice(support::device(parse(device)?)),
        ["blocks", user] => Change::Block(support::user(user), true),
        ["unblocks", user] => Change::Block(support::user(user), false),
        ["hides", what @ ..] => Change::SetPrivacy(Privacy {
            hide_read: what.contains(&"read"),
            hide_typing: what.contains(&"typing"),
            hide_presence: what.contains(&"presence"),
            hide_last_seen: what.contains(&"seen"),
        }),
        ["reports", name, seq @ ..] => Change::Report {
            conversation: cluster.conversation(name)?,
            seq: seq
                .first()
                .map(|seq| parse(seq))
                .transpose()?
                .map(support::seq),
            reason: text.to_owned(),
        },
        _ => return Ok(None),
    }))
}

fn react(
    cluster: &mut Cluster,
    name: &str,
    seq: &str,
    emoji: &str,
    on: bool,
) -> Result<Change, String> {
    Ok(Change::React {
        conversation: cluster.conversation(name)?,
        seq: support::seq(parse(seq)?),
        emoji: emoji.to_owned(),
        on,
    })
}

/// The words of `expire`, and whose shard they are for.
pub(super) fn expire(cluster: &mut Cluster, words: &str) -> Result<(ShardId, Entry), String> {
    let mut words = words.split_whitespace();
    let conversation = cluster.conversation(words.next().ok_or("expire what?")?)?;
    let seqs = words.map(|seq| Ok(support::seq(parse(seq)?)));
    let body = EntryBody::Expire {
        conversation,
        seqs: seqs.collect::<Result<_, String>>()?,
    };
    let entry = Entry { source: None, body };
    Ok((cluster.shard_of(&conversation), entry))
}

/// A text, or one with what the words behind it say.
pub(super) fn content(with: &[&str], text: &str) -> Result<Content, String> {
    let mut rich = Rich {
        text: text.to_owned(),
        ..Rich::default()
    };
    let mut rest = with;
    while !rest.is_empty() {
        rest = match rest {
            ["replying", seq, rest @ ..] => {
                rich.reply_to = Some(support::seq(parse(seq)?));
                rest
            }
            ["with", "file", number, rest @ ..] => {
                rich.attachments.push(file(parse(number)? as u8));
                rest
            }
            words => return Err(format!("`{words:?}` is nothing that a message has")),
        };
    }
    Ok(match with {
        [] => Content::Text(rich.text),
        _ => Content::Rich(Box::new(rich)),
    })
}

fn file(number: u8) -> Attachment {
    Attachment {
        hash: [number; 32],
        size: 1,
        media_type: "image/jpeg".to_owned(),
        name: String::new(),
        width: 0,
        height: 0,
        duration_ms: 0,
        thumbnail: bytes::Bytes::new(),
    }
}

// ---- as text

/// What a message says, and what happened to it.
pub(super) fn says(message: &Message) -> String {
    let state = message.state.as_deref().map(state).unwrap_or_default();
    format!("{}{state}", words(&message.content))
}

fn words(content: &Content) -> String {
    match content {
        Content::Text(text) => text.clone(),
        Content::Rich(rich) => {
            let reply = rich.reply_to.map(|seq| format!(" (reply to {seq})"));
            let files = rich
                .attachments
                .iter()
                .map(|file| format!(" (file {})", file.hash[0]));
            format!(
                "{}{}{}",
                rich.text,
                reply.unwrap_or_default(),
                files.collect::<String>()
            )
        }
        Content::Note(note) => format!("{note:?}"),
        Content::Gone(why) => format!("gone: {why:?}"),
    }
}

fn state(state: &MessageState) -> String {
    let signs = state
        .reactions
        .iter()
        .map(|r| format!(" {}:{}", r.user, r.emoji));
    let edited = state
        .edited_at
        .map(|at| format!(" edit {} at {}", state.edits, at.0));
    let until = state.expires_at.map(|at| format!(" until {}", at.0));
    format!(
        " [version {}{}{}{}]",
        state.version,
        edited.unwrap_or_default(),
        until.unwrap_or_default(),
        signs.collect::<String>(),
    )
}

pub(super) fn kind(kind: &ChangedKind) -> String {
    match kind {
        ChangedKind::Edited(content) => format!("edited: {}", words(content)),
        ChangedKind::Gone(why) => format!("gone: {why:?}"),
        ChangedKind::Reacted { emoji, on: true } => format!("{emoji} put on"),
        ChangedKind::Reacted { emoji, on: false } => format!("{emoji} taken off"),
    }
}

pub(super) fn index_row(
    key: &IndexKey,
    value: Option<&[u8]>,
    name: impl Fn(&ConversationId) -> String,
) -> String {
    let key_words = match key {
        IndexKey::Listed(user, id) => format!("listed {user} {}", name(id)),
        IndexKey::Version(id, seq, edit) => format!("before edit {edit} of {} {seq}", name(id)),
        IndexKey::MediaRef(id, hash, seq) => format!("file {} of {} {seq}", hash[0], name(id)),
        IndexKey::Due(at, id, seq) => format!("due at {}: {} {seq}", at.0, name(id)),
        IndexKey::Seated(id, user) => format!("{user} in {}", name(id)),
        IndexKey::Here(user) => format!("here {user}"),
        IndexKey::Offline(user) => format!("offline {user}"),
        IndexKey::Changed(id, number) => format!("change {number} of {}", name(id)),
        IndexKey::Report(at, id, user, _) => {
            format!("report at {} of {} by {user}", at.0, name(id))
        }
    };
    let value = match (key, value) {
        (_, None) => "taken away".to_owned(),
        (IndexKey::Version(..), Some(value)) => words(&OldContent::decode(value).unwrap().0),
        (IndexKey::Report(..), Some(value)) => {
            let report = Report::decode(value).unwrap();
            let message = report.message.as_ref().map(says);
            format!(
                "{}, about: {}",
                report.reason,
                message.unwrap_or_else(|| "all".to_owned())
            )
        }
        (IndexKey::Changed(..), Some(value)) => {
            let change = NumberedChange::decode(value).unwrap();
            format!("message {} by {} at {}", change.seq, change.by, change.at.0)
        }
        (
            IndexKey::Listed(..)
            | IndexKey::MediaRef(..)
            | IndexKey::Due(..)
            | IndexKey::Seated(..)
            | IndexKey::Here(_)
            | IndexKey::Offline(_),
            Some(_),
        ) => "there".to_owned(),
    };
    format!("row index {key_words}: {value}")
}
