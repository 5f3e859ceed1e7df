//! Random and broken files never panic: YAML, schemas, templates and formats. What they mean is tested beside each.

use std::sync::Arc;

use crossdock::body::Body;
use crossdock::diagnostic::{File, Findings, render};
use crossdock::format::{FormatConfig, FormatName, Position};
use crossdock::message::{Message, MessageId};
use crossdock::schema::Schemas;
use crossdock::template::{Escape, Template};
use crossdock::yaml;
use proptest::collection::vec;
use proptest::prelude::*;

/// Pieces that mean something, to be put together at random.
fn text_of(pieces: &'static [&'static str]) -> impl Strategy<Value = String> {
    vec(proptest::sample::select(pieces), 0..40).prop_map(|pieces| pieces.concat())
}

const YAML: &[&str] = &[
    "a", "ä", "😀", ": ", ":", "- ", "\n", "\r\n", "\n  ", "\n    ", "\t", " ", "[", "]", "{", "}",
    ", ", "'", "\"", "|", ">", "|2\n", "&x ", "*x", "!t ", "!!str ", "#", " #1", "? ", "%", "@",
    "`", "---\n", "...\n", "~", "1.5", "yes", ".inf", "\\", "\\u00", "<<", "{{x}}", "\u{feff}",
    "\u{85}", "\0", "==",
];
const SCHEMA: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"$ref\"",
    "\"#/$defs/a\"",
    "\"$id\"",
    "\"x\"",
    "\"type\"",
    "\"strnig\"",
    "1",
    "1e999",
    "\"pattern\"",
    "\"(\"",
    "\n",
    "\"ä😀\"",
    "true",
    "\u{feff}",
    "{\"$ref\":\"b.json#\"}",
    "{\"type\":\"object\"}",
];
const TEMPLATE: &[&str] = &[
    "{{",
    "}}",
    "{{{",
    "}}}",
    "a",
    "ä",
    ".",
    "/",
    "../",
    "@",
    "@key",
    "@today",
    "#if ",
    "#each ",
    "/if",
    "/each",
    "else",
    " ",
    "(",
    ")",
    "eq ",
    "\"",
    "'",
    "[",
    "]",
    "~",
    "!",
    "!--",
    "--",
    ">",
    "*",
    "as |x|",
    "$v",
    "{{#each a}}",
    "{{/each}}",
    "{{a}}",
    "\\",
    "^",
    "\n",
];
const FILE: &[&str] = &[
    "a",
    "ä",
    ",",
    "\"",
    "\n",
    "\r",
    "\r\n",
    "1",
    "\0",
    "<a>",
    "</a>",
    "<a/>",
    "<",
    "&amp;",
    "&#0;",
    "&",
    "<![CDATA[",
    "]]>",
    "<!--",
    "-->",
    "<!DOCTYPE a>",
    "{\"a\":1}",
    "{",
    "[",
    "]",
    "}",
    "=",
    "<?xml encoding='utf-16'?>",
    "\u{feff}",
    " ",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn yaml_never_panics(text in text_of(YAML)) {
        let file = File::new("a.yaml", text);
        let mut findings = Findings::new();
        let node = yaml::parse(&file, &mut findings);
        prop_assert!(node.is_some() || findings.has_errors());
        if let Some(node) = node {
            let schema = serde_json::json!({ "type": "object", "required": ["b"], "properties": { "a": { "type": "integer" } },
                "additionalProperties": false });
            yaml::shape::check(&schema, &node, &file, &mut findings);
            walk(&node, &file);
        }
        rendered(&findings);
    }

    #[test]
    fn schemas_never_panic(text in text_of(SCHEMA)) {
        let files = [("a".to_owned(), File::new("a.json", text)), ("b".to_owned(), File::new("b.json", "{}"))];
        let mut findings = Findings::new();
        let schemas = Schemas::load(&files, &mut findings);
        let body = Body::new(r#"{"x": [1]}"#);
        if let (Some(schema), Ok(item)) = (schemas.get("a"), body.document()) {
            prop_assert_eq!(schema.is_valid(item), schema.validate(item).is_ok());
        }
        rendered(&findings);
    }

    #[test]
    fn templates_never_panic(text in text_of(TEMPLATE)) {
        match Template::compile(&text) {
            Ok(template) => {
                for path in template.paths() {
                    prop_assert_eq!(text.get(path.start..path.end), Some(path.text.as_str()));
                }
                let body = Body::new(r#"{"a": [{"a": "ä"}], "ä": {"a": 1}}"#);
                let message = Message::new(MessageId(1), 0, body);
                for escape in [Escape::None, Escape::UrlPath, Escape::Json, Escape::Csv] {
                    let _rendered = template.render(&message, escape);
                }
            }
            Err(fault) => prop_assert!(text.get(fault.start..fault.end).is_some(), "{:?}", fault),
        }
    }

    #[test]
    fn formats_never_panic_and_do_not_depend_on_the_pieces(text in text_of(FILE), size in 1_usize..9) {
        for name in [FormatName::Json, FormatName::Jsonl, FormatName::Csv, FormatName::Xml] {
            let format = FormatConfig::Name(name).ready().unwrap();
            let read = |size: usize| {
                let mut decoder = format.decoder(None, Position::default());
                let mut found = Vec::new();
                for piece in text.as_bytes().chunks(size) {
                    decoder.feed(piece);
                    while let Some(next) = decoder.next_document() {
                        found.push(next.map(|document| document.body).map_err(|broken| broken.failure));
                    }
                }
                decoder.finish();
                while let Some(next) = decoder.next_document() {
                    found.push(next.map(|document| document.body).map_err(|broken| broken.failure));
                }
                found
            };
            let whole = read(text.len().max(1));
            prop_assert_eq!(&whole, &read(size));
            for body in whole.iter().flatten() {
                prop_assert!(body.document().is_ok(), "{:?}", body);
                let _encoded = format.encode(body.document().unwrap());
            }
        }
    }
}

/// Every place of a node must lie within the file, at the borders of characters.
fn walk(node: &yaml::Node, file: &Arc<File>) {
    assert!(file.text.get(node.span.start..node.span.end).is_some());
    if let Some(text) = node.as_text() {
        for (at, _) in text.char_indices() {
            let span = node.span_within(file, at, text.len());
            assert!(
                file.text.get(span.start..span.end).is_some(),
                "{text:?} at {at}"
            );
        }
    }
    for (key, value) in node.entries() {
        assert!(file.text.get(key.span.start..key.span.end).is_some());
        walk(value, file);
    }
    node.items().iter().for_each(|item| walk(item, file));
}

fn rendered(findings: &Findings) {
    for finding in findings.iter() {
        let span = finding.place.span;
        assert!(
            finding.place.file.text.get(span.start..span.end).is_some(),
            "{finding:?}"
        );
    }
    let mut out = Vec::new();
    render::text(findings, &mut out, true).unwrap();
    render::json(findings, &mut out).unwrap();
    render::sarif(findings, &mut out).unwrap();
    render::github(findings, &mut out).unwrap();
}
