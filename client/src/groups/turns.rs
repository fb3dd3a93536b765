//! Whose turn it is to be caught up with: a bounded number of groups at once, each by one task at a time.

use std::collections::{BTreeMap, VecDeque};

use quipu_protocol::id::ConversationId;

use super::{CatchUps, Filled};
use crate::error::Error;

/// Groups that are caught up with at once, beside the one that a check of all groups is at.
pub const CATCH_UPS_AT_ONCE: usize = 4;
/// Groups that wait for their turn. For one more than that all groups are checked, which finds it.
pub const CATCH_UPS_WAITING_MAX: usize = 256;

/// A task that must be started for what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Those that run see to it.
    Nothing,
    /// One more that takes groups.
    Worker,
    /// The one that checks all groups.
    Check,
}

/// Who works on what. Decides only; tasks are started by others.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Groups that a task is at, and the lowest seq behind which more has gone missing meanwhile.
    busy: BTreeMap<ConversationId, Option<u64>>,
    /// In the order in which they were asked for, each once.
    waiting: VecDeque<(ConversationId, u64)>,
    workers: usize,
    check_runs: bool,
    check_wanted: bool,
    counts: CatchUps,
}

impl Turns {
    /// Messages of a group are missing behind `after`.
    pub(super) fn want(&mut self, conversation: ConversationId, after: u64) -> Start {
        if let Some(again) = self.busy.get_mut(&conversation) {
            *again = Some(again.map_or(after, |before| before.min(after)));
            return Start::Nothing;
        }
        let mut waiting = self.waiting.iter_mut();
        if let Some((_, known)) = waiting.find(|(other, _)| *other == conversation) {
            *known = after.min(*known);
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
    pub(super) fn take(&mut self) -> Option<(ConversationId, u64)> {
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
    pub(super) fn claim(&mut self, conversation: ConversationId, after: u64) -> bool {
        let is_waiting = self.waiting.iter().any(|(other, _)| *other == conversation);
        if is_waiting || self.busy.contains_key(&conversation) {
            // Merged into what is known, so no task is needed.
            let _ = self.want(conversation, after);
            return false;
        }
        self.busy.insert(conversation, None);
        true
    }

    /// A task is through with a group. What opened meanwhile waits for its turn, and may need another task.
    pub(super) fn finish(
        &mut self,
        conversation: ConversationId,
        filled: &Result<Filled, Error>,
    ) -> Start {
        match filled {
            Ok(filled) => {
                self.counts.filled += u64::from(!filled.cut);
                self.counts.cut += u64::from(filled.cut);
                self.counts.pages += filled.pages;
            }
            Err(_) => self.counts.failed += 1,
        }
        match self.busy.remove(&conversation).flatten() {
            Some(again) => self.want(conversation, again),
            None => Start::Nothing,
        }
    }

    pub(super) fn counts(&self) -> CatchUps {
        CatchUps {
            waiting: self.waiting.len(),
            ..self.counts
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(number: usize) -> ConversationId {
        let mut id = [0xff; 16];
        id[8..].copy_from_slice(&number.to_be_bytes());
        ConversationId(id)
    }

    const FILLED: Result<Filled, Error> = Ok(Filled {
        pages: 2,
        cut: false,
    });

    #[test]
    fn tasks_are_bounded_and_each_group_has_one() {
        let mut turns = Turns::default();
        let started = (0..10).map(|number| turns.want(group(number), 7));
        let started: Vec<Start> = started.collect();
        let workers = started.iter().filter(|start| **start == Start::Worker);
        assert_eq!(workers.count(), CATCH_UPS_AT_ONCE);
        assert_eq!(turns.counts().waiting, 10);

        assert_eq!(turns.take(), Some((group(0), 7)));
        // The same group again, while one is at it: it comes again, from the lowest gap, and only then.
        assert_eq!(turns.want(group(0), 90), Start::Nothing);
        assert_eq!(turns.want(group(0), 80), Start::Nothing);
        assert!(!turns.claim(group(0), 85));
        assert_eq!(turns.counts().waiting, 9);
        assert_eq!(turns.finish(group(0), &FILLED), Start::Nothing);
        assert_eq!(turns.counts().waiting, 10);
        assert_eq!(turns.waiting.back(), Some(&(group(0), 80)));
        // A group that waits takes over a lower gap.
        assert_eq!(turns.want(group(1), 3), Start::Nothing);
        assert_eq!(turns.take(), Some((group(1), 3)));
        assert_eq!(turns.finish(group(1), &FILLED), Start::Nothing);
        while let Some((next, _)) = turns.take() {
            turns.finish(next, &FILLED);
        }
        assert_eq!((turns.busy.len(), turns.counts().filled), (0, 11));
        assert_eq!(turns.counts().pages, 22);
    }

    #[test]
    fn one_that_finds_no_room_is_left_to_a_check() {
        let mut turns = Turns::default();
        for number in 0..CATCH_UPS_WAITING_MAX {
            turns.want(group(number), 1);
        }
        assert_eq!(turns.want(group(9999), 1), Start::Check);
        assert_eq!(turns.want(group(9998), 1), Start::Nothing);
        let counts = turns.counts();
        assert_eq!(
            (counts.postponed, counts.waiting),
            (2, CATCH_UPS_WAITING_MAX)
        );
        assert!(turns.take_check());
        assert!(turns.claim(group(9999), 1));
        // Asked for while it runs, however often: one more.
        assert_eq!(turns.want_check(), Start::Nothing);
        assert_eq!(turns.want_check(), Start::Nothing);
        assert!(turns.take_check());
        assert!(!turns.take_check());
        assert_eq!(turns.want_check(), Start::Check);
    }
}
