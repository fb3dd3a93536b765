//! How many messages are unread, where the cache has all of them, some, or none.

use quipu_protocol::query::ConversationEntry;

use super::*;

/// A conversation of which the gateway says: 20 messages, read up to 4, and of the others these are bob's.
fn listed(unread: u64) -> ConversationEntry {
    ConversationEntry {
        conversation: direct(),
        peer: Some(user("bob")),
        group: None,
        head: Some(seq(20)),
        first: Seq::FIRST,
        delivered: None,
        read: Some(seq(4)),
        unread,
        last: None,
        activity: TimestampMs(1020),
        keep_ms: 0,
        peer_delivered: None,
        peer_read: None,
        blocked: false,
        changes: ChangeNumber::START,
    }
}

/// Message `at`: every third one is alice's own, from another device.
fn said(at: u64) -> Message {
    let id = MessageId([at as u8; 16]);
    let number = ClientSeq::new(at).expect("not 0");
    match at % 3 {
        0 => message("alice", 99, at, id, number),
        _ => message("bob", 3, at, id, number),
    }
}

fn count(range: std::ops::RangeInclusive<u64>) -> u64 {
    range.filter(|at| at % 3 != 0).count() as u64
}

fn unread(tables: &Tables) -> u64 {
    tables.conversations().expect("reads")[0].unread
}

fn fetch(tables: &mut Tables, range: std::ops::RangeInclusive<u64>) {
    let mut page: Vec<Message> = range.map(said).collect();
    tables
        .keep_history(&mut page, Some(seq(20)), ChangeNumber::START)
        .expect("keeps");
}

fn new_device() -> Tables {
    let mut tables = alice(None);
    tables.keep_listed(&[listed(count(5..=20))]).expect("keeps");
    assert_eq!(unread(&tables), count(5..=20));
    tables
}

#[test]
fn who_reads_on_from_where_they_were_is_told_exactly() {
    let mut tables = new_device();
    fetch(&mut tables, 5..=11);
    for read in 5..=11 {
        tables.mark_read(direct(), seq(read)).expect("marks");
        assert_eq!(unread(&tables), count(read + 1..=20), "read up to {read}");
    }
    // Beyond what the cache has: never too few, and no more than there are messages.
    tables.mark_read(direct(), seq(18)).expect("marks");
    assert_eq!(unread(&tables), 2);
    tables.mark_read(direct(), seq(20)).expect("marks");
    assert_eq!(unread(&tables), 0);
}

#[test]
fn who_has_the_newest_messages_is_told_exactly() {
    let mut tables = new_device();
    fetch(&mut tables, 13..=20);
    assert_eq!(unread(&tables), count(5..=20));
    for read in 12..=20 {
        tables.mark_read(direct(), seq(read)).expect("marks");
        assert_eq!(unread(&tables), count(read + 1..=20), "read up to {read}");
    }
}

#[test]
fn between_the_two_the_count_is_never_too_small() {
    let mut tables = new_device();
    fetch(&mut tables, 10..=12);
    for read in 5..=20 {
        tables.mark_read(direct(), seq(read)).expect("marks");
        let (shown, exact) = (unread(&tables), count(read + 1..=20));
        assert!(shown >= exact && shown <= 20 - read, "{read}: {shown}");
    }
}

/// One that moves to the front of the list while its pages are read is on none of them.
#[test]
fn who_meets_a_conversation_in_its_midst_asks_what_it_is() {
    let mut tables = alice(None);
    let meets = |tables: &mut Tables, at| {
        let turn = Turn {
            events: vec![event(at, said(at))],
            ..Turn::default()
        };
        let applied = tables.apply(turn, true).expect("applies");
        let unknown = tables.unknown(&direct()).expect("reads");
        (applied.behind, unknown.map(|known| known.head))
    };
    let asks = vec![(direct(), None)];
    assert_eq!(meets(&mut tables, 19), (asks, Some(Some(seq(19)))));
    // Asked once, and again after a crash or on the next connection.
    assert_eq!(meets(&mut tables, 20), (vec![], Some(Some(seq(20)))));
    assert_eq!(unread(&tables), 2);
    tables.keep_listed(&[listed(count(5..=20))]).expect("keeps");
    assert_eq!(unread(&tables), count(5..=20));
    assert_eq!(meets(&mut tables, 22), (vec![], None));
    // The first message of all says enough.
    let mut tables = alice(None);
    assert_eq!(meets(&mut tables, 1), (vec![], None));
}

#[test]
fn what_is_deleted_before_it_is_read_is_not_unread() {
    let mut tables = alice(None);
    let events = [1, 2, 4].into_iter().zip(1..);
    apply(
        &mut tables,
        events.map(|(at, inbox)| event(inbox, said(at))).collect(),
    );
    assert_eq!(unread(&tables), 3);
    let gone = Changed {
        conversation: direct(),
        seq: seq(2),
        version: 1,
        by: Some(user("bob")),
        at: TimestampMs(9),
        kind: ChangedKind::Gone(Gone::Deleted),
    };
    let body = EventBody::Changed(Box::new(gone));
    let inbox_seq = InboxSeq::new(4).expect("not 0");
    apply(&mut tables, vec![Event { inbox_seq, body }]);
    assert_eq!(unread(&tables), 2);
}
