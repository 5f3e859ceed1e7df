//! Soundness: over schemas, bodies that keep to them and expressions, all made up, a value is always of the type that was inferred.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Map, Value, json};

use super::node::Infer;
use super::{Kinds, Type, shape, source};
use crate::body::Body;
use crate::diagnostic::{File, Findings};
use crate::expression::number::Decimal;
use crate::expression::{Expression, Scope, Table, Tables};
use crate::schema::Schemas;
use crate::schema::place::At;

fn schemas(text: &str) -> Schemas {
    let file = File::new("schemas/a.json", text);
    let mut findings = Findings::new();
    let schemas = Schemas::load(&[("a".to_owned(), file)], &mut findings);
    assert!(!findings.has_errors(), "{text}: {findings:?}");
    schemas
}

fn tables() -> Tables {
    let mut tables = Tables::new();
    let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
    tables.insert(
        Table::new(
            "t",
            row(&["key", "value"]),
            vec![row(&["x", "one"]), row(&["y", "two"])],
        )
        .unwrap(),
    );
    tables
}

/// The type of an expression over a body that keeps to a schema, in words.
fn typed(schema: &Value, expression: &str) -> (String, Vec<String>) {
    let schemas = schemas(&schema.to_string());
    let tables = tables();
    let variables = BTreeMap::new();
    let body = source::body(At::named(&schemas, "a").unwrap(), None);
    let compiled = Expression::compile(expression).unwrap();
    let mut infer = Infer::new(expression, &variables, &tables);
    let is = infer.node(compiled.root(), &body);
    let notes = infer.notes.iter();
    let notes = notes.map(|note| expression[note.start..note.end].to_owned());
    (is.words(), notes.collect())
}

fn check(schema: &Value, expression: &str, words: &str, notes: &[&str]) {
    let (found, seen) = typed(schema, expression);
    assert_eq!(
        (found.as_str(), seen.as_slice()),
        (
            words,
            notes
                .iter()
                .map(|note| (*note).to_owned())
                .collect::<Vec<_>>()
                .as_slice()
        ),
        "{expression}"
    );
}

#[test]
fn types_follow_the_data() {
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["id", "lines", "status"],
        "properties": {
            "id": {"type": "integer", "minimum": 1}, "email": {"type": "string"}, "note": {"type": ["string", "null"]},
            "status": {"enum": ["open", "closed"]}, "amount": {"type": "string", "pattern": "^[0-9]+\\.[0-9]{2}$"},
            "lines": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/line"}},
            "pay": {"oneOf": [
                {"type": "object", "required": ["kind", "iban"], "properties": {"kind": {"const": "bank"}, "iban": {"type": "string"}}, "additionalProperties": false},
                {"type": "object", "required": ["kind", "token"], "properties": {"kind": {"const": "card"}, "token": {"type": "integer"}}, "additionalProperties": false},
            ]},
        },
        "$defs": {"line": {"type": "object", "required": ["sku", "qty"], "properties": {
            "sku": {"type": "string", "maxLength": 20}, "qty": {"type": "integer", "minimum": 0}, "price": {"type": "number"},
            "parts": {"type": "array", "items": {"$ref": "#/$defs/line"}},
        }, "additionalProperties": false}},
    });
    check(&schema, "id", "a whole number from 1 on", &[]);
    check(&schema, "email", "a string or null", &[]);
    check(&schema, "emial", "null", &["emial"]);
    check(&schema, "lines[].sku", "a list", &[]);
    check(&schema, "lines[0].sku", "a string", &[]);
    check(&schema, "lines[1].sku", "a string or null", &[]);
    check(&schema, "lines.sku", "null", &["sku"]);
    check(&schema, "lines[*].skuu", "a list", &["skuu"]);
    check(
        &schema,
        "lines[0].parts[].parts[].qty | [0]",
        "a whole number from 0 on or null",
        &[],
    );
    check(&schema, "sum(lines[].qty)", "a whole number", &[]);
    check(&schema, "sum(lines[].price)", "a number", &[]);
    check(&schema, "sum(lines[].sku)", "a number", &["lines[].sku"]);
    check(
        &schema,
        "status == 'opne'",
        "true or false",
        &["status == 'opne'"],
    );
    check(&schema, "id == '5'", "true or false", &["id == '5'"]);
    check(&schema, "email == `null`", "true or false", &[]);
    check(&schema, "email || 'none'", "a string", &[]);
    check(
        &schema,
        "email && length(email)",
        "a whole number from 1 on or a string or null",
        &[],
    );
    check(
        &schema,
        "length(email)",
        "a whole number from 0 on",
        &["email"],
    );
    check(&schema, "not_null(note, email, 'x')", "a string", &[]);
    check(&schema, "decimal(amount)", "a number or null", &[]);
    check(
        &schema,
        "lines[?price].price | [0]",
        "a number or null",
        &[],
    );
    check(
        &schema,
        "if(status == 'open', `1`, `2`)",
        "one of 1, 2",
        &[],
    );
    check(&schema, "lookup('t', status)", "one of 'one', 'two'", &[]);
    check(&schema, "pay.iban", "a string or null", &[]);
    check(&schema, "pay.ibann", "null", &["ibann"]);
    check(
        &schema,
        "pay && if(pay.kind == 'bank', pay.iban, to_string(pay.token))",
        "a string or null",
        &[],
    );
    check(&schema, "{a: id, b: email}.c", "null", &["c"]);
    check(&schema, "let $x = lines in $x[].qty", "a list", &[]);
    check(&schema, "email > `5`", "null", &["email"]);
    check(&schema, "id > `0`", "true or false", &[]);
    check(&schema, "length(lines) > `0`", "true or false", &[]);
}

