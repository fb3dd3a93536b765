//! Answers what is not history: the user's conversations and devices, and what messages said before.

use std::cmp::Reverse;

use quipu_core::row::{
    Account, Conversation, EntityKey, IndexKey, IndexRange, OldContent, Presence, Settings,
};
use quipu_core::shard::ShardCount;
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{Content, Message, Rejection};
use quipu_protocol::id::{ChangeNumber, ConversationId, DeviceId, Seq, TimestampMs, UserId};
use quipu_protocol::limits::{CONVERSATIONS_MAX, EDITS_MAX};
use quipu_protocol::query::{self, Answer, ConversationEntry, DeviceEntry, Query};

use super::behind::Told;
use super::{Asking, changes, groups, presence, visible};
use crate::access::access;
use crate::store::{HistoryRange, Store, StoreError};

/// Messages that are looked at to count the unread ones. Above it every seq counts.
const UNREAD_COUNTED_MAX: usize = 100;
/// Bytes of bodies that are read for the same.
const UNREAD_BYTES_MAX: usize = 64 * 1024;

/// Answers one query, or says why not; `None`: a conversation does not show yet what the user was told of it.
pub(super) fn answer(
    (store, shards): (&dyn Store, ShardCount),
    asking: &Asking,
    query: &Query,
) -> Result<Option<Result<Answer, Rejection>>, StoreError> {
    if waits((store, shards), &asking.user, query)? {
        return Ok(None);
    }
    answer_now((store, shards), asking, query).map(Some)
}

/// Whether a conversation does not show yet what the user was told of it.
pub(super) fn waits(
    (store, shards): (&dyn Store, ShardCount),
    user: &UserId,
    query: &Query,
) -> Result<bool, StoreError> {
    let told = || Told::read(store, shards, user);
    match query {
        Query::Conversations { .. } => {
            // The marks first: what the list is made of may grow meanwhile.
            let told = told()?;
            told.is_ahead_of(store, listed(store, user)?)
        }
        Query::Conversation(id)
        | Query::Members {
            conversation: id, ..
        }
        | Query::Versions(id, _)
        | Query::Changes {
            conversation: id, ..
        } => told()?.is_ahead_of(store, [*id]),
        // They are about no conversation.
        Query::Devices | Query::Settings | Query::Presence { .. } => Ok(false),
    }
}

fn answer_now(
    (store, shards): (&dyn Store, ShardCount),
    asking: &Asking,
    query: &Query,
) -> Result<Result<Answer, Rejection>, StoreError> {
    let user = &asking.user;
    match query {
        Query::Conversations { limit, after } => {
            conversations((store, shards), user, *limit as usize, *after).map(Ok)
        }
        Query::Conversation(conversation) => {
            let Some((id, row)) = read(store, &[*conversation])?.pop() else {
                return Ok(Err(unknown()));
            };
            let entry = entry((store, shards), user, id, &row)?;
            Ok(entry
                .map(|entry| Answer::Conversation(Box::new(entry)))
                .ok_or_else(unknown))
        }
        Query::Devices => devices(store, user, &asking.connected).map(Ok),
        Query::Settings => settings(store, user).map(Ok),
        Query::Members {
            conversation,
            after,
            limit,
        } => {
            let page = (*after, *limit as usize);
            groups::members(store, user, conversation, page)
        }
        Query::Versions(conversation, seq) => versions(store, user, conversation, *seq),
        Query::Changes {
            conversation,
            after,
            limit,
        } => changes::answer(store, user, conversation, (*after, *limit as usize)),
        Query::Presence { users, watch } => {
            presence::answer(store, &asking.watching, users, *watch).map(Ok)
        }
    }
}

/// To a stranger a conversation that is there looks like one that is not (QP-HISTORY-2).
fn unknown() -> Rejection {
    Rejection::new(
        RejectCode::UnknownConversation,
        "you have no such conversation",
    )
}

/// A page of the user's conversations. Their order changes with every message, so each page is cut out of all of them.
fn conversations(
    (store, shards): (&dyn Store, ShardCount),
    user: &UserId,
    limit: usize,
    after: Option<(TimestampMs, ConversationId)>,
) -> Result<Answer, StoreError> {
    let mut rows = read(store, &listed(store, user)?)?;
    let place = |activity: TimestampMs, id: ConversationId| Reverse((activity.0, id));
    rows.sort_unstable_by_key(|(id, row)| place(row.activity, *id));
    let behind = after.map(|(activity, id)| place(activity, id));
    let mut rest = rows
        .iter()
        .filter(|(id, row)| behind.is_none_or(|behind| place(row.activity, *id) > behind));
    let mut entries = Vec::new();
    for (id, row) in rest.by_ref() {
        entries.extend(entry((store, shards), user, *id, row)?);
        if entries.len() >= limit {
            break;
        }
    }
    Ok(Answer::Conversations {
        entries,
        more: rest.next().is_some(),
    })
}

/// What the user is in or invited to.
fn listed(store: &dyn Store, user: &UserId) -> Result<Vec<ConversationId>, StoreError> {
    let listed = store.index(&IndexRange::Listed(*user, None), CONVERSATIONS_MAX)?;
    let ids = listed.iter().filter_map(|(key, _)| {
        let IndexKey::Listed(_, conversation) = key else {
            return None;
        };
        Some(*conversation)
    });
    Ok(ids.collect())
}

