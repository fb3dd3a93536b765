//! Decisions about groups: who is in them, what they are called, what is said in them.

use bytes::Bytes;
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{EventBody, Invitation, NewGroup, Note, Outcome, Role};
use quipu_protocol::id::{ChangeNumber, ConversationId, Seq, UserId};
use quipu_protocol::limits::{GROUP_MEMBERS_MAX, RECEIPT_FAN_OUT_MAX};

use super::change::Asked;
use super::conversation::{
    Moved, Positions, Send, answer_again, next_message, opened, position_of, remember, rights,
    sender, unknown_conversation, write_note,
};
use super::entities::{Audience, Entities, OpenConversation};
use super::message::refused;
use super::turn::{Turn, rejected};
use crate::dedup::Sent;
use crate::record::{Command, Standing};
use crate::row::{Conversation, Group, IndexKey, Membership, Seat};

// ---------------------------------------------------------------- the group itself

/// Makes a group with the user as its owner. The same user may say it again.
pub(super) fn create(
    entities: &mut Entities,
    turn: &mut Turn,
    asked: Asked,
    new: &NewGroup,
) -> Outcome {
    let (id, command) = (new.conversation, asked.command);
    let mut entity = entities.conversation(id, turn.position);
    if let Some(open) = entity.get() {
        return match &open.row.group {
            Some(group) if group.creator == command.user => opened(id, open.row.head),
            Some(_) | None => rejected(
                RejectCode::Conflict,
                "this id belongs to a group of somebody else; draw another one",
            ),
        };
    }
    let group = Group {
        title: new.title.clone(),
        topic: new.topic.clone(),
        open: new.open,
        history_from_start: new.history_from_start,
        pulled: None,
        changes: ChangeNumber::START,
        fan_out_max: asked.fan_out_max,
        creator: command.user,
        owner: command.user,
        invited: 0,
        shards: Vec::new(),
    };
    let row = Conversation::of_group(group, turn.time);
    entity.put(OpenConversation::new(row, turn.shards));
    let note = Note::Created(new.title.clone());
    enter(entities, turn, command, id, Role::Owner, note);
    invite_all(entities, turn, command, id, &new.invite);
    opened_at_head(entities, turn, id)
}

/// Gives a group another title or topic; to the one that it has, nothing changes.
pub(super) fn set(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    id: ConversationId,
    (title, topic): (Option<&str>, Option<&str>),
) -> Outcome {
    if let Err(refused) = at_least(Role::Admin, entities, turn, command, id) {
        return refused;
    }
    let mut notes = Vec::new();
    change(entities, turn, id, |group| {
        if let Some(title) = title.filter(|title| *title != group.title) {
            title.clone_into(&mut group.title);
            notes.push(Note::Title(title.to_owned()));
        }
        if let Some(topic) = topic.filter(|topic| *topic != group.topic) {
            topic.clone_into(&mut group.topic);
            notes.push(Note::Topic(topic.to_owned()));
        }
    });
    for note in notes {
        write_note(entities, turn, command, id, note);
    }
    Outcome::Done
}

/// The rights of who gave a command, if they suffice.
fn at_least(
    role: Role,
    entities: &mut Entities,
    turn: &Turn,
    command: &Command,
    id: ConversationId,
) -> Result<Role, Outcome> {
    let has = rights(entities, turn, id, command.user)?.role;
    match has >= role {
        true => Ok(has),
        false => Err(forbidden("your role in this group does not allow that")),
    }
}

fn forbidden(why: &str) -> Outcome {
    rejected(RejectCode::Forbidden, why)
}

/// The answer to a user who was a member, or is invited: that the group exists is no news to them.
pub(super) fn not_a_member(row: &Membership) -> Outcome {
    match (row.seat, row.joined) {
        (Seat::Invited(_), _) => rejected(
            RejectCode::NotAMember,
            "you are invited to this group; join it first",
        ),
        (Seat::Out, Some(_)) => rejected(
            RejectCode::NotAMember,
            "you are not a member of this group any more",
        ),
        (Seat::Out, None) | (Seat::In(_), _) => unknown_conversation(),
    }
}

/// Changes the group's part of a conversation's row.
fn change<T>(
    entities: &mut Entities,
    turn: &Turn,
    id: ConversationId,
    how: impl FnOnce(&mut Group) -> T,
) -> Option<T> {
    let mut conversation = entities.conversation(id, turn.position);
    let open = conversation.change()?;
    open.row.group.as_deref_mut().map(how)
}

fn opened_at_head(entities: &mut Entities, turn: &Turn, id: ConversationId) -> Outcome {
    let conversation = entities.conversation(id, turn.position);
    opened(id, conversation.get().and_then(|open| open.row.head))
}

