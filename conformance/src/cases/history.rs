//! HISTORY: pages from either end, their limits, and who may read.

use anyhow::{bail, ensure};
use quipu_protocol::error::RejectCode;
use quipu_protocol::frame::FrameType;
use quipu_protocol::id::ConversationId;
use quipu_protocol::limits;
use quipu_protocol::wire;

use crate::session::{Session, text};
use crate::suite::Context;

/// Asks on a stream of its own; the gateway ends the stream behind its answer.
async fn ask(
    session: &Session,
    request: &wire::HistoryRequest,
) -> anyhow::Result<Result<wire::HistoryPage, wire::Rejected>> {
    let mut stream = session.peer.open().await?;
    stream.send(FrameType::History, request).await?;
    stream.finish()?;
    let Some(frame) = stream.next().await? else {
        bail!("no answer to {request:?}");
    };
    ensure!(stream.next().await?.is_none(), "more than one answer");
    match frame.kind {
        kind if kind == FrameType::HistoryPage as u64 => {
            Ok(Ok(prost::Message::decode(frame.body)?))
        }
        kind if kind == FrameType::Failure as u64 => Ok(Err(prost::Message::decode(frame.body)?)),
        other => bail!("an answer of type {other:#x}"),
    }
}

fn range(conversation: &ConversationId, first: u64, last: u64) -> wire::HistoryRequest {
    wire::HistoryRequest {
        conversation: conversation.0.to_vec().into(),
        first,
        last,
        limit: 256,
        newest_first: false,
    }
}

async fn expect_page(
    session: &Session,
    request: wire::HistoryRequest,
    seqs: impl Iterator<Item = u64>,
    more: bool,
    head: u64,
) -> anyhow::Result<()> {
    let page = match ask(session, &request).await? {
        Ok(page) => page,
        Err(rejected) => bail!("{request:?} was refused: {rejected:?}"),
    };
    let got: Vec<u64> = page.messages.iter().map(|message| message.seq).collect();
    let expected: Vec<u64> = seqs.collect();
    ensure!(
        got == expected,
        "{request:?} gave {got:?} instead of {expected:?}"
    );
    ensure!(
        page.more == more && page.head == head,
        "{request:?}: {} {}",
        page.more,
        page.head
    );
    ensure!(
        page.messages
            .iter()
            .all(|message| text(message) == message.seq.to_string()),
        "texts are not those that were sent"
    );
    Ok(())
}

/// A conversation of ten messages, each saying its seq, of which both were told.
async fn ten(context: &Context) -> anyhow::Result<(Session, Session, ConversationId)> {
    let (mut a, mut b, conversation) = context.pair().await?;
    for n in 1..=10 {
        a.say(&conversation, &n.to_string()).await?;
        b.message().await?;
    }
    Ok((a, b, conversation))
}

async fn ranges(context: Context) -> anyhow::Result<()> {
    let (a, b, conversation) = ten(&context).await?;
    for session in [&a, &b] {
        expect_page(session, range(&conversation, 0, 0), 1..=10, false, 10).await?;
    }
    expect_page(&a, range(&conversation, 4, 6), 4..=6, false, 10).await?;
    expect_page(&a, range(&conversation, 8, 0), 8..=10, false, 10).await?;
    expect_page(&a, range(&conversation, 0, 2), 1..=2, false, 10).await?;
    expect_page(&a, range(&conversation, 11, 0), 0..0, false, 10).await?;
    expect_page(&a, range(&conversation, 9, 1_000), 9..=10, false, 10).await
}

async fn pages_forward(context: Context) -> anyhow::Result<()> {
    let (a, _b, conversation) = ten(&context).await?;
    for (first, seqs, more) in [(1, 1..=4, true), (5, 5..=8, true), (9, 9..=10, false)] {
        let request = wire::HistoryRequest {
            limit: 4,
            ..range(&conversation, first, 0)
        };
        expect_page(&a, request, seqs, more, 10).await?;
    }
    Ok(())
}

