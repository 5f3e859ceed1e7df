//! What a flow asks of a message before it lets it in: the contract, the keys, the claim. It commits nothing.

use std::sync::Arc;

use super::accept::hash;
use super::failing;
use crate::expression::{Scope, Tables};
use crate::failure::Failure;
use crate::flow::plan::Plan;
use crate::message::{Message, Names};
use crate::store::commit::{Chain, Claim};

/// Whether the body keeps to the flow's contract.
pub(super) fn check_contract(plan: &Plan, message: &Message) -> Result<(), Failure> {
    let Some(accepts) = &plan.accepts else {
        return Ok(());
    };
    let item = message.body.document()?;
    accepts
        .schema
        .validate(item)
        .map_err(|breaches| failing::breach(&accepts.name, &breaches))
}

/// Finds the message's keys. Those that can be had are set, also where one is missing.
pub(super) fn find_keys(
    plan: &Plan,
    tables: &Tables,
    message: &mut Message,
) -> Result<(), Failure> {
    let mut keys = Names::clone(&message.keys);
    let mut missing = None;
    if !plan.keys.is_empty() {
        let scope = Scope::of(message, tables)?;
        for (name, expression) in &plan.keys {
            let found = expression
                .evaluate(&scope)
                .map_err(Failure::from)
                .and_then(|value| {
                    if value.is_null() {
                        return Ok(None);
                    }
                    value.to_text().map(Some).ok_or_else(|| {
                        Failure::mapping(format!(
                            "the key `{name}` is {}; a key must be a text or a number",
                            value.kind().name()
                        ))
                    })
                });
            match found {
                Ok(Some(text)) if !text.is_empty() => {
                    keys.insert(name.clone(), text);
                }
                Ok(_) => missing = missing.or_else(|| needed(plan, name, None)),
                Err(failure) => missing = missing.or_else(|| needed(plan, name, Some(failure))),
            }
        }
    }
    message.keys = Arc::new(keys);
    missing.map_or(Ok(()), Err)
}

/// What the message claims by its `once` key.
pub(super) fn once(plan: &Plan, message: &Message) -> Option<Claim> {
    let once = plan.once.as_ref()?;
    Some(Claim {
        scope: once.scope.to_string(),
        key: message.keys.get(&once.key).cloned().unwrap_or_default(),
        hash: hash(message.body.bytes()),
        keep_ms: once.keep_ms,
        changed: once.changed,
    })
}

/// The chain in which the message waits for its turn, if its flow is ordered and it has the key.
pub(super) fn chain(plan: &Plan, message: &Message) -> Option<Chain> {
    let order = plan.order.as_ref()?;
    let value = message.keys.get(&order.key)?;
    Some(Chain {
        scope: plan.flow.to_string(),
        key: format!("{}={value}", order.key),
        pass: order.pass,
    })
}

/// A key that cannot be had is a failure where `once` or `order_by` depends on it, or where its expression fails.
fn needed(plan: &Plan, name: &str, failure: Option<Failure>) -> Option<Failure> {
    let once = plan.once.as_ref().map(|once| (&*once.key, "once"));
    let order = plan.order.as_ref().map(|order| (&*order.key, "order_by"));
    failure.or_else(|| {
        let (_, by) = once
            .into_iter()
            .chain(order)
            .find(|(key, _)| *key == name)?;
        Some(Failure::validation(format!(
            "the key `{name}` is null or empty, and `{by}` needs it"
        )))
    })
}
