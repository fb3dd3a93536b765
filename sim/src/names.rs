//! What the machines' ids are to the checker: persons, conversations and messages by number.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;

use quipu_protocol::event::{Changed, ChangedKind, Content, EventBody, Gone, Message, Note, Role};
use quipu_protocol::id::{ConversationId, MessageId, TimestampMs, UserId};
use siphasher::sip::SipHasher13;

use crate::checker::{self, Happened, Kept, Person, Says, Shown, Talk, What};

/// Signs that people put on messages.
pub(crate) const SIGNS: [&str; checker::SIGNS as usize] = ["+", "!"];

/// Everything that has a name.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) people: Vec<UserId>,
    pub(crate) talks: BTreeMap<ConversationId, Talk>,
    /// By the id that the writing device drew.
    pub(crate) notes: BTreeMap<MessageId, checker::Note>,
}

/// What a text is, for the checker.
pub(crate) fn fingerprint(text: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}

impl Names {
    pub(crate) fn person(&self, user: &UserId) -> Person {
        let found = self.people.iter().position(|person| person == user);
        found.unwrap_or(usize::MAX)
    }

    /// A conversation that nobody began has no number that the checker knows.
    pub(crate) fn talk(&self, conversation: &ConversationId) -> Talk {
        self.talks.get(conversation).copied().unwrap_or(usize::MAX)
    }

    /// What a message is, and what it says.
    pub(crate) fn what(&self, message: &Message) -> (What, Says) {
        let what = || {
            let note = self.notes.get(&message.id).copied();
            What::Words(note.unwrap_or(checker::Note::MAX))
        };
        match &message.content {
            Content::Note(note) => (What::Note(self.happened(note)), Says::Note),
            Content::Text(_) | Content::Rich(_) => (what(), says(&message.content)),
            Content::Gone(_) => (what(), Says::Nothing),
        }
    }

    fn happened(&self, note: &Note) -> Happened {
        match note {
            Note::Created(_) => Happened::Created,
            Note::Joined => Happened::Joined,
            Note::Left => Happened::Left,
            Note::Invited(user) => Happened::Invited(self.person(user)),
            Note::Removed(user) => Happened::Removed(self.person(user)),
            Note::Role(user, role) => Happened::Role(self.person(user), power(*role)),
            Note::Title(_) | Note::Topic(_) => Happened::Named,
            Note::Timer(keep_ms) => Happened::Timer(*keep_ms),
            Note::Pulled => Happened::Pulled,
        }
    }

    /// A message with all that became of it.
    pub(crate) fn kept(&self, message: &Message, now: TimestampMs) -> Kept {
        let (what, says) = self.what(message);
        let state = message.state.as_deref();
        let signs = state.map_or(&[][..], |state| &state.reactions);
        let signs = signs.iter().map(|sign| {
            let number = SIGNS.iter().position(|known| *known == sign.emoji);
            (self.person(&sign.user), number.map_or(u8::MAX, |n| n as u8))
        });
        Kept {
            what,
            from: self.person(&message.from),
            says,
            version: state.map_or(0, |state| state.version),
            signs: signs.collect(),
            is_timed: state.is_some_and(|state| state.expires_at.is_some()),
            is_over: message.content == Content::Gone(Gone::Expired) || message.is_expired(now),
        }
    }

    /// Brings a change to what is kept of its message, if it is news (QP-MSG-6).
    pub(crate) fn change(&self, kept: &mut Kept, changed: &Changed) {
        if changed.version <= kept.version {
            return;
        }
        kept.version = changed.version;
        match &changed.kind {
            ChangedKind::Edited(Content::Gone(gone)) | ChangedKind::Gone(gone) => {
                // One whose time was over before its deletion came to the log is a deleted one from then on.
                kept.is_over = *gone == Gone::Expired;
                kept.says = Says::Nothing;
                kept.signs = BTreeSet::new();
                kept.is_timed = false;
            }
            ChangedKind::Edited(content) => kept.says = says(content),
            ChangedKind::Reacted { emoji, on } => {
                let by = changed.by.map_or(usize::MAX, |by| self.person(&by));
                let sign = (by, sign(emoji));
                match on {
                    true => drop(kept.signs.insert(sign)),
                    false => drop(kept.signs.remove(&sign)),
                }
            }
        }
    }

    /// What an entry of a timeline is, and what it says.
    pub(crate) fn shown(&self, body: &EventBody) -> (Shown, Says) {
        match body {
            EventBody::Message(message) => {
                let (what, says) = self.what(message);
                let shown = Shown::Message {
                    talk: self.talk(&message.conversation),
                    seq: message.seq.get(),
                    what,
                    from: self.person(&message.from),
                };
                (shown, says)
            }
            EventBody::Receipt(receipt) => {
                let shown = Shown::Receipt {
                    talk: self.talk(&receipt.conversation),
                    whose: self.person(&receipt.user),
                    delivered: receipt.delivered.map_or(0, |seq| seq.get()),
                    read: receipt.read.map_or(0, |seq| seq.get()),
                };
                (shown, Says::Note)
            }
            EventBody::Changed(changed) => {
                let shown = Shown::Changed {
                    talk: self.talk(&changed.conversation),
                    seq: changed.seq.get(),
                    version: changed.version,
                    by: changed.by.map_or(usize::MAX, |by| self.person(&by)),
                    sign: match &changed.kind {
                        ChangedKind::Reacted { emoji, on } => Some((sign(emoji), *on)),
                        ChangedKind::Edited(_) | ChangedKind::Gone(_) => None,
                    },
                };
                (shown, Says::Note)
            }
            EventBody::Invitation(invitation) => {
                let shown = Shown::Invited {
                    talk: self.talk(&invitation.conversation),
                    by: self.person(&invitation.by),
                };
                (shown, Says::Note)
            }
        }
    }
}

fn sign(emoji: &str) -> u8 {
    let number = SIGNS.iter().position(|known| *known == emoji);
    number.map_or(u8::MAX, |number| number as u8)
}

fn says(content: &Content) -> Says {
    match content {
        Content::Text(text) => Says::Words(fingerprint(text)),
        Content::Rich(rich) => Says::Words(fingerprint(&rich.text)),
        Content::Note(_) => Says::Note,
        Content::Gone(_) => Says::Nothing,
    }
}

fn power(role: Role) -> u8 {
    match role {
        Role::Member => checker::MEMBER,
        Role::Admin => checker::ADMIN,
        Role::Owner => checker::OWNER,
    }
}
