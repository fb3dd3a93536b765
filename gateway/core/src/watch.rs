//! Who is told whether a user is here: the grace after the last session, privacy, and what each watcher was told.
//!
//! A board knows users whom somebody watches, and for the time of the grace those who have just left. It is told what happens
//! to them and says who has to be told what. What it was told of a watcher and a user lies in the store; what
//! it has not been told yet it tells nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use quipu_protocol::event::Privacy;
use quipu_protocol::id::{TimestampMs, UserId};
use quipu_protocol::query::PresenceEntry;

use crate::limits::WATCHERS_PER_USER_MAX;
use crate::row::Settings;

/// A session that watches, on this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatcherId {
    /// Which session.
    pub session: u64,
    /// How often it has begun to watch: what is found out for an earlier time is not for this one.
    pub times: u64,
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// For deadlines.
    pub at: Instant,
    /// For people.
    pub wall: TimestampMs,
}

/// What the store says of a user to somebody who asks.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// What the user hides.
    pub privacy: Privacy,
    /// Whether the user has blocked the one who asks.
    pub blocks: bool,
    /// When the user was last here.
    pub last_seen: Option<TimestampMs>,
    /// What the one who asks hides.
    pub asker: Privacy,
    /// Whether that one has blocked the user.
    pub asker_blocks: bool,
}

/// Bounds of one board. At either there is no change, and [`Board::watch`] says so.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Watchers of all users together.
    pub watches_max: usize,
    /// Users without a watcher who have just left and are remembered. Of one that is not, the store tells nearly the same.
    pub leaving_max: usize,
}

/// Who has to be told what.
pub type News<H> = Vec<(H, PresenceEntry)>;

/// Presence of some users. `H` is how the caller reaches a watcher.
///
/// ```text
///            the last session ended                 the grace is over
///   Here ───────────────────────────> Leaving ────────────────────────> Away
///     ^                                  │ a session began                 │ a session began
///     └──────────────────────────────────┴─────────────────────────────────┘
/// ```
///
/// Leaving is told as Here.
#[derive(Debug)]
pub struct Board<H> {
    grace: Duration,
    bounds: Bounds,
    /// Grows with everything that is told (QP-PRESENCE-4).
    order: u64,
    users: BTreeMap<UserId, Watched<H>>,
    /// When the grace of each one who is leaving is over.
    due: BTreeSet<(Instant, UserId)>,
    watches: usize,
    /// Users without a watcher.
    unwatched: usize,
}

#[derive(Debug)]
struct Watched<H> {
    state: State,
    /// When the user was last here, as far as is known.
    seen: Option<TimestampMs>,
    /// What the user hides; `None`: nobody has found out yet.
    privacy: Option<Privacy>,
    watchers: BTreeMap<WatcherId, Watcher<H>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Here,
    Leaving { until: Instant, since: TimestampMs },
    Away,
}

#[derive(Debug)]
struct Watcher<H> {
    to: H,
    user: UserId,
    /// Whether the user has blocked this one; `None`: not found out yet.
    blocked: Option<bool>,
    /// What this one hides, and whether it has blocked the user; `None`: not found out yet, and nothing is told.
    asker: Option<(Privacy, bool)>,
    told: Shown,
}

/// What somebody is shown of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Shown {
    here: bool,
    seen: Option<TimestampMs>,
}

impl<H: Clone> Board<H> {
    /// Nobody is watched. `grace`: how long a user is here after the last session.
    pub fn new(grace: Duration, bounds: Bounds) -> Self {
        Self {
            grace,
            bounds,
            order: 0,
            users: BTreeMap::new(),
            due: BTreeSet::new(),
            watches: 0,
            unwatched: 0,
        }
    }

    /// Sessions that watch a user, over all users.
    pub fn watches(&self) -> usize {
        self.watches
    }

