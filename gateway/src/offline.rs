//! Opens the log and the store of a gateway that does not run, for the commands that work on its data folder.

use crate::folder::{DataFolder, FolderError};
use crate::log::embedded::OpenLogError;
use crate::log::{EmbeddedLog, LogError};
use crate::store::fjall::{CACHE_BYTES_DEFAULT, OpenStoreError};
use crate::store::{FjallStore, StoreError};

/// Why a data folder could not be worked on.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The log cannot be opened.
    #[error(transparent)]
    OpenLog(#[from] OpenLogError),
    /// The store cannot be opened.
    #[error(transparent)]
    OpenStore(#[from] OpenStoreError),
    /// The log cannot be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Opens both, as the next start of the gateway would.
pub(crate) fn open(folder: &DataFolder) -> Result<(EmbeddedLog, FjallStore), DataError> {
    let log = EmbeddedLog::open(folder)?;
    let store = FjallStore::open(folder, CACHE_BYTES_DEFAULT)?;
    Ok((log, store))
}
