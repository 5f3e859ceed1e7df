//! Sends spans, and numbers, to a collector: OTLP over HTTP, as JSON. What it cannot send in time it drops and counts; it never lets anybody
//! wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use reqwest::Url;
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;

use super::http::{Client, Deadline, Options, Outgoing};
use super::trace::Place;
use crate::failure::Failure;
use crate::world::World;
use crate::world::metrics::OtlpMeter;

pub(crate) mod numbers;

/// How many spans may wait; further ones are dropped.
pub(crate) const QUEUE_MAX: usize = 2_048;
/// How many spans go in one request.
const BATCH_MAX: usize = 512;
/// How long the first span of a batch waits for others.
const BATCH_WITHIN: Duration = Duration::from_millis(1_000);
/// How long a request may take.
const SEND_WITHIN: Duration = Duration::from_secs(5);
/// How large an answer may be.
const ANSWER_MAX: usize = 64 << 10;
/// How long making a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// What a span is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A request that came in.
    Server,
    /// A request that went out.
    Client,
    /// A message that was taken.
    Consumer,
}

/// Something that was done, and how long it took.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// Its own place.
    pub(crate) place: Place,
    /// The span above it; 0 if it is the first.
    pub(crate) parent: u64,
    /// What was done.
    pub(crate) name: String,
    /// What it is for.
    pub(crate) kind: Kind,
    /// When it began and ended, in nanoseconds since 1970.
    pub(crate) from_ns: u64,
    /// See `from_ns`.
    pub(crate) to_ns: u64,
    /// What is known of it.
    pub(crate) attributes: Vec<(&'static str, String)>,
    /// Why it failed; `None` if it did not.
    pub(crate) error: Option<String>,
    /// What it goes on with, in another trace.
    pub(crate) link: Option<Place>,
}

/// Takes spans. A clone sends to the same collector.
#[derive(Clone)]
pub(crate) struct Exporter {
    spans: Sender<Span>,
    meter: OtlpMeter,
}

/// Where spans go.
pub(crate) struct Collector {
    /// The whole URL.
    pub(crate) url: Url,
    /// Headers of each request: credentials, mostly.
    pub(crate) headers: HeaderMap,
    /// What the collector is told about this engine.
    pub(crate) resource: Vec<(&'static str, String)>,
}

impl Exporter {
    /// Takes spans from now on. What this gives must be run: it sends until the stop, and then what is left.
    pub(crate) fn start(
        collector: Collector,
        world: &World,
        stop: CancellationToken,
    ) -> Result<(Exporter, impl Future<Output = ()> + Send + 'static), Failure> {
        let (spans, queue) = mpsc::channel(QUEUE_MAX);
        let meter = world.metrics.otlp();
        let desk = Desk {
            line: Line::to(collector)?,
            meter: meter.clone(),
            away: Arc::default(),
        };
        Ok((Exporter { spans, meter }, desk.work(queue, stop)))
    }

    /// Takes a span, or drops it if too many wait.
    pub(crate) fn send(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            self.meter.dropped.inc();
        }
    }
}

/// The way to a collector.
struct Line {
    client: Client,
    collector: Collector,
}

impl Line {
    fn to(collector: Collector) -> Result<Line, Failure> {
        let options = Options {
            authorities: None,
            identity: None,
            trust_any: false,
            proxy: None,
            gzip: false,
            user_agent: concat!("crossdock/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect: CONNECT_WITHIN,
        };
        let client = Client::new(options).map_err(Failure::config)?;
        Ok(Line { client, collector })
    }

    /// Sends one document; the error says why the collector has not taken it.
    async fn post(&self, document: &Value) -> Result<(), String> {
        let mut headers = self.collector.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let outgoing = Outgoing {
            method: Method::POST,
            url: self.collector.url.clone(),
            headers,
            body: Some(Bytes::from(document.to_string())),
        };
        let deadline = Deadline::after(SEND_WITHIN);
        match self.client.exchange(outgoing, ANSWER_MAX, deadline).await {
            Ok(answer) if (200..300).contains(&answer.status) => Ok(()),
            Ok(answer) => Err(format!("it answered {}", answer.status)),
            Err(trouble) => Err(trouble.message),
        }
    }
}

struct Desk {
    line: Line,
    meter: OtlpMeter,
    /// Whether people were told that the collector is away.
    away: Arc<AtomicBool>,
}

impl Desk {
    async fn work(self, mut queue: Receiver<Span>, stop: CancellationToken) {
        loop {
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                span = queue.recv() => span,
            };
            let Some(first) = first else { break };
            let mut batch = vec![first];
            let until = tokio::time::Instant::now() + BATCH_WITHIN;
            while batch.len() < BATCH_MAX {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep_until(until) => break,
                    span = queue.recv() => match span {
                        Some(span) => batch.push(span),
                        None => break,
                    },
                }
            }
            self.send(batch).await;
        }
        let mut rest = Vec::new();
        while let Ok(span) = queue.try_recv() {
            rest.push(span);
        }
        if !rest.is_empty() {
            self.send(rest).await;
        }
    }

    async fn send(&self, batch: Vec<Span>) {
        let many = batch.len() as u64;
        let sent = self
            .line
            .post(&document(&self.line.collector.resource, &batch))
            .await;
        match sent {
            Ok(()) => {
                self.meter.exported.inc_by(many);
                if self.away.swap(false, Ordering::Relaxed) {
                    tracing::info!(name: "otlp.back", "the collector of traces takes them again");
                }
            }
            Err(why) => {
                self.meter.dropped.inc_by(many);
                if !self.away.swap(true, Ordering::Relaxed) {
                    tracing::warn!(name: "otlp.away", "the collector of traces takes nothing: {why}; spans are dropped until it does, messages go on");
                }
            }
        }
    }
}

