//! One request: which path, how large, how long, and the answer. It knows no path but those of health.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};

use super::{GONE, Limits, Listener, Receive, Received, Reply, read};
use crate::world::metrics::RouteMeter;

/// What a peer is told to wait when the listener is full or not ready, in milliseconds.
const RETRY_AFTER_MS: u64 = 2_000;

/// Answers one request.
pub(super) async fn answer(
    listener: &Listener,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Response<Full<Bytes>> {
    let under_way = Counted::add(&listener.0.requests, 1);
    let (began, method) = (Instant::now(), request.method().clone());
    let mut meter = None;
    let reply = if under_way.before >= listener.0.limits.requests_max {
        Reply::problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many requests are under way",
        )
        .with_retry_after_ms(RETRY_AFTER_MS)
        .and_close()
    } else {
        reply(listener, request, peer, &mut meter).await
    };
    if let Some(meter) = meter.as_ref().or_else(|| listener.unrouted()) {
        meter.answered(named(&method), reply.status.as_str(), began.elapsed());
    }
    let mut response = Response::new(Full::new(reply.body));
    *response.status_mut() = reply.status;
    for (name, value) in reply.headers {
        response.headers_mut().append(name, value);
    }
    response
}

/// A method by its name; those that a peer has made up share one.
fn named(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "_other",
    }
}

async fn reply(
    listener: &Listener,
    request: Request<Incoming>,
    peer: SocketAddr,
    meter: &mut Option<RouteMeter>,
) -> Reply {
    let limits = &listener.0.limits;
    if let Some(refusal) = head_too_large(&request, limits) {
        return refusal;
    }
    let receive = match route(listener, request.method(), request.uri().path()) {
        Ok((receive, counted)) => {
            *meter = counted;
            receive
        }
        Err(reply) => return reply,
    };
    let (head, body) = request.into_parts();
    let expects = head.headers.contains_key(header::EXPECT);
    let mut room = Counted::add(&listener.0.buffered, 0);
    let reading = Reading {
        body,
        max: receive.body_max(),
        expects,
        limits,
        room: &mut room,
    };
    let body = match tokio::time::timeout(limits.body_timeout, reading.whole()).await {
        Ok(Ok(body)) => body,
        Ok(Err(refusal)) => return refusal,
        Err(_) => {
            return Reply::problem(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")
                .and_close();
        }
    };
    let received = Received {
        method: head.method,
        uri: head.uri,
        headers: head.headers,
        body,
        peer,
    };
    let answered = tokio::time::timeout(limits.answer_timeout, receive.receive(received)).await;
    answered.unwrap_or_else(|_| {
        Reply::problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "no answer in time; send it again",
        )
        .with_retry_after_ms(RETRY_AFTER_MS)
    })
}

fn head_too_large(request: &Request<Incoming>, limits: &Limits) -> Option<Reply> {
    let headers = request.headers();
    let line = request
        .uri()
        .path_and_query()
        .map_or(0, |uri| uri.as_str().len());
    let bytes = headers.iter().fold(line, |sum, (name, value)| {
        sum + name.as_str().len() + value.len() + 4
    });
    let detail = if headers.len() > limits.headers_max {
        format!(
            "the request has {} headers, the limit is {}",
            headers.len(),
            limits.headers_max
        )
    } else if bytes > limits.head_bytes_max {
        format!(
            "the request's headers have {bytes} bytes, the limit is {}",
            limits.head_bytes_max
        )
    } else {
        return None;
    };
    Some(Reply::problem(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, &detail).and_close())
}

/// What is behind a path, and where its requests are counted.
type Routed = (Arc<dyn Receive>, Option<RouteMeter>);

fn route(listener: &Listener, method: &Method, path: &str) -> Result<Routed, Reply> {
    let routes = read(&listener.0.routes);
    if let Some(list) = routes.served.get(path) {
        if let Some(route) = list.iter().rev().find(|route| route.method == *method) {
            return Ok((route.receive.clone(), route.meter.clone()));
        }
        let mut methods: Vec<&str> = list.iter().map(|route| route.method.as_str()).collect();
        methods.sort_unstable();
        methods.dedup();
        return Err(not_allowed(&methods.join(", ")));
    }
    if let Some(rest) = listener.0.rest.get() {
        return Ok((rest.clone(), None));
    }
    let gone = routes
        .gone
        .get(path)
        .is_some_and(|since| since.elapsed() < GONE);
    drop(routes);
    let unready = read(&listener.0.unready);
    if path.starts_with("/healthz/") {
        return Err(health(method, path, &unready));
    }
    if gone || !unready.is_empty() {
        return Err(Reply::problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "nothing serves this path at the moment",
        )
        .with_retry_after_ms(RETRY_AFTER_MS));
    }
    Err(Reply::problem(
        StatusCode::NOT_FOUND,
        "no flow has a webhook at this path",
    ))
}

