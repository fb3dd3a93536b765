//! The bytes of a complaint, and of what a message said before an edit.

use bytes::Bytes;
use quipu_protocol::event::{Content, Message};

use super::CorruptRow;
use crate::codec::event::{read_content, read_message, write_content, write_message};
use crate::codec::{Fields, Writer};

/// What a user complained about; value of [`IndexKey::Report`](super::IndexKey::Report), which says when, where and who.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// In the user's words.
    pub reason: String,
    /// The message as it was when the complaint came; `None`: it is about the conversation. This copy stays when the message
    /// goes, or a complaint could be answered by deleting what it is about.
    pub message: Option<Message>,
}

impl Report {
    /// The value of its row.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(256 + self.reason.len());
        out.slice(1, self.reason.as_bytes());
        if let Some(message) = &self.message {
            out.nested(2, |out| write_message(out, message));
        }
        out.into_bytes()
    }

    /// Reads the value of its row.
    pub fn decode(value: &[u8]) -> Result<Self, CorruptRow> {
        const WHAT: &str = "report";
        let mut fields = Fields::new(WHAT, value);
        let mut report = Self::default();
        while let Some(field) = fields.next()? {
            match field.number {
                1 => field.text()?.clone_into(&mut report.reason),
                2 => report.message = Some(read_message(WHAT, field.nested()?, None)?),
                _ => {}
            }
        }
        Ok(report)
    }
}

/// What a message said before an edit; value of [`IndexKey::Version`](super::IndexKey::Version).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldContent(pub Content);

impl OldContent {
    /// The value of its row.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(16 + self.0.bytes());
        write_content(&mut out, &self.0);
        out.into_bytes()
    }

    /// Reads the value of its row.
    pub fn decode(value: &[u8]) -> Result<Self, CorruptRow> {
        const WHAT: &str = "old content";
        read_content(WHAT, Fields::new(WHAT, value)).map(Self)
    }
}
