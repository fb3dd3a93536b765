//! Fetches pages of history over request streams.

use std::sync::Arc;

use quipu_protocol::history::{HistoryPage, HistoryRequest};
use quipu_protocol::id::ConversationId;
use quipu_protocol::limits::HISTORY_PAGE_MESSAGES_MAX;

use crate::driver::Shared;
use crate::error::Error;
use crate::model::HistoryRange;
use crate::request;

/// Fetches one page and keeps it in the cache.
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
    let page = request::history(shared, &request).await?;
    if page
        .messages
        .first()
        .is_some_and(|message| message.conversation != conversation)
    {
        return Err(Error::Offline(
            "the gateway answered with another conversation".into(),
        ));
    }
    let kept = page.clone();
    let acked = shared
        .cache
        .run(move |cache| cache.keep_history(&kept.messages, kept.head))
        .await?;
    for event in acked {
        shared.announce(event);
    }
    Ok(page)
}
