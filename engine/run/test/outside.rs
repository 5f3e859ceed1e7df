//! The outside systems of a test: they answer in this process, at the place where requests leave it, as the test says. Retry, circuit, limits
//! and all that decides about an answer are the engine's own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::power::Power;
use crate::body::{Body, write_string};
use crate::component::{Answer, Attempt, Context, Effect, Probed, Promises, Request};
use crate::expression::{Expression, Scope, Tables};
use crate::failure::{Class, Failure};
use crate::flow::test::request::Pattern;
use crate::flow::test::{self, Fails, TestFile, value};
use crate::message::{Message, MessageId};
use crate::net::http::{Incoming, Outgoing, StandIn, Trouble, TroubleKind};
use crate::system::System;
use crate::system::admission::Admission;
use crate::world::Pending;
use crate::world::clock::{Clock, StillClock};

/// Headers that say nothing about the business, or are secret.
const HEADERS_DROPPED: &[&str] = &["authorization", "cookie", "user-agent", "accept"];
/// What a token server answers.
const TOKEN: &str = r#"{"access_token":"test","token_type":"Bearer","expires_in":3600}"#;

tokio::task_local! {
    static ASKING: Asking;
}

/// Who makes a request.
#[derive(Clone)]
struct Asking {
    flow: Arc<str>,
    step: Arc<str>,
    key: Option<String>,
    safe: bool,
}

/// A request that a system got.
#[derive(Clone, Debug)]
pub(super) struct Called {
    pub(super) system: Arc<str>,
    pub(super) flow: Arc<str>,
    pub(super) step: Arc<str>,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Body,
    /// So long after the beginning of the test.
    pub(super) at_ms: i64,
    /// What came back: a status, `lost`, `timeout` or `unreachable`.
    pub(super) answer: String,
    /// The system did what was asked, whether anybody heard of it or not.
    pub(super) applied: bool,
    /// A repeat does no harm by itself: it reads, or is an upsert.
    pub(super) safe: bool,
    /// What lets the system recognise a repeat.
    pub(super) key: Option<String>,
}

/// A rule, ready to answer.
struct Rule {
    pattern: Pattern,
    step: Option<String>,
    when: Option<Expression>,
    answers: Vec<Ready>,
    /// How many requests it has answered.
    used: usize,
}

/// An answer, ready to be given.
#[derive(Clone)]
struct Ready {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
    delay: Duration,
    fails: Option<Fails>,
}

/// All systems of a test. It outlives the engine that asks them.
pub(super) struct Outside {
    state: Mutex<State>,
    pub(super) clock: Arc<StillClock>,
    pub(super) power: Arc<Power>,
    start_ms: i64,
}

#[derive(Default)]
struct State {
    rules: BTreeMap<String, Vec<Rule>>,
    calls: Vec<Called>,
    /// What nobody has said an answer to.
    unanswered: Vec<String>,
    /// How many requests each step has made, by flow and step.
    made: BTreeMap<(Arc<str>, Arc<str>), u64>,
    /// How many are not answered yet.
    under_way: usize,
}

impl Outside {
    /// The systems as a test and its file say.
    pub(super) fn of(
        (file, nth): (&TestFile, usize),
        clock: Arc<StillClock>,
        power: Arc<Power>,
    ) -> Result<Outside, Failure> {
        let mut rules: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
        let nth_text = nth.to_string();
        let own: &[&str] = &["tests", &nth_text, "systems"];
        let test = &file.all()[nth];
        for (path, systems) in [(own, &test.systems), (&["systems"], &file.tests.systems)] {
            for (name, list) in systems.iter().flatten() {
                for (nth, rule) in list.iter().enumerate() {
                    let nth = nth.to_string();
                    let at = [path, &[name.as_str(), &nth]].concat();
                    let ready = ready(file, &at, rule)?;
                    rules.entry(name.clone()).or_default().push(ready);
                }
            }
        }
        Ok(Outside {
            state: Mutex::new(State {
                rules,
                ..State::default()
            }),
            start_ms: clock.now_ms(),
            clock,
            power,
        })
    }

