//! Files on blob streams: brought, resumed, refused, fetched, forwarded, forgotten.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use quinn::{ReadError, RecvStream, SendStream, VarInt};
use quipu_gateway::config::ByteCount;
use quipu_protocol::error::{RejectCode, StreamCode};
use quipu_protocol::event::{Content, Outcome};
use quipu_protocol::frame::{FrameDecoder, FrameType, RawFrame, StreamKind, encoded};
use quipu_protocol::id::ConversationId;
use quipu_protocol::limits::BLOB_STREAMS_MAX;
use quipu_protocol::media::{Blob, Download, MediaHash, MediaType, Upload, UploadId};
use quipu_protocol::wire;

use crate::peer::{Gateway, Peer, soon};

/// A blob stream of a client that says what a test tells it to.
pub(crate) struct Transfer {
    pub(crate) send: SendStream,
    pub(crate) receive: RecvStream,
    decoder: FrameDecoder,
    input: Bytes,
}

impl Transfer {
    async fn open(peer: &Peer, first: &[u8]) -> Self {
        let (mut send, receive) = soon(peer.connection.open_bi()).await.expect("a stream");
        // A gateway that has refused the stream is seen when reading.
        let _ = send.write_all(first).await;
        Self {
            send,
            receive,
            decoder: FrameDecoder::new(StreamKind::BlobFromGateway),
            input: Bytes::new(),
        }
    }

    pub(crate) async fn upload(peer: &Peer, upload: &Upload) -> Self {
        Self::open(
            peer,
            &encoded(FrameType::Upload, &wire::Upload::from(upload)),
        )
        .await
    }

    pub(crate) async fn download(peer: &Peer, download: Download) -> Self {
        let mut transfer = Self::open(
            peer,
            &encoded(FrameType::Download, &wire::Download::from(&download)),
        )
        .await;
        let _ = transfer.send.finish();
        transfer
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let _ = soon(self.send.write_all(bytes)).await;
    }

    async fn frame(&mut self) -> RawFrame {
        loop {
            if self.input.is_empty() {
                let chunk = soon(self.receive.read_chunk(usize::MAX, true)).await;
                let chunk = chunk
                    .expect("the stream goes on")
                    .expect("it has not ended");
                self.input = chunk.bytes;
            }
            if let Some(frame) = self.decoder.decode(&mut self.input).expect("valid frames") {
                return frame;
            }
        }
    }

    pub(crate) async fn offset(&mut self) -> u64 {
        let frame = self.frame().await;
        assert_eq!(frame.kind, FrameType::UploadState, "{:?}", code(&frame));
        let state: wire::UploadState = frame.message().expect("UPLOAD_STATE");
        state.offset
    }

    pub(crate) async fn uploaded(&mut self) {
        let frame = self.frame().await;
        assert_eq!(frame.kind, FrameType::Uploaded, "{:?}", code(&frame));
    }

    pub(crate) async fn refused(&mut self) -> RejectCode {
        let frame = self.frame().await;
        assert_eq!(frame.kind, FrameType::Failure);
        code(&frame).expect("a rejection")
    }

    pub(crate) async fn reset_code(&mut self) -> StreamCode {
        loop {
            match soon(self.receive.read_chunk(usize::MAX, true)).await {
                Err(ReadError::Reset(code)) => return StreamCode::from_code(code.into_inner()),
                Ok(Some(_)) => {}
                other => panic!("not a reset: {other:?}"),
            }
        }
    }

    /// BLOB, and the bytes behind it that have come.
    pub(crate) async fn begun(&mut self) -> (Blob, Vec<u8>) {
        let frame = self.frame().await;
        assert_eq!(frame.kind, FrameType::Blob, "{:?}", code(&frame));
        let blob = Blob::try_from(frame.message::<wire::Blob>().expect("BLOB")).expect("valid");
        (blob, std::mem::take(&mut self.input).to_vec())
    }

    /// BLOB and what follows it.
    pub(crate) async fn blob(&mut self) -> (Blob, Vec<u8>) {
        let (blob, mut bytes) = self.begun().await;
        while let Some(chunk) = soon(self.receive.read_chunk(usize::MAX, true))
            .await
            .expect("the stream goes on")
        {
            bytes.extend_from_slice(&chunk.bytes);
        }
        (blob, bytes)
    }
}

fn code(frame: &RawFrame) -> Option<RejectCode> {
    let rejected = frame.message::<wire::Rejected>().ok()?;
    Some(RejectCode::from_code(u64::from(rejected.code)))
}

