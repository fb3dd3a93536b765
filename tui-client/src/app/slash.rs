//! What begins with a slash in the composer: changes of messages and groups instead of words.

use quipu_protocol::event::{Change, Privacy};
use quipu_protocol::id::{ConversationId, Seq, UserId};

use super::timeline::Timeline;
use super::wish::{Target, What};

/// What a line of the composer asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Slash {
    /// Send these words, as an answer if there is a seq.
    Say(String, Option<Seq>),
    /// Ask for this change.
    Change(Box<Change>),
    /// Have this done to a message.
    Wish(Target, What),
    /// Make a group of this title.
    MakeGroup(String),
    /// Show what others may learn of the reader, after changing one of it if that is given.
    Privacy(Option<Hide>),
}

/// One thing that others are told of the reader, or (`on`) not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hide {
    what: Hidden,
    on: bool,
}

/// What can be hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hidden {
    Read,
    Typing,
    Presence,
    LastSeen,
}

impl Hidden {
    const ALL: [Self; 4] = [Self::Read, Self::Typing, Self::Presence, Self::LastSeen];

    /// As it is written behind `/privacy`.
    fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Typing => "typing",
            Self::Presence => "presence",
            Self::LastSeen => "last-seen",
        }
    }

    fn switch(self, of: &mut Privacy) -> &mut bool {
        match self {
            Self::Read => &mut of.hide_read,
            Self::Typing => &mut of.hide_typing,
            Self::Presence => &mut of.hide_presence,
            Self::LastSeen => &mut of.hide_last_seen,
        }
    }
}

impl Hide {
    /// The settings with this one changed and the others as they are.
    pub(crate) fn of(self, mut now: Privacy) -> Privacy {
        *self.what.switch(&mut now) = self.on;
        now
    }
}

/// What is set, in words for the reader.
pub(crate) fn privacy_words(mut privacy: Privacy) -> String {
    let each = Hidden::ALL.map(|what| {
        let how = if *what.switch(&mut privacy) {
            "hidden"
        } else {
            "shown"
        };
        format!("{} {how}", what.word())
    });
    format!("Others: {}.", each.join(", "))
}

/// What there is, with what the help says of each.
pub(crate) const COMMANDS: [(&str, &str); 10] = [
    ("/reply WORDS", "answer another's last message"),
    ("/edit WORDS", "let your last message say something else"),
    ("/delete", "take your last message away, for everybody"),
    ("/react EMOJI", "put a sign on another's last message"),
    ("/group TITLE", "make a group"),
    ("/invite NAMES", "ask users into this group"),
    ("/title TITLE", "give this group another title"),
    ("/join", "accept the invitation, or join an open group"),
    ("/leave", "leave this group, or decline the invitation"),
    (
        "/privacy [hide|show WHAT]",
        "what others learn of you, or a change of it",
    ),
];

/// The names of all, for whoever types something else.
fn known() -> String {
    let names = COMMANDS.map(|(usage, _)| usage.split(' ').next().unwrap_or_default());
    format!("{}; // begins a message with a slash", names.join(", "))
}

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
    let mine = || {
        let last = timeline.last_own();
        last.ok_or_else(|| "You have written nothing here yet.".to_owned())
    };
    let theirs = || {
        let last = timeline.last_of_others().map(|(seq, _)| seq);
        last.ok_or_else(|| "Nobody else has written anything here yet.".to_owned())
    };
    let change = |change| Ok(Slash::Change(Box::new(change)));
    match name {
        "reply" => Ok(Slash::Say(needed("words")?, Some(theirs()?))),
        "edit" => Ok(Slash::Wish(mine()?, What::Edit(needed("the new words")?))),
        "delete" => Ok(Slash::Wish(mine()?, What::Delete)),
        "react" => {
            let (emoji, on) = (needed("an emoji")?, true);
            Ok(Slash::Wish(
                Target::Placed(theirs()?),
                What::React { emoji, on },
            ))
        }
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
        "privacy" => privacy(rest),
        _ => Err(format!("There is no /{name}. There are {}.", known())),
    }
}

fn privacy(rest: &str) -> Result<Slash, String> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (on, what) = match words[..] {
        [] => return Ok(Slash::Privacy(None)),
        ["hide", what] => (true, what),
        ["show", what] => (false, what),
        _ => (true, ""),
    };
    let what = Hidden::ALL.into_iter().find(|one| one.word() == what);
    what.map(|what| Slash::Privacy(Some(Hide { what, on })))
        .ok_or_else(|| {
            let all = Hidden::ALL.map(Hidden::word).join(", ");
            format!(
                "/privacy shows what is set; /privacy hide or /privacy show changes one of {all}."
            )
        })
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
