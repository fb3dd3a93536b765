//! A single-line input: the switcher's query, and the name and passwords of the form.

use std::fmt;

use unicode_segmentation::UnicodeSegmentation;

use super::Edit;
use crate::text;

/// One line of text with a cursor. Debug output shows only its length, since it may hold a password.
#[derive(Clone, Default)]
pub(crate) struct Field {
    text: String,
    /// Byte position of the cursor, on a grapheme boundary.
    cursor: usize,
    bytes_max: usize,
}

impl Field {
    /// An empty field that takes at most `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            ..Self::default()
        }
    }

    /// What was typed.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Graphemes before the cursor, and all of them: a masked field shows one mark for each.
    pub(crate) fn graphemes(&self) -> (usize, usize) {
        (
            self.text[..self.cursor].graphemes(true).count(),
            self.text.graphemes(true).count(),
        )
    }

    /// Cells before the cursor.
    pub(crate) fn cursor_column(&self) -> usize {
        text::width(&self.text[..self.cursor])
    }

    /// Adds text at the cursor; control characters are left out, and what would pass the limit.
    pub(crate) fn insert(&mut self, added: &str) {
        for c in added.chars().filter(|c| !c.is_control()) {
            if self.text.len() + c.len_utf8() > self.bytes_max {
                return;
            }
            self.text.insert(self.cursor, c);
            self.cursor += c.len_utf8();
        }
        // A combining mark may have joined what follows the cursor.
        while !self.on_boundary() {
            self.cursor += 1;
        }
    }

    /// Empties it.
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.cursor = 0;
    }

    /// Carries out an editing command; those that one line has no use for do nothing.
    pub(crate) fn edit(&mut self, edit: Edit) {
        match edit {
            Edit::Insert(c) => self.insert(c.encode_utf8(&mut [0; 4])),
            Edit::Left => self.cursor = self.before(),
            Edit::Right => self.cursor = self.after(),
            Edit::LineStart => self.cursor = 0,
            Edit::LineEnd => self.cursor = self.text.len(),
            Edit::DeleteBack => self.delete(self.before(), self.cursor),
            Edit::DeleteForward => self.delete(self.cursor, self.after()),
            Edit::DeleteWord => {
                let head = self.text[..self.cursor].trim_end();
                let start = head.rfind(char::is_whitespace).map_or(0, |at| at + 1);
                self.delete(head.ceil_char_boundary(start), self.cursor);
            }
            Edit::DeleteLine => self.delete(0, self.cursor),
            Edit::Newline
            | Edit::Up
            | Edit::Down
            | Edit::WordLeft
            | Edit::WordRight
            | Edit::Undo
            | Edit::Redo => {}
        }
    }

    fn delete(&mut self, start: usize, end: usize) {
        self.text.replace_range(start..end, "");
        self.cursor = start;
        while !self.on_boundary() {
            self.cursor += 1;
        }
    }

    fn before(&self) -> usize {
        self.text[..self.cursor]
            .grapheme_indices(true)
            .next_back()
            .map_or(0, |(at, _)| at)
    }

    fn after(&self) -> usize {
        self.text[self.cursor..]
            .graphemes(true)
            .next()
            .map_or(self.cursor, |g| self.cursor + g.len())
    }

    fn on_boundary(&self) -> bool {
        self.cursor == self.text.len()
            || self.text.is_char_boundary(self.cursor)
                && self
                    .text
                    .grapheme_indices(true)
                    .any(|(at, _)| at == self.cursor)
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Field({} bytes)", self.text.len())
    }
}
