//! Whether two schemas say the same, whatever their words besides: titles, examples, the order of names. References are followed.

use serde_json::Value;

use super::facts::equal;
use super::node::{Both, Node};
use crate::schema::keywords::DECIDING;

/// How deep two schemas are compared.
const DEPTH_MAX: usize = 128;

/// Whether the two schemas say the same.
pub(super) fn schemas<'s>(both: &Both<'s>, a: &Node<'s>, b: &Node<'s>) -> bool {
    compare(both, a, b, &mut Vec::new())
}

/// Whether a word of two schemas says the same; also if both lack it.
pub(super) fn words<'s>(both: &Both<'s>, a: &Node<'s>, b: &Node<'s>, word: &str) -> bool {
    of_word(both, a, b, word, &mut Vec::new())
}

fn compare<'s>(
    both: &Both<'s>,
    a: &Node<'s>,
    b: &Node<'s>,
    open: &mut Vec<(usize, usize)>,
) -> bool {
    let pair = (a.id(), b.id());
    if open.contains(&pair) {
        return true;
    }
    if open.len() > DEPTH_MAX {
        return false;
    }
    if let (Value::Bool(a), Value::Bool(b)) = (a.value, b.value) {
        return a == b;
    }
    if !a.value.is_object() || !b.value.is_object() || a.is_draft7() != b.is_draft7() {
        return false;
    }
    open.push(pair);
    let same = match (only_refers(a), only_refers(b)) {
        (true, false) => both
            .follow(a)
            .is_some_and(|target| compare(both, &target, b, open)),
        (false, true) => both
            .follow(b)
            .is_some_and(|target| compare(both, a, &target, open)),
        _ => DECIDING.iter().all(|word| of_word(both, a, b, word, open)),
    };
    open.pop();
    same
}

fn only_refers(node: &Node<'_>) -> bool {
    node.get("$ref").is_some()
        && DECIDING
            .iter()
            .all(|word| *word == "$ref" || node.get(word).is_none())
}

fn of_word<'s>(
    both: &Both<'s>,
    a: &Node<'s>,
    b: &Node<'s>,
    word: &str,
    open: &mut Vec<(usize, usize)>,
) -> bool {
    let (x, y) = match (a.get(word), b.get(word)) {
        (None, None) => return true,
        (Some(x), Some(y)) => (x, y),
        _ => return false,
    };
    match word {
        "$ref" => match (both.follow(a), both.follow(b)) {
            (Some(a), Some(b)) => compare(both, &a, &b, open),
            _ => false,
        },
        "$dynamicRef" => false,
        "required" | "enum" | "type" => same_set(x, y),
        "properties" | "patternProperties" | "dependentSchemas" => {
            let (xs, ys) = (a.named(word), b.named(word));
            xs.len() == ys.len()
                && xs.iter().all(|(name, x)| {
                    b.one(word, name)
                        .is_some_and(|y| compare(both, x, &y, open))
                })
        }
        _ if x.is_array() && y.is_array() => {
            let (xs, ys) = (a.listed(word), b.listed(word));
            xs.len() == ys.len() && xs.iter().zip(&ys).all(|(x, y)| compare(both, x, y, open))
        }
        // Members may be schemas or lists of names: only what is written alike is taken to be the same, and it must refer to nothing.
        "dependencies" | "dependentRequired" => equal(x, y) && !x.to_string().contains("$ref"),
        _ => match (a.child(word), b.child(word)) {
            (Some(x), Some(y)) => compare(both, &x, &y, open),
            _ => equal(x, y),
        },
    }
}

fn same_set(a: &Value, b: &Value) -> bool {
    let list = |value: &Value| match value {
        Value::Array(items) => items.clone(),
        one => vec![one.clone()],
    };
    let (a, b) = (list(a), list(b));
    let within = |a: &[Value], b: &[Value]| a.iter().all(|x| b.iter().any(|y| equal(x, y)));
    within(&a, &b) && within(&b, &a)
}
