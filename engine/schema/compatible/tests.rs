//! Tests of the comparison of schemas: each rule in both directions, and that a yes is true.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::diagnostic::{File, Findings};

fn schemas(files: &[(&str, &Value)]) -> Schemas {
    let files: Vec<_> = files
        .iter()
        .map(|(name, value)| {
            let path = format!("schemas/{name}.json");
            ((*name).to_owned(), File::new(path, value.to_string()))
        })
        .collect();
    let mut findings = Findings::new();
    let schemas = Schemas::load(&files, &mut findings);
    let told: Vec<_> = findings.iter().map(|f| f.message.clone()).collect();
    assert!(!findings.has_errors(), "{told:?}");
    schemas
}

fn compared(old: &Value, new: &Value) -> Comparison {
    let (old, new) = (schemas(&[("a.v1", old)]), schemas(&[("a.v1", new)]));
    compare((&old, "a.v1"), (&new, "a.v1")).unwrap()
}

fn told(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| {
            let shown = if change.witness.is_some() { "" } else { "? " };
            format!(
                "{shown}{}: {} ({})",
                change.path, change.reason, change.place.1
            )
        })
        .collect()
}

/// A step from one version to the next: what breaks for old bodies, and what breaks for old readers.
fn check(old: Value, new: Value, backward: &[&str], forward: &[&str]) {
    let found = compared(&old, &new);
    assert_eq!(told(&found.backward), backward, "backward {old} -> {new}");
    assert_eq!(told(&found.forward), forward, "forward {old} -> {new}");
    for (changes, (writer, reader)) in [
        (&found.backward, (&old, &new)),
        (&found.forward, (&new, &old)),
    ] {
        let (writer, reader) = (schemas(&[("a", writer)]), schemas(&[("a", reader)]));
        for witness in changes.iter().filter_map(|change| change.witness.clone()) {
            let body = Body::new(witness.clone());
            let document = body.document().unwrap();
            assert!(writer.get("a").unwrap().is_valid(document), "{witness}");
            assert!(!reader.get("a").unwrap().is_valid(document), "{witness}");
        }
    }
}

fn field(schema: Value) -> Value {
    json!({ "type": "object", "properties": { "a": schema }, "additionalProperties": false })
}

#[test]
fn what_is_said_in_other_words_is_no_change() {
    check(
        json!({ "title": "x", "type": ["string", "null"], "enum": ["a", null] }),
        json!({ "description": "y", "enum": [null, "a"], "type": ["null", "string"], "x-owner": "sales" }),
        &[],
        &[],
    );
    check(
        field(json!({ "$ref": "#/$defs/b" }))
            .as_object()
            .map(|o| {
                let mut o = o.clone();
                o.insert(
                    "$defs".into(),
                    json!({ "b": { "type": "string", "maxLength": 3 } }),
                );
                Value::Object(o)
            })
            .unwrap(),
        field(json!({ "type": "string", "maxLength": 3.0 })),
        &[],
        &[],
    );
    check(
        json!({ "type": "integer", "exclusiveMinimum": 0 }),
        json!({ "allOf": [{ "type": "integer" }, { "minimum": 1 }] }),
        &[],
        &[],
    );
    check(json!({ "const": 1 }), json!({ "enum": [1.0] }), &[], &[]);
    check(
        json!({ "type": "boolean" }),
        json!({ "enum": [true, false] }),
        &[],
        &[],
    );
}

#[test]
fn required_fields() {
    let one = |required: &[&str]| json!({ "type": "object", "required": required, "properties": { "a": { "type": "string" }, "b": { "type": "string" } } });
    check(
        one(&["a"]),
        one(&["a", "b"]),
        &[": the field `b` became required (/required/1)"],
        &[],
    );
    check(
        one(&["a", "b"]),
        one(&["a"]),
        &[],
        &[": the field `b` is no longer required (/properties/b)"],
    );
}

