//! What is known of the body and the variables where an expression stands: the schema in force, as contracts, mappings and answers say. Where a
//! step may be passed over, or makes a body of its own, nothing is known.

use super::cursor::Part;
use super::keys::Kind;
use super::within::{self, Ground, Spot};
use crate::flow::workspace::{Noun, View};
use crate::schema::place::At;
use crate::yaml::Node;

/// Kinds of steps that leave the body as it is.
const KEEPING: &[&str] = &[
    "filter",
    "call",
    "lookup",
    "log",
    "emit",
    "dedupe",
    "newest",
    "delay",
    "throttle",
    "await",
    "resequence",
];

/// What is known at the end of this way.
pub(super) fn at<'s>(view: &'s View, kind: Kind, tree: &Node, path: &[Part]) -> Ground<'s> {
    match kind {
        Kind::Mapping => in_mapping(view, tree, path),
        Kind::Flow => in_flow(view, tree, path),
        _ => Ground::default(),
    }
}

/// The schema with this name.
fn named<'s>(view: &'s View, name: Option<&str>) -> Spot<'s> {
    Spot::one(name.and_then(|name| At::named(&view.library().schemas, name)))
}

fn in_mapping<'s>(view: &'s View, tree: &Node, path: &[Part]) -> Ground<'s> {
    let from = tree.get("from").and_then(Node::as_text);
    let mut ground = Ground {
        here: named(view, from),
        ..Ground::default()
    };
    let current = match path {
        [Part::Key(first), Part::Key(name)] if first == "let" => Some(name.as_str()),
        _ => None,
    };
    for (name, value) in tree.get("let").map(Node::entries).unwrap_or_default() {
        if current == Some(name.text.as_str()) {
            break;
        }
        let bound = value.as_text().map(|text| within::value(text, &ground));
        ground
            .variables
            .insert(name.text.clone(), bound.unwrap_or_default());
    }
    // Every `each` on the way makes the current value an item of its list.
    let mut node = Some(tree);
    for (at, part) in path.iter().enumerate() {
        node = node.and_then(|node| node.find(&[&part.text()]));
        let inside = !matches!(path.get(at + 1), Some(Part::Key(key)) if key == "each");
        let Some(each) = node
            .and_then(|node| node.get("each"))
            .and_then(Node::as_text)
        else {
            continue;
        };
        if matches!(part, Part::Item(_)) && inside && at + 1 < path.len() {
            ground.here = within::value(each, &ground).item();
        }
    }
    ground
}

fn in_flow<'s>(view: &'s View, tree: &Node, path: &[Part]) -> Ground<'s> {
    let accepts = tree.get("accepts");
    let name = accepts.and_then(|at| at.as_text().or_else(|| at.get("schema")?.as_text()));
    let mut ground = Ground {
        here: named(view, name),
        ..Ground::default()
    };
    let steps = tree.get("steps").map(Node::items).unwrap_or_default();
    match path.first() {
        Some(Part::Key(first)) if first == "steps" => walk(view, steps, &path[1..], &mut ground),
        Some(Part::Key(first)) if first == "routes" || first == "sinks" => {
            walk(view, steps, &[], &mut ground);
        }
        _ => {}
    }
    if path
        .iter()
        .any(|part| matches!(part, Part::Key(key) if key == "probe"))
    {
        ground.here = Spot::default();
    }
    ground
}

/// Goes past steps, up to the one to which the way leads, and into it.
fn walk<'s>(view: &'s View, steps: &[Node], path: &[Part], ground: &mut Ground<'s>) {
    let until = match path.first() {
        Some(Part::Item(at)) => *at,
        _ => steps.len(),
    };
    for step in steps.iter().take(until) {
        pass(view, step, ground);
    }
    let Some(step) = steps.get(until) else {
        return;
    };
    if path[1..] == [Part::Key("split".to_owned()), Part::Key("key".to_owned())] {
        return pass(view, step, ground);
    }
    // Steps within the step: those of a saga, of an arm, of what follows `otherwise`.
    let inner = path
        .iter()
        .skip(1)
        .position(|part| matches!(part, Part::Key(key) if key == "steps"));
    if let Some(inner) = inner {
        let way: Vec<String> = path[1..=inner + 1].iter().map(Part::text).collect();
        let way: Vec<&str> = way.iter().map(String::as_str).collect();
        let steps = step.find(&way).map(Node::items).unwrap_or_default();
        walk(view, steps, &path[inner + 2..], ground);
    }
}

/// What is known behind a step.
fn pass<'s>(view: &'s View, step: &Node, ground: &mut Ground<'s>) {
    let has = |key: &str| step.get(key).is_some();
    let into = step.get("into").and_then(Node::as_text);
    if let Some(name) = into {
        let answer = step.get("call").and_then(|call| call.get("answer"));
        let answer = answer.and_then(Node::as_text);
        ground
            .variables
            .insert(name.to_owned(), named(view, answer));
    }
    if let Some(set) = step.get("set") {
        let all = set.get("variables").map(Node::entries).unwrap_or_default();
        for (name, value) in all {
            let bound = value.as_text().map(|text| within::value(text, ground));
            ground
                .variables
                .insert(name.text.clone(), bound.unwrap_or_default());
        }
    }
    if let Some(saga) = step.get("saga") {
        let steps = saga.get("steps").map(Node::items).unwrap_or_default();
        return walk(view, steps, &[], ground);
    }
    if let Some(items) = step.find(&["split", "items"]).and_then(Node::as_text) {
        ground.here = within::value(items, ground).item();
        return;
    }
    if KEEPING.iter().any(|kind| has(kind))
        || (has("set") && step.find(&["set", "body"]).is_none())
        || (into.is_some() && (has("template") || has("decode") || has("encode")))
    {
        return;
    }
    let made = if let Some(name) = step.get("map").and_then(Node::as_text) {
        // The file says it, also while one of its expressions is broken.
        let file = view
            .declaration(Noun::Mapping, name)
            .map(|place| place.file);
        let tree = file.and_then(|file| view.tree(&file.path));
        named(view, tree.and_then(|tree| tree.get("to")?.as_text()))
    } else {
        named(view, step.get("validate").and_then(Node::as_text))
    };
    ground.here = if has("when") { Spot::default() } else { made };
}
