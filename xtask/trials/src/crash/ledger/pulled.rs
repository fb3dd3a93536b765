//! What devices have of groups whose messages come as notices: no inbox numbers them, so it is judged by what the first device kept.

use std::collections::{BTreeMap, BTreeSet};

use quipu_client::protocol::event::Message;
use quipu_client::protocol::id::{ConversationId, MessageId, UserId};

use super::Verdict;

/// Messages of a group, as somebody has them.
type Messages = Vec<(u64, MessageId)>;

/// Every such group.
#[derive(Debug, Default)]
pub(crate) struct Pulled {
    groups: BTreeSet<ConversationId>,
    /// What the first device of a member has kept at the end, after its last reconnect.
    kept: BTreeMap<(UserId, ConversationId), Messages>,
    /// Each notice that a first device showed, over all lives of its client. Not all come: what is missing is read from the history.
    noticed: BTreeMap<(UserId, ConversationId), Messages>,
}

impl Pulled {
    /// A group is one of them.
    pub(super) fn add(&mut self, group: ConversationId) {
        self.groups.insert(group);
    }

    /// Whether a group is one of them.
    pub(crate) fn has(&self, group: &ConversationId) -> bool {
        self.groups.contains(group)
    }

    /// A first device showed a notice.
    pub(crate) fn noticed(&mut self, user: UserId, message: &Message) {
        let seen = (message.seq.get(), message.id);
        let of = self.noticed.entry((user, message.conversation));
        of.or_default().push(seen);
    }

    /// What a first device has kept of a group.
    pub(crate) fn kept(&mut self, user: UserId, group: ConversationId, messages: &[Message]) {
        let line = |message: &Message| (message.seq.get(), message.id);
        let messages = messages.iter().map(line).collect();
        self.kept.insert((user, group), messages);
    }

    /// Of what is due to a member, how much its first device has not kept.
    pub(super) fn missing(
        &self,
        user: &UserId,
        group: &ConversationId,
        due: &BTreeSet<u64>,
    ) -> usize {
        due.difference(&self.seqs(user, group)).count()
    }

    /// Forgets the last message that some first device kept, for sabotage.
    pub(crate) fn lose(&mut self) {
        if let Some(kept) = self.kept.values_mut().find(|kept| !kept.is_empty()) {
            kept.pop();
        }
    }

    /// A member has kept what was due, nothing from before its joining, and every message where the history has it; and was
    /// shown each notice once.
    pub(super) fn judge(
        &self,
        (user, group): (UserId, ConversationId),
        due: &BTreeSet<u64>,
        history: &BTreeMap<u64, MessageId>,
        verdict: &mut Verdict,
    ) {
        let had = self.seqs(&user, &group);
        for seq in due.difference(&had) {
            verdict.lost(format!(
                "group message {group}/{seq} is missing from what {user} kept"
            ));
        }
        for seq in had.difference(due) {
            verdict.leaked(format!(
                "{user} kept {group}/{seq} without being a member then"
            ));
        }
        let mut shown = BTreeSet::new();
        let noticed = self.noticed.get(&(user, group)).into_iter().flatten();
        for (seq, id) in noticed {
            verdict.noticed += 1;
            if !shown.insert(id) {
                verdict.doubled(format!("{user} was shown the notice of {id} again"));
            } else if history.get(seq) != Some(id) {
                verdict.reordered(format!(
                    "{user} was shown a notice of {id} as {group}/{seq}, where the history has another or none"
                ));
            }
        }
        for (seq, id) in self.kept.get(&(user, group)).into_iter().flatten() {
            if history.get(seq) != Some(id) {
                verdict.reordered(format!(
                    "{user} kept {id} as {group}/{seq}, where the history has another or none"
                ));
            }
        }
    }

    fn seqs(&self, user: &UserId, group: &ConversationId) -> BTreeSet<u64> {
        let kept = self.kept.get(&(*user, *group)).into_iter().flatten();
        kept.map(|(seq, _)| *seq).collect()
    }
}
