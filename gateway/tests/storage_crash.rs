//! A process that appends and commits is killed with SIGKILL: everything it was told is durable must be there.
//!
//! The test starts its own binary again as the process to be killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use quipu_core::record::Position;
use quipu_core::row::{HistoryRow, Row};
use quipu_core::shard::{ShardCount, ShardId};
use quipu_gateway::folder::DataFolder;
use quipu_gateway::log::{EmbeddedLog, Log};
use quipu_gateway::store::{FjallStore, HistoryRange, Store, WriteBehind, WriteBehindOptions};
use quipu_protocol::event::{Content, Message};
use quipu_protocol::id::{
    ClientSeq, ConversationId, DeviceId, MessageId, Seq, TimestampMs, UserId,
};

const FOLDER_VARIABLE: &str = "QUIPU_STORAGE_CRASH_FOLDER";
const SHARDS: ShardCount = ShardCount(4);
const CONVERSATION: ConversationId = ConversationId([7; 16]);
const CACHE_BYTES: u64 = 1024 * 1024;
/// The child ends by itself after so much, should its parent be gone.
const STEPS_MAX: u64 = 1_000_000;
/// Steps between two syncs of the store.
const STEPS_PER_SYNC: u64 = 25;
/// Longer than anything here takes; running into it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

fn shard_of(step: u64) -> ShardId {
    ShardId((step % u64::from(SHARDS.0)) as u16)
}

/// Of varying length, so that ends of files fall anywhere.
fn payload(step: u64) -> Bytes {
    format!("step {step} ")
        .repeat(1 + step as usize % 60)
        .into()
}

fn rows(step: u64) -> Vec<Row> {
    let ann = UserId::new("ann").unwrap();
    let message = Message {
        conversation: CONVERSATION,
        seq: Seq::new(step).unwrap(),
        id: MessageId([1; 16]),
        from: ann,
        from_device: DeviceId::new(1).unwrap(),
        client_seq: ClientSeq::new(step).unwrap(),
        to: None,
        sent_at: TimestampMs(step),
        content: Content::Text(format!("step {step} ").repeat(1 + step as usize % 40)),
        state: None,
    };
    let applied = Bytes::copy_from_slice(&step.to_be_bytes());
    vec![
        Row::History(HistoryRow(message)),
        Row::Shard(ShardId(0), applied),
    ]
}

fn open(path: &Path) -> (EmbeddedLog, WriteBehind<FjallStore>, DataFolder) {
    let folder = DataFolder::open_or_create(path, SHARDS).expect("the folder opens");
    let log = EmbeddedLog::open(&folder).expect("the log opens");
    let store = FjallStore::open(&folder, CACHE_BYTES).expect("the store opens");
    let options = WriteBehindOptions {
        flush_interval: Duration::from_millis(5),
        ..WriteBehindOptions::default()
    };
    let store = WriteBehind::new(store, options).expect("a thread");
    (log, store, folder)
}

fn last_step(store: &dyn Store) -> u64 {
    let row = store.shard(ShardId(0)).expect("a shard row");
    row.map_or(0, |row| u64::from_be_bytes(row[..].try_into().unwrap()))
}

/// Not a test: what the killed process does. It says on its standard output what it was told is durable.
#[test]
#[ignore = "started by the test below, with a folder in its environment"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else {
        return;
    };
    let (log, store, _folder) = open(Path::new(&folder));
    let say = |text: String| {
        let mut out = std::io::stdout().lock();
        // A closed pipe means that the parent is gone.
        if writeln!(out, "\n{text}")
            .and_then(|()| out.flush())
            .is_err()
        {
            std::process::exit(1);
        }
    };
    let started = last_step(&store);
    for step in started + 1..STEPS_MAX {
        let done = move |answer: Result<Vec<Position>, _>| {
            let positions = answer.expect("an append");
            say(format!("appended {step} {} .", positions[0].0));
        };
        let batch = vec![(shard_of(step), payload(step))];
        log.append(batch, Box::new(done))
            .expect("room in the queue");
        store.commit(rows(step)).expect("a commit");
        if step.is_multiple_of(STEPS_PER_SYNC) {
            store.sync().expect("a sync");
            say(format!("synced {step} ."));
            // Lets the log's answers catch up, so that the queue stays short.
            wait_for_log(&log);
        }
    }
}

fn wait_for_log(log: &dyn Log) {
    let (tell, told) = mpsc::channel();
    log.append(Vec::new(), Box::new(move |answer| drop(tell.send(answer))))
        .expect("room in the queue");
    told.recv_timeout(PATIENCE)
        .expect("an answer")
        .expect("an append");
}

/// What a killed child had been told.
#[derive(Debug, Default)]
struct Told {
    /// Step and payload by shard and position.
    appended: BTreeMap<(ShardId, Position), u64>,
    synced: u64,
}

impl Told {
    /// Takes a line, and says whether it told of an append. A line without its full stop was cut off by the kill.
    fn read(&mut self, line: &str) -> bool {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["appended", step, position, "."] => {
                let step = step.parse().expect("a step");
                let position = Position(position.parse().expect("a position"));
                let before = self.appended.insert((shard_of(step), position), step);
                assert_eq!(before, None, "one position was given to two records");
                true
            }
            ["synced", step, "."] => {
                self.synced = step.parse().expect("a step");
                false
            }
            _ => false,
        }
    }
}

/// Starts the child, kills it after it was told of `appends` appends, and reads what else it had said.
fn run_and_kill(folder: &Path, appends: usize, told: &mut Told) {
    let mut child = Command::new(std::env::current_exe().expect("this test's binary"))
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(FOLDER_VARIABLE, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child process");
    let out = BufReader::new(child.stdout.take().expect("its output"));
    let mut seen = 0;
    for line in out.lines() {
        seen += usize::from(told.read(&line.expect("a line")));
        if seen == appends {
            child.kill().expect("a kill");
        }
    }
    child.wait().expect("its end");
    assert!(
        seen >= appends,
        "the child ended by itself after {seen} appends"
    );
}

fn check(folder: &Path, told: &Told, round: usize) {
    let (log, store, _folder) = open(folder);
    for ((shard, position), step) in &told.appended {
        let before = Position(position.0 - 1);
        let records = log.read(*shard, before, 1, 1).expect("a read");
        let record = records.first().unwrap_or_else(|| {
            panic!(
                "round {round}: record {} of shard {} is gone",
                position.0, shard.0
            )
        });
        assert_eq!(record.position, *position);
        assert_eq!(record.payload, payload(*step), "round {round}, step {step}");
    }
    let last = last_step(&store);
    assert!(
        last >= told.synced,
        "round {round}: {last} is below {}",
        told.synced
    );
    let history = store
        .history(&CONVERSATION, HistoryRange::ALL)
        .expect("a history");
    let expected: Vec<Row> = (1..=last)
        .flat_map(|step| rows(step).into_iter().take(1))
        .collect();
    let history: Vec<Row> = history.into_iter().map(Row::History).collect();
    assert!(
        history == expected,
        "round {round}: {} messages, not the {last} that the shard row says",
        history.len()
    );
}

#[test]
fn what_was_durable_is_there_after_a_kill() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut told = Told::default();
    // Kills at different distances from the last sync.
    for (round, appends) in [1, 60, 333, 1013].into_iter().enumerate() {
        run_and_kill(dir.path(), appends, &mut told);
        check(dir.path(), &told, round);
    }
}
