//! A place in a schema of the project, references followed. It knows what may stand there, not whether a body is valid.

use serde_json::{Map, Value};

use crate::schema::Schemas;

pub(crate) mod fields;

/// How many schemas are looked at for one place: references may go round in a circle.
const PARTS_MAX: usize = 33;

/// A schema within a named schema of the project.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'s> {
    schemas: &'s Schemas,
    /// The whole schema in which it stands.
    root: &'s Value,
    /// The name of that schema.
    base: &'s str,
    /// The schema itself.
    value: &'s Value,
}

impl<'s> At<'s> {
    /// The schema with this name.
    pub(crate) fn named(schemas: &'s Schemas, name: &str) -> Option<At<'s>> {
        let base = schemas.known(name)?;
        let root = schemas.raw(base)?;
        Some(At {
            schemas,
            root,
            base,
            value: root,
        })
    }

    /// The schema's own JSON.
    pub(crate) fn raw(self) -> &'s Value {
        self.value
    }

    /// The schema itself and all that must hold too: what its reference and its `allOf` say. `None` where something is said that this
    /// does not understand, so that nothing is certain.
    pub(crate) fn parts(self) -> Option<Vec<At<'s>>> {
        let mut parts = Vec::new();
        let mut looked_at = 0;
        let mut open = vec![self];
        while let Some(at) = open.pop() {
            looked_at += 1;
            if looked_at > PARTS_MAX {
                return None;
            }
            let object = match at.value {
                Value::Object(object) => object,
                Value::Bool(true) => continue,
                _ => return None,
            };
            if ["$dynamicRef", "$recursiveRef"]
                .iter()
                .any(|word| object.contains_key(*word))
            {
                return None;
            }
            // A schema with an address of its own within another one resolves its references against that.
            let own_address = object.contains_key("$id") && !std::ptr::eq(at.value, at.root);
            if own_address {
                return None;
            }
            if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
                open.push(at.follow(reference)?);
                if at.is_draft_7() {
                    continue;
                }
            }
            for part in object
                .get("allOf")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                open.push(At { value: part, ..at });
            }
            parts.push(at);
        }
        Some(parts)
    }

    /// In draft 7 nothing counts beside a `$ref`.
    fn is_draft_7(self) -> bool {
        let draft = self.root.get("$schema").and_then(Value::as_str);
        draft.is_some_and(|draft| draft.contains("draft-07"))
    }

    /// Another schema below this one.
    pub(crate) fn below(self, value: &'s Value) -> At<'s> {
        At { value, ..self }
    }

    /// Whether both are the same place.
    pub(crate) fn same(self, other: At<'s>) -> bool {
        std::ptr::eq(self.value, other.value)
    }

    fn follow(self, reference: &str) -> Option<At<'s>> {
        let (address, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let (base, root) = if address.is_empty() {
            (self.base, self.root)
        } else {
            let name = resolve(self.schemas, self.base, address)?;
            (name, self.schemas.raw(name)?)
        };
        let value = if fragment.is_empty() {
            root
        } else {
            root.pointer(fragment)?
        };
        Some(At {
            schemas: self.schemas,
            root,
            base,
            value,
        })
    }

    /// The schema of a property; `None` if nothing is certain about it.
    pub(crate) fn property(self, name: &str) -> Option<At<'s>> {
        self.parts()?.into_iter().find_map(|at| {
            Some(At {
                value: at.value.get("properties")?.get(name)?,
                ..at
            })
        })
    }

    /// The schema of a list's items; `None` if nothing is certain about them.
    pub(crate) fn items(self) -> Option<At<'s>> {
        self.parts()?.into_iter().find_map(|at| {
            let items = at.value.get("items")?;
            let tuple = at.value.get("prefixItems").is_some() || items.is_array();
            (!tuple).then_some(At { value: items, ..at })
        })
    }

    /// The names of all properties, if there can be no others.
    pub(crate) fn closed(self) -> Option<Vec<&'s str>> {
        let parts = self.parts()?;
        let objects: Vec<&'s Map<String, Value>> =
            parts.iter().filter_map(|at| at.value.as_object()).collect();
        // Words that let more properties in, or may.
        let open = [
            "patternProperties",
            "anyOf",
            "oneOf",
            "if",
            "dependentSchemas",
        ];
        if objects
            .iter()
            .any(|object| open.iter().any(|word| object.contains_key(*word)))
        {
            return None;
        }
        let no = Some(&Value::Bool(false));
        let shut = objects
            .iter()
            .any(|all| all.get("additionalProperties") == no);
        // What `additionalProperties` lets in counts as evaluated.
        let rest = objects
            .iter()
            .any(|all| all.contains_key("additionalProperties"));
        let unevaluated = objects
            .iter()
            .any(|all| all.get("unevaluatedProperties") == no);
        if !shut && (rest || !unevaluated) {
            return None;
        }
        let names = objects
            .iter()
            .filter_map(|object| object.get("properties")?.as_object())
            .flat_map(|fields| fields.keys().map(String::as_str));
        Some(names.collect())
    }

    /// The names of the properties that must be there.
    pub(crate) fn required(self) -> Vec<&'s str> {
        self.parts()
            .unwrap_or_default()
            .into_iter()
            .filter_map(|at| at.value.get("required")?.as_array())
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    /// What a property is for, in the schema's words.
    pub(crate) fn description(self) -> Option<&'s str> {
        self.value.get("description").and_then(Value::as_str)
    }

    /// Whether a text can never stand here, and why.
    pub(crate) fn refuses_text(self, text: &str) -> Option<String> {
        for at in self.parts()? {
            if let Some(words) = at.value.get("enum").and_then(Value::as_array)
                && !words.iter().any(|word| word.as_str() == Some(text))
            {
                let words: Vec<String> = words
                    .iter()
                    .map(|word| {
                        word.as_str()
                            .map_or_else(|| word.to_string(), str::to_owned)
                    })
                    .collect();
                return Some(format!("one of: {}", words.join(", ")));
            }
            if let Some(word) = at.value.get("const")
                && word.as_str() != Some(text)
            {
                return Some(format!(
                    "`{}`",
                    word.as_str()
                        .map_or_else(|| word.to_string(), str::to_owned)
                ));
            }
            if let Some(types) = at.types()
                && !types.contains(&"string")
            {
                return Some(in_words(&types));
            }
        }
        None
    }

    /// Whether a boolean can never stand here, and why.
    pub(crate) fn refuses_boolean(self) -> Option<String> {
        let types = self.parts()?.into_iter().find_map(At::types)?;
        (!types.contains(&"boolean")).then(|| in_words(&types))
    }

    /// Whether an object with fields, or a list, can never stand here, and why.
    pub(crate) fn refuses_type(self, name: &str) -> Option<String> {
        let types = self.parts()?.into_iter().find_map(At::types)?;
        (!types.contains(&name)).then(|| in_words(&types))
    }

    fn types(self) -> Option<Vec<&'s str>> {
        match self.value.get("type")? {
            Value::String(one) => Some(vec![one]),
            Value::Array(several) => Some(several.iter().filter_map(Value::as_str).collect()),
            _ => None,
        }
    }
}

