//! Groups in the ledger: how they are opened, and the notes that say who came in.

use quipu_protocol::event::{Message, Note};
use quipu_protocol::id::{MessageId, UserId};

use super::Ledger;
use super::conversation::{Seen, What};

impl Ledger {
    /// A pulled group is open: what is above `head` counts, for every member.
    pub(crate) fn open_pulled(&mut self, conversation: usize, head: u64) {
        self.conversations[conversation].begin_above(head, true);
    }

    /// A pushed group is open. `notes` is its history, with which each member's view has to agree from its own entry on.
    pub(crate) fn open_pushed(&mut self, conversation: usize, head: u64, notes: &[Message]) {
        let this = &self.conversations[conversation];
        let mut entered = vec![None; this.members.len()];
        for message in notes {
            match self.entry(conversation, message) {
                Some(What::Entered(member)) if entered[member].is_none() => {
                    entered[member] = Some(message.seq.get());
                }
                Some(What::Entered(_) | What::Pulled | What::Message { .. }) | None => {
                    self.verdicts.ghosts += 1;
                }
            }
        }
        // Each has been told that it is a member.
        self.verdicts.acked_but_lost += entered.iter().filter(|seq| seq.is_none()).count() as u64;
        let this = &mut self.conversations[conversation];
        self.notes_under_way += this.begin_with_notes(head, &entered);
    }

    /// What a note says, if it is one that the opening of this group brings.
    fn entry(&self, conversation: usize, message: &Message) -> Option<What> {
        let this = &self.conversations[conversation];
        let number = |user: &UserId| this.members.iter().position(|member| member.user == *user);
        let quipu_protocol::event::Content::Note(note) = &message.content else {
            return None;
        };
        match &**note {
            Note::Created(_) => number(&message.from)
                .filter(|member| *member == 0)
                .map(What::Entered),
            Note::Joined => number(&message.from)
                .filter(|member| *member > 0)
                .map(What::Entered),
            Note::Pulled => Some(What::Pulled),
            Note::Left
            | Note::Invited(_)
            | Note::Removed(_)
            | Note::Role(..)
            | Note::Title(_)
            | Note::Topic(_)
            | Note::Timer(_) => None,
        }
    }

    /// Member `observer` of a group got a note.
    pub(crate) fn note(&mut self, conversation: usize, observer: usize, message: &Message) {
        let this = &self.conversations[conversation];
        let seq = message.seq.get();
        if message.conversation != this.id {
            self.verdicts.misdelivered += 1;
            return;
        }
        if message.id != MessageId::note(&message.conversation, message.seq) {
            self.verdicts.corrupted += 1;
            return;
        }
        let Some(what) = self
            .entry(conversation, message)
            .filter(|_| this.is_of_opening(seq))
        else {
            self.verdicts.ghosts += 1;
            return;
        };
        if this.pulled {
            // Of the time before it became pulled; its notes are not judged.
            return;
        }
        let this = &mut self.conversations[conversation];
        match this.members[observer].seqs.see(seq) {
            Seen::Again => {
                self.verdicts.duplicated += 1;
                return;
            }
            Seen::Late => self.verdicts.reordered += 1,
            Seen::InOrder | Seen::Ahead => {}
        }
        match this.is_open() {
            true => self.notes_under_way = self.notes_under_way.saturating_sub(1),
            false => this.saw_note(),
        }
        if !this.agree(seq, what) {
            self.verdicts.disagreed += 1;
        }
    }
}
