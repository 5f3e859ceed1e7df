//! The sink `amqp`: publishes messages to an exchange of a broker, and is done when the broker has confirmed that it has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Ready;
use crate::component::words::{Duration, ExpressionText, TemplateText};
use crate::component::{
    Answer, Attempt, Build, Context, Effect, Part, Probed, Promises, Request, codes,
};
use crate::failure::Failure;
use crate::message::Message;
use crate::net::amqp::publisher::Letter;
use crate::system::TIMEOUT;
use crate::system::admission::Admission;
use crate::system::broker::{Broker, Ended, find_exchange};
use crate::system::content::{Content, Given};
use crate::template::{Escape, Template};
use crate::world::Pending;

/// The longest name of an exchange and the longest routing key, in bytes.
const SHORT_MAX: usize = 255;
/// What stands before the name of an attribute of CloudEvents in a header.
const PREFIX: &str = "cloudEvents:";

/// Publishes the message to an exchange of a message broker (RabbitMQ): the whole body, unless there is `map` or `body`. Delivered means that
/// the broker has confirmed it, which it does once the message is on the disks of all durable queues that it was routed to.
///
/// Where a confirm does not come, nobody knows whether the message is there. Each message has a `message_id` that stays the same however often it
/// is published. Where those who consume it know a repeat by that, `kept` says for how long: then it is published again. Without `kept` a
/// person must look.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Amqp {
    /// The broker: a system with `amqp`.
    pub system: String,
    /// The exchange. It must be there. An empty text is the broker's own, which takes the routing key as the name of a queue.
    pub exchange: String,
    /// The routing key: `orders.{{customer.country}}`. Default: none.
    pub routing_key: Option<TemplateText>,
    /// The mapping that makes the body.
    pub map: Option<String>,
    /// The body, as an expression.
    pub body: Option<ExpressionText>,
    /// The media type of the body. Default `application/json`.
    pub content_type: Option<String>,
    /// Headers; not for credentials.
    #[serde(default)]
    pub headers: BTreeMap<String, TemplateText>,
    /// The attributes of CloudEvents, sent as headers (binary mode).
    pub cloudevents: Option<Cloud>,
    /// Whether the message outlives a restart of the broker. Default true.
    pub persistent: Option<bool>,
    /// Whether a message that the exchange has no queue for is a failure (`not_found`); else nobody gets it, and nobody is told. Default true.
    pub mandatory: Option<bool>,
    /// How long those who consume the message know its `message_id`, so that a second one has no effect. Without it they do not.
    pub kept: Option<Duration>,
}

/// The attributes of a CloudEvents message. Its `id` is the `message_id`, its `time` when the message was accepted.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cloud {
    /// What has happened: `com.example.order.booked`.
    #[serde(rename = "type")]
    pub kind: TemplateText,
    /// Where: `/crossdock/orders`.
    pub source: TemplateText,
    /// To what: `SO-{{orderNumber}}`.
    pub subject: Option<TemplateText>,
}

