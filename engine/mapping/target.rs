//! How the schema of the target asks for numbers: as numbers or as strings. Best effort; what it does not say stays as it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::{Entry, Shape};

/// How numbers are written at a place and below it.
#[derive(Clone, Debug, Default)]
pub(super) enum Form {
    /// As they are.
    #[default]
    AsIs,
    /// As strings.
    Text,
    /// In the properties and items, by their forms.
    Below(Arc<Below>),
}

#[derive(Debug, Default)]
pub(super) struct Below {
    properties: BTreeMap<String, Form>,
    items: Form,
}

impl Form {
    pub(super) fn items(&self) -> &Form {
        match self {
            Form::Below(below) => &below.items,
            _ => &Form::AsIs,
        }
    }

    pub(super) fn property(&self, name: &str) -> &Form {
        match self {
            Form::Below(below) => below.properties.get(name).unwrap_or(&Form::AsIs),
            _ => &Form::AsIs,
        }
    }
}

/// How deep a schema is followed.
const DEPTH_MAX: usize = 32;
/// How many references lead on from one place.
const REFERENCES_MAX: usize = 16;

/// A place in a schema, with the document that its references start from.
#[derive(Clone, Copy)]
pub(super) struct Place<'s, 'f> {
    schema: &'s Value,
    root: &'s Value,
    find: &'f dyn Fn(&str) -> Option<&'s Value>,
}

/// Gives every leaf its form.
pub(super) fn apply(shape: &mut Shape, place: Place) {
    match shape {
        Shape::Expression(leaf) => leaf.form = place.form(DEPTH_MAX),
        Shape::Literal(_, form) => *form = place.form(1),
        Shape::Object(fields) => {
            for field in fields {
                if let Some(below) = place.property(&field.name) {
                    apply(&mut field.shape, below);
                }
            }
        }
        Shape::List(entries) => {
            let Some(below) = place.items() else {
                return;
            };
            for entry in entries {
                match entry {
                    Entry::One(shape) | Entry::Each(_, shape) => apply(shape, below),
                }
            }
        }
    }
}

impl<'s, 'f> Place<'s, 'f> {
    pub(super) fn new(
        schema: &'s Value,
        find: &'f dyn Fn(&str) -> Option<&'s Value>,
    ) -> Place<'s, 'f> {
        Place {
            schema,
            root: schema,
            find,
        }
    }

    fn at(self, schema: &'s Value) -> Place<'s, 'f> {
        Place { schema, ..self }
    }

    /// This place, what its references lead to, and the parts of its `allOf`.
    fn parts(self) -> Vec<Place<'s, 'f>> {
        let mut parts = vec![self];
        let mut at = 0;
        while at < parts.len() && parts.len() < REFERENCES_MAX {
            let part = parts[at];
            at += 1;
            let reference = part.schema.get("$ref").and_then(Value::as_str);
            if let Some(place) = reference.and_then(|reference| part.follow(reference)) {
                parts.push(place);
            }
            if let Some(all) = part.schema.get("allOf").and_then(Value::as_array) {
                parts.extend(all.iter().map(|schema| part.at(schema)));
            }
        }
        parts
    }

    fn follow(self, reference: &str) -> Option<Place<'s, 'f>> {
        let (document, pointer) = reference.split_once('#').unwrap_or((reference, ""));
        let root = if document.is_empty() {
            self.root
        } else {
            (self.find)(document)?
        };
        let schema = root.pointer(pointer)?;
        Some(Place {
            schema,
            root,
            ..self
        })
    }

    fn property(self, name: &str) -> Option<Place<'s, 'f>> {
        self.parts().into_iter().find_map(|part| {
            let schema = part.schema.get("properties")?.get(name)?;
            Some(part.at(schema))
        })
    }

    fn items(self) -> Option<Place<'s, 'f>> {
        self.parts()
            .into_iter()
            .find_map(|part| Some(part.at(part.schema.get("items")?)))
    }

    /// Whether a string is asked for, and a number is not allowed.
    fn wants_text(self) -> bool {
        let named = |types: &Value, name: &str| match types {
            Value::String(only) => only == name,
            Value::Array(any) => any.iter().any(|one| one == name),
            _ => false,
        };
        self.parts().into_iter().any(|part| {
            part.schema.get("type").is_some_and(|types| {
                named(types, "string") && !named(types, "number") && !named(types, "integer")
            })
        })
    }

    fn form(self, depth: usize) -> Form {
        if self.wants_text() {
            return Form::Text;
        }
        if depth == 0 {
            return Form::AsIs;
        }
        let mut below = Below::default();
        for part in self.parts() {
            let properties = part.schema.get("properties").and_then(Value::as_object);
            for (name, schema) in properties.into_iter().flatten() {
                let form = part.at(schema).form(depth - 1);
                if !matches!(form, Form::AsIs) {
                    below.properties.entry(name.clone()).or_insert(form);
                }
            }
        }
        if let Some(items) = self.items() {
            below.items = items.form(depth - 1);
        }
        if below.properties.is_empty() && matches!(below.items, Form::AsIs) {
            return Form::AsIs;
        }
        Form::Below(Arc::new(below))
    }
}
