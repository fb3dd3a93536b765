//! A client's and a gateway's machine in lock-step over a link that loses everything whenever it is cut: every message is
//! accepted once and in order, and every event reaches the device once and in order.

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use common::{client_seq, conversation, device, inbox_seq, seq, start, user, welcome};
use proptest::collection::vec;
use proptest::prelude::*;
use quipu_protocol::event::{
    Content, DeviceCommand, Event, EventBody, Message, Outcome, Reply, ReplyTo,
};
use quipu_protocol::id::{ClientSeq, Cursor, MessageId, TimestampMs, UserId};
use quipu_protocol::limits::{DELIVERY_WINDOW_EVENTS, SENDS_IN_FLIGHT_MAX};
use quipu_protocol::session::{
    ClientOutput, ClientSession, LaneId, SendBlocked, ServerOutput, ServerSession,
};
use quipu_protocol::welcome::Welcome;

const LIFE: u64 = 9;

/// What can happen.
#[derive(Debug, Clone)]
enum Step {
    /// The user writes messages.
    Write(usize),
    /// Ben's messages arrive at the gateway.
    Receive(usize),
    /// Up to so many bytes pass from the client to the gateway, on S0 down, on the lane.
    Up(usize),
    Down(usize),
    Lane(usize),
    /// Time passes on both sides.
    Wait(u64),
    /// The connection dies, with all that is on its way.
    Cut,
}

fn any_step() -> impl Strategy<Value = Step> {
    let bytes = || prop_oneof![1..40_usize, 1..4_000_usize];
    prop_oneof![
        4 => (1..40_usize).prop_map(Step::Write),
        4 => (1..60_usize).prop_map(Step::Receive),
        8 => bytes().prop_map(Step::Up),
        8 => bytes().prop_map(Step::Down),
        8 => bytes().prop_map(Step::Lane),
        3 => (1..150_u64).prop_map(Step::Wait),
        2 => Just(Step::Cut),
    ]
}

proptest! {
    // A failure prints its input; what it teaches becomes a script with a name, not a file of seeds.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_doubled(steps in vec(any_step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.perform(step);
        }
        world.heal();
        let written: Vec<u64> = (1..=world.device.written).collect();
        prop_assert_eq!(world.gateway.accepted_from(&user("ana")), written);
        prop_assert_eq!(&world.device.events, &world.gateway.inbox);
        prop_assert!(world.device.unanswered.is_empty());
        prop_assert_eq!(world.gateway.acked.0, world.gateway.inbox.len() as u64);
    }
}

/// What outlives connections on the device: its outbox, and the events that it has stored.
#[derive(Default)]
struct Device {
    written: u64,
    unanswered: VecDeque<ClientSeq>,
    /// How many of `unanswered` were sent on this connection.
    sent: usize,
    events: Vec<Event>,
}

/// A gateway reduced to what the protocol promises: one conversation with its dedup, one inbox.
struct Gateway {
    last: u64,
    remembered: BTreeMap<ClientSeq, u64>,
    inbox: Vec<Event>,
    acked: Cursor,
    /// Highest event written to this connection's lane.
    pushed: usize,
}

/// One connection and the bytes on its way.
struct Link {
    client: ClientSession,
    server: ServerSession,
    up: BytesMut,
    down: BytesMut,
    lane: BytesMut,
}

struct World {
    now: Instant,
    device: Device,
    gateway: Gateway,
    link: Link,
}

impl World {
    fn new() -> Self {
        let now = start();
        let mut world = Self {
            now,
            device: Device::default(),
            gateway: Gateway {
                last: 0,
                remembered: BTreeMap::new(),
                inbox: Vec::new(),
                acked: Cursor::START,
                pushed: 0,
            },
            link: Link::new(now, 0),
        };
        world.settle();
        world
    }

