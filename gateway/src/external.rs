//! Tokens of an external issuer: which are believed, and until when.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use parking_lot::Mutex;
use quipu_protocol::credentials::Jwt;
use quipu_protocol::id::UserId;
use serde::Deserialize;

use crate::config;

/// Keys of an issuer: those in use, and those that come or go.
const KEYS_MAX: usize = 64;
/// Largest file of a key, in bytes.
const KEY_BYTES_MAX: u64 = 16 << 10;
/// How old the keys in memory may be before a token makes them be read again: a key that was taken out of the folder is
/// trusted that much longer.
const KEYS_AGE_MAX: Duration = Duration::from_secs(10);
/// Longest life of a token that is believed: a number of the issuer must not overflow a clock.
const LIFE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Why the issuer cannot be trusted as configured. The operator must act.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The folder or a key cannot be read.
    #[error("external.keys: cannot read {}: {why}", path.display())]
    Unreadable {
        /// Which file or folder.
        path: PathBuf,
        /// What the system says.
        why: std::io::Error,
    },
    /// A file that is no public key.
    #[error(
        "external.keys: {} is no public key; write an Ed25519 or P-256 key as PEM, BEGIN PUBLIC KEY", .0.display()
    )]
    NoKey(PathBuf),
    /// Too many or too few files.
    #[error("external.keys: {} has {found} files KID.pem; 1 to {KEYS_MAX} are expected", folder.display())]
    Count {
        /// The folder.
        folder: PathBuf,
        /// How many it has.
        found: usize,
    },
}

/// Why a token is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disbelief {
    /// It is over; a newer one of the same issuer would do.
    Expired,
    /// Anything else; for a person.
    Refused(&'static str),
}

/// Whose token it is, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Believed {
    /// The user.
    pub user: UserId,
    /// When it is over, the leeway included.
    pub until: Instant,
}

/// What a gateway knows of the issuer that it trusts.
#[derive(Debug)]
pub struct Issuer {
    folder: PathBuf,
    issuer: String,
    audience: String,
    leeway: Duration,
    keys: Mutex<Keys>,
}

#[derive(Debug)]
struct Keys {
    by_id: Arc<BTreeMap<String, Key>>,
    read_at: Instant,
}

/// A public key and the one algorithm that it is for: what a token says of itself is never believed.
#[derive(Debug)]
struct Key {
    algorithm: Algorithm,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    // Numbers of seconds, which may have fractions (RFC 7519, section 2).
    exp: f64,
    nbf: Option<f64>,
    iat: Option<f64>,
}

impl Issuer {
    /// Reads the keys; `None` when no issuer is configured.
    pub fn open(settings: &config::External) -> Result<Option<Arc<Self>>, IssuerError> {
        if settings.keys.as_os_str().is_empty() {
            return Ok(None);
        }
        let by_id = Arc::new(read_keys(&settings.keys)?);
        Ok(Some(Arc::new(Self {
            folder: settings.keys.clone(),
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            leeway: settings.leeway,
            keys: Mutex::new(Keys {
                by_id,
                read_at: Instant::now(),
            }),
        })))
    }

    /// Judges a token at a time, given as the machine's two clocks. Reads a few small files now and then.
    pub fn judge(&self, jwt: &Jwt, clock: SystemTime, now: Instant) -> Result<Believed, Disbelief> {
        let claims = self.claims(jwt, now)?;
        let seconds = |time: f64| {
            let valid = time.is_finite() && time >= 0.0;
            valid.then(|| Duration::try_from_secs_f64(time).unwrap_or(Duration::MAX))
        };
        let malformed = Disbelief::Refused("the token's times are not numbers of seconds");
        let clock = clock.duration_since(UNIX_EPOCH).unwrap_or_default();
        for begins in [claims.nbf, claims.iat].into_iter().flatten() {
            if seconds(begins).ok_or(malformed)? > clock + self.leeway {
                return Err(Disbelief::Refused("the token is not valid yet"));
            }
        }
        let ends = seconds(claims.exp).ok_or(malformed)?;
        let left = ends.saturating_add(self.leeway).saturating_sub(clock);
        if left.is_zero() {
            return Err(Disbelief::Expired);
        }
        let user = UserId::new(&claims.sub)
            .map_err(|_| Disbelief::Refused("the token's sub is no user name (QP-ID-1)"))?;
        Ok(Believed {
            user,
            until: now + left.min(LIFE_MAX),
        })
    }

