//! Serves one blob stream: takes a file in or gives one out, in pieces, and never faster than disk and peer allow.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use quipu_protocol::error::{RejectCode, StreamCode};
use quipu_protocol::event::Rejection;
use quipu_protocol::frame::{FrameType, RawFrame, encoded};
use quipu_protocol::id::UserId;
use quipu_protocol::media::{Blob, Download, Upload};
use quipu_protocol::wire;
use tokio::time::{Instant, timeout};

use super::Surroundings;
use super::request::refuse;
use crate::media::partials::Refused;
use crate::media::receiving::Receiving;
use crate::media::{Media, MediaError, Place, Sending, Started};
use crate::telemetry::Metrics;

/// Below everything else of the connection: a video never delays a word.
const PRIORITY: i32 = -20;
/// Bytes of an upload that are collected before they go to the disk.
const PIECE_BYTES: usize = 256 << 10;
/// Bytes taken from the stream at once.
const READ_BYTES_MAX: usize = 64 << 10;
/// Bytes of a download that are written at once: between two of them other streams of the connection get the buffer that
/// they share.
const WRITE_BYTES_MAX: usize = 16 << 10;
/// What a transfer must move within `media.stall_timeout`.
const PROGRESS_BYTES: u64 = 64 << 10;

/// How a transfer ends without having done what it was asked for.
enum Broken {
    /// FAILURE says why.
    Rejected(Rejection),
    /// The stream is reset.
    Reset(StreamCode),
}

impl From<Rejection> for Broken {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<MediaError> for Broken {
    fn from(error: MediaError) -> Self {
        tracing::error!(%error, "a transfer failed");
        let reason = "the gateway cannot read or keep files now";
        Self::Rejected(Rejection::new(RejectCode::Internal, reason))
    }
}

impl From<Refused> for Broken {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Rejected(rejection) => rejection.into(),
            Refused::Failed(error) => error.into(),
        }
    }
}

/// Serves a stream whose first frame was UPLOAD or DOWNLOAD, with nothing behind it yet.
pub(super) async fn serve(
    with: &Surroundings,
    user: UserId,
    first: &RawFrame,
    place: Result<Place, Rejection>,
    (send, receive): (&mut SendStream, &mut RecvStream),
) {
    let (media, metrics) = (&with.media, &*with.metrics);
    let _ = send.set_priority(PRIORITY);
    let served = match place {
        Err(rejection) => Err(rejection.into()),
        Ok(_place) if first.kind == FrameType::Upload => {
            take(media, metrics, user, first, send, receive).await
        }
        Ok(_place) => give(media, metrics, user, first, send).await,
    };
    match served {
        Ok(()) => {
            let _ = send.finish();
        }
        Err(Broken::Rejected(rejection)) => {
            let code = quinn::VarInt::from_u32(StreamCode::Cancelled.code());
            // What is still coming is not wanted. An error means that the stream has ended.
            let _ = receive.stop(code);
            let failure = wire::Rejected::from(&rejection);
            let failure = encoded(FrameType::Failure, &failure);
            match write(media, metrics, send, failure).await {
                Ok(()) => {
                    let _ = send.finish();
                }
                Err(code) => refuse(send, receive, code),
            }
        }
        Err(Broken::Reset(code)) => {
            metrics.media_transfers_reset.inc();
            refuse(send, receive, code);
        }
    }
}

/// Writes a frame to a peer that takes it within the time that a transfer may stall.
async fn write(
    media: &Media,
    metrics: &Metrics,
    send: &mut SendStream,
    frame: Bytes,
) -> Result<(), StreamCode> {
    match timeout(media.stall_timeout, send.write_chunk(frame)).await {
        Ok(Ok(())) => Ok(()),
        // The peer no longer wants the answer.
        Ok(Err(_)) => Err(StreamCode::Cancelled),
        Err(_) => {
            metrics.media_transfers_stalled.inc();
            Err(StreamCode::Cancelled)
        }
    }
}

impl From<StreamCode> for Broken {
    fn from(code: StreamCode) -> Self {
        Self::Reset(code)
    }
}

/// Takes a file in.
async fn take(
    media: &Arc<Media>,
    metrics: &Metrics,
    user: UserId,
    first: &RawFrame,
    send: &mut SendStream,
    receive: &mut RecvStream,
) -> Result<(), Broken> {
    let upload = first.message::<wire::Upload>();
    let upload = upload.map_err(|_| StreamCode::FrameError)?;
    let hash = upload.hash.clone();
    let started = match Upload::try_from(upload) {
        Ok(upload) => media.upload(user, upload).await.map_err(Broken::from),
        Err(rejection) => Err(rejection.into()),
    };
    let started = started.inspect_err(|_| {
        metrics.media_uploads_refused.inc();
    })?;
    let size = match started {
        Started::Known { size } => {
            let state = wire::UploadState { offset: size };
            write(
                media,
                metrics,
                send,
                encoded(FrameType::UploadState, &state),
            )
            .await?;
            size
        }
        Started::Receive(mut receiving) => {
            let state = wire::UploadState {
                offset: receiving.offset(),
            };
            write(
                media,
                metrics,
                send,
                encoded(FrameType::UploadState, &state),
            )
            .await?;
            take_bytes(media, metrics, &mut receiving, receive).await?;
            // A peer that has gone holds no place while the bucket is waited for; the file is finished without it.
            let gone = send.stopped();
            tokio::select! {
                done = media.finish(*receiving) => done?.size,
                _ = gone => return Err(StreamCode::Cancelled.into()),
            }
        }
    };
    let uploaded = wire::Uploaded { hash, size };
    write(
        media,
        metrics,
        send,
        encoded(FrameType::Uploaded, &uploaded),
    )
    .await?;
    Ok(())
}

