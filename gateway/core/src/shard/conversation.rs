//! Decisions about conversations: opening, sending, receipts.

use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{Content, Message, Outcome, Receipt, Reply, ReplyTo};
use quipu_protocol::id::{ClientSeq, ConversationId, DeviceId, MessageId, RequestId, Seq, UserId};

use super::ShardId;
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
    row.activity = turn.time;
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
            let row = Conversation::new([command.user, peer], turn.time);
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

/// What a receipt says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Positions {
    pub(super) delivered: Option<Seq>,
    pub(super) read: Option<Seq>,
    /// Nobody else is to learn of `read`.
    pub(super) quiet: bool,
}

/// Moves a member's positions forward, never beyond the head. `None`: none moved; otherwise whether others see that one
/// did. A receipt has no answer: one that does not fit is ignored.
pub(super) fn receipt(
    entities: &mut Entities,
    turn: &mut Turn,
    (conversation, user): (ConversationId, UserId),
    said: Positions,
) -> Option<bool> {
    let mut entity = entities.conversation(conversation, turn.position);
    let open = entity.get()?;
    let member = open.row.member(&user)?;
    // `None` is below every seq, so an empty conversation caps both to none.
    let said_read = said.read.min(open.row.head);
    let read = said_read.max(member.read);
    let said_delivered = said.delivered.min(open.row.head);
    let delivered = said_delivered.max(member.delivered).max(read);
    let shown_read = match said.quiet {
        false => said_read.max(member.shown_read),
        true => member.shown_read,
    };
    let seen = (delivered, shown_read) != (member.delivered, member.shown_read);
    if !seen && read == member.read {
        return None;
    }
    if let Some(member) = entity.change().and_then(|open| open.row.member_mut(&user)) {
        member.delivered = delivered;
        member.read = read;
        member.shown_read = shown_read;
    }
    Some(seen)
}

/// Tells the reader's devices, and if `seen` every other member, how far a member is now.
pub(super) fn announce_receipt(
    entities: &mut Entities,
    turn: &mut Turn,
    (conversation, user): (ConversationId, UserId),
    seen: bool,
) {
    let entity = entities.conversation(conversation, turn.position);
    let Some(open) = entity.get() else { return };
    let Some(member) = open.row.member(&user) else {
        return;
    };
    let of = |read| Receipt {
        conversation,
        user,
        delivered: member.delivered,
        read,
    };
    if seen && member.read == member.shown_read {
        return turn.receipt(&of(member.read), &open.audience);
    }
    let own = [(turn.shards.of_user(&user), vec![user])];
    turn.receipt(&of(member.read), &own);
    if seen {
        let others = without(&open.audience, &user);
        turn.receipt(&of(member.shown_read), &others);
    }
}

/// An audience but for one user.
fn without(audience: &[(ShardId, Vec<UserId>)], user: &UserId) -> Vec<(ShardId, Vec<UserId>)> {
    let others = audience.iter().map(|(shard, users)| {
        let others = users.iter().filter(|other| *other != user);
        (*shard, others.copied().collect::<Vec<_>>())
    });
    others.filter(|(_, others)| !others.is_empty()).collect()
}
