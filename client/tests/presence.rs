//! Typing and presence between clients of a real gateway: who is told, and what is known without a connection.

mod support;

use std::time::Duration;

use quipu_client::protocol::event::{Change, Privacy};
use quipu_client::protocol::id::{ConversationId, UserId};
use quipu_client::protocol::query::PresenceEntry;
use quipu_client::{Client, ClientEvent, Config, EventStream};
use quipu_gateway::Gateway;
use support::{PASSWORD, any, config, gateway, within};

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a name")
}

/// A client that watches.
async fn watching(gateway: &Gateway, name: &str) -> Client {
    let config = Config {
        presence: true,
        ..config(gateway.address(), None)
    };
    let client = Client::open(config).await.expect("opens");
    within("the registration", client.register(name, PASSWORD))
        .await
        .expect("registers");
    client
}

/// The next change of what is known of somebody.
async fn change(events: &mut EventStream) -> PresenceEntry {
    within("a change of presence", async {
        loop {
            if let Some(ClientEvent::Presence(entry)) = events.next().await {
                return entry;
            }
        }
    })
    .await
}

/// The next word about who types.
async fn typing(events: &mut EventStream) -> (ConversationId, UserId, bool) {
    within("a word about typing", async {
        loop {
            if let Some(ClientEvent::Typing {
                conversation,
                user,
                on,
            }) = events.next().await
            {
                return (conversation, user, on);
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_types_is_shown_until_a_stop_or_a_message() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = gateway(folder.path(), any()).await;
    let (alice, bob) = (
        watching(&gateway, "alice").await,
        watching(&gateway, "bob").await,
    );
    let conversation = alice.open_direct(user("bob")).await.expect("opens");
    let mut events = bob.events();
    alice.typing(conversation);
    alice.typing(conversation);
    assert_eq!(
        typing(&mut events).await,
        (conversation, user("alice"), true)
    );
    alice.stopped_typing(conversation);
    assert_eq!(
        typing(&mut events).await,
        (conversation, user("alice"), false)
    );
    alice.typing(conversation);
    assert_eq!(
        typing(&mut events).await,
        (conversation, user("alice"), true)
    );
    alice.send(user("bob"), "done").await.expect("queues");
    assert_eq!(
        typing(&mut events).await,
        (conversation, user("alice"), false)
    );
    // The next word is said at once, not when the pace of the last one allows it.
    alice.typing(conversation);
    assert_eq!(
        typing(&mut events).await,
        (conversation, user("alice"), true)
    );
    bob.close().await;
    assert_eq!(
        typing(&mut events).await,
        (conversation, user("alice"), false),
        "nobody types without a connection"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watch_follows_the_conversations_and_knows_nobody_offline() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = gateway(folder.path(), any()).await;
    let (alice, bob) = (
        watching(&gateway, "alice").await,
        watching(&gateway, "bob").await,
    );
    let (mut at_alice, mut at_bob) = (alice.events(), bob.events());
    assert_eq!(alice.presence(user("bob")), None);
    // A message makes the conversation on either side.
    alice.send(user("bob"), "hello").await.expect("queues");
    let entry = change(&mut at_alice).await;
    assert!(entry.user == user("bob") && entry.here, "{entry:?}");
    let entry = change(&mut at_bob).await;
    assert!(entry.user == user("alice") && entry.here, "{entry:?}");
    assert!(alice.presence(user("bob")).is_some_and(|known| known.here));
    // Hidden by the one, it is gone for both: the other's client asks anew by itself.
    let hide = |hidden| {
        Change::SetPrivacy(Privacy {
            hide_presence: hidden,
            hide_last_seen: hidden,
            ..Privacy::default()
        })
    };
    bob.change(hide(true)).await.expect("changes");
    let entry = change(&mut at_alice).await;
    assert!(!entry.here && entry.seen_at.is_none(), "{entry:?}");
    assert!(!change(&mut at_bob).await.here);
    assert_eq!(alice.presence(user("bob")), None);
    bob.change(hide(false)).await.expect("changes");
    assert!(change(&mut at_alice).await.here);
    assert!(change(&mut at_bob).await.here);
    alice.close().await;
    assert!(
        !change(&mut at_alice).await.here,
        "offline nothing is known"
    );
    assert_eq!(alice.presence(user("bob")), None);
    // Told after the grace of the gateway, which this test does not wait for: bob still takes alice for here.
    let told = tokio::time::timeout(Duration::from_millis(300), at_bob.next()).await;
    assert!(
        !matches!(told, Ok(Some(ClientEvent::Presence(_)))),
        "{told:?}"
    );
}
