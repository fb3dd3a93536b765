//! What a run does, and the figures that come out of it; the same for a gateway and for the bare echo server.

use std::time::{Duration, Instant};

use quipu_protocol::limits::TEXT_BYTES_MAX;
use serde::Serialize;

use crate::payload::TEXT_BYTES_MIN;
use crate::percentiles::Percentiles;
use crate::process::{self, Sample};
use crate::scenario::Scenario;

/// Of the connections, those after which memory is looked at for the first time: the slope starts above what any server needs
/// at all.
pub(crate) const FIRST_STEP: f64 = 0.1;
/// How long to wait before a look at memory: until late acks and the allocator's delayed frees are over.
pub(crate) const SETTLE: Duration = Duration::from_secs(3);

/// The shape of a run. A comparison gives both sides the same one.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub(crate) struct Plan {
    /// Connections that are open, most of them idle
    #[arg(long, default_value_t = 10_000)]
    pub(crate) connections: usize,
    /// Pairs of users that talk; for the echo server, twice as many busy connections
    #[arg(long, default_value_t = 500)]
    pub(crate) pairs: usize,
    /// Messages of a pair under way at once, sent by its two users in turn; for the echo server, half of them on each connection
    #[arg(long, default_value_t = 2)]
    pub(crate) outstanding: usize,
    /// Bytes of a message's text
    #[arg(long, default_value_t = 120)]
    pub(crate) bytes: usize,
    /// Seconds of measuring, after a tenth of that to warm up
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// Handshakes under way at once
    #[arg(long, default_value_t = 64)]
    pub(crate) handshakes: usize,
    /// How long to wait before each look at memory
    #[arg(skip = SETTLE)]
    #[serde(skip)]
    pub(crate) settle: Duration,
}

impl Plan {
    /// A short look at the transport in the shape of a scenario: enough for a ratio, in a few seconds.
    pub(crate) fn short(scenario: &Scenario) -> Self {
        const CONNECTIONS: (u64, u64) = (2, 1_000);
        const PAIRS: (u64, u64) = (1, 100);
        let connections = scenario.clients().clamp(CONNECTIONS.0, CONNECTIONS.1);
        let pairs = scenario.graph.pairs.clamp(PAIRS.0, PAIRS.1);
        let traffic = scenario.phases.iter().find_map(|one| one.traffic.as_ref());
        let bytes = traffic.map_or(TEXT_BYTES_MIN, |traffic| {
            (traffic.bytes.0 + traffic.bytes.1) / 2
        });
        Self {
            connections: connections as usize,
            pairs: pairs.min(connections / 2) as usize,
            outstanding: 2,
            bytes,
            seconds: 2,
            handshakes: 64,
            settle: Duration::from_secs(1),
        }
    }

    /// Connections after which memory is looked at for the first time.
    pub(crate) fn first_step(&self) -> usize {
        (self.connections as f64 * FIRST_STEP).ceil() as usize
    }

    /// Connections of the echo server that are busy: as many as the pairs have.
    pub(crate) fn busy_streams(&self) -> usize {
        2 * self.pairs
    }

    /// Messages under way at once on each of them.
    pub(crate) fn outstanding_each(&self) -> usize {
        self.outstanding.div_ceil(2)
    }

    /// How long the load runs before counting starts.
    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_millis(self.seconds * 100)
    }

    /// How long it counts.
    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// Says what cannot be run.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.connections >= 2 * self.pairs,
            "--connections must be at least twice --pairs"
        );
        anyhow::ensure!(
            (TEXT_BYTES_MIN..=TEXT_BYTES_MAX).contains(&self.bytes),
            "--bytes is between {TEXT_BYTES_MIN} and {TEXT_BYTES_MAX}"
        );
        anyhow::ensure!(
            self.pairs > 0 && self.outstanding > 0 && self.seconds > 0 && self.handshakes > 0,
            "--pairs, --outstanding, --seconds and --handshakes are at least 1"
        );
        Ok(())
    }
}

/// What connecting cost.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Ramp {
    /// Connections open at the end.
    pub(crate) connections: usize,
    /// Whole handshakes (with the log-in, where there is one) a second.
    pub(crate) per_second: f64,
    /// Resident memory that each further connection costs the server, in KiB; `None` where the server is not ours to look at.
    pub(crate) kib_per_connection: Option<f64>,
    /// Server CPU of one handshake, in microseconds.
    pub(crate) server_us_each: Option<f64>,
}