#[test]
fn fields_that_come_and_go() {
    let closed = |names: &[&str]| {
        let fields: serde_json::Map<String, Value> = names
            .iter()
            .map(|name| ((*name).to_owned(), json!({ "type": "string" })))
            .collect();
        json!({ "type": "object", "properties": fields, "additionalProperties": false })
    };
    check(
        closed(&["a", "b"]),
        closed(&["a"]),
        &[": the field `b` is gone, and further fields are refused (/additionalProperties)"],
        &[],
    );
    check(
        closed(&["a"]),
        closed(&["a", "b"]),
        &[],
        &[": the field `b` is new, and the old version refuses further fields (/properties/b)"],
    );
    let open = |names: &[&str]| {
        let mut schema = closed(names);
        schema
            .as_object_mut()
            .unwrap()
            .remove("additionalProperties");
        schema
    };
    // Nobody knows what was sent in a field that was not described: no error, and no promise.
    check(
        open(&["a"]),
        open(&["a", "b"]),
        &[
            "? : the field `b` is described now, and was not: what was sent in it may not fit (/properties/b)",
        ],
        &[],
    );
    check(
        open(&["a", "b"]),
        open(&["a"]),
        &[],
        &["? : the field `b` is no longer described: anything may be sent in it ()"],
    );
    check(
        open(&["a"]),
        closed(&["a"]),
        &[": further fields are refused now (/additionalProperties)"],
        &[],
    );
    check(
        closed(&["a"]),
        open(&["a"]),
        &[],
        &[": further fields are allowed now ()"],
    );
}

#[test]
fn types() {
    check(
        field(json!({ "type": ["string", "null"] })),
        field(json!({ "type": "string" })),
        &["a: the type `null` is no longer allowed (/properties/a/type)"],
        &[],
    );
    check(
        field(json!({ "type": "integer" })),
        field(json!({ "type": "number" })),
        &[],
        &["a: the type `number with a fraction` is allowed now (/properties/a)"],
    );
    check(
        field(json!({ "type": "string" })),
        field(json!({ "type": "integer" })),
        &["a: the type `string` is no longer allowed (/properties/a/type)"],
        &["a: the type `integer` is allowed now (/properties/a)"],
    );
}

#[test]
fn values() {
    check(
        field(json!({ "enum": ["open", "closed"] })),
        field(json!({ "enum": ["open", "closed", "held"] })),
        &[],
        &["a: the value \"held\" is new (/properties/a/enum)"],
    );
    check(
        field(json!({ "enum": ["open", "closed"] })),
        field(json!({ "const": "open" })),
        &["a: the value \"closed\" is no longer allowed (/properties/a/const)"],
        &[],
    );
    check(
        field(json!({ "type": "string" })),
        field(json!({ "type": "string", "enum": ["x"] })),
        &["a: only these values are allowed now: \"x\" (/properties/a/enum)"],
        &[],
    );
}

#[test]
fn limits_of_numbers_and_texts() {
    let word = |word: &str, value: Value, kind: &str| field(json!({ "type": kind, word: value }));
    for (name, kind, loose, strict) in [
        ("maximum", "number", json!(10), json!(9.5)),
        ("minimum", "number", json!(0.1), json!(0.2)),
        ("exclusiveMaximum", "number", json!(10), json!(9)),
        ("exclusiveMinimum", "number", json!(1), json!(2)),
        ("multipleOf", "number", json!(0.01), json!(0.1)),
        ("maxLength", "string", json!(10), json!(9)),
        ("minLength", "string", json!(1), json!(2)),
    ] {
        let (loosely, strictly) = (
            word(name, loose.clone(), kind),
            word(name, strict.clone(), kind),
        );
        let path = format!("(/properties/a/{name})");
        let closer = format!("a: `{name}` is {strict} now, and was {loose} {path}");
        let wider = format!("a: `{name}` is {loose} now, and was {strict} {path}");
        check(loosely.clone(), strictly.clone(), &[&closer], &[]);
        check(strictly.clone(), loosely.clone(), &[], &[&wider]);
        let none = field(json!({ "type": kind }));
        let new = format!("a: `{name}` is {loose} now, and was not there {path}");
        let gone = format!("a: `{name}` is gone, and was {loose} (/properties/a)");
        check(none.clone(), loosely.clone(), &[&new], &[]);
        check(loosely, none, &[], &[&gone]);
    }
}

#[test]
fn patterns_and_formats() {
    check(
        field(json!({ "type": "string", "pattern": "^[A-Z]{2}$" })),
        field(json!({ "type": "string", "pattern": "^[A-Z]{3}$" })),
        &["a: `pattern` is \"^[A-Z]{3}$\" now, and was \"^[A-Z]{2}$\" (/properties/a/pattern)"],
        &["a: `pattern` is \"^[A-Z]{3}$\" now, and was \"^[A-Z]{2}$\" (/properties/a/pattern)"],
    );
    check(
        field(json!({ "type": "string" })),
        field(json!({ "type": "string", "format": "date" })),
        &["a: `format` is \"date\" now, and was not there (/properties/a/format)"],
        &[],
    );
    check(
        field(json!({ "enum": ["DE", "AT"] })),
        field(json!({ "type": "string", "pattern": "^[A-Z]{2}$", "maxLength": 2 })),
        &[],
        &["a: other values are allowed now than \"DE\", \"AT\" (/properties/a)"],
    );
}

