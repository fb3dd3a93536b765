//! One user of the load: types to its friends and groups, reads everything, and now and then restarts its client.

mod acts;
mod desk;
mod files;
mod fresh;
mod life;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use quipu_client::protocol::event::Message;
use quipu_client::protocol::id::{ConversationId, InboxSeq, UserId};
use quipu_client::{Client, Config, Error};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use self::desk::Desk;
use self::life::Life;
use super::ledger::{Ledger, Shown, View};

/// How long one step against a healthy gateway may take.
const STEP_WITHIN: Duration = Duration::from_secs(30);
/// Pause between two tries of something that a restart of the gateway can interrupt.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// The password of everybody.
const PASSWORD: &str = "a long and boring secret";

/// All use it for moments only, and never across an await.
pub(crate) type SharedLedger = Arc<Mutex<Ledger>>;

/// Locks the ledger. A panic elsewhere fails the run anyway.
pub(crate) fn lock(ledger: &SharedLedger) -> std::sync::MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What everybody does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Type and read.
    Typing,
    /// Only read, and bring to an end what was begun.
    Reading,
    /// Leave.
    Over,
}

/// A user, and where it writes.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) user: UserId,
    pub(crate) friends: Vec<UserId>,
    /// Groups that it is in from the beginning to the end.
    pub(crate) stays: Vec<ConversationId>,
    /// Groups that it joins and leaves.
    pub(crate) wanders: Vec<ConversationId>,
    /// Groups that it owns, and whose history it reads at the end.
    pub(crate) owns: Vec<ConversationId>,
    /// Whether it sends files.
    pub(crate) uploads: bool,
    pub(crate) server: String,
    /// `None`: everything in memory, and never restarted.
    pub(crate) data: Option<PathBuf>,
    /// For files on their way.
    pub(crate) files: PathBuf,
    pub(crate) seed: u64,
    pub(crate) ledger: SharedLedger,
}

impl Person {
    /// A client of this person. It notices a killed gateway quickly, because there are many and the run is short.
    fn config(&self, data: Option<PathBuf>) -> Config {
        Config {
            data,
            server: self.server.clone(),
            backoff_base: Duration::from_millis(20),
            backoff_max: Duration::from_millis(200),
            connect_timeout: Duration::from_secs(2),
            answer_timeout: Duration::from_millis(500),
            initial_rtt: Duration::from_millis(30),
            receipt_interval: Duration::from_millis(100),
            network_poll: None,
            backoff_seed: Some(self.seed),
            ..Config::default()
        }
    }

    /// Makes the account. Friends can only be written to once they have one.
    pub(crate) async fn register(&self) -> Result<Client> {
        let client = self.open().await?;
        let registering = client.register(self.user.as_str(), PASSWORD);
        timeout(STEP_WITHIN, registering)
            .await
            .context("registering takes too long")?
            .with_context(|| format!("register {}", self.user))?;
        Ok(client)
    }

    /// Types and reads until the phase says otherwise.
    pub(crate) async fn live(
        self,
        mut client: Client,
        mut phase: watch::Receiver<Phase>,
    ) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut desk = Desk::default();
        loop {
            let life = Life::new(&self, &client, &mut desk, &mut rng);
            let over = life.run(&mut phase).await?;
            if over {
                client.close().await;
                return Ok(());
            }
            // Half of the restarts are polite.
            if rng.random() {
                client.close().await;
            }
            drop(client);
            client = self.open().await?;
        }
    }

    /// Opens the client, waiting until an earlier one has let go of the folder.
    async fn open(&self) -> Result<Client> {
        let deadline = Instant::now() + STEP_WITHIN;
        loop {
            match Client::open(self.config(self.data.clone())).await {
                Ok(client) => return Ok(client),
                Err(Error::FolderInUse(_)) if Instant::now() < deadline => {
                    sleep(AGAIN_AFTER).await;
                }
                Err(error) => return Err(error).context(format!("open {}", self.user)),
            }
        }
    }

    fn shown(&self, view: View, inbox_seq: InboxSeq, message: &Message) {
        let shown = Shown {
            inbox_seq: inbox_seq.get(),
            conversation: message.conversation,
            seq: message.seq.get(),
            id: message.id,
        };
        lock(&self.ledger).shown(self.user, view, shown);
    }

    /// Whether it is a member of this conversation to the end.
    fn is_in(&self, conversation: &ConversationId) -> bool {
        lock(&self.ledger).stays(conversation, &self.user)
    }
}
