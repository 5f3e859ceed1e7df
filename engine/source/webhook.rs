//! The source `webhook`: what others post. It answers only once the message is durable. It does not parse bodies: the flow's contract does.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::away::TurnedAway;
use super::verify::{Refusal, Verifier, Verify};
use super::{Ready, codes as source_codes};
use crate::component::words::Size;
use crate::component::{Arrival, Batch, Build, Intake, Part, Source, Verdict, codes};
use crate::diagnostic::Diagnostic;
use crate::failure::{Class, Failure};
use crate::net::listener::inflate::inflate;
use crate::net::listener::{Receive, Received, Reply};
use crate::net::trace::{Place, TRACEPARENT, TRACESTATE, TRACESTATE_MAX};
use crate::world::{Pending, failpoint};

/// Takes what others post to a path. The sender gets its 2xx only once the message is durable; 401 if its signature is wrong, 413 if
/// the body is too large, 422 if the flow refuses broken bodies, 429 or 503 with `Retry-After` while the engine is full or stops.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// The path, such as `/hooks/storefront/orders`.
    pub path: String,
    /// The method. Default POST.
    pub method: Option<Verb>,
    /// How the sender is verified; `none` lets everybody post.
    pub verify: Option<Verify>,
    /// The header with the sender's id of the delivery: a second one is acknowledged and has no effect. Schemes bring their own.
    pub delivery_id: Option<String>,
    /// How large a body may be, unzipped. Default 1MB.
    pub max_body: Option<Size>,
    /// The headers that are kept with the message. Where its sender has a trace (`traceparent`, `tracestate`), that is always kept.
    pub headers: Option<Vec<String>>,
    /// What the sender is told when all is well. Default 200 and a line of JSON.
    pub reply: Option<Told>,
}

/// The method of a webhook.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verb {
    /// POST
    Post,
    /// PUT
    Put,
    /// PATCH
    Patch,
}

/// What a sender is told when all is well.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// The status. Default 200.
    #[schemars(range(min = 200, max = 299))]
    pub status: Option<u16>,
    /// The text, for senders that insist on one. Default `{"accepted":true}`, or `{"duplicate":true}`.
    pub body: Option<String>,
}

/// How large a body may be where nothing is said.
const BODY_MAX: usize = 1 << 20;
/// How many deliveries may wait for the engine; more are answered 503.
const WAITING_MAX: usize = 1024;
/// How long an id of a delivery may be; a longer one is not looked at.
const DELIVERY_MAX: usize = 256;
/// What a sender is told to wait when nothing else is known, in milliseconds.
const RETRY_AFTER_MS: u64 = 2_000;

impl Part for Webhook {
    type Ready = Ready;
    const EXAMPLE: &'static str = "source:
  webhook:
    path: /hooks/storefront/orders
    verify: { scheme: shopify, secret: \"${env:STOREFRONT_SECRET}\" }
    headers: [X-Shopify-Topic]
    max_body: 1MB
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let before = cx.findings.len();
        self.report_path(cx);
        let verifier = match &self.verify {
            Some(Verify::By(rule)) => rule.build(cx),
            Some(Verify::Off(_)) => None,
            None => {
                let place = cx.place(&["path"]);
                cx.report(
                    Diagnostic::warning(
                        source_codes::UNVERIFIED_WEBHOOK,
                        place,
                        "anybody who finds this path can post to it",
                    )
                    .help("add `verify: { scheme: .., secret: .. }`, or `verify: none` if that is meant"),
                );
                None
            }
        };
        let delivery = match &self.delivery_id {
            Some(name) => self
                .header_name(cx, &["delivery_id"], name)
                .into_iter()
                .collect(),
            None => verifier
                .iter()
                .flat_map(|verifier| verifier.delivery)
                .map(|name| HeaderName::from_static(name))
                .collect(),
        };
        let kept = self.kept(cx, verifier.as_ref());
        let errors = cx
            .findings
            .iter()
            .skip(before)
            .any(|finding| finding.severity == crate::diagnostic::Severity::Error);
        if errors {
            return None;
        }
        let told = self.reply.clone().unwrap_or_default();
        Some(Ready::Runs(Arc::new(Door {
            method: match self.method.unwrap_or(Verb::Post) {
                Verb::Post => Method::POST,
                Verb::Put => Method::PUT,
                Verb::Patch => Method::PATCH,
            },
            path: self.path.clone(),
            verifier,
            delivery,
            kept,
            body_max: self.max_body.map_or(BODY_MAX, |size| {
                usize::try_from(size.bytes).unwrap_or(usize::MAX)
            }),
            status: told
                .status
                .and_then(|status| StatusCode::from_u16(status).ok())
                .unwrap_or(StatusCode::OK),
            body: told.body.map(Bytes::from),
            forged: TurnedAway::new(),
        })))
    }
}

