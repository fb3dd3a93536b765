//! Edits, deletions and reactions between a real gateway and real clients, with either of them gone in between.

mod support;

use std::path::Path;

use quipu_client::protocol::error::RejectCode;
use quipu_client::protocol::event::{Change, Content, Gone, Message};
use quipu_client::protocol::id::{ConversationId, Seq, UserId};
use quipu_client::{
    About, ChangeId, Client, ClientEvent, Error, HistoryRange, LocalMessage, MessageChange, Taken,
    Target,
};
use support::{any, config, gateway, register, within};

fn bob() -> Target {
    Target::user("bob").expect("a valid name")
}

fn talk() -> ConversationId {
    let user = |name| UserId::new(name).expect("a valid name");
    ConversationId::direct(&user("alice"), &user("bob"))
}

fn at(seq: u64) -> About {
    About::Placed(talk(), Seq::new(seq).expect("not 0"))
}

fn edit(words: &str) -> MessageChange {
    MessageChange::Edit(Content::Text(words.to_owned()))
}

fn react(emoji: &str, on: bool) -> MessageChange {
    let emoji = emoji.to_owned();
    MessageChange::React { emoji, on }
}

async fn ask(client: &Client, about: About, what: MessageChange) -> ChangeId {
    match client.change_message(about, what).await {
        Ok(Taken::Queued(change)) => change.id,
        other => panic!("not queued: {other:?}"),
    }
}

async fn say(client: &Client, words: &str) -> LocalMessage {
    client.send(bob(), words).await.expect("queues")
}

async fn history(client: &Client) -> Vec<Message> {
    let range = HistoryRange {
        first: None,
        last: None,
        limit: 100,
        newest_first: false,
    };
    let page = within("history", client.history(talk(), range)).await;
    page.expect("a page").messages
}

fn version(message: &Message) -> u32 {
    message.state.as_ref().map_or(0, |state| state.version)
}

async fn reopen(client: Client, settings: quipu_client::Config) -> Client {
    client.close().await;
    Client::open(settings).await.expect("opens")
}

async fn is_offline(client: &Client) {
    let mut state = client.connection();
    let offline = state.wait_for(|state| !state.is_online());
    within("going offline", offline)
        .await
        .expect("the client runs");
}

