//! Reads for the edge: accounts, inbox pages, history pages.
//!
//! They run on blocking threads, a bounded number at once; those of a row or two in place while the store answers from memory.

mod behind;
mod changes;
mod groups;
mod lists;
mod presence;
#[cfg(test)]
mod tests;
mod visible;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quipu_core::row::{Account, EntityKey, Inbox, InboxKind, InboxRow, IndexRange, Settings};
use quipu_core::shard::ShardCount;
use quipu_protocol::event::{
    Changed, ChangedKind, Content, EventBody, Message, MessageState, Rejection,
};
use quipu_protocol::frame::{self, FrameType};
use quipu_protocol::history::{HistoryPage, HistoryRequest};
use quipu_protocol::id::{ConversationId, Cursor, DeviceId, InboxSeq, Seq, UserId};
use quipu_protocol::limits::{
    CONVERSATIONS_MAX, HISTORY_PAGE_BYTES_MAX, HISTORY_PAGE_MESSAGES_MAX,
    MESSAGE_OVERHEAD_BYTES_MAX, REQUEST_FRAME_BYTES_MAX, TEXT_BYTES_MAX,
};
use quipu_protocol::media::MediaHash;
use quipu_protocol::query::{Answer, Query};
use quipu_protocol::wire;
use tokio::sync::Semaphore;

pub use self::behind::BEHIND_WAIT_MAX;
use self::behind::{BEHIND_PAUSE_MAX, BEHIND_PAUSE_MIN, Told};
use crate::access::{Access, Member, access};
use crate::ephemeral::{Begun, Watching};
use crate::in_place::InPlace;
use crate::store::{HistoryRange, Store, StoreError};
use crate::telemetry::Metrics;

// The store counts bodies only; the names and numbers around them fit as well, even when one long message passes the limit.
const _: () = assert!(
    HISTORY_PAGE_BYTES_MAX
        + TEXT_BYTES_MAX
        + (HISTORY_PAGE_MESSAGES_MAX + 1) * MESSAGE_OVERHEAD_BYTES_MAX
        <= REQUEST_FRAME_BYTES_MAX
);

/// Why a read gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueryError {
    /// The store failed, or what it holds is damaged. A human must act.
    #[error("cannot read the store: {0}")]
    Store(#[from] StoreError),
    /// The gateway is stopping.
    #[error("the gateway is stopping")]
    Stopping,
}

/// What was found out about what a command claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// All is as the command needs it.
    Sound {
        /// Whether the user is a member of the conversation already.
        is_in: bool,
    },
    /// There is no such user.
    Missing(UserId),
    /// The one who asks is in as many conversations as there may be.
    NoRoom,
}

/// Who asks, and what of it only the sessions know.
#[derive(Debug)]
pub struct Asking {
    /// The user.
    pub user: UserId,
    /// Devices of the user that are connected.
    pub connected: Vec<DeviceId>,
    /// Whom the session watches.
    pub watching: Arc<Watching>,
}

/// Reads the store. Cheap to clone.
#[derive(Clone)]
pub struct Queries {
    store: Arc<dyn Store>,
    shards: ShardCount,
    running: Arc<Semaphore>,
    in_place: Arc<InPlace>,
    behind_wait: Duration,
    metrics: Arc<Metrics>,
}

/// Part of an inbox, as EVENT frames ready for the lane.
#[derive(Debug, Default)]
pub struct InboxPage {
    /// All frames, one after the other.
    pub frames: Bytes,
    /// Each event with the length of its frame, ascending without gaps from the one asked for.
    pub events: Vec<(InboxSeq, usize)>,
    /// The last event that was seen, whether or not its frame is here.
    pub last: Option<InboxSeq>,
    /// Whether the inbox held no more when it was read.
    pub exhausted: bool,
    /// Whether the page ends early because a history row is not committed yet: the conversation's shard is behind the
    /// user's. Ask again a little later.
    pub gap: bool,
    /// Whether the event asked for is no longer kept: the page is empty, and the device has to begin anew.
    pub trimmed: bool,
}

