//! Decisions about conversations: opening, sending, receipts.

use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{
    Content, EventBody, Message, Note, Outcome, Receipt, Reply, ReplyTo, Role,
};
use quipu_protocol::id::{ClientSeq, ConversationId, DeviceId, MessageId, RequestId, Seq, UserId};

use super::entities::{Audience, Entities, OpenConversation};
use super::turn::{Turn, rejected};
use super::{ShardId, group, message, note};
use crate::dedup::{DedupWindow, Known, Sent};
use crate::limits::DEVICES_PER_ACCOUNT_MAX;
use crate::record::{Command, Standing};
use crate::row::{Conversation, EntityKey, Member, Seat};

/// The message that a command wants to add.
#[derive(Debug)]
pub(super) struct Send<'a> {
    pub(super) conversation: ConversationId,
    pub(super) client_seq: ClientSeq,
    pub(super) id: MessageId,
    pub(super) content: &'a Content,
}

/// What a user may do in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rights {
    /// In a direct one always [`Role::Member`].
    pub(super) role: Role,
    /// The oldest message that the user may see.
    pub(super) first: Seq,
}

/// Names the entities that a decision about a user in a conversation needs.
pub(super) fn needs(id: ConversationId, user: UserId, need: &mut impl FnMut(EntityKey)) {
    need(EntityKey::Conversation(id));
    if id.is_group() {
        need(EntityKey::Member(id, user));
    }
}

/// What a user may do in a conversation, or the answer to one who is not in it (QP-CMD-2).
pub(super) fn rights(
    entities: &mut Entities,
    turn: &Turn,
    id: ConversationId,
    user: UserId,
) -> Result<Rights, Outcome> {
    if id.is_group() {
        let (conversation, member) = entities.seated(id, user, turn.position);
        let Some(group) = conversation
            .get()
            .and_then(|open| open.row.group.as_deref())
        else {
            return Err(unknown_conversation());
        };
        return match member.get() {
            Some(row) => match row.seat {
                Seat::In(role) => Ok(Rights {
                    role,
                    first: row.first(group),
                }),
                Seat::Out | Seat::Invited(_) => Err(group::not_a_member(row)),
            },
            None => Err(unknown_conversation()),
        };
    }
    let conversation = entities.conversation(id, turn.position);
    let member = conversation
        .get()
        .filter(|open| !open.row.unopened)
        .and_then(|open| open.row.member(&user));
    member.map_or_else(
        || Err(unknown_conversation()),
        |_| {
            Ok(Rights {
                role: Role::Member,
                first: Seq::FIRST,
            })
        },
    )
}

/// Tells every member of a conversation.
pub(super) fn announce(
    entities: &mut Entities,
    turn: &mut Turn,
    id: ConversationId,
    event: &EventBody,
) {
    let conversation = entities.conversation(id, turn.position);
    if let Some(open) = conversation.get() {
        turn.tell(open.audience(id), || event.clone());
    }
}

/// Adds a note to a conversation and tells every member; gives the message, `None` where there is no conversation.
pub(super) fn write_note(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    id: ConversationId,
    what: Note,
) -> Option<Message> {
    let mut conversation = entities.conversation(id, turn.position);
    let open = conversation.change()?;
    let seq = open.row.head.map_or(Seq::FIRST, Seq::next);
    open.row.head = Some(seq);
    open.row.activity = turn.time;
    let to = peer_of(id, &open.row, &command.user);
    let message = note::note(turn, command, (id, seq), to, what);
    turn.message(message.clone(), open.audience(id));
    Some(message)
}

/// Gives a message its seq and tells every member, or answers why not.
pub(super) fn send(entities: &mut Entities, turn: &mut Turn, command: &Command, send: &Send) {
    let accepted = match send.conversation.is_group() {
        true => group::send(entities, turn, command, send),
        false => send_direct(entities, turn, command, send),
    };
    // A message that is in the sender's own inbox is its own answer.
    if let Some(outcome) = accepted {
        let to = ReplyTo::Send {
            conversation: send.conversation,
            client_seq: send.client_seq,
        };
        turn.answer(command.user, command.device, Reply { to, outcome });
    }
}

