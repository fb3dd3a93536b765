//! Router, processors and notifier over a log and a store in memory, with sessions that are only facts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quipu_core::record::{Command, CommandKind, Fact, NewDevice, SessionId};
use quipu_core::row::{DeadLetter, EntityKey, IndexRange, Presence};
use quipu_core::shard::ShardCount;
use quipu_gateway::config::{Notify, SecretText};
use quipu_gateway::log::{Log, MemoryLog};
use quipu_gateway::notify::notifier::{Notifier, Surroundings};
use quipu_gateway::notify::{Topic, dead_letters, sweep};
use quipu_gateway::processor::{self, Processors};
use quipu_gateway::registry::Registry;
use quipu_gateway::router::{Router, Submission};
use quipu_gateway::store::{MemoryStore, Store};
use quipu_gateway::telemetry::Metrics;
use quipu_protocol::event::Content;
use quipu_protocol::id::{
    ClientSeq, ConversationId, Cursor, DeviceId, MessageId, RequestId, TimestampMs, UserId,
};

use crate::receiver::{PATIENCE, SECRET};

const SHARDS: ShardCount = ShardCount(4);

/// Quick settings for this receiver.
pub(crate) fn settings(url: &str) -> Notify {
    Notify {
        url: url.to_owned(),
        secrets: SecretText(SECRET.to_owned()),
        after: Duration::from_millis(50),
        timeout: Duration::from_secs(10),
        backoff: Duration::from_millis(20),
        backoff_max: Duration::from_millis(100),
        ca: PathBuf::new(),
        ..Notify::default()
    }
}

/// What survives a crash.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) store: Arc<MemoryStore>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            log: Arc::new(MemoryLog::new(SHARDS)),
            store: Arc::new(MemoryStore::new()),
        }
    }
}

/// One life of a gateway without its edge.
pub(crate) struct World {
    pub(crate) disk: Disk,
    pub(crate) router: Router,
    pub(crate) metrics: Arc<Metrics>,
    topic: Arc<Topic>,
    processors: Option<Processors>,
    notifier: Option<Notifier>,
}

impl World {
    /// A first life with `alice` and `bob`.
    pub(crate) async fn start(settings: &Notify) -> Self {
        let mut world = Self::on(Disk::new());
        for name in ["alice", "bob", "carol"] {
            world.register(name).await;
        }
        world.notify(settings);
        world
    }

    /// A life without a notifier.
    pub(crate) fn on(disk: Disk) -> Self {
        let (registry, topic) = (Registry::new(), Arc::new(Topic::default()));
        let surroundings = processor::Surroundings {
            log: disk.log.clone() as Arc<dyn Log>,
            store: disk.store.clone() as Arc<dyn Store>,
            registry,
            topic: Arc::clone(&topic),
        };
        let processors = Processors::start(&surroundings, 1, |error| panic!("{error}"));
        let (router, _thread) = Router::start(disk.log.clone(), || {}).expect("a thread");
        Self {
            disk,
            router,
            metrics: Arc::new(Metrics::new()),
            topic,
            processors: Some(processors.expect("nothing damaged")),
            notifier: None,
        }
    }

    pub(crate) fn notify(&mut self, settings: &Notify) {
        self.notify_by(settings, self.router.clone());
    }

    /// With a router of its own for the reports.
    pub(crate) fn notify_by(&mut self, settings: &Notify, router: Router) {
        let with = Surroundings {
            store: self.disk.store.clone(),
            router,
            topic: Arc::clone(&self.topic),
            life: self.disk.log.identity().life,
            metrics: Arc::clone(&self.metrics),
        };
        self.notifier = Notifier::start(settings, with).expect("good settings");
    }

    /// Ends this life at once; what is on the disk goes on.
    pub(crate) fn crash(mut self) -> Disk {
        drop(self.notifier.take());
        if let Some(processors) = self.processors.take() {
            processors.stop();
        }
        self.disk.clone()
    }

    async fn register(&self, name: &str) {
        let kind = CommandKind::Register {
            request: RequestId(1),
            password: None,
            device: NewDevice {
                label: "test".into(),
                token_hash: [7; 32],
            },
        };
        self.command(name, kind).await;
    }

    async fn command(&self, name: &str, kind: CommandKind) {
        let command = Command {
            user: user(name),
            device: device(),
            kind,
        };
        self.router.submit(command).await.expect("it runs");
    }

    pub(crate) async fn fact(&self, name: &str, fact: Fact) {
        let fact = Submission::Fact(user(name), fact);
        self.router.submit(fact).await.expect("it runs");
    }

    pub(crate) async fn attach(&self, name: &str, boot: u64, cursor: u64) {
        let fact = Fact::Attached {
            device: device(),
            session: SessionId { boot, number: 1 },
            cursor: Cursor(cursor),
        };
        self.fact(name, fact).await;
    }

    /// `from` writes to `to`, as the `number`-th message between them.
    pub(crate) async fn send(&self, from: &str, to: &str, number: u64, text: &str) {
        let (request, peer) = (RequestId(2), user(to));
        self.command(from, CommandKind::OpenDirect { request, peer })
            .await;
        let kind = CommandKind::Send {
            conversation: ConversationId::direct(&user(from), &user(to)),
            client_seq: ClientSeq::new(number).expect("not 0"),
            id: MessageId([number as u8; 16]),
            content: Content::Text(text.to_owned()),
        };
        self.command(from, kind).await;
    }

    /// What former lives left behind, told at once.
    pub(crate) async fn sweep(&self, boot: u64) {
        let store = self.disk.store.clone();
        let router = self.router.clone();
        sweep::run(store, router, boot, TimestampMs(u64::MAX), Duration::ZERO).await;
    }

    pub(crate) fn presence(&self, name: &str) -> Presence {
        let keys = [EntityKey::Presence(user(name))];
        let row = self.disk.store.entities(&keys).expect("readable").remove(0);
        row.map_or_else(Presence::default, |row| {
            Presence::decode(&row).expect("readable")
        })
    }

    /// Waits until a condition holds.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                // A poll: the store has no way to say that it has changed.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("{what} did not come"));
    }

    /// Waits until nobody is in the offline topic.
    pub(crate) async fn until_told(&self) {
        let empty = |world: &Self| {
            let rows = world.disk.store.index(&IndexRange::Offline(None), 1);
            rows.expect("readable").is_empty()
        };
        self.until("the end of the offline topic", empty).await;
    }

    pub(crate) fn dead_letters(&self) -> Vec<DeadLetter> {
        dead_letters::list(&*self.disk.store, SHARDS).expect("readable")
    }
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).expect("a name")
}

fn device() -> DeviceId {
    DeviceId::new(1).expect("not 0")
}
