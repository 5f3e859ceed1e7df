//! What would be sent: the last accepted messages of a flow once more through a project's mappings, against what was sent for them. Nothing is
//! sent and nothing is changed; calls are answered with what was recorded.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::again::message_of;
use super::differences::{self, Difference};
use super::recompute::{Machine, Recomputed, Recorded};
use crate::failure::Failure;
use crate::flow::plan::{Plan, Project};
use crate::personal::Mask;
use crate::store::commit::EffectId;
use crate::store::reader::Reader;
use crate::store::runs::{RunDetail, RunFilter, RunRow, RunState};

/// What the last messages of a flow would become.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Simulated {
    /// How many messages would have the same sent as was.
    pub same: u64,
    /// How many would have something else sent.
    pub different: u64,
    /// How many would fail, where they did not.
    pub fail: u64,
    /// How many cannot be followed: retention has removed their body, or no answer is recorded.
    pub unknown: u64,
    /// Those that are not the same.
    pub runs: Vec<RunDifference>,
}

/// What would be otherwise for one message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDifference {
    /// The run.
    pub run: i64,
    /// Its keys.
    pub keys: std::collections::BTreeMap<String, String>,
    /// Requests that differ.
    pub requests: Vec<RequestDifference>,
    /// Where it would fail, and why.
    pub failures: Vec<String>,
    /// Why it could not be followed further.
    pub unknown: Vec<String>,
}

/// A request that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestDifference {
    /// The flow.
    pub flow: String,
    /// The step.
    pub step: String,
    /// The split item; empty for the whole.
    pub item: String,
    /// `different`, `more` (nothing was sent there), or `less` (something was, and would not be).
    pub what: String,
    /// Its fields.
    pub fields: Vec<Difference>,
}

/// Simulates the last runs of a flow, the newest first. Messages that go to other flows are followed there.
///
/// Fails with class `config` if the project has no such flow.
pub async fn simulate(
    reader: &Reader,
    project: &Project,
    flow: &str,
    last: usize,
) -> Result<Simulated, Failure> {
    let plan = project.plans.get(flow).ok_or_else(|| {
        let flows: Vec<&str> = project.plans.keys().map(|flow| &**flow).collect();
        Failure::config(format!(
            "the project has no flow `{flow}`; it has {}",
            flows.join(", ")
        ))
    })?;
    let veil = reader.veil().await?;
    let mut simulated = Simulated::default();
    let mut filter = RunFilter {
        flow: Some(flow.to_owned()),
        limit: last.clamp(1, 1_000),
        ..RunFilter::default()
    };
    let mut seen = 0;
    while seen < last {
        let rows = reader.runs(filter.clone()).await?;
        let Some(oldest) = rows.last() else { break };
        filter.before = Some(oldest.run);
        for row in rows {
            if row.state == RunState::Superseded || seen == last {
                continue;
            }
            seen += 1;
            let mut found = one(reader, project, plan, &row).await?;
            if let Some(mask) = reader.mask(&veil, flow, row.run).await? {
                cover(&mask, &mut found);
            }
            simulated.count(found);
        }
    }
    Ok(simulated)
}

impl Simulated {
    fn count(&mut self, found: RunDifference) {
        let counted = if !found.failures.is_empty() {
            &mut self.fail
        } else if !found.requests.is_empty() {
            &mut self.different
        } else if !found.unknown.is_empty() {
            &mut self.unknown
        } else {
            self.same += 1;
            return;
        };
        *counted += 1;
        self.runs.push(found);
    }
}

/// Masks what is personal.
fn cover(mask: &Mask, found: &mut RunDifference) {
    for (name, value) in &mut found.keys {
        *value = mask.key(name, value);
    }
    let requests = found.requests.iter_mut();
    for field in requests.flat_map(|request| &mut request.fields) {
        for value in [&mut field.was, &mut field.is].into_iter().flatten() {
            *value = mask.at(&field.path, value);
        }
    }
    for text in found.failures.iter_mut().chain(&mut found.unknown) {
        *text = mask.text(text);
    }
}

async fn one(
    reader: &Reader,
    project: &Project,
    plan: &Plan,
    row: &RunRow,
) -> Result<RunDifference, Failure> {
    let mut found = RunDifference {
        run: row.run.0,
        keys: row
            .keys
            .iter()
            .map(|(name, value)| (name.to_string(), value.clone()))
            .collect(),
        ..RunDifference::default()
    };
    let Some(detail) = reader.run(&row.run.0.to_string()).await? else {
        found.unknown.push("the run is gone".to_owned());
        return Ok(found);
    };
    let message = match message_of(&detail) {
        Ok(message) => message,
        Err(failure) => {
            found.unknown.push(failure.message);
            return Ok(found);
        }
    };
    let (effects, family) = reader.effects_of_root(row.root).await?;
    let generation = family.iter().map(|one| one.generation).max().unwrap_or(0);
    let mut recorded = Recorded::of(effects, generation);
    for one in &family {
        let at = (one.flow.clone(), one.message);
        recorded.received.insert(at, one.received_at_ms);
    }
    let machine = Machine {
        project,
        recorded: &recorded,
        until: None,
        follow: true,
        exact: false,
    };
    let done = machine.run(plan, message);
    compare(&detail, &recorded, &done, &mut found);
    Ok(found)
}

fn compare(detail: &RunDetail, recorded: &Recorded, done: &Recomputed, found: &mut RunDifference) {
    let rows: FxHashMap<[u8; 16], _> = recorded.rows().map(|row| (row.effect.0, row)).collect();
    let mut visited: BTreeSet<[u8; 16]> = BTreeSet::new();
    for sent in &done.sent {
        let was = sent.recorded.and_then(|EffectId(id)| {
            visited.insert(id);
            rows.get(&id)
        });
        let (what, fields) = match was {
            Some(was) => {
                let fields = differences::between(&was.request, &sent.request);
                if fields.is_empty() {
                    continue;
                }
                ("different", fields)
            }
            None => ("more", Vec::new()),
        };
        found.requests.push(RequestDifference {
            flow: sent.flow.to_string(),
            step: sent.step.to_string(),
            item: sent.item.to_string(),
            what: what.to_owned(),
            fields,
        });
    }
    let failed_before = |flow: &Arc<str>, step: &Arc<str>| {
        detail
            .exceptions
            .iter()
            .any(|row| row.flow == *flow && row.step == *step)
    };
    for stopped in &done.stopped {
        let line = format!("{} / {}: {}", stopped.flow, stopped.step, stopped.why);
        if !stopped.failed {
            found.unknown.push(line);
        } else if !failed_before(&stopped.flow, &stopped.step) {
            found.failures.push(line);
        }
    }
    // Where it is not known how a message goes on, what it sent later is not missing.
    if !done.stopped.is_empty() {
        return;
    }
    for row in recorded.rows().filter(|row| row.flow == detail.row.flow) {
        if !visited.contains(&row.effect.0) && row.run == detail.row.run {
            found.requests.push(RequestDifference {
                flow: row.flow.to_string(),
                step: row.step.to_string(),
                item: row.item.to_string(),
                what: "less".to_owned(),
                fields: Vec::new(),
            });
        }
    }
}
