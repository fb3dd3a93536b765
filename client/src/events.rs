//! What the application is told while it runs: the event stream, the lossless tail, the state of the connection.

use std::fmt;
use std::sync::Arc;

use quipu_protocol::error::CloseCode;
use quipu_protocol::event::{Changed, Invitation, Message, Receipt};
use quipu_protocol::id::{ConversationId, Cursor, InboxSeq, MessageId, Seq, UserId};
use quipu_protocol::query::PresenceEntry;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::cache::Cache;
use crate::error::{Error, Refusal};
use crate::model::{Arrival, ChangeId, LocalChange, LocalMessage};
use crate::pin::CertificateChanged;

/// Something that is already in the cache when the application hears of it, unless it says otherwise.
#[derive(Debug, Clone)]
pub enum ClientEvent {
    /// A message, also the user's own. Each is shown once, in the order of the inbox.
    Message {
        /// Its place in the inbox.
        inbox_seq: InboxSeq,
        /// The message.
        message: Arc<Message>,
    },
    /// A message of this device was put into the outbox.
    Queued(Arc<LocalMessage>),
    /// A message of this device is durable, ordered and in the history. Comes before its `Message` or with it.
    Acked {
        /// Which message.
        id: MessageId,
        /// In which conversation.
        conversation: ConversationId,
        /// Its place there.
        seq: Seq,
    },
    /// A message of this device was refused for good.
    Refused {
        /// Which message.
        id: MessageId,
        /// In which conversation.
        conversation: ConversationId,
        /// Why.
        refusal: Refusal,
    },
    /// A change of a message was put into the outbox.
    ChangeQueued(Arc<LocalChange>),
    /// A change of the outbox was made. What it changed comes as `Changed`, before or after.
    ChangeMade {
        /// Which change.
        id: ChangeId,
        /// In which conversation.
        conversation: ConversationId,
    },
    /// A change of the outbox was refused for good.
    ChangeRefused {
        /// Which change.
        id: ChangeId,
        /// In which conversation.
        conversation: ConversationId,
        /// Why.
        refusal: Refusal,
    },
    /// A member's position moved.
    Receipt(Receipt),
    /// Something happened to a message. If it is in the cache, it is changed there already.
    Changed(Box<Changed>),
    /// Somebody wants the user in a group: `Change::Join` accepts, `Change::Leave` declines.
    Invited(Invitation),
    /// A message of a group that is too large for inboxes. It has no place there, so that a [`Tail`] does not give it.
    Noticed(Arc<Message>),
    /// Somebody types, or no longer does: until then, a message of theirs, or some seconds without another word. Not in the
    /// cache.
    Typing {
        /// Where.
        conversation: ConversationId,
        /// Who.
        user: UserId,
        /// False: no longer.
        on: bool,
    },
    /// Something else is known of somebody whom the client watches; neither here nor seen: nothing. Not in the cache; see
    /// [`Client::presence`](crate::Client::presence).
    Presence(PresenceEntry),
    /// Messages of this conversation came as history, to fill a gap; or its title was asked for. Redraw from the cache.
    CaughtUp(ConversationId),
    /// The inbox begins anew: cached messages were dropped. They come again, or, if the gateway no longer keeps their events,
    /// are fetched as history when asked for. Redraw from the cache.
    Resynced,
    /// The gateway's list of conversations was taken over, because events began in the middle. Redraw from the cache.
    Listed,
    /// The reader was too slow and missed this many events. Redraw from the cache, which has everything.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// The stream of [`ClientEvent`]s from the moment it was asked for. Bounded: see [`EVENT_STREAM_EVENTS`](crate::config::EVENT_STREAM_EVENTS).
#[derive(Debug)]
pub struct EventStream {
    receiver: broadcast::Receiver<ClientEvent>,
}

impl EventStream {
    pub(crate) fn new(receiver: broadcast::Receiver<ClientEvent>) -> Self {
        Self { receiver }
    }

