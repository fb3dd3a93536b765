//! Frames from any bytes in any split.

use bytes::Bytes;
use quipu_protocol::frame::{FrameDecoder, FrameError, RawFrame, StreamKind};

/// Every kind of stream that carries frames on a session's connection.
pub const STREAMS: [StreamKind; 7] = [
    StreamKind::S0FromClient,
    StreamKind::S0FromGateway,
    StreamKind::Lane,
    StreamKind::RequestFromClient,
    StreamKind::RequestFromGateway,
    StreamKind::BlobFromClient,
    StreamKind::BlobFromGateway,
];

/// The first byte chooses a stream, the second the size of the pieces, and the rest is cut into them.
pub fn any_split(input: &[u8]) {
    let [stream, size, bytes @ ..] = input else {
        return;
    };
    let stream = STREAMS[usize::from(*stream) % STREAMS.len()];
    let whole = decode(stream, bytes, bytes.len().max(1));
    let pieces = decode(stream, bytes, usize::from(*size).max(1));
    assert_eq!(whole, pieces, "how bytes are split changes nothing");
}

fn decode(stream: StreamKind, bytes: &[u8], size: usize) -> (Vec<RawFrame>, Option<FrameError>) {
    let mut decoder = FrameDecoder::new(stream);
    let mut frames = Vec::new();
    for piece in bytes.chunks(size) {
        let mut piece = Bytes::copy_from_slice(piece);
        loop {
            match decoder.decode(&mut piece) {
                Ok(Some(frame)) => {
                    assert!(frame.body.len() <= stream.limit_bytes());
                    frames.push(frame);
                }
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
            assert!(decoder.buffered_bytes() <= stream.limit_bytes());
        }
    }
    (frames, None)
}
