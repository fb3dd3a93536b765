//! The changes of a device against a gateway that puts off, forgets and falls silent, and a disk that loses power.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::credentials::{Credentials, Hello};
use crate::frame::{self, FrameDecoder, FrameType, StreamKind};
use crate::id::{Cursor, DeviceId, TimestampMs, UserId};
use crate::limits::DEDUP_WINDOW;
use crate::session::ClientOutput;
use crate::welcome::{Limits, Welcome};
use crate::wire;

fn number(client_seq: u64) -> ClientSeq {
    ClientSeq::new(client_seq).expect("not 0")
}

/// A sign that says which wish it is, on the n-th message.
fn sign(message: u64, wish: u64) -> Change {
    Change::React {
        conversation: ConversationId([7; 16]),
        seq: Seq::new(message).expect("not 0"),
        emoji: wish.to_string(),
        on: true,
    }
}

fn kept(client_seq: u64, change: Change) -> Unanswered {
    Unanswered {
        client_seq: number(client_seq),
        change,
        kept: true,
    }
}

fn asked(client_seq: u64) -> Unanswered {
    Unanswered {
        client_seq: number(client_seq),
        change: Change::Leave(ConversationId([0xff; 16])),
        kept: false,
    }
}

/// One COMMAND that the gateway reads.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Read {
    request: RequestId,
    client_seq: u64,
    change: Change,
}

/// A session that is let in, with the gateway's end of it.
struct Line {
    now: Instant,
    session: ClientSession,
    gateway: FrameDecoder,
}

impl Line {
    fn new(now: Instant) -> Self {
        let name = UserId::new("alice").expect("a name");
        let device = DeviceId::new(7).expect("not 0");
        let credentials = Credentials::Session {
            name,
            device,
            token: [1; 32],
        };
        let hello = Hello {
            agent: String::new(),
            credentials,
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
        let welcome = wire::Welcome::from(welcome);
        frame::encode(FrameType::Welcome, &welcome, &mut bytes);
        session.handle_s0(now, &mut bytes.freeze());
        let gateway = FrameDecoder::new(StreamKind::S0FromClient);
        let mut line = Self {
            now,
            session,
            gateway,
        };
        assert!(line.read().is_empty());
        line
    }

    fn read(&mut self) -> Vec<Read> {
        let mut commands = Vec::new();
        while let Some(output) = self.session.poll_output() {
            let ClientOutput::Transmit(mut bytes) = output else {
                continue;
            };
            while bytes.has_remaining() {
                let Some(frame) = self.gateway.decode(&mut bytes).expect("frames") else {
                    break;
                };
                if frame.kind == FrameType::Command {
                    let command: wire::Command = frame.message().expect("a COMMAND");
                    let (request, client_seq, change) = command.try_into().expect("in range");
                    commands.push(Read {
                        request,
                        client_seq: client_seq.map_or(0, ClientSeq::get),
                        change,
                    });
                }
            }
        }
        commands
    }
}

/// A machine on a line whose disk is synced whenever it is asked for.
struct Bench {
    line: Line,
    changes: Changes,
    requests: u64,
    syncs: usize,
}

impl Bench {
    fn new(waiting: Vec<Unanswered>) -> Self {
        let mut changes = Changes::default();
        changes.begin(waiting);
        Self {
            line: Line::new(Instant::now()),
            changes,
            requests: 0,
            syncs: 0,
        }
    }

    /// The client seqs that go out now, and those that need new ones.
    fn pump(&mut self) -> (Vec<u64>, Vec<u64>) {
        loop {
            let line = &mut self.line;
            let pumped = self
                .changes
                .pump(line.now, &mut line.session, &mut self.requests);
            if pumped.sync {
                self.syncs += 1;
                self.changes.synced();
                continue;
            }
            let sent = self
                .line
                .read()
                .iter()
                .map(|read| read.client_seq)
                .collect();
            let renumber = pumped.renumber.iter().map(|old| old.get()).collect();
            return (sent, renumber);
        }
    }

    fn sent(&mut self) -> Vec<u64> {
        let (sent, renumber) = self.pump();
        assert!(renumber.is_empty(), "{renumber:?}");
        sent
    }

