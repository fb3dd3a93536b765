//! Changes that were acked, and whether everybody sees them at the end.

use std::collections::{BTreeMap, BTreeSet};

use quipu_client::protocol::event::{Content, Message};
use quipu_client::protocol::id::{ConversationId, UserId};

use super::Verdict;

/// A change of a message or a group that somebody asks for until it is acked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// An own message says this now.
    Edit(ConversationId, u64, String),
    /// An own message goes.
    Delete(ConversationId, u64),
    /// A sign on somebody's message, on or off.
    React(ConversationId, u64, String, bool),
    /// The group is called this now.
    Title(ConversationId, String),
    /// Into a group.
    Join(ConversationId),
    /// Out of it.
    Leave(ConversationId),
}

/// Who says what a message is like at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Observer {
    /// The gateway, asked for the history.
    History,
    /// The first device of a member, from its cache.
    Cache(UserId),
}

/// What a message is like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    text: String,
    gone: bool,
    signs: BTreeSet<(UserId, String)>,
}

impl State {
    fn of(message: &Message) -> Self {
        let signs = message.state.iter().flat_map(|state| &state.reactions);
        Self {
            text: message.content.text().to_owned(),
            gone: matches!(message.content, Content::Gone(_)),
            signs: signs.map(|sign| (sign.user, sign.emoji.clone())).collect(),
        }
    }
}

/// What a message must be like, as far as changes were acked.
#[derive(Debug, Default)]
struct Wanted {
    text: Option<String>,
    gone: bool,
    signs: BTreeMap<(UserId, String), bool>,
}

impl Wanted {
    /// What is wrong with what somebody sees.
    fn complaint(&self, state: &State) -> Option<String> {
        if self.gone || state.gone {
            let fine = self.gone && state.gone && state.text.is_empty() && state.signs.is_empty();
            return (!fine).then(|| format!("{state:?} where it was deleted: {}", self.gone));
        }
        if let Some(text) = &self.text
            && *text != state.text
        {
            return Some(format!("says {:?} instead of {text:?}", state.text));
        }
        let on = self.signs.iter().filter(|(_, on)| **on);
        let due: BTreeSet<&(UserId, String)> = on.map(|(sign, _)| sign).collect();
        let there: BTreeSet<&(UserId, String)> = state.signs.iter().collect();
        (due != there).then(|| format!("has the signs {there:?} instead of {due:?}"))
    }
}

/// A message.
type Place = (ConversationId, u64);

/// Every change of the run.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    wanted: BTreeMap<Place, Wanted>,
    titles: BTreeMap<ConversationId, Vec<String>>,
    /// Reactions that the gateway refused: their messages must be gone.
    refused: Vec<Place>,
    seen: BTreeMap<(Place, Observer), State>,
    acked: usize,
    /// Asked for and not answered yet.
    pending: usize,
}

impl Changes {
    /// Somebody begins to ask for a change.
    pub(crate) fn asked(&mut self) {
        self.pending += 1;
    }

    /// It is acked.
    pub(crate) fn acked(&mut self, user: UserId, act: &Act) {
        self.pending -= 1;
        self.acked += 1;
        match act {
            Act::Edit(conversation, seq, text) => {
                self.wanted(conversation, *seq).text = Some(text.clone());
            }
            Act::Delete(conversation, seq) => self.wanted(conversation, *seq).gone = true,
            Act::React(conversation, seq, emoji, on) => {
                let sign = (user, emoji.clone());
                self.wanted(conversation, *seq).signs.insert(sign, *on);
            }
            Act::Title(group, title) => {
                self.titles.entry(*group).or_default().push(title.clone());
            }
            // The notes in the history say it.
            Act::Join(_) | Act::Leave(_) => {}
        }
    }

    /// A reaction is refused, which only the deletion of its message excuses.
    pub(crate) fn refused(&mut self, conversation: ConversationId, seq: u64) {
        self.pending -= 1;
        self.refused.push((conversation, seq));
    }

    /// Changes without an answer.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Messages that were changed, for whoever looks at how they are now.
    pub(crate) fn places(&self) -> Vec<(ConversationId, u64)> {
        self.wanted.keys().copied().collect()
    }

    /// What somebody sees at the end.
    pub(crate) fn shown(&mut self, observer: Observer, message: &Message) {
        let place = (message.conversation, message.seq.get());
        if self.wanted.contains_key(&place) {
            self.seen.insert((place, observer), State::of(message));
        }
    }

    /// Whether a message is as it must be.
    pub(crate) fn is_right(&self, message: &Message) -> bool {
        let wanted = self.wanted.get(&(message.conversation, message.seq.get()));
        wanted.is_none_or(|wanted| wanted.complaint(&State::of(message)).is_none())
    }

    /// What the history has of one changed message is forgotten, for sabotage.
    pub(crate) fn forget_one(&mut self) {
        let wanted = &self.wanted;
        let nothing = State::default();
        let mut seen = self.seen.iter_mut();
        let found = seen.find(|((place, observer), _)| {
            let wanted = wanted.get(place);
            *observer == Observer::History
                && wanted.is_some_and(|wanted| wanted.complaint(&nothing).is_some())
        });
        if let Some((_, state)) = found {
            *state = nothing;
        }
    }

    pub(super) fn judge(&self, verdict: &mut Verdict) {
        verdict.changes = self.acked;
        if self.pending > 0 {
            verdict.wrong(format!("{} changes were never answered", self.pending));
        }
        for ((conversation, seq), wanted) in &self.wanted {
            let place = (*conversation, *seq);
            if !self.seen.contains_key(&(place, Observer::History)) {
                verdict.undone(format!("the history has no {conversation}/{seq}"));
            }
            let seen = self.seen.range((place, Observer::History)..);
            for ((_, observer), state) in seen.take_while(|((of, _), _)| *of == place) {
                if let Some(complaint) = wanted.complaint(state) {
                    verdict.undone(format!("{conversation}/{seq} ({observer:?}): {complaint}"));
                }
            }
        }
        for (conversation, seq) in &self.refused {
            let wanted = self.wanted.get(&(*conversation, *seq));
            if !wanted.is_some_and(|wanted| wanted.gone) {
                verdict.wrong(format!(
                    "a reaction to {conversation}/{seq} was refused, and it is not deleted"
                ));
            }
        }
    }

    /// Every acked title was the group's, and the last one is.
    pub(super) fn judge_titles<'a>(
        &self,
        titles_of: impl Fn(&ConversationId) -> &'a [String],
        verdict: &mut Verdict,
    ) {
        for (group, acked) in &self.titles {
            let had = titles_of(group);
            let last_is_wrong = had.last() != acked.last();
            for title in acked.iter().filter(|title| !had.contains(title)) {
                verdict.undone(format!("{group} was never called {title:?}"));
            }
            if last_is_wrong {
                verdict.undone(format!(
                    "{group} is called {:?} instead of {:?}",
                    had.last(),
                    acked.last()
                ));
            }
        }
    }

    fn wanted(&mut self, conversation: &ConversationId, seq: u64) -> &mut Wanted {
        self.wanted.entry((*conversation, seq)).or_default()
    }
}
