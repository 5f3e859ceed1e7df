//! Lets the validator walk the tape as it is: no conversion, numbers by their text. It knows nothing of projects or findings.

use std::borrow::Cow;
use std::cmp::Ordering;

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, JsonNumber, Node, NodeIdentity, Object};
use rustc_hash::FxHashSet;
use serde_json::Value;

use crate::body::{Entries, Item, Items, Kind};

/// Documents as tapes, for the validator.
pub(super) struct TapeJson;

impl Json for TapeJson {
    type Node<'a> = TapeNode<'a>;
    type PreparedKey = String;
    type StringBuffer = String;

    // A lookup walks the entries, so one pass over them replaces several lookups.
    const KEYS_PER_LOOKUP: usize = 4;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(
        buffer: &mut String,
        string: &str,
        f: impl FnOnce(TapeNode<'_>) -> T,
    ) -> T {
        buffer.clear();
        buffer.push_str(string);
        f(TapeNode::Name(buffer))
    }
}

/// A value of a document, or the name of a field where names themselves are checked.
#[derive(Clone, Copy)]
pub(super) enum TapeNode<'a> {
    Item(Item<'a>),
    Name(&'a str),
}

impl<'a> TapeNode<'a> {
    #[inline(always)]
    fn item(self, kind: Kind) -> Option<Item<'a>> {
        match self {
            TapeNode::Item(item) if item.kind() == kind => Some(item),
            _ => None,
        }
    }
}

impl<'a> Node<'a, TapeJson> for TapeNode<'a> {
    type Object = Fields<'a>;
    type Array = Elements<'a>;
    type Number = Number<'a>;

    #[inline(always)]
    fn as_object(&self) -> Option<Fields<'a>> {
        self.item(Kind::Object).map(Fields)
    }

    #[inline(always)]
    fn as_array(&self) -> Option<Elements<'a>> {
        self.item(Kind::List).map(Elements)
    }

    #[inline(always)]
    fn as_string(&self) -> Option<Cow<'a, str>> {
        match self {
            TapeNode::Item(item) => item.as_str(),
            TapeNode::Name(name) => Some(Cow::Borrowed(name)),
        }
    }

    #[inline(always)]
    fn as_number(&self) -> Option<Number<'a>> {
        match self {
            TapeNode::Item(item) => item.as_number().map(Number),
            TapeNode::Name(_) => None,
        }
    }

    fn as_boolean(&self) -> Option<bool> {
        match self {
            TapeNode::Item(item) => item.as_bool(),
            TapeNode::Name(_) => None,
        }
    }

    #[inline(always)]
    fn is_null(&self) -> bool {
        self.item(Kind::Null).is_some()
    }

    #[inline(always)]
    fn is_number(&self) -> bool {
        self.item(Kind::Number).is_some()
    }

    #[inline(always)]
    fn json_type(&self) -> JsonType {
        match self {
            TapeNode::Name(_) => JsonType::String,
            TapeNode::Item(item) => match item.kind() {
                Kind::Null => JsonType::Null,
                Kind::Bool => JsonType::Boolean,
                Kind::Number => JsonType::Number,
                Kind::String => JsonType::String,
                Kind::List => JsonType::Array,
                Kind::Object => JsonType::Object,
            },
        }
    }

    fn equals_value(&self, expected: &Value) -> bool {
        match self {
            TapeNode::Item(item) => equal(*item, expected),
            TapeNode::Name(name) => expected.as_str() == Some(name),
        }
    }

    /// What an error may show of the value: nothing of what lists and objects hold, so that an error costs no copy of the document.
    fn to_value(&self) -> Cow<'a, Value> {
        Cow::Owned(match self {
            TapeNode::Name(name) => Value::String((*name).to_owned()),
            TapeNode::Item(item) => match item.kind() {
                Kind::Null => Value::Null,
                Kind::Bool => Value::Bool(item.as_bool() == Some(true)),
                Kind::Number => item
                    .raw()
                    .parse::<serde_json::Number>()
                    .map_or_else(|_| Value::from(f64::MAX), Value::Number),
                Kind::String => Value::String(item.raw().chars().take(100).collect()),
                Kind::List => Value::Array(Vec::new()),
                Kind::Object => Value::Object(serde_json::Map::new()),
            },
        })
    }

    fn identity(&self) -> Option<NodeIdentity> {
        match self {
            TapeNode::Item(item) => Some(NodeIdentity::tagged(
                item.raw_bytes().as_ptr() as usize,
                u32::try_from(item.index()).ok()?,
            )),
            TapeNode::Name(_) => None,
        }
    }
}

/// The fields of an object.
pub(super) struct Fields<'a>(Item<'a>);

