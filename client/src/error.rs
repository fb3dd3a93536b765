//! What can go wrong, one variant per thing that a caller can do about it.

use std::path::PathBuf;

use quipu_protocol::error::{CloseCode, RejectCode};
use quipu_protocol::event::Rejection;
use quipu_protocol::id::UserId;

use crate::events::OfflineReason;
use crate::pin::CertificateChanged;

/// Why a call did not do what it was asked for. Unless a variant says otherwise, nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The arguments break a rule of the protocol or a limit of this crate. Change them.
    #[error("{0}")]
    Invalid(String),
    /// The data folder holds no account yet. Register or log in first.
    #[error("not signed in: register or log in first")]
    NotSignedIn,
    /// The data folder belongs to an account already. Use another folder for another account.
    #[error("this data folder belongs to {0}: use another one for another account")]
    AlreadySignedIn(UserId),
    /// The outbox is full. Wait until the gateway has taken some of it.
    #[error(
        "{messages} messages wait to be sent, which is as many as are kept: connect, or wait until they are sent"
    )]
    OutboxFull {
        /// Messages that wait.
        messages: usize,
    },
    /// As many changes of messages wait as are kept. Wait until the gateway has taken some of them, or forget refused ones.
    #[error(
        "{changes} changes of messages wait, which is as many as are kept: connect, or wait until they are made"
    )]
    ChangesFull {
        /// Changes that wait.
        changes: usize,
    },
    /// A change has no answer yet. It stays in the data folder and is made once, when there is a connection: do not ask again.
    #[error("{0}; the change is kept and will be made when there is a connection")]
    ChangeWaits(String),
    /// There is no connection now. Try again when [`Client::connection`](crate::Client::connection) says online.
    #[error("not connected: {0}")]
    Offline(String),
    /// The gateway refused the account or the device. Trying the same again will not help unless the code says so.
    #[error("the gateway refused ({code}): {reason}")]
    SignInRefused {
        /// Its code.
        code: CloseCode,
        /// Its words.
        reason: String,
    },
    /// The gateway refused this one command or message; the session goes on.
    #[error("refused ({}): {}", .0.code, .0.reason)]
    Refused(Refusal),
    /// The gateway shows another certificate than before. A person must decide.
    #[error(transparent)]
    CertificateChanged(Box<CertificateChanged>),
    /// Another process uses the data folder. Stop it, or use another folder.
    #[error("the data folder {} is in use by another process: stop that one, or choose another folder", .0.display())]
    FolderInUse(PathBuf),
    /// The data folder was written by a newer version. Use that version, or another folder.
    #[error("the cache {} has version {found}, this program knows up to {known}: use a newer one, or another data folder", path.display())]
    FolderVersion {
        /// The cache file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version that this crate reads.
        known: i64,
    },
    /// The data folder cannot be read or written. Free the disk or mend the permissions; the client retries by itself only
    /// what the gateway sends again.
    #[error("the data folder: {0}")]
    Storage(String),
    /// A file that was to be sent, or one that was to be written, cannot be used. What has come of a download stays beside it.
    #[error("{}: {why}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// The network of this machine refused to work (no socket, no such host).
    #[error("the network: {0}")]
    Network(String),
    /// No message of that id is known: it was never queued here, or the cache has forgotten it.
    #[error("no such message")]
    UnknownMessage,
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

/// A refusal by the gateway that will not change by trying again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its code.
    pub code: RejectCode,
    /// Its words, for a person.
    pub reason: String,
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self {
            code: rejection.code,
            reason: rejection.reason,
        }
    }
}

impl From<CertificateChanged> for Error {
    fn from(changed: CertificateChanged) -> Self {
        Self::CertificateChanged(Box::new(changed))
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Storage(error.to_string())
    }
}

impl From<quipu_protocol::id::InvalidId> for Error {
    fn from(error: quipu_protocol::id::InvalidId) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<OfflineReason> for Error {
    fn from(reason: OfflineReason) -> Self {
        match reason {
            OfflineReason::NotSignedIn => Self::NotSignedIn,
            OfflineReason::Unreachable(why) | OfflineReason::NoToken(why) => Self::Offline(why),
            OfflineReason::Refused { code, reason } => Self::SignInRefused { code, reason },
            OfflineReason::CertificateChanged(changed) => Self::CertificateChanged(changed),
            OfflineReason::Replaced => Self::Offline(OfflineReason::Replaced.to_string()),
            OfflineReason::Storage(why) => Self::Storage(why),
            OfflineReason::Closed => Self::Closed,
        }
    }
}
