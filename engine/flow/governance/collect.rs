//! From parsed files to the register: what each declares, and which names it uses. It follows keys, not meaning: a key that names
//! something of its kind is a use.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::{Entry, Kind, Register, Thing, Use, version_of};
use crate::component::lifecycle::Deprecation;
use crate::diagnostic::{File, Place, Span};
use crate::expression::Expression;
use crate::flow::check::Source;
use crate::schema::{Schemas, compatible};
use crate::yaml::{Data, Node};

/// The parsed files of a project.
pub(crate) struct Sources<'p> {
    /// The flows.
    pub(crate) flows: Vec<&'p Source>,
    /// The fragments.
    pub(crate) fragments: Vec<&'p Source>,
    /// The mappings.
    pub(crate) mappings: Vec<&'p Source>,
    /// Mappings that are one expression: name and file.
    pub(crate) expressions: Vec<(String, Arc<File>)>,
    /// The systems.
    pub(crate) systems: Vec<&'p Source>,
    /// The tables: name and file.
    pub(crate) tables: Vec<(String, Arc<File>)>,
    /// The schemas' files, by name.
    pub(crate) schemas: BTreeMap<String, Arc<File>>,
}

/// The register of these files.
pub(crate) fn register(sources: &Sources<'_>, schemas: &Schemas) -> Register {
    let mut register = Register::default();
    for (kind, key, list) in [
        (Kind::Flow, "flow", &sources.flows),
        (Kind::Fragment, "fragment", &sources.fragments),
        (Kind::Mapping, "mapping", &sources.mappings),
        (Kind::System, "system", &sources.systems),
    ] {
        for source in list {
            if let Some(entry) = declared(kind, key, source) {
                register.entries.entry(entry.thing.clone()).or_insert(entry);
            }
        }
    }
    for (kind, list) in [
        (Kind::Mapping, &sources.expressions),
        (Kind::Table, &sources.tables),
    ] {
        for (name, file) in list {
            let entry = plain(Thing::new(kind, name), file, Span::default());
            register.entries.entry(entry.thing.clone()).or_insert(entry);
        }
    }
    for (name, file) in &sources.schemas {
        let entry = schema(name, file, schemas);
        register.entries.insert(entry.thing.clone(), entry);
    }
    uses(sources, &mut register);
    let references = compatible::references(schemas);
    for (name, file) in &sources.schemas {
        if let Some(found) = references.get(name) {
            referred(name, file, found, &mut register);
        }
    }
    register
}

fn plain(thing: Thing, file: &Arc<File>, span: Span) -> Entry {
    Entry {
        thing,
        place: Place {
            file: file.clone(),
            span,
        },
        description: None,
        owner: None,
        criticality: None,
        version: None,
        deprecated: None,
        origin: None,
        source: None,
        listens: None,
        sends_whole: false,
        uses: Vec::new(),
    }
}

/// What the head of a file says.
fn declared(kind: Kind, key: &str, source: &Source) -> Option<Entry> {
    let at = source.node.get(key)?;
    let name = at.as_text()?;
    let text = |key: &str| {
        let text = source.node.get(key)?.as_text()?;
        (!text.trim().is_empty()).then(|| text.to_owned())
    };
    let mut entry = plain(Thing::new(kind, name), &source.file, at.span);
    entry.description = text("description");
    entry.owner = text("owner");
    entry.criticality = text("criticality");
    entry.version = source.node.get("version").and_then(|at| match &at.data {
        Data::Number(number) => Some(number.clone()),
        _ => at.as_text().map(str::to_owned),
    });
    entry.deprecated = source
        .node
        .get("deprecated")
        .map(|at| Deprecation::deserialize(at.to_json()).unwrap_or_default());
    if kind == Kind::Flow {
        let sinks = source.node.get("sinks").map_or(&[][..], Node::entries);
        entry.sends_whole = sinks.iter().any(|(_, sink)| sends_whole(sink));
        let kinds = source.node.get("source").map_or(&[][..], Node::entries);
        entry.source = kinds.first().map(|(key, _)| key.text.clone());
        entry.listens = kinds.first().and_then(|(kind, config)| {
            let path = config.get("path")?.as_text()?;
            match kind.text.as_str() {
                "webhook" => Some(format!("webhook {path}")),
                "api" => {
                    let version = config.get("version")?.as_text()?;
                    Some(format!("api /{version}{path}"))
                }
                _ => None,
            }
        });
        let named = kinds
            .first()
            .and_then(|(_, config)| config.get("system")?.as_text());
        entry.origin = text("origin").or_else(|| named.map(str::to_owned));
    }
    Some(entry)
}

/// Whether a sink sends the body to the outside as it is.
fn sends_whole(sink: &Node) -> bool {
    ["http", "file", "stdout"].iter().any(|kind| {
        sink.get(kind)
            .is_some_and(|config| config.get("map").is_none() && config.get("body").is_none())
    })
}

