//! The JSON Schemas of everything that a project's YAML may hold, made once a process from the types. What checks them is `yaml::shape`.

use std::sync::OnceLock;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::file;
use super::settings::Settings;
use super::test::Tests;
use crate::component::common::{Common, Undo};
use crate::component::{Kind, Registry};
use crate::sink::SinkKind;
use crate::source::SourceKind;
use crate::step::StepKind;

/// What kind of entry: decides which kinds exist, and how it is spoken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// `source`.
    Source,
    /// An entry of `steps`.
    Step,
    /// An entry of `sinks`.
    Sink,
}

impl Role {
    /// The word in messages.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Role::Source => "source",
            Role::Step => "step",
            Role::Sink => "sink",
        }
    }

    /// All kinds, in the order of the documentation.
    pub(crate) fn kinds(self) -> &'static [Kind] {
        match self {
            Role::Source => SourceKind::KINDS,
            Role::Step => StepKind::KINDS,
            Role::Sink => SinkKind::KINDS,
        }
    }

    /// Kinds of the language that this version does not have.
    pub(crate) fn later(self) -> &'static [&'static str] {
        match self {
            Role::Source => &["kafka", "nats", "mqtt", "redis", "sql", "mail"],
            Role::Step => &[],
            Role::Sink => &["kafka", "nats", "mqtt", "redis", "mail", "reply"],
        }
    }

    /// The schema of an entry of this kind.
    pub(crate) fn shape(self, kind: &str) -> Option<&'static Value> {
        static SHAPES: OnceLock<[Vec<Value>; 3]> = OnceLock::new();
        let all = SHAPES.get_or_init(|| {
            [Role::Source, Role::Step, Role::Sink].map(|role| {
                role.kinds()
                    .iter()
                    .map(|kind| of_kind(role, kind))
                    .collect()
            })
        });
        let at = self.kinds().iter().position(|known| known.name == kind)?;
        all[self as usize].get(at)
    }
}

macro_rules! shape_of {
    ($(#[doc = $doc:literal] $name:ident: $type:ty;)+) => {
        $(#[doc = $doc] pub(crate) fn $name() -> &'static Value {
            static SHAPE: OnceLock<Value> = OnceLock::new();
            SHAPE.get_or_init(of::<$type>)
        })+
    };
}

shape_of! {
    /// The keys beside the kind.
    common: Common;
    /// A flow.
    flow: file::Flow;
    /// A fragment.
    fragment: file::Fragment;
    /// What stands beside `use`.
    use_entry: file::Use;
    /// The arms of a branch.
    branch: Vec<file::BranchArm>;
    /// A saga.
    saga: file::Saga;
    /// How a step of a saga is undone.
    undo: Undo;
    /// A file of tests.
    tests: Tests;
    /// `crossdock.yaml`.
    settings: Settings;
}

/// The generator with the settings that all our schemas share.
pub(crate) fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12()
        .with(|settings| settings.meta_schema = None)
        .into_generator()
}

fn of<T: JsonSchema>() -> Value {
    generator().into_root_schema_for::<T>().to_value()
}

/// An entry of this kind: the keys beside it, and the kind with its config.
fn of_kind(role: Role, kind: &Kind) -> Value {
    let mut generator = generator();
    let config = (kind.schema)(&mut generator).to_value();
    let mut fields = Map::new();
    if role != Role::Source {
        let mut common = Common::json_schema(&mut generator).to_value();
        if let Some(Value::Object(common)) = common.get_mut("properties").map(Value::take) {
            fields = common;
        }
    }
    fields.insert(kind.name.to_owned(), config);
    json!({
        "type": "object",
        "properties": fields,
        "additionalProperties": false,
        "$defs": generator.take_definitions(true),
    })
}

/// The names of the keys beside a kind.
pub(crate) fn common_keys() -> Vec<&'static str> {
    common()
        .get("properties")
        .and_then(Value::as_object)
        .map_or(Vec::new(), |fields| {
            fields.keys().map(String::as_str).collect()
        })
}

/// The fields that a kind's config has at its top.
pub(crate) fn fields_of(role: Role, kind: &str) -> Vec<&'static str> {
    role.shape(kind)
        .and_then(|shape| shape.get("properties")?.get(kind)?.get("properties"))
        .and_then(Value::as_object)
        .map_or(Vec::new(), |fields| {
            fields.keys().map(String::as_str).collect()
        })
}

/// Keys of the language, beside a kind, that this version does not have.
pub(crate) const COMMON_LATER: &[&str] = &["durable"];
/// Keys of the language, in `crossdock.yaml`, that this version does not have.
pub(crate) const SETTINGS_LATER: &[&str] = &["hand_off", "auth"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_kind_has_the_name_of_a_key() {
        let mut keys = common_keys();
        keys.extend(["use", "with", "branch", "saga"]);
        keys.extend(COMMON_LATER);
        for role in [Role::Source, Role::Step, Role::Sink] {
            for kind in role.kinds() {
                assert!(!keys.contains(&kind.name), "{}", kind.name);
            }
        }
    }
}
