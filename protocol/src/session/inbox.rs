//! The client's view of its inbox on one connection: no gap, no repeat, and when to ack.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::id::{Cursor, InboxSeq};
use crate::limits::{
    ACK_BYTES, ACK_DELAY_MS, ACK_EVENTS, DELIVERY_WINDOW_BYTES, DELIVERY_WINDOW_EVENTS,
    DELIVERY_WINDOW_TOLERANCE,
};
use crate::violation::Violation;

const ACK_DELAY: Duration = Duration::from_millis(ACK_DELAY_MS);

/// Follows the cursor through what has come, what the application has kept, and what the gateway was told of it.
///
/// ```text
///   acked  <=  kept  <=  received            acked: said in an ACK, or by WELCOME
///     └─ an ACK is due ─┘                    kept: stored by the application
/// ```
///
/// An ACK is due at once when a quarter of the delivery window is kept, with the next thing that is sent anyway, and else
/// [`ACK_DELAY_MS`] after the first event that it is for. For a device that talks it costs no packet of its own.
#[derive(Debug)]
pub(super) struct Inbox {
    acked: Cursor,
    kept: Cursor,
    received: Cursor,
    /// Bytes of each event that came and is not acked, and their sum.
    sizes: VecDeque<u32>,
    bytes: usize,
    ack: AckDue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AckDue {
    Never,
    At(Instant),
    Now,
}

/// Whether an event is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    New,
    Repeat,
}

impl Inbox {
    /// Events go on after `cursor`.
    pub(super) const fn new(cursor: Cursor) -> Self {
        Self {
            acked: cursor,
            kept: cursor,
            received: cursor,
            sizes: VecDeque::new(),
            bytes: 0,
            ack: AckDue::Never,
        }
    }

    /// An event of `bytes` bytes has come.
    pub(super) fn receive(
        &mut self,
        inbox_seq: InboxSeq,
        bytes: usize,
    ) -> Result<Arrival, Violation> {
        if inbox_seq.cursor() <= self.received {
            return Ok(Arrival::Repeat);
        }
        if inbox_seq != self.received.next() {
            return Err(Violation::new(
                "QP-EVENT-3",
                "events come without a gap between their inbox seqs",
            ));
        }
        check_window(self.sizes.len() + 1, self.bytes + bytes)?;
        self.received = inbox_seq.cursor();
        self.sizes.push_back(bytes as u32);
        self.bytes += bytes;
        Ok(Arrival::New)
    }

    /// The application has kept every event up to `cursor`. What has not come cannot be kept: it counts as what has.
    pub(super) fn keep(&mut self, now: Instant, cursor: Cursor) {
        self.kept = self.kept.max(cursor.min(self.received));
        let events = (self.kept.0 - self.acked.0) as usize;
        if events == 0 {
            return;
        }
        let bytes: usize = self
            .sizes
            .iter()
            .take(events)
            .map(|size| *size as usize)
            .sum();
        let due = if events >= ACK_EVENTS || bytes >= ACK_BYTES {
            now
        } else {
            now + ACK_DELAY
        };
        match self.ack {
            AckDue::Now => {}
            AckDue::At(earlier) => self.ack = AckDue::At(earlier.min(due)),
            AckDue::Never => self.ack = AckDue::At(due),
        }
        self.handle_timeout(now);
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|due| due <= now) {
            self.ack = AckDue::Now;
        }
    }

    /// Something is about to be sent: an ACK that waits for its time goes with it.
    pub(super) fn ride(&mut self) {
        if self.kept > self.acked {
            self.ack = AckDue::Now;
        }
    }

    /// The cursor to put into an ACK that is due.
    pub(super) fn take_ack(&mut self) -> Option<Cursor> {
        if self.ack != AckDue::Now {
            return None;
        }
        self.ack = AckDue::Never;
        let events = (self.kept.0 - self.acked.0) as usize;
        self.bytes -= self
            .sizes
            .drain(..events)
            .map(|size| size as usize)
            .sum::<usize>();
        self.acked = self.kept;
        if self.sizes.is_empty() {
            // An idle session keeps no buffer.
            self.sizes = VecDeque::new();
        }
        Some(self.acked)
    }

    /// Heap memory held, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.sizes.capacity() * size_of::<u32>()
    }

    /// The last event that came.
    pub(super) const fn received(&self) -> Cursor {
        self.received
    }

    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        match self.ack {
            AckDue::At(due) => Some(due),
            AckDue::Never | AckDue::Now => None,
        }
    }
}

/// Whether a gateway that has this much on the way keeps to the delivery window, generously counted.
pub(super) const fn check_window(events: usize, bytes: usize) -> Result<(), Violation> {
    if events > DELIVERY_WINDOW_EVENTS * DELIVERY_WINDOW_TOLERANCE
        || bytes > DELIVERY_WINDOW_BYTES * DELIVERY_WINDOW_TOLERANCE
    {
        return Err(Violation::new(
            "QP-ACK-5",
            "no more events are on the way than the delivery window allows",
        ));
    }
    Ok(())
}
