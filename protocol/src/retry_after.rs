//! The time that a close of a connection can name: when to come again (QP-RATE-2).
//!
//! It stands in the reason, because nothing else of a connection that is being closed is sure to arrive: QUIC drops what
//! its streams still hold, and waiting for a frame to arrive would keep open what is to be turned away.

use std::time::Duration;

const NAME: &str = "retry-after-ms=";

/// Longest time that is taken seriously: a number of a peer must not overflow a clock.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The reason that names a time and then says `words` to a person. Rounded up to a whole millisecond.
pub fn reason(retry_after: Duration, words: &str) -> String {
    let milliseconds = retry_after.min(RETRY_AFTER_MAX).as_micros().div_ceil(1000);
    format!("{NAME}{milliseconds}; {words}")
}

/// The time that a reason names, if any, and the words behind it.
pub fn parse(reason: &str) -> (Option<Duration>, &str) {
    let found = reason
        .strip_prefix(NAME)
        .and_then(|rest| rest.split_once("; "))
        .and_then(|(milliseconds, words)| Some((milliseconds.parse().ok()?, words)));
    match found {
        Some((milliseconds, words)) => {
            let time = Duration::from_millis(milliseconds).min(RETRY_AFTER_MAX);
            (Some(time), words)
        }
        None => (None, reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_it_was_written() {
        let written = reason(Duration::from_micros(1_499_001), "too many");
        assert_eq!(written, "retry-after-ms=1500; too many");
        let time = Duration::from_millis(1500);
        assert_eq!(parse(&written), (Some(time), "too many"));
        let longest = reason(Duration::MAX, "");
        assert_eq!(parse(&longest), (Some(RETRY_AFTER_MAX), ""));
    }

    #[test]
    fn other_reasons_are_words() {
        for words in [
            "",
            "too many",
            "retry-after-ms=; x",
            "retry-after-ms=5",
            "retry-after-ms=-5; x",
            "retry-after-ms=99999999999999999999; x",
        ] {
            assert_eq!(parse(words), (None, words));
        }
        let far = format!("retry-after-ms={}; x", u64::MAX);
        assert_eq!(parse(&far), (Some(RETRY_AFTER_MAX), "x"));
    }
}
