//! A hop as a message of the broker: ids in headers that any client can read, the body as the body, and what else the message carries as one
//! header of bytes. A message that is too large travels as its number alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use crate::failure::Failure;
use crate::handoff::Hop;
use crate::message::{MessageId, Names};
use crate::store::commit::{FENCE_FIRST, HopId, RunId, StoredHop};
use crate::store::envelope::Envelope;

/// The version of what stands below the ids. The ids themselves (store, flow, step, hop, fence) stay for ever as they are, so that engines of
/// two versions share a queue: of a message in a version that it does not know an engine takes the ids, and the rest from the store.
const FORMAT: i64 = 1;
const FORMAT_HEADER: &str = "crossdock-format";
const STORE: &str = "crossdock-store";
const FLOW: &str = "crossdock-flow";
const STEP: &str = "crossdock-step";
const HOP: &str = "crossdock-hop";
const FENCE: &str = "crossdock-fence";
const RUN: &str = "crossdock-run";
const ATTEMPT: &str = "crossdock-attempt";
const REVISION: &str = "crossdock-revision";
const MOVED: &str = "crossdock-moved";
const MESSAGE: &str = "crossdock-message";
const ROOT: &str = "crossdock-root";
const RECEIVED: &str = "crossdock-received-at";
const KEYS: &str = "crossdock-keys";
const ENVELOPE: &str = "crossdock-envelope";
const RUNS_BODY: &str = "crossdock-runs-body";
const EVENT_ID: &str = "cloudEvents:id";
const EVENT_SOURCE: &str = "cloudEvents:source";
const EVENT_TYPE: &str = "cloudEvents:type";
const EVENT_VERSION: &str = "cloudEvents:specversion";
/// The headers of a message that tracing goes on with.
const TRACE: [&str; 2] = ["traceparent", "tracestate"];
/// Attributes that a message may have brought itself, as HTTP writes them.
const BROUGHT: [(&str, &str); 6] = [
    ("ce-id", EVENT_ID),
    ("ce-source", EVENT_SOURCE),
    ("ce-type", EVENT_TYPE),
    ("ce-subject", "cloudEvents:subject"),
    ("ce-time", "cloudEvents:time"),
    ("ce-dataschema", "cloudEvents:dataschema"),
];
/// How long a name may be in AMQP, in bytes.
const SHORT_MAX: usize = 255;
/// How long the text of a header may be that is only passed on for others.
const PASSED_ON_MAX: usize = 1024;

/// A hop that is to be announced.
#[derive(Clone, Debug)]
pub(super) enum Notice {
    /// With its message.
    Whole(Box<Hop>),
    /// Only the store has its message.
    Number(Arc<str>, Arc<str>, HopId),
}

/// What a delivery says.
#[derive(Debug)]
pub(super) struct Read {
    /// Of which store the hop is.
    pub(super) store: i64,
    pub(super) hop: HopId,
    pub(super) fence: i64,
    pub(super) flow: String,
    pub(super) step: String,
    /// The revision of the flow; empty if it does not say: then only the store knows it.
    pub(super) revision: String,
    /// The whole hop; `None` if only the store has its message.
    pub(super) whole: Option<Hop>,
}

impl Notice {
    pub(super) fn hop(&self) -> HopId {
        match self {
            Notice::Whole(hop) => hop.hop,
            Notice::Number(.., hop) => *hop,
        }
    }

    /// How many bytes of messages it keeps in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Notice::Whole(hop) => hop.message.body.len(),
            Notice::Number(..) => 0,
        }
    }

    pub(super) fn flow(&self) -> &Arc<str> {
        match self {
            Notice::Whole(hop) => &hop.flow,
            Notice::Number(flow, ..) => flow,
        }
    }

    pub(super) fn step(&self) -> &Arc<str> {
        match self {
            Notice::Whole(hop) => &hop.step,
            Notice::Number(_, step, _) => step,
        }
    }
}

