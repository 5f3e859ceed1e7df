//! From what a stage did with a message to what the store must change: the end of the hop, the hops that follow, the timeline.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Shared;
use super::accept::hash;
use super::failing;
use super::saga;
use super::tap;
use super::walk::{Ended, Walked};
use crate::body::Body;
use crate::failure::Failure;
use crate::flow::plan::{Action, Plan};
use crate::handoff::Hop;
use crate::message::{Message, MessageId};
use crate::store::commit::{DOOR, End, FENCE_FIRST, Leaf, NewHop, Outcome, Trail, Turn};
use crate::store::envelope::Envelope;

/// The end of a hop, and what the hand-off is told once it is durable.
pub(super) struct Finished {
    pub(super) end: End,
    pub(super) follow: Vec<Hop>,
}

/// What was sent and what came back, for exceptions.
#[derive(Clone, Default)]
pub(super) struct Exchange {
    pub(super) request: Option<Bytes>,
    pub(super) answer: Option<Bytes>,
}

/// The end of a hop whose message has walked on.
pub(super) fn over(
    shared: &Shared,
    plan: &Plan,
    hop: &Hop,
    walked: Walked,
    effect: Option<Outcome>,
    exchange: &Exchange,
) -> Finished {
    let now_ms = shared.world.clock.now_ms();
    if tap::is_any() {
        shared.taps.show(plan, hop, &walked, now_ms);
    }
    let trail = trail(plan, hop, &walked, now_ms);
    let mut follow = Vec::with_capacity(walked.next.len() + walked.doors.len());
    let mut next = Vec::with_capacity(walked.next.len());
    let mut doors = Vec::with_capacity(walked.doors.len());
    for (node, message) in walked.next {
        let hop_to_be = new_hop(
            shared,
            hop,
            plan.flow.clone(),
            plan.nodes[node].id.clone(),
            message.id,
            &message,
        );
        follow.push(taken(&hop_to_be, hop, message));
        next.push(hop_to_be);
    }
    for (nth, (node, flow, mut message)) in walked.doors.into_iter().enumerate() {
        message.id = door_id(&message, &plan.flow, &plan.nodes[node].id, &flow, nth);
        let mut hop_to_be = new_hop(shared, hop, flow, Arc::from(DOOR), message.id, &message);
        // Its body outlives the run that sends it.
        hop_to_be.body = Some(message.body.bytes().clone());
        follow.push(taken(&hop_to_be, hop, message));
        doors.push(hop_to_be);
    }
    let leaves = walked
        .ended
        .into_iter()
        .map(|ended| leaf(plan, hop, ended, exchange))
        .collect();
    let leaves = saga::leaves(shared, plan, hop, leaves);
    let turn = Turn::Over {
        next,
        doors,
        leaves,
    };
    Finished {
        end: end(plan, hop, turn, effect, trail),
        follow,
    }
}

/// The end of a hop that waits for another attempt.
pub(super) fn wait(
    shared: &Shared,
    plan: &Plan,
    hop: &Hop,
    due_at_ms: i64,
    attempt: u32,
    failure: Failure,
    effect: Option<Outcome>,
) -> Finished {
    let trail = vec![Trail {
        at_ms: shared.world.clock.now_ms(),
        step: hop.step.clone(),
        what: "waits",
        detail: Some(failure.to_string()),
        hash: None,
    }];
    let turn = Turn::Wait {
        due_at_ms,
        attempt,
        failure,
    };
    Finished {
        end: end(plan, hop, turn, effect, trail),
        follow: Vec::new(),
    }
}

/// A hop that waits for a time; nothing has failed.
pub(super) fn rest(shared: &Shared, plan: &Plan, hop: &Hop, due_at_ms: i64, why: &str) -> Finished {
    let until = jiff::Timestamp::from_millisecond(due_at_ms).unwrap_or_default();
    let trail = vec![Trail {
        at_ms: shared.world.clock.now_ms(),
        step: hop.step.clone(),
        what: "waits",
        detail: Some(format!("until {until}: {why}")),
        hash: None,
    }];
    let turn = Turn::Rest {
        due_at_ms,
        why: why.to_owned(),
    };
    Finished {
        end: end(plan, hop, turn, None, trail),
        follow: Vec::new(),
    }
}

fn end(plan: &Plan, hop: &Hop, turn: Turn, effect: Option<Outcome>, trail: Vec<Trail>) -> End {
    End {
        hop: hop.hop,
        fence: hop.fence,
        run: hop.run,
        flow: plan.flow.clone(),
        step: hop.step.clone(),
        revision: hop.moved.then(|| hop.revision.clone()),
        turn,
        effect,
        saga: None,
        trail,
        accepts: Vec::new(),
    }
}

fn new_hop(
    shared: &Shared,
    from: &Hop,
    flow: Arc<str>,
    step: Arc<str>,
    id: MessageId,
    message: &Message,
) -> NewHop {
    let same_body = from.runs_body && same(&from.message.body, &message.body);
    NewHop {
        hop: shared.store.next_hop(),
        run: from.run,
        flow,
        step,
        message: id,
        body: (!same_body).then(|| message.body.bytes().clone()),
        envelope: Some(Envelope::write(message)),
    }
}

