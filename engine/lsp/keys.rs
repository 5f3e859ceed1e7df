//! What the JSON Schemas of project files say about a place in a file: its keys, its words, what it is for. It reads no file.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::Value;

use super::cursor::Part;
use crate::flow::editor;

/// How many schemas are put together for one place.
const READINGS_MAX: usize = 256;

/// The kinds of files that a project has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Flow,
    Fragment,
    Mapping,
    System,
    Project,
    Test,
}

impl Kind {
    /// The kind of file at a path below the project's folder.
    pub(super) fn of(path: &str) -> Option<Kind> {
        if path == "crossdock.yaml" {
            return Some(Kind::Project);
        }
        if path.ends_with(".test.yaml") {
            return path.starts_with("flows/").then_some(Kind::Test);
        }
        if !path.ends_with(".yaml") {
            return None;
        }
        let kinds = [
            ("flows/fragments/", Kind::Fragment),
            ("flows/", Kind::Flow),
            ("mappings/", Kind::Mapping),
            ("systems/", Kind::System),
        ];
        let found = kinds.iter().find(|(folder, _)| path.starts_with(folder));
        found.map(|(_, kind)| *kind)
    }

    fn schema(self) -> Option<&'static Value> {
        static ALL: OnceLock<BTreeMap<String, Value>> = OnceLock::new();
        let all = ALL.get_or_init(|| {
            let read = |(name, text): (&str, String)| {
                Some((name.to_owned(), serde_json::from_str(&text).ok()?))
            };
            editor::all().into_iter().filter_map(read).collect()
        });
        all.get(match self {
            Kind::Flow => "flow.schema.json",
            Kind::Fragment => "fragment.schema.json",
            Kind::Mapping => "mapping.schema.json",
            Kind::System => "system.schema.json",
            Kind::Project => "project.schema.json",
            Kind::Test => "test.schema.json",
        })
    }
}

/// A place in a project file, as its JSON Schema sees it: all that can stand there.
pub(super) struct Spot {
    root: &'static Value,
    readings: Vec<&'static Value>,
    /// What the key that leads here is for.
    words: Option<&'static str>,
}

/// A key that can be written.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) words: String,
    pub(super) required: bool,
}

impl Spot {
    /// The place at the end of this way.
    pub(super) fn at(kind: Kind, path: &[Part]) -> Option<Spot> {
        let root = kind.schema()?;
        let mut spot = Spot {
            root,
            readings: readings(root, vec![root]),
            words: None,
        };
        for part in path {
            let next: Vec<&'static Value> = match part {
                Part::Key(key) => {
                    let named = spot.readings.iter().filter_map(|one| {
                        let named = one.get("properties").and_then(|all| all.get(key.as_str()));
                        named.or_else(|| {
                            one.get("additionalProperties")
                                .filter(|one| one.is_object())
                        })
                    });
                    named.collect()
                }
                Part::Item(_) => {
                    let items = spot.readings.iter().filter_map(|one| one.get("items"));
                    items.collect()
                }
            };
            if next.is_empty() {
                return None;
            }
            spot.words = next.iter().find_map(|one| words(one));
            spot.readings = readings(root, next);
        }
        Some(spot)
    }

    /// The keys that can stand here.
    pub(super) fn keys(&self) -> Vec<Key> {
        let mut all: Vec<Key> = Vec::new();
        for reading in &self.readings {
            let required = reading.get("required").and_then(Value::as_array);
            let Some(fields) = reading.get("properties").and_then(Value::as_object) else {
                continue;
            };
            for (name, field) in fields {
                if all.iter().any(|known| known.name == name) {
                    continue;
                }
                all.push(Key {
                    name,
                    words: self.words_of(field).unwrap_or_default().to_owned(),
                    required: required
                        .is_some_and(|all| all.iter().any(|one| one.as_str() == Some(name))),
                });
            }
        }
        all
    }

    /// The words of a closed list that can stand here, with what each means.
    pub(super) fn choices(&self) -> Vec<(String, &'static str)> {
        let mut all: Vec<(String, &'static str)> = Vec::new();
        let mut add = |value: &Value, means: &'static str| {
            let word = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            if !value.is_null() && !all.iter().any(|(known, _)| *known == word) {
                all.push((word, means));
            }
        };
        for reading in &self.readings {
            for value in reading
                .get("enum")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                add(value, "");
            }
            if let Some(value) = reading.get("const") {
                add(value, words(reading).unwrap_or_default());
            }
            if has_type(reading, "boolean") && reading.get("enum").is_none() {
                add(&Value::Bool(true), "");
                add(&Value::Bool(false), "");
            }
        }
        all
    }

    /// Whether an expression can stand here.
    pub(super) fn takes_expression(&self) -> bool {
        self.readings
            .iter()
            .any(|one| one.get("format").and_then(Value::as_str) == Some("jmespath"))
    }

    /// What the place is for.
    pub(super) fn words(&self) -> Option<&'static str> {
        self.words
            .or_else(|| self.readings.iter().find_map(|one| words(one)))
    }

    /// An example of what can stand here.
    pub(super) fn example(&self) -> Option<String> {
        let found = self
            .readings
            .iter()
            .find_map(|one| one.get("examples")?.get(0));
        found.map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
    }

    fn words_of(&self, field: &'static Value) -> Option<&'static str> {
        words(field).or_else(|| readings(self.root, vec![field]).into_iter().find_map(words))
    }
}

