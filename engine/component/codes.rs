//! The diagnostic codes of parts, and the findings that more than one part makes.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::diagnostic::{Code, Diagnostic, File, Place, Span, closest};
use crate::expression::{self, ColumnUse, Expression, TableUse, Tables};
use crate::template::TemplateFault;
use crate::yaml::Node;

/// A template cannot be parsed.
pub const BAD_TEMPLATE: Code = Code {
    name: "bad-template",
    meaning: "A handlebars template cannot be parsed.",
};
/// A mapping is named that does not exist.
pub const UNKNOWN_MAPPING: Code = Code {
    name: "unknown-mapping",
    meaning: "A mapping is named that the project does not have.",
};
/// A schema is named that does not exist.
pub const UNKNOWN_SCHEMA: Code = Code {
    name: "unknown-schema",
    meaning: "A schema is named that the project does not have.",
};
/// A system is named that does not exist.
pub const UNKNOWN_SYSTEM: Code = Code {
    name: "unknown-system",
    meaning: "A system is named that the project does not have.",
};
/// A flow is named that does not exist.
pub const UNKNOWN_FLOW: Code = Code {
    name: "unknown-flow",
    meaning: "A flow is named that the project does not have.",
};
/// A table is named that does not exist.
pub const UNKNOWN_TABLE: Code = Code {
    name: "unknown-table",
    meaning: "A cross-reference table is named that the project does not have.",
};
/// A column is named that the table does not have.
pub const UNKNOWN_COLUMN: Code = Code {
    name: "unknown-column",
    meaning: "A column is named that the cross-reference table does not have, or none is named where there are several.",
};
/// A key is named that the flow does not declare.
pub const UNKNOWN_KEY: Code = Code {
    name: "unknown-key",
    meaning: "A key is named that the flow does not declare under `keys`.",
};
/// A value cannot be used.
pub const BAD_VALUE: Code = Code {
    name: "bad-value",
    meaning: "A value has the right type and cannot be used.",
};
/// Two settings contradict each other, or one needs another.
pub const CONFLICTING_SETTINGS: Code = Code {
    name: "conflicting-settings",
    meaning: "Settings contradict each other, or one needs another.",
};

/// The finding about a template that cannot be parsed, at its place in the node.
pub fn template(fault: &TemplateFault, node: &Node, file: &Arc<File>) -> Diagnostic {
    let place = Place {
        file: file.clone(),
        span: node.span_within(file, fault.start, fault.end),
    };
    Diagnostic::error(BAD_TEMPLATE, place, fault.message.clone())
        .help("templates are handlebars: `{{field}}` from the body, `{{@name}}` from the context")
}

/// All of them, for the reference.
pub const ALL: &[Code] = &[
    BAD_TEMPLATE,
    UNKNOWN_MAPPING,
    UNKNOWN_SCHEMA,
    UNKNOWN_SYSTEM,
    UNKNOWN_FLOW,
    UNKNOWN_TABLE,
    UNKNOWN_COLUMN,
    UNKNOWN_KEY,
    BAD_VALUE,
    CONFLICTING_SETTINGS,
];

/// Compiles an expression and finds what is wrong with it: its own faults, unknown `$variables`, tables and keys.
pub fn expression(
    text: &str,
    place: &dyn Fn(usize, usize) -> Place,
    variables: &BTreeSet<String>,
    keys: &BTreeSet<String>,
    tables: &Tables,
) -> (Option<Expression>, Vec<Diagnostic>) {
    let compiled = match Expression::compile(text) {
        Ok(compiled) => compiled,
        Err(faults) => {
            let found = faults.into_iter().map(|fault| {
                Diagnostic::error(
                    expression::codes::of(fault.kind),
                    place(fault.start, fault.end),
                    fault.message,
                )
                .help(fault.help)
            });
            return (None, found.collect());
        }
    };
    let mut found: Vec<Diagnostic> = compiled
        .cautions()
        .into_iter()
        .map(|fault| {
            Diagnostic::error(
                expression::codes::STRING_ORDERING,
                place(fault.start, fault.end),
                fault.message,
            )
            .help(fault.help)
        })
        .collect();
    found.extend(compiled.quoted_names().into_iter().map(|fault| {
        let place = place(fault.start, fault.end);
        Diagnostic::warning(expression::codes::QUOTED_NAME, place, fault.message).help(fault.help)
    }));
    for (name, start, end) in compiled.free_variables() {
        if !variables.contains(&name) {
            found.push(unknown_variable(&name, place(start, end), variables));
        }
    }
    for used in compiled.tables() {
        found.extend(table_use(&used, tables, &|span| {
            place(span.start, span.end)
        }));
    }
    for (name, start, end) in compiled.keys() {
        if !keys.contains(&name) {
            let known: Vec<String> = keys.iter().cloned().collect();
            let help = names_help("key", &name, &known, "`keys`");
            let message = format!("the flow declares no key `{name}`");
            found.push(Diagnostic::error(UNKNOWN_KEY, place(start, end), message).help(help));
        }
    }
    (Some(compiled), found)
}

/// The finding about a table that does not exist, or has no such column.
pub fn table_use(
    used: &TableUse,
    tables: &Tables,
    place: &dyn Fn(Span) -> Place,
) -> Option<Diagnostic> {
    let name = &used.table;
    let Some(table) = tables.get(name) else {
        let known: Vec<String> = tables.names().map(str::to_owned).collect();
        let help = names_help("table", name, &known, "tables/");
        let message = format!("there is no table `{name}`");
        return Some(Diagnostic::error(UNKNOWN_TABLE, place(used.table_at), message).help(help));
    };
    let columns = table.columns();
    match &used.column {
        ColumnUse::Named(column, at) if !columns.contains(column) => {
            let help = match closest(column, columns.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("its columns are {}", columns.join(", ")),
            };
            let message = format!("the table `{name}` has no column `{column}`");
            Some(Diagnostic::error(UNKNOWN_COLUMN, place(*at), message).help(help))
        }
        ColumnUse::Only if columns.len() > 2 => {
            let message = format!("the table `{name}` has several columns, and none is named");
            let help = format!(
                "name one as the third argument: {}",
                columns[1..].join(", ")
            );
            Some(Diagnostic::error(UNKNOWN_COLUMN, place(used.table_at), message).help(help))
        }
        _ => None,
    }
}

fn unknown_variable(name: &str, place: Place, variables: &BTreeSet<String>) -> Diagnostic {
    let known: Vec<String> = variables.iter().map(|known| format!("${known}")).collect();
    let help = match closest(&format!("${name}"), known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "bind it with `into` or `set` in a step above".to_owned(),
        None => format!("bound here: {}", known.join(", ")),
    };
    let message = format!("nothing above binds `${name}`");
    Diagnostic::error(expression::codes::UNKNOWN_VARIABLE, place, message).help(help)
}

/// What to do about a name that stands for nothing.
pub fn names_help(noun: &str, name: &str, known: &[String], folder: &str) -> String {
    if let Some(near) = closest(name, known.iter().map(String::as_str)) {
        return format!("did you mean `{near}`?");
    }
    match known {
        [] => format!("the project has no {noun} yet; add one under {folder}"),
        _ if known.len() <= 12 => format!("known: {}", known.join(", ")),
        _ => format!(
            "the project has {} under {folder}, none with a name like it",
            known.len()
        ),
    }
}