#[test]
fn a_pattern_of_digits_does_not_make_numbers_of_all_its_texts() {
    let schema = json!({
        "type": "object", "required": ["code", "day", "count", "known"], "properties": {
            "code": {"type": "string", "pattern": "^[0-9]{1,5}$"}, "day": {"type": "string", "pattern": "^[0-9-]+$"},
            "count": {"type": "integer"}, "known": {"type": "boolean"},
        },
    });
    let whole = "a whole number";
    let or_null = "a whole number or null";
    check(&schema, "to_number(code)", or_null, &[]);
    check(&schema, "to_number(day)", or_null, &[]);
    check(&schema, "to_number(to_string(code))", or_null, &[]);
    check(&schema, "decimal(code)", whole, &[]);
    check(&schema, "to_number(to_string(count))", whole, &[]);
    check(&schema, "to_number(fixed(count, `0`))", whole, &[]);
    // One side is written as a number, the other need not be.
    let either = "to_number(if(known, fixed(count, `0`), code))";
    check(&schema, either, or_null, &[]);
}

#[test]
fn a_list_has_items_only_where_its_length_is_above_zero() {
    let schema = json!({
        "type": "object", "required": ["tags", "n"], "properties": {
            "tags": {"type": "array", "items": {"type": "string"}}, "n": {"type": "integer", "minimum": 0},
        },
    });
    for (condition, words) in [
        ("length(tags) > n", "a string"),
        ("n < length(tags)", "a string"),
        ("length(tags) >= `1`", "a string"),
        ("length(tags) >= n", "a string or null"),
        ("n <= length(tags)", "a string or null"),
        ("length(tags) >= `0`", "a string or null"),
    ] {
        let expression = format!("if({condition}, tags[0], 'none')");
        check(&schema, &expression, words, &[]);
    }
}

#[test]
fn fields_that_other_words_let_in_are_not_shut() {
    let text = json!({"type": "string"});
    let by_pattern = json!({
        "type": "object", "required": ["a"], "properties": {"a": text},
        "patternProperties": {"^x-": {"type": "integer"}}, "unevaluatedProperties": false,
    });
    check(&by_pattern, "keys(@)[0] == 'x-1'", "true or false", &[]);
    let by_the_rest = json!({
        "type": "object", "properties": {"a": text}, "additionalProperties": true,
        "unevaluatedProperties": false,
    });
    assert_ne!(typed(&by_the_rest, "b").0, "null");
    // More forms than are kept apart.
    let forms: Vec<Value> = (0..30)
        .map(|form| json!({"required": ["kind"], "properties": {"kind": {"const": form}}}))
        .collect();
    let many = json!({"type": "object", "oneOf": forms, "unevaluatedProperties": false});
    assert_ne!(typed(&many, "kind").0, "null");
    let closed =
        json!({"type": "object", "properties": {"a": text}, "unevaluatedProperties": false});
    check(&closed, "b", "null", &["b"]);
}

