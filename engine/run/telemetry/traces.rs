//! Traces of messages: a span where one is accepted, one for each stage that works on it, one for each call of a system. The place of a
//! message in its trace travels in its headers, and so over hand-offs, restarts and engines. Without a collector nothing is added.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Ended;
use crate::component::{Attempt, Request};
use crate::failure::{Class, Failure};
use crate::flow::settings::{Otlp, SAMPLE_DEFAULT};
use crate::handoff::Hop;
use crate::message::Message;
use crate::net::otlp::{Collector, Exporter, Kind, Span, traces_url};
use crate::net::trace::{Place, TRACEPARENT};
use crate::store::commit::HopId;
use crate::world::World;
use crate::world::env::machine;

/// After how long a repeat begins a trace of its own, which links to the first: nobody reads a trace that lasts for hours.
const NEW_TRACE_AFTER_MS: i64 = 60_000;

/// Of how many hops it is known at a time when work on them began.
const BEGUN_MAX: usize = 20_000;

/// Makes spans, if there is a collector for them.
#[derive(Default)]
pub(in crate::run) struct Tracer(Option<Inner>);

struct Inner {
    exporter: Exporter,
    /// Of 2^64 new traces so many are exported.
    sample: u64,
    world: World,
    /// When work on hops began that is under way.
    begun: Mutex<FxHashMap<HopId, Moment>>,
}

/// A moment: by the wall's clock, and for measuring.
#[derive(Clone, Copy)]
struct Moment {
    at_ms: i64,
    steady: Instant,
}

/// A span that has begun.
pub(in crate::run) struct Begun {
    span: Span,
    steady: Instant,
}

/// The place of a stage's work on a hop.
#[derive(Clone, Copy)]
struct Under {
    place: Place,
    parent: u64,
    link: Option<Place>,
}

impl Tracer {
    /// Makes spans from now on, if the settings name a collector; they are sent until the stop.
    pub(in crate::run) fn start(
        given: Option<&Otlp>,
        who: &str,
        world: &World,
        (stop, keepers): (&CancellationToken, &TaskTracker),
    ) -> Result<Tracer, Failure> {
        let Some(given) = given else {
            return Ok(Tracer::default());
        };
        let url = traces_url(&given.endpoint).map_err(Failure::config)?;
        let collector = collector(given, url, who)?;
        let (exporter, sending) = Exporter::start(collector, world, stop.clone())?;
        keepers.spawn(sending);
        let share = given.sample.unwrap_or(SAMPLE_DEFAULT).clamp(0.0, 1.0);
        Ok(Tracer(Some(Inner {
            exporter,
            sample: (share * u64::MAX as f64) as u64,
            world: world.clone(),
            begun: Mutex::default(),
        })))
    }

    /// A message comes in at a flow: from here on it carries its place below this span. The sender's trace goes on, if it names one.
    pub(in crate::run) fn accepts(
        &self,
        message: &mut Message,
        flow: &str,
        binding: Option<&str>,
    ) -> Option<Begun> {
        let inner = self.0.as_ref()?;
        let random = &inner.world.random;
        let above = place_of(message);
        let place = Place {
            trace: above.map_or_else(
                || (u128::from(random.next()) << 64) | u128::from(random.next().max(1)),
                |above| above.trace,
            ),
            span: random.next().max(1),
            sampled: above.map_or_else(|| random.next() <= inner.sample, |above| above.sampled),
        };
        message.set_header(TRACEPARENT, place.to_string());
        let (name, kind) = match binding {
            Some(binding) => (binding.to_owned(), Kind::Server),
            None => (format!("receive {flow}"), Kind::Consumer),
        };
        let under = Under {
            place,
            parent: above.map_or(0, |above| above.span),
            link: None,
        };
        let mut begun = inner.begin(under, name, kind, inner.moment());
        begun.put("crossdock.flow", flow);
        begun.put("messaging.message.id", message.id);
        Some(begun)
    }

    /// A span has ended, well or with this class of failure. It is exported if its trace is, or if it failed.
    pub(in crate::run) fn ends(&self, begun: Option<Begun>, error: Option<Class>) {
        let (Some(inner), Some(begun)) = (&self.0, begun) else {
            return;
        };
        inner.end(begun, error);
    }

    /// Work on these hops begins.
    pub(in crate::run) fn takes(&self, hops: &[Hop]) {
        let Some(inner) = &self.0 else { return };
        let now = inner.moment();
        let mut begun = inner.begun.lock().unwrap_or_else(PoisonError::into_inner);
        for hop in hops.iter().filter(|hop| place_of(&hop.message).is_some()) {
            if begun.len() < BEGUN_MAX {
                begun.insert(hop.hop, now);
            }
        }
    }

    /// Work on a hop is over: it went back to where it was taken from.
    pub(in crate::run) fn gives_back(&self, hop: HopId) {
        if let Some(inner) = &self.0 {
            inner.forget(hop);
        }
    }

    /// Work on a hop has ended in the store.
    pub(in crate::run) fn worked(&self, hop: &Hop, ended: &Ended) {
        let Some(inner) = &self.0 else { return };
        let Some(under) = inner.under(hop) else {
            return;
        };
        let began = inner.forget(hop.hop).unwrap_or_else(|| inner.moment());
        let error = match ended {
            Ended::Done | Ended::Nothing => None,
            Ended::Retried(class) => Some(*class),
            Ended::Failed(all) => all.first().map(|(_, class)| *class),
        };
        if !under.place.sampled && error.is_none() {
            return;
        }
        let name = format!("process {}/{}", hop.flow, hop.step);
        let mut begun = inner.begin(under, name, Kind::Consumer, began);
        begun.put("crossdock.flow", &hop.flow);
        begun.put("crossdock.flow.version", &hop.revision);
        begun.put("crossdock.step", &hop.step);
        begun.put("crossdock.run.id", hop.run.0);
        begun.put("crossdock.attempt", hop.attempt);
        begun.put("messaging.message.id", hop.message.id);
        begun.put("messaging.operation.name", "process");
        inner.end(begun, error);
    }

