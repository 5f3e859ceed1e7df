//! One message through the steps of one stage, in memory: from a node until it leaves the flow, ends, or reaches a step with an outside
//! effect. It commits nothing and waits for nothing.

use std::sync::Arc;

use super::tap;
use crate::component::{Context, Outcome};
use crate::expression::{Expression, Scope, Tables};
use crate::failure::{Class, Failure};
use crate::flow::plan::{Action, Node, OnFailure, Plan, Route};
use crate::message::Message;

/// How many parts one message may become within a stage: splits in splits multiply.
const PARTS_MAX: usize = 20_000;

/// How many messages of one stage are kept for who looks, over all its steps.
const SEEN_MAX: usize = 64;

/// Where a message has come to.
#[derive(Default)]
pub(super) struct Walked {
    /// It waits for these nodes: steps with an outside effect, or sinks with one.
    pub(super) next: Vec<(usize, Message)>,
    /// It is handed to other flows, by this node.
    pub(super) doors: Vec<(usize, Arc<str>, Message)>,
    /// What ended here.
    pub(super) ended: Vec<Ended>,
    /// The nodes that it went through, for the timeline.
    pub(super) through: Vec<usize>,
    /// Milestones that it passed.
    pub(super) milestones: Vec<Arc<str>>,
    /// What stood behind each node, where somebody looks.
    pub(super) seen: Vec<(usize, Message)>,
    /// Nobody looks at this message: nothing is kept.
    pub(super) unseen: bool,
}

/// How a part of a message ended.
pub(super) enum Ended {
    /// In a sink.
    Delivered,
    /// By this node.
    Filtered(usize),
    /// Filtered by this node for a reason: what it brings is old.
    Stale(usize, String),
    /// Dropped by this node's `on_failure`, for this reason.
    Dropped(usize, String),
    /// It failed at this node, with this message.
    Failed(usize, Message, Failure),
}

/// Takes messages through the pure nodes of a plan.
pub(super) struct Walker<'a> {
    plan: &'a Plan,
}

impl<'a> Walker<'a> {
    pub(super) fn new(plan: &'a Plan) -> Walker<'a> {
        Walker { plan }
    }

    /// From this node on. The node itself is worked on if it is pure; if it has an outside effect the message waits for it.
    pub(super) fn walk(&self, node: Option<usize>, message: Message) -> Walked {
        self.walk_until(node, message, usize::MAX).0
    }

    /// The same, but not into this node: what comes there is given back.
    pub(super) fn walk_until(
        &self,
        node: Option<usize>,
        message: Message,
        until: usize,
    ) -> (Walked, Vec<Message>) {
        let mut walked = Walked {
            unseen: !tap::is_wanted(&self.plan.flow, message.root),
            ..Walked::default()
        };
        let mut arrived = Vec::new();
        let mut waiting = vec![(node, message)];
        let mut parts = 1;
        while let Some((node, message)) = waiting.pop() {
            let Some(at) = node else {
                walked.ended.push(Ended::Delivered);
                continue;
            };
            if at == until {
                arrived.push(message);
                continue;
            }
            let before = waiting.len();
            self.step(at, message, &mut waiting, &mut walked);
            parts += waiting.len().saturating_sub(before + 1);
            if parts > PARTS_MAX {
                let message = waiting.pop().map(|(_, message)| message);
                walked = Walked::default();
                let failure = Failure::new(
                    Class::TooLarge,
                    format!("the message becomes more than {PARTS_MAX} parts in one stage"),
                );
                walked
                    .ended
                    .extend(message.map(|message| Ended::Failed(at, message, failure)));
                break;
            }
        }
        (walked, arrived)
    }

    /// What a failure at a node leads to when it is not retried: a leaf, or another way on.
    pub(super) fn fail(&self, at: usize, message: Message, failure: Failure) -> Walked {
        let node = &self.plan.nodes[at];
        match on_failure(node, failure.class) {
            OnFailure::Exception => {
                let ended = vec![Ended::Failed(at, message, failure)];
                Walked {
                    ended,
                    ..Walked::default()
                }
            }
            OnFailure::Drop(reason) => {
                let reason = format!("{reason} ({failure})");
                Walked {
                    ended: vec![Ended::Dropped(at, reason)],
                    ..Walked::default()
                }
            }
            OnFailure::Continue => self.walk(node.next, message),
            OnFailure::To(target) => self.walk(Some(*target), message),
        }
    }

    /// Whether the node works on this message (`when`).
    pub(super) fn takes(&self, at: usize, message: &Message) -> Result<bool, Failure> {
        let node = &self.plan.nodes[at];
        match &node.when {
            None => Ok(true),
            Some(when) => holds(when, message, &self.plan.tables, &node.id),
        }
    }

    /// The context of a node, for its parts.
    pub(super) fn context(&self, at: usize) -> Context<'_> {
        Context {
            tables: &self.plan.tables,
            step: &self.plan.nodes[at].id,
            personal: &self.plan.personal,
        }
    }

