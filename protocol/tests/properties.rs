//! Properties of the codec, the conversions and both machines, over arbitrary bytes and orders.

mod common;

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use common::{client_seq, device, examples, inbox_seq, login, recode, seq, start, user, welcome};
use proptest::collection::vec;
use proptest::prelude::*;
use quipu_protocol::error::{CloseCode, RejectCode};
use quipu_protocol::event::{
    Content, Event, EventBody, Message, Outcome, Receipt, Rejection, Reply, ReplyTo,
};
use quipu_protocol::frame::{FrameDecoder, FrameError, FrameType, RawFrame, StreamKind};
use quipu_protocol::id::{ConversationId, Cursor, MessageId, RequestId, TimestampMs};
use quipu_protocol::session::{ClientOutput, ClientSession, LaneId, ServerOutput, ServerSession};
use quipu_protocol::welcome::GoAway;
use quipu_protocol::{varint, wire};

const STREAMS: [StreamKind; 9] = [
    StreamKind::S0FromClient,
    StreamKind::S0FromGateway,
    StreamKind::Lane,
    StreamKind::RequestFromClient,
    StreamKind::RequestFromGateway,
    StreamKind::BlobFromClient,
    StreamKind::BlobFromGateway,
    StreamKind::DatagramFromClient,
    StreamKind::DatagramFromGateway,
];

fn any_stream() -> impl Strategy<Value = StreamKind> {
    prop::sample::select(STREAMS.to_vec())
}

/// Bytes cut at these places, in order; every piece is between two of them.
fn split(bytes: &[u8], cuts: &[prop::sample::Index]) -> Vec<Bytes> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2)
        .map(|pair| Bytes::copy_from_slice(&bytes[pair[0]..pair[1]]))
        .collect()
}

