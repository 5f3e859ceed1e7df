//! One unit of data in flight: ids, keys, headers, variables and a body. It knows nothing of flows, stores or the network.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::body::Body;

/// How many bytes a key may have: all stores find one of this length again.
pub const KEY_BYTES_MAX: usize = 512;

/// A message's id: 128 bits, time-ordered (48 bits of milliseconds first), printed as 32 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MessageId(pub u128);

impl MessageId {
    /// An id from a time in milliseconds since 1970 and 80 bits of randomness or of a hash.
    pub fn from_parts(milliseconds: u64, entropy: u128) -> MessageId {
        let time = u128::from(milliseconds & 0xFFFF_FFFF_FFFF) << 80;
        MessageId(time | (entropy & ((1 << 80) - 1)))
    }

    /// The id that was printed as `text`.
    pub fn parse(text: &str) -> Option<MessageId> {
        if text.len() != 32 {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(MessageId)
    }

    /// The 16 bytes of the id, as the store keeps them.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The id with these 16 bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> MessageId {
        MessageId(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Names with text values: headers and business keys. Ordered by name, so that equal content has equal bytes.
pub type Names = BTreeMap<Arc<str>, String>;

/// One unit of data in flight. A clone shares everything.
#[derive(Clone, Debug)]
pub struct Message {
    /// This message; parts of a split have ids of their own, derived from the whole's.
    pub id: MessageId,
    /// The accepted message that it comes from.
    pub root: MessageId,
    /// The split keys on the way from the root, joined by `/`; empty for the whole.
    pub item: Arc<str>,
    /// How often it has been sent as new: raised when what it did was undone, or when a person says "send as new", so that no target
    /// takes the repeat for what it knows already. 0 for the first.
    pub generation: u32,
    /// When the root was accepted, in milliseconds since 1970.
    pub received_at_ms: i64,
    /// Business keys, such as `order: SO-1001`.
    pub keys: Arc<Names>,
    /// Headers, by lowercase name.
    pub headers: Arc<Names>,
    /// What `into` and `set` have bound, by name without `$`.
    pub variables: Arc<BTreeMap<Arc<str>, Body>>,
    /// The versions that it brought for keys: once a newer one is seen, it is stale and must have no effect.
    pub guards: Arc<Vec<Guard>>,
    /// The data.
    pub body: Body,
}

/// The version that a message brought for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// What keeps equal keys of different steps and flows apart.
    pub scope: Arc<str>,
    /// The key's value.
    pub key: String,
    /// The version: a number, a time or a text.
    pub version: String,
    /// The message that brought it.
    pub by: MessageId,
}

impl Message {
    /// A message just accepted: its own root, with no keys, headers or variables yet.
    pub fn new(id: MessageId, received_at_ms: i64, body: Body) -> Message {
        Message {
            id,
            root: id,
            item: Arc::from(""),
            generation: 0,
            received_at_ms,
            keys: Arc::default(),
            headers: Arc::default(),
            variables: Arc::default(),
            guards: Arc::default(),
            body,
        }
    }

    /// The same message with another body.
    #[must_use]
    pub fn with_body(mut self, body: Body) -> Message {
        self.body = body;
        self
    }

    /// Notes the version that it brought for a key, in place of an earlier one for the same key.
    pub fn guard(&mut self, guard: Guard) {
        let guards = Arc::make_mut(&mut self.guards);
        guards.retain(|known| known.scope != guard.scope || known.key != guard.key);
        guards.push(guard);
    }

    /// Binds a variable, visible as `$name` in later expressions.
    pub fn bind(&mut self, name: impl Into<Arc<str>>, value: Body) {
        Arc::make_mut(&mut self.variables).insert(name.into(), value);
    }

    /// Sets a header; the name is kept in lowercase.
    pub fn set_header(&mut self, name: &str, value: impl Into<String>) {
        Arc::make_mut(&mut self.headers).insert(Arc::from(name.to_ascii_lowercase()), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_and_parse_and_sort_by_time() {
        let early = MessageId::from_parts(1_000, u128::MAX);
        let late = MessageId::from_parts(1_001, 0);
        assert!(early < late);
        assert_eq!(MessageId::parse(&late.to_string()), Some(late));
        assert_eq!(MessageId::from_bytes(late.to_bytes()), late);
        assert_eq!(MessageId::parse("short"), None);
    }
}
