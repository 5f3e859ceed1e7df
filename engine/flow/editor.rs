//! JSON Schemas of a project's files, for editors and CI, from the same types that the engine reads. What they cannot say, `check` does.
#![allow(
    clippy::disallowed_methods,
    reason = "writes schemas into the project on request, and nothing depends on them"
)]

use std::path::Path;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::file;
use super::settings::Settings;
use super::shapes::Role;
use super::test::Tests;
use crate::component::Kind;
use crate::component::common::Common;
use crate::diagnostic::{File, Findings};
use crate::system::file::SystemFile;
use crate::yaml;

/// The folder of the schemas, below a project's folder.
pub const FOLDER: &str = "schemas/crossdock";

/// All schemas: the file's name and its text.
pub fn all() -> Vec<(&'static str, String)> {
    let schemas = [
        ("flow.schema.json", flow()),
        ("fragment.schema.json", fragment()),
        ("mapping.schema.json", mapping()),
        ("system.schema.json", system()),
        (
            "test.schema.json",
            of::<Tests>("Flow tests of a Crossdock project"),
        ),
        (
            "project.schema.json",
            of::<Settings>("crossdock.yaml, the settings of a Crossdock project"),
        ),
    ];
    schemas
        .into_iter()
        .map(|(name, mut schema)| {
            describe(&mut schema);
            let text = serde_json::to_string_pretty(&schema).expect("a JSON value is JSON");
            (name, text + "\n")
        })
        .collect()
}

/// A system: reached over HTTP, or a database.
fn system() -> Value {
    let mut schema = of::<SystemFile>("A system of a Crossdock project");
    if let Some(required) = schema["required"].as_array_mut() {
        required.retain(|name| name != "http");
    }
    schema["oneOf"] = json!([{ "required": ["http"] }, { "required": ["sql"] }]);
    schema
}

/// Writes all schemas below a project's folder; gives the paths.
pub fn write_all(root: &Path) -> std::io::Result<Vec<String>> {
    let folder = root.join(FOLDER);
    std::fs::create_dir_all(&folder)?;
    let mut paths = Vec::new();
    for (name, text) in all() {
        std::fs::write(folder.join(name), text)?;
        paths.push(format!("{FOLDER}/{name}"));
    }
    Ok(paths)
}

fn generator() -> SchemaGenerator {
    SchemaSettings::draft07().into_generator()
}

fn of<T: JsonSchema>(title: &str) -> Value {
    let mut schema = generator().into_root_schema_for::<T>().to_value();
    if let Value::Object(schema) = &mut schema {
        schema.insert("title".to_owned(), title.into());
    }
    schema
}

/// A flow: its head by its type, its entries by kind.
fn flow() -> Value {
    let mut schema = of::<file::Flow>("A flow of a Crossdock project");
    let mut definitions = Definitions::of(&mut schema);
    let entry = source(&mut definitions.generator);
    definitions.add("source", entry);
    definitions.entries();
    put(&mut schema, &["properties", "source"], reference("source"));
    put(&mut schema, &["properties", "steps"], reference("steps"));
    let sinks = json!({
        "type": "object",
        "minProperties": 1,
        "propertyNames": { "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$" },
        "additionalProperties": { "$ref": "#/definitions/sink" },
    });
    put(&mut schema, &["properties", "sinks"], sinks);
    definitions.into(schema)
}

/// A fragment: a value may be a parameter wherever a flow has a number or a word.
fn fragment() -> Value {
    let mut schema = of::<file::Fragment>("A fragment of a Crossdock project");
    let mut definitions = Definitions::of(&mut schema);
    definitions.entries();
    // The fragment's own parameters are no place for parameters; all that the entries need is.
    for name in ["step", "sink"] {
        if let Some(entry) = definitions.map.get_mut(name) {
            take_parameters(entry);
        }
    }
    for (name, mut definition) in definitions.generator.take_definitions(true) {
        take_parameters(&mut definition);
        definitions.map.entry(name).or_insert(definition);
    }
    put(&mut schema, &["properties", "steps"], reference("steps"));
    put(&mut schema, &["properties", "sink"], reference("sink"));
    definitions.into(schema)
}

/// The definitions of a schema, while they are collected.
struct Definitions {
    generator: SchemaGenerator,
    map: Map<String, Value>,
}