    fn answer(&mut self, request: u64, outcome: Outcome) -> Option<Answered> {
        self.changes
            .answered(self.line.now, RequestId(request), outcome)
    }

    fn reject(&mut self, request: u64, code: RejectCode) -> Option<Answered> {
        self.answer(request, Outcome::Rejected(Rejection::new(code, "no")))
    }

    fn next_connection(&mut self, waiting: Vec<Unanswered>) {
        self.changes.end_connection();
        self.changes.begin(waiting);
        self.line = Line::new(self.line.now);
    }
}

#[test]
fn what_has_no_answer_is_asked_for_again_in_its_order() {
    let waiting = vec![
        kept(1, sign(1, 1)),
        kept(2, sign(2, 2)),
        kept(5, sign(3, 5)),
    ];
    let mut bench = Bench::new(waiting);
    assert_eq!(bench.sent(), [1, 2, 5]);
    assert_eq!(bench.syncs, 1, "what was answered before is durable first");
    let end = bench.answer(1, Outcome::Done).expect("an end");
    assert_eq!(
        (end.client_seq, end.kept, end.end),
        (number(2), true, ChangeEnd::Done)
    );
    bench.changes.add(asked(6));
    assert_eq!(bench.sent(), [6]);
    bench.next_connection(vec![kept(1, sign(1, 1)), kept(5, sign(3, 5))]);
    assert!(!bench.changes.is_waiting());
    assert_eq!(bench.sent(), [1, 5, 6]);
    // A late answer of the connection before is nobody's.
    assert_eq!(bench.answer(2, Outcome::Done), None);
    let refused = bench.reject(4, RejectCode::Forbidden).expect("an end");
    assert!(matches!(refused.end, ChangeEnd::Refused(_)));
    assert_eq!(refused.client_seq, number(1));
}

#[test]
fn changes_of_one_message_go_one_after_the_other() {
    let waiting = vec![
        kept(1, sign(1, 1)),
        kept(2, sign(1, 2)),
        kept(3, sign(2, 3)),
    ];
    let mut bench = Bench::new(waiting);
    assert_eq!(bench.sent(), [1, 3]);
    assert!(bench.answer(0, Outcome::Done).is_some());
    assert_eq!(bench.sent(), [2]);
}

#[test]
fn what_is_put_off_is_asked_for_again_and_nothing_of_its_message_before_it() {
    let waiting = vec![
        kept(1, sign(1, 1)),
        kept(2, sign(1, 2)),
        kept(3, sign(2, 3)),
    ];
    let mut bench = Bench::new(waiting);
    assert_eq!(bench.sent(), [1, 3]);
    assert_eq!(bench.reject(0, RejectCode::Busy), None);
    assert!(bench.answer(1, Outcome::Done).is_some());
    assert_eq!(bench.sent(), [0_u64; 0], "a pause");
    bench.line.now = bench.changes.timeout().expect("a pause");
    assert_eq!(bench.sent(), [1]);
    // The later one was decided meanwhile, so the first one is too late under its number.
    assert_eq!(bench.reject(2, RejectCode::StaleClientSeq), None);
    assert_eq!(bench.pump(), (vec![], vec![1, 2]));
    let new = [(number(1), number(10)), (number(2), number(11))];
    bench.changes.renumbered(&new);
    assert_eq!(bench.sent(), [10]);
    assert!(bench.answer(3, Outcome::Done).is_some());
    assert_eq!(bench.sent(), [11]);
}

#[test]
fn whoever_waits_is_told_of_a_rejection_for_now() {
    let mut bench = Bench::new(Vec::new());
    bench.changes.add(asked(1));
    assert_eq!(bench.sent(), [1]);
    let end = bench.reject(0, RejectCode::RateLimited).expect("an end");
    assert!(matches!(end.end, ChangeEnd::Refused(_)));
    bench.changes.add(asked(2));
    assert_eq!(bench.sent(), [2]);
    bench.next_connection(Vec::new());
    assert_eq!(bench.sent(), [2]);
    // The copy of before may still come.
    let end = bench.reject(2, RejectCode::RateLimited).expect("an end");
    assert!(matches!(end.end, ChangeEnd::Unknown(_)));
    bench.changes.add(asked(3));
    assert_eq!(bench.sent(), [3]);
    bench.changes.retain_asked(|_| false);
    assert_eq!(bench.changes.asked(), 0);
    assert_eq!(bench.answer(3, Outcome::Done), None);
}

#[test]
fn no_number_goes_out_that_is_far_above_the_oldest_one_without_a_durable_answer() {
    let max = CHANGES_IN_FLIGHT_MAX as u64;
    let all = (1..=2 * max).map(|at| kept(at, sign(at, at)));
    let mut bench = Bench::new(all.collect());
    assert_eq!(bench.sent(), (1..=max).collect::<Vec<_>>());
    for request in 1..max {
        assert!(bench.answer(request, Outcome::Done).is_some());
    }
    assert_eq!(bench.sent(), [0_u64; 0], "the oldest has no answer");
    assert_eq!(bench.syncs, 1);
    assert!(bench.answer(0, Outcome::Done).is_some());
    assert_eq!(bench.sent(), (max + 1..=2 * max).collect::<Vec<_>>());
    assert_eq!(
        bench.syncs, 2,
        "one sync for as many as a gateway remembers"
    );
}

// ---------------------------------------------------------------- a world that goes wrong

/// One shard of a gateway: it decides above the highest number, remembers the last answers, and puts off when it likes.
#[derive(Default)]
struct Shard {
    answered: VecDeque<u64>,
    made: Vec<Change>,
}

impl Shard {
    fn take(&mut self, read: &Read) -> Outcome {
        let rejected = |code| Outcome::Rejected(Rejection::new(code, ""));
        if self.answered.contains(&read.client_seq) {
            return Outcome::Done;
        }
        if self
            .answered
            .back()
            .is_some_and(|last| read.client_seq < *last)
        {
            return rejected(RejectCode::StaleClientSeq);
        }
        self.answered.push_back(read.client_seq);
        if self.answered.len() > DEDUP_WINDOW {
            self.answered.pop_front();
        }
        self.made.push(read.change.clone());
        Outcome::Done
    }
}

/// What a client has on its disk: changes by their local number, each under its client seq.
#[derive(Clone, Default)]
struct Disk {
    waiting: BTreeMap<u64, Unanswered>,
}

/// A device and its gateway.
struct World {
    line: Line,
    changes: Changes,
    requests: u64,
    disk: Disk,
    synced: Disk,
    next: u64,
    wishes: u64,
    /// Wishes that a loss of power took back.
    lost: Vec<u64>,
    shards: [Shard; 2],
    under_way: VecDeque<Read>,
}

const MESSAGES: u64 = 5;
/// Messages that a burst is about: one each, so that all go at once.
const BURST: std::ops::Range<u64> = 100..180;

impl World {
    fn new() -> Self {
        Self {
            line: Line::new(Instant::now()),
            changes: Changes::default(),
            requests: 0,
            disk: Disk::default(),
            synced: Disk::default(),
            next: 1,
            wishes: 0,
            lost: Vec::new(),
            shards: Default::default(),
            under_way: VecDeque::new(),
        }
    }

