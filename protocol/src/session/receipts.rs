//! When to report positions: at once after a quiet time, else at most once an interval for each conversation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::id::{ConversationId, Seq};

/// Conversations whose last report is remembered. Above it the oldest knowledge goes, and a report may come early.
const COOLING_MAX: usize = 1024;

/// Positions to report for one conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Positions {
    /// Received up to here.
    pub delivered: Option<Seq>,
    /// Read up to here.
    pub read: Option<Seq>,
}

impl Positions {
    /// Takes the higher of both, field by field.
    pub fn raise(&mut self, other: Self) {
        self.delivered = self.delivered.max(other.delivered);
        self.read = self.read.max(other.read);
    }
}

/// The reports of one connection that are due, as a machine without a clock (QP-RECEIPT-3). At most one wish for each
/// conversation of the user.
#[derive(Debug)]
pub struct Receipts {
    interval: Duration,
    wanted: BTreeMap<ConversationId, (Instant, Positions)>,
    due: BTreeSet<(Instant, ConversationId)>,
    /// Until when a conversation that was reported waits.
    cooling: BTreeMap<ConversationId, Instant>,
}

impl Receipts {
    /// Nothing to report yet.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            wanted: BTreeMap::new(),
            due: BTreeSet::new(),
            cooling: BTreeMap::new(),
        }
    }

    /// Wants positions reported. Several wishes for one conversation become one report of the highest.
    pub fn want(&mut self, now: Instant, conversation: ConversationId, positions: Positions) {
        if let Some((_, wanted)) = self.wanted.get_mut(&conversation) {
            wanted.raise(positions);
            return;
        }
        let at = self
            .cooling
            .get(&conversation)
            .copied()
            .unwrap_or(now)
            .max(now);
        self.wanted.insert(conversation, (at, positions));
        self.due.insert((at, conversation));
    }

    /// The report that is due, if one is.
    pub fn next(&self, now: Instant) -> Option<(ConversationId, Positions)> {
        let (at, conversation) = self.due.first()?;
        let (_, positions) = self.wanted.get(conversation)?;
        (*at <= now).then_some((*conversation, *positions))
    }

    /// The report was sent.
    pub fn sent(&mut self, now: Instant, conversation: ConversationId) {
        if let Some((at, _)) = self.wanted.remove(&conversation) {
            self.due.remove(&(at, conversation));
        }
        if self.cooling.len() >= COOLING_MAX {
            self.cooling.retain(|_, until| *until > now);
        }
        if self.cooling.len() >= COOLING_MAX {
            self.cooling.clear();
        }
        self.cooling.insert(conversation, now + self.interval);
    }

    /// When the next report is due.
    pub fn timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "a test has to begin at some time, and no decision depends on which"
)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn delivered(seq: u64) -> Positions {
        Positions {
            delivered: Seq::new(seq).ok(),
            read: None,
        }
    }

    #[test]
    fn the_first_goes_at_once_and_the_rest_together() {
        let (now, id) = (Instant::now(), ConversationId([1; 16]));
        let mut receipts = Receipts::new(SECOND);
        receipts.want(now, id, delivered(1));
        assert_eq!(receipts.next(now), Some((id, delivered(1))));
        receipts.sent(now, id);
        for seq in 2..100 {
            receipts.want(now, id, delivered(seq));
            assert_eq!(receipts.next(now), None);
        }
        assert_eq!(receipts.timeout(), Some(now + SECOND));
        assert_eq!(receipts.next(now + SECOND), Some((id, delivered(99))));
    }

    #[test]
    fn conversations_do_not_wait_for_each_other() {
        let (now, a, b) = (
            Instant::now(),
            ConversationId([1; 16]),
            ConversationId([2; 16]),
        );
        let mut receipts = Receipts::new(SECOND);
        receipts.want(now, a, delivered(1));
        receipts.sent(now, a);
        receipts.want(now, a, delivered(2));
        receipts.want(now, b, delivered(7));
        assert_eq!(receipts.next(now), Some((b, delivered(7))));
    }
}