/// Where a collector takes traces.
pub(crate) fn traces_url(endpoint: &str) -> Result<Url, String> {
    url_of(endpoint, "/v1/traces")
}

/// Where a collector takes numbers.
pub(crate) fn metrics_url(endpoint: &str) -> Result<Url, String> {
    url_of(endpoint, "/v1/metrics")
}

fn url_of(endpoint: &str, path: &str) -> Result<Url, String> {
    let base = endpoint.trim_end_matches('/');
    let base = base.strip_suffix("/v1/traces").unwrap_or(base);
    let whole = format!("{base}{path}");
    let url = Url::parse(&whole).map_err(|_| format!("`{endpoint}` is no URL"))?;
    match matches!(url.scheme(), "http" | "https") && url.has_host() {
        true => Ok(url),
        false => Err(format!("`{endpoint}` is no URL of http or https")),
    }
}

/// Spans as OTLP has them in JSON: ids in hexadecimal, times as text.
fn document(resource: &[(&'static str, String)], spans: &[Span]) -> Value {
    let spans: Vec<Value> = spans.iter().map(span).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": attributes(resource) },
        "scopeSpans": [{
            "scope": { "name": "crossdock", "version": env!("CARGO_PKG_VERSION") },
            "spans": spans,
        }],
    }] })
}

fn span(span: &Span) -> Value {
    let kind = match span.kind {
        Kind::Server => 2,
        Kind::Client => 3,
        Kind::Consumer => 5,
    };
    let mut out = json!({
        "traceId": format!("{:032x}", span.place.trace),
        "spanId": format!("{:016x}", span.place.span),
        "name": span.name,
        "kind": kind,
        "startTimeUnixNano": span.from_ns.to_string(),
        "endTimeUnixNano": span.to_ns.to_string(),
        "attributes": attributes(&span.attributes),
    });
    if span.parent != 0 {
        out["parentSpanId"] = format!("{:016x}", span.parent).into();
    }
    if let Some(why) = &span.error {
        out["status"] = json!({ "code": 2, "message": why });
    }
    if let Some(link) = &span.link {
        let (trace, span) = (
            format!("{:032x}", link.trace),
            format!("{:016x}", link.span),
        );
        out["links"] = json!([{ "traceId": trace, "spanId": span }]);
    }
    out
}

fn attributes(all: &[(&'static str, String)]) -> Vec<Value> {
    let one = |(key, value): &(&'static str, String)| json!({ "key": key, "value": { "stringValue": value } });
    all.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::metrics::text::{Form, Readings};

    fn some(name: &str) -> Span {
        Span {
            place: Place {
                trace: 7,
                span: 8,
                sampled: true,
            },
            parent: 9,
            name: name.to_owned(),
            kind: Kind::Client,
            from_ns: 1,
            to_ns: 2,
            attributes: vec![("crossdock.flow", "orders".to_owned())],
            error: Some("timeout".to_owned()),
            link: None,
        }
    }

    #[test]
    fn a_span_is_written_as_collectors_read_it() {
        let document = document(
            &[("service.name", "crossdock".to_owned())],
            &[some("POST erp")],
        );
        let spans = &document["resourceSpans"][0]["scopeSpans"][0]["spans"];
        let expected = json!([{
            "traceId": "00000000000000000000000000000007", "spanId": "0000000000000008",
            "parentSpanId": "0000000000000009", "name": "POST erp", "kind": 3,
            "startTimeUnixNano": "1", "endTimeUnixNano": "2",
            "attributes": [{ "key": "crossdock.flow", "value": { "stringValue": "orders" } }],
            "status": { "code": 2, "message": "timeout" },
        }]);
        assert_eq!(*spans, expected);
    }

    #[tokio::test]
    async fn a_collector_that_is_away_costs_spans_and_no_time() {
        let (world, stop) = (World::real(), CancellationToken::new());
        let collector = Collector {
            url: Url::parse("http://127.0.0.1:1/v1/traces").unwrap(),
            headers: HeaderMap::new(),
            resource: Vec::new(),
        };
        let (exporter, sending) = Exporter::start(collector, &world, stop.clone()).unwrap();
        let many = QUEUE_MAX + 500;
        let began = std::time::Instant::now();
        for _ in 0..many {
            exporter.send(some("POST erp"));
        }
        assert!(began.elapsed() < Duration::from_secs(1));
        stop.cancel();
        sending.await;
        let text = world.metrics.text(Readings::default(), Form::Plain);
        let line = format!("crossdock_otlp_spans_dropped_total {many}\n");
        assert!(text.contains(&line), "{text}");
    }
}
