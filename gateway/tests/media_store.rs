//! One suite over every place that finished files can be kept in.

mod bucket;

use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt as _;
use quipu_gateway::config::{Media, SecretText};
use quipu_gateway::media::objects::{Checked, Listed, Objects, Reading};
use quipu_gateway::telemetry::Metrics;
use quipu_protocol::id::ConversationId;
use quipu_protocol::media::{MediaHash, MediaType};

use crate::bucket::Bucket;

const HERE: ConversationId = ConversationId([1; 16]);
const THERE: ConversationId = ConversationId([2; 16]);

fn file(root: &Path, name: &str, length: usize) -> (Vec<u8>, MediaHash) {
    let bytes: Vec<u8> = (0..length).map(|at| (at / 7 % 251) as u8).collect();
    std::fs::write(root.join(name), &bytes).expect("written");
    let hash = MediaHash(*blake3::hash(&bytes).as_bytes());
    (bytes, hash)
}

fn kind() -> MediaType {
    MediaType::new("video/mp4").expect("a media type")
}

fn open(settings: &Media, root: &Path) -> Objects {
    Objects::open(settings, root, &Arc::new(Metrics::new())).expect("opened")
}

async fn read(objects: &Objects, hash: MediaHash, offset: u64, length: u64) -> Vec<u8> {
    let mut reading: Reading = objects
        .read(THERE, hash, offset, length)
        .await
        .expect("it is there");
    let mut bytes = Vec::new();
    while let Some((piece, rest)) = reading.next().await.expect("it is read") {
        bytes.extend_from_slice(&piece);
        reading = rest;
    }
    bytes
}

async fn listed(objects: &Objects) -> Vec<Listed> {
    let all = objects.list().map(|object| object.expect("listed"));
    let mut all: Vec<Listed> = all.collect().await;
    all.sort_by_key(|object| (object.conversation, object.hash, object.is_label));
    all
}

/// What is written in objects.rs, of a place that has nothing yet.
async fn suite(objects: &Objects, root: &Path) {
    let (small, small_hash) = file(root, "small", 100_000);
    // More than two parts of a file that goes to a bucket.
    let (large, large_hash) = file(root, "large", (20 << 20) + 5);
    assert_eq!(
        objects.find(HERE, small_hash).await.expect("no failure"),
        None
    );
    assert_eq!(listed(objects).await, []);
    for (name, bytes, hash) in [("small", &small, small_hash), ("large", &large, large_hash)] {
        let size = bytes.len() as u64;
        let done = objects.import(HERE, hash, size, &kind(), root, name).await;
        done.expect("imported");
        assert!(!root.join(name).exists(), "it was taken over");
        let stored = objects.find(HERE, hash).await.expect("no failure");
        let stored = stored.expect("it is there");
        assert_eq!((stored.size, &stored.media_type), (size, &kind()));
        assert_eq!(objects.find(THERE, hash).await.expect("no failure"), None);
        objects
            .copy(HERE, THERE, hash, &stored)
            .await
            .expect("copied");
        // The copy needs the first one no more.
        objects.remove(HERE, hash).await.expect("removed");
        assert_eq!(objects.find(HERE, hash).await.expect("no failure"), None);
        assert_eq!(
            objects
                .find(THERE, hash)
                .await
                .expect("no failure")
                .map(|it| it.size),
            Some(size)
        );
        objects
            .remove(HERE, hash)
            .await
            .expect("removing twice is removing once");
        for (offset, length) in [(0, size), (0, 1), (size - 1, 1), (70_000, 20_000)] {
            let got = read(objects, hash, offset, length).await;
            let (from, to) = (offset as usize, (offset + length) as usize);
            assert!(
                got == bytes[from..to],
                "{name}: {length} bytes from {offset}"
            );
        }
    }
    let all = listed(objects).await;
    let names: Vec<_> = all
        .iter()
        .map(|it| (it.conversation, it.hash, it.is_label))
        .collect();
    let mut expected: Vec<_> = [small_hash, large_hash]
        .into_iter()
        .flat_map(|hash| [(THERE, hash, false), (THERE, hash, true)])
        .collect();
    expected.sort_unstable();
    assert_eq!(names, expected);
    // Pointing at a file makes its label young.
    let before = objects
        .find(THERE, small_hash)
        .await
        .expect("no failure")
        .expect("there");
    objects
        .touch(THERE, small_hash, before.size, &kind())
        .await
        .expect("touched");
    let after = objects
        .find(THERE, small_hash)
        .await
        .expect("no failure")
        .expect("there");
    assert!(after.touched_at >= before.touched_at);
    for hash in [small_hash, large_hash] {
        objects.remove(THERE, hash).await.expect("removed");
    }
    assert_eq!(listed(objects).await, []);
}

#[tokio::test]
async fn a_folder_keeps_files() {
    let root = tempfile::tempdir().expect("a folder");
    let objects = open(&Media::default(), root.path());
    suite(&objects, root.path()).await;
}

#[tokio::test]
async fn memory_keeps_files_as_a_bucket_does() {
    let root = tempfile::tempdir().expect("a folder");
    let memory = Arc::new(object_store::memory::InMemory::new());
    suite(
        &Objects::on(memory, "some/prefix", &Arc::new(Metrics::new())),
        root.path(),
    )
    .await;
}

