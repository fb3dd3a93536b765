//! A simulated gateway process: router, registry, ownership; born, killed, paused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use quipu_core::record::{Command, CommandKind, Entry, EntryBody, Record};
use quipu_core::retention::Retention;
use quipu_core::row::{IndexKey, IndexRange};
use quipu_core::shard::ShardId;
use quipu_protocol::error::CloseCode;
use quipu_protocol::id::{DeviceId, RequestId, UserId};

use crate::log::{Append, Appender, Batch};
use crate::plan::{MS, SECOND, Us};
use crate::processor::Processor;
use crate::sabotage::Sabotage;
use crate::session::Session;
use crate::watch::Watch;
use crate::world::{AtGateway, Event, LinkNo, Phase, View, World};

/// Appends of a router that are under way at once.
const APPENDS_IN_FLIGHT_MAX: usize = 2;

/// Time between two looks for messages whose time is over.
const SWEEP_INTERVAL: Us = 500 * MS;

/// One gateway.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) life: u32,
    pub(crate) alive: bool,
    /// Until when it does nothing at all; what happens to it waits.
    paused_until: Us,
    paused: VecDeque<AtGateway>,
    pub(crate) view: View,
    pub(crate) processors: Vec<Processor>,
    router: Router,
    pub(crate) sessions: BTreeMap<LinkNo, Session>,
    /// Sessions that receive, by user, in the order in which they attached.
    pub(crate) registry: BTreeMap<UserId, Vec<(DeviceId, LinkNo)>>,
    /// Devices that were thrown out here: one that is just coming in is thrown out as well.
    pub(crate) revoked: BTreeSet<(UserId, DeviceId)>,
    /// Connections whose account command waits for its answer.
    pub(crate) expected: BTreeMap<(UserId, DeviceId, RequestId), LinkNo>,
    /// What inboxes keep by its settings, and which of its shards do not know yet.
    pub(crate) keeps: Option<Retention>,
    pub(crate) untold: BTreeSet<ShardId>,
    /// Who is here and who wants to know.
    pub(crate) watch: Watch,
}

#[derive(Debug, Default)]
struct Router {
    queue: VecDeque<Command>,
    gathering: bool,
    in_flight: usize,
    /// Sessions that wait for room, with what they want carried.
    full: VecDeque<(LinkNo, Command)>,
}

impl Gateway {
    fn new(life: u32, view: View, processors: usize) -> Self {
        Self {
            life,
            alive: true,
            paused_until: 0,
            paused: VecDeque::new(),
            view,
            processors: (0..processors).map(|_| Processor::default()).collect(),
            router: Router::default(),
            sessions: BTreeMap::new(),
            registry: BTreeMap::new(),
            revoked: BTreeSet::new(),
            expected: BTreeMap::new(),
            keeps: None,
            untold: BTreeSet::new(),
            watch: Watch::new(0),
        }
    }

    pub(crate) fn processor_of(&self, shard: ShardId) -> usize {
        usize::from(shard.0) % self.processors.len()
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        let processors = self.processors.iter();
        self.untold.is_empty()
            && self.router.queue.is_empty()
            && self.router.full.is_empty()
            && self.router.in_flight == 0
            && processors.into_iter().all(|processor| processor.is_idle())
    }
}

impl World {
    /// The first start of everything.
    pub(crate) fn start(&mut self) {
        for _ in 0..self.plan.gateways {
            let view = self.view.clone();
            let mut gateway = Gateway::new(0, view, self.plan.processors);
            gateway.keeps = self.plan.keeps.first().copied();
            gateway.watch = self.new_watch();
            self.gateways.push(gateway);
        }
        for gateway in 0..self.plan.gateways {
            self.take_over(gateway);
        }
    }

