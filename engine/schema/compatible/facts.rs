//! What is certain about the documents of a schema at one place. It knows less than is true, never more.

use serde_json::Value;

use super::node::{Both, Node};
use crate::expression::number::{Decimal, compare_text};

/// How many schemas may hold at one place; what is behind is not looked at.
const PARTS_MAX: usize = 64;

/// A set of JSON types; a number is an integer or a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Types(pub(super) u8);

impl Types {
    pub(super) const ARRAY: Types = Types(1);
    pub(super) const BOOLEAN: Types = Types(2);
    pub(super) const INTEGER: Types = Types(4);
    pub(super) const FRACTION: Types = Types(8);
    pub(super) const NULL: Types = Types(16);
    pub(super) const OBJECT: Types = Types(32);
    pub(super) const STRING: Types = Types(64);
    pub(super) const NUMBER: Types = Types(12);
    pub(super) const ALL: Types = Types(127);
    pub(super) const EACH: [Types; 7] = [
        Types::OBJECT,
        Types::ARRAY,
        Types::STRING,
        Types::INTEGER,
        Types::FRACTION,
        Types::BOOLEAN,
        Types::NULL,
    ];

    pub(super) fn has(self, other: Types) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn and(self, other: Types) -> Types {
        Types(self.0 & other.0)
    }

    pub(super) fn or(self, other: Types) -> Types {
        Types(self.0 | other.0)
    }

    pub(super) fn without(self, other: Types) -> Types {
        Types(self.0 & !other.0)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn named(name: &str) -> Types {
        match name {
            "array" => Types::ARRAY,
            "boolean" => Types::BOOLEAN,
            "integer" => Types::INTEGER,
            "null" => Types::NULL,
            "number" => Types::NUMBER,
            "object" => Types::OBJECT,
            "string" => Types::STRING,
            _ => Types(0),
        }
    }

    /// What the word `type` says.
    pub(super) fn of_word(word: &Value) -> Types {
        match word {
            Value::String(one) => Types::named(one),
            Value::Array(several) => several
                .iter()
                .filter_map(Value::as_str)
                .fold(Types(0), |all, one| all.or(Types::named(one))),
            _ => Types::ALL,
        }
    }

    /// The type of a value.
    pub(super) fn of_value(value: &Value) -> Types {
        match value {
            Value::Null => Types::NULL,
            Value::Bool(_) => Types::BOOLEAN,
            Value::Number(number) => {
                let text = number.to_string();
                let whole = number.is_i64()
                    || number.is_u64()
                    || Decimal::parse(&text).is_some_and(|number| number.normal().scale() == 0);
                // What is too large for a decimal has no digits behind its point.
                let huge = Decimal::parse(&text).is_none() && !text.contains("e-");
                if whole || huge {
                    Types::INTEGER
                } else {
                    Types::FRACTION
                }
            }
            Value::String(_) => Types::STRING,
            Value::Array(_) => Types::ARRAY,
            Value::Object(_) => Types::OBJECT,
        }
    }

    /// The names, as a schema writes them.
    pub(super) fn names(self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for (types, name) in [
            (Types::OBJECT, "object"),
            (Types::ARRAY, "array"),
            (Types::STRING, "string"),
            (Types::BOOLEAN, "boolean"),
            (Types::NULL, "null"),
        ] {
            if self.has(types) {
                names.push(name);
            }
        }
        match (self.has(Types::INTEGER), self.has(Types::FRACTION)) {
            (true, true) => names.push("number"),
            (true, false) => names.push("integer"),
            (false, true) => names.push("number with a fraction"),
            (false, false) => {}
        }
        names
    }
}

/// Whether two values are the same to JSON Schema: numbers by their value.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            compare_text(&a.to_string(), &b.to_string()).is_eq()
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

/// A limit of numbers: its text, and whether the limit itself is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) number: String,
    pub(super) included: bool,
}