    /// The next event; `None` once the client is closed. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<ClientEvent> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                Some(ClientEvent::Lagged { missed })
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Every message of the inbox after a cursor, in order and without gaps, however slow the reader: it reads the cache and
/// waits only for news.
#[derive(Debug)]
pub struct Tail {
    cache: Cache,
    after: Cursor,
    life: u64,
    head: watch::Receiver<InboxHead>,
}

/// How far the cached inbox reaches, and in which of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct InboxHead {
    pub(crate) life: u64,
    pub(crate) cursor: Cursor,
}

/// Messages that a [`Tail`] reads from the cache at once.
const TAIL_PAGE: usize = 256;

impl Tail {
    pub(crate) fn new(cache: Cache, after: Cursor, head: watch::Receiver<InboxHead>) -> Self {
        let life = head.borrow().life;
        Self {
            cache,
            after,
            life,
            head,
        }
    }

    /// The next messages, at least one, at most 256. Fails with [`Error::Closed`] once the client is closed and all was read.
    ///
    /// When the inbox begins a new life the tail starts again from its beginning. When a gateway no longer keeps what comes
    /// next, the tail goes on with what comes after that; the rest is in the histories of the conversations.
    pub async fn next(&mut self) -> Result<Vec<Arrival>, Error> {
        loop {
            let head = *self.head.borrow_and_update();
            if head.life != self.life {
                self.life = head.life;
                self.after = Cursor::START;
            }
            if head.cursor > self.after {
                let after = self.after;
                let page = self
                    .cache
                    .run(move |cache| cache.arrivals(after, TAIL_PAGE))
                    .await?;
                match page.last() {
                    Some(last) => {
                        self.after = last.inbox_seq.cursor();
                        return Ok(page);
                    }
                    // Only receipts between the two.
                    None => self.after = head.cursor,
                }
            }
            self.head.changed().await.map_err(|_| Error::Closed)?;
        }
    }

    /// The last inbox event that was given out or skipped.
    pub fn position(&self) -> Cursor {
        self.after
    }
}

/// Whether the client talks to a gateway.
#[derive(Debug, Clone)]
pub enum ConnectionState {
    /// No connection.
    Offline {
        /// Why.
        reason: OfflineReason,
        /// When the next attempt begins; `None`: not by itself.
        retry_at: Option<Instant>,
    },
    /// An attempt is under way.
    Connecting,
    /// WELCOME has come.
    Online {
        /// `HOST:PORT` of the gateway.
        gateway: Arc<str>,
    },
}

impl ConnectionState {
    /// Whether commands are answered now.
    pub fn is_online(&self) -> bool {
        match self {
            Self::Online { .. } => true,
            Self::Offline { .. } | Self::Connecting => false,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, Clone)]
pub enum OfflineReason {
    /// No account in the data folder yet.
    NotSignedIn,
    /// The gateway does not answer, or the connection broke.
    Unreachable(String),
    /// The gateway closed or refused the connection.
    Refused {
        /// Its code.
        code: CloseCode,
        /// Its words.
        reason: String,
    },
    /// The gateway shows another certificate than before.
    CertificateChanged(Box<CertificateChanged>),
    /// The same device connected elsewhere: a copy of the data folder is in use.
    Replaced,
    /// The account's issuer decides, and there is no good token of it in the file. Looked for again by itself.
    NoToken(String),
    /// The data folder fails.
    Storage(String),
    /// The application closed the client.
    Closed,
}

impl fmt::Display for OfflineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSignedIn => f.write_str("not signed in"),
            Self::Unreachable(why) | Self::NoToken(why) => f.write_str(why),
            Self::Refused { code, reason } if reason.is_empty() => write!(f, "the gateway closed: {code}"),
            Self::Refused { code, reason } => write!(f, "the gateway closed: {code}: {reason}"),
            Self::CertificateChanged(changed) => fmt::Display::fmt(changed, f),
            Self::Replaced => f.write_str("this device is connected elsewhere: another program uses a copy of the data folder"),
            Self::Storage(why) => write!(f, "the data folder: {why}"),
            Self::Closed => f.write_str("closed"),
        }
    }
}
