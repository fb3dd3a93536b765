//! Sound data passes, and every kind of damage is named.

/// Every kind of row, without a wildcard: a new kind asks here, once, what damage leaves alone.
macro_rules! any_row {
    () => {
        Row::Shard(..)
            | Row::Entity(..)
            | Row::History(_)
            | Row::Inbox(_)
            | Row::Trimmed(..)
            | Row::Index(..)
    };
}

mod groups;
mod pulled;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use quipu_core::record::{Command, CommandKind, Entry, EntryBody, NewDevice, Position, Record};
use quipu_core::retention::Retention;
use quipu_core::row::{Conversation, EntityKey, InboxKind};
use quipu_core::shard::{Effects, ShardCount, ShardId, ShardState};
use quipu_protocol::event::{Content, MessageState};
use quipu_protocol::id::{
    ClientSeq, ConversationId, DeviceId, InboxSeq, MessageId, RequestId, Seq, TimestampMs,
};

use super::*;
use crate::contract::log::append;
use crate::contract::store::{scan_all, user};
use crate::log::MemoryLog;
use crate::store::MemoryStore;

const SHARDS: ShardCount = ShardCount(4);

/// A log, and a processor of the simplest kind.
struct World {
    log: Arc<MemoryLog>,
    store: MemoryStore,
}

impl World {
    /// Two accounts, one conversation, six messages; all applied.
    fn new() -> Self {
        let world = Self {
            log: Arc::new(MemoryLog::new(SHARDS)),
            store: MemoryStore::new(),
        };
        for name in ["ann", "bob"] {
            world.command(name, register());
        }
        world.command(
            "ann",
            CommandKind::OpenDirect {
                request: RequestId(1),
                peer: user("bob"),
            },
        );
        world.process();
        for number in 1..=6 {
            world.send(number);
        }
        world.process();
        world
    }

    fn send(&self, number: u64) {
        let name = if number.is_multiple_of(2) {
            "ann"
        } else {
            "bob"
        };
        let send = CommandKind::Send {
            conversation: direct(),
            client_seq: ClientSeq::new(number).unwrap(),
            id: MessageId([number as u8; 16]),
            content: Content::Text(format!("message {number}")),
        };
        self.command(name, send);
    }

    fn command(&self, name: &str, kind: CommandKind) {
        let command = Command {
            user: user(name),
            device: DeviceId::new(7).unwrap(),
            kind,
        };
        let shard = command.shard(SHARDS);
        let body = EntryBody::Command(command);
        let payload = Record::encode_entries(&[Entry { source: None, body }]);
        append(&*self.log, &[(shard.0, &payload)]).unwrap();
    }

    /// Applies until no shard has anything left.
    fn process(&self) {
        while SHARDS.iter().any(|shard| self.turn(shard)) {}
    }

    fn turn(&self, shard: ShardId) -> bool {
        let row = self.store.shard(shard).unwrap();
        let mut state = ShardState::restore(shard, SHARDS, row.as_deref()).unwrap();
        let records = self.log.read(shard, state.applied(), 1, 1).unwrap();
        let Some(stored) = records.first() else {
            return false;
        };
        let record = Record::decode(stored.position, stored.time, &stored.payload).unwrap();
        loop {
            let mut keys = BTreeSet::new();
            state.missing(&record, &mut keys);
            if keys.is_empty() {
                break;
            }
            for key in keys {
                let row = self.store.entities(&[key]).unwrap().pop().flatten();
                state.load(key, row.as_deref()).unwrap();
            }
        }
        let mut effects = Effects::default();
        state.apply(&record, &mut effects);
        for (to, entry) in effects.outgoing {
            append(&*self.log, &[(to.0, &Record::encode_entries(&[entry]))]).unwrap();
        }
        state.drain_dirty(&mut effects.rows);
        self.store.commit(effects.rows).unwrap();
        true
    }

    /// The same log with other rows.
    fn with_rows(self, change: impl FnMut(Row) -> Option<Row>) -> Self {
        let store = MemoryStore::new();
        let rows = scan_all(&self.store)
            .into_iter()
            .filter_map(change)
            .collect();
        store.commit(rows).unwrap();
        Self { store, ..self }
    }

    fn report(&self) -> Report {
        verify(&*self.log, &self.store).unwrap()
    }
}

fn keep(world: &World, events: u64) {
    let body = EntryBody::Keep(Retention::new(events, u64::MAX));
    let payload = Record::encode_entries(&[Entry { source: None, body }]);
    for shard in SHARDS.iter() {
        append(&*world.log, &[(shard.0, &payload)]).unwrap();
    }
}

