//! What is personal in the messages of each flow of a project: what the flow itself says, the business keys that are made of it, and what comes
//! from flows that hand messages over to it. There the names of the properties count, because the body may have another shape.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::governance::reads;
use super::plan::{Action, Plan, Project};
use crate::component::waiting::Waiting;
use crate::personal::{Path, Rules};

/// What is personal, by flow; flows in which nothing is are left out.
pub fn of(project: &Project) -> BTreeMap<Arc<str>, Rules> {
    let mut found: BTreeMap<Arc<str>, Rules> = BTreeMap::new();
    for plan in project.plans.values() {
        let own = (*plan.personal).clone();
        if own.is_empty() {
            continue;
        }
        let handed: Vec<Path> = own.paths.iter().map(Path::everywhere).collect();
        found
            .entry(plan.flow.clone())
            .or_default()
            .paths
            .extend(own.paths);
        for flow in behind(project, plan) {
            let rules = found.entry(flow).or_default();
            rules.paths.extend(handed.iter().cloned());
        }
    }
    for (flow, rules) in &mut found {
        let Some(plan) = project.plans.get(flow) else {
            continue;
        };
        for (name, expression) in &plan.keys {
            let reads = reads::of_compiled(expression);
            if reads
                .iter()
                .any(|read| rules.paths.iter().any(|path| path.meets(read)))
            {
                rules.keys.insert(name.to_string());
            }
        }
    }
    // A message brings its keys along.
    let mut brought: Vec<(Arc<str>, BTreeSet<String>)> = Vec::new();
    for (flow, rules) in &found {
        let behind = project.plans.get(flow).map(|plan| behind(project, plan));
        let behind = behind.into_iter().flatten();
        brought.extend(behind.map(|flow| (flow, rules.keys.clone())));
    }
    for (flow, keys) in brought {
        found.entry(flow).or_default().keys.extend(keys);
    }
    found
}

/// The flows that messages of a flow come to, however far.
fn behind(project: &Project, plan: &Plan) -> Vec<Arc<str>> {
    let mut found: Vec<Arc<str>> = Vec::new();
    let mut next = to(project, plan);
    while let Some(flow) = next.pop() {
        if found.contains(&flow) || flow == plan.flow {
            continue;
        }
        next.extend(
            project
                .plans
                .get(&flow)
                .map(|plan| to(project, plan))
                .unwrap_or_default(),
        );
        found.push(flow);
    }
    found
}

/// The flows that get something of this one's messages: handed over, or as an answer for which they wait.
fn to(project: &Project, plan: &Plan) -> Vec<Arc<str>> {
    let mut flows = handed(plan);
    let waits = project.plans.values().filter(|other| {
        other.nodes.iter().any(|node| match &node.action {
            Action::Wait(waiting) => match &**waiting {
                Waiting::Answer(awaiting) => awaiting.from == plan.flow,
                _ => false,
            },
            _ => false,
        })
    });
    flows.extend(waits.map(|other| other.flow.clone()));
    flows
}

fn handed(plan: &Plan) -> Vec<Arc<str>> {
    let nodes = plan.nodes.iter();
    nodes
        .filter_map(|node| match &node.action {
            Action::Flow(flow) => Some(flow.clone()),
            _ => node.hands_to.clone(),
        })
        .collect()
}
