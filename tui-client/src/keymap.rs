//! Key combinations to named commands: one table that both the screen and its help read.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::app::{Command, Edit, Go, Mode, Scroll};

/// One row: a key, where it counts, what it does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Binding {
    /// Where it counts.
    pub(crate) mode: Mode,
    /// The key.
    pub(crate) code: KeyCode,
    /// What is held with it. Shift is only compared for keys that are no characters.
    pub(crate) held: KeyModifiers,
    /// What it does.
    pub(crate) command: Command,
}

const NONE: KeyModifiers = KeyModifiers::NONE;
const CTRL: KeyModifiers = KeyModifiers::CONTROL;
const ALT: KeyModifiers = KeyModifiers::ALT;
const SHIFT: KeyModifiers = KeyModifiers::SHIFT;
const ALT_SHIFT: KeyModifiers = KeyModifiers::ALT.union(KeyModifiers::SHIFT);

const fn key(mode: Mode, held: KeyModifiers, code: KeyCode, command: Command) -> Binding {
    Binding {
        mode,
        code,
        held,
        command,
    }
}

/// Every binding. The first one of a command is the one that the help names first.
///
/// Ctrl-/ reaches a program as Ctrl-7 or Ctrl-_ in terminals without the newer keyboard protocol, hence the three rows.
pub(crate) const BINDINGS: &[Binding] = &[
    key(Mode::Chat, NONE, KeyCode::Enter, Command::Submit),
    key(
        Mode::Chat,
        ALT,
        KeyCode::Enter,
        Command::Edit(Edit::Newline),
    ),
    key(
        Mode::Chat,
        CTRL,
        KeyCode::Char('j'),
        Command::Edit(Edit::Newline),
    ),
    key(
        Mode::Chat,
        SHIFT,
        KeyCode::Enter,
        Command::Edit(Edit::Newline),
    ),
    key(Mode::Chat, NONE, KeyCode::Left, Command::Edit(Edit::Left)),
    key(Mode::Chat, NONE, KeyCode::Right, Command::Edit(Edit::Right)),
    key(
        Mode::Chat,
        NONE,
        KeyCode::Up,
        Command::Either(Scroll::LineUp, Edit::Up),
    ),
    key(
        Mode::Chat,
        NONE,
        KeyCode::Down,
        Command::Either(Scroll::LineDown, Edit::Down),
    ),
    key(
        Mode::Chat,
        CTRL,
        KeyCode::Left,
        Command::Edit(Edit::WordLeft),
    ),
    key(
        Mode::Chat,
        ALT,
        KeyCode::Char('b'),
        Command::Edit(Edit::WordLeft),
    ),
    key(
        Mode::Chat,
        CTRL,
        KeyCode::Right,
        Command::Edit(Edit::WordRight),
    ),
    key(
        Mode::Chat,
        ALT,
        KeyCode::Char('f'),
        Command::Edit(Edit::WordRight),
    ),
    key(
        Mode::Chat,
        CTRL,
        KeyCode::Char('a'),
        Command::Edit(Edit::LineStart),
    ),
    key(
        Mode::Chat,
        CTRL,
        KeyCode::Char('e'),
        Command::Edit(Edit::LineEnd),
    ),
    key(
        Mode::Chat,
        NONE,
        KeyCode::Backspace,
        Command::Edit(Edit::DeleteBack),
    ),
    key(
        Mode::Chat,
        CTRL,
        KeyCode::Char('h'),
        Command::Edit(Edit::DeleteBack),
    ),
    key(
        Mode::Chat,
        NONE,
        KeyCode::Delete,
        Command::Edit(Edit::DeleteForward),
    ),
    key(
        Mode::Chat,
        CTRL,
        KeyCode::Char('w'),
        Command::Edit(Edit::DeleteWord),
    ),
    key(
        Mode::Chat,
        ALT,
        KeyCode::Backspace,
        Command::Edit(Edit::DeleteWord),
    ),
    key(
        Mode::Chat,
        CTRL,
        KeyCode::Char('z'),
        Command::Edit(Edit::Undo),
    ),
    key(
        Mode::Chat,
        CTRL,
        KeyCode::Char('y'),
        Command::Edit(Edit::Redo),
    ),
    key(
        Mode::Chat,
        NONE,
        KeyCode::PageUp,
        Command::Scroll(Scroll::PageUp),
    ),
    key(
        Mode::Chat,
        NONE,
        KeyCode::PageDown,
        Command::Scroll(Scroll::PageDown),
    ),
    key(
        Mode::Chat,
        CTRL,
        KeyCode::Char('u'),
        Command::Either(Scroll::HalfPageUp, Edit::DeleteLine),
    ),
    key(
        Mode::Chat,
        CTRL,
        KeyCode::Char('d'),
        Command::Either(Scroll::HalfPageDown, Edit::DeleteForward),
    ),
    key(
        Mode::Chat,
        NONE,
        KeyCode::Home,
        Command::Either(Scroll::Oldest, Edit::LineStart),
    ),
    key(
        Mode::Chat,
        NONE,
        KeyCode::End,
        Command::Either(Scroll::Newest, Edit::LineEnd),
    ),
    key(
        Mode::Chat,
        CTRL,
        KeyCode::Home,
        Command::Scroll(Scroll::Oldest),
    ),
    key(
        Mode::Chat,
        CTRL,
        KeyCode::End,
        Command::Scroll(Scroll::Newest),
    ),
    key(Mode::Chat, NONE, KeyCode::Esc, Command::Cancel),
    key(Mode::Chat, CTRL, KeyCode::Char('k'), Command::Switcher),
    key(Mode::Chat, ALT, KeyCode::Down, Command::Go(Go::Next)),
    key(Mode::Chat, CTRL, KeyCode::Char('n'), Command::Go(Go::Next)),
    key(Mode::Chat, ALT, KeyCode::Up, Command::Go(Go::Previous)),
    key(
        Mode::Chat,
        CTRL,
        KeyCode::Char('p'),
        Command::Go(Go::Previous),
    ),
    key(
        Mode::Chat,
        ALT,
        KeyCode::Char('a'),
        Command::Go(Go::NextUnread),
    ),
    key(
        Mode::Chat,
        ALT_SHIFT,
        KeyCode::Down,
        Command::Go(Go::NextUnread),
    ),
    key(
        Mode::Chat,
        ALT_SHIFT,
        KeyCode::Up,
        Command::Go(Go::PreviousUnread),
    ),
    key(Mode::Any, NONE, KeyCode::F(1), Command::Help),
    key(Mode::Any, CTRL, KeyCode::Char('/'), Command::Help),
    key(Mode::Any, CTRL, KeyCode::Char('7'), Command::Help),
    key(Mode::Any, CTRL, KeyCode::Char('_'), Command::Help),
    key(Mode::Any, CTRL, KeyCode::Char('l'), Command::Redraw),
    key(Mode::Any, CTRL, KeyCode::Char('c'), Command::Interrupt),
    key(Mode::Any, CTRL, KeyCode::Char('q'), Command::Quit),
    key(Mode::List, NONE, KeyCode::Enter, Command::Submit),
    key(Mode::List, NONE, KeyCode::Esc, Command::Cancel),
    key(Mode::List, CTRL, KeyCode::Char('k'), Command::Cancel),
    key(Mode::List, NONE, KeyCode::Up, Command::PreviousItem),
    key(Mode::List, CTRL, KeyCode::Char('p'), Command::PreviousItem),
    key(Mode::List, NONE, KeyCode::Down, Command::NextItem),
    key(Mode::List, CTRL, KeyCode::Char('n'), Command::NextItem),
    key(Mode::Help, NONE, KeyCode::Esc, Command::Cancel),
    key(Mode::Help, NONE, KeyCode::Enter, Command::Cancel),
    key(Mode::Help, NONE, KeyCode::Char('q'), Command::Cancel),
    key(
        Mode::Help,
        NONE,
        KeyCode::Up,
        Command::Scroll(Scroll::LineUp),
    ),
    key(
        Mode::Help,
        NONE,
        KeyCode::Down,
        Command::Scroll(Scroll::LineDown),
    ),
    key(
        Mode::Help,
        NONE,
        KeyCode::PageUp,
        Command::Scroll(Scroll::PageUp),
    ),
    key(
        Mode::Help,
        NONE,
        KeyCode::PageDown,
        Command::Scroll(Scroll::PageDown),
    ),
    key(Mode::Form, NONE, KeyCode::Enter, Command::Submit),
    key(Mode::Form, NONE, KeyCode::Tab, Command::NextItem),
    key(Mode::Form, NONE, KeyCode::Down, Command::NextItem),
    key(Mode::Form, NONE, KeyCode::BackTab, Command::PreviousItem),
    key(Mode::Form, SHIFT, KeyCode::BackTab, Command::PreviousItem),
    key(Mode::Form, NONE, KeyCode::Up, Command::PreviousItem),
    key(Mode::Form, CTRL, KeyCode::Char('r'), Command::SwitchForm),
    key(Mode::Form, NONE, KeyCode::Esc, Command::Cancel),
    key(Mode::Field, NONE, KeyCode::Left, Command::Edit(Edit::Left)),
    key(
        Mode::Field,
        NONE,
        KeyCode::Right,
        Command::Edit(Edit::Right),
    ),
    key(
        Mode::Field,
        NONE,
        KeyCode::Home,
        Command::Edit(Edit::LineStart),
    ),
    key(
        Mode::Field,
        CTRL,
        KeyCode::Char('a'),
        Command::Edit(Edit::LineStart),
    ),
    key(
        Mode::Field,
        NONE,
        KeyCode::End,
        Command::Edit(Edit::LineEnd),
    ),
    key(
        Mode::Field,
        CTRL,
        KeyCode::Char('e'),
        Command::Edit(Edit::LineEnd),
    ),
    key(
        Mode::Field,
        NONE,
        KeyCode::Backspace,
        Command::Edit(Edit::DeleteBack),
    ),
    key(
        Mode::Field,
        CTRL,
        KeyCode::Char('h'),
        Command::Edit(Edit::DeleteBack),
    ),
    key(
        Mode::Field,
        NONE,
        KeyCode::Delete,
        Command::Edit(Edit::DeleteForward),
    ),
    key(
        Mode::Field,
        CTRL,
        KeyCode::Char('w'),
        Command::Edit(Edit::DeleteWord),
    ),
    key(
        Mode::Field,
        CTRL,
        KeyCode::Char('u'),
        Command::Edit(Edit::DeleteLine),
    ),
];

