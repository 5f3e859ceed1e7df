//! Mapping files -> mappings: every expression compiled, every mistake at its place in the file.

use std::sync::Arc;

use super::codes::MAPPING_SHAPE;
use super::target::Form;
use super::{Entry, Field, Leaf, Mapping, Outline, Shape, Uses};
use crate::body::write_string;
use crate::diagnostic::{Code, Diagnostic, File, Findings, Place, Span, closest};
use crate::expression::codes::{QUOTED_NAME, STRING_ORDERING, UNKNOWN_VARIABLE};
use crate::expression::number::is_json_number;
use crate::expression::{self, ColumnUse, Expression, Fault};
use crate::yaml::shape::codes::{BAD_VALUE, MISSING_FIELD, UNKNOWN_FIELD, WRONG_TYPE};
use crate::yaml::{Data, Key, Node};

const TOP: [&str; 6] = ["mapping", "description", "from", "to", "let", "fields"];
const ITEM: [&str; 3] = ["each", "fields", "value"];

pub(super) fn mapping(
    file: &Arc<File>,
    node: &Node,
    findings: &mut Findings,
) -> (Option<Mapping>, Outline) {
    let before = findings.errors();
    let mut compiler = Compiler {
        file,
        findings,
        uses: Uses::default(),
        lets: Vec::new(),
        later: Vec::new(),
    };
    let Data::Map(entries) = &node.data else {
        compiler.error(
            WRONG_TYPE,
            node.span,
            "a mapping file is a YAML mapping",
            "begin with mapping: NAME and fields:",
        );
        return (None, Outline::default());
    };
    compiler.known_keys(entries, &TOP, "a mapping file");
    let name = compiler.required_text(node, "mapping");
    let description = compiler.text(node, "description");
    let from = compiler.text(node, "from");
    let to = compiler.text(node, "to");
    let lets = compiler.lets(node);
    let body = match node.get("fields") {
        Some(fields) => compiler.fields(fields, ""),
        None if misspelt(entries, &TOP, "fields") => None,
        None => {
            compiler.error(
                MISSING_FIELD,
                Span::new(node.span.start, node.span.start),
                "a mapping needs `fields`",
                "under fields: stand the names of the target, each with an expression",
            );
            None
        }
    };
    let uses = compiler.uses;
    let outline = Outline {
        from: from.clone(),
        to: to.clone(),
        tables: uses.tables.clone(),
    };
    if findings.errors() > before {
        return (None, outline);
    }
    let mapping = name.zip(body).map(|((name, _), body)| Mapping {
        file: file.clone(),
        name,
        description: description.map(|(text, _)| text).unwrap_or_default(),
        from,
        to,
        lets,
        body,
        uses,
    });
    (mapping, outline)
}

pub(super) fn single(name: &str, file: &Arc<File>, findings: &mut Findings) -> Option<Mapping> {
    let before = findings.errors();
    let text = file.text.trim_end();
    let mut compiler = Compiler {
        file,
        findings,
        uses: Uses::default(),
        lets: Vec::new(),
        later: Vec::new(),
    };
    let expression = compiler.expression(text, &|start, end| Span::new(start, end));
    let uses = compiler.uses;
    if findings.errors() > before {
        return None;
    }
    Some(Mapping {
        file: file.clone(),
        name: name.to_owned(),
        description: String::new(),
        from: None,
        to: None,
        lets: Vec::new(),
        body: Shape::Expression(Leaf {
            expression: expression?,
            path: String::new(),
            form: Form::AsIs,
            at: None,
        }),
        uses,
    })
}

struct Compiler<'f> {
    file: &'f Arc<File>,
    findings: &'f mut Findings,
    uses: Uses,
    /// The names that `let` has bound so far.
    lets: Vec<String>,
    /// The names that `let` binds further down.
    later: Vec<String>,
}

