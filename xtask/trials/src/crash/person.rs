//! One user of the load: types to its friends, reads everything, and now and then restarts its client.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use quipu_client::protocol::event::Message;
use quipu_client::protocol::id::{ConversationId, Cursor, InboxSeq, MessageId, Seq, UserId};
use quipu_client::{Client, ClientEvent, Config, Error, EventStream, HistoryRange, Tail};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::ledger::{Ledger, Shown, View};

/// Messages of one person that wait for their ack at once; at the limit it stops typing, as people do.
const UNACKED_MAX: usize = 32;
/// Longest pause between two messages of one person, in milliseconds.
const TYPING_PAUSE_MS_MAX: u64 = 20;
/// One message in this many is long.
const LONG_ONE_IN: u32 = 50;
/// Bytes of a long one.
const LONG_BYTES: usize = 6 * 1024;
/// A client with a data folder lives this long, in milliseconds, before it is restarted.
const CLIENT_LIFE_MS: std::ops::Range<u64> = 1_500..6_000;
/// How long one step against a healthy gateway may take.
const STEP_WITHIN: Duration = Duration::from_secs(30);
/// Pause between two tries of something that a restart of the gateway can interrupt.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Messages asked for in one page of history.
const PAGE: usize = 256;

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
    /// Only read.
    Reading,
    /// Leave.
    Over,
}

/// A user and its friends.
pub(crate) struct Person {
    pub(crate) user: UserId,
    pub(crate) friends: Vec<UserId>,
    pub(crate) server: String,
    /// `None`: everything in memory, and never restarted.
    pub(crate) data: Option<PathBuf>,
    pub(crate) seed: u64,
    pub(crate) ledger: SharedLedger,
}

/// The password of everybody.
const PASSWORD: &str = "a long and boring secret";

impl Person {
    /// The same person, for a second task.
    pub(crate) fn again(&self) -> Self {
        Self {
            friends: self.friends.clone(),
            server: self.server.clone(),
            data: self.data.clone(),
            ledger: Arc::clone(&self.ledger),
            ..*self
        }
    }

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
            let over = self
                .one_life(&client, &mut desk, &mut rng, &mut phase)
                .await?;
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

    /// From the opening of a client to its end; whether the run is over as well.
    async fn one_life(
        &self,
        client: &Client,
        desk: &mut Desk,
        rng: &mut StdRng,
        phase: &mut watch::Receiver<Phase>,
    ) -> Result<bool> {
        let mut tail: Tail = client.tail(desk.read_up_to);
        let mut events: EventStream = client.events();
        let mut acks: JoinSet<(ConversationId, MessageId, Result<Seq, Error>)> = JoinSet::new();
        for (conversation, id) in &desk.unacked {
            acks.spawn(wait_acked(client.clone(), *conversation, *id));
        }
        let end = match &self.data {
            Some(_) => Instant::now() + Duration::from_millis(rng.random_range(CLIENT_LIFE_MS)),
            None => Instant::now() + Duration::from_secs(24 * 60 * 60),
        };
        let mut next_message = Instant::now();
        loop {
            let now = *phase.borrow_and_update();
            if now == Phase::Over {
                return Ok(true);
            }
            let types = now == Phase::Typing && desk.unacked.len() < UNACKED_MAX;
            tokio::select! {
                page = tail.next() => {
                    for arrival in page.context("read the tail")? {
                        desk.read_up_to = arrival.inbox_seq.cursor();
                        self.shown(View::Tail, arrival.inbox_seq, &arrival.message);
                        if arrival.message.from != self.user {
                            client.mark_read(arrival.message.conversation, arrival.message.seq).await?;
                        }
                    }
                }
                event = events.next() => match event {
                    Some(ClientEvent::Message { inbox_seq, message }) => {
                        self.shown(View::Live, inbox_seq, &message);
                    }
                    Some(ClientEvent::Refused { id, refusal, .. }) => {
                        bail!("{}: the gateway refused {id}: {refusal:?}", self.user);
                    }
                    // The tail sees what matters of these.
                    Some(_) => {}
                    None => bail!("{}: the event stream ended", self.user),
                },
                Some(ack) = acks.join_next() => {
                    let (conversation, id, seq) = ack.context("wait for an ack")?;
                    let seq = seq.with_context(|| format!("{}: wait for the ack of {id}", self.user))?;
                    lock(&self.ledger).acked(conversation, seq.get(), id);
                    desk.unacked.retain(|(_, waiting)| *waiting != id);
                }
                () = sleep_until(next_message), if types => {
                    let (conversation, id) = self.type_one(client, rng).await?;
                    desk.unacked.push_back((conversation, id));
                    acks.spawn(wait_acked(client.clone(), conversation, id));
                    next_message = Instant::now()
                        + Duration::from_millis(rng.random_range(0..TYPING_PAUSE_MS_MAX));
                }
                () = sleep_until(end) => {
                    acks.shutdown().await;
                    return Ok(false);
                }
                changed = phase.changed() => changed.context("the run ended without a word")?,
            }
        }
    }

