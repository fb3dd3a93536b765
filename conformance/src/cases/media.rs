//! Files: brought and fetched on blob streams, resumed, refused, and referred to by messages.

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use prost::Message as _;
use quipu_protocol::error::{RejectCode, StreamCode};
use quipu_protocol::frame::FrameType;
use quipu_protocol::id::ConversationId;
use quipu_protocol::limits::BLOB_STREAMS_MAX;
use quipu_protocol::wire;

use crate::raw::{Stream, frame};
use crate::session::Session;
use crate::suite::Context;

/// What every gateway should take: a picture that is small.
const FILE_BYTES: usize = 100_000;

fn file(context: &Context) -> Vec<u8> {
    // Different in every case, so that cases do not find each other's files.
    let name = context.fresh_name();
    name.bytes().cycle().take(FILE_BYTES).collect()
}

fn upload(conversation: &ConversationId, file: &[u8]) -> wire::Upload {
    let hash = blake3::hash(file);
    wire::Upload {
        upload: Bytes::copy_from_slice(&hash.as_bytes()[..16]),
        conversation: Bytes::copy_from_slice(conversation.as_bytes()),
        hash: Bytes::copy_from_slice(hash.as_bytes()),
        size: file.len() as u64,
        media_type: "image/png".into(),
        source: Bytes::new(),
    }
}

async fn begin(session: &Session, upload: &wire::Upload) -> anyhow::Result<Stream> {
    let mut stream = session.peer.open().await?;
    stream.send(FrameType::Upload, upload).await?;
    Ok(stream)
}

async fn offset(stream: &mut Stream) -> anyhow::Result<usize> {
    let state: wire::UploadState = stream.expect(FrameType::UploadState).await?;
    Ok(usize::try_from(state.offset)?)
}

async fn uploaded(stream: &mut Stream, upload: &wire::Upload) -> anyhow::Result<()> {
    let done: wire::Uploaded = stream.expect(FrameType::Uploaded).await?;
    ensure!(
        done.hash == upload.hash && done.size == upload.size,
        "{done:?}"
    );
    ensure!(stream.next().await?.is_none(), "something follows UPLOADED");
    Ok(())
}

async fn bring(session: &Session, upload: &wire::Upload, file: &[u8]) -> anyhow::Result<()> {
    let mut stream = begin(session, upload).await?;
    let from = offset(&mut stream).await?;
    stream.write(&file[from..]).await?;
    stream.finish()?;
    uploaded(&mut stream, upload).await
}

/// The code of the FAILURE that comes instead of anything else.
async fn failure(stream: &mut Stream) -> anyhow::Result<RejectCode> {
    let failure: wire::Rejected = stream.expect(FrameType::Failure).await?;
    Ok(RejectCode::from_code(u64::from(failure.code)))
}

async fn expect_failure(stream: &mut Stream, code: RejectCode) -> anyhow::Result<()> {
    let got = failure(stream).await?;
    ensure!(got == code, "expected {code}, got {got}");
    Ok(())
}

async fn fetch(
    session: &Session,
    upload: &wire::Upload,
    offset: u64,
    length: u64,
) -> anyhow::Result<Stream> {
    let download = wire::Download {
        conversation: upload.conversation.clone(),
        hash: upload.hash.clone(),
        offset,
        length,
    };
    let mut stream = session.peer.open().await?;
    stream.send(FrameType::Download, &download).await?;
    stream.finish()?;
    Ok(stream)
}

async fn up_and_down(context: Context) -> anyhow::Result<()> {
    let (a, b, conversation) = context.pair().await?;
    let file = file(&context);
    let upload = upload(&conversation, &file);
    bring(&a, &upload, &file).await?;
    for (from, length) in [(0, 0), (1, 0), (70_000, 5), (99_999, 100), (100_000, 0)] {
        let mut stream = fetch(&b, &upload, from, length).await?;
        let blob: wire::Blob = stream.expect(FrameType::Blob).await?;
        let rest = file.len() as u64 - from;
        let expected = if length == 0 { rest } else { length.min(rest) };
        ensure!(
            blob.size == file.len() as u64 && blob.offset == from && blob.length == expected,
            "{blob:?}"
        );
        let got = stream.rest().await?;
        let from = usize::try_from(from)?;
        ensure!(
            got == file[from..from + usize::try_from(expected)?],
            "other bytes"
        );
    }
    // Brought again, also by somebody else, it needs no bytes.
    let mut again = begin(&b, &upload).await?;
    ensure!(
        offset(&mut again).await? == file.len(),
        "bytes are asked for again"
    );
    uploaded(&mut again, &upload).await
}

