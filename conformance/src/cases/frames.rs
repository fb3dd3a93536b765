//! Hostile and odd bytes on S0: each ends one connection with the right code, or is passed over.

use anyhow::ensure;
use prost::Message as _;
use quipu_protocol::error::{CloseCode, StreamCode};
use quipu_protocol::frame::FrameType;
use quipu_protocol::limits;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use crate::raw::{frame, header, within};
use crate::session::{Session, register, send_frame, text};
use crate::suite::Context;

/// A critical frame type that no version has.
const UNKNOWN_ODD: u64 = 0x3f21;
/// An optional one.
const UNKNOWN_EVEN: u64 = 0x3f22;

/// What random bytes may be taken for; anything else is a wrong answer.
const GARBAGE: &[CloseCode] = &[
    CloseCode::ProtocolViolation,
    CloseCode::FrameTooLarge,
    CloseCode::Unsupported,
];

/// Random bytes may also be half of something valid, for which the gateway rightly waits: the end of the stream decides.
const GARBAGE_THEN_END: &[CloseCode] = &[
    CloseCode::ProtocolViolation,
    CloseCode::FrameTooLarge,
    CloseCode::Unsupported,
    CloseCode::CriticalStreamClosed,
];

async fn random_bytes_first(context: Context) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(1);
    for round in 0..20 {
        let mut bytes = vec![0; 1 << (round % 12)];
        random.fill_bytes(&mut bytes);
        let peer = context.dialer.connect().await?;
        let mut s0 = peer.open().await?;
        // The gateway may close before all is written.
        let _ = s0.write(&bytes).await;
        let _ = s0.finish();
        peer.expect_close(GARBAGE_THEN_END).await?;
    }
    Ok(())
}

async fn random_bytes_later(context: Context) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(2);
    for _ in 0..5 {
        let mut user = context.user().await?;
        let mut bytes = vec![0; 4_096];
        random.fill_bytes(&mut bytes);
        // A header that is complete and wrong for sure: critical and unknown.
        bytes.splice(0..0, header(10, UNKNOWN_ODD));
        let _ = user.s0.write(&bytes).await;
        user.peer.expect_close(GARBAGE).await?;
    }
    Ok(())
}

/// Bodies of random bytes under every known type.
async fn random_bodies(context: Context) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(3);
    for kind in [
        FrameType::Send,
        FrameType::OpenDirect,
        FrameType::Receipt,
        FrameType::Ack,
    ] {
        let mut user = context.user().await?;
        let mut body = vec![0; random.random_range(20..200)];
        random.fill_bytes(&mut body);
        // Field number 0 is illegal in any message, so that no draw is valid by luck.
        body[0] = 0;
        user.s0.write(&frame(kind as u64, &body)).await?;
        user.peer
            .expect_close(&[CloseCode::ProtocolViolation])
            .await?;
    }
    Ok(())
}

async fn ends_inside_a_frame(context: Context) -> anyhow::Result<()> {
    let hello = register(&context.fresh_name()).encode_to_vec();
    let whole = frame(FrameType::Hello as u64, &hello);
    for cut in [1, 2, whole.len() / 2, whole.len() - 1] {
        let peer = context.dialer.connect().await?;
        let mut s0 = peer.open().await?;
        s0.write(&whole[..cut]).await?;
        s0.finish()?;
        peer.expect_close(&[CloseCode::CriticalStreamClosed])
            .await?;
    }
    let mut user = context.user().await?;
    user.s0.write(&header(100, FrameType::Send as u64)).await?;
    user.s0.finish()?;
    user.peer
        .expect_close(&[CloseCode::CriticalStreamClosed])
        .await?;
    Ok(())
}

/// Refused by its header alone: no byte of the body is ever sent.
async fn oversized_by_header(context: Context) -> anyhow::Result<()> {
    let above = limits::FRAME_BYTES_MAX as u64 + 1;
    for length in [above, 1 << 30, (1 << 62) - 1] {
        let peer = context.dialer.connect().await?;
        let mut s0 = peer.open().await?;
        s0.write(&header(length, FrameType::Hello as u64)).await?;
        peer.expect_close(&[CloseCode::FrameTooLarge]).await?;
        let mut user = context.user().await?;
        user.s0
            .write(&header(length, FrameType::Send as u64))
            .await?;
        user.peer.expect_close(&[CloseCode::FrameTooLarge]).await?;
    }
    Ok(())
}

