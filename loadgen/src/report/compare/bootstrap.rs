//! How sure a ratio of means is: the runs of both sides are drawn again and again, with repetition.

/// Draws; with ten thousand the ends of the interval are steady to three digits.
const DRAWS: usize = 10_000;
/// Of the draws, left out at either end.
const TAIL: f64 = 0.025;

/// The mean; `None` of nothing.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// New over base; two zeros are the same, something over nothing has no ratio.
pub(super) fn ratio(base: f64, new: f64) -> Option<f64> {
    match (base == 0.0, new == 0.0) {
        (true, true) => Some(1.0),
        (true, false) => None,
        (false, _) => Some(new / base),
    }
}

/// Where the ratio lies in 95 of 100 repetitions of all runs, by percentile bootstrap. The same values give the same interval.
/// `None` with fewer than two runs on a side.
pub(super) fn interval(base: &[f64], new: &[f64]) -> Option<(f64, f64)> {
    interval_of(DRAWS, base, new)
}

fn interval_of(draws: usize, base: &[f64], new: &[f64]) -> Option<(f64, f64)> {
    if base.len().min(new.len()) < 2 {
        return None;
    }
    let mut random = Random(0x51_75_69_70_75);
    let mut ratios: Vec<f64> = (0..draws)
        .filter_map(|_| ratio(random.drawn_mean(base), random.drawn_mean(new)))
        .collect();
    // A side that drew only zeros has no ratio; an interval of the rest would flatter.
    if ratios.len() < draws {
        return None;
    }
    ratios.sort_by(f64::total_cmp);
    let at = |share: f64| ratios[((draws - 1) as f64 * share).round() as usize];
    Some((at(TAIL), at(1.0 - TAIL)))
}

/// SplitMix64: small, and the same everywhere and forever, so that a comparison can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The mean of as many values as there are, drawn with repetition.
    fn drawn_mean(&mut self, values: &[f64]) -> f64 {
        let count = values.len() as u64;
        // The bias of the remainder is 2^-60 for any count of runs that fits a shelf.
        let sum: f64 = values
            .iter()
            .map(|_| values[(self.next() % count) as usize])
            .sum();
        sum / count as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_as_wide_as_the_runs_differ() {
        let (low, high) = interval(&[100.0; 5], &[110.0; 5]).unwrap();
        assert!((low - 1.1).abs() < 1e-9 && (high - 1.1).abs() < 1e-9);
        let narrow = interval(&[99.0, 100.0, 101.0, 100.0, 100.0], &[100.0; 5]).unwrap();
        let wide = interval(&[80.0, 120.0, 100.0, 90.0, 110.0], &[100.0; 5]).unwrap();
        assert!(
            wide.1 - wide.0 > 5.0 * (narrow.1 - narrow.0),
            "{wide:?} {narrow:?}"
        );
        assert!(wide.0 < 1.0 && 1.0 < wide.1);
    }

    #[test]
    fn covers_the_truth_about_as_often_as_it_says() {
        // Both sides come from one distribution, so the true ratio is 1. The bootstrap of ten runs is a little too narrow; far
        // fewer or all covered would mean that the tails are wrong.
        let mut random = Random(7);
        let mut sample = || -> Vec<f64> {
            let mut uniform = || (random.next() >> 11) as f64 / (1u64 << 53) as f64;
            (0..10)
                .map(|_| 100.0 + 10.0 * (uniform() + uniform() + uniform()))
                .collect()
        };
        let covered = (0..200)
            .filter(|_| {
                let (low, high) = interval_of(500, &sample(), &sample()).unwrap();
                low <= 1.0 && 1.0 <= high
            })
            .count();
        assert!((170..=198).contains(&covered), "{covered} of 200");
    }

    #[test]
    fn needs_two_runs_a_side_and_no_zeros() {
        assert_eq!(interval(&[1.0], &[1.0, 2.0]), None);
        assert_eq!(interval(&[0.0, 0.0], &[1.0, 2.0]), None);
        assert_eq!(interval(&[0.0, 0.0], &[0.0, 0.0]), Some((1.0, 1.0)));
        assert_eq!(
            interval(&[1.0, 2.0], &[3.0, 4.0]),
            interval(&[1.0, 2.0], &[3.0, 4.0])
        );
    }
}
