//! Records and rows of the log and the store: read, written, and read again as the same.

use quipu_core::record::{Position, Record};
use quipu_core::row::{
    Account, Answers, Conversation, DeadLetters, HistoryRow, Inbox, InboxRow, IndexKey, OfflineRow,
    Presence, Settings,
};
use quipu_core::shard::{ShardCount, ShardId, ShardState};
use quipu_protocol::id::{ConversationId, InboxSeq, Seq, TimestampMs, UserId};

/// Bytes that are a row of this kind come through another round unchanged.
macro_rules! round_trips {
    ($bytes:expr; $( $row:ty; )*) => {
        $(
            if let Ok(row) = <$row>::decode($bytes) {
                assert_eq!(<$row>::decode(&row.encode()).as_ref(), Ok(&row));
            }
        )*
    };
}

/// The bytes are read as every record and row in turn.
pub fn every_row(bytes: &[u8]) {
    if let Ok(record) = Record::decode(Position(1), TimestampMs(1), bytes) {
        let again = Record::encode_entries(&record.entries);
        let again = Record::decode(Position(1), TimestampMs(1), &again);
        assert_eq!(again.as_ref(), Ok(&record));
    }
    round_trips! { bytes;
        Account;
        Answers;
        Conversation;
        Inbox;
        Presence;
        Settings;
        DeadLetters;
        OfflineRow;
        IndexKey;
    }
    let conversation = ConversationId([0; 16]);
    if let Ok(row) = HistoryRow::decode_value(conversation, Seq::FIRST, bytes) {
        let again = HistoryRow::decode_value(conversation, Seq::FIRST, &row.encode_value());
        assert_eq!(again, Ok(row));
    }
    if let Ok(user) = UserId::new("ana")
        && let Ok(row) = InboxRow::decode_value(user, InboxSeq::FIRST, bytes)
    {
        let again = InboxRow::decode_value(user, InboxSeq::FIRST, &row.encode_value());
        assert_eq!(again, Ok(row));
    }
    // Only whether it panics: what a shard keeps of itself is its own.
    let _ = ShardState::restore(ShardId(0), ShardCount(4), Some(bytes));
}
