//! From an entry to a ready part, and what the keys beside its kind mean for it.

use std::sync::Arc;

use super::entry::Entry;
use super::steps::Draft;
use super::{Cx, condition, names};
use crate::component::codes as part_codes;
use crate::component::common::{OnFailure, RetryRule};
use crate::component::{Effect, Registry};
use crate::diagnostic::Place;
use crate::failure::Class;
use crate::flow::codes;
use crate::flow::plan;
use crate::yaml::Node;

/// A failure route whose sink is looked up when all sinks are known.
pub(crate) struct LateTo {
    /// The node whose failures it takes; `None` if the node is broken and only the name is looked up.
    pub(crate) node: Option<usize>,
    /// The sink whose failures it takes, if it is one.
    pub(crate) sink: Option<String>,
    /// Which failures.
    pub(crate) class: Class,
    /// The sink's name.
    pub(crate) to: String,
    /// Where the name stands.
    pub(crate) place: Place,
    /// Where the fragment is used, if it comes from one.
    pub(crate) used_at: Option<Place>,
}

/// What can still be said about an entry whose part is broken: its retry, the sinks and the things of the project that it names.
pub(crate) fn broken(cx: &mut Cx<'_>, entry: &Entry<'_>, draft: &mut Draft, sink: Option<&str>) {
    on_failure(cx, entry, None, sink, &mut draft.late);
    retry(cx, entry);
    let named = |field: &'static str| Some((field, entry.config.get(field)?.as_text()?));
    for (field, name) in ["system", "map", "answer"].into_iter().filter_map(named) {
        if cx.holds_missing(entry.config.get(field).map_or(entry.key.span, |at| at.span)) {
            continue;
        }
        cx.with_build(entry.config, &entry.common, |build| match field {
            "system" if entry.kind == "sql" => drop(build.database(&[field], name)),
            "system" => drop(build.system(&[field], name)),
            "map" => drop(build.mapping(&[field], name)),
            _ => drop(build.schema(&[field], name)),
        });
    }
}

/// Makes the part ready. `None` if it is broken, with findings.
pub(crate) fn ready<R: Registry>(cx: &mut Cx<'_>, entry: &Entry<'_>) -> Option<R::Ready> {
    if !entry.sound {
        return None;
    }
    match R::parse(entry.kind, entry.config.to_json())? {
        Ok(part) => cx.with_build(entry.config, &entry.common, |build| part.build(build)),
        Err(error) => {
            let message = format!("`{}` cannot be used: {error}", entry.kind);
            cx.error(part_codes::BAD_VALUE, entry.key.span, message, "");
            None
        }
    }
}

/// The condition beside the kind.
pub(crate) fn when(cx: &mut Cx<'_>, entry: &Entry<'_>) -> Option<crate::expression::Expression> {
    entry.common.when.as_ref()?;
    let (_, node) = entry.beside("when")?;
    condition::condition(cx, node)
}

/// The retry that holds, with findings if its settings contradict each other.
pub(crate) fn retry(cx: &mut Cx<'_>, entry: &Entry<'_>) -> RetryRule {
    if let (Some(0), Some((_, node))) = (
        entry.common.timeout.map(|timeout| timeout.ms),
        entry.beside("timeout"),
    ) {
        let message = "a timeout of nothing leaves no time";
        cx.error(
            part_codes::BAD_VALUE,
            node.span,
            message,
            "write at least `1ms`",
        );
    }
    let rule = cx.known.retry.with(entry.common.retry.as_ref());
    if let Some(retry) = &entry.common.retry
        && let Some((key, node)) = entry.beside("retry")
        && let Some((place, message)) = retry_fault(retry, rule)
    {
        let span = node.get(place).map_or(key.span, |node| node.span);
        let help = "`first` is the wait before the second attempt, `most` the longest wait";
        cx.error(codes::BAD_RETRY, span, message, help);
    }
    rule
}

/// What is wrong with a retry, and at which field.
pub(crate) fn retry_fault(
    retry: &crate::component::common::Retry,
    rule: RetryRule,
) -> Option<(&'static str, String)> {
    let zero = |duration: Option<crate::component::words::Duration>| {
        duration.is_some_and(|duration| duration.ms == 0)
    };
    if zero(retry.first) {
        return Some((
            "first",
            "a wait of nothing is no wait: attempts would follow each other at once".to_owned(),
        ));
    }
    if zero(retry.most) {
        return Some((
            "most",
            "a longest wait of nothing is no wait: attempts would follow each other at once"
                .to_owned(),
        ));
    }
    if rule.first_ms > rule.most_ms {
        let at = if retry.first.is_some() {
            "first"
        } else {
            "most"
        };
        let (first, most) = (words(rule.first_ms), words(rule.most_ms));
        return Some((
            at,
            format!("`first` ({first}) is longer than `most` ({most})"),
        ));
    }
    None
}

