//! The task that keeps the offline topic empty: knows who waits, and sends visits to those who are due.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quipu_core::row::{CorruptRow, IndexKey, IndexRange, OfflineRow};
use quipu_protocol::id::{TimestampMs, UserId};
use tokio::task::{Id, JoinHandle, JoinSet};

use super::post::{Client, EndpointError};
use super::schedule::{Next, Progress, Schedule};
use super::sign::Signer;
use super::topic::Topic;
use super::visit::{Visited, Visitor, due_at};
use crate::accounts::now_ms;
use crate::config;
use crate::router::Router;
use crate::store::{Store, StoreError};
use crate::telemetry::{Kind, Metrics};

/// Users read from the offline topic at once.
const PAGE_USERS: usize = 1024;
/// How long until a user is visited again whose visit ended in a fault of ours.
const FAULT_WAIT: Duration = Duration::from_secs(60);

/// Posts webhooks until it is dropped. What it has not posted by then the next one posts.
#[derive(Debug)]
pub struct Notifier(JoinHandle<()>);

impl Drop for Notifier {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What it works with.
pub struct Surroundings {
    /// What waits, and what it says.
    pub store: Arc<dyn Store>,
    /// Takes the reports.
    pub router: Router,
    /// Says what changes.
    pub topic: Arc<Topic>,
    /// Of the log; a part of what makes ids.
    pub life: u64,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl Notifier {
    /// Starts; `None` without a url. Must be called within a tokio runtime.
    pub fn start(
        settings: &config::Notify,
        with: Surroundings,
    ) -> Result<Option<Self>, EndpointError> {
        if settings.url.is_empty() {
            return Ok(None);
        }
        let concurrency = settings.concurrency as usize;
        let signer = Signer::new(&settings.secrets.0)?;
        let client = Client::new(
            &settings.url,
            &settings.ca,
            signer,
            settings.timeout,
            concurrency,
        )?;
        let oldest = Arc::new(AtomicU64::new(0));
        let shown = Arc::clone(&oldest);
        with.metrics.show(
            Kind::Gauge,
            "notify_oldest_seconds",
            "For how long the oldest message has waited that is to be told about by webhook",
            move || match shown.load(Ordering::Relaxed) {
                0 => 0,
                since => now_ms().0.saturating_sub(since) / 1000,
            },
        );
        with.topic.listen();
        let keeper = Keeper {
            schedule: Schedule::default(),
            visits: JoinSet::new(),
            visiting: HashMap::new(),
            concurrency,
            after: settings.after,
            oldest,
            topic: with.topic,
            visitor: Arc::new(Visitor {
                store: with.store,
                router: with.router,
                client,
                settings: settings.clone(),
                life: with.life,
                metrics: with.metrics,
            }),
        };
        Ok(Some(Self(tokio::spawn(keeper.run()))))
    }
}

/// The receiver wants no webhook ever again.
struct Gone;

struct Keeper {
    schedule: Schedule,
    /// At most `concurrency`.
    visits: JoinSet<Visited>,
    visiting: HashMap<Id, UserId>,
    concurrency: usize,
    after: Duration,
    /// Since when the oldest waits, in Unix milliseconds; 0: nobody does.
    oldest: Arc<AtomicU64>,
    topic: Arc<Topic>,
    visitor: Arc<Visitor>,
}

impl Keeper {
    async fn run(mut self) {
        self.read_topic().await;
        loop {
            self.start_visits();
            self.show();
            let next = self.schedule.next_start(self.concurrency);
            tokio::select! {
                Some(visited) = self.visits.join_next_with_id() => {
                    if let Err(Gone) = self.visited(visited) {
                        return self.stop();
                    }
                }
                () = self.topic.changed() => self.take_changes().await,
                () = sleep_until(next) => {}
            }
            if self.schedule.wants_more() {
                self.read_topic().await;
            }
        }
    }

    fn start_visits(&mut self) {
        while let Some((user, progress)) = self.schedule.start(Instant::now(), self.concurrency) {
            let visit = Arc::clone(&self.visitor).visit(user, progress);
            let id = self.visits.spawn(visit).id();
            self.visiting.insert(id, user);
        }
    }

    fn visited(
        &mut self,
        visited: Result<(Id, Visited), tokio::task::JoinError>,
    ) -> Result<(), Gone> {
        let now = Instant::now();
        let (id, visited) = match visited {
            Ok(visited) => visited,
            Err(error) => {
                tracing::error!(%error, "a visit failed");
                let next = Next::At(now + FAULT_WAIT, Progress::default());
                let visited = Visited {
                    next,
                    pause: None,
                    gone: false,
                };
                (error.id(), visited)
            }
        };
        if let Some(user) = self.visiting.remove(&id) {
            self.schedule.finish(user, visited.next, now);
        }
        if let Some(pause) = visited.pause {
            self.schedule.pause(now + pause);
        }
        match visited.gone {
            true => Err(Gone),
            false => Ok(()),
        }
    }

    async fn take_changes(&mut self) {
        let changes = self.topic.take();
        for (user, since) in changes.users {
            match since {
                Some(since) => {
                    self.schedule.wake(user, since, due_at(since, self.after));
                }
                None => self.schedule.forget(&user),
            }
        }
        if changes.missed {
            self.schedule.recheck(Instant::now());
            self.read_topic().await;
        }
    }

    /// Reads from the store who waits, until nobody further has room.
    async fn read_topic(&mut self) {
        let mut after = None;
        loop {
            let store = Arc::clone(&self.visitor.store);
            let page = tokio::task::spawn_blocking(move || page(&*store, after)).await;
            let page = match page {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => {
                    self.visitor.metrics.queries_failed.inc();
                    return tracing::error!(%error, "cannot read who waits for webhooks");
                }
                // The runtime is ending.
                Err(_) => return,
            };
            for (user, offline) in &page {
                let due = due_at(offline.since, self.after);
                if !self.schedule.wake(*user, offline.since, due) {
                    return;
                }
            }
            match page.last() {
                Some((user, _)) if page.len() == PAGE_USERS => after = Some(*user),
                Some(_) | None => return,
            }
        }
    }

    fn show(&self) {
        let oldest = self.schedule.oldest().map_or(0, |TimestampMs(since)| since);
        self.oldest.store(oldest, Ordering::Relaxed);
        let metrics = &self.visitor.metrics;
        metrics.notify_waiting.set(self.schedule.len() as i64);
        metrics.notify_posting.set(self.visits.len() as i64);
    }

    /// Says once that nothing is posted any more. What waits stays in the store.
    fn stop(self) {
        self.visitor.metrics.notify_stopped.set(1);
        tracing::error!(
            "the receiver of webhooks has answered 410 Gone: nothing is posted any more; correct notify.url and restart"
        );
    }
}

fn page(store: &dyn Store, after: Option<UserId>) -> Result<Vec<(UserId, OfflineRow)>, StoreError> {
    let rows = store.index(&IndexRange::Offline(after), PAGE_USERS)?;
    let read = rows.into_iter().map(|(key, value)| match key {
        IndexKey::Offline(user) => Ok((user, OfflineRow::decode(&value)?)),
        other => Err(StoreError::Corrupt(CorruptRow {
            what: "offline topic",
            why: format!("it holds {other:?}"),
        })),
    });
    read.collect()
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
