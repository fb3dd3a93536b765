//! The data folder: held by one process at a time, of one format and one shape for its life.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quipu_core::shard::ShardCount;

use crate::log::LogIdentity;

/// Version of everything below the folder. Raised by a change that an older or newer gateway cannot read.
pub const FORMAT: u32 = 1;
/// Most shards a folder can be made with.
pub const SHARDS_MAX: u16 = 1024;

const LOCK_FILE: &str = "LOCK";
const IDENTITY_FILE: &str = "IDENTITY";
const LOG_FOLDER: &str = "log";
const STORE_FOLDER: &str = "store";
/// How long a folder that another gateway holds is waited for: one that is stopping may take a moment to let go.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Time between two tries.
const LOCK_RETRY: Duration = Duration::from_millis(10);
/// An identity file is three short lines; more than this is none.
const IDENTITY_BYTES_MAX: u64 = 4096;

/// Why a data folder cannot be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process has it.
    #[error("{} is in use by another gateway; stop that one or name another folder", .0.display())]
    InUse(PathBuf),
    /// There is none.
    #[error("{} is not a Quipu data folder; start a gateway on it once, or name another one", .0.display())]
    Missing(PathBuf),
    /// Written by another version.
    #[error("{} has data format {found} and this gateway reads format {FORMAT}; use the gateway version that wrote it", .path.display())]
    Format {
        /// The folder.
        path: PathBuf,
        /// What it says.
        found: u32,
    },
    /// Made for another number of shards.
    #[error("{} was made for {found} shards and the configuration says {configured}; set it to {found}: the number is fixed for the life of the data", .path.display())]
    Shards {
        /// The folder.
        path: PathBuf,
        /// What it was made for.
        found: u16,
        /// What the gateway was started with.
        configured: u16,
    },
    /// A shard count that no folder can have.
    #[error("the number of shards is 1 to {SHARDS_MAX}, not {0}")]
    ShardCount(u16),
    /// Its parts do not belong together, or one cannot be understood.
    #[error("{} is damaged: {why}; restore it from a copy, or move it away to start empty", .path.display())]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// A data folder that this process holds until the value, and the log and the store that were opened on it, are dropped.
///
/// ```text
/// LOCK       locked by the process that uses the folder
/// IDENTITY   format, life and shard count, as text; written once
/// log/       EmbeddedLog
/// store/     FjallStore
/// ```
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    identity: LogIdentity,
    lock: FolderLock,
}

/// Keeps a folder locked as long as one clone is left.
#[derive(Debug, Clone)]
pub(crate) struct FolderLock(#[expect(dead_code, reason = "held for its drop")] Arc<File>);

impl DataFolder {
    /// Opens a folder, or makes it with a random life.
    pub fn open_or_create(path: &Path, shards: ShardCount) -> Result<Self, FolderError> {
        if !(1..=SHARDS_MAX).contains(&shards.0) {
            return Err(FolderError::ShardCount(shards.0));
        }
        std::fs::create_dir_all(path).map_err(io_error("create the folder", path))?;
        let lock = lock(path)?;
        let identity = match read_identity(path)? {
            Some(identity) => identity,
            None => create_identity(path, shards)?,
        };
        if identity.shards != shards {
            return Err(FolderError::Shards {
                path: path.into(),
                found: identity.shards.0,
                configured: shards.0,
            });
        }
        Ok(Self::new(path, identity, lock))
    }

    /// Opens a folder that must be there, whatever its shard count; for tools.
    pub fn open_existing(path: &Path) -> Result<Self, FolderError> {
        if !path.join(IDENTITY_FILE).exists() {
            return Err(FolderError::Missing(path.into()));
        }
        let lock = lock(path)?;
        let identity = read_identity(path)?.ok_or_else(|| FolderError::Missing(path.into()))?;
        Ok(Self::new(path, identity, lock))
    }

    fn new(path: &Path, identity: LogIdentity, lock: FolderLock) -> Self {
        Self {
            path: path.into(),
            identity,
            lock,
        }
    }

    /// Its life and shard count.
    pub fn identity(&self) -> LogIdentity {
        self.identity
    }

    /// For whoever has files in it open.
    pub(crate) fn hold(&self) -> FolderLock {
        self.lock.clone()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the embedded log lives.
    pub fn log_path(&self) -> PathBuf {
        self.path.join(LOG_FOLDER)
    }

    /// Where the embedded store lives.
    pub fn store_path(&self) -> PathBuf {
        self.path.join(STORE_FOLDER)
    }
}

fn lock(path: &Path) -> Result<FolderLock, FolderError> {
    let file_path = path.join(LOCK_FILE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&file_path)
        .map_err(io_error("open", &file_path))?;
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(FolderLock(Arc::new(file))),
            Err(TryLockError::WouldBlock) if Instant::now() < give_up => {
                std::thread::sleep(LOCK_RETRY);
            }
            Err(TryLockError::WouldBlock) => return Err(FolderError::InUse(path.into())),
            Err(TryLockError::Error(source)) => return Err(io_error("lock", &file_path)(source)),
        }
    }
}

