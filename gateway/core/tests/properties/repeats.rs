//! Messages and changes that come late or again: the state is that of them in the order of their numbers, without the repeats.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quipu_core::record::{Entry, Position, Record};
use quipu_core::row::EntityKey;
use quipu_core::shard::{Action, Effects, ShardCount, ShardId, ShardState};
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{Change, Content, Outcome, Privacy, ReplyTo};
use quipu_protocol::id::{ConversationId, TimestampMs, UserId};

use crate::support::{self, Store};

const ONE: ShardCount = ShardCount(1);
const NAMES: [&str; 2] = ["alice", "bob"];
/// One time for all, as records come at other times where repeats come between them.
const NOW: TimestampMs = TimestampMs(1000);

/// What one of two users asks for.
#[derive(Debug, Clone, Copy)]
enum Wish {
    Edit(u64),
    Delete(u64),
    React(u64, bool),
    Timer(bool),
    Block(bool),
    Rename,
    Hide(bool),
    Join,
    Leave,
    Title,
    Invite,
    Say,
    SayInGroup,
}

/// Whose numbers are compared with each other: each conversation has its own for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Count {
    Changes,
    Talk,
    Group,
}

impl Wish {
    fn count(self) -> Count {
        match self {
            Self::Say => Count::Talk,
            Self::SayInGroup => Count::Group,
            Self::Edit(_)
            | Self::Delete(_)
            | Self::React(..)
            | Self::Timer(_)
            | Self::Block(_)
            | Self::Rename
            | Self::Hide(_)
            | Self::Join
            | Self::Leave
            | Self::Title
            | Self::Invite => Count::Changes,
        }
    }
}

fn wishes() -> impl Strategy<Value = Vec<(usize, Wish)>> {
    let wish = prop_oneof![
        4 => (1..4u64).prop_map(Wish::Edit),
        1 => (1..5u64).prop_map(Wish::Delete),
        4 => (1..4u64, any::<bool>()).prop_map(|(seq, on)| Wish::React(seq, on)),
        1 => any::<bool>().prop_map(Wish::Timer),
        3 => any::<bool>().prop_map(Wish::Block),
        1 => Just(Wish::Rename),
        1 => any::<bool>().prop_map(Wish::Hide),
        2 => Just(Wish::Join),
        1 => Just(Wish::Leave),
        1 => Just(Wish::Title),
        1 => Just(Wish::Invite),
        3 => Just(Wish::Say),
        3 => Just(Wish::SayInGroup),
    ];
    prop::collection::vec((0..2usize, wish), 1..24)
}

fn user(of: usize) -> UserId {
    support::user(NAMES[of])
}

fn beginning() -> Vec<Entry> {
    let device = support::device(1);
    let talk = ConversationId::direct(&user(0), &user(1));
    let create = quipu_protocol::event::NewGroup {
        conversation: support::group("climbers"),
        title: "Climbing".to_owned(),
        topic: String::new(),
        open: false,
        history_from_start: false,
        invite: Vec::new(),
    };
    vec![
        support::register(user(0), device, 1, 1),
        support::register(user(1), device, 1, 1),
        support::open(user(0), device, user(1), 2),
        support::send(user(0), device, talk, 1, "one"),
        support::send(user(1), device, talk, 1, "two"),
        support::send(user(0), device, talk, 2, "three"),
        support::change(user(0), device, 1, Change::CreateGroup(create)),
    ]
}

/// The message or change under this number, which is its request as well.
fn entry(by: usize, number: u64, wish: Wish) -> Entry {
    let talk = ConversationId::direct(&user(0), &user(1));
    let (group, other) = (support::group("climbers"), user(1 - by));
    let say = |to| {
        let text = format!("said {number}");
        support::send(user(by), support::device(1), to, number, &text)
    };
    let change = match wish {
        Wish::Say => return say(talk),
        Wish::SayInGroup => return say(group),
        Wish::Edit(seq) => Change::Edit {
            conversation: talk,
            seq: support::seq(seq),
            content: Content::Text(format!("said {number}")),
        },
        Wish::Delete(seq) => Change::Delete(talk, support::seq(seq)),
        Wish::React(seq, on) => Change::React {
            conversation: talk,
            seq: support::seq(seq),
            emoji: "+".to_owned(),
            on,
        },
        Wish::Timer(on) => Change::SetTimer(talk, u64::from(on) * 3_600_000),
        Wish::Block(on) => Change::Block(other, on),
        Wish::Rename => Change::RenameDevice(support::device(1), format!("label {number}")),
        Wish::Hide(hide_read) => Change::SetPrivacy(Privacy {
            hide_read,
            ..Privacy::default()
        }),
        Wish::Join => Change::Join(group),
        Wish::Leave => Change::Leave(group),
        Wish::Title => Change::SetGroup {
            conversation: group,
            title: Some(format!("title {number}")),
            topic: None,
        },
        Wish::Invite => Change::Invite {
            conversation: group,
            users: vec![other],
        },
    };
    support::change(user(by), support::device(1), number, change)
}

