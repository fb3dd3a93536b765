//! A thread that does the same thing again and again until it is dropped.

use std::ops::ControlFlow;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What is to happen when it is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtTheEnd {
    /// Its work once more.
    OnceMore,
    /// Nothing.
    Nothing,
}

/// The thread; dropping this ends it and waits for it.
#[derive(Debug)]
pub(crate) struct Periodic {
    stop: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    name: &'static str,
}

impl Periodic {
    /// Starts a thread of this name that works whenever `interval` is over, until `work` breaks.
    pub(crate) fn start(
        name: &'static str,
        interval: Duration,
        at_the_end: AtTheEnd,
        mut work: impl FnMut() -> ControlFlow<()> + Send + 'static,
    ) -> std::io::Result<Self> {
        // Nothing is ever sent: a closed channel is the signal.
        let (stop, stopped) = mpsc::sync_channel::<()>(0);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                    if work().is_break() {
                        return;
                    }
                }
                match at_the_end {
                    // Whether it would go on does not matter any more.
                    AtTheEnd::OnceMore => drop(work()),
                    AtTheEnd::Nothing => {}
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
            name,
        })
    }
}

impl Drop for Periodic {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(thread = self.name, "a thread had panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// How often it works if it is dropped at once, and if its first work breaks.
    fn worked(interval: Duration, at_the_end: AtTheEnd) -> usize {
        let (tell, told) = mpsc::channel();
        let periodic = Periodic::start("test", interval, at_the_end, move || {
            tell.send(()).expect("somebody listens");
            ControlFlow::Break(())
        });
        let mut before = 0;
        if interval < HOUR {
            told.recv().expect("it works");
            before = 1;
        }
        drop(periodic.expect("a thread"));
        before + told.iter().count()
    }

    #[test]
    fn it_works_until_it_breaks_and_once_more_if_asked() {
        assert_eq!(worked(HOUR, AtTheEnd::Nothing), 0);
        assert_eq!(worked(HOUR, AtTheEnd::OnceMore), 1);
        assert_eq!(worked(Duration::ZERO, AtTheEnd::OnceMore), 1, "it broke");
    }
}
