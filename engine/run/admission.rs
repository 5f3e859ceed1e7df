//! What a flow asks of a message before it lets it in: the contract, the keys, the claim. It commits nothing.

use std::sync::Arc;

use super::accept::hash;
use super::failing;
use crate::component::Context;
use crate::expression::Scope;
use crate::failure::Failure;
use crate::flow::plan::Plan;
use crate::message::{Guard, KEY_BYTES_MAX, Message, Names};
use crate::step::newest::version_of;
use crate::store::commit::{Chain, Claim, DOOR, Sighting};
use crate::store::versions;

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
pub(super) fn find_keys(plan: &Plan, message: &mut Message) -> Result<(), Failure> {
    let mut keys = Names::clone(&message.keys);
    let mut missing = None;
    if !plan.keys.is_empty() {
        let scope = Scope::of(message, &plan.tables)?;
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
                Ok(Some(text)) if text.len() > KEY_BYTES_MAX => {
                    let why = format!(
                        "the key `{name}` has {} bytes; a key may have at most {KEY_BYTES_MAX}",
                        text.len()
                    );
                    missing.get_or_insert_with(|| Failure::validation(why));
                }
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

/// The version by which `once` judges a changed repeat; the message carries it on, so that nothing old has an effect after something newer.
pub(super) fn version(plan: &Plan, message: &mut Message) -> Result<Option<Sighting>, Failure> {
    let once = plan.once.as_ref();
    let Some((once, expression)) = once.and_then(|once| Some((once, once.version.as_ref()?)))
    else {
        return Ok(None);
    };
    let cx = Context {
        tables: &plan.tables,
        step: DOOR,
        personal: &plan.personal,
    };
    let guard = Guard {
        scope: Arc::from(versions::scope_of_once(&once.scope)),
        key: message.keys.get(&once.key).cloned().unwrap_or_default(),
        version: version_of(expression, message, &cx)?,
        by: message.id,
    };
    message.guard(guard.clone());
    Ok(Some(Sighting {
        guard,
        keep_ms: once.keep_ms,
    }))
}

/// The chains in which the message waits for its turn: that of its flow's order, and that of its versions.
pub(super) fn chains(plan: &Plan, message: &Message) -> Vec<Chain> {
    let chains = ordered(plan, message).into_iter();
    chains.chain(versioned(plan, message)).collect()
}

/// Where a newer version takes a key over, it waits until the one before is over, or needs a person.
fn versioned(plan: &Plan, message: &Message) -> Option<Chain> {
    let once = plan.once.as_ref().filter(|once| once.version.is_some())?;
    let value = message.keys.get(&once.key)?;
    let order = plan.order.as_ref();
    let ordered = order.is_some_and(|order| order.key == once.key) && once.scope == plan.flow;
    (!ordered).then(|| Chain {
        scope: versions::scope_of_once(&once.scope),
        key: format!("{}={value}", once.key),
        pass: true,
    })
}

/// The place among the messages of an ordered flow, if the message has the key.
fn ordered(plan: &Plan, message: &Message) -> Option<Chain> {
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
