//! Files between a real gateway and real clients: whole, interrupted, refused.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quipu_client::media::{Progress, UploadOptions};
use quipu_client::protocol::error::RejectCode;
use quipu_client::protocol::id::{ConversationId, UserId};
use quipu_client::protocol::media::MediaHash;
use quipu_client::{Client, Error};
use quipu_gateway::Gateway;
use support::{any, gateway, register, within};
use tempfile::TempDir;
use tokio::sync::Notify;

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a name")
}

fn file(folder: &Path, length: usize) -> (PathBuf, Vec<u8>) {
    let mut state = length as u32;
    let byte = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let bytes: Vec<u8> = (0..length).map(byte).collect();
    let path = folder.join(format!("file-of-{length}.bin"));
    std::fs::write(&path, &bytes).expect("written");
    (path, bytes)
}

/// Somebody with a gateway and a conversation with nobody else.
struct Alone {
    data: TempDir,
    gateway: Gateway,
    ana: Client,
    to: ConversationId,
}

async fn alone() -> Alone {
    let data = tempfile::tempdir().expect("a folder");
    let gateway = gateway(data.path(), any()).await;
    let ana = register(gateway.address(), None, "ana").await;
    let opened = within("opening", ana.open_direct(user("ana"))).await;
    Alone {
        data,
        gateway,
        ana,
        to: opened.expect("opened"),
    }
}

