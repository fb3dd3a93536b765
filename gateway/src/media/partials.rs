//! Unfinished uploads on disk: bounded in number and bytes, held by one stream at a time, resumable after a restart.
//!
//! ```text
//! DATA/media/partial/data-<upload>-<user>    the bytes so far
//! DATA/media/partial/plan-<upload>-<user>    what they are to become, as text; written first, removed last
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::Rejection;
use quipu_protocol::id::{ConversationId, UserId};
use quipu_protocol::media::{MediaHash, MediaType, UploadId};
use tokio::sync::{Notify, watch};

use super::objects::blocking;
use super::{MediaError, busy};
use crate::config;

/// Unfinished uploads of all users together. At it, new ones are told BUSY.
pub const PARTIALS_MAX: usize = 65_536;
/// How long a stream that has an upload is given to let go of it when another stream resumes it.
const TAKEOVER_TIME_MAX: Duration = Duration::from_secs(5);
/// First line of a plan.
const PLAN_FORMAT: &str = "quipu-upload 1";
/// Longest plan that is read, in bytes.
const PLAN_BYTES_MAX: u64 = 1024;
/// The folder in DATA/media.
const FOLDER: &str = "partial";

/// What an upload is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Who brings it.
    pub user: UserId,
    /// The user's name for the upload.
    pub upload: UploadId,
    /// Where it goes.
    pub conversation: ConversationId,
    /// The hash that its bytes must have.
    pub hash: MediaHash,
    /// Its bytes.
    pub size: u64,
    /// What it is.
    pub media_type: MediaType,
}

/// All unfinished uploads of this gateway.
#[derive(Debug)]
pub struct Partials {
    root: PathBuf,
    per_user: usize,
    bytes_max: u64,
    abandoned_after: Duration,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<Key, Entry>,
    /// Announced bytes of all entries.
    bytes: u64,
}

type Key = (UserId, UploadId);

#[derive(Debug)]
struct Entry {
    plan: Plan,
    touched: SystemTime,
    holder: Option<Holder>,
}

/// The stream that has an upload now.
#[derive(Debug, Clone)]
struct Holder {
    cancel: Arc<Notify>,
    released: watch::Receiver<()>,
}

/// The right to write one upload, until it is dropped.
#[derive(Debug)]
pub struct Claim {
    partials: Arc<Partials>,
    key: Key,
    cancel: Arc<Notify>,
    _release: watch::Sender<()>,
}

enum Claimed {
    Now(Claim),
    Held(Holder),
}

impl Partials {
    /// Reads what a former life of the gateway left in `root`/partial, and removes what makes no sense.
    pub fn open(root: &Path, settings: &config::Media) -> io::Result<Self> {
        let folder = root.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let mut table = Table::default();
        for file in fs::read_dir(&folder)? {
            let file = file?;
            let name = file.file_name();
            let Some(name) = name.to_str().and_then(|name| name.strip_prefix("plan-")) else {
                continue;
            };
            let data = folder.join(format!("data-{name}"));
            let plan =
                read_plan(&file.path()).filter(|plan| name == file_name(&plan.user, plan.upload));
            match plan {
                Some(plan) if table.entries.len() < PARTIALS_MAX => {
                    let touched = fs::metadata(&data).or_else(|_| file.metadata());
                    let touched = touched.and_then(|meta| meta.modified())?;
                    table.add(plan, touched, None);
                }
                Some(_) | None => {
                    remove(&data)?;
                    remove(&file.path())?;
                }
            }
        }
        let partials = Self {
            root: root.to_owned(),
            per_user: settings.partials_per_user as usize,
            bytes_max: settings.staging.0,
            abandoned_after: settings.abandoned_after,
            table: Mutex::new(table),
        };
        partials.remove_orphans()?;
        Ok(partials)
    }

