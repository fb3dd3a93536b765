//! Clients against a gateway that misbehaves on purpose: silent, restarted with another life, leaving, repeating itself.

mod support;

use std::time::Duration;

use quipu_client::media::UploadOptions;
use quipu_client::protocol::error::{CloseCode, RejectCode};
use quipu_client::protocol::event::{
    Change, Changed, ChangedKind, Content, DeviceCommand, Event, EventBody, Message, MessageState,
    Notice, Outcome, Rejection, Reply, ReplyTo, Role,
};
use quipu_client::protocol::history::HistoryPage;
use quipu_client::protocol::id::{
    ChangeNumber, ClientSeq, ConversationId, Cursor, DeviceId, InboxSeq, MessageId, RequestId, Seq,
    TimestampMs, UserId,
};
use quipu_client::protocol::query::{Answer, ConversationEntry, GroupInfo, Query};
use quipu_client::{
    About, Client, ClientEvent, Config, ConnectionState, HistoryRange, MessageChange, Page, Taken,
    Target,
};
use support::path::Path;
use support::peer::{Peer, Session};
use support::{config, tail, within};

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a name")
}

/// The message that bob sent as the `at`-th of the conversation, as the event of that number.
fn event(at: u64) -> Event {
    let message = Message {
        conversation: ConversationId::direct(&user("alice"), &user("bob")),
        seq: Seq::new(at).expect("not 0"),
        id: MessageId([at as u8; 16]),
        from: user("bob"),
        from_device: DeviceId::new(3).expect("not 0"),
        client_seq: ClientSeq::new(at).expect("not 0"),
        to: Some(user("alice")),
        sent_at: TimestampMs(at),
        content: Content::Text(format!("{at}")),
        state: None,
    };
    Event {
        inbox_seq: InboxSeq::new(at).expect("not 0"),
        body: EventBody::Message(message),
    }
}

/// A client that has registered at the peer, and its session there.
async fn registered(peer: &Peer, settings: Config) -> (Client, Session) {
    let client = Client::open(settings).await.expect("opens");
    let registering = client.clone();
    let register =
        tokio::spawn(async move { registering.register("alice", support::PASSWORD).await });
    let mut session = peer.hello().await;
    session.welcome(true, true, 0, 5).await;
    within("registering", register)
        .await
        .expect("no panic")
        .expect("registers");
    (client, session)
}

#[tokio::test]
async fn a_gateway_that_falls_silent_is_left_and_resumed() {
    let peer = Peer::new();
    let path = Path::to(peer.address()).await;
    let settings = Config {
        answer_timeout: Duration::from_millis(400),
        ..config(path.address, None)
    };
    let (client, mut session) = registered(&peer, settings).await;
    session.event(&event(1)).await;
    support::collect(&mut tail(&client), 1).await;
    assert_eq!(session.acked().await, Cursor(1));
    let conversation = ConversationId::direct(&user("alice"), &user("bob"));
    client
        .send(Target::Conversation(conversation), "x")
        .await
        .expect("queues");
    let first = next_send(&mut session).await;
    // The machine of the gateway is gone without a word, as after a power loss. Only something to say finds out.
    path.cut(true);
    client
        .send(Target::Conversation(conversation), "y")
        .await
        .expect("queues");
    let mut state = client.connection();
    let noticed = within("noticing", state.wait_for(|state| !state.is_online()))
        .await
        .expect("the client runs")
        .clone();
    assert!(
        format!("{noticed:?}").contains("stopped answering"),
        "not by QUIC's idle timeout: {noticed:?}"
    );
    path.cut(false);
    let mut second = peer.hello().await;
    let resume = second.hello.resume.expect("the client resumes");
    assert_eq!((resume.cursor, resume.life), (Cursor(1), 5));
    second.welcome(false, true, 1, 5).await;
    assert_eq!(
        next_send(&mut second).await,
        first,
        "unanswered: again under the same number, before the next"
    );
}

async fn next_send(session: &mut Session) -> DeviceCommand {
    loop {
        let command = session.command().await;
        if matches!(command, DeviceCommand::Send { .. }) {
            return command;
        }
    }
}

