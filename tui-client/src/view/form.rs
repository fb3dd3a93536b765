//! Draws the form of the first start.

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;

use super::{cursor_at, popup, put, theme};
use crate::app::App;
use crate::app::form::{LABELS, Purpose};
use crate::text;

/// Cells of the labels.
const LABEL_COLUMNS: usize = 10;
/// What a typed character of a password looks like.
const MASK: &str = "*";

/// Draws it; returns the cursor.
pub(super) fn draw(app: &App, screen: Rect, buffer: &mut Buffer) -> Option<Position> {
    let form = &app.form;
    let (title, action, other) = match form.purpose {
        Purpose::Register => (
            "Quipu: a new account",
            "registers",
            "Ctrl-R: log in to an account you have",
        ),
        Purpose::LogIn => ("Quipu: log in", "logs in", "Ctrl-R: register a new account"),
    };
    let area = popup(buffer, screen, title, 56, 15);
    let inputs = usize::from(area.width).saturating_sub(LABEL_COLUMNS);
    let mut cursor = None;
    // The first row names the gateway where there is room for it.
    let top = if usize::from(area.height) > form.shown() + 3 {
        2
    } else {
        0
    };
    if top > 0 {
        put(
            buffer,
            area,
            0,
            0,
            &text::display(&format!("Gateway {}", app.server)),
            theme::dim(),
        );
    }
    for (index, field) in form.fields.iter().enumerate().take(form.shown()) {
        let row = top + index;
        let active = index == form.at && !form.busy;
        put(
            buffer,
            area,
            row,
            0,
            LABELS[index],
            if active {
                theme::heading()
            } else {
                theme::dim()
            },
        );
        let (before, all) = field.graphemes();
        let (shown, column) = match index {
            0 => (text::display(field.text()), field.cursor_column()),
            _ => (MASK.repeat(all), before),
        };
        // A text longer than its place is shown from its middle on.
        let hidden = (column + 1).saturating_sub(inputs);
        let shown: String = if hidden > 0 {
            shown.chars().skip(hidden).collect()
        } else {
            shown
        };
        put(
            buffer,
            area,
            row,
            LABEL_COLUMNS,
            &"_".repeat(inputs.min(34)),
            theme::dim(),
        );
        put(buffer, area, row, LABEL_COLUMNS, &shown, Style::new());
        if active {
            cursor = cursor_at(area, row, LABEL_COLUMNS + column - hidden);
        }
    }
    let below = top + form.shown() + 1;
    let (words, style) = match (&form.error, form.busy) {
        (_, true) => ("Asking the gateway".to_owned(), theme::warning()),
        (Some(error), false) => (text::single_line(error), theme::bad()),
        (None, false) => (format!("Tab: next field   Enter: {action}"), theme::dim()),
    };
    let mut row = below;
    for range in text::wrap(&words, usize::from(area.width)) {
        put(
            buffer,
            area,
            row,
            0,
            &text::display(words[range].trim_end()),
            style,
        );
        row += 1;
    }
    // Apart from the words above, where there is room.
    let row = row + usize::from(row + 2 < usize::from(area.height));
    put(buffer, area, row, 0, other, theme::dim());
    put(buffer, area, row + 1, 0, "Ctrl-Q: leave", theme::dim());
    cursor
}
