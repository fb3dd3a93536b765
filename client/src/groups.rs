//! Groups that are too large for inboxes: their messages and changes come as notices, and what was missed is fetched.

mod changes;
mod turns;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quipu_protocol::event::{Content, Invitation, Message, Note};
use quipu_protocol::id::{ChangeNumber, ConversationId, Seq};
use quipu_protocol::limits::{CONVERSATIONS_PAGE_MAX, HISTORY_PAGE_MESSAGES_MAX};
use quipu_protocol::query::{Answer, ConversationEntry, Query};

use self::turns::{Start, Turns};
use crate::backoff::jitter;
use crate::cache::{Tables, lower};
use crate::driver::Shared;
use crate::error::Error;
use crate::events::ClientEvent;
use crate::history;
use crate::model::HistoryRange;
use crate::request;

pub use self::turns::{
    CATCH_UP_PAUSE_MAX, CATCH_UP_PAUSE_MIN, CATCH_UP_PAUSES_MAX, CATCH_UP_REFUSALS_MAX,
    CATCH_UPS_AT_ONCE, CATCH_UPS_WAITING_MAX,
};

/// Pages of [`HISTORY_PAGE_MESSAGES_MAX`] messages that are fetched to fill one gap, the newest first. What is older comes
/// when somebody scrolls there.
pub const CATCH_UP_PAGES_MAX: usize = 16;
/// Pages of the conversation list that are looked through for invitations.
const LIST_PAGES_MAX: usize = 64;

/// What was done about gaps and missed changes in large groups since the client was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CatchUps {
    /// Gaps that were filled as far as they are by themselves.
    pub filled: u64,
    /// Pages fetched for that.
    pub pages: u64,
    /// Gaps that were longer than [`CATCH_UP_PAGES_MAX`] pages: their older part was left.
    pub cut: u64,
    /// Times that a history did not have yet what devices were told of, so that it is asked again after a pause below
    /// [`CATCH_UP_PAUSE_MAX`].
    pub early: u64,
    /// Gaps that could not be filled now; they are tried again after the next WELCOME.
    pub failed: u64,
    /// Groups that found no room among [`CATCH_UPS_WAITING_MAX`]; a check of all groups finds them.
    pub postponed: u64,
    /// Pages of changes that were missed, fetched and applied to what is here.
    pub changes: u64,
    /// Times that a gateway had forgotten what was changed, so that what is here was read again.
    pub reread: u64,
    /// Groups that wait for their turn now.
    pub waiting: usize,
}

/// The work on gaps of one client.
#[derive(Debug, Default)]
pub(crate) struct CatchUp {
    turns: Mutex<Turns>,
}

impl CatchUp {
    /// What was done so far.
    pub(crate) fn counts(&self) -> CatchUps {
        self.with(|turns| turns.counts())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Turns) -> T) -> T {
        // Each piece of work leaves it whole.
        work(&mut self.turns.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The random id of a new group.
pub(crate) fn new_group_id() -> ConversationId {
    let mut id: [u8; 16] = rand::random();
    id[0] |= 0x80;
    ConversationId(id)
}

/// Fetches what is new in every such group. After each WELCOME, and when the gateway has dropped notices.
pub(crate) fn catch_up_all(shared: &Arc<Shared>) {
    start(shared, shared.groups.with(Turns::want_check));
}

/// Fetches what is missing behind `after`, in front of a notice, and what was changed; `None`: only that.
pub(crate) fn catch_up(shared: &Arc<Shared>, conversation: ConversationId, after: Option<u64>) {
    start(
        shared,
        shared.groups.with(|turns| turns.want(conversation, after)),
    );
}

/// Fetches what was changed in a group, if a page that was kept lacks some of it.
pub(crate) async fn catch_up_changes(
    shared: &Arc<Shared>,
    conversation: ConversationId,
) -> Result<(), Error> {
    let mark = shared
        .cache
        .run(move |cache| cache.mark(&conversation))
        .await?;
    if mark.is_behind() {
        catch_up(shared, conversation, None);
    }
    Ok(())
}

/// Asks which invitations there are, because the cache has lost them with the rest.
pub(crate) fn renew_invitations(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        if let Err(error) = fetch_invitations(&shared).await {
            tracing::warn!(%error, "the invitations could not be asked for");
        }
    });
}

fn start(shared: &Arc<Shared>, start: Start) {
    let shared = Arc::clone(shared);
    match start {
        Start::Nothing => {}
        Start::Worker => drop(tokio::spawn(work(shared))),
        Start::Check => drop(tokio::spawn(check(shared))),
        Start::Pause(conversation, after, bound) => {
            drop(tokio::spawn(pause(shared, (conversation, after), bound)));
        }
    }
}

/// Asks for a group again a while later. A client that is closed meanwhile is not kept open for it.
async fn pause(shared: Arc<Shared>, group: (ConversationId, Option<u64>), bound: Duration) {
    let (conversation, after) = group;
    let weak = Arc::downgrade(&shared);
    drop(shared);
    let length = jitter(bound, &mut rand::rng());
    tokio::time::sleep(length).await;
    if let Some(shared) = weak.upgrade() {
        let begin = shared
            .groups
            .with(|turns| turns.resume(conversation, after));
        start(&shared, begin);
    }
}

