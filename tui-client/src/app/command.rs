//! The named commands that keys are bound to, with what the help says about each.

/// Which keys count at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// In every mode.
    Any,
    /// A conversation and its composer.
    Chat,
    /// The switcher.
    List,
    /// The register and log-in form.
    Form,
    /// The help.
    Help,
    /// Any single-line input: in the switcher and in the form.
    Field,
}

/// What a person can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Send, open, register: whatever the place is for.
    Submit,
    /// Write.
    Edit(Edit),
    /// Scroll the conversation, or the help.
    Scroll(Scroll),
    /// The first while nothing is written, the second when there is text to edit.
    Either(Scroll, Edit),
    /// To another conversation.
    Go(Go),
    /// The next item of a list or form.
    NextItem,
    /// The item before.
    PreviousItem,
    /// Open the switcher.
    Switcher,
    /// Between registering and logging in.
    SwitchForm,
    /// Close what is open, else go to the newest message.
    Cancel,
    /// Open or close the help.
    Help,
    /// Draw everything anew.
    Redraw,
    /// Clear what is written, else leave.
    Interrupt,
    /// Leave.
    Quit,
}

/// Changes to a text and its cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edit {
    Insert(char),
    Newline,
    Left,
    Right,
    Up,
    Down,
    WordLeft,
    WordRight,
    LineStart,
    LineEnd,
    DeleteBack,
    DeleteForward,
    DeleteWord,
    DeleteLine,
    Undo,
    Redo,
}

/// Ways through a conversation's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scroll {
    LineUp,
    LineDown,
    HalfPageUp,
    HalfPageDown,
    PageUp,
    PageDown,
    Oldest,
    Newest,
}

/// Ways to another conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Go {
    Next,
    Previous,
    NextUnread,
    PreviousUnread,
}

impl Command {
    /// What the help says that it does in a conversation; `None` for what needs no words.
    pub(crate) fn describe(self) -> Option<&'static str> {
        Some(match self {
            Self::Submit => "send the message",
            Self::Edit(edit) => return edit.describe(),
            Self::Scroll(scroll) | Self::Either(scroll, _) => return Some(scroll.describe()),
            Self::Go(Go::Next) => "next conversation",
            Self::Go(Go::Previous) => "previous conversation",
            Self::Go(Go::NextUnread) => "next unread conversation",
            Self::Go(Go::PreviousUnread) => "previous unread conversation",
            Self::Switcher => "open a conversation, also with somebody new",
            Self::Cancel => "newest message; take back a refused one",
            Self::Help => "this help",
            Self::Redraw => "draw the screen anew",
            Self::Interrupt => "clear the message, or leave if it is empty",
            Self::Quit => "leave",
            Self::NextItem | Self::PreviousItem | Self::SwitchForm => return None,
        })
    }
}

impl Edit {
    fn describe(self) -> Option<&'static str> {
        Some(match self {
            Self::Newline => "new line",
            Self::WordLeft => "word left",
            Self::WordRight => "word right",
            Self::LineStart => "start of the line",
            Self::LineEnd => "end of the line",
            Self::DeleteWord => "delete the word before the cursor",
            Self::Undo => "undo",
            Self::Redo => "redo",
            Self::Insert(_)
            | Self::Left
            | Self::Right
            | Self::Up
            | Self::Down
            | Self::DeleteBack
            | Self::DeleteForward
            | Self::DeleteLine => return None,
        })
    }
}

impl Scroll {
    fn describe(self) -> &'static str {
        match self {
            Self::LineUp => "a line back",
            Self::LineDown => "a line on",
            Self::HalfPageUp => "half a page back",
            Self::HalfPageDown => "half a page on",
            Self::PageUp => "a page back",
            Self::PageDown => "a page on",
            Self::Oldest => "oldest loaded message",
            Self::Newest => "newest message",
        }
    }
}
