//! One question on one request stream, and its answer; again, while the gateway cannot answer it yet.

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
/// Times that a question is asked again because the gateway is busy, still brings a conversation up to date (QP-HISTORY-6), or is
/// behind what this device was told.
const REPEATS_MAX: u32 = 8;
/// Longest pause before that, whatever the gateway says.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// First pause where the gateway names none; each next one is twice as long, about five seconds all together.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Requests yield to messages when the path is narrow.
const REQUEST_PRIORITY: i32 = -1;

/// What asking once has brought.
#[derive(Debug)]
pub(crate) enum Once<T> {
    /// An answer that counts.
    Answer(T),
    /// The gateway has no time; it says when to ask again.
    Busy(Rejection),
    /// An answer that lacks something of what this device was told.
    Behind,
}

/// Whoever asks, and how often they have. One for each question, so that all reasons to ask again have one bound together.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    repeats: u32,
}

impl Patience {
    /// Gives the answer, or waits until it is time to ask again (`None`). Fails at the bound with the reason to wait.
    pub(crate) async fn take<T>(&mut self, once: Once<T>) -> Result<Option<T>, Error> {
        let (pause, why) = match once {
            Once::Answer(answer) => return Ok(Some(answer)),
            Once::Busy(rejection) => {
                let pause = Duration::from_millis(rejection.retry_after_ms);
                (pause, Error::Refused(Refusal::from(rejection)))
            }
            Once::Behind => {
                let why = "the history is behind what was told; ask for it again";
                (PAUSE_MIN * (1 << self.repeats), Error::Offline(why.into()))
            }
        };
        if self.repeats >= REPEATS_MAX {
            return Err(why);
        }
        self.repeats += 1;
        tokio::time::sleep(pause.min(PAUSE_MAX)).await;
        Ok(None)
    }
}

/// Asks for a page of history, once.
pub(crate) async fn history(
    shared: &Arc<Shared>,
    request: &HistoryRequest,
) -> Result<Once<HistoryPage>, Error> {
    let mut out = BytesMut::new();
    let request = wire::HistoryRequest::from(request);
    frame::encode(FrameType::History, &request, &mut out);
    let frame = ask(shared, &out).await?;
    read::<wire::HistoryPage, _>(&frame, FrameType::HistoryPage)
}

/// Asks for anything else, until the gateway has time.
pub(crate) async fn query(shared: &Arc<Shared>, query: &Query) -> Result<Answer, Error> {
    let mut out = BytesMut::new();
    frame::encode(FrameType::Query, &wire::Query::from(query), &mut out);
    let mut patience = Patience::default();
    loop {
        let frame = ask(shared, &out).await?;
        let once = read::<wire::Answer, _>(&frame, FrameType::Answer)?;
        if let Some(answer) = patience.take(once).await? {
            return Ok(answer);
        }
    }
}

async fn ask(shared: &Arc<Shared>, question: &[u8]) -> Result<RawFrame, Error> {
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

fn read<M, T>(frame: &RawFrame, expected: FrameType) -> Result<Once<T>, Error>
where
    M: prost::Message + Default,
    T: TryFrom<M, Error = Violation>,
{
    if frame.kind == expected {
        let answer = frame.message::<M>().and_then(T::try_from);
        return answer.map(Once::Answer).map_err(broken);
    }
    if frame.kind == FrameType::Failure {
        let rejected = frame.message::<wire::Rejected>().map_err(broken)?;
        let rejection = Rejection::from(rejected);
        return if rejection.code == RejectCode::Busy {
            Ok(Once::Busy(rejection))
        } else {
            Err(Error::Refused(Refusal::from(rejection)))
        };
    }
    Err(Error::Offline(
        "the gateway answered with another frame".into(),
    ))
}

fn broken(error: impl std::fmt::Display) -> Error {
    Error::Offline(error.to_string())
}
