//! Checks a YAML tree against the JSON Schema of a config type: every mistake at its place, in words. Not a general validator; that is
//! `schema`, which knows no places.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Data, Key, Node};
use crate::diagnostic::{Code, Diagnostic, File, Findings, Place, Span, closest};

mod choice;
mod scalar;

/// The kinds of mistakes of shape.
pub mod codes {
    use crate::diagnostic::Code;

    /// A field that does not exist.
    pub const UNKNOWN_FIELD: Code = Code {
        name: "unknown-field",
        meaning: "A field does not exist at this place",
    };
    /// A field that must be there and is not.
    pub const MISSING_FIELD: Code = Code {
        name: "missing-field",
        meaning: "A field that is required is missing",
    };
    /// A text where a number is expected, and the like.
    pub const WRONG_TYPE: Code = Code {
        name: "wrong-type",
        meaning: "A value is of another type than the field expects",
    };
    /// A word that is not in a closed list.
    pub const UNKNOWN_VALUE: Code = Code {
        name: "unknown-value",
        meaning: "A word is not one of those that the field knows",
    };
    /// A value out of its bounds.
    pub const BAD_VALUE: Code = Code {
        name: "bad-value",
        meaning: "A value breaks a rule of its field: a range, a length or a form",
    };

    /// All of them, for the reference.
    pub const ALL: &[Code] = &[
        UNKNOWN_FIELD,
        MISSING_FIELD,
        WRONG_TYPE,
        UNKNOWN_VALUE,
        BAD_VALUE,
    ];
}

/// Checks values whose schema names a `format`, such as `duration` or `expression`.
pub trait Formats {
    /// Called once for each value of the right type whose schema has a format; adds what is wrong with it.
    fn check(&self, format: &str, node: &Node, file: &Arc<File>, findings: &mut Findings);
}

/// Knows no format.
struct NoFormats;

impl Formats for NoFormats {
    fn check(&self, _: &str, _: &Node, _: &Arc<File>, _: &mut Findings) {}
}

/// Checks a tree against a schema as schemars makes it; formats are not looked at.
pub fn check(schema: &Value, node: &Node, file: &Arc<File>, findings: &mut Findings) {
    check_with(schema, node, file, &NoFormats, findings);
}

/// Checks a tree against a schema as schemars makes it, and its formats with `formats`.
pub fn check_with(
    schema: &Value,
    node: &Node,
    file: &Arc<File>,
    formats: &dyn Formats,
    findings: &mut Findings,
) {
    let shape = Shape {
        root: schema,
        file,
        formats,
    };
    let first = node.entries().first().map(|(key, _)| key.span);
    let at = first.unwrap_or(Span::new(node.span.start, node.span.start));
    shape.check(schema, node, at, findings);
}

#[derive(Clone, Copy)]
struct Shape<'a> {
    root: &'a Value,
    file: &'a Arc<File>,
    formats: &'a dyn Formats,
}

impl<'a> Shape<'a> {
    /// Checks one value. `owner` is the place to name where the value has none of its own: its key.
    fn check(&self, schema: &'a Value, node: &Node, owner: Span, findings: &mut Findings) {
        let schema = match schema {
            Value::Object(schema) => schema,
            Value::Bool(false) => {
                let message = "nothing may stand here".to_owned();
                return self.error(
                    codes::BAD_VALUE,
                    node.span,
                    message,
                    String::new(),
                    findings,
                );
            }
            _ => return,
        };
        if let Some(named) = self.named(schema) {
            self.check(named, node, owner, findings);
        }
        if !self.of_type(schema, node, owner, findings) {
            return;
        }
        self.value(schema, node, findings);
        match &node.data {
            Data::Map(entries) => self.mapping(schema, entries, owner, findings),
            Data::List(items) => self.list(schema, node, items, findings),
            Data::Text(_) | Data::Number(_) => self.scalar(schema, node, findings),
            Data::Null | Data::Bool(_) => {}
        }
        for all in branches(schema, "allOf") {
            self.check(all, node, owner, findings);
        }
        for word in ["oneOf", "anyOf"] {
            let branches = branches(schema, word);
            if !branches.is_empty() {
                self.choose(schema, branches, node, owner, findings);
            }
        }
        if let Some(format) = schema.get("format").and_then(Value::as_str) {
            self.formats.check(format, node, self.file, findings);
        }
    }

