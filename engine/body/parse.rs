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
    let mut tree = Tree {
        slots: Vec::with_capacity(room(bytes.len(), limits)),
        open: Vec::with_capacity(16),
        prints: Vec::new(),
        limits,
    };
    tree.fill(bytes).map_err(|failure| *failure)?;
    Ok(tree.slots)
}

/// For how many slots there is room at first: enough for small documents without blanks, for large ones what most of them need.
fn room(length: usize, limits: Limits) -> usize {
    let bytes_a_slot = if length < 64 << 10 { 5 } else { 12 };
    (length / bytes_a_slot + 8).min(limits.nodes_max)
}

type Parsed<T> = Result<T, Box<Failure>>;

/// What has been read. The place in the bytes is kept apart from it, in a register.
struct Tree {
    slots: Vec<Slot>,
    /// The indexes of the lists and objects that are not closed yet.
    open: Vec<u32>,
    /// Room for the prints of the keys of one object.
    prints: Vec<u64>,
    limits: Limits,
}

impl Tree {
    fn fill(&mut self, bytes: &[u8]) -> Parsed<()> {
        let mut at = if bytes.starts_with(b"\xEF\xBB\xBF") {
            3
        } else {
            0
        };
        at = space(bytes, at);
        if at == bytes.len() {
            return Err(Box::new(Failure::parse(
                "the body is empty, a JSON value was expected",
            )));
        }
        loop {
            let opened = self.open.len();
            at = self.value(bytes, at)?;
            if self.open.len() > opened {
                at = space(bytes, at);
                if !self.is_closed(bytes, at) {
                    at = self.element(bytes, at)?;
                    continue;
                }
            }
            match self.next(bytes, at)? {
                Some(value) => at = value,
                None => return Ok(()),
            }
        }
    }

    /// Whether the innermost list or object ends here, before its first element.
    #[inline(always)]
    fn is_closed(&self, bytes: &[u8], at: usize) -> bool {
        matches!(bytes.get(at), Some(b']' | b'}')) && self.closes(bytes[at])
    }

    #[inline(always)]
    fn closes(&self, byte: u8) -> bool {
        let list = self.in_list();
        (list && byte == b']') || (!list && byte == b'}')
    }

    #[inline(always)]
    fn in_list(&self) -> bool {
        self.open
            .last()
            .is_some_and(|&container| self.slots[container as usize].kind == Kind::List)
    }

    /// Counts one more element of the innermost list or object and reads up to its value.
    #[inline(always)]
    fn element(&mut self, bytes: &[u8], at: usize) -> Parsed<usize> {
        let container = self.open.last().map_or(0, |&container| container as usize);
        let slot = &mut self.slots[container];
        slot.count += 1;
        if slot.kind == Kind::List {
            return match bytes.get(at) {
                None if slot.count == 1 => Err(fault(bytes, at, "the body ends inside a list")),
                _ => Ok(at),
            };
        }
        match bytes.get(at) {
            Some(b'"') => {}
            Some(_) => return Err(fault(bytes, at, "expected a key in quotes")),
            None => return Err(fault(bytes, at, "the body ends inside an object")),
        }
        let mut at = self.string(bytes, at)?;
        if bytes.get(at) != Some(&b':') {
            at = space(bytes, at);
            if bytes.get(at) != Some(&b':') {
                return Err(fault(bytes, at, "expected `:` after a key"));
            }
        }
        Ok(space(bytes, at + 1))
    }

    /// What follows a value: the place of the next one, or nothing at the end of the document.
    #[inline(always)]
    fn next(&mut self, bytes: &[u8], mut at: usize) -> Parsed<Option<usize>> {
        loop {
            at = space(bytes, at);
            if self.open.is_empty() {
                return match bytes.get(at) {
                    None => Ok(None),
                    Some(_) => Err(fault(
                        bytes,
                        at,
                        "there are bytes after the end of the JSON value",
                    )),
                };
            }
            match bytes.get(at) {
                Some(b',') => {
                    let at = space(bytes, at + 1);
                    return self.element(bytes, at).map(Some);
                }
                Some(&byte @ (b']' | b'}')) if self.closes(byte) => {
                    at += 1;
                    self.close(bytes, at)?;
                }
                other => return Err(self.not_closed(bytes, at, other.is_none())),
            }
        }
    }

