//! The reference pages, in Markdown, from the types that read the files. Whoever wants to change a page changes a type's doc comment.

use std::collections::BTreeMap;
use std::fmt::Write;

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

use super::settings::Settings;
use super::shapes::{self, Role};
use super::test::{self, Tests};
use super::{codes, explain, file};
use crate::component::common::Common;
use crate::component::{self, Kind};
use crate::diagnostic::Code;
use crate::system::file::SystemFile;
use crate::world::metrics::words;
use crate::{expression, mapping, schema, source, step, system, yaml};

/// How deep tables follow fields of fields.
const DEPTH_MAX: usize = 4;

/// All pages: the file's name below `docs/reference/`, and its text.
pub fn pages() -> Vec<(&'static str, String)> {
    vec![
        ("sources.md", kinds(Role::Source)),
        ("steps.md", kinds(Role::Step)),
        ("sinks.md", kinds(Role::Sink)),
        ("systems.md", systems()),
        ("settings.md", settings()),
        ("tests.md", tests()),
        ("functions.md", expression::functions::reference()),
        ("diagnostics.md", diagnostics()),
        ("metrics.md", metrics()),
    ]
}

/// The page of metrics.
fn metrics() -> String {
    let mut page = "# Metrics\n\nWhat `/metrics` serves ([telemetry](../operating/telemetry.md)). *Of*: `engine` numbers are of one engine, and engines are summed; \
`store` numbers are the same on all engines that share a store, so the largest is taken (`max by (flow) (..)`), not the sum; `process` numbers are of the \
operating system's process. A label has at most 500 values; all further ones are `_other`.\n\n| metric | kind | labels | of | says |\n| --- | --- | --- | --- | --- |\n"
        .to_owned();
    for word in words::ALL {
        let kind = match word.kind {
            words::Kind::Counter => "counter",
            words::Kind::Gauge => "gauge",
            words::Kind::Histogram(_) => "histogram",
        };
        let of = match word.of {
            words::Of::Engine => "engine",
            words::Of::Store => "store",
            words::Of::Process => "process",
        };
        let labels: Vec<String> = word.labels.iter().map(|one| format!("`{one}`")).collect();
        put(
            &mut page,
            format_args!(
                "| `{}` | {kind} | {} | {of} | {} |\n",
                word.full_name(),
                labels.join(" "),
                word.help
            ),
        );
    }
    page
}

/// Every code that a check can give, by name.
pub fn all_codes() -> Vec<Code> {
    let lists: [&[Code]; 10] = [
        yaml::codes::ALL,
        yaml::shape::codes::ALL,
        schema::codes::ALL,
        mapping::codes::ALL,
        &expression::codes::ALL,
        component::codes::ALL,
        system::codes::ALL,
        source::codes::ALL,
        step::codes::ALL,
        codes::ALL,
    ];
    let mut by_name: BTreeMap<&str, Code> = BTreeMap::new();
    for code in lists.into_iter().flatten() {
        by_name.entry(code.name).or_insert(*code);
    }
    by_name.into_values().collect()
}

const GENERATED: &str = "Generated from the types that read the files; `UPDATE=1 cargo test --test main reference` writes it anew.";

fn kinds(role: Role) -> String {
    let (title, words) = match role {
        Role::Source => (
            "Sources",
            "Where messages come from. A flow has one, below `source`, keyed by its kind.",
        ),
        Role::Step => (
            "Steps",
            "What happens to messages on their way. Each entry of `steps` has one kind, and may have the keys of the last section beside it.",
        ),
        Role::Sink => (
            "Sinks",
            "Where messages go. Each entry of `sinks` has a name, one kind, and may have the keys of the last section beside it, but for `id` and `into`.",
        ),
    };
    let mut page = format!("# {title}\n\n{words}\n\n{GENERATED}\n");
    let names: Vec<String> = role
        .kinds()
        .iter()
        .map(|kind| format!("[`{0}`](#{0})", kind.name))
        .collect();
    put(&mut page, format_args!("\n{}\n", names.join(", ")));
    for kind in role.kinds() {
        part(&mut page, kind);
    }
    if role == Role::Step {
        structure(&mut page);
    }
    if role != Role::Source {
        let mut generator = shapes::generator();
        let common = Common::json_schema(&mut generator).to_value();
        put(
            &mut page,
            format_args!("\n## Beside the kind\n\n{}\n", words_of(&common)),
        );
        let definitions = generator.take_definitions(true);
        table(&mut page, &common, &definitions);
    }
    page
}

fn part(page: &mut String, kind: &Kind) {
    let mut generator = shapes::generator();
    let shape = (kind.schema)(&mut generator).to_value();
    let definitions = generator.take_definitions(true);
    put(
        page,
        format_args!("\n## {}\n\n{}\n", kind.name, words_of(&shape)),
    );
    put(page, format_args!("\n```yaml\n{}```\n", kind.example));
    table(page, &shape, &definitions);
}

