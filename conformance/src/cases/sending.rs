//! SEND and OPEN_DIRECT: what an ack says, what a retry answers, and what is refused.

use anyhow::ensure;
use quipu_protocol::error::{CloseCode, RejectCode};
use quipu_protocol::event::{Change, NewGroup, Note};
use quipu_protocol::frame::FrameType;
use quipu_protocol::id::ConversationId;
use quipu_protocol::limits;
use quipu_protocol::wire::{self, reply::Outcome};

use super::changes::block;
use super::groups::{drawn, new_group, note, opened};
use crate::session::{Session, send_frame, text};
use crate::suite::Context;

/// Sends and expects a rejection with `code`.
async fn refused(session: &mut Session, send: &wire::Send, code: RejectCode) -> anyhow::Result<()> {
    session.s0.send(FrameType::Send, send).await?;
    let got = session.rejection().await?;
    ensure!(
        got == code.code(),
        "expected {code}, got {}",
        RejectCode::from_code(u64::from(got))
    );
    Ok(())
}

async fn ack_is_the_event(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    let send = a.next_send(&conversation, "hello");
    a.s0.send(FrameType::Send, &send).await?;
    let (acked_at, acked) = a.message().await?;
    let (received_at, received) = b.message().await?;
    ensure!(
        acked == received,
        "two members saw {acked:?} and {received:?}"
    );
    ensure!(
        acked_at == 1 && received_at == 1,
        "the first events have inbox seq 1"
    );
    ensure!(
        acked.seq == 1
            && acked.conversation[..] == conversation.0
            && acked.id == send.id
            && acked.client_seq == send.client_seq
            && acked.from == a.welcome.user
            && acked.from_device == a.welcome.device
            && acked.to == b.welcome.user
            && acked.sent_at_ms > 0
            && text(&acked) == "hello",
        "{acked:?}"
    );
    Ok(())
}

async fn retry_answers_the_same_seq(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    let first = a.say(&conversation, "one").await?;
    let again = send_frame(first.client_seq, &conversation, "one");
    a.s0.send(FrameType::Send, &again).await?;
    let reply: wire::Reply = a.s0.expect(FrameType::Reply).await?;
    ensure!(
        reply.outcome == Some(Outcome::Accepted(wire::Accepted { seq: first.seq })),
        "{reply:?}"
    );
    let next = a.say(&conversation, "two").await?;
    ensure!(next.seq == 2, "a retry took seq {}", next.seq - 1);
    for expected in ["one", "two"] {
        let (_, got) = b.message().await?;
        ensure!(text(&got) == expected, "{got:?}");
    }
    Ok(())
}

/// The retry goes out before the first is answered: whichever way it is answered, there is one message.
async fn retry_in_flight(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    let send = a.next_send(&conversation, "once");
    a.s0.send(FrameType::Send, &send).await?;
    a.s0.send(FrameType::Send, &send).await?;
    let (_, acked) = a.message().await?;
    let reply: wire::Reply = a.s0.expect(FrameType::Reply).await?;
    ensure!(
        reply.outcome == Some(Outcome::Accepted(wire::Accepted { seq: acked.seq })),
        "{reply:?}"
    );
    a.say(&conversation, "after").await?;
    for expected in ["once", "after"] {
        let (_, got) = b.message().await?;
        ensure!(text(&got) == expected, "{got:?}");
    }
    Ok(())
}

async fn retry_on_another_connection(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    let identity = a.identity();
    let send = a.next_send(&conversation, "once");
    a.s0.send(FrameType::Send, &send).await?;
    // Received by the other: it is in the log, whatever its sender has heard.
    b.message().await?;
    a.peer.connection.close(0_u32.into(), b"");
    let resume = wire::Resume {
        cursor: 0,
        life: a.welcome.life,
    };
    let mut back = Session::open(&context.dialer, &identity.hello(Some(resume))).await?;
    let (_, message) = back.message().await?;
    ensure!(message.client_seq == send.client_seq, "{message:?}");
    back.s0.send(FrameType::Send, &send).await?;
    let reply: wire::Reply = back.s0.expect(FrameType::Reply).await?;
    ensure!(
        reply.outcome == Some(Outcome::Accepted(wire::Accepted { seq: 1 })),
        "{reply:?}"
    );
    Ok(())
}

async fn stale_client_seq(context: Context) -> anyhow::Result<()> {
    let (mut a, _b, conversation) = context.pair().await?;
    a.s0.send(FrameType::Send, &send_frame(10, &conversation, "ten"))
        .await?;
    a.message().await?;
    refused(
        &mut a,
        &send_frame(5, &conversation, "five"),
        RejectCode::StaleClientSeq,
    )
    .await
}