async fn goes_on(context: Context) -> anyhow::Result<()> {
    let (a, _b, conversation) = context.pair().await?;
    let file = file(&context);
    let upload = upload(&conversation, &file);
    let mut first = begin(&a, &upload).await?;
    ensure!(offset(&mut first).await? == 0, "a new upload begins at 0");
    first.write(&file[..60_000]).await?;
    // The second stream takes over, from wherever the first one has come.
    let mut second = begin(&a, &upload).await?;
    let from = offset(&mut second).await?;
    ensure!(from <= 60_000, "more than was sent");
    first.expect_reset(&[StreamCode::Cancelled]).await?;
    second.write(&file[from..]).await?;
    second.finish()?;
    uploaded(&mut second, &upload).await
}

async fn strangers(context: Context) -> anyhow::Result<()> {
    let (a, _b, conversation) = context.pair().await?;
    let stranger = context.user().await?;
    let file = file(&context);
    let upload = upload(&conversation, &file);
    bring(&a, &upload, &file).await?;
    expect_failure(
        &mut begin(&stranger, &upload).await?,
        RejectCode::UnknownConversation,
    )
    .await?;
    let mut down = fetch(&stranger, &upload, 0, 0).await?;
    expect_failure(&mut down, RejectCode::UnknownConversation).await?;
    // A conversation that does not exist looks the same.
    let nowhere = wire::Upload {
        conversation: Bytes::copy_from_slice(&[1; 16]),
        ..upload
    };
    expect_failure(
        &mut begin(&stranger, &nowhere).await?,
        RejectCode::UnknownConversation,
    )
    .await
}

async fn refused_before_the_bytes(context: Context) -> anyhow::Result<()> {
    let (a, _b, conversation) = context.pair().await?;
    let file = file(&context);
    let good = upload(&conversation, &file);
    for (what, broken) in [
        (
            "no size",
            wire::Upload {
                size: 0,
                ..good.clone()
            },
        ),
        (
            "a short hash",
            wire::Upload {
                hash: Bytes::from_static(b"x"),
                ..good.clone()
            },
        ),
        (
            "no id",
            wire::Upload {
                upload: Bytes::new(),
                ..good.clone()
            },
        ),
        (
            "no type",
            wire::Upload {
                media_type: String::new(),
                ..good.clone()
            },
        ),
        (
            "a loud type",
            wire::Upload {
                media_type: "Image/PNG".into(),
                ..good.clone()
            },
        ),
        (
            "a short source",
            wire::Upload {
                source: Bytes::from_static(b"x"),
                ..good.clone()
            },
        ),
    ] {
        let got = failure(&mut begin(&a, &broken).await?)
            .await
            .context(what)?;
        ensure!(got == RejectCode::Invalid, "{what}: {got}");
    }
    let endless = wire::Upload {
        size: u64::MAX,
        ..good.clone()
    };
    expect_failure(&mut begin(&a, &endless).await?, RejectCode::TooLarge).await?;
    let mut unknown = fetch(&a, &good, 0, 0).await?;
    expect_failure(&mut unknown, RejectCode::UnknownMedia).await?;
    bring(&a, &good, &file).await?;
    let mut past = fetch(&a, &good, good.size + 1, 0).await?;
    expect_failure(&mut past, RejectCode::Invalid).await
}

async fn lies(context: Context) -> anyhow::Result<()> {
    let (mut a, _b, conversation) = context.pair().await?;
    let file = file(&context);
    let upload = upload(&conversation, &file);
    let mut long = begin(&a, &upload).await?;
    let from = offset(&mut long).await?;
    // The gateway may refuse while the bytes are on their way.
    let _ = long.write(&[&file[from..], b"more"].concat()).await;
    let _ = long.finish();
    expect_failure(&mut long, RejectCode::Invalid).await?;
    let mut wrong = begin(&a, &upload).await?;
    let from = offset(&mut wrong).await?;
    if from < file.len() {
        wrong.write(&vec![0; file.len() - from]).await?;
    }
    wrong.finish()?;
    let mut down = match from == file.len() {
        // It kept the good part of the long one, which is the whole file: that is right as well.
        true => return uploaded(&mut wrong, &upload).await,
        false => {
            expect_failure(&mut wrong, RejectCode::Invalid).await?;
            fetch(&a, &upload, 0, 0).await?
        }
    };
    expect_failure(&mut down, RejectCode::UnknownMedia).await?;
    a.expect_alive().await
}

async fn frames_around_bytes(context: Context) -> anyhow::Result<()> {
    let (mut a, _b, conversation) = context.pair().await?;
    let file = file(&context);
    let upload = upload(&conversation, &file).encode_to_vec();
    // Bytes before UPLOAD_STATE.
    let mut early = a.peer.open().await?;
    let first = [&frame(FrameType::Upload as u64, &upload)[..], &file[..10]].concat();
    early.write(&first).await?;
    early.expect_reset(&[StreamCode::FrameError]).await?;
    let mut answer = a.peer.open().await?;
    answer.write(&frame(FrameType::Blob as u64, &[])).await?;
    answer.expect_reset(&[StreamCode::FrameError]).await?;
    a.expect_alive().await
}

