//! What a seed chooses before anything happens: how big the world is, what can go wrong in it, how often.

use std::collections::BTreeMap;

use quipu_core::retention::Retention;

use crate::rng::Rng;

/// Virtual microseconds.
pub(crate) type Us = u64;

pub(crate) const MS: Us = 1_000;
pub(crate) const SECOND: Us = 1_000 * MS;

/// Things that go wrong, each named after what it is in real life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A gateway is killed between any two steps, and started again.
    GatewayKilled,
    /// A gateway stops for a while and then goes on as if nothing had happened (a garbage collector, a paused machine).
    GatewayPaused,
    /// A shard is given to another gateway; they learn of it at different times.
    ShardMoved,
    /// Two gateways own one shard at once, both in good faith.
    TwoOwners,
    /// Appends take long.
    LogStalled,
    /// An append is durable and its maker never hears of it.
    AppendUnanswered,
    /// A record comes to stand in the log twice.
    RecordDoubled,
    /// The store moves nothing to disk for a while.
    StoreStalled,
    /// One connection breaks; the two ends notice at different times.
    LinkCut,
    /// One direction of a connection is dead and nobody is told.
    LinkHalfDead,
    /// Packets are lost for a while, which on a stream means delay.
    PacketsLost,
    /// Every connection breaks at once.
    MassReconnect,
    /// A client is killed and started again.
    ClientKilled,
    /// A client's machine loses power: what was not synced is gone.
    ClientPowerLost,
    /// A device is away for a long time.
    DeviceAway,
    /// A device reads slowly.
    SlowReader,
    /// The wall clock of the machines that stamp records jumps.
    ClockJump,
}

impl Fault {
    pub(crate) const ALL: &[Self] = &[
        Self::GatewayKilled,
        Self::GatewayPaused,
        Self::ShardMoved,
        Self::TwoOwners,
        Self::LogStalled,
        Self::AppendUnanswered,
        Self::RecordDoubled,
        Self::StoreStalled,
        Self::LinkCut,
        Self::LinkHalfDead,
        Self::PacketsLost,
        Self::MassReconnect,
        Self::ClientKilled,
        Self::ClientPowerLost,
        Self::DeviceAway,
        Self::SlowReader,
        Self::ClockJump,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::GatewayKilled => "gateway-killed",
            Self::GatewayPaused => "gateway-paused",
            Self::ShardMoved => "shard-moved",
            Self::TwoOwners => "two-owners",
            Self::LogStalled => "log-stalled",
            Self::AppendUnanswered => "append-unanswered",
            Self::RecordDoubled => "record-doubled",
            Self::StoreStalled => "store-stalled",
            Self::LinkCut => "link-cut",
            Self::LinkHalfDead => "link-half-dead",
            Self::PacketsLost => "packets-lost",
            Self::MassReconnect => "mass-reconnect",
            Self::ClientKilled => "client-killed",
            Self::ClientPowerLost => "client-power-lost",
            Self::DeviceAway => "device-away",
            Self::SlowReader => "slow-reader",
            Self::ClockJump => "clock-jump",
        }
    }

    /// Whether it needs a second gateway.
    const fn needs_cluster(self) -> bool {
        matches!(self, Self::ShardMoved | Self::TwoOwners)
    }
}

/// Things that people do beside writing and reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Make a group.
    Create,
    /// Invite, join, leave, remove, give another title.
    Groups,
    /// Give a role.
    Roles,
    /// Let new messages go after a while.
    Timer,
    /// Let a message say something else.
    Edit,
    /// Take its words away.
    Delete,
    /// Put a sign on it, or take it back.
    React,
    /// Block somebody, or take it back.
    Block,
    /// Give a device another name.
    Rename,
    /// Throw a device out.
    Revoke,
    /// Look at the list and at the history.
    Look,
    /// Hide that one is here, or no longer; or look anew who is.
    Hide,
}

