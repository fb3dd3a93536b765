//! The lines are what SCHEMA.md says.

use quipu_protocol::event::{
    Changed, ChangedKind, Forwarded, Invitation, MessageState, Privacy, Reaction, Rich,
};
use quipu_protocol::id::{ChangeNumber, ClientSeq, DeviceId};
use quipu_protocol::query::{
    ConversationEntry, DeviceEntry, GroupInfo, MemberEntry, PresenceEntry, Settings,
};
use serde_json::Value;

use super::*;

const AT: TimestampMs = TimestampMs(1_793_707_200_042);

fn user(name: &str) -> UserId {
    UserId::new(name).expect("valid")
}

fn message() -> Message {
    Message {
        conversation: ConversationId([7; 16]),
        seq: Seq::FIRST,
        id: MessageId([0xab; 16]),
        from: user("bob"),
        from_device: DeviceId::new(1).expect("not zero"),
        client_seq: ClientSeq::FIRST,
        to: UserId::new("alice").ok(),
        sent_at: AT,
        content: Content::Text("one\ntwo \"quoted\" \u{1b}[m 日".into()),
        state: None,
    }
}

/// A message with everything that one can have.
fn whole_message() -> Message {
    let file = Attachment {
        hash: [0xcd; 32],
        size: 5,
        media_type: "image/png".into(),
        name: "knot.png".into(),
        width: 2,
        height: 3,
        duration_ms: 4,
        thumbnail: Vec::new().into(),
    };
    let rich = Rich {
        text: "look".into(),
        reply_to: Some(Seq::FIRST),
        mentions: vec![user("ana")],
        forwarded: Some(Forwarded {
            from: user("ben"),
            sent_at: AT,
        }),
        attachments: vec![file],
    };
    Message {
        content: Content::Rich(Box::new(rich)),
        state: Some(Box::new(MessageState {
            version: 2,
            edited_at: Some(AT),
            edits: 1,
            expires_at: Some(AT),
            reactions: vec![Reaction {
                user: user("ana"),
                emoji: "👍".into(),
            }],
        })),
        ..message()
    }
}

fn json(line: &impl Serialize) -> Value {
    serde_json::to_value(line).expect("it is plain data")
}

#[test]
fn lines_are_as_documented() {
    let line = serde_json::to_string(&MessageLine::new(&message())).expect("it is plain data");
    assert_eq!(
        line,
        r#"{"type":"message","conversation":"07070707070707070707070707070707","seq":1,"id":"abababababababababababababababab","from":"bob","text":"one\ntwo \"quoted\" \u001b[m 日","sent_at":"2026-11-03T12:00:00.042Z"}"#
    );
    let sent = SentLine::new(ConversationId([7; 16]), Seq::FIRST, MessageId([1; 16]));
    assert_eq!(
        serde_json::to_string(&sent).expect("it is plain data"),
        r#"{"conversation":"07070707070707070707070707070707","seq":1,"id":"01010101010101010101010101010101"}"#
    );
}

