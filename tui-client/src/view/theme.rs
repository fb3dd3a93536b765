//! Every style of the screen, from the terminal's own 16 colours. NO_COLOR is honoured by crossterm; nothing is told by colour alone.

use quipu_protocol::id::UserId;
use ratatui::style::{Color, Modifier, Style};

/// Frames and dividers.
pub(super) fn frame() -> Style {
    Style::new().fg(Color::DarkGray)
}

/// What may be overlooked: times, hints, placeholders.
pub(super) fn dim() -> Style {
    Style::new().fg(Color::DarkGray)
}

/// Titles.
pub(super) fn heading() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

/// The open conversation in the list and the chosen line of the switcher.
pub(super) fn selected() -> Style {
    Style::new().add_modifier(Modifier::REVERSED)
}

/// A conversation with unread messages, and the line above them.
pub(super) fn unread() -> Style {
    Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD)
}

/// All is well.
pub(super) fn good() -> Style {
    Style::new().fg(Color::Green)
}

/// Somebody must wait or look.
pub(super) fn warning() -> Style {
    Style::new().fg(Color::Yellow)
}

/// Something failed.
pub(super) fn bad() -> Style {
    Style::new().fg(Color::Red)
}

/// A message that was read.
pub(super) fn read() -> Style {
    Style::new().fg(Color::Cyan)
}

/// The reader's own name.
pub(super) fn own_name() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

/// A sender's name: always the same colour for the same name.
pub(super) fn name(user: &UserId) -> Style {
    const COLOURS: [Color; 6] = [
        Color::Green,
        Color::Magenta,
        Color::Cyan,
        Color::Blue,
        Color::LightGreen,
        Color::LightMagenta,
    ];
    let sum = user.as_str().bytes().fold(0_usize, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(usize::from(byte))
    });
    Style::new()
        .fg(COLOURS[sum % COLOURS.len()])
        .add_modifier(Modifier::BOLD)
}
