//! One simulated device as the run knows it, connected or not: where it stopped reading, and what it has to send.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Instant;

use quipu_protocol::credentials::Resume;
use quipu_protocol::id::{ClientSeq, Cursor};
use quipu_protocol::welcome::Welcome;

use super::edits::Edits;
use super::opening::Ask;
use super::pull::Pull;
use super::receipts::Reports;
use crate::payload::Label;

/// A device. Idle, it holds no heap.
#[derive(Debug, Default)]
pub(super) struct Seat {
    pub(super) line: Line,
    /// The life of the inbox that `cursor` belongs to; `None`: it never was connected.
    life: Option<u64>,
    cursor: Cursor,
    pub(super) welcomed: Option<Instant>,
    /// When it lost its connection, until it is back.
    pub(super) thrown: Option<Instant>,
    /// A storm took the connection, and waits for the return.
    pub(super) in_storm: bool,
    /// It does not read.
    pub(super) paused: bool,
    pub(super) leave: Option<Leave>,
    waker: Option<Waker>,
    /// To be written, oldest first. The first of them may have been written on an earlier connection.
    outbox: VecDeque<Order>,
    /// How many of them the generator has got to.
    looked_at: usize,
    unanswered: VecDeque<Order>,
    /// What it has to do for its conversation.
    pub(super) wants: Option<Ask>,
    /// It was asked for on this connection.
    pub(super) asked: bool,
    /// While it is connected, for requests and files.
    pub(super) connection: Option<quinn::Connection>,
    pub(super) pull: Pull,
    /// When it came after it was away because the scenario said so; what was due before is read, not waited for.
    pub(super) since: Option<Instant>,
    /// It left as the scenario said.
    rests: bool,
    pub(super) reports: Option<Box<Reports>>,
    pub(super) edits: Option<Box<Edits>>,
}

/// Whether it is connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Line {
    #[default]
    Away,
    /// A task is on it.
    Connecting,
    Online,
}

/// How a device ends its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// Says so.
    Close,
    /// Its socket or its gateway is gone already: there is nobody to tell.
    Vanish,
    /// It has done what it came for: says so, and stays away until a ramp brings it in.
    Rest,
    /// The run is over: says so, and does not come back.
    End,
}

/// A message to write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) label: Label,
    pub(super) due: Instant,
    pub(super) bytes: u16,
    /// It was written before, under this number, and was not answered.
    pub(super) client_seq: Option<ClientSeq>,
    /// Number of the file that it brings.
    pub(super) file: Option<u32>,
}

/// What an event is to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    New,
    /// It had this one, on an earlier connection.
    Again,
}

impl Seat {
    /// Whether it has been connected before.
    pub(super) fn is_known(&self) -> bool {
        self.life.is_some()
    }

    /// Where it stopped.
    pub(super) fn resume(&self) -> Option<Resume> {
        self.life.map(|life| Resume {
            cursor: self.cursor,
            life,
        })
    }

    /// It was let in. Unanswered messages are written again first, in their order and under their numbers.
    pub(super) fn welcomed(&mut self, welcome: &Welcome, now: Instant) -> usize {
        if self.life != Some(welcome.life) {
            self.life = Some(welcome.life);
            self.cursor = welcome.cursor;
        }
        self.line = Line::Online;
        self.asked = false;
        if self.welcomed.is_none() || std::mem::take(&mut self.rests) {
            self.since = Some(now);
        }
        if let Some(edits) = &mut self.edits {
            edits.begin_anew();
        }
        self.welcomed = Some(now);
        let again = self.unanswered.len();
        while let Some(order) = self.unanswered.pop_back() {
            self.outbox.push_front(order);
        }
        self.looked_at += again;
        again
    }

    /// An event with this number came.
    pub(super) fn arrived(&mut self, cursor: Cursor) -> Arrival {
        if cursor <= self.cursor {
            return Arrival::Again;
        }
        self.cursor = cursor;
        Arrival::New
    }

    /// Adds a message to write and wakes the device.
    pub(super) fn push(&mut self, order: Order) {
        self.outbox.push_back(order);
        if self.line != Line::Online {
            // Nobody can get to it: whoever asked has counted its lateness.
            self.looked_at = self.outbox.len();
        }
        self.wake();
    }

    /// Adds a message that comes again. When it was due says nothing of the generator's lateness.
    pub(super) fn repeat(&mut self, order: Order) {
        let fresh = self.outbox.len() - self.looked_at;
        self.outbox.push_back(order);
        if fresh == 0 {
            self.looked_at += 1;
        }
        self.wake();
    }