fn send_direct(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    send: &Send,
) -> Option<Outcome> {
    let mut entity = entities.conversation(send.conversation, turn.position);
    // To a stranger a conversation that is there looks like one that is not: the id of a direct one is a function of two
    // names, and nobody is to find out in this way who talks with whom.
    let open = entity.get().filter(|open| !open.row.unopened);
    let Some(member) = open.and_then(|open| open.row.member(&command.user)) else {
        // Not remembered: the sender opens it and asks again.
        return Some(unknown_conversation());
    };
    if let Some(answer) = answer_again(member, command.device, send.client_seq) {
        return Some(answer);
    }
    let open = entity.change()?;
    if let Some(refusal) = message::refused(&open.row, &command.user, send.content) {
        if let Some(member) = open.row.member_mut(&command.user) {
            remember(member, command.device, send.client_seq, &refusal);
        }
        return Some(refusal);
    }
    let to = peer_of(send.conversation, &open.row, &command.user);
    let message = next_message(&mut open.row, turn, command, send, to);
    if let Some(member) = open.row.member_mut(&command.user) {
        sender(member, command.device).remember(send.client_seq, Sent::Accepted(message.seq));
    }
    turn.message(message, Audience::Users(&open.audience));
    None
}

/// The next message of a conversation, whose head moves to it.
pub(super) fn next_message(
    row: &mut Conversation,
    turn: &Turn,
    command: &Command,
    send: &Send,
    to: Option<UserId>,
) -> Message {
    let seq = row.head.map_or(Seq::FIRST, Seq::next);
    row.head = Some(seq);
    row.activity = turn.time;
    Message {
        conversation: send.conversation,
        seq,
        id: send.id,
        from: command.user,
        from_device: command.device,
        client_seq: send.client_seq,
        to,
        sent_at: turn.time,
        content: send.content.clone(),
        state: message::first_state(row.keep_ms, turn.time),
    }
}

/// The answer to a send that was answered before, or never can be accepted; `None`: it is new.
pub(super) fn answer_again(
    member: &Member,
    device: DeviceId,
    client_seq: ClientSeq,
) -> Option<Outcome> {
    let at = member
        .senders
        .binary_search_by_key(&device, |(device, _)| *device)
        .ok()?;
    match member.senders[at].1.look_up(client_seq) {
        Known::New => None,
        Known::Answered(Sent::Accepted(seq)) => Some(Outcome::Accepted(seq)),
        Known::Answered(Sent::Refused(code)) => Some(rejected(
            code,
            "this message was refused when it was sent first; send it again under a new number",
        )),
        Known::Stale => Some(rejected(
            RejectCode::StaleClientSeq,
            "a later message was answered before this one; send it again under a new number",
        )),
    }
}

/// Keeps that a new message was refused, so that a late copy of it is not accepted after all: its sender was told.
pub(super) fn remember(
    member: &mut Member,
    device: DeviceId,
    client_seq: ClientSeq,
    refusal: &Outcome,
) {
    if let Outcome::Rejected(rejection) = refusal {
        sender(member, device).remember(client_seq, Sent::Refused(rejection.code));
    }
}

pub(super) fn unknown_conversation() -> Outcome {
    rejected(
        RejectCode::UnknownConversation,
        "you have no such conversation; a direct one has to be opened first",
    )
}

/// The window of a member's device. When a member has had too many devices, the one silent for the longest time gives way:
/// that many devices are only reached after some were replaced.
pub(super) fn sender(member: &mut Member, device: DeviceId) -> &mut DedupWindow<Sent> {
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
            let open = OpenConversation::new(row, turn.shards);
            list(turn, id, &open);
            entity.put(open);
            opened(id, None)
        }
        Some(open) if open.row.unopened => {
            list(turn, id, open);
            if let Some(open) = entity.change() {
                open.row.unopened = false;
            }
            opened(id, None)
        }
        Some(open) if open.row.member(&command.user).is_some() => opened(id, open.row.head),
        // Two pairs of names with one id: nobody can do that by chance.
        Some(_) => unknown_conversation(),
    };
    let to = ReplyTo::Request(request);
    turn.answer(command.user, command.device, Reply { to, outcome });
}

