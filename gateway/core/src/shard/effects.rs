//! What applying records asks of the shell.

use std::sync::Arc;

use quipu_protocol::event::{Event, Notice, Reply};
use quipu_protocol::id::{DeviceId, TimestampMs, UserId};

use super::ShardId;
use crate::record::Entry;
use crate::row::{Row, Settings};

/// What follows from applied records. The shell appends `outgoing` and waits until it is durable, commits `rows` together
/// with what [`drain_dirty`](super::ShardState::drain_dirty) gives, then performs `actions`.
///
/// Its size is bounded by the turn that filled it. An entry makes at most one history row, and an outgoing entry for each
/// shard, or an inbox row, an action and at most [`TRIM_ROWS_MAX`](crate::retention::TRIM_ROWS_MAX) trimmed rows for each member
/// of a pushed group that lives here; an invitation of several users does so for each of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Entries for the logs of other shards, or of this one, numbered; those for one shard are to be appended in this order.
    pub outgoing: Vec<(ShardId, Entry)>,
    /// [`Row::History`], [`Row::Inbox`], [`Row::Index`] and [`Row::Trimmed`].
    pub rows: Vec<Row>,
    /// To be done after the commit. After a crash they may be done again, which receivers notice by their numbers.
    pub actions: Vec<Action>,
    /// What was not applied.
    pub dropped: Dropped,
}

/// Something that the shell does through the session registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Offer an event to the devices of a user that are connected here.
    Push {
        /// Whose devices.
        user: UserId,
        /// What; its row is committed.
        event: Event,
    },
    /// Offer news of a pulled group to the devices of these users that are connected here. Nothing of it is in their inboxes.
    Notice {
        /// Whose devices, ascending.
        users: Arc<[UserId]>,
        /// What.
        notice: Notice,
    },
    /// End the session of a device that its account has no longer, now and if it is just about to begin.
    Revoked {
        /// Whose device.
        user: UserId,
        /// Which.
        device: DeviceId,
    },
    /// A user has decided anew what others may learn, or who is blocked: from now on this holds.
    Settings {
        /// Whose.
        user: UserId,
        /// What.
        settings: Arc<Settings>,
    },
    /// Answer a device's command, if the device is connected here.
    Answer {
        /// Whose device.
        user: UserId,
        /// Which.
        device: DeviceId,
        /// What to tell it.
        reply: Reply,
    },
    /// What the offline topic says of a user has changed, or was reported to be done.
    Offline {
        /// Whose messages.
        user: UserId,
        /// Since when they wait; `None`: none does, or a session listens.
        since: Option<TimestampMs>,
    },
}

/// Counts of entries that were dropped, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Entries that came before from the same source: normal after a crash.
    pub repeats: u64,
    /// Entries that belong to another shard or name one that does not exist: a fault of whoever appended them.
    pub misrouted: u64,
    /// Events for a user without an account.
    pub without_inbox: u64,
}

impl Effects {
    /// Makes room for the next turn; keeps the memory.
    pub fn clear(&mut self) {
        self.outgoing.clear();
        self.rows.clear();
        self.actions.clear();
        self.dropped = Dropped::default();
    }
}