    /// Begins to watch `user` for a session of `watcher`, silently until [`learn`](Self::learn). `attached`: whether the user
    /// has a session now. False: a bound is reached, and nothing has changed.
    pub fn watch(
        &mut self,
        user: UserId,
        (id, watcher, to): (WatcherId, UserId, H),
        attached: bool,
    ) -> bool {
        let known = self.users.get(&user);
        let again = known.is_some_and(|known| known.watchers.contains_key(&id));
        let full = known.is_some_and(|known| known.watchers.len() >= WATCHERS_PER_USER_MAX);
        if !again && (full || self.watches >= self.bounds.watches_max) {
            return false;
        }
        let watched = self.users.entry(user).or_insert_with(|| {
            self.unwatched += 1;
            Watched::new(if attached { State::Here } else { State::Away })
        });
        if watched.watchers.is_empty() {
            self.unwatched -= 1;
        }
        if !again {
            self.watches += 1;
        }
        let watcher = Watcher {
            to,
            user: watcher,
            blocked: None,
            asker: None,
            told: Shown::default(),
        };
        watched.watchers.insert(id, watcher);
        true
    }

    /// What the store says, which may be older than what came meanwhile. From now on changes are told; this is how things
    /// are now. For a session that does not watch, only the second.
    pub fn learn(
        &mut self,
        now: Moment,
        user: UserId,
        id: WatcherId,
        attached: bool,
        facts: &Facts,
    ) -> PresenceEntry {
        let Some(watched) = self.users.get_mut(&user) else {
            let state = State::of(now, self.grace, attached, facts.last_seen);
            let shown = state.shown(facts.last_seen, facts);
            return shown.entry(user, self.order);
        };
        watched.seen = watched.seen.max(facts.last_seen);
        if watched.privacy.is_none() && watched.state == State::Away {
            // Nobody has found out yet that the user was here a moment ago, which only the store knows.
            watched.state = State::of(now, self.grace, false, facts.last_seen);
            if let State::Leaving { until, .. } = watched.state {
                self.due.insert((until, user));
            }
        }
        let privacy = watched.privacy.unwrap_or(facts.privacy);
        let watcher = watched.watchers.get_mut(&id);
        let blocks = match &watcher {
            Some(watcher) => watcher.blocked.unwrap_or(facts.blocks),
            None => facts.blocks,
        };
        let newest = Facts {
            privacy,
            blocks,
            ..facts.clone()
        };
        let shown = watched.state.shown(watched.seen, &newest);
        if let Some(watcher) = watcher {
            self.order += 1;
            watched.privacy = Some(privacy);
            watcher.blocked = Some(blocks);
            watcher.asker = Some((facts.asker, facts.asker_blocks));
            watcher.told = shown;
        }
        shown.entry(user, self.order)
    }

    /// The session no longer watches this user.
    pub fn unwatch(&mut self, user: &UserId, id: WatcherId) {
        let Some(watched) = self.users.get_mut(user) else {
            return;
        };
        if watched.watchers.remove(&id).is_some() {
            self.watches -= 1;
            if watched.watchers.is_empty() {
                self.unwatched += 1;
                self.forget_idle(user);
            }
        }
    }

    /// A session of the user began or ended; `attached`: whether there is one now.
    pub fn look(&mut self, now: Moment, user: UserId, attached: bool, news: &mut News<H>) {
        let Some(watched) = self.users.get_mut(&user) else {
            if !attached && self.unwatched < self.bounds.leaving_max {
                self.unwatched += 1;
                let leaving = self.leaving(now, user);
                self.users.insert(user, Watched::new(leaving));
            }
            return;
        };
        match (watched.state, attached) {
            (State::Here, false) => {
                let leaving = self.leaving(now, user);
                self.set(user, leaving);
            }
            (State::Leaving { until, .. }, true) => {
                self.due.remove(&(until, user));
                self.set(user, State::Here);
                self.forget_idle(&user);
            }
            (State::Away, true) => {
                self.set(user, State::Here);
                self.tell(user, news);
            }
            (State::Here, true) | (State::Leaving { .. } | State::Away, false) => {}
        }
    }

