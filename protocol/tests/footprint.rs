//! What an idle session costs: a gateway has a hundred thousand of them.

mod common;

use common::{event_frame, examples, inbox_seq, lane_frame, login, message, start, welcome};
use quipu_protocol::event::{Event, EventBody};
use quipu_protocol::frame::{FrameDecoder, FrameType, StreamKind};
use quipu_protocol::id::Cursor;
use quipu_protocol::limits::{FRAME_BYTES_MAX, SESSION_OUTPUTS_MAX, SESSION_TRANSMIT_BYTES_MAX};
use quipu_protocol::session::{ClientSession, LaneId, ServerSession};
use quipu_protocol::wire;

/// Grows only on purpose: 100,000 sessions of 256 bytes are 24 MiB.
const SESSION_BYTES_MAX: usize = 256;

#[test]
fn sessions_are_small() {
    for (what, bytes) in [
        ("FrameDecoder", size_of::<FrameDecoder>()),
        ("ServerSession", size_of::<ServerSession>()),
        ("ClientSession", size_of::<ClientSession>()),
    ] {
        eprintln!("{what}: {bytes} bytes");
        assert!(bytes <= SESSION_BYTES_MAX, "{what} has {bytes} bytes");
    }
}

#[test]
fn an_idle_gateway_session_holds_no_heap() {
    let now = start();
    let mut server = ServerSession::new(now);
    assert_eq!(server.heap_bytes(), 0);
    for example in examples() {
        if example.stream != StreamKind::S0FromClient {
            continue;
        }
        let second_hello = example.bytes[1] == FrameType::Hello as u8 && server.is_welcomed();
        if second_hello || example.title.starts_with("HELLO: session") {
            continue;
        }
        // One by one, so that every body is collected.
        for byte in &example.bytes {
            server.handle_bytes(now, &mut [*byte].as_slice());
        }
        while server.poll_output().is_some() {}
        if !server.is_welcomed() {
            server.welcome(welcome());
            while server.poll_output().is_some() {}
        }
        assert_eq!(server.heap_bytes(), 0, "after {}", example.title);
    }
    assert!(server.is_welcomed());
}

#[test]
fn an_idle_client_session_holds_its_state_only() {
    let now = start();
    let mut client = ClientSession::new(now, login());
    let welcome = common::frame(FrameType::Welcome, &wire::Welcome::from(welcome()));
    client.handle_s0(now, &mut welcome.as_ref());
    while client.poll_output().is_some() {}
    let idle = client.heap_bytes();
    eprintln!("idle ClientSession: {idle} bytes on the heap");
    assert!(idle <= SESSION_BYTES_MAX, "{idle} bytes");

    client.handle_lane(now, LaneId(3), &mut lane_frame());
    for number in 1..=100 {
        let event = Event {
            inbox_seq: inbox_seq(number),
            body: EventBody::Message(message(number, number, "hi")),
        };
        client.handle_lane(now, LaneId(3), &mut event_frame(&event));
        while client.poll_output().is_some() {}
    }
    client.kept(now, Cursor(100));
    while client.poll_output().is_some() {}
    assert_eq!(client.heap_bytes(), idle);
}

/// A header that announces the longest frame costs nothing until its bytes come, and no more than those.
#[test]
fn an_announced_frame_is_not_allocated() {
    let mut server = ServerSession::new(start());
    let header = [0x80, 0x00, 0x80, 0x00, 0x01];
    server.handle_bytes(start(), &mut header.as_slice());
    assert_eq!(server.heap_bytes(), 0);
    server.handle_bytes(start(), &mut [0; 100].as_slice());
    assert!(server.heap_bytes() <= 200);
    server.handle_bytes(start(), &mut vec![0; FRAME_BYTES_MAX - 101].as_slice());
    assert!(server.heap_bytes() <= FRAME_BYTES_MAX);
}

/// A client that has its commands refused in bulk cannot make the gateway hold more than the bounds: input waits.
#[test]
fn input_waits_while_outputs_are_full() {
    let now = start();
    let mut server = ServerSession::new(now);
    let hello = common::frame(FrameType::Hello, &wire::Hello::from(login()));
    server.handle_bytes(now, &mut hello.as_ref());
    server.welcome(welcome());
    while server.poll_output().is_some() {}

    let refused = common::frame(FrameType::OpenDirect, &wire::OpenDirect::default());
    let flood = refused.repeat(20_000);
    let mut input = flood.as_slice();
    let mut turns = 0;
    while !input.is_empty() {
        let before = input.len();
        server.handle_bytes(now, &mut input);
        assert!(input.len() < before, "each turn takes at least one frame");
        assert!(server.heap_bytes() <= SESSION_TRANSMIT_BYTES_MAX + 4096);
        while server.poll_output().is_some() {}
        turns += 1;
    }
    assert!(turns > 10, "{turns}");

    let accepted = wire::OpenDirect {
        request: 1,
        peer: "ben".into(),
    };
    let flood = common::frame(FrameType::OpenDirect, &accepted).repeat(1_000);
    let mut input = flood.as_slice();
    server.handle_bytes(now, &mut input);
    let mut outputs = 0;
    while server.poll_output().is_some() {
        outputs += 1;
    }
    assert_eq!(outputs, SESSION_OUTPUTS_MAX);
    assert!(!input.is_empty());
}
