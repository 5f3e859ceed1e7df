//! `${env:NAME}`, `${env:NAME:-default}`, `${file:/path}` and, in fragments, `${param:name}`: put in for scalars of the parsed tree, never
//! into the file's text. What is put in stays a text.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{codes, folder};
use crate::diagnostic::{Code, Diagnostic, File, Findings, Place, Span};
use crate::world::env::Environment;
use crate::yaml::{Data, Node, Style, Text};

/// Where values come from.
pub(crate) struct Values<'a> {
    /// Environment variables.
    pub(crate) env: &'a dyn Environment,
    /// The project's folder, below which relative paths are looked for.
    pub(crate) root: &'a Path,
    /// Whether `${param:..}` may stay, for the one who uses the fragment.
    pub(crate) fragment: bool,
}

/// Puts values in for all of a file's variables. Gives the places of scalars whose variable is missing: what is said about their
/// values besides would be noise.
pub(crate) fn variables(
    node: &mut Node,
    file: &Arc<File>,
    values: &Values<'_>,
    findings: &mut Findings,
) -> Vec<Span> {
    let mut walk = Walk {
        file,
        values,
        findings,
        missing: Vec::new(),
    };
    walk.node(node);
    walk.missing
}

/// Puts the values of parameters in for `${param:name}`. A scalar that is nothing but one parameter becomes its value, whatever that
/// is; within a longer text the value must be a scalar. Names that are used are passed to `used`.
pub(crate) fn parameters(
    node: &mut Node,
    given: &BTreeMap<String, Node>,
    used: &mut dyn FnMut(&Node, &str, Span),
    file: &File,
) {
    match &mut node.data {
        Data::List(items) => {
            for item in items {
                parameters(item, given, used, file);
            }
            return;
        }
        Data::Map(entries) => {
            for (_, value) in entries {
                parameters(value, given, used, file);
            }
            return;
        }
        Data::Text(text) if text.value.contains("${param:") => {}
        _ => return,
    }
    let Data::Text(text) = &node.data else { return };
    for part in parts(&text.value) {
        if let Part::Reference { body, start, end } = part
            && let Some(name) = body.strip_prefix("param:")
        {
            used(node, name, node.span_within(file, start, end));
        }
    }
    fill(node, given);
}

/// Puts values in for the parameters of one text; parameters without a value stay as they are.
fn fill(node: &mut Node, given: &BTreeMap<String, Node>) {
    let Data::Text(text) = &node.data else { return };
    let parts = parts(&text.value);
    let value_of = |part: &Part<'_>| match part {
        Part::Reference { body, .. } => body
            .strip_prefix("param:")
            .and_then(|name| given.get(name.trim())),
        _ => None,
    };
    if let [only] = parts.as_slice()
        && let Some(value) = value_of(only)
    {
        let mut data = value.data.clone();
        if let Data::Text(text) = &mut data
            && text.style != Style::Variable
        {
            text.style = Style::Parameter;
        }
        node.data = data;
        return;
    }
    let mut filled = String::new();
    let mut style = match text.style {
        Style::Variable => Style::Variable,
        _ => Style::Parameter,
    };
    for part in &parts {
        match (part, value_of(part)) {
            (Part::Plain(text), _) => filled.push_str(text),
            (_, Some(value)) => match &value.data {
                Data::Text(text) => {
                    if text.style == Style::Variable {
                        style = Style::Variable;
                    }
                    filled.push_str(&text.value);
                }
                Data::Number(text) => filled.push_str(text),
                Data::Bool(value) => filled.push_str(if *value { "true" } else { "false" }),
                Data::Null | Data::List(_) | Data::Map(_) => {}
            },
            (Part::Reference { body, .. }, None) => {
                filled.push_str("${");
                filled.push_str(body);
                filled.push('}');
            }
            (Part::Open { .. }, None) => {}
        }
    }
    node.data = Data::Text(Text {
        value: filled,
        style,
    });
}

struct Walk<'a> {
    file: &'a Arc<File>,
    values: &'a Values<'a>,
    findings: &'a mut Findings,
    missing: Vec<Span>,
}