impl Part for Amqp {
    type Ready = Ready;
    const EXAMPLE: &'static str = "booked:
  amqp:
    system: events
    exchange: sales
    routing_key: \"orders.booked.{{customer.country}}\"
    map: order-booked
    cloudevents: { type: com.example.order.booked, source: /crossdock/orders, subject: \"{{orderNumber}}\" }
    kept: 24h
";

    fn build(&self, cx: &mut Build<'_>) -> Option<Ready> {
        let broker = cx.broker(&["system"], &self.system);
        if self.exchange.len() > SHORT_MAX {
            let message = format!("the name has more than {SHORT_MAX} bytes");
            let help = "write the name that the broker shows";
            cx.error(codes::BAD_VALUE, &["exchange"], message, help);
        }
        let routing_key = match &self.routing_key {
            Some(text) => Some(cx.template(&["routing_key"], &text.0)?),
            None if self.exchange.is_empty() => {
                let message = "the broker's own exchange needs the name of a queue";
                let help = "add `routing_key: QUEUE`, or name an exchange";
                cx.error(codes::CONFLICTING_SETTINGS, &["exchange"], message, help);
                return None;
            }
            None => None,
        };
        let headers = self.headers(cx);
        let given = Given {
            map: self.map.as_deref(),
            body: self.body.as_ref(),
            content_type: self.content_type.as_deref(),
        };
        let content = given.build(cx, false);
        let broker = broker?;
        let timeout = cx
            .common
            .timeout
            .or(broker.timeout())
            .or(cx.library.timeout)
            .unwrap_or(TIMEOUT);
        Some(Ready::Effect(Arc::new(Publishing {
            broker,
            flow: Arc::from(cx.flow),
            exchange: self.exchange.clone(),
            routing_key,
            headers: headers?,
            content: content?,
            cloud: self.cloudevents.is_some(),
            persistent: self.persistent.unwrap_or(true),
            mandatory: self.mandatory.unwrap_or(true),
            kept_ms: self.kept.map(|kept| kept.ms),
            timeout,
            high: cx.high,
        })))
    }
}

impl Amqp {
    /// The headers, those of CloudEvents among them.
    fn headers(&self, cx: &mut Build<'_>) -> Option<Vec<(String, Template)>> {
        let mut headers = Some(Vec::new());
        let mut add = |cx: &mut Build<'_>, path: &[&str], name: String, text: &TemplateText| match (
            cx.template(path, &text.0),
            &mut headers,
        ) {
            (Some(template), Some(headers)) => headers.push((name, template)),
            _ => headers = None,
        };
        for (name, text) in &self.headers {
            let path = &["headers", name.as_str()];
            if name.is_empty() || name.len() > SHORT_MAX || name.starts_with("x-") {
                let message = format!("`{name}` is no name for a header of ours");
                let help = "headers that begin with `x-` belong to the broker; use another name";
                cx.error(codes::BAD_VALUE, path, message, help);
            }
            add(cx, path, name.clone(), text);
        }
        if let Some(cloud) = &self.cloudevents {
            let attributes = [
                ("type", Some(&cloud.kind)),
                ("source", Some(&cloud.source)),
                ("subject", cloud.subject.as_ref()),
            ];
            for (name, text) in attributes {
                if let Some(text) = text {
                    add(cx, &["cloudevents", name], format!("{PREFIX}{name}"), text);
                }
            }
        }
        headers
    }
}

struct Publishing {
    broker: Arc<Broker>,
    flow: Arc<str>,
    exchange: String,
    routing_key: Option<Template>,
    headers: Vec<(String, Template)>,
    content: Content,
    cloud: bool,
    persistent: bool,
    mandatory: bool,
    kept_ms: Option<u64>,
    timeout: Duration,
    high: bool,
}