    /// All requests so far.
    pub(super) fn calls(&self) -> Vec<Called> {
        self.state().calls.clone()
    }

    /// How many requests there were: a sign of life.
    pub(super) fn count(&self) -> u64 {
        self.state().calls.len() as u64
    }

    /// Whether somebody waits for an answer.
    pub(super) fn busy(&self) -> bool {
        self.state().under_way > 0
    }

    /// What nobody has said an answer to.
    pub(super) fn unanswered(&self) -> Vec<String> {
        self.state().unanswered.clone()
    }

    /// An engine starts: nobody waits any more.
    pub(super) fn starts(&self) {
        self.state().under_way = 0;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a request; `Err` is why no answer arrives. Never ends for an engine whose power is gone.
    async fn answer(&self, mut call: Called, within: Duration) -> Result<Ready, Fails> {
        if self.power.is_gone() {
            return std::future::pending().await;
        }
        call.at_ms = self.clock.now_ms() - self.start_ms;
        let (answer, cut) = {
            let mut state = self.state();
            let made = state
                .made
                .entry((call.flow.clone(), call.step.clone()))
                .or_default();
            *made += 1;
            let nth = *made;
            let answer = state.choose(&call);
            call.answer = answer.told(within);
            call.applied = answer.applied();
            let cut = self.power.reached(&call.step, nth);
            if cut {
                call.answer = "lost".to_owned();
            }
            state.calls.push(call);
            state.under_way += 1;
            (answer, cut)
        };
        if cut {
            return std::future::pending().await;
        }
        let _answered = Answered(self);
        let late = answer.delay > within;
        let wait = match answer.fails {
            Some(Fails::Timeout) => within,
            _ => answer.delay.min(within),
        };
        if !wait.is_zero() {
            self.clock.sleep(wait).await;
        }
        match answer.fails {
            None if late => Err(Fails::Timeout),
            None => Ok(answer),
            Some(fails) => Err(fails),
        }
    }
}

/// Somebody waits for an answer, as long as this lives.
struct Answered<'a>(&'a Outside);

impl Drop for Answered<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.under_way = state.under_way.saturating_sub(1);
    }
}

impl State {
    /// The answer of the first rule that fits. Where none does, the request is noted, and the system cannot be reached.
    fn choose(&mut self, call: &Called) -> Ready {
        let document = call.document();
        let rules = self.rules.get_mut(&*call.system);
        for rule in rules.into_iter().flatten() {
            if !rule.fits(call, &document) {
                continue;
            }
            let at = rule.used.min(rule.answers.len() - 1);
            rule.used += 1;
            return rule.answers[at].clone();
        }
        // A database that takes a row has nothing to say, nor has a broker that takes a letter.
        if ["SQL", "PUBLISH"].contains(&call.method.as_str()) {
            return Ready::status(200);
        }
        self.unanswered.push(format!(
            "{} / {} asks {}: {} {}",
            call.flow, call.step, call.system, call.method, call.path
        ));
        Ready {
            fails: Some(Fails::Unreachable),
            ..Ready::status(0)
        }
    }
}

impl Rule {
    fn fits(&self, call: &Called, document: &Body) -> bool {
        let step = self.step.as_deref().is_none_or(|step| step == &*call.step);
        if !step || !self.pattern.fits(&call.method, &call.path) {
            return false;
        }
        let Some(when) = &self.when else { return true };
        let message = Message::new(MessageId::default(), 0, document.clone());
        let tables = Tables::default();
        Scope::of(&message, &tables).is_ok_and(|scope| when.decide(&scope).unwrap_or(false))
    }
}

impl Ready {
    fn status(status: u16) -> Ready {
        Ready {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
            delay: Duration::ZERO,
            fails: None,
        }
    }

    fn applied(&self) -> bool {
        (200..300).contains(&self.status) && self.fails != Some(Fails::Unreachable)
    }

