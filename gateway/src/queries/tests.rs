//! Pages of an inbox whose conversation's shard is behind, or ahead.

use quipu_core::record::{Entry, EntryBody, Position, Record, Source};
use quipu_core::retention::Retention;
use quipu_core::row::{
    Conversation, Group, HistoryRow, InboxKind, InboxRow, IndexKey, News, NumberedChange, Row,
};
use quipu_core::shard::{Effects, ShardId, ShardState};
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{ChangedKind, Gone, MessageState, Reaction};
use quipu_protocol::id::{ChangeNumber, ClientSeq, DeviceId, MessageId, TimestampMs};

use std::time::Duration;

use super::*;
use crate::store::MemoryStore;

fn user() -> UserId {
    UserId::new("alice").expect("a name")
}

fn message(version: u32, text: &str) -> Message {
    let reaction = Reaction {
        user: user(),
        emoji: "+".to_owned(),
    };
    let state = MessageState {
        version,
        edited_at: Some(TimestampMs(9)),
        reactions: vec![reaction],
        edits: 1,
        ..MessageState::default()
    };
    Message {
        conversation: ConversationId([1; 16]),
        seq: Seq::FIRST,
        id: MessageId([2; 16]),
        from: user(),
        from_device: DeviceId::new(1).expect("not 0"),
        client_seq: ClientSeq::FIRST,
        to: None,
        sent_at: TimestampMs(5),
        content: Content::Text(text.to_owned()),
        state: (version > 0).then(|| Box::new(state)),
    }
}

fn inbox(number: u64, kind: InboxKind) -> Row {
    Row::Inbox(InboxRow {
        user: user(),
        inbox_seq: InboxSeq::new(number).expect("not 0"),
        kind,
    })
}

/// An inbox with the message and its first change, an edit.
fn store(history: Message) -> MemoryStore {
    let store = MemoryStore::default();
    let sent = InboxKind::Message {
        conversation: history.conversation,
        seq: history.seq,
    };
    let edited = Changed {
        conversation: history.conversation,
        seq: history.seq,
        version: 1,
        by: Some(user()),
        at: TimestampMs(9),
        // The inbox does not keep the words.
        kind: ChangedKind::Edited(Content::Gone(Gone::Deleted)),
    };
    let rows = vec![
        Row::History(HistoryRow(history)),
        inbox(1, sent),
        inbox(2, InboxKind::Changed(Box::new(edited))),
    ];
    store.commit(rows).expect("memory");
    store
}

#[test]
fn an_edit_waits_for_the_history_to_come_so_far() {
    let behind = store(message(0, "old words"));
    let page = inbox_page(&behind, &user(), Cursor::START, 10, 10_000).expect("memory");
    // Under the number of the edit the old words would stay on the device for good.
    assert!(page.gap && !page.exhausted);
    assert_eq!(page.events.len(), 1);

    let there = store(message(1, "new words"));
    let page = inbox_page(&there, &user(), Cursor::START, 10, 10_000).expect("memory");
    assert!(!page.gap);
    assert_eq!(page.events.len(), 2);
}

#[test]
fn a_late_message_does_not_count_changes_that_are_still_to_come() {
    let store = store(message(3, "new words"));
    let page = inbox_page(&store, &user(), Cursor::START, 10, 10_000).expect("memory");
    // The frame is the one of the message as it was sent, with the words that it has now.
    let mut as_sent = message(3, "new words");
    as_sent.state = None;
    let event = wire::Event::numbered(InboxSeq::FIRST, &EventBody::Message(as_sent));
    let mut frame = BytesMut::new();
    frame::encode(FrameType::Event, &event, &mut frame);
    let (_, length) = page.events[0];
    assert_eq!(page.frames[..length], frame[..]);
}

/// The numbers of the events of a page, and whether the inbox ended there.
async fn page(queries: &Queries, after: u64) -> (Vec<u64>, bool) {
    let page = queries.inbox_page(user(), Cursor(after), 10, 10_000).await;
    let page = page.expect("memory");
    let numbers = page.events.iter().map(|(number, _)| number.get());
    (numbers.collect(), page.exhausted)
}

