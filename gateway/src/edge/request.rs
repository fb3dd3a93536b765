//! Serves one stream that a client opened beside S0: a request is answered with one frame, a blob stream is passed on.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream, VarInt};
use quipu_protocol::error::{RejectCode, StreamCode};
use quipu_protocol::event::Rejection;
use quipu_protocol::frame::{self, FrameDecoder, FrameError, FrameType, RawFrame, StreamKind};
use quipu_protocol::history::{HistoryPage, HistoryRequest};
use quipu_protocol::id::UserId;
use quipu_protocol::query::{Answer, Query};
use quipu_protocol::wire;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::{Shared, blob};
use crate::ephemeral::Watching;
use crate::queries::{Asking, QueryError};

/// How long one request may take, from its first byte until the last byte of the answer is within the peer's window.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes read from the stream at once.
const READ_BYTES_MAX: usize = 4 * 1024;
/// Below the session's own streams: scrolling back never delays a message.
const PRIORITY: i32 = -10;

/// Serves a stream of a welcomed session, which is allowed so many blob streams as `blobs` has left.
pub(super) async fn serve(
    shared: Arc<Shared>,
    watching: Arc<Watching>,
    mut send: SendStream,
    mut receive: RecvStream,
    place: OwnedSemaphorePermit,
    blobs: Arc<Semaphore>,
) {
    let metrics = &shared.with.metrics;
    let user = watching.user();
    let until = Instant::now() + REQUEST_TIME_MAX;
    let first = timeout_at(until, read_first(&mut receive)).await;
    let failed = match first {
        Ok(Ok(first)) if StreamKind::BlobFromClient.frames().contains(first.kind) => {
            drop(place);
            let Ok(_one) = blobs.try_acquire() else {
                metrics.media_transfers_busy.inc();
                return refuse(&mut send, &mut receive, StreamCode::Busy);
            };
            let allowed = shared.with.rates.command(&user).map_err(too_often);
            let place = allowed.and_then(|()| shared.with.media.place(user));
            let (with, streams) = (&shared.with, (&mut send, &mut receive));
            return blob::serve(with, user, &first, place, streams).await;
        }
        Ok(Ok(first)) => {
            match timeout_at(until, answer(&shared, &watching, &first, &mut send)).await {
                Ok(Ok(())) => None,
                Ok(Err(code)) => Some(code),
                Err(_) => Some(StreamCode::Cancelled),
            }
        }
        Ok(Err(code)) => Some(code),
        Err(_) => Some(StreamCode::Cancelled),
    };
    if let Some(code) = failed {
        metrics.requests_reset.inc();
        refuse(&mut send, &mut receive, code);
    }
    drop(place);
}

/// Resets both directions of a stream.
pub(super) fn refuse(send: &mut SendStream, receive: &mut RecvStream, code: StreamCode) {
    let code = VarInt::from_u32(code.code());
    // An error means that the stream, or the connection, is gone already.
    let _ = send.reset(code);
    let _ = receive.stop(code);
}

async fn answer(
    shared: &Shared,
    watching: &Arc<Watching>,
    first: &RawFrame,
    send: &mut SendStream,
) -> Result<(), StreamCode> {
    let _ = send.set_priority(PRIORITY);
    let request = read_request(first)?;
    let user = watching.user();
    let allowed = shared.with.rates.command(&user).map_err(too_often);
    let result = match allowed.map(|()| request) {
        Ok(Request::History(request)) => history(shared, user, request).await,
        Ok(Request::Query(query)) => query_answer(shared, watching, query).await,
        Err(rejection) => Err(rejection),
    };
    let metrics = &shared.with.metrics;
    let mut bytes = BytesMut::new();
    match result {
        Ok(Answered::Page(page)) => {
            metrics.requests_served.inc();
            let page = wire::HistoryPage::from(&page);
            frame::encode(FrameType::HistoryPage, &page, &mut bytes);
        }
        Ok(Answered::Answer(answer)) => {
            metrics.requests_served.inc();
            let answer = wire::Answer::from(answer);
            frame::encode(FrameType::Answer, &answer, &mut bytes);
        }
        Err(rejection) => {
            metrics.requests_failed.inc();
            let rejected = wire::Rejected::from(&rejection);
            frame::encode(FrameType::Failure, &rejected, &mut bytes);
        }
    }
    // A failed write means that the peer no longer wants the answer.
    send.write_all_chunks(&mut [bytes.freeze()])
        .await
        .map_err(|_| StreamCode::Cancelled)?;
    let _ = send.finish();
    Ok(())
}

