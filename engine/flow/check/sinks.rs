//! `sinks`: where messages end; and who leads to which sink.

use std::collections::BTreeMap;

use super::entry;
use super::parts::{self, LateTo};
use super::routes::{self, Head};
use super::steps::{self, Draft};
use super::{Cx, fragments, names};
use crate::component::codes as part_codes;
use crate::diagnostic::{Diagnostic, Findings, Span};
use crate::flow::codes;
use crate::flow::plan::{Action, OnFailure, Route};
use crate::flow::shapes::Role;
use crate::sink::Ready;
use crate::sink::SinkKind;
use crate::yaml::shape;
use crate::yaml::{Data, Key, Node};

/// The sinks of a flow: their names with places, and the nodes of those that are sound.
#[derive(Default)]
pub(crate) struct Sinks {
    /// All names, in the order of the file.
    pub(crate) names: Vec<String>,
    /// Where the names stand.
    pub(crate) places: BTreeMap<String, Span>,
    /// The nodes.
    pub(crate) nodes: BTreeMap<String, usize>,
}

/// The names of the sinks, before any of them is looked at.
pub(crate) fn declared(cx: &mut Cx<'_>, node: Option<&Node>) -> Sinks {
    let mut sinks = Sinks::default();
    for (key, _) in node.map_or(&[][..], Node::entries) {
        sinks.names.push(key.text.clone());
        sinks.places.insert(key.text.clone(), key.span);
        if let Some(fault) = names::fault(&key.text) {
            let message = format!("`{}` cannot be the name of a sink", key.text);
            cx.error(codes::BAD_NAME, key.span, message, fault);
        }
    }
    sinks
}

/// Checks every sink and adds its node.
pub(crate) fn all(cx: &mut Cx<'_>, draft: &mut Draft, sinks: &mut Sinks, node: &Node, owner: &Key) {
    if cx.lost.contains("sinks") && matches!(node.data, Data::Null) {
        return;
    }
    let Data::Map(entries) = &node.data else {
        let help = match &node.data {
            Data::List(_) => "write them as a mapping: each sink's name, and its entry below it",
            _ => {
                "add a sink: a name, and an entry below it such as `http: { system: erp, post: /orders }`"
            }
        };
        let message = "`sinks` is a mapping of names to sinks";
        let nothing = matches!(node.data, Data::Null);
        let span = if nothing {
            owner.span
        } else {
            entry::first_line(cx, node)
        };
        return cx.error(shape::codes::WRONG_TYPE, span, message, help);
    };
    if entries.is_empty() {
        let message = "the flow has no sink: its messages would lead nowhere";
        let help = "add one; `discard: {}` is the sink for messages that need to go nowhere";
        cx.error(shape::codes::MISSING_FIELD, owner.span, message, help);
    }
    for (key, node) in entries {
        let place = cx.place(key.span);
        let mut findings = Findings::new();
        draft.ids.declare(&key.text, place, &mut findings);
        for finding in findings.iter() {
            cx.report(finding.clone());
        }
        let at = if node.get("use").is_some() {
            fragments::used_sink(cx, draft, node, key)
        } else {
            sink(cx, draft, node, key)
        };
        if let Some(at) = at {
            sinks.nodes.insert(key.text.clone(), at);
        }
    }
}

/// Checks one sink and adds its node.
pub(crate) fn sink(cx: &mut Cx<'_>, draft: &mut Draft, node: &Node, name: &Key) -> Option<usize> {
    let entry = entry::read(cx, Role::Sink, node, name.span)?;
    draft.note_hand_over(cx, &entry);
    // What fails on its way gets to a sink as it was before the step.
    if !draft.late.iter().any(|late| late.to == name.text) {
        super::contract::sink(cx, &entry);
        super::types::sink(cx, &entry, &name.text);
    }
    let when = parts::when(cx, &entry);
    let nothing_after = "nothing comes behind a sink that could use it";
    parts::meaningless(cx, &entry, &["into"], nothing_after);
    let outside = "a sink stands in no saga; make it a `call` of the saga";
    parts::meaningless(cx, &entry, &["undo", "pivot"], outside);
    if let Some((key, _)) = entry.beside("id") {
        let message = format!(
            "a sink is named by its key, `{}`; it has no `id`",
            name.text
        );
        cx.error(codes::MEANINGLESS_KEY, key.span, message, "remove it");
    }
    let Some(ready) = parts::ready::<SinkKind>(cx, &entry) else {
        parts::broken(cx, &entry, draft, Some(&name.text));
        return None;
    };
    let why = "it is part of the same commit as the step before, and cannot fail by itself";
    let action = match ready {
        Ready::Flow(flow) => {
            parts::meaningless(
                cx,
                &entry,
                &["retry", "timeout", "probe", "on_failure"],
                why,
            );
            Action::Flow(flow)
        }
        Ready::Discard => {
            parts::meaningless(
                cx,
                &entry,
                &["retry", "timeout", "probe", "on_failure"],
                "it does nothing",
            );
            Action::Discard
        }
        Ready::Effect(effect) => {
            parts::guard(cx, &entry, &name.text, &effect);
            Action::Effect(effect)
        }
        Ready::Append(append) => {
            let why = "its files are cut back to what is committed, there is nothing to ask";
            parts::meaningless(cx, &entry, &["probe"], why);
            Action::Append(append)
        }
        Ready::Stream(stream) => {
            parts::meaningless(cx, &entry, &["probe"], "nobody can ask it");
            Action::Stream(stream)
        }
    };
    Some(steps::add(
        cx,
        draft,
        &entry,
        name.text.clone(),
        when,
        action,
        true,
    ))
}

