//! One turn of the driver: what has come goes to the disk, what waits to the session.

use quipu_protocol::event::{Notice, Outcome, Reply, ReplyTo};
use quipu_protocol::id::RequestId;
use quipu_protocol::session::{ChangeEnd, Settled};
use quipu_protocol::welcome::Welcome;

use super::Link;
use crate::disk::Told;
use crate::queries::{Question, queue};
use crate::sabotage::Sabotage;
use crate::world::{AtDevice, World};

impl World {
    /// Brings what has come to the disk and what waits to the session, in the order of the SDK's driver.
    pub(crate) fn client_turn(&mut self, device: usize) {
        self.drain(device);
        let welcome = self.devices[device]
            .link
            .as_mut()
            .and_then(|link| link.welcome.take());
        if let Some(welcome) = welcome {
            self.client_welcomed(device, &welcome);
        }
        self.client_commit(device);
        self.take_notices(device);
        self.client_pump(device);
        self.drain(device);
        self.take_ends(device);
        self.ask_next(device);
        self.leave_if_told(device);
        self.arm_device(device);
    }

    fn client_welcomed(&mut self, device: usize, welcome: &Welcome) {
        let instant = self.instant();
        let it = &mut self.devices[device];
        it.failures = 0;
        let number = it.number;
        let is_new = it.disk.session().is_none();
        let strange = it.link.as_ref().is_some_and(|link| link.strange);
        let begins_anew = it.disk.welcome(welcome);
        let asks = it.disk.asks();
        let cursor = welcome.cursor.0;
        if is_new {
            self.checker.begins_at(number, cursor);
        } else if begins_anew {
            self.checker.resynced(number, cursor, strange);
        } else if strange {
            let what = format!("device {number} goes on from {cursor}");
            self.checker.condemn("resumed from elsewhere", what);
        }
        if begins_anew && self.sabotage != Some(Sabotage::LoseChanges) {
            self.checker.keeps_changes(number, &asks);
        }
        let it = &mut self.devices[device];
        let Some(link) = &mut it.link else {
            return;
        };
        link.welcomed = true;
        let unread = it.disk.unread();
        if !self.plan.acts.is_empty() || it.disk.list_due() {
            link.questions.push_front(Question::List(None));
            // Groups that are known are asked about by themselves: one that moves to the front while the list is read by pages is
            // not on it.
            for group in it.disk.pulled() {
                let first = it.disk.first_missing(group);
                queue(&mut link.questions, Question::Page(group, first));
            }
        }
        if self.plan.grace.is_some() {
            queue(&mut link.questions, Question::Presence);
        }
        for conversation in unread {
            queue(&mut link.questions, Question::Page(conversation, 1));
        }
        for conversation in it.disk.entries_due() {
            queue(&mut link.questions, Question::Entry(conversation));
        }
        let began = link.began;
        link.outbox.add(it.disk.waiting());
        link.changes.begin(it.disk.waiting_changes());
        for (conversation, positions) in it.disk.unreported() {
            link.receipts.want(instant, conversation, positions);
        }
        self.checker.welcomed(number, began);
        self.ask_again(device);
    }

    /// Keeps the news of pulled groups.
    fn take_notices(&mut self, device: usize) {
        let it = &mut self.devices[device];
        let Some(link) = it.link.as_mut().filter(|link| link.welcomed) else {
            return;
        };
        for notice in std::mem::take(&mut link.notices) {
            self.trace
                .say(|| format!("device {device} takes {notice:?}"));
            if let Notice::Message(message, _) = &notice {
                let (what, _) = self.names.what(message);
                let talk = self.names.talk(&message.conversation);
                let from = self.names.person(&message.from);
                let number = self.devices[device].number;
                let place = (message.seq.get(), from, what);
                self.checker.fetched(number, talk, place);
            }
            let group = match &notice {
                Notice::Message(message, _) => message.conversation,
                Notice::Changed(changed, _) => changed.conversation,
                Notice::Check => continue,
            };
            let (told, behind) = self.devices[device].disk.notice(&self.names, &notice);
            for told in told {
                self.tell(device, told);
            }
            let it = &mut self.devices[device];
            if let (true, Some(link)) = (behind, &mut it.link) {
                let first = it.disk.first_missing(group);
                queue(&mut link.questions, Question::Page(group, first));
            }
            self.wonder_about_changes(device, group);
        }
    }

    /// Writes what has come in one transaction, then shows it, then lets the session ack it.
    fn client_commit(&mut self, device: usize) {
        let instant = self.instant();
        let it = &mut self.devices[device];
        let Some(link) = &mut it.link else {
            return;
        };
        let nothing = link.events.is_empty() && link.settled.is_empty() && link.answered.is_empty();
        if !link.welcomed || nothing {
            return;
        }
        let answered = std::mem::take(&mut link.answered);
        let ended = answered.into_iter().filter_map(|answered| {
            let number = it.disk.change_ended(answered.client_seq)?;
            Some((number, answered.end == ChangeEnd::Done))
        });
        let ended: Vec<_> = ended.collect();
        let (events, settled) = (
            std::mem::take(&mut link.events),
            std::mem::take(&mut link.settled),
        );
        let (told, raised, cursor) = it.disk.apply(&self.names, events, settled);
        for (conversation, positions) in raised {
            link.receipts.want(instant, conversation, positions);
        }
        link.session.kept(instant, cursor);
        for conversation in it.disk.take_found() {
            let first = it.disk.first_missing(conversation);
            queue(&mut link.questions, Question::Page(conversation, first));
            if it.disk.is_entry_due(&conversation) {
                queue(&mut link.questions, Question::Entry(conversation));
            }
        }
        for told in told {
            self.tell(device, told);
        }
        for (number, is_done) in ended {
            self.trace
                .say(|| format!("device {device}: {number} is done: {is_done}"));
            match is_done {
                true => self.checker.done(number),
                false => self.checker.not_done(number),
            }
        }
        // The database makes a checkpoint now and then.
        if self.rng.chance(self.plan.checkpoints) {
            self.devices[device].disk.sync();
        }
    }

