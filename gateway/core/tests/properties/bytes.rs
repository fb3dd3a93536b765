//! Whatever the bytes are, reading them gives a value or an error, and what is read is written the same again.

use proptest::prelude::*;
use quipu_core::record::{Position, Record};
use quipu_core::row::{
    Account, Answers, Conversation, DeadLetters, EntityKey, HistoryRow, Inbox, InboxRow, News,
    OfflineRow, Presence,
};
use quipu_core::shard::{ShardCount, ShardId, ShardState};
use quipu_protocol::id::{ConversationId, InboxSeq, Seq, TimestampMs};

use crate::story;
use crate::support::{self, Store};

fn read_as_everything(bytes: &[u8]) {
    if let Ok(record) = Record::decode(Position(1), TimestampMs(1), bytes) {
        let again = Record::encode_entries(&record.entries);
        let read = Record::decode(Position(1), TimestampMs(1), &again);
        assert_eq!(read.as_ref(), Ok(&record));
        // Total on whatever can be read.
        let mut state = ShardState::new(ShardId(0), ShardCount(3));
        Store::default().apply(&mut state, &record, &mut Default::default());
    }
    if let Ok(account) = Account::decode(bytes) {
        assert_eq!(Account::decode(&account.encode()), Ok(account));
    }
    if let Ok(row) = Conversation::decode(bytes) {
        assert_eq!(Conversation::decode(&row.encode()), Ok(row));
    }
    if let Ok(row) = Answers::decode(bytes) {
        assert_eq!(Answers::decode(&row.encode()), Ok(row));
    }
    if let Ok(inbox) = Inbox::decode(bytes) {
        assert_eq!(Inbox::decode(&inbox.encode()), Ok(inbox));
    }
    if let Ok(presence) = Presence::decode(bytes) {
        assert_eq!(Presence::decode(&presence.encode()), Ok(presence));
    }
    if let Ok(dead) = DeadLetters::decode(bytes) {
        assert_eq!(DeadLetters::decode(&dead.encode()), Ok(dead));
    }
    if let Ok(row) = OfflineRow::decode(bytes) {
        assert_eq!(OfflineRow::decode(&row.encode()), Ok(row));
    }
    if let Ok(news) = News::decode(bytes) {
        assert_eq!(News::decode(&news.encode()), Ok(news));
    }
    let conversation = ConversationId([0; 16]);
    if let Ok(row) = HistoryRow::decode_value(conversation, Seq::FIRST, bytes) {
        let again = HistoryRow::decode_value(conversation, Seq::FIRST, &row.encode_value());
        assert_eq!(again, Ok(row));
    }
    let user = support::user("alice");
    if let Ok(row) = InboxRow::decode_value(user, InboxSeq::FIRST, bytes) {
        let again = InboxRow::decode_value(user, InboxSeq::FIRST, &row.encode_value());
        assert_eq!(again, Ok(row));
    }
    let count = ShardCount(4);
    if let Ok(mut state) = ShardState::restore(ShardId(0), count, Some(bytes)) {
        for key in [
            EntityKey::Account(user),
            EntityKey::Inbox(user),
            EntityKey::Conversation(conversation),
            EntityKey::Settings(user),
            EntityKey::Answers(user, ShardId(0)),
            EntityKey::Presence(user),
            EntityKey::Roster(conversation, ShardId(0)),
            EntityKey::News(conversation, ShardId(0)),
            EntityKey::DeadLetters(ShardId(0)),
        ] {
            let _ = state.load(key, Some(bytes));
        }
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_as_everything(&bytes);
    }

    #[test]
    fn damaged_bytes(
        steps in story::steps(8),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        end in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let story = story::story(&steps);
        let record = Record {
            position: Position(1),
            time: TimestampMs(1),
            entries: story.entries,
        };
        let mut store = Store::default();
        let mut state = ShardState::new(ShardId(0), ShardCount(1));
        let mut effects = Default::default();
        store.apply(&mut state, &record, &mut effects);
        store.checkpoint(&mut state, &mut effects);
        let rows = store.entities.values().chain(store.shards.values());
        let mut all: Vec<Vec<u8>> = rows.map(|row| row.to_vec()).collect();
        all.push(Record::encode_entries(&record.entries).to_vec());
        for (_, entry) in &effects.outgoing {
            all.push(Record::encode_entries(std::slice::from_ref(entry)).to_vec());
        }
        for mut bytes in all {
            if bytes.is_empty() {
                continue;
            }
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if cut {
                bytes.truncate(end.index(bytes.len()));
            }
            read_as_everything(&bytes);
        }
    }
}
