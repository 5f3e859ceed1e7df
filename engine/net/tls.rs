//! TLS of clients: the one crypto provider, and certificates from PEM text. It reads no files: PEM comes as text.

use std::sync::{Arc, Once};

use reqwest::{Certificate, Identity};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;

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

/// TLS of a client that is no HTTP client. `ca` are the certificates that the server is trusted by, if not the machine's; `identity` is the
/// client's own chain with its private key. All are PEM.
pub(crate) fn client(
    ca: Option<&str>,
    identity: Option<(&str, &str)>,
) -> Result<ClientConfig, String> {
    provider();
    let builder = match ca {
        None => ClientConfig::builder()
            .with_platform_verifier()
            .map_err(|error| error.to_string())?,
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(pem)? {
                roots.add(certificate).map_err(|error| error.to_string())?;
            }
            ClientConfig::builder().with_root_certificates(Arc::new(roots))
        }
    };
    let Some((chain, key)) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| "the text is no PEM with a private key".to_owned())?;
    builder
        .with_client_auth_cert(certificates(chain)?, key)
        .map_err(|error| format!("the certificate and its private key do not fit: {error}"))
}

pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|_| "the text is no PEM with certificates".to_owned())?;
    if found.is_empty() {
        return Err("the text holds no certificate".to_owned());
    }
    Ok(found)
}

/// When a certificate ends, in milliseconds since 1970; `None` if it is none.
pub(crate) fn not_after_ms(der: &[u8]) -> Option<i64> {
    let (_, certificate, _) = element(der)?;
    let (_, body, _) = element(certificate)?;
    // The version may be missing; then come the number, the algorithm, the issuer and the two times.
    let (tag, _, after) = element(body)?;
    let mut rest = if tag == 0xA0 { after } else { body };
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (_, validity, _) = element(rest)?;
    let (_, _, rest) = element(validity)?;
    let (tag, end, _) = element(rest)?;
    let text = std::str::from_utf8(end).ok()?;
    let text = match (tag, text.get(..2)?.parse::<u8>().ok()?) {
        (0x17, year) => format!("{}{text}", if year < 50 { "20" } else { "19" }),
        _ => text.to_owned(),
    };
    let end = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", &text).ok()?;
    let end = end.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(end.timestamp().as_millisecond())
}

/// The first element of a DER text: its tag, its content, and what comes behind it.
pub(super) fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            let length = bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
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
