//! The cache against what may happen between two of its commits: kills, repeats, a new life of the inbox.

mod changes;
mod listed;
mod unread;

use std::path::Path;
use std::sync::Arc;

use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{
    Changed, ChangedKind, Content, Event, EventBody, Gone, Invitation, Message, MessageState, Note,
    Notice, Reaction, Receipt, Rejection,
};
use quipu_protocol::id::{
    ChangeNumber, ClientSeq, ConversationId, Cursor, DeviceId, InboxSeq, MessageId, Seq,
    TimestampMs, UserId,
};
use quipu_protocol::query::{ChangedMessage, Changes};
use quipu_protocol::session::Settled;
use quipu_protocol::welcome::{Limits, Welcome};
use tokio::sync::oneshot;

use super::*;
use crate::config::OUTBOX_MESSAGES_MAX;
use crate::error::Refusal;
use crate::events::ClientEvent;
use crate::model::{LocalState, Page, Target};

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a valid name")
}

fn seq(seq: u64) -> Seq {
    Seq::new(seq).expect("not 0")
}

fn direct() -> ConversationId {
    ConversationId::direct(&user("alice"), &user("bob"))
}

fn open(folder: Option<&Path>, messages_max: usize) -> Tables {
    Tables::open(folder, messages_max, Arc::new(Outbound::default())).expect("opens")
}

fn welcome(token: bool, resumed: bool, cursor: u64, life: u64) -> Welcome {
    Welcome {
        user: user("alice"),
        device: DeviceId::new(7).expect("not 0"),
        token: token.then_some([9; 32]),
        resumed,
        cursor: Cursor(cursor),
        life,
        server_time: TimestampMs(0),
        agent: String::new(),
        limits: Limits::default(),
        gateway: String::new(),
        next_gateways: Vec::new(),
    }
}

/// Alice's cache, welcomed for the first time.
fn alice(folder: Option<&Path>) -> Tables {
    let mut tables = open(folder, 1000);
    tables
        .welcome(&welcome(true, true, 0, 5), None)
        .expect("welcomes");
    tables
}

fn message(from: &str, device: u64, at: u64, id: MessageId, client_seq: ClientSeq) -> Message {
    let to = if from == "alice" { "bob" } else { "alice" };
    Message {
        conversation: direct(),
        seq: seq(at),
        id,
        from: user(from),
        from_device: DeviceId::new(device).expect("not 0"),
        client_seq,
        to: Some(user(to)),
        sent_at: TimestampMs(1000 + at),
        content: Content::Text(format!("{from} {at}")),
        state: None,
    }
}

fn from_bob(at: u64) -> Message {
    message(
        "bob",
        3,
        at,
        MessageId([at as u8; 16]),
        ClientSeq::new(at).expect("not 0"),
    )
}

fn event(inbox_seq: u64, message: Message) -> Event {
    Event {
        inbox_seq: InboxSeq::new(inbox_seq).expect("not 0"),
        body: EventBody::Message(message),
    }
}

fn apply(tables: &mut Tables, events: Vec<Event>) -> Vec<ClientEvent> {
    let applied = tables
        .apply(
            Turn {
                events,
                ..Turn::default()
            },
            true,
        )
        .expect("applies");
    applied.events
}

fn queue(tables: &mut Tables, texts: &[&str]) -> Vec<MessageId> {
    let messages = texts
        .iter()
        .map(|text| (MessageId(rand::random()), Content::Text((*text).to_owned())))
        .collect();
    let queued = tables
        .enqueue(Target::User(user("bob")), messages, TimestampMs(1))
        .expect("queues");
    queued.into_iter().map(|local| local.id).collect()
}

