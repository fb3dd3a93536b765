//! What one session's device has been sent and has acked: push while it keeps up, read the store when it does not.

use std::collections::VecDeque;

use quipu_protocol::id::{Cursor, InboxSeq};
use quipu_protocol::limits::{DELIVERY_WINDOW_BYTES, DELIVERY_WINDOW_EVENTS, FRAME_BYTES_MAX};

/// Above this many entries an empty queue gives its memory back: idle sessions are many.
const IDLE_CAPACITY: usize = 16;

/// The delivery window of one session.
///
/// ```text
///   acked by the device │ in flight │ not sent: in the store, and perhaps known from a push
///                     acked        sent                     known
/// ```
///
/// It is *level* while it knows of nothing that it has not sent, and takes the next push straight to the device. Whenever it
/// learns of an event that it cannot send now (a gap, a full window, pushes that were dropped) it is *behind*: pushes only
/// move `known`, and the events come from the store, from `sent` on, until a page that ends the inbox leaves nothing known
/// unsent.
///
/// That loses nothing, whatever the order, as long as the shell keeps three rules: it registers for pushes before its first
/// read; the processor commits an event's row before it pushes the event; and pushes that the shell drops are reported with
/// [`missed`](Self::missed). An event committed before the registration is then in the first page that ends the inbox, and
/// one committed after it is offered or missed, so that it is known.
#[derive(Debug, Clone)]
pub struct DeliveryWindow {
    acked: u64,
    sent: u64,
    known: u64,
    behind: bool,
    /// Frame bytes of each event in flight, oldest first.
    in_flight: VecDeque<u32>,
    in_flight_bytes: usize,
    /// What was known when a page last brought nothing; the store has it all since.
    empty_page_at: Option<u64>,
}

/// What to do with a live push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Write it to the lane and report it as sent.
    Send,
    /// It was sent before; drop it.
    Known,
    /// Drop it: it will come from the store.
    Behind,
}

/// What the window needs from the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Nothing, until something is offered, missed or acked.
    Nothing,
    /// A page of the inbox.
    Read {
        /// From the event after this one.
        after: Cursor,
        /// At most so many events.
        max_events: usize,
        /// At most so many frame bytes; one event is always allowed.
        max_bytes: usize,
    },
}

/// The device acked what it was never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device acked event {acked} and was sent none after {sent}")]
pub struct AckAhead {
    /// What it acked.
    pub acked: Cursor,
    /// What was last sent.
    pub sent: Cursor,
}

/// The store does not have an event that it was to have: a fault of the store, or of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store holds no event after {sent}, but {known} was pushed")]
pub struct NotInStore {
    /// What was last sent.
    pub sent: Cursor,
    /// The highest event known from a push.
    pub known: Cursor,
}

impl DeliveryWindow {
    /// The window of a session that resumes after `cursor`. It begins behind: only the store knows what is there.
    pub fn new(cursor: Cursor) -> Self {
        Self {
            acked: cursor.0,
            sent: cursor.0,
            known: cursor.0,
            behind: true,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            empty_page_at: None,
        }
    }

    /// An event was pushed. Only after [`Offer::Send`] may it be written.
    pub fn offer(&mut self, inbox_seq: InboxSeq) -> Offer {
        let inbox_seq = inbox_seq.get();
        if inbox_seq <= self.sent {
            return Offer::Known;
        }
        self.known = self.known.max(inbox_seq);
        // A frame of any size has to fit, as this one's is not known yet; with nothing in flight it does.
        if !self.behind && inbox_seq == self.sent + 1 && self.fits(FRAME_BYTES_MAX) {
            return Offer::Send;
        }
        self.behind = true;
        Offer::Behind
    }

    /// Pushes up to this event were dropped before they could be offered, because the mailbox was full.
    pub fn missed(&mut self, inbox_seq: InboxSeq) {
        if inbox_seq.get() > self.sent {
            self.known = self.known.max(inbox_seq.get());
            self.behind = true;
        }
    }

