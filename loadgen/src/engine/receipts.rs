//! Receipts: what devices say of what they have received and read, and whether what they are told of others can be true.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quipu_protocol::event::Receipt;
use quipu_protocol::id::{ConversationId, Seq};
use quipu_protocol::session::{Positions, Receipts};

use super::Engine;
use crate::seed::Purpose;

/// Between two receipts of a device for one conversation (QP-RECEIPT-3).
const INTERVAL: Duration = Duration::from_secs(1);

/// The receipts of one device, which is in one conversation.
#[derive(Debug)]
pub(super) struct Reports {
    /// What it has to say, and when.
    due: Receipts,
    /// What it said last.
    said: Positions,
    /// What it was told of each member.
    told: BTreeMap<usize, Positions>,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            due: Receipts::new(INTERVAL),
            said: Positions::default(),
            told: BTreeMap::new(),
        }
    }
}

impl Engine {
    /// A device was shown a message of somebody else, and its user reads along.
    pub(super) fn report(&mut self, device: usize, conversation: ConversationId, seq: Seq) {
        let share = self.extras.receipts;
        if share <= 0.0 || self.seed.unit(Purpose::Receipts, device as u64, 0) >= share {
            return;
        }
        let positions = Positions {
            delivered: Some(seq),
            read: Some(seq),
        };
        let reports = self.seats[device].reports.get_or_insert_default();
        reports.due.want(Instant::now(), conversation, positions);
    }

    /// The receipt that the device has to send now.
    pub(super) fn next_receipt(&self, device: usize) -> Option<(ConversationId, Positions)> {
        let reports = self.seats[device].reports.as_ref()?;
        reports.due.next(Instant::now())
    }

    /// When it has to send the next one.
    pub(super) fn receipt_at(&self, device: usize) -> Option<Instant> {
        self.seats[device].reports.as_ref()?.due.timeout()
    }

    pub(super) fn receipt_sent(
        &mut self,
        device: usize,
        conversation: ConversationId,
        positions: Positions,
    ) {
        self.totals.receipts_sent += 1;
        if let Some(reports) = &mut self.seats[device].reports {
            reports.due.sent(Instant::now(), conversation);
            reports.said.raise(positions);
        }
    }

    /// A device was told how far somebody is: never beyond what that one has said, and never back.
    pub(super) fn receipt(&mut self, device: usize, receipt: &Receipt) {
        let Some((number, _)) = self.places.of(device) else {
            return self.ledger.misdelivered();
        };
        let size = self.places.get(number).size;
        let user = |member: &usize| self.users[self.places.device(number, *member)] == receipt.user;
        let member = (0..size).find(user);
        let Some(member) =
            member.filter(|_| receipt.conversation == self.ledger.conversation(number))
        else {
            return self.ledger.misdelivered();
        };
        let new = Positions {
            delivered: receipt.delivered,
            read: receipt.read,
        };
        let of_opening =
            |seq: Option<Seq>| seq.is_none_or(|seq| self.ledger.is_of_opening(number, seq.get()));
        if of_opening(new.delivered) && of_opening(new.read) {
            // Of an earlier run with these users.
            return;
        }
        self.totals.receipts_seen += 1;
        let said = self.seats[self.places.device(number, member)]
            .reports
            .as_ref();
        let said = said.map(|reports| reports.said).unwrap_or_default();
        if new.delivered > said.delivered || new.read > said.read {
            return self.ledger.ghost();
        }
        let told = &mut self.seats[device].reports.get_or_insert_default().told;
        let known = told.entry(member).or_default();
        let goes_back = is_below(new.delivered, known.delivered) || is_below(new.read, known.read);
        known.raise(new);
        if goes_back {
            self.ledger.went_back();
        }
    }
}

/// Whether a position that is told is below the one that was told before.
fn is_below(new: Option<Seq>, known: Option<Seq>) -> bool {
    new.is_some() && new < known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_that_is_not_told_goes_nowhere() {
        let at = |seq| Seq::new(seq).ok();
        assert!(is_below(at(3), at(4)));
        assert!(!is_below(at(4), at(4)));
        assert!(!is_below(None, at(4)));
        assert!(!is_below(at(1), None));
    }
}
