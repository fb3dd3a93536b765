//! Groups, and what happens to messages after they are sent, on the screen.

use quipu_protocol::event::{
    Change, Changed, ChangedKind, Content, Gone, Invitation, Message, MessageState, Note, Privacy,
    Reaction, Receipt, Rich,
};
use quipu_protocol::id::{ConversationId, TimestampMs};
use quipu_protocol::query::PresenceEntry;

use super::scene::{Scene, conversation, direct, message, seq, user};
use crate::app::conversations::Conversation;
use crate::app::wish::{Target, What};
use crate::app::{Connection, EchoId, Effect, Event, Loaded, Page};

macro_rules! shows {
    ($scene:expr, $name:literal) => {
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!($name, $scene.screen());
        });
    };
}

const GROUP: ConversationId = ConversationId([0x8a; 16]);

fn in_group(from: &str, number: u64, content: Content) -> Message {
    Message {
        conversation: GROUP,
        to: None,
        content,
        ..message("ayllu", from, number, number as i64 - 20, "")
    }
}

fn note(from: &str, number: u64, note: Note) -> Message {
    in_group(from, number, Content::Note(Box::new(note)))
}

fn group_scene() -> Scene {
    let mut scene = Scene::alice(72, 20);
    let messages = vec![
        note("ana", 1, Note::Created("Ayllu \u{1b}[31m".into())),
        note("ana", 2, Note::Invited(user("ben"))),
        note("ben", 3, Note::Joined),
        in_group("ben", 4, Content::Text("Who carries the cords?".into())),
        in_group(
            "alice",
            5,
            Content::Rich(Box::new(Rich {
                text: "I do.".into(),
                reply_to: Some(seq(4)),
                ..Rich::default()
            })),
        ),
        in_group("ana", 6, Content::Text("Take the high road.".into())),
        in_group("ben", 7, Content::Text("Wrong room".into())),
    ];
    let mut row = Conversation::new(GROUP, None);
    row.group = Some("Ayllu".into());
    row.set_last(&messages[6]);
    row.head = Some(seq(7));
    row.read = Some(seq(7));
    scene.event(Event::Conversations(vec![row]));
    scene.event(Event::Page {
        conversation: GROUP,
        page: Page::Latest,
        result: Ok(Loaded {
            messages,
            ..Loaded::default()
        }),
    });
    scene
}

fn changed(number: u64, version: u32, by: &str, kind: ChangedKind) -> Event {
    Event::Changed(Box::new(Changed {
        conversation: GROUP,
        seq: seq(number),
        version,
        by: Some(user(by)),
        at: TimestampMs(0),
        kind,
    }))
}

fn sign(number: u64, version: u32, by: &str, emoji: &str, on: bool) -> Event {
    let emoji = emoji.to_owned();
    changed(number, version, by, ChangedKind::Reacted { emoji, on })
}

#[test]
fn a_group_with_notes_and_an_answer() {
    shows!(group_scene(), "group");
}

#[test]
fn one_reader_of_a_group_does_not_stand_for_all() {
    let mut scene = group_scene();
    let before = scene.screen();
    scene.event(Event::Receipt(Receipt {
        conversation: GROUP,
        user: user("ben"),
        delivered: Some(seq(7)),
        read: Some(seq(7)),
    }));
    assert_eq!(scene.screen(), before);
}

#[test]
fn edits_deletions_and_reactions_arrive() {
    let mut scene = group_scene();
    let edited = ChangedKind::Edited(Content::Text("Take the low road.".into()));
    scene.event(changed(6, 2, "ana", edited));
    // An older change that comes late says nothing any more.
    let late = ChangedKind::Edited(Content::Text("Take no road.".into()));
    scene.event(changed(6, 1, "ana", late));
    scene.event(changed(7, 1, "ben", ChangedKind::Gone(Gone::Deleted)));
    scene.event(sign(5, 1, "ana", "👍", true));
    scene.event(sign(5, 2, "ben", "👍", true));
    scene.event(sign(5, 3, "ben", "🎉", true));
    scene.event(sign(5, 4, "ben", "🎉", false));
    shows!(scene, "group_changed");
}

