//! Makes webhooks of what waits for a user: one for each conversation, from inbox and history.

use std::collections::BTreeMap;

use bytes::Bytes;
use quipu_core::row::{InboxKind, OfflineRow};
use quipu_protocol::event::{Content, Message};
use quipu_protocol::id::{ConversationId, Cursor, InboxSeq, Seq, TimestampMs, UserId};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::post::Webhook;
use crate::store::{HistoryRange, Store, StoreError};

/// Inbox entries that one look at a user goes through. What comes after them is told about when these are.
pub const PAGE_ENTRIES_MAX: usize = 512;

/// The name of the event in webhooks.
const TYPE: &str = "message.offline";

/// What waits for a user in one conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// In which one.
    pub conversation: ConversationId,
    /// The inbox event before the first of these messages.
    pub after: Cursor,
    /// Inbox number of the last of them.
    pub through: InboxSeq,
    /// The first of them.
    pub first: Seq,
    /// How many they are, without the user's own.
    pub count: u32,
    /// The last of them.
    pub last: Message,
}

/// What a look at a user's inbox found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The last entry looked at.
    pub through: Cursor,
    /// By conversation, the one whose first message is the oldest in front.
    pub letters: Vec<Letter>,
    /// Whether a message was not in the history yet: its shard is behind the user's. Look again a little later.
    pub gap: bool,
}

/// Reads what waits for a user. `settled` says up to where conversations were told about already.
pub fn read(
    store: &dyn Store,
    user: &UserId,
    offline: &OfflineRow,
    settled: impl Fn(&ConversationId) -> Option<InboxSeq>,
) -> Result<Page, StoreError> {
    let entries = store.inbox(user, offline.after, PAGE_ENTRIES_MAX)?;
    let mut page = Page {
        through: entries
            .last()
            .map_or(offline.after, |entry| entry.inbox_seq.cursor()),
        letters: Vec::new(),
        gap: false,
    };
    let mut waiting: BTreeMap<ConversationId, BTreeMap<Seq, InboxSeq>> = BTreeMap::new();
    for entry in entries {
        if let InboxKind::Message { conversation, seq } = entry.kind
            && settled(&conversation) < Some(entry.inbox_seq)
        {
            let seqs = waiting.entry(conversation).or_default();
            seqs.insert(seq, entry.inbox_seq);
        }
    }
    for (conversation, seqs) in waiting {
        let Some(letter) = letter(store, user, conversation, &seqs)? else {
            page.gap = true;
            continue;
        };
        page.letters.extend(letter);
    }
    page.letters.sort_by_key(|letter| letter.after);
    Ok(page)
}

/// The letter of one conversation, none if all messages are the user's own or gone; outer `None`: one is not in the history yet.
fn letter(
    store: &dyn Store,
    user: &UserId,
    conversation: ConversationId,
    seqs: &BTreeMap<Seq, InboxSeq>,
) -> Result<Option<Option<Letter>>, StoreError> {
    let (Some((first, _)), Some((last, _))) = (seqs.first_key_value(), seqs.last_key_value())
    else {
        return Ok(Some(None));
    };
    let range = HistoryRange {
        first: *first,
        last: Some(*last),
        ..HistoryRange::ALL
    };
    let mut found = 0;
    let mut letter: Option<Letter> = None;
    for row in store.history(&conversation, range)? {
        let Some(inbox_seq) = seqs.get(&row.0.seq) else {
            continue;
        };
        found += 1;
        if row.0.from == *user || text(&row.0).is_none() {
            continue;
        }
        match &mut letter {
            None => {
                letter = Some(Letter {
                    conversation,
                    after: Cursor(inbox_seq.get() - 1),
                    through: *inbox_seq,
                    first: row.0.seq,
                    count: 1,
                    last: row.0,
                });
            }
            Some(letter) => {
                letter.through = *inbox_seq;
                letter.count += 1;
                letter.last = row.0;
            }
        }
    }
    Ok((found == seqs.len()).then_some(letter))
}

