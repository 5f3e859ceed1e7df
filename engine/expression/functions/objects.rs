//! Objects: entries, choice of keys, building from lists. Lists stand beside.

use std::borrow::Cow;

use rustc_hash::FxHashMap;
use rustc_hash::FxHashSet;

use super::{Arguments, Function, Group, Types, takes};
use crate::body::Kind;
use crate::expression::Value;
use crate::expression::evaluate::{Outcome, Run};
use crate::expression::{Fault, FaultKind};

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "items",
        group: Group::Lists,
        parameters: &[takes("object", Types::OBJECT.or(Types::NULL))],
        optional: 0,
        repeats: false,
        null_gives_null: true,
        gives: Types::ARRAY.or(Types::NULL),
        doc: "The entries of an object as pairs of key and value",
        example: ("items(@)", "{\"a\": 1}", "[[\"a\",1]]"),
        run: items,
    },
    Function {
        name: "from_items",
        group: Group::Lists,
        parameters: &[takes("pairs", Types::ARRAY.or(Types::NULL))],
        optional: 0,
        repeats: false,
        null_gives_null: true,
        gives: Types::OBJECT.or(Types::NULL),
        doc: "The object of pairs of key and value, or of objects with `key` or `name` and `value`; the last of equal keys wins",
        example: (
            "from_items(@)",
            "[[\"a\", 1], {\"name\": \"b\", \"value\": 2}]",
            "{\"a\":1,\"b\":2}",
        ),
        run: from_items,
    },
    Function {
        name: "pick",
        group: Group::Lists,
        parameters: &[
            takes("object", Types::OBJECT.or(Types::NULL)),
            takes("key", Types::STRING),
        ],
        optional: 0,
        repeats: true,
        null_gives_null: true,
        gives: Types::OBJECT.or(Types::NULL),
        doc: "The object with these keys only",
        example: ("pick(@, 'b', 'c')", "{\"a\": 1, \"b\": 2}", "{\"b\":2}"),
        run: pick,
    },
    Function {
        name: "omit",
        group: Group::Lists,
        parameters: &[
            takes("object", Types::OBJECT.or(Types::NULL)),
            takes("key", Types::STRING),
        ],
        optional: 0,
        repeats: true,
        null_gives_null: true,
        gives: Types::OBJECT.or(Types::NULL),
        doc: "The object without these keys",
        example: ("omit(@, 'a')", "{\"a\": 1, \"b\": 2}", "{\"b\":2}"),
        run: omit,
    },
    Function {
        name: "without_nulls",
        group: Group::Lists,
        parameters: &[takes("x", Types::OBJECT.or(Types::ARRAY).or(Types::NULL))],
        optional: 0,
        repeats: false,
        null_gives_null: true,
        gives: Types::OBJECT.or(Types::ARRAY).or(Types::NULL),
        doc: "The object without entries, or the list without elements, that are null",
        example: ("without_nulls({a: a, b: b})", "{\"b\": 2}", "{\"b\":2}"),
        run: without_nulls,
    },
    Function {
        name: "group_by",
        group: Group::Lists,
        parameters: &[
            takes("list", Types::ARRAY.or(Types::NULL)),
            takes("key", Types::EXPRESSION),
        ],
        optional: 0,
        repeats: false,
        null_gives_null: true,
        gives: Types::OBJECT.or(Types::NULL),
        doc: "An object of lists: the elements by a key, which is a text or a number; elements without the key are left out",
        example: (
            "group_by(@, &w)",
            "[{\"w\": \"A\", \"n\": 1}, {\"w\": \"B\", \"n\": 2}, {\"w\": \"A\", \"n\": 3}]",
            "{\"A\":[{\"w\":\"A\",\"n\":1},{\"w\":\"A\",\"n\":3}],\"B\":[{\"w\":\"B\",\"n\":2}]}",
        ),
        run: group_by,
    },
    Function {
        name: "index_by",
        group: Group::Lists,
        parameters: &[
            takes("list", Types::ARRAY.or(Types::NULL)),
            takes("key", Types::EXPRESSION),
        ],
        optional: 0,
        repeats: false,
        null_gives_null: true,
        gives: Types::OBJECT.or(Types::NULL),
        doc: "An object of elements by a key, which is a text or a number; the last of equal keys wins, elements without the key are left out",
        example: (
            "index_by(@, &sku).B.n",
            "[{\"sku\": \"A\", \"n\": 1}, {\"sku\": \"B\", \"n\": 2}]",
            "2",
        ),
        run: index_by,
    },
];

/// An object under construction: a later entry replaces an earlier one in its place.
#[derive(Default)]
pub(super) struct Entries<'a> {
    entries: Vec<(Cow<'a, str>, Value<'a>)>,
    /// Only used once there are many entries.
    places: FxHashMap<Cow<'a, str>, usize>,
}

const COMPARED_ONE_BY_ONE: usize = 12;

