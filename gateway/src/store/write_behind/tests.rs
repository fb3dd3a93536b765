//! The write-behind store against the contract, against a plain model with crashes, and at its limits.

use std::path::Path;

use proptest::prelude::*;
use quipu_core::shard::ShardCount;

use super::*;
use crate::contract::store::{
    conversation, durable_suite, history_row, inbox_row, scan_all, seq, suite, user,
};
use crate::folder::DataFolder;
use crate::store::{FjallStore, MemoryStore};

/// Writes out only when it must, so that rows stay where the test put them.
const PATIENT: WriteBehindOptions = WriteBehindOptions {
    flush_interval: Duration::from_secs(3600),
    overlay_bytes_max: usize::MAX,
};
/// Writes out all the time.
const HASTY: WriteBehindOptions = WriteBehindOptions {
    flush_interval: Duration::ZERO,
    overlay_bytes_max: 2_000,
};

fn open(path: &Path, options: WriteBehindOptions) -> WriteBehind<FjallStore> {
    let folder = DataFolder::open_or_create(path, ShardCount(4)).expect("the folder opens");
    let fjall = FjallStore::open(&folder, 1024 * 1024).expect("the store opens");
    WriteBehind::new(fjall, options).expect("a thread")
}

#[test]
fn passes_the_contract_over_memory() {
    for options in [PATIENT, HASTY, WriteBehindOptions::default()] {
        suite(&mut || Box::new(WriteBehind::new(MemoryStore::new(), options).unwrap()));
    }
}

#[test]
fn passes_the_contract_over_fjall() {
    for options in [PATIENT, HASTY] {
        let mut folders = Vec::new();
        suite(&mut || {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path(), options);
            folders.push(dir);
            Box::new(store)
        });
        let dir = tempfile::tempdir().unwrap();
        durable_suite(&mut || Box::new(open(dir.path(), options)));
    }
}

/// A store whose commits wait for a permit, or fail.
#[derive(Default)]
struct Gated {
    inner: MemoryStore,
    gate: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Default)]
struct Gate {
    permits: usize,
    waiting: usize,
    broken: bool,
}

impl Gated {
    fn change(&self, change: impl FnOnce(&mut Gate)) {
        change(&mut self.gate.lock());
        self.changed.notify_all();
    }

    fn wait_until_a_commit_waits(&self) {
        let mut gate = self.gate.lock();
        while gate.waiting == 0 {
            self.changed.wait(&mut gate);
        }
    }
}

impl Store for Arc<Gated> {
    fn commit(&self, rows: Vec<Row>) -> Result<(), StoreError> {
        let mut gate = self.gate.lock();
        gate.waiting += 1;
        self.changed.notify_all();
        while gate.permits == 0 && !gate.broken {
            self.changed.wait(&mut gate);
        }
        gate.waiting -= 1;
        if gate.broken {
            return Err(StoreError::Backend("the test broke the disk".into()));
        }
        gate.permits -= 1;
        drop(gate);
        self.inner.commit(rows)
    }

    fn entities(&self, keys: &[EntityKey]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.inner.entities(keys)
    }

    fn shard(&self, shard: ShardId) -> Result<Option<Bytes>, StoreError> {
        self.inner.shard(shard)
    }

    fn history(
        &self,
        conversation: &ConversationId,
        range: HistoryRange,
    ) -> Result<Vec<HistoryRow>, StoreError> {
        self.inner.history(conversation, range)
    }

    fn inbox(
        &self,
        user: &UserId,
        after: Cursor,
        limit: usize,
    ) -> Result<Vec<InboxRow>, StoreError> {
        self.inner.inbox(user, after, limit)
    }

    fn index(
        &self,
        range: &IndexRange,
        limit: usize,
    ) -> Result<Vec<(IndexKey, Bytes)>, StoreError> {
        self.inner.index(range, limit)
    }

    fn sync(&self) -> Result<Durable, StoreError> {
        self.inner.sync()
    }

    fn scan(&self, visit: &mut dyn FnMut(Row) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.inner.scan(visit)
    }
}

