//! Whom to ask about and when, and what is known of them, as a machine without a clock (QP-PRESENCE).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use quipu_protocol::id::UserId;
use quipu_protocol::limits::PRESENCE_REFRESH_MS;
use quipu_protocol::query::PresenceEntry;

const REFRESH: Duration = Duration::from_millis(PRESENCE_REFRESH_MS);
/// Several reasons to ask that come together make one question.
const SETTLE: Duration = Duration::from_millis(250);
/// How soon to ask again when there was no answer.
const RETRY: Duration = Duration::from_secs(15);

/// Those whom the client watches, at most as many as one question may name.
#[derive(Debug, Default)]
pub(super) struct Watched {
    users: BTreeSet<UserId>,
    known: BTreeMap<UserId, PresenceEntry>,
    /// Who was told of since the question: the answer may be older.
    told_since: BTreeSet<UserId>,
    ask_at: Option<Instant>,
}

impl Watched {
    /// There is a reason to ask.
    pub(super) fn ask_soon(&mut self, now: Instant) {
        let soon = now + SETTLE;
        self.ask_at = Some(self.ask_at.map_or(soon, |at| at.min(soon)));
    }

    /// Whether it is time to ask.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.ask_at.is_some_and(|at| at <= now)
    }

    /// When it is time to ask.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.ask_at
    }

    /// The client asks about these.
    pub(super) fn asks(&mut self, users: &[UserId]) {
        self.ask_at = None;
        self.users = users.iter().copied().collect();
        self.told_since.clear();
    }

    /// The answer to the question. What has changed by it.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        entries: Vec<PresenceEntry>,
    ) -> Vec<PresenceEntry> {
        self.again_at(now + REFRESH);
        let answered: BTreeSet<UserId> = entries.iter().map(|entry| entry.user).collect();
        // Of whom nothing is said, nothing is known, nor of whom was not asked.
        let silent = |user: &UserId| !answered.contains(user) && !self.told_since.contains(user);
        let silent: Vec<UserId> = self
            .known
            .keys()
            .filter(|user| silent(user) || !self.users.contains(user))
            .copied()
            .collect();
        let mut changed = self.forget(&silent);
        changed.extend(entries.into_iter().filter_map(|entry| self.take(entry)));
        changed
    }

    /// There was no answer.
    pub(super) fn not_answered(&mut self, now: Instant) {
        self.again_at(now + RETRY);
    }

    /// What a gateway says has changed. What that changes here.
    pub(super) fn told(&mut self, entries: Vec<PresenceEntry>) -> Vec<PresenceEntry> {
        self.told_since.extend(
            entries
                .iter()
                .map(|entry| entry.user)
                .filter(|user| self.users.contains(user)),
        );
        entries
            .into_iter()
            .filter_map(|entry| self.take(entry))
            .collect()
    }

    /// Without a connection nothing is known. What that changes.
    pub(super) fn lost(&mut self) -> Vec<PresenceEntry> {
        self.ask_at = None;
        self.users.clear();
        let known: Vec<UserId> = self.known.keys().copied().collect();
        self.forget(&known)
    }

    /// Whether the client asks about others, and not about this one.
    pub(super) fn lacks(&self, user: &UserId) -> bool {
        !self.users.contains(user)
    }

    /// What is known of a user.
    pub(super) fn known(&self, user: &UserId) -> Option<PresenceEntry> {
        let known = self.known.get(user).copied();
        known.filter(|entry| entry.here || entry.seen_at.is_some())
    }

    fn again_at(&mut self, at: Instant) {
        self.ask_at = Some(self.ask_at.map_or(at, |known| known.min(at)));
    }

    /// Takes an entry if it is newer than what is known (QP-PRESENCE-4); gives it back if it says something else.
    fn take(&mut self, entry: PresenceEntry) -> Option<PresenceEntry> {
        if !self.users.contains(&entry.user) {
            return None;
        }
        let known = self.known.get(&entry.user);
        if known.is_some_and(|known| known.order >= entry.order) {
            return None;
        }
        let said = known.map_or((false, None), |known| (known.here, known.seen_at));
        self.known.insert(entry.user, entry);
        (said != (entry.here, entry.seen_at)).then_some(entry)
    }

    fn forget(&mut self, users: &[UserId]) -> Vec<PresenceEntry> {
        let forgotten = users.iter().filter_map(|user| self.known.remove(user));
        let told = forgotten.filter(|entry| entry.here || entry.seen_at.is_some());
        told.map(|entry| PresenceEntry {
            here: false,
            seen_at: None,
            ..entry
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quipu_protocol::id::TimestampMs;

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("a good name")
    }

    fn entry(name: &str, here: bool, seen: u64, order: u64) -> PresenceEntry {
        PresenceEntry {
            user: user(name),
            here,
            seen_at: (seen != 0).then_some(TimestampMs(seen)),
            order,
        }
    }

    #[test]
    fn the_newer_word_holds_in_whatever_order_they_come() {
        let (mut watched, now) = (Watched::default(), Instant::now());
        watched.asks(&[user("ben"), user("cleo")]);
        let gone = entry("ben", false, 7, 9);
        assert_eq!(watched.told(vec![gone]), [gone]);
        // The answer is older than the datagram that overtook it.
        let cleo = entry("cleo", true, 0, 5);
        let changed = watched.answered(now, vec![entry("ben", true, 0, 8), cleo]);
        assert_eq!(changed, [cleo]);
        assert_eq!(watched.known(&user("ben")), Some(gone));
        assert!(
            watched.told(vec![entry("ben", true, 0, 8)]).is_empty(),
            "late"
        );
        assert!(watched.told(vec![gone]).is_empty(), "twice");
        assert!(
            watched.told(vec![entry("dan", true, 0, 99)]).is_empty(),
            "not asked"
        );
        let same = entry("ben", false, 7, 10);
        assert!(watched.told(vec![same]).is_empty(), "no news");
        let hidden = entry("ben", false, 0, 11);
        assert_eq!(watched.told(vec![hidden]), [hidden]);
        assert_eq!(watched.known(&user("ben")), None);
    }

    #[test]
    fn who_is_left_out_of_an_answer_is_unknown_unless_told_of_meanwhile() {
        let (mut watched, now) = (Watched::default(), Instant::now());
        let (ben, cleo) = (entry("ben", true, 0, 1), entry("cleo", true, 0, 1));
        watched.asks(&[ben.user, cleo.user]);
        assert_eq!(watched.answered(now, vec![ben, cleo]), [ben, cleo]);
        watched.asks(&[ben.user, cleo.user]);
        let seen = entry("cleo", false, 3, 2);
        assert_eq!(watched.told(vec![seen]), [seen]);
        let unknown = PresenceEntry { here: false, ..ben };
        assert_eq!(watched.answered(now, Vec::new()), [unknown]);
        // No longer asked about.
        watched.asks(&[ben.user]);
        let left = PresenceEntry {
            seen_at: None,
            ..seen
        };
        assert_eq!(watched.answered(now, Vec::new()), [left]);
    }

    #[test]
    fn it_is_asked_soon_then_now_and_then_and_not_without_a_connection() {
        let (mut watched, start) = (Watched::default(), Instant::now());
        assert_eq!(watched.poll_timeout(), None);
        watched.ask_soon(start);
        watched.ask_soon(start + SETTLE / 2);
        assert_eq!(watched.poll_timeout(), Some(start + SETTLE));
        assert!(!watched.is_due(start) && watched.is_due(start + SETTLE));
        watched.asks(&[user("ben")]);
        assert_eq!(watched.poll_timeout(), None);
        // A reason that comes while it is asked is not lost.
        watched.ask_soon(start + SETTLE);
        watched.answered(start + SETTLE, vec![entry("ben", true, 0, 1)]);
        assert_eq!(watched.poll_timeout(), Some(start + SETTLE * 2));
        watched.asks(&[user("ben")]);
        watched.answered(start, Vec::new());
        assert_eq!(watched.poll_timeout(), Some(start + REFRESH));
        watched.asks(&[user("ben")]);
        watched.not_answered(start);
        assert_eq!(watched.poll_timeout(), Some(start + RETRY));
        assert!(watched.lost().is_empty(), "nothing was known any more");
        assert_eq!(watched.poll_timeout(), None);
    }
}
