//! Who keeps a run together: starts its phases everywhere at once, and holds the gateway in its hands.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context as _;
use parking_lot::Mutex;

use crate::engine::Pid;
use crate::gateway::Gateway;
use crate::second::{MemoryPoint, Second, Standing};
use crate::talk::{Said, Step};

/// What the engine asks for beyond its own devices.
pub(crate) enum Conductor {
    /// This process is the only one, and the gateway is its own or a stranger's.
    Alone(Alone),
    /// Another process conducts: it is told on standard output, and answers on standard input.
    Agent(Agent),
}

/// Holds the gateway.
pub(crate) struct Alone {
    gateway: Arc<Mutex<Gateway>>,
    pid: Pid,
}

/// One of several generator processes.
pub(crate) struct Agent {
    /// One for each step that all processes have come to.
    pub(crate) go: tokio::sync::Mutex<tokio::sync::mpsc::Receiver<()>>,
}

impl Agent {
    /// Waits until all processes of the run have come to this step.
    async fn step(&self, step: Step) -> anyhow::Result<()> {
        Said::At(step).say();
        let go = self.go.lock().await.recv().await;
        go.context("the coordinator is gone")
    }
}

impl Conductor {
    /// The only process.
    pub(crate) fn alone(gateway: Gateway) -> Self {
        let pid = Rc::new(Cell::new(gateway.pid));
        let gateway = Arc::new(Mutex::new(gateway));
        Self::Alone(Alone { gateway, pid })
    }

    /// The gateway's process, if this process may look at it.
    pub(crate) fn gateway_pid(&self) -> Pid {
        match self {
            Self::Alone(alone) => alone.pid.clone(),
            Self::Agent(_) => Pid::default(),
        }
    }

    /// Waits until all processes of the run have come to this phase.
    pub(crate) async fn at_phase(&self, number: usize) -> anyhow::Result<()> {
        match self {
            Self::Alone(_) => Ok(()),
            Self::Agent(agent) => agent.step(Step::Phase(number)).await,
        }
    }

    /// A second is over.
    pub(crate) fn second(&self, second: Second, standing: Standing) {
        match self {
            Self::Alone(_) => {}
            Self::Agent(_) => Said::Second(Box::new((second, standing))).say(),
        }
    }

    /// Memory was looked at.
    pub(crate) fn memory(&self, point: MemoryPoint) {
        match self {
            Self::Alone(_) => {}
            Self::Agent(_) => Said::Memory(point).say(),
        }
    }

    /// Kills the gateway. For an agent the coordinator does it, once all have asked.
    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        match self {
            Self::Alone(alone) => {
                alone.gateway.lock().kill()?;
                alone.pid.set(None);
                Ok(())
            }
            Self::Agent(agent) => agent.step(Step::Kill).await,
        }
    }

    /// Starts it again with the same data at the same address.
    pub(crate) async fn restart(&self) -> anyhow::Result<()> {
        match self {
            Self::Alone(alone) => {
                let gateway = alone.gateway.clone();
                // Starting waits for the process to say that it is ready; the devices go on meanwhile.
                let pid = tokio::task::spawn_blocking(move || {
                    let mut gateway = gateway.lock();
                    gateway.restart()?;
                    anyhow::Ok(gateway.pid)
                });
                alone.pid.set(pid.await??);
                Ok(())
            }
            Self::Agent(agent) => agent.step(Step::Restart).await,
        }
    }
}