    /// Shows something to the device's owner.
    pub(crate) fn tell(&mut self, device: usize, told: Told) {
        let number = self.devices[device].number;
        match told {
            Told::Acked { note, seq } => self.checker.acked(note, seq.get()),
            Told::Refused { note, why } => self.checker.refused(note, &why),
            Told::Shown(event) => {
                let (shown, says) = self.names.shown(&event.body);
                self.trace.say(|| {
                    format!(
                        "device {number} shows {} {shown:?} {says:?}",
                        event.inbox_seq
                    )
                });
                let inbox_seq = event.inbox_seq.get();
                self.checker.shown(number, inbox_seq, shown, says);
            }
        }
    }

    /// Hands the session what waits, as far as it takes it.
    fn client_pump(&mut self, device: usize) {
        let instant = self.instant();
        let it = &mut self.devices[device];
        let Some(link) = &mut it.link else {
            return;
        };
        if !link.welcomed || link.go_away.is_some() {
            return;
        }
        while let Some((conversation, positions)) = link.receipts.next(instant)
            && link
                .session
                .receipt(conversation, positions.delivered, positions.read)
                .is_ok()
        {
            link.receipts.sent(instant, conversation);
        }
        self.drain(device);
        self.pump_changes(device);
        loop {
            let it = &mut self.devices[device];
            let Some(link) = &mut it.link else {
                return;
            };
            let pumped = link
                .outbox
                .pump(instant, &mut link.session, &mut link.requests);
            link.settled.extend(pumped.settled);
            if pumped.sync {
                self.client_sync(device);
                continue;
            }
            let renumbers = !pumped.renumber.is_empty();
            for conversation in pumped.renumber {
                let renumbered = it.disk.renumber(conversation);
                link.outbox.renumbered(conversation, &renumbered);
            }
            if !renumbers {
                break;
            }
        }
        self.drain(device);
        self.client_commit(device);
    }

    /// Asks for the changes that may be asked for now.
    fn pump_changes(&mut self, device: usize) {
        let instant = self.instant();
        loop {
            let it = &mut self.devices[device];
            let Some(link) = &mut it.link else {
                return;
            };
            let session = &mut link.session;
            let pumped = link.changes.pump(instant, session, &mut link.requests);
            if pumped.sync {
                self.client_sync(device);
                continue;
            }
            if pumped.renumber.is_empty() {
                break;
            }
            let renumbered = it.disk.renumber_changes(&pumped.renumber);
            link.changes.renumbered(&renumbered);
        }
        self.drain(device);
    }

    /// What was answered is on the disk before more is sent.
    fn client_sync(&mut self, device: usize) {
        self.client_commit(device);
        let it = &mut self.devices[device];
        if self.sabotage != Some(Sabotage::NeverSync) {
            it.disk.sync();
        }
        if let Some(link) = &mut it.link {
            link.outbox.synced();
            link.changes.synced();
        }
    }

    fn arm_device(&mut self, device: usize) {
        let Some(link) = &self.devices[device].link else {
            return;
        };
        let machines = [
            link.session.poll_timeout(),
            link.outbox.timeout(),
            link.changes.timeout(),
            link.receipts.timeout().filter(|_| link.welcomed),
        ];
        let Some(due) = machines.into_iter().flatten().min() else {
            return;
        };
        let due = self.at(due).max(self.now + 1);
        let (now, link) = (self.now, &mut self.devices[device].link);
        let Some(link) = link else { return };
        if link.due.is_some_and(|set| set <= due) {
            return;
        }
        link.due = Some(due);
        self.tell_device(device, due - now, AtDevice::Due);
    }
}

impl Link {
    pub(super) fn take_reply(&mut self, now: std::time::Instant, reply: Reply) {
        match (reply.to, reply.outcome) {
            (
                ReplyTo::Send {
                    conversation,
                    client_seq,
                },
                outcome,
            ) => {
                let message = (conversation, client_seq);
                let end = self.outbox.answered(now, message, outcome);
                self.settled.extend(end);
            }
            (ReplyTo::Request(request), Outcome::Opened { conversation, head }) => {
                self.end(now, request, Outcome::Opened { conversation, head });
                self.outbox.take_opening(request);
                self.outbox.opened(conversation);
                self.settled.push(Settled::Opened {
                    conversation,
                    peer: None,
                    head,
                });
            }
            (ReplyTo::Request(request), Outcome::Rejected(rejection)) => {
                if let Some(conversation) = self.outbox.take_opening(request) {
                    self.settled
                        .extend(self.outbox.not_opened(now, conversation, rejection));
                } else {
                    self.end(now, request, Outcome::Rejected(rejection));
                }
            }
            (ReplyTo::Request(request), Outcome::Done) => self.end(now, request, Outcome::Done),
            (ReplyTo::Request(_), Outcome::Accepted(_)) => {}
        }
    }

    fn end(&mut self, now: std::time::Instant, request: RequestId, outcome: Outcome) {
        let Some(answered) = self.changes.answered(now, request, outcome) else {
            return;
        };
        if answered.kept {
            self.answered.push(answered);
        } else if let Some(asked) = self.asked.remove(&answered.client_seq) {
            self.ended.push((asked, answered.end == ChangeEnd::Done));
        }
    }
}