    /// The user has decided anew what others may learn.
    pub fn settings(&mut self, user: UserId, settings: &Settings, news: &mut News<H>) {
        let Some(watched) = self.users.get_mut(&user) else {
            return;
        };
        watched.privacy = Some(settings.privacy);
        for watcher in watched.watchers.values_mut() {
            watcher.blocked = Some(settings.blocks(&watcher.user));
        }
        self.tell(user, news);
    }

    /// Tells of those whose grace is over.
    pub fn handle_timeout(&mut self, now: Instant, news: &mut News<H>) {
        while let Some(user) = self.take_due(now) {
            if let Some(watched) = self.users.get_mut(&user)
                && let State::Leaving { since, .. } = watched.state
            {
                watched.seen = watched.seen.max(Some(since));
                watched.state = State::Away;
                self.tell(user, news);
                self.forget_idle(&user);
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    fn take_due(&mut self, now: Instant) -> Option<UserId> {
        self.due.first().filter(|(at, _)| *at <= now)?;
        self.due.pop_first().map(|(_, user)| user)
    }

    fn leaving(&mut self, now: Moment, user: UserId) -> State {
        let until = now.at + self.grace;
        self.due.insert((until, user));
        State::Leaving {
            until,
            since: now.wall,
        }
    }

    fn set(&mut self, user: UserId, state: State) {
        if let Some(watched) = self.users.get_mut(&user) {
            watched.state = state;
        }
    }

    /// Lets go of a user whom nobody watches and who is not leaving.
    fn forget_idle(&mut self, user: &UserId) {
        let idle = self.users.get(user).is_some_and(|watched| {
            watched.watchers.is_empty() && !matches!(watched.state, State::Leaving { .. })
        });
        if idle {
            self.users.remove(user);
            self.unwatched -= 1;
        }
    }

    /// Tells every watcher of the user what it has not been told.
    fn tell(&mut self, user: UserId, news: &mut News<H>) {
        let Some(watched) = self.users.get_mut(&user) else {
            return;
        };
        self.order += 1;
        for watcher in watched.watchers.values_mut() {
            let (Some((asker, asker_blocks)), Some(privacy)) = (watcher.asker, watched.privacy)
            else {
                continue;
            };
            let facts = Facts {
                privacy,
                blocks: watcher.blocked.unwrap_or(false),
                last_seen: None,
                asker,
                asker_blocks,
            };
            let shown = watched.state.shown(watched.seen, &facts);
            if shown != watcher.told {
                watcher.told = shown;
                news.push((watcher.to.clone(), shown.entry(user, self.order)));
            }
        }
    }
}

impl<H> Watched<H> {
    fn new(state: State) -> Self {
        Self {
            state,
            seen: None,
            privacy: None,
            watchers: BTreeMap::new(),
        }
    }
}

impl State {
    /// The state of a user of whom only the store and the sessions are known.
    fn of(now: Moment, grace: Duration, attached: bool, seen: Option<TimestampMs>) -> Self {
        let Some(since) = seen.filter(|_| !attached) else {
            return if attached { Self::Here } else { Self::Away };
        };
        let gone = Duration::from_millis(now.wall.0.saturating_sub(since.0));
        match grace.checked_sub(gone) {
            Some(left) if !left.is_zero() => Self::Leaving {
                until: now.at + left,
                since,
            },
            Some(_) | None => Self::Away,
        }
    }

    /// What somebody may be shown of it (QP-PRESENCE-1).
    fn shown(self, seen: Option<TimestampMs>, facts: &Facts) -> Shown {
        if facts.blocks || facts.asker_blocks {
            return Shown::default();
        }
        let here = match self {
            Self::Here | Self::Leaving { .. } => true,
            Self::Away => false,
        };
        let here = here && !facts.privacy.hide_presence && !facts.asker.hide_presence;
        let hides_seen = facts.privacy.hide_last_seen || facts.asker.hide_last_seen;
        Shown {
            here,
            seen: seen.filter(|_| !here && !hides_seen),
        }
    }
}

impl Shown {
    fn entry(self, user: UserId, order: u64) -> PresenceEntry {
        PresenceEntry {
            user,
            here: self.here,
            seen_at: self.seen,
            order,
        }
    }
}

#[cfg(test)]
mod tests;
