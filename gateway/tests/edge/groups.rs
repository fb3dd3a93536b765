//! Groups at the edge: invitations, messages as events and as notices, what strangers and former members get, who is in it.

use bytes::BytesMut;
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{
    Change, Content, EventBody, NewGroup, Note, Notice, Outcome, Reply, Role,
};
use quipu_protocol::frame::{self, FrameType, RawFrame, StreamKind};
use quipu_protocol::history::HistoryPage;
use quipu_protocol::id::{ConversationId, RequestId};
use quipu_protocol::query::{Answer, Query};
use quipu_protocol::wire;

use crate::peer::{Frames, Gateway, Peer, user};

const CLIMBERS: ConversationId = ConversationId([0xcc; 16]);

async fn ask(peer: &mut Peer, change: &Change) -> Reply {
    let mut bytes = BytesMut::new();
    let command = wire::Command::numbered(RequestId(77), peer.client_seq(), change);
    frame::encode(FrameType::Command, &command, &mut bytes);
    peer.write(&bytes).await;
    peer.reply().await
}

async fn done(peer: &mut Peer, change: &Change) {
    let reply = ask(peer, change).await;
    let fine = matches!(reply.outcome, Outcome::Done | Outcome::Opened { .. });
    assert!(fine, "{change:?}: {reply:?}");
}

async fn refused(peer: &mut Peer, change: &Change) -> RejectCode {
    match ask(peer, change).await.outcome {
        Outcome::Rejected(rejection) => rejection.code,
        other => panic!("{change:?}: {other:?}"),
    }
}

fn climbers(open: bool, invite: &[&str]) -> Change {
    Change::CreateGroup(NewGroup {
        conversation: CLIMBERS,
        title: "Climbing".into(),
        topic: String::new(),
        open,
        history_from_start: false,
        invite: invite.iter().map(|name| user(name)).collect(),
    })
}

async fn note(peer: &mut Peer) -> (u64, Note) {
    let (_, message) = peer.message().await;
    match message.content {
        Content::Note(note) => (message.seq.get(), *note),
        other => panic!("not a note: {other:?}"),
    }
}

async fn notice(peer: &mut Peer) -> Notice {
    let frame = peer.lane.as_mut().expect("welcomed").next().await;
    assert_eq!(frame.kind, FrameType::Notice);
    Notice::try_from(frame.message::<wire::Notice>().expect("NOTICE")).expect("valid")
}

async fn query(peer: &Peer, query: &Query) -> RawFrame {
    let mut bytes = BytesMut::new();
    frame::encode(FrameType::Query, &wire::Query::from(query), &mut bytes);
    let (mut send, receive) = peer.connection.open_bi().await.expect("a stream");
    send.write_all(&bytes).await.expect("written");
    let mut frames = Frames::new(receive, StreamKind::RequestFromGateway);
    frames.next().await
}

async fn answer(peer: &Peer, asked: &Query) -> Answer {
    let frame = query(peer, asked).await;
    assert_eq!(frame.kind, FrameType::Answer, "{asked:?}");
    Answer::try_from(frame.message::<wire::Answer>().expect("ANSWER")).expect("valid")
}

fn failure(frame: &RawFrame) -> RejectCode {
    assert_eq!(frame.kind, FrameType::Failure);
    let rejected: wire::Rejected = frame.message().expect("a rejection");
    RejectCode::from_code(u64::from(rejected.code))
}

async fn page(peer: &Peer) -> HistoryPage {
    let frame = peer.history(CLIMBERS).await;
    assert_eq!(frame.kind, FrameType::HistoryPage);
    HistoryPage::try_from(frame.message::<wire::HistoryPage>().expect("a page")).expect("valid")
}

