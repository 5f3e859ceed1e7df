//! The source `api`: a governed endpoint for partners. It answers only once the message is durable. It does not parse bodies: the flow's contract does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::Ready;
use super::away::TurnedAway;
use super::clients::{Clients, Denied, KEY_HEADER};
use crate::component::api::{Api as Offer, Calls, Leaving};
use crate::component::words::{Rate, Size};
use crate::component::{Arrival, Batch, Build, Intake, Part, Source, codes};
use crate::diagnostic::Severity;
use crate::failure::{Class, Failure};
use crate::message::MessageId;
use crate::net::listener::inflate::inflate;
use crate::net::listener::{Receive, Received, Reply};
use crate::world::Pending;

mod pace;
mod told;

use pace::Paces;

/// A governed endpoint for partners: a version in its path, keys or tokens of its clients, a rate for each, and a contract. The flow's
/// `accepts` is the contract; what breaks it is refused with the places (422), unless `on_breach` says otherwise. The caller gets its 202
/// only once the message is durable; 401 without a credential that counts, 429 beyond its rate, 429 or 503 with `Retry-After` while the
/// engine is full or stops. A repeat with the same `Idempotency-Key` has no second effect. The headers `api-client` and `api-version` of
/// the message say who has called, and what.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Api {
    /// The path below the version, such as `/orders`.
    pub path: String,
    /// The version, such as `v2`: the endpoint is `/v2/orders`. A version with another contract is another flow.
    pub version: String,
    /// The method. Default POST.
    pub method: Option<Verb>,
    /// Who may call it: names of clients, or `anyone`. Default: all clients of the project (`apis.clients` in `crossdock.yaml`).
    pub clients: Option<May>,
    /// How often a client may call it that has no rate of its own. Default 600/m; `anyone` shares one.
    pub rate: Option<Rate>,
    /// How large a body may be, unzipped. Default 1MB.
    pub max_body: Option<Size>,
    /// The headers that are kept with the message.
    pub headers: Option<Vec<String>>,
    /// That it is on its way out: callers are told with every answer (`Deprecation`, `Sunset`, `Link`).
    pub deprecated: Option<Leaves>,
}

/// The method of an API.
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

/// Who may call.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum May {
    /// Everybody: written out, so that nobody does it by accident.
    All(Anyone),
    /// These clients.
    These(Vec<String>),
}

/// Everybody.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Anyone {
    /// No credential is asked for.
    Anyone,
}

/// That an API is on its way out.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Leaves {
    /// The day since when it should no longer be used, such as `2026-01-01`.
    pub since: String,
    /// The day from when on it may be gone, such as `2026-12-31`. It is served until the flow is removed.
    pub sunset: Option<String>,
    /// Where callers read what to do instead.
    pub link: Option<String>,
}

/// How large a body may be where nothing is said.
const BODY_MAX: u64 = 1 << 20;
/// How often a client may call where nothing is said.
const RATE: Rate = Rate {
    count: 600,
    per_ms: 60_000,
};
/// How many calls may wait for the engine; more are answered 503.
const WAITING_MAX: usize = 1024;
/// How long an `Idempotency-Key` may be.
const REPEAT_KEY_MAX: usize = 255;
/// How often it is noted who calls.
const NOTED_EVERY: Duration = Duration::from_secs(60);
/// What a caller is told to wait when nothing else is known, in milliseconds.
const RETRY_AFTER_MS: u64 = 2_000;
/// The headers of a message that say who has called, and what.
const CLIENT: &str = "api-client";
const VERSION: &str = "api-version";
/// Who is noted where no credential is asked for.
const ANYONE: &str = "anyone";

impl Part for Api {
    type Ready = Ready;
    const EXAMPLE: &'static str = "source:
  api:
    path: /orders
    version: v2
    clients: anyone
    rate: 100/m
    deprecated: { since: 2026-01-01, sunset: 2026-12-31, link: \"https://example.com/docs/v3\" }
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let before = cx.findings.len();
        self.report_path(cx);
        let clients = cx.library.clients.clone();
        let may = self.may(cx, &clients);
        let deprecated = self.leaving(cx);
        let kept = self.kept(cx);
        let mut found = cx.findings.iter().skip(before);
        if found.any(|finding| finding.severity == Severity::Error) {
            return None;
        }
        let (method, verb) = match self.method.unwrap_or(Verb::Post) {
            Verb::Post => (Method::POST, "POST"),
            Verb::Put => (Method::PUT, "PUT"),
            Verb::Patch => (Method::PATCH, "PATCH"),
        };
        let names = |numbers: &Vec<usize>| {
            let names = numbers.iter().map(|at| clients.all()[*at].name.clone());
            names.collect()
        };
        let offer = Offer {
            method: verb,
            path: format!("/{}{}", self.version, self.path),
            version: self.version.clone(),
            clients: may.as_ref().map(names),
            rate: self.rate.unwrap_or(RATE),
            body_max: usize::try_from(self.max_body.map_or(BODY_MAX, |size| size.bytes))
                .unwrap_or(usize::MAX),
            deprecated,
            headers: kept.iter().map(|name| name.as_str().to_owned()).collect(),
        };
        let rates = match &may {
            Some(_) => clients
                .all()
                .iter()
                .map(|client| client.rate.unwrap_or(offer.rate))
                .collect(),
            None => vec![offer.rate],
        };
        Some(Ready::Runs(Arc::new(Door {
            method,
            name: Arc::from(offer.name()),
            leaving: told::leaving(offer.deprecated.as_ref()),
            offer,
            clients,
            may,
            kept,
            paces: Mutex::new(Paces::new(rates)),
            away: TurnedAway::new(),
        })))
    }
}

