//! What a member sees of a group: its entry in the list of conversations, and who is in it.

use quipu_core::row::{
    Conversation, EntityKey, Group, IndexKey, IndexRange, Membership, News, Seat,
};
use quipu_core::shard::ShardCount;
use quipu_protocol::event::{Rejection, Role};
use quipu_protocol::id::{ChangeNumber, ConversationId, Seq, UserId};
use quipu_protocol::query::{Answer, ConversationEntry, GroupInfo, MemberEntry};

use super::lists::{last, unread};
use crate::access::{Access, Member, access};
use crate::store::{Store, StoreError};

/// What a user sees of a group; `None`: it is none of theirs. Who is invited sees who asks and the title.
pub(super) fn entry(
    (store, shards): (&dyn Store, ShardCount),
    user: &UserId,
    id: ConversationId,
) -> Result<Option<ConversationEntry>, StoreError> {
    match access(store, user, &id)? {
        Access::Unknown | Access::Former => Ok(None),
        Access::Invited { conversation, by } => {
            let title = conversation.group.as_ref().map(|group| group.title.clone());
            let group = GroupInfo {
                title: title.unwrap_or_default(),
                topic: String::new(),
                role: None,
                invited_by: Some(by),
                members: 0,
                open: false,
                history_from_start: false,
                pulled: false,
            };
            Ok(Some(bare(id, &conversation, group)))
        }
        Access::Member(member) => {
            let Member {
                conversation: row,
                role,
                first,
                delivered,
                read,
            } = *member;
            let Some(group) = row.group.as_deref() else {
                return Ok(None);
            };
            let unseen = Seq::new(first.get() - 1).ok();
            let head = told_head(store, shards, user, &id, &row)?;
            Ok(Some(ConversationEntry {
                head,
                first,
                delivered,
                read,
                unread: unread(store, user, &id, read.max(unseen), head)?,
                last: last(store, &id, row.head)?,
                keep_ms: row.keep_ms,
                changes: group.changes,
                ..bare(id, &row, info(group, role))
            }))
        }
    }
}

/// The head of a conversation for one of its members: the last message that is in the history, or of a pulled group one above
/// it that devices of the user's shard were told of, which comes there in moments (QP-HISTORY-5).
pub(super) fn told_head(
    store: &dyn Store,
    shards: ShardCount,
    user: &UserId,
    id: &ConversationId,
    row: &Conversation,
) -> Result<Option<Seq>, StoreError> {
    let group = row.group.as_deref();
    if group.is_none_or(|group| group.pulled.is_none()) {
        return Ok(row.head);
    }
    let key = EntityKey::News(*id, shards.of_user(user));
    let news = store.entities(&[key])?.pop().flatten();
    let news = news.map(|value| News::decode(&value)).transpose()?;
    Ok(row.head.max(news.unwrap_or_default().head))
}

fn info(group: &Group, role: Role) -> GroupInfo {
    GroupInfo {
        title: group.title.clone(),
        topic: group.topic.clone(),
        role: Some(role),
        invited_by: None,
        members: u32::try_from(group.members()).unwrap_or(u32::MAX),
        open: group.open,
        history_from_start: group.history_from_start,
        pulled: group.pulled.is_some(),
    }
}

/// An entry that tells nothing of what was said.
fn bare(id: ConversationId, row: &Conversation, group: GroupInfo) -> ConversationEntry {
    ConversationEntry {
        conversation: id,
        peer: None,
        group: Some(group),
        head: None,
        first: Seq::FIRST,
        delivered: None,
        read: None,
        unread: 0,
        last: None,
        activity: row.activity,
        keep_ms: 0,
        peer_delivered: None,
        peer_read: None,
        blocked: false,
        changes: ChangeNumber::START,
    }
}

/// A page of the members and invited users of a group, by name. All of it is in the conversation's own shard: the rosters of the
/// others may not have yet what the reader was told.
pub(super) fn members(
    store: &dyn Store,
    user: &UserId,
    id: &ConversationId,
    (after, limit): (Option<UserId>, usize),
) -> Result<Result<Answer, Rejection>, StoreError> {
    let member = match access(store, user, id)?.member() {
        Ok(member) => member,
        Err(refused) => return Ok(Err(refused)),
    };
    let mut found = match member.conversation.group {
        Some(_) => seated(store, id, after, limit.saturating_add(1))?,
        // Of a direct one the members are no secret to each other.
        None => {
            let members = member.conversation.members.iter();
            let members = members.map(|member| (member.user, Seat::In(Role::Member)));
            members
                .filter(|(user, _)| after.is_none_or(|after| *user > after))
                .collect()
        }
    };
    let more = found.len() > limit;
    found.truncate(limit);
    let members = found.into_iter().filter_map(|(user, seat)| match seat {
        Seat::In(role) => Some(MemberEntry {
            user,
            role,
            invited: false,
        }),
        Seat::Invited(_) => Some(MemberEntry {
            user,
            role: Role::Member,
            invited: true,
        }),
        Seat::Out => None,
    });
    let members = members.collect();
    Ok(Ok(Answer::Members { members, more }))
}

/// Whoever is in a group or invited and comes after this user, by name; at most so many. One who leaves just now is out.
pub(super) fn seated(
    store: &dyn Store,
    id: &ConversationId,
    after: Option<UserId>,
    limit: usize,
) -> Result<Vec<(UserId, Seat)>, StoreError> {
    let rows = store.index(&IndexRange::Seated(*id, after), limit)?;
    let mut users = Vec::with_capacity(rows.len());
    for (key, _) in rows {
        if let IndexKey::Seated(_, user) = key {
            users.push(user);
        }
    }
    let keys: Vec<EntityKey> = users.iter().map(|u| EntityKey::Member(*id, *u)).collect();
    let mut found = Vec::with_capacity(users.len());
    for (user, row) in users.into_iter().zip(store.entities(&keys)?) {
        if let Some(row) = row {
            found.push((user, Membership::decode(user, &row)?.seat));
        }
    }
    Ok(found)
}
