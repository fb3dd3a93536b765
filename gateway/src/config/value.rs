//! How settings are written as text: durations with a unit, byte counts with a unit, addresses, paths.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

/// A setting's type: read from the text of a flag, an environment variable or a TOML value, and written as TOML.
pub trait SettingValue: Sized {
    /// What the text should look like, for a message that begins "expected".
    const EXPECTED: &'static str;
    /// Reads it; `None` if it is not one.
    fn parse(text: &str) -> Option<Self>;
    /// Writes it as a TOML value.
    fn to_toml(&self) -> String;
}

fn quoted(text: impl fmt::Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

impl SettingValue for SocketAddr {
    const EXPECTED: &'static str = "an address and port such as 127.0.0.1:4433 or [::]:4433";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn to_toml(&self) -> String {
        quoted(self)
    }
}

impl SettingValue for PathBuf {
    const EXPECTED: &'static str = "a path";
    fn parse(text: &str) -> Option<Self> {
        Some(text.into())
    }
    fn to_toml(&self) -> String {
        quoted(self.display())
    }
}

impl SettingValue for String {
    const EXPECTED: &'static str = "a text";
    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
    fn to_toml(&self) -> String {
        quoted(self)
    }
}

impl SettingValue for bool {
    const EXPECTED: &'static str = "true or false";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn to_toml(&self) -> String {
        self.to_string()
    }
}

/// A text that is a secret. Never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SecretText(pub String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "SecretText()"
        } else {
            "SecretText(..)"
        })
    }
}

impl SettingValue for SecretText {
    const EXPECTED: &'static str = "a text";
    fn parse(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }
    fn to_toml(&self) -> String {
        quoted(&self.0)
    }
}