/// Says when to ask again.
fn too_often(wait: Duration) -> Rejection {
    let milliseconds = wait.as_micros().div_ceil(1000);
    Rejection {
        retry_after_ms: u64::try_from(milliseconds).unwrap_or(u64::MAX),
        ..Rejection::new(
            RejectCode::RateLimited,
            "QP-RATE-3: this user asks too often",
        )
    }
}

/// What a stream asks.
enum Request {
    History(wire::HistoryRequest),
    Query(wire::Query),
}

/// What it gets.
enum Answered {
    Page(HistoryPage),
    Answer(Answer),
}

async fn history(
    shared: &Shared,
    user: UserId,
    request: wire::HistoryRequest,
) -> Result<Answered, Rejection> {
    let request = HistoryRequest::try_from(request)?;
    let page = shared.with.queries.history(user, request).await;
    page.map_err(failed)?.map(Answered::Page)
}

async fn query_answer(
    shared: &Shared,
    watching: &Arc<Watching>,
    query: wire::Query,
) -> Result<Answered, Rejection> {
    let query = Query::try_from(query)?;
    let user = watching.user();
    let asking = Asking {
        user,
        connected: shared.with.registry.devices(&user),
        watching: Arc::clone(watching),
    };
    let answer = shared.with.queries.answer(asking, query).await;
    answer.map_err(failed)?.map(Answered::Answer)
}

fn failed(error: QueryError) -> Rejection {
    Rejection::new(RejectCode::Internal, error.to_string())
}

fn read_request(first: &RawFrame) -> Result<Request, StreamCode> {
    // The decoder admits these two, and those of blob streams, which do not come here.
    let request = if first.kind == FrameType::Query {
        first.message().map(Request::Query)
    } else {
        first.message().map(Request::History)
    };
    request.map_err(|_| StreamCode::FrameError)
}

/// The frame that states what the stream is for.
async fn read_first(receive: &mut RecvStream) -> Result<RawFrame, StreamCode> {
    let (request, blob) = (StreamKind::RequestFromClient, StreamKind::BlobFromClient);
    let mut decoder = FrameDecoder::new(request);
    decoder.accept(request.frames().or(blob.frames()));
    loop {
        let mut bytes: Bytes = match receive.read_chunk(READ_BYTES_MAX, true).await {
            Ok(Some(chunk)) => chunk.bytes,
            // The stream ended before its frame did.
            Ok(None) => return Err(StreamCode::FrameError),
            // The peer took it back, or is gone.
            Err(_) => return Err(StreamCode::Cancelled),
        };
        if let Some(frame) = decoder.decode(&mut bytes).map_err(stream_code)? {
            // The bytes of an upload come after UPLOAD_STATE, not before it.
            if blob.frames().contains(frame.kind) && !bytes.is_empty() {
                return Err(StreamCode::FrameError);
            }
            return Ok(frame);
        }
    }
}

fn stream_code(error: FrameError) -> StreamCode {
    match error {
        FrameError::TooLarge { .. } => StreamCode::FrameTooLarge,
        FrameError::Unsupported(_) => StreamCode::UnknownStream,
        FrameError::Unexpected(_) => StreamCode::FrameError,
    }
}