/// Whether a value is of a type. Deep parts of recursive schemas are looked at as deep as the value is.
fn admits(is: &Type<'_>, value: &Value) -> bool {
    match value {
        Value::Null => is.may_be_null(),
        Value::Bool(true) => is.kinds.has(Kinds::TRUE),
        Value::Bool(false) => is.kinds.has(Kinds::FALSE),
        Value::Number(number) => {
            let in_range =
                Decimal::parse(&number.to_string()).is_none_or(|number| is.number.holds(number));
            is.kinds.has(Kinds::NUMBER) && in_range
        }
        Value::String(text) => {
            let length = text.chars().count();
            let text_is = &is.text;
            is.kinds.has(Kinds::STRING)
                && length >= text_is.least
                && text_is.most.is_none_or(|most| length <= most)
                && text_is
                    .values
                    .as_ref()
                    .is_none_or(|all| all.iter().any(|one| **one == **text))
                && text_is.number.as_ref().is_none_or(|range| {
                    Decimal::parse(text).map_or(!text_is.computed, |number| {
                        !range.whole || range.holds(number)
                    })
                })
        }
        Value::Array(items) => {
            let fits = |rows: &super::rows::Rows<'_>| {
                items.len() >= rows.least
                    && rows.most.is_none_or(|most| items.len() <= most)
                    && items.iter().enumerate().all(|(at, item)| {
                        admits(&rows.item(Some(at)), item) && admits(&rows.item(None), item)
                    })
            };
            is.kinds.has(Kinds::LIST) && (is.lists.is_empty() || is.lists.iter().any(fits))
        }
        Value::Object(entries) => {
            let fits = |shape: &shape::Shape<'_>| {
                let present = entries
                    .iter()
                    .all(|(name, value)| admits(&shape.property(name).0, value));
                let absent = shape
                    .names()
                    .iter()
                    .all(|name| entries.contains_key(name) || shape.property(name).0.may_be_null());
                present && absent
            };
            is.kinds.has(Kinds::OBJECT) && (is.objects.is_empty() || is.objects.iter().any(fits))
        }
    }
}

/// Choices, made from the bytes of one case.
struct Dice<'r> {
    rng: &'r mut TestRng,
}

impl Dice<'_> {
    fn below(&mut self, count: u32) -> usize {
        (self.rng.next_u32() % count) as usize
    }

    fn one<'v>(&mut self, of: &[&'v str]) -> &'v str {
        of[self.below(u32::try_from(of.len()).unwrap())]
    }

    fn chance(&mut self, of_ten: u32) -> bool {
        self.rng.next_u32() % 10 < of_ten
    }
}

const NAMES: &[&str] = &["a", "b", "c", "d"];
const TEXTS: &[&str] = &["", "x", "y", "12", "007", "1.5", "2026-11-02", "open"];

/// A schema, made up.
fn schema(dice: &mut Dice<'_>, depth: usize) -> Value {
    let kinds = if depth == 0 { 6 } else { 13 };
    match dice.below(kinds) {
        0 => json!({"type": "integer", "minimum": dice.below(4), "maximum": 2 + dice.below(6)}),
        1 => json!({"type": ["string", "null"]}),
        2 => json!({"type": "string", "maxLength": 1 + dice.below(5)}),
        3 => json!({"enum": [dice.one(TEXTS), dice.one(TEXTS), dice.below(3), null]}),
        4 => json!({"type": "boolean"}),
        5 => json!({"type": "number"}),
        6 => json!({"type": "array", "minItems": dice.below(2), "items": schema(dice, depth - 1)}),
        7 => {
            json!({"type": "array", "prefixItems": [schema(dice, depth - 1), schema(dice, depth - 1)], "items": schema(dice, depth - 1)})
        }
        8 => json!({"anyOf": [schema(dice, depth - 1), schema(dice, depth - 1)]}),
        9 => json!({"allOf": [schema(dice, depth - 1), object(dice, depth)]}),
        10 => {
            json!({"type": "string", "pattern": dice.one(&["^[0-9]+$", "^[0-9-]+$", "^-?[0-9]+(\\.[0-9]+)?$", "^[a-z]*$"])})
        }
        _ => object(dice, depth),
    }
}

