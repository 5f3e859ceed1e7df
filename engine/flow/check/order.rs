//! `order_by`: which messages run one after another, and what cannot stand in between.

use std::sync::Arc;

use super::Cx;
use super::flow::key_of;
use crate::flow::codes;
use crate::flow::file::{Flow, OnException, OrderBy};
use crate::flow::plan::Order;
use crate::yaml::{Data, Node};

/// Steps that hold a message until other messages of the flow have come: those wait behind it, and it would wait for ever.
const WAITS_FOR_OTHERS: &[&str] = &["collect", "resequence"];

/// Which messages run one after another.
pub(crate) fn check(cx: &mut Cx<'_>, head: &Flow, node: &Node) -> Option<Order> {
    let at = node.get("order_by")?;
    let key = at.get("key").unwrap_or(at);
    key_of(cx, node, Some(key), "order_by");
    if let Some(steps) = node.get("steps") {
        no_waiting(cx, steps);
    }
    let (key, on_exception) = match head.order_by.as_ref()? {
        OrderBy::Key(key) => (key, None),
        OrderBy::Rule(rule) => (&rule.key, rule.on_exception),
    };
    Some(Order {
        key: Arc::from(key.as_str()),
        pass: on_exception == Some(OnException::Pass),
    })
}

/// Finds steps that wait for messages which the order keeps from coming.
fn no_waiting(cx: &mut Cx<'_>, steps: &Node) {
    for step in steps.items() {
        for (kind, _) in step.entries() {
            if WAITS_FOR_OTHERS.contains(&kind.text.as_str()) {
                let message = format!(
                    "`{}` waits for other messages, and `order_by` lets them come only after this one",
                    kind.text
                );
                let help = "leave `order_by` out, or hand over to a flow of its own that does this";
                cx.error(codes::ORDER_BROKEN, kind.span, message, help);
            }
        }
        for arm in step.get("branch").map_or(&[][..], Node::items) {
            let steps = arm
                .get("steps")
                .or_else(|| arm.find(&["otherwise", "steps"]));
            if let Some(steps) = steps.filter(|steps| matches!(steps.data, Data::List(_))) {
                no_waiting(cx, steps);
            }
        }
    }
}
