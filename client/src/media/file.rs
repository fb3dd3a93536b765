//! Work on files, on threads that may wait for a disk.

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::Path;

use quipu_protocol::media::MediaHash;

use crate::error::Error;

/// Bytes read from a file or written to it at once.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// Runs work on a thread that may wait.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::Closed)?
}

/// Names the file in what the system says.
pub(super) fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |error| Error::Storage(format!("{}: {error}", path.display()))
}

/// Puts the rest of a file through a hasher. Returns the bytes that there were.
pub(super) fn hash_rest(file: &mut File, hasher: &mut blake3::Hasher) -> std::io::Result<u64> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut total = 0;
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(total),
            read => {
                hasher.update(&piece[..read]);
                total += read as u64;
            }
        }
    }
}

/// Opens a file, and says its hash and its size.
pub(super) fn open_and_hash(path: &Path) -> Result<(File, MediaHash, u64), Error> {
    let mut file = File::open(path).map_err(failed(path))?;
    if !file.metadata().map_err(failed(path))?.is_file() {
        return Err(Error::Invalid(format!("{} is not a file", path.display())));
    }
    let mut hasher = blake3::Hasher::new();
    let size = hash_rest(&mut file, &mut hasher).map_err(failed(path))?;
    if size == 0 {
        return Err(Error::Invalid(format!("{} is empty", path.display())));
    }
    Ok((file, MediaHash(*hasher.finalize().as_bytes()), size))
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
