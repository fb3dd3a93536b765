//! Whose turn it is to be caught up with: a bounded number of groups at once, each by one task at a time.

use std::collections::{BTreeMap, VecDeque};

use std::time::Duration;

use quipu_protocol::error::RejectCode;
use quipu_protocol::id::ConversationId;

use super::{CatchUps, Filled};
use crate::cache::lower;
use crate::error::Error;

/// Groups that are caught up with at once, beside the one that a check of all groups is at.
pub const CATCH_UPS_AT_ONCE: usize = 4;
/// Groups that wait for their turn. For one more than that all groups are checked, which finds it.
pub const CATCH_UPS_WAITING_MAX: usize = 256;

/// Bound of the first pause before a group is asked again whose history does not have yet what devices were told of. It doubles
/// each time; the pause is drawn from below it.
pub const CATCH_UP_PAUSE_MIN: Duration = Duration::from_millis(50);
/// Bound of the longest such pause. Most of them are over in moments; a gateway that died is replaced in seconds.
pub const CATCH_UP_PAUSE_MAX: Duration = Duration::from_secs(15);
/// Times that a group is asked again that says that the user is not in it: who has just joined is believed in moments.
pub const CATCH_UP_REFUSALS_MAX: u32 = 8;
/// Groups that pause at once; one more waits for the next WELCOME.
pub const CATCH_UP_PAUSES_MAX: usize = 256;

/// A task that must be started for what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Those that run see to it.
    Nothing,
    /// One more that takes groups.
    Worker,
    /// The one that checks all groups.
    Check,
    /// One that asks for this group again after a pause below this bound, for what is behind this seq, or for changes alone.
    Pause(ConversationId, Option<u64>, Duration),
}

/// A group that was asked too early.
#[derive(Debug, Default)]
struct Early {
    times: u32,
    /// A task waits until it is asked again.
    pauses: bool,
}

/// Who works on what. Decides only; tasks are started by others.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Groups that a task is at, and what has gone missing meanwhile: changes, or messages behind this seq too.
    busy: BTreeMap<ConversationId, Option<Option<u64>>>,
    /// In the order in which they were asked for, each once.
    waiting: VecDeque<(ConversationId, Option<u64>)>,
    /// Groups whose history did not have yet what is known of it.
    early: BTreeMap<ConversationId, Early>,
    workers: usize,
    check_runs: bool,
    check_wanted: bool,
    counts: CatchUps,
}

impl Turns {
    /// Changes of a group are missing, and messages behind `after`, if it is set.
    pub(super) fn want(&mut self, conversation: ConversationId, after: Option<u64>) -> Start {
        if let Some(again) = self.busy.get_mut(&conversation) {
            *again = Some(again.map_or(after, |before| lower(before, after)));
            return Start::Nothing;
        }
        let mut waiting = self.waiting.iter_mut();
        if let Some((_, known)) = waiting.find(|(other, _)| *other == conversation) {
            *known = lower(*known, after);
            return Start::Nothing;
        }
        if self.waiting.len() >= CATCH_UPS_WAITING_MAX {
            self.counts.postponed += 1;
            return self.want_check();
        }
        self.waiting.push_back((conversation, after));
        if self.workers >= CATCH_UPS_AT_ONCE {
            return Start::Nothing;
        }
        self.workers += 1;
        Start::Worker
    }

    /// All groups are to be checked. While a check runs, another one follows it, however often it is asked for.
    pub(super) fn want_check(&mut self) -> Start {
        self.check_wanted = true;
        if self.check_runs {
            return Start::Nothing;
        }
        self.check_runs = true;
        Start::Check
    }

    /// The next group for a worker; `None`: there is none, and the worker ends.
    pub(super) fn take(&mut self) -> Option<(ConversationId, Option<u64>)> {
        let next = self.waiting.pop_front();
        match next {
            Some((conversation, _)) => drop(self.busy.insert(conversation, None)),
            None => self.workers -= 1,
        }
        next
    }

    /// Whether the check has to go through all groups, once more perhaps; if not, it ends.
    pub(super) fn take_check(&mut self) -> bool {
        self.check_runs = std::mem::take(&mut self.check_wanted);
        self.check_runs
    }

