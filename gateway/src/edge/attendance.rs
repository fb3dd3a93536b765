//! What the log is told about one session: that it began, that its device stopped acking or went on, that it ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quipu_core::record::{Fact, SessionId};
use quipu_protocol::id::{Cursor, DeviceId, TimestampMs};

/// How long until a fact is offered again that the router had no room for.
const AGAIN: Duration = Duration::from_secs(1);

/// Numbers the sessions of this process, and says when one has stalled.
#[derive(Debug)]
pub struct Sessions {
    boot: u64,
    next: AtomicU64,
    stalled_after: Option<Duration>,
}

impl Sessions {
    /// `boot` names this process. `stalled_after`: how long a device may ack nothing that it was sent; `None`: as it likes.
    pub fn new(boot: u64, stalled_after: Option<Duration>) -> Self {
        Self {
            boot,
            next: AtomicU64::new(1),
            stalled_after,
        }
    }
}

/// One session.
#[derive(Debug)]
pub(super) struct Attendance {
    device: DeviceId,
    session: SessionId,
    stalled_after: Option<Duration>,
    /// When the device acked last, or was sent what it has not acked; `None`: it has acked everything.
    waits_since: Option<Instant>,
    /// Whether the log was told that it has stalled.
    stalled: bool,
    /// When to look again whether it has. Looked at rarely: it is not moved by every ack.
    check_at: Option<Instant>,
}

impl Attendance {
    pub(super) fn new(sessions: &Sessions, device: DeviceId) -> Self {
        let number = sessions.next.fetch_add(1, Ordering::Relaxed);
        Self {
            device,
            session: SessionId {
                boot: sessions.boot,
                number,
            },
            stalled_after: sessions.stalled_after,
            waits_since: None,
            stalled: false,
            check_at: None,
        }
    }

    /// The session begins, or goes on after a stall.
    pub(super) fn attached(&self, cursor: Cursor) -> Fact {
        Fact::Attached {
            device: self.device,
            session: self.session,
            cursor,
        }
    }

    /// The session ends.
    pub(super) fn detached(&self, cursor: Cursor) -> Fact {
        Fact::Detached {
            device: self.device,
            session: self.session,
            cursor,
        }
    }

    /// The device may have been sent something. To be called after every turn; cheap unless it is the first event after an ack
    /// of everything.
    pub(super) fn sent(&mut self, in_flight: bool, now: impl FnOnce() -> Instant) {
        if !in_flight || self.waits_since.is_some() {
            return;
        }
        let Some(after) = self.stalled_after else {
            return;
        };
        let now = now();
        self.waits_since = Some(now);
        self.check_at.get_or_insert(now + after);
    }

    /// The device has acked something that it had not.
    pub(super) fn acked(&mut self, in_flight: bool, now: Instant) {
        self.waits_since = self.waits_since.filter(|_| in_flight).map(|_| now);
        if self.stalled {
            self.check_at = Some(now);
        }
    }

