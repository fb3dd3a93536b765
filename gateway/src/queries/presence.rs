//! What may be told of who is here and who types: the store's part of it.

use std::sync::Arc;

use quipu_core::row::{Conversation, EntityKey, Presence, Seat, Settings};
use quipu_core::watch::{Facts, WatcherId};
use quipu_protocol::id::{ConversationId, UserId};
use quipu_protocol::limits::{GROUP_MEMBERS_MAX, TYPING_FAN_OUT_MAX};
use quipu_protocol::query::{Answer, PresenceEntry};

use super::groups;
use crate::access::{Access, access};
use crate::ephemeral::Watching;
use crate::store::{Store, StoreError};

/// What a user has decided about others.
pub(super) fn settings(store: &dyn Store, user: &UserId) -> Result<Settings, StoreError> {
    let row = store.entities(&[EntityKey::Settings(*user)])?.pop();
    let row = row.flatten().map(|row| Settings::decode(&row));
    Ok(row.transpose()?.unwrap_or_default())
}

/// Says who is here, and watches these users from now on if that is wanted.
pub(super) fn answer(
    store: &dyn Store,
    watching: &Watching,
    users: &[UserId],
    watch: bool,
) -> Result<Answer, StoreError> {
    // Watched before the store is read: what changes meanwhile is not missed.
    let id = match watch {
        true => watching.begin(users),
        false => watching.nobody(),
    };
    let entries = of(store, watching, id, users)?;
    let tells = |entry: &PresenceEntry| entry.here || entry.seen_at.is_some();
    Ok(Answer::Presence(
        entries.into_iter().filter(tells).collect(),
    ))
}

/// How things are with each of these users, for a session that watches them as `id` or does not.
pub(super) fn of(
    store: &dyn Store,
    watching: &Watching,
    id: WatcherId,
    users: &[UserId],
) -> Result<Vec<PresenceEntry>, StoreError> {
    let me = watching.user();
    let own = settings(store, &me)?;
    let direct = |user| EntityKey::Conversation(ConversationId::direct(&me, user));
    let keys: Vec<EntityKey> = users.iter().map(direct).collect();
    let mut shared = Vec::new();
    for (user, row) in users.iter().zip(store.entities(&keys)?) {
        let row = row.map(|row| Conversation::decode(&row)).transpose()?;
        if *user != me && row.is_some_and(|row| !row.unopened && row.member(&me).is_some()) {
            shared.push(*user);
        } else {
            watching.leave_out(user, id);
        }
    }
    let keys: Vec<EntityKey> = shared
        .iter()
        .flat_map(|user| [EntityKey::Settings(*user), EntityKey::Presence(*user)])
        .collect();
    let rows = store.entities(&keys)?;
    let mut entries = Vec::with_capacity(shared.len());
    for (user, rows) in shared.iter().zip(rows.chunks(2)) {
        let row = |at: usize| rows.get(at).and_then(Option::as_ref);
        let theirs = row(0).map(|row| Settings::decode(row)).transpose()?;
        let theirs = theirs.unwrap_or_default();
        let seen = row(1).map(|row| Presence::decode(row)).transpose()?;
        let facts = Facts {
            privacy: theirs.privacy,
            blocks: theirs.blocks(&me),
            last_seen: seen.and_then(|seen| seen.last_seen()),
            asker: own.privacy,
            asker_blocks: own.blocks(user),
        };
        entries.push(watching.learn(*user, id, &facts));
    }
    Ok(entries)
}

/// Who is told that a user types in a conversation; `None`: nobody, whatever the user says.
pub(super) fn typing_to(
    store: &dyn Store,
    user: &UserId,
    id: &ConversationId,
) -> Result<Option<Arc<[UserId]>>, StoreError> {
    let Access::Member(member) = access(store, user, id)? else {
        return Ok(None);
    };
    let conversation = member.conversation;
    let Some(group) = &conversation.group else {
        if conversation.members.iter().any(|member| member.blocks) {
            return Ok(None);
        }
        let others = conversation.members.iter().map(|member| member.user);
        return Ok(Some(others.filter(|other| other != user).collect()));
    };
    if group.pulled.is_some() || group.members() > TYPING_FAN_OUT_MAX {
        return Ok(None);
    }
    // Those who are invited stand among them.
    let others = groups::seated(store, id, None, GROUP_MEMBERS_MAX)?.into_iter();
    let others = others.filter(|(other, seat)| matches!(seat, Seat::In(_)) && other != user);
    Ok(Some(others.map(|(other, _)| other).collect()))
}