/// The hop as a message of the broker: its properties and its body.
pub(super) fn write(store: i64, notice: &Notice, body_max: usize) -> (BasicProperties, Bytes) {
    let mut headers = FieldTable::default();
    let fence = match notice {
        Notice::Whole(hop) => hop.fence,
        Notice::Number(..) => FENCE_FIRST,
    };
    let hop = notice.hop().0;
    number(&mut headers, FORMAT_HEADER, FORMAT);
    number(&mut headers, STORE, store);
    text(&mut headers, FLOW, notice.flow());
    text(&mut headers, STEP, notice.step());
    number(&mut headers, HOP, hop);
    number(&mut headers, FENCE, fence);
    let mut properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_app_id("crossdock".into())
        .with_message_id(ShortString::from(format!("{store:x}-{hop}-{fence}")));
    let mut body = Bytes::new();
    if let Notice::Whole(hop) = notice {
        let message = &hop.message;
        number(&mut headers, RUN, hop.run.0);
        number(&mut headers, ATTEMPT, i64::from(hop.attempt));
        text(&mut headers, REVISION, &hop.revision);
        if hop.moved {
            headers.insert(MOVED.into(), AMQPValue::Boolean(true));
        }
        text(&mut headers, MESSAGE, &message.id.to_string());
        text(&mut headers, ROOT, &message.root.to_string());
        attributes(&mut headers, hop);
        let envelope = Envelope::write(message);
        let keys: usize = message
            .keys
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        let short = message.keys.keys().all(|key| key.len() <= SHORT_MAX);
        if short && message.body.len() + envelope.len() + keys <= body_max {
            body = message.body.bytes().clone();
            number(&mut headers, RECEIVED, message.received_at_ms);
            headers.insert(RUNS_BODY.into(), AMQPValue::Boolean(hop.runs_body));
            let keys = message.keys.iter();
            let keys: BTreeMap<_, _> = keys
                .map(|(key, value)| (ShortString::from(&**key), long(value)))
                .collect();
            headers.insert(KEYS.into(), AMQPValue::FieldTable(keys.into()));
            headers.insert(
                ENVELOPE.into(),
                AMQPValue::ByteArray(envelope.to_vec().into()),
            );
            let media = message.headers.get("content-type");
            if let Some(media) = media.and_then(|media| ShortString::try_new(media.as_str()).ok()) {
                properties = properties.with_content_type(media);
            }
        }
    }
    (properties.with_headers(headers), body)
}

/// CloudEvents attributes and the trace: those that the message has brought, else its own.
fn attributes(headers: &mut FieldTable, hop: &Hop) {
    let message = &hop.message;
    text(headers, EVENT_VERSION, "1.0");
    text(headers, EVENT_ID, &message.id.to_string());
    text(headers, EVENT_SOURCE, &format!("/flows/{}", hop.flow));
    text(headers, EVENT_TYPE, "crossdock.message");
    let brought = |name: &str| {
        message
            .headers
            .get(name)
            .filter(|value| value.len() <= PASSED_ON_MAX)
    };
    for (brought_as, attribute) in BROUGHT {
        if let Some(value) = brought(brought_as) {
            text(headers, attribute, value);
        }
    }
    for name in TRACE {
        if let Some(value) = brought(name) {
            text(headers, name, value);
        }
    }
}

/// What a message of the broker says. The error says what it lacks.
pub(super) fn read(properties: &BasicProperties, body: Bytes) -> Result<Read, Failure> {
    let none = FieldTable::default();
    let headers = properties.headers().as_ref().unwrap_or(&none);
    let (flow, step) = (text_of(headers, FLOW)?, text_of(headers, STEP)?);
    let (hop, fence) = (HopId(number_of(headers, HOP)?), number_of(headers, FENCE)?);
    let mut read = Read {
        store: number_of(headers, STORE)?,
        hop,
        fence,
        flow,
        step,
        revision: text_of(headers, REVISION).unwrap_or_default(),
        whole: None,
    };
    // Before there was a version it was the first one.
    let format = number_of(headers, FORMAT_HEADER).unwrap_or(FORMAT);
    let Some(AMQPValue::ByteArray(envelope)) = headers.inner().get(ENVELOPE) else {
        return Ok(read);
    };
    if format > FORMAT {
        return Ok(read);
    }
    let id = |name: &'static str| {
        let id = text_of(headers, name)?;
        MessageId::parse(&id).ok_or_else(|| lacks(name))
    };
    let stored = StoredHop {
        hop,
        fence,
        run: RunId(number_of(headers, RUN)?),
        flow: Arc::from(&*read.flow),
        step: Arc::from(&*read.step),
        attempt: u32::try_from(number_of(headers, ATTEMPT)?).map_err(|_| lacks(ATTEMPT))?,
        message: id(MESSAGE)?,
        root: id(ROOT)?,
        received_at_ms: number_of(headers, RECEIVED)?,
        revision: Arc::from(&*read.revision),
        moved: matches!(headers.inner().get(MOVED), Some(AMQPValue::Boolean(true))),
        body,
        runs_body: matches!(
            headers.inner().get(RUNS_BODY),
            Some(AMQPValue::Boolean(true))
        ),
        envelope: Bytes::copy_from_slice(envelope.as_slice()),
        keys: Arc::new(keys_of(headers)?),
    };
    read.whole = Some(Hop::from_store(stored)?);
    Ok(read)
}

fn keys_of(headers: &FieldTable) -> Result<Names, Failure> {
    let Some(AMQPValue::FieldTable(keys)) = headers.inner().get(KEYS) else {
        return Err(lacks(KEYS));
    };
    let mut names = Names::new();
    for (key, value) in keys.inner() {
        names.insert(
            Arc::from(key.as_str()),
            text_in(value).ok_or_else(|| lacks(KEYS))?,
        );
    }
    Ok(names)
}