    /// What comes back, in a word.
    fn told(&self, within: Duration) -> String {
        match self.fails {
            Some(Fails::Lost) => "lost".to_owned(),
            Some(Fails::Timeout) => "timeout".to_owned(),
            Some(Fails::Unreachable) => "unreachable".to_owned(),
            None if self.delay > within => "timeout".to_owned(),
            None => self.status.to_string(),
        }
    }
}

impl Called {
    /// As expressions see it.
    fn document(&self) -> Body {
        let mut out = Vec::new();
        for (name, value) in [
            ("method", &*self.method),
            ("path", &self.path),
            ("flow", &self.flow),
            ("step", &self.step),
        ] {
            out.push(if out.is_empty() { b'{' } else { b',' });
            write_string(&mut out, name);
            out.push(b':');
            write_string(&mut out, value);
        }
        out.extend_from_slice(b",\"headers\":{");
        for (nth, (name, value)) in self.headers.iter().enumerate() {
            if nth > 0 {
                out.push(b',');
            }
            write_string(&mut out, name);
            out.push(b':');
            write_string(&mut out, value);
        }
        out.extend_from_slice(b"},\"body\":");
        match self.body.document() {
            Ok(item) => out.extend_from_slice(item.json_bytes()),
            Err(_) if self.body.is_empty() => out.extend_from_slice(b"null"),
            Err(_) => write_string(&mut out, &String::from_utf8_lossy(self.body.bytes())),
        }
        out.push(b'}');
        Body::new(out)
    }
}

/// A rule, from what the file says.
fn ready(file: &TestFile, at: &[&str], rule: &test::Rule) -> Result<Rule, Failure> {
    let pattern = Pattern::parse(&rule.on).map_err(Failure::config)?;
    let when = rule.when.as_ref();
    let when = when.map(|when| Expression::compile(&when.0));
    let mut answers = Vec::new();
    for (nth, answer) in rule.answers.iter().enumerate() {
        let nth = nth.to_string();
        let at = [at, &["answers", &nth]].concat();
        answers.push(match answer {
            test::Answer::Status(status) => Ready::status(*status),
            test::Answer::Full(reply) => reply_of(file, &at, reply)?,
        });
    }
    Ok(Rule {
        pattern,
        step: rule.step.clone(),
        when: when
            .transpose()
            .map_err(|_| Failure::config(format!("the rule `{}` has no condition", rule.on)))?,
        answers,
        used: 0,
    })
}

fn reply_of(file: &TestFile, at: &[&str], reply: &test::Reply) -> Result<Ready, Failure> {
    let body = match (file.find(at).get("body"), &reply.text) {
        (Some(body), _) => Bytes::from(value::json_of(body)),
        (None, Some(text)) => Bytes::from(text.clone()),
        (None, None) => match &reply.file {
            Some(path) => file.fixture(path)?,
            None => Bytes::new(),
        },
    };
    let body = file.changed(at, body).map_err(Failure::config)?;
    let mut headers: Vec<(String, String)> = Vec::new();
    for (name, value) in reply.headers.iter().flatten() {
        headers.push((name.to_ascii_lowercase(), value.clone()));
    }
    if !body.is_empty() && headers.iter().all(|(name, _)| name != "content-type") {
        headers.push(("content-type".to_owned(), "application/json".to_owned()));
    }
    // Without a status: what is lost was done, and a system that says nothing in time has done nothing that anybody knows of.
    let status = reply.status.unwrap_or(match reply.fails {
        Some(Fails::Timeout | Fails::Unreachable) => 0,
        Some(Fails::Lost) | None => 200,
    });
    Ok(Ready {
        status,
        headers,
        body,
        delay: reply.delay.map_or(Duration::ZERO, |delay| delay.std()),
        fails: reply.fails,
    })
}

/// What stands for one system.
pub(super) struct Desk {
    pub(super) system: Arc<System>,
    pub(super) outside: Arc<Outside>,
}