impl Queries {
    /// At most `running_max` reads at once on blocking threads; more wait, each in the task that asked.
    pub fn new(
        store: Arc<dyn Store>,
        shards: ShardCount,
        running_max: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            store,
            shards,
            running: Arc::new(Semaphore::new(running_max)),
            in_place: Arc::new(InPlace::new(Instant::now())),
            behind_wait: BEHIND_WAIT_MAX,
            metrics,
        }
    }

    /// A user's account and inbox; `None` if there is no such user.
    pub async fn account(&self, user: UserId) -> Result<Option<(Account, Inbox)>, QueryError> {
        self.run_short(move |store| {
            let rows = store.entities(&[EntityKey::Account(user), EntityKey::Inbox(user)])?;
            let mut rows = rows.into_iter();
            let (account, inbox) = (rows.next().flatten(), rows.next().flatten());
            let Some(account) = account else {
                return Ok(None);
            };
            let inbox = inbox.map(|row| Inbox::decode(&row)).transpose()?;
            Ok(Some((
                Account::decode(&account)?,
                inbox.unwrap_or_default(),
            )))
        })
        .await
    }

    /// Whether all of `exist` exist, and whether `user` is in the conversation `enters`, or may be in one more.
    pub async fn check(
        &self,
        user: UserId,
        exist: Vec<UserId>,
        enters: Option<ConversationId>,
    ) -> Result<Checked, QueryError> {
        self.run(move |store| check(store, &user, &exist, enters.as_ref()))
            .await
    }

    /// What a user has decided about others.
    pub async fn settings(&self, user: UserId) -> Result<Settings, QueryError> {
        self.run_short(move |store| presence::settings(store, &user))
            .await
    }

    /// Who is told that this user types in a conversation; `None`: nobody, whatever the user says (QP-TYPING-2).
    pub async fn typing_to(
        &self,
        user: UserId,
        conversation: ConversationId,
    ) -> Result<Option<Arc<[UserId]>>, QueryError> {
        self.run(move |store| presence::typing_to(store, &user, &conversation))
            .await
    }

    /// Tells a session, as if it had changed, how things are with those whom it watches again.
    pub async fn presence_again(&self, watching: Arc<Watching>, begun: Begun) {
        let mut begun = Some(begun);
        while let Some(Begun { id, users }) = begun {
            let told = Arc::clone(&watching);
            let read = self.run(move |store| {
                told.tell(presence::of(store, &told, id, &users)?);
                Ok(())
            });
            // One that fails has said so; the client asks anew by itself.
            let _ = read.await;
            begun = watching.learned();
        }
    }

    /// Whether there is such a user.
    pub async fn user_exists(&self, user: UserId) -> Result<bool, QueryError> {
        self.run_short(move |store| {
            let rows = store.entities(&[EntityKey::Account(user)])?;
            Ok(rows.into_iter().flatten().next().is_some())
        })
        .await
    }

    /// Whether the user is a member of this conversation; a rejection when the conversation is still behind what the user was told.
    pub async fn is_member(
        &self,
        user: UserId,
        conversation: ConversationId,
    ) -> Result<Result<bool, Rejection>, QueryError> {
        let shards = self.shards;
        self.run_caught_up(move |store| {
            let told = Told::read(store, shards, &user)?;
            if told.is_ahead_of(store, [conversation])? {
                return Ok(None);
            }
            let access = access(store, &user, &conversation)?;
            Ok(Some(Ok(matches!(access, Access::Member(_)))))
        })
        .await
    }

    /// Whether a message of the conversation refers to this file.
    pub async fn is_media_referenced(
        &self,
        conversation: ConversationId,
        hash: MediaHash,
    ) -> Result<bool, QueryError> {
        self.run(move |store| {
            let range = IndexRange::MediaRefs(conversation, hash.0);
            Ok(!store.index(&range, 1)?.is_empty())
        })
        .await
    }

    /// A page of a conversation's history, or why this user does not get it.
    pub async fn history(
        &self,
        user: UserId,
        request: HistoryRequest,
    ) -> Result<Result<HistoryPage, Rejection>, QueryError> {
        let shards = self.shards;
        self.run_caught_up(move |store| {
            let told = Told::read(store, shards, &user)?;
            if told.is_ahead_of(store, [request.conversation])? {
                return Ok(None);
            }
            history_page((store, shards), &user, &request).map(Some)
        })
        .await
    }

    /// Answers a query, or says why not.
    pub async fn answer(
        &self,
        asking: Asking,
        query: Query,
    ) -> Result<Result<Answer, Rejection>, QueryError> {
        let shards = self.shards;
        let asked = Arc::new((asking, query));
        self.run_caught_up(move |store| {
            let (asking, query) = &*asked;
            lists::answer((store, shards), asking, query)
        })
        .await
    }

    /// What follows `after` in a user's inbox: at most so many events and, but for the first one, so many frame bytes.
    pub async fn inbox_page(
        &self,
        user: UserId,
        after: Cursor,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<InboxPage, QueryError> {
        // Most sessions begin at the head of their inbox, where there is no page to read.
        let at_head = self.try_in_place(|store| is_at_head(store, &user, after));
        let page = match at_head.transpose()? {
            Some(true) => InboxPage {
                exhausted: true,
                ..InboxPage::default()
            },
            Some(false) | None => {
                self.run(move |store| inbox_page(store, &user, after, max_events, max_bytes))
                    .await?
            }
        };
        self.metrics.catch_up_pages.inc();
        if page.gap {
            self.metrics.catch_up_gaps.inc();
        }
        Ok(page)
    }

    /// A read that says `None` while a conversation is behind what its reader was told: tried again, up to [`BEHIND_WAIT_MAX`].
    async fn run_caught_up<T: Send + 'static>(
        &self,
        read: impl Fn(&dyn Store) -> Result<Option<Result<T, Rejection>>, StoreError>
        + Clone
        + Send
        + 'static,
    ) -> Result<Result<T, Rejection>, QueryError> {
        let (begun, mut pause) = (Instant::now(), BEHIND_PAUSE_MIN);
        loop {
            if let Some(found) = self.run(read.clone()).await? {
                return Ok(found);
            }
            self.metrics.queries_behind.inc();
            if begun.elapsed() >= self.behind_wait {
                return Ok(Err(behind::refusal()));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BEHIND_PAUSE_MAX);
        }
    }

    /// A read of a row or two: in place, or like every other.
    async fn run_short<T: Send + 'static>(
        &self,
        read: impl Fn(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, QueryError> {
        match self.try_in_place(&read) {
            Some(result) => result,
            None => self.run(read).await,
        }
    }

    /// Reads a row or two in place; `None`: not now.
    fn try_in_place<T>(
        &self,
        read: impl Fn(&dyn Store) -> Result<T, StoreError>,
    ) -> Option<Result<T, QueryError>> {
        let asked = Instant::now();
        if !self.in_place.allows(asked) {
            return None;
        }
        let result = read(&*self.store);
        let done = Instant::now();
        self.in_place.took(done, done.duration_since(asked));
        self.metrics.queries_in_place.inc();
        finished(&self.metrics, asked, &result);
        Some(result.map_err(QueryError::from))
    }

    async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let asked = Instant::now();
        let permit = Arc::clone(&self.running).acquire_owned().await;
        let permit = permit.map_err(|_| QueryError::Stopping)?;
        let (store, metrics) = (Arc::clone(&self.store), Arc::clone(&self.metrics));
        metrics.queries_running.inc();
        let done = tokio::task::spawn_blocking(move || {
            // The permit goes with the work, which goes on when nobody waits for it any more.
            let result = read(&*store);
            drop(permit);
            metrics.queries_running.dec();
            finished(&metrics, asked, &result);
            result
        });
        Ok(done.await.map_err(|_| QueryError::Stopping)??)
    }
}

