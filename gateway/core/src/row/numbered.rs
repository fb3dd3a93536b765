//! A change of a message in a pulled group, found by its number: which message, who, and when.

use bytes::Bytes;
use quipu_protocol::id::{Seq, TimestampMs, UserId};

use super::CorruptRow;
use crate::codec::{Fields, Writer, required};

const WHAT: &str = "numbered change";

/// The value of a [`Changed`](super::IndexKey::Changed) row. What the message says after it is in its history row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberedChange {
    /// The message.
    pub seq: Seq,
    /// Who changed it.
    pub by: UserId,
    /// When the log took it.
    pub at: TimestampMs,
}

impl NumberedChange {
    /// The value of its row.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(56);
        out.seq(1, Some(self.seq));
        out.user(2, &self.by);
        out.uint(3, self.at.0);
        out.into_bytes()
    }

    /// Reads the value of its row.
    pub fn decode(value: &[u8]) -> Result<Self, CorruptRow> {
        let mut fields = Fields::new(WHAT, value);
        let (mut seq, mut by, mut at) = (None, None, TimestampMs(0));
        while let Some(field) = fields.next()? {
            match field.number {
                1 => seq = field.seq()?,
                2 => by = Some(field.user()?),
                3 => at = TimestampMs(field.uint()?),
                _ => {}
            }
        }
        Ok(Self {
            seq: required(WHAT, "the message", seq)?,
            by: required(WHAT, "who made it", by)?,
            at,
        })
    }
}