/// Applies one entry at a time, each followed by all that it made the shard send to itself, with restarts from rows.
fn play(entries: impl IntoIterator<Item = Entry>, every: usize) -> (Store, Vec<Action>) {
    let (mut store, mut state) = (Store::default(), ShardState::new(ShardId(0), ONE));
    let (mut effects, mut actions) = (Effects::default(), Vec::new());
    let mut position = Position::START;
    for (at, entry) in entries.into_iter().enumerate() {
        let mut next = vec![entry];
        while !next.is_empty() {
            position = position.next();
            let payload = Record::encode_entries(&next);
            let record = Record::decode(position, NOW, &payload).unwrap();
            store.apply(&mut state, &record, &mut effects);
            next = effects.outgoing.drain(..).map(|(_, entry)| entry).collect();
        }
        actions.append(&mut effects.actions);
        store.checkpoint(&mut state, &mut effects);
        if at % every == 0 {
            state = store.restore(ShardId(0), ONE);
        }
    }
    (store, actions)
}

/// All rows but those that say how far the log is.
fn said(mut store: Store) -> Store {
    store.shards.clear();
    store
        .entities
        .retain(|key, _| !matches!(key, EntityKey::Answers(..)));
    store
}

type Outcomes = BTreeMap<(UserId, u64), Vec<Result<(), RejectCode>>>;

/// The answers to each message and change: the same each time.
fn outcomes(actions: &[Action]) -> Outcomes {
    let mut outcomes = Outcomes::new();
    for action in actions {
        if let Action::Answer { user, reply, .. } = action {
            let number = match reply.to {
                ReplyTo::Request(request) => request.0,
                ReplyTo::Send { client_seq, .. } => client_seq.get(),
            };
            let outcome = match &reply.outcome {
                Outcome::Rejected(rejection) => Err(rejection.code),
                Outcome::Done | Outcome::Opened { .. } | Outcome::Accepted(_) => Ok(()),
            };
            outcomes.entry((*user, number)).or_default().push(outcome);
        }
    }
    outcomes
}

proptest! {
    #![proptest_config(crate::config(128))]

    #[test]
    fn late_and_repeated_changes_leave_no_trace(
        wishes in wishes(),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..48),
        every in 1..7usize,
    ) {
        // Numbers above those of the beginning.
        let number = |at: usize| at as u64 + 10;
        let of = |at: usize| entry(wishes[at].0, number(at), wishes[at].1);
        let order: Vec<usize> = order.iter().map(|at| at.index(wishes.len())).collect();
        // What counts is what is above all that its device asked for before.
        let mut highest = BTreeMap::new();
        let counts = order.iter().filter(|at| {
            let (by, wish) = wishes[**at];
            let before = highest.entry((by, wish.count())).or_insert(None);
            let is_new = before.is_none_or(|before| before < **at);
            if is_new {
                *before = Some(**at);
            }
            is_new
        });
        let counts: Vec<usize> = counts.copied().collect();

        let (plain, first) = play(beginning().into_iter().chain(counts.iter().map(|at| of(*at))), 3);
        let (store, all) = play(beginning().into_iter().chain(order.iter().map(|at| of(*at))), every);
        prop_assert_eq!(said(plain), said(store));

        let (first, all) = (outcomes(&first), outcomes(&all));
        for (at, (by, wish)) in wishes.iter().enumerate() {
            let key = (user(*by), number(at));
            let asked = order.iter().filter(|other| **other == at).count();
            let expected = match first.get(&key) {
                Some(first) => vec![first[0]; asked],
                // The message is its own first answer.
                None if counts.contains(&at) => vec![Ok(()); asked - 1],
                None => vec![Err(RejectCode::StaleClientSeq); asked],
            };
            let found = all.get(&key).map_or(&[][..], |found| found);
            prop_assert_eq!(found, &expected[..], "{:?} as {}", wish, number(at));
        }
    }
}
