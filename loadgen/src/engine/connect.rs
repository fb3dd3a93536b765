//! Brings devices in, and back after they lost their connection.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::OwnedSemaphorePermit;

use super::World;
use super::pump::{End, Pump};
use super::seat::{Leave, Line};
use crate::stop::Stop;

/// Attempts of a process that are under way at once. Devices have a processor each and the generator has one for all of them:
/// if it began a hundred thousand handshakes at once, none would be answered in time. Whoever waits for its turn is away.
pub(super) const ATTEMPTS_AT_ONCE: usize = 2_048;
/// How long one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(15);

/// Between two looks at the wish to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Starts a task that connects a device after `delay`, and tries until it is let in or the run ends. `permit` is given back
/// after the first attempt. Does nothing if the device is not away.
pub(super) fn bring_in(
    world: &Rc<World>,
    device: usize,
    delay: Duration,
    permit: Option<OwnedSemaphorePermit>,
) {
    if world.engine.borrow_mut().begin_connecting(device) != Line::Away {
        return;
    }
    tokio::task::spawn_local(attempts(world.clone(), device, delay, permit));
}

async fn attempts(
    world: Rc<World>,
    device: usize,
    mut delay: Duration,
    mut permit: Option<OwnedSemaphorePermit>,
) {
    let mut tried = 0;
    loop {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        // Never closed.
        let turn = world.turns.acquire().await;
        if world.engine.borrow().is_over() {
            return;
        }
        world.engine.borrow_mut().attempted(device);
        // In a box, so that the crowd that waits between attempts holds no room for one.
        let attempt = Box::pin(Pump::connect(world.clone(), device));
        let attempted = tokio::time::timeout(ATTEMPT_MAX, attempt).await;
        drop(turn);
        let error = match attempted {
            Ok(Ok(pump)) => {
                tokio::task::spawn_local(pump.work());
                return;
            }
            Ok(Err(error)) => error,
            Err(_) => anyhow::anyhow!("no answer within {} s", ATTEMPT_MAX.as_secs()),
        };
        permit.take();
        let mut engine = world.engine.borrow_mut();
        engine.failed(device, "log in", &error);
        tried += 1;
        delay = engine.backoff(device, tried);
    }
}

/// A device's connection is over: it comes back, unless the run is over.
pub(super) fn gone(world: &Rc<World>, device: usize, end: End) {
    let delay = {
        let mut engine = world.engine.borrow_mut();
        let asked = match &end {
            End::Left(_) => true,
            End::Lost(error) => {
                engine.failed(device, "connection", error);
                false
            }
        };
        let rests = matches!(end, End::Left(Leave::Rest));
        engine.gone(device, Instant::now(), asked, rests)
    };
    if !matches!(end, End::Left(Leave::End | Leave::Rest)) {
        bring_in(world, device, delay, None);
    }
}

/// Connects whoever of the first `devices` is away: `rate` a second, or as many as go, `at_once` under way.
pub(super) async fn ramp(
    world: &Rc<World>,
    devices: usize,
    rate: Option<f64>,
    at_once: usize,
    until: Instant,
    stop: &Stop,
) -> anyhow::Result<()> {
    let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(at_once));
    let began = Instant::now();
    for device in 0..devices {
        if let Some(rate) = rate {
            let due = began + Duration::from_secs_f64(device as f64 / rate);
            while Instant::now() < due.min(until) && !stop.is_set() {
                tokio::time::sleep_until(due.min(until).min(Instant::now() + LOOK).into()).await;
            }
        }
        let permit = loop {
            if stop.is_set() || Instant::now() >= until {
                return Ok(());
            }
            let permit = permits.clone().acquire_owned();
            if let Ok(permit) = tokio::time::timeout(LOOK, permit).await {
                break permit.context("the semaphore is never closed")?;
            }
        };
        bring_in(world, device, Duration::ZERO, Some(permit));
    }
    Ok(())
}
