//! From JSON Schema to types. Words that are not understood widen: then more is possible than the schema allows, never less.

use std::cell::Cell;

use serde_json::{Map, Value};

use super::rows::Rows;
use super::shape::Shape;
use super::{Kinds, Origin, Range, Text, Type, pattern};
use crate::expression::number::Decimal;
use crate::schema::place::At;

/// How deep alternatives and references are followed at one place.
const DEPTH_MAX: usize = 12;
/// How many alternatives of one place are looked at; with more nothing is known.
const CHOICES_MAX: usize = 32;

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// The type of a whole body that keeps to a schema, or of a variable that does.
pub(crate) fn body<'s>(at: At<'s>, variable: Option<&str>) -> Type<'s> {
    of_schema(at).from(Some(Origin::whole(variable)))
}

/// The type of what keeps to a schema.
pub(crate) fn of_schema<'s>(at: At<'s>) -> Type<'s> {
    let depth = DEPTH.get();
    if depth >= DEPTH_MAX {
        return Type::unknown().without(Kinds::ABSENT);
    }
    DEPTH.set(depth + 1);
    let is = read(at);
    DEPTH.set(depth);
    is
}

fn read<'s>(at: At<'s>) -> Type<'s> {
    if at.raw() == &Value::Bool(false) {
        return Type::never();
    }
    let anything = || Type::unknown().without(Kinds::ABSENT);
    let Some(parts) = at.parts() else {
        return anything();
    };
    let mut is = anything();
    for part in &parts {
        if let Some(object) = part.raw().as_object() {
            is = is.meet(own(*part, object));
        }
    }
    for part in &parts {
        for word in ["anyOf", "oneOf"] {
            let Some(choices) = part.raw().get(word).and_then(Value::as_array) else {
                continue;
            };
            if choices.is_empty() || choices.len() > CHOICES_MAX {
                continue;
            }
            let types = choices.iter().map(|choice| of_schema(part.below(choice)));
            is = is.meet(types.fold(Type::never(), Type::union));
        }
    }
    is
}

/// What one schema says by itself.
fn own<'s>(at: At<'s>, object: &'s Map<String, Value>) -> Type<'s> {
    let mut is = Type::unknown().without(Kinds::ABSENT);
    let whole = only_whole(object);
    if let Some(kinds) = object.get("type").and_then(kinds) {
        is = is.only(kinds);
        is.open = false;
    }
    is.number = range(object, whole);
    is.text = text(object);
    is.objects = vec![Shape::of_place(at)];
    let limit =
        |word: &str| Some(usize::try_from(object.get(word)?.as_u64()?).unwrap_or(usize::MAX));
    is.lists = vec![Rows::of_place(
        at,
        limit("minItems").unwrap_or(0),
        limit("maxItems"),
    )];
    if let Some(value) = object.get("const") {
        is = is.meet(of_values(std::iter::once(value)));
    }
    if let Some(Value::Array(values)) = object.get("enum") {
        is = is.meet(of_values(values.iter()));
    }
    is
}

fn kinds(word: &Value) -> Option<Kinds> {
    let one = |name: &str| match name {
        "null" => Kinds::NULL,
        "boolean" => Kinds::BOOLEAN,
        "integer" | "number" => Kinds::NUMBER,
        "string" => Kinds::STRING,
        "array" => Kinds::LIST,
        "object" => Kinds::OBJECT,
        _ => Kinds::NONE,
    };
    match word {
        Value::String(name) => Some(one(name)),
        Value::Array(names) => {
            let all = names.iter().filter_map(Value::as_str).map(one);
            Some(all.fold(Kinds::NONE, Kinds::or))
        }
        _ => None,
    }
}

fn only_whole(object: &Map<String, Value>) -> bool {
    match object.get("type") {
        Some(Value::String(name)) => name == "integer",
        Some(Value::Array(names)) => {
            names.iter().any(|name| name == "integer") && !names.iter().any(|name| name == "number")
        }
        _ => false,
    }
}

fn range(object: &Map<String, Value>, whole: bool) -> Range {
    let number = |word: &str| object.get(word).and_then(decimal);
    let multiple = number("multipleOf").is_some_and(|number| number.normal().scale() == 0);
    let met = Range {
        least: number("minimum"),
        most: number("maximum"),
        whole: whole || multiple,
        ..Range::default()
    };
    met.meet(Range {
        least: number("exclusiveMinimum"),
        most: number("exclusiveMaximum"),
        ..Range::default()
    })
}

/// A number of a schema, as far as it can be kept exactly.
pub(crate) fn decimal(value: &Value) -> Option<Decimal> {
    match value {
        Value::Number(number) => Decimal::parse(&number.to_string()),
        _ => None,
    }
}

fn text(object: &Map<String, Value>) -> Text<'_> {
    let length =
        |word: &str| Some(usize::try_from(object.get(word)?.as_u64()?).unwrap_or(usize::MAX));
    let word = |word: &str| object.get(word).and_then(Value::as_str);
    let pattern = word("pattern");
    let read = pattern.and_then(pattern::read);
    Text {
        least: length("minLength").unwrap_or(0),
        most: length("maxLength"),
        patterns: pattern.into_iter().collect(),
        format: word("format"),
        values: None,
        number: read.and_then(|pattern| pattern.number()).map(Box::new),
        computed: false,
    }
}

/// The type of any of these values.
pub(crate) fn of_values<'s>(values: impl Iterator<Item = &'s Value>) -> Type<'s> {
    let mut is = Type::never();
    let mut texts: Vec<&str> = Vec::new();
    let mut numbers: Vec<Decimal> = Vec::new();
    let mut inexact = false;
    for value in values {
        match value {
            Value::Null => is.kinds = is.kinds.or(Kinds::NULL),
            Value::Bool(true) => is.kinds = is.kinds.or(Kinds::TRUE),
            Value::Bool(false) => is.kinds = is.kinds.or(Kinds::FALSE),
            Value::String(text) => texts.push(text),
            Value::Number(_) => match decimal(value) {
                Some(number) => numbers.push(number),
                None => inexact = true,
            },
            // What lists and objects hold is not followed.
            Value::Array(_) => is.kinds = is.kinds.or(Kinds::LIST),
            Value::Object(_) => is.kinds = is.kinds.or(Kinds::OBJECT),
        }
    }
    if !texts.is_empty() {
        is = is.union(Type::texts(Text::one_of(texts)));
    }
    if inexact {
        is = is.union(Type::of(Kinds::NUMBER));
    } else if !numbers.is_empty() {
        let ranges = numbers.into_iter().map(Range::exactly);
        let all = ranges.map(Type::numbers).fold(Type::never(), Type::union);
        is = is.union(all);
    }
    is
}

/// The type of a value that is written down.
pub(crate) fn of_value<'s>(value: &Value) -> Type<'s> {
    match value {
        Value::Null => Type::null(),
        Value::Bool(true) => Type::of(Kinds::TRUE),
        Value::Bool(false) => Type::of(Kinds::FALSE),
        Value::String(text) => Type::texts(Text::exactly(text)),
        Value::Number(_) => match decimal(value) {
            Some(number) => Type::numbers(Range::exactly(number)),
            None => Type::of(Kinds::NUMBER),
        },
        Value::Array(items) => Type::list(Rows::exactly(items.iter().map(of_value).collect())),
        Value::Object(entries) => {
            let fields = entries
                .iter()
                .map(|(name, value)| (name.clone(), of_value(value)));
            Type::object(Shape::of_fields(
                fields.collect(),
                super::shape::Rest::Nothing,
            ))
        }
    }
}
