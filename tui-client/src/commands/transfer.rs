//! `upload` and `download`: files, on from where the last transfer stopped.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use quipu_client::media::{Progress, UploadOptions};
use quipu_client::{Client, ConnectionState, Error, Refusal, Target};
use quipu_protocol::error::Retry;
use quipu_protocol::event::Rich;
use tokio::time::timeout;

use super::{Ended, complain, send, signed_in, why, write_json};
use crate::cli::{DownloadArgs, TransferArgs, UploadArgs};
use crate::json::{FileLine, ProgressLine};

/// Shortest time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Brings a file, then sends the message that shows it.
pub(super) async fn upload(client: &Client, arguments: &UploadArgs) -> anyhow::Result<Ended> {
    let me = signed_in(client).await?.user;
    check_source(&arguments.file)?;
    if let Some(away) = wait_online(client, &arguments.transfer).await? {
        return Ok(away);
    }
    let conversation = arguments.place.id(&me);
    let options = UploadOptions {
        media_type: arguments.media_type.clone(),
        source: arguments.source.map(|source| source.id(&me)),
        without_preview: false,
    };
    let shown = shown(&arguments.transfer);
    let done = async {
        if let Target::User(peer) = arguments.place.target() {
            // A file needs a conversation that is there, as its message does not.
            client.open_direct(peer).await?;
        }
        client
            .upload(conversation, &arguments.file, options, shown)
            .await
    };
    let file = match unless_away(client, &arguments.transfer, done).await {
        Ok(file) => file,
        Err(error) => return ended(error),
    };
    let message = if arguments.no_message {
        None
    } else {
        let rich = Rich {
            text: arguments.text.clone(),
            reply_to: arguments.reply_to,
            attachments: vec![file.attachment()],
            ..Rich::default()
        };
        match send::one(client, arguments.place, rich, arguments.transfer.wait).await? {
            Ok(sent) => Some(sent),
            Err(ended) => return Ok(ended),
        }
    };
    let line = FileLine {
        conversation: conversation.to_string(),
        hash: file.hash.to_string(),
        size: file.size,
        media_type: file.media_type.as_str(),
        name: &file.name,
        moved: file.sent,
        seq: message.map(|(seq, _)| seq.get()),
        id: message.map(|(_, id)| id.to_string()),
    };
    print(&arguments.transfer, &line, &line.hash)
}

/// Fetches a file.
pub(super) async fn download(client: &Client, arguments: &DownloadArgs) -> anyhow::Result<Ended> {
    let me = signed_in(client).await?.user;
    check_target(&arguments.file)?;
    if let Some(away) = wait_online(client, &arguments.transfer).await? {
        return Ok(away);
    }
    let conversation = arguments.conversation.id(&me);
    let shown = shown(&arguments.transfer);
    let done = client.download(conversation, arguments.hash, &arguments.file, shown);
    let file = match unless_away(client, &arguments.transfer, done).await {
        Ok(file) => file,
        Err(error) => return ended(error),
    };
    let name = arguments.file.to_string_lossy();
    let line = FileLine {
        conversation: conversation.to_string(),
        hash: arguments.hash.to_string(),
        size: file.size,
        media_type: file.media_type.as_str(),
        name: &name,
        moved: file.received,
        seq: None,
        id: None,
    };
    print(&arguments.transfer, &line, &name)
}

/// Says what is wrong with a file to send before a gateway is asked for anything.
fn check_source(file: &Path) -> anyhow::Result<()> {
    let shown = file.display();
    let metadata = file.metadata().with_context(|| format!("{shown}"))?;
    ensure!(!metadata.is_dir(), "{shown} is a folder: send its files");
    ensure!(metadata.is_file(), "{shown} is not a file");
    ensure!(
        metadata.len() > 0,
        "{shown} is empty: there is nothing to send"
    );
    Ok(())
}

/// Says what is wrong with the place for a file before a gateway is asked for it.
fn check_target(file: &Path) -> anyhow::Result<()> {
    let shown = file.display();
    ensure!(
        !file.is_dir(),
        "{shown} is a folder: name the file to make in it"
    );
    ensure!(
        // A link to nothing is something too.
        file.symlink_metadata().is_err(),
        "{shown} is there already: remove it, or name another file"
    );
    let folder = file.parent().unwrap_or(file);
    ensure!(
        folder.as_os_str().is_empty() || folder.is_dir(),
        "there is no folder {}: make it first",
        folder.display()
    );
    Ok(())
}

/// Waits for the gateway; says how the command ends if it is away.
async fn wait_online(client: &Client, transfer: &TransferArgs) -> anyhow::Result<Option<Ended>> {
    match timeout(transfer.wait, client.online()).await {
        Ok(online) => Ok(online.map(|()| None)?),
        Err(_) => {
            complain(&format!(
                "the gateway is away: {}",
                why(&client.connection())
            ));
            Ok(Some(Ended::Away))
        }
    }
}

/// Carries a transfer out, unless the gateway is away for too long meanwhile.
async fn unless_away<T>(
    client: &Client,
    transfer: &TransferArgs,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let mut connection = client.connection();
    let is_online = |state: &ConnectionState| matches!(state, ConnectionState::Online { .. });
    let away = async {
        loop {
            // An error means that the client was closed: the transfer ends by itself.
            let lost = connection.wait_for(|state| !is_online(state)).await.is_ok();
            if !lost {
                std::future::pending::<()>().await;
            }
            let back = timeout(transfer.wait, connection.wait_for(is_online)).await;
            if back.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        () = away => Err(Error::Offline(why(&client.connection()))),
    }
}

fn ended(error: Error) -> anyhow::Result<Ended> {
    match error {
        Error::Offline(reason) => {
            complain(&format!(
                "the gateway is away: {reason}; run it again to go on"
            ));
            Ok(Ended::Away)
        }
        Error::Refused(Refusal { code, reason }) if code.retry() == Retry::After => {
            complain(&format!(
                "not now ({code}): {reason}; run it again later to go on"
            ));
            Ok(Ended::Away)
        }
        error => Err(error.into()),
    }
}

/// Shows progress now and then, as asked for.
fn shown(transfer: &TransferArgs) -> impl FnMut(Progress) + Send + use<> {
    let as_json = transfer.json;
    let wanted = transfer.progress || (!as_json && io::stderr().is_terminal());
    let mut last: Option<Instant> = None;
    move |Progress { done, total }| {
        let now = Instant::now();
        let is_early = last.is_some_and(|last| now - last < PROGRESS_INTERVAL);
        if !wanted || (is_early && done < total) {
            return;
        }
        last = Some(now);
        // A reader that has gone is noticed when the result is printed.
        if as_json {
            let _ = write_json(&mut io::stdout().lock(), &ProgressLine { done, total });
        } else {
            let percent = done.saturating_mul(100) / total.max(1);
            let _ = writeln!(
                io::stderr().lock(),
                "{percent:3} %  {done} of {total} bytes"
            );
        }
    }
}

fn print(transfer: &TransferArgs, line: &FileLine, plain: &str) -> anyhow::Result<Ended> {
    let mut out = io::stdout().lock();
    if transfer.json {
        write_json(&mut out, line)?;
    } else {
        writeln!(out, "{plain}")?;
    }
    out.flush()?;
    Ok(Ended::Done)
}
