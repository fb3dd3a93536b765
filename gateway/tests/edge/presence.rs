//! Who is told that somebody is here, and what an account knows of its own devices.

use std::time::Duration;

use quipu_protocol::datagram::FromGateway;
use quipu_protocol::event::{Change, Outcome, Privacy};
use quipu_protocol::frame::FrameType;
use quipu_protocol::id::TimestampMs;
use quipu_protocol::query::{Answer, DeviceEntry, PresenceEntry, Query};
use quipu_protocol::wire;

use crate::peer::{Gateway, PATIENCE, Peer, login, session, soon, user};

impl Peer {
    async fn answer(&self, query: &Query) -> Answer {
        let frame = self.query(query).await;
        assert_eq!(frame.kind, FrameType::Answer);
        Answer::try_from(frame.message::<wire::Answer>().expect("ANSWER")).expect("valid")
    }

    /// Asks about these users.
    async fn sees(&self, users: &[&str], watch: bool) -> Vec<PresenceEntry> {
        let users = users.iter().map(|name| user(name)).collect();
        match self.answer(&Query::Presence { users, watch }).await {
            Answer::Presence(entries) => entries,
            other => panic!("{other:?}"),
        }
    }

    /// The next change, of one user.
    async fn change_of_presence(&self) -> PresenceEntry {
        match self.datagram().await {
            FromGateway::Presence(entries) if entries.len() == 1 => entries[0],
            other => panic!("{other:?}"),
        }
    }

    async fn devices(&self) -> Vec<DeviceEntry> {
        match self.answer(&Query::Devices).await {
            Answer::Devices(devices) => devices,
            other => panic!("{other:?}"),
        }
    }

    async fn hides(&mut self, privacy: Privacy) {
        let outcome = self.change(Change::SetPrivacy(privacy)).await;
        assert_eq!(outcome, Outcome::Done);
    }
}

const GRACE: Duration = Duration::from_millis(300);

fn quick() -> Gateway {
    Gateway::start_with(|config| config.presence.grace = GRACE)
}

fn words(entry: &PresenceEntry) -> (String, bool, bool) {
    (entry.user.to_string(), entry.here, entry.seen_at.is_some())
}

fn here(name: &str) -> (String, bool, bool) {
    (name.to_owned(), true, false)
}

fn seen(name: &str) -> (String, bool, bool) {
    (name.to_owned(), false, true)
}

