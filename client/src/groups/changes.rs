//! Fetches what was changed in a large group while the device was away, and reads again what is here when nobody knows any more.

use std::sync::Arc;

use quipu_protocol::id::{ConversationId, Seq};
use quipu_protocol::limits::{CHANGES_KEPT_MAX, CHANGES_PAGE_MAX, HISTORY_PAGE_MESSAGES_MAX};
use quipu_protocol::query::{Answer, Query};

use super::CATCH_UP_PAGES_MAX;
use crate::cache::Tables;
use crate::driver::Shared;
use crate::error::Error;
use crate::history;
use crate::model::HistoryRange;
use crate::request;

/// Pages of changes that are fetched in one turn of a group: all that a gateway keeps, and some that come meanwhile.
const CHANGE_PAGES_MAX: usize = 2 * CHANGES_KEPT_MAX / CHANGES_PAGE_MAX;

/// What was done about the changes of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fetched {
    /// Pages of changes.
    pub(super) pages: u64,
    /// Whether messages were read again instead.
    pub(super) reread: bool,
    /// Whether there are more, which the gateway does not show yet.
    pub(super) more: bool,
}

/// Brings what is here of a group to its last change that the cache knows of.
pub(super) async fn fetch(
    shared: &Arc<Shared>,
    conversation: ConversationId,
) -> Result<Fetched, Error> {
    let mut fetched = Fetched::default();
    for _ in 0..CHANGE_PAGES_MAX {
        let mark = shared
            .cache
            .run(move |cache| cache.mark(&conversation))
            .await?;
        if !mark.is_behind() {
            break;
        }
        let after = mark.has();
        let query = Query::Changes {
            conversation,
            after,
            limit: CHANGES_PAGE_MAX as u32,
        };
        let Answer::Changes(page) = request::query(shared, &query).await? else {
            return Err(Error::Offline(
                "the gateway answered another question".into(),
            ));
        };
        let is_other = |id: ConversationId| id != conversation;
        if page
            .messages
            .first()
            .is_some_and(|one| is_other(one.message.conversation))
        {
            return Err(Error::Offline(
                "the gateway answered with another conversation".into(),
            ));
        }
        let take = move |cache: &mut Tables| cache.take_changes(&conversation, after, &page);
        let caught_up = shared.cache.run(take).await?;
        fetched.pages += 1;
        for event in caught_up.events {
            shared.announce(event);
        }
        fetched.more = caught_up.mark.is_behind();
        if fetched.more && caught_up.mark.has() == after {
            // It is asked again after a pause.
            break;
        }
    }
    fetched.reread = reread(shared, conversation).await?;
    Ok(fetched)
}

/// Reads again what may lack changes that the gateway has forgotten, the newest first; what is older than some pages is dropped, and
/// comes when somebody scrolls there. Whether there was any.
async fn reread(shared: &Arc<Shared>, conversation: ConversationId) -> Result<bool, Error> {
    let stale = move |cache: &mut Tables| cache.stale_to(&conversation);
    for page in 0..CATCH_UP_PAGES_MAX {
        let Some(last) = shared.cache.run(stale).await? else {
            return Ok(page > 0);
        };
        let range = HistoryRange {
            first: None,
            last: Some(last),
            limit: HISTORY_PAGE_MESSAGES_MAX,
            newest_first: true,
        };
        let found = history::fetch(shared, conversation, range).await?;
        let first = found.messages.first().map(|message| message.seq);
        let below = first.and_then(|first| Seq::new(first.get() - 1).ok());
        let reread = move |cache: &mut Tables| cache.reread(&conversation, below);
        shared.cache.run(reread).await?;
    }
    let drop_rest = move |cache: &mut Tables| cache.drop_stale(&conversation);
    shared.cache.run(drop_rest).await?;
    Ok(true)
}
