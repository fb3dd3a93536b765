//! Length-prefixed frames: incremental decode that refuses by header before it allocates.
//!
//! ```text
//! frame = varint length | varint type | body          length counts the body only
//! ```
//!
//! A frame is judged as soon as its header is there: too long, unknown and critical, or not allowed at this place. Only the
//! body of a frame that was admitted is kept, and memory for it grows with the bytes that have come, not with the length
//! that was announced. A peer therefore holds at most twice what it has sent, and never more than the limit of the stream.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;

use crate::error::CloseCode;
use crate::limits::{DATAGRAM_BYTES_MAX, FRAME_BYTES_MAX, REQUEST_FRAME_BYTES_MAX};
use crate::varint::{self, VARINT_BYTES_MAX};
use crate::violation::Violation;

/// Declares the registry of frame types.
macro_rules! frame_types {
    ($( $(#[$doc:meta])* $name:ident = $value:literal, $text:literal; )*) => {
        /// The frame types of this version (SPEC.md QP-FRAME-4). Odd types are critical, even ones may be skipped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum FrameType {
            $( $(#[$doc])* $name = $value, )*
        }

        impl FrameType {
            /// Every type of this version, in the order of its numbers.
            pub const ALL: &[Self] = &[$( Self::$name, )*];

            /// The name that SPEC.md gives it.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }
        }

        impl TryFrom<u64> for FrameType {
            type Error = UnknownFrameType;
            fn try_from(kind: u64) -> Result<Self, UnknownFrameType> {
                match kind {
                    $( $value => Ok(Self::$name), )*
                    other => Err(UnknownFrameType(other)),
                }
            }
        }
    };
}

frame_types! {
    /// S0, client: who connects.
    Hello = 0x01, "HELLO";
    /// S0, gateway: the answer to HELLO.
    Welcome = 0x03, "WELCOME";
    /// S0, client: one message.
    Send = 0x05, "SEND";
    /// S0, client: make sure a direct conversation exists.
    OpenDirect = 0x07, "OPEN_DIRECT";
    /// S0, client: delivered and read positions.
    Receipt = 0x09, "RECEIPT";
    /// S0, client: inbox cursor.
    Ack = 0x0b, "ACK";
    /// S0, gateway: the answer to a command.
    Reply = 0x0d, "REPLY";
    /// S0, gateway: the connection will be closed.
    GoAway = 0x0f, "GOAWAY";
    /// S0, client: a change to a group, a message or the user's own account.
    Command = 0x11, "COMMAND";
    /// S0, client: a newer token of an external issuer.
    Refresh = 0x13, "REFRESH";
    /// First frame of a lane.
    Lane = 0x21, "LANE";
    /// Lane: one inbox event.
    Event = 0x23, "EVENT";
    /// Lane: news of a large group, not numbered.
    Notice = 0x25, "NOTICE";
    /// First frame of a request stream: a range of history.
    History = 0x31, "HISTORY";
    /// Request stream, gateway: the answer to HISTORY.
    HistoryPage = 0x33, "HISTORY_PAGE";
    /// Request stream, gateway: the request was refused.
    Failure = 0x35, "FAILURE";
    /// First frame of a request stream: anything but history.
    Query = 0x37, "QUERY";
    /// Request stream, gateway: the answer to QUERY.
    Answer = 0x39, "ANSWER";
    /// Datagram, both: somebody writes a message.
    Typing = 0x41, "TYPING";
    /// Datagram, gateway: who is here of those whom the session watches.
    Presence = 0x43, "PRESENCE";
    /// First frame of a blob stream: brings a file.
    Upload = 0x51, "UPLOAD";
    /// Blob stream, gateway: where the upload goes on.
    UploadState = 0x53, "UPLOAD_STATE";
    /// Blob stream, gateway: the file is whole and durable.
    Uploaded = 0x55, "UPLOADED";
    /// First frame of a blob stream: fetches a file.
    Download = 0x57, "DOWNLOAD";
    /// Blob stream, gateway: bytes of a file follow.
    Blob = 0x59, "BLOB";
}

/// A frame type that this version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("frame type {0:#x} is unknown to this version")]
pub struct UnknownFrameType(pub u64);

impl UnknownFrameType {
    /// Whether the sender allows skipping it (QP-FRAME-5): even types are optional, odd ones critical.
    pub const fn is_optional(self) -> bool {
        self.0.is_multiple_of(2)
    }
}

/// One direction of a kind of stream, or of datagrams: which frames may come there and how long they may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// S0, what the client sends.
    S0FromClient,
    /// S0, what the gateway sends.
    S0FromGateway,
    /// A lane; only the gateway sends.
    Lane,
    /// A request stream, what the client sends.
    RequestFromClient,
    /// A request stream, what the gateway sends.
    RequestFromGateway,
    /// A blob stream, the frame before the client's bytes.
    BlobFromClient,
    /// A blob stream, the frames around the gateway's bytes.
    BlobFromGateway,
    /// A datagram of the client: a stream of one frame.
    DatagramFromClient,
    /// A datagram of the gateway: a stream of one frame.
    DatagramFromGateway,
}

impl StreamKind {
    /// Longest body on this stream, in bytes.
    pub const fn limit_bytes(self) -> usize {
        match self {
            Self::S0FromClient
            | Self::S0FromGateway
            | Self::Lane
            | Self::RequestFromClient
            | Self::BlobFromClient
            | Self::BlobFromGateway => FRAME_BYTES_MAX,
            Self::RequestFromGateway => REQUEST_FRAME_BYTES_MAX,
            Self::DatagramFromClient | Self::DatagramFromGateway => DATAGRAM_BYTES_MAX,
        }
    }

    /// The frames that belong on this stream in this direction, at whatever time.
    pub const fn frames(self) -> FrameSet {
        match self {
            Self::S0FromClient => FrameSet::of(&[
                FrameType::Hello,
                FrameType::Send,
                FrameType::OpenDirect,
                FrameType::Receipt,
                FrameType::Ack,
                FrameType::Command,
                FrameType::Refresh,
            ]),
            Self::S0FromGateway => {
                FrameSet::of(&[FrameType::Welcome, FrameType::Reply, FrameType::GoAway])
            }
            Self::Lane => FrameSet::of(&[FrameType::Lane, FrameType::Event, FrameType::Notice]),
            Self::RequestFromClient => FrameSet::of(&[FrameType::History, FrameType::Query]),
            Self::RequestFromGateway => FrameSet::of(&[
                FrameType::HistoryPage,
                FrameType::Answer,
                FrameType::Failure,
            ]),
            Self::BlobFromClient => FrameSet::of(&[FrameType::Upload, FrameType::Download]),
            Self::BlobFromGateway => FrameSet::of(&[
                FrameType::UploadState,
                FrameType::Uploaded,
                FrameType::Blob,
                FrameType::Failure,
            ]),
            Self::DatagramFromClient => FrameSet::of(&[FrameType::Typing]),
            Self::DatagramFromGateway => FrameSet::of(&[FrameType::Typing, FrameType::Presence]),
        }
    }
}

/// A set of frame types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSet(u128);

impl FrameSet {
    /// No frame at all.
    pub const NONE: Self = Self(0);

    /// The set of `kinds`. Types are below 128 in this version, so that a set is one number.
    pub const fn of(kinds: &[FrameType]) -> Self {
        let mut set = 0;
        let mut index = 0;
        while index < kinds.len() {
            set |= 1 << kinds[index] as u8;
            index += 1;
        }
        Self(set)
    }

    /// Everything that is in either set.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `kind` is in it.
    pub const fn contains(self, kind: FrameType) -> bool {
        self.0 & 1 << kind as u8 != 0
    }
}

/// A frame whose body has not been looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawFrame {
    /// What it is.
    pub kind: FrameType,
    /// Its protobuf body; shares memory with the input where the whole body was in it.
    pub body: Bytes,
}

impl RawFrame {
    /// Decodes the body. `M` is the wire message that belongs to [`kind`](Self::kind).
    pub fn message<M: Message + Default>(&self) -> Result<M, Violation> {
        M::decode(self.body.clone())
            .map_err(|_| Violation::new("QP-FRAME-8", "a body is the protobuf message of its type"))
    }
}

/// Why a header was refused. The decoder yields nothing more on this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The body is longer than this stream allows. Nothing was allocated for it.
    #[error("QP-FRAME-3: a frame of {length} bytes, where {limit} are allowed")]
    TooLarge {
        /// Length that the header announced.
        length: u64,
        /// Longest body here.
        limit: u64,
    },
    /// A critical type that this version does not know.
    #[error("QP-FRAME-6: critical frame type {0:#x} is unknown to this version")]
    Unsupported(u64),
    /// A known type that has no place on this stream, in this direction, or at this time.
    #[error("QP-FRAME-7: {} has no place here", .0.name())]
    Unexpected(FrameType),
}

