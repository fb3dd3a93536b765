//! Signs webhooks as Standard Webhooks 1.0 says, scheme v1: HMAC-SHA256 over id, time and body.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What every secret begins with.
pub const SECRET_PREFIX: &str = "whsec_";
/// Bytes of a secret, as the specification asks.
pub const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Secrets in use at once: the new one, the one it replaces, and a few more.
pub const SECRETS_MAX: usize = 4;

/// Why the configured secrets cannot be used. Says nothing of what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// There is none.
    #[error("there is no secret; make one with: echo whsec_$(openssl rand -base64 32)")]
    None,
    /// There are too many.
    #[error(
        "there are more than {SECRETS_MAX} secrets; remove those that no receiver needs any more"
    )]
    TooMany,
    /// One has the wrong form. Holds which, from 1.
    #[error(
        "secret {0} is not whsec_ and 24 to 64 bytes in base64; make one with: echo whsec_$(openssl rand -base64 32)"
    )]
    Form(usize),
}

/// Signs with every secret, so that a receiver can change from one to the other at its leisure. Never printed.
pub struct Signer(Vec<hmac::Key>);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} secrets)", self.0.len())
    }
}

impl Signer {
    /// Reads secrets, separated by commas; the first one is the newest.
    pub fn new(secrets: &str) -> Result<Self, SecretError> {
        let secrets = secrets.split(',').map(str::trim);
        let mut keys = Vec::new();
        for secret in secrets.filter(|secret| !secret.is_empty()) {
            if keys.len() == SECRETS_MAX {
                return Err(SecretError::TooMany);
            }
            let bytes = secret
                .strip_prefix(SECRET_PREFIX)
                .and_then(|encoded| STANDARD.decode(encoded).ok())
                .filter(|bytes| SECRET_BYTES.contains(&bytes.len()))
                .ok_or(SecretError::Form(keys.len() + 1))?;
            keys.push(hmac::Key::new(hmac::HMAC_SHA256, &bytes));
        }
        match keys.is_empty() {
            true => Err(SecretError::None),
            false => Ok(Self(keys)),
        }
    }

    /// The value of the header `webhook-signature`: one signature for each secret, separated by spaces. `timestamp` is Unix
    /// time in seconds, as in the header `webhook-timestamp`.
    pub fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let head = format!("{id}.{timestamp}.");
        let signatures: Vec<String> = self
            .0
            .iter()
            .map(|key| {
                let mut context = hmac::Context::with_key(key);
                context.update(head.as_bytes());
                context.update(body);
                format!("v1,{}", STANDARD.encode(context.sign()))
            })
            .collect();
        signatures.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification_comes_out() {
        let signer = Signer::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
        let body = br#"{"test": 2432232314}"#;
        let signature = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_secret_gives_a_signature() {
        let one = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let two = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let both = Signer::new(&format!("{one}, {two}")).expect("secrets");
        let each = [one, two].map(|secret| {
            let signer = Signer::new(secret).expect("a secret");
            signer.sign("id", 1, b"body")
        });
        assert_eq!(both.sign("id", 1, b"body"), each.join(" "));
        assert_ne!(each[0], each[1]);
    }

    #[test]
    fn secrets_of_the_wrong_form_are_refused_and_none_is_ever_shown() {
        let good = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        assert_eq!(Signer::new(" , ").err(), Some(SecretError::None));
        for wrong in [
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_short",
            "whsec_MfKQ9r8G!!!",
            "whsec_MfKQ9r8GKYqrTwjU",
        ] {
            let both = format!("{good},{wrong}");
            let error = Signer::new(&both).err();
            assert_eq!(error, Some(SecretError::Form(2)), "{wrong}");
        }
        let many = [good; SECRETS_MAX + 1].join(",");
        assert_eq!(Signer::new(&many).err(), Some(SecretError::TooMany));
        let shown = format!("{:?}", Signer::new(good));
        assert_eq!(shown, "Ok(Signer(1 secrets))");
    }
}
