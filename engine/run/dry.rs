//! Samples through a flow, in memory: what each step would make of them, what each call and sink would send, where each would end. Nothing is
//! sent, nothing is stored.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use serde::Serialize;

use super::admission;
use super::turn::door_id;
use super::walk::{Ended, Walked, Walker};
use crate::body::Body;
use crate::component::waiting::Waiting;
use crate::component::{Answer, Effect};
use crate::failure::Failure;
use crate::flow::plan::{Action, Plan, Project};
use crate::message::{Message, MessageId};

/// How many stages one sample may go through: flows that hand to each other in a circle end.
const STAGES_MAX: usize = 10_000;

/// What became of a sample.
#[derive(Clone, Debug, Serialize)]
pub struct Course {
    /// Its keys.
    pub keys: BTreeMap<String, String>,
    /// What happened to it, in order.
    pub acts: Vec<Act>,
    /// Its worst end.
    pub end: End,
}

/// How a sample ends. The worst comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It is known already by its `once` key: acknowledged, nothing happens.
    Duplicate,
    /// A step keeps it back.
    Filtered,
    /// It has come to sinks.
    Delivered,
    /// An `on_failure` drops it.
    Dropped,
    /// What comes after depends on an answer, or on other messages.
    Open,
    /// It would wait for a person.
    Failed,
}

/// One thing that happens to a sample.
#[derive(Clone, Debug, Serialize)]
pub struct Act {
    /// The flow.
    pub flow: Arc<str>,
    /// The step or sink.
    pub step: Arc<str>,
    /// What.
    pub what: What,
    /// More words: why it fails, which file is written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub words: String,
    /// What would be sent or written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sends: Option<String>,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A step has worked on it.
    Passes,
    /// A request would be sent.
    Sends,
    /// A file or a stream would be written.
    Writes,
    /// It is handed to another flow.
    Hands,
    /// It would wait.
    Waits,
    /// A step keeps it back.
    Filtered,
    /// It is dropped.
    Dropped,
    /// It goes no further: the answer is not known.
    Open,
    /// It fails.
    Fails,
}

/// A flow that samples go through.
pub struct Rehearsal<'a> {
    project: &'a Project,
    plan: &'a Plan,
    /// Bodies of answers, by step.
    answers: BTreeMap<String, Body>,
    /// The samples by the key of `once`, as numbers from 1.
    seen: FxHashMap<String, u64>,
    count: u64,
}

