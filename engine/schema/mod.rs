//! JSON Schema: compile, apply over the tape. Pure; no network.

use std::collections::BTreeMap;
use std::sync::Arc;

use jsonschema::Validator;
use serde_json::Value;

use crate::body::Item;
use crate::diagnostic::{File, Findings};

pub mod bundle;
pub mod compatible;
pub(crate) mod fit;
pub(crate) mod generate;
pub(crate) mod infer;
mod keywords;
mod load;
pub(crate) mod place;
mod tape;
pub(crate) mod witness;
mod words;

use fit::Rule;
use infer::Hop;
use tape::{TapeJson, TapeNode};

/// How many breaches of one document are told.
pub const BREACHES_MAX: usize = 20;

/// The kinds of mistakes in schema files.
pub mod codes {
    use crate::diagnostic::Code;

    /// The file is not JSON.
    pub const SCHEMA_JSON: Code = Code {
        name: "schema-json",
        meaning: "A schema file is not JSON",
    };
    /// The schema breaks the rules of JSON Schema.
    pub const INVALID_SCHEMA: Code = Code {
        name: "invalid-schema",
        meaning: "A schema breaks the rules of JSON Schema",
    };
    /// A `$ref` that leads nowhere.
    pub const UNKNOWN_SCHEMA_REFERENCE: Code = Code {
        name: "unknown-schema-reference",
        meaning: "A `$ref` names a schema, or a part of one, that does not exist in the project",
    };
    /// Two schemas with the same `$id`.
    pub const DUPLICATE_SCHEMA_ID: Code = Code {
        name: "duplicate-schema-id",
        meaning: "Two schemas have the same `$id`",
    };

    /// A word that is like one of JSON Schema.
    pub const UNKNOWN_KEYWORD: Code = Code {
        name: "unknown-keyword",
        meaning: "A schema has a word that JSON Schema does not know and that is like one that it knows: it checks nothing",
    };

    /// All of them, for the reference.
    pub const ALL: &[Code] = &[
        SCHEMA_JSON,
        INVALID_SCHEMA,
        UNKNOWN_SCHEMA_REFERENCE,
        DUPLICATE_SCHEMA_ID,
        UNKNOWN_KEYWORD,
    ];
}

/// The schemas of a project, by name: the path below `schemas/` without `.json`, such as `canonical/order.v1`.
#[derive(Clone, Debug, Default)]
pub struct Schemas {
    by_name: BTreeMap<String, Arc<Schema>>,
}

impl Schemas {
    /// Reads and compiles schemas, each with its name; what is wrong becomes findings. A schema with mistakes keeps its name, so that what
    /// refers to it is not wrong too. Nothing is fetched: references lead to schemas of the project.
    pub fn load(files: &[(String, Arc<File>)], findings: &mut Findings) -> Schemas {
        load::schemas(files, findings)
    }

    /// The schema with this name.
    pub fn get(&self, name: &str) -> Option<Arc<Schema>> {
        self.by_name.get(name).cloned()
    }

    /// The name as it is kept here, if there is a schema with it.
    pub fn known(&self, name: &str) -> Option<&str> {
        self.by_name
            .get_key_value(name)
            .map(|(name, _)| name.as_str())
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The schema's own JSON, for those who reason about it.
    pub fn raw(&self, name: &str) -> Option<&Value> {
        self.by_name.get(name).map(|schema| &*schema.raw)
    }
}

/// A compiled schema.
pub struct Schema {
    name: String,
    raw: Arc<Value>,
    /// Nothing if the schema has mistakes.
    validator: Option<Validator<TapeJson>>,
}

/// One way in which a document breaks a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Where in the document, as a JSON pointer; empty for the whole.
    pub path: String,
    /// What is wrong, in a few words.
    pub message: String,
}

impl std::fmt::Display for Breach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Schema {
    /// The schema's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The schema's own JSON.
    pub fn raw(&self) -> &Value {
        &self.raw
    }

