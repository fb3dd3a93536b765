//! One life of a person's client, from its opening to its end.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use quipu_client::media::{DownloadedFile, UploadedFile};
use quipu_client::protocol::event::{Message, Rich};
use quipu_client::protocol::id::{ConversationId, MessageId, Seq};
use quipu_client::{Arrival, Client, ClientEvent, Error, EventStream, Page, Tail, Target};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::desk::Desk;
use super::{Person, Phase, acts, files, lock};
use crate::crash::ledger::{Act, Observer, View};

/// Messages of one person that wait for their ack at once; at the limit it stops typing, as people do.
const UNACKED_MAX: usize = 32;
/// Longest pause between two messages of one person, in milliseconds.
const TYPING_PAUSE_MS_MAX: u64 = 20;
/// Longest pause between two changes of one person, in milliseconds.
const ACT_PAUSE_MS_MAX: u64 = 150;
/// Longest pause between two files of one person, in milliseconds.
const FILE_PAUSE_MS_MAX: u64 = 400;
/// One message in this many is long.
const LONG_ONE_IN: u32 = 50;
/// Bytes of a long one.
const LONG_BYTES: usize = 6 * 1024;
/// A client with a data folder lives this long, in milliseconds, before it is restarted.
const CLIENT_LIFE_MS: std::ops::Range<u64> = 1_500..6_000;
/// How long a client may take to show what others have changed, once everything is quiet.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
/// Messages of a page of the cache.
const PAGE: usize = 256;
/// Pause between two looks at that.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Something that was waited for.
enum Done {
    Ack(ConversationId, MessageId, Result<Seq, Error>),
    Act(Act, Result<(), Error>),
    Upload(Result<UploadedFile, Error>),
    Download(Result<DownloadedFile, Error>),
}

/// A client that lives.
pub(super) struct Life<'a> {
    person: &'a Person,
    client: &'a Client,
    desk: &'a mut Desk,
    rng: &'a mut StdRng,
    waits: JoinSet<Done>,
    next_message: Instant,
    next_act: Instant,
    next_file: Instant,
}

impl<'a> Life<'a> {
    /// Goes on with what the life before has left on the desk.
    pub(super) fn new(
        person: &'a Person,
        client: &'a Client,
        desk: &'a mut Desk,
        rng: &'a mut StdRng,
    ) -> Self {
        let now = Instant::now();
        let mut life = Self {
            person,
            client,
            desk,
            rng,
            waits: JoinSet::new(),
            next_message: now,
            next_act: now,
            next_file: now,
        };
        for (conversation, id) in life.desk.unacked.clone() {
            life.wait_acked(conversation, id);
        }
        life.ask();
        life.transfer();
        life
    }

    /// From the opening of a client to its end; whether the run is over as well.
    pub(super) async fn run(mut self, phase: &mut watch::Receiver<Phase>) -> Result<bool> {
        let mut tail: Tail = self.client.tail(self.desk.read_up_to);
        let mut events: EventStream = self.client.events();
        let end = match &self.person.data {
            Some(_) => Duration::from_millis(self.rng.random_range(CLIENT_LIFE_MS)),
            None => Duration::from_secs(24 * 60 * 60),
        };
        let end = Instant::now() + end;
        loop {
            let now = *phase.borrow_and_update();
            if now == Phase::Over {
                self.look_at_the_cache().await?;
                self.look_at_pulled_groups().await?;
                return Ok(true);
            }
            let types = now == Phase::Typing;
            let next_file = if self.person.uploads && self.desk.upload.is_none() && types {
                self.next_file
            } else {
                end
            };
            tokio::select! {
                page = tail.next() => self.read(page.context("read the tail")?).await?,
                event = events.next() => self.see(event).await?,
                Some(done) = self.waits.join_next() => self.take(done.context("a wait panicked")?).await?,
                () = sleep_until(self.next_message), if types && self.desk.unacked.len() < UNACKED_MAX => {
                    self.type_one().await?;
                }
                () = sleep_until(self.next_act), if types && self.desk.act.is_none() => self.act().await?,
                () = sleep_until(next_file), if next_file < end => self.send_file()?,
                () = sleep_until(end) => {
                    self.waits.shutdown().await;
                    return Ok(false);
                }
                changed = phase.changed() => changed.context("the run ended without a word")?,
            }
        }
    }

    async fn read(&mut self, page: Vec<Arrival>) -> Result<()> {
        for arrival in page {
            let message = &arrival.message;
            self.desk.read_up_to = arrival.inbox_seq.cursor();
            self.person.shown(View::Tail, arrival.inbox_seq, message);
            let is_own = message.from == self.person.user;
            if !is_own {
                self.client
                    .mark_read(message.conversation, message.seq)
                    .await?;
            }
            if self.person.is_in(&message.conversation) {
                self.desk.read(message, is_own);
            }
        }
        self.begin_download()
    }