impl<'a> Rehearsal<'a> {
    /// Of a flow; calls are answered with these bodies, by the id of the step.
    ///
    /// Fails with class `config` if an answer is for no step of the project.
    pub fn of(
        project: &'a Project,
        plan: &'a Plan,
        answers: BTreeMap<String, Body>,
    ) -> Result<Rehearsal<'a>, Failure> {
        for step in answers.keys() {
            let known = |plan: &Arc<Plan>| plan.node(step).is_some();
            if !project.plans.values().any(known) {
                return Err(Failure::config(format!(
                    "there is no step `{step}` to answer for"
                )));
            }
        }
        Ok(Rehearsal {
            project,
            plan,
            answers,
            seen: FxHashMap::default(),
            count: 0,
        })
    }

    /// Takes a sample through the flow, and on into the flows that it is handed to.
    pub fn take(&mut self, body: Body, now_ms: i64) -> Course {
        self.count += 1;
        let id = MessageId::from_parts(u64::try_from(now_ms).unwrap_or(0), u128::from(self.count));
        let mut course = Course {
            keys: BTreeMap::new(),
            acts: Vec::new(),
            end: End::Duplicate,
        };
        let mut open = vec![(self.plan.flow.clone(), None, Message::new(id, now_ms, body))];
        let mut stages = 0;
        while let Some((flow, node, message)) = open.pop() {
            let Some(plan) = self.project.plans.get(&flow) else {
                continue;
            };
            stages += 1;
            let step = node.map_or("@accept", |at: usize| &*plan.nodes[at].id);
            if stages > STAGES_MAX {
                let why = Failure::internal("it goes through too many stages to be followed");
                course.fails(plan, step, &why);
                break;
            }
            let worked = catch_unwind(AssertUnwindSafe(|| match node {
                None => self.let_in(plan, message, &mut course),
                Some(at) => self.stage(plan, at, message, &mut course),
            }));
            match worked {
                Ok(walked) => go_on(plan, walked, &mut open, &mut course),
                Err(_) => course.fails(plan, step, &super::stage::panicked(step)),
            }
        }
        course
    }

    /// The door: contract, keys, `once`.
    fn let_in(&mut self, plan: &Plan, mut message: Message, course: &mut Course) -> Walked {
        let asked = admission::check_contract(plan, &message)
            .and_then(|()| admission::find_keys(plan, &mut message));
        let first = plan.flow == self.plan.flow && message.id == message.root;
        if first {
            let keys = message.keys.iter();
            course.keys = keys
                .map(|(name, key)| (name.to_string(), key.clone()))
                .collect();
        }
        if let Err(why) = asked {
            course.fails(plan, "@accept", &why);
            return Walked::default();
        }
        let claimed = plan
            .once
            .as_ref()
            .and_then(|once| message.keys.get(&once.key));
        if let Some(key) = claimed.filter(|_| first) {
            if let Some(before) = self.seen.get(key) {
                let words =
                    format!("known already as sample {before}: acknowledged, no second effect");
                course.act(plan, "@accept", What::Filtered, words, None);
                return Walked::default();
            }
            self.seen.insert(key.clone(), self.count);
        }
        Walker::new(plan).walk(Some(0), message)
    }

    /// A step or sink that is not pure.
    fn stage(&self, plan: &Plan, at: usize, message: Message, course: &mut Course) -> Walked {
        let node = &plan.nodes[at];
        let walker = Walker::new(plan);
        match walker.takes(at, &message) {
            Ok(true) => {}
            Ok(false) if node.sink => return Walked::default(),
            Ok(false) => return walker.walk(node.next, message),
            Err(why) => return walker.fail(at, message, why),
        }
        match &node.action {
            Action::Effect(effect) => self.effect(plan, at, &**effect, message, course),
            Action::Append(append) => match append.prepare(&message, &walker.context(at)) {
                Ok((path, bytes)) => {
                    course.act(plan, &node.id, What::Writes, path, Some(&bytes));
                    course.ends(End::Delivered);
                    Walked::default()
                }
                Err(why) => walker.fail(at, message, why),
            },
            Action::Stream(_) => {
                let bytes = message.body.bytes();
                course.act(plan, &node.id, What::Writes, String::new(), Some(bytes));
                course.ends(End::Delivered);
                Walked::default()
            }
            Action::Wait(waiting) => {
                let (words, goes_on) = waits(waiting);
                course.act(plan, &node.id, What::Waits, words, None);
                if goes_on {
                    return walker.walk(node.next, message);
                }
                course.ends(End::Open);
                Walked::default()
            }
            _ => {
                course.act(plan, &node.id, What::Passes, String::new(), None);
                walker.walk(node.next, message)
            }
        }
    }

    fn effect(
        &self,
        plan: &Plan,
        at: usize,
        effect: &dyn Effect,
        message: Message,
        course: &mut Course,
    ) -> Walked {
        let (node, walker) = (&plan.nodes[at], Walker::new(plan));
        let request = match effect.prepare(&message, &walker.context(at)) {
            Ok(request) => request,
            Err(why) => return walker.fail(at, message, why),
        };
        let mut words = node.system.as_deref().unwrap_or_default().to_owned();
        if let Some(key) = &request.idempotency_key {
            words.push_str(&format!(" (idempotency key {key})"));
        }
        course.act(plan, &node.id, What::Sends, words, Some(&request.bytes));
        let given = self.answers.get(&*node.id);
        let nothing = Body::null();
        let answer = answer_of(given.unwrap_or(&nothing));
        let finished = effect.finish(message.clone(), &answer, &walker.context(at));
        let uses_answer = !finished.as_ref().is_ok_and(|after| same(after, &message));
        if given.is_none() && uses_answer {
            let words = format!(
                "goes on with the answer, which is not known: give one with --answer {}=FILE",
                node.id
            );
            course.act(plan, &node.id, What::Open, words, None);
            course.ends(End::Open);
            return Walked::default();
        }
        match finished {
            Ok(message) => walker.walk(node.next, message),
            Err(why) => walker.fail(at, message, why),
        }
    }
}

