//! What a member sees of a group: its entry in the list of conversations, and who is in it.

use quipu_core::row::{Conversation, EntityKey, Group, News, Place, Roster, RosterEntry};
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

/// A page of the members and invited users of a group, by name: those on all shards, put together.
pub(super) fn members(
    store: &dyn Store,
    shards: ShardCount,
    user: &UserId,
    id: &ConversationId,
    (after, limit): (Option<UserId>, usize),
) -> Result<Result<Answer, Rejection>, StoreError> {
    let member = match access(store, user, id)?.member() {
        Ok(member) => member,
        Err(refused) => return Ok(Err(refused)),
    };
    let mut found = match member.conversation.group {
        Some(_) => roster(store, shards, id, after)?,
        // Of a direct one the members are no secret to each other.
        None => {
            let members = member.conversation.members.iter();
            let members = members.map(|member| (member.user, Place::Member(Role::Member)));
            members
                .filter(|(user, _)| after.is_none_or(|after| *user > after))
                .collect()
        }
    };
    found.sort_unstable_by_key(|(user, _)| *user);
    let more = found.len() > limit;
    found.truncate(limit);
    let members = found.into_iter().map(|(user, place)| match place {
        Place::Member(role) => MemberEntry {
            user,
            role,
            invited: false,
        },
        Place::Invited | Place::Untold => MemberEntry {
            user,
            role: Role::Member,
            invited: true,
        },
    });
    let members = members.collect();
    Ok(Ok(Answer::Members { members, more }))
}

/// Whoever in the rosters of a group comes after this user.
pub(super) fn roster(
    store: &dyn Store,
    shards: ShardCount,
    id: &ConversationId,
    after: Option<UserId>,
) -> Result<Vec<(UserId, Place)>, StoreError> {
    let keys: Vec<EntityKey> = shards.iter().map(|of| EntityKey::Roster(*id, of)).collect();
    let mut found = Vec::new();
    for row in store.entities(&keys)?.into_iter().flatten() {
        let roster = Roster::decode(&row)?;
        let entries = roster.entries.into_iter();
        let entries = entries.filter(|entry| after.is_none_or(|after| entry.user > after));
        found.extend(entries.map(|RosterEntry { user, place }| (user, place)));
    }
    Ok(found)
}
