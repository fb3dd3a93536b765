//! The message being written: editing through ratatui-textarea, with our own wrapping so that the cursor is where the text is.

use std::ops::Range;

use ratatui_textarea::{CursorMove, DataCursor, TextArea};
use unicode_segmentation::UnicodeSegmentation;

use super::Edit;
use crate::text;

/// Most text that the composer holds, in bytes: more than one message may have, so that a long paste can be cut by hand.
pub(crate) const COMPOSER_BYTES_MAX: usize = 64 * 1024;
/// Most lines it holds: the editor's cursor counts them in 16 bits.
const COMPOSER_LINES_MAX: usize = 4096;

/// The text did not fit and was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// The message being written in one conversation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Composer {
    editor: TextArea<'static>,
}

/// The composer as it is drawn at one width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ComposerRows {
    /// Every row, ready to be drawn.
    pub(crate) rows: Vec<String>,
    /// Row of the cursor among them.
    pub(crate) cursor_row: usize,
    /// Cells before the cursor, always below the width.
    pub(crate) cursor_column: usize,
}

impl Composer {
    /// The whole text, lines joined by line feeds.
    pub(crate) fn text(&self) -> String {
        self.editor.lines().join("\n")
    }

    /// Whether nothing is written.
    pub(crate) fn is_empty(&self) -> bool {
        self.editor.is_empty()
    }

    /// Bytes of the text.
    pub(crate) fn len(&self) -> usize {
        self.editor
            .lines()
            .iter()
            .map(|line| line.len() + 1)
            .sum::<usize>()
            - 1
    }

    /// Takes the text out and starts anew.
    pub(crate) fn take(&mut self) -> String {
        let text = self.text();
        *self = Self::default();
        text
    }

    /// Empties it in a way that undo brings back.
    pub(crate) fn clear(&mut self) {
        self.editor.clear();
    }

    /// Inserts text at the cursor. Line ends of every kind become line feeds, other control characters but tabs are left out.
    pub(crate) fn insert(&mut self, added: &str) -> Result<(), TooLong> {
        if added.len() > COMPOSER_BYTES_MAX {
            return Err(TooLong);
        }
        let unified = added
            .replace("\r\n", "\n")
            .replace(['\r', '\u{2028}', '\u{2029}'], "\n");
        let clean: String = unified
            .chars()
            .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
            .collect();
        let lines = self.editor.lines().len() + clean.matches('\n').count();
        if self.len() + clean.len() > COMPOSER_BYTES_MAX || lines > COMPOSER_LINES_MAX {
            return Err(TooLong);
        }
        self.editor.insert_str(clean);
        Ok(())
    }

    /// Carries out an editing command; up and down need the width.
    pub(crate) fn edit(&mut self, edit: Edit, columns: usize) -> Result<(), TooLong> {
        match edit {
            Edit::Insert(c) => self.insert(c.encode_utf8(&mut [0; 4]))?,
            Edit::Newline => self.insert("\n")?,
            Edit::Left => self.left(),
            Edit::Right => self.right(),
            Edit::Up => self.vertical(columns, -1),
            Edit::Down => self.vertical(columns, 1),
            Edit::WordLeft => self.editor.move_cursor(CursorMove::WordBack),
            Edit::WordRight => self.editor.move_cursor(CursorMove::WordForward),
            Edit::LineStart => self.editor.move_cursor(CursorMove::Head),
            Edit::LineEnd => self.editor.move_cursor(CursorMove::End),
            Edit::DeleteBack => self.delete_back(),
            Edit::DeleteForward => self.delete_forward(),
            Edit::DeleteWord => _ = self.editor.delete_word(),
            Edit::DeleteLine => _ = self.editor.delete_line_by_head(),
            Edit::Undo => _ = self.editor.undo(),
            Edit::Redo => _ = self.editor.redo(),
        }
        Ok(())
    }

    /// The rows at a width of `columns` cells, at least 1. One cell of the width is kept for a cursor behind the last character.
    pub(crate) fn rows(&self, columns: usize) -> ComposerRows {
        let columns = columns.max(1);
        let DataCursor(cursor_line, cursor_char) = self.editor.cursor();
        let mut drawn = ComposerRows {
            rows: Vec::new(),
            cursor_row: 0,
            cursor_column: 0,
        };
        for (number, line) in self.editor.lines().iter().enumerate() {
            let ranges = text::wrap(line, columns.saturating_sub(1));
            if number == cursor_line {
                let at = byte_of(line, cursor_char);
                let row = row_of(&ranges, at);
                drawn.cursor_row = drawn.rows.len() + row;
                drawn.cursor_column = text::width(&line[ranges[row].start..at]).min(columns - 1);
            }
            drawn
                .rows
                .extend(ranges.into_iter().map(|range| text::display(&line[range])));
        }
        drawn
    }

    fn left(&mut self) {
        match self.grapheme_before() {
            Some(chars) => self.jump(|line, at| (line, at - chars)),
            None => self.editor.move_cursor(CursorMove::Back),
        }
    }

    fn right(&mut self) {
        match self.grapheme_after() {
            Some(chars) => self.jump(|line, at| (line, at + chars)),
            None => self.editor.move_cursor(CursorMove::Forward),
        }
    }

    fn delete_back(&mut self) {
        match self.grapheme_before() {
            Some(chars) => {
                self.jump(|line, at| (line, at - chars));
                self.editor.delete_str(chars);
            }
            None => _ = self.editor.delete_newline(),
        }
    }

    fn delete_forward(&mut self) {
        match self.grapheme_after() {
            Some(chars) => _ = self.editor.delete_str(chars),
            None => _ = self.editor.delete_next_char(),
        }
    }

