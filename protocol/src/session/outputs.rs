//! What a session machine holds for its shell to perform, bounded.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::error::CloseCode;
use crate::event::{DeviceCommand, shorten};
use crate::frame::{FrameType, encode};
use crate::limits::{SESSION_OUTPUTS_MAX, SESSION_TRANSMIT_BYTES_MAX};

/// Outputs in the order in which they are handed out: bytes for S0, then the queue, then the close. Empty, it holds no heap.
#[derive(Debug)]
pub(super) struct Outputs<T> {
    transmit: BytesMut,
    queue: VecDeque<T>,
    end: End,
}

/// How far the end of the session has come.
#[derive(Debug)]
enum End {
    Open,
    /// Decided, not yet told to the shell.
    Closing(Box<(CloseCode, String)>),
    Closed,
}

impl<T> Outputs<T> {
    pub(super) fn new() -> Self {
        Self {
            transmit: BytesMut::new(),
            queue: VecDeque::new(),
            end: End::Open,
        }
    }

    /// Whether another frame of the peer may be looked at: what it makes fits into the bounds.
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < SESSION_OUTPUTS_MAX && self.has_transmit_room()
    }

    /// Whether another frame may be queued for S0.
    pub(super) fn has_transmit_room(&self) -> bool {
        self.transmit.len() < SESSION_TRANSMIT_BYTES_MAX / 2
    }

    /// Whether more bytes wait for S0 than the bound allows.
    pub(super) fn is_overfull(&self) -> bool {
        self.transmit.len() > SESSION_TRANSMIT_BYTES_MAX
    }

    pub(super) fn frame(&mut self, kind: FrameType, body: &impl Message) {
        if !self.is_closed() {
            encode(kind, body, &mut self.transmit);
        }
    }

    pub(super) fn command(&mut self, command: DeviceCommand) {
        if !self.is_closed() {
            command.encode(&mut self.transmit);
        }
    }

    pub(super) fn push(&mut self, output: T) {
        if !self.is_closed() {
            self.queue.push_back(output);
        }
    }

    /// Ends the session. Outputs from before are still handed out; the first close counts.
    pub(super) fn close(&mut self, code: CloseCode, reason: &str) {
        if !self.is_closed() {
            self.end = End::Closing(Box::new((code, shorten(reason).to_owned())));
        }
    }

    /// Ends the session without what was queued and not handed out.
    pub(super) fn end(&mut self, code: CloseCode, reason: &str) {
        self.queue = VecDeque::new();
        self.close(code, reason);
    }

    /// Whether the end is decided.
    pub(super) const fn is_closed(&self) -> bool {
        !matches!(self.end, End::Open)
    }

    /// Heap memory held, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.transmit.capacity() + self.queue.capacity() * size_of::<T>()
    }

    pub(super) fn take_transmit(&mut self) -> Option<Bytes> {
        if self.transmit.is_empty() {
            return None;
        }
        Some(std::mem::take(&mut self.transmit).freeze())
    }

    pub(super) fn take_queued(&mut self) -> Option<T> {
        let output = self.queue.pop_front();
        if self.queue.is_empty() {
            // An idle session keeps no buffer: a gateway has a hundred thousand of them.
            self.queue = VecDeque::new();
        }
        output
    }

    pub(super) fn take_close(&mut self) -> Option<(CloseCode, String)> {
        match std::mem::replace(&mut self.end, End::Closed) {
            End::Open => {
                self.end = End::Open;
                None
            }
            End::Closing(close) => Some(*close),
            End::Closed => None,
        }
    }
}