impl Act {
    const ALL: &[Self] = &[
        Self::Create,
        Self::Groups,
        Self::Roles,
        Self::Timer,
        Self::Edit,
        Self::Delete,
        Self::React,
        Self::Block,
        Self::Rename,
        Self::Revoke,
        Self::Look,
    ];

    /// How many times likelier than the rarest.
    const fn weight(self) -> usize {
        match self {
            Self::Create | Self::Groups | Self::Edit | Self::React => 6,
            Self::Delete | Self::Roles | Self::Look => 3,
            Self::Timer | Self::Block | Self::Rename | Self::Revoke | Self::Hide => 1,
        }
    }

    /// Which ones the people of one seed are given to, each as often as it is likely. A fifth of the seeds have none.
    fn choose(rng: &mut Rng) -> Vec<Self> {
        let mut chosen = Vec::new();
        if rng.chance(200) {
            return chosen;
        }
        let groups = rng.chance(700);
        for act in Self::ALL {
            let of_groups = matches!(act, Self::Create | Self::Groups | Self::Roles);
            let enabled = if of_groups { groups } else { rng.chance(500) };
            if enabled {
                chosen.extend(std::iter::repeat_n(*act, act.weight()));
            }
        }
        chosen
    }
}

/// The world of one seed.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) shards: u16,
    pub(crate) gateways: usize,
    /// One gateway over a store that is behind its disk; otherwise several over a shared one.
    pub(crate) standalone: bool,
    pub(crate) users: usize,
    pub(crate) devices_per_user: usize,
    /// Processor threads of a gateway.
    pub(crate) processors: usize,
    /// Entities that a shard keeps in memory between turns.
    pub(crate) entities_kept: usize,
    /// Records of one shard in one turn.
    pub(crate) turn_records: usize,
    /// Items in a session's mailbox before events are dropped.
    pub(crate) mailbox_items: usize,
    /// Members up to which a new group's messages go into every inbox.
    pub(crate) fan_out_max: u32,
    /// Commands that wait in a gateway's router before a session has to.
    pub(crate) router_queue: usize,
    /// Records that the log keeps below what the store has durably.
    pub(crate) trim_margin: u64,
    /// Shortest and longest time that a packet takes.
    pub(crate) latency: (Us, Us),
    /// Shortest and longest time that an append takes.
    pub(crate) append: (Us, Us),
    /// Time between two flushes of the store.
    pub(crate) flush: Us,
    /// Longest pause between two steps of a processor's turn.
    pub(crate) step: Us,
    /// Time between two things that people do, on average.
    pub(crate) pace: Us,
    /// Messages that are written in one go, at most.
    pub(crate) burst: u64,
    /// Longest text, in bytes.
    pub(crate) text_bytes: u64,
    /// How long people write and things go wrong.
    pub(crate) duration: Us,
    /// What people do beside writing and reading; one of them each time. None: they only write and read.
    pub(crate) acts: Vec<Act>,
    /// Messages in a page of history, and entries in one of the list.
    pub(crate) page_messages: usize,
    /// The last changes of a pulled group that a gateway tells of; whoever missed more reads the history again.
    pub(crate) changes_kept: u64,
    /// How many in a thousand messages and changes come to the log once more, when their devices have gone on.
    pub(crate) late_copies: u64,
    /// How often in a thousand writes a client's database makes a checkpoint by itself.
    pub(crate) checkpoints: u64,
    /// What goes wrong, and how often: the average time between two.
    pub(crate) faults: BTreeMap<Fault, Us>,
    /// What gateways are set to keep in inboxes, one after the other in equal parts of the time. None: all, and no shard is told.
    pub(crate) keeps: Vec<Retention>,
    /// How long somebody is taken to be here after the last connection. `None`: nobody watches anybody.
    pub(crate) grace: Option<Us>,
    /// How many in a thousand HELLOs that resume come from another life, or from behind the end of their inbox.
    pub(crate) strange_hellos: u64,
}

