//! From a delivery to what arrives: properties and headers become message headers, CloudEvents and zipped bodies are opened. It talks to
//! nobody.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, HeaderValue};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use sha2::{Digest, Sha256};

use crate::body::{Body, Item};
use crate::component::Arrival;
use crate::failure::Failure;
use crate::net::amqp::consumer::Delivery;
use crate::net::listener::inflate::inflate;

/// How many headers of a delivery are kept, and how large all of them together may be.
const HEADERS_MAX: usize = 100;
/// How large all of them together may be.
const HEADERS_BYTES_MAX: usize = 32 << 10;
/// How long an id of a delivery may be; of a longer one there is a hash.
const DELIVERY_MAX: usize = 256;
/// What an unzipped body may have.
const BODY_MAX: usize = 64 << 20;
/// What may stand before the name of an attribute of CloudEvents in a header.
const CLOUD: [&str; 3] = ["cloudevents:", "cloudevents_", "ce-"];
/// The media type of a CloudEvents message that is one document.
const STRUCTURED: &str = "application/cloudevents";

/// What tells a repeat.
enum DeliveryId {
    /// The sender's message id, or id and source of a CloudEvents message.
    MessageId,
    /// Nothing.
    Nothing,
    /// This header.
    Header(String),
}

/// How deliveries are read.
pub(super) struct Reading {
    delivery_id: DeliveryId,
}

impl Reading {
    pub(super) fn new(delivery_id: Option<&str>) -> Reading {
        Reading {
            delivery_id: match delivery_id {
                None | Some("message_id") => DeliveryId::MessageId,
                Some("none") => DeliveryId::Nothing,
                Some(header) => DeliveryId::Header(header.to_ascii_lowercase()),
            },
        }
    }

    /// What arrives. What cannot be opened arrives as it came, with the reason.
    pub(super) fn arrival(&self, delivery: Delivery) -> Arrival {
        let mut headers = headers(&delivery);
        let opened = open(&delivery, &mut headers);
        let (body, breach) = match opened {
            Ok(body) => (body, None),
            Err(failure) => (delivery.body.clone(), Some(failure)),
        };
        let delivery = self.repeat_of(&delivery.properties, &headers);
        Arrival {
            body,
            headers,
            delivery: delivery.filter(|id| !id.is_empty()).map(short),
            breach,
            ..Arrival::default()
        }
    }

    fn repeat_of(
        &self,
        properties: &BasicProperties,
        headers: &[(String, String)],
    ) -> Option<String> {
        let header = |wanted: &str| {
            let found = headers.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.clone())
        };
        match &self.delivery_id {
            DeliveryId::Nothing => None,
            DeliveryId::Header(name) => header(name),
            DeliveryId::MessageId => match header("ce-id").zip(header("ce-source")) {
                Some((id, source)) => Some(format!("{source} {id}")),
                None => properties.message_id().as_ref().map(ToString::to_string),
            },
        }
    }
}

/// The headers, by lowercase name: first what the broker and the protocol say, then those of the sender, which cannot take their place.
fn headers(delivery: &Delivery) -> Vec<(String, String)> {
    let properties = &delivery.properties;
    let short = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
    let known = [
        ("amqp-exchange", Some(delivery.exchange.clone())),
        ("amqp-routing-key", Some(delivery.routing_key.clone())),
        ("amqp-redelivered", Some(delivery.redelivered.to_string())),
        ("message-id", short(properties.message_id())),
        ("correlation-id", short(properties.correlation_id())),
        ("content-type", short(properties.content_type())),
        ("content-encoding", short(properties.content_encoding())),
        ("amqp-type", short(properties.kind())),
        ("amqp-app-id", short(properties.app_id())),
        ("amqp-reply-to", short(properties.reply_to())),
        (
            "amqp-timestamp",
            properties.timestamp().map(|seconds| seconds.to_string()),
        ),
    ];
    let mut headers: Vec<(String, String)> = known
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value.filter(|it| !it.is_empty())?)))
        .collect();
    let mut bytes = 0;
    let given = properties.headers().as_ref().map(FieldTable::inner);
    for (name, value) in given.into_iter().flatten() {
        let name = name.as_str().to_ascii_lowercase();
        let cloud = CLOUD.iter().find_map(|prefix| name.strip_prefix(prefix));
        let name = cloud.map_or(name.clone(), |attribute| format!("ce-{attribute}"));
        let secret = matches!(name.as_str(), "authorization" | "cookie");
        let (Some(value), false) = (text(value), secret) else {
            continue;
        };
        bytes += name.len() + value.len();
        let known = headers.iter().any(|(known, _)| *known == name);
        if headers.len() < HEADERS_MAX && bytes <= HEADERS_BYTES_MAX && !known {
            headers.push((name, value));
        }
    }
    headers
}

