//! Judges what there is when everything has come to rest: nothing acked is lost, and everybody has the same.

use std::collections::BTreeMap;

use super::group::Timeline;
use super::{Checker, DeviceNo, Fate, Note, Person, Rest, Talk, What, Written};

impl Checker {
    /// Everything has healed and come to rest: what was promised has to be there, for everybody.
    pub(crate) fn at_rest(&mut self, rest: &Rest) {
        self.judge_kept();
        for (talk, history) in rest.history.iter().enumerate() {
            for (at, message) in history.iter().enumerate() {
                let seq = at as u64 + 1;
                self.place(talk, seq, message.what);
                self.judge_words(talk, seq, message);
                self.judge_signs(talk, seq, message);
            }
            let timeline = self.timeline(talk, history);
            self.judge_group(talk, &timeline, history.len() as u64);
            self.judge_joins(talk, history);
            self.judge_devices(talk, &timeline, rest);
        }
        self.judge_fates(rest);
        self.judge_order_of_senders();
        self.judge_convergence(rest);
    }

    fn judge_fates(&mut self, rest: &Rest) {
        let mut wrong = Vec::new();
        for (note, written) in &self.written {
            let seq = match (written.fate, written.shown_as) {
                (Fate::Waits, _) => {
                    wrong.push(("never answered", format!("note {note}")));
                    continue;
                }
                // The members of a pulled group got it from the history, if there are any: see `judge_devices`.
                (Fate::Acked(seq), None) if self.groups.contains_key(&written.talk) => seq,
                (Fate::Acked(seq), _) => seq,
                // Sent before the power was lost: it is there, or it is not, but not half.
                (Fate::Forgotten, Some(seq)) => seq,
                (Fate::Forgotten, None) | (Fate::Refused, _) => continue,
            };
            let is_gone = |person: &Person| {
                let mut devices = self.devices.iter();
                devices.all(|device| device.person != *person || device.is_gone)
            };
            // Who is still in a group has it as `judge_devices` says.
            let is_group = self.groups.contains_key(&written.talk);
            let nobody_left = (is_group || self.members[written.talk].iter().all(is_gone))
                && written.shown_as.is_none();
            if written.shown_as != Some(seq) && !nobody_left {
                let shown_as = written.shown_as;
                let what = format!("note {note} was acked as seq {seq}, shown as {shown_as:?}");
                wrong.push(("acked and lost", what));
            }
            let kept = rest.history.get(written.talk);
            let kept = kept.and_then(|kept| Some(kept.get(usize::try_from(seq).ok()? - 1)?.what));
            if kept != Some(What::Words(*note)) {
                let what = format!("note {note}, seq {seq}: the history holds {kept:?}");
                wrong.push(("acked and not in the history", what));
            }
        }
        for (rule, what) in wrong {
            self.condemn(rule, what);
        }
    }

    /// Messages of one device in one conversation have the order in which they were written, which is that of their numbers.
    fn judge_order_of_senders(&mut self) {
        let mut last: BTreeMap<(DeviceNo, Talk), (Note, u64)> = BTreeMap::new();
        let mut wrong = Vec::new();
        for (note, written) in &self.written {
            let Some(seq) = written.shown_as else {
                continue;
            };
            if self.may_be_reordered(written) {
                continue;
            }
            let before = last.insert((written.device, written.talk), (*note, seq));
            if let Some((earlier, before)) = before
                && before >= seq
            {
                wrong.push(format!(
                    "note {earlier} is seq {before}, note {note} is {seq}"
                ));
            }
        }
        for what in wrong {
            self.condemn("a sender's order is not kept", what);
        }
    }

    /// A message that was turned away while its writer was blocked or not in the group may come behind later ones: the writer's
    /// device may have lost the answer and asked again.
    fn may_be_reordered(&self, written: &Written) -> bool {
        let writer = self.devices[written.device].person;
        let mut others = self.members[written.talk].iter();
        self.groups.contains_key(&written.talk)
            || others.any(|other| self.may_have_blocked(*other, writer))
    }

