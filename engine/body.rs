//! Bytes that travel, and a flat tape over them: kinds, spans and sizes, parsed lazily and at most once. Strings and numbers stay in
//! the bytes, so number text and key order survive. No patching: a step that changes a body writes a new one.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::failure::{Class, Failure};

mod parse;

pub use parse::unescape;

/// Limits of one document. Every source has its own for bytes; these hold wherever a body is parsed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many bytes a document may have.
    pub bytes_max: usize,
    /// How deep lists and objects may nest.
    pub depth_max: usize,
    /// How many values a document may have.
    pub nodes_max: usize,
}

impl Limits {
    /// What holds where nothing else is said: 64 MiB, 128 levels, 4 million values.
    pub const DEFAULT: Limits = Limits {
        bytes_max: 64 << 20,
        depth_max: 128,
        nodes_max: 4_000_000,
    };
}

/// The data of a message: bytes, and the document in them once somebody asks. A clone shares both.
#[derive(Clone)]
pub struct Body(Arc<Inner>);

struct Inner {
    bytes: Bytes,
    tape: OnceLock<Result<Tape, Failure>>,
}

impl Body {
    /// A body of these bytes; nothing is parsed yet.
    pub fn new(bytes: impl Into<Bytes>) -> Body {
        Body(Arc::new(Inner {
            bytes: bytes.into(),
            tape: OnceLock::new(),
        }))
    }

    /// The JSON `null`.
    pub fn null() -> Body {
        Body::new(Bytes::from_static(b"null"))
    }

    /// The bytes as they travel.
    pub fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.0.bytes.len()
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.0.bytes.is_empty()
    }

    /// The document in the bytes, parsed at the first call. Fails with class `parse` or `too_large`.
    pub fn document(&self) -> Result<Item<'_>, Failure> {
        let parsed = self
            .0
            .tape
            .get_or_init(|| Tape::parse(self.0.bytes.clone(), Limits::DEFAULT));
        match parsed {
            Ok(tape) => Ok(tape.root()),
            Err(failure) => Err(failure.clone()),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.0.bytes);
        f.write_str(&text.chars().take(200).collect::<String>())
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Body) -> bool {
        self.0.bytes == other.0.bytes
    }
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Bool,
    /// A number, kept as text.
    Number,
    /// A string.
    String,
    /// A list.
    List,
    /// An object.
    Object,
}

impl Kind {
    /// The kind in a sentence: `a list`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Bool => "a boolean",
            Kind::Number => "a number",
            Kind::String => "a text",
            Kind::List => "a list",
            Kind::Object => "an object",
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Where the value's text begins; of a string, after the quote.
    start: u32,
    /// Where the value's text ends; of a string, before the quote.
    end: u32,
    /// The index after the value's last descendant.
    next: u32,
    /// Of a list its items, of an object its entries.
    count: u32,
    kind: Kind,
    /// Of a string: it has escapes. Of a boolean: it is `true`.
    flag: bool,
}

/// The flat parse of one document. In an object a key is a string slot, followed by its value's slots.
#[derive(Debug)]
pub struct Tape {
    bytes: Bytes,
    /// A copy of the bytes that is known to be UTF-8: of documents up to [`TEXT_BYTES_MAX`], so that no string is checked again.
    text: Option<Box<str>>,
    slots: Vec<Slot>,
}

/// How large a document may be to be kept as text beside its bytes.
const TEXT_BYTES_MAX: usize = 256 << 10;

impl Tape {
    /// Parses one JSON document (RFC 8259). Duplicate keys, lone surrogates and bytes after the value are failures of class `parse`.
    pub fn parse(bytes: Bytes, limits: Limits) -> Result<Tape, Failure> {
        if bytes.len() > limits.bytes_max {
            return Err(Failure::new(
                Class::TooLarge,
                format!(
                    "the body has {} bytes, the limit is {}",
                    bytes.len(),
                    limits.bytes_max
                ),
            ));
        }
        let text = parse::text(&bytes)?;
        let slots = parse::slots(&bytes, limits)?;
        let text = (bytes.len() <= TEXT_BYTES_MAX).then(|| Box::from(text));
        Ok(Tape { bytes, text, slots })
    }

    /// The outermost value.
    pub fn root(&self) -> Item<'_> {
        Item { tape: self, at: 0 }
    }

    #[inline(always)]
    fn text(&self, start: usize, end: usize) -> &str {
        match &self.text {
            Some(text) => &text[start..end],
            None => std::str::from_utf8(&self.bytes[start..end])
                .expect("a tape is only built over UTF-8, at character borders"),
        }
    }
}

/// A value in a document: a cursor, free to copy.
#[derive(Clone, Copy)]
pub struct Item<'a> {
    tape: &'a Tape,
    at: u32,
}

