//! Draws the help, out of the table that the keys are looked up in.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::{chat, popup, put, theme};
use crate::app::slash::COMMANDS;
use crate::app::{Command, Mark, Mode};
use crate::keymap::{self, BINDINGS};
use crate::text;

/// Cells for the keys.
const KEYS_COLUMNS: usize = 32;

/// Draws it from a row on.
pub(super) fn draw(from: u16, screen: Rect, buffer: &mut Buffer) {
    let lines = lines();
    let rows = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX);
    let area = popup(buffer, screen, "Keys: Esc closes, ↑ ↓ scroll", 80, rows);
    let height = usize::from(area.height);
    let from = usize::from(from).min(lines.len().saturating_sub(height));
    let narrow = area.width < 70;
    for (row, (keys, words)) in lines.iter().skip(from).take(height).enumerate() {
        let at = if narrow { 13 } else { KEYS_COLUMNS };
        let keys = if narrow {
            keys.split(", ").next().unwrap_or_default()
        } else {
            keys
        };
        put(
            buffer,
            area,
            row,
            0,
            &text::truncate(keys, at - 1),
            theme::heading(),
        );
        put(buffer, area, row, at, words, Style::new());
    }
}

/// Keys and what they do, in the order of the table; keys of one meaning together.
fn lines() -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = Vec::new();
    for binding in BINDINGS
        .iter()
        .filter(|binding| matches!(binding.mode, Mode::Chat | Mode::Any))
    {
        let Some(words) = binding.command.describe() else {
            continue;
        };
        let mut key = keymap::name(binding);
        // How some terminals send Ctrl-/.
        if matches!(key.as_str(), "Ctrl-7" | "Ctrl-_") {
            continue;
        }
        if matches!(binding.command, Command::Either(..)) {
            key.push('*');
        }
        match lines.iter_mut().find(|(_, known)| known == words) {
            Some((keys, _)) => {
                keys.push_str(", ");
                keys.push_str(&key);
            }
            None => lines.push((key, words.to_owned())),
        }
    }
    lines.push((
        "*".into(),
        "with nothing written; else edits the text".into(),
    ));
    lines.push((String::new(), String::new()));
    for (usage, words) in COMMANDS {
        lines.push((usage.into(), words.into()));
    }
    lines.push((String::new(), String::new()));
    for (mark, words) in [
        (Mark::Queued, "waits for the gateway"),
        (Mark::Acked, "the gateway has it for good"),
        (Mark::Delivered, "it is on the other's device"),
        (Mark::Read, "it was read"),
        (Mark::Failed, "it was refused"),
    ] {
        lines.push((chat::sign(mark).0.into(), words.into()));
    }
    lines
}