#[test]
fn a_repeated_event_is_kept_and_shown_once() {
    let mut tables = alice(None);
    assert_eq!(
        apply(
            &mut tables,
            vec![event(1, from_bob(1)), event(2, from_bob(2))]
        )
        .len(),
        2
    );
    // The same events under the same and, as after a power loss of the cursor, with an older cursor.
    assert!(
        apply(
            &mut tables,
            vec![event(1, from_bob(1)), event(2, from_bob(2))]
        )
        .is_empty()
    );
    let mut session = tables.session.expect("signed in");
    session.resume.cursor = Cursor(0);
    tables.session = Some(session);
    let shown = apply(
        &mut tables,
        vec![
            event(1, from_bob(1)),
            event(2, from_bob(2)),
            event(3, from_bob(3)),
        ],
    );
    assert_eq!(shown.len(), 1, "only the third is new: {shown:?}");
    assert_eq!(tables.arrivals(Cursor::START, 10).expect("reads").len(), 3);
}

#[test]
fn an_own_event_acks_and_leaves_the_outbox_in_one_step() {
    let mut tables = alice(None);
    let ids = queue(&mut tables, &["one", "two"]);
    let waiting = tables.waiting().expect("reads");
    assert_eq!(waiting.iter().map(|w| w.id).collect::<Vec<_>>(), ids);
    assert!(waiting[0].client_seq < waiting[1].client_seq);
    let (waiter, mut end) = oneshot::channel();
    tables.wait(ids[0], waiter).expect("waits");
    let shown = apply(
        &mut tables,
        vec![event(
            1,
            message("alice", 7, 1, ids[0], waiting[0].client_seq),
        )],
    );
    assert!(
        matches!(shown[0], ClientEvent::Acked { id, .. } if id == ids[0]),
        "{shown:?}"
    );
    assert!(matches!(shown[1], ClientEvent::Message { .. }), "{shown:?}");
    assert_eq!(end.try_recv().expect("resolved").expect("acked"), seq(1));
    assert_eq!(tables.waiting().expect("reads").len(), 1);
    // Whoever asks later finds it in the history.
    let (waiter, mut end) = oneshot::channel();
    tables.wait(ids[0], waiter).expect("answers");
    assert_eq!(end.try_recv().expect("resolved").expect("acked"), seq(1));
}

#[test]
fn an_ack_before_its_event_is_told_once() {
    let mut tables = alice(None);
    let ids = queue(&mut tables, &["one"]);
    let client_seq = tables.waiting().expect("reads")[0].client_seq;
    let settled = vec![Settled::Accepted {
        conversation: direct(),
        client_seq,
        seq: seq(4),
    }];
    let applied = tables
        .apply(
            Turn {
                settled,
                ..Turn::default()
            },
            true,
        )
        .expect("applies");
    assert!(matches!(applied.events[..], [ClientEvent::Acked { .. }]));
    assert!(
        tables.waiting().expect("reads").is_empty(),
        "an acked message is not sent again"
    );
    assert_eq!(
        tables.outbox(direct()).expect("reads")[0].state,
        LocalState::Acked(seq(4))
    );
    let shown = apply(
        &mut tables,
        vec![event(1, message("alice", 7, 4, ids[0], client_seq))],
    );
    assert!(
        matches!(shown[..], [ClientEvent::Message { .. }]),
        "{shown:?}"
    );
    assert!(tables.outbox(direct()).expect("reads").is_empty());
}

#[test]
fn a_refusal_is_kept_until_it_is_forgotten() {
    let mut tables = alice(None);
    let ids = queue(&mut tables, &["one"]);
    let rejection = Rejection::new(RejectCode::UnknownUser, "no bob");
    let refusal = Refusal::from(rejection.clone());
    let settled = vec![Settled::Refused {
        conversation: direct(),
        client_seq: None,
        rejection,
    }];
    tables
        .apply(
            Turn {
                settled,
                ..Turn::default()
            },
            true,
        )
        .expect("applies");
    assert_eq!(
        tables.outbox(direct()).expect("reads")[0].state,
        LocalState::Refused(refusal)
    );
    tables.forget(ids[0]).expect("forgets");
    assert!(tables.outbox(direct()).expect("reads").is_empty());
    assert!(matches!(tables.forget(ids[0]), Err(Error::UnknownMessage)));
}

