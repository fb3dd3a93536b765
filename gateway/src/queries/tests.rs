//! Pages of an inbox whose conversation's shard is behind, or ahead.

use quipu_core::row::{HistoryRow, InboxKind, InboxRow, Row};
use quipu_protocol::event::{ChangedKind, Gone, MessageState, Reaction};
use quipu_protocol::id::{ClientSeq, DeviceId, MessageId, TimestampMs};

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
