//! Decisions of a user's shard about conversations: which of them a user is in, and whom a group's news goes to here.

use quipu_protocol::event::{EventBody, Invitation, Message, Notice};
use quipu_protocol::id::{ChangeNumber, ConversationId, UserId};
use quipu_protocol::limits::CONVERSATIONS_MAX;

use super::entities::{Entities, OpenRoster};
use super::turn::Turn;
use super::{ShardId, user};
use crate::record::Standing;
use crate::row::{EntityKey, News, Place};

/// Names the entities that a standing needs. Inbox and presence are among them in any case: whoever enters a roster in one record may
/// get a message in the next, before anybody could look for the members of the new roster.
pub(super) fn standing_needs(
    shard: ShardId,
    conversation: ConversationId,
    user: UserId,
    need: &mut impl FnMut(EntityKey),
) {
    need(EntityKey::Inbox(user));
    need(EntityKey::Presence(user));
    if conversation.is_group() {
        need(EntityKey::Roster(conversation, shard));
        need(EntityKey::Settings(user));
    }
}

/// Names the entities that a spread needs: the roster first, and when it is here, the inboxes of those in it; of a pulled group
/// the news that they get instead.
pub(super) fn spread_needs(
    entities: &Entities,
    shard: ShardId,
    (group, pulled): (ConversationId, bool),
    event: &EventBody,
    need: &mut impl FnMut(EntityKey),
) {
    if pulled {
        need(EntityKey::News(group, shard));
    }
    match entities.spread_to(&group) {
        None => need(EntityKey::Roster(group, shard)),
        Some(_) if pulled => {}
        Some(members) => members
            .iter()
            .for_each(|member| user::needs(*member, event, need)),
    }
}

/// Keeps what a user is to a conversation from now on, and tells an invited one.
pub(super) fn standing(
    entities: &mut Entities,
    turn: &mut Turn,
    conversation: ConversationId,
    user: UserId,
    standing: &Standing,
) {
    if turn.shards.of_user(&user) != turn.shard {
        turn.effects.dropped.misrouted += 1;
        return;
    }
    if !conversation.is_group() {
        // Sent once, when the conversation was made.
        return match standing {
            Standing::In { .. } => list(entities, turn, conversation, user, true),
            Standing::Out | Standing::Invited(_) => {}
        };
    }
    let place = match standing {
        Standing::Out => None,
        Standing::In { role, first } => Some(Place::Member {
            role: *role,
            first: *first,
        }),
        Standing::Invited(invitation) => Some(invited(entities, turn, user, invitation)),
    };
    let mut roster = entities.roster(conversation, turn.position);
    let was = roster.get().and_then(|(_, open)| open.place(&user));
    if roster.get().is_none() {
        roster.put((turn.shard, OpenRoster::default()));
    }
    if let Some((_, open)) = roster.change() {
        open.set(user, place);
    }
    let (was, is) = (
        was.is_some_and(Place::is_listed),
        place.is_some_and(Place::is_listed),
    );
    if was != is {
        list(entities, turn, conversation, user, is);
    }
    if let (Standing::Invited(invitation), Some(Place::Invited)) = (standing, place) {
        let event = EventBody::Invitation(invitation.clone());
        user::deliver(entities, turn, &[user], &event);
    }
}

/// Whether an invited user is told.
fn invited(entities: &mut Entities, turn: &Turn, user: UserId, invitation: &Invitation) -> Place {
    let settings = entities.settings(user, turn.position);
    let blocks = settings.get().is_some_and(|row| row.blocks(&invitation.by));
    let inbox = entities.inbox(user, turn.position);
    let listed = inbox.get().map_or(0, |inbox| inbox.listed);
    match blocks || listed as usize >= CONVERSATIONS_MAX {
        true => Place::Untold,
        false => Place::Invited,
    }
}

/// Puts a conversation into a user's list, or takes it out.
fn list(
    entities: &mut Entities,
    turn: &mut Turn,
    conversation: ConversationId,
    user: UserId,
    on: bool,
) {
    let mut entity = entities.inbox(user, turn.position);
    let Some(inbox) = entity.change() else {
        turn.effects.dropped.without_inbox += 1;
        return;
    };
    inbox.listed = match on {
        true => inbox.listed.saturating_add(1),
        false => inbox.listed.saturating_sub(1),
    };
    turn.listed(user, conversation, on);
}

/// Gives an event of a group to its members that live here. `pulled`: it is too large for inboxes, and this is its last change.
pub(super) fn spread(
    entities: &mut Entities,
    turn: &mut Turn,
    group: ConversationId,
    pulled: Option<ChangeNumber>,
    event: &EventBody,
) {
    let roster = entities.roster(group, turn.position);
    let Some((_, open)) = roster.get() else {
        return;
    };
    let members = match event {
        // What a message that they may not see says now is not for them either.
        EventBody::Changed(changed) => open.members_who_see(changed.seq),
        EventBody::Message(_) | EventBody::Receipt(_) | EventBody::Invitation(_) => {
            open.members().clone()
        }
    };
    let Some(changes) = pulled else {
        return user::deliver(entities, turn, &members, event);
    };
    let notice = match event {
        EventBody::Message(message) => Notice::Message(message.clone(), changes),
        // Logged before changes had a number.
        EventBody::Changed(_) if changes == ChangeNumber::START => Notice::Check,
        EventBody::Changed(changed) => Notice::Changed(changed.clone(), changes),
        // Nobody sends these to a pulled group.
        EventBody::Receipt(_) | EventBody::Invitation(_) => return,
    };
    if let Notice::Message(message, _) = &notice {
        tell(entities, turn, message);
    }
    turn.notice(group, members, notice);
}

/// Keeps how much of a group its members here were told of, with the commit that comes before they are: the group's own shard
/// may still have to commit the message, or die before it does.
fn tell(entities: &mut Entities, turn: &Turn, message: &Message) {
    let mut entity = entities.news(message.conversation, turn.position);
    if entity.get().is_none() {
        entity.put((turn.shard, News::default()));
    }
    if let Some((_, news)) = entity.change() {
        news.head = news.head.max(Some(message.seq));
    }
}
