//! Text as a terminal shows it: widths in cells, wrapping, and the only way for a peer's bytes to become something drawable.

use std::borrow::Cow;
use std::ops::Range;

use ratatui::buffer::CellWidth;
use unicode_segmentation::UnicodeSegmentation;

/// What a tab is drawn as.
const TAB: &str = "    ";
/// Longest grapheme cluster that is drawn whole, in bytes. The longest real emoji have about 35; without a bound one cell
/// could carry thousands of combining marks.
const GRAPHEME_BYTES_MAX: usize = 64;

/// The text with everything replaced that a terminal would obey instead of show. Its width is [`width`] of the original.
///
/// Control characters become their pictures (ESC is shown as ␛), direction overrides become U+FFFD.
pub(crate) fn display(text: &str) -> String {
    text.graphemes(true).map(display_grapheme).collect()
}

/// Width of a text in cells, as [`display`] shows it.
pub(crate) fn width(text: &str) -> usize {
    text.graphemes(true).map(grapheme_width).sum()
}

/// Cuts a line (no line feed in it) into rows of at most `columns` cells and returns their byte ranges, which touch each other.
///
/// Breaks after white space where possible, else before or after a wide character, else anywhere between two graphemes. White
/// space at the end of a row may hang over its edge. There is always at least one row.
pub(crate) fn wrap(line: &str, columns: usize) -> Vec<Range<usize>> {
    let columns = columns.max(1);
    let mut rows = Vec::new();
    let mut row_start = 0;
    let mut used = 0;
    // Where the row may end, and how many cells of it come before that.
    let mut break_at = (0, 0);
    let mut wide_before = false;
    for (at, grapheme) in line.grapheme_indices(true) {
        let cells = grapheme_width(grapheme);
        let space = grapheme.chars().all(char::is_whitespace);
        let wide = cells > 1 && !space;
        if (wide || wide_before) && at > row_start && !space {
            break_at = (at, used);
        }
        if !space && used + cells > columns && at > row_start {
            if break_at.0 <= row_start {
                break_at = (at, used);
            }
            rows.push(row_start..break_at.0);
            row_start = break_at.0;
            used -= break_at.1;
        }
        used += cells;
        wide_before = wide;
        if space {
            break_at = (at + grapheme.len(), used);
        }
    }
    rows.push(row_start..line.len());
    rows
}

/// Shortens a text to `columns` cells, with `…` in the last one if something is missing.
pub(crate) fn truncate(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return display(text);
    }
    let mut short = String::new();
    let mut used = 0;
    for grapheme in text.graphemes(true) {
        let cells = grapheme_width(grapheme);
        if used + cells + 1 > columns {
            break;
        }
        used += cells;
        short.push_str(&display_grapheme(grapheme));
    }
    if columns > 0 {
        short.push('…');
    }
    short
}

/// The lines of a message: split at any kind of line end.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split(['\n', '\u{2028}', '\u{2029}'])
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
}

/// One line out of many: line ends become spaces. For previews.
pub(crate) fn single_line(text: &str) -> String {
    lines(text).collect::<Vec<_>>().join(" ")
}

fn grapheme_width(grapheme: &str) -> usize {
    usize::from(display_grapheme(grapheme).cell_width())
}

fn display_grapheme(grapheme: &str) -> Cow<'_, str> {
    if grapheme == "\t" {
        return Cow::Borrowed(TAB);
    }
    let cut = grapheme.floor_char_boundary(GRAPHEME_BYTES_MAX.min(grapheme.len()));
    let grapheme = &grapheme[..cut];
    if !grapheme.chars().any(is_unsafe) {
        return Cow::Borrowed(grapheme);
    }
    Cow::Owned(grapheme.chars().map(visible).collect())
}

/// Control characters, and the format characters that turn the direction of the text after them.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}')
}

fn visible(c: char) -> char {
    match c {
        '\0'..='\u{1f}' => {
            char::from_u32(0x2400 + u32::from(c)).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
        '\u{7f}' => '\u{2421}',
        unsafe_char if is_unsafe(unsafe_char) => char::REPLACEMENT_CHARACTER,
        safe => safe,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(line: &str, columns: usize) -> Vec<&str> {
        wrap(line, columns)
            .into_iter()
            .map(|range| &line[range])
            .collect()
    }

    #[test]
    fn wraps_at_spaces_then_anywhere() {
        assert_eq!(rows("", 5), [""]);
        assert_eq!(rows("one two", 7), ["one two"]);
        assert_eq!(rows("one two", 6), ["one ", "two"]);
        assert_eq!(rows("one two   three", 7), ["one two   ", "three"]);
        assert_eq!(rows("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(rows("a bcdefgh", 3), ["a ", "bcd", "efg", "h"]);
    }

    #[test]
    fn wraps_wide_characters_by_cells() {
        assert_eq!(rows("日本語です", 4), ["日本", "語で", "す"]);
        assert_eq!(rows("ab日本", 5), ["ab日", "本"]);
        assert_eq!(rows("👩‍👩‍👧‍👦👩‍👩‍👧‍👦", 3), ["👩‍👩‍👧‍👦", "👩‍👩‍👧‍👦"]);
        assert_eq!(rows("日", 1), ["日"]);
    }

    #[test]
    fn nothing_a_terminal_obeys_passes() {
        assert_eq!(
            display("\u{1b}[31mred\u{7}\u{9b}2J\u{7f}"),
            "␛[31mred␇\u{fffd}2J␡"
        );
        assert_eq!(display("a\u{202e}b\tc"), "a\u{fffd}b    c");
        assert_eq!(display("e\u{301} ok"), "e\u{301} ok");
        let zalgo = format!("e{}", "\u{301}".repeat(1000));
        assert!(display(&zalgo).len() <= GRAPHEME_BYTES_MAX);
    }

    #[test]
    fn truncates_by_cells() {
        assert_eq!(truncate("hello", 5), "hello");
        assert_eq!(truncate("hello", 4), "hel…");
        assert_eq!(truncate("日本語", 4), "日…");
        assert_eq!(truncate("日本語", 0), "");
    }

    proptest! {
        #[test]
        fn rows_touch_and_fit(line in "[^\n]{0,60}", columns in 1_usize..20) {
            let ranges = wrap(&line, columns);
            prop_assert_eq!(ranges[0].start, 0);
            prop_assert_eq!(ranges[ranges.len() - 1].end, line.len());
            for pair in ranges.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].start);
                prop_assert!(!pair[0].is_empty());
            }
            for range in ranges {
                let row = line[range].trim_end();
                prop_assert!(width(row) <= columns || row.graphemes(true).count() == 1);
            }
        }

        #[test]
        fn display_has_no_control_character(text in any::<String>()) {
            let shown = display(&text);
            prop_assert!(!shown.chars().any(char::is_control));
        }
    }
}
