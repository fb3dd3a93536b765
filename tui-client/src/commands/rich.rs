//! What `send` makes of `--reply-to`, `--mention` and `--forward`.

use anyhow::ensure;
use quipu_client::{Client, HistoryRange};
use quipu_protocol::event::{Forwarded, Message, Rich};
use quipu_protocol::id::UserId;

use super::ask::with_gateway;
use crate::cli::{Ask, MessageRef, SendArgs};

/// What there is to send.
pub(super) enum Found {
    /// This.
    Rich(Rich),
    /// The forwarded message cannot be fetched now, which was said.
    Away,
}

/// The content that the arguments ask for; `None`: a text and nothing to it.
pub(super) async fn content(
    client: &Client,
    arguments: &SendArgs,
    me: UserId,
) -> anyhow::Result<Option<Found>> {
    let text = arguments.text.clone().unwrap_or_default();
    let plain = arguments.reply_to.is_none() && arguments.mention.is_empty();
    let mut rich = Rich {
        text,
        reply_to: arguments.reply_to,
        mentions: arguments.mention.clone(),
        ..Rich::default()
    };
    let Some(of) = arguments.forward else {
        if plain {
            return Ok(None);
        }
        ensure!(
            rich.text != "-",
            "--reply-to and --mention go with one message, not with lines of standard input"
        );
        return Ok(Some(Found::Rich(rich)));
    };
    let ask = Ask {
        json: arguments.json,
        wait: arguments.wait,
    };
    let Some(message) = find(client, ask, of, me).await? else {
        return Ok(Some(Found::Away));
    };
    let (from, to) = (of.place.id(&me), arguments.place.id(&me));
    let files = message.content.attachments();
    ensure!(
        files.is_empty() || from == to,
        "its files are in the other conversation only: download and upload them"
    );
    rich.text = message.content.text().to_owned();
    ensure!(
        !rich.text.is_empty() || !files.is_empty(),
        "that message has no words to forward"
    );
    rich.attachments = files.to_vec();
    rich.forwarded = Some(Forwarded {
        from: message.from,
        sent_at: message.sent_at,
    });
    Ok(Some(Found::Rich(rich)))
}

async fn find(
    client: &Client,
    ask: Ask,
    of: MessageRef,
    me: UserId,
) -> anyhow::Result<Option<Message>> {
    let range = HistoryRange {
        first: Some(of.seq),
        last: Some(of.seq),
        limit: 1,
        newest_first: false,
    };
    let page = client.history(of.place.id(&me), range);
    let Some(page) = with_gateway(client, ask, page).await? else {
        return Ok(None);
    };
    let found = page.messages.into_iter().next();
    found
        .map(Some)
        .ok_or_else(|| anyhow::anyhow!("there is no message {} in that conversation", of.seq))
}