    async fn see(&mut self, event: Option<ClientEvent>) -> Result<()> {
        let user = self.person.user;
        match event {
            Some(ClientEvent::Message { inbox_seq, message }) => {
                self.person.shown(View::Live, inbox_seq, &message);
                Ok(())
            }
            Some(ClientEvent::Noticed(message)) => self.notice(&message).await,
            Some(ClientEvent::Refused { id, refusal, .. }) => {
                bail!("{user}: the gateway refused {id}: {refusal:?}")
            }
            // The tail sees what matters of these.
            Some(_) => Ok(()),
            None => bail!("{user}: the event stream ended"),
        }
    }

    /// A message of a pulled group, which the tail does not see.
    async fn notice(&mut self, message: &Message) -> Result<()> {
        let user = self.person.user;
        lock(&self.person.ledger).pulled.noticed(user, message);
        let is_own = message.from == user;
        if !is_own {
            self.client
                .mark_read(message.conversation, message.seq)
                .await?;
        }
        self.desk.read(message, is_own);
        self.begin_download()
    }

    fn begin_download(&mut self) -> Result<()> {
        if self.desk.download.is_none() {
            files::begin_download(self.person, self.desk)?;
            self.fetch();
        }
        Ok(())
    }

    async fn take(&mut self, done: Done) -> Result<()> {
        match done {
            Done::Ack(conversation, id, seq) => {
                let user = self.person.user;
                let seq = seq.with_context(|| format!("{user}: wait for the ack of {id}"))?;
                lock(&self.person.ledger).acked(conversation, seq.get(), id);
                self.desk.unacked.retain(|(_, waiting)| *waiting != id);
            }
            Done::Act(act, answer) => {
                self.desk.act = None;
                self.desk.queued = None;
                acts::answered(self.person, self.desk, &act, answer)?;
            }
            Done::Upload(uploaded) => self.show_file(uploaded?).await?,
            Done::Download(fetched) => {
                if let Some(wanted) = self.desk.download.take() {
                    let same = files::compare(&wanted.path, &wanted.made, fetched);
                    let mut ledger = lock(&self.person.ledger);
                    ledger.files.fetched(wanted.of, wanted.hash, same);
                }
                files::begin_download(self.person, self.desk)?;
                self.fetch();
            }
        }
        Ok(())
    }

    /// To a friend, to a group that it stays in, or to one that it is in for a while.
    fn target(&mut self, stays_only: bool) -> (Target, ConversationId) {
        let (friends, stays) = (&self.person.friends, &self.person.stays);
        let inside = self.desk.inside.iter().filter(|_| !stays_only);
        let groups: Vec<ConversationId> = stays.iter().chain(inside).copied().collect();
        let at = self.rng.random_range(0..friends.len() + groups.len());
        match friends.get(at) {
            Some(friend) => {
                let conversation = ConversationId::direct(&self.person.user, friend);
                (Target::User(*friend), conversation)
            }
            None => {
                let group = groups[at - friends.len()];
                (Target::Conversation(group), group)
            }
        }
    }

    async fn type_one(&mut self) -> Result<()> {
        let user = self.person.user;
        let (target, conversation) = self.target(false);
        let mut text = format!(
            "{user} to {conversation}: {:016x}",
            self.rng.random::<u64>()
        );
        if self.rng.random_ratio(1, LONG_ONE_IN) {
            text.push_str(&".".repeat(LONG_BYTES));
        }
        let queued = self.client.send(target, text).await;
        let queued = queued.with_context(|| format!("{user}: type"))?;
        self.typed(conversation, queued.id);
        let pause = self.rng.random_range(0..TYPING_PAUSE_MS_MAX);
        self.next_message = Instant::now() + Duration::from_millis(pause);
        Ok(())
    }

    fn typed(&mut self, conversation: ConversationId, id: MessageId) {
        lock(&self.person.ledger).typed(self.person.user, conversation, id);
        self.desk.unacked.push_back((conversation, id));
        self.wait_acked(conversation, id);
    }

    fn wait_acked(&mut self, conversation: ConversationId, id: MessageId) {
        let client = self.client.clone();
        self.waits.spawn(async move {
            let seq = client.wait_acked(id).await;
            Done::Ack(conversation, id, seq)
        });
    }

    async fn act(&mut self) -> Result<()> {
        let pause = self.rng.random_range(0..ACT_PAUSE_MS_MAX);
        self.next_act = Instant::now() + Duration::from_millis(pause);
        if let Some(act) = acts::choose(self.person, self.desk, self.rng) {
            lock(&self.person.ledger).changes.asked();
            let queued = acts::queue(self.client, &act).await;
            self.desk.queued = queued.with_context(|| format!("{}: change", self.person.user))?;
            self.desk.act = Some(act);
            self.ask();
        }
        Ok(())
    }

