//! Whether a conversation's shard has committed what the reader's own shard was told of it.
//!
//! What a conversation's shard sends to a user's is durable before it commits its own rows. So a user can have an event, or an
//! answer, that the conversation does not show yet; after a crash just then, for as long as the shard has no owner. The user's shard
//! knows how far it was told (the marks of its row), and the other shard's row says how far it has come.

use std::collections::BTreeMap;
use std::time::Duration;

use quipu_core::record::Position;
use quipu_core::shard::{ShardCount, ShardId, ShardState};
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::Rejection;
use quipu_protocol::id::{ConversationId, UserId};

use crate::store::{Store, StoreError};

/// How long a read waits for a shard that is behind. Usually it is the moment between two threads.
pub const BEHIND_WAIT_MAX: Duration = Duration::from_secs(2);
/// The first pause before the shard is looked at again; each is twice as long as the one before.
pub(super) const BEHIND_PAUSE_MIN: Duration = Duration::from_millis(1);
/// Longest such pause.
pub(super) const BEHIND_PAUSE_MAX: Duration = Duration::from_millis(100);

/// The answer to a read that has waited long enough.
pub(super) fn refusal() -> Rejection {
    Rejection {
        retry_after_ms: 500,
        ..Rejection::new(
            RejectCode::Busy,
            "a conversation is still being brought up to date; ask again",
        )
    }
}

/// What the shard of one user was told by the others. To be read before anything that it may be about.
pub(super) struct Told {
    shards: ShardCount,
    own: ShardId,
    marks: BTreeMap<ShardId, Position>,
}

impl Told {
    pub(super) fn read(
        store: &dyn Store,
        shards: ShardCount,
        user: &UserId,
    ) -> Result<Self, StoreError> {
        let own = shards.of_user(user);
        let state = restore(store, shards, own)?;
        let marks = state.marks().map(|mark| (mark.shard, mark.position));
        Ok(Self {
            shards,
            own,
            marks: marks.collect(),
        })
    }

    /// Whether one of these conversations does not show yet what the user may have been told of it.
    pub(super) fn is_ahead_of(
        &self,
        store: &dyn Store,
        conversations: impl IntoIterator<Item = ConversationId>,
    ) -> Result<bool, StoreError> {
        let mut waited_for = BTreeMap::new();
        for conversation in conversations {
            let shard = self.shards.of_conversation(&conversation);
            if let Some(told) = self.marks.get(&shard).filter(|_| shard != self.own) {
                waited_for.insert(shard, *told);
            }
        }
        for (shard, told) in waited_for {
            if restore(store, self.shards, shard)?.applied() < told {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn restore(
    store: &dyn Store,
    shards: ShardCount,
    shard: ShardId,
) -> Result<ShardState, StoreError> {
    let row = store.shard(shard)?;
    Ok(ShardState::restore(shard, shards, row.as_deref())?)
}
