//! What every store must do, as functions of a fresh store (and, for one that survives it, of how to open it again).

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use quipu_core::row::{EntityKey, HistoryRow, InboxKind, InboxRow, IndexKey, IndexRange, Row};
use quipu_core::shard::ShardId;
use quipu_protocol::event::{Content, Message, Receipt};
use quipu_protocol::id::{
    ChangeNumber, ClientSeq, ConversationId, Cursor, DeviceId, InboxSeq, MessageId, Seq,
    TimestampMs, UserId,
};

use crate::store::{HistoryRange, Store, body_bytes};

/// A conversation for tests; ids of neighbouring numbers are neighbours in the order of keys.
pub fn conversation(number: u8) -> ConversationId {
    let mut id = [0; 16];
    id[15] = number;
    ConversationId(id)
}

/// A user for tests.
pub fn user(name: &str) -> UserId {
    UserId::new(name).expect("tests name users well")
}

/// A seq for tests.
pub fn seq(number: u64) -> Seq {
    Seq::new(number).expect("tests count from 1")
}

/// An inbox seq for tests.
pub fn inbox_seq(number: u64) -> InboxSeq {
    InboxSeq::new(number).expect("tests count from 1")
}

/// A message of a conversation for tests.
pub fn history_row(in_conversation: u8, number: u64, text: &str) -> HistoryRow {
    HistoryRow(Message {
        conversation: conversation(in_conversation),
        seq: seq(number),
        id: MessageId([number as u8; 16]),
        from: user("ann"),
        from_device: DeviceId::new(7).expect("not 0"),
        client_seq: ClientSeq::new(number).expect("not 0"),
        to: Some(user("bob")),
        sent_at: TimestampMs(1_000 + number),
        content: Content::Text(text.to_owned()),
        state: None,
    })
}

/// An inbox entry for tests: a receipt where the number is even, else a pointer.
pub fn inbox_row(name: &str, number: u64) -> InboxRow {
    let kind = if number.is_multiple_of(2) {
        InboxKind::Receipt(Receipt {
            conversation: conversation(1),
            user: user("bob"),
            delivered: Some(seq(number)),
            read: None,
        })
    } else {
        InboxKind::Message {
            conversation: conversation(1),
            seq: seq(number),
        }
    };
    InboxRow {
        user: user(name),
        inbox_seq: inbox_seq(number),
        kind,
    }
}

fn entity(key: EntityKey, value: &'static str) -> Row {
    Row::Entity(key, Bytes::from_static(value.as_bytes()))
}

fn shard(number: u16, value: &'static str) -> Row {
    Row::Shard(ShardId(number), Bytes::from_static(value.as_bytes()))
}

/// Every row of a store, in the order of its scan.
pub fn scan_all(store: &dyn Store) -> Vec<Row> {
    let mut rows = Vec::new();
    store
        .scan(&mut |row| {
            rows.push(row);
            ControlFlow::Continue(())
        })
        .expect("a scan");
    rows
}

fn seqs(rows: &[HistoryRow]) -> Vec<u64> {
    rows.iter().map(|row| row.0.seq.get()).collect()
}

/// Runs every case that a store must pass, each on a fresh one.
pub fn suite(fresh: &mut dyn FnMut() -> Box<dyn Store>) {
    an_empty_store_has_nothing(&*fresh());
    the_last_row_under_a_key_wins(&*fresh());
    history_pages_count_from_either_end(&*fresh());
    history_pages_end_at_their_bytes(&*fresh());
    neighbours_do_not_mix(&*fresh());
    inboxes_are_read_from_a_cursor(&*fresh());
    inbox_rows_are_trimmed(&*fresh());
    a_sync_says_which_shard_rows_are_durable(&*fresh());
    a_scan_visits_every_row_in_order(&*fresh());
    a_message_is_an_entity_too(&*fresh());
    index_rows_come_by_range_and_go(&*fresh());
    a_commit_is_visible_to_every_thread(fresh().into());
}