#[test]
fn everything_survives_a_reopen_and_no_client_seq_is_used_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = {
        let mut tables = alice(Some(folder.path()));
        queue(&mut tables, &["one", "two"]);
        apply(&mut tables, vec![event(1, from_bob(1))]);
        tables.set_bookmark("listen", Cursor(1)).expect("stores");
        tables.waiting().expect("reads")
    };
    let mut tables = open(Some(folder.path()), 1000);
    assert_eq!(tables.waiting().expect("reads"), {
        // The event from bob proved that the conversation exists.
        first
            .iter()
            .cloned()
            .map(|waiting| Waiting {
                opened: true,
                ..waiting
            })
            .collect::<Vec<_>>()
    });
    assert_eq!(
        tables.session().expect("signed in").resume.cursor,
        Cursor(1)
    );
    assert_eq!(tables.bookmark("listen").expect("reads"), Some(Cursor(1)));
    queue(&mut tables, &["three"]);
    let waiting = tables.waiting().expect("reads");
    assert!(waiting[2].client_seq > first[1].client_seq, "{waiting:?}");
    let resumed = tables
        .welcome(&welcome(false, true, 1, 5), None)
        .expect("welcomes");
    assert!(!resumed.resynced);
}

#[test]
fn a_second_process_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let _first = alice(Some(folder.path()));
    let second = Tables::open(Some(folder.path()), 10, Arc::new(Outbound::default()));
    assert!(matches!(second, Err(Error::FolderInUse(path)) if path == folder.path()));
}

#[test]
fn a_newer_file_is_refused_by_version() {
    let folder = tempfile::tempdir().expect("a folder");
    alice(Some(folder.path()))
        .db
        .pragma_update(None, "user_version", 99)
        .expect("writes");
    let opened = Tables::open(Some(folder.path()), 10, Arc::new(Outbound::default()));
    assert!(
        matches!(opened, Err(Error::FolderVersion { found: 99, .. })),
        "{opened:?}"
    );
}

