//! The language: what a user writes in a flow or a fragment, as types. Only their shape; what it means is found by `check`.

use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use crate::component::common::Retry;
use crate::component::lifecycle::{Criticality, Deprecation, Version};
use crate::component::words::{Duration, ExpressionText};

/// A flow: where messages come from, what happens to them, and where they go.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// The flow's name: unique in the project; runs, exceptions and other flows name it.
    #[schemars(required)]
    pub flow: Option<String>,
    /// What the flow is for, in a sentence.
    pub description: Option<String>,
    /// Who answers for it: a team or a person.
    pub owner: Option<String>,
    /// How much it matters when it stands still. Default `normal`.
    pub criticality: Option<Criticality>,
    /// The version of what the flow offers, for people and the catalog.
    pub version: Option<Version>,
    /// That the flow is to be given up, and what takes its place.
    pub deprecated: Option<Deprecation>,
    /// The system that the messages come from, where the source does not name it: for `authority` and the catalog.
    pub origin: Option<String>,
    /// The business process that its milestones belong to.
    pub process: Option<String>,
    /// Where messages come from: one entry, keyed by its kind.
    #[schemars(required)]
    pub source: Option<Held>,
    /// The schema of arriving bodies: its name, or `{ schema, on_breach }`.
    pub accepts: Option<Accepts>,
    /// Business keys: a name, and an expression over the accepted body. Searchable everywhere. A key is a text or a number of at most 512 bytes; a message with a longer one is an exception.
    pub keys: Option<BTreeMap<String, ExpressionText>>,
    /// How a repeated message is known; it is acknowledged and has no second effect.
    pub once: Option<Once>,
    /// Messages with the same value of this key run one after another: one of the flow's `keys`, or `{ key, on_exception }`.
    pub order_by: Option<OrderBy>,
    /// Where personal data stands in the accepted body: `customer.email`, `lines[].note`; or `**.email` for a property of this name in any body. Who has no right to it sees a mask, and it can be erased.
    pub personal: Option<Vec<String>>,
    /// What happens to a message on its way, from top to bottom.
    pub steps: Option<Held>,
    /// Which sinks take a message. Without it there is exactly one sink.
    pub routes: Option<Routes>,
    /// Where messages go: a name, and an entry keyed by its kind.
    #[schemars(required)]
    pub sinks: Option<Held>,
}

/// Steps, or a sink, to be used in several flows.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fragment {
    /// The fragment's name: what `use` names.
    #[schemars(required)]
    pub fragment: Option<String>,
    /// What the fragment is for, in a sentence.
    pub description: Option<String>,
    /// What a flow gives under `with`: a name, and what it is.
    pub parameters: Option<BTreeMap<String, Parameter>>,
    /// Steps, put where `use` stands.
    pub steps: Option<Held>,
    /// A sink, put where `use` stands: an entry keyed by its kind.
    pub sink: Option<Held>,
}

/// What a flow gives to a fragment; `${param:name}` stands for it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// What kind of value it is.
    #[serde(rename = "type")]
    pub kind: ParameterKind,
    /// The value where a flow gives none; without it the parameter must be given.
    pub default: Option<Held>,
    /// What it is for, in a sentence.
    pub description: Option<String>,
}

/// What kind of value a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ParameterKind {
    /// Any text.
    Text,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A JMESPath expression.
    Expression,
    /// A length of time, such as `30s`.
    Duration,
    /// The name of a system of the project.
    System,
    /// The name of a mapping of the project.
    Mapping,
    /// The name of a schema of the project.
    Schema,
    /// The name of a flow of the project.
    Flow,
}

/// The schema of arriving bodies.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Accepts {
    /// The schema's name; a body that breaks it becomes an exception, or is refused by an `api`.
    Name(String),
    /// The schema, and what happens to a body that breaks it.
    Contract(Contract),
}

/// The schema, and what happens to a body that breaks it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// The schema's name.
    pub schema: String,
    /// What happens to a body that breaks it. Default `exception`; of an `api`: `refuse`.
    pub on_breach: Option<OnBreach>,
}

