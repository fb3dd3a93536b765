//! Axes: where a value lies on a chart, and which values are worth a line.

/// A range of values and how they spread over a length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// Evenly, from zero.
    Linear { most: f64 },
    /// By powers of ten.
    Log { least: f64, most: f64 },
}

impl Scale {
    /// From zero to a round number at or above `most`.
    pub(super) fn linear(most: f64) -> Self {
        let most = if most.is_finite() && most > 0.0 {
            most
        } else {
            1.0
        };
        let step = step(most);
        Self::Linear {
            most: (most / step).ceil() * step,
        }
    }

    /// Whole decades around the values that are above zero; two of them at the least.
    pub(super) fn log(values: impl Iterator<Item = f64>) -> Self {
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| value.is_finite() && *value > 0.0) {
            least = least.min(value);
            most = most.max(value);
        }
        if most == 0.0 {
            (least, most) = (1.0, 10.0);
        }
        let low = least.log10().floor();
        let high = most.log10().ceil().max(low + 1.0);
        Self::Log {
            least: 10_f64.powf(low),
            most: 10_f64.powf(high),
        }
    }

    /// 0 at the low end, 1 at the high end; what is outside lies at the end.
    pub(super) fn at(self, value: f64) -> f64 {
        let share = match self {
            Self::Linear { most } => value / most,
            Self::Log { least, most } => {
                (value.max(least) / least).log10() / (most / least).log10()
            }
        };
        share.clamp(0.0, 1.0)
    }

    /// Values worth a line.
    pub(super) fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear { most } => {
                let step = step(most);
                let count = (most / step).round() as usize;
                (0..=count).map(|n| n as f64 * step).collect()
            }
            Self::Log { least, most } => {
                let decades = (most / least).log10().round() as i32;
                (0..=decades).map(|n| least * 10_f64.powi(n)).collect()
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, so that there are four to eight steps.
fn step(most: f64) -> f64 {
    let rough = most / 5.0;
    let decade = 10_f64.powf(rough.log10().floor());
    let of_decade = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|one| *one >= rough / decade)
        .unwrap_or(10.0);
    of_decade * decade
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        for most in [0.003, 0.9, 1.0, 7.0, 99.0, 12_345.0, 1e9] {
            let ticks = Scale::linear(most).ticks();
            assert!((4..=9).contains(&ticks.len()), "{most}: {ticks:?}");
            assert!(*ticks.last().unwrap() >= most * 0.999, "{most}: {ticks:?}");
        }
        assert_eq!(
            Scale::linear(100.0).ticks(),
            [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
        );
    }

    #[test]
    fn a_log_scale_has_whole_decades() {
        let scale = Scale::log([0.5, 30.0].into_iter());
        assert_eq!(
            scale,
            Scale::Log {
                least: 0.1,
                most: 100.0
            }
        );
        assert_eq!(scale.ticks().len(), 4);
        assert!((scale.at(1.0) - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!((scale.at(0.0), scale.at(1e9)), (0.0, 1.0));
    }

    #[test]
    fn nothing_to_show_still_has_an_axis() {
        assert_eq!(Scale::linear(0.0), Scale::Linear { most: 1.0 });
        assert_eq!(Scale::linear(f64::NAN), Scale::Linear { most: 1.0 });
        assert_eq!(
            Scale::log([].into_iter()),
            Scale::Log {
                least: 1.0,
                most: 10.0
            }
        );
        assert_eq!(
            Scale::log([10.0].into_iter()),
            Scale::Log {
                least: 10.0,
                most: 100.0
            }
        );
    }
}
