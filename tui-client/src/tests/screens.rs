//! Screens as snapshots: (before, keys and events, after). `▏` stands before the cell of the cursor.

use super::scene::{Scene, direct, message, message_id, user};
use crate::app::form::Secret;
use crate::app::{Connection, EchoId, Effect, Event, Loaded, Mode, Page};

/// Compares a screen with its snapshot.
macro_rules! shows {
    ($scene:expr, $name:literal) => {
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!($name, $scene.screen());
        });
    };
}

fn offline() -> Event {
    Event::Connection(Connection::Offline {
        reason: "127.0.0.1:4433 does not answer".into(),
        retries: true,
    })
}

fn many(peer: &str, first: u64, last: u64) -> Vec<Message> {
    (first..=last)
        .map(|n| {
            message(
                peer,
                if n % 3 == 0 { "alice" } else { peer },
                n,
                n as i64 - 200,
                &format!("message {n}"),
            )
        })
        .collect()
}

type Message = quipu_protocol::event::Message;

#[test]
fn empty() {
    shows!(Scene::alice(80, 12), "empty");
}

#[test]
fn first_conversation() {
    let mut scene = Scene::alice(80, 12);
    scene.keys("<ctrl-k>bob<enter>");
    scene.page("bob", Page::Latest, Vec::new());
    shows!(scene, "first_conversation");
    scene.keys("Hello<enter>");
    assert!(scene.effects.contains(&Effect::Send {
        echo: EchoId(0),
        conversation: direct("bob"),
        peer: Some(user("bob")),
        text: "Hello".into(),
        reply_to: None,
    }));
    shows!(scene, "first_message_queued");
}

#[test]
fn a_conversation() {
    shows!(Scene::with_bob(80, 16), "a_conversation");
}

#[test]
fn marks_advance() {
    let mut scene = Scene::alice(80, 12);
    scene.load(
        "bob",
        vec![message("bob", "bob", 1, -3, "Are you there?")],
        0,
    );
    scene.keys("Yes.<enter>I am.<enter>Here.<enter>So.<enter>");
    for (echo, number) in [(0, 2), (1, 3), (2, 4), (3, 5)] {
        scene.event(Event::Named {
            echo: EchoId(echo),
            id: message_id("bob", number),
        });
    }
    for (number, text) in [(2, "Yes."), (3, "I am."), (4, "Here.")] {
        scene.event(Event::Message(message("bob", "alice", number, 0, text)));
    }
    scene.event(Scene::receipt("bob", "bob", 3, 2));
    shows!(scene, "marks");
}

#[test]
fn offline_and_queued() {
    let mut scene = Scene::with_bob(80, 16);
    scene.event(offline());
    scene.keys("One while the gateway is away.<enter>And another one,<alt-enter>in two lines.<enter>A third is being wri");
    shows!(scene, "offline_queued");
}

#[test]
fn trouble_that_somebody_must_solve_is_said_in_full() {
    let mut scene = Scene::with_bob(80, 20);
    let reason = "gw.example:4433 shows another certificate than before: known 00aa, shown 11bb. If it was replaced on purpose, \
        connect once with --accept-new-certificate; if not, somebody may be listening in between";
    scene.event(Event::Connection(Connection::Offline {
        reason: reason.into(),
        retries: false,
    }));
    shows!(scene, "certificate_changed");
}

#[test]
fn refused_and_taken_back() {
    let mut scene = Scene::with_bob(80, 16);
    scene.keys("To a stranger<enter>");
    let id = message_id("bob", 99);
    scene.event(Event::Named {
        echo: EchoId(0),
        id,
    });
    scene.event(Event::Refused {
        conversation: direct("bob"),
        id,
        reason: "UNKNOWN_USER: there is no bob".into(),
    });
    shows!(scene, "refused");
    scene.keys("<esc>");
    assert!(scene.effects.contains(&Effect::Forget(id)));
    assert_eq!(scene.app.composer().text(), "To a stranger");
}

#[test]
fn unread_elsewhere_and_here() {
    let mut scene = Scene::with_bob(80, 16);
    scene.load("carol", vec![message("carol", "carol", 4, -2, "Lunch?")], 3);
    scene.load(
        "a-very-long-name-of-somebody",
        vec![message(
            "a-very-long-name-of-somebody",
            "alice",
            1,
            -5000,
            "hm",
        )],
        0,
    );
    scene.event(Event::Focus(false));
    scene.event(Event::Message(message(
        "bob",
        "bob",
        6,
        0,
        "Which blanket?",
    )));
    scene.event(Event::Message(message("bob", "bob", 7, 1, "The red one?")));
    assert!(
        !scene
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::MarkRead { .. }))
    );
    shows!(scene, "unread");
    scene.event(Event::Focus(true));
    assert!(matches!(scene.effects.last(), Some(Effect::MarkRead { seq, .. }) if seq.get() == 7));
    scene.keys("<alt-a>");
    assert_eq!(
        scene.app.open_row().map(|row| row.title()),
        Some("carol".into())
    );
}