    fn perform(&mut self, step: &Step) {
        match step {
            Step::Write(count) => {
                for _ in 0..*count {
                    self.device.written += 1;
                    let number = client_seq(self.device.written);
                    self.device.unanswered.push_back(number);
                }
            }
            Step::Receive(count) => {
                for _ in 0..*count {
                    self.gateway.accept(user("ben"), ClientSeq::FIRST);
                }
            }
            Step::Up(bytes) => {
                let mut part = self.link.up.split_to(self.link.up.len().min(*bytes));
                while part.has_remaining() {
                    self.link.server.handle_bytes(self.now, &mut part);
                    self.settle();
                }
            }
            Step::Down(bytes) => {
                let mut part = self.link.down.split_to(self.link.down.len().min(*bytes));
                while part.has_remaining() {
                    self.link.client.handle_s0(self.now, &mut part);
                    self.settle();
                }
            }
            Step::Lane(bytes) => {
                let mut part = self.link.lane.split_to(self.link.lane.len().min(*bytes));
                while part.has_remaining() {
                    let lane = LaneId(3);
                    self.link.client.handle_lane(self.now, lane, &mut part);
                    self.settle();
                }
            }
            Step::Wait(ms) => {
                self.now += Duration::from_millis(*ms);
                self.link.client.handle_timeout(self.now);
                // The gateway's timers are about HELLO: here they would only be another cut.
            }
            Step::Cut => {
                self.link = Link::new(self.now, self.device.events.len() as u64);
                self.device.sent = 0;
                self.gateway.pushed = usize::MAX;
            }
        }
        self.settle();
    }

    /// Lets everything arrive. Ends, or the machines are at a loss.
    fn heal(&mut self) {
        for _ in 0..10_000 {
            let idle = self.link.up.is_empty()
                && self.link.down.is_empty()
                && self.link.lane.is_empty()
                && self.link.client.poll_timeout().is_none();
            if idle {
                return;
            }
            for step in [
                Step::Up(usize::MAX),
                Step::Down(usize::MAX),
                Step::Lane(usize::MAX),
                Step::Wait(100),
            ] {
                self.perform(&step);
            }
        }
        panic!("the pair does not come to rest");
    }

    /// Performs what both machines ask for until neither asks for more.
    fn settle(&mut self) {
        loop {
            self.device.send(&mut self.link.client);
            self.gateway.push(&mut self.link);
            let mut quiet = true;
            while let Some(output) = self.link.client.poll_output() {
                quiet = false;
                self.device.perform(self.now, &mut self.link, output);
            }
            while let Some(output) = self.link.server.poll_output() {
                quiet = false;
                self.gateway.perform(&mut self.link, output);
            }
            if quiet {
                return;
            }
        }
    }
}

impl Link {
    fn new(now: Instant, cursor: u64) -> Self {
        Self {
            client: ClientSession::new(now, common::session(cursor, LIFE)),
            server: ServerSession::new(now),
            up: BytesMut::new(),
            down: BytesMut::new(),
            lane: BytesMut::new(),
        }
    }
}

impl Device {
    /// Sends what was not sent on this connection, in order, as far as there is room.
    fn send(&mut self, client: &mut ClientSession) {
        while let Some(number) = self.unanswered.get(self.sent) {
            let text = Content::Text(number.to_string());
            match client.send(conversation(), *number, MessageId([0xab; 16]), text) {
                Ok(()) => self.sent += 1,
                Err(
                    SendBlocked::NotWelcomed
                    | SendBlocked::ConversationFull
                    | SendBlocked::OutputFull,
                ) => return,
                Err(blocked) => panic!("{blocked}"),
            }
            assert!(client.in_flight() <= SENDS_IN_FLIGHT_MAX);
        }
    }

    fn perform(&mut self, now: Instant, link: &mut Link, output: ClientOutput) {
        match output {
            ClientOutput::Transmit(bytes) => link.up.extend_from_slice(&bytes),
            ClientOutput::Welcomed(welcome) => assert!(welcome.resumed),
            ClientOutput::Event(event) => {
                if let EventBody::Message(message) = &event.body
                    && message.from == user("ana")
                {
                    self.answered(message.client_seq);
                }
                self.events.push(event);
                link.client.kept(now, Cursor(self.events.len() as u64));
            }
            ClientOutput::Notice(notice) => panic!("nobody sends notices here: {notice:?}"),
            ClientOutput::Reply(reply) => match (reply.to, reply.outcome) {
                (ReplyTo::Send { client_seq, .. }, Outcome::Accepted(_)) => {
                    self.answered(client_seq);
                }
                other => panic!("no message is refused here: {other:?}"),
            },
            ClientOutput::GoAway(_) | ClientOutput::Close { .. } => {
                panic!("neither side breaks a rule: {output:?}")
            }
        }
    }

