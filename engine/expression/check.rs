//! What is known about an expression before it runs: unknown functions, arity, literals of the wrong type, names it uses.

use std::collections::BTreeSet;

use regex::Regex;

use super::Value;
use super::ast::{Call, Node, Tree};
use super::functions::{self, Function, Types};
use super::{ColumnUse, Fault, FaultKind, TableUse};
use crate::body::Kind;
use crate::diagnostic::{Span, closest};

/// Everything that makes the expression fail whenever it is reached.
pub(crate) fn faults(root: &Node) -> Vec<Fault> {
    let mut faults = Vec::new();
    root.walk(&mut |node| {
        if let Tree::Call(call) = &node.tree {
            match call.function {
                None => faults.push(unknown(node, call)),
                Some(function) => check_call(node, call, function, &mut faults),
            }
        }
    });
    faults
}

/// What compiles and surely means something else.
pub(crate) fn cautions(root: &Node) -> Vec<Fault> {
    let mut cautions = Vec::new();
    root.walk(&mut |node| {
        let Tree::Compare(comparison, left, right) = &node.tree else {
            return;
        };
        let text = [left, right]
            .into_iter()
            .find(|side| gives_text(side).unwrap_or(false));
        if let (true, Some(side)) = (comparison.orders(), text) {
            cautions.push(
                Fault::new(
                    FaultKind::InvalidType,
                    "only numbers have an order: a comparison with a string gives null",
                )
                .at(side.start, side.end)
                .with_help(
                    "compare amounts with decimal(x), times with before(a, b) and after(a, b)",
                ),
            );
        }
    });
    cautions
}

/// The variables that come from outside.
pub(crate) fn free_variables(root: &Node) -> Vec<(String, usize, usize)> {
    let mut all = Vec::new();
    root.walk(&mut |node| {
        if let Tree::Free(name) = &node.tree {
            all.push((name.clone(), node.start, node.end));
        }
    });
    all
}

/// The literal first arguments of calls of these functions.
pub(crate) fn first_arguments(root: &Node, names: &[&str]) -> Vec<(String, usize, usize)> {
    let mut all = Vec::new();
    root.walk(&mut |node| {
        let Tree::Call(call) = &node.tree else {
            return;
        };
        let first = call.arguments.first();
        if names.contains(&call.name.as_str())
            && let Some(first) = first
            && let Some(text) = first.literal_text()
        {
            all.push((text, first.start, first.end));
        }
    });
    all
}

/// The tables that `lookup` and `known` name, with their columns.
pub(crate) fn table_uses(root: &Node) -> Vec<TableUse> {
    let mut all = Vec::new();
    root.walk(&mut |node| {
        let Tree::Call(call) = &node.tree else {
            return;
        };
        if !matches!(call.name.as_str(), "lookup" | "known") {
            return;
        }
        let Some((first, table)) = call
            .arguments
            .first()
            .and_then(|first| Some((first, first.literal_text()?)))
        else {
            return;
        };
        let column = match call.arguments.get(2) {
            _ if call.name == "known" => ColumnUse::Open,
            None => ColumnUse::Only,
            Some(third) => third.literal_text().map_or(ColumnUse::Open, |column| {
                ColumnUse::Named(column, Span::new(third.start, third.end))
            }),
        };
        all.push(TableUse {
            table,
            table_at: Span::new(first.start, first.end),
            column,
        });
    });
    all
}

/// The texts and numbers that are written down.
pub(crate) fn constants(root: &Node) -> Vec<serde_json::Value> {
    let mut all = Vec::new();
    root.walk(&mut |node| match &node.tree {
        Tree::Text(text) => all.push(serde_json::Value::from(text.as_str())),
        Tree::Literal(tape) if matches!(tape.root().kind(), Kind::Number | Kind::String) => {
            all.extend(serde_json::from_str(tape.root().json()).ok());
        }
        _ => {}
    });
    all
}

/// Whether the current value is looked at anywhere.
pub(crate) fn reads_current(root: &Node) -> bool {
    let mut reads = false;
    root.walk(&mut |node| {
        reads |= match &node.tree {
            Tree::Current | Tree::Path { of: None, .. } | Tree::Project { of: None, .. } => true,
            // A multiselect is null where the current value is.
            Tree::List(_) | Tree::Object(_) => true,
            _ => false,
        };
    });
    reads
}

fn unknown(node: &Node, call: &Call) -> Fault {
    let names: BTreeSet<_> = functions::all().map(|function| function.name).collect();
    let help = match call.name.as_str() {
        "now" => "an expression gives the same whenever it runs: use received_at() or today(zone)"
            .to_owned(),
        name => match closest(name, names) {
            Some(near) => format!("did you mean {near}()?"),
            None => "the functions are listed in docs/reference/functions.md".to_owned(),
        },
    };
    Fault::new(
        FaultKind::UnknownFunction,
        format!("there is no function {}()", call.name),
    )
    .at(node.start, call.name_end)
    .with_help(help)
}

fn check_call(node: &Node, call: &Call, function: &'static Function, faults: &mut Vec<Fault>) {
    if let Err(fault) = function.check_arity(call.arguments.len()) {
        faults.push(fault.at(node.start, node.end));
        return;
    }
    for (at, argument) in call.arguments.iter().enumerate() {
        let parameter = function.parameter(at);
        let Some(types) = literal_types(argument) else {
            continue;
        };
        if parameter.types.takes_any_of(types) {
            continue;
        }
        let given = match types {
            Types::EXPRESSION => "an expression".to_owned(),
            _ => types.words(),
        };
        faults.push(
            Fault::new(
                FaultKind::InvalidType,
                format!(
                    "{}() takes {} as `{}`, not {given}",
                    function.name,
                    parameter.types.words(),
                    parameter.name
                ),
            )
            .at(argument.start, argument.end)
            .with_help(function.signature()),
        );
    }
    if function.name == "matches" {
        compile_pattern(call, faults);
    }
}

/// Compiles a literal pattern once, for all evaluations.
fn compile_pattern(call: &Call, faults: &mut Vec<Fault>) {
    let Some(argument) = call.arguments.get(1) else {
        return;
    };
    let Some(text) = argument.literal_text() else {
        return;
    };
    match functions::text::pattern(&text) {
        Ok(pattern) => {
            let _: &Regex = call.pattern.get_or_init(|| pattern);
        }
        Err(fault) => faults.push(fault.at(argument.start, argument.end)),
    }
}

/// The type that a node surely has, because it is written there.
fn literal_types(node: &Node) -> Option<Types> {
    match &node.tree {
        Tree::Text(_) => Some(Types::STRING),
        Tree::Literal(tape) => Some(match tape.root().kind() {
            Kind::List => functions::list_types(&Value::Item(tape.root())),
            _ => Types::of(&Value::Item(tape.root())),
        }),
        Tree::Reference(_) => Some(Types::EXPRESSION),
        Tree::Not(_) => Some(Types::BOOLEAN),
        Tree::Call(call) => call.function.map(Function::result_types),
        // Everything but `&x` itself is a value, which a parameter that wants an expression never takes.
        _ => Some(Types::VALUE),
    }
}

/// Whether a node surely gives a string, as far as it is written there.
fn gives_text(node: &Node) -> Option<bool> {
    literal_types(node).map(|types| types == Types::STRING)
}