/// A world whose inboxes keep three of nine entries.
fn trimmed() -> World {
    let world = World::new();
    keep(&world, 3);
    world.process();
    (7..=9).for_each(|number| world.send(number));
    world.process();
    world
}

#[test]
fn inboxes_that_are_trimmed_are_sound_and_have_no_gap_above_the_floor() {
    let world = trimmed();
    let report = world.report();
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.inbox_entries, 6, "three of each");
    // What the log has beyond the store trims more.
    (10..=12).for_each(|number| world.send(number));
    let report = world.report();
    assert!(report.is_sound(), "{report}");
    assert!(report.replayed_records > 0);

    let of_bob = |row: &Row, number: u64| matches!(row, Row::Inbox(row) if row.user == user("bob") && row.inbox_seq.get() == number);
    let gap = trimmed().with_rows(|row| (!of_bob(&row, 8)).then_some(row));
    let problems = gap.report().problems.join("; ");
    assert!(
        problems.contains("the inbox of bob has 2 entries up to 9 where 7 to 9 are due"),
        "{problems}"
    );
    let behind = trimmed().with_rows(|row| match row {
        Row::Inbox(mut row) if row.user == user("bob") && row.inbox_seq.get() == 7 => {
            row.inbox_seq = InboxSeq::new(6).unwrap();
            Some(Row::Inbox(row))
        }
        row => Some(row),
    });
    let problems = behind.report().problems.join("; ");
    assert!(problems.contains("and has older entries"), "{problems}");
}

fn register() -> CommandKind {
    CommandKind::Register {
        request: RequestId(1),
        password: None,
        device: NewDevice {
            label: String::new(),
            token_hash: [0; 32],
        },
    }
}

fn direct() -> ConversationId {
    ConversationId::direct(&user("ann"), &user("bob"))
}

/// Damages sound data and expects a complaint.
fn check(expected: &str, change: impl FnMut(Row) -> Option<Row>) {
    let report = World::new().with_rows(change).report();
    assert!(
        report
            .problems
            .iter()
            .any(|problem| problem.contains(expected)),
        "'{expected}' is not among {:#?}",
        report.problems
    );
    assert!(!report.is_sound());
}

#[test]
fn sound_data_passes() {
    let report = World::new().report();
    assert!(report.is_sound(), "{report}");
    assert_eq!((report.accounts, report.conversations), (2, 1));
    assert_eq!((report.messages, report.replayed_records), (6, 0));
    assert!(report.inbox_entries >= 12, "{report}");
    assert!(report.to_string().ends_with("no problem found"));
}

#[test]
fn an_empty_gateway_passes() {
    let log = MemoryLog::new(SHARDS);
    let report = verify(&log, &MemoryStore::new()).unwrap();
    assert!(report.is_sound(), "{report}");
}

#[test]
fn what_the_store_has_not_yet_is_applied_for_the_check() {
    let world = World::new();
    let whole = world.report();
    // A store that lost everything, caught up one record at a time; each state on the way is what some crash leaves.
    let late = World {
        log: Arc::clone(&world.log),
        store: MemoryStore::new(),
    };
    let mut turns = 0;
    loop {
        let report = late.report();
        assert!(report.is_sound(), "after {turns} turns: {report}");
        assert_eq!(report.messages, whole.messages);
        assert_eq!(report.inbox_entries, whole.inbox_entries);
        // The log has already what this processor sends, so it comes twice, as after a crash.
        if !SHARDS.iter().any(|shard| late.turn(shard)) {
            break;
        }
        turns += 1;
    }
    assert!(turns > 20, "{turns}");
    let (caught_up, original) = (scan_all(&late.store), scan_all(&world.store));
    let written_once = |rows: Vec<Row>| -> Vec<Row> {
        let kept = |row: &Row| !matches!(row, Row::Shard(..));
        rows.into_iter().filter(kept).collect()
    };
    assert_eq!(written_once(caught_up), written_once(original));
}

#[test]
fn what_shards_have_not_sent_yet_is_sent_for_the_check() {
    let world = World::new();
    let before = scan_all(&world.store);
    world.send(7);
    world.send(8);
    let report = world.report();
    assert!(report.is_sound(), "{report}");
    assert_eq!((report.messages, report.replayed_records), (8, 2));
    assert_eq!(scan_all(&world.store), before, "verify writes nothing");
}