    /// What a token says, if a key of the issuer has signed it for this gateway.
    fn claims(&self, jwt: &Jwt, now: Instant) -> Result<Claims, Disbelief> {
        let malformed = Disbelief::Refused("this is no signed token");
        let header = jsonwebtoken::decode_header(jwt.expose()).map_err(|_| malformed)?;
        let kid = header
            .kid
            .ok_or(Disbelief::Refused("the token names no key (kid)"))?;
        let keys = self.keys(now);
        let key = keys.get(&kid).ok_or(Disbelief::Refused(
            "the token is signed with an unknown key",
        ))?;
        let mut validation = Validation::new(key.algorithm);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Times are judged by the caller, whose clock is an argument.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let token = jsonwebtoken::decode::<Claims>(jwt.expose(), &key.key, &validation);
        token.map(|token| token.claims).map_err(|error| {
            use jsonwebtoken::errors::ErrorKind;
            Disbelief::Refused(match error.kind() {
                ErrorKind::InvalidSignature => "the token's signature is wrong",
                ErrorKind::InvalidAlgorithm => "the token's algorithm is not that of its key",
                ErrorKind::InvalidIssuer => "the token is of another issuer",
                ErrorKind::InvalidAudience => "the token is for another audience",
                ErrorKind::MissingRequiredClaim(_) => "the token lacks exp, iss, aud or sub",
                _ => "this is no signed token",
            })
        })
    }

    /// The keys, read again when they are old. A folder that cannot be read leaves them as they were.
    fn keys(&self, now: Instant) -> Arc<BTreeMap<String, Key>> {
        let mut keys = self.keys.lock();
        if now.saturating_duration_since(keys.read_at) >= KEYS_AGE_MAX {
            keys.read_at = now;
            match read_keys(&self.folder) {
                Ok(by_id) => keys.by_id = Arc::new(by_id),
                Err(error) => tracing::error!(%error, "the issuer's keys stay as they were"),
            }
        }
        Arc::clone(&keys.by_id)
    }
}

/// Every `KID.pem` of a folder.
fn read_keys(folder: &Path) -> Result<BTreeMap<String, Key>, IssuerError> {
    let unreadable = |path: &Path, why| IssuerError::Unreadable {
        path: path.into(),
        why,
    };
    let mut keys = BTreeMap::new();
    let entries = std::fs::read_dir(folder).map_err(|why| unreadable(folder, why))?;
    for entry in entries {
        let path = entry.map_err(|why| unreadable(folder, why))?.path();
        let kid = path.file_stem().and_then(|stem| stem.to_str());
        let (Some(kid), Some("pem")) = (kid, path.extension().and_then(|e| e.to_str())) else {
            continue;
        };
        let size = std::fs::metadata(&path).map_err(|why| unreadable(&path, why))?;
        if size.len() > KEY_BYTES_MAX {
            return Err(IssuerError::NoKey(path));
        }
        let pem = std::fs::read(&path).map_err(|why| unreadable(&path, why))?;
        let key = public_key(&pem).ok_or_else(|| IssuerError::NoKey(path.clone()))?;
        keys.insert(kid.to_owned(), key);
    }
    if (1..=KEYS_MAX).contains(&keys.len()) {
        Ok(keys)
    } else {
        Err(IssuerError::Count {
            folder: folder.into(),
            found: keys.len(),
        })
    }
}

fn public_key(pem: &[u8]) -> Option<Key> {
    let edwards = DecodingKey::from_ed_pem(pem).map(|key| Key {
        algorithm: Algorithm::EdDSA,
        key,
    });
    let p256 = || {
        let key = DecodingKey::from_ec_pem(pem).ok()?;
        Some(Key {
            algorithm: Algorithm::ES256,
            key,
        })
    };
    edwards.ok().or_else(p256)
}