#[test]
fn opening_goes_to_the_first_unread_message() {
    let mut scene = Scene::alice(60, 12);
    scene.load("bob", many("bob", 1, 40), 20);
    shows!(scene, "opened_at_unread");
    assert!(
        !scene
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::MarkRead { .. }))
    );
    scene.keys("<end>");
    assert!(matches!(
        scene.effects.last(),
        Some(Effect::MarkRead { .. })
    ));
}

#[test]
fn scroll_back_stays_while_messages_arrive() {
    let mut scene = Scene::alice(80, 14);
    scene.load("bob", many("bob", 51, 120), 0);
    scene.keys("<pgup><pgup><up>");
    let before = scene.screen();
    scene.event(Event::Message(message("bob", "bob", 121, 0, "new one")));
    scene.event(Event::Message(message("bob", "bob", 122, 0, "new two")));
    let rows = |screen: &str| {
        screen
            .lines()
            .take(10)
            .map(|line| line.chars().skip(20).collect::<String>())
            .collect::<Vec<_>>()
    };
    assert_eq!(rows(&before), rows(&scene.screen()));
    shows!(scene, "scrolled_back");
    scene.keys("<end>");
    assert!(scene.screen().contains("new two"));
}

#[test]
fn scroll_back_pages_history() {
    let mut scene = Scene::alice(80, 14);
    scene.load("bob", many("bob", 51, 100), 0);
    scene.keys("<ctrl-home>");
    let page = Page::Before(super::scene::seq(51));
    assert!(
        matches!(scene.effects.last(), Some(Effect::Load { page: asked, .. }) if *asked == page)
    );
    scene.event(Event::Page {
        conversation: direct("bob"),
        page,
        result: Err("not connected".into()),
    });
    shows!(scene, "history_unreachable");
    scene.keys("<pgup>");
    scene.page("bob", page, many("bob", 1, 50));
    assert!(
        scene.screen().contains("message 51"),
        "the reader stays where they were"
    );
    scene.keys("<ctrl-home>");
    shows!(scene, "history_beginning");
}

#[test]
fn what_the_reader_may_not_see_is_asked_for_once() {
    let mut scene = Scene::alice(80, 14);
    scene.load("bob", many("bob", 51, 53), 0);
    let asked = |scene: &Scene| {
        let loads = scene.effects.iter();
        loads
            .filter(|effect| matches!(effect, Effect::Load { page, .. } if *page != Page::Latest))
            .count()
    };
    assert_eq!(asked(&scene), 1, "there is room above");
    let page = Page::Before(super::scene::seq(51));
    let loaded = Loaded {
        ends: true,
        ..Loaded::default()
    };
    scene.event(Event::Page {
        conversation: direct("bob"),
        page,
        result: Ok(loaded),
    });
    shows!(scene, "history_from_joining");
    scene.keys("<pgup><ctrl-home><pgdn>");
    assert_eq!(asked(&scene), 1);
}

#[test]
fn switcher() {
    let mut scene = Scene::with_bob(80, 18);
    scene.load("carol", vec![message("carol", "carol", 4, -2, "Lunch?")], 3);
    scene.load(
        "bobadilla",
        vec![message(
            "bobadilla",
            "alice",
            1,
            -50,
            "first line\nsecond line",
        )],
        0,
    );
    scene.keys("<ctrl-k>");
    assert_eq!(scene.app.mode(), Mode::List);
    shows!(scene, "switcher_all");
    scene.keys("bo");
    shows!(scene, "switcher_some");
    scene.keys("b!");
    shows!(scene, "switcher_none");
}

#[test]
fn help() {
    let mut scene = Scene::with_bob(80, 44);
    scene.keys("<f1>");
    shows!(scene, "help");
    scene.keys("<esc>");
    assert_eq!(scene.app.mode(), Mode::Chat);
}

#[test]
fn narrow() {
    let mut scene = Scene::with_bob(36, 16);
    scene.load("carol", vec![message("carol", "carol", 4, -2, "Lunch?")], 3);
    shows!(scene, "narrow");
}

#[test]
fn tiny_sizes_show_what_fits() {
    let mut scene = Scene::with_bob(80, 16);
    scene.keys("some words");
    let mut screens = Vec::new();
    for (columns, rows) in [(20, 6), (12, 4), (8, 2), (1, 1)] {
        scene.event(Event::Resize { columns, rows });
        screens.push(format!("{columns} x {rows}\n{}", scene.screen()));
    }
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("tiny", screens.join("\n\n"));
    });
}