impl Api {
    fn report_path(&self, cx: &mut Build<'_>) {
        let odd = |byte: u8| !(byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte));
        if !self.path.starts_with('/') || self.path.ends_with('/') || self.path.bytes().any(odd) {
            let message = "the path of an API begins with `/`, ends without, and has letters, digits, `-`, `_` and `.` between";
            cx.error(codes::BAD_VALUE, &["path"], message, "write `/orders`");
        }
        let number = self.version.strip_prefix('v').unwrap_or_default();
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !number.split('.').all(digits) {
            let message = format!("`{}` is no version", self.version);
            let help = "write `v` and a number, such as `v1`";
            cx.error(codes::BAD_VALUE, &["version"], message, help);
        } else if self.path.starts_with(&format!("/{}/", self.version)) {
            let message = "the version stands in the path already";
            let help = "leave it out of `path`: the endpoint is `/VERSION/PATH`";
            cx.error(codes::BAD_VALUE, &["path"], message, help);
        }
    }

    /// The numbers of the clients that may call; `None`: everybody.
    fn may(&self, cx: &mut Build<'_>, clients: &Clients) -> Option<Vec<usize>> {
        let names = match &self.clients {
            Some(May::All(_)) => return None,
            Some(May::These(names)) => names,
            None => {
                if clients.all().is_empty() {
                    let message = "nobody may call this API: the project has no clients";
                    let help = "add `apis: { clients: .. }` to crossdock.yaml, or `clients: anyone` here if that is meant";
                    cx.error(codes::CONFLICTING_SETTINGS, &["path"], message, help);
                }
                return Some((0..clients.all().len()).collect());
            }
        };
        let mut may = Vec::new();
        for (at, name) in names.iter().enumerate() {
            match clients.named(name) {
                Some(number) => may.push(number),
                None => {
                    let known = clients.all().iter().map(|client| client.name.to_string());
                    let known: Vec<String> = known.collect();
                    let path = ["clients", &at.to_string()];
                    let file = "`apis.clients` in crossdock.yaml";
                    let help = codes::names_help("client", name, &known, file);
                    let message = format!("there is no client `{name}`");
                    cx.error(super::codes::UNKNOWN_CLIENT, &path, message, help);
                }
            }
        }
        Some(may)
    }

    fn leaving(&self, cx: &mut Build<'_>) -> Option<Leaving> {
        let given = self.deprecated.as_ref()?;
        let mut day = |field: &str, text: &str| {
            let day = text.parse::<Date>().ok();
            let day = day.and_then(|day| day.to_zoned(TimeZone::UTC).ok());
            if day.is_none() {
                let path = ["deprecated", field];
                let message = format!("`{text}` is no day");
                cx.error(codes::BAD_VALUE, &path, message, "write `2026-12-31`");
            }
            day.map(|day| day.timestamp().as_millisecond())
        };
        let since_ms = day("since", &given.since);
        let sunset = given.sunset.as_ref().map(|text| day("sunset", text));
        if let (Some(since_ms), Some(Some(sunset_ms))) = (since_ms, sunset)
            && sunset_ms < since_ms
        {
            let message = "the API is gone before it is deprecated";
            let help = "`sunset` must not be before `since`";
            cx.error(
                codes::CONFLICTING_SETTINGS,
                &["deprecated", "sunset"],
                message,
                help,
            );
        }
        if let Some(link) = &given.link
            && HeaderValue::from_str(link).is_err() | link.contains(['<', '>', '"', ' '])
        {
            let message = "this is no URL that a header can carry";
            let help = "write it like `https://example.com/docs/v3`";
            cx.error(codes::BAD_VALUE, &["deprecated", "link"], message, help);
        }
        Some(Leaving {
            since_ms: since_ms?,
            sunset_ms: sunset.flatten(),
            link: given.link.clone(),
        })
    }

    /// The headers to keep: none that would let a reader of the store call in a client's name, and none that we set.
    fn kept(&self, cx: &mut Build<'_>) -> Vec<HeaderName> {
        let mut kept = Vec::new();
        for (at, name) in self.headers.iter().flatten().enumerate() {
            let index = at.to_string();
            let path = ["headers", &index];
            match HeaderName::try_from(name.as_str()) {
                Err(_) => {
                    let message = format!("`{name}` is no name of a header");
                    let help = "header names have letters, digits and hyphens";
                    cx.error(codes::BAD_VALUE, &path, message, help);
                }
                Ok(name)
                    if [header::AUTHORIZATION, header::COOKIE].contains(&name)
                        || name == header::PROXY_AUTHORIZATION
                        || [KEY_HEADER, CLIENT, VERSION].contains(&name.as_str()) =>
                {
                    let message = format!("`{name}` is a credential, or set by the engine");
                    cx.error(codes::BAD_VALUE, &path, message, "remove it from the list");
                }
                Ok(name) => kept.push(name),
            }
        }
        kept
    }
}

