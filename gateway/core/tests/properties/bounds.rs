//! What happens at the named limits, and what never does.

use quipu_core::limits::{DEAD_LETTERS_PER_SHARD_MAX, DEVICES_PER_ACCOUNT_MAX};
use quipu_core::record::{CommandKind, Entry, Fact, GivenUp, Position, Record, SessionId};
use quipu_core::row::{
    Account, Conversation, DeadLetters, EntityKey, IndexKey, NumberedChange, Presence, Row,
};
use quipu_core::shard::{Action, Effects, ShardCount, ShardId, ShardState};
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{Change, NewGroup, Outcome, Rejection};
use quipu_protocol::id::{ClientSeq, ConversationId, Cursor, RequestId, Seq, TimestampMs};
use quipu_protocol::limits::{CHANGES_KEPT_MAX, DEDUP_WINDOW};

use crate::support::{self, Store};

struct Shard {
    state: ShardState,
    store: Store,
}

impl Shard {
    fn new() -> Self {
        let state = ShardState::new(ShardId(0), ShardCount(1));
        let store = Store::default();
        Self { state, store }
    }

    /// Applies one record, and takes the state through its rows, as an eviction or a crash would.
    fn apply(&mut self, entries: Vec<Entry>) -> Effects {
        let record = Record {
            position: self.state.applied().next(),
            time: TimestampMs(1),
            entries,
        };
        let mut effects = Effects::default();
        self.store.apply(&mut self.state, &record, &mut effects);
        let mut rows = effects.clone();
        self.store.checkpoint(&mut self.state, &mut rows);
        self.state = self.store.restore(ShardId(0), ShardCount(1));
        effects
    }
}

fn outcomes(effects: &Effects) -> Vec<&Outcome> {
    let answers = effects.actions.iter().filter_map(|action| match action {
        Action::Answer { reply, .. } => Some(&reply.outcome),
        Action::Push { .. }
        | Action::Notice { .. }
        | Action::Offline { .. }
        | Action::Revoked { .. }
        | Action::Settings { .. } => None,
    });
    answers.collect()
}

fn add_device(number: u64) -> Entry {
    let kind = CommandKind::AddDevice {
        request: RequestId(number),
        device: support::new_device(number as u8),
    };
    support::command(support::user("alice"), support::device(number), kind)
}

#[test]
fn dead_letters_beyond_the_limit_push_out_the_oldest() {
    let mut shard = Shard::new();
    let alice = support::user("alice");
    shard.apply(vec![support::register(alice, support::device(1), 1, 1)]);
    let given_up = |number: usize| GivenUp {
        conversation: ConversationId([1; 16]),
        first: Seq::FIRST,
        last: Seq::FIRST,
        count: 1,
        after: Cursor(number as u64),
        tries: 1,
        why: "w".repeat(128),
    };
    for number in 0..DEAD_LETTERS_PER_SHARD_MAX + 3 {
        let told = Fact::Told {
            through: Cursor(0),
            given_up: vec![given_up(number)],
        };
        shard.apply(vec![support::fact(alice, told)]);
    }
    let row = &shard.store.entities[&EntityKey::DeadLetters(ShardId(0))];
    let dead = DeadLetters::decode(row).unwrap();
    assert_eq!(dead.letters.len(), DEAD_LETTERS_PER_SHARD_MAX);
    assert_eq!(dead.dropped, 3);
    assert_eq!(dead.letters[0].given_up, given_up(3));
    shard.apply(vec![support::fact(
        alice,
        Fact::TellAgain { after: Cursor(5) },
    )]);
    let row = &shard.store.entities[&EntityKey::DeadLetters(ShardId(0))];
    let left = DeadLetters::decode(row).unwrap().letters;
    assert_eq!(left, dead.letters[..2], "those from 5 on are told again");
}

