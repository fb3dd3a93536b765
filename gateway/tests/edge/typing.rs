//! Who is told that somebody types: members, while neither side hides it or has blocked the other, and never at the cost of text.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use quipu_protocol::datagram::{self, FromGateway, Typing};
use quipu_protocol::event::{Change, NewGroup, Outcome, Privacy};
use quipu_protocol::id::{ConversationId, UserId};
use quipu_protocol::limits::TYPING_FAN_OUT_MAX;

use crate::peer::{Gateway, Peer, login, soon, user};

impl Peer {
    /// Says that the user types, or no longer does.
    pub(crate) fn types(&self, conversation: ConversationId, on: bool) {
        let typing = datagram::typing(&Typing { conversation, on }, None);
        self.connection
            .send_datagram(typing)
            .expect("datagrams are on");
    }

    /// The next datagram.
    pub(crate) async fn datagram(&self) -> FromGateway {
        let datagram = soon(self.connection.read_datagram()).await;
        datagram::from_gateway(&datagram.expect("the connection lives")).expect("one good frame")
    }

    /// The next datagram, which is about typing.
    async fn typing(&self) -> (UserId, ConversationId, bool) {
        match self.datagram().await {
            FromGateway::Typing(user, typing) => (user, typing.conversation, typing.on),
            FromGateway::Presence(users) => panic!("not typing: {users:?}"),
        }
    }
}