    fn take_number(&mut self) -> ClientSeq {
        self.next += 1;
        number(self.next - 1)
    }

    fn wish(&mut self, message: u64) {
        self.wishes += 1;
        let one = kept(self.take_number().get(), sign(message, self.wishes));
        self.disk.waiting.insert(self.wishes, one.clone());
        self.changes.add(one);
    }

    fn pump(&mut self) {
        loop {
            let line = &mut self.line;
            let pumped = self
                .changes
                .pump(line.now, &mut line.session, &mut self.requests);
            self.under_way.extend(line.read());
            if pumped.sync {
                self.synced = self.disk.clone();
                self.changes.synced();
                continue;
            }
            if pumped.renumber.is_empty() {
                return;
            }
            let mut renumbered = Vec::new();
            for old in pumped.renumber {
                let new = self.take_number();
                let mut waiting = self.disk.waiting.values_mut();
                let found = waiting.find(|one| one.client_seq == old).expect("on disk");
                found.client_seq = new;
                renumbered.push((old, new));
            }
            self.synced = self.disk.clone();
            self.changes.renumbered(&renumbered);
        }
    }

    /// The gateway takes the next command; or puts it off, or its answer is lost with the connection.
    fn serve(&mut self, busy: bool) {
        let Some(read) = self.under_way.pop_front() else {
            return;
        };
        let outcome = if busy {
            Outcome::Rejected(Rejection::new(RejectCode::Busy, ""))
        } else {
            let Change::React { seq, .. } = &read.change else {
                panic!("{read:?}");
            };
            self.shards[(seq.get() % 2) as usize].take(&read)
        };
        if let Some(end) = self.changes.answered(self.line.now, read.request, outcome) {
            assert_eq!(end.end, ChangeEnd::Done);
            let waiting = &mut self.disk.waiting;
            waiting.retain(|_, one| one.client_seq != end.client_seq);
        }
    }