impl Webhook {
    fn report_path(&self, cx: &mut Build<'_>) {
        let odd =
            |byte: u8| !(byte.is_ascii_alphanumeric() || b"/-_.~:@!$&'()*+,;=".contains(&byte));
        let (message, help) = if !self.path.starts_with('/') {
            ("the path of a webhook begins with `/`", "write `/hooks/..`")
        } else if self.path.bytes().any(odd) {
            (
                "the path has characters that a URL path has not",
                "use letters, digits, `/`, `-`, `_` and `.`",
            )
        } else if self.path.starts_with("/healthz") {
            (
                "paths under /healthz belong to the engine",
                "write `/hooks/..`",
            )
        } else {
            return;
        };
        cx.error(codes::BAD_VALUE, &["path"], message, help);
    }

    fn header_name(&self, cx: &mut Build<'_>, path: &[&str], name: &str) -> Option<HeaderName> {
        let parsed = HeaderName::try_from(name).ok();
        if parsed.is_none() {
            cx.error(
                codes::BAD_VALUE,
                path,
                format!("`{name}` is no name of a header"),
                "header names have letters, digits and hyphens",
            );
        }
        parsed
    }

    /// The headers to keep: none that would let a reader of the store post in the sender's name.
    fn kept(&self, cx: &mut Build<'_>, verifier: Option<&Verifier>) -> Vec<HeaderName> {
        let mut kept = Vec::new();
        for (at, name) in self.headers.iter().flatten().enumerate() {
            let index = at.to_string();
            let Some(name) = self.header_name(cx, &["headers", &index], name) else {
                continue;
            };
            let confidential = matches!(
                name.as_str(),
                "authorization" | "cookie" | "proxy-authorization"
            ) || verifier.is_some_and(|verifier| {
                verifier
                    .confidential
                    .iter()
                    .any(|known| known == name.as_str())
            });
            if confidential {
                cx.error(
                    codes::BAD_VALUE,
                    &["headers", &index],
                    format!("`{name}` is a credential or a signature; those are never kept"),
                    "remove it from the list",
                );
            } else {
                kept.push(name);
            }
        }
        kept
    }
}

/// A webhook that is ready to be served.
struct Door {
    method: Method,
    path: String,
    verifier: Option<Verifier>,
    delivery: Vec<HeaderName>,
    kept: Vec<HeaderName>,
    body_max: usize,
    status: StatusCode,
    body: Option<Bytes>,
    /// The deliveries that were forged.
    forged: TurnedAway,
}

impl Source for Door {
    fn run(self: Arc<Self>, cx: Intake) -> Pending<'static, Result<(), Failure>> {
        Box::pin(async move {
            let open = Open {
                door: self.clone(),
                cx: cx.clone(),
                places: Semaphore::new(WAITING_MAX),
            };
            let registration =
                cx.listener
                    .register(self.method.clone(), &self.path, Arc::new(open));
            // Deliveries that are under way are the listener's: it waits for their answers when it stops.
            cx.stop.cancelled().await;
            drop(registration);
            Ok(())
        })
    }

    fn answers(&self) -> bool {
        true
    }

    fn binding(&self) -> Option<String> {
        Some(format!("{} {}", self.method, self.path))
    }
}

fn unavailable(why: &str) -> Reply {
    Reply::problem(StatusCode::SERVICE_UNAVAILABLE, why).with_retry_after_ms(RETRY_AFTER_MS)
}

/// A webhook while it is served.
struct Open {
    door: Arc<Door>,
    cx: Intake,
    /// For deliveries that wait for the engine.
    places: Semaphore,
}

impl Receive for Open {
    fn receive(&self, request: Received) -> Pending<'_, Reply> {
        Box::pin(async move {
            let arrival = match self.arrival(request) {
                Ok(arrival) => arrival,
                Err(reply) => return reply,
            };
            failpoint::hit("webhook-received");
            let Ok(_place) = self.places.try_acquire() else {
                return unavailable("too many deliveries wait");
            };
            let batch = Batch {
                arrivals: vec![arrival],
                progress: None,
            };
            // Deliveries that come at the same time share the store's transaction; nothing is gained by a batch of them here.
            let answer = self.cx.accept.accept(batch).await.and_then(|verdicts| {
                verdicts
                    .into_iter()
                    .next()
                    .ok_or_else(|| Failure::internal("a delivery got no verdict"))
            });
            failpoint::hit("webhook-before-answer");
            self.door.reply(answer)
        })
    }

    fn body_max(&self) -> usize {
        self.door.body_max
    }
}

