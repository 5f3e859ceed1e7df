//! Outside systems: connection, credentials, limits, circuit. Shared by steps, sinks and sources. It knows no flows and decides no retry.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::LOCATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;

use crate::component::words;
use crate::failure::{Class, Failure};
use crate::net::http::{Client, Deadline, Incoming, Options, Outgoing, StandIn};
use crate::net::trace;

pub mod admission;
pub(crate) mod ask;
mod auth;
pub mod broker;
mod budget;
mod build;
pub mod circuit;
pub(crate) mod content;
pub mod database;
pub mod file;
mod gate;
pub mod health;
pub mod maintenance;
mod outcome;
pub mod reach;
pub mod request;
#[cfg(test)]
mod secure;
#[cfg(test)]
pub(crate) mod stub;
#[cfg(test)]
mod tests;
mod window;

use admission::Admission;
use auth::Credentials;
use outcome::{Asked, Miss};
use request::{Answered, Sending};

/// The diagnostic codes of systems.
pub mod codes {
    use crate::diagnostic::Code;

    /// A system is reached without TLS.
    pub const PLAIN_HTTP: Code = Code {
        name: "plain-http",
        meaning: "A system on another machine is reached without TLS: anybody on the way can read and change what is sent.",
    };
    /// A system trusts every certificate.
    pub const ANY_CERTIFICATE: Code = Code {
        name: "any-certificate",
        meaning: "A system accepts any certificate: anybody on the way can take its place.",
    };

    /// All of them, for the reference.
    pub const ALL: &[Code] = &[PLAIN_HTTP, ANY_CERTIFICATE];
}

/// How long one exchange may take where nobody says so.
pub const TIMEOUT: words::Duration = words::Duration { ms: 10_000 };
/// How many requests may be under way at once where nobody says so.
pub const CONCURRENCY: u32 = 16;
/// How often a system that refuses the credentials is tried again where nobody says so.
pub const RETRY_AUTH: words::Duration = words::Duration { ms: 60_000 };
/// Which share of all calls may be repeats that fail where nobody says so.
pub const RETRY_BUDGET: words::Percent = words::Percent { of_100: 20 };
/// The largest answer where nobody says so.
pub const ANSWER: words::Size = words::Size { bytes: 8 << 20 };
/// How many redirects of a GET are followed where nobody says so.
pub const REDIRECTS: u8 = 5;

/// An outside system: what its file says, and its one connection, made at the first use.
pub struct System {
    name: Arc<str>,
    /// The base URL without a slash at its end.
    base: Url,
    headers: HeaderMap,
    credentials: Credentials,
    idempotency_header: HeaderName,
    redirects: u8,
    timeout: Option<words::Duration>,
    concurrency: usize,
    rate: Option<words::Rate>,
    answer_max: usize,
    failures: BTreeMap<u16, Class>,
    options: Options,
    admission: Arc<Admission>,
    client: OnceLock<Result<Client, String>>,
}

/// How one attempt ended, as far as anybody knows.
#[derive(Debug)]
pub enum Ended {
    /// It took effect, or was read: the answer's status is 2xx.
    Applied(Answered),
    /// It surely took no effect, or repeating it is safe.
    NotApplied(Failure),
    /// Bytes have left and nobody knows: class `ambiguous`.
    Unknown(Failure),
    /// The system takes no calls now, or refuses the credentials. Nothing took effect, and it is not the message's fault.
    Held(Failure),
}

/// What one attempt is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// A repeat is harmless: an unknown outcome is then a failure that may be retried.
    pub safe: bool,
    /// How long the exchange may take; waiting for the system's limits may take as long again.
    pub timeout: Duration,
    /// It is for a flow of high criticality: a share of the limits is kept for it.
    pub high: bool,
}

impl System {
    /// The name by which flows know it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The base URL, without a slash at its end.
    pub fn base_url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Whether it takes calls now.
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// How long one exchange may take, if the system says so.
    pub fn timeout(&self) -> Option<words::Duration> {
        self.timeout
    }

