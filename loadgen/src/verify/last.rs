//! The last look: what the history has of what is missing, and the verdict on all of it.

use std::collections::BTreeMap;

use quipu_protocol::event::Message;

use super::Ledger;
use super::conversation::{Conversation, Progress};
use crate::measure::Verdicts;
use crate::payload::{Label, Tag};

/// How things stood when the run stopped waiting.
pub(crate) struct Stopped<'a> {
    /// Events still came in.
    pub(crate) arriving: bool,
    /// Whether this member of this conversation was connected.
    pub(crate) is_there: &'a dyn Fn(usize, usize) -> bool,
}

/// What a ledger comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reckoning {
    /// Faults by kind.
    pub(crate) verdicts: Verdicts,
    /// Messages, notes and edits that were still under way, proven by the history or by never having left the generator.
    pub(crate) under_way: u64,
}

impl Ledger {
    /// Conversations in which something is missing, and the first seq of each from which on the history is worth a look.
    pub(crate) fn unfinished(&self) -> BTreeMap<usize, u64> {
        let mut found = self.edits.conversations();
        for (number, conversation) in self.conversations.iter().enumerate() {
            if conversation.is_unfinished() {
                let first = conversation.first_unseen();
                let known = found.entry(number).or_insert(first);
                *known = first.min(*known);
            }
        }
        found
    }

    /// The history of a conversation has this message.
    pub(crate) fn found_in_history(&mut self, conversation: usize, message: &Message) {
        let text = message.content.text();
        let Some(label) = Label::read(text) else {
            return;
        };
        let this = &self.conversations[conversation];
        let is_of_this_run = label.run == self.run.number && self.is_of(&label, conversation);
        if !is_of_this_run || this.members.len() <= usize::from(label.side) {
            return;
        }
        if let Some(progress) = self.sender(&label).progress(label.counter) {
            progress.in_history = true;
            let seq = message.seq.get();
            progress.seq.get_or_insert(seq);
        }
        if Tag::read(text) == Tag::Edited {
            self.edits.found(conversation, message.seq.get());
        }
    }

    /// Reconciles. What is missing now is lost, unless it is proven that it was still under way:
    ///
    /// - a message that the generator itself had not written to a connection yet, or
    /// - one that the history has, as long as every member that lacks it may still be shown it: nothing of the conversation
    ///   that comes after it was shown to this member, and events were still arriving or the member was not connected.
    pub(crate) fn finish(mut self, stopped: &Stopped<'_>) -> Reckoning {
        let mut verdicts = std::mem::take(&mut self.verdicts);
        let mut under_way = 0;
        for (number, conversation) in self.conversations.iter().enumerate() {
            let may_come = |seq: u64| stopped.may_come(number, conversation, seq);
            for seq in conversation.notes() {
                match conversation.lacking(seq).next().is_some() {
                    true if may_come(seq) => under_way += 1,
                    true => verdicts.acked_but_lost += 1,
                    false => {}
                }
            }
            let of_member = |member: &'_ super::Member| member.in_flight.clone();
            for progress in conversation.members.iter().flat_map(of_member) {
                if progress.done() || progress.corrupted {
                    continue;
                }
                match (progress.acked.is_some(), progress.delivered) {
                    _ if is_under_way(&progress, may_come) => under_way += 1,
                    (true, _) => verdicts.acked_but_lost += 1,
                    (false, true) => verdicts.unacked += 1,
                    (false, false) => verdicts.lost += 1,
                }
            }
        }
        let on_its_way =
            |number: usize, member: usize| stopped.arriving || !(stopped.is_there)(number, member);
        under_way += self.edits.finish(&mut verdicts, &on_its_way);
        Reckoning {
            verdicts,
            under_way,
        }
    }
}

impl Stopped<'_> {
    /// Whether every member that lacks what is at this seq may still be shown it.
    fn may_come(&self, number: usize, conversation: &Conversation, seq: u64) -> bool {
        conversation.lacking(seq).all(|member| {
            let shown_later = conversation.members[member].seqs.next() > seq;
            !shown_later && (self.arriving || !(self.is_there)(number, member))
        })
    }
}

fn is_under_way(progress: &Progress, may_come: impl Fn(u64) -> bool) -> bool {
    let never_left = progress.written.is_none() && progress.acked.is_none() && !progress.delivered;
    never_left || (progress.in_history && progress.seq.is_some_and(may_come))
}