/// What is published, as it is stored: a JSON document.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    exchange: String,
    routing_key: String,
    message_id: String,
    correlation_id: String,
    /// Seconds since 1970.
    timestamp: u64,
    content_type: String,
    persistent: bool,
    mandatory: bool,
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl Publishing {
    /// The effect's id, which no revision, no restart and no repeat changes.
    fn message_id(&self, message: &Message, cx: &Context<'_>) -> String {
        let digest = Sha256::digest(format!(
            "{}\n{}\n{}\n{}",
            message.id, self.flow, cx.step, message.generation
        ));
        digest[..16]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn headers(&self, message: &Message, id: &str) -> Result<BTreeMap<String, String>, Failure> {
        let mut headers = BTreeMap::new();
        if let Some(trace) = message.headers.get("traceparent") {
            headers.insert("traceparent".to_owned(), trace.clone());
        }
        for (name, template) in &self.headers {
            headers.insert(name.clone(), template.render(message, Escape::Header)?);
        }
        if self.cloud {
            let time = jiff::Timestamp::from_millisecond(message.received_at_ms);
            let attributes = [
                ("specversion", "1.0".to_owned()),
                ("id", id.to_owned()),
                ("time", time.unwrap_or_default().to_string()),
            ];
            headers.extend(attributes.map(|(name, value)| (format!("{PREFIX}{name}"), value)));
        }
        Ok(headers)
    }
}

impl Effect for Publishing {
    fn promises(&self) -> Promises {
        Promises {
            safe: false,
            kept_ms: self.kept_ms,
            probe_settle_ms: None,
            // Waiting for a place, for the connection and for the confirm.
            timeout_ms: self.timeout.ms.saturating_mul(3).saturating_add(1_000),
            concurrency: self.broker.concurrency(),
        }
    }

    fn admission(&self) -> Option<&Arc<Admission>> {
        Some(self.broker.admission())
    }

    fn look(&self) -> Pending<'_, Result<Option<String>, Failure>> {
        Box::pin(async move {
            if self.exchange.is_empty() {
                return Ok(None);
            }
            let link = self.broker.link(0, "doctor").await?;
            let found = find_exchange(&link, &self.exchange).await;
            link.close().await;
            found.map(|()| Some(format!("the exchange {} is there", self.exchange)))
        })
    }

    fn prepare(&self, message: &Message, cx: &Context<'_>) -> Result<Request, Failure> {
        let routing_key = match &self.routing_key {
            Some(template) => template.render(message, Escape::Header)?,
            None => String::new(),
        };
        if routing_key.len() > SHORT_MAX {
            return Err(Failure::mapping(format!(
                "the routing key has more than {SHORT_MAX} bytes: `{}..`",
                routing_key.chars().take(40).collect::<String>()
            )));
        }
        let id = self.message_id(message, cx);
        let (body, content_type) = self.content.render(message, cx)?.unwrap_or_default();
        let text = std::str::from_utf8(&body).ok().map(str::to_owned);
        let stored = Stored {
            exchange: self.exchange.clone(),
            routing_key,
            headers: self.headers(message, &id)?,
            correlation_id: message.root.to_string(),
            timestamp: u64::try_from(message.received_at_ms / 1_000).unwrap_or(0),
            content_type: content_type.to_owned(),
            persistent: self.persistent,
            mandatory: self.mandatory,
            base64: text.is_none().then(|| STANDARD.encode(&body)),
            text,
            message_id: id.clone(),
        };
        let bytes = serde_json::to_vec(&stored)
            .map_err(|error| Failure::internal(format!("a letter cannot be stored: {error}")))?;
        Ok(Request {
            bytes: Bytes::from(bytes),
            idempotency_key: Some(id),
        })
    }

    fn perform<'a>(&'a self, request: &'a Request) -> Pending<'a, Attempt> {
        Box::pin(async move {
            let (letter, returns) = match letter(request) {
                Ok(letter) => letter,
                Err(failure) => return Attempt::NotApplied(failure),
            };
            let timeout = self.timeout.std();
            match self
                .broker
                .attempt(letter, returns, timeout, self.high)
                .await
            {
                Ended::Stored => Attempt::Applied(Answer {
                    bytes: Bytes::from_static(b"{\"confirmed\":true}"),
                }),
                Ended::NotStored(failure) => Attempt::NotApplied(failure),
                Ended::Unknown(failure) => Attempt::Unknown(failure),
                Ended::Held(failure) => Attempt::Held(failure),
            }
        })
    }

    fn probe<'a>(&'a self, _: &'a Message, _: &'a Request) -> Pending<'a, Probed> {
        let failure = Failure::internal("a broker cannot be asked what it has");
        Box::pin(std::future::ready(Probed::Failed(failure)))
    }

    fn finish(&self, message: Message, _: &Answer, _: &Context<'_>) -> Result<Message, Failure> {
        Ok(message)
    }
}

