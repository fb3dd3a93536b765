//! The scenario engine: what all simulated devices of a process share. Devices are tasks on one thread and meet here.

mod connect;
mod edits;
mod last;
mod media;
mod opening;
mod phases;
mod places;
mod pull;
mod pump;
mod receipts;
mod request;
mod sampler;
mod seat;
mod transfer;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) use phases::{Job, Pid, info, run};
use quipu_protocol::credentials::Resume;
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::{
    Content, Event, EventBody, Message, Outcome, Rejection, Reply, ReplyTo, Rich,
};
use quipu_protocol::id::{ClientSeq, ConversationId, RequestId, TimestampMs, UserId};
use quipu_protocol::welcome::Welcome;
pub(crate) use sampler::Look;
use tokio::sync::Semaphore;

use self::media::{File, Job as Task};
use self::opening::Opening;
use self::places::Places;
use self::seat::{Arrival, Leave, Line, Order, Seat};
use crate::account::Account;
use crate::measure::{Failure, Latencies, Totals, Verdicts, count_failure};
use crate::pacer::Pacer;
use crate::payload::{Label, Tag};
use crate::ports::Ports;
use crate::scenario::{Extras, Scenario};
use crate::second::Second;
use crate::seed::{Purpose, Seed};
use crate::verify::{Ledger, Observation, RunId, Way};

/// Messages of a conversation under way at the most; what is due above it is shed and counted.
const UNDER_WAY_MAX: u32 = 4_096;
/// What one read takes from a stream at the most.
const READ_BYTES: usize = 16 << 10;
/// Back-off of devices that lose their connection outside a storm.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Everything on this thread.
pub(crate) struct World {
    engine: RefCell<Engine>,
    ports: Ports,
    accounts: Vec<Account>,
    /// Of devices that connect.
    turns: Semaphore,
    /// Of devices that read histories.
    reads: Semaphore,
    /// Of files on their way.
    transfers: Semaphore,
    /// For reading: one buffer serves all devices in turn.
    buffer: RefCell<Box<[u8]>>,
}

/// Counts since the run began.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    due: u64,
    sent: u64,
    acked: u64,
    delivered: u64,
    shed: u64,
    logins: u64,
    lost: u64,
    attempts: u64,
    /// Of those thrown off by the present storm.
    returned: u64,
}

/// How sends are started.
#[derive(Debug)]
enum Sending {
    Nothing,
    Closed,
    Open { pacer: Pacer, began: Instant },
}

/// A command that the gateway was too busy for.
struct PutOff {
    command: Command,
    /// How long to wait before it is given again.
    wait: Duration,
}

/// What a device asks of the gateway.
enum Command {
    Open,
    /// A message, and the phase that it was due in.
    Send(Order, Option<u16>),
    Edit(RequestId),
}

/// A storm that is going on.
#[derive(Debug)]
struct Weather {
    began: Instant,
    away: Duration,
    returns_ms: Vec<u32>,
    attempts: u64,
}

/// The state of a run.
struct Engine {
    seed: Seed,
    seats: Vec<Seat>,
    ledger: Ledger,
    places: Places,
    /// Whose device each is; empty where nobody talks.
    users: Vec<UserId>,
    /// How far each conversation is, and how many are not open.
    openings: Vec<Opening>,
    unopened: usize,
    /// Messages of each conversation that are not finished.
    unfinished: Vec<u32>,
    /// Messages started by each conversation in a closed loop.
    turns: Vec<u64>,
    extras: Extras,
    /// What tasks of their own are to do; started at once by whoever comes out of the engine.
    jobs: Vec<Task>,
    /// Files that were brought.
    files: Vec<File>,
    /// Messages that could have brought one.
    media_number: u64,
    /// Files that are on their way up or wait for it, and files on their way down.
    transfers_waiting: u64,
    downloads_under_way: u64,
    edit_requests: u64,
    sending: Sending,
    bytes: (usize, usize),
    /// Number of the phase, and the latencies of each phase so far.
    phase: usize,
    latencies: Vec<Latencies>,
    /// Latencies of the second that is going on.
    second: Second,
    /// No messages yet: memory is that of connections alone.
    quiet: bool,
    counters: Counters,
    totals: Totals,
    failures: BTreeMap<String, Failure>,
    online: u64,
    /// Devices that are to be there: those with the lowest numbers.
    expected: usize,
    /// Messages that wait for the time that the gateway named.
    waiting: u64,
    late_after: Duration,
    /// The gateway's time when the first device was let in: what it stamped before is of an earlier run.
    gateway_began: Option<TimestampMs>,
    gateway_agent: String,
    client_seq: ClientSeq,
    last_event: Instant,
    backoff: (Duration, Duration),
    weather: Option<Weather>,
    over: bool,
}

