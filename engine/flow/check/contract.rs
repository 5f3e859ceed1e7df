//! Which schema the body keeps to at each point of a flow, as far as that is certain; and mappings that are made for another one.

use super::Cx;
use super::entry::Entry;
use crate::component::common::OnFailure;
use crate::diagnostic::Diagnostic;
use crate::flow::codes;
use crate::yaml::Node;

/// Kinds that leave the body as it is.
const KEEPING: &[&str] = &[
    "filter",
    "call",
    "lookup",
    "log",
    "emit",
    "dedupe",
    "delay",
    "throttle",
    "await",
    "resequence",
];

/// Checks the mapping that an entry names against the schema in force; then says which schema is in force behind it.
pub(crate) fn step(cx: &mut Cx<'_>, entry: &Entry<'_>) {
    if let Some(config) = named_mapping(entry) {
        made_for(cx, config);
    }
    let before = cx.contract.take();
    let after = match entry.kind {
        "map" => entry
            .config
            .as_text()
            .and_then(|name| cx.known.library.mappings.get(name))
            .and_then(|mapping| mapping.to().map(|(name, _)| name.to_owned())),
        "validate" => entry.config.as_text().map(str::to_owned),
        "set" if entry.config.get("body").is_none() => before.clone(),
        "template" | "decode" | "encode" if entry.common.into.is_some() => before.clone(),
        kind if KEEPING.contains(&kind) => before.clone(),
        _ => None,
    };
    let passed_over = entry.common.when.is_some()
        || entry
            .common
            .on_failure
            .iter()
            .flat_map(|choices| choices.values())
            .any(|choice| matches!(choice, OnFailure::Continue));
    cx.contract = if passed_over && after != before {
        None
    } else {
        after
    };
}

/// Checks the mapping that a sink names.
pub(crate) fn sink(cx: &mut Cx<'_>, entry: &Entry<'_>) {
    if let Some(config) = named_mapping(entry) {
        made_for(cx, config);
    }
}

/// Where an entry names a mapping that is applied to the body: `map` itself, or the field of that name.
fn named_mapping<'n>(entry: &Entry<'n>) -> Option<&'n Node> {
    if entry.kind == "map" {
        Some(entry.config)
    } else {
        entry.config.get("map")
    }
}

fn made_for(cx: &mut Cx<'_>, at: &Node) {
    let Some(name) = at.as_text() else { return };
    let Some(mapping) = cx.known.library.mappings.get(name) else {
        return;
    };
    let (Some((from, _)), Some(contract)) = (mapping.from(), cx.contract.as_deref()) else {
        return;
    };
    if from == contract || cx.known.library.schemas.get(from).is_none() {
        return;
    }
    let message = format!(
        "the mapping `{name}` is made for `{from}`, and the body keeps to `{contract}` here"
    );
    let finding = Diagnostic::warning(codes::CONTRACT_MISMATCH, cx.place(at.span), message).help(
        format!("use a mapping from `{contract}`, or move the step to where the body is `{from}`"),
    );
    cx.report(finding);
}
