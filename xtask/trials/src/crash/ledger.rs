//! What really happened, written down by the harness, and the verdict over it.
//!
//! It knows nothing of logs, cursors or caches: only what was typed, what was acked, what each device showed, and what the
//! gateway's history says at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use quipu_client::protocol::id::{ConversationId, MessageId, UserId};

/// Complaints that are printed; the rest is counted only.
const COMPLAINTS_SHOWN: usize = 20;

/// One way in which a user saw messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum View {
    /// The first device, by the lossless tail of its cache. Complete at the end.
    Tail,
    /// The first device, by its event stream. What happened while the client was down is not in it.
    Live,
    /// A device that logged in after everything and was given the whole inbox. Complete at the end.
    Fresh,
}

/// A message as a device showed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Its place in the user's inbox.
    pub(crate) inbox_seq: u64,
    /// Its conversation.
    pub(crate) conversation: ConversationId,
    /// Its place there.
    pub(crate) seq: u64,
    /// Its name.
    pub(crate) id: MessageId,
}

/// Everything that was observed.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    members: BTreeMap<ConversationId, [UserId; 2]>,
    typed: BTreeMap<(UserId, ConversationId), Vec<MessageId>>,
    acked: BTreeMap<MessageId, (ConversationId, u64)>,
    acked_twice: Vec<MessageId>,
    shown: BTreeMap<(UserId, View), Vec<Shown>>,
    history: BTreeMap<ConversationId, Vec<(u64, MessageId)>>,
}

impl Ledger {
    /// A conversation exists between two users.
    pub(crate) fn conversation(&mut self, id: ConversationId, members: [UserId; 2]) {
        self.members.insert(id, members);
    }

    /// A user typed a message and the SDK took it.
    pub(crate) fn typed(&mut self, user: UserId, conversation: ConversationId, id: MessageId) {
        self.typed.entry((user, conversation)).or_default().push(id);
    }

    /// The gateway acked a message under a seq.
    pub(crate) fn acked(&mut self, conversation: ConversationId, seq: u64, id: MessageId) {
        let answer = (conversation, seq);
        if *self.acked.entry(id).or_insert(answer) != answer {
            self.acked_twice.push(id);
        }
    }

    /// A device showed a message.
    pub(crate) fn shown(&mut self, user: UserId, view: View, shown: Shown) {
        self.shown.entry((user, view)).or_default().push(shown);
    }

    /// The gateway's history of a conversation, asked for at the end.
    pub(crate) fn history(&mut self, id: ConversationId, messages: Vec<(u64, MessageId)>) {
        self.history.insert(id, messages);
    }

    /// Messages acked so far.
    pub(crate) fn acked_count(&self) -> usize {
        self.acked.len()
    }

    /// Typed messages that were not acked yet.
    pub(crate) fn waiting_for_ack(&self) -> usize {
        self.typed
            .values()
            .flatten()
            .filter(|id| !self.acked.contains_key(id))
            .count()
    }

    /// Acked messages that some member has not seen in this view, over all members.
    pub(crate) fn unseen(&self, view: View) -> usize {
        let seen: BTreeMap<UserId, BTreeSet<MessageId>> = self
            .shown
            .iter()
            .filter(|((_, of), _)| *of == view)
            .map(|((user, _), shown)| (*user, shown.iter().map(|one| one.id).collect()))
            .collect();
        self.acked
            .iter()
            .flat_map(|(id, (conversation, _))| {
                let members = self.members.get(conversation).into_iter().flatten();
                members.map(move |member| (id, member))
            })
            .filter(|(id, member)| !seen.get(member).is_some_and(|ids| ids.contains(id)))
            .count()
    }

    /// Messages that the user's first device has shown.
    pub(crate) fn shown_to(&self, user: &UserId) -> usize {
        self.shown.get(&(*user, View::Tail)).map_or(0, Vec::len)
    }

    /// What some user was shown in this view, at least two messages, for sabotage.
    pub(crate) fn view_mut(&mut self, view: View) -> Option<&mut Vec<Shown>> {
        self.shown
            .iter_mut()
            .find(|((_, of), shown)| *of == view && shown.len() >= 2)
            .map(|(_, shown)| shown)
    }

    /// Judges everything.
    pub(crate) fn judge(&self) -> Verdict {
        let mut verdict = Verdict {
            acked: self.acked.len(),
            ..Verdict::default()
        };
        self.judge_typed(&mut verdict);
        self.judge_history(&mut verdict);
        for ((user, view), shown) in &self.shown {
            self.judge_view(*user, *view, shown, &mut verdict);
        }
        self.judge_lost(&mut verdict);
        verdict
    }

    /// Messages of one sender in one conversation have rising seqs, and each has exactly one.
    fn judge_typed(&self, verdict: &mut Verdict) {
        for id in &self.acked_twice {
            verdict.doubled(format!("{id} was acked under two seqs"));
        }
        for ((user, conversation), ids) in &self.typed {
            let mut last = 0;
            for id in ids {
                match self.acked.get(id) {
                    None => verdict.wrong(format!("{user} typed {id}, and it was never acked")),
                    Some((_, seq)) if *seq <= last => verdict.reordered(format!(
                        "{user} typed {id} after the message at {last} of {conversation}, and it got {seq}"
                    )),
                    Some((_, seq)) => last = *seq,
                }
            }
        }
    }

