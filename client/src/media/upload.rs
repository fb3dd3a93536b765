//! Brings a file: hash it, say what comes, go on where the gateway stopped, and wait until it is durable.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use quipu_protocol::error::RejectCode;
use quipu_protocol::frame::{FrameType, encoded};
use quipu_protocol::id::{ConversationId, DeviceId};
use quipu_protocol::media::{MediaHash, Upload, UploadId};
use quipu_protocol::wire;

use super::file::{State, blocking, open_and_hash, read_piece};
use super::stream::BlobStream;
use super::{Attempts, Broken, Progress, UploadOptions, UploadedFile, kind, thumbnail};
use crate::client::Client;
use crate::error::Error;

/// Bytes written to the stream at once: between two of them messages get the buffer that they share.
const WRITE_BYTES: usize = 16 << 10;

pub(super) async fn run(
    client: &Client,
    conversation: ConversationId,
    path: &Path,
    options: UploadOptions,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<UploadedFile, Error> {
    let device = client.account().await?.ok_or(Error::NotSignedIn)?.device;
    let (given, preview) = (path.to_owned(), !options.without_preview);
    let media_type = options.media_type;
    let (hashed, media_type, preview) = blocking(move || {
        let hashed = open_and_hash(&given)?;
        let media_type = media_type.unwrap_or_else(|| kind::guess(&given));
        let preview = preview.then(|| thumbnail::of_file(&given, hashed.size));
        Ok((hashed, media_type, preview.flatten()))
    })
    .await?;
    let (hash, size) = (hashed.hash, hashed.size);
    let upload = Upload {
        upload: upload_id(device, conversation, hash),
        conversation,
        hash,
        size,
        media_type,
        source: options.source,
    };
    let mut transfer = Transfer {
        client,
        upload,
        path,
        file: Some(hashed.file),
        as_hashed: hashed.state,
        sent: 0,
        kept: 0,
        resumed: false,
        progress: &mut progress,
    };
    transfer.until_whole().await?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (sent, upload) = (transfer.sent, transfer.upload);
    Ok(UploadedFile {
        conversation,
        hash,
        size,
        media_type: upload.media_type,
        name: kind::safe_file_name(&name),
        preview,
        sent,
    })
}

/// The same file to the same conversation from the same device is the same upload, so that it goes on after a restart of
/// this process without anything being kept here.
fn upload_id(device: DeviceId, conversation: ConversationId, hash: MediaHash) -> UploadId {
    let mut hasher = blake3::Hasher::new_derive_key("quipu upload id 1");
    hasher.update(&device.get().to_be_bytes());
    hasher.update(conversation.as_bytes());
    hasher.update(hash.as_bytes());
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    UploadId(id)
}

struct Transfer<'a, P> {
    client: &'a Client,
    upload: Upload,
    path: &'a Path,
    /// Not there only while a piece is read.
    file: Option<File>,
    /// The announced hash is of this.
    as_hashed: State,
    /// Bytes that went out, over all attempts.
    sent: u64,
    /// Bytes that the gateway had when it last said so. What went out and was not kept is no progress.
    kept: u64,
    /// Whether the gateway went on with what it had from before.
    resumed: bool,
    progress: &'a mut P,
}

impl<P: FnMut(Progress) + Send> Transfer<'_, P> {
    async fn until_whole(&mut self) -> Result<(), Error> {
        let _turn = self.client.blob_turn().await?;
        let mut attempts = Attempts::default();
        let mut renamed = false;
        loop {
            let before = self.kept;
            let broken = match self.attempt().await {
                Ok(()) => return Ok(()),
                Err(broken) => broken,
            };
            if matches!(broken, Broken::Failed(_)) && self.has_changed() {
                let changed =
                    "changed while it was being sent: send it again when nobody writes to it";
                let changed = format!("{} {changed}", self.path.display());
                return Err(Error::Invalid(changed));
            }
            // What a gateway had from before may be damaged, by a power cut for example: one new beginning.
            if let Broken::Failed(Error::Refused(refusal)) = &broken
                && refusal.code == RejectCode::Invalid
                && self.resumed
                && !renamed
            {
                renamed = true;
                self.upload.upload = UploadId(rand::random());
                self.kept = 0;
                continue;
            }
            let moved = self.kept > before;
            attempts.next(self.client, broken, moved).await?;
        }
    }

    /// Whether somebody wrote to the file after it was hashed.
    fn has_changed(&self) -> bool {
        let now = self.file.as_ref().map(State::of);
        matches!(now, Some(Ok(now)) if now != self.as_hashed)
    }

    async fn attempt(&mut self) -> Result<(), Broken> {
        let connection = self.client.quic().map_err(Broken::lost)?;
        let first = encoded(FrameType::Upload, &wire::Upload::from(&self.upload));
        let mut stream = BlobStream::open(&connection, first).await?;
        let state = stream.frame().await?;
        if state.kind != FrameType::UploadState {
            return Err(Broken::lost("the gateway did not say where to go on"));
        }
        let state: wire::UploadState = state.message().map_err(Broken::lost)?;
        let size = self.upload.size;
        if state.offset > size {
            return Err(Broken::lost("the gateway has more than there is"));
        }
        self.resumed = state.offset > 0 && state.offset < size;
        self.kept = self.kept.max(state.offset);
        self.tell(state.offset);
        self.send_from(state.offset, &mut stream).await?;
        let _ = stream.send.finish();
        let uploaded = stream.frame().await?;
        if uploaded.kind != FrameType::Uploaded {
            return Err(Broken::lost("the gateway did not confirm the upload"));
        }
        let uploaded: wire::Uploaded = uploaded.message().map_err(Broken::lost)?;
        if uploaded.size != size || uploaded.hash.as_ref() != self.upload.hash.as_bytes() {
            return Err(Broken::lost("the gateway confirmed another file"));
        }
        self.tell(size);
        Ok(())
    }

    async fn send_from(&mut self, mut offset: u64, stream: &mut BlobStream) -> Result<(), Broken> {
        while offset < self.upload.size {
            let file = self.file.take().ok_or(Error::Closed)?;
            let (piece, file) = read_piece(file, offset, self.path).await?;
            self.file = Some(file);
            if piece.is_empty() {
                let shrank = format!("{} became shorter meanwhile", self.path.display());
                return Err(Error::Invalid(shrank).into());
            }
            let mut piece = Bytes::from(piece);
            // A file that grows meanwhile has another hash; what was announced is sent.
            let left = usize::try_from(self.upload.size - offset).unwrap_or(usize::MAX);
            piece.truncate(left);
            while !piece.is_empty() {
                let part = piece.split_to(piece.len().min(WRITE_BYTES));
                let length = part.len() as u64;
                if stream.send.write_chunk(part).await.is_err() {
                    return Err(stream.refusal().await);
                }
                offset += length;
                self.sent += length;
                tokio::task::yield_now().await;
            }
            self.tell(offset);
        }
        Ok(())
    }

    fn tell(&mut self, done: u64) {
        (self.progress)(Progress {
            done,
            total: self.upload.size,
        });
    }
}
