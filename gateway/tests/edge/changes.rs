//! What a user changes: messages after they were sent, and the own account.

use std::ops::ControlFlow;

use quipu_core::limits::DEVICES_PER_ACCOUNT_MAX;
use quipu_core::row::Row;
use quipu_gateway::store::Store;
use quipu_protocol::credentials::Resume;
use quipu_protocol::error::{CloseCode, RejectCode};
use quipu_protocol::event::{
    Change, Changed, ChangedKind, Content, EventBody, Gone, Outcome, Privacy, Reaction, Receipt,
};
use quipu_protocol::frame::FrameType;
use quipu_protocol::id::{ConversationId, Cursor, Seq};
use quipu_protocol::limits::KEEP_MS_MIN;
use quipu_protocol::query::{Answer, Query};
use quipu_protocol::wire;

use crate::peer::{Gateway, Peer, close_code, login, session, soon, user};

fn seq(number: u64) -> Seq {
    Seq::new(number).expect("not 0")
}

fn text(text: &str) -> Content {
    Content::Text(text.to_owned())
}

#[track_caller]
fn assert_rejected(outcome: &Outcome, code: RejectCode) {
    match outcome {
        Outcome::Rejected(rejection) => assert_eq!(rejection.code, code),
        Outcome::Accepted(_) | Outcome::Opened { .. } | Outcome::Done => {
            panic!("{outcome:?} where {code} is due")
        }
    }
}

/// Two users and their conversation, with one message of alice.
async fn talking(gateway: &Gateway, words: &str) -> (Peer, Peer, ConversationId) {
    let mut alice = gateway.register("alice").await;
    let mut bob = gateway.register("bob").await;
    let conversation = alice.open_direct("bob").await;
    alice.send(conversation, words).await;
    alice.message().await;
    bob.message().await;
    (alice, bob, conversation)
}

impl Peer {
    async fn changed(&mut self) -> Changed {
        match self.event().await.body {
            EventBody::Changed(changed) => *changed,
            body @ (EventBody::Message(_) | EventBody::Receipt(_) | EventBody::Invitation(_)) => {
                panic!("not a change: {body:?}")
            }
        }
    }

    async fn position(&mut self) -> Receipt {
        match self.event().await.body {
            EventBody::Receipt(receipt) => receipt,
            body @ (EventBody::Message(_) | EventBody::Changed(_) | EventBody::Invitation(_)) => {
                panic!("not a receipt: {body:?}")
            }
        }
    }

    async fn versions(&self, conversation: ConversationId) -> Result<Vec<(u32, Content)>, u32> {
        let frame = self.query(&Query::Versions(conversation, seq(1))).await;
        if frame.kind == FrameType::Failure {
            return Err(frame.message::<wire::Rejected>().expect("FAILURE").code);
        }
        let answer = frame.message::<wire::Answer>().expect("ANSWER");
        match Answer::try_from(answer).expect("valid") {
            Answer::Versions(versions) => Ok(versions),
            other => panic!("{other:?}"),
        }
    }
}