/// Everything that a decoder makes of some pieces, and the bound on its memory on the way.
fn decode_all(stream: StreamKind, pieces: &[Bytes]) -> (Vec<RawFrame>, Option<FrameError>) {
    let mut decoder = FrameDecoder::new(stream);
    let mut frames = Vec::new();
    let mut received = 0;
    for piece in pieces {
        let mut piece = piece.clone();
        received += piece.len();
        loop {
            let result = decoder.decode(&mut piece);
            let held = decoder.buffered_bytes();
            assert!(held <= stream.limit_bytes() && held <= 2 * received);
            match result {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(piece.is_empty(), "a decoder takes what it is given");
    }
    (frames, None)
}

/// Frames of a stream, known ones and ones to skip, one after the other.
fn stream_of_frames() -> impl Strategy<Value = (StreamKind, Vec<u8>, usize)> {
    let piece = prop_oneof![
        any::<prop::sample::Index>().prop_map(Ok),
        (0_u64..200, vec(any::<u8>(), 0..200)).prop_map(Err),
    ];
    (any_stream(), vec(piece, 0..20)).prop_map(|(stream, pieces)| {
        let known: Vec<_> = examples()
            .into_iter()
            .filter(|example| example.stream == stream)
            .collect();
        let mut bytes = Vec::new();
        let mut frames = 0;
        for piece in pieces {
            match piece {
                Ok(index) => {
                    bytes.extend_from_slice(&known[index.index(known.len())].bytes);
                    frames += 1;
                }
                Err((kind, body)) => {
                    varint::write(body.len() as u64, &mut bytes);
                    varint::write(0x1000 + 2 * kind, &mut bytes);
                    bytes.extend_from_slice(&body);
                }
            }
        }
        (stream, bytes, frames)
    })
}

proptest! {
    // A failure prints its input; what it teaches becomes a script with a name, not a file of seeds.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn varints_are_read_as_written(value in 0..=varint::VARINT_MAX) {
        let mut out = Vec::new();
        varint::write(value, &mut out);
        prop_assert_eq!(varint::read(&out), Some((value, out.len())));
    }

    #[test]
    fn any_split_gives_the_same_frames(
        (stream, bytes, count) in stream_of_frames(),
        cuts in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let whole = decode_all(stream, &[Bytes::copy_from_slice(&bytes)]);
        prop_assert_eq!(whole.0.len(), count);
        prop_assert_eq!(whole.1, None);
        for frame in &whole.0 {
            prop_assert!(recode(frame).is_ok());
        }
        prop_assert_eq!(decode_all(stream, &split(&bytes, &cuts)), whole);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(
        stream in any_stream(),
        bytes in vec(prop_oneof![0_u8..8, any::<u8>()], 0..2000),
        cuts in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let whole = decode_all(stream, &[Bytes::copy_from_slice(&bytes)]);
        prop_assert_eq!(decode_all(stream, &split(&bytes, &cuts)), whole);
    }

    #[test]
    fn arbitrary_bodies_do_no_harm(
        kind in prop::sample::select(FrameType::ALL.to_vec()),
        body in vec(prop_oneof![0_u8..40, any::<u8>()], 0..200),
    ) {
        let raw = RawFrame { kind, body: body.into() };
        if let Ok(bytes) = recode(&raw) {
            // What was understood once is understood again, as the same.
            let mut decoded = bytes.clone();
            let stream = STREAMS.into_iter().find(|stream| stream.frames().contains(kind));
            let stream = stream.expect("every frame has a stream");
            let again = FrameDecoder::new(stream).decode(&mut decoded);
            let again = again.expect("a good header").expect("a whole frame");
            prop_assert_eq!(recode(&again), Ok(bytes));
        }
    }

    #[test]
    fn events_survive_the_wire(event in any_event()) {
        let wire = wire::Event::from(&event);
        prop_assert_eq!(Event::try_from(wire), Ok(event));
    }

    #[test]
    fn replies_survive_the_wire(reply in any_reply()) {
        let wire = wire::Reply::from(&reply);
        prop_assert_eq!(Reply::try_from(wire), Ok(reply));
    }

    #[test]
    fn the_gateways_machine_keeps_its_promises(steps in vec(any_step(), 0..40)) {
        check_server(&steps)?;
    }

    #[test]
    fn the_clients_machine_keeps_its_promises(steps in vec(any_step(), 0..40)) {
        check_client(&steps)?;
    }
}

fn any_conversation() -> impl Strategy<Value = ConversationId> {
    any::<[u8; 16]>().prop_map(ConversationId)
}

fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![1..=300_u64, 1..=u64::MAX]
}

fn any_event() -> impl Strategy<Value = Event> {
    let names = || {
        prop::sample::select(vec![
            "ana",
            "b0",
            "a.b_c-d",
            "x234567890123456789012345678901",
        ])
    };
    let message = (
        (
            any_conversation(),
            any::<[u8; 16]>(),
            any_number(),
            any_number(),
        ),
        (names(), any::<bool>(), any::<u64>(), ".{1,50}"),
    )
        .prop_map(
            |((conversation, id, place, number), (from, direct, sent_at, text))| {
                EventBody::Message(Message {
                    conversation,
                    seq: seq(place),
                    id: MessageId(id),
                    from: user(from),
                    from_device: device(),
                    client_seq: client_seq(number),
                    to: direct.then(|| user("ben")),
                    sent_at: TimestampMs(sent_at),
                    content: Content::Text(text),
                    state: None,
                })
            },
        );
    let receipt = (any_conversation(), names(), any_number(), any::<bool>()).prop_map(
        |(conversation, name, delivered, read)| {
            EventBody::Receipt(Receipt {
                conversation,
                user: user(name),
                delivered: Some(seq(delivered)),
                read: read.then(|| seq(delivered)),
            })
        },
    );
    (any_number(), prop_oneof![message, receipt]).prop_map(|(number, body)| Event {
        inbox_seq: inbox_seq(number),
        body,
    })
}

fn any_reply() -> impl Strategy<Value = Reply> {
    let to = prop_oneof![
        any::<u64>().prop_map(|request| ReplyTo::Request(RequestId(request))),
        (any_conversation(), any_number()).prop_map(|(conversation, number)| ReplyTo::Send {
            conversation,
            client_seq: client_seq(number),
        }),
    ];
    let outcome = prop_oneof![
        any_number().prop_map(|place| Outcome::Accepted(seq(place))),
        any_conversation().prop_map(|conversation| Outcome::Opened {
            conversation,
            head: None,
        }),
        (
            prop::sample::select(RejectCode::ALL.to_vec()),
            ".{0,60}",
            any::<u64>()
        )
            .prop_map(
                |(code, reason, retry_after_ms)| Outcome::Rejected(Rejection {
                    code,
                    reason,
                    retry_after_ms,
                })
            ),
    ];
    (to, outcome).prop_map(|(to, outcome)| Reply { to, outcome })
}

/// Something that happens to a machine.
#[derive(Debug, Clone)]
enum Step {
    /// A frame of the examples arrives, by whatever stream the machine listens to.
    Frame(prop::sample::Index),
    /// Bytes arrive.
    Bytes(Vec<u8>),
    /// Time passes and the timer is looked at.
    Wait(u64),
    /// The shell decides: welcome, reply, send.
    Decide,
    /// GOAWAY, or the application keeps what came.
    GoAway,
    /// S0 ends.
    Finish,
    /// The shell closes.
    Close,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => any::<prop::sample::Index>().prop_map(Step::Frame),
        1 => vec(any::<u8>(), 0..40).prop_map(Step::Bytes),
        3 => prop_oneof![0..200_u64, Just(6_000)].prop_map(Step::Wait),
        6 => Just(Step::Decide),
        1 => Just(Step::GoAway),
        1 => Just(Step::Finish),
        1 => Just(Step::Close),
    ]
}

