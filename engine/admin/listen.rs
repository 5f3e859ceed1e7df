//! Connections to the API: from the socket and from the network, a bounded number, none of them for longer than it is of use.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::authenticate::Peer;
use super::{Door, Network, open_to_others, routes};
use crate::failure::{Class, Failure};
use crate::net::local::LocalListener;
use crate::net::stalled::Stalled;

/// How many connections there may be at once through each door; more wait.
const CONNECTIONS_MAX: usize = 128;
/// How long the head of a request may take, and how long a connection may stay open without one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may take no byte of its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How many bytes the head of a request may have.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// How many headers.
const HEADERS_MAX: usize = 64;
/// The pause after the system could not give a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens on the network.
pub(super) async fn bind(network: &Network) -> Result<TcpListener, Failure> {
    let refused = |error: std::io::Error| {
        Failure::new(
            Class::Config,
            format!(
                "the admin API cannot listen at {}: {error}; choose another `admin.listen` in crossdock.yaml or stop what uses it",
                network.address
            ),
        )
    };
    let listener = TcpListener::bind(&network.address).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    if !address.ip().is_loopback() && network.tls.is_none() && !network.plain_http {
        return Err(open_to_others(address));
    }
    Ok(listener)
}

/// Serves the network.
pub(super) async fn over_net(
    door: Arc<Door>,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tls = tls.map(TlsAcceptor::from);
    loop {
        let Some((accepted, place)) = next(&door.stop, &places, listener.accept()).await else {
            return;
        };
        let Ok((stream, address)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (router, stop, tls) = (router.clone(), door.stop.clone(), tls.clone());
        door.open.spawn(async move {
            let peer = Peer::Net(address);
            match tls {
                None => serve(stream, router, peer, stop).await,
                Some(tls) => {
                    let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await;
                    match shaken {
                        Ok(Ok(stream)) => serve(stream, router, peer, stop).await,
                        _ => tracing::debug!(%address, "a TLS handshake failed"),
                    }
                }
            }
            drop(place);
        });
    }
}

/// Serves the socket.
pub(super) async fn over_socket(door: Arc<Door>, listener: LocalListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Some((accepted, place)) = next(&door.stop, &places, listener.accept()).await else {
            return;
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "the engine's socket gave no connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let user = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
        let (router, stop) = (router.clone(), door.stop.clone());
        door.open.spawn(async move {
            serve(stream, router, Peer::Socket(user), stop).await;
            drop(place);
        });
    }
}

/// The next connection, and its place; `None` when the door closes.
async fn next<T>(
    stop: &CancellationToken,
    places: &Arc<Semaphore>,
    accept: impl Future<Output = std::io::Result<T>>,
) -> Option<(std::io::Result<T>, tokio::sync::OwnedSemaphorePermit)> {
    let place = tokio::select! {
        () = stop.cancelled() => return None,
        place = places.clone().acquire_owned() => place.ok()?,
    };
    tokio::select! {
        () = stop.cancelled() => None,
        accepted = accept => Some((accepted, place)),
    }
}

/// Serves one connection.
async fn serve<S>(stream: S, router: Router, peer: Peer, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let answer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(routes::routed(request))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Stalled::new(stream, WRITE_TIMEOUT)), answer);
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = &mut connection => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the admin API ended early");
    }
}