    async fn type_one(
        &self,
        client: &Client,
        rng: &mut StdRng,
    ) -> Result<(ConversationId, MessageId)> {
        let friend = self.friends[rng.random_range(0..self.friends.len())];
        let mut text = format!("{} to {friend}: {:016x}", self.user, rng.random::<u64>());
        if rng.random_ratio(1, LONG_ONE_IN) {
            text.push_str(&".".repeat(LONG_BYTES));
        }
        let queued = client
            .send(friend, text)
            .await
            .with_context(|| format!("{}: type", self.user))?;
        let conversation = ConversationId::direct(&self.user, &friend);
        lock(&self.ledger).typed(self.user, conversation, queued.id);
        Ok((conversation, queued.id))
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

    /// Logs in with a new device after everything: it must be given the whole inbox, in the order that the first one saw.
    /// Then reads the histories from the gateway.
    pub(crate) async fn look_with_a_fresh_device(&self, expected: usize) -> Result<()> {
        let client = Client::open(self.config(None)).await?;
        timeout(STEP_WITHIN, client.login(self.user.as_str(), PASSWORD))
            .await
            .context("logging in takes too long")??;
        let mut tail = client.tail(Cursor::START);
        let mut seen = 0;
        while seen < expected {
            let page = timeout(STEP_WITHIN, tail.next()).await;
            let Ok(page) = page else {
                // What is missing is the judge's to name.
                break;
            };
            for arrival in page? {
                self.shown(View::Fresh, arrival.inbox_seq, &arrival.message);
                seen += 1;
            }
        }
        for friend in &self.friends {
            let conversation = ConversationId::direct(&self.user, friend);
            let history = read_history(&client, conversation).await?;
            lock(&self.ledger).history(conversation, history);
        }
        client.close().await;
        Ok(())
    }
}

/// What a person remembers while its client restarts.
#[derive(Debug, Default)]
struct Desk {
    read_up_to: Cursor,
    unacked: VecDeque<(ConversationId, MessageId)>,
}

async fn wait_acked(
    client: Client,
    conversation: ConversationId,
    id: MessageId,
) -> (ConversationId, MessageId, Result<Seq, Error>) {
    let seq = client.wait_acked(id).await;
    (conversation, id, seq)
}

/// A whole history, page by page, as the gateway has it.
async fn read_history(
    client: &Client,
    conversation: ConversationId,
) -> Result<Vec<(u64, MessageId)>> {
    let mut messages: BTreeMap<u64, MessageId> = BTreeMap::new();
    let mut first = None;
    loop {
        let range = HistoryRange {
            first,
            last: None,
            limit: PAGE,
            newest_first: false,
        };
        let page = timeout(STEP_WITHIN, client.history(conversation, range))
            .await
            .context("a page of history takes too long")??;
        messages.extend(page.messages.iter().map(|one| (one.seq.get(), one.id)));
        match page.messages.last() {
            Some(last) if page.more => first = Some(last.seq.next()),
            _ => return Ok(messages.into_iter().collect()),
        }
    }
}
