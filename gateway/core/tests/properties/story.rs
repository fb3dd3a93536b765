//! Random stories: what a few users with their devices ask for, as a client in good order would.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quipu_core::record::{CommandKind, Entry, Fact, GivenUp, SessionId};
use quipu_protocol::id::{ConversationId, Cursor, DeviceId, MessageId, Seq, TimestampMs, UserId};

use crate::support;

const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];
const DEVICES: u64 = 2;

/// What happens next, by number of user, device and peer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Send {
        from: usize,
        device: u64,
        to: usize,
    },
    /// Send an earlier message of the story again, as a client does that heard no answer.
    Retry {
        back: usize,
    },
    Receipt {
        from: usize,
        to: usize,
        delivered: u64,
        read: u64,
    },
    Open {
        from: usize,
        to: usize,
    },
    /// Somebody writes where they are no member.
    Intrude {
        from: usize,
    },
    /// A gateway tells something about a user.
    Tell {
        user: usize,
        device: u64,
        what: Event,
        cursor: u64,
    },
}

/// What a gateway tells.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    Attached,
    Stalled,
    Detached,
    Vanished,
    Posted,
    GivenUp,
    Again,
}

const EVENTS: [Event; 7] = [
    Event::Attached,
    Event::Stalled,
    Event::Detached,
    Event::Vanished,
    Event::Posted,
    Event::GivenUp,
    Event::Again,
];

pub(crate) fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let user = 0..NAMES.len();
    let step = prop_oneof![
        6 => (user.clone(), 1..=DEVICES, user.clone())
            .prop_map(|(from, device, to)| Step::Send { from, device, to }),
        2 => (0..40usize).prop_map(|back| Step::Retry { back }),
        2 => (user.clone(), user.clone(), 0..30u64, 0..30u64).prop_map(|(from, to, delivered, read)| {
            Step::Receipt { from, to, delivered, read }
        }),
        1 => (user.clone(), user.clone()).prop_map(|(from, to)| Step::Open { from, to }),
        1 => user.clone().prop_map(|from| Step::Intrude { from }),
        4 => (user, 1..=DEVICES, prop::sample::select(EVENTS.to_vec()), 0..30u64)
            .prop_map(|(user, device, what, cursor)| Step::Tell { user, device, what, cursor }),
    ];
    prop::collection::vec(step, 1..most)
}

/// The entries of a story, in order, and which messages have to come of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Story {
    pub(crate) entries: Vec<Entry>,
    pub(crate) sent: Vec<MessageId>,
}

/// Registers everybody, opens every pair, then plays the steps.
pub(crate) fn story(steps: &[Step]) -> Story {
    let users: Vec<UserId> = NAMES.map(support::user).to_vec();
    let mut story = Story::default();
    for user in &users {
        let device = support::device(1);
        story.entries.push(support::register(*user, device, 1, 1));
    }
    for (i, from) in users.iter().enumerate() {
        for to in &users[i..] {
            let device = support::device(1);
            story.entries.push(support::open(*from, device, *to, 2));
        }
    }
    let mut numbers: BTreeMap<(UserId, u64), u64> = BTreeMap::new();
    let mut sends: Vec<Entry> = Vec::new();
    for step in steps {
        match *step {
            Step::Send { from, device, to } => {
                let (from, to) = (users[from], users[to]);
                let number = numbers.entry((from, device)).or_insert(0);
                *number += 1;
                let entry = send(from, device, ConversationId::direct(&from, &to), *number);
                story
                    .sent
                    .push(support::message_id(&from, support::device(device), *number));
                story.entries.push(entry.clone());
                sends.push(entry);
            }
            Step::Retry { back } => {
                if let Some(at) = sends.len().checked_sub(back + 1) {
                    story.entries.push(sends[at].clone());
                }
            }
            Step::Receipt {
                from,
                to,
                delivered,
                read,
            } => {
                let conversation = ConversationId::direct(&users[from], &users[to]);
                let kind = CommandKind::Receipt {
                    conversation,
                    delivered: Seq::new(delivered).ok(),
                    read: Seq::new(read).ok(),
                    quiet: false,
                };
                let entry = support::command(users[from], support::device(1), kind);
                story.entries.push(entry);
            }
            Step::Open { from, to } => {
                let entry = support::open(users[from], support::device(1), users[to], 3);
                story.entries.push(entry);
            }
            Step::Intrude { from } => {
                let others = (users[(from + 1) % 4], users[(from + 2) % 4]);
                let conversation = ConversationId::direct(&others.0, &others.1);
                // Numbers of a device of its own, so that the members' numbers stay in good order.
                let entry = send(users[from], 9, conversation, 1);
                story.entries.push(entry);
            }
            Step::Tell {
                user,
                device,
                what,
                cursor,
            } => {
                let fact = fact(what, device, cursor);
                story.entries.push(support::fact(users[user], fact));
            }
        }
    }
    story
}

/// Sessions are few, so that ends and beginnings of the same and of others meet.
fn fact(what: Event, device: u64, cursor: u64) -> Fact {
    let session = SessionId {
        boot: cursor % 2,
        number: cursor % 3,
    };
    let (device, cursor) = (support::device(device), Cursor(cursor));
    let since = TimestampMs(cursor.0 * 50);
    let given_up = GivenUp {
        conversation: ConversationId([7; 16]),
        first: Seq::FIRST,
        last: Seq::FIRST,
        count: 1,
        after: Cursor(cursor.0 / 2),
        tries: 3,
        why: "no answer in time".to_owned(),
    };
    match what {
        Event::Attached => Fact::Attached {
            device,
            session,
            cursor,
        },
        Event::Stalled => Fact::Stalled {
            device,
            session,
            cursor,
            since,
        },
        Event::Detached => Fact::Detached {
            device,
            session,
            cursor,
        },
        Event::Vanished => Fact::Vanished {
            boot: session.boot,
            since,
        },
        Event::Posted => Fact::Told {
            through: cursor,
            given_up: Vec::new(),
        },
        Event::GivenUp => Fact::Told {
            through: cursor,
            given_up: vec![given_up],
        },
        Event::Again => Fact::TellAgain { after: cursor },
    }
}

fn send(from: UserId, device: u64, conversation: ConversationId, number: u64) -> Entry {
    let device: DeviceId = support::device(device);
    support::send(
        from,
        device,
        conversation,
        number,
        &format!("message {number}"),
    )
}