/// What a key press means in a mode. A character that nothing is bound to is typed, where something can be typed.
pub(crate) fn command(mode: Mode, key: KeyEvent) -> Option<Command> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let bound = BINDINGS
        .iter()
        .find(|binding| applies(binding.mode, mode) && matches(binding, &key))
        .map(|binding| binding.command);
    let typed = match key.code {
        // Right Alt (AltGr) arrives as Ctrl and Alt together and types a character.
        KeyCode::Char(c)
            if mode != Mode::Help
                && !c.is_control()
                && (key.modifiers.difference(SHIFT).is_empty()
                    || key.modifiers.contains(CTRL | ALT)) =>
        {
            Some(Command::Edit(Edit::Insert(c)))
        }
        KeyCode::Tab if mode == Mode::Chat => Some(Command::Edit(Edit::Insert('\t'))),
        _ => None,
    };
    bound.or(typed)
}

/// The name of a key, for the help: `Ctrl-K`, `Alt-Enter`.
pub(crate) fn name(binding: &Binding) -> String {
    let mut name = String::new();
    for (held, word) in [(CTRL, "Ctrl-"), (ALT, "Alt-"), (SHIFT, "Shift-")] {
        if binding.held.contains(held) {
            name.push_str(word);
        }
    }
    match binding.code {
        KeyCode::Char(c) => name.extend(c.to_uppercase()),
        KeyCode::Up => name.push('↑'),
        KeyCode::Down => name.push('↓'),
        KeyCode::Left => name.push('←'),
        KeyCode::Right => name.push('→'),
        KeyCode::PageUp => name.push_str("PgUp"),
        KeyCode::PageDown => name.push_str("PgDn"),
        KeyCode::F(number) => name.push_str(&format!("F{number}")),
        other => name.push_str(&other.to_string()),
    }
    name
}