    pub(crate) fn at_gateway(&mut self, gateway: usize, life: u32, what: AtGateway) {
        let it = &mut self.gateways[gateway];
        if it.life != life || !it.alive {
            return;
        }
        if it.paused_until > self.now {
            it.paused.push_back(what);
            return;
        }
        // What happened during a pause is dealt with first, and in order.
        if !it.paused.is_empty() {
            it.paused.push_back(what);
            while let Some(what) = self.gateways[gateway].paused.pop_front() {
                if self.gateways[gateway].life != life || !self.gateways[gateway].alive {
                    return;
                }
                self.handle_at_gateway(gateway, what);
            }
            return;
        }
        self.handle_at_gateway(gateway, what);
    }

    fn handle_at_gateway(&mut self, gateway: usize, what: AtGateway) {
        match what {
            AtGateway::Accept(link) => self.accept(gateway, link),
            AtGateway::Received(link, bytes) => self.received(gateway, link, bytes),
            AtGateway::LinkLost(link) => {
                self.let_go(link, false);
                self.end_session(gateway, link);
            }
            AtGateway::Credit(link) => {
                self.credit(link, false);
                self.settle(gateway, link);
            }
            AtGateway::Mail(link) => self.take_mail(gateway, link),
            AtGateway::Due(link) => self.session_due(gateway, link),
            AtGateway::ReadPage(link) => self.read_page(gateway, link),
            AtGateway::Page(link, page) => self.take_page(gateway, link, *page),
            AtGateway::Admit(link, result) => self.admitted(gateway, link, *result),
            AtGateway::AnswerTimeout(link) => self.answer_timeout(gateway, link),
            AtGateway::Question(link, question) => self.take_question(gateway, link, question),
            AtGateway::Again(command) => {
                self.gateways[gateway].router.queue.push_back(*command);
                self.start_gathering(gateway);
            }
            AtGateway::Gather => self.gather(gateway),
            AtGateway::Appended(Appender::Sweeper | Appender::Keeper) => {}
            AtGateway::ReadFacts(link, id, answers) => self.read_facts(gateway, link, id, answers),
            AtGateway::Learn(link, id, answers, facts) => {
                self.learn(gateway, (link, id, answers), &facts);
            }
            AtGateway::BoardDue => self.board_due(gateway),
            AtGateway::TellKeeps => self.tell_keeps(gateway),
            AtGateway::Appended(Appender::Router) => self.router_appended(gateway),
            AtGateway::Appended(Appender::Processor(processor)) => {
                self.sent(gateway, processor);
            }
            AtGateway::AppendFailed => self.kill_gateway(gateway, "append-failed"),
            AtGateway::Wake(shard) => self.wake(gateway, shard),
            AtGateway::Turn(processor) => self.turn(gateway, processor),
            AtGateway::Commit(processor) => self.commit(gateway, processor),
            AtGateway::Act(processor) => self.act(gateway, processor),
            AtGateway::NewView(view) => self.new_view(gateway, view),
        }
    }

    /// Queues a command for the log of its shard. False: there is no room, and the session waits for it.
    pub(crate) fn submit(&mut self, gateway: usize, link: LinkNo, mut command: Command) -> bool {
        let room = self.plan.router_queue;
        match &mut command.kind {
            CommandKind::Change { client_seq, .. } => {
                if self.sabotage == Some(Sabotage::ForgetChanges) {
                    *client_seq = None;
                }
                self.come_late(gateway, &command);
            }
            // One that the log has, so that those before it are there as well: a gateway that stands still keeps the order.
            CommandKind::Send { .. }
            | CommandKind::Receipt { .. }
            | CommandKind::OpenDirect { .. }
            | CommandKind::Register { .. }
            | CommandKind::AddDevice { .. } => {}
        }
        let router = &mut self.gateways[gateway].router;
        if router.queue.len() >= room || !router.full.is_empty() {
            router.full.push_back((link, command));
            return false;
        }
        router.queue.push_back(command);
        self.start_gathering(gateway);
        true
    }

    /// Now and then a message or a change comes to the log once more, later: as from a gateway that stood still with it while its device
    /// asked again elsewhere and went on.
    pub(crate) fn come_late(&mut self, gateway: usize, command: &Command) {
        let often = self.plan.late_copies;
        if self.phase == Phase::Storm && self.rng.chance(often) {
            let after = self.rng.between(100 * MS, 5 * SECOND);
            self.note("late-copy", &[("after", after)]);
            let again = AtGateway::Again(Box::new(command.clone()));
            self.tell_gateway(gateway, after, again);
        }
    }