#[test]
fn a_page_brings_what_happened_before() {
    let mut scene = Scene::alice(60, 10);
    let mut old = message("bob", "bob", 1, -3, "Four llamas.");
    old.state = Some(Box::new(MessageState {
        version: 2,
        edited_at: Some(TimestampMs(1)),
        edits: 1,
        expires_at: None,
        reactions: vec![Reaction {
            user: user("alice"),
            emoji: "🦙".into(),
        }],
    }));
    let mut gone = message("bob", "bob", 2, -2, "");
    gone.content = Content::Gone(Gone::Expired);
    scene.load("bob", vec![old, gone], 0);
    shows!(scene, "changed_before");
}

#[test]
fn an_invitation_is_shown_and_answered() {
    let mut scene = Scene::alice(72, 12);
    scene.event(Event::Invited(invitation()));
    scene.keys("<ctrl-k>Ayllu<enter>");
    nothing_yet(&mut scene);
    shows!(scene, "invited");
    // Refused: the line is there again, with the reason, and the invitation still waits.
    scene.keys("/join<enter>");
    let join = |echo| Effect::Change(EchoId(echo), Box::new(Change::Join(GROUP)));
    assert!(scene.effects.contains(&join(0)));
    assert_eq!(scene.app.composer().text(), "");
    scene.event(Event::ChangeFailed(EchoId(0), "Not done: full".into()));
    shows!(scene, "join_refused");
    scene.keys("<enter>");
    assert!(scene.effects.contains(&join(1)));
    scene.event(Event::ChangeDone(EchoId(1)));
    assert_eq!(scene.effects.last(), Some(&Effect::Refresh));
    let mut row = Conversation::new(GROUP, None);
    row.group = Some("Ayllu".into());
    scene.event(Event::Conversations(vec![row]));
    let row = scene.app.conversations.get(&GROUP).expect("in the list");
    assert_eq!((row.invited_by, &*scene.app.composer().text()), (None, ""));
}

#[test]
fn an_invitation_is_a_line_of_the_list_until_it_is_answered() {
    let mut scene = Scene::alice(72, 12);
    scene.event(Event::Conversations(vec![invited_row()]));
    nothing_yet(&mut scene);
    shows!(scene, "invited");
    scene.keys("/leave<enter>");
    scene.event(Event::ChangeDone(EchoId(0)));
    assert!(scene.app.conversations.get(&GROUP).is_none());
    assert!(scene.app.open.is_none(), "{}", scene.screen());
    // A list that was read before it was forgotten brings it back for a moment only.
    scene.event(Event::Conversations(vec![invited_row()]));
    scene.event(Event::Conversations(Vec::new()));
    assert!(scene.app.conversations.get(&GROUP).is_none());
    assert!(scene.app.open.is_none(), "{}", scene.screen());
}

#[test]
fn what_was_declined_makes_room_for_another_conversation() {
    let mut scene = Scene::with_bob(72, 12);
    scene.event(Event::Invited(invitation()));
    scene.keys("<ctrl-k>Ayllu<enter>");
    nothing_yet(&mut scene);
    scene.keys("/leave<enter>");
    assert_eq!(open(&scene), Some(GROUP));
    scene.event(Event::ChangeDone(EchoId(0)));
    assert_eq!(open(&scene), Some(direct("bob")));
    assert!(!scene.screen().contains("Ayllu"), "{}", scene.screen());
}

#[test]
fn a_group_that_is_joined_stays_although_the_list_does_not_have_it_yet() {
    let mut scene = Scene::with_bob(72, 12);
    scene.event(Event::Invited(invitation()));
    scene.keys("<ctrl-k>Ayllu<enter>/join<enter>");
    scene.event(Event::ChangeDone(EchoId(0)));
    // The question is answered, and the note of the joining has not come.
    let last = message("bob", "bob", 5, -12, "Soon.");
    scene.event(Event::Conversations(vec![conversation("bob", &last, 0)]));
    assert_eq!(open(&scene), Some(GROUP));
}

