//! `history`: print a conversation, from the gateway or, without one, from the folder.

use std::io::{self, Write};

use quipu_client::{Client, Error, HistoryRange, Page};
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::Message;
use quipu_protocol::id::{ConversationId, Seq};
use quipu_protocol::limits::HISTORY_PAGE_MESSAGES_MAX;
use tokio::time::timeout;

use super::{Ended, complain, signed_in, why, write_message};
use crate::cli::HistoryArgs;

/// Prints all of it, the oldest message first.
pub(super) async fn run(client: &Client, arguments: &HistoryArgs) -> anyhow::Result<Ended> {
    let me = signed_in(client).await?.user;
    let conversation = arguments.place.id(&me);
    // Up to where it is printed, and where it ends.
    let (mut printed, last) = bounds(arguments);
    let online = timeout(arguments.wait, client.online()).await;
    let ended = match online {
        Ok(Ok(())) => {
            from_gateway(client, conversation, arguments.json, (&mut printed, last)).await
        }
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => Err(Error::Offline(why(&client.connection()))),
    };
    match ended {
        Ok(()) => Ok(Ended::Done),
        Err(Error::Offline(reason)) => {
            from_cache(client, conversation, arguments.json, (printed, last)).await?;
            complain(&format!(
                "this is what the folder has, the gateway is away: {reason}"
            ));
            Ok(Ended::Away)
        }
        Err(error) => Err(error.into()),
    }
}

/// Above which seq to print and up to which; `None`: from the beginning, to the end.
fn bounds(arguments: &HistoryArgs) -> (Option<Seq>, Option<Seq>) {
    let Some(middle) = arguments.around else {
        return (arguments.after, None);
    };
    // Seqs have no gaps.
    let context = u64::from(arguments.context);
    let before = middle.get().saturating_sub(context + 1);
    let last = middle.get().saturating_add(context);
    (Seq::new(before).ok(), Seq::new(last).ok())
}

async fn from_gateway(
    client: &Client,
    conversation: ConversationId,
    as_json: bool,
    (printed, last): (&mut Option<Seq>, Option<Seq>),
) -> Result<(), Error> {
    loop {
        let first = printed.map(Seq::next);
        let range = HistoryRange {
            first,
            last,
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
            Some(newest) if page.more && last != Some(newest.seq) => *printed = Some(newest.seq),
            Some(_) | None => return Ok(()),
        }
    }
}

async fn from_cache(
    client: &Client,
    conversation: ConversationId,
    as_json: bool,
    (mut printed, end): (Option<Seq>, Option<Seq>),
) -> Result<(), Error> {
    loop {
        let page = match printed {
            Some(printed) => Page::After(printed),
            // `After` needs a seq; the first message is 1, so what lies around it from there on is a page with it.
            None => Page::Around(Seq::FIRST),
        };
        let mut messages = client
            .messages(conversation, page, HISTORY_PAGE_MESSAGES_MAX)
            .await?;
        messages.retain(|message| end.is_none_or(|end| message.seq <= end));
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn of(arguments: &str) -> (Option<u64>, Option<u64>) {
        let words = format!("quipu history bob {arguments}");
        let cli = Cli::try_parse_from(words.split_whitespace()).expect("valid");
        let Some(Command::History(arguments)) = cli.command else {
            panic!("another command");
        };
        let (after, last) = bounds(&arguments);
        (after.map(Seq::get), last.map(Seq::get))
    }

    #[test]
    fn around_a_message_is_as_much_before_it_as_behind_it() {
        assert_eq!(of(""), (None, None));
        assert_eq!(of("--after 7"), (Some(7), None));
        assert_eq!(of("--around 100"), (Some(89), Some(110)));
        assert_eq!(of("--around 100 --context 0"), (Some(99), Some(100)));
        // There is nothing before the first.
        assert_eq!(of("--around 3"), (None, Some(13)));
        let both = ["quipu", "history", "bob", "--around", "3", "--after", "1"];
        assert!(Cli::try_parse_from(both).is_err());
    }
}
