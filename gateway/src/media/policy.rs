//! Which files are taken, from whom, and how much in an hour.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quipu_protocol::error::RejectCode;
use quipu_protocol::event::Rejection;
use quipu_protocol::id::UserId;
use quipu_protocol::media::MediaType;

use crate::config;

/// Users whose uploads of the last hour are remembered. At it, those who have most of their hour's bytes back are forgotten.
const USERS_MAX: usize = 65_536;
const HOUR: Duration = Duration::from_secs(3600);

/// What may be uploaded.
#[derive(Debug)]
pub(super) struct Policy {
    max_size: u64,
    patterns: Vec<String>,
    bytes_per_hour: u64,
    spent: Mutex<BTreeMap<UserId, Spent>>,
}

/// What a user has uploaded and not got back yet.
#[derive(Debug, Clone, Copy)]
struct Spent {
    bytes: u64,
    at: Instant,
}

impl Policy {
    /// As configured.
    pub(super) fn new(settings: &config::Media) -> Self {
        let patterns = settings.types.split(',').map(|part| part.trim().to_owned());
        Self {
            max_size: settings.max_size.0,
            patterns: patterns.filter(|part| !part.is_empty()).collect(),
            bytes_per_hour: settings.user_bytes_per_hour.0,
            spent: Mutex::default(),
        }
    }

    /// Whether a file of this size and type is taken.
    pub(super) fn check(&self, size: u64, media_type: &MediaType) -> Result<(), Rejection> {
        if size > self.max_size {
            let reason = format!("a file has at most {} bytes here", self.max_size);
            return Err(Rejection::new(RejectCode::TooLarge, reason));
        }
        if !self
            .patterns
            .iter()
            .any(|pattern| fits(pattern, media_type))
        {
            let reason = format!("files of type {media_type} are not taken here");
            return Err(Rejection::new(RejectCode::Invalid, reason));
        }
        Ok(())
    }

    /// Takes so many bytes from a user's hour, or says when there are enough.
    pub(super) fn charge(&self, user: UserId, bytes: u64, now: Instant) -> Result<(), Rejection> {
        let mut users = self.spent.lock();
        let spent = users.get(&user).map_or(0, |spent| self.left(*spent, now));
        let after = spent.saturating_add(bytes);
        // A file that alone is more than an hour's worth is taken when nothing else is owed.
        if spent > 0 && after > self.bytes_per_hour {
            let wait = self.time_for((after - self.bytes_per_hour).min(spent));
            return Err(Rejection {
                retry_after_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1),
                ..Rejection::new(
                    RejectCode::RateLimited,
                    "you have uploaded as much as is taken in an hour",
                )
            });
        }
        if users.len() >= USERS_MAX && !users.contains_key(&user) {
            let half = self.bytes_per_hour / 2;
            users.retain(|_, spent| self.left(*spent, now) > half);
            // Everybody owes much: one is forgiven rather than all others refused.
            if users.len() >= USERS_MAX {
                users.pop_first();
            }
        }
        users.insert(
            user,
            Spent {
                bytes: after,
                at: now,
            },
        );
        Ok(())
    }

    /// What is still owed after some time.
    fn left(&self, spent: Spent, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(spent.at).as_millis();
        let back = u128::from(self.bytes_per_hour) * passed / HOUR.as_millis();
        let back = u64::try_from(back).unwrap_or(u64::MAX);
        spent.bytes.saturating_sub(back)
    }

    /// How long so many bytes take to come back.
    fn time_for(&self, bytes: u64) -> Duration {
        let rate = u128::from(self.bytes_per_hour.max(1));
        let millis = u128::from(bytes) * HOUR.as_millis() / rate;
        Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }
}

/// `*/*`, `image/*` or `image/png`.
fn fits(pattern: &str, media_type: &MediaType) -> bool {
    match pattern.strip_suffix("/*") {
        Some("*") => true,
        Some(kind) => kind == media_type.kind(),
        None => pattern == media_type.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ByteCount;

    fn policy(types: &str) -> Policy {
        Policy::new(&config::Media {
            types: types.to_owned(),
            max_size: ByteCount(1000),
            user_bytes_per_hour: ByteCount(3600),
            ..config::Media::default()
        })
    }

    #[test]
    fn types_and_sizes_outside_the_settings_are_refused() {
        let kind = |text| MediaType::new(text).expect("a media type");
        let policy = policy("image/*, video/mp4");
        assert_eq!(policy.check(1000, &kind("image/png")), Ok(()));
        assert_eq!(policy.check(1, &kind("video/mp4")), Ok(()));
        for (size, text, code) in [
            (1001, "image/png", RejectCode::TooLarge),
            (1, "video/webm", RejectCode::Invalid),
            (1, "imag/png", RejectCode::Invalid),
            (1, "application/pdf", RejectCode::Invalid),
        ] {
            let refused = policy
                .check(size, &kind(text))
                .map_err(|rejection| rejection.code);
            assert_eq!(refused, Err(code), "{text}");
        }
        assert!(super::tests::policy("*/*").check(1, &kind("a/b")).is_ok());
    }

    #[test]
    fn an_hours_bytes_come_back_as_time_passes() {
        let policy = policy("*/*");
        let (ana, ben) = (
            UserId::new("ana").expect("a name"),
            UserId::new("ben").expect("a name"),
        );
        let start = Instant::now();
        assert_eq!(policy.charge(ana, 3000, start), Ok(()));
        let refused = policy.charge(ana, 1000, start).expect_err("too much");
        assert_eq!(refused.code, RejectCode::RateLimited);
        // 400 bytes too many at one byte a second.
        assert_eq!(refused.retry_after_ms, 400_000);
        assert_eq!(policy.charge(ben, 1000, start), Ok(()));
        let later = start + Duration::from_millis(refused.retry_after_ms);
        assert_eq!(policy.charge(ana, 1000, later), Ok(()));
        assert!(policy.charge(ana, 1000, later).is_err());
        // More than an hour's worth goes through alone, and is paid for afterwards.
        let much_later = later + HOUR;
        assert_eq!(policy.charge(ana, 100_000, much_later), Ok(()));
        assert!(policy.charge(ana, 1, much_later + HOUR).is_err());
    }
}