#[test]
fn lists() {
    let list = |schema: Value| field(schema);
    check(
        list(json!({ "type": "array", "items": { "type": "string" } })),
        list(json!({ "type": "array", "items": { "type": ["string", "null"] }, "minItems": 1 })),
        &["a: `minItems` is 1 now, and was not there (/properties/a/minItems)"],
        &["a[]: the type `null` is allowed now (/properties/a/items)"],
    );
    check(
        list(json!({ "type": "array", "prefixItems": [{ "type": "string" }], "items": false })),
        list(
            json!({ "type": "array", "prefixItems": [{ "type": "string" }, { "type": "integer" }], "items": false }),
        ),
        &[],
        &["a[]: something is allowed here now (/properties/a/prefixItems/1)"],
    );
    check(
        list(json!({ "type": "array", "uniqueItems": true, "maxItems": 3 })),
        list(json!({ "type": "array", "maxItems": 4 })),
        &[],
        &[
            "a: `maxItems` is 4 now, and was 3 (/properties/a/maxItems)",
            "a: `uniqueItems` is gone, and was true (/properties/a)",
        ],
    );
}

#[test]
fn alternatives() {
    let one = |kinds: &[&str]| {
        let branches: Vec<Value> = kinds
            .iter()
            .map(|kind| {
                json!({ "type": "object", "required": ["kind", "id"], "additionalProperties": false,
                        "properties": { "kind": { "const": kind }, "id": { "type": "string" } } })
            })
            .collect();
        json!({ "oneOf": branches })
    };
    check(
        one(&["a", "b"]),
        one(&["a", "b", "c"]),
        &[],
        &["kind: the value \"c\" is new (/oneOf/2/properties/kind/const)"],
    );
    check(
        one(&["a", "b", "c"]),
        one(&["c", "a"]),
        &["kind: the value \"b\" is no longer allowed (/oneOf/0/properties/kind/const)"],
        &[],
    );
    check(
        json!({ "anyOf": [{ "type": "string", "maxLength": 5 }, { "type": "null" }] }),
        json!({ "anyOf": [{ "type": "null" }, { "type": "string", "maxLength": 9 }, { "type": "integer" }] }),
        &[],
        &[
            ": `maxLength` is 9 now, and was 5 (/anyOf/1/maxLength)",
            ": none of the old alternatives is known to take what is allowed now ()",
        ],
    );
}

#[test]
fn conditions() {
    let rule = |then: Value| {
        json!({ "type": "object", "additionalProperties": false,
            "properties": { "express": { "type": "boolean" }, "phone": { "type": "string" } },
            "if": { "properties": { "express": { "const": true } }, "required": ["express"] }, "then": then })
    };
    check(
        rule(json!({ "required": ["phone"] })),
        rule(json!(true)),
        &[],
        &[": the field `phone` is no longer required (/properties/phone)"],
    );
    check(
        json!({ "not": { "const": 1 } }),
        json!({ "not": { "const": 2 } }),
        &[": `not` is not the same; whether what was allowed still is cannot be told (/not)"],
        &[
            ": `not` is not the same; whether the old version takes what is allowed now cannot be told ()",
        ],
    );
}

#[test]
fn references_across_files_and_circles() {
    let tree = |word: &str| {
        json!({ "type": "object", "properties": { word: { "type": "string" }, "children": { "type": "array", "items": { "$ref": "#" } } },
                "additionalProperties": false })
    };
    check(tree("a"), tree("a"), &[], &[]);
    let mut wider = tree("a");
    wider["properties"]["b"] = json!({ "type": "string" });
    check(
        tree("a"),
        wider,
        &[],
        &[": the field `b` is new, and the old version refuses further fields (/properties/b)"],
    );
    let order = json!({ "type": "object", "properties": { "total": { "$ref": "money.v1.json" } } });
    let money =
        |amount: &str| json!({ "type": "object", "properties": { "amount": { "type": amount } } });
    let (cents, text) = (money("integer"), money("string"));
    let old = schemas(&[("b/order.v1", &order), ("b/money.v1", &cents)]);
    let new = schemas(&[("b/order.v1", &order), ("b/money.v1", &text)]);
    let found = compare((&old, "b/order.v1"), (&new, "b/order.v1")).unwrap();
    assert_eq!(found.word(), "breaking");
    let change = &found.backward[0];
    assert_eq!(change.path, "total.amount");
    assert_eq!(
        change.place,
        (
            "b/money.v1".to_owned(),
            "/properties/amount/type".to_owned()
        )
    );
    assert!(compare((&old, "b/none"), (&new, "b/none")).is_none());
}