#[test]
fn more_devices_than_an_account_may_have_push_out_those_not_seen_for_longest() {
    let mut shard = Shard::new();
    let alice = support::user("alice");
    shard.apply(vec![support::register(alice, support::device(1), 1, 1)]);
    let attached = |number: u64| Fact::Attached {
        device: support::device(number),
        session: SessionId { boot: 1, number },
        cursor: Cursor(0),
    };
    let many = DEVICES_PER_ACCOUNT_MAX as u64 + 5;
    for number in 1..=many {
        shard.apply(vec![support::fact(alice, attached(number))]);
        // The first one stays.
        if number > 1 {
            let left = Fact::Detached {
                device: support::device(number),
                session: SessionId { boot: 1, number },
                cursor: Cursor(0),
            };
            shard.apply(vec![support::fact(alice, left)]);
        }
    }
    let presence = Presence::decode(&shard.store.entities[&EntityKey::Presence(alice)]).unwrap();
    assert_eq!(presence.devices.len(), DEVICES_PER_ACCOUNT_MAX);
    assert!(presence.is_listening());
    assert!(presence.device(support::device(1)).is_some());
    assert!(presence.device(support::device(many)).is_some());
}

#[test]
fn a_pulled_group_keeps_the_numbers_of_so_many_changes() {
    let mut shard = Shard::new();
    let (alice, id) = (support::user("alice"), support::group("signs"));
    let create = Change::CreateGroup(NewGroup {
        conversation: id,
        title: "signs".to_owned(),
        topic: String::new(),
        open: true,
        history_from_start: true,
        invite: Vec::new(),
    });
    let kind = CommandKind::Change {
        request: RequestId(1),
        client_seq: ClientSeq::new(1).ok(),
        change: Box::new(create),
        // It is pulled from the beginning: the first message is the third of it.
        fan_out_max: 0,
    };
    shard.apply(vec![
        support::register(alice, support::device(1), 1, 1),
        support::command(alice, support::device(1), kind),
        support::send(alice, support::device(1), id, 1, "hello"),
    ]);
    let seq = support::seq(3);
    let last = CHANGES_KEPT_MAX as u64 + 3;
    for number in 1..=last {
        let react = Change::React {
            conversation: id,
            seq,
            emoji: "+".to_owned(),
            on: number % 2 == 1,
        };
        let react = support::change(alice, support::device(1), number + 1, react);
        let effects = shard.apply(vec![react]);
        // The message, and what goes out, is one for each change; the rows of the index stay as many as they may be.
        let index = effects
            .rows
            .iter()
            .filter(|row| matches!(row, Row::Index(..)));
        assert_eq!(index.count(), if number > last - 3 { 2 } else { 1 });
    }
    let kept = shard
        .store
        .index
        .iter()
        .filter_map(|(key, value)| match key {
            IndexKey::Changed(of, number) => {
                assert_eq!((*of, NumberedChange::decode(value).unwrap().seq), (id, seq));
                Some(number.0)
            }
            _ => None,
        });
    assert!(kept.eq(4..=last));
    let row = &shard.store.entities[&EntityKey::Conversation(id)];
    let row = Conversation::decode(row).unwrap();
    assert_eq!(row.group.map(|group| group.changes.0), Some(last));
}

#[test]
fn an_account_has_so_many_devices_and_no_more() {
    let mut shard = Shard::new();
    let alice = support::user("alice");
    shard.apply(vec![support::register(alice, support::device(1), 1, 1)]);
    // In descending order, which the row turns round.
    for number in (2..=DEVICES_PER_ACCOUNT_MAX as u64).rev() {
        assert_eq!(
            outcomes(&shard.apply(vec![add_device(number)])),
            [&Outcome::Done]
        );
    }
    let one_more = shard.apply(vec![add_device(99)]);
    let [Outcome::Rejected(Rejection { code, .. })] = outcomes(&one_more)[..] else {
        panic!("{one_more:?}");
    };
    assert_eq!(*code, RejectCode::TooManyDevices);
    // A retry of one that is there is done, as before.
    assert_eq!(
        outcomes(&shard.apply(vec![add_device(7)])),
        [&Outcome::Done]
    );
    let row = &shard.store.entities[&EntityKey::Account(alice)];
    assert_eq!(
        Account::decode(row).unwrap().devices.len(),
        DEVICES_PER_ACCOUNT_MAX
    );
}

