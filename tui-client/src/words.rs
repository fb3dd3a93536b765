//! What people are told of contents that are more than a text: notes, deletions, files, times.

use std::borrow::Cow;

use quipu_protocol::event::{Content, Gone, Note};

use crate::json::role_word;

/// What a message says, for people. Not yet fit for a terminal.
pub(crate) fn said(content: &Content) -> Cow<'_, str> {
    match content {
        Content::Text(text) => Cow::Borrowed(text),
        Content::Rich(rich) if rich.attachments.is_empty() && rich.forwarded.is_none() => {
            Cow::Borrowed(&rich.text)
        }
        Content::Rich(rich) => {
            let mut lines = Vec::new();
            if let Some(forwarded) = &rich.forwarded {
                lines.push(format!("[forwarded from {}]", forwarded.from));
            }
            if !rich.text.is_empty() {
                lines.push(rich.text.clone());
            }
            for file in &rich.attachments {
                let name = match file.name.as_str() {
                    "" => &file.media_type,
                    name => name,
                };
                lines.push(format!("[{name}, {}]", size(file.size)));
            }
            Cow::Owned(lines.join("\n"))
        }
        Content::Note(happened) => Cow::Owned(note(happened)),
        Content::Gone(why) => Cow::Borrowed(gone(*why)),
    }
}

/// What stands where a message was.
pub(crate) fn gone(gone: Gone) -> &'static str {
    match gone {
        Gone::Deleted => "message deleted",
        Gone::Expired => "message expired",
    }
}

/// What somebody did, to be read behind their name.
pub(crate) fn note(note: &Note) -> String {
    match note {
        Note::Created(title) => format!("made the group {title}"),
        Note::Joined => "joined".into(),
        Note::Left => "left".into(),
        Note::Invited(user) => format!("invited {user}"),
        Note::Removed(user) => format!("removed {user}"),
        Note::Role(user, role) => format!("made {user} {}", role_word(*role)),
        Note::Title(title) => format!("named the group {title}"),
        Note::Topic(topic) if topic.is_empty() => "took the topic away".into(),
        Note::Topic(topic) => format!("set the topic: {topic}"),
        Note::Pulled => "made the group a large one".into(),
        Note::Timer(0) => "lets new messages stay".into(),
        Note::Timer(keep_ms) => format!("lets new messages go after {}", time(*keep_ms)),
    }
}

fn time(ms: u64) -> String {
    for (unit, letter) in [(86_400_000, 'd'), (3_600_000, 'h'), (60_000, 'm')] {
        if ms >= unit && ms.is_multiple_of(unit) {
            return format!("{}{letter}", ms / unit);
        }
    }
    format!("{}s", ms / 1000)
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", bytes / 1_048_576),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_short() {
        assert_eq!(time(7 * 86_400_000), "7d");
        assert_eq!(time(90 * 60_000), "90m");
        assert_eq!(time(5_000), "5s");
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(2048), "2 KiB");
        assert_eq!(size(5 << 20), "5 MiB");
    }
}
