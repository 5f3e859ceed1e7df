//! Schemas as parts of one document, such as OpenAPI: with all that they refer to, and references that stay within it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::Schemas;
use super::load::{address, name_in, resolved};

/// What a schema is called within a document: its name, with `.` for what a component's name must not have.
pub fn part_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    name.chars()
        .map(|c| if plain(c) { c } else { '.' })
        .collect()
}

impl Schemas {
    /// These schemas and all that they refer to, by `part_name`. References lead to `prefix` and the name of the part.
    pub fn parts(
        &self,
        names: impl IntoIterator<Item = String>,
        prefix: &str,
    ) -> BTreeMap<String, Value> {
        // A schema is known by its place in the project, and by the address that it gives to itself.
        let mut named: BTreeMap<String, &str> = BTreeMap::new();
        for name in self.names() {
            named.insert(self.base(name), name);
            named.insert(address(name), name);
        }
        let mut parts = BTreeMap::new();
        let mut open: Vec<String> = names.into_iter().collect();
        let mut seen: BTreeSet<String> = open.iter().cloned().collect();
        while let Some(name) = open.pop() {
            let Some(raw) = self.raw(&name) else { continue };
            let base = self.base(&name);
            let mut lead = |reference: &str| {
                let full = resolved(&base, reference)?;
                let (at, fragment) = full.split_once('#').unwrap_or((&full, ""));
                let known = named.get(at).map(|name| (*name).to_owned());
                let to = known
                    .or_else(|| name_in(at))
                    .filter(|name| self.get(name).is_some())?;
                let part = part_name(&to);
                if seen.insert(to.clone()) {
                    open.push(to);
                }
                Some(format!("{prefix}{part}{fragment}"))
            };
            parts.insert(part_name(&name), led(raw, true, &mut lead));
        }
        parts
    }

    /// The address against which a schema's references are read.
    fn base(&self, name: &str) -> String {
        let address = address(name);
        let own = self.raw(name).and_then(|raw| raw.get("$id")?.as_str());
        own.and_then(|id| resolved(&address, id)).unwrap_or(address)
    }
}

/// The same schema with other references. At its top it neither says of which draft it is nor what its address is: both are the document's.
fn led(value: &Value, top: bool, lead: &mut dyn FnMut(&str) -> Option<String>) -> Value {
    match value {
        Value::Object(members) => {
            let mut all = Map::new();
            for (key, member) in members {
                let member = match (key.as_str(), member) {
                    ("$schema" | "$id", _) if top => continue,
                    // These hold data, not schemas.
                    ("const" | "enum" | "default" | "examples", _) => member.clone(),
                    ("$ref", Value::String(reference)) => match lead(reference) {
                        Some(to) => Value::String(to),
                        None => member.clone(),
                    },
                    _ => led(member, false, lead),
                };
                all.insert(key.clone(), member);
            }
            Value::Object(all)
        }
        Value::Array(items) => items.iter().map(|item| led(item, false, lead)).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::diagnostic::{File, Findings};

    #[test]
    fn references_stay_within_the_document_and_what_they_lead_to_comes_along() {
        let files = [
            (
                "a/order.v1",
                r##"{"$schema": "https://json-schema.org/draft/2020-12/schema", "properties": {"total": {"$ref": "money.v1.json"}, "line": {"$ref": "#/$defs/line"}, "to": {"$ref": "../b/party.json#/$defs/name"}}, "$defs": {"line": {"const": {"$ref": "x"}}}}"##,
            ),
            ("a/money.v1", r##"{"type": "string"}"##),
            (
                "b/party",
                r##"{"$id": "https://example.com/party", "$defs": {"name": {"type": "string"}, "again": {"$ref": "#"}}}"##,
            ),
            ("b/other", "true"),
        ];
        let files = files.map(|(name, text)| {
            (
                name.to_owned(),
                File::new(format!("schemas/{name}.json"), text),
            )
        });
        let mut findings = Findings::new();
        let schemas = Schemas::load(&files, &mut findings);
        assert!(!findings.has_errors(), "{:?}", findings.iter().next());
        let parts = schemas.parts(["a/order.v1".to_owned()], "#/parts/");
        let names: Vec<&str> = parts.keys().map(String::as_str).collect();
        assert_eq!(names, ["a.money.v1", "a.order.v1", "b.party"]);
        let order = &parts["a.order.v1"];
        assert_eq!(order["properties"]["total"]["$ref"], "#/parts/a.money.v1");
        assert_eq!(
            order["properties"]["line"]["$ref"],
            "#/parts/a.order.v1/$defs/line"
        );
        assert_eq!(
            order["properties"]["to"]["$ref"],
            "#/parts/b.party/$defs/name"
        );
        assert_eq!(order["$defs"]["line"]["const"], json!({"$ref": "x"}));
        assert_eq!(
            parts["b.party"]["$defs"]["again"]["$ref"],
            "#/parts/b.party"
        );
        assert!(order.get("$schema").is_none() && parts["b.party"].get("$id").is_none());
    }
}
