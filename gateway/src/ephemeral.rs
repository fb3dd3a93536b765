//! What is worth nothing a moment later: who types, who is here. In memory only, bounded, and dropped before anything else.
//!
//! Nothing here is in the log or the store, and nothing waits for it. What happens to a user of this gateway is [published]
//! (Hub::publish) as a value that names users and no sessions; whoever has sessions for it takes it from there. In one process
//! that is this hub itself. A cluster carries the same values over a topic that is not kept.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quipu_core::row::Settings;
use quipu_core::watch::{Board, Bounds, Facts, Moment, News, WatcherId};
use quipu_protocol::datagram::Typing;
use quipu_protocol::id::UserId;
use quipu_protocol::limits::PRESENCE_USERS_MAX;
use quipu_protocol::query::PresenceEntry;
use tokio::sync::Notify;

use crate::log::unix_time_now;
use crate::registry::{Mailbox, Registry};

/// How long a user is here after the last session, unless configured.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(10);
/// Locks that the presence of users is split into.
const BOARDS: usize = 16;
/// Sessions that watch a user, over all users and sessions; above it they are answered and not told of changes.
pub const WATCHES_MAX: usize = 1 << 20;
/// Users who have just left, remembered although nobody watches them; above it the store's word is taken.
const LEAVING_MAX: usize = 1 << 15;
/// Users of whom a session was not told yet that they type, or no longer do. Above it the news is dropped.
pub const TYPING_WAITING_MAX: usize = 16;

/// What happened to a user of this gateway that others may want to know now.
#[derive(Debug, Clone)]
pub enum Published {
    /// The user writes in a conversation, or no longer does.
    Typing {
        /// Who.
        from: UserId,
        /// Where.
        typing: Typing,
        /// The other members. Who of them hides typing, or has blocked the user, is for their own sessions to know.
        to: Arc<[UserId]>,
    },
    /// A session of the user began or ended.
    Attendance(UserId),
    /// The user has decided anew what others may learn.
    Settings(UserId, Arc<Settings>),
}

/// What a session has not been told yet. Small while nobody types, and never more than its bounds.
#[derive(Debug, Default)]
pub struct Fleeting {
    /// Who types, or no longer does: the last word of each; at most [`TYPING_WAITING_MAX`].
    pub typing: Vec<(UserId, Typing)>,
    /// The last word about each user that the session watches; at most [`PRESENCE_USERS_MAX`].
    pub presence: Vec<PresenceEntry>,
}

impl Fleeting {
    /// Returns whether it was dropped because there is too much.
    pub fn add_typing(&mut self, from: UserId, typing: Typing) -> bool {
        let same = |(user, known): &&mut (UserId, Typing)| {
            *user == from && known.conversation == typing.conversation
        };
        if let Some((_, known)) = self.typing.iter_mut().find(same) {
            *known = typing;
            return false;
        }
        let full = self.typing.len() >= TYPING_WAITING_MAX;
        if !full {
            self.typing.push((from, typing));
        }
        full
    }

    /// Returns whether it was dropped because there is too much.
    pub fn add_presence(&mut self, entry: PresenceEntry) -> bool {
        let mut known = self.presence.iter_mut();
        if let Some(known) = known.find(|known| known.user == entry.user) {
            if known.order < entry.order {
                *known = entry;
            }
            return false;
        }
        let full = self.presence.len() >= PRESENCE_USERS_MAX;
        if !full {
            self.presence.push(entry);
        }
        full
    }

    /// Adds what came later.
    pub fn add(&mut self, later: Self) {
        for (from, typing) in later.typing {
            self.add_typing(from, typing);
        }
        for entry in later.presence {
            self.add_presence(entry);
        }
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.typing.is_empty() && self.presence.is_empty()
    }
}

