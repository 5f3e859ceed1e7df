//! Which fields of a body expressions read, and which fields a mapping sets. It takes more for read than is, never less; `$name` from
//! outside of a mapping is no field of the body.

use std::collections::BTreeMap;

use crate::diagnostic::Span;
use crate::expression::Expression;
use crate::expression::ast::{Call, Node as Ast, Over, Step, Tree};
use crate::yaml::{Data, Node};

/// A field by its path, such as `lines.sku` (lists leave no trace), and where it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Touched {
    /// The path; empty for the whole body.
    pub(crate) path: String,
    /// Where.
    pub(crate) span: Span,
}

/// What a mapping reads of the bodies that it takes, and what it sets in those that it makes.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    /// What it reads.
    pub(crate) read: Vec<Touched>,
    /// What it sets.
    pub(crate) set: Vec<Touched>,
}

/// The fields of a mapping's file.
pub(crate) fn mapping(node: &Node) -> Fields {
    let mut fields = Fields::default();
    let mut variables = BTreeMap::new();
    for (key, value) in node.get("let").map_or(&[][..], Node::entries) {
        let paths = expression(value, &root(), &variables, &mut fields.read);
        variables.insert(key.text.clone(), paths);
    }
    if let Some(tree) = node.get("fields") {
        object(tree, "", &root(), &variables, &mut fields);
    }
    fields
}

/// What an expression reads of the body.
pub(crate) fn of_expression(node: &Node) -> Vec<Touched> {
    let mut read = Vec::new();
    let paths = expression(node, &root(), &BTreeMap::new(), &mut read);
    note(paths, node.span, &mut read);
    read
}

/// What a compiled expression reads of the body: paths as `Touched` has them.
pub(crate) fn of_compiled(expression: &Expression) -> Vec<String> {
    let variables = BTreeMap::new();
    let mut reader = Reader {
        variables: &variables,
        locals: Vec::new(),
        found: Vec::new(),
    };
    let value = reader.value(expression.root(), &root());
    reader.found.extend(value);
    reader.found
}

/// Whether one of two paths leads to the other: `total` and `total.amount`.
pub(crate) fn meet(a: &str, b: &str) -> bool {
    let below = |a: &str, b: &str| {
        a.is_empty() || a == b || b.strip_prefix(a).is_some_and(|rest| rest.starts_with('.'))
    };
    below(a, b) || below(b, a)
}

/// A path without the traces of lists: `lines[].sku` is `lines.sku`.
pub(crate) fn plain(path: &str) -> String {
    path.replace("[]", "")
}

type Variables = BTreeMap<String, Vec<String>>;

fn root() -> Vec<String> {
    vec![String::new()]
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn object(node: &Node, path: &str, current: &[String], variables: &Variables, fields: &mut Fields) {
    for (key, value) in node.entries() {
        let path = join(path, &key.text);
        fields.set.push(Touched {
            path: path.clone(),
            span: key.span,
        });
        one(value, &path, current, variables, fields);
    }
}

fn one(node: &Node, path: &str, current: &[String], variables: &Variables, fields: &mut Fields) {
    match &node.data {
        Data::Map(_) => object(node, path, current, variables, fields),
        Data::List(items) => {
            for item in items {
                listed(item, path, current, variables, fields);
            }
        }
        Data::Text(_) => {
            let paths = expression(node, current, variables, &mut fields.read);
            note(paths, node.span, &mut fields.read);
        }
        _ => {}
    }
}

fn listed(item: &Node, path: &str, current: &[String], variables: &Variables, fields: &mut Fields) {
    let inside = match item.get("each") {
        Some(each) => expression(each, current, variables, &mut fields.read),
        None => current.to_vec(),
    };
    match (item.get("fields"), item.get("value")) {
        (Some(below), _) => object(below, path, &inside, variables, fields),
        (None, Some(value)) => one(value, path, &inside, variables, fields),
        _ => one(item, path, current, variables, fields),
    }
}

fn note(paths: Vec<String>, span: Span, read: &mut Vec<Touched>) {
    for path in paths {
        let touched = Touched { path, span };
        if !read.contains(&touched) {
            read.push(touched);
        }
    }
}

/// Notes what the expression reads on its way, and gives what its value may be.
fn expression(
    node: &Node,
    current: &[String],
    variables: &Variables,
    read: &mut Vec<Touched>,
) -> Vec<String> {
    let Some(Ok(expression)) = node.as_text().map(Expression::compile) else {
        return Vec::new();
    };
    let mut reader = Reader {
        variables,
        locals: Vec::new(),
        found: Vec::new(),
    };
    let value = reader.value(expression.root(), current);
    note(reader.found, node.span, read);
    value
}

struct Reader<'v> {
    variables: &'v Variables,
    locals: Vec<Vec<String>>,
    found: Vec<String>,
}

