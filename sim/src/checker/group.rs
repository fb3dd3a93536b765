//! Judges groups: who was in one is what its notes say in their order, and everybody gets what was said while they were in.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checker, DeviceNo, Happened, Kept, Person, Talk, What};

/// Roles, ascending in power.
pub(crate) const MEMBER: u8 = 1;
pub(crate) const ADMIN: u8 = 2;
pub(crate) const OWNER: u8 = 3;

/// What people chose when they made a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub(super) from_start: bool,
    pub(super) open: bool,
    /// Members up to which it is pushed.
    pub(super) fan_out_max: usize,
}

/// Where a person stands in a group, by what one device of theirs was shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stand {
    inside: bool,
    pulled: bool,
    last: u64,
}

/// What the notes of a group say.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    /// For each person the seqs of joining and of leaving, in order.
    stays: BTreeMap<Person, Vec<(u64, Option<u64>)>>,
    /// For each person the notes of invitations that were declined or taken back.
    declined: BTreeMap<Person, Vec<u64>>,
    roles: BTreeMap<Person, u8>,
    invited: BTreeSet<Person>,
    pub(super) pulled: Option<u64>,
}

/// Whether a note says that a person comes, and whether it says that they go.
fn moves(person: Person, from: Person, what: What) -> (bool, bool) {
    match what {
        What::Note(Happened::Created | Happened::Joined) => (from == person, false),
        What::Note(Happened::Left) => (false, from == person),
        What::Note(Happened::Removed(who)) => (false, who == person),
        What::Note(_) | What::Words(_) => (false, false),
    }
}

impl Stand {
    /// Takes the next message of the inbox. False: it has no place there.
    fn take(&mut self, person: Person, (seq, from, what): (u64, Person, What)) -> bool {
        let (enters, parts) = moves(person, from, what);
        let inboxes = self.inside && !self.pulled;
        let follows = inboxes && seq == self.last + 1;
        // Who entered when it was pulled gets nothing between that and the going.
        let alone = seq > self.last && ((!inboxes && enters) || parts);
        self.last = seq;
        self.inside = (self.inside || enters) && !parts;
        self.pulled |= what == What::Note(Happened::Pulled);
        follows || alone
    }
}

impl Timeline {
    fn is_in(&self, person: Person) -> bool {
        self.roles.contains_key(&person)
    }

    fn role(&self, person: Person) -> u8 {
        self.roles.get(&person).copied().unwrap_or(0)
    }

    fn enter(&mut self, person: Person, seq: u64, role: u8) {
        self.invited.remove(&person);
        self.roles.insert(person, role);
        self.stays.entry(person).or_default().push((seq, None));
    }

    fn part(&mut self, person: Person, seq: u64) {
        if self.invited.remove(&person) {
            self.declined.entry(person).or_default().push(seq);
        } else if self.roles.remove(&person).is_some()
            && let Some((_, left)) = self.stays.entry(person).or_default().last_mut()
        {
            *left = Some(seq);
        }
    }

    /// Takes the next message. False: nobody may do that as things stand.
    fn take(&mut self, group: Group, seq: u64, from: Person, what: What) -> bool {
        let (role, is_in) = (self.role(from), self.is_in(from));
        let What::Note(note) = what else {
            return is_in;
        };
        match note {
            Happened::Created => {
                self.enter(from, seq, OWNER);
                seq == 1
            }
            Happened::Joined => {
                let may = !is_in && (group.open || self.invited.contains(&from));
                self.enter(from, seq, MEMBER);
                may
            }
            Happened::Left => {
                let may = match role {
                    OWNER => self.roles.len() == 1,
                    _ => is_in || self.invited.contains(&from),
                };
                self.part(from, seq);
                may
            }
            Happened::Invited(who) => {
                let may = role >= ADMIN && !self.is_in(who);
                may && self.invited.insert(who)
            }
            Happened::Removed(who) => {
                let theirs = self.role(who);
                let there = theirs > 0 || self.invited.contains(&who);
                self.part(who, seq);
                role >= ADMIN && there && theirs < role
            }
            Happened::Role(who, now) => {
                let may = role == OWNER && self.is_in(who) && who != from;
                if now == OWNER {
                    self.roles.insert(from, ADMIN);
                }
                self.roles.insert(who, now);
                may
            }
            Happened::Named | Happened::Timer(_) => role >= ADMIN,
            Happened::Pulled => {
                let is_large = self.roles.len() > group.fan_out_max;
                self.pulled.replace(seq).is_none() && is_large
            }
        }
    }

    /// What of the group the inbox of a person holds.
    fn in_inbox(&self, person: Person, head: u64) -> BTreeSet<u64> {
        let pushed = self.pulled.unwrap_or(head);
        let stays = self.stays.get(&person).into_iter().flatten();
        let pushed = stays.flat_map(|(joined, left)| {
            let last = left.unwrap_or(head);
            // Of a pulled one the note of the entering, too.
            let entered = (*joined > pushed).then_some(*joined);
            (*joined..=last.min(pushed)).chain(entered).chain(*left)
        });
        let declined = self.declined.get(&person).into_iter().flatten();
        pushed.chain(declined.copied()).collect()
    }

