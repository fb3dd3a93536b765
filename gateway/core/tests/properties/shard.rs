//! One shard: replays agree, repeats count once, rows and a rest of the log are as good as the whole log.

use proptest::prelude::*;
use quipu_core::record::{Entry, EntryBody, Position, Record};
use quipu_core::retention::Retention;
use quipu_core::shard::{Effects, ShardCount, ShardId, ShardState};
use quipu_protocol::id::TimestampMs;

use crate::story::{self, Step, steps};
use crate::support::Store;

const ONE: ShardCount = ShardCount(1);

/// The log of a cluster of one shard: what its inboxes keep, the commands of a story in groups, and between them what the
/// shard sent itself.
pub(crate) fn log(keep: Option<Retention>, steps: &[Step], groups: &[usize]) -> Vec<Record> {
    let story = story::story(steps);
    let mut log: Vec<Record> = Vec::new();
    let mut state = ShardState::new(ShardId(0), ONE);
    let store = Store::default();
    let mut sent: Vec<Entry> = Vec::new();
    let keep = keep.map(|keep| Entry {
        source: None,
        body: EntryBody::Keep(keep),
    });
    let mut commands = keep.into_iter().chain(story.entries).peekable();
    let mut groups = groups.iter().cycle();
    while commands.peek().is_some() || !sent.is_empty() {
        let size = *groups.next().unwrap_or(&1);
        let mut entries: Vec<Entry> = commands.by_ref().take(size).collect();
        // Also in the middle of what comes back, and mixed with it.
        let back = sent.len().min(size * 2);
        entries.extend(sent.drain(..back));
        let position = Position(log.len() as u64 + 1);
        let time = TimestampMs(1000 + position.0);
        let payload = Record::encode_entries(&entries);
        let record = Record::decode(position, time, &payload).unwrap();
        let mut effects = Effects::default();
        store.apply(&mut state, &record, &mut effects);
        sent.extend(effects.outgoing.into_iter().map(|(_, entry)| entry));
        log.push(record);
    }
    log
}

/// Few events and short times: a record takes a millisecond.
pub(crate) fn retentions() -> impl Strategy<Value = Retention> {
    (1..12u64, 1..40u64).prop_map(|(events, ms)| Retention::new(events, ms))
}

fn logs() -> impl Strategy<Value = Vec<Record>> {
    let groups = prop::collection::vec(1..6usize, 1..10);
    let keep = prop::option::of(retentions());
    (keep, steps(60), groups).prop_map(|(keep, steps, groups)| log(keep, &steps, &groups))
}

/// Applies a log to an empty shard and commits everything at the end.
fn replay(log: &[Record]) -> (Store, ShardState, Effects) {
    let (mut store, mut state) = (Store::default(), ShardState::new(ShardId(0), ONE));
    let mut effects = Effects::default();
    for record in log {
        store.apply(&mut state, record, &mut effects);
    }
    let mut rows = Effects {
        rows: effects.rows.clone(),
        ..Effects::default()
    };
    store.checkpoint(&mut state, &mut rows);
    (store, state, effects)
}

proptest! {
    #![proptest_config(crate::config(96))]

    #[test]
    fn the_same_records_give_the_same_digest_rows_and_actions(log in logs()) {
        let (a, b) = (replay(&log), replay(&log));
        prop_assert_eq!(a.1.digest(), b.1.digest());
        prop_assert_eq!(a.2, b.2);
        prop_assert_eq!(a.0, b.0);
    }

    #[test]
    fn a_record_applied_twice_counts_once(log in logs(), every in 1..4usize) {
        let (store, state, effects) = replay(&log);
        let mut again = ShardState::new(ShardId(0), ONE);
        let mut twice = Effects::default();
        for (i, record) in log.iter().enumerate() {
            store_free(&mut again, record, &mut twice);
            for earlier in log[..=i].iter().rev().step_by(every) {
                again.apply(earlier, &mut twice);
            }
        }
        prop_assert_eq!(again.digest(), state.digest());
        prop_assert_eq!(twice, effects);
        drop(store);
    }

    #[test]
    fn entries_sent_again_in_other_groups_count_once(
        log in logs(),
        repeats in prop::collection::vec((0..100usize, 0..100usize, 0..12usize), 1..12),
    ) {
        // Where to put a repeat, from which sourced entry before that place, and how many.
        let mut longer: Vec<(TimestampMs, Vec<Entry>)> = Vec::new();
        for (i, record) in log.iter().enumerate() {
            longer.push((record.time, record.entries.clone()));
            for (place, from, count) in &repeats {
                if place % log.len() == i {
                    let came = log[..=i].iter().flat_map(|record| &record.entries);
                    let came: Vec<&Entry> = came.filter(|entry| entry.source.is_some()).collect();
                    let from = from % came.len().max(1);
                    let again = came.into_iter().skip(from).take(*count).cloned().collect();
                    longer.push((TimestampMs(1), again));
                }
            }
        }
        let longer: Vec<Record> = longer
            .into_iter()
            .enumerate()
            .map(|(i, (time, entries))| Record { position: Position(i as u64 + 1), time, entries })
            .collect();
        let (mut once, mut twice) = (replay(&log), replay(&longer));
        once.0.shards.clear();
        twice.0.shards.clear();
        prop_assert_eq!(once.0, twice.0);
        prop_assert_eq!(once.1.digest(), twice.1.digest());
        prop_assert_eq!(once.2.actions, twice.2.actions);
    }

    #[test]
    fn rows_and_the_rest_of_the_log_equal_the_whole_log(
        log in logs(),
        cuts in prop::collection::vec((0..100usize, 0..6usize, any::<bool>()), 1..5),
    ) {
        let (whole, whole_state, whole_effects) = replay(&log);
        let (mut store, mut state) = (Store::default(), ShardState::new(ShardId(0), ONE));
        let mut effects = Effects::default();
        let mut committed = 0;
        for (i, record) in log.iter().enumerate() {
            store.apply(&mut state, record, &mut effects);
            for (place, keep, crash) in &cuts {
                if place % log.len() == i {
                    // What changed since the last commit stays in memory, whatever may be forgotten.
                    state.evict(0);
                    let rows = effects.rows[committed..].to_vec();
                    committed = effects.rows.len();
                    let mut rows = Effects { rows, ..Effects::default() };
                    store.checkpoint(&mut state, &mut rows);
                    state.evict(*keep);
                    prop_assert!(state.loaded() <= keep + keep / 8);
                    if *crash {
                        state = store.restore(ShardId(0), ONE);
                    }
                }
            }
        }
        let mut rows = Effects { rows: effects.rows[committed..].to_vec(), ..Effects::default() };
        store.checkpoint(&mut state, &mut rows);
        prop_assert_eq!(state.digest(), whole_state.digest());
        prop_assert_eq!(state.applied(), whole_state.applied());
        prop_assert_eq!(effects, whole_effects);
        prop_assert_eq!(store, whole);
    }
}

/// Applies a record with every entity in memory: nothing is ever committed.
fn store_free(state: &mut ShardState, record: &Record, effects: &mut Effects) {
    Store::default().apply(state, record, effects);
}