impl Reader<'_> {
    /// What is read for good: nothing leads on from it.
    fn ends(&mut self, node: &Ast, current: &[String]) {
        let paths = self.value(node, current);
        self.found.extend(paths);
    }

    fn value(&mut self, node: &Ast, current: &[String]) -> Vec<String> {
        match &node.tree {
            Tree::Current => current.to_vec(),
            Tree::Literal(_) | Tree::Text(_) => Vec::new(),
            Tree::Local(at) => self.locals.get(*at).cloned().unwrap_or_default(),
            Tree::Free(name) => self.variables.get(name).cloned().unwrap_or_default(),
            Tree::Path { of, steps } => {
                let mut paths = self.of(of.as_deref(), current);
                for step in steps {
                    if let Step::Field(name) = step {
                        paths = paths.iter().map(|path| join(path, name)).collect();
                    }
                }
                paths
            }
            Tree::Project { of, over, each } => {
                let items = self.of(of.as_deref(), current);
                if let Over::Filter(condition) = over {
                    self.ends(condition, &items);
                }
                match each {
                    Some(each) => self.value(each, &items),
                    None => items,
                }
            }
            Tree::Pipe(left, right) => {
                let left = self.value(left, current);
                self.value(right, &left)
            }
            Tree::Or(left, right) | Tree::And(left, right) => {
                let mut paths = self.value(left, current);
                paths.extend(self.value(right, current));
                paths
            }
            Tree::Not(inner) => {
                self.ends(inner, current);
                Vec::new()
            }
            Tree::Compare(_, left, right) => {
                self.ends(left, current);
                self.ends(right, current);
                Vec::new()
            }
            Tree::List(items) => self.each(items.iter(), current),
            Tree::Object(entries) => self.each(entries.iter().map(|(_, node)| node), current),
            Tree::Reference(inner) => {
                self.ends(inner, current);
                Vec::new()
            }
            Tree::Call(call) => self.call(call, current),
            Tree::Let(values, body) => {
                let before = self.locals.len();
                for value in values {
                    let paths = self.value(value, current);
                    self.locals.push(paths);
                }
                let paths = self.value(body, current);
                self.locals.truncate(before);
                paths
            }
        }
    }

    /// A function gives something of what it is given; what it applies to items is read below them.
    fn call(&mut self, call: &Call, current: &[String]) -> Vec<String> {
        let is_reference = |node: &&Ast| matches!(node.tree, Tree::Reference(_));
        let plain = call.arguments.iter().filter(|node| !is_reference(node));
        let mut paths = self.each(plain, current);
        for node in call.arguments.iter().filter(is_reference) {
            if let Tree::Reference(inner) = &node.tree {
                let more = self.value(inner, &paths.clone());
                self.found.extend(more.iter().cloned());
                paths.extend(more);
            }
        }
        paths
    }

    fn of(&mut self, of: Option<&Ast>, current: &[String]) -> Vec<String> {
        match of {
            Some(node) => self.value(node, current),
            None => current.to_vec(),
        }
    }

    fn each<'a>(
        &mut self,
        nodes: impl Iterator<Item = &'a Ast>,
        current: &[String],
    ) -> Vec<String> {
        let mut paths = Vec::new();
        for node in nodes {
            paths.extend(self.value(node, current));
        }
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::{File, Findings};

    fn fields(text: &str) -> (Vec<String>, Vec<String>) {
        let file = File::new("mappings/a.yaml", text);
        let mut findings = Findings::new();
        let node = crate::yaml::parse(&file, &mut findings).unwrap();
        assert!(findings.is_empty());
        let found = mapping(&node);
        let sorted = |list: Vec<Touched>| {
            let mut list: Vec<String> = list.into_iter().map(|touched| touched.path).collect();
            list.sort_unstable();
            list.dedup();
            list
        };
        (sorted(found.read), sorted(found.set))
    }

    #[test]
    fn a_mapping_reads_and_sets_fields_by_their_paths() {
        let (read, set) = fields(
            "mapping: a\nlet:\n  open: lines[?state == 'open']\nfields:\n  number: name || id\n  address: { city: to.city, note: \"'x'\" }\n  \
             lines:\n    - each: $open\n      fields:\n        sku: sku\n        last: sort_by(moves, &at)[-1].place\n  \
             count: length(lines)\n  all: map(&price.amount, lines) | sum(@)\n  first: let $f = lines[0] in $f.sku\n",
        );
        assert_eq!(
            read,
            [
                "id",
                "lines",
                "lines.moves.at",
                "lines.moves.at.place",
                "lines.moves.place",
                "lines.price.amount",
                "lines.sku",
                "lines.state",
                "name",
                "to.city",
            ]
        );
        assert_eq!(
            set,
            [
                "address",
                "address.city",
                "address.note",
                "all",
                "count",
                "first",
                "lines",
                "lines.last",
                "lines.sku",
                "number",
            ]
        );
        assert!(meet("lines", "lines.sku") && meet("", "a") && !meet("line", "lines.sku"));
    }
}
