//! The HTTP client: one exchange, bounded in time and size, and how far it got. It knows no systems, no credentials and no retry.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use reqwest::{Certificate, Identity, Url};
use tokio::time::Instant;

use super::tls;
use crate::world::Pending;

/// How many unused connections are kept for one host.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// How long an unused connection is kept. Below the 5 seconds after which common servers close it: a request that meets a closing
/// connection has an unknown outcome.
const IDLE: Duration = Duration::from_secs(4);

#[derive(Clone)]
/// What a client is made of. Made once a system, at the first use.
pub(crate) struct Options {
    /// Trust only these authorities; `None`: those of the machine.
    pub(crate) authorities: Option<Vec<Certificate>>,
    /// The client's certificate and key.
    pub(crate) identity: Option<Identity>,
    /// Trust every certificate, whoever made it.
    pub(crate) trust_any: bool,
    /// Through this proxy, with these credentials.
    pub(crate) proxy: Option<(Url, Option<(String, String)>)>,
    /// Ask for compressed answers and unpack them.
    pub(crate) gzip: bool,
    /// How the client names itself.
    pub(crate) user_agent: String,
    /// The most that making a connection may take, with DNS and TLS.
    pub(crate) connect: Duration,
}

/// A client with its connections. A clone shares them.
#[derive(Clone)]
pub(crate) struct Client(Way);

#[derive(Clone)]
enum Way {
    Wire(reqwest::Client),
    StandIn(Arc<dyn StandIn>),
}

/// Answers in the place of all that is outside: for tests that run in this process.
pub(crate) trait StandIn: Send + Sync {
    /// Called once for each request that would go out. `within` is how long an answer may take; an answer that comes later must be
    /// trouble of kind `Timeout`.
    fn answer(
        &self,
        outgoing: Outgoing,
        within: Duration,
    ) -> Pending<'_, Result<Incoming, Trouble>>;
}

/// Until when an exchange must be over.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    /// The moment.
    pub(crate) at: Instant,
    /// How long that was from the beginning.
    pub(crate) within: Duration,
}

impl Deadline {
    /// So long from now.
    pub(crate) fn after(within: Duration) -> Deadline {
        Deadline {
            at: Instant::now() + within,
            within,
        }
    }
}

/// What is sent.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Bytes>,
}

/// What came back, whole.
pub(crate) struct Incoming {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why nothing whole came back.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) kind: TroubleKind,
    /// The status, if it came before the trouble.
    pub(crate) status: Option<u16>,
    /// What happened, without the URL and without headers.
    pub(crate) message: String,
}

/// The kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TroubleKind {
    /// The request cannot be written: nothing has left.
    Request,
    /// No connection: name, network, TLS or proxy. Nothing has left.
    Connect,
    /// The peer refused this client's certificate. Nothing was read of what has left.
    Identity,
    /// Time ran out after the connection was asked for: bytes may have left.
    Timeout,
    /// The connection broke: bytes may have left.
    Broken,
    /// The answer is larger than the limit.
    TooLarge,
    /// The answer cannot be unpacked.
    Undecodable,
}

impl TroubleKind {
    /// Whether the peer has surely not acted.
    pub(crate) fn nothing_left(self) -> bool {
        matches!(
            self,
            TroubleKind::Request | TroubleKind::Connect | TroubleKind::Identity
        )
    }
}

impl Client {
    /// A client with these options; it opens no connection yet.
    pub(crate) fn new(options: Options) -> Result<Client, String> {
        Client::make(options, false)
    }

    /// A client that also tells the certificates of those who answer.
    pub(crate) fn looking(options: Options) -> Result<Client, String> {
        Client::make(options, true)
    }

