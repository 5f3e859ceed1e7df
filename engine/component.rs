//! What every part declares: its config, an example, and how it becomes ready. It knows no kind of part.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;

use crate::diagnostic::{Code, Diagnostic, File, Findings, Place};
use crate::expression::{Expression, Scope, Tables};
use crate::failure::Failure;
use crate::format::FormatFault;
use crate::mapping::Mapping;
use crate::message::{Message, MessageId};
use crate::personal::Rules;
use crate::schema::{Schema, Schemas};
use crate::source::clients::Clients;
use crate::system::System;
use crate::system::admission::Admission;
use crate::system::broker::Broker;
use crate::system::database::Database;
use crate::template::{Root, Template};
use crate::world::Pending;
use crate::yaml::Node;

pub mod api;
pub mod codes;
pub mod common;
pub mod lifecycle;
mod systems;
pub mod waiting;
pub mod words;

use common::Common;

/// A kind of part: what its YAML is, and how it becomes ready to run.
///
/// The doc comment of the implementing type is its manual page, its field docs are the field table.
pub trait Part: DeserializeOwned + JsonSchema {
    /// What the registry wants: a ready source, step or sink.
    type Ready;
    /// A complete YAML entry; checked by a test against the schema and the parser.
    const EXAMPLE: &'static str;
    /// Config -> ready part. Called once a revision. Reports everything that is wrong to `cx` and opens nothing.
    fn build(&self, cx: &mut Build<'_>) -> Option<Self::Ready>;
}

/// One row of a registry, for schemas and reference pages.
pub struct Kind {
    /// The key in YAML.
    pub name: &'static str,
    /// The config's JSON Schema.
    pub schema: fn(&mut SchemaGenerator) -> schemars::Schema,
    /// A complete YAML entry.
    pub example: &'static str,
}

/// A closed set of kinds, made by `components!`.
pub trait Registry: Sized {
    /// What `build` gives.
    type Ready;
    /// All kinds, in the order of the documentation.
    const KINDS: &'static [Kind];
    /// The config of this kind; `None` if there is no such kind.
    fn parse(kind: &str, config: serde_json::Value) -> Option<Result<Self, serde_json::Error>>;
    /// Makes the part ready.
    fn build(&self, cx: &mut Build<'_>) -> Option<Self::Ready>;
}

/// From one list: the closed enum, its parser, its schemas and its reference rows.
///
/// `components! { /// Doc. StepKind -> Ready { map: map::Map, } }` expands to `pub enum StepKind { map(map::Map) }` and
/// an `impl Registry for StepKind` whose `KINDS` holds `Kind { name: "map", schema: .., example: map::Map::EXAMPLE }`,
/// whose `parse("map", config)` deserializes a `map::Map`, and whose `build` calls `map::Map::build`.
macro_rules! components {
    ($(#[$meta:meta])* $name:ident -> $ready:ty { $($kind:ident $(as $word:literal)?: $config:ty,)+ }) => {
        $(#[$meta])*
        #[allow(non_camel_case_types, missing_docs, clippy::large_enum_variant)]
        pub enum $name { $($kind($config)),+ }

        impl $crate::component::Registry for $name {
            type Ready = $ready;
            const KINDS: &'static [$crate::component::Kind] = &[$($crate::component::Kind {
                name: $crate::component::word!($kind $($word)?),
                schema: |generator| <$config as schemars::JsonSchema>::json_schema(generator),
                example: <$config as $crate::component::Part>::EXAMPLE,
            }),+];

            fn parse(kind: &str, config: serde_json::Value) -> Option<Result<Self, serde_json::Error>> {
                match kind {
                    $($crate::component::word!($kind $($word)?) => Some(serde_json::from_value(config).map($name::$kind)),)+
                    _ => None,
                }
            }

            fn build(&self, cx: &mut $crate::component::Build<'_>) -> Option<$ready> {
                match self {
                    $($name::$kind(config) => $crate::component::Part::build(config, cx),)+
                }
            }
        }
    };
}
pub(crate) use components;

/// The key of a kind in YAML: its name, unless it has another one (`awaits as "await"`, which Rust keeps for itself).
macro_rules! word {
    ($kind:ident) => {
        stringify!($kind)
    };
    ($kind:ident $word:literal) => {
        $word
    };
}
pub(crate) use word;

/// What the whole project offers to its parts.
#[derive(Default)]
pub struct Library {
    /// The project's JSON Schemas.
    pub schemas: Schemas,
    /// The project's mappings, by name.
    pub mappings: BTreeMap<String, Arc<Mapping>>,
    /// The cross-reference tables.
    pub tables: Arc<Tables>,
    /// The outside systems, by name.
    pub systems: BTreeMap<String, Arc<System>>,
    /// The outside systems that are databases, by name.
    pub databases: BTreeMap<String, Arc<Database>>,
    /// The outside systems that are message brokers, by name.
    pub brokers: BTreeMap<String, Arc<Broker>>,
    /// Who may call the project's APIs.
    pub clients: Arc<Clients>,
    /// The names of all flows.
    pub flows: BTreeSet<String>,
    /// The project's folder: what relative paths of files are relative to.
    pub root: std::path::PathBuf,
    /// How long one attempt may take, where neither step nor system says so (`defaults.timeout`).
    pub timeout: Option<words::Duration>,
    /// What exists and cannot be used, because of findings of its own: naming it is no second mistake.
    pub broken: Broken,
}

/// Names of what exists and cannot be used.
#[derive(Default)]
pub struct Broken {
    /// Mappings.
    pub mappings: BTreeSet<String>,
    /// Schemas.
    pub schemas: BTreeSet<String>,
    /// Systems.
    pub systems: BTreeSet<String>,
}

/// Where a part is built: its place in a file, the project's library, and the list that takes what is wrong.
pub struct Build<'a> {
    /// The file in which the entry stands (a fragment's file, if it comes from one).
    pub file: &'a Arc<File>,
    /// The config: what stands after the kind.
    pub node: &'a Node,
    /// The keys that every step and sink may have, beside the kind.
    pub common: &'a Common,
    /// The project's library.
    pub library: &'a Library,
    /// The flow's name.
    pub flow: &'a str,
    /// Whether the flow is of high criticality.
    pub high: bool,
    /// Names that `$name` may use here: what `into` and `set` have bound above.
    pub variables: &'a mut BTreeSet<String>,
    /// The flow's declared key names.
    pub keys: &'a BTreeSet<String>,
    /// The contract of arriving bodies (`accepts`), for sources whose formats know no types of their own.
    pub accepts: Option<&'a Arc<Schema>>,
    /// Where `use:` stands, if the entry comes from a fragment.
    pub used_at: Option<Place>,
    /// What is wrong.
    pub findings: &'a mut Findings,
}