    /// The connection breaks; `decided` of what was under way is decided all the same.
    fn reconnect(&mut self, decided: usize) {
        for read in self.under_way.drain(..).take(decided) {
            let Change::React { seq, .. } = &read.change else {
                panic!("{read:?}");
            };
            let _ = self.shards[(seq.get() % 2) as usize].take(&read);
        }
        let mut waiting: Vec<_> = self.disk.waiting.values().cloned().collect();
        waiting.sort_by_key(|one| one.client_seq);
        self.changes.begin(waiting);
        self.line = Line::new(self.line.now);
    }

    fn lose_power(&mut self) {
        let (before, after) = (&self.disk.waiting, &self.synced.waiting);
        let gone = before.keys().filter(|wish| !after.contains_key(wish));
        self.lost.extend(gone);
        self.disk = self.synced.clone();
        self.changes = Changes::default();
    }

    fn check(mut self) -> Result<(), TestCaseError> {
        for _ in 0..10_000 {
            self.pump();
            if self.under_way.is_empty() {
                let Some(until) = self.changes.timeout() else {
                    break;
                };
                self.line.now = until;
            }
            self.serve(false);
        }
        prop_assert!(self.disk.waiting.is_empty(), "{:?}", self.disk.waiting);
        let mut made: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for change in self.shards.iter().flat_map(|shard| &shard.made) {
            let Change::React { seq, emoji, .. } = change else {
                panic!("{change:?}");
            };
            let wish = emoji.parse().expect("a number");
            made.entry(seq.get()).or_default().push(wish);
        }
        for wishes in made.values() {
            let ascends = wishes.windows(2).all(|two| two[0] < two[1]);
            prop_assert!(ascends, "out of order or twice: {wishes:?}");
        }
        let all = made.values().flatten();
        let missing = (1..=self.wishes)
            .filter(|wish| !self.lost.contains(wish) && !all.clone().any(|made| made == wish));
        prop_assert_eq!(missing.collect::<Vec<_>>(), Vec::<u64>::new());
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Step {
    Wish(u64),
    /// Many at once, all of them answered.
    Burst,
    /// Messages take numbers too.
    Messages(u64),
    Pump,
    Serve,
    Busy,
    Wait,
    Reconnect(usize),
    LosePower(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..=MESSAGES).prop_map(Step::Wish),
        1 => Just(Step::Burst),
        1 => (1..100_u64).prop_map(Step::Messages),
        6 => Just(Step::Pump),
        8 => Just(Step::Serve),
        2 => Just(Step::Busy),
        2 => Just(Step::Wait),
        1 => (0..20_usize).prop_map(Step::Reconnect),
        1 => (0..20_usize).prop_map(Step::LosePower),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is put off, cut off and forgotten: every change is made once, those of one message in their order.
    #[test]
    fn every_change_is_made_once_and_in_the_order_of_its_message(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Wish(message) => world.wish(message),
                Step::Burst => {
                    BURST.for_each(|message| world.wish(message));
                    for _ in BURST {
                        world.pump();
                        world.serve(false);
                    }
                }
                Step::Messages(count) => world.next += count,
                Step::Pump => world.pump(),
                Step::Serve => world.serve(false),
                Step::Busy => world.serve(true),
                Step::Wait => world.line.now += Duration::from_secs(2),
                Step::Reconnect(decided) => world.reconnect(decided),
                Step::LosePower(decided) => {
                    world.lose_power();
                    world.reconnect(decided);
                }
            }
        }
        world.check()?;
    }
}
