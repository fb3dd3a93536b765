//! Draws the open conversation: title, messages, composer, status line.

use jiff::Timestamp;
use jiff::civil::Date;
use quipu_protocol::id::TimestampMs;
use quipu_protocol::limits::TEXT_BYTES_MAX;
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::Style;

use super::{cursor_at, list, put, put_centred, put_right, theme};
use crate::app::areas::{Areas, PROMPT_COLUMNS};
use crate::app::conversations::Presence;
use crate::app::timeline::{Columns, Entry, EntryRef, Row, RowKind};
use crate::app::{App, Connection, Mark, Open};
use crate::text;

/// Share of the longest message from which on the composer counts bytes.
const COUNT_FROM_BYTES: usize = TEXT_BYTES_MAX / 8 * 7;

/// Rows that trouble with the connection takes at the most.
const TROUBLE_ROWS_MAX: usize = 8;

/// Draws title, messages and composer; returns the cursor.
pub(super) fn draw(app: &App, areas: &Areas, buffer: &mut Buffer) -> Option<Position> {
    draw_rule(app, areas.rule, buffer);
    let Some(open) = &app.open else {
        draw_welcome(app, areas.timeline, buffer);
        return None;
    };
    draw_title(app, areas, buffer);
    let height = usize::from(areas.timeline.height);
    let rows = &open.timeline.rows()[open.timeline.visible(height)];
    // Few messages stand at the bottom, next to the composer.
    let blank = height - rows.len().min(height);
    for (index, row) in rows.iter().enumerate() {
        draw_row(app, open, row, areas.timeline, blank + index, buffer);
    }
    draw_composer(app, areas.composer, buffer)
}

/// Draws, over the oldest rows in view, why there is no connection when somebody must act to have one.
pub(super) fn draw_trouble(app: &App, area: Rect, buffer: &mut Buffer) {
    let Connection::Offline {
        reason,
        retries: false,
    } = &app.connection
    else {
        return;
    };
    let words = format!("Not connected: {}", text::single_line(reason));
    let room = usize::from(area.width.saturating_sub(2));
    let blank = " ".repeat(usize::from(area.width));
    for (row, range) in text::wrap(&words, room)
        .into_iter()
        .take(TROUBLE_ROWS_MAX)
        .enumerate()
    {
        put(buffer, area, row, 0, &blank, Style::new());
        put(
            buffer,
            area,
            row,
            1,
            &text::display(words[range].trim_end()),
            theme::bad(),
        );
    }
}

/// Draws who this is and whether there is a gateway.
pub(super) fn draw_status(app: &App, area: Rect, buffer: &mut Buffer) {
    if let Some(notice) = &app.notice {
        put(buffer, area, 0, 1, &text::display(notice), theme::warning());
        return;
    }
    let mut column = 1;
    let mut word = |text: &str, style: Style| {
        put(buffer, area, 0, column, text, style);
        column += text::width(text) + 2;
    };
    if let Some(me) = &app.me {
        word(me.as_str(), theme::heading());
    }
    match &app.connection {
        Connection::Online => word("online", theme::good()),
        Connection::Connecting => word("connecting", theme::warning()),
        Connection::Offline { .. } => word("offline", theme::bad()),
    }
    match app.conversations.waiting() {
        0 => {}
        waiting => word(&format!("{waiting} unsent"), theme::warning()),
    }
    if let Connection::Offline {
        reason,
        retries: true,
    } = &app.connection
    {
        word(
            &text::display(&format!("{}; trying again", text::single_line(reason))),
            theme::dim(),
        );
    }
    let hint = " F1 help ";
    if column + hint.len() <= usize::from(area.width) {
        put_right(buffer, area, 0, hint, theme::dim());
    }
}

fn draw_welcome(app: &App, area: Rect, buffer: &mut Buffer) {
    let Some(me) = &app.me else { return };
    let lines = [
        ("No conversations yet.".to_owned(), theme::heading()),
        (String::new(), Style::new()),
        (
            "Ctrl-K, then a name, writes to somebody.".to_owned(),
            Style::new(),
        ),
        (format!("Others reach you as {me}."), Style::new()),
    ];
    let top = usize::from(area.height).saturating_sub(lines.len()) / 2;
    let mut row = top;
    for (line, style) in &lines {
        for range in text::wrap(line, usize::from(area.width)) {
            put_centred(buffer, area, row, line[range].trim_end(), *style);
            row += 1;
        }
    }
}

fn draw_title(app: &App, areas: &Areas, buffer: &mut Buffer) {
    let area = areas.title;
    let Some(row) = app.open_row() else { return };
    let mut hint = String::new();
    // Without the list this is the only sign of messages elsewhere.
    if areas.list.width == 0 {
        let unread = app.conversations.unread_elsewhere(Some(&row.id));
        if unread > 0 {
            hint = format!(" {} unread elsewhere ", list::count(unread));
        }
    }
    put_right(buffer, area, 0, &hint, theme::unread());
    let room = usize::from(area.width).saturating_sub(hint.len() + 1);
    let title = text::truncate(&row.title(), room);
    put(buffer, area, 0, 1, &title, theme::heading());
    let (words, style) = match row.presence {
        Some(Presence::Here) => ("here".to_owned(), theme::good()),
        Some(Presence::Seen(at)) => (last_seen(app, at), theme::dim()),
        None => return,
    };
    // Behind the title, if there is room for the whole of it.
    let column = 1 + text::width(&title) + 2;
    if column + text::width(&words) <= room {
        put(buffer, area, 0, column, &words, style);
    }
}