impl Engine {
    fn new(scenario: &Scenario, run: RunId, accounts: &[Account]) -> Self {
        let places = Places::new(scenario);
        let conversations = places.len();
        let users: Vec<UserId> = match conversations {
            0 => Vec::new(),
            _ => accounts.iter().map(|account| account.name).collect(),
        };
        let mut ledger = Ledger::new(run);
        for number in 0..conversations {
            let one = places.get(number);
            let id = places.id(number, run, &users);
            ledger.add(id, &users[one.first..one.first + one.size]);
        }
        // Larger than any that the same devices used in an earlier run.
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let micros = since_1970.map_or(1, |time| time.as_micros().max(1) as u64);
        Self {
            seed: Seed(scenario.seed),
            seats: accounts.iter().map(|_| Seat::default()).collect(),
            ledger,
            places,
            users,
            openings: vec![Opening::default(); conversations],
            unopened: conversations,
            unfinished: vec![0; conversations],
            turns: vec![0; conversations],
            extras: scenario.extras,
            jobs: Vec::new(),
            files: Vec::new(),
            media_number: 0,
            transfers_waiting: 0,
            downloads_under_way: 0,
            edit_requests: 0,
            sending: Sending::Nothing,
            bytes: (0, 0),
            phase: 0,
            latencies: Vec::new(),
            second: Second::default(),
            quiet: true,
            counters: Counters::default(),
            totals: Totals::default(),
            failures: BTreeMap::new(),
            online: 0,
            expected: 0,
            waiting: 0,
            late_after: scenario.late_after,
            gateway_began: None,
            gateway_agent: String::new(),
            client_seq: ClientSeq::new(micros).unwrap_or(ClientSeq::FIRST),
            last_event: Instant::now(),
            backoff: BACKOFF,
            weather: None,
            over: false,
        }
    }

    fn is_over(&self) -> bool {
        self.over
    }

    // Devices coming and going.

    /// Where the device stopped.
    fn resume(&self, device: usize) -> Option<Resume> {
        self.seats[device].resume()
    }

    /// Says whether the device was away, and if so, that it is not any more.
    fn begin_connecting(&mut self, device: usize) -> Line {
        let seat = &mut self.seats[device];
        let before = seat.line;
        if before == Line::Away {
            seat.line = Line::Connecting;
        }
        before
    }

    fn attempted(&mut self, device: usize) {
        self.counters.attempts += 1;
        if let Some(weather) = &mut self.weather
            && self.seats[device].in_storm
        {
            weather.attempts += 1;
        }
    }

    /// The device was let in, `login` after it began to connect.
    fn welcomed(
        &mut self,
        device: usize,
        welcome: &Welcome,
        login: Duration,
        connection: &quinn::Connection,
    ) {
        let now = Instant::now();
        self.gateway_began.get_or_insert(welcome.server_time);
        if self.gateway_agent.is_empty() {
            self.gateway_agent.clone_from(&welcome.agent);
        }
        let seat = &mut self.seats[device];
        if seat.is_known() {
            self.totals.resumed += u64::from(welcome.resumed);
            self.totals.resynced += u64::from(!welcome.resumed);
        }
        self.totals.resent += seat.welcomed(welcome, now) as u64;
        seat.connection = Some(connection.clone());
        self.totals.logins += 1;
        self.counters.logins += 1;
        self.online += 1;
        let latencies = &mut self.latencies[self.phase];
        latencies.login.record(login);
        if let Some(thrown) = seat.thrown.take() {
            latencies.reconnect.record(now - thrown);
        }
        if std::mem::take(&mut seat.in_storm)
            && let Some(weather) = &mut self.weather
        {
            let after = now.saturating_duration_since(weather.began).as_millis();
            weather
                .returns_ms
                .push(u32::try_from(after).unwrap_or(u32::MAX));
            self.counters.returned += 1;
        }
        self.pull(device);
    }

    /// The device has no connection any more. Says how long it waits before it tries to come back.
    fn gone(&mut self, device: usize, now: Instant, asked: bool, rests: bool) -> Duration {
        let seat = &mut self.seats[device];
        seat.gone(now, rests);
        self.online -= 1;
        self.counters.lost += u64::from(!asked);
        let away = match &self.weather {
            Some(weather) if seat.in_storm => weather.away,
            _ => Duration::ZERO,
        };
        away + self.backoff(device, 0)
    }

