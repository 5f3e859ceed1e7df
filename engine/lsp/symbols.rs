//! The outline of a project file: what it declares, and its steps, sinks and fields.

use serde_json::{Value, json};

use super::position;
use crate::diagnostic::{File, Span};
use crate::yaml::{Data, Key, Node};

/// How deep the outline goes.
const DEPTH_MAX: usize = 6;
/// How many entries it has.
const ENTRIES_MAX: usize = 2_000;

/// The kinds of entries, by their numbers in the protocol.
const NAMESPACE: u8 = 3;
const FIELD: u8 = 8;
const FUNCTION: u8 = 12;

/// The outline of a file.
pub(super) fn of(file: &File, tree: &Node) -> Vec<Value> {
    let mut left = ENTRIES_MAX;
    entries(file, tree, 0, &mut left)
}

fn entries(file: &File, node: &Node, depth: usize, left: &mut usize) -> Vec<Value> {
    if depth == DEPTH_MAX {
        return Vec::new();
    }
    let mut all = Vec::new();
    for (key, value) in node.entries() {
        if *left == 0 {
            break;
        }
        *left -= 1;
        all.push(entry(file, key, value, depth, left));
    }
    for item in node.items() {
        let Some((name, span)) = name_of(item).filter(|_| *left > 0) else {
            continue;
        };
        *left -= 1;
        let children = entries(file, item, depth + 1, left);
        all.push(symbol(file, &name, FUNCTION, item.span, span, children));
    }
    all
}

fn entry(file: &File, key: &Key, value: &Node, depth: usize, left: &mut usize) -> Value {
    let whole = Span::new(key.span.start, key.span.end.max(value.span.end));
    let children = entries(file, value, depth + 1, left);
    let kind = if children.is_empty() {
        FIELD
    } else {
        NAMESPACE
    };
    let mut symbol = symbol(file, &key.text, kind, whole, key.span, children);
    if let Data::Text(text) = &value.data {
        let short: String = text.value.chars().take(80).collect();
        symbol["detail"] = short.into();
    }
    symbol
}

/// What an item of a list is called: by its `id`, or by its first key.
fn name_of(item: &Node) -> Option<(String, Span)> {
    if let Some(id) = item.get("id") {
        return Some((id.as_text()?.to_owned(), id.span));
    }
    let (key, _) = item.entries().first()?;
    Some((key.text.clone(), key.span))
}

fn symbol(
    file: &File,
    name: &str,
    kind: u8,
    whole: Span,
    name_at: Span,
    children: Vec<Value>,
) -> Value {
    let whole = Span::new(whole.start.min(name_at.start), whole.end.max(name_at.end));
    // Editors refuse an entry without a name.
    let name = if name.is_empty() { "\"\"" } else { name };
    json!({
        "name": name,
        "kind": kind,
        "range": position::range(file, whole),
        "selectionRange": position::range(file, name_at),
        "children": children,
    })
}
