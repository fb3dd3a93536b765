//! Groups that are too large for inboxes: their messages come as notices, and what was missed is fetched.

use std::sync::Arc;

use quipu_protocol::id::{ConversationId, Seq};
use quipu_protocol::limits::HISTORY_PAGE_MESSAGES_MAX;
use quipu_protocol::query::{Answer, Query};

use crate::driver::Shared;
use crate::error::Error;
use crate::events::ClientEvent;
use crate::history;
use crate::model::HistoryRange;
use crate::request;

/// The random id of a new group.
pub(crate) fn new_group_id() -> ConversationId {
    let mut id: [u8; 16] = rand::random();
    id[0] |= 0x80;
    ConversationId(id)
}

/// Fetches what is new in every such group. After each WELCOME, and when the gateway has dropped notices.
pub(crate) fn catch_up_all(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let known = shared.cache.run(|cache| cache.pulled()).await;
        for (conversation, head) in known.unwrap_or_default() {
            let entry = request::query(&shared, &Query::Conversation(conversation)).await;
            match entry {
                Ok(Answer::Conversation(entry)) if entry.head <= head => {}
                Ok(_) => report(fetch(&shared, conversation).await),
                // Offline again: the next WELCOME asks anew.
                Err(Error::Offline(_)) => return,
                Err(error) => report(Err(error)),
            }
        }
    });
}

/// Fetches what is missing in front of a notice.
pub(crate) fn catch_up(shared: &Arc<Shared>, conversation: ConversationId) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move { report(fetch(&shared, conversation).await) });
}

/// Brings the newest page into the cache. What is older is fetched when somebody scrolls there.
async fn fetch(shared: &Arc<Shared>, conversation: ConversationId) -> Result<(), Error> {
    let newest = HistoryRange {
        first: Some(Seq::FIRST),
        last: None,
        limit: HISTORY_PAGE_MESSAGES_MAX,
        newest_first: true,
    };
    history::fetch(shared, conversation, newest).await?;
    shared.announce(ClientEvent::CaughtUp(conversation));
    Ok(())
}

fn report(result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::warn!(%error, "a group could not be caught up with");
    }
}