/// An API that is ready to be served.
struct Door {
    method: Method,
    /// Method and path.
    name: Arc<str>,
    offer: Offer,
    clients: Arc<Clients>,
    /// Who may call; `None`: everybody.
    may: Option<Vec<usize>>,
    kept: Vec<HeaderName>,
    /// What every answer says if the API is on its way out.
    leaving: Vec<(HeaderName, HeaderValue)>,
    paces: Mutex<Paces>,
    /// The callers without a credential that counts.
    away: TurnedAway,
}

/// A caller that was let in: its number among the paces, and its name.
struct Caller {
    number: usize,
    name: Arc<str>,
}

impl Source for Door {
    fn run(self: Arc<Self>, cx: Intake) -> Pending<'static, Result<(), Failure>> {
        Box::pin(async move {
            let open = Open {
                door: self.clone(),
                cx: cx.clone(),
                places: Semaphore::new(WAITING_MAX),
            };
            let method = self.method.clone();
            let registration = cx
                .listener
                .register(method, &self.offer.path, Arc::new(open));
            // Calls that are under way are the listener's: it waits for their answers when it stops.
            loop {
                tokio::select! {
                    () = cx.stop.cancelled() => break,
                    () = cx.world.clock.sleep(NOTED_EVERY) => self.note(&cx).await,
                }
            }
            drop(registration);
            self.note(&cx).await;
            Ok(())
        })
    }

    fn answers(&self) -> bool {
        true
    }

    fn binding(&self) -> Option<String> {
        Some(self.name.to_string())
    }

    fn api(&self) -> Option<&Offer> {
        Some(&self.offer)
    }
}

impl Door {
    fn paces(&self) -> std::sync::MutexGuard<'_, Paces> {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name_of(&self, number: usize) -> Arc<str> {
        match self.may {
            Some(_) => self.clients.all()[number].name.clone(),
            None => Arc::from(ANYONE),
        }
    }

    /// Notes who has called since the last time, with a commit of its own if there is anything.
    async fn note(&self, cx: &Intake) {
        let noted = self.paces().noted();
        if noted.is_empty() {
            return;
        }
        let calls = noted.into_iter().map(|(number, count, last_at_ms)| Calls {
            api: self.name.clone(),
            client: self.name_of(number),
            count,
            last_at_ms,
        });
        cx.accept.called(calls.collect());
        if let Err(failure) = cx.accept.accept(Batch::default()).await {
            tracing::debug!(flow = %cx.flow, %failure, "who has called is noted later");
        }
    }
}

/// An API while it is served.
struct Open {
    door: Arc<Door>,
    cx: Intake,
    /// For calls that wait for the engine.
    places: Semaphore,
}

impl Receive for Open {
    fn receive(&self, request: Received) -> Pending<'_, Reply> {
        Box::pin(async move {
            let mut reply = self.answer(request).await;
            reply.headers.extend(self.door.leaving.iter().cloned());
            reply
        })
    }

    fn body_max(&self) -> usize {
        self.door.offer.body_max
    }
}

impl Open {
    async fn answer(&self, request: Received) -> Reply {
        let now_ms = self.cx.world.clock.now_ms();
        let caller = match self.caller(&request, now_ms).await {
            Ok(caller) => caller,
            Err(reply) => return reply,
        };
        let pace = {
            let steady_ms = self.cx.world.clock.steady_ms();
            self.door.paces().take(caller.number, steady_ms, now_ms)
        };
        if pace.wait_ms > 0 {
            return told::limited(&pace);
        }
        told::with_pace(self.take_in(request, &caller, now_ms).await, &pace)
    }

