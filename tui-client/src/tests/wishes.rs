//! What the reader wants done to messages, on the screen: waiting, done, refused.

use quipu_protocol::event::{Changed, ChangedKind, Content};
use quipu_protocol::id::TimestampMs;

use super::scene::{Scene, direct, message, message_id, seq, user};
use crate::app::wish::{Target, What, Wish, WishId, WishNews};
use crate::app::{EchoId, Effect, Event, Loaded, Page};

macro_rules! shows {
    ($scene:expr, $name:literal) => {
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!($name, $scene.screen());
        });
    };
}

fn edit(words: &str) -> What {
    What::Edit(words.to_owned())
}

fn react(emoji: &str) -> What {
    let (emoji, on) = (emoji.to_owned(), true);
    What::React { emoji, on }
}

fn wish(id: u64, target: Target, what: What) -> Wish {
    Wish {
        id: WishId(id),
        target,
        what,
        refused: None,
    }
}

fn edited(number: u64, version: u32, words: &str) -> Event {
    Event::Changed(Box::new(Changed {
        conversation: direct("bob"),
        seq: seq(number),
        version,
        by: Some(user("alice")),
        at: TimestampMs(0),
        kind: ChangedKind::Edited(Content::Text(words.to_owned())),
    }))
}

/// The wish that the last line asked for is in the outbox.
fn taken(scene: &mut Scene, id: u64) {
    let asked = scene.effects.last().cloned();
    let Some(Effect::Wish(echo, _, target, what)) = asked else {
        panic!("{asked:?}");
    };
    scene.event(Event::Wish(WishNews::Taken(echo, wish(id, target, what))));
}

#[test]
fn an_edit_is_shown_as_waiting_until_it_is_made() {
    let mut scene = Scene::with_bob(72, 16);
    scene.keys("/edit Three llamas.<enter>");
    taken(&mut scene, 1);
    scene.keys("/react 👍<enter>");
    taken(&mut scene, 2);
    shows!(scene, "wishes_waiting");
    // What it is to say does not flicker, whichever comes first.
    scene.event(edited(5, 1, "Three llamas."));
    assert!(scene.screen().contains("Three llamas."));
    scene.event(Event::Wish(WishNews::Ended(direct("bob"), WishId(1))));
    scene.event(Event::Wish(WishNews::Ended(direct("bob"), WishId(2))));
    let screen = scene.screen();
    assert!(
        screen.contains("(edited)") && !screen.contains('⋯'),
        "{screen}"
    );
}

#[test]
fn a_refused_edit_shows_the_old_words_and_comes_back() {
    let mut scene = Scene::with_bob(72, 16);
    scene.keys("/edit Three llamas.<enter>");
    taken(&mut scene, 1);
    let reason = "this message is too old to be changed".to_owned();
    scene.event(Event::Wish(WishNews::Refused(
        direct("bob"),
        WishId(1),
        reason,
    )));
    shows!(scene, "wish_refused");
    scene.keys("<esc>");
    assert_eq!(scene.effects.last(), Some(&Effect::ForgetWish(WishId(1))));
    assert_eq!(scene.app.composer().text(), "/edit Three llamas.");
    assert!(!scene.screen().contains("not edited"));
}

#[test]
fn wishes_of_an_earlier_day_are_shown_unless_they_ended_meanwhile() {
    let mut scene = Scene::with_bob(72, 16);
    scene.keys("<ctrl-k>carol<enter>");
    // It ends before the page with the list comes.
    scene.event(Event::Wish(WishNews::Ended(direct("carol"), WishId(1))));
    let messages = vec![
        message("carol", "alice", 1, -9, "old one"),
        message("carol", "carol", 2, -8, "theirs"),
        message("carol", "alice", 3, -7, "to go"),
    ];
    let refused = Some("this user takes nothing from you".to_owned());
    let wishes = vec![
        wish(1, Target::Placed(seq(1)), edit("new one")),
        wish(2, Target::Placed(seq(3)), What::Delete),
        Wish {
            refused,
            ..wish(3, Target::Placed(seq(2)), react("🎉"))
        },
    ];
    let result = Ok(Loaded {
        messages,
        wishes,
        ..Loaded::default()
    });
    scene.event(Event::Page {
        conversation: direct("carol"),
        page: Page::Latest,
        result,
    });
    shows!(scene, "wishes_of_an_earlier_day");
}

#[test]
fn a_message_that_is_not_sent_is_the_last_one() {
    let mut scene = Scene::with_bob(72, 16);
    scene.keys("Five llamas<enter>");
    let id = message_id("bob", 6);
    scene.event(Event::Named {
        echo: EchoId(0),
        id,
    });
    scene.keys("/edit Six llamas<enter>");
    let queued = Target::Queued(id);
    let asked = Effect::Wish(EchoId(1), direct("bob"), queued, edit("Six llamas"));
    assert_eq!(scene.effects.last(), Some(&asked));
    // Nobody has seen it: it is changed where it is.
    scene.event(Event::Wish(WishNews::Made(
        EchoId(1),
        queued,
        edit("Six llamas"),
    )));
    let screen = scene.screen();
    assert!(screen.contains("Six llamas") && !screen.contains("Five llamas"));
    // It may be with the gateway by now, so the next ones wait for it.
    scene.keys("/edit Seven llamas<enter>");
    taken(&mut scene, 1);
    scene.keys("/delete<enter>");
    taken(&mut scene, 2);
    assert!(scene.screen().contains("Seven llamas (to be deleted)"));
    scene.event(Event::Message(message("bob", "alice", 6, 0, "Six llamas")));
    let screen = scene.screen();
    assert!(
        screen.contains("Seven llamas") && screen.contains("(to be deleted)"),
        "{screen}"
    );
    // What goes already is not the last message any more.
    scene.keys("/delete<enter>");
    let Some(Effect::Wish(.., target, What::Delete)) = scene.effects.last() else {
        panic!("{:?}", scene.effects.last());
    };
    assert_eq!(*target, Target::Placed(seq(5)));
}

#[test]
fn a_deleted_message_that_nobody_has_seen_is_gone_at_once() {
    let mut scene = Scene::with_bob(72, 16);
    scene.keys("Never mind<enter>");
    let id = message_id("bob", 6);
    let echo = EchoId(0);
    scene.event(Event::Named { echo, id });
    scene.keys("/delete<enter>");
    scene.event(Event::Wish(WishNews::Made(
        EchoId(1),
        Target::Queued(id),
        What::Delete,
    )));
    assert!(!scene.screen().contains("Never mind"));
}