impl<'a> Object<'a, TapeJson> for Fields<'a> {
    type Node = TapeNode<'a>;
    type MemberName = Cow<'a, str>;
    type MembersIter = Members<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, key: &String) -> Option<TapeNode<'a>> {
        self.0.get(key).map(TapeNode::Item)
    }

    fn members(&self) -> Members<'a> {
        Members(self.0.entries())
    }
}

/// The fields of an object, one after another.
pub(super) struct Members<'a>(Entries<'a>);

impl<'a> Iterator for Members<'a> {
    type Item = (Cow<'a, str>, TapeNode<'a>);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = self.0.next()?;
        let name = key.as_str().unwrap_or_default();
        Some((name, TapeNode::Item(value)))
    }
}

/// The items of a list.
pub(super) struct Elements<'a>(Item<'a>);

impl<'a> Array<'a, TapeJson> for Elements<'a> {
    type Node = TapeNode<'a>;
    type ElementsIter = std::iter::Map<Items<'a>, fn(Item<'a>) -> TapeNode<'a>>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn elements(&self) -> Self::ElementsIter {
        self.0.items().map(TapeNode::Item)
    }

    fn is_unique(&self) -> bool {
        let mut seen = FxHashSet::default();
        self.0.items().all(|item| {
            let mut key = String::with_capacity(item.json().len());
            write_normal(item, &mut key);
            seen.insert(key)
        })
    }
}

/// Equality by meaning: numbers by value, objects without order.
fn equal(item: Item<'_>, expected: &Value) -> bool {
    match expected {
        Value::Null => item.is_null(),
        Value::Bool(expected) => item.as_bool() == Some(*expected),
        Value::String(expected) => item.as_str().is_some_and(|text| text == *expected),
        Value::Number(expected) => item
            .as_number()
            .is_some_and(|text| compare(text, &expected.to_string()) == Ordering::Equal),
        Value::Array(expected) => {
            item.kind() == Kind::List
                && item.len() == expected.len()
                && item
                    .items()
                    .zip(expected)
                    .all(|(item, expected)| equal(item, expected))
        }
        Value::Object(expected) => {
            item.kind() == Kind::Object
                && item.len() == expected.len()
                && expected
                    .iter()
                    .all(|(key, expected)| item.get(key).is_some_and(|item| equal(item, expected)))
        }
    }
}

/// A text that is the same for values that are equal by meaning.
fn write_normal(item: Item<'_>, out: &mut String) {
    match item.kind() {
        Kind::Null | Kind::Bool => out.push_str(item.raw()),
        Kind::Number => {
            let decimal = Decimal::parse(item.raw());
            let sign = if decimal.negative { "-" } else { "" };
            out.push_str(&format!("{sign}{}e{}", decimal.digits, decimal.exponent));
        }
        Kind::String => {
            let text = item.as_str().unwrap_or_default();
            // The length keeps texts with quotes and commas apart from lists of texts.
            out.push_str(&format!("\"{}:{text}", text.len()));
        }
        Kind::List => {
            out.push('[');
            for item in item.items() {
                write_normal(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Kind::Object => {
            let mut entries: Vec<(Cow<'_, str>, Item<'_>)> = item
                .entries()
                .map(|(key, value)| (key.as_str().unwrap_or_default(), value))
                .collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            out.push('{');
            for (key, value) in entries {
                out.push_str(&format!("{}:{key}:", key.len()));
                write_normal(value, out);
                out.push(',');
            }
            out.push('}');
        }
    }
}

/// A number by its text.
pub(super) struct Number<'a>(&'a str);

impl JsonNumber for Number<'_> {
    fn as_u64(&self) -> Option<u64> {
        match self.0.parse() {
            Ok(number) => Some(number),
            Err(_) if self.is_written_as_integer() => None,
            Err(_) => Decimal::parse(self.0).integer()?.try_into().ok(),
        }
    }

    fn as_i64(&self) -> Option<i64> {
        match self.0.parse() {
            Ok(number) => Some(number),
            Err(_) if self.is_written_as_integer() => None,
            Err(_) => Decimal::parse(self.0).integer()?.try_into().ok(),
        }
    }

    /// The nearest float. A number that lies beside a float that prints shorter is moved to the next float on its side, so that it is
    /// not taken for that shorter number: 0.1000000000000000001 is more than 0.1.
    fn as_f64(&self) -> Option<f64> {
        let float: f64 = self.0.parse().ok()?;
        if !float.is_finite() {
            return None;
        }
        // Up to 15 digits, a decimal and its float stand for each other.
        if self.0.len() <= 15 || float == 0.0 {
            return Some(float);
        }
        match compare(self.0, &format!("{float:e}")) {
            Ordering::Equal => Some(float),
            Ordering::Less => Some(float.next_down()),
            Ordering::Greater => Some(float.next_up()),
        }
    }

    fn as_str(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.0)
    }

    fn to_number(&self) -> Cow<'_, serde_json::Number> {
        Cow::Owned(
            self.0
                .parse()
                .unwrap_or_else(|_| serde_json::Number::from(i64::MAX)),
        )
    }

    fn is_integer(&self) -> bool {
        self.is_written_as_integer() || Decimal::parse(self.0).exponent >= 0
    }

    fn is_written_as_integer(&self) -> bool {
        !self
            .0
            .bytes()
            .any(|byte| matches!(byte, b'.' | b'e' | b'E'))
    }
}

