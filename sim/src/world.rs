//! One run: virtual time, the queue of what happens next, and everything that it happens to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quipu_core::record::Command;
use quipu_core::retention::Retention;
use quipu_core::shard::ShardId;
use quipu_core::watch::{Facts, WatcherId};
use quipu_protocol::error::CloseCode;
use quipu_protocol::id::{ConversationId, TimestampMs, UserId};
use quipu_protocol::query::PresenceEntry;
use quipu_protocol::welcome::Welcome;

use crate::checker::{Checker, Talk};
use crate::device::Device;
use crate::gateway::Gateway;
use crate::link::Link;
use crate::log::{Appender, Log};
use crate::names::Names;
use crate::plan::{Fault, Plan, SECOND, Us};
use crate::queries::{Answer, Question};
use crate::rng::Rng;
use crate::sabotage::Sabotage;
use crate::store::Store;
use crate::trace::Trace;

/// Names one connection.
pub(crate) type LinkNo = u64;

/// One of the streams of a connection, from the side that writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    /// S0, what the client sends.
    Up,
    /// S0, what the gateway sends.
    Down,
    /// The lane.
    Lane,
}

/// Which shards each gateway owns.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) number: u64,
    /// By shard.
    pub(crate) owners: Vec<usize>,
}

/// Something that happens at a time.
#[derive(Debug)]
pub(crate) enum Event {
    /// At a gateway, in one of its lives; a later life never sees it.
    Gateway(usize, u32, AtGateway),
    /// At a device, in one of its lives.
    Device(usize, u32, AtDevice),
    /// An append becomes durable.
    Durable(u64),
    /// The store moves what it has to the disk, as its interval says.
    Flush,
    /// A checkpoint: the log may forget what the store has durably.
    Checkpoint,
    /// A gateway starts again.
    StartGateway(usize),
    /// A device's process starts again.
    StartDevice(usize),
    /// A device that was away comes back.
    Return(usize),
    /// A shard is given to a gateway that lives, because its owner does not.
    Evict(usize),
    /// People do something.
    Story,
    /// Somebody signs in again on a device that was thrown out.
    SignIn(usize),
    /// A gateway looks for messages whose time is over.
    Sweep,
    /// An operator changes what inboxes keep, and starts the gateways anew.
    Settings,
    /// A gateway is started anew in good order, as an operator does.
    Restart(usize),
    /// Something goes wrong.
    Fault(Fault),
    /// One end of a connection notices that it is dead.
    Notice(LinkNo, bool),
}

#[derive(Debug)]
pub(crate) enum AtGateway {
    Accept(LinkNo),
    Received(LinkNo, Bytes),
    LinkLost(LinkNo),
    Credit(LinkNo),
    Mail(LinkNo),
    Due(LinkNo),
    ReadPage(LinkNo),
    Page(LinkNo, Box<crate::session::Page>),
    Admit(LinkNo, Box<Result<Welcome, (CloseCode, &'static str)>>),
    AnswerTimeout(LinkNo),
    /// What the store says of the users whom a session watches is read, and what was read comes back. Whether it is for an answer.
    ReadFacts(LinkNo, WatcherId, bool),
    Learn(LinkNo, WatcherId, bool, Vec<(UserId, Facts)>),
    /// Somebody's grace may be over.
    BoardDue,
    /// The shards are told what their inboxes keep, if that is another thing than they know.
    TellKeeps,
    Question(LinkNo, Question),
    /// Sabotage: a command comes to the router once more.
    Again(Box<Command>),
    Gather,
    Appended(Appender),
    AppendFailed,
    Wake(ShardId),
    Turn(usize),
    Commit(usize),
    Act(usize),
    NewView(View),
}

#[derive(Debug)]
pub(crate) enum AtDevice {
    Connect,
    Received(LinkNo, Stream, Bytes),
    Read,
    Credit(LinkNo),
    Due,
    Answer(LinkNo, Box<Answer>),
    Again(LinkNo, ConversationId),
    /// A datagram about who is here.
    Presence(LinkNo, PresenceEntry),
    /// The connection is closed: by the gateway with a code, or broken.
    Closed(LinkNo, Option<CloseCode>),
}

#[derive(Debug)]
struct Entry {
    at: Us,
    order: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A group that people know of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownGroup {
    pub(crate) id: ConversationId,
    /// Whether one of them knows that it is there.
    pub(crate) is_there: bool,
}

/// How things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// People write and things go wrong.
    Storm,
    /// Nothing goes wrong any more, and everybody is there.
    Heal,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    pub(crate) trace: Trace,
    pub(crate) checker: Checker,
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) now: Us,
    origin: Instant,
    queue: BinaryHeap<Reverse<Entry>>,
    order: u64,
    pub(crate) phase: Phase,
    pub(crate) log: Log,
    pub(crate) store: Store,
    pub(crate) view: View,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) links: BTreeMap<LinkNo, Link>,
    pub(crate) next_link: LinkNo,
    pub(crate) devices: Vec<Device>,
    pub(crate) names: Names,
    pub(crate) groups: Vec<KnownGroup>,
    pub(crate) next_note: u64,
    pub(crate) next_edit: u64,
    /// What the clock that stamps records is off by, in milliseconds.
    pub(crate) clock_offset_ms: i64,
    /// It was further ahead than later.
    pub(crate) clock_was_ahead: bool,
    /// Until when appends stall, the store writes nothing, and packets are lost.
    pub(crate) log_stalled_until: Us,
    pub(crate) store_stalled_until: Us,
    pub(crate) packets_lost_until: Us,
    /// When the last append of each gateway becomes durable.
    pub(crate) durable_after: Vec<Us>,
    /// Which of the plan's settings for inboxes holds for gateways that start now.
    pub(crate) setting: usize,
    /// What each shard was told last.
    pub(crate) keeps_told: BTreeMap<ShardId, Retention>,
}