#[test]
fn an_invitation_that_another_device_declined_goes_with_the_next_connection() {
    let mut scene = Scene::with_bob(72, 12);
    let asks =
        |scene: &mut Scene| std::mem::take(&mut scene.effects).contains(&Effect::AskInvitations);
    scene.event(Event::Connection(Connection::Online));
    assert!(!asks(&mut scene), "there is nothing to ask about");
    scene.event(Event::Invited(invitation()));
    scene.event(Event::Connection(Connection::Connecting));
    assert!(!asks(&mut scene));
    scene.event(Event::Connection(Connection::Online));
    assert!(asks(&mut scene));
    scene.event(Event::InvitationsAsked);
    assert_eq!(scene.effects.last(), Some(&Effect::Refresh));
    let last = message("bob", "bob", 5, -12, "Soon.");
    scene.event(Event::Conversations(vec![conversation("bob", &last, 0)]));
    assert!(scene.app.conversations.get(&GROUP).is_none());
}

#[test]
fn privacy_is_shown_and_changed() {
    let mut scene = Scene::with_bob(80, 12);
    scene.keys("/privacy<enter>");
    assert_eq!(
        scene.effects.last(),
        Some(&Effect::Privacy(EchoId(0), None))
    );
    let mut privacy = Privacy {
        hide_typing: true,
        ..Privacy::default()
    };
    scene.event(Event::Privacy(EchoId(0), privacy));
    let words = "Others: read shown, typing hidden, presence shown, last-seen shown.";
    assert_eq!(scene.app.notice.as_deref(), Some(words));
    assert_eq!(scene.app.composer().text(), "");
    scene.keys("/privacy hide last-seen<enter>");
    let Some(Effect::Privacy(EchoId(1), Some(hide))) = scene.effects.last() else {
        panic!("{:?}", scene.effects.last());
    };
    privacy.hide_last_seen = true;
    // The other switches stay as they are.
    let before = Privacy {
        hide_last_seen: false,
        ..privacy
    };
    assert_eq!(hide.of(before), privacy);
    // Not done: the line is there again, with the reason.
    scene.event(Event::ChangeFailed(EchoId(1), "Not done: away".into()));
    assert_eq!(scene.app.composer().text(), "/privacy hide last-seen");
    assert_eq!(scene.app.notice.as_deref(), Some("Not done: away"));
    scene.keys("<ctrl-u>");
    let asked = scene.effects.len();
    for wrong in ["/privacy on", "/privacy hide everything", "/privacy hide"] {
        scene.keys(&format!("{wrong}<enter>"));
        let said = scene.app.notice.clone().unwrap_or_default();
        assert!(said.contains("read, typing, presence, last-seen"), "{said}");
        scene.keys("<ctrl-u>");
    }
    let asks = |effect: &Effect| matches!(effect, Effect::Privacy(..));
    assert!(!scene.effects[asked..].iter().any(asks));
}

/// Answers the question for the newest messages of the group.
fn nothing_yet(scene: &mut Scene) {
    scene.event(Event::Page {
        conversation: GROUP,
        page: Page::Latest,
        result: Ok(Loaded::default()),
    });
}

fn open(scene: &Scene) -> Option<ConversationId> {
    scene.app.open.as_ref().map(|open| open.id)
}

fn invitation() -> Invitation {
    Invitation {
        conversation: GROUP,
        by: user("ana"),
        title: "Ayllu".into(),
        at: TimestampMs(0),
    }
}

/// The line of an invitation, as the cache has it after a restart.
fn invited_row() -> Conversation {
    let mut row = Conversation::new(GROUP, None);
    row.group = Some("Ayllu".into());
    row.invited_by = Some(user("ana"));
    row
}