#[tokio::test]
async fn at_the_head_there_is_no_page_to_read() {
    let store = store(message(1, "new words"));
    let head = Inbox {
        head: Some(InboxSeq::new(2).expect("not 0")),
        ..Inbox::default()
    };
    let row = Row::Entity(EntityKey::Inbox(user()), head.encode());
    store.commit(vec![row]).expect("memory");
    let metrics = Arc::new(Metrics::new());
    let queries = Queries::new(Arc::new(store), ShardCount(4), 1, Arc::clone(&metrics));
    // A read that needs a thread waits for this place, and gets none.
    let place = Arc::clone(&queries.running).acquire_owned().await;
    assert_eq!(page(&queries, 2).await, (vec![], true));
    drop(place);
    assert_eq!(page(&queries, 0).await, (vec![1, 2], true));
    assert_eq!(metrics.queries_in_place.get(), 2);

    // The store has become slow.
    let slow = std::time::Duration::from_secs(3600);
    queries.in_place.took(Instant::now(), slow);
    assert_eq!(page(&queries, 2).await, (vec![], true));
    assert_eq!(page(&queries, 1).await, (vec![2], true));
    assert_eq!(queries.account(user()).await.expect("memory"), None);
    assert_eq!(metrics.queries_in_place.get(), 2);
}

const GROUP: ConversationId = ConversationId([0xcc; 16]);
const SHARDS: ShardCount = ShardCount(4);

/// A pulled group of alice with one message, while her shard was told of a second one that the group's shard has not committed.
fn told_ahead(membership: &[u8]) -> MemoryStore {
    let seq = |number| Seq::new(number).expect("not 0");
    let mut row = Conversation::of_group(
        Group {
            title: "Crew".to_owned(),
            topic: String::new(),
            open: true,
            history_from_start: true,
            pulled: Some(Seq::FIRST),
            changes: ChangeNumber::START,
            fan_out_max: 1,
            creator: user(),
            owner: user(),
            invited: 0,
            shards: vec![(SHARDS.of_user(&user()), 1)],
        },
        TimestampMs(1),
    );
    row.head = Some(Seq::FIRST);
    let mut first = message(0, "first");
    first.conversation = GROUP;
    let news = News { head: Some(seq(2)) };
    let home = SHARDS.of_user(&user());
    let store = MemoryStore::default();
    let rows = vec![
        Row::Entity(EntityKey::Conversation(GROUP), row.encode()),
        Row::Entity(
            EntityKey::Member(GROUP, user()),
            Bytes::copy_from_slice(membership),
        ),
        Row::Entity(EntityKey::News(GROUP, home), news.encode()),
        Row::History(HistoryRow(first)),
    ];
    store.commit(rows).expect("memory");
    store
}

/// The newest messages of the group.
fn newest() -> HistoryRequest {
    HistoryRequest {
        conversation: GROUP,
        first: None,
        last: None,
        limit: 10,
        newest_first: true,
    }
}

#[test]
fn a_head_is_what_devices_were_told_of_and_a_page_says_that_it_is_short() {
    let request = newest();
    // A member (field 7) who joined with the first message (field 9).
    let store = told_ahead(&[0x38, 1, 0x48, 1]);
    let page = history_page((&store, SHARDS), &user(), &request).expect("memory");
    let page = page.expect("a member");
    assert_eq!((page.messages.len(), page.more), (1, false));
    assert_eq!(page.head.map(Seq::get), Some(2));
    let entry = groups::entry((&store, SHARDS), &user(), GROUP).expect("memory");
    let entry = entry.expect("a member");
    assert_eq!(entry.head.map(Seq::get), Some(2));
    assert_eq!(entry.last.map(|last| last.seq), Some(Seq::FIRST));
    // Nothing of this is for who has left (field 10).
    let store = told_ahead(&[0x48, 1, 0x50, 1]);
    let refused = history_page((&store, SHARDS), &user(), &request).expect("memory");
    assert!(refused.is_err());
    let entry = groups::entry((&store, SHARDS), &user(), GROUP).expect("memory");
    assert_eq!(entry, None);
}