/// What a schema says about itself: `x-owner`, `x-criticality`, `deprecated` and `x-deprecated`.
fn schema(name: &str, file: &Arc<File>, schemas: &Schemas) -> Entry {
    let mut entry = plain(Thing::new(Kind::Schema, name), file, Span::default());
    entry.version = version_of(name).map(|(_, version)| version.to_string());
    let Some(raw) = schemas.raw(name) else {
        return entry;
    };
    let text = |key: &str| raw.get(key).and_then(Value::as_str).map(str::to_owned);
    entry.description = text("description").or_else(|| text("title"));
    entry.owner = text("x-owner");
    entry.criticality = text("x-criticality");
    let details = raw.get("x-deprecated");
    if details.is_some() || raw.get("deprecated") == Some(&Value::Bool(true)) {
        let details = details.and_then(|details| Deprecation::deserialize(details).ok());
        entry.deprecated = Some(details.unwrap_or_default());
    }
    entry
}

/// What the YAML files name.
fn uses(sources: &Sources<'_>, register: &mut Register) {
    let lists = [
        (Kind::Flow, "flow", &sources.flows),
        (Kind::Fragment, "fragment", &sources.fragments),
        (Kind::Mapping, "mapping", &sources.mappings),
        (Kind::System, "system", &sources.systems),
    ];
    for (kind, key, list) in lists {
        for source in list {
            let Some(name) = source.node.get(key).and_then(Node::as_text) else {
                continue;
            };
            let mut found = Vec::new();
            let walk = Walk {
                register,
                file: &source.file,
                mapping: kind == Kind::Mapping,
            };
            for (word, node) in source.node.entries() {
                if word.text != key {
                    walk.entry("", &word.text, node, &mut found);
                }
            }
            if let Some(entry) = register.entries.get_mut(&Thing::new(kind, name)) {
                entry.uses = found;
            }
        }
    }
    for (name, file) in &sources.expressions {
        let mut found = Vec::new();
        let walk = Walk {
            register,
            file,
            mapping: true,
        };
        let text = crate::yaml::Text {
            value: file.text.clone(),
            style: crate::yaml::Style::Plain,
        };
        let node = Node {
            span: Span::new(0, file.text.len()),
            data: Data::Text(text),
        };
        walk.tables(&node, &mut found);
        if let Some(entry) = register.entries.get_mut(&Thing::new(Kind::Mapping, name)) {
            entry.uses = found;
        }
    }
}

/// A walk through one file.
struct Walk<'w> {
    register: &'w Register,
    file: &'w Arc<File>,
    mapping: bool,
}

impl Walk<'_> {
    fn entry(&self, above: &str, word: &str, node: &Node, found: &mut Vec<Use>) {
        match &node.data {
            Data::Map(entries) => {
                for (key, node) in entries {
                    self.entry(word, &key.text, node, found);
                }
            }
            Data::List(items) => {
                for item in items {
                    self.entry(above, word, item, found);
                }
            }
            Data::Text(text) => {
                // A mapping that is a step makes the body; one beside a path makes what is sent.
                let by = if word == "map" && above != "steps" {
                    "sends"
                } else if above == "accepts" {
                    above
                } else {
                    word
                };
                let kinds: &[Kind] = match word {
                    "from" | "to" if self.mapping => &[Kind::Schema],
                    "accepts" | "schema" | "validate" | "answer" => &[Kind::Schema],
                    "map" => &[Kind::Mapping],
                    "system" => &[Kind::System],
                    "flow" | "emit" => &[Kind::Flow],
                    "table" => &[Kind::Table],
                    "use" => &[Kind::Fragment],
                    "instead" | "owner" | "description" | "reason" => return,
                    // A parameter of a fragment may be the name of anything.
                    _ => &[],
                };
                for kind in kinds {
                    let thing = Thing::new(*kind, text.value.as_str());
                    if self.register.entries.contains_key(&thing) {
                        self.used(thing, by, node.span, found);
                        return;
                    }
                }
                self.tables(node, found);
            }
            _ => {}
        }
    }

    fn used(&self, thing: Thing, by: &str, span: Span, found: &mut Vec<Use>) {
        let place = Place {
            file: self.file.clone(),
            span,
        };
        found.push(Use {
            thing,
            by: by.to_owned(),
            place,
        });
    }

    /// Tables that an expression names.
    fn tables(&self, node: &Node, found: &mut Vec<Use>) {
        let Some(text) = node.as_text() else { return };
        if !text.contains('(') {
            return;
        }
        let Ok(expression) = Expression::compile(text) else {
            return;
        };
        for used in expression.tables() {
            let thing = Thing::new(Kind::Table, used.table.as_str());
            if self.register.entries.contains_key(&thing) {
                self.used(thing, "lookup", node.span, found);
            }
        }
    }
}

/// The schemas that a schema refers to.
fn referred(
    name: &str,
    file: &Arc<File>,
    references: &[(String, String)],
    register: &mut Register,
) {
    let mut found: Vec<Use> = Vec::new();
    for (pointer, other) in references {
        if other == name {
            continue;
        }
        let (start, end) = compatible::span_of(&file.text, pointer).unwrap_or_default();
        found.push(Use {
            thing: Thing::new(Kind::Schema, other),
            by: "$ref".to_owned(),
            place: Place {
                file: file.clone(),
                span: Span::new(start, end),
            },
        });
    }
    if let Some(entry) = register.entries.get_mut(&Thing::new(Kind::Schema, name)) {
        entry.uses = found;
    }
}
