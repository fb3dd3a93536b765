//! What people do: sign in, write, read, on whichever device they have at hand.

use quipu_protocol::id::{ConversationId, Seq, UserId};

use crate::device::Device;
use crate::plan::Us;
use crate::world::{Event, Phase, World};

/// Names, so that traces are read more easily.
const NAMES: [&str; 6] = ["alice", "bob", "carol", "dave", "erin", "frank"];

impl World {
    /// Makes the people, their devices and the conversations that they may begin.
    pub(crate) fn populate(&mut self) {
        for person in 0..self.plan.users {
            let Ok(user) = UserId::new(NAMES[person % NAMES.len()]) else {
                continue;
            };
            for of in 0..self.plan.devices_per_user {
                let number = self.checker.new_device(person);
                let disk = Self::new_disk(self.sabotage);
                let device = Device::new(person, number, of == 0, disk);
                self.devices.push(device);
                // The first one comes soon, the others when they come.
                let after: Us = if of == 0 {
                    self.rng.below(self.plan.duration / 20)
                } else {
                    self.rng.below(self.plan.duration / 2)
                };
                self.connect_after(number, after);
            }
            self.names.people.push(user);
        }
        let people = self.names.people.clone();
        for a in 0..people.len() {
            for b in a..people.len() {
                let id = ConversationId::direct(&people[a], &people[b]);
                let members = if a == b { vec![a] } else { vec![a, b] };
                let talk = self.checker.new_talk(members);
                self.names.talks.insert(id, talk);
            }
        }
        self.schedule(self.plan.duration / 20, Event::Story);
    }

    /// Somebody does something, and the next one is due.
    pub(crate) fn story(&mut self) {
        if self.phase == Phase::Heal {
            return;
        }
        let device = self.rng.index(self.devices.len());
        let it = &self.devices[device];
        // Nobody writes before they have signed in.
        if it.running && !it.is_out && it.disk.session().is_some() {
            let me = it.person;
            if !self.plan.acts.is_empty() && self.rng.chance(400) {
                self.do_something(device);
                return self.next_story();
            }
            let peer = self.rng.index(self.names.people.len());
            let peer = self.names.people[peer];
            let (id, peer) = match self.group_to_write_to(device) {
                Some(group) => (group, None),
                None => (
                    ConversationId::direct(&self.names.people[me], &peer),
                    Some(peer),
                ),
            };
            if self.rng.chance(750) {
                let count = self.rng.between(1, self.plan.burst);
                for _ in 0..count {
                    let bytes = self.rng.below(self.plan.text_bytes);
                    self.write_message(device, peer, id, bytes);
                }
                self.client_turn(device);
            } else if let Some(head) = self.devices[device].disk.head(id) {
                let number = self.devices[device].number;
                let shown = self.checker.last_seq(number, self.names.talks[&id]);
                let upper = head.get().min(shown);
                if let Ok(seq) = Seq::new(self.rng.between(upper / 2, upper)) {
                    self.mark_read(device, id, seq);
                }
            }
        }
        self.next_story();
    }

    fn next_story(&mut self) {
        let after = self.rng.between(1, 2 * self.plan.pace);
        self.schedule(after, Event::Story);
    }

    /// A group that a device writes to this time: mostly one that its owner is in.
    fn group_to_write_to(&mut self, device: usize) -> Option<ConversationId> {
        if self.groups.is_empty() || self.rng.chance(400) {
            return None;
        }
        let group = self.groups[self.rng.index(self.groups.len())];
        let is_inside = self.devices[device].disk.is_inside(&group.id);
        // Nobody outside can guess the id of a group that is not there yet.
        let tries = group.is_there && self.rng.chance(30);
        (is_inside || tries).then_some(group.id)
    }
}