/// The body, in the order of its fields.
#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    user: &'a str,
    conversation: String,
    from: &'a str,
    first_seq: u64,
    last_seq: u64,
    count: u32,
    sent_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

impl Letter {
    /// The webhook. Equal messages make an equal one, id included, in whatever life of the gateway; one message more makes
    /// another. `life`: of the log.
    pub fn webhook(&self, user: &UserId, life: u64, include_content: bool) -> Webhook {
        let sent_at = rfc3339(self.last.sent_at);
        let body = Body {
            r#type: TYPE,
            timestamp: sent_at.clone(),
            data: Data {
                user: user.as_str(),
                conversation: self.conversation.to_string(),
                from: self.last.from.as_str(),
                first_seq: self.first.get(),
                last_seq: self.last.seq.get(),
                count: self.count,
                sent_at,
                text: include_content.then(|| text(&self.last)).flatten(),
            },
        };
        // Names, numbers and texts: this does not fail.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        Webhook {
            id: self.id(user, life),
            body: Bytes::from(body),
        }
    }

    fn id(&self, user: &UserId, life: u64) -> String {
        let mut hash = Sha256::new();
        hash.update(TYPE);
        hash.update(life.to_be_bytes());
        hash.update(self.conversation.as_bytes());
        hash.update(self.first.get().to_be_bytes());
        hash.update(self.last.seq.get().to_be_bytes());
        hash.update(user.as_str());
        let hash = hash.finalize();
        let digits: String = hash[..16]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("msg_{digits}")
    }
}

/// What a message says; `None`: nothing that somebody could miss, or nothing any more.
fn text(message: &Message) -> Option<&str> {
    match &message.content {
        Content::Text(_) | Content::Rich(_) => Some(message.content.text()),
        Content::Note(_) | Content::Gone(_) => None,
    }
}

