//! One visit to a user: reads what waits, posts what is due, and reports to the log when all of it is settled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quipu_core::record::{Fact, GivenUp};
use quipu_core::row::{EntityKey, OfflineRow, Presence};
use quipu_protocol::id::{Cursor, InboxSeq, TimestampMs, UserId};

use super::letters::{self, Letter, Page};
use super::post::{Answer, Client, PostError};
use super::schedule::{Next, Progress, backoff};
use crate::accounts::now_ms;
use crate::config;
use crate::router::{Router, Submission};
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;

/// A message that has waited for longer is no news: its user is not told about it. It is in the inbox all the same.
pub(super) const NEWS_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long until a message that is not in the history yet is looked for again.
const GAP_WAIT: Duration = Duration::from_millis(200);
/// How long until a store that did not answer is asked again.
const STORE_WAIT: Duration = Duration::from_secs(5);
/// Bytes of the reason that a dead letter keeps.
const WHY_BYTES_MAX: usize = 128;

/// Visits users.
pub(super) struct Visitor {
    pub(super) store: Arc<dyn Store>,
    pub(super) router: Router,
    pub(super) client: Client,
    pub(super) settings: config::Notify,
    pub(super) life: u64,
    pub(super) metrics: Arc<Metrics>,
}

/// How a visit ended.
pub(super) struct Visited {
    pub(super) next: Next,
    /// The receiver asked to be left alone for so long.
    pub(super) pause: Option<Duration>,
    /// The receiver wants no webhook ever again.
    pub(super) gone: bool,
}

impl Visited {
    fn next(next: Next) -> Self {
        Self {
            next,
            pause: None,
            gone: false,
        }
    }
}

/// What became of one try.
enum Tried {
    Settled,
    /// Only this webhook: the next one may do better.
    Refused,
    /// The receiver as a whole.
    Trouble(Option<Duration>),
    Gone,
}

impl Visitor {
    pub(super) async fn visit(self: Arc<Self>, user: UserId, mut progress: Progress) -> Visited {
        let offline = match self.offline(user).await {
            Ok(Some(offline)) => offline,
            Ok(None) => return Visited::next(Next::Done),
            Err(error) => return self.store_failed(&error, progress),
        };
        if offline.after < progress.reported {
            return Visited::next(Next::Reported(progress));
        }
        let due = due_at(offline.since, self.settings.after);
        if due > Instant::now() {
            return Visited::next(Next::At(due, progress));
        }
        let page = match self.page(user, offline, &progress).await {
            Ok(page) => page,
            Err(error) => return self.store_failed(&error, progress),
        };
        if page.gap {
            return Visited::next(Next::At(Instant::now() + GAP_WAIT, progress));
        }
        let mut visited = Visited::next(Next::Done);
        if age(offline.since) > NEWS_FOR {
            self.metrics.notify_old.inc_by(page.letters.len() as u64);
        } else if let Some(again) = self
            .post_all(user, offline, &page, &mut progress, &mut visited)
            .await
        {
            visited.next = Next::At(again, progress);
            return visited;
        }
        visited.next = self.report(user, page.through, progress).await;
        visited
    }

    /// Posts what is due of a page; says when to come back if something is left.
    async fn post_all(
        &self,
        user: UserId,
        offline: OfflineRow,
        page: &Page,
        progress: &mut Progress,
        visited: &mut Visited,
    ) -> Option<Instant> {
        let mut letters: Vec<&Letter> = page.letters.iter().collect();
        // What was tried less often goes first, so that one bad webhook does not hold up the others.
        letters.sort_by_key(|letter| progress.tries(letter).failed);
        for letter in &letters {
            let not_before = progress.tries(letter).not_before;
            if not_before.is_some_and(|at| at > Instant::now()) {
                continue;
            }
            // A device may have come meanwhile; it needs no webhook any more. Whatever this finds, the next visit acts on it.
            if self.offline(user).await.ok().flatten() != Some(offline) {
                return Some(Instant::now());
            }
            match self.post(user, letter, progress).await {
                Tried::Settled | Tried::Refused => {}
                Tried::Trouble(pause) => {
                    visited.pause = pause;
                    let later = progress.tries(letter).not_before;
                    return Some(later.unwrap_or_else(Instant::now));
                }
                Tried::Gone => {
                    visited.gone = true;
                    return Some(Instant::now());
                }
            }
        }
        let left = letters
            .iter()
            .map(|letter| (progress.tries(letter), letter));
        left.filter(|(tries, letter)| tries.settled < Some(letter.through))
            .map(|(tries, _)| tries.not_before.unwrap_or_else(Instant::now))
            .min()
    }