/// What the hub counts.
#[derive(Debug, Default)]
pub struct HubStats {
    /// News of typing put into mailboxes.
    pub typing: AtomicU64,
    /// News of typing that a filling mailbox dropped.
    pub typing_dropped: AtomicU64,
    /// Changes of presence put into mailboxes.
    pub presence: AtomicU64,
    /// Users that a session wanted to watch and that it will not be told of, because too many are watched.
    pub watches_refused: AtomicU64,
}

/// Who is here and who wants to know.
#[derive(Debug)]
pub struct Hub {
    hasher: RandomState,
    boards: Vec<Mutex<Board<Arc<Mailbox>>>>,
    wake: Notify,
    stats: HubStats,
}

impl Hub {
    /// Nobody is watched. `grace`: how long a user is here after the last session.
    pub fn new(grace: Duration) -> Self {
        let bounds = Bounds {
            watches_max: WATCHES_MAX / BOARDS,
            leaving_max: LEAVING_MAX / BOARDS,
        };
        let board = |_| Mutex::new(Board::new(grace, bounds));
        Self {
            hasher: RandomState::new(),
            boards: (0..BOARDS).map(board).collect(),
            wake: Notify::new(),
            stats: HubStats::default(),
        }
    }

    /// What it has counted.
    pub fn stats(&self) -> &HubStats {
        &self.stats
    }

    /// Sessions that watch a user, over all users.
    pub fn watches(&self) -> usize {
        self.boards.iter().map(|board| board.lock().watches()).sum()
    }

    /// Takes what was published here, for the sessions of this gateway.
    pub(crate) fn take(&self, published: Published, registry: &Registry) {
        let mut news = News::new();
        match published {
            Published::Typing { from, typing, to } => {
                let (told, dropped) = registry.typing(&to, from, typing);
                self.stats.typing.fetch_add(told, Ordering::Relaxed);
                self.stats
                    .typing_dropped
                    .fetch_add(dropped, Ordering::Relaxed);
            }
            Published::Attendance(user) => {
                let mut board = self.board(&user).lock();
                // Asked for under the board's lock: whoever looks last sees how it is.
                let attached = registry.is_here(&user);
                let due = board.poll_timeout();
                board.look(now(), user, attached, &mut news);
                if board.poll_timeout() != due {
                    self.wake.notify_one();
                }
            }
            Published::Settings(user, settings) => {
                self.board(&user)
                    .lock()
                    .settings(user, &settings, &mut news);
                registry.set_settings(&user, &settings);
            }
        }
        self.tell(news);
    }

    /// Ends what is over by itself, for as long as it is polled.
    pub async fn run(&self) {
        loop {
            let due = self
                .boards
                .iter()
                .filter_map(|board| board.lock().poll_timeout())
                .min();
            let sleep = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {}
                () = self.wake.notified() => {}
            }
            for board in &self.boards {
                let mut news = News::new();
                board.lock().handle_timeout(Instant::now(), &mut news);
                self.tell(news);
            }
        }
    }

    fn tell(&self, news: News<Arc<Mailbox>>) {
        self.stats
            .presence
            .fetch_add(news.len() as u64, Ordering::Relaxed);
        for (mailbox, entry) in news {
            mailbox.presence(entry);
        }
    }

    fn board(&self, user: &UserId) -> &Mutex<Board<Arc<Mailbox>>> {
        &self.boards[self.hasher.hash_one(user) as usize % BOARDS]
    }
}

fn now() -> Moment {
    Moment {
        at: Instant::now(),
        wall: unix_time_now(),
    }
}

/// The users that one session watches. The session ends it by dropping its [`Watch`]; requests that come late change nothing.
#[derive(Debug)]
pub struct Watching {
    registry: Arc<Registry>,
    user: UserId,
    mailbox: Arc<Mailbox>,
    state: Mutex<WatchingState>,
}

#[derive(Debug, Default)]
struct WatchingState {
    ended: bool,
    times: u64,
    users: Vec<UserId>,
    /// Whether what was begun anew is being learned, and has to be once more.
    learning: bool,
    learn_again: bool,
}

