//! Fetches pages of history over request streams.

use std::sync::Arc;

use quipu_protocol::history::{HistoryPage, HistoryRequest};
use quipu_protocol::id::ConversationId;
use quipu_protocol::limits::HISTORY_PAGE_MESSAGES_MAX;

use crate::cache::Tables;
use crate::driver::Shared;
use crate::error::Error;
use crate::model::HistoryRange;
use crate::request::{self, Once, Patience};

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
    let mut patience = Patience::default();
    loop {
        let once = ask(shared, &request).await?;
        if let Some(page) = patience.take(once).await? {
            return Ok(page);
        }
    }
}

/// Asks once, and keeps what comes. It is behind, if not all changes are known that were told while the page was under way.
async fn ask(shared: &Arc<Shared>, request: &HistoryRequest) -> Result<Once<HistoryPage>, Error> {
    let forgotten = shared.cache.run(|cache| Ok(cache.forgotten())).await?;
    let mut page = match request::history(shared, request).await? {
        Once::Answer(page) => page,
        not_yet @ (Once::Busy(_) | Once::Behind) => return Ok(not_yet),
    };
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
    Ok(if whole {
        Once::Answer(page)
    } else {
        Once::Behind
    })
}
