//! Files: who may bring and fetch which, where they are, and when they go.
//!
//! A file is named by its conversation and its hash. Its bytes are staged in DATA/media/partial until they are whole and
//! checked, and are then taken over by the object store, from where members read them. A message that refers to a file keeps
//! it; the [sweep] removes those that no message refers to.

mod guards;
pub mod objects;
pub mod partials;
mod patience;
mod policy;
pub mod receiving;
pub mod sweep;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::Rejection;
use quipu_protocol::id::{ConversationId, TimestampMs, UserId};
use quipu_protocol::media::{Download, MediaHash, Upload};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use self::guards::Guards;
use self::objects::{Checked, Objects, Reading, Stored};
use self::partials::{Partials, Plan, Refused};
use self::policy::Policy;
use self::receiving::Receiving;
use crate::config;
use crate::queries::{Queries, QueryError};
use crate::telemetry::{Kind, Metrics};

/// Files whose presence is remembered, so that a message that refers to one need not look. At it, all are forgotten.
const VOUCHED_MAX: usize = 65_536;
/// How long an upload waits while another brings the same file. Its client comes again.
const SAME_FILE_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a client is asked to wait when there is no room.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// The folder in the data folder.
const FOLDER: &str = "media";

/// Why a file could not be kept or read. The operator must act.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The local disk failed.
    #[error("cannot use DATA/media: {0}")]
    Disk(#[from] std::io::Error),
    /// The object store failed.
    #[error("the object store of media failed: {0}")]
    Store(#[from] object_store::Error),
    /// The bucket took too long.
    #[error(
        "the bucket of media did not answer within {:?}; look after it, or raise media.stall_timeout if it is only slow",
        .0
    )]
    Stalled(Duration),
    /// The bucket cannot be used as configured: why, and what its service said.
    #[error("{0}: {1}")]
    Refused(String, object_store::Error),
    /// A stored file that is not what it should be.
    #[error("media: {0}; remove it from the object store, and let its sender upload it again")]
    Damaged(String),
    /// Membership could not be read.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The gateway is stopping, or an earlier write failed.
    #[error("the transfer cannot go on")]
    Stopping,
}

/// How an upload begins.
#[derive(Debug)]
pub enum Started {
    /// The file is there already; it has so many bytes.
    Known {
        /// Its bytes.
        size: u64,
    },
    /// Bytes are wanted from [`Receiving::offset`] on.
    Receive(Box<Receiving>),
}

/// A download that may begin.
pub struct Sending {
    /// What is known of the file.
    pub stored: Stored,
    /// First byte that is sent.
    pub offset: u64,
    /// Bytes that are sent.
    pub length: u64,
    /// Where they come from; `None` when there are none.
    pub reading: Option<Reading>,
}

/// The files of one gateway.
pub struct Media {
    root: PathBuf,
    objects: Objects,
    partials: Arc<Partials>,
    policy: Policy,
    queries: Queries,
    metrics: Arc<Metrics>,
    unreferenced_after: Duration,
    /// A transfer that moves less than 64 KiB in this time is ended.
    pub stall_timeout: Duration,
    transfers: Arc<Semaphore>,
    per_user: u32,
    running: Mutex<BTreeMap<UserId, u32>>,
    vouched: Mutex<BTreeMap<(ConversationId, MediaHash), Vouched>>,
    guards: Guards,
}

/// A file that was there when somebody looked.
#[derive(Debug, Clone, Copy)]
struct Vouched {
    size: u64,
    until: Instant,
}

impl std::fmt::Debug for Media {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Media")
            .field("root", &self.root)
            .field("objects", &self.objects)
            .finish_non_exhaustive()
    }
}

/// One of `media.transfers`, and one of its user's.
#[derive(Debug)]
pub struct Place {
    media: Arc<Media>,
    user: UserId,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.media.metrics.media_transfers_running.dec();
        let mut running = self.media.running.lock();
        if let Some(count) = running.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.user);
            }
        }
    }
}