    /// Whether the document keeps to the schema.
    pub fn is_valid(&self, item: Item<'_>) -> bool {
        self.validator
            .as_ref()
            .is_some_and(|validator| validator.is_valid(TapeNode::Item(item)))
    }

    /// Checks a document. At most [`BREACHES_MAX`] breaches are told.
    pub fn validate(&self, item: Item<'_>) -> Result<(), Vec<Breach>> {
        let Some(validator) = &self.validator else {
            return Err(vec![Breach {
                path: String::new(),
                message: format!("the schema `{}` has mistakes", self.name),
            }]);
        };
        // Most documents are valid, and saying so is several times faster than looking for errors.
        if validator.is_valid(TapeNode::Item(item)) {
            return Ok(());
        }
        let breaches = validator
            .iter_errors(TapeNode::Item(item))
            .take(BREACHES_MAX)
            .map(|error| Breach {
                path: error.instance_path().as_str().to_owned(),
                message: words::message(&error),
            })
            .collect();
        Err(breaches)
    }
}

/// One way in which a document breaks a schema, for those who compare it with what they expected.
pub(crate) struct Broken {
    /// Where, as the way from the top; of a field that is missing, its own.
    pub(crate) at: Vec<Hop>,
    pub(crate) rule: Rule,
}

impl Schema {
    /// How the document breaks the schema, as far as [`BREACHES_MAX`] times goes.
    pub(crate) fn broken_at(&self, item: Item<'_>) -> Vec<Broken> {
        let Some(validator) = &self.validator else {
            return Vec::new();
        };
        let all = validator.iter_errors(TapeNode::Item(item));
        let told = |error: jsonschema::ValidationError<'_>| {
            let mut at = hops(error.instance_path().as_str());
            let (rule, field) = words::rule(&error);
            at.extend(field.map(Hop::Field));
            Broken { at, rule }
        };
        all.take(BREACHES_MAX).map(told).collect()
    }
}

