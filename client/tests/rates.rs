//! Clients against a gateway with small limits: they wait as long as they are told, and lose and reorder nothing.

mod support;

use std::time::Duration;

use quipu_client::protocol::error::CloseCode;
use quipu_client::{Client, ConnectionState, Error, OfflineReason, Target};
use quipu_gateway::config::{Limits, RateLimit, SettingValue as _};
use support::peer::Peer;
use support::{any, collect, config, gateway_with, register, tail, texts, within};

fn rate(text: &str) -> RateLimit {
    RateLimit::parse(text).expect("a rate")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_writes_too_much_is_slowed_down_and_keeps_the_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = Limits {
        commands_per_user: rate("100/s burst 10"),
        ..Limits::default()
    };
    let gateway = gateway_with(folder.path(), any(), limits).await;
    let alice = register(gateway.address(), None, "alice").await;
    let bob = register(gateway.address(), None, "bob").await;
    // Two conversations, so that one of them is rejected while the other one is not.
    let targets = ["bob", "alice"].map(|name| Target::user(name).expect("a name"));
    for at in 0..60 {
        for target in targets {
            let text = format!("{at}");
            alice.send(target, text).await.expect("queues");
        }
    }
    let of_bob = collect(&mut tail(&bob), 60).await;
    let expected: Vec<String> = (0..60).map(|at| format!("{at}")).collect();
    assert_eq!(texts(&of_bob), expected, "in order, each once");
    let of_alice = collect(&mut tail(&alice), 120).await;
    let (to_bob, to_self): (Vec<_>, Vec<_>) = of_alice
        .into_iter()
        .partition(|message| message.conversation == of_bob[0].conversation);
    assert_eq!(texts(&to_bob), expected);
    assert_eq!(texts(&to_self), expected);
    gateway.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_conversation_that_must_wait_is_made_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = Limits {
        conversations_per_user: rate("2/s burst 1"),
        ..Limits::default()
    };
    let gateway = gateway_with(folder.path(), any(), limits).await;
    let alice = register(gateway.address(), None, "alice").await;
    let mut sent = Vec::new();
    for name in ["bob", "carol", "dave"] {
        register(gateway.address(), None, name).await;
        let target = Target::user(name).expect("a name");
        sent.push(alice.send(target, "hello").await.expect("queues").id);
    }
    for id in sent {
        let acked = within("an ack", alice.wait_acked(id)).await;
        assert_eq!(acked.expect("not refused").get(), 1);
    }
    gateway.shutdown().await.expect("stops");
}

#[tokio::test]
async fn a_close_that_names_a_time_is_believed() {
    let peer = Peer::new();
    let client = Client::open(config(peer.address(), None))
        .await
        .expect("opens");
    let registering = client.clone();
    let register =
        tokio::spawn(async move { registering.register("alice", support::PASSWORD).await });
    let mut session = peer.hello().await;
    session.welcome(true, true, 0, 5).await;
    within("registering", register)
        .await
        .expect("no panic")
        .expect("registers");
    let before = tokio::time::Instant::now();
    session.connection.close(
        CloseCode::RateLimited.code().into(),
        b"retry-after-ms=600000; too often",
    );
    let mut state = client.connection();
    let offline = within("going offline", state.wait_for(|state| !state.is_online()))
        .await
        .expect("the client runs")
        .clone();
    let ConnectionState::Offline { reason, retry_at } = offline else {
        panic!("it tries at once: {offline:?}");
    };
    let wait = retry_at.expect("it tries again") - before;
    assert!(wait >= Duration::from_secs(600), "{wait:?}");
    assert!(wait < Duration::from_secs(602), "{wait:?}");
    match reason {
        OfflineReason::Refused { code, reason } => {
            assert_eq!(code, CloseCode::RateLimited);
            assert_eq!(reason, "too often; again in 600 s");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_who_mistypes_is_told_how_long_to_wait() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = Limits {
        wrong_passwords: rate("1/h burst 1"),
        ..Limits::default()
    };
    let gateway = gateway_with(folder.path(), any(), limits).await;
    register(gateway.address(), None, "alice").await;
    let other = Client::open(config(gateway.address(), None))
        .await
        .expect("opens");
    let login = |password: &'static str| {
        let other = other.clone();
        async move { within("log-in", other.login("alice", password)).await }
    };
    let wrong = login("not this password").await.expect_err("wrong");
    assert!(
        matches!(
            wrong,
            Error::SignInRefused {
                code: CloseCode::Unauthenticated,
                ..
            }
        ),
        "{wrong}"
    );
    let wrong = login(support::PASSWORD).await.expect_err("too soon");
    match &wrong {
        Error::SignInRefused { code, reason } => {
            assert_eq!(*code, CloseCode::RateLimited);
            assert!(reason.contains("again in 3"), "{reason}");
        }
        other => panic!("{other}"),
    }
    gateway.shutdown().await.expect("stops");
}
