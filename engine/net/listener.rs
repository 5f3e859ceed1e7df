//! The one HTTP listener that webhooks and health checks share. It knows paths, sizes and deadlines, and nothing of what is behind a path.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::certified::Certified;
use crate::failure::{Class, Failure};
use crate::world::Pending;
use crate::world::metrics::{Metrics, RouteMeter};

mod answer;
pub mod inflate;
mod stream;
#[cfg(test)]
mod tests;

/// How much and how long, for everything that a peer can make large or slow.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How many connections there may be; more wait in the system's backlog. Default 4096.
    pub connections_max: usize,
    /// How many requests may be under way; more are answered 503. Default 4096.
    pub requests_max: usize,
    /// How many bytes a request's line and headers may have; more are answered 431. Default 16 KiB.
    pub head_bytes_max: usize,
    /// How many headers a request may have; more are answered 431. Default 96.
    pub headers_max: usize,
    /// How many bytes of bodies may be held at once, over all requests; more are answered 503. Default 32 MiB.
    pub buffered_bytes_max: usize,
    /// How many bytes of a body that is too large are read and thrown away, so that the peer sees the answer. Default 64 MiB.
    pub discard_bytes_max: usize,
    /// How long that may take. Default 1 s.
    pub discard_timeout: Duration,
    /// How long a request's line and headers may take from their first byte; then 408. Default 10 s.
    pub head_timeout: Duration,
    /// How long a body may take; then 408. Default 30 s.
    pub body_timeout: Duration,
    /// How long a connection may stay open without a request. Default 75 s.
    pub idle_timeout: Duration,
    /// How long a peer may take no byte of its answer. Default 30 s.
    pub write_timeout: Duration,
    /// How long the engine may take for an answer; then 503. Default 30 s.
    pub answer_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 4096,
            requests_max: 4096,
            head_bytes_max: 16 << 10,
            headers_max: 96,
            buffered_bytes_max: 32 << 20,
            discard_bytes_max: 64 << 20,
            discard_timeout: Duration::from_secs(1),
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(30),
        }
    }
}

/// A request that came in whole, within the limits.
#[derive(Clone, Debug)]
pub struct Received {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub uri: Uri,
    /// The headers.
    pub headers: HeaderMap,
    /// The bytes as they came, still encoded if `Content-Encoding` says so.
    pub body: Bytes,
    /// Who sent it.
    pub peer: SocketAddr,
}

/// What is sent back.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// Headers; length, date and connection are added by the listener.
    pub headers: Vec<(header::HeaderName, HeaderValue)>,
    /// The bytes.
    pub body: Bytes,
}

/// What is behind a path.
pub trait Receive: Send + Sync {
    /// Answers a request. Called concurrently; not called for bodies above `body_max`. If the peer goes away the future is dropped.
    fn receive(&self, request: Received) -> Pending<'_, Reply>;
    /// How many bytes a body may have.
    fn body_max(&self) -> usize;
}

/// The one HTTP listener of the engine. A clone is the same listener.
#[derive(Clone)]
pub struct Listener(Arc<Inner>);

/// A path that is served as long as this value lives.
#[must_use = "the path is served as long as the registration lives"]
pub struct Registration {
    listener: Listener,
    path: String,
    number: u64,
}

struct Inner {
    limits: Limits,
    local: SocketAddr,
    routes: RwLock<Routes>,
    number: AtomicU64,
    unready: RwLock<Vec<String>>,
    requests: AtomicUsize,
    buffered: AtomicUsize,
    stop: CancellationToken,
    serving: Mutex<Option<JoinHandle<()>>>,
    /// What answers all paths that nothing is registered for.
    rest: OnceLock<Arc<dyn Receive>>,
    /// Where requests are counted, under which name.
    meters: OnceLock<(Metrics, &'static str)>,
    /// Requests of paths that nobody has registered.
    unrouted: OnceLock<RouteMeter>,
}

#[derive(Default)]
struct Routes {
    /// By path; of equal methods the last one serves.
    served: HashMap<String, Vec<Route>>,
    /// Paths that were served a moment ago: a source that starts again, or a reload.
    gone: HashMap<String, Instant>,
}

#[derive(Clone)]
struct Route {
    number: u64,
    method: Method,
    receive: Arc<dyn Receive>,
    meter: Option<RouteMeter>,
}

/// Under which name requests of unknown paths are counted.
const UNROUTED: &str = "_unknown";
/// For how long a path that is served no more answers 503 instead of 404.
const GONE: Duration = Duration::from_secs(30);
/// How many such paths are remembered.
const GONE_MAX: usize = 1024;
/// How long the listener waits after the system has refused it a connection (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Listener {
    /// Listens at `host:port`, with default limits. Port 0 takes any free port. Not ready yet: see `set_ready`.
    pub async fn bind(address: &str) -> Result<Listener, Failure> {
        Listener::bind_with(address, Limits::default()).await
    }