    /// The event that has to be sent next. A page that begins with a later one has a hole.
    pub fn next(&self) -> InboxSeq {
        Cursor(self.sent).next()
    }

    /// Whether an event of a page, as a frame of so many bytes, may be sent now.
    pub fn fits(&self, bytes: usize) -> bool {
        self.in_flight.is_empty()
            || (self.in_flight.len() < DELIVERY_WINDOW_EVENTS
                && self.in_flight_bytes + bytes <= DELIVERY_WINDOW_BYTES)
    }

    /// The next event was written, as a frame of so many bytes: a live one after [`Offer::Send`], or one of a page that
    /// [`fits`](Self::fits).
    ///
    /// # Panics
    ///
    /// When it is not the next event: the device would see a hole, or an event twice.
    pub fn sent(&mut self, inbox_seq: InboxSeq, bytes: usize) {
        assert!(
            inbox_seq == self.next(),
            "event {inbox_seq} was sent where {} was next",
            self.next()
        );
        self.sent = inbox_seq.get();
        self.known = self.known.max(self.sent);
        self.in_flight
            .push_back(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.in_flight_bytes += bytes;
    }

    /// A page was processed: its events were sent as far as they fitted. `last_in_page` is the last event that it held, sent
    /// or not; `exhausted` says that the store held no more when it was read.
    ///
    /// An error means that the store lacks an event which was pushed; reading on would go round in circles.
    pub fn page(
        &mut self,
        last_in_page: Option<InboxSeq>,
        exhausted: bool,
    ) -> Result<(), NotInStore> {
        if let Some(last) = last_in_page {
            self.known = self.known.max(last.get());
        }
        // An empty page says the same, whatever it calls itself.
        if !exhausted && last_in_page.is_some() {
            return Ok(());
        }
        self.behind = self.known > self.sent;
        if self.behind && last_in_page.is_none() {
            // This read may be older than the push. The next one is not: it begins after this, and what was known by now is
            // committed by now.
            if self.empty_page_at.is_some_and(|known| known > self.sent) {
                return Err(NotInStore {
                    sent: Cursor(self.sent),
                    known: Cursor(self.known),
                });
            }
            self.empty_page_at = Some(self.known);
        }
        Ok(())
    }

    /// The device has kept everything up to `cursor`. An older cursor changes nothing.
    pub fn ack(&mut self, cursor: Cursor) -> Result<(), AckAhead> {
        if cursor.0 > self.sent {
            return Err(AckAhead {
                acked: cursor,
                sent: Cursor(self.sent),
            });
        }
        while self.acked < cursor.0 {
            self.acked += 1;
            let bytes = self.in_flight.pop_front().unwrap_or(0);
            self.in_flight_bytes -= bytes as usize;
        }
        if self.in_flight.is_empty() && self.in_flight.capacity() > IDLE_CAPACITY {
            self.in_flight = VecDeque::new();
        }
        Ok(())
    }

    /// What to read now. While behind, it waits until half of the window is free, so that a slow device costs a page per
    /// half window and not a read per ack.
    pub fn want(&self) -> Want {
        let half_free = self.in_flight.len() <= DELIVERY_WINDOW_EVENTS / 2
            && self.in_flight_bytes <= DELIVERY_WINDOW_BYTES / 2;
        if !self.behind || !half_free {
            return Want::Nothing;
        }
        Want::Read {
            after: Cursor(self.sent),
            max_events: DELIVERY_WINDOW_EVENTS - self.in_flight.len(),
            max_bytes: DELIVERY_WINDOW_BYTES - self.in_flight_bytes,
        }
    }

    /// The last event that the device has acked.
    pub fn acked(&self) -> Cursor {
        Cursor(self.acked)
    }

    /// Whether events come from the store and not from pushes now.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// Events sent and not acked.
    pub fn in_flight_events(&self) -> usize {
        self.in_flight.len()
    }

    /// Frame bytes sent and not acked.
    pub fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }
}
