//! What an expression gives: values of the document, borrowed, and values that were computed.

use std::borrow::Cow;
use std::cmp::Ordering;

use rustc_hash::FxHashMap;

use super::number::{Decimal, compare_text};
use super::{Form, Number, Value};
use crate::body::{Body, Item, Items, Kind, write_string};

impl<'a> Value<'a> {
    pub(crate) fn decimal(decimal: Decimal) -> Value<'a> {
        Value::Number(Number(Form::Decimal(decimal)))
    }

    pub(crate) fn count(count: usize) -> Value<'a> {
        Value::decimal(Decimal::from_count(count))
    }

    pub(crate) fn text(text: impl Into<Cow<'a, str>>) -> Value<'a> {
        Value::Text(text.into())
    }

    /// What the value is.
    pub fn kind(&self) -> Kind {
        match self {
            Value::Null | Value::KeptNull | Value::Reference(_) => Kind::Null,
            Value::Bool(_) => Kind::Bool,
            Value::Item(item) => item.kind(),
            Value::Number(_) => Kind::Number,
            Value::Text(_) => Kind::String,
            Value::List(_) => Kind::List,
            Value::Object(_) => Kind::Object,
        }
    }

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        match self {
            Value::Null | Value::KeptNull => true,
            Value::Item(item) => item.is_null(),
            _ => false,
        }
    }

    /// Whether it is a null that a mapping writes.
    pub fn is_kept_null(&self) -> bool {
        matches!(self, Value::KeptNull)
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            Value::Item(item) => item.as_bool(),
            _ => None,
        }
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<Cow<'_, str>> {
        match self {
            Value::Text(text) => Some(Cow::Borrowed(text)),
            Value::Item(item) => item.as_str(),
            _ => None,
        }
    }

    /// The string, if it is one, without a copy where that is possible.
    pub(crate) fn into_str(self) -> Option<Cow<'a, str>> {
        match self {
            Value::Text(text) => Some(text),
            Value::Item(item) => item.as_str(),
            _ => None,
        }
    }

    /// The number as JSON writes it, if it is one: untouched numbers as they stood in the document.
    pub fn number_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Value::Number(Number(Form::Text(text))) => Some(Cow::Borrowed(text)),
            Value::Number(Number(Form::Decimal(decimal))) => Some(Cow::Owned(decimal.to_text())),
            Value::Item(item) => item.as_number().map(Cow::Borrowed),
            _ => None,
        }
    }

    /// The number, if it is one that can be computed with.
    pub(crate) fn to_decimal(&self) -> Option<Decimal> {
        match self {
            Value::Number(Number(Form::Decimal(decimal))) => Some(*decimal),
            Value::Number(Number(Form::Text(text))) => Decimal::parse(text),
            Value::Item(item) => Decimal::parse(item.as_number()?),
            _ => None,
        }
    }

    /// The text of a string or a number, for keys, paths and headers.
    pub fn to_text(&self) -> Option<String> {
        match self.kind() {
            Kind::String => self.as_str().map(Cow::into_owned),
            Kind::Number => self.number_text().map(Cow::into_owned),
            _ => None,
        }
    }

    /// Whether it counts as true: all but false, null and what is empty.
    pub fn is_truthy(&self) -> bool {
        match self {
            Value::Null | Value::KeptNull => false,
            Value::Bool(value) => *value,
            Value::Number(_) | Value::Reference(_) => true,
            Value::Text(text) => !text.is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Object(entries) => !entries.is_empty(),
            Value::Item(item) => match item.kind() {
                Kind::Null => false,
                Kind::Bool => item.as_bool() == Some(true),
                Kind::Number => true,
                Kind::String => item.json().len() > 2,
                Kind::List | Kind::Object => !item.is_empty(),
            },
        }
    }

    /// How many items a list or entries an object has; 0 for all else.
    pub fn len(&self) -> usize {
        match self {
            Value::List(items) => items.len(),
            Value::Object(entries) => entries.len(),
            Value::Item(item) => item.len(),
            _ => 0,
        }
    }

    /// How many bytes to make room for where something of this size is written: 256 to 65,536.
    pub(crate) fn len_hint(&self) -> usize {
        match self {
            Value::Item(item) => item.raw_bytes().len().clamp(256, 64 << 10),
            _ => 1024,
        }
    }

    /// Whether a list or an object has nothing in it; true for all else.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry of an object.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        match self {
            Value::Item(item) => item.get(key).map(Value::Item),
            Value::Object(entries) => entries
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value.clone()),
            _ => None,
        }
    }

    /// The items of a list, one after another, if it is a list.
    pub fn into_items(self) -> Option<Elements<'a>> {
        match self {
            Value::Item(item) if item.kind() == Kind::List => Some(Elements::Tape(item.items())),
            Value::List(items) => Some(Elements::Computed(items.into_iter())),
            _ => None,
        }
    }

    /// The values of an object, one after another, if it is an object.
    pub(crate) fn into_values(self) -> Option<Elements<'a>> {
        match self {
            Value::Item(item) if item.kind() == Kind::Object => Some(Elements::Tape(item.items())),
            Value::Object(entries) => {
                let values: Vec<_> = entries.into_iter().map(|(_, value)| value).collect();
                Some(Elements::Computed(values.into_iter()))
            }
            _ => None,
        }
    }

    /// The entries of an object, if it is one.
    pub(crate) fn into_entries(self) -> Option<Vec<(Cow<'a, str>, Value<'a>)>> {
        match self {
            Value::Item(item) if item.kind() == Kind::Object => Some(
                item.entries()
                    .map(|(key, value)| (key.as_str().unwrap_or_default(), Value::Item(value)))
                    .collect(),
            ),
            Value::Object(entries) => Some(entries),
            _ => None,
        }
    }

    /// The name of its type, as the function `type` gives it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Reference(_) => "expression",
            _ => match self.kind() {
                Kind::Null => "null",
                Kind::Bool => "boolean",
                Kind::Number => "number",
                Kind::String => "string",
                Kind::List => "array",
                Kind::Object => "object",
            },
        }
    }

    /// A few words for messages: the type, and the value where it is short and can hold no secret worth hiding.
    pub(crate) fn described(&self) -> String {
        match self.kind() {
            Kind::Null => self.type_name().to_owned(),
            Kind::Bool => format!("the boolean {}", self.as_bool() == Some(true)),
            Kind::Number => format!("the number {}", self.number_text().unwrap_or_default()),
            Kind::String => "a string".to_owned(),
            Kind::List => format!("an array of {}", self.len()),
            Kind::Object => "an object".to_owned(),
        }
    }

    /// Appends the value as compact JSON.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null | Value::KeptNull | Value::Reference(_) => out.extend_from_slice(b"null"),
            Value::Bool(true) => out.extend_from_slice(b"true"),
            Value::Bool(false) => out.extend_from_slice(b"false"),
            Value::Item(item) => write_item(*item, out),
            Value::Number(Number(Form::Text(text))) => out.extend_from_slice(text.as_bytes()),
            Value::Number(Number(Form::Decimal(decimal))) => decimal.write(out),
            Value::Text(text) => write_string(out, text),
            Value::List(items) => {
                out.push(b'[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    item.write_json(out);
                }
                out.push(b']');
            }
            Value::Object(entries) => {
                out.push(b'{');
                for (at, (key, value)) in entries.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    write_string(out, key);
                    out.push(b':');
                    value.write_json(out);
                }
                out.push(b'}');
            }
        }
    }

    /// The value as compact JSON.
    pub fn to_json(&self) -> String {
        let mut out = Vec::new();
        self.write_json(&mut out);
        String::from_utf8(out).expect("JSON of a value is UTF-8")
    }

    /// The value as a body of its own.
    pub fn to_body(&self) -> Body {
        let mut out = Vec::new();
        self.write_json(&mut out);
        Body::new(out)
    }

    /// About how many bytes the value has as JSON, and how deep it nests; stops at the limits given.
    pub(crate) fn measure(&self, bytes_max: u64, depth_max: usize) -> Option<u64> {
        let children = |total: u64, value: &Value| {
            if total > bytes_max || depth_max == 0 {
                return None;
            }
            Some(total + 1 + value.measure(bytes_max - total, depth_max - 1)?)
        };
        let bytes = match self {
            Value::Item(item) => item.raw_bytes().len() as u64,
            Value::Text(text) => text.len() as u64,
            Value::List(items) => items.iter().try_fold(2, children)?,
            Value::Object(entries) => entries.iter().try_fold(2, |total, (key, value)| {
                children(total + key.len() as u64 + 3, value)
            })?,
            _ => 8,
        };
        (bytes <= bytes_max && depth_max > 0).then_some(bytes)
    }

    /// How many computed values a copy makes.
    pub(crate) fn weight(&self) -> u64 {
        match self {
            Value::List(items) => 1 + items.iter().map(Value::weight).sum::<u64>(),
            Value::Object(entries) => {
                1 + entries.iter().map(|(_, value)| value.weight()).sum::<u64>()
            }
            Value::Text(text) => 1 + text.len() as u64 / 64,
            _ => 1,
        }
    }
}