async fn up(client: &Client, to: ConversationId, path: &Path) -> Result<u64, Error> {
    let upload = client.upload(to, path, UploadOptions::default(), |_| {});
    let file = within("an upload", upload).await?;
    Ok(file.sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_goes_up_and_comes_down() {
    let data = tempfile::tempdir().expect("a folder");
    let gateway = gateway(data.path(), any()).await;
    let ana = register(gateway.address(), None, "ana").await;
    let ben = register(gateway.address(), None, "ben").await;
    let eve = register(gateway.address(), None, "eve").await;
    let conversation = within("opening", ana.open_direct(user("ben")))
        .await
        .expect("opened");

    let path = data.path().join("a cat.png");
    image::RgbImage::from_fn(800, 400, |x, y| image::Rgb([x as u8, y as u8, 7]))
        .save(&path)
        .expect("saved");
    let mut seen = Vec::new();
    let upload = ana.upload(conversation, &path, UploadOptions::default(), |at| {
        seen.push(at);
    });
    let sent = within("an upload", upload).await.expect("uploaded");
    assert_eq!(
        (sent.media_type.as_str(), &*sent.name),
        ("image/png", "a cat.png")
    );
    assert_eq!(sent.sent, sent.size);
    let preview = sent.preview.expect("it is a picture");
    assert_eq!((preview.width, preview.height), (800, 400));
    let whole = Progress {
        done: sent.size,
        total: sent.size,
    };
    assert_eq!(seen.last(), Some(&whole));
    assert!(seen.is_sorted_by_key(|at| at.done), "{seen:?}");
    // Once more costs nothing.
    assert_eq!(up(&ana, conversation, &path).await.expect("uploaded"), 0);

    let copy = data.path().join("copy.png");
    let download = ben.download(conversation, sent.hash, &copy, |_| {});
    let got = within("a download", download).await.expect("downloaded");
    assert_eq!((got.size, got.received), (sent.size, sent.size));
    let original = std::fs::read(&path).expect("there");
    assert!(std::fs::read(&copy).expect("there") == original);

    for (client, hash, code) in [
        (&eve, sent.hash, RejectCode::UnknownConversation),
        (&ben, MediaHash([1; 32]), RejectCode::UnknownMedia),
    ] {
        let nothing = data.path().join("nothing");
        let download = client.download(conversation, hash, &nothing, |_| {});
        match within("a refusal", download).await {
            Err(Error::Refused(refusal)) => assert_eq!(refusal.code, code),
            other => panic!("{other:?}"),
        }
        assert!(!nothing.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_behind_what_is_there_and_checks_the_whole() {
    let Alone {
        data,
        gateway: _gateway,
        ana,
        to,
    } = alone().await;
    let (path, bytes) = file(data.path(), 500_000);
    let hash = MediaHash(*blake3::hash(&bytes).as_bytes());
    up(&ana, to, &path).await.expect("uploaded");
    let target = data.path().join("got.bin");
    let part = data
        .path()
        .join(format!("got.bin.{}.part", &hash.to_string()[..8]));
    let damaged: Vec<u8> = bytes[..1000].iter().map(|byte| !byte).collect();
    for (before, received) in [
        (&bytes[..0], 500_000),
        (&bytes[..1], 499_999),
        (&bytes[..300_000], 200_000),
        (&bytes[..], 0),
        // What is no part of the file costs a second beginning.
        (&damaged, 499_000 + 500_000),
        (&[&bytes[..], b"more"].concat(), 500_000),
    ] {
        std::fs::write(&part, before).expect("written");
        let download = ana.download(to, hash, &target, |_| {});
        let got = within("a download", download).await.expect("downloaded");
        assert_eq!(got.received, received, "after {} bytes", before.len());
        assert!(std::fs::read(&target).expect("there") == bytes);
        assert!(!part.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_after_the_gateway_was_killed() {
    let data = tempfile::tempdir().expect("a folder");
    let first = gateway(data.path(), any()).await;
    let address = first.address();
    let ana = register(address, None, "ana").await;
    let to = within("opening", ana.open_direct(user("ana")))
        .await
        .expect("opened");
    let (path, bytes) = file(data.path(), 24 << 20);
    let (begun, killed) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let (tell, is_dead) = (Arc::clone(&begun), Arc::clone(&killed));
    let uploading = {
        let (ana, path) = (ana.clone(), path.clone());
        tokio::spawn(async move {
            let mut went_on_at = None;
            let upload = ana.upload(to, &path, UploadOptions::default(), |at| {
                if at.done >= 2 << 20 {
                    tell.notify_one();
                }
                if is_dead.load(Ordering::SeqCst) && went_on_at.is_none() && at.done > 0 {
                    went_on_at = Some(at.done);
                }
            });
            let file = upload.await;
            (file, went_on_at)
        })
    };
    within("the first bytes", begun.notified()).await;
    // Dropping it is what a crash is.
    drop(first);
    killed.store(true, Ordering::SeqCst);
    let second = gateway(data.path(), address).await;
    let (file, _) = within("the rest", uploading).await.expect("no panic");
    let file = file.expect("uploaded");
    assert!(
        file.sent < 2 * file.size - (1 << 20),
        "it began anew: {}",
        file.sent
    );
    let copy = data.path().join("copy.bin");
    let download = ana.download(to, file.hash, &copy, |_| {});
    within("a download", download).await.expect("downloaded");
    assert!(std::fs::read(&copy).expect("there") == bytes);
    drop(second);
}

/// The bytes before the change are out by then, the others are not.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_while_it_is_sent_is_said_to_have_changed() {
    let Alone {
        data,
        gateway: _gateway,
        ana,
        to,
    } = alone().await;
    for shrinks in [false, true] {
        let (path, bytes) = file(data.path(), 4 << 20);
        let mut changed = false;
        let upload = ana.upload(to, &path, UploadOptions::default(), |at| {
            if !changed && at.done > 0 {
                let (whole, less) = (vec![0; bytes.len()], &bytes[..1 << 20]);
                std::fs::write(&path, if shrinks { less } else { &whole }).expect("written");
                changed = true;
            }
        });
        match within("a failure", upload).await {
            Err(Error::Invalid(why)) => assert!(why.contains("changed while"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    // As it is now, it is a file like any other.
    let (path, _) = file(data.path(), 4 << 20);
    up(&ana, to, &path).await.expect("uploaded");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_file_names_it() {
    let Alone {
        data,
        gateway: _gateway,
        ana,
        to,
    } = alone().await;
    let (empty, _) = file(data.path(), 0);
    let missing = data.path().join("missing.bin");
    for (path, word) in [
        (&empty, "is empty"),
        (&missing, "No such file"),
        (&data.path().to_owned(), "is not a file"),
    ] {
        let failed = up(&ana, to, path).await.expect_err("it is refused");
        let text = failed.to_string();
        assert!(
            text.contains(word) && text.contains(path.to_str().expect("UTF-8")),
            "{text}"
        );
    }
    // A refused download leaves nothing beside its target.
    let before = std::fs::read_dir(data.path()).expect("a folder").count();
    let target = data.path().join("target.bin");
    let download = ana.download(to, MediaHash([1; 32]), &target, |_| {});
    within("a refusal", download)
        .await
        .expect_err("it is not there");
    assert_eq!(
        std::fs::read_dir(data.path()).expect("a folder").count(),
        before
    );
}
