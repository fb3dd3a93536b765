//! Finished files at rest, in a local folder or an S3 bucket: brought in whole, read by range, removed.
//!
//! ```text
//! BASE/<conversation>/<hash>         the bytes
//! BASE/<conversation>/<hash>.label   size and type; written after the bytes, removed before them
//! ```
//!
//! A file is there when its label is. The label's age says when somebody last brought the file or pointed at it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, GetResultPayload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutPayload, RetryConfig, WriteMultipart,
};
use quipu_protocol::id::{ConversationId, TimestampMs};
use quipu_protocol::media::{MediaHash, MediaType};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::MediaError;
use super::patience::Patience;
use crate::config;
use crate::telemetry::Metrics;

/// First line of a label.
const LABEL_FORMAT: &str = "quipu-media 1";
/// Longest label that is read, in bytes.
const LABEL_BYTES_MAX: u64 = 512;
/// What a label's name ends with.
const LABEL_SUFFIX: &str = ".label";
/// Bytes of one part of a file that is brought to a bucket.
const PART_BYTES: usize = 8 << 20;
/// Parts of one file on their way at once.
const PARTS_AT_ONCE: usize = 2;
/// Files on their way to a bucket at once; each holds up to three parts in memory. More wait.
const IMPORTS_AT_ONCE: usize = 4;
/// How long one waits for that. Its bytes stay, and its client comes again.
const IMPORT_TURN_TIME_MAX: Duration = Duration::from_secs(60);
/// How long the bucket is given to forget the parts of a file that it did not take whole; else they are its to expire.
const ABORT_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a start waits for the bucket: text needs none.
const CHECK_TIME_MAX: Duration = Duration::from_secs(5);
/// Bytes read from a file at once.
const READ_BYTES: usize = 128 << 10;
/// Bytes asked of a bucket at once. Each answer is whole in memory before it goes to the peer, so that a slow peer never
/// makes the bucket wait.
const BUCKET_READ_BYTES: u64 = 1 << 20;
/// How often a request is repeated that a bucket answered with a fault of its own, and until when. Who waits for a transfer
/// is told soon; the client comes again by itself.
const BUCKET_RETRIES_MAX: usize = 3;
const BUCKET_RETRY_TIME_MAX: Duration = Duration::from_secs(15);
/// Longest pause before such a repetition.
const BUCKET_PAUSE_MAX: Duration = Duration::from_secs(2);
/// The object that is written at each start, to learn whether the bucket takes any.
const CHECK_NAME: &str = "check";
/// What S3 calls the error of a bucket that is not there.
const NO_SUCH_BUCKET: &str = "NoSuchBucket";
/// Where finished files are in DATA/media.
const FOLDER: &str = "objects";

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its bytes.
    pub size: u64,
    /// What its first sender said that it is.
    pub media_type: MediaType,
    /// When somebody last brought it, or pointed at it after a while.
    pub touched_at: TimestampMs,
}

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Whose file.
    pub conversation: ConversationId,
    /// Which file.
    pub hash: MediaHash,
    /// Whether it is the label, and not the bytes.
    pub is_label: bool,
    /// When it was written.
    pub written_at: TimestampMs,
}

/// Where finished files are. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    base: Path,
    /// Whether files of DATA/media can be renamed into the store.
    is_folder: bool,
    /// For the operator: which bucket; empty for a folder.
    name: Arc<str>,
    patience: Patience,
    imports: Arc<Semaphore>,
}

/// The bytes of a file, in pieces.
pub enum Reading {
    /// From the local folder; the open file outlives its removal.
    File {
        /// Where the next byte is.
        file: File,
        /// Bytes that are left to read.
        left: u64,
    },
    /// From a bucket.
    Bucket {
        /// Where it is.
        objects: Objects,
        /// Its name there.
        place: Path,
        /// The first piece, which was fetched to learn whether the file is there.
        ready: Option<Bytes>,
        /// Bytes that are left to fetch.
        left: Range<u64>,
    },
}