    /// Moves by one drawn row; the column is kept as near as the row allows.
    fn vertical(&mut self, columns: usize, rows: isize) {
        let DataCursor(line, at_char) = self.editor.cursor();
        let lines = self.editor.lines();
        let wrap = |line: &str| text::wrap(line, columns.saturating_sub(1).max(1));
        let ranges = wrap(&lines[line]);
        let at = byte_of(&lines[line], at_char);
        let row = row_of(&ranges, at);
        let column = text::width(&lines[line][ranges[row].start..at]);
        let target = match row
            .checked_add_signed(rows)
            .filter(|row| *row < ranges.len())
        {
            Some(row) => Some((line, ranges[row].clone(), row + 1 == ranges.len())),
            None => line
                .checked_add_signed(rows)
                .filter(|line| *line < lines.len())
                .map(|line| {
                    let ranges = wrap(&lines[line]);
                    let row = if rows < 0 { ranges.len() - 1 } else { 0 };
                    (line, ranges[row].clone(), row + 1 == ranges.len())
                }),
        };
        let Some((line, range, last)) = target else {
            return;
        };
        let at = byte_at_column(&lines[line], range, column, last);
        let chars = lines[line][..at].chars().count();
        self.jump(|_, _| (line, chars));
    }

    fn jump(&mut self, to: impl FnOnce(usize, usize) -> (usize, usize)) {
        let DataCursor(line, at) = self.editor.cursor();
        let (line, at) = to(line, at);
        // The two limits of this file keep both below 16 bits.
        let narrow = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
        self.editor
            .move_cursor(CursorMove::Jump(narrow(line), narrow(at)));
    }

    /// Characters of the grapheme before the cursor; `None` at the start of the line.
    fn grapheme_before(&self) -> Option<usize> {
        let DataCursor(line, at) = self.editor.cursor();
        let line = &self.editor.lines()[line];
        let before = line[..byte_of(line, at)].graphemes(true).next_back()?;
        Some(before.chars().count())
    }

    /// Characters of the grapheme after the cursor; `None` at the end of the line.
    fn grapheme_after(&self) -> Option<usize> {
        let DataCursor(line, at) = self.editor.cursor();
        let line = &self.editor.lines()[line];
        let after = line[byte_of(line, at)..].graphemes(true).next()?;
        Some(after.chars().count())
    }
}

fn byte_of(line: &str, chars: usize) -> usize {
    line.char_indices()
        .nth(chars)
        .map_or(line.len(), |(at, _)| at)
}

/// The row that holds a byte; a place between two rows belongs to the second.
fn row_of(ranges: &[Range<usize>], at: usize) -> usize {
    ranges
        .partition_point(|range| range.end <= at)
        .min(ranges.len() - 1)
}

/// The place in a row that is nearest to a column from the left. Only the last row of a line has a place behind its end.
fn byte_at_column(line: &str, range: Range<usize>, column: usize, last: bool) -> usize {
    let mut used = 0;
    let mut place = range.start;
    for (at, grapheme) in line[range.clone()].grapheme_indices(true) {
        place = range.start + at;
        let cells = text::width(grapheme);
        if used + cells > column {
            return place;
        }
        used += cells;
    }
    if last { range.end } else { place }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn composer(text: &str) -> Composer {
        let mut composer = Composer::default();
        composer.insert(text).expect("it fits");
        composer
    }

    #[test]
    fn one_backspace_takes_one_whole_emoji() {
        let mut composer = composer("a👩‍👩‍👧‍👦");
        composer
            .edit(Edit::DeleteBack, 20)
            .expect("nothing is added");
        assert_eq!(composer.text(), "a");
        composer.edit(Edit::Undo, 20).expect("nothing is added");
        assert_eq!(composer.text(), "a👩‍👩‍👧‍👦");
    }

    #[test]
    fn up_and_down_move_by_drawn_rows() {
        let mut composer = composer("one two three");
        // Rows at 8 columns: "one two ", "three".
        composer.edit(Edit::Up, 8).expect("nothing is added");
        assert_eq!(
            (composer.rows(8).cursor_row, composer.rows(8).cursor_column),
            (0, 5)
        );
        composer.edit(Edit::Insert('!'), 8).expect("it fits");
        assert_eq!(composer.text(), "one t!wo three");
    }

    #[test]
    fn a_paste_keeps_its_lines_and_loses_its_escapes() {
        let composer = composer("a\r\nb\rc\u{1b}[31m\td");
        assert_eq!(composer.text(), "a\nb\nc[31m\td");
        assert_eq!(composer.rows(20).rows, ["a", "b", "c[31m    d"]);
    }

    #[test]
    fn too_much_is_refused_whole() {
        let mut composer = composer("a");
        assert_eq!(
            composer.insert(&"x".repeat(COMPOSER_BYTES_MAX)),
            Err(TooLong)
        );
        assert_eq!(
            composer.insert(&"\n".repeat(COMPOSER_LINES_MAX)),
            Err(TooLong)
        );
        assert_eq!(composer.text(), "a");
    }

    proptest! {
        #[test]
        fn the_cursor_is_on_a_drawn_row(text in "[a-z 日👩\u{301}\t\n]{0,40}", columns in 1_usize..15, moves in proptest::collection::vec(0_usize..9, 0..20)) {
            let mut composer = composer(&text);
            let edits = [
                Edit::Left, Edit::Right, Edit::Up, Edit::Down, Edit::DeleteBack, Edit::DeleteForward,
                Edit::WordLeft, Edit::LineEnd, Edit::Newline,
            ];
            for index in moves {
                prop_assert!(composer.edit(edits[index], columns).is_ok());
                let drawn = composer.rows(columns);
                prop_assert!(drawn.cursor_row < drawn.rows.len());
                prop_assert!(drawn.cursor_column < columns);
            }
        }
    }
}
