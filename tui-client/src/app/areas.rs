//! How the screen is shared out, at any size: one function that both scrolling and drawing use.

use ratatui::layout::Rect;

/// Narrower than this, the conversation list is hidden.
pub(crate) const LIST_FROM_COLUMNS: u16 = 60;
/// Rows that the composer takes at the most.
const COMPOSER_ROWS_MAX: u16 = 6;

/// Where everything is. Any of them may be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Areas {
    /// The conversation list.
    pub(crate) list: Rect,
    /// The line between the list and the rest.
    pub(crate) divider: Rect,
    /// The open conversation's name.
    pub(crate) title: Rect,
    /// Its messages.
    pub(crate) timeline: Rect,
    /// The line above the composer.
    pub(crate) rule: Rect,
    /// The message being written.
    pub(crate) composer: Rect,
    /// Who, and whether connected.
    pub(crate) status: Rect,
}

/// Cells of the prompt before the composer's text.
pub(crate) const PROMPT_COLUMNS: u16 = 2;

impl Areas {
    /// Width of the composer's text in a screen of that width: its height depends on it.
    pub(crate) fn composer_columns(columns: u16) -> u16 {
        let main = columns - list_columns(columns);
        main.saturating_sub(PROMPT_COLUMNS).max(1)
    }

    /// Shares out a screen. `composer_rows` is what the text would like to have.
    ///
    /// When rows are scarce the composer's first row goes last, before it the timeline, then status, title and rule.
    pub(crate) fn new(columns: u16, rows: u16, composer_rows: usize) -> Self {
        let list_columns = list_columns(columns);
        let (left, main) = (list_columns.saturating_sub(1), columns - list_columns);
        let x = list_columns;
        let wanted = u16::try_from(composer_rows).unwrap_or(u16::MAX);
        let composer = wanted
            .clamp(1, COMPOSER_ROWS_MAX)
            .min((rows / 3).max(1))
            .min(rows);
        let mut free = rows - composer;
        let mut take = |minimum_left: u16| {
            let taken = u16::from(free > minimum_left);
            free -= taken;
            taken
        };
        let (status, title, rule) = (take(1), take(2), take(3));
        let timeline = free;
        let mut y = 0;
        let mut next = |height: u16| {
            let area = Rect::new(x, y, main, height);
            y += height;
            area
        };
        let title = next(title);
        let timeline = next(timeline);
        let rule = next(rule);
        let composer = next(composer);
        let body = composer.bottom();
        Self {
            list: Rect::new(0, 0, left, body),
            divider: Rect::new(left, 0, list_columns - left, body),
            title,
            timeline,
            rule,
            composer,
            status: Rect::new(0, body, columns, status),
        }
    }
}

/// Width of the list with its divider; 0: hidden.
fn list_columns(columns: u16) -> u16 {
    if columns < LIST_FROM_COLUMNS {
        0
    } else {
        (columns / 4).clamp(18, 30)
    }
}
