//! Whatever is typed, arrives, or happens to the window: no panic, the cursor in its place, each message shown once.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::scene::{Scene, direct, message, message_id, seq, user};
use crate::app::{
    Command, Connection, EchoId, Edit, Effect, Event, Go, Loaded, Mode, Page, Scroll,
};

const PEERS: [&str; 3] = ["bob", "carol", "dave"];

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        4 => any::<char>().prop_filter("keys are no control characters", |c| !c.is_control()).prop_map(|c| Command::Edit(Edit::Insert(c))),
        2 => Just(Command::Submit),
        4 => prop::sample::select(vec![
            Edit::Newline, Edit::Left, Edit::Right, Edit::Up, Edit::Down, Edit::WordLeft, Edit::WordRight, Edit::LineStart,
            Edit::LineEnd, Edit::DeleteBack, Edit::DeleteForward, Edit::DeleteWord, Edit::DeleteLine, Edit::Undo, Edit::Redo,
        ]).prop_map(Command::Edit),
        3 => prop::sample::select(vec![
            Scroll::LineUp, Scroll::LineDown, Scroll::HalfPageUp, Scroll::HalfPageDown, Scroll::PageUp, Scroll::PageDown,
            Scroll::Oldest, Scroll::Newest,
        ]).prop_map(Command::Scroll),
        2 => prop::sample::select(vec![Go::Next, Go::Previous, Go::NextUnread, Go::PreviousUnread]).prop_map(Command::Go),
        3 => prop::sample::select(vec![
            Command::NextItem, Command::PreviousItem, Command::Switcher, Command::SwitchForm, Command::Cancel, Command::Help,
            Command::Interrupt, Command::Either(Scroll::PageUp, Edit::DeleteLine),
        ]),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let peer = prop::sample::select(PEERS.to_vec());
    prop_oneof![
        12 => command().prop_map(Event::Command),
        1 => ".{0,40}".prop_map(Event::Paste),
        2 => (1_u16..100, 1_u16..40).prop_map(|(columns, rows)| Event::Resize { columns, rows }),
        1 => any::<bool>().prop_map(Event::Focus),
        1 => prop::sample::select(vec![Connection::Online, Connection::Connecting]).prop_map(Event::Connection),
        4 => (peer.clone(), 1_u64..60, any::<bool>(), ".{0,80}").prop_map(|(peer, n, mine, text)| {
            Event::Message(message(peer, if mine { "alice" } else { peer }, n, n as i64, &text))
        }),
        1 => (peer.clone(), any::<bool>(), 0_u64..60, 0_u64..60).prop_map(|(peer, mine, delivered, read)| {
            Scene::receipt(peer, if mine { "alice" } else { peer }, delivered, read)
        }),
        2 => (peer, 0_u8..3, 1_u64..60, 0_u64..30).prop_map(|(peer, kind, at, length)| {
            let page = [Page::Latest, Page::Before(seq(at)), Page::After(seq(at))][usize::from(kind)];
            let messages = (at..at + length).map(|n| message(peer, peer, n, n as i64, "from a page")).collect();
            Event::Page { conversation: direct(peer), page, result: Ok(Loaded { messages, ..Loaded::default() }) }
        }),
        1 => Just(Event::Stale),
        1 => Just(Event::SignInFailed("no".into())),
    ]
}

