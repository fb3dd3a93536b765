//! The gateway's certificate: given as PEM files, or a self-signed pair made on first start; and the TLS settings.

mod reset_key;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use quinn::EndpointConfig;
use quinn::crypto::rustls::QuicServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use self::reset_key::ResetKey;
use crate::config::Tls;

/// The only application protocol that is spoken.
pub const ALPN: &[u8] = b"quipu/1";

/// File names of the self-signed pair in `DATA/tls`.
const CERTIFICATE_FILE: &str = "certificate.pem";
const KEY_FILE: &str = "key.pem";

/// Why there is no certificate to show. The operator must act.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {what} {}: {why}", path.display())]
    Unreadable {
        /// The certificate or the key.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// A file holds something else.
    #[error("{} holds no {what} in PEM form: {why}", path.display())]
    NotPem {
        /// The certificate or the key.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What the parser says.
        why: String,
    },
    /// The two do not belong together, or their kind is not supported.
    #[error("the certificate {} and the key {} do not work together: {why}", certificate.display(), key.display())]
    Mismatch {
        /// The certificate's path.
        certificate: PathBuf,
        /// The key's path.
        key: PathBuf,
        /// What rustls says.
        why: String,
    },
    /// The endpoint's secret can be neither read nor made.
    #[error("cannot use reset.key in {}: {why}", path.display())]
    ResetKey {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// The self-signed pair cannot be made.
    #[error("cannot make a certificate in {}: {why}", path.display())]
    Make {
        /// The folder.
        path: PathBuf,
        /// What the system or rcgen says.
        why: String,
    },
}

/// SHA-256 of the leaf certificate: what a client pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            write!(text, "{byte:02x}")?;
        }
        f.write_str(&text)
    }
}

/// The certificate in use, and where to read it again.
#[derive(Debug)]
pub struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
    reset_key: ResetKey,
}

impl Identity {
    /// Reads the configured pair, or the self-signed one in `data/tls`, which is made if it is not there.
    pub fn open(settings: &Tls, data: &Path) -> Result<Arc<Self>, TlsError> {
        let (certificate, key) = if settings.certificate.as_os_str().is_empty() {
            let folder = data.join("tls");
            let pair = (folder.join(CERTIFICATE_FILE), folder.join(KEY_FILE));
            if !pair.0.exists() && !pair.1.exists() {
                make_self_signed(&folder, &settings.names)?;
            }
            pair
        } else {
            (settings.certificate.clone(), settings.key.clone())
        };
        let current = RwLock::new(Arc::new(read_pair(&certificate, &key)?));
        let reset_key = ResetKey::open(&data.join("tls")).map_err(|error| TlsError::ResetKey {
            path: data.join("tls"),
            why: error.to_string(),
        })?;
        Ok(Arc::new(Self {
            certificate,
            key,
            current,
            reset_key,
        }))
    }

    /// Reads the files again; connections that stand keep what they have. On an error the old pair stays in use.
    pub fn reload(&self) -> Result<Fingerprint, TlsError> {
        *self.current.write() = Arc::new(read_pair(&self.certificate, &self.key)?);
        Ok(self.fingerprint())
    }

    /// What clients pin.
    pub fn fingerprint(&self) -> Fingerprint {
        let current = self.current.read();
        // `read_pair` refuses an empty chain.
        current
            .cert
            .first()
            .map_or(Fingerprint([0; 32]), Fingerprint::of)
    }

    /// The settings of an endpoint that can disown the connections of its former life.
    pub fn endpoint_config(&self) -> EndpointConfig {
        self.reset_key.endpoint_config()
    }

    /// TLS 1.3 only, ALPN `quipu/1`, this certificate.
    pub fn quic_config(self: &Arc<Self>) -> Result<QuicServerConfig, rustls::Error> {
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver(Arc::clone(self))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Each ticket costs several per cent of a handshake, and a client needs one.
        config.send_tls13_tickets = 1;
        QuicServerConfig::try_from(config)
            .map_err(|error| rustls::Error::General(error.to_string()))
    }
}