impl<'a> Item<'a> {
    #[inline(always)]
    fn slot(self) -> &'a Slot {
        &self.tape.slots[self.at as usize]
    }

    /// What the value is.
    #[inline(always)]
    pub fn kind(self) -> Kind {
        self.slot().kind
    }

    /// Whether this is `null`.
    #[inline(always)]
    pub fn is_null(self) -> bool {
        self.kind() == Kind::Null
    }

    /// A number that identifies the value within its document.
    pub fn index(self) -> usize {
        self.at as usize
    }

    /// The boolean, if it is one.
    pub fn as_bool(self) -> Option<bool> {
        let slot = self.slot();
        (slot.kind == Kind::Bool).then_some(slot.flag)
    }

    /// The text between the value's first and last byte; of a string without its quotes and with its escapes.
    #[inline(always)]
    pub fn raw(self) -> &'a str {
        let slot = self.slot();
        self.tape.text(slot.start as usize, slot.end as usize)
    }

    /// The bytes that `raw` is made of.
    #[inline(always)]
    pub fn raw_bytes(self) -> &'a [u8] {
        let slot = self.slot();
        &self.tape.bytes[slot.start as usize..slot.end as usize]
    }

    /// The bytes that `json` is made of.
    #[inline(always)]
    pub fn json_bytes(self) -> &'a [u8] {
        let slot = self.slot();
        let quote = usize::from(slot.kind == Kind::String);
        &self.tape.bytes[slot.start as usize - quote..slot.end as usize + quote]
    }

    /// The value as it stands in the document, of a string with its quotes.
    pub fn json(self) -> &'a str {
        let slot = self.slot();
        let quote = usize::from(slot.kind == Kind::String);
        self.tape
            .text(slot.start as usize - quote, slot.end as usize + quote)
    }

    /// The value as it stands in the document, sharing its bytes.
    pub fn to_bytes(self) -> Bytes {
        self.tape.bytes.slice_ref(self.json_bytes())
    }

    /// The number's text, if it is one: `19.90` stays `19.90`.
    #[inline(always)]
    pub fn as_number(self) -> Option<&'a str> {
        (self.kind() == Kind::Number).then(|| self.raw())
    }

    /// The string without escapes, if it is one; borrowed where it has none.
    #[inline(always)]
    pub fn as_str(self) -> Option<Cow<'a, str>> {
        let slot = self.slot();
        if slot.kind != Kind::String {
            return None;
        }
        Some(if slot.flag {
            Cow::Owned(unescape(self.raw()))
        } else {
            Cow::Borrowed(self.raw())
        })
    }

    /// How many items a list or entries an object has; 0 for all else.
    #[inline(always)]
    pub fn len(self) -> usize {
        self.slot().count as usize
    }

    /// Whether a list or an object has nothing in it; true for all else.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The entry with this key, if it is an object that has it.
    pub fn get(self, key: &str) -> Option<Item<'a>> {
        let slot = self.slot();
        if slot.kind != Kind::Object {
            return None;
        }
        let (slots, bytes) = (&self.tape.slots[..], &self.tape.bytes[..]);
        let mut at = self.at as usize + 1;
        for _ in 0..slot.count {
            let name = &slots[at];
            let (start, end) = (name.start as usize, name.end as usize);
            let same = if name.flag {
                unescape(self.tape.text(start, end)) == key
            } else {
                end - start == key.len() && &bytes[start..end] == key.as_bytes()
            };
            if same {
                let (tape, at) = (self.tape, at as u32 + 1);
                return Some(Item { tape, at });
            }
            at = slots[at + 1].next as usize;
        }
        None
    }

    /// The item at this place, if it is a list that is long enough.
    pub fn at(self, index: usize) -> Option<Item<'a>> {
        if self.kind() == Kind::List {
            self.items().nth(index)
        } else {
            None
        }
    }

    /// The items of a list, the values of an object; nothing for all else.
    pub fn items(self) -> Items<'a> {
        let slot = self.slot();
        Items {
            tape: self.tape,
            at: self.at + 1,
            left: slot.count,
            keyed: slot.kind == Kind::Object,
        }
    }

    /// The entries of an object in their order; nothing for all else.
    pub fn entries(self) -> Entries<'a> {
        let slot = self.slot();
        let left = if slot.kind == Kind::Object {
            slot.count
        } else {
            0
        };
        Entries {
            tape: self.tape,
            at: self.at + 1,
            left,
        }
    }
}

impl fmt::Debug for Item<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.json())
    }
}

/// The items of a list, or the values of an object.
#[derive(Clone)]
pub struct Items<'a> {
    tape: &'a Tape,
    at: u32,
    left: u32,
    keyed: bool,
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Item<'a>> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let at = if self.keyed { self.at + 1 } else { self.at };
        let item = Item {
            tape: self.tape,
            at,
        };
        self.at = item.slot().next;
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Items<'_> {}

