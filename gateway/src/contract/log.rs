//! What every log must do, as functions of a fresh log (and, for one that survives it, of how to open it again).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quipu_core::record::Position;
use quipu_core::shard::{ShardCount, ShardId};

use crate::log::{Log, LogError, QUEUE_BYTES_MAX, RECORD_BYTES_MAX, StoredRecord};

/// The shard count that a suite's logs are made with.
pub const SHARDS: ShardCount = ShardCount(4);
/// One behind the last shard.
const SHARDS_END: ShardId = ShardId(SHARDS.0);
/// Longer than any append takes; running into it is a failure, never a way to wait.
const PATIENCE: Duration = Duration::from_secs(30);

type Answer = Result<Vec<Position>, LogError>;

/// Appends and waits until it is durable.
pub fn append(log: &dyn Log, batch: &[(u16, &[u8])]) -> Answer {
    start_append(log, batch)?
        .recv_timeout(PATIENCE)
        .expect("every append is answered")
}

fn start_append(log: &dyn Log, batch: &[(u16, &[u8])]) -> Result<Receiver<Answer>, LogError> {
    let (tell, told) = mpsc::channel();
    let batch = batch
        .iter()
        .map(|(shard, payload)| (ShardId(*shard), Bytes::copy_from_slice(payload)))
        .collect();
    log.append(batch, Box::new(move |answer| drop(tell.send(answer))))?;
    Ok(told)
}

/// Every record of a shard from its first one, read in pages of `page` records.
pub fn read_all(log: &dyn Log, shard: u16, page: usize) -> Vec<StoredRecord> {
    let mut after = Position(log.first(ShardId(shard)).expect("a first position").0 - 1);
    let mut records = Vec::new();
    loop {
        let more = log
            .read(ShardId(shard), after, page, usize::MAX)
            .expect("records are readable");
        let Some(last) = more.last() else {
            return records;
        };
        assert!(more.len() <= page);
        after = last.position;
        records.extend(more);
    }
}

fn payloads(records: &[StoredRecord]) -> Vec<&[u8]> {
    records.iter().map(|record| &record.payload[..]).collect()
}

/// Runs every case that a log must pass, each on a fresh one.
pub fn suite(fresh: &mut dyn FnMut() -> Box<dyn Log>) {
    an_empty_log_starts_before_one(&*fresh());
    records_are_numbered_gap_free_per_shard(&*fresh());
    reads_are_bounded_and_the_first_record_always_goes(&*fresh());
    a_record_is_readable_when_its_append_is_answered(fresh().into());
    subscribers_hear_of_every_shard_that_grew(&*fresh());
    appends_of_one_thread_keep_their_order(fresh().into());
    appends_that_wait_stand_in_the_same_order(fresh().into());
    what_the_log_does_not_take_leaves_no_trace(&*fresh());
    trimming_forgets_the_old_and_keeps_the_numbering(&*fresh());
    waiting_appends_are_answered_when_the_log_goes(fresh());
}

fn an_empty_log_starts_before_one(log: &dyn Log) {
    assert_eq!(log.identity().shards, SHARDS);
    for shard in SHARDS.iter() {
        assert_eq!(log.last(shard), Ok(Position::START));
        assert_eq!(log.first(shard), Ok(Position(1)));
        assert_eq!(log.read(shard, Position::START, 9, 9), Ok(Vec::new()));
        assert_eq!(log.read(shard, Position(7), 9, 9), Ok(Vec::new()));
    }
    assert_eq!(
        append(log, &[]),
        Ok(Vec::new()),
        "an empty batch is answered too"
    );
}

