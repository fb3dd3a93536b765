//! Whose certificate the suite accepts: a pinned one, or any.

use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use sha2::{Digest as _, Sha256};

/// Which certificate of the gateway is accepted. The proof that it holds the key is always asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Whatever it shows: for a gateway that the caller started itself.
    Any,
    /// The one with this SHA-256 over its DER form, as a gateway prints it.
    Pinned([u8; 32]),
}

impl FromStr for Trust {
    type Err = anyhow::Error;

    /// Reads 64 hexadecimal digits; colons and blanks between them, and a `sha256:` in front, are passed over.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let text = text.trim();
        let digits: Vec<char> = text
            .strip_prefix("sha256:")
            .unwrap_or(text)
            .chars()
            .filter(|c| !matches!(c, ':' | ' '))
            .collect();
        ensure!(
            digits.len() == 64,
            "a fingerprint has 64 hexadecimal digits"
        );
        let mut pin = [0; 32];
        for (byte, pair) in pin.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble = |digit: char| digit.to_digit(16).context("a fingerprint is hexadecimal");
            *byte = (nibble(pair[0])? << 4 | nibble(pair[1])?) as u8;
        }
        Ok(Self::Pinned(pin))
    }
}

/// TLS 1.3 with `trust` and this one ALPN.
pub(crate) fn tls_config(trust: &Trust, alpn: &[u8]) -> anyhow::Result<rustls::ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Verifier {
        trust: trust.clone(),
        provider: provider.clone(),
    };
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    Ok(tls)
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.trust {
            Trust::Any => Ok(ServerCertVerified::assertion()),
            Trust::Pinned(pin) if Sha256::digest(end_entity)[..] == pin[..] => {
                Ok(ServerCertVerified::assertion())
            }
            Trust::Pinned(_) => {
                Err(rustls::CertificateError::ApplicationVerificationFailure.into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("QUIC has no TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_in_any_usual_form() {
        let plain = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        let expected = Trust::Pinned([0xab; 32]);
        for text in [plain.clone(), colons, format!("sha256:{plain}")] {
            assert_eq!(text.parse::<Trust>().unwrap(), expected, "{text}");
        }
        assert!("abcd".parse::<Trust>().is_err());
        assert!("g".repeat(64).parse::<Trust>().is_err());
    }
}
