//! Certificate pinning: trust on first use, refuse when it changes.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

use crate::config::CertificatePolicy;
use crate::error::Error;

/// File of the data folder with one `HOST:PORT FINGERPRINT` a line.
const PINS_FILE: &str = "known_gateways";
/// Addresses that are remembered. At the limit a new one is refused until the file is shortened.
const PINS_MAX: usize = 1024;

/// SHA-256 of a certificate in DER, written as 64 hexadecimal digits; colons between them are accepted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of this certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate.as_ref()).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Invalid("a fingerprint is written in 64 hexadecimal digits".into());
        let digits: Vec<u32> = text
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16).ok_or_else(wrong))
            .collect::<Result<_, _>>()?;
        let mut bytes = [0; 32];
        if digits.len() != 64 {
            return Err(wrong());
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (pair[0] << 4 | pair[1]) as u8;
        }
        Ok(Self(bytes))
    }
}

/// A gateway shows another certificate than the one that is known for its address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{authority} shows another certificate than before: known {known}, shown {shown}. If it was replaced on purpose, connect \
     once with --accept-new-certificate (CertificatePolicy::AcceptNew){}; if not, somebody may be listening in between",
    file.as_ref().map(|file| format!(" or remove its line from {}", file.display())).unwrap_or_default()
)]
pub struct CertificateChanged {
    /// `HOST:PORT`.
    pub authority: String,
    /// The fingerprint that was pinned or configured.
    pub known: Fingerprint,
    /// The fingerprint that was shown now.
    pub shown: Fingerprint,
    /// Where it is pinned; `None` when it was configured or is kept in memory.
    pub file: Option<PathBuf>,
}

/// The certificates that this client has accepted, by address.
#[derive(Debug)]
pub(crate) struct Pins {
    policy: CertificatePolicy,
    file: Option<PathBuf>,
    known: Mutex<BTreeMap<String, Fingerprint>>,
    /// Addresses whose pin was already renewed under `AcceptNew`: the second change in one run is refused again.
    renewed: Mutex<Vec<String>>,
}

impl Pins {
    /// Reads the file of the folder, if there is one.
    pub(crate) fn open(policy: CertificatePolicy, folder: Option<&Path>) -> Result<Self, Error> {
        let file = folder.map(|folder| folder.join(PINS_FILE));
        let known = match &file {
            Some(file) => read_pins(file)?,
            None => BTreeMap::new(),
        };
        Ok(Self {
            policy,
            file,
            known: Mutex::new(known),
            renewed: Mutex::default(),
        })
    }

    /// What must be shown at this address; `None`: anything, to be remembered.
    fn expected(&self, authority: &str) -> Option<Fingerprint> {
        match self.policy {
            CertificatePolicy::Fingerprint(fingerprint) => Some(fingerprint),
            CertificatePolicy::AcceptNew
                if !lock(&self.renewed).iter().any(|known| known == authority) =>
            {
                None
            }
            CertificatePolicy::PinOnFirstUse | CertificatePolicy::AcceptNew => {
                lock(&self.known).get(authority).copied()
            }
        }
    }

    /// Remembers what was shown, once the handshake has proved that the gateway holds its key.
    pub(crate) fn remember(&self, authority: &str, shown: Fingerprint) -> Result<(), Error> {
        match self.policy {
            CertificatePolicy::Fingerprint(_) => return Ok(()),
            CertificatePolicy::PinOnFirstUse => {}
            CertificatePolicy::AcceptNew => {
                let mut renewed = lock(&self.renewed);
                if !renewed.iter().any(|known| known == authority) {
                    renewed.push(authority.to_owned());
                }
            }
        }
        let mut known = lock(&self.known);
        if known.get(authority) == Some(&shown) {
            return Ok(());
        }
        if known.len() >= PINS_MAX && !known.contains_key(authority) {
            return Err(Error::Storage(format!(
                "{PINS_FILE} has {PINS_MAX} lines: remove those no longer needed"
            )));
        }
        known.insert(authority.to_owned(), shown);
        match &self.file {
            Some(file) => write_pins(file, &known),
            None => Ok(()),
        }
    }

    /// Checks one address's certificate in a handshake.
    pub(crate) fn verifier(
        self: &Arc<Self>,
        authority: &str,
        provider: &Arc<CryptoProvider>,
    ) -> Arc<PinVerifier> {
        Arc::new(PinVerifier {
            authority: authority.to_owned(),
            pins: Arc::clone(self),
            provider: Arc::clone(provider),
            verdict: Mutex::new(Verdict::NotShown),
        })
    }
}

/// What the last handshake of a verifier showed.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// No certificate (a resumed TLS session shows none).
    NotShown,
    /// One that is accepted.
    Accepted(Fingerprint),
    /// Another one than known.
    Changed(CertificateChanged),
}

/// Compares fingerprints in place of a certificate chain, and verifies the handshake's signature like any other verifier:
/// the certificate is public, only the signature proves who has its key.
#[derive(Debug)]
pub(crate) struct PinVerifier {
    authority: String,
    pins: Arc<Pins>,
    provider: Arc<CryptoProvider>,
    verdict: Mutex<Verdict>,
}

impl PinVerifier {
    /// Takes what the last handshake showed.
    pub(crate) fn take_verdict(&self) -> Verdict {
        std::mem::replace(&mut *lock(&self.verdict), Verdict::NotShown)
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Fingerprint::of(end_entity);
        let verdict = match self.pins.expected(&self.authority) {
            Some(known) if known != shown => Verdict::Changed(CertificateChanged {
                authority: self.authority.clone(),
                known,
                shown,
                file: match self.pins.policy {
                    CertificatePolicy::Fingerprint(_) => None,
                    CertificatePolicy::PinOnFirstUse | CertificatePolicy::AcceptNew => {
                        self.pins.file.clone()
                    }
                },
            }),
            Some(_) | None => Verdict::Accepted(shown),
        };
        let accepted = matches!(verdict, Verdict::Accepted(_));
        *lock(&self.verdict) = verdict;
        if accepted {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(
                rustls::CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn read_pins(file: &Path) -> Result<BTreeMap<String, Fingerprint>, Error> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(Error::Storage(format!("{}: {error}", file.display()))),
    };
    let lines = text.lines().map(str::trim).enumerate();
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(at, line)| {
            // A line that cannot be read must not turn into "unknown address", which would trust whatever comes next.
            let broken = || {
                Error::Storage(format!(
                    "{}: line {} is not HOST:PORT FINGERPRINT",
                    file.display(),
                    at + 1
                ))
            };
            let (authority, fingerprint) =
                line.split_once(char::is_whitespace).ok_or_else(broken)?;
            Ok((
                authority.to_owned(),
                fingerprint.trim().parse().map_err(|_| broken())?,
            ))
        })
        .collect()
}

/// Writes beside the file and renames, so that a kill in between leaves the old pins.
fn write_pins(file: &Path, pins: &BTreeMap<String, Fingerprint>) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::Storage(format!("{}: {error}", file.display()));
    let fresh = file.with_extension("new");
    let mut out = crate::cache::private_file(&fresh).map_err(failed)?;
    for (authority, fingerprint) in pins {
        writeln!(out, "{authority} {fingerprint}").map_err(failed)?;
    }
    out.sync_all().map_err(failed)?;
    fs::rename(&fresh, file).map_err(failed)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The values behind these locks are replaced whole, so a panic elsewhere leaves them usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