pub(crate) fn file(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let byte = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(byte).collect()
}

pub(crate) fn hash(bytes: &[u8]) -> MediaHash {
    MediaHash(*blake3::hash(bytes).as_bytes())
}

pub(crate) fn upload(conversation: ConversationId, bytes: &[u8]) -> Upload {
    Upload {
        upload: UploadId([7; 16]),
        conversation,
        hash: hash(bytes),
        size: bytes.len() as u64,
        media_type: MediaType::new("image/png").expect("a media type"),
        source: None,
    }
}

pub(crate) fn whole(conversation: ConversationId, hash: MediaHash) -> Download {
    Download {
        conversation,
        hash,
        offset: 0,
        length: 0,
    }
}

/// Brings a file as one does who has read the specification.
pub(crate) async fn bring(peer: &Peer, conversation: ConversationId, bytes: &[u8]) {
    let mut transfer = Transfer::upload(peer, &upload(conversation, bytes)).await;
    let offset = transfer.offset().await as usize;
    transfer.write(&bytes[offset..]).await;
    let _ = transfer.send.finish();
    transfer.uploaded().await;
}

pub(crate) async fn two(gateway: &Gateway) -> (Peer, Peer, ConversationId) {
    let mut ana = gateway.register("ana").await;
    let ben = gateway.register("ben").await;
    let conversation = ana.open_direct("ben").await;
    (ana, ben, conversation)
}

