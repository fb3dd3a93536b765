//! Fetches pages of history over request streams.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use quipu_protocol::event::Rejection;
use quipu_protocol::frame::{self, FrameDecoder, FrameType, RawFrame, StreamKind};
use quipu_protocol::history::{HistoryPage as Answer, HistoryRequest};
use quipu_protocol::id::ConversationId;
use quipu_protocol::limits::{HISTORY_PAGE_MESSAGES_MAX, STREAM_WINDOW_BYTES};
use quipu_protocol::wire;

use crate::driver::Shared;
use crate::error::{Error, Refusal};
use crate::model::{HistoryPage, HistoryRange};

/// How long one page may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(15);
/// Requests yield to messages when the path is narrow.
const REQUEST_PRIORITY: i32 = -1;

/// Fetches one page and keeps it in the cache.
pub(crate) async fn fetch(
    shared: &Arc<Shared>,
    conversation: ConversationId,
    range: HistoryRange,
) -> Result<HistoryPage, Error> {
    if !(1..=HISTORY_PAGE_MESSAGES_MAX).contains(&range.limit) {
        return Err(Error::Invalid(format!(
            "a page of history has 1 to {HISTORY_PAGE_MESSAGES_MAX} messages"
        )));
    }
    let connection = shared.online()?;
    let request = HistoryRequest {
        conversation,
        first: range.first,
        last: range.last,
        limit: range.limit as u32,
        newest_first: range.newest_first,
    };
    let answer = tokio::time::timeout(PAGE_TIMEOUT, ask(&connection, &request));
    let answer = answer
        .await
        .map_err(|_| Error::Offline("the gateway did not answer in time".into()))??;
    if answer
        .messages
        .first()
        .is_some_and(|message| message.conversation != conversation)
    {
        return Err(Error::Offline(
            "the gateway answered with another conversation".into(),
        ));
    }
    let page = HistoryPage {
        messages: answer.messages,
        more: answer.more,
        head: answer.head,
    };
    let kept = page.clone();
    shared
        .cache
        .run(move |cache| cache.keep_history(&kept.messages, kept.head))
        .await?;
    Ok(page)
}

async fn ask(connection: &quinn::Connection, request: &HistoryRequest) -> Result<Answer, Error> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(broken)?;
    // Only fails on a stream that is closed, which the write will say.
    let _ = send.set_priority(REQUEST_PRIORITY);
    let mut out = BytesMut::new();
    frame::encode(
        FrameType::History,
        &wire::HistoryRequest::from(request),
        &mut out,
    );
    send.write_all(&out).await.map_err(broken)?;
    send.finish().map_err(broken)?;
    let mut decoder = FrameDecoder::new(StreamKind::RequestFromGateway);
    while let Some(chunk) = receive
        .read_chunk(STREAM_WINDOW_BYTES, true)
        .await
        .map_err(broken)?
    {
        let mut bytes = chunk.bytes;
        if let Some(frame) = decoder.decode(&mut bytes).map_err(broken)? {
            return read(&frame);
        }
    }
    Err(Error::Offline(
        "the gateway ended the request without an answer".into(),
    ))
}

fn read(frame: &RawFrame) -> Result<Answer, Error> {
    match frame.kind {
        FrameType::HistoryPage => frame
            .message::<wire::HistoryPage>()
            .and_then(Answer::try_from)
            .map_err(broken),
        FrameType::Failure => {
            let rejected = frame.message::<wire::Rejected>().map_err(broken)?;
            let rejection = Rejection::from(rejected);
            Err(Error::Refused(Refusal {
                code: rejection.code,
                reason: rejection.reason,
            }))
        }
        FrameType::Hello
        | FrameType::Welcome
        | FrameType::Send
        | FrameType::OpenDirect
        | FrameType::Receipt
        | FrameType::Ack
        | FrameType::Command
        | FrameType::Refresh
        | FrameType::Reply
        | FrameType::GoAway
        | FrameType::Lane
        | FrameType::Event
        | FrameType::Notice
        | FrameType::History
        | FrameType::Query
        | FrameType::Answer => Err(Error::Offline(
            "the gateway answered with another frame".into(),
        )),
    }
}

fn broken(error: impl std::fmt::Display) -> Error {
    Error::Offline(error.to_string())
}