/// What a group keeps of a user now.
fn seat_of(entities: &mut Entities, turn: &Turn, id: ConversationId, user: UserId) -> Option<Seat> {
    let member = entities.member(id, user, turn.position);
    member.get().and_then(seat_in)
}

/// What a row says of its user's place; `None`: as if there were no row.
fn seat_in(row: &Membership) -> Option<Seat> {
    row.was_there().then_some(row.seat)
}

/// Gives a user another seat, counts it, and tells the user's shard.
fn seat(
    entities: &mut Entities,
    turn: &mut Turn,
    id: ConversationId,
    user: UserId,
    to: Seat,
    standing: Standing,
) {
    let shard = turn.shards.of_user(&user);
    let was = seat_of(entities, turn, id, user);
    change(entities, turn, id, |group| {
        match was {
            Some(Seat::In(_)) => group.leave(shard),
            Some(Seat::Invited(_)) => group.invited -= 1,
            Some(Seat::Out) | None => {}
        }
        match to {
            Seat::In(role) => {
                group.enter(shard);
                if role == Role::Owner {
                    group.owner = user;
                }
            }
            Seat::Invited(_) => group.invited += 1,
            Seat::Out => {}
        }
    });
    let mut member = entities.member(id, user, turn.position);
    match member.change() {
        Some(row) => row.seat = to,
        None => member.put(Membership::new(user, to)),
    }
    let is_there = to != Seat::Out;
    if is_there == matches!(was, Some(Seat::Out) | None) {
        turn.index(IndexKey::Seated(id, user), is_there.then(Bytes::new));
    }
    turn.standing(id, user, standing);
}

// ---------------------------------------------------------------- coming and going

/// Puts an invitation into the inbox of each of these users who is not in the group and not invited yet.
pub(super) fn invite(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    id: ConversationId,
    users: &[UserId],
) -> Outcome {
    if let Err(refused) = at_least(Role::Admin, entities, turn, command, id) {
        return refused;
    }
    let new = users.iter().filter(|user| {
        let seat = seat_of(entities, turn, id, **user);
        matches!(seat, Some(Seat::Out) | None)
    });
    let new: Vec<UserId> = new.copied().collect();
    if let Some(refused) = no_room(entities, turn, id, new.len()) {
        return refused;
    }
    invite_all(entities, turn, command, id, &new);
    Outcome::Done
}

/// Invites users who may be members already or invited; those are left out.
fn invite_all(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    id: ConversationId,
    users: &[UserId],
) {
    for user in users {
        match seat_of(entities, turn, id, *user) {
            Some(Seat::In(_) | Seat::Invited(_)) => continue,
            Some(Seat::Out) | None => {}
        }
        let Some(title) = change(entities, turn, id, |group| group.title.clone()) else {
            return;
        };
        let invitation = Invitation {
            conversation: id,
            by: command.user,
            title,
            at: turn.time,
        };
        let standing = Standing::Invited(Box::new(invitation));
        seat(
            entities,
            turn,
            id,
            *user,
            Seat::Invited(command.user),
            standing,
        );
        write_note(entities, turn, command, id, Note::Invited(*user));
    }
}

/// The answer when so many more do not fit into the group.
fn no_room(
    entities: &mut Entities,
    turn: &Turn,
    id: ConversationId,
    more: usize,
) -> Option<Outcome> {
    let conversation = entities.conversation(id, turn.position);
    let group = conversation.get()?.row.group.as_deref()?;
    let there = group.members() + group.invited as usize;
    (there + more > GROUP_MEMBERS_MAX).then(|| {
        rejected(
            RejectCode::TooMany,
            "the group would have more members and invited users than it may",
        )
    })
}

/// Makes the user a member of a group that is open, or that has invited the user.
pub(super) fn join(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    id: ConversationId,
) -> Outcome {
    let (conversation, member) = entities.seated(id, command.user, turn.position);
    let row = conversation.get().map(|open| &open.row);
    let Some(group) = row.and_then(|row| row.group.as_deref()) else {
        return unknown_conversation();
    };
    let (open, over) = (group.open, group.members() == 0);
    match member.get() {
        Some(row) if row.role().is_some() => {
            let head = conversation.get().and_then(|open| open.row.head);
            return opened(id, head);
        }
        // Nobody is left who could give it an owner.
        Some(_) | None if over => return unknown_conversation(),
        Some(row) if matches!(row.seat, Seat::Invited(_)) => {}
        Some(row) if !open => return not_a_member(row),
        None if !open => return unknown_conversation(),
        Some(_) | None => {
            if let Some(refused) = no_room(entities, turn, id, 1) {
                return refused;
            }
        }
    }
    enter(entities, turn, command, id, Role::Member, Note::Joined);
    opened_at_head(entities, turn, id)
}

