//! What a run does: who connects, who talks to whom, and the phases, one after the other. Read from TOML, see `scenarios/`.

mod builtin;
mod change;
mod graph;
mod read;
mod value;
mod write;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use builtin::{NAMES, builtin};
pub(crate) use change::Changes;
pub(crate) use graph::Graph;
use graph::Sizes;

use crate::pacer::Arrival;

/// Devices of a scenario at the most: what one gateway is asked to hold, several times over.
pub(crate) const CLIENTS_MAX: u64 = 1_000_000;
/// Phases of a scenario at the most.
pub(crate) const PHASES_MAX: usize = 100;

/// A whole scenario.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scenario {
    /// For people.
    pub(crate) name: String,
    /// One sentence.
    pub(crate) about: String,
    /// Every choice follows from it.
    pub(crate) seed: u64,
    /// A message that waited for its receiver to come back is late when it is shown this long after the return.
    pub(crate) late_after: Duration,
    /// Which gateway; the command line wins.
    pub(crate) server: Option<String>,
    /// The accounts on it.
    pub(crate) tokens: Option<PathBuf>,
    /// Groups of devices. They are numbered through, in this order.
    pub(crate) populations: Vec<Population>,
    /// Who talks to whom.
    pub(crate) graph: Graph,
    /// Receipts, edits and files.
    pub(crate) extras: Extras,
    /// What the network does to datagrams, on both ways.
    pub(crate) network: Network,
    /// In their order. Always ends with a drain.
    pub(crate) phases: Vec<Phase>,
}

/// A group of devices, one of each user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Population {
    /// What phases call it.
    pub(crate) name: String,
    /// How many.
    pub(crate) clients: u64,
}

/// What goes on beside plain messages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Extras {
    /// Share of those who talk that say what they have received and read.
    pub(crate) receipts: f64,
    /// Share of the messages that their authors edit once they have their place. In pushed conversations only.
    pub(crate) edits: f64,
    /// Share of the messages that bring a file. In pushed conversations only.
    pub(crate) media: f64,
    /// Bytes of a file, both included.
    pub(crate) media_bytes: (usize, usize),
}

impl Default for Extras {
    fn default() -> Self {
        Self {
            receipts: 0.0,
            edits: 0.0,
            media: 0.0,
            media_bytes: (4 << 10, 64 << 10),
        }
    }
}

/// A lossy network, in the socket layer of the generator: no privileges, both ways, everything from the seed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Network {
    /// Share of the datagrams that vanish on each way.
    pub(crate) loss: f64,
    /// How long each way takes.
    pub(crate) delay: Duration,
    /// Up to this much longer, uniformly; what is late is overtaken.
    pub(crate) jitter: Duration,
}

impl Network {
    /// Whether it changes nothing.
    pub(crate) fn is_perfect(&self) -> bool {
        self.loss == 0.0 && self.delay.is_zero() && self.jitter.is_zero()
    }
}

/// One phase.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Phase {
    /// For people; the kind, if the file gives none.
    pub(crate) name: String,
    /// How long it takes (hold, rate, migrate, slow_reader), or may take at the most (ramp, storm, drain).
    pub(crate) length: Duration,
    /// Messages that go on meanwhile.
    pub(crate) traffic: Option<Traffic>,
    /// What happens.
    pub(crate) kind: Kind,
}

/// What happens in a phase.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// Everybody who is not connected connects.
    Ramp {
        /// Of the devices, how many: those with the lowest numbers. 1: all of them.
        share: f64,
        /// Connections started a second; `None`: as many as go.
        rate: Option<f64>,
        /// Handshakes under way at once.
        handshakes: usize,
    },
    /// Conversations are opened, groups made and joined. Who is away comes for it and leaves again, a few at a time.
    Open {
        /// Devices that are there for it at once.
        handshakes: usize,
    },
    /// Nothing but what goes on anyway.
    Hold,
    /// Messages.
    Rate,
    /// Many lose their connection at once and come back with a full-jitter back-off.
    Storm(Storm),
    /// Sockets get a new port; connections go on.
    Migrate {
        /// Share of the sockets.
        fraction: f64,
    },
    /// Some stop reading and acking for a time.
    SlowReader {
        /// Share of the devices.
        fraction: f64,
        /// For how long.
        pause: Duration,
        /// Of which population only.
        population: Option<usize>,
    },
    /// Nothing new; what is under way finishes.
    Drain,
}

