//! Gathers entries by shard and makes records of them, each well below the log's limit.

use std::collections::BTreeMap;

use bytes::Bytes;
use quipu_core::record::{CommandKind, Entry, EntryBody, Fact, Record};
use quipu_core::shard::ShardId;
use quipu_protocol::event::{Change, ChangedKind, EventBody};
use quipu_protocol::limits::TOPIC_BYTES_MAX;

use crate::log::RECORD_BYTES_MAX;

/// Bytes of entries, as [`entry_bytes`] counts them, after which a record is closed and the next one begun.
const RECORD_FILL_BYTES: usize = RECORD_BYTES_MAX / 4;

/// Entries on their way to the log, in order for each shard.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    by_shard: BTreeMap<ShardId, Vec<Entry>>,
    entries: usize,
    bytes: usize,
}

impl Batch {
    /// Adds an entry behind those of its shard.
    pub(crate) fn push(&mut self, shard: ShardId, entry: Entry) {
        self.entries += 1;
        self.bytes += entry_bytes(&entry);
        self.by_shard.entry(shard).or_default().push(entry);
    }

    /// How many entries it holds.
    pub(crate) fn entries(&self) -> usize {
        self.entries
    }

    /// About how many bytes they come to.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The records to append: one for each shard, more where one would grow too long.
    pub(crate) fn into_records(self) -> Vec<(ShardId, Bytes)> {
        let mut records = Vec::with_capacity(self.by_shard.len());
        for (shard, entries) in self.by_shard {
            let mut rest = entries.as_slice();
            while !rest.is_empty() {
                let (record, behind) = rest.split_at(entries_of_a_record(rest));
                records.push((shard, Record::encode_entries(record)));
                rest = behind;
            }
        }
        records
    }
}

/// How many of the first entries make one record: at least one.
fn entries_of_a_record(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let full = entries.iter().position(|entry| {
        bytes += entry_bytes(entry);
        bytes > RECORD_FILL_BYTES
    });
    full.unwrap_or(entries.len()).max(1)
}

/// Ids, names, numbers, titles, labels and hashes of any entry, in bytes.
const FIXED: usize = 512;
/// A user id with its tag and length, in bytes.
const NAME: usize = 36;
/// The longest number, in bytes.
const NUMBER: usize = 10;

/// About how many bytes an entry takes in a record, from above.
fn entry_bytes(entry: &Entry) -> usize {
    FIXED
        + match &entry.body {
            EntryBody::Command(command) => match &command.kind {
                CommandKind::Send { content, .. } => content.bytes(),
                CommandKind::OpenDirect { .. }
                | CommandKind::Receipt { .. }
                | CommandKind::Register { .. }
                | CommandKind::AddDevice { .. } => 0,
                CommandKind::Change { change, .. } => change_bytes(change),
            },
            EntryBody::Deliver { to, event } => to.len() * NAME + event_bytes(event),
            EntryBody::Spread { event, .. } => event_bytes(event),
            EntryBody::Expire { seqs, .. } => seqs.len() * NUMBER,
            EntryBody::Fact { fact, .. } => fact_bytes(fact),
            EntryBody::Answer { .. }
            | EntryBody::Standing { .. }
            | EntryBody::Blocked { .. }
            | EntryBody::Keep(_) => 0,
        }
}

fn fact_bytes(fact: &Fact) -> usize {
    match fact {
        Fact::Told { given_up, .. } => given_up.len() * FIXED,
        Fact::Attached { .. }
        | Fact::Stalled { .. }
        | Fact::Detached { .. }
        | Fact::Vanished { .. }
        | Fact::TellAgain { .. } => 0,
    }
}

fn event_bytes(event: &EventBody) -> usize {
    match event {
        EventBody::Message(message) => message.content.bytes(),
        EventBody::Changed(changed) => match &changed.kind {
            ChangedKind::Edited(content) => content.bytes(),
            ChangedKind::Gone(_) | ChangedKind::Reacted { .. } => 0,
        },
        EventBody::Receipt(_) | EventBody::Invitation(_) => 0,
    }
}

fn change_bytes(change: &Change) -> usize {
    match change {
        Change::CreateGroup(new) => TOPIC_BYTES_MAX + new.invite.len() * NAME,
        Change::SetGroup { .. } => TOPIC_BYTES_MAX,
        Change::Invite { users, .. } => users.len() * NAME,
        Change::Edit { content, .. } => content.bytes(),
        Change::Report { reason, .. } => reason.len(),
        Change::Join(_)
        | Change::Leave(_)
        | Change::Remove(..)
        | Change::SetRole(..)
        | Change::SetTimer(..)
        | Change::Delete(..)
        | Change::React { .. }
        | Change::RenameDevice(..)
        | Change::RevokeDevice(_)
        | Change::Block(..)
        | Change::SetPrivacy(_) => 0,
    }
}