    /// Gives a group to the check, unless another task is at it or will be.
    pub(super) fn claim(&mut self, conversation: ConversationId, after: Option<u64>) -> bool {
        let is_waiting = self.waiting.iter().any(|(other, _)| *other == conversation);
        if is_waiting || self.busy.contains_key(&conversation) {
            // Merged into what is known, so no task is needed.
            let _ = self.want(conversation, after);
            return false;
        }
        self.busy.insert(conversation, None);
        true
    }

    /// A task is through with a group, which it had from behind `after`. What opened meanwhile waits for its turn, and may need
    /// another task; what is not there yet is asked for again after a pause.
    pub(super) fn finish(
        &mut self,
        (conversation, after): (ConversationId, Option<u64>),
        filled: &Result<Filled, Error>,
    ) -> Start {
        if let Ok(filled) = filled {
            self.count(filled);
        }
        let meanwhile = self.busy.remove(&conversation).flatten();
        let (behind, times_max) = match filled {
            Ok(filled) => (lacks(filled), u32::MAX),
            Err(error) if is_not_in_it(error) => (Some(after), CATCH_UP_REFUSALS_MAX),
            Err(_) => {
                self.counts.failed += 1;
                (None, 0)
            }
        };
        let pause = match behind {
            // It is asked at once, since something has happened.
            Some(_) if meanwhile.is_some() => Start::Nothing,
            Some(behind) => self.pause((conversation, behind), times_max),
            None => {
                self.reached(conversation);
                Start::Nothing
            }
        };
        match meanwhile {
            Some(again) => self.want(
                conversation,
                behind.map_or(again, |behind| lower(behind, again)),
            ),
            None => pause,
        }
    }

    fn count(&mut self, filled: &Filled) {
        if let Some(gap) = &filled.messages {
            self.counts.pages += gap.pages;
            self.counts.cut += u64::from(gap.cut);
            self.counts.filled += u64::from(!gap.cut && gap.behind.is_none());
        }
        self.counts.changes += filled.changes.pages;
        self.counts.reread += u64::from(filled.changes.reread);
    }

    fn pause(
        &mut self,
        (conversation, behind): (ConversationId, Option<u64>),
        times_max: u32,
    ) -> Start {
        let full = self.early.len() >= CATCH_UP_PAUSES_MAX;
        if full && !self.early.contains_key(&conversation) {
            self.counts.failed += 1;
            return Start::Nothing;
        }
        let early = self.early.entry(conversation).or_default();
        if early.times >= times_max {
            self.counts.failed += 1;
            self.reached(conversation);
            return Start::Nothing;
        }
        self.counts.early += 1;
        let factor = 1_u32.checked_shl(early.times).unwrap_or(u32::MAX);
        let bound = CATCH_UP_PAUSE_MIN.saturating_mul(factor);
        early.times = early.times.saturating_add(1);
        match std::mem::replace(&mut early.pauses, true) {
            true => Start::Nothing,
            false => Start::Pause(conversation, behind, bound.min(CATCH_UP_PAUSE_MAX)),
        }
    }

    /// Nothing is to be asked for again of this group; a pause that is under way ends without a question.
    fn reached(&mut self, conversation: ConversationId) {
        match self.early.get_mut(&conversation) {
            Some(early) if early.pauses => early.times = 0,
            Some(_) | None => drop(self.early.remove(&conversation)),
        }
    }

    /// The pause of a group is over.
    pub(super) fn resume(&mut self, conversation: ConversationId, after: Option<u64>) -> Start {
        match self.early.get_mut(&conversation) {
            Some(early) if early.times > 0 => {
                early.pauses = false;
                self.want(conversation, after)
            }
            Some(_) | None => {
                self.early.remove(&conversation);
                Start::Nothing
            }
        }
    }

    pub(super) fn counts(&self) -> CatchUps {
        CatchUps {
            waiting: self.waiting.len(),
            ..self.counts
        }
    }
}

/// What is to be asked for again after a pause: the history ends early, or changes do.
fn lacks(filled: &Filled) -> Option<Option<u64>> {
    let behind = filled.messages.and_then(|gap| gap.behind);
    (behind.is_some() || filled.changes.more).then_some(behind)
}