/// Bytes of the examples that `stream` carries.
fn frame_for(streams: &[StreamKind], index: &prop::sample::Index) -> (StreamKind, Bytes) {
    let mut fitting: Vec<_> = examples()
        .into_iter()
        .filter(|example| streams.contains(&example.stream))
        .collect();
    let example = fitting.swap_remove(index.index(fitting.len()));
    (example.stream, example.bytes)
}

fn check_server(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut now = start();
    let mut server = ServerSession::new(now);
    let (mut welcomed, mut closed, mut asked) = (false, false, false);
    let mut acked = Cursor::START;
    for step in steps {
        match step {
            Step::Frame(index) => {
                let (_, mut bytes) = frame_for(&[StreamKind::S0FromClient], index);
                feed_server(&mut server, now, &mut bytes);
            }
            Step::Bytes(bytes) => feed_server(&mut server, now, &mut Bytes::copy_from_slice(bytes)),
            Step::Wait(ms) => {
                now += Duration::from_millis(*ms);
                server.handle_timeout(now);
                prop_assert!(server.poll_timeout().is_none_or(|due| due > now));
            }
            Step::Decide if !welcomed && asked => {
                server.welcome(welcome());
                welcomed = true;
            }
            Step::Decide => server.reply(&Reply {
                to: ReplyTo::Request(RequestId(1)),
                outcome: Outcome::Accepted(seq(1)),
            }),
            Step::GoAway => server.go_away(now, go_away()),
            Step::Finish => server.handle_finish(),
            Step::Close => server.close(CloseCode::Ok, ""),
        }
        let mut outputs = Vec::new();
        while let Some(output) = server.poll_output() {
            outputs.push(output);
        }
        for output in outputs {
            prop_assert!(!closed, "silent after the close");
            match output {
                ServerOutput::Transmit(bytes) => {
                    let (frames, error) = decode_all(StreamKind::S0FromGateway, &[bytes]);
                    prop_assert_eq!(error, None);
                    let handshake = |frame: &RawFrame| frame.kind == FrameType::GoAway;
                    prop_assert!(welcomed || frames.iter().all(handshake));
                }
                ServerOutput::Authenticate(_) => {
                    prop_assert!(!asked, "asked once");
                    asked = true;
                }
                ServerOutput::Command(_) => prop_assert!(welcomed),
                ServerOutput::Refresh { .. } => prop_assert!(false, "the session does not expire"),
                ServerOutput::Acked(cursor) => {
                    prop_assert!(welcomed && cursor > acked);
                    acked = cursor;
                }
                ServerOutput::Close { .. } => closed = true,
            }
        }
        prop_assert!(!closed || server.poll_timeout().is_none());
    }
    Ok(())
}