async fn next_change(session: &mut Session) -> (RequestId, ClientSeq, Change) {
    loop {
        if let DeviceCommand::Change {
            request,
            client_seq,
            change,
        } = session.command().await
        {
            return (request, client_seq, *change);
        }
    }
}

#[tokio::test]
async fn changes_without_an_answer_are_asked_for_again_under_their_numbers() {
    let peer = Peer::new();
    let (client, mut session) = registered(&peer, config(peer.address(), None)).await;
    let rename = |label: &str| {
        let device = DeviceId::new(1).expect("not 0");
        let change = Change::RenameDevice(device, label.to_owned());
        let client = client.clone();
        tokio::spawn(async move { client.change(change).await })
    };
    let mut waiting = Vec::new();
    let mut asked = Vec::new();
    for label in ["one", "two"] {
        waiting.push(rename(label));
        asked.push(next_change(&mut session).await);
    }
    session
        .connection
        .close(CloseCode::Unavailable.code().into(), b"");
    let mut second = peer.hello().await;
    second.welcome(false, true, 0, 5).await;
    let mut requests = Vec::new();
    for (_, client_seq, change) in &asked {
        let (request, again, same) = next_change(&mut second).await;
        assert_eq!((&again, &same), (client_seq, change));
        requests.push(request);
    }
    for request in requests {
        let to = ReplyTo::Request(request);
        let outcome = Outcome::Done;
        second.reply(&Reply { to, outcome }).await;
    }
    for end in waiting {
        let end = within("the answer", end).await.expect("no panic");
        assert!(end.is_ok(), "{end:?}");
    }
    let later = rename("three");
    let (_, client_seq, _) = next_change(&mut second).await;
    assert!(client_seq > asked[1].1, "numbers grow: {client_seq}");
    within("closing", client.close()).await;
    let end = within("the end", later).await.expect("no panic");
    assert!(end.is_err(), "nobody has answered it");
}

#[tokio::test]
async fn an_edit_without_an_answer_survives_the_end_of_its_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let peer = Peer::new();
    let settings = || config(peer.address(), Some(folder.path()));
    let (client, mut session) = registered(&peer, settings()).await;
    let conversation = ConversationId::direct(&user("alice"), &user("bob"));
    let edit = |words: &str| MessageChange::Edit(Content::Text(words.to_owned()));
    let about = About::Placed(conversation, Seq::FIRST);
    let mut ids = Vec::new();
    for words in ["better", "best"] {
        match client.change_message(about, edit(words)).await {
            Ok(Taken::Queued(change)) => ids.push(change.id),
            other => panic!("not queued: {other:?}"),
        }
    }
    let first = next_change(&mut session).await;
    // The gateway has it, and its answer never comes.
    client.close().await;
    let client = Client::open(settings()).await.expect("opens");
    assert_eq!(client.changes(conversation).await.expect("reads").len(), 2);
    let mut second = peer.hello().await;
    second.welcome(false, true, 0, 5).await;
    let again = next_change(&mut second).await;
    assert_eq!((&again.1, &again.2), (&first.1, &first.2));
    let reply = |request, outcome| Reply {
        to: ReplyTo::Request(request),
        outcome,
    };
    second.reply(&reply(again.0, Outcome::Done)).await;
    // The next one of this message comes behind its answer, and is put off once.
    let later = next_change(&mut second).await;
    assert!(later.1 > again.1);
    let busy = Rejection {
        retry_after_ms: 1,
        ..Rejection::new(RejectCode::Busy, "later")
    };
    let busy = Outcome::Rejected(busy);
    second.reply(&reply(later.0, busy)).await;
    let later_again = next_change(&mut second).await;
    assert_eq!((later_again.1, &later_again.2), (later.1, &later.2));
    // It is told that it is too late under this number, and asks under another.
    let stale = Outcome::Rejected(Rejection::new(RejectCode::StaleClientSeq, ""));
    second.reply(&reply(later_again.0, stale)).await;
    let renumbered = next_change(&mut second).await;
    assert!(renumbered.1 > later.1);
    assert_eq!(renumbered.2, later.2);
    second.reply(&reply(renumbered.0, Outcome::Done)).await;
    for id in ids {
        let made = within("the change", client.wait_changed(id)).await;
        assert!(made.is_ok(), "{made:?}");
    }
    assert!(
        client
            .changes(conversation)
            .await
            .expect("reads")
            .is_empty()
    );
}