/// The rows of the store that have these words.
fn stored(store: &dyn Store, words: &str) -> Vec<String> {
    let mut found = Vec::new();
    let has = |bytes: &[u8]| {
        bytes
            .windows(words.len())
            .any(|part| part == words.as_bytes())
    };
    let walked = store.scan(&mut |row| {
        let is_in = match &row {
            Row::Shard(_, value) | Row::Entity(_, value) => has(value),
            Row::History(row) => has(&row.encode_value()),
            Row::Inbox(row) => has(&row.encode_value()),
            Row::Trimmed(..) => false,
            Row::Index(key, value) => has(&key.encode()) || value.as_ref().is_some_and(|v| has(v)),
        };
        if is_in {
            found.push(format!("{row:?}"));
        }
        ControlFlow::Continue(())
    });
    walked.expect("readable");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_reaches_everybody_and_keeps_what_was_said_before() {
    let gateway = Gateway::start();
    let (mut alice, mut bob, conversation) = talking(&gateway, "helo").await;
    let edit = Change::Edit {
        conversation,
        seq: seq(1),
        content: text("hello"),
    };
    assert_eq!(alice.change(edit.clone()).await, Outcome::Done);
    for peer in [&mut alice, &mut bob] {
        let changed = peer.changed().await;
        assert_eq!((changed.seq, changed.version), (seq(1), 1));
        assert_eq!(changed.kind, ChangedKind::Edited(text("hello")));
    }
    assert_rejected(&bob.change(edit).await, RejectCode::Forbidden);
    let react = Change::React {
        conversation,
        seq: seq(1),
        emoji: "+".to_owned(),
        on: true,
    };
    assert_eq!(bob.change(react).await, Outcome::Done);
    assert_eq!(alice.changed().await.version, 2);

    let messages = bob.messages(conversation).await;
    let state = messages[0].state.as_deref().expect("changed");
    assert_eq!((state.version, state.edits), (2, 1));
    let reaction = Reaction {
        user: user("bob"),
        emoji: "+".to_owned(),
    };
    assert_eq!(state.reactions, [reaction]);
    assert_eq!(
        bob.versions(conversation).await,
        Ok(vec![(0, text("helo"))])
    );
    let stranger = gateway.register("eve").await;
    let refused = stranger.versions(conversation).await;
    assert_eq!(refused, Err(RejectCode::UnknownConversation.code()));
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_words_are_nowhere_and_a_device_that_was_away_learns_of_it() {
    let gateway = Gateway::start();
    let (mut alice, bob, conversation) = talking(&gateway, "my first secret").await;
    let (device, token) = bob.credentials();
    drop(bob);
    let edit = Change::Edit {
        conversation,
        seq: seq(1),
        content: text("my second secret"),
    };
    assert_eq!(alice.change(edit).await, Outcome::Done);
    assert_eq!(stored(&*gateway.store, "my first secret").len(), 1);
    assert_eq!(stored(&*gateway.store, "my second secret").len(), 1);
    let delete = Change::Delete(conversation, seq(1));
    assert_eq!(alice.change(delete.clone()).await, Outcome::Done);
    assert_eq!(alice.change(delete).await, Outcome::Done);
    assert_eq!(stored(&*gateway.store, "secret"), [""; 0]);

    let resume = Resume {
        cursor: Cursor(0),
        life: alice.welcome.as_ref().expect("welcomed").life,
    };
    let mut bob = gateway
        .hello(session("bob", device, token), Some(resume))
        .await;
    bob.welcomed().await;
    let (_, message) = bob.message().await;
    assert_eq!(message.content, Content::Gone(Gone::Deleted));
    assert_eq!(bob.changed().await.kind, ChangedKind::Gone(Gone::Deleted));
    assert_eq!(bob.changed().await.version, 2);
    let refused = bob.versions(conversation).await;
    assert_eq!(refused, Err(RejectCode::UnknownMessage.code()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_time_is_over_is_hidden_and_then_swept() {
    let gateway = Gateway::start();
    let (mut alice, mut bob, conversation) = talking(&gateway, "for good").await;
    let timer = Change::SetTimer(conversation, KEEP_MS_MIN);
    assert_eq!(bob.change(timer).await, Outcome::Done);
    alice.message().await;
    alice.send(conversation, "for five seconds").await;
    let (_, message) = alice.message().await;
    let expires_at = message.state.and_then(|state| state.expires_at);
    assert_eq!(
        expires_at.expect("a timer").0,
        message.sent_at.0 + KEEP_MS_MIN
    );
    assert_eq!(stored(&*gateway.store, "for five seconds").len(), 1);

    let swept = async {
        while !stored(&*gateway.store, "for five seconds").is_empty() {
            // Nothing tells when a sweep is done; looking costs little.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    soon(swept).await;
    let messages = bob.messages(conversation).await;
    assert_eq!(messages[0].content, text("for good"));
    assert_eq!(messages[2].content, Content::Gone(Gone::Expired));
    let edit = Change::Edit {
        conversation,
        seq: seq(3),
        content: text("longer"),
    };
    assert_rejected(&alice.change(edit).await, RejectCode::UnknownMessage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_thrown_off_and_cannot_come_back() {
    let gateway = Gateway::start();
    let mut alice = gateway.register("alice").await;
    let mut lost = gateway
        .hello(login("alice", "password of alice"), None)
        .await;
    lost.welcomed().await;
    let (device, token) = lost.credentials();
    let rename = Change::RenameDevice(device, "the lost one".to_owned());
    assert_eq!(alice.change(rename).await, Outcome::Done);

    let revoke = Change::RevokeDevice(device);
    assert_eq!(alice.change(revoke.clone()).await, Outcome::Done);
    let thrown_off = close_code(&lost.connection);
    let within = tokio::time::timeout(std::time::Duration::from_secs(1), thrown_off);
    assert_eq!(within.await, Ok(CloseCode::Revoked));
    let again = gateway.hello(session("alice", device, token), None).await;
    assert_eq!(
        close_code(&again.connection).await,
        CloseCode::Unauthenticated
    );
    assert_rejected(&alice.change(revoke).await, RejectCode::Invalid);

    // A device may throw itself out, and has its answer first.
    let (own, _) = alice.credentials();
    assert_eq!(alice.change(Change::RevokeDevice(own)).await, Outcome::Done);
    assert_eq!(close_code(&alice.connection).await, CloseCode::Revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_makes_room_for_another() {
    let gateway = Gateway::start();
    let mut alice = gateway.register("alice").await;
    let mut last = None;
    for _ in 1..DEVICES_PER_ACCOUNT_MAX {
        let credentials = login("alice", "password of alice");
        let mut peer = gateway.hello(credentials, None).await;
        last = Some(peer.welcomed().await.device);
    }
    let credentials = login("alice", "password of alice");
    let refused = gateway.hello(credentials.clone(), None).await;
    assert_eq!(
        close_code(&refused.connection).await,
        CloseCode::TooManyDevices
    );
    let revoke = Change::RevokeDevice(last.expect("some"));
    assert_eq!(alice.change(revoke).await, Outcome::Done);
    let mut peer = gateway.hello(credentials, None).await;
    peer.welcomed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_blocked_cannot_send_until_it_is_taken_back() {
    let gateway = Gateway::start();
    let (mut alice, mut bob, conversation) = talking(&gateway, "hello").await;
    let nobody = Change::Block(user("nobody"), true);
    assert_rejected(&alice.change(nobody).await, RejectCode::UnknownUser);
    let block = Change::Block(user("bob"), true);
    assert_eq!(alice.change(block).await, Outcome::Done);
    // From the answer on it holds.
    bob.send(conversation, "are you there?").await;
    assert_rejected(&bob.reply().await.outcome, RejectCode::Blocked);
    let unblock = Change::Block(user("bob"), false);
    assert_eq!(alice.change(unblock).await, Outcome::Done);
    let heard = async {
        loop {
            bob.send(conversation, "hello again").await;
            tokio::select! {
                _ = bob.answers.next() => {}
                frame = bob.lane.as_mut().expect("welcomed").next() => return frame.kind,
            }
        }
    };
    assert_eq!(soon(heard).await, FrameType::Event);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_read_position_goes_to_the_own_devices_only() {
    let gateway = Gateway::start();
    let (mut alice, mut bob, conversation) = talking(&gateway, "read me").await;
    let mut tablet = gateway.hello(login("bob", "password of bob"), None).await;
    tablet.welcomed().await;
    let before = Change::SetPrivacy(Privacy::default());
    assert_eq!(bob.change(before).await, Outcome::Done);
    let hide = Change::SetPrivacy(Privacy {
        hide_read: true,
        ..Privacy::default()
    });
    // Set on one device, kept to by the other, which has sent a receipt before and knew it otherwise.
    tablet.receipt(conversation, 1).await;
    assert_eq!(alice.position().await.read, Some(seq(1)));
    assert_eq!(bob.position().await.read, Some(seq(1)));
    assert_eq!(bob.change(hide).await, Outcome::Done);
    alice.send(conversation, "and me").await;
    alice.message().await;
    bob.message().await;
    tablet.receipt(conversation, 2).await;
    assert_eq!(bob.position().await.read, Some(seq(2)));
    let shown = alice.position().await;
    assert_eq!((shown.delivered, shown.read), (Some(seq(2)), Some(seq(1))));
}
