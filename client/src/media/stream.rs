//! One blob stream: the frames before and after the bytes.

use bytes::{Buf as _, Bytes};
use quinn::{Connection, ReadError, RecvStream, SendStream};
use quipu_protocol::event::Rejection;
use quipu_protocol::frame::{FrameDecoder, FrameType, RawFrame, StreamKind};
use quipu_protocol::limits::STREAM_WINDOW_BYTES;
use quipu_protocol::wire;

use super::{Broken, PRIORITY};

/// A blob stream that the client has opened.
#[derive(Debug)]
pub(super) struct BlobStream {
    pub(super) send: SendStream,
    receive: RecvStream,
    decoder: FrameDecoder,
    /// Received and not taken yet.
    input: Bytes,
}

impl BlobStream {
    /// Opens a stream and says what it is for.
    pub(super) async fn open(connection: &Connection, first: Bytes) -> Result<Self, Broken> {
        let (send, receive) = connection.open_bi().await.map_err(Broken::lost)?;
        let _ = send.set_priority(PRIORITY);
        let mut stream = Self {
            send,
            receive,
            decoder: FrameDecoder::new(StreamKind::BlobFromGateway),
            input: Bytes::new(),
        };
        if stream.send.write_chunk(first).await.is_err() {
            // The gateway's answer says more than the failed write.
            return Err(stream.refusal().await);
        }
        Ok(stream)
    }

    /// Why the gateway takes no more.
    pub(super) async fn refusal(&mut self) -> Broken {
        match self.frame().await {
            Ok(frame) => Broken::lost(format!("{} came too early", frame.kind.name())),
            Err(broken) => broken,
        }
    }

    /// The next frame; a FAILURE is an error.
    pub(super) async fn frame(&mut self) -> Result<RawFrame, Broken> {
        loop {
            if self.input.is_empty() {
                self.input = self
                    .read()
                    .await?
                    .ok_or_else(|| Broken::lost("the gateway ended the transfer"))?;
            }
            let frame = self.decoder.decode(&mut self.input).map_err(Broken::lost)?;
            match frame {
                Some(frame) if frame.kind == FrameType::Failure => {
                    let rejected: wire::Rejected = frame.message().map_err(Broken::lost)?;
                    return Err(Broken::refused(Rejection::from(rejected)));
                }
                Some(frame) => return Ok(frame),
                None => {}
            }
        }
    }

    /// The next bytes behind the frames; `None` at the end of the stream.
    pub(super) async fn bytes(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.input.has_remaining() {
            return Ok(Some(std::mem::take(&mut self.input)));
        }
        self.read().await
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Broken> {
        match self.receive.read_chunk(STREAM_WINDOW_BYTES, true).await {
            Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
            Err(ReadError::Reset(code)) => Err(Broken::reset(code.into_inner())),
            Err(error) => Err(Broken::lost(error)),
        }
    }
}