    fn make(options: Options, certificates: bool) -> Result<Client, String> {
        tls::provider();
        let mut builder = reqwest::Client::builder()
            .tls_backend_rustls()
            .user_agent(options.user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .gzip(options.gzip)
            .tls_info(certificates)
            .tcp_nodelay(true)
            .connect_timeout(options.connect)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX);
        if let Some(authorities) = options.authorities {
            builder = builder.tls_certs_only(authorities);
        }
        if let Some(identity) = options.identity {
            builder = builder.identity(identity);
        }
        if options.trust_any {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        builder = match options.proxy {
            Some((url, credentials)) => {
                let proxy = reqwest::Proxy::all(url).map_err(|error| described(&error))?;
                builder.proxy(match credentials {
                    Some((user, password)) => proxy.basic_auth(&user, &password),
                    None => proxy,
                })
            }
            None => builder.no_proxy(),
        };
        let client = builder.build().map_err(|error| described(&error))?;
        Ok(Client(Way::Wire(client)))
    }

    /// A client whose requests do not leave the process.
    pub(crate) fn answered_by(stand_in: Arc<dyn StandIn>) -> Client {
        Client(Way::StandIn(stand_in))
    }

    /// Sends it and takes the whole answer, of at most `answer_max` bytes after unpacking, before `deadline`.
    pub(crate) async fn exchange(
        &self,
        outgoing: Outgoing,
        answer_max: usize,
        deadline: Deadline,
    ) -> Result<Incoming, Trouble> {
        if let Way::StandIn(stand_in) = &self.0 {
            return stand_in.answer(outgoing, deadline.within).await;
        }
        let response = self.ask(outgoing, deadline).await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        match tokio::time::timeout_at(deadline.at, whole(response, answer_max)).await {
            Ok(Ok(body)) => Ok(Incoming {
                status,
                headers,
                body,
            }),
            Ok(Err(trouble)) => Err(trouble),
            Err(_) => Err(late(
                "the answer began and did not end in time",
                Some(status),
            )),
        }
    }

    /// Sends a request for a head, and gives what came back, with the certificate of who answered, if the client tells it.
    pub(crate) async fn look(
        &self,
        outgoing: Outgoing,
        deadline: Deadline,
    ) -> Result<(Incoming, Option<Vec<u8>>), Trouble> {
        let response = self.ask(outgoing, deadline).await?;
        let certificate = response
            .extensions()
            .get::<reqwest::tls::TlsInfo>()
            .and_then(|info| info.peer_certificate())
            .map(<[u8]>::to_vec);
        let incoming = Incoming {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: Bytes::new(),
        };
        Ok((incoming, certificate))
    }

    /// Sends it, and gives the answer as far as its head.
    async fn ask(
        &self,
        outgoing: Outgoing,
        deadline: Deadline,
    ) -> Result<reqwest::Response, Trouble> {
        let Way::Wire(client) = &self.0 else {
            let message = "a system that is stood in for is not looked at".to_owned();
            return Err(trouble(TroubleKind::Connect, None, message));
        };
        let mut request = client.request(outgoing.method, outgoing.url);
        request = request.headers(outgoing.headers);
        if let Some(body) = outgoing.body {
            request = request.body(body);
        }
        let request = request.build().map_err(|error| {
            trouble(
                TroubleKind::Request,
                None,
                format!("the request cannot be written: {}", described(&error)),
            )
        })?;
        match tokio::time::timeout_at(deadline.at, client.execute(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(failed(error, None)),
            Err(_) => Err(late("no answer in time", None)),
        }
    }
}

async fn whole(mut response: reqwest::Response, answer_max: usize) -> Result<Bytes, Trouble> {
    let status = Some(response.status().as_u16());
    let too_large = || {
        let message = format!("the answer is larger than the limit of {answer_max} bytes");
        trouble(TroubleKind::TooLarge, status, message)
    };
    if response.content_length().unwrap_or(0) > answer_max as u64 {
        return Err(too_large());
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => return Err(failed(error, status)),
        };
        let so_far = first.as_ref().map_or(0, Bytes::len) + rest.len();
        if so_far + chunk.len() > answer_max {
            return Err(too_large());
        }
        match first {
            None => first = Some(chunk),
            Some(_) => rest.extend_from_slice(&chunk),
        }
    }
    let first = first.unwrap_or_default();
    if rest.is_empty() {
        return Ok(first);
    }
    let mut all = BytesMut::with_capacity(first.len() + rest.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&rest);
    Ok(all.freeze())
}

fn trouble(kind: TroubleKind, status: Option<u16>, message: String) -> Trouble {
    Trouble {
        kind,
        status,
        message,
    }
}

fn late(message: &str, status: Option<u16>) -> Trouble {
    trouble(TroubleKind::Timeout, status, message.to_owned())
}

fn failed(error: reqwest::Error, status: Option<u16>) -> Trouble {
    let error = error.without_url();
    let told = described(&error);
    let (kind, message) = if error.is_builder() {
        (
            TroubleKind::Request,
            format!("the request cannot be written: {told}"),
        )
    } else if error.is_connect() {
        let what = if error.is_timeout() {
            "no connection in time"
        } else {
            "no connection"
        };
        (TroubleKind::Connect, format!("{what}: {told}"))
    } else if identity_refused(&error) {
        let message = format!("the other side refused the client's certificate: {told}");
        (TroubleKind::Identity, message)
    } else if error.is_timeout() {
        (TroubleKind::Timeout, format!("no answer in time: {told}"))
    } else if error.is_decode() && !caused_by_connection(&error) {
        let message = format!("the answer cannot be unpacked: {told}");
        (TroubleKind::Undecodable, message)
    } else {
        (TroubleKind::Broken, format!("the connection broke: {told}"))
    };
    trouble(kind, status, message)
}

/// The innermost reason, which names what happened; the outer ones only say that something did.
fn described(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner.to_string()
}

/// A connection that breaks in the middle of a packed answer shows up as an unpacking error around the connection's own.
fn caused_by_connection(error: &reqwest::Error) -> bool {
    let mut next = error.source();
    while let Some(error) = next {
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        if error.is::<hyper::Error>() || inner.is_some_and(|inner| inner.is::<hyper::Error>()) {
            return true;
        }
        next = error.source();
    }
    false
}

fn identity_refused(error: &reqwest::Error) -> bool {
    let mut next = error.source();
    while let Some(error) = next {
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .or_else(|| error.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = inner {
            return tls::refuses_client(*alert);
        }
        next = error.source();
    }
    false
}