#[test]
fn what_is_not_understood_is_never_called_compatible() {
    let old = json!({ "type": "array", "items": { "type": "string" } });
    let word = "whether what was allowed still is cannot be told";
    let told = |new: Value| told(&compared(&old, &new).backward);
    assert_eq!(
        told(json!({ "$dynamicAnchor": "a", "$dynamicRef": "#a" })),
        [format!(
            "? : `$dynamicRef` is not the same; {word} (/$dynamicRef)"
        )]
    );
    assert_eq!(
        told(json!({ "contains": { "type": "string", "format": "ipv4" } })),
        [format!(": `contains` is not the same; {word} (/contains)")]
    );
    assert_eq!(
        told(json!({ "unevaluatedItems": false })),
        [format!(
            ": `unevaluatedItems` is not the same; {word} (/unevaluatedItems)"
        )]
    );
    assert_eq!(
        compared(&old, &json!({ "minItems": 1e30 })).word(),
        "breaking"
    );
}

#[test]
fn places_are_those_of_the_text() {
    let text = "\u{feff}\n { \"a\": [1, { \"b/c\": \"x\" }] }";
    let at = |pointer: &str| span_of(text, pointer).map(|(start, end)| &text[start..end]);
    assert_eq!(at("/a/1/b~1c"), Some("\"x\""));
    assert_eq!(at("/a/7"), Some("[1, { \"b/c\": \"x\" }]"));
    assert_eq!(at(""), Some("{ \"a\": [1, { \"b/c\": \"x\" }] }"));
}

/// Schemas as people write them, small.
fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(true)),
        Just(json!({ "type": "string" })),
        (0..4_u64, 3..6_u64)
            .prop_map(|(a, b)| json!({ "type": "string", "minLength": a, "maxLength": b })),
        Just(json!({ "type": "string", "pattern": "^[A-Z]{2}$" })),
        Just(json!({ "type": "string", "format": "date" })),
        Just(json!({ "type": ["string", "null"] })),
        (-2..3_i64, 0..5_i64)
            .prop_map(|(a, b)| json!({ "type": "integer", "minimum": a, "maximum": a + b })),
        (-2..3_i64).prop_map(|a| json!({ "type": "number", "exclusiveMinimum": a })),
        Just(json!({ "type": "number", "multipleOf": 0.5 })),
        Just(json!({ "type": "boolean" })),
        Just(json!({ "type": "null" })),
        proptest::sample::subsequence(
            vec![json!("a"), json!("b"), json!(1), json!(null), json!(true)],
            1..4
        )
        .prop_map(|values| json!({ "enum": values })),
        Just(json!({ "const": { "a": "x" } })),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let field = proptest::sample::subsequence(vec!["a", "b", "c"], 0..3);
        let object = (
            proptest::collection::btree_map("[abc]", inner.clone(), 0..3),
            field,
            proptest::option::of(prop_oneof![Just(json!(false)), inner.clone()]),
            proptest::option::of(inner.clone()),
        )
            .prop_map(|(fields, required, more, matched)| {
                let mut schema = json!({ "type": "object", "properties": fields, "required": required });
                if let Some(more) = more {
                    schema["additionalProperties"] = more;
                }
                if let Some(matched) = matched {
                    schema["patternProperties"] = json!({ "^[bc]$": matched });
                }
                schema
            });
        let list = (inner.clone(), 0..3_u64, proptest::option::of(1..4_u64), any::<bool>()).prop_map(
            |(items, least, most, unique)| {
                let mut schema = json!({ "type": "array", "items": items, "minItems": least, "uniqueItems": unique });
                if let Some(most) = most {
                    schema["maxItems"] = json!(least + most);
                }
                schema
            },
        );
        let several = |word: &'static str| {
            proptest::collection::vec(inner.clone(), 1..4).prop_map(move |all| json!({ word: all }))
        };
        let condition = (inner.clone(), inner.clone(), inner.clone())
            .prop_map(|(a, b, c)| json!({ "if": a, "then": b, "else": c }));
        prop_oneof![
            3 => object,
            2 => list,
            1 => several("anyOf"),
            1 => several("oneOf"),
            1 => several("allOf"),
            1 => condition,
            1 => inner.prop_map(|one| json!({ "not": one })),
        ]
    })
}