/// One group after the other, until none waits.
async fn work(shared: Arc<Shared>) {
    while let Some((conversation, after)) = shared.groups.with(Turns::take) {
        fill(&shared, conversation, after).await;
    }
}

/// Asks for the head and the last change of every group, and fills what it shows to be missing; once more if that was wanted meanwhile.
async fn check(shared: Arc<Shared>) {
    while shared.groups.with(Turns::take_check) {
        let known = shared.cache.run(|cache| cache.pulled()).await;
        for group in known.unwrap_or_default() {
            if group.unknown {
                let (id, after) = (group.conversation, group.gap_after);
                if shared.groups.with(|turns| turns.claim(id, after)) {
                    fill(&shared, id, after).await;
                }
                continue;
            }
            let entry = request::query(&shared, &Query::Conversation(group.conversation)).await;
            let (head, changes, title) = match entry {
                Ok(Answer::Conversation(entry)) => (
                    entry.head,
                    entry.changes,
                    entry.group.map(|group| group.title),
                ),
                Ok(_) => continue,
                // Offline again: the next WELCOME asks anew.
                Err(Error::Offline(_)) => break,
                // It may know in a moment that the user is in it; if not, the inbox says so.
                Err(Error::Refused(_)) => (None, ChangeNumber::START, None),
                Err(error) => {
                    tracing::warn!(%error, conversation = %group.conversation, "ask for a group's head");
                    continue;
                }
            };
            let id = group.conversation;
            let hear = move |cache: &mut Tables| {
                let is_retitled = match title {
                    Some(title) => cache.retitle(&id, (&title, head))?,
                    None => false,
                };
                Ok((is_retitled, cache.hear_changes(&id, changes)?))
            };
            let (is_retitled, lacks_changes) = shared.cache.run(hear).await.unwrap_or_default();
            if is_retitled {
                shared.announce(ClientEvent::CaughtUp(id));
            }
            let behind = (head > group.head).then(|| group.head.map_or(0, Seq::get));
            let after = group.gap_after.or(behind);
            let is_behind = after.is_some() || lacks_changes || group.stale;
            if is_behind && shared.groups.with(|turns| turns.claim(id, after)) {
                fill(&shared, id, after).await;
            }
        }
    }
}

/// Fills one gap, if there is one, and brings what is here to the last change; what opens meanwhile waits for its turn.
async fn fill(shared: &Arc<Shared>, conversation: ConversationId, after: Option<u64>) {
    let filled = bring(shared, conversation, after).await;
    if let Err(error) = &filled {
        tracing::warn!(%error, %conversation, "a group could not be caught up with");
    }
    let begin = shared
        .groups
        .with(|turns| turns.finish((conversation, after), &filled));
    if filled.is_ok_and(|filled| filled.messages.is_some() || filled.changes.reread) {
        // After it is counted: whoever looks when told of it finds it.
        shared.announce(ClientEvent::CaughtUp(conversation));
    }
    start(shared, begin);
}

async fn bring(
    shared: &Arc<Shared>,
    conversation: ConversationId,
    after: Option<u64>,
) -> Result<Filled, Error> {
    let unknown = move |cache: &mut Tables| cache.unknown(&conversation);
    let after = match shared.cache.run(unknown).await? {
        Some(group) => {
            let is_behind = look_at(shared, conversation).await? > group.head;
            lower(after, is_behind.then(|| group.head.map_or(0, Seq::get)))
        }
        None => after,
    };
    let messages = match after {
        Some(after) => {
            let filled = fetch(shared, conversation, after).await?;
            // Before the turn ends: a gap that opens from now on is remembered anew.
            let behind = filled.behind;
            let close = move |cache: &mut Tables| cache.close_gap(conversation, behind);
            if let Err(error) = shared.cache.run(close).await {
                // It is filled once more after the next WELCOME.
                tracing::warn!(%error, %conversation, "forget a gap that is filled");
            }
            if filled.retitled {
                learn_title(shared, conversation).await?;
            }
            Some(filled)
        }
        None => None,
    };
    // Behind the messages, some of which may lack a change.
    let changes = changes::fetch(shared, conversation).await?;
    Ok(Filled { messages, changes })
}

/// Asks for the title of a group. Nothing else of the answer is kept: its head is ahead of what is here.
async fn learn_title(shared: &Arc<Shared>, id: ConversationId) -> Result<(), Error> {
    let entry = ask_about(shared, id).await?;
    let head = entry.head;
    let Some(title) = entry.group.map(|group| group.title) else {
        return Ok(());
    };
    let keep = move |cache: &mut Tables| cache.retitle(&id, (&title, head));
    if shared.cache.run(keep).await? {
        shared.announce(ClientEvent::CaughtUp(id));
    }
    Ok(())
}