#[test]
fn only_the_owner_reads_the_folder() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join("data");
    let _tables = alice(Some(&folder));
    let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for file in fs::read_dir(&folder).expect("a folder") {
        let file = file.expect("an entry").path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn a_new_life_drops_the_history_and_keeps_the_outbox() {
    let mut tables = alice(None);
    apply(&mut tables, vec![event(1, from_bob(1))]);
    queue(&mut tables, &["one"]);
    let resynced = tables
        .welcome(&welcome(false, false, 0, 6), None)
        .expect("welcomes");
    assert!(resynced.resynced);
    assert!(
        tables
            .messages(direct(), Page::Latest, 10)
            .expect("reads")
            .is_empty()
    );
    let waiting = tables.waiting().expect("reads");
    assert_eq!(waiting.len(), 1);
    assert!(
        !waiting[0].opened,
        "the new life may not have the conversation"
    );
    assert_eq!(apply(&mut tables, vec![event(1, from_bob(1))]).len(), 1);
}

#[test]
fn unread_counts_follow_the_read_position_of_any_device() {
    let mut tables = alice(None);
    let events = (1..=5).map(|at| event(at, from_bob(at))).collect();
    apply(&mut tables, events);
    let unread = |tables: &Tables| tables.conversations().expect("reads")[0].unread;
    assert_eq!(unread(&tables), 5);
    tables.mark_read(direct(), seq(2)).expect("marks");
    assert_eq!(unread(&tables), 3);
    tables.mark_read(direct(), seq(1)).expect("marks");
    assert_eq!(unread(&tables), 3, "positions only grow");
    let receipt = Receipt {
        conversation: direct(),
        user: user("alice"),
        delivered: Some(seq(5)),
        read: Some(seq(4)),
    };
    let read = Event {
        inbox_seq: InboxSeq::new(6).expect("not 0"),
        body: EventBody::Receipt(receipt),
    };
    apply(&mut tables, vec![read]);
    assert_eq!(unread(&tables), 1);
    assert!(
        tables.unreported(None).expect("reads").is_empty(),
        "the gateway knows more than was to be said"
    );
    tables.mark_read(direct(), seq(99)).expect("marks");
    assert_eq!(
        tables.conversations().expect("reads")[0].read,
        Some(seq(5)),
        "no further than the head"
    );
}

#[test]
fn the_outbox_is_bounded() {
    let mut tables = alice(None);
    let many = |count| {
        (0..count)
            .map(|_| (MessageId(rand::random()), Content::Text("x".to_owned())))
            .collect()
    };
    let target = Target::User(user("bob"));
    tables
        .enqueue(target, many(OUTBOX_MESSAGES_MAX), TimestampMs(1))
        .expect("fits");
    let full = tables.enqueue(target, many(1), TimestampMs(1));
    assert!(matches!(
        full,
        Err(Error::OutboxFull {
            messages: OUTBOX_MESSAGES_MAX
        })
    ));
}

#[test]
fn renumbering_keeps_the_order() {
    let mut tables = alice(None);
    let ids = queue(&mut tables, &["one", "two", "three"]);
    let before = tables.waiting().expect("reads");
    let renumbered = tables.renumber(direct()).expect("renumbers");
    assert_eq!(
        renumbered.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        ids
    );
    let after = tables.waiting().expect("reads");
    assert!(after[0].client_seq > before[2].client_seq);
    assert!(after.is_sorted_by_key(|waiting| waiting.client_seq));
}

#[test]
fn the_oldest_arrivals_make_room() {
    let mut tables = open(None, 20);
    tables
        .welcome(&welcome(true, true, 0, 5), None)
        .expect("welcomes");
    for at in 1..=100 {
        apply(&mut tables, vec![event(at, from_bob(at))]);
    }
    let kept = tables.arrivals(Cursor::START, 1000).expect("reads");
    assert!((18..=20).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept.last().expect("some").message.seq, seq(100));
}

#[test]
fn history_is_no_arrival_until_its_event_comes() {
    let mut tables = alice(None);
    tables
        .keep_history(
            &mut [from_bob(1), from_bob(2)],
            Some(seq(2)),
            ChangeNumber::START,
        )
        .expect("keeps");
    assert!(
        tables
            .arrivals(Cursor::START, 10)
            .expect("reads")
            .is_empty()
    );
    assert_eq!(
        tables
            .messages(direct(), Page::Latest, 10)
            .expect("reads")
            .len(),
        2
    );
    assert_eq!(apply(&mut tables, vec![event(1, from_bob(1))]).len(), 1);
    assert_eq!(tables.arrivals(Cursor::START, 10).expect("reads").len(), 1);
}

#[test]
fn an_own_message_that_a_page_of_history_brings_is_acked() {
    let mut tables = alice(None);
    let target = Target::User(user("bob"));
    let queued = tables
        .enqueue(
            target,
            vec![(MessageId([7; 16]), Content::Text("hello".into()))],
            TimestampMs(1),
        )
        .expect("queues");
    let sent = &queued[0];
    let (waiter, mut end) = oneshot::channel();
    tables.wait(sent.id, waiter).expect("waits");
    let account = tables.account().expect("signed in");
    let mine = Message {
        id: sent.id,
        from: account.user,
        from_device: account.device,
        ..from_bob(1)
    };
    // The answer to the SEND was lost with its connection, and nobody gives it again.
    let acked = tables
        .keep_history(&mut [mine.clone()], Some(seq(1)), ChangeNumber::START)
        .expect("keeps");
    assert!(
        matches!(&acked[..], [ClientEvent::Acked { id, .. }] if *id == sent.id),
        "{acked:?}"
    );
    let end = end.try_recv().expect("the waiter is woken");
    assert_eq!(end.expect("acked"), seq(1));
    assert!(tables.outbox(direct()).expect("reads").is_empty());
    let again = tables.keep_history(&mut [mine], Some(seq(1)), ChangeNumber::START);
    assert!(again.expect("keeps").is_empty());
}

#[test]
fn pages_are_ascending_and_where_they_were_asked_for() {
    let mut tables = alice(None);
    apply(
        &mut tables,
        (1..=9).map(|at| event(at, from_bob(at))).collect(),
    );
    let page = |page, limit| -> Vec<u64> {
        let messages = tables.messages(direct(), page, limit).expect("reads");
        messages.iter().map(|message| message.seq.get()).collect()
    };
    assert_eq!(page(Page::Latest, 3), [7, 8, 9]);
    assert_eq!(page(Page::Before(seq(4)), 2), [2, 3]);
    assert_eq!(page(Page::After(seq(4)), 2), [5, 6]);
    assert_eq!(page(Page::Around(seq(5)), 4), [4, 5, 6, 7]);
}

fn changed(seq_value: u64, version: u32, kind: ChangedKind) -> Changed {
    Changed {
        conversation: ConversationId::direct(&user("alice"), &user("bob")),
        seq: seq(seq_value),
        version,
        by: Some(user("bob")),
        at: TimestampMs(77),
        kind,
    }
}

fn change_event(inbox_seq: u64, changed: Changed) -> Event {
    Event {
        inbox_seq: InboxSeq::new(inbox_seq).expect("not 0"),
        body: EventBody::Changed(Box::new(changed)),
    }
}

#[test]
fn changes_apply_once_and_by_version() {
    let mut tables = alice(None);
    apply(&mut tables, vec![event(1, from_bob(1))]);
    let edited = |text: &str| ChangedKind::Edited(Content::Text(text.to_owned()));
    let react = |on| ChangedKind::Reacted {
        emoji: "+".to_owned(),
        on,
    };
    let news = apply(
        &mut tables,
        vec![
            change_event(2, changed(1, 1, react(true))),
            change_event(3, changed(1, 3, edited("third"))),
            change_event(4, changed(1, 2, edited("second"))),
        ],
    );
    assert_eq!(news.len(), 2, "version 2 comes too late: {news:?}");
    let read = |tables: &Tables| {
        let id = ConversationId::direct(&user("alice"), &user("bob"));
        let found = tables.messages(id, Page::Latest, 9).expect("reads");
        found.into_iter().next().expect("one message")
    };
    let message = read(&tables);
    assert_eq!(message.content, Content::Text("third".to_owned()));
    let state = message.state.expect("a state");
    assert_eq!((state.version, state.reactions.len()), (3, 1));

    let gone = changed(1, 4, ChangedKind::Gone(Gone::Deleted));
    apply(&mut tables, vec![change_event(5, gone)]);
    let message = read(&tables);
    assert_eq!(message.content, Content::Gone(Gone::Deleted));
    assert_eq!(message.content.text(), "");
    // An older page of history does not bring the words back.
    let mut page = [from_bob(1)];
    tables
        .keep_history(&mut page, Some(seq(1)), ChangeNumber::START)
        .expect("keeps");
    assert_eq!(read(&tables).content, Content::Gone(Gone::Deleted));
    // Nor does whoever asked for the page see them again.
    assert_eq!(page[0], read(&tables));
}

#[test]
fn notices_are_kept_without_a_place_and_show_what_is_missing() {
    let mut tables = alice(None);
    let group = ConversationId([0xff; 16]);
    let in_group = |seq_value: u64, content| Message {
        conversation: group,
        to: None,
        seq: seq(seq_value),
        content,
        ..from_bob(1)
    };
    let title = Content::Note(Box::new(Note::Created("climbing".to_owned())));
    let notices = vec![
        Notice::Message(in_group(1, title), ChangeNumber::START),
        Notice::Message(
            in_group(4, Content::Text("up".to_owned())),
            ChangeNumber::START,
        ),
        Notice::Message(
            in_group(4, Content::Text("up".to_owned())),
            ChangeNumber::START,
        ),
    ];
    let turn = Turn {
        notices,
        ..Turn::default()
    };
    let applied = tables.apply(turn, true).expect("applies");
    assert_eq!(applied.events.len(), 2, "{:?}", applied.events);
    assert_eq!(applied.behind, [(group, Some(1))]);
    let list = tables.conversations().expect("reads");
    let summary = list.iter().find(|summary| summary.id == group);
    let summary = summary.expect("the group is listed");
    assert_eq!(summary.title.as_deref(), Some("climbing"));
    assert_eq!(summary.head, Seq::new(4).ok());
    let known = |tables: &Tables| tables.pulled().expect("reads");
    let mut pulled = gaps::Pulled {
        conversation: group,
        head: Seq::new(4).ok(),
        gap_after: Some(1),
        stale: false,
        unknown: false,
    };
    assert_eq!(known(&tables), [pulled]);
    // A later gap is part of this one, until it is closed.
    assert_eq!(tables.open_gap(group, 4).expect("remembers"), 1);
    assert_eq!(known(&tables), [pulled]);
    tables.close_gap(group, None).expect("forgets");
    pulled.gap_after = None;
    assert_eq!(known(&tables), [pulled]);
    assert_eq!(tables.open_gap(group, 4).expect("remembers"), 4);
}

const CLIMBERS: ConversationId = ConversationId([0xff; 16]);

/// A message of a group of notices in this version, which is its text as well, with so many signs.
fn climber(seq_value: u64, version: u32, signs: &[&str]) -> Message {
    let reactions = signs.iter().map(|emoji| Reaction {
        user: user("carol"),
        emoji: (*emoji).to_owned(),
    });
    let state = MessageState {
        version,
        reactions: reactions.collect(),
        ..MessageState::default()
    };
    Message {
        conversation: CLIMBERS,
        to: None,
        seq: seq(seq_value),
        content: Content::Text(format!("version {version}")),
        state: (version > 0).then(|| Box::new(state)),
        ..from_bob(1)
    }
}

fn edited(seq_value: u64, version: u32) -> Changed {
    Changed {
        conversation: CLIMBERS,
        kind: ChangedKind::Edited(climber(seq_value, version, &[]).content),
        ..changed(seq_value, version, ChangedKind::Gone(Gone::Deleted))
    }
}

fn notices(tables: &mut Tables, notices: Vec<Notice>) -> Vec<(ConversationId, Option<u64>)> {
    let turn = Turn {
        notices,
        ..Turn::default()
    };
    tables.apply(turn, true).expect("applies").behind
}

fn noticed(seq_value: u64, as_of: u64) -> Notice {
    Notice::Message(climber(seq_value, 0, &[]), ChangeNumber(as_of))
}

fn noticed_edit(seq_value: u64, version: u32, number: u64) -> Notice {
    Notice::Changed(Box::new(edited(seq_value, version)), ChangeNumber(number))
}

fn mark(tables: &Tables) -> (u64, u64) {
    let mark = tables.mark(&CLIMBERS).expect("reads");
    (mark.has().0, mark.told().0)
}

fn page_of_changes(messages: &[Message], through: u64) -> Changes {
    let messages = messages.iter().map(|message| ChangedMessage {
        message: message.clone(),
        by: user("carol"),
        at: TimestampMs(77),
    });
    Changes {
        messages: messages.collect(),
        through: ChangeNumber(through),
        more: false,
        too_old: false,
    }
}

fn version_of(tables: &Tables, seq_value: u64) -> u32 {
    let around = Page::Around(seq(seq_value));
    let found = tables.messages(CLIMBERS, around, 1).expect("reads");
    let state = found.first().and_then(|message| message.state.as_ref());
    state.map_or(0, |state| state.version)
}

#[test]
fn changes_of_notices_are_counted_and_those_that_are_missing_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut tables = alice(Some(folder.path()));
    // The first that is here says where the count begins.
    assert_eq!(notices(&mut tables, vec![noticed(1, 40)]), []);
    assert_eq!(mark(&tables), (40, 40));
    let next = vec![noticed_edit(1, 1, 41), noticed(2, 41)];
    assert_eq!(notices(&mut tables, next), []);
    assert_eq!((mark(&tables), version_of(&tables, 1)), ((41, 41), 1));
    // One of this message was dropped: it waits for it. One of another message need not.
    let behind = notices(&mut tables, vec![noticed_edit(1, 3, 43)]);
    assert_eq!(behind, [(CLIMBERS, None)]);
    assert_eq!(notices(&mut tables, vec![noticed_edit(2, 1, 44)]), behind);
    let versions = (version_of(&tables, 1), version_of(&tables, 2));
    assert_eq!((mark(&tables), versions), ((41, 44), (1, 1)));
    drop(tables);

    // The process died: it knows what it lacks.
    let mut tables = open(Some(folder.path()), 1000);
    assert_eq!(mark(&tables), (41, 44));
    let page = [
        climber(1, 3, &["+"]),
        climber(2, 1, &[]),
        climber(9, 1, &[]),
    ];
    let page = page_of_changes(&page, 44);
    let after = ChangeNumber(41);
    let caught_up = tables.take_changes(&CLIMBERS, after, &page).expect("takes");
    assert!(!caught_up.mark.is_behind());
    let told = caught_up.events.iter().map(|event| match event {
        ClientEvent::Changed(changed) => (changed.seq.get(), changed.version, &changed.kind),
        other => panic!("{other:?}"),
    });
    let told = told.collect::<Vec<_>>();
    let words = ChangedKind::Edited(Content::Text("version 3".to_owned()));
    let sign = ChangedKind::Reacted {
        emoji: "+".to_owned(),
        on: true,
    };
    // As one change after the other would have said it; what is not here is no news.
    assert_eq!(told, [(1, 2, &words), (1, 3, &sign)]);
    let again = tables.take_changes(&CLIMBERS, after, &page).expect("takes");
    assert_eq!((again.events.len(), mark(&tables)), (0, (44, 44)));

    // A page that was under way while changes came.
    let mut old = [climber(7, 0, &[])];
    let head = Some(seq(7));
    tables
        .keep_history(&mut old, head, ChangeNumber(42))
        .expect("keeps");
    assert_eq!(mark(&tables), (42, 44));
    // One with nothing new does not take the count back.
    let mut known = [climber(1, 0, &[])];
    tables
        .take_changes(&CLIMBERS, ChangeNumber(42), &page_of_changes(&[], 44))
        .expect("takes");
    tables
        .keep_history(&mut known, head, ChangeNumber(10))
        .expect("keeps");
    assert_eq!((mark(&tables), version_of(&tables, 1)), ((44, 44), 3));
}

