//! The simulated log: appends under way, durable records, and what a crash leaves of both.

use std::collections::BTreeMap;

use bytes::Bytes;
use quipu_core::record::Position;
use quipu_core::shard::ShardId;
use quipu_protocol::id::TimestampMs;

/// Records of one append, in order.
pub(crate) type Batch = Vec<(ShardId, Bytes)>;

/// Who asked for an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Appender {
    Router,
    Processor(usize),
    /// Whoever looks for messages whose time is over.
    Sweeper,
    /// Whoever tells the shards what their inboxes keep.
    Keeper,
}

/// An append that is not durable yet.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) gateway: usize,
    pub(crate) life: u32,
    pub(crate) by: Appender,
    pub(crate) batch: Batch,
}

#[derive(Debug, Default)]
struct ShardLog {
    trimmed: u64,
    records: Vec<(TimestampMs, Bytes)>,
}

/// Every shard's log.
#[derive(Debug)]
pub(crate) struct Log {
    shards: Vec<ShardLog>,
    /// By number, which is also the order in which they become durable for each gateway.
    pub(crate) under_way: BTreeMap<u64, Append>,
    next: u64,
}

/// The record after the one asked for is gone.
#[derive(Debug)]
pub(crate) struct Trimmed;

impl Log {
    pub(crate) fn new(shards: u16) -> Self {
        Self {
            shards: (0..shards).map(|_| ShardLog::default()).collect(),
            under_way: BTreeMap::new(),
            next: 0,
        }
    }

    /// Takes an append and names it.
    pub(crate) fn begin(&mut self, append: Append) -> u64 {
        self.next += 1;
        self.under_way.insert(self.next, append);
        self.next
    }

    /// Makes records durable. A record is never older than the one before it, whatever the clock says.
    pub(crate) fn store(&mut self, batch: &[(ShardId, Bytes)], now: TimestampMs) {
        for (shard, payload) in batch {
            let records = &mut self.shards[usize::from(shard.0)].records;
            let time = records.last().map_or(now, |(last, _)| now.max(*last));
            records.push((time, payload.clone()));
        }
    }

    pub(crate) fn last(&self, shard: ShardId) -> Position {
        Position(self.shards[usize::from(shard.0)].records.len() as u64)
    }

    /// At most so many records after `after`.
    pub(crate) fn read(
        &self,
        shard: ShardId,
        after: Position,
        records_max: usize,
    ) -> Result<Vec<(Position, TimestampMs, Bytes)>, Trimmed> {
        let log = &self.shards[usize::from(shard.0)];
        if after.0 < log.trimmed {
            return Err(Trimmed);
        }
        let records = log.records.iter().enumerate().skip(after.0 as usize);
        Ok(records
            .take(records_max)
            .map(|(at, (time, payload))| (Position(at as u64 + 1), *time, payload.clone()))
            .collect())
    }

    /// Forgets records up to and including `up_to`.
    pub(crate) fn trim(&mut self, shard: ShardId, up_to: Position) {
        let log = &mut self.shards[usize::from(shard.0)];
        log.trimmed = log.trimmed.max(up_to.0.min(log.records.len() as u64));
    }

    /// Sabotage: the last records of a shard vanish although their appends were answered.
    pub(crate) fn lose(&mut self, shard: ShardId, records: usize) {
        let log = &mut self.shards[usize::from(shard.0)];
        let keep = log.records.len().saturating_sub(records);
        log.records.truncate(keep.max(log.trimmed as usize));
    }
}
