//! Fetches pages of history over request streams.

use quipu_protocol::id::ConversationId;

use crate::driver::Shared;
use crate::error::Error;
use crate::model::{HistoryPage, HistoryRange};

pub(crate) async fn fetch(
    _: &Shared,
    _: ConversationId,
    _: HistoryRange,
) -> Result<HistoryPage, Error> {
    Err(Error::Closed)
}