    /// Listens at `host:port`, with default limits, and speaks TLS with the certificate and the key of these files; they are looked at from
    /// time to time. Without files as `bind`.
    ///
    /// Fails with class `config` if the address is taken, or the files are not there or do not fit.
    pub async fn bind_secure(
        address: &str,
        files: Option<(&Path, &Path)>,
    ) -> Result<Listener, Failure> {
        let certified = files.map(|(certificate, key)| Certified::load(certificate, key));
        Listener::open(address, Limits::default(), certified.transpose()?).await
    }

    /// Listens at `host:port`, with these limits.
    pub async fn bind_with(address: &str, limits: Limits) -> Result<Listener, Failure> {
        Listener::open(address, limits, None).await
    }

    async fn open(
        address: &str,
        limits: Limits,
        certified: Option<Certified>,
    ) -> Result<Listener, Failure> {
        let refused = |error: std::io::Error| {
            Failure::new(
                Class::Config,
                format!(
                    "cannot listen at {address}: {error}; choose another `listen` in crossdock.yaml or stop what uses it"
                ),
            )
        };
        let socket = TcpListener::bind(address).await.map_err(refused)?;
        let local = socket.local_addr().map_err(refused)?;
        let listener = Listener::of(limits, local);
        let serving = tokio::spawn(serve(listener.clone(), socket, certified));
        *lock(&listener.0.serving) = Some(serving);
        Ok(listener)
    }