/// A number without rounding: digits without zeros at either end, times a power of ten. Zero has no digits.
#[derive(PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// Reads a number as JSON writes it. An exponent beyond 64 bits counts as the largest one.
    fn parse(text: &str) -> Decimal {
        let (negative, text) = match text.strip_prefix('-') {
            Some(text) => (true, text),
            None => (false, text),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent),
            None => (text, "0"),
        };
        let shift = if exponent.starts_with('-') {
            i64::MIN / 2
        } else {
            i64::MAX / 2
        };
        let shift = exponent.parse().map_or(shift, |exponent: i64| {
            exponent.clamp(i64::MIN / 2, i64::MAX / 2)
        });
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits = format!("{whole}{fraction}");
        let before = digits.len();
        digits.truncate(digits.trim_end_matches('0').len());
        let dropped = (before - digits.len()) as i64;
        let leading = digits.len() - digits.trim_start_matches('0').len();
        digits.drain(..leading);
        if digits.is_empty() {
            return Decimal {
                negative: false,
                digits,
                exponent: 0,
            };
        }
        Decimal {
            negative,
            digits,
            exponent: shift - fraction.len() as i64 + dropped,
        }
    }

    /// The number as an integer, if it is one of at most 20 digits.
    fn integer(&self) -> Option<i128> {
        let zeros = u32::try_from(self.exponent).ok()?;
        if self.digits.len() as u64 + u64::from(zeros) > 20 {
            return None;
        }
        let digits: i128 = if self.digits.is_empty() {
            0
        } else {
            self.digits.parse().ok()?
        };
        let number = digits * 10_i128.pow(zeros);
        Some(if self.negative { -number } else { number })
    }
}

/// Which of two numbers is larger, without rounding.
fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (Decimal::parse(a), Decimal::parse(b));
    let sign = |decimal: &Decimal| match (decimal.digits.is_empty(), decimal.negative) {
        (true, _) => 0,
        (false, true) => -1,
        (false, false) => 1,
    };
    let by_sign = sign(&a).cmp(&sign(&b));
    if by_sign != Ordering::Equal || sign(&a) == 0 {
        return by_sign;
    }
    let magnitude = |decimal: &Decimal| decimal.digits.len() as i64 + decimal.exponent;
    let by_size = magnitude(&a)
        .cmp(&magnitude(&b))
        .then_with(|| a.digits.cmp(&b.digits));
    if a.negative {
        by_size.reverse()
    } else {
        by_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_without_rounding() {
        for (a, b, expect) in [
            ("1", "1.0", Ordering::Equal),
            ("100", "1e2", Ordering::Equal),
            ("0.1", "0.10", Ordering::Equal),
            ("-0", "0.0", Ordering::Equal),
            ("9007199254740993", "9007199254740992", Ordering::Greater),
            ("0.1000000000000000001", "0.1", Ordering::Greater),
            ("-2", "-1", Ordering::Less),
            ("-1", "1", Ordering::Less),
            ("1e400", "1e399", Ordering::Greater),
            ("1e-400", "0", Ordering::Greater),
            ("19.90", "19.9", Ordering::Equal),
            ("1e99999999999999999999", "1e400", Ordering::Greater),
            ("12", "112", Ordering::Less),
            ("12", "111e-1", Ordering::Greater),
        ] {
            assert_eq!(compare(a, b), expect, "{a} {b}");
            assert_eq!(compare(b, a), expect.reverse(), "{b} {a}");
        }
    }

    #[test]
    fn floats_keep_to_their_side() {
        assert_eq!(Number("19.90").as_f64(), Some(19.9));
        assert!(Number("0.1000000000000000001").as_f64() > Some(0.1));
        assert!(Number("0.0999999999999999999").as_f64() < Some(0.1));
        assert_eq!(Number("1e400").as_f64(), None);
        assert_eq!(
            Number("9007199254740993").as_u64(),
            Some(9_007_199_254_740_993)
        );
        assert_eq!(
            Number("9007199254740993.0").as_u64(),
            Some(9_007_199_254_740_993)
        );
        assert_eq!(Number("-1e2").as_i64(), Some(-100));
        assert!(Number("1e400").is_integer() && Number("1.50e1").is_integer());
        assert!(!Number("1.5").is_integer() && !Number("1e-1").is_integer());
    }
}
