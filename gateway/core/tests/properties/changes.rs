//! Changes of messages: versions ascend, what clients make of the events is what the store has, nothing deleted is left.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quipu_core::record::{CommandKind, Entry, EntryBody, Position, Record};
use quipu_core::row::{EntityKey, IndexKey, OldContent};
use quipu_core::shard::{Action, Effects, ShardCount, ShardId, ShardState};
use quipu_protocol::event::{
    Attachment, Change, Changed, ChangedKind, Content, EventBody, Message, Rich,
};
use quipu_protocol::id::{ConversationId, Seq, TimestampMs, UserId};

use crate::support::{self, Store};

const ONE: ShardCount = ShardCount(1);
/// Time between two records. The timers of the stories are a few of these.
const STEP_MS: u64 = 5_000;

/// What happens next: who of two does what, to which of the last messages.
#[derive(Debug, Clone, Copy)]
enum Step {
    Send {
        by: usize,
        file: u8,
    },
    Edit {
        by: usize,
        back: u64,
        file: u8,
    },
    Delete {
        by: usize,
        back: u64,
    },
    React {
        by: usize,
        back: u64,
        sign: u8,
        on: bool,
    },
    Timer {
        by: usize,
        steps: u64,
    },
    Expire,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (by, back, file) = (0..2usize, 0..6u64, 0..3u8);
    let edit = (by.clone(), back.clone(), file.clone());
    let sign = (by.clone(), back.clone(), 0..3u8, any::<bool>());
    let step = prop_oneof![
        4 => (by.clone(), file).prop_map(|(by, file)| Step::Send { by, file }),
        4 => edit.prop_map(|(by, back, file)| Step::Edit { by, back, file }),
        1 => (by.clone(), back).prop_map(|(by, back)| Step::Delete { by, back }),
        3 => sign.prop_map(|(by, back, sign, on)| Step::React { by, back, sign, on }),
        1 => (by, 0..4u64).prop_map(|(by, steps)| Step::Timer { by, steps }),
        2 => Just(Step::Expire),
    ];
    prop::collection::vec(step, 1..50)
}

fn users() -> [UserId; 2] {
    ["alice", "bob"].map(support::user)
}

fn conversation() -> ConversationId {
    ConversationId::direct(&users()[0], &users()[1])
}

/// Words that are in no other content of the story.
fn content(number: usize, file: u8) -> Content {
    let text = format!("<word {number}>");
    if file == 0 {
        return Content::Text(text);
    }
    let attachment = Attachment {
        hash: [file; 32],
        size: 1,
        media_type: "image/png".to_owned(),
        name: String::new(),
        width: 0,
        height: 0,
        duration_ms: 0,
        thumbnail: bytes::Bytes::new(),
    };
    Content::Rich(Box::new(Rich {
        text,
        attachments: vec![attachment],
        ..Rich::default()
    }))
}

/// The entries of a story. Seqs are counted from the sends; where a send or a timer is refused they point at nothing, which
/// has to be harmless.
fn entries(steps: &[Step]) -> Vec<Entry> {
    let device = support::device(1);
    let mut entries = vec![
        support::register(users()[0], device, 1, 1),
        support::register(users()[1], device, 1, 1),
        support::open(users()[0], device, users()[1], 2),
    ];
    let mut sent = 0;
    for (number, step) in steps.iter().enumerate() {
        let target = |back: u64| support::seq(sent.max(back + 1) - back);
        let id = conversation();
        let (by, change) = match *step {
            Step::Send { by, file } => {
                sent += 1;
                let kind = CommandKind::Send {
                    conversation: id,
                    client_seq: support::client_seq(number as u64 + 1),
                    id: support::message_id(&users()[by], device, number as u64),
                    content: content(number, file),
                };
                entries.push(support::command(users()[by], device, kind));
                continue;
            }
            Step::Expire => {
                let seqs = (1..=sent).map(support::seq).collect();
                let body = EntryBody::Expire {
                    conversation: id,
                    seqs,
                };
                entries.push(Entry { source: None, body });
                continue;
            }
            Step::Edit { by, back, file } => (
                by,
                Change::Edit {
                    conversation: id,
                    seq: target(back),
                    content: content(number, file),
                },
            ),
            Step::Delete { by, back } => (by, Change::Delete(id, target(back))),
            Step::React { by, back, sign, on } => (
                by,
                Change::React {
                    conversation: id,
                    seq: target(back),
                    emoji: format!("{sign}"),
                    on,
                },
            ),
            Step::Timer { by, steps } => {
                sent += 1;
                (by, Change::SetTimer(id, steps * STEP_MS))
            }
        };
        // Every change comes twice, as from a device that heard no answer.
        let entry = support::change(users()[by], device, number as u64 + 1, change);
        entries.extend([entry.clone(), entry]);
    }
    entries
}

