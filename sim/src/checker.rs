//! The judge: knows what people wrote and what each device showed them, and nothing of how it got there.
//!
//! It shares no code with the machines that it judges. A message is a number that the story gave it and that travels in its
//! text; a conversation is a number too. Every rule is a promise that a person could hold against the gateway.

use std::collections::BTreeMap;
use std::fmt;

/// A person, by number.
pub(crate) type Person = usize;
/// A device, by number, over all people.
pub(crate) type DeviceNo = usize;
/// A conversation, by number.
pub(crate) type Talk = usize;
/// A message, as its text says.
pub(crate) type Note = u64;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub rule: &'static str,
    /// How.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// Most violations that are kept; the first one is what matters.
const VIOLATIONS_MAX: usize = 20;

/// What became of something that a person wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// In the outbox.
    Waits,
    /// The device said: accepted, as this seq.
    Acked(u64),
    /// The device said: refused.
    Refused,
    /// The device lost power before it was synced; nothing was promised.
    Forgotten,
}

#[derive(Debug)]
struct Written {
    device: DeviceNo,
    talk: Talk,
    text: u64,
    fate: Fate,
    /// The seq under which somebody was shown it.
    shown_as: Option<u64>,
}

/// One entry of a device's timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Message {
        talk: Talk,
        seq: u64,
        note: Note,
        from: Person,
        /// Hash of the text.
        text: u64,
    },
    Receipt {
        talk: Talk,
        whose: Person,
        delivered: u64,
        read: u64,
    },
    /// Something that is not judged yet.
    Other,
}

#[derive(Debug, Default)]
struct Device {
    person: Person,
    /// What it shows, with inbox seqs, oldest first.
    shown: Vec<(u64, Shown)>,
}

/// Positions of a person in a conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Positions {
    delivered: u64,
    read: u64,
}

/// Everything that was promised and shown so far.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    members: Vec<Vec<Person>>,
    devices: Vec<Device>,
    written: BTreeMap<Note, Written>,
    /// What each seq of a conversation is, for everybody.
    order: BTreeMap<(Talk, u64), Note>,
    /// What each entry of a person's inbox is, for all devices.
    inboxes: BTreeMap<(Person, u64), Shown>,
    /// How far a device of a person has ever come in a conversation.
    reached: BTreeMap<(Person, Talk), u64>,
    /// The most that a person ever marked as read.
    marked: BTreeMap<(Person, Talk), u64>,
    /// What each device still knows to have been marked on it.
    marked_on: BTreeMap<(DeviceNo, Talk), u64>,
    violations: Vec<Violation>,
}

impl Checker {
    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// A promise was broken.
    pub(crate) fn condemn(&mut self, rule: &'static str, what: impl Into<String>) {
        if self.violations.len() < VIOLATIONS_MAX {
            let what = what.into();
            self.violations.push(Violation { rule, what });
        }
    }

    pub(crate) fn new_talk(&mut self, members: Vec<Person>) -> Talk {
        self.members.push(members);
        self.members.len() - 1
    }

    pub(crate) fn new_device(&mut self, person: Person) -> DeviceNo {
        self.devices.push(Device {
            person,
            shown: Vec::new(),
        });
        self.devices.len() - 1
    }

    /// Somebody wrote a message, and the device took it.
    pub(crate) fn wrote(&mut self, device: DeviceNo, talk: Talk, note: Note, text: u64) {
        let written = Written {
            device,
            talk,
            text,
            fate: Fate::Waits,
            shown_as: None,
        };
        self.written.insert(note, written);
    }

    /// Somebody marked what their device shows as read.
    pub(crate) fn marked_read(&mut self, device: DeviceNo, talk: Talk, seq: u64) {
        let person = self.devices[device].person;
        self.marked_on.insert((device, talk), seq);
        let marked = self.marked.entry((person, talk)).or_default();
        *marked = seq.max(*marked);
    }

    /// A device told its owner that a message is accepted.
    pub(crate) fn acked(&mut self, note: Note, seq: u64) {
        let Some(written) = self.written.get_mut(&note) else {
            return self.condemn("fabrication", format!("note {note} was never written"));
        };
        match written.fate {
            Fate::Acked(before) if before != seq => {
                let what = format!("note {note} was acked as seq {before} and as {seq}");
                return self.condemn("two acks", what);
            }
            Fate::Refused => {
                let what = format!("note {note} was refused and then acked as {seq}");
                return self.condemn("ack after refusal", what);
            }
            Fate::Waits | Fate::Acked(_) | Fate::Forgotten => {}
        }
        written.fate = Fate::Acked(seq);
        let talk = written.talk;
        self.place(talk, seq, note);
    }