impl FrameError {
    /// The code to close the connection with when this happens on S0 or on a lane.
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::TooLarge { .. } => CloseCode::FrameTooLarge,
            Self::Unsupported(_) => CloseCode::Unsupported,
            Self::Unexpected(_) => CloseCode::ProtocolViolation,
        }
    }
}

/// Longest header, in bytes.
const HEADER_BYTES_MAX: usize = 2 * VARINT_BYTES_MAX;

/// Cuts the bytes of one stream into frames, however they come split.
///
/// ```text
///            header complete, known, allowed            body complete
///   Header ───────────────────────────────────> Body ─────────────────> (frame) Header
///      │  ╲   header complete, unknown and even          body passed
///      │   ╲─────────────────────────────────> Skip ─────────────────> Header
///      │ too long, unknown and odd, or not allowed
///      └─────────────────────────────────────> Failed
/// ```
///
/// Holds no heap memory between frames.
#[derive(Debug, Clone)]
pub struct FrameDecoder {
    limit: u32,
    accept: FrameSet,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    /// Collecting a header.
    Header {
        bytes: [u8; HEADER_BYTES_MAX],
        len: u8,
    },
    /// Collecting a body of which `left` bytes are missing.
    Body {
        kind: FrameType,
        left: u32,
        body: BytesMut,
    },
    /// Passing over a body.
    Skip { left: u32 },
    /// Refused; what comes is discarded.
    Failed(FrameError),
}