fn applies(bound: Mode, current: Mode) -> bool {
    bound == current
        || bound == Mode::Any
        || (bound == Mode::Field && matches!(current, Mode::List | Mode::Form))
}

fn matches(binding: &Binding, key: &KeyEvent) -> bool {
    match (binding.code, key.code) {
        (KeyCode::Char(bound), KeyCode::Char(pressed)) => {
            bound == pressed.to_ascii_lowercase() && binding.held == key.modifiers.difference(SHIFT)
        }
        (bound, pressed) => bound == pressed && binding.held == key.modifiers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(held: KeyModifiers, code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, held)
    }

    #[test]
    fn no_key_means_two_things() {
        for (i, a) in BINDINGS.iter().enumerate() {
            for b in &BINDINGS[i + 1..] {
                let same_key = a.code == b.code && a.held == b.held;
                let same_place = [Mode::Chat, Mode::List, Mode::Form, Mode::Help]
                    .into_iter()
                    .any(|mode| applies(a.mode, mode) && applies(b.mode, mode));
                assert!(!(same_key && same_place), "{} is bound twice", name(a));
            }
        }
    }

    #[test]
    fn keys_as_terminals_send_them() {
        let chat = |held, code| command(Mode::Chat, press(held, code));
        assert_eq!(chat(NONE, KeyCode::Enter), Some(Command::Submit));
        assert_eq!(
            chat(ALT, KeyCode::Enter),
            Some(Command::Edit(Edit::Newline))
        );
        assert_eq!(
            chat(CTRL, KeyCode::Char('j')),
            Some(Command::Edit(Edit::Newline))
        );
        assert_eq!(chat(CTRL, KeyCode::Char('7')), Some(Command::Help));
        assert_eq!(
            chat(SHIFT, KeyCode::Char('A')),
            Some(Command::Edit(Edit::Insert('A')))
        );
        assert_eq!(
            chat(CTRL | ALT, KeyCode::Char('@')),
            Some(Command::Edit(Edit::Insert('@')))
        );
        assert_eq!(chat(CTRL, KeyCode::Char('x')), None);
        assert_eq!(
            command(Mode::Help, press(NONE, KeyCode::Char('q'))),
            Some(Command::Cancel)
        );
        assert_eq!(
            command(Mode::List, press(NONE, KeyCode::Char('q'))),
            Some(Command::Edit(Edit::Insert('q')))
        );
        let mut release = press(NONE, KeyCode::Enter);
        release.kind = KeyEventKind::Release;
        assert_eq!(command(Mode::Chat, release), None);
    }
}