/// The id itself, or a hash of one that is too long.
fn short(id: String) -> String {
    if id.len() <= DELIVERY_MAX {
        return id;
    }
    let digest = Sha256::digest(&id);
    format!("sha256:{}", STANDARD.encode(digest))
}

/// A value of a header as text; none of tables and lists.
fn text(value: &AMQPValue) -> Option<String> {
    Some(match value {
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::ShortShortInt(value) => value.to_string(),
        AMQPValue::ShortShortUInt(value) => value.to_string(),
        AMQPValue::ShortInt(value) => value.to_string(),
        AMQPValue::ShortUInt(value) => value.to_string(),
        AMQPValue::LongInt(value) => value.to_string(),
        AMQPValue::LongUInt(value) => value.to_string(),
        AMQPValue::LongLongInt(value) => value.to_string(),
        AMQPValue::Float(value) => value.to_string(),
        AMQPValue::Double(value) => value.to_string(),
        AMQPValue::Timestamp(value) => value.to_string(),
        AMQPValue::ShortString(value) => value.to_string(),
        AMQPValue::LongString(value) => std::str::from_utf8(value.as_bytes()).ok()?.to_owned(),
        _ => return None,
    })
}

/// The body, unzipped and out of its envelope. The envelope's attributes join the headers.
fn open(delivery: &Delivery, headers: &mut Vec<(String, String)>) -> Result<Bytes, Failure> {
    let encoding = delivery.properties.content_encoding().as_ref();
    let mut body = delivery.body.clone();
    if let Some(encoding) = encoding {
        let mut zipped = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(encoding.as_str()) {
            zipped.insert(CONTENT_ENCODING, value);
        }
        // Some clients write the character set there.
        let is_text = encoding.as_str().eq_ignore_ascii_case("utf-8")
            || encoding.as_str().eq_ignore_ascii_case("utf8");
        if !is_text {
            body = inflate(&zipped, body, BODY_MAX)?;
        }
    }
    let media_type = headers
        .iter()
        .find(|(name, _)| name == "content-type")
        .map(|(_, value)| value.to_ascii_lowercase());
    let Some(media_type) = media_type.filter(|kind| kind.starts_with(STRUCTURED)) else {
        return Ok(body);
    };
    let form = media_type.split(';').next().unwrap_or_default().trim();
    if form != "application/cloudevents+json" {
        return Err(Failure::parse(format!(
            "`{form}` is no form of CloudEvents that is known here; send `application/cloudevents+json`, one a message"
        )));
    }
    let envelope = Body::new(body);
    let root = envelope.document()?;
    for (name, value) in root.entries() {
        let Some(name) = name.as_str() else { continue };
        if let ("data" | "data_base64", _) | (_, None) = (&*name, value.as_str()) {
            continue;
        }
        let name = format!("ce-{}", name.to_ascii_lowercase());
        headers.retain(|(known, _)| *known != name);
        let value = value.as_str().unwrap_or_default().into_owned();
        headers.push((name, value));
    }
    if let Some(kind) = root.get("datacontenttype").and_then(Item::as_str) {
        headers.retain(|(name, _)| name != "content-type");
        headers.push(("content-type".to_owned(), kind.into_owned()));
    }
    if let Some(coded) = root.get("data_base64").and_then(Item::as_str) {
        let data = STANDARD.decode(coded.as_bytes());
        return data
            .map(Bytes::from)
            .map_err(|_| Failure::parse("`data_base64` of a CloudEvents message is not base64"));
    }
    match root.get("data") {
        Some(data) => Ok(data.to_bytes()),
        None => Err(Failure::parse("a CloudEvents message without `data`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_id_tells_a_repeat_as_well() {
        let id = |last: &str| short("a".repeat(DELIVERY_MAX - 1) + last);
        assert_eq!(id("b"), "a".repeat(DELIVERY_MAX - 1) + "b");
        assert_eq!(id("bc"), id("bc"));
        assert_ne!(id("bc"), id("bd"));
        assert!(id("bc").len() <= DELIVERY_MAX);
    }
}