/// Counts a read.
fn finished<T>(metrics: &Metrics, asked: Instant, result: &Result<T, StoreError>) {
    metrics.query_seconds.observe(asked.elapsed().as_secs_f64());
    if let Err(error) = result {
        metrics.queries_failed.inc();
        tracing::error!(%error, "a read failed");
    }
}

fn check(
    store: &dyn Store,
    user: &UserId,
    exist: &[UserId],
    enters: Option<&ConversationId>,
) -> Result<Checked, StoreError> {
    let mut keys: Vec<EntityKey> = exist.iter().copied().map(EntityKey::Account).collect();
    keys.push(EntityKey::Inbox(*user));
    let mut rows = store.entities(&keys)?;
    let inbox = rows.pop().flatten();
    if let Some((user, _)) = exist.iter().zip(&rows).find(|(_, row)| row.is_none()) {
        return Ok(Checked::Missing(*user));
    }
    let Some(enters) = enters else {
        return Ok(Checked::Sound { is_in: true });
    };
    let is_in = matches!(access(store, user, enters)?, Access::Member(_));
    let inbox = inbox.map(|row| Inbox::decode(&row)).transpose()?;
    let full = inbox.is_some_and(|inbox| inbox.listed as usize >= CONVERSATIONS_MAX);
    Ok(match full && !is_in {
        true => Checked::NoRoom,
        false => Checked::Sound { is_in },
    })
}

