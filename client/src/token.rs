//! A token of an external issuer in a file, which whoever gets tokens for the user keeps new.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quipu_protocol::credentials::Jwt;
use quipu_protocol::limits::JWT_BYTES_MAX;

/// Longest time between two looks at the file. Nearer the end of the token a tenth of what is left of it.
const LOOK_MAX: Duration = Duration::from_secs(15);
/// Shortest time between two looks.
const LOOK_MIN: Duration = Duration::from_millis(250);
/// A token of which less than this part is left should have been replaced by now, which is said in the log.
const LATE: u32 = 5;

/// A token as it was read, with its times.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) jwt: Jwt,
    read_at: SystemTime,
    /// As the token says, unverified: that is for the gateway. `None`: it does not say.
    expires_at: Option<SystemTime>,
}

impl Token {
    fn new(jwt: Jwt, read_at: SystemTime) -> Self {
        let expires_at = expiry(jwt.expose());
        Self {
            jwt,
            read_at,
            expires_at,
        }
    }

    /// How long it still counts by this machine's clock; `None`: it does not say.
    fn left(&self, now: SystemTime) -> Option<Duration> {
        let expires_at = self.expires_at?;
        Some(expires_at.duration_since(now).unwrap_or_default())
    }

    fn look_again_in(&self, now: SystemTime) -> Duration {
        self.left(now)
            .map_or(LOOK_MAX, |left| (left / 10).clamp(LOOK_MIN, LOOK_MAX))
    }

    /// Whether four fifths of its time have passed since it was read.
    fn is_late(&self, now: SystemTime) -> bool {
        match (self.left(now), self.left(self.read_at)) {
            (Some(left), Some(whole)) => left * LATE < whole,
            (None, _) | (_, None) => false,
        }
    }
}

/// Reads the file. Fails in words for a person, which do not hold the token.
pub(crate) async fn load(path: &Path) -> Result<Token, String> {
    let path = path.to_owned();
    match tokio::task::spawn_blocking(move || read(&path)).await {
        Ok(read) => read,
        Err(_) => Err("reading the token failed".into()),
    }
}

/// Waits until the file holds another token than the one that was shown, one that is not over.
pub(crate) async fn next(path: PathBuf, shown: Token) -> Token {
    let mut said = false;
    loop {
        tokio::time::sleep(shown.look_again_in(SystemTime::now())).await;
        let trouble = match load(&path).await {
            Ok(found) if found.jwt != shown.jwt => return found,
            Ok(_) => "it still holds the one before".to_owned(),
            Err(error) => error,
        };
        if !said && shown.is_late(SystemTime::now()) {
            tracing::warn!(file = %path.display(), %trouble, "the token ends soon and there is no newer one");
            said = true;
        }
    }
}

fn read(path: &Path) -> Result<Token, String> {
    let named = |why: &dyn std::fmt::Display| format!("the token file {}: {why}", path.display());
    // A pipe would be empty at the second look, or keep us waiting.
    if !path.metadata().map_err(|error| named(&error))?.is_file() {
        return Err(named(&"it is not a plain file"));
    }
    let file = std::fs::File::open(path).map_err(|error| named(&error))?;
    let mut text = String::new();
    // Line ends around it, and one byte to notice that it is too long.
    file.take(JWT_BYTES_MAX as u64 + 16)
        .read_to_string(&mut text)
        .map_err(|error| named(&error))?;
    let jwt = Jwt::new(text.trim().to_owned())
        .ok_or_else(|| named(&format!("a token has 1 to {JWT_BYTES_MAX} bytes")))?;
    let token = Token::new(jwt, SystemTime::now());
    if token.left(token.read_at) == Some(Duration::ZERO) {
        return Err(named(&"its token is over; put a newer one there"));
    }
    Ok(token)
}

/// What the token itself says of its end.
fn expiry(jwt: &str) -> Option<SystemTime> {
    let claims = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    let seconds = claims.get("exp")?.as_f64()?;
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(claims: &str) -> Jwt {
        Jwt::new(format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))).expect("short")
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_file_is_looked_at_more_often_towards_the_end() {
        let token = Token::new(jwt(r#"{"exp":1000}"#), at(0));
        assert_eq!(token.look_again_in(at(0)), LOOK_MAX);
        assert_eq!(token.look_again_in(at(950)), Duration::from_secs(5));
        assert_eq!(token.look_again_in(at(2000)), LOOK_MIN);
        assert!(!token.is_late(at(799)));
        assert!(token.is_late(at(801)));
    }

    #[test]
    fn a_token_that_does_not_say_its_end_is_left_to_the_gateway() {
        for odd in ["", "x", "e30.e30.x", "e30.!!.x"] {
            assert_eq!(expiry(odd), None, "{odd}");
        }
        for odd in [r#"{"exp":"soon"}"#, r#"{"exp":-1}"#, r#"{"exp":1e300}"#] {
            assert_eq!(Token::new(jwt(odd), at(0)).expires_at, None, "{odd}");
        }
        let fraction = Token::new(jwt(r#"{"exp":12.5}"#), at(0));
        assert_eq!(fraction.left(at(0)), Some(Duration::from_millis(12_500)));
    }

    #[test]
    fn a_file_is_refused_in_words_without_its_token() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        let refused = |text: &str| {
            std::fs::write(&file, text).expect("writable");
            read(&file).expect_err("it is not good")
        };
        let over = jwt(r#"{"exp":1}"#);
        let words = refused(over.expose());
        assert!(words.contains("is over") && !words.contains(over.expose()));
        assert!(refused("\n").contains("1 to 4096"));
        assert!(refused(&"x".repeat(JWT_BYTES_MAX + 1)).contains("1 to 4096"));
        assert!(read(folder.path()).expect_err("a folder").contains("plain"));
        std::fs::write(&file, format!("{}\n", jwt("{}").expose())).expect("writable");
        assert_eq!(read(&file).expect("is taken").jwt, jwt("{}"));
    }
}