impl World {
    pub(crate) fn new(
        plan: Plan,
        rng: Rng,
        trace: Trace,
        sabotage: Option<Sabotage>,
        origin: Instant,
    ) -> Self {
        let owners = (0..usize::from(plan.shards))
            .map(|shard| shard % plan.gateways)
            .collect();
        let mut store = Store::new(plan.shards);
        store.fences = sabotage != Some(Sabotage::NoFence);
        Self {
            log: Log::new(plan.shards),
            store,
            view: View { number: 1, owners },
            gateways: Vec::new(),
            links: BTreeMap::new(),
            next_link: 0,
            devices: Vec::new(),
            names: Names::default(),
            groups: Vec::new(),
            next_note: 0,
            next_edit: 0,
            clock_offset_ms: 0,
            clock_was_ahead: false,
            log_stalled_until: 0,
            store_stalled_until: 0,
            packets_lost_until: 0,
            durable_after: vec![0; plan.gateways],
            setting: 0,
            keeps_told: BTreeMap::new(),
            checker: Checker::default(),
            phase: Phase::Storm,
            now: 0,
            queue: BinaryHeap::new(),
            order: 0,
            origin,
            plan,
            rng,
            trace,
            sabotage,
        }
    }

    /// The time that machines are told.
    pub(crate) fn instant(&self) -> Instant {
        self.origin + Duration::from_micros(self.now)
    }

    /// The virtual time of a machine's deadline.
    pub(crate) fn at(&self, instant: Instant) -> Us {
        let since = instant.saturating_duration_since(self.origin);
        // A deadline between two microseconds is due at the second.
        u64::try_from(since.as_nanos().div_ceil(1000)).unwrap_or(Us::MAX)
    }

    /// The wall clock.
    pub(crate) fn wall_clock(&self) -> TimestampMs {
        let ms = 1_700_000_000_000 + (self.now / 1000) as i64 + self.clock_offset_ms;
        TimestampMs(ms.max(0) as u64)
    }

    pub(crate) fn schedule(&mut self, after: Us, event: Event) {
        self.schedule_at(self.now + after, event);
    }

    pub(crate) fn schedule_at(&mut self, at: Us, event: Event) {
        self.order += 1;
        let order = self.order;
        let at = at.max(self.now);
        self.queue.push(Reverse(Entry { at, order, event }));
    }

    /// For a gateway, in its present life.
    pub(crate) fn tell_gateway(&mut self, gateway: usize, after: Us, what: AtGateway) {
        let life = self.gateways[gateway].life;
        self.schedule(after, Event::Gateway(gateway, life, what));
    }

    /// For a device, in its present life.
    pub(crate) fn tell_device(&mut self, device: usize, after: Us, what: AtDevice) {
        let life = self.devices[device].life;
        self.schedule(after, Event::Device(device, life, what));
    }

    /// A moment's delay, for what is not instantaneous in a process.
    pub(crate) fn moment(&mut self) -> Us {
        self.rng.below(200)
    }

    pub(crate) fn note(&mut self, what: &'static str, fields: &[(&'static str, u64)]) {
        self.trace.note(self.now, what, fields);
    }

    /// Takes the next event that is due before `end`. False: there is none.
    pub(crate) fn step(&mut self, end: Us) -> bool {
        if self
            .queue
            .peek()
            .is_none_or(|Reverse(entry)| entry.at > end)
        {
            self.now = end;
            return false;
        }
        let Some(Reverse(entry)) = self.queue.pop() else {
            return false;
        };
        self.now = entry.at;
        self.happen(entry.event);
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Gateway(gateway, life, what) => self.at_gateway(gateway, life, what),
            Event::Device(device, life, what) => self.at_device(device, life, what),
            Event::Durable(append) => self.durable(append),
            Event::Flush => self.flush_store(),
            Event::Checkpoint => self.checkpoint(),
            Event::StartGateway(gateway) => self.start_gateway(gateway),
            Event::StartDevice(device) => self.start_device(device),
            Event::Return(device) => self.return_device(device),
            Event::Evict(gateway) => self.evict(gateway),
            Event::Story => self.story(),
            Event::SignIn(device) => self.sign_in_again(device),
            Event::Sweep => self.sweep(),
            Event::Settings => self.change_settings(),
            Event::Restart(gateway) => self.kill_gateway(gateway, "restarted"),
            Event::Fault(fault) => self.fault(fault),
            Event::Notice(link, at_device) => self.notice(link, at_device),
        }
    }

    /// The checker's number of a conversation; one that nobody knows is a violation of its own.
    pub(crate) fn talk(&mut self, conversation: ConversationId) -> Talk {
        match self.names.talks.get(&conversation) {
            Some(talk) => *talk,
            None => {
                let what = format!("conversation {conversation} was never begun");
                self.checker.condemn("fabrication", what);
                usize::MAX
            }
        }
    }

    /// Longest time after the end of all faults in which everything has to come to rest.
    pub(crate) const HEAL: Us = 15 * 60 * SECOND;
}
