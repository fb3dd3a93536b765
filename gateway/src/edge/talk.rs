//! Typing and presence of one session: what its device says, what it is told, and what has to be found out before either.
//!
//! Made when it is first needed, so that most sessions are without. Nothing here waits for long or grows: of what the device
//! says the last word is kept while the members are looked up, and of what it is told the last word about each user.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quipu_core::row::Settings;
use quipu_protocol::datagram::{self, Typing};
use quipu_protocol::id::{ConversationId, UserId};

use super::Shared;
use super::connection::Boxed;
use crate::ephemeral::{Fleeting, Published};
use crate::queries::QueryError;

/// How long what was found out about the members of a conversation holds (QP-TYPING-2).
const MEMBERS_TIME: Duration = Duration::from_secs(10);
/// Conversations whose members are known at once; above it the one that was found out first is forgotten.
const MEMBERS_KNOWN_MAX: usize = 8;
/// Datagrams that a device may send at once, and how long until there is room for one more. A client that keeps to
/// QP-TYPING-1 needs one in 2.5 s for each conversation that its user writes in.
const PACE_BURST: u32 = 10;
const PACE: Duration = Duration::from_millis(500);

/// Typing and presence of one session.
#[derive(Default)]
pub(super) struct Talk {
    /// When the device will have used up nothing of its pace.
    paced_until: Option<Instant>,
    /// What the device said and nobody was told yet.
    said: Option<Typing>,
    /// At most [`MEMBERS_KNOWN_MAX`], the latest at the end.
    members: Vec<Members>,
    /// What the device was not told yet.
    waiting: Fleeting,
    /// What is being found out.
    pub(super) finding: Option<Boxed<Found>>,
}

/// Who is told of typing in a conversation.
struct Members {
    conversation: ConversationId,
    /// Until when that holds.
    until: Instant,
    /// `None`: nobody.
    to: Option<Arc<[UserId]>>,
}

/// What had to be found out.
pub(super) enum Found {
    /// What the user has decided about others.
    Settings(Result<Settings, QueryError>),
    /// Who is told of typing in a conversation.
    Members(ConversationId, Result<Option<Arc<[UserId]>>, QueryError>),
}

impl Talk {
    /// Takes a datagram of the device, if it does not send too many.
    pub(super) fn hear(&mut self, now: Instant, datagram: &Bytes, shared: &Shared) {
        let metrics = &shared.with.metrics;
        if !self.take_pace(now) {
            metrics.typing_rate_limited.inc();
            return;
        }
        match datagram::from_client(datagram) {
            Ok(typing) => {
                metrics.typing_received.inc();
                self.said = Some(typing);
            }
            Err(_) => {
                metrics.datagrams_ignored.inc();
            }
        }
    }

    /// Takes what the device is to be told.
    pub(super) fn tell(&mut self, fleeting: Fleeting) {
        self.waiting.add(fleeting);
    }

    /// Forgets what the device has not been told of those whom it watches: it will be told anew.
    pub(super) fn forget_presence(&mut self) {
        self.waiting.presence.clear();
    }

    /// Takes what was found out about a conversation.
    pub(super) fn learn(
        &mut self,
        now: Instant,
        conversation: ConversationId,
        members: Option<Arc<[UserId]>>,
    ) {
        self.members
            .retain(|known| known.conversation != conversation);
        if self.members.len() >= MEMBERS_KNOWN_MAX {
            self.members.remove(0);
        }
        self.members.push(Members {
            conversation,
            until: now + MEMBERS_TIME,
            to: members,
        });
    }

    /// Nothing could be found out: it is over by itself.
    pub(super) fn give_up(&mut self) {
        self.said = None;
        self.waiting = Fleeting::default();
    }

    /// Publishes what the device said and gives the datagrams to send to it, each of at most `bytes_max`; or finds out first
    /// what has to be known. `settings`: what the user has decided about others, if that is known.
    pub(super) fn go_on(
        &mut self,
        now: Instant,
        shared: &Arc<Shared>,
        user: UserId,
        settings: Option<&Settings>,
        bytes_max: Option<usize>,
    ) -> Vec<Bytes> {
        let Some(bytes_max) = bytes_max else {
            // The device takes no datagrams.
            self.give_up();
            return Vec::new();
        };
        if self.finding.is_some() || self.said.is_none() && self.waiting.is_empty() {
            return Vec::new();
        }
        let Some(settings) = settings else {
            let shared = Arc::clone(shared);
            self.finding = Some(Box::pin(async move {
                Found::Settings(shared.with.queries.settings(user).await)
            }));
            return Vec::new();
        };
        self.publish(now, shared, user, settings);
        self.datagrams(settings, bytes_max)
    }

    fn publish(&mut self, now: Instant, shared: &Arc<Shared>, user: UserId, settings: &Settings) {
        let Some(typing) = self.said.take() else {
            return;
        };
        let with = &shared.with;
        if settings.privacy.hide_typing {
            with.metrics.typing_refused.inc();
            return;
        }
        let known = self
            .members
            .iter()
            .find(|known| known.conversation == typing.conversation && known.until > now);
        let Some(Members { to: members, .. }) = known else {
            self.said = Some(typing);
            let (shared, conversation) = (Arc::clone(shared), typing.conversation);
            self.finding = Some(Box::pin(async move {
                let members = shared.with.queries.typing_to(user, conversation).await;
                Found::Members(conversation, members)
            }));
            return;
        };
        let Some(members) = members else {
            with.metrics.typing_refused.inc();
            return;
        };
        let to = match members.iter().any(|member| settings.blocks(member)) {
            false => Arc::clone(members),
            true => members
                .iter()
                .copied()
                .filter(|member| !settings.blocks(member))
                .collect(),
        };
        with.registry.publish(Published::Typing {
            from: user,
            typing,
            to,
        });
    }

    /// What the device is told, and of it only what its user may see now.
    fn datagrams(&mut self, settings: &Settings, bytes_max: usize) -> Vec<Bytes> {
        let Fleeting { typing, presence } = std::mem::take(&mut self.waiting);
        let shown =
            |(from, _): &&(UserId, Typing)| !settings.privacy.hide_typing && !settings.blocks(from);
        let typing = typing.iter().filter(shown);
        let mut datagrams: Vec<Bytes> = typing
            .map(|(from, typing)| datagram::typing(typing, Some(from)))
            .collect();
        datagrams.extend(datagram::presence(&presence, bytes_max));
        datagrams
    }

    fn take_pace(&mut self, now: Instant) -> bool {
        let until = self.paced_until.map_or(now, |until| until.max(now));
        let taken = until + PACE;
        if taken > now + PACE * PACE_BURST {
            return false;
        }
        self.paced_until = Some(taken);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_a_burst_and_then_a_pace() {
        let (mut talk, start) = (Talk::default(), Instant::now());
        let takes = |talk: &mut Talk, at| (0..100).filter(|_| talk.take_pace(at)).count();
        assert_eq!(takes(&mut talk, start), PACE_BURST as usize);
        assert_eq!(takes(&mut talk, start + PACE), 1);
        assert_eq!(takes(&mut talk, start + PACE * 1000), PACE_BURST as usize);
    }

    #[test]
    fn few_conversations_are_known_at_once() {
        let (mut talk, now) = (Talk::default(), Instant::now());
        for number in 0..20 {
            talk.learn(now, ConversationId([number; 16]), None);
            talk.learn(now, ConversationId([number; 16]), None);
        }
        assert_eq!(talk.members.len(), MEMBERS_KNOWN_MAX);
        assert_eq!(talk.members[0].conversation, ConversationId([12; 16]));
    }
}
