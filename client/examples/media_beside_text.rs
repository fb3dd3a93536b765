//! Measures what files at full rate do to the text of the same session, against a gateway at `QUIPU_SERVER`:
//! `cargo run --release -p quipu-client --example media_beside_text -- [SECONDS] [ROUNDS]`.
//!
//! A round has three phases of SECONDS each: text alone, text whose sender uploads, text whose receiver downloads. Rounds
//! follow each other, so that what the machine does meanwhile meets all three; the latencies of a kind are pooled.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quipu_client::media::{Progress, UploadOptions, UploadedFile};
use quipu_client::protocol::id::{ConversationId, MessageId};
use quipu_client::{Client, ClientEvent, Config, Error, EventStream, Target};
use tokio::sync::watch;

/// Time between two messages: open loop, so that a slow one does not hold back the next.
const INTERVAL: Duration = Duration::from_millis(10);
/// The file.
const FILE_BYTES: usize = 100 << 20;
/// How long the last messages of a phase may take; one that takes longer counts as this.
const LATE: Duration = Duration::from_secs(10);
/// Text before the first round, unmeasured.
const WARM_UP: Duration = Duration::from_secs(2);

/// Two users, and the conversation that they have.
struct Pair {
    ana: Client,
    ben: Client,
    ben_name: Target,
    conversation: ConversationId,
    folder: PathBuf,
}

#[derive(Clone, Copy)]
enum Kind {
    Upload,
    Download,
}

/// What was carried beside the text.
#[derive(Default)]
struct Carried {
    files: u32,
    time: Duration,
}

impl Carried {
    fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.time += other.time;
    }

    fn show(&self, what: &str) {
        let bytes = f64::from(self.files) * FILE_BYTES as f64;
        let rate = bytes / 1e6 / self.time.as_secs_f64();
        println!("{what}: {} files of 100 MiB at {rate:.0} MB/s", self.files);
    }
}

async fn join(name: &str) -> Result<Client, Error> {
    let server = std::env::var("QUIPU_SERVER").unwrap_or_else(|_| "127.0.0.1:4433".into());
    let client = Client::open(Config {
        server,
        ..Config::default()
    })
    .await?;
    client.register(name, "correct horse battery").await?;
    Ok(client)
}

impl Pair {
    async fn meet(folder: PathBuf) -> Result<Self, Error> {
        let run = std::process::id();
        let (ana, ben) = (format!("ana-{run}"), format!("ben-{run}"));
        let (ana, ben_name) = (join(&ana).await?, Target::user(&ben)?);
        let ben = join(&ben).await?;
        let Target::User(peer) = ben_name else {
            return Err(Error::Invalid("ben is a user".into()));
        };
        let conversation = ana.open_direct(peer).await?;
        Ok(Self {
            ana,
            ben,
            ben_name,
            conversation,
            folder,
        })
    }

    /// Sends for so long, and gives how long each message took to the other side.
    async fn text(&self, time: Duration) -> Result<Vec<Duration>, Error> {
        let (tell, told) = watch::channel(None);
        let receiving = tokio::spawn(receive(self.ben.events(), told));
        let until = Instant::now() + time;
        let mut ticks = tokio::time::interval(INTERVAL);
        let mut sent = Vec::new();
        while Instant::now() < until {
            let due = ticks.tick().await;
            let message = self.ana.send(self.ben_name, "a word beside a film").await?;
            // From when it was due, so that waiting for ourselves counts as well.
            sent.push((message.id, due.into_std()));
        }
        let _ = tell.send(Some(sent.len()));
        let arrived = receiving.await.unwrap_or_default();
        let took = sent.into_iter().map(|(id, due)| {
            let at = arrived.get(&id);
            at.map_or(LATE, |at| *at - due)
        });
        Ok(took.collect())
    }

