//! Presence in virtual time: what each watcher is told, and a random history against a model that knows no board.
#![allow(
    clippy::disallowed_methods,
    reason = "a test has to begin at some time, and no decision depends on which"
)]

use proptest::prelude::*;

use super::*;

const GRACE: Duration = Duration::from_secs(10);
const BOUNDS: Bounds = Bounds {
    watches_max: 64,
    leaving_max: 8,
};

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a good name")
}

fn id(session: u64) -> WatcherId {
    WatcherId { session, times: 0 }
}

struct World {
    board: Board<u64>,
    start: Instant,
    seconds: u64,
}

impl World {
    fn new() -> Self {
        Self {
            board: Board::new(GRACE, BOUNDS),
            start: Instant::now(),
            seconds: 1000,
        }
    }

    fn now(&self) -> Moment {
        Moment {
            at: self.start + Duration::from_secs(self.seconds),
            wall: TimestampMs(self.seconds * 1000),
        }
    }

    /// Ana's session 1 watches ben.
    fn watching(attached: bool, facts: &Facts) -> (Self, PresenceEntry) {
        let mut world = Self::new();
        let watcher = (id(1), user("ana"), 1);
        assert!(world.board.watch(user("ben"), watcher, attached));
        let now = world.now();
        let entry = world.board.learn(now, user("ben"), id(1), attached, facts);
        (world, entry)
    }

    fn ben(&mut self, attached: bool) -> Vec<String> {
        let (mut news, now) = (Vec::new(), self.now());
        self.board.look(now, user("ben"), attached, &mut news);
        words(news)
    }

    fn pass(&mut self, seconds: u64) -> Vec<String> {
        self.seconds += seconds;
        let mut news = Vec::new();
        self.board.handle_timeout(self.now().at, &mut news);
        words(news)
    }

    fn decides(&mut self, settings: &Settings) -> Vec<String> {
        let mut news = Vec::new();
        self.board.settings(user("ben"), settings, &mut news);
        words(news)
    }
}

fn word(entry: &PresenceEntry) -> String {
    match (entry.here, entry.seen_at) {
        (true, None) => format!("{} here", entry.user),
        (false, Some(at)) => format!("{} seen {}", entry.user, at.0 / 1000),
        (false, None) => format!("{} unknown", entry.user),
        (true, Some(_)) => panic!("here and gone: {entry:?}"),
    }
}

fn words(news: News<u64>) -> Vec<String> {
    let words = news.iter();
    words
        .map(|(to, entry)| format!("{to}: {}", word(entry)))
        .collect()
}

#[test]
fn a_quick_resume_shows_nothing_and_a_real_end_is_told_after_the_grace() {
    let (mut world, entry) = World::watching(true, &Facts::default());
    assert_eq!(word(&entry), "ben here");
    assert!(world.ben(false).is_empty());
    assert!(world.pass(9).is_empty());
    assert!(world.ben(true).is_empty());
    assert_eq!(world.board.poll_timeout(), None, "nothing is due any more");
    assert!(world.pass(60).is_empty());
    assert!(world.ben(false).is_empty());
    assert_eq!(
        world.board.poll_timeout(),
        Some(world.now().at + GRACE),
        "told exactly after the grace"
    );
    assert!(world.pass(9).is_empty());
    // The time is when the session ended, not when that was told.
    assert_eq!(world.pass(1), ["1: ben seen 1069"]);
    assert_eq!(world.ben(true), ["1: ben here"]);
    assert!(world.ben(true).is_empty(), "another session is no news");
}

#[test]
fn who_left_a_moment_ago_is_still_here_for_somebody_who_asks_then() {
    // The board was not told, for example because the gateway is new: the store knows.
    let facts = Facts {
        last_seen: Some(TimestampMs(996_000)),
        ..Facts::default()
    };
    let (mut world, entry) = World::watching(false, &facts);
    assert_eq!(word(&entry), "ben here");
    assert_eq!(world.pass(6), ["1: ben seen 996"]);
    // The board was told, and the store not yet.
    let mut world = World::new();
    assert!(world.ben(false).is_empty());
    let now = world.now();
    let ask = |world: &mut World, now| {
        let entry = world
            .board
            .learn(now, user("ben"), id(1), false, &Facts::default());
        word(&entry)
    };
    assert_eq!(ask(&mut world, now), "ben here");
    world.pass(10);
    let now = world.now();
    assert_eq!(ask(&mut world, now), "ben unknown", "and nobody is kept");
    assert!(world.board.users.is_empty() && world.board.unwatched == 0);
}