/// Whether the gateway says that the user is not in the group.
fn is_not_in_it(error: &Error) -> bool {
    let Error::Refused(refusal) = error else {
        return false;
    };
    let codes = [RejectCode::UnknownConversation, RejectCode::NotAMember];
    codes.contains(&refusal.code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Refusal;
    use crate::groups::Gap;
    use crate::groups::changes::Fetched;

    fn group(number: usize) -> ConversationId {
        let mut id = [0xff; 16];
        id[8..].copy_from_slice(&number.to_be_bytes());
        ConversationId(id)
    }

    const NO_CHANGES: Fetched = Fetched {
        pages: 0,
        reread: false,
        more: false,
    };

    const FILLED: Result<Filled, Error> = Ok(Filled {
        messages: Some(Gap {
            pages: 2,
            cut: false,
            behind: None,
            retitled: false,
        }),
        changes: NO_CHANGES,
    });

    fn short(behind: u64) -> Result<Filled, Error> {
        Ok(Filled {
            messages: Some(Gap {
                pages: 1,
                cut: false,
                behind: Some(behind),
                retitled: false,
            }),
            changes: NO_CHANGES,
        })
    }

    #[test]
    fn changes_that_are_not_all_here_are_asked_for_again() {
        let mut turns = Turns::default();
        let some = |more| {
            Ok(Filled {
                messages: None,
                changes: Fetched {
                    pages: 1,
                    reread: false,
                    more,
                },
            })
        };
        let start = turns.want(group(0), None);
        let pause = asks(&mut turns, start, &some(true));
        assert_eq!(pause, Start::Pause(group(0), None, CATCH_UP_PAUSE_MIN));
        let start = turns.resume(group(0), None);
        assert_eq!(start, Start::Worker);
        assert_eq!(turns.take(), Some((group(0), None)));
        // Messages go missing meanwhile: they are not forgotten for the changes.
        assert_eq!(turns.want(group(0), Some(9)), Start::Nothing);
        assert_eq!(turns.want(group(0), None), Start::Nothing);
        assert_eq!(turns.finish((group(0), None), &some(false)), Start::Worker);
        assert_eq!(turns.take(), Some((group(0), Some(9))));
        assert_eq!(turns.finish((group(0), Some(9)), &FILLED), Start::Nothing);
        let counts = turns.counts();
        assert_eq!((counts.changes, counts.filled, counts.early), (2, 1, 1));
        assert!(turns.early.is_empty());
    }

    fn refused() -> Result<Filled, Error> {
        let code = RejectCode::NotAMember;
        let reason = "not yet".to_owned();
        Err(Error::Refused(Refusal { code, reason }))
    }

    /// Begins with a group and finds its history too short.
    fn asks(turns: &mut Turns, start: Start, filled: &Result<Filled, Error>) -> Start {
        assert_eq!(start, Start::Worker);
        let next = turns.take().unwrap();
        let start = turns.finish(next, filled);
        assert_eq!(turns.take(), None);
        start
    }

    #[test]
    fn a_history_that_is_too_short_is_asked_again_after_longer_and_longer_pauses() {
        let mut turns = Turns::default();
        let mut start = turns.want(group(0), Some(7));
        let mut bounds = Vec::new();
        for _ in 0..12 {
            let Start::Pause(id, behind, bound) = asks(&mut turns, start, &short(9)) else {
                panic!("no pause: {start:?}");
            };
            assert_eq!((id, behind), (group(0), Some(9)));
            bounds.push(bound);
            start = turns.resume(id, behind);
        }
        let doubled = bounds.windows(2).filter(|two| two[1] == two[0] * 2);
        assert_eq!((bounds[0], doubled.count()), (CATCH_UP_PAUSE_MIN, 8));
        assert_eq!(bounds[11], CATCH_UP_PAUSE_MAX);
        assert_eq!(asks(&mut turns, start, &FILLED), Start::Nothing);
        let counts = turns.counts();
        assert_eq!((counts.early, counts.filled, counts.pages), (12, 1, 14));
        assert!(turns.early.is_empty());
        // It begins anew.
        let start = turns.want(group(0), Some(9));
        let pause = asks(&mut turns, start, &short(9));
        assert_eq!(pause, Start::Pause(group(0), Some(9), CATCH_UP_PAUSE_MIN));
    }

    #[test]
    fn a_group_pauses_once_and_not_at_all_when_more_has_come() {
        let mut turns = Turns::default();
        let start = turns.want(group(0), Some(7));
        let pause = asks(&mut turns, start, &short(9));
        assert!(matches!(pause, Start::Pause(..)));
        // News while it pauses: it is asked at once, and there is one pause still.
        let start = turns.want(group(0), Some(12));
        assert_eq!(asks(&mut turns, start, &short(9)), Start::Nothing);
        let start = turns.want(group(0), Some(12));
        assert_eq!(asks(&mut turns, start, &FILLED), Start::Nothing);
        // The pause ends, and nothing is wanted any more.
        assert_eq!(turns.resume(group(0), Some(9)), Start::Nothing);
        assert!(turns.early.is_empty());
        // News while it is asked: at once as well.
        turns.want(group(0), Some(20));
        let next = turns.take().unwrap();
        turns.want(group(0), Some(25));
        assert_eq!(turns.finish(next, &short(22)), Start::Worker);
        assert_eq!(turns.take(), Some((group(0), Some(22))));
        assert!(turns.early.is_empty());
    }

    #[test]
    fn who_is_not_in_a_group_stops_asking_and_pauses_are_bounded() {
        let mut turns = Turns::default();
        let mut start = turns.want(group(0), Some(7));
        for _ in 0..CATCH_UP_REFUSALS_MAX {
            let Start::Pause(id, after, _) = asks(&mut turns, start, &refused()) else {
                panic!("no pause");
            };
            start = turns.resume(id, after);
        }
        assert_eq!(asks(&mut turns, start, &refused()), Start::Nothing);
        assert_eq!((turns.counts().failed, turns.early.len()), (1, 0));
        for number in 0..=CATCH_UP_PAUSES_MAX {
            let start = turns.want(group(number), Some(1));
            let pause = asks(&mut turns, start, &short(1));
            let pauses = matches!(pause, Start::Pause(..));
            assert_eq!(pauses, number < CATCH_UP_PAUSES_MAX);
        }
        assert_eq!(turns.counts().failed, 2);
        let offline = Err(Error::Offline("gone".into()));
        let start = turns.want(group(0), Some(1));
        assert_eq!(asks(&mut turns, start, &offline), Start::Nothing);
        assert_eq!(turns.counts().failed, 3);
    }

    #[test]
    fn tasks_are_bounded_and_each_group_has_one() {
        let mut turns = Turns::default();
        let started = (0..10).map(|number| turns.want(group(number), Some(7)));
        let started: Vec<Start> = started.collect();
        let workers = started.iter().filter(|start| **start == Start::Worker);
        assert_eq!(workers.count(), CATCH_UPS_AT_ONCE);
        assert_eq!(turns.counts().waiting, 10);

        assert_eq!(turns.take(), Some((group(0), Some(7))));
        // The same group again, while one is at it: it comes again, from the lowest gap, and only then.
        assert_eq!(turns.want(group(0), Some(90)), Start::Nothing);
        assert_eq!(turns.want(group(0), Some(80)), Start::Nothing);
        assert!(!turns.claim(group(0), Some(85)));
        assert_eq!(turns.counts().waiting, 9);
        assert_eq!(turns.finish((group(0), Some(7)), &FILLED), Start::Nothing);
        assert_eq!(turns.counts().waiting, 10);
        assert_eq!(turns.waiting.back(), Some(&(group(0), Some(80))));
        // A group that waits takes over a lower gap.
        assert_eq!(turns.want(group(1), Some(3)), Start::Nothing);
        assert_eq!(turns.take(), Some((group(1), Some(3))));
        assert_eq!(turns.finish((group(1), Some(3)), &FILLED), Start::Nothing);
        while let Some(next) = turns.take() {
            turns.finish(next, &FILLED);
        }
        assert_eq!((turns.busy.len(), turns.counts().filled), (0, 11));
        assert_eq!(turns.counts().pages, 22);
    }

    #[test]
    fn one_that_finds_no_room_is_left_to_a_check() {
        let mut turns = Turns::default();
        for number in 0..CATCH_UPS_WAITING_MAX {
            turns.want(group(number), Some(1));
        }
        assert_eq!(turns.want(group(9999), Some(1)), Start::Check);
        assert_eq!(turns.want(group(9998), Some(1)), Start::Nothing);
        let counts = turns.counts();
        assert_eq!(
            (counts.postponed, counts.waiting),
            (2, CATCH_UPS_WAITING_MAX)
        );
        assert!(turns.take_check());
        assert!(turns.claim(group(9999), Some(1)));
        // Asked for while it runs, however often: one more.
        assert_eq!(turns.want_check(), Start::Nothing);
        assert_eq!(turns.want_check(), Start::Nothing);
        assert!(turns.take_check());
        assert!(!turns.take_check());
        assert_eq!(turns.want_check(), Start::Check);
    }
}
