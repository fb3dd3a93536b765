//! What a coordinator and its generator processes say to each other: one line of JSON each, on the process's standard streams.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::measure::Measurement;
use crate::second::{MemoryPoint, Second, Standing};

/// From the coordinator to a process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Told {
    /// The first line: what to do.
    Work(Box<Work>),
    /// All have come to the step that you said.
    Go,
    /// Come to an end, with what was measured until now.
    Stop,
}

/// From a process to the coordinator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Said {
    /// It has come to this step, and waits for [`Told::Go`].
    At(Step),
    /// A second is over.
    Second(Box<(Second, Standing)>),
    /// Memory, while devices connect.
    Memory(MemoryPoint),
    /// The last line.
    Done(Box<Measurement>),
}

/// Where the processes of a run wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Before the phase with this number.
    Phase(usize),
    /// The gateway is to be killed.
    Kill,
    /// The gateway is to be started again.
    Restart,
}

/// One process's part of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Work {
    /// Its part of the scenario, as TOML.
    pub(crate) scenario: String,
    /// Random number of the run.
    pub(crate) number: u64,
    /// Pairs of the processes before it.
    pub(crate) first_pair: u32,
    /// Where the gateway is.
    pub(crate) address: SocketAddr,
    /// The accounts on it.
    pub(crate) tokens: PathBuf,
    /// The first of them that is this process's.
    pub(crate) first_account: usize,
}

impl Said {
    /// Says it. A coordinator that is gone cannot be told: standard input says so too, and ends the process.
    pub(crate) fn say(&self) {
        use std::io::Write as _;
        let mut out = std::io::stdout().lock();
        // Every type above has string keys only, which is all that JSON cannot do without.
        if let Ok(line) = serde_json::to_string(self) {
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        }
    }
}
