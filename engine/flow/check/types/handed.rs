//! A body that is handed to somebody who has a contract: to a `validate`, to another flow.

use super::super::Cx;
use super::super::entry::Entry;
use super::trial::{Focus, Move};
use super::{State, around, told};
use crate::diagnostic::{Diagnostic, Span};
use crate::flow::codes;
use crate::schema::fit::{self, Misfit};
use crate::schema::infer::source;
use crate::schema::place::At;
use crate::yaml::Node;

/// A step that validates: behind it the body keeps to the schema.
pub(super) fn validate<'s>(
    cx: &mut Cx<'s>,
    config: &Node,
    mut state: State<'s>,
) -> Option<State<'s>> {
    let name = config.as_text()?;
    let schemas = &cx.known.library.schemas;
    let (schema, at) = (schemas.get(name)?, At::named(schemas, name)?);
    fits(cx, &state, name, config.span, "is validated");
    let is = source::of_schema(at);
    let origin = state.body.origin.clone();
    state.body = state.body.clone().meet(is).from(origin);
    state.trail.moves.push(Move::Valid(schema));
    Some(state)
}

/// A sink or a step that hands the body to another flow.
pub(super) fn to_flow<'s>(cx: &mut Cx<'s>, entry: &Entry<'_>, state: &State<'s>) {
    let config = entry.config;
    let flow = [Some(config), config.get("flow")]
        .into_iter()
        .flatten()
        .find_map(|node| Some((node.as_text()?, node.span)));
    let Some((flow, span)) = flow else { return };
    let Some(accepts) = cx.known.accepts.get(flow).cloned() else {
        return;
    };
    match config.get("map") {
        Some(map) => {
            let Some(made) = super::mapping::used(cx, map, state) else {
                return;
            };
            fits(cx, &made, &accepts, span, "is accepted by the flow");
        }
        None => fits(cx, state, &accepts, span, "is accepted by the flow"),
    }
}

/// Tells how a body may break the schema that it is held against.
fn fits(cx: &mut Cx<'_>, state: &State<'_>, name: &str, span: Span, how: &str) {
    let known = state.target.as_deref() == Some(name)
        || state.bodies == 0 && state.trail.body.schema.name() == name;
    let schemas = &cx.known.library.schemas;
    let (Some(schema), Some(at)) = (schemas.get(name), At::named(schemas, name)) else {
        return;
    };
    if known || state.body.open {
        return;
    }
    let wants = source::of_schema(at);
    let doubts: Vec<Misfit> = fit::misfits(&state.body, &wants)
        .into_iter()
        .filter(|misfit| misfit.declared)
        .collect();
    if doubts.is_empty() {
        return;
    }
    let focus = Focus {
        reads: state.trail.reads.clone(),
        ..Focus::default()
    };
    let mut shown: Vec<Option<String>> = vec![None; doubts.len()];
    state.trail.search(&around(cx), &focus, &mut |tried| {
        let Ok(item) = tried.message.body.document() else {
            return false;
        };
        for broken in schema.broken_at(item) {
            for (doubt, shown) in doubts.iter().zip(&mut shown) {
                if shown.is_none() && broken.at == doubt.path && doubt.what.shows_as(broken.rule) {
                    *shown = Some(tried.arrived.to_owned());
                }
            }
        }
        shown.iter().any(Option::is_some)
    });
    let Some((doubt, body)) = doubts
        .iter()
        .zip(&shown)
        .find_map(|(doubt, shown)| Some((doubt, shown.as_ref()?)))
    else {
        return;
    };
    let message = format!(
        "the body {how} as `{name}` here, and may break it: {}",
        told::misfit_words(doubt, &[])
    );
    let finding = Diagnostic::error(codes::BODY_MISMATCH, cx.place(span), message)
        .help(format!(
            "map it to `{name}` first, or correct the mapping before"
        ))
        .witness(body);
    cx.report(finding);
}