    /// An answer to a message; a later one to the same message says nothing new.
    fn answered(&mut self, number: ClientSeq) {
        if let Some(index) = self.unanswered.iter().position(|other| *other == number) {
            self.unanswered.remove(index);
            if index < self.sent {
                self.sent -= 1;
            }
        }
    }
}

impl Gateway {
    fn perform(&mut self, link: &mut Link, output: ServerOutput) {
        match output {
            ServerOutput::Transmit(bytes) => link.down.extend_from_slice(&bytes),
            ServerOutput::Authenticate(hello) => {
                let resume = hello.resume.expect("the device names its cursor");
                link.server.welcome(Welcome {
                    token: None,
                    resumed: true,
                    cursor: resume.cursor,
                    life: LIFE,
                    ..welcome()
                });
                // The lane is written at once, so that it can overtake WELCOME.
                link.lane.extend_from_slice(&common::lane_frame());
                self.pushed = resume.cursor.0 as usize;
                self.acked = resume.cursor;
            }
            ServerOutput::Command(DeviceCommand::Send { client_seq, .. }) => {
                self.send(link, client_seq);
            }
            ServerOutput::Command(other) => panic!("the device sends messages only: {other:?}"),
            ServerOutput::Refresh { .. } => panic!("the session does not expire"),
            ServerOutput::Acked(cursor) => {
                assert!(cursor.0 as usize <= self.pushed, "QP-ACK-2");
                self.acked = cursor;
            }
            ServerOutput::Close { code, reason } => panic!("closed with {code}: {reason}"),
        }
    }

    /// QP-SEND-4.
    fn send(&mut self, link: &mut Link, number: ClientSeq) {
        if let Some(place) = self.remembered.get(&number) {
            link.server.reply(&Reply {
                to: ReplyTo::Send {
                    conversation: conversation(),
                    client_seq: number,
                },
                outcome: Outcome::Accepted(seq(*place)),
            });
            return;
        }
        let last = self.remembered.last_key_value().map(|(number, _)| *number);
        assert!(last.is_none_or(|last| last < number), "sent in order");
        self.accept(user("ana"), number);
        self.remembered.insert(number, self.last);
    }

    fn accept(&mut self, from: UserId, number: ClientSeq) {
        self.last += 1;
        let message = Message {
            conversation: conversation(),
            seq: seq(self.last),
            id: MessageId([0xab; 16]),
            from,
            from_device: device(),
            client_seq: number,
            to: None,
            sent_at: TimestampMs(self.last),
            content: Content::Text(number.to_string()),
            state: None,
        };
        self.inbox.push(Event {
            inbox_seq: inbox_seq(self.last),
            body: EventBody::Message(message),
        });
    }

    /// Writes to the lane what the delivery window allows; `usize::MAX` pushed: nobody is welcomed.
    fn push(&mut self, link: &mut Link) {
        if !link.server.is_welcomed() {
            return;
        }
        while let Some(event) = self.inbox.get(self.pushed) {
            if self.pushed - self.acked.0 as usize >= DELIVERY_WINDOW_EVENTS {
                return;
            }
            link.lane.extend_from_slice(&common::event_frame(event));
            self.pushed += 1;
        }
    }

    /// Client seqs of a user's messages in the order of the conversation.
    fn accepted_from(&self, name: &UserId) -> Vec<u64> {
        self.inbox
            .iter()
            .filter_map(|event| match &event.body {
                EventBody::Message(message) if message.from == *name => {
                    Some(message.client_seq.get())
                }
                EventBody::Message(_)
                | EventBody::Receipt(_)
                | EventBody::Changed(_)
                | EventBody::Invitation(_) => None,
            })
            .collect()
    }
}
