//! When the i-th send of a phase is due: a fixed plan from the start, never a distance from the one before.

use std::time::Duration;

use crate::seed::{Purpose, Seed};

/// How arrivals are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// At equal distances.
    Constant,
    /// As independent users make them.
    Poisson,
}

/// The due times of a phase whose rate goes evenly from one value to another.
///
/// With N(t) the number that should have been due after t, the i-th is due where N reaches i (constant), or the sum of i
/// exponential gaps of mean 1 (Poisson): one random walk serves every shape of rate, and no error adds up over hours.
#[derive(Debug, Clone)]
pub(crate) struct Pacer {
    from: f64,
    slope: f64,
    length: Duration,
    arrival: Arrival,
    seed: Seed,
    group: u64,
    index: u64,
    /// Where the random walk stands.
    walked: f64,
    next: Option<Duration>,
}

impl Pacer {
    /// Rates in sends a second; `group` tells the phases of a run apart.
    pub(crate) fn new(
        (from, to): (f64, f64),
        length: Duration,
        arrival: Arrival,
        seed: Seed,
        group: u64,
    ) -> Self {
        let mut pacer = Self {
            from,
            slope: (to - from) / length.as_secs_f64().max(f64::MIN_POSITIVE),
            length,
            arrival,
            seed,
            group,
            index: 0,
            walked: 0.0,
            next: None,
        };
        pacer.next = pacer.due();
        pacer
    }

    /// Takes the next send that is due at `elapsed` since the start: its number and its due time. `None`: none yet, or no more.
    pub(crate) fn take(&mut self, elapsed: Duration) -> Option<(u64, Duration)> {
        let due = self.next.filter(|due| *due <= elapsed)?;
        let index = self.index;
        self.index += 1;
        self.next = self.due();
        Some((index, due))
    }

    /// The due time of send number `index`, `None` beyond the phase's end.
    fn due(&mut self) -> Option<Duration> {
        let count = match self.arrival {
            Arrival::Constant => self.index as f64,
            Arrival::Poisson => {
                let unit = self.seed.unit(Purpose::Gap, self.group, self.index);
                self.walked -= (1.0 - unit).ln();
                self.walked
            }
        };
        let seconds = self.time_of(count)?;
        let due = Duration::try_from_secs_f64(seconds).ok()?;
        (due < self.length).then_some(due)
    }

    /// The inverse of N(t) = from t + slope t^2 / 2, in the form that loses no digits when the slope is small.
    fn time_of(&self, count: f64) -> Option<f64> {
        let root = self.from.mul_add(self.from, 2.0 * self.slope * count);
        let divisor = self.from + root.max(0.0).sqrt();
        if count == 0.0 {
            return (divisor > 0.0 || self.slope > 0.0).then_some(0.0);
        }
        (root >= 0.0 && divisor > 0.0).then(|| 2.0 * count / divisor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn all(mut pacer: Pacer) -> Vec<Duration> {
        std::iter::from_fn(|| pacer.take(Duration::MAX).map(|(_, due)| due)).collect()
    }

    fn pacer(rates: (f64, f64), length: Duration, arrival: Arrival) -> Pacer {
        Pacer::new(rates, length, arrival, Seed(5), 0)
    }

    #[test]
    fn the_ith_send_is_due_at_i_over_the_rate_after_ten_hours_too() {
        let mut last = (0, Duration::ZERO);
        let mut pacer = pacer((333.0, 333.0), HOUR * 10, Arrival::Constant);
        while let Some(next) = pacer.take(Duration::MAX) {
            let exact = u128::from(next.0) * 1_000_000_000 / 333;
            assert!(next.1.as_nanos().abs_diff(exact) <= 1, "{next:?}");
            last = next;
        }
        assert_eq!(last.0, 333 * 36_000 - 1);
    }

    #[test]
    fn late_looks_lose_nothing() {
        let mut pacer = pacer((1_000.0, 1_000.0), HOUR, Arrival::Constant);
        assert_eq!(pacer.take(Duration::ZERO), Some((0, Duration::ZERO)));
        assert_eq!(pacer.take(Duration::from_micros(999)), None);
        let mut taken = 1;
        while pacer.take(Duration::from_secs(1_800)).is_some() {
            taken += 1;
        }
        assert_eq!(taken, 1_800_001);
    }

    #[test]
    fn a_rate_that_grows_has_the_mean_of_its_ends() {
        let due = all(pacer(
            (0.0, 200.0),
            Duration::from_secs(100),
            Arrival::Constant,
        ));
        assert!((9_999..=10_001).contains(&due.len()), "{}", due.len());
        let half = due.partition_point(|due| *due < Duration::from_secs(50));
        assert!((2_499..=2_501).contains(&half), "{half}");
        let down = all(pacer(
            (200.0, 0.0),
            Duration::from_secs(100),
            Arrival::Constant,
        ));
        let half = down.partition_point(|due| *due < Duration::from_secs(50));
        assert!((7_499..=7_501).contains(&half), "{half}");
        assert!(due.is_sorted() && down.is_sorted());
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread() {
        let due = all(pacer((100.0, 100.0), HOUR, Arrival::Poisson));
        let mean = due.len() as f64 / 3_600.0;
        assert!((mean - 100.0).abs() < 1.0, "{mean}");
        let mut counts = vec![0.0; 3_600];
        for at in &due {
            counts[at.as_secs() as usize] += 1.0;
        }
        let variance = counts.iter().map(|n| (n - mean) * (n - mean)).sum::<f64>() / 3_600.0;
        assert!((80.0..120.0).contains(&variance), "{variance}");
        assert!(due.is_sorted());
        assert_eq!(due, all(pacer((100.0, 100.0), HOUR, Arrival::Poisson)));
    }

    #[test]
    fn no_rate_is_no_send() {
        assert!(all(pacer((0.0, 0.0), HOUR, Arrival::Constant)).is_empty());
        assert!(all(pacer((0.0, 0.0), HOUR, Arrival::Poisson)).is_empty());
    }
}