#[test]
fn what_either_hides_is_not_told() {
    let hide = |presence, last_seen| Privacy {
        hide_presence: presence,
        hide_last_seen: last_seen,
        ..Privacy::default()
    };
    for (privacy, asker) in [
        (hide(true, false), hide(false, false)),
        (hide(false, false), hide(true, false)),
    ] {
        let facts = Facts {
            privacy,
            asker,
            last_seen: Some(TimestampMs(500_000)),
            ..Facts::default()
        };
        let (mut world, entry) = World::watching(true, &facts);
        assert_eq!(word(&entry), "ben seen 500");
        world.ben(false);
        assert_eq!(world.pass(10), ["1: ben seen 1000"]);
        assert!(world.ben(true).is_empty(), "coming is not told");
    }
    let facts = Facts {
        asker: hide(false, true),
        ..Facts::default()
    };
    let (mut world, entry) = World::watching(true, &facts);
    assert_eq!(word(&entry), "ben here");
    world.ben(false);
    assert_eq!(world.pass(10), ["1: ben unknown"]);
}

#[test]
fn a_decision_holds_at_once_and_against_what_the_store_said_before() {
    let (mut world, _) = World::watching(true, &Facts::default());
    let mut settings = Settings {
        blocked: vec![user("ana")],
        ..Settings::default()
    };
    assert_eq!(world.decides(&settings), ["1: ben unknown"]);
    settings.blocked.clear();
    assert_eq!(world.decides(&settings), ["1: ben here"]);
    settings.privacy.hide_presence = true;
    assert_eq!(world.decides(&settings), ["1: ben unknown"]);
    // Session 2 began to watch before the decision, and was answered from the store's older words after it.
    let watcher = (id(2), user("cleo"), 2);
    assert!(world.board.watch(user("ben"), watcher, true));
    settings.blocked = vec![user("cleo")];
    settings.privacy.hide_presence = false;
    assert_eq!(world.decides(&settings), ["1: ben here"]);
    let now = world.now();
    let entry = world
        .board
        .learn(now, user("ben"), id(2), true, &Facts::default());
    assert_eq!(word(&entry), "ben unknown");
}

#[test]
fn nobody_is_told_before_it_is_known_what_they_may_see() {
    let mut world = World::new();
    assert!(
        world
            .board
            .watch(user("ben"), (id(1), user("ana"), 1), false)
    );
    assert!(world.ben(true).is_empty());
    // It began to watch once more meanwhile: what was found out for the first time changes nothing.
    let again = WatcherId { times: 1, ..id(1) };
    world.board.unwatch(&user("ben"), id(1));
    assert!(
        world
            .board
            .watch(user("ben"), (again, user("ana"), 1), true)
    );
    let now = world.now();
    let late = world
        .board
        .learn(now, user("ben"), id(1), true, &Facts::default());
    assert_eq!(word(&late), "ben here");
    world.ben(false);
    assert!(world.pass(10).is_empty());
}

#[test]
fn bounds_are_kept() {
    let mut world = World::new();
    for session in 0..BOUNDS.watches_max as u64 {
        assert!(
            world
                .board
                .watch(user("ben"), (id(session), user("ana"), session), true)
        );
    }
    let one_more = (id(900), user("ana"), 900);
    assert!(!world.board.watch(user("ben"), one_more, true));
    assert_eq!(world.board.watches(), BOUNDS.watches_max);
    // One that watches already may begin anew.
    assert!(
        world
            .board
            .watch(user("ben"), (id(3), user("ana"), 3), true)
    );
    for number in 0..100 {
        let (mut news, now) = (Vec::new(), world.now());
        let leaver = user(&format!("user{number}"));
        world.board.look(now, leaver, false, &mut news);
    }
    assert_eq!(world.board.unwatched, BOUNDS.leaving_max);
    let mut board: Board<()> = Board::new(
        GRACE,
        Bounds {
            watches_max: usize::MAX,
            leaving_max: 0,
        },
    );
    let taken =
        (0..2000).filter(|session| board.watch(user("ben"), (id(*session), user("ana"), ()), true));
    assert_eq!(taken.count(), WATCHERS_PER_USER_MAX);
}