/// The items of a list or the values of an object.
pub enum Elements<'a> {
    /// Of a document.
    Tape(Items<'a>),
    /// Computed.
    Computed(std::vec::IntoIter<Value<'a>>),
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        match self {
            Elements::Tape(items) => items.next().map(Value::Item),
            Elements::Computed(values) => values.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Elements::Tape(items) => items.size_hint(),
            Elements::Computed(values) => values.size_hint(),
        }
    }
}

impl ExactSizeIterator for Elements<'_> {}

/// Equality as JMESPath has it: by type and content; numbers by their mathematical value, objects whatever their order.
pub(crate) fn equal(a: &Value, b: &Value) -> bool {
    let kind = a.kind();
    if kind != b.kind() {
        return false;
    }
    match kind {
        Kind::Null => true,
        Kind::Bool => a.as_bool() == b.as_bool(),
        Kind::Number => compare_numbers(a, b) == Ordering::Equal,
        Kind::String => a.as_str() == b.as_str(),
        Kind::List => {
            a.len() == b.len()
                && match (a, b) {
                    (Value::List(a), Value::List(b)) => a.iter().zip(b).all(|(a, b)| equal(a, b)),
                    _ => elements(a).zip(elements(b)).all(|(a, b)| equal(&a, &b)),
                }
        }
        Kind::Object => a.len() == b.len() && equal_objects(a, b),
    }
}