fn taken(new: &NewHop, from: &Hop, message: Message) -> Hop {
    Hop {
        hop: new.hop,
        fence: FENCE_FIRST,
        run: from.run,
        flow: new.flow.clone(),
        step: new.step.clone(),
        attempt: 1,
        revision: from.revision.clone(),
        moved: from.moved,
        runs_body: new.body.is_none(),
        message,
    }
}

fn leaf(plan: &Plan, hop: &Hop, ended: Ended, exchange: &Exchange) -> Leaf {
    match ended {
        Ended::Delivered => Leaf::Delivered,
        Ended::Filtered(_) | Ended::Stale(..) => Leaf::Filtered,
        Ended::Dropped(at, reason) => Leaf::Discarded(format!("{}: {reason}", plan.nodes[at].id)),
        Ended::Failed(at, message, failure) => {
            let runs_body = hop.runs_body && same(&hop.message.body, &message.body);
            let step = &plan.nodes[at].id;
            let attempts = hop.attempt.max(1);
            let mut exception =
                failing::exception(&plan.flow, step, &message, runs_body, &failure, attempts);
            exception.envelope = Some(Envelope::write(&message));
            if *step == hop.step {
                exception = failing::with_exchange(
                    exception,
                    exchange.request.clone(),
                    exchange.answer.clone(),
                );
            }
            Leaf::Exception(exception)
        }
    }
}

fn trail(plan: &Plan, hop: &Hop, walked: &Walked, now_ms: i64) -> Vec<Trail> {
    let line = |step: &Arc<str>, what, detail| Trail {
        at_ms: now_ms,
        step: step.clone(),
        what,
        detail,
        hash: None,
    };
    let names = walked
        .through
        .iter()
        .map(|&at| &*plan.nodes[at].id)
        .collect::<Vec<_>>()
        .join(" > ");
    let last = walked
        .next
        .last()
        .map(|(_, message)| message)
        .or(walked.doors.last().map(|(_, _, message)| message));
    let detail = if names == *hop.step && keeps_no_ledger(plan, &names) {
        Some(written_as(&hop.message))
    } else {
        (!names.is_empty() && names != *hop.step).then_some(names)
    };
    let mut trail = vec![Trail {
        hash: last.map(|message| short_hash(message.body.bytes())),
        ..line(&hop.step, "done", detail)
    }];
    for ended in &walked.ended {
        match ended {
            Ended::Delivered => {}
            Ended::Filtered(at) => trail.push(line(&plan.nodes[*at].id, "filtered", None)),
            Ended::Stale(at, reason) => {
                trail.push(line(&plan.nodes[*at].id, "filtered", Some(reason.clone())))
            }
            Ended::Dropped(at, reason) => {
                trail.push(line(&plan.nodes[*at].id, "discarded", Some(reason.clone())))
            }
            Ended::Failed(at, _, failure) => trail.push(line(
                &plan.nodes[*at].id,
                // In a saga it is for the store to say what follows.
                match plan.saga(*at) {
                    Some(_) => "failed",
                    None => "exception",
                },
                Some(failure.to_string()),
            )),
        }
    }
    trail.extend(
        walked
            .milestones
            .iter()
            .map(|milestone| line(&hop.step, "milestone", Some(milestone.to_string()))),
    );
    trail
}

/// Whether the step is a sink whose effect no ledger knows: the timeline does.
fn keeps_no_ledger(plan: &Plan, step: &str) -> bool {
    let node = plan.node(step).map(|at| &plan.nodes[at]);
    node.is_some_and(|node| matches!(node.action, Action::Append(_) | Action::Stream(_)))
}

/// What the timeline says of a message that such a sink has written: a rerun finds it there.
pub(super) fn written_as(message: &Message) -> String {
    if message.item.is_empty() {
        "written".to_owned()
    } else {
        format!("written {}", message.item)
    }
}

pub(super) fn short_hash(bytes: &[u8]) -> [u8; 8] {
    let mut short = [0; 8];
    short.copy_from_slice(&hash(bytes)[..8]);
    short
}

/// Whether two bodies are the same bytes in memory.
pub(super) fn same(a: &Body, b: &Body) -> bool {
    a.len() == b.len() && a.bytes().as_ptr() == b.bytes().as_ptr()
}

/// The id of a message at another flow's door: the same whenever the same step hands over the same message, another for each copy.
pub(super) fn door_id(
    message: &Message,
    from: &str,
    step: &str,
    to: &str,
    nth: usize,
) -> MessageId {
    let digest = Sha256::digest(format!("{}\n{from}\n{step}\n{to}\n{nth}", message.id));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    let time = message.id.0 >> 80;
    MessageId::from_parts(
        u64::try_from(time).unwrap_or(0),
        MessageId::from_bytes(bytes).0,
    )
}