    /// A history has no gaps, no message twice, and nothing that nobody typed.
    fn judge_history(&self, verdict: &mut Verdict) {
        let typed: BTreeSet<&MessageId> = self.typed.values().flatten().collect();
        for (conversation, messages) in &self.history {
            let mut ids = BTreeSet::new();
            for (expected, (seq, id)) in (1..).zip(messages) {
                if *seq != expected {
                    verdict.reordered(format!(
                        "the history of {conversation} has {seq} in place {expected}"
                    ));
                    break;
                }
                if !ids.insert(id) {
                    verdict.doubled(format!(
                        "the history of {conversation} has {id} again at {seq}"
                    ));
                }
                if !typed.contains(id) {
                    verdict.wrong(format!(
                        "nobody typed {id}, which {conversation} has at {seq}"
                    ));
                }
            }
        }
    }

    /// A device shows each message once, in the order of its inbox and of its conversation, as the history has it.
    fn judge_view(&self, user: UserId, view: View, shown: &[Shown], verdict: &mut Verdict) {
        let mut ids = BTreeSet::new();
        let mut heads: BTreeMap<ConversationId, u64> = BTreeMap::new();
        let mut last_in_inbox = 0;
        for one in shown {
            let Shown {
                inbox_seq,
                conversation,
                seq,
                id,
            } = one;
            if !ids.insert(*id) {
                verdict.doubled(format!(
                    "{user} ({view:?}) was shown {id} again at {inbox_seq}"
                ));
                continue;
            }
            let head = heads.entry(*conversation).or_default();
            if *inbox_seq <= last_in_inbox || *seq <= *head {
                verdict.reordered(format!(
                    "{user} ({view:?}) was shown {conversation}/{seq} at {inbox_seq} after {conversation}/{head} at {last_in_inbox}"
                ));
            }
            last_in_inbox = last_in_inbox.max(*inbox_seq);
            *head = (*head).max(*seq);
            let in_history = self.history.get(conversation).and_then(|messages| {
                let index = usize::try_from(seq.checked_sub(1)?).ok()?;
                messages.get(index)
            });
            if in_history.is_none_or(|(_, known)| known != id) {
                verdict.reordered(format!(
                    "{user} ({view:?}) was shown {id} as {conversation}/{seq}, where the history has another or none"
                ));
            }
        }
    }

    /// What was acked is in the history at its seq, and in every complete view of every member.
    fn judge_lost(&self, verdict: &mut Verdict) {
        let seen: BTreeMap<(UserId, View), BTreeSet<MessageId>> = self
            .shown
            .iter()
            .map(|(key, shown)| (*key, shown.iter().map(|one| one.id).collect()))
            .collect();
        let kept: BTreeMap<MessageId, (ConversationId, u64)> = self
            .history
            .iter()
            .flat_map(|(conversation, messages)| {
                messages
                    .iter()
                    .map(|(seq, id)| (*id, (*conversation, *seq)))
            })
            .collect();
        for (id, (conversation, seq)) in &self.acked {
            let mut missing = Vec::new();
            if kept.get(id) != Some(&(*conversation, *seq)) {
                missing.push("the history".to_owned());
            }
            for member in self.members.get(conversation).into_iter().flatten() {
                for view in [View::Tail, View::Fresh] {
                    if !seen
                        .get(&(*member, view))
                        .is_some_and(|ids| ids.contains(id))
                    {
                        missing.push(format!("{member} ({view:?})"));
                    }
                }
            }
            if !missing.is_empty() {
                verdict.lost(format!(
                    "{id}, acked as {conversation}/{seq}, is missing from {}",
                    missing.join(", ")
                ));
            }
        }
    }
}

/// The figures of a run. Anything but zero besides `acked` is a failure.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Messages acked.
    pub(crate) acked: usize,
    /// Acked messages that are missing somewhere.
    pub(crate) lost: usize,
    /// Messages that are somewhere more than once.
    pub(crate) doubled: usize,
    /// Messages out of order, or differently ordered for two members.
    pub(crate) reordered: usize,
    /// Everything else that must not be.
    pub(crate) wrong: usize,
    complaints: Vec<String>,
}

impl Verdict {
    /// Something else that must not be.
    pub(crate) fn wrong(&mut self, complaint: String) {
        self.wrong += 1;
        self.complain(complaint);
    }

    /// Whether everything is as promised.
    pub(crate) fn is_good(&self) -> bool {
        self.lost + self.doubled + self.reordered + self.wrong == 0
    }

    /// The first complaints, for a person.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }

    fn lost(&mut self, complaint: String) {
        self.lost += 1;
        self.complain(complaint);
    }

    fn doubled(&mut self, complaint: String) {
        self.doubled += 1;
        self.complain(complaint);
    }

    fn reordered(&mut self, complaint: String) {
        self.reordered += 1;
        self.complain(complaint);
    }

    fn complain(&mut self, complaint: String) {
        if self.complaints.len() < COMPLAINTS_SHOWN {
            self.complaints.push(complaint);
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            acked,
            lost,
            doubled,
            reordered,
            ..
        } = self;
        write!(
            f,
            "acked={acked} lost={lost} doubled={doubled} reordered={reordered}"
        )
    }
}

#[cfg(test)]
mod tests;