fn an_empty_store_has_nothing(store: &dyn Store) {
    let key = EntityKey::Account(user("ann"));
    assert_eq!(store.entities(&[key, key]), Ok(vec![None, None]));
    assert_eq!(store.entities(&[]), Ok(Vec::new()));
    assert_eq!(store.shard(ShardId(0)), Ok(None));
    let history = store.history(&conversation(1), HistoryRange::ALL);
    assert_eq!(history, Ok(Vec::new()));
    assert_eq!(store.inbox(&user("ann"), Cursor::START, 9), Ok(Vec::new()));
    assert_eq!(store.sync().expect("a sync").shards, []);
    assert_eq!(scan_all(store), []);
    store.commit(Vec::new()).expect("an empty commit");
}

fn the_last_row_under_a_key_wins(store: &dyn Store) {
    let [ann, bob] = ["ann", "bob"].map(|name| EntityKey::Inbox(user(name)));
    let account = EntityKey::Account(user("ann"));
    store
        .commit(vec![
            entity(ann, "1"),
            shard(3, "a"),
            entity(ann, "2"),
            entity(bob, "b"),
        ])
        .expect("a commit");
    store
        .commit(vec![entity(bob, "c"), shard(3, "b"), entity(account, "")])
        .expect("a commit");
    let found = store.entities(&[bob, ann, EntityKey::Account(user("bob")), account]);
    let expected = [Some("c"), Some("2"), None, Some("")];
    assert_eq!(
        found,
        Ok(expected.map(|value| value.map(Bytes::from)).to_vec())
    );
    assert_eq!(store.shard(ShardId(3)), Ok(Some(Bytes::from("b"))));
}

/// Some rows are synced, some only committed, so that a layered store has them in different places.
fn commit_history(store: &dyn Store, texts: impl Iterator<Item = (u64, String)>) {
    for (number, text) in texts {
        let row = history_row(1, number, &text);
        store.commit(vec![Row::History(row)]).expect("a commit");
        if number.is_multiple_of(4) {
            store.sync().expect("a sync");
        }
    }
}

fn history_pages_count_from_either_end(store: &dyn Store) {
    commit_history(store, (1..=10).map(|n| (n, format!("text {n}"))));
    let page = |first, last: Option<u64>, limit, newest_first| {
        let range = HistoryRange {
            first: seq(first),
            last: last.map(seq),
            limit,
            newest_first,
            ..HistoryRange::ALL
        };
        seqs(&store.history(&conversation(1), range).expect("a page"))
    };
    assert_eq!(page(1, None, 100, false), (1..=10).collect::<Vec<_>>());
    assert_eq!(page(1, None, 100, true), (1..=10).collect::<Vec<_>>());
    assert_eq!(page(1, None, 3, false), [1, 2, 3]);
    assert_eq!(page(1, None, 3, true), [8, 9, 10]);
    assert_eq!(page(3, Some(9), 6, false), [3, 4, 5, 6, 7, 8]);
    assert_eq!(page(3, Some(9), 6, true), [4, 5, 6, 7, 8, 9]);
    assert_eq!(page(8, Some(8), 6, true), [8]);
    assert!(page(9, Some(8), 6, false).is_empty());
    assert!(page(11, None, 6, true).is_empty());
    assert!(page(1, Some(u64::MAX), 0, false).is_empty());
    let row = history_row(1, 7, "text 7");
    let range = HistoryRange {
        first: seq(7),
        last: Some(seq(7)),
        ..HistoryRange::ALL
    };
    assert_eq!(store.history(&conversation(1), range), Ok(vec![row]));
}

fn history_pages_end_at_their_bytes(store: &dyn Store) {
    // A long message in the middle, where a layered store must not skip it for a later short one.
    let text = |n: u64| "x".repeat(if n == 5 { 1000 } else { 10 });
    commit_history(store, (1..=10).map(|n| (n, text(n))));
    let page = |first, bytes, newest_first| {
        let range = HistoryRange {
            first: seq(first),
            bytes,
            newest_first,
            ..HistoryRange::ALL
        };
        let rows = store.history(&conversation(1), range).expect("a page");
        let total: usize = rows.iter().map(body_bytes).sum();
        assert!(total <= bytes || rows.len() == 1, "{total} of {bytes}");
        seqs(&rows)
    };
    assert_eq!(
        page(1, 100, false),
        [1, 2, 3, 4],
        "the long one does not fit"
    );
    assert_eq!(page(1, 100, true), [6, 7, 8, 9, 10]);
    assert_eq!(page(5, 0, false), [5], "one always goes");
    assert_eq!(page(5, 1010, false), [5, 6]);
    assert_eq!(page(1, 0, true), [10]);
    assert_eq!(page(1, 1090, true), (1..=10).collect::<Vec<_>>());
    assert_eq!(page(1, 1089, true), (2..=10).collect::<Vec<_>>());
}

