//! What really happened, written down by the harness, and the verdict over it.
//!
//! It knows nothing of logs, cursors or caches: only what was typed, what was acked, what each device showed, and what the
//! gateway's history says at the end. Who was a member of a group, and when, it reads from the notes of that history.

mod changes;
mod files;
mod groups;
mod pulled;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};

use quipu_client::protocol::event::{Content, Message};
use quipu_client::protocol::id::{ConversationId, MessageId, UserId};
use quipu_client::protocol::media::MediaHash;

pub(crate) use self::changes::{Act, Changes, Observer};
pub(crate) use self::files::{Files, Made};
use self::groups::Groups;
pub(crate) use self::pulled::Pulled;
pub(crate) use self::verdict::Verdict;

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

/// What has not come yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Missing {
    /// Messages that were typed.
    unacked: usize,
    /// Messages that were acked, by who should have seen them.
    unseen: usize,
    /// The same by the histories of the groups, once they are known.
    unseen_in_groups: usize,
    /// Changes that were asked for.
    unanswered: usize,
    /// Files that go up or come down.
    transfers: usize,
}

/// Everything that was observed.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Who is shown every message: both sides, and of a group those who stay in it.
    members: BTreeMap<ConversationId, Vec<UserId>>,
    typed: BTreeMap<(UserId, ConversationId), Vec<MessageId>>,
    acked: BTreeMap<MessageId, (ConversationId, u64)>,
    acked_twice: Vec<MessageId>,
    shown: BTreeMap<(UserId, View), Vec<Shown>>,
    history: BTreeMap<ConversationId, Vec<(u64, MessageId)>>,
    /// Conversations with an acked message: the gateway has them.
    written: BTreeSet<ConversationId>,
    groups: Groups,
    /// What came of groups that are too large for inboxes.
    pub(crate) pulled: Pulled,
    /// What happened to messages and groups.
    pub(crate) changes: Changes,
    /// What was uploaded and fetched.
    pub(crate) files: Files,
}

impl Ledger {
    /// A conversation exists between two users.
    pub(crate) fn conversation(&mut self, id: ConversationId, members: [UserId; 2]) {
        self.members.insert(id, members.to_vec());
    }

    /// A group exists, and these users are in it from now on; others come and go.
    pub(crate) fn group(&mut self, id: ConversationId, stay: Vec<UserId>) {
        self.members.insert(id, stay);
        self.groups.add(id, false);
    }

    /// A group exists whose messages come as notices, and these users are in it to the end.
    pub(crate) fn pulled_group(&mut self, id: ConversationId, stay: Vec<UserId>) {
        self.members.insert(id, stay);
        self.groups.add(id, true);
        self.pulled.add(id);
    }

    /// Of a pulled group, how many messages that are due the first device of a member has not kept.
    pub(crate) fn missing_in_pulled(&self, user: &UserId, group: &ConversationId) -> usize {
        let due = self.groups.due(group, user, &self.history);
        self.pulled.missing(user, group, &due)
    }

    /// Who is shown every message of a conversation.
    pub(crate) fn stays(&self, conversation: &ConversationId, user: &UserId) -> bool {
        let members = self.members.get(conversation);
        members.is_some_and(|members| members.contains(user))
    }

    /// A user typed a message and the SDK took it.
    pub(crate) fn typed(&mut self, user: UserId, conversation: ConversationId, id: MessageId) {
        self.typed.entry((user, conversation)).or_default().push(id);
    }

    /// The gateway acked a message under a seq.
    pub(crate) fn acked(&mut self, conversation: ConversationId, seq: u64, id: MessageId) {
        let answer = (conversation, seq);
        self.written.insert(conversation);
        if *self.acked.entry(id).or_insert(answer) != answer {
            self.acked_twice.push(id);
        }
    }

    /// A device showed a message.
    pub(crate) fn shown(&mut self, user: UserId, view: View, shown: Shown) {
        self.shown.entry((user, view)).or_default().push(shown);
    }

    /// The gateway's history of a conversation, asked for at the end by somebody who may see all of it.
    pub(crate) fn history(&mut self, id: ConversationId, messages: &[Message]) {
        let line = |message: &Message| (message.seq.get(), message.id);
        self.history.insert(id, messages.iter().map(line).collect());
        for message in messages {
            self.changes.shown(Observer::History, message);
            if let Content::Note(note) = &message.content {
                self.groups
                    .note(id, message.seq.get(), message.id, message.from, note);
            }
        }
    }