/// What a step or a sink may ask for while it works on a message.
pub struct Context<'a> {
    /// The cross-reference tables.
    pub tables: &'a Tables,
    /// The step's id: part of what `uuid()` depends on.
    pub step: &'a str,
    /// What the flow says is personal.
    pub personal: &'a Rules,
}

impl Context<'_> {
    /// What this expression sees of a message: without its body if the expression does not read it, so that a body that is no JSON is no
    /// obstacle then.
    pub fn scope<'m>(
        &'m self,
        message: &'m Message,
        expression: &Expression,
    ) -> Result<Scope<'m>, Failure> {
        let scope = if expression.reads_body() {
            Scope::of(message, self.tables)?
        } else {
            Scope::of_context(message, self.tables)
        };
        Ok(scope.with_site(self.step))
    }
}

/// A step without outside effect. It runs fused with its neighbours.
pub trait Pure: Send + Sync {
    /// Works on one message. Called once an attempt; must give the same for the same message.
    fn apply(&self, message: Message, cx: &Context<'_>) -> Result<Outcome, Failure>;
}

/// A step that lets only the first message with a key go on, or only the newest one. The claim is durable before the message goes on; the
/// same message finds its own claim again after a crash.
pub trait Claiming: Send + Sync {
    /// What the message claims. Pure.
    fn claim(&self, message: &Message, cx: &Context<'_>) -> Result<Claimed, Failure>;
}

/// What a message claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The key, within the step.
    pub key: String,
    /// How long it is kept, in milliseconds: after the message's run has ended, or a version after it was seen.
    pub keep_ms: i64,
    /// The version by which messages with the key are judged; without one the first is the only one.
    pub version: Option<String>,
}

/// What a pure step makes of a message.
pub enum Outcome {
    /// It goes on.
    Goes(Message),
    /// It ends here, counted as filtered by this step.
    Filtered,
    /// It goes on as these parts, each with an `item` of its own. Nothing in the list: counted as filtered.
    Split(Vec<Message>),
    /// It goes on, and copies are handed to other flows.
    Emits(Message, Vec<(Arc<str>, Message)>),
}

/// The durable form of what will be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// All that is needed to send it again after a restart: a JSON document without secrets.
    pub bytes: Bytes,
    /// The value that lets the target recognise a repeat, if there is one.
    pub idempotency_key: Option<String>,
}

