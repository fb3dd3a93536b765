//! When to say that the user types, and who of the others still does, as machines without a clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quipu_protocol::id::{ConversationId, UserId};
use quipu_protocol::limits::{TYPING_EXPIRES_MS, TYPING_REPEAT_MS};

const REPEAT: Duration = Duration::from_millis(TYPING_REPEAT_MS);
const EXPIRES: Duration = Duration::from_millis(TYPING_EXPIRES_MS);
/// Conversations in which the user is remembered to type. Above it the one that was said first is forgotten.
const PACED_MAX: usize = 16;
/// Others who type at once. Above it the one who would be over first is taken for having stopped.
const TYPISTS_MAX: usize = 64;

/// When to say that the user types (QP-TYPING-1).
#[derive(Debug, Default)]
pub(super) struct Pace {
    said: BTreeMap<ConversationId, Instant>,
}

impl Pace {
    /// The user types in a conversation, or no longer does: whether to say so.
    pub(super) fn say(&mut self, now: Instant, conversation: ConversationId, on: bool) -> bool {
        let said = self.said.get(&conversation).copied();
        if !on {
            // Worth saying only while others may still take the user for typing.
            self.said.remove(&conversation);
            return said.is_some_and(|at| now < at + EXPIRES);
        }
        if said.is_some_and(|at| now < at + REPEAT) {
            return false;
        }
        if said.is_none() && self.said.len() >= PACED_MAX {
            let first = self.said.iter().min_by_key(|(_, at)| **at);
            if let Some(first) = first.map(|(conversation, _)| *conversation) {
                self.said.remove(&first);
            }
        }
        self.said.insert(conversation, now);
        true
    }

    /// A message has told the others that the user no longer types.
    pub(super) fn ended(&mut self, conversation: ConversationId) {
        self.said.remove(&conversation);
    }
}

/// Who types (QP-TYPING-5).
#[derive(Debug, Default)]
pub(super) struct Typists {
    until: BTreeMap<(ConversationId, UserId), Instant>,
}

impl Typists {
    /// A gateway says that somebody types, or no longer does. What has changed by it.
    pub(super) fn heard(
        &mut self,
        now: Instant,
        conversation: ConversationId,
        user: UserId,
        on: bool,
    ) -> Vec<(ConversationId, UserId, bool)> {
        let mut changed = Vec::new();
        if !on {
            if self.ended(conversation, user) {
                changed.push((conversation, user, false));
            }
            return changed;
        }
        let known = self.until.insert((conversation, user), now + EXPIRES);
        if known.is_none() {
            if self.until.len() > TYPISTS_MAX {
                let first = self.until.iter().min_by_key(|(_, until)| **until);
                if let Some((conversation, user)) = first.map(|(who, _)| *who) {
                    self.until.remove(&(conversation, user));
                    changed.push((conversation, user, false));
                }
            }
            changed.push((conversation, user, true));
        }
        changed
    }

    /// Somebody no longer types; whether that is news.
    pub(super) fn ended(&mut self, conversation: ConversationId, user: UserId) -> bool {
        self.until.remove(&(conversation, user)).is_some()
    }

    /// Those who have not been heard of for too long.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<(ConversationId, UserId)> {
        let over = self.until.iter().filter(|(_, until)| **until <= now);
        let over: Vec<_> = over.map(|(who, _)| *who).collect();
        self.until.retain(|_, until| *until > now);
        over
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.until.values().min().copied()
    }

    /// Nobody types any more; who did.
    pub(super) fn clear(&mut self) -> Vec<(ConversationId, UserId)> {
        std::mem::take(&mut self.until).into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: ConversationId = ConversationId([1; 16]);

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("a good name")
    }

    #[test]
    fn a_key_press_is_said_now_and_then_and_an_end_only_if_somebody_believes_otherwise() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert!(!pace.say(start, HERE, false), "nobody was told");
        let said =
            (0..100).filter(|n| pace.say(start + Duration::from_millis(100) * *n, HERE, true));
        assert_eq!(said.count(), 4, "at 0, 2.5, 5 and 7.5 s");
        assert!(
            pace.say(start, ConversationId([2; 16]), true),
            "each on its own"
        );
        let stop = start + Duration::from_secs(10);
        assert!(pace.say(stop, HERE, false));
        assert!(!pace.say(stop, HERE, false));
        assert!(pace.say(stop, HERE, true), "anew, at once");
        assert!(
            !pace.say(stop + EXPIRES, HERE, false),
            "it was over by itself"
        );
        assert!(pace.say(stop, HERE, true));
        pace.ended(HERE);
        assert!(pace.say(stop, HERE, true), "the next message");
        for number in 0..200 {
            assert!(pace.say(stop + EXPIRES, ConversationId([number; 16]), true));
        }
        assert_eq!(pace.said.len(), PACED_MAX);
    }

    #[test]
    fn somebody_types_until_a_stop_a_message_or_silence() {
        let (mut typists, start, ana) = (Typists::default(), Instant::now(), user("ana"));
        assert_eq!(typists.heard(start, HERE, ana, true), [(HERE, ana, true)]);
        let later = start + EXPIRES / 2;
        assert!(typists.heard(later, HERE, ana, true).is_empty(), "no news");
        assert_eq!(typists.poll_timeout(), Some(later + EXPIRES));
        assert!(typists.handle_timeout(start + EXPIRES).is_empty());
        assert_eq!(typists.handle_timeout(later + EXPIRES), [(HERE, ana)]);
        assert_eq!(typists.poll_timeout(), None);
        typists.heard(start, HERE, ana, true);
        assert_eq!(typists.heard(start, HERE, ana, false), [(HERE, ana, false)]);
        assert!(typists.heard(start, HERE, ana, false).is_empty());
        typists.heard(start, HERE, ana, true);
        assert!(typists.ended(HERE, ana) && !typists.ended(HERE, ana));
    }

    #[test]
    fn a_crowd_is_bounded_and_everybody_who_began_ends() {
        let (mut typists, start) = (Typists::default(), Instant::now());
        let mut typing = std::collections::BTreeSet::new();
        for number in 0..1000 {
            let at = start + Duration::from_millis(number);
            for (conversation, who, on) in
                typists.heard(at, HERE, user(&format!("u{number}")), true)
            {
                let changes = if on {
                    typing.insert((conversation, who))
                } else {
                    typing.remove(&(conversation, who))
                };
                assert!(changes);
            }
            assert!(typing.len() <= TYPISTS_MAX);
        }
        for who in typists.clear() {
            assert!(typing.remove(&who));
        }
        assert!(typing.is_empty());
    }
}