impl Kind {
    /// As scenarios and reports call it.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Ramp { .. } => "ramp",
            Self::Open { .. } => "open",
            Self::Hold => "hold",
            Self::Rate => "rate",
            Self::Storm(_) => "storm",
            Self::Migrate { .. } => "migrate",
            Self::SlowReader { .. } => "slow_reader",
            Self::Drain => "drain",
        }
    }
}

/// A storm.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Storm {
    /// How connections end.
    pub(crate) how: How,
    /// Share of those that are thrown off.
    pub(crate) drop: f64,
    /// Of which population only; not for `silent`, which takes whole sockets, nor for `kill`.
    pub(crate) population: Option<usize>,
    /// They go at moments spread over this time.
    pub(crate) within: Duration,
    /// They stay away for this long before they try for the first time.
    pub(crate) away: Duration,
    /// The gateway stays down for this long (`kill`).
    pub(crate) down: Duration,
    /// Waits between attempts: uniform up to a bound that doubles from the first to the second.
    pub(crate) backoff: (Duration, Duration),
}

/// How the connections of a storm end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Their sockets vanish: nobody is told. The share is rounded to whole sockets.
    Silent,
    /// The device closes.
    Close,
    /// The gateway is killed with SIGKILL and started again; devices notice at once.
    Kill,
}

impl How {
    /// As scenarios and reports call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Close => "close",
            Self::Kill => "kill",
        }
    }
}

/// Messages.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Traffic {
    /// Who starts a send.
    pub(crate) mode: Mode,
    /// Bytes of a text, both included.
    pub(crate) bytes: (usize, usize),
}

/// Who starts a send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    /// A schedule, whatever happened before.
    Open {
        /// Sends a second at the phase's start and end.
        rates: (f64, f64),
        /// How they are spread.
        arrival: Arrival,
    },
    /// A schedule at a share of what the last closed loop gave a second: half of the most, say.
    OpenShare {
        /// Of its deliveries a second.
        share: f64,
        /// How they are spread.
        arrival: Arrival,
    },
    /// The end of an earlier one. Latencies are not those of users who do not wait for each other.
    Closed {
        /// Messages of a pair under way at once.
        outstanding: usize,
    },
}

impl Scenario {
    /// Devices in all.
    pub(crate) fn clients(&self) -> u64 {
        self.populations.iter().map(|one| one.clients).sum()
    }

    /// The devices of a population.
    pub(crate) fn devices(&self, population: usize) -> std::ops::Range<usize> {
        let clients = |population: &Population| population.clients as usize;
        let first = self.populations[..population].iter().map(clients).sum();
        first..first + clients(&self.populations[population])
    }

    /// Devices of the population, or all.
    pub(crate) fn devices_of(&self, population: Option<usize>) -> std::ops::Range<usize> {
        match population {
            Some(one) => self.devices(one),
            None => 0..self.clients() as usize,
        }
    }

    /// How long the phases take at the most.
    pub(crate) fn length_max(&self) -> Duration {
        self.phases.iter().map(|phase| phase.length).sum()
    }

    /// Whether anything is sent.
    pub(crate) fn talks(&self) -> bool {
        self.phases.iter().any(|phase| phase.traffic.is_some())
    }

    /// Whether a storm kills the gateway, which then must be ours.
    pub(crate) fn kills(&self) -> bool {
        self.phases
            .iter()
            .any(|phase| matches!(&phase.kind, Kind::Storm(storm) if storm.how == How::Kill))
    }
}