fn neighbours_do_not_mix(store: &dyn Store) {
    let mut rows = Vec::new();
    for number in 1..=3 {
        for other in [0, 1, 2] {
            rows.push(Row::History(history_row(other, number, "t")));
        }
        for name in ["aa", "aa.b", "aab", "ab"] {
            rows.push(Row::Inbox(inbox_row(name, number)));
        }
    }
    store.commit(rows).expect("a commit");
    for other in [0, 1, 2] {
        let rows = store.history(&conversation(other), HistoryRange::ALL);
        let rows = rows.expect("a page");
        assert_eq!(seqs(&rows), [1, 2, 3]);
        assert!(
            rows.iter()
                .all(|row| *row.conversation() == conversation(other))
        );
    }
    for name in ["aa", "aa.b", "aab", "ab"] {
        let rows = store.inbox(&user(name), Cursor::START, 99);
        let expected: Vec<InboxRow> = (1..=3).map(|n| inbox_row(name, n)).collect();
        assert_eq!(rows, Ok(expected));
    }
}

fn inboxes_are_read_from_a_cursor(store: &dyn Store) {
    for number in 1..=10 {
        let row = Row::Inbox(inbox_row("ann", number));
        store.commit(vec![row]).expect("a commit");
        if number == 6 {
            store.sync().expect("a sync");
        }
    }
    let page = |after, limit| {
        let rows = store
            .inbox(&user("ann"), Cursor(after), limit)
            .expect("a page");
        rows.iter()
            .map(|row| row.inbox_seq.get())
            .collect::<Vec<_>>()
    };
    assert_eq!(page(0, 99), (1..=10).collect::<Vec<_>>());
    assert_eq!(page(4, 4), [5, 6, 7, 8]);
    assert_eq!(page(9, 4), [10]);
    assert!(page(10, 4).is_empty());
    assert!(page(u64::MAX, 4).is_empty());
    assert!(page(0, 0).is_empty());
}

fn inbox_rows_are_trimmed(store: &dyn Store) {
    let put = |name: &str, numbers: std::ops::RangeInclusive<u64>| {
        let rows = numbers.map(|number| Row::Inbox(inbox_row(name, number)));
        store.commit(rows.collect()).expect("a commit");
    };
    let trim = |name: &str, numbers: std::ops::RangeInclusive<u64>| {
        let rows = numbers.map(|number| Row::Trimmed(user(name), inbox_seq(number)));
        store.commit(rows.collect()).expect("a commit");
    };
    let page = |name: &str, after, limit| {
        let rows = store.inbox(&user(name), Cursor(after), limit);
        let rows = rows.expect("a page").into_iter();
        rows.map(|row| row.inbox_seq.get()).collect::<Vec<_>>()
    };
    // Some rows and some of the trimming are synced, some not, so that a layered store has them in different places.
    put("ann", 1..=8);
    put("anna", 1..=2);
    store.sync().expect("a sync");
    put("ann", 9..=12);
    trim("ann", 1..=5);
    trim("ann", 6..=9);
    assert_eq!(page("ann", 0, 2), [10, 11]);
    assert_eq!(page("ann", 7, 9), [10, 11, 12]);
    assert_eq!(page("ann", 11, 9), [12]);
    assert_eq!(page("anna", 0, 9), [1, 2], "a neighbour keeps its rows");
    store.sync().expect("a sync");
    put("ann", 13..=13);
    trim("ann", 10..=10);
    // What is not there is trimmed all the same.
    trim("ann", 1..=2);
    trim("bob", 1..=1);
    assert_eq!(page("ann", 0, 9), [11, 12, 13]);
    store.sync().expect("a sync");
    let left = scan_all(store).into_iter().map(|row| match row {
        Row::Inbox(row) => (row.user, row.inbox_seq.get()),
        other => panic!("{other:?}"),
    });
    let expected = [
        ("ann", 11),
        ("ann", 12),
        ("ann", 13),
        ("anna", 1),
        ("anna", 2),
    ];
    let expected = expected.map(|(name, number)| (user(name), number));
    assert_eq!(left.collect::<Vec<_>>(), expected);
    // One commit that writes and trims: the last row of a key wins.
    let (row, gone) = (inbox_row("bob", 1), Row::Trimmed(user("bob"), inbox_seq(1)));
    store
        .commit(vec![Row::Inbox(row.clone()), gone.clone()])
        .expect("a commit");
    assert!(page("bob", 0, 9).is_empty());
    store.commit(vec![gone, Row::Inbox(row)]).expect("a commit");
    assert_eq!(page("bob", 0, 9), [1]);
}