/// What happens to a body that breaks the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBreach {
    /// It is stored as an exception and the sender is told that all is well: nothing is lost.
    Exception,
    /// The sender is told what is wrong, and keeps it.
    Refuse,
}

/// How a repeated message is known.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Once {
    /// One of the flow's `keys`: two messages with the same value are the same message.
    pub key: String,
    /// How long a value is remembered after its run has ended. Default 30d.
    pub keep: Option<Duration>,
    /// What happens to a repeat with another body. Default `exception`.
    pub changed: Option<OnChanged>,
    /// With `changed: newest`: the version of a message, an expression over the accepted body. A null is a failure.
    pub version: Option<ExpressionText>,
    /// Flows with the same scope share what they remember. Default: the flow's name.
    pub scope: Option<String>,
}

/// Which messages run one after another.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OrderBy {
    /// One of the flow's `keys`; a message that waits for a person holds its key.
    Key(String),
    /// The key, and what a message that waits for a person does to those behind it.
    Rule(OrderRule),
}

/// Which messages run one after another, and what holds them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderRule {
    /// One of the flow's `keys`: messages with the same value run one after another, in the order in which they were accepted.
    pub key: String,
    /// What a message that waits for a person does to those behind it. Default `hold`.
    pub on_exception: Option<OnException>,
}

/// What a message that waits for a person does to those behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnException {
    /// They wait until the person has decided: order is kept.
    Hold,
    /// They go on, before it: order is given up where something fails.
    Pass,
}

/// What happens to a repeat with another body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnChanged {
    /// A person decides.
    Exception,
    /// It is counted as a duplicate.
    Ignore,
    /// Its `version` decides: a newer one runs after the one before, an older one is counted as a duplicate.
    Newest,
}

/// Which sinks take a message.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Routes {
    /// The first arm that matches takes the message.
    First(Vec<Arm>),
    /// Every arm that matches takes the message.
    All(Vec<Arm>),
}

/// One arm of `routes`: `when` and `to`, or `otherwise`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// The arm takes messages for which this expression is true.
    pub when: Option<ExpressionText>,
    /// The sinks of this flow that take the message.
    pub to: Option<Targets>,
    /// The sinks of this flow that take the messages that no other arm takes; the last arm.
    pub otherwise: Option<Targets>,
}

/// One name or several.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Targets {
    /// Several names.
    Many(Vec<String>),
    /// One name.
    One(String),
}

/// One arm of a `branch` step: `when` and `steps`, or `otherwise`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BranchArm {
    /// The arm takes messages for which this expression is true.
    pub when: Option<ExpressionText>,
    /// What happens to them; afterwards they go on behind the branch.
    pub steps: Option<Held>,
    /// What happens to the messages that no other arm takes; the last arm. Without it they go past.
    pub otherwise: Option<Rest>,
}

/// What happens to the messages that no other arm takes.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rest {
    /// The steps.
    pub steps: Held,
}

/// Steps that are done all, or undone.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Saga {
    /// The steps; each that acts on the outside says with `undo` how it is undone, up to the one with `pivot: true`.
    pub steps: Held,
    /// How often and when a failed undo is repeated. Default 12 attempts, the first wait 5s, factor 2, at most 1h.
    pub undo_retry: Option<Retry>,
    /// What becomes of a message whose steps were undone. Default `exception`.
    pub on_undone: Option<OnUndone>,
}

/// What becomes of a message whose steps were undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUndone {
    /// It waits for a person, with the failure that began it.
    Exception,
    /// It ends, counted as compensated.
    End,
}

/// What stands beside `use`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Use {
    /// The name of the fragment.
    #[serde(rename = "use")]
    pub fragment: String,
    /// The fragment's parameters: a name and a value.
    pub with: Option<BTreeMap<String, Held>>,
    /// Stands before the ids of the fragment's steps. Default: the fragment's name.
    pub id: Option<String>,
    /// Runs the fragment's steps only for messages for which this expression is true.
    pub when: Option<ExpressionText>,
}

/// Something whose own pass looks at it: here it may be anything.
#[derive(Clone, Copy, Default)]
pub struct Held;

impl<'de> Deserialize<'de> for Held {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Held)
    }
}

impl JsonSchema for Held {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Held".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({})
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}