fn shard_row(number: u64) -> Row {
    Row::Shard(ShardId(0), Bytes::copy_from_slice(&number.to_be_bytes()))
}

#[test]
fn reads_see_active_over_frozen_over_inner() {
    let gated = Arc::new(Gated::default());
    gated
        .inner
        .commit(vec![shard_row(1), Row::History(history_row(1, 1, "inner"))])
        .unwrap();
    let store = WriteBehind::new(Arc::clone(&gated), HASTY).unwrap();
    store
        .commit(vec![
            shard_row(2),
            Row::History(history_row(1, 2, "frozen")),
        ])
        .unwrap();
    gated.wait_until_a_commit_waits();
    assert_eq!(
        store.shard(ShardId(0)).unwrap().unwrap()[7],
        2,
        "while it is written out"
    );
    store
        .commit(vec![
            shard_row(3),
            Row::History(history_row(1, 3, "active")),
        ])
        .unwrap();
    assert_eq!(store.shard(ShardId(0)).unwrap().unwrap()[7], 3);
    for newest_first in [false, true] {
        let range = HistoryRange {
            newest_first,
            ..HistoryRange::ALL
        };
        let rows = store.history(&conversation(1), range).unwrap();
        let expected = [(1, "inner"), (2, "frozen"), (3, "active")];
        assert_eq!(rows, expected.map(|(n, text)| history_row(1, n, text)));
    }
    gated.change(|gate| gate.permits = 2);
    let durable = store.sync().unwrap();
    assert_eq!(durable.shards[0].1[7], 3);
    assert_eq!(store.stats().flushes.load(Ordering::Relaxed), 2);
}

#[test]
fn a_full_overlay_holds_commits_back() {
    let gated = Arc::new(Gated::default());
    let store = Arc::new(WriteBehind::new(Arc::clone(&gated), HASTY).unwrap());
    let long = "x".repeat(HASTY.overlay_bytes_max);
    let row = |number| vec![Row::History(history_row(1, number, &long))];
    store.commit(row(1)).unwrap();
    gated.wait_until_a_commit_waits();
    // The first is frozen, so the second has room, and the third has not.
    store.commit(row(2)).unwrap();
    let third = std::thread::spawn({
        let store = Arc::clone(&store);
        let row = row(3);
        move || store.commit(row)
    });
    gated.change(|gate| gate.permits = 100);
    third.join().unwrap().unwrap();
    store.sync().unwrap();
    assert_eq!(scan_all(&gated).len(), 3);
    assert_eq!(store.stats().commits.load(Ordering::Relaxed), 3);
}

#[test]
fn a_failed_flush_is_final() {
    let gated = Arc::new(Gated::default());
    let store = WriteBehind::new(Arc::clone(&gated), HASTY).unwrap();
    store.commit(vec![shard_row(1)]).unwrap();
    gated.change(|gate| gate.broken = true);
    let failed = store.sync();
    assert!(matches!(failed, Err(StoreError::Closed(_))), "{failed:?}");
    gated.change(|gate| (gate.broken, gate.permits) = (false, 100));
    let refused = store.commit(vec![shard_row(2)]);
    assert!(matches!(refused, Err(StoreError::Closed(_))), "{refused:?}");
    assert!(store.sync().is_err());
    assert_eq!(
        store.shard(ShardId(0)).unwrap().unwrap()[7],
        1,
        "reads go on"
    );
}

/// What may happen to a store.
#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Row>),
    Sync,
    /// Close in order and open again.
    Reopen,
    /// Lose what is in memory and open again.
    Crash,
    History(u8, HistoryRange),
    Inbox(&'static str, u64, usize),
    Entities(Vec<EntityKey>),
}

