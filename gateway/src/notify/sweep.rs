//! After a crash: tells the log which sessions went with the former process.

use std::sync::Arc;
use std::time::Duration;

use quipu_core::record::Fact;
use quipu_core::row::{EntityKey, IndexKey, IndexRange, Presence};
use quipu_protocol::id::{TimestampMs, UserId};

use crate::router::{Router, Submission};
use crate::store::{Store, StoreError};

/// Users looked at with one read of the store.
const PAGE_USERS: usize = 512;

/// Looks, after `delay`, at every user who is said to be here, and tells the log about each session of a process that is not
/// this one. The delay is for the clients that come back by themselves: nothing is left to tell about them.
///
/// Sessions that are told to have vanished have done so at `since`.
pub async fn run(
    store: Arc<dyn Store>,
    router: Router,
    boot: u64,
    since: TimestampMs,
    delay: Duration,
) {
    tokio::time::sleep(delay).await;
    let (mut after, mut told) = (None, 0u64);
    loop {
        let reading = Arc::clone(&store);
        let page = tokio::task::spawn_blocking(move || page(&*reading, after, boot)).await;
        let (last, gone) = match page {
            Ok(Ok(page)) => page,
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot look for sessions of a former process");
                return;
            }
            // The runtime is ending.
            Err(_) => return,
        };
        for (user, boot) in gone {
            let fact = Fact::Vanished { boot, since };
            if router.submit(Submission::Fact(user, fact)).await.is_err() {
                return;
            }
            told += 1;
        }
        match last {
            Some(last) => after = Some(last),
            None => break,
        }
    }
    if told > 0 {
        tracing::info!(told, "sessions of a former process are told to be gone");
    }
}

type Gone = Vec<(UserId, u64)>;

/// The sessions of former processes among the next users; and the last of these users, if there may be more.
fn page(
    store: &dyn Store,
    after: Option<UserId>,
    boot: u64,
) -> Result<(Option<UserId>, Gone), StoreError> {
    let rows = store.index(&IndexRange::Here(after), PAGE_USERS)?;
    let mut users = Vec::with_capacity(rows.len());
    for (key, _) in &rows {
        // The range has no others.
        if let IndexKey::Here(user) = key {
            users.push(*user);
        }
    }
    let keys: Vec<EntityKey> = users.iter().copied().map(EntityKey::Presence).collect();
    let mut gone = Gone::new();
    for (user, row) in users.iter().zip(store.entities(&keys)?) {
        let Some(row) = row else { continue };
        let devices = Presence::decode(&row)?.devices;
        let sessions = devices.iter().filter_map(|device| device.session);
        let mut boots: Vec<u64> = sessions.map(|session| session.boot).collect();
        boots.sort_unstable();
        boots.dedup();
        boots.retain(|of| *of != boot);
        gone.extend(boots.into_iter().map(|boot| (*user, boot)));
    }
    let full = users.len() == PAGE_USERS;
    Ok((users.last().copied().filter(|_| full), gone))
}