/// The durable form of what came back: a JSON document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// For HTTP `{"status": 201, "headers": {..}, "body": ..}`.
    pub bytes: Bytes,
}

/// How one attempt ended, as far as anybody knows.
pub enum Attempt {
    /// It took effect.
    Applied(Answer),
    /// The system cannot be asked, and this stands in for its answer, as the flow says. The text says what it is and why. Only of what reads.
    Instead(Answer, String),
    /// It surely took no effect, or repeating it is safe.
    NotApplied(Failure),
    /// Bytes have left and nobody knows. The failure's class is `ambiguous`.
    Unknown(Failure),
    /// The system takes no calls now, or refuses the credentials: this took no effect, counts as no attempt, and the message waits.
    Held(Failure),
}

/// What a probe says about a request that was sent before.
pub enum Probed {
    /// The target has it.
    Applied(Answer),
    /// The target does not have it.
    Absent,
    /// The probe itself failed.
    Failed(Failure),
    /// The system takes no calls now: nothing was asked.
    Held(Failure),
}

/// What the engine must know to repeat safely.
#[derive(Clone, Debug)]
pub struct Promises {
    /// Reading only, or an upsert: a repeat is always safe, and no intent is needed first.
    pub safe: bool,
    /// The target recognises a repeated idempotency key, for this many milliseconds after the first send.
    pub kept_ms: Option<u64>,
    /// There is a probe; a "no" counts this many milliseconds after the send, and twice.
    pub probe_settle_ms: Option<u64>,
    /// No attempt takes longer than this.
    pub timeout_ms: u64,
    /// How many may be under way at once.
    pub concurrency: usize,
}

/// A step or sink that acts on the outside, one message at a time. The engine commits an intent before `perform` and the result after.
pub trait Effect: Send + Sync {
    /// What the engine may rely on.
    fn promises(&self) -> Promises;
    /// Whether the system that it acts on takes calls: while it does not, no message is taken. `perform` enters by it and tells how the
    /// call ended. `None` for what acts on no system.
    fn admission(&self) -> Option<&Arc<Admission>> {
        None
    }
    /// Looks whether what it acts on is there, and changes nothing; says what it found, if it looks at all.
    fn look(&self) -> Pending<'_, Result<Option<String>, Failure>> {
        Box::pin(std::future::ready(Ok(None)))
    }
    /// Whether it may have something to go on with while its system takes no calls: messages are then taken all the same.
    fn falls_back(&self) -> bool {
        false
    }
    /// Renders what will be sent. Pure; called once an effect, its result is stored.
    fn prepare(&self, message: &Message, cx: &Context<'_>) -> Result<Request, Failure>;
    /// Sends it. May be called again with the same request, after `NotApplied` or where the promises allow it.
    fn perform<'a>(&'a self, request: &'a Request) -> Pending<'a, Attempt>;
    /// Asks the target whether it has it. Only called if there is a probe.
    fn probe<'a>(&'a self, message: &'a Message, request: &'a Request) -> Pending<'a, Probed>;
    /// The message that goes on after the answer (`into` binds here). Pure.
    fn finish(
        &self,
        message: Message,
        answer: &Answer,
        cx: &Context<'_>,
    ) -> Result<Message, Failure>;
}

