//! `saga`: steps that are done all, or undone. What may stand in one, how each step is undone, and where the point of no return is.

use std::sync::Arc;

use serde::Deserialize;

use super::entry::{self, Entry};
use super::parts;
use super::steps::{self, Draft};
use super::{Cx, condition, types};
use crate::component::codes as part_codes;
use crate::component::common::{Retry, RetryRule, Undo};
use crate::diagnostic::Place;
use crate::expression::Expression;
use crate::flow::codes;
use crate::flow::file::{OnUndone, Saga as Written};
use crate::flow::plan::{Action, Node as PlanNode, Route, Saga, SagaStep};
use crate::flow::shapes;
use crate::step::undo;
use crate::yaml::shape;
use crate::yaml::{Data, Node};

/// How failed undos are repeated where a saga says nothing: for longer than other requests, because nobody else will.
const UNDO_RETRY: RetryRule = RetryRule {
    attempts: 12,
    first_ms: 5_000,
    factor: 2.0,
    most_ms: 3_600_000,
};
/// Steps that end a message, make many of it, or keep it: what was done for it would be left standing.
const REFUSED: &[&str] = &[
    "filter",
    "split",
    "dedupe",
    "newest",
    "collect",
    "resequence",
];

/// The saga whose steps are looked at.
pub(crate) struct Open {
    retry: RetryRule,
    steps: Vec<SagaStep>,
    pivot: Option<Place>,
}

/// An entry without the keys that only have a meaning in a saga, if it has any: these are looked at when the step is known.
pub(crate) fn without_undo(node: &Node) -> Option<Node> {
    let ours = |name: &str| name == "undo" || name == "pivot";
    let entries = node.entries();
    entries.iter().any(|(key, _)| ours(&key.text)).then(|| {
        let kept = entries.iter().filter(|(key, _)| !ours(&key.text));
        Node {
            span: node.span,
            data: Data::Map(kept.cloned().collect()),
        }
    })
}

/// `saga`: its steps, each a node, and their undos, to which nothing leads but a failure.
pub(crate) fn saga(cx: &mut Cx<'_>, draft: &mut Draft, node: &Node) {
    steps::beside(cx, node, "saga", &["id", "when", "saga"]);
    let given = node.get("id").and_then(Node::as_text);
    let id = steps::id(cx, draft, "saga", given, node);
    let when = node
        .get("when")
        .and_then(|when| condition::condition(cx, when));
    let Some((key, config)) = node.entry("saga") else {
        return;
    };
    if draft.saga.is_some() {
        let message = "a saga cannot stand in a saga";
        let help = "move its steps into the saga around it, or to a flow of their own";
        cx.error(codes::SAGA_STEP, key.span, message, help);
        cx.variables_uncertain = true;
        return;
    }
    let findings = entry::check(cx, shapes::saga(), config);
    for finding in findings.iter() {
        cx.report(finding.clone());
    }
    let written = Written::deserialize(config.to_json()).ok();
    let retry = retry(cx, config);
    let Some(list) = config.get("steps") else {
        return;
    };
    draft.saga = Some(Open {
        retry,
        steps: Vec::new(),
        pivot: None,
    });
    let from = members(cx, draft, &id, when, list);
    let Some(open) = draft.saga.take() else {
        return;
    };
    if draft.nodes.len() == from + 1 && matches!(list.data, Data::Null | Data::List(_)) {
        let message = "the saga has no steps";
        let help = "add steps below `steps`, each with its `undo`";
        cx.error(shape::codes::MISSING_FIELD, key.span, message, help);
    }
    draft.sagas.push(Saga {
        id: Arc::from(id),
        nodes: from..draft.nodes.len(),
        steps: open.steps,
        ends: written.is_some_and(|saga| saga.on_undone == Some(OnUndone::End)),
    });
}