#[test]
fn every_note_says_what_and_whom() {
    let ana = user("ana");
    for (note, line) in [
        (
            Note::Created("Ayllu".into()),
            r#"{"what":"created","title":"Ayllu"}"#,
        ),
        (Note::Joined, r#"{"what":"joined"}"#),
        (Note::Left, r#"{"what":"left"}"#),
        (Note::Invited(ana), r#"{"what":"invited","user":"ana"}"#),
        (Note::Removed(ana), r#"{"what":"removed","user":"ana"}"#),
        (
            Note::Role(ana, Role::Admin),
            r#"{"what":"role","user":"ana","role":"admin"}"#,
        ),
        (
            Note::Title("New".into()),
            r#"{"what":"title","title":"New"}"#,
        ),
        (Note::Topic(String::new()), r#"{"what":"topic","topic":""}"#),
        (Note::Pulled, r#"{"what":"pulled"}"#),
        (Note::Timer(5000), r#"{"what":"timer","keep_ms":5000}"#),
    ] {
        let message = Message {
            content: Content::Note(Box::new(note)),
            ..message()
        };
        let shown = json(&MessageLine::new(&message));
        assert_eq!(shown["type"], "note");
        assert_eq!(shown["note"], line.parse::<Value>().expect("JSON"));
    }
}

/// A conversation with everything that one can have.
fn whole_entry() -> ConversationEntry {
    ConversationEntry {
        conversation: ConversationId([7; 16]),
        peer: Some(user("bob")),
        group: Some(GroupInfo {
            title: "Ayllu".into(),
            topic: "knots".into(),
            role: Some(Role::Member),
            invited_by: Some(user("bob")),
            members: 3,
            open: false,
            history_from_start: true,
            pulled: false,
        }),
        head: Some(Seq::FIRST),
        first: Seq::FIRST,
        delivered: None,
        read: Some(Seq::FIRST),
        unread: 0,
        last: Some(message()),
        activity: AT,
        keep_ms: 0,
        peer_delivered: None,
        peer_read: Some(Seq::FIRST),
        blocked: false,
        changes: ChangeNumber::START,
    }
}

/// Lines with every field that they can have, by the heading under which SCHEMA.md has them.
fn whole_lines() -> Vec<(&'static str, Value)> {
    let conversation = ConversationId([7; 16]);
    let mut whole = json(&MessageLine::new(&whole_message()));
    let mut gone = whole_message();
    gone.content = Content::Gone(Gone::Deleted);
    whole["deleted"] = json(&MessageLine::new(&gone))["deleted"].clone();
    gone.content = Content::Note(Box::new(Note::Joined));
    whole["note"] = json(&MessageLine::new(&gone))["note"].clone();
    let changed = |kind| Changed {
        conversation,
        seq: Seq::FIRST,
        version: 1,
        by: Some(user("bob")),
        at: AT,
        kind,
    };
    let edited = changed(ChangedKind::Edited(Content::Text("new".into())));
    let reacted = changed(ChangedKind::Reacted {
        emoji: "👍".into(),
        on: true,
    });
    let mut change = json(&ChangedLine::new(&reacted));
    change["text"] = json(&ChangedLine::new(&edited))["text"].clone();
    let invitation = Invitation {
        conversation,
        by: user("bob"),
        title: "Ayllu".into(),
        at: AT,
    };
    let entry = whole_entry();
    let member = MemberEntry {
        user: user("bob"),
        role: Role::Owner,
        invited: false,
    };
    let this = DeviceId::new(1).expect("not zero");
    let device = DeviceEntry {
        device: this,
        label: "terminal".into(),
        added_at: AT,
        seen_at: Some(AT),
        connected: true,
    };
    let file = FileLine {
        conversation: String::new(),
        hash: String::new(),
        size: 1,
        media_type: "a/b",
        name: "",
        moved: 1,
        seq: Some(1),
        id: Some(String::new()),
    };
    let present = PresenceEntry {
        user: user("ben"),
        here: false,
        seen_at: Some(AT),
        order: 1,
    };
    let settings = Settings {
        privacy: Privacy::default(),
        blocked: vec![user("eve")],
    };
    vec![
        ("## A message", whole),
        ("## A change of a message", change),
        ("## An invitation", json(&InvitedLine::new(&invitation))),
        (
            "## Somebody types",
            json(&TypingLine::new(&conversation, &user("bob"), true)),
        ),
        (
            "## Somebody comes or goes",
            json(&PresentLine::new(&present)),
        ),
        (
            "## A sent message",
            json(&SentLine::new(conversation, Seq::FIRST, MessageId([1; 16]))),
        ),
        (
            "## A change that is done",
            json(&DoneLine::new("edit", Some(conversation), Some(Seq::FIRST))),
        ),
        ("## A conversation", json(&ConversationLine::new(&entry))),
        ("## A member", json(&MemberLine::new(&member))),
        (
            "## A version",
            json(&VersionLine::new(1, &Content::Text("old".into()))),
        ),
        ("## A device", json(&DeviceLine::new(&device, this))),
        (
            "## Presence",
            json(&PresenceLine::new(&user("ben"), Some(&present))),
        ),
        ("## Settings", json(&SettingsLine::new(&settings))),
        ("## A file", json(&file)),
        ("## Progress", json(&ProgressLine { done: 1, total: 2 })),
    ]
}

/// SCHEMA.md names every field that a line can have, and shows the type that it has here.
#[test]
fn every_field_is_in_the_schema() {
    let schema = include_str!("../../SCHEMA.md");
    for (heading, line) in whole_lines() {
        let section = schema
            .split(&format!("{heading}\n"))
            .nth(1)
            .unwrap_or_else(|| panic!("no section {heading}"))
            .split("\n## ")
            .next()
            .unwrap_or_default();
        let documented: Vec<&str> = section
            .lines()
            .filter_map(|row| row.strip_prefix("| `")?.split('`').next())
            .collect();
        let fields = line.as_object().expect("an object");
        assert_eq!(
            documented.len(),
            fields.len(),
            "{heading}: {documented:?} {fields:?}"
        );
        for (name, value) in fields {
            let kind = match value {
                Value::Number(_) => "integer",
                Value::Bool(_) => "boolean",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
                Value::String(_) => "string",
                Value::Null => "null",
            };
            assert!(
                section.contains(&format!("| `{name}` | {kind} |")),
                "{heading}: {name} is of type {kind}"
            );
        }
    }
}

#[test]
fn no_time_is_too_late() {
    assert!(rfc3339(TimestampMs(u64::MAX)).starts_with("9999-"));
}
