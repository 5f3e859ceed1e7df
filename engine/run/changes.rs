//! What is otherwise between two states of a project: a value, told to people before a reload, and done by it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::flow::plan::{Plan, Project};

/// Settings that count from the next start of the engine on.
const AT_START: [&str; 7] = [
    "listen",
    "admin",
    "store",
    "handoff",
    "retention",
    "notify",
    "telemetry",
];

/// What is otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Changes {
    /// The revision before.
    pub before: String,
    /// The revision after.
    pub after: String,
    /// The flows that are not as they were, by name.
    pub flows: Vec<FlowChange>,
    /// The systems that are not as they were, by name.
    pub systems: Vec<Named>,
    /// Settings of `crossdock.yaml` that are not as they were and count from the next start on.
    pub at_next_start: Vec<String>,
    /// Whether other settings are not as they were.
    pub settings: bool,
}

/// A flow that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowChange {
    /// Its name.
    pub flow: String,
    /// In which way.
    pub what: What,
    /// Whether its source is started anew, begun or ended.
    pub source: bool,
    /// Steps at which messages may stand and that it has no more. They go on there under the revision that has them.
    pub steps_gone: Vec<String>,
}

/// Something that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// In which way.
    pub what: What,
}

/// In which way something is not as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It was not there.
    Added,
    /// It is another one now. Of a flow: messages that are in flight end under the revision that they have.
    Changed,
    /// It is not there any more. Of a flow: what is in flight ends.
    Removed,
    /// The flow is the same, and something that it acts through is not: a system, a secret, a value of the environment.
    Restarted,
}

impl What {
    /// The word on the screen.
    pub fn word(self) -> &'static str {
        match self {
            What::Added => "added",
            What::Changed => "changed",
            What::Removed => "removed",
            What::Restarted => "restarted",
        }
    }
}

impl Changes {
    /// What must be done to come from one state to the other.
    pub fn between(before: Option<&Project>, after: &Project) -> Changes {
        let Some(before) = before else {
            return Changes::from_nothing(after);
        };
        let mut flows = Vec::new();
        for (name, plan) in &after.plans {
            flows.extend(of_flow(
                name,
                before.plans.get(name).map(|plan| &**plan),
                plan,
            ));
        }
        for (name, plan) in &before.plans {
            if !after.plans.contains_key(name) {
                flows.push(FlowChange {
                    flow: name.to_string(),
                    what: What::Removed,
                    source: true,
                    steps_gone: steps(plan),
                });
            }
        }
        flows.sort_by(|a, b| a.flow.cmp(&b.flow));
        let parts = parts(before, after);
        let systems = parts.iter().filter_map(|(part, what)| {
            Some(Named {
                name: part.strip_prefix("system ")?.to_owned(),
                what: *what,
            })
        });
        let settings = parts
            .iter()
            .filter_map(|(part, _)| part.strip_prefix("setting "));
        let settings: Vec<&str> = settings.collect();
        let waits = |name: &&str| AT_START.contains(name);
        let mut at_next_start: Vec<String> = settings
            .iter()
            .filter(|name| waits(name))
            .map(|name| (*name).to_owned())
            .collect();
        at_next_start.extend(limits(before, after));
        Changes {
            before: before.revision.to_string(),
            after: after.revision.to_string(),
            flows,
            systems: systems.collect(),
            settings: settings.iter().any(|name| !waits(name)),
            at_next_start,
        }
    }

    fn from_nothing(after: &Project) -> Changes {
        let added = |name: &str| Named {
            name: name.to_owned(),
            what: What::Added,
        };
        let flows = after.plans.iter();
        let parts = after.parts.keys();
        Changes {
            after: after.revision.to_string(),
            flows: flows
                .filter_map(|(name, plan)| of_flow(name, None, plan))
                .collect(),
            systems: parts
                .filter_map(|part| part.strip_prefix("system ").map(added))
                .collect(),
            ..Changes::default()
        }
    }

    /// Whether all is as it was.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
            && self.systems.is_empty()
            && self.at_next_start.is_empty()
            && !self.settings
    }

    /// The names of the flows that have changed in this way.
    pub fn flows_that(&self, what: What) -> impl Iterator<Item = &str> {
        let flows = self.flows.iter().filter(move |flow| flow.what == what);
        flows.map(|flow| flow.flow.as_str())
    }

    /// All of it in a line: `changed orders; added returns; systems: changed erp`.
    pub fn line(&self) -> String {
        let mut parts = Vec::new();
        for what in [What::Added, What::Changed, What::Removed, What::Restarted] {
            let names: Vec<&str> = self.flows_that(what).collect();
            if !names.is_empty() {
                parts.push(format!("{} {}", what.word(), some(&names)));
            }
        }
        let named = |named: &Named| format!("{} {}", named.what.word(), named.name);
        let systems: Vec<String> = self.systems.iter().map(named).collect();
        if !systems.is_empty() {
            let systems: Vec<&str> = systems.iter().map(String::as_str).collect();
            parts.push(format!("systems: {}", some(&systems)));
        }
        if self.settings {
            parts.push("settings".to_owned());
        }
        if !self.at_next_start.is_empty() {
            let names: Vec<&str> = self.at_next_start.iter().map(String::as_str).collect();
            parts.push(format!("at the next start: {}", some(&names)));
        }
        match parts.is_empty() {
            true => "nothing".to_owned(),
            false => parts.join("; "),
        }
    }
}

/// The first names of a list, and how many more there are.
fn some(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn of_flow(name: &str, before: Option<&Plan>, after: &Plan) -> Option<FlowChange> {
    let change = |what, source, steps_gone| FlowChange {
        flow: name.to_owned(),
        what,
        source,
        steps_gone,
    };
    let Some(before) = before else {
        return Some(change(What::Added, true, Vec::new()));
    };
    let source = before.prints.source != after.prints.source;
    if before.revision != after.revision {
        let mut gone = steps(before);
        gone.retain(|step| after.node(step).is_none());
        return Some(change(What::Changed, source, gone));
    }
    (before.prints.whole != after.prints.whole).then(|| change(What::Restarted, source, Vec::new()))
}

fn steps(plan: &Plan) -> Vec<String> {
    plan.nodes.iter().map(|node| node.id.to_string()).collect()
}

/// The systems and settings that are not as they were.
fn parts<'p>(before: &'p Project, after: &'p Project) -> Vec<(&'p str, What)> {
    let now = after
        .parts
        .iter()
        .filter_map(|(part, print)| match before.parts.get(part) {
            None => Some((part.as_str(), What::Added)),
            Some(was) => (was != print).then_some((part.as_str(), What::Changed)),
        });
    let gone = before.parts.keys();
    let gone = gone.filter(|part| !after.parts.contains_key(*part));
    let mut parts: Vec<_> = now
        .chain(gone.map(|part| (part.as_str(), What::Removed)))
        .collect();
    parts.sort_by_key(|(part, _)| *part);
    parts
}

/// The limits that count from the next start on.
fn limits(before: &Project, after: &Project) -> Vec<String> {
    let (was, is) = (&before.settings.limits, &after.settings.limits);
    let bytes = |size: Option<crate::component::words::Size>| size.map(|size| size.bytes);
    let ms = |time: Option<crate::component::words::Duration>| time.map(|time| time.ms);
    let mut names = Vec::new();
    if was.batch != is.batch {
        names.push("limits.batch".to_owned());
    }
    if bytes(was.disk_free) != bytes(is.disk_free) {
        names.push("limits.disk_free".to_owned());
    }
    if ms(was.drain) != ms(is.drain) {
        names.push("limits.drain".to_owned());
    }
    names
}
