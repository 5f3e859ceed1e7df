//! The durable form of what a message carries beside its bytes: item, generation, headers, variables and guards. Compact, versioned, empty where
//! there is nothing.
//!
//! Layout: a version byte, then the item, the generation, the headers, the variables and, in version 2, the guards; a text or a body is its length and its bytes, a list its
//! length and its entries; lengths are base-128 numbers, low bits first.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::body::Body;
use crate::failure::Failure;
use crate::message::{Guard, Message, MessageId, Names};

use super::commit::StoredHop;

/// The layout without guards.
const VERSION: u8 = 1;
/// The layout with guards: written only where there are some.
const GUARDED: u8 = 2;

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
    /// Versions that the message brought.
    pub guards: Arc<Vec<Guard>>,
}

impl Envelope {
    /// The durable form of a message's headers, variables and item. Equal content gives equal bytes.
    pub fn write(message: &Message) -> Bytes {
        let guarded = !message.guards.is_empty();
        let plain = message.item.is_empty() && message.generation == 0 && !guarded;
        if plain && message.headers.is_empty() && message.variables.is_empty() {
            return Bytes::new();
        }
        let mut out = Vec::with_capacity(64);
        out.push(if guarded { GUARDED } else { VERSION });
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
        if guarded {
            put_guards(&mut out, &message.guards);
        }
        Bytes::from(out)
    }

    /// The envelope that was written as these bytes.
    pub fn read(bytes: &Bytes) -> Result<Envelope, Failure> {
        let Some(&version) = bytes.first() else {
            return Ok(Envelope::default());
        };
        if !(VERSION..=GUARDED).contains(&version) {
            return Err(Failure::internal(format!(
                "a stored message has an envelope of version {version}, this program reads {GUARDED} at most; run the program that wrote it"
            )));
        }
        let mut left = bytes.slice(1..);
        let envelope = parse(&mut left, version == GUARDED).filter(|_| left.is_empty());
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
            guards: envelope.guards,
            body: Body::new(self.body),
        })
    }
}

fn parse(left: &mut Bytes, guarded: bool) -> Option<Envelope> {
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
    let mut guards = Vec::new();
    let many = if guarded { number(left)? } else { 0 };
    for _ in 0..many {
        guards.push(Guard {
            scope: Arc::from(text(left)?),
            key: text(left)?,
            version: text(left)?,
            by: MessageId::from_bytes(take(left)?[..].try_into().ok()?),
        });
    }
    Some(Envelope {
        item,
        generation,
        headers: Arc::new(headers),
        variables: Arc::new(variables),
        guards: Arc::new(guards),
    })
}

fn put_guards(out: &mut Vec<u8>, guards: &[Guard]) {
    length(out, guards.len());
    for guard in guards {
        put(out, guard.scope.as_bytes());
        put(out, guard.key.as_bytes());
        put(out, guard.version.as_bytes());
        put(out, &guard.by.to_bytes());
    }
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
    fn guards_are_kept_and_a_cut_is_noticed() {
        let mut message = Message::new(MessageId(1), 0, Body::null());
        for version in ["1", "2"] {
            message.guard(Guard {
                scope: Arc::from("newest:stock/latest"),
                key: "A-1".to_owned(),
                version: version.to_owned(),
                by: MessageId(7),
            });
        }
        let bytes = Envelope::write(&message);
        let read = Envelope::read(&bytes).unwrap();
        assert_eq!(read.guards, message.guards);
        assert_eq!((read.guards.len(), &*read.guards[0].version), (1, "2"));
        for cut in 1..bytes.len() {
            assert!(Envelope::read(&bytes.slice(..cut)).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_damaged_or_newer_envelope_is_a_failure() {
        let whole = check("item", 0, &[("a", "b")], &[("c", "1")]);
        for cut in 1..whole.len() {
            assert!(Envelope::read(&whole.slice(..cut)).is_err(), "{cut}");
        }
        let mut newer = whole.to_vec();
        newer[0] = 3;
        let failure = Envelope::read(&Bytes::from(newer)).unwrap_err();
        assert!(failure.message.contains("version 3"), "{}", failure.message);
        let mut longer = whole.to_vec();
        longer.push(0);
        assert!(Envelope::read(&Bytes::from(longer)).is_err());
    }
}
