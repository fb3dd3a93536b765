//! One question on one request stream, and its answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::Rejection;
use quipu_protocol::frame::{self, FrameDecoder, FrameType, RawFrame, StreamKind};
use quipu_protocol::history::{HistoryPage, HistoryRequest};
use quipu_protocol::limits::STREAM_WINDOW_BYTES;
use quipu_protocol::query::{Answer, Query};
use quipu_protocol::violation::Violation;
use quipu_protocol::wire;

use crate::driver::Shared;
use crate::error::{Error, Refusal};

/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Times that a question is asked again because the gateway is busy, or still brings a conversation up to date (QP-HISTORY-6).
const BUSY_REPEATS_MAX: u32 = 8;
/// Longest pause before that, whatever the gateway says.
const BUSY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Requests yield to messages when the path is narrow.
const REQUEST_PRIORITY: i32 = -1;

/// Asks for a page of history.
pub(crate) async fn history(
    shared: &Arc<Shared>,
    request: &HistoryRequest,
) -> Result<HistoryPage, Error> {
    let mut out = BytesMut::new();
    let request = wire::HistoryRequest::from(request);
    frame::encode(FrameType::History, &request, &mut out);
    let frame = ask(shared, &out).await?;
    read::<wire::HistoryPage, _>(&frame, FrameType::HistoryPage)
}

/// Asks for anything else.
pub(crate) async fn query(shared: &Arc<Shared>, query: &Query) -> Result<Answer, Error> {
    let mut out = BytesMut::new();
    frame::encode(FrameType::Query, &wire::Query::from(query), &mut out);
    let frame = ask(shared, &out).await?;
    read::<wire::Answer, _>(&frame, FrameType::Answer)
}

async fn ask(shared: &Arc<Shared>, question: &[u8]) -> Result<RawFrame, Error> {
    for _ in 0..BUSY_REPEATS_MAX {
        let answer = ask_once(shared, question).await?;
        let Some(pause) = busy(&answer)? else {
            return Ok(answer);
        };
        tokio::time::sleep(pause).await;
    }
    ask_once(shared, question).await
}

/// How long to wait before a busy gateway is asked again.
fn busy(answer: &RawFrame) -> Result<Option<Duration>, Error> {
    if answer.kind != FrameType::Failure {
        return Ok(None);
    }
    let rejected = answer.message::<wire::Rejected>().map_err(broken)?;
    let pause = Duration::from_millis(rejected.retry_after_ms).min(BUSY_PAUSE_MAX);
    Ok((rejected.code == RejectCode::Busy.code()).then_some(pause))
}

async fn ask_once(shared: &Arc<Shared>, question: &[u8]) -> Result<RawFrame, Error> {
    let connection = shared.online()?;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, exchange(&connection, question));
    answer
        .await
        .map_err(|_| Error::Offline("the gateway did not answer in time".into()))?
}

async fn exchange(connection: &quinn::Connection, question: &[u8]) -> Result<RawFrame, Error> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(broken)?;
    // Only fails on a stream that is closed, which the write will say.
    let _ = send.set_priority(REQUEST_PRIORITY);
    send.write_all(question).await.map_err(broken)?;
    send.finish().map_err(broken)?;
    let mut decoder = FrameDecoder::new(StreamKind::RequestFromGateway);
    while let Some(chunk) = receive
        .read_chunk(STREAM_WINDOW_BYTES, true)
        .await
        .map_err(broken)?
    {
        let mut bytes = chunk.bytes;
        if let Some(frame) = decoder.decode(&mut bytes).map_err(broken)? {
            return Ok(frame);
        }
    }
    Err(Error::Offline(
        "the gateway ended the request without an answer".into(),
    ))
}

fn read<M, T>(frame: &RawFrame, expected: FrameType) -> Result<T, Error>
where
    M: prost::Message + Default,
    T: TryFrom<M, Error = Violation>,
{
    if frame.kind == expected {
        return frame.message::<M>().and_then(T::try_from).map_err(broken);
    }
    if frame.kind == FrameType::Failure {
        let rejected = frame.message::<wire::Rejected>().map_err(broken)?;
        return Err(Error::Refused(Refusal::from(Rejection::from(rejected))));
    }
    Err(Error::Offline(
        "the gateway answered with another frame".into(),
    ))
}

fn broken(error: impl std::fmt::Display) -> Error {
    Error::Offline(error.to_string())
}