/// A schema, and one that was made of it by a few edits, as versions are.
fn versions() -> impl Strategy<Value = (Value, Value)> {
    (
        any_schema(),
        any_schema(),
        any::<prop::sample::Index>(),
        0..6_u8,
    )
        .prop_map(|(old, other, at, edit)| {
            let mut new = old.clone();
            let mut places = Vec::new();
            pointers(&new, String::new(), &mut places);
            let at = at.get(&places).clone();
            if edit == 0 {
                return (old, other);
            }
            if let Some(place) = new.pointer_mut(&at) {
                match (edit, place.as_object_mut()) {
                    (1, Some(schema)) => {
                        schema.remove("required");
                    }
                    (2, Some(schema)) => {
                        schema.remove("additionalProperties");
                    }
                    (3, Some(schema)) if schema.get("type") == Some(&json!("string")) => {
                        *place = json!({ "type": ["string", "null"] });
                    }
                    (4, Some(schema)) => {
                        schema.remove("minLength");
                        schema.remove("minimum");
                        schema.remove("pattern");
                        schema.remove("uniqueItems");
                    }
                    _ => *place = json!({ "anyOf": [place.clone(), other] }),
                }
            }
            (old, new)
        })
}

/// The places of schemas within a schema.
fn pointers(schema: &Value, at: String, places: &mut Vec<String>) {
    places.push(at.clone());
    for word in ["items", "additionalProperties", "if", "then", "else", "not"] {
        if schema.get(word).is_some_and(Value::is_object) {
            pointers(&schema[word], format!("{at}/{word}"), places);
        }
    }
    for word in ["anyOf", "oneOf", "allOf"] {
        for (index, value) in schema[word].as_array().into_iter().flatten().enumerate() {
            pointers(value, format!("{at}/{word}/{index}"), places);
        }
    }
    for word in ["properties", "patternProperties"] {
        for (name, value) in schema[word].as_object().into_iter().flatten() {
            pointers(value, format!("{at}/{word}/{name}"), places);
        }
    }
}

/// Bodies of all kinds.
fn any_body() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::Bool),
        (-3..6_i64).prop_map(|n| json!(n)),
        (-6..12_i64).prop_map(|n| json!(n as f64 / 4.0)),
        prop_oneof![
            Just("a"),
            Just("b"),
            Just(""),
            Just("DE"),
            Just("2026-11-21"),
            Just("abcdefg")
        ]
        .prop_map(|text| json!(text)),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::btree_map("[abcd]", inner, 0..4).prop_map(|fields| json!(fields)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is called compatible is: no body of the one version is refused by the other. And what is shown as a break is one.
    #[test]
    fn a_yes_is_true_and_a_no_is_shown((old, new) in versions(), bodies in proptest::collection::vec(any_body(), 40)) {
        let (olds, news) = (schemas(&[("a", &old)]), schemas(&[("a", &new)]));
        let found = compare((&olds, "a"), (&news, "a")).unwrap();
        for (direction, writers, readers) in [(Direction::Backward, &olds, &news), (Direction::Forward, &news, &olds)] {
            let (writer, reader) = (writers.get("a").unwrap(), readers.get("a").unwrap());
            if found.fit(direction) == Fit::Proved {
                let both = Both::new(writers, readers);
                let facts = Facts::of(&both, vec![both.root(Side::Narrow, "a").unwrap()]);
                let wide = both.root(Side::Wide, "a").unwrap();
                let made = Sampler::new(&both, 5_000).with_hints(&wide).values(&facts, 0);
                for body in bodies.iter().chain(&made) {
                    let text = Body::new(body.to_string());
                    let document = text.document().unwrap();
                    prop_assert!(
                        !writer.is_valid(document) || reader.is_valid(document),
                        "{direction:?} {old} -> {new}: {body}"
                    );
                }
            }
            for witness in found.changes(direction).iter().filter_map(|change| change.witness.as_ref()) {
                let text = Body::new(witness.clone());
                let document = text.document().unwrap();
                prop_assert!(writer.is_valid(document) && !reader.is_valid(document), "{direction:?} {old} -> {new}: {witness}");
            }
        }
    }
}