/// Fills the arms of the route node. Gives the names of the sinks that something leads to.
pub(crate) fn lead(
    cx: &mut Cx<'_>,
    draft: &mut Draft,
    sinks: &Sinks,
    (key, routes): (&Key, &Node),
    at: usize,
) -> Vec<String> {
    let Some((list, style)) = routes::arms_of(routes) else {
        routes::not_routes(cx, routes);
        return sinks.names.clone();
    };
    let heads = routes::arms(cx, list, style, true);
    let mut reached = Vec::new();
    let mut route = Route {
        all: routes::takes_all(style),
        arms: Vec::new(),
        otherwise: None,
    };
    let step_ids = step_ids(draft);
    for (arm, head) in list.items().iter().zip(heads) {
        let mut targets = Vec::new();
        let mut named: Vec<&str> = Vec::new();
        for (name, span) in routes::targets(arm) {
            if !sinks.places.contains_key(name) {
                routes::unknown_sink(cx, name, span, &sinks.names, &step_ids);
            } else if named.contains(&name) {
                let message = format!("`{name}` is named twice in this arm");
                cx.error(
                    part_codes::BAD_VALUE,
                    span,
                    message,
                    "remove one of the two",
                );
            }
            named.push(name);
            reached.push(name.to_owned());
            targets.extend(sinks.nodes.get(name));
        }
        empty_targets(cx, arm, &named);
        match head {
            Head::When(expression) => route.arms.push((expression, targets)),
            Head::Otherwise => route.otherwise = Some(targets),
            Head::Broken => {}
        }
    }
    if list.items().is_empty() && matches!(list.data, Data::List(_)) {
        let message = "`routes` has no arm";
        cx.error(
            codes::ROUTE_ARM,
            key.span,
            message,
            "add one: `- when: ..` with `to: [sink]`",
        );
    }
    draft.nodes[at].action = Action::Route(route);
    reached
}

fn empty_targets(cx: &mut Cx<'_>, arm: &Node, named: &[&str]) {
    for field in ["to", "otherwise"] {
        if let Some((key, node)) = arm.entry(field)
            && matches!(&node.data, Data::List(items) if items.is_empty())
            && named.is_empty()
        {
            let message = format!("`{field}` names no sink");
            let help = "name one; a sink `discard: {}` takes messages that need to go nowhere";
            cx.error(codes::ROUTE_ARM, key.span, message, help);
        }
    }
}

/// Without routes there is one sink: its node.
pub(crate) fn only(cx: &mut Cx<'_>, sinks: &Sinks, sinks_key: Option<&Key>) -> Option<usize> {
    if sinks.names.len() > 1
        && let Some(key) = sinks_key
    {
        let message = format!(
            "the flow has {} sinks and no `routes` that say which of them take a message",
            sinks.names.len()
        );
        let help = format!(
            "add `routes:` with `first:` or `all:`, such as `first: [{{ otherwise: [{}] }}]`",
            sinks.names.join(", ")
        );
        cx.error(codes::NO_ROUTES, key.span, message, help);
    }
    sinks
        .names
        .first()
        .and_then(|name| sinks.nodes.get(name))
        .copied()
}

fn step_ids(draft: &Draft) -> Vec<String> {
    let steps = draft.nodes.iter().filter(|node| !node.sink);
    steps.map(|node| node.id.to_string()).collect()
}

/// Looks up the sinks that take failures; gives their names.
pub(crate) fn failures(cx: &mut Cx<'_>, draft: &mut Draft, sinks: &Sinks) -> Vec<String> {
    let mut reached = Vec::new();
    let mut ways: Vec<(String, String)> = Vec::new();
    let step_ids = step_ids(draft);
    for late in std::mem::take(&mut draft.late) {
        let LateTo {
            node,
            sink,
            class,
            to,
            place,
            used_at,
        } = late;
        let file = std::mem::replace(&mut cx.file, place.file.clone());
        let before = std::mem::replace(&mut cx.used_at, used_at);
        if !sinks.places.contains_key(&to) {
            routes::unknown_sink(cx, &to, place.span, &sinks.names, &step_ids);
        }
        cx.file = file;
        cx.used_at = before;
        if let Some(target) = sinks.nodes.get(&to)
            && let Some(node) = node.and_then(|node| draft.nodes.get_mut(node))
        {
            node.on_failure.push((class, OnFailure::To(*target)));
        }
        ways.extend(sink.map(|sink| (sink, to.clone())));
        reached.push(to);
    }
    circles(cx, &ways, sinks);
    reached
}

/// Failures that lead from a sink back to itself would go round for ever.
fn circles(cx: &mut Cx<'_>, ways: &[(String, String)], sinks: &Sinks) {
    for start in &sinks.names {
        let mut seen: Vec<&str> = Vec::new();
        let mut next: Vec<&str> = vec![start];
        while let Some(at) = next.pop() {
            for (_, to) in ways.iter().filter(|(from, _)| from == at) {
                if to == start {
                    let span = sinks.places.get(start).copied().unwrap_or_default();
                    let message = format!("failures of the sink `{start}` lead back to it");
                    let help = "let one of them end as an exception";
                    cx.error(codes::FAILURE_CYCLE, span, message, help);
                    return;
                }
                if !seen.contains(&to.as_str()) {
                    seen.push(to);
                    next.push(to);
                }
            }
        }
    }
}

/// Warns of sinks that nothing leads to.
pub(crate) fn unused(cx: &mut Cx<'_>, sinks: &Sinks, reached: &[String]) {
    for name in &sinks.names {
        if reached.contains(name) {
            continue;
        }
        let span = sinks.places.get(name).copied().unwrap_or_default();
        let place = cx.place(span);
        let message = format!("nothing leads to the sink `{name}`");
        cx.report(
            Diagnostic::warning(codes::UNUSED_SINK, place, message)
                .help("name it in an arm of `routes`, or remove it"),
        );
    }
}
