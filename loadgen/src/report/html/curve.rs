//! The percentile curve: latency over the share of messages that were faster, with the slow end drawn out.

use super::chart::{Axis, Chart, Line};
use super::scale::Scale;
use crate::report::distribution::Distribution;

/// One part in so many is slower, at the right end.
const RAREST: f64 = 100_000.0;
/// Points of a curve for each power of ten.
const POINTS_A_DECADE: usize = 40;

/// Curves of these distributions, each with a name and a class. Without any that has latencies: none.
pub(super) fn chart(
    id: &str,
    title: &str,
    curves: &[(String, &'static str, &Distribution)],
) -> Option<Chart> {
    let lines: Vec<Line> = curves
        .iter()
        .filter(|(_, _, distribution)| distribution.count() > 0)
        .map(|(name, class, distribution)| Line {
            name: name.clone(),
            class,
            points: points(distribution),
        })
        .collect();
    if lines.is_empty() {
        return None;
    }
    let values = lines
        .iter()
        .flat_map(|line| line.points.iter().filter_map(|(_, value)| *value));
    let y = Axis::of(Scale::log(values), milliseconds);
    let description: Vec<String> = curves
        .iter()
        .filter_map(|(name, _, distribution)| {
            let at = |quantile| distribution.quantile_ms(quantile).map(milliseconds);
            Some(format!(
                "{name}: p50 {}, p99 {}, p99.9 {}",
                at(0.5)?,
                at(0.99)?,
                at(0.999)?
            ))
        })
        .collect();
    let shares = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"];
    let ticks = shares
        .iter()
        .enumerate()
        .map(|(power, share)| (10_f64.powi(power as i32), (*share).to_owned()));
    Some(Chart {
        id: id.to_owned(),
        title: title.to_owned(),
        description: description.join("; "),
        x: Axis {
            scale: Scale::Log {
                least: 1.0,
                most: RAREST,
            },
            ticks: ticks.chain([(2.0, "50 %".to_owned())]).collect(),
        },
        y,
        bands: Vec::new(),
        lines,
    })
}

/// Ends where the distribution has no more latencies to tell apart.
fn points(distribution: &Distribution) -> Vec<(f64, Option<f64>)> {
    let decades = RAREST.log10();
    let steps = (decades * POINTS_A_DECADE as f64) as usize;
    (0..=steps)
        .map(|step| 10_f64.powf(step as f64 / POINTS_A_DECADE as f64))
        .take_while(|one_in| *one_in <= distribution.count() as f64)
        .map(|one_in| (one_in, distribution.quantile_ms(1.0 - 1.0 / one_in)))
        .collect()
}

/// As short as an axis needs it.
pub(super) fn milliseconds(ms: f64) -> String {
    let (number, unit) = match ms {
        below if below < 1.0 => (ms * 1_000.0, "us"),
        below if below < 1_000.0 => (ms, "ms"),
        _ => (ms / 1_000.0, "s"),
    };
    match number >= 100.0 || number.fract().abs() < 1e-9 {
        true => format!("{number:.0} {unit}"),
        false => format!("{number:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_rises_and_ends_with_its_messages() {
        let all = Distribution::of((1..=1_000).map(|ms| (ms * 1_000, 1)));
        let points = points(&all);
        assert!(points.last().unwrap().0 <= 1_000.0);
        assert!(points.last().unwrap().0 > 900.0);
        let rising = points.windows(2).all(|pair| pair[0].1 <= pair[1].1);
        assert!(rising, "{points:?}");
        for (one_in, ms) in &points {
            let exact = 1_000.0 * (1.0 - 1.0 / one_in);
            assert!((ms.unwrap() - exact).abs() <= 2.0, "{one_in}: {ms:?}");
        }
    }

    #[test]
    fn nothing_has_no_curve() {
        assert!(chart("a", "b", &[]).is_none());
        assert!(chart("a", "b", &[("x".to_owned(), "c1", &Distribution::new())]).is_none());
    }

    #[test]
    fn axis_texts_are_short() {
        let shown: Vec<String> = [0.01, 0.1, 1.0, 2.5, 10.0, 1_000.0, 61_500.0]
            .map(milliseconds)
            .into();
        assert_eq!(
            shown,
            [
                "10 us", "100 us", "1 ms", "2.5 ms", "10 ms", "1 s", "61.5 s"
            ]
        );
    }
}
