//! The inbox: resuming from a cursor, acks, further devices, receipts.

use anyhow::ensure;
use quipu_protocol::error::CloseCode;
use quipu_protocol::frame::FrameType;
use quipu_protocol::id::ConversationId;
use quipu_protocol::limits;
use quipu_protocol::wire;

use crate::session::{PASSWORD, Session, login, text};
use crate::suite::Context;

/// Expects the messages number `seqs` of a conversation that the inbox has nothing beside.
async fn expect_messages(
    session: &mut Session,
    seqs: impl Iterator<Item = u64>,
) -> anyhow::Result<()> {
    for seq in seqs {
        let (inbox_seq, got) = session.message().await?;
        ensure!(
            inbox_seq == seq && got.seq == seq,
            "expected event {seq}, got {inbox_seq}: {got:?}"
        );
    }
    Ok(())
}

async fn resume_from_cursor(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    for n in 1..=5 {
        a.say(&conversation, &n.to_string()).await?;
    }
    expect_messages(&mut b, 1..=5).await?;
    b.ack(3).await?;
    b.peer.connection.close(0_u32.into(), b"");
    for n in 6..=7 {
        a.say(&conversation, &n.to_string()).await?;
    }
    let resume = wire::Resume {
        cursor: 3,
        life: b.welcome.life,
    };
    let mut back = Session::open(&context.dialer, &b.identity().hello(Some(resume))).await?;
    ensure!(
        back.welcome.resume() == wire::ResumeResult::Resumed,
        "not RESUMED"
    );
    ensure!(
        back.welcome.cursor == 3,
        "WELCOME.cursor is {}",
        back.welcome.cursor
    );
    expect_messages(&mut back, 4..=7).await?;
    a.say(&conversation, "live").await?;
    expect_messages(&mut back, 8..=8).await
}

async fn a_new_device_gets_all(context: Context) -> anyhow::Result<()> {
    let (mut a, b, conversation) = context.pair().await?;
    for n in 1..=3 {
        a.say(&conversation, &n.to_string()).await?;
    }
    let hello = login(&b.welcome.user, PASSWORD);
    let mut second = Session::open(&context.dialer, &hello).await?;
    expect_messages(&mut second, 1..=3).await
}

async fn every_device_of_both(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    let hello = login(&a.welcome.user, PASSWORD);
    let mut other = Session::open(&context.dialer, &hello).await?;
    a.say(&conversation, "to all").await?;
    for session in [&mut other, &mut b] {
        let (_, got) = session.message().await?;
        ensure!(
            got.from_device == a.welcome.device && text(&got) == "to all",
            "{got:?}"
        );
    }
    Ok(())
}

/// Far more than a delivery window: what is not acked stays with the gateway, and comes in order once it is.
async fn slow_device(context: Context) -> anyhow::Result<()> {
    const MESSAGES: u64 = 3 * limits::DELIVERY_WINDOW_EVENTS as u64;
    let (mut a, mut b, conversation) = context.pair().await?;
    for n in 1..=MESSAGES {
        let acked = a.say(&conversation, &n.to_string()).await?;
        a.ack(acked.seq).await?;
    }
    for seq in 1..=MESSAGES {
        expect_messages(&mut b, seq..=seq).await?;
        if seq % 50 == 0 || seq == MESSAGES {
            b.ack(seq).await?;
        }
    }
    a.say(&conversation, "live").await?;
    expect_messages(&mut b, MESSAGES + 1..=MESSAGES + 1).await
}

/// A device that acks nothing gets no more than a window.
async fn window_is_bounded(context: Context) -> anyhow::Result<()> {
    const MESSAGES: u64 = 2 * limits::DELIVERY_WINDOW_EVENTS as u64;
    let (mut a, mut b, conversation) = context.pair().await?;
    for n in 1..=MESSAGES {
        let acked = a.say(&conversation, &n.to_string()).await?;
        a.ack(acked.seq).await?;
    }
    expect_messages(&mut b, 1..=limits::DELIVERY_WINDOW_EVENTS as u64).await?;
    let more = tokio::time::timeout(std::time::Duration::from_millis(500), b.event()).await;
    ensure!(more.is_err(), "more than a window without an ack: {more:?}");
    b.ack(limits::DELIVERY_WINDOW_EVENTS as u64).await?;
    expect_messages(&mut b, limits::DELIVERY_WINDOW_EVENTS as u64 + 1..=MESSAGES).await
}