    /// A device told its owner that a message is refused.
    pub(crate) fn refused(&mut self, note: Note, why: &str) {
        let Some(written) = self.written.get_mut(&note) else {
            return self.condemn("fabrication", format!("note {note} was never written"));
        };
        let shown_as = written.shown_as;
        written.fate = Fate::Refused;
        if let Some(seq) = shown_as {
            let what = format!("note {note} was shown as seq {seq} and refused: {why}");
            self.condemn("refused but sent", what);
        }
    }

    /// A device lost power: its timeline is this long again, and it knows only these of its waiting messages and of what
    /// was read.
    pub(crate) fn lost_power(
        &mut self,
        device: DeviceNo,
        shown: usize,
        waiting: &[Note],
        read: &[(Talk, u64)],
    ) {
        self.devices[device].shown.truncate(shown);
        self.marked_on.retain(|(of, _), _| *of != device);
        for (talk, seq) in read {
            self.marked_on.insert((device, *talk), *seq);
        }
        for (note, written) in &mut self.written {
            if written.device != device {
                continue;
            }
            match (written.fate, waiting.contains(note)) {
                (Fate::Waits, false) => written.fate = Fate::Forgotten,
                // A refusal is no promise: a device that has forgotten it asks again.
                (Fate::Refused, true) => written.fate = Fate::Waits,
                (Fate::Waits, true) | (Fate::Acked(_) | Fate::Refused | Fate::Forgotten, _) => {}
            }
        }
    }

    /// A device had to drop its timeline and begin anew. In this world nothing is ever too old, so nobody may be asked to.
    pub(crate) fn resynced(&mut self, device: DeviceNo) {
        let shown = std::mem::take(&mut self.devices[device].shown);
        if !shown.is_empty() {
            let what = format!("device {device} had to drop {} entries", shown.len());
            self.condemn("needless resync", what);
        }
    }

    /// A device showed its owner something new.
    pub(crate) fn shown(&mut self, device: DeviceNo, inbox_seq: u64, shown: Shown) {
        let person = self.devices[device].person;
        let last = self.devices[device].shown.last().map_or(0, |(seq, _)| *seq);
        if inbox_seq != last + 1 {
            let what = format!("device {device} showed inbox entry {inbox_seq} after {last}");
            self.condemn("gap in an inbox", what);
        }
        match self.inboxes.get(&(person, inbox_seq)) {
            Some(known) if *known != shown => {
                let what =
                    format!("person {person}, entry {inbox_seq}: {known:?}, and here {shown:?}");
                self.condemn("devices of one user disagree", what);
            }
            Some(_) => {}
            None => {
                self.inboxes.insert((person, inbox_seq), shown);
            }
        }
        match shown {
            Shown::Message {
                talk,
                seq,
                note,
                from,
                text,
            } => self.check_message(device, (talk, seq), note, from, text),
            Shown::Receipt {
                talk,
                whose,
                delivered,
                read,
            } => self.check_receipt(device, talk, whose, Positions { delivered, read }),
            Shown::Other => {}
        }
        self.devices[device].shown.push((inbox_seq, shown));
    }

    fn check_message(
        &mut self,
        device: DeviceNo,
        (talk, seq): (Talk, u64),
        note: Note,
        from: Person,
        text: u64,
    ) {
        let person = self.devices[device].person;
        if !self.is_member(person, talk) {
            let what = format!("person {person} was shown note {note} of talk {talk}");
            self.condemn("misdelivery", what);
        }
        let last = self.last_seq(device, talk);
        if seq <= last {
            let what = format!("device {device} showed seq {seq} of talk {talk} after {last}");
            self.condemn("shown twice", what);
        } else if seq > last + 1 {
            let what = format!("device {device} showed seq {seq} of talk {talk} after {last}");
            self.condemn("gap in a conversation", what);
        }
        let reached = self.reached.entry((person, talk)).or_default();
        *reached = seq.max(*reached);
        let Some(written) = self.written.get_mut(&note) else {
            let what = format!("device {device} showed note {note}, which nobody wrote");
            return self.condemn("fabrication", what);
        };
        if let Some(before) = written.shown_as
            && before != seq
        {
            let what = format!("note {note} is shown as seq {before} and as seq {seq}");
            return self.condemn("doubled", what);
        }
        let (writer, refused) = (written.device, written.fate == Fate::Refused);
        let faithful = written.talk == talk && written.text == text;
        written.shown_as = Some(seq);
        if !faithful || self.devices[writer].person != from {
            let what = format!("note {note} is shown in talk {talk} from person {from}");
            self.condemn("altered", what);
        }
        if refused {
            let what = format!("note {note} was refused and is shown as seq {seq}");
            self.condemn("refused but sent", what);
        }
        self.place(talk, seq, note);
    }

    /// Somebody says that a seq of a conversation is a certain message.
    fn place(&mut self, talk: Talk, seq: u64, note: Note) {
        if let Some(known) = self.order.insert((talk, seq), note)
            && known != note
        {
            let what = format!("seq {seq} of talk {talk} is note {known} and note {note}");
            self.condemn("order differs", what);
        }
    }

