//! Pages of a conversation: from the cache where it has them without a hole, else from the gateway.

use quipu_client::{Client, Error, HistoryRange, Page as CachePage};
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::Message;
use quipu_protocol::id::{ConversationId, Seq};

use super::convert::waiting;
use super::wishes::shown;
use crate::app::{Loaded, Page};

/// Messages in a page.
const PAGE_MESSAGES: usize = 100;
const _: () = assert!(PAGE_MESSAGES <= quipu_protocol::limits::HISTORY_PAGE_MESSAGES_MAX);

/// Loads a page. Fails if the cache does not have it and the gateway is away.
pub(super) async fn page(
    client: &Client,
    conversation: ConversationId,
    page: Page,
) -> Result<Loaded, Error> {
    match page {
        Page::Latest => {
            let outbox = client.outbox(conversation).await?;
            let wishes = client.changes(conversation).await?;
            let cached = client
                .messages(conversation, CachePage::Latest, PAGE_MESSAGES)
                .await?;
            let messages = if cached.is_empty() {
                first_look(client, conversation).await
            } else {
                without_hole(cached)
            };
            Ok(Loaded {
                messages,
                ends: false,
                waiting: outbox.into_iter().map(waiting).collect(),
                wishes: wishes.into_iter().map(shown).collect(),
            })
        }
        Page::Before(seq) => {
            let cached = client
                .messages(conversation, CachePage::Before(seq), PAGE_MESSAGES)
                .await?;
            let (messages, ends) = match cached.last() {
                Some(last) if last.seq.next() == seq => (without_hole(cached), false),
                Some(_) | None => {
                    let last = Seq::new(seq.get() - 1)?;
                    fetch(client, conversation, None, Some(last), true).await?
                }
            };
            Ok(Loaded {
                messages,
                ends,
                ..Loaded::default()
            })
        }
        Page::After(seq) => {
            let mut messages = client
                .messages(conversation, CachePage::After(seq), PAGE_MESSAGES)
                .await?;
            let mut ends = false;
            if messages
                .first()
                .is_some_and(|first| first.seq == seq.next())
            {
                let whole = messages
                    .windows(2)
                    .position(|pair| pair[0].seq.next() != pair[1].seq);
                messages.truncate(whole.map_or(messages.len(), |last| last + 1));
            } else {
                (messages, ends) =
                    fetch(client, conversation, Some(seq.next()), None, false).await?;
            }
            Ok(Loaded {
                messages,
                ends,
                ..Loaded::default()
            })
        }
    }
}

/// What the gateway has of a conversation that the cache knows nothing of. Without a gateway, or before the first message:
/// nothing, which is not worth an error.
async fn first_look(client: &Client, conversation: ConversationId) -> Vec<Message> {
    if !client.connection().borrow().is_online() {
        return Vec::new();
    }
    match fetch(client, conversation, None, None, true).await {
        Ok((messages, _)) => messages,
        Err(Error::Refused(refusal)) if refusal.code == RejectCode::UnknownConversation => {
            Vec::new()
        }
        Err(error) => {
            tracing::info!(%error, "look for older messages");
            Vec::new()
        }
    }
}

/// A page from the gateway, and whether there is nothing beyond it.
async fn fetch(
    client: &Client,
    conversation: ConversationId,
    first: Option<Seq>,
    last: Option<Seq>,
    newest_first: bool,
) -> Result<(Vec<Message>, bool), Error> {
    let range = HistoryRange {
        first,
        last,
        limit: PAGE_MESSAGES,
        newest_first,
    };
    let page = client.history(conversation, range).await?;
    Ok((page.messages, !page.more))
}

/// The last messages of a page up to its last hole.
fn without_hole(mut messages: Vec<Message>) -> Vec<Message> {
    let hole = messages
        .windows(2)
        .rposition(|pair| pair[0].seq.next() != pair[1].seq);
    if let Some(hole) = hole {
        messages.drain(..=hole);
    }
    messages
}