#[test]
fn wide_characters_keep_their_columns() {
    let mut scene = Scene::alice(60, 14);
    scene.load(
        "bob",
        vec![
            message(
                "bob",
                "bob",
                1,
                -9,
                "日本語のとても長い文章は空白がなくても正しく折り返されます。",
            ),
            message(
                "bob",
                "bob",
                2,
                -8,
                "family 👩‍👩‍👧‍👦 flag 🇵🇪 accents e\u{301} done",
            ),
            message("bob", "alice", 3, -7, "ok 👍🏽"),
        ],
        0,
    );
    scene.keys("両方 👩‍👩‍👧‍👦");
    shows!(scene, "wide");
}

#[test]
fn nothing_from_a_peer_reaches_the_terminal_raw() {
    let mut scene = Scene::alice(80, 12);
    let hostile = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\rover\u{202e}txt\u{8}\ttab\u{0}end";
    scene.load("bob", vec![message("bob", "bob", 1, -9, hostile)], 0);
    scene.event(Event::Connection(Connection::Offline {
        reason: "\u{1b}[31mred".into(),
        retries: false,
    }));
    shows!(scene, "hostile");
    let (cells, _) = scene.draw();
    assert!(
        cells
            .iter()
            .flatten()
            .all(|cell| !cell.chars().any(char::is_control))
    );
}

#[test]
fn multi_line_composer() {
    let mut scene = Scene::with_bob(70, 18);
    scene.event(Event::Paste(
        "fn main() {\r\n\tprintln!(\"hello\");\r\n}".into(),
    ));
    assert!(
        !scene
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Send { .. })),
        "a paste never sends"
    );
    scene.keys("<ctrl-j>and a line of words that is longer than the composer is wide, so it wraps");
    shows!(scene, "composer");
}

#[test]
fn a_text_above_the_limit_is_not_sent() {
    let mut scene = Scene::with_bob(80, 14);
    scene.event(Event::Paste("word ".repeat(4000)));
    scene.keys("<enter>");
    shows!(scene, "too_long");
    assert!(
        !scene
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Send { .. }))
    );
}

#[test]
fn form_registers_a_name() {
    let mut scene = Scene::new(None, 80, 18);
    shows!(scene, "form_empty");
    scene.keys("Alice<tab>short<tab>shorter<enter>");
    shows!(scene, "form_bad_name");
    for _ in 0..5 {
        scene.keys("<backspace>");
    }
    scene.keys("alice<enter>");
    scene.keys("<enter><enter>");
    assert_eq!(
        scene.app.form.error.as_deref(),
        Some("A password has at least 8 characters.")
    );
    scene.keys(" and long<enter><enter>");
    assert_eq!(
        scene.app.form.error.as_deref(),
        Some("The two passwords differ.")
    );
    for _ in 0..7 {
        scene.keys("<backspace>");
    }
    scene.keys("short and long<enter>");
    let asked = Effect::Register {
        name: user("alice"),
        password: Secret("short and long".into()),
    };
    assert_eq!(scene.effects, [asked]);
    assert!(
        !format!("{:?}", (&scene.effects, &scene.app)).contains("short and"),
        "passwords are not in debug output"
    );
    shows!(scene, "form_busy");
    scene.event(Event::SignInFailed("The name alice is taken.".into()));
    shows!(scene, "form_taken");
    scene.event(Event::SignedIn(user("alice")));
    assert_eq!(scene.app.mode(), Mode::Chat);
}

#[test]
fn form_logs_in() {
    let mut scene = Scene::new(None, 40, 14);
    scene.keys("<ctrl-r>alice<enter>a long secret<enter>");
    let asked = Effect::LogIn {
        name: user("alice"),
        password: Secret("a long secret".into()),
    };
    assert_eq!(scene.effects, [asked]);
    shows!(scene, "form_login");
}

#[test]
fn the_outbox_is_shown_when_a_conversation_is_opened() {
    let mut scene = Scene::with_bob(80, 16);
    scene.keys("<ctrl-k>carol<enter>");
    let waiting = vec![Scene::waiting("carol", 7, "left from yesterday")];
    let loaded = Loaded {
        waiting,
        ..Loaded::default()
    };
    scene.event(Event::Page {
        conversation: direct("carol"),
        page: Page::Latest,
        result: Ok(loaded),
    });
    assert!(scene.screen().contains("left from yesterday"));
    // It is acked before its echo is known by name, and again after: shown once.
    scene.event(Event::Message(message(
        "carol",
        "alice",
        7,
        0,
        "left from yesterday",
    )));
    assert_eq!(scene.screen().matches("left from").count(), 1);
}