    /// How long the device waits after so many attempts: uniform up to a bound that doubles.
    fn backoff(&self, device: usize, tried: u32) -> Duration {
        let (first, most) = self.backoff;
        let bound = first
            .saturating_mul(1_u32.checked_shl(tried).unwrap_or(u32::MAX))
            .min(most);
        let index = self.counters.attempts << 8 | u64::from(tried);
        bound.mul_f64(self.seed.unit(Purpose::Backoff, device as u64, index))
    }

    /// A connection is over that had sent so many packets.
    fn transmitted(&mut self, sent: u64, lost: u64) {
        self.totals.packets_sent += sent;
        self.totals.packets_lost += lost;
    }

    /// Something broke on the way.
    fn failed(&mut self, device: usize, what: &str, error: &anyhow::Error) {
        let kind = format!("{what}: {}", error.root_cause());
        let example = format!("device {device}: {error:#}");
        count_failure(&mut self.failures, &kind, 1, &example);
    }

    /// Asks a device to leave, if it is there.
    fn throw(&mut self, device: usize, leave: Leave, in_storm: bool) -> bool {
        let seat = &mut self.seats[device];
        if seat.line != Line::Online || seat.leave.is_some() {
            return false;
        }
        seat.leave = Some(leave);
        seat.in_storm = in_storm;
        seat.wake();
        true
    }

    /// What the run wants of a connected device: that it leaves, or that it does not read.
    fn attend(&mut self, device: usize, waker: &Waker) -> (Option<Leave>, bool) {
        let seat = &mut self.seats[device];
        seat.attend(waker);
        let now = Instant::now();
        for order in seat.look() {
            let lag = now.saturating_duration_since(order.due);
            self.second.lag.record(lag);
            self.latencies[self.phase].lag.record(lag);
        }
        (seat.leave, seat.paused)
    }

    // Messages on their way out.

    /// The device's connection.
    fn connection(&self, device: usize) -> Option<quinn::Connection> {
        self.seats[device].connection.clone()
    }

    /// The device's conversation, and how many members it has.
    fn conversation_of(&self, device: usize) -> Option<(ConversationId, usize)> {
        let (number, _) = self.places.of(device)?;
        let size = self.places.get(number).size;
        Some((self.ledger.conversation(number), size))
    }

    fn next_order(&self, device: usize) -> Option<Order> {
        self.seats[device].next()
    }

    fn new_client_seq(&mut self) -> ClientSeq {
        self.client_seq = self.client_seq.next();
        self.client_seq
    }

    fn compose(&self, order: &Order) -> (ConversationId, Content) {
        let label = &order.label;
        let conversation = self.ledger.conversation(self.ledger.place(label));
        let bytes = usize::from(order.bytes);
        let file = order
            .file
            .and_then(|number| self.files.get(number as usize));
        let content = match file {
            None => Content::Text(label.text(bytes, Tag::None)),
            Some(file) => Content::Rich(Box::new(Rich {
                text: label.text(bytes, file.tag()),
                attachments: vec![file.attachment()],
                ..Rich::default()
            })),
        };
        (conversation, content)
    }

    fn written(&mut self, device: usize, label: &Label, client_seq: ClientSeq) {
        self.counters.sent += 1;
        self.ledger.written(label, Instant::now());
        self.seats[device].written(client_seq);
    }

    /// Starts what is due now.
    fn pace(&mut self, until: Option<Instant>) {
        let Sending::Open { mut pacer, began } =
            std::mem::replace(&mut self.sending, Sending::Nothing)
        else {
            return;
        };
        let elapsed = until.unwrap_or_else(Instant::now) - began;
        while let Some((index, due)) = pacer.take(elapsed) {
            self.start_due(index, began + due);
        }
        self.sending = Sending::Open { pacer, began };
    }

    /// Starts message number `index` of an open loop, which was due at `due`.
    fn start_due(&mut self, index: u64, due: Instant) {
        self.counters.due += 1;
        let (conversation, side) = self.places.choose(self.seed, self.phase as u64, index);
        if self.unfinished[conversation] >= UNDER_WAY_MAX || self.is_full_of_files() {
            self.counters.shed += 1;
            self.totals.shed += 1;
            return;
        }
        self.start(conversation, side, due);
    }

    /// Starts the next message of a closed loop.
    fn start_turn(&mut self, conversation: usize) {
        let speakers = self.places.get(conversation).speakers as u64;
        // At most 256 speakers.
        let side = (self.turns[conversation] % speakers) as u8;
        self.turns[conversation] += 1;
        self.counters.due += 1;
        self.start(conversation, side, Instant::now());
    }

