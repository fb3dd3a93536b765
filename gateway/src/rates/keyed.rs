//! A token bucket for each of many keys, in bounded memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;

use crate::config::RateLimit;

type Limiter<K, C> = RateLimiter<K, Store<K>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// Counts what each key does against one limit. Takes the same time whatever the number of keys.
pub(super) struct Keyed<K, C = MonotonicClock>
where
    K: Eq + Hash + Clone,
    C: Clock,
{
    /// `None`: the limit is off.
    buckets: Option<Buckets<K, C>>,
    table: Arc<Mutex<Table<K>>>,
}

struct Buckets<K: Eq + Hash + Clone, C: Clock> {
    taking: Limiter<K, C>,
    /// Asks the same table and changes nothing. Its clock began an instant later, which makes it that much stricter.
    asking: Limiter<K, C>,
}

impl<K: Eq + Hash + Clone, C: Clock> std::fmt::Debug for Keyed<K, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyed").finish_non_exhaustive()
    }
}

impl<K: Eq + Hash + Clone, C: Clock + Clone> Keyed<K, C> {
    /// Remembers at most `keys_max` keys.
    pub(super) fn new(limit: RateLimit, keys_max: usize, clock: &C) -> Self {
        let table = Arc::new(Mutex::new(Table {
            young: HashMap::new(),
            old: HashMap::new(),
            half: (keys_max / 2).max(1),
            dropped: 0,
        }));
        let store = |dry| Store {
            table: Arc::clone(&table),
            dry,
        };
        let buckets = quota(limit).map(|quota| Buckets {
            taking: RateLimiter::new(quota, store(false), clock.clone()),
            asking: RateLimiter::new(quota, store(true), clock.clone()),
        });
        Self { buckets, table }
    }

    /// Takes one token of this key's bucket; an error says how long until there is one again.
    pub(super) fn take(&self, key: &K) -> Result<(), Duration> {
        match &self.buckets {
            Some(buckets) => check(&buckets.taking, key),
            None => Ok(()),
        }
    }

    /// Whether [`take`](Self::take) would fail now. Changes nothing.
    pub(super) fn is_empty(&self, key: &K) -> bool {
        self.buckets
            .as_ref()
            .is_some_and(|buckets| check(&buckets.asking, key).is_err())
    }

    /// Fills the key's bucket again.
    pub(super) fn refill(&self, key: &K) {
        let mut table = self.table.lock();
        table.young.remove(key);
        table.old.remove(key);
    }

    /// Keys that are remembered now, and those that were dropped so far to make room.
    pub(super) fn counts(&self) -> (u64, u64) {
        let table = self.table.lock();
        let keys = table.young.len() + table.old.len();
        (keys as u64, table.dropped)
    }
}

fn check<K: Eq + Hash + Clone, C: Clock>(limiter: &Limiter<K, C>, key: &K) -> Result<(), Duration> {
    limiter
        .check_key(key)
        .map_err(|not_until| not_until.wait_time_from(limiter.clock().now()))
}

fn quota(limit: RateLimit) -> Option<Quota> {
    match limit {
        RateLimit::Off => None,
        RateLimit::Allow { count, per, burst } => {
            // The parser allows no count that makes the period of one token 0.
            let period = per.period() / count.get();
            Quota::with_period(period).map(|quota| quota.allow_burst(burst))
        }
    }
}

/// The table behind a limiter; `dry` leaves it as it is.
#[derive(Debug)]
struct Store<K> {
    table: Arc<Mutex<Table<K>>>,
    dry: bool,
}

impl<K: Eq + Hash + Clone> StateStore for Store<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut table = self.table.lock();
        let (decision, state) = decide(table.find(key))?;
        if !self.dry {
            table.put(key, state);
        }
        Ok(decision)
    }
}

/// When each key's bucket is full again, in two generations. Finding a key moves it to the young one; when that is full, it
/// becomes the old one, and what was in the old one is dropped: whoever has not been seen for longest. A stranger who brings
/// ever new keys can so make the table forget those who are quiet, never those who go on, and nobody is refused because of
/// others.
#[derive(Debug)]
struct Table<K> {
    young: HashMap<K, Nanos>,
    old: HashMap<K, Nanos>,
    /// Keys of one generation.
    half: usize,
    dropped: u64,
}

impl<K: Eq + Hash + Clone> Table<K> {
    fn find(&mut self, key: &K) -> Option<Nanos> {
        if let Some(state) = self.young.get(key) {
            return Some(*state);
        }
        let state = self.old.remove(key)?;
        self.put(key, state);
        Some(state)
    }

    fn put(&mut self, key: &K, state: Nanos) {
        if let Some(known) = self.young.get_mut(key) {
            *known = state;
            return;
        }
        if self.young.len() >= self.half {
            self.dropped += self.old.len() as u64;
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key.clone(), state);
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::config::SettingValue as _;

    fn keyed(limit: &str, keys_max: usize) -> (Keyed<u32, FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let limit = RateLimit::parse(limit).expect("a rate");
        (Keyed::new(limit, keys_max, &clock), clock)
    }

    #[test]
    fn a_burst_then_the_rate_and_the_time_to_wait_is_right() {
        let (keyed, clock) = keyed("10/s burst 3", 8);
        for _ in 0..3 {
            assert_eq!(keyed.take(&1), Ok(()));
        }
        assert!(keyed.is_empty(&1) && !keyed.is_empty(&2));
        assert_eq!(keyed.take(&1), Err(Duration::from_millis(100)));
        assert_eq!(keyed.take(&2), Ok(()), "each key has its own bucket");
        clock.advance(Duration::from_millis(99));
        assert_eq!(keyed.take(&1), Err(Duration::from_millis(1)));
        clock.advance(Duration::from_millis(1));
        assert_eq!(keyed.take(&1), Ok(()));
        assert!(keyed.take(&1).is_err());
        keyed.refill(&1);
        assert_eq!(keyed.take(&1), Ok(()));
    }

    #[test]
    fn a_limit_that_is_off_counts_nothing() {
        let (keyed, _clock) = keyed("off", 8);
        assert!((0..1000).all(|_| keyed.take(&1).is_ok()));
        assert_eq!(keyed.counts(), (0, 0));
    }

    #[test]
    fn memory_is_bounded_and_whoever_goes_on_is_remembered() {
        let (keyed, _clock) = keyed("1/h burst 1", 100);
        assert_eq!(keyed.take(&0), Ok(()));
        for other in 1..10_000 {
            assert_eq!(keyed.take(&other), Ok(()));
            assert!(keyed.take(&0).is_err(), "after {other} others");
            assert!(keyed.counts().0 <= 100);
        }
        assert!(keyed.counts().1 > 9_000);
        // Key 1 was quiet, and is forgotten.
        assert_eq!(keyed.take(&1), Ok(()));
    }
}
