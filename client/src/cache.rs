//! What the client keeps on disk: account, conversations, messages, outbox, receipts.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use quipu_protocol::event::{Message, Receipt};
use quipu_protocol::id::{ConversationId, Cursor, MessageId};

use crate::config::Config;
use crate::error::Error;
use crate::model::{Account, Arrival, ConversationSummary, LocalMessage, Page};

#[derive(Debug, Clone)]
pub(crate) struct Cache;
#[derive(Debug)]
pub(crate) struct Tables;

impl Cache {
    pub(crate) async fn open(_: &Config) -> Result<Self, Error> {
        Ok(Self)
    }
    pub(crate) async fn run<T>(
        &self,
        f: impl FnOnce(&mut Tables) -> Result<T, Error>,
    ) -> Result<T, Error> {
        f(&mut Tables)
    }
}
impl Tables {
    pub(crate) fn account(&self) -> Option<Account> {
        None
    }
    pub(crate) fn arrivals(&self, _: Cursor, _: usize) -> Result<Vec<Arrival>, Error> {
        Err(Error::Closed)
    }
    pub(crate) fn forget(&self, _: MessageId) -> Result<(), Error> {
        Err(Error::Closed)
    }
    pub(crate) fn outbox(&self, _: ConversationId) -> Result<Vec<LocalMessage>, Error> {
        Err(Error::Closed)
    }
    pub(crate) fn bookmark(&self, _: &str) -> Result<Option<Cursor>, Error> {
        Err(Error::Closed)
    }
    pub(crate) fn set_bookmark(&self, _: &str, _: Cursor) -> Result<(), Error> {
        Err(Error::Closed)
    }
    pub(crate) fn conversations(&self) -> Result<Vec<ConversationSummary>, Error> {
        Err(Error::Closed)
    }
    pub(crate) fn messages(
        &self,
        _: ConversationId,
        _: Page,
        _: usize,
    ) -> Result<Vec<Message>, Error> {
        Err(Error::Closed)
    }
    pub(crate) fn receipts(&self, _: ConversationId) -> Result<Vec<Receipt>, Error> {
        Err(Error::Closed)
    }
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
