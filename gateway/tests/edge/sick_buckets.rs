//! Buckets that fail: text goes on, transfers end in failures that pass, and go on from where they were.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use quinn::{ReadError, VarInt};
use quipu_gateway::media::objects::{Checked, Objects};
use quipu_gateway::telemetry::Metrics;
use quipu_protocol::error::{RejectCode, StreamCode};
use quipu_protocol::event::{Outcome, Rejection};
use quipu_protocol::id::ConversationId;
use quipu_protocol::media::{Download, MediaHash, Upload, UploadId};

use crate::bucket::Bucket;
use crate::media::{Transfer, bring, file, hash, picture, two, upload, whole};
use crate::peer::{Gateway, Peer, soon};
use crate::proxy::{Fault, Proxy};

/// Two people, and a gateway with a bucket behind a proxy.
struct World {
    _bucket: Bucket,
    proxy: Proxy,
    gateway: Gateway,
    ana: Peer,
    ben: Peer,
    conversation: ConversationId,
}

impl World {
    /// A request to the bucket may take `patience`, and two transfers may be under way.
    async fn new(patience: Duration) -> Self {
        let bucket = Bucket::start().await;
        let proxy = Proxy::start(&bucket).await;
        let gateway = Gateway::start_with(|config| {
            config.media = proxy.settings();
            config.media.stall_timeout = patience;
            config.media.transfers = 2;
        });
        let (ana, ben, conversation) = two(&gateway).await;
        Self {
            _bucket: bucket,
            proxy,
            gateway,
            ana,
            ben,
            conversation,
        }
    }

    /// An upload whose bytes the gateway has; only their end is missing.
    async fn staged(&self, bytes: &[u8], id: u8) -> (Transfer, Upload) {
        let plan = Upload {
            upload: UploadId([id; 16]),
            ..upload(self.conversation, bytes)
        };
        let mut transfer = Transfer::upload(&self.ana, &plan).await;
        assert_eq!(transfer.offset().await, 0);
        transfer.write(bytes).await;
        (transfer, plan)
    }

    fn fetching(&self, hash: MediaHash) -> Download {
        whole(self.conversation, hash)
    }

    async fn download(&self, hash: MediaHash) -> Transfer {
        Transfer::download(&self.ben, self.fetching(hash)).await
    }

    /// Texts of one arrive at the other.
    async fn talk(&mut self) {
        let begun = Instant::now();
        for number in 0..10 {
            let text = format!("{number}");
            self.ana.send(self.conversation, &text).await;
            self.ben.message().await;
        }
        // A bucket that fails is waited for in seconds. Nothing of that may be felt here.
        assert!(begun.elapsed() < Duration::from_secs(1), "{begun:?}");
    }

