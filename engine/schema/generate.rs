//! Bodies made up at random that keep to a schema: of the same choices always the same body, of smaller choices a simpler one. Whether a body
//! really keeps to the schema, the validator says.

use regex_syntax::hir::{Class, Hir, HirKind};
use serde_json::{Map, Number, Value};

use super::place::At;

/// How deep objects and lists go where the schema lets them end.
const DEPTH_MAX: usize = 6;
/// How deep they go in any case.
const DEPTH_END: usize = 40;
/// How many items a list gets beyond those that it needs.
const ITEMS_MORE: u64 = 3;
/// How many characters a text gets beyond those that it needs.
const TEXT_MORE: u64 = 8;
/// How many repetitions a pattern gets beyond those that it needs.
const REPEATS_MORE: u32 = 3;
/// How many choices one body takes; further ones are the simplest.
const CHOICES_MAX: usize = 20_000;

/// The choices that lead to a body. Those of a tape are taken again; behind it they come from a seed, or are the simplest.
pub(crate) struct Choices {
    tape: Vec<u64>,
    at: usize,
    state: Option<u64>,
}

impl Choices {
    /// From a seed.
    pub(crate) fn seeded(seed: u64) -> Choices {
        Choices {
            tape: Vec::new(),
            at: 0,
            state: Some(seed),
        }
    }

    /// These, then the simplest.
    pub(crate) fn again(tape: Vec<u64>) -> Choices {
        Choices {
            tape,
            at: 0,
            state: None,
        }
    }

    /// What was chosen.
    pub(crate) fn into_tape(mut self) -> Vec<u64> {
        self.tape.truncate(self.at);
        self.tape
    }

    /// A number from 0, the simplest, to before `below`.
    fn below(&mut self, below: u64) -> u64 {
        if below < 2 || self.at == CHOICES_MAX {
            return 0;
        }
        if self.at == self.tape.len() {
            let next = self.draw();
            self.tape.push(next % below);
        }
        let chosen = self.tape[self.at] % below;
        self.at += 1;
        chosen
    }

    fn draw(&mut self) -> u64 {
        let Some(state) = &mut self.state else {
            return 0;
        };
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let at = self.below(of.len() as u64);
        of.get(usize::try_from(at).unwrap_or(0))
    }

    /// Once in so many times; the simplest is no.
    fn sometimes(&mut self, in_times: u64) -> bool {
        in_times > 0 && self.below(in_times) == in_times - 1
    }
}

/// A body that the schema at this place lets be, as far as it is understood.
pub(crate) fn body(at: At<'_>, choices: &mut Choices) -> Value {
    value(vec![at], choices, 0)
}

/// A value that all these schemas let be.
fn value(all: Vec<At<'_>>, choices: &mut Choices, depth: usize) -> Value {
    let parts = Parts::of(all, choices);
    if let Some(fixed) = parts.find("const") {
        return fixed.clone();
    }
    if let Some(words) = parts.find("enum").and_then(Value::as_array) {
        return choices.pick(words).cloned().unwrap_or(Value::Null);
    }
    if depth >= DEPTH_END {
        return Value::Null;
    }
    match choices.pick(&parts.types()).copied().unwrap_or("null") {
        "object" => object(&parts, choices, depth),
        "array" => list(&parts, choices, depth),
        "string" => Value::String(text(&parts, choices)),
        "integer" => number(&parts, choices, true),
        "number" => number(&parts, choices, false),
        "boolean" => Value::Bool(choices.below(2) == 1),
        _ => Value::Null,
    }
}

/// The schemas that hold at a place: references followed, one alternative taken of each choice.
struct Parts<'s>(Vec<At<'s>>);

impl<'s> Parts<'s> {
    fn of(all: Vec<At<'s>>, choices: &mut Choices) -> Parts<'s> {
        let mut parts = Vec::new();
        let mut open = all;
        while let Some(at) = open.pop() {
            if parts.len() > 64 {
                break;
            }
            // The schema, its references and its `allOf`; what is not understood stands for itself.
            for one in at.parts().unwrap_or_else(|| vec![at]) {
                for word in ["oneOf", "anyOf"] {
                    let alternatives = one.raw().get(word).and_then(Value::as_array);
                    let Some(alternatives) = alternatives else {
                        continue;
                    };
                    open.extend(choices.pick(alternatives).map(|value| one.below(value)));
                }
                parts.push(one);
            }
        }
        Parts(parts)
    }

    fn find(&self, word: &str) -> Option<&'s Value> {
        self.0.iter().find_map(|at| at.raw().get(word))
    }

    fn number(&self, word: &str) -> Option<f64> {
        self.find(word).and_then(Value::as_f64)
    }

