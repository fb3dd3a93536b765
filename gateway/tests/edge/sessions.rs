//! What a session promises: accounts, messages, resume, history, a slow reader, GOAWAY.

use quipu_protocol::credentials::Resume;
use quipu_protocol::error::{CloseCode, RejectCode};
use quipu_protocol::event::{Content, Outcome};
use quipu_protocol::frame::FrameType;
use quipu_protocol::history::HistoryPage;
use quipu_protocol::id::Cursor;
use quipu_protocol::limits::{DELIVERY_WINDOW_BYTES, TEXT_BYTES_MAX};
use quipu_protocol::welcome::GoAway;
use quipu_protocol::wire;

use crate::peer::{Gateway, close_code, login, register, session, soon};

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_made_once_and_entered_by_password_or_token() {
    let gateway = Gateway::start();
    let first = gateway.register("alice").await;
    let (device, token) = first.credentials();

    let again = gateway.hello(register("alice"), None).await;
    assert_eq!(close_code(&again.connection).await, CloseCode::NameTaken);

    let mut second = gateway
        .hello(login("alice", "password of alice"), None)
        .await;
    let welcome = second.welcomed().await;
    assert_ne!(welcome.device, device);

    let mut resumed = gateway.hello(session("alice", device, token), None).await;
    let welcome = resumed.welcomed().await;
    assert_eq!((welcome.device, welcome.token), (device, None));
    assert_eq!(close_code(&first.connection).await, CloseCode::Replaced);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_credentials_cannot_be_told_apart() {
    let gateway = Gateway::start();
    let alice = gateway.register("alice").await;
    let (device, token) = alice.credentials();
    let mut reasons = Vec::new();
    for credentials in [
        login("alice", "wrong password"),
        login("nobody", "wrong password"),
        session("alice", device, [0; 32]),
        session("nobody", device, token),
    ] {
        let peer = gateway.hello(credentials, None).await;
        reasons.push(soon(peer.connection.closed()).await.to_string());
        assert_eq!(
            close_code(&peer.connection).await,
            CloseCode::Unauthenticated
        );
    }
    assert!(
        reasons.iter().all(|reason| *reason == reasons[0]),
        "{reasons:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_reaches_both_sides_and_their_history_and_nobody_else() {
    let gateway = Gateway::start();
    let (mut alice, mut bob) = (
        gateway.register("alice").await,
        gateway.register("bob").await,
    );
    let eve = gateway.register("eve").await;
    let conversation = alice.open_direct("bob").await;
    alice.send(conversation, "hello").await;
    for peer in [&mut alice, &mut bob] {
        let (inbox_seq, message) = peer.message().await;
        assert_eq!((inbox_seq, message.seq.get()), (1, 1));
        assert_eq!(message.content, Content::Text("hello".into()));
    }
    let page = bob.history(conversation).await;
    assert_eq!(page.kind, FrameType::HistoryPage);
    let page =
        HistoryPage::try_from(page.message::<wire::HistoryPage>().expect("a page")).expect("valid");
    assert_eq!((page.messages.len(), page.more), (1, false));
    let refused = eve.history(conversation).await;
    assert_eq!(refused.kind, FrameType::Failure);
    let refused: wire::Rejected = refused.message().expect("a rejection");
    assert_eq!(refused.code, RejectCode::UnknownConversation.code());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_opens_a_conversation_with_a_user_who_does_not_exist() {
    let gateway = Gateway::start();
    let mut alice = gateway.register("alice").await;
    let mut bytes = bytes::BytesMut::new();
    let request = wire::OpenDirect {
        request: 9,
        peer: "nobody".into(),
    };
    quipu_protocol::frame::encode(FrameType::OpenDirect, &request, &mut bytes);
    alice.write(&bytes).await;
    match alice.reply().await.outcome {
        Outcome::Rejected(rejection) => assert_eq!(rejection.code, RejectCode::UnknownUser),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_resumes_from_its_cursor_and_starts_over_in_another_life() {
    let gateway = Gateway::start();
    let mut alice = gateway.register("alice").await;
    let mut bob = gateway.register("bob").await;
    let conversation = alice.open_direct("bob").await;
    for text in ["one", "two", "three"] {
        alice.send(conversation, text).await;
    }
    for _ in 0..3 {
        bob.message().await;
    }
    let life = bob.welcome.as_ref().expect("welcomed").life;
    let (device, token) = bob.credentials();
    let at = |cursor, life| {
        Some(Resume {
            cursor: Cursor(cursor),
            life,
        })
    };

    let mut resumed = gateway
        .hello(session("bob", device, token), at(2, life))
        .await;
    assert!(resumed.welcomed().await.resumed);
    assert_eq!(resumed.message().await.0, 3);
    for (cursor, life) in [(4, life), (2, life + 1)] {
        let mut over = gateway
            .hello(session("bob", device, token), at(cursor, life))
            .await;
        let welcome = over.welcomed().await;
        assert_eq!((welcome.resumed, welcome.cursor), (false, Cursor::START));
        assert_eq!(over.message().await.0, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_reading_holds_up_nobody_and_misses_nothing() {
    let gateway = Gateway::start();
    let (mut alice, mut bob) = (
        gateway.register("alice").await,
        gateway.register("bob").await,
    );
    let conversation = alice.open_direct("bob").await;
    let text = "x".repeat(TEXT_BYTES_MAX);
    let count = (4 * DELIVERY_WINDOW_BYTES / TEXT_BYTES_MAX) as u64;
    for seq in 1..=count {
        alice.send(conversation, &text).await;
        assert_eq!(alice.message().await.1.seq.get(), seq);
        alice.ack(seq).await;
    }
    // Bob's lane has been full for long; S0 and request streams of the same connection still answer.
    assert_eq!(bob.open_direct("alice").await, conversation);
    assert_eq!(bob.history(conversation).await.kind, FrameType::HistoryPage);
    for seq in 1..=count {
        let (inbox_seq, message) = bob.message().await;
        assert_eq!((inbox_seq, message.seq.get()), (seq, seq));
        bob.ack(seq).await;
    }
    assert!(gateway.metrics.events_caught_up.get() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_gateway_says_goaway_and_closes_what_stays() {
    let gateway = Gateway::start();
    let mut alice = gateway.register("alice").await;
    let said = async {
        let frame = alice.answers.next().await;
        assert_eq!(frame.kind, FrameType::GoAway);
        let go_away = GoAway::from(frame.message::<wire::GoAway>().expect("GOAWAY"));
        assert_eq!(
            (go_away.code, go_away.deadline_ms),
            (CloseCode::Shutdown, 300)
        );
        close_code(&alice.connection).await
    };
    let (code, ()) = tokio::join!(said, gateway.edge.drain());
    assert_eq!(code, CloseCode::Shutdown);
    assert_eq!(gateway.metrics.connections.get(), 0);
}
