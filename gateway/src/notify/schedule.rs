//! Which user's messages are told about next, and when: a machine without clock, sockets or randomness of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use quipu_core::record::GivenUp;
use quipu_protocol::id::{ConversationId, Cursor, InboxSeq, TimestampMs, UserId};

use super::letters::Letter;

/// Users known to the schedule at once. Further ones stay in the store and are looked for when half of these are done.
pub const JOBS_MAX: usize = 32 * 1024;

/// How far the webhooks of one user have come; lost with the process, which then posts again under the same ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// The conversations that were tried and are not reported to the log yet.
    pub conversations: BTreeMap<ConversationId, Tries>,
    /// What of them was given up.
    pub given_up: Vec<GivenUp>,
    /// Reported to the log: what the store says below this is old.
    pub reported: Cursor,
}

impl Progress {
    /// The tries of what a letter is about.
    pub fn tries(&self, letter: &Letter) -> Tries {
        let tries = self.conversations.get(&letter.conversation);
        tries.copied().unwrap_or_default()
    }
}

/// The tries of one conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tries {
    /// Everything up to here was posted or given up.
    pub settled: Option<InboxSeq>,
    /// Tries of what comes after it.
    pub failed: u32,
    /// Not to be tried before.
    pub not_before: Option<Instant>,
}

impl Tries {
    /// Everything up to there was posted or given up; what comes after it begins anew.
    pub fn settle(&mut self, through: InboxSeq) {
        *self = Self {
            settled: Some(through),
            ..Self::default()
        };
    }
}

/// What comes after a visit to a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing: no message of theirs waits.
    Done,
    /// Another visit.
    At(Instant, Progress),
    /// Another visit when the log has taken the report.
    Reported(Progress),
}

/// A user whose messages wait.
#[derive(Debug)]
struct Job {
    /// Since when; for the age of the oldest.
    since: TimestampMs,
    state: JobState,
}

#[derive(Debug)]
enum JobState {
    Due(Instant, Progress),
    /// Being visited; the store changed meanwhile if true.
    Running(bool),
    /// The log was told and has not answered.
    Reported(Progress),
}

/// All users whose messages wait, by when they are due.
#[derive(Debug, Default)]
pub struct Schedule {
    jobs: BTreeMap<UserId, Job>,
    due: BTreeSet<(Instant, UserId)>,
    since: BTreeSet<(TimestampMs, UserId)>,
    running: usize,
    /// Nobody is visited before this: the receiver asked for it.
    paused: Option<Instant>,
    /// Some users had no room.
    overflowed: bool,
}

impl Schedule {
    /// The store has (again) something to tell about a user, which has waited since `since` and is due at `due`. False: there
    /// is no room for further users, and the store has to be read again when [`wants_more`](Self::wants_more) says so.
    pub fn wake(&mut self, user: UserId, since: TimestampMs, due: Instant) -> bool {
        let Some(job) = self.jobs.get_mut(&user) else {
            if self.jobs.len() >= JOBS_MAX {
                self.overflowed = true;
                return false;
            }
            let state = JobState::Due(due, Progress::default());
            self.jobs.insert(user, Job { since, state });
            self.due.insert((due, user));
            self.since.insert((since, user));
            return true;
        };
        self.since.remove(&(job.since, user));
        self.since.insert((since, user));
        job.since = since;
        match &mut job.state {
            // What is due is read from the store then.
            JobState::Due(..) => {}
            JobState::Running(changed) => *changed = true,
            JobState::Reported(progress) => {
                let progress = std::mem::take(progress);
                job.state = JobState::Due(due, progress);
                self.due.insert((due, user));
            }
        }
        true
    }

    /// The store has nothing to tell about a user any more.
    pub fn forget(&mut self, user: &UserId) {
        match self.jobs.get_mut(user).map(|job| &mut job.state) {
            // The visit finds out.
            Some(JobState::Running(changed)) => *changed = true,
            Some(JobState::Due(..) | JobState::Reported(_)) => self.remove(user),
            None => {}
        }
    }

