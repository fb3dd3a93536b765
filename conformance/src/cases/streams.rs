//! Streams besides S0: garbage on request streams, streams that nobody may open, and many at once.

use std::time::Duration;

use anyhow::{bail, ensure};
use quipu_protocol::error::{CloseCode, StreamCode};
use quipu_protocol::frame::FrameType;
use quipu_protocol::limits;
use quipu_protocol::wire;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::raw::{frame, header, within};
use crate::session::{Session, register};
use crate::suite::Context;

/// What a request stream that holds no request may be reset with.
const REFUSED: &[StreamCode] = &[
    StreamCode::FrameError,
    StreamCode::UnknownStream,
    StreamCode::FrameTooLarge,
];

async fn garbage_on_a_request_stream(context: Context) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(4);
    let mut user = context.user().await?;
    for _ in 0..20 {
        let mut bytes = vec![0; 500];
        random.fill_bytes(&mut bytes);
        let mut stream = user.peer.open().await?;
        // The gateway may refuse before all is written.
        let _ = stream.write(&bytes).await;
        let _ = stream.finish();
        stream.expect_reset(REFUSED).await?;
    }
    user.expect_alive().await
}

async fn wrong_frames_on_a_request_stream(context: Context) -> anyhow::Result<()> {
    let mut user = context.user().await?;
    let too_large = header(
        limits::REQUEST_FRAME_BYTES_MAX as u64 + 1,
        FrameType::History as u64,
    );
    let cases: [(Vec<u8>, &[StreamCode]); 5] = [
        (
            frame(FrameType::Hello as u64, &[]),
            &[StreamCode::FrameError, StreamCode::UnknownStream],
        ),
        (
            frame(FrameType::Event as u64, &[]),
            &[StreamCode::FrameError, StreamCode::UnknownStream],
        ),
        (frame(0x3f21, &[]), &[StreamCode::UnknownStream]),
        (too_large, &[StreamCode::FrameTooLarge]),
        (
            frame(FrameType::History as u64, &[0, 1, 2]),
            &[StreamCode::FrameError],
        ),
    ];
    for (bytes, codes) in cases {
        let mut stream = user.peer.open().await?;
        stream.write(&bytes).await?;
        stream.expect_reset(codes).await?;
    }
    user.expect_alive().await
}

async fn request_ends_inside_a_frame(context: Context) -> anyhow::Result<()> {
    let mut user = context.user().await?;
    let mut cut = user.peer.open().await?;
    cut.write(&header(30, FrameType::History as u64)).await?;
    cut.finish()?;
    cut.expect_reset(&[StreamCode::FrameError]).await?;
    let mut empty = user.peer.open().await?;
    empty.finish()?;
    empty.expect_reset(&[StreamCode::FrameError]).await?;
    user.expect_alive().await
}

async fn request_given_up(context: Context) -> anyhow::Result<()> {
    let mut user = context.user().await?;
    for _ in 0..4 * limits::REQUEST_STREAMS_MAX {
        let mut stream = user.peer.open().await?;
        stream.write(&header(30, FrameType::History as u64)).await?;
        stream.reset(StreamCode::Cancelled)?;
    }
    // Slots of streams that were given up are free again.
    user.peer.open().await?;
    user.expect_alive().await
}

/// Either no credit, or a refusal: never service.
async fn uni_stream_of_a_client(context: Context) -> anyhow::Result<()> {
    let mut user = context.user().await?;
    let opening = tokio::time::timeout(Duration::from_secs(1), user.peer.connection.open_uni());
    if let Ok(opened) = opening.await {
        let mut stream = opened?;
        stream
            .write_all(&frame(FrameType::Lane as u64, &[]))
            .await?;
        tokio::select! {
            code = stream.stopped() => {
                let code = code?.map(|code| StreamCode::from_code(code.into_inner()));
                ensure!(code == Some(StreamCode::UnknownStream), "stopped with {code:?}");
            }
            closed = user.peer.expect_close(&[CloseCode::ProtocolViolation]) => {
                closed?;
                return Ok(());
            }
        }
    }
    user.expect_alive().await
}

async fn request_before_welcome(context: Context) -> anyhow::Result<()> {
    let peer = context.dialer.connect().await?;
    let mut s0 = peer.open().await?;
    s0.write(&header(100, FrameType::Hello as u64)).await?;
    let mut early = peer.open().await?;
    early
        .send(FrameType::History, &wire::HistoryRequest::default())
        .await?;
    tokio::select! {
        reset = early.expect_reset(&[StreamCode::NotWelcomed]) => reset.map(drop),
        // A gateway that does not look at streams before WELCOME gives up on HELLO in the end.
        closed = peer.connection.closed() => bail!("the connection was closed: {closed}"),
    }
}

async fn many_requests(context: Context) -> anyhow::Result<()> {
    const REQUESTS: usize = 500;
    let (mut a, _b, conversation) = context.pair().await?;
    a.say(&conversation, "one").await?;
    let request = wire::HistoryRequest {
        conversation: conversation.0.to_vec().into(),
        limit: 10,
        ..Default::default()
    };
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..REQUESTS {
        let (peer, request) = (a.peer.clone(), request.clone());
        asked.spawn(async move {
            // Beyond the limit QUIC itself makes the opener wait for credit.
            let mut stream = peer.open().await?;
            stream.send(FrameType::History, &request).await?;
            stream.finish()?;
            let page: wire::HistoryPage = stream.expect(FrameType::HistoryPage).await?;
            ensure!(page.messages.len() == 1, "{page:?}");
            Ok(())
        });
    }
    while let Some(answer) = within("answers", asked.join_next()).await? {
        answer??;
    }
    a.expect_alive().await
}

/// Requests left half open take their slots and nothing more: S0 and the lane go on.
async fn stuck_requests(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    let mut stuck = Vec::new();
    for _ in 0..limits::REQUEST_STREAMS_MAX {
        let mut stream = a.peer.open().await?;
        stream.write(&header(30, FrameType::History as u64)).await?;
        stuck.push(stream);
    }
    a.say(&conversation, "still here").await?;
    b.message().await?;
    a.peer.expect_open()
}

async fn change_of_port(context: Context) -> anyhow::Result<()> {
    let moving = context.dialer.another()?;
    let mut a = Session::open(&moving, &register(&context.fresh_name())).await?;
    let mut b = context.user().await?;
    let conversation = a.open_direct(&b.welcome.user).await?;
    for n in 1..=3 {
        moving.change_port()?;
        a.say(&conversation, "from elsewhere").await?;
        let (_, got) = b.message().await?;
        ensure!(got.seq == n, "{got:?}");
    }
    Ok(())
}

cases! {
    "conn/change-of-port", ["QP-ALIVE-3"], change_of_port;
    "stream/garbage-request", ["QP-STREAM-5", "QP-FRAME-9"], garbage_on_a_request_stream;
    "stream/wrong-frames", ["QP-STREAM-5", "QP-FRAME-3", "QP-FRAME-7", "QP-FRAME-8"], wrong_frames_on_a_request_stream;
    "stream/ends-inside-a-frame", ["QP-FRAME-9"], request_ends_inside_a_frame;
    "stream/given-up", ["QP-STREAM-4"], request_given_up;
    "stream/uni-of-a-client", ["QP-CONN-3", "QP-STREAM-5"], uni_stream_of_a_client;
    "stream/before-welcome", ["QP-STREAM-4"], request_before_welcome;
    "stream/many-requests", ["QP-CONN-3", "QP-STREAM-4"], many_requests;
    "stream/stuck-requests", ["QP-CONN-3"], stuck_requests;
}
