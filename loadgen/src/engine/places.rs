//! Which device is in which conversation, and whose turn it is to write.

use quipu_protocol::id::{ConversationId, UserId};

use crate::scenario::{Kind, Scenario};
use crate::seed::{Purpose, Seed};
use crate::verify::RunId;

/// In no conversation.
const IDLE: u32 = u32::MAX;

/// One conversation: devices that follow each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conversation {
    /// Its first device.
    pub(super) first: usize,
    /// How many there are.
    pub(super) size: usize,
    /// How many of them write.
    pub(super) speakers: usize,
    pub(super) is_group: bool,
}

/// All conversations of a process: the pairs, then the groups.
#[derive(Debug)]
pub(super) struct Places {
    conversations: Vec<Conversation>,
    pairs: usize,
    /// For each device, the number of its conversation; empty where nobody talks.
    of: Vec<u32>,
    /// Members of the groups up to and with each of them.
    members: Vec<u64>,
    /// Share of the messages that go to groups.
    share: f64,
}

impl Places {
    /// Those of a scenario; none if nothing is ever said.
    pub(super) fn new(scenario: &Scenario) -> Self {
        let mut places = Self {
            conversations: Vec::new(),
            pairs: 0,
            of: Vec::new(),
            members: Vec::new(),
            share: 0.0,
        };
        let opens = |kind: &Kind| matches!(kind, Kind::Open { .. });
        if !scenario.talks() && !scenario.phases.iter().any(|phase| opens(&phase.kind)) {
            return places;
        }
        places.of = vec![IDLE; scenario.clients() as usize];
        let base = scenario.devices(scenario.graph.population).start;
        places.pairs = scenario.graph.pairs as usize;
        for pair in 0..places.pairs {
            places.add(Conversation {
                first: base + 2 * pair,
                size: 2,
                speakers: 2,
                is_group: false,
            });
        }
        let Some(groups) = &scenario.graph.groups else {
            return places;
        };
        let mut first = scenario.first_of_groups();
        let mut members = 0;
        for size in scenario.group_sizes() {
            places.add(Conversation {
                first,
                size: size as usize,
                speakers: size.min(groups.speakers) as usize,
                is_group: true,
            });
            first += size as usize;
            members += size;
            places.members.push(members);
        }
        places.share = match (places.pairs, members) {
            (_, 0) => 0.0,
            (0, _) => 1.0,
            (_, _) => groups.share,
        };
        places
    }

    fn add(&mut self, conversation: Conversation) {
        let number = self.conversations.len() as u32;
        let Conversation { first, size, .. } = conversation;
        self.of[first..first + size].fill(number);
        self.conversations.push(conversation);
    }

    /// How many conversations there are.
    pub(super) fn len(&self) -> usize {
        self.conversations.len()
    }

    /// One of them.
    pub(super) fn get(&self, number: usize) -> Conversation {
        self.conversations[number]
    }

    /// The device's conversation, and which of its members it is.
    pub(super) fn of(&self, device: usize) -> Option<(usize, usize)> {
        let number = self.of.get(device).filter(|number| **number != IDLE)?;
        let number = *number as usize;
        Some((number, device - self.conversations[number].first))
    }

    /// The device of a member.
    pub(super) fn device(&self, number: usize, member: usize) -> usize {
        self.conversations[number].first + member
    }

    /// Who writes message number `index` of an open loop, and where. Larger groups have more to say.
    pub(super) fn choose(&self, seed: Seed, phase: u64, index: u64) -> (usize, u8) {
        if self.share > 0.0 && seed.unit(Purpose::Group, phase, 2 * index) < self.share {
            let all = self.members.last().copied().unwrap_or_default();
            let member = seed.below(Purpose::Group, phase, 2 * index + 1, all);
            let group = self.members.partition_point(|upto| *upto <= member);
            let number = self.pairs + group;
            let speakers = self.conversations[number].speakers as u64;
            return (number, (member % speakers) as u8);
        }
        let choice = seed.below(Purpose::Pair, phase, index, 2 * self.pairs as u64);
        ((choice / 2) as usize, (choice % 2) as u8)
    }

    /// The id of a conversation. That of a group is a function of the run, and no secret from whoever knows it.
    pub(super) fn id(&self, number: usize, run: RunId, users: &[UserId]) -> ConversationId {
        let Conversation {
            first, is_group, ..
        } = self.conversations[number];
        if !is_group {
            return ConversationId::direct(&users[first], &users[first + 1]);
        }
        let place = u64::from(run.first_pair) + number as u64;
        let half = |index| Seed(run.number).bits(Purpose::Group, place, index);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&half(0).to_be_bytes());
        bytes[8..].copy_from_slice(&half(1).to_be_bytes());
        // What tells a group from a direct conversation.
        bytes[0] |= 0x80;
        ConversationId(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MIXED: &str = r#"
        [[population]]
        name = "idle"
        clients = 10
        [[population]]
        name = "people"
        clients = 100
        [graph]
        kind = "mixed"
        population = "people"
        pairs = 5
        size = "3..20"
        speakers = 4
        group_share = "50%"
        [[phase]]
        kind = "ramp"
        [[phase]]
        kind = "rate"
        for = "1s"
        rate = 1
    "#;

    #[test]
    fn everybody_has_one_place_and_all_speakers_get_their_turn() {
        let scenario = Scenario::read("mixed", MIXED).unwrap();
        let places = Places::new(&scenario);
        let mut talking = 0;
        for number in 0..places.len() {
            let one = places.get(number);
            talking += one.size;
            assert_eq!(one.is_group, number >= 5);
            for member in 0..one.size {
                let device = places.device(number, member);
                assert_eq!(places.of(device), Some((number, member)));
            }
        }
        assert!((99..=100).contains(&talking));
        assert_eq!(places.of(9), None);
        assert_eq!(places.of(10), Some((0, 0)));
        let choices: Vec<_> = (0..5_000)
            .map(|index| places.choose(Seed(1), 1, index))
            .collect();
        let distinct: BTreeSet<_> = choices.iter().copied().collect();
        let speakers = |number| places.get(number).speakers;
        let all: usize = (0..places.len()).map(speakers).sum();
        assert_eq!(distinct.len(), all);
        let to_groups = choices.iter().filter(|(number, _)| *number >= 5).count();
        assert!((2_300..2_700).contains(&to_groups), "{to_groups}");
    }

    #[test]
    fn ids_of_groups_differ_from_each_other_and_from_those_of_other_processes() {
        let scenario = Scenario::read("mixed", MIXED).unwrap();
        let places = Places::new(&scenario);
        let users: Vec<UserId> = (0..110)
            .map(|n| UserId::new(&format!("user-{n}")).unwrap())
            .collect();
        let mut ids = BTreeSet::new();
        for first_pair in [0, places.len() as u32] {
            let run = RunId {
                number: 9,
                first_pair,
            };
            for number in 5..places.len() {
                let id = places.id(number, run, &users);
                assert!(id.is_group() && ids.insert(id));
            }
        }
    }
}
