//! Draws the conversation list.

use ratatui::buffer::Buffer;

use super::{put, put_right, theme};
use crate::app::App;
use crate::app::areas::Areas;
use crate::text;

/// Draws the list and its divider.
pub(super) fn draw(app: &App, areas: &Areas, buffer: &mut Buffer) {
    let area = areas.list;
    if area.width == 0 || area.height == 0 {
        return;
    }
    for row in 0..usize::from(areas.divider.height) {
        put(buffer, areas.divider, row, 0, "│", theme::frame());
    }
    put(buffer, area, 0, 1, "Conversations", theme::heading());
    let open = app.open.as_ref().map(|open| open.id);
    let height = usize::from(area.height).saturating_sub(1);
    let position = open
        .and_then(|id| app.conversations.position(&id))
        .unwrap_or(0);
    let first = (position + 1).saturating_sub(height);
    let mut unread_below = 0;
    for (index, row) in app.conversations.iter().enumerate().skip(first) {
        let line = index - first + 1;
        if line > height {
            unread_below += row.unread;
            continue;
        }
        let count = if row.invited_by.is_some() {
            "invited".into()
        } else if row.unread > 0 {
            count(row.unread)
        } else {
            String::new()
        };
        let room = usize::from(area.width).saturating_sub(count.len() + 3);
        let title = text::truncate(&row.title(), room);
        let style = if row.unread > 0 || row.invited_by.is_some() {
            theme::unread()
        } else {
            ratatui::style::Style::new()
        };
        if Some(row.id) == open {
            let blank = " ".repeat(usize::from(area.width));
            put(buffer, area, line, 0, &blank, theme::selected());
            put(buffer, area, line, 1, &title, theme::selected());
            put_right(buffer, area, line, &format!("{count} "), theme::selected());
        } else {
            put(buffer, area, line, 1, &title, style);
            put_right(buffer, area, line, &format!("{count} "), style);
        }
    }
    if unread_below > 0 {
        let hint = format!("↓ {} unread ", count(unread_below));
        put_right(buffer, area, height, &hint, theme::unread());
    }
}

/// An unread count in at most four cells.
pub(super) fn count(unread: u64) -> String {
    if unread > 999 {
        "999+".into()
    } else {
        unread.to_string()
    }
}
