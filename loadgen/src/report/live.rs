//! What a run shows while it lasts: a screen, or a line a second. Both only look at the engine's board, from a thread of their
//! own and four times a second, so that a run gives the same figures with either.

mod lines;
mod screen;
mod terminal;

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use crate::measure::{Board, Progress};
use screen::Scale;
use terminal::Terminal;

/// Between two looks at the board.
const LOOK: Duration = Duration::from_millis(250);

/// What to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// The whole terminal.
    Screen,
    /// A line a second on standard error.
    Lines,
}

impl How {
    /// The screen, unless it is not wanted or there is no terminal to show it on.
    pub(crate) fn choose(no_tui: bool) -> Self {
        let terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
        match terminal && !no_tui {
            true => Self::Screen,
            false => Self::Lines,
        }
    }
}

/// The thread that shows a run. Dropping it ends it and gives the terminal back.
#[derive(Debug)]
pub(crate) struct Live {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Live {
    /// Starts to show `board`. The screen takes Ctrl-C as a key, since the terminal no longer makes a signal of it; it calls
    /// `stop` for it, each time, and for `q`.
    ///
    /// # Errors
    ///
    /// The terminal cannot be taken, or no thread started.
    pub(crate) fn start(
        board: Board,
        how: How,
        stop: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        // Taken here, so that a terminal that cannot be taken is an error of ours and not of a thread.
        let terminal = match how {
            How::Screen => Some(Terminal::take()?),
            How::Lines => None,
        };
        let show = move || match terminal {
            Some(terminal) => show_screen(&board, terminal, &seen, &stop),
            None => show_lines(&board, &mut io::stderr(), &seen),
        };
        let thread = std::thread::Builder::new()
            .name("live".to_owned())
            .spawn(show)?;
        Ok(Self {
            over,
            thread: Some(thread),
        })
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else {
            return;
        };
        thread.thread().unpark();
        match thread.join() {
            Ok(Ok(())) => {}
            // The run's figures do not depend on it.
            Ok(Err(error)) => eprintln!("the live view ended early: {error}"),
            Err(_) => eprintln!("the live view broke; the run did not"),
        }
    }
}

/// Until the run is over, or the terminal is gone.
fn show_screen(
    board: &Board,
    mut terminal: Terminal,
    over: &AtomicBool,
    stop: &dyn Fn(),
) -> io::Result<()> {
    let mut scale = Scale::default();
    while !over.load(Ordering::Relaxed) && terminal.is_ours() {
        let progress = board.read();
        terminal.draw(|frame| screen::draw(frame, &progress, scale))?;
        if progress.done {
            break;
        }
        let next = Instant::now() + LOOK;
        while event::poll(next.saturating_duration_since(Instant::now()))? {
            match pressed(&event::read()?) {
                Some(Key::Stop) => stop(),
                Some(Key::Scale(change)) => {
                    scale = scale.changed(change);
                    break;
                }
                None => {}
            }
        }
    }
    Ok(())
}

/// Until the run is over: a line for each second, every second told once.
fn show_lines(board: &Board, out: &mut dyn io::Write, over: &AtomicBool) -> io::Result<()> {
    let mut told = lines::Told::default();
    loop {
        // Looked at first: what the run's last moments brought must still be told.
        let last = over.load(Ordering::Relaxed);
        let progress: Progress = board.read();
        for line in told.next(&progress) {
            writeln!(out, "{line}")?;
        }
        out.flush()?;
        if last || progress.done {
            return Ok(());
        }
        std::thread::park_timeout(LOOK);
    }
}

/// What a key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Stop,
    Scale(char),
}

fn pressed(event: &Event) -> Option<Key> {
    let Event::Key(key) = event else { return None };
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match (key.code, key.modifiers.contains(KeyModifiers::CONTROL)) {
        (KeyCode::Char('c'), true) | (KeyCode::Char('q'), false) => Some(Key::Stop),
        (KeyCode::Char(change @ ('+' | '-' | 'a')), false) => Some(Key::Scale(change)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crossterm::event::KeyEvent;

    use super::*;
    use crate::report::sample;

    #[test]
    fn keys_mean_what_the_screen_says() {
        let key = |code, modifiers| pressed(&Event::Key(KeyEvent::new(code, modifiers)));
        let none = KeyModifiers::NONE;
        assert_eq!(
            key(KeyCode::Char('c'), KeyModifiers::CONTROL),
            Some(Key::Stop)
        );
        assert_eq!(key(KeyCode::Char('q'), none), Some(Key::Stop));
        assert_eq!(key(KeyCode::Char('+'), none), Some(Key::Scale('+')));
        assert_eq!(key(KeyCode::Char('c'), none), None);
        assert_eq!(key(KeyCode::Enter, none), None);
        assert_eq!(pressed(&Event::FocusGained), None);
    }

    #[test]
    fn watching_changes_nothing_and_tells_each_second_once() {
        let board = Board::default();
        board.update(|progress| *progress = sample::progress());
        let before = serde_json::to_string(&board.read()).unwrap();
        let mut out = Vec::new();
        board.update(|progress| progress.done = true);
        show_lines(&board, &mut out, &AtomicBool::new(false)).unwrap();
        board.update(|progress| progress.done = false);
        assert_eq!(serde_json::to_string(&board.read()).unwrap(), before);
        let out = String::from_utf8(out).unwrap();
        let seconds = out
            .lines()
            .filter(|line| line.contains("delivered"))
            .count();
        assert_eq!(seconds, board.read().samples.len(), "{out}");
    }

    #[test]
    fn ends_with_its_guard() {
        let live = Live::start(Board::default(), How::Lines, || {}).unwrap();
        let over = live.over.clone();
        drop(live);
        // The thread is joined: it no longer holds its copy.
        assert_eq!(Arc::strong_count(&over), 1);
    }
}