fn a_message_is_an_entity_too(store: &dyn Store) {
    let key = |seq_value| EntityKey::Message(conversation(1), seq(seq_value));
    let rows = vec![Row::History(history_row(1, 1, "first"))];
    store.commit(rows).expect("a commit");
    let value = history_row(1, 1, "first").encode_value();
    assert_eq!(
        store.entities(&[key(1), key(2)]),
        Ok(vec![Some(value), None])
    );
    store.sync().expect("a sync");
    let rows = vec![Row::History(history_row(1, 1, "edited"))];
    store.commit(rows).expect("a commit");
    let value = history_row(1, 1, "edited").encode_value();
    assert_eq!(store.entities(&[key(1)]), Ok(vec![Some(value)]));
    let range = HistoryRange::ALL;
    let history = store.history(&conversation(1), range).expect("a page");
    assert_eq!(history, [history_row(1, 1, "edited")]);
}

fn index_rows_come_by_range_and_go(store: &dyn Store) {
    let key = |name: &str, n| IndexKey::Listed(user(name), conversation(n));
    let put = |name: &str, n| Row::Index(key(name, n), Some(Bytes::from(name.to_owned())));
    let keys = |range, limit| -> Vec<IndexKey> {
        let rows = store.index(&range, limit).expect("a page");
        rows.into_iter().map(|(key, _)| key).collect()
    };
    let of_ann = || IndexRange::Listed(user("ann"), None);
    let rows = vec![put("ann", 3), put("ann", 1), put("anna", 1), put("ann", 2)];
    store.commit(rows).expect("a commit");
    assert_eq!(keys(of_ann(), 2), [key("ann", 1), key("ann", 2)]);
    store.sync().expect("a sync");
    store
        .commit(vec![Row::Index(key("ann", 1), None), put("ann", 4)])
        .expect("a commit");
    assert_eq!(keys(of_ann(), 2), [key("ann", 2), key("ann", 3)]);
    let rest = IndexRange::Listed(user("ann"), Some(conversation(2)));
    assert_eq!(keys(rest, 9), [key("ann", 3), key("ann", 4)]);
    store.sync().expect("a sync");
    store.commit(vec![put("ann", 1)]).expect("a commit");
    assert_eq!(
        keys(of_ann(), 9).len(),
        4,
        "what was taken away can come back"
    );
    assert_eq!(keys(IndexRange::Reports, 9), []);

    // Numbers, in their order and not in that of their first bytes; the oldest goes as the newest comes.
    let change = |number| IndexKey::Changed(conversation(1), ChangeNumber(number));
    let rows = (250..=260).map(|number| Row::Index(change(number), Some(Bytes::new())));
    store.commit(rows.collect()).expect("a commit");
    let newest = Row::Index(change(261), Some(Bytes::new()));
    store
        .commit(vec![newest, Row::Index(change(250), None)])
        .expect("a commit");
    let after = |number| IndexRange::Changes(conversation(1), ChangeNumber(number));
    assert_eq!(keys(after(254), 3), [change(255), change(256), change(257)]);
    assert_eq!(keys(after(0), 99).len(), 11);
    assert_eq!(keys(after(261), 9), []);
}

fn a_sync_says_which_shard_rows_are_durable(store: &dyn Store) {
    store
        .commit(vec![shard(2, "a"), shard(0, "b")])
        .expect("a commit");
    store.commit(vec![shard(2, "c")]).expect("a commit");
    let durable = store.sync().expect("a sync");
    let expected = [(0, "b"), (2, "c")].map(|(n, row)| (ShardId(n), Bytes::from(row)));
    assert_eq!(durable.shards, expected);
}

