//! The words of a schema that limit single values: lists of values, limits of numbers, counts. Each is held against what is certain.

use std::rc::Rc;

use serde_json::Value;

use super::Kind;
use super::facts::{self, Facts, Types, equal};
use super::node::{Node, Site};
use crate::expression::number::{Decimal, compare_text};

/// One reason why a document of the narrow schema may be none of the wide one.
#[derive(Clone, Debug)]
pub(super) struct Gap {
    /// Where in documents, such as `lines[].sku`; empty for the whole.
    pub(super) path: String,
    pub(super) kind: Kind,
    /// The word of the wide schema that is not met.
    pub(super) wide: Rc<Site>,
    /// The place of the narrow schema that does not meet it.
    pub(super) narrow: Option<Rc<Site>>,
}

/// The number of a word that counts.
pub(super) fn count(node: &Node<'_>, word: &str) -> Option<u64> {
    facts::whole_number(node.get(word)?)
}

pub(super) fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

pub(super) fn joined(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

pub(super) fn gap(sub: &Facts<'_>, path: &str, kind: Kind, wide: Rc<Site>) -> Gap {
    Gap {
        path: path.to_owned(),
        kind,
        wide,
        narrow: sub.parts.first().map(|part| part.site.clone()),
    }
}

/// A word of the wide schema that the narrow one does not have, or less strictly.
pub(super) fn limit<'s>(
    sub: &Facts<'s>,
    wide: &Node<'s>,
    path: &str,
    word: &'static str,
    gaps: &mut Vec<Gap>,
) {
    let own = sub.parts.iter().find(|part| part.get(word).is_some());
    let kind = Kind::Word {
        word,
        narrow: own.and_then(|part| part.get(word)).cloned(),
        wide: wide.get(word).cloned().unwrap_or(Value::Null),
    };
    let mut gap = gap(sub, path, kind, wide.word(word));
    gap.narrow = own.map(|part| part.word(word)).or(gap.narrow);
    gaps.push(gap);
}

/// `enum` and `const`.
pub(super) fn values(sub: &Facts<'_>, wide: &Node<'_>, path: &str, gaps: &mut Vec<Gap>) {
    let several = wide.get("enum").and_then(Value::as_array);
    for (word, allowed) in [
        ("enum", several.map(|list| list.iter().collect::<Vec<_>>())),
        ("const", wide.get("const").map(|one| vec![one])),
    ] {
        let Some(allowed) = allowed else { continue };
        let finite: Option<Vec<&Value>> = sub.values.clone().or_else(|| small(sub.types));
        let Some(values) = finite else {
            let kind = Kind::Values(allowed.into_iter().cloned().collect());
            gaps.push(gap(sub, path, kind, wide.word(word)));
            continue;
        };
        for value in values {
            if !allowed.iter().any(|one| equal(one, value)) {
                let mut gap = gap(sub, path, Kind::Value(value.clone()), wide.word(word));
                let own = sub.parts.iter().find_map(|part| {
                    ["enum", "const"]
                        .into_iter()
                        .find(|w| part.get(w).is_some())
                        .map(|w| part.word(w))
                });
                gap.narrow = own.or(gap.narrow);
                gaps.push(gap);
            }
        }
    }
}

/// All values of types that have few.
pub(super) fn small(types: Types) -> Option<Vec<&'static Value>> {
    static SMALL: [Value; 3] = [Value::Null, Value::Bool(false), Value::Bool(true)];
    let few = types.without(Types::NULL.or(Types::BOOLEAN)).is_empty();
    few.then(|| {
        SMALL
            .iter()
            .filter(|value| types.has(Types::of_value(value)))
            .collect()
    })
}

pub(super) fn numbers<'s>(sub: &Facts<'s>, wide: &Node<'s>, path: &str, gaps: &mut Vec<Gap>) {
    let number = |word: &str| match wide.get(word) {
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let values: Option<Vec<String>> = sub.values.as_ref().map(|values| {
        let numbers = values.iter().filter(|value| value.is_number());
        numbers.map(|value| value.to_string()).collect()
    });
    for (word, included, lower) in [
        ("minimum", true, true),
        ("exclusiveMinimum", false, true),
        ("maximum", true, false),
        ("exclusiveMaximum", false, false),
    ] {
        let Some(wanted) = number(word) else { continue };
        let inside = |text: &str, touches: bool| {
            let order = compare_text(text, &wanted);
            let beyond = if lower { order.is_gt() } else { order.is_lt() };
            beyond || (order.is_eq() && (included || !touches))
        };
        let met = match &values {
            Some(values) => values.iter().all(|value| inside(value, true)),
            None => (if lower { sub.low() } else { sub.high() })
                .is_some_and(|limit| inside(&limit.number, limit.included)),
        };
        if !met {
            limit(sub, wide, path, word, gaps);
        }
    }
    let Some(wanted) = number("multipleOf") else {
        return;
    };
    let divides = |number: &str| {
        let quotient = Decimal::parse(number)
            .zip(Decimal::parse(&wanted))
            .filter(|(_, by)| !by.is_zero())
            .and_then(|(number, by)| number.divide_exactly(by));
        quotient.is_some_and(|quotient| quotient.normal().scale() == 0)
    };
    let met = match &values {
        Some(values) => values.iter().all(|value| divides(value)),
        None => {
            (!sub.types.has(Types::FRACTION) && divides("1"))
                || sub.parts.iter().any(|part| {
                    part.get("multipleOf")
                        .is_some_and(|own| divides(&own.to_string()))
                })
        }
    };
    if !met {
        limit(sub, wide, path, "multipleOf", gaps);
    }
}
