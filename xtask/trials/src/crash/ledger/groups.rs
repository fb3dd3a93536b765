//! Who was in which group when, by the notes of its history, and what that means for what each was shown.

use std::collections::{BTreeMap, BTreeSet};

use quipu_client::protocol::event::Note;
use quipu_client::protocol::id::{ConversationId, MessageId, UserId};

use super::pulled::Pulled;
use super::{Shown, Verdict, View};

/// Seqs of messages by who was shown them, in a view that is complete at the end.
type Seen = BTreeMap<(UserId, View), BTreeSet<u64>>;
/// What every device showed.
type ShownTo = BTreeMap<(UserId, View), Vec<Shown>>;
/// What the gateway's histories have.
type History = BTreeMap<ConversationId, Vec<(u64, MessageId)>>;

/// What is known of one group.
#[derive(Debug, Default)]
struct Group {
    /// First and last seq of each time that a user was in it; the last is `None` while that lasts.
    spans: BTreeMap<UserId, Vec<(u64, Option<u64>)>>,
    titles: Vec<String>,
    moves: usize,
    /// Its messages come as notices, which [`Pulled`] judges.
    pulled: bool,
}

impl Group {
    fn enters(&mut self, user: UserId, seq: u64) {
        self.moves += 1;
        self.spans.entry(user).or_default().push((seq, None));
    }

    fn leaves(&mut self, user: UserId, seq: u64) {
        self.moves += 1;
        if let Some((_, last)) = self.spans.entry(user).or_default().last_mut() {
            *last = Some(seq);
        }
    }

    /// What a user had to be shown: from the note of joining to the note of leaving, both included.
    fn due(&self, user: &UserId, head: u64) -> BTreeSet<u64> {
        let spans = self.spans.get(user).into_iter().flatten();
        let spans = spans.map(|(first, last)| *first..=last.unwrap_or(head));
        spans.flatten().collect()
    }
}

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: BTreeMap<ConversationId, Group>,
    notes: BTreeSet<MessageId>,
}

impl Groups {
    pub(super) fn add(&mut self, id: ConversationId, pulled: bool) {
        self.groups.entry(id).or_default().pulled = pulled;
    }

    pub(super) fn has(&self, id: &ConversationId) -> bool {
        self.groups.contains_key(id)
    }

    /// From where on a user was in a group for the first time.
    pub(super) fn first(&self, id: &ConversationId, user: &UserId) -> Option<u64> {
        let spans = self.groups.get(id)?.spans.get(user)?;
        spans.first().map(|(first, _)| *first)
    }

    pub(super) fn count(&self) -> usize {
        self.groups.len()
    }

    pub(super) fn moves(&self) -> usize {
        self.groups.values().map(|group| group.moves).sum()
    }

    /// Titles that a group has had, in order.
    pub(super) fn titles(&self, id: &ConversationId) -> &[String] {
        self.groups.get(id).map_or(&[], |group| &group.titles)
    }

    /// Whether this is a note, which nobody types.
    pub(super) fn is_note(&self, id: &MessageId) -> bool {
        self.notes.contains(id)
    }

    /// The history has a note; they come in the order of their seqs.
    pub(super) fn note(
        &mut self,
        group: ConversationId,
        seq: u64,
        id: MessageId,
        from: UserId,
        note: &Note,
    ) {
        let group = self.groups.entry(group).or_default();
        self.notes.insert(id);
        match note {
            Note::Created(title) => {
                group.enters(from, seq);
                group.titles.push(title.clone());
            }
            Note::Joined => group.enters(from, seq),
            Note::Left => group.leaves(from, seq),
            Note::Removed(user) => group.leaves(*user, seq),
            Note::Title(title) => group.titles.push(title.clone()),
            Note::Invited(_) | Note::Role(..) | Note::Topic(_) | Note::Timer(_) | Note::Pulled => {}
        }
    }

    /// Messages that were due on a first device and are not there yet.
    pub(super) fn unseen(&self, history: &History, shown: &ShownTo) -> usize {
        let pushed = self.groups.iter().filter(|(_, group)| !group.pulled);
        let each = pushed.map(|(id, group)| {
            let head = head(history, id);
            let seen = seen(id, shown);
            let missing = group.spans.keys().map(|user| {
                let due = group.due(user, head);
                let had = seen.get(&(*user, View::Tail));
                due.iter()
                    .filter(|seq| !had.is_some_and(|had| had.contains(seq)))
                    .count()
            });
            missing.sum::<usize>()
        });
        each.sum()
    }

    /// Seqs of a group that this user has to have at the end.
    pub(super) fn due(
        &self,
        id: &ConversationId,
        user: &UserId,
        history: &History,
    ) -> BTreeSet<u64> {
        let group = self.groups.get(id);
        group.map_or_else(BTreeSet::new, |group| group.due(user, head(history, id)))
    }

    /// Members of pulled groups have kept what was due.
    pub(super) fn judge_pulled(&self, history: &History, pulled: &Pulled, verdict: &mut Verdict) {
        for (id, group) in self.groups.iter().filter(|(_, group)| group.pulled) {
            let kept = history.get(id).into_iter().flatten().copied().collect();
            for user in group.spans.keys() {
                let due = group.due(user, head(history, id));
                pulled.judge((*user, *id), &due, &kept, verdict);
            }
        }
    }

    /// What was due was shown by every complete view, and nothing else by any.
    pub(super) fn judge(&self, history: &History, shown: &ShownTo, verdict: &mut Verdict) {
        for (id, group) in &self.groups {
            let head = head(history, id);
            let seen = seen(id, shown);
            judge_leaks(id, group, head, &seen, verdict);
            if group.pulled {
                continue;
            }
            let mut missing: BTreeMap<u64, Vec<String>> = BTreeMap::new();
            for user in group.spans.keys() {
                let due = group.due(user, head);
                for view in [View::Tail, View::Fresh] {
                    let had = seen.get(&(*user, view));
                    let lacks = due
                        .iter()
                        .filter(|seq| !had.is_some_and(|had| had.contains(seq)));
                    for seq in lacks {
                        let who = format!("{user} ({view:?})");
                        missing.entry(*seq).or_default().push(who);
                    }
                }
            }
            for (seq, who) in missing {
                verdict.lost(format!(
                    "group message {id}/{seq} is missing from {}",
                    who.join(", ")
                ));
            }
        }
    }
}

/// Nobody was shown what was said while it was no member.
fn judge_leaks(id: &ConversationId, group: &Group, head: u64, seen: &Seen, verdict: &mut Verdict) {
    for ((user, view), had) in seen {
        let due = group.due(user, head);
        for seq in had.difference(&due) {
            verdict.leaked(format!(
                "{user} ({view:?}) was shown {id}/{seq} without being a member then"
            ));
        }
    }
}

fn head(history: &History, id: &ConversationId) -> u64 {
    let last = history.get(id).and_then(|messages| messages.last());
    last.map_or(0, |(seq, _)| *seq)
}

fn seen(id: &ConversationId, shown: &ShownTo) -> Seen {
    let mut seen = Seen::new();
    for (key, shown) in shown {
        let of = shown.iter().filter(|one| one.conversation == *id);
        let seqs: BTreeSet<u64> = of.map(|one| one.seq).collect();
        if !seqs.is_empty() {
            seen.insert(*key, seqs);
        }
    }
    seen
}