async fn pages_backward(context: Context) -> anyhow::Result<()> {
    let (a, _b, conversation) = ten(&context).await?;
    for (last, seqs, more) in [(0, 7..=10, true), (6, 3..=6, true), (2, 1..=2, false)] {
        let request = wire::HistoryRequest {
            limit: 4,
            newest_first: true,
            ..range(&conversation, 0, last)
        };
        expect_page(&a, request, seqs, more, 10).await?;
    }
    Ok(())
}

/// Thirty longest texts do not fit a page: it ends early, says so, and makes progress.
async fn pages_are_bounded_in_bytes(context: Context) -> anyhow::Result<()> {
    const MESSAGES: u64 = 30;
    let (mut a, mut b, conversation) = context.pair().await?;
    let longest = "x".repeat(limits::TEXT_BYTES_MAX);
    for _ in 0..MESSAGES {
        let acked = a.say(&conversation, &longest).await?;
        a.ack(acked.seq).await?;
        let (inbox_seq, _) = b.message().await?;
        b.ack(inbox_seq).await?;
    }
    let mut next = 1;
    let mut pages = 0;
    while next <= MESSAGES {
        let page = match ask(&a, &range(&conversation, next, 0)).await? {
            Ok(page) => page,
            Err(rejected) => bail!("refused: {rejected:?}"),
        };
        ensure!(!page.messages.is_empty(), "an empty page at {next}");
        let bytes: usize = page
            .messages
            .iter()
            .map(|message| text(message).len())
            .sum();
        ensure!(
            bytes <= limits::HISTORY_PAGE_BYTES_MAX,
            "a page of {bytes} bytes"
        );
        next += page.messages.len() as u64;
        ensure!(
            page.more == (next <= MESSAGES),
            "more is {} before {next}",
            page.more
        );
        pages += 1;
    }
    ensure!(pages > 1, "everything in one page");
    Ok(())
}

async fn refused(
    session: &Session,
    request: &wire::HistoryRequest,
    code: RejectCode,
) -> anyhow::Result<()> {
    match ask(session, request).await? {
        Err(rejected) if rejected.code == code.code() => Ok(()),
        other => bail!("expected {code} for {request:?}, got {other:?}"),
    }
}

async fn of_others(context: Context) -> anyhow::Result<()> {
    let (mut a, _b, conversation) = context.pair().await?;
    a.say(&conversation, "private").await?;
    let mut stranger = context.user().await?;
    let nowhere = ConversationId([0x22; 16]);
    for conversation in [conversation, nowhere] {
        refused(
            &stranger,
            &range(&conversation, 0, 0),
            RejectCode::UnknownConversation,
        )
        .await?;
    }
    stranger.expect_alive().await
}

async fn bad_requests(context: Context) -> anyhow::Result<()> {
    let (mut a, _b, conversation) = context.pair().await?;
    let good = range(&conversation, 0, 0);
    let limit = |limit| wire::HistoryRequest {
        limit,
        ..good.clone()
    };
    let short_id = wire::HistoryRequest {
        conversation: vec![0; 3].into(),
        ..good.clone()
    };
    for request in [
        limit(0),
        limit(257),
        limit(u32::MAX),
        range(&conversation, 5, 4),
        short_id,
    ] {
        refused(&a, &request, RejectCode::Invalid).await?;
    }
    a.expect_alive().await
}

cases! {
    "history/ranges", ["QP-HISTORY-1", "QP-HISTORY-3"], ranges;
    "history/pages-forward", ["QP-HISTORY-1"], pages_forward;
    "history/pages-backward", ["QP-HISTORY-1", "QP-HISTORY-3"], pages_backward;
    "history/bounded-in-bytes", ["QP-HISTORY-1"], pages_are_bounded_in_bytes;
    "history/of-others", ["QP-HISTORY-2"], of_others;
    "history/bad-requests", ["QP-HISTORY-2"], bad_requests;
}