    /// The types that all schemas let be, the simplest last but null first.
    fn types(&self) -> Vec<&'s str> {
        let mut all: Option<Vec<&'s str>> = None;
        for at in &self.0 {
            let names: Vec<&'s str> = match at.raw().get("type") {
                Some(Value::String(one)) => vec![one],
                Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
                _ => continue,
            };
            all = Some(match all {
                None => names,
                Some(known) => known
                    .into_iter()
                    .filter_map(|name| {
                        let same = names.contains(&name);
                        let whole = name == "number" && names.contains(&"integer");
                        let number = name == "integer" && names.contains(&"number");
                        match (same || number, whole) {
                            (true, _) => Some(name),
                            (_, true) => Some("integer"),
                            _ => None,
                        }
                    })
                    .collect(),
            });
        }
        all.unwrap_or_else(|| {
            let has = |words: &[&str]| words.iter().any(|word| self.find(word).is_some());
            if has(&["properties", "required", "additionalProperties"]) {
                vec!["object"]
            } else if has(&["items", "prefixItems", "minItems"]) {
                vec!["array"]
            } else if has(&["minimum", "maximum", "multipleOf"]) {
                vec!["number"]
            } else {
                vec!["string"]
            }
        })
    }
}

fn object(parts: &Parts<'_>, choices: &mut Choices, depth: usize) -> Value {
    let mut fields: Vec<(&str, Vec<At<'_>>)> = Vec::new();
    let mut required: Vec<&str> = Vec::new();
    for at in &parts.0 {
        let named = at.raw().get("properties").and_then(Value::as_object);
        for (name, value) in named.into_iter().flatten() {
            match fields.iter_mut().find(|(known, _)| known == name) {
                Some((_, all)) => all.push(at.below(value)),
                None => fields.push((name, vec![at.below(value)])),
            }
        }
        let needed = at.raw().get("required").and_then(Value::as_array);
        required.extend(needed.into_iter().flatten().filter_map(Value::as_str));
    }
    let mut object = Map::new();
    for (name, all) in fields {
        let never = all.iter().any(|at| at.raw() == &Value::Bool(false));
        let wanted = required.contains(&name) || (depth < DEPTH_MAX && choices.below(2) == 1);
        if wanted && !never {
            object.insert(name.to_owned(), value(all, choices, depth + 1));
        }
    }
    let other = parts.0.iter().find_map(|at| {
        let other = at.raw().get("additionalProperties")?;
        Some(at.below(other))
    });
    for name in required {
        if !object.contains_key(name) {
            let made = match other {
                Some(at) if at.raw().is_object() => value(vec![at], choices, depth + 1),
                _ => Value::String(word(choices)),
            };
            object.insert(name.to_owned(), made);
        }
    }
    let more = other.filter(|at| at.raw().is_object() && depth < DEPTH_MAX);
    if let Some(at) = more {
        let least = parts.number("minProperties").unwrap_or(0.0) as u64;
        for nth in 0..choices.below(ITEMS_MORE) + least.min(100) {
            object.insert(format!("key{nth}"), value(vec![at], choices, depth + 1));
        }
    }
    Value::Object(object)
}

fn list(parts: &Parts<'_>, choices: &mut Choices, depth: usize) -> Value {
    let least = parts.number("minItems").unwrap_or(0.0).clamp(0.0, 1_000.0) as u64;
    let most = parts
        .number("maxItems")
        .map_or(u64::MAX, |most| most.max(0.0) as u64);
    let room = most.saturating_sub(least).min(ITEMS_MORE);
    let more = if depth < DEPTH_MAX {
        choices.below(room + 1)
    } else {
        0
    };
    let unique = parts.find("uniqueItems") == Some(&Value::Bool(true));
    let tuple = parts.0.iter().find_map(|at| {
        let tuple = at
            .raw()
            .get("prefixItems")
            .or_else(|| at.raw().get("items"))?;
        Some((at, tuple.as_array()?))
    });
    let each: Vec<At<'_>> = parts
        .0
        .iter()
        .filter_map(|at| {
            let items = at.raw().get("items").filter(|items| items.is_object())?;
            Some(at.below(items))
        })
        .collect();
    let mut items: Vec<Value> = Vec::new();
    for nth in 0..least + more {
        let place = usize::try_from(nth).unwrap_or(usize::MAX);
        let made = match tuple.and_then(|(at, tuple)| Some(at.below(tuple.get(place)?))) {
            Some(at) => value(vec![at], choices, depth + 1),
            None if each.is_empty() => Value::String(word(choices)),
            None => value(each.clone(), choices, depth + 1),
        };
        if !unique || !items.contains(&made) {
            items.push(made);
        }
    }
    Value::Array(items)
}

fn number(parts: &Parts<'_>, choices: &mut Choices, whole: bool) -> Value {
    let step = parts
        .number("multipleOf")
        .filter(|step| *step > 0.0)
        .unwrap_or(if whole { 1.0 } else { 0.01 });
    let step = if whole && step < 1.0 { 1.0 } else { step };
    let low = parts.number("minimum");
    let above = parts.number("exclusiveMinimum");
    let high = parts.number("maximum");
    let below = parts.number("exclusiveMaximum");
    // Counted in steps, so that a multiple stays one.
    let mut least = low.map(|low| (low / step - 1e-9).ceil());
    if let Some(above) = above {
        let next = (above / step + 1e-9).floor() + 1.0;
        least = Some(least.map_or(next, |least| least.max(next)));
    }
    let mut most = high.map(|high| (high / step + 1e-9).floor());
    if let Some(below) = below {
        let next = (below / step - 1e-9).ceil() - 1.0;
        most = Some(most.map_or(next, |most| most.min(next)));
    }
    let (least, most) = match (least, most) {
        (Some(least), Some(most)) => (least, most),
        (Some(least), None) => (least, least + 1e6),
        (None, Some(most)) => ((most - 1e6).min(0.0), most),
        (None, None) => (-1e3, 1e6),
    };
    let simplest = 0f64.clamp(least, most.max(least));
    let room = (most - simplest).clamp(0.0, 1e15) as u64;
    // Small numbers are as likely as large ones, and the bounds themselves are tried.
    let steps = match choices.below(4) {
        0 => choices.below(room.min(10) + 1) as f64 + simplest,
        1 => choices.below(room.min(100_000) + 1) as f64 + simplest,
        2 => choices.below(room.saturating_add(1)) as f64 + simplest,
        _ if choices.below(2) == 0 => most,
        _ => least,
    };
    if whole || step.fract() == 0.0 {
        return Value::Number(Number::from((steps * step) as i64));
    }
    let scale = (-step.log10()).ceil().clamp(0.0, 9.0) as usize;
    let text = format!("{:.scale$}", steps * step);
    let exact = text.parse::<f64>().ok().and_then(Number::from_f64);
    exact.map_or(Value::Null, Value::Number)
}

fn text(parts: &Parts<'_>, choices: &mut Choices) -> String {
    let samples = parts.find("examples").and_then(Value::as_array);
    if let Some(text) = samples.and_then(|all| choices.pick(all)?.as_str())
        && choices.below(4) != 3
    {
        return text.to_owned();
    }
    let pattern = parts.find("pattern").and_then(Value::as_str);
    if let Some(hir) = pattern.and_then(|pattern| regex_syntax::parse(pattern).ok()) {
        let mut out = String::new();
        write_pattern(&hir, choices, &mut out);
        return out;
    }
    if let Some(made) = parts
        .find("format")
        .and_then(Value::as_str)
        .and_then(|format| formatted(format, choices))
    {
        return made;
    }
    let least = parts
        .number("minLength")
        .unwrap_or(0.0)
        .clamp(0.0, 100_000.0) as u64;
    let most = parts
        .number("maxLength")
        .map_or(u64::MAX, |most| most.max(0.0) as u64);
    let length = least + choices.below(most.saturating_sub(least).min(TEXT_MORE) + 1);
    // Mostly plain letters; sometimes what breaks careless code.
    let strange = choices.sometimes(8);
    let letters: Vec<char> = if strange {
        "a '\"é𝄞\u{301}\n1".chars().collect()
    } else {
        "abcxyzABC 0129-".chars().collect()
    };
    let letter = |choices: &mut Choices| choices.pick(&letters).copied().unwrap_or('a');
    (0..length).map(|_| letter(choices)).collect()
}

fn word(choices: &mut Choices) -> String {
    let words = ["a", "b", "order", "x-1"];
    choices.pick(&words).map_or("a", |word| word).to_owned()
}

/// A text of a format that JSON Schema knows.
fn formatted(format: &str, choices: &mut Choices) -> Option<String> {
    let mut day = || {
        let year = [2026, 2000, 1999, 2028][choices.below(4) as usize];
        let (month, day) = (choices.below(12) + 1, choices.below(28) + 1);
        format!("{year}-{month:02}-{day:02}")
    };
    Some(match format {
        "date" => day(),
        "date-time" => {
            let day = day();
            let (hour, minute) = (choices.below(24), choices.below(60));
            let zone = choices
                .pick(&["Z", "+02:00", "-07:00"])
                .copied()
                .unwrap_or("Z");
            format!("{day}T{hour:02}:{minute:02}:00{zone}")
        }
        "time" => format!("{:02}:{:02}:00Z", choices.below(24), choices.below(60)),
        "email" | "idn-email" => format!("{}@example.com", word(choices)),
        "uri" | "uri-reference" | "iri" | "url" => format!("https://example.com/{}", word(choices)),
        "uuid" => format!("00000000-0000-4000-8000-{:012x}", choices.below(1 << 40)),
        "hostname" => format!("{}.example.com", choices.below(100)),
        "ipv4" => format!("192.0.2.{}", choices.below(256)),
        "ipv6" => format!("2001:db8::{:x}", choices.below(1 << 16)),
        "duration" => format!("PT{}M", choices.below(60)),
        _ => return None,
    })
}

/// A text that a pattern matches. What looks around is passed over; the validator has the last word.
fn write_pattern(hir: &Hir, choices: &mut Choices, out: &mut String) {
    match hir.kind() {
        HirKind::Literal(literal) => out.push_str(&String::from_utf8_lossy(&literal.0)),
        HirKind::Class(class) => out.extend(character(class, choices)),
        HirKind::Repetition(repetition) => {
            let room = repetition
                .max
                .map_or(REPEATS_MORE, |most| most.saturating_sub(repetition.min))
                .min(REPEATS_MORE);
            let times = u64::from(repetition.min.min(10_000)) + choices.below(u64::from(room) + 1);
            for _ in 0..times {
                write_pattern(&repetition.sub, choices, out);
            }
        }
        HirKind::Capture(capture) => write_pattern(&capture.sub, choices, out),
        HirKind::Concat(parts) => {
            for part in parts {
                write_pattern(part, choices, out);
            }
        }
        HirKind::Alternation(parts) => {
            if let Some(part) = choices.pick(parts) {
                write_pattern(part, choices, out);
            }
        }
        HirKind::Empty | HirKind::Look(_) => {}
    }
}

fn character(class: &Class, choices: &mut Choices) -> Option<char> {
    let ranges: Vec<(u32, u32)> = match class {
        Class::Unicode(class) => class
            .ranges()
            .iter()
            .map(|range| (u32::from(range.start()), u32::from(range.end())))
            .collect(),
        Class::Bytes(class) => class
            .ranges()
            .iter()
            .map(|range| (u32::from(range.start()), u32::from(range.end())))
            .collect(),
    };
    // Letters that can be printed first: a dot means any character, and a control character explains nothing.
    let plain: Vec<(u32, u32)> = ranges
        .iter()
        .filter(|(start, end)| *start < 0x7f && *end >= 0x20)
        .map(|(start, end)| ((*start).max(0x20), (*end).min(0x7e)))
        .collect();
    let ranges = if plain.is_empty() { ranges } else { plain };
    let (start, end) = *choices.pick(&ranges)?;
    let chosen = start + u32::try_from(choices.below(u64::from(end - start) + 1)).unwrap_or(0);
    char::from_u32(chosen).or_else(|| char::from_u32(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;
    use crate::diagnostic::{File, Findings};
    use crate::schema::Schemas;

    /// How many of the bodies made are valid, of a hundred.
    fn valid(text: &str) -> usize {
        let files = [("a".to_owned(), File::new("schemas/a.json", text))];
        let mut findings = Findings::new();
        let schemas = Schemas::load(&files, &mut findings);
        assert!(findings.is_empty(), "{findings:?}");
        let (at, schema) = (At::named(&schemas, "a").unwrap(), schemas.get("a").unwrap());
        let mut good = 0;
        for seed in 0..100 {
            let mut choices = Choices::seeded(seed);
            let made = body(at, &mut choices);
            let again = body(at, &mut Choices::again(choices.into_tape()));
            assert_eq!(made, again, "the same choices make the same body");
            let bytes = Body::new(made.to_string());
            good += usize::from(schema.is_valid(bytes.document().unwrap()));
        }
        good
    }

    #[test]
    fn bodies_keep_to_what_schemas_usually_say() {
        for text in [
            r##"{"type": "object", "required": ["id", "total"], "additionalProperties": false, "properties": {
                "id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}$"},
                "total": {"type": "number", "minimum": 0, "multipleOf": 0.01},
                "count": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9},
                "at": {"type": "string", "format": "date-time"},
                "mail": {"type": ["string", "null"], "format": "email"},
                "state": {"enum": ["open", "closed", null]},
                "lines": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"$ref": "#/$defs/line"}}},
                "$defs": {"line": {"type": "object", "required": ["sku"], "properties": {"sku": {"type": "string", "minLength": 3, "maxLength": 5}}}}}"##,
            r#"{"oneOf": [{"type": "string", "maxLength": 0}, {"type": "integer"}]}"#,
            r#"{"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": {"const": 5}}}]}"#,
            r#"{"type": "object", "additionalProperties": {"type": "boolean"}}"#,
            r##"{"type": "object", "properties": {"next": {"$ref": "#"}}}"##,
            r#"{"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": false, "maxItems": 2}"#,
        ] {
            assert_eq!(valid(text), 100, "{text}");
        }
        assert!(valid(r#"{"type": "string", "not": {"const": ""}}"#) > 50);
    }
}
