//! The type at one place, for whoever asks about it: an editor, while a file is written. It finds no mistakes.

use std::sync::Arc;

use super::State;
use crate::diagnostic::Span;
use crate::expression::Expression;
use crate::flow::check::{Cx, Known};
use crate::mapping::Mapping;
use crate::schema::infer::Type;
use crate::schema::infer::node::Infer;
use crate::schema::infer::seen::{self, Seen};
use crate::yaml::Node;

/// A byte of a file about which somebody asks, and what was found there.
pub(crate) struct Asked<'s> {
    at: usize,
    found: Option<(Span, Type<'s>)>,
}

impl<'s> Asked<'s> {
    /// A question about a byte.
    pub(crate) fn at(at: usize) -> Asked<'s> {
        Asked { at, found: None }
    }

    /// What was found, in words.
    pub(crate) fn words(self) -> Option<(Span, String)> {
        let (span, is) = self.found?;
        Some((span, is.at_length()?))
    }

    /// Takes what was found; several ways may lead to one place.
    fn take(&mut self, span: Span, is: Type<'s>) {
        self.found = Some(match self.found.take() {
            Some((known, before)) if known == span => (span, before.union(is)),
            _ => (span, is),
        });
    }
}

/// Answers the question at hand, if it is about this expression.
pub(super) fn look<'s>(cx: &mut Cx<'s>, state: &State<'s>, node: &Node, expression: &Expression) {
    let own = cx.used_at.is_none();
    let Some(asked) = cx.asked.as_mut().filter(|_| own) else {
        return;
    };
    let at = asked.at;
    if !holds(node.span, at) {
        return;
    }
    let tables = &cx.known.library.tables;
    let mut infer = Infer::new(expression.text(), &state.variables, tables);
    infer.seen = Some(Vec::new());
    infer.node(expression.root(), &state.body);
    let span_of = |start, end| node.span_within(&cx.file, start, end);
    let all = infer.seen.unwrap_or_default();
    if let Some(Seen { start, end, is }) =
        seen::smallest(all, |start, end| holds(span_of(start, end), at))
    {
        asked.take(span_of(start, end), is);
    }
}

/// The expression at a byte of a mapping's file and its type in words, over the bodies that it is made for. At the beginning of a value it is all
/// that the field gets.
pub(crate) fn in_mapping(
    known: &Known,
    mapping: &Arc<Mapping>,
    at: usize,
    whole: bool,
) -> Option<(Span, String)> {
    let (from, _) = mapping.from()?;
    let state = State::of(&known.library.schemas, from)?;
    let tables = &known.library.tables;
    let (span, is) = mapping.type_at(at, whole, &state.body, tables)?;
    Some((span, is.at_length()?))
}

fn holds(span: Span, at: usize) -> bool {
    span.start <= at && at < span.end
}
