//! The endpoint's secret: with it a gateway that was killed can tell the peers of its former life that their connections are gone.
//!
//! Without it a client notices a restart only when its own deadlines pass: the new process could not prove that it speaks for
//! the old one. Known as stateless reset (RFC 9000, section 10.3).

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::hmac;
use quinn::EndpointConfig;
use quinn_proto::HashedConnectionIdGenerator;
use sha2::{Digest, Sha256};

use super::write_secret;

/// File in `data/tls`, as 64 hexadecimal digits.
const FILE: &str = "reset.key";

/// The secret; the same in every life of a data folder.
pub(super) struct ResetKey([u8; 32]);

impl std::fmt::Debug for ResetKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResetKey(..)")
    }
}

impl ResetKey {
    /// Reads the secret of a folder, or makes one.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => parse(text.trim()).ok_or_else(|| {
                let what = "it is not 64 hexadecimal digits; remove it to have it made anew";
                io::Error::new(io::ErrorKind::InvalidData, what)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(folder)?;
                let secret: [u8; 32] = rand::random();
                let text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
                write_secret(&path, &text)?;
                Ok(Self(secret))
            }
            Err(error) => Err(error),
        }
    }

    /// An endpoint whose connection ids and reset tokens are known again after a restart.
    pub(super) fn endpoint_config(&self) -> EndpointConfig {
        let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &self.0)));
        // The endpoint answers only connection ids that it could have made itself, so these need a key that lasts as well. It
        // is no secret worth keeping (a non-cryptographic hash), and therefore not a part of the other.
        let digest = Sha256::new()
            .chain_update(b"quipu connection ids")
            .chain_update(self.0)
            .finalize();
        let mut key = [0; 8];
        key.copy_from_slice(&digest[..8]);
        let key = u64::from_be_bytes(key);
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(key)));
        config
    }
}

fn parse(text: &str) -> Option<ResetKey> {
    let mut secret = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in secret.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(ResetKey(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_a_damaged_one_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = ResetKey::open(folder.path()).expect("made");
        let read = ResetKey::open(folder.path()).expect("read");
        assert_eq!(made.0, read.0);
        fs::write(folder.path().join(FILE), "nonsense").expect("write");
        assert!(ResetKey::open(folder.path()).is_err());
    }
}
