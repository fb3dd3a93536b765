//! Waits for the folder or the bucket of files, not longer than is useful, and counts what fails.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::MediaError;
use crate::telemetry::Metrics;

/// How long one request may take, its repetitions included.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    within: Option<Duration>,
    metrics: Arc<Metrics>,
}

impl Patience {
    /// Waits so long. A request that is given up may still be carried out: whoever asks must be content with either.
    pub(super) fn of(within: Duration, metrics: &Arc<Metrics>) -> Self {
        Self {
            within: Some(within),
            metrics: Arc::clone(metrics),
        }
    }

    /// For a disk of this machine: work on it cannot be taken back, so there is no use in not waiting for its end.
    pub(super) fn endless(metrics: &Arc<Metrics>) -> Self {
        Self {
            within: None,
            metrics: Arc::clone(metrics),
        }
    }

    /// Waits for an answer. That an object is not there is an answer like any other, and not counted.
    pub(super) async fn wait<T>(
        &self,
        asked: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, MediaError> {
        let answer = match self.within {
            None => asked.await,
            Some(within) => timeout(within, asked)
                .await
                .map_err(|_| self.lost(within))?,
        };
        answer.map_err(|error| {
            if !matches!(error, object_store::Error::NotFound { .. }) {
                self.metrics.media_store_failed.inc();
            }
            error.into()
        })
    }

    /// What was waited for so long did not come.
    pub(super) fn lost(&self, waited: Duration) -> MediaError {
        self.metrics.media_store_stalled.inc();
        MediaError::Stalled(waited)
    }
}