    /// Every report may have been answered without our hearing it: looks again at all of them.
    pub fn recheck(&mut self, now: Instant) {
        for (user, job) in &mut self.jobs {
            if let JobState::Reported(progress) = &mut job.state {
                job.state = JobState::Due(now, std::mem::take(progress));
                self.due.insert((now, *user));
            }
        }
    }

    /// The next user to visit, if one is due and fewer than `running_max` visits are under way.
    pub fn start(&mut self, now: Instant, running_max: usize) -> Option<(UserId, Progress)> {
        if self.running >= running_max || self.paused.is_some_and(|until| now < until) {
            return None;
        }
        let (due, user) = *self.due.first()?;
        if due > now {
            return None;
        }
        self.due.pop_first();
        let job = self.jobs.get_mut(&user)?;
        let JobState::Due(_, progress) =
            std::mem::replace(&mut job.state, JobState::Running(false))
        else {
            return None;
        };
        self.running += 1;
        Some((user, progress))
    }

    /// A visit has ended.
    pub fn finish(&mut self, user: UserId, next: Next, now: Instant) {
        let Some(job) = self.jobs.get_mut(&user) else {
            return;
        };
        let JobState::Running(changed) = job.state else {
            return;
        };
        self.running -= 1;
        let (due, progress) = match next {
            // Something came after the visit had looked.
            Next::Done if changed => (now, Progress::default()),
            Next::Done => return self.remove(&user),
            Next::At(due, progress) => (due, progress),
            Next::Reported(progress) if changed => (now, progress),
            Next::Reported(progress) => {
                job.state = JobState::Reported(progress);
                return;
            }
        };
        job.state = JobState::Due(due, progress);
        self.due.insert((due, user));
    }

    /// Visits nobody until then; an earlier time changes nothing.
    pub fn pause(&mut self, until: Instant) {
        self.paused = self.paused.max(Some(until));
    }

    /// When to call [`start`](Self::start) again, if no visit ends before.
    pub fn next_start(&self, running_max: usize) -> Option<Instant> {
        if self.running >= running_max {
            return None;
        }
        let (due, _) = self.due.first()?;
        Some(self.paused.map_or(*due, |paused| paused.max(*due)))
    }

    /// Whether users had no room and there is some now; says so once.
    pub fn wants_more(&mut self) -> bool {
        let wants = self.overflowed && self.jobs.len() <= JOBS_MAX / 2;
        if wants {
            self.overflowed = false;
        }
        wants
    }

    /// Users that wait.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Since when the oldest has waited.
    pub fn oldest(&self) -> Option<TimestampMs> {
        self.since.first().map(|(since, _)| *since)
    }

    fn remove(&mut self, user: &UserId) {
        if let Some(job) = self.jobs.remove(user) {
            self.since.remove(&(job.since, *user));
            if let JobState::Due(due, _) = job.state {
                self.due.remove(&(due, *user));
            }
        }
    }
}