impl Walk<'_> {
    fn node(&mut self, node: &mut Node) {
        match &mut node.data {
            Data::List(items) => {
                for item in items {
                    self.node(item);
                }
            }
            Data::Map(entries) => {
                for (key, value) in entries {
                    if let Some(at) = key.text.find("${") {
                        let whole = key.span.end - key.span.start == key.text.len();
                        let start = key.span.start + if whole { at } else { 0 };
                        let span = Span::new(start, key.span.end);
                        let message = "`${..}` stands in a key, where nothing is put in".to_owned();
                        self.report(codes::BAD_SUBSTITUTION, span, message, "write the key out");
                    }
                    self.node(value);
                }
            }
            Data::Text(text) if text.value.contains("${") => self.text(node),
            _ => {}
        }
    }

    fn text(&mut self, node: &mut Node) {
        let Data::Text(text) = &node.data else { return };
        let mut filled = String::with_capacity(text.value.len());
        let (mut from_variable, mut missing, mut changed) =
            (false, false, text.value.contains("$${"));
        for part in parts(&text.value) {
            match part {
                Part::Plain(text) => filled.push_str(&text),
                Part::Open { start } => {
                    let span = node.span_within(self.file, start, text.value.len());
                    let message = "the `${` is not closed".to_owned();
                    let help = "close it with `}`, or write `$${` for the characters `${`";
                    self.report(codes::BAD_SUBSTITUTION, span, message, help);
                    (missing, changed) = (true, true);
                }
                Part::Reference { body, start, end } => {
                    let span = node.span_within(self.file, start, end);
                    if self.values.fragment && body.starts_with("param:") {
                        filled.push_str("${");
                        filled.push_str(body);
                        filled.push('}');
                        continue;
                    }
                    changed = true;
                    match self.value(body, span) {
                        Some((value, literal)) => {
                            filled.push_str(&value);
                            from_variable |= !literal;
                        }
                        None => missing = true,
                    }
                }
            }
        }
        if missing {
            self.missing.push(node.span);
        }
        if !changed {
            return;
        }
        let style = if from_variable || missing {
            Style::Variable
        } else {
            Style::Parameter
        };
        node.data = Data::Text(Text {
            value: filled,
            style,
        });
    }

    /// The value, and whether it stands in the file itself, as a default.
    fn value(&mut self, body: &str, span: Span) -> Option<(String, bool)> {
        match body.split_once(':') {
            Some(("env", rest)) => self.variable(rest, span),
            Some(("file", path)) => self.secret(path, span),
            Some(("param", _)) => {
                let message = "`${param:..}` stands outside of a fragment".to_owned();
                let help = "parameters exist in flows/fragments/ only; use `${env:NAME}` here";
                self.report(codes::BAD_SUBSTITUTION, span, message, help);
                None
            }
            _ => {
                let help = if is_name(body) {
                    format!(
                        "write `${{env:{body}}}` for the environment variable `{body}`, or `$${{` for the characters `${{`"
                    )
                } else {
                    "known: `${env:NAME}`, `${env:NAME:-default}`, `${file:/path}`; write `$${` for the characters `${`"
                        .to_owned()
                };
                let message = format!("`${{{body}}}` is not known");
                self.report(codes::BAD_SUBSTITUTION, span, message, &help);
                None
            }
        }
    }

    fn variable(&mut self, rest: &str, span: Span) -> Option<(String, bool)> {
        let (name, default) = match rest.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (rest, None),
        };
        if !is_name(name) {
            let message = format!("`{name}` is no name of an environment variable");
            let help = "write `${env:NAME}` or `${env:NAME:-default}`, with letters, digits and `_` in the name";
            self.report(codes::BAD_SUBSTITUTION, span, message, help);
            return None;
        }
        let value = self.values.env.get(name).filter(|value| !value.is_empty());
        match (value, default) {
            (Some(value), _) => Some((value, false)),
            (None, Some(default)) => Some((default.to_owned(), !default.is_empty())),
            (None, None) => {
                let message = format!("the environment variable `{name}` is not set");
                let help = format!("set it, or give a default: `${{env:{name}:-value}}`");
                self.report(codes::MISSING_VARIABLE, span, message, &help);
                None
            }
        }
    }

    fn secret(&mut self, path: &str, span: Span) -> Option<(String, bool)> {
        match folder::secret(self.values.root, path) {
            Ok(value) => Some((value, false)),
            Err(error) => {
                let message = format!("the file `{path}` cannot be read: {error}");
                let help = "put the secret there, or name another file";
                self.report(codes::MISSING_SECRET_FILE, span, message, help);
                None
            }
        }
    }

    fn report(&mut self, code: Code, span: Span, message: String, help: &str) {
        let place = Place {
            file: self.file.clone(),
            span,
        };
        self.findings
            .push(Diagnostic::error(code, place, message).help(help));
    }
}

