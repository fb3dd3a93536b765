//! The news of a pulled group on one shard: how much of the group the members that live there were told of.

use bytes::Bytes;
use quipu_protocol::id::Seq;

use super::CorruptRow;
use crate::codec::{Fields, Writer};

const WHAT: &str = "news of a group";

/// What the members of a pulled group that live on one shard were offered a NOTICE of; in that shard.
///
/// A spread is durable before the group's own shard has committed the message, so this row can be ahead of the group's row. It is
/// committed before the NOTICE goes out: a device that was not connected then finds here what it was not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct News {
    /// The last message that was spread to this shard; `None`: none was.
    pub head: Option<Seq>,
}

impl News {
    /// The value of its row.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(12);
        out.seq(1, self.head);
        out.into_bytes()
    }

    /// Reads the value of its row.
    pub fn decode(value: &[u8]) -> Result<Self, CorruptRow> {
        let mut fields = Fields::new(WHAT, value);
        let mut news = Self::default();
        while let Some(field) = fields.next()? {
            if field.number == 1 {
                news.head = field.seq()?;
            }
        }
        Ok(news)
    }
}