    /// The same while files are carried, by a task of their own, as in any program.
    async fn text_beside(
        self: &Arc<Self>,
        kind: Kind,
        film: &UploadedFile,
        turn: usize,
        time: Duration,
    ) -> Result<(Vec<Duration>, Carried), Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let (pair, film, until) = (Arc::clone(self), film.clone(), Arc::clone(&stop));
        let carrying = tokio::spawn(async move {
            match kind {
                Kind::Upload => pair.upload_until(turn, &until).await,
                Kind::Download => pair.download_until(&film, &until).await,
            }
        });
        let taken = self.text(time).await;
        stop.store(true, Ordering::Relaxed);
        let carried = carrying.await.unwrap_or(Err(Error::Closed));
        Ok((taken?, carried?))
    }

    /// Uploads different files until it is told to stop.
    async fn upload_until(&self, turn: usize, stop: &AtomicBool) -> Result<Carried, Error> {
        let mut carried = Carried::default();
        while !stop.load(Ordering::Relaxed) {
            let film = self.film(&format!("{turn} {}", carried.files)).await?;
            let mut clock = Clock::default();
            let progress = |progress| clock.tell(progress);
            let options = UploadOptions::default();
            self.ana
                .upload(self.conversation, &film, options, progress)
                .await?;
            carried.files += 1;
            carried.time += clock.time();
        }
        Ok(carried)
    }

    async fn download_until(
        &self,
        film: &UploadedFile,
        stop: &AtomicBool,
    ) -> Result<Carried, Error> {
        let path = self.folder.join("copy.bin");
        let mut carried = Carried::default();
        while !stop.load(Ordering::Relaxed) {
            let mut clock = Clock::default();
            let progress = |progress| clock.tell(progress);
            let download = self
                .ben
                .download(film.conversation, film.hash, &path, progress);
            download.await?;
            carried.files += 1;
            carried.time += clock.time();
        }
        Ok(carried)
    }

    /// Another film in the place of the last one: only its beginning differs, so that the disk has nothing to do for it.
    async fn film(&self, name: &str) -> Result<PathBuf, Error> {
        let (path, name) = (self.folder.join("film.bin"), name.to_owned());
        // Not in a thread that carries messages.
        let made = tokio::task::spawn_blocking(move || make_film(&path, &name).map(|()| path));
        let failed = |error: String| Error::Storage(error);
        let made = made.await.map_err(|error| failed(error.to_string()))?;
        made.map_err(|error| failed(error.to_string()))
    }
}

fn make_film(path: &Path, name: &str) -> std::io::Result<()> {
    if !path.exists() {
        let mut film = File::create(path)?;
        film.write_all(&vec![7; FILE_BYTES])?;
        film.sync_all()?;
    }
    let mut film = OpenOptions::new().write(true).open(path)?;
    writeln!(film, "{} {name}", std::process::id())
}

/// Times a transfer from its first byte on: what the client does before is not the connection's.
#[derive(Default)]
struct Clock {
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Clock {
    fn tell(&mut self, _: Progress) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    fn time(&self) -> Duration {
        self.first
            .zip(self.last)
            .map_or(Duration::ZERO, |(first, last)| last - first)
    }
}

/// Notes when messages arrive, until as many have come as it is told, or no more come.
async fn receive(
    mut events: EventStream,
    mut told: watch::Receiver<Option<usize>>,
) -> HashMap<MessageId, Instant> {
    let mut arrived = HashMap::new();
    while told.borrow().is_none_or(|count| arrived.len() < count) {
        tokio::select! {
            event = tokio::time::timeout(LATE, events.next()) => match event {
                Ok(Some(ClientEvent::Message { message, .. })) => {
                    arrived.insert(message.id, Instant::now());
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            },
            changed = told.changed() => if changed.is_err() { break },
        }
    }
    arrived
}

/// Prints what the text took, and gives the p99 in seconds.
fn show(what: &str, taken: &mut [Duration]) -> f64 {
    taken.sort_unstable();
    let at = |share: f64| {
        let last = taken.len().saturating_sub(1) as f64;
        let found = taken.get((last * share) as usize);
        found.copied().unwrap_or_default().as_secs_f64() * 1e3
    };
    let (p50, p90, p99) = (at(0.5), at(0.9), at(0.99));
    println!(
        "{what}: {} messages, p50 {p50:.2} ms, p90 {p90:.2} ms, p99 {p99:.2} ms",
        taken.len(),
    );
    p99
}

async fn measure(pair: &Arc<Pair>, time: Duration, rounds: usize) -> Result<(), Error> {
    let film = pair.film("kept").await?;
    let options = UploadOptions::default();
    let film = pair.ana.upload(pair.conversation, &film, options, |_| {});
    let film = film.await?;
    pair.text(WARM_UP).await?;
    let (mut alone, mut up, mut down) = (Vec::new(), Vec::new(), Vec::new());
    let (mut uploads, mut downloads) = (Carried::default(), Carried::default());
    for turn in 0..rounds {
        alone.extend(pair.text(time).await?);
        let (taken, carried) = pair.text_beside(Kind::Upload, &film, turn, time).await?;
        up.extend(taken);
        uploads.add(&carried);
        let (taken, carried) = pair.text_beside(Kind::Download, &film, turn, time).await?;
        down.extend(taken);
        downloads.add(&carried);
    }
    let alone = show("alone           ", &mut alone);
    let up = show("beside uploads  ", &mut up);
    let down = show("beside downloads", &mut down);
    uploads.show("uploads         ");
    downloads.show("downloads       ");
    println!(
        "p99 beside / alone: uploads {:.2}, downloads {:.2}",
        up / alone,
        down / alone
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let number = |at| std::env::args().nth(at).and_then(|text| text.parse().ok());
    let time = Duration::from_secs(number(1).unwrap_or(5));
    let rounds = number(2).unwrap_or(5) as usize;
    let folder = std::env::temp_dir().join(format!("quipu-media-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| Error::Storage(error.to_string()))?;
    let pair = Arc::new(Pair::meet(folder.clone()).await?);
    let measured = measure(&pair, time, rounds).await;
    let _ = std::fs::remove_dir_all(&folder);
    pair.ana.close().await;
    pair.ben.close().await;
    measured
}