fn in_words(types: &[&str]) -> String {
    let words: Vec<&str> = types
        .iter()
        .map(|name| match *name {
            "null" => "null",
            "boolean" => "true or false",
            "integer" => "a whole number",
            "number" => "a number",
            "string" => "a text",
            "array" => "a list",
            _ => "an object",
        })
        .collect();
    words.join(" or ")
}

/// The schema that a reference to another file leads to, by what stands before `#`.
pub(crate) fn find<'s>(schemas: &'s Schemas, base: &str, address: &str) -> Option<&'s Value> {
    resolve(schemas, base, address).and_then(|name| schemas.raw(name))
}

/// The name of the schema that an address means in a schema with the name `base`.
fn resolve<'s>(schemas: &'s Schemas, base: &str, address: &str) -> Option<&'s str> {
    let by_id = |id: &str| {
        schemas
            .names()
            .find(|name| schemas.raw(name).and_then(|raw| raw.get("$id")?.as_str()) == Some(id))
    };
    let path = address.strip_prefix("crossdock:");
    let absolute = path.is_some() || address.starts_with('/');
    let path = path.unwrap_or(address).trim_start_matches('/');
    let path = path.strip_suffix(".json").unwrap_or(path);
    let mut parts: Vec<&str> = if absolute {
        Vec::new()
    } else {
        base.rsplit_once('/')
            .map_or(Vec::new(), |(folder, _)| folder.split('/').collect())
    };
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    let name = parts.join("/");
    schemas.known(&name).or_else(|| by_id(address))
}

/// The schemas that a schema refers to, by name.
pub(crate) fn references(schemas: &Schemas, base: &str, value: &Value) -> Vec<String> {
    let mut all = Vec::new();
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(object) => {
                if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
                    let address = reference.split('#').next().unwrap_or_default();
                    let name = (!address.is_empty())
                        .then(|| resolve(schemas, base, address))
                        .flatten();
                    all.extend(name.map(str::to_owned));
                }
                open.extend(object.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_closed_only_where_nothing_lets_other_fields_in() {
        let schemas = Schemas::default();
        for (words, closed) in [
            (json!({"additionalProperties": false}), true),
            (json!({"unevaluatedProperties": false}), true),
            (
                json!({"unevaluatedProperties": false, "additionalProperties": true}),
                false,
            ),
            (
                json!({"unevaluatedProperties": false, "patternProperties": {}}),
                false,
            ),
            (json!({}), false),
        ] {
            let mut root = words.clone();
            root["properties"] = json!({"a": {}});
            let at = At {
                schemas: &schemas,
                root: &root,
                base: "a",
                value: &root,
            };
            assert_eq!(at.closed(), closed.then(|| vec!["a"]), "{words}");
        }
    }

    #[test]
    fn nothing_is_certain_where_references_go_round_in_a_circle() {
        let draft_7 = "http://json-schema.org/draft-07/schema#";
        let a_b_a = json!({"a": {"$ref": "#/definitions/b"}, "b": {"$ref": "#/definitions/a"}});
        let schemas = Schemas::default();
        for root in [
            json!({"$schema": draft_7, "$ref": "#"}),
            json!({"$schema": draft_7, "$ref": "#/definitions/a", "definitions": a_b_a}),
            json!({"$ref": "#"}),
        ] {
            let at = At {
                schemas: &schemas,
                root: &root,
                base: "a",
                value: &root,
            };
            assert!(at.parts().is_none(), "{root}");
        }
        let root = json!({"$schema": draft_7, "$ref": "#/definitions/c", "definitions": {"c": {"type": "string"}}});
        let at = At {
            schemas: &schemas,
            root: &root,
            base: "a",
            value: &root,
        };
        assert_eq!(at.parts().map(|parts| parts.len()), Some(1));
    }
}