/// Waits until a number that only grows has come there.
async fn reaches(what: &str, least: u64, read: impl Fn() -> u64) {
    let reached = async {
        while read() < least {
            // Polled: the metrics tell nobody when they change.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let in_time = tokio::time::timeout(crate::peer::PATIENCE, reached).await;
    assert!(in_time.is_ok(), "{what}: {} of {least}", read());
}

impl Gateway {
    /// Waits until so much typing was not passed on.
    async fn refused(&self, times: u64) {
        reaches("refused", times, || self.metrics.typing_refused.get()).await;
    }

    /// Waits until news of typing was offered to sessions so often.
    async fn told(&self, times: u64) {
        let told = || self.registry.hub().stats().typing.load(Ordering::Relaxed);
        reaches("told", times, told).await;
    }
}

fn hide_typing(hide_typing: bool) -> Change {
    Change::SetPrivacy(Privacy {
        hide_typing,
        ..Privacy::default()
    })
}

/// Makes a group that anybody may join.
fn open_group(conversation: ConversationId) -> Change {
    Change::CreateGroup(NewGroup {
        conversation,
        title: "choir".into(),
        topic: String::new(),
        open: true,
        history_from_start: true,
        invite: Vec::new(),
    })
}

async fn pair(gateway: &Gateway) -> (Peer, Peer, ConversationId) {
    let mut alice = gateway.register("alice").await;
    let bob = gateway.register("bob").await;
    let conversation = alice.open_direct("bob").await;
    (alice, bob, conversation)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_device_of_the_other_side_is_told_and_nobody_else() {
    let gateway = Gateway::start();
    let (alice, bob, conversation) = pair(&gateway).await;
    let mut tablet = gateway.hello(login("bob", "password of bob"), None).await;
    tablet.welcomed().await;
    let mut laptop = gateway
        .hello(login("alice", "password of alice"), None)
        .await;
    laptop.welcomed().await;
    let carol = gateway.register("carol").await;
    // Not a member, and a conversation that there is not.
    carol.types(conversation, true);
    gateway.refused(1).await;
    carol.types(ConversationId([5; 16]), true);
    gateway.refused(2).await;
    for on in [true, false] {
        alice.types(conversation, on);
        for peer in [&bob, &tablet] {
            assert_eq!(peer.typing().await, (user("alice"), conversation, on));
        }
    }
    // Nobody names another: the gateway says who it is.
    let forged = datagram::typing(
        &Typing {
            conversation,
            on: true,
        },
        Some(&user("carol")),
    );
    bob.connection.send_datagram(forged).expect("sent");
    for peer in [&alice, &laptop] {
        assert_eq!(peer.typing().await.0, user("bob"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hides_typing_is_not_told_of_and_is_not_told() {
    let gateway = Gateway::start();
    let (mut alice, bob, conversation) = pair(&gateway).await;
    alice.types(conversation, true);
    assert!(bob.typing().await.2);
    bob.types(conversation, true);
    assert!(alice.typing().await.2);
    assert_eq!(alice.change(hide_typing(true)).await, Outcome::Done);
    alice.types(conversation, true);
    gateway.refused(1).await;
    bob.types(conversation, true);
    gateway.told(3).await;
    assert_eq!(alice.change(hide_typing(false)).await, Outcome::Done);
    // What is told first is what comes now.
    bob.types(conversation, false);
    assert_eq!(alice.typing().await, (user("bob"), conversation, false));
    alice.types(conversation, false);
    assert_eq!(bob.typing().await, (user("alice"), conversation, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_blocked_is_neither_told_nor_heard() {
    let gateway = Gateway::start();
    let (mut alice, bob, conversation) = pair(&gateway).await;
    alice.types(conversation, true);
    bob.typing().await;
    bob.types(conversation, true);
    alice.typing().await;
    let block = |on| Change::Block(user("bob"), on);
    assert_eq!(alice.change(block(true)).await, Outcome::Done);
    // Both know each other's conversation already, and still.
    bob.types(conversation, true);
    gateway.told(3).await;
    alice.types(conversation, true);
    reaches("heard", 4, || gateway.metrics.typing_received.get()).await;
    assert_eq!(alice.change(block(false)).await, Outcome::Done);
    bob.types(conversation, false);
    assert_eq!(alice.typing().await, (user("bob"), conversation, false));
    alice.types(conversation, false);
    assert_eq!(bob.typing().await, (user("alice"), conversation, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_told_up_to_the_limit() {
    let gateway = Gateway::start_with(|config| config.groups.fan_out_max = 40);
    let mut alice = gateway.register("alice").await;
    let bob = gateway.register("bob").await;
    let group = ConversationId([0xc7; 16]);
    let created = alice.change(open_group(group)).await;
    assert!(matches!(created, Outcome::Opened { .. }));
    let mut members = vec![bob];
    for number in 3..=TYPING_FAN_OUT_MAX {
        members.push(gateway.register(&format!("user{number}")).await);
    }
    for member in &mut members {
        let joined = member.change(Change::Join(group)).await;
        assert!(matches!(joined, Outcome::Opened { .. }), "{joined:?}");
    }
    // The rosters follow the group: typed until all are told.
    let all_told = async {
        let told = || {
            gateway
                .registry
                .hub()
                .stats()
                .typing
                .load(Ordering::Relaxed)
        };
        let mut before = told();
        loop {
            let mut other = gateway
                .hello(login("alice", "password of alice"), None)
                .await;
            other.welcomed().await;
            let heard = gateway.metrics.typing_received.get();
            other.types(group, true);
            reaches("heard", heard + 1, || gateway.metrics.typing_received.get()).await;
            reaches("told", before + 1, told).await;
            if told() == before + members.len() as u64 {
                return;
            }
            before = told();
        }
    };
    soon(all_told).await;
    assert_eq!(members[0].typing().await, (user("alice"), group, true));
    let mut one_more = gateway.register("zoe").await;
    one_more.change(Change::Join(group)).await;
    one_more.types(group, true);
    gateway.refused(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_datagrams_is_ignored_and_text_is_not_late() {
    let gateway = Gateway::start();
    let (mut alice, mut bob, conversation) = pair(&gateway).await;
    let mallory = gateway.register("mallory").await;
    let flooding = async {
        for number in 0_u32.. {
            let junk = Bytes::copy_from_slice(&number.to_be_bytes());
            let _ = mallory.connection.send_datagram(junk);
            mallory.types(ConversationId([5; 16]), number % 2 == 0);
            bob.types(conversation, number % 2 == 0);
            tokio::task::yield_now().await;
        }
    };
    let talking = async {
        for number in 0..50 {
            alice.send(conversation, &number.to_string()).await;
            alice.message().await;
        }
        reaches("limited", 1000, || {
            gateway.metrics.typing_rate_limited.get()
        })
        .await;
    };
    tokio::select! {
        () = flooding => {}
        () = talking => {}
    }
    for number in 0..50 {
        let (_, message) = bob.message().await;
        assert_eq!(message.content.text(), number.to_string());
    }
    assert!(
        gateway.metrics.typing_received.get() < 200,
        "{} were looked at",
        gateway.metrics.typing_received.get()
    );
    // A device that was too quick is heard again a little later.
    let heard = async {
        let mut on = false;
        while alice.connection.datagram_send_buffer_space() > 0 {
            bob.types(conversation, on);
            on = !on;
            // The pace is a matter of time: nothing tells when it is over.
            if tokio::time::timeout(Duration::from_millis(100), alice.datagram())
                .await
                .is_ok()
            {
                return;
            }
        }
    };
    soon(heard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pulled_group_is_not_told() {
    let gateway = Gateway::start_with(|config| config.groups.fan_out_max = 2);
    let mut alice = gateway.register("alice").await;
    let group = ConversationId([0xc8; 16]);
    assert!(matches!(
        alice.change(open_group(group)).await,
        Outcome::Opened { .. }
    ));
    // Two are in it, and then it grows above its limit.
    for (refused, name) in [(0, "bob"), (1, "carol")] {
        let mut member = gateway.register(name).await;
        let joined = member.change(Change::Join(group)).await;
        assert!(matches!(joined, Outcome::Opened { .. }), "{joined:?}");
        let told = gateway
            .registry
            .hub()
            .stats()
            .typing
            .load(Ordering::Relaxed);
        member.types(group, true);
        match refused {
            0 => gateway.told(told + 1).await,
            _ => gateway.refused(refused).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_does_not_read_its_messages_is_not_told_who_types() {
    let gateway = Gateway::start();
    let (alice, mut bob, conversation) = pair(&gateway).await;
    // More than a stream's window, so that the rest waits on alice's lane.
    for _ in 0..12 {
        bob.send(conversation, &"long ".repeat(3000)).await;
        bob.message().await;
    }
    let waits = || gateway.metrics.events_pushed.get();
    reaches("pushed", 24, waits).await;
    let dropped = async {
        let mut on = true;
        while gateway.metrics.datagrams_dropped.get() == 0 {
            bob.types(conversation, on);
            on = !on;
            // Until alice's lane is as full as it gets: the gateway tells nobody when.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon(dropped).await;
    drop(alice);
}