/// A sink that appends to files. How long a file may be is a cursor in the store; what lies behind it is cut off.
pub trait Append: Send + Sync {
    /// The file and the bytes for one message. Pure.
    fn prepare(&self, message: &Message, cx: &Context<'_>) -> Result<(String, Bytes), Failure>;
    /// Takes the file for this caller alone and says how long it is. Held until the guard goes.
    fn open<'a>(&'a self, path: &'a str) -> Pending<'a, Result<Box<dyn Appending>, Failure>>;
}

/// A file taken for appending.
pub trait Appending: Send {
    /// How long the file is.
    fn length(&self) -> u64;
    /// Cuts the file back to `length` if it is longer: what lies behind was written and never committed.
    fn cut(&mut self, length: u64) -> Pending<'_, Result<(), Failure>>;
    /// Writes and syncs. After a failure the file is cut back to its former length.
    fn write<'a>(&'a mut self, bytes: Bytes) -> Pending<'a, Result<(), Failure>>;
}

/// A source: brings messages in until it is told to stop.
pub trait Source: Send + Sync {
    /// Runs until `cx.stop`. A failure is shown and the source is started again after a pause.
    fn run(self: Arc<Self>, cx: Intake) -> Pending<'static, Result<(), Failure>>;
    /// Whether the source ends by itself (`stdin`, `generate`): a run of the engine may then end too.
    fn ends(&self) -> bool {
        false
    }
    /// What only one flow may have: for a webhook its method and path. Two sources with the same binding contradict each other.
    fn binding(&self) -> Option<String> {
        None
    }
    /// Whether the sender waits for the verdict. Only then can a flow refuse (`on_breach: refuse`) without losing what it refuses.
    fn answers(&self) -> bool {
        false
    }
    /// Whether several of it would bring the same things (a schedule, a poll, a folder): of several engines one at a time runs it.
    fn alone(&self) -> bool {
        false
    }
    /// Looks whether what it takes from is there, and changes nothing; says what it found, if it looks at all.
    fn look(&self) -> Pending<'_, Result<Option<String>, Failure>> {
        Box::pin(std::future::ready(Ok(None)))
    }
    /// What it offers to callers, if it is an API.
    fn api(&self) -> Option<&api::Api> {
        None
    }
    /// The folders in which it makes, moves or removes files, below the project's.
    fn folders(&self) -> Vec<String> {
        Vec::new()
    }
    /// Whether the source brings things again as a matter of course (a cursor that overlaps): the flow then needs `once`.
    fn overlaps(&self) -> bool {
        false
    }
}

/// What a source brings.
#[derive(Clone, Debug, Default)]
pub struct Arrival {
    /// The bytes as they came.
    pub body: Bytes,
    /// Headers, by lowercase name, without credentials and signatures.
    pub headers: Vec<(String, String)>,
    /// The sender's id of this delivery: a second one is acknowledged and has no effect.
    pub delivery: Option<String>,
    /// What the message id is derived from (file claim and number), so that a repeat after a crash has the same id.
    pub identity: Option<String>,
    /// Why it is not worth decoding further (a broken line of a file): stored as an exception.
    pub breach: Option<Failure>,
    /// The message's id, where the source tells it to the sender.
    pub id: Option<MessageId>,
    /// Whether another body with a known `delivery` is refused, instead of taken for a repeat.
    pub strict: bool,
}

/// Arrivals and the source's progress, committed together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// What arrived.
    pub arrivals: Vec<Arrival>,
    /// What the source remembers once these are durable.
    pub progress: Option<Progress>,
}

/// A cursor of a source: moves only with the messages that it stands for, and only from the state that the source has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which cursor: of this flow's source, with a name the source chooses.
    pub cursor: String,
    /// What it was when the source last read it; `None` if there was none.
    pub from: Option<String>,
    /// What it is from now on; `None` removes it.
    pub to: Option<String>,
}

/// What became of an arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Durable, and will be worked on (or waits as an exception, if it breaks the contract).
    Accepted,
    /// Known already: acknowledged, no second effect.
    Duplicate,
    /// It breaks the contract and the flow refuses that (`on_breach: refuse`).
    Refused(Failure),
}

