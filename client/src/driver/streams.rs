//! S0 and the lane of one connection, read and written by one task.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use quinn::{ReadError, RecvStream, SendStream};

/// Bytes that are read from a stream at once.
const READ_BYTES: usize = 16 * 1024;
/// Bytes that wait for S0; above it nothing more is put there except acks, which replace each other.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// Where bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// S0.
    S0,
    /// The lane, by the index of its stream.
    Lane(u64),
}

/// What the streams did.
#[derive(Debug)]
pub(super) enum Progress {
    /// Bytes came; [`Streams::input`] has them.
    Read(Source, usize),
    /// Everything that waited was written.
    Written,
    /// The gateway ended a stream that stays open as long as the connection, or the connection is gone.
    Ended,
}

/// S0 and the lane.
#[derive(Debug)]
pub(super) struct Streams {
    send: SendStream,
    s0: RecvStream,
    lane: Option<RecvStream>,
    out: BytesMut,
    input: Box<[u8]>,
}

impl Streams {
    /// Begins with S0.
    pub(super) fn new(send: SendStream, s0: RecvStream) -> Self {
        Self {
            send,
            s0,
            lane: None,
            out: BytesMut::new(),
            input: vec![0; READ_BYTES].into_boxed_slice(),
        }
    }

    /// Takes the lane that the gateway opened.
    pub(super) fn set_lane(&mut self, lane: RecvStream) {
        self.lane = Some(lane);
    }

    /// Whether the gateway has opened the lane.
    pub(super) fn has_lane(&self) -> bool {
        self.lane.is_some()
    }

    /// Puts bytes behind those that wait for S0.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Whether more may be written.
    pub(super) fn has_room(&self) -> bool {
        self.out.len() < WRITE_BYTES_MAX
    }

    /// Bytes that wait for S0.
    pub(super) fn waiting(&self) -> usize {
        self.out.len()
    }

    /// The bytes of the last [`Progress::Read`].
    pub(super) fn input(&self, read: usize) -> &[u8] {
        &self.input[..read]
    }

    /// Waits until something happens. Cancel-safe.
    pub(super) async fn step(&mut self) -> Progress {
        poll_fn(|cx| self.poll_step(cx)).await
    }

    /// What happens without waiting, if anything.
    pub(super) async fn step_now(&mut self) -> Option<Progress> {
        poll_fn(|cx| match self.poll_step(cx) {
            Poll::Ready(progress) => Poll::Ready(Some(progress)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
        let written = self.poll_write(cx);
        if let Poll::Ready(progress) = read(&mut self.s0, &mut self.input, Source::S0, cx) {
            return Poll::Ready(progress);
        }
        if let Some(lane) = &mut self.lane {
            let source = Source::Lane(lane.id().index());
            if let Poll::Ready(progress) = read(lane, &mut self.input, source, cx) {
                return Poll::Ready(progress);
            }
        }
        written
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
        if self.out.is_empty() {
            return Poll::Pending;
        }
        while !self.out.is_empty() {
            match ready!(Pin::new(&mut self.send).poll_write(cx, &self.out)) {
                Ok(written) => self.out.advance(written),
                Err(_) => return Poll::Ready(Progress::Ended),
            }
        }
        Poll::Ready(Progress::Written)
    }
}

fn read(
    stream: &mut RecvStream,
    input: &mut [u8],
    source: Source,
    cx: &mut Context<'_>,
) -> Poll<Progress> {
    let read: Result<usize, ReadError> = ready!(stream.poll_read(cx, input));
    Poll::Ready(match read {
        Ok(0) | Err(_) => Progress::Ended,
        Ok(read) => Progress::Read(source, read),
    })
}