/// What is certain about the documents at one place.
#[derive(Clone)]
pub(super) struct Facts<'s> {
    /// Schemas that all hold; none of them is a reference or an `allOf` only.
    pub(super) parts: Vec<Node<'s>>,
    pub(super) types: Types,
    /// All values that there can be, if they are few.
    pub(super) values: Option<Vec<&'s Value>>,
    /// Nothing can stand here.
    never: bool,
    /// Schemas whose alternatives were told apart already.
    split: Vec<usize>,
}

impl<'s> Facts<'s> {
    /// What follows from all of these schemas.
    pub(super) fn of(both: &Both<'s>, nodes: Vec<Node<'s>>) -> Facts<'s> {
        let mut facts = Facts {
            parts: Vec::new(),
            types: Types::ALL,
            values: None,
            never: false,
            split: Vec::new(),
        };
        for node in nodes {
            facts.add(both, node);
        }
        facts
    }

    /// The same facts, and this schema holds too.
    pub(super) fn with(&self, both: &Both<'s>, node: Node<'s>) -> Facts<'s> {
        let mut facts = self.clone();
        facts.add(both, node);
        facts
    }

    /// The same facts, of documents of these types only.
    pub(super) fn only(&self, types: Types) -> Facts<'s> {
        let mut facts = self.clone();
        facts.narrow(types);
        facts
    }

    /// The same facts, of documents that are this value.
    pub(super) fn single(&self, value: &'s Value) -> Facts<'s> {
        let mut facts = self.only(Types::of_value(value));
        facts.values = Some(vec![value]);
        facts
    }

    fn narrow(&mut self, types: Types) {
        self.types = self.types.and(types);
        if let Some(values) = &mut self.values {
            values.retain(|value| types.has(Types::of_value(value)));
        }
    }

    fn add(&mut self, both: &Both<'s>, node: Node<'s>) {
        let mut open = vec![node];
        while let Some(node) = open.pop() {
            if let Value::Bool(allowed) = node.value {
                self.never |= !allowed;
                continue;
            }
            if self.parts.len() >= PARTS_MAX || self.parts.iter().any(|part| part.id() == node.id())
            {
                continue;
            }
            open.extend(both.follow(&node));
            open.extend(node.listed("allOf"));
            if let Some(word) = node.get("type") {
                self.narrow(Types::of_word(word));
            }
            let one = node.get("const").into_iter();
            let several = node.get("enum").and_then(Value::as_array);
            if node.get("const").is_some() {
                self.keep_values(one.collect());
            }
            if let Some(several) = several {
                self.keep_values(several.iter().collect());
            }
            self.parts.push(node);
        }
    }

    fn keep_values(&mut self, allowed: Vec<&'s Value>) {
        let kept = match self.values.take() {
            None => allowed,
            Some(values) => values
                .into_iter()
                .filter(|value| allowed.iter().any(|one| equal(one, value)))
                .collect(),
        };
        let types = kept
            .iter()
            .fold(Types(0), |all, value| all.or(Types::of_value(value)));
        self.values = Some(kept);
        let before = self.types;
        self.narrow(types.and(before));
    }

    /// Whether nothing can stand here.
    pub(super) fn is_never(&self) -> bool {
        self.never || self.types.is_empty() || self.values.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether nothing is said at all.
    pub(super) fn is_free(&self) -> bool {
        self.parts.is_empty() && !self.never && self.types == Types::ALL
    }

    /// What identifies these facts.
    pub(super) fn key(&self) -> (Vec<usize>, u8) {
        let mut ids: Vec<usize> = self.parts.iter().map(Node::id).collect();
        ids.sort_unstable();
        (ids, self.types.0)
    }

    /// The facts of each alternative of the first `anyOf` or `oneOf` that was not told apart yet.
    pub(super) fn cases(&self, both: &Both<'s>) -> Option<Vec<Facts<'s>>> {
        let (id, branches) = self.parts.iter().find_map(|part| {
            ["anyOf", "oneOf"].iter().find_map(|word| {
                let list = part.get(word)?;
                let id = std::ptr::from_ref(list) as usize;
                (!self.split.contains(&id)).then(|| (id, part.listed(word)))
            })
        })?;
        let cases = branches.into_iter().map(|branch| {
            let mut facts = self.with(both, branch);
            facts.split.push(id);
            facts
        });
        Some(cases.collect())
    }

    /// The greatest or least number of a word over all parts.
    fn counts(&self, word: &str) -> impl Iterator<Item = u64> {
        let counts = self.parts.iter();
        counts.filter_map(move |part| whole_number(part.get(word)?))
    }

    /// The strictest of a word that says "at least".
    pub(super) fn least(&self, word: &str) -> Option<u64> {
        self.counts(word).max()
    }

    /// The strictest of a word that says "at most".
    pub(super) fn most(&self, word: &str) -> Option<u64> {
        self.counts(word).min()
    }

    /// The strictest lower limit of numbers.
    pub(super) fn low(&self) -> Option<Limit> {
        self.limit("minimum", "exclusiveMinimum", std::cmp::Ordering::Greater)
    }

    /// The strictest upper limit of numbers.
    pub(super) fn high(&self) -> Option<Limit> {
        self.limit("maximum", "exclusiveMaximum", std::cmp::Ordering::Less)
    }

    fn limit(
        &self,
        including: &str,
        excluding: &str,
        stricter: std::cmp::Ordering,
    ) -> Option<Limit> {
        let mut strictest: Option<Limit> = None;
        for (word, included) in [(including, true), (excluding, false)] {
            for part in &self.parts {
                let Some(Value::Number(number)) = part.get(word) else {
                    continue;
                };
                let limit = self.whole(
                    Limit {
                        number: number.to_string(),
                        included,
                    },
                    stricter,
                );
                let replaces = strictest.as_ref().is_none_or(|known| {
                    let order = compare_text(&limit.number, &known.number);
                    order == stricter || (order.is_eq() && !limit.included)
                });
                if replaces {
                    strictest = Some(limit);
                }
            }
        }
        strictest
    }

    /// Above 0 is from 1 on, where only integers can stand.
    fn whole(&self, limit: Limit, stricter: std::cmp::Ordering) -> Limit {
        if limit.included || self.types.has(Types::FRACTION) {
            return limit;
        }
        let by = if stricter.is_gt() { 1 } else { -1 };
        match limit
            .number
            .parse::<i64>()
            .ok()
            .and_then(|n| n.checked_add(by))
        {
            Some(number) => Limit {
                number: number.to_string(),
                included: true,
            },
            None => limit,
        }
    }

    /// Whether a part says exactly this.
    pub(super) fn says(&self, word: &str, value: &Value) -> bool {
        self.parts
            .iter()
            .any(|part| part.get(word).is_some_and(|known| equal(known, value)))
    }

    /// Whether the field must be there.
    pub(super) fn requires(&self, name: &str) -> bool {
        self.parts
            .iter()
            .any(|part| part.texts("required").any(|known| known == name))
    }

    /// How many fields must be there.
    pub(super) fn required_count(&self) -> usize {
        let mut names: Vec<&str> = self
            .parts
            .iter()
            .flat_map(|part| part.texts("required"))
            .collect();
        names.sort_unstable();
        names.dedup();
        names.len()
    }

    /// The names of all fields that are described, each with the place that describes it first.
    pub(super) fn fields(&self) -> Vec<(&'s str, Node<'s>)> {
        let mut all: Vec<(&str, Node<'s>)> = Vec::new();
        for part in &self.parts {
            for (name, node) in part.named("properties") {
                if !all.iter().any(|(known, _)| *known == name) {
                    all.push((name, node));
                }
            }
        }
        all
    }

    /// The patterns of names that are described.
    pub(super) fn name_patterns(&self) -> Vec<&'s str> {
        let mut all: Vec<&str> = Vec::new();
        for part in &self.parts {
            all.extend(
                part.members("patternProperties")
                    .map(|(pattern, _)| pattern.as_str()),
            );
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// What is certain about the value of a field.
    pub(super) fn field(&self, both: &Both<'s>, name: &str) -> Facts<'s> {
        let mut nodes = Vec::new();
        for part in &self.parts {
            let mut covered = false;
            if let Some(node) = part.one("properties", name) {
                nodes.push(node);
                covered = true;
            }
            for (pattern, node) in part.named("patternProperties") {
                match both.matches(pattern, name) {
                    Some(true) => {
                        nodes.push(node);
                        covered = true;
                    }
                    Some(false) => {}
                    None => covered = true,
                }
            }
            if !covered {
                nodes.extend(part.child("additionalProperties"));
            }
        }
        nodes.extend(self.unevaluated(both, Some(name)));
        Facts::of(both, nodes)
    }

    /// What is certain about fields whose names match this pattern and are not described by name.
    pub(super) fn fields_like(&self, both: &Both<'s>, pattern: &str) -> Facts<'s> {
        let nodes = self
            .parts
            .iter()
            .filter_map(|part| part.one("patternProperties", pattern));
        Facts::of(both, nodes.collect())
    }

    /// What is certain about all other fields.
    pub(super) fn further_fields(&self, both: &Both<'s>) -> Facts<'s> {
        let mut nodes: Vec<Node<'s>> = self
            .parts
            .iter()
            .filter_map(|part| part.child("additionalProperties"))
            .collect();
        nodes.extend(self.unevaluated(both, None));
        Facts::of(both, nodes)
    }

    /// `unevaluatedProperties: false`, where it is certain that it holds for a name, or for names that nothing describes.
    fn unevaluated(&self, both: &Both<'s>, name: Option<&str>) -> Vec<Node<'s>> {
        let mut nodes = Vec::new();
        for part in &self.parts {
            if part.get("unevaluatedProperties") != Some(&Value::Bool(false)) {
                continue;
            }
            let inside = Facts::of(both, vec![part.clone()]);
            let unsure = [
                "anyOf",
                "oneOf",
                "if",
                "dependentSchemas",
                "$dynamicRef",
                "additionalProperties",
                "patternProperties",
            ];
            let certain = inside
                .parts
                .iter()
                .all(|part| unsure.iter().all(|word| part.get(word).is_none()));
            let described = name.is_some_and(|name| {
                inside
                    .parts
                    .iter()
                    .any(|part| part.one("properties", name).is_some())
            });
            if certain && !described {
                nodes.push(part.never("unevaluatedProperties"));
            }
        }
        nodes
    }

    /// How many items are described by their place.
    pub(super) fn prefix_count(&self) -> usize {
        let counts = self.parts.iter().map(|part| prefix(part).len());
        counts.max().unwrap_or(0)
    }

    /// What is certain about the item at a place.
    pub(super) fn item(&self, both: &Both<'s>, at: usize) -> Facts<'s> {
        let nodes = self.parts.iter().filter_map(|part| {
            let prefix = prefix(part);
            prefix.get(at).cloned().or_else(|| rest(part))
        });
        Facts::of(both, nodes.collect())
    }

    /// What is certain about items behind all that are described by their place.
    pub(super) fn further_items(&self, both: &Both<'s>) -> Facts<'s> {
        Facts::of(both, self.parts.iter().filter_map(rest).collect())
    }
}

/// A count, as schemas write it: 3.0 is 3, and what is too large is the largest.
pub(super) fn whole_number(value: &Value) -> Option<u64> {
    let text = value.as_number()?.to_string();
    let number = Decimal::parse(&text).and_then(Decimal::to_integer);
    Some(number.map_or(u64::MAX, |number| u64::try_from(number).unwrap_or(0)))
}

/// The schemas of items by their place.
pub(super) fn prefix<'s>(node: &Node<'s>) -> Vec<Node<'s>> {
    if node.is_draft7() {
        node.listed("items")
    } else {
        node.listed("prefixItems")
    }
}

/// The schema of the items behind them.
pub(super) fn rest<'s>(node: &Node<'s>) -> Option<Node<'s>> {
    if node.is_draft7() && node.get("items").is_some_and(Value::is_array) {
        return node.child("additionalItems");
    }
    node.child("items")
}