impl Plan {
    /// Machines that lose power often, and whose disks are written rarely, in the hands of people who write much at once: so much
    /// can be forgotten that the gateway does not remember either.
    pub(crate) fn forget_much(&mut self) {
        let often = (self.duration / 20).max(10 * MS);
        self.faults.insert(Fault::ClientPowerLost, often);
        self.checkpoints = 1;
        self.burst = 150;
        self.text_bytes = 40;
    }

    /// People who want to know who is here, and some who hide it. A gateway knows that only of its own users, so that it is
    /// about gateways that are alone.
    pub(crate) fn watch(&mut self, rng: &mut Rng) {
        if self.standalone && rng.chance(500) {
            self.grace = Some(rng.pick(&[200 * MS, SECOND, 5 * SECOND]));
            self.acts.extend([Act::Hide; 4]);
            self.acts.push(Act::Block);
        }
    }

    /// Inboxes that keep little, so that who was away for a while has to begin anew, and devices that come from elsewhere.
    pub(crate) fn keep_little(&mut self, rng: &mut Rng) {
        if rng.chance(100) {
            self.strange_hellos = rng.pick(&[50, 300]);
        }
        if !rng.chance(300) {
            return;
        }
        for _ in 0..rng.between(1, 3) {
            let events = rng.pick(&[1, 2, 5, 20, 100]);
            let ms = rng.pick(&[100, 1_000, 5_000]);
            self.keeps.push(match rng.below(3) {
                0 => Retention::new(events, u64::MAX),
                1 => Retention::new(u64::MAX, ms),
                _ => Retention::new(events, ms),
            });
        }
        let often = (self.duration / 10).max(10 * MS);
        self.faults.entry(Fault::DeviceAway).or_insert(often);
    }

    /// `lives`: where the choice of what people do beside writing comes from. It is a source of its own, so that seeds whose
    /// people only write run as they did before people did more.
    pub(crate) fn new(rng: &mut Rng, lives: &mut Rng) -> Self {
        let gateways = if rng.chance(400) {
            1
        } else {
            rng.between(2, 4) as usize
        };
        let standalone = gateways == 1;
        let duration = rng.between(2, 20) * SECOND;
        let mut faults = BTreeMap::new();
        // A quarter of the seeds have few faults, so that each is also seen without the others.
        let enabled = if rng.chance(250) { 150 } else { 500 };
        for fault in Fault::ALL {
            let enabled = rng.chance(enabled);
            let often = rng.between(duration / 20, duration);
            if enabled && !(standalone && fault.needs_cluster()) {
                faults.insert(*fault, often.max(10 * MS));
            }
        }
        let slow_net = rng.chance(300);
        let slow_disk = rng.chance(300);
        Self {
            shards: rng.between(1, 6) as u16,
            gateways,
            standalone,
            users: rng.between(2, 5) as usize,
            devices_per_user: rng.between(1, 3) as usize,
            processors: rng.between(1, 2) as usize,
            entities_kept: rng.pick(&[0, 1, 4, 1000]),
            turn_records: rng.pick(&[1, 2, 8, 1024]),
            mailbox_items: rng.pick(&[1, 2, 8, 128]),
            fan_out_max: rng.pick(&[1, 2, 256]),
            router_queue: rng.pick(&[1, 4, 64, 8192]),
            trim_margin: rng.pick(&[0, 1, 8]),
            latency: if slow_net {
                (20 * MS, 200 * MS)
            } else {
                (50, 5 * MS)
            },
            append: if slow_disk {
                (5 * MS, 100 * MS)
            } else {
                (100, 5 * MS)
            },
            flush: rng.between(20, 1_000) * MS,
            step: rng.pick(&[0, 500, 20 * MS]),
            pace: duration / rng.between(10, 150),
            burst: rng.pick(&[1, 1, 3, 3, 10, 100]),
            text_bytes: rng.pick(&[40, 40, 400, 16_000]),
            duration,
            acts: Act::choose(lives),
            page_messages: lives.pick(&[1, 3, 50]),
            changes_kept: u64::MAX,
            late_copies: 0,
            checkpoints: 100,
            faults,
            keeps: Vec::new(),
            grace: None,
            strange_hellos: 0,
        }
    }
}
