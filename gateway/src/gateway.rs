//! Starts, watches and stops one gateway: its parts, in the order in which they need each other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use quipu_core::shard::ShardCount;
use quipu_protocol::error::CloseCode;
use tokio::sync::watch;

use crate::accounts::{self, Accounts, now_ms};
use crate::admin::{Admin, Pages};
use crate::checkpoint::{CHECKPOINT_INTERVAL, Checkpointer};
use crate::config::Config;
use crate::counters;
use crate::edge::{self, Edge, EdgeError, Sessions};
use crate::expiry::{Expiry, SWEEP_INTERVAL};
use crate::external::{Issuer, IssuerError};
use crate::folder::{DataFolder, FolderError};
use crate::log::Log;
use crate::log::embedded::{EmbeddedLog, OpenLogError};
use crate::media::sweep::Sweeper;
use crate::media::{Media, MediaError};
use crate::notify::post::EndpointError;
use crate::notify::{Notifier, Topic, notifier, sweep};
use crate::password::PasswordError;
use crate::processor::{self, ProcessorError, Processors};
use crate::queries::Queries;
use crate::rates::Rates;
use crate::registry::Registry;
use crate::retention::{self, RetentionError};
use crate::router::Router;
use crate::store::fjall::{CACHE_BYTES_DEFAULT, FjallStore, OpenStoreError};
use crate::store::write_behind::{WriteBehind, WriteBehindOptions};
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;
use crate::tls::{Fingerprint, Identity, TlsError};