    async fn take_in(&self, request: Received, caller: &Caller, now_ms: i64) -> Reply {
        let id = self.new_id(now_ms);
        let arrival = match self.arrival(request, caller, id) {
            Ok(arrival) => arrival,
            Err(reply) => return reply,
        };
        let Ok(_place) = self.places.try_acquire() else {
            return told::unavailable("too many calls wait");
        };
        let batch = Batch {
            arrivals: vec![arrival],
            progress: None,
        };
        // Calls that come at the same time share the store's transaction; nothing is gained by a batch of them here.
        let answer = self.cx.accept.accept(batch).await.and_then(|verdicts| {
            let verdict = verdicts.into_iter().next();
            verdict.ok_or_else(|| Failure::internal("a call got no verdict"))
        });
        told::verdict(answer, id)
    }

    /// Who calls, or why it is not let in: whatever the reason, it is told the same.
    async fn caller(&self, request: &Received, now_ms: i64) -> Result<Caller, Reply> {
        let door = &self.door;
        let Some(may) = &door.may else {
            return Ok(Caller {
                number: 0,
                name: door.name_of(0),
            });
        };
        let found = door.clients.caller(&request.headers, may, now_ms).await;
        let denied = match found {
            Ok(number) => {
                let name = door.name_of(number);
                return Ok(Caller { number, name });
            }
            Err(Denied::Unsure(why)) => {
                tracing::warn!(flow = %self.cx.flow, why, "a caller's token cannot be judged");
                return Err(told::unavailable("tokens cannot be judged at the moment"));
            }
            Err(denied) => denied,
        };
        self.cx.accept.turned_away(1);
        let why = match &denied {
            Denied::Wrong(why) => why,
            _ => "no credential",
        };
        if let Some(count) = door.away.one_more(now_ms) {
            tracing::warn!(flow = %self.cx.flow, api = %door.name, count, why, "callers were turned away: they have shown nothing that counts");
        }
        Err(told::denied())
    }

    fn arrival(&self, request: Received, caller: &Caller, id: MessageId) -> Result<Arrival, Reply> {
        let value = |name: &HeaderName| {
            let value = request.headers.get(name)?;
            value.to_str().ok()
        };
        if let Some(given) = value(&header::CONTENT_TYPE)
            && !is_json(given)
        {
            let why = "the body must be JSON: `Content-Type: application/json`";
            return Err(Reply::problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
        let delivery = match repeat_key(&request.headers) {
            Ok(None) => None,
            Err(()) => {
                let why = format!(
                    "an Idempotency-Key is one value of 1 to {REPEAT_KEY_MAX} ASCII characters"
                );
                return Err(Reply::problem(StatusCode::BAD_REQUEST, &why));
            }
            // Clients do not know each other's keys.
            Ok(Some(key)) => Some(format!("{}/{key}", caller.name)),
        };
        let body_max = self.door.offer.body_max;
        let body = inflate(&request.headers, request.body.clone(), body_max);
        let body = body.map_err(|failure| {
            let status = match failure.class {
                Class::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                _ => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            };
            Reply::problem(status, &failure.message)
        })?;
        let kept = self.door.kept.iter();
        let mut headers: Vec<(String, String)> = kept
            .filter_map(|name| Some((name.as_str().to_owned(), value(name)?.to_owned())))
            .collect();
        headers.push((CLIENT.to_owned(), caller.name.to_string()));
        headers.push((VERSION.to_owned(), self.door.offer.version.clone()));
        Ok(Arrival {
            body,
            headers,
            delivery,
            id: Some(id),
            strict: true,
            ..Arrival::default()
        })
    }

    fn new_id(&self, now_ms: i64) -> MessageId {
        let random = &self.cx.world.random;
        let entropy = (u128::from(random.next()) << 64) | u128::from(random.next());
        MessageId::from_parts(u64::try_from(now_ms).unwrap_or(0), entropy)
    }
}

/// Whether a content type is JSON.
fn is_json(given: &str) -> bool {
    let kind = given.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// The key by which a repeat is known, if there is one. One that cannot be read is no missing key.
fn repeat_key(headers: &HeaderMap) -> Result<Option<&str>, ()> {
    let mut given = headers.get_all("idempotency-key").iter();
    let Some(key) = given.next() else {
        return Ok(None);
    };
    let key = key.to_str().map_err(|_| ())?;
    let good = (1..=REPEAT_KEY_MAX).contains(&key.len()) && given.next().is_none();
    good.then_some(Some(key)).ok_or(())
}

#[cfg(test)]
mod tests;
