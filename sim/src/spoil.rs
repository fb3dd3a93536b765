//! Sabotage of stored rows: takes fields out of their bytes, as a gateway that forgot to write them would leave them.

use bytes::Bytes;
use quipu_core::record::{Entry, EntryBody, Standing};
use quipu_core::row::{EntityKey, HistoryRow, Row};
use quipu_protocol::event::{Content, EventBody, Gone, Role};
use quipu_protocol::id::Seq;

use crate::sabotage::Sabotage;

/// The field of a shard's row that holds the highest source of another shard.
const SHARD_MARKS: u64 = 3;
/// The field of a shard's row that holds what its inboxes keep.
const SHARD_KEEP: u64 = 4;
/// The field of a conversation's row that holds a member, and the field of a member that holds a sending device.
const CONVERSATION_MEMBER: u64 = 2;
const MEMBER_SENDER: u64 = 4;
/// The field of a sending device that holds what its messages were answered.
const SENDER_ANSWERS: u64 = 2;

/// Spoils an entry on its way to another shard.
pub(crate) fn entry(sabotage: Option<Sabotage>, entry: &mut Entry) {
    let nobody = |event| EntryBody::Deliver {
        to: Vec::new(),
        event,
    };
    match (sabotage, &mut entry.body) {
        (Some(Sabotage::KeepInRoster), EntryBody::Standing { standing, .. })
            if *standing == Standing::Out =>
        {
            *standing = Standing::In {
                role: Role::Member,
                first: Seq::FIRST,
            };
        }
        (Some(Sabotage::SkipSpread), EntryBody::Spread { event, .. })
            if entry
                .source
                .as_ref()
                .is_some_and(|from| from.position.0 % 4 == 0) =>
        {
            entry.body = nobody(event.clone());
        }
        (Some(Sabotage::IgnoreBlock), EntryBody::Blocked { on, .. }) => *on = false,
        _ => {}
    }
}

/// Whether an entry is one whose loss shows only in the moment before its sender commits, which is too short to be met often.
pub(crate) fn shows_news(sabotage: Option<Sabotage>, entry: &Entry) -> bool {
    let EntryBody::Spread { pulled, event, .. } = &entry.body else {
        return false;
    };
    let is_message = matches!(event, EventBody::Message(_));
    sabotage == Some(Sabotage::IgnoreNews) && *pulled && is_message
}

/// Spoils a row on its way to the store. False: it does not come there at all.
pub(crate) fn row(sabotage: Option<Sabotage>, row: &mut Row) -> bool {
    match (sabotage, row) {
        (Some(Sabotage::KeepDeleted), Row::History(HistoryRow(message))) => {
            return message.content != Content::Gone(Gone::Deleted);
        }
        (Some(Sabotage::ForgetMarks), Row::Shard(_, value)) => {
            *value = without(value, &[SHARD_MARKS]);
        }
        (Some(Sabotage::ForgetKeep), Row::Shard(_, value)) => {
            *value = without(value, &[SHARD_KEEP]);
        }
        (Some(Sabotage::ForgetDedup), Row::Entity(EntityKey::Conversation(_), value)) => {
            *value = without(value, &[CONVERSATION_MEMBER, MEMBER_SENDER]);
        }
        (Some(Sabotage::ForgetRefused), Row::Entity(EntityKey::Conversation(_), value)) => {
            let path = [CONVERSATION_MEMBER, MEMBER_SENDER, SENDER_ANSWERS];
            *value = changed(value, &path, &|answers| Some(without_refusals(answers)));
        }
        (Some(Sabotage::ForgetRefused), Row::Entity(EntityKey::Member(..), value)) => {
            let path = [MEMBER_SENDER, SENDER_ANSWERS];
            *value = changed(value, &path, &|answers| Some(without_refusals(answers)));
        }
        _ => {}
    }
    true
}

/// A protobuf message without the field that `path` leads to.
fn without(message: &[u8], path: &[u64]) -> Bytes {
    changed(message, path, &|_| None)
}

/// A protobuf message in which the field that `path` leads to holds what `how` makes of it; `None`: it is not there.
fn changed(message: &[u8], path: &[u64], how: &dyn Fn(&[u8]) -> Option<Vec<u8>>) -> Bytes {
    let mut kept = Vec::with_capacity(message.len());
    let mut rest = message;
    while let Some((start, field)) = next_field(&mut rest) {
        let body = match path {
            [number] if *number == field.number => how(field.body),
            [number, inner @ ..] if *number == field.number && !inner.is_empty() => {
                Some(changed(field.body, inner, how).into())
            }
            _ => {
                kept.extend_from_slice(start);
                continue;
            }
        };
        if let Some(body) = body {
            write_varint(&mut kept, field.number << 3 | 2);
            write_varint(&mut kept, body.len() as u64);
            kept.extend_from_slice(&body);
        }
    }
    kept.into()
}

/// A device's answers without the refusals, which have 0 as the distance of their seq and then a code.
fn without_refusals(mut answers: &[u8]) -> Vec<u8> {
    let (mut kept, mut skipped) = (Vec::with_capacity(answers.len()), 0);
    while let Some(step) = read_varint(&mut answers) {
        match read_varint(&mut answers) {
            None | Some(0) => {
                read_varint(&mut answers);
                skipped += step;
            }
            Some(seq_step) => {
                write_varint(&mut kept, skipped + step);
                write_varint(&mut kept, seq_step);
                skipped = 0;
            }
        }
    }
    kept
}

struct Field<'a> {
    number: u64,
    /// What a field with a length holds; empty for the others.
    body: &'a [u8],
}

/// The next field's bytes, and what it is. The rows are our own, so that what does not fit ends the walk.
fn next_field<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], Field<'a>)> {
    let start = *rest;
    let key = read_varint(rest)?;
    let body = match key & 7 {
        0 => {
            read_varint(rest)?;
            &start[..0]
        }
        1 => {
            *rest = rest.get(8..)?;
            &start[..0]
        }
        2 => {
            let length = usize::try_from(read_varint(rest)?).ok()?;
            let body = rest.get(..length)?;
            *rest = &rest[length..];
            body
        }
        _ => return None,
    };
    let length = start.len() - rest.len();
    let number = key >> 3;
    Some((&start[..length], Field { number, body }))
}

fn read_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::{without, without_refusals};

    #[test]
    fn takes_out_what_the_path_leads_to_and_nothing_else() {
        // 1: 5, 2: { 1: 7, 4: "ab" }, 3: "c"
        let message = [
            0x08, 5, 0x12, 6, 0x08, 7, 0x22, 2, b'a', b'b', 0x1a, 1, b'c',
        ];
        assert_eq!(
            without(&message, &[2, 4])[..],
            [0x08, 5, 0x12, 2, 0x08, 7, 0x1a, 1, b'c']
        );
        assert_eq!(without(&message, &[3])[..], message[..10]);
        assert_eq!(without(&message, &[9])[..], message);
    }

    #[test]
    fn refusals_go_and_distances_stay_right() {
        // 3 as 7, 4 refused, 6 refused, 9 as 8.
        let answers = [3, 7, 1, 0, 10, 2, 0, 10, 3, 1];
        assert_eq!(without_refusals(&answers), [3, 7, 6, 1]);
        assert_eq!(without_refusals(&[3, 7]), [3, 7]);
        assert_eq!(without_refusals(&[5, 0, 10]), []);
    }
}
