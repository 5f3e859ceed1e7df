//! Schemas as they hang together: documents, places in them, what references lead to. It judges nothing.

use std::cell::RefCell;
use std::rc::Rc;

use jsonschema::{Draft, PatternOptions, Validator};
use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};

use crate::schema::Schemas;

/// How deep anchors are looked for.
const ANCHOR_DEPTH_MAX: usize = 64;

/// Which of the two states a schema is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The schema whose documents are asked about.
    Narrow,
    /// The schema that is to take them.
    Wide,
}

/// A place in a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) side: Side,
    /// The schema's name.
    pub(super) name: Rc<str>,
    /// The JSON pointer within it.
    pub(super) pointer: String,
}

/// A schema within a schema, with all that is needed to follow its references.
#[derive(Clone, Debug)]
pub(super) struct Node<'s> {
    pub(super) value: &'s Value,
    pub(super) site: Rc<Site>,
    base: Rc<str>,
    draft7: bool,
}

static NEVER: Value = Value::Bool(false);

impl<'s> Node<'s> {
    /// Which schema it is, for comparing places.
    pub(super) fn id(&self) -> usize {
        std::ptr::from_ref(self.value) as usize
    }

    /// The value of a word that counts here: in draft 7 nothing beside `$ref` does.
    pub(super) fn get(&self, word: &str) -> Option<&'s Value> {
        let object = self.value.as_object()?;
        if self.draft7 && word != "$ref" && object.contains_key("$ref") {
            return None;
        }
        object.get(word)
    }

    pub(super) fn is_draft7(&self) -> bool {
        self.draft7
    }

    /// The members of a word that holds an object; none if it does not.
    pub(super) fn members(&self, word: &str) -> impl Iterator<Item = (&'s String, &'s Value)> {
        self.get(word)
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(Map::iter)
    }

    /// The texts of a word that holds a list.
    pub(super) fn texts(&self, word: &str) -> impl Iterator<Item = &'s str> {
        self.get(word)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
    }

    /// The schema that a word holds.
    pub(super) fn child(&self, word: &str) -> Option<Node<'s>> {
        let value = self.get(word)?;
        matches!(value, Value::Bool(_) | Value::Object(_)).then(|| self.step(value, word))
    }

    /// The schemas of a word that holds several by name.
    pub(super) fn named(&self, word: &str) -> Vec<(&'s str, Node<'s>)> {
        let Some(object) = self.get(word).and_then(Value::as_object) else {
            return Vec::new();
        };
        let Some(holder) = self.get(word).map(|value| self.step(value, word)) else {
            return Vec::new();
        };
        object
            .iter()
            .filter(|(_, value)| matches!(value, Value::Bool(_) | Value::Object(_)))
            .map(|(name, value)| (name.as_str(), holder.step(value, name)))
            .collect()
    }

    /// The schema that a word holds under a name.
    pub(super) fn one(&self, word: &str, name: &str) -> Option<Node<'s>> {
        let holder = self.get(word)?;
        let value = holder.get(name)?;
        matches!(value, Value::Bool(_) | Value::Object(_))
            .then(|| self.step(holder, word).step(value, name))
    }

    /// The schemas of a word that holds a list.
    pub(super) fn listed(&self, word: &str) -> Vec<Node<'s>> {
        let Some(list) = self.get(word).and_then(Value::as_array) else {
            return Vec::new();
        };
        let pointer = format!("{}/{word}", self.site.pointer);
        list.iter()
            .enumerate()
            .map(|(at, value)| self.at(value, format!("{pointer}/{at}")))
            .collect()
    }

    /// The place of a word of this schema.
    pub(super) fn word(&self, word: &str) -> Rc<Site> {
        let mut site = (*self.site).clone();
        if self.get(word).is_some() {
            site.pointer.push('/');
            site.pointer.push_str(&escaped(word));
        }
        Rc::new(site)
    }

    /// Calls `f` with this schema and all that stand in it.
    pub(super) fn each(&self, f: &mut dyn FnMut(&Node<'s>)) {
        f(self);
        below(self, &mut |child| child.each(f));
    }

    /// The schema that nothing keeps to, at this place.
    pub(super) fn never(&self, word: &str) -> Node<'s> {
        Node {
            value: &NEVER,
            site: self.word(word),
            ..self.clone()
        }
    }

    fn step(&self, value: &'s Value, key: &str) -> Node<'s> {
        self.at(value, format!("{}/{}", self.site.pointer, escaped(key)))
    }

    fn at(&self, value: &'s Value, pointer: String) -> Node<'s> {
        let site = Site {
            pointer,
            ..(*self.site).clone()
        };
        let mut node = Node {
            value,
            site: Rc::new(site),
            ..self.clone()
        };
        if let Some(base) = own_base(&node.base, value) {
            node.base = base;
        }
        node
    }
}

/// The address that a schema gives to itself.
fn own_base(base: &str, value: &Value) -> Option<Rc<str>> {
    let id = value.get("$id")?.as_str()?;
    if id.starts_with('#') {
        return None;
    }
    Some(Rc::from(super::super::load::resolved(base, id)?))
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// All schemas of one state, by what references name.
struct Documents<'s> {
    by_address: FxHashMap<String, Node<'s>>,
}

/// The schemas of two states, and what is worked out about them once.
pub(super) struct Both<'s> {
    narrow: Documents<'s>,
    wide: Documents<'s>,
    patterns: RefCell<FxHashMap<String, Option<Rc<Validator>>>>,
}