/// Asks what a conversation is that the cache has met: a group that the user has joined, maybe on another device, or one that was not in
/// the list. Gives the head of a group whose messages come as notices.
async fn look_at(shared: &Arc<Shared>, conversation: ConversationId) -> Result<Option<Seq>, Error> {
    let entry = ask_about(shared, conversation).await?;
    let is_pulled = entry.group.as_ref().is_some_and(|group| group.pulled);
    let head = entry.head.filter(|_| is_pulled);
    let keep = move |cache: &mut Tables| cache.keep_listed(std::slice::from_ref(&*entry));
    let (news, _) = shared.cache.run(keep).await?;
    for event in news {
        shared.announce(event);
    }
    shared.announce(ClientEvent::CaughtUp(conversation));
    Ok(head)
}

async fn ask_about(
    shared: &Arc<Shared>,
    conversation: ConversationId,
) -> Result<Box<ConversationEntry>, Error> {
    let query = Query::Conversation(conversation);
    let Answer::Conversation(entry) = request::query(shared, &query).await? else {
        return Err(Error::Offline(
            "the gateway answered another question".into(),
        ));
    };
    Ok(entry)
}

/// What was done about a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Filled {
    /// `None`: there was no gap.
    messages: Option<Gap>,
    changes: changes::Fetched,
}

/// How a gap was filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Gap {
    pages: u64,
    /// Whether its older part was left.
    cut: bool,
    /// The history ends here for now, and devices were told of more.
    behind: Option<u64>,
    /// What was missing says that the group has another title.
    retitled: bool,
}

/// Brings what is above `after` into the cache, the newest page first. Behind 0 it is that page alone: nothing older is in
/// the cache that a gap could be in front of.
async fn fetch(
    shared: &Arc<Shared>,
    conversation: ConversationId,
    after: u64,
) -> Result<Gap, Error> {
    let after = shared
        .cache
        .run(move |cache| cache.open_gap(conversation, after))
        .await?;
    let first = Seq::new(after + 1).map_err(|error| Error::Invalid(error.to_string()))?;
    let (mut last, mut behind, mut retitled) = (None, None, false);
    for page in 1..=CATCH_UP_PAGES_MAX as u64 {
        let range = HistoryRange {
            first: Some(first),
            last,
            limit: HISTORY_PAGE_MESSAGES_MAX,
            newest_first: true,
        };
        let found = history::fetch(shared, conversation, range).await?;
        if page == 1 {
            let reached = found.messages.last().map_or(after, |last| last.seq.get());
            let lacks =
                move |cache: &mut Tables| cache.lacks_above(conversation, reached, found.head);
            behind = shared.cache.run(lacks).await?;
        }
        retitled |= found.messages.iter().any(is_title);
        let oldest = found.messages.first().map(|message| message.seq);
        last = oldest.and_then(|oldest| Seq::new(oldest.get() - 1).ok());
        let is_whole = !found.more || last.is_none_or(|last| last < first);
        if is_whole || after == 0 {
            return Ok(Gap {
                pages: page,
                cut: false,
                behind,
                retitled,
            });
        }
        if page == 1 {
            // The newest ones are what somebody looks at.
            shared.announce(ClientEvent::CaughtUp(conversation));
        }
    }
    Ok(Gap {
        pages: CATCH_UP_PAGES_MAX as u64,
        cut: true,
        behind,
        // What was left may say so.
        retitled: true,
    })
}

fn is_title(message: &Message) -> bool {
    matches!(&message.content, Content::Note(note) if matches!(**note, Note::Title(_)))
}

/// Asks the gateway for all invitations without an answer and keeps them; new ones are announced.
pub(crate) async fn fetch_invitations(shared: &Arc<Shared>) -> Result<Vec<Invitation>, Error> {
    let before = shared.cache.run(|cache| cache.invitations()).await?;
    let before: Vec<ConversationId> = before.iter().map(|one| one.conversation).collect();
    let (mut listed, mut after) = (Vec::new(), None);
    for _ in 0..LIST_PAGES_MAX {
        let query = Query::Conversations {
            limit: CONVERSATIONS_PAGE_MAX as u32,
            after,
        };
        let Answer::Conversations { entries, more } = request::query(shared, &query).await? else {
            return Err(Error::Offline("the gateway gave another answer".into()));
        };
        listed.extend(entries.iter().filter_map(invitation));
        after = entries
            .last()
            .map(|last| (last.activity, last.conversation));
        if !more || after.is_none() {
            break;
        }
    }
    let take = move |cache: &mut crate::cache::Tables| {
        let new = cache.take_invitations(&before, listed)?;
        Ok((new, cache.invitations()?))
    };
    let (new, all) = shared.cache.run(take).await?;
    for invitation in new {
        shared.announce(ClientEvent::Invited(invitation));
    }
    Ok(all)
}

/// What an event would have said of a group that the user is invited to.
pub(crate) fn invitation(entry: &ConversationEntry) -> Option<Invitation> {
    let group = entry.group.as_ref().filter(|group| group.role.is_none())?;
    Some(Invitation {
        conversation: entry.conversation,
        by: group.invited_by?,
        title: group.title.clone(),
        at: entry.activity,
    })
}
