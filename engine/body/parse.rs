//! The JSON parser behind the tape: one pass, no recursion, every limit checked. It builds slots and nothing else.

use std::borrow::Cow;

use rustc_hash::FxHashSet;

use super::{Kind, Limits, Slot};
use crate::failure::{Class, Failure};

const KEYS_COMPARED_IN_PAIRS: u32 = 12;

/// The bytes as text, which all JSON is.
pub(super) fn text(bytes: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(bytes).map_err(|error| {
        Failure::parse(format!(
            "the body is not UTF-8: byte {} is {:#04x}; send UTF-8",
            error.valid_up_to(),
            bytes[error.valid_up_to()]
        ))
    })
}

/// The slots of the document in `bytes`, which are UTF-8.
pub(super) fn slots(bytes: &[u8], limits: Limits) -> Result<Vec<Slot>, Failure> {
    if bytes.len() > u32::MAX as usize - 1 {
        return Err(Failure::new(
            Class::TooLarge,
            "the body is larger than 4 GiB",
        ));
    }
    let start = if bytes.starts_with(b"\xEF\xBB\xBF") {
        3
    } else {
        0
    };
    Parser {
        bytes,
        at: start,
        limits,
        slots: Vec::with_capacity((bytes.len() / 8 + 8).min(limits.nodes_max)),
        prints: Vec::new(),
        open: Vec::with_capacity(16),
    }
    .run()
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    limits: Limits,
    slots: Vec<Slot>,
    /// The indexes of the lists and objects that are not closed yet.
    open: Vec<u32>,
    /// Room for the prints of the keys of one object.
    prints: Vec<u64>,
}

