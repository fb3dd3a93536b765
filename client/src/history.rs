//! Fetches pages of history over request streams.

use std::sync::Arc;
use std::time::Duration;

use quipu_protocol::history::{HistoryPage, HistoryRequest};
use quipu_protocol::id::ConversationId;
use quipu_protocol::limits::HISTORY_PAGE_MESSAGES_MAX;

use crate::cache::Tables;
use crate::driver::Shared;
use crate::error::Error;
use crate::model::HistoryRange;
use crate::request;

/// How often a page is asked for that is behind changes that were told.
const ASKED_MAX: u32 = 6;
/// Half the first pause before it is asked for again; each next one is twice as long. All together some seconds.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Fetches one page and keeps it in the cache, with the changes that overtook it.
pub(crate) async fn fetch(
    shared: &Arc<Shared>,
    conversation: ConversationId,
    range: HistoryRange,
) -> Result<HistoryPage, Error> {
    if !(1..=HISTORY_PAGE_MESSAGES_MAX).contains(&range.limit) {
        return Err(Error::Invalid(format!(
            "a page of history has 1 to {HISTORY_PAGE_MESSAGES_MAX} messages"
        )));
    }
    let request = HistoryRequest {
        conversation,
        first: range.first,
        last: range.last,
        limit: range.limit as u32,
        newest_first: range.newest_first,
    };
    for attempt in 0..ASKED_MAX {
        if attempt > 0 {
            tokio::time::sleep(ASK_AGAIN_AFTER * (1 << attempt)).await;
        }
        let forgotten = shared.cache.run(|cache| Ok(cache.forgotten())).await?;
        let (page, whole) = ask(shared, &request, forgotten).await?;
        if whole {
            return Ok(page);
        }
    }
    Err(Error::Offline(
        "the history is behind what was told; ask for it again".into(),
    ))
}

/// Asks once. False: not all changes are known that were told while the page was under way.
async fn ask(
    shared: &Arc<Shared>,
    request: &HistoryRequest,
    forgotten: u64,
) -> Result<(HistoryPage, bool), Error> {
    let mut page = request::history(shared, request).await?;
    if page
        .messages
        .first()
        .is_some_and(|message| message.conversation != request.conversation)
    {
        return Err(Error::Offline(
            "the gateway answered with another conversation".into(),
        ));
    }
    let keep = move |cache: &mut Tables| {
        let whole = cache.overtake(&mut page.messages, forgotten);
        let acked = cache.keep_history(&mut page.messages, page.head, page.changes)?;
        Ok((page, whole, acked))
    };
    let (page, whole, acked) = shared.cache.run(keep).await?;
    for event in acked {
        shared.announce(event);
    }
    Ok((page, whole))
}