impl Open {
    fn arrival(&self, request: Received) -> Result<Arrival, Reply> {
        let door = &self.door;
        let wire = request.body;
        let inflated = inflate(&request.headers, wire.clone(), door.body_max);
        if let Some(verifier) = &door.verifier {
            let now_ms = self.cx.world.clock.now_ms();
            let signed = verifier
                .verify(&request.headers, &wire, now_ms)
                .or_else(|refusal| match &inflated {
                    // Some senders sign before they zip.
                    Ok(inflated) if inflated.as_ptr() != wire.as_ptr() => {
                        verifier.verify(&request.headers, inflated, now_ms)
                    }
                    _ => Err(refusal),
                });
            signed.map_err(|refusal| self.turn_away(&refusal, now_ms))?;
        }
        let body = inflated.map_err(|failure| {
            let status = match failure.class {
                Class::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                _ => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            };
            Reply::problem(status, &failure.message)
        })?;
        let value = |name: &HeaderName| {
            request
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let delivery = door.delivery.iter().find_map(value);
        let kept = door.kept.iter();
        let kept =
            kept.filter_map(|name| Some((name.as_str().to_owned(), value(name)?.to_owned())));
        Ok(Arrival {
            body,
            headers: traced(&request.headers).into_iter().chain(kept).collect(),
            delivery: delivery
                .filter(|id| !id.is_empty() && id.len() <= DELIVERY_MAX)
                .map(str::to_owned),
            ..Arrival::default()
        })
    }

    /// Nothing is stored; one line in ten seconds says how many there were.
    fn turn_away(&self, refusal: &Refusal, now_ms: i64) -> Reply {
        let door = &self.door;
        self.cx.accept.turned_away(1);
        if let Some(count) = door.forged.one_more(now_ms) {
            tracing::warn!(flow = %self.cx.flow, path = door.path, count, why = refusal.detail(), "deliveries were turned away: their sender is not verified");
        }
        Reply::problem(StatusCode::UNAUTHORIZED, &refusal.detail())
    }
}

/// Where the sender's trace is: what follows goes on below it. What is no trace is not kept.
fn traced(headers: &HeaderMap) -> Vec<(String, String)> {
    let value = |name: &str| headers.get(name)?.to_str().ok();
    let Some(parent) = value(TRACEPARENT).and_then(Place::parse) else {
        return Vec::new();
    };
    // Only what is understood of it.
    let mut kept = vec![(TRACEPARENT.to_owned(), parent.to_string())];
    let state = value(TRACESTATE).filter(|state| state.len() <= TRACESTATE_MAX);
    kept.extend(state.map(|state| (TRACESTATE.to_owned(), state.to_owned())));
    kept
}

impl Door {
    fn reply(&self, answer: Result<Verdict, Failure>) -> Reply {
        match answer {
            Ok(Verdict::Accepted) => self.well(r#"{"accepted":true}"#),
            Ok(Verdict::Duplicate) => self.well(r#"{"duplicate":true}"#),
            Ok(Verdict::Refused(failure)) => {
                let breaches: Vec<&str> = failure
                    .detail
                    .as_deref()
                    .unwrap_or_default()
                    .lines()
                    .collect();
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                let document = serde_json::json!({
                    "type": "about:blank",
                    "title": "Unprocessable Content",
                    "status": status.as_u16(),
                    "detail": failure.message,
                    "breaches": breaches,
                });
                Reply::problem_document(status, &document)
            }
            Err(failure) => {
                let (status, why) = match failure.class {
                    Class::Throttled => (
                        StatusCode::TOO_MANY_REQUESTS,
                        "the engine is full; send it again later",
                    ),
                    _ => (
                        StatusCode::SERVICE_UNAVAILABLE,
                        "the engine takes nothing at the moment; send it again later",
                    ),
                };
                Reply::problem(status, why)
                    .with_retry_after_ms(failure.retry_after_ms.unwrap_or(RETRY_AFTER_MS))
            }
        }
    }

    fn well(&self, line: &'static str) -> Reply {
        if self.status == StatusCode::NO_CONTENT {
            return Reply {
                status: self.status,
                headers: Vec::new(),
                body: Bytes::new(),
            };
        }
        match &self.body {
            Some(body) => Reply {
                status: self.status,
                headers: Vec::new(),
                body: body.clone(),
            },
            None => Reply::json(self.status, Bytes::from_static(line.as_bytes())),
        }
    }
}

#[cfg(test)]
mod tests;
