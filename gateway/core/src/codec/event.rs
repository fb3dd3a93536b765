//! The encoding of what records and rows share: contents, messages and receipts.

use quipu_protocol::event::{
    Changed, Content, EventBody, Invitation, Message, MessageState, Receipt,
};
use quipu_protocol::id::{ClientSeq, ConversationId, Seq, TimestampMs};
use quipu_protocol::wire;

use prost::Message as _;

use super::{Field, Fields, Writer, corrupt, required};
use crate::row::CorruptRow;

/// What of a message its place in the store says already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageKey {
    pub(crate) conversation: ConversationId,
    pub(crate) seq: Seq,
}

pub(crate) fn write_content(out: &mut Writer, content: &Content) {
    match content {
        Content::Text(text) => out.slice_present(1, text.as_bytes()),
        Content::Rich(_) | Content::Note(_) | Content::Gone(_) => {
            out.wire(2, &wire::Content::from(content));
        }
    }
}

pub(crate) fn read_content(what: &'static str, mut fields: Fields) -> Result<Content, CorruptRow> {
    let mut content = None;
    while let Some(field) = fields.next()? {
        match field.number {
            1 => content = Some(Content::Text(field.text()?.to_owned())),
            2 => {
                let message = wire::Content::decode(field.slice()?);
                let read = Content::try_from(field.checked(message)?);
                content = Some(field.checked(read.map_err(|bad| bad.reason))?);
            }
            _ => {}
        }
    }
    required(what, "a content that this version knows", content)
}

/// Writes a whole message, key included.
pub(crate) fn write_message(out: &mut Writer, message: &Message) {
    out.conversation(1, &message.conversation);
    out.uint(2, message.seq.get());
    write_message_value(out, message);
}

/// Writes a message without its key.
pub(crate) fn write_message_value(out: &mut Writer, message: &Message) {
    out.slice(3, message.id.as_bytes());
    out.user(4, &message.from);
    out.fixed64(5, message.from_device.get());
    out.uint(6, message.client_seq.get());
    if let Some(to) = &message.to {
        out.user(7, to);
    }
    out.uint(8, message.sent_at.0);
    out.nested(9, |out| write_content(out, &message.content));
    if let Some(state) = &message.state {
        out.wire(10, &wire::MessageState::from(&**state));
    }
}

/// Reads a message whose key is in its fields, or given.
pub(crate) fn read_message(
    what: &'static str,
    mut fields: Fields,
    key: Option<MessageKey>,
) -> Result<Message, CorruptRow> {
    let mut conversation = key.map(|key| key.conversation);
    let mut seq = key.map(|key| key.seq);
    let (mut id, mut from, mut from_device, mut client_seq) = (None, None, None, None);
    let (mut to, mut sent_at, mut content) = (None, TimestampMs::default(), None);
    let mut state = None;
    while let Some(field) = fields.next()? {
        match field.number {
            1 | 2 if key.is_some() => {
                return Err(corrupt(what, "its value repeats its key"));
            }
            1 => conversation = Some(field.conversation()?),
            2 => seq = field.seq()?,
            3 => id = Some(field.message_id()?),
            4 => from = Some(field.user()?),
            5 => from_device = Some(field.device()?),
            6 => client_seq = Some(field.checked(ClientSeq::new(field.uint()?))?),
            7 => to = Some(field.user()?),
            8 => sent_at = TimestampMs(field.uint()?),
            9 => content = Some(read_content(what, field.nested()?)?),
            10 => state = Some(Box::new(field.wire::<wire::MessageState, MessageState>()?)),
            _ => {}
        }
    }
    Ok(Message {
        conversation: required(what, "the conversation", conversation)?,
        seq: required(what, "the seq", seq)?,
        id: required(what, "the message id", id)?,
        from: required(what, "the sender", from)?,
        from_device: required(what, "the sending device", from_device)?,
        client_seq: required(what, "the client seq", client_seq)?,
        to,
        sent_at,
        content: required(what, "the content", content)?,
        state,
    })
}

pub(crate) fn write_receipt(out: &mut Writer, receipt: &Receipt) {
    out.conversation(1, &receipt.conversation);
    out.user(2, &receipt.user);
    out.seq(3, receipt.delivered);
    out.seq(4, receipt.read);
}

pub(crate) fn read_receipt(what: &'static str, mut fields: Fields) -> Result<Receipt, CorruptRow> {
    let (mut conversation, mut user, mut delivered, mut read) = (None, None, None, None);
    while let Some(field) = fields.next()? {
        match field.number {
            1 => conversation = Some(field.conversation()?),
            2 => user = Some(field.user()?),
            3 => delivered = field.seq()?,
            4 => read = field.seq()?,
            _ => {}
        }
    }
    Ok(Receipt {
        conversation: required(what, "the conversation", conversation)?,
        user: required(what, "the user", user)?,
        delivered,
        read,
    })
}

/// Writes an event under the numbers that `message`, `receipt`, `changed` and `invitation` have in the schema there.
pub(crate) fn write_event(out: &mut Writer, event: &EventBody, at: [u32; 4]) {
    match event {
        EventBody::Message(message) => out.nested(at[0], |out| write_message(out, message)),
        EventBody::Receipt(receipt) => out.nested(at[1], |out| write_receipt(out, receipt)),
        EventBody::Changed(changed) => out.wire(at[2], &wire::Changed::from(&**changed)),
        EventBody::Invitation(invitation) => {
            out.wire(at[3], &wire::Invitation::from(&**invitation));
        }
    }
}

/// Reads what [`write_event`] wrote; `None`: the field is none of these.
pub(crate) fn read_event(
    what: &'static str,
    field: &Field,
    at: [u32; 4],
) -> Result<Option<EventBody>, CorruptRow> {
    let kind = at.iter().position(|number| *number == field.number);
    Ok(match kind {
        Some(0) => Some(EventBody::Message(read_message(
            what,
            field.nested()?,
            None,
        )?)),
        Some(1) => Some(EventBody::Receipt(read_receipt(what, field.nested()?)?)),
        Some(2) => {
            let changed = field.wire::<wire::Changed, Changed>()?;
            Some(EventBody::Changed(Box::new(changed)))
        }
        Some(3) => {
            let invitation = field.wire::<wire::Invitation, Invitation>()?;
            Some(EventBody::Invitation(Box::new(invitation)))
        }
        Some(_) | None => None,
    })
}