fn words(schema: &'static Value) -> Option<&'static str> {
    schema.get("description").and_then(Value::as_str)
}

fn has_type(schema: &Value, name: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(one)) => one == name,
        Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(name)),
        _ => false,
    }
}

/// These schemas, and all that they say by reference, by parts and by alternatives.
fn readings(root: &'static Value, of: Vec<&'static Value>) -> Vec<&'static Value> {
    let mut all: Vec<&'static Value> = Vec::new();
    let mut open = of;
    open.reverse();
    while let Some(value) = open.pop() {
        if all.len() == READINGS_MAX {
            break;
        }
        if all.iter().any(|known| std::ptr::eq(*known, value)) {
            continue;
        }
        let target = value.get("$ref").and_then(Value::as_str);
        open.extend(target.and_then(|to| root.pointer(to.strip_prefix('#')?)));
        for word in ["oneOf", "anyOf", "allOf"] {
            let parts = value.get(word).and_then(Value::as_array);
            open.extend(parts.into_iter().flatten().rev());
        }
        all.push(value);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_choices_follow_the_schema_of_the_file() {
        let path = |text: &str| -> Vec<Part> {
            let parts = text.split('/').filter(|part| !part.is_empty());
            let part = |part: &str| match part.parse() {
                Ok(at) => Part::Item(at),
                Err(_) => Part::Key(part.to_owned()),
            };
            parts.map(part).collect()
        };
        let keys = |kind, text: &str| -> Vec<&'static str> {
            let spot = Spot::at(kind, &path(text)).unwrap();
            spot.keys().iter().map(|key| key.name).collect()
        };
        assert!(keys(Kind::Flow, "").contains(&"once"));
        assert!(keys(Kind::Flow, "steps/0").contains(&"validate"));
        assert!(keys(Kind::Flow, "steps/0/call").contains(&"answer"));
        assert!(keys(Kind::Flow, "steps/0/branch/1").contains(&"otherwise"));
        assert!(keys(Kind::Flow, "sinks/erp/http").contains(&"idempotency_key"));
        assert!(keys(Kind::Mapping, "").contains(&"from"));
        assert!(keys(Kind::System, "http").contains(&"base_url"));
        let spot = Spot::at(Kind::Flow, &path("criticality")).unwrap();
        assert!(spot.choices().iter().any(|(word, _)| word == "high"));
        assert!(
            Spot::at(Kind::Flow, &path("steps/0/filter"))
                .unwrap()
                .takes_expression()
        );
        assert!(
            Spot::at(Kind::Mapping, &path("fields/a/b"))
                .unwrap()
                .takes_expression()
        );
        assert!(
            !Spot::at(Kind::Flow, &path("steps/0/map"))
                .unwrap()
                .takes_expression()
        );
        assert!(Spot::at(Kind::Flow, &path("nothing/there")).is_none());
        assert_eq!(Kind::of("flows/fragments/a.yaml"), Some(Kind::Fragment));
        assert!(keys(Kind::Test, "tests/0").contains(&"crash"));
        assert_eq!(Kind::of("flows/a.test.yaml"), Some(Kind::Test));
        assert_eq!(Kind::of("flows/deep/a.test.yaml"), Some(Kind::Test));
        assert_eq!(Kind::of("mappings/a.test.yaml"), None);
    }
}