    fn start_gathering(&mut self, gateway: usize) {
        let router = &mut self.gateways[gateway].router;
        if router.gathering || router.queue.is_empty() || router.in_flight >= APPENDS_IN_FLIGHT_MAX
        {
            return;
        }
        router.gathering = true;
        let after = self.rng.below(MS);
        self.tell_gateway(gateway, after, AtGateway::Gather);
    }

    fn gather(&mut self, gateway: usize) {
        let shards = self.store_shards();
        let router = &mut self.gateways[gateway].router;
        router.gathering = false;
        let mut by_shard: BTreeMap<ShardId, Vec<Entry>> = BTreeMap::new();
        for command in router.queue.drain(..) {
            let entry = Entry {
                source: None,
                body: EntryBody::Command(command.clone()),
            };
            by_shard
                .entry(command.shard(shards))
                .or_default()
                .push(entry);
        }
        router.in_flight += 1;
        let batch = records(by_shard);
        self.append(gateway, Appender::Router, batch);
        // There is room again.
        loop {
            let room = self.plan.router_queue;
            let router = &mut self.gateways[gateway].router;
            if router.queue.len() >= room {
                break;
            }
            let Some((link, command)) = router.full.pop_front() else {
                break;
            };
            router.queue.push_back(command);
            self.submitted(gateway, link);
        }
        self.start_gathering(gateway);
    }

    fn router_appended(&mut self, gateway: usize) {
        self.gateways[gateway].router.in_flight -= 1;
        self.start_gathering(gateway);
    }

    /// Hands a batch to the log.
    pub(crate) fn append(&mut self, gateway: usize, by: Appender, batch: Batch) {
        let life = self.gateways[gateway].life;
        let (least, most) = self.plan.append;
        let mut at = self.now + self.rng.between(least, most);
        if self.log_stalled_until > self.now {
            at += self.log_stalled_until - self.now;
        }
        at = at.max(self.durable_after[gateway]);
        self.durable_after[gateway] = at;
        let append = Append {
            gateway,
            life,
            by,
            batch,
        };
        let number = self.log.begin(append);
        self.schedule_at(at, Event::Durable(number));
    }

    /// An append is durable: processors may read it, and its maker hears of it, sooner or later or never.
    pub(crate) fn durable(&mut self, number: u64) {
        let Some(append) = self.log.under_way.remove(&number) else {
            return;
        };
        self.make_durable(&append.batch);
        let unanswered = self.fault_now(crate::plan::Fault::AppendUnanswered, 10);
        let doubled = self.fault_now(crate::plan::Fault::RecordDoubled, 50);
        if doubled {
            self.note("record-doubled", &[("append", number)]);
            self.make_durable(&append.batch);
        }
        let what = if unanswered {
            self.note("append-unanswered", &[("append", number)]);
            AtGateway::AppendFailed
        } else {
            AtGateway::Appended(append.by)
        };
        let after = if unanswered {
            self.rng.between(10 * MS, SECOND)
        } else {
            self.moment()
        };
        self.schedule(after, Event::Gateway(append.gateway, append.life, what));
    }

    fn make_durable(&mut self, batch: &Batch) {
        let clock = self.wall_clock();
        self.log.store(batch, clock);
        self.keeps_are_durable(batch);
        for (shard, payload) in batch {
            self.trace.bytes(payload);
            self.note(
                "durable",
                &[
                    ("shard", u64::from(shard.0)),
                    ("position", self.log.last(*shard).0),
                ],
            );
            for gateway in 0..self.gateways.len() {
                let after = self.moment();
                self.tell_gateway(gateway, after, AtGateway::Wake(*shard));
            }
        }
    }

