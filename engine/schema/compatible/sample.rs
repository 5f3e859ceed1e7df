//! Documents that a schema describes, few and different: candidates for a body that one schema takes and another does not. Whether one
//! keeps to its schema is asked of the validator; here it is only likely.

use serde_json::{Map, Number, Value, json};

use super::facts::{Facts, Types, whole_number};
use super::node::{Both, Node};
use super::pattern;

/// How many candidates one place has.
const VALUES_MAX: usize = 160;
/// How deep documents are made.
const DEPTH_MAX: usize = 8;
/// The longest text that is made for a limit of length.
const LENGTH_MAX: u64 = 2_000;
/// The most items that are made for a limit of items.
const ITEMS_MAX: u64 = 200;
/// How many lines of another schema are looked at.
const HINTS_MAX: usize = 60;
/// A name that no schema is likely to describe.
const UNDESCRIBED: &str = "undescribed";

/// Makes candidates.
pub(super) struct Sampler<'b, 's> {
    both: &'b Both<'s>,
    /// How many values may still be made.
    left: usize,
    /// Values at which another schema draws its lines.
    hints: Vec<Value>,
}

impl<'b, 's> Sampler<'b, 's> {
    pub(super) fn new(both: &'b Both<'s>, most: usize) -> Sampler<'b, 's> {
        Sampler {
            both,
            left: most,
            hints: Vec::new(),
        }
    }

    /// Tries values at which this schema draws its lines, too.
    pub(super) fn with_hints(mut self, other: &Node<'s>) -> Self {
        let mut open = vec![other.clone()];
        let mut seen: Vec<usize> = Vec::new();
        while let Some(root) = open.pop() {
            root.each(&mut |node| {
                if self.hints.len() < HINTS_MAX && !seen.contains(&node.id()) {
                    seen.push(node.id());
                    hints(node, &mut self.hints);
                    open.extend(self.both.follow(node));
                }
            });
        }
        self
    }

    /// Values for a place; the plainest first.
    pub(super) fn values(&mut self, facts: &Facts<'s>, depth: usize) -> Vec<Value> {
        if facts.is_never() || self.left == 0 {
            return Vec::new();
        }
        if let Some(values) = &facts.values {
            return values.iter().take(VALUES_MAX).copied().cloned().collect();
        }
        if facts.is_free() {
            return [
                json!("x"),
                json!(1),
                json!(1.5),
                json!(true),
                json!(null),
                json!([]),
                json!({}),
            ]
            .into();
        }
        if depth < DEPTH_MAX
            && let Some(cases) = facts.cases(self.both)
        {
            let mut all = Vec::new();
            let share = VALUES_MAX / cases.len().max(1) + 1;
            for case in cases {
                all.extend(self.values(&case, depth + 1).into_iter().take(share));
            }
            return all;
        }
        let mut all = shown(facts);
        for one in Types::EACH {
            if facts.types.has(one) {
                self.of_type(facts, one, depth, &mut all);
            }
        }
        let lines = self.hints.iter();
        all.extend(
            lines
                .filter(|hint| facts.types.has(Types::of_value(hint)))
                .cloned(),
        );
        all.truncate(VALUES_MAX);
        self.left = self.left.saturating_sub(all.len());
        all
    }

    fn of_type(&mut self, facts: &Facts<'s>, one: Types, depth: usize, all: &mut Vec<Value>) {
        match one {
            Types::OBJECT => self.objects(facts, depth, all),
            Types::ARRAY => self.arrays(facts, depth, all),
            Types::STRING => texts(facts, all),
            Types::INTEGER => numbers(facts, &["0", "1", "-1", "7", "1000000000000"], all),
            Types::FRACTION => numbers(facts, &["0.5", "1.25", "-0.5"], all),
            Types::BOOLEAN => all.extend([Value::Bool(true), Value::Bool(false)]),
            _ => all.push(Value::Null),
        }
    }

