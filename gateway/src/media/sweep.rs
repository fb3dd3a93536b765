//! Removes what nobody wants: uploads that were given up, and files that no message refers to.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use quipu_protocol::id::{ConversationId, TimestampMs};
use quipu_protocol::media::MediaHash;
use tokio::task::JoinHandle;

use super::objects::{Listed, blocking};
use super::{Media, MediaError, timestamp};

/// Objects that are looked at between two rests.
const STEP: usize = 512;
/// How long a rest is: a sweep of millions of files takes hours, and costs nobody anything.
const REST: Duration = Duration::from_millis(250);
/// Shortest time between two sweeps.
const INTERVAL_MIN: Duration = Duration::from_secs(15);

/// Sweeps until it is dropped.
#[derive(Debug)]
pub struct Sweeper {
    task: JoinHandle<()>,
}

impl Sweeper {
    /// Sweeps now and then. Must be called within a tokio runtime, after the log was applied: until then references that
    /// are in the log may be missing in the store.
    pub fn start(media: &Arc<Media>) -> Self {
        let interval = (media.unreferenced_after / 4).max(INTERVAL_MIN);
        let media = Arc::downgrade(media);
        Self {
            task: tokio::spawn(sweep_now_and_then(media, interval)),
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn sweep_now_and_then(media: Weak<Media>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let Some(media) = media.upgrade() else {
            return;
        };
        if let Err(error) = media.sweep(SystemTime::now()).await {
            media.metrics.media_sweeps_failed.inc();
            tracing::warn!(%error, "a sweep of media ended early; the next one goes on");
        }
    }
}

impl Media {
    /// Removes uploads that were given up and files that no message refers to, as of `now`. Returns how many files went.
    pub async fn sweep(&self, now: SystemTime) -> Result<usize, MediaError> {
        let partials = Arc::clone(&self.partials);
        let abandoned = blocking(move || partials.sweep(now)).await?;
        self.metrics.media_partials_removed.inc_by(abandoned as u64);
        let mut removed = 0;
        let mut seen = 0;
        let mut listed = self.objects.list();
        while let Some(object) = listed.next().await {
            let object = object?;
            seen += 1;
            if seen % STEP == 0 {
                tokio::time::sleep(REST).await;
            }
            if self.is_old(object.written_at, now) && self.remove_unreferenced(&object, now).await?
            {
                removed += 1;
            }
        }
        self.metrics.media_objects_removed.inc_by(removed as u64);
        Ok(removed)
    }

    fn is_old(&self, written_at: TimestampMs, now: SystemTime) -> bool {
        let age = Duration::from_millis(timestamp(now).0.saturating_sub(written_at.0));
        age >= self.unreferenced_after
    }

    /// Removes a file that is still old, and to which still nothing refers, while nobody can begin to need it.
    async fn remove_unreferenced(
        &self,
        object: &Listed,
        now: SystemTime,
    ) -> Result<bool, MediaError> {
        let (conversation, hash) = (object.conversation, object.hash);
        if self.is_referenced(conversation, hash).await? {
            return Ok(false);
        }
        let _guard = self.guards.take(conversation, hash).await;
        let stored = self.objects.find(conversation, hash).await?;
        if let Some(stored) = &stored
            && (!self.is_old(stored.touched_at, now) || !object.is_label)
        {
            // Touched since it was listed; or these are the bytes, and the label decides.
            return Ok(false);
        }
        if self.is_referenced(conversation, hash).await? {
            return Ok(false);
        }
        self.vouched.lock().remove(&(conversation, hash));
        self.objects.remove(conversation, hash).await?;
        tracing::debug!(%conversation, %hash, "removed a file that no message refers to");
        // Its bytes may have been listed before they went: one file counts once.
        Ok(object.is_label)
    }

    async fn is_referenced(
        &self,
        conversation: ConversationId,
        hash: MediaHash,
    ) -> Result<bool, MediaError> {
        Ok(self.queries.is_media_referenced(conversation, hash).await?)
    }
}
