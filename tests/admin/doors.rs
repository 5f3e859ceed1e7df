//! The listeners: which ports serve what, with TLS and without, slow and greedy peers, and live changes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{Site, answer, timed};
use crate::support::{eventually, text};

#[test]
fn the_api_and_the_webhooks_have_ports_of_their_own() {
    let site = Site::new();
    let _engine = site.start(0);
    let token = site.token("admin", "admin", None);
    assert_eq!(site.get("/healthz/live", "").status, 200);
    assert_eq!(site.get("/api/v1/status", &token).status, 200);
    for path in ["/orders", "/returns"] {
        assert_eq!(
            site.post(path, &token, &json!({ "number": "1" })).status,
            404
        );
    }
    let bearer = format!("Bearer {token}");
    for path in ["/api/v1/status", "/api/v1/openapi.json"] {
        let headers = [("authorization", bearer.as_str())];
        let reply = site.sandbox.send("GET", path, &headers, b"").unwrap();
        assert_eq!(reply.status, 404);
    }
}

#[test]
fn an_address_of_others_needs_tls_and_the_port_of_the_webhooks_is_theirs() {
    let site = Site::new();
    let check = |admin: &str| {
        let webhooks = site.sandbox.address();
        let settings = format!("listen: \"{webhooks}\"\nadmin: {admin}\n");
        site.sandbox.file("crossdock.yaml", &settings);
        let found = site.sandbox.crossdock(&["check"]);
        text(&found.stdout) + &text(&found.stderr)
    };
    let webhooks = site.sandbox.address();
    for open in [
        "{ listen: \"0.0.0.0:8081\" }",
        "{ listen: \"[::]:8081\" }",
        "{ listen: \"admin.example.com:8081\" }",
        &*format!("{{ listen: \"{webhooks}\" }}"),
    ] {
        assert!(check(open).contains("open-admin"), "{open}");
    }
    for closed in [
        "{}",
        "{ listen: \"127.0.0.1:8099\" }",
        "{ listen: \"[::1]:8099\" }",
        "{ listen: \"localhost:8099\" }",
        "{ listen: \"0.0.0.0:8099\", plain_http: true }",
        "{ listen: \"0.0.0.0:8099\", tls: { certificate: a.pem, key: a.key } }",
    ] {
        assert!(!check(closed).contains("open-admin"), "{closed}");
    }
    // A certificate that is not there keeps the engine from starting.
    let found = check("{ listen: \"127.0.0.1:0\", tls: { certificate: a.pem, key: a.key } }");
    for name in ["missing-certificate", "`a.pem`", "`a.key`"] {
        assert!(found.contains(name), "{name}: {found}");
    }
    let refused = site.sandbox.crossdock(&["run"]);
    assert_eq!(refused.status.code(), Some(78), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("a.pem"));
}

#[test]
fn with_a_certificate_only_tls_is_spoken() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let site = Site::with(", tls: { certificate: a.pem, key: a.key }");
    site.sandbox.file("a.pem", &made.cert.pem());
    site.sandbox
        .file("a.key", &made.signing_key.serialize_pem());
    let _engine = site.start(0);
    let token = site.token("viewer", "viewer", None);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".to_owned().try_into().unwrap();
    let mut session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = TcpStream::connect(site.admin).unwrap();
    let mut tls = rustls::Stream::new(&mut session, &mut stream);
    let ask = format!(
        "GET /api/v1/status HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    tls.write_all(ask.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    tls.read_to_end(&mut bytes).ok();
    assert!(text(&bytes).starts_with("HTTP/1.1 200"), "{}", text(&bytes));
    assert_eq!(site.get("/api/v1/status", &token).status, 0);
}

#[test]
fn slow_and_greedy_peers_are_cut_off_while_others_are_served() {
    let site = Site::new();
    let _engine = site.start(0);
    let token = site.token("admin", "admin", None);
    let slow: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(site.admin).unwrap();
            stream
                .write_all(b"GET /api/v1/status HTTP/1.1\r\nx: ")
                .unwrap();
            stream
        })
        .collect();
    let ((), took) = timed(|| assert_eq!(site.get("/api/v1/status", &token).status, 200));
    assert!(took < Duration::from_secs(5), "{took:?}");
    // A head that is too large, with what stands in it.
    let many = "x".repeat(20 << 10);
    let large = site.send("GET", "/api/v1/status", &token, &[("x-large", &many)], b"");
    assert_eq!(large.status, 431);
    // A body that is too large, said before and not said before.
    let body = vec![b' '; (10 << 20) + 1];
    let too_large = site.send("POST", "/api/v1/exceptions:act", &token, &[], &body);
    assert_eq!(too_large.status, 413, "{too_large:?}");
    let mut streams = slow.into_iter();
    let ((), took) = timed(|| {
        let mut stream = streams.next().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let cut = answer(&mut stream);
        assert!(cut.status == 0 || cut.status == 408, "{cut:?}");
    });
    assert!(took < Duration::from_secs(12), "{took:?}");
}

#[test]
fn changes_are_told_to_those_who_listen_and_only_theirs() {
    let site = Site::new();
    let _engine = site.start(0);
    let listen = |token: &str| {
        let mut stream = TcpStream::connect(site.admin).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let ask = format!(
            "GET /api/v1/changes HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(ask.as_bytes()).unwrap();
        BufReader::new(stream)
    };
    let (all, scoped) = (
        site.token("all", "viewer", None),
        site.token("some", "viewer", Some("orders")),
    );
    let (mut everything, mut some) = (listen(&all), listen(&scoped));
    let until = |reader: &mut BufReader<TcpStream>, part: &str| {
        let mut seen = String::new();
        while !seen.contains(part) {
            assert_ne!(
                reader.read_line(&mut seen).unwrap(),
                0,
                "{part} is not in {seen}"
            );
        }
        seen
    };
    until(&mut everything, "listening");
    until(&mut some, "listening");
    // The first look must be over before something changes.
    std::thread::sleep(Duration::from_millis(1_500));
    site.sandbox.post("/returns", br#"{"number":"2"}"#);
    until(&mut everything, "\"flow\":\"returns\"");
    site.sandbox.post("/orders", br#"{"number":"3"}"#);
    let seen = until(&mut some, "event: issue");
    assert!(!seen.contains("returns"), "{seen}");
    eventually("the exceptions are there", || {
        (site
            .sandbox
            .prints(&["exceptions", "--json"])
            .lines()
            .count()
            == 3)
            .then_some(())
    });
}