async fn pipelined_in_order(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    let texts: Vec<String> = (1..=limits::SENDS_IN_FLIGHT_MAX)
        .map(|n| format!("message {n}"))
        .collect();
    for said in &texts {
        let send = a.next_send(&conversation, said);
        a.s0.send(FrameType::Send, &send).await?;
    }
    for session in [&mut a, &mut b] {
        for (seq, said) in (1..).zip(&texts) {
            let (inbox_seq, got) = session.message().await?;
            ensure!(
                inbox_seq == seq && got.seq == seq && text(&got) == said,
                "expected {said} at {seq}, got {got:?}"
            );
        }
    }
    Ok(())
}

async fn one_order_for_all(context: Context) -> anyhow::Result<()> {
    const EACH: usize = 30;
    let (mut a, mut b, conversation) = context.pair().await?;
    for n in 0..EACH {
        for session in [&mut a, &mut b] {
            let said = format!("{} {n}", session.welcome.user);
            let send = session.next_send(&conversation, &said);
            session.s0.send(FrameType::Send, &send).await?;
        }
    }
    let mut seen = [Vec::new(), Vec::new()];
    for (session, seen) in [&mut a, &mut b].into_iter().zip(&mut seen) {
        for _ in 0..2 * EACH {
            let (_, message) = session.message().await?;
            seen.push((message.seq, message.from, message.client_seq));
        }
    }
    ensure!(seen[0] == seen[1], "two members saw two orders");
    ensure!(
        seen[0].iter().map(|m| m.0).eq(1..=2 * EACH as u64),
        "seqs are not dense"
    );
    Ok(())
}

async fn unknown_conversation(context: Context) -> anyhow::Result<()> {
    let (mut a, b) = (context.user().await?, context.user().await?);
    let never_opened = a.direct(&b.welcome.user)?;
    let group = ConversationId([0xff; 16]);
    for conversation in [never_opened, group] {
        let send = a.next_send(&conversation, "hello?");
        refused(&mut a, &send, RejectCode::UnknownConversation).await?;
    }
    Ok(())
}

/// A rejected SEND leaves no trace: the same number is accepted once the conversation is there.
async fn rejected_number_is_free(context: Context) -> anyhow::Result<()> {
    let (mut a, b) = (context.user().await?, context.user().await?);
    let conversation = a.direct(&b.welcome.user)?;
    let send = a.next_send(&conversation, "again");
    refused(&mut a, &send, RejectCode::UnknownConversation).await?;
    a.open_direct(&b.welcome.user).await?;
    a.s0.send(FrameType::Send, &send).await?;
    let (_, acked) = a.message().await?;
    ensure!(
        acked.seq == 1 && acked.client_seq == send.client_seq,
        "{acked:?}"
    );
    Ok(())
}

async fn rejected_stays_rejected(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    let other = b.welcome.user.clone();
    a.done(block(&other, true)).await?;
    let send = b.next_send(&conversation, "please");
    refused(&mut b, &send, RejectCode::Blocked).await?;
    a.done(block(&other, false)).await?;
    refused(&mut b, &send, RejectCode::Blocked).await?;
    let said = b.say(&conversation, "please").await?;
    ensure!(said.seq == 1, "{said:?} is not the first message");

    let id = drawn();
    let group = NewGroup {
        open: true,
        ..new_group(id, Vec::new())
    };
    opened(&mut a, &Change::CreateGroup(group)).await?;
    let send = b.next_send(&id, "let me in");
    refused(&mut b, &send, RejectCode::UnknownConversation).await?;
    let head = opened(&mut b, &Change::Join(id)).await?;
    note(&mut b, head, Note::Joined).await?;
    refused(&mut b, &send, RejectCode::UnknownConversation).await?;
    let said = b.say(&id, "let me in").await?;
    ensure!(said.seq == head + 1, "{said:?} is not behind the joining");
    Ok(())
}

async fn not_a_member(context: Context) -> anyhow::Result<()> {
    let (_a, mut b, conversation) = context.pair().await?;
    let mut stranger = context.user().await?;
    let send = stranger.next_send(&conversation, "let me in");
    refused(&mut stranger, &send, RejectCode::UnknownConversation).await?;
    let first = b.say(&conversation, "alone").await?;
    ensure!(first.seq == 1, "the stranger's message took a seq");
    Ok(())
}

