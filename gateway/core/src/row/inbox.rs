//! The bytes of an inbox: its head, and its entries.

use bytes::Bytes;
use quipu_protocol::event::{Changed, Invitation};
use quipu_protocol::id::{Cursor, InboxSeq, Seq, TimestampMs, UserId};
use quipu_protocol::wire;

use super::{CorruptRow, Inbox, InboxKind, InboxRow};
use crate::codec::event::{read_receipt, write_receipt};
use crate::codec::{Fields, Writer, required};
use crate::retention::Age;

impl Inbox {
    /// The value of its row.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(24 + self.ages.len() * 16);
        out.uint(1, self.head.map_or(0, InboxSeq::get));
        out.uint(2, self.incoming.map_or(0, InboxSeq::get));
        out.uint(3, u64::from(self.listed));
        out.uint(4, self.floor.0);
        out.uint(5, self.trimmed.0);
        for age in &self.ages {
            out.nested(6, |out| {
                out.uint(1, age.last.get());
                out.uint(2, age.at.0);
            });
        }
        out.into_bytes()
    }

    /// Reads the value of its row.
    pub fn decode(value: &[u8]) -> Result<Self, CorruptRow> {
        let mut fields = Fields::new("inbox", value);
        let mut inbox = Self::default();
        while let Some(field) = fields.next()? {
            match field.number {
                1 => inbox.head = InboxSeq::new(field.uint()?).ok(),
                2 => inbox.incoming = InboxSeq::new(field.uint()?).ok(),
                3 => inbox.listed = field.narrow()?,
                4 => inbox.floor = Cursor(field.uint()?),
                5 => inbox.trimmed = Cursor(field.uint()?),
                6 => inbox.ages.push(read_age(field.nested()?)?),
                _ => {}
            }
        }
        Ok(inbox)
    }
}

impl InboxRow {
    /// The value of this row. User and inbox seq are not in it: they are its key, in whatever layout the store chooses.
    pub fn encode_value(&self) -> Bytes {
        let mut out = Writer::with_capacity(64);
        match &self.kind {
            InboxKind::Message { conversation, seq } => out.nested(1, |out| {
                out.conversation(1, conversation);
                out.uint(2, seq.get());
            }),
            InboxKind::Receipt(receipt) => out.nested(2, |out| write_receipt(out, receipt)),
            InboxKind::Changed(changed) => out.wire(3, &wire::Changed::from(&**changed)),
            InboxKind::Invitation(invitation) => {
                out.wire(4, &wire::Invitation::from(&**invitation));
            }
        }
        out.into_bytes()
    }

    /// Puts a row together again from its key and its value.
    pub fn decode_value(
        user: UserId,
        inbox_seq: InboxSeq,
        value: &[u8],
    ) -> Result<Self, CorruptRow> {
        const WHAT: &str = "inbox entry";
        let mut fields = Fields::new(WHAT, value);
        let mut kind = None;
        while let Some(field) = fields.next()? {
            match field.number {
                1 => kind = Some(read_message_ref(WHAT, field.nested()?)?),
                2 => kind = Some(InboxKind::Receipt(read_receipt(WHAT, field.nested()?)?)),
                3 => {
                    let changed = field.wire::<wire::Changed, Changed>()?;
                    kind = Some(InboxKind::Changed(Box::new(changed)));
                }
                4 => {
                    let invitation = field.wire::<wire::Invitation, Invitation>()?;
                    kind = Some(InboxKind::Invitation(Box::new(invitation)));
                }
                _ => {}
            }
        }
        Ok(Self {
            user,
            inbox_seq,
            kind: required(WHAT, "a kind that this version knows", kind)?,
        })
    }
}

fn read_age(mut fields: Fields) -> Result<Age, CorruptRow> {
    let (mut last, mut at) = (None, TimestampMs::default());
    while let Some(field) = fields.next()? {
        match field.number {
            1 => last = Some(field.checked(InboxSeq::new(field.uint()?))?),
            2 => at = TimestampMs(field.uint()?),
            _ => {}
        }
    }
    Ok(Age {
        last: required("inbox", "the event of an age", last)?,
        at,
    })
}

fn read_message_ref(what: &'static str, mut fields: Fields) -> Result<InboxKind, CorruptRow> {
    let (mut conversation, mut seq) = (None, None);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => conversation = Some(field.conversation()?),
            2 => seq = Some(field.checked(Seq::new(field.uint()?))?),
            _ => {}
        }
    }
    Ok(InboxKind::Message {
        conversation: required(what, "the conversation", conversation)?,
        seq: required(what, "the seq", seq)?,
    })
}