impl<'a> Entries<'a> {
    /// The value of this key, made if it is not there.
    pub(super) fn entry(&mut self, key: Cow<'a, str>) -> &mut Value<'a> {
        let known = if self.entries.len() <= COMPARED_ONE_BY_ONE {
            self.entries.iter().position(|(known, _)| *known == key)
        } else {
            if self.places.is_empty() {
                let keys = self.entries.iter().map(|(key, _)| key.clone());
                self.places = keys.zip(0..).collect();
            }
            self.places.get(&key).copied()
        };
        let at = known.unwrap_or_else(|| {
            if self.entries.len() > COMPARED_ONE_BY_ONE {
                self.places.insert(key.clone(), self.entries.len());
            }
            self.entries.push((key, Value::Null));
            self.entries.len() - 1
        });
        &mut self.entries[at].1
    }

    pub(super) fn set(&mut self, key: Cow<'a, str>, value: Value<'a>) {
        *self.entry(key) = value;
    }

    pub(super) fn into_value(self) -> Value<'a> {
        Value::Object(self.entries)
    }
}

fn items<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let entries = arguments.take(0).into_entries().unwrap_or_default();
    run.make(entries.len() as u64 * 3)?;
    Ok(Value::List(
        entries
            .into_iter()
            .map(|(key, value)| Value::List(vec![Value::Text(key), value]))
            .collect(),
    ))
}

fn from_items<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let mut object = Entries::default();
    for pair in arguments.list(0) {
        run.make(1)?;
        let described = pair.described();
        let parts = match pair.kind() {
            Kind::List => {
                let mut parts = pair.into_items().into_iter().flatten();
                match (parts.next(), parts.next(), parts.next()) {
                    (Some(key), Some(value), None) => Some((key, value)),
                    _ => None,
                }
            }
            Kind::Object => pair
                .get("key")
                .or_else(|| pair.get("name"))
                .map(|key| (key, pair.get("value").unwrap_or_default())),
            _ => None,
        };
        let named = parts.and_then(|(key, value)| Some((key_text(&key)?, value)));
        match named {
            Some((key, value)) => object.set(key, value),
            None => {
                let message =
                    format!("from_items() takes pairs of key and value, one is {described}");
                return Err(arguments.wrong_type(0, message));
            }
        }
    }
    Ok(object.into_value())
}

fn pick<'a>(run: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    chosen(run, arguments, true)
}

fn omit<'a>(run: &mut Run<'_, 'a>, arguments: Arguments<'a>) -> Outcome<'a> {
    chosen(run, arguments, false)
}

fn chosen<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>, keep: bool) -> Outcome<'a> {
    let names: FxHashSet<_> = (1..arguments.len())
        .map(|at| arguments.string(at))
        .collect();
    let mut entries = arguments.take(0).into_entries().unwrap_or_default();
    run.make(entries.len() as u64)?;
    entries.retain(|(key, _)| names.contains(key) == keep);
    Ok(Value::Object(entries))
}

fn without_nulls<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let value = arguments.take(0);
    run.make(value.len() as u64)?;
    if value.kind() == Kind::List {
        let items = value.into_items().into_iter().flatten();
        return Ok(Value::List(items.filter(|item| !item.is_null()).collect()));
    }
    let mut entries = value.into_entries().unwrap_or_default();
    entries.retain(|(_, value)| !value.is_null());
    Ok(Value::Object(entries))
}

fn group_by<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let node = arguments.reference(1);
    let mut groups = Entries::default();
    for element in arguments.list(0) {
        run.make(2)?;
        let key = run.value(node, &element)?;
        if key.is_null() {
            continue;
        }
        let Some(key) = key_text(&key) else {
            return Err(bad_key("group_by", &key, node.start, node.end));
        };
        match groups.entry(key) {
            Value::List(list) => list.push(element),
            empty => *empty = Value::List(vec![element]),
        }
    }
    Ok(groups.into_value())
}

fn index_by<'a>(run: &mut Run<'_, 'a>, mut arguments: Arguments<'a>) -> Outcome<'a> {
    let node = arguments.reference(1);
    let mut object = Entries::default();
    for element in arguments.list(0) {
        run.make(1)?;
        let key = run.value(node, &element)?;
        if key.is_null() {
            continue;
        }
        let Some(key) = key_text(&key) else {
            return Err(bad_key("index_by", &key, node.start, node.end));
        };
        object.set(key, element);
    }
    Ok(object.into_value())
}

/// The text that a value has as a key.
fn key_text<'a>(value: &Value<'a>) -> Option<Cow<'a, str>> {
    match value.kind() {
        Kind::String => value.clone().into_str(),
        Kind::Number => value
            .number_text()
            .map(|text| Cow::Owned(text.into_owned())),
        _ => None,
    }
}

fn bad_key(function: &str, key: &Value, start: usize, end: usize) -> Box<Fault> {
    Fault::new(
        FaultKind::InvalidType,
        format!(
            "{function}() needs keys that are strings or numbers, one is {}",
            key.described()
        ),
    )
    .at(start, end)
    .boxed()
}
