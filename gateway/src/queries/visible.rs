//! Messages as a reader may have them: the only way from here to a history.

use quipu_core::row::HistoryRow;
use quipu_protocol::event::Message;
use quipu_protocol::id::ConversationId;

use crate::log::unix_time_now;
use crate::store::{HistoryRange, Store, StoreError};

/// Messages of a conversation in ascending order, without the content of those whose time is over (QP-MSG-5): the sweep may
/// not have come to them yet.
pub(super) fn messages(
    store: &dyn Store,
    conversation: &ConversationId,
    range: HistoryRange,
) -> Result<Vec<Message>, StoreError> {
    let now = unix_time_now();
    let rows = store.history(conversation, range)?;
    let messages = rows.into_iter().map(|HistoryRow(mut message)| {
        message.hide_expired(now);
        message
    });
    Ok(messages.collect())
}
