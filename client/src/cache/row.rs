//! Between SQLite's columns and the protocol's types.

use prost::Message as _;
use quipu_protocol::event::{Content, Message, MessageState};
use quipu_protocol::id::{
    ClientSeq, ConversationId, DeviceId, MessageId, Seq, TimestampMs, UserId,
};
use quipu_protocol::wire;
use rusqlite::Row;

use crate::error::Error;

/// The columns that [`message`] reads, in its order.
pub(super) const MESSAGE: &str = "conversation, seq, id, sender, device, client_seq, recipient, sent_at, text, inbox_seq, content, state";

/// Reads a row of [`MESSAGE`].
pub(super) fn message(row: &Row<'_>) -> Result<Message, Error> {
    Ok(Message {
        conversation: conversation(row, 0)?,
        seq: Seq::new(number(row, 1)?).map_err(damaged)?,
        id: message_id(row, 2)?,
        from: user(row, 3)?,
        from_device: DeviceId::new(number(row, 4)?).map_err(damaged)?,
        client_seq: ClientSeq::new(number(row, 5)?).map_err(damaged)?,
        to: optional_user(row, 6)?,
        sent_at: TimestampMs(number(row, 7)?),
        content: content(row, 8, 10)?,
        state: state(row, 11)?,
    })
}

/// What a message says: the text, or what was stored of more than that.
pub(super) fn content(row: &Row<'_>, text: usize, whole: usize) -> Result<Content, Error> {
    let stored = row.get_ref(whole)?;
    match stored.as_blob_or_null().map_err(rusqlite::Error::from)? {
        None => Ok(Content::Text(row.get(text)?)),
        Some(_) => read_whole(row, whole),
    }
}

/// A content that is stored whole.
pub(super) fn read_whole(row: &Row<'_>, at: usize) -> Result<Content, Error> {
    let bytes = row.get_ref(at)?.as_blob().map_err(rusqlite::Error::from)?;
    let content = wire::Content::decode(bytes).map_err(damaged)?;
    Content::try_from(content).map_err(|bad| damaged(bad.reason))
}

/// A content as it is stored whole.
pub(super) fn whole(content: &Content) -> Vec<u8> {
    wire::Content::from(content).encode_to_vec()
}

/// What is stored of a content beside its words; `None`: the words are all.
pub(super) fn more_than_text(content: &Content) -> Option<Vec<u8>> {
    match content {
        Content::Text(_) => None,
        Content::Rich(_) | Content::Note(_) | Content::Gone(_) => Some(whole(content)),
    }
}

fn state(row: &Row<'_>, at: usize) -> Result<Option<Box<MessageState>>, Error> {
    let stored = row.get_ref(at)?;
    let Some(bytes) = stored.as_blob_or_null().map_err(rusqlite::Error::from)? else {
        return Ok(None);
    };
    let state = wire::MessageState::decode(bytes).map_err(damaged)?;
    let state = MessageState::try_from(state).map_err(damaged)?;
    Ok(Some(Box::new(state)))
}

/// A number that was stored bit for bit.
pub(super) fn number(row: &Row<'_>, at: usize) -> Result<u64, Error> {
    Ok(row.get::<_, i64>(at)?.cast_unsigned())
}

/// A seq, where 0 stands for none.
pub(super) fn optional_seq(row: &Row<'_>, at: usize) -> Result<Option<Seq>, Error> {
    Ok(Seq::new(number(row, at)?).ok())
}

pub(super) fn conversation(row: &Row<'_>, at: usize) -> Result<ConversationId, Error> {
    ConversationId::from_slice(row.get_ref(at)?.as_blob().map_err(rusqlite::Error::from)?)
        .map_err(damaged)
}

pub(super) fn message_id(row: &Row<'_>, at: usize) -> Result<MessageId, Error> {
    MessageId::from_slice(row.get_ref(at)?.as_blob().map_err(rusqlite::Error::from)?)
        .map_err(damaged)
}

pub(super) fn user(row: &Row<'_>, at: usize) -> Result<UserId, Error> {
    UserId::new(row.get_ref(at)?.as_str().map_err(rusqlite::Error::from)?).map_err(damaged)
}

pub(super) fn optional_user(row: &Row<'_>, at: usize) -> Result<Option<UserId>, Error> {
    match row
        .get_ref(at)?
        .as_str_or_null()
        .map_err(rusqlite::Error::from)?
    {
        Some(name) => UserId::new(name).map(Some).map_err(damaged),
        None => Ok(None),
    }
}

/// A seq as it is stored, 0 for none.
pub(super) fn store(seq: Option<Seq>) -> i64 {
    seq.map_or(0, |seq| seq.get().cast_signed())
}

/// What `count(*)` gave.
pub(super) fn count(rows: i64) -> usize {
    usize::try_from(rows).unwrap_or_default()
}

pub(super) fn damaged(error: impl std::fmt::Display) -> Error {
    Error::Storage(format!(
        "the cache is damaged: {error}; remove the data folder and log in again"
    ))
}
