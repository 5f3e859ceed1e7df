//! Clients and servers that parts share. They know nothing of flows.

pub mod amqp;
pub(crate) mod certified;
pub(crate) mod http;
pub mod jwt;
pub mod listener;
pub mod local;
pub(crate) mod mail;
pub mod oidc;
pub(crate) mod otlp;
pub(crate) mod sql;
pub mod stalled;
pub mod tls;
pub mod trace;

/// Whether a host, as it stands in a URL, is this machine itself.
pub(crate) fn is_here(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}
