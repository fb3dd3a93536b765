//! Which events an inbox keeps: decided by their number and by the stamps of records, never by a clock.

use quipu_protocol::id::{Cursor, InboxSeq, TimestampMs};

use crate::row::Inbox;

/// Parts into which the time that events are kept is cut. What came within one part goes together, so that an inbox has to
/// remember few times.
const AGE_PARTS: u64 = 4;
/// Ages that an inbox remembers: about two for each part, and room for a change of the settings. At the bound the newest one
/// takes in more, and events are kept longer.
const AGES_MAX: usize = 4 * AGE_PARTS as usize;
/// Rows that one new event takes out of its inbox. More than one, so that a lower limit is reached some time; few, so that a
/// message to many members makes a bounded number of rows.
pub const TRIM_ROWS_MAX: u64 = 4;

/// What the inboxes of a shard keep. It comes to the shard through its log, so that a replay does not depend on settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Newest events of each inbox, at least 1.
    pub events: u64,
    /// How long, in milliseconds, at least 1. Judged when the next event comes: an inbox that gets none keeps what it has.
    pub ms: u64,
}

/// How old events of an inbox are at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age {
    /// Events up to this one
    pub last: InboxSeq,
    /// came at this time or before, by the stamps of their records.
    pub at: TimestampMs,
}

impl Retention {
    /// Both limits, raised to 1.
    pub fn new(events: u64, ms: u64) -> Self {
        Self {
            events: events.max(1),
            ms: ms.max(1),
        }
    }

    fn part(self) -> u64 {
        self.ms.div_ceil(AGE_PARTS)
    }
}

impl Inbox {
    /// Whether every event after the cursor is kept, so that a device with this cursor can go on.
    pub fn keeps_after(&self, cursor: Cursor) -> bool {
        cursor >= self.floor
    }

    /// Where events begin for a device that has none that count: at the first while all are kept, else at the end, because
    /// it has to ask for conversations and histories in any case.
    pub fn start(&self) -> Cursor {
        match self.floor {
            Cursor::START => Cursor::START,
            Cursor(_) => self.head.map_or(Cursor::START, InboxSeq::cursor),
        }
    }

    /// Judges anew what is kept, now that the newest event has come.
    pub(crate) fn age(&mut self, keep: Retention, now: TimestampMs) {
        let Some(head) = self.head else { return };
        self.note_age(keep, head, now);
        let over = |age: &Age| now.0.saturating_sub(age.at.0) >= keep.ms;
        let aged = self.ages.iter().take_while(|age| over(age)).count();
        let old = self.ages.drain(..aged).next_back();
        let by_age = old.map_or(0, |age| age.last.get());
        let by_count = head.get().saturating_sub(keep.events);
        // The newest one stays, whatever the stamps say.
        let floor = by_age.max(by_count).min(head.get() - 1);
        self.floor = self.floor.max(Cursor(floor));
    }

    /// The newest age takes in the new event until a part of the time is over since the one before it.
    fn note_age(&mut self, keep: Retention, head: InboxSeq, now: TimestampMs) {
        let full = self.ages.len() >= AGES_MAX;
        match self.ages.as_mut_slice() {
            [.., before, newest] if full || now.0.saturating_sub(before.at.0) < keep.part() => {
                newest.last = head;
                // A clock that went back makes nothing older.
                newest.at = newest.at.max(now);
            }
            _ => self.ages.push(Age {
                last: head,
                at: now,
            }),
        }
    }

    /// The next rows that can go.
    pub(crate) fn trim(&mut self) -> impl Iterator<Item = InboxSeq> + use<> {
        let from = self.trimmed;
        let to = Cursor(from.0.saturating_add(TRIM_ROWS_MAX)).min(self.floor);
        self.trimmed = to.max(from);
        (from.0..to.0).map(|before| Cursor(before).next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An inbox that gets one event at each of these times.
    fn inbox(keep: Retention, times: impl IntoIterator<Item = u64>) -> Inbox {
        let mut inbox = Inbox::default();
        for time in times {
            inbox.head = Some(inbox.head.map_or(InboxSeq::FIRST, InboxSeq::next));
            inbox.age(keep, TimestampMs(time));
            inbox.trim().for_each(drop);
        }
        inbox
    }

    #[test]
    fn the_newest_events_are_kept_by_count() {
        let keep = Retention::new(3, u64::MAX);
        assert_eq!(inbox(keep, [1, 2, 3]).floor, Cursor(0));
        let five = inbox(keep, [1, 2, 3, 4, 5]);
        assert_eq!((five.floor, five.trimmed), (Cursor(2), Cursor(2)));
        assert!(five.keeps_after(Cursor(2)) && !five.keeps_after(Cursor(1)));
        assert_eq!(five.start(), Cursor(5));
        assert_eq!(inbox(keep, [1, 2, 3]).start(), Cursor::START);
    }

    #[test]
    fn an_event_is_kept_for_its_time_and_at_most_a_part_longer() {
        let keep = Retention::new(u64::MAX, 100);
        let times: Vec<u64> = (0..50).map(|event| event * 10).collect();
        let inbox = inbox(keep, times.iter().copied());
        // The last one came at 490: what came after 390 is certainly there, what came before 366 is certainly not.
        let oldest = times[inbox.floor.0 as usize];
        assert!((366..=391).contains(&oldest), "{oldest}");
    }

    #[test]
    fn a_quiet_time_makes_nothing_stay_longer() {
        let keep = Retention::new(u64::MAX, 100);
        // The second one came after the first age was noted, and long before the third.
        assert_eq!(inbox(keep, [1_000, 1_001, 2_000]).floor, Cursor(2));
    }

    #[test]
    fn the_newest_event_stays_whatever_the_stamps_say() {
        let keep = Retention::new(u64::MAX, 100);
        let mut jumped = inbox(keep, [1_000, 1_001, 1_000_000]);
        assert_eq!(jumped.floor, Cursor(2));
        jumped.head = jumped.head.map(InboxSeq::next);
        jumped.age(keep, TimestampMs(1_002));
        assert_eq!(jumped.floor, Cursor(2));
    }

    #[test]
    fn a_lower_limit_is_reached_in_steps() {
        let mut inbox = inbox(Retention::new(1_000, u64::MAX), 0..100);
        let keep = Retention::new(10, u64::MAX);
        let mut trimmed = 0;
        for _ in 0..100 {
            inbox.head = inbox.head.map(InboxSeq::next);
            inbox.age(keep, TimestampMs(100));
            let rows = inbox.trim().count() as u64;
            assert!(rows <= TRIM_ROWS_MAX);
            trimmed += rows;
        }
        assert_eq!((inbox.floor, inbox.trimmed), (Cursor(190), Cursor(190)));
        assert_eq!(trimmed, 190);
    }

    #[test]
    fn ages_are_few() {
        let keep = Retention::new(u64::MAX, 1_000);
        assert!(inbox(keep, 0..10_000).ages.len() <= 2 * AGE_PARTS as usize + 2);
        // Ever longer times leave the marks of the shorter ones behind.
        let mut inbox = inbox(keep, 0..1_000);
        for doubled in 1..60 {
            inbox.head = inbox.head.map(InboxSeq::next);
            inbox.age(
                Retention::new(u64::MAX, 1_000 << doubled),
                TimestampMs(1_000 << doubled),
            );
        }
        assert!(inbox.ages.len() <= AGES_MAX);
    }
}
