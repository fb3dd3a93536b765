//! Who asks too often is told when to come again, and nobody else notices.

use std::time::Duration;

use quinn::{ConnectionError, VarInt};
use quipu_gateway::config::{RateLimit, SettingValue as _};
use quipu_protocol::error::{CloseCode, RejectCode};
use quipu_protocol::event::{Outcome, Rejection, Reply, ReplyTo};
use quipu_protocol::retry_after;
use quipu_protocol::wire;

use crate::peer::{Gateway, Peer, close_reason, login, register, soon};

/// Nothing comes back while a test runs.
fn at_most(burst: u32) -> RateLimit {
    RateLimit::parse(&format!("1/h burst {burst}")).expect("a rate")
}

/// The close says RATE_LIMITED, and a time of up to an hour.
async fn turned_away(peer: &quinn::Connection) {
    let (code, reason) = close_reason(peer).await;
    assert_eq!(code, CloseCode::RateLimited, "{reason}");
    let (time, words) = retry_after::parse(&reason);
    let time = time.unwrap_or_else(|| panic!("no time in {reason:?}"));
    assert!(
        time > Duration::ZERO && time <= Duration::from_secs(3600),
        "{reason}"
    );
    assert!(!words.is_empty());
}

fn rejection(reply: Reply) -> Rejection {
    match reply.outcome {
        Outcome::Rejected(rejection) => rejection,
        other => panic!("not rejected: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_from_one_address_does_not_hurt_another_user() {
    let gateway = Gateway::start_with(|config| {
        config.limits.loopback_exempt = false;
        config.limits.connections_per_address = at_most(3);
    });
    let mut alice = gateway.hello_from(2, register("alice")).await;
    alice.welcomed().await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(gateway.connect_from(9).await.expect("connected"));
    }
    // It is told a few times. From then on its attempts cost a Retry and a refusal, and no handshake.
    let metrics = &gateway.metrics;
    // A client is done with its handshake a moment before the gateway is.
    let handshakes = 4;
    soon(async {
        while metrics.handshakes_completed.get() < handshakes {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut told = 0;
    while metrics.incoming_refused_rate.get() < 3 {
        match soon(gateway.connect_from(9)).await {
            Ok(connection) => {
                turned_away(&connection).await;
                told += 1;
            }
            Err(ConnectionError::ConnectionClosed(close)) => {
                let refused = quinn::TransportErrorCode::CONNECTION_REFUSED;
                assert_eq!(close.error_code, refused);
            }
            Err(other) => panic!("not refused: {other:?}"),
        }
    }
    assert!(told >= 4);
    assert_eq!(metrics.handshakes_completed.get(), handshakes + told);
    assert_eq!(metrics.rate_limited_connections.get(), told);
    assert!(metrics.incoming_retried.get() >= 3);
    // Others come in, and those that are in are served.
    let mut bob = gateway.hello_from(3, register("bob")).await;
    bob.welcomed().await;
    let conversation = alice.open_direct("bob").await;
    alice.send(conversation, "hello").await;
    assert_eq!(bob.message().await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_is_exempt_unless_the_operator_says_otherwise() {
    let gateway = Gateway::start_with(|config| {
        config.limits.connections_per_address = at_most(1);
        config.limits.registrations_per_address = at_most(1);
    });
    for name in ["alice", "bob", "carol"] {
        gateway.register(name).await;
    }
    assert_eq!(gateway.metrics.rate_limited_connections.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_not_let_in_have_places_of_their_own() {
    let gateway = Gateway::start_with(|config| config.edge.max_unwelcomed = 2);
    let metrics = &gateway.metrics;
    let silent = gateway.connect().await;
    assert_eq!(metrics.incoming_retried.get(), 0);
    // Half of the places are taken: strangers prove their address.
    let waiting = gateway.connect().await;
    assert_eq!(metrics.incoming_retried.get(), 1);
    assert_eq!(metrics.connections_unwelcomed.get(), 2);
    let third = gateway.register("carol");
    let letting_in = async {
        while metrics.incoming_waiting.get() == 0 {
            tokio::task::yield_now().await;
        }
        // One is let in, which makes a place; it stays connected.
        let mut alice = Peer::on(waiting).await;
        alice.say_hello(register("alice"), None).await;
        alice.welcomed().await;
        alice
    };
    let (_carol, _alice) = soon(async { tokio::join!(third, letting_in) }).await;
    silent.close(VarInt::from_u32(0), b"");
    soon(async {
        while metrics.connections_unwelcomed.get() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(metrics.sessions.get(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_are_counted_by_address() {
    let gateway = Gateway::start_with(|config| {
        config.limits.loopback_exempt = false;
        config.limits.registrations_per_address = at_most(1);
    });
    let mut alice = gateway.hello_from(2, register("alice")).await;
    alice.welcomed().await;
    turned_away(&gateway.hello_from(2, register("bob")).await.connection).await;
    let mut carol = gateway.hello_from(3, register("carol")).await;
    carol.welcomed().await;
    assert_eq!(gateway.metrics.rate_limited_registrations.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_a_password_slows_down_its_address_and_locks_nobody_out() {
    let gateway = Gateway::start_with(|config| config.limits.wrong_passwords = at_most(3));
    gateway.register("alice").await;
    let right = || login("alice", "password of alice");
    let wrong = || login("alice", "not this one");
    // A right one among wrong ones gives all guesses back.
    for credentials in [wrong(), wrong(), right(), wrong(), wrong(), wrong()] {
        let is_right = credentials == right();
        let mut peer = gateway.hello_from(9, credentials).await;
        if is_right {
            peer.welcomed().await;
        } else {
            let (code, _) = close_reason(&peer.connection).await;
            assert_eq!(code, CloseCode::Unauthenticated);
        }
    }
    let hashed = gateway.metrics.passwords_hashed.get();
    for credentials in [wrong(), right()] {
        turned_away(&gateway.hello_from(9, credentials).await.connection).await;
    }
    assert_eq!(
        gateway.metrics.passwords_hashed.get(),
        hashed,
        "a guess that is refused costs nothing"
    );
    // Her other device, elsewhere, and other users from there.
    let mut alice = gateway.hello_from(2, right()).await;
    alice.welcomed().await;
    let mut bob = gateway.hello_from(9, register("bob")).await;
    bob.welcomed().await;
    assert_eq!(gateway.metrics.rate_limited_passwords.get(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_conversations_that_are_new_are_counted() {
    let gateway = Gateway::start_with(|config| config.limits.conversations_per_user = at_most(1));
    let mut alice = gateway.register("alice").await;
    let mut bob = gateway.register("bob").await;
    gateway.register("carol").await;
    for _ in 0..3 {
        alice.open_direct("bob").await;
    }
    let rejected = rejection(alice.try_open_direct("carol").await);
    assert_eq!(rejected.code, RejectCode::RateLimited);
    assert!(rejected.retry_after_ms > 3_500_000, "{rejected:?}");
    // Nobody who does not exist costs anything, and another user has a bucket of his own.
    let unknown = rejection(alice.try_open_direct("nobody").await);
    assert_eq!(unknown.code, RejectCode::UnknownUser);
    bob.open_direct("carol").await;
    assert_eq!(gateway.metrics.rate_limited_conversations.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_messages_are_rejected_from_the_first_one_on_and_in_order() {
    let gateway = Gateway::start_with(|config| {
        // Tokens come back all the time: without holding back, some of the later ones would get through.
        let limit = RateLimit::parse("200/s burst 8").expect("a rate");
        config.limits.commands_per_user = limit;
    });
    let mut bob = gateway.register("bob").await;
    let mut alice = gateway.register("alice").await;
    let conversation = alice.open_direct("bob").await;
    let count = 200;
    for at in 1..=count {
        alice.send(conversation, &at.to_string()).await;
    }
    let mut rejected = Vec::new();
    let mut answered = 0;
    let (replies, events) = (&mut alice.answers, alice.lane.as_mut().expect("welcomed"));
    while answered < count {
        tokio::select! {
            frame = replies.next() => {
                let reply = frame.message::<wire::Reply>().expect("a REPLY");
                let reply = Reply::try_from(reply).expect("valid");
                let ReplyTo::Send { client_seq, .. } = reply.to else {
                    panic!("not to a SEND: {reply:?}");
                };
                let rejection = rejection(reply);
                assert_eq!(rejection.code, RejectCode::RateLimited);
                assert!(rejection.retry_after_ms > 0);
                rejected.push(client_seq.get());
            }
            _accepted = events.next() => {}
        }
        answered += 1;
    }
    let first = *rejected.first().expect("more than the burst was sent");
    assert_eq!(
        rejected,
        (first..=count).collect::<Vec<_>>(),
        "everything behind the first rejected one is rejected"
    );
    assert!(first >= 8);
    assert!(gateway.metrics.sends_held_back.get() > 0);
    for seq in 1..first {
        assert_eq!(bob.message().await.1.seq.get(), seq);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_are_ignored_and_requests_fail_above_the_limit() {
    let gateway = Gateway::start_with(|config| config.limits.commands_per_user = at_most(2));
    let mut alice = gateway.register("alice").await;
    gateway.register("bob").await;
    let conversation = alice.open_direct("bob").await;
    alice.send(conversation, "hello").await;
    alice.message().await;
    alice.receipt(conversation, 1).await;
    let failure = alice.history(conversation).await;
    assert_eq!(failure.kind, quipu_protocol::frame::FrameType::Failure);
    let refused: wire::Rejected = failure.message().expect("a rejection");
    assert_eq!(refused.code, RejectCode::RateLimited.code());
    assert!(refused.retry_after_ms > 0);
    soon(async {
        while gateway.metrics.rate_limited_receipts.get() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