#[tokio::test]
async fn a_bucket_keeps_files() {
    let root = tempfile::tempdir().expect("a folder");
    let bucket = Bucket::start().await;
    let objects = open(&bucket.settings(), root.path());
    suite(&objects, root.path()).await;
    assert_eq!(bucket.objects(), 0);
}

/// Any other S3 service: an empty bucket made with any S3 tool, then
/// `QUIPU_TEST_S3=http://127.0.0.1:5000 QUIPU_TEST_BUCKET=quipu cargo test -p quipu-gateway --test media_store -- --ignored`.
#[tokio::test]
#[ignore = "needs an S3 service with an empty bucket: set QUIPU_TEST_S3 and QUIPU_TEST_BUCKET, then run with --ignored"]
async fn a_bucket_elsewhere_keeps_files() {
    let root = tempfile::tempdir().expect("a folder");
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("set {name}"));
    let or_test = |name: &str| std::env::var(name).unwrap_or_else(|_| "test".to_owned());
    let settings = Media {
        endpoint: variable("QUIPU_TEST_S3"),
        bucket: variable("QUIPU_TEST_BUCKET"),
        access_key: or_test("QUIPU_TEST_ACCESS_KEY"),
        secret_key: SecretText(or_test("QUIPU_TEST_SECRET_KEY")),
        ..Media::default()
    };
    let objects = open(&settings, root.path());
    suite(&objects, root.path()).await;
}

/// A sweep sees everything, also what does not fit into one page of a listing (1000 objects).
#[tokio::test]
async fn all_of_a_bucket_is_listed() {
    let root = tempfile::tempdir().expect("a folder");
    let bucket = Bucket::start().await;
    let objects = open(&bucket.settings(), root.path());
    assert!(matches!(objects.check().await, Ok(Checked::Usable)));
    let hash = |number: u32| {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        MediaHash(hash)
    };
    let kind = kind();
    for number in 0..1005 {
        let put = objects.touch(HERE, hash(number), 1, &kind);
        put.await.expect("written");
    }
    let all = listed(&objects).await;
    // What the check wrote is no file, and is not listed.
    let expected = (0..1005).map(hash);
    assert!(all.iter().map(|it| it.hash).eq(expected), "{}", all.len());
    assert!(all.iter().all(|it| it.is_label && it.conversation == HERE));
}

#[tokio::test]
async fn what_is_wrong_with_a_bucket_is_said_at_the_start() {
    let root = tempfile::tempdir().expect("a folder");
    let bucket = Bucket::start().await;
    let check = async |settings: &Media| {
        let objects = open(settings, root.path());
        objects.check().await
    };
    let right = bucket.settings();
    assert!(matches!(check(&right).await, Ok(Checked::Usable)));
    let wrong = [
        (
            Media {
                secret_key: SecretText("another".to_owned()),
                ..right.clone()
            },
            "media.secret_key",
        ),
        (
            Media {
                access_key: "somebody".to_owned(),
                ..right.clone()
            },
            "media.access_key",
        ),
        (
            Media {
                bucket: "nowhere".to_owned(),
                ..right.clone()
            },
            "media.bucket",
        ),
    ];
    for (settings, told) in wrong {
        let error = check(&settings).await.expect_err("it is refused");
        let text = error.to_string();
        assert!(text.contains(told), "{text}");
        assert!(text.contains(&settings.endpoint), "{text}");
        assert!(!text.contains(&settings.secret_key.0), "{text}");
    }
    // One that does not answer is not wrong.
    bucket.down_after(0);
    let silent = check(&right).await;
    assert!(matches!(silent, Ok(Checked::Silent(_))), "{silent:?}");
}

/// The service goes away before each request that an import makes, in turn: the file is not there, nothing of it is lost, and
/// the next try brings it.
#[tokio::test]
async fn an_import_that_is_cut_off_leaves_no_file_and_loses_none() {
    let root = tempfile::tempdir().expect("a folder");
    let bucket = Bucket::start().await;
    let objects = open(&bucket.settings(), root.path());
    let (kind, length) = (kind(), (8 << 20) + 5);
    let mut cuts = 0;
    loop {
        let (bytes, hash) = file(root.path(), "staged", length);
        let size = bytes.len() as u64;
        bucket.down_after(cuts);
        let import = || objects.import(HERE, hash, size, &kind, root.path(), "staged");
        let cut = import().await;
        bucket.up();
        if cut.is_ok() {
            break;
        }
        cuts += 1;
        let found = objects.find(HERE, hash).await.expect("no failure");
        assert_eq!(found, None, "no label before request {cuts}");
        assert!(root.path().join("staged").exists(), "request {cuts}");
        import().await.expect("imported");
        let copied = objects.find(HERE, hash).await.expect("no failure");
        let copied = copied.expect("it is there");
        objects
            .copy(HERE, THERE, hash, &copied)
            .await
            .expect("copied");
        assert!(read(&objects, hash, 0, size).await == bytes);
        for conversation in [HERE, THERE] {
            let gone = objects.remove(conversation, hash);
            gone.await.expect("removed");
        }
    }
    // Begin, two parts, completion, label.
    assert_eq!(cuts, 5);
}