/// The way that a JSON pointer is; numbers are items.
fn hops(pointer: &str) -> Vec<Hop> {
    let parts = pointer.split('/').skip(1);
    let hop = |part: &str| match part.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Hop::Item,
        false => Hop::Field(part.replace("~1", "/").replace("~0", "~")),
    };
    parts.map(hop).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;

    fn load(files: &[(&str, &str)]) -> (Schemas, Vec<String>) {
        let files: Vec<_> = files
            .iter()
            .map(|(name, text)| {
                let path = format!("schemas/{name}.json");
                ((*name).to_owned(), File::new(path, *text))
            })
            .collect();
        let mut findings = Findings::new();
        let schemas = Schemas::load(&files, &mut findings);
        let list = findings
            .iter()
            .map(|finding| {
                let (line, column) = finding.place.line_column();
                format!(
                    "{} {}:{line}:{column} {} ({})",
                    finding.code, finding.place.file.path, finding.message, finding.help
                )
            })
            .collect();
        (schemas, list)
    }

    fn schema(text: &str) -> Arc<Schema> {
        let (schemas, findings) = load(&[("a", text)]);
        assert!(findings.is_empty(), "{findings:?}");
        schemas.get("a").unwrap()
    }

    /// Validates and lists the breaches.
    fn breaches(schema: &Schema, body: &str) -> Vec<String> {
        let body = Body::new(body.to_owned());
        match schema.validate(body.document().unwrap()) {
            Ok(()) => Vec::new(),
            Err(breaches) => breaches.iter().map(Breach::to_string).collect(),
        }
    }

    /// Each body with whether it is valid.
    fn check(text: &str, bodies: &[(&str, bool)]) {
        let schema = schema(text);
        for (body, valid) in bodies {
            let found = breaches(&schema, body);
            assert_eq!(found.is_empty(), *valid, "{text} on {body}: {found:?}");
            let body = Body::new((*body).to_owned());
            assert_eq!(schema.is_valid(body.document().unwrap()), *valid);
        }
    }

    #[test]
    fn numbers_are_exact() {
        check(
            r#"{"const": 9007199254740993}"#,
            &[
                ("9007199254740993", true),
                ("9007199254740992", false),
                ("9007199254740993.0", true),
            ],
        );
        check(
            r#"{"enum": [9007199254740993, 0.1]}"#,
            &[
                ("9007199254740994", false),
                ("0.10", true),
                ("0.1000000000000000001", false),
                ("1e-1", true),
            ],
        );
        check(
            r#"{"const": {"a": [1, {"b": 2.50}]}}"#,
            &[
                (r#"{"a": [1.0, {"b": 25e-1}]}"#, true),
                (r#"{"a": [1, {"b": 2.51}]}"#, false),
            ],
        );
        check(
            r#"{"maximum": 9007199254740992}"#,
            &[
                ("9007199254740992", true),
                ("9007199254740993", false),
                ("1e400", false),
                ("-1e400", true),
            ],
        );
        check(
            r#"{"minimum": 0.1}"#,
            &[
                ("0.1", true),
                ("0.0999999999999999999", false),
                ("1e400", true),
                ("1e-400", false),
            ],
        );
        check(
            r#"{"exclusiveMinimum": 0}"#,
            &[("0", false), ("-0.0", false), ("0.01", true)],
        );
        check(
            r#"{"exclusiveMaximum": 0.1}"#,
            &[("0.1", false), ("0.09999999999999999999", true)],
        );
        check(
            r#"{"multipleOf": 0.01}"#,
            &[
                ("19.90", true),
                ("0.07", true),
                ("4.35", true),
                ("1.005", false),
                ("1070468.14", true),
                ("0", true),
            ],
        );
        check(
            r#"{"multipleOf": 3}"#,
            &[
                ("9007199254740993", true),
                ("9007199254740992", false),
                ("6.0", true),
            ],
        );
        check(
            r#"{"type": "integer"}"#,
            &[
                ("1", true),
                ("1.0", true),
                ("1e400", true),
                ("1.5", false),
                ("9007199254740993", true),
                ("15e-1", false),
            ],
        );
        check(
            r#"{"uniqueItems": true}"#,
            &[
                ("[9007199254740993, 9007199254740992]", true),
                ("[1, 1.0]", false),
                ("[1e400, 10e399]", false),
                ("[1e400, 1e399]", true),
                (r#"[{"a":1,"b":2},{"b":2.0,"a":1}]"#, false),
                (r#"["1", 1, [1], null, false, 0]"#, true),
                (r#"["A", "\u0041"]"#, false),
            ],
        );
    }

    #[test]
    fn texts_and_names_are_read_past_their_escapes() {
        check(
            r#"{"properties": {"é": {"maxLength": 2}}, "propertyNames": {"pattern": "^.$"}}"#,
            &[
                ("{\"\\u00e9\": \"\\u00e9\\u00e9\"}", true),
                ("{\"\\u00e9\": \"abc\"}", false),
                (r#"{"ab": 1}"#, false),
            ],
        );
        check(
            r#"{"required": ["a", "b"]}"#,
            &[(r#"{"a":1,"b":null}"#, true), (r#"{"a":1}"#, false)],
        );
    }

    #[test]
    fn formats_are_checked_and_drafts_differ() {
        check(
            r#"{"format": "date-time"}"#,
            &[
                (r#""2026-11-21T06:00:00Z""#, true),
                (r#""yesterday""#, false),
                ("5", true),
            ],
        );
        check(
            r#"{"format": "email"}"#,
            &[(r#""a@b.example""#, true), (r#""a""#, false)],
        );
        check(
            r#"{"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}], "additionalItems": false}"#,
            &[(r#"["a"]"#, true), (r#"["a", 1]"#, false), ("[1]", false)],
        );
        check(
            r#"{"prefixItems": [{"type": "string"}], "items": false}"#,
            &[(r#"["a"]"#, true), (r#"["a", 1]"#, false)],
        );
    }

    #[test]
    fn breaches_say_where_and_what() {
        let schema = schema(
            r#"{
            "type": "object", "additionalProperties": false, "required": ["id", "lines"],
            "properties": {
                "id": {"type": "string", "minLength": 1},
                "lines": {"type": "array", "minItems": 1, "items": {
                    "type": "object", "required": ["sku"],
                    "properties": {"sku": {"type": "string", "pattern": "^[A-Z]+$"}, "quantity": {"type": "integer", "minimum": 1}}
                }},
                "state": {"enum": ["open", "closed"]},
                "size": {"anyOf": [{"type": "string"}, {"type": "integer", "maximum": 5}]}
            }
        }"#,
        );
        assert_eq!(
            breaches(
                &schema,
                r#"{"id": "", "lines": [{"sku": "a", "quantity": 0}, {"quantity": "x"}], "state": "opn", "extra": 1, "size": 7}"#
            ),
            [
                "/id: must have at least 1 character",
                "/lines/0/sku: does not match the pattern ^[A-Z]+$",
                "/lines/0/quantity: must be at least 1",
                "/lines/1: the field `sku` is missing",
                "/lines/1/quantity: must be an integer, but is a string",
                "/state: must be one of: \"open\", \"closed\"",
                "/size: fits none of 2 alternatives; nearest: must be at most 5",
                "unknown field `extra`",
            ]
        );
        assert_eq!(
            breaches(&schema, "[]"),
            ["must be an object, but is an array"]
        );
        let many = format!(r#"{{"id": "a", "lines": [{}{{}}]}}"#, "{},".repeat(500));
        assert_eq!(breaches(&schema, &many).len(), BREACHES_MAX);
        let long = format!(
            r#"{{"id": "a", "lines": [{{"sku": "A"}}], "{}": 1}}"#,
            "x".repeat(10_000)
        );
        assert!(breaches(&schema, &long)[0].len() < 200);
    }

    #[test]
    fn references_lead_through_the_project_and_nowhere_else() {
        let (schemas, findings) = load(&[
            (
                "canonical/order.v1",
                r##"{"properties": {
                "to": {"$ref": "address.v1.json"}, "total": {"$ref": "../common/money.v1.json#/$defs/money"},
                "tax": {"$ref": "crossdock:common/money.v1#/$defs/money"}, "next": {"$ref": "#"}, "id": {"$ref": "https://acme.example/id"}
            }}"##,
            ),
            ("canonical/address.v1", r#"{"required": ["city"]}"#),
            (
                "common/money.v1",
                r##"{"$defs": {"money": {"$ref": "#/$defs/amount"}, "amount": {"type": "string"}}}"##,
            ),
            (
                "common/id",
                r#"{"$id": "https://acme.example/id", "type": "integer"}"#,
            ),
        ]);
        assert!(findings.is_empty(), "{findings:?}");
        let order = schemas.get("canonical/order.v1").unwrap();
        assert_eq!(
            breaches(
                &order,
                r#"{"to": {"city": 1}, "total": "1", "tax": "2", "next": {"total": "3"}, "id": 4}"#
            ),
            [""; 0]
        );
        assert_eq!(
            breaches(
                &order,
                r#"{"to": {}, "total": 1, "tax": 2, "next": {"total": 3}, "id": "x"}"#
            ),
            [
                "/to: the field `city` is missing",
                "/total: must be a string, but is a number",
                "/tax: must be a string, but is a number",
                "/next/total: must be a string, but is a number",
                "/id: must be an integer, but is a string",
            ]
        );
        assert_eq!(
            schemas.names().collect::<Vec<_>>(),
            [
                "canonical/address.v1",
                "canonical/order.v1",
                "common/id",
                "common/money.v1"
            ]
        );
        assert_eq!(schemas.raw("common/id").unwrap()["type"], "integer");
    }

    #[test]
    fn references_that_lead_nowhere_are_found_with_their_place() {
        let (schemas, findings) = load(&[
            (
                "a/order",
                "{\"properties\": {\n  \"to\": {\"$ref\": \"adress.json\"},\n  \"x\": {\"$ref\": \"#/$defs/mony\"},\n  \"y\": {\"$ref\": \"https://acme.example/z\"},\n  \"z\": {\"$ref\": \"file:///etc/passwd\"}\n}, \"$defs\": {\"money\": {}}, \"default\": {\"$ref\": \"no\"}}",
            ),
            ("a/address", "{}"),
        ]);
        assert_eq!(
            findings,
            [
                "unknown-schema-reference schemas/a/order.json:2:18 `adress.json` leads to no schema of the project (did you mean `crossdock:a/address`?)",
                "unknown-schema-reference schemas/a/order.json:3:17 `#/$defs/mony` leads to no schema of the project (did you mean `money`?)",
                "unknown-schema-reference schemas/a/order.json:4:17 `https://acme.example/z` leads to no schema of the project (nothing is fetched: put the schema into the folder schemas/)",
                "unknown-schema-reference schemas/a/order.json:5:17 `file:///etc/passwd` leads to no schema of the project (nothing is fetched: put the schema into the folder schemas/)",
            ]
        );
        let broken = schemas.get("a/order").unwrap();
        assert_eq!(
            breaches(&broken, "{}"),
            ["the schema `a/order` has mistakes"]
        );
    }

    #[test]
    fn broken_schema_files_are_found_with_their_place() {
        let (schemas, findings) = load(&[
            ("a", "\u{feff}{\n  \"é\": 1,\n  \"type\" 5\n}"),
            (
                "b",
                "{\n  \"type\": \"strnig\",\n  \"properties\": {\"x\": {\"minLength\": -1}},\n  \"required\": \"x\"\n}",
            ),
            (
                "c",
                "{\"$schema\": \"http://json-schema.org/draft-04/schema#\"}",
            ),
            ("d", "{\"maximum\": 1e400}"),
            ("e", "{\"pattern\": \"(\"}"),
            ("f", "{\"$id\": \"https://x.example/a\"}"),
            ("g", "{\"$id\": \"https://x.example/a\"}"),
            ("h", "5"),
            ("i", "{\"type\": \"object\", \"type\": \"array\"}"),
        ]);
        let codes: Vec<_> = findings
            .iter()
            .map(|finding| finding.split(' ').take(2).collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            codes,
            [
                "schema-json schemas/a.json:3:10",
                "schema-json schemas/d.json:1:13",
                "schema-json schemas/i.json:1:21",
                "duplicate-schema-id schemas/g.json:1:9",
                "invalid-schema schemas/b.json:3:37",
                "invalid-schema schemas/b.json:2:11",
                "invalid-schema schemas/b.json:4:15",
                "invalid-schema schemas/c.json:1:13",
                "invalid-schema schemas/e.json:1:13",
                "invalid-schema schemas/h.json:1:1",
            ],
            "{findings:#?}"
        );
        assert!(
            findings[5].ends_with("(did you mean `string`?)"),
            "{}",
            findings[5]
        );
        assert!(
            findings[8].contains("`pattern` is not a valid regex"),
            "{}",
            findings[8]
        );
        assert_eq!(schemas.names().count(), 9);
    }

    #[test]
    fn hostile_patterns_and_schemas_that_go_in_circles_end() {
        let started = std::time::Instant::now();
        let text = format!("\"{}!\"", "a".repeat(40));
        let check = |pattern: &str, expect: &str| {
            let schema = schema(&format!(r#"{{"pattern": "{pattern}"}}"#));
            assert_eq!(breaches(&schema, &text).join("; "), expect, "{pattern}");
        };
        check("^(a+)+\\\\1$", "does not match the pattern ^(a+)+\\1$");
        check("^(a+)+$", "does not match the pattern ^(a+)+$");
        check("^(?!aa).*$", "does not match the pattern ^(?!aa).*$");
        check("^(?!ab).*$", "");
        let (schemas, findings) = load(&[
            ("a", r##"{"$ref": "#"}"##),
            ("b", r#"{"$ref": "c.json"}"#),
            ("c", r#"{"$ref": "b.json"}"#),
        ]);
        assert!(findings.is_empty(), "{findings:?}");
        for name in ["a", "b", "c"] {
            let found = breaches(&schemas.get(name).unwrap(), "{}");
            assert!(found.len() < 2, "{found:?}");
        }
        assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    }
}
