//! Who depends on whom, as a Mermaid drawing: flows, mappings, schemas, systems and tables, with what is deprecated marked.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Kind, Register, Thing};

/// The things that `shown` takes, and what they use of each other.
pub fn mermaid(register: &Register, shown: &dyn Fn(&Thing) -> bool) -> String {
    let mut out = String::from("flowchart LR\n");
    let ids: BTreeMap<&Thing, String> = register
        .entries
        .keys()
        .filter(|thing| shown(thing))
        .enumerate()
        .map(|(at, thing)| (thing, format!("t{at}")))
        .collect();
    let mut old = Vec::new();
    for (thing, id) in &ids {
        let entry = &register.entries[*thing];
        let owner = entry.owner.as_deref().unwrap_or_default();
        let below = if owner.is_empty() {
            String::new()
        } else {
            format!("<br/>{}", escaped(owner))
        };
        let (open, close) = brackets(thing.kind);
        let name = escaped(&thing.name);
        writeln!(out, "  {id}{open}\"{name}{below}\"{close}").ok();
        if entry.deprecated.is_some() {
            old.push(id.as_str());
        }
    }
    for (thing, id) in &ids {
        let mut told: Vec<(&str, &str)> = Vec::new();
        for used in &register.entries[*thing].uses {
            let Some(to) = ids.get(&used.thing) else {
                continue;
            };
            if !told.contains(&(used.by.as_str(), to)) {
                told.push((&used.by, to));
                writeln!(out, "  {id} -->|{}| {to}", escaped(&used.by)).ok();
            }
        }
    }
    if !old.is_empty() {
        out.push_str("  classDef deprecated stroke-dasharray: 5 5\n");
        writeln!(out, "  class {} deprecated", old.join(",")).ok();
    }
    out
}

fn brackets(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Flow => ("([", "])"),
        Kind::Fragment => ("[[", "]]"),
        Kind::Mapping => ("[/", "/]"),
        Kind::Schema => ("[", "]"),
        Kind::System => ("{{", "}}"),
        Kind::Table => ("[(", ")]"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('"', "#quot;").replace('<', "#lt;")
}