    fn start(&mut self, conversation: usize, side: u8, due: Instant) {
        self.unfinished[conversation] += 1;
        if self.brings_file(conversation, side, due) {
            return;
        }
        let order = self.order(conversation, side, due, self.phase as u16);
        let device = self.places.device(conversation, usize::from(side));
        let seat = &mut self.seats[device];
        if seat.line != Line::Online {
            // A person without a connection writes too; how late the generator is shows now.
            let lag = due.elapsed();
            self.second.lag.record(lag);
            self.latencies[self.phase].lag.record(lag);
        }
        seat.push(order);
    }

    /// Enters a message into the ledger.
    fn order(&mut self, conversation: usize, side: u8, due: Instant, phase: u16) -> Order {
        self.totals.messages += 1;
        let label = self.ledger.send(conversation, side, due, Some(phase));
        let (from, to) = self.bytes;
        let which = u64::from(label.pair) << 1 | u64::from(side);
        let extra = self
            .seed
            .below(Purpose::Bytes, which, label.counter, (to - from) as u64 + 1);
        Order {
            label,
            due,
            // At most the longest text, which has 14 bits.
            bytes: (from as u64 + extra) as u16,
            client_seq: None,
            file: None,
        }
    }

    // Messages on their way in.

    /// A device got an event.
    fn event(&mut self, device: usize, account: &Account, event: &Event, now: Instant) {
        self.last_event = now;
        if self.seats[device].arrived(event.inbox_seq.cursor()) == Arrival::Again {
            self.totals.wire_duplicates += 1;
            return;
        }
        let message = match &event.body {
            EventBody::Message(message) => message,
            EventBody::Receipt(receipt) => return self.receipt(device, receipt),
            EventBody::Changed(changed) => return self.changed(device, changed),
            // Groups are open: nobody invites anybody.
            EventBody::Invitation(_) => return,
        };
        if self
            .gateway_began
            .is_none_or(|began| message.sent_at < began)
        {
            self.totals.earlier += 1;
            return;
        }
        if message.from == account.name && message.from_device == account.device() {
            self.seats[device].answered(message.client_seq);
        }
        let Some(place) = self.places.of(device) else {
            return self.ledger.misdelivered();
        };
        let is_note = matches!(message.content, Content::Note(_));
        if is_note && self.places.get(place.0).is_group {
            self.totals.notes += 1;
            self.ledger.note(place.0, place.1, message);
        } else if self.unopened > 0 {
            // Nobody has said anything yet.
            self.ledger.ghost();
        } else {
            self.message(device, place, message, Way::Event, now);
        }
    }

    fn message(
        &mut self,
        device: usize,
        place: (usize, usize),
        message: &Message,
        way: Way,
        now: Instant,
    ) {
        let (conversation, member) = place;
        let Some(seen) = self.ledger.observe(conversation, member, message, way, now) else {
            return;
        };
        self.count(&seen, self.seats[device].since, now);
        let waited = seen.acked.zip(self.seats[device].welcomed);
        if seen.is_delivery
            && waited.is_some_and(|(acked, welcomed)| {
                acked < welcomed && now - welcomed > self.late_after
            })
        {
            self.ledger.late();
        }
        if seen.is_delivery {
            self.report(device, message.conversation, message.seq);
            self.maybe_fetch(device, place, message);
        } else if self.extras.edits > 0.0 {
            self.maybe_edit(device, message);
        }
        if seen.finished {
            self.finished(conversation);
        }
    }

    /// Counts what was seen by a device that is there since then, after it was away by plan.
    fn count(&mut self, seen: &Observation, since: Option<Instant>, now: Instant) {
        let Some(phase) = seen.phase else { return };
        let latencies = &mut self.latencies[usize::from(phase)];
        let response = now.saturating_duration_since(seen.due);
        let service = seen.written.map(|at| now.saturating_duration_since(at));
        if seen.is_ack {
            self.counters.acked += 1;
            self.totals.acked += 1;
            self.second.ack.record(response);
            latencies.ack.record(response);
            if let Some(service) = service {
                latencies.ack_service.record(service);
            }
        }
        if seen.is_delivery {
            self.counters.delivered += 1;
            self.totals.delivered += 1;
            if let Some(since) = since.filter(|since| seen.due < *since) {
                let caught_up = now.saturating_duration_since(since);
                return latencies.catch_up.record(caught_up);
            }
            self.second.deliver.record(response);
            latencies.deliver.record(response);
            if let Some(service) = service {
                latencies.deliver_service.record(service);
            }
        }
    }

    fn finished(&mut self, pair: usize) {
        self.unfinished[pair] -= 1;
        if matches!(self.sending, Sending::Closed) {
            self.start_turn(pair);
        }
    }

