//! One file over one blob stream, in one direction.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use quipu_protocol::frame::{FrameDecoder, FrameType, RawFrame, StreamKind, encoded};
use quipu_protocol::media::{Blob, Download, Upload};
use quipu_protocol::wire;

use super::request;

/// How long one try may take.
const TRANSFER_MAX: Duration = Duration::from_secs(60);
/// What waits on all other streams goes before what waits on these (QP-BLOB-2).
const PRIORITY: i32 = -2;

/// Brings a file, from where the gateway stopped.
pub(super) async fn upload(
    connection: &quinn::Connection,
    upload: &Upload,
    bytes: &[u8],
) -> anyhow::Result<()> {
    let brought = tokio::time::timeout(TRANSFER_MAX, bring(connection, upload, bytes));
    brought.await.context("an upload took too long")?
}

async fn bring(
    connection: &quinn::Connection,
    upload: &Upload,
    bytes: &[u8],
) -> anyhow::Result<()> {
    let first = encoded(FrameType::Upload, &wire::Upload::from(upload));
    let mut stream = BlobStream::open(connection, first).await?;
    let state = stream.expect(FrameType::UploadState).await?;
    let offset = state.message::<wire::UploadState>()?.offset;
    let rest = bytes.get(usize::try_from(offset)?..);
    let rest = rest.context("the gateway has more of the file than there is")?;
    // A gateway that refuses the rest says why on its own side of the stream.
    let _ = stream.send.write_all(rest).await;
    let _ = stream.send.finish();
    let uploaded = stream.expect(FrameType::Uploaded).await?;
    let uploaded: wire::Uploaded = uploaded.message()?;
    ensure!(
        uploaded.size == upload.size && uploaded.hash.as_ref() == upload.hash.as_bytes(),
        "the gateway confirmed another file"
    );
    Ok(())
}

/// Fetches a file of `size` bytes. Says whether every byte of it is right.
pub(super) async fn download(
    connection: &quinn::Connection,
    asked: &Download,
    size: u64,
) -> anyhow::Result<bool> {
    let fetched = tokio::time::timeout(TRANSFER_MAX, fetch(connection, asked, size));
    fetched.await.context("a download took too long")?
}

async fn fetch(
    connection: &quinn::Connection,
    asked: &Download,
    size: u64,
) -> anyhow::Result<bool> {
    let first = encoded(FrameType::Download, &wire::Download::from(asked));
    let mut stream = BlobStream::open(connection, first).await?;
    let _ = stream.send.finish();
    let blob = stream.expect(FrameType::Blob).await?;
    let blob = Blob::try_from(blob.message::<wire::Blob>()?)?;
    let mut hasher = blake3::Hasher::new();
    while let Some(bytes) = stream.bytes().await? {
        hasher.update(&bytes);
        ensure!(
            hasher.count() <= blob.length,
            "more bytes came than were announced"
        );
    }
    ensure!(
        hasher.count() == blob.length,
        "the gateway ended a download early"
    );
    Ok(blob.size == size && hasher.finalize().as_bytes() == asked.hash.as_bytes())
}

struct BlobStream {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    decoder: FrameDecoder,
    /// Received and not taken yet.
    input: Bytes,
}

impl BlobStream {
    async fn open(connection: &quinn::Connection, first: Bytes) -> anyhow::Result<Self> {
        let (mut send, receive) = connection.open_bi().await?;
        // Only fails on a stream that is closed, which the write says as well.
        let _ = send.set_priority(PRIORITY);
        send.write_chunk(first).await?;
        Ok(Self {
            send,
            receive,
            decoder: FrameDecoder::new(StreamKind::BlobFromGateway),
            input: Bytes::new(),
        })
    }

    async fn expect(&mut self, kind: FrameType) -> anyhow::Result<RawFrame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.input)? {
                request::expect(&frame, kind)?;
                return Ok(frame);
            }
            let read = self.receive.read_chunk(usize::MAX, true).await?;
            self.input = read.context("the gateway ended a transfer early")?.bytes;
        }
    }

    /// The next bytes behind the frames.
    async fn bytes(&mut self) -> anyhow::Result<Option<Bytes>> {
        if !self.input.is_empty() {
            return Ok(Some(std::mem::take(&mut self.input)));
        }
        let read = self.receive.read_chunk(usize::MAX, true).await?;
        Ok(read.map(|chunk| chunk.bytes))
    }
}