    /// Asks for the change on the desk, or waits for it if the client does that.
    fn ask(&mut self) {
        if let Some(act) = self.desk.act.clone() {
            let (client, queued) = (self.client.clone(), self.desk.queued);
            self.waits.spawn(async move {
                let (act, answer) = match queued {
                    Some(id) => acts::wait(client, act, id).await,
                    None => acts::perform(client, act).await,
                };
                Done::Act(act, answer)
            });
        }
    }

    fn send_file(&mut self) -> Result<()> {
        let pause = self.rng.random_range(0..FILE_PAUSE_MS_MAX);
        self.next_file = Instant::now() + Duration::from_millis(pause);
        let (_, to) = self.target(true);
        // A file needs a conversation that is there.
        if lock(&self.person.ledger).is_written_to(&to) {
            files::begin_upload(self.person, self.desk, to, self.rng)?;
            self.send();
        }
        Ok(())
    }

    /// The file is there: a message shows it.
    async fn show_file(&mut self, file: UploadedFile) -> Result<()> {
        let Some(upload) = self.desk.upload.take() else {
            return Ok(());
        };
        let (person, to) = (self.person, upload.to);
        lock(&person.ledger)
            .files
            .acked(person.user, to, file.hash, upload.made);
        let rich = Rich {
            attachments: vec![file.attachment()],
            ..Rich::default()
        };
        let queued = self.client.send_rich(to, rich).await;
        let queued = queued.with_context(|| format!("{}: show a file", person.user))?;
        self.typed(to, queued.id);
        std::fs::remove_file(&upload.path)?;
        Ok(())
    }

    /// Goes on with the files on the desk.
    fn transfer(&mut self) {
        self.send();
        self.fetch();
    }

    fn send(&mut self) {
        if let Some(upload) = self.desk.upload.clone() {
            let (client, person) = (self.client.clone(), self.person.clone());
            self.waits
                .spawn(async move { Done::Upload(files::upload(client, person, upload).await) });
        }
    }

    fn fetch(&mut self) {
        if let Some(wanted) = self.desk.download.clone() {
            let client = self.client.clone();
            self.waits
                .spawn(async move { Done::Download(files::download(client, wanted).await) });
        }
    }

    /// What the first device shows of every changed message in the end.
    async fn look_at_the_cache(&self) -> Result<()> {
        let deadline = Instant::now() + SETTLED_WITHIN;
        let places = lock(&self.person.ledger).changes.places();
        for (conversation, seq) in places {
            if !self.person.is_in(&conversation) {
                continue;
            }
            loop {
                let page = Page::Around(Seq::new(seq)?);
                let found = self.client.messages(conversation, page, 1).await?;
                let found = found.iter().find(|message| message.seq.get() == seq);
                // A cache that is full has forgotten old ones; that it was shown is judged elsewhere.
                let Some(message) = found else { break };
                let observer = Observer::Cache(self.person.user);
                let is_right = lock(&self.person.ledger).changes.is_right(message);
                if is_right || Instant::now() >= deadline {
                    lock(&self.person.ledger).changes.shown(observer, message);
                    break;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// What the first device has kept of groups whose messages come as notices. After the last start of the gateway everybody
    /// has connected anew, and has asked what it missed.
    async fn look_at_pulled_groups(&self) -> Result<()> {
        let user = self.person.user;
        for group in &self.person.stays {
            if !lock(&self.person.ledger).pulled.has(group) {
                continue;
            }
            let mut least = usize::MAX;
            let mut deadline = Instant::now() + SETTLED_WITHIN;
            loop {
                let kept = self.read_cache(*group).await?;
                let missing = {
                    let ledger = &mut *lock(&self.person.ledger);
                    ledger.pulled.kept(user, *group, &kept);
                    ledger.missing_in_pulled(&user, group)
                };
                if missing < least {
                    least = missing;
                    deadline = Instant::now() + SETTLED_WITHIN;
                }
                // What is missing then is the judge's to name.
                if missing == 0 || Instant::now() >= deadline {
                    break;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// All that the first device has of a conversation.
    async fn read_cache(&self, conversation: ConversationId) -> Result<Vec<Message>> {
        // `After` needs a seq; what lies around the first message begins with it.
        let mut page = Page::Around(Seq::FIRST);
        let mut all: Vec<Message> = Vec::new();
        loop {
            let found = self.client.messages(conversation, page, PAGE).await?;
            let Some(last) = found.last().map(|message| message.seq) else {
                return Ok(all);
            };
            page = Page::After(last);
            all.extend(found);
        }
    }
}
