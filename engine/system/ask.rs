//! A message asks a system something over HTTP: what the step `call` and the sink `http` share. It knows neither.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method};

use super::admission::Admission;
use super::content::{Content, Given};
use super::request::{Answered, Sending};
use super::{Ended, System, TIMEOUT, Terms};
use crate::body::Body;
use crate::component::words::{Duration, ExpressionText, TemplateText};
use crate::component::{Answer, Attempt, Build, Context, Effect, Probed, Promises, Request, codes};
use crate::expression::{Expression, Scope, Tables};
use crate::failure::{Class, Failure};
use crate::message::Message;
use crate::template::{Escape, Template};
use crate::world::Pending;

/// How long a target keeps idempotency keys where nobody says so.
const KEPT: Duration = Duration { ms: 24 * 3_600_000 };
/// How long after the send a "no" of a probe counts where nobody says so.
const SETTLE: Duration = Duration { ms: 30_000 };
/// How long an idempotency key may be.
const KEY_BYTES_MAX: usize = 255;

/// What a config says about a request.
pub(crate) struct Wanted<'c> {
    pub(crate) system: &'c str,
    /// The method's name in YAML and the path, for each method that the part knows; exactly one is given.
    pub(crate) verbs: &'c [(&'static str, &'c Option<TemplateText>)],
    pub(crate) headers: &'c BTreeMap<String, TemplateText>,
    pub(crate) map: Option<&'c str>,
    pub(crate) body: Option<&'c ExpressionText>,
    pub(crate) content_type: Option<&'c str>,
    pub(crate) idempotency_key: Option<&'c ExpressionText>,
    pub(crate) kept: Option<Duration>,
    pub(crate) upsert: bool,
}

/// A request that messages make, ready to be rendered and sent.
pub(crate) struct Ask {
    system: Arc<System>,
    tables: Arc<Tables>,
    method: Method,
    path: Template,
    headers: Vec<(String, Template)>,
    content: Content,
    key: Option<Expression>,
    kept_ms: u64,
    upsert: bool,
    timeout: Duration,
    probe: Option<Asking>,
    high: bool,
}

/// The question whether the target has a request.
struct Asking {
    path: Template,
    applied: Expression,
    settle_ms: u64,
}