fn object(dice: &mut Dice<'_>, depth: usize) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for name in NAMES {
        if dice.chance(6) {
            properties.insert((*name).to_owned(), schema(dice, depth.saturating_sub(1)));
        }
        if dice.chance(4) {
            required.push(json!(name));
        }
    }
    let mut made = json!({"type": "object", "properties": properties, "required": required});
    match dice.below(4) {
        0 => made["additionalProperties"] = json!(false),
        1 => made["additionalProperties"] = json!({"type": "integer"}),
        2 => made["patternProperties"] = json!({"^[ab]$": schema(dice, 0)}),
        _ => {}
    }
    made
}

/// A value that may keep to the schema.
fn value(dice: &mut Dice<'_>, schema: &Value) -> Value {
    if dice.chance(1) {
        return anything(dice, 1);
    }
    if let Some(Value::Array(values)) = schema.get("enum") {
        return values[dice.below(4)].clone();
    }
    if let Some(Value::Array(choices)) = schema.get("anyOf") {
        let chosen = dice.below(2);
        return value(dice, &choices[chosen]);
    }
    if let Some(Value::Array(parts)) = schema.get("allOf") {
        let mut made = value(dice, &parts[0]);
        if let (Value::Object(made), Value::Object(more)) = (&mut made, value(dice, &parts[1])) {
            made.extend(more);
        }
        return made;
    }
    match schema["type"].as_str().unwrap_or("text-or-null") {
        "integer" => json!(dice.below(9)),
        "number" => [json!(1), json!(2.5), json!(0), json!(-3)][dice.below(4)].clone(),
        "boolean" => json!(dice.chance(5)),
        "string" => json!(dice.one(TEXTS)),
        "array" => {
            let count = dice.below(4);
            let first = schema.get("prefixItems").and_then(Value::as_array);
            let item = |at: usize| {
                first
                    .and_then(|first| first.get(at))
                    .unwrap_or(&schema["items"])
            };
            Value::Array((0..count).map(|at| value(dice, item(at))).collect())
        }
        "object" => {
            let mut made = Map::new();
            for name in NAMES {
                let declared = schema["properties"].get(*name);
                let required = schema["required"]
                    .as_array()
                    .is_some_and(|all| all.contains(&json!(name)));
                if required || dice.chance(5) {
                    let made_value = match declared {
                        Some(declared) => value(dice, declared),
                        None if schema["additionalProperties"] == json!(false) && !required => {
                            continue;
                        }
                        None => json!(dice.below(5)),
                    };
                    made.insert((*name).to_owned(), made_value);
                }
            }
            Value::Object(made)
        }
        _ if dice.chance(5) => Value::Null,
        _ => json!(dice.one(TEXTS)),
    }
}

fn anything(dice: &mut Dice<'_>, depth: usize) -> Value {
    match dice.below(if depth == 0 { 4 } else { 6 }) {
        0 => Value::Null,
        1 => json!(dice.below(5)),
        2 => json!(dice.one(TEXTS)),
        3 => json!(dice.chance(5)),
        4 => json!([anything(dice, depth - 1)]),
        _ => json!({dice.one(NAMES): anything(dice, depth - 1)}),
    }
}