fn read_identity(path: &Path) -> Result<Option<LogIdentity>, FolderError> {
    let file_path = path.join(IDENTITY_FILE);
    let text = match File::open(&file_path) {
        Ok(file) => io::read_to_string(io::Read::take(file, IDENTITY_BYTES_MAX))
            .map_err(io_error("read", &file_path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("open", &file_path)(error)),
    };
    let damaged = |why: &str| FolderError::Damaged {
        path: path.into(),
        why: format!("{IDENTITY_FILE} {why}"),
    };
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .ok_or_else(|| damaged(&format!("has no line '{name}'")))
    };
    let found: u32 = value("format")?
        .parse()
        .map_err(|_| damaged("states no format number"))?;
    // The other lines mean something in this format only.
    if found != FORMAT {
        return Err(FolderError::Format {
            path: path.into(),
            found,
        });
    }
    let life = u64::from_str_radix(value("life")?, 16).map_err(|_| damaged("states no life"))?;
    let shards: u16 = value("shards")?
        .parse()
        .map_err(|_| damaged("states no shard count"))?;
    if !(1..=SHARDS_MAX).contains(&shards) {
        return Err(damaged("states an impossible shard count"));
    }
    Ok(Some(LogIdentity {
        life,
        shards: ShardCount(shards),
    }))
}

/// Writes the identity so that a crash leaves either none or all of it.
fn create_identity(path: &Path, shards: ShardCount) -> Result<LogIdentity, FolderError> {
    for part in [LOG_FOLDER, STORE_FOLDER] {
        if path.join(part).exists() {
            return Err(FolderError::Damaged {
                path: path.into(),
                why: format!("there is a folder {part} and no file {IDENTITY_FILE}"),
            });
        }
    }
    let life = rand::random();
    let text = format!("format {FORMAT}\nlife {life:016x}\nshards {}\n", shards.0);
    let draft = path.join("IDENTITY.new");
    let write = || {
        let mut file = File::create(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, path.join(IDENTITY_FILE))?;
        File::open(path)?.sync_all()
    };
    write().map_err(io_error("write", &path.join(IDENTITY_FILE)))?;
    Ok(LogIdentity { life, shards })
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.into();
    move |source| FolderError::Io {
        doing,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARDS: ShardCount = ShardCount(4);

    #[test]
    fn a_folder_keeps_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataFolder::open_or_create(dir.path(), SHARDS).unwrap();
        let identity = first.identity();
        drop(first);
        let again = DataFolder::open_or_create(dir.path(), SHARDS).unwrap();
        assert_eq!(again.identity(), identity);
        drop(again);
        let existing = DataFolder::open_existing(dir.path()).unwrap();
        assert_eq!(existing.identity(), identity);
    }

    #[test]
    fn it_stays_held_while_its_log_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open_or_create(dir.path(), SHARDS).unwrap();
        let log = crate::log::EmbeddedLog::open(&folder).unwrap();
        drop(folder);
        let second = DataFolder::open_or_create(dir.path(), SHARDS);
        assert!(matches!(second, Err(FolderError::InUse(_))), "{second:?}");
        // Who comes while the log is being closed waits for it.
        let dropper = std::thread::spawn(move || drop(log));
        DataFolder::open_or_create(dir.path(), SHARDS).unwrap();
        dropper.join().unwrap();
    }

    #[test]
    fn one_process_holds_it_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataFolder::open_or_create(dir.path(), SHARDS).unwrap();
        let second = DataFolder::open_or_create(dir.path(), SHARDS);
        assert!(matches!(second, Err(FolderError::InUse(_))), "{second:?}");
        drop(held);
        DataFolder::open_or_create(dir.path(), SHARDS).unwrap();
    }

    #[test]
    fn another_shape_or_format_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataFolder::open_or_create(dir.path(), SHARDS).unwrap());
        let shards = DataFolder::open_or_create(dir.path(), ShardCount(8)).unwrap_err();
        assert!(shards.to_string().contains("set it to 4"), "{shards}");

        let file = dir.path().join(IDENTITY_FILE);
        std::fs::write(&file, "format 2\nwhatever\n").unwrap();
        let format = DataFolder::open_or_create(dir.path(), SHARDS).unwrap_err();
        assert!(matches!(format, FolderError::Format { found: 2, .. }));

        for text in [
            "",
            "format x\n",
            "format 1\nlife 1\n",
            "format 1\nlife z\nshards 4\n",
        ] {
            std::fs::write(&file, text).unwrap();
            let damaged = DataFolder::open_or_create(dir.path(), SHARDS).unwrap_err();
            assert!(
                matches!(damaged, FolderError::Damaged { .. }),
                "{text:?}: {damaged}"
            );
        }
    }

    #[test]
    fn data_without_an_identity_is_not_taken_for_a_new_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(LOG_FOLDER)).unwrap();
        let damaged = DataFolder::open_or_create(dir.path(), SHARDS).unwrap_err();
        assert!(matches!(damaged, FolderError::Damaged { .. }), "{damaged}");
        let missing = DataFolder::open_existing(dir.path()).unwrap_err();
        assert!(matches!(missing, FolderError::Missing(_)), "{missing}");
    }
}
