//! Standard input as lines, read on a thread of its own because reading a terminal or pipe cannot be interrupted.

use std::io::{self, BufRead, Read};

use quipu_protocol::limits::TEXT_BYTES_MAX;
use tokio::sync::mpsc;

/// Lines that may be read ahead. At the limit reading waits.
const LINES_AHEAD_MAX: usize = 64;

/// The lines of standard input, without their ends, empty ones left out. Ends after an error.
pub(super) fn lines() -> mpsc::Receiver<Result<Line, io::Error>> {
    let (lines, receiver) = mpsc::channel(LINES_AHEAD_MAX);
    // Not a task: the program may end while the thread waits for input.
    std::thread::spawn(move || read(io::stdin().lock(), |line| lines.blocking_send(line).is_ok()));
    receiver
}

/// One line of the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1, empty ones included.
    pub(super) number: u64,
    /// What it says; at most one byte more than a message may have.
    pub(super) text: String,
}

fn read(mut input: impl BufRead, mut give: impl FnMut(Result<Line, io::Error>) -> bool) {
    // A line end of two bytes, and one byte to notice that the line is too long.
    let most = TEXT_BYTES_MAX as u64 + 3;
    for number in 1.. {
        let mut bytes = Vec::new();
        match (&mut input).take(most).read_until(b'\n', &mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                give(Err(error));
                return;
            }
        }
        let whole = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let whole = whole.strip_suffix(b"\r").unwrap_or(whole);
        let line = match std::str::from_utf8(whole) {
            Ok(_) if whole.len() > TEXT_BYTES_MAX => Err(io::Error::other(format!(
                "line {number} is longer than {TEXT_BYTES_MAX} bytes"
            ))),
            Ok("") => continue,
            Ok(text) => Ok(Line {
                number,
                text: text.to_owned(),
            }),
            Err(_) => Err(io::Error::other(format!("line {number} is not UTF-8"))),
        };
        let ends = line.is_err();
        if !give(line) || ends {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8]) -> (Vec<(u64, String)>, Option<String>) {
        let (mut lines, mut error) = (Vec::new(), None);
        read(input, |line| {
            match line {
                Ok(line) => lines.push((line.number, line.text)),
                Err(why) => error = Some(why.to_string()),
            }
            true
        });
        (lines, error)
    }

    #[test]
    fn each_line_is_a_message() {
        let (lines, error) = all(b"one\r\n\n  two  \nthree");
        assert_eq!(
            lines,
            [
                (1, "one".into()),
                (3, "  two  ".into()),
                (4, "three".into())
            ]
        );
        assert_eq!(error, None);
    }

    #[test]
    fn a_line_that_cannot_be_sent_ends_the_reading() {
        let (lines, error) = all(b"one\n\xff\ntwo\n");
        assert_eq!(
            (lines.len(), error),
            (1, Some("line 2 is not UTF-8".into()))
        );
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        assert!(
            all(long.as_bytes())
                .1
                .is_some_and(|error| error.contains("longer"))
        );
        assert_eq!(all(&long.as_bytes()[1..]).0.len(), 1);
    }
}
