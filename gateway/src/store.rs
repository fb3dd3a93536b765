//! The contract of the store: histories, inboxes, mutable entities and one row per shard.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use quipu_core::row::{CorruptRow, EntityKey, HistoryRow, InboxRow, IndexKey, IndexRange, Row};
use quipu_core::shard::ShardId;
use quipu_protocol::id::{ConversationId, Cursor, Seq, UserId};

pub mod fjall;
pub mod keys;
pub mod memory;
mod rows;
pub mod stats;
pub mod write_behind;

pub use fjall::FjallStore;
pub use memory::MemoryStore;
pub use write_behind::{WriteBehind, WriteBehindOptions};

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store has stopped, because a write failed or because it was closed. What was committed since the last `sync` may
    /// be gone at the next start, and the log replays it.
    #[error("the store is closed: {0}")]
    Closed(Arc<str>),
    /// The back end failed. Nothing may be assumed about a commit under way: the process must start again.
    #[error("the store failed: {0}")]
    Backend(Arc<str>),
    /// Stored bytes that are not what they should be. A human must act.
    #[error(transparent)]
    Corrupt(#[from] CorruptRow),
}

/// Which messages of a conversation, and how much of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryRange {
    /// Oldest seq wanted, inclusive.
    pub first: Seq,
    /// Newest seq wanted, inclusive; `None`: to the end.
    pub last: Option<Seq>,
    /// Most messages to return.
    pub limit: usize,
    /// Most body bytes to return (see [`body_bytes`]); one message always goes, however long.
    pub bytes: usize,
    /// Which end of the range `limit` and `bytes` count from.
    pub newest_first: bool,
}

impl HistoryRange {
    /// The whole conversation, without a limit; for tools and tests.
    pub const ALL: Self = Self {
        first: Seq::FIRST,
        last: None,
        limit: usize::MAX,
        bytes: usize::MAX,
        newest_first: false,
    };
}

/// The bytes of a message that [`HistoryRange::bytes`] counts: those of its body.
pub fn body_bytes(row: &HistoryRow) -> usize {
    let state = row.0.state.as_ref().map_or(0, |state| state.bytes());
    row.0.content.bytes() + state
}

/// What is certainly durable after a [`Store::sync`]: the shard rows, ascending by shard. Rows committed while it ran may or
/// may not be in it. The log may be trimmed below the positions that these rows state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Durable {
    /// Each shard's row, as [`Store::shard`] would give it.
    pub shards: Vec<(ShardId, Bytes)>,
}

/// Where processors keep what they have made of the log. `contract.rs` is the proof of what is written here.
///
/// Every method may block for a disk; callers are threads of their own, `spawn_blocking`, or for a row or two whoever counts how
/// long it waited (`in_place.rs`).
pub trait Store: Send + Sync + 'static {
    /// Writes rows, all or none; later ones win over earlier ones of the same key, and those that say so take one away. They are visible to every read when it
    /// returns, and durable after the next [`Store::sync`]. A crash before that may lose commits, but only from the end:
    /// what is left is what some prefix of the commits had made. May block while the store is behind with writing.
    fn commit(&self, rows: Vec<Row>) -> Result<(), StoreError>;

    /// The entities under these keys, in their order; `None` for those that do not exist. The value of a message is that of
    /// its history row.
    fn entities(&self, keys: &[EntityKey]) -> Result<Vec<Option<Bytes>>, StoreError>;

    /// The row of a shard, if it has one.
    fn shard(&self, shard: ShardId) -> Result<Option<Bytes>, StoreError>;

    /// Messages of a conversation, always in ascending order of seq.
    fn history(
        &self,
        conversation: &ConversationId,
        range: HistoryRange,
    ) -> Result<Vec<HistoryRow>, StoreError>;

    /// At most `limit` entries of a user's inbox that come after the cursor, ascending. While somebody trims the inbox, some that
    /// are being trimmed may be missing between others.
    fn inbox(
        &self,
        user: &UserId,
        after: Cursor,
        limit: usize,
    ) -> Result<Vec<InboxRow>, StoreError>;

    /// At most `limit` rows of a range of the index, ascending by encoded key.
    fn index(&self, range: &IndexRange, limit: usize)
    -> Result<Vec<(IndexKey, Bytes)>, StoreError>;

    /// Makes everything committed before the call durable, and says which shard rows certainly are.
    fn sync(&self) -> Result<Durable, StoreError>;

    /// Visits every row: shards, entities, histories, inboxes, index, each ascending by key, until `visit` breaks. A consistent
    /// picture only while nothing is committed. `visit` may read from the store.
    fn scan(&self, visit: &mut dyn FnMut(Row) -> ControlFlow<()>) -> Result<(), StoreError>;
}
