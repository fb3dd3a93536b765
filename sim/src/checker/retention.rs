//! Judges what inboxes keep: nothing goes before its time, and whoever misses something of it is told to begin anew.

use std::collections::BTreeMap;

use super::{Checker, DeviceNo, Person};

/// What is known of inboxes.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The fewest events, and the shortest time in milliseconds, that any inbox was ever told to keep.
    least: Option<(u64, u64)>,
    /// When each event came, by the stamp of its record.
    came: BTreeMap<(Person, u64), u64>,
    inboxes: BTreeMap<Person, Inbox>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Inbox {
    head: u64,
    /// The latest stamp of an event.
    latest: u64,
    /// How many events were to be kept when the last one came.
    events: Option<u64>,
}

impl Kept {
    /// Whether an event may be gone by now: as many as are kept came after it, or its time is over.
    fn may_be_gone(&self, person: Person, seq: u64) -> bool {
        let (Some((events, ms)), Some(inbox)) = (self.least, self.inboxes.get(&person)) else {
            return false;
        };
        let Some(came) = self.came.get(&(person, seq)) else {
            return false;
        };
        seq < inbox.head && (inbox.head - seq >= events || inbox.latest.saturating_sub(*came) >= ms)
    }
}

impl Checker {
    /// Some inboxes may keep no more than this from now on.
    pub(crate) fn may_keep(&mut self, events: u64, ms: u64) {
        let least = self.kept.least.unwrap_or((u64::MAX, u64::MAX));
        self.kept.least = Some((least.0.min(events), least.1.min(ms)));
    }

    /// An inbox has an event, by a record of this time; `keeps`: how many its shard keeps now.
    pub(crate) fn came(&mut self, person: Person, seq: u64, stamp: u64, keeps: Option<u64>) {
        self.kept.came.insert((person, seq), stamp);
        let inbox = self.kept.inboxes.entry(person).or_default();
        if seq >= inbox.head {
            inbox.events = keeps;
        }
        inbox.head = inbox.head.max(seq);
        inbox.latest = inbox.latest.max(stamp);
    }

    /// An event was taken out of an inbox.
    pub(crate) fn trimmed(&mut self, person: Person, seq: u64) {
        if !self.kept.may_be_gone(person, seq) {
            let what = format!(
                "entry {seq} of {person}: {:?}, kept are {:?}",
                self.kept.inboxes.get(&person),
                self.kept.least
            );
            self.condemn("gone before its time", what);
        }
    }

    /// A new device is let in; its events begin after this entry of the inbox.
    pub(crate) fn begins_at(&mut self, device: DeviceNo, begun: u64) {
        let it = &mut self.devices[device];
        it.begun = begun;
        let person = it.person;
        if begun > 0 && !self.kept.may_be_gone(person, 1) {
            let what = format!("device {device} begins at {begun}, and everything is kept");
            self.condemn("a new device lacks events", what);
        }
    }

    /// A device had to drop its timeline and begins anew after this entry. Nobody may be asked to whose next event must be
    /// there; `strange`: it came from another life, or from behind the end.
    pub(crate) fn resynced(&mut self, device: DeviceNo, begun: u64, strange: bool) {
        let (person, last) = (self.devices[device].person, self.last_shown(device));
        if !strange && !self.kept.may_be_gone(person, last + 1) {
            let what = format!("device {device} had to drop what it had up to entry {last}");
            self.condemn("needless resync", what);
        }
        let it = &mut self.devices[device];
        let before = std::mem::replace(&mut it.begun, begun);
        let shown = std::mem::take(&mut it.shown);
        it.dropped.push((before, shown));
        self.marked_on.retain(|(of, _), _| *of != device);
        self.stand_again(device);
    }

    /// The last entry of the inbox that a device has shown, or after which it began.
    pub(super) fn last_shown(&self, device: DeviceNo) -> u64 {
        let it = &self.devices[device];
        it.shown.last().map_or(it.begun, |(seq, _)| *seq)
    }

    /// Whether a device can have a message from a page of history only: its events began after it.
    pub(super) fn has_from_history(&self, device: DeviceNo, talk: usize, seq: u64) -> bool {
        let it = &self.devices[device];
        let mut messages = it.shown.iter().filter_map(|(_, shown)| shown.message());
        it.begins_late() && !messages.any(|(of, (at, ..))| (of, at) == (talk, seq))
    }

    /// At rest: everything above the floor is there, nothing is below it, and the floor is where it has to be.
    pub(crate) fn judge_inbox(&mut self, person: Person, (floor, head): (u64, u64), rows: &[u64]) {
        let above = rows.iter().copied().filter(|seq| *seq > floor);
        if !above.eq(floor + 1..=head) {
            let what = format!("person {person}: above {floor} are {rows:?} of {head}");
            self.condemn("a hole in an inbox", what);
        }
        if floor > 0 && !self.kept.may_be_gone(person, floor) {
            let what = format!("person {person}: the floor is {floor}, the head {head}");
            self.condemn("gone before its time", what);
        }
        let events = self.kept.inboxes.get(&person).and_then(|it| it.events);
        if events.is_some_and(|events| head - floor > events.max(1)) {
            let what = format!("person {person}: {floor} to {head}, to be kept are {events:?}");
            self.condemn("more is kept than was said", what);
        }
    }
}