/// How a source hands messages to the engine: durable when the answer comes.
pub trait Accept: Send + Sync {
    /// Commits the batch. An error means that nothing of it is durable: `throttled` when the engine is full, `unavailable` when it stops
    /// or the store fails, `conflict` when the cursor is not where `progress.from` says.
    fn accept(&self, batch: Batch) -> Pending<'_, Result<Vec<Verdict>, Failure>>;
    /// Counts deliveries whose sender could not be verified: nothing of them is stored.
    fn turned_away(&self, _count: u64) {}
    /// Notes who has called an API: kept with the next commit.
    fn called(&self, _calls: Vec<api::Calls>) {}
    /// Waits until the engine has room. Sources that pull call it before they pull.
    fn room(&self) -> Pending<'_, ()>;
    /// The value of a cursor of this source.
    fn cursor<'a>(&'a self, name: &'a str) -> Pending<'a, Result<Option<String>, Failure>>;
    /// The names of all cursors of this source that begin with `prefix`, with their values.
    fn cursors<'a>(
        &'a self,
        prefix: &'a str,
    ) -> Pending<'a, Result<Vec<(String, String)>, Failure>>;
}

/// What a source gets: the way in, the world, the listener, and when to stop.
#[derive(Clone)]
pub struct Intake {
    /// The flow's name: for paths, logs and ids.
    pub flow: Arc<str>,
    /// The project's folder: what relative paths are relative to.
    pub root: Arc<std::path::Path>,
    /// The way in.
    pub accept: Arc<dyn Accept>,
    /// Clock, disk, environment, randomness.
    pub world: crate::world::World,
    /// The listener that webhooks register at.
    pub listener: crate::net::listener::Listener,
    /// Cancelled when the source must stop; what it has begun to accept it finishes.
    pub stop: tokio_util::sync::CancellationToken,
}