/// The saga's own node, and the steps behind it; gives the number of the former.
fn members(
    cx: &mut Cx<'_>,
    draft: &mut Draft,
    id: &str,
    when: Option<Expression>,
    list: &Node,
) -> usize {
    let route = Route {
        all: false,
        arms: Vec::new(),
        otherwise: Some(Vec::new()),
    };
    let at = draft.push(steps::route_node(id, "saga", route, cx.known.retry));
    let Some(when) = when else {
        steps::sequence(cx, draft, list);
        return at;
    };
    draft.open.clear();
    let first = draft.nodes.len();
    let typed = cx.typed.state.clone();
    steps::sequence(cx, draft, list);
    let end = cx.typed.state.take();
    types::join(cx, typed, &[end]);
    if draft.nodes.len() > first
        && let Action::Route(route) = &mut draft.nodes[at].action
    {
        route.arms.push((when, vec![first]));
    }
    draft.open.push(at);
    at
}

fn retry(cx: &mut Cx<'_>, config: &Node) -> RetryRule {
    let Some(node) = config.get("undo_retry") else {
        return UNDO_RETRY;
    };
    let Ok(retry) = Retry::deserialize(node.to_json()) else {
        return UNDO_RETRY;
    };
    let rule = UNDO_RETRY.with(Some(&retry));
    if let Some((place, message)) = parts::retry_fault(&retry, rule) {
        let span = node.get(place).map_or(node.span, |node| node.span);
        let help = "`first` is the wait before the second attempt, `most` the longest wait";
        cx.error(codes::BAD_RETRY, span, message, help);
    }
    rule
}

/// What a step means for the saga around it, or that `undo` and `pivot` mean nothing without one. `node` is the whole entry.
pub(crate) fn step(
    cx: &mut Cx<'_>,
    draft: &mut Draft,
    entry: &Entry<'_>,
    node: &Node,
    at: Option<usize>,
) {
    if draft.saga.is_none() {
        return meaningless(cx, entry, node, "it does not stand in a saga");
    }
    refuse(cx, entry, node);
    let Some(at) = at else { return };
    let acts = matches!(draft.nodes[at].action, Action::Effect(_));
    let reads = ["get", "head"]
        .iter()
        .any(|verb| entry.config.get(verb).is_some());
    if !acts || reads {
        if entry.kind == "emit" && !past_pivot(draft) {
            let what = "hands a copy over, and nothing takes it back";
            without(cx, entry, &draft.nodes[at].id.clone(), what);
        }
        return meaningless(cx, entry, node, "there is nothing to undo");
    }
    let pivot = pivot(cx, draft, node);
    let undone = if past_pivot(draft) {
        if let Some((key, _)) = node.entry("undo") {
            let message = format!(
                "`undo` has no effect on `{}`: from the pivot on nothing is undone",
                entry.kind
            );
            let help = "remove it, or move the step before the pivot";
            cx.error(codes::MEANINGLESS_KEY, key.span, message, help);
        }
        None
    } else {
        undo_of(cx, draft, entry, node, at)
    };
    if let Some(open) = &mut draft.saga {
        open.steps.push(SagaStep {
            node: at,
            undo: undone.map(|(node, _)| node),
            pivot,
            absent_ok: undone.is_some_and(|(_, absent_ok)| absent_ok),
        });
    }
}

fn past_pivot(draft: &Draft) -> bool {
    draft.saga.as_ref().is_some_and(|open| open.pivot.is_some())
}

/// Whether the step is the saga's pivot; there is at most one.
fn pivot(cx: &mut Cx<'_>, draft: &mut Draft, node: &Node) -> bool {
    let Some((key, value)) = node.entry("pivot") else {
        return false;
    };
    let place = cx.place(key.span);
    match value.to_json().as_bool() {
        Some(true) => {}
        Some(false) => return false,
        None => {
            let message = "`pivot` is true or false";
            cx.error(shape::codes::WRONG_TYPE, value.span, message, "");
            return false;
        }
    }
    let Some(open) = &mut draft.saga else {
        return false;
    };
    if let Some(first) = &open.pivot {
        let message = "the saga has a pivot already: nothing is undone behind the first one";
        let finding =
            crate::diagnostic::Diagnostic::error(part_codes::CONFLICTING_SETTINGS, place, message);
        let finding = finding
            .help("keep one of them")
            .related(first.clone(), "the first");
        cx.report(finding);
        return false;
    }
    open.pivot = Some(place);
    true
}