/// Records of these entries in groups, each followed by what it made the shard send to itself.
fn log(entries: Vec<Entry>, groups: &[usize]) -> Vec<Record> {
    let (mut log, mut sent) = (Vec::new(), Vec::new());
    let (store, mut state) = (Store::default(), ShardState::new(ShardId(0), ONE));
    let mut effects = Effects::default();
    let mut entries = entries.into_iter().peekable();
    let mut groups = groups.iter().cycle();
    while entries.peek().is_some() || !sent.is_empty() {
        let mut group: Vec<Entry> = std::mem::take(&mut sent);
        group.extend(entries.by_ref().take(*groups.next().unwrap_or(&1)));
        let position = Position(log.len() as u64 + 1);
        let time = TimestampMs(1000 + position.0 * STEP_MS);
        let record = Record::decode(position, time, &Record::encode_entries(&group)).unwrap();
        store.apply(&mut state, &record, &mut effects);
        sent.extend(effects.outgoing.drain(..).map(|(_, entry)| entry));
        log.push(record);
    }
    log
}

/// Applies a log with commits, and restarts from rows alone, after every `every`th record.
fn replay(log: &[Record], every: usize) -> (Store, ShardState, Vec<Action>) {
    let (mut store, mut state) = (Store::default(), ShardState::new(ShardId(0), ONE));
    let (mut effects, mut actions) = (Effects::default(), Vec::new());
    for (at, record) in log.iter().enumerate() {
        store.apply(&mut state, record, &mut effects);
        if at % every == 0 || at + 1 == log.len() {
            actions.append(&mut effects.actions);
            store.checkpoint(&mut state, &mut effects);
            state = store.restore(ShardId(0), ONE);
        }
    }
    (store, state, actions)
}

fn logs() -> impl Strategy<Value = Vec<Record>> {
    let groups = prop::collection::vec(1..6usize, 1..8);
    (steps(), groups).prop_map(|(steps, groups)| log(entries(&steps), &groups))
}

/// What a client has of each message after its events, by the rule of QP-MSG-6.
fn as_a_client_sees_it(actions: &[Action], user: UserId) -> BTreeMap<Seq, Message> {
    let mut seen: BTreeMap<Seq, Message> = BTreeMap::new();
    for action in actions {
        let Action::Push { user: to, event } = action else {
            continue;
        };
        match &event.body {
            EventBody::Message(message) if *to == user => {
                seen.insert(message.seq, message.clone());
            }
            EventBody::Changed(changed) if *to == user => {
                let message = seen
                    .get_mut(&changed.seq)
                    .expect("a message before its change");
                take_over(message, changed);
            }
            EventBody::Message(_)
            | EventBody::Changed(_)
            | EventBody::Receipt(_)
            | EventBody::Invitation(_) => {}
        }
    }
    seen
}

