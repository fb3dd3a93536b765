//! Typing and presence: what the user's device says and hears in datagrams, beside everything that is kept.

mod presence;
mod typing;

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use quipu_protocol::datagram::{self, FromGateway, Typing};
use quipu_protocol::id::{ConversationId, UserId};
use quipu_protocol::limits::PRESENCE_USERS_MAX;
use quipu_protocol::query::{Answer, PresenceEntry, Query};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use self::presence::Watched;
use self::typing::{Pace, Typists};
use crate::driver::{Shared, lock};
use crate::error::Error;
use crate::events::ClientEvent;
use crate::request;

/// What the handle and the task of a connection share. Each part is a machine without a clock.
#[derive(Debug, Default)]
pub(crate) struct Fleeting {
    pace: Mutex<Pace>,
    typists: Mutex<Typists>,
    watched: Mutex<Watched>,
    /// Something is due earlier than the task knows.
    wake: Notify,
}

type Asking = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send>>;

impl Shared {
    /// Says that the user types, if it is time to say so.
    pub(crate) fn type_in(&self, conversation: ConversationId, on: bool) {
        let said = lock(&self.fleeting.pace).say(Instant::now(), conversation, on);
        let Some(connection) = self.online().ok().filter(|_| said) else {
            return;
        };
        // Not sent is as good as lost: it is over by itself.
        let _ = connection.send_datagram(datagram::typing(&Typing { conversation, on }, None));
    }

    /// The user has said something there: typing is over for the others, and the next key is said at once.
    pub(crate) fn has_sent(&self, conversation: ConversationId) {
        lock(&self.fleeting.pace).ended(conversation);
    }

    /// Somebody has said something there, and does no longer type.
    pub(crate) fn has_spoken(&self, conversation: ConversationId, user: UserId) {
        if lock(&self.fleeting.typists).ended(conversation, user) {
            self.announce_typing(conversation, user, false);
        }
    }

    /// The peer of a conversation that may be new.
    pub(crate) fn may_watch(&self, peer: UserId) {
        if lock(&self.fleeting.watched).lacks(&peer) {
            self.watch_anew();
        }
    }

    /// Asks anew who is here, soon: the list of conversations or what the user may see has changed.
    pub(crate) fn watch_anew(&self) {
        lock(&self.fleeting.watched).ask_soon(Instant::now());
        self.fleeting.wake.notify_one();
    }

    /// What is known of a user.
    pub(crate) fn presence(&self, user: &UserId) -> Option<PresenceEntry> {
        lock(&self.fleeting.watched).known(user)
    }

    fn announce_typing(&self, conversation: ConversationId, user: UserId, on: bool) {
        self.announce(ClientEvent::Typing {
            conversation,
            user,
            on,
        });
    }

    fn announce_presence(&self, entries: Vec<PresenceEntry>) {
        for entry in entries {
            self.announce(ClientEvent::Presence(entry));
        }
    }
}

/// Hears datagrams of one connection; without it nobody types and nothing is known of anybody.
#[derive(Debug)]
pub(crate) struct Listening {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Listening {
    /// Hears them from now on, and asks who is here if `watches`.
    pub(crate) fn to(shared: &Arc<Shared>, connection: quinn::Connection, watches: bool) -> Self {
        if watches {
            lock(&shared.fleeting.watched).ask_soon(Instant::now());
        }
        Self {
            shared: Arc::clone(shared),
            task: tokio::spawn(run(Arc::clone(shared), connection, watches)),
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
        let ended = lock(&self.shared.fleeting.typists).clear();
        for (conversation, user) in ended {
            self.shared.announce_typing(conversation, user, false);
        }
        let unknown = lock(&self.shared.fleeting.watched).lost();
        self.shared.announce_presence(unknown);
    }
}

async fn run(shared: Arc<Shared>, connection: quinn::Connection, watches: bool) {
    enum Woken {
        Heard(FromGateway),
        Nothing,
        Answered(Result<Answer, Error>),
        Time,
        Lost,
    }
    let fleeting = &shared.fleeting;
    let mut asking: Option<Asking> = None;
    loop {
        if watches && asking.is_none() && lock(&fleeting.watched).is_due(Instant::now()) {
            let users = peers(&shared).await;
            lock(&fleeting.watched).asks(&users);
            asking = Some(ask(&shared, users));
        }
        let asks_at = lock(&fleeting.watched).poll_timeout();
        let asks_at = asks_at.filter(|_| watches && asking.is_none());
        let ends_at = lock(&fleeting.typists).poll_timeout();
        let next = asks_at.into_iter().chain(ends_at).min();
        let woken = tokio::select! {
            datagram = connection.read_datagram() => match datagram.map(|it| datagram::from_gateway(&it)) {
                Ok(Ok(heard)) => Woken::Heard(heard),
                Ok(Err(_)) => Woken::Nothing,
                Err(_) => Woken::Lost,
            },
            answer = wait(asking.as_mut()) => Woken::Answered(answer),
            () = fleeting.wake.notified() => Woken::Nothing,
            () = sleep_until(next) => Woken::Time,
        };
        match woken {
            Woken::Heard(heard) => hear(&shared, heard),
            Woken::Nothing => {}
            Woken::Answered(answer) => {
                asking = None;
                let now = Instant::now();
                let changed = match answer {
                    Ok(Answer::Presence(entries)) => lock(&fleeting.watched).answered(now, entries),
                    // A gateway that does not say is asked again, and not soon.
                    Ok(_) | Err(_) => {
                        lock(&fleeting.watched).not_answered(now);
                        Vec::new()
                    }
                };
                shared.announce_presence(changed);
            }
            Woken::Time => {
                let ended = lock(&fleeting.typists).handle_timeout(Instant::now());
                for (conversation, user) in ended {
                    shared.announce_typing(conversation, user, false);
                }
            }
            Woken::Lost => return,
        }
    }
}

fn hear(shared: &Shared, heard: FromGateway) {
    let now = Instant::now();
    match heard {
        FromGateway::Typing(user, typing) => {
            let mut typists = lock(&shared.fleeting.typists);
            let heard = typists.heard(now, typing.conversation, user, typing.on);
            drop(typists);
            for (conversation, user, on) in heard {
                shared.announce_typing(conversation, user, on);
            }
        }
        FromGateway::Presence(entries) => {
            let changed = lock(&shared.fleeting.watched).told(entries);
            shared.announce_presence(changed);
        }
    }
}

/// Whom to watch: the others of the direct conversations, those with the latest news first.
async fn peers(shared: &Shared) -> Vec<UserId> {
    let listed = shared.cache.run(|cache| cache.conversations()).await;
    let peers = listed.unwrap_or_default().into_iter();
    let peers = peers.filter(|line| !line.gone).filter_map(|line| line.peer);
    peers.take(PRESENCE_USERS_MAX).collect()
}

fn ask(shared: &Arc<Shared>, users: Vec<UserId>) -> Asking {
    let shared = Arc::clone(shared);
    Box::pin(async move {
        let query = Query::Presence { users, watch: true };
        request::query(&shared, &query).await
    })
}

async fn wait(asking: Option<&mut Asking>) -> Result<Answer, Error> {
    match asking {
        Some(asking) => asking.await,
        None => pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}
