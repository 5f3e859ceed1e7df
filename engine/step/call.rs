//! The step `call`: asks a system while a message is on its way, and binds the answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::cache::Cache;
use super::validate::breached;
use super::{Ready, codes};
use crate::body::Body;
use crate::component::codes as common;
use crate::component::words::{Duration, ExpressionText, TemplateText};
use crate::component::{Answer, Attempt, Build, Context, Effect, Part, Probed, Promises, Request};
use crate::diagnostic::Diagnostic;
use crate::failure::{Class, Failure};
use crate::message::Message;
use crate::schema::Schema;
use crate::system::admission::Admission;
use crate::system::ask::{Ask, Wanted, answer_body};
use crate::system::request::Answered;
use crate::world::Pending;

/// Asks a system over HTTP. `into` beside the step binds the body of the answer as a variable; the message's own body stays as it is.
/// Status 404 is a failure of class `not_found`, other failures have the class that their status means.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The system.
    pub system: String,
    /// The path of a GET request.
    pub get: Option<TemplateText>,
    /// The path of a POST request.
    pub post: Option<TemplateText>,
    /// The path of a PUT request.
    pub put: Option<TemplateText>,
    /// The path of a PATCH request.
    pub patch: Option<TemplateText>,
    /// The path of a DELETE request.
    pub delete: Option<TemplateText>,
    /// The path of a HEAD request.
    pub head: Option<TemplateText>,
    /// The mapping that makes the request's body. Without `map` and `body` the whole body is sent, if the method takes one.
    pub map: Option<String>,
    /// The request's body, as an expression.
    pub body: Option<ExpressionText>,
    /// The media type of the request's body. Default `application/json`.
    pub content_type: Option<String>,
    /// More headers of the request; not for credentials.
    #[serde(default)]
    pub headers: BTreeMap<String, TemplateText>,
    /// The schema that answers must keep to.
    pub answer: Option<String>,
    /// How long an answer may be used again for the same request; only for GET and HEAD.
    pub cache: Option<Duration>,
    /// What to go on with when the system cannot be asked.
    pub fallback: Option<Fallback>,
    /// A text by which the system recognises a repeat.
    pub idempotency_key: Option<ExpressionText>,
    /// How long the system keeps idempotency keys after it saw them first. Default 24h.
    pub kept: Option<Duration>,
    /// Sending the same request twice is as good as once. Default false.
    #[serde(default)]
    pub upsert: bool,
}

/// What stands in for the answer of a system that does not answer, cannot be reached, or is down; only for GET and HEAD. The timeline of the
/// message says so. With both, a remembered answer goes before the value.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// An answer that is older than `cache` by at most this.
    pub stale: Option<Duration>,
    /// This body.
    pub value: Option<Value>,
}

impl Part for Call {
    type Ready = Ready;
    const EXAMPLE: &'static str = "- id: customer
  call: { system: erp, get: \"/customers/{{customer.code}}\", answer: erp/customer.v1, cache: 5m, fallback: { stale: 1h } }
  into: customer_record
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let ask = Wanted {
            system: &self.system,
            verbs: &[
                ("get", &self.get),
                ("post", &self.post),
                ("put", &self.put),
                ("patch", &self.patch),
                ("delete", &self.delete),
                ("head", &self.head),
            ],
            headers: &self.headers,
            map: self.map.as_deref(),
            body: self.body.as_ref(),
            content_type: self.content_type.as_deref(),
            idempotency_key: self.idempotency_key.as_ref(),
            kept: self.kept,
            upsert: self.upsert,
        }
        .build(cx);
        let answer = self.answer.as_deref();
        let answer = answer.map(|name| cx.schema(&["answer"], name));
        let ask = ask?;
        if ask.reads() && cx.common.into.is_none() && self.head.is_none() && self.answer.is_none() {
            let place = cx.place(&[]);
            let message = "the answer is not used";
            let help = "bind it with `into: name` beside `call`";
            let finding = Diagnostic::warning(codes::UNUSED_ANSWER, place, message);
            cx.report(finding.help(help));
        }
        let cache = self.cache(cx, &ask)?;
        let answer = match answer {
            Some(schema) => Some(schema?),
            None => None,
        };
        let stand_in = self.stand_in(cx, &ask, answer.as_deref())?;
        let into = cx.common.into.as_deref();
        Some(Ready::Effect(Arc::new(Calling {
            ask,
            into: into.map(|name| Arc::from(name.trim_start_matches('$'))),
            answer,
            cache,
            stand_in,
            falls_back: self.fallback.is_some(),
        })))
    }
}