fn history_page(
    (store, shards): (&dyn Store, ShardCount),
    user: &UserId,
    request: &HistoryRequest,
) -> Result<Result<HistoryPage, Rejection>, StoreError> {
    let Member {
        conversation,
        first: visible,
        ..
    } = match access(store, user, &request.conversation)?.member() {
        Ok(member) => member,
        Err(refused) => return Ok(Err(refused)),
    };
    let head = groups::told_head(store, shards, user, &request.conversation, &conversation)?;
    // The row was read before the messages, which can only be newer.
    let changes = changes::last(&conversation);
    let first = request.first.unwrap_or(visible).max(visible);
    // Rows above the head that was committed may be there already; they count when that head does.
    let last = request.last.or(conversation.head).min(conversation.head);
    let Some(last) = last.filter(|last| *last >= first) else {
        return Ok(Ok(HistoryPage {
            messages: Vec::new(),
            more: false,
            head,
            changes,
        }));
    };
    let range = HistoryRange {
        first,
        last: Some(last),
        limit: request.limit as usize,
        bytes: HISTORY_PAGE_BYTES_MAX,
        newest_first: request.newest_first,
    };
    let messages = visible::messages(store, &request.conversation, range)?;
    let more = if request.newest_first {
        messages.first().is_some_and(|message| message.seq > first)
    } else {
        messages.last().is_some_and(|message| message.seq < last)
    };
    Ok(Ok(HistoryPage {
        messages,
        more,
        head,
        changes,
    }))
}

/// Whether the inbox holds nothing after the cursor. Its head is committed together with its rows.
fn is_at_head(store: &dyn Store, user: &UserId, after: Cursor) -> Result<bool, StoreError> {
    let row = store.entities(&[EntityKey::Inbox(*user)])?.pop().flatten();
    let inbox = row.map(|row| Inbox::decode(&row)).transpose()?;
    let head = inbox.and_then(|inbox| inbox.head);
    Ok(head.is_none_or(|head| head.cursor() <= after))
}

fn inbox_page(
    store: &dyn Store,
    user: &UserId,
    after: Cursor,
    max_events: usize,
    max_bytes: usize,
) -> Result<InboxPage, StoreError> {
    let mut rows = store.inbox(user, after, max_events)?;
    let dense = dense(&rows, after);
    if dense == 0 && !rows.is_empty() && !keeps_after(store, user, after)? {
        return Ok(InboxPage {
            trimmed: true,
            ..InboxPage::default()
        });
    }
    let mut exhausted = rows.len() < max_events;
    if dense > 0 && dense < rows.len() {
        // Trimmed while it was read. The next page finds out.
        rows.truncate(dense);
        exhausted = false;
    }
    let mut page = InboxPage {
        last: rows.last().map(|row| row.inbox_seq),
        exhausted,
        ..InboxPage::default()
    };
    let mut frames = BytesMut::new();
    let mut found = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        let body = match &row.kind {
            InboxKind::Receipt(receipt) => EventBody::Receipt(receipt.clone()),
            InboxKind::Invitation(invitation) => EventBody::Invitation(invitation.clone()),
            InboxKind::Changed(changed) => match as_it_is_now(store, changed)? {
                Some(changed) => EventBody::Changed(Box::new(changed)),
                None => {
                    page.gap = true;
                    page.exhausted = false;
                    break;
                }
            },
            InboxKind::Message { conversation, seq } => {
                if !found.contains_key(&(*conversation, *seq)) {
                    let left = max_bytes.saturating_sub(frames.len());
                    read_run(store, &rows[at..], conversation, *seq, left, &mut found)?;
                }
                let Some(message) = found.remove(&(*conversation, *seq)) else {
                    page.gap = true;
                    page.exhausted = false;
                    break;
                };
                EventBody::Message(message)
            }
        };
        let start = frames.len();
        let event = wire::Event::numbered(row.inbox_seq, &body);
        frame::encode(FrameType::Event, &event, &mut frames);
        if frames.len() > max_bytes && start > 0 {
            frames.truncate(start);
            page.exhausted = false;
            break;
        }
        page.events.push((row.inbox_seq, frames.len() - start));
    }
    page.frames = frames.freeze();
    Ok(page)
}