impl StandIn for Desk {
    fn answer(
        &self,
        outgoing: Outgoing,
        within: Duration,
    ) -> Pending<'_, Result<Incoming, Trouble>> {
        Box::pin(async move {
            let body = outgoing.body.clone().unwrap_or_default();
            let asks_token = body.starts_with(b"grant_type=") || find(&body, b"&grant_type=");
            let Some(path) = self
                .system
                .path_of(outgoing.url.as_str())
                .filter(|_| !asks_token)
            else {
                return Ok(incoming(&Ready {
                    body: Bytes::from_static(TOKEN.as_bytes()),
                    headers: vec![("content-type".to_owned(), "application/json".to_owned())],
                    ..Ready::status(200)
                }));
            };
            let asking = ASKING.try_with(Asking::clone).ok();
            let reads = ["GET", "HEAD"].contains(&outgoing.method.as_str());
            let call = Called {
                system: self.system.name().clone(),
                flow: asking
                    .as_ref()
                    .map_or_else(|| Arc::from("@source"), |asking| asking.flow.clone()),
                step: asking
                    .as_ref()
                    .map_or_else(|| Arc::from("@source"), |asking| asking.step.clone()),
                method: outgoing.method.as_str().to_owned(),
                path,
                headers: headers_of(&outgoing.headers),
                body: Body::new(body),
                at_ms: 0,
                answer: String::new(),
                applied: false,
                safe: reads || asking.as_ref().is_some_and(|asking| asking.safe),
                key: asking.and_then(|asking| asking.key),
            };
            let answer = self.outside.answer(call, within).await;
            answer.map(|ready| incoming(&ready)).map_err(trouble)
        })
    }
}

fn find(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn headers_of(headers: &HeaderMap) -> BTreeMap<String, String> {
    let kept = headers
        .iter()
        .filter(|(name, value)| !value.is_sensitive() && !HEADERS_DROPPED.contains(&name.as_str()));
    kept.filter_map(|(name, value)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    })
    .collect()
}

fn incoming(ready: &Ready) -> Incoming {
    let mut headers = HeaderMap::new();
    for (name, value) in &ready.headers {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        ) {
            headers.append(name, value);
        }
    }
    Incoming {
        status: ready.status,
        headers,
        body: ready.body.clone(),
    }
}

fn trouble(fails: Fails) -> Trouble {
    let (kind, message) = match fails {
        Fails::Lost => (TroubleKind::Broken, "the connection broke"),
        Fails::Timeout => (TroubleKind::Timeout, "no answer in time"),
        Fails::Unreachable => (TroubleKind::Connect, "no connection"),
    };
    Trouble {
        kind,
        status: None,
        message: message.to_owned(),
    }
}

/// A step or sink of a flow under test: as it is, but the systems know who asks. Databases and brokers are not asked at all.
pub(super) struct Watched {
    pub(super) inner: Arc<dyn Effect>,
    pub(super) flow: Arc<str>,
    pub(super) step: Arc<str>,
    /// What is answered for instead of asking it.
    pub(super) aside: Option<(Arc<str>, Aside)>,
    pub(super) outside: Arc<Outside>,
}

/// A system that is not reached over HTTP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Aside {
    Database,
    Broker,
}

impl Watched {
    fn asking(&self, probe: bool, key: Option<&String>) -> Asking {
        Asking {
            flow: self.flow.clone(),
            step: self.step.clone(),
            key: key.cloned(),
            safe: probe || self.inner.promises().safe,
        }
    }