    /// Both places for transfers are free again, and can be had.
    async fn at_rest(&self) {
        soon(async {
            while self.gateway.metrics.media_transfers_running.get() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(self.gateway.metrics.media_transfers_busy.get(), 0);
    }

    /// The upload goes on behind its last byte, none of which travels again, and both files come down as they went up.
    async fn healed(&self, plan: &Upload, files: &[&Vec<u8>]) {
        self.proxy.set(Fault::None);
        let mut again = Transfer::upload(&self.ana, plan).await;
        assert_eq!(again.offset().await, plan.size);
        let _ = again.send.finish();
        again.uploaded().await;
        let all: usize = files.iter().map(|bytes| bytes.len()).sum();
        assert_eq!(self.gateway.metrics.media_upload_bytes.get(), all as u64);
        for bytes in files {
            let (_, got) = self.download(hash(bytes)).await.blob().await;
            assert!(got == **bytes);
        }
        self.at_rest().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hiccup_of_a_bucket_is_not_noticed() {
    let world = World::new(Duration::from_secs(20)).await;
    let bytes = file(100_000, 30);
    for status in [500, 503] {
        let (mut transfer, _) = world.staged(&bytes, 1).await;
        world.proxy.set(Fault::Status(status, 2));
        let _ = transfer.send.finish();
        transfer.uploaded().await;
        world.proxy.set(Fault::Status(status, 2));
        let (_, got) = world.download(hash(&bytes)).await.blob().await;
        assert!(got == bytes);
        let later = SystemTime::now() + Duration::from_secs(3601);
        assert_eq!(world.gateway.media.sweep(later).await.expect("swept"), 1);
    }
    assert_eq!(world.gateway.metrics.media_store_failed.get(), 0);
    world.at_rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_answers_with_errors_fails_transfers_and_nothing_else() {
    let mut world = World::new(Duration::from_secs(20)).await;
    let (kept, bytes) = (file(1000, 31), file(300_000, 32));
    bring(&world.ana, world.conversation, &kept).await;
    let (mut transfer, plan) = world.staged(&bytes, 1).await;
    for status in [500, 503] {
        world.proxy.set(Fault::Status(status, u64::MAX));
        let before = world.gateway.metrics.media_store_failed.get();
        let _ = transfer.send.finish();
        assert_eq!(transfer.refused().await, RejectCode::Internal);
        let mut download = world.download(hash(&kept)).await;
        assert_eq!(download.refused().await, RejectCode::Internal);
        let mut early = Transfer::upload(&world.ana, &upload(world.conversation, b"new")).await;
        assert_eq!(early.refused().await, RejectCode::Internal);
        let failed = world.gateway.metrics.media_store_failed.get() - before;
        assert_eq!(failed, 3, "one for each transfer");
        world.talk().await;
        // What was brought a moment ago need not be looked for.
        let content = picture(&kept, 1000);
        world.ana.send_content(world.conversation, content).await;
        world.ben.message().await;
        world.proxy.set(Fault::None);
        transfer = Transfer::upload(&world.ana, &plan).await;
        assert_eq!(transfer.offset().await, 300_000);
    }
    let _ = transfer.send.reset(VarInt::from_u32(0));
    world.at_rest().await;
    assert_eq!(world.gateway.metrics.media_store_stalled.get(), 0);
    world.healed(&plan, &[&kept, &bytes]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_says_nothing_is_waited_for_so_long_and_no_longer() {
    let mut world = World::new(Duration::from_millis(400)).await;
    let (kept, bytes) = (file(1000, 33), file(300_000, 34));
    bring(&world.ana, world.conversation, &kept).await;
    let (mut transfer, plan) = world.staged(&bytes, 1).await;
    world.proxy.set(Fault::Silent);
    let begun = Instant::now();
    let _ = transfer.send.finish();
    assert_eq!(transfer.refused().await, RejectCode::Internal);
    // The beginning is waited for once; nothing is there to be given up.
    assert!(begun.elapsed() < Duration::from_secs(5), "{begun:?}");
    let mut download = world.download(hash(&kept)).await;
    assert_eq!(download.refused().await, RejectCode::Internal);
    let stalled = world.gateway.metrics.media_store_stalled.get();
    assert_eq!(stalled, 2, "one for each transfer");
    world.at_rest().await;
    world.talk().await;
    world.healed(&plan, &[&kept, &bytes]).await;
}

/// The session's text waits behind a message with a file that must be looked for, but not for the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_does_not_wait_for_a_bucket_that_says_nothing() {
    let mut world = World::new(Duration::from_secs(60)).await;
    world.proxy.set(Fault::Silent);
    let content = picture(&file(1000, 35), 1000);
    world.ana.send_content(world.conversation, content).await;
    world.ana.send(world.conversation, "hello").await;
    let Outcome::Rejected(Rejection {
        code,
        retry_after_ms,
        ..
    }) = world.ana.reply().await.outcome
    else {
        panic!("it is not known whether the file is there");
    };
    assert_eq!(code, RejectCode::Busy);
    assert!(retry_after_ms > 0);
    assert_eq!(world.ben.message().await.0, 1);
    assert_eq!(world.gateway.metrics.media_lookups_late.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_where_the_bucket_stopped() {
    let world = World::new(Duration::from_millis(400)).await;
    let bytes = file((3 << 20) + 17, 36);
    bring(&world.ana, world.conversation, &bytes).await;
    let mut first = world.download(hash(&bytes)).await;
    let (_, mut got) = first.begun().await;
    // The gateway has more than what has come by now, and less than the whole.
    world.proxy.set(Fault::StopsAfter(1000));
    let code = soon(async {
        loop {
            match first.receive.read_chunk(usize::MAX, true).await {
                Ok(Some(chunk)) => got.extend_from_slice(&chunk.bytes),
                Ok(None) => panic!("the stream ended as if it were whole"),
                Err(ReadError::Reset(code)) => break code,
                Err(other) => panic!("{other}"),
            }
        }
    })
    .await;
    assert_eq!(
        StreamCode::from_code(code.into_inner()),
        StreamCode::Internal
    );
    assert!(!got.is_empty() && got.len() < bytes.len() && bytes.starts_with(&got));
    assert!(world.gateway.metrics.media_store_stalled.get() > 0);
    let on = Download {
        offset: got.len() as u64,
        ..world.fetching(hash(&bytes))
    };
    let mut still = Transfer::download(&world.ben, on).await;
    assert_eq!(still.refused().await, RejectCode::Internal);
    world.at_rest().await;
    world.proxy.set(Fault::None);
    let (_, rest) = Transfer::download(&world.ben, on).await.blob().await;
    assert!([got, rest].concat() == bytes);
    world.at_rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_outlives_a_bucket_that_goes_away_and_returns() {
    let mut world = World::new(Duration::from_secs(20)).await;
    // Two parts and a little.
    let (kept, bytes) = (file(1000, 37), file((16 << 20) + 5, 38));
    bring(&world.ana, world.conversation, &kept).await;
    let (mut transfer, plan) = world.staged(&bytes, 1).await;
    world.proxy.set(Fault::Gone);
    let _ = transfer.send.finish();
    assert_eq!(transfer.refused().await, RejectCode::Internal);
    let mut download = world.download(hash(&kept)).await;
    assert_eq!(download.refused().await, RejectCode::Internal);
    world.talk().await;
    world.at_rest().await;
    world.healed(&plan, &[&kept, &bytes]).await;
}

/// The bucket would be waited for longer than a test is.
#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_a_bucket_says_nothing_leaves_the_places_to_others() {
    let mut world = World::new(Duration::from_secs(600)).await;
    let files = [file(1000, 39), file(1000, 40)];
    let mut transfers = Vec::new();
    for (id, bytes) in (1..).zip(&files) {
        let (transfer, _) = world.staged(bytes, id).await;
        transfers.push(transfer);
    }
    world.proxy.set(Fault::Silent);
    for transfer in &mut transfers {
        let _ = transfer.send.finish();
    }
    soon(async {
        while world.proxy.failed() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    world.talk().await;
    let plan = upload(world.conversation, b"one more");
    let mut third = Transfer::upload(&world.ben, &plan).await;
    assert_eq!(third.refused().await, RejectCode::Busy);
    assert_eq!(world.gateway.metrics.media_transfers_busy.get(), 1);
    world.ana.connection.close(VarInt::from_u32(0), b"");
    soon(async {
        while world.gateway.metrics.media_transfers_running.get() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Their work goes on without them, as the bucket allows; ben's goes on beside it.
    world.proxy.set(Fault::None);
    bring(&world.ben, world.conversation, b"one more").await;
}

#[tokio::test]
async fn a_start_does_not_wait_for_a_bucket_that_says_nothing() {
    let root = tempfile::tempdir().expect("a folder");
    let bucket = Bucket::start().await;
    let proxy = Proxy::start(&bucket).await;
    let settings = proxy.settings();
    let objects = Objects::open(&settings, root.path(), &Arc::new(Metrics::new())).expect("opened");
    proxy.set(Fault::Silent);
    // A request would be waited for longer than that.
    let half = settings.stall_timeout / 2;
    let silent = tokio::time::timeout(half, objects.check()).await;
    assert!(matches!(silent, Ok(Ok(Checked::Silent(_)))), "{silent:?}");
    proxy.set(Fault::None);
    assert!(matches!(objects.check().await, Ok(Checked::Usable)));
}