fn health(method: &Method, path: &str, unready: &[String]) -> Reply {
    if !matches!(path, "/healthz/live" | "/healthz/ready") {
        return Reply::problem(
            StatusCode::NOT_FOUND,
            "health is at /healthz/live and /healthz/ready",
        );
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return not_allowed("GET, HEAD");
    }
    let (status, body) = if path == "/healthz/live" {
        (StatusCode::OK, serde_json::json!({ "status": "live" }))
    } else if unready.is_empty() {
        (StatusCode::OK, serde_json::json!({ "status": "ready" }))
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            serde_json::json!({ "status": "not ready", "causes": unready }),
        )
    };
    Reply::json(status, body.to_string())
        .with_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

fn not_allowed(allowed: &str) -> Reply {
    let reply = Reply::problem(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("this path takes {allowed}"),
    );
    match HeaderValue::from_str(allowed) {
        Ok(value) => reply.with_header(header::ALLOW, value),
        Err(_) => reply,
    }
}

/// A body on its way in.
struct Reading<'a, 'l> {
    body: Incoming,
    max: usize,
    expects: bool,
    limits: &'l Limits,
    room: &'a mut Counted<'l>,
}

impl Reading<'_, '_> {
    /// The whole body, or why not. Never holds more than `max` bytes, nor more than all requests together may.
    async fn whole(mut self) -> Result<Bytes, Reply> {
        let declared = self.body.size_hint().exact();
        if declared == Some(0) {
            return Ok(Bytes::new());
        }
        if declared.is_some_and(|length| length > self.max as u64) {
            return Err(self.too_large(declared).await);
        }
        let mut gathered = BytesMut::new();
        while let Some(frame) = self.body.frame().await {
            let Ok(frame) = frame else {
                return Err(cut_off());
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if gathered.len() + data.len() > self.max {
                drop(gathered);
                return Err(self.too_large(None).await);
            }
            // Only for what has come: a length that is announced and never sent takes no room from others.
            self.take_room(data.len())?;
            if gathered.is_empty() && self.body.is_end_stream() {
                return Ok(data);
            }
            gathered.extend_from_slice(&data);
        }
        Ok(gathered.freeze())
    }

    fn take_room(&mut self, bytes: usize) -> Result<(), Reply> {
        if self.room.more(bytes, self.limits.buffered_bytes_max) {
            return Ok(());
        }
        Err(Reply::problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many bytes are under way",
        )
        .with_retry_after_ms(RETRY_AFTER_MS)
        .and_close())
    }

    /// Reads on for a while and throws it away, so that a peer that only sends gets to see the answer.
    async fn too_large(mut self, declared: Option<u64>) -> Reply {
        if !(self.expects && declared.is_some()) {
            let (mut left, limit) = (self.limits.discard_bytes_max, self.limits.discard_timeout);
            let discard = async {
                while let Some(Ok(frame)) = self.body.frame().await {
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    match left.checked_sub(length) {
                        Some(rest) => left = rest,
                        None => break,
                    }
                }
            };
            if tokio::time::timeout(limit, discard).await.is_err() {
                tracing::debug!("a body that is too large goes on and on");
            }
        }
        let has = declared.map_or_else(|| "more".to_owned(), |length| format!("{length} bytes"));
        let detail = format!("the body has {has}, the limit is {} bytes", self.max);
        Reply::problem(StatusCode::PAYLOAD_TOO_LARGE, &detail).and_close()
    }
}

fn cut_off() -> Reply {
    Reply::problem(
        StatusCode::BAD_REQUEST,
        "the body ended early or is not well framed",
    )
    .and_close()
}

/// A share of a counter, given back when it goes.
struct Counted<'a> {
    counter: &'a AtomicUsize,
    mine: usize,
    before: usize,
}

impl<'a> Counted<'a> {
    fn add(counter: &'a AtomicUsize, amount: usize) -> Counted<'a> {
        let before = counter.fetch_add(amount, Ordering::Relaxed);
        Counted {
            counter,
            mine: amount,
            before,
        }
    }

    /// Takes more if that keeps the counter within its limit, or if nobody else has anything.
    fn more(&mut self, amount: usize, limit: usize) -> bool {
        let before = self.counter.fetch_add(amount, Ordering::Relaxed);
        if before + amount <= limit || before == self.mine {
            self.mine += amount;
            return true;
        }
        self.counter.fetch_sub(amount, Ordering::Relaxed);
        false
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.mine, Ordering::Relaxed);
    }
}