impl State {
    const START: Self = Self::Header {
        bytes: [0; HEADER_BYTES_MAX],
        len: 0,
    };
}

impl FrameDecoder {
    /// A decoder at the start of a stream, which accepts every frame that belongs on it.
    pub const fn new(stream: StreamKind) -> Self {
        Self {
            limit: stream.limit_bytes() as u32,
            accept: stream.frames(),
            state: State::START,
        }
    }

    /// Narrows or widens what may come from the next header on.
    pub const fn accept(&mut self, frames: FrameSet) {
        self.accept = frames;
    }

    /// Takes bytes from `input` up to the end of the next frame. `None` means that `input` is used up, and asks for more.
    ///
    /// Works on `&mut &[u8]`, copying the body, and on `&mut Bytes`, sharing it. After an error every further call gives
    /// the same error and takes nothing.
    pub fn decode(&mut self, input: &mut impl Buf) -> Result<Option<RawFrame>, FrameError> {
        loop {
            match &mut self.state {
                State::Header { bytes, len } => {
                    let Some(header) = read_header(bytes, len, input) else {
                        return Ok(None);
                    };
                    self.state = match self.admit(header) {
                        Ok(state) => state,
                        Err(error) => State::Failed(error),
                    };
                }
                State::Body { kind, left, body } => {
                    let kind = *kind;
                    if body.is_empty() && input.remaining() >= *left as usize {
                        let body = input.copy_to_bytes(*left as usize);
                        self.state = State::START;
                        return Ok(Some(RawFrame { kind, body }));
                    }
                    collect(body, left, input);
                    if *left > 0 {
                        return Ok(None);
                    }
                    let body = std::mem::take(body).freeze();
                    self.state = State::START;
                    return Ok(Some(RawFrame { kind, body }));
                }
                State::Skip { left } => {
                    let passed = input.remaining().min(*left as usize);
                    input.advance(passed);
                    *left -= passed as u32;
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.state = State::START;
                }
                State::Failed(error) => return Err(*error),
            }
        }
    }

