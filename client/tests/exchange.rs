//! Clients against a real gateway in this process: both ways, offline, resumed, refused.

mod support;

use std::time::Duration;

use quipu_client::protocol::error::{CloseCode, RejectCode};
use quipu_client::protocol::id::{Cursor, Seq, UserId};
use quipu_client::{
    CertificatePolicy, Client, ClientEvent, Config, ConnectionState, Error, Fingerprint,
    HistoryRange, OfflineReason, Page, Target,
};
use support::{any, collect, config, gateway, gateway_of, register, tail, texts, within};

fn bob() -> Target {
    Target::user("bob").expect("a name")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_go_both_ways_in_one_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = gateway(folder.path(), any()).await;
    let alice = register(gateway.address(), None, "alice").await;
    let bob_client = register(gateway.address(), None, "bob").await;

    let first = alice.send(bob(), "hello").await.expect("queues");
    assert_eq!(
        within("the ack", alice.wait_acked(first.id))
            .await
            .expect("acked")
            .get(),
        1
    );
    let target = Target::user("alice").expect("a name");
    for at in 0..100 {
        bob_client
            .send(target, format!("b{at}"))
            .await
            .expect("queues");
        alice.send(bob(), format!("a{at}")).await.expect("queues");
    }
    let seen_by_alice = collect(&mut tail(&alice), 201).await;
    let seen_by_bob = collect(&mut tail(&bob_client), 201).await;
    assert_eq!(seen_by_alice, seen_by_bob, "one order for all");
    let seqs: Vec<u64> = seen_by_bob
        .iter()
        .map(|message| message.seq.get())
        .collect();
    assert_eq!(seqs, (1..=201).collect::<Vec<_>>());
    for (prefix, name) in [("a", "alice"), ("b", "bob")] {
        let own: Vec<&str> = texts(&seen_by_bob)
            .into_iter()
            .filter(|text| text.starts_with(prefix))
            .collect();
        let sent: Vec<String> = (0..100).map(|at| format!("{prefix}{at}")).collect();
        assert_eq!(own, sent, "{name}'s messages stay in order");
    }
    gateway.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivered_and_read_come_back_to_the_sender() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = gateway(folder.path(), any()).await;
    let alice = register(gateway.address(), None, "alice").await;
    let bob_client = register(gateway.address(), None, "bob").await;
    let mut events = alice.events();
    let sent = alice.send(bob(), "hello").await.expect("queues");
    let messages = collect(&mut tail(&bob_client), 1).await;
    assert_eq!(
        bob_client.conversations().await.expect("reads")[0].unread,
        1
    );
    bob_client
        .mark_read(messages[0].conversation, messages[0].seq)
        .await
        .expect("marks");
    within("the read receipt", async {
        loop {
            match events.next().await.expect("the client runs") {
                ClientEvent::Receipt(receipt) if receipt.read == Some(Seq::FIRST) => break,
                _ => {}
            }
        }
    })
    .await;
    let summary = &alice.conversations().await.expect("reads")[0];
    assert_eq!(
        (summary.peer_delivered, summary.peer_read),
        (Some(Seq::FIRST), Some(Seq::FIRST))
    );
    assert_eq!(summary.id, sent.conversation);
    assert_eq!(
        bob_client.conversations().await.expect("reads")[0].unread,
        0
    );
    gateway.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_while_the_gateway_was_down_goes_out_in_order() {
    let data = tempfile::tempdir().expect("a folder");
    let (gateway_data, alice_data) = (data.path().join("gateway"), data.path().join("alice"));
    let first = gateway(&gateway_data, any()).await;
    let address = first.address();
    let alice = register(address, Some(&alice_data), "alice").await;
    let bob_client = register(address, None, "bob").await;
    first.shutdown().await.expect("stops");

    let mut state = alice.connection();
    within("going offline", state.wait_for(|state| !state.is_online()))
        .await
        .expect("the client runs");
    for at in 0..50 {
        alice.send(bob(), format!("{at}")).await.expect("queues");
    }
    // The process ends and another one goes on with the same folder.
    alice.close().await;
    let alice = Client::open(config(address, Some(&alice_data)))
        .await
        .expect("opens");
    for at in 50..100 {
        alice.send(bob(), format!("{at}")).await.expect("queues");
    }
    let second = gateway(&gateway_data, address).await;
    let messages = collect(&mut tail(&bob_client), 100).await;
    let sent: Vec<String> = (0..100).map(|at| at.to_string()).collect();
    assert_eq!(texts(&messages), sent);
    second.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnections_under_load_double_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = gateway(folder.path(), any()).await;
    let alice_data = tempfile::tempdir().expect("a folder");
    let mut alice = register(gateway.address(), Some(alice_data.path()), "alice").await;
    let bob_client = register(gateway.address(), None, "bob").await;
    let mut all = Vec::new();
    for round in 0..5 {
        let batch: Vec<String> = (0..200).map(|at| format!("{round}-{at}")).collect();
        all.extend(batch.clone());
        alice.send_batch(bob(), batch).await.expect("queues");
        // Closed with most of them unanswered.
        alice.close().await;
        alice = Client::open(config(gateway.address(), Some(alice_data.path())))
            .await
            .expect("opens");
    }
    let messages = collect(&mut tail(&bob_client), 1000).await;
    assert_eq!(texts(&messages), all);
    let own = collect(&mut tail(&alice), 1000).await;
    assert_eq!(own, messages);
    assert!(
        alice
            .outbox(messages[0].conversation)
            .await
            .expect("reads")
            .is_empty()
    );
    gateway.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_does_not_exist_refuses_every_message_and_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = gateway(folder.path(), any()).await;
    let alice = register(gateway.address(), None, "alice").await;
    let nobody = Target::user("nobody").expect("a name");
    let queued = alice
        .send_batch(nobody, vec!["one".into(), "two".into()])
        .await
        .expect("queues");
    for local in &queued {
        let end = within("the refusal", alice.wait_acked(local.id)).await;
        assert!(
            matches!(&end, Err(Error::Refused(refusal)) if refusal.code == RejectCode::UnknownUser),
            "{end:?}"
        );
    }
    let opened = within(
        "the answer",
        alice.open_direct(UserId::new("nobody").expect("a name")),
    )
    .await;
    assert!(
        matches!(&opened, Err(Error::Refused(refusal)) if refusal.code == RejectCode::UnknownUser),
        "{opened:?}"
    );
    gateway.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_in_fails_with_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = gateway(folder.path(), any()).await;
    let alice = register(gateway.address(), None, "alice").await;
    let again = alice.login("alice", support::PASSWORD).await;
    assert!(matches!(again, Err(Error::AlreadySignedIn(_))), "{again:?}");

    let other = Client::open(config(gateway.address(), None))
        .await
        .expect("opens");
    let taken = within("the answer", other.register("alice", support::PASSWORD)).await;
    assert!(
        matches!(
            taken,
            Err(Error::SignInRefused {
                code: CloseCode::NameTaken,
                ..
            })
        ),
        "{taken:?}"
    );
    let wrong = within("the answer", other.login("alice", "not the password")).await;
    assert!(
        matches!(
            wrong,
            Err(Error::SignInRefused {
                code: CloseCode::Unauthenticated,
                ..
            })
        ),
        "{wrong:?}"
    );
    assert!(matches!(
        other.send(bob(), "x").await,
        Err(Error::NotSignedIn)
    ));
    let device = within("the answer", other.login("alice", support::PASSWORD))
        .await
        .expect("logs in");
    assert_ne!(
        Some(device),
        alice.account().await.expect("reads"),
        "another device of one user"
    );
    gateway.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_certificate_is_refused_until_a_person_accepts_it() {
    let data = tempfile::tempdir().expect("a folder");
    let (alice_data, first_data, second_data) = (
        data.path().join("alice"),
        data.path().join("first"),
        data.path().join("second"),
    );
    let first = gateway(&first_data, any()).await;
    let (address, known) = (first.address(), first.fingerprint());
    register(address, Some(&alice_data), "alice")
        .await
        .close()
        .await;
    first.shutdown().await.expect("stops");
    let second = gateway(&second_data, address).await;
    let shown = second.fingerprint();

    let alice = Client::open(config(address, Some(&alice_data)))
        .await
        .expect("opens");
    let refused = within("the refusal", alice.online())
        .await
        .expect_err("another certificate");
    let said = refused.to_string();
    for part in [
        known.to_string().as_str(),
        &shown.to_string(),
        "--accept-new-certificate",
        "known_gateways",
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    alice.close().await;

    let accepting = Config {
        certificate: CertificatePolicy::AcceptNew,
        ..config(address, Some(&alice_data))
    };
    let alice = Client::open(accepting).await.expect("opens");
    // This gateway has never heard of alice, which it can only say after its certificate was accepted.
    let unknown = within("the answer", alice.online()).await;
    assert!(
        matches!(
            unknown,
            Err(Error::SignInRefused {
                code: CloseCode::Unauthenticated,
                ..
            })
        ),
        "{unknown:?}"
    );
    alice.close().await;
    let alice = Client::open(config(address, Some(&alice_data)))
        .await
        .expect("opens");
    let unknown = within("the answer", alice.online()).await;
    assert!(
        matches!(
            unknown,
            Err(Error::SignInRefused {
                code: CloseCode::Unauthenticated,
                ..
            })
        ),
        "{unknown:?}"
    );
    second.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configured_fingerprint_is_the_only_one_accepted() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = gateway(folder.path(), any()).await;
    let right: Fingerprint = gateway
        .fingerprint()
        .to_string()
        .parse()
        .expect("a fingerprint");
    let with = |fingerprint| Config {
        certificate: CertificatePolicy::Fingerprint(fingerprint),
        ..config(gateway.address(), None)
    };
    let wrong = Client::open(with(Fingerprint([7; 32])))
        .await
        .expect("opens");
    let refused = within("the refusal", wrong.register("alice", support::PASSWORD)).await;
    assert!(
        matches!(refused, Err(Error::CertificateChanged(_))),
        "{refused:?}"
    );
    let client = Client::open(with(right)).await.expect("opens");
    within("registering", client.register("alice", support::PASSWORD))
        .await
        .expect("registers");
    gateway.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_fills_the_cache_of_a_new_device() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = gateway(folder.path(), any()).await;
    let alice = register(gateway.address(), None, "alice").await;
    let bob_client = register(gateway.address(), None, "bob").await;
    let texts: Vec<String> = (0..30).map(|at| format!("{at}")).collect();
    let queued = alice.send_batch(bob(), texts).await.expect("queues");
    within("the last ack", alice.wait_acked(queued[29].id))
        .await
        .expect("acked");
    let range = HistoryRange {
        first: None,
        last: None,
        limit: 10,
        newest_first: true,
    };
    let page = within(
        "the page",
        bob_client.history(queued[0].conversation, range),
    )
    .await
    .expect("answers");
    let seqs: Vec<u64> = page
        .messages
        .iter()
        .map(|message| message.seq.get())
        .collect();
    assert_eq!(seqs, (21..=30).collect::<Vec<_>>());
    assert!(page.more);
    let cached = bob_client
        .messages(queued[0].conversation, Page::Latest, 10)
        .await
        .expect("reads");
    assert_eq!(cached, page.messages);
    gateway.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_device_twice_stops_the_older_one() {
    let data = tempfile::tempdir().expect("a folder");
    let (gateway_data, original, copy) = (
        data.path().join("gateway"),
        data.path().join("alice"),
        data.path().join("copy"),
    );
    let gateway = gateway(&gateway_data, any()).await;
    register(gateway.address(), Some(&original), "alice")
        .await
        .close()
        .await;
    std::fs::create_dir(&copy).expect("makes a folder");
    for file in std::fs::read_dir(&original).expect("a folder") {
        let file = file.expect("an entry");
        std::fs::copy(file.path(), copy.join(file.file_name())).expect("copies");
    }
    let older = Client::open(config(gateway.address(), Some(&original)))
        .await
        .expect("opens");
    within("connecting", older.online()).await.expect("online");
    let newer = Client::open(config(gateway.address(), Some(&copy)))
        .await
        .expect("opens");
    within("connecting", newer.online()).await.expect("online");
    let mut state = older.connection();
    let stopped = |state: &ConnectionState| {
        matches!(
            state,
            ConnectionState::Offline {
                reason: OfflineReason::Replaced,
                retry_at: None
            }
        )
    };
    within("being replaced", state.wait_for(stopped))
        .await
        .expect("the client runs");
    gateway.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_to_another_socket_keeps_the_session() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = gateway(folder.path(), any()).await;
    let alice = register(gateway.address(), None, "alice").await;
    let bob_client = register(gateway.address(), None, "bob").await;
    let mut state = alice.connection();
    state.borrow_and_update();
    alice.rebind().await.expect("moves");
    let sent = alice.send(bob(), "from elsewhere").await.expect("queues");
    within("the ack", alice.wait_acked(sent.id))
        .await
        .expect("acked");
    assert!(
        !state.has_changed().expect("the client runs"),
        "the connection survived"
    );
    collect(&mut tail(&bob_client), 1).await;
    gateway.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_share_one_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = gateway(folder.path(), any()).await;
    let endpoint = quipu_client::shared_endpoint().expect("a socket");
    let mut clients = Vec::new();
    for at in 0..10 {
        let shared = Config {
            endpoint: Some(endpoint.clone()),
            ..config(gateway.address(), None)
        };
        let client = Client::open(shared).await.expect("opens");
        within(
            "registering",
            client.register(&format!("user{at}"), support::PASSWORD),
        )
        .await
        .expect("registers");
        clients.push(client);
    }
    for client in &clients[1..] {
        let sent = client
            .send(Target::user("user0").expect("a name"), "hi")
            .await
            .expect("queues");
        within("the ack", client.wait_acked(sent.id))
            .await
            .expect("acked");
    }
    assert_eq!(collect(&mut tail(&clients[0]), 9).await.len(), 9);
    gateway.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_client_says_so_and_frees_its_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = tempfile::tempdir().expect("a folder");
    let gateway = gateway(folder.path(), any()).await;
    let alice = register(gateway.address(), Some(data.path()), "alice").await;
    let (mut events, mut tail) = (alice.events(), alice.tail(Cursor::START));
    let clone = alice.clone();
    alice.close().await;
    assert!(within("the end of events", events.next()).await.is_none());
    assert!(matches!(
        within("the end of the tail", tail.next()).await,
        Err(Error::Closed)
    ));
    assert!(matches!(clone.send(bob(), "x").await, Err(Error::Closed)));
    let reopened = tokio::time::timeout(
        Duration::from_secs(1),
        Client::open(config(gateway.address(), Some(data.path()))),
    );
    reopened.await.expect("at once").expect("opens");
    gateway.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_away_too_long_has_the_list_and_history_on_demand() {
    let data = tempfile::tempdir().expect("a folder");
    let (gateway_data, bob_data) = (data.path().join("gateway"), data.path().join("bob"));
    let gateway = gateway_of(&gateway_data, any(), |config| config.inbox.keep_events = 4).await;
    let alice = register(gateway.address(), None, "alice").await;
    let away = register(gateway.address(), Some(&bob_data), "bob").await;
    let first = alice.send(bob(), "message 1").await.expect("queues");
    let seen = collect(&mut tail(&away), 1).await;
    away.mark_read(first.conversation, seen[0].seq)
        .await
        .expect("marks");
    let read = |client: Client| async move {
        let summary = client.conversations().await.expect("reads").remove(0);
        (summary.head, summary.unread)
    };
    // Known to the gateway when it has come back from there.
    let mut receipts = alice.events();
    within("the read receipt", async {
        loop {
            match receipts.next().await.expect("the client runs") {
                ClientEvent::Receipt(receipt) if receipt.read == Some(Seq::FIRST) => break,
                _ => {}
            }
        }
    })
    .await;
    away.close().await;
    for at in 2..=20 {
        alice
            .send(bob(), format!("message {at}"))
            .await
            .expect("queues");
    }
    collect(&mut tail(&alice), 20).await;

    let settings = config(gateway.address(), Some(&bob_data));
    let back = Client::open(settings).await.expect("opens");
    let mut events = back.events();
    let alice_target = Target::user("alice").expect("a name");
    let queued = back.send(alice_target, "still here").await.expect("queues");
    let mut began_anew = false;
    within("the list", async {
        loop {
            match events.next().await.expect("the client runs") {
                ClientEvent::Resynced => began_anew = true,
                ClientEvent::Listed => break,
                _ => {}
            }
        }
    })
    .await;
    assert!(began_anew);
    within("the ack", back.wait_acked(queued.id))
        .await
        .expect("the outbox was kept");
    collect(&mut tail(&alice), 21).await;
    let (head, unread) = read(back.clone()).await;
    assert!(head >= Seq::new(20).ok(), "{head:?}");
    assert_eq!(
        unread, 19,
        "as many as were missed, although they are not here"
    );
    let cached = back.messages(first.conversation, Page::Latest, 100).await;
    let cached = cached.expect("reads");
    assert!(
        cached.len() <= 2,
        "the last one, and the own one: {cached:?}"
    );
    let all = HistoryRange {
        first: None,
        last: None,
        limit: 100,
        newest_first: false,
    };
    let page = within("the history", back.history(first.conversation, all)).await;
    assert_eq!(page.expect("a page").messages.len(), 21);
    let cached = back.messages(first.conversation, Page::Latest, 100).await;
    assert_eq!(cached.expect("reads").len(), 21);
    assert_eq!(
        read(back.clone()).await.1,
        19,
        "what is here now counts once"
    );
    back.mark_read(first.conversation, Seq::new(15).expect("not 0"))
        .await
        .expect("marks");
    // 16 to 20, and perhaps the own one, if the list knew it already: a list does not say which ones are unread.
    let unread = read(back.clone()).await.1;
    assert!((5..=6).contains(&unread), "{unread}");
    gateway.shutdown().await.expect("stops");
}
