//! Measures the embedded log and store: `cargo run --release -p quipu-gateway --example storage`.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use quipu_core::row::{EntityKey, HistoryRow, InboxKind, InboxRow, Row};
use quipu_core::shard::{ShardCount, ShardId};
use quipu_gateway::folder::DataFolder;
use quipu_gateway::log::{EmbeddedLog, Log, LogError};
use quipu_gateway::store::{
    FjallStore, HistoryRange, Store, StoreError, WriteBehind, WriteBehindOptions,
};
use quipu_protocol::event::{Content, Message};
use quipu_protocol::id::{
    ClientSeq, ConversationId, Cursor, DeviceId, InboxSeq, MessageId, Seq, TimestampMs, UserId,
};

const SHARDS: ShardCount = ShardCount(64);
const RECORD_BYTES: usize = 220;
const TEXT_BYTES: usize = 120;
const MEASURE: Duration = Duration::from_secs(3);
const USERS: u64 = 20_000;
/// Messages in one commit, as a processor's turn under load.
const TURN_MESSAGES: u64 = 64;
const CACHE_BYTES: u64 = 128 * 1024 * 1024;

fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let folder = DataFolder::open_or_create(dir.path(), SHARDS)?;
    let log = EmbeddedLog::open(&folder)?;
    println!("log: records of {RECORD_BYTES} B, each append waits for its fsync");
    for (records, outstanding) in [(1, 1), (16, 1), (256, 1), (1, 256), (64, 8)] {
        measure_log(&log, records, outstanding)?;
    }
    let store = FjallStore::open(&folder, CACHE_BYTES)?;
    println!("\nfjall alone: {TURN_MESSAGES} messages a commit, 6 rows each, fsync every second");
    measure_store(&store, 1)?;
    let store = WriteBehind::new(store, WriteBehindOptions::default())?;
    println!("\nwrite-behind over fjall: the same");
    measure_store(&store, 1_000_000)?;
    let stats = store.stats();
    println!(
        "  flushes {}, rows written {} of {}, {:.1} ms a flush, stalls {} ({} ms)",
        stats.flushes.load(Relaxed),
        stats.flushed_rows.load(Relaxed),
        stats.rows.load(Relaxed),
        stats.flush_us.load(Relaxed) as f64 / 1e3 / stats.flushes.load(Relaxed).max(1) as f64,
        stats.stalls.load(Relaxed),
        stats.stall_us.load(Relaxed) / 1000,
    );
    measure_reads(&store)?;
    let started = Instant::now();
    drop((store, log, folder));
    println!("\nclose   {:?}", started.elapsed());
    let folder = DataFolder::open_or_create(dir.path(), SHARDS)?;
    let started = Instant::now();
    let log = EmbeddedLog::open(&folder)?;
    println!("open log   {:?}", started.elapsed());
    let started = Instant::now();
    let store = FjallStore::open(&folder, CACHE_BYTES)?;
    println!("open store {:?}", started.elapsed());
    drop((store, log));
    Ok(())
}

/// Keeps `outstanding` appends of `records` records under way.
fn measure_log(log: &EmbeddedLog, records: u64, outstanding: usize) -> anyhow::Result<()> {
    let payload = Bytes::from(vec![7; RECORD_BYTES]);
    let (tell, told) = mpsc::channel();
    let mut next = 0;
    let mut append = || -> Result<(), LogError> {
        let batch = (0..records).map(|n| {
            let shard = (next + n) % u64::from(SHARDS.0);
            (ShardId(shard as u16), payload.clone())
        });
        let batch = batch.collect();
        next += records;
        let (tell, asked) = (tell.clone(), Instant::now());
        let done = move |answer: Result<_, LogError>| {
            // The receiver outlives every append.
            let _ = tell.send(answer.map(|_: Vec<_>| asked.elapsed()));
        };
        log.append(batch, Box::new(done))
    };
    let syncs = log.stats().syncs.load(Relaxed);
    let started = Instant::now();
    for _ in 0..outstanding {
        append()?;
    }
    let mut waits = Vec::new();
    while started.elapsed() < MEASURE {
        waits.push(told.recv()??);
        append()?;
    }
    let elapsed = started.elapsed().as_secs_f64();
    let syncs = log.stats().syncs.load(Relaxed) - syncs;
    for _ in 0..outstanding {
        told.recv()??;
    }
    waits.sort_unstable();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
    println!(
        "  batch {records:3}, {outstanding:3} outstanding: {:9.0} records/s, {:6.0} fsyncs/s, p50 {:?} p99 {:?} max {:?}",
        waits.len() as f64 * records as f64 / elapsed,
        syncs as f64 / elapsed,
        at(0.5),
        at(0.99),
        at(1.0),
    );
    Ok(())
}