fn feed_server(server: &mut ServerSession, now: Instant, bytes: &mut Bytes) {
    // Few frames: the outputs never fill up here.
    server.handle_bytes(now, bytes);
    assert!(!bytes.has_remaining());
}

fn check_client(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut now = start();
    let mut client = ClientSession::new(now, login());
    let (mut welcomed, mut closed) = (false, false);
    let mut next = 1;
    let mut lane_started = false;
    for step in steps {
        match step {
            Step::Frame(index) => {
                let streams = [StreamKind::S0FromGateway, StreamKind::Lane];
                let (stream, mut bytes) = frame_for(&streams, index);
                if stream == StreamKind::Lane {
                    // The example's events have one number; events of the lane have the next one, or repeat.
                    let mut lane = lane_bytes(&mut lane_started, next);
                    client.handle_lane(now, LaneId(3), &mut lane);
                } else {
                    client.handle_s0(now, &mut bytes);
                }
            }
            Step::Bytes(bytes) => client.handle_s0(now, &mut bytes.as_slice()),
            Step::Wait(ms) => {
                now += Duration::from_millis(*ms);
                client.handle_timeout(now);
                prop_assert!(client.poll_timeout().is_none_or(|due| due > now));
            }
            Step::Decide => {
                let number = client_seq(1 + client.in_flight() as u64);
                let text = Content::Text("hi".into());
                let conversation = common::conversation();
                let result = client.send(conversation, number, MessageId([1; 16]), text);
                prop_assert!(welcomed || result.is_err());
            }
            Step::GoAway => client.kept(now, Cursor(next)),
            Step::Finish => client.handle_finish(),
            Step::Close => client.close(CloseCode::Ok, ""),
        }
        let mut outputs = Vec::new();
        while let Some(output) = client.poll_output() {
            outputs.push(output);
        }
        for output in outputs {
            prop_assert!(!closed, "silent after the close");
            match output {
                ClientOutput::Transmit(bytes) => {
                    let (frames, error) = decode_all(StreamKind::S0FromClient, &[bytes]);
                    prop_assert_eq!(error, None);
                    prop_assert!(welcomed || frames.iter().all(|raw| raw.kind == FrameType::Hello));
                }
                ClientOutput::Welcomed(_) => {
                    prop_assert!(!welcomed, "welcomed once");
                    welcomed = true;
                }
                ClientOutput::Event(event) => {
                    prop_assert!(welcomed);
                    prop_assert_eq!(event.inbox_seq.get(), next);
                    next += 1;
                }
                ClientOutput::Reply(_) | ClientOutput::Notice(_) => prop_assert!(welcomed),
                ClientOutput::GoAway(_) => {}
                ClientOutput::Close { .. } => closed = true,
            }
        }
        prop_assert!(!closed || client.poll_timeout().is_none());
    }
    Ok(())
}

/// The lane's next bytes: LANE at first, then the event after those that were handed out, twice.
fn lane_bytes(started: &mut bool, next: u64) -> Bytes {
    let mut bytes = BytesMut::new();
    if !std::mem::replace(started, true) {
        bytes.extend_from_slice(&common::lane_frame());
        return bytes.freeze();
    }
    let event = Event {
        inbox_seq: inbox_seq(next),
        body: EventBody::Message(common::message(next, next, "hi")),
    };
    bytes.extend_from_slice(&common::event_frame(&event));
    bytes.extend_from_slice(&common::event_frame(&event));
    bytes.freeze()
}

fn go_away() -> GoAway {
    GoAway {
        code: CloseCode::Shutdown,
        reason: String::new(),
        authority: String::new(),
        deadline_ms: 1_000,
        jitter_ms: 0,
    }
}