    /// Whether a person may ever have seen a message.
    fn may_see(&self, group: Group, person: Person, seq: u64) -> bool {
        let mut stays = self.stays.get(&person).into_iter().flatten();
        stays.any(|(joined, left)| {
            let after = group.from_start || seq >= *joined;
            after && left.is_none_or(|left| seq <= left)
        })
    }

    /// The joining of a stay that is not over.
    pub(super) fn stays_since(&self, person: Person) -> Option<u64> {
        let (joined, left) = self.stays.get(&person)?.last()?;
        left.is_none().then_some(*joined)
    }
}

impl Checker {
    /// People may begin to talk in a group.
    pub(crate) fn new_group(&mut self, from_start: bool, open: bool, fan_out_max: u32) -> Talk {
        let talk = self.new_talk(Vec::new());
        let fan_out_max = fan_out_max as usize;
        let group = Group {
            from_start,
            open,
            fan_out_max,
        };
        self.groups.insert(talk, group);
        talk
    }

    /// A message of a group is the next one of an inbox.
    pub(super) fn check_stand(
        &mut self,
        device: DeviceNo,
        talk: Talk,
        message: (u64, Person, What),
    ) {
        let person = self.devices[device].person;
        let begins_late = self.devices[device].begins_late();
        let stand = self.stands.entry((device, talk)).or_default();
        let before = *stand;
        let follows = stand.take(person, message);
        // How it was in the group before its events began, the histories say.
        let follows = follows || (begins_late && before.last < message.0);
        if !follows {
            let (seq, from, what) = message;
            let what = format!(
                "device {device} of {person} showed seq {seq} of group {talk} ({what:?} of {from}) after {before:?}"
            );
            self.condemn("not the next of its group", what);
        }
    }

    /// Derives where a device stands from what it shows, after it has lost something.
    pub(super) fn stand_again(&mut self, device: DeviceNo) {
        self.stands.retain(|(of, _), _| *of != device);
        let person = self.devices[device].person;
        for (_, shown) in &self.devices[device].shown {
            if let Some((talk, message)) = shown.message()
                && self.groups.contains_key(&talk)
            {
                let stand = self.stands.entry((device, talk)).or_default();
                stand.take(person, message);
            }
        }
    }

    /// A device has a message of a group that did not come through its inbox: a notice, or a page of history.
    pub(crate) fn fetched(
        &mut self,
        device: DeviceNo,
        talk: Talk,
        (seq, from, what): (u64, Person, What),
    ) {
        self.place(talk, seq, what);
        self.check_source(talk, (seq, from, what));
        let person = self.devices[device].person;
        let reached = self.reached.entry((person, talk)).or_default();
        *reached = seq.max(*reached);
        if self.groups.contains_key(&talk) {
            self.fetched.insert((person, talk, seq));
        } else if !self.is_member(person, talk) {
            let what = format!("person {person} got seq {seq} of talk {talk}");
            self.condemn("misdelivery", what);
        }
    }

    /// What the notes say of a group; a note that nobody may write is a violation.
    pub(super) fn timeline(&mut self, talk: Talk, history: &[Kept]) -> Timeline {
        let mut timeline = Timeline::default();
        let Some(group) = self.groups.get(&talk).copied() else {
            return timeline;
        };
        let mut wrong = Vec::new();
        for (at, message) in history.iter().enumerate() {
            let seq = at as u64 + 1;
            if !timeline.take(group, seq, message.from, message.what) {
                wrong.push(format!("{:?}, seq {seq} of group {talk}", message.what));
            }
        }
        for what in wrong {
            self.condemn("nobody may do that", what);
        }
        timeline
    }

    /// At rest: every inbox holds exactly what was said while its owner was in the group, and nobody else read anything.
    pub(super) fn judge_group(&mut self, talk: Talk, timeline: &Timeline, head: u64) {
        let Some(group) = self.groups.get(&talk).copied() else {
            return;
        };
        let mut wrong = Vec::new();
        for (number, device) in self.devices.iter().enumerate() {
            if device.is_gone {
                continue;
            }
            let due = timeline.in_inbox(device.person, head);
            let messages = device.shown.iter().filter_map(|(_, shown)| shown.message());
            let has = messages.filter(|(of, _)| *of == talk);
            let has: BTreeSet<u64> = has.map(|(_, (seq, ..))| seq).collect();
            // What came before its events began it has from the history: see `judge_devices`.
            let first = has.first().copied().unwrap_or(u64::MAX);
            let late = device.begins_late();
            for seq in due.difference(&has).filter(|seq| !late || **seq > first) {
                wrong.push((
                    "a member is behind",
                    format!("device {number} lacks seq {seq} of group {talk}"),
                ));
            }
            for seq in has.difference(&due) {
                wrong.push((
                    "misdelivery",
                    format!("device {number} has seq {seq} of group {talk}"),
                ));
            }
        }
        for (person, of, seq) in &self.fetched {
            if *of == talk && !timeline.may_see(group, *person, *seq) {
                let what = format!("person {person} has read seq {seq} of group {talk}");
                wrong.push(("misdelivery", what));
            }
        }
        for (rule, what) in wrong {
            self.condemn(rule, what);
        }
    }
}