#[test]
fn members_are_listed_by_the_groups_own_shard() {
    // A member (field 7) who joined with the first message (field 9); one is invited by her (field 8), and one declined (field 11).
    let store = told_ahead(&[0x38, 3, 0x48, 1]);
    let named = |name| UserId::new(name).expect("a name");
    let (bob, cy, dan) = (named("bob"), named("cy"), named("dan"));
    let invited = [&[0x42, 5][..], b"alice"].concat();
    let mut rows = Vec::new();
    for (user, membership) in [(bob, &invited[..]), (cy, &[0x58, 1]), (dan, &invited[..])] {
        let key = EntityKey::Member(GROUP, user);
        rows.push(Row::Entity(key, Bytes::copy_from_slice(membership)));
        rows.push(Row::Index(
            IndexKey::Seated(GROUP, user),
            Some(Bytes::new()),
        ));
    }
    let alice = IndexKey::Seated(GROUP, user());
    rows.push(Row::Index(alice, Some(Bytes::new())));
    store.commit(rows).expect("memory");
    let page = |after, limit| match groups::members(&store, &user(), &GROUP, (after, limit)) {
        Ok(Ok(Answer::Members { members, more })) => {
            let members = members.into_iter();
            let names = members.map(|entry| (entry.user.as_str().to_owned(), entry.invited));
            (names.collect::<Vec<_>>(), more)
        }
        other => panic!("{other:?}"),
    };
    // The one who is out by now is not there, although the index was read before.
    let of = |name: &str, invited| (name.to_owned(), invited);
    let all = vec![of("alice", false), of("bob", true), of("dan", true)];
    assert_eq!(page(None, 9), (all, false));
    assert_eq!(page(None, 1), (vec![of("alice", false)], true));
    assert_eq!(page(Some(cy), 9), (vec![of("dan", true)], false));
}

/// So many that the user and the group live apart.
const MANY: ShardCount = ShardCount(64);

/// The row of a shard that has applied so many records, the last of which came from `source`.
fn shard_row(shard: ShardId, records: u64, source: Option<Source>) -> Vec<Row> {
    let (mut state, mut effects) = (ShardState::new(shard, MANY), Effects::default());
    for position in 1..=records {
        let body = EntryBody::Keep(Retention::new(1, 1));
        let source = source.filter(|_| position == records);
        let record = Record {
            position: Position(position),
            time: TimestampMs(position),
            entries: vec![Entry { source, body }],
        };
        state.apply(&record, &mut effects);
    }
    let mut rows = Vec::new();
    state.drain_dirty(&mut rows);
    rows.retain(|row| matches!(row, Row::Shard(..)));
    rows
}

#[tokio::test]
async fn a_read_waits_until_a_conversation_shows_what_its_reader_was_told() {
    let (home, there) = (MANY.of_user(&user()), MANY.of_conversation(&GROUP));
    assert_ne!(home, there);
    let store = told_ahead(&[0x38, 1, 0x48, 1]);
    let told = Source {
        shard: there,
        position: Position(5),
        index: 0,
    };
    store
        .commit(shard_row(home, 2, Some(told)))
        .expect("memory");
    store.commit(shard_row(there, 4, None)).expect("memory");
    let store: Arc<dyn Store> = Arc::new(store);
    let metrics = Arc::new(Metrics::new());
    let mut queries = Queries::new(Arc::clone(&store), MANY, 1, Arc::clone(&metrics));
    queries.behind_wait = Duration::ZERO;
    let request = newest();
    let refused = queries
        .history(user(), request.clone())
        .await
        .expect("memory");
    let refused = refused.expect_err("the shard stays behind");
    assert_eq!(refused.code, RejectCode::Busy);
    assert!(refused.retry_after_ms > 0);
    let member = queries.is_member(user(), GROUP).await.expect("memory");
    assert_eq!(member.expect_err("as before").code, RejectCode::Busy);
    let told = Told::read(&*store, MANY, &user()).expect("memory");
    assert!(told.is_ahead_of(&*store, [GROUP]).expect("memory"));
    let elsewhere = ConversationId([0xcd; 16]);
    assert_ne!(MANY.of_conversation(&elsewhere), there);
    assert!(!told.is_ahead_of(&*store, [elsewhere]).expect("memory"));

    queries.behind_wait = BEHIND_WAIT_MAX;
    let waiting = tokio::spawn(async move {
        let member = queries.is_member(user(), GROUP).await;
        (member, queries.history(user(), request).await)
    });
    let before = metrics.queries_behind.get();
    while metrics.queries_behind.get() == before {
        tokio::task::yield_now().await;
    }
    store.commit(shard_row(there, 5, None)).expect("memory");
    let (member, page) = waiting.await.expect("no panic");
    assert_eq!(member.expect("memory"), Ok(true));
    let page = page.expect("memory");
    assert_eq!(page.expect("a member").messages.len(), 1);
}

