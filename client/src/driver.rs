//! The one task that pumps a session between the network and the cache.
#![allow(dead_code)]

use std::sync::Arc;

use quipu_protocol::id::{ConversationId, MessageId, Seq, UserId};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::cache::Cache;
use crate::config::{Config, EVENT_STREAM_EVENTS};
use crate::error::Error;
use crate::events::{ClientEvent, ConnectionState, InboxHead, OfflineReason};
use crate::model::{Account, LocalMessage, Target};

pub(crate) struct SignIn {
    pub(crate) name: UserId,
    pub(crate) password: String,
    pub(crate) register: bool,
}

type Answer<T> = oneshot::Sender<Result<T, Error>>;

pub(crate) enum Command {
    SignIn(SignIn, Answer<Account>),
    OpenDirect(UserId, Answer<ConversationId>),
    Rebind(Answer<()>),
    Close(Answer<()>),
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) cache: Cache,
    events: broadcast::Sender<ClientEvent>,
    head: watch::Sender<InboxHead>,
    state: watch::Sender<ConnectionState>,
}

pub(crate) async fn start(
    _config: Config,
    cache: Cache,
    _commands: mpsc::Receiver<Command>,
) -> Result<Arc<Shared>, Error> {
    Ok(Arc::new(Shared {
        cache,
        events: broadcast::channel(EVENT_STREAM_EVENTS).0,
        head: watch::channel(InboxHead::default()).0,
        state: watch::channel(ConnectionState::Offline {
            reason: OfflineReason::NotSignedIn,
            retry_at: None,
        })
        .0,
    }))
}

impl Shared {
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<ClientEvent> {
        self.events.subscribe()
    }
    pub(crate) fn inbox_head(&self) -> watch::Receiver<InboxHead> {
        self.head.subscribe()
    }
    pub(crate) fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }
    pub(crate) async fn enqueue(
        &self,
        _: Target,
        _: Vec<String>,
    ) -> Result<Vec<LocalMessage>, Error> {
        Err(Error::Closed)
    }
    pub(crate) async fn wait_acked(&self, _: MessageId) -> Result<Seq, Error> {
        Err(Error::Closed)
    }
    pub(crate) async fn mark_read(&self, _: ConversationId, _: Seq) -> Result<(), Error> {
        Err(Error::Closed)
    }
}