/// An expression, made up.
fn expression(dice: &mut Dice<'_>, depth: usize) -> String {
    if depth == 0 {
        return match dice.below(7) {
            0 => "@".to_owned(),
            1 => format!("'{}'", dice.one(TEXTS)),
            2 => format!("`{}`", dice.below(5)),
            3 => format!("{}.{}", dice.one(NAMES), dice.one(NAMES)),
            _ => dice.one(NAMES).to_owned(),
        };
    }
    let inner = |dice: &mut Dice<'_>| expression(dice, depth - 1);
    let (a, b, c) = (inner(dice), inner(dice), inner(dice));
    let name = dice.one(NAMES);
    let op = dice.one(&["==", "!=", "<", "<=", ">", ">="]);
    match dice.below(30) {
        0 => format!("({a}).{name}"),
        1 => format!("({a})[*].{name}"),
        2 => format!("({a})[]"),
        3 => format!("({a})[?{b}]"),
        4 => format!("({a})[?{b}].{name}"),
        5 => format!("({a}) | ({b})"),
        6 => format!("({a}) || ({b})"),
        7 => format!("({a}) && ({b})"),
        8 => format!("!({a})"),
        9 => format!("({a}) {op} ({b})"),
        10 => format!("[{a}, {b}]"),
        11 => format!("{{a: {a}, b: {b}}}"),
        12 => format!("({a})[{}]", i64::try_from(dice.below(4)).unwrap() - 2),
        13 => format!("({a})[{}:{}]", dice.below(2), dice.below(4)),
        14 => format!("let $v = {a} in [$v, $v.{name}, {b}]"),
        15 => format!("if({a}, {b}, {c})"),
        16 => format!("not_null({a}, {b})"),
        17 => format!("({a}).*"),
        18 => format!("({name} {op} {b}) && ({c})"),
        19 => format!(
            "{}({a})",
            dice.one(&[
                "length",
                "to_string",
                "to_number",
                "decimal",
                "keys",
                "values",
                "type",
                "sum",
                "max",
                "min",
                "sort",
                "reverse",
                "to_array",
                "abs",
                "ceil",
                "avg"
            ])
        ),
        20 => format!(
            "{}({a})",
            dice.one(&[
                "lower",
                "upper",
                "trim",
                "first",
                "last",
                "unique",
                "items",
                "without_nulls",
                "enumerate",
                "lines",
                "html_decode",
                "keep_null",
                "required",
                "round"
            ])
        ),
        21 => format!(
            "{}({a}, {b})",
            dice.one(&[
                "add",
                "subtract",
                "multiply",
                "concat",
                "contains",
                "starts_with",
                "one_of",
                "merge",
                "zip",
                "position",
                "pad_left",
                "truncate"
            ])
        ),
        22 => format!(
            "{}({a}, &{b})",
            dice.one(&[
                "sort_by",
                "max_by",
                "min_by",
                "group_by",
                "index_by",
                "unique_by",
                "any",
                "all",
                "sum_by"
            ])
        ),
        23 => format!("map(&{b}, {a})"),
        24 => format!("lookup('t', {a}, 'value', {b})"),
        25 => format!("pick({a}, '{name}')"),
        26 => format!("omit({a}, '{name}')"),
        27 => format!("one_of({name}, {b}) && ({c})"),
        28 => format!("split({a}, '-')"),
        _ => format!("let $v = {a} in ($v.{name} && $v.{name} != {b}) && ($v | {c})"),
    }
}

/// Tries one schema; how many values came out of it.
fn case(rng: &mut TestRng) -> Result<u32, TestCaseError> {
    let mut dice = Dice { rng };
    let schema = object(&mut dice, 3);
    let schemas = schemas(&schema.to_string());
    let tables = tables();
    let variables = BTreeMap::new();
    let mut came = 0;
    let body_type = source::body(At::named(&schemas, "a").unwrap(), None);
    let checked: Arc<crate::schema::Schema> = schemas.get("a").unwrap();
    for _ in 0..14 {
        let body = value(&mut dice, &schema).to_string();
        let body = Body::new(body);
        let item = body.document().unwrap();
        if !checked.is_valid(item) {
            continue;
        }
        for _ in 0..14 {
            let depth = 1 + dice.below(3);
            let text = expression(&mut dice, depth);
            let Ok(compiled) = Expression::compile(&text) else {
                continue;
            };
            let is = Infer::new(&text, &variables, &tables).node(compiled.root(), &body_type);
            let scope = Scope::bare(item, &tables);
            let Ok(value) = compiled.evaluate(&scope) else {
                continue;
            };
            came += 1;
            let value: Value = serde_json::from_str(&value.to_json()).unwrap();
            prop_assert!(
                admits(&is, &value),
                "schema {schema}\nbody {}\nexpression {text}\nvalue {value}\ntype {}",
                item.json(),
                is.words()
            );
        }
    }
    Ok(came)
}

/// How many schemas are made up; for each, expressions are evaluated on bodies that keep to it: more than 100,000 values in all.
const SCHEMAS: u32 = 3_400;

#[test]
fn a_value_is_always_of_its_type() {
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]),
    );
    let rng = runner.rng();
    let mut came = 0_u32;
    for number in 0..SCHEMAS {
        match case(rng) {
            Ok(values) => came += values,
            Err(error) => panic!("schema {number}: {error}"),
        }
    }
    assert!(came >= 100_000, "{came} values of {SCHEMAS} schemas");
}