async fn unknown_critical(context: Context) -> anyhow::Result<()> {
    let peer = context.dialer.connect().await?;
    let mut s0 = peer.open().await?;
    s0.write(&frame(UNKNOWN_ODD, b"?")).await?;
    peer.expect_close(&[CloseCode::Unsupported]).await?;
    let mut user = context.user().await?;
    user.s0.write(&header(10, UNKNOWN_ODD)).await?;
    user.peer.expect_close(&[CloseCode::Unsupported]).await?;
    Ok(())
}

async fn unknown_optional(context: Context) -> anyhow::Result<()> {
    let peer = context.dialer.connect().await?;
    let mut s0 = peer.open().await?;
    s0.write(&frame(UNKNOWN_EVEN, b"grease")).await?;
    s0.send(FrameType::Hello, &register(&context.fresh_name()))
        .await?;
    let mut session = Session::welcomed(peer, s0).await?;
    for bytes in [0, 10, 4_000, limits::FRAME_BYTES_MAX] {
        session
            .s0
            .write(&frame(UNKNOWN_EVEN, &vec![0xff; bytes]))
            .await?;
    }
    session.expect_alive().await
}

/// Frames that exist, but that only the gateway sends, or only another stream carries.
async fn out_of_place(context: Context) -> anyhow::Result<()> {
    for kind in [
        FrameType::Welcome,
        FrameType::Reply,
        FrameType::GoAway,
        FrameType::Lane,
        FrameType::Event,
        FrameType::History,
        FrameType::HistoryPage,
        FrameType::Failure,
    ] {
        let mut user = context.user().await?;
        user.s0.write(&frame(kind as u64, &[])).await?;
        user.peer
            .expect_close(&[CloseCode::ProtocolViolation])
            .await?;
    }
    Ok(())
}

async fn one_byte_at_a_time(context: Context) -> anyhow::Result<()> {
    let hello = register(&context.fresh_name()).encode_to_vec();
    let peer = context.dialer.connect().await?;
    let mut s0 = peer.open().await?;
    for byte in frame(FrameType::Hello as u64, &hello) {
        s0.write(&[byte]).await?;
        // Lets the byte leave in a packet of its own, most of the time.
        tokio::task::yield_now().await;
    }
    Session::welcomed(peer, s0).await?.expect_alive().await
}

async fn long_varints(context: Context) -> anyhow::Result<()> {
    let hello = register(&context.fresh_name()).encode_to_vec();
    let mut bytes = (0x8000_0000 | hello.len() as u32).to_be_bytes().to_vec();
    bytes.extend((0xc000_0000_0000_0000 | FrameType::Hello as u64).to_be_bytes());
    bytes.extend(hello);
    let peer = context.dialer.connect().await?;
    let mut s0 = peer.open().await?;
    s0.write(&bytes).await?;
    Session::welcomed(peer, s0).await?.expect_alive().await
}

async fn unknown_fields(context: Context) -> anyhow::Result<()> {
    let (mut a, _b, conversation) = context.pair().await?;
    let mut body = send_frame(1, &conversation, "future").encode_to_vec();
    // Field 1000, varint 1.
    body.extend([0xc0, 0x3e, 0x01]);
    a.s0.write(&frame(FrameType::Send as u64, &body)).await?;
    let (_, acked) = a.message().await?;
    ensure!(acked.seq == 1 && text(&acked) == "future", "{acked:?}");
    Ok(())
}

async fn text_not_utf8(context: Context) -> anyhow::Result<()> {
    let (mut a, _b, conversation) = context.pair().await?;
    let mut body = send_frame(1, &conversation, "@@").encode_to_vec();
    let at = body.len() - 2;
    body[at..].copy_from_slice(&[0xc0, 0x80]);
    a.s0.write(&frame(FrameType::Send as u64, &body)).await?;
    a.peer.expect_close(&[CloseCode::ProtocolViolation]).await?;
    Ok(())
}