fn words(ms: u64) -> String {
    crate::component::words::Duration { ms }.to_string()
}

/// What happens to failures: the choices that need no sink now, the others later.
pub(crate) fn on_failure(
    cx: &mut Cx<'_>,
    entry: &Entry<'_>,
    node: Option<usize>,
    sink: Option<&str>,
    late: &mut Vec<LateTo>,
) -> Vec<(Class, plan::OnFailure)> {
    let mut choices = Vec::new();
    let Some(given) = &entry.common.on_failure else {
        return choices;
    };
    for (name, choice) in given {
        let Some(class) = Class::from_name(name) else {
            continue;
        };
        let at = entry.node.find(&["on_failure", name]);
        match choice {
            OnFailure::Exception => choices.push((class, plan::OnFailure::Exception)),
            OnFailure::Continue => choices.push((class, plan::OnFailure::Continue)),
            OnFailure::Drop(reason) => {
                if reason.trim().is_empty() {
                    let span = at
                        .and_then(|at| at.get("drop"))
                        .map_or(entry.key.span, |at| at.span);
                    let message = "a message is dropped without a reason";
                    cx.error(
                        part_codes::BAD_VALUE,
                        span,
                        message,
                        "say why it may be dropped",
                    );
                }
                choices.push((class, plan::OnFailure::Drop(reason.clone())));
            }
            OnFailure::To(to) => {
                let span = at
                    .and_then(|at| at.get("to"))
                    .map_or(entry.key.span, |at| at.span);
                late.push(LateTo {
                    node,
                    sink: sink.map(str::to_owned),
                    class,
                    to: to.clone(),
                    place: cx.place(span),
                    used_at: cx.used_at.clone(),
                });
            }
        }
    }
    choices
}

/// Reports keys beside the kind that have no effect there.
pub(crate) fn meaningless(cx: &mut Cx<'_>, entry: &Entry<'_>, keys: &[&str], why: &str) {
    for name in keys {
        if let Some((key, _)) = entry.beside(name) {
            let message = format!("`{name}` has no effect on `{}`: {why}", entry.kind);
            cx.error(codes::MEANINGLESS_KEY, key.span, message, "remove it");
        }
    }
}

/// Binds the variable of `into`, if its name can be used.
pub(crate) fn bind(cx: &mut Cx<'_>, entry: &Entry<'_>) {
    let Some(name) = &entry.common.into else {
        return;
    };
    if let (Some(fault), Some((_, node))) = (names::variable_fault(name), entry.beside("into")) {
        let message = format!("`{name}` cannot be the name of a variable");
        cx.error(codes::BAD_NAME, node.span, message, fault);
    }
    cx.variables.insert(name.trim_start_matches('$').to_owned());
}

/// What an effect promises, against the keys beside it: a probe that is not asked has no meaning, an effect without any guard is told.
pub(crate) fn guard(cx: &mut Cx<'_>, entry: &Entry<'_>, id: &str, effect: &Arc<dyn Effect>) {
    let promises = effect.promises();
    if promises.probe_settle_ms.is_none() && entry.common.probe.is_some() {
        let why = if promises.safe {
            "repeating it is safe, there is nothing to ask"
        } else {
            "it has no target that could be asked"
        };
        meaningless(cx, entry, &["probe"], why);
    }
    if let (Some(_), Some((_, node))) = (&entry.common.probe, entry.beside("probe"))
        && let Some(applied) = node.get("applied")
    {
        applied_decides(cx, applied);
    }
    if !promises.safe && promises.kept_ms.is_none() && promises.probe_settle_ms.is_none() {
        let message = format!(
            "the effect of `{id}` has no guard: if an answer is lost, nobody knows whether it took place, and a person must look"
        );
        let help =
            "add `idempotency_key`, or a `probe` beside it, or use a method that is safe to repeat";
        cx.warning(codes::UNGUARDED_EFFECT, entry.key.span, message, help);
    }
}

/// The expression of a probe is compiled by the part; here only what it can give is looked at.
fn applied_decides(cx: &mut Cx<'_>, node: &Node) {
    if let Some(Ok(expression)) = node.as_text().map(crate::expression::Expression::compile) {
        condition::decides(cx, node, &expression);
    }
}

/// How long the retries of an effect may take in all, in milliseconds.
pub(crate) fn window_ms(rule: RetryRule, timeout_ms: u64) -> u64 {
    let attempts = u64::from(rule.attempts);
    let waits = (2..=rule.attempts).fold(0_u64, |sum, next| sum.saturating_add(rule.wait_ms(next)));
    waits.saturating_add(attempts.saturating_mul(timeout_ms))
}
