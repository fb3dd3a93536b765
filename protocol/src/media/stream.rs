//! The frames of a blob stream, checked.

use bytes::Bytes;

use super::{MediaHash, MediaType, UploadId};
use crate::error::RejectCode;
use crate::event::Rejection;
use crate::id::ConversationId;
use crate::violation::Violation;
use crate::wire;

/// Brings a file to a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// The device's name for it, the same whenever it goes on.
    pub upload: UploadId,
    /// Where to.
    pub conversation: ConversationId,
    /// What its bytes hash to.
    pub hash: MediaHash,
    /// Its bytes; from 1.
    pub size: u64,
    /// What it is.
    pub media_type: MediaType,
    /// Another conversation of the user that has the file.
    pub source: Option<ConversationId>,
}

/// Fetches a file of a conversation, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Download {
    /// Where it was sent.
    pub conversation: ConversationId,
    /// Which file.
    pub hash: MediaHash,
    /// First byte wanted.
    pub offset: u64,
    /// Bytes wanted; 0: to the end.
    pub length: u64,
}

/// What follows on the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Bytes of the whole file; from 1.
    pub size: u64,
    /// What its first sender said that it is.
    pub media_type: MediaType,
    /// First byte that follows.
    pub offset: u64,
    /// Bytes that follow; they end within the file.
    pub length: u64,
}

fn invalid(rule: &str, what: impl std::fmt::Display) -> Rejection {
    Rejection::new(RejectCode::Invalid, format!("{rule}: {what}"))
}

impl TryFrom<wire::Upload> for Upload {
    /// Answered with FAILURE on the same stream.
    type Error = Rejection;

    fn try_from(upload: wire::Upload) -> Result<Self, Rejection> {
        let rule = "QP-BLOB-3";
        if upload.size == 0 {
            return Err(invalid(rule, "a file has at least one byte"));
        }
        let source = match upload.source.as_ref() {
            [] => None,
            source => {
                Some(ConversationId::from_slice(source).map_err(|error| invalid(rule, error))?)
            }
        };
        Ok(Self {
            upload: UploadId::from_slice(&upload.upload).map_err(|error| invalid(rule, error))?,
            conversation: ConversationId::from_slice(&upload.conversation)
                .map_err(|error| invalid(rule, error))?,
            hash: MediaHash::from_slice(&upload.hash).map_err(|error| invalid(rule, error))?,
            size: upload.size,
            media_type: MediaType::new(upload.media_type).map_err(|error| invalid(rule, error))?,
            source,
        })
    }
}

impl From<&Upload> for wire::Upload {
    fn from(upload: &Upload) -> Self {
        let bytes = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        Self {
            upload: bytes(&upload.upload.0),
            conversation: bytes(upload.conversation.as_bytes()),
            hash: bytes(upload.hash.as_bytes()),
            size: upload.size,
            media_type: upload.media_type.as_str().to_owned(),
            source: upload
                .source
                .map_or_else(Bytes::new, |source| bytes(source.as_bytes())),
        }
    }
}

impl TryFrom<wire::Download> for Download {
    /// Answered with FAILURE on the same stream.
    type Error = Rejection;

    fn try_from(download: wire::Download) -> Result<Self, Rejection> {
        let rule = "QP-BLOB-3";
        Ok(Self {
            conversation: ConversationId::from_slice(&download.conversation)
                .map_err(|error| invalid(rule, error))?,
            hash: MediaHash::from_slice(&download.hash).map_err(|error| invalid(rule, error))?,
            offset: download.offset,
            length: download.length,
        })
    }
}

impl From<&Download> for wire::Download {
    fn from(download: &Download) -> Self {
        Self {
            conversation: Bytes::copy_from_slice(download.conversation.as_bytes()),
            hash: Bytes::copy_from_slice(download.hash.as_bytes()),
            offset: download.offset,
            length: download.length,
        }
    }
}

impl TryFrom<wire::Blob> for Blob {
    type Error = Violation;

    fn try_from(blob: wire::Blob) -> Result<Self, Violation> {
        let broken = |what| Violation::new("QP-BLOB-8", what);
        let end = blob.offset.checked_add(blob.length);
        if blob.size == 0 || end.is_none_or(|end| end > blob.size) {
            return Err(broken("what follows lies within the file"));
        }
        Ok(Self {
            size: blob.size,
            media_type: MediaType::new(blob.media_type)
                .map_err(|_| broken("the media type is one"))?,
            offset: blob.offset,
            length: blob.length,
        })
    }
}

impl From<&Blob> for wire::Blob {
    fn from(blob: &Blob) -> Self {
        Self {
            size: blob.size,
            media_type: blob.media_type.as_str().to_owned(),
            offset: blob.offset,
            length: blob.length,
        }
    }
}
