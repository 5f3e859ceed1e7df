//! A project, made ready for one test: its flows are fed by hand, its systems answer in this process, what does not take part is gone, and
//! what a message goes through leaves a trace. What a flow does is not changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::feed::{Feed, OFFERS_MAX, Offer};
use super::outside::{Aside, Desk, Outside, Watched};
use crate::body::Body;
use crate::component::common::RetryRule;
use crate::component::words::Size;
use crate::component::{Append, Appending, Context, Outcome, Pure};
use crate::failure::Failure;
use crate::flow::plan::{Action, Node, OnFailure, Plan, Project};
use crate::message::Message;
use crate::sink::Stream;
use crate::source;
use crate::world::Pending;

/// The step at which flows end that only take part as targets.
pub(super) const END: &str = "@end";
/// Sources that need nobody to send them anything.
const OWN_SOURCES: &[&str] = &["file", "poll", "schedule"];

/// What sinks were seen to do. A stream is written for good; the rest may have been tried and not stored.
#[derive(Default)]
pub(super) struct Notes {
    /// What was written to the standard output, by flow and sink.
    pub(super) streams: Vec<(String, Body)>,
    /// What sinks handed to other flows, by flow and sink.
    pub(super) handed: Vec<(String, Body)>,
    /// Where sinks append, by flow and sink.
    pub(super) files: BTreeSet<(String, String)>,
}

/// What sinks were seen to do. It outlives the engine.
pub(super) type Streams = Arc<Mutex<Notes>>;

/// A look into the notes.
pub(super) fn look(notes: &Mutex<Notes>) -> std::sync::MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A project that is ready.
pub(super) struct Prepared {
    pub(super) project: Project,
    pub(super) feeds: BTreeMap<String, mpsc::Sender<Offer>>,
    /// The flow under test has a source that goes on by itself.
    pub(super) own_source: bool,
}

/// Makes a project ready: `flow` is under test, `with` run too.
pub(super) fn prepare(
    mut project: Project,
    flow: &str,
    with: &BTreeSet<String>,
    outside: &Arc<Outside>,
    streams: &Streams,
) -> Result<Prepared, Failure> {
    let runs = |name: &str| name == flow || with.contains(name);
    let targets: BTreeSet<Arc<str>> = project
        .plans
        .values()
        .filter(|plan| runs(&plan.flow))
        .flat_map(|plan| targets_of(plan))
        .collect();
    project
        .plans
        .retain(|name, _| runs(name) || targets.contains(name));
    project.settings.notify.clear();
    project.settings.handoff = crate::flow::settings::Handoff::default();
    project.settings.limits.disk_free = Some(Size { bytes: 0 });
    let library = project.library.clone();
    let aside = |name: &Arc<str>| {
        let database = library.databases.contains_key(&**name);
        let broker = library.brokers.contains_key(&**name);
        let broker = broker.then_some(Aside::Broker);
        database.then_some(Aside::Database).or(broker)
    };
    for system in project.library.systems.values() {
        system.answered_by(Arc::new(Desk {
            system: system.clone(),
            outside: outside.clone(),
        }));
    }
    let mut feeds = BTreeMap::new();
    let mut own_source = false;
    for (name, plan) in &mut project.plans {
        let plan = Arc::get_mut(plan)
            .ok_or_else(|| Failure::internal("a plan is shared before it runs"))?;
        if !runs(name) {
            ends_here(plan);
            continue;
        }
        let (offers, taken) = mpsc::channel(OFFERS_MAX);
        let old = std::mem::replace(&mut plan.source, source::Ready::Flow);
        let keeps = &**name == flow && OWN_SOURCES.contains(&plan.source_kind);
        let own = match old {
            source::Ready::Runs(source) if keeps => Some(source),
            _ => None,
        };
        own_source |= own.is_some();
        plan.source = source::Ready::Runs(Arc::new(Feed {
            offers: tokio::sync::Mutex::new(taken),
            own,
        }));
        watch(plan, outside, &aside, streams);
        trace(plan, streams);
        feeds.insert(name.to_string(), offers);
    }
    Ok(Prepared {
        project,
        feeds,
        own_source,
    })
}

/// The flows that a flow hands messages to.
fn targets_of(plan: &Plan) -> Vec<Arc<str>> {
    let handed = plan.nodes.iter().filter_map(|node| match &node.action {
        Action::Flow(flow) => Some(flow.clone()),
        _ => node.hands_to.clone(),
    });
    handed.collect()
}

/// A flow that takes what is handed to it, and does nothing with it.
fn ends_here(plan: &mut Plan) {
    plan.source = source::Ready::Flow;
    plan.nodes = vec![Node {
        sink: true,
        action: Action::Discard,
        ..step(END.to_owned(), None)
    }];
    plan.sagas.clear();
    plan.order = None;
}

/// A step that only passes messages on.
fn step(id: String, next: Option<usize>) -> Node {
    Node {
        id: Arc::from(id),
        kind: "trace",
        when: None,
        action: Action::Pure(Box::new(Passes)),
        next,
        retry: RetryRule::DEFAULT,
        on_failure: Vec::new(),
        milestone: None,
        sink: false,
        system: None,
        hands_to: None,
        keeps: None,
    }
}