    /// The schema that `$ref` names.
    fn named(&self, schema: &Map<String, Value>) -> Option<&'a Value> {
        let pointer = schema.get("$ref")?.as_str()?.strip_prefix('#')?;
        self.root.pointer(pointer)
    }

    /// The schema itself, or the one that it refers to.
    fn resolved(&self, schema: &'a Value) -> &'a Value {
        let mut schema = schema;
        for _ in 0..16 {
            match schema.as_object().and_then(|object| self.named(object)) {
                Some(named) => schema = named,
                None => break,
            }
        }
        schema
    }

    fn of_type(
        &self,
        schema: &Map<String, Value>,
        node: &Node,
        owner: Span,
        findings: &mut Findings,
    ) -> bool {
        let Some(types) = schema.get("type") else {
            return true;
        };
        let types: Vec<&str> = match types {
            Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        if types.iter().any(|name| scalar::is(node, name)) {
            return true;
        }
        self.wrong_type(schema, &types, node, owner, findings);
        false
    }

    fn wrong_type(
        &self,
        schema: &Map<String, Value>,
        types: &[&str],
        node: &Node,
        owner: Span,
        findings: &mut Findings,
    ) {
        let expected: Vec<&str> = types
            .iter()
            .filter(|name| **name != "null" || types.len() == 1)
            .map(|name| scalar::type_in_words(name))
            .collect();
        let message = format!(
            "expected {}, found {}",
            expected.join(" or "),
            scalar::in_words(node)
        );
        let nothing_needed = matches!(node.data, Data::Null)
            && types.contains(&"object")
            && !schema.contains_key("required");
        let help = if nothing_needed {
            "write `{}` to take it without settings".to_owned()
        } else if let Some(help) = scalar::unit_help(schema, node) {
            help
        } else {
            scalar::type_help(types, node).unwrap_or_else(|| description(schema))
        };
        let span = self.place_of(node, owner);
        self.error(codes::WRONG_TYPE, span, message, help, findings);
    }

    /// The place of a value; of nothing, the key that it belongs to.
    fn place_of(&self, node: &Node, owner: Span) -> Span {
        match node.data {
            Data::Null if node.span.start == node.span.end => owner,
            // A long value is named by its first line.
            Data::Map(_) | Data::List(_) => {
                let text = &self.file.text[node.span.start..node.span.end];
                let line = text.lines().next().map_or(0, str::len);
                Span::new(node.span.start, node.span.start + line)
            }
            _ => node.span,
        }
    }

    fn mapping(
        &self,
        schema: &'a Map<String, Value>,
        entries: &[(Key, Node)],
        owner: Span,
        findings: &mut Findings,
    ) {
        let empty = Map::new();
        let fields = schema
            .get("properties")
            .and_then(Value::as_object)
            .map(|fields| fields as &'a Map<String, Value>);
        let others = schema.get("additionalProperties");
        let mut names: Vec<&str> = fields.map_or(Vec::new(), |fields| {
            fields.keys().map(String::as_str).collect()
        });
        let closed = others == Some(&Value::Bool(false))
            || schema.get("unevaluatedProperties") == Some(&Value::Bool(false));
        if closed && others.is_none() {
            self.names_of_branches(schema, &mut names);
        }
        let mut meant: Vec<&str> = Vec::new();
        for (key, node) in entries {
            if let Some(field) = fields.and_then(|fields| fields.get(&key.text)) {
                if self.is_blank(field, node) {
                    self.blank(key, findings);
                } else {
                    self.check(field, node, key.span, findings);
                }
            } else if closed && !names.contains(&key.text.as_str()) {
                let free = names
                    .iter()
                    .copied()
                    .filter(|name| entries.iter().all(|(key, _)| key.text != *name));
                let near = closest(&key.text, free);
                meant.extend(near);
                self.unknown_field(key, &names, near, findings);
            } else if let Some(others) = others {
                self.check(others, node, key.span, findings);
            }
        }
        let required = schema.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            let given = entries.iter().any(|(key, _)| key.text == name);
            if !given && !meant.contains(&name) {
                let field = fields.unwrap_or(&empty).get(name);
                self.missing_field(name, field, owner, findings);
            }
        }
        self.count(
            schema,
            entries.len(),
            owner,
            ("minProperties", "maxProperties"),
            "entries",
            findings,
        );
    }

    /// Whether nothing stands behind the key of a field that may be left out: the value was forgotten. A written `null` is no slip.
    fn is_blank(&self, field: &'a Value, node: &Node) -> bool {
        let blank = matches!(node.data, Data::Null) && node.span.start == node.span.end;
        let Some(field) = self.resolved(field).as_object().filter(|_| blank) else {
            return false;
        };
        let takes_null = |schema: &Value| match schema.get("type") {
            Some(Value::Array(types)) => types.iter().any(|name| name == "null"),
            one => one.and_then(Value::as_str) == Some("null"),
        };
        takes_null(&Value::Object(field.clone()))
            || ["anyOf", "oneOf"]
                .iter()
                .any(|word| branches(field, word).iter().any(takes_null))
    }

    fn blank(&self, key: &Key, findings: &mut Findings) {
        let message = format!("nothing stands behind `{}`", cut(&key.text));
        let help = "give it a value, or remove the key".to_owned();
        self.error(codes::WRONG_TYPE, key.span, message, help, findings);
    }

    /// Adds the fields that `oneOf`, `anyOf` and `allOf` know, for `unevaluatedProperties`.
    fn names_of_branches(&self, schema: &'a Map<String, Value>, names: &mut Vec<&'a str>) {
        for word in ["oneOf", "anyOf", "allOf"] {
            for branch in branches(schema, word) {
                let Some(branch) = self.resolved(branch).as_object() else {
                    continue;
                };
                let fields = branch.get("properties").and_then(Value::as_object);
                names.extend(fields.into_iter().flat_map(Map::keys).map(String::as_str));
                self.names_of_branches(branch, names);
            }
        }
    }

    fn unknown_field(
        &self,
        key: &Key,
        names: &[&str],
        near: Option<&str>,
        findings: &mut Findings,
    ) {
        let help = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => "no field may stand here".to_owned(),
            None => format!("the fields here are: {}", listed(names)),
        };
        let message = format!("unknown field `{}`", cut(&key.text));
        self.error(codes::UNKNOWN_FIELD, key.span, message, help, findings);
    }

    fn missing_field(
        &self,
        name: &str,
        field: Option<&'a Value>,
        owner: Span,
        findings: &mut Findings,
    ) {
        let words = field
            .and_then(|field| {
                [field, self.resolved(field)]
                    .into_iter()
                    .filter_map(Value::as_object)
                    .map(description)
                    .find(|words| !words.is_empty())
            })
            .unwrap_or_default();
        let help = if words.is_empty() {
            format!("add `{name}`")
        } else {
            format!("add `{name}`: {words}")
        };
        let message = format!("the field `{name}` is missing");
        self.error(codes::MISSING_FIELD, owner, message, help, findings);
    }

    fn list(
        &self,
        schema: &'a Map<String, Value>,
        node: &Node,
        items: &[Node],
        findings: &mut Findings,
    ) {
        let first = branches(schema, "prefixItems");
        for (at, item) in items.iter().enumerate() {
            if let Some(each) = first.get(at).or_else(|| schema.get("items")) {
                self.check(each, item, item.span, findings);
            }
        }
        let span = self.place_of(node, node.span);
        self.count(
            schema,
            items.len(),
            span,
            ("minItems", "maxItems"),
            "items",
            findings,
        );
        if schema.get("uniqueItems") == Some(&Value::Bool(true)) {
            self.no_twins(items, findings);
        }
    }

    fn no_twins(&self, items: &[Node], findings: &mut Findings) {
        let values: Vec<Value> = items.iter().map(Node::to_json).collect();
        for (at, item) in items.iter().enumerate() {
            if values[..at].contains(&values[at]) {
                let message = format!("{} stands twice in this list", scalar::in_words(item));
                let help = "remove one of the two".to_owned();
                self.error(codes::BAD_VALUE, item.span, message, help, findings);
            }
        }
    }

    fn count(
        &self,
        schema: &Map<String, Value>,
        count: usize,
        span: Span,
        (least, most): (&str, &str),
        noun: &str,
        findings: &mut Findings,
    ) {
        let limit = |word: &str| schema.get(word).and_then(Value::as_u64);
        let count = count as u64;
        let message = match (limit(least), limit(most)) {
            (Some(least), _) if count < least => {
                format!("expected at least {least} {noun}, found {count}")
            }
            (_, Some(most)) if count > most => {
                format!("expected at most {most} {noun}, found {count}")
            }
            _ => return,
        };
        self.error(
            codes::BAD_VALUE,
            span,
            message,
            description(schema),
            findings,
        );
    }

    fn error(
        &self,
        code: Code,
        span: Span,
        message: String,
        help: String,
        findings: &mut Findings,
    ) {
        let place = Place {
            file: self.file.clone(),
            span,
        };
        findings.push(Diagnostic::error(code, place, message).help(help));
    }
}

fn branches<'a>(schema: &'a Map<String, Value>, word: &str) -> &'a [Value] {
    schema
        .get(word)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The first sentence of a schema's description, on one line, without a full stop.
fn description(schema: &Map<String, Value>) -> String {
    let words = schema
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let paragraph = words.split("\n\n").next().unwrap_or_default();
    let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let sentence = line.split(". ").next().unwrap_or_default();
    sentence.trim_end_matches('.').to_owned()
}

/// Names for a message: all, or the first ones and how many more.
fn listed(names: &[&str]) -> String {
    const SHOWN_MAX: usize = 30;
    let mut once: Vec<&str> = Vec::with_capacity(names.len());
    for name in names {
        if !once.contains(name) {
            once.push(name);
        }
    }
    let more = once.len().saturating_sub(SHOWN_MAX);
    once.truncate(SHOWN_MAX);
    let tail = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{}{tail}", once.join(", "))
}

/// A text for a message: at most 40 characters.
fn cut(text: &str) -> String {
    const SHOWN_MAX: usize = 40;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= SHOWN_MAX && line.len() == text.len() {
        return line.to_owned();
    }
    format!("{}…", line.chars().take(SHOWN_MAX).collect::<String>())
}

#[cfg(test)]
mod tests;