#[tokio::test]
async fn another_life_drops_the_cache_and_says_so() {
    let peer = Peer::new();
    let (client, mut session) = registered(&peer, config(peer.address(), None)).await;
    for at in 1..=3 {
        session.event(&event(at)).await;
    }
    let mut all = tail(&client);
    support::collect(&mut all, 3).await;
    let mut events = client.events();
    session
        .connection
        .close(CloseCode::Unavailable.code().into(), b"");
    let mut second = peer.hello().await;
    second.welcome(false, false, 0, 6).await;
    let first = within("an event", events.next()).await;
    assert!(matches!(first, Some(ClientEvent::Resynced)), "{first:?}");
    second.event(&event(1)).await;
    let again = support::collect(&mut all, 1).await;
    assert_eq!(again[0].seq, Seq::FIRST, "the tail begins anew");
    let cached = client
        .messages(again[0].conversation, Page::Latest, 10)
        .await
        .expect("reads");
    assert_eq!(cached, again);
}

#[tokio::test]
async fn a_redirect_is_followed_before_and_after_welcome() {
    let (first, second) = (Peer::new(), Peer::new());
    let client = Client::open(config(first.address(), None))
        .await
        .expect("opens");
    let registering = client.clone();
    let register =
        tokio::spawn(async move { registering.register("alice", support::PASSWORD).await });
    let mut turned_away = first.hello().await;
    turned_away
        .go_away(CloseCode::Redirect, second.address().to_string())
        .await;
    let mut session = second.hello().await;
    session.welcome(true, true, 0, 5).await;
    within("registering", register)
        .await
        .expect("no panic")
        .expect("registers");
    session
        .go_away(CloseCode::Shutdown, first.address().to_string())
        .await;
    let mut back = first.hello().await;
    back.welcome(false, true, 0, 5).await;
    let mut state = client.connection();
    let there = first.address().to_string();
    let arrived = |state: &ConnectionState| matches!(state, ConnectionState::Online { gateway } if **gateway == *there);
    within("arriving", state.wait_for(arrived))
        .await
        .expect("the client runs");
}