    /// How many requests may be under way at once, so that none of them waits longer than `timeout` for the system's rate.
    pub fn concurrency(&self, timeout: words::Duration) -> usize {
        let Some(rate) = self.rate else {
            return self.concurrency;
        };
        let in_time = u64::from(rate.count).saturating_mul(timeout.ms) / rate.per_ms.max(1);
        let in_time = usize::try_from(in_time).unwrap_or(usize::MAX);
        self.concurrency.min(in_time.max(1))
    }

    /// No attempt with this timeout takes longer, waiting for the system's limits included.
    pub fn longest_ms(timeout: words::Duration) -> u64 {
        timeout.ms.saturating_mul(2).saturating_add(1_000)
    }

    /// The path below the base URL of an absolute URL, such as a `next` link; `None` if it leads elsewhere.
    pub fn path_of(&self, url: &str) -> Option<String> {
        let url = Url::parse(url).ok()?;
        if url.origin() != self.base.origin() || url.cannot_be_a_base() {
            return None;
        }
        let below = url.path().strip_prefix(self.base_path())?;
        if !below.is_empty() && !below.starts_with('/') {
            return None;
        }
        Some(match url.query() {
            Some(query) => format!("{below}?{query}"),
            None => below.to_owned(),
        })
    }

    /// Sends a request that only reads, and gives the answer. A failure may be retried as its class says.
    pub async fn fetch(&self, sending: &Sending, timeout: Duration) -> Result<Answered, Failure> {
        let terms = Terms {
            safe: true,
            timeout,
            high: false,
        };
        match self.attempt(sending, None, terms).await {
            Ended::Applied(answered) => Ok(answered),
            Ended::NotApplied(failure) | Ended::Unknown(failure) | Ended::Held(failure) => {
                Err(failure)
            }
        }
    }

    /// Sends a request once, within the system's limits and with its credentials; a refused token is replaced once.
    pub async fn attempt(&self, sending: &Sending, key: Option<&str>, terms: Terms) -> Ended {
        let client = match self.client() {
            Ok(client) => client,
            Err(failure) => return Ended::NotApplied(failure),
        };
        let outgoing = match self.outgoing(sending, key) {
            Ok(outgoing) => outgoing,
            Err(failure) => return Ended::NotApplied(failure),
        };
        let pass = match self.admission.enter(terms.high, terms.timeout).await {
            Ok(pass) => pass,
            Err(shut) => return Ended::Held(shut),
        };
        let ended = self.exchange(client, &outgoing, sending, terms).await;
        match &ended {
            Ended::Applied(_) => pass.answered(),
            Ended::NotApplied(failure) | Ended::Unknown(failure) => {
                pass.failed(failure);
            }
            Ended::Held(_) => drop(pass),
        }
        match ended {
            Ended::NotApplied(failure) if failure.class == Class::Auth => Ended::Held(failure),
            ended => ended,
        }
    }

    async fn exchange(
        &self,
        client: &Client,
        outgoing: &Outgoing,
        sending: &Sending,
        terms: Terms,
    ) -> Ended {
        let deadline = Deadline::after(terms.timeout);
        let asked = Asked {
            system: &self.name,
            sending,
            safe: terms.safe,
            declared: &self.failures,
        };
        let mut refused: Option<String> = None;
        loop {
            let mut signed = outgoing.clone();
            let token = self
                .credentials
                .apply(&mut signed, client, deadline, refused.as_deref())
                .await;
            let token = match token {
                Ok(token) => token,
                Err(failure) => return Ended::NotApplied(failure),
            };
            let answer = match self.follow(client, sending, signed, deadline).await {
                Ok(answer) => answer,
                Err(trouble) => return asked.troubled(&trouble).into(),
            };
            if answer.status == 401 && refused.is_none() && token.is_some() {
                refused = token;
                continue;
            }
            return match asked.answered(&answer, self.admission.now_ms()) {
                Ok(()) => Ended::Applied(Answered::of(answer.status, &answer.headers, answer.body)),
                Err(miss) => miss.into(),
            };
        }
    }

