//! Fetches a file: go on behind what is there, check the hash of the whole, and put it in its place.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use quipu_protocol::error::RejectCode;
use quipu_protocol::frame::{FrameType, encoded};
use quipu_protocol::id::ConversationId;
use quipu_protocol::media::{Blob, Download, MediaHash, MediaType};
use quipu_protocol::wire;

use super::file::{PIECE_BYTES, blocking, failed, hash_rest};
use super::stream::BlobStream;
use super::{Attempts, Broken, DownloadedFile, Progress};
use crate::client::Client;
use crate::error::Error;

pub(super) async fn run(
    client: &Client,
    conversation: ConversationId,
    hash: MediaHash,
    path: &Path,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<DownloadedFile, Error> {
    let _turn = client.blob_turn().await?;
    let part = part_path(path, hash)?;
    let opening = part.clone();
    let sink = blocking(move || Sink::open(&opening)).await?;
    let mut transfer = Transfer {
        client,
        conversation,
        hash,
        part,
        sink: Some(sink),
        received: 0,
        progress: &mut progress,
    };
    let (size, media_type) = match transfer.until_whole().await {
        Ok(whole) => whole,
        Err(error) => {
            transfer.leave().await;
            return Err(error);
        }
    };
    transfer.put_in_place(path).await?;
    Ok(DownloadedFile {
        size,
        media_type,
        received: transfer.received,
    })
}

/// Beside the file, so that it can be renamed into its place; named by the hash, so that it is never part of another.
fn part_path(path: &Path, hash: MediaHash) -> Result<PathBuf, Error> {
    let name = path
        .file_name()
        .ok_or_else(|| Error::Invalid(format!("{} does not name a file", path.display())))?;
    let mut name = name.to_owned();
    let hash = hash.to_string();
    name.push(format!(".{}.part", &hash[..8]));
    Ok(path.with_file_name(name))
}

/// What has come so far, on disk and through the hash.
#[derive(Debug)]
struct Sink {
    file: File,
    hasher: blake3::Hasher,
}

impl Sink {
    fn open(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path);
        let mut file = file.map_err(failed(path))?;
        let mut hasher = blake3::Hasher::new();
        hash_rest(&mut file, &mut hasher).map_err(failed(path))?;
        Ok(Self { file, hasher })
    }
}

struct Transfer<'a, P> {
    client: &'a Client,
    conversation: ConversationId,
    hash: MediaHash,
    part: PathBuf,
    /// Not there only while a piece is written.
    sink: Option<Sink>,
    received: u64,
    progress: &'a mut P,
}

impl<P: FnMut(Progress) + Send> Transfer<'_, P> {
    async fn until_whole(&mut self) -> Result<(u64, MediaType), Error> {
        let mut attempts = Attempts::default();
        let mut began_anew = false;
        loop {
            let before = self.received;
            let broken = match self.attempt().await {
                Ok(blob) => {
                    let right = self.sink.as_ref().is_some_and(|sink| {
                        sink.hasher.finalize().as_bytes() == self.hash.as_bytes()
                    });
                    if right {
                        return Ok((blob.size, blob.media_type));
                    }
                    let wrong = Error::Invalid("the bytes that came are not the file's".into());
                    Broken::Failed(wrong)
                }
                Err(broken) => broken,
            };
            // What was there from before may not be a part of the file: one new beginning.
            let is_wrong = match &broken {
                Broken::Failed(Error::Invalid(_)) => true,
                Broken::Failed(Error::Refused(refusal)) => refusal.code == RejectCode::Invalid,
                Broken::Failed(_) | Broken::Again(..) => false,
            };
            if is_wrong {
                self.begin_anew().await?;
                if !began_anew {
                    began_anew = true;
                    continue;
                }
            }
            let moved = self.received > before;
            attempts.next(self.client, broken, moved).await?;
        }
    }

    async fn begin_anew(&mut self) -> Result<(), Error> {
        let part = self.part.clone();
        self.sink = None;
        let sink = blocking(move || {
            fs::remove_file(&part).map_err(failed(&part))?;
            Sink::open(&part)
        });
        self.sink = Some(sink.await?);
        Ok(())
    }

    async fn attempt(&mut self) -> Result<Blob, Broken> {
        let have = self.sink.as_ref().map_or(0, |sink| sink.hasher.count());
        let connection = self.client.quic().map_err(Broken::lost)?;
        let download = Download {
            conversation: self.conversation,
            hash: self.hash,
            offset: have,
            length: 0,
        };
        let first = encoded(FrameType::Download, &wire::Download::from(&download));
        let mut stream = BlobStream::open(&connection, first).await?;
        let _ = stream.send.finish();
        let blob = stream.frame().await?;
        if blob.kind != FrameType::Blob {
            return Err(Broken::lost("the gateway did not say what follows"));
        }
        let blob: wire::Blob = blob.message().map_err(Broken::lost)?;
        let blob = Blob::try_from(blob).map_err(Broken::lost)?;
        if blob.offset != have || blob.offset + blob.length != blob.size {
            return Err(Broken::lost("the gateway sends another part"));
        }
        self.tell(have, blob.size);
        self.take(&blob, &mut stream).await?;
        Ok(blob)
    }

    async fn take(&mut self, blob: &Blob, stream: &mut BlobStream) -> Result<(), Broken> {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let mut left = blob.length;
        let ended = loop {
            let bytes = match stream.bytes().await {
                Ok(Some(bytes)) => bytes,
                Ok(None) if left == 0 => break Ok(()),
                Ok(None) => break Err(Broken::lost("the gateway ended the transfer early")),
                Err(broken) => break Err(broken),
            };
            left = match left.checked_sub(bytes.len() as u64) {
                Some(left) => left,
                None => break Err(Broken::lost("the gateway sends more than it announced")),
            };
            piece.extend_from_slice(&bytes);
            if piece.len() >= PIECE_BYTES {
                self.keep(std::mem::take(&mut piece), blob.size).await?;
            }
        };
        // What has come counts, whatever ended it.
        self.keep(piece, blob.size).await?;
        ended
    }

    async fn keep(&mut self, piece: Vec<u8>, total: u64) -> Result<(), Error> {
        let mut sink = self.sink.take().ok_or(Error::Closed)?;
        self.received += piece.len() as u64;
        let part = self.part.clone();
        let sink = blocking(move || {
            sink.file.write_all(&piece).map_err(failed(&part))?;
            sink.hasher.update(&piece);
            Ok(sink)
        })
        .await?;
        let have = sink.hasher.count();
        self.sink = Some(sink);
        self.tell(have, total);
        Ok(())
    }

    /// Keeps what has come; a file with nothing in it is in nobody's way.
    async fn leave(&mut self) {
        let is_empty = |sink: &Sink| sink.hasher.count() == 0;
        if self.sink.take().as_ref().is_some_and(is_empty) {
            let part = self.part.clone();
            // One that cannot be removed is gone on with, or replaced, by the next call.
            let _ = blocking(move || fs::remove_file(&part).map_err(failed(&part))).await;
        }
    }

    async fn put_in_place(&mut self, path: &Path) -> Result<(), Error> {
        let sink = self.sink.take().ok_or(Error::Closed)?;
        let (part, path) = (self.part.clone(), path.to_owned());
        blocking(move || {
            sink.file.sync_all().map_err(failed(&part))?;
            fs::rename(&part, &path).map_err(failed(&path))
        })
        .await
    }

    fn tell(&mut self, done: u64, total: u64) {
        (self.progress)(Progress { done, total });
    }
}