    fn arrays(&mut self, facts: &Facts<'s>, depth: usize, all: &mut Vec<Value>) {
        let least = facts.least("minItems").unwrap_or(0).min(ITEMS_MAX);
        let most = facts.most("maxItems").unwrap_or(ITEMS_MAX).min(ITEMS_MAX);
        let fixed = facts.prefix_count();
        let mut base: Vec<Value> = Vec::new();
        let mut variants: Vec<Vec<Value>> = Vec::new();
        for at in 0..=fixed {
            let item = if at < fixed {
                facts.item(self.both, at)
            } else {
                facts.further_items(self.both)
            };
            let values = if depth < DEPTH_MAX {
                self.values(&item, depth + 1)
            } else {
                Vec::new()
            };
            variants.push(values);
        }
        let further = variants.pop().unwrap_or_default();
        base.extend(variants.iter().filter_map(|values| values.first().cloned()));
        let padded = |mut list: Vec<Value>, count: u64| {
            let mut at = 0;
            while (list.len() as u64) < count {
                let Some(item) = further.get(at % further.len().max(1)) else {
                    break;
                };
                list.push(item.clone());
                at += 1;
            }
            Value::Array(list)
        };
        all.push(padded(base.clone(), least.max(1).min(most)));
        if least == 0 {
            all.push(json!([]));
        }
        all.push(padded(base.clone(), least));
        for count in [most, least + 1, 2, 3] {
            if count <= most && count >= least {
                all.push(padded(base.clone(), count));
                let twice = vec![base.first().or(further.first()).cloned(); 2];
                let twice: Vec<Value> = twice.into_iter().flatten().collect();
                all.push(padded(twice, count));
            }
        }
        for (at, values) in variants.iter().enumerate() {
            for value in values {
                let mut list = base.clone();
                if at < list.len() {
                    list[at] = value.clone();
                    all.push(padded(list, least));
                }
            }
        }
        for value in &further {
            let mut list = base.clone();
            list.push(value.clone());
            all.push(padded(list, least));
        }
    }

    fn objects(&mut self, facts: &Facts<'s>, depth: usize, all: &mut Vec<Value>) {
        let mut fields: Vec<(String, Vec<Value>)> = Vec::new();
        let described = facts.fields().into_iter().map(|(name, _)| name);
        let required = facts.parts.iter().flat_map(|part| part.texts("required"));
        for name in described.chain(required) {
            if fields.iter().any(|(known, _)| known == name) {
                continue;
            }
            let value = facts.field(self.both, name);
            let values = if depth < DEPTH_MAX {
                self.values(&value, depth + 1)
            } else {
                Vec::new()
            };
            fields.push((name.to_owned(), values));
        }
        for name_pattern in facts.name_patterns() {
            let value = facts.fields_like(self.both, name_pattern);
            let values = if depth < DEPTH_MAX {
                self.values(&value, depth + 1)
            } else {
                Vec::new()
            };
            for name in pattern::texts(name_pattern).into_iter().take(1) {
                fields.push((name, values.clone()));
            }
        }
        let object = |keep: &dyn Fn(&str) -> bool| {
            let kept = fields.iter().filter(|(name, _)| keep(name));
            kept.filter_map(|(name, values)| Some((name.clone(), values.first()?.clone())))
                .collect::<Map<String, Value>>()
        };
        let full = object(&|_| true);
        let bare = object(&|name| facts.requires(name));
        all.push(Value::Object(full.clone()));
        all.push(Value::Object(bare.clone()));
        for (name, _) in &fields {
            if !facts.requires(name) {
                let mut less = full.clone();
                less.shift_remove(name);
                all.push(Value::Object(less));
            }
        }
        let further = facts.further_fields(self.both);
        if !further.is_never() && depth < DEPTH_MAX {
            let value = self.values(&further, depth + 1).into_iter().next();
            let mut more = full.clone();
            more.insert(UNDESCRIBED.to_owned(), value.unwrap_or_else(|| json!("x")));
            all.push(Value::Object(more));
        }
        let share = (VALUES_MAX / fields.len().max(1)).max(12);
        for (name, values) in &fields {
            for value in values.iter().skip(1).take(share) {
                let mut changed = full.clone();
                changed.insert(name.clone(), value.clone());
                all.push(Value::Object(changed));
            }
        }
    }
}

