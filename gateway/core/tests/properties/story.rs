//! Random stories: what a few users with their devices ask for, as a client in good order would.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quipu_core::record::{CommandKind, Entry, EntryBody};
use quipu_protocol::id::{ConversationId, DeviceId, MessageId, Seq, UserId};

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
}

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
        1 => user.prop_map(|from| Step::Intrude { from }),
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
        }
    }
    story
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

/// The command of an entry that a router appends.
pub(crate) fn command(entry: &Entry) -> &quipu_core::record::Command {
    match &entry.body {
        EntryBody::Command(command) => command,
        EntryBody::Deliver { .. }
        | EntryBody::Answer { .. }
        | EntryBody::Spread { .. }
        | EntryBody::Standing { .. }
        | EntryBody::Blocked { .. }
        | EntryBody::Expire { .. } => panic!("a story has commands only"),
    }
}