    /// A system is about to be called for a hop. Gives the place that the request carries: without a collector the message's own.
    pub(in crate::run) fn calls(
        &self,
        hop: &Hop,
        system: Option<&str>,
        request: &Request,
    ) -> (Option<Place>, Option<Begun>) {
        let Some(inner) = &self.0 else {
            return (place_of(&hop.message), None);
        };
        let Some(under) = inner.under(hop) else {
            return (None, None);
        };
        let below = Under {
            place: Place {
                span: inner.world.random.next().max(1),
                ..under.place
            },
            parent: under.place.span,
            link: None,
        };
        let name = match (method(request), system) {
            (Some(method), Some(system)) => format!("{method} {system}"),
            (_, system) => format!("call {}", system.unwrap_or(&hop.step)),
        };
        let mut begun = inner.begin(below, name, Kind::Client, inner.moment());
        begun.put("crossdock.system", system.unwrap_or_default());
        begun.put("crossdock.step", &hop.step);
        begun.put("crossdock.attempt", hop.attempt);
        if let Some(method) = method(request) {
            begun.put("http.request.method", method);
        }
        (Some(below.place), Some(begun))
    }

    /// A call has ended.
    pub(in crate::run) fn called(&self, begun: Option<Begun>, attempt: &Attempt) {
        let error = match attempt {
            Attempt::Applied(_) | Attempt::Instead(..) => None,
            Attempt::NotApplied(failure) | Attempt::Unknown(failure) | Attempt::Held(failure) => {
                Some(failure.class)
            }
        };
        self.ends(begun, error);
    }
}

impl Inner {
    fn moment(&self) -> Moment {
        Moment {
            at_ms: self.world.clock.now_ms(),
            steady: Instant::now(),
        }
    }

    fn forget(&self, hop: HopId) -> Option<Moment> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.remove(&hop)
    }

    /// The place of the work on a hop: the same for whoever asks, so that what is called by it can name it before it has ended.
    fn under(&self, hop: &Hop) -> Option<Under> {
        let above = place_of(&hop.message)?;
        let digest = Sha256::digest(format!(
            "{above}\n{}\n{}\n{}",
            hop.hop.0, hop.fence, hop.attempt
        ));
        let number = |from: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&digest[from..from + 8]);
            u64::from_be_bytes(bytes).max(1)
        };
        let age_ms = self.world.clock.now_ms() - hop.message.received_at_ms;
        let anew = hop.attempt > 1 && age_ms > NEW_TRACE_AFTER_MS;
        let trace = match anew {
            true => (u128::from(number(8)) << 64) | u128::from(number(16)),
            false => above.trace,
        };
        Some(Under {
            place: Place {
                trace,
                span: number(0),
                ..above
            },
            parent: if anew { 0 } else { above.span },
            link: anew.then_some(above),
        })
    }

    fn begin(&self, under: Under, name: String, kind: Kind, began: Moment) -> Begun {
        let from_ns = u64::try_from(began.at_ms).unwrap_or(0) * 1_000_000;
        Begun {
            span: Span {
                place: under.place,
                parent: under.parent,
                name,
                kind,
                from_ns,
                to_ns: from_ns,
                attributes: Vec::with_capacity(8),
                error: None,
                link: under.link,
            },
            steady: began.steady,
        }
    }

    fn end(&self, begun: Begun, error: Option<Class>) {
        let Begun { mut span, steady } = begun;
        if !span.place.sampled && error.is_none() {
            return;
        }
        let took = u64::try_from(steady.elapsed().as_nanos()).unwrap_or(u64::MAX);
        span.to_ns = span.from_ns.saturating_add(took);
        if let Some(class) = error {
            span.error = Some(class.name().to_owned());
            span.attributes
                .push(("error.type", class.name().to_owned()));
        }
        self.exporter.send(span);
    }
}

impl Begun {
    fn put(&mut self, key: &'static str, value: impl std::fmt::Display) {
        self.span.attributes.push((key, value.to_string()));
    }
}

/// The place that a message carries.
fn place_of(message: &Message) -> Option<Place> {
    Place::parse(message.headers.get(TRACEPARENT)?)
}

/// The method of a request over HTTP.
fn method(request: &Request) -> Option<&str> {
    let rest = request.bytes.strip_prefix(b"{\"method\":\"")?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&rest[..end]).ok()
}

/// A collector at this URL, and what it is told about this engine.
pub(super) fn collector(given: &Otlp, url: Url, who: &str) -> Result<Collector, Failure> {
    Ok(Collector {
        url,
        headers: headers(given)?,
        resource: vec![
            ("service.name", "crossdock".to_owned()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id", format!("{}:{who}", machine())),
        ],
    })
}

fn headers(given: &Otlp) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in &given.headers {
        let fault = || {
            Failure::config(format!(
                "the header `{name}` of `telemetry.otlp` cannot be sent"
            ))
        };
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| fault())?;
        let mut value = HeaderValue::from_str(value.reveal()).map_err(|_| fault())?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}
