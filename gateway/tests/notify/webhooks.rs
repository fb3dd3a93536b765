//! The notifier from the offline topic to the receiver, and back to the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quipu_core::record::{Fact, SessionId};
use quipu_core::shard::ShardCount;
use quipu_gateway::log::MemoryLog;
use quipu_gateway::notify::dead_letters;
use quipu_gateway::router::Router;
use quipu_protocol::id::{ConversationId, Cursor, DeviceId, TimestampMs};

use crate::receiver::{Behaviour, Receiver, SECRET};
use crate::world::{World, settings, user};

const OK: Behaviour = Behaviour::Answer(200, "");
const FAILING: Behaviour = Behaviour::Answer(500, "");

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_one_conversation_make_one_webhook_without_their_words() {
    let mut receiver = Receiver::start(OK).await;
    let mut settings = settings(&receiver.url());
    settings.after = Duration::from_millis(300);
    let world = World::start(&settings).await;
    for number in 1..=3 {
        world.send("alice", "bob", number, "the secret").await;
    }
    world.send("carol", "bob", 1, "hello").await;
    let bodies =
        [receiver.next().await, receiver.next().await].map(|webhook| webhook.verified(SECRET));
    let of = |name: &str| {
        let found = bodies.iter().find(|body| body["data"]["from"] == name);
        found.unwrap_or_else(|| panic!("nothing from {name}: {bodies:?}"))
    };
    let from_alice = of("alice");
    assert_eq!(from_alice["type"], "message.offline");
    let data = &from_alice["data"];
    let conversation = ConversationId::direct(&user("alice"), &user("bob"));
    assert_eq!(data["user"], "bob");
    assert_eq!(data["conversation"], conversation.to_string());
    assert_eq!(
        (&data["first_seq"], &data["last_seq"]),
        (&1.into(), &3.into())
    );
    assert_eq!(data["count"], 3);
    assert!(data.get("text").is_none(), "{data}");
    let sent_at = data["sent_at"].as_str().expect("a time");
    assert!(sent_at.ends_with('Z') && sent_at.len() == 24, "{sent_at}");
    assert_eq!(from_alice["timestamp"], sent_at);
    assert_eq!(of("carol")["data"]["count"], 1);
    world.until_told().await;
    assert!(receiver.try_next().is_none());
    assert_eq!(world.metrics.notify_delivered.get(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_are_told_where_the_operator_says_so() {
    let mut receiver = Receiver::start(OK).await;
    let mut settings = settings(&receiver.url());
    settings.include_content = true;
    let world = World::start(&settings).await;
    world.send("alice", "bob", 1, "hello \u{1f44b}").await;
    let body = receiver.next().await.verified(SECRET);
    assert_eq!(body["data"]["text"], "hello \u{1f44b}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_here_or_comes_in_time_needs_no_webhook() {
    let mut receiver = Receiver::start(OK).await;
    let mut settings = settings(&receiver.url());
    settings.after = Duration::from_millis(500);
    let world = World::start(&settings).await;
    // Alice is here all the time. Bob comes back before it is due; that it comes late would only make the test weaker.
    world.attach("alice", 7, 0).await;
    world
        .send("bob", "alice", 1, "to somebody who is here")
        .await;
    world.send("alice", "bob", 1, "to somebody who comes").await;
    world.attach("bob", 7, 2).await;
    world
        .send("alice", "carol", 1, "to somebody who does not")
        .await;
    let body = receiver.next().await.verified(SECRET);
    assert_eq!(body["data"]["user"], "carol");
    world.until_told().await;
    assert!(receiver.try_next().is_none());
    // Bob goes without having acked the next one.
    world.send("alice", "bob", 2, "not acked").await;
    world
        .until("the message", |world| world.presence("bob").is_here())
        .await;
    let left = Fact::Detached {
        device: DeviceId::new(1).expect("not 0"),
        session: SessionId { boot: 7, number: 1 },
        cursor: Cursor(2),
    };
    world.fact("bob", left).await;
    let body = receiver.next().await.verified(SECRET);
    assert_eq!(
        (&body["data"]["user"], &body["data"]["first_seq"]),
        (&"bob".into(), &3.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_gets_the_same_again_and_more_under_another_id() {
    let mut receiver = Receiver::start(FAILING).await;
    let mut settings = settings(&receiver.url());
    settings.tries = 100;
    let world = World::start(&settings).await;
    world.send("alice", "bob", 1, "one").await;
    let first = receiver.next().await;
    let again = receiver.next().await;
    assert_eq!(first.id(), again.id());
    assert_eq!(first.body, again.body);
    world.send("alice", "bob", 2, "two").await;
    let grown = loop {
        let next = receiver.next().await;
        if next.id() != first.id() {
            break next;
        }
    };
    assert_eq!(grown.verified(SECRET)["data"]["count"], 2);
    receiver.behave(OK);
    world.until_told().await;
    assert!(world.metrics.notify_retried.get() >= 2);
    assert_eq!(world.metrics.notify_delivered.get(), 1);
    assert!(world.dead_letters().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_stalls_or_is_away_is_served_when_it_is_back() {
    let mut receiver = Receiver::start(Behaviour::Stall).await;
    let mut settings = settings(&receiver.url());
    settings.timeout = Duration::from_millis(200);
    settings.tries = 100;
    let world = World::start(&settings).await;
    world.send("alice", "bob", 1, "hello").await;
    let stalled = receiver.next().await;
    assert_eq!(stalled.id(), receiver.next().await.id());
    let address = receiver.address();
    drop(receiver);
    let failed = world.metrics.notify_retried.get();
    world
        .until("a failed try", |world| {
            world.metrics.notify_retried.get() > failed + 2
        })
        .await;
    let mut back = Receiver::at(address, OK, None).await;
    assert_eq!(back.next().await.id(), stalled.id());
    world.until_told().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_last_try_there_is_a_dead_letter_and_it_can_be_told_again() {
    let mut receiver = Receiver::start(FAILING).await;
    let mut settings = settings(&receiver.url());
    settings.tries = 3;
    let world = World::start(&settings).await;
    world.send("alice", "bob", 1, "one").await;
    world.send("alice", "bob", 2, "two").await;
    world
        .until("a dead letter", |world| !world.dead_letters().is_empty())
        .await;
    world.until_told().await;
    let mut tries = 0;
    let mut last = None;
    while let Some(webhook) = receiver.try_next() {
        tries += 1;
        last = Some(webhook);
    }
    // More than three only if the second message came during the first tries.
    assert!((3..=5).contains(&tries), "{tries}");
    assert_eq!(
        world.metrics.notify_dead.get(),
        world.dead_letters().len() as u64
    );
    let dead = world.dead_letters();
    let letter = &dead[dead.len() - 1];
    assert_eq!(letter.user, user("bob"));
    assert_eq!((letter.given_up.tries, letter.given_up.last.get()), (3, 2));
    assert_eq!(letter.given_up.why, "HTTP status 500");
    let line = dead_letters::lines(&dead[..1]);
    let line: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
    assert_eq!((&line["user"], &line["tries"]), (&"bob".into(), &3.into()));

    receiver.behave(OK);
    let after = dead[0].given_up.after;
    world.fact("bob", Fact::TellAgain { after }).await;
    let again = receiver.next().await;
    assert_eq!(again.id(), last.expect("tried before").id());
    world.until_told().await;
    assert!(world.dead_letters().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_webhook_that_is_refused_does_not_hold_up_the_others() {
    let refused = Behaviour::RefuseIf("\"from\":\"alice\"");
    let mut receiver = Receiver::start(refused).await;
    let mut settings = settings(&receiver.url());
    settings.tries = 100;
    settings.backoff = Duration::from_secs(60);
    settings.backoff_max = Duration::from_secs(60);
    let world = World::start(&settings).await;
    world.send("alice", "bob", 1, "refused").await;
    world.send("carol", "bob", 1, "taken").await;
    loop {
        let body = receiver.next().await.verified(SECRET);
        if body["data"]["from"] == "carol" {
            break;
        }
    }
    world
        .until("the other one", |world| {
            world.metrics.notify_delivered.get() == 1
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_asks_for_time_gets_it() {
    let busy = Behaviour::Answer(429, "Retry-After: 1\r\n");
    let mut receiver = Receiver::start(busy).await;
    let world = World::start(&settings(&receiver.url())).await;
    world.send("alice", "bob", 1, "one").await;
    receiver.next().await;
    let asked = Instant::now();
    receiver.behave(OK);
    // Somebody else's webhook waits as well.
    world.send("bob", "carol", 1, "two").await;
    receiver.next().await;
    // The answer was on its way when the clock was read.
    assert!(
        asked.elapsed() > Duration::from_millis(900),
        "{:?}",
        asked.elapsed()
    );
    world.until_told().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_for_good_is_asked_no_more() {
    let mut receiver = Receiver::start(Behaviour::Answer(410, "")).await;
    let world = World::start(&settings(&receiver.url())).await;
    world.send("alice", "bob", 1, "one").await;
    receiver.next().await;
    world
        .until("the stop", |world| world.metrics.notify_stopped.get() == 1)
        .await;
    // What waits stays where it is, for a better url.
    assert!(world.presence("bob").offline().is_some());
    let disk = world.crash();
    receiver.behave(OK);
    let mut world = World::on(disk);
    world.notify(&settings(&receiver.url()));
    receiver.next().await;
    world.until_told().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_posted_and_not_reported_is_posted_again_under_the_same_id() {
    let mut receiver = Receiver::start(OK).await;
    let settings = settings(&receiver.url());
    let mut world = World::on(World::start(&crate::world::settings("")).await.crash());
    // A router whose appends go to nobody: the gateway dies between the post and the report.
    let nobody = Arc::new(MemoryLog::new(ShardCount(4)));
    let (lost, _thread) = Router::start(nobody, || {}).expect("a thread");
    world.notify_by(&settings, lost);
    world.send("alice", "bob", 1, "hello").await;
    let posted = receiver.next().await;
    world
        .until("the post", |world| {
            world.metrics.notify_delivered.get() == 1
        })
        .await;
    assert!(world.presence("bob").offline().is_some());
    let disk = world.crash();

    let mut world = World::on(disk);
    world.notify(&settings);
    let again = receiver.next().await;
    assert_eq!((posted.id(), &posted.body), (again.id(), &again.body));
    world.until_told().await;
    let disk = world.crash();

    // Reported: the next life posts nothing but what comes then.
    let mut world = World::on(disk);
    world.notify(&settings);
    world.send("alice", "bob", 2, "more").await;
    let body = receiver.next().await.verified(SECRET);
    assert_eq!(
        (&body["data"]["first_seq"], &body["data"]["count"]),
        (&2.into(), &1.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_here_when_the_gateway_died_is_told_about() {
    let mut receiver = Receiver::start(OK).await;
    let settings = settings(&receiver.url());
    let world = World::start(&settings).await;
    world.attach("bob", 7, 0).await;
    world.attach("carol", 7, 0).await;
    world
        .send("alice", "bob", 1, "pushed and never acked")
        .await;
    world.send("alice", "carol", 1, "the same").await;
    world
        .until("both", |world| {
            let here = |name| world.presence(name).is_here();
            here("bob") && here("carol")
        })
        .await;
    assert!(world.presence("bob").offline().is_none());
    let disk = world.crash();

    let mut world = World::on(disk);
    world.notify(&settings);
    // Carol is back by herself.
    world.attach("carol", 8, 1).await;
    world
        .until("carol", |world| {
            let session = world.presence("carol").devices[0].session;
            session.is_some_and(|session| session.boot == 8)
        })
        .await;
    world.sweep(8).await;
    let body = receiver.next().await.verified(SECRET);
    assert_eq!(body["data"]["user"], "bob");
    world.until_told().await;
    assert!(world.presence("carol").is_listening());
    assert!(!world.presence("bob").is_here());
    assert!(receiver.try_next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_stalls_is_told_about_as_if_it_were_not_there() {
    let mut receiver = Receiver::start(OK).await;
    let world = World::start(&settings(&receiver.url())).await;
    world.attach("bob", 7, 0).await;
    world.send("alice", "bob", 1, "pushed and not acked").await;
    let stalled = Fact::Stalled {
        device: DeviceId::new(1).expect("not 0"),
        session: SessionId { boot: 7, number: 1 },
        cursor: Cursor(0),
        since: TimestampMs(1),
    };
    world
        .until("the session", |world| world.presence("bob").is_here())
        .await;
    // Only once the message is there: the wait of an older one would be over before it begins.
    world
        .until("the message", |world| {
            use quipu_gateway::store::Store as _;
            let inbox = world.disk.store.inbox(&user("bob"), Cursor::START, 1);
            !inbox.expect("readable").is_empty()
        })
        .await;
    world.fact("bob", stalled).await;
    world
        .until("the end of old news", |world| {
            world.metrics.notify_old.get() == 1
        })
        .await;
    // Stalled since 1970 is no news; what comes from now on is.
    world.send("alice", "bob", 2, "news").await;
    let body = receiver.next().await.verified(SECRET);
    assert_eq!(
        (&body["data"]["user"], &body["data"]["first_seq"]),
        (&"bob".into(), &2.into())
    );
}
