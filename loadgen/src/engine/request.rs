//! One question on one request stream, and its answer.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use quipu_protocol::event::Rejection;
use quipu_protocol::frame::{FrameDecoder, FrameType, RawFrame, StreamKind, encoded};
use quipu_protocol::history::{HistoryPage, HistoryRequest};
use quipu_protocol::query::{Answer, Query};
use quipu_protocol::wire;

/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// The gateway refused a request or a transfer.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", .0.code, .0.reason)]
pub(super) struct Refused(pub(super) Rejection);

/// Asks for a page of history.
pub(super) async fn history(
    connection: &quinn::Connection,
    request: &HistoryRequest,
) -> anyhow::Result<HistoryPage> {
    let question = encoded(FrameType::History, &wire::HistoryRequest::from(request));
    let frame = ask(connection, question).await?;
    expect(&frame, FrameType::HistoryPage)?;
    Ok(frame.message::<wire::HistoryPage>()?.try_into()?)
}

/// Asks for anything else.
pub(super) async fn query(connection: &quinn::Connection, query: &Query) -> anyhow::Result<Answer> {
    let question = encoded(FrameType::Query, &wire::Query::from(query));
    let frame = ask(connection, question).await?;
    expect(&frame, FrameType::Answer)?;
    Ok(frame.message::<wire::Answer>()?.try_into()?)
}

async fn ask(connection: &quinn::Connection, question: Bytes) -> anyhow::Result<RawFrame> {
    let answer = tokio::time::timeout(ANSWER_MAX, exchange(connection, question));
    answer.await.context("a request was not answered in time")?
}

async fn exchange(connection: &quinn::Connection, question: Bytes) -> anyhow::Result<RawFrame> {
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_chunk(question).await?;
    send.finish()?;
    let mut decoder = FrameDecoder::new(StreamKind::RequestFromGateway);
    while let Some(chunk) = receive.read_chunk(usize::MAX, true).await? {
        let mut bytes = chunk.bytes;
        if let Some(frame) = decoder.decode(&mut bytes)? {
            return Ok(frame);
        }
    }
    bail!("the gateway ended a request without an answer")
}

/// A FAILURE is a [`Refused`].
pub(super) fn expect(frame: &RawFrame, expected: FrameType) -> anyhow::Result<()> {
    if frame.kind == FrameType::Failure {
        let rejected: wire::Rejected = frame.message()?;
        return Err(Refused(Rejection::from(rejected)).into());
    }
    anyhow::ensure!(
        frame.kind == expected,
        "{} in place of {}",
        frame.kind.name(),
        expected.name()
    );
    Ok(())
}

/// How long to wait before the same is tried again, after this error; `None`: it would not help.
pub(super) fn again_after(error: &anyhow::Error, otherwise: Duration) -> Option<Duration> {
    let Some(Refused(rejection)) = error.downcast_ref::<Refused>() else {
        return Some(otherwise);
    };
    let named = Duration::from_millis(rejection.retry_after_ms);
    super::is_throttled(rejection).then(|| named.max(otherwise))
}
