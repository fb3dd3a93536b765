//! The handle that the application holds: cheap to clone, every call safe from any task.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quipu_protocol::event::{Change, Content, Invitation, NewGroup, Receipt, Rich};
use quipu_protocol::history::HistoryPage;
use quipu_protocol::id::{ConversationId, Cursor, MessageId, Seq, UserId};
use quipu_protocol::limits::{
    EMOJI_BYTES_MAX, PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN, TEXT_BYTES_MAX,
};
use quipu_protocol::query::{Answer, PresenceEntry, Query};
use quipu_protocol::wire;
use tokio::sync::{SemaphorePermit, mpsc, oneshot, watch};

use crate::cache::{Cache, Tables};
use crate::config::Config;
use crate::driver::{self, Asked, Command, Shared, SignIn};
use crate::error::Error;
use crate::events::{ConnectionState, EventStream, Tail};
use crate::groups::{self, CatchUps, new_group_id};
use crate::history;
use crate::model::{
    About, Account, ChangeId, ConversationSummary, HistoryRange, LocalChange, LocalMessage,
    MessageChange, Page, Taken, Target,
};
use crate::request;

/// Calls that wait for the driver at once. At the limit a caller waits for its turn.
const COMMANDS_MAX: usize = 64;
/// How long a change waits for its answer, over all connections.
const CHANGE_PATIENCE: Duration = Duration::from_secs(30);

/// A user's device. Clones share one connection, one cache and one driver; when the last clone is dropped the driver stops.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