    #[cold]
    fn not_closed(&self, bytes: &[u8], at: usize, end: bool) -> Box<Failure> {
        let what = match (self.in_list(), end) {
            (true, true) => "the body ends inside a list",
            (true, false) => "expected `,` or `]` in a list",
            (false, true) => "the body ends inside an object",
            (false, false) => "expected `,` or `}` in an object",
        };
        fault(bytes, at, what)
    }

    #[inline(always)]
    fn close(&mut self, bytes: &[u8], end: usize) -> Parsed<()> {
        let next = self.slots.len() as u32;
        let Some(container) = self.open.pop() else {
            return Ok(());
        };
        let slot = &mut self.slots[container as usize];
        slot.end = end as u32;
        slot.next = next;
        if slot.kind == Kind::Object && slot.count > 1 {
            let keys = slot.count;
            self.refuse_duplicate_keys(bytes, container, keys)?;
        }
        Ok(())
    }

    /// Reads a value, or the beginning of a list or an object.
    #[inline(always)]
    fn value(&mut self, bytes: &[u8], at: usize) -> Parsed<usize> {
        match bytes.get(at) {
            Some(b'"') => self.string(bytes, at),
            Some(b'{') => self.begin(bytes, at, Kind::Object),
            Some(b'[') => self.begin(bytes, at, Kind::List),
            Some(b't') => self.word(bytes, at, b"true", Kind::Bool, true),
            Some(b'f') => self.word(bytes, at, b"false", Kind::Bool, false),
            Some(b'n') => self.word(bytes, at, b"null", Kind::Null, false),
            Some(b'-' | b'0'..=b'9') => {
                let end = number(bytes, at)?;
                self.push(Kind::Number, at, end, false)?;
                Ok(end)
            }
            Some(_) => Err(fault(bytes, at, "expected a value")),
            None => Err(fault(bytes, at, "the body ends where a value was expected")),
        }
    }

    fn begin(&mut self, bytes: &[u8], at: usize, kind: Kind) -> Parsed<usize> {
        if self.open.len() >= self.limits.depth_max {
            let depth = self.limits.depth_max;
            let what = format!("lists and objects nest deeper than {depth} levels");
            return Err(fault(bytes, at, &what));
        }
        self.open.push(self.slots.len() as u32);
        self.push(kind, at, at + 1, false)?;
        Ok(at + 1)
    }

    #[inline(always)]
    fn word(
        &mut self,
        bytes: &[u8],
        at: usize,
        word: &[u8],
        kind: Kind,
        flag: bool,
    ) -> Parsed<usize> {
        if !bytes[at..].starts_with(word) {
            return Err(fault(bytes, at, "expected a value"));
        }
        self.push(kind, at, at + word.len(), flag)?;
        Ok(at + word.len())
    }

    /// Reads a string, from its quote on.
    #[inline(always)]
    fn string(&mut self, bytes: &[u8], at: usize) -> Parsed<usize> {
        let start = at + 1;
        let mut end = plain_until(bytes, start);
        let mut escapes = false;
        if bytes.get(end) != Some(&b'"') {
            escapes = true;
            end = rest_of_string(bytes, end)?;
        }
        self.push(Kind::String, start, end, escapes)?;
        Ok(end + 1)
    }