/// Whom a session watches again, and as whom.
#[derive(Debug)]
pub struct Begun {
    /// The session, this time.
    pub id: WatcherId,
    /// The users.
    pub users: Vec<UserId>,
}

impl Watching {
    /// Nobody yet, for a session of `user` that receives in `mailbox`.
    pub fn new(registry: &Arc<Registry>, user: UserId, mailbox: &Arc<Mailbox>) -> Arc<Self> {
        Arc::new(Self {
            registry: Arc::clone(registry),
            user,
            mailbox: Arc::clone(mailbox),
            state: Mutex::default(),
        })
    }

    /// Watches these users and no others any more; silently, until [`learn`](Self::learn) has said what is known of each. At
    /// most [`PRESENCE_USERS_MAX`] are taken.
    pub fn begin(&self, users: &[UserId]) -> WatcherId {
        self.begin_with(&mut self.state.lock(), users)
    }

    /// Begins anew with the same users, silently from this moment on: the user has decided something that changes what may be
    /// told. Says what has to be learned, unless somebody is at it: one reading at a time, however often the user decides.
    pub fn begin_again(&self) -> Option<Begun> {
        let mut state = self.state.lock();
        let users = state.users.clone();
        let id = self.begin_with(&mut state, &users);
        if users.is_empty() {
            return None;
        }
        if state.learning {
            state.learn_again = true;
            return None;
        }
        state.learning = true;
        Some(Begun { id, users })
    }

    /// What was begun anew is learned. Says what has to be learned once more, because the user decided again meanwhile.
    pub fn learned(&self) -> Option<Begun> {
        let mut state = self.state.lock();
        if !std::mem::take(&mut state.learn_again) {
            state.learning = false;
            return None;
        }
        let users = state.users.clone();
        let id = self.begin_with(&mut state, &users);
        Some(Begun { id, users })
    }

    fn begin_with(&self, state: &mut WatchingState, users: &[UserId]) -> WatcherId {
        let hub = self.registry.hub();
        let id = |times| WatcherId {
            session: self.mailbox.number(),
            times,
        };
        let before = id(state.times);
        for user in std::mem::take(&mut state.users) {
            hub.board(&user).lock().unwatch(&user, before);
        }
        state.times += 1;
        let now = id(state.times);
        if state.ended {
            return now;
        }
        for user in users.iter().take(PRESENCE_USERS_MAX) {
            let mut board = hub.board(user).lock();
            let attached = self.registry.is_here(user);
            let watcher = (now, self.user, Arc::clone(&self.mailbox));
            if board.watch(*user, watcher, attached) {
                state.users.push(*user);
            } else {
                hub.stats.watches_refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        now
    }

    /// How things are with a user of whom the store says `facts`. If `id` watches it, changes are told from now on.
    pub fn learn(&self, user: UserId, id: WatcherId, facts: &Facts) -> PresenceEntry {
        let hub = self.registry.hub();
        let mut board = hub.board(&user).lock();
        let attached = self.registry.is_here(&user);
        let due = board.poll_timeout();
        let entry = board.learn(now(), user, id, attached, facts);
        if board.poll_timeout() != due {
            hub.wake.notify_one();
        }
        entry
    }

    /// Watches a user no longer, of whom this session is told nothing.
    pub fn leave_out(&self, user: &UserId, id: WatcherId) {
        self.registry.hub().board(user).lock().unwatch(user, id);
    }

    /// The name of a session that watches nobody, for one question.
    pub fn nobody(&self) -> WatcherId {
        WatcherId {
            session: self.mailbox.number(),
            times: 0,
        }
    }

    /// Tells the session how things are, as if it had changed.
    pub fn tell(&self, entries: impl IntoIterator<Item = PresenceEntry>) {
        for entry in entries {
            self.mailbox.presence(entry);
        }
    }

    /// Who watches.
    pub fn user(&self) -> UserId {
        self.user
    }
}

/// Ends a session's watching when it is dropped.
#[derive(Debug)]
pub struct Watch(pub Arc<Watching>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.state.lock().ended = true;
        self.0.begin(&[]);
    }
}

#[cfg(test)]
mod tests {
    use quipu_protocol::id::{ConversationId, TimestampMs};

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("a good name")
    }