async fn streams_are_counted(context: Context) -> anyhow::Result<()> {
    let (mut a, _b, conversation) = context.pair().await?;
    let mut held = Vec::new();
    for n in 0..BLOB_STREAMS_MAX {
        let file = vec![n as u8; 1000];
        let mut stream = begin(&a, &upload(&conversation, &file)).await?;
        offset(&mut stream).await?;
        held.push(stream);
    }
    let mut third = begin(&a, &upload(&conversation, b"third")).await?;
    third.expect_reset(&[StreamCode::Busy]).await?;
    // Neither requests nor messages wait for them.
    a.expect_alive().await?;
    a.say(&conversation, "beside two uploads").await?;
    held.clear();
    a.expect_alive().await
}

async fn forwarded(context: Context) -> anyhow::Result<()> {
    let (mut a, _b, first) = context.pair().await?;
    let c = context.user().await?;
    let second = a.open_direct(&c.welcome.user).await?;
    let file = file(&context);
    bring(&a, &upload(&first, &file), &file).await?;
    let forward = wire::Upload {
        upload: Bytes::copy_from_slice(&[0x5a; 16]),
        source: Bytes::copy_from_slice(first.as_bytes()),
        ..upload(&second, &file)
    };
    // Who is not in the other conversation cannot take it from there.
    let mut stolen = begin(&c, &forward).await?;
    ensure!(offset(&mut stolen).await? == 0, "a stranger took a file");
    let mut stream = begin(&a, &forward).await?;
    ensure!(
        offset(&mut stream).await? == file.len(),
        "bytes are asked for"
    );
    uploaded(&mut stream, &forward).await?;
    let mut down = fetch(&c, &forward, 0, 0).await?;
    let _: wire::Blob = down.expect(FrameType::Blob).await?;
    ensure!(down.rest().await? == file, "other bytes");
    Ok(())
}

async fn messages_with_files(context: Context) -> anyhow::Result<()> {
    let (mut a, mut b, conversation) = context.pair().await?;
    let file = file(&context);
    let upload = upload(&conversation, &file);
    let attachment = wire::Attachment {
        hash: upload.hash.clone(),
        size: upload.size,
        media_type: upload.media_type.clone(),
        name: "picture.png".into(),
        ..wire::Attachment::default()
    };
    let refused = try_send(&mut a, &conversation, attachment.clone()).await?;
    ensure!(refused == Some(RejectCode::UnknownMedia), "{refused:?}");
    bring(&a, &upload, &file).await?;
    let small = wire::Attachment {
        size: 1,
        ..attachment.clone()
    };
    let refused = try_send(&mut a, &conversation, small).await?;
    ensure!(refused == Some(RejectCode::Invalid), "{refused:?}");
    let accepted = try_send(&mut a, &conversation, attachment.clone()).await?;
    ensure!(accepted.is_none(), "{accepted:?}");
    let (_, message) = b.message().await?;
    let content = message.content.and_then(|content| content.kind);
    match content {
        Some(wire::content::Kind::Rich(rich)) => {
            ensure!(rich.attachments == [attachment], "{rich:?}");
            Ok(())
        }
        other => bail!("not a rich message: {other:?}"),
    }
}

/// Sends a message with a file; `None`: it was accepted.
async fn try_send(
    session: &mut Session,
    conversation: &ConversationId,
    attachment: wire::Attachment,
) -> anyhow::Result<Option<RejectCode>> {
    let rich = wire::Rich {
        attachments: vec![attachment],
        ..wire::Rich::default()
    };
    let send = wire::Send {
        content: Some(wire::Content {
            kind: Some(wire::content::Kind::Rich(rich)),
        }),
        ..session.next_send(conversation, "")
    };
    session.s0.send(FrameType::Send, &send).await?;
    tokio::select! {
        reply = session.s0.expect::<wire::Reply>(FrameType::Reply) => match reply?.outcome {
            Some(wire::reply::Outcome::Rejected(rejected)) => {
                Ok(Some(RejectCode::from_code(u64::from(rejected.code))))
            }
            other => bail!("{other:?}"),
        },
        event = session.lane.next() => {
            event?.context("the lane ended")?;
            Ok(None)
        }
    }
}

cases! {
    "media/up-and-down", ["QP-BLOB-5", "QP-BLOB-6", "QP-BLOB-8"], up_and_down;
    "media/goes-on", ["QP-BLOB-7"], goes_on;
    "media/strangers", ["QP-BLOB-4", "QP-BLOB-8"], strangers;
    "media/refused-before-the-bytes", ["QP-BLOB-3", "QP-BLOB-4", "QP-BLOB-8"], refused_before_the_bytes;
    "media/lies", ["QP-BLOB-6"], lies;
    "media/frames-around-bytes", ["QP-BLOB-5", "QP-FRAME-7"], frames_around_bytes;
    "media/streams-are-counted", ["QP-BLOB-1"], streams_are_counted;
    "media/forwarded", ["QP-BLOB-5"], forwarded;
    "media/messages-with-files", ["QP-BLOB-10"], messages_with_files;
}
