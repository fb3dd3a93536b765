//! The outgoing side of one stream: what waits to be written, in few allocations and none while idle.

use bytes::{Bytes, BytesMut};
use quinn::{SendStream, WriteError};

/// Bytes that wait for a stream's credit. Whoever puts bytes in keeps the bound: the delivery window for a lane, the
/// session's limit for S0.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    writing: Bytes,
    queued: BytesMut,
}

impl Outgoing {
    /// Queues bytes. A lone frame is passed on without a copy; several are gathered into one buffer, so that they make one
    /// write and few packets.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if self.is_empty() {
            self.writing = bytes;
        } else {
            self.queued.extend_from_slice(&bytes);
        }
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.writing.len() + self.queued.len()
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.writing.is_empty() && self.queued.is_empty()
    }

    /// Writes as much as the stream takes now, waiting until it takes something. Cancelling it loses nothing.
    pub(super) async fn write_some(&mut self, stream: &mut SendStream) -> Result<(), WriteError> {
        if self.writing.is_empty() {
            // Taken, not split: an idle stream keeps no buffer.
            self.writing = std::mem::take(&mut self.queued).freeze();
        }
        stream
            .write_chunks(std::slice::from_mut(&mut self.writing))
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_frame_is_not_copied_and_nothing_is_held_when_empty() {
        let mut outgoing = Outgoing::default();
        assert!(outgoing.is_empty());
        let frame = Bytes::from_static(b"one");
        outgoing.push(frame.clone());
        assert_eq!(outgoing.writing.as_ptr(), frame.as_ptr());
        assert_eq!(outgoing.queued.capacity(), 0);
        outgoing.push(Bytes::from_static(b"two"));
        outgoing.push(Bytes::from_static(b"three"));
        assert_eq!(
            (outgoing.len(), &outgoing.queued[..]),
            (11, &b"twothree"[..])
        );
    }
}