impl Definitions {
    /// Takes the definitions out of a schema.
    fn of(schema: &mut Value) -> Definitions {
        let map = match schema.get_mut("definitions").map(Value::take) {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        Definitions {
            generator: generator(),
            map,
        }
    }

    fn add(&mut self, name: &str, schema: Value) {
        self.map.insert(name.to_owned(), schema);
    }

    /// Steps and sinks.
    fn entries(&mut self) {
        let step = entry(Role::Step, &mut self.generator);
        let sink = entry(Role::Sink, &mut self.generator);
        self.add("step", step);
        self.add("sink", sink);
        self.add(
            "steps",
            json!({ "type": "array", "items": { "$ref": "#/definitions/step" } }),
        );
    }

    /// Puts the definitions back, with those that the entries have made.
    fn into(mut self, mut schema: Value) -> Value {
        for (name, definition) in self.generator.take_definitions(true) {
            self.map.entry(name).or_insert(definition);
        }
        if let Value::Object(schema) = &mut schema {
            schema.insert("definitions".to_owned(), Value::Object(self.map));
        }
        schema
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/definitions/{name}") })
}

/// Replaces a schema at a path, and keeps its description.
fn put(schema: &mut Value, path: &[&str], mut with: Value) {
    let mut at = schema;
    for part in path {
        at = &mut at[*part];
    }
    if let (Some(words), Value::Object(with)) = (at.get("description").cloned(), &mut with) {
        with.insert("description".to_owned(), words);
        // In draft 7 nothing beside a reference counts.
        if let Some(reference) = with.remove("$ref") {
            with.insert("allOf".to_owned(), json!([{ "$ref": reference }]));
        }
    }
    *at = with;
}

/// A source: exactly one kind.
fn source(generator: &mut SchemaGenerator) -> Value {
    let kinds = Role::Source.kinds();
    let fields: Map<String, Value> = kinds
        .iter()
        .map(|kind| (kind.name.to_owned(), of_kind(kind, generator)))
        .collect();
    json!({
        "type": "object",
        "properties": fields,
        "additionalProperties": false,
        "minProperties": 1,
        "maxProperties": 1,
    })
}

/// A kind's config, with its example.
fn of_kind(kind: &Kind, generator: &mut SchemaGenerator) -> Value {
    let mut schema = (kind.schema)(generator).to_value();
    let example = example_of(kind.name, kind.example);
    if let (Value::Object(schema), Some(example)) = (&mut schema, example) {
        schema.insert("examples".to_owned(), json!([example]));
    }
    schema
}

/// The config in an example: what stands behind the kind.
fn example_of(kind: &str, example: &str) -> Option<Value> {
    let node = yaml::parse(&File::new("example.yaml", example), &mut Findings::new())?;
    let mut open = vec![&node];
    while let Some(node) = open.pop() {
        if let Some(config) = node.get(kind) {
            return Some(config.to_json());
        }
        open.extend(node.items());
        open.extend(node.entries().iter().map(|(_, node)| node));
    }
    None
}

/// Gives a key that stands alone in an alternative the words of its alternative.
fn describe(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(describe),
        Value::Object(object) => {
            let words = object.get("description").cloned();
            let fields = object.get_mut("properties").and_then(Value::as_object_mut);
            if let (Some(words), Some(fields)) = (words, fields)
                && fields.len() == 1
            {
                for field in fields.values_mut().filter_map(Value::as_object_mut) {
                    field.entry("description").or_insert_with(|| words.clone());
                }
            }
            object.values_mut().for_each(describe);
        }
        _ => {}
    }
}

/// A step or a sink: one kind, and the keys beside it.
fn entry(role: Role, generator: &mut SchemaGenerator) -> Value {
    let mut common = Common::json_schema(generator).to_value();
    let mut fields = match common.get_mut("properties").map(Value::take) {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    if role == Role::Sink {
        fields.remove("id");
        fields.remove("into");
        fields.remove("undo");
        fields.remove("pivot");
    }
    let mut kinds: Vec<Value> = Vec::new();
    for kind in role.kinds() {
        kinds.push(json!({ "required": [kind.name] }));
        fields.insert(kind.name.to_owned(), of_kind(kind, generator));
    }
    fields.insert(
        "use".to_owned(),
        json!({ "type": "string", "description": "The name of a fragment in flows/fragments/, put here." }),
    );
    fields.insert(
        "with".to_owned(),
        json!({ "type": "object", "description": "The fragment's parameters: a name and a value." }),
    );
    kinds.push(json!({ "required": ["use"] }));
    if role == Role::Step {
        fields.insert("branch".to_owned(), branch());
        kinds.push(json!({ "required": ["branch"] }));
        fields.insert("saga".to_owned(), saga(generator));
        kinds.push(json!({ "required": ["saga"] }));
    }
    json!({
        "type": "object",
        "properties": fields,
        "additionalProperties": false,
        "anyOf": kinds,
        "dependencies": { "with": ["use"] },
    })
}

/// A saga.
fn saga(generator: &mut SchemaGenerator) -> Value {
    let mut saga = file::Saga::json_schema(generator).to_value();
    saga["properties"]["steps"] = json!({
        "allOf": [reference("steps")],
        "description": "What is done, in order; what is undone goes backwards.",
    });
    saga
}

/// The arms of a branch.
fn branch() -> Value {
    let steps = json!({
        "allOf": [reference("steps")],
        "description": "What happens to messages of this arm.",
    });
    json!({
        "type": "array",
        "description": "Steps by condition; the first arm that matches takes the message, and all go on behind the branch.",
        "items": {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        "when": { "type": "string", "description": "The arm takes messages for which this expression is true." },
                        "steps": steps,
                    },
                    "required": ["when", "steps"],
                    "additionalProperties": false,
                },
                {
                    "type": "object",
                    "properties": {
                        "otherwise": {
                            "type": "object",
                            "description": "The arm for messages that no other arm takes.",
                            "properties": { "steps": steps },
                            "required": ["steps"],
                            "additionalProperties": false,
                        },
                    },
                    "required": ["otherwise"],
                    "additionalProperties": false,
                },
            ],
        },
    })
}

