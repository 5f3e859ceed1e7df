//! TLS of a server whose certificate may be replaced while it runs: the files are looked at from time to time, and a pair that fits is taken.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use super::tls;
use crate::failure::{Class, Failure};
use crate::world::disk;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How large a file may be.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A certificate and its key, from two files in PEM.
pub(crate) struct Certified {
    certificate: PathBuf,
    key: PathBuf,
    now: Arc<Now>,
    seen: (Bytes, Bytes),
}

/// The pair that is used now.
#[derive(Debug)]
struct Now(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Now {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let now = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(now.clone())
    }
}

impl Certified {
    /// Reads both files.
    ///
    /// Fails with class `config` if they cannot be read, are no PEM, or do not fit.
    pub(crate) fn load(certificate: &Path, key: &Path) -> Result<Certified, Failure> {
        let seen = read(certificate, key)?;
        let pair = pair(&seen).map_err(|why| {
            Failure::new(
                Class::Config,
                format!("{} and {}: {why}", certificate.display(), key.display()),
            )
        })?;
        Ok(Certified {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            now: Arc::new(Now(RwLock::new(pair))),
            seen,
        })
    }

    /// What a server needs: TLS 1.2 and 1.3, HTTP/1.1, always with the newest certificate.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        tls::provider();
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(self.now.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Until when it is good, in milliseconds since 1970, if that can be told.
    pub(crate) fn until_ms(&self) -> Option<i64> {
        let now = self.now.0.read().unwrap_or_else(PoisonError::into_inner);
        tls::not_after_ms(now.cert.first()?)
    }

    /// Looks at the files until it is told to stop. A pair that does not fit is logged once, and the last one stays.
    pub(crate) async fn keep(mut self, stop: CancellationToken) {
        let mut gone = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
            let (certificate, key) = (self.certificate.clone(), self.key.clone());
            let read = disk::aside(move || read(&certificate, &key)).await;
            match read {
                Ok(seen) => {
                    gone = false;
                    self.take(seen);
                }
                // Said once: the next start fails with it.
                Err(failure) if !gone => {
                    gone = true;
                    tracing::warn!(%failure, "a certificate cannot be read any more; the last one is used until it can be");
                }
                Err(_) => {}
            }
        }
    }

    /// Takes what the files hold now, if that is something else and fits.
    fn take(&mut self, seen: (Bytes, Bytes)) {
        if seen == self.seen {
            return;
        }
        let shown = self.certificate.display();
        match pair(&seen) {
            Ok(pair) => {
                *self.now.0.write().unwrap_or_else(PoisonError::into_inner) = pair;
                tracing::info!("the certificate {shown} has changed and is used from now on");
            }
            Err(why) => {
                tracing::warn!("the certificate {shown} has changed and is not used: {why}")
            }
        }
        self.seen = seen;
    }
}

fn read(certificate: &Path, key: &Path) -> Result<(Bytes, Bytes), Failure> {
    let read = |path: &Path| {
        disk::read(path, FILE_BYTES_MAX)
            .map_err(|failure| Failure::new(Class::Config, failure.message))
    };
    Ok((read(certificate)?, read(key)?))
}

fn pair((certificate, key): &(Bytes, Bytes)) -> Result<Arc<CertifiedKey>, String> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let chain = tls::certificates(&text(certificate))?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| "the key is no PEM with a private key".to_owned())?;
    let provider = rustls::crypto::ring::default_provider();
    let key = provider.key_provider.load_private_key(key);
    let key = key.map_err(|error| format!("the private key cannot be used: {error}"))?;
    let pair = CertifiedKey::new(chain, key);
    match pair.keys_match() {
        Ok(()) => Ok(Arc::new(pair)),
        Err(error) => Err(format!(
            "the certificate and its private key do not fit: {error}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (Bytes, Bytes) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (
            made.cert.pem().into(),
            made.signing_key.serialize_pem().into(),
        )
    }

    #[test]
    fn a_new_pair_is_taken_and_one_that_does_not_fit_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
        let first = made();
        disk::write_atomic(&certificate, &first.0).unwrap();
        disk::write_atomic(&key, &first.1).unwrap();
        let mut certified = Certified::load(&certificate, &key).unwrap();
        let now = |certified: &Certified| certified.now.0.read().unwrap().cert[0].to_vec();
        let before = now(&certified);
        let second = made();
        certified.take((second.0.clone(), first.1));
        assert_eq!(now(&certified), before);
        certified.take(second.clone());
        assert_ne!(now(&certified), before);
        disk::write_atomic(&certificate, &second.0).unwrap();
        let failure = Certified::load(&certificate, &key).err().unwrap();
        assert!(failure.message.contains("do not fit"), "{failure}");
    }
}