impl Compiler<'_> {
    fn lets(&mut self, node: &Node) -> Vec<(String, Leaf)> {
        let Some(lets) = node.get("let") else {
            return Vec::new();
        };
        let Data::Map(entries) = &lets.data else {
            self.error(
                WRONG_TYPE,
                lets.span,
                "`let` is a mapping of names to expressions",
                "as in let: { total: sum(lines[].amount) }",
            );
            return Vec::new();
        };
        self.later = entries.iter().map(|(key, _)| key.text.clone()).collect();
        let mut all = Vec::new();
        for (key, value) in entries {
            if !is_name(&key.text) {
                let message = format!("`{}` cannot be the name of a variable", key.text);
                self.error(
                    MAPPING_SHAPE,
                    key.span,
                    message,
                    "letters, digits and _, not a digit first; it is used as $name",
                );
            }
            let leaf = self.leaf(value, &format!("${}", key.text));
            self.later.retain(|name| *name != key.text);
            self.lets.push(key.text.clone());
            if let Some(leaf) = leaf {
                all.push((key.text.clone(), leaf));
            }
        }
        all
    }

    /// An object of the target: names and what stands there.
    fn fields(&mut self, node: &Node, path: &str) -> Option<Shape> {
        let Data::Map(entries) = &node.data else {
            self.error(
                WRONG_TYPE,
                node.span,
                "`fields` is a mapping of target names",
                "each name stands before its expression: order_number: name",
            );
            return None;
        };
        let mut fields = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let path = if path.is_empty() {
                key.text.clone()
            } else {
                format!("{path}.{}", key.text)
            };
            if matches!(value.data, Data::Null) {
                self.nothing(key.span);
                continue;
            }
            let shape = self.shape(value, &path);
            let mut prefix = Vec::with_capacity(key.text.len() + 3);
            write_string(&mut prefix, &key.text);
            prefix.push(b':');
            if let Some(shape) = shape {
                fields.push(Field {
                    name: key.text.clone(),
                    prefix,
                    shape,
                });
            }
        }
        Some(Shape::Object(fields))
    }

    fn shape(&mut self, node: &Node, path: &str) -> Option<Shape> {
        match &node.data {
            Data::Text(_) => self.leaf(node, path).map(Shape::Expression),
            Data::Number(text) => self.number(node, text),
            Data::Bool(value) => Some(Shape::Literal(value.to_string().into_bytes(), Form::AsIs)),
            Data::Map(_) => self.fields(node, path),
            Data::List(items) => {
                let path = format!("{path}[]");
                let entries: Vec<_> = items
                    .iter()
                    .filter_map(|item| self.entry(item, &path))
                    .collect();
                Some(Shape::List(entries))
            }
            Data::Null => {
                self.nothing(node.span);
                None
            }
        }
    }

    fn nothing(&mut self, span: Span) {
        self.error(
            MAPPING_SHAPE,
            span,
            "an expression is missing here",
            "leave the field out, or write null into it with keep_null(`null`)",
        );
    }

    fn number(&mut self, node: &Node, text: &str) -> Option<Shape> {
        let plain = text.strip_prefix('+').unwrap_or(text);
        if is_json_number(plain) {
            return Some(Shape::Literal(plain.as_bytes().to_vec(), Form::AsIs));
        }
        let message = format!("the number `{text}` has no form in JSON");
        self.error(
            BAD_VALUE,
            node.span,
            message,
            "write it with decimal digits, as 0.5 or 16",
        );
        None
    }

    /// An item of a list.
    fn entry(&mut self, node: &Node, path: &str) -> Option<Entry> {
        let Data::Map(entries) = &node.data else {
            return self.shape(node, path).map(Entry::One);
        };
        let special = entries
            .iter()
            .any(|(key, _)| ITEM.contains(&key.text.as_str()));
        if !special {
            self.error(
                MAPPING_SHAPE,
                node.span,
                "an object in a list stands under `fields`",
                "write - fields: { .. }, or - each: LIST with fields: { .. } for one of each",
            );
            return None;
        }
        self.known_keys(entries, &ITEM, "an item of a list");
        let each = node.get("each").map(|each| self.leaf(each, path));
        let shape = match (node.entry("fields"), node.entry("value")) {
            (Some((_, fields)), None) => self.fields(fields, path),
            (None, Some((_, value))) => self.shape(value, path),
            (Some(_), Some((key, _))) => {
                self.error(
                    MAPPING_SHAPE,
                    key.span,
                    "an item has `fields` or `value`, not both",
                    "keep one of them",
                );
                None
            }
            (None, None)
                if misspelt(entries, &ITEM, "fields") || misspelt(entries, &ITEM, "value") =>
            {
                None
            }
            (None, None) => {
                self.error(
                    MISSING_FIELD,
                    node.span,
                    "`each` needs `fields` or `value`",
                    "fields: { .. } makes objects, value: EXPRESSION makes values",
                );
                None
            }
        };
        match each {
            Some(each) => Some(Entry::Each(each?, shape?)),
            None => Some(Entry::One(shape?)),
        }
    }

    fn leaf(&mut self, node: &Node, path: &str) -> Option<Leaf> {
        let file = Arc::clone(self.file);
        let text = match &node.data {
            Data::Text(text) => text.value.as_str(),
            Data::Number(_) | Data::Bool(_) => {
                self.error(
                    WRONG_TYPE,
                    node.span,
                    "an expression is expected here, not a literal",
                    "put it in quotes and backticks: \"`5`\"",
                );
                return None;
            }
            _ => {
                self.error(
                    WRONG_TYPE,
                    node.span,
                    "an expression is expected here",
                    "expressions are texts: line_items[].sku",
                );
                return None;
            }
        };
        let expression =
            self.expression(text, &|start, end| node.span_within(&file, start, end))?;
        Some(Leaf {
            expression,
            path: path.to_owned(),
            form: Form::AsIs,
            at: Some(node.clone()),
        })
    }

    /// Compiles an expression; `within` turns its bytes into the file's.
    fn expression(
        &mut self,
        text: &str,
        within: &dyn Fn(usize, usize) -> Span,
    ) -> Option<Expression> {
        let expression = match Expression::compile(text) {
            Ok(expression) => expression,
            Err(faults) => {
                for fault in faults {
                    let code = expression::codes::of(fault.kind);
                    self.fault(code, fault, within);
                }
                return None;
            }
        };
        for caution in expression.cautions() {
            self.fault(STRING_ORDERING, caution, within);
        }
        for quoted in expression.quoted_names() {
            let place = Place {
                file: Arc::clone(self.file),
                span: within(quoted.start, quoted.end),
            };
            let finding = Diagnostic::warning(QUOTED_NAME, place, quoted.message);
            self.findings.push(finding.help(quoted.help));
        }
        for (name, start, end) in expression.free_variables() {
            let span = within(start, end);
            if self.later.contains(&name) {
                let message = format!("${name} is bound further down");
                self.error(
                    UNKNOWN_VARIABLE,
                    span,
                    message,
                    "`let` works from top to bottom: move it up",
                );
            } else if !self.lets.contains(&name) {
                self.uses.variables.push((name, span));
            }
        }
        for mut used in expression.tables() {
            used.table_at = within(used.table_at.start, used.table_at.end);
            if let ColumnUse::Named(_, at) = &mut used.column {
                *at = within(at.start, at.end);
            }
            self.uses.tables.push(used);
        }
        let place = |(name, start, end)| (name, within(start, end));
        self.uses
            .keys
            .extend(expression.keys().into_iter().map(place));
        Some(expression)
    }

    fn required_text(&mut self, node: &Node, key: &str) -> Option<(String, Span)> {
        if node.get(key).is_none() && !misspelt(node.entries(), &TOP, key) {
            let start = Span::new(node.span.start, node.span.start);
            self.error(
                MISSING_FIELD,
                start,
                format!("a mapping needs `{key}`"),
                format!("add {key}: NAME at the top"),
            );
        }
        self.text(node, key)
    }

    fn text(&mut self, node: &Node, key: &str) -> Option<(String, Span)> {
        let value = node.get(key)?;
        match value.as_text() {
            Some(text) => Some((text.to_owned(), value.span)),
            None => {
                self.error(
                    WRONG_TYPE,
                    value.span,
                    format!("`{key}` is a text"),
                    "write one word or path",
                );
                None
            }
        }
    }

    fn known_keys(&mut self, entries: &[(Key, Node)], known: &[&str], whose: &str) {
        for (key, _) in entries {
            if known.contains(&key.text.as_str()) {
                continue;
            }
            let help = match closest(&key.text, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it has {}", known.join(", ")),
            };
            let message = format!("{whose} has no field `{}`", key.text);
            self.error(UNKNOWN_FIELD, key.span, message, help);
        }
    }

    fn fault(&mut self, code: Code, fault: Fault, within: &dyn Fn(usize, usize) -> Span) {
        let span = within(fault.start, fault.end);
        self.error(code, span, fault.message, fault.help);
    }

    fn error(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let place = Place {
            file: Arc::clone(self.file),
            span,
        };
        self.findings
            .push(Diagnostic::error(code, place, message).help(help));
    }
}

/// Whether an unknown key was meant to be this one: then it is not missing too.
fn misspelt(entries: &[(Key, Node)], known: &[&str], key: &str) -> bool {
    entries.iter().any(|(given, _)| {
        let given = given.text.as_str();
        !known.contains(&given) && closest(given, known.iter().copied()) == Some(key)
    })
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.as_bytes()[0].is_ascii_digit()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
