//! What was changed in a pulled group since a number, to members who may see it.

use std::collections::BTreeMap;

use quipu_core::row::{Conversation, IndexKey, IndexRange, NumberedChange};
use quipu_protocol::event::{Message, Rejection};
use quipu_protocol::id::{ChangeNumber, ConversationId, Seq, UserId};
use quipu_protocol::limits::{
    CHANGES_KEPT_MAX, CHANGES_PAGE_MAX, CONTENT_BYTES_MAX, EMOJI_BYTES_MAX, HISTORY_PAGE_BYTES_MAX,
    MESSAGE_OVERHEAD_BYTES_MAX, REACTIONS_MAX, REQUEST_FRAME_BYTES_MAX, USER_ID_BYTES_MAX,
};
use quipu_protocol::query::{Answer, ChangedMessage, Changes};

use super::visible;
use crate::access::access;
use crate::store::{HistoryRange, Store, StoreError};

/// What a reaction takes in a frame at most.
const REACTION_BYTES_MAX: usize = USER_ID_BYTES_MAX + EMOJI_BYTES_MAX + 8;

// A page ends with the message that passes its bytes, and fits its frame with it.
const _: () = assert!(
    HISTORY_PAGE_BYTES_MAX
        + CONTENT_BYTES_MAX
        + REACTIONS_MAX * REACTION_BYTES_MAX
        + CHANGES_PAGE_MAX * 2 * MESSAGE_OVERHEAD_BYTES_MAX
        <= REQUEST_FRAME_BYTES_MAX
);

/// The last change of a conversation; before the first one if it is not a pulled group.
pub(super) fn last(row: &Conversation) -> ChangeNumber {
    let group = row.group.as_deref();
    group.map_or(ChangeNumber::START, |group| group.changes)
}

/// The messages that were changed after a number, as they are now, from at most so many changes.
pub(super) fn answer(
    store: &dyn Store,
    user: &UserId,
    id: &ConversationId,
    (after, limit): (ChangeNumber, usize),
) -> Result<Result<Answer, Rejection>, StoreError> {
    let member = match access(store, user, id)?.member() {
        Ok(member) => member,
        Err(refused) => return Ok(Err(refused)),
    };
    let last = last(&member.conversation);
    let page = match kept(store, id, (after, last))? {
        Some(kept) => page(store, (id, member.first), (after, limit), &kept)?,
        None => Changes {
            messages: Vec::new(),
            through: last,
            more: false,
            too_old: true,
        },
    };
    Ok(Ok(Answer::Changes(Box::new(page))))
}

/// The changes after a number, the last one and perhaps some that came meanwhile, in order. `None`: not all of them are kept, or
/// it is a number that the group has not come to.
fn kept(
    store: &dyn Store,
    id: &ConversationId,
    (after, last): (ChangeNumber, ChangeNumber),
) -> Result<Option<Vec<NumberedChange>>, StoreError> {
    if after >= last {
        return Ok((after == last).then(Vec::new));
    }
    let rows = store.index(&IndexRange::Changes(*id, after), CHANGES_KEPT_MAX)?;
    let (mut next, mut kept) = (after.next(), Vec::with_capacity(rows.len()));
    for (key, value) in rows {
        if key != IndexKey::Changed(*id, next) {
            break;
        }
        kept.push(NumberedChange::decode(&value)?);
        next = next.next();
    }
    Ok((next > last).then_some(kept))
}

fn page(
    store: &dyn Store,
    (id, first): (&ConversationId, Seq),
    (after, limit): (ChangeNumber, usize),
    kept: &[NumberedChange],
) -> Result<Changes, StoreError> {
    // What a message says now may be the work of a change that is not on this page.
    let latest: BTreeMap<Seq, &NumberedChange> = kept.iter().map(|one| (one.seq, one)).collect();
    let (mut through, mut bytes) = (after, 0);
    let mut seen = BTreeMap::new();
    let mut messages = Vec::new();
    for change in kept.iter().take(limit) {
        if bytes > HISTORY_PAGE_BYTES_MAX {
            break;
        }
        through = through.next();
        let is_first = seen.insert(change.seq, ()).is_none();
        if !is_first || change.seq < first {
            continue;
        }
        let range = HistoryRange {
            first: change.seq,
            last: Some(change.seq),
            ..HistoryRange::ALL
        };
        let found = visible::messages(store, id, range)?.pop();
        if let (Some(message), Some(latest)) = (found, latest.get(&change.seq)) {
            bytes += bytes_of(&message);
            messages.push(ChangedMessage {
                message,
                by: latest.by,
                at: latest.at,
            });
        }
    }
    let covered = through.0 - after.0;
    Ok(Changes {
        messages,
        through,
        more: covered < kept.len() as u64,
        too_old: false,
    })
}

/// What a message takes in the answer, but for names and numbers.
fn bytes_of(message: &Message) -> usize {
    let reactions = message
        .state
        .as_deref()
        .map_or(0, |state| state.reactions.len());
    message.content.bytes() + reactions * REACTION_BYTES_MAX
}
