//! Files that a person sends and fetches while gateways die.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use quipu_client::media::{DownloadedFile, UploadOptions, UploadedFile};
use quipu_client::protocol::id::ConversationId;
use quipu_client::{Client, Error};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::desk::{Desk, Download, Upload};
use super::{AGAIN_AFTER, Person, SharedLedger, lock};
use crate::crash::ledger::Made;

/// Bytes of a file: large enough that a kill can meet it on its way.
const FILE_BYTES: std::ops::Range<usize> = 3 << 20..8 << 20;

/// Makes a file and begins to send it, if there have not been enough.
pub(super) fn begin_upload(
    person: &Person,
    desk: &mut Desk,
    to: ConversationId,
    rng: &mut StdRng,
) -> Result<()> {
    let made = Made {
        seed: rng.random(),
        size: rng.random_range(FILE_BYTES),
    };
    {
        let files = &mut lock(&person.ledger).files;
        if !files.has_room() {
            return Ok(());
        }
        files.begins(person.user, made);
    }
    fs::create_dir_all(&person.files)?;
    let path = person.files.join(format!("{:016x}.bin", made.seed));
    fs::write(&path, made.bytes()).with_context(|| format!("write {}", path.display()))?;
    desk.upload = Some(Upload { to, made, path });
    Ok(())
}

/// Sends a file until it is there.
pub(super) async fn upload(
    client: Client,
    person: Person,
    upload: Upload,
) -> Result<UploadedFile, Error> {
    loop {
        let (ledger, user): (&SharedLedger, _) = (&person.ledger, person.user);
        let tell = |at: quipu_client::media::Progress| {
            lock(ledger).files.progress(user, at.done);
        };
        let options = UploadOptions::default();
        match client.upload(upload.to, &upload.path, options, tell).await {
            Err(Error::Offline(_)) => sleep(AGAIN_AFTER).await,
            ended => return ended,
        }
    }
}

/// Takes the next file that somebody has shown, if there is one.
pub(super) fn begin_download(person: &Person, desk: &mut Desk) -> Result<()> {
    let Some((of, hash)) = desk.wanted.pop_front() else {
        return Ok(());
    };
    if let Some(made) = lock(&person.ledger).files.fetches(of, hash) {
        fs::create_dir_all(&person.files)?;
        let path = person.files.join(format!("got-{hash}"));
        desk.download = Some(Download {
            of,
            hash,
            made,
            path,
        });
    }
    Ok(())
}

/// Fetches a file until it is here.
pub(super) async fn download(client: Client, wanted: Download) -> Result<DownloadedFile, Error> {
    loop {
        let fetched = client.download(wanted.of, wanted.hash, &wanted.path, |_| {});
        match fetched.await {
            Err(Error::Offline(_)) => sleep(AGAIN_AFTER).await,
            ended => return ended,
        }
    }
}

/// Compares a file that came with what it must be, byte by byte, and removes it.
pub(super) fn compare(
    path: &Path,
    made: &Made,
    fetched: Result<DownloadedFile, Error>,
) -> Result<(), String> {
    fetched.map_err(|error| error.to_string())?;
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    // A folder that is removed at the end anyway.
    let _ = fs::remove_file(path);
    if bytes == made.bytes() {
        Ok(())
    } else {
        Err("other bytes came than were sent".to_owned())
    }
}