impl Client {
    /// Opens the data folder and starts the driver. Connects at once if the folder holds an account; does not wait for it.
    ///
    /// Must be called inside a tokio runtime.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let cache = Cache::open(&config).await?;
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let shared = driver::start(config, cache, inbox).await?;
        Ok(Self { shared, commands })
    }

    /// Makes an account on the gateway, with this device as its first. Online when it returns.
    ///
    /// One attempt: fails with [`Error::Offline`] if the gateway does not answer in time. The account may exist all the same
    /// if the answer was lost; `login` tells.
    pub async fn register(&self, name: &str, password: &str) -> Result<Account, Error> {
        self.sign_in(name, password, true).await
    }

    /// Adds this device to an account that exists. Online when it returns. One attempt, like `register`.
    pub async fn login(&self, name: &str, password: &str) -> Result<Account, Error> {
        self.sign_in(name, password, false).await
    }

    /// Uses the account that a token of an external issuer names, which the gateway makes if it is new. Online when it
    /// returns. One attempt, like `register`.
    ///
    /// The file holds the token and nothing else. Its place is kept in the data folder: it is read again at every
    /// connection and looked at while there is one, and a newer token that appears there keeps the session going. Whoever
    /// writes it should move a whole file over the old one. For a folder that has such an account already this says only
    /// that its tokens are in another place now.
    pub async fn login_with_token(&self, file: impl AsRef<Path>) -> Result<Account, Error> {
        let file = std::path::absolute(file)
            .map_err(|error| Error::Invalid(format!("the token file: {error}")))?;
        if file.to_str().is_none() {
            return Err(Error::Invalid("the token file's path is not UTF-8".into()));
        }
        let known = self
            .shared
            .cache
            .run(|cache| Ok((cache.account(), cache.token_file())));
        match known.await? {
            (None, _) => {
                let sign_in = SignIn::Token(file);
                self.command(|answer| Command::SignIn(sign_in, answer))
                    .await
            }
            (Some(account), None) => Err(Error::AlreadySignedIn(account.user)),
            (Some(account), Some(_)) => {
                let work = move |cache: &mut Tables| cache.set_token_file(&file);
                self.shared.cache.run(work).await?;
                if !self.connection().borrow().is_online() {
                    self.rebind().await?;
                }
                Ok(account)
            }
        }
    }

    async fn sign_in(&self, name: &str, password: &str, register: bool) -> Result<Account, Error> {
        let name = UserId::new(name)?;
        if !(PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&password.len()) {
            return Err(Error::Invalid(format!(
                "a password has {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} bytes"
            )));
        }
        if let Some(account) = self.account().await? {
            return Err(Error::AlreadySignedIn(account.user));
        }
        let sign_in = SignIn::Password {
            name,
            password: password.to_owned(),
            register,
        };
        self.command(|answer| Command::SignIn(sign_in, answer))
            .await
    }

    /// Who this client is; `None` before `register` or `login`.
    pub async fn account(&self) -> Result<Option<Account>, Error> {
        self.shared.cache.run(|cache| Ok(cache.account())).await
    }

    /// Puts a message into the outbox and returns once it is on disk. It is sent in order, now or when there is a
    /// connection, until the gateway answers; [`Client::wait_acked`] and the event stream tell how it ended.
    pub async fn send(
        &self,
        target: impl Into<Target>,
        text: impl Into<String>,
    ) -> Result<LocalMessage, Error> {
        let mut queued = self.send_batch(target, vec![text.into()]).await?;
        queued.pop().ok_or(Error::Closed)
    }

    /// Like `send` for several messages to one target, in one write: all are queued or none.
    pub async fn send_batch(
        &self,
        target: impl Into<Target>,
        texts: Vec<String>,
    ) -> Result<Vec<LocalMessage>, Error> {
        if texts
            .iter()
            .any(|text| text.is_empty() || text.len() > TEXT_BYTES_MAX)
        {
            return Err(Error::Invalid(format!(
                "a message has 1 to {TEXT_BYTES_MAX} bytes of text"
            )));
        }
        let contents = texts.into_iter().map(Content::Text).collect();
        self.shared.enqueue(target.into(), contents).await
    }

    /// Like `send` for more than a text: an answer to a message, mentions, forwarded words, files that were uploaded.
    pub async fn send_rich(
        &self,
        target: impl Into<Target>,
        rich: Rich,
    ) -> Result<LocalMessage, Error> {
        // Checked as the gateway will, so that nothing waits in the outbox that it can only refuse.
        let content = wire::Content::from(Content::Rich(Box::new(rich)));
        let content =
            Content::from_client(Some(content)).map_err(|bad| Error::Invalid(bad.reason.into()))?;
        let mut queued = self.shared.enqueue(target.into(), vec![content]).await?;
        queued.pop().ok_or(Error::Closed)
    }

    /// Puts a change of a message into the outbox and returns once it is on disk. It is made once, now or when there is a
    /// connection, also if this process ends before; the changes of one message in the order in which they were asked for.
    /// [`Client::wait_changed`] and the event stream tell how it ended.
    ///
    /// A message that waits in the outbox itself is changed there if it was certainly never sent ([`Taken::Made`]). If it may have
    /// been, the gateway could have it as it was: the change waits for the ack, and is refused with the message.
    pub async fn change_message(&self, about: About, what: MessageChange) -> Result<Taken, Error> {
        check(about, &what)?;
        self.shared.enqueue_change(about, what).await
    }

    /// Waits until a queued change is made. Fails with [`Error::Refused`] if the gateway refused it. Waits through
    /// reconnections; put a timeout around it if that is too long.
    pub async fn wait_changed(&self, id: ChangeId) -> Result<(), Error> {
        let (waiter, end) = oneshot::channel();
        let wait = move |cache: &mut Tables| cache.wait_changed(id, waiter);
        self.shared.cache.run(wait).await?;
        end.await.map_err(|_| Error::Closed)?
    }

    /// Changes of messages of a conversation that have no answer yet or were refused, in the order in which they were asked for.
    pub async fn changes(&self, conversation: ConversationId) -> Result<Vec<LocalChange>, Error> {
        self.shared
            .cache
            .run(move |cache| cache.changes(conversation))
            .await
    }

    /// Removes a refused change from the outbox.
    pub async fn forget_change(&self, id: ChangeId) -> Result<(), Error> {
        let forget = move |cache: &mut Tables| cache.forget_change(id);
        self.shared.cache.run(forget).await
    }

    /// Changes a group, a message or the user's own account, and waits for the answer. Needs a connection. When the
    /// connection breaks first, it is asked for again on the next one, and made once. Fails with [`Error::Offline`] when there is
    /// no answer in half a minute: it may have happened or not, and what is asked for after it comes after it.
    ///
    /// An edit, a deletion and a reaction need no connection: they go through the outbox like those of
    /// [`Client::change_message`]. Without an answer in half a minute they fail with [`Error::ChangeWaits`], and are made later.
    /// All else is of the moment in which somebody asks for it, and is not kept: who has left a group, blocked somebody or named a device
    /// wants to see it done.
    pub async fn change(&self, change: Change) -> Result<(), Error> {
        let change = match of_message(change) {
            Err(other) => other,
            Ok((about, what)) => return self.change_and_wait(about, what).await,
        };
        let shown = matches!(change, Change::SetPrivacy(_) | Change::Block(..));
        let answered = match &change {
            Change::Join(group) | Change::Leave(group) => Some(*group),
            Change::CreateGroup(_)
            | Change::SetGroup { .. }
            | Change::Invite { .. }
            | Change::Remove(..)
            | Change::SetRole(..)
            | Change::SetTimer(..)
            | Change::Edit { .. }
            | Change::Delete(..)
            | Change::React { .. }
            | Change::RenameDevice(..)
            | Change::RevokeDevice(_)
            | Change::Block(..)
            | Change::Report { .. }
            | Change::SetPrivacy(_) => None,
        };
        self.ask(change).await?;
        if let Some(group) = answered {
            let forget = move |cache: &mut Tables| cache.forget_invitation(group);
            self.shared.cache.run(forget).await?;
        }
        if shown {
            self.shared.watch_anew();
        }
        Ok(())
    }

    /// Says that the user is writing in a conversation. To be called with every key: what is due is said, and no more. The
    /// others forget it some seconds after the last time. Without a connection nothing happens.
    pub fn typing(&self, conversation: ConversationId) {
        self.shared.type_in(conversation, true);
    }

    /// Says that the user no longer writes there, without having sent a message: a message says it by itself.
    pub fn stopped_typing(&self, conversation: ConversationId) {
        self.shared.type_in(conversation, false);
    }

    /// Whether a user is here, or was; `None`: not known, or not for this user to know. Only with
    /// [`Config::presence`](crate::Config), and of the others of the direct conversations, up to
    /// [`PRESENCE_USERS_MAX`](quipu_protocol::limits::PRESENCE_USERS_MAX) of them.
    pub fn presence(&self, user: UserId) -> Option<PresenceEntry> {
        self.shared.presence(&user)
    }

    /// Makes a group with a new id.
    pub async fn create_group(&self, mut group: NewGroup) -> Result<ConversationId, Error> {
        group.conversation = new_group_id();
        let conversation = group.conversation;
        self.change(Change::CreateGroup(group)).await?;
        Ok(conversation)
    }

    /// Asks the gateway for anything but history. Needs a connection.
    pub async fn query(&self, query: Query) -> Result<Answer, Error> {
        request::query(&self.shared, &query).await
    }

    /// Waits until a queued message is durable, ordered and in the history, and says where. Fails with [`Error::Refused`] if
    /// the gateway refused it. Waits through reconnections; put a timeout around it if that is too long.
    pub async fn wait_acked(&self, id: MessageId) -> Result<Seq, Error> {
        self.shared.wait_acked(id).await
    }

    /// Removes a refused message from the outbox.
    pub async fn forget(&self, id: MessageId) -> Result<(), Error> {
        self.shared.cache.run(move |cache| cache.forget(id)).await
    }

    /// Messages of this device that are not in the history yet, in the order in which they go out.
    pub async fn outbox(&self, conversation: ConversationId) -> Result<Vec<LocalMessage>, Error> {
        self.shared
            .cache
            .run(move |cache| cache.outbox(conversation))
            .await
    }

    /// Everything that happens from now on. Bounded: a reader that is too slow is told so and finds the rest in the cache.
    pub fn events(&self) -> EventStream {
        EventStream::new(self.shared.subscribe())
    }

    /// Every message of the inbox after `after`, then each new one; nothing is left out, however slow the reader.
    /// [`Cursor::START`] replays what the cache has.
    pub fn tail(&self, after: Cursor) -> Tail {
        Tail::new(self.shared.cache.clone(), after, self.shared.inbox_head())
    }

    /// The last inbox event in the cache.
    pub fn cursor(&self) -> Cursor {
        self.shared.inbox_head().borrow().cursor
    }

    /// A cursor that the application has stored under a name; `None` before, and after the inbox began a new life.
    pub async fn bookmark(&self, name: &str) -> Result<Option<Cursor>, Error> {
        let name = name.to_owned();
        self.shared
            .cache
            .run(move |cache| cache.bookmark(&name))
            .await
    }

    /// Stores a cursor under a name, so that a program can go on where it stopped.
    pub async fn set_bookmark(&self, name: &str, cursor: Cursor) -> Result<(), Error> {
        let name = name.to_owned();
        self.shared
            .cache
            .run(move |cache| cache.set_bookmark(&name, cursor))
            .await
    }

    /// The conversation list from the cache, the most recent first.
    pub async fn conversations(&self) -> Result<Vec<ConversationSummary>, Error> {
        self.shared.cache.run(|cache| cache.conversations()).await
    }

    /// Invitations without an answer, from the cache, the oldest first. `Change::Join` accepts one, `Change::Leave` declines.
    pub async fn invitations(&self) -> Result<Vec<Invitation>, Error> {
        self.shared.cache.run(|cache| cache.invitations()).await
    }

    /// The same as the gateway lists them, also to a device that was not there when they came. Needs a connection.
    pub async fn fetch_invitations(&self) -> Result<Vec<Invitation>, Error> {
        groups::fetch_invitations(&self.shared).await
    }

    /// What was done about gaps in large groups so far.
    pub fn catch_ups(&self) -> CatchUps {
        self.shared.groups.counts()
    }

    /// Messages from the cache, ascending. There may be gaps, which `history` fills.
    pub async fn messages(
        &self,
        conversation: ConversationId,
        page: Page,
        limit: usize,
    ) -> Result<Vec<quipu_protocol::event::Message>, Error> {
        self.shared
            .cache
            .run(move |cache| cache.messages(conversation, page, limit))
            .await
    }

    /// How far the members of a conversation have come, this user included, as far as known.
    pub async fn receipts(&self, conversation: ConversationId) -> Result<Vec<Receipt>, Error> {
        self.shared
            .cache
            .run(move |cache| cache.receipts(conversation))
            .await
    }

    /// Fetches a page of history from the gateway into the cache. Needs a connection.
    pub async fn history(
        &self,
        conversation: ConversationId,
        range: HistoryRange,
    ) -> Result<HistoryPage, Error> {
        let page = history::fetch(&self.shared, conversation, range).await?;
        groups::catch_up_changes(&self.shared, conversation).await?;
        Ok(page)
    }

    /// Makes sure that the direct conversation with a user exists, and that the user does. Needs a connection.
    pub async fn open_direct(&self, peer: UserId) -> Result<ConversationId, Error> {
        self.command(|answer| Command::OpenDirect(peer, answer))
            .await
    }

    /// Says that the user has read up to `seq`. Kept on disk; reported now or when there is a connection, at most about once
    /// a second for each conversation. Positions only grow: a lower one changes nothing.
    pub async fn mark_read(&self, conversation: ConversationId, seq: Seq) -> Result<(), Error> {
        self.shared.mark_read(conversation, seq).await
    }

    /// Whether there is a connection, and why not.
    pub fn connection(&self) -> watch::Receiver<ConnectionState> {
        self.shared.connection()
    }

    /// Waits until there is a connection. Fails once the driver will not try again by itself.
    pub async fn online(&self) -> Result<(), Error> {
        let mut state = self.shared.connection();
        let reached = state.wait_for(|state| match state {
            ConnectionState::Online { .. } | ConnectionState::Offline { retry_at: None, .. } => {
                true
            }
            ConnectionState::Offline {
                retry_at: Some(_), ..
            }
            | ConnectionState::Connecting => false,
        });
        let state = reached.await.map_err(|_| Error::Closed)?.clone();
        match state {
            ConnectionState::Offline { reason, .. } => Err(reason.into()),
            ConnectionState::Online { .. } | ConnectionState::Connecting => Ok(()),
        }
    }

    /// Moves to a fresh socket: call it when the network of the machine changed. The connection migrates; if the gateway
    /// does not answer there soon, the client reconnects and resumes. Without a connection: tries now, whatever the back-off.
    pub async fn rebind(&self) -> Result<(), Error> {
        self.command(Command::Rebind).await
    }

    /// Stops the driver and closes the connection; everything queued stays in the data folder. Other clones fail with
    /// [`Error::Closed`] from then on.
    pub async fn close(&self) {
        // A driver that has stopped already has nothing left to close.
        let _ = self.command(Command::Close).await;
    }

    /// The connection, for a stream beside the session.
    pub(crate) fn quic(&self) -> Result<quinn::Connection, Error> {
        self.shared.online()
    }

    /// Waits until one more blob stream may be opened.
    pub(crate) async fn blob_turn(&self) -> Result<SemaphorePermit<'_>, Error> {
        self.shared.blobs.acquire().await.map_err(|_| Error::Closed)
    }

    async fn change_and_wait(&self, about: About, what: MessageChange) -> Result<(), Error> {
        let Taken::Queued(queued) = self.change_message(about, what).await? else {
            return Ok(());
        };
        let made = self.wait_changed(queued.id);
        match tokio::time::timeout(CHANGE_PATIENCE, made).await {
            Ok(made) => {
                if matches!(made, Err(Error::Refused(_))) {
                    // The caller knows it now.
                    self.forget_change(queued.id).await?;
                }
                made
            }
            Err(_) => {
                let why = self.shared.online().err();
                let why = why.map_or_else(|| "no answer".to_owned(), |why| why.to_string());
                Err(Error::ChangeWaits(why))
            }
        }
    }

    /// Asks for a change under the next client seq.
    async fn ask(&self, change: Change) -> Result<(), Error> {
        let commands = self.commands.clone();
        let permit = commands.reserve_owned().await.map_err(|_| Error::Closed)?;
        let (answer, answered) = oneshot::channel();
        // Handed over under the lock of the cache, so that the driver sees changes in the order of their numbers.
        let take = move |cache: &mut Tables| {
            let client_seq = cache.next_client_seq()?;
            permit.send(Command::Change(Box::new(Asked {
                client_seq,
                change,
                answer,
            })));
            Ok(())
        };
        self.shared.cache.run(take).await?;
        match tokio::time::timeout(CHANGE_PATIENCE, answered).await {
            Ok(answered) => answered.map_err(|_| Error::Closed)?,
            Err(_) => Err(Error::Offline(
                "no answer; the change may have been made or not: ask again".into(),
            )),
        }
    }

    async fn command<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        self.commands
            .send(make(answer))
            .await
            .map_err(|_| Error::Closed)?;
        answered.await.map_err(|_| Error::Closed)?
    }
}