/// When somebody was last here: the time of today and yesterday, the day of what is longer ago.
fn last_seen(app: &App, at: TimestampMs) -> String {
    let at = i64::try_from(at.0).ok();
    let at = at.and_then(|at| Timestamp::from_millisecond(at).ok());
    let at = app.zone.to_datetime(at.unwrap_or_default());
    let (date, today) = (at.date(), today(app));
    let time = format!("{:02}:{:02}", at.hour(), at.minute());
    if date == today {
        format!("last seen {time}")
    } else if Some(date) == today.yesterday().ok() {
        format!("last seen yesterday {time}")
    } else {
        format!("last seen {}", day(date, today))
    }
}

/// Who types, in as many words as there are people.
fn typing(app: &App) -> Option<String> {
    let mut typists = app.typists();
    let first = typists.next()?;
    Some(match (typists.next(), typists.count()) {
        (None, _) => format!(" {first} is typing "),
        (Some(second), 0) => format!(" {first} and {second} are typing "),
        (Some(_), more) => format!(" {first} and {} others are typing ", more + 1),
    })
}

fn draw_row(app: &App, open: &Open, row: &Row, area: Rect, line: usize, buffer: &mut Buffer) {
    let columns = open.timeline.columns();
    match row.kind {
        RowKind::Top => put_centred(buffer, area, line, &top(app, open), theme::dim()),
        RowKind::Day(date) => draw_line(buffer, area, line, &day(date, today(app)), theme::dim()),
        RowKind::Gap(missing) => draw_line(
            buffer,
            area,
            line,
            &format!("{missing} not loaded"),
            theme::dim(),
        ),
        RowKind::Unread => draw_line(buffer, area, line, "unread", theme::unread()),
        RowKind::Quiet(seq, at) => {
            if let Some(entry) = open.timeline.entry(seq) {
                put_centred(buffer, area, line, &entry.body.row(at), theme::dim());
            }
        }
        RowKind::Quote(seq) => {
            let words = open.timeline.quote(seq);
            draw_beside(buffer, area, columns, line, &words, theme::dim());
        }
        RowKind::Below(seq) => {
            let words = open.timeline.entry(seq).map(Entry::below);
            draw_beside(
                buffer,
                area,
                columns,
                line,
                &words.unwrap_or_default(),
                theme::dim(),
            );
        }
        RowKind::Failure(index) => {
            let reason = open
                .timeline
                .pending()
                .get(index)
                .and_then(|pending| pending.failed.as_deref());
            let words = format!(
                "not sent (Esc takes it back): {}",
                text::single_line(reason.unwrap_or_default())
            );
            draw_beside(buffer, area, columns, line, &words, theme::bad());
        }
        RowKind::Refused(wish) => {
            let words = open.timeline.refused(wish).unwrap_or_default();
            draw_beside(buffer, area, columns, line, &words, theme::bad());
        }
        RowKind::Text { .. } => draw_text(app, open, row.kind, area, line, buffer),
    }
}

/// Draws one row of a message: the time and the name before its first, the mark behind its last.
fn draw_text(app: &App, open: &Open, kind: RowKind, area: Rect, line: usize, buffer: &mut Buffer) {
    let RowKind::Text {
        entry,
        row,
        named,
        last,
    } = kind
    else {
        return;
    };
    let columns = open.timeline.columns();
    let (from, at, body) = match entry {
        EntryRef::Placed(seq) => match open.timeline.entry(seq) {
            Some(entry) => (Some(entry.from), entry.at, &entry.body),
            None => return,
        },
        EntryRef::Pending(index) => match open.timeline.pending().get(index) {
            Some(pending) => (app.me, pending.at, &pending.body),
            None => return,
        },
    };
    if row == 0 && columns.time > 0 {
        let time = format!("{:02}:{:02}", at.hour(), at.minute());
        put(buffer, area, line, columns.margin, &time, theme::dim());
    }
    if named
        && columns.name > 0
        && let Some(from) = &from
    {
        let style = if app.me == Some(*from) {
            theme::own_name()
        } else {
            theme::name(from)
        };
        let name = text::truncate(open.timeline.shown_name(from), columns.name);
        put(
            buffer,
            area,
            line,
            columns.margin + columns.time,
            &name,
            style,
        );
    }
    put(
        buffer,
        clipped(area, columns),
        line,
        columns.indent(),
        &body.row(row),
        Style::new(),
    );
    if last
        && columns.mark > 0
        && let Some(mark) = app.mark(entry)
    {
        let (sign, style) = sign(mark);
        put_right(buffer, area, line, &format!("{sign} "), style);
    }
}

