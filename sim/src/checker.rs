//! The judge: knows what people wrote and what each device showed them, and nothing of how it got there.
//!
//! It shares no code with the machines that it judges. A message is a number that the story gave it and that travels in its
//! text; a conversation is a number too. Every rule is a promise that a person could hold against the gateway.

mod change;
mod group;
mod presence;
mod rest;
mod retention;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use self::change::Ask;
pub(crate) use self::change::{AskNo, Wish};
pub(crate) use self::group::{ADMIN, MEMBER, OWNER};
use self::group::{Group, Stand};
use self::retention::Kept as KeptInInboxes;

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

/// Different signs that people put on messages.
pub(crate) const SIGNS: u8 = 2;

/// What a message is, whatever becomes of its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// What somebody wrote.
    Words(Note),
    /// Something that happened in the conversation, as its sender did it.
    Note(Happened),
}

/// What happened in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happened {
    Created,
    Joined,
    Left,
    Invited(Person),
    Removed(Person),
    Role(Person, u8),
    /// Another title or topic.
    Named,
    /// For how many milliseconds messages are kept from here on; 0: for good.
    Timer(u64),
    Pulled,
}

/// What a message says now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    /// Words; the hash of them.
    Words(u64),
    /// Nothing any more.
    Nothing,
    /// It is a note.
    Note,
}

/// A message with all that became of it, as a store or a device keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) what: What,
    pub(crate) from: Person,
    pub(crate) says: Says,
    pub(crate) version: u32,
    /// Ascending by person.
    pub(crate) signs: BTreeSet<(Person, u8)>,
    /// Whether it has a time at which it goes.
    pub(crate) is_timed: bool,
    /// Whether that time is over.
    pub(crate) is_over: bool,
}

/// What there is when everything has come to rest.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// For each conversation its messages, from the first.
    pub(crate) history: Vec<Vec<Kept>>,
    /// For each device what it keeps.
    pub(crate) kept: BTreeMap<DeviceNo, BTreeMap<(Talk, u64), Kept>>,
    /// The clock was ahead for a while: messages were shown as gone whose time was not over.
    pub(crate) clock_was_ahead: bool,
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
    pub(super) text: u64,
    /// When.
    at: u64,
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
        what: What,
        from: Person,
    },
    Receipt {
        talk: Talk,
        whose: Person,
        delivered: u64,
        read: u64,
    },
    /// Something happened to a message.
    Changed {
        talk: Talk,
        seq: u64,
        version: u32,
        by: Person,
        /// Set for signs: which, and whether it is there now.
        sign: Option<(u8, bool)>,
    },
    /// Somebody wants them in a group.
    Invited { talk: Talk, by: Person },
}

impl Shown {
    /// The message that it is: where, and its seq, who it is from, and what it is.
    pub(super) fn message(&self) -> Option<(Talk, (u64, Person, What))> {
        match *self {
            Self::Message {
                talk,
                seq,
                what,
                from,
            } => Some((talk, (seq, from, what))),
            Self::Receipt { .. } | Self::Changed { .. } | Self::Invited { .. } => None,
        }
    }
}

#[derive(Debug, Default)]
struct Device {
    /// Since when it has no access any more.
    revoked_at: Option<u64>,
    /// It was thrown out: nothing is owed to it.
    is_gone: bool,
    person: Person,
    /// The inbox seq after which its timeline begins.
    begun: u64,
    /// What it shows, with inbox seqs, oldest first.
    shown: Vec<(u64, Shown)>,
    /// Timelines that it dropped to begin anew, with where they began: a loss of power may bring them back.
    dropped: Vec<(u64, Vec<(u64, Shown)>)>,
}

impl Device {
    /// Whether its timeline begins in the middle of the inbox: what was before it has from histories.
    fn begins_late(&self) -> bool {
        self.begun > 0
    }
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
    order: BTreeMap<(Talk, u64), What>,
    groups: BTreeMap<Talk, Group>,
    stands: BTreeMap<(DeviceNo, Talk), Stand>,
    /// What a person has of a group that did not come through the inbox.
    fetched: BTreeSet<(Person, Talk, u64)>,
    asks: Vec<Ask>,
    /// When a person had an account for sure.
    signed_in: BTreeMap<Person, u64>,
    /// Counts what happens, so that two things can be told to have followed each other.
    clock: u64,