/// Makes who gave the command a member, with the note that says so. The group becomes pulled when it is too large now; of one that is
/// pulled the note is an event for who enters, whose other devices may be away.
fn enter(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    id: ConversationId,
    role: Role,
    note: Note,
) {
    let user = command.user;
    let conversation = entities.conversation(id, turn.position);
    let Some((row, group)) = conversation
        .get()
        .and_then(|open| Some((&open.row, open.row.group.as_deref()?)))
    else {
        return;
    };
    let (pulled, joined) = (
        group.pulled.is_some(),
        row.head.map_or(Seq::FIRST, Seq::next),
    );
    let first = match group.history_from_start {
        true => Seq::FIRST,
        false => joined,
    };
    let (to, standing) = (Seat::In(role), Standing::In { role, first });
    if !pulled {
        seat(entities, turn, id, user, to, standing.clone());
    }
    let Some(message) = write_note(entities, turn, command, id, note) else {
        return;
    };
    if pulled {
        // Behind the note, which goes as a notice to the others only.
        seat(entities, turn, id, user, to, standing);
        turn.tell_one(user, EventBody::Message(message.clone()));
    }
    if let Some(row) = entities.member(id, user, turn.position).change() {
        row.joined = Some(message.seq);
    }
    let grown = change(entities, turn, id, |group| {
        group.pulled.is_none() && group.members() > group.fan_out_max as usize
    });
    if grown == Some(true)
        // The last event of the group in every inbox, so that nobody waits for more there.
        && let Some(message) = write_note(entities, turn, command, id, Note::Pulled)
    {
        change(entities, turn, id, |group| group.pulled = Some(message.seq));
    }
}

/// Ends the user's membership, or declines an invitation.
pub(super) fn leave(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    id: ConversationId,
) -> Outcome {
    let (conversation, member) = entities.seated(id, command.user, turn.position);
    let row = conversation.get().map(|open| &open.row);
    let Some(group) = row.and_then(|row| row.group.as_deref()) else {
        return unknown_conversation();
    };
    match member.get().and_then(seat_in) {
        None => return unknown_conversation(),
        // As after the first time.
        Some(Seat::Out) => return Outcome::Done,
        Some(Seat::In(Role::Owner)) if group.members() > 1 => {
            return forbidden("make somebody else the owner first");
        }
        Some(Seat::In(_) | Seat::Invited(_)) => {}
    }
    part(entities, turn, command, id, command.user, Note::Left);
    Outcome::Done
}

/// Takes a member out, or an invitation back.
pub(super) fn remove(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    id: ConversationId,
    user: UserId,
) -> Outcome {
    let role = match at_least(Role::Admin, entities, turn, command, id) {
        Ok(role) => role,
        Err(refused) => return refused,
    };
    match seat_of(entities, turn, id, user) {
        None => return not_in_it(),
        // As after the first time.
        Some(Seat::Out) => return Outcome::Done,
        Some(Seat::In(theirs)) if theirs >= role => {
            return forbidden("only members with a lower role than yours can be removed");
        }
        Some(Seat::In(_) | Seat::Invited(_)) => {}
    }
    part(entities, turn, command, id, user, Note::Removed(user));
    Outcome::Done
}

fn not_in_it() -> Outcome {
    rejected(RejectCode::UnknownUser, "no such user is in this group")
}

/// Takes a user out of a group, with the note that says so, which is the last that the user gets of it.
fn part(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    id: ConversationId,
    user: UserId,
    note: Note,
) {
    let was = seat_of(entities, turn, id, user);
    seat(entities, turn, id, user, Seat::Out, Standing::Out);
    let Some(message) = write_note(entities, turn, command, id, note) else {
        return;
    };
    if let Some(row) = entities.member(id, user, turn.position).change() {
        match was {
            Some(Seat::Invited(_)) => row.declined = Some(message.seq),
            Some(Seat::In(_) | Seat::Out) | None => row.left = Some(message.seq),
        }
    }
    turn.tell_one(user, EventBody::Message(message));
}

/// Gives a member a role.
pub(super) fn set_role(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    id: ConversationId,
    (user, role): (UserId, Role),
) -> Outcome {
    let asks = match rights(entities, turn, id, command.user) {
        Ok(rights) => rights.role,
        Err(refused) => return refused,
    };
    let has = match seat_of(entities, turn, id, user) {
        Some(Seat::In(has)) => has,
        Some(Seat::Out | Seat::Invited(_)) | None if asks == Role::Owner => return not_in_it(),
        Some(Seat::Out | Seat::Invited(_)) | None => return owner_only(),
    };
    // Who has given the group away asks again as an admin, and it is done.
    let given = role == Role::Owner && has == Role::Owner && asks == Role::Admin;
    if asks != Role::Owner && !given {
        return owner_only();
    }
    if has == role {
        return Outcome::Done;
    }
    if has == Role::Owner {
        return forbidden("make somebody else the owner instead");
    }
    if role == Role::Owner {
        let standing = standing_as(entities, turn, id, command.user, Role::Admin);
        seat(
            entities,
            turn,
            id,
            command.user,
            Seat::In(Role::Admin),
            standing,
        );
    }
    let standing = standing_as(entities, turn, id, user, role);
    seat(entities, turn, id, user, Seat::In(role), standing);
    write_note(entities, turn, command, id, Note::Role(user, role));
    Outcome::Done
}

