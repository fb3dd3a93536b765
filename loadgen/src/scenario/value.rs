//! Values of a scenario as people write them: `30s`, `5%`, `1500/s`, `64..512`; and tables that know which keys they have.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use toml::{Table, Value};

/// A TOML table that is read key by key; [`finish`](Self::finish) refuses the keys that nobody asked for.
pub(super) struct Section {
    name: String,
    table: Table,
    known: Vec<&'static str>,
}

impl Section {
    /// `name` is what errors call it.
    pub(super) fn new(name: impl Into<String>, table: Table) -> Self {
        Self {
            name: name.into(),
            table,
            known: Vec::new(),
        }
    }

    /// Takes a value and reads it; `None`: it is not there.
    fn read<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value) -> anyhow::Result<T>,
    ) -> anyhow::Result<Option<T>> {
        self.known.push(key);
        let Some(value) = self.table.remove(key) else {
            return Ok(None);
        };
        read(&value)
            .map(Some)
            .with_context(|| format!("{key} = {value} in {}", self.name))
    }

    pub(super) fn text(&mut self, key: &'static str) -> anyhow::Result<Option<String>> {
        self.read(key, |value| Ok(text(value)?.to_owned()))
    }

    pub(super) fn count(&mut self, key: &'static str) -> anyhow::Result<Option<u64>> {
        self.read(key, |value| match value {
            Value::Integer(number) => {
                u64::try_from(*number).context("expected a number that is not negative")
            }
            _ => bail!("expected a whole number"),
        })
    }

    pub(super) fn number(&mut self, key: &'static str) -> anyhow::Result<Option<f64>> {
        self.read(key, |value| match value {
            Value::Integer(number) => Ok(*number as f64),
            Value::Float(number) if number.is_finite() => Ok(*number),
            _ => bail!("expected a number"),
        })
    }

    /// `[3, 4, 5]`
    pub(super) fn counts(&mut self, key: &'static str) -> anyhow::Result<Option<Vec<u64>>> {
        self.read(key, |value| {
            let all = value.as_array().context("expected a list of numbers")?;
            all.iter()
                .map(|one| {
                    let number = one.as_integer().context("expected whole numbers")?;
                    u64::try_from(number).context("expected numbers that are not negative")
                })
                .collect()
        })
    }

    pub(super) fn duration(&mut self, key: &'static str) -> anyhow::Result<Option<Duration>> {
        self.read(key, |value| duration(text(value)?))
    }

    pub(super) fn share(&mut self, key: &'static str) -> anyhow::Result<Option<f64>> {
        self.read(key, share)
    }

    pub(super) fn rate(&mut self, key: &'static str) -> anyhow::Result<Option<f64>> {
        self.read(key, rate)
    }

    /// `1s..30s`
    pub(super) fn durations(
        &mut self,
        key: &'static str,
    ) -> anyhow::Result<Option<(Duration, Duration)>> {
        self.read(key, |value| {
            let both = text(value)?.split_once("..");
            let (from, to) = both.context("expected two durations, as in \"1s..30s\"")?;
            let (from, to) = (duration(from)?, duration(to)?);
            ensure!(from <= to, "the first is longer than the second");
            Ok((from, to))
        })
    }

    /// `120` or `"64..512"`
    pub(super) fn sizes(&mut self, key: &'static str) -> anyhow::Result<Option<(usize, usize)>> {
        self.read(key, |value| {
            let one = |text: &str| {
                text.trim()
                    .parse()
                    .context("expected bytes, as in 120 or \"64..512\"")
            };
            match value {
                Value::Integer(number) => {
                    let bytes = usize::try_from(*number).context("expected at least 0")?;
                    Ok((bytes, bytes))
                }
                other => {
                    let text = text(other)?;
                    let (from, to) = text.split_once("..").unwrap_or((text, text));
                    let (from, to) = (one(from)?, one(to)?);
                    ensure!(from <= to, "the first is larger than the second");
                    Ok((from, to))
                }
            }
        })
    }

    /// A table below this one.
    pub(super) fn section(&mut self, key: &'static str) -> anyhow::Result<Option<Self>> {
        let table = self.read(key, |value| {
            value.as_table().cloned().context("expected a table")
        })?;
        Ok(table.map(|table| Self::new(format!("[{key}]"), table)))
    }

    /// Tables of an array below this one.
    pub(super) fn sections(&mut self, key: &'static str) -> anyhow::Result<Vec<Self>> {
        let tables = self.read(key, |value| {
            let array = value.as_array().context("expected [[tables]]")?;
            array
                .iter()
                .map(|value| value.as_table().cloned().context("expected [[tables]]"))
                .collect::<anyhow::Result<Vec<Table>>>()
        })?;
        let numbered = tables.unwrap_or_default().into_iter().zip(1..);
        Ok(numbered
            .map(|(table, number)| Self::new(format!("[[{key}]] number {number}"), table))
            .collect())
    }

    /// What errors call it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Refuses what was not read.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        let Some(key) = self.table.keys().next() else {
            return Ok(());
        };
        let hint = nearest(key, self.known.iter().copied()).map_or_else(
            || format!("it takes {}", self.known.join(", ")),
            |name| format!("did you mean `{name}`?"),
        );
        bail!("unknown key `{key}` in {}; {hint}", self.name)
    }
}

