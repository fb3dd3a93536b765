//! Makes many accounts at once in the data folder of a gateway that does not run, for load tests.
//!
//! Whoever can write the folder can do this; strangers cannot. The accounts have no password: their devices connect with the
//! tokens that are written to a file.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use quipu_core::record::{Command, CommandKind, Entry, EntryBody, Record};
use quipu_core::row::EntityKey;
use quipu_core::shard::{ShardCount, ShardId};
use quipu_protocol::id::{InvalidId, UserId};

use crate::accounts::NewCredentials;
use crate::folder::{DataFolder, FolderError};
use crate::log::{EmbeddedLog, Log as _};
use crate::offline::{self, DataError};
use crate::store::{FjallStore, Store as _};

/// Accounts in one append to the log.
const BATCH_ACCOUNTS: usize = 4096;

/// Why no accounts were made, or only some: an append that failed may have left the accounts before it.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The data folder, its log or its store cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The prefix and a number make no user name.
    #[error("{0:?} is no user name: {1}")]
    Name(String, InvalidId),
    /// An account of this name exists.
    #[error("the account {0} exists already; choose another --prefix")]
    Taken(UserId),
    /// The tokens file cannot be written.
    #[error("cannot write {}: {why}", path.display())]
    Tokens {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        why: std::io::Error,
    },
}

/// Appends the registrations of `prefix0` to `prefix(count - 1)` to the log of `data`, and writes `name,device,token` lines
/// to `tokens`, a new file that only its owner can read. They take effect when the gateway starts next.
pub fn run(
    data: &Path,
    shards: ShardCount,
    prefix: &str,
    count: u32,
    tokens: &Path,
) -> Result<(), ProvisionError> {
    let names = names(prefix, count)?;
    let folder = match DataFolder::open_existing(data) {
        Err(FolderError::Missing(_)) => DataFolder::open_or_create(data, shards),
        other => other,
    };
    let (log, store) = offline::open(&folder.map_err(DataError::from)?)?;
    refuse_taken(&store, &names)?;
    let shards = log.identity().shards;
    let unwritten = |why| ProvisionError::Tokens {
        path: tokens.into(),
        why,
    };
    let mut lines = BufWriter::new(create_secret(tokens).map_err(unwritten)?);
    for batch in names.chunks(BATCH_ACCOUNTS) {
        let mut entries: BTreeMap<ShardId, Vec<Entry>> = BTreeMap::new();
        for name in batch {
            let (command, line) = registration(*name);
            writeln!(lines, "{line}").map_err(unwritten)?;
            let body = EntryBody::Command(command);
            let entry = Entry { source: None, body };
            entries.entry(shards.of_user(name)).or_default().push(entry);
        }
        append(&log, entries)?;
    }
    lines.flush().map_err(unwritten)
}

fn names(prefix: &str, count: u32) -> Result<Vec<UserId>, ProvisionError> {
    (0..count)
        .map(|number| {
            let name = format!("{prefix}{number}");
            UserId::new(&name).map_err(|error| ProvisionError::Name(name, error))
        })
        .collect()
}

/// An account that the log holds and the store does not yet is not seen here; its registration wins over the new one.
fn refuse_taken(store: &FjallStore, names: &[UserId]) -> Result<(), ProvisionError> {
    for batch in names.chunks(BATCH_ACCOUNTS) {
        let keys: Vec<EntityKey> = batch.iter().copied().map(EntityKey::Account).collect();
        let rows = store.entities(&keys).map_err(DataError::from)?;
        if let Some((name, _)) = batch.iter().zip(rows).find(|(_, row)| row.is_some()) {
            return Err(ProvisionError::Taken(*name));
        }
    }
    Ok(())
}

fn registration(user: UserId) -> (Command, String) {
    let credentials = NewCredentials::random("provisioned".to_owned());
    let token: String = credentials
        .token
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let line = format!("{user},{},{token}", credentials.device);
    let command = Command {
        user,
        device: credentials.device,
        kind: CommandKind::Register {
            request: credentials.request,
            password: None,
            device: credentials.kept,
        },
    };
    (command, line)
}

fn append(log: &EmbeddedLog, entries: BTreeMap<ShardId, Vec<Entry>>) -> Result<(), DataError> {
    let batch = entries
        .into_iter()
        .map(|(shard, entries)| (shard, Record::encode_entries(&entries)))
        .collect();
    Ok(log.append_and_wait(batch).map(drop)?)
}

fn create_secret(path: &Path) -> std::io::Result<std::fs::File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use quipu_core::record::Position;

    use super::*;

    #[test]
    fn every_account_is_in_the_log_once_and_in_the_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (data, tokens) = (folder.path().join("data"), folder.path().join("tokens.csv"));
        run(&data, ShardCount(4), "load-", 50, &tokens).expect("made");
        let lines = std::fs::read_to_string(&tokens).expect("written");
        assert_eq!(lines.lines().count(), 50);
        assert!(
            lines
                .lines()
                .all(|line| line.len() > 64 + 16 && line.starts_with("load-"))
        );

        let opened = DataFolder::open_existing(&data).expect("there");
        let log = EmbeddedLog::open(&opened).expect("sound");
        let mut registered = 0;
        for shard in log.identity().shards.iter() {
            let records = log
                .read(shard, Position::START, 100, 1 << 20)
                .expect("readable");
            for record in records {
                let record =
                    Record::decode(record.position, record.time, &record.payload).expect("valid");
                registered += record.entries.len();
            }
        }
        assert_eq!(registered, 50);
    }

    #[test]
    fn a_prefix_that_makes_no_name_changes_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (data, tokens) = (folder.path().join("data"), folder.path().join("tokens.csv"));
        let error = run(&data, ShardCount(4), "Load", 1, &tokens).expect_err("upper case");
        assert!(matches!(error, ProvisionError::Name(..)), "{error}");
        assert!(!data.exists() && !tokens.exists());
    }
}
