//! The embedded log against the contract, and against what disks do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use raft_engine::env::{Handle, Permission};

use super::*;
use crate::contract::log::{SHARDS, append, durable_suite, read_all, suite};

/// A log in a folder, both closed together, the log first.
struct InFolder<F: FileSystem + 'static = DefaultFileSystem> {
    log: EmbeddedLog<F>,
    _folder: DataFolder,
}

fn open(path: &Path) -> EmbeddedLog {
    try_open(path).expect("the log opens").log
}

fn try_open(path: &Path) -> Result<InFolder, OpenLogError> {
    let folder = DataFolder::open_or_create(path, SHARDS).expect("the folder opens");
    let log = EmbeddedLog::open(&folder)?;
    Ok(InFolder {
        log,
        _folder: folder,
    })
}

#[test]
fn passes_the_contract() {
    let mut folders = Vec::new();
    suite(&mut || {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        folders.push(dir);
        Box::new(log)
    });
}

#[test]
fn survives_being_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    durable_suite(&mut || Box::new(open(dir.path())));
}

#[test]
fn old_records_go_on_being_read_from_the_disk_while_files_are_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let payload = vec![1; 1000];
    let batch: Vec<(u16, &[u8])> = vec![(0, &payload); 2000];
    append(&log, &batch).unwrap();
    log.trim(ShardId(0), Position(500)).unwrap();
    let records = read_all(&log, 0, 100);
    assert_eq!(records.len(), 1500);
    assert_eq!(records[0].position, Position(501));
    assert!(log.stats().disk_reads.load(Ordering::Relaxed) > 0);
}

/// The newest file of the log, and where in it the needle is.
fn find_in_newest_file(folder: &Path, needle: &[u8]) -> (PathBuf, u64) {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder.join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "raftlog"))
        .collect();
    files.sort();
    let file = files.pop().expect("the log has a file");
    let bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(needle.len()).position(|w| w == needle);
    (file, at.expect("the record is in the file") as u64)
}

#[test]
fn a_torn_end_is_cut_off_and_the_rest_stays() {
    const NEEDLE: &[u8] = b"the record that the crash tore";
    for cut in [0, 1, 17] {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        for number in 0..50u8 {
            append(&log, &[(0, &[number]), (1, &[number])]).unwrap();
        }
        append(&log, &[(0, NEEDLE), (1, b"of the same batch")]).unwrap();
        drop(log);
        let (file, at) = find_in_newest_file(dir.path(), NEEDLE);
        let file = std::fs::File::options().write(true).open(file).unwrap();
        file.set_len(at + cut).unwrap();

        let log = open(dir.path());
        for shard in [0, 1] {
            let kept: Vec<u8> = read_all(&log, shard, 9)
                .iter()
                .map(|record| record.payload[0])
                .collect();
            assert_eq!(
                kept,
                (0..50).collect::<Vec<_>>(),
                "cut {cut}, shard {shard}"
            );
        }
        assert_eq!(append(&log, &[(0, b"new")]), Ok(vec![Position(51)]));
        drop(log);
        assert_eq!(read_all(&open(dir.path()), 0, 9).len(), 51);
    }
}

#[test]
fn files_that_are_no_log_are_an_error_not_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let (file, _) = find_in_newest_file(dir.path(), b"RAFT-LOG");
    std::fs::write(&file, vec![0x55; 4096]).unwrap();
    // Whether the engine takes it for a torn end or for damage, it must say so without taking the process down.
    match try_open(dir.path()) {
        Ok(opened) => assert_eq!(opened.log.last(ShardId(0)), Ok(Position::START)),
        Err(error) => assert!(error.to_string().contains("cannot open the log")),
    }
}

/// The real file system, until it is told to fail.
struct FailingDisk {
    disk: DefaultFileSystem,
    syncs_fail: Arc<AtomicBool>,
}

struct FailingHandle {
    handle: Arc<<DefaultFileSystem as FileSystem>::Handle>,
    syncs_fail: Arc<AtomicBool>,
}

impl Handle for FailingHandle {
    fn truncate(&self, offset: usize) -> io::Result<()> {
        self.handle.truncate(offset)
    }

    fn file_size(&self) -> io::Result<usize> {
        self.handle.file_size()
    }

    fn sync(&self) -> io::Result<()> {
        match self.syncs_fail.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the test broke the disk")),
            false => self.handle.sync(),
        }
    }
}

impl FailingDisk {
    fn wrap(&self, handle: <DefaultFileSystem as FileSystem>::Handle) -> FailingHandle {
        FailingHandle {
            handle: Arc::new(handle),
            syncs_fail: Arc::clone(&self.syncs_fail),
        }
    }
}

impl FileSystem for FailingDisk {
    type Handle = FailingHandle;
    type Reader = <DefaultFileSystem as FileSystem>::Reader;
    type Writer = <DefaultFileSystem as FileSystem>::Writer;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<FailingHandle> {
        self.disk.create(path).map(|handle| self.wrap(handle))
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> io::Result<FailingHandle> {
        let handle = self.disk.open(path, permission)?;
        Ok(self.wrap(handle))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        self.disk.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn new_reader(&self, handle: Arc<FailingHandle>) -> io::Result<Self::Reader> {
        self.disk.new_reader(Arc::clone(&handle.handle))
    }

    fn new_writer(&self, handle: Arc<FailingHandle>) -> io::Result<Self::Writer> {
        self.disk.new_writer(Arc::clone(&handle.handle))
    }
}

#[test]
fn a_panic_of_whoever_is_told_closes_the_log_and_leaves_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let told = log.append(
        vec![(ShardId(0), Bytes::from_static(b"a"))],
        Box::new(|_| panic!("the test panics in a done")),
    );
    assert_eq!(told, Ok(()));
    // Written by this thread or the log's own, whoever comes first; the panic may thus be ours.
    let next = catch_unwind(AssertUnwindSafe(|| append(&log, &[(0, b"b")])));
    let last = catch_unwind(AssertUnwindSafe(|| append(&log, &[(0, b"c")])));
    assert!(
        matches!(last, Ok(Err(LogError::Closed(_)))),
        "{next:?} {last:?}"
    );
}

#[test]
fn after_a_failed_fsync_nothing_is_ever_acked_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = DataFolder::open_or_create(dir.path(), SHARDS).unwrap();
    let disk = Arc::new(FailingDisk {
        disk: DefaultFileSystem,
        syncs_fail: Arc::default(),
    });
    let log = EmbeddedLog::open_on(&folder, Arc::clone(&disk)).unwrap();
    append(&log, &[(0, b"good")]).unwrap();

    disk.syncs_fail.store(true, Ordering::SeqCst);
    let failed = append(&log, &[(0, b"lost")]);
    assert!(matches!(failed, Err(LogError::Closed(_))), "{failed:?}");
    assert_eq!(log.last(ShardId(0)), Ok(Position(1)), "not published");

    disk.syncs_fail.store(false, Ordering::SeqCst);
    let after = append(&log, &[(0, b"never")]);
    assert!(matches!(after, Err(LogError::Closed(_))), "{after:?}");
    let waiting = log.append_and_wait(vec![(ShardId(0), Bytes::from_static(b"never"))]);
    assert!(matches!(waiting, Err(LogError::Closed(_))), "{waiting:?}");
    drop(log);

    let log = EmbeddedLog::open(&folder).unwrap();
    let records = read_all(&log, 0, 9);
    assert_eq!(records[0].payload, Bytes::from_static(b"good"));
    assert!(
        records.len() <= 2,
        "what failed may be there, what came after may not"
    );
}