fn number(headers: &mut FieldTable, name: &str, value: i64) {
    headers.insert(name.into(), AMQPValue::LongLongInt(value));
}

fn text(headers: &mut FieldTable, name: &str, value: &str) {
    headers.insert(name.into(), long(value));
}

fn long(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value.as_bytes()))
}

fn number_of(headers: &FieldTable, name: &'static str) -> Result<i64, Failure> {
    match headers.inner().get(name) {
        Some(AMQPValue::LongLongInt(value)) => Ok(*value),
        _ => Err(lacks(name)),
    }
}

fn text_of(headers: &FieldTable, name: &'static str) -> Result<String, Failure> {
    headers
        .inner()
        .get(name)
        .and_then(text_in)
        .ok_or_else(|| lacks(name))
}

fn text_in(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok(),
        _ => None,
    }
}

fn lacks(name: &str) -> Failure {
    Failure::parse(format!("the header `{name}` is missing or of another kind"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;
    use crate::message::Message;

    fn hop() -> Hop {
        let mut message = Message::new(MessageId(7), 1_000, Body::new("{\"a\": 1}"));
        message.root = MessageId(5);
        message.set_header("content-type", "application/json");
        message.set_header("traceparent", "00-1-2-01");
        message.set_header("ce-type", "order.placed");
        message.keys = Arc::new(Names::from([(Arc::from("order"), "SO-1".to_owned())]));
        message.bind("customer", Body::new("{}"));
        Hop {
            hop: HopId(12),
            fence: 3,
            run: RunId(4),
            flow: Arc::from("orders"),
            step: Arc::from("erp"),
            attempt: 2,
            revision: Arc::from("r1"),
            moved: true,
            runs_body: true,
            message,
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (properties, body) = write(99, &Notice::Whole(Box::new(hop())), 1 << 16);
        assert_eq!(
            properties.message_id().as_ref().unwrap().as_str(),
            "63-12-3"
        );
        let headers = properties.headers().as_ref().unwrap();
        assert_eq!(text_of(headers, EVENT_TYPE).unwrap(), "order.placed");
        assert_eq!(text_of(headers, "traceparent").unwrap(), "00-1-2-01");
        let read = read(&properties, body).unwrap();
        assert_eq!((read.store, read.hop, read.fence), (99, HopId(12), 3));
        let (was, is) = (hop(), read.whole.unwrap());
        assert_eq!(format!("{is:?}"), format!("{was:?}"));
    }

    #[test]
    fn what_is_too_large_travels_as_a_number() {
        let (properties, body) = write(99, &Notice::Whole(Box::new(hop())), 10);
        assert!(body.is_empty());
        let found = read(&properties, body).unwrap();
        assert!(found.whole.is_none());
        assert_eq!(
            (found.hop, found.fence, &*found.step),
            (HopId(12), 3, "erp")
        );
        let notice = Notice::Number(Arc::from("orders"), Arc::from("@accept"), HopId(9));
        let (properties, body) = write(99, &notice, 1 << 16);
        let found = read(&properties, body).unwrap();
        assert_eq!((found.hop, found.fence), (HopId(9), FENCE_FIRST));
    }

    #[test]
    fn of_a_newer_version_only_the_ids_are_taken_and_an_older_one_is_read() {
        let (properties, body) = write(99, &Notice::Whole(Box::new(hop())), 1 << 16);
        let altered = |alter: fn(&mut BTreeMap<ShortString, AMQPValue>)| {
            let mut headers = properties.headers().clone().unwrap().inner().clone();
            alter(&mut headers);
            properties.clone().with_headers(headers.into())
        };
        // What a newer engine writes: other keys, another envelope, something more.
        let newer = altered(|headers| {
            headers.insert(FORMAT_HEADER.into(), AMQPValue::LongLongInt(FORMAT + 1));
            headers.insert(KEYS.into(), AMQPValue::Boolean(true));
            headers.insert(ENVELOPE.into(), AMQPValue::ByteArray(vec![255; 9].into()));
            headers.insert("crossdock-colour".into(), AMQPValue::LongLongInt(7));
        });
        let found = read(&newer, body.clone()).unwrap();
        assert_eq!(
            (
                found.store,
                found.hop,
                found.fence,
                &*found.flow,
                &*found.step
            ),
            (99, HopId(12), 3, "orders", "erp")
        );
        assert!(found.whole.is_none(), "its message is in the store");
        let older = altered(|headers| {
            headers.remove(&ShortString::from(FORMAT_HEADER));
        });
        let whole = read(&older, body).unwrap().whole.unwrap();
        assert_eq!(format!("{whole:?}"), format!("{:?}", hop()));
    }

    #[test]
    fn what_is_not_ours_is_said_so() {
        let failure = read(&BasicProperties::default(), Bytes::new()).unwrap_err();
        assert!(failure.message.contains(FLOW), "{failure}");
    }
}