fn user(number: u64) -> anyhow::Result<UserId> {
    UserId::new(&format!("user{}", number % USERS)).context("a user")
}

/// A message between two of the users: history row, two inbox rows, three entities.
fn message_rows(number: u64, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let (from, to) = (user(number)?, user(number * 7 + 1)?);
    let conversation = ConversationId::direct(&from, &to);
    let seq = Seq::new(number)?;
    rows.push(Row::History(HistoryRow(Message {
        conversation,
        seq,
        id: MessageId([number as u8; 16]),
        from,
        from_device: DeviceId::new(7)?,
        client_seq: ClientSeq::new(number)?,
        to: Some(to),
        sent_at: TimestampMs(number),
        content: Content::Text("x".repeat(TEXT_BYTES)),
        state: None,
    })));
    for user in [from, to] {
        rows.push(Row::Inbox(InboxRow {
            user,
            inbox_seq: InboxSeq::new(number)?,
            kind: InboxKind::Message { conversation, seq },
        }));
        rows.push(Row::Entity(
            EntityKey::Inbox(user),
            Bytes::from_static(b"12345678"),
        ));
    }
    let entity = Bytes::from(vec![3; 300]);
    rows.push(Row::Entity(EntityKey::Conversation(conversation), entity));
    Ok(())
}

fn measure_store(store: &dyn Store, first: u64) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut synced = Instant::now();
    let (mut number, mut worst) = (first, Duration::ZERO);
    let mut rows_total = 0;
    while started.elapsed() < 2 * MEASURE {
        let mut rows = Vec::new();
        for _ in 0..TURN_MESSAGES {
            message_rows(number, &mut rows)?;
            number += 1;
        }
        rows.push(Row::Shard(ShardId(0), Bytes::from(vec![1; 1000])));
        rows_total += rows.len();
        let asked = Instant::now();
        store.commit(rows)?;
        worst = worst.max(asked.elapsed());
        if synced.elapsed() > Duration::from_secs(1) {
            store.sync()?;
            synced = Instant::now();
        }
    }
    let asked = Instant::now();
    store.sync()?;
    let elapsed = started.elapsed().as_secs_f64();
    println!(
        "  {:9.0} messages/s, {:9.0} rows/s, longest commit {worst:?}, last sync {:?}",
        (number - first) as f64 / elapsed,
        rows_total as f64 / elapsed,
        asked.elapsed(),
    );
    Ok(())
}

fn measure_reads(store: &dyn Store) -> Result<(), anyhow::Error> {
    const READS: u64 = 20_000;
    let timed = |what: &str, read: &mut dyn FnMut(u64) -> Result<usize, StoreError>| {
        let started = Instant::now();
        let mut found = 0;
        for number in 0..READS {
            found += read(number * 31)?;
        }
        let each = started.elapsed() / READS as u32;
        println!("  {what}: {each:?} each, {found} rows");
        Ok::<(), StoreError>(())
    };
    let users: Vec<UserId> = (0..USERS).map(user).collect::<Result<_, _>>()?;
    let of = |number: u64| &users[(number % USERS) as usize];
    println!("\nreads");
    timed("inbox, 20 rows", &mut |n| {
        Ok(store.inbox(of(n), Cursor::START, 20)?.len())
    })?;
    timed("history, newest 20", &mut |n| {
        let conversation = ConversationId::direct(of(n), of(n * 7 + 1));
        let range = HistoryRange {
            limit: 20,
            newest_first: true,
            ..HistoryRange::ALL
        };
        Ok(store.history(&conversation, range)?.len())
    })?;
    timed("entity", &mut |n| {
        let found = store.entities(&[EntityKey::Inbox(*of(n))])?;
        Ok(found.iter().flatten().count())
    })?;
    Ok(())
}