#[tokio::test]
async fn events_are_acked_only_once_they_are_kept_and_shown_once() {
    let peer = Peer::new();
    let (client, mut session) = registered(&peer, config(peer.address(), None)).await;
    let mut events = client.events();
    for at in 1..=200 {
        session.event(&event(at)).await;
    }
    let mut acked = Cursor(0);
    while acked < Cursor(200) {
        acked = session.acked().await;
        assert!(client.cursor() >= acked, "acked {acked} before it was kept");
    }
    // A gateway that forgot the ack sends the last ones again.
    session
        .connection
        .close(CloseCode::Unavailable.code().into(), b"");
    let mut second = peer.hello().await;
    assert_eq!(second.hello.resume.expect("resumes").cursor, Cursor(200));
    second.welcome(false, true, 200, 5).await;
    second.event(&event(199)).await;
    second.event(&event(200)).await;
    second.event(&event(201)).await;
    let mut shown = Vec::new();
    while shown.len() < 201 {
        match within("an event", events.next())
            .await
            .expect("the client runs")
        {
            ClientEvent::Message { message, .. } => shown.push(message.seq.get()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(shown, (1..=201).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_gap_in_the_inbox_is_never_kept() {
    let peer = Peer::new();
    let (client, mut session) = registered(&peer, config(peer.address(), None)).await;
    session.event(&event(1)).await;
    session.event(&event(3)).await;
    let again = peer.hello().await;
    assert_eq!(again.hello.resume.expect("resumes").cursor, Cursor(1));
    assert_eq!(client.cursor(), Cursor(1));
}

/// Message `at` of a large group.
fn of_group(at: u64) -> Message {
    let EventBody::Message(message) = event(at).body else {
        panic!("a message");
    };
    Message {
        conversation: ConversationId([0x80; 16]),
        to: None,
        ..message
    }
}

/// Tells of message `at` of a large group, which the device asks about, as it does not know it.
async fn tell_of_group(session: &mut Session, at: u64) {
    let notice = Notice::Message(of_group(at), ChangeNumber::START);
    session.notice(&notice).await;
    let group = GroupInfo {
        title: "Runners".into(),
        topic: String::new(),
        role: Some(Role::Member),
        invited_by: None,
        members: 1000,
        open: true,
        history_from_start: true,
        pulled: true,
    };
    let entry = ConversationEntry {
        conversation: ConversationId([0x80; 16]),
        peer: None,
        group: Some(group),
        head: Seq::new(at).ok(),
        first: Seq::FIRST,
        delivered: None,
        read: None,
        unread: at,
        last: Some(of_group(at)),
        activity: TimestampMs(at),
        keep_ms: 0,
        peer_delivered: None,
        peer_read: None,
        blocked: false,
        changes: ChangeNumber::START,
    };
    let answer = Answer::Conversation(Box::new(entry));
    let asked = session.answer_query(answer).await;
    assert_eq!(asked, Query::Conversation(ConversationId([0x80; 16])));
}

#[tokio::test]
async fn a_history_that_does_not_have_yet_what_was_told_is_asked_again() {
    let peer = Peer::new();
    let (client, mut session) = registered(&peer, config(peer.address(), None)).await;
    let mut events = client.events();
    tell_of_group(&mut session, 5).await;
    // The fourth was told to others as well, and the history has three.
    let page = |seqs: &[u64]| HistoryPage {
        messages: seqs.iter().copied().map(of_group).collect(),
        more: false,
        head: Seq::new(5).ok(),
        changes: ChangeNumber::START,
    };
    session.answer_history(&page(&[1, 2, 3])).await;
    let second = session.answer_history(&page(&[])).await;
    assert_eq!(second.first, Seq::new(4).ok());
    let third = session.answer_history(&page(&[4, 5])).await;
    assert_eq!(third.first, Seq::new(4).ok());
    let whole = async {
        while client.catch_ups().filled == 0 {
            events.next().await.expect("the client runs");
        }
    };
    within("the gap to be filled", whole).await;
    let counts = client.catch_ups();
    assert_eq!((counts.early, counts.pages, counts.failed), (2, 3, 0));
    let group = ConversationId([0x80; 16]);
    let kept = client.messages(group, Page::Latest, 10).await;
    let kept: Vec<u64> = kept
        .expect("reads")
        .iter()
        .map(|message| message.seq.get())
        .collect();
    assert_eq!(kept, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_busy_gateway_is_asked_again() {
    let peer = Peer::new();
    let (client, mut session) = registered(&peer, config(peer.address(), None)).await;
    let mut events = client.events();
    tell_of_group(&mut session, 3).await;
    let first = session.is_busy_for_history(1).await;
    let page = HistoryPage {
        messages: vec![of_group(1), of_group(2), of_group(3)],
        more: false,
        head: Seq::new(3).ok(),
        changes: ChangeNumber::START,
    };
    let again = session.answer_history(&page).await;
    assert_eq!(again, first);
    let whole = async {
        while client.catch_ups().filled == 0 {
            events.next().await.expect("the client runs");
        }
    };
    within("the gap to be filled", whole).await;
    assert_eq!(client.catch_ups().failed, 0);
}

/// Bob edited the first message of the conversation: its version, and what it says since.
fn edited(inbox_seq: u64, version: u32) -> Event {
    let changed = Changed {
        conversation: ConversationId::direct(&user("alice"), &user("bob")),
        seq: Seq::FIRST,
        version,
        by: Some(user("bob")),
        at: TimestampMs(version.into()),
        kind: ChangedKind::Edited(Content::Text(format!("version {version}"))),
    };
    Event {
        inbox_seq: InboxSeq::new(inbox_seq).expect("not 0"),
        body: EventBody::Changed(Box::new(changed)),
    }
}

/// The page with the first message alone, as it is in this version.
fn page_of(version: u32) -> HistoryPage {
    let EventBody::Message(mut message) = event(1).body else {
        panic!("a message");
    };
    if version > 0 {
        message.content = Content::Text(format!("version {version}"));
        message.state = Some(Box::new(MessageState {
            version,
            ..MessageState::default()
        }));
    }
    HistoryPage {
        messages: vec![message],
        more: false,
        head: Seq::new(1).ok(),
        changes: ChangeNumber::START,
    }
}

/// Asks for the newest messages.
const NEWEST: HistoryRange = HistoryRange {
    first: None,
    last: None,
    limit: 10,
    newest_first: true,
};

#[tokio::test]
async fn a_change_that_overtakes_its_page_is_not_lost() {
    let peer = Peer::new();
    let (client, mut session) = registered(&peer, config(peer.address(), None)).await;
    let conversation = ConversationId::direct(&user("alice"), &user("bob"));
    let words = |messages: &[Message]| {
        let words = messages.iter().map(|message| message.content.text());
        words.map(str::to_owned).collect::<Vec<_>>()
    };

    // The page was read before the edit, and comes after it.
    session.event(&edited(1, 1)).await;
    assert_eq!(session.acked().await, Cursor(1));
    let before = page_of(0);
    let (read, _) = tokio::join!(
        client.history(conversation, NEWEST),
        session.answer_history(&before)
    );
    assert_eq!(words(&read.expect("a page").messages), ["version 1"]);
    let kept = client.messages(conversation, Page::Latest, 10).await;
    assert_eq!(words(&kept.expect("reads")), ["version 1"]);
}

#[tokio::test]
async fn a_page_that_is_older_than_the_cache_is_shown_as_the_cache_is() {
    let peer = Peer::new();
    let (client, mut session) = registered(&peer, config(peer.address(), None)).await;
    let conversation = ConversationId::direct(&user("alice"), &user("bob"));
    session.event(&event(1)).await;
    session.event(&edited(2, 1)).await;
    assert_eq!(session.acked().await, Cursor(2));
    // A page that was read before the edit.
    let before = page_of(0);
    let (read, _) = tokio::join!(
        client.history(conversation, NEWEST),
        session.answer_history(&before)
    );
    let read = read.expect("a page");
    assert_eq!(read.messages[0].content.text(), "version 1");
}

#[tokio::test]
async fn a_page_that_is_behind_what_was_told_is_asked_for_again() {
    let peer = Peer::new();
    let (client, mut session) = registered(&peer, config(peer.address(), None)).await;
    let conversation = ConversationId::direct(&user("alice"), &user("bob"));
    // What the second version was is in nothing that this device was told.
    session.event(&edited(1, 3)).await;
    assert_eq!(session.acked().await, Cursor(1));
    let answers = async {
        session.answer_history(&page_of(1)).await;
        session.answer_history(&page_of(3)).await;
    };
    let (read, ()) = tokio::join!(client.history(conversation, NEWEST), answers);
    let read = read.expect("a page");
    assert_eq!(read.messages[0].content.text(), "version 3");
}

/// Its disk is full: bytes go out, and none of them is kept.
#[tokio::test]
async fn an_upload_that_the_gateway_does_not_keep_is_tried_less_and_less() {
    let peer = Peer::new();
    let (client, session) = registered(&peer, config(peer.address(), None)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("film.bin");
    std::fs::write(&path, vec![7; 1 << 20]).expect("written");
    let conversation = ConversationId::direct(&user("alice"), &user("bob"));
    let uploading = tokio::spawn(async move {
        let options = UploadOptions::default();
        client.upload(conversation, &path, options, |_| {}).await
    });
    let mut last = session.fails_to_keep(1000).await;
    let mut pauses = Vec::new();
    for _ in 0..4 {
        let next = session.fails_to_keep(1000).await;
        pauses.push((next - last).as_millis());
        last = next;
    }
    uploading.abort();
    // The first thousand bytes were progress. What went out since was none.
    for (pause, least) in pauses.iter().zip([200, 400, 800, 1600]) {
        assert!(*pause >= least, "the pauses were {pauses:?} ms");
    }
}