    /// Sends, and follows the redirects of a request that only reads, as long as they stay on the host.
    async fn follow(
        &self,
        client: &Client,
        sending: &Sending,
        outgoing: Outgoing,
        deadline: Deadline,
    ) -> Result<Incoming, crate::net::http::Trouble> {
        let mut next = outgoing;
        let mut left = if sending.reads() { self.redirects } else { 0 };
        loop {
            let answer = client
                .exchange(next.clone(), self.answer_max, deadline)
                .await?;
            let redirects = matches!(answer.status, 301 | 302 | 303 | 307 | 308);
            let to = answer
                .headers
                .get(LOCATION)
                .filter(|_| redirects && left > 0)
                .and_then(|to| next.url.join(to.to_str().ok()?).ok())
                .filter(|to| to.origin() == self.base.origin());
            match to {
                Some(to) => next.url = to,
                None => return Ok(answer),
            }
            left -= 1;
        }
    }

    /// From now on this answers all requests, and none leaves the process. To be called before the first one.
    pub(crate) fn answered_by(&self, stand_in: Arc<dyn StandIn>) {
        self.client
            .get_or_init(|| Ok(Client::answered_by(stand_in)))
            .as_ref()
            .ok();
    }

    fn client(&self) -> Result<&Client, Failure> {
        self.client
            .get_or_init(|| Client::new(self.options.clone()))
            .as_ref()
            .map_err(|reason| {
                let message = format!("{}: no HTTP client can be made: {reason}", self.name);
                Failure::config(message)
            })
    }

    fn outgoing(&self, sending: &Sending, key: Option<&str>) -> Result<Outgoing, Failure> {
        let mut headers = self.headers.clone();
        for (name, value) in &sending.headers {
            let (name, value) = header(name, value)?;
            headers.insert(name, value);
        }
        if let Some(key) = key {
            let (_, value) = header(self.idempotency_header.as_str(), key)?;
            headers.insert(self.idempotency_header.clone(), value);
        }
        if let Some(place) = trace::now()
            && !headers.contains_key(trace::TRACEPARENT)
            && let Ok(value) = HeaderValue::from_str(&place.to_string())
        {
            headers.insert(HeaderName::from_static(trace::TRACEPARENT), value);
        }
        Ok(Outgoing {
            method: sending.method.clone(),
            url: self.url(&sending.path)?,
            headers,
            body: sending.body.clone(),
        })
    }

    fn base_path(&self) -> &str {
        self.base.path().trim_end_matches('/')
    }

    /// The whole URL of a path. A path that climbs out of the base URL is a failure: values of messages may stand in it.
    fn url(&self, path: &str) -> Result<Url, Failure> {
        let fault = |why: &str| {
            let shown: String = path.chars().take(200).collect();
            Failure::mapping(format!("the path `{shown}` of {} {why}", self.name))
        };
        let (before, _) = path.split_at(path.find(['?', '#']).unwrap_or(path.len()));
        if !before.is_empty() && !before.starts_with('/') {
            return Err(fault("does not begin with /"));
        }
        let climbs = before.split(['/', '\\']).any(|part| {
            let part = part.to_ascii_lowercase().replace("%2e", ".");
            part == "." || part == ".."
        });
        if climbs {
            return Err(fault("has a part `.` or `..`"));
        }
        let url =
            Url::parse(&format!("{}{path}", self.base_url())).map_err(|_| fault("makes no URL"))?;
        if url.origin() != self.base.origin() {
            return Err(fault("leads to another host"));
        }
        Ok(url)
    }
}

impl From<Miss> for Ended {
    fn from(miss: Miss) -> Ended {
        match miss {
            Miss::NotApplied(failure) => Ended::NotApplied(failure),
            Miss::Unknown(failure) => Ended::Unknown(failure),
        }
    }
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Failure> {
    let fault =
        |what: &str| Failure::mapping(format!("the {what} of the header `{name}` cannot be sent"));
    let sent = HeaderName::from_bytes(name.as_bytes()).map_err(|_| fault("name"))?;
    let value = HeaderValue::from_str(value).map_err(|_| fault("value"))?;
    Ok((sent, value))
}