    /// The messages that the generator gets to only now.
    pub(super) fn look(&mut self) -> impl Iterator<Item = Order> + '_ {
        let from = std::mem::replace(&mut self.looked_at, self.outbox.len());
        self.outbox.range(from..).copied()
    }

    /// The next message to write; stays until [`written`](Self::written).
    pub(super) fn next(&self) -> Option<Order> {
        self.outbox.front().copied()
    }

    /// The next message was written under this number.
    pub(super) fn written(&mut self, client_seq: ClientSeq) {
        if let Some(order) = self.outbox.pop_front() {
            self.looked_at = self.looked_at.saturating_sub(1);
            self.unanswered.push_back(Order {
                client_seq: Some(client_seq),
                ..order
            });
        }
    }

    /// The message with this number was answered; `None`: it was answered before.
    pub(super) fn answered(&mut self, client_seq: ClientSeq) -> Option<Order> {
        let is_it = |order: &Order| order.client_seq == Some(client_seq);
        if let Some(at) = self.unanswered.iter().position(is_it) {
            let order = self.unanswered.remove(at);
            if self.unanswered.is_empty() {
                self.unanswered = VecDeque::new();
            }
            return order;
        }
        // Those to be written again come first.
        let again = self
            .outbox
            .iter()
            .take_while(|order| order.client_seq.is_some());
        let at = again.into_iter().position(is_it)?;
        self.looked_at = self.looked_at.saturating_sub(1);
        self.outbox.remove(at)
    }

    /// A message is to be written anew, under a new number.
    pub(super) fn renumber(&mut self, order: Order) {
        self.looked_at += 1;
        self.outbox.push_front(Order {
            client_seq: None,
            ..order
        });
        self.wake();
    }

    /// Whoever works for the device is to be woken when it has something to do.
    pub(super) fn attend(&mut self, waker: &Waker) {
        if !self
            .waker
            .as_ref()
            .is_some_and(|known| known.will_wake(waker))
        {
            self.waker = Some(waker.clone());
        }
    }

    /// The connection is over.
    pub(super) fn gone(&mut self, now: Instant, rests: bool) {
        self.line = Line::Away;
        self.waker = None;
        self.leave = None;
        self.connection = None;
        self.rests = rests;
        if !rests {
            self.thrown.get_or_insert(now);
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use quipu_protocol::id::TimestampMs;
    use quipu_protocol::welcome::Limits;

    use super::*;

    fn order(counter: u64) -> Order {
        Order {
            label: Label {
                run: 1,
                pair: 0,
                side: 0,
                counter,
            },
            due: Instant::now(),
            bytes: 64,
            client_seq: None,
            file: None,
        }
    }

    fn seq(number: u64) -> ClientSeq {
        ClientSeq::new(number).unwrap()
    }

    fn welcome(cursor: u64, life: u64) -> Welcome {
        Welcome {
            user: quipu_protocol::id::UserId::new("someone").unwrap(),
            device: quipu_protocol::id::DeviceId::new(1).unwrap(),
            token: None,
            resumed: cursor > 0,
            cursor: Cursor(cursor),
            life,
            server_time: TimestampMs(0),
            agent: String::new(),
            limits: Limits::default(),
            gateway: String::new(),
            next_gateways: Vec::new(),
        }
    }

    #[test]
    fn what_was_not_answered_is_written_again_first_and_in_order() {
        let mut seat = Seat::default();
        assert_eq!(seat.welcomed(&welcome(0, 7), Instant::now()), 0);
        for counter in 0..4 {
            seat.push(order(counter));
        }
        assert_eq!(seat.look().count(), 4);
        for number in 1..=3 {
            seat.written(seq(number));
        }
        assert_eq!(seat.answered(seq(1)).unwrap().label.counter, 0);
        assert!(seat.answered(seq(1)).is_none());
        seat.gone(Instant::now(), false);
        assert_eq!(seat.welcomed(&welcome(0, 7), Instant::now()), 2);
        assert_eq!(seat.look().count(), 0);
        // The answer to the first of them was on its way all the time.
        assert_eq!(seat.answered(seq(2)).unwrap().label.counter, 1);
        let next = seat.next().unwrap();
        assert_eq!((next.label.counter, next.client_seq), (2, Some(seq(3))));
        seat.written(seq(3));
        assert_eq!(seat.next().unwrap().label.counter, 3);
    }

    #[test]
    fn a_cursor_belongs_to_a_life() {
        let mut seat = Seat::default();
        assert!(seat.resume().is_none());
        seat.welcomed(&welcome(0, 7), Instant::now());
        assert_eq!(seat.arrived(Cursor(1)), Arrival::New);
        assert_eq!(seat.arrived(Cursor(1)), Arrival::Again);
        seat.welcomed(&welcome(0, 7), Instant::now());
        assert_eq!(seat.arrived(Cursor(1)), Arrival::Again);
        seat.welcomed(&welcome(0, 8), Instant::now());
        assert_eq!(seat.arrived(Cursor(1)), Arrival::New);
        assert_eq!(seat.resume().unwrap().life, 8);
    }
}
