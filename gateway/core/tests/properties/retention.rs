//! What inboxes keep: all that is within both limits, dense to the head; and nothing that was said to be gone.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quipu_core::retention::{Retention, TRIM_ROWS_MAX};
use quipu_core::row::{EntityKey, Inbox, Row};
use quipu_core::shard::{Effects, ShardCount, ShardId, ShardState};
use quipu_protocol::id::{InboxSeq, UserId};

use crate::shard::{log, retentions};
use crate::story::steps;
use crate::support::Store;

/// What should be in an inbox, by the rule and not by the machine.
#[derive(Default)]
struct Judge {
    /// When each event came, from the first.
    came: BTreeMap<UserId, Vec<u64>>,
}

impl Judge {
    fn note(&mut self, effects: &Effects, time: u64) {
        for row in &effects.rows {
            if let Row::Inbox(row) = row {
                self.came.entry(row.user).or_default().push(time);
            }
        }
    }

    fn judge(&self, keep: Retention, store: &Store) -> Result<(), TestCaseError> {
        for (user, came) in &self.came {
            let inbox = Inbox::decode(&store.entities[&EntityKey::Inbox(*user)]).unwrap();
            let head = inbox.head.map_or(0, InboxSeq::get);
            prop_assert_eq!(head, came.len() as u64);
            prop_assert!(inbox.trimmed <= inbox.floor && inbox.floor.0 < head);
            let rows = store.inbox.range((*user, 0)..=(*user, u64::MAX));
            let rows: Vec<u64> = rows.map(|((_, number), _)| *number).collect();
            let due: Vec<u64> = (inbox.trimmed.0 + 1..=head).collect();
            prop_assert_eq!(rows, due, "dense from the last one trimmed to the head");
            let newest = came.last().copied().unwrap_or_default();
            for (number, at) in (1..).zip(came) {
                let (behind, old) = (head - number, newest - at);
                let kept = number > inbox.floor.0;
                if behind < keep.events && old < keep.ms {
                    prop_assert!(kept, "{} of {} is within both limits", number, user);
                }
                if behind >= keep.events || number < head && old >= keep.ms + keep.ms.div_ceil(4) {
                    prop_assert!(!kept, "{} of {} is beyond a limit", number, user);
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(crate::config(96))]

    #[test]
    fn what_is_within_the_limits_is_there_and_nothing_else(
        keep in retentions(),
        steps in steps(80),
        groups in prop::collection::vec(1..6usize, 1..10),
        restart_every in 1..20usize,
    ) {
        let log = log(Some(keep), &steps, &groups);
        let (mut store, mut state) = (Store::default(), ShardState::new(ShardId(0), ShardCount(1)));
        let mut judge = Judge::default();
        for (number, record) in log.iter().enumerate() {
            let mut effects = Effects::default();
            store.apply(&mut state, record, &mut effects);
            let trimmed = effects.rows.iter().filter(|row| matches!(row, Row::Trimmed(..))).count();
            let added = effects.rows.iter().filter(|row| matches!(row, Row::Inbox(_))).count();
            prop_assert!(trimmed as u64 <= added as u64 * TRIM_ROWS_MAX);
            judge.note(&effects, record.time.0);
            store.checkpoint(&mut state, &mut effects);
            judge.judge(keep, &store)?;
            if number % restart_every == 0 {
                state = store.restore(ShardId(0), ShardCount(1));
            }
        }
    }
}
