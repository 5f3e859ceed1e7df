//! What came of a test: requests, messages given on, files, exceptions, runs, books. Read from the store and the systems when nothing goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::outside::{Called, Outside};
use super::prepare::{Streams, look};
use crate::body::Body;
use crate::failure::Failure;
use crate::flow::plan::{Action, Plan};
use crate::flow::test::value::of_body;
use crate::store::Store;
use crate::store::books::Counts;
use crate::store::exceptions::ExceptionFilter;
use crate::store::runs::{RunDetail, RunFilter, RunRow};
use crate::world::disk;

/// How many files a test may write.
const FILES_MAX: usize = 1_000;
/// How large a file may be.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// How many runs and exceptions are read at once.
const PAGE: usize = 1_000;

/// What came of a test.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) calls: Vec<Called>,
    /// Requests that no rule answers.
    pub(super) unanswered: Vec<String>,
    /// What sinks gave on, by `FLOW/SINK`.
    pub(super) given: BTreeMap<String, Vec<Body>>,
    /// The files that sinks have written, by path.
    pub(super) files: BTreeMap<String, Bytes>,
    pub(super) exceptions: Vec<Excepted>,
    pub(super) runs: Vec<Ran>,
    pub(super) books: BTreeMap<String, Counts>,
    /// Books that do not balance, or are not their recount. There must be none.
    pub(super) unsound: Vec<String>,
    /// Until the last thing happened.
    pub(super) passed_ms: i64,
    /// How many commits there were.
    pub(super) commits: u64,
    /// How often the engine died.
    pub(super) crashes: usize,
}

/// Something that waits for a person.
#[derive(Clone, Debug)]
pub(super) struct Excepted {
    pub(super) flow: Arc<str>,
    pub(super) step: Arc<str>,
    pub(super) class: &'static str,
    pub(super) message: String,
    pub(super) attempts: u32,
}

/// A run.
#[derive(Clone, Debug)]
pub(super) struct Ran {
    pub(super) flow: Arc<str>,
    pub(super) state: &'static str,
    pub(super) keys: BTreeMap<String, String>,
    /// The steps that were done, in their order.
    pub(super) through: Vec<String>,
    /// All that its timeline names, traces included.
    pub(super) seen: BTreeSet<String>,
}

/// Where to look.
pub(super) struct Seen<'a> {
    pub(super) plans: &'a BTreeMap<Arc<str>, Arc<Plan>>,
    pub(super) store: &'a Store,
    pub(super) outside: &'a Outside,
    pub(super) streams: &'a Streams,
    pub(super) files: &'a Path,
    pub(super) start_ms: i64,
    pub(super) commits: u64,
}

/// Reads what came of a test.
pub(super) async fn collect(seen: Seen<'_>) -> Result<Outcome, Failure> {
    let mut outcome = Outcome {
        calls: seen.outside.calls(),
        unanswered: seen.outside.unanswered(),
        commits: seen.commits,
        ..Outcome::default()
    };
    let mut last_ms = outcome.calls.iter().map(|call| call.at_ms).max();
    let mut handed: BTreeMap<Arc<str>, Vec<Body>> = BTreeMap::new();
    for row in runs(seen.store).await? {
        let detail = seen.store.run(&row.run.0.to_string()).await?;
        let Some(detail) = detail else { continue };
        let plan = seen.plans.get(&row.flow);
        let ends = row.ended_at_ms.unwrap_or(row.received_at_ms) - seen.start_ms;
        last_ms = last_ms.max(Some(ends));
        if row.root != row.message
            && let Some(body) = &detail.body
        {
            let bodies = handed.entry(row.flow.clone()).or_default();
            bodies.push(Body::new(body.clone()));
        }
        outcome.runs.push(ran(&detail, plan.map(|plan| &**plan)));
    }
    let filter = ExceptionFilter {
        limit: PAGE,
        ..ExceptionFilter::default()
    };
    for row in seen.store.exceptions(filter).await? {
        last_ms = last_ms.max(Some(row.opened_at_ms - seen.start_ms));
        let detail = row.detail.map(|detail| format!("\n{detail}"));
        outcome.exceptions.push(Excepted {
            flow: row.flow,
            step: row.step,
            class: row.class.name(),
            message: format!("{}{}", row.message, detail.unwrap_or_default()),
            attempts: row.attempts,
        });
    }
    // The store lists the newest first.
    outcome.exceptions.reverse();
    outcome.passed_ms = last_ms.unwrap_or(0).max(0);
    books(seen.store, &mut outcome).await?;
    files(seen.files, &mut outcome)?;
    given(&seen, handed, &mut outcome);
    Ok(outcome)
}

