//! The bytes of a message in a conversation's history.

use bytes::Bytes;
use quipu_protocol::id::{ConversationId, Seq};

use super::{CorruptRow, HistoryRow};
use crate::codec::event::{MessageKey, read_message, write_message_value};
use crate::codec::{Fields, Writer};

impl HistoryRow {
    /// The conversation of the message: the first part of this row's key.
    pub fn conversation(&self) -> &ConversationId {
        &self.0.conversation
    }

    /// The seq of the message: the second part of this row's key.
    pub fn seq(&self) -> Seq {
        self.0.seq
    }

    /// The value of this row. Conversation and seq are not in it: they are its key, in whatever layout the store chooses.
    pub fn encode_value(&self) -> Bytes {
        let mut out = Writer::with_capacity(128 + self.0.content.bytes());
        write_message_value(&mut out, &self.0);
        out.into_bytes()
    }

    /// Puts a row together again from its key and its value.
    pub fn decode_value(
        conversation: ConversationId,
        seq: Seq,
        value: &[u8],
    ) -> Result<Self, CorruptRow> {
        const WHAT: &str = "message";
        let key = MessageKey { conversation, seq };
        read_message(WHAT, Fields::new(WHAT, value), Some(key)).map(Self)
    }
}