fn take_over(message: &mut Message, changed: &Changed) {
    let state = message.state.get_or_insert_default();
    assert_eq!(changed.version, state.version + 1, "{changed:?}");
    state.version = changed.version;
    match &changed.kind {
        ChangedKind::Edited(content) => {
            message.content = content.clone();
            state.edited_at = Some(changed.at);
            state.edits += 1;
        }
        ChangedKind::Gone(gone) => {
            message.content = Content::Gone(*gone);
            let version = state.version;
            **state = Default::default();
            state.version = version;
        }
        ChangedKind::Reacted { emoji, on } => {
            let reaction = quipu_protocol::event::Reaction {
                user: changed.by.expect("somebody's"),
                emoji: emoji.clone(),
            };
            match on {
                true => state.reactions.push(reaction),
                false => state.reactions.retain(|known| *known != reaction),
            }
            state.reactions.sort();
        }
    }
}

/// The messages of the store.
fn stored(store: &Store) -> BTreeMap<Seq, Message> {
    let rows = store.history.values();
    rows.map(|row| (row.seq(), row.0.clone())).collect()
}

proptest! {
    #![proptest_config(crate::config(96))]

    #[test]
    fn restarts_anywhere_make_no_difference(log in logs(), every in 1..5usize) {
        let (whole, state, actions) = replay(&log, usize::MAX);
        let (parts, restarted, again) = replay(&log, every);
        prop_assert_eq!(state.digest(), restarted.digest());
        prop_assert_eq!(&whole, &parts);
        prop_assert_eq!(actions, again);
    }

    #[test]
    fn clients_have_what_the_store_has(log in logs()) {
        let (store, _, actions) = replay(&log, 3);
        let now = log.last().unwrap().time;
        for user in users() {
            let mut seen = as_a_client_sees_it(&actions, user);
            let mut stored = stored(&store);
            // Nobody is told that time is over; both sides know. What was swept has one version more.
            for message in seen.values_mut().chain(stored.values_mut()) {
                message.hide_expired(now);
                if message.content == Content::Gone(quipu_protocol::event::Gone::Expired) {
                    message.state = None;
                }
            }
            prop_assert_eq!(seen, stored);
        }
    }

    #[test]
    fn the_index_has_what_messages_refer_to_and_nothing_else(log in logs()) {
        let (store, ..) = replay(&log, 2);
        let mut expected = Vec::new();
        for message in stored(&store).values() {
            let (id, seq) = (message.conversation, message.seq);
            for file in message.content.attachments() {
                expected.push(IndexKey::MediaRef(id, file.hash, seq));
            }
            let state = message.state.as_deref().cloned().unwrap_or_default();
            expected.extend(state.expires_at.map(|at| IndexKey::Due(at, id, seq)));
            expected.extend((1..=state.edits).map(|edit| IndexKey::Version(id, seq, edit)));
        }
        expected.sort();
        let found = store.index.keys();
        let of_messages = |key: &&IndexKey| {
            matches!(key, IndexKey::MediaRef(..) | IndexKey::Due(..) | IndexKey::Version(..))
        };
        let found = found.filter(of_messages);
        prop_assert_eq!(found.cloned().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_went_is_nowhere_in_the_store(log in logs()) {
        let (store, ..) = replay(&log, 2);
        // Words that some message says now, or said before an edit of one that still says something.
        let messages = stored(&store);
        let mut alive: Vec<String> = messages.values().map(|m| m.content.text().to_owned()).collect();
        for (key, value) in &store.index {
            if let IndexKey::Version(_, seq, _) = key
                && !matches!(messages[seq].content, Content::Gone(_))
            {
                alive.push(OldContent::decode(value).unwrap().0.text().to_owned());
            }
        }
        let bytes = store.bytes().concat();
        let bytes = String::from_utf8_lossy(&bytes);
        for (at, _) in bytes.match_indices("<word ") {
            let end = bytes[at..].find('>').unwrap();
            let word = &bytes[at..=at + end];
            prop_assert!(alive.iter().any(|text| text == word), "{} is still there", word);
        }
        prop_assert!(store.entities.contains_key(&EntityKey::Conversation(conversation())));
    }
}