/// Takes the bytes of an upload until it is whole. Whatever ends it early, the bytes that have come are kept.
async fn take_bytes(
    media: &Media,
    metrics: &Metrics,
    receiving: &mut Receiving,
    receive: &mut RecvStream,
) -> Result<(), Broken> {
    let mut piece = Vec::with_capacity(PIECE_BYTES + READ_BYTES_MAX);
    let mut progress = Progress::new(media.stall_timeout);
    let ended = loop {
        let next = tokio::select! {
            biased;
            () = receiving.cancelled() => break Err(StreamCode::Cancelled.into()),
            next = tokio::time::timeout_at(progress.until, receive.read_chunk(READ_BYTES_MAX, true)) => next,
        };
        let chunk = match next {
            Ok(Ok(Some(chunk))) => chunk.bytes,
            Ok(Ok(None)) => break Ok(()),
            Ok(Err(_)) => break Err(StreamCode::Cancelled.into()),
            Err(_) => {
                metrics.media_transfers_stalled.inc();
                break Err(StreamCode::Cancelled.into());
            }
        };
        if chunk.len() as u64 > receiving.left() - piece.len() as u64 {
            break Err(broken_size("more bytes came than were announced").into());
        }
        metrics.media_upload_bytes.inc_by(chunk.len() as u64);
        progress.moved(chunk.len());
        // Copied: a piece of a packet would keep the buffer of many packets alive.
        piece.extend_from_slice(&chunk);
        if piece.len() >= PIECE_BYTES {
            piece = receiving.write(piece).await?;
            // The disk's time is not the peer's.
            progress.restart();
        }
    };
    receiving.write(piece).await?;
    match ended {
        Ok(()) if receiving.left() > 0 => {
            Err(broken_size("fewer bytes came than were announced").into())
        }
        ended => ended,
    }
}

fn broken_size(what: &str) -> Rejection {
    Rejection::new(RejectCode::Invalid, format!("QP-BLOB-6: {what}"))
}

/// Gives a file out.
async fn give(
    media: &Media,
    metrics: &Metrics,
    user: UserId,
    first: &RawFrame,
    send: &mut SendStream,
) -> Result<(), Broken> {
    let download = first.message::<wire::Download>();
    let download = download.map_err(|_| StreamCode::FrameError)?;
    let opened = match Download::try_from(download) {
        Ok(download) => media.download(user, download).await.map_err(Broken::from),
        Err(rejection) => Err(rejection.into()),
    };
    let Sending {
        stored,
        offset,
        length,
        mut reading,
    } = opened.inspect_err(|_| {
        metrics.media_downloads_refused.inc();
    })?;
    let blob = Blob {
        size: stored.size,
        media_type: stored.media_type,
        offset,
        length,
    };
    write(
        media,
        metrics,
        send,
        encoded(FrameType::Blob, &wire::Blob::from(&blob)),
    )
    .await?;
    let mut progress = Progress::new(media.stall_timeout);
    let mut left = length;
    while let Some(part) = reading {
        // The peer has been told how much comes: a failure from here on cannot be said with a frame.
        let next = part.next().await.map_err(|error| {
            tracing::error!(%error, "a download failed");
            StreamCode::Internal
        })?;
        let Some((piece, rest)) = next else {
            break;
        };
        left = left
            .checked_sub(piece.len() as u64)
            .ok_or(StreamCode::Internal)?;
        reading = Some(rest);
        progress.restart();
        give_piece(metrics, &mut progress, send, piece).await?;
    }
    if left > 0 {
        tracing::error!(left, "a file ended before its announced length");
        return Err(StreamCode::Internal.into());
    }
    metrics.media_downloads.inc();
    Ok(())
}

async fn give_piece(
    metrics: &Metrics,
    progress: &mut Progress,
    send: &mut SendStream,
    mut piece: Bytes,
) -> Result<(), Broken> {
    while !piece.is_empty() {
        let part = piece.split_to(piece.len().min(WRITE_BYTES_MAX));
        let moved = part.len();
        match tokio::time::timeout_at(progress.until, send.write_chunk(part)).await {
            Ok(Ok(())) => progress.moved(moved),
            Ok(Err(_)) => return Err(StreamCode::Cancelled.into()),
            Err(_) => {
                metrics.media_transfers_stalled.inc();
                return Err(StreamCode::Cancelled.into());
            }
        }
        metrics.media_download_bytes.inc_by(moved as u64);
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Ends transfers that only hold their place.
struct Progress {
    window: Duration,
    until: Instant,
    moved: u64,
}

impl Progress {
    fn new(window: Duration) -> Self {
        Self {
            window,
            until: Instant::now() + window,
            moved: 0,
        }
    }

    fn moved(&mut self, bytes: usize) {
        self.moved += bytes as u64;
        if self.moved >= PROGRESS_BYTES {
            self.restart();
        }
    }

    fn restart(&mut self) {
        self.moved = 0;
        self.until = Instant::now() + self.window;
    }
}