impl Parser<'_> {
    fn run(mut self) -> Result<Vec<Slot>, Failure> {
        self.space();
        if self.at == self.bytes.len() {
            return Err(Failure::parse(
                "the body is empty, a JSON value was expected",
            ));
        }
        self.value()?;
        while let Some(&container) = self.open.last() {
            self.space();
            if self.slots[container as usize].kind == Kind::List {
                self.list_goes_on(container)?;
            } else {
                self.object_goes_on(container)?;
            }
        }
        self.space();
        if self.at < self.bytes.len() {
            return Err(self.fault("there are bytes after the end of the JSON value"));
        }
        Ok(self.slots)
    }

    fn list_goes_on(&mut self, container: u32) -> Result<(), Failure> {
        let first = self.slots[container as usize].count == 0;
        match self.peek() {
            Some(b']') => return self.close(container),
            Some(b',') if !first => {
                self.at += 1;
                self.space();
            }
            Some(_) if first => {}
            Some(_) => return Err(self.fault("expected `,` or `]` in a list")),
            None => return Err(self.fault("the body ends inside a list")),
        }
        self.slots[container as usize].count += 1;
        self.value()
    }

    fn object_goes_on(&mut self, container: u32) -> Result<(), Failure> {
        let first = self.slots[container as usize].count == 0;
        match self.peek() {
            Some(b'}') => return self.close(container),
            Some(b',') if !first => {
                self.at += 1;
                self.space();
            }
            Some(_) if first => {}
            Some(_) => return Err(self.fault("expected `,` or `}` in an object")),
            None => return Err(self.fault("the body ends inside an object")),
        }
        match self.peek() {
            Some(b'"') => self.string()?,
            Some(_) => return Err(self.fault("expected a key in quotes")),
            None => return Err(self.fault("the body ends inside an object")),
        }
        self.space();
        if self.peek() != Some(b':') {
            return Err(self.fault("expected `:` after a key"));
        }
        self.at += 1;
        self.space();
        self.slots[container as usize].count += 1;
        self.value()
    }

    fn close(&mut self, container: u32) -> Result<(), Failure> {
        self.at += 1;
        let next = self.slots.len() as u32;
        let slot = &mut self.slots[container as usize];
        slot.end = self.at as u32;
        slot.next = next;
        let keys = if slot.kind == Kind::Object {
            slot.count
        } else {
            0
        };
        self.open.pop();
        if keys > 1 {
            self.refuse_duplicate_keys(container, keys)?;
        }
        Ok(())
    }

    fn value(&mut self) -> Result<(), Failure> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'{') => self.open(Kind::Object),
            Some(b'[') => self.open(Kind::List),
            Some(b't') => self.word("true", Kind::Bool, true),
            Some(b'f') => self.word("false", Kind::Bool, false),
            Some(b'n') => self.word("null", Kind::Null, false),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => Err(self.fault("expected a value")),
            None => Err(self.fault("the body ends where a value was expected")),
        }
    }

    fn open(&mut self, kind: Kind) -> Result<(), Failure> {
        if self.open.len() >= self.limits.depth_max {
            return Err(self.fault(&format!(
                "lists and objects nest deeper than {} levels",
                self.limits.depth_max
            )));
        }
        self.open.push(self.slots.len() as u32);
        let start = self.at;
        self.at += 1;
        self.push(kind, start, start + 1, false)
    }

    fn word(&mut self, word: &str, kind: Kind, flag: bool) -> Result<(), Failure> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.fault("expected a value"));
        }
        let start = self.at;
        self.at += word.len();
        self.push(kind, start, self.at, flag)
    }

    fn number(&mut self) -> Result<(), Failure> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(self.fault("a number needs a digit here")),
        }
        if matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.fault("a number must not begin with 0"));
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        self.push(Kind::Number, start, self.at, false)
    }

    fn digits(&mut self) -> Result<(), Failure> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.fault("a number needs a digit here"));
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), Failure> {
        self.at += 1;
        let start = self.at;
        let mut escapes = false;
        loop {
            self.at = plain_until(self.bytes, self.at);
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escapes = true;
                    self.escape()?;
                }
                Some(0..=0x1F) => {
                    return Err(self.fault("a control character in a string needs an escape"));
                }
                Some(_) => self.at += 1,
                None => return Err(self.fault("the body ends inside a string")),
            }
        }
        let end = self.at;
        self.at += 1;
        self.push(Kind::String, start, end, escapes)
    }

    fn escape(&mut self) -> Result<(), Failure> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => {
                let unit = self.unit(self.at + 2)?;
                match unit {
                    0xD800..=0xDBFF => {
                        let follows = self.bytes[self.at + 6..].starts_with(b"\\u");
                        if !follows || !(0xDC00..=0xDFFF).contains(&self.unit(self.at + 8)?) {
                            return Err(self.fault("a lone surrogate is no character"));
                        }
                        self.at += 12;
                    }
                    0xDC00..=0xDFFF => return Err(self.fault("a lone surrogate is no character")),
                    _ => self.at += 6,
                }
                Ok(())
            }
            _ => Err(self.fault("an unknown escape in a string")),
        }
    }

    fn unit(&self, at: usize) -> Result<u32, Failure> {
        let digits = self.bytes.get(at..at + 4).unwrap_or_default();
        if digits.len() < 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(self.fault("the escape \\u needs four hexadecimal digits"));
        }
        Ok(digits.iter().fold(0, |unit, &digit| {
            unit * 16 + (digit as char).to_digit(16).unwrap_or(0)
        }))
    }

    fn push(&mut self, kind: Kind, start: usize, end: usize, flag: bool) -> Result<(), Failure> {
        if self.slots.len() >= self.limits.nodes_max {
            return Err(Failure::new(
                Class::TooLarge,
                format!("the body has more than {} values", self.limits.nodes_max),
            ));
        }
        let next = self.slots.len() as u32 + 1;
        self.slots.push(Slot {
            start: start as u32,
            end: end as u32,
            next,
            count: 0,
            kind,
            flag,
        });
        Ok(())
    }

    /// Compares prints of the keys first: only where two are the same, or where keys have escapes, the keys themselves.
    fn refuse_duplicate_keys(&mut self, container: u32, keys: u32) -> Result<(), Failure> {
        let mut prints = std::mem::take(&mut self.prints);
        prints.clear();
        let mut escaped = false;
        let mut key = container as usize + 1;
        for _ in 0..keys {
            let slot = &self.slots[key];
            escaped |= slot.flag;
            prints.push(print(&self.bytes[slot.start as usize..slot.end as usize]));
            key = self.slots[key + 1].next as usize;
        }
        let suspicious = if keys <= KEYS_COMPARED_IN_PAIRS {
            prints
                .iter()
                .enumerate()
                .any(|(at, print)| prints[..at].contains(print))
        } else {
            prints.sort_unstable();
            prints.windows(2).any(|pair| pair[0] == pair[1])
        };
        self.prints = prints;
        if suspicious || escaped {
            self.refuse_equal_keys(container, keys)?;
        }
        Ok(())
    }

    fn refuse_equal_keys(&self, container: u32, keys: u32) -> Result<(), Failure> {
        let mut seen = FxHashSet::with_capacity_and_hasher(keys as usize, Default::default());
        let mut key = container + 1;
        for _ in 0..keys {
            let text = std::str::from_utf8(self.text(key)).expect("checked at the start");
            let text = if self.slots[key as usize].flag {
                Cow::Owned(unescape(text))
            } else {
                Cow::Borrowed(text)
            };
            if !seen.insert(text) {
                return Err(self.twice(key));
            }
            key = self.slots[key as usize + 1].next;
        }
        Ok(())
    }

    fn text(&self, key: u32) -> &[u8] {
        let slot = &self.slots[key as usize];
        &self.bytes[slot.start as usize..slot.end as usize]
    }

    fn twice(&self, key: u32) -> Failure {
        let name = String::from_utf8_lossy(self.text(key))
            .chars()
            .take(60)
            .collect::<String>();
        self.fault_at(
            self.slots[key as usize].start as usize,
            &format!("the key `{name}` stands twice in one object"),
        )
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn fault(&self, what: &str) -> Failure {
        self.fault_at(self.at, what)
    }

    fn fault_at(&self, at: usize, what: &str) -> Failure {
        let before = &self.bytes[..at.min(self.bytes.len())];
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        let line_start = before
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&before[line_start..])
            .chars()
            .count()
            + 1;
        Failure::parse(format!("not JSON at line {line}, column {column}: {what}"))
    }
}