#[derive(Debug, Clone)]
enum Step {
    Session(bool),
    Pass(u64),
    Decide {
        presence: bool,
        seen: bool,
        block: bool,
    },
    Watch(u64),
    Unwatch(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => any::<bool>().prop_map(Step::Session),
        3 => (0_u64..15).prop_map(Step::Pass),
        1 => any::<(bool, bool, bool)>()
            .prop_map(|(presence, seen, block)| Step::Decide { presence, seen, block }),
        1 => (0_u64..3).prop_map(Step::Watch),
        1 => (0_u64..3).prop_map(Step::Unwatch),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, whoever watches has been told how things are, each thing once and in order.
    #[test]
    fn watchers_know_how_things_are(steps in steps()) {
        let mut world = World::new();
        // The model: whether ben has a session, when the last one ended, what ben decided, and what each watcher was told.
        let (mut here, mut ended, mut settings) = (false, None::<u64>, Settings::default());
        let mut told: BTreeMap<u64, PresenceEntry> = BTreeMap::new();
        for step in steps {
            let (mut news, now, ben) = (Vec::new(), world.now(), user("ben"));
            match step {
                Step::Session(begins) => {
                    let ends = here && !begins;
                    if ends {
                        ended = Some(world.seconds);
                    }
                    here = begins;
                    // An end of nothing is no end, and nobody looks.
                    if begins || ends {
                        world.board.look(now, ben, here, &mut news);
                    }
                }
                Step::Pass(seconds) => {
                    world.seconds += seconds;
                    world.board.handle_timeout(world.now().at, &mut news);
                }
                Step::Decide { presence, seen, block } => {
                    settings.privacy.hide_presence = presence;
                    settings.privacy.hide_last_seen = seen;
                    settings.blocked = if block { vec![user("ana")] } else { Vec::new() };
                    world.board.settings(ben, &settings, &mut news);
                }
                Step::Watch(session) => {
                    prop_assert!(world.board.watch(ben, (id(session), user("ana"), session), here));
                    let facts = Facts {
                        privacy: settings.privacy,
                        blocks: settings.blocks(&user("ana")),
                        last_seen: ended.map(|at| TimestampMs(at * 1000)),
                        ..Facts::default()
                    };
                    let entry = world.board.learn(now, ben, id(session), here, &facts);
                    told.insert(session, entry);
                }
                Step::Unwatch(session) => {
                    world.board.unwatch(&ben, id(session));
                    told.remove(&session);
                }
            }
            for (to, entry) in news {
                let before = told.insert(to, entry).expect("only watchers are told");
                prop_assert!(entry.order > before.order);
                prop_assert!((entry.here, entry.seen_at) != (before.here, before.seen_at), "{entry:?}");
            }
            let shown_here = here || ended.is_some_and(|at| world.seconds < at + GRACE.as_secs());
            let blocked = settings.blocks(&user("ana"));
            let is_here = shown_here && !blocked && !settings.privacy.hide_presence;
            for entry in told.values() {
                prop_assert_eq!(entry.here, is_here, "{:?} at {}", entry, world.seconds);
                prop_assert!(entry.seen_at.is_none() || !blocked && !settings.privacy.hide_last_seen);
                if !shown_here && !blocked && !settings.privacy.hide_last_seen {
                    prop_assert_eq!(entry.seen_at, ended.map(|at| TimestampMs(at * 1000)));
                }
            }
            prop_assert_eq!(world.board.watches(), told.len());
        }
        for session in told.into_keys() {
            world.board.unwatch(&user("ben"), id(session));
        }
        world.pass(GRACE.as_secs());
        prop_assert!(world.board.users.is_empty() && world.board.due.is_empty());
        prop_assert_eq!((world.board.watches, world.board.unwatched), (0, 0));
    }
}
