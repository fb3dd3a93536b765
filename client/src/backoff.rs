//! Exponential back-off with full jitter, as a value: the caller brings the random numbers.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Draws the delays between attempts: each is uniform between zero and a bound that doubles from `base` to `max`.
///
/// Full jitter, because after a gateway dies all of its clients begin at the same moment, and any part of the delay that they
/// share would keep them together.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    /// Begins at `base`.
    pub fn new(base: Duration, max: Duration) -> Self {
        Self {
            base,
            max: max.max(base),
            attempts: 0,
        }
    }

    /// The delay before the next attempt.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let bound = self.bound();
        self.attempts = self.attempts.saturating_add(1);
        jitter(bound, rng)
    }

    /// Begins anew, after an attempt that worked.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    fn bound(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.max)
    }
}

/// A uniform part of `bound`.
pub fn jitter(bound: Duration, rng: &mut impl Rng) -> Duration {
    let micros = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(rng.random_range(0..=micros))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn delays(seed: u64) -> Vec<Duration> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
        (0..64).map(|_| backoff.next(&mut rng)).collect()
    }

    #[test]
    fn one_seed_gives_one_sequence() {
        assert_eq!(delays(7), delays(7));
        assert_ne!(delays(7), delays(8));
    }

    #[test]
    fn every_delay_is_below_its_bound_and_uses_its_range() {
        let mut highest = [Duration::ZERO; 64];
        for seed in 0..200 {
            for (at, delay) in delays(seed).into_iter().enumerate() {
                let bound = Duration::from_millis(250 << at.min(7)).min(Duration::from_secs(30));
                assert!(delay <= bound, "attempt {at}: {delay:?} above {bound:?}");
                highest[at] = highest[at].max(delay);
            }
        }
        assert!(
            highest[0] > Duration::from_millis(200),
            "jitter does not use the range: {:?}",
            highest[0]
        );
        assert!(
            highest[63] > Duration::from_secs(25),
            "jitter does not use the range: {:?}",
            highest[63]
        );
    }

    #[test]
    fn reset_begins_anew() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(30));
        for _ in 0..20 {
            backoff.next(&mut rng);
        }
        backoff.reset();
        assert!(backoff.next(&mut rng) <= Duration::from_millis(10));
    }
}
