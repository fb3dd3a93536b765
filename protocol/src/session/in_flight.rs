//! The SENDs of a client that have no answer yet.

use std::collections::BTreeMap;

use crate::id::{ClientSeq, ConversationId};
use crate::limits::{SENDS_IN_FLIGHT_MAX, SENDS_IN_FLIGHT_TOTAL_MAX};

/// Unanswered SENDs of one connection, bounded per conversation and over all. Empty, it holds no heap.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// At most [`SENDS_IN_FLIGHT_MAX`] each, none empty.
    by_conversation: BTreeMap<ConversationId, Vec<ClientSeq>>,
    total: usize,
}

/// Why a SEND cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    Conversation,
    Connection,
    Repeated,
}

impl InFlight {
    /// Adds a SEND. `limit` is what the gateway allows in one conversation; this version's own bound holds besides,
    /// because a gateway remembers only so many (QP-SEND-4).
    pub(super) fn add(
        &mut self,
        conversation: ConversationId,
        client_seq: ClientSeq,
        limit: usize,
    ) -> Result<(), Full> {
        let unanswered = self.of(&conversation);
        if unanswered.contains(&client_seq) {
            return Err(Full::Repeated);
        }
        if unanswered.len() >= limit.min(SENDS_IN_FLIGHT_MAX) {
            return Err(Full::Conversation);
        }
        if self.total >= SENDS_IN_FLIGHT_TOTAL_MAX {
            return Err(Full::Connection);
        }
        self.by_conversation
            .entry(conversation)
            .or_default()
            .push(client_seq);
        self.total += 1;
        Ok(())
    }

    /// A SEND was answered; one that is not here was sent on an earlier connection.
    pub(super) fn answered(&mut self, conversation: &ConversationId, client_seq: ClientSeq) {
        let Some(unanswered) = self.by_conversation.get_mut(conversation) else {
            return;
        };
        let Some(index) = unanswered.iter().position(|seq| *seq == client_seq) else {
            return;
        };
        unanswered.remove(index);
        self.total -= 1;
        if unanswered.is_empty() {
            self.by_conversation.remove(conversation);
        }
    }

    /// The unanswered ones of a conversation, in the order in which they were sent.
    pub(super) fn of(&self, conversation: &ConversationId) -> &[ClientSeq] {
        self.by_conversation
            .get(conversation)
            .map_or(&[], Vec::as_slice)
    }

    /// Heap memory held, in bytes, without the tree's own nodes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.by_conversation
            .values()
            .map(|unanswered| {
                size_of::<(ConversationId, Vec<ClientSeq>)>()
                    + unanswered.capacity() * size_of::<ClientSeq>()
            })
            .sum()
    }

    /// How many over all conversations.
    pub(super) const fn total(&self) -> usize {
        self.total
    }
}
