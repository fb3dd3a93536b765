//! Work on files, on threads that may wait for a disk.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek as _, SeekFrom};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use quipu_protocol::media::MediaHash;

use crate::error::Error;

/// Bytes read from a file or written to it at once.
pub(super) const PIECE_BYTES: usize = 256 << 10;
/// How long work on a whole file goes on before it rests.
const WORK_TIME_MIN: Duration = Duration::from_micros(500);
/// Longest rest: a file that the disk brings slowly takes no processor meanwhile.
const REST_TIME_MAX: Duration = Duration::from_millis(2);

/// Runs work on a thread that may wait.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::Closed)?
}

/// Names the file in what the system says.
pub(super) fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |error| Error::File {
        path: path.to_owned(),
        why: match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                format!("{error}: free some room, then try again; what has come is kept")
            }
            _ => error.to_string(),
        },
    }
}

/// Puts the rest of a file through a hasher, at leisure. Returns the bytes that there were.
pub(super) fn hash_rest(file: &mut File, hasher: &mut blake3::Hasher) -> std::io::Result<u64> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut total = 0;
    let mut leisure = Leisure::begin();
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(total),
            read => {
                hasher.update(&piece[..read]);
                total += read as u64;
                leisure.rest();
            }
        }
    }
}

/// Leaves half of a processor to others. A thread that computes without a break is not interrupted for each message that
/// another thread could carry, which on a small machine is what a message waits for.
#[derive(Debug)]
struct Leisure {
    since: Instant,
}

impl Leisure {
    fn begin() -> Self {
        Self {
            since: Instant::now(),
        }
    }

    /// Sleeps as long as it has worked, when that was a while.
    fn rest(&mut self) {
        if let Some(rest) = rest_after(self.since.elapsed()) {
            thread::sleep(rest);
            self.since = Instant::now();
        }
    }
}

fn rest_after(worked: Duration) -> Option<Duration> {
    (worked >= WORK_TIME_MIN).then(|| worked.min(REST_TIME_MAX))
}

/// A file as it was when it was hashed.
#[derive(Debug)]
pub(super) struct Hashed {
    pub(super) file: File,
    pub(super) hash: MediaHash,
    pub(super) size: u64,
    pub(super) state: State,
}

/// What changes when somebody writes to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    size: u64,
    modified: Option<SystemTime>,
}

impl State {
    /// As it is now; blocks for a moment.
    pub(super) fn of(file: &File) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            size: metadata.len(),
            modified: metadata.modified().ok(),
        })
    }
}

/// Opens a file, and hashes it.
pub(super) fn open_and_hash(path: &Path) -> Result<Hashed, Error> {
    // Asked by its name first: to open a pipe would wait for somebody who writes to it.
    let metadata = std::fs::metadata(path).map_err(failed(path))?;
    if !metadata.is_file() {
        return Err(Error::Invalid(format!("{} is not a file", path.display())));
    }
    let mut file = File::open(path).map_err(failed(path))?;
    let state = State::of(&file).map_err(failed(path))?;
    let mut hasher = blake3::Hasher::new();
    let size = hash_rest(&mut file, &mut hasher).map_err(failed(path))?;
    if size == 0 {
        let empty = format!("{} is empty: there is nothing to send", path.display());
        return Err(Error::Invalid(empty));
    }
    Ok(Hashed {
        file,
        hash: MediaHash(*hasher.finalize().as_bytes()),
        size,
        state,
    })
}

/// A piece of a file from `offset` on; empty at its end.
pub(super) async fn read_piece(
    mut file: File,
    offset: u64,
    path: &Path,
) -> Result<(Vec<u8>, File), Error> {
    let path = path.to_owned();
    blocking(move || {
        let mut piece = vec![0; PIECE_BYTES];
        let mut filled = 0;
        file.seek(SeekFrom::Start(offset)).map_err(failed(&path))?;
        while filled < piece.len() {
            match file.read(&mut piece[filled..]).map_err(failed(&path))? {
                0 => break,
                read => filled += read,
            }
        }
        piece.truncate(filled);
        Ok((piece, file))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_rests_as_long_as_it_took_and_waiting_for_a_disk_costs_little() {
        let micros = Duration::from_micros;
        assert_eq!(rest_after(micros(499)), None);
        assert_eq!(rest_after(micros(600)), Some(micros(600)));
        assert_eq!(rest_after(micros(900_000)), Some(REST_TIME_MAX));
    }
}
