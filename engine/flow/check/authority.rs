//! `authority`: which system owns an entity or a field of it, and flows that write it elsewhere although their messages come from another
//! system. It follows the canonical schema to each sink that names a system; where it cannot follow, it says nothing.

use std::collections::BTreeMap;

use super::Source;
use crate::diagnostic::{Diagnostic, Findings, Place, closest};
use crate::flow::codes;
use crate::flow::governance::reads::{self, Touched};
use crate::flow::governance::{Kind, Register, version_of};
use crate::flow::settings::Authority;
use crate::schema::{Schemas, place::At};
use crate::yaml::{Data, Node};

/// What is held against each other.
pub(crate) struct Project<'p> {
    /// What the project declares.
    pub(crate) register: &'p Register,
    /// The flows' files.
    pub(crate) flows: Vec<&'p Source>,
    /// The mappings' files, by name.
    pub(crate) mappings: BTreeMap<&'p str, &'p Source>,
    /// The schemas.
    pub(crate) schemas: &'p Schemas,
    /// `crossdock.yaml`.
    pub(crate) settings: &'p Source,
}

/// Where a flow hands a body to a system.
struct Sending<'f> {
    /// The schema that the body keeps to.
    entity: String,
    /// The system that gets it.
    system: &'f str,
    /// What makes of the body what is sent.
    by: By<'f>,
    /// The name of the step or sink.
    at: String,
    /// Where it stands.
    node: &'f Node,
}

