//! What systems promise about TLS, against a server with certificates made on the spot.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::request::Sending;
use super::stub::{Reply, Stub, answer};
use super::tests::{post, system};
use super::*;

struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
struct Held {
    certificate: String,
    der: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self) -> Held {
        self.issue_until(2096)
    }

    /// A certificate that ends with the first day of this year.
    fn issue_until(&self, year: i32) -> Held {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Held {
            certificate: certificate.pem(),
            der: certificate.der().clone(),
            key,
        }
    }
}

/// A server with a certificate of `authority` that wants one of `clients` from whoever asks, if there is such an authority.
async fn server(authority: &Authority, clients: Option<&Authority>) -> Stub {
    server_with(authority.issue(), clients).await
}

async fn server_with(held: Held, clients: Option<&Authority>) -> Stub {
    crate::net::tls::provider();
    let key = PrivateKeyDer::try_from(held.key.serialize_der()).unwrap();
    let builder = match clients {
        None => ServerConfig::builder().with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.0.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
            ServerConfig::builder().with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let config = builder.with_single_cert(vec![held.der], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let wrap = move |stream| {
        let accepting = acceptor.accept(stream);
        async move { accepting.await.ok() }
    };
    Stub::start_with("https", wrap, |_| Reply::Bytes(answer(200, "", ""))).await
}

fn block(name: &str, pem: &str) -> String {
    let lines: String = pem.lines().map(|line| format!("      {line}\n")).collect();
    format!("    {name}: |\n{lines}")
}

/// What becomes of a POST to the server by a client with this TLS.
async fn sent(stub: &Stub, tls: &str) -> String {
    let system = system(&stub.system(tls, ""));
    let terms = Terms {
        safe: false,
        timeout: Duration::from_secs(5),
        high: false,
    };
    match system.attempt(&post(), None, terms).await {
        Ended::Applied(answered) => format!("applied {}", answered.status),
        Ended::NotApplied(failure) => format!("not: {}", failure.class),
        Ended::Unknown(failure) => format!("?: {failure}"),
        Ended::Held(failure) => format!("held: {failure}"),
    }
}

#[tokio::test]
async fn only_a_trusted_server_gets_anything() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let stub = server(&authority, None).await;
    let trust = |authority: &Authority| format!("  tls:\n{}", block("ca", &authority.0.pem()));
    assert_eq!(sent(&stub, &trust(&authority)).await, "applied 200");
    assert_eq!(sent(&stub, &trust(&stranger)).await, "not: unavailable");
    let any = "  tls: { dangerously_accept_any_certificate: true }\n";
    assert_eq!(sent(&stub, any).await, "applied 200");
    assert_eq!(stub.seen().len(), 2);
}

#[tokio::test]
async fn a_look_tells_when_the_certificate_ends_or_that_it_has() {
    let authority = Authority::new();
    let trust = format!("  tls:\n{}", block("ca", &authority.0.pem()));
    for (year, ends_ms) in [(2049, 2_493_072_000_000), (2096, 3_976_214_400_000)] {
        let stub = server_with(authority.issue_until(year), None).await;
        let reached = system(&stub.system(&trust, ""))
            .reach(Duration::from_secs(5))
            .await;
        let reached = reached.unwrap();
        assert_eq!(
            (reached.status, reached.certificate_until_ms),
            (200, Some(ends_ms))
        );
        assert!(
            stub.seen()
                .iter()
                .all(|seen| seen.head.starts_with("HEAD /"))
        );
    }
    let stub = server_with(authority.issue_until(2001), None).await;
    let reached = system(&stub.system(&trust, ""))
        .reach(Duration::from_secs(5))
        .await;
    let failure = reached.unwrap_err().message.to_lowercase();
    assert!(
        failure.contains("certificate") && failure.contains("expired"),
        "{failure}"
    );
    assert_eq!(crate::net::tls::not_after_ms(b"no certificate"), None);
}

#[tokio::test]
async fn a_client_certificate_opens_the_door_and_its_lack_is_no_doubt() {
    let (authority, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let stub = server(&authority, Some(&clients)).await;
    let ca = format!("  tls:\n{}", block("ca", &authority.0.pem()));
    let with = |held: &Held| {
        let certificate = block("client_cert", &held.certificate);
        let key = block("client_key", &held.key.serialize_pem());
        format!("{ca}{certificate}{key}")
    };
    assert_eq!(sent(&stub, &with(&clients.issue())).await, "applied 200");
    for tls in [ca.clone(), with(&strangers.issue())] {
        let told = sent(&stub, &tls).await;
        assert!(
            told.starts_with("held: auth") || told == "not: unavailable",
            "{told}"
        );
    }
    assert_eq!(stub.seen().len(), 1);
    let reads = system(&stub.system(&ca, ""));
    assert!(
        reads
            .fetch(&Sending::get("/x"), Duration::from_secs(5))
            .await
            .is_err()
    );
}