    /// What inboxes have to keep.
    kept: KeptInInboxes,
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
            ..Device::default()
        });
        self.devices.len() - 1
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn persons(&self) -> Person {
        let persons = self.devices.iter().map(|device| device.person + 1);
        persons.max().unwrap_or(0)
    }

    /// A device was let in, over a connection that it began at `began` (see [`Self::begins`]).
    pub(crate) fn welcomed(&mut self, device: DeviceNo, began: u64) {
        let person = self.devices[device].person;
        let now = self.tick();
        self.signed_in.entry(person).or_insert(now);
        if let Some(revoked) = self.devices[device].revoked_at
            && began > revoked
        {
            let what = format!("device {device} was let in");
            self.condemn("a revoked device comes back", what);
        }
    }

    /// A device begins to connect; the time of it.
    pub(crate) fn begins(&mut self) -> u64 {
        self.tick()
    }

    /// A device was told that it has no access any more.
    pub(crate) fn thrown_out(&mut self, device: DeviceNo) {
        if !self.may_be_revoked(device) {
            let what = format!("device {device} was thrown out, and nobody asked");
            self.condemn("turned away", what);
        }
        self.devices[device].is_gone = true;
        let waits = self.written.values_mut().filter(|it| it.device == device);
        for written in waits.filter(|written| written.fate == Fate::Waits) {
            written.fate = Fate::Forgotten;
        }
        self.marked_on.retain(|(of, _), _| *of != device);
    }

    /// Somebody wrote a message, and the device took it.
    pub(crate) fn wrote(&mut self, device: DeviceNo, talk: Talk, note: Note, text: u64) {
        let at = self.tick();
        let written = Written {
            device,
            talk,
            text,
            at,
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
        self.place(talk, seq, What::Words(note));
    }

    /// A device told its owner that a message is refused.
    pub(crate) fn refused(&mut self, note: Note, why: &str) {
        let Some(written) = self.written.get_mut(&note) else {
            return self.condemn("fabrication", format!("note {note} was never written"));
        };
        let (shown_as, device, talk, at) =
            (written.shown_as, written.device, written.talk, written.at);
        written.fate = Fate::Refused;
        let cause = match why {
            "UNKNOWN_USER" => {
                // With it goes everything that waits behind the message for which the conversation was to be opened.
                let mut before = self.written.values();
                let first = before.find(|it| (it.device, it.talk) == (device, talk));
                !self.is_known_to_all(talk, first.map_or(at, |first| first.at))
            }
            "BLOCKED" => {
                let from = self.devices[device].person;
                let members = self.members[talk].iter();
                members
                    .into_iter()
                    .any(|by| self.may_have_blocked(*by, from))
            }
            "NOT_A_MEMBER" | "UNKNOWN_CONVERSATION" => self.groups.contains_key(&talk),
            _ => false,
        };
        if !cause {
            let what = format!("note {note} was refused: {why}");
            self.condemn("refused without cause", what);
        }
        if let Some(seq) = shown_as {
            let what = format!("note {note} was shown as seq {seq} and refused: {why}");
            self.condemn("refused but sent", what);
        }
    }

    /// Whether every member of a direct conversation had an account before a time.
    fn is_known_to_all(&self, talk: Talk, at: u64) -> bool {
        let known = |member: &Person| self.signed_in.get(member).is_some_and(|since| *since < at);
        self.members[talk].iter().all(known)
    }

    /// A device lost power: it has this one of its timelines, which is this long again, and it knows only these of its waiting messages and of what
    /// was read.
    pub(crate) fn lost_power(
        &mut self,
        device: DeviceNo,
        (timeline, shown): (usize, usize),
        waiting: &[Note],
        read: &[(Talk, u64)],
    ) {
        let it = &mut self.devices[device];
        while it.dropped.len() > timeline
            && let Some((begun, shown)) = it.dropped.pop()
        {
            (it.begun, it.shown) = (begun, shown);
        }
        it.shown.truncate(shown);
        self.marked_on.retain(|(of, _), _| *of != device);
        for (talk, seq) in read {
            self.marked_on.insert((device, *talk), *seq);
        }
        let mut forgotten = Vec::new();
        for (note, written) in &mut self.written {
            if written.device != device {
                continue;
            }
            match (written.fate, waiting.contains(note)) {
                (Fate::Waits, false) => written.fate = Fate::Forgotten,
                // It was told to its owner, who may have written it again.
                (Fate::Refused, true) => forgotten.push(*note),
                (Fate::Waits, true)
                | (Fate::Refused, false)
                | (Fate::Acked(_) | Fate::Forgotten, _) => {}
            }
        }
        self.stand_again(device);
        for note in forgotten {
            let what = format!("device {device} has forgotten that note {note} was refused");
            self.condemn("a refusal is forgotten", what);
        }
    }

    /// A device showed its owner something new.
    pub(crate) fn shown(&mut self, device: DeviceNo, inbox_seq: u64, shown: Shown, says: Says) {
        let person = self.devices[device].person;
        let last = self.last_shown(device);
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
                what,
                from,
            } => self.check_message(device, talk, (seq, from, what), says),
            Shown::Receipt {
                talk,
                whose,
                delivered,
                read,
            } => self.check_receipt(device, talk, whose, Positions { delivered, read }),
            Shown::Changed {
                talk, seq, version, ..
            } => self.check_change(device, talk, seq, version),
            Shown::Invited { talk, by } => {
                if !self.groups.contains_key(&talk) || by == person {
                    let what = format!("person {person} was invited to talk {talk} by {by}");
                    self.condemn("misdelivery", what);
                }
            }
        }
        self.devices[device].shown.push((inbox_seq, shown));
    }

    fn check_message(
        &mut self,
        device: DeviceNo,
        talk: Talk,
        message: (u64, Person, What),
        says: Says,
    ) {
        let (seq, from, what) = message;
        let person = self.devices[device].person;
        if self.groups.contains_key(&talk) {
            self.check_stand(device, talk, message);
        } else if !self.is_member(person, talk) {
            let what = format!("person {person} was shown {what:?} of talk {talk}");
            self.condemn("misdelivery", what);
        } else {
            let last = match self.last_seq(device, talk) {
                0 if self.devices[device].begins_late() => seq - 1,
                last => last,
            };
            if seq <= last {
                let what = format!("device {device} showed seq {seq} of talk {talk} after {last}");
                self.condemn("shown twice", what);
            } else if seq > last + 1 {
                let what = format!("device {device} showed seq {seq} of talk {talk} after {last}");
                self.condemn("gap in a conversation", what);
            }
        }
        let reached = self.reached.entry((person, talk)).or_default();
        *reached = seq.max(*reached);
        self.place(talk, seq, what);
        self.check_source(talk, message);
        let What::Words(note) = what else { return };
        let Some(written) = self.written.get(&note) else {
            return;
        };
        let (at, text) = (written.at, written.text);
        let is_edit = |print| {
            let wish = Wish::Edit(talk, seq, print);
            self.asks.iter().any(|ask| ask.wish() == wish)
        };
        if let Says::Words(print) = says
            && print != text
            && !is_edit(print)
        {
            let what = format!("note {note} is shown in talk {talk} with other words");
            self.condemn("altered", what);
        }
        if self.devices[device]
            .revoked_at
            .is_some_and(|since| since < at)
        {
            let what = format!("device {device} was shown note {note}");
            self.condemn("a revoked device is told", what);
        }
        if !self.groups.contains_key(&talk) && person != from && self.has_blocked(person, from, at)
        {
            let what = format!("person {person} was shown note {note} of {from}");
            self.condemn("a blocked user is heard", what);
        }
    }

    /// A message is what its writer wrote, once, and was not refused.
    fn check_source(&mut self, talk: Talk, (seq, from, what): (u64, Person, What)) {
        let What::Words(note) = what else { return };
        let Some(written) = self.written.get_mut(&note) else {
            let what = format!("seq {seq} of talk {talk} is note {note}, which nobody wrote");
            return self.condemn("fabrication", what);
        };
        if let Some(before) = written.shown_as
            && before != seq
        {
            let what = format!("note {note} is shown as seq {before} and as seq {seq}");
            return self.condemn("doubled", what);
        }
        let (writer, refused) = (written.device, written.fate == Fate::Refused);
        let here = written.talk == talk;
        written.shown_as = Some(seq);
        if !here || self.devices[writer].person != from {
            let what = format!("note {note} is shown in talk {talk} from person {from}");
            self.condemn("altered", what);
        }
        if refused {
            let what = format!("note {note} was refused and is shown as seq {seq}");
            self.condemn("refused but sent", what);
        }
    }

    /// In a direct conversation everybody gets every change of a message, in its order.
    fn check_change(&mut self, device: DeviceNo, talk: Talk, seq: u64, version: u32) {
        if self.groups.contains_key(&talk) {
            return;
        }
        let person = self.devices[device].person;
        if !self.is_member(person, talk) {
            let what = format!("person {person} was shown a change in talk {talk}");
            return self.condemn("misdelivery", what);
        }
        let mut newest_first = self.devices[device].shown.iter().rev();
        let before = newest_first.find_map(|(_, shown)| match shown {
            Shown::Changed {
                talk: of,
                seq: at,
                version,
                ..
            } if (*of, *at) == (talk, seq) => Some(*version),
            Shown::Message { .. }
            | Shown::Receipt { .. }
            | Shown::Changed { .. }
            | Shown::Invited { .. } => None,
        });
        if before.is_none() && self.has_from_history(device, talk, seq) {
            return;
        }
        let before = before.unwrap_or(0);
        if version != before + 1 {
            let what = format!(
                "device {device} showed version {version} of seq {seq} of talk {talk} after {before}"
            );
            self.condemn("gap in the changes of a message", what);
        }
    }

    /// Somebody says that a seq of a conversation is a certain message.
    fn place(&mut self, talk: Talk, seq: u64, what: What) {
        if let Some(known) = self.order.insert((talk, seq), what)
            && known != what
        {
            let what = format!("seq {seq} of talk {talk} is {known:?} and {what:?}");
            self.condemn("order differs", what);
        }
    }

    fn check_receipt(&mut self, device: DeviceNo, talk: Talk, whose: Person, now: Positions) {
        let person = self.devices[device].person;
        let is_group = self.groups.contains_key(&talk);
        let both = self.is_member(person, talk) && self.is_member(whose, talk);
        if !is_group && !both {
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
                Shown::Message { .. }
                | Shown::Receipt { .. }
                | Shown::Changed { .. }
                | Shown::Invited { .. } => None,
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
                Shown::Message { .. }
                | Shown::Receipt { .. }
                | Shown::Changed { .. }
                | Shown::Invited { .. } => None,
            })
            .unwrap_or_default()
    }
}
