//! A run once more, in memory: pure steps are worked on anew, calls are answered from the ledger. It sends nothing and commits nothing.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::admission;
use super::differences;
use super::dry;
use super::effect::{as_generation, effect_of};
use super::turn::door_id;
use super::walk::{Ended, Walked, Walker};
use crate::body::Body;
use crate::component::waiting::Waiting;
use crate::component::{Answer, Effect};
use crate::failure::Failure;
use crate::flow::plan::{Action, Plan, Project};
use crate::message::{Message, MessageId, Names};
use crate::store::commit::EffectId;
use crate::store::effects::{EffectRow, EffectStanding};

/// How many stages one run may go through here: flows that hand to each other in a circle end.
const STAGES_MAX: usize = 10_000;
/// How many bytes a run may send, write and hand on here where it is compared.
const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// What is known of what a run did.
#[derive(Default)]
pub(super) struct Recorded {
    effects: FxHashMap<[u8; 16], EffectRow>,
    /// The highest generation that was given.
    pub(super) generation: u32,
    /// When a message was accepted at the door of a flow, in milliseconds since 1970.
    pub(super) received: FxHashMap<(Arc<str>, MessageId), i64>,
}

/// Something that would be sent.
pub(super) struct Sent {
    pub(super) flow: Arc<str>,
    pub(super) step: Arc<str>,
    pub(super) item: Arc<str>,
    pub(super) request: Bytes,
    /// The key that lets the target recognise a repeat.
    pub(super) idempotency_key: Option<String>,
    /// What was sent for it, if anything was.
    pub(super) recorded: Option<EffectId>,
}

/// What a step does with a message, other than to send a request.
pub(super) struct Act {
    pub(super) step: Arc<str>,
    pub(super) item: Arc<str>,
    /// `writes` a file or a stream, `hands` to another flow, `waits` for other messages, `claims` a key.
    pub(super) what: &'static str,
    /// The file, the flow, the key.
    pub(super) to: String,
    pub(super) body: Bytes,
    /// What another flow gets beside the body: headers and variables.
    pub(super) headers: Arc<Names>,
    pub(super) variables: Arc<BTreeMap<Arc<str>, Body>>,
}

/// Where a message does not go on.
pub(super) struct Stopped {
    pub(super) flow: Arc<str>,
    pub(super) step: Arc<str>,
    /// The part of the message.
    pub(super) item: Arc<str>,
    pub(super) why: Failure,
    /// It failed; else only nobody knows what comes after it.
    pub(super) failed: bool,
}

/// What becomes of a run.
#[derive(Default)]
pub(super) struct Recomputed {
    pub(super) sent: Vec<Sent>,
    pub(super) stopped: Vec<Stopped>,
    pub(super) acts: Vec<Act>,
    /// How the parts of it ended that did not fail: the step, and `delivered`, `filtered` or `dropped`.
    pub(super) ends: Vec<(Arc<str>, &'static str)>,
    /// The messages that have come to the step at which it was to end.
    pub(super) arrived: Vec<Message>,
    /// How many bytes it sends, writes and hands on.
    bytes: usize,
}

impl Recorded {
    /// From the rows of the ledger.
    pub(super) fn of(effects: Vec<EffectRow>, generation: u32) -> Recorded {
        Recorded {
            effects: effects.into_iter().map(|row| (row.effect.0, row)).collect(),
            generation,
            received: FxHashMap::default(),
        }
    }

    /// The rows.
    pub(super) fn rows(&self) -> impl Iterator<Item = &EffectRow> {
        self.effects.values()
    }

    /// Whether something else was sent in its place.
    pub(super) fn differs(&self, sent: &Sent) -> bool {
        let known = sent.recorded.and_then(|effect| self.effects.get(&effect.0));
        known.is_some_and(|known| known.request != sent.request)
    }

    /// What this step did for this message, in its highest generation.
    fn find(&self, message: &Message, flow: &str, step: &str) -> Option<&EffectRow> {
        let mut message = message.clone();
        let highest = self.generation.max(message.generation);
        for generation in (message.generation..=highest).rev() {
            message.generation = generation;
            if let Some(row) = self.effects.get(&effect_of(&message, flow, step).0) {
                return Some(row);
            }
        }
        None
    }
}

/// Takes messages through plans.
pub(super) struct Machine<'a> {
    pub(super) project: &'a Project,
    pub(super) recorded: &'a Recorded,
    /// End at this step of this flow: what comes there has arrived.
    pub(super) until: Option<(&'a str, &'a str)>,
    /// Follow messages into other flows.
    pub(super) follow: bool,
    /// Two sides are compared: an answer is one only to the request that was sent, what waits for other messages does not go on, and what is too
    /// much has no known end.
    pub(super) exact: bool,
}