/// Puts a direct conversation into the lists of its members.
fn list(turn: &mut Turn, id: ConversationId, open: &OpenConversation) {
    for user in open.audience.iter().flat_map(|(_, users)| users) {
        let standing = Standing::In {
            role: Role::Member,
            first: Seq::FIRST,
        };
        turn.standing(id, *user, standing);
    }
}

pub(super) fn opened(conversation: ConversationId, head: Option<Seq>) -> Outcome {
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

/// What a receipt moves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moved {
    delivered: Option<Seq>,
    read: Option<Seq>,
    shown_read: Option<Seq>,
    /// Whether others see that something moved.
    pub(super) seen: bool,
}

impl Moved {
    /// What `said` moves of a member's positions: forward only, never beyond the head; `None`: nothing.
    pub(super) fn of(member: &Member, head: Option<Seq>, said: Positions) -> Option<Self> {
        // `None` is below every seq, so an empty conversation caps both to none.
        let said_read = said.read.min(head);
        let read = said_read.max(member.read);
        let delivered = said.delivered.min(head).max(member.delivered).max(read);
        let shown_read = match said.quiet {
            false => said_read.max(member.shown_read),
            true => member.shown_read,
        };
        let seen = (delivered, shown_read) != (member.delivered, member.shown_read);
        (seen || read != member.read).then_some(Self {
            delivered,
            read,
            shown_read,
            seen,
        })
    }

    pub(super) fn apply(self, member: &mut Member) {
        member.delivered = self.delivered;
        member.read = self.read;
        member.shown_read = self.shown_read;
    }
}

/// Moves a member's positions forward. `None`: none moved; otherwise whether others see that one did. A receipt has no
/// answer: one that does not fit is ignored.
pub(super) fn receipt(
    entities: &mut Entities,
    turn: &mut Turn,
    (conversation, user): (ConversationId, UserId),
    said: Positions,
) -> Option<bool> {
    if conversation.is_group() {
        return group::receipt(entities, turn, (conversation, user), said);
    }
    let mut entity = entities.conversation(conversation, turn.position);
    let open = entity.get()?;
    let moved = Moved::of(open.row.member(&user)?, open.row.head, said)?;
    moved.apply(entity.change()?.row.member_mut(&user)?);
    Some(moved.seen)
}

/// Tells the reader's devices, and if `seen` every other member, how far a member is now.
pub(super) fn announce_receipt(
    entities: &mut Entities,
    turn: &mut Turn,
    (conversation, user): (ConversationId, UserId),
    seen: bool,
) {
    if conversation.is_group() {
        return group::announce_receipt(entities, turn, (conversation, user), seen);
    }
    let entity = entities.conversation(conversation, turn.position);
    let Some(open) = entity.get() else { return };
    let Some(member) = open.row.member(&user) else {
        return;
    };
    if seen && member.read == member.shown_read {
        let receipt = position_of(conversation, member, member.read);
        return turn.receipt(&receipt, Audience::Users(&open.audience));
    }
    let own = [(turn.shards.of_user(&user), vec![user])];
    let receipt = position_of(conversation, member, member.read);
    turn.receipt(&receipt, Audience::Users(&own));
    if seen {
        let receipt = position_of(conversation, member, member.shown_read);
        let others = without(&open.audience, &user);
        turn.receipt(&receipt, Audience::Users(&others));
    }
}

/// How far a member is, with this much of what was read.
pub(super) fn position_of(
    conversation: ConversationId,
    member: &Member,
    read: Option<Seq>,
) -> Receipt {
    Receipt {
        conversation,
        user: member.user,
        delivered: member.delivered,
        read,
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