/// Draws, and checks what must hold of every screen.
fn check(scene: &Scene, size: (u16, u16)) -> Result<(), TestCaseError> {
    let (_, cursor) = scene.draw();
    let areas = scene.app.areas();
    if scene.app.mode() == Mode::Chat && scene.app.open.is_some() && areas.composer.area() > 0 {
        let (x, y) = cursor.ok_or_else(|| TestCaseError::fail("no cursor in the composer"))?;
        let at = ratatui::layout::Position::new(x as u16, y as u16);
        prop_assert!(
            areas.composer.contains(at),
            "{at:?} is outside {:?}",
            areas.composer
        );
    }
    let all = [
        areas.list,
        areas.divider,
        areas.title,
        areas.timeline,
        areas.rule,
        areas.composer,
        areas.status,
    ];
    prop_assert_eq!(
        all.iter().map(|area| area.area()).sum::<u32>(),
        u32::from(size.0) * u32::from(size.1)
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics(signed_in in any::<bool>(), events in prop::collection::vec(event(), 1..60)) {
        let mut scene = Scene::new(signed_in.then(|| user("alice")), 80, 24);
        let mut size = (80, 24);
        for event in events {
            if let Event::Resize { columns, rows } = event {
                size = (columns, rows);
            }
            scene.event(event);
            check(&scene, size)?;
        }
    }

    /// Messages are written into three conversations while the answers of outbox and gateway come in any order.
    #[test]
    fn each_echo_is_replaced_once(steps in prop::collection::vec((0_u8..5, 0_usize..3), 1..60)) {
        let mut scene = Scene::alice(80, 24);
        for peer in PEERS {
            scene.keys(&format!("<ctrl-k>{peer}<enter>"));
            scene.page(peer, Page::Latest, Vec::new());
        }
        // Of each conversation: messages the outbox has not named, named ones, the last seq.
        let mut unnamed: Vec<(EchoId, usize, String, u64)> = Vec::new();
        let mut unacked: BTreeMap<usize, Vec<(u64, String)>> = BTreeMap::new();
        let mut heads = [0_u64; 3];
        let mut placed: Vec<(usize, u64, String)> = Vec::new();
        let mut written = 0;
        let mut current = 2;
        for (kind, which) in steps {
            match kind {
                0 | 1 => {
                    let text = format!("echo{written:03}");
                    scene.effects.clear();
                    scene.keys(&format!("{text}<enter>"));
                    let echo = scene.effects.iter().find_map(|effect| match effect {
                        Effect::Send { echo, .. } => Some(*echo),
                        _ => None,
                    });
                    let echo = echo.ok_or_else(|| TestCaseError::fail("the message is sent"))?;
                    unnamed.push((echo, current, text, 1000 + written));
                    written += 1;
                }
                2 if !unnamed.is_empty() => {
                    let (echo, conversation, text, name) = unnamed.remove(which % unnamed.len());
                    scene.event(Event::Named { echo, id: message_id(PEERS[conversation], name) });
                    if !placed.iter().any(|(_, id, _)| *id == name) {
                        unacked.entry(conversation).or_default().push((name, text));
                    }
                }
                // The gateway is faster than the outbox's answer.
                3 if which == 0 && !unnamed.is_empty() => {
                    let (_, conversation, text, name) = unnamed[0].clone();
                    if !placed.iter().any(|(_, id, _)| *id == name) {
                        ack(&mut scene, &mut heads, &mut placed, conversation, name, &text);
                    }
                }
                3 => {
                    if let Some((name, text)) = unacked.get_mut(&which).and_then(Vec::pop) {
                        ack(&mut scene, &mut heads, &mut placed, which, name, &text);
                    }
                }
                _ => {
                    scene.keys(&format!("<ctrl-k>{}<enter>", PEERS[which]));
                    if which != current {
                        current = which;
                        let messages = placed.iter().filter(|(c, ..)| *c == which).enumerate()
                            .map(|(index, (_, name, text))| named(which, index as u64 + 1, *name, text)).collect();
                        let waiting = unacked.get(&which).into_iter().flatten()
                            .map(|(name, text)| Scene::waiting(PEERS[which], *name, text)).collect();
                        let result = Ok(Loaded { messages, waiting, ..Loaded::default() });
                        scene.event(Event::Page { conversation: direct(PEERS[which]), page: Page::Latest, result });
                    }
                }
            }
        }
        // In the end every answer comes.
        for (echo, conversation, text, name) in unnamed {
            scene.event(Event::Named { echo, id: message_id(PEERS[conversation], name) });
            if !placed.iter().any(|(_, id, _)| *id == name) {
                ack(&mut scene, &mut heads, &mut placed, conversation, name, &text);
            }
        }
        for (conversation, list) in unacked {
            for (name, text) in list {
                ack(&mut scene, &mut heads, &mut placed, conversation, name, &text);
            }
        }
        let open = scene.app.open.as_ref().ok_or_else(|| TestCaseError::fail("one is open"))?;
        prop_assert_eq!(open.timeline.pending().len(), 0, "no echo is left over");
        let here = placed.iter().filter(|(c, ..)| *c == current).count() as u64;
        let shown = (1..=here).filter(|n| open.timeline.entry(seq(*n)).is_some()).count() as u64;
        prop_assert_eq!(shown, here, "each message is there once");
    }
}

fn named(
    conversation: usize,
    number: u64,
    name: u64,
    text: &str,
) -> quipu_protocol::event::Message {
    let mut message = message(PEERS[conversation], "alice", number, 0, text);
    message.id = message_id(PEERS[conversation], name);
    message
}

fn ack(
    scene: &mut Scene,
    heads: &mut [u64; 3],
    placed: &mut Vec<(usize, u64, String)>,
    conversation: usize,
    name: u64,
    text: &str,
) {
    heads[conversation] += 1;
    placed.push((conversation, name, text.to_owned()));
    scene.event(Event::Message(named(
        conversation,
        heads[conversation],
        name,
        text,
    )));
}
