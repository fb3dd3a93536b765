//! Measures what a full-rate upload does to the text of the same session:
//! `cargo run --release -p quipu-client --example media_beside_text -- [SECONDS]`, against a gateway at `QUIPU_SERVER`.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quipu_client::media::UploadOptions;
use quipu_client::protocol::id::MessageId;
use quipu_client::{Client, ClientEvent, Config, Error, Target};

/// Time between two messages: open loop, so that a slow one does not hold back the next.
const INTERVAL: Duration = Duration::from_millis(10);
/// The file.
const FILE_BYTES: usize = 100 << 20;

type Sent = Arc<Mutex<HashMap<MessageId, Instant>>>;

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

/// Sends for so long, and gives how long each message took to the other side, ascending.
async fn latencies(
    from: &Client,
    to: &Client,
    target: Target,
    time: Duration,
) -> Result<Vec<Duration>, Error> {
    let sent: Sent = Arc::default();
    let mut events = to.events();
    let waiting = Arc::clone(&sent);
    let receiving = tokio::spawn(async move {
        let mut taken = Vec::new();
        let quiet = Duration::from_secs(3);
        while let Ok(Some(event)) = tokio::time::timeout(quiet, events.next()).await {
            let ClientEvent::Message { message, .. } = event else {
                continue;
            };
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = waiting.remove(&message.id) {
                taken.push(at.elapsed());
            }
        }
        taken
    });
    let until = Instant::now() + time;
    let mut ticks = tokio::time::interval(INTERVAL);
    while Instant::now() < until {
        let due = ticks.tick().await;
        let message = from.send(target, "a word beside a film").await?;
        let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
        // From when it was due, so that waiting for ourselves counts as well.
        sent.insert(message.id, due.into_std());
    }
    let mut taken = receiving.await.unwrap_or_default();
    taken.sort_unstable();
    Ok(taken)
}

fn show(what: &str, taken: &[Duration]) -> Duration {
    let at = |share: f64| {
        let last = taken.len().saturating_sub(1) as f64;
        let found = taken.get((last * share) as usize);
        found.copied().unwrap_or_default()
    };
    let (p50, p99) = (at(0.5), at(0.99));
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{what}: {} messages, p50 {:.2} ms, p99 {:.2} ms",
        taken.len(),
        ms(p50),
        ms(p99)
    );
    p99
}

/// Uploads different files until it is told to stop; returns bytes and seconds.
async fn upload_on(client: Client, target: Target, folder: &Path) -> Result<(), Error> {
    let Target::User(peer) = target else {
        return Ok(());
    };
    let conversation = client.open_direct(peer).await?;
    let path = folder.join("film.bin");
    for turn in 0..u32::MAX {
        let other = path.clone();
        // Not in a thread that carries messages.
        let made = tokio::task::spawn_blocking(move || make_another(&other, turn)).await;
        made.map_err(|error| Error::Storage(error.to_string()))?
            .map_err(|error| Error::Storage(error.to_string()))?;
        let mut first = None;
        let options = UploadOptions::default();
        let upload = client.upload(conversation, &path, options, |_| {
            first.get_or_insert_with(Instant::now);
        });
        upload.await?;
        let seconds = first.map_or(0.0, |first| first.elapsed().as_secs_f64());
        let rate = FILE_BYTES as f64 / 1e6 / seconds;
        println!("  uploaded 100 MiB in {seconds:.2} s: {rate:.0} MB/s");
    }
    Ok(())
}

/// Another film in the place of the last one: only its beginning differs, so that the disk has nothing to do for it.
fn make_another(path: &Path, turn: u32) -> std::io::Result<()> {
    let mut film = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    film.write_all(&std::process::id().to_be_bytes())?;
    film.write_all(&turn.to_be_bytes())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(20));
    let run = std::process::id();
    let (ana, ben) = (
        join(&format!("ana-{run}")).await?,
        join(&format!("ben-{run}")).await?,
    );
    let target = Target::user(&format!("ben-{run}"))?;
    let folder = std::env::temp_dir().join(format!("quipu-media-{run}"));
    std::fs::create_dir_all(&folder).map_err(|error| Error::Storage(error.to_string()))?;

    let film = File::create(folder.join("film.bin")).and_then(|mut film| {
        film.write_all(&vec![run as u8; FILE_BYTES])?;
        film.sync_all()
    });
    film.map_err(|error| Error::Storage(error.to_string()))?;
    latencies(&ana, &ben, target, Duration::from_secs(2)).await?;
    let idle = show(
        "alone         ",
        &latencies(&ana, &ben, target, time).await?,
    );
    let films = folder.clone();
    let uploader = ana.clone();
    let uploading = tokio::spawn(async move { upload_on(uploader, target, &films).await });
    let beside = show(
        "beside uploads",
        &latencies(&ana, &ben, target, time).await?,
    );
    uploading.abort();
    println!(
        "p99 beside / alone: {:.2}",
        beside.as_secs_f64() / idle.as_secs_f64()
    );
    let _ = std::fs::remove_dir_all(&folder);
    ana.close().await;
    ben.close().await;
    Ok(())
}
