//! What the engine runs: a checked flow, connected to nothing. Nothing downstream checks it again.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::component::common::RetryRule;
use crate::component::waiting::Waiting;
use crate::component::{Append, Claiming, Effect, Library, Pure};
use crate::diagnostic::File;
use crate::expression::{Expression, Tables};
use crate::failure::Class;
use crate::personal::Rules;
use crate::schema::Schema;
use crate::sink::Stream;
use crate::source;
use crate::store::commit::Changed;

/// A checked project: all its plans, and what they share.
pub struct Project {
    /// A hash of everything that the project's behaviour depends on.
    pub revision: Arc<str>,
    /// The plans, by flow.
    pub plans: BTreeMap<Arc<str>, Arc<Plan>>,
    /// Schemas, mappings, tables, systems.
    pub library: Arc<Library>,
    /// What `crossdock.yaml` says, with defaults filled in.
    pub settings: super::settings::Settings,
    /// What there is beside the flows, `system erp` or `setting store`, to tell what has changed. It is in memory only.
    pub parts: BTreeMap<String, Print>,
    /// The files that it was made of.
    pub files: Vec<Arc<File>>,
}

impl Project {
    /// It runs where the other one does: the settings that say so are those of the other one.
    pub fn runs_where(&mut self, other: &Project) {
        let (settings, theirs) = (&mut self.settings, &other.settings);
        settings.listen.clone_from(&theirs.listen);
        settings.admin = theirs.admin.clone();
        settings.store = theirs.store.clone();
        settings.handoff = theirs.handoff.clone();
        settings.telemetry = theirs.telemetry.clone();
        settings.apis = theirs.apis.clone();
        for name in SETTINGS_OF_THE_PLACE {
            let part = format!("setting {name}");
            self.parts.remove(&part);
            let print = other.parts.get(&part);
            self.parts.extend(print.map(|print| (part, *print)));
        }
    }
}

/// Settings that say where an engine runs, and who may call its APIs, not what it does: engines of one project may differ in them, and they are
/// those of now whatever revision runs.
pub(super) const SETTINGS_OF_THE_PLACE: [&str; 6] =
    ["listen", "admin", "store", "handoff", "telemetry", "apis"];

/// A hash of all that the behaviour of a flow depends on, systems and secrets too. It is in memory only.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Prints {
    /// Of the whole flow.
    pub whole: Print,
    /// Of its source alone: whether it has to be started anew.
    pub source: Print,
}

/// Tells two states of something apart.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Print(pub(super) [u8; 32]);

/// A checked flow.
pub struct Plan {
    /// The flow's name.
    pub flow: Arc<str>,
    /// A hash of the flow and of what it refers to, as far as it is the same wherever the project runs: no systems, and no secrets.
    pub revision: Arc<str>,
    /// What its behaviour depends on, to tell whether that has changed.
    pub prints: Prints,
    /// The cross-reference tables that expressions look into.
    pub tables: Arc<Tables>,
    /// Whether it is of high criticality: it keeps a share of everything under overload.
    pub high: bool,
    /// What it is for.
    pub description: String,
    /// Where messages come from.
    pub source: source::Ready,
    /// The kind of source, for the screen.
    pub source_kind: &'static str,
    /// The contract of arriving bodies.
    pub accepts: Option<Accepts>,
    /// Business keys: name and expression over the accepted body.
    pub keys: Vec<(Arc<str>, Expression)>,
    /// How repeats are known.
    pub once: Option<Once>,
    /// Which messages run one after another.
    pub order: Option<Order>,
    /// What the flow itself says is personal; see `flow::personal` for what that means for keys and for other flows.
    pub personal: Arc<Rules>,
    /// Steps, route and sinks, in the order of the file; the first is where accepted messages go.
    pub nodes: Vec<Node>,
    /// The sagas among the steps.
    pub sagas: Vec<Saga>,
}

/// Steps that are done all, or undone.
pub struct Saga {
    /// Its id.
    pub id: Arc<str>,
    /// The nodes that belong to it, its undos among them.
    pub nodes: std::ops::Range<usize>,
    /// The steps that act on the outside.
    pub steps: Vec<SagaStep>,
    /// Whether a message ends as compensated when all is undone, instead of waiting for a person.
    pub ends: bool,
}

/// A step of a saga that acts on the outside.
pub struct SagaStep {
    /// Its node.
    pub node: usize,
    /// The node that undoes it; nothing leads there but its failure.
    pub undo: Option<usize>,
    /// Once it is done nothing is undone any more.
    pub pivot: bool,
    /// Whether the undo does no harm where there is nothing to undo.
    pub absent_ok: bool,
}

