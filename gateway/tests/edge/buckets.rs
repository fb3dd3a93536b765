//! Files that are kept in a bucket of a real S3 service: the same promises as in a folder, and what holds while it is away.

use quipu_protocol::error::RejectCode;
use quipu_protocol::media::Download;

use crate::bucket::Bucket;
use crate::media::{
    Transfer, a_forwarded_file_stays, an_upload_goes_on, bring, file, hash, members_fetch,
    messages_keep_files, two, upload, whole,
};
use crate::peer::Gateway;

fn gateway_on(bucket: &Bucket) -> Gateway {
    Gateway::start_with(|config| config.media = bucket.settings())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_fetch_from_a_bucket_and_strangers_do_not() {
    let bucket = Bucket::start().await;
    members_fetch(&gateway_on(&bucket)).await;
    assert_eq!(bucket.objects(), 2, "the bytes and their label");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_to_a_bucket_goes_on_where_its_stream_broke() {
    let bucket = Bucket::start().await;
    an_upload_goes_on(&gateway_on(&bucket)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_keep_files_in_a_bucket_and_the_sweep_removes_others() {
    let bucket = Bucket::start().await;
    messages_keep_files(&gateway_on(&bucket)).await;
    assert_eq!(bucket.objects(), 2, "of two files one was swept away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_file_is_copied_within_the_bucket() {
    let bucket = Bucket::start().await;
    a_forwarded_file_stays(&gateway_on(&bucket)).await;
}

/// More than one part on the way in, more than one request on the way out.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_comes_out_of_a_bucket_as_it_went_in() {
    let bucket = Bucket::start().await;
    let gateway = gateway_on(&bucket);
    let (ana, ben, conversation) = two(&gateway).await;
    let bytes = file((9 << 20) + 1, 20);
    bring(&ana, conversation, &bytes).await;
    for (offset, length) in [(0, 0), (1_000_000, 3_000_000), ((9 << 20) - 1, 0)] {
        let download = Download {
            offset,
            length,
            ..whole(conversation, hash(&bytes))
        };
        let (blob, got) = Transfer::download(&ben, download).await.blob().await;
        let (from, to) = (offset as usize, (offset + blob.length) as usize);
        assert!(length == 0 || blob.length == length);
        assert!(got == bytes[from..to], "{length} bytes from {offset}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_bucket_is_away_text_goes_on_and_afterwards_nothing_has_to_be_sent_again() {
    let bucket = Bucket::start().await;
    let gateway = gateway_on(&bucket);
    let (mut ana, mut ben, conversation) = two(&gateway).await;
    let (kept, bytes) = (file(1000, 21), file(300_000, 22));
    bring(&ana, conversation, &kept).await;
    let plan = upload(conversation, &bytes);
    let mut transfer = Transfer::upload(&ana, &plan).await;
    assert_eq!(transfer.offset().await, 0);
    transfer.write(&bytes).await;

    bucket.down_after(0);
    let _ = transfer.send.finish();
    assert_eq!(transfer.refused().await, RejectCode::Internal);
    let fetched = whole(conversation, hash(&kept));
    let refused = Transfer::download(&ben, fetched).await.refused().await;
    assert_eq!(refused, RejectCode::Internal);
    ana.send(conversation, "no film today").await;
    assert_eq!(ben.message().await.0, 1);

    bucket.up();
    let mut again = Transfer::upload(&ana, &plan).await;
    assert_eq!(again.offset().await, 300_000);
    let _ = again.send.finish();
    again.uploaded().await;
    assert_eq!(gateway.metrics.media_upload_bytes.get(), 301_000);
    for expected in [&kept, &bytes] {
        let whole = whole(conversation, hash(expected));
        let (_, got) = Transfer::download(&ben, whole).await.blob().await;
        assert!(got == *expected);
    }
}