fn records_are_numbered_gap_free_per_shard(log: &dyn Log) {
    let batch: &[(u16, &[u8])] = &[(0, b"a"), (3, b"b"), (0, b""), (0, b"c")];
    let expected = [Position(1), Position(1), Position(2), Position(3)];
    assert_eq!(append(log, batch), Ok(expected.to_vec()));
    assert_eq!(append(log, &[(3, b"d")]), Ok(vec![Position(2)]));

    let zero = read_all(log, 0, 100);
    assert_eq!(payloads(&zero), [&b"a"[..], b"", b"c"]);
    let positions: Vec<u64> = zero.iter().map(|record| record.position.0).collect();
    assert_eq!(positions, [1, 2, 3]);
    assert_eq!(payloads(&read_all(log, 3, 100)), [b"b", b"d"]);
    assert_eq!(read_all(log, 1, 100), []);
    assert_eq!(log.last(ShardId(0)), Ok(Position(3)));
    let times: Vec<u64> = zero.iter().map(|record| record.time.0).collect();
    assert!(times.is_sorted() && times[0] > 0, "{times:?}");
}

fn reads_are_bounded_and_the_first_record_always_goes(log: &dyn Log) {
    // More than a back end keeps in memory, so that reads cross from the disk into the tail.
    let records: Vec<Vec<u8>> = (0..3000u32).map(|n| n.to_be_bytes().repeat(300)).collect();
    let mut expected = Vec::new();
    for some in records.chunks(500) {
        let batch: Vec<(u16, &[u8])> = some.iter().map(|record| (1, &record[..])).collect();
        append(log, &batch).expect("an append");
        expected.extend(some.iter().map(|record| &record[..]));
    }
    for page in [1, 7, 1000, usize::MAX] {
        assert_eq!(
            payloads(&read_all(log, 1, page)),
            expected,
            "page of {page}"
        );
    }
    for after in [0, 1, 1500, 2990] {
        let read = |records, bytes| {
            let found = log.read(ShardId(1), Position(after), records, bytes);
            let found = found.expect("records are readable");
            assert_eq!(found[0].position, Position(after + 1));
            found.len()
        };
        assert_eq!(read(5, usize::MAX), 5);
        assert_eq!(read(0, 0), 1, "0 records count as 1");
        assert_eq!(read(5, 0), 1, "the first always goes");
        assert_eq!(read(5, 1199), 1);
        let two = read(5, 2400);
        assert!(
            (1..=2).contains(&two),
            "{two} records are more than 2400 bytes"
        );
    }
}

fn a_record_is_readable_when_its_append_is_answered(log: Arc<dyn Log>) {
    let (tell, told) = mpsc::channel();
    let reader = Arc::clone(&log);
    let done = move |answer: Answer| {
        let position = answer.expect("an append")[0];
        let last = reader.last(ShardId(2));
        let records = reader.read(ShardId(2), Position::START, 9, 99);
        tell.send((position, last, records))
            .expect("the test waits");
    };
    log.append(vec![(ShardId(2), Bytes::from_static(b"x"))], Box::new(done))
        .expect("an append");
    let (position, last, records) = told.recv_timeout(PATIENCE).expect("an answer");
    assert_eq!(last, Ok(position));
    assert_eq!(payloads(&records.expect("records")), [b"x"]);
}

fn subscribers_hear_of_every_shard_that_grew(log: &dyn Log) {
    let (first, first_told) = mpsc::channel();
    let (second, second_told) = mpsc::channel();
    for tell in [first, second] {
        let tell = Mutex::new(tell);
        log.on_durable(Arc::new(move |shard| {
            // The test may have heard enough.
            let _ = tell.lock().send(shard);
        }));
    }
    append(log, &[(0, b"a"), (2, b"b"), (0, b"c")]).expect("an append");
    for told in [first_told, second_told] {
        let mut heard = BTreeSet::new();
        while heard.len() < 2 {
            heard.insert(told.recv_timeout(PATIENCE).expect("a wake per shard"));
        }
        assert_eq!(heard, BTreeSet::from([ShardId(0), ShardId(2)]));
    }
}

