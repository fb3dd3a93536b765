//! The outbox against a gateway that refuses: what is sent, in which order, and what waits.

use bytes::{Buf, Bytes, BytesMut};

use super::*;
use crate::credentials::{Credentials, Hello};
use crate::frame::{self, FrameDecoder, FrameType, StreamKind};
use crate::id::{Cursor, DeviceId, TimestampMs};
use crate::session::ClientOutput;
use crate::welcome::{Limits, Welcome};
use crate::wire;

/// An outbox with a session that is let in, and what the gateway reads of it.
struct Bench {
    now: Instant,
    outbox: Outbox,
    session: ClientSession,
    gateway: FrameDecoder,
    requests: u64,
    /// How often the disk was synced.
    syncs: usize,
}

impl Bench {
    fn new() -> Self {
        let (now, name) = (Instant::now(), user("alice"));
        let device = DeviceId::new(7).expect("not 0");
        let hello = Hello {
            agent: String::new(),
            credentials: Credentials::Session {
                name,
                device,
                token: [1; 32],
            },
            resume: None,
        };
        let welcome = Welcome {
            user: name,
            device,
            token: None,
            resumed: true,
            cursor: Cursor::START,
            life: 1,
            server_time: TimestampMs(0),
            agent: String::new(),
            limits: Limits::default(),
            gateway: String::new(),
            next_gateways: Vec::new(),
        };
        let mut session = ClientSession::new(now, hello);
        let mut bytes = BytesMut::new();
        frame::encode(
            FrameType::Welcome,
            &wire::Welcome::from(welcome),
            &mut bytes,
        );
        session.handle_s0(now, &mut bytes.freeze());
        let gateway = FrameDecoder::new(StreamKind::S0FromClient);
        let mut bench = Self {
            now,
            outbox: Outbox::default(),
            session,
            gateway,
            requests: 0,
            syncs: 0,
        };
        assert!(bench.read().is_empty());
        bench
    }

    /// What goes out now, written as `open` or as the client seq of a message.
    fn pump(&mut self) -> Vec<String> {
        let mut pumped = self
            .outbox
            .pump(self.now, &mut self.session, &mut self.requests);
        if pumped.sync {
            self.outbox.synced();
            self.syncs += 1;
            pumped = self
                .outbox
                .pump(self.now, &mut self.session, &mut self.requests);
        }
        assert!(pumped.settled.is_empty(), "{pumped:?}");
        let mut sent = self.read();
        sent.extend(pumped.renumber.iter().map(|_| "renumber".to_owned()));
        sent
    }

    fn read(&mut self) -> Vec<String> {
        let mut sent = Vec::new();
        while let Some(output) = self.session.poll_output() {
            let ClientOutput::Transmit(mut bytes) = output else {
                continue;
            };
            while bytes.has_remaining() {
                let Some(frame) = self.gateway.decode(&mut bytes).expect("frames") else {
                    break;
                };
                match frame.kind {
                    FrameType::Send => {
                        let send: wire::Send = frame.message().expect("a SEND");
                        sent.push(send.client_seq.to_string());
                    }
                    FrameType::OpenDirect => sent.push("open".to_owned()),
                    _ => {}
                }
            }
        }
        sent
    }

    fn accept(&mut self, client_seq: u64) {
        self.answer(
            client_seq,
            wire::reply::Outcome::Accepted(wire::Accepted { seq: client_seq }),
        );
        self.outbox.accepted(conversation(), seq(client_seq));
    }

    fn reject(&mut self, client_seq: u64, code: RejectCode) -> Option<Settled> {
        self.reject_for(client_seq, code, 0)
    }

    fn reject_for(
        &mut self,
        client_seq: u64,
        code: RejectCode,
        retry_after_ms: u64,
    ) -> Option<Settled> {
        let rejected = wire::Rejected {
            code: code.code(),
            retry_after_ms,
            ..wire::Rejected::default()
        };
        self.answer(client_seq, wire::reply::Outcome::Rejected(rejected));
        self.outbox.rejected(
            self.now,
            conversation(),
            seq(client_seq),
            Rejection {
                retry_after_ms,
                ..Rejection::new(code, "")
            },
        )
    }

    /// Tells the session, which counts what is in flight.
    fn answer(&mut self, client_seq: u64, outcome: wire::reply::Outcome) {
        let send = wire::SendRef {
            conversation: Bytes::copy_from_slice(conversation().as_bytes()),
            client_seq,
        };
        let reply = wire::Reply {
            to: Some(wire::reply::To::Send(send)),
            outcome: Some(outcome),
        };
        let mut bytes = BytesMut::new();
        frame::encode(FrameType::Reply, &reply, &mut bytes);
        self.session.handle_s0(self.now, &mut bytes.freeze());
        assert!(self.read().is_empty());
    }
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a name")
}

fn conversation() -> ConversationId {
    ConversationId::direct(&user("alice"), &user("bob"))
}

fn seq(client_seq: u64) -> ClientSeq {
    ClientSeq::new(client_seq).expect("not 0")
}