    fn step(
        &self,
        at: usize,
        message: Message,
        waiting: &mut Vec<(Option<usize>, Message)>,
        walked: &mut Walked,
    ) {
        let node = &self.plan.nodes[at];
        match self.takes(at, &message) {
            Ok(true) => {}
            Ok(false) if node.sink => return walked.ended.push(Ended::Filtered(at)),
            Ok(false) => return waiting.push((node.next, message)),
            Err(failure) => return self.failed(at, message, failure, waiting, walked),
        }
        match &node.action {
            Action::Effect(_)
            | Action::Claim(_)
            | Action::Wait(_)
            | Action::Append(_)
            | Action::Stream(_) => walked.next.push((at, message)),
            Action::Flow(flow) => {
                look(at, [&message], walked);
                walked.doors.push((at, flow.clone(), message));
                self.passed(at, walked);
                walked.ended.push(Ended::Delivered);
            }
            Action::Discard => {
                look(at, [&message], walked);
                self.passed(at, walked);
                walked.ended.push(Ended::Delivered);
            }
            Action::Route(route) => match self.targets(route, &message, node) {
                Ok(targets) if targets.is_empty() => waiting.push((node.next, message)),
                Ok(targets) => waiting.extend(
                    targets
                        .into_iter()
                        .rev()
                        .map(|target| (Some(target), message.clone())),
                ),
                Err(failure) => self.failed(at, message, failure, waiting, walked),
            },
            Action::Pure(step) => match step.apply(message.clone(), &self.context(at)) {
                Ok(outcome) => {
                    self.passed(at, walked);
                    self.go_on(at, outcome, waiting, walked);
                }
                Err(failure) => self.failed(at, message, failure, waiting, walked),
            },
        }
    }

    fn go_on(
        &self,
        at: usize,
        outcome: Outcome,
        waiting: &mut Vec<(Option<usize>, Message)>,
        walked: &mut Walked,
    ) {
        let next = self.plan.nodes[at].next;
        match &outcome {
            Outcome::Goes(message) | Outcome::Emits(message, _) => look(at, [message], walked),
            Outcome::Split(parts) => look(at, parts, walked),
            Outcome::Filtered => {}
        }
        match outcome {
            Outcome::Goes(message) => waiting.push((next, message)),
            Outcome::Filtered => walked.ended.push(Ended::Filtered(at)),
            Outcome::Split(parts) if parts.is_empty() => walked.ended.push(Ended::Filtered(at)),
            Outcome::Split(parts) => {
                waiting.extend(parts.into_iter().rev().map(|part| (next, part)))
            }
            Outcome::Emits(message, copies) => {
                walked
                    .doors
                    .extend(copies.into_iter().map(|(flow, copy)| (at, flow, copy)));
                waiting.push((next, message));
            }
        }
    }

    fn passed(&self, at: usize, walked: &mut Walked) {
        walked.through.push(at);
        walked
            .milestones
            .extend(self.plan.nodes[at].milestone.clone());
    }

    fn failed(
        &self,
        at: usize,
        message: Message,
        failure: Failure,
        waiting: &mut Vec<(Option<usize>, Message)>,
        walked: &mut Walked,
    ) {
        let node = &self.plan.nodes[at];
        match on_failure(node, failure.class) {
            OnFailure::Exception => walked.ended.push(Ended::Failed(at, message, failure)),
            OnFailure::Drop(reason) => walked
                .ended
                .push(Ended::Dropped(at, format!("{reason} ({failure})"))),
            OnFailure::Continue => waiting.push((node.next, message)),
            OnFailure::To(target) => waiting.push((Some(*target), message)),
        }
    }

    fn targets(
        &self,
        route: &Route,
        message: &Message,
        node: &Node,
    ) -> Result<Vec<usize>, Failure> {
        let mut targets = Vec::new();
        let mut matched = false;
        for (condition, to) in &route.arms {
            if holds(condition, message, &self.plan.tables, &node.id)? {
                matched = true;
                targets.extend(
                    to.iter()
                        .filter(|to| !targets.contains(*to))
                        .copied()
                        .collect::<Vec<_>>(),
                );
                if !route.all {
                    break;
                }
            }
        }
        if matched {
            return Ok(targets);
        }
        route.otherwise.clone().ok_or_else(|| {
            Failure::mapping(format!(
                "no route of `{}` matches and there is no `otherwise`",
                node.id
            ))
        })
    }
}

/// Keeps what stands behind a node, if somebody looks.
fn look<'m>(at: usize, messages: impl IntoIterator<Item = &'m Message>, walked: &mut Walked) {
    if walked.unseen || walked.seen.len() >= SEEN_MAX {
        return;
    }
    let left = SEEN_MAX - walked.seen.len();
    let seen = messages.into_iter().take(left);
    walked
        .seen
        .extend(seen.map(|message| (at, message.clone())));
}

fn on_failure(node: &Node, class: Class) -> &OnFailure {
    node.on_failure
        .iter()
        .find(|(of, _)| *of == class)
        .map_or(&OnFailure::Exception, |(_, what)| what)
}

fn holds(
    condition: &Expression,
    message: &Message,
    tables: &Tables,
    step: &str,
) -> Result<bool, Failure> {
    let scope = Scope::of(message, tables)?.with_site(step);
    let value = condition.evaluate(&scope)?;
    value.as_bool().ok_or_else(|| {
        Failure::mapping(format!(
            "the condition `{}` gave no boolean but {}",
            condition.text(),
            value.kind().name()
        ))
    })
}