fn appends_of_one_thread_keep_their_order(log: Arc<dyn Log>) {
    const THREADS: u16 = 4;
    const APPENDS: u32 = 200;
    let answered = Arc::new(Mutex::new(vec![Vec::new(); usize::from(THREADS)]));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (log, answered) = (Arc::clone(&log), Arc::clone(&answered));
            scope.spawn(move || {
                for number in 0..APPENDS {
                    let answered = Arc::clone(&answered);
                    let payload = Bytes::from(format!("{thread} {number}"));
                    let batch = vec![(ShardId(0), payload.clone()), (ShardId(1), payload)];
                    let done = move |answer: Answer| {
                        answer.expect("an append");
                        answered.lock()[usize::from(thread)].push(number);
                    };
                    log.append(batch, Box::new(done))
                        .expect("room in the queue");
                }
            });
        }
    });
    // Appends are answered in order, so this one comes after all of them.
    append(&*log, &[(3, b"end")]).expect("an append");
    let order: Vec<u32> = (0..APPENDS).collect();
    assert!(answered.lock().iter().all(|numbers| *numbers == order));
    for shard in [0, 1] {
        let records = read_all(&*log, shard, 97);
        for thread in 0..THREADS {
            let prefix = format!("{thread} ");
            let numbers: Vec<u32> = payloads(&records)
                .into_iter()
                .filter_map(|payload| {
                    std::str::from_utf8(payload)
                        .ok()?
                        .strip_prefix(&prefix)?
                        .parse()
                        .ok()
                })
                .collect();
            assert_eq!(numbers, order, "shard {shard}, thread {thread}");
        }
    }
}

fn appends_that_wait_stand_in_the_same_order(log: Arc<dyn Log>) {
    const THREADS: u16 = 4;
    const APPENDS: u32 = 100;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = Arc::clone(&log);
            scope.spawn(move || {
                for number in 0..APPENDS {
                    let payload = Bytes::from(format!("{thread} {number}"));
                    let batch = vec![(ShardId(0), payload.clone()), (ShardId(thread), payload)];
                    if number % 3 == 0 {
                        // Nobody waits for this one; the next one of the thread comes after it.
                        log.append(batch, Box::new(|answer| drop(answer.expect("an append"))))
                            .expect("room in the queue");
                        continue;
                    }
                    let positions = log.append_and_wait(batch.clone()).expect("an append");
                    for ((shard, payload), position) in batch.into_iter().zip(positions) {
                        let found = log.read(shard, Position(position.0 - 1), 1, 0);
                        assert_eq!(found.expect("readable")[0].payload, payload);
                    }
                }
            });
        }
    });
    append(&*log, &[(3, b"end")]).expect("an append");
    let records = read_all(&*log, 0, 97);
    for thread in 0..THREADS {
        let prefix = format!("{thread} ");
        let mut numbers: Vec<u32> = payloads(&records)
            .into_iter()
            .filter_map(|payload| std::str::from_utf8(payload).ok()?.strip_prefix(&prefix))
            .map(|number| number.parse().expect("a number"))
            .collect();
        // Shard 0 has both records of thread 0.
        numbers.dedup();
        assert_eq!(numbers, (0..APPENDS).collect::<Vec<_>>(), "thread {thread}");
    }
    let unknown = log.append_and_wait(vec![(SHARDS_END, Bytes::new())]);
    assert_eq!(unknown, Err(LogError::UnknownShard(SHARDS_END)));
    assert_eq!(log.append_and_wait(Vec::new()), Ok(Vec::new()));
}

fn what_the_log_does_not_take_leaves_no_trace(log: &dyn Log) {
    let unknown = LogError::UnknownShard(ShardId(SHARDS.0));
    let refused = append(log, &[(0, b"a"), (SHARDS.0, b"b")]);
    assert_eq!(refused, Err(unknown.clone()));
    assert_eq!(log.last(ShardId(SHARDS.0)), Err(unknown.clone()));
    assert_eq!(
        log.read(ShardId(SHARDS.0), Position::START, 1, 1),
        Err(unknown)
    );

    let long = vec![0; RECORD_BYTES_MAX + 1];
    let refused = append(log, &[(0, b"a"), (0, &long)]);
    assert!(matches!(refused, Err(LogError::TooLarge(_))), "{refused:?}");
    let much: Vec<(u16, &[u8])> = vec![(0, &long[1..]); QUEUE_BYTES_MAX / RECORD_BYTES_MAX + 1];
    let refused = append(log, &much);
    assert!(matches!(refused, Err(LogError::TooLarge(_))), "{refused:?}");

    assert_eq!(log.last(ShardId(0)), Ok(Position::START));
    let longest = append(log, &[(0, &long[1..])]);
    assert_eq!(longest, Ok(vec![Position(1)]), "the limit itself is taken");
}