/// The entries of an object, in their order.
#[derive(Clone)]
pub struct Entries<'a> {
    tape: &'a Tape,
    at: u32,
    left: u32,
}

impl<'a> Iterator for Entries<'a> {
    /// The key (a string; `as_str` gives its text) and the value.
    type Item = (Item<'a>, Item<'a>);

    #[inline(always)]
    fn next(&mut self) -> Option<(Item<'a>, Item<'a>)> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let key = Item {
            tape: self.tape,
            at: self.at,
        };
        let value = Item {
            tape: self.tape,
            at: self.at + 1,
        };
        self.at = value.slot().next;
        Some((key, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Entries<'_> {}

/// Appends `text` as a JSON string, with quotes.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => out.extend_from_slice(format!("\\u{control:04x}").as_bytes()),
        }
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Tape, Failure> {
        Tape::parse(Bytes::copy_from_slice(text.as_bytes()), Limits::DEFAULT)
    }

    #[test]
    fn values_keep_their_text_and_order() {
        let tape =
            parse(r#"{"z": 19.90, "a": [1, true, null, "x\n\u20ac"], "big": 9007199254740993}"#)
                .unwrap();
        let root = tape.root();
        assert_eq!(root.get("z").unwrap().as_number(), Some("19.90"));
        assert_eq!(
            root.get("big").unwrap().as_number(),
            Some("9007199254740993")
        );
        let list = root.get("a").unwrap();
        assert_eq!(list.len(), 4);
        assert_eq!(list.at(1).unwrap().as_bool(), Some(true));
        assert_eq!(list.at(3).unwrap().as_str().unwrap(), "x\n€");
        assert_eq!(list.json(), r#"[1, true, null, "x\n\u20ac"]"#);
        let keys: Vec<_> = root
            .entries()
            .map(|(key, _)| key.raw().to_owned())
            .collect();
        assert_eq!(keys, ["z", "a", "big"]);
        assert!(root.get("missing").is_none());
    }

    #[test]
    fn a_key_may_be_written_with_escapes() {
        let tape = parse(r#"{"na\u006de": 1}"#).unwrap();
        assert_eq!(tape.root().get("name").unwrap().as_number(), Some("1"));
    }

    #[test]
    fn what_is_not_json_is_a_parse_failure_with_a_place() {
        for (text, part) in [
            ("", "empty"),
            ("{", "ends"),
            ("[1,]", "value"),
            ("[1 2]", "`,` or `]`"),
            ("{\"a\" 1}", "`:`"),
            ("{\"a\":1,}", "key"),
            ("01", "number"),
            ("1.", "number"),
            ("-", "number"),
            ("1e", "number"),
            ("tru", "value"),
            ("\"a", "string"),
            ("\"\\x\"", "escape"),
            ("\"\t\"", "control"),
            ("1 1", "after"),
            ("{\"a\":1,\"a\":2}", "twice"),
            ("\"\\ud800\"", "surrogate"),
            ("NaN", "value"),
        ] {
            let failure = parse(text).unwrap_err();
            assert_eq!(failure.class, Class::Parse, "{text}");
            assert!(
                failure.message.contains(part),
                "{text}: {}",
                failure.message
            );
        }
    }

    #[test]
    fn invalid_utf8_is_a_parse_failure() {
        let failure = Tape::parse(Bytes::from_static(b"\"\xff\""), Limits::DEFAULT).unwrap_err();
        assert_eq!(failure.class, Class::Parse);
        assert!(failure.message.contains("UTF-8"), "{}", failure.message);
    }

    #[test]
    fn depth_and_nodes_have_limits() {
        let deep = "[".repeat(100_000);
        let failure = parse(&deep).unwrap_err();
        assert!(failure.message.contains("128"), "{}", failure.message);
        let many = format!("[{}1]", "1,".repeat(100));
        let limits = Limits {
            nodes_max: 50,
            ..Limits::DEFAULT
        };
        let failure = Tape::parse(Bytes::from(many), limits).unwrap_err();
        assert_eq!(failure.class, Class::TooLarge);
    }

    #[test]
    fn many_keys_are_checked_for_duplicates_too() {
        let keys: Vec<_> = (0..100).map(|n| format!("\"k{n}\":{n}")).collect();
        assert!(parse(&format!("{{{}}}", keys.join(","))).is_ok());
        assert!(parse(&format!("{{{},\"k7\":1}}", keys.join(","))).is_err());
    }

    #[test]
    fn strings_are_written_with_escapes() {
        let mut out = Vec::new();
        write_string(&mut out, "a\"b\\c\n\u{1}€");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\"a\\\"b\\\\c\\n\\u0001€\""
        );
    }
}