/// The node that undoes the step, and whether it does no harm where there is nothing.
fn undo_of(
    cx: &mut Cx<'_>,
    draft: &mut Draft,
    entry: &Entry<'_>,
    node: &Node,
    at: usize,
) -> Option<(usize, bool)> {
    let of = draft.nodes[at].id.clone();
    let Some((key, config)) = node.entry("undo") else {
        without(cx, entry, &of, "acts on the outside");
        return None;
    };
    let findings = entry::check(cx, shapes::undo(), config);
    let sound = !findings.has_errors() && !cx.holds_missing(config.span);
    for finding in findings.iter() {
        cx.report(finding.clone());
    }
    if !sound {
        return None;
    }
    let undo = Undo::deserialize(config.to_json()).ok()?;
    let system = undo
        .system
        .as_deref()
        .or_else(|| entry.config.get("system")?.as_text());
    let Some(system) = system.map(str::to_owned) else {
        let message = format!("`{}` has no system that could undo it", entry.kind);
        let help = "name one: `undo: { system: .., delete: .. }`";
        cx.error(shape::codes::MISSING_FIELD, key.span, message, help);
        return None;
    };
    let common = undo::common(&undo);
    let ready = cx.with_build(config, &common, |build| undo::build(&undo, &system, build))?;
    let promises = ready.effect.promises();
    if !promises.safe && promises.kept_ms.is_none() && promises.probe_settle_ms.is_none() {
        let message = format!(
            "the undo of `{of}` has no guard: if its answer is lost, nobody knows whether it took place, and a person must look"
        );
        let help = "add `upsert: true` if undoing twice is as good as once, `idempotency_key` or a `probe`";
        cx.warning(codes::UNGUARDED_EFFECT, key.span, message, help);
    }
    let retry = draft.saga.as_ref().map_or(UNDO_RETRY, |open| open.retry);
    let window = parts::window_ms(retry, promises.timeout_ms);
    draft.note_window(window, cx.place(key.span));
    let undoing = draft.nodes.len();
    draft.nodes.push(PlanNode {
        action: Action::Effect(ready.effect),
        system: Some(Arc::from(system)),
        ..steps::route_node(&format!("{of}/undo"), "undo", Route::default(), retry)
    });
    Some((undoing, ready.absent_ok))
}

fn without(cx: &mut Cx<'_>, entry: &Entry<'_>, id: &str, what: &str) {
    let message = format!(
        "`{id}` {what}, and has no `undo`: if a later step of the saga fails, it is left standing"
    );
    let help = "add `undo: { delete: .. }` beside it, or move it behind the `pivot`";
    cx.warning(codes::SAGA_WITHOUT_UNDO, entry.key.span, message, help);
}

/// Reports what ends or multiplies a message in the middle of a saga.
fn refuse(cx: &mut Cx<'_>, entry: &Entry<'_>, node: &Node) {
    if REFUSED.contains(&entry.kind) {
        let message = format!(
            "`{}` cannot stand in a saga: what was done for the message would be left standing",
            entry.kind
        );
        let help = "move it before or behind the saga";
        cx.error(codes::SAGA_STEP, entry.key.span, message, help);
    }
    for (class, choice) in node.get("on_failure").map_or(&[][..], Node::entries) {
        for leaves in ["drop", "to"] {
            if choice.get(leaves).is_some() {
                let message =
                    format!("`{leaves}` leads out of the saga, and what was done is left standing");
                let help =
                    "leave it out: the steps before are undone, and the message waits for a person";
                cx.error(codes::SAGA_STEP, class.span, message, help);
            }
        }
    }
}

fn meaningless(cx: &mut Cx<'_>, entry: &Entry<'_>, node: &Node, why: &str) {
    for name in ["undo", "pivot"] {
        if let Some((key, _)) = node.entry(name) {
            let message = format!("`{name}` has no effect on `{}`: {why}", entry.kind);
            cx.error(codes::MEANINGLESS_KEY, key.span, message, "remove it");
        }
    }
}
