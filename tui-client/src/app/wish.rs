//! What the reader wants done to a message, from asking to its end.

use quipu_protocol::id::{ConversationId, MessageId, Seq};

use super::EchoId;

/// The outbox's name for a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WishId(pub(crate) u64);

/// Which message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// One with a place.
    Placed(Seq),
    /// One of the outbox.
    Queued(MessageId),
}

/// What is to be done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// It says this.
    Edit(String),
    /// It goes.
    Delete,
    /// A sign of the reader comes or goes.
    React {
        /// Which.
        emoji: String,
        /// Whether it is to be there.
        on: bool,
    },
}

impl What {
    /// The line that asks for it; empty: there is none to be written again.
    pub(crate) fn line(&self) -> String {
        match self {
            Self::Edit(words) => format!("/edit {words}"),
            Self::Delete | Self::React { on: false, .. } => String::new(),
            Self::React { emoji, on: true } => format!("/react {emoji}"),
        }
    }

    /// That it was refused, in words.
    pub(crate) fn refused(&self) -> &'static str {
        match self {
            Self::Edit(_) => "not edited",
            Self::Delete => "not deleted",
            Self::React { .. } => "no reaction",
        }
    }
}

/// A wish that is not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Its name.
    pub(crate) id: WishId,
    /// What it is about.
    pub(crate) target: Target,
    /// What is wanted.
    pub(crate) what: What,
    /// Why it never will be; `None` while it waits.
    pub(crate) refused: Option<String>,
}

/// What happened to a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WishNews {
    /// The outbox took it from this screen.
    Taken(EchoId, Wish),
    /// It is fulfilled already: nobody has seen the message yet.
    Made(EchoId, Target, What),
    /// It is fulfilled; what it changed comes by itself.
    Ended(ConversationId, WishId),
    /// It was refused for good, and why.
    Refused(ConversationId, WishId, String),
}