/// Lets `${param:name}` stand wherever a number, a boolean or a word of a list can.
fn take_parameters(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(take_parameters),
        Value::Object(object) => {
            for (_, value) in object.iter_mut() {
                take_parameters(value);
            }
            let types: Vec<&str> = match object.get("type") {
                Some(Value::String(one)) => vec![one],
                Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
                _ => Vec::new(),
            };
            let narrow = ["integer", "number", "boolean"]
                .iter()
                .any(|name| types.contains(name))
                || (types.contains(&"string")
                    && (object.contains_key("enum") || object.contains_key("const")));
            if narrow {
                let itself = Value::Object(std::mem::take(object));
                let parameter = json!({ "type": "string", "pattern": "^\\$\\{param:[^}]+\\}$" });
                object.insert("anyOf".to_owned(), json!([itself, parameter]));
            }
        }
        _ => {}
    }
}

/// A mapping: a tree of expressions, as `mapping::compile` reads it.
fn mapping() -> Value {
    let expression = json!({ "type": "string", "format": "jmespath" });
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A mapping of a Crossdock project",
        "type": "object",
        "examples": [mapping_example()],
        "properties": {
            "mapping": { "type": "string", "description": "The mapping's name: what `map` names." },
            "description": { "type": "string", "description": "What the mapping is for, in a sentence." },
            "from": { "type": "string", "description": "The schema of the bodies that it takes." },
            "to": { "type": "string", "description": "The schema of the bodies that it makes; decimals are written as it asks." },
            "let": {
                "type": "object",
                "description": "Values that several fields use: a name, and an expression; used as `$name`.",
                "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
                "additionalProperties": expression,
            },
            "fields": {
                "allOf": [{ "$ref": "#/definitions/fields" }],
                "description": "The fields of the target, each with the expression that gives its value.",
            },
        },
        "required": ["mapping", "fields"],
        "additionalProperties": false,
        "definitions": {
            "fields": { "type": "object", "additionalProperties": { "$ref": "#/definitions/value" } },
            "value": {
                "anyOf": [
                    expression,
                    { "type": ["number", "boolean"], "description": "A literal." },
                    { "$ref": "#/definitions/fields" },
                    { "type": "array", "items": { "$ref": "#/definitions/item" } },
                ],
            },
            "item": {
                "anyOf": [
                    expression,
                    { "type": ["number", "boolean"] },
                    { "type": "array", "items": { "$ref": "#/definitions/item" } },
                    {
                        "type": "object",
                        "properties": {
                            "each": { "type": "string", "format": "jmespath", "description": "The list; one item is made of each of its items." },
                            "fields": {
                                "allOf": [{ "$ref": "#/definitions/fields" }],
                                "description": "The fields of each item; expressions see the item of `each`.",
                            },
                            "value": {
                                "allOf": [{ "$ref": "#/definitions/value" }],
                                "description": "What each item is, if it is no object.",
                            },
                        },
                        "anyOf": [{ "required": ["fields"] }, { "required": ["value"] }],
                        "additionalProperties": false,
                    },
                ],
            },
        },
    })
}

/// A mapping, whole.
fn mapping_example() -> Value {
    json!({
        "mapping": "erp-order",
        "from": "storefront/order.v1",
        "to": "erp/order.v1",
        "let": { "lines": "line_items[?quantity > `0`]" },
        "fields": {
            "order_number": "name",
            "channel": "'storefront'",
            "customer": { "email": "lower(customer.email)" },
            "lines": [{ "each": "$lines", "fields": { "item": "sku", "price": "decimal(price)" } }],
        },
    })
}
