//! Draws the switcher.

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;

use super::{cursor_at, list, popup, put, put_right, theme};
use crate::app::App;
use crate::app::switcher::{Choice, Switcher};
use crate::text;

/// Draws it; returns the cursor.
pub(super) fn draw(
    app: &App,
    switcher: &Switcher,
    screen: Rect,
    buffer: &mut Buffer,
) -> Option<Position> {
    let area = popup(buffer, screen, "Open a conversation", 52, 14);
    let query = text::display(switcher.query.text());
    put(buffer, area, 0, 0, "> ", theme::dim());
    put(buffer, area, 0, 2, &query, Style::new());
    if query.is_empty() {
        put(buffer, area, 0, 2, "a name", theme::dim());
    }
    let height = usize::from(area.height).saturating_sub(2);
    let first = (switcher.at + 1).saturating_sub(height);
    if switcher.choices.is_empty() {
        let rule = if query.is_empty() {
            "Type the name of somebody to write to."
        } else {
            "No conversation fits, and this is nobody's name: names have 2 to 31 characters of a-z 0-9 . _ -"
        };
        for (row, range) in text::wrap(rule, usize::from(area.width))
            .into_iter()
            .enumerate()
        {
            put(
                buffer,
                area,
                2 + row,
                0,
                rule[range].trim_end(),
                theme::dim(),
            );
        }
    }
    for (index, choice) in switcher.choices.iter().enumerate().skip(first).take(height) {
        let line = 2 + index - first;
        let chosen = index == switcher.at;
        let style = if chosen {
            theme::selected()
        } else {
            Style::new()
        };
        if chosen {
            put(
                buffer,
                area,
                line,
                0,
                &" ".repeat(usize::from(area.width)),
                style,
            );
        }
        match choice {
            Choice::Known(id) => {
                let Some(row) = app.conversations.get(id) else {
                    continue;
                };
                let title = row.title();
                put(buffer, area, line, 1, &title, style);
                let count = if row.unread > 0 {
                    format!("{} ", list::count(row.unread))
                } else {
                    String::new()
                };
                let start = 3 + text::width(&title).max(12);
                let room = usize::from(area.width).saturating_sub(start + count.len() + 1);
                let preview_style = if chosen { style } else { theme::dim() };
                put(
                    buffer,
                    area,
                    line,
                    start,
                    &text::truncate(&row.preview, room),
                    preview_style,
                );
                put_right(
                    buffer,
                    area,
                    line,
                    &count,
                    if chosen { style } else { theme::unread() },
                );
            }
            Choice::New(name) => put(buffer, area, line, 1, &format!("Write to {name}"), style),
        }
    }
    cursor_at(area, 0, 2 + switcher.query.cursor_column())
}
