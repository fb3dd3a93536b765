//! Draws an [`App`] into a frame; reads only.

mod chat;
mod form;
mod help;
mod list;
mod switcher;
mod theme;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;
use ratatui::widgets::{Block, Clear, Widget};

use crate::app::{App, Mode};
use crate::text;

/// Draws the whole screen and places the cursor.
pub(crate) fn draw(app: &App, frame: &mut Frame<'_>) {
    let screen = frame.area();
    let buffer = frame.buffer_mut();
    let mut cursor = if app.mode() == Mode::Form {
        form::draw(app, screen, buffer)
    } else {
        let areas = app.areas();
        list::draw(app, &areas, buffer);
        let cursor = chat::draw(app, &areas, buffer);
        chat::draw_trouble(app, areas.timeline, buffer);
        chat::draw_status(app, areas.status, buffer);
        cursor
    };
    if let Some(switcher) = &app.switcher {
        cursor = switcher::draw(app, switcher, screen, buffer);
    }
    if let Some(from) = app.help {
        help::draw(from, screen, buffer);
        cursor = None;
    }
    if let Some(cursor) = cursor.filter(|cursor| screen.contains(*cursor)) {
        frame.set_cursor_position(cursor);
    }
}

/// Writes text into a row of an area, cut at the area's edges. The text must come from [`text::display`] or be our own.
fn put(buffer: &mut Buffer, area: Rect, row: usize, column: usize, text: &str, style: Style) {
    let area = area.intersection(buffer.area);
    let (Ok(row), Ok(column)) = (u16::try_from(row), u16::try_from(column)) else {
        return;
    };
    if row < area.height && column < area.width {
        buffer.set_stringn(
            area.x + column,
            area.y + row,
            text,
            usize::from(area.width - column),
            style,
        );
    }
}

/// Writes text that ends at the right edge of an area.
fn put_right(buffer: &mut Buffer, area: Rect, row: usize, text: &str, style: Style) {
    let column = usize::from(area.width).saturating_sub(text::width(text));
    put(buffer, area, row, column, text, style);
}

/// Writes text into the middle of a row.
fn put_centred(buffer: &mut Buffer, area: Rect, row: usize, text: &str, style: Style) {
    let column = usize::from(area.width).saturating_sub(text::width(text)) / 2;
    put(buffer, area, row, column, text, style);
}

/// A framed box in the middle of the screen, emptied; returns its inside. On a screen too small for a frame: all of it.
fn popup(buffer: &mut Buffer, screen: Rect, title: &str, columns: u16, rows: u16) -> Rect {
    let screen = screen.intersection(buffer.area);
    let wide = screen.width >= 12 && screen.height >= 5;
    let area = if wide {
        let (width, height) = (columns.min(screen.width), rows.min(screen.height));
        let (x, y) = ((screen.width - width) / 2, (screen.height - height) / 3);
        Rect::new(screen.x + x, screen.y + y, width, height)
    } else {
        screen
    };
    Clear.render(area, buffer);
    if !wide {
        return area;
    }
    let block = Block::bordered()
        .border_style(theme::frame())
        .title(text::truncate(
            &format!(" {title} "),
            usize::from(area.width - 2),
        ))
        .title_style(theme::heading());
    let inside = block.inner(area);
    block.render(area, buffer);
    Rect {
        x: inside.x + 1,
        width: inside.width.saturating_sub(2),
        ..inside
    }
}

/// Where the cursor goes in a row of an area; `None` if that is outside.
fn cursor_at(area: Rect, row: usize, column: usize) -> Option<Position> {
    let (row, column) = (u16::try_from(row).ok()?, u16::try_from(column).ok()?);
    (row < area.height && column < area.width).then(|| Position::new(area.x + column, area.y + row))
}