    /// When to call [`check`](Self::check).
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.check_at
    }

    /// The fact to tell now, if one is due. `wall` is the time of day at `now`. After it was told, or there was no room for it,
    /// [`told`](Self::told) is to be called.
    pub(super) fn check(
        &mut self,
        now: Instant,
        wall: TimestampMs,
        cursor: Cursor,
    ) -> Option<Fact> {
        let after = self.stalled_after?;
        self.check_at.take_if(|at| *at <= now)?;
        let waited = self.waits_since.map(|since| now.duration_since(since));
        let stalls = waited.is_some_and(|waited| waited >= after);
        if stalls == self.stalled {
            // While it stalls, the next ack brings the next look.
            self.check_at = self
                .waits_since
                .filter(|_| !stalls)
                .map(|since| since + after);
            return None;
        }
        if !stalls {
            return Some(self.attached(cursor));
        }
        let waited = u64::try_from(waited.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        Some(Fact::Stalled {
            device: self.device,
            session: self.session,
            cursor,
            since: TimestampMs(wall.0.saturating_sub(waited)),
        })
    }

    /// Whether the fact of the last [`check`](Self::check) was told.
    pub(super) fn told(&mut self, told: bool, now: Instant) {
        if !told {
            self.check_at = Some(now + AGAIN);
            return;
        }
        self.stalled = !self.stalled;
        let after = self.stalled_after.filter(|_| !self.stalled);
        self.check_at = after
            .zip(self.waits_since)
            .map(|(after, since)| since + after);
    }

    /// Whether the log was told that it has stalled.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn attendance(stalled_after: Option<Duration>) -> Attendance {
        let sessions = Sessions::new(7, stalled_after);
        Attendance::new(&sessions, DeviceId::new(1).expect("not 0"))
    }

    #[test]
    fn sessions_of_a_process_have_numbers_of_their_own() {
        let (sessions, device) = (Sessions::new(7, None), DeviceId::new(1).expect("not 0"));
        let [one, two] = [(); 2].map(|()| Attendance::new(&sessions, device));
        assert_ne!(one.attached(Cursor(0)), two.attached(Cursor(0)));
    }

    #[test]
    fn a_device_that_acks_in_time_has_nothing_told() {
        let (mut attendance, start) = (attendance(Some(SECOND * 10)), Instant::now());
        assert_eq!(attendance.poll_timeout(), None);
        attendance.sent(false, || panic!("nothing is in flight"));
        attendance.sent(true, || start);
        attendance.sent(true, || panic!("it waits already"));
        assert_eq!(attendance.poll_timeout(), Some(start + SECOND * 10));
        attendance.acked(true, start + SECOND * 4);
        // Not moved by the ack; looked at and found good.
        let check = start + SECOND * 10;
        assert_eq!(attendance.poll_timeout(), Some(check));
        assert_eq!(attendance.check(check, TimestampMs(0), Cursor(1)), None);
        assert_eq!(attendance.poll_timeout(), Some(start + SECOND * 14));
        attendance.acked(false, check);
        assert_eq!(
            attendance.check(start + SECOND * 14, TimestampMs(0), Cursor(2)),
            None
        );
        assert_eq!(attendance.poll_timeout(), None);
    }

    #[test]
    fn a_stall_and_its_end_are_told_once_each() {
        let (mut attendance, start) = (attendance(Some(SECOND * 10)), Instant::now());
        attendance.sent(true, || start);
        let late = start + SECOND * 12;
        let fact = attendance.check(late, TimestampMs(100_000), Cursor(3));
        let Some(Fact::Stalled { cursor, since, .. }) = fact else {
            panic!("{fact:?}");
        };
        assert_eq!((cursor, since), (Cursor(3), TimestampMs(88_000)));
        // No room: offered again.
        attendance.told(false, late);
        assert!(!attendance.is_stalled());
        let again = attendance.poll_timeout().expect("again");
        assert!(attendance.check(again, TimestampMs(1), Cursor(3)).is_some());
        attendance.told(true, again);
        assert!(attendance.is_stalled());
        assert_eq!(attendance.poll_timeout(), None);
        // It acks some, and more is in flight: it keeps up again, and may stall again.
        attendance.acked(true, again);
        assert_eq!(attendance.poll_timeout(), Some(again));
        let fact = attendance.check(again, TimestampMs(1), Cursor(4));
        assert_eq!(fact, Some(attendance.attached(Cursor(4))));
        attendance.told(true, again);
        assert_eq!(attendance.poll_timeout(), Some(again + SECOND * 10));
    }

    #[test]
    fn without_a_limit_nothing_is_looked_at() {
        let mut attendance = attendance(None);
        attendance.sent(true, || panic!("no clock is needed"));
        attendance.acked(true, Instant::now());
        assert_eq!(attendance.poll_timeout(), None);
    }
}
