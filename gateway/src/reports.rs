//! Lists what users have complained about, for the operator: as text, and never to anybody else.

use std::fmt::Write as _;
use std::path::Path;

use quipu_core::row::{IndexKey, IndexRange, Report};
use quipu_protocol::event::{Content, Message};
use quipu_protocol::id::{ConversationId, TimestampMs, UserId};

use crate::folder::DataFolder;
use crate::offline::{self, DataError};
use crate::store::{Store, StoreError};

/// Complaints that one list shows, the oldest first. What is beyond is said to be there.
pub const REPORTS_LISTED_MAX: usize = 1_000;
/// Bytes of a message that a list shows.
const TEXT_SHOWN_MAX: usize = 500;

/// One complaint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// When the log took it.
    pub at: TimestampMs,
    /// About which conversation.
    pub conversation: ConversationId,
    /// From whom.
    pub by: UserId,
    /// What it says.
    pub report: Report,
}

/// The complaints in the data folder of a gateway that does not run, as text. What the log holds beyond the store is not in
/// it: a gateway that was stopped in order has none of that.
pub fn run(data: &Path) -> Result<String, DataError> {
    let folder = DataFolder::open_existing(data)?;
    let (_log, store) = offline::open(&folder)?;
    Ok(text(&store)?)
}

/// The complaints of a store, as text: one paragraph each.
pub fn text(store: &dyn Store) -> Result<String, StoreError> {
    let mut complaints = list(store, REPORTS_LISTED_MAX + 1)?;
    let more = complaints.len() > REPORTS_LISTED_MAX;
    complaints.truncate(REPORTS_LISTED_MAX);
    let mut text = String::new();
    for complaint in &complaints {
        write_complaint(&mut text, complaint);
    }
    let end = match (complaints.len(), more) {
        (0, _) => "no complaints".to_owned(),
        (count, false) => format!("{count} complaints"),
        (count, true) => format!("the first {count} complaints; there are more"),
    };
    text.push_str(&end);
    text.push('\n');
    Ok(text)
}

/// At most `limit` complaints, the oldest first.
pub fn list(store: &dyn Store, limit: usize) -> Result<Vec<Complaint>, StoreError> {
    let rows = store.index(&IndexRange::Reports, limit)?;
    let complaints = rows.into_iter().filter_map(|(key, value)| {
        let IndexKey::Report(at, conversation, by, _) = key else {
            return None;
        };
        Some(Report::decode(&value).map(|report| Complaint {
            at,
            conversation,
            by,
            report,
        }))
    });
    Ok(complaints.collect::<Result<_, _>>()?)
}

fn write_complaint(text: &mut String, complaint: &Complaint) {
    let Complaint {
        at,
        conversation,
        by,
        report,
    } = complaint;
    // Writing into a string cannot fail.
    let _ = writeln!(text, "at {} (Unix ms) {by} about {conversation}", at.0);
    // As Rust quotes them: a text of a user must not look like a line of ours, nor steer a terminal.
    let _ = writeln!(text, "  says {:?}", report.reason);
    match &report.message {
        Some(message) => {
            let from = message.from;
            let _ = writeln!(
                text,
                "  of message {} from {from}: {}",
                message.seq,
                said(message)
            );
        }
        None => text.push_str("  of the conversation\n"),
    }
    text.push('\n');
}

fn said(message: &Message) -> String {
    match &message.content {
        Content::Gone(_) => "gone before the complaint came".to_owned(),
        content @ (Content::Text(_) | Content::Rich(_) | Content::Note(_)) => {
            let words = content.text();
            let shown = &words[..words.floor_char_boundary(TEXT_SHOWN_MAX)];
            let cut = if shown.len() < words.len() {
                " (cut)"
            } else {
                ""
            };
            format!("{shown:?}{cut}, files: {}", content.attachments().len())
        }
    }
}

#[cfg(test)]
mod tests {
    use quipu_core::row::Row;
    use quipu_protocol::event::Gone;
    use quipu_protocol::id::{ClientSeq, DeviceId, MessageId, Seq};

    use super::*;
    use crate::store::MemoryStore;

    fn complaint(at: u64, reason: &str, content: Option<Content>) -> Row {
        let (conversation, by) = (ConversationId([7; 16]), UserId::new("ann").expect("a name"));
        let message = content.map(|content| Message {
            conversation,
            seq: Seq::FIRST,
            id: MessageId([1; 16]),
            from: UserId::new("bob").expect("a name"),
            from_device: DeviceId::new(1).expect("not 0"),
            client_seq: ClientSeq::FIRST,
            to: Some(by),
            sent_at: TimestampMs(1),
            content,
            state: None,
        });
        let seq = message.as_ref().map(|message| message.seq);
        let report = Report {
            reason: reason.to_owned(),
            message,
        };
        let key = IndexKey::Report(TimestampMs(at), conversation, by, seq);
        Row::Index(key, Some(report.encode()))
    }

    #[test]
    fn complaints_are_listed_the_oldest_first_and_cannot_pose_as_lines_of_ours() {
        let store = MemoryStore::new();
        assert_eq!(text(&store), Ok("no complaints\n".to_owned()));
        let rude = Content::Text("you\u{1b}[2J\n2 complaints".to_owned());
        let rows = vec![
            complaint(30, "gone", Some(Content::Gone(Gone::Deleted))),
            complaint(20, "all of it", None),
            complaint(10, "rude\nvery", Some(rude)),
        ];
        store.commit(rows).expect("memory");
        let listed = text(&store).expect("memory");
        let lines: Vec<&str> = listed.lines().collect();
        assert_eq!(lines.len(), 13, "{listed}");
        assert!(
            lines[0].starts_with("at 10 (Unix ms) ann about "),
            "{listed}"
        );
        assert_eq!(lines[1], r#"  says "rude\nvery""#);
        assert_eq!(
            lines[2],
            r#"  of message 1 from bob: "you\u{1b}[2J\n2 complaints", files: 0"#
        );
        assert_eq!(lines[6], "  of the conversation");
        assert!(lines[10].ends_with("gone before the complaint came"));
        assert_eq!(lines[12], "3 complaints");
    }

    #[test]
    fn a_list_is_bounded_and_says_so() {
        let store = MemoryStore::new();
        let rows = (0..REPORTS_LISTED_MAX as u64 + 1).map(|at| complaint(at, "x", None));
        store.commit(rows.collect()).expect("memory");
        let listed = text(&store).expect("memory");
        assert!(listed.ends_with("the first 1000 complaints; there are more\n"));
        assert_eq!(listed.matches("about").count(), REPORTS_LISTED_MAX);
    }
}