impl<'s> Both<'s> {
    pub(super) fn new(narrow: &'s Schemas, wide: &'s Schemas) -> Both<'s> {
        Both {
            narrow: documents(narrow, Side::Narrow),
            wide: documents(wide, Side::Wide),
            patterns: RefCell::default(),
        }
    }

    /// One state only.
    pub(super) fn of_one(schemas: &'s Schemas) -> Both<'s> {
        Both {
            narrow: documents(schemas, Side::Narrow),
            wide: Documents {
                by_address: FxHashMap::default(),
            },
            patterns: RefCell::default(),
        }
    }

    fn side(&self, side: Side) -> &Documents<'s> {
        match side {
            Side::Narrow => &self.narrow,
            Side::Wide => &self.wide,
        }
    }

    /// The schema with this name.
    pub(super) fn root(&self, side: Side, name: &str) -> Option<Node<'s>> {
        let address = super::super::load::address(name);
        self.side(side).by_address.get(&address).cloned()
    }

    /// What a schema's `$ref` leads to; `None` where that is not certain.
    pub(super) fn follow(&self, node: &Node<'s>) -> Option<Node<'s>> {
        let reference = node.get("$ref")?.as_str()?;
        let full = super::super::load::resolved(&node.base, reference)?;
        let (at, fragment) = full.split_once('#').unwrap_or((&full, ""));
        let documents = self.side(node.site.side);
        let root = documents.by_address.get(at).or_else(|| {
            let name = super::super::load::name_in(at)?;
            documents
                .by_address
                .get(&super::super::load::address(&name))
        })?;
        let fragment = super::super::load::percent_decoded(fragment);
        if fragment.is_empty() {
            return Some(root.clone());
        }
        if !fragment.starts_with('/') {
            return anchored(root, &fragment, ANCHOR_DEPTH_MAX);
        }
        let mut at = root.clone();
        for part in fragment.split('/').skip(1) {
            let key = part.replace("~1", "/").replace("~0", "~");
            let value = match at.value {
                Value::Object(members) => members.get(&key)?,
                Value::Array(items) => items.get(key.parse::<usize>().ok()?)?,
                _ => return None,
            };
            at = at.step(value, &key);
        }
        Some(at)
    }

    /// Whether a pattern matches a text; `None` if the pattern cannot be used.
    pub(super) fn matches(&self, pattern: &str, text: &str) -> Option<bool> {
        let mut patterns = self.patterns.borrow_mut();
        let validator = patterns.entry(pattern.to_owned()).or_insert_with(|| {
            let options = PatternOptions::fancy_regex().backtrack_limit(100_000);
            jsonschema::options()
                .with_draft(Draft::Draft202012)
                .with_pattern_options(options)
                .build(&json!({ "pattern": pattern }))
                .ok()
                .map(Rc::new)
        });
        let validator = validator.as_ref()?;
        Some(validator.is_valid(&Value::String(text.to_owned())))
    }
}

fn documents(schemas: &Schemas, side: Side) -> Documents<'_> {
    let mut by_address = FxHashMap::default();
    for name in schemas.names() {
        let Some(value) = schemas.raw(name) else {
            continue;
        };
        let address = super::super::load::address(name);
        let draft = value.get("$schema").and_then(Value::as_str);
        let node = Node {
            value,
            site: Rc::new(Site {
                side,
                name: Rc::from(name),
                pointer: String::new(),
            }),
            base: own_base(&address, value).unwrap_or_else(|| Rc::from(address.as_str())),
            draft7: draft.is_some_and(|draft| draft.contains("draft-07")),
        };
        identified(&node, &mut by_address, ANCHOR_DEPTH_MAX);
        by_address.insert(address, node);
    }
    Documents { by_address }
}

/// Notes all schemas below one that have an `$id`.
fn identified<'s>(node: &Node<'s>, found: &mut FxHashMap<String, Node<'s>>, depth: usize) {
    if depth == 0 {
        return;
    }
    if node.value.get("$id").is_some() {
        let at = node.base.split('#').next().unwrap_or_default();
        found.entry(at.to_owned()).or_insert_with(|| node.clone());
    }
    below(node, &mut |child| identified(&child, found, depth - 1));
}

fn anchored<'s>(node: &Node<'s>, name: &str, depth: usize) -> Option<Node<'s>> {
    let named = |word: &str| node.value.get(word).and_then(Value::as_str);
    if named("$anchor") == Some(name)
        || named("$id").and_then(|id| id.strip_prefix('#')) == Some(name)
    {
        return Some(node.clone());
    }
    let mut found = None;
    if depth > 0 {
        below(node, &mut |child| {
            if found.is_none() {
                found = anchored(&child, name, depth - 1);
            }
        });
    }
    found
}

/// Everything directly below that may hold schemas.
fn below<'s>(node: &Node<'s>, f: &mut dyn FnMut(Node<'s>)) {
    match node.value {
        Value::Object(members) => {
            for (key, value) in members {
                if !matches!(key.as_str(), "const" | "enum" | "default" | "examples") {
                    f(node.step(value, key));
                }
            }
        }
        Value::Array(items) => {
            for (at, value) in items.iter().enumerate() {
                f(node.step(value, &at.to_string()));
            }
        }
        _ => {}
    }
}