    /// What somebody still waits for.
    pub(crate) fn missing(&self) -> Missing {
        Missing {
            unacked: self.waiting_for_ack(),
            unseen: self.unseen(View::Tail),
            unseen_in_groups: self.groups.unseen(&self.history, &self.shown),
            unanswered: self.changes.pending(),
            transfers: self.files.pending(),
        }
    }

    /// Whether the gateway has this conversation for sure.
    pub(crate) fn is_written_to(&self, conversation: &ConversationId) -> bool {
        self.written.contains(conversation) || self.groups.has(conversation)
    }

    /// A file that somebody else brought to a conversation of this user, and that nobody looks at yet.
    pub(crate) fn claim_file(&mut self, user: &UserId) -> Option<(ConversationId, MediaHash)> {
        let members = &self.members;
        let is_member = |conversation: &ConversationId| {
            members
                .get(conversation)
                .is_some_and(|members| members.contains(user))
        };
        self.files.claim(user, is_member)
    }

    /// Messages acked so far.
    pub(crate) fn acked_count(&self) -> usize {
        self.acked.len()
    }

    /// Typed messages that were not acked yet.
    fn waiting_for_ack(&self) -> usize {
        self.typed
            .values()
            .flatten()
            .filter(|id| !self.acked.contains_key(id))
            .count()
    }

    /// Acked messages that some member has not seen in this view, over all members.
    fn unseen(&self, view: View) -> usize {
        let seen: BTreeMap<UserId, BTreeSet<MessageId>> = self
            .shown
            .iter()
            .filter(|((_, of), _)| *of == view)
            .map(|((user, _), shown)| (*user, shown.iter().map(|one| one.id).collect()))
            .collect();
        self.acked
            .iter()
            // What comes as notices is counted at the end.
            .filter(|(_, (conversation, _))| !self.pulled.has(conversation))
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

    /// What some user was shown of groups in its first device, for sabotage: seqs below its joining are none of its business.
    pub(crate) fn leak(&mut self) {
        let groups = &self.groups;
        let found = self.shown.iter_mut().find_map(|((user, view), shown)| {
            let at = shown.iter().position(|one| {
                *view == View::Tail && groups.first(&one.conversation, user) > Some(1)
            })?;
            Some((shown, at))
        });
        if let Some((shown, at)) = found {
            let of = shown[at].conversation;
            let first = self.history.get(&of).and_then(|history| history.first());
            if let Some((seq, id)) = first {
                let leaked = Shown {
                    seq: *seq,
                    id: *id,
                    ..shown[at]
                };
                shown.insert(at, leaked);
            }
        }
    }

    /// What some user was shown of a group, for sabotage.
    pub(crate) fn lose_in_group(&mut self) {
        for ((_, view), shown) in &mut self.shown {
            let pushed =
                |one: &Shown| one.conversation.is_group() && !self.pulled.has(&one.conversation);
            let found = shown.iter().rposition(pushed);
            if let Some(at) = found.filter(|_| *view == View::Tail) {
                shown.remove(at);
                return;
            }
        }
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
            groups: self.groups.count(),
            moves: self.groups.moves(),
            ..Verdict::default()
        };
        self.judge_typed(&mut verdict);
        self.judge_history(&mut verdict);
        for ((user, view), shown) in &self.shown {
            self.judge_view(*user, *view, shown, &mut verdict);
        }
        self.judge_lost(&mut verdict);
        self.groups.judge(&self.history, &self.shown, &mut verdict);
        self.groups
            .judge_pulled(&self.history, &self.pulled, &mut verdict);
        self.changes.judge(&mut verdict);
        let titles = |group: &_| self.groups.titles(group);
        self.changes.judge_titles(titles, &mut verdict);
        self.files.judge(&mut verdict);
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
                if !typed.contains(id) && !self.groups.is_note(id) {
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
            // Of a group, the judge of groups looks for it.
            let members = self.members.get(conversation);
            let members = members.filter(|_| !conversation.is_group());
            for member in members.into_iter().flatten() {
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

#[cfg(test)]
mod tests;