/// How many rows follow the cursor and each other.
fn dense(rows: &[InboxRow], after: Cursor) -> usize {
    let numbers = after.next().get()..;
    let follows = |(row, number): &(&InboxRow, u64)| row.inbox_seq.get() == *number;
    rows.iter().zip(numbers).take_while(follows).count()
}

/// Whether everything after the cursor is in the inbox still.
fn keeps_after(store: &dyn Store, user: &UserId, after: Cursor) -> Result<bool, StoreError> {
    let row = store.entities(&[EntityKey::Inbox(*user)])?.pop().flatten();
    let inbox = row.map(|row| Inbox::decode(&row)).transpose()?;
    Ok(inbox.is_none_or(|inbox| inbox.keeps_after(after)))
}

/// A change with the words that the message has now: an edit's own words may have been edited again, or deleted. `None`: the
/// history does not have this change yet, as the conversation's shard is behind the user's.
fn as_it_is_now(store: &dyn Store, changed: &Changed) -> Result<Option<Changed>, StoreError> {
    let mut changed = changed.clone();
    if !matches!(changed.kind, ChangedKind::Edited(_)) {
        return Ok(Some(changed));
    }
    let range = HistoryRange {
        first: changed.seq,
        last: Some(changed.seq),
        ..HistoryRange::ALL
    };
    let found = visible::messages(store, &changed.conversation, range)?.pop();
    let Some(message) = found else {
        return Ok(None);
    };
    let version = message.state.as_ref().map_or(0, |state| state.version);
    if version < changed.version {
        return Ok(None);
    }
    changed.kind = match message.content {
        content @ (Content::Text(_) | Content::Rich(_) | Content::Note(_)) => {
            ChangedKind::Edited(content)
        }
        Content::Gone(gone) => ChangedKind::Gone(gone),
    };
    Ok(Some(changed))
}

/// What an event says of a message's state, however late it comes: only when it goes. Every change has an event of its own,
/// which is still to come; a device that counted it as known would pass it over, and with it the reactions.
fn as_sent(state: Option<&MessageState>) -> Option<Box<MessageState>> {
    let expires_at = state?.expires_at?;
    Some(Box::new(MessageState {
        expires_at: Some(expires_at),
        ..MessageState::default()
    }))
}

/// Reads the message at `seq` and those of its conversation that the page needs next, as far as they follow each other:
/// one range instead of a look-up for each.
fn read_run(
    store: &dyn Store,
    rows: &[InboxRow],
    conversation: &ConversationId,
    seq: Seq,
    bytes: usize,
    found: &mut BTreeMap<(ConversationId, Seq), Message>,
) -> Result<(), StoreError> {
    let mut last = seq;
    for row in rows {
        if let InboxKind::Message {
            conversation: of,
            seq: next,
        } = &row.kind
            && of == conversation
            && *next == last.next()
        {
            last = *next;
        }
    }
    let range = HistoryRange {
        first: seq,
        last: Some(last),
        limit: rows.len(),
        bytes,
        newest_first: false,
    };
    for mut message in visible::messages(store, conversation, range)? {
        message.state = as_sent(message.state.as_deref());
        found.insert((message.conversation, message.seq), message);
    }
    Ok(())
}
