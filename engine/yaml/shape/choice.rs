//! `oneOf` and `anyOf` as schemars writes them: which branch was meant, and what is wrong within it.

use serde_json::{Map, Value};

use super::{Shape, codes, cut, listed, scalar};
use crate::diagnostic::{Findings, Span, closest};
use crate::yaml::{Data, Key, Node};

impl<'a> Shape<'a> {
    /// Finds the branch that the value means, by its type, its word or its key, and checks within it.
    pub(super) fn choose(
        &self,
        schema: &Map<String, Value>,
        branches: &'a [Value],
        node: &Node,
        owner: Span,
        findings: &mut Findings,
    ) {
        let branches = self.flat(branches);
        let branches = branches.as_slice();
        let fitting: Vec<&'a Value> = branches
            .iter()
            .copied()
            .filter(|branch| self.takes(branch, node))
            .collect();
        match (&node.data, fitting.as_slice()) {
            (Data::Map(entries), _) if self.is_tagged(&fitting) => {
                self.tagged(branches, &fitting, entries, node, owner, findings);
            }
            (_, []) => self.none_fits(schema, branches, node, owner, findings),
            (_, [only]) if words_of(self.resolved(only)).is_empty() => {
                self.check(only, node, owner, findings);
            }
            (_, several) => {
                if self.in_closed_list(several, node) {
                    return;
                }
                let free: Vec<&'a Value> = several
                    .iter()
                    .copied()
                    .filter(|branch| words_of(self.resolved(branch)).is_empty())
                    .collect();
                if free.is_empty() {
                    self.not_a_word(branches, node, findings);
                } else {
                    self.nearest(&free, node, owner, findings);
                }
            }
        }
    }