/// A member's standing with another role.
fn standing_as(
    entities: &mut Entities,
    turn: &Turn,
    id: ConversationId,
    user: UserId,
    role: Role,
) -> Standing {
    let (conversation, member) = entities.seated(id, user, turn.position);
    let open = conversation.get();
    let group = open.and_then(|open| open.row.group.as_deref());
    let first = group.zip(member.get()).map(|(group, row)| row.first(group));
    Standing::In {
        role,
        first: first.unwrap_or(Seq::FIRST),
    }
}

fn owner_only() -> Outcome {
    forbidden("only the owner of a group gives roles")
}

// ---------------------------------------------------------------- messages and receipts

/// Gives a message its seq and tells every member. The answer, unless the message itself is it: it is not in the inboxes of
/// a pulled group.
pub(super) fn send(
    entities: &mut Entities,
    turn: &mut Turn,
    command: &Command,
    send: &Send,
) -> Option<Outcome> {
    let id = send.conversation;
    let (_, member) = entities.seated(id, command.user, turn.position);
    let known = member.get();
    // What was answered stays so, also when its sender has come or gone since and asks again.
    let again = known.and_then(|row| answer_again(&row.member, command.device, send.client_seq));
    if again.is_some() {
        return again;
    }
    let allowed = rights(entities, turn, id, command.user);
    let (mut conversation, mut member) = entities.seated(id, command.user, turn.position);
    // Nothing is remembered of a group that there is not.
    let Some(open) = conversation.get() else {
        return allowed.err();
    };
    let refusal = allowed.err();
    if let Some(refusal) = refusal.or_else(|| refused(&open.row, &command.user, send.content)) {
        if member.get().is_none() {
            member.put(Membership::new(command.user, Seat::Out));
        }
        let row = &mut member.change()?.member;
        remember(row, command.device, send.client_seq, &refusal);
        return Some(refusal);
    }
    let open = conversation.change()?;
    let message = next_message(&mut open.row, turn, command, send, None);
    let accepted = Sent::Accepted(message.seq);
    let row = &mut member.change()?.member;
    sender(row, command.device).remember(send.client_seq, accepted);
    let seq = message.seq;
    turn.message(message, open.audience(id));
    let pulled = open.row.group.as_ref()?.pulled.is_some();
    pulled.then_some(Outcome::Accepted(seq))
}

/// Moves a member's positions forward; as [`receipt`](super::conversation::receipt).
pub(super) fn receipt(
    entities: &mut Entities,
    turn: &Turn,
    (id, user): (ConversationId, UserId),
    said: Positions,
) -> Option<bool> {
    let (conversation, mut entity) = entities.seated(id, user, turn.position);
    let head: Option<Seq> = conversation.get()?.row.head;
    let row = entity.get()?;
    row.role()?;
    let moved = Moved::of(&row.member, head, said)?;
    moved.apply(&mut entity.change()?.member);
    Some(moved.seen)
}

/// Tells the reader's devices, and if `seen` every member of a group that is small enough, how far a member is now.
pub(super) fn announce_receipt(
    entities: &mut Entities,
    turn: &mut Turn,
    (id, user): (ConversationId, UserId),
    seen: bool,
) {
    let (conversation, entity) = entities.seated(id, user, turn.position);
    let (Some(open), Some(row)) = (conversation.get(), entity.get()) else {
        return;
    };
    let Some(group) = &open.row.group else { return };
    if row.role().is_none() {
        return;
    }
    let (read, shown) = (row.member.read, row.member.shown_read);
    let all = seen && group.pulled.is_none() && group.members() <= RECEIPT_FAN_OUT_MAX;
    if all {
        let receipt = position_of(id, &row.member, shown);
        turn.receipt(&receipt, open.audience(id));
    }
    // Behind what everybody gets: positions only grow, so the reader's devices keep the higher one.
    if !all || read != shown {
        let own = [(turn.shards.of_user(&user), vec![user])];
        let receipt = position_of(id, &row.member, read);
        turn.receipt(&receipt, Audience::Users(&own));
    }
}
