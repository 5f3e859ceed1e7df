//! `routes`, and what the arms of routes and of branches have in common: conditions, their order, and who can never match.

use std::collections::BTreeMap;

use super::{Cx, condition, entry};
use crate::diagnostic::{Span, closest};
use crate::expression::Expression;
use crate::flow::codes;
use crate::yaml::shape;
use crate::yaml::{Data, Node};

/// How an arm is written: what its fields are called.
pub(crate) struct ArmStyle {
    /// What stands beside `when`.
    targets: &'static str,
    /// What an arm looks like.
    help: &'static str,
    /// Only the first arm that matches counts.
    first: bool,
}

/// An arm of a `branch`.
pub(crate) const BRANCH: ArmStyle = ArmStyle {
    targets: "steps",
    help: "an arm is `when` and `steps`, or `otherwise: { steps: .. }`",
    first: true,
};

/// An arm of `routes: first`.
pub(crate) const FIRST: ArmStyle = ArmStyle {
    targets: "to",
    help: "an arm is `when` and `to`, or `otherwise: [sink]`",
    first: true,
};

/// An arm of `routes: all`.
pub(crate) const ALL: ArmStyle = ArmStyle {
    first: false,
    ..FIRST
};

/// What decides whether an arm takes a message.
pub(crate) enum Head {
    /// Its condition.
    When(Expression),
    /// No other arm has.
    Otherwise,
    /// Nobody knows: it is broken, with findings.
    Broken,
}

/// Checks the heads of all arms, in their order.
pub(crate) fn arms(cx: &mut Cx<'_>, list: &Node, style: &ArmStyle, sound: bool) -> Vec<Head> {
    let mut heads = Vec::new();
    let mut seen: BTreeMap<String, Span> = BTreeMap::new();
    // The arm that takes everything, and in which words.
    let mut taken: Option<(Span, String)> = None;
    let count = list.items().len();
    for (at, arm) in list.items().iter().enumerate() {
        let head = head(cx, arm, style, sound);
        let span = arm.entries().first().map_or(arm.span, |(key, _)| key.span);
        match &head {
            Head::Otherwise if at + 1 < count => {
                let message = "`otherwise` is not the last arm";
                let help = "move it to the end: it takes what no other arm takes";
                cx.error(codes::OTHERWISE_NOT_LAST, span, message, help);
            }
            Head::When(expression) => {
                unreachable(cx, arm, expression, style, &mut seen, &mut taken)
            }
            Head::Otherwise => {
                if let Some((_, why)) = &taken {
                    let message = format!("no message gets here: {why}");
                    cx.error(
                        codes::UNREACHABLE_ROUTE,
                        span,
                        message,
                        "remove this arm, or the condition that is always true",
                    );
                }
            }
            Head::Broken => {}
        }
        heads.push(head);
    }
    heads
}

/// Reports an arm that no message can reach.
fn unreachable(
    cx: &mut Cx<'_>,
    arm: &Node,
    expression: &Expression,
    style: &ArmStyle,
    seen: &mut BTreeMap<String, Span>,
    taken: &mut Option<(Span, String)>,
) {
    let Some(when) = arm.get("when") else { return };
    let (line, _) = cx.place(when.span).line_column();
    if let Some((_, why)) = taken.as_ref().filter(|_| style.first) {
        let message = format!("no message gets here: {why}");
        let help = "remove this arm, or move it up";
        cx.error(codes::UNREACHABLE_ROUTE, when.span, message, help);
    } else if expression.always() == Some(false) {
        let message = "no message gets here: the condition is never true";
        cx.error(
            codes::UNREACHABLE_ROUTE,
            when.span,
            message,
            "remove this arm",
        );
    } else if style.first {
        let text = expression.text().trim().to_owned();
        if let Some(first) = seen.get(&text) {
            let (line, _) = cx.place(*first).line_column();
            let message = format!("no message gets here: the same condition stands in line {line}");
            cx.error(
                codes::UNREACHABLE_ROUTE,
                when.span,
                message,
                "change one of the two conditions",
            );
        }
        seen.entry(text).or_insert(when.span);
    }
    if expression.always() == Some(true) && style.first && taken.is_none() {
        *taken = Some((
            when.span,
            format!("the condition in line {line} is always true"),
        ));
    }
}

