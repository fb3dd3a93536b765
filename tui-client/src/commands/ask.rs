//! Asking the gateway for one thing, or saying that it is away.

use std::io::{self, Write};

use quipu_client::{Client, Error};
use quipu_protocol::event::Change;
use quipu_protocol::id::{ConversationId, Seq};
use quipu_protocol::query::{Answer, Query};
use tokio::time::timeout;

use super::{Ended, complain, why, write_json};
use crate::cli::Ask;
use crate::json::DoneLine;

/// Waits for the connection and does the work; `None`: the gateway is away, which was said.
pub(super) async fn with_gateway<T>(
    client: &Client,
    ask: Ask,
    work: impl Future<Output = Result<T, Error>>,
) -> anyhow::Result<Option<T>> {
    let away = match timeout(ask.wait, client.online()).await {
        Ok(Ok(())) => match timeout(ask.wait, work).await {
            Ok(Ok(done)) => return Ok(Some(done)),
            Ok(Err(Error::Offline(reason))) => reason,
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => "it did not answer in time; ask again".into(),
        },
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => why(&client.connection()),
    };
    complain(&format!("the gateway is away: {away}"));
    Ok(None)
}

/// Asks for a change by its command's name; with `--json` says that it is done.
pub(super) async fn change(
    client: &Client,
    ask: Ask,
    name: &'static str,
    change: Change,
    seq: Option<Seq>,
) -> anyhow::Result<Ended> {
    let conversation = change.conversation().copied();
    match with_gateway(client, ask, client.change(change)).await? {
        Some(()) => done(ask, name, conversation, seq),
        None => Ok(Ended::Away),
    }
}

/// Says with `--json` that something is done.
pub(super) fn done(
    ask: Ask,
    name: &'static str,
    conversation: Option<ConversationId>,
    seq: Option<Seq>,
) -> anyhow::Result<Ended> {
    if ask.json {
        let mut out = io::stdout().lock();
        write_json(&mut out, &DoneLine::new(name, conversation, seq))?;
        out.flush()?;
    }
    Ok(Ended::Done)
}

/// Asks a question; `None`: the gateway is away.
pub(super) async fn query(
    client: &Client,
    ask: Ask,
    query: Query,
) -> anyhow::Result<Option<Answer>> {
    with_gateway(client, ask, client.query(query)).await
}

/// What to say of an answer to another question.
pub(super) fn odd() -> anyhow::Error {
    anyhow::anyhow!("the gateway answered another question; it may be of another version")
}
