//! The changes of a pulled group that are found by their numbers: the last ones without a gap, each of a message that is there.

use quipu_protocol::id::{ChangeNumber, Seq};
use quipu_protocol::limits::CHANGES_KEPT_MAX;

use super::tally::Numbers;

/// What the index has of one group.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Numbered {
    numbers: Numbers,
    last_message: u64,
}

impl Numbered {
    pub(super) fn add(&mut self, number: ChangeNumber, seq: Seq) {
        self.numbers.add(number.0);
        self.last_message = self.last_message.max(seq.get());
    }

    /// What does not agree with a group that has come to this change and this message, as the ends of sentences.
    pub(super) fn problems(
        &self,
        changes: ChangeNumber,
        head: u64,
    ) -> impl Iterator<Item = String> {
        let forgotten = changes.0.saturating_sub(CHANGES_KEPT_MAX as u64);
        let gap = self.numbers.gap_exactly(forgotten, changes.0);
        let gap = gap.map(|gap| format!("{gap} among its numbered changes"));
        let beyond = (self.last_message > head).then(|| {
            format!(
                "a numbered change of message {} where {head} is the last",
                self.last_message
            )
        });
        gap.into_iter().chain(beyond)
    }
}
