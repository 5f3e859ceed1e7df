//! What of the flows the tests have gone through: steps, routes, failure paths, and the required fields that they have looked at.

use std::collections::{BTreeMap, BTreeSet};

use super::outcome::Outcome;
use super::prepare::{arm_name, failure_name};
use crate::flow::plan::{Action, OnFailure, Plan, Project};
use crate::flow::test::fields;

/// What one test has gone through, by flow.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    flows: BTreeMap<String, BTreeSet<String>>,
    /// The flow under test, and the fields of bodies that were looked at.
    looked_at: Option<(String, BTreeSet<String>)>,
}

/// How much of a flow its tests go through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Covered {
    /// The flow.
    pub flow: String,
    /// `steps`, `routes`, `failure paths` and `required fields`, each with what there is.
    pub kinds: Vec<Kind>,
}

/// One kind of thing to go through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// How many there are.
    pub all: usize,
    /// Those that no test goes through.
    pub missing: Vec<String>,
}

impl Covered {
    /// How many things there are, and how many of them no test goes through.
    pub fn sum(&self) -> (usize, usize) {
        let all = self.kinds.iter().map(|kind| kind.all).sum();
        let missing = self.kinds.iter().map(|kind| kind.missing.len()).sum();
        (all, missing)
    }
}

impl Touched {
    pub(super) fn of(flow: &str, outcome: &Outcome, looked_at: BTreeSet<String>) -> Touched {
        let mut touched = Touched {
            flows: BTreeMap::new(),
            looked_at: Some((flow.to_owned(), looked_at)),
        };
        for run in &outcome.runs {
            let seen = touched.flows.entry(run.flow.to_string()).or_default();
            seen.extend(run.seen.iter().cloned());
        }
        for call in &outcome.calls {
            let seen = touched.flows.entry(call.flow.to_string()).or_default();
            seen.insert(call.step.to_string());
        }
        for one in &outcome.exceptions {
            let seen = touched.flows.entry(one.flow.to_string()).or_default();
            seen.insert(failure_name(&one.step, one.class));
            seen.insert(failure_name(&one.step, "any"));
            seen.insert(one.step.to_string());
        }
        for (flow, counts) in &outcome.books {
            let seen = touched.flows.entry(flow.clone()).or_default();
            for (count, name) in [
                (counts.duplicates, "@duplicate"),
                (counts.refused, "@refused"),
            ] {
                if count > 0 {
                    seen.insert(name.to_owned());
                }
            }
        }
        touched
    }
}

/// How much of the flows with these names all tests together go through.
pub fn coverage<'f>(
    project: &Project,
    root: &std::path::Path,
    flows: impl IntoIterator<Item = &'f str>,
    tests: &[Touched],
) -> Vec<Covered> {
    let mut all = Vec::new();
    let known = fields::Known::read(root, project);
    for flow in flows {
        let Some(plan) = project.plans.get(flow) else {
            continue;
        };
        let seen: BTreeSet<&str> = tests
            .iter()
            .filter_map(|touched| touched.flows.get(flow))
            .flatten()
            .map(String::as_str)
            .collect();
        let looked_at: BTreeSet<&str> = tests
            .iter()
            .filter_map(|touched| touched.looked_at.as_ref())
            .filter(|(of, _)| of == flow)
            .flat_map(|(_, paths)| paths)
            .map(String::as_str)
            .collect();
        let required = known.required(flow);
        let required = required
            .iter()
            .map(|(name, path)| (name.clone(), looked_at.contains(path.as_str())));
        all.push(Covered {
            flow: flow.to_owned(),
            kinds: vec![
                kind("steps", steps(plan, &seen)),
                kind("routes", routes(plan, &seen)),
                kind("failure paths", failures(plan, &seen)),
                kind("required fields", required),
            ],
        });
    }
    all
}

fn kind(name: &'static str, all: impl IntoIterator<Item = (String, bool)>) -> Kind {
    let mut kind = Kind {
        name,
        ..Kind::default()
    };
    for (what, covered) in all {
        kind.all += 1;
        if !covered {
            kind.missing.push(what);
        }
    }
    kind
}

fn steps(plan: &Plan, seen: &BTreeSet<&str>) -> Vec<(String, bool)> {
    let nodes = plan
        .nodes
        .iter()
        .filter(|node| !matches!(node.action, Action::Route(_)));
    nodes
        .map(|node| (node.id.to_string(), seen.contains(&*node.id)))
        .collect()
}

fn routes(plan: &Plan, seen: &BTreeSet<&str>) -> Vec<(String, bool)> {
    let mut all = Vec::new();
    for node in &plan.nodes {
        let Action::Route(route) = &node.action else {
            continue;
        };
        let named = |targets: &[usize]| {
            let names: Vec<&str> = targets.iter().map(|at| &*plan.nodes[*at].id).collect();
            match names.is_empty() {
                true => "goes past".to_owned(),
                false => names.join(", "),
            }
        };
        let taken = |nth: usize, targets: &[usize]| match route.all {
            // Of arms that may all match only the targets tell.
            true => targets.iter().all(|at| seen.contains(&*plan.nodes[*at].id)),
            false => seen.contains(arm_name(&node.id, nth).as_str()),
        };
        for (nth, (when, targets)) in route.arms.iter().enumerate() {
            let name = format!("{}: {} -> {}", node.id, when.text(), named(targets));
            all.push((name, taken(nth, targets)));
        }
        if let Some(targets) = &route.otherwise {
            let name = format!("{}: otherwise -> {}", node.id, named(targets));
            all.push((name, taken(route.arms.len(), targets)));
        }
    }
    all
}

fn failures(plan: &Plan, seen: &BTreeSet<&str>) -> Vec<(String, bool)> {
    let mut all = Vec::new();
    if let Some(accepts) = &plan.accepts {
        let breach =
            seen.contains("@refused") || seen.contains(failure_name("@accept", "any").as_str());
        all.push((format!("a body that breaks {}", accepts.name), breach));
    }
    if plan.once.is_some() {
        let repeat = seen.contains("@duplicate");
        all.push(("a message that comes twice".to_owned(), repeat));
    }
    for node in &plan.nodes {
        for (class, what) in &node.on_failure {
            let name = format!("{}: {}", node.id, class.name());
            let covered = match what {
                OnFailure::To(_) | OnFailure::Continue | OnFailure::Exception => {
                    seen.contains(failure_name(&node.id, class.name()).as_str())
                }
                OnFailure::Drop(_) => seen.contains(format!("@dropped:{}", node.id).as_str()),
            };
            all.push((name, covered));
        }
        if matches!(node.action, Action::Effect(_)) {
            let name = format!("{}: fails for good", node.id);
            let any = seen
                .iter()
                .any(|seen| seen.starts_with(&format!("@failure:{}:", node.id)));
            all.push((name, any));
        }
    }
    all
}
