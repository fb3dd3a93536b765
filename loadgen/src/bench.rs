//! The measurement of a gateway: log-ins, memory, one-to-one messages as fast as they go, and at half of that rate.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use crate::device::Device;
use crate::gateway::{Gateway, Target};
use crate::measure::Verdicts;
use crate::plan::{self, Meter, Plan, Ramp, Throughput};
use crate::run::{Run, Window};
use crate::transport::{ALPN_QUIPU, Sockets};

/// How long what is under way may take to finish once nothing new is sent.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);
/// How often progress is looked at while waiting.
const LOOK: Duration = Duration::from_millis(20);
/// Between two looks of the pacer at the schedule; tokio's timer is no finer.
const PACE: Duration = Duration::from_millis(1);

/// The figures of a gateway.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub(crate) ramp: Ramp,
    /// Closed loop: as many messages as go.
    pub(crate) most: Throughput,
    /// Open loop at a stated rate.
    pub(crate) paced: Throughput,
    /// Messages that the ledger judged, warm-up and drain included.
    pub(crate) verified: u64,
    pub(crate) verdicts: Verdicts,
    /// Sends of the open loop that were left out because too many waited.
    pub(crate) shed: u64,
    /// Why the run is worth nothing, if it is.
    pub(crate) invalid: Option<String>,
}

impl Figures {
    /// Whether every message arrived once, in order and unchanged, and every device stayed connected.
    pub(crate) fn clean(&self) -> bool {
        self.verdicts.clean() && self.invalid.is_none()
    }
}

/// Starts (or finds) the gateway and measures it. `rate` is that of the open loop; without it, half of what the closed loop
/// gave. Must run in a `LocalSet`.
pub(crate) async fn measure(
    plan: &Plan,
    target: &Target,
    rate: Option<f64>,
) -> anyhow::Result<Figures> {
    let gateway = target.start(plan.connections)?;
    let sockets = Rc::new(Sockets::open(
        gateway.address,
        plan.connections,
        ALPN_QUIPU,
    )?);
    let users = gateway
        .accounts
        .iter()
        .map(|account| account.name)
        .collect();
    let run = Rc::new(RefCell::new(Run::new(
        rand::random(),
        users,
        plan.pairs,
        plan.bytes,
    )));
    let ramp = connect_all(plan, &gateway, &sockets, &run).await?;
    run.borrow_mut().open_all();
    wait_until("the conversations to be opened", || {
        run.borrow_mut().all_open()
    })
    .await?;

    run.borrow_mut().start_closed(plan.outstanding);
    let most = window(plan, &gateway, &run, None).await?;
    let rate = rate.unwrap_or(most.0.per_second / 2.0);
    let pacer = tokio::task::spawn_local(pace(run.clone(), rate));
    let paced = window(plan, &gateway, &run, Some(rate)).await;
    pacer.abort();
    let paced = paced?;

    let figures = judge(&mut run.borrow_mut(), ramp, most.0, paced);
    if let Ok(sockets) = Rc::try_unwrap(sockets) {
        sockets.close().await;
    }
    Ok(figures)
}

fn judge(run: &mut Run, ramp: Ramp, most: Throughput, (paced, shed): (Throughput, u64)) -> Figures {
    let invalid = match run.failures() {
        (0, _) => generator_bound(&paced),
        (count, first) => Some(format!(
            "{count} devices lost their connection, the first: {}",
            first.unwrap_or_default()
        )),
    };
    Figures {
        ramp,
        most,
        paced,
        verified: run.sent(),
        verdicts: run.finish(),
        shed,
        invalid,
    }
}

async fn connect_all(
    plan: &Plan,
    gateway: &Gateway,
    sockets: &Rc<Sockets>,
    run: &Rc<RefCell<Run>>,
) -> anyhow::Result<Ramp> {
    plan::ramp(plan, gateway.pid, |from, to| async move {
        let devices: Vec<Device> = stream::iter(from..to)
            .map(|number| Device::connect(sockets, number, &gateway.accounts[number], run))
            .buffer_unordered(plan.handshakes)
            .try_collect()
            .await
            .context("log in")?;
        for device in devices {
            tokio::task::spawn_local(device.work());
        }
        Ok(())
    })
    .await
}

/// Warms up, measures one window, and lets what is under way finish. Also says how many sends were shed.
async fn window(
    plan: &Plan,
    gateway: &Gateway,
    run: &Rc<RefCell<Run>>,
    rate: Option<f64>,
) -> anyhow::Result<(Throughput, u64)> {
    tokio::time::sleep(plan.warm_up()).await;
    let meter = Meter::start(gateway.pid)?;
    run.borrow_mut().open_window();
    tokio::time::sleep(plan.window()).await;
    let finished = run.borrow_mut().close_window();
    let reading = meter.stop()?;
    run.borrow_mut().drain();
    // What does not finish is a verdict of the ledger, not an error of ours.
    let _ = wait_until("messages under way", || run.borrow().settled()).await;
    let Window {
        ack,
        delivery,
        lag,
        shed,
        ..
    } = run.borrow_mut().take_window();
    let throughput = Throughput {
        offered_per_second: rate,
        per_second: finished as f64 / reading.elapsed.as_secs_f64(),
        ack: ack.percentiles(),
        delivery: Some(delivery.percentiles()),
        lag: Some(lag.percentiles()),
        server_us_each: reading.server_us_each(finished),
        server_cores: reading.server_cores(),
        generator_cores: reading.generator_cores(),
    };
    Ok((throughput, shed))
}

/// Starts the i-th message when it is due, at `start + i / rate`, whatever happened to those before it.
async fn pace(run: Rc<RefCell<Run>>, rate: f64) {
    run.borrow_mut().start_open();
    let start = Instant::now();
    let mut next = 0;
    let mut tick = tokio::time::interval(PACE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        let mut run = run.borrow_mut();
        if run.draining() {
            return;
        }
        let now = start.elapsed();
        loop {
            let due = Duration::from_secs_f64(next as f64 / rate);
            if due > now {
                break;
            }
            run.start_due(next, start + due);
            next += 1;
        }
    }
}

/// An open loop that started its messages late measured itself.
fn generator_bound(paced: &Throughput) -> Option<String> {
    const LAG_P99_MAX_MS: f64 = 5.0;
    let lag = paced.lag.as_ref()?.p99_ms;
    (lag > LAG_P99_MAX_MS).then(|| {
        format!("generator-bound: one message in a hundred was started {lag:.1} ms late or later")
    })
}

async fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let began = Instant::now();
    while !done() {
        ensure!(
            began.elapsed() < DRAIN_PATIENCE,
            "waited {} s for {what}",
            DRAIN_PATIENCE.as_secs()
        );
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