    /// Posts one webhook once and notes what became of it.
    async fn post(&self, user: UserId, letter: &Letter, progress: &mut Progress) -> Tried {
        let webhook = letter.webhook(&user, self.life, self.settings.include_content);
        let posted = self.client.post(&webhook, now_ms().0 / 1000).await;
        let tries = progress
            .conversations
            .entry(letter.conversation)
            .or_default();
        let (why, tried) = match posted {
            Ok(Answer::Taken) => {
                self.metrics.notify_delivered.inc();
                tries.settle(letter.through);
                return Tried::Settled;
            }
            Ok(Answer::Gone) => return Tried::Gone,
            Ok(Answer::Refused {
                status,
                retry_after,
            }) => {
                // These say something about the webhook; all others about the receiver.
                let only_this = matches!(status, 400..=499) && !matches!(status, 408 | 425 | 429);
                let tried = match only_this && retry_after.is_none() {
                    true => Tried::Refused,
                    false => Tried::Trouble(retry_after),
                };
                (format!("HTTP status {status}"), tried)
            }
            Err(error @ (PostError::Connect(_) | PostError::Timeout | PostError::Broken(_))) => {
                (error.to_string(), Tried::Trouble(None))
            }
        };
        tries.failed += 1;
        tracing::debug!(%user, id = %webhook.id, tries = tries.failed, %why, "a webhook was not taken");
        if tries.failed < self.settings.tries {
            self.metrics.notify_retried.inc();
            let (first, most) = (self.settings.backoff, self.settings.backoff_max);
            let wait = backoff(tries.failed, first, most, rand::random());
            tries.not_before = Some(Instant::now() + wait);
            return tried;
        }
        let failed = tries.failed;
        tries.settle(letter.through);
        self.give_up(user, letter, failed, &why, progress);
        match tried {
            Tried::Trouble(pause) => Tried::Trouble(pause),
            Tried::Settled | Tried::Refused | Tried::Gone => Tried::Settled,
        }
    }

    fn give_up(
        &self,
        user: UserId,
        letter: &Letter,
        tries: u32,
        why: &str,
        progress: &mut Progress,
    ) {
        tracing::warn!(%user, conversation = %letter.conversation, tries, why, "a webhook is a dead letter now");
        self.metrics.notify_dead.inc();
        progress.given_up.push(GivenUp {
            conversation: letter.conversation,
            first: letter.first,
            last: letter.last.seq,
            count: letter.count,
            after: letter.after,
            tries,
            why: why[..why.floor_char_boundary(WHY_BYTES_MAX)].to_owned(),
        });
    }

    /// Tells the log that everything up to there is settled. Its answer is a change of the offline topic.
    async fn report(&self, user: UserId, through: Cursor, mut progress: Progress) -> Next {
        let fact = Fact::Told {
            through,
            given_up: std::mem::take(&mut progress.given_up),
        };
        progress.conversations.clear();
        progress.reported = through;
        // Without a router the gateway is stopping; the next one tells again, under the same ids.
        let _ = self.router.submit(Submission::Fact(user, fact)).await;
        Next::Reported(progress)
    }

    async fn offline(&self, user: UserId) -> Result<Option<OfflineRow>, StoreError> {
        self.read(move |store| {
            let rows = store.entities(&[EntityKey::Presence(user)])?;
            let row = rows.into_iter().next().flatten();
            let presence = row.map(|row| Presence::decode(&row)).transpose()?;
            Ok(presence.and_then(|presence| presence.offline()))
        })
        .await
    }

    async fn page(
        &self,
        user: UserId,
        offline: OfflineRow,
        progress: &Progress,
    ) -> Result<Page, StoreError> {
        let settled: std::collections::BTreeMap<_, Option<InboxSeq>> = progress
            .conversations
            .iter()
            .map(|(conversation, tries)| (*conversation, tries.settled))
            .collect();
        self.read(move |store| {
            let settled = |conversation: &_| settled.get(conversation).copied().flatten();
            letters::read(store, &user, &offline, settled)
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || read(&*store))
            .await
            .unwrap_or_else(|error| Err(StoreError::Closed(error.to_string().into())))
    }

    fn store_failed(&self, error: &StoreError, progress: Progress) -> Visited {
        self.metrics.queries_failed.inc();
        tracing::error!(%error, "cannot read what waits for a user");
        Visited::next(Next::At(Instant::now() + STORE_WAIT, progress))
    }
}

/// When a message that has waited since then is told about.
pub(super) fn due_at(since: TimestampMs, after: Duration) -> Instant {
    Instant::now() + after.saturating_sub(age(since))
}

fn age(since: TimestampMs) -> Duration {
    Duration::from_millis(now_ms().0.saturating_sub(since.0))
}
