//! Serves one request stream: reads one frame, answers with one frame, and is gone.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream, VarInt};
use quipu_protocol::error::{RejectCode, StreamCode};
use quipu_protocol::event::Rejection;
use quipu_protocol::frame::{self, FrameDecoder, FrameError, FrameType, StreamKind};
use quipu_protocol::history::{HistoryPage, HistoryRequest};
use quipu_protocol::id::UserId;
use quipu_protocol::query::{Answer, Query};
use quipu_protocol::wire;
use tokio::sync::OwnedSemaphorePermit;

use super::Shared;
use crate::queries::QueryError;

/// How long one request may take, from its first byte until the last byte of the answer is within the peer's window.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes read from the stream at once.
const READ_BYTES_MAX: usize = 4 * 1024;
/// Below the session's own streams: scrolling back never delays a message.
const PRIORITY: i32 = -10;

/// Serves a request of a welcomed session.
pub(super) async fn serve(
    shared: Arc<Shared>,
    user: UserId,
    mut send: SendStream,
    mut receive: RecvStream,
    place: OwnedSemaphorePermit,
) {
    let answered = answer(&shared, user, &mut send, &mut receive);
    let failed = match tokio::time::timeout(REQUEST_TIME_MAX, answered).await {
        Ok(Ok(())) => None,
        Ok(Err(code)) => Some(code),
        Err(_) => Some(StreamCode::Cancelled),
    };
    if let Some(code) = failed {
        shared.with.metrics.requests_reset.inc();
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
    user: UserId,
    send: &mut SendStream,
    receive: &mut RecvStream,
) -> Result<(), StreamCode> {
    let _ = send.set_priority(PRIORITY);
    let request = read_request(receive).await?;
    let allowed = shared.with.rates.command(&user).map_err(too_often);
    let result = match allowed.map(|()| request) {
        Ok(Request::History(request)) => history(shared, user, request).await,
        Ok(Request::Query(query)) => query_answer(shared, user, query).await,
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
    user: UserId,
    query: wire::Query,
) -> Result<Answered, Rejection> {
    let query = Query::try_from(query)?;
    let registry = &shared.with.registry;
    let connected = registry.devices(&user);
    let answer = shared.with.queries.answer(user, connected, query).await;
    answer.map_err(failed)?.map(Answered::Answer)
}

fn failed(error: QueryError) -> Rejection {
    Rejection::new(RejectCode::Internal, error.to_string())
}

async fn read_request(receive: &mut RecvStream) -> Result<Request, StreamCode> {
    let mut decoder = FrameDecoder::new(StreamKind::RequestFromClient);
    loop {
        let mut bytes: Bytes = match receive.read_chunk(READ_BYTES_MAX, true).await {
            Ok(Some(chunk)) => chunk.bytes,
            // The stream ended before its frame did.
            Ok(None) => return Err(StreamCode::FrameError),
            // The peer took it back, or is gone.
            Err(_) => return Err(StreamCode::Cancelled),
        };
        if let Some(frame) = decoder.decode(&mut bytes).map_err(stream_code)? {
            // The decoder admits these two.
            let request = if frame.kind == FrameType::Query {
                frame.message().map(Request::Query)
            } else {
                frame.message().map(Request::History)
            };
            return request.map_err(|_| StreamCode::FrameError);
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
