//! Files: uploads and downloads that survive a lost connection, checked by their hash, with a small picture for pictures.

mod download;
mod file;
mod kind;
mod stream;
mod thumbnail;
mod upload;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use quipu_protocol::error::{Retry, StreamCode};
use quipu_protocol::event::{Attachment, Rejection};
use quipu_protocol::id::ConversationId;
use quipu_protocol::media::{MediaHash, MediaType};

use crate::client::Client;
use crate::error::{Error, Refusal};

pub use kind::{guess, safe_file_name};
pub use thumbnail::{Preview, THUMBNAIL_BYTES_MAX};

/// Attempts in a row that move no byte, after which a transfer fails.
pub const ATTEMPTS_MAX: u32 = 8;
/// First pause before such an attempt; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause, and the longest one that a gateway may ask for; a longer one fails the transfer.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Below everything else of the connection: a video never delays a word.
const PRIORITY: i32 = -20;

/// How far a transfer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are through.
    pub done: u64,
    /// Bytes of the file.
    pub total: u64,
}

/// How to upload. The default is what a person wants.
#[derive(Debug, Clone, Default)]
pub struct UploadOptions {
    /// What the file is. `None`: told from its name and its first bytes.
    pub media_type: Option<MediaType>,
    /// Another conversation of this user that has the file: its bytes need not travel again.
    pub source: Option<ConversationId>,
    /// Makes no small picture.
    pub without_preview: bool,
}

/// A file that is in a conversation, and what a message needs to say to refer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedFile {
    /// Where it is.
    pub conversation: ConversationId,
    /// Its name there.
    pub hash: MediaHash,
    /// Its bytes.
    pub size: u64,
    /// What it is.
    pub media_type: MediaType,
    /// What it was called on this machine, without its folder; at most 255 bytes.
    pub name: String,
    /// Its measures and a small picture, if it is a picture.
    pub preview: Option<Preview>,
    /// Bytes that travelled: less than `size` where some of it was there.
    pub sent: u64,
}

impl UploadedFile {
    /// What a message says to refer to it.
    pub fn attachment(&self) -> Attachment {
        let preview = self.preview.as_ref();
        Attachment {
            hash: *self.hash.as_bytes(),
            size: self.size,
            media_type: self.media_type.as_str().to_owned(),
            name: self.name.clone(),
            width: preview.map_or(0, |preview| preview.width),
            height: preview.map_or(0, |preview| preview.height),
            duration_ms: 0,
            thumbnail: preview.map_or_else(Bytes::new, |preview| {
                Bytes::copy_from_slice(&preview.thumbnail)
            }),
        }
    }
}

/// A file that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadedFile {
    /// Its bytes.
    pub size: u64,
    /// What its sender says that it is.
    pub media_type: MediaType,
    /// Bytes that travelled: less than `size` where some of it was there.
    pub received: u64,
}

impl Client {
    /// Brings a file to a conversation, and returns once the gateway has it for good. Goes on by itself after a lost
    /// connection; called again for the same file, also by another process of this device, it goes on where the last one
    /// stopped. A message should refer to the file soon: what no message refers to is removed after a while.
    ///
    /// `progress` is told now and then. Fails with [`Error::Refused`] when the gateway takes no such file.
    pub async fn upload(
        &self,
        conversation: ConversationId,
        path: &Path,
        options: UploadOptions,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<UploadedFile, Error> {
        upload::run(self, conversation, path, options, progress).await
    }

    /// Fetches a file of a conversation to `path`, which is replaced if it exists, and returns once it is there, whole and
    /// checked. What has come of it is kept beside it in a file that ends in `.part`, from where the next call goes on.
    pub async fn download(
        &self,
        conversation: ConversationId,
        hash: MediaHash,
        path: &Path,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<DownloadedFile, Error> {
        download::run(self, conversation, hash, path, progress).await
    }
}

/// How one attempt at a transfer ended early.
#[derive(Debug)]
enum Broken {
    /// Another attempt may go on, after this time at least.
    Again(Error, Duration),
    /// No other attempt would do better.
    Failed(Error),
}

impl Broken {
    /// The connection or the stream broke.
    fn lost(error: impl std::fmt::Display) -> Self {
        Self::Again(Error::Offline(error.to_string()), Duration::ZERO)
    }

    fn refused(rejection: Rejection) -> Self {
        let wait = Duration::from_millis(rejection.retry_after_ms);
        let passes = rejection.code.retry() == Retry::After && wait <= PAUSE_MAX;
        let refusal = Error::Refused(Refusal {
            code: rejection.code,
            reason: rejection.reason,
        });
        if passes {
            Self::Again(refusal, wait)
        } else {
            Self::Failed(refusal)
        }
    }

    fn reset(code: u64) -> Self {
        let code = StreamCode::from_code(code);
        let why = Error::Offline(format!("the gateway ended the transfer: {code}"));
        match code {
            StreamCode::Cancelled
            | StreamCode::Internal
            | StreamCode::NotWelcomed
            | StreamCode::Busy => Self::Again(why, Duration::ZERO),
            StreamCode::FrameError | StreamCode::UnknownStream | StreamCode::FrameTooLarge => {
                Self::Failed(why)
            }
        }
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Paces the attempts of one transfer.
#[derive(Debug, Default)]
struct Attempts {
    in_vain: u32,
}

impl Attempts {
    /// Waits before the next attempt, or says why there is none.
    async fn next(&mut self, client: &Client, broken: Broken, moved: bool) -> Result<(), Error> {
        let (error, wait) = match broken {
            Broken::Failed(error) => return Err(error),
            Broken::Again(error, wait) => (error, wait),
        };
        self.in_vain = if moved { 1 } else { self.in_vain + 1 };
        if self.in_vain > ATTEMPTS_MAX {
            return Err(error);
        }
        tracing::debug!(%error, attempt = self.in_vain, "a transfer goes on in a moment");
        let pause = PAUSE_MIN * 2u32.pow(self.in_vain.min(16));
        tokio::time::sleep(pause.min(PAUSE_MAX).max(wait)).await;
        client.online().await
    }
}