impl Wanted<'_> {
    /// Checks what the config says.
    pub(crate) fn build(&self, cx: &mut Build<'_>) -> Option<Ask> {
        let system = cx.system(&["system"], self.system);
        let verb = self.verb(cx);
        let headers = self.headers(cx);
        let method = verb.as_ref().map(|(method, _)| method);
        let bare = method.is_some_and(|method| [Method::GET, Method::HEAD].contains(method));
        if bare {
            self.nothing_to_write(cx);
        }
        let content = self.content(cx, method == Some(&Method::DELETE) || bare);
        let key = self.idempotency_key;
        let key = key.map(|text| cx.expression(&["idempotency_key"], &text.0));
        if self.kept.is_some() && self.idempotency_key.is_none() {
            let help = "add `idempotency_key`, or leave `kept` out";
            let message = "`kept` says how long the target keeps keys, and none is sent";
            cx.error(codes::CONFLICTING_SETTINGS, &["kept"], message, help);
            return None;
        }
        let probe = match &cx.common.probe {
            Some(probe) => Some(asking(cx, &probe.get, &probe.applied, probe.settle)?),
            None => None,
        };
        let (method, path) = verb?;
        let system = system?;
        let timeout = cx
            .common
            .timeout
            .or(system.timeout())
            .or(cx.library.timeout)
            .unwrap_or(TIMEOUT);
        Some(Ask {
            system,
            tables: cx.library.tables.clone(),
            method,
            path,
            headers: headers?,
            content: content?,
            key: match key {
                Some(key) => Some(key?),
                None => None,
            },
            kept_ms: self.kept.unwrap_or(KEPT).ms,
            upsert: self.upsert,
            timeout,
            probe,
            high: cx.high,
        })
    }

    fn verb(&self, cx: &mut Build<'_>) -> Option<(Method, Template)> {
        let given: Vec<_> = self
            .verbs
            .iter()
            .filter_map(|(name, path)| path.as_ref().map(|path| (*name, path)))
            .collect();
        let names: Vec<String> = self
            .verbs
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        let help = format!("give exactly one of {} with a path", names.join(", "));
        let (name, path) = match given[..] {
            [one] => one,
            [] => {
                cx.error(
                    codes::CONFLICTING_SETTINGS,
                    &[],
                    "the method is missing",
                    help,
                );
                return None;
            }
            [_, (second, _), ..] => {
                let message = "there are two methods";
                cx.error(codes::CONFLICTING_SETTINGS, &[second], message, help);
                return None;
            }
        };
        if !path.0.starts_with('/') && !path.0.starts_with("{{") {
            let message = "the path does not begin with `/`";
            let help = "write the part behind the system's base URL, such as `/orders`";
            cx.error(codes::BAD_VALUE, &[name], message, help);
        }
        let template = cx.template(&[name], &path.0)?;
        let method = Method::from_bytes(name.to_ascii_uppercase().as_bytes()).ok()?;
        Some((method, template))
    }

    fn headers(&self, cx: &mut Build<'_>) -> Option<Vec<(String, Template)>> {
        let mut headers = Some(Vec::new());
        for (name, text) in self.headers {
            let path = &["headers", name.as_str()];
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(parsed) if parsed == AUTHORIZATION => {
                    let message = "credentials do not belong into a step";
                    let help = "put them under `http.auth` of the system: there they are kept out of the store";
                    cx.error(codes::CONFLICTING_SETTINGS, path, message, help);
                }
                Ok(_) => {}
                Err(_) => {
                    let message = format!("`{name}` is no header name");
                    let help = "use letters, digits and hyphens";
                    cx.error(codes::BAD_VALUE, path, message, help);
                }
            }
            match (cx.template(path, &text.0), &mut headers) {
                (Some(template), Some(headers)) => {
                    headers.push((name.to_ascii_lowercase(), template));
                }
                _ => headers = None,
            }
        }
        headers
    }

    fn content(&self, cx: &mut Build<'_>, bare: bool) -> Option<Content> {
        let given = Given {
            map: self.map,
            body: self.body,
            content_type: self.content_type,
        };
        given.build(cx, bare)
    }

    /// A request that only reads has no body and needs no guard.
    fn nothing_to_write(&self, cx: &mut Build<'_>) {
        for (name, given) in [
            ("map", self.map.is_some()),
            ("body", self.body.is_some()),
            ("content_type", self.content_type.is_some()),
            ("idempotency_key", self.idempotency_key.is_some()),
            ("upsert", self.upsert),
        ] {
            if given {
                let message = format!("`{name}` has no meaning for a request that only reads");
                let help = format!("leave `{name}` out, or use another method");
                cx.error(codes::CONFLICTING_SETTINGS, &[name], message, help);
            }
        }
    }
}

/// The probe beside the kind; its texts were looked at where they stand.
fn asking(
    cx: &mut Build<'_>,
    get: &TemplateText,
    applied: &ExpressionText,
    settle: Option<Duration>,
) -> Option<Asking> {
    match (Template::compile(&get.0), Expression::compile(&applied.0)) {
        (Ok(path), Ok(applied)) => Some(Asking {
            path,
            applied,
            settle_ms: settle.unwrap_or(SETTLE).ms,
        }),
        _ => {
            let help = "`get` is a template of a path, `applied` an expression";
            let message = "the probe cannot be compiled";
            cx.error(codes::BAD_VALUE, &[], message, help);
            None
        }
    }
}

impl Ask {
    /// The system that is asked.
    pub(crate) fn system(&self) -> &Arc<System> {
        &self.system
    }

    /// Whether it only reads.
    pub(crate) fn reads(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }

    fn safe(&self) -> bool {
        self.upsert || self.reads()
    }

    fn terms(&self) -> Terms {
        Terms {
            safe: self.safe(),
            timeout: self.timeout.std(),
            high: self.high,
        }
    }

    fn idempotency_key(
        &self,
        message: &Message,
        cx: &Context<'_>,
    ) -> Result<Option<String>, Failure> {
        let Some(expression) = &self.key else {
            return Ok(None);
        };
        let scope = cx.scope(message, expression)?;
        let value = expression.evaluate(&scope)?;
        let key = value.to_text().filter(|key| {
            (1..=KEY_BYTES_MAX).contains(&key.len()) && HeaderValue::from_str(key).is_ok()
        });
        match key {
            // What was sent before under this key was undone, or is sent as new.
            Some(key) if message.generation > 0 => {
                Ok(Some(format!("{key}~{}", message.generation)))
            }
            Some(key) => Ok(Some(key)),
            None => Err(Failure::mapping(format!(
                "the idempotency key `{}` must be a text of at most {KEY_BYTES_MAX} visible characters, it is {}",
                expression.text(),
                value.type_name()
            ))),
        }
    }

