//! The durable form of what a message carries beside its bytes: item, generation, headers and variables. Compact, versioned, empty where
//! there is nothing.
//!
//! Layout: a version byte, then the item, the generation, the headers and the variables; a text or a body is its length and its bytes, a list its
//! length and its entries; lengths are base-128 numbers, low bits first.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::body::Body;
use crate::failure::Failure;
use crate::message::{Message, Names};

use super::commit::StoredHop;

const VERSION: u8 = 1;

/// Item, generation, headers and variables of a message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Envelope {
    /// The split keys on the way from the root.
    pub item: Arc<str>,
    /// How often the message has been sent as new.
    pub generation: u32,
    /// Headers, by lowercase name.
    pub headers: Arc<Names>,
    /// Bound variables, by name.
    pub variables: Arc<BTreeMap<Arc<str>, Body>>,
}

impl Envelope {
    /// The durable form of a message's headers, variables and item. Equal content gives equal bytes.
    pub fn write(message: &Message) -> Bytes {
        let plain = message.item.is_empty() && message.generation == 0;
        if plain && message.headers.is_empty() && message.variables.is_empty() {
            return Bytes::new();
        }
        let mut out = Vec::with_capacity(64);
        out.push(VERSION);
        put(&mut out, message.item.as_bytes());
        length(&mut out, message.generation as usize);
        length(&mut out, message.headers.len());
        for (name, value) in message.headers.iter() {
            put(&mut out, name.as_bytes());
            put(&mut out, value.as_bytes());
        }
        length(&mut out, message.variables.len());
        for (name, value) in message.variables.iter() {
            put(&mut out, name.as_bytes());
            put(&mut out, value.bytes());
        }
        Bytes::from(out)
    }

    /// The envelope that was written as these bytes.
    pub fn read(bytes: &Bytes) -> Result<Envelope, Failure> {
        let Some(&version) = bytes.first() else {
            return Ok(Envelope::default());
        };
        if version != VERSION {
            return Err(Failure::internal(format!(
                "a stored message has an envelope of version {version}, this program reads {VERSION}; run the program that wrote it"
            )));
        }
        let mut left = bytes.slice(1..);
        let envelope = parse(&mut left).filter(|_| left.is_empty());
        envelope.ok_or_else(|| {
            Failure::internal(
                "a stored message has a damaged envelope; restore a copy of the store",
            )
        })
    }
}

impl StoredHop {
    /// The message that waits at the hop.
    pub fn into_message(self) -> Result<Message, Failure> {
        let envelope = Envelope::read(&self.envelope)?;
        Ok(Message {
            id: self.message,
            root: self.root,
            item: envelope.item,
            generation: envelope.generation,
            received_at_ms: self.received_at_ms,
            keys: self.keys,
            headers: envelope.headers,
            variables: envelope.variables,
            body: Body::new(self.body),
        })
    }
}

fn parse(left: &mut Bytes) -> Option<Envelope> {
    let item = Arc::from(text(left)?);
    let generation = u32::try_from(number(left)?).ok()?;
    let mut headers = Names::new();
    for _ in 0..number(left)? {
        headers.insert(Arc::from(text(left)?), text(left)?);
    }
    let mut variables = BTreeMap::new();
    for _ in 0..number(left)? {
        variables.insert(Arc::from(text(left)?), Body::new(take(left)?));
    }
    Some(Envelope {
        item,
        generation,
        headers: Arc::new(headers),
        variables: Arc::new(variables),
    })
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn length(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push((number & 0x7F) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn number(left: &mut Bytes) -> Option<usize> {
    let mut number = 0usize;
    for at in 0..9 {
        let byte = *left.get(at)?;
        number |= usize::from(byte & 0x7F) << (7 * at);
        if byte < 0x80 {
            *left = left.slice(at + 1..);
            return Some(number);
        }
    }
    None
}

fn take(left: &mut Bytes) -> Option<Bytes> {
    let length = number(left)?;
    if length > left.len() {
        return None;
    }
    Some(left.split_to(length))
}

fn text(left: &mut Bytes) -> Option<String> {
    String::from_utf8(take(left)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageId;

    fn check(
        item: &str,
        generation: u32,
        headers: &[(&str, &str)],
        variables: &[(&str, &str)],
    ) -> Bytes {
        let mut message = Message::new(MessageId(1), 0, Body::null());
        message.item = Arc::from(item);
        message.generation = generation;
        for (name, value) in headers {
            message.set_header(name, *value);
        }
        for (name, value) in variables {
            message.bind(*name, Body::new((*value).to_owned()));
        }
        let bytes = Envelope::write(&message);
        let read = Envelope::read(&bytes).unwrap();
        assert_eq!(read.item, message.item);
        assert_eq!(read.generation, generation);
        assert_eq!(read.headers, message.headers);
        assert_eq!(read.variables, message.variables);
        bytes
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert!(check("", 0, &[], &[]).is_empty());
        check("line-1/part-2", 0, &[], &[]);
        check("", 300, &[], &[]);
        check(
            "",
            0,
            &[("content-type", "application/json"), ("x", "")],
            &[("customer", "{\"on_hold\":false}")],
        );
        let long = "ä".repeat(10_000);
        check(&long, 1, &[(&long, &long)], &[("v", &long)]);
    }

    #[test]
    fn a_damaged_or_newer_envelope_is_a_failure() {
        let whole = check("item", 0, &[("a", "b")], &[("c", "1")]);
        for cut in 1..whole.len() {
            assert!(Envelope::read(&whole.slice(..cut)).is_err(), "{cut}");
        }
        let mut newer = whole.to_vec();
        newer[0] = 2;
        let failure = Envelope::read(&Bytes::from(newer)).unwrap_err();
        assert!(failure.message.contains("version 2"), "{}", failure.message);
        let mut longer = whole.to_vec();
        longer.push(0);
        assert!(Envelope::read(&Bytes::from(longer)).is_err());
    }
}
