//! The bytes of a shard's own row: how far it is, what it decided, and what it has from the others.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::CorruptRow;
use crate::codec::{Fields, Writer};
use crate::record::codec::{read_retention, read_source, write_retention, write_source};
use crate::record::{Position, Source};
use crate::retention::Retention;
use crate::shard::ShardId;

/// What a shard keeps of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ShardRow {
    /// The last applied record.
    pub(crate) applied: Position,
    /// Running digest of every decision so far.
    pub(crate) digest: u64,
    /// The highest source that came from each shard.
    pub(crate) marks: BTreeMap<ShardId, Source>,
    /// What its inboxes keep; `None`: everything.
    pub(crate) keep: Option<Retention>,
}

impl ShardRow {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(24 + self.marks.len() * 16);
        out.uint(1, self.applied.0);
        out.fixed64(2, self.digest);
        for mark in self.marks.values() {
            out.nested(3, |out| write_source(out, mark));
        }
        if let Some(keep) = &self.keep {
            out.nested(4, |out| write_retention(out, keep));
        }
        out.into_bytes()
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, CorruptRow> {
        let mut fields = Fields::new("shard row", value);
        let mut row = Self::default();
        while let Some(field) = fields.next()? {
            match field.number {
                1 => row.applied = Position(field.uint()?),
                2 => row.digest = field.fixed64()?,
                3 => {
                    let mark = read_source(field.nested()?)?;
                    row.marks.insert(mark.shard, mark);
                }
                4 => row.keep = Some(read_retention(field.nested()?)?),
                _ => {}
            }
        }
        Ok(row)
    }
}