    /// At rest: whoever is in a conversation has it as it is, with all that became of each message.
    fn judge_devices(&mut self, talk: Talk, timeline: &Timeline, rest: &Rest) {
        let mut wrong = Vec::new();
        let history = rest.history.get(talk).map_or(&[][..], Vec::as_slice);
        for (device, kept) in &rest.kept {
            let person = self.devices[*device].person;
            let since = match self.groups.contains_key(&talk) {
                true => timeline.stays_since(person),
                false => self.is_member(person, talk).then_some(1),
            };
            for seq in since.unwrap_or(u64::MAX)..=history.len() as u64 {
                let truth = &history[seq as usize - 1];
                match kept.get(&(talk, seq)) {
                    None => wrong.push((
                        "a member is behind",
                        format!("device {device} lacks seq {seq} of talk {talk}"),
                    )),
                    // It takes it away by itself, without a word of the gateway.
                    Some(_) if truth.is_over => {}
                    // The words are not asked for again.
                    Some(has) if has.is_over && truth.is_timed && rest.clock_was_ahead => {}
                    Some(has) if has != truth => wrong.push((
                        "devices do not converge",
                        format!("seq {seq} of talk {talk}: device {device} has {has:?}, true is {truth:?}"),
                    )),
                    Some(_) => {}
                }
            }
        }
        for (rule, what) in wrong {
            self.condemn(rule, what);
        }
    }

    fn judge_convergence(&mut self, rest: &Rest) {
        let mut wrong = Vec::new();
        for (number, device) in self.devices.iter().enumerate() {
            if device.is_gone {
                continue;
            }
            let entries = self
                .inboxes
                .range((device.person, device.begun + 1)..(device.person + 1, 0));
            let entries = entries.count();
            if entries != device.shown.len() {
                let what = format!(
                    "device {number} shows {} of {entries} entries",
                    device.shown.len()
                );
                wrong.push(("a device is behind", what));
            }
            for (talk, members) in self.members.iter().enumerate() {
                if !members.contains(&device.person) {
                    continue;
                }
                let head = rest.history.get(talk).map_or(0, Vec::len) as u64;
                let has = self.last_seq(number, talk);
                let from_history = has == 0 && device.begins_late();
                if has != head && !from_history {
                    let what = format!("device {number} has {has} of {head} of talk {talk}");
                    wrong.push(("a member is behind", what));
                }
                // Of receipts before its events began the list has told it.
                for whose in members.iter().filter(|_| !device.begins_late()) {
                    let due = self.due(*whose, talk);
                    let marked = self.known_as_read(*whose, talk);
                    let has = self.positions(number, talk, *whose);
                    if has.read < marked || has.delivered < due {
                        let what = format!(
                            "device {number} knows {has:?} of {whose} in talk {talk}; true are {due} and {marked}"
                        );
                        wrong.push(("a receipt is behind", what));
                    }
                }
            }
        }
        for (rule, what) in wrong {
            self.condemn(rule, what);
        }
    }

    /// How far a person must be known to have read: what a device of theirs still knows.
    fn known_as_read(&self, whose: Person, talk: Talk) -> u64 {
        let marks = self.marked_on.iter();
        marks
            .filter(|((device, of), _)| *of == talk && self.devices[*device].person == whose)
            .map(|(_, seq)| *seq)
            .max()
            .unwrap_or(0)
    }

    /// How far a person must be known to have received: up to the last message of somebody else that a device of theirs was
    /// shown, unless it was thrown out before it could say so. What is read from histories is not reported.
    fn due(&self, whose: Person, talk: Talk) -> u64 {
        let is_from_other = |what| match what {
            What::Words(note) => {
                let writer = self.written.get(&note).map(|written| written.device);
                writer.is_some_and(|device| self.devices[device].person != whose)
            }
            // Who did it is not kept here; that much less is due.
            What::Note(_) => false,
        };
        let devices = self.devices.iter();
        let theirs = devices.filter(|device| device.person == whose && !device.is_gone);
        let last = theirs.filter_map(|device| {
            let mut newest_first = device.shown.iter().rev();
            newest_first.find_map(|(_, shown)| {
                let (of, (seq, _, what)) = shown.message()?;
                (of == talk && is_from_other(what)).then_some(seq)
            })
        });
        last.max().unwrap_or(0)
    }
}
