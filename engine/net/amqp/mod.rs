//! AMQP 0-9-1 brokers (RabbitMQ): connections that are kept up, publishing with confirms, consuming with acknowledgements. It knows no flows
//! and declares nothing by itself.
//!
//! How it is used:
//! - `Broker::new` takes URLs and certificates, and connects to nothing. `Line::open` keeps one connection of it up for a purpose; publishing
//!   and consuming want a line each, because a broker that runs out of memory or disk stops reading from connections that publish.
//! - `Publisher::start(line, ..)` publishes; `publish(letter)` gives an `Outcome` once the broker has confirmed, or at once if there is no
//!   connection. Nothing is kept for later: who publishes decides whether to do it again.
//! - `Line::link` gives the connection of the moment. `Consumer::open(&link, queue, ..)` takes from a queue until the connection is lost
//!   (`next` fails); then the next link is asked for. `Consumer::receipts` acknowledges, in batches. A delivery that was not acknowledged when
//!   the connection is lost comes again.
//!
//! What was measured and holds here (lapin 4.12.3): its automatic recovery is never used; a channel belongs to one publisher alone, else
//! confirms are swapped; delivery tags mean something only on the channel that they came from; every wait has a limit.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lapin::ErrorKind;
use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};
use rustls::ClientConfig;

use crate::failure::{Class, Failure};
use crate::net::tls;

pub mod consumer;
pub mod line;
pub mod link;
pub mod publisher;
pub mod receipts;

#[cfg(test)]
pub(crate) mod tests;

/// How long a declaration, an opened channel or another question to the broker may take.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How often each side says that it is there, where the URL does not say (`?heartbeat=`); a silence of twice as long ends the connection.
const HEARTBEAT_SECONDS: u16 = 5;
/// The largest number of brokers' addresses.
const URLS_MAX: usize = 16;

/// Where a broker is: the same broker, or nodes of one cluster.
#[derive(Clone)]
pub struct Broker {
    places: Vec<Place>,
    tls: Arc<ClientConfig>,
}

/// One address of a broker.
#[derive(Clone)]
pub struct Place {
    uri: AMQPUri,
    /// Host, port and virtual host: what may be shown.
    shown: String,
}

/// A client's certificate chain and its private key, both PEM.
pub struct Identity<'a> {
    /// The chain.
    pub certificate: &'a str,
    /// The key.
    pub key: &'a str,
}

impl Broker {
    /// A broker at these URLs (`amqp://USER:PASSWORD@HOST:PORT/VHOST`, or `amqps://`). `ca` are the certificates, in PEM, that it is trusted
    /// by, if not the machine's. The error says what is wrong with them, without credentials.
    pub fn new(
        urls: &[String],
        ca: Option<&str>,
        identity: Option<Identity<'_>>,
    ) -> Result<Broker, String> {
        if urls.is_empty() || urls.len() > URLS_MAX {
            return Err(format!("there must be 1 to {URLS_MAX} URLs of brokers"));
        }
        let both = identity.map(|identity| (identity.certificate, identity.key));
        Ok(Broker {
            places: urls
                .iter()
                .map(|url| place(url))
                .collect::<Result<_, _>>()?,
            tls: Arc::new(tls::client(ca, both)?),
        })
    }

    /// Its addresses, without credentials.
    pub fn shown(&self) -> String {
        let shown: Vec<_> = self.places.iter().map(|place| &*place.shown).collect();
        shown.join(", ")
    }

    /// How many addresses it has.
    pub(crate) fn addresses(&self) -> usize {
        self.places.len()
    }
}

/// What a URL says.
fn place(url: &str) -> Result<Place, String> {
    let parsed = reqwest::Url::parse(url.trim())
        .map_err(|error| format!("a broker's URL is none: {error}"))?;
    if !matches!(parsed.scheme(), "amqp" | "amqps") {
        return Err("a broker's URL begins with `amqp://` or `amqps://`".to_owned());
    }
    let Some(host) = parsed.host_str().filter(|host| !host.is_empty()) else {
        return Err("a broker's URL names no host".to_owned());
    };
    let mut uri: AMQPUri = url
        .trim()
        .parse()
        .map_err(|error: String| format!("a broker's URL is none: {error}"))?;
    uri.authority.host = host.trim_matches(['[', ']']).to_owned();
    // Who writes no virtual host, or a lone slash, means the one that is called `/`.
    if uri.vhost.is_empty() {
        uri.vhost = "/".to_owned();
    }
    uri.query.heartbeat = uri.query.heartbeat.or(Some(HEARTBEAT_SECONDS));
    let shown = format!(
        "{}://{host}:{}/{}",
        parsed.scheme(),
        uri.authority.port,
        uri.vhost.trim_start_matches('/')
    );
    Ok(Place { uri, shown })
}

impl Place {
    fn is_secure(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    fn is_external(&self) -> bool {
        self.uri.query.auth_mechanism == Some(SASLMechanism::External)
    }
}

/// Waits for an answer of the broker, but not for ever.
pub async fn answer<T>(
    what: impl Display,
    asking: impl Future<Output = lapin::Result<T>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER_WITHIN, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failure(what, &error)),
        Err(_) => Err(Failure::new(
            Class::Timeout,
            format!("{what}: no answer within {} s", ANSWER_WITHIN.as_secs()),
        )),
    }
}

/// The code of AMQP with which the broker has refused something, if it has: 404, 406 and so on.
pub fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// What an error of the client means to who reads it.
pub fn failure(what: impl Display, error: &lapin::Error) -> Failure {
    let class = match reply_code(error) {
        Some(403) => Class::Forbidden,
        Some(404) => Class::NotFound,
        Some(405 | 406) => Class::Conflict,
        Some(530 | 540) => Class::Config,
        _ => Class::Unavailable,
    };
    Failure::new(class, format!("{what}: {}", cause(error)))
}

/// The sentence of an error that says most.
fn cause(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        ErrorKind::IOError(error) | ErrorKind::RuntimeShutdownError(error) => error.to_string(),
        ErrorKind::MissingHeartbeatError => {
            "the broker was silent for longer than two heartbeats".to_owned()
        }
        ErrorKind::InvalidConnectionState(_) | ErrorKind::InvalidChannelState(..) => {
            format!("the connection is lost ({error})")
        }
        _ => error.to_string(),
    }
}
