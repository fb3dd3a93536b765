//! One upload as its bytes come: to disk and through the hash, in pieces, from wherever the last stream stopped.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use quipu_protocol::media::MediaHash;

use super::MediaError;
use super::objects::blocking;
use super::partials::{Claim, Plan};
use crate::pace::Pace;

/// Bytes written between two syncs: what one sync has to move stays small, so that the log's own syncs never wait for long.
const SYNC_EVERY_BYTES: u64 = 2 << 20;
/// Bytes read at once when what is there already is hashed again.
const REHASH_BYTES: usize = 1 << 20;
/// Least time for each of these: a thread that computes without a break would keep a processor from messages.
const REHASH_TIME: Duration = Duration::from_millis(1);

/// An upload that is taking bytes. Dropping it keeps what was written.
#[derive(Debug)]
pub struct Receiving {
    claim: Claim,
    plan: Plan,
    offset: u64,
    /// `None` only while a piece is being written, and after a write failed.
    sink: Option<Sink>,
}

/// The file and the hash of what is in it.
#[derive(Debug)]
struct Sink {
    file: File,
    hasher: blake3::Hasher,
    unsynced: u64,
}

impl Receiving {
    /// Opens what is there of an upload, and hashes it.
    pub(super) async fn open(claim: Claim, plan: Plan) -> Result<Self, MediaError> {
        let (path, size) = (claim.path(), plan.size);
        let (sink, offset) = blocking(move || Sink::open(&path, size)).await?;
        Ok(Self {
            claim,
            plan,
            offset,
            sink: Some(sink),
        })
    }

    /// Bytes that are kept already: where the client goes on.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that are still to come.
    pub fn left(&self) -> u64 {
        self.plan.size - self.offset
    }

    /// Ends when another stream wants to go on with this upload: this one must let go of it.
    pub async fn cancelled(&self) {
        self.claim.cancelled().await;
    }

    /// Appends a piece, not longer than what is left, and gives its buffer back, empty.
    pub async fn write(&mut self, mut piece: Vec<u8>) -> Result<Vec<u8>, MediaError> {
        let mut sink = self.sink.take().ok_or(MediaError::Stopping)?;
        let length = piece.len() as u64;
        let (sink, piece) = blocking(move || {
            sink.write(&piece)?;
            piece.clear();
            Ok((sink, piece))
        })
        .await?;
        self.sink = Some(sink);
        self.offset += length;
        Ok(piece)
    }

    /// Makes the bytes durable and checks them. An upload whose bytes are not what was announced is forgotten: `None`.
    pub(super) async fn finish(mut self) -> Result<Option<(Claim, Plan)>, MediaError> {
        let sink = self.sink.take().ok_or(MediaError::Stopping)?;
        let hash = blocking(move || {
            sink.file.sync_all()?;
            Ok(MediaHash(*sink.hasher.finalize().as_bytes()))
        })
        .await?;
        if hash == self.plan.hash && self.offset == self.plan.size {
            return Ok(Some((self.claim, self.plan)));
        }
        self.claim.discard().await?;
        Ok(None)
    }
}

impl Sink {
    fn open(path: &Path, size: u64) -> io::Result<(Self, u64)> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)?;
        // Never more than was announced, whatever happened to the file.
        if file.metadata()?.len() > size {
            file.set_len(size)?;
        }
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; REHASH_BYTES];
        let mut pace = Pace::new(REHASH_TIME);
        loop {
            pace.begin();
            match file.read(&mut piece)? {
                0 => break,
                read => hasher.update(&piece[..read]),
            };
        }
        let offset = file.seek(SeekFrom::End(0))?;
        if offset != hasher.count() {
            return Err(io::Error::other("the file changes while it is read"));
        }
        let sink = Self {
            file,
            hasher,
            unsynced: 0,
        };
        Ok((sink, offset))
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_all(piece)?;
        self.hasher.update(piece);
        self.unsynced += piece.len() as u64;
        if self.unsynced >= SYNC_EVERY_BYTES {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }
}