/// Where the first byte is, from `at` on, that cannot simply stand in a string: a quote, a backslash or a control character.
fn plain_until(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    // The lowest bit that this sets is set rightly: a borrow only goes upwards from a byte that is zero.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    while let Some(chunk) = bytes
        .get(at..at + 8)
        .and_then(|chunk| chunk.try_into().ok())
    {
        let word = u64::from_le_bytes(chunk);
        let quotes = zeros(word ^ (ONES * u64::from(b'"')));
        let backslashes = zeros(word ^ (ONES * u64::from(b'\\')));
        let controls = zeros(word & (ONES * 0xE0));
        let found = quotes | backslashes | controls;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while at < bytes.len() && !matches!(bytes[at], b'"' | b'\\' | 0..=0x1F) {
        at += 1;
    }
    at
}

/// A number that differs for most keys that differ, and never for equal keys.
fn print(key: &[u8]) -> u64 {
    let eight = |at: usize| key.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let four = |at: usize| key.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let (first, last) = if let Some(first) = eight(0) {
        (first, eight(key.len() - 8).unwrap_or_default())
    } else if let Some(first) = four(0) {
        let last = four(key.len() - 4).unwrap_or_default();
        (u64::from(first), u64::from(last))
    } else {
        let fold = |all: u64, byte: &u8| all << 8 | u64::from(*byte);
        (key.iter().fold(0, fold), 0)
    };
    (first ^ last.rotate_left(29)).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ key.len() as u64
}

/// The text of a JSON string's inside without its escapes. The input must have passed the parser.
pub fn unescape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.as_bytes().get(at + 1).copied().unwrap_or(b'\\');
        let mut used = at + 2;
        match code {
            b'b' => out.push('\u{8}'),
            b'f' => out.push('\u{c}'),
            b'n' => out.push('\n'),
            b'r' => out.push('\r'),
            b't' => out.push('\t'),
            b'u' => {
                let unit = hex(rest, at + 2);
                used = at + 6;
                let character = if (0xD800..0xDC00).contains(&unit) {
                    used = at + 12;
                    0x10000
                        + ((unit - 0xD800) << 10)
                        + (hex(rest, at + 8).wrapping_sub(0xDC00) & 0x3FF)
                } else {
                    unit
                };
                out.push(char::from_u32(character).unwrap_or('\u{FFFD}'));
            }
            other => out.push(other as char),
        }
        rest = rest.get(used..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

fn hex(text: &str, at: usize) -> u32 {
    text.get(at..at + 4)
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .unwrap_or(0xFFFD)
}