fn folders(data: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    (data.join("gateway"), data.join("alice"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_changed_offline_is_made_once_after_a_restart_of_both() {
    let data = tempfile::tempdir().expect("a folder");
    let (gateway_data, alice_data) = folders(data.path());
    let first = gateway(&gateway_data, any()).await;
    let address = first.address();
    let settings = || config(address, Some(&alice_data));
    let alice = register(address, Some(&alice_data), "alice").await;
    let bob_client = register(address, None, "bob").await;
    for words in ["one", "two", "three"] {
        let sent = say(&alice, words).await;
        within("an ack", alice.wait_acked(sent.id))
            .await
            .expect("acked");
    }
    first.shutdown().await.expect("stops");
    is_offline(&alice).await;

    ask(&alice, at(1), edit("better")).await;
    ask(&alice, at(2), MessageChange::Delete).await;
    ask(&alice, at(3), react("👍", true)).await;
    ask(&alice, at(3), react("👍", false)).await;
    let alice = reopen(alice, settings()).await;
    ask(&alice, at(1), edit("best")).await;
    // One that nobody has seen is as it is now, or is not sent at all.
    let (never, late) = (say(&alice, "never").await, say(&alice, "lat").await);
    let taken = alice
        .change_message(About::Queued(never.id), MessageChange::Delete)
        .await;
    assert_eq!(taken.expect("takes"), Taken::Made);
    let taken = alice
        .change_message(About::Queued(late.id), edit("late"))
        .await;
    assert_eq!(taken.expect("takes"), Taken::Made);
    let kept = alice.changes(talk()).await.expect("reads");
    assert_eq!(kept.len(), 5);

    let second = gateway(&gateway_data, address).await;
    for change in kept {
        let made = within("a change", alice.wait_changed(change.id)).await;
        made.expect("made");
    }
    within("an ack", alice.wait_acked(late.id))
        .await
        .expect("acked");
    // Once more from the beginning: nothing is left to be made.
    let alice = reopen(alice, settings()).await;
    within("going online", alice.online())
        .await
        .expect("online");
    assert!(alice.changes(talk()).await.expect("reads").is_empty());
    within("going online", bob_client.online())
        .await
        .expect("online");
    let seen = history(&bob_client).await;
    assert_eq!(seen, history(&alice).await);
    let said: Vec<&str> = seen.iter().map(|message| message.content.text()).collect();
    assert_eq!(said, ["best", "", "three", "late"]);
    assert_eq!(seen[1].content, Content::Gone(Gone::Deleted));
    let versions: Vec<u32> = seen.iter().map(version).collect();
    assert_eq!(versions, [2, 1, 2, 0], "each once");
    second.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_ends_again_and_again_makes_each_change_once() {
    let data = tempfile::tempdir().expect("a folder");
    let (gateway_data, alice_data) = folders(data.path());
    let gateway = gateway(&gateway_data, any()).await;
    let address = gateway.address();
    let mut alice = register(address, Some(&alice_data), "alice").await;
    let bob_client = register(address, None, "bob").await;
    const MESSAGES: u64 = 20;
    const ROUNDS: usize = 5;
    for number in 1..=MESSAGES {
        say(&alice, &number.to_string()).await;
    }
    let mut ids = Vec::new();
    for round in 0..ROUNDS {
        for number in 1..=MESSAGES {
            // Some of them are of messages without an ack.
            let queued = alice.outbox(talk()).await.expect("reads");
            let waits = queued
                .iter()
                .find(|one| one.content.text() == number.to_string());
            let about = waits.map_or_else(|| at(number), |one| About::Queued(one.id));
            let changed = alice
                .change_message(about, edit(&format!("{number}, {round}")))
                .await;
            if let Taken::Queued(change) = changed.expect("takes") {
                ids.push(change.id);
            }
        }
        // Most of them have no answer yet.
        alice = reopen(alice, config(address, Some(&alice_data))).await;
    }
    let count = ids.len();
    for id in ids {
        let made = within("a change", alice.wait_changed(id)).await;
        made.expect("made");
    }
    let seen = history(&bob_client).await;
    let last = ROUNDS - 1;
    let wanted: Vec<String> = (1..=MESSAGES)
        .map(|number| format!("{number}, {last}"))
        .collect();
    let said: Vec<&str> = seen.iter().map(|message| message.content.text()).collect();
    assert_eq!(said, wanted);
    let edits: u32 = seen.iter().map(version).sum();
    assert_eq!(edits as usize, count, "each once");
    gateway.shutdown().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_refused_says_so_and_waits_to_be_forgotten() {
    let data = tempfile::tempdir().expect("a folder");
    let (gateway_data, alice_data) = folders(data.path());
    let gateway = gateway(&gateway_data, any()).await;
    let alice = register(gateway.address(), Some(&alice_data), "alice").await;
    let bob_client = register(gateway.address(), None, "bob").await;
    let sent = say(&alice, "mine").await;
    within("an ack", alice.wait_acked(sent.id))
        .await
        .expect("acked");
    let mut events = bob_client.events();
    let id = ask(&bob_client, at(1), edit("mine")).await;
    let refused = async {
        loop {
            match events.next().await.expect("the client runs") {
                ClientEvent::ChangeRefused { id, refusal, .. } => return (id, refusal.code),
                _other => {}
            }
        }
    };
    let refused = within("the refusal", refused).await;
    assert_eq!(refused, (id, RejectCode::Forbidden));
    assert_eq!(bob_client.changes(talk()).await.expect("reads").len(), 1);
    bob_client.forget_change(id).await.expect("forgets");
    assert!(bob_client.changes(talk()).await.expect("reads").is_empty());
    // Whoever waits is told, and leaves nothing behind.
    let change = Change::Delete(talk(), Seq::FIRST);
    let refused = within("the refusal", bob_client.change(change)).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    assert!(bob_client.changes(talk()).await.expect("reads").is_empty());
    gateway.shutdown().await.expect("stops");
}