    /// What a database or a broker would have been asked.
    async fn give(&self, (system, kind): &(Arc<str>, Aside), request: &Request) -> Attempt {
        let within = Duration::from_millis(self.inner.promises().timeout_ms);
        let (method, path, headers, body) = match kind {
            Aside::Database => {
                let body = Body::new(request.bytes.clone());
                ("SQL", table_of(&request.bytes), BTreeMap::new(), body)
            }
            Aside::Broker => letter_of(&request.bytes),
        };
        let call = Called {
            system: system.clone(),
            flow: self.flow.clone(),
            step: self.step.clone(),
            method: method.to_owned(),
            path,
            headers,
            body,
            at_ms: 0,
            answer: String::new(),
            applied: false,
            safe: self.inner.promises().safe,
            key: request.idempotency_key.clone(),
        };
        match self.outside.answer(call, within).await {
            Ok(ready) if (200..300).contains(&ready.status) => Attempt::Applied(Answer {
                bytes: Bytes::from_static(b"{}"),
            }),
            Ok(ready) => Attempt::NotApplied(Failure::new(
                match ready.status {
                    409 => Class::Conflict,
                    422 => Class::Validation,
                    _ => Class::Unavailable,
                },
                format!("{system} refuses it with {}", ready.status),
            )),
            Err(Fails::Unreachable) => Attempt::NotApplied(Failure::new(
                Class::Unavailable,
                format!("{system}: no connection"),
            )),
            Err(Fails::Lost | Fails::Timeout) => Attempt::Unknown(Failure::new(
                Class::Ambiguous,
                format!("{system}: the connection broke"),
            )),
        }
    }
}

/// What a letter to a broker is: where to, with which headers, and what it says.
fn letter_of(request: &Bytes) -> (&'static str, String, BTreeMap<String, String>, Body) {
    let stored: serde_json::Value = serde_json::from_slice(request).unwrap_or_default();
    let word = |name: &str| stored[name].as_str().unwrap_or_default().to_owned();
    let path = match word("exchange").as_str() {
        "" => word("routing_key"),
        exchange => format!("{exchange}/{}", word("routing_key")),
    };
    let headers = stored["headers"].as_object().into_iter().flatten();
    let headers = headers
        .map(|(name, value)| {
            let value = value.as_str().unwrap_or_default().to_owned();
            (name.to_ascii_lowercase(), value)
        })
        .collect();
    let body = match stored["text"].as_str() {
        Some(text) => Body::new(text.to_owned()),
        None => Body::new(request.clone()),
    };
    ("PUBLISH", path, headers, body)
}

/// The table that a statement is about.
fn table_of(request: &Bytes) -> String {
    let document = Body::new(request.clone());
    let statement = document.document().ok();
    let statement = statement
        .and_then(|root| root.get("statement"))
        .and_then(|text| text.as_str())
        .unwrap_or_default();
    let mut words = statement.split_whitespace();
    let table = words
        .by_ref()
        .find(|word| word.eq_ignore_ascii_case("into") || word.eq_ignore_ascii_case("update"))
        .and_then(|_| words.next());
    let table = table.unwrap_or_default().split('(').next();
    table.unwrap_or_default().replace(['"', '`'], "")
}

impl Effect for Watched {
    fn promises(&self) -> Promises {
        self.inner.promises()
    }

    fn admission(&self) -> Option<&Arc<Admission>> {
        self.inner.admission()
    }

    fn falls_back(&self) -> bool {
        self.inner.falls_back()
    }

    fn prepare(&self, message: &Message, cx: &Context<'_>) -> Result<Request, Failure> {
        self.inner.prepare(message, cx)
    }

    fn perform<'a>(&'a self, request: &'a Request) -> Pending<'a, Attempt> {
        match &self.aside {
            Some(aside) => Box::pin(self.give(aside, request)),
            None => Box::pin({
                let key = request.idempotency_key.as_ref();
                ASKING.scope(self.asking(false, key), self.inner.perform(request))
            }),
        }
    }

    fn probe<'a>(&'a self, message: &'a Message, request: &'a Request) -> Pending<'a, Probed> {
        Box::pin(ASKING.scope(self.asking(true, None), self.inner.probe(message, request)))
    }

    fn finish(
        &self,
        message: Message,
        answer: &Answer,
        cx: &Context<'_>,
    ) -> Result<Message, Failure> {
        self.inner.finish(message, answer, cx)
    }
}