#[test]
fn a_conversation_remembers_so_many_devices_of_a_member() {
    let mut shard = Shard::new();
    let (alice, bob) = (support::user("alice"), support::user("bob"));
    let conversation = ConversationId::direct(&alice, &bob);
    shard.apply(vec![support::open(alice, support::device(1), bob, 1)]);
    let send = |device: u64, number| {
        support::send(
            alice,
            support::device(device),
            conversation,
            number,
            "hello",
        )
    };
    let last = DEVICES_PER_ACCOUNT_MAX as u64 + 1;
    for device in (1..=last).rev() {
        let effects = shard.apply(vec![send(device, 5)]);
        assert_eq!(effects.rows.len(), 1, "device {device} has written");
    }
    // The one that was silent for the longest time, `last`, is forgotten; the others are not.
    for device in 1..last {
        assert_eq!(shard.apply(vec![send(device, 5)]).rows, []);
    }
    let row = shard.store.entities[&EntityKey::Conversation(conversation)].len();
    shard.apply(vec![send(last, 6), send(1, 6)]);
    let later = shard.store.entities[&EntityKey::Conversation(conversation)].len();
    assert!(
        later < row + 8,
        "the row does not grow: {row} to {later} bytes"
    );
}

#[test]
fn a_conversation_remembers_so_many_messages_of_a_device() {
    let mut shard = Shard::new();
    let (alice, bob) = (support::user("alice"), support::user("bob"));
    let conversation = ConversationId::direct(&alice, &bob);
    shard.apply(vec![support::open(alice, support::device(1), bob, 1)]);
    let window = DEDUP_WINDOW as u64;
    let send = |number| support::send(alice, support::device(1), conversation, number, "hello");
    for number in 1..=window + 3 {
        assert_eq!(shard.apply(vec![send(number)]).rows.len(), 1);
    }
    let answers = shard.apply((1..=window + 3).map(send).collect());
    assert_eq!(answers.rows, []);
    // They go to the shard of the user, which is this one.
    let answers = shard.apply(
        answers
            .outgoing
            .into_iter()
            .map(|(_, entry)| entry)
            .collect(),
    );
    for (number, outcome) in (1..).zip(outcomes(&answers)) {
        match outcome {
            Outcome::Accepted(seq) => assert!(number > 3 && seq.get() == number, "{number}: {seq}"),
            Outcome::Rejected(why) => {
                assert!(
                    number <= 3 && why.code == RejectCode::StaleClientSeq,
                    "{number}: {why:?}"
                );
            }
            Outcome::Opened { .. } | Outcome::Done => panic!("{number}: {outcome:?}"),
        }
    }
}

#[test]
#[should_panic(expected = "has applied record 0 and was given 2")]
fn a_skipped_record_is_not_papered_over() {
    let mut state = ShardState::new(ShardId(0), ShardCount(1));
    let record = Record {
        position: Position(2),
        time: TimestampMs(1),
        entries: Vec::new(),
    };
    state.apply(&record, &mut Effects::default());
}

#[test]
fn the_hash_of_a_password_stays_out_of_debug_output() {
    let mut shard = Shard::new();
    let alice = support::user("alice");
    let register = support::register(alice, support::device(1), 1, 1);
    let command = format!("{register:?}");
    shard.apply(vec![register]);
    let account = Account::decode(&shard.store.entities[&EntityKey::Account(alice)]).unwrap();
    assert!(
        account
            .password
            .as_ref()
            .is_some_and(|hash| hash.contains("argon2id"))
    );
    for shown in [command, format!("{account:?}")] {
        assert!(
            shown.contains("(redacted)") && !shown.contains("argon2id"),
            "{shown}"
        );
    }
}