/// A stretch of a text.
enum Part<'a> {
    /// As it is.
    Plain(String),
    /// `${body}`, with its bytes.
    Reference {
        body: &'a str,
        start: usize,
        end: usize,
    },
    /// A `${` that is never closed.
    Open { start: usize },
}

fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut at = 0;
    while let Some(found) = text[at..].find("${").map(|found| at + found) {
        plain.push_str(&text[at..found]);
        // `$${` is the escape.
        if plain.ends_with('$') {
            plain.push('{');
            at = found + 2;
            continue;
        }
        if !plain.is_empty() {
            parts.push(Part::Plain(std::mem::take(&mut plain)));
        }
        match text[found..].find('}').map(|close| found + close) {
            Some(close) => {
                parts.push(Part::Reference {
                    body: &text[found + 2..close],
                    start: found,
                    end: close + 1,
                });
                at = close + 1;
            }
            None => {
                parts.push(Part::Open { start: found });
                return parts;
            }
        }
    }
    plain.push_str(&text[at..]);
    if !plain.is_empty() {
        parts.push(Part::Plain(plain));
    }
    parts
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "tests look at the disk themselves"
)]
mod tests {
    use super::*;
    use crate::world::env::FixedEnvironment;

    fn check(text: &str, expect: &str) {
        let file = File::new("a.yaml", text);
        let mut findings = Findings::new();
        let mut node = crate::yaml::parse(&file, &mut findings).unwrap();
        let env = FixedEnvironment(
            [("A", "1"), ("B_2", "x y"), ("EMPTY", "")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), "hush\n").unwrap();
        let values = Values {
            env: &env,
            root: folder.path(),
            fragment: false,
        };
        variables(&mut node, &file, &values, &mut findings);
        let mut found: Vec<String> = findings
            .iter()
            .map(|finding| {
                let (line, column) = finding.place.line_column();
                format!("{} {line}:{column}", finding.code)
            })
            .collect();
        if found.is_empty() {
            found.push(node.to_json().to_string());
        }
        assert_eq!(found.join(", "), expect, "{text}");
    }

    #[test]
    fn variables_defaults_and_files_are_put_in_as_texts() {
        check("a: ${env:A}", r#"{"a":"1"}"#);
        check(
            "a: [\"x-${env:B_2}-${env:NO:-d:e}\"]",
            r#"{"a":["x-x y-d:e"]}"#,
        );
        check("a: ${env:EMPTY:-none}", r#"{"a":"none"}"#);
        check("a: ${env:NO:-}", r#"{"a":""}"#);
        check("a: ${file:secret}", r#"{"a":"hush"}"#);
        check("a: $${env:A} $x $$", r#"{"a":"${env:A} $x $$"}"#);
    }

    #[test]
    fn what_is_missing_has_its_place() {
        check("a: ${env:NO}", "missing-variable 1:4");
        check("a: 'b ${env:NO}'", "missing-variable 1:7");
        check("a: ${env:EMPTY}", "missing-variable 1:4");
        check("a: ${file:nowhere}", "missing-secret-file 1:4");
        check("a: ${A}", "bad-substitution 1:4");
        check("a: ${evn:A}", "bad-substitution 1:4");
        check("a: ${env:A-B}", "bad-substitution 1:4");
        check("a: x ${env:A", "bad-substitution 1:6");
        check("a: ${param:x}", "bad-substitution 1:4");
        check("x${env:A}: 1", "bad-substitution 1:2");
    }
}
