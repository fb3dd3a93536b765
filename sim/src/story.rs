//! What people do: sign in, write, read, on whichever device they have at hand.

use quipu_protocol::id::{ConversationId, Seq, UserId};

use crate::device::Device;
use crate::plan::Us;
use crate::world::{Event, Person, Phase, World};

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
            self.people.push(Person { user });
        }
        for a in 0..self.people.len() {
            for b in a..self.people.len() {
                let id = ConversationId::direct(&self.people[a].user, &self.people[b].user);
                let members = if a == b { vec![a] } else { vec![a, b] };
                let talk = self.checker.new_talk(members);
                self.talks.insert(id, talk);
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
        if it.running && it.disk.session().is_some() {
            let me = it.person;
            let peer = self.rng.index(self.people.len());
            let id = ConversationId::direct(&self.people[me].user, &self.people[peer].user);
            if self.rng.chance(750) {
                let count = self.rng.between(1, self.plan.burst);
                for _ in 0..count {
                    let bytes = self.rng.below(self.plan.text_bytes);
                    self.write_message(device, peer, id, bytes);
                }
                self.client_turn(device);
            } else if let Some(head) = self.devices[device].disk.head(id) {
                let shown = self.checker.last_seq(device, self.talks[&id]);
                let upper = head.get().min(shown);
                if let Ok(seq) = Seq::new(self.rng.between(upper / 2, upper)) {
                    self.mark_read(device, id, seq);
                }
            }
        }
        let after = self.rng.between(1, 2 * self.plan.pace);
        self.schedule(after, Event::Story);
    }
}