fn text(value: &Value) -> anyhow::Result<&str> {
    value.as_str().context("expected a text in quotes")
}

fn number(text: &str) -> anyhow::Result<f64> {
    let number: f64 = text.trim().replace('_', "").parse()?;
    ensure!(
        number.is_finite() && number >= 0.0,
        "expected a number that is not negative"
    );
    Ok(number)
}

/// `500ms`, `30s`, `2m`, `1h`
pub(super) fn duration(text: &str) -> anyhow::Result<Duration> {
    let text = text.trim();
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0)];
    let (digits, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))
        .context("expected a duration, as in 500ms, 30s, 2m or 1h")?;
    let seconds = number(digits).context("expected a duration, as in 500ms, 30s, 2m or 1h")? * unit;
    Ok(Duration::try_from_secs_f64(seconds)?)
}

/// `"5%"` or `0.05`
fn share(value: &Value) -> anyhow::Result<f64> {
    let share = match value {
        Value::Float(share) => *share,
        Value::Integer(share) => *share as f64,
        other => {
            let digits = text(other)?.trim().strip_suffix('%');
            number(digits.context("expected a share, as in \"5%\" or 0.05")?)? / 100.0
        }
    };
    ensure!(
        (0.0..=1.0).contains(&share),
        "expected a share between 0% and 100%"
    );
    Ok(share)
}

/// `"1500/s"`, `"10k/s"` or `1500`
fn rate(value: &Value) -> anyhow::Result<f64> {
    let rate = match value {
        Value::Float(rate) => *rate,
        Value::Integer(rate) => *rate as f64,
        other => {
            let digits = text(other)?.trim();
            let digits = digits.strip_suffix("/s").unwrap_or(digits);
            match digits.strip_suffix('k') {
                Some(thousands) => number(thousands)? * 1_000.0,
                None => number(digits).context("expected a rate, as in \"1500/s\"")?,
            }
        }
    };
    ensure!(
        rate.is_finite() && (0.0..=10_000_000.0).contains(&rate),
        "expected between 0 and 10 million a second"
    );
    Ok(rate)
}

/// The known name that is the likeliest to have been meant.
pub(super) fn nearest<'a>(
    wrong: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (distance(wrong, name), name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(2))
        .min()
        .map(|(_, name)| name)
}

/// How many letters to add, drop or change.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("1.5m", 90_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for wrong in ["", "s", "30", "-1s", "1d", "1e400s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_and_shares() {
        let rate = |text: &str| rate(&Value::String(text.to_owned())).ok();
        assert_eq!(rate("1500/s"), Some(1_500.0));
        assert_eq!(rate("10k/s"), Some(10_000.0));
        assert_eq!(rate("many"), None);
        let share = |text: &str| share(&Value::String(text.to_owned())).ok();
        assert_eq!(share("5%"), Some(0.05));
        assert_eq!(share("101%"), None);
        assert_eq!(share("5"), None);
    }

    #[test]
    fn the_nearest_name() {
        let names = ["rate", "arrival", "bytes"];
        assert_eq!(nearest("arival", names), Some("arrival"));
        assert_eq!(nearest("raet", names), Some("rate"));
        assert_eq!(nearest("population", names), None);
    }
}