/// What stands in `steps` and is no kind.
fn structure(page: &mut String) {
    page.push_str(
        "\n## branch\n\nSteps by condition. The first arm that matches takes the message; without a match it goes past, and all go on behind the branch.\n\n\
         ```yaml\n- id: by-size\n  branch:\n    - when: decimal(total) > `10000`\n      steps:\n        - set: { headers: { x-size: \"'large'\" } }\n    \
         - otherwise: { steps: [{ log: \"an order of the usual size\" }] }\n```\n",
    );
    page.push_str(
        "\n## saga\n\nSteps that are done all, or undone: when one of them fails for good, those before it are undone, the last one first. See the \
         [guide](../guide/sagas.md).\n\n```yaml\n- id: fulfil\n  saga:\n    steps:\n      - id: reserve\n        call: { system: wms, post: /reservations, upsert: true }\n        \
         into: reservation\n        undo: { delete: \"/reservations/{{@reservation.id}}\" }\n      - id: book\n        call: { system: erp, post: /orders, \
         idempotency_key: order_number }\n        pivot: true\n```\n",
    );
    rows(page, &of::<file::Saga>());
    page.push_str(
        "\n## use\n\nPuts the steps of a fragment (`flows/fragments/*.yaml`) here; in `sinks`, its sink. The ids of its steps begin with the `id`, \
         or with the fragment's name.\n",
    );
    rows(page, &of::<file::Use>());
    page.push_str("\nA fragment's file:\n");
    rows(page, &of::<file::Fragment>());
}

fn tests() -> String {
    let schema = of::<Tests>();
    let mut page = format!("# Tests\n\n{}\n\n{GENERATED}\n", words_of(&schema.0));
    page.push_str(
        "\nOne file or several beside a flow: `flows/NAME.test.yaml`. `crossdock test` runs them; the [guide](../guide/testing.md) shows how.\n",
    );
    rows(&mut page, &schema);
    page.push_str("\n## Matchers\n\nWhere a value is expected, a mapping with one of these keys stands for it; several must hold together.\n\n| key | holds for |\n| --- | --- |\n");
    for (key, meaning) in test::value::MEANINGS {
        put(&mut page, format_args!("| `{key}` | {meaning} |\n"));
    }
    page
}

fn systems() -> String {
    let schema = of::<SystemFile>();
    let mut page = format!("# Systems\n\n{}\n\n{GENERATED}\n", words_of(&schema.0));
    page.push_str(
        "\nOne file a system, below `systems/`. Secrets come from `${env:NAME}` or `${file:/run/secrets/name}`.\n",
    );
    rows(&mut page, &schema);
    page
}

fn settings() -> String {
    let schema = of::<Settings>();
    let mut page = format!("# Settings\n\n{}\n\n{GENERATED}\n", words_of(&schema.0));
    page.push_str("\nThey stand in `crossdock.yaml`, in the project's folder.\n");
    rows(&mut page, &schema);
    page
}

fn diagnostics() -> String {
    let mut page = format!(
        "# Diagnostics\n\nEvery finding of `crossdock check`: its code, and what it means. Each has its place, a message and what to do about it.\n\n{GENERATED}\n\n\
         | code | means |\n| --- | --- |\n"
    );
    for code in all_codes() {
        let meaning = cell(&explain::sentence(code.meaning));
        put(&mut page, format_args!("| `{}` | {meaning} |\n", code.name));
    }
    page.push_str("\n`crossdock explain CODE` shows the pages below on the screen.\n");
    for code in all_codes() {
        let Some(one) = explain::pages().get(code.name) else {
            continue;
        };
        put(
            &mut page,
            format_args!(
                "\n## {}\n\n{}.\n\n{}\n\nBad:\n\n```text\n{}\n```\n\nGood:\n\n```text\n{}\n```\n",
                code.name,
                explain::sentence(code.meaning),
                one.why,
                one.bad,
                one.good
            ),
        );
    }
    page
}

/// A type's schema, and the definitions that it refers to.
fn of<T: JsonSchema>() -> (Value, Map<String, Value>) {
    let mut generator: SchemaGenerator = shapes::generator();
    let schema = T::json_schema(&mut generator).to_value();
    let definitions = generator.take_definitions(true);
    (schema, definitions)
}

fn rows(page: &mut String, (schema, definitions): &(Value, Map<String, Value>)) {
    table(page, schema, definitions);
}

/// The table of a type's fields; nothing for a type without fields.
fn table(page: &mut String, schema: &Value, definitions: &Map<String, Value>) {
    let mut table = Table {
        definitions,
        lines: String::new(),
    };
    table.schema(schema, "", 0);
    if !table.lines.is_empty() {
        put(
            page,
            format_args!(
                "\n| field | is | means |\n| --- | --- | --- |\n{}",
                table.lines
            ),
        );
    }
}

struct Table<'d> {
    definitions: &'d Map<String, Value>,
    lines: String,
}

