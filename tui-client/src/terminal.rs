//! The terminal: everything that the screen switches on, and one guard that switches it off again, whatever happens.

use std::io::{self, Stdout, Write, stdout};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::cursor::Show;
use crossterm::event::{
    DisableBracketedPaste, DisableFocusChange, EnableBracketedPaste, EnableFocusChange,
    KeyboardEnhancementFlags, PopKeyboardEnhancementFlags, PushKeyboardEnhancementFlags,
};
use crossterm::terminal::{
    BeginSynchronizedUpdate, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
    disable_raw_mode, enable_raw_mode,
};
use crossterm::{execute, queue};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use tokio::sync::Notify;

use crate::app::App;
use crate::view;

/// Whether the terminal is in the screen's state: what is switched on is switched off once.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Told of a panic on any thread.
static PANICKED: Notify = Notify::const_new();

/// Waits for a panic on any thread: a program of which a part broke must not go on drawing.
pub(crate) async fn panicked() {
    PANICKED.notified().await;
}

/// The terminal in the screen's state. Dropping it gives the terminal back as it was.
pub(crate) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal: raw mode, the alternate screen, marked pastes, focus reports, and keys as the newer keyboard
    /// protocol sends them. The last three are not answered: a terminal that does not know them ignores them.
    ///
    /// A panic from then on, on any thread, gives the terminal back and says what happened; [`panicked`] tells the loop to end.
    pub(crate) fn take() -> io::Result<Self> {
        let said = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            said(info);
            PANICKED.notify_one();
        }));
        enable_raw_mode()?;
        TAKEN.store(true, Ordering::SeqCst);
        // From here on the guard exists, so that an early return gives the terminal back.
        let screen = Self {
            terminal: Terminal::new(CrosstermBackend::new(stdout()))?,
        };
        execute!(
            stdout(),
            EnterAlternateScreen,
            EnableBracketedPaste,
            EnableFocusChange,
            PushKeyboardEnhancementFlags(KeyboardEnhancementFlags::DISAMBIGUATE_ESCAPE_CODES),
        )?;
        Ok(screen)
    }

    /// Draws a frame, shown by the terminal all at once.
    pub(crate) fn draw(&mut self, app: &App) -> io::Result<()> {
        if !TAKEN.load(Ordering::SeqCst) {
            // A panic gave the terminal back.
            return Ok(());
        }
        queue!(stdout(), BeginSynchronizedUpdate)?;
        self.terminal.draw(|frame| view::draw(app, frame))?;
        execute!(stdout(), EndSynchronizedUpdate)
    }

    /// Forgets what the terminal shows: the next frame is drawn whole.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.terminal.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Switches everything off, once, in the opposite order. Errors are ignored: the terminal may be gone, and nothing else helps.
fn give_back() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let mut out = stdout();
    let _ = queue!(
        out,
        EndSynchronizedUpdate,
        PopKeyboardEnhancementFlags,
        DisableFocusChange,
        DisableBracketedPaste,
        LeaveAlternateScreen,
        Show,
    );
    let _ = out.flush();
    let _ = disable_raw_mode();
}