/// Waits until the gateway has counted so many bytes of uploads.
async fn received(gateway: &Gateway, bytes: u64) {
    soon(async {
        while gateway.metrics.media_upload_bytes.get() < bytes {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_fetch_what_one_of_them_brought_and_strangers_do_not() {
    members_fetch(&Gateway::start()).await;
}

/// In a folder here, in a bucket in `bucket.rs`.
pub(crate) async fn members_fetch(gateway: &Gateway) {
    let (ana, ben, conversation) = two(gateway).await;
    let eve = gateway.register("eve").await;
    let bytes = file(700_001, 1);
    bring(&ana, conversation, &bytes).await;

    for (offset, length, expected) in [
        (0, 0, &bytes[..]),
        (700_000, 0, &bytes[700_000..]),
        (700_001, 0, &[][..]),
        (65_537, 300_000, &bytes[65_537..365_537]),
        (600_000, u64::MAX, &bytes[600_000..]),
    ] {
        let download = Download {
            offset,
            length,
            ..whole(conversation, hash(&bytes))
        };
        let (blob, got) = Transfer::download(&ben, download).await.blob().await;
        assert_eq!((blob.size, blob.offset), (700_001, offset));
        assert_eq!(blob.media_type.as_str(), "image/png");
        assert_eq!(blob.length as usize, expected.len());
        assert!(got == expected, "bytes from {offset} on");
    }

    let past = Download {
        offset: 700_002,
        ..whole(conversation, hash(&bytes))
    };
    let unknown = whole(conversation, MediaHash([1; 32]));
    for (peer, download, code) in [
        (&ben, past, RejectCode::Invalid),
        (&ben, unknown, RejectCode::UnknownMedia),
        (
            &eve,
            whole(conversation, hash(&bytes)),
            RejectCode::UnknownConversation,
        ),
        (&eve, unknown, RejectCode::UnknownConversation),
    ] {
        assert_eq!(
            Transfer::download(peer, download).await.refused().await,
            code
        );
    }
    let strange = upload(conversation, &bytes);
    let refused = Transfer::upload(&eve, &strange).await.refused().await;
    assert_eq!(refused, RejectCode::UnknownConversation);
    assert_eq!(gateway.metrics.media_transfers_running.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_where_its_stream_broke() {
    an_upload_goes_on(&Gateway::start()).await;
}

/// In a folder here, in a bucket in `bucket.rs`.
pub(crate) async fn an_upload_goes_on(gateway: &Gateway) {
    let (ana, ben, conversation) = two(gateway).await;
    let bytes = file(400_000, 2);
    let plan = upload(conversation, &bytes);
    let mut have = 0;
    for stop in [1, 65_536, 300_000, 399_999] {
        let mut transfer = Transfer::upload(&ana, &plan).await;
        assert_eq!(transfer.offset().await, have as u64);
        transfer.write(&bytes[have..stop]).await;
        received(gateway, stop as u64).await;
        let _ = transfer.send.reset(VarInt::from_u32(0));
        have = stop;
    }
    let mut transfer = Transfer::upload(&ana, &plan).await;
    assert_eq!(transfer.offset().await, 399_999);
    transfer.write(&bytes[399_999..]).await;
    let _ = transfer.send.finish();
    transfer.uploaded().await;
    // Nothing travelled twice, and the file is what it should be.
    assert_eq!(gateway.metrics.media_upload_bytes.get(), 400_000);
    let (_, got) = Transfer::download(&ben, whole(conversation, plan.hash))
        .await
        .blob()
        .await;
    assert!(got == bytes);
    // Who brings it again brings nothing.
    let mut again = Transfer::upload(&ben, &plan).await;
    assert_eq!(again.offset().await, 400_000);
    again.uploaded().await;
    let larger = Upload {
        size: 400_001,
        ..plan
    };
    let refused = Transfer::upload(&ben, &larger).await.refused().await;
    assert_eq!(refused, RejectCode::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_that_comes_last_has_the_upload() {
    let gateway = Gateway::start();
    let (ana, _ben, conversation) = two(&gateway).await;
    let bytes = file(100_000, 3);
    let plan = upload(conversation, &bytes);
    let mut first = Transfer::upload(&ana, &plan).await;
    assert_eq!(first.offset().await, 0);
    first.write(&bytes[..50_000]).await;
    received(&gateway, 50_000).await;
    let mut second = Transfer::upload(&ana, &plan).await;
    assert_eq!(second.offset().await, 50_000);
    assert_eq!(first.reset_code().await, StreamCode::Cancelled);
    second.write(&bytes[50_000..]).await;
    let _ = second.send.finish();
    second.uploaded().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_what_was_announced_are_refused() {
    let gateway = Gateway::start();
    let (ana, _ben, conversation) = two(&gateway).await;
    let bytes = file(100_000, 4);
    let plan = upload(conversation, &bytes);

    let mut short = Transfer::upload(&ana, &plan).await;
    assert_eq!(short.offset().await, 0);
    short.write(&bytes[..70_000]).await;
    let _ = short.send.finish();
    assert_eq!(short.refused().await, RejectCode::Invalid);
    // What came of it is kept.
    let mut long = Transfer::upload(&ana, &plan).await;
    assert_eq!(long.offset().await, 70_000);
    long.write(&bytes[69_999..]).await;
    let _ = long.send.finish();
    assert_eq!(long.refused().await, RejectCode::Invalid);

    let mut lie = Transfer::upload(&ana, &plan).await;
    let offset = lie.offset().await as usize;
    lie.write(&vec![0; bytes.len() - offset]).await;
    let _ = lie.send.finish();
    assert_eq!(lie.refused().await, RejectCode::Invalid);
    assert_eq!(gateway.metrics.media_uploads_broken.get(), 1);
    // Nothing of it is left.
    let unknown = Transfer::download(&ana, whole(conversation, plan.hash)).await;
    assert_eq!({ unknown }.refused().await, RejectCode::UnknownMedia);
    let mut anew = Transfer::upload(&ana, &plan).await;
    assert_eq!(anew.offset().await, 0);
    // The id stands for this file; another one needs another.
    let other = Upload {
        hash: MediaHash([9; 32]),
        ..plan
    };
    let refused = Transfer::upload(&ana, &other).await.refused().await;
    assert_eq!(refused, RejectCode::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_settings_do_not_allow_is_refused_before_its_bytes() {
    let gateway = Gateway::start_with(|config| {
        config.media.max_size = ByteCount(1000);
        config.media.staging = ByteCount(1500);
        config.media.types = "image/*".to_owned();
        config.media.partials_per_user = 2;
        config.media.user_transfers = 16;
    });
    let (ana, ben, conversation) = two(&gateway).await;
    let plan = |id: u8, size: u64| Upload {
        upload: UploadId([id; 16]),
        size,
        ..upload(conversation, &[id])
    };
    let video = Upload {
        media_type: MediaType::new("video/mp4").expect("a media type"),
        ..plan(0, 1)
    };
    let tells =
        async |peer: &Peer, plan: &Upload| Transfer::upload(peer, plan).await.refused().await;
    assert_eq!(tells(&ana, &plan(0, 1001)).await, RejectCode::TooLarge);
    assert_eq!(tells(&ana, &plan(0, u64::MAX)).await, RejectCode::TooLarge);
    assert_eq!(tells(&ana, &plan(0, 0)).await, RejectCode::Invalid);
    assert_eq!(tells(&ana, &video).await, RejectCode::Invalid);

    let mut kept = Vec::new();
    for id in [1, 2] {
        let mut transfer = Transfer::upload(&ana, &plan(id, 500)).await;
        assert_eq!(transfer.offset().await, 0);
        let _ = transfer.send.reset(VarInt::from_u32(0));
        kept.push(transfer);
    }
    assert_eq!(tells(&ana, &plan(3, 1)).await, RejectCode::TooMany);
    // 1000 bytes are promised to ana; 501 more do not fit.
    assert_eq!(tells(&ben, &plan(4, 501)).await, RejectCode::Busy);
    assert_eq!(gateway.metrics.media_uploads_refused.get(), 6);
    // A day later ana has forgotten them, and so has the gateway.
    let tomorrow = SystemTime::now() + Duration::from_secs(24 * 3600 + 1);
    soon(async {
        while gateway.metrics.media_transfers_running.get() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gateway.media.sweep(tomorrow).await.expect("swept");
    assert_eq!(gateway.metrics.media_partials_removed.get(), 2);
    let mut transfer = Transfer::upload(&ben, &plan(4, 501)).await;
    assert_eq!(transfer.offset().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_few_blob_streams_and_its_other_streams_go_on() {
    let gateway = Gateway::start();
    let (mut ana, mut ben, conversation) = two(&gateway).await;
    let mut held = Vec::new();
    for id in 0..BLOB_STREAMS_MAX {
        let bytes = file(1000, id as u32);
        let plan = Upload {
            upload: UploadId([id as u8; 16]),
            ..upload(conversation, &bytes)
        };
        let mut transfer = Transfer::upload(&ana, &plan).await;
        assert_eq!(transfer.offset().await, 0);
        held.push(transfer);
    }
    let mut third = Transfer::upload(&ana, &upload(conversation, b"x")).await;
    assert_eq!(third.reset_code().await, StreamCode::Busy);
    assert_eq!(gateway.metrics.media_transfers_busy.get(), 1);
    assert_eq!(ana.history(conversation).await.kind, FrameType::HistoryPage);
    ana.send(conversation, "still here").await;
    assert_eq!(ben.message().await.0, 1);
    // Thousands of streams that are given up at once leave nothing behind.
    for _ in 0..3000 {
        let plan = upload(conversation, b"y");
        let mut transfer = Transfer::upload(&ben, &plan).await;
        let _ = transfer.send.reset(VarInt::from_u32(0));
        let _ = transfer.receive.stop(VarInt::from_u32(0));
    }
    drop(held);
    ana.connection.close(VarInt::from_u32(0), b"");
    soon(async {
        while gateway.metrics.media_transfers_running.get() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    bring(&ben, conversation, b"y").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_hardly_moves_is_ended_and_can_go_on() {
    let gateway = Gateway::start_with(|config| {
        config.media.stall_timeout = Duration::from_millis(300);
    });
    let (ana, ben, conversation) = two(&gateway).await;
    let bytes = file(300_000, 6);
    let plan = upload(conversation, &bytes);
    let mut stalled = Transfer::upload(&ana, &plan).await;
    assert_eq!(stalled.offset().await, 0);
    stalled.write(&bytes[..10]).await;
    assert_eq!(stalled.reset_code().await, StreamCode::Cancelled);
    let mut again = Transfer::upload(&ana, &plan).await;
    assert_eq!(again.offset().await, 10);
    again.write(&bytes[10..]).await;
    let _ = again.send.finish();
    again.uploaded().await;
    // Who does not read what was asked for does not hold a place for long either.
    let mut deaf = Transfer::download(&ben, whole(conversation, plan.hash)).await;
    soon(async {
        while gateway.metrics.media_transfers_stalled.get() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(deaf.reset_code().await, StreamCode::Cancelled);
}

pub(crate) fn picture(bytes: &[u8], size: u64) -> wire::Content {
    wire::Content {
        kind: Some(wire::content::Kind::Rich(wire::Rich {
            attachments: vec![wire::Attachment {
                hash: Bytes::copy_from_slice(&hash(bytes).0),
                size,
                media_type: "image/png".into(),
                name: "holiday.png".into(),
                ..wire::Attachment::default()
            }],
            ..wire::Rich::default()
        })),
    }
}

async fn rejected(peer: &mut Peer) -> RejectCode {
    match peer.reply().await.outcome {
        Outcome::Rejected(rejection) => rejection.code,
        other => panic!("not rejected: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_refer_to_files_that_are_there_and_keep_them() {
    messages_keep_files(&Gateway::start()).await;
}

/// In a folder here, in a bucket in `bucket.rs`.
pub(crate) async fn messages_keep_files(gateway: &Gateway) {
    let (mut ana, mut ben, conversation) = two(gateway).await;
    let mut eve = gateway.register("eve").await;
    let (sent, unsent) = (file(50_000, 7), file(50_000, 8));

    ana.send_content(conversation, picture(&sent, 50_000)).await;
    assert_eq!(rejected(&mut ana).await, RejectCode::UnknownMedia);
    bring(&ana, conversation, &sent).await;
    bring_as(&ben, conversation, &unsent, UploadId([8; 16])).await;
    ana.send_content(conversation, picture(&sent, 49_999)).await;
    assert_eq!(rejected(&mut ana).await, RejectCode::Invalid);
    // A stranger learns nothing about what is there.
    for (bytes, size) in [(&sent, 50_000), (&sent, 1), (&file(9, 9), 9)] {
        eve.send_content(conversation, picture(bytes, size)).await;
        assert_eq!(rejected(&mut eve).await, RejectCode::UnknownConversation);
    }
    ana.send_content(conversation, picture(&sent, 50_000)).await;
    for peer in [&mut ana, &mut ben] {
        let (_, message) = peer.message().await;
        let Content::Rich(rich) = message.content else {
            panic!("{:?}", message.content)
        };
        assert_eq!(rich.attachments[0].hash, hash(&sent).0);
    }

    // Nobody is swept away while a message may be on its way.
    assert_eq!(
        gateway.media.sweep(SystemTime::now()).await.expect("swept"),
        0
    );
    let later = SystemTime::now() + Duration::from_secs(3601);
    assert_eq!(gateway.media.sweep(later).await.expect("swept"), 1);
    let gone = Transfer::download(&ben, whole(conversation, hash(&unsent))).await;
    assert_eq!({ gone }.refused().await, RejectCode::UnknownMedia);
    ben.send_content(conversation, picture(&unsent, 50_000))
        .await;
    assert_eq!(rejected(&mut ben).await, RejectCode::UnknownMedia);
    let (_, got) = Transfer::download(&ben, whole(conversation, hash(&sent)))
        .await
        .blob()
        .await;
    assert!(got == sent);
    assert_eq!(gateway.media.sweep(later).await.expect("swept"), 0);
}

async fn bring_as(peer: &Peer, conversation: ConversationId, bytes: &[u8], id: UploadId) {
    let plan = Upload {
        upload: id,
        ..upload(conversation, bytes)
    };
    let mut transfer = Transfer::upload(peer, &plan).await;
    assert_eq!(transfer.offset().await, 0);
    transfer.write(bytes).await;
    let _ = transfer.send.finish();
    transfer.uploaded().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_file_needs_no_bytes_and_outlives_the_first_one() {
    a_forwarded_file_stays(&Gateway::start()).await;
}

/// In a folder here, in a bucket in `bucket.rs`.
pub(crate) async fn a_forwarded_file_stays(gateway: &Gateway) {
    let (mut ana, _ben, first) = two(gateway).await;
    let mut eve = gateway.register("eve").await;
    let second = ana.open_direct("eve").await;
    let bytes = file(80_000, 10);
    bring(&ana, first, &bytes).await;
    let forward = Upload {
        upload: UploadId([11; 16]),
        source: Some(first),
        ..upload(second, &bytes)
    };
    // Only who can see it there can take it from there.
    let mut stolen = Transfer::upload(&eve, &forward).await;
    assert_eq!(stolen.offset().await, 0);
    let mut forwarded = Transfer::upload(&ana, &forward).await;
    assert_eq!(forwarded.offset().await, 80_000);
    forwarded.uploaded().await;
    assert_eq!(gateway.metrics.media_upload_bytes.get(), 80_000);
    ana.send_content(second, picture(&bytes, 80_000)).await;
    assert_eq!(eve.message().await.0, 1);
    let later = SystemTime::now() + Duration::from_secs(3601);
    assert_eq!(gateway.media.sweep(later).await.expect("swept"), 1);
    let gone = Transfer::download(&ana, whole(first, hash(&bytes))).await;
    assert_eq!({ gone }.refused().await, RejectCode::UnknownMedia);
    let (_, got) = Transfer::download(&eve, whole(second, hash(&bytes)))
        .await
        .blob()
        .await;
    assert!(got == bytes);
}