    async fn ask(&self, asking: &Asking, message: &Message) -> Result<Probed, Failure> {
        let path = asking.path.render(message, Escape::UrlPath)?;
        let sending = Sending::get(path);
        let terms = Terms {
            safe: true,
            ..self.terms()
        };
        let answered = match self.system.attempt(&sending, None, terms).await {
            Ended::Applied(answered) => answered,
            Ended::Held(failure) => return Ok(Probed::Held(failure)),
            Ended::NotApplied(failure) | Ended::Unknown(failure) => return Err(failure),
        };
        let answer = answered.to_document();
        let about = message.clone().with_body(answered.body);
        let scope = Scope::of(&about, &self.tables)?;
        Ok(if asking.applied.decide(&scope)? {
            Probed::Applied(answer)
        } else {
            Probed::Absent
        })
    }
}

impl Effect for Ask {
    fn admission(&self) -> Option<&Arc<Admission>> {
        Some(self.system.admission())
    }

    fn promises(&self) -> Promises {
        Promises {
            safe: self.safe(),
            kept_ms: self.key.is_some().then_some(self.kept_ms),
            probe_settle_ms: self.probe.as_ref().map(|probe| probe.settle_ms),
            timeout_ms: System::longest_ms(self.timeout),
            concurrency: self.system.concurrency(self.timeout),
        }
    }

    fn prepare(&self, message: &Message, cx: &Context<'_>) -> Result<Request, Failure> {
        let mut headers = Vec::with_capacity(self.headers.len() + 1);
        let content = self.content.render(message, cx)?;
        if let Some((_, media_type)) = &content {
            headers.push((CONTENT_TYPE.as_str().to_owned(), (*media_type).to_owned()));
        }
        for (name, template) in &self.headers {
            headers.push((name.clone(), template.render(message, Escape::Header)?));
        }
        let sending = Sending {
            method: self.method.clone(),
            path: self.path.render(message, Escape::UrlPath)?,
            headers,
            body: content.map(|(bytes, _)| bytes),
        };
        Ok(Request {
            bytes: sending.to_document(),
            idempotency_key: self.idempotency_key(message, cx)?,
        })
    }

    fn perform<'a>(&'a self, request: &'a Request) -> Pending<'a, Attempt> {
        Box::pin(async move {
            let sending = match Sending::from_document(&request.bytes) {
                Ok(sending) => sending,
                Err(failure) => return Attempt::NotApplied(failure),
            };
            let terms = self.terms();
            let key = request.idempotency_key.as_deref();
            match self.system.attempt(&sending, key, terms).await {
                Ended::Applied(answered) => Attempt::Applied(answered.to_document()),
                Ended::NotApplied(failure) => Attempt::NotApplied(failure),
                Ended::Unknown(failure) => Attempt::Unknown(failure),
                Ended::Held(failure) => Attempt::Held(failure),
            }
        })
    }

    fn probe<'a>(&'a self, message: &'a Message, _: &'a Request) -> Pending<'a, Probed> {
        Box::pin(async move {
            let Some(asking) = &self.probe else {
                let message = format!("nothing says how to ask {}", self.system.name());
                return Probed::Failed(Failure::internal(message));
            };
            self.ask(asking, message)
                .await
                .unwrap_or_else(Probed::Failed)
        })
    }

    fn finish(&self, message: Message, _: &Answer, _: &Context<'_>) -> Result<Message, Failure> {
        Ok(message)
    }
}

/// The body of an answer, which must be JSON; an empty one is null.
pub(crate) fn answer_body(system: &System, answer: &Answer) -> Result<Body, Failure> {
    let answered = Answered::from_document(answer)?;
    if answered.body.is_empty() {
        return Ok(Body::null());
    }
    match answered.body.document() {
        Ok(_) => Ok(answered.body),
        Err(failure) => {
            let message = format!(
                "the answer of {} is no JSON: {}",
                system.name(),
                failure.message
            );
            Err(Failure::new(Class::Parse, message))
        }
    }
}
