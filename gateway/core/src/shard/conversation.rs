//! Decisions about conversations: opening, sending, receipts.

use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{Content, Message, Outcome, Receipt, Reply, ReplyTo};
use quipu_protocol::id::{ClientSeq, ConversationId, DeviceId, MessageId, RequestId, Seq, UserId};

use super::entities::{Entities, OpenConversation};
use super::turn::{Turn, rejected};
use crate::dedup::{DedupWindow, Known};
use crate::limits::DEVICES_PER_ACCOUNT_MAX;
use crate::record::Command;
use crate::row::{Conversation, Member};

/// The message that a command wants to add.
#[derive(Debug)]
pub(super) struct Send<'a> {
    pub(super) conversation: ConversationId,
    pub(super) client_seq: ClientSeq,
    pub(super) id: MessageId,
    pub(super) content: &'a Content,
}

/// Gives a message its seq and tells every member, or answers why not.
pub(super) fn send(entities: &mut Entities, turn: &mut Turn, command: &Command, send: Send) {
    let mut entity = entities.conversation(send.conversation, turn.position);
    if let Some(outcome) = answer_instead(entity.get(), command, send.client_seq) {
        let to = ReplyTo::Send {
            conversation: send.conversation,
            client_seq: send.client_seq,
        };
        turn.answer(command.user, command.device, Reply { to, outcome });
        return;
    }
    let Some(open) = entity.change() else { return };
    let row = &mut open.row;
    let seq = row.head.map_or(Seq::FIRST, Seq::next);
    row.head = Some(seq);
    let to = peer_of(send.conversation, row, &command.user);
    if let Some(member) = row.member_mut(&command.user) {
        sender(member, command.device).accept(send.client_seq, seq);
    }
    let message = Message {
        conversation: send.conversation,
        seq,
        id: send.id,
        from: command.user,
        from_device: command.device,
        client_seq: send.client_seq,
        to,
        sent_at: turn.time,
        content: send.content.clone(),
        state: None,
    };
    turn.message(message, &open.audience);
}

/// The answer to a send that makes no new message; `None`: it makes one.
fn answer_instead(
    conversation: Option<&OpenConversation>,
    command: &Command,
    client_seq: ClientSeq,
) -> Option<Outcome> {
    // To a stranger a conversation that is there looks like one that is not: the id of a direct one is a function of two
    // names, and nobody is to find out in this way who talks with whom.
    let Some(conversation) = conversation else {
        return Some(unknown_conversation());
    };
    let Some(member) = conversation.row.member(&command.user) else {
        return Some(unknown_conversation());
    };
    let at = member
        .senders
        .binary_search_by_key(&command.device, |(device, _)| *device)
        .ok()?;
    match member.senders[at].1.look_up(client_seq) {
        Known::New => None,
        Known::Accepted(seq) => Some(Outcome::Accepted(seq)),
        Known::Stale => Some(rejected(
            RejectCode::StaleClientSeq,
            "a later message was accepted before this one; send it again under a new number",
        )),
    }
}

fn unknown_conversation() -> Outcome {
    rejected(
        RejectCode::UnknownConversation,
        "you have no such conversation; a direct one has to be opened first",
    )
}

/// The window of a member's device. When a member has had too many devices, the one silent for the longest time gives way:
/// that many devices are only reached after some were replaced.
fn sender(member: &mut Member, device: DeviceId) -> &mut DedupWindow {
    let senders = &mut member.senders;
    if senders.len() >= DEVICES_PER_ACCOUNT_MAX
        && senders.binary_search_by_key(&device, |(d, _)| *d).is_err()
        && let Some(silent) = (0..senders.len()).min_by_key(|i| senders[*i].1.last_seq())
    {
        senders.remove(silent);
    }
    let at = match senders.binary_search_by_key(&device, |(d, _)| *d) {
        Ok(at) => at,
        Err(at) => {
            senders.insert(at, (device, DedupWindow::default()));
            at
        }
    };
    &mut senders[at].1
}

/// The other member of a direct conversation; oneself in the notes to oneself.
fn peer_of(id: ConversationId, conversation: &Conversation, user: &UserId) -> Option<UserId> {
    if id.is_group() {
        return None;
    }
    let others = conversation.members.iter().map(|member| member.user);
    Some(
        others
            .into_iter()
            .find(|other| other != user)
            .unwrap_or(*user),
    )
}

/// Makes the direct conversation if there is none, and answers with its head.
pub(super) fn open_direct(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    request: RequestId,
    peer: UserId,
) {
    let id = ConversationId::direct(&command.user, &peer);
    let mut entity = entities.conversation(id, turn.position);
    let outcome = match entity.get() {
        None => {
            let row = Conversation::new([command.user, peer]);
            entity.put(OpenConversation::new(row, turn.shards));
            opened(id, None)
        }
        Some(open) if open.row.member(&command.user).is_some() => opened(id, open.row.head),
        // Two pairs of names with one id: nobody can do that by chance.
        Some(_) => unknown_conversation(),
    };
    let to = ReplyTo::Request(request);
    turn.answer(command.user, command.device, Reply { to, outcome });
}

fn opened(conversation: ConversationId, head: Option<Seq>) -> Outcome {
    Outcome::Opened { conversation, head }
}

/// Moves a member's positions forward, never beyond the head; says whether one moved. A receipt has no answer: one that
/// does not fit is ignored.
pub(super) fn receipt(
    entities: &mut Entities,
    turn: &mut Turn,
    (conversation, user): (ConversationId, UserId),
    (delivered, read): (Option<Seq>, Option<Seq>),
) -> bool {
    let mut entity = entities.conversation(conversation, turn.position);
    let Some(open) = entity.get() else {
        return false;
    };
    let Some(member) = open.row.member(&user) else {
        return false;
    };
    // `None` is below every seq, so an empty conversation caps both to none.
    let read = read.min(open.row.head).max(member.read);
    let delivered = delivered.min(open.row.head).max(member.delivered).max(read);
    if (delivered, read) == (member.delivered, member.read) {
        return false;
    }
    if let Some(member) = entity.change().and_then(|open| open.row.member_mut(&user)) {
        member.delivered = delivered;
        member.read = read;
    }
    true
}

/// Tells every member, the reader's other devices included, how far a member is now.
pub(super) fn announce_receipt(
    entities: &mut Entities,
    turn: &mut Turn,
    conversation: ConversationId,
    user: UserId,
) {
    let entity = entities.conversation(conversation, turn.position);
    let Some(open) = entity.get() else { return };
    let Some(member) = open.row.member(&user) else {
        return;
    };
    let receipt = Receipt {
        conversation,
        user,
        delivered: member.delivered,
        read: member.read,
    };
    turn.receipt(&receipt, &open.audience);
}