    fn entry(name: &str, order: u64) -> PresenceEntry {
        PresenceEntry {
            user: user(name),
            here: false,
            seen_at: Some(TimestampMs(order)),
            order,
        }
    }

    #[test]
    fn a_session_waits_for_the_last_word_of_each_and_not_for_more() {
        let mut waiting = Fleeting::default();
        let typing = |on| Typing {
            conversation: ConversationId([1; 16]),
            on,
        };
        for on in [true, false, true, false] {
            assert!(!waiting.add_typing(user("ana"), typing(on)));
        }
        assert_eq!(waiting.typing, [(user("ana"), typing(false))]);
        let dropped = (0..100).filter(|n| waiting.add_typing(user(&format!("u{n}")), typing(true)));
        assert_eq!(dropped.count(), 101 - TYPING_WAITING_MAX);
        // The later word holds, in whatever order they come.
        for order in [3, 5, 4] {
            assert!(!waiting.add_presence(entry("ben", order)));
        }
        assert_eq!(waiting.presence, [entry("ben", 5)]);
        let mut later = Fleeting::default();
        later.add_presence(entry("ben", 6));
        waiting.add(later);
        assert_eq!(waiting.presence, [entry("ben", 6)]);
        let dropped = (0..300).filter(|n| waiting.add_presence(entry(&format!("u{n}"), 1)));
        assert_eq!(dropped.count(), 301 - PRESENCE_USERS_MAX);
        assert!(!waiting.is_empty() && Fleeting::default().is_empty());
    }

    #[test]
    fn however_often_a_user_decides_one_reading_is_under_way() {
        let registry = Registry::new();
        let mailbox = Mailbox::new();
        let watching = Watching::new(&registry, user("ana"), &mailbox);
        assert!(watching.begin_again().is_none(), "it watches nobody");
        let first = watching.begin(&[user("ben")]);
        let again = watching.begin_again().expect("to be learned");
        assert!(again.users == [user("ben")] && again.id != first);
        for _ in 0..100 {
            assert!(watching.begin_again().is_none(), "somebody is at it");
        }
        // What is learned too late is told to nobody, and once more is enough.
        watching.learn(user("ben"), again.id, &Facts::default());
        let _ben = registry.attach(
            user("ben"),
            quipu_protocol::id::DeviceId::new(1).expect("not 0"),
            Mailbox::new(),
        );
        assert!(mailbox.take().fleeting.is_none());
        let last = watching.learned().expect("once more");
        let here = watching.learn(user("ben"), last.id, &Facts::default());
        assert!(here.here);
        assert!(watching.learned().is_none());
        assert!(watching.begin_again().is_some(), "and from now on anew");
    }

    #[test]
    fn a_watch_ends_with_its_session_and_late_questions_change_nothing() {
        let registry = Registry::new();
        let mailbox = Mailbox::new();
        let watch = Watch(Watching::new(&registry, user("ana"), &mailbox));
        let late = Arc::clone(&watch.0);
        late.begin(&[user("ben"), user("cleo")]);
        assert_eq!(registry.hub().watches(), 2);
        late.begin(&[user("cleo")]);
        assert_eq!(registry.hub().watches(), 1);
        drop(watch);
        assert_eq!(registry.hub().watches(), 0);
        late.begin(&[user("ben")]);
        assert_eq!(registry.hub().watches(), 0);
        let many: Vec<UserId> = (0..300).map(|n| user(&format!("u{n}"))).collect();
        let other = Watching::new(&registry, user("ana"), &Mailbox::new());
        other.begin(&many);
        assert_eq!(registry.hub().watches(), PRESENCE_USERS_MAX);
    }
}