async fn s0_finished(context: Context) -> anyhow::Result<()> {
    let mut user = context.user().await?;
    user.s0.finish()?;
    user.peer
        .expect_close(&[CloseCode::CriticalStreamClosed])
        .await?;
    Ok(())
}

async fn s0_reset(context: Context) -> anyhow::Result<()> {
    let mut user = context.user().await?;
    user.s0.reset(StreamCode::Cancelled)?;
    user.peer
        .expect_close(&[CloseCode::CriticalStreamClosed])
        .await?;
    let peer = context.dialer.connect().await?;
    let mut s0 = peer.open().await?;
    s0.write(&header(100, FrameType::Hello as u64)).await?;
    s0.reset(StreamCode::Cancelled)?;
    peer.expect_close(&[CloseCode::CriticalStreamClosed])
        .await?;
    Ok(())
}

/// A hundred thousand frames of no content, in big writes: cheap to pass over, and then the session goes on.
async fn flood_of_tiny_frames(context: Context) -> anyhow::Result<()> {
    const FRAMES: usize = 100_000;
    let mut user = context.user().await?;
    let empty = frame(UNKNOWN_EVEN, &[]);
    let acks = frame(FrameType::Ack as u64, &[]);
    for tiny in [empty, acks] {
        let flood = tiny.repeat(FRAMES);
        within("a flood to be taken", user.s0.write(&flood)).await??;
    }
    user.expect_alive().await
}

/// Commands that are all refused, faster than their answers are read: the gateway must not hoard answers.
async fn flood_of_refused_commands(context: Context) -> anyhow::Result<()> {
    const SENDS: u64 = 20_000;
    let mut user = context.user().await?;
    let nowhere = quipu_protocol::id::ConversationId([9; 16]);
    let mut flood = Vec::new();
    for client_seq in 1..=SENDS {
        let body = send_frame(client_seq, &nowhere, "x").encode_to_vec();
        flood.extend(frame(FrameType::Send as u64, &body));
    }
    // Nobody reads the answers, so the gateway may stop taking commands, or close; it may not fall over.
    let wrote =
        tokio::time::timeout(std::time::Duration::from_secs(3), user.s0.write(&flood)).await;
    match wrote {
        Ok(Ok(())) | Err(_) => {
            // Reading the answers gets it going again, or it has closed with a code that says why.
            match user.rejection().await {
                Ok(_) => Ok(()),
                Err(_) => user
                    .peer
                    .expect_close(&[CloseCode::Busy, CloseCode::RateLimited])
                    .await
                    .map(drop),
            }
        }
        Ok(Err(_)) => user
            .peer
            .expect_close(&[CloseCode::Busy, CloseCode::RateLimited])
            .await
            .map(drop),
    }
}

cases! {
    "frame/random-bytes-first", ["QP-FRAME-3", "QP-FRAME-6", "QP-FRAME-9"], random_bytes_first;
    "frame/random-bytes-later", ["QP-FRAME-6"], random_bytes_later;
    "frame/random-bodies", ["QP-FRAME-8"], random_bodies;
    "frame/ends-inside-a-frame", ["QP-FRAME-9", "QP-STREAM-2"], ends_inside_a_frame;
    "frame/oversized-by-header", ["QP-FRAME-3"], oversized_by_header;
    "frame/unknown-critical", ["QP-FRAME-6"], unknown_critical;
    "frame/unknown-optional", ["QP-FRAME-5", "QP-CONN-4"], unknown_optional;
    "frame/out-of-place", ["QP-FRAME-7", "QP-FRAME-4"], out_of_place;
    "frame/one-byte-at-a-time", ["QP-FRAME-1"], one_byte_at_a_time;
    "frame/long-varints", ["QP-FRAME-2"], long_varints;
    "frame/unknown-fields", ["QP-FRAME-8"], unknown_fields;
    "frame/text-not-utf8", ["QP-FRAME-8"], text_not_utf8;
    "frame/flood-of-tiny-frames", ["QP-FRAME-5", "QP-ACK-2"], flood_of_tiny_frames;
    "frame/flood-of-refused-commands", ["QP-REPLY-3"], flood_of_refused_commands;
    "s0/finished", ["QP-STREAM-2"], s0_finished;
    "s0/reset", ["QP-STREAM-2"], s0_reset;
}
