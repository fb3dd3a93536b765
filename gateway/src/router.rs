//! Carries commands from sessions to the log of the shard that decides about them.
//!
//! One thread gathers: while an append is being made durable the next commands collect, so that batches grow with load and
//! a lone command waits for nobody. Order is kept for each caller. After a failed append nothing is appended any more:
//! a later command of a device must never enter the log when an earlier one did not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quipu_core::record::{Command, Entry, EntryBody, Fact};
use quipu_core::shard::{ShardCount, ShardId};
use quipu_protocol::id::UserId;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::batch::Batch;
use crate::log::Log;
use crate::pace::Pace;

/// Commands that wait for the router; a session that finds it full waits, and its client's stream stops being read.
pub const ROUTER_QUEUE_MAX: usize = 8_192;
/// Commands gathered into the records of one append.
pub const GATHER_COMMANDS_MAX: usize = 4_096;
/// Bytes of commands gathered into the records of one append; passed by the last command at the most.
pub const GATHER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Least time between two appends.
const GATHER_TIME: Duration = Duration::from_millis(1);
/// How long facts wait for company while many come, as in a storm of log-ins: nobody waits for them. A command ends it.
const FACTS_TIME: Duration = Duration::from_millis(20);
/// Many come when one does so soon after the last append.
const FACTS_RUSH: Duration = Duration::from_millis(2);

/// The log takes nothing any more. The device must connect again, later or elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log takes no commands")]
pub struct Unavailable;

/// What the router carries to a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submission {
    /// Of a device.
    Command(Command),
    /// Of this gateway, about a user.
    Fact(UserId, Fact),
}

impl From<Command> for Submission {
    fn from(command: Command) -> Self {
        Self::Command(command)
    }
}

impl Submission {
    fn shard(&self, shards: ShardCount) -> ShardId {
        match self {
            Self::Command(command) => command.shard(shards),
            Self::Fact(user, _) => shards.of_user(user),
        }
    }

    fn into_entry(self) -> Entry {
        let body = match self {
            Self::Command(command) => EntryBody::Command(command),
            Self::Fact(user, fact) => EntryBody::Fact { user, fact },
        };
        Entry { source: None, body }
    }
}

/// Why a command was not queued at once.
#[derive(Debug)]
pub enum NoRoom {
    /// The queue is full; here is the command again.
    Full(Box<Submission>),
    /// It never will be.
    Unavailable(Unavailable),
}

/// What the router counts.
#[derive(Debug, Default)]
pub struct RouterStats {
    /// Commands appended.
    pub commands: AtomicU64,
    /// Appends made; commands divided by appends is the batching.
    pub appends: AtomicU64,
    /// Times a session found the queue full and waited.
    pub waits: AtomicU64,
}

/// What goes through the queue.
#[derive(Debug)]
enum Item {
    Submission(Submission),
    /// The router ends behind what came before.
    Stop,
}

/// A handle to the router; cheap to clone.
#[derive(Debug, Clone)]
pub struct Router {
    queue: mpsc::Sender<Item>,
    stopping: Arc<AtomicBool>,
    stats: Arc<RouterStats>,
}

