//! What a client keeps: account, conversations, messages, outbox, receipts; SQLite on disk or in memory.
//!
//! Every change is one transaction. In WAL mode with `synchronous=NORMAL` a commit survives the kill of the process at any
//! moment, but the last ones may be undone by a power loss. That is safe: the cursor goes back together with the messages,
//! the gateway sends the events again, and a message is stored under (conversation, seq) once. Some things must not go
//! back, because the gateway remembers them too: the session token, which client seqs were used, and the answers to more
//! messages than the gateway would answer again. These are synced to disk.

mod account;
mod gaps;
mod inbox;
mod invitations;
mod listed;
mod marks;
mod outbox;
mod read;
mod row;
mod schema;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quipu_protocol::id::{ConversationId, MessageId, Seq};
use quipu_protocol::session::{Positions, Unanswered, Waiting};
use rusqlite::Connection;
use tokio::sync::Notify;

use crate::config::Config;
use crate::error::Error;
use crate::model::ChangeId;

pub(crate) use account::StoredSession;
pub(crate) use inbox::changes::lower;
pub(crate) use inbox::{Ahead, Turn};

/// The database inside the data folder.
const CACHE_FILE: &str = "quipu.sqlite";
/// How long to wait for another process that is about to leave the data folder.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// Prepared statements kept; there are fewer different ones than this.
const STATEMENTS_MAX: usize = 64;
/// Page cache of SQLite, in KiB: small, because there may be thousands of clients in one process.
const PAGE_CACHE_KIB: i64 = 1024;

/// The cache, shared by the handle and the driver.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    in_memory: bool,
    /// `None` once the client is closed, so that the folder is free although clones of the handle are not dropped.
    tables: Mutex<Option<Tables>>,
    outbound: Arc<Outbound>,
}

impl Cache {
    /// Opens or makes the database, alone: a second process on one folder would be the same device twice.
    pub(crate) async fn open(config: &Config) -> Result<Self, Error> {
        let folder = config.data.clone();
        let in_memory = folder.is_none();
        let messages_max = config.cached_messages_max;
        let outbound = Arc::new(Outbound::default());
        let shared = Arc::clone(&outbound);
        let open = move || Tables::open(folder.as_deref(), messages_max, shared);
        let tables = if in_memory {
            open()?
        } else {
            blocking(open).await?
        };
        Ok(Self {
            inner: Arc::new(Inner {
                in_memory,
                tables: Mutex::new(Some(tables)),
                outbound,
            }),
        })
    }

    /// Runs one piece of work on the tables, off the runtime's threads if it touches a disk.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tables) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        if self.inner.in_memory {
            return self.run_now(work);
        }
        let cache = self.clone();
        blocking(move || cache.run_now(work)).await
    }

    fn run_now<T>(&self, work: impl FnOnce(&mut Tables) -> Result<T, Error>) -> Result<T, Error> {
        work(self.lock().as_mut().ok_or(Error::Closed)?)
    }

    /// Closes the database; everything fails with [`Error::Closed`] from then on, also for those who wait.
    pub(crate) async fn close(&self) {
        let tables = self.lock().take();
        if !self.inner.in_memory {
            // The last checkpoint touches the disk. Whatever it leaves undone, the next open does.
            let _ = tokio::task::spawn_blocking(move || drop(tables)).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Tables>> {
        // A panic inside a transaction rolls it back, and the fields beside it are set after the commit.
        self.inner
            .tables
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What the application wants sent, for the driver.
    pub(crate) fn outbound(&self) -> &Outbound {
        &self.inner.outbound
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(Error::Storage("the cache's thread panicked".into())),
    }
}

/// The database with what is kept in memory beside it. Used under one lock.
#[derive(Debug)]
pub(crate) struct Tables {
    db: Connection,
    session: Option<StoredSession>,
    /// Where the tokens of the account's issuer are; `None`: the account has a password.
    token_file: Option<PathBuf>,
    client_seqs: account::ClientSeqs,
    outbox: outbox::Counts,
    waiters: outbox::Waiters<MessageId, Seq>,
    change_waiters: outbox::Waiters<ChangeId, ()>,
    messages: usize,
    messages_max: usize,
    ahead: Ahead,
    outbound: Arc<Outbound>,
}

impl Tables {
    fn open(
        folder: Option<&Path>,
        messages_max: usize,
        outbound: Arc<Outbound>,
    ) -> Result<Self, Error> {
        let db = match folder {
            Some(folder) => open_file(folder)?,
            None => Connection::open_in_memory()?,
        };
        db.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        db.pragma_update(None, "cache_size", -PAGE_CACHE_KIB)?;
        db.pragma_update(None, "synchronous", "NORMAL")?;
        schema::migrate(&db, folder.map(|folder| folder.join(CACHE_FILE)))?;
        let (session, client_seqs) = account::load(&db)?;
        let token_file = account::load_token_file(&db)?;
        let outbox = outbox::count(&db)?;
        let messages: i64 = db.query_row("SELECT count(*) FROM message", [], |row| row.get(0))?;
        Ok(Self {
            db,
            session,
            token_file,
            client_seqs,
            outbox,
            waiters: outbox::Waiters::default(),
            change_waiters: outbox::Waiters::default(),
            messages: row::count(messages),
            messages_max: messages_max.max(1),
            ahead: Ahead::default(),
            outbound,
        })
    }
}

fn open_file(folder: &Path) -> Result<Connection, Error> {
    let failed = |error: std::io::Error| Error::Storage(format!("{}: {error}", folder.display()));
    if !folder.is_dir() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
    }
    let file = folder.join(CACHE_FILE);
    if !file.exists() {
        // SQLite makes its journals with the permissions of the database.
        private_file(&file).map_err(failed)?;
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let in_use = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
            Error::FolderInUse(folder.to_owned())
        }
        Some(_) | None => Error::Storage(format!("{}: {error}", file.display())),
    };
    let db = Connection::open(&file).map_err(in_use)?;
    db.busy_timeout(LOCK_TIMEOUT).map_err(in_use)?;
    // Before WAL is entered, so that it needs no shared memory: nobody shares it.
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")
        .map_err(in_use)?;
    db.pragma_update(None, "journal_mode", "WAL")
        .map_err(in_use)?;
    db.execute_batch("BEGIN EXCLUSIVE; COMMIT")
        .map_err(in_use)?;
    Ok(db)
}

/// Creates a file that only its owner reads.
pub(crate) fn private_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// What was committed to the cache and must go out: handed to the driver in the order of the commits.
///
/// Only filled while a driver listens; a driver that begins to listen reads everything older from the tables. So its size is
/// bounded by the outbox's limits and by the number of conversations.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    news: Mutex<Option<News>>,
    changed: Notify,
}

/// What the driver takes from [`Outbound`].
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) messages: Vec<Waiting>,
    pub(crate) changes: Vec<Unanswered>,
    pub(crate) receipts: BTreeMap<ConversationId, Positions>,
}

impl Outbound {
    /// Waits until there is something to take. Cancel-safe: an announcement that nobody waited for is kept.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes what has come since the last time.
    pub(crate) fn take(&self) -> News {
        self.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Stops collecting.
    pub(crate) fn stop(&self) {
        *self.lock() = None;
    }

    fn listen(&self) {
        *self.lock() = Some(News::default());
    }

    /// Whether a driver takes what is pushed, and may send it.
    fn is_taken(&self) -> bool {
        self.lock().is_some()
    }

    fn push(&self, add: impl FnOnce(&mut News)) {
        if let Some(news) = self.lock().as_mut() {
            add(news);
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<News>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