async fn ack_ahead(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    a.say(&conversation, "one").await?;
    expect_messages(&mut b, 1..=1).await?;
    b.ack(1_000_000).await?;
    b.peer.expect_close(&[CloseCode::ProtocolViolation]).await?;
    let mut fresh = context.user().await?;
    fresh.ack(u64::MAX).await?;
    fresh
        .peer
        .expect_close(&[CloseCode::ProtocolViolation])
        .await?;
    Ok(())
}

async fn ack_back(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    for n in 1..=3 {
        a.say(&conversation, &n.to_string()).await?;
    }
    expect_messages(&mut b, 1..=3).await?;
    for cursor in [3, 1, 3, 0] {
        b.ack(cursor).await?;
    }
    b.expect_alive().await
}

async fn say_receipt(
    session: &mut Session,
    conversation: &ConversationId,
    delivered: u64,
    read: u64,
) -> anyhow::Result<()> {
    let receipt = wire::Receipt {
        conversation: conversation.0.to_vec().into(),
        delivered,
        read,
    };
    session.s0.send(FrameType::Receipt, &receipt).await
}

async fn receipts_reach_both(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    for n in 1..=3 {
        a.say(&conversation, &n.to_string()).await?;
    }
    expect_messages(&mut b, 1..=3).await?;
    let reader = b.welcome.user.clone();
    for (said, expected) in [((2, 0), (2, 0)), ((0, 3), (3, 3))] {
        say_receipt(&mut b, &conversation, said.0, said.1).await?;
        for session in [&mut a, &mut b] {
            let (_, got) = session.receipt().await?;
            ensure!(
                got.user == reader && (got.delivered, got.read) == expected,
                "expected {expected:?}, got {got:?}"
            );
        }
    }
    Ok(())
}

/// Positions never go back, and a repetition is no event: the next event is the next message.
async fn receipts_only_grow(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    for n in 1..=3 {
        a.say(&conversation, &n.to_string()).await?;
    }
    expect_messages(&mut b, 1..=3).await?;
    say_receipt(&mut b, &conversation, 3, 2).await?;
    let (_, first) = a.receipt().await?;
    ensure!((first.delivered, first.read) == (3, 2), "{first:?}");
    for (delivered, read) in [(1, 1), (3, 2), (0, 0)] {
        say_receipt(&mut b, &conversation, delivered, read).await?;
    }
    // Answered behind the receipts on the same stream, so they have been judged by then.
    b.receipt().await?;
    b.say(&conversation, "four").await?;
    let (_, next) = a.message().await?;
    ensure!(next.seq == 4, "{next:?}");
    Ok(())
}

/// Nobody has read what is not there: a position above the head is not believed.
async fn receipt_above_the_head(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    a.say(&conversation, "one").await?;
    expect_messages(&mut b, 1..=1).await?;
    say_receipt(&mut b, &conversation, u64::MAX, u64::MAX).await?;
    let (_, got) = a.receipt().await?;
    ensure!(got.delivered <= 1 && got.read <= 1, "{got:?}");
    Ok(())
}

async fn receipt_of_a_stranger(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    a.say(&conversation, "one").await?;
    expect_messages(&mut b, 1..=1).await?;
    let mut stranger = context.user().await?;
    say_receipt(&mut stranger, &conversation, 1, 1).await?;
    let send = stranger.next_send(&conversation, "x");
    stranger.s0.send(FrameType::Send, &send).await?;
    stranger.rejection().await?;
    b.say(&conversation, "two").await?;
    let (_, next) = a.message().await?;
    ensure!(next.seq == 2, "{next:?}");
    Ok(())
}

cases! {
    "inbox/resume-from-cursor", ["QP-RESUME-1", "QP-RESUME-2", "QP-ACK-1", "QP-EVENT-1"], resume_from_cursor;
    "inbox/a-new-device-gets-all", ["QP-RESUME-1"], a_new_device_gets_all;
    "inbox/every-device-of-both", ["QP-SEND-1"], every_device_of_both;
    "inbox/slow-device", ["QP-ACK-1", "QP-EVENT-1"], slow_device;
    "inbox/window-is-bounded", ["QP-ACK-5"], window_is_bounded;
    "inbox/ack-ahead", ["QP-ACK-2"], ack_ahead;
    "inbox/ack-back", ["QP-ACK-2"], ack_back;
    "receipt/reaches-both", ["QP-RECEIPT-1", "QP-EVENT-6"], receipts_reach_both;
    "receipt/only-grows", ["QP-RECEIPT-2"], receipts_only_grow;
    "receipt/above-the-head", ["QP-RECEIPT-2"], receipt_above_the_head;
    "receipt/of-a-stranger", ["QP-RECEIPT-1"], receipt_of_a_stranger;
}
