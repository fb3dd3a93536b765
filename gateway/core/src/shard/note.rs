//! Notes: messages that the gateway writes into a conversation to say what somebody did there.

use quipu_protocol::event::{Content, Message, Note};
use quipu_protocol::id::{ClientSeq, ConversationId, MessageId, Seq, UserId};

use super::turn::Turn;
use crate::record::Command;

/// The message that says that `command` did this. It has a seq like any other, and a client seq that no device uses
/// (QP-GROUP-2); its name is a function of its place, so that a replay gives it the same one. `to` is as in
/// [`Message::to`]. The caller has moved the conversation's head to `seq`, and keeps and announces the message.
pub(super) fn note(
    turn: &Turn,
    command: &Command,
    (conversation, seq): (ConversationId, Seq),
    to: Option<UserId>,
    note: Note,
) -> Message {
    Message {
        conversation,
        seq,
        id: MessageId::note(&conversation, seq),
        from: command.user,
        from_device: command.device,
        client_seq: ClientSeq::NOTE,
        to,
        sent_at: turn.time,
        content: Content::Note(Box::new(note)),
        state: None,
    }
}