/// How long to wait after the `failed`-th try: a random part of `first`, doubled with each try, and of `most` at the most.
/// The whole range is used, so that what failed together does not come back together.
pub fn backoff(failed: u32, first: Duration, most: Duration, random: u64) -> Duration {
    let doubled = 2u32.saturating_pow(failed.saturating_sub(1).min(30));
    let range = first.saturating_mul(doubled).min(most);
    let share = random as f64 / u64::MAX as f64;
    range.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn user(number: usize) -> UserId {
        UserId::new(&format!("user{number}")).expect("a name")
    }

    fn at(ms: u64) -> TimestampMs {
        TimestampMs(ms)
    }

    #[test]
    fn users_are_visited_when_due_a_few_at_once() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.wake(user(1), at(10), now + SECOND);
        schedule.wake(user(2), at(5), now);
        schedule.wake(user(3), at(7), now);
        assert_eq!(schedule.oldest(), Some(at(5)));
        let first = schedule.start(now, 1).map(|(user, _)| user);
        assert_eq!(first, Some(user(2)));
        assert_eq!(schedule.start(now, 1), None, "one at once");
        assert_eq!(schedule.next_start(1), None, "until it ends");
        schedule.finish(user(2), Next::Done, now);
        assert_eq!(schedule.next_start(1), Some(now));
        assert_eq!(schedule.start(now, 9).map(|(user, _)| user), Some(user(3)));
        assert_eq!(schedule.start(now, 9), None, "user 1 is not due");
        assert_eq!(schedule.next_start(9), Some(now + SECOND));
        assert_eq!((schedule.len(), schedule.oldest()), (2, Some(at(7))));
    }

    #[test]
    fn what_changes_during_a_visit_brings_another() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        for change in [true, false] {
            schedule.wake(user(1), at(1), now);
            schedule.start(now, 1).expect("due");
            if change {
                schedule.wake(user(1), at(2), now + SECOND);
            } else {
                schedule.forget(&user(1));
            }
            schedule.finish(user(1), Next::Done, now);
            assert!(schedule.start(now, 1).is_some());
            schedule.finish(user(1), Next::Done, now);
            assert!(schedule.is_empty());
        }
        assert_eq!(schedule.oldest(), None);
    }

    #[test]
    fn a_report_waits_for_its_answer_and_keeps_its_progress() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let progress = Progress {
            reported: Cursor(7),
            ..Progress::default()
        };
        schedule.wake(user(1), at(1), now);
        schedule.start(now, 1).expect("due");
        schedule.finish(user(1), Next::Reported(progress.clone()), now);
        assert_eq!(schedule.next_start(1), None);
        schedule.wake(user(1), at(9), now + SECOND);
        assert_eq!(schedule.start(now, 1), None);
        assert_eq!(
            schedule.start(now + SECOND, 1),
            Some((user(1), progress.clone()))
        );
        // The answer came before the visit had ended.
        schedule.wake(user(1), at(9), now);
        schedule.finish(user(1), Next::Reported(progress.clone()), now);
        assert_eq!(schedule.start(now, 1), Some((user(1), progress.clone())));
        // The answer was not heard.
        schedule.finish(user(1), Next::Reported(progress), now);
        schedule.recheck(now);
        assert!(schedule.start(now, 1).is_some());
        schedule.finish(user(1), Next::Reported(Progress::default()), now);
        schedule.forget(&user(1));
        assert!(schedule.is_empty());
    }

    #[test]
    fn a_pause_holds_everybody_back() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.wake(user(1), at(1), now);
        schedule.pause(now + SECOND);
        schedule.pause(now);
        assert_eq!(schedule.start(now, 9), None);
        assert_eq!(schedule.next_start(9), Some(now + SECOND));
        assert!(schedule.start(now + SECOND, 9).is_some());
    }

    #[test]
    fn beyond_the_bound_users_are_looked_for_again_later() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        for number in 0..=JOBS_MAX {
            let room = schedule.wake(user(number), at(1), now);
            assert_eq!(room, number < JOBS_MAX);
        }
        assert_eq!(schedule.len(), JOBS_MAX);
        assert!(!schedule.wants_more());
        for number in 0..JOBS_MAX / 2 {
            schedule.forget(&user(number));
        }
        assert!(schedule.wants_more());
        assert!(!schedule.wants_more(), "once");
    }

    #[test]
    fn waits_grow_are_random_and_end() {
        let most = SECOND * 60;
        let longest = |failed| backoff(failed, SECOND, most, u64::MAX);
        assert_eq!([1, 2, 3, 4].map(longest), [1, 2, 4, 8].map(|n| SECOND * n));
        assert_eq!(longest(7), most);
        assert_eq!(longest(u32::MAX), most);
        assert_eq!(backoff(3, SECOND, most, 0), Duration::ZERO);
        assert_eq!(backoff(2, SECOND, most, u64::MAX / 2).as_millis(), 1_000);
    }
}
