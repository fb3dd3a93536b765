//! Inboxes that keep little: who comes back in time goes on, who comes back late begins anew and finds everything.

use quipu_core::row::Row;
use quipu_protocol::credentials::Resume;
use quipu_protocol::error::CloseCode;
use quipu_protocol::frame::FrameType;
use quipu_protocol::id::{ConversationId, Cursor};
use quipu_protocol::limits::{DELIVERY_WINDOW_BYTES, TEXT_BYTES_MAX};
use quipu_protocol::query::{Answer, Query};
use quipu_protocol::wire;

use crate::peer::{Gateway, Peer, close_code, login, session};

/// Events that each inbox keeps.
const KEPT: u64 = 4;

fn keeps_little() -> Gateway {
    Gateway::start_with(|config| config.inbox.keep_events = KEPT as u32)
}

/// Sends so many messages, each when the one before it has come.
async fn say(peer: &mut Peer, conversation: ConversationId, texts: impl Iterator<Item = String>) {
    for text in texts {
        peer.send(conversation, &text).await;
        let (inbox_seq, _) = peer.message().await;
        peer.ack(inbox_seq).await;
    }
}

fn inbox_rows(gateway: &Gateway, name: &str) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut visit = |row| {
        if let Row::Inbox(row) = row
            && row.user.as_str() == name
        {
            numbers.push(row.inbox_seq.get());
        }
        std::ops::ControlFlow::Continue(())
    };
    gateway.store.scan(&mut visit).expect("memory");
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_comes_back_too_late_begins_anew_and_finds_everything() {
    let gateway = keeps_little();
    let mut alice = gateway.register("alice").await;
    let mut bob = gateway.register("bob").await;
    let (device, token) = bob.credentials();
    let life = bob.welcome.as_ref().expect("welcomed").life;
    let conversation = alice.open_direct("bob").await;
    say(&mut alice, conversation, ["one".to_owned()].into_iter()).await;
    let (inbox_seq, _) = bob.message().await;
    assert_eq!(inbox_seq, 1);
    bob.connection.close(0u32.into(), b"");
    let texts = (2..=9).map(|number| format!("message {number}"));
    say(&mut alice, conversation, texts).await;

    let resume = |cursor| {
        let cursor = Cursor(cursor);
        Some(Resume { cursor, life })
    };
    let credentials = || session("bob", device, token);
    let mut late = gateway.hello(credentials(), resume(1)).await;
    let welcome = late.welcomed().await;
    assert!(!welcome.resumed, "the events 2 to 5 are gone");
    assert_eq!(welcome.cursor, Cursor(9), "events go on from the head");
    assert_eq!(gateway.metrics.sessions_resynced_for_age.get(), 1);
    assert_eq!(inbox_rows(&gateway, "bob"), [6, 7, 8, 9]);

    // The list says what there is, and the history has all of it.
    let (limit, after) = (10, None);
    let answer = late.query(&Query::Conversations { limit, after }).await;
    assert_eq!(answer.kind, FrameType::Answer);
    let answer = Answer::try_from(answer.message::<wire::Answer>().expect("an answer"));
    let Ok(Answer::Conversations { entries, .. }) = answer else {
        panic!("{answer:?}");
    };
    let heads = entries
        .iter()
        .map(|entry| (entry.head.map(|seq| seq.get()), entry.unread));
    assert_eq!(heads.collect::<Vec<_>>(), [(Some(9), 9)]);
    assert_eq!(late.messages(conversation).await.len(), 9);
    say(&mut alice, conversation, ["ten".to_owned()].into_iter()).await;
    let (inbox_seq, message) = late.message().await;
    assert_eq!((inbox_seq, message.seq.get()), (10, 10));

    // In time is who lacks nothing but what is kept.
    let mut in_time = gateway.hello(credentials(), resume(6)).await;
    assert!(in_time.welcomed().await.resumed);
    assert_eq!(in_time.message().await.0, 7);
    let mut too_late = gateway.hello(credentials(), resume(5)).await;
    assert!(!too_late.welcomed().await.resumed);

    // A new device begins like one that comes too late.
    let mut new = gateway.hello(login("bob", "password of bob"), None).await;
    assert_eq!(new.welcomed().await.cursor, Cursor(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_falls_behind_what_is_kept_is_told_to_come_again() {
    let gateway = keeps_little();
    let mut alice = gateway.register("alice").await;
    let mut bob = gateway.register("bob").await;
    let conversation = alice.open_direct("bob").await;
    // More than fits into bob's window, and than is kept behind it.
    let window = (DELIVERY_WINDOW_BYTES / TEXT_BYTES_MAX) as u64;
    let texts = (0..window + 2 * KEPT).map(|_| "x".repeat(TEXT_BYTES_MAX));
    say(&mut alice, conversation, texts).await;
    // Most of what was sent: the gateway reads on when half of the window is free.
    let read = window * 3 / 4;
    for number in 1..=read {
        assert_eq!(bob.message().await.0, number);
    }
    bob.ack(read).await;
    assert_eq!(close_code(&bob.connection).await, CloseCode::Busy);
    assert_eq!(gateway.metrics.sessions_closed_trimmed.get(), 1);
}