/// The systems know which step asks, and nothing is written to the standard output.
fn watch(
    plan: &mut Plan,
    outside: &Arc<Outside>,
    aside: &dyn Fn(&Arc<str>) -> Option<Aside>,
    streams: &Streams,
) {
    for node in &mut plan.nodes {
        match &node.action {
            Action::Effect(inner) => {
                let system = inner.admission().map(|admission| admission.name().clone());
                let watched = Watched {
                    flow: plan.flow.clone(),
                    step: node.id.clone(),
                    aside: system.and_then(|system| Some((system.clone(), aside(&system)?))),
                    outside: outside.clone(),
                    inner: inner.clone(),
                };
                node.action = Action::Effect(Arc::new(watched));
            }
            Action::Stream(_) => {
                node.action = Action::Stream(Arc::new(Kept {
                    name: format!("{}/{}", plan.flow, node.id),
                    streams: streams.clone(),
                }));
            }
            Action::Append(inner) => {
                node.action = Action::Append(Arc::new(Appends {
                    name: format!("{}/{}", plan.flow, node.id),
                    inner: inner.clone(),
                    streams: streams.clone(),
                }));
            }
            _ => {}
        }
    }
}

/// Which arm of a route a message took, and which way after a failure, is seen in its timeline.
fn trace(plan: &mut Plan, streams: &Streams) {
    let mut added: Vec<Node> = Vec::new();
    let first = plan.nodes.len();
    let mut via = |id: String, next: Option<usize>| {
        added.push(step(id, next));
        first + added.len() - 1
    };
    for node in &mut plan.nodes {
        let (id, next) = (node.id.clone(), node.next);
        if let Action::Route(route) = &mut node.action
            && !route.all
        {
            let arms = route.arms.iter_mut().map(|(_, targets)| targets);
            for (nth, targets) in arms.chain(route.otherwise.as_mut()).enumerate() {
                let name = arm_name(&id, nth);
                match targets.first_mut() {
                    Some(target) => *target = via(name, Some(*target)),
                    None => targets.push(via(name, next)),
                }
            }
        }
        for (class, what) in &mut node.on_failure {
            let target = match what {
                OnFailure::To(target) => Some(*target),
                OnFailure::Continue => next,
                OnFailure::Exception | OnFailure::Drop(_) => continue,
            };
            *what = OnFailure::To(via(failure_name(&id, class.name()), target));
        }
    }
    plan.nodes.extend(added);
    tap(plan, streams);
}

/// What is handed to another flow is seen before.
fn tap(plan: &mut Plan, streams: &Streams) {
    let hands: Vec<usize> = (0..plan.nodes.len())
        .filter(|at| matches!(plan.nodes[*at].action, Action::Flow(_)))
        .collect();
    for at in hands {
        let id = &plan.nodes[at].id;
        let tap = Tap {
            name: format!("{}/{id}", plan.flow),
            streams: streams.clone(),
        };
        let before = Node {
            action: Action::Pure(Box::new(tap)),
            ..step(format!("@tap:{id}"), Some(at))
        };
        let via = plan.nodes.len();
        for node in &mut plan.nodes {
            let lead = |to: &mut usize| {
                if *to == at {
                    *to = via;
                }
            };
            node.next.iter_mut().for_each(lead);
            if let Action::Route(route) = &mut node.action {
                let arms = route.arms.iter_mut().map(|(_, targets)| targets);
                arms.chain(route.otherwise.as_mut())
                    .flatten()
                    .for_each(lead);
            }
            for (_, what) in &mut node.on_failure {
                if let OnFailure::To(target) = what {
                    lead(target);
                }
            }
        }
        plan.nodes.push(before);
    }
}

/// The trace of an arm of a route; `otherwise` is the one behind the last.
pub(super) fn arm_name(route: &str, nth: usize) -> String {
    format!("@arm:{route}:{nth}")
}

/// The trace of the way that a failure of this class takes.
pub(super) fn failure_name(step: &str, class: &str) -> String {
    format!("@failure:{step}:{class}")
}

struct Passes;

impl Pure for Passes {
    fn apply(&self, message: Message, _: &Context<'_>) -> Result<Outcome, Failure> {
        Ok(Outcome::Goes(message))
    }
}

/// Sees what is handed to another flow.
struct Tap {
    name: String,
    streams: Streams,
}

impl Pure for Tap {
    fn apply(&self, message: Message, _: &Context<'_>) -> Result<Outcome, Failure> {
        look(&self.streams)
            .handed
            .push((self.name.clone(), message.body.clone()));
        Ok(Outcome::Goes(message))
    }
}

/// A sink that appends, and is seen to.
struct Appends {
    name: String,
    inner: Arc<dyn Append>,
    streams: Streams,
}

impl Append for Appends {
    fn prepare(
        &self,
        message: &Message,
        cx: &Context<'_>,
    ) -> Result<(String, bytes::Bytes), Failure> {
        let (path, bytes) = self.inner.prepare(message, cx)?;
        look(&self.streams)
            .files
            .insert((self.name.clone(), path.clone()));
        Ok((path, bytes))
    }

    fn open<'a>(&'a self, path: &'a str) -> Pending<'a, Result<Box<dyn Appending>, Failure>> {
        self.inner.open(path)
    }
}

/// A stream that is kept.
struct Kept {
    name: String,
    streams: Streams,
}

impl Stream for Kept {
    fn write<'a>(&'a self, messages: &'a [Message]) -> Pending<'a, Result<(), Failure>> {
        let mut kept = look(&self.streams);
        for message in messages {
            kept.streams.push((self.name.clone(), message.body.clone()));
        }
        Box::pin(std::future::ready(Ok(())))
    }
}