/// What a load gave.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Throughput {
    /// Messages a second asked for; `None`: as many as go (closed loop).
    pub(crate) offered_per_second: Option<f64>,
    /// Messages (or echoes) finished a second.
    pub(crate) per_second: f64,
    /// From when a message was due to the sender's ack; for an echo, to its return.
    pub(crate) ack: Percentiles,
    /// From when a message was due to its receiver's having verified it.
    pub(crate) delivery: Option<Percentiles>,
    /// From when a message was due to when the generator sent it; above a few ms the generator was the bottleneck.
    pub(crate) lag: Option<Percentiles>,
    /// Server CPU of one message, in microseconds.
    pub(crate) server_us_each: Option<f64>,
    /// Processors that the server kept busy.
    pub(crate) server_cores: Option<f64>,
    /// Processors that the generator kept busy.
    pub(crate) generator_cores: f64,
}

/// Looks at server and generator at both ends of a window.
pub(crate) struct Meter {
    server: Option<u32>,
    began: Instant,
    server_before: Option<Sample>,
    own_before: Sample,
}

/// What a [`Meter`] saw.
pub(crate) struct Reading {
    pub(crate) elapsed: Duration,
    pub(crate) server_cpu: Option<Duration>,
    pub(crate) own_cpu: Duration,
}

impl Meter {
    /// Starts a window. `server` is a process id on this machine.
    pub(crate) fn start(server: Option<u32>) -> anyhow::Result<Self> {
        Ok(Self {
            server,
            server_before: server.map(process::sample).transpose()?,
            own_before: process::sample(std::process::id())?,
            began: Instant::now(),
        })
    }

    /// Ends the window.
    pub(crate) fn stop(self) -> anyhow::Result<Reading> {
        let elapsed = self.began.elapsed();
        let after = self.server.map(process::sample).transpose()?;
        Ok(Reading {
            elapsed,
            server_cpu: after
                .zip(self.server_before)
                .map(|(after, before)| after.cpu.saturating_sub(before.cpu)),
            own_cpu: process::sample(std::process::id())?
                .cpu
                .saturating_sub(self.own_before.cpu),
        })
    }
}

impl Reading {
    /// Server CPU for each of `count` things, in microseconds.
    pub(crate) fn server_us_each(&self, count: u64) -> Option<f64> {
        self.server_cpu
            .map(|cpu| cpu.as_secs_f64() * 1e6 / count.max(1) as f64)
    }

    /// Processors that the server kept busy.
    pub(crate) fn server_cores(&self) -> Option<f64> {
        self.server_cpu
            .map(|cpu| cpu.as_secs_f64() / self.elapsed.as_secs_f64())
    }

    /// Processors that this process kept busy.
    pub(crate) fn generator_cores(&self) -> f64 {
        self.own_cpu.as_secs_f64() / self.elapsed.as_secs_f64()
    }
}

/// Opens the plan's connections in two steps, with a look at the server's memory after each; the slope between the two is what
/// one more connection costs. `open(from, to)` opens connections number `from` up to, not including, `to`.
pub(crate) async fn ramp<F>(
    plan: &Plan,
    server: Option<u32>,
    mut open: impl FnMut(usize, usize) -> F,
) -> anyhow::Result<Ramp>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let first = plan.first_step();
    open(0, first).await?;
    let small = settled(server, plan.settle).await?;
    let meter = Meter::start(server)?;
    open(first, plan.connections).await?;
    let reading = meter.stop()?;
    let large = settled(server, plan.settle).await?;
    let opened = plan.connections - first;
    Ok(Ramp {
        connections: plan.connections,
        per_second: opened as f64 / reading.elapsed.as_secs_f64(),
        kib_per_connection: small.zip(large).map(|(small, large)| {
            (large.resident_bytes as f64 - small.resident_bytes as f64) / 1024.0 / opened as f64
        }),
        server_us_each: reading.server_us_each(opened as u64),
    })
}

/// Looks at the server's memory when it has settled.
async fn settled(server: Option<u32>, settle: Duration) -> anyhow::Result<Option<Sample>> {
    let Some(pid) = server else { return Ok(None) };
    tokio::time::sleep(settle).await;
    process::sample(pid).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_look_fits_every_scenario() {
        for name in crate::scenario::NAMES {
            for connections in [2, 3, 40, 200_000] {
                let mut scenario = crate::scenario::builtin(name).unwrap();
                let changes = crate::scenario::Changes {
                    connections: Some(connections),
                    ..Default::default()
                };
                scenario.change(&changes).unwrap();
                Plan::short(&scenario).check().unwrap();
            }
        }
    }
}
