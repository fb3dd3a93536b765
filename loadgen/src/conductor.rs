//! Who keeps a run together: starts its phases everywhere at once, and holds the gateway in its hands.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context as _;
use parking_lot::Mutex;

use crate::engine::Pid;
use crate::gateway::Gateway;

/// What the engine asks for beyond its own devices.
pub(crate) enum Conductor {
    /// This process is the only one, and the gateway is its own or a stranger's.
    Alone(Alone),
    #[allow(dead_code, reason = "comes with --processes")]
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
    /// Lines of the coordinator.
    pub(crate) orders: tokio::sync::Mutex<tokio::sync::mpsc::Receiver<String>>,
}

/// What an agent prints before each phase; the coordinator answers [`GO`] when all have.
pub(crate) const READY: &str = "ready";
/// What lets an agent begin a phase.
pub(crate) const GO: &str = "go";

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
            Self::Agent(agent) => {
                println!("{READY} {number}");
                let order = agent.orders.lock().await.recv().await;
                let order = order.context("the coordinator is gone")?;
                anyhow::ensure!(order == GO, "the coordinator said {order:?}");
                Ok(())
            }
        }
    }

    /// Kills the gateway. For an agent the coordinator has done it.
    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        match self {
            Self::Alone(alone) => {
                alone.gateway.lock().kill()?;
                alone.pid.set(None);
                Ok(())
            }
            Self::Agent(_) => Ok(()),
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
            Self::Agent(_) => Ok(()),
        }
    }
}