    /// A listener that nobody can reach: paths register at it, and nothing is listened to.
    pub fn unheard() -> Listener {
        Listener::of(Limits::default(), SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn of(limits: Limits, local: SocketAddr) -> Listener {
        Listener(Arc::new(Inner {
            limits,
            local,
            routes: RwLock::default(),
            number: AtomicU64::new(0),
            unready: RwLock::new(vec!["starting".to_owned()]),
            requests: AtomicUsize::new(0),
            buffered: AtomicUsize::new(0),
            stop: CancellationToken::new(),
            serving: Mutex::new(None),
            rest: OnceLock::new(),
            meters: OnceLock::new(),
            unrouted: OnceLock::new(),
        }))
    }

    /// Counts its requests from now on, under this name.
    pub fn measure(&self, metrics: &Metrics, name: &'static str) {
        self.0.meters.set((metrics.clone(), name)).ok();
    }

    /// Lets this answer all paths that nothing is registered for, those of health included. To be called once.
    pub fn answer_rest(&self, receive: Arc<dyn Receive>) {
        self.0.rest.set(receive).ok();
    }

    /// Where a path's requests are counted, if they are.
    fn meter(&self, path: &str) -> Option<RouteMeter> {
        let (metrics, name) = self.0.meters.get()?;
        Some(metrics.route(name, path))
    }

    /// The same for all paths that nobody has registered.
    fn unrouted(&self) -> Option<&RouteMeter> {
        let (metrics, name) = self.0.meters.get()?;
        Some(
            self.0
                .unrouted
                .get_or_init(|| metrics.route(name, UNROUTED)),
        )
    }

    /// Why `/healthz/ready` says 503; empty if it says 200.
    pub fn causes(&self) -> Vec<String> {
        read(&self.0.unready).clone()
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local
    }

    /// Serves a path with a method until the registration is dropped. Of several for the same the last one serves: a new revision can
    /// register before the old one leaves.
    pub fn register(&self, method: Method, path: &str, receive: Arc<dyn Receive>) -> Registration {
        let number = self.0.number.fetch_add(1, Ordering::Relaxed);
        let mut routes = write(&self.0.routes);
        routes.gone.remove(path);
        routes
            .served
            .entry(path.to_owned())
            .or_default()
            .push(Route {
                number,
                method,
                receive,
                meter: self.meter(path),
            });
        drop(routes);
        Registration {
            listener: self.clone(),
            path: path.to_owned(),
            number,
        }
    }

    /// How many registrations there are for a binding, written as method and path: `POST /hooks/orders`. The last one serves.
    pub fn registered(&self, binding: &str) -> usize {
        let Some((method, path)) = binding.split_once(' ') else {
            return 0;
        };
        let routes = read(&self.0.routes);
        let served = routes.served.get(path).into_iter().flatten();
        served.filter(|route| route.method == method).count()
    }

    /// From now on `/healthz/ready` says 200, and unknown paths are 404.
    pub fn set_ready(&self) {
        write(&self.0.unready).clear();
    }

    /// From now on `/healthz/ready` says 503 with these causes, and unknown paths are 503. What is registered is served.
    pub fn set_unready(&self, causes: Vec<String>) {
        *write(&self.0.unready) = causes;
    }

    /// One more cause why `/healthz/ready` says 503, until it is removed.
    pub fn add_cause(&self, cause: &str) {
        self.remove_cause(cause);
        write(&self.0.unready).push(cause.to_owned());
    }

    /// This cause is gone; others stay.
    pub fn remove_cause(&self, cause: &str) {
        write(&self.0.unready).retain(|known| known != cause);
    }

    /// How many requests are under way.
    pub fn under_way(&self) -> usize {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// Stops accepting connections, lets requests that are under way be answered for at most this long, and closes all connections.
    pub async fn stop(&self, within: Duration) {
        self.set_unready(vec!["stopping".to_owned()]);
        self.0.stop.cancel();
        let serving = lock(&self.0.serving).take();
        let Some(mut serving) = serving else { return };
        if tokio::time::timeout(within, &mut serving).await.is_err() {
            serving.abort();
            drop(serving.await);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut routes = write(&self.listener.0.routes);
        let Some(list) = routes.served.get_mut(&self.path) else {
            return;
        };
        list.retain(|route| route.number != self.number);
        if list.is_empty() {
            routes.served.remove(&self.path);
            let now = Instant::now();
            routes.gone.retain(|_, since| now - *since < GONE);
            if routes.gone.len() < GONE_MAX {
                routes.gone.insert(std::mem::take(&mut self.path), now);
            }
        }
    }
}

impl Reply {
    /// A JSON reply.
    pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Reply {
        Reply {
            status,
            headers: vec![(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            )],
            body: body.into(),
        }
    }

    /// A problem by RFC 9457: the status, its title, and one sentence.
    pub fn problem(status: StatusCode, detail: &str) -> Reply {
        let title = status.canonical_reason().unwrap_or("Problem");
        let body = serde_json::json!({
            "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail
        });
        Reply::problem_document(status, &body)
    }

    /// A problem by RFC 9457 with members of its own.
    pub fn problem_document(status: StatusCode, document: &serde_json::Value) -> Reply {
        Reply {
            status,
            headers: vec![(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/problem+json"),
            )],
            body: Bytes::from(document.to_string()),
        }
    }

    /// The same reply with another header.
    #[must_use]
    pub fn with_header(mut self, name: header::HeaderName, value: HeaderValue) -> Reply {
        self.headers.push((name, value));
        self
    }

    /// The same reply, asking the peer to come back after this many milliseconds (rounded up to seconds).
    #[must_use]
    pub fn with_retry_after_ms(self, ms: u64) -> Reply {
        self.with_header(
            header::RETRY_AFTER,
            HeaderValue::from(ms.div_ceil(1000).max(1)),
        )
    }

    /// The same reply, after which the connection is closed.
    #[must_use]
    fn and_close(self) -> Reply {
        self.with_header(header::CONNECTION, HeaderValue::from_static("close"))
    }
}

/// Accepts connections until the stop, then waits for those that are open. Owns their tasks: aborted, it takes them along.
async fn serve(listener: Listener, socket: TcpListener, certified: Option<Certified>) {
    let places = Arc::new(Semaphore::new(listener.0.limits.connections_max));
    let mut connections = JoinSet::new();
    let stop = listener.0.stop.clone();
    let tls = certified
        .as_ref()
        .map(Certified::server)
        .map(TlsAcceptor::from);
    if let Some(certified) = certified {
        connections.spawn(certified.keep(stop.clone()));
    }
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => { drop(ended); continue }
            accepted = accept(&socket, &places) => accepted,
        };
        match accepted {
            Some((stream, peer, place)) => {
                let (listener, tls) = (listener.clone(), tls.clone());
                connections.spawn(async move {
                    connection(listener, stream, peer, tls).await;
                    drop(place);
                });
            }
            None => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    drop(socket);
    while connections.join_next().await.is_some() {}
}

async fn accept(
    socket: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.ok()?;
    match socket.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            None
        }
    }
}

/// Serves one connection until it closes, fails, times out or the listener stops.
async fn connection(
    listener: Listener,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no-delay is not available");
    }
    // With TLS the deadlines hold for what is on the wire: the one of the first head for the handshake, too.
    let watched = stream::Watched::new(stream, &listener.0.limits, tls.is_none());
    let turns = watched.turns();
    let Some(tls) = tls else {
        return exchanges(&listener, watched, peer, turns).await;
    };
    let shaken = tokio::select! {
        shaken = tls.accept(watched) => shaken,
        () = listener.0.stop.cancelled() => return,
    };
    match shaken {
        Ok(stream) => exchanges(&listener, stream, peer, turns).await,
        Err(error) => tracing::debug!(%error, %peer, "a TLS handshake failed"),
    }
}

/// Serves the requests of a connection.
async fn exchanges<S>(listener: &Listener, stream: S, peer: SocketAddr, turns: Arc<AtomicUsize>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &listener.0.limits;
    let answering = {
        let listener = listener.clone();
        hyper::service::service_fn(move |request| {
            let (listener, turns) = (listener.clone(), turns.clone());
            async move {
                turns.fetch_add(1, Ordering::Relaxed);
                let response = answer::answer(&listener, request, peer).await;
                turns.fetch_add(1, Ordering::Relaxed);
                Ok::<_, std::convert::Infallible>(response)
            }
        })
    };
    let mut serving = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            .pipeline_flush(true)
            .header_read_timeout(None)
            .max_buf_size(limits.head_bytes_max.saturating_mul(4).max(64 << 10))
            .serve_connection(hyper_util::rt::TokioIo::new(stream), answering)
    );
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = listener.0.stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(shared: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    shared.write().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(shared: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    shared.read().unwrap_or_else(PoisonError::into_inner)
}