fn head(cx: &mut Cx<'_>, arm: &Node, style: &ArmStyle, sound: bool) -> Head {
    if !matches!(arm.data, Data::Map(_)) {
        return Head::Broken;
    }
    let (when, targets, otherwise) = (
        arm.entry("when"),
        arm.entry(style.targets),
        arm.entry("otherwise"),
    );
    let start = arm.entries().first().map_or(arm.span, |(key, _)| key.span);
    let fault = match (when, targets, otherwise) {
        (Some(_), Some(_), None) | (None, None, Some(_)) => None,
        (Some((key, _)), _, Some((other, _))) => {
            let later = if key.span.start > other.span.start {
                key
            } else {
                other
            };
            Some((
                later.span,
                "an arm has either `when` or `otherwise`".to_owned(),
            ))
        }
        (None, Some((key, _)), Some(_)) => Some((
            key.span,
            format!(
                "`otherwise` names its targets itself; it has no `{}`",
                key.text
            ),
        )),
        (Some((key, _)), None, None) => {
            Some((key.span, format!("the arm has no `{}`", style.targets)))
        }
        (None, Some((key, _)), None) => Some((key.span, "the arm has no condition".to_owned())),
        // What stands there instead is told by the shape.
        (None, None, None) if !arm.entries().is_empty() && !sound => None,
        (None, None, None) => Some((start, "the arm is empty".to_owned())),
    };
    // A misspelt key is told by the shape; that it is missing is no second mistake.
    let misspelt = arm.entries().iter().any(|(key, _)| {
        ![style.targets, "when", "otherwise"].contains(&key.text.as_str())
            && closest(&key.text, [style.targets, "when", "otherwise"]).is_some()
    });
    if let Some((span, message)) = fault {
        if !misspelt {
            cx.error(codes::ROUTE_ARM, span, message, style.help);
        }
        if let Some((_, when)) = when {
            condition::condition(cx, when);
        }
        return Head::Broken;
    }
    match (when, otherwise) {
        (Some((_, when)), _) => condition::condition(cx, when).map_or(Head::Broken, Head::When),
        (_, Some(_)) => Head::Otherwise,
        _ => Head::Broken,
    }
}

/// The sinks that an arm names, each with its place.
pub(crate) fn targets(arm: &Node) -> Vec<(&str, Span)> {
    let Some(node) = arm.get("to").or_else(|| arm.get("otherwise")) else {
        return Vec::new();
    };
    match &node.data {
        Data::Text(text) => vec![(text.value.as_str(), node.span)],
        Data::List(items) => items
            .iter()
            .filter_map(|item| item.as_text().map(|text| (text, item.span)))
            .collect(),
        _ => Vec::new(),
    }
}

/// The arms of `routes`, and how they are read.
pub(crate) fn arms_of(routes: &Node) -> Option<(&Node, &'static ArmStyle)> {
    match (routes.get("first"), routes.get("all")) {
        (Some(first), _) => Some((first, &FIRST)),
        (_, Some(all)) => Some((all, &ALL)),
        _ => None,
    }
}

/// Whether every arm that matches takes the message.
pub(crate) fn takes_all(style: &ArmStyle) -> bool {
    !style.first
}

/// Reports a target that is no sink.
pub(crate) fn unknown_sink(
    cx: &mut Cx<'_>,
    name: &str,
    span: Span,
    sinks: &[String],
    steps: &[String],
) {
    if cx.lost.contains("sinks") {
        return;
    }
    let help = if let Some(near) = closest(name, sinks.iter().map(String::as_str)) {
        format!("did you mean `{near}`?")
    } else if steps.iter().any(|step| step == name) {
        format!(
            "`{name}` is a step; only sinks can be named here: {}",
            sinks.join(", ")
        )
    } else if cx.known.library.flows.contains(name) {
        format!("`{name}` is a flow; add a sink for it: `{name}: {{ flow: {name} }}`")
    } else if sinks.is_empty() {
        "add it under `sinks`".to_owned()
    } else {
        format!("the sinks of this flow are: {}", sinks.join(", "))
    };
    let message = format!("the flow has no sink `{name}`");
    cx.error(codes::UNKNOWN_SINK, span, message, help);
}

/// Reports `routes` that is no mapping of `first` or `all`.
pub(crate) fn not_routes(cx: &mut Cx<'_>, routes: &Node) {
    if let Data::List(_) = &routes.data {
        let span = entry::first_line(cx, routes);
        let message = "`routes` is a list, and does not say how its arms are taken";
        let help = "put the arms below `first:` (the first that matches) or `all:` (every one that matches)";
        cx.error(shape::codes::WRONG_TYPE, span, message, help);
    }
}