fn read(
    store: &dyn Store,
    ids: &[ConversationId],
) -> Result<Vec<(ConversationId, Conversation)>, StoreError> {
    let keys: Vec<EntityKey> = ids.iter().map(|id| EntityKey::Conversation(*id)).collect();
    let rows = store.entities(&keys)?;
    let found = ids.iter().zip(rows);
    found
        .filter_map(|(id, row)| Some((*id, row?)))
        .map(|(id, row)| Ok((id, Conversation::decode(&row)?)))
        .collect()
}

/// What one user sees of a conversation; `None`: it is none of theirs.
fn entry(
    (store, shards): (&dyn Store, ShardCount),
    user: &UserId,
    id: ConversationId,
    row: &Conversation,
) -> Result<Option<ConversationEntry>, StoreError> {
    if id.is_group() {
        return groups::entry((store, shards), user, id);
    }
    let Some(me) = row.member(user).filter(|_| !row.unopened) else {
        return Ok(None);
    };
    let peer = row.members.iter().find(|member| member.user != *user);
    Ok(Some(ConversationEntry {
        conversation: id,
        peer: Some(peer.map_or(*user, |peer| peer.user)),
        group: None,
        head: row.head,
        first: Seq::FIRST,
        delivered: me.delivered,
        read: me.read,
        unread: unread(store, user, &id, me.read, row.head)?,
        last: last(store, &id, row.head)?,
        activity: row.activity,
        keep_ms: row.keep_ms,
        peer_delivered: peer.and_then(|peer| peer.delivered),
        peer_read: peer.and_then(|peer| peer.shown_read),
        blocked: me.blocks,
        changes: ChangeNumber::START,
    }))
}

/// Messages of others that the user has not read.
pub(super) fn unread(
    store: &dyn Store,
    user: &UserId,
    conversation: &ConversationId,
    read: Option<Seq>,
    head: Option<Seq>,
) -> Result<u64, StoreError> {
    let (read, head) = (read.map_or(0, Seq::get), head.map_or(0, Seq::get));
    let above = head.saturating_sub(read);
    if above == 0 || above > UNREAD_COUNTED_MAX as u64 {
        return Ok(above);
    }
    let range = HistoryRange {
        first: Seq::new(read + 1).unwrap_or(Seq::FIRST),
        last: Seq::new(head).ok(),
        limit: UNREAD_COUNTED_MAX,
        bytes: UNREAD_BYTES_MAX,
        newest_first: false,
    };
    let rows = visible::messages(store, conversation, range)?;
    let unseen = above - rows.len() as u64;
    let counts = |message: &Message| {
        message.from != *user && !matches!(message.content, Content::Note(_) | Content::Gone(_))
    };
    Ok(unseen + rows.iter().filter(|message| counts(message)).count() as u64)
}

/// The message at the head.
pub(super) fn last(
    store: &dyn Store,
    conversation: &ConversationId,
    head: Option<Seq>,
) -> Result<Option<Message>, StoreError> {
    let Some(head) = head else { return Ok(None) };
    let range = HistoryRange {
        first: head,
        last: Some(head),
        ..HistoryRange::ALL
    };
    Ok(visible::messages(store, conversation, range)?.pop())
}

/// What a message said before its edits, to who may read it.
fn versions(
    store: &dyn Store,
    user: &UserId,
    id: &ConversationId,
    seq: Seq,
) -> Result<Result<Answer, Rejection>, StoreError> {
    let member = match access(store, user, id)?.member() {
        Ok(member) => member,
        Err(refused) => return Ok(Err(refused)),
    };
    let range = HistoryRange {
        first: seq,
        last: Some(seq),
        ..HistoryRange::ALL
    };
    let message = visible::messages(store, id, range)?.pop();
    let there = message.is_some_and(|message| {
        seq >= member.first && !matches!(message.content, Content::Note(_) | Content::Gone(_))
    });
    if !there {
        let reason = "there is no such message, or it is gone";
        return Ok(Err(Rejection::new(RejectCode::UnknownMessage, reason)));
    }
    let rows = store.index(&IndexRange::Versions(*id, seq), EDITS_MAX)?;
    let versions = rows.iter().filter_map(|(key, value)| {
        let IndexKey::Version(_, _, edit) = key else {
            return None;
        };
        let content = OldContent::decode(value);
        Some(content.map(|OldContent(content)| (edit.saturating_sub(1), content)))
    });
    Ok(Ok(Answer::Versions(versions.collect::<Result<_, _>>()?)))
}

fn settings(store: &dyn Store, user: &UserId) -> Result<Answer, StoreError> {
    let Settings { privacy, blocked } = presence::settings(store, user)?;
    Ok(Answer::Settings(query::Settings { privacy, blocked }))
}

fn devices(store: &dyn Store, user: &UserId, connected: &[DeviceId]) -> Result<Answer, StoreError> {
    let rows = store.entities(&[EntityKey::Account(*user), EntityKey::Presence(*user)])?;
    let mut rows = rows.into_iter();
    let (account, seen) = (rows.next().flatten(), rows.next().flatten());
    let account = account.map(|row| Account::decode(&row)).transpose()?;
    let seen = seen.map(|row| Presence::decode(&row)).transpose()?;
    let seen = seen.unwrap_or_default();
    let devices = account.map_or_else(Vec::new, |account| account.devices);
    let devices = devices.into_iter().map(|device| DeviceEntry {
        device: device.id,
        label: device.label,
        added_at: device.added_at,
        seen_at: seen.device(device.id).map(|known| known.seen_at),
        connected: connected.contains(&device.id),
    });
    Ok(Answer::Devices(devices.collect()))
}
