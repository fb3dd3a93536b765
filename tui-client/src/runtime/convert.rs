//! From the SDK's words to the screen's.

use quipu_client::{ClientEvent, ConnectionState, ConversationSummary, LocalMessage, LocalState};
use quipu_protocol::id::UserId;
use quipu_protocol::query::PresenceEntry;

use super::wishes;
use crate::app::conversations::{Conversation, Presence};
use crate::app::timeline::Waiting;
use crate::app::wish::{WishId, WishNews};
use crate::app::{Connection, Event};

/// What the screen is told of an SDK event; `None`: nothing.
pub(super) fn from_client(event: ClientEvent) -> Option<Event> {
    Some(match event {
        ClientEvent::Message { message, .. } => Event::Message(message.as_ref().clone()),
        // Only this screen writes into the outbox while it holds the folder, and its echoes are there already. An ack comes
        // again with the message itself.
        ClientEvent::Queued(_) | ClientEvent::Acked { .. } | ClientEvent::ChangeQueued(_) => {
            return None;
        }
        ClientEvent::Refused {
            id,
            conversation,
            refusal,
        } => Event::Refused {
            conversation,
            id,
            reason: format!("{}: {}", refusal.code, refusal.reason),
        },
        ClientEvent::ChangeMade { id, conversation } => {
            Event::Wish(WishNews::Ended(conversation, WishId(id.0)))
        }
        ClientEvent::ChangeRefused {
            id,
            conversation,
            refusal,
        } => Event::Wish(WishNews::Refused(
            conversation,
            WishId(id.0),
            wishes::why(refusal),
        )),
        ClientEvent::Receipt(receipt) => Event::Receipt(receipt),
        ClientEvent::Noticed(message) => Event::Message(message.as_ref().clone()),
        ClientEvent::Invited(invitation) => Event::Invited(invitation),
        ClientEvent::Changed(changed) => Event::Changed(changed),
        ClientEvent::CaughtUp(conversation) => Event::CaughtUp(conversation),
        ClientEvent::Typing {
            conversation,
            user,
            on,
        } => Event::Typing(conversation, user, on),
        ClientEvent::Presence(entry) => Event::Presence(entry),
        ClientEvent::Resynced | ClientEvent::Listed | ClientEvent::Lagged { .. } => Event::Stale,
    })
}

/// What the screen is told of the connection.
pub(super) fn connection_event(state: &ConnectionState) -> Event {
    Event::Connection(match state {
        ConnectionState::Online { .. } => Connection::Online,
        ConnectionState::Connecting => Connection::Connecting,
        ConnectionState::Offline { reason, retry_at } => Connection::Offline {
            reason: reason.to_string(),
            retries: retry_at.is_some(),
        },
    })
}

/// A line of the conversation list.
pub(super) fn summary(
    summary: ConversationSummary,
    presence: impl FnOnce(UserId) -> Option<PresenceEntry>,
) -> Conversation {
    let mut row = Conversation::new(summary.id, summary.peer);
    let known = summary.peer.and_then(presence);
    row.presence = known.as_ref().and_then(Presence::told);
    if let Some(last) = &summary.last {
        row.set_last(last);
    }
    row.group = summary.title.or(row.group);
    row.invited_by = summary.invited_by;
    row.head = summary.head;
    row.unread = summary.unread;
    row.read = summary.read;
    row.peer_delivered = summary.peer_delivered.max(summary.peer_read);
    row.peer_read = summary.peer_read;
    row.waiting = summary.waiting;
    row
}

/// A message of the outbox.
pub(super) fn waiting(local: LocalMessage) -> Waiting {
    let refused = match local.state {
        LocalState::Queued | LocalState::Acked(_) => None,
        LocalState::Refused(refusal) => Some(format!("{}: {}", refusal.code, refusal.reason)),
    };
    Waiting {
        id: local.id,
        conversation: local.conversation,
        text: local.content.text().to_owned(),
        queued_at: local.queued_at,
        refused,
    }
}