#[test]
fn holes_are_found() {
    check(
        "has 5 entries up to 6 where 1 to 6 are due",
        |row| match &row {
            Row::History(history) if history.seq().get() == 3 => None,
            any_row!() => Some(row),
        },
    );
    check(
        "has 5 entries up to 5 where 1 to 6 are due",
        |row| match &row {
            Row::History(history) if history.seq().get() == 6 => None,
            any_row!() => Some(row),
        },
    );
    check("the inbox of bob has", |row| match &row {
        Row::Inbox(inbox) if inbox.user == user("bob") && inbox.inbox_seq.get() == 2 => None,
        any_row!() => Some(row),
    });
}

#[test]
fn a_message_that_is_in_an_inbox_twice_is_found() {
    check("the inbox of ann has 6 entries up to 6", |row| match row {
        Row::Inbox(mut inbox) if inbox.user == user("ann") => {
            if let InboxKind::Message { seq, .. } = &mut inbox.kind
                && seq.get() == 4
            {
                *seq = Seq::new(5).unwrap();
            }
            Some(Row::Inbox(inbox))
        }
        any_row!() => Some(row),
    });
}

#[test]
fn strangers_and_orphans_are_found() {
    check("zoe has written to", |row| match row {
        Row::History(mut history) if history.seq().get() == 2 => {
            history.0.from = user("zoe");
            Some(Row::History(history))
        }
        any_row!() => Some(row),
    });
    check("does not exist", |row| match row {
        Row::Entity(EntityKey::Conversation(_), _) => None,
        any_row!() => Some(row),
    });
    check("the account of ann has no inbox", |row| match row {
        Row::Entity(EntityKey::Inbox(owner), _) if owner == user("ann") => None,
        any_row!() => Some(row),
    });
}

#[test]
fn what_a_message_refers_to_and_the_index_does_not_have_is_found() {
    let lacks = |expected: &str, state: MessageState| {
        check(expected, |row| match row {
            Row::History(mut history) if history.seq().get() == 2 => {
                history.0.state = Some(Box::new(state.clone()));
                Some(Row::History(history))
            }
            any_row!() => Some(row),
        });
    };
    let edited = MessageState {
        version: 1,
        edits: 1,
        ..MessageState::default()
    };
    lacks("0 earlier contents of its messages where 1 are due", edited);
    let ends = MessageState {
        expires_at: Some(TimestampMs(9)),
        ..MessageState::default()
    };
    lacks("0 messages that end where 1 are due", ends);
}

#[test]
fn damaged_rows_and_impossible_receipts_are_found() {
    check("a stored conversation cannot be read", |row| match row {
        Row::Entity(key @ EntityKey::Conversation(_), _) => {
            Some(Row::Entity(key, Bytes::from_static(b"\xff\xff")))
        }
        any_row!() => Some(row),
    });
    check("a member is ahead of its head", |row| match row {
        Row::Entity(key @ EntityKey::Conversation(_), value) => {
            let mut conversation = Conversation::decode(&value).unwrap();
            conversation.members[0].delivered = Seq::new(7).ok();
            Some(Row::Entity(key, conversation.encode()))
        }
        any_row!() => Some(row),
    });
}

#[test]
fn a_store_ahead_of_its_log_and_a_log_that_starts_too_late_are_found() {
    let world = World::new();
    let ahead = World {
        log: Arc::new(MemoryLog::new(SHARDS)),
        store: world.store,
    };
    let report = ahead.report();
    let problems = report.problems.join("\n");
    assert!(problems.contains("and its log holds 1 to 0"), "{problems}");
    assert!(problems.contains("whose log ends at 0"), "{problems}");

    let world = World::new();
    let shard = SHARDS.of_conversation(&direct());
    world.log.trim(shard, Position(3)).unwrap();
    let late = World {
        log: world.log,
        store: MemoryStore::new(),
    };
    let problems = late.report().problems.join("\n");
    assert!(problems.contains("has applied record 0"), "{problems}");
}

#[test]
fn problems_beyond_the_limit_are_counted() {
    let mut report = Report::default();
    for number in 0..PROBLEMS_NAMED_MAX + 5 {
        report.problem(number.to_string());
    }
    assert_eq!(report.problems.len(), PROBLEMS_NAMED_MAX);
    assert_eq!(report.problems_total, PROBLEMS_NAMED_MAX as u64 + 5);
}

#[test]
fn a_folder_is_checked_once_its_gateway_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let missing = run(dir.path());
    assert!(matches!(missing, Err(DataError::Folder(_))), "{missing:?}");
    let folder = DataFolder::open_or_create(dir.path(), SHARDS).unwrap();
    let in_use = run(dir.path());
    assert!(matches!(in_use, Err(DataError::Folder(_))), "{in_use:?}");
    drop(folder);
    let report = run(dir.path()).unwrap();
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.shards, u64::from(SHARDS.0));
}