    /// Removes bytes without a plan: the plan is written first, so they are what a removal left.
    fn remove_orphans(&self) -> io::Result<()> {
        for file in fs::read_dir(self.root.join(FOLDER))? {
            let path = file?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| name.ends_with(".new")) {
                remove(&path)?;
            }
            let Some(name) = name.and_then(|name| name.strip_prefix("data-")) else {
                continue;
            };
            if !self.root.join(FOLDER).join(format!("plan-{name}")).exists() {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Whether this upload was begun and not finished.
    pub fn knows(&self, user: UserId, upload: UploadId) -> bool {
        self.table.lock().entries.contains_key(&(user, upload))
    }

    /// Unfinished uploads.
    pub fn count(&self) -> usize {
        self.table.lock().entries.len()
    }

    /// Announced bytes of all unfinished uploads.
    pub fn bytes(&self) -> u64 {
        self.table.lock().bytes
    }

    /// Makes the caller the only one that writes this upload. A stream that has it is told to stop: it is most likely what a
    /// broken connection left behind.
    pub async fn claim(self: &Arc<Self>, plan: &Plan) -> Result<Claim, Refused> {
        loop {
            let known = self.knows(plan.user, plan.upload);
            let mut holder = match self.try_claim(plan)? {
                Claimed::Now(claim) if known => return Ok(claim),
                Claimed::Now(claim) => {
                    let (path, text) = (self.plan_path(&claim.key), write_plan(plan));
                    let written = blocking(move || {
                        // Renamed into place, so that a crash leaves no half of a plan.
                        let new = path.with_extension("new");
                        fs::write(&new, text)?;
                        fs::rename(&new, &path)
                    });
                    return match written.await {
                        Ok(()) => Ok(claim),
                        Err(error) => {
                            claim.discard().await?;
                            Err(error.into())
                        }
                    };
                }
                Claimed::Held(holder) => holder,
            };
            holder.cancel.notify_one();
            let released = tokio::time::timeout(TAKEOVER_TIME_MAX, holder.released.changed());
            if released.await.is_err() {
                return Err(busy("another stream has this upload").into());
            }
        }
    }

    fn try_claim(self: &Arc<Self>, plan: &Plan) -> Result<Claimed, Refused> {
        let key = (plan.user, plan.upload);
        let mut table = self.table.lock();
        if let Some(entry) = table.entries.get(&key) {
            if entry.plan != *plan {
                let reason = "QP-BLOB-4: an upload id stands for one file in one conversation";
                return Err(Rejection::new(RejectCode::Invalid, reason).into());
            }
            if let Some(holder) = &entry.holder {
                return Ok(Claimed::Held(holder.clone()));
            }
        } else {
            self.admit(&table, plan)?;
        }
        let (release, released) = watch::channel(());
        let cancel = Arc::new(Notify::new());
        let holder = Holder {
            cancel: Arc::clone(&cancel),
            released,
        };
        match table.entries.get_mut(&key) {
            Some(entry) => entry.holder = Some(holder),
            None => table.add(plan.clone(), SystemTime::now(), Some(holder)),
        }
        Ok(Claimed::Now(Claim {
            partials: Arc::clone(self),
            key,
            cancel,
            _release: release,
        }))
    }

    /// Whether there is room for one more.
    fn admit(&self, table: &Table, plan: &Plan) -> Result<(), Refused> {
        let first = (plan.user, UploadId([0; 16]));
        let last = (plan.user, UploadId([0xff; 16]));
        if table.entries.range(first..=last).count() >= self.per_user {
            let reason = "too many unfinished uploads: finish one, or wait until one is forgotten";
            return Err(Rejection {
                retry_after_ms: millis(self.abandoned_after),
                ..Rejection::new(RejectCode::TooMany, reason)
            }
            .into());
        }
        if table.entries.len() >= PARTIALS_MAX
            || table.bytes.saturating_add(plan.size) > self.bytes_max
        {
            return Err(busy("too many uploads are under way").into());
        }
        Ok(())
    }

    /// Removes uploads that nobody has gone on with for `abandoned_after`. Blocks for the disk. Returns how many.
    pub fn sweep(&self, now: SystemTime) -> io::Result<usize> {
        let is_old = |entry: &Entry| {
            let age = now.duration_since(entry.touched).unwrap_or_default();
            entry.holder.is_none() && age >= self.abandoned_after
        };
        let old: Vec<Key> = {
            let table = self.table.lock();
            let old = table.entries.iter().filter(|(_, entry)| is_old(entry));
            old.map(|(key, _)| *key).collect()
        };
        let mut removed = 0;
        for key in old {
            // Under the lock, so that nobody claims it while its files go; removing two files is short.
            let mut table = self.table.lock();
            if table.entries.get(&key).is_some_and(is_old) {
                self.remove_files(&key)?;
                table.take(&key);
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn remove_files(&self, key: &Key) -> io::Result<()> {
        remove(&self.data_path(key))?;
        remove(&self.plan_path(key))
    }

    fn data_path(&self, key: &Key) -> PathBuf {
        self.root.join(data_name(key))
    }

    fn plan_path(&self, (user, upload): &Key) -> PathBuf {
        let name = format!("plan-{}", file_name(user, *upload));
        self.root.join(FOLDER).join(name)
    }
}

impl Table {
    fn add(&mut self, plan: Plan, touched: SystemTime, holder: Option<Holder>) {
        self.bytes = self.bytes.saturating_add(plan.size);
        let key = (plan.user, plan.upload);
        let entry = Entry {
            plan,
            touched,
            holder,
        };
        self.entries.insert(key, entry);
    }

    fn take(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes = self.bytes.saturating_sub(entry.plan.size);
        }
    }
}

impl Claim {
    /// Where the bytes are.
    pub fn path(&self) -> PathBuf {
        self.partials.data_path(&self.key)
    }

    /// The same, relative to DATA/media.
    pub fn name(&self) -> String {
        data_name(&self.key)
    }

    /// Ends when another stream wants the upload.
    pub async fn cancelled(&self) {
        self.cancel.notified().await;
    }

    /// Forgets the upload and whatever is left of it on disk: it is finished, or its bytes are worth nothing.
    pub async fn discard(self) -> Result<(), MediaError> {
        let (partials, key) = (Arc::clone(&self.partials), self.key);
        blocking(move || partials.remove_files(&key)).await?;
        self.partials.table.lock().take(&self.key);
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(entry) = self.partials.table.lock().entries.get_mut(&self.key) {
            entry.holder = None;
            entry.touched = SystemTime::now();
        }
    }
}

/// Why an upload did not begin.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The client is told.
    #[error("{}: {}", .0.code, .0.reason)]
    Rejected(Rejection),
    /// The gateway failed.
    #[error(transparent)]
    Failed(#[from] MediaError),
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn file_name(user: &UserId, upload: UploadId) -> String {
    format!("{upload}-{user}")
}

fn data_name((user, upload): &Key) -> String {
    format!("{FOLDER}/data-{}", file_name(user, *upload))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn write_plan(plan: &Plan) -> String {
    let Plan {
        user,
        upload,
        conversation,
        hash,
        size,
        media_type,
    } = plan;
    format!(
        "{PLAN_FORMAT}\nuser {user}\nupload {upload}\nconversation {conversation}\nhash {hash}\nsize {size}\ntype {media_type}\n"
    )
}

/// Reads what [`write_plan`] writes; `None` for anything else.
fn read_plan(path: &Path) -> Option<Plan> {
    if fs::metadata(path).ok()?.len() > PLAN_BYTES_MAX {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    if lines.next()? != PLAN_FORMAT {
        return None;
    }
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    Some(Plan {
        user: field("user")?.parse().ok()?,
        upload: field("upload")?.parse().ok()?,
        conversation: field("conversation")?.parse().ok()?,
        hash: field("hash")?.parse().ok()?,
        size: field("size")?.parse().ok()?,
        media_type: MediaType::new(field("type")?).ok()?,
    })
}
