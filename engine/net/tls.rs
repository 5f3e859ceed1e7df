//! TLS of clients: the one crypto provider, and certificates from PEM text. It reads no files: PEM comes as text.

use std::sync::Once;

use reqwest::{Certificate, Identity};

/// Makes ring the process's crypto provider; only the first call does something.
pub fn provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let installed = rustls::crypto::ring::default_provider().install_default();
        if installed.is_err() {
            tracing::debug!("another crypto provider was installed before");
        }
    });
}

/// The certificates in a PEM text; a text without one is an error.
pub(crate) fn authorities(pem: &str) -> Result<Vec<Certificate>, String> {
    let found = Certificate::from_pem_bundle(pem.as_bytes())
        .map_err(|_| "the text is no PEM with certificates".to_owned())?;
    if found.is_empty() {
        return Err("the text holds no certificate".to_owned());
    }
    Ok(found)
}

/// The client's certificate chain with its private key, both PEM.
pub(crate) fn identity(certificate: &str, key: &str) -> Result<Identity, String> {
    provider();
    let both = format!("{}\n{}\n", key.trim(), certificate.trim());
    Identity::from_pem(both.as_bytes())
        .map_err(|_| "the two texts are no PEM with a certificate and its private key".to_owned())
}

/// Whether the peer has turned down this client's certificate, or asked for one in vain. With TLS 1.3 that arrives after the first
/// bytes have left, yet a peer that does not trust the client has read none of them.
pub(crate) fn refuses_client(alert: rustls::AlertDescription) -> bool {
    use rustls::AlertDescription as Alert;
    matches!(
        alert,
        Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::HandshakeFailure
            | Alert::DecryptError
    )
}