/// The workspace's one crypto provider.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[derive(Debug)]
struct Resolver(Arc<Identity>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.current.read()))
    }
}

fn read_pair(certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let not_pem = |what, path: &Path, why: String| TlsError::NotPem {
        what,
        path: path.into(),
        why,
    };
    let read = |what, path: &Path| {
        fs::read(path).map_err(|error| TlsError::Unreadable {
            what,
            path: path.into(),
            why: error.to_string(),
        })
    };
    let chain = CertificateDer::pem_slice_iter(&read("certificate", certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| not_pem("certificate", certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(not_pem(
            "certificate",
            certificate,
            "no certificate found".to_owned(),
        ));
    }
    let secret = PrivateKeyDer::from_pem_slice(&read("key", key)?)
        .map_err(|error| not_pem("private key", key, error.to_string()))?;
    CertifiedKey::from_der(chain, secret, &provider()).map_err(|error| TlsError::Mismatch {
        certificate: certificate.into(),
        key: key.into(),
        why: error.to_string(),
    })
}

fn make_self_signed(folder: &Path, names: &str) -> Result<(), TlsError> {
    let failed = |why: String| TlsError::Make {
        path: folder.into(),
        why,
    };
    fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
    let names: Vec<String> = names
        .split(',')
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    // ECDSA P-256 is rcgen's default.
    let pair =
        rcgen::generate_simple_self_signed(names).map_err(|error| failed(error.to_string()))?;
    write_secret(&folder.join(KEY_FILE), &pair.signing_key.serialize_pem())
        .map_err(|error| failed(error.to_string()))?;
    // The certificate comes last: with the key alone, the next start says that the certificate is missing.
    fs::write(folder.join(CERTIFICATE_FILE), pair.cert.pem())
        .map_err(|error| failed(error.to_string()))
}

/// Writes a file that only its owner can read, from the first moment on.
fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn self_signed() -> Tls {
        Tls::default()
    }

    #[test]
    fn the_pair_is_made_once_and_its_key_is_private() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let first = Identity::open(&self_signed(), data.path()).expect("made");
        let second = Identity::open(&self_signed(), data.path()).expect("read again");
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert_eq!(first.fingerprint().to_string().len(), 64);
        assert!(first.quic_config().is_ok());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(data.path().join("tls").join(KEY_FILE))
                .expect("there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_changed_pair_is_read_again_and_a_bad_one_is_not_taken() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let identity = Identity::open(&self_signed(), data.path()).expect("made");
        let before = identity.fingerprint();
        let folder = data.path().join("tls");
        fs::write(folder.join(CERTIFICATE_FILE), "nonsense").expect("writable");
        assert!(identity.reload().is_err());
        assert_eq!(identity.fingerprint(), before);
        fs::remove_dir_all(&folder).expect("removable");
        make_self_signed(&folder, "localhost").expect("made anew");
        assert_ne!(identity.reload().expect("read"), before);
    }

    #[test]
    fn bad_files_are_named() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let other = tempfile::tempdir().expect("a temporary folder");
        make_self_signed(data.path(), "localhost").expect("made");
        make_self_signed(other.path(), "localhost").expect("made");
        let open = |certificate: PathBuf, key: PathBuf| {
            let settings = Tls {
                certificate,
                key,
                ..self_signed()
            };
            Identity::open(&settings, data.path())
                .expect_err("bad")
                .to_string()
        };
        let (certificate, key) = (
            data.path().join(CERTIFICATE_FILE),
            data.path().join(KEY_FILE),
        );
        let missing = open(data.path().join("absent.pem"), key.clone());
        assert!(
            missing.starts_with("cannot read certificate") && missing.contains("absent.pem"),
            "{missing}"
        );
        let swapped = open(key.clone(), key);
        assert!(
            swapped.contains("holds no certificate in PEM form"),
            "{swapped}"
        );
        let no_key = open(certificate.clone(), certificate.clone());
        assert!(
            no_key.contains("holds no private key in PEM form"),
            "{no_key}"
        );
        let foreign = open(certificate, other.path().join(KEY_FILE));
        assert!(foreign.contains("do not work together"), "{foreign}");
    }
}