async fn bad_content(context: Context) -> anyhow::Result<()> {
    let (mut a, _b, conversation) = context.pair().await?;
    let long = "x".repeat(limits::TEXT_BYTES_MAX + 1);
    let send = a.next_send(&conversation, &long);
    refused(&mut a, &send, RejectCode::TextTooLong).await?;
    let send = a.next_send(&conversation, "");
    refused(&mut a, &send, RejectCode::Invalid).await?;
    let mut send = a.next_send(&conversation, "no content");
    send.content = None;
    refused(&mut a, &send, RejectCode::Invalid).await?;
    let mut send = a.next_send(&conversation, "short id");
    send.id = vec![1; 15].into();
    refused(&mut a, &send, RejectCode::Invalid).await?;
    let longest = "x".repeat(limits::TEXT_BYTES_MAX);
    let acked = a.say(&conversation, &longest).await?;
    ensure!(
        acked.seq == 1 && text(&acked) == longest,
        "the longest text is accepted"
    );
    Ok(())
}

/// What cannot even be answered, because the answer would name it, closes the connection.
async fn bad_ids(context: Context) -> anyhow::Result<()> {
    let nowhere = ConversationId([1; 16]);
    let mut short = send_frame(1, &nowhere, "x");
    short.conversation = vec![1; 15].into();
    let mut none = send_frame(1, &nowhere, "x");
    none.conversation = Vec::new().into();
    for send in [short, none, send_frame(0, &nowhere, "x")] {
        let mut user = context.user().await?;
        user.s0.send(FrameType::Send, &send).await?;
        user.peer
            .expect_close(&[CloseCode::ProtocolViolation])
            .await?;
    }
    let mut user = context.user().await?;
    let receipt = wire::Receipt {
        conversation: vec![1; 17].into(),
        delivered: 1,
        read: 0,
    };
    user.s0.send(FrameType::Receipt, &receipt).await?;
    user.peer
        .expect_close(&[CloseCode::ProtocolViolation])
        .await?;
    Ok(())
}

async fn open_is_idempotent(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    a.say(&conversation, "one").await?;
    let name = a.welcome.user.clone();
    ensure!(
        b.open_direct(&name).await? == conversation,
        "another conversation"
    );
    let open = wire::OpenDirect {
        request: 77,
        peer: b.welcome.user.clone(),
    };
    a.s0.send(FrameType::OpenDirect, &open).await?;
    let reply: wire::Reply = a.s0.expect(FrameType::Reply).await?;
    let opened = wire::Opened {
        conversation: conversation.0.to_vec().into(),
        head: 1,
    };
    ensure!(
        reply.to == Some(wire::reply::To::Request(77))
            && reply.outcome == Some(Outcome::Opened(opened)),
        "{reply:?}"
    );
    Ok(())
}

async fn open_with_nobody(context: Context) -> anyhow::Result<()> {
    let mut a = context.user().await?;
    for (peer, code) in [
        (context.fresh_name(), RejectCode::UnknownUser),
        ("Not A Name".to_owned(), RejectCode::Invalid),
    ] {
        let open = wire::OpenDirect { request: 1, peer };
        a.s0.send(FrameType::OpenDirect, &open).await?;
        let got = a.rejection().await?;
        ensure!(got == code.code(), "expected {code}, got {got:#x}");
    }
    a.expect_alive().await
}

cases! {
    "send/ack-is-the-event", ["QP-SEND-1", "QP-EVENT-1", "QP-EVENT-4", "QP-EVENT-5", "QP-ID-6", "QP-ID-7"], ack_is_the_event;
    "send/retry-answers-the-same-seq", ["QP-SEND-4", "QP-REPLY-1"], retry_answers_the_same_seq;
    "send/retry-in-flight", ["QP-SEND-4"], retry_in_flight;
    "send/retry-on-another-connection", ["QP-SEND-4", "QP-RESUME-4"], retry_on_another_connection;
    "send/stale-client-seq", ["QP-SEND-4"], stale_client_seq;
    "send/pipelined-in-order", ["QP-EVENT-7", "QP-ID-6"], pipelined_in_order;
    "send/one-order-for-all", ["QP-EVENT-5", "QP-EVENT-7", "QP-ID-6"], one_order_for_all;
    "send/unknown-conversation", ["QP-OPEN-1"], unknown_conversation;
    "send/rejected-number-is-free", ["QP-SEND-6"], rejected_number_is_free;
    "send/rejected-stays-rejected", ["QP-SEND-4", "QP-SEND-6"], rejected_stays_rejected;
    "send/not-a-member", ["QP-SEND-6"], not_a_member;
    "send/bad-content", ["QP-SEND-3"], bad_content;
    "send/bad-ids", ["QP-SEND-2", "QP-RECEIPT-1"], bad_ids;
    "open/idempotent", ["QP-OPEN-1", "QP-ID-3", "QP-REPLY-1"], open_is_idempotent;
    "open/with-nobody", ["QP-OPEN-1"], open_with_nobody;
}