    /// Puts the end of every message whose time is over into the log.
    pub(crate) fn sweep(&mut self) {
        self.schedule(SWEEP_INTERVAL, Event::Sweep);
        let now = self.wall_clock();
        let due = self.store.index(&IndexRange::Due(now));
        let works = |gateway: &Gateway| gateway.alive && gateway.paused_until <= self.now;
        let sweeper = self.gateways.iter().position(works);
        let (Some(gateway), false) = (sweeper, due.is_empty()) else {
            return;
        };
        if self.sabotage == Some(Sabotage::NeverExpire) {
            return;
        }
        let shards = self.store_shards();
        let mut by_shard: BTreeMap<ShardId, Vec<Entry>> = BTreeMap::new();
        for key in due {
            let IndexKey::Due(_, conversation, seq) = key else {
                continue;
            };
            let seqs = vec![seq];
            let body = EntryBody::Expire { conversation, seqs };
            let entry = Entry { source: None, body };
            let shard = shards.of_conversation(&conversation);
            by_shard.entry(shard).or_default().push(entry);
        }
        self.append(gateway, Appender::Sweeper, records(by_shard));
    }

    /// The process dies at this very moment.
    pub(crate) fn kill_gateway(&mut self, gateway: usize, why: &'static str) {
        if !self.gateways[gateway].alive {
            return;
        }
        self.note(why, &[("gateway", gateway as u64)]);
        let life = self.gateways[gateway].life;
        let dead = Gateway {
            alive: false,
            ..Gateway::new(life + 1, self.view.clone(), 0)
        };
        self.gateways[gateway] = dead;
        self.tear_appends(gateway);
        if self.plan.standalone {
            // Its memory was the store's newest part.
            let behind = self.store.behind() as u64;
            let lost = self.rng.below(behind + 1) as usize;
            self.store.lose(lost);
            if self.sabotage == Some(Sabotage::LoseAcked) {
                let shard = ShardId(self.rng.below(u64::from(self.plan.shards)) as u16);
                let records = self.rng.between(1, 3) as usize;
                self.log.lose(shard, records);
            }
        }
        let links: Vec<LinkNo> = self.links.keys().copied().collect();
        for link in links {
            if self
                .links
                .get(&link)
                .is_some_and(|it| it.gateway == gateway)
            {
                let after = if self.rng.chance(700) {
                    self.rng.between(MS, SECOND)
                } else {
                    self.rng.between(SECOND, 30 * SECOND)
                };
                self.schedule(after, Event::Notice(link, true));
                self.let_go(link, false);
            }
        }
        let away = self.rng.between(20 * MS, 3 * SECOND);
        self.schedule(away, Event::StartGateway(gateway));
        if !self.plan.standalone && self.rng.chance(700) {
            let after = self.rng.between(10 * MS, 2 * SECOND);
            self.schedule(after, Event::Evict(gateway));
        }
    }

    /// Of what a dead gateway was appending a prefix lands, now or later, perhaps torn in the middle of a batch.
    fn tear_appends(&mut self, gateway: usize) {
        let mine: Vec<u64> = self
            .log
            .under_way
            .iter()
            .filter(|(_, append)| append.gateway == gateway)
            .map(|(number, _)| *number)
            .collect();
        let whole = self.rng.index(mine.len() + 1);
        for (at, number) in mine.into_iter().enumerate() {
            if at < whole && !self.plan.standalone {
                // On its way to the brokers already: it becomes durable when it does.
                continue;
            }
            let Some(mut append) = self.log.under_way.remove(&number) else {
                continue;
            };
            if at > whole {
                continue;
            }
            if at == whole {
                let kept = self.rng.index(append.batch.len() + 1);
                append.batch.truncate(kept);
                self.note("torn-append", &[("records", kept as u64)]);
            }
            if self.plan.standalone {
                self.make_durable(&append.batch);
            } else {
                self.log.under_way.insert(number, append);
            }
        }
    }

    pub(crate) fn start_gateway(&mut self, gateway: usize) {
        if self.gateways[gateway].alive {
            return;
        }
        self.note("gateway-started", &[("gateway", gateway as u64)]);
        let life = self.gateways[gateway].life + 1;
        self.gateways[gateway] = Gateway::new(life, self.view.clone(), self.plan.processors);
        self.gateways[gateway].keeps = self.plan.keeps.get(self.setting).copied();
        self.gateways[gateway].watch = self.new_watch();
        self.take_over(gateway);
    }