fn some_row() -> impl Strategy<Value = Row> {
    let names = prop::sample::select(vec!["aa", "aaa"]);
    let text = (0..40usize, "[a-z]{3}").prop_map(|(n, text)| text.repeat(1 + n));
    prop_oneof![
        // A history row never changes, so its text follows from its key.
        4 => (0..2u8, 1..30u64).prop_map(|(c, n)| {
            let bytes = (u64::from(c) * 13 + n * 31) % 120;
            Row::History(history_row(c, n, &"x".repeat(1 + bytes as usize)))
        }),
        4 => (names.clone(), 1..30u64).prop_map(|(name, n)| Row::Inbox(inbox_row(name, n))),
        2 => (names, text).prop_map(|(name, t)| Row::Entity(EntityKey::Inbox(user(name)), t.into())),
    ]
}

fn some_range() -> impl Strategy<Value = HistoryRange> {
    let last = prop::option::of(1..32u64);
    (1..32u64, last, 0..12usize, 0..400usize, any::<bool>()).prop_map(
        |(first, last, limit, bytes, newest_first)| HistoryRange {
            first: seq(first),
            last: last.map(seq),
            limit,
            bytes,
            newest_first,
        },
    )
}

fn some_step() -> impl Strategy<Value = Step> {
    let names = prop::sample::select(vec!["aa", "aaa", "bb"]);
    let keys = names.clone().prop_map(|name| EntityKey::Inbox(user(name)));
    prop_oneof![
        10 => prop::collection::vec(some_row(), 0..6).prop_map(Step::Commit),
        2 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
        10 => (0..3u8, some_range()).prop_map(|(c, range)| Step::History(c, range)),
        5 => (names, 0..32u64, 0..12usize).prop_map(|(n, after, limit)| Step::Inbox(n, after, limit)),
        3 => prop::collection::vec(keys, 0..4).prop_map(Step::Entities),
    ]
}

/// A model that knows every commit, so that it can go back to where a crash left the store.
#[derive(Default)]
struct Model {
    store: MemoryStore,
    commits: Vec<Vec<Row>>,
    durable: usize,
}

impl Model {
    fn commit(&mut self, mut rows: Vec<Row>) -> Vec<Row> {
        // Every commit says which one it is, as a shard row says how far the log is applied.
        rows.push(shard_row(self.commits.len() as u64 + 1));
        self.commits.push(rows.clone());
        self.store.commit(rows.clone()).unwrap();
        rows
    }

    fn rewind(&mut self, store: &dyn Store) {
        let kept = store.shard(ShardId(0)).unwrap().map_or(0, |row| {
            u64::from_be_bytes(row[..].try_into().unwrap()) as usize
        });
        assert!(
            kept >= self.durable,
            "{kept} commits left of {} synced",
            self.durable
        );
        self.commits.truncate(kept);
        self.store = MemoryStore::new();
        for rows in &self.commits {
            self.store.commit(rows.clone()).unwrap();
        }
    }
}

fn run(options: WriteBehindOptions, steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), options);
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Commit(rows) => store.commit(model.commit(rows)).unwrap(),
            Step::Sync => {
                let durable = store.sync().unwrap();
                assert_eq!(durable, model.store.sync().unwrap());
                model.durable = model.commits.len();
            }
            Step::Reopen => {
                drop(store);
                store = open(dir.path(), options);
            }
            Step::Crash => {
                store.abort();
                store = open(dir.path(), options);
                model.rewind(&store);
            }
            Step::History(c, range) => assert_eq!(
                store.history(&conversation(c), range),
                model.store.history(&conversation(c), range),
                "{range:?}"
            ),
            Step::Inbox(name, after, limit) => assert_eq!(
                store.inbox(&user(name), Cursor(after), limit),
                model.store.inbox(&user(name), Cursor(after), limit)
            ),
            Step::Entities(keys) => {
                assert_eq!(store.entities(&keys), model.store.entities(&keys));
            }
        }
    }
    assert_eq!(scan_all(&store), scan_all(&model.store));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_the_model_with_rows_in_memory(steps in prop::collection::vec(some_step(), 1..60)) {
        run(PATIENT, steps);
    }

    #[test]
    fn it_is_the_model_with_rows_on_the_move(steps in prop::collection::vec(some_step(), 1..60)) {
        run(HASTY, steps);
    }
}
