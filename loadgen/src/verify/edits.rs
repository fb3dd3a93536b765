//! Edits that are under way: which message, who has not been shown what it says now, and whether the author has an answer.

use std::collections::{BTreeMap, BTreeSet};

use quipu_protocol::event::{Changed, ChangedKind};

use super::Ledger;
use crate::measure::Verdicts;
use crate::payload::{Label, Tag};

/// Edits of a process that are under way at the most; what is due above it is left out.
const EDITS_MAX: usize = 16_384;

/// All edits that are not done.
#[derive(Debug, Default)]
pub(super) struct Edits {
    /// By conversation and seq of the message.
    pending: BTreeMap<(usize, u64), Edit>,
}

/// One edit.
#[derive(Debug)]
struct Edit {
    label: Label,
    /// Members who have not been shown it, its author included.
    waiting: BTreeSet<usize>,
    /// The author was told that it is done.
    acked: bool,
    /// Somebody was shown it.
    shown: bool,
    in_history: bool,
}

impl Edits {
    pub(super) fn len(&self) -> u64 {
        self.pending.len() as u64
    }

    /// Conversations that have some, and the first message of each that has.
    pub(super) fn conversations(&self) -> BTreeMap<usize, u64> {
        let mut first = BTreeMap::new();
        for (conversation, seq) in self.pending.keys() {
            first.entry(*conversation).or_insert(*seq);
        }
        first
    }

    /// The history was looked at and has this message, so edited.
    pub(super) fn found(&mut self, conversation: usize, seq: u64) {
        if let Some(edit) = self.pending.get_mut(&(conversation, seq)) {
            edit.in_history = true;
        }
    }

    fn remove_done(&mut self, at: (usize, u64)) -> bool {
        let is_done = |edit: &Edit| edit.acked && edit.waiting.is_empty();
        let done = self.pending.get(&at).is_some_and(is_done);
        if done {
            self.pending.remove(&at);
        }
        done
    }

    /// What is missing now. `is_on_its_way(conversation, member)`: an event may still be on its way to this member. Says how
    /// many are so for all that they are missing from.
    pub(super) fn finish(
        self,
        verdicts: &mut Verdicts,
        is_on_its_way: &dyn Fn(usize, usize) -> bool,
    ) -> u64 {
        let mut under_way = 0;
        for ((conversation, _), edit) in self.pending {
            let mut waiting = edit.waiting.iter();
            let may_come = waiting.all(|member| is_on_its_way(conversation, *member));
            match (edit.acked, edit.shown) {
                _ if edit.in_history && may_come => under_way += 1,
                (true, _) => verdicts.acked_but_lost += 1,
                (false, true) => verdicts.unacked += 1,
                (false, false) => verdicts.lost += 1,
            }
        }
        under_way
    }
}

impl Ledger {
    /// The author of a message edits it. False: too many edits are under way, leave it out.
    pub(crate) fn edit(&mut self, label: &Label, seq: u64) -> bool {
        if self.edits.pending.len() >= EDITS_MAX {
            return false;
        }
        let place = self.place(label);
        let edit = Edit {
            label: *label,
            waiting: (0..self.conversations[place].members.len()).collect(),
            acked: false,
            shown: false,
            in_history: false,
        };
        self.edits.pending.insert((place, seq), edit);
        true
    }

    /// The author was told that the edit of this message is done.
    pub(crate) fn edit_acked(&mut self, label: &Label, seq: u64) {
        let at = (self.place(label), seq);
        if let Some(edit) = self.edits.pending.get_mut(&at) {
            edit.acked = true;
        }
        self.edits.remove_done(at);
    }

    /// The edit of this message was refused for good.
    pub(crate) fn edit_refused(&mut self, label: &Label, seq: u64) {
        self.verdicts.rejected += 1;
        self.edits.pending.remove(&(self.place(label), seq));
    }

    /// Member `observer` was told of a change of a message. Says whether it was an edit that it had to be told of.
    pub(crate) fn changed(
        &mut self,
        conversation: usize,
        observer: usize,
        changed: &Changed,
    ) -> bool {
        if changed.conversation != self.conversations[conversation].id {
            self.verdicts.misdelivered += 1;
            return false;
        }
        let at = (conversation, changed.seq.get());
        let Some(edit) = self.edits.pending.get_mut(&at) else {
            self.verdicts.ghosts += 1;
            return false;
        };
        let author = self.conversations[conversation].members[usize::from(edit.label.side)].user;
        let says = match &changed.kind {
            ChangedKind::Edited(content) => content.text(),
            ChangedKind::Gone(_) | ChangedKind::Reacted { .. } => "",
        };
        let is_right = Label::read(says) == Some(edit.label)
            && Tag::read(says) == Tag::Edited
            && changed.version == 1
            && changed.by == Some(author);
        let is_new = edit.waiting.remove(&observer);
        edit.shown = true;
        match (is_right, is_new) {
            // In place of what it had to be shown, so it is not missing as well.
            (false, _) => self.verdicts.corrupted += 1,
            (true, false) => self.verdicts.duplicated += 1,
            (true, true) => {}
        }
        self.edits.remove_done(at);
        is_right && is_new
    }
}