fn waiting(client_seqs: std::ops::RangeInclusive<u64>, opened: bool) -> Vec<Waiting> {
    let one = |client_seq: u64| Waiting {
        conversation: conversation(),
        peer: Some(user("bob")),
        opened,
        client_seq: seq(client_seq),
        id: MessageId([client_seq as u8; 16]),
        content: Content::Text("x".into()),
    };
    client_seqs.map(one).collect()
}

#[test]
fn a_new_conversation_is_opened_before_anything_is_sent() {
    let mut bench = Bench::new();
    bench.outbox.add(waiting(1..=2, false));
    assert_eq!(bench.pump(), ["open"]);
    assert!(bench.pump().is_empty());
    assert_eq!(
        bench.outbox.take_opening(RequestId(0)),
        Some(conversation())
    );
    bench.outbox.opened(conversation());
    assert_eq!(bench.pump(), ["1", "2"]);
}

#[test]
fn no_more_than_the_window_is_in_flight() {
    let mut bench = Bench::new();
    bench.outbox.add(waiting(1..=100, true));
    assert_eq!(bench.pump().len(), SENDS_IN_FLIGHT_MAX);
    bench.outbox.synced();
    bench.accept(1);
    assert!(bench.pump().is_empty(), "1 is not durable yet");
    bench.outbox.synced();
    bench.accept(2);
    assert_eq!(bench.pump(), [(SENDS_IN_FLIGHT_MAX + 1).to_string()]);
}

#[test]
fn nothing_goes_out_that_would_make_the_gateway_forget_the_oldest() {
    let mut bench = Bench::new();
    let window = SENDS_IN_FLIGHT_MAX as u64;
    bench.outbox.add(waiting(1..=window + 10, true));
    assert_eq!(bench.pump().len(), SENDS_IN_FLIGHT_MAX);
    // After a resume the EVENTs of later ones come before the REPLY to the first.
    for client_seq in 2..=20 {
        bench.accept(client_seq);
        bench.outbox.synced();
        assert!(bench.pump().is_empty(), "1 is not answered");
    }
    bench.accept(1);
    bench.outbox.synced();
    let sent: Vec<String> = (window + 1..=window + 10).map(|n| n.to_string()).collect();
    assert_eq!(bench.pump(), sent);
}

#[test]
fn answers_that_may_be_forgotten_keep_their_messages_within_reach() {
    let mut bench = Bench::new();
    let window = SENDS_IN_FLIGHT_MAX as u64;
    bench.outbox.add(waiting(1..=2 * window, true));
    assert_eq!(bench.pump().len(), SENDS_IN_FLIGHT_MAX);
    // All but the first are answered, durably; the answer to the first is not durable.
    for client_seq in 2..=window {
        bench.accept(client_seq);
    }
    bench.outbox.synced();
    assert!(bench.pump().is_empty());
    bench.accept(1);
    let syncs = bench.syncs;
    assert_eq!(bench.pump().len(), SENDS_IN_FLIGHT_MAX);
    assert_eq!(bench.syncs, syncs + 1, "not before the first is durable");
}

#[test]
fn a_lane_that_was_emptied_remembers_what_may_come_back() {
    let mut bench = Bench::new();
    let window = SENDS_IN_FLIGHT_MAX as u64;
    bench.outbox.add(waiting(1..=1, true));
    assert_eq!(bench.pump(), ["1"]);
    bench.accept(1);
    assert!(bench.pump().is_empty());
    let syncs = bench.syncs;
    bench.outbox.add(waiting(window + 1..=window + 1, true));
    assert_eq!(bench.pump(), [(window + 1).to_string()]);
    assert_eq!(bench.syncs, syncs + 1);
}

#[test]
fn a_later_connection_keeps_within_reach_of_the_oldest_as_well() {
    let mut bench = Bench::new();
    let window = SENDS_IN_FLIGHT_MAX as u64;
    bench.outbox.add(waiting(1..=1, true));
    bench.outbox.add(waiting(window..=window + 2, true));
    assert_eq!(bench.pump(), ["1".to_owned(), window.to_string()]);
    bench.accept(1);
    bench.outbox.synced();
    assert_eq!(bench.pump().len(), 2);
}

#[test]
fn what_is_answered_and_not_durable_counts_as_in_flight() {
    let mut bench = Bench::new();
    bench.outbox.add(waiting(1..=200, true));
    assert_eq!(bench.pump().len(), SENDS_IN_FLIGHT_MAX);
    assert_eq!(bench.syncs, 1, "an earlier connection may have left some");
    for client_seq in 1..SENDS_UNSYNCED_MAX as u64 {
        // A refusal can be forgotten as well, and the gateway remembers no more of both together.
        if client_seq % 3 == 0 {
            assert!(bench.reject(client_seq, RejectCode::Blocked).is_some());
        } else {
            bench.accept(client_seq);
        }
        assert!(bench.pump().is_empty(), "{client_seq} may be forgotten");
    }
    assert_eq!(bench.syncs, 1);
    bench.accept(SENDS_UNSYNCED_MAX as u64);
    assert_eq!(bench.pump().len(), SENDS_UNSYNCED_MAX);
    assert_eq!(bench.syncs, 2);
}