fn a_scan_visits_every_row_in_order(store: &dyn Store) {
    let rows = [
        shard(1, "one"),
        shard(300, "many"),
        entity(EntityKey::Account(user("ann")), "a"),
        entity(EntityKey::Account(user("bob")), "b"),
        entity(EntityKey::Inbox(user("ann")), "i"),
        entity(EntityKey::Conversation(conversation(1)), "c"),
        Row::History(history_row(0, 2, "x")),
        Row::History(history_row(1, 1, "x")),
        Row::History(history_row(1, 300, "x")),
        Row::Inbox(inbox_row("ann", 1)),
        Row::Inbox(inbox_row("ann", 300)),
        Row::Inbox(inbox_row("bob", 2)),
        Row::Index(
            IndexKey::Listed(user("ann"), conversation(1)),
            Some(Bytes::from("l")),
        ),
    ];
    for row in rows.iter().rev() {
        store.commit(vec![row.clone()]).expect("a commit");
    }
    assert_eq!(scan_all(store), rows);

    let mut visited = 0;
    store
        .scan(&mut |_| {
            // Reading while being visited must not lock up.
            let history = store.history(&conversation(1), HistoryRange::ALL);
            assert_eq!(history.map(|rows| rows.len()), Ok(2));
            visited += 1;
            match visited {
                5 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        })
        .expect("a scan");
    assert_eq!(visited, 5, "a break ends it");
}

fn a_commit_is_visible_to_every_thread(store: Arc<dyn Store>) {
    const ROWS: u64 = 300;
    let (tell, told) = std::sync::mpsc::channel();
    let writer = std::thread::spawn({
        let store = Arc::clone(&store);
        move || {
            for number in 1..=ROWS {
                let rows = vec![
                    Row::History(history_row(1, number, "text")),
                    Row::Inbox(inbox_row("ann", number)),
                ];
                store.commit(rows).expect("a commit");
                if number.is_multiple_of(50) {
                    store.sync().expect("a sync");
                }
                tell.send(number).expect("the reader listens");
            }
        }
    });
    for number in told {
        let inbox = store.inbox(&user("ann"), Cursor(number - 1), 1);
        let inbox = inbox.expect("a page");
        assert_eq!(inbox, [inbox_row("ann", number)], "{number} is there");
        let range = HistoryRange {
            last: Some(seq(number)),
            limit: 3,
            newest_first: true,
            ..HistoryRange::ALL
        };
        let newest = store.history(&conversation(1), range).expect("a page");
        let expected: Vec<u64> = (number.saturating_sub(2).max(1)..=number).collect();
        assert_eq!(seqs(&newest), expected);
    }
    writer.join().expect("the writer ends well");
}

/// Runs every case that a store must pass which survives its process. `open` opens the same store again and again; each value
/// it gave is dropped before the next call.
pub fn durable_suite(open: &mut dyn FnMut() -> Box<dyn Store>) {
    let store = open();
    let mut rows = vec![
        shard(1, "one"),
        entity(EntityKey::Account(user("ann")), "a"),
        entity(EntityKey::Conversation(conversation(1)), "c"),
    ];
    rows.extend((1..=50).map(|n| Row::History(history_row(1, n, &"long ".repeat(n as usize)))));
    rows.extend((1..=50).map(|n| Row::Inbox(inbox_row("ann", n))));
    store.commit(rows.clone()).expect("a commit");
    let durable = store.sync().expect("a sync");
    drop(store);

    let store = open();
    assert_eq!(scan_all(&*store), rows);
    assert_eq!(store.sync().expect("a sync"), durable);
    store.commit(vec![shard(1, "two")]).expect("a commit");
    drop(store);

    // A store that is closed in order has no need to lose anything.
    let store = open();
    assert_eq!(store.shard(ShardId(1)), Ok(Some(Bytes::from("two"))));
    let trimmed = (1..=20).map(|n| Row::Trimmed(user("ann"), inbox_seq(n)));
    store.commit(trimmed.collect()).expect("a commit");
    drop(store);

    let store = open();
    let kept = store
        .inbox(&user("ann"), Cursor::START, 99)
        .expect("a page");
    let kept: Vec<u64> = kept.iter().map(|row| row.inbox_seq.get()).collect();
    assert_eq!(kept, (21..=50).collect::<Vec<_>>());
}