#[test]
fn what_the_gateway_has_forgotten_is_read_again_or_dropped() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut tables = alice(Some(folder.path()));
    let first: Vec<Notice> = (1..=6).map(|at| noticed(at, 3)).collect();
    notices(&mut tables, first);
    assert!(
        tables
            .hear_changes(&CLIMBERS, ChangeNumber(5000))
            .expect("hears")
    );
    let too_old = Changes {
        too_old: true,
        ..page_of_changes(&[], 5001)
    };
    let caught_up = tables
        .take_changes(&CLIMBERS, ChangeNumber(3), &too_old)
        .expect("takes");
    assert!(caught_up.events.is_empty() && !caught_up.mark.is_behind());
    drop(tables);
    let mut tables = open(Some(folder.path()), 1000);
    let stale = |tables: &Tables| tables.stale_to(&CLIMBERS).expect("reads");
    assert_eq!(
        (stale(&tables), mark(&tables)),
        (Some(seq(6)), (5001, 5001))
    );
    assert!(tables.pulled().expect("reads")[0].stale);
    // The newest are read again, and some that were not here; then what is left is dropped.
    let mut page = [climber(4, 2, &[]), climber(5, 0, &[]), climber(6, 7, &[])];
    tables
        .keep_history(&mut page, Some(seq(6)), ChangeNumber(5001))
        .expect("keeps");
    tables.reread(&CLIMBERS, Seq::new(3).ok()).expect("notes");
    assert_eq!(stale(&tables), Some(seq(3)));
    tables.drop_stale(&CLIMBERS).expect("drops");
    let left = tables.messages(CLIMBERS, Page::Latest, 10).expect("reads");
    let left: Vec<u64> = left.iter().map(|message| message.seq.get()).collect();
    assert_eq!(
        (left, stale(&tables), tables.messages),
        (vec![4, 5, 6], None, 3)
    );
    assert_eq!(version_of(&tables, 6), 7);
}