fn unknown(name: &str) -> (String, bool, bool) {
    (name.to_owned(), false, false)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_is_told_of_the_end_after_the_grace_and_of_the_return() {
    let gateway = quick();
    let mut alice = gateway.register("alice").await;
    let bob = gateway.register("bob").await;
    alice.open_direct("bob").await;
    let before = alice.sees(&["bob", "alice", "carol"], true).await;
    assert_eq!(before.iter().map(words).collect::<Vec<_>>(), [here("bob")]);
    // A second device: nothing happens while one of them is here.
    let mut tablet = gateway.hello(login("bob", "password of bob"), None).await;
    tablet.welcomed().await;
    let (device, token) = tablet.credentials();
    tablet.connection.close(0_u32.into(), b"");
    let ended = std::time::Instant::now();
    bob.connection.close(0_u32.into(), b"");
    let away = alice.change_of_presence().await;
    assert!(ended.elapsed() >= GRACE, "told within the grace");
    assert_eq!(words(&away), seen("bob"));
    assert!(away.order > before[0].order);
    let mut tablet = gateway.hello(session("bob", device, token), None).await;
    tablet.welcomed().await;
    assert_eq!(words(&alice.change_of_presence().await), here("bob"));
    // Asked again, to watch nobody: what follows is not told.
    assert!(alice.sees(&[], true).await.is_empty());
    assert_eq!(gateway.registry.hub().watches(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quick_resume_shows_nothing() {
    let gateway = Gateway::start_with(|config| config.presence.grace = PATIENCE * 10);
    let mut alice = gateway.register("alice").await;
    let bob = gateway.register("bob").await;
    alice.open_direct("bob").await;
    alice.sees(&["bob"], true).await;
    let (device, token) = bob.credentials();
    bob.connection.close(0_u32.into(), b"");
    let gone = async {
        while gateway.registry.is_here(&user("bob")) {
            // Polled: the registry tells nobody.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    soon(gone).await;
    let between = alice.sees(&["bob"], false).await;
    assert_eq!(
        words(&between[0]),
        here("bob"),
        "the grace holds for a question as well"
    );
    let mut bob = gateway.hello(session("bob", device, token), None).await;
    bob.welcomed().await;
    // The first that alice is told of is what comes after.
    bob.hides(Privacy {
        hide_presence: true,
        hide_last_seen: true,
        ..Privacy::default()
    })
    .await;
    assert_eq!(words(&alice.change_of_presence().await), unknown("bob"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_either_hides_is_not_told_and_a_decision_holds_at_once() {
    let gateway = quick();
    let mut alice = gateway.register("alice").await;
    let mut bob = gateway.register("bob").await;
    alice.open_direct("bob").await;
    alice.sees(&["bob"], true).await;
    let hide = |hide_presence, hide_last_seen| Privacy {
        hide_presence,
        hide_last_seen,
        ..Privacy::default()
    };
    bob.hides(hide(true, true)).await;
    assert_eq!(words(&alice.change_of_presence().await), unknown("bob"));
    assert!(alice.sees(&["bob"], false).await.is_empty());
    bob.hides(hide(false, true)).await;
    assert_eq!(words(&alice.change_of_presence().await), here("bob"));
    // Who hides it does not see it; the watch goes on and shows what is left.
    alice.hides(hide(true, false)).await;
    assert_eq!(words(&alice.change_of_presence().await), unknown("bob"));
    assert!(alice.sees(&["bob"], false).await.is_empty());
    bob.hides(hide(false, false)).await;
    assert_eq!(words(&alice.change_of_presence().await), seen("bob"));
    alice.hides(hide(false, false)).await;
    assert_eq!(words(&alice.change_of_presence().await), here("bob"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_blocked_and_strangers_are_told_nothing() {
    let gateway = quick();
    let mut alice = gateway.register("alice").await;
    let bob = gateway.register("bob").await;
    let carol = gateway.register("carol").await;
    alice.open_direct("bob").await;
    assert!(carol.sees(&["alice", "bob"], true).await.is_empty());
    assert_eq!(alice.sees(&["bob"], true).await.len(), 1);
    assert_eq!(bob.sees(&["alice"], true).await.len(), 1);
    assert_eq!(
        alice.change(Change::Block(user("bob"), true)).await,
        Outcome::Done
    );
    assert_eq!(words(&bob.change_of_presence().await), unknown("alice"));
    assert_eq!(words(&alice.change_of_presence().await), unknown("bob"));
    assert!(alice.sees(&["bob"], false).await.is_empty());
    assert!(bob.sees(&["alice"], false).await.is_empty());
    assert_eq!(
        alice.change(Change::Block(user("bob"), false)).await,
        Outcome::Done
    );
    assert_eq!(words(&bob.change_of_presence().await), here("alice"));
    assert_eq!(words(&alice.change_of_presence().await), here("bob"));
    // Carol's watch was over before it began; the others' end with their sessions.
    assert_eq!(gateway.registry.hub().watches(), 2);
    bob.connection.close(0_u32.into(), b"");
    assert_eq!(words(&alice.change_of_presence().await), seen("bob"));
    assert_eq!(gateway.registry.hub().watches(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_say_when_they_were_here() {
    let gateway = quick();
    let alice = gateway.register("alice").await;
    let mut laptop = gateway
        .hello(login("alice", "password of alice"), None)
        .await;
    laptop.welcomed().await;
    let (device, _) = laptop.credentials();
    laptop.connection.close(0_u32.into(), b"");
    let entry = async {
        loop {
            let devices = alice.devices().await;
            let entry = devices.iter().find(|entry| entry.device == device);
            match entry {
                Some(entry) if !entry.connected && entry.seen_at.is_some() => return entry.clone(),
                // The end of the session is on its way through the log, and the list tells nobody when it has come.
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let entry = soon(entry).await;
    assert!(entry.seen_at >= Some(TimestampMs(entry.added_at.0)));
    let other = alice
        .devices()
        .await
        .into_iter()
        .find(|entry| entry.connected);
    assert!(
        other.expect("this one").seen_at.is_some(),
        "when its session began"
    );
}