/// The group of [`told_ahead`], in which so many changes were made, of which the last `kept` are found: all of the first message.
fn with_changes(last: u64, kept: std::ops::Range<u64>) -> MemoryStore {
    let store = told_ahead(&[0x38, 1, 0x48, 1]);
    let key = EntityKey::Conversation(GROUP);
    let row = store.entities(&[key]).expect("memory").pop().flatten();
    let mut row = Conversation::decode(&row.expect("a group")).expect("sound");
    row.group.as_mut().expect("a group").changes = ChangeNumber(last);
    let mut rows = vec![Row::Entity(key, row.encode())];
    rows.extend(kept.into_iter().map(|number| {
        let change = NumberedChange {
            seq: Seq::FIRST,
            by: UserId::new(&format!("user-{number}")).expect("a name"),
            at: TimestampMs(number),
        };
        let key = IndexKey::Changed(GROUP, ChangeNumber(number));
        Row::Index(key, Some(change.encode()))
    }));
    store.commit(rows).expect("memory");
    store
}

/// How many messages, the last change that is covered, whether there are more, and whether it is too old; and who made the last.
fn changes_after(
    store: &MemoryStore,
    after: u64,
    limit: usize,
) -> (usize, u64, bool, bool, String) {
    let asked = (ChangeNumber(after), limit);
    let answer = changes::answer(store, &user(), &GROUP, asked).expect("memory");
    let Ok(Answer::Changes(page)) = answer else {
        panic!("{answer:?}");
    };
    let by = page.messages.first().map(|changed| changed.by.to_string());
    let messages = page.messages.len();
    (
        messages,
        page.through.0,
        page.more,
        page.too_old,
        by.unwrap_or_default(),
    )
}

#[test]
fn changes_are_told_while_they_are_kept() {
    let store = with_changes(9, 5..10);
    let by = || "user-9".to_owned();
    assert_eq!(changes_after(&store, 4, 128), (1, 9, false, false, by()));
    // As it is now, whoever made the change that is asked for.
    assert_eq!(changes_after(&store, 4, 2), (1, 6, true, false, by()));
    assert_eq!(changes_after(&store, 8, 2), (1, 9, false, false, by()));
    let none = String::new;
    assert_eq!(changes_after(&store, 9, 2), (0, 9, false, false, none()));
    for too_old in [0, 3, 10, u64::MAX] {
        let answer = changes_after(&store, too_old, 128);
        assert_eq!(answer, (0, 9, false, true, none()), "{too_old}");
    }
    // One that was made after the group's row was read is there already.
    let store = with_changes(9, 5..11);
    let answer = changes_after(&store, 8, 128);
    assert_eq!(answer, (1, 10, false, false, "user-10".to_owned()));
    let pushed = with_changes(0, 1..1);
    assert_eq!(changes_after(&pushed, 0, 1), (0, 0, false, false, none()));
}

#[test]
fn changes_wait_until_they_are_all_that_their_reader_was_told_of() {
    let (home, there) = (MANY.of_user(&user()), MANY.of_conversation(&GROUP));
    let told = Source {
        shard: there,
        position: Position(5),
        index: 0,
    };
    let store = with_changes(1, 1..2);
    let rows = [shard_row(home, 2, Some(told)), shard_row(there, 4, None)];
    store.commit(rows.concat()).expect("memory");
    let query = Query::Changes {
        conversation: GROUP,
        after: ChangeNumber::START,
        limit: 1,
    };
    let waits = || lists::waits((&store, MANY), &user(), &query).expect("memory");
    assert!(waits());
    store.commit(shard_row(there, 5, None)).expect("memory");
    assert!(!waits());
}