/// Whether a message is as it was: then the answer changed nothing.
pub(super) fn same(after: &Message, before: &Message) -> bool {
    let names = |message: &Message| message.variables.keys().cloned().collect::<Vec<_>>();
    after.body.bytes() == before.body.bytes()
        && names(after) == names(before)
        && after
            .variables
            .values()
            .zip(before.variables.values())
            .all(|(after, before)| after.bytes() == before.bytes())
}

/// The answer of a system with this body.
pub(super) fn answer_of(body: &Body) -> Answer {
    let mut bytes = br#"{"status":200,"headers":{},"body":"#.to_vec();
    bytes.extend_from_slice(body.bytes());
    bytes.push(b'}');
    Answer {
        bytes: Bytes::from(bytes),
    }
}

/// What a message waits for, and whether it goes on by itself.
fn waits(waiting: &Waiting) -> (String, bool) {
    match waiting {
        Waiting::Time(_) => ("for its time, then goes on".to_owned(), true),
        Waiting::Pace(_) => ("for its place in the rate, then goes on".to_owned(), true),
        Waiting::Turn(_) => ("for those before it, then goes on".to_owned(), true),
        Waiting::Answer(answer) => {
            let words = format!(
                "for a message of `{}` with the same `{}`",
                answer.from, answer.key
            );
            (words, false)
        }
        Waiting::Group(_) => ("for the rest of its group".to_owned(), false),
    }
}

fn go_on(
    plan: &Plan,
    walked: Walked,
    open: &mut Vec<(Arc<str>, Option<usize>, Message)>,
    course: &mut Course,
) {
    for at in walked.through {
        course.act(plan, &plan.nodes[at].id, What::Passes, String::new(), None);
    }
    for ended in walked.ended {
        match ended {
            Ended::Delivered => course.ends(End::Delivered),
            Ended::Filtered(at) => {
                course.act(
                    plan,
                    &plan.nodes[at].id,
                    What::Filtered,
                    String::new(),
                    None,
                );
                course.ends(End::Filtered);
            }
            Ended::Stale(at, why) => {
                course.act(plan, &plan.nodes[at].id, What::Filtered, why, None);
                course.ends(End::Filtered);
            }
            Ended::Dropped(at, why) => {
                course.act(plan, &plan.nodes[at].id, What::Dropped, why, None);
                course.ends(End::Dropped);
            }
            Ended::Failed(at, _, why) => course.fails(plan, &plan.nodes[at].id, &why),
        }
    }
    for (nth, (node, flow, mut message)) in walked.doors.into_iter().enumerate() {
        course.act(
            plan,
            &plan.nodes[node].id,
            What::Hands,
            flow.to_string(),
            None,
        );
        message.id = door_id(&message, &plan.flow, &plan.nodes[node].id, &flow, nth);
        open.push((flow, None, message));
    }
    let next = walked.next.into_iter().rev();
    open.extend(next.map(|(node, message)| (plan.flow.clone(), Some(node), message)));
}

impl Course {
    fn act(&mut self, plan: &Plan, step: &str, what: What, words: String, sends: Option<&Bytes>) {
        self.acts.push(Act {
            flow: plan.flow.clone(),
            step: Arc::from(step),
            what,
            words,
            sends: sends.map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
        });
    }

    fn fails(&mut self, plan: &Plan, step: &str, why: &Failure) {
        let detail = why.detail.as_deref().map(|detail| format!("\n{detail}"));
        let words = format!("{why}{}", detail.unwrap_or_default());
        self.act(plan, step, What::Fails, words, None);
        self.ends(End::Failed);
    }

    fn ends(&mut self, end: End) {
        self.end = self.end.max(end);
    }
}