impl Router {
    /// Starts the router's thread. It ends when it is stopped, when every handle is gone, or with the log; `failed` is called
    /// once in the last case, and must end every session.
    pub fn start(
        log: Arc<dyn Log>,
        failed: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<(Self, thread::JoinHandle<()>)> {
        let (queue, commands) = mpsc::channel(ROUTER_QUEUE_MAX);
        let stats = Arc::new(RouterStats::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let gatherer = Gatherer {
            shards: log.identity().shards,
            log,
            commands,
            stopping: Arc::clone(&stopping),
            stats: stats.clone(),
        };
        let thread = thread::Builder::new()
            .name("router".into())
            .spawn(move || {
                if gatherer.run().is_err() {
                    failed();
                }
            })?;
        let router = Self {
            queue,
            stopping,
            stats,
        };
        Ok((router, thread))
    }

    /// Ends the router's thread behind what waits, or after the next append if the queue is full: nobody was promised the rest.
    pub fn stop(&self) {
        if self.queue.try_send(Item::Stop).is_err() {
            self.stopping.store(true, Ordering::Release);
        }
    }

    /// What it has counted.
    pub fn stats(&self) -> &Arc<RouterStats> {
        &self.stats
    }

    /// Queues a command or a fact, waiting for room. Those of one caller keep their order. It is durable only when its event or
    /// answer comes back.
    pub async fn submit(&self, command: impl Into<Submission>) -> Result<(), Unavailable> {
        let command = match self.try_submit(command) {
            Ok(()) => return Ok(()),
            Err(NoRoom::Unavailable(unavailable)) => return Err(unavailable),
            Err(NoRoom::Full(command)) => command,
        };
        self.stats.waits.fetch_add(1, Ordering::Relaxed);
        let item = Item::Submission(*command);
        self.queue.send(item).await.map_err(|_| Unavailable)
    }

    /// Queues a command if there is room for it now; otherwise gives it back, for [`Router::submit`].
    pub fn try_submit(&self, command: impl Into<Submission>) -> Result<(), NoRoom> {
        let queued = self.queue.try_send(Item::Submission(command.into()));
        queued.map_err(|error| match error {
            TrySendError::Full(Item::Submission(command)) => NoRoom::Full(Box::new(command)),
            TrySendError::Full(Item::Stop) | TrySendError::Closed(_) => {
                NoRoom::Unavailable(Unavailable)
            }
        })
    }
}

struct Gatherer {
    shards: ShardCount,
    log: Arc<dyn Log>,
    commands: mpsc::Receiver<Item>,
    stopping: Arc<AtomicBool>,
    stats: Arc<RouterStats>,
}

impl Gatherer {
    /// Returns when it is stopped or every handle is gone; an error when the log failed.
    fn run(mut self) -> Result<(), Unavailable> {
        let mut pace = Pace::new(GATHER_TIME);
        let mut appended_at: Option<Instant> = None;
        while let Some(first) = self.commands.blocking_recv() {
            let rush = appended_at.is_some_and(|at| at.elapsed() < FACTS_RUSH);
            pace.begin();
            let patience = Instant::now() + FACTS_TIME;
            let batch = self.gather(first, || {
                let waits = rush && Instant::now() < patience;
                if waits {
                    // Not woken by each fact: that is what this saves.
                    thread::sleep(GATHER_TIME);
                }
                waits
            });
            // What comes meanwhile makes the next append.
            self.log.append_and_wait(batch).map_err(|_| Unavailable)?;
            appended_at = Some(Instant::now());
            if self.stopping.load(Ordering::Acquire) {
                break;
            }
        }
        Ok(())
    }

    /// Takes what has collected behind `first` and makes records of it. Facts alone wait for more, as long as `waits` does and
    /// says so.
    fn gather(&mut self, first: Item, mut waits: impl FnMut() -> bool) -> Vec<(ShardId, Bytes)> {
        let mut gathered = Gathered::default();
        self.take(&mut gathered, Some(first));
        while gathered.may_wait() && !self.is_stopping() && waits() {
            let next = self.commands.try_recv().ok();
            self.take(&mut gathered, next);
        }
        let batch = gathered.batch;
        self.stats
            .commands
            .fetch_add(batch.entries() as u64, Ordering::Relaxed);
        self.stats.appends.fetch_add(1, Ordering::Relaxed);
        batch.into_records()
    }

    /// Takes `next` and what waits behind it, up to the bounds of an append.
    fn take(&mut self, gathered: &mut Gathered, mut next: Option<Item>) {
        while let Some(item) = next {
            match item {
                Item::Submission(submission) => gathered.push(submission, self.shards),
                Item::Stop => self.stopping.store(true, Ordering::Release),
            }
            next = match gathered.is_full() {
                false => self.commands.try_recv().ok(),
                true => None,
            };
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire) || self.commands.is_closed()
    }
}

/// What makes the next append.
#[derive(Default)]
struct Gathered {
    batch: Batch,
    /// Somebody waits for it.
    has_command: bool,
}

impl Gathered {
    fn push(&mut self, submission: Submission, shards: ShardCount) {
        self.has_command |= matches!(submission, Submission::Command(_));
        self.batch
            .push(submission.shard(shards), submission.into_entry());
    }

    fn is_full(&self) -> bool {
        self.batch.entries() >= GATHER_COMMANDS_MAX || self.batch.bytes() >= GATHER_BYTES_MAX
    }

    fn may_wait(&self) -> bool {
        !self.has_command && !self.is_full()
    }
}

#[cfg(test)]
mod tests {
    use quipu_core::record::{CommandKind, SessionId};
    use quipu_protocol::id::{Cursor, DeviceId, RequestId};

    use super::*;
    use crate::log::MemoryLog;

    const SHARDS: ShardCount = ShardCount(4);

    fn fact() -> Item {
        let fact = Fact::Attached {
            device: DeviceId::new(1).unwrap(),
            session: SessionId { boot: 1, number: 1 },
            cursor: Cursor(0),
        };
        Item::Submission(Submission::Fact(UserId::new("ann").unwrap(), fact))
    }

    fn command() -> Item {
        let kind = CommandKind::OpenDirect {
            request: RequestId(1),
            peer: UserId::new("bob").unwrap(),
        };
        Item::Submission(Submission::Command(Command {
            user: UserId::new("ann").unwrap(),
            device: DeviceId::new(1).unwrap(),
            kind,
        }))
    }

    fn gatherer() -> (Gatherer, mpsc::Sender<Item>) {
        let (queue, commands) = mpsc::channel(ROUTER_QUEUE_MAX);
        let gatherer = Gatherer {
            shards: SHARDS,
            log: Arc::new(MemoryLog::new(SHARDS)),
            commands,
            stopping: Arc::default(),
            stats: Arc::default(),
        };
        (gatherer, queue)
    }

    /// How many entries the next append has, and how often it waited, when `later` comes during the first wait and patience
    /// ends with the third.
    fn gathered(first: Item, later: Item) -> (u64, u32) {
        let (mut gatherer, queue) = gatherer();
        let (mut later, mut waited) = (Some(later), 0);
        gatherer.gather(first, || {
            waited += 1;
            if let Some(later) = later.take() {
                queue.try_send(later).unwrap();
            }
            waited < 3
        });
        (gatherer.stats.commands.load(Ordering::Relaxed), waited)
    }

    #[test]
    fn facts_wait_for_company_and_commands_do_not() {
        assert_eq!(gathered(fact(), fact()), (2, 3), "facts wait to the end");
        assert_eq!(gathered(fact(), command()), (2, 1), "a command ends it");
        assert_eq!(gathered(command(), fact()), (1, 0));
    }

    #[test]
    fn a_router_that_stops_waits_for_nothing() {
        assert_eq!(gathered(fact(), Item::Stop), (1, 1));
        let (mut gatherer, queue) = gatherer();
        drop(queue);
        gatherer.gather(fact(), || panic!("nobody can come"));
    }

    #[test]
    fn a_full_append_waits_for_nothing() {
        let (mut gatherer, queue) = gatherer();
        for _ in 0..GATHER_COMMANDS_MAX {
            queue.try_send(fact()).unwrap();
        }
        gatherer.gather(fact(), || panic!("it is full"));
        let taken = gatherer.stats.commands.load(Ordering::Relaxed);
        assert_eq!(taken, GATHER_COMMANDS_MAX as u64);
    }
}
