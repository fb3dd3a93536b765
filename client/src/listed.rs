//! Fetches the gateway's list of conversations, when events begin in the middle of the inbox and do not bring them all.

use std::sync::Arc;

use quipu_protocol::id::Cursor;
use quipu_protocol::limits::{CONVERSATIONS_MAX, CONVERSATIONS_PAGE_MAX};
use quipu_protocol::query::{Answer, Query};

use crate::cache::Tables;
use crate::driver::Shared;
use crate::error::Error;
use crate::events::ClientEvent;
use crate::groups;
use crate::request;

/// Pages of the list, a full one and some more: what moves to the front meanwhile makes room for others to come twice.
const PAGES_MAX: usize = CONVERSATIONS_MAX / CONVERSATIONS_PAGE_MAX + 8;

/// Fetches the list for events that began at this cursor. What fails is tried again after the next WELCOME.
pub(crate) fn take(shared: &Arc<Shared>, begun: Cursor) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        match fetch(&shared, begun).await {
            Ok(()) => shared.announce(ClientEvent::Listed),
            Err(error) => {
                tracing::warn!(%error, "the list of conversations could not be fetched");
            }
        }
    });
}

async fn fetch(shared: &Arc<Shared>, begun: Cursor) -> Result<(), Error> {
    let mut after = None;
    for _ in 0..PAGES_MAX {
        let limit = CONVERSATIONS_PAGE_MAX as u32;
        let page = request::query(shared, &Query::Conversations { limit, after }).await?;
        let Answer::Conversations { entries, more } = page else {
            return Err(Error::Offline(
                "the gateway answered another question".into(),
            ));
        };
        after = entries
            .last()
            .map(|entry| (entry.activity, entry.conversation));
        let keep = move |cache: &mut Tables| {
            let (mut news, behind) = cache.keep_listed(&entries)?;
            let invitations = entries.iter().filter_map(groups::invitation).collect();
            let new = cache.take_invitations(&[], invitations)?;
            news.extend(new.into_iter().map(ClientEvent::Invited));
            Ok((news, behind))
        };
        let (news, behind) = shared.cache.run(keep).await?;
        for event in news {
            shared.announce(event);
        }
        for (conversation, after) in behind {
            groups::catch_up(shared, conversation, after);
        }
        if !more || after.is_none() {
            break;
        }
    }
    shared.cache.run(move |cache| cache.listed(begun)).await
}
