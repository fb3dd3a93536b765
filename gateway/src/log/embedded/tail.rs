//! The newest records of one shard in memory, and the numbers that say where its log begins and ends.

use std::collections::VecDeque;

use quipu_core::record::Position;
use quipu_core::shard::ShardId;
use quipu_protocol::id::TimestampMs;

use crate::log::{LogError, StoredRecord};

/// Records that a shard keeps in memory; older ones are read from the disk.
const TAIL_RECORDS_MAX: usize = 1024;
/// Payload bytes that a shard keeps in memory; the newest record stays however long it is.
const TAIL_BYTES_MAX: usize = 1024 * 1024;

/// Where a read finds its records.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// All of them here, perhaps none.
    Here(Vec<StoredRecord>),
    /// On the disk: positions from the first to before the second.
    OnDisk(u64, u64),
}

/// One shard's end of the log.
#[derive(Debug)]
pub(super) struct Tail {
    shard: ShardId,
    /// Oldest position that reads may see.
    first: Position,
    /// Last durable position.
    last: Position,
    /// Time of the last record.
    time: TimestampMs,
    /// The newest ones; the back is `last`.
    records: VecDeque<StoredRecord>,
    bytes: usize,
    /// The disk has not been told yet what `first` is.
    trim_due: bool,
}

impl Tail {
    pub(super) fn new(shard: ShardId, first: Position, last: Position, time: TimestampMs) -> Self {
        Self {
            shard,
            first,
            last,
            time,
            records: VecDeque::new(),
            bytes: 0,
            trim_due: false,
        }
    }

    pub(super) fn first(&self) -> Position {
        self.first
    }

    pub(super) fn last(&self) -> Position {
        self.last
    }

    pub(super) fn time(&self) -> TimestampMs {
        self.time
    }

    /// Adds the record after `last`, which is durable now.
    pub(super) fn push(&mut self, record: StoredRecord) {
        assert_eq!(
            record.position,
            self.last.next(),
            "records are published in order"
        );
        self.last = record.position;
        self.time = record.time;
        self.bytes += record.payload.len();
        self.records.push_back(record);
        while self.records.len() > 1
            && (self.records.len() > TAIL_RECORDS_MAX || self.bytes > TAIL_BYTES_MAX)
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(record) = self.records.pop_front() {
            self.bytes -= record.payload.len();
        }
    }

    /// What a read of at most so much after `after` gets, or where it has to go.
    pub(super) fn find(
        &self,
        after: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Found, LogError> {
        if after.next() < self.first {
            return Err(LogError::Trimmed {
                shard: self.shard,
                first: self.first,
                after,
            });
        }
        if after >= self.last {
            return Ok(Found::Here(Vec::new()));
        }
        let here_from = self.last.0 - self.records.len() as u64 + 1;
        let Some(skip) = after.next().0.checked_sub(here_from) else {
            let end = after.next().0.saturating_add(max_records.max(1) as u64);
            return Ok(Found::OnDisk(after.next().0, end.min(here_from)));
        };
        let mut found = Vec::new();
        let mut bytes = 0usize;
        let newer = self.records.iter().skip(skip as usize);
        for record in newer.take(max_records.max(1)) {
            bytes = bytes.saturating_add(record.payload.len());
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(record.clone());
        }
        Ok(Found::Here(found))
    }

    /// Hides records up to `up_to`, but never the last one: it is what tells the next start where the numbering stands.
    /// Says whether anything changed.
    pub(super) fn trim(&mut self, up_to: Position) -> bool {
        let first = up_to.next().min(self.last);
        if first <= self.first {
            return false;
        }
        self.first = first;
        while self.records.front().is_some_and(|r| r.position < first) {
            self.drop_oldest();
        }
        self.trim_due = true;
        true
    }

    /// The new first position, once, for the disk.
    pub(super) fn take_trim(&mut self) -> Option<Position> {
        std::mem::take(&mut self.trim_due).then_some(self.first)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn tail(first: u64, last: u64) -> Tail {
        Tail::new(ShardId(0), Position(first), Position(last), TimestampMs(0))
    }

    fn record(position: u64, bytes: usize) -> StoredRecord {
        StoredRecord {
            position: Position(position),
            time: TimestampMs(position),
            payload: Bytes::from(vec![0; bytes]),
        }
    }

    #[test]
    fn old_records_leave_memory_by_count_and_by_bytes() {
        let mut tail = tail(1, 0);
        for position in 1..=TAIL_RECORDS_MAX as u64 + 5 {
            tail.push(record(position, 1));
        }
        assert_eq!(
            tail.find(Position(0), 2, usize::MAX).unwrap(),
            Found::OnDisk(1, 3)
        );
        assert_eq!(
            tail.find(Position(3), usize::MAX, usize::MAX).unwrap(),
            Found::OnDisk(4, 6),
            "the disk gives what memory has not"
        );
        let Found::Here(here) = tail.find(Position(5), usize::MAX, usize::MAX).unwrap() else {
            panic!("the newest are in memory");
        };
        assert_eq!(here.len(), TAIL_RECORDS_MAX);

        tail.push(record(TAIL_RECORDS_MAX as u64 + 6, TAIL_BYTES_MAX + 1));
        assert_eq!(tail.records.len(), 1, "the newest stays however long");
    }

    #[test]
    fn the_last_record_is_never_trimmed() {
        let mut tail = tail(1, 0);
        assert!(!tail.trim(Position(9)), "nothing to trim");
        (1..=3).for_each(|position| tail.push(record(position, 1)));
        assert!(tail.trim(Position(9)));
        assert_eq!((tail.first(), tail.last()), (Position(3), Position(3)));
        assert_eq!(tail.take_trim(), Some(Position(3)));
        assert_eq!(tail.take_trim(), None);
        assert!(!tail.trim(Position(2)));
    }
}