#[test]
fn the_note_that_makes_a_group_one_of_notices_begins_the_count() {
    let mut tables = alice(None);
    // News of it come before what the inbox has still to bring.
    notices(&mut tables, vec![noticed(5, 2), noticed_edit(3, 1, 3)]);
    assert_eq!(mark(&tables), (3, 3));
    let pulled = Message {
        content: Content::Note(Box::new(Note::Pulled)),
        ..climber(4, 0, &[])
    };
    let events = vec![event(1, climber(3, 0, &[])), event(2, pulled)];
    apply(&mut tables, events);
    assert_eq!(mark(&tables), (0, 3));
    assert_eq!(version_of(&tables, 3), 0);
}

fn invitation(group: u8, at: u64) -> Invitation {
    Invitation {
        conversation: ConversationId([group; 16]),
        by: user("bob"),
        title: format!("group {group}"),
        at: TimestampMs(at),
    }
}

fn invited(inbox_seq: u64, invitation: Invitation) -> Event {
    Event {
        inbox_seq: InboxSeq::new(inbox_seq).expect("not 0"),
        body: EventBody::Invitation(Box::new(invitation)),
    }
}

#[test]
fn invitations_outlive_a_restart_until_they_are_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two, three) = (
        invitation(0xf1, 10),
        invitation(0xf2, 20),
        invitation(0xf3, 30),
    );
    {
        let mut tables = alice(Some(folder.path()));
        let events = [&three, &one, &two, &one].into_iter().zip(1..);
        let events = events.map(|(invitation, at)| invited(at, invitation.clone()));
        apply(&mut tables, events.collect());
    }
    let mut tables = open(Some(folder.path()), 1000);
    let all = |tables: &Tables| tables.invitations().expect("reads");
    assert_eq!(all(&tables), [one.clone(), two.clone(), three.clone()]);
    let list = tables.conversations().expect("reads");
    let listed: Vec<_> = list
        .iter()
        .map(|row| (row.title.as_deref(), row.invited_by))
        .collect();
    let bob = Some(user("bob"));
    let lines = ["group 243", "group 242", "group 241"].map(|title| (Some(title), bob));
    assert_eq!(listed, lines);

    // Declined here: nothing is left of it.
    tables.forget_invitation(one.conversation).expect("forgets");
    assert_eq!(all(&tables), [two.clone(), three.clone()]);
    assert_eq!(tables.conversations().expect("reads").len(), 2);
    // Accepted on another device, which a note in this inbox says.
    let joined = Message {
        conversation: two.conversation,
        to: None,
        from: user("alice"),
        content: Content::Note(Box::new(Note::Joined)),
        ..from_bob(1)
    };
    let turn = Turn {
        events: vec![event(5, joined)],
        ..Turn::default()
    };
    let applied = tables.apply(turn, true).expect("applies");
    assert_eq!(all(&tables), std::slice::from_ref(&three));
    let list = tables.conversations().expect("reads");
    assert!(list.iter().any(|row| row.id == two.conversation));
    // Whether its messages come as notices the gateway is asked, also after a crash.
    let unknown = tables.unknown(&two.conversation).expect("reads");
    assert_eq!(unknown.map(|group| group.head), Some(Seq::new(1).ok()));
    assert_eq!(applied.behind, [(two.conversation, None)]);
    // What the gateway lists is what is true; what came meanwhile stays.
    let (four, five) = (invitation(0xf4, 40), invitation(0xf5, 50));
    apply(&mut tables, vec![invited(6, five.clone())]);
    let new = tables
        .take_invitations(&[three.conversation], vec![four.clone()])
        .expect("takes over");
    assert_eq!((new, all(&tables)), (vec![four.clone()], vec![four, five]));
}

#[test]
fn invitations_beyond_the_limit_take_the_place_of_the_oldest() {
    let mut tables = alice(None);
    let many = (0..=invitations::INVITATIONS_MAX as u64).map(|at| {
        let mut invitation = invitation(0xf0, at);
        invitation.conversation.0[..8].copy_from_slice(&(at | 0xff << 56).to_be_bytes());
        invited(at + 1, invitation)
    });
    apply(&mut tables, many.collect());
    let kept = tables.invitations().expect("reads");
    assert_eq!(kept.len(), invitations::INVITATIONS_MAX);
    assert_eq!(kept[0].at, TimestampMs(1));
}
