//! Both halves of a session against a peer that says anything at all.

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use quipu_protocol::credentials::{Credentials, Hello};
use quipu_protocol::frame::{FrameDecoder, StreamKind};
use quipu_protocol::id::{Cursor, DeviceId, TimestampMs, UserId};
use quipu_protocol::limits::{DELIVERY_WINDOW_BYTES, FRAME_BYTES_MAX, SESSION_TRANSMIT_BYTES_MAX};
use quipu_protocol::session::{ClientOutput, ClientSession, LaneId, ServerOutput, ServerSession};
use quipu_protocol::welcome::{Limits, Welcome};

/// What a machine may hold for a peer that it does not trust: unfinished frames, outputs, and what a window allows.
const HEAP_BYTES_MAX: usize =
    4 * FRAME_BYTES_MAX + 2 * SESSION_TRANSMIT_BYTES_MAX + 4 * DELIVERY_WINDOW_BYTES;

/// S0 of a gateway gets the bytes. The first byte says how large the pieces are; an odd one means that the device is let in
/// as soon as it has said HELLO.
pub fn server(start: Instant, input: &[u8]) {
    let [first, bytes @ ..] = input else { return };
    let mut now = start;
    let mut session = ServerSession::new(now);
    let mut said = FrameDecoder::new(StreamKind::S0FromGateway);
    for piece in bytes.chunks(usize::from(*first).max(1)) {
        let mut piece = Bytes::copy_from_slice(piece);
        while piece.has_remaining() {
            session.handle_bytes(now, &mut piece);
            while let Some(output) = session.poll_output() {
                match output {
                    ServerOutput::Transmit(bytes) => check_frames(&mut said, bytes),
                    ServerOutput::Authenticate(_) if first % 2 == 1 => session.welcome(welcome()),
                    ServerOutput::Authenticate(_)
                    | ServerOutput::Command(_)
                    | ServerOutput::Refresh { .. }
                    | ServerOutput::Acked(_)
                    | ServerOutput::Close { .. } => {}
                }
            }
            assert!(session.heap_bytes() <= HEAP_BYTES_MAX);
        }
        now += Duration::from_millis(7);
        session.handle_timeout(now);
    }
}

/// S0 and a lane of a client get the bytes in turns. The first byte says how large the pieces are.
pub fn client(start: Instant, input: &[u8]) {
    let [first, bytes @ ..] = input else { return };
    let mut now = start;
    let mut session = ClientSession::new(now, hello());
    let mut said = FrameDecoder::new(StreamKind::S0FromClient);
    for (turn, piece) in bytes.chunks(usize::from(*first).max(1)).enumerate() {
        let mut piece = Bytes::copy_from_slice(piece);
        while piece.has_remaining() {
            if turn % 2 == 0 {
                session.handle_s0(now, &mut piece);
            } else {
                session.handle_lane(now, LaneId(0), &mut piece);
            }
            while let Some(output) = session.poll_output() {
                match output {
                    ClientOutput::Transmit(bytes) => check_frames(&mut said, bytes),
                    ClientOutput::Event(event) => session.kept(now, event.inbox_seq.cursor()),
                    ClientOutput::Welcomed(_)
                    | ClientOutput::Notice(_)
                    | ClientOutput::Reply(_)
                    | ClientOutput::GoAway(_)
                    | ClientOutput::Close { .. } => {}
                }
            }
            assert!(session.heap_bytes() <= HEAP_BYTES_MAX);
        }
        now += Duration::from_millis(70);
        session.handle_timeout(now);
    }
}

/// What a machine says is made of frames that belong where it says them.
fn check_frames(decoder: &mut FrameDecoder, mut bytes: Bytes) {
    while bytes.has_remaining() {
        if let Err(error) = decoder.decode(&mut bytes) {
            panic!("a machine transmits what is no frame: {error}");
        }
    }
}

fn ana() -> UserId {
    UserId::new("ana").unwrap_or_else(|_| unreachable!("a valid name"))
}

fn device() -> DeviceId {
    DeviceId::new(0x0102_0304_0506_0708).unwrap_or_else(|_| unreachable!("not 0"))
}

fn hello() -> Hello {
    Hello {
        agent: String::new(),
        credentials: Credentials::Session {
            name: ana(),
            device: device(),
            token: [0; 32],
        },
        resume: None,
    }
}

fn welcome() -> Welcome {
    Welcome {
        user: ana(),
        device: device(),
        token: None,
        resumed: false,
        cursor: Cursor::START,
        life: 1,
        server_time: TimestampMs(0),
        agent: String::new(),
        limits: Limits::default(),
        gateway: String::new(),
        next_gateways: Vec::new(),
    }
}