/// Values on both sides of the lines that a schema draws.
fn hints(node: &Node<'_>, all: &mut Vec<Value>) {
    let several = node.get("enum").and_then(Value::as_array);
    all.extend(several.into_iter().flatten().take(4).cloned());
    all.extend(node.get("const").cloned());
    for word in [
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
    ] {
        let Some(number) = node.get(word).and_then(Value::as_f64) else {
            continue;
        };
        let near = [
            number,
            number + 1.0,
            number - 1.0,
            number * 0.5,
            number + 0.01,
        ];
        let texts = near
            .iter()
            .filter_map(|near| format!("{near}").parse().ok());
        all.extend(texts.map(Value::Number));
    }
    for word in ["minLength", "maxLength"] {
        let Some(length) = node.get(word).and_then(whole_number) else {
            continue;
        };
        for length in [length.saturating_sub(1), length + 1] {
            let length = usize::try_from(length.min(LENGTH_MAX)).unwrap_or_default();
            all.push(Value::String("x".repeat(length)));
        }
    }
}

/// What the schema itself shows as examples.
fn shown(facts: &Facts<'_>) -> Vec<Value> {
    let mut all = Vec::new();
    for part in &facts.parts {
        let examples = part.get("examples").and_then(Value::as_array);
        all.extend(examples.into_iter().flatten().take(4).cloned());
        all.extend(part.get("default").cloned());
    }
    all.retain(|value| facts.types.has(Types::of_value(value)));
    all
}

fn texts(facts: &Facts<'_>, all: &mut Vec<Value>) {
    let words = |word: &'static str| {
        facts
            .parts
            .iter()
            .filter_map(move |part| part.get(word)?.as_str())
    };
    let least = facts.least("minLength").unwrap_or(0).min(LENGTH_MAX);
    let most = facts
        .most("maxLength")
        .unwrap_or(LENGTH_MAX)
        .min(LENGTH_MAX);
    let mut plain = true;
    for pattern in words("pattern") {
        plain = false;
        all.extend(pattern::texts(pattern).into_iter().map(Value::String));
    }
    for format in words("format") {
        plain = false;
        all.extend(formatted(format).iter().map(|text| json!(text)));
    }
    let of_length = |length: u64| {
        let length = usize::try_from(length).unwrap_or_default();
        Value::String("x".repeat(length))
    };
    if plain {
        all.push(of_length(least.max(1).min(most)));
        all.extend(["", "A", "abc def", "1", "12.50", "ä€"].map(|text| json!(text)));
    }
    all.extend([of_length(least), of_length(least + 1), of_length(most)]);
}

/// Texts of a format, odd ones among them.
fn formatted(format: &str) -> &'static [&'static str] {
    match format {
        "date-time" => &["2026-11-21T06:00:00Z", "2026-11-21T06:00:00.5+02:00"],
        "date" => &["2026-11-21"],
        "time" => &["06:00:00Z"],
        "duration" => &["P1D"],
        "email" | "idn-email" => &["ada@shop.example"],
        "hostname" | "idn-hostname" => &["shop.example"],
        "ipv4" => &["192.0.2.1"],
        "ipv6" => &["2001:db8::1"],
        "uri" | "iri" => &["https://shop.example/a"],
        "uri-reference" | "iri-reference" => &["/a", "https://shop.example/a"],
        "uuid" => &["6f2c1e0a-5b7d-4c3e-9a1f-0123456789ab"],
        "json-pointer" => &["/a", ""],
        "relative-json-pointer" => &["0/a"],
        "regex" => &["^a$"],
        "uri-template" => &["/a/{b}"],
        _ => &["x", ""],
    }
}

fn numbers(facts: &Facts<'_>, usual: &[&str], all: &mut Vec<Value>) {
    let mut texts: Vec<String> = Vec::new();
    for limit in [facts.low(), facts.high()].into_iter().flatten() {
        if let Ok(number) = limit.number.parse::<f64>() {
            texts.push(limit.number.clone());
            for step in [0.01, -0.01, 0.5, -0.5, 1.0, -1.0] {
                texts.push(format!("{}", number + step));
            }
        } else {
            texts.push(limit.number.clone());
        }
    }
    for part in &facts.parts {
        if let Some(number) = part.get("multipleOf").and_then(Value::as_f64) {
            texts.extend([1.0, 3.0, 7.0].map(|times| format!("{}", number * times)));
        }
    }
    texts.extend(usual.iter().map(|text| (*text).to_owned()));
    let numbers = texts.iter().filter_map(|text| text.parse::<Number>().ok());
    all.extend(
        numbers
            .map(Value::Number)
            .filter(|number| facts.types.has(Types::of_value(number))),
    );
}
