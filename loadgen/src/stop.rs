//! The wish that a run ends before its time: once, with a report of what was measured; twice, at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// Between two looks of who waits for the first wish.
const LOOK: Duration = Duration::from_millis(50);

/// What all parts of a run look at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<Wishes>);

#[derive(Debug, Default)]
struct Wishes {
    count: AtomicU32,
    second: Notify,
}

impl Stop {
    /// Ends the run; the second time, at once.
    pub(crate) fn set(&self) {
        if self.0.count.fetch_add(1, Ordering::Relaxed) > 0 {
            self.0.second.notify_one();
        }
    }

    /// Whether the run is to end.
    pub(crate) fn is_set(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) > 0
    }

    /// Waits until the run is to end.
    pub(crate) async fn wished(&self) {
        while !self.is_set() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until somebody does not want to wait for the report.
    pub(crate) async fn wished_twice(&self) {
        self.0.second.notified().await;
    }

    /// Takes each Ctrl-C of the terminal for a wish, from now on. Must be called in a `LocalSet`.
    pub(crate) fn heed_interrupts(&self) -> std::io::Result<()> {
        let kind = tokio::signal::unix::SignalKind::interrupt();
        let mut interrupts = tokio::signal::unix::signal(kind)?;
        let stop = self.clone();
        tokio::task::spawn_local(async move {
            while interrupts.recv().await.is_some() {
                stop.set();
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_wish_is_another_one() {
        let stop = Stop::default();
        assert!(!stop.is_set());
        stop.set();
        assert!(stop.is_set());
        stop.wished().await;
        let soon = Duration::from_millis(1);
        assert!(
            tokio::time::timeout(soon, stop.wished_twice())
                .await
                .is_err()
        );
        stop.set();
        stop.wished_twice().await;
    }
}