impl Build<'_> {
    /// The place of a part of the config: `&["retry", "attempts"]`; as much of the path as exists. An empty path is the config itself.
    pub fn place(&self, path: &[&str]) -> Place {
        let mut node = self.node;
        for part in path {
            match node.find(&[part]) {
                Some(found) => node = found,
                None => break,
            }
        }
        node.place(self.file)
    }

    /// Adds a finding; one in a fragment also names the place that uses it.
    pub fn report(&mut self, finding: Diagnostic) {
        let finding = match &self.used_at {
            Some(place) => finding.related(place.clone(), "used here"),
            None => finding,
        };
        self.findings.push(finding);
    }

    /// Adds an error at a part of the config.
    pub fn error(
        &mut self,
        code: Code,
        path: &[&str],
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let place = self.place(path);
        self.report(Diagnostic::error(code, place, message).help(help));
    }

    /// Compiles the expression at a part of the config; its mistakes become findings at their places.
    pub fn expression(&mut self, path: &[&str], text: &str) -> Option<Expression> {
        let node = self.node.find(path)?.clone();
        self.expression_at(&node, text)
    }

    /// Compiles the expression that stands in this node.
    pub fn expression_at(&mut self, node: &Node, text: &str) -> Option<Expression> {
        let place = |start, end| Place {
            file: self.file.clone(),
            span: node.span_within(self.file, start, end),
        };
        let (expression, found) = codes::expression(
            text,
            &place,
            self.variables,
            self.keys,
            &self.library.tables,
        );
        for finding in found {
            self.report(finding);
        }
        expression
    }

    /// Compiles the template at a part of the config.
    pub fn template(&mut self, path: &[&str], text: &str) -> Option<Template> {
        match Template::compile(text) {
            Ok(template) => {
                self.template_names(path, &template);
                Some(template)
            }
            Err(fault) => {
                let node = self.node.find(path).unwrap_or(self.node);
                let finding = codes::template(&fault, node, self.file);
                self.report(finding);
                None
            }
        }
    }

    /// Reports a setting of a format that cannot be; `path` leads to the format.
    pub fn format_fault(&mut self, path: &[&str], fault: FormatFault) {
        let node = self.node.find(path).unwrap_or(self.node);
        let kind = node.entries().first().map(|(key, _)| key.text.clone());
        let kind = kind.unwrap_or_default();
        let path: Vec<&str> = path.iter().copied().chain([&*kind, fault.field]).collect();
        self.error(codes::BAD_VALUE, &path, fault.message, fault.help);
    }

    /// Variables and keys that a template names must be there.
    fn template_names(&mut self, path: &[&str], template: &Template) {
        let node = self.node.find(path).unwrap_or(self.node);
        let mut found = Vec::new();
        for named in template.paths() {
            let (code, noun, name, known) = match &named.root {
                Root::Variable(name) => {
                    let code = crate::expression::codes::UNKNOWN_VARIABLE;
                    (code, "variable", Some(name), &*self.variables)
                }
                Root::Key => (codes::UNKNOWN_KEY, "key", named.segments.first(), self.keys),
                _ => continue,
            };
            let Some(name) = name.filter(|name| !known.contains(*name)) else {
                continue;
            };
            let mut known: Vec<String> = known.iter().cloned().collect();
            if noun == "variable" {
                known.extend(["today", "received_at", "message_id"].map(str::to_owned));
            }
            let place = Place {
                file: self.file.clone(),
                span: node.span_within(self.file, named.start, named.end),
            };
            let message = format!("there is no {noun} `{name}` here");
            let folder = if noun == "key" {
                "`keys`"
            } else {
                "`into` or `set` in a step above"
            };
            let help = codes::names_help(noun, name, &known, folder);
            found.push(Diagnostic::error(code, place, message).help(help));
        }
        for finding in found {
            self.report(finding);
        }
    }

    /// The mapping that is named at a part of the config.
    pub fn mapping(&mut self, path: &[&str], name: &str) -> Option<Arc<Mapping>> {
        let found = self.library.mappings.get(name).cloned();
        if found.is_none() && !self.library.broken.mappings.contains(name) {
            let known: Vec<String> = self.library.mappings.keys().cloned().collect();
            self.unknown(
                codes::UNKNOWN_MAPPING,
                path,
                "mapping",
                name,
                &known,
                "mappings/",
            );
        }
        found
    }

    /// The mapping that is named at a part of the config, for use here: variables and keys that it needs must be there.
    pub fn mapping_here(&mut self, path: &[&str], name: &str) -> Option<Arc<Mapping>> {
        let mapping = self.mapping(path, name)?;
        for (variable, _) in mapping.free_variables() {
            if !self.variables.contains(variable) {
                let known: Vec<String> = self.variables.iter().cloned().collect();
                let help = codes::names_help("variable", variable, &known, "`into` or `set`");
                self.error(
                    crate::expression::codes::UNKNOWN_VARIABLE,
                    path,
                    format!("the mapping `{name}` needs `${variable}`, and nothing above binds it"),
                    help,
                );
            }
        }
        for (key, _) in mapping.keys() {
            if !self.keys.contains(key) {
                let known: Vec<String> = self.keys.iter().cloned().collect();
                let help = codes::names_help("key", key, &known, "`keys`");
                let message = format!(
                    "the mapping `{name}` needs the key `{key}`, and the flow declares none"
                );
                self.error(codes::UNKNOWN_KEY, path, message, help);
            }
        }
        Some(mapping)
    }

    /// The schema that is named at a part of the config.
    pub fn schema(&mut self, path: &[&str], name: &str) -> Option<Arc<Schema>> {
        let found = self.library.schemas.get(name);
        if found.is_none() && !self.library.broken.schemas.contains(name) {
            let known: Vec<String> = self.library.schemas.names().map(str::to_owned).collect();
            self.unknown(
                codes::UNKNOWN_SCHEMA,
                path,
                "schema",
                name,
                &known,
                "schemas/",
            );
        }
        found
    }

    /// The flow that is named at a part of the config.
    pub fn flow_named(&mut self, path: &[&str], name: &str) -> Option<Arc<str>> {
        if self.library.flows.contains(name) {
            return Some(Arc::from(name));
        }
        let known: Vec<String> = self.library.flows.iter().cloned().collect();
        self.unknown(codes::UNKNOWN_FLOW, path, "flow", name, &known, "flows/");
        None
    }

    /// Reports a name that stands for nothing, with the nearest name or the list of names.
    pub fn unknown(
        &mut self,
        code: Code,
        path: &[&str],
        noun: &str,
        name: &str,
        known: &[String],
        folder: &str,
    ) {
        let help = codes::names_help(noun, name, known, folder);
        self.error(code, path, format!("there is no {noun} `{name}`"), help);
    }
}