fn trimming_forgets_the_old_and_keeps_the_numbering(log: &dyn Log) {
    for number in 1..=9u8 {
        append(log, &[(0, &[number]), (1, &[number])]).expect("an append");
    }
    log.trim(ShardId(0), Position(4)).expect("a trim");
    log.trim(ShardId(0), Position(2))
        .expect("a trim below the last one");
    let first = log.first(ShardId(0)).expect("a first position");
    assert!(
        first <= Position(5),
        "{first:?}: more was trimmed than allowed"
    );
    let kept: Vec<u8> = read_all(log, 0, 100).iter().map(|r| r.payload[0]).collect();
    assert_eq!(kept, (first.0 as u8..=9).collect::<Vec<_>>());
    if first > Position(1) {
        let after = Position(first.0 - 2);
        let shard = ShardId(0);
        let trimmed = LogError::Trimmed {
            shard,
            first,
            after,
        };
        assert_eq!(log.read(shard, after, 9, 99), Err(trimmed));
    }
    assert_eq!(
        log.first(ShardId(1)),
        Ok(Position(1)),
        "other shards keep theirs"
    );

    log.trim(ShardId(0), Position(1_000_000))
        .expect("a trim of everything");
    assert_eq!(log.last(ShardId(0)), Ok(Position(9)));
    assert_eq!(append(log, &[(0, b"next")]), Ok(vec![Position(10)]));
}

fn waiting_appends_are_answered_when_the_log_goes(log: Box<dyn Log>) {
    let waiting: Vec<Receiver<Answer>> = (0..100)
        .map(|_| start_append(&*log, &[(0, b"x")]).expect("room in the queue"))
        .collect();
    drop(log);
    for told in waiting {
        // Either outcome is honest; silence is not.
        drop(
            told.recv_timeout(PATIENCE)
                .expect("every append is answered"),
        );
    }
}

/// Runs every case that a log must pass which survives its process. `open` opens the same log again and again; each value it
/// gave is dropped before the next call.
pub fn durable_suite(open: &mut dyn FnMut() -> Box<dyn Log>) {
    let log = open();
    let identity = log.identity();
    let long = vec![7; 100_000];
    for number in 0..200u8 {
        append(
            &*log,
            &[(0, &[number]), (1, &long[..1 + usize::from(number)])],
        )
        .expect("an append");
    }
    let before = [read_all(&*log, 0, 50), read_all(&*log, 1, 50)];
    drop(log);

    let log = open();
    assert_eq!(log.identity(), identity);
    assert_eq!([read_all(&*log, 0, 50), read_all(&*log, 1, 50)], before);
    assert_eq!(log.last(ShardId(2)), Ok(Position::START));
    assert_eq!(append(&*log, &[(0, b"on")]), Ok(vec![Position(201)]));
    let newest = read_all(&*log, 0, 500).pop().expect("a record");
    assert!(newest.time >= before[0][199].time, "time goes on");
    // Reads that begin on the disk and end in memory.
    assert_eq!(read_all(&*log, 0, 500).len(), 201);
    log.trim(ShardId(0), Position(1_000)).expect("a trim");
    drop(log);

    let log = open();
    assert_eq!(
        log.last(ShardId(0)),
        Ok(Position(201)),
        "the numbering survives a trim of everything"
    );
    assert_eq!(append(&*log, &[(0, b"and on")]), Ok(vec![Position(202)]));
}
