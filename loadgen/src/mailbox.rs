//! What a simulated device is to do next, handed to its task without a channel: everything of a run is on one thread.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::Waker;
use std::time::Instant;

use quipu_protocol::id::UserId;

use crate::payload::Label;

/// One thing to do.
#[derive(Debug, Clone)]
pub(crate) enum Order {
    /// Make sure that the conversation with this user is there.
    OpenDirect(UserId),
    /// Send this message, which was due then.
    Send(Label, Instant),
}

/// The orders of one device. The run bounds their number: it counts what it has issued and what has finished.
#[derive(Debug, Default)]
pub(crate) struct Mailbox(RefCell<State>);

#[derive(Debug, Default)]
struct State {
    orders: VecDeque<Order>,
    reader: Option<Waker>,
}

impl Mailbox {
    /// Adds an order and wakes the device.
    pub(crate) fn push(&self, order: Order) {
        let mut state = self.0.borrow_mut();
        state.orders.push_back(order);
        if let Some(reader) = &state.reader {
            reader.wake_by_ref();
        }
    }

    /// Who is to be woken.
    pub(crate) fn register(&self, reader: &Waker) {
        let mut state = self.0.borrow_mut();
        if !state
            .reader
            .as_ref()
            .is_some_and(|known| known.will_wake(reader))
        {
            state.reader = Some(reader.clone());
        }
    }

    /// The oldest order, which stays until [`pop`](Self::pop).
    pub(crate) fn first(&self) -> Option<Order> {
        self.0.borrow().orders.front().cloned()
    }

    /// Removes the oldest order.
    pub(crate) fn pop(&self) {
        self.0.borrow_mut().orders.pop_front();
    }
}