impl Machine<'_> {
    /// From the flow's door.
    pub(super) fn run(&self, plan: &Plan, message: Message) -> Recomputed {
        let mut done = Recomputed::default();
        let mut waiting: Vec<(Arc<str>, Option<usize>, Message)> =
            vec![(plan.flow.clone(), None, message)];
        let mut stages = 0;
        while let Some((flow, node, message)) = waiting.pop() {
            let Some(plan) = self.project.plans.get(&flow) else {
                continue;
            };
            stages += 1;
            if stages > STAGES_MAX {
                let why = Failure::internal("it goes through too many stages to be followed");
                done.stop(&plan.flow, "@accept", &message.item, why, !self.exact);
                break;
            }
            if self.exact && done.bytes > OUTPUT_BYTES_MAX {
                let why = Failure::internal("it sends too much to be followed");
                done.stop(&plan.flow, "@accept", &message.item, why, false);
                break;
            }
            let step: &str = node.map_or("@accept", |at| &plan.nodes[at].id);
            let worked = catch_unwind(AssertUnwindSafe(|| match node {
                None => self.let_in(plan, message.clone(), &mut done),
                Some(at) => self.stage(plan, at, message.clone(), &mut done),
            }));
            let Ok(walked) = worked else {
                let why = super::stage::panicked(step);
                done.stop(&flow, step, &message.item, why, true);
                continue;
            };
            self.go_on(plan, walked, &mut waiting, &mut done);
        }
        done
    }

    fn let_in(&self, plan: &Plan, mut message: Message, done: &mut Recomputed) -> Walked {
        let asked = admission::check_contract(plan, &message)
            .and_then(|()| admission::find_keys(plan, &mut message))
            .and_then(|()| match self.exact {
                true => admission::version(plan, &mut message).map(drop),
                false => Ok(()),
            });
        if let Err(why) = asked {
            done.stop(&plan.flow, "@accept", &message.item, why, true);
            return Walked::default();
        }
        self.walk(plan, Some(0), message, done)
    }

    /// Walks up to the step at which it ends, or as far as memory goes.
    fn walk(
        &self,
        plan: &Plan,
        node: Option<usize>,
        message: Message,
        done: &mut Recomputed,
    ) -> Walked {
        let walker = Walker::new(plan);
        let until = self.until.filter(|(flow, _)| *flow == &*plan.flow);
        let Some(until) = until.and_then(|(_, step)| plan.node(step)) else {
            return walker.walk(node, message);
        };
        let (walked, arrived) = walker.walk_until(node, message, until);
        done.arrived.extend(arrived);
        walked
    }

    fn go_on(
        &self,
        plan: &Plan,
        walked: Walked,
        waiting: &mut Vec<(Arc<str>, Option<usize>, Message)>,
        done: &mut Recomputed,
    ) {
        for ended in walked.ended {
            match ended {
                Ended::Failed(at, message, why) => {
                    done.stop(&plan.flow, &plan.nodes[at].id, &message.item, why, true);
                }
                Ended::Delivered => done.ends.push((plan.flow.clone(), "delivered")),
                Ended::Filtered(at) | Ended::Stale(at, _) => {
                    done.ends.push((plan.nodes[at].id.clone(), "filtered"));
                }
                Ended::Dropped(at, _) => done.ends.push((plan.nodes[at].id.clone(), "dropped")),
            }
        }
        for (nth, (node, flow, mut message)) in walked.doors.into_iter().enumerate() {
            let to = flow.to_string();
            done.does(plan, node, "hands", to, &message, message.body.bytes());
            if !self.follow {
                continue;
            }
            message.id = door_id(&message, &plan.flow, &plan.nodes[node].id, &flow, nth);
            if let Some(at_ms) = self.recorded.received.get(&(flow.clone(), message.id)) {
                message.received_at_ms = *at_ms;
            }
            waiting.push((flow, None, message));
        }
        let next = walked.next.into_iter().rev();
        waiting.extend(next.map(|(node, message)| (plan.flow.clone(), Some(node), message)));
    }

    /// A stage that is not pure.
    fn stage(&self, plan: &Plan, at: usize, message: Message, done: &mut Recomputed) -> Walked {
        let node = &plan.nodes[at];
        let walker = Walker::new(plan);
        match &node.action {
            Action::Effect(effect) => match walker.takes(at, &message) {
                Ok(true) => self.effect(plan, at, &**effect, message, done),
                Ok(false) if node.sink => Walked::default(),
                Ok(false) => self.walk(plan, node.next, message, done),
                Err(why) => walker.fail(at, message, why),
            },
            Action::Append(append) => {
                let prepared = match walker.takes(at, &message) {
                    Ok(false) => return Walked::default(),
                    Ok(true) => append.prepare(&message, &walker.context(at)),
                    Err(why) => Err(why),
                };
                match prepared {
                    Ok((path, bytes)) => {
                        done.does(plan, at, "writes", path, &message, &bytes);
                        Walked::default()
                    }
                    Err(why) => walker.fail(at, message, why),
                }
            }
            Action::Stream(_) => {
                let body = message.body.bytes();
                done.does(plan, at, "writes", String::new(), &message, body);
                Walked::default()
            }
            Action::Wait(waiting) if self.exact && waits_for_others(waiting) => {
                let body = message.body.bytes();
                done.does(plan, at, "waits", String::new(), &message, body);
                let why = Failure::internal("it waits for other messages");
                done.stop(&plan.flow, &node.id, &message.item, why, false);
                Walked::default()
            }
            Action::Claim(claim) if self.exact => {
                let claimed = match walker.takes(at, &message) {
                    Ok(false) => return self.walk(plan, node.next, message, done),
                    Ok(true) => claim.claim(&message, &walker.context(at)),
                    Err(why) => Err(why),
                };
                match claimed {
                    Ok(claimed) => {
                        let version = claimed.version.unwrap_or_default().into();
                        done.does(plan, at, "claims", claimed.key, &message, &version);
                        self.walk(plan, node.next, message, done)
                    }
                    Err(why) => walker.fail(at, message, why),
                }
            }
            _ => self.walk(plan, node.next, message, done),
        }
    }

    fn effect(
        &self,
        plan: &Plan,
        at: usize,
        effect: &dyn Effect,
        message: Message,
        done: &mut Recomputed,
    ) -> Walked {
        let (node, walker) = (&plan.nodes[at], Walker::new(plan));
        let request = match effect.prepare(&message, &walker.context(at)) {
            Ok(request) => as_generation(request, message.generation),
            Err(why) => return walker.fail(at, message, why),
        };
        let known = self.recorded.find(&message, &plan.flow, &node.id);
        done.bytes += request.bytes.len();
        done.sent.push(Sent {
            flow: plan.flow.clone(),
            step: node.id.clone(),
            item: message.item.clone(),
            request: request.bytes.clone(),
            idempotency_key: request.idempotency_key,
            recorded: known.map(|known| known.effect),
        });
        let another = known.is_some_and(|known| {
            self.exact && !differences::between(&known.request, &request.bytes).is_empty()
        });
        let answer = known
            .filter(|known| known.standing == EffectStanding::Done && !another)
            .and_then(|known| known.answer.clone());
        let ends = node.sink && node.next.is_none();
        let Some(answer) = answer else {
            if ends {
                return Walked::default();
            }
            let nothing = dry::answer_of(&Body::null());
            let goes_on = effect.finish(message.clone(), &nothing, &walker.context(at));
            if self.exact && goes_on.is_ok_and(|after| dry::same(&after, &message)) {
                return self.walk(plan, node.next, message, done);
            }
            let why = match another {
                true => format!(
                    "`{}` asks something else, and nobody knows the answer",
                    node.id
                ),
                false => format!("no answer of `{}` is recorded", node.id),
            };
            let why = Failure::internal(why);
            done.stop(&plan.flow, &node.id, &message.item, why, false);
            return Walked::default();
        };
        let answer = Answer { bytes: answer };
        match effect.finish(message.clone(), &answer, &walker.context(at)) {
            Ok(message) => self.walk(plan, node.next, message, done),
            Err(why) => walker.fail(at, message, why),
        }
    }
}

/// Whether it goes on only when other messages have come.
fn waits_for_others(waiting: &Waiting) -> bool {
    matches!(waiting, Waiting::Answer(_) | Waiting::Group(_))
}

impl Recomputed {
    fn does(
        &mut self,
        plan: &Plan,
        at: usize,
        what: &'static str,
        to: String,
        message: &Message,
        body: &Bytes,
    ) {
        self.bytes += body.len();
        self.acts.push(Act {
            step: plan.nodes[at].id.clone(),
            item: message.item.clone(),
            what,
            to,
            body: body.clone(),
            headers: message.headers.clone(),
            variables: message.variables.clone(),
        });
    }

    fn stop(&mut self, flow: &Arc<str>, step: &str, item: &Arc<str>, why: Failure, failed: bool) {
        self.stopped.push(Stopped {
            flow: flow.clone(),
            step: Arc::from(step),
            item: item.clone(),
            why,
            failed,
        });
    }
}