#[test]
fn words_behind_a_slash_change_the_last_messages() {
    let mut scene = Scene::with_bob(80, 16);
    let conversation = direct("bob");
    scene.keys("/reply Soon.<enter>/edit Three llamas.<enter>/delete<enter>/react 👍<enter>//home<enter>/nonsense<enter>");
    let changes: Vec<&Effect> = scene
        .effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Wish(..) | Effect::Send { .. }))
        .collect();
    let send = |echo, text: &str, reply_to| Effect::Send {
        echo: EchoId(echo),
        conversation,
        peer: Some(user("bob")),
        text: text.into(),
        reply_to,
    };
    let wish =
        |echo, seq, what| Effect::Wish(EchoId(echo), conversation, Target::Placed(seq), what);
    let (emoji, on) = ("👍".into(), true);
    let expected = [
        send(0, "Soon.", Some(seq(4))),
        wish(1, seq(5), What::Edit("Three llamas.".into())),
        wish(2, seq(5), What::Delete),
        wish(3, seq(4), What::React { emoji, on }),
        send(4, "/home", None),
    ];
    assert_eq!(changes, expected.iter().collect::<Vec<_>>());
    let notice = scene.app.notice.as_deref().expect("it is said");
    assert!(notice.starts_with("There is no /nonsense."), "{notice}");
    assert_eq!(scene.app.composer().text(), "/nonsense");
}

fn typing(who: &str, on: bool) -> Event {
    Event::Typing(direct("bob"), user(who), on)
}

fn present(here: bool, seen_minutes: Option<i64>) -> Event {
    let noon = message("bob", "bob", 1, 0, "").sent_at.0;
    Event::Presence(PresenceEntry {
        user: user("bob"),
        here,
        seen_at: seen_minutes.map(|at| TimestampMs(noon.saturating_add_signed(at * 60_000))),
        order: 1,
    })
}

#[test]
fn who_is_here_and_who_types() {
    let mut scene = Scene::with_bob(72, 20);
    let first = |scene: &Scene, words: &str| scene.screen().contains(words);
    assert!(!first(&scene, "here") && !first(&scene, "last seen"));
    scene.event(present(true, None));
    scene.event(typing("bob", true));
    shows!(scene, "here_and_typing");
    // Of another conversation it is not shown here, and an end that was missed does not stay.
    scene.event(Event::Typing(direct("carol"), user("carol"), true));
    assert!(!first(&scene, "carol is typing"));
    scene.event(typing("bob", false));
    assert!(!first(&scene, "is typing"));
    scene.event(typing("bob", true));
    scene.event(Event::Stale);
    assert!(!first(&scene, "is typing"));
    for (told, words) in [
        (present(false, Some(-59)), "last seen 11:01"),
        (present(false, Some(-24 * 60)), "last seen yesterday 12:00"),
        (
            present(false, Some(-72 * 60)),
            "last seen Saturday 31 October",
        ),
    ] {
        scene.event(told);
        assert!(first(&scene, words), "{words}: {}", scene.screen());
    }
    scene.event(present(false, None));
    assert!(!first(&scene, "last seen"));
}

#[test]
fn writing_is_said_and_commands_are_not() {
    let mut scene = Scene::with_bob(72, 20);
    let said = |scene: &mut Scene| {
        let effects = std::mem::take(&mut scene.effects);
        let about =
            |effect: &Effect| matches!(effect, Effect::Typing(_) | Effect::StoppedTyping(_));
        effects.into_iter().filter(about).collect::<Vec<_>>()
    };
    said(&mut scene);
    scene.keys("hi");
    let typing = Effect::Typing(direct("bob"));
    assert_eq!(said(&mut scene), [typing.clone(), typing.clone()]);
    // Moving the cursor is not writing.
    scene.keys("<left>");
    assert!(said(&mut scene).is_empty());
    scene.keys("<right><backspace><backspace>");
    let stopped = Effect::StoppedTyping(direct("bob"));
    assert_eq!(said(&mut scene), [typing, stopped]);
    scene.keys("/leave");
    assert!(
        said(&mut scene).is_empty(),
        "a command is nobody's business"
    );
}