/// What the check of a bucket found.
#[derive(Debug)]
pub enum Checked {
    /// Files can be kept.
    Usable,
    /// It does not answer now, for this reason; it may later.
    Silent(String),
}

impl Objects {
    /// Where the configuration says: a bucket, or a folder below `root`, which is there. What a bucket does not answer within
    /// `media.stall_timeout` has failed.
    pub fn open(
        settings: &config::Media,
        root: &FilePath,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, MediaError> {
        if settings.bucket.is_empty() {
            let local = LocalFileSystem::new_with_prefix(root)?.with_fsync(true);
            let patience = Patience::endless(metrics);
            return Ok(Self::new(Arc::new(local), FOLDER, true, "", patience));
        }
        let patience = Patience::of(settings.stall_timeout, metrics);
        let retry = RetryConfig {
            backoff: BackoffConfig {
                max_backoff: BUCKET_PAUSE_MAX,
                ..BackoffConfig::default()
            },
            max_retries: BUCKET_RETRIES_MAX,
            retry_timeout: BUCKET_RETRY_TIME_MAX,
        };
        let endpoint = &settings.endpoint;
        // Every request has the time limit of our patience, its repetitions included.
        let options = ClientOptions::new()
            .with_timeout_disabled()
            .with_allow_http(endpoint.starts_with("http://"));
        let mut builder = AmazonS3Builder::new()
            .with_retry(retry)
            .with_client_options(options)
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_access_key_id(&settings.access_key)
            .with_secret_access_key(&settings.secret_key.0);
        if !endpoint.is_empty() {
            builder = builder.with_endpoint(endpoint);
        }
        let at = match endpoint.as_str() {
            "" => format!("region {}", settings.region),
            endpoint => endpoint.to_owned(),
        };
        let name = format!("{} ({at})", settings.bucket);
        let store = Arc::new(builder.build()?);
        Ok(Self::new(store, &settings.prefix, false, &name, patience))
    }

    /// In any store, below `base`.
    pub fn on(store: Arc<dyn ObjectStore>, base: &str, metrics: &Arc<Metrics>) -> Self {
        Self::new(store, base, false, base, Patience::endless(metrics))
    }

    fn new(
        store: Arc<dyn ObjectStore>,
        base: &str,
        is_folder: bool,
        name: &str,
        patience: Patience,
    ) -> Self {
        Self {
            store,
            base: Path::from(base),
            is_folder,
            name: name.into(),
            patience,
            imports: Arc::new(Semaphore::new(IMPORTS_AT_ONCE)),
        }
    }

    /// Tells at the start what would otherwise be learnt from the first file: whether the bucket is there and takes, gives
    /// and lists objects. A folder always does. A bucket that does not answer is no error: text needs none.
    pub async fn check(&self) -> Result<Checked, MediaError> {
        if self.is_folder {
            return Ok(Checked::Usable);
        }
        match timeout(CHECK_TIME_MAX, self.try_out()).await {
            Ok(checked) => checked,
            Err(_) => {
                let time = CHECK_TIME_MAX.as_secs();
                let why = format!("{}: no answer within {time} s", self.name);
                Ok(Checked::Silent(why))
            }
        }
    }

    async fn try_out(&self) -> Result<Checked, MediaError> {
        let place = self.base.clone().join(CHECK_NAME);
        let refused = |what: &str, error| {
            let why = format!("the bucket {} {what}", self.name);
            Err(MediaError::Refused(why, error))
        };
        let missing = "is not there; make it, or correct media.bucket";
        // Listed before anything is written: some services make a bucket for the first object.
        let listed = self.store.list(Some(&self.base)).next().await.transpose();
        let listed = match listed {
            // The library has no other word for it here than the service's own.
            Err(error) if error.to_string().contains(NO_SUCH_BUCKET) => {
                return refused(missing, error);
            }
            listed => listed,
        };
        let asked = async {
            let text = PutPayload::from_static(b"written by quipu-gateway at each start\n");
            self.store.put(&place, text).await?;
            self.store.get_range(&place, 0..1).await?;
            listed
        };
        match asked.await {
            Ok(_) => Ok(Checked::Usable),
            Err(error @ object_store::Error::NotFound { .. }) => refused(missing, error),
            Err(
                error @ (object_store::Error::PermissionDenied { .. }
                | object_store::Error::Unauthenticated { .. }),
            ) => refused(
                "refuses this gateway; check media.access_key, media.secret_key and media.region, and that the key may read, \
                 write, list and delete below media.prefix",
                error,
            ),
            Err(error) => Ok(Checked::Silent(format!("{}: {error}", self.name))),
        }
    }

    /// What is known of a file; `None` if it is not there.
    pub async fn find(
        &self,
        conversation: ConversationId,
        hash: MediaHash,
    ) -> Result<Option<Stored>, MediaError> {
        let label = self.label(conversation, hash);
        let asked = async {
            let found = self.store.get(&label).await?;
            let meta = found.meta.clone();
            // What is longer is no label, and is not read.
            let text = match meta.size {
                ..=LABEL_BYTES_MAX => found.bytes().await?,
                _ => Bytes::new(),
            };
            Ok((meta, text))
        };
        let (meta, text) = match self.patience.wait(asked).await {
            Ok(found) => found,
            Err(MediaError::Store(object_store::Error::NotFound { .. })) => return Ok(None),
            Err(error) => return Err(error),
        };
        let touched_at = timestamp(meta.last_modified.timestamp_millis());
        let (size, media_type) = read_label(&text)
            .ok_or_else(|| MediaError::Damaged(format!("the label of {hash} is not understood")))?;
        Ok(Some(Stored {
            size,
            media_type,
            touched_at,
        }))
    }

    /// Takes over a whole file of DATA/media, given by its path there; it is gone from there afterwards. Durable when it
    /// returns. The caller has checked and synced it.
    pub async fn import(
        &self,
        conversation: ConversationId,
        hash: MediaHash,
        size: u64,
        media_type: &MediaType,
        root: &FilePath,
        name: &str,
    ) -> Result<(), MediaError> {
        let place = self.place(conversation, hash);
        if self.is_folder {
            let name = Path::from(name);
            self.patience.wait(self.store.rename(&name, &place)).await?;
        } else {
            let file = root.join(name);
            self.send(&place, &file).await?;
            // The staged bytes go last: a bucket that falls silent in between costs the client nothing.
            self.touch(conversation, hash, size, media_type).await?;
            tokio::fs::remove_file(&file).await?;
            return Ok(());
        }
        self.touch(conversation, hash, size, media_type).await
    }

    /// Brings a file to a bucket in parts.
    async fn send(&self, place: &Path, file: &FilePath) -> Result<(), MediaError> {
        let turn = timeout(IMPORT_TURN_TIME_MAX, self.imports.acquire()).await;
        let _turn = turn.map_err(|_| self.patience.lost(IMPORT_TURN_TIME_MAX))?;
        let mut file = File::open(file)?;
        let begun = self.patience.wait(self.store.put_multipart(place)).await?;
        let mut parts = WriteMultipart::new_with_chunk_size(begun, PART_BYTES);
        loop {
            let (read, rest) = blocking(move || {
                let mut piece = BytesMut::zeroed(PART_BYTES);
                let mut filled = 0;
                while filled < piece.len() {
                    match file.read(&mut piece[filled..])? {
                        0 => break,
                        read => filled += read,
                    }
                }
                piece.truncate(filled);
                Ok((piece.freeze(), file))
            })
            .await?;
            file = rest;
            // The last one is shorter, or empty, and goes out with the end.
            let is_last = read.len() < PART_BYTES;
            parts.put(read);
            // Each part has its own time; the end has only the last one left to bring.
            let room = if is_last { 1 } else { PARTS_AT_ONCE };
            for room in (room..=PARTS_AT_ONCE).rev() {
                if let Err(error) = self.patience.wait(parts.wait_for_capacity(room)).await {
                    // The error that matters is the first.
                    let _ = timeout(ABORT_TIME_MAX, parts.abort()).await;
                    return Err(error);
                }
            }
            if is_last {
                break;
            }
        }
        self.patience.wait(parts.finish()).await?;
        Ok(())
    }

    /// Writes a file's label anew, so that it counts as brought now.
    pub async fn touch(
        &self,
        conversation: ConversationId,
        hash: MediaHash,
        size: u64,
        media_type: &MediaType,
    ) -> Result<(), MediaError> {
        let label = format!("{LABEL_FORMAT}\nsize {size}\ntype {media_type}\n");
        let place = self.label(conversation, hash);
        let put = self.store.put(&place, PutPayload::from(label));
        self.patience.wait(put).await?;
        Ok(())
    }

    /// Makes a file of one conversation one of another as well, without moving its bytes through the gateway.
    pub async fn copy(
        &self,
        from: ConversationId,
        to: ConversationId,
        hash: MediaHash,
        stored: &Stored,
    ) -> Result<(), MediaError> {
        let (source, target) = (self.place(from, hash), self.place(to, hash));
        self.patience
            .wait(self.store.copy(&source, &target))
            .await?;
        self.touch(to, hash, stored.size, &stored.media_type).await
    }

    /// Begins to read `length` bytes from `offset`, both within the file; length is not 0.
    pub async fn read(
        &self,
        conversation: ConversationId,
        hash: MediaHash,
        offset: u64,
        length: u64,
    ) -> Result<Reading, MediaError> {
        let place = self.place(conversation, hash);
        if !self.is_folder {
            let mut left = offset..offset + length;
            let objects = self.clone();
            let ready = Some(objects.fetch(&place, &mut left).await?);
            return Ok(Reading::Bucket {
                objects,
                place,
                ready,
                left,
            });
        }
        let options = GetOptions {
            range: Some((offset..offset + length).into()),
            ..GetOptions::default()
        };
        let asked = self.store.get_opts(&place, options);
        let found = self.patience.wait(asked).await?;
        if found.range != (offset..offset + length) {
            return Err(MediaError::Damaged(format!(
                "{hash} is shorter than its label says"
            )));
        }
        match found.payload {
            GetResultPayload::File(mut file, _) => {
                blocking(move || {
                    file.seek(SeekFrom::Start(offset))?;
                    Ok(Reading::File { file, left: length })
                })
                .await
            }
            GetResultPayload::Stream(_) => {
                Err(MediaError::Damaged(format!("{hash} is not a file")))
            }
        }
    }

    /// Removes a file. The label goes first: a crash between leaves bytes that nobody can see, and that a later sweep finds.
    pub async fn remove(
        &self,
        conversation: ConversationId,
        hash: MediaHash,
    ) -> Result<(), MediaError> {
        for place in [
            self.label(conversation, hash),
            self.place(conversation, hash),
        ] {
            match self.patience.wait(self.store.delete(&place)).await {
                Ok(()) | Err(MediaError::Store(object_store::Error::NotFound { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Everything that is there, in no order. Names that are not ours are skipped. Ends after a failure.
    pub fn list(&self) -> BoxStream<'static, Result<Listed, MediaError>> {
        let begin = (self.clone(), self.store.list(Some(&self.base)));
        stream::try_unfold(begin, |(objects, mut found)| async move {
            let next = objects.next_listed(&mut found).await?;
            Ok(next.map(|listed| (listed, (objects, found))))
        })
        .boxed()
    }

    async fn next_listed(
        &self,
        found: &mut BoxStream<'static, object_store::Result<ObjectMeta>>,
    ) -> Result<Option<Listed>, MediaError> {
        loop {
            let next = async { found.next().await.transpose() };
            match self.patience.wait(next).await {
                Ok(None) => return Ok(None),
                Ok(Some(meta)) => {
                    let written_at = timestamp(meta.last_modified.timestamp_millis());
                    let listed = named(&self.base, &meta.location, written_at);
                    if listed.is_some() {
                        return Ok(listed);
                    }
                }
                // Removed between being seen and being looked at.
                Err(MediaError::Store(object_store::Error::NotFound { .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the next piece of what is left of an object.
    async fn fetch(&self, place: &Path, left: &mut Range<u64>) -> Result<Bytes, MediaError> {
        let end = left.end.min(left.start + BUCKET_READ_BYTES);
        let asked = self.store.get_range(place, left.start..end);
        let piece = self.patience.wait(asked).await?;
        if piece.len() as u64 != end - left.start {
            let what = format!("{place} is shorter than its label says");
            return Err(MediaError::Damaged(what));
        }
        left.start = end;
        Ok(piece)
    }

    fn place(&self, conversation: ConversationId, hash: MediaHash) -> Path {
        let folder = self.base.clone().join(conversation.to_string());
        folder.join(hash.to_string())
    }

    fn label(&self, conversation: ConversationId, hash: MediaHash) -> Path {
        let folder = self.base.clone().join(conversation.to_string());
        folder.join(format!("{hash}{LABEL_SUFFIX}"))
    }
}

impl Reading {
    /// The next piece; `None` at the end of the range.
    pub async fn next(self) -> Result<Option<(Bytes, Self)>, MediaError> {
        match self {
            Self::File { left: 0, .. } => Ok(None),
            Self::File { mut file, left } => {
                blocking(move || {
                    let wanted = left.min(READ_BYTES as u64);
                    let mut piece = BytesMut::zeroed(usize::try_from(wanted).unwrap_or(READ_BYTES));
                    file.read_exact(&mut piece)?;
                    let left = left - wanted;
                    Ok(Some((piece.freeze(), Self::File { file, left })))
                })
                .await
            }
            Self::Bucket {
                objects,
                place,
                ready,
                mut left,
            } => {
                let piece = match ready {
                    Some(piece) => piece,
                    None if left.is_empty() => return Ok(None),
                    None => objects.fetch(&place, &mut left).await?,
                };
                let rest = Self::Bucket {
                    objects,
                    place,
                    ready: None,
                    left,
                };
                Ok(Some((piece, rest)))
            }
        }
    }
}

/// Runs work that waits for a disk on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, MediaError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|_| MediaError::Stopping)??)
}

fn timestamp(milliseconds: i64) -> TimestampMs {
    TimestampMs(u64::try_from(milliseconds).unwrap_or(0))
}

fn read_label(text: &[u8]) -> Option<(u64, MediaType)> {
    let text = std::str::from_utf8(text).ok()?;
    let mut lines = text.lines();
    if lines.next()? != LABEL_FORMAT {
        return None;
    }
    let size = lines.next()?.strip_prefix("size ")?.parse().ok()?;
    let media_type = MediaType::new(lines.next()?.strip_prefix("type ")?).ok()?;
    Some((size, media_type))
}

fn named(base: &Path, location: &Path, written_at: TimestampMs) -> Option<Listed> {
    let mut parts = location.prefix_match(base)?;
    let conversation = parts.next()?.as_ref().parse().ok()?;
    let name = parts.next()?;
    if parts.next().is_some() {
        return None;
    }
    let name = name.as_ref();
    let (hash, is_label) = match name.strip_suffix(LABEL_SUFFIX) {
        Some(hash) => (hash, true),
        None => (name, false),
    };
    Some(Listed {
        conversation,
        hash: hash.parse().ok()?,
        is_label,
        written_at,
    })
}