/// How many keys are looked up one by one; more are found by hash.
const KEYS_COMPARED_IN_PAIRS: usize = 16;

/// Whether two objects of the same length have equal entries.
fn equal_objects(a: &Value, b: &Value) -> bool {
    let by_hash: FxHashMap<Cow<str>, Value> = if a.len() > KEYS_COMPARED_IN_PAIRS {
        b.clone().into_entries().into_iter().flatten().collect()
    } else {
        FxHashMap::default()
    };
    let same = |key: &str, value: &Value| {
        let other = match by_hash.get(key) {
            Some(other) => Some(Cow::Borrowed(other)),
            None if by_hash.is_empty() => b.get(key).map(Cow::Owned),
            None => None,
        };
        other.is_some_and(|other| equal(value, &other))
    };
    match a {
        Value::Object(entries) => entries.iter().all(|(key, value)| same(key, value)),
        Value::Item(item) => item.entries().all(|(key, value)| {
            key.as_str()
                .is_some_and(|key| same(&key, &Value::Item(value)))
        }),
        _ => false,
    }
}

/// The items of a list without taking it.
pub(crate) fn elements<'v, 'a>(list: &'v Value<'a>) -> impl Iterator<Item = Cow<'v, Value<'a>>> {
    let (tape, computed) = match list {
        Value::Item(item) if item.kind() == Kind::List => (Some(item.items()), None),
        Value::List(items) => (None, Some(items.iter())),
        _ => (None, None),
    };
    let tape = tape.into_iter().flatten();
    let computed = computed.into_iter().flatten();
    tape.map(|item| Cow::Owned(Value::Item(item)))
        .chain(computed.map(Cow::Borrowed))
}

/// The order of two numbers.
pub(crate) fn compare_numbers(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Item(a), Value::Item(b)) => compare_text(
            a.as_number().unwrap_or_default(),
            b.as_number().unwrap_or_default(),
        ),
        _ => match (a.to_decimal(), b.to_decimal()) {
            (Some(a), Some(b)) => a.compare(b),
            _ => compare_text(
                &a.number_text().unwrap_or_default(),
                &b.number_text().unwrap_or_default(),
            ),
        },
    }
}

/// Writes a value of a document without the space between its parts.
fn write_item(item: Item, out: &mut Vec<u8>) {
    let json = item.json_bytes();
    let scalar = !matches!(item.kind(), Kind::List | Kind::Object);
    if scalar || !json.iter().any(|byte| *byte <= b' ') {
        out.extend_from_slice(json);
        return;
    }
    let mut from = 0;
    let mut at = 0;
    while at < json.len() {
        match json[at] {
            b'"' => {
                at += 1;
                while at < json.len() && json[at] != b'"' {
                    at += if json[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b' ' | b'\n' | b'\r' | b'\t' => {
                out.extend_from_slice(&json[from..at]);
                at += 1;
                from = at;
            }
            _ => at += 1,
        }
    }
    out.extend_from_slice(&json[from..]);
}
