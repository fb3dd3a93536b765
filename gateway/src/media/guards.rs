//! A lock for each file, which keeps its removal apart from whatever makes it needed again.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quipu_protocol::id::ConversationId;
use quipu_protocol::media::MediaHash;
use tokio::sync::OwnedMutexGuard;

/// The locks that somebody has or waits for: never more than there are transfers, unfinished uploads and sessions.
#[derive(Debug, Clone, Default)]
pub(super) struct Guards {
    wanted: Arc<Mutex<BTreeMap<Key, Lock>>>,
}

type Key = (ConversationId, MediaHash);
type Lock = Arc<tokio::sync::Mutex<()>>;

impl Guards {
    /// Waits until nobody else has this file.
    pub(super) async fn take(&self, conversation: ConversationId, hash: MediaHash) -> Guard {
        let key = (conversation, hash);
        // Made first, so that who gives up waiting leaves nothing behind.
        let mut guard = Guard {
            lock: Some(Arc::clone(self.wanted.lock().entry(key).or_default())),
            guards: self.clone(),
            key,
            held: None,
        };
        if let Some(lock) = &guard.lock {
            guard.held = Some(Arc::clone(lock).lock_owned().await);
        }
        guard
    }
}

/// The right to one file, until it is dropped.
#[derive(Debug)]
pub(super) struct Guard {
    guards: Guards,
    key: Key,
    lock: Option<Lock>,
    held: Option<OwnedMutexGuard<()>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut wanted = self.guards.wanted.lock();
        // Ours go first; what is left then is the map's, or somebody else's.
        self.held = None;
        self.lock = None;
        if wanted
            .get(&self.key)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            wanted.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const HERE: ConversationId = ConversationId([1; 16]);

    #[tokio::test]
    async fn one_file_has_one_holder_and_nothing_is_left_behind() {
        let guards = Guards::default();
        let (one, other) = (MediaHash([1; 32]), MediaHash([2; 32]));
        let first = guards.take(HERE, one).await;
        let second = guards.take(HERE, other).await;
        // Who waits in vain gives up.
        let waited = timeout(Duration::from_millis(10), guards.take(HERE, one)).await;
        assert!(waited.is_err(), "the file has a holder");
        assert_eq!(guards.wanted.lock().len(), 2);
        let next = guards.take(HERE, one);
        drop(first);
        let next = next.await;
        drop((second, next));
        assert_eq!(guards.wanted.lock().len(), 0);
    }
}
