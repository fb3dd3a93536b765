//! The lines of `--json`, as SCHEMA.md documents them. Fields are only ever added.

use jiff::Timestamp;
use quipu_protocol::event::Message;
use quipu_protocol::id::{ConversationId, MessageId, Seq, TimestampMs};
use serde::Serialize;

/// A message, as `listen --json` and `history --json` print it.
#[derive(Debug, Serialize)]
pub(crate) struct MessageLine<'a> {
    conversation: String,
    seq: u64,
    id: String,
    from: &'a str,
    text: &'a str,
    sent_at: String,
}

impl<'a> MessageLine<'a> {
    /// The line of a message.
    pub(crate) fn new(message: &'a Message) -> Self {
        let text = message.content.text();
        Self {
            conversation: message.conversation.to_string(),
            seq: message.seq.get(),
            id: message.id.to_string(),
            from: message.from.as_str(),
            text,
            sent_at: rfc3339(message.sent_at),
        }
    }
}

/// A message that the gateway has for good, as `send --json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct SentLine {
    conversation: String,
    seq: u64,
    id: String,
}

impl SentLine {
    /// The line of an acked message.
    pub(crate) fn new(conversation: ConversationId, seq: Seq, id: MessageId) -> Self {
        Self {
            conversation: conversation.to_string(),
            seq: seq.get(),
            id: id.to_string(),
        }
    }
}

/// A file that is where it should be, as `upload --json` and `download --json` print it.
#[derive(Debug, Serialize)]
pub(crate) struct FileLine<'a> {
    pub(crate) conversation: String,
    pub(crate) hash: String,
    pub(crate) size: u64,
    #[serde(rename = "type")]
    pub(crate) media_type: &'a str,
    pub(crate) name: &'a str,
    pub(crate) moved: u64,
}

/// How far a transfer is, as `--json --progress` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct ProgressLine {
    pub(crate) done: u64,
    pub(crate) total: u64,
}

/// UTC with milliseconds: `2026-11-03T12:00:00.000Z`. A time that no calendar knows becomes the last one it does.
pub(crate) fn rfc3339(at: TimestampMs) -> String {
    let ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    let at = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
    at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use quipu_protocol::event::Content;
    use quipu_protocol::id::{ClientSeq, DeviceId, UserId};

    use super::*;

    fn message() -> Message {
        Message {
            conversation: ConversationId([7; 16]),
            seq: Seq::FIRST,
            id: MessageId([0xab; 16]),
            from: UserId::new("bob").expect("valid"),
            from_device: DeviceId::new(1).expect("not zero"),
            client_seq: ClientSeq::FIRST,
            to: UserId::new("alice").ok(),
            sent_at: TimestampMs(1_793_707_200_042),
            content: Content::Text("one\ntwo \"quoted\" \u{1b}[m 日".into()),
            state: None,
        }
    }

    #[test]
    fn lines_are_as_documented() {
        let line = serde_json::to_string(&MessageLine::new(&message())).expect("it is plain data");
        assert_eq!(
            line,
            r#"{"conversation":"07070707070707070707070707070707","seq":1,"id":"abababababababababababababababab","from":"bob","text":"one\ntwo \"quoted\" \u001b[m 日","sent_at":"2026-11-03T12:00:00.042Z"}"#
        );
        let sent = SentLine::new(ConversationId([7; 16]), Seq::FIRST, MessageId([1; 16]));
        assert_eq!(
            serde_json::to_string(&sent).expect("it is plain data"),
            r#"{"conversation":"07070707070707070707070707070707","seq":1,"id":"01010101010101010101010101010101"}"#
        );
    }

    /// SCHEMA.md names every field that a line can have, and shows the type that it has here.
    #[test]
    fn every_field_is_in_the_schema() {
        let schema = include_str!("../SCHEMA.md");
        let whole = message();
        let message = serde_json::to_value(MessageLine::new(&whole)).expect("it is plain data");
        let sent = SentLine::new(ConversationId([7; 16]), Seq::FIRST, MessageId([1; 16]));
        let sent = serde_json::to_value(sent).expect("it is plain data");
        let file = serde_json::to_value(FileLine {
            conversation: String::new(),
            hash: String::new(),
            size: 1,
            media_type: "a/b",
            name: "",
            moved: 1,
        })
        .expect("it is plain data");
        let progress = serde_json::to_value(ProgressLine { done: 1, total: 2 });
        let progress = progress.expect("it is plain data");
        for (heading, line) in [
            ("## A message", message),
            ("## A sent message", sent),
            ("## A file", file),
            ("## Progress", progress),
        ] {
            let section = schema
                .split(heading)
                .nth(1)
                .expect("it has its section")
                .split("\n## ")
                .next()
                .unwrap_or_default();
            let documented: Vec<&str> = section
                .lines()
                .filter_map(|row| row.strip_prefix("| `")?.split('`').next())
                .collect();
            let fields = line.as_object().expect("an object");
            assert_eq!(documented.len(), fields.len(), "{heading}: {documented:?}");
            for (name, value) in fields {
                let kind = if value.is_u64() { "integer" } else { "string" };
                assert!(
                    section.contains(&format!("| `{name}` | {kind} |")),
                    "{heading}: {name} is a {kind}"
                );
            }
        }
    }

    #[test]
    fn no_time_is_too_late() {
        assert!(rfc3339(TimestampMs(u64::MAX)).starts_with("9999-"));
    }
}