impl Call {
    fn cache(&self, cx: &mut Build<'_>, ask: &Ask) -> Option<Option<Cache>> {
        let stale = self.fallback.as_ref().and_then(|fallback| fallback.stale);
        match (self.cache, stale) {
            (None, None) => Some(None),
            (None, Some(_)) => {
                let message = "`stale` uses remembered answers, and none are remembered";
                let help = "add `cache: 5m`";
                cx.error(common::CONFLICTING_SETTINGS, &["fallback"], message, help);
                None
            }
            (Some(_), _) if !ask.reads() => {
                let message = "only answers to GET and HEAD can be used again";
                cx.error(
                    common::CONFLICTING_SETTINGS,
                    &["cache"],
                    message,
                    "leave `cache` out",
                );
                None
            }
            (Some(fresh), stale) => {
                let stale = stale.map(Duration::std);
                Some(Some(Cache::new(
                    fresh.std(),
                    stale.unwrap_or_default(),
                    ask.system().admission().clone(),
                )))
            }
        }
    }

    /// The value that stands in for an answer, as an answer.
    fn stand_in(
        &self,
        cx: &mut Build<'_>,
        ask: &Ask,
        schema: Option<&Schema>,
    ) -> Option<Option<Answer>> {
        let Some(fallback) = &self.fallback else {
            return Some(None);
        };
        if fallback.stale.is_none() && fallback.value.is_none() {
            let message = "the fallback says nothing";
            let help = "give `stale: 1h`, `value: { .. }`, or both";
            cx.error(common::CONFLICTING_SETTINGS, &["fallback"], message, help);
            return None;
        }
        let Some(value) = &fallback.value else {
            return Some(None);
        };
        let path = &["fallback", "value"];
        if !ask.reads() {
            let message = "only for GET and HEAD can something stand in for the answer";
            let help = "leave `fallback` out: the message waits until the system is back";
            cx.error(common::CONFLICTING_SETTINGS, path, message, help);
            return None;
        }
        let body = Body::new(value.to_string());
        if let Some(schema) = schema
            && let Err(breaches) = schema.validate(body.document().ok()?)
        {
            let failure = breached("the value", schema.name(), &breaches);
            let help = "give a value that keeps to the schema of `answer`";
            cx.error(common::BAD_VALUE, path, failure.message, help);
            return None;
        }
        let answered = Answered {
            status: 200,
            headers: Vec::new(),
            body,
        };
        Some(Some(answered.to_document()))
    }
}

struct Calling {
    ask: Ask,
    into: Option<Arc<str>>,
    answer: Option<Arc<Schema>>,
    cache: Option<Cache>,
    /// Stands in for an answer that cannot be had.
    stand_in: Option<Answer>,
    falls_back: bool,
}

impl Calling {
    /// The attempt, or the value that stands in for its answer.
    fn or_instead(&self, attempt: Attempt) -> Attempt {
        match (attempt, &self.stand_in) {
            (Attempt::NotApplied(failure) | Attempt::Held(failure), Some(answer))
                if matches!(failure.class, Class::Timeout | Class::Unavailable) =>
            {
                let told = format!("the value of `fallback`, because {}", failure.message);
                Attempt::Instead(answer.clone(), told)
            }
            (attempt, _) => attempt,
        }
    }
}

impl Effect for Calling {
    fn promises(&self) -> Promises {
        let mut promises = self.ask.promises();
        if self.cache.is_some() {
            // Those who wait for another's answer to the same request then make their own attempt.
            promises.timeout_ms = promises.timeout_ms.saturating_mul(2);
        }
        promises
    }

    fn admission(&self) -> Option<&Arc<Admission>> {
        self.ask.admission()
    }

    fn falls_back(&self) -> bool {
        self.falls_back
    }

    fn prepare(&self, message: &Message, cx: &Context<'_>) -> Result<Request, Failure> {
        self.ask.prepare(message, cx)
    }

    fn perform<'a>(&'a self, request: &'a Request) -> Pending<'a, Attempt> {
        match &self.cache {
            None => Box::pin(async { self.or_instead(self.ask.perform(request).await) }),
            Some(cache) => {
                let wait = std::time::Duration::from_millis(self.ask.promises().timeout_ms);
                let attempt = cache.attempt(&request.bytes, wait, || self.ask.perform(request));
                Box::pin(async { self.or_instead(attempt.await) })
            }
        }
    }