/// What makes of a body what is sent.
enum By<'f> {
    /// Nothing: all of it is sent.
    Whole,
    /// A mapping.
    Mapping(&'f str),
    /// Expressions of the flow: columns of a row, values of a statement.
    Expressions(&'f Node),
}

/// Finds flows that write what belongs to another system.
pub(crate) fn check(
    authority: &BTreeMap<String, Authority>,
    project: &Project<'_>,
    findings: &mut Findings,
) {
    unknown(authority, project, findings);
    for source in &project.flows {
        let Some(flow) = source.node.get("flow").and_then(Node::as_text) else {
            continue;
        };
        let origins = project.register.origins_of(flow);
        if origins.is_empty() {
            continue;
        }
        for sending in sendings(project, &source.node) {
            for (entity, rule) in authority {
                if !is_entity(entity, &sending.entity) {
                    continue;
                }
                for origin in origins.iter().filter(|origin| **origin != sending.system) {
                    let place = sending.node.place(&source.file);
                    written(
                        project,
                        (entity, rule),
                        (&sending, origin),
                        &place,
                        findings,
                    );
                }
            }
        }
    }
}

/// Whether a schema is the entity that `authority` names, in this version or in any.
fn is_entity(named: &str, schema: &str) -> bool {
    named == schema || version_of(schema).is_some_and(|(stem, _)| stem == named)
}

/// The fields that a sending writes and that belong to others than the origin.
fn written(
    project: &Project<'_>,
    (entity, rule): (&str, &Authority),
    (sending, origin): (&Sending<'_>, &str),
    place: &Place,
    findings: &mut Findings,
) {
    let (touched, file) = match &sending.by {
        By::Whole => {
            let path = String::new();
            let span = sending.node.span;
            (vec![Touched { path, span }], None)
        }
        By::Expressions(node) => {
            let all = node.entries().iter();
            let read = all.flat_map(|(_, value)| reads::of_expression(value));
            (read.collect(), None)
        }
        By::Mapping(name) => match project.mappings.get(name) {
            Some(source) => (reads::mapping(&source.node).read, Some(&source.file)),
            // An expression, or a mapping that could not be read.
            None => return,
        },
    };
    let mut told: Vec<String> = Vec::new();
    for one in &touched {
        for (field, owners) in rule.owners_of(&one.path) {
            if owners.iter().any(|owner| owner == origin) || told.contains(&field) {
                continue;
            }
            told.push(field.clone());
            let what = if field.is_empty() {
                format!("`{entity}`")
            } else {
                format!("`{field}` of `{entity}`")
            };
            let owner = owners.join("` or `");
            let message = format!(
                "{what} belongs to `{owner}`, and `{}` sends it to `{}` as `{origin}` has it",
                sending.at, sending.system
            );
            let help = format!(
                "leave it out of what is sent, take it from `{owner}` first, or change `authority` in crossdock.yaml"
            );
            let mut finding =
                Diagnostic::error(codes::NOT_THE_AUTHORITY, place.clone(), message).help(help);
            if let Some(file) = file {
                let at = Place {
                    file: file.clone(),
                    span: one.span,
                };
                finding = finding.related(at, "read here");
            }
            findings.push(finding);
        }
    }
}

/// Entities, fields and systems that `authority` names and the project does not have.
fn unknown(
    authority: &BTreeMap<String, Authority>,
    project: &Project<'_>,
    findings: &mut Findings,
) {
    let Some(node) = project.settings.node.get("authority") else {
        return;
    };
    let file = &project.settings.file;
    let mut systems: Vec<&str> = project
        .register
        .of(Kind::System)
        .map(|system| system.thing.name.as_str())
        .collect();
    let flows = project.register.of(Kind::Flow);
    systems.extend(flows.filter_map(|flow| flow.origin.as_deref()));
    for (key, value) in node.entries() {
        let names: Vec<&str> = project
            .schemas
            .names()
            .filter(|name| is_entity(&key.text, name))
            .collect();
        let place = |span| Place {
            file: file.clone(),
            span,
        };
        if names.is_empty() {
            let message = format!("there is no schema `{}`", key.text);
            let help = match closest(&key.text, project.schemas.names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "name a schema below schemas/, with its version or without".to_owned(),
            };
            findings.push(
                Diagnostic::error(codes::UNKNOWN_ENTITY, place(key.span), message).help(help),
            );
            continue;
        }
        for (field, _) in value.entries() {
            let found = field.text == "*"
                || names
                    .iter()
                    .any(|name| has_field(project.schemas, name, &field.text));
            if !found {
                let message = format!("`{}` has no field `{}`", key.text, field.text);
                let help = "write the path of a field, such as `lines.sku`, or `*` for all others";
                findings.push(
                    Diagnostic::error(codes::UNKNOWN_ENTITY, place(field.span), message).help(help),
                );
            }
        }
        named(value, &mut |node, name| {
            if systems.contains(&name) {
                return;
            }
            let message =
                format!("there is no system `{name}`, and no flow has it as its `origin`");
            let help = match closest(name, systems.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    "add a file to systems/, or `origin:` to the flows of that system".to_owned()
                }
            };
            let finding = Diagnostic::error(codes::UNKNOWN_ENTITY, node.place(file), message);
            findings.push(finding.help(help));
        });
    }
    debug_assert!(authority.len() <= node.entries().len());
}

fn named(node: &Node, f: &mut dyn FnMut(&Node, &str)) {
    match &node.data {
        Data::Text(text) => f(node, &text.value),
        Data::List(items) => items.iter().for_each(|item| named(item, f)),
        Data::Map(entries) => entries.iter().for_each(|(_, value)| named(value, f)),
        _ => {}
    }
}

/// Whether a schema describes a field; also where nobody can tell.
fn has_field(schemas: &Schemas, name: &str, path: &str) -> bool {
    let Some(mut at) = At::named(schemas, name) else {
        return true;
    };
    for part in path.split('.') {
        let part = part.trim_end_matches("[]");
        let below = at.items().unwrap_or(at);
        match below.property(part) {
            Some(next) => at = next,
            None => return is_vague(below),
        }
    }
    true
}

/// Whether a place may have fields that are described in alternatives.
fn is_vague(at: At<'_>) -> bool {
    let words = [
        "anyOf",
        "oneOf",
        "if",
        "patternProperties",
        "dependentSchemas",
    ];
    at.parts().is_none_or(|parts| {
        let mut parts = parts.into_iter();
        parts.any(|part| words.iter().any(|word| part.raw().get(word).is_some()))
    })
}

/// Where a flow hands bodies of known schemas to systems.
fn sendings<'f>(project: &Project<'_>, flow: &'f Node) -> Vec<Sending<'f>> {
    let mut contract = flow
        .get("accepts")
        .and_then(|at| at.get("schema").unwrap_or(at).as_text())
        .map(str::to_owned);
    let mut found = Vec::new();
    let mut number = 0;
    if let Some(steps) = flow.get("steps") {
        followed(project, steps, &mut contract, &mut number, &mut found);
    }
    for (key, entry) in flow.get("sinks").map_or(&[][..], Node::entries) {
        for kind in ["http", "sql"] {
            if let Some(config) = entry.get(kind) {
                found.extend(sending(config, contract.as_deref(), &key.text));
            }
        }
    }
    found
}

/// Follows the schema in force through steps; `None` where it is not certain any more.
fn followed<'f>(
    project: &Project<'_>,
    steps: &'f Node,
    contract: &mut Option<String>,
    number: &mut usize,
    found: &mut Vec<Sending<'f>>,
) {
    for entry in steps.items() {
        *number += 1;
        let id = entry.get("id").and_then(Node::as_text);
        let id = id.map_or_else(|| format!("step {number}"), str::to_owned);
        if let Some(config) = entry.get("call") {
            let writes = ["post", "put", "patch", "insert", "upsert"];
            if writes.iter().any(|word| config.get(word).is_some()) {
                found.extend(sending(config, contract.as_deref(), &id));
            }
        } else if let Some(name) = entry.get("map").and_then(Node::as_text) {
            let mapping = project.mappings.get(name);
            *contract = mapping
                .and_then(|mapping| mapping.node.get("to")?.as_text())
                .filter(|_| entry.get("when").is_none())
                .map(str::to_owned);
        } else if let Some(name) = entry.get("validate").and_then(Node::as_text) {
            if entry.get("when").is_none() {
                *contract = Some(name.to_owned());
            }
        } else if let Some(steps) = entry.find(&["saga", "steps"]) {
            followed(project, steps, contract, number, found);
        } else if let Some(arms) = entry.get("branch") {
            let before = contract.clone();
            for arm in arms.items() {
                let steps = arm
                    .get("steps")
                    .or_else(|| arm.find(&["otherwise", "steps"]));
                let mut inside = before.clone();
                if let Some(steps) = steps {
                    followed(project, steps, &mut inside, number, found);
                }
                if inside != before {
                    *contract = None;
                }
            }
        } else if [
            "use", "split", "collect", "set", "decode", "encode", "template",
        ]
        .iter()
        .any(|kind| entry.get(kind).is_some())
        {
            let keeps = entry.get("into").is_some()
                || entry
                    .get("set")
                    .is_some_and(|set| set.get("body").is_none());
            if !keeps {
                *contract = None;
            }
        }
    }
}

fn sending<'f>(config: &'f Node, contract: Option<&str>, at: &str) -> Option<Sending<'f>> {
    let system = config.get("system")?;
    let own = ["columns", "values"]
        .iter()
        .find_map(|word| config.get(word));
    let by = match (config.get("map").and_then(Node::as_text), own) {
        (Some(name), _) => By::Mapping(name),
        (None, Some(own)) => By::Expressions(own),
        // A body of its own may be anything.
        (None, None) if config.get("body").is_some() => return None,
        (None, None) => By::Whole,
    };
    Some(Sending {
        entity: contract?.to_owned(),
        system: system.as_text()?,
        by,
        at: at.to_owned(),
        node: config.get("map").unwrap_or(system),
    })
}