    /// A device got a reply. Says which command is to be given again later.
    fn reply(&mut self, device: usize, reply: &Reply) -> Option<PutOff> {
        match (&reply.to, &reply.outcome) {
            (ReplyTo::Request(request), outcome) if request.0 >= opening::REQUESTS => {
                self.edit_answered(device, *request, outcome)
            }
            (ReplyTo::Request(request), Outcome::Opened { head, .. }) => {
                self.opened(device, *request, *head);
                None
            }
            (ReplyTo::Request(_), Outcome::Rejected(rejection)) if is_throttled(rejection) => {
                self.put_off(device, rejection, Command::Open)
            }
            (ReplyTo::Send { client_seq, .. }, Outcome::Accepted(seq)) => {
                let order = self.seats[device].answered(*client_seq)?;
                let now = Instant::now();
                if let Some(seen) = self.ledger.accepted(&order.label, seq.get(), now) {
                    self.count(&seen, None, now);
                    if seen.finished {
                        self.finished(self.ledger.place(&order.label));
                    }
                }
                None
            }
            (ReplyTo::Send { client_seq, .. }, Outcome::Rejected(rejection)) => {
                let Some(order) = self.seats[device].answered(*client_seq) else {
                    self.ledger.rejected();
                    return None;
                };
                self.refused(device, order, rejection)
            }
            (
                _,
                Outcome::Accepted(_)
                | Outcome::Rejected(_)
                | Outcome::Opened { .. }
                | Outcome::Done,
            ) => {
                let error = anyhow::anyhow!("{reply:?}");
                self.failed(device, "unexpected reply", &error);
                self.ledger.rejected();
                None
            }
        }
    }

    /// A message was not taken: for now, under this number, or for good.
    fn refused(&mut self, device: usize, order: Order, rejection: &Rejection) -> Option<PutOff> {
        if is_throttled(rejection) {
            // Later ones may be taken before it: it comes again as a new message, which is due since the old one was.
            let phase = self.ledger.withdraw(&order.label);
            self.waiting += 1;
            return self.put_off(device, rejection, Command::Send(order, phase));
        }
        if rejection.code == RejectCode::StaleClientSeq {
            self.seats[device].renumber(order);
            return None;
        }
        let error = anyhow::anyhow!("{}: {}", rejection.code, rejection.reason);
        self.failed(device, "send refused", &error);
        self.ledger.refused(&order.label);
        self.finished(self.ledger.place(&order.label));
        None
    }

    /// After the time that the gateway names; where it names none, after a back-off.
    fn put_off(
        &mut self,
        device: usize,
        rejection: &Rejection,
        command: Command,
    ) -> Option<PutOff> {
        self.totals.throttled += 1;
        let wait = match rejection.retry_after_ms {
            0 => self.backoff(device, 0),
            ms => Duration::from_millis(ms),
        };
        Some(PutOff { command, wait })
    }

    /// Gives a command again.
    fn again(&mut self, device: usize, command: Command) {
        match command {
            Command::Open => self.ask_again(device),
            Command::Edit(request) => self.set_asked(device, request, false),
            Command::Send(order, phase) => {
                let (pair, side) = (self.ledger.place(&order.label), order.label.side);
                self.waiting -= 1;
                let label = self.ledger.send(pair, side, order.due, phase);
                self.seats[device].repeat(Order {
                    label,
                    client_seq: None,
                    ..order
                });
            }
        }
    }

    // What the phases ask.

    /// What the device wants of its conversation is to be asked for once more.
    fn ask_again(&mut self, device: usize) {
        self.seats[device].asked = false;
        self.seats[device].wake();
    }

    /// Whether every message has been seen by all of its conversation, or refused for good, and every file fetched.
    fn settled(&self) -> bool {
        self.ledger.settled() && self.waiting == 0 && self.downloads_under_way == 0
    }

    /// What is under way: messages, notes, edits, and files.
    fn under_way(&self) -> u64 {
        self.ledger.under_way() + self.waiting + self.downloads_under_way
    }

    /// The verdicts so far.
    fn verdicts(&self) -> Verdicts {
        self.ledger.verdicts().clone()
    }

    fn set_paused(&mut self, device: usize, paused: bool) {
        let seat = &mut self.seats[device];
        seat.paused = paused;
        seat.wake();
    }
}

/// The gateway had too much to do; nothing is wrong with the command.
fn is_throttled(rejection: &Rejection) -> bool {
    matches!(rejection.code, RejectCode::Busy | RejectCode::RateLimited)
}