/// The change of a message that a change is, or the change itself.
fn of_message(change: Change) -> Result<(About, MessageChange), Change> {
    match change {
        Change::Edit {
            conversation,
            seq,
            content,
        } => Ok((
            About::Placed(conversation, seq),
            MessageChange::Edit(content),
        )),
        Change::Delete(conversation, seq) => {
            Ok((About::Placed(conversation, seq), MessageChange::Delete))
        }
        Change::React {
            conversation,
            seq,
            emoji,
            on,
        } => {
            let what = MessageChange::React { emoji, on };
            Ok((About::Placed(conversation, seq), what))
        }
        other @ (Change::CreateGroup(_)
        | Change::SetGroup { .. }
        | Change::Invite { .. }
        | Change::Join(_)
        | Change::Leave(_)
        | Change::Remove(..)
        | Change::SetRole(..)
        | Change::SetTimer(..)
        | Change::RenameDevice(..)
        | Change::RevokeDevice(_)
        | Change::Block(..)
        | Change::Report { .. }
        | Change::SetPrivacy(_)) => Err(other),
    }
}

/// Checks as the gateway will, so that nothing waits in the outbox that it can only refuse.
fn check(about: About, what: &MessageChange) -> Result<(), Error> {
    match what {
        MessageChange::Edit(content) => {
            if matches!(about, About::Queued(_)) && content.text().len() > TEXT_BYTES_MAX {
                let why = format!("a message has 1 to {TEXT_BYTES_MAX} bytes of text");
                return Err(Error::Invalid(why));
            }
            Content::from_client(Some(wire::Content::from(content)))
                .map(drop)
                .map_err(|bad| Error::Invalid(bad.reason.into()))
        }
        MessageChange::Delete => Ok(()),
        MessageChange::React { emoji, .. } if (1..=EMOJI_BYTES_MAX).contains(&emoji.len()) => {
            Ok(())
        }
        MessageChange::React { .. } => Err(Error::Invalid(format!(
            "a sign has 1 to {EMOJI_BYTES_MAX} bytes"
        ))),
    }
}
