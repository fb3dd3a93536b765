//! `history`: print a conversation, from the gateway or, without one, from the folder.

use std::io::{self, Write};

use quipu_client::{Client, Error, HistoryRange, Page};
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::Message;
use quipu_protocol::id::{ConversationId, Seq};
use quipu_protocol::limits::HISTORY_PAGE_MESSAGES_MAX;
use tokio::time::timeout;

use super::{Ended, signed_in, why, write_message};
use crate::cli::HistoryArgs;

/// Prints all of it, the oldest message first.
pub(super) async fn run(client: &Client, arguments: &HistoryArgs) -> anyhow::Result<Ended> {
    let me = signed_in(client).await?.user;
    let conversation = arguments.place.id(&me);
    // Up to where it is printed.
    let mut printed = arguments.after;
    let online = timeout(arguments.wait, client.online()).await;
    let ended = match online {
        Ok(Ok(())) => from_gateway(client, conversation, arguments.json, &mut printed).await,
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => Err(Error::Offline(why(&client.connection()))),
    };
    match ended {
        Ok(()) => Ok(Ended::Done),
        Err(Error::Offline(reason)) => {
            from_cache(client, conversation, arguments.json, printed).await?;
            eprintln!("quipu: this is what the folder has, the gateway is away: {reason}");
            Ok(Ended::Away)
        }
        Err(error) => Err(error.into()),
    }
}

async fn from_gateway(
    client: &Client,
    conversation: ConversationId,
    as_json: bool,
    printed: &mut Option<Seq>,
) -> Result<(), Error> {
    loop {
        let first = printed.map(Seq::next);
        let range = HistoryRange {
            first,
            last: None,
            limit: HISTORY_PAGE_MESSAGES_MAX,
            newest_first: false,
        };
        let page = match client.history(conversation, range).await {
            Ok(page) => page,
            // Nobody has written yet.
            Err(Error::Refused(refusal)) if refusal.code == RejectCode::UnknownConversation => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        print(&page.messages, as_json)?;
        match page.messages.last() {
            Some(last) if page.more => *printed = Some(last.seq),
            Some(_) | None => return Ok(()),
        }
    }
}

async fn from_cache(
    client: &Client,
    conversation: ConversationId,
    as_json: bool,
    mut printed: Option<Seq>,
) -> Result<(), Error> {
    loop {
        let page = match printed {
            Some(printed) => Page::After(printed),
            // `After` needs a seq; the first message is 1, so what lies around it from there on is a page with it.
            None => Page::Around(Seq::FIRST),
        };
        let messages = client
            .messages(conversation, page, HISTORY_PAGE_MESSAGES_MAX)
            .await?;
        let Some(last) = messages.last() else {
            return Ok(());
        };
        print(&messages, as_json)?;
        printed = Some(last.seq);
    }
}

fn print(messages: &[Message], as_json: bool) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    messages
        .iter()
        .try_for_each(|message| write_message(&mut out, message, as_json))
        .and_then(|()| out.flush())
        .map_err(|error| Error::Invalid(format!("standard output: {error}")))
}
