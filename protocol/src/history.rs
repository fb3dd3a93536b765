//! Asking for a range of a conversation's messages, and the page that answers.

use bytes::Bytes;

use crate::error::RejectCode;
use crate::event::{Message, Rejection};
use crate::id::{ChangeNumber, ConversationId, Seq};
use crate::limits::HISTORY_PAGE_MESSAGES_MAX;
use crate::violation::Violation;
use crate::wire;

/// A range of a conversation's messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRequest {
    /// Whose messages.
    pub conversation: ConversationId,
    /// The first one wanted; `None`: from the start.
    pub first: Option<Seq>,
    /// The last one wanted; `None`: to the head.
    pub last: Option<Seq>,
    /// How many at the most: 1 to [`HISTORY_PAGE_MESSAGES_MAX`].
    pub limit: u32,
    /// Whether the limit counts from the end of the range.
    pub newest_first: bool,
}

/// The answer to a [`HistoryRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPage {
    /// Ascending by seq, without gaps.
    pub messages: Vec<Message>,
    /// Whether the range holds more than this page.
    pub more: bool,
    /// Seq of the conversation's last message.
    pub head: Option<Seq>,
    /// Of a pulled group: the messages are as they were after this change, or later.
    pub changes: ChangeNumber,
}

impl TryFrom<wire::HistoryRequest> for HistoryRequest {
    /// Answered with FAILURE on the same stream.
    type Error = Rejection;

    fn try_from(request: wire::HistoryRequest) -> Result<Self, Rejection> {
        let invalid =
            |what: &str| Rejection::new(RejectCode::Invalid, format!("QP-HISTORY-2: {what}"));
        if !(1..=HISTORY_PAGE_MESSAGES_MAX).contains(&(request.limit as usize)) {
            return Err(invalid("limit is 1 to 256"));
        }
        let (first, last) = (Seq::new(request.first).ok(), Seq::new(request.last).ok());
        if last.is_some_and(|last| first.is_some_and(|first| first > last)) {
            return Err(invalid("first is not above last"));
        }
        Ok(Self {
            conversation: ConversationId::from_slice(&request.conversation)
                .map_err(|error| invalid(&error.to_string()))?,
            first,
            last,
            limit: request.limit,
            newest_first: request.newest_first,
        })
    }
}

impl From<&HistoryRequest> for wire::HistoryRequest {
    fn from(request: &HistoryRequest) -> Self {
        Self {
            conversation: Bytes::copy_from_slice(request.conversation.as_bytes()),
            first: request.first.map_or(0, Seq::get),
            last: request.last.map_or(0, Seq::get),
            limit: request.limit,
            newest_first: request.newest_first,
        }
    }
}

impl TryFrom<wire::HistoryPage> for HistoryPage {
    type Error = Violation;

    fn try_from(page: wire::HistoryPage) -> Result<Self, Violation> {
        let messages = page
            .messages
            .into_iter()
            .map(Message::try_from)
            .collect::<Result<Vec<_>, _>>()?;
        let follows =
            |a: &Message, b: &Message| a.conversation == b.conversation && b.seq == a.seq.next();
        if messages.len() > HISTORY_PAGE_MESSAGES_MAX || !messages.is_sorted_by(follows) {
            return Err(Violation::new(
                "QP-HISTORY-3",
                "a page holds at most 256 messages of one conversation, ascending without gaps",
            ));
        }
        Ok(Self {
            messages,
            more: page.more,
            head: Seq::new(page.head).ok(),
            changes: ChangeNumber(page.changes),
        })
    }
}

impl From<&HistoryPage> for wire::HistoryPage {
    fn from(page: &HistoryPage) -> Self {
        Self {
            messages: page.messages.iter().map(Into::into).collect(),
            more: page.more,
            head: page.head.map_or(0, Seq::get),
            changes: page.changes.0,
        }
    }
}