/// The contract of arriving bodies.
pub struct Accepts {
    /// The schema's name.
    pub name: Arc<str>,
    /// The schema.
    pub schema: Arc<Schema>,
    /// Whether a body that breaks it is refused, instead of stored as an exception.
    pub refuse: bool,
}

/// How repeats are known.
pub struct Once {
    /// The key whose value tells.
    pub key: Arc<str>,
    /// The scope of the claims: the flow's name, unless the flow says otherwise.
    pub scope: Arc<str>,
    /// How long claims are kept after their run has ended.
    pub keep_ms: i64,
    /// What a changed repeat leads to.
    pub changed: Changed,
    /// The version by which a changed repeat is judged (`Changed::Newest`).
    pub version: Option<Expression>,
}

/// Which messages run one after another.
pub struct Order {
    /// The key: messages with the same value wait for each other.
    pub key: Arc<str>,
    /// Whether a message that waits for a person lets those behind it pass.
    pub pass: bool,
}

/// One step, route or sink.
pub struct Node {
    /// Unique in the flow: what hops, runs and exceptions name.
    pub id: Arc<str>,
    /// The kind, for the screen: `map`, `call`, `http`, `route` ..
    pub kind: &'static str,
    /// Only messages for which it is true are worked on; others go past.
    pub when: Option<Expression>,
    /// What it does.
    pub action: Action,
    /// Where messages go afterwards; `None` ends them (sinks), as delivered.
    pub next: Option<usize>,
    /// How failed attempts are repeated.
    pub retry: RetryRule,
    /// What happens to failures of a class that are not retried any more; without an entry: an exception.
    pub on_failure: Vec<(Class, OnFailure)>,
    /// The milestone that is passed when it is done.
    pub milestone: Option<Arc<str>>,
    /// Whether it is a sink.
    pub sink: bool,
    /// The outside system that it acts on, for the screen.
    pub system: Option<Arc<str>>,
    /// The other flow that it hands copies to, for the screen; a sink's is in its action.
    pub hands_to: Option<Arc<str>>,
    /// The schema that the body keeps to behind it (at a sink: when it comes there), where that is certain. For the screen.
    pub keeps: Option<Arc<str>>,
}

/// What a node does.
pub enum Action {
    /// A step without outside effect.
    Pure(Box<dyn Pure>),
    /// A step or sink with an outside effect.
    Effect(Arc<dyn Effect>),
    /// A step that lets only the first message with a key go on.
    Claim(Arc<dyn Claiming>),
    /// A step at which messages wait durably.
    Wait(Arc<Waiting>),
    /// A sink that appends to files.
    Append(Arc<dyn Append>),
    /// A sink that writes a stream.
    Stream(Arc<dyn Stream>),
    /// A sink that hands to another flow.
    Flow(Arc<str>),
    /// A sink that goes nowhere.
    Discard,
    /// Conditions and where each leads.
    Route(Route),
}

/// Conditions and where each leads: the flow's routes, or a `branch` step.
#[derive(Default)]
pub struct Route {
    /// Take every arm that matches, not only the first.
    pub all: bool,
    /// Condition and targets.
    pub arms: Vec<(Expression, Vec<usize>)>,
    /// Where messages go that no arm takes: `None` is a failure, an empty list goes to the node's `next`.
    pub otherwise: Option<Vec<usize>>,
}

/// What happens to a failure that is not retried any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// A person decides.
    Exception,
    /// The message goes on as it was before the step.
    Continue,
    /// It ends, counted as discarded, for this reason.
    Drop(String),
    /// It goes to this node.
    To(usize),
}

impl Plan {
    /// The node with this id.
    pub fn node(&self, id: &str) -> Option<usize> {
        self.nodes.iter().position(|node| &*node.id == id)
    }

    /// Whether a node runs together with the one before it: no message ever stands there, unless a person has sent it there.
    pub fn fuses(&self, node: usize) -> bool {
        let inner = matches!(
            self.nodes[node].action,
            Action::Pure(_) | Action::Flow(_) | Action::Discard | Action::Route(_)
        );
        inner && node > 0
    }

    /// The saga that a node belongs to.
    pub fn saga(&self, node: usize) -> Option<&Saga> {
        self.sagas.iter().find(|saga| saga.nodes.contains(&node))
    }
}

impl Saga {
    /// What it says about a step that acts on the outside.
    pub fn step(&self, node: usize) -> Option<&SagaStep> {
        self.steps.iter().find(|step| step.node == node)
    }

    /// Whether the node undoes a step.
    pub fn undoes(&self, node: usize) -> bool {
        self.steps.iter().any(|step| step.undo == Some(node))
    }
}