/// What a stored request publishes, and whether it comes back where there is no queue for it.
fn letter(request: &Request) -> Result<(Letter, bool), Failure> {
    let stored: Stored = serde_json::from_slice(&request.bytes)
        .map_err(|error| Failure::internal(format!("a stored letter cannot be read: {error}")))?;
    let body = match (stored.text, stored.base64) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(coded)) => STANDARD
            .decode(coded)
            .map_err(|_| Failure::internal("the body of a stored letter is not base64"))?,
        (None, None) => Vec::new(),
    };
    let mut headers = FieldTable::default();
    for (name, value) in stored.headers {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let properties = BasicProperties::default()
        .with_content_type(stored.content_type.into())
        .with_delivery_mode(if stored.persistent { 2 } else { 1 })
        .with_message_id(stored.message_id.into())
        .with_correlation_id(stored.correlation_id.into())
        .with_timestamp(stored.timestamp)
        .with_app_id("crossdock".into())
        .with_headers(headers);
    let letter = Letter {
        exchange: stored.exchange.into(),
        routing_key: stored.routing_key.into(),
        properties,
        body: Bytes::from(body),
    };
    Ok((letter, stored.mandatory))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use lapin::options::{BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions};

    use super::*;
    use crate::failure::Class;
    use crate::net::amqp::tests::{broker, patiently};
    use crate::sink::SinkKind;
    use crate::step::bench::Bench;
    use crate::system::broker::tests::SYSTEM;

    const ORDER: &str = r#"{"orderNumber": "SO/1", "country": "de", "total": 19.90}"#;

    fn sink(bench: &Bench, entry: &str) -> Arc<dyn Effect> {
        match bench.build::<SinkKind>(entry) {
            (Some(Ready::Effect(effect)), found) if found.is_empty() => effect,
            (_, found) => panic!("{entry}: {found:?}"),
        }
    }

    fn bench() -> Bench {
        Bench::new().broker(SYSTEM).mapping(
            "short",
            "mapping: short\nfields: { number: orderNumber, total: total }\n",
        )
    }

    fn queue() -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        format!("crossdock-test-sink-{}-{nth}", std::process::id())
    }

    async fn performed(sink: &Arc<dyn Effect>, bench: &Bench) -> (Request, Attempt) {
        let request = sink.prepare(&bench.message(ORDER), &bench.cx()).unwrap();
        let attempt = patiently(sink.perform(&request)).await;
        (request, attempt)
    }

    #[tokio::test]
    async fn a_message_is_published_as_the_same_one_however_often() {
        let (bench, queue) = (bench(), queue());
        let broker = broker(&["127.0.0.1:5672"]);
        let opening = crate::net::amqp::link::Link::open(&broker, 0, "test");
        let link = patiently(opening).await.unwrap();
        let channel = link.channel().await.unwrap();
        let options = QueueDeclareOptions::default();
        let declaring =
            channel.queue_declare(queue.as_str().into(), options, FieldTable::default());
        declaring.await.unwrap();
        let sink = sink(
            &bench,
            &format!(
                "amqp: {{ system: events, exchange: '', routing_key: {queue}, map: short, headers: {{ tenant: '{{{{country}}}}' }}, cloudevents: {{ type: order.booked, source: /orders, subject: '{{{{orderNumber}}}}' }}, kept: 1h }}"
            ),
        );
        assert_eq!(sink.promises().kept_ms, Some(3_600_000));
        let (request, attempt) = performed(&sink, &bench).await;
        assert!(matches!(attempt, Attempt::Applied(_)));
        let again = patiently(sink.perform(&request)).await;
        assert!(matches!(again, Attempt::Applied(_)));
        let mut ids = Vec::new();
        for _ in 0..2 {
            let options = BasicGetOptions { no_ack: true };
            let got = channel
                .basic_get(queue.as_str().into(), options)
                .await
                .unwrap()
                .unwrap();
            let delivery = got.delivery;
            assert_eq!(delivery.data, br#"{"number":"SO/1","total":19.90}"#);
            let properties = delivery.properties;
            assert_eq!(*properties.delivery_mode(), Some(2));
            let headers = properties.headers().clone().unwrap();
            let header = |name: &str| match headers.inner().get(name) {
                Some(AMQPValue::LongString(value)) => value.to_string(),
                other => panic!("{name}: {other:?}"),
            };
            let id = properties.message_id().clone().unwrap().to_string();
            assert_eq!(
                (header("tenant"), header("cloudEvents:id")),
                ("de".to_owned(), id.clone())
            );
            assert_eq!(header("cloudEvents:subject"), "SO/1");
            ids.push(id);
        }
        assert_eq!(ids[0], ids[1]);
        assert_eq!(request.idempotency_key.as_deref(), Some(ids[0].as_str()));
        let as_new = Message {
            generation: 1,
            ..bench.message(ORDER)
        };
        let other = sink.prepare(&as_new, &bench.cx()).unwrap();
        assert_ne!(other.idempotency_key, request.idempotency_key);
        let options = QueueDeleteOptions::default();
        channel
            .queue_delete(queue.as_str().into(), options)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn what_no_queue_takes_and_what_has_no_exchange_is_a_failure() {
        let bench = bench();
        let failed = async |entry: &str| {
            let sink = sink(&bench, entry);
            match performed(&sink, &bench).await.1 {
                Attempt::NotApplied(failure) => failure,
                Attempt::Applied(_) => Failure::internal("applied"),
                _ => panic!("{entry}"),
            }
        };
        let nowhere = queue();
        let unrouted = format!("amqp: {{ system: events, exchange: '', routing_key: {nowhere}");
        let failure = failed(&format!("{unrouted} }}")).await;
        assert_eq!(failure.class, Class::NotFound);
        assert!(
            failure.message.contains("no queue takes it"),
            "{}",
            failure.message
        );
        let dropped = failed(&format!("{unrouted}, mandatory: false }}")).await;
        assert_eq!(dropped.message, "applied");
        let missing = format!("amqp: {{ system: events, exchange: {nowhere} }}");
        let failure = failed(&missing).await;
        assert_eq!(failure.class, Class::NotFound);
        assert!(failure.message.contains(&nowhere), "{}", failure.message);
        let looked = sink(&bench, &missing).look().await;
        assert_eq!(looked.unwrap_err().class, Class::NotFound);
        let there =
            "amqp: { system: events, exchange: amq.topic, routing_key: a, mandatory: false }";
        let found = sink(&bench, there).look().await.unwrap();
        assert_eq!(found.as_deref(), Some("the exchange amq.topic is there"));
    }

    #[tokio::test]
    async fn without_a_broker_nothing_has_left() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let tried = async |url: &str| {
            let system = format!("system: events\namqp: {{ urls: ['{url}'] }}\ntimeout: 1s\n");
            let bench = Bench::new().broker(&system);
            let sink = sink(&bench, "amqp: { system: events, exchange: amq.topic }");
            performed(&sink, &bench).await.1
        };
        let down = tried(&format!("amqp://{address}")).await;
        assert!(matches!(down, Attempt::NotApplied(failure) if failure.class.retried_by_default()));
        let stranger = tried("amqp://nobody@127.0.0.1:5672").await;
        assert!(matches!(stranger, Attempt::Held(failure) if failure.class == Class::Auth));
    }

    #[test]
    fn what_makes_no_sense_is_found_without_a_broker() {
        let check = |entry: &str, expect: &[&str]| {
            let (_, found) = bench().build::<SinkKind>(entry);
            assert_eq!(found, expect, "{entry}");
        };
        check(
            "amqp: { system: evnts, exchange: a }",
            &["unknown-system:1:17"],
        );
        check(
            "amqp: { system: events, exchange: '' }",
            &["conflicting-settings:1:35"],
        );
        check(
            "amqp: { system: events, exchange: a, map: short, body: total }",
            &["conflicting-settings:1:56"],
        );
        check(
            "amqp: { system: events, exchange: a, headers: { x-match: any } }",
            &["bad-value:1:58"],
        );
    }
}