/// Page by page, one member a page: name, role and whether invited.
async fn members(peer: &Peer) -> Vec<(String, Role, bool)> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let asked = Query::Members {
            conversation: CLIMBERS,
            after,
            limit: 1,
        };
        let Answer::Members { members, more } = answer(peer, &asked).await else {
            panic!("not the members");
        };
        after = members.last().map(|member| member.user);
        let members = members.into_iter();
        found.extend(members.map(|m| (m.user.to_string(), m.role, m.invited)));
        if !more {
            return found;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_joined_by_invitation_and_a_removed_member_gets_nothing_more() {
    let gateway = Gateway::start();
    let mut alice = gateway.register("alice").await;
    let mut bob = gateway.register("bob").await;
    let mut eve = gateway.register("eve").await;
    done(&mut alice, &climbers(false, &["bob"])).await;
    let event = bob.event().await;
    let EventBody::Invitation(invitation) = event.body else {
        panic!("not an invitation: {event:?}");
    };
    assert_eq!(
        (invitation.by, invitation.title.as_str()),
        (user("alice"), "Climbing")
    );
    // Invited is not in it.
    let invited = failure(&bob.history(CLIMBERS).await);
    assert_eq!(invited, RejectCode::NotAMember);
    done(&mut bob, &Change::Join(CLIMBERS)).await;
    assert_eq!(note(&mut bob).await, (3, Note::Joined));
    alice.send(CLIMBERS, "where to?").await;
    assert_eq!(bob.message().await.1.seq.get(), 4);
    let seen: Vec<u64> = page(&bob)
        .await
        .messages
        .iter()
        .map(|m| m.seq.get())
        .collect();
    assert_eq!(seen, [3, 4], "from the own joining on");
    let expected = [("alice", Role::Owner, false), ("bob", Role::Member, false)];
    let expected = expected.map(|(name, role, invited)| (name.to_owned(), role, invited));
    assert_eq!(members(&bob).await, expected);

    // To a stranger it is not there.
    assert_eq!(
        failure(&eve.history(CLIMBERS).await),
        RejectCode::UnknownConversation
    );
    let join = refused(&mut eve, &Change::Join(CLIMBERS)).await;
    assert_eq!(join, RejectCode::UnknownConversation);
    let conflict = refused(&mut eve, &climbers(false, &[])).await;
    assert_eq!(conflict, RejectCode::Conflict);

    done(&mut alice, &Change::Remove(CLIMBERS, user("bob"))).await;
    assert_eq!(note(&mut bob).await, (5, Note::Removed(user("bob"))));
    alice.send(CLIMBERS, "he is gone").await;
    for _ in 1..=6 {
        alice.message().await;
    }
    // What comes after what was said without him: had he got it, it would come first.
    let direct = alice.open_direct("bob").await;
    alice.send(direct, "sorry").await;
    let (_, message) = bob.message().await;
    assert_eq!(message.conversation, direct);
    assert_eq!(
        failure(&bob.history(CLIMBERS).await),
        RejectCode::NotAMember
    );
    bob.send(CLIMBERS, "let me in").await;
    match bob.reply().await.outcome {
        Outcome::Rejected(rejection) => assert_eq!(rejection.code, RejectCode::NotAMember),
        other => panic!("{other:?}"),
    }
    let asked = Query::Members {
        conversation: CLIMBERS,
        after: None,
        limit: 9,
    };
    assert_eq!(failure(&query(&bob, &asked).await), RejectCode::NotAMember);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_does_not_exist_is_not_invited_and_neither_is_anybody_else() {
    let gateway = Gateway::start();
    let mut alice = gateway.register("alice").await;
    let _bob = gateway.register("bob").await;
    let unknown = refused(&mut alice, &climbers(false, &["bob", "nobody"])).await;
    assert_eq!(unknown, RejectCode::UnknownUser);
    done(&mut alice, &climbers(false, &[])).await;
    let invite = Change::Invite {
        conversation: CLIMBERS,
        users: vec![user("bob"), user("nobody")],
    };
    assert_eq!(refused(&mut alice, &invite).await, RejectCode::UnknownUser);
    assert_eq!(members(&alice).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_group_is_told_by_notices_and_read_from_the_history() {
    let gateway = Gateway::start_with(|config| config.groups.fan_out_max = 2);
    let mut peers = Vec::new();
    for name in ["alice", "bob", "carol"] {
        peers.push(gateway.register(name).await);
    }
    done(&mut peers[0], &climbers(true, &[])).await;
    for joining in &mut peers[1..] {
        done(joining, &Change::Join(CLIMBERS)).await;
    }
    for (before, peer) in peers.iter_mut().enumerate() {
        // The own entrance, those after it, and the last that an inbox holds.
        for _ in before..3 {
            note(peer).await;
        }
        assert_eq!(note(peer).await, (4, Note::Pulled));
    }
    peers[2].send(CLIMBERS, "hello").await;
    match peers[2].reply().await.outcome {
        Outcome::Accepted(seq) => assert_eq!(seq.get(), 5),
        other => panic!("{other:?}"),
    }
    for peer in &mut peers {
        let Notice::Message(message, _) = notice(peer).await else {
            panic!("not a message");
        };
        assert_eq!(message.content, Content::Text("hello".into()));
        assert_eq!(page(peer).await.head, Some(message.seq));
    }
    let Answer::Conversation(entry) = answer(&peers[1], &Query::Conversation(CLIMBERS)).await
    else {
        panic!("not the group");
    };
    let group = entry.group.as_ref().expect("a group");
    assert!(
        group.pulled && group.members == 3 && group.open,
        "{group:?}"
    );
    assert_eq!((entry.first.get(), entry.unread), (2, 1));
    assert_eq!(entry.head.map(|seq| seq.get()), Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_does_not_read_loses_notices_and_is_told_to_check() {
    const TEXTS: u64 = 64;
    let gateway = Gateway::start_with(|config| config.groups.fan_out_max = 1);
    let mut alice = gateway.register("alice").await;
    let mut bob = gateway.register("bob").await;
    done(&mut alice, &climbers(true, &[])).await;
    done(&mut bob, &Change::Join(CLIMBERS)).await;
    for _ in 0..2 {
        note(&mut bob).await;
    }
    // Far more than the windows of a lane and its connection take.
    let text = "x".repeat(16 * 1024);
    for number in 1..=TEXTS {
        alice.send(CLIMBERS, &text).await;
        let Outcome::Accepted(seq) = alice.reply().await.outcome else {
            panic!("refused");
        };
        assert_eq!(seq.get(), number + 3);
    }
    let mut messages = 0;
    while let Notice::Message(..) = notice(&mut bob).await {
        messages += 1;
    }
    // The check came; nothing is lost, it is in the history.
    assert!(messages < TEXTS, "{messages} notices came and then a check");
    assert!(gateway.metrics.notices_dropped.get() > 0);
    assert_eq!(page(&bob).await.head.map(|seq| seq.get()), Some(TEXTS + 3));
    alice.send(CLIMBERS, "still there?").await;
    loop {
        if let Notice::Message(message, _) = notice(&mut bob).await
            && message.content == Content::Text("still there?".into())
        {
            break;
        }
    }
}