impl SettingValue for u32 {
    const EXPECTED: &'static str = "a whole number";
    fn parse(text: &str) -> Option<Self> {
        text.replace('_', "").parse().ok()
    }
    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl SettingValue for Duration {
    const EXPECTED: &'static str = "a time with its unit such as 500ms, 10s, 5m or 2h";
    fn parse(text: &str) -> Option<Self> {
        let split = text.find(|c: char| !c.is_ascii_digit())?;
        let (digits, unit) = text.split_at(split);
        let count: u64 = digits.parse().ok()?;
        let milliseconds = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        count.checked_mul(milliseconds).map(Self::from_millis)
    }
    fn to_toml(&self) -> String {
        let milliseconds = self.as_millis();
        let scales = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        let (scale, unit) = scales
            .into_iter()
            .find(|(scale, _)| milliseconds > 0 && milliseconds.is_multiple_of(*scale))
            .unwrap_or((1, "ms"));
        quoted(format_args!("{}{unit}", milliseconds / scale))
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteCount(pub u64);

impl ByteCount {
    /// As many as fit the machine's address space.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl SettingValue for ByteCount {
    const EXPECTED: &'static str = "a size with its unit such as 512B, 64KiB, 8MiB or 1GiB";
    fn parse(text: &str) -> Option<Self> {
        let split = text.find(|c: char| !c.is_ascii_digit())?;
        let (digits, unit) = text.split_at(split);
        let count: u64 = digits.parse().ok()?;
        let scale = match unit.trim() {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        count.checked_mul(scale).map(Self)
    }
    fn to_toml(&self) -> String {
        quoted(self)
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scales = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let (scale, unit) = scales
            .into_iter()
            .find(|(scale, _)| self.0 > 0 && self.0.is_multiple_of(*scale))
            .unwrap_or((1, "B"));
        write!(f, "{}{unit}", self.0 / scale)
    }
}

/// Where the admin pages are served, if anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminListen {
    /// Nowhere.
    Off,
    /// On this TCP address.
    At(SocketAddr),
}

impl SettingValue for AdminListen {
    const EXPECTED: &'static str = "an address and port such as 127.0.0.1:4434, or off";
    fn parse(text: &str) -> Option<Self> {
        match text {
            "off" => Some(Self::Off),
            address => address.parse().ok().map(Self::At),
        }
    }
    fn to_toml(&self) -> String {
        match self {
            Self::Off => quoted("off"),
            Self::At(address) => quoted(address),
        }
    }
}

/// How often something may happen: a burst at once, and a rate for as long as it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimit {
    /// As often as anybody likes.
    Off,
    /// A token bucket.
    Allow {
        /// Tokens that come back in `per`.
        count: NonZeroU32,
        /// The time they take.
        per: Unit,
        /// Tokens of a full bucket.
        burst: NonZeroU32,
    },
}

/// The time that a rate is stated for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// `/s`
    Second,
    /// `/m`
    Minute,
    /// `/h`
    Hour,
}

impl Unit {
    /// As a duration.
    pub const fn period(self) -> Duration {
        match self {
            Self::Second => Duration::from_secs(1),
            Self::Minute => Duration::from_secs(60),
            Self::Hour => Duration::from_secs(60 * 60),
        }
    }
}

/// Largest count and burst of a rate: far above what a machine does, and the time of one token is never 0.
const RATE_COUNT_MAX: u32 = 1_000_000;

impl SettingValue for RateLimit {
    const EXPECTED: &'static str =
        "a rate with its burst such as 20/s burst 100, 6/m burst 10 or 1/h burst 5, or off";
    fn parse(text: &str) -> Option<Self> {
        if text == "off" {
            return Some(Self::Off);
        }
        let (rate, burst) = text.split_once(" burst ")?;
        let (count, unit) = rate.split_once('/')?;
        let number = |text: &str| {
            let number: NonZeroU32 = text.parse().ok()?;
            (number.get() <= RATE_COUNT_MAX).then_some(number)
        };
        let per = match unit {
            "s" => Unit::Second,
            "m" => Unit::Minute,
            "h" => Unit::Hour,
            _ => return None,
        };
        Some(Self::Allow {
            count: number(count)?,
            per,
            burst: number(burst)?,
        })
    }
    fn to_toml(&self) -> String {
        match self {
            Self::Off => quoted("off"),
            Self::Allow { count, per, burst } => {
                let unit = match per {
                    Unit::Second => "s",
                    Unit::Minute => "m",
                    Unit::Hour => "h",
                };
                quoted(format_args!("{count}/{unit} burst {burst}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a value writes, it reads back.
    fn round_trip<T: SettingValue + PartialEq + fmt::Debug>(text: &str) {
        let value = T::parse(text).unwrap_or_else(|| panic!("{text} is not read"));
        assert_eq!(value.to_toml(), format!("\"{text}\""));
    }

    #[test]
    fn values_are_written_as_they_are_read() {
        for text in ["500ms", "10s", "5m", "2h", "1500ms", "0ms"] {
            round_trip::<Duration>(text);
        }
        for text in ["512B", "64KiB", "8MiB", "1GiB", "0B", "1025B"] {
            round_trip::<ByteCount>(text);
        }
        round_trip::<AdminListen>("off");
        round_trip::<AdminListen>("127.0.0.1:4434");
        round_trip::<SocketAddr>("[::]:4433");
        for text in ["off", "20/s burst 100", "6/m burst 10", "1/h burst 1"] {
            round_trip::<RateLimit>(text);
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = SecretText::parse("whsec_abc").expect("any text");
        assert_eq!(format!("{secret:?}"), "SecretText(..)");
    }

    #[test]
    fn values_without_a_unit_or_out_of_range_are_refused() {
        for text in [
            "10",
            "",
            "s",
            "10 parsecs",
            "99999999999999999999s",
            "-5s",
            "99999999999999999h",
        ] {
            assert_eq!(Duration::parse(text), None, "{text}");
        }
        for text in ["10", "", "MiB", "8MB", "99999999999999999GiB"] {
            assert_eq!(ByteCount::parse(text), None, "{text}");
        }
        for text in [
            "20/s",
            "20 burst 100",
            "0/s burst 1",
            "1/s burst 0",
            "1/d burst 1",
            "1000001/s burst 1",
            "",
        ] {
            assert_eq!(RateLimit::parse(text), None, "{text}");
        }
    }
}