    /// The branches, with those that are nothing but a choice themselves replaced by theirs.
    fn flat(&self, branches: &'a [Value]) -> Vec<&'a Value> {
        let mut all = Vec::new();
        for branch in branches {
            let inner = self.resolved(branch).as_object().and_then(|schema| {
                let choice = ["oneOf", "anyOf"]
                    .into_iter()
                    .map(|word| super::branches(schema, word))
                    .find(|inner| !inner.is_empty())?;
                (!schema.contains_key("type")).then_some(choice)
            });
            match inner {
                Some(inner) => all.extend(self.flat(inner)),
                None => all.push(branch),
            }
        }
        all
    }

    /// Checks within the branch that has the fewest mistakes; the first of equals.
    fn nearest(&self, several: &[&'a Value], node: &Node, owner: Span, findings: &mut Findings) {
        let best = several
            .iter()
            .map(|branch| {
                let mut inside = Findings::new();
                self.check(branch, node, owner, &mut inside);
                inside
            })
            .min_by_key(Findings::len);
        if let Some(best) = best {
            findings.extend(best);
        }
    }

    /// Whether a branch takes values of this type at all.
    fn takes(&self, branch: &'a Value, node: &Node) -> bool {
        let Some(schema) = self.resolved(branch).as_object() else {
            return self.resolved(branch) != &Value::Bool(false);
        };
        if let Some(types) = schema.get("type") {
            return match types {
                Value::Array(types) => types
                    .iter()
                    .filter_map(Value::as_str)
                    .any(|name| scalar::is(node, name)),
                one => one.as_str().is_some_and(|name| {
                    scalar::is(node, name)
                        || (name == "integer" && matches!(node.data, Data::Number(_)))
                }),
            };
        }
        let words = words_of(self.resolved(branch));
        words.is_empty() || matches!(node.data, Data::Text(_))
    }

    fn in_closed_list(&self, branches: &[&'a Value], node: &Node) -> bool {
        let value = node.to_json();
        branches
            .iter()
            .any(|branch| words_of(self.resolved(branch)).contains(&&value))
    }

    /// Whether every branch is a mapping that is told from the others by a key of its own.
    fn is_tagged(&self, branches: &[&'a Value]) -> bool {
        let tags: Vec<&str> = branches
            .iter()
            .filter_map(|branch| self.tag(branch))
            .collect();
        let distinct = tags
            .iter()
            .enumerate()
            .all(|(at, tag)| !tags[..at].contains(tag));
        !tags.is_empty() && tags.len() == branches.len() && distinct
    }

    /// The one field of a branch that stands for a kind: `{ basic: .. }`.
    fn tag(&self, branch: &'a Value) -> Option<&'a str> {
        let schema = self.resolved(branch).as_object()?;
        let fields = schema.get("properties")?.as_object()?;
        let required = schema.get("required")?.as_array()?;
        let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
        match (required.as_slice(), fields.len(), closed) {
            ([tag], 1, true) => tag.as_str(),
            _ => None,
        }
    }

    fn tagged(
        &self,
        branches: &[&'a Value],
        fitting: &[&'a Value],
        entries: &[(Key, Node)],
        node: &Node,
        owner: Span,
        findings: &mut Findings,
    ) {
        let kinds: Vec<(&str, &'a Value)> = fitting
            .iter()
            .filter_map(|branch| self.tag(branch).map(|tag| (tag, *branch)))
            .collect();
        let names: Vec<&str> = kinds.iter().map(|(tag, _)| *tag).collect();
        let given: Vec<&(Key, Node)> = entries
            .iter()
            .filter(|(key, _)| names.contains(&key.text.as_str()))
            .collect();
        match given.as_slice() {
            [] => match entries {
                [] => {
                    let message = format!("expected one of: {}", listed(&self.kinds(branches)));
                    let help = "add one of them".to_owned();
                    let span = self.place_of(node, owner);
                    self.error(codes::MISSING_FIELD, span, message, help, findings);
                }
                _ => {
                    for (key, _) in entries {
                        self.unknown_kind(key, &names, findings);
                    }
                }
            },
            [(key, _)] => {
                for (kind, branch) in &kinds {
                    if *kind == key.text {
                        self.check(branch, node, owner, findings);
                    }
                }
            }
            [(first, _), others @ ..] => {
                for (other, _) in others {
                    let message =
                        format!("`{}` and `{}` exclude each other", first.text, other.text);
                    let help = format!("keep one of: {}", listed(&names));
                    self.error(codes::BAD_VALUE, other.span, message, help, findings);
                }
            }
        }
    }

    fn unknown_kind(&self, key: &Key, names: &[&str], findings: &mut Findings) {
        let near = closest(&key.text, names.iter().copied());
        let message = format!(
            "unknown field `{}`, expected one of: {}",
            cut(&key.text),
            listed(names)
        );
        let help = near.map_or_else(
            || "put the rest below one of them".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        self.error(codes::UNKNOWN_FIELD, key.span, message, help, findings);
    }

    fn none_fits(
        &self,
        schema: &Map<String, Value>,
        branches: &[&'a Value],
        node: &Node,
        owner: Span,
        findings: &mut Findings,
    ) {
        let kinds = self.kinds(branches);
        let mut types: Vec<&str> = Vec::new();
        for branch in branches {
            self.types(branch, &mut types);
        }
        if matches!(node.data, Data::Text(_)) && !kinds.is_empty() {
            return self.not_a_word(branches, node, findings);
        }
        if types.is_empty() {
            let message = format!("expected one of: {}", listed(&kinds));
            let span = self.place_of(node, owner);
            return self.error(codes::BAD_VALUE, span, message, String::new(), findings);
        }
        self.wrong_type(schema, &types, node, owner, findings);
    }

    /// The types that a branch takes.
    fn types(&self, branch: &'a Value, types: &mut Vec<&'a str>) {
        let Some(schema) = self.resolved(branch).as_object() else {
            return;
        };
        let named: Vec<&'a str> = match schema.get("type") {
            Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).collect(),
            Some(one) => one.as_str().into_iter().collect(),
            None if !words_of(self.resolved(branch)).is_empty() => vec!["string"],
            None => Vec::new(),
        };
        for name in named.into_iter().filter(|name| *name != "null") {
            if !types.contains(&name) {
                types.push(name);
            }
        }
    }

    /// A text that is no word of the list, where a word or a kind is expected.
    fn not_a_word(&self, branches: &[&'a Value], node: &Node, findings: &mut Findings) {
        let kinds = self.kinds(branches);
        let tag = branches
            .iter()
            .filter_map(|branch| self.tag(branch))
            .find(|tag| node.as_text() == Some(tag));
        if let Some(tag) = tag {
            let message = format!("`{tag}` needs fields of its own");
            let help = format!("write it as a mapping: {{ {tag}: .. }}");
            return self.error(codes::WRONG_TYPE, node.span, message, help, findings);
        }
        self.unknown_value(&kinds, node, node.span, findings);
    }

    /// The words and the keys by which the branches are told apart.
    fn kinds(&self, branches: &[&'a Value]) -> Vec<&'a str> {
        let mut kinds = Vec::new();
        for branch in branches {
            kinds.extend(self.tag(branch));
            let resolved = self.resolved(branch);
            kinds.extend(words_of(resolved).into_iter().filter_map(Value::as_str));
        }
        kinds
    }
}

/// The words of a closed list.
fn words_of(schema: &Value) -> Vec<&Value> {
    match (schema.get("enum"), schema.get("const")) {
        (Some(Value::Array(words)), _) => words.iter().collect(),
        (_, Some(word)) => vec![word],
        _ => Vec::new(),
    }
}