/// A time as JSON carries it.
pub(super) fn rfc3339(time: TimestampMs) -> String {
    let milliseconds = i64::try_from(time.0).unwrap_or(i64::MAX);
    // Out of range only for times far in the future, which no clock says.
    let time = jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::MAX);
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use quipu_core::row::{HistoryRow, InboxRow, Row};
    use quipu_protocol::event::Gone;

    use super::*;
    use crate::contract::store::{conversation, history_row, inbox_seq, seq, user};
    use crate::store::MemoryStore;

    const OFFLINE: OfflineRow = OfflineRow {
        after: Cursor(1),
        since: TimestampMs(0),
    };

    /// A store where `bob`'s inbox holds these (conversation, seq), from 1 on, and each is in the history.
    fn store(entries: &[(u8, u64)]) -> MemoryStore {
        let store = MemoryStore::new();
        for (number, (of, at)) in (1..).zip(entries) {
            let kind = InboxKind::Message {
                conversation: conversation(*of),
                seq: seq(*at),
            };
            let entry = InboxRow {
                user: user("bob"),
                inbox_seq: inbox_seq(number),
                kind,
            };
            let message = history_row(*of, *at, &format!("text {at}"));
            store
                .commit(vec![Row::Inbox(entry), Row::History(message)])
                .expect("a commit");
        }
        store
    }

    fn change(store: &MemoryStore, of: u8, at: u64, change: impl FnOnce(&mut Message)) {
        let mut row = history_row(of, at, "changed");
        change(&mut row.0);
        store.commit(vec![Row::History(row)]).expect("a commit");
    }

    fn letters(store: &MemoryStore) -> Vec<(u64, u64, u32)> {
        let page = read(store, &user("bob"), &OFFLINE, |_| None).expect("readable");
        assert!(!page.gap);
        let shown = |letter: &Letter| (letter.first.get(), letter.last.seq.get(), letter.count);
        page.letters.iter().map(shown).collect()
    }

    #[test]
    fn what_waits_is_grouped_by_conversation_oldest_first() {
        let store = store(&[(1, 1), (2, 5), (1, 2), (2, 6), (1, 3), (3, 9)]);
        assert_eq!(letters(&store), [(5, 6, 2), (2, 3, 2), (9, 9, 1)]);
        let page = read(&store, &user("bob"), &OFFLINE, |_| None).expect("readable");
        assert_eq!(page.through, Cursor(6));
        assert_eq!(
            (page.letters[1].after, page.letters[1].through),
            (Cursor(2), inbox_seq(5))
        );
        let settled = |id: &ConversationId| (*id == conversation(1)).then(|| inbox_seq(3));
        let page = read(&store, &user("bob"), &OFFLINE, settled).expect("readable");
        let counts: Vec<u32> = page.letters.iter().map(|letter| letter.count).collect();
        assert_eq!(counts, [2, 1, 1]);
    }

    #[test]
    fn ones_own_messages_and_those_that_are_gone_are_not_told() {
        let store = store(&[(1, 1), (1, 2), (1, 3), (1, 4), (2, 1)]);
        change(&store, 1, 2, |message| message.from = user("bob"));
        change(&store, 1, 4, |message| {
            message.content = Content::Gone(Gone::Deleted)
        });
        change(&store, 2, 1, |message| message.from = user("bob"));
        assert_eq!(letters(&store), [(3, 3, 1)]);
    }

    #[test]
    fn a_message_that_is_not_in_the_history_yet_is_a_gap() {
        let behind = store(&[(1, 1)]);
        let kind = InboxKind::Message {
            conversation: conversation(1),
            seq: seq(2),
        };
        let entry = InboxRow {
            user: user("bob"),
            inbox_seq: inbox_seq(2),
            kind,
        };
        behind.commit(vec![Row::Inbox(entry)]).expect("a commit");
        let page = read(&behind, &user("bob"), &OFFLINE, |_| None).expect("readable");
        assert!(page.gap && page.letters.is_empty());
    }

    #[test]
    fn a_look_ends_somewhere() {
        let many: Vec<(u8, u64)> = (1..=PAGE_ENTRIES_MAX as u64 + 5)
            .map(|at| (1, at))
            .collect();
        let page = read(&store(&many), &user("bob"), &OFFLINE, |_| None).expect("readable");
        assert_eq!(page.through, Cursor(PAGE_ENTRIES_MAX as u64 + 1));
        assert_eq!(page.letters[0].count as usize, PAGE_ENTRIES_MAX);
    }

    #[test]
    fn equal_messages_make_an_equal_webhook_and_others_another() {
        let letter = |last: u64, text: &str| Letter {
            conversation: conversation(1),
            after: Cursor(0),
            through: inbox_seq(9),
            first: seq(1),
            count: 2,
            last: history_row(1, last, text).0,
        };
        let bob = user("bob");
        let webhook = letter(2, "secret").webhook(&bob, 7, false);
        assert_eq!(webhook, letter(2, "other words").webhook(&bob, 7, false));
        let body = std::str::from_utf8(&webhook.body).expect("text");
        assert!(!body.contains("secret"), "{body}");
        assert!(
            body.contains(r#""sent_at":"1970-01-01T00:00:01.002Z""#),
            "{body}"
        );
        for other in [
            letter(3, "secret").webhook(&bob, 7, false),
            letter(2, "secret").webhook(&user("carol"), 7, false),
            letter(2, "secret").webhook(&bob, 8, false),
        ] {
            assert_ne!(webhook.id, other.id);
        }
        let told = letter(2, "secret").webhook(&bob, 7, true);
        assert_eq!(told.id, webhook.id);
        assert!(
            told.body
                .windows(15)
                .any(|part| part == br#""text":"secret""#.as_slice())
        );
    }

    #[test]
    fn a_history_row_is_what_these_tests_take_it_for() {
        let HistoryRow(message) = history_row(1, 2, "t");
        assert_eq!(
            (message.from, message.sent_at),
            (user("ann"), TimestampMs(1_002))
        );
    }
}