    /// Whether the stream may end here: between two frames (QP-FRAME-9).
    pub const fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Header { len: 0, .. })
    }

    /// Heap memory held for an unfinished body, in bytes.
    pub fn buffered_bytes(&self) -> usize {
        match &self.state {
            State::Body { body, .. } => body.capacity(),
            State::Header { .. } | State::Skip { .. } | State::Failed(_) => 0,
        }
    }

    /// Judges a header.
    fn admit(&self, header: Header) -> Result<State, FrameError> {
        if header.length > u64::from(self.limit) {
            return Err(FrameError::TooLarge {
                length: header.length,
                limit: u64::from(self.limit),
            });
        }
        let left = header.length as u32;
        match FrameType::try_from(header.kind) {
            Ok(kind) if self.accept.contains(kind) => Ok(State::Body {
                kind,
                left,
                body: BytesMut::new(),
            }),
            Ok(kind) => Err(FrameError::Unexpected(kind)),
            Err(unknown) if unknown.is_optional() => Ok(State::Skip { left }),
            Err(UnknownFrameType(kind)) => Err(FrameError::Unsupported(kind)),
        }
    }
}

struct Header {
    length: u64,
    kind: u64,
}

/// Takes header bytes from `input`, never one of the body, until both varints are complete.
fn read_header(
    bytes: &mut [u8; HEADER_BYTES_MAX],
    len: &mut u8,
    input: &mut impl Buf,
) -> Option<Header> {
    while input.has_remaining() {
        bytes[usize::from(*len)] = input.get_u8();
        *len += 1;
        let Some((length, used)) = varint::read(&bytes[..usize::from(*len)]) else {
            continue;
        };
        if let Some((kind, _)) = varint::read(&bytes[used..usize::from(*len)]) {
            return Some(Header { length, kind });
        }
    }
    None
}

/// Appends what `input` has of the body. Memory doubles as bytes come and never passes the announced length.
fn collect(body: &mut BytesMut, left: &mut u32, input: &mut impl Buf) {
    while *left > 0 && input.has_remaining() {
        let chunk = input.chunk();
        let part = chunk.len().min(*left as usize);
        if body.capacity() - body.len() < part {
            let wanted = part.max(body.len()).min(*left as usize);
            let mut grown = BytesMut::with_capacity(body.len() + wanted);
            grown.extend_from_slice(body);
            *body = grown;
        }
        body.extend_from_slice(&chunk[..part]);
        input.advance(part);
        *left -= part as u32;
    }
}

/// One frame. The body must be within the limit of the stream that it is for.
pub fn encoded(kind: FrameType, body: &impl Message) -> Bytes {
    let mut out = BytesMut::new();
    encode(kind, body, &mut out);
    out.freeze()
}

/// Appends a frame to `out`. The body must be within the limit of the stream that it is for.
pub fn encode(kind: FrameType, body: &impl Message, out: &mut BytesMut) {
    let len = body.encoded_len();
    debug_assert!(len <= REQUEST_FRAME_BYTES_MAX, "{kind:?} of {len} bytes");
    out.reserve(len + HEADER_BYTES_MAX);
    varint::write(len as u64, out);
    varint::write(kind as u64, out);
    // `BytesMut` grows, so there is always room.
    let _ = body.encode(out);
}
