//! What a schema tells a writer: the fields that may stand at a place, what each is, and what for. Alternatives are put together: it says what
//! can be, not what must be.

use serde_json::Value;

use super::At;

/// How many schemas are put together for one place.
const READINGS_MAX: usize = 64;

/// A field that can stand in an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'s> {
    /// Its name.
    pub(crate) name: &'s str,
    /// Its schema.
    pub(crate) at: At<'s>,
    /// Whether it must be there, wherever its object stands.
    pub(crate) required: bool,
}

impl<'s> At<'s> {
    /// The schema itself and all that it says by reference, by parts and by alternatives.
    pub(crate) fn readings(self) -> Vec<At<'s>> {
        let mut all = Vec::new();
        let mut open = vec![(self, 0)];
        while let Some((at, depth)) = open.pop() {
            if all.len() == READINGS_MAX || depth > READINGS_MAX {
                break;
            }
            let target = at.value.get("$ref").and_then(Value::as_str);
            open.extend(
                target
                    .and_then(|to| at.follow(to))
                    .map(|at| (at, depth + 1)),
            );
            for word in ["oneOf", "anyOf", "allOf"] {
                let parts = at.value.get(word).and_then(Value::as_array);
                for part in parts.into_iter().flatten().rev() {
                    open.push((At { value: part, ..at }, depth + 1));
                }
            }
            for word in ["then", "else"] {
                let part = at.value.get(word).map(|value| At { value, ..at });
                open.extend(part.map(|at| (at, depth + 1)));
            }
            all.push(at);
        }
        all
    }

    /// The fields that can stand here, in the order of the schema.
    pub(crate) fn fields(self) -> Vec<Field<'s>> {
        let required = self.required();
        let mut all: Vec<Field<'s>> = Vec::new();
        for at in self.readings() {
            let Some(fields) = at.value.get("properties").and_then(Value::as_object) else {
                continue;
            };
            for (name, value) in fields {
                if value == &Value::Bool(false) || all.iter().any(|known| known.name == name) {
                    continue;
                }
                all.push(Field {
                    name,
                    at: At { value, ..at },
                    required: required.contains(&name.as_str()),
                });
            }
        }
        all
    }

    /// What can stand under this name.
    pub(crate) fn field(self, name: &str) -> Vec<At<'s>> {
        let readings = self.readings().into_iter();
        let found = readings.filter_map(|at| {
            let named = at.value.get("properties").and_then(|all| all.get(name));
            let value = named.or_else(|| {
                at.value
                    .get("additionalProperties")
                    .filter(|other| other.is_object())
            })?;
            Some(At { value, ..at })
        });
        found.collect()
    }

    /// What can stand in this list.
    pub(crate) fn each_item(self) -> Vec<At<'s>> {
        let mut all = Vec::new();
        for at in self.readings() {
            let tuple = at.value.get("prefixItems").and_then(Value::as_array);
            let tuple = tuple.or_else(|| at.value.get("items").and_then(Value::as_array));
            all.extend(tuple.into_iter().flatten().map(|value| At { value, ..at }));
            let items = at.value.get("items").filter(|items| items.is_object());
            all.extend(items.map(|value| At { value, ..at }));
        }
        all
    }

    /// The words for what can stand here: `a string (date-time)`, `one of: "open", "closed"`, `a list`.
    pub(crate) fn says(self) -> String {
        let mut words: Vec<String> = Vec::new();
        for at in self.readings() {
            let said = at.says_itself();
            words.extend(said.filter(|said| !words.contains(said)));
        }
        if words.is_empty() {
            return "anything".to_owned();
        }
        words.join(" or ")
    }

    fn says_itself(self) -> Option<String> {
        if let Some(choices) = self.value.get("enum").and_then(Value::as_array) {
            let choices: Vec<String> = choices.iter().take(12).map(Value::to_string).collect();
            return Some(format!("one of: {}", choices.join(", ")));
        }
        if let Some(word) = self.value.get("const") {
            return Some(word.to_string());
        }
        let types = self.types()?;
        let mut words = super::in_words(&types);
        if let Some(format) = self.value.get("format").and_then(Value::as_str) {
            words = format!("{words} ({format})");
        }
        Some(words)
    }

    /// The types that can stand here, by their names in JSON Schema; empty if nothing is said of them.
    pub(crate) fn all_types(self) -> Vec<&'s str> {
        let mut all = Vec::new();
        for at in self.readings() {
            let values = at.value.get("enum").and_then(Value::as_array);
            let fixed = values.into_iter().flatten().chain(at.value.get("const"));
            let mut names = at.types().unwrap_or_default();
            if names.is_empty() {
                for value in fixed {
                    names.push(type_of(value));
                }
            }
            for name in names {
                if !all.contains(&name) {
                    all.push(name);
                }
            }
        }
        all
    }

    /// What it is for, in the words of the schema or of what it refers to.
    pub(crate) fn words(self) -> Option<&'s str> {
        let mut readings = self.readings().into_iter();
        readings.find_map(|at| {
            let words = at
                .value
                .get("description")
                .or_else(|| at.value.get("title"));
            words.and_then(Value::as_str)
        })
    }
}

/// The name of a value's type in JSON Schema.
pub(crate) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
