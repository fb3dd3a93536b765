//! Carries changes of the offline topic from the processors to the notifier. The topic itself is in the store.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use quipu_protocol::id::{TimestampMs, UserId};
use tokio::sync::Notify;

/// Users with changes that the notifier has not taken yet. At the limit changes are dropped, and the notifier reads the
/// store instead.
pub const CHANGES_MAX: usize = 16 * 1024;

/// Changes since the last take.
#[derive(Debug, Default)]
pub struct Changes {
    /// Users, and since when their messages wait; `None`: they do not.
    pub users: BTreeMap<UserId, Option<TimestampMs>>,
    /// Whether there were more, which were dropped.
    pub missed: bool,
}

/// Where changes are noted. Notes nothing until somebody listens.
#[derive(Debug, Default)]
pub struct Topic {
    changes: Mutex<Changes>,
    changed: Notify,
    listened: AtomicBool,
}

impl Topic {
    /// Notes changes from now on. To be called before the topic is read from the store for the first time.
    pub fn listen(&self) {
        self.listened.store(true, Ordering::Release);
    }

    /// What waits for a user's devices has changed, and the change is committed. Never waits.
    pub fn note(&self, user: UserId, since: Option<TimestampMs>) {
        if !self.listened.load(Ordering::Acquire) {
            return;
        }
        let mut changes = self.changes.lock();
        if changes.users.len() < CHANGES_MAX || changes.users.contains_key(&user) {
            changes.users.insert(user, since);
        } else {
            changes.missed = true;
        }
        drop(changes);
        self.changed.notify_one();
    }

    /// Waits until there is a change. One task at a time; cancelling is harmless.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes all changes.
    pub fn take(&self) -> Changes {
        std::mem::take(&mut *self.changes.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: usize) -> UserId {
        UserId::new(&format!("user{number}")).expect("a name")
    }

    #[tokio::test]
    async fn the_last_change_of_a_user_is_kept_and_too_many_are_reported() {
        let topic = Topic::default();
        topic.note(user(1), None);
        assert!(topic.take().users.is_empty(), "nobody listens");
        topic.listen();
        topic.note(user(1), None);
        topic.note(user(1), Some(TimestampMs(7)));
        topic.changed().await;
        let changes = topic.take();
        assert_eq!(changes.users, [(user(1), Some(TimestampMs(7)))].into());
        assert!(!changes.missed);
        for number in 0..=CHANGES_MAX {
            topic.note(user(number), None);
        }
        let changes = topic.take();
        assert_eq!((changes.users.len(), changes.missed), (CHANGES_MAX, true));
        assert!(!topic.take().missed);
    }
}
