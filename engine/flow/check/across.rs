//! What can only be seen over all flows: names, paths that clash, who hands over to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::flow::Checked;
use super::names::Declared;
use crate::diagnostic::{Diagnostic, Findings, Place};
use crate::flow::codes;

/// Checks all flows against each other; `whole` says that all of them could be read.
pub(crate) fn check(flows: &[Arc<Checked>], whole: bool, findings: &mut Findings) {
    let mut names = Declared::new("flows", codes::DUPLICATE_NAME);
    for flow in flows {
        if let Some((name, place)) = &flow.name {
            names.declare(name, place.clone(), findings);
        }
    }
    bindings(flows, findings);
    let kinds: BTreeMap<&str, &Checked> = flows
        .iter()
        .filter_map(|flow| Some((flow.name.as_ref()?.0.as_str(), &**flow)))
        .collect();
    closed(flows, &kinds, findings);
    awaited(flows, &kinds, findings);
    if whole {
        unfed(flows, findings);
    }
    circles(flows, &kinds, findings);
}

/// Two flows that listen at the same place.
fn bindings(flows: &[Arc<Checked>], findings: &mut Findings) {
    let mut taken: BTreeMap<&str, (&Place, &str)> = BTreeMap::new();
    for flow in flows {
        let Some((binding, place)) = &flow.binding else {
            continue;
        };
        let name = flow.name.as_ref().map_or("", |(name, _)| name.as_str());
        match taken.get(binding.as_str()) {
            Some((first, other)) => {
                let message = format!("the flow `{other}` listens at `{binding}` too");
                findings.push(
                    Diagnostic::error(codes::PATH_CLASH, place.clone(), message)
                        .help("give one of them another path")
                        .related((*first).clone(), "the first one"),
                );
            }
            None => {
                taken.insert(binding, (place, name));
            }
        }
    }
}

/// Flows that are handed to and take nothing from flows.
fn closed(flows: &[Arc<Checked>], by_name: &BTreeMap<&str, &Checked>, findings: &mut Findings) {
    for flow in flows {
        for (to, place) in &flow.hands_over {
            let Some(target) = by_name.get(to.as_str()) else {
                continue;
            };
            let Some(kind) = target.source_kind.filter(|kind| *kind != "flow") else {
                continue;
            };
            let message =
                format!("the flow `{to}` takes its messages from `{kind}`, not from other flows");
            findings.push(
                Diagnostic::error(codes::CLOSED_FLOW, place.clone(), message)
                    .help(format!("hand over to a flow with `source: {{ flow: {{}} }}`, or move the steps of `{to}` into one"))
                    .related(target.source_place.clone(), "its source"),
            );
        }
    }
}

/// Messages that are awaited by a key which their flow does not have.
fn awaited(flows: &[Arc<Checked>], by_name: &BTreeMap<&str, &Checked>, findings: &mut Findings) {
    for flow in flows {
        for awaited in &flow.awaits {
            let Some(answers) = by_name.get(awaited.flow.as_str()) else {
                continue;
            };
            let own = flow
                .name
                .as_ref()
                .is_some_and(|(name, _)| *name == awaited.flow);
            let keys = answers
                .keys
                .as_ref()
                .filter(|keys| !own && !keys.contains(&awaited.key));
            if keys.is_none() {
                continue;
            }
            let message = format!(
                "the flow `{}` declares no key `{}`",
                awaited.flow, awaited.key
            );
            let help = format!(
                "add `keys: {{ {}: .. }}` to it: both need the key",
                awaited.key
            );
            findings.push(
                Diagnostic::error(
                    crate::component::codes::UNKNOWN_KEY,
                    awaited.place.clone(),
                    message,
                )
                .help(help)
                .related(answers.source_place.clone(), "the flow that answers"),
            );
        }
    }
}

/// Flows that wait for others in vain.
fn unfed(flows: &[Arc<Checked>], findings: &mut Findings) {
    if flows.iter().any(|flow| flow.partial) {
        return;
    }
    let fed: BTreeSet<&str> = flows
        .iter()
        .flat_map(|flow| flow.hands_over.iter().map(|(to, _)| to.as_str()))
        .collect();
    for flow in flows {
        let Some((name, _)) = &flow.name else {
            continue;
        };
        if flow.source_kind == Some("flow") && !fed.contains(name.as_str()) {
            let message = format!("no flow hands anything to `{name}`");
            findings.push(
                Diagnostic::warning(codes::UNFED_FLOW, flow.source_place.clone(), message).help(
                    format!("add a sink `{{ flow: {name} }}` to a flow, or remove this one"),
                ),
            );
        }
    }
}

/// Flows that hand over in a circle: a message could go round for ever.
fn circles(flows: &[Arc<Checked>], by_name: &BTreeMap<&str, &Checked>, findings: &mut Findings) {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    // What hands over to another kind of flow is told already.
    let takes_from_flows = |name: &str| {
        by_name
            .get(name)
            .is_some_and(|flow| flow.source_kind == Some("flow"))
    };
    for flow in flows {
        let Some((start, _)) = &flow.name else {
            continue;
        };
        let mut path: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some((name, next)) = path.last_mut() {
            let edges = by_name.get(name).map_or(&[][..], |flow| &flow.hands_over);
            let Some((to, place)) = edges.get(*next) else {
                done.insert(name);
                path.pop();
                continue;
            };
            *next += 1;
            if let Some(at) = path
                .iter()
                .position(|(name, _)| name == to && takes_from_flows(to))
            {
                let mut names: Vec<&str> = path[at..].iter().map(|(name, _)| *name).collect();
                names.push(to);
                let message = format!("messages can go round for ever: {}", names.join(" -> "));
                findings.push(
                    Diagnostic::warning(codes::FLOW_CYCLE, place.clone(), message)
                        .help("make sure that a condition on the way ends it, or break the circle"),
                );
            } else if !done.contains(to.as_str()) && takes_from_flows(to) {
                path.push((to, 0));
            }
        }
    }
}