    fn probe<'a>(&'a self, message: &'a Message, request: &'a Request) -> Pending<'a, Probed> {
        self.ask.probe(message, request)
    }

    fn finish(
        &self,
        mut message: Message,
        answer: &Answer,
        _: &Context<'_>,
    ) -> Result<Message, Failure> {
        if self.into.is_none() && self.answer.is_none() {
            return Ok(message);
        }
        let body = answer_body(self.ask.system(), answer)?;
        if let Some(schema) = &self.answer {
            let what = format!("the answer of {}", self.ask.system().name());
            let checked = schema.validate(body.document()?);
            checked.map_err(|breaches| breached(&what, schema.name(), &breaches))?;
        }
        if let Some(name) = &self.into {
            message.bind(name.clone(), body);
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::bench::Bench;
    use crate::system::stub::{Reply, Stub, answer};

    const CUSTOMER: &str = r#"{"code": "C-1", "limit": 100.50}"#;

    async fn stub() -> Stub {
        Stub::start(|seen| {
            let path = seen.head.split(' ').nth(1).unwrap_or_default().to_owned();
            Reply::Bytes(match path.as_str() {
                "/customers/C-1" | "/customers/C%2F1?a=b%26c" => answer(200, "", CUSTOMER),
                "/customers/text" => answer(200, "", "hello"),
                "/customers/none" => answer(204, "", ""),
                _ => answer(404, "", "unknown"),
            })
        })
        .await
    }

    fn bench(stub: &Stub) -> Bench {
        Bench::new()
            .system(&stub.system("", ""))
            .schema("customer", r#"{"type": "object", "required": ["code"]}"#)
            .schema("other", r#"{"type": "object", "required": ["name"]}"#)
    }

    /// Sends a message through a call.
    async fn sent(bench: &Bench, entry: &str, body: &str) -> Result<Message, Failure> {
        let effect = bench.effect(entry);
        let message = bench.message(body);
        let request = effect.prepare(&message, &bench.cx())?;
        match effect.perform(&request).await {
            Attempt::Applied(answer) | Attempt::Instead(answer, _) => {
                effect.finish(message, &answer, &bench.cx())
            }
            Attempt::NotApplied(failure) | Attempt::Unknown(failure) | Attempt::Held(failure) => {
                Err(failure)
            }
        }
    }

    const GET: &str =
        "call: { system: erp, get: '/customers/{{c}}', answer: customer }\ninto: customer\n";

    #[tokio::test]
    async fn the_answer_is_bound_and_the_body_stays() {
        let stub = stub().await;
        let bench = bench(&stub);
        let next = sent(&bench, GET, r#"{"c": "C-1"}"#).await.unwrap();
        assert_eq!(next.body.bytes(), &r#"{"c": "C-1"}"#);
        assert_eq!(next.variables.get("customer").unwrap().bytes(), &CUSTOMER);
        let failure = sent(&bench, GET, r#"{"c": "C-2"}"#).await.unwrap_err();
        assert_eq!(failure.class, Class::NotFound);
        assert_eq!(failure.detail.as_deref(), Some("unknown"));
        let entry = "call: { system: erp, get: '/customers/{{c}}?a={{d}}' }\ninto: x\n";
        let next = sent(&bench, entry, r#"{"c": "C/1", "d": "b&c"}"#).await;
        assert!(next.is_ok(), "{next:?}");
    }

    #[tokio::test]
    async fn answers_keep_to_their_schema() {
        let stub = stub().await;
        let bench = bench(&stub);
        let other = GET.replace("answer: customer", "answer: other");
        let failure = sent(&bench, &other, r#"{"c": "C-1"}"#).await.unwrap_err();
        assert_eq!(failure.class, Class::Validation);
        assert!(
            failure
                .message
                .starts_with("the answer of erp breaks other"),
            "{failure}"
        );
        let failure = sent(&bench, GET, r#"{"c": "text"}"#).await.unwrap_err();
        assert_eq!(failure.class, Class::Parse);
        let open = GET.replace(", answer: customer", "");
        let next = sent(&bench, &open, r#"{"c": "none"}"#).await.unwrap();
        assert_eq!(next.variables.get("customer").unwrap().bytes(), &"null");
    }

    #[tokio::test]
    async fn a_remembered_answer_is_not_asked_for() {
        let stub = stub().await;
        let bench = bench(&stub);
        let entry = GET.replace("answer: customer", "answer: customer, cache: 1m");
        let effect = bench.effect(&entry);
        let prepare = |body: &str| effect.prepare(&bench.message(body), &bench.cx()).unwrap();
        let (one, other) = (prepare(r#"{"c": "C-1"}"#), prepare(r#"{"c": "C-2"}"#));
        for _ in 0..3 {
            assert!(matches!(effect.perform(&one).await, Attempt::Applied(_)));
            assert!(matches!(
                effect.perform(&other).await,
                Attempt::NotApplied(_)
            ));
        }
        assert_eq!(stub.seen().len(), 1 + 3);
    }

    #[tokio::test]
    async fn a_value_stands_in_for_a_system_that_is_away_and_not_for_a_no() {
        let stub = Stub::start(|seen| {
            let away = seen.head.starts_with("GET /away");
            Reply::Bytes(answer(if away { 503 } else { 404 }, "", ""))
        })
        .await;
        let bench = Bench::new().system(&stub.system("", "circuit: { least: 2 }\n"));
        let entry = "call: { system: erp, get: '/{{c}}', fallback: { value: { code: C-0, limit: 0 } } }\ninto: customer\n";
        assert!(bench.effect(entry).falls_back());
        let effect = bench.effect(entry);
        for nth in 0..4 {
            let message = bench.message(r#"{"c": "away"}"#);
            let request = effect.prepare(&message, &bench.cx()).unwrap();
            let Attempt::Instead(answer, told) = effect.perform(&request).await else {
                panic!("{nth}: nothing stood in");
            };
            let why = if nth < 2 {
                "erp answered 503"
            } else {
                "erp is down since"
            };
            assert!(told.contains(why), "{told}");
            let next = effect.finish(message, &answer, &bench.cx()).unwrap();
            let bound = next.variables.get("customer").unwrap();
            assert_eq!(bound.bytes(), &r#"{"code":"C-0","limit":0}"#);
        }
        assert_eq!(stub.seen().len(), 2, "a system that is down is not asked");
        let bench = Bench::new().system(&stub.system("", ""));
        let failure = sent(&bench, entry, r#"{"c": "none"}"#).await.unwrap_err();
        assert_eq!(failure.class, Class::NotFound);
    }

    #[tokio::test]
    async fn promises_follow_the_method() {
        let stub = stub().await;
        let bench = bench(&stub);
        let safe = |entry: &str| bench.effect(entry).promises().safe;
        assert!(safe("call: { system: erp, get: /x }\ninto: x\n"));
        assert!(!safe("call: { system: erp, post: /x }"));
        assert!(safe("call: { system: erp, put: /x, upsert: true }"));
        let kept = bench.effect("call: { system: erp, post: /x, idempotency_key: n, kept: 1h }");
        assert_eq!(kept.promises().kept_ms, Some(3_600_000));
    }

    #[tokio::test]
    async fn mistakes_are_found() {
        let stub = stub().await;
        let bench = bench(&stub);
        for (entry, expect) in [
            ("call: { system: erp, get: /x }", "unused-answer:1:7"),
            ("call: { system: erp }", "conflicting-settings:1:7"),
            (
                "call: { system: erp, post: /x, put: /x }",
                "conflicting-settings:1:37",
            ),
            ("call: { system: crm, post: /x }", "unknown-system:1:17"),
            ("call: { system: erp, post: x }", "bad-value:1:28"),
            (
                "call: { system: erp, post: /x, cache: 1m }",
                "conflicting-settings:1:39",
            ),
            (
                "call: { system: erp, post: /x, kept: 1m }",
                "conflicting-settings:1:38",
            ),
            (
                "call: { system: erp, post: /x, fallback: { stale: 1m } }",
                "conflicting-settings:1:42",
            ),
            (
                "call: { system: erp, post: /x, fallback: {} }",
                "conflicting-settings:1:42",
            ),
            (
                "call: { system: erp, post: /x, fallback: { value: 1 } }",
                "conflicting-settings:1:51",
            ),
            (
                "call: { system: erp, get: /x, answer: customer, fallback: { value: { limit: 1 } } }\ninto: x\n",
                "bad-value:1:68",
            ),
            (
                "call: { system: erp, get: /x, body: n }\ninto: x\n",
                "conflicting-settings:1:37",
            ),
            (
                "call: { system: erp, post: /x, headers: { authorization: x } }",
                "conflicting-settings:1:58",
            ),
            (
                "call: { system: erp, post: /x, answer: nothing }",
                "unknown-schema:1:40",
            ),
        ] {
            bench.finds(entry, &[expect]);
        }
    }
}
