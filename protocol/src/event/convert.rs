//! Between the checked forms and the wire messages: what comes is refused or right, what goes is always right.

use bytes::{Bytes, BytesMut};

use super::change::unnumbered;
use super::{
    Content, DeviceCommand, Event, EventBody, Message, MessageState, Outcome, Receipt, Refusal,
    Rejection, Reply, ReplyTo,
};
use crate::error::RejectCode;
use crate::frame::{FrameType, encode};
use crate::id::{
    ClientSeq, ConversationId, DeviceId, InboxSeq, MessageId, RequestId, Seq, TimestampMs, UserId,
};
use crate::limits::REASON_BYTES_MAX;
use crate::violation::Violation;
use crate::wire;

pub(super) fn conversation(bytes: &[u8], rule: &'static str) -> Result<ConversationId, Violation> {
    ConversationId::from_slice(bytes)
        .map_err(|_| Violation::new(rule, "a conversation id has 16 bytes"))
}

pub(super) fn user(name: &str, rule: &'static str) -> Result<UserId, Violation> {
    UserId::new(name).map_err(|_| Violation::new(rule, "a user is named by a user id"))
}

fn id_bytes(bytes: &[u8; 16]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn seq_or_zero(seq: Option<Seq>) -> u64 {
    seq.map_or(0, Seq::get)
}

// ---------------------------------------------------------------- commands, client to gateway

impl TryFrom<wire::Send> for DeviceCommand {
    type Error = Refusal;

    fn try_from(send: wire::Send) -> Result<Self, Refusal> {
        let conversation = conversation(&send.conversation, "QP-SEND-2")?;
        let client_seq = ClientSeq::new(send.client_seq)
            .map_err(|_| Violation::new("QP-SEND-2", "a client seq is not 0"))?;
        let rejected = |code, reason: &str| {
            Refusal::Rejected(Reply {
                to: ReplyTo::Send {
                    conversation,
                    client_seq,
                },
                outcome: Outcome::Rejected(Rejection::new(code, reason)),
            })
        };
        let Ok(id) = MessageId::from_slice(&send.id) else {
            return Err(rejected(
                RejectCode::Invalid,
                "QP-SEND-3: a message id has 16 bytes",
            ));
        };
        let content = match Content::from_client(send.content) {
            Ok(content) => content,
            Err(bad) => return Err(rejected(bad.code, bad.reason)),
        };
        Ok(Self::Send {
            client_seq,
            conversation,
            id,
            content,
        })
    }
}

impl TryFrom<wire::OpenDirect> for DeviceCommand {
    type Error = Refusal;

    fn try_from(open: wire::OpenDirect) -> Result<Self, Refusal> {
        let request = RequestId(open.request);
        match UserId::new(&open.peer) {
            Ok(peer) => Ok(Self::OpenDirect { request, peer }),
            Err(error) => Err(Refusal::Rejected(Reply {
                to: ReplyTo::Request(request),
                outcome: Outcome::Rejected(Rejection::new(
                    RejectCode::Invalid,
                    format!("QP-OPEN-1: {error}"),
                )),
            })),
        }
    }
}

impl TryFrom<wire::Command> for DeviceCommand {
    type Error = Refusal;

    fn try_from(command: wire::Command) -> Result<Self, Refusal> {
        let (request, client_seq, change) = command.try_into()?;
        Ok(Self::Change {
            request,
            client_seq: client_seq.ok_or_else(|| unnumbered(request))?,
            change: Box::new(change),
        })
    }
}

impl TryFrom<wire::Receipt> for DeviceCommand {
    type Error = Violation;

    fn try_from(receipt: wire::Receipt) -> Result<Self, Violation> {
        Ok(Self::Receipt {
            conversation: conversation(&receipt.conversation, "QP-RECEIPT-1")?,
            delivered: Seq::new(receipt.delivered).ok(),
            read: Seq::new(receipt.read).ok(),
        })
    }
}

impl DeviceCommand {
    /// Appends the command's frame to `out`.
    pub fn encode(self, out: &mut BytesMut) {
        match self {
            Self::Send {
                client_seq,
                conversation,
                id,
                content,
            } => {
                let send = wire::Send {
                    client_seq: client_seq.get(),
                    conversation: id_bytes(conversation.as_bytes()),
                    id: id_bytes(id.as_bytes()),
                    content: Some(content.into()),
                };
                encode(FrameType::Send, &send, out);
            }
            Self::OpenDirect { request, peer } => {
                let open = wire::OpenDirect {
                    request: request.0,
                    peer: peer.to_string(),
                };
                encode(FrameType::OpenDirect, &open, out);
            }
            Self::Receipt {
                conversation,
                delivered,
                read,
            } => {
                let receipt = wire::Receipt {
                    conversation: id_bytes(conversation.as_bytes()),
                    delivered: seq_or_zero(delivered),
                    read: seq_or_zero(read),
                };
                encode(FrameType::Receipt, &receipt, out);
            }
            Self::Change {
                request,
                client_seq,
                change,
            } => {
                let command = wire::Command::numbered(request, Some(client_seq), &change);
                encode(FrameType::Command, &command, out);
            }
        }
    }
}

// ---------------------------------------------------------------- events, gateway to client

impl TryFrom<wire::Event> for Event {
    type Error = Violation;

    fn try_from(event: wire::Event) -> Result<Self, Violation> {
        let inbox_seq = InboxSeq::new(event.inbox_seq)
            .map_err(|_| Violation::new("QP-EVENT-1", "an inbox seq is not 0"))?;
        let body = match event.body {
            Some(wire::event::Body::Message(message)) => EventBody::Message(message.try_into()?),
            Some(wire::event::Body::Receipt(receipt)) => EventBody::Receipt(receipt.try_into()?),
            Some(wire::event::Body::Changed(changed)) => {
                EventBody::Changed(Box::new(changed.try_into()?))
            }
            Some(wire::event::Body::Invitation(invitation)) => {
                EventBody::Invitation(Box::new(invitation.try_into()?))
            }
            None => return Err(Violation::new("QP-EVENT-4", "an event has a body")),
        };
        Ok(Self { inbox_seq, body })
    }
}

impl From<&Event> for wire::Event {
    fn from(event: &Event) -> Self {
        Self::numbered(event.inbox_seq, &event.body)
    }
}

impl wire::Event {
    /// The wire form of a body under its number, for a gateway that holds the two apart.
    pub fn numbered(inbox_seq: InboxSeq, body: &EventBody) -> Self {
        let body = match body {
            EventBody::Message(message) => wire::event::Body::Message(message.into()),
            EventBody::Receipt(receipt) => wire::event::Body::Receipt(receipt.into()),
            EventBody::Changed(changed) => wire::event::Body::Changed((&**changed).into()),
            EventBody::Invitation(invitation) => {
                wire::event::Body::Invitation((&**invitation).into())
            }
        };
        Self {
            inbox_seq: inbox_seq.get(),
            body: Some(body),
        }
    }
}

impl TryFrom<wire::Message> for Message {
    type Error = Violation;

    fn try_from(message: wire::Message) -> Result<Self, Violation> {
        const RULE: &str = "QP-EVENT-5";
        let content = Content::try_from(message.content.unwrap_or_default())
            .map_err(|bad| Violation::new(RULE, bad.reason))?;
        let state = message.state.map(MessageState::try_from).transpose()?;
        let to = match message.to.as_str() {
            "" => None,
            name => Some(user(name, RULE)?),
        };
        Ok(Self {
            conversation: conversation(&message.conversation, RULE)?,
            seq: Seq::new(message.seq).map_err(|_| Violation::new(RULE, "a seq is not 0"))?,
            id: MessageId::from_slice(&message.id)
                .map_err(|_| Violation::new(RULE, "a message id has 16 bytes"))?,
            from: user(&message.from, RULE)?,
            from_device: DeviceId::new(message.from_device)
                .map_err(|_| Violation::new(RULE, "a device id is not 0"))?,
            client_seq: ClientSeq::new(message.client_seq)
                .map_err(|_| Violation::new(RULE, "a client seq is not 0"))?,
            to,
            sent_at: TimestampMs(message.sent_at_ms),
            content,
            state: state.map(Box::new),
        })
    }
}

impl From<&Message> for wire::Message {
    fn from(message: &Message) -> Self {
        Self {
            conversation: id_bytes(message.conversation.as_bytes()),
            seq: message.seq.get(),
            id: id_bytes(message.id.as_bytes()),
            from: message.from.to_string(),
            from_device: message.from_device.get(),
            client_seq: message.client_seq.get(),
            to: message.to.map(|to| to.to_string()).unwrap_or_default(),
            sent_at_ms: message.sent_at.0,
            content: Some((&message.content).into()),
            state: message.state.as_deref().map(Into::into),
        }
    }
}

impl TryFrom<wire::ReceiptEvent> for Receipt {
    type Error = Violation;

    fn try_from(receipt: wire::ReceiptEvent) -> Result<Self, Violation> {
        const RULE: &str = "QP-EVENT-6";
        if receipt.read > receipt.delivered {
            return Err(Violation::new(RULE, "read is never above delivered"));
        }
        Ok(Self {
            conversation: conversation(&receipt.conversation, RULE)?,
            user: user(&receipt.user, RULE)?,
            delivered: Seq::new(receipt.delivered).ok(),
            read: Seq::new(receipt.read).ok(),
        })
    }
}

impl From<&Receipt> for wire::ReceiptEvent {
    fn from(receipt: &Receipt) -> Self {
        Self {
            conversation: id_bytes(receipt.conversation.as_bytes()),
            user: receipt.user.to_string(),
            delivered: seq_or_zero(receipt.delivered),
            read: seq_or_zero(receipt.read),
        }
    }
}

// ---------------------------------------------------------------- replies, gateway to client

impl TryFrom<wire::Reply> for Reply {
    type Error = Violation;

    fn try_from(reply: wire::Reply) -> Result<Self, Violation> {
        const RULE: &str = "QP-REPLY-1";
        let to = match reply.to {
            Some(wire::reply::To::Send(send)) => ReplyTo::Send {
                conversation: conversation(&send.conversation, RULE)?,
                client_seq: ClientSeq::new(send.client_seq)
                    .map_err(|_| Violation::new(RULE, "a client seq is not 0"))?,
            },
            Some(wire::reply::To::Request(request)) => ReplyTo::Request(RequestId(request)),
            None => {
                return Err(Violation::new(RULE, "a reply names what it answers"));
            }
        };
        let outcome = match reply.outcome {
            Some(wire::reply::Outcome::Accepted(accepted)) => Outcome::Accepted(
                Seq::new(accepted.seq).map_err(|_| Violation::new(RULE, "a seq is not 0"))?,
            ),
            Some(wire::reply::Outcome::Opened(opened)) => Outcome::Opened {
                conversation: conversation(&opened.conversation, RULE)?,
                head: Seq::new(opened.head).ok(),
            },
            Some(wire::reply::Outcome::Rejected(rejected)) => Outcome::Rejected(rejected.into()),
            Some(wire::reply::Outcome::Done(_)) => Outcome::Done,
            None => return Err(Violation::new(RULE, "a reply has an outcome")),
        };
        Ok(Self { to, outcome })
    }
}

impl From<&Reply> for wire::Reply {
    fn from(reply: &Reply) -> Self {
        let to = match &reply.to {
            ReplyTo::Send {
                conversation,
                client_seq,
            } => wire::reply::To::Send(wire::SendRef {
                conversation: id_bytes(conversation.as_bytes()),
                client_seq: client_seq.get(),
            }),
            ReplyTo::Request(request) => wire::reply::To::Request(request.0),
        };
        let outcome = match &reply.outcome {
            Outcome::Accepted(seq) => {
                wire::reply::Outcome::Accepted(wire::Accepted { seq: seq.get() })
            }
            Outcome::Opened { conversation, head } => wire::reply::Outcome::Opened(wire::Opened {
                conversation: id_bytes(conversation.as_bytes()),
                head: seq_or_zero(*head),
            }),
            Outcome::Rejected(rejection) => wire::reply::Outcome::Rejected(rejection.into()),
            Outcome::Done => wire::reply::Outcome::Done(wire::Done {}),
        };
        Self {
            to: Some(to),
            outcome: Some(outcome),
        }
    }
}

impl From<wire::Rejected> for Rejection {
    /// Takes whatever came: an unknown code is INTERNAL (QP-ERROR-2).
    fn from(rejected: wire::Rejected) -> Self {
        Self {
            code: RejectCode::from_code(u64::from(rejected.code)),
            reason: rejected.reason,
            retry_after_ms: rejected.retry_after_ms,
        }
    }
}

impl From<&Rejection> for wire::Rejected {
    fn from(rejection: &Rejection) -> Self {
        Self {
            code: rejection.code.code(),
            reason: shorten(&rejection.reason).to_owned(),
            retry_after_ms: rejection.retry_after_ms,
        }
    }
}

/// Cuts a reason to what may travel, between two characters.
pub(crate) fn shorten(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)]
}
