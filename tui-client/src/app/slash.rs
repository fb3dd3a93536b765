//! What begins with a slash in the composer: changes of messages and groups instead of words.

use quipu_protocol::event::{Change, Content};
use quipu_protocol::id::{ConversationId, Seq, UserId};

use super::timeline::Timeline;

/// What a line of the composer asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Slash {
    /// Send these words, as an answer if there is a seq.
    Say(String, Option<Seq>),
    /// Ask for this change.
    Change(Box<Change>),
    /// Make a group of this title.
    MakeGroup(String),
}

/// What there is, for whoever types something else.
const KNOWN: &str = "/reply, /edit, /delete, /react, /group, /invite, /title, /join, /leave; // begins a message with a slash";

/// Reads what was written; words without a slash are themselves. Fails in words for the reader.
pub(super) fn read(
    written: &str,
    conversation: ConversationId,
    timeline: &Timeline,
) -> Result<Slash, String> {
    let Some(line) = written.strip_prefix('/') else {
        return Ok(Slash::Say(written.to_owned(), None));
    };
    if line.starts_with('/') {
        return Ok(Slash::Say(line.to_owned(), None));
    }
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let needed = |what: &str| match rest {
        "" => Err(format!("/{name} needs {what}.")),
        given => Ok(given.to_owned()),
    };
    let mine = || last(timeline, true, "You have written nothing here yet.");
    let theirs = || {
        last(
            timeline,
            false,
            "Nobody else has written anything here yet.",
        )
    };
    let change = |change| Ok(Slash::Change(Box::new(change)));
    match name {
        "reply" => Ok(Slash::Say(needed("words")?, Some(theirs()?))),
        "edit" => change(Change::Edit {
            conversation,
            seq: mine()?,
            content: Content::Text(needed("the new words")?),
        }),
        "delete" => change(Change::Delete(conversation, mine()?)),
        "react" => change(Change::React {
            conversation,
            seq: theirs()?,
            emoji: needed("an emoji")?,
            on: true,
        }),
        "group" => Ok(Slash::MakeGroup(needed("a title")?)),
        "invite" => change(Change::Invite {
            conversation,
            users: users(&needed("names")?)?,
        }),
        "title" => change(Change::SetGroup {
            conversation,
            title: Some(needed("a title")?),
            topic: None,
        }),
        "join" => change(Change::Join(conversation)),
        "leave" => change(Change::Leave(conversation)),
        _ => Err(format!("There is no /{name}. There are {KNOWN}.")),
    }
}

fn last(timeline: &Timeline, mine: bool, none: &str) -> Result<Seq, String> {
    timeline
        .last_of(mine)
        .map(|(seq, _)| seq)
        .ok_or_else(|| none.to_owned())
}

fn users(names: &str) -> Result<Vec<UserId>, String> {
    let mut users = Vec::new();
    for name in names.split_whitespace() {
        users.push(UserId::new(name).map_err(|error| format!("{name}: {error}"))?);
    }
    users.sort_unstable();
    users.dedup();
    Ok(users)
}