async fn runs(store: &Store) -> Result<Vec<RunRow>, Failure> {
    let mut all = Vec::new();
    let mut filter = RunFilter {
        limit: PAGE,
        ..RunFilter::default()
    };
    loop {
        let page = store.runs(filter.clone()).await?;
        let Some(oldest) = page.last() else { break };
        filter.before = Some(oldest.run);
        all.extend(page);
    }
    all.reverse();
    Ok(all)
}

fn ran(detail: &RunDetail, plan: Option<&Plan>) -> Ran {
    let mut ran = Ran {
        flow: detail.row.flow.clone(),
        state: detail.row.state.name(),
        keys: detail
            .row
            .keys
            .iter()
            .map(|(name, value)| (name.to_string(), value.clone()))
            .collect(),
        through: Vec::new(),
        seen: BTreeSet::new(),
    };
    let is_step = |name: &str| plan.is_some_and(|plan| plan.node(name).is_some());
    for line in &detail.trail {
        let detail = line.detail.as_deref().unwrap_or_default();
        let mut names = vec![line.step.as_str()];
        names.extend(detail.split(" > ").filter(|name| is_step(name)));
        for (nth, name) in names.iter().enumerate() {
            // A line may name its own step once more.
            if (nth > 0 && *name == line.step) || !is_step_or_trace(name, &is_step) {
                continue;
            }
            ran.seen.insert((*name).to_owned());
            if line.what == "discarded" {
                ran.seen.insert(format!("@dropped:{name}"));
            }
            if line.what == "done" && !name.starts_with('@') {
                ran.through.push((*name).to_owned());
            }
        }
    }
    ran
}

fn is_step_or_trace(name: &str, is_step: &dyn Fn(&str) -> bool) -> bool {
    name.starts_with('@') || is_step(name)
}

async fn books(store: &Store, outcome: &mut Outcome) -> Result<(), Failure> {
    let kept = store.books().await?;
    let recounted = store.recount().await?;
    for books in &kept {
        if !books.counts.balanced() {
            let told = format!(
                "the books of {} do not balance: {:?}",
                books.flow, books.counts
            );
            outcome.unsound.push(told);
        }
        outcome.books.insert(books.flow.to_string(), books.counts);
    }
    if kept != recounted {
        let told = format!("the books {kept:?} are not their recount {recounted:?}");
        outcome.unsound.push(told);
    }
    Ok(())
}

fn files(root: &Path, outcome: &mut Outcome) -> Result<(), Failure> {
    for path in disk::list(root, true, FILES_MAX)? {
        let below = path.strip_prefix(root).unwrap_or(&path);
        let name = below.to_string_lossy().replace('\\', "/");
        outcome
            .files
            .insert(name, disk::read(&path, FILE_BYTES_MAX)?);
    }
    Ok(())
}

/// What sinks gave on: to flows what those have accepted, to files what stands in them.
fn given(seen: &Seen<'_>, handed: BTreeMap<Arc<str>, Vec<Body>>, outcome: &mut Outcome) {
    let notes = look(seen.streams);
    for plan in seen.plans.values() {
        for node in &plan.nodes {
            let name = format!("{}/{}", plan.flow, node.id);
            let gives = matches!(
                node.action,
                Action::Flow(_) | Action::Append(_) | Action::Stream(_)
            );
            if (gives || node.hands_to.is_some()) && !node.id.starts_with('@') {
                outcome.given.insert(name, Vec::new());
            }
        }
    }
    for (name, body) in &notes.streams {
        outcome
            .given
            .entry(name.clone())
            .or_default()
            .push(body.clone());
    }
    for (name, path) in &notes.files {
        let bytes = outcome.files.get(path).cloned().unwrap_or_default();
        let lines = lines(&bytes).map(|line| Body::new(Bytes::copy_from_slice(line)));
        outcome.given.entry(name.clone()).or_default().extend(lines);
    }
    for (flow, bodies) in handed {
        for body in bodies {
            let tapped = notes.handed.iter().find(|(name, seen_body)| {
                seen_body.bytes() == body.bytes() && leads_to(seen.plans, name, &flow)
            });
            let name = tapped.map(|(name, _)| name.clone());
            let name = name.or_else(|| emits_to(seen.plans, &flow));
            if let Some(name) = name {
                outcome.given.entry(name).or_default().push(body);
            }
        }
    }
}

