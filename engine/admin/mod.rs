//! The door into a running engine: an API over a socket of this machine, for the command line. Only this module knows the API's status codes;
//! what is asked for is done at the desk.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::failure::{Class, Failure};
use crate::net::local::LocalListener;
use crate::run::desk::Desk;

pub mod api;
pub mod client;
pub mod shown;

/// How large what is asked for may be: an edited body and what stands around it.
const BODY_BYTES_MAX: usize = 40 << 20;
/// How many connections there may be at once; more wait.
const CONNECTIONS_MAX: usize = 64;
/// How long the head of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after the system could not give a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The door of a running engine. It is open until `close`.
pub struct Admin {
    stop: CancellationToken,
    open: TaskTracker,
}

impl Admin {
    /// Opens the door of the engine that has the store in this file.
    pub fn open(store: &Path, desk: Desk) -> Result<Admin, Failure> {
        let listener = LocalListener::bind(store)?;
        let admin = Admin {
            stop: CancellationToken::new(),
            open: TaskTracker::new(),
        };
        let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
        let (stop, open) = (admin.stop.clone(), admin.open.clone());
        admin.open.spawn(async move {
            loop {
                let place = tokio::select! {
                    () = stop.cancelled() => return,
                    place = places.clone().acquire_owned() => place,
                };
                let stream = tokio::select! {
                    () = stop.cancelled() => return,
                    stream = listener.accept() => stream,
                };
                match stream {
                    Ok(stream) => {
                        let (desk, stop) = (desk.clone(), stop.clone());
                        open.spawn(async move {
                            serve(stream, desk, stop).await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the engine's socket gave no connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
        Ok(admin)
    }

    /// Takes no more, and lets what is under way be answered.
    pub async fn close(self) {
        self.stop.cancel();
        self.open.close();
        self.open.wait().await;
    }
}

async fn serve(stream: tokio::net::UnixStream, desk: Desk, stop: CancellationToken) {
    let answer = service_fn(|request: Request<Incoming>| {
        let desk = desk.clone();
        async move { Ok::<_, Infallible>(answered(&desk, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = &mut connection => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the engine's socket ended early");
    }
}

async fn answered(desk: &Desk, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let answer = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => api::answer(desk, &head.method, &head.uri, &body.to_bytes()).await,
        Err(error) => Err(Failure::new(
            Class::TooLarge,
            format!("what was asked for could not be read: {error}"),
        )),
    };
    let (status, kind, body) = match answer {
        Ok(value) => (200, "application/json", value),
        Err(failure) => {
            let status = status(failure.class);
            let problem = serde_json::json!({
                "type": "about:blank", "title": failure.class.name(), "status": status, "detail": failure.message,
            });
            (status, "application/problem+json", problem)
        }
    };
    Response::builder()
        .status(status)
        .header("content-type", kind)
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap_or_else(|_| Response::new(Full::default()))
}

/// The status that a failure has in the API.
fn status(class: Class) -> u16 {
    match class {
        Class::Validation | Class::Parse | Class::Mapping => 422,
        Class::NotFound => 404,
        Class::Conflict | Class::Duplicate => 409,
        Class::Forbidden | Class::Auth => 403,
        Class::TooLarge => 413,
        Class::Throttled => 429,
        Class::Unavailable | Class::Timeout => 503,
        _ => 500,
    }
}
