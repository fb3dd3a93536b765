//! The terminal, taken for the screen and given back whatever happens.

use std::io::{self, Stdout, stdout};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::cursor::Show;
use crossterm::execute;
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::Frame;
use ratatui::backend::CrosstermBackend;

/// Whether the terminal is ours: what is switched on is switched off once.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal in the screen's state. Dropping it gives it back; so does a panic on any thread, before it says what happened.
pub(super) struct Terminal {
    drawn: ratatui::Terminal<CrosstermBackend<Stdout>>,
}

impl Terminal {
    /// Takes it.
    ///
    /// # Errors
    ///
    /// It is none, or does not let itself be switched.
    pub(super) fn take() -> io::Result<Self> {
        give_back_on_panic(switch_off);
        TAKEN.store(true, Ordering::SeqCst);
        // From here on an early return gives it back.
        let taken = Self {
            drawn: ratatui::Terminal::new(CrosstermBackend::new(stdout()))
                .inspect_err(|_| give_back(switch_off))?,
        };
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen)?;
        Ok(taken)
    }

    /// Whether it was not given back, by a panic somewhere.
    pub(super) fn is_ours(&self) -> bool {
        TAKEN.load(Ordering::SeqCst)
    }

    /// Draws.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.drawn.draw(draw).map(drop)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back(switch_off);
    }
}

fn give_back_on_panic(off: fn()) {
    let said = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        give_back(off);
        said(info);
    }));
}

/// Once, whoever asks first.
fn give_back(off: fn()) {
    if TAKEN.swap(false, Ordering::SeqCst) {
        off();
    }
}

fn switch_off() {
    // Nothing can be done where it fails: the terminal is gone.
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_panic_gives_it_back_once() {
        static OFF: AtomicUsize = AtomicUsize::new(0);
        // A test has no terminal: what would switch it off counts instead.
        let off = || {
            OFF.fetch_add(1, Ordering::SeqCst);
        };
        give_back_on_panic(off);
        TAKEN.store(true, Ordering::SeqCst);
        let broke = std::thread::spawn(|| panic!("on purpose")).join();
        assert!(broke.is_err());
        assert_eq!(OFF.load(Ordering::SeqCst), 1);
        give_back(off);
        assert_eq!(OFF.load(Ordering::SeqCst), 1);
    }
}