/// Why a gateway did not start. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Its log cannot be opened.
    #[error(transparent)]
    Log(#[from] OpenLogError),
    /// Its store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    /// The log could not be applied.
    #[error(transparent)]
    Processor(#[from] ProcessorError),
    /// The shards could not be told what to keep.
    #[error(transparent)]
    Retention(#[from] RetentionError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The issuer's keys cannot be used.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// Passwords cannot be hashed as configured.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The endpoint cannot be opened.
    #[error(transparent)]
    Edge(#[from] EdgeError),
    /// Webhooks cannot be posted as configured.
    #[error(transparent)]
    Notify(#[from] EndpointError),
    /// Files cannot be kept.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// The operating system gave no thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// Something failed while the gateway was starting.
    #[error("{0}")]
    Failed(Arc<str>),
}

/// A running gateway. [`Gateway::shutdown`] ends it well; dropping it ends it like a crash, which is always allowed.
pub struct Gateway {
    // In the order of dropping: nothing is dropped before what uses it.
    edge: Edge,
    admin: Option<Admin>,
    _notifier: Option<Notifier>,
    _sweeping: Background,
    _presence: Background,
    _sweeper: Sweeper,
    backbone: Backbone,
    identity: Arc<Identity>,
    registration: &'static str,
    ready: Arc<AtomicBool>,
}

/// Everything behind the edge.
struct Backbone {
    processors: Option<Processors>,
    checkpointer: Option<Checkpointer>,
    expiry: Option<Expiry>,
    router: Router,
    router_thread: Option<JoinHandle<()>>,
    registry: Arc<Registry>,
    topic: Arc<Topic>,
    store: Arc<dyn Store>,
    shards: ShardCount,
    life: u64,
    failures: watch::Receiver<Option<Arc<str>>>,
    folder: DataFolder,
}

impl Gateway {
    /// Opens the data folder, applies what the log holds beyond the store, and accepts connections. Must be called within a
    /// tokio runtime.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new());
        let (opening, showing) = (config.clone(), Arc::clone(&metrics));
        let backbone = tokio::task::spawn_blocking(move || Backbone::open(&opening, &showing));
        let backbone = backbone
            .await
            .map_err(|error| StartError::Failed(error.to_string().into()))??;
        let identity = Identity::open(&config.tls, backbone.folder.path())?;
        let queries = Queries::new(
            Arc::clone(&backbone.store),
            backbone.shards,
            config.limits.queries as usize,
            Arc::clone(&metrics),
        );
        let rates = Rates::new(&config.limits, Arc::clone(&metrics));
        let accounts = Accounts::new(
            &config.accounts,
            config.listen,
            config.limits.answer_timeout,
            accounts::Surroundings {
                queries: queries.clone(),
                router: backbone.router.clone(),
                registry: Arc::clone(&backbone.registry),
                rates: Arc::clone(&rates),
                issuer: Issuer::open(&config.external)?,
                life: backbone.life,
                metrics: Arc::clone(&metrics),
            },
        )?;
        let (settings, data) = (config.media.clone(), backbone.folder.path().to_owned());
        let (reads, counts) = (queries.clone(), Arc::clone(&metrics));
        let media =
            tokio::task::spawn_blocking(move || Media::open(&settings, &data, reads, counts));
        let media = media
            .await
            .map_err(|error| StartError::Failed(error.to_string().into()))??;
        media.check().await?;
        let sweeper = Sweeper::start(&media);
        let registration = accounts.registration();
        let notifier = Notifier::start(
            &config.notify,
            notifier::Surroundings {
                store: Arc::clone(&backbone.store),
                router: backbone.router.clone(),
                topic: Arc::clone(&backbone.topic),
                life: backbone.life,
                metrics: Arc::clone(&metrics),
            },
        )?;
        let boot = rand::random();
        let stalled_after = (!config.notify.url.is_empty()).then_some(config.notify.after);
        let with = edge::Surroundings {
            accounts,
            queries,
            router: backbone.router.clone(),
            registry: Arc::clone(&backbone.registry),
            rates,
            sessions: Sessions::new(boot, stalled_after),
            media,
            metrics: Arc::clone(&metrics),
            fan_out_max: config.groups.fan_out_max,
        };
        let edge = Edge::start(config.listen, &config.edge, &config.limits, &identity, with)?;
        let sweeping = tokio::spawn(sweep::run(
            Arc::clone(&backbone.store),
            backbone.router.clone(),
            boot,
            now_ms(),
            config.notify.after,
        ));
        let watched = Arc::clone(&backbone.registry);
        let presence = tokio::spawn(async move { watched.hub().run().await });
        let ready = Arc::new(AtomicBool::new(true));
        let pages = Pages {
            metrics,
            ready: Arc::clone(&ready),
            store: Arc::clone(&backbone.store),
            shards: backbone.shards,
        };
        let admin = Admin::start(config.admin.listen, pages).await;
        Ok(Self {
            edge,
            admin,
            _notifier: notifier,
            _sweeping: Background(sweeping),
            _presence: Background(presence),
            _sweeper: sweeper,
            backbone,
            identity,
            registration,
            ready,
        })
    }

    /// Where it listens; tells the port if the configuration asked for any.
    pub fn address(&self) -> SocketAddr {
        self.edge.address()
    }

    /// Where the admin pages are, if they are.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// What clients pin.
    pub fn fingerprint(&self) -> Fingerprint {
        self.identity.fingerprint()
    }

    /// The certificate, to be read again on request.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Who may register: `open`, `by invitation` or `closed`.
    pub fn registration(&self) -> &'static str {
        self.registration
    }

    /// Waits until a part fails that the gateway cannot do without, and says why. The process should end then: whoever
    /// starts it again recovers from the log.
    pub async fn failed(&self) -> Arc<str> {
        let mut failures = self.backbone.failures.clone();
        match failures.wait_for(Option::is_some).await {
            Ok(failure) => failure.clone().unwrap_or_default(),
            Err(_) => "every part of the gateway is gone".into(),
        }
    }

    /// Says GOAWAY to all sessions, waits for them to leave (bounded by `edge.drain_timeout`), finishes what the log holds
    /// and makes the store durable.
    pub async fn shutdown(self) -> Result<(), StoreError> {
        self.ready.store(false, Ordering::Release);
        self.edge.drain().await;
        drop(self.edge);
        let finished = tokio::task::spawn_blocking(move || self.backbone.finish());
        finished
            .await
            .unwrap_or_else(|error| Err(StoreError::Closed(error.to_string().into())))
    }
}

/// A task that ends with the gateway.
struct Background(tokio::task::JoinHandle<()>);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Backbone {
    fn open(config: &Config, metrics: &Metrics) -> Result<Self, StartError> {
        let shards = ShardCount(u16::try_from(config.storage.shards).unwrap_or(u16::MAX));
        let folder = DataFolder::open_or_create(&config.data, shards)?;
        let log = EmbeddedLog::open(&folder)?;
        counters::log(metrics, &log.stats());
        let log: Arc<dyn Log> = Arc::new(log);
        let options = WriteBehindOptions {
            flush_interval: config.storage.flush_interval,
            overlay_bytes_max: config.storage.overlay.as_usize(),
        };
        let store = WriteBehind::new(FjallStore::open(&folder, CACHE_BYTES_DEFAULT)?, options)?;
        counters::store(metrics, &store.stats());
        let store: Arc<dyn Store> = Arc::new(store);
        let registry = Registry::with_grace(config.presence.grace);
        counters::registry(metrics, &registry);
        let (failed, failures) = watch::channel(None);
        let fail = Fail {
            failed: Arc::new(failed),
            registry: Arc::clone(&registry),
        };
        let topic = Arc::new(Topic::default());
        let surroundings = processor::Surroundings {
            log: Arc::clone(&log),
            store: Arc::clone(&store),
            registry: Arc::clone(&registry),
            topic: Arc::clone(&topic),
        };
        let threads = processor_threads(config.storage.processors);
        let failing = fail.clone();
        let processors = Processors::start(&surroundings, threads, move |error| {
            failing.all(&error.to_string())
        })?;
        counters::processors(metrics, processors.stats());
        if let Some(why) = failures.borrow().clone() {
            return Err(StartError::Failed(why));
        }
        retention::tell(&*log, &*store, &config.inbox)?;
        let (router, router_thread) = Router::start(Arc::clone(&log), move || {
            fail.all("the log takes no commands any more")
        })?;
        counters::router(metrics, router.stats());
        let checkpointer =
            Checkpointer::start(Arc::clone(&log), Arc::clone(&store), CHECKPOINT_INTERVAL)?;
        let expiry = Expiry::start(Arc::clone(&log), Arc::clone(&store), SWEEP_INTERVAL)?;
        counters::expiry(metrics, expiry.stats());
        Ok(Self {
            processors: Some(processors),
            checkpointer: Some(checkpointer),
            expiry: Some(expiry),
            router,
            router_thread: Some(router_thread),
            registry,
            topic,
            store,
            shards: log.identity().shards,
            life: log.identity().life,
            failures,
            folder,
        })
    }

    /// Applies what is left and makes it durable.
    fn finish(mut self) -> Result<(), StoreError> {
        self.stop();
        // Makes a last checkpoint.
        drop(self.checkpointer.take());
        self.store.sync().map(drop)
    }

    /// Ends the threads that hold the log, the one that feeds it first.
    fn stop(&mut self) {
        drop(self.expiry.take());
        self.router.stop();
        if let Some(thread) = self.router_thread.take() {
            // A thread that panicked has said so; there is nothing left to stop.
            let _ = thread.join();
        }
        if let Some(processors) = self.processors.take() {
            processors.stop();
        }
    }
}

impl Drop for Backbone {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Ends every session when the gateway cannot go on, and says why to whoever waits in [`Gateway::failed`].
#[derive(Clone)]
struct Fail {
    failed: Arc<watch::Sender<Option<Arc<str>>>>,
    registry: Arc<Registry>,
}

impl Fail {
    fn all(&self, why: &str) {
        tracing::error!("{why}");
        self.failed.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert_with(|| why.into());
            first
        });
        self.registry.for_each(|mailbox| {
            mailbox.close(CloseCode::Unavailable, "the gateway cannot store messages")
        });
    }
}

/// 0 means one for each core of the machine, at most 8.
fn processor_threads(configured: u32) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().min(8)),
        threads => threads as usize,
    }
}
