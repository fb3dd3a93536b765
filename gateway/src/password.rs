//! Hashing and checking passwords with argon2id, on blocking threads, a bounded number at a time.
//!
//! A wrong password and an unknown user cost the same: without an account the check runs against a hash of its own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use tokio::sync::Semaphore;

use crate::config::Accounts;
use crate::telemetry::Metrics;

/// A password on its way to being hashed. Never printed.
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Why a password was not hashed or checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// `accounts.hash_queue` are waiting already. Nothing is wrong with the password.
    #[error("too many log-ins at once")]
    Busy,
    /// A fault of the gateway: parameters or a stored hash that argon2 refuses.
    #[error("password hashing failed: {0}")]
    Failed(String),
}

/// Computes hashes, `accounts.hash_threads` at once, `accounts.hash_queue` waiting.
#[derive(Debug)]
pub struct Passwords {
    params: Params,
    running: Semaphore,
    /// Running and waiting.
    claimed: AtomicUsize,
    claimed_max: usize,
    /// Checked when there is no account, so that its absence cannot be timed.
    decoy: String,
    metrics: Arc<Metrics>,
}

impl Passwords {
    /// Takes the costs from the settings. Computes one hash, so it takes as long as one log-in.
    pub fn new(settings: &Accounts, metrics: Arc<Metrics>) -> Result<Self, PasswordError> {
        let kib = u32::try_from(settings.hash_memory.0 / 1024).unwrap_or(u32::MAX);
        let params = Params::new(kib, settings.hash_passes, 1, None).map_err(failed)?;
        let decoy = hash_now(
            &params,
            &Password(format!("{:032x}", rand::random::<u128>())),
        )?;
        let running = settings.hash_threads as usize;
        Ok(Self {
            params,
            running: Semaphore::new(running),
            claimed: AtomicUsize::new(0),
            claimed_max: running + settings.hash_queue as usize,
            decoy,
            metrics,
        })
    }

    /// The PHC string of a new password, with a salt of its own.
    pub async fn hash(&self, password: Password) -> Result<String, PasswordError> {
        let params = self.params.clone();
        self.run(move || hash_now(&params, &password)).await
    }

    /// Whether the password is the one that `stored` was made from. `None` costs as much and is never right.
    pub async fn verify(
        &self,
        password: Password,
        stored: Option<String>,
    ) -> Result<bool, PasswordError> {
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.decoy.clone());
        let matches = self.run(move || verify_now(&password, &stored)).await?;
        Ok(matches && known)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let _claim = Claim::take(self)?;
        let _permit = self.running.acquire().await.map_err(failed)?;
        self.metrics.passwords_hashed.inc();
        tokio::task::spawn_blocking(work).await.map_err(failed)?
    }
}

/// A place in the queue; given back on drop, also when the client goes away while it waits.
struct Claim<'a>(&'a Passwords);

impl<'a> Claim<'a> {
    fn take(passwords: &'a Passwords) -> Result<Self, PasswordError> {
        let taken = passwords.claimed.fetch_add(1, Ordering::Relaxed);
        let claim = Self(passwords);
        passwords.metrics.password_hashes_waiting.inc();
        if taken >= passwords.claimed_max {
            passwords.metrics.passwords_refused_busy.inc();
            return Err(PasswordError::Busy);
        }
        Ok(claim)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.claimed.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.password_hashes_waiting.dec();
    }
}

fn failed(error: impl fmt::Display) -> PasswordError {
    PasswordError::Failed(error.to_string())
}

fn hash_now(params: &Params, password: &Password) -> Result<String, PasswordError> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
        .hash_password(password.0.as_bytes())
        .map(|hash| hash.to_string())
        .map_err(failed)
}

fn verify_now(password: &Password, stored: &str) -> Result<bool, PasswordError> {
    // The parameters are those of the stored hash, so that changing the settings leaves old accounts alone.
    let stored = PasswordHash::new(stored).map_err(failed)?;
    match Argon2::default().verify_password(password.0.as_bytes(), &stored) {
        Ok(()) => Ok(true),
        Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ByteCount;

    fn cheap(hash_queue: u32) -> Passwords {
        let settings = Accounts {
            hash_memory: ByteCount(64 << 10),
            hash_passes: 1,
            hash_queue,
            ..Accounts::default()
        };
        Passwords::new(&settings, Arc::new(Metrics::new())).expect("parameters argon2 takes")
    }

    fn password(text: &str) -> Password {
        Password(text.to_owned())
    }

    #[tokio::test]
    async fn only_the_right_password_of_an_account_is_right() {
        let passwords = cheap(4);
        let stored = passwords
            .hash(password("correct horse"))
            .await
            .expect("hashed");
        assert!(
            stored.starts_with("$argon2id$v=19$m=64,t=1,p=1$"),
            "{stored}"
        );
        let check = async |text: &str, stored: Option<String>| {
            passwords.verify(password(text), stored).await
        };
        assert_eq!(check("correct horse", Some(stored.clone())).await, Ok(true));
        assert_eq!(
            check("correct horsf", Some(stored.clone())).await,
            Ok(false)
        );
        assert_eq!(check("correct horse", None).await, Ok(false));
        assert!(
            check("correct horse", Some("not a hash".into()))
                .await
                .is_err()
        );
        assert_ne!(
            stored,
            passwords
                .hash(password("correct horse"))
                .await
                .expect("hashed")
        );
    }

    #[tokio::test]
    async fn a_full_queue_is_busy_and_frees_itself() {
        let passwords = cheap(1);
        let running = Claim::take(&passwords).expect("the running one");
        let waiting = Claim::take(&passwords).expect("the waiting one");
        assert_eq!(
            passwords.hash(password("x")).await,
            Err(PasswordError::Busy)
        );
        drop((running, waiting));
        assert!(passwords.hash(password("x")).await.is_ok());
        assert_eq!(passwords.metrics.password_hashes_waiting.get(), 0);
        assert_eq!(passwords.metrics.passwords_refused_busy.get(), 1);
    }

    #[test]
    fn a_password_is_never_printed() {
        assert_eq!(format!("{:?}", password("secret")), "Password(..)");
    }
}