#[test]
fn a_busy_gateway_gets_everything_again_in_order_and_later() {
    let mut bench = Bench::new();
    bench.outbox.add(waiting(1..=3, true));
    assert_eq!(bench.pump(), ["1", "2", "3"]);
    assert_eq!(bench.reject(1, RejectCode::Busy), None);
    assert!(bench.pump().is_empty(), "2 and 3 are still in flight");
    bench.reject(2, RejectCode::Busy);
    bench.reject(3, RejectCode::Busy);
    bench.outbox.add(waiting(4..=4, true));
    assert!(bench.pump().is_empty(), "the pause holds new messages too");
    bench.now = bench.outbox.timeout().expect("a pause");
    assert_eq!(bench.pump(), ["1", "2", "3", "4"]);
}

#[test]
fn the_time_that_a_rejection_names_is_waited_for_and_the_order_is_kept() {
    let mut bench = Bench::new();
    bench.outbox.add(waiting(1..=4, true));
    assert_eq!(bench.pump(), ["1", "2", "3", "4"]);
    bench.accept(1);
    // What is behind a rejected one is rejected with it; the times it names only shrink.
    for (client_seq, retry_after_ms) in [(2, 2_500), (3, 2_499), (4, 2_490)] {
        let end = bench.reject_for(client_seq, RejectCode::RateLimited, retry_after_ms);
        assert_eq!(end, None);
    }
    let start = bench.now;
    assert!(bench.pump().is_empty());
    let until = start + Duration::from_millis(2_500);
    assert_eq!(bench.outbox.timeout(), Some(until));
    bench.now = until - Duration::from_millis(1);
    assert!(bench.pump().is_empty());
    bench.now = until;
    assert_eq!(bench.pump(), ["2", "3", "4"], "under the same numbers");
}

#[test]
fn a_stale_number_renumbers_what_is_left_once_everything_is_answered() {
    let mut bench = Bench::new();
    bench.outbox.add(waiting(1..=4, true));
    assert_eq!(bench.pump(), ["1", "2", "3", "4"]);
    bench.reject(1, RejectCode::StaleClientSeq);
    bench.reject(2, RejectCode::StaleClientSeq);
    bench.accept(3);
    assert!(bench.pump().is_empty(), "4 is still in flight");
    bench.reject(4, RejectCode::StaleClientSeq);
    assert_eq!(bench.pump(), ["renumber"]);
    let id = |n: u8| MessageId([n; 16]);
    bench.outbox.renumbered(
        conversation(),
        &[(id(1), seq(11)), (id(2), seq(12)), (id(4), seq(13))],
    );
    assert_eq!(bench.pump(), ["11", "12", "13"]);
}

#[test]
fn a_message_that_the_client_has_no_longer_does_not_go_round_for_ever() {
    let mut bench = Bench::new();
    bench.outbox.add(waiting(1..=2, true));
    assert_eq!(bench.pump(), ["1", "2"]);
    bench.reject(1, RejectCode::StaleClientSeq);
    bench.reject(2, RejectCode::StaleClientSeq);
    assert_eq!(bench.pump(), ["renumber"]);
    // The event of the first has come meanwhile: it was accepted long ago.
    let second = (MessageId([2; 16]), seq(11));
    bench.outbox.renumbered(conversation(), &[second]);
    assert_eq!(bench.pump(), ["11"]);
    bench.accept(11);
    assert!(bench.pump().is_empty());
}

#[test]
fn a_refused_message_does_not_hold_up_the_next() {
    let mut bench = Bench::new();
    bench.outbox.add(waiting(1..=2, true));
    assert_eq!(bench.pump(), ["1", "2"]);
    let end = bench.reject(1, RejectCode::NotAMember);
    assert!(
        matches!(
            end,
            Some(Settled::Refused {
                client_seq: Some(_),
                ..
            })
        ),
        "{end:?}"
    );
    bench.accept(2);
    assert!(bench.pump().is_empty());
}

#[test]
fn a_conversation_that_vanished_is_opened_again() {
    let mut bench = Bench::new();
    bench.outbox.add(waiting(1..=1, true));
    assert_eq!(bench.pump(), ["1"]);
    assert_eq!(bench.reject(1, RejectCode::UnknownConversation), None);
    assert_eq!(bench.pump(), ["open"]);
    bench.outbox.opened(conversation());
    assert_eq!(bench.pump(), ["1"]);
}

#[test]
fn a_peer_that_does_not_exist_ends_the_whole_lane() {
    let mut bench = Bench::new();
    bench.outbox.add(waiting(1..=2, false));
    assert_eq!(bench.pump(), ["open"]);
    let rejection = Rejection::new(RejectCode::UnknownUser, "");
    let end = bench
        .outbox
        .not_opened(bench.now, conversation(), rejection);
    assert!(
        matches!(
            end,
            Some(Settled::Refused {
                client_seq: None,
                ..
            })
        ),
        "{end:?}"
    );
    assert!(bench.pump().is_empty());
}