    fn check_receipt(&mut self, device: DeviceNo, talk: Talk, whose: Person, now: Positions) {
        let person = self.devices[device].person;
        if !self.is_member(person, talk) || !self.is_member(whose, talk) {
            let what = format!("person {person} was shown how far {whose} is in talk {talk}");
            self.condemn("misdelivery", what);
        }
        let before = self.positions(device, talk, whose);
        if now.delivered < before.delivered || now.read < before.read || now.read > now.delivered {
            let what = format!("device {device}, talk {talk}, {whose}: {before:?}, then {now:?}");
            self.condemn("receipts go back", what);
        }
        let reached = self.reached.get(&(whose, talk)).copied().unwrap_or(0);
        let marked = self.marked.get(&(whose, talk)).copied().unwrap_or(0);
        if now.delivered > reached || now.read > marked {
            let what = format!(
                "{whose} in talk {talk} has {now:?}, but was shown {reached} and marked {marked}"
            );
            self.condemn("false receipt", what);
        }
    }

    fn is_member(&self, person: Person, talk: Talk) -> bool {
        self.members
            .get(talk)
            .is_some_and(|members| members.contains(&person))
    }

    /// The newest message of a conversation that a device shows; 0: none.
    pub(crate) fn last_seq(&self, device: DeviceNo, talk: Talk) -> u64 {
        let mut newest_first = self.devices[device].shown.iter().rev();
        newest_first
            .find_map(|(_, shown)| match shown {
                Shown::Message { talk: of, seq, .. } if *of == talk => Some(*seq),
                Shown::Message { .. } | Shown::Receipt { .. } | Shown::Other => None,
            })
            .unwrap_or(0)
    }

    fn positions(&self, device: DeviceNo, talk: Talk, whose: Person) -> Positions {
        let mut newest_first = self.devices[device].shown.iter().rev();
        newest_first
            .find_map(|(_, shown)| match shown {
                Shown::Receipt {
                    talk: of,
                    whose: who,
                    delivered,
                    read,
                } if *of == talk && *who == whose => Some(Positions {
                    delivered: *delivered,
                    read: *read,
                }),
                Shown::Message { .. } | Shown::Receipt { .. } | Shown::Other => None,
            })
            .unwrap_or_default()
    }

    /// Everything has healed and come to rest: what was promised has to be there, for everybody.
    pub(crate) fn at_rest(&mut self, history: impl Fn(Talk, u64) -> Option<Note>) {
        self.judge_fates(history);
        self.judge_order_of_senders();
        self.judge_convergence();
    }

    fn judge_fates(&mut self, history: impl Fn(Talk, u64) -> Option<Note>) {
        let mut wrong = Vec::new();
        for (note, written) in &self.written {
            let seq = match (written.fate, written.shown_as) {
                (Fate::Waits, _) => {
                    wrong.push(("never answered", format!("note {note}")));
                    continue;
                }
                (Fate::Acked(seq), _) => seq,
                // Sent before the power was lost: it is there, or it is not, but not half.
                (Fate::Forgotten, Some(seq)) => seq,
                (Fate::Forgotten, None) | (Fate::Refused, _) => continue,
            };
            if written.shown_as != Some(seq) {
                let shown_as = written.shown_as;
                let what = format!("note {note} was acked as seq {seq}, shown as {shown_as:?}");
                wrong.push(("acked and lost", what));
            }
            let kept = history(written.talk, seq);
            if kept != Some(*note) {
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

    fn judge_convergence(&mut self) {
        let mut wrong = Vec::new();
        for (number, device) in self.devices.iter().enumerate() {
            let entries = self
                .inboxes
                .range((device.person, 0)..(device.person + 1, 0));
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
                let head = self.order.range((talk, 0)..(talk + 1, 0)).count() as u64;
                let has = self.last_seq(number, talk);
                if has != head {
                    let what = format!("device {number} has {has} of {head} of talk {talk}");
                    wrong.push(("a member is behind", what));
                }
                for whose in members {
                    let reached = self.reached.get(&(*whose, talk)).copied().unwrap_or(0);
                    let marked = self.known_as_read(*whose, talk);
                    let has = self.positions(number, talk, *whose);
                    if has.read < marked || has.delivered < self.due(*whose, talk, reached) {
                        let what = format!(
                            "device {number} knows {has:?} of {whose} in talk {talk}; true are {reached} and {marked}"
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

    /// How far a person must be known to have received: up to the last message of somebody else.
    fn due(&self, whose: Person, talk: Talk, reached: u64) -> u64 {
        let mut newest_first = self.order.range((talk, 0)..=(talk, reached)).rev();
        newest_first
            .find(|(_, note)| {
                let writer = self.written.get(note).map(|written| written.device);
                writer.is_some_and(|device| self.devices[device].person != whose)
            })
            .map_or(0, |((_, seq), _)| *seq)
    }
}