impl Table<'_> {
    /// Adds the fields of a type, and of the types of its fields.
    fn schema(&mut self, schema: &Value, path: &str, depth: usize) {
        if depth > DEPTH_MAX {
            return;
        }
        let schema = self.resolved(schema).clone();
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Value::as_array)
            .map_or(Vec::new(), |names| {
                names.iter().filter_map(Value::as_str).collect()
            });
        for (name, field) in schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            // In a choice by key, the key is what is chosen, not what is required.
            let needed = required.contains(&name.as_str()) && !path.ends_with('|');
            self.field(&path, field, needed, depth);
        }
        for word in ["oneOf", "anyOf", "allOf"] {
            for branch in schema
                .get(word)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let branch = self.resolved(branch).clone();
                if branch.get("properties").is_some()
                    || branch.get("anyOf").is_some()
                    || branch.get("oneOf").is_some()
                {
                    self.choice(&branch, path, depth);
                }
            }
        }
        if let Some(each) = schema.get("items") {
            self.schema(each, &format!("{path}[]"), depth + 1);
        }
        if let Some(each) = schema
            .get("additionalProperties")
            .filter(|each| each.is_object())
        {
            self.schema(each, &format!("{path}.*"), depth + 1);
        }
    }

    /// One of several things that a value can be.
    fn choice(&mut self, branch: &Value, path: &str, depth: usize) {
        let fields = branch.get("properties").and_then(Value::as_object);
        for (name, field) in fields.into_iter().flatten() {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            let words = words_of(branch);
            self.line(&path, field, false, &words);
            self.schema(field, &path, depth + 1);
        }
        if fields.is_none() {
            self.schema(branch, path, depth + 1);
        }
    }

    fn field(&mut self, path: &str, field: &Value, needed: bool, depth: usize) {
        self.line(path, field, needed, "");
        self.schema(field, path, depth + 1);
    }

    fn line(&mut self, path: &str, field: &Value, needed: bool, otherwise: &str) {
        let mut words = words_of(field);
        if words.is_empty() {
            words = words_of(self.resolved(field));
        }
        if words.is_empty() {
            otherwise.clone_into(&mut words);
        }
        let is = self.type_in_words(field, 0);
        let needed = if needed { ", required" } else { "" };
        put(
            &mut self.lines,
            format_args!("| `{path}` | {}{needed} | {} |\n", cell(&is), cell(&words)),
        );
    }

    fn resolved<'v>(&'v self, schema: &'v Value) -> &'v Value {
        let mut schema = schema;
        for _ in 0..8 {
            let Some(name) = schema
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|reference| reference.rsplit('/').next())
            else {
                break;
            };
            match self.definitions.get(name) {
                Some(named) => schema = named,
                None => break,
            }
        }
        schema
    }

    fn type_in_words(&self, schema: &Value, depth: usize) -> String {
        let schema = self.resolved(schema);
        if depth > 6 {
            return "any".to_owned();
        }
        if let Some(words) = schema.get("enum").and_then(Value::as_array) {
            let words: Vec<String> = words
                .iter()
                .filter(|word| !word.is_null())
                .map(literal)
                .collect();
            return words.join(" or ");
        }
        if let Some(word) = schema.get("const") {
            return literal(word);
        }
        for word in ["oneOf", "anyOf"] {
            if let Some(branches) = schema.get(word).and_then(Value::as_array) {
                let mut all: Vec<String> = Vec::new();
                for branch in branches {
                    let words = self.type_in_words(branch, depth + 1);
                    if words != "nothing" && !all.contains(&words) {
                        all.push(words);
                    }
                }
                return all.join(" or ");
            }
        }
        if let Some(format) = schema.get("format").and_then(Value::as_str)
            && let Some((_, words)) = WORDS.iter().find(|(name, _)| *name == format)
        {
            return (*words).to_owned();
        }
        let names: Vec<&str> = match schema.get("type") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => return "any".to_owned(),
        };
        let words: Vec<String> = names
            .into_iter()
            .filter(|name| *name != "null")
            .map(|name| match name {
                "string" => "text".to_owned(),
                "integer" => "whole number".to_owned(),
                "number" => "number".to_owned(),
                "boolean" => "true or false".to_owned(),
                "array" => match schema.get("items") {
                    Some(each) => format!("list of {}", self.type_in_words(each, depth + 1)),
                    None => "list".to_owned(),
                },
                "object" => match schema.get("additionalProperties") {
                    Some(each) if each.is_object() => format!(
                        "mapping of names to {}",
                        self.type_in_words(each, depth + 1)
                    ),
                    _ => "mapping".to_owned(),
                },
                _ => "nothing".to_owned(),
            })
            .collect();
        if words.is_empty() {
            "nothing".to_owned()
        } else {
            words.join(" or ")
        }
    }
}

/// The small words of configs, by the format in their schema.
const WORDS: &[(&str, &str)] = &[
    ("duration-text", "duration"),
    ("size", "size"),
    ("rate", "rate"),
    ("percent", "share"),
    ("jmespath", "expression"),
    ("template", "template"),
    ("secret", "secret"),
];

fn literal(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| format!("`{value}`"), |text| format!("`{text}`"))
}

/// A schema's description, as one paragraph a paragraph.
fn words_of(schema: &Value) -> String {
    let words = schema
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default();
    words
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("\n\n")
}

/// A text that fits into a table's cell.
fn cell(text: &str) -> String {
    text.replace("\n\n", " ").replace('|', "\\|")
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a text takes text");
}