    #[inline(always)]
    fn push(&mut self, kind: Kind, start: usize, end: usize, flag: bool) -> Parsed<()> {
        if self.slots.len() >= self.limits.nodes_max {
            return Err(too_many(self.limits.nodes_max));
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
    fn refuse_duplicate_keys(&mut self, bytes: &[u8], container: u32, keys: u32) -> Parsed<()> {
        let prints = &mut self.prints;
        prints.clear();
        let mut escaped = false;
        let mut key = container as usize + 1;
        for _ in 0..keys {
            let slot = &self.slots[key];
            escaped |= slot.flag;
            prints.push(print(&bytes[slot.start as usize..slot.end as usize]));
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
        if suspicious || escaped {
            self.refuse_equal_keys(bytes, container, keys)?;
        }
        Ok(())
    }

    fn refuse_equal_keys(&self, bytes: &[u8], container: u32, keys: u32) -> Parsed<()> {
        let mut seen = FxHashSet::with_capacity_and_hasher(keys as usize, Default::default());
        let mut key = container as usize + 1;
        for _ in 0..keys {
            let slot = &self.slots[key];
            let text = std::str::from_utf8(&bytes[slot.start as usize..slot.end as usize])
                .expect("checked at the start");
            let name = if slot.flag {
                Cow::Owned(unescape(text))
            } else {
                Cow::Borrowed(text)
            };
            if !seen.insert(name) {
                let name: String = text.chars().take(60).collect();
                let what = format!("the key `{name}` stands twice in one object");
                return Err(fault(bytes, slot.start as usize, &what));
            }
            key = self.slots[key + 1].next as usize;
        }
        Ok(())
    }
}

/// The place of the quote that ends a string, from where something other than plain characters stands in it.
fn rest_of_string(bytes: &[u8], mut at: usize) -> Parsed<usize> {
    loop {
        match bytes.get(at) {
            Some(b'"') => return Ok(at),
            Some(b'\\') => at = escape(bytes, at)?,
            Some(0..=0x1F) => {
                let what = "a control character in a string needs an escape";
                return Err(fault(bytes, at, what));
            }
            Some(_) => at += 1,
            None => return Err(fault(bytes, at, "the body ends inside a string")),
        }
        at = plain_until(bytes, at);
    }
}

/// The place after an escape.
fn escape(bytes: &[u8], at: usize) -> Parsed<usize> {
    match bytes.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') => match unit(bytes, at, at + 2)? {
            0xD800..=0xDBFF => {
                let follows = bytes[at + 6..].starts_with(b"\\u");
                if !follows || !(0xDC00..=0xDFFF).contains(&unit(bytes, at, at + 8)?) {
                    return Err(fault(bytes, at, "a lone surrogate is no character"));
                }
                Ok(at + 12)
            }
            0xDC00..=0xDFFF => Err(fault(bytes, at, "a lone surrogate is no character")),
            _ => Ok(at + 6),
        },
        _ => Err(fault(bytes, at, "an unknown escape in a string")),
    }
}

fn unit(bytes: &[u8], at: usize, digits: usize) -> Parsed<u32> {
    let digits = bytes.get(digits..digits + 4).unwrap_or_default();
    if digits.len() < 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
        let what = "the escape \\u needs four hexadecimal digits";
        return Err(fault(bytes, at, what));
    }
    Ok(digits.iter().fold(0, |unit, &digit| {
        unit * 16 + (digit as char).to_digit(16).unwrap_or(0)
    }))
}

/// The place after a number.
fn number(bytes: &[u8], start: usize) -> Parsed<usize> {
    let mut at = start + usize::from(bytes[start] == b'-');
    match bytes.get(at) {
        Some(b'0') => at += 1,
        Some(b'1'..=b'9') => at = digits(bytes, at)?,
        _ => return Err(fault(bytes, at, "a number needs a digit here")),
    }
    if matches!(bytes.get(at), Some(b'0'..=b'9')) {
        return Err(fault(bytes, at, "a number must not begin with 0"));
    }
    if bytes.get(at) == Some(&b'.') {
        at = digits(bytes, at + 1)?;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let signed = matches!(bytes.get(at + 1), Some(b'+' | b'-'));
        at = digits(bytes, at + 1 + usize::from(signed))?;
    }
    Ok(at)
}

fn digits(bytes: &[u8], start: usize) -> Parsed<usize> {
    let mut at = start;
    while matches!(bytes.get(at), Some(b'0'..=b'9')) {
        at += 1;
    }
    if at == start {
        return Err(fault(bytes, at, "a number needs a digit here"));
    }
    Ok(at)
}

#[inline(always)]
fn space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

#[cold]
fn too_many(nodes_max: usize) -> Box<Failure> {
    Box::new(Failure::new(
        Class::TooLarge,
        format!("the body has more than {nodes_max} values"),
    ))
}

#[cold]
fn fault(bytes: &[u8], at: usize, what: &str) -> Box<Failure> {
    let before = &bytes[..at.min(bytes.len())];
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let line_start = before
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |at| at + 1);
    let column = String::from_utf8_lossy(&before[line_start..])
        .chars()
        .count()
        + 1;
    Box::new(Failure::parse(format!(
        "not JSON at line {line}, column {column}: {what}"
    )))
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