/// Words in the column of the text, cut at the edge.
fn draw_beside(
    buffer: &mut Buffer,
    area: Rect,
    columns: Columns,
    line: usize,
    words: &str,
    style: Style,
) {
    let room = usize::from(area.width).saturating_sub(columns.indent());
    let words = text::truncate(words, room);
    put(buffer, area, line, columns.indent(), &words, style);
}

/// The area without the column of the marks, so that text which hangs over its column does not touch them.
fn clipped(area: Rect, columns: Columns) -> Rect {
    let mark = u16::try_from(columns.mark.saturating_sub(1)).unwrap_or(0);
    Rect {
        width: area.width.saturating_sub(mark),
        ..area
    }
}

/// How a delivery mark looks.
pub(super) fn sign(mark: Mark) -> (&'static str, Style) {
    match mark {
        Mark::Queued => ("⋯", theme::warning()),
        Mark::Acked => ("✓", theme::dim()),
        Mark::Delivered => ("✓✓", theme::dim()),
        Mark::Read => ("read", theme::read()),
        Mark::Failed => ("✗", theme::bad()),
    }
}

fn top(app: &App, open: &Open) -> String {
    if let Some(by) = app.open_row().and_then(|row| row.invited_by) {
        return format!("{by} invites you: /join accepts, /leave declines");
    }
    if let Some(reason) = &open.timeline.load_error {
        return text::display(&format!(
            "More messages did not come: {}",
            text::single_line(reason)
        ));
    }
    if open.timeline.is_loading() {
        return "loading".into();
    }
    if !open.timeline.complete() {
        return "older messages above".into();
    }
    if open.timeline.is_from_joining() {
        return "What was said before you joined is not shown".into();
    }
    match app.open_row().and_then(|row| row.peer) {
        Some(peer) => format!("Beginning of your conversation with {peer}"),
        None => "Beginning of the conversation".into(),
    }
}

/// A line across the timeline with words in its middle.
fn draw_line(buffer: &mut Buffer, area: Rect, row: usize, words: &str, style: Style) {
    let words = format!(" {words} ");
    let room = usize::from(area.width).saturating_sub(2);
    let around = room.saturating_sub(text::width(&words));
    let line = format!(
        "{}{words}{}",
        "─".repeat(around / 2),
        "─".repeat(around - around / 2)
    );
    put(buffer, area, row, 1, &line, style);
}

fn today(app: &App) -> Date {
    app.zone.to_datetime(app.now).date()
}

fn day(date: Date, today: Date) -> String {
    if date == today {
        return "Today".into();
    }
    if Some(date) == today.yesterday().ok() {
        return "Yesterday".into();
    }
    let with_year = if date.year() == today.year() {
        ""
    } else {
        " %Y"
    };
    date.strftime(&format!("%A %-d %B{with_year}")).to_string()
}

fn draw_rule(app: &App, area: Rect, buffer: &mut Buffer) {
    put(
        buffer,
        area,
        0,
        0,
        &"─".repeat(usize::from(area.width)),
        theme::frame(),
    );
    if let Some(words) = typing(app) {
        let room = usize::from(area.width).saturating_sub(1);
        put(
            buffer,
            area,
            0,
            1,
            &text::truncate(&words, room),
            theme::dim(),
        );
    }
    let hint = match app.new_below() {
        Some(0) => Some((" End: newest message ↓ ".to_owned(), theme::dim())),
        Some(new) => Some((format!(" {new} new below ↓ "), theme::unread())),
        None => None,
    };
    if let Some((hint, style)) = hint {
        put_right(buffer, area, 0, &hint, style);
    } else if app.composer().len() >= COUNT_FROM_BYTES {
        let style = if app.composer().len() > TEXT_BYTES_MAX {
            theme::bad()
        } else {
            theme::dim()
        };
        put_right(
            buffer,
            area,
            0,
            &format!(" {} of {TEXT_BYTES_MAX} bytes ", app.composer().len()),
            style,
        );
    }
}

fn draw_composer(app: &App, area: Rect, buffer: &mut Buffer) -> Option<Position> {
    let drawn = app.composer_rows();
    let height = usize::from(area.height);
    if height == 0 {
        return None;
    }
    let first = (drawn.cursor_row + 1).saturating_sub(height);
    // On a screen without room for both, the prompt goes.
    let prompt = if area.width > PROMPT_COLUMNS {
        usize::from(PROMPT_COLUMNS)
    } else {
        0
    };
    if prompt > 0 {
        put(
            buffer,
            area,
            0,
            0,
            if first > 0 { "↑" } else { ">" },
            theme::dim(),
        );
    }
    if app.composer().is_empty()
        && let Some(row) = app.open_row()
    {
        put(
            buffer,
            area,
            0,
            prompt,
            &format!("Write to {}", row.title()),
            theme::dim(),
        );
    }
    for (line, row) in drawn.rows.iter().skip(first).take(height).enumerate() {
        put(buffer, area, line, prompt, row.trim_end(), Style::new());
    }
    cursor_at(area, drawn.cursor_row - first, prompt + drawn.cursor_column)
}