impl Media {
    /// Opens DATA/media and the object store. Blocks for the disk.
    pub fn open(
        settings: &config::Media,
        data: &Path,
        queries: Queries,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, MediaError> {
        let root = data.join(FOLDER);
        std::fs::create_dir_all(&root)?;
        let objects = Objects::open(settings, &root, &metrics)?;
        let partials = Arc::new(Partials::open(&root, settings)?);
        show_partials(&metrics, &partials);
        Ok(Arc::new(Self {
            partials,
            root,
            objects,
            policy: Policy::new(settings),
            queries,
            metrics,
            unreferenced_after: settings.unreferenced_after,
            stall_timeout: settings.stall_timeout,
            transfers: Arc::new(Semaphore::new(settings.transfers as usize)),
            per_user: settings.user_transfers,
            running: Mutex::default(),
            vouched: Mutex::default(),
            guards: Guards::default(),
        }))
    }

    /// Fails if the settings of the bucket are wrong, as far as that can be told at once. One that does not answer is only
    /// warned of: its files are refused until it does, and text needs none.
    pub async fn check(&self) -> Result<(), MediaError> {
        match self.objects.check().await? {
            Checked::Usable => {}
            Checked::Silent(why) => tracing::warn!(
                %why,
                "the bucket of media does not answer; files are refused until it does, text goes on"
            ),
        }
        Ok(())
    }

    /// A place for one transfer, or that there is none.
    pub fn place(self: &Arc<Self>, user: UserId) -> Result<Place, Rejection> {
        let permit = Arc::clone(&self.transfers).try_acquire_owned();
        let mut running = self.running.lock();
        let count = running.get(&user).copied().unwrap_or(0);
        match permit {
            Ok(permit) if count < self.per_user => {
                running.insert(user, count + 1);
                self.metrics.media_transfers_running.inc();
                Ok(Place {
                    media: Arc::clone(self),
                    user,
                    _permit: permit,
                })
            }
            Ok(_) | Err(_) => {
                self.metrics.media_transfers_busy.inc();
                Err(busy("too many transfers are under way"))
            }
        }
    }

    /// Judges an upload, and says where its bytes go on. Nothing is kept of one that is refused.
    pub async fn upload(&self, user: UserId, upload: Upload) -> Result<Started, Refused> {
        self.policy.check(upload.size, &upload.media_type)?;
        self.check_member(user, upload.conversation).await?;
        let (conversation, hash) = (upload.conversation, upload.hash);
        {
            let guard = timeout(SAME_FILE_TIME_MAX, self.guards.take(conversation, hash));
            let Ok(_guard) = guard.await else {
                return Err(busy("this file is just being brought by another upload").into());
            };
            if let Some(stored) = self.objects.find(conversation, hash).await? {
                return self.known(conversation, hash, upload.size, &stored).await;
            }
        }
        let plan = Plan {
            user,
            upload: upload.upload,
            conversation,
            hash,
            size: upload.size,
            media_type: upload.media_type,
        };
        let is_new = !self.partials.knows(user, plan.upload);
        if is_new
            && let Some(source) = upload.source
            && self.forward(user, source, &plan).await?
        {
            return Ok(Started::Known { size: plan.size });
        }
        let claim = self.partials.claim(&plan).await?;
        if is_new && let Err(rejection) = self.policy.charge(user, plan.size, Instant::now()) {
            claim.discard().await?;
            return Err(rejection.into());
        }
        let receiving = Receiving::open(claim, plan).await?;
        Ok(Started::Receive(Box::new(receiving)))
    }

    /// The file is there: nothing has to be brought, if it is what the client means.
    async fn known(
        &self,
        conversation: ConversationId,
        hash: MediaHash,
        announced: u64,
        stored: &Stored,
    ) -> Result<Started, Refused> {
        if stored.size != announced {
            let reason = format!("QP-BLOB-4: the file of this hash has {} bytes", stored.size);
            return Err(Rejection::new(RejectCode::Invalid, reason).into());
        }
        let touched = self
            .objects
            .touch(conversation, hash, stored.size, &stored.media_type);
        touched.await?;
        self.remember(conversation, hash, stored.size);
        self.metrics.media_uploads_known.inc();
        Ok(Started::Known { size: stored.size })
    }

    /// Takes the file from another conversation of the user, if it is there. What the user may not see is not there.
    async fn forward(
        &self,
        user: UserId,
        source: ConversationId,
        plan: &Plan,
    ) -> Result<bool, Refused> {
        if source == plan.conversation || !self.is_member(user, source).await? {
            return Ok(false);
        }
        let _guard = self.guards.take(source, plan.hash).await;
        match self.objects.find(source, plan.hash).await? {
            Some(stored) if stored.size == plan.size => {
                let (to, hash) = (plan.conversation, plan.hash);
                self.policy.charge(user, stored.size, Instant::now())?;
                self.objects.copy(source, to, hash, &stored).await?;
                self.remember(to, hash, stored.size);
                self.metrics.media_uploads_known.inc();
                Ok(true)
            }
            Some(_) | None => Ok(false),
        }
    }

    /// Checks a whole upload and makes it a file. Goes on when the caller does not wait for it.
    pub async fn finish(self: &Arc<Self>, receiving: Receiving) -> Result<Stored, Refused> {
        let media = Arc::clone(self);
        let work = tokio::spawn(async move {
            let Some((claim, plan)) = receiving.finish().await? else {
                media.metrics.media_uploads_broken.inc();
                let reason = "QP-BLOB-6: the bytes do not have the announced hash";
                return Err(Rejection::new(RejectCode::Invalid, reason).into());
            };
            let (conversation, hash) = (plan.conversation, plan.hash);
            {
                let _guard = media.guards.take(conversation, hash).await;
                let (kind, name) = (&plan.media_type, claim.name());
                let objects = &media.objects;
                objects
                    .import(conversation, hash, plan.size, kind, &media.root, &name)
                    .await?;
                media.remember(conversation, hash, plan.size);
            }
            claim.discard().await?;
            media.metrics.media_uploads.inc();
            Ok(Stored {
                size: plan.size,
                media_type: plan.media_type,
                touched_at: timestamp(SystemTime::now()),
            })
        });
        work.await.map_err(|_| MediaError::Stopping)?
    }

    /// Judges a download, and opens what it asks for.
    pub async fn download(&self, user: UserId, download: Download) -> Result<Sending, Refused> {
        let Download {
            conversation,
            hash,
            offset,
            length,
        } = download;
        self.check_member(user, conversation).await?;
        let Some(stored) = self.objects.find(conversation, hash).await? else {
            return Err(unknown().into());
        };
        let Some(rest) = stored.size.checked_sub(offset) else {
            let reason = format!("QP-BLOB-8: the file has {} bytes", stored.size);
            return Err(Rejection::new(RejectCode::Invalid, reason).into());
        };
        let length = if length == 0 { rest } else { length.min(rest) };
        let reading = match length {
            0 => None,
            _ => Some(
                self.objects
                    .read(conversation, hash, offset, length)
                    .await?,
            ),
        };
        Ok(Sending {
            stored,
            offset,
            length,
            reading,
        })
    }

    /// Whether a message of this conversation may refer to this file, which `claimed` says has so many bytes. A file that
    /// is there stays there long enough for the message to be accepted.
    pub async fn vouch(
        &self,
        user: UserId,
        conversation: ConversationId,
        hash: MediaHash,
        claimed: u64,
    ) -> Result<(), Refused> {
        let key = (conversation, hash);
        let size = match self.remembered(&key) {
            Some(size) => size,
            None => {
                let _guard = self.guards.take(conversation, hash).await;
                let Some(stored) = self.objects.find(conversation, hash).await? else {
                    // Else a stranger could find out what was sent to a conversation.
                    self.check_member(user, conversation).await?;
                    return Err(unknown().into());
                };
                let now = timestamp(SystemTime::now());
                let age = now.0.saturating_sub(stored.touched_at.0);
                if u128::from(age) > self.unreferenced_after.as_millis() / 2 {
                    let kind = &stored.media_type;
                    self.objects
                        .touch(conversation, hash, stored.size, kind)
                        .await?;
                }
                self.remember(conversation, hash, stored.size);
                stored.size
            }
        };
        if size != claimed {
            self.check_member(user, conversation).await?;
            let reason = format!("the file has {size} bytes, not {claimed}");
            return Err(Rejection::new(RejectCode::Invalid, reason).into());
        }
        Ok(())
    }

    fn remembered(&self, key: &(ConversationId, MediaHash)) -> Option<u64> {
        let vouched = self.vouched.lock();
        let found = vouched
            .get(key)
            .filter(|known| known.until > Instant::now());
        found.map(|known| known.size)
    }

    /// The file is there and its label is young; its guard is held. The message that follows an upload then asks the object
    /// store for nothing.
    fn remember(&self, conversation: ConversationId, hash: MediaHash, size: u64) {
        let mut vouched = self.vouched.lock();
        if vouched.len() >= VOUCHED_MAX {
            vouched.clear();
        }
        // The sweep leaves it for at least half of the time; we believe in it for a quarter.
        let until = Instant::now() + self.unreferenced_after / 4;
        vouched.insert((conversation, hash), Vouched { size, until });
    }

    /// To a stranger a conversation that is there looks like one that is not.
    async fn check_member(
        &self,
        user: UserId,
        conversation: ConversationId,
    ) -> Result<(), Refused> {
        if self.is_member(user, conversation).await? {
            return Ok(());
        }
        let reason = "you have no such conversation";
        Err(Rejection::new(RejectCode::UnknownConversation, reason).into())
    }

    async fn is_member(&self, user: UserId, conversation: ConversationId) -> Result<bool, Refused> {
        let asked = self.queries.is_member(user, conversation).await;
        Ok(asked.map_err(MediaError::from)??)
    }
}

/// Puts the unfinished uploads on the page of metrics.
fn show_partials(metrics: &Metrics, partials: &Arc<Partials>) {
    let shown = Arc::downgrade(partials);
    let count = move || shown.upgrade().map_or(0, |all| all.count() as u64);
    let help = "Unfinished uploads on disk";
    metrics.show(Kind::Gauge, "media_partials", help, count);
    let shown = Arc::downgrade(partials);
    let bytes = move || shown.upgrade().map_or(0, |all| all.bytes());
    let help = "Announced bytes of unfinished uploads";
    metrics.show(Kind::Gauge, "media_partial_bytes", help, bytes);
}

fn unknown() -> Rejection {
    let reason = "no such file in this conversation: it was never uploaded, or is gone";
    Rejection::new(RejectCode::UnknownMedia, reason)
}

/// There is no room or no answer now: the client comes again in a moment.
pub(crate) fn busy(reason: &str) -> Rejection {
    Rejection {
        retry_after_ms: BUSY_WAIT.as_millis() as u64,
        ..Rejection::new(RejectCode::Busy, reason)
    }
}

fn timestamp(at: SystemTime) -> TimestampMs {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    TimestampMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