    /// Its machine, or its runtime, holds it still for a while.
    pub(crate) fn pause_gateway(&mut self, gateway: usize, pause: Us) {
        if !self.gateways[gateway].alive {
            return;
        }
        self.note(
            "gateway-paused",
            &[("gateway", gateway as u64), ("us", pause)],
        );
        let until = self.now + pause;
        self.gateways[gateway].paused_until = until;
        // Something has to wake it, even if nothing else happens to it: news of the shards is harmless.
        self.tell_gateway(gateway, pause, AtGateway::Wake(ShardId(0)));
        if !self.plan.standalone && self.rng.chance(700) {
            let after = self.rng.below(pause);
            self.schedule(after, Event::Evict(gateway));
        }
    }

    /// A gateway is believed dead: its shards go to others, who hear of it when they do.
    pub(crate) fn evict(&mut self, gateway: usize) {
        if self.phase == Phase::Heal && self.gateways[gateway].alive {
            return;
        }
        for shard in 0..self.view.owners.len() {
            if self.view.owners[shard] == gateway {
                let to = self.rng.index(self.gateways.len());
                self.view.owners[shard] = to;
            }
        }
        self.announce_view();
    }

    /// Gives one shard to another gateway.
    pub(crate) fn move_shard(&mut self, shard: usize, to: usize) {
        self.view.owners[shard] = to;
        self.announce_view();
    }

    /// It goes on from where it stood.
    pub(crate) fn resume_gateway(&mut self, gateway: usize) {
        self.gateways[gateway].paused_until = 0;
        self.tell_gateway(gateway, 0, AtGateway::Wake(ShardId(0)));
    }

    pub(crate) fn announce_view(&mut self) {
        self.view.number += 1;
        self.note("view", &[("number", self.view.number)]);
        for gateway in 0..self.gateways.len() {
            let after = if self.rng.chance(500) {
                self.moment()
            } else {
                self.rng.below(2 * SECOND)
            };
            let view = self.view.clone();
            self.tell_gateway(gateway, after, AtGateway::NewView(view));
        }
    }

    fn new_view(&mut self, gateway: usize, view: View) {
        if view.number <= self.gateways[gateway].view.number {
            return;
        }
        self.gateways[gateway].view = view;
        self.leave(gateway);
        self.take_over(gateway);
    }

    /// Gives up the shards that belong to others now, and sends their users there.
    fn leave(&mut self, gateway: usize) {
        let it = &mut self.gateways[gateway];
        let owners = it.view.owners.clone();
        let lost: BTreeSet<ShardId> = it
            .processors
            .iter()
            .flat_map(|processor| processor.shards())
            .filter(|shard| owners[usize::from(shard.0)] != gateway)
            .collect();
        for shard in lost {
            let it = &mut self.gateways[gateway];
            let processor = it.processor_of(shard);
            it.processors[processor].drop_shard(shard);
            self.send_away(gateway, shard, CloseCode::Redirect);
        }
    }

    /// Restores the shards that belong to this gateway now, and lets the processors replay what the log holds beyond them.
    pub(crate) fn take_over(&mut self, gateway: usize) {
        let owners = self.gateways[gateway].view.owners.clone();
        for (shard, owner) in owners.into_iter().enumerate() {
            if owner == gateway {
                self.restore_shard(gateway, ShardId(shard as u16));
            }
        }
        self.find_untold(gateway);
    }

    pub(crate) fn owns(&self, gateway: usize, shard: ShardId) -> bool {
        self.gateways[gateway].view.owners[usize::from(shard.0)] == gateway
    }
}

/// One record a shard.
pub(crate) fn records(by_shard: BTreeMap<ShardId, Vec<Entry>>) -> Batch {
    by_shard
        .into_iter()
        .map(|(shard, entries)| (shard, Record::encode_entries(&entries)))
        .collect()
}