fn leads_to(plans: &BTreeMap<Arc<str>, Arc<Plan>>, name: &str, flow: &str) -> bool {
    let Some((of, sink)) = name.split_once('/') else {
        return false;
    };
    let plan = plans.get(of);
    let node = plan.and_then(|plan| Some(&plan.nodes[plan.node(sink)?]));
    node.is_some_and(|node| matches!(&node.action, Action::Flow(to) if &**to == flow))
}

fn emits_to(plans: &BTreeMap<Arc<str>, Arc<Plan>>, flow: &str) -> Option<String> {
    plans.values().find_map(|plan| {
        let node = plan
            .nodes
            .iter()
            .find(|node| node.hands_to.as_deref() == Some(flow))?;
        Some(format!("{}/{}", plan.flow, node.id))
    })
}

/// The lines of a file, without their ends.
pub(super) fn lines(bytes: &Bytes) -> impl Iterator<Item = &[u8]> {
    bytes
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
}

impl Outcome {
    /// As conditions and people see it. Without `times` it is the same for every run of the test.
    pub(super) fn to_json(&self, times: bool) -> Value {
        let mut calls: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for call in &self.calls {
            let mut shown = json!({
                "flow": &*call.flow, "step": &*call.step, "method": call.method, "path": call.path,
                "headers": call.headers, "body": of_body(&call.body), "answer": call.answer,
            });
            if times {
                shown["at_ms"] = call.at_ms.into();
            }
            calls.entry(&call.system).or_default().push(shown);
        }
        let given: BTreeMap<&str, Vec<Value>> = self
            .given
            .iter()
            .map(|(name, bodies)| (name.as_str(), bodies.iter().map(of_body).collect()))
            .collect();
        let files: BTreeMap<&str, Vec<Value>> = self
            .files
            .iter()
            .map(|(path, bytes)| {
                let lines =
                    lines(bytes).map(|line| of_body(&Body::new(Bytes::copy_from_slice(line))));
                (path.as_str(), lines.collect())
            })
            .collect();
        let exceptions: Vec<Value> = self
            .exceptions
            .iter()
            .map(|one| {
                json!({
                    "flow": &*one.flow, "step": &*one.step, "class": one.class, "message": one.message, "attempts": one.attempts,
                })
            })
            .collect();
        let runs: Vec<Value> = self
            .runs
            .iter()
            .map(|run| json!({ "flow": &*run.flow, "state": run.state, "keys": run.keys, "through": run.through }))
            .collect();
        let books: BTreeMap<&str, Value> = self
            .books
            .iter()
            .map(|(flow, counts)| (flow.as_str(), counts_json(counts)))
            .collect();
        let mut all = json!({
            "calls": calls, "outputs": given, "files": files, "exceptions": exceptions, "runs": runs, "books": books,
        });
        if times {
            all["passed_ms"] = self.passed_ms.into();
        }
        all
    }
}

/// The counts of the books, by name.
pub(super) fn counts_of(counts: &Counts) -> [(&'static str, i64); 10] {
    [
        ("received", counts.received),
        ("accepted", counts.accepted),
        ("duplicates", counts.duplicates),
        ("refused", counts.refused),
        ("delivered", counts.delivered),
        ("filtered", counts.filtered),
        ("discarded", counts.discarded),
        ("compensated", counts.compensated),
        ("in_flight", counts.in_flight),
        ("in_exceptions", counts.in_exceptions),
    ]
}

fn counts_json(counts: &Counts) -> Value {
    let all = counts_of(counts).into_iter();
    Value::Object(
        all.map(|(name, count)| (name.to_owned(), count.into()))
            .collect(),
    )
}
