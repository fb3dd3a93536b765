//! What its owner does with a device, and what happens to it: messages, readings, power cuts, flights.

use quipu_protocol::id::{ConversationId, MessageId, Seq, UserId};

use super::Link;
use crate::disk::Disk;
use crate::names::fingerprint;
use crate::plan::{MS, SECOND, Us};
use crate::sabotage::Sabotage;
use crate::world::{Event as WorldEvent, Phase, World};

impl World {
    /// Somebody writes a message on a device, connected or not.
    pub(crate) fn write_message(
        &mut self,
        device: usize,
        peer: Option<UserId>,
        conversation: ConversationId,
        bytes: u64,
    ) {
        let note = self.next_note;
        self.next_note += 1;
        let mut text = format!("{note} ");
        text.extend(std::iter::repeat_n('x', bytes as usize));
        let id = MessageId(self.rng.bytes16());
        let talk = self.talk(conversation);
        self.names.notes.insert(id, note);
        let it = &mut self.devices[device];
        let number = it.number;
        let print = fingerprint(&text);
        let waiting = it.disk.enqueue(note, id, (conversation, peer), text);
        self.checker.wrote(number, talk, note, print);
        let it = &mut self.devices[device];
        if let Some(link) = it.link.as_mut().filter(|link| link.welcomed) {
            link.outbox.add(vec![waiting]);
        }
        self.note(
            "writes",
            &[
                ("device", device as u64),
                ("talk", talk as u64),
                ("note", note),
            ],
        );
    }

    /// Somebody reads what their device shows.
    pub(crate) fn mark_read(&mut self, device: usize, conversation: ConversationId, seq: Seq) {
        let instant = self.instant();
        let talk = self.talk(conversation);
        let it = &mut self.devices[device];
        let number = it.number;
        let Some(positions) = it.disk.mark_read(conversation, seq) else {
            return;
        };
        if let Some(link) = it.link.as_mut().filter(|link| link.welcomed) {
            link.receipts.want(instant, conversation, positions);
        }
        self.checker.marked_read(number, talk, seq.get());
        self.client_turn(device);
    }

    /// The process ends, with or without the machine's power.
    pub(crate) fn kill_device(&mut self, device: usize, power: bool) {
        let it = &mut self.devices[device];
        if !it.running || it.is_out {
            return;
        }
        it.running = false;
        it.life += 1;
        it.connecting = false;
        let number = it.number;
        let link = it.link.take();
        it.unanswered = Vec::new();
        if power {
            let (timeline, waiting, read) = it.disk.lose_power();
            let read: Vec<_> = read
                .into_iter()
                .map(|(conversation, seq)| (self.talk(conversation), seq))
                .collect();
            self.checker.lost_power(number, timeline, &waiting, &read);
            if self.sabotage != Some(Sabotage::LoseChanges) {
                let asks = self.devices[device].disk.asks();
                self.checker.keeps_changes(number, &asks);
            }
        } else {
            it.disk.reopen();
        }
        self.note(
            "client-ends",
            &[("device", device as u64), ("power", u64::from(power))],
        );
        if let Some(link) = link {
            // The kernel of a living machine says nothing either: QUIC lives in the process.
            self.close_from_device(link.number, false);
        }
        let after = self.rng.between(MS, 5 * SECOND);
        self.schedule(after, WorldEvent::StartDevice(device));
    }

    pub(crate) fn start_device(&mut self, device: usize) {
        self.devices[device].running = true;
        let after = self.moment();
        self.connect_after(device, after);
    }

    pub(crate) fn return_device(&mut self, device: usize) {
        self.devices[device].away = false;
        let after = self.moment();
        self.connect_after(device, after);
    }

    /// The network is gone for this device.
    pub(crate) fn send_device_away(&mut self, device: usize, away: Us) {
        let it = &mut self.devices[device];
        if it.away || self.phase == Phase::Heal {
            return;
        }
        it.away = true;
        let link = self.take_link(device);
        if let Some(link) = link {
            self.close_from_device(link.number, false);
        }
        self.note("device-away", &[("device", device as u64), ("us", away)]);
        self.schedule(away, WorldEvent::Return(device));
    }

    /// Whether a device has everything and nothing of it waits.
    pub(crate) fn device_is_at_rest(&self, device: usize) -> bool {
        let it = &self.devices[device];
        if it.is_out {
            return true;
        }
        let Some(session) = it.disk.session() else {
            return false;
        };
        let is_quiet = |link: &Link| {
            let asks = link.is_asking || !link.questions.is_empty() || !link.again.is_empty();
            !asks && link.asked.is_empty()
        };
        it.link.as_ref().is_some_and(is_quiet) && it.link.as_ref().is_some_and(|link| link.welcomed)
            && it.disk.waiting().is_empty()
            && it.disk.waiting_changes().is_empty()
            // A report that came while its user was not in the group is made again on the next connection only.
            && it.disk.unreported().iter().all(|(of, _)| of.is_group())
            && session.resume.cursor.0 == self.inbox_head(session.user)
    }

    pub(crate) fn new_disk(sabotage: Option<Sabotage>) -> Disk {
        Disk::new(sabotage)
    }
}
