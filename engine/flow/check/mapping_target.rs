//! A mapping's fields against the schema of its target: fields that do not exist, fields that must be set, values that can never fit.
//! Only what is certain is told.

use std::sync::Arc;

use crate::diagnostic::{Code, Diagnostic, File, Findings, Place, Span, closest};
use crate::expression::Expression;
use crate::flow::codes;
use crate::schema::place::At;
use crate::yaml::{Data, Key, Node};

/// Checks the fields of a mapping whose target is known.
pub(crate) fn check(
    file: &Arc<File>,
    mapping: &Node,
    target: At<'_>,
    name: &str,
    findings: &mut Findings,
) {
    let Some((key, fields)) = mapping.entry("fields") else {
        return;
    };
    let mut check = Check {
        file,
        name,
        findings,
    };
    check.fields(key, fields, target, "");
}

struct Check<'a> {
    file: &'a Arc<File>,
    /// The name of the target's schema.
    name: &'a str,
    findings: &'a mut Findings,
}

impl Check<'_> {
    /// An object: `owner` is the key that it stands under.
    fn fields(&mut self, owner: &Key, node: &Node, target: At<'_>, path: &str) {
        let Data::Map(entries) = &node.data else {
            return;
        };
        if let Some(wants) = target.refuses_type("object") {
            let message = format!(
                "`{}` is {wants} in `{}`, not an object",
                shown(path, owner),
                self.name
            );
            return self.report(
                codes::WRONG_TARGET_VALUE,
                owner.span,
                message,
                "give it a value, not fields",
            );
        }
        let closed = target.closed();
        let required = target.required();
        let mut meant: Vec<&str> = Vec::new();
        for (key, value) in entries {
            if let Some(names) = &closed
                && !names.contains(&key.text.as_str())
            {
                let free = names
                    .iter()
                    .copied()
                    .filter(|name| entries.iter().all(|(key, _)| key.text != *name));
                let near = closest(&key.text, free);
                meant.extend(near);
                self.unknown(key, names, near, path);
                continue;
            }
            if let Some(at) = target.property(&key.text) {
                let path = join(path, &key.text);
                self.value(key, value, at, &path);
            }
        }
        let missing: Vec<&str> = required
            .into_iter()
            .filter(|name| {
                entries.iter().all(|(key, _)| key.text != *name) && !meant.contains(name)
            })
            .collect();
        for name in missing {
            let words = target.property(name).and_then(At::description);
            let help = match words {
                Some(words) => format!(
                    "add `{name}`: {}",
                    words
                        .split(". ")
                        .next()
                        .unwrap_or(words)
                        .trim_end_matches('.')
                ),
                None => format!("add `{name}`"),
            };
            let whole = if path.is_empty() {
                String::new()
            } else {
                format!(" of `{path}`")
            };
            let message = format!(
                "the field `{name}`{whole} is required by `{}` and never set",
                self.name
            );
            self.report(codes::MISSING_TARGET_FIELD, owner.span, message, help);
        }
    }

    fn value(&mut self, key: &Key, node: &Node, target: At<'_>, path: &str) {
        match &node.data {
            Data::Map(_) => self.fields(key, node, target, path),
            Data::List(items) => self.list(key, items, target, path),
            Data::Text(text) => {
                let literal = Expression::compile(&text.value)
                    .ok()
                    .and_then(|expression| expression.literal_text());
                if let Some((literal, wants)) = literal.and_then(|literal| {
                    let wants = target.refuses_text(&literal)?;
                    Some((literal, wants))
                }) {
                    let message = format!(
                        "`{path}` is {wants} in `{}`, never the text `{literal}`",
                        self.name
                    );
                    self.report(
                        codes::WRONG_TARGET_VALUE,
                        node.span,
                        message,
                        "change the value",
                    );
                }
            }
            Data::Bool(value) => {
                if let Some(wants) = target.refuses_boolean() {
                    let message =
                        format!("`{path}` is {wants} in `{}`, never `{value}`", self.name);
                    self.report(
                        codes::WRONG_TARGET_VALUE,
                        node.span,
                        message,
                        "change the value",
                    );
                }
            }
            Data::Number(_) | Data::Null => {}
        }
    }

    fn list(&mut self, key: &Key, items: &[Node], target: At<'_>, path: &str) {
        if let Some(wants) = target.refuses_type("array") {
            let message = format!("`{path}` is {wants} in `{}`, not a list", self.name);
            return self.report(
                codes::WRONG_TARGET_VALUE,
                key.span,
                message,
                "give it a value, not items",
            );
        }
        let Some(inside) = target.items() else {
            return;
        };
        let path = format!("{path}[]");
        for item in items {
            if let Some((key, fields)) = item.entry("fields") {
                self.fields(key, fields, inside, &path);
            } else if let Some((key, value)) = item.entry("value") {
                self.value(key, value, inside, &path);
            } else if let Data::Text(_) | Data::Bool(_) = item.data {
                self.value(key, item, inside, &path);
            }
        }
    }

    fn unknown(&mut self, key: &Key, names: &[&str], near: Option<&str>, path: &str) {
        let help = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.len() <= 20 => format!("the fields there are: {}", names.join(", ")),
            None => format!("it has {} fields, none with a name like it", names.len()),
        };
        let message = format!("`{}` has no field `{}`", self.name, join(path, &key.text));
        self.report(codes::UNKNOWN_TARGET_FIELD, key.span, message, help);
    }

    fn report(&mut self, code: Code, span: Span, message: String, help: impl Into<String>) {
        let place = Place {
            file: self.file.clone(),
            span,
        };
        self.findings
            .push(Diagnostic::error(code, place, message).help(help));
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn shown<'p>(path: &'p str, owner: &'p Key) -> &'p str {
    if path.is_empty() { &owner.text } else { path }
}
