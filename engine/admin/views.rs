//! Rows of the store as the API shows them. Bodies are shown only to those who may see them; who may not is told so.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use crate::store::audit::{self, AuditRow};
use crate::store::books::Counts;
use crate::store::exceptions::{ExceptionDetail, ExceptionRow, Issue};
use crate::store::replays::{ReplayItem, ReplayRow};
use crate::store::runs::{RunDetail, RunRow};
use crate::store::systems::SystemRow;
use crate::store::tokens::TokenRow;

/// What is said where bodies are left out.
const LEFT_OUT: &str = "bodies, requests and answers: the right `payload` is missing";

/// A run: one message through one revision of one flow.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Run {
    /// Its number.
    pub(super) run: i64,
    /// The message's id.
    message: String,
    /// The accepted message at the root of it all.
    root: String,
    /// The flow.
    pub(super) flow: String,
    /// The revision of the flow.
    revision: String,
    /// When it was accepted, in milliseconds since 1970.
    received_at_ms: i64,
    /// When it ended.
    ended_at_ms: Option<i64>,
    /// `in-flight`, `in-exception`, `delivered`, `filtered`, `discarded`, `compensated` or `superseded`.
    state: String,
    /// The run whose turn is before this one's.
    waits_for: Option<Ahead>,
    /// Since when what it held is erased, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    erased_at_ms: Option<i64>,
    /// Business keys.
    keys: BTreeMap<String, String>,
}

/// A run whose turn is before another one's.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ahead {
    /// The run.
    run: i64,
    /// The key that they share.
    key: String,
}

/// A run with its whole timeline.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WholeRun {
    /// The run.
    pub(super) run: Run,
    /// What happened, the oldest first.
    trail: Vec<Line>,
    /// What it has done outside.
    effects: Vec<Effect>,
    /// What of it waits for a person, or did.
    exceptions: Vec<Exception>,
    /// Where it waits.
    hops: Vec<Hop>,
    /// The accepted body, as long as retention keeps it.
    body: Option<String>,
    /// What is left out of this answer, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<&'static str>,
}

/// A line of a timeline.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Line {
    /// When, in milliseconds since 1970.
    at_ms: i64,
    /// The step.
    step: String,
    /// One word.
    what: String,
    /// A few words more.
    detail: Option<String>,
}

/// What a step has done outside.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Effect {
    /// The step.
    step: String,
    /// The split item; empty for the whole.
    item: String,
    /// What is known of it.
    standing: String,
    /// How often it was tried.
    attempts: u32,
    /// When it was tried first, in milliseconds since 1970.
    first_at_ms: i64,
    /// When something was last known of it.
    last_at_ms: i64,
    /// The key that lets the target recognise a repeat.
    idempotency_key: Option<String>,
    /// What was sent.
    request: Option<String>,
    /// What came back.
    answer: Option<String>,
}

/// Where a run waits.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Hop {
    /// The flow.
    flow: String,
    /// The step.
    step: String,
    /// The number of the attempt to come.
    attempt: u32,
    /// Until when, in milliseconds since 1970.
    due_at_ms: Option<i64>,
}

/// A message that waits for a person, or did.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Exception {
    /// Its number.
    id: i64,
    /// The run.
    run: i64,
    /// The flow.
    flow: String,
    /// The step that failed.
    step: String,
    /// The class of the failure.
    class: String,
    /// One sentence.
    message: String,
    /// More lines.
    detail: Option<String>,
    /// Equal for exceptions with the same cause.
    fingerprint: String,
    /// How many attempts there were.
    attempts: u32,
    /// `open`, `assigned`, `snoozed`, `resolved` or `discarded`.
    state: String,
    /// Who has taken it.
    owner: Option<String>,
    /// If it is put off: until when, in milliseconds since 1970.
    snoozed_until_ms: Option<i64>,
    /// How it was settled.
    how: Option<String>,
    /// When it was opened, in milliseconds since 1970.
    opened_at_ms: i64,
    /// When it was settled.
    settled_at_ms: Option<i64>,
    /// The message's id at the step.
    message_id: String,
}

/// An exception with all that is known of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WholeException {
    /// The exception.
    exception: Exception,
    /// How many things were done about it: it is in the `ETag`, too.
    version: u32,
    /// Business keys of the run.
    keys: BTreeMap<String, String>,
    /// The revision under which the run was accepted.
    revision: String,
    /// What the run has accepted.
    accepted: Option<String>,
    /// What the step has got.
    body_at_step: Option<String>,
    /// What was sent.
    request: Option<String>,
    /// What came back.
    answer: Option<String>,
    /// What the run has done outside.
    effects: Vec<Effect>,
    /// What people have done about it, the oldest first.
    history: Vec<Deed>,
    /// What is left out of this answer, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<&'static str>,
}

/// What somebody has done about an exception.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Deed {
    /// When, in milliseconds since 1970.
    at_ms: i64,
    /// Who.
    who: String,
    /// What.
    what: String,
    /// Why.
    why: Option<String>,
    /// The edited body.
    body: Option<String>,
}

/// Exceptions with the same cause.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Cause {
    /// What they share.
    fingerprint: String,
    /// The flow.
    flow: String,
    /// The step.
    step: String,
    /// The class of the failure.
    class: String,
    /// The newest one's sentence.
    message: String,
    /// How many wait for a person.
    open: u64,
    /// How many there are in all.
    total: u64,
    /// When the first was opened, in milliseconds since 1970.
    first_at_ms: i64,
    /// When the newest was opened.
    last_at_ms: i64,
    /// The newest one.
    newest: i64,
    /// Who has taken some of them.
    owners: Vec<String>,
}

/// A list of runs that are done again.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Replay {
    /// Its number.
    id: i64,
    /// When it was made, in milliseconds since 1970.
    at_ms: i64,
    /// By whom.
    who: String,
    /// Why.
    why: Option<String>,
    /// What is done with each.
    verb: serde_json::Value,
    /// How the runs were chosen.
    filter: String,
    /// At most so many a second.
    rate: f64,
    /// `running`, `paused`, `aborted` or `finished`.
    state: String,
    /// How many runs it has.
    total: u64,
    /// How many have not begun.
    waiting: u64,
    /// For how many nothing could be done.
    refused: u64,
    /// How many are under way.
    in_flight: u64,
    /// How many wait for a person.
    in_exceptions: u64,
    /// How many have ended.
    ended: u64,
}

/// The receipt of one item of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Item {
    /// Its place in the list.
    n: i64,
    /// The run that was to be done again.
    run: i64,
    /// The run that goes on in its place.
    became: Option<i64>,
    /// How that one is.
    state: Option<String>,
    /// Why nothing could be done.
    note: Option<String>,
}

/// Where the messages of a flow are.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(super) struct Books {
    /// The flow.
    pub(super) flow: String,
    received: i64,
    accepted: i64,
    duplicates: i64,
    refused: i64,
    delivered: i64,
    filtered: i64,
    discarded: i64,
    compensated: i64,
    in_flight: i64,
    in_exceptions: i64,
    superseded: i64,
    /// Whether the sums hold.
    balanced: bool,
}

/// An outside system.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct System {
    /// Its name.
    system: String,
    /// `up`, `down`, `credentials refused` or `maintenance`.
    state: String,
    /// Since when, in milliseconds since 1970.
    since_ms: i64,
    /// When it is tried again.
    next_try_ms: Option<i64>,
    /// How many messages wait for it.
    waiting: u64,
    /// Since when the oldest of them waits.
    oldest_ms: Option<i64>,
    /// Why it is not up.
    reason: String,
    /// The engines that see it so.
    engines: Vec<String>,
}

/// A flow of the project that runs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Flow {
    /// Its name.
    pub(super) flow: String,
    /// Its revision.
    pub(super) revision: String,
    /// What it is for.
    pub(super) description: String,
    /// The kind of its source.
    pub(super) source: String,
    /// Its steps and sinks, in the order of the file.
    pub(super) steps: Vec<String>,
}

/// A row of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Audited {
    /// Its number, from 1 without a gap.
    seq: i64,
    /// When, in milliseconds since 1970.
    at_ms: i64,
    /// Who.
    actor: String,
    /// `user`, `token`, `identity`, `unknown` or `engine`.
    kind: String,
    /// `api`, `cli` or `engine`.
    via: String,
    /// The address from which.
    source: Option<String>,
    /// The request's id.
    request: Option<String>,
    /// What.
    action: String,
    /// What kind of thing it was done to.
    target_kind: String,
    /// Which one.
    target: String,
    /// Why.
    reason: Option<String>,
    /// `done`, `refused` or `denied`.
    outcome: String,
    /// What is worth knowing besides.
    detail: Option<String>,
    /// A hash over all that and over the hash of the row before, in hexadecimal digits.
    hash: String,
}

/// What is known of a token. The token itself was shown once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Token {
    /// Its name.
    name: String,
    /// What it may do.
    roles: Vec<String>,
    /// For which flows.
    flows: Vec<String>,
    /// When it was made, in milliseconds since 1970.
    created_at_ms: i64,
    /// By whom.
    created_by: String,
    /// Until when it is valid.
    expires_at_ms: i64,
    /// Since when it is revoked.
    revoked_at_ms: Option<i64>,
    /// When it was last used, to the minute.
    used_at_ms: Option<i64>,
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The text of bytes that are shown, if they are.
fn shown(bytes: Option<&Bytes>, payload: bool) -> Option<String> {
    bytes.filter(|_| payload).map(text)
}

impl From<&RunRow> for Run {
    fn from(row: &RunRow) -> Run {
        Run {
            run: row.run.0,
            message: row.message.to_string(),
            root: row.root.to_string(),
            flow: row.flow.to_string(),
            revision: row.revision.to_string(),
            received_at_ms: row.received_at_ms,
            ended_at_ms: row.ended_at_ms,
            state: row.state.name().to_owned(),
            waits_for: row.waits_for.as_ref().map(|ahead| Ahead {
                run: ahead.run.0,
                key: ahead.key.clone(),
            }),
            erased_at_ms: row.erased_at_ms,
            keys: keys(&row.keys),
        }
    }
}

fn keys(names: &crate::message::Names) -> BTreeMap<String, String> {
    names
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

impl WholeRun {
    pub(super) fn of(detail: &RunDetail, payload: bool) -> WholeRun {
        let lines = detail.trail.iter().map(|line| Line {
            at_ms: line.at_ms,
            step: line.step.clone(),
            what: line.what.clone(),
            detail: line.detail.clone(),
        });
        let hops = detail.hops.iter().map(|hop| Hop {
            flow: hop.flow.to_string(),
            step: hop.step.to_string(),
            attempt: hop.attempt,
            due_at_ms: hop.due_at_ms,
        });
        let effects = detail.effects.iter();
        WholeRun {
            run: Run::from(&detail.row),
            trail: lines.collect(),
            effects: effects.map(|effect| Effect::of(effect, payload)).collect(),
            exceptions: detail.exceptions.iter().map(Exception::from).collect(),
            hops: hops.collect(),
            body: shown(detail.body.as_ref(), payload),
            left_out: (!payload).then_some(LEFT_OUT),
        }
    }
}

impl Effect {
    fn of(effect: &crate::store::effects::EffectRow, payload: bool) -> Effect {
        Effect {
            step: effect.step.to_string(),
            item: effect.item.to_string(),
            standing: effect.standing.name().to_owned(),
            attempts: effect.attempts,
            first_at_ms: effect.first_at_ms,
            last_at_ms: effect.last_at_ms,
            idempotency_key: effect.idempotency_key.clone(),
            request: shown(Some(&effect.request), payload),
            answer: shown(effect.answer.as_ref(), payload),
        }
    }
}

impl From<&ExceptionRow> for Exception {
    fn from(row: &ExceptionRow) -> Exception {
        Exception {
            id: row.id.0,
            run: row.run.0,
            flow: row.flow.to_string(),
            step: row.step.to_string(),
            class: row.class.name().to_owned(),
            message: row.message.clone(),
            detail: row.detail.clone(),
            fingerprint: row.fingerprint.clone(),
            attempts: row.attempts,
            state: row.state.name().to_owned(),
            owner: row.owner.clone(),
            snoozed_until_ms: row.snoozed_until_ms,
            how: row.how.clone(),
            opened_at_ms: row.opened_at_ms,
            settled_at_ms: row.settled_at_ms,
            message_id: row.at.to_string(),
        }
    }
}

impl WholeException {
    pub(super) fn of(detail: &ExceptionDetail, payload: bool) -> WholeException {
        let history = detail.history.iter().map(|line| Deed {
            at_ms: line.at_ms,
            who: line.who.clone(),
            what: line.what.clone(),
            why: line.why.clone(),
            body: shown(line.body.as_ref(), payload),
        });
        let effects = detail.effects.iter();
        WholeException {
            exception: Exception::from(&detail.row),
            version: detail.version(),
            keys: keys(&detail.keys),
            revision: detail.revision.to_string(),
            accepted: shown(detail.accepted.as_ref(), payload),
            body_at_step: shown(detail.body.as_ref(), payload),
            request: shown(detail.request.as_ref(), payload),
            answer: shown(detail.answer.as_ref(), payload),
            effects: effects.map(|effect| Effect::of(effect, payload)).collect(),
            history: history.collect(),
            left_out: (!payload).then_some(LEFT_OUT),
        }
    }
}

impl From<&Issue> for Cause {
    fn from(issue: &Issue) -> Cause {
        Cause {
            fingerprint: issue.fingerprint.clone(),
            flow: issue.flow.to_string(),
            step: issue.step.to_string(),
            class: issue.class.name().to_owned(),
            message: issue.message.clone(),
            open: issue.open,
            total: issue.total,
            first_at_ms: issue.first_at_ms,
            last_at_ms: issue.last_at_ms,
            newest: issue.newest.0,
            owners: issue.owners.clone(),
        }
    }
}

impl From<&ReplayRow> for Replay {
    fn from(row: &ReplayRow) -> Replay {
        Replay {
            id: row.id.0,
            at_ms: row.at_ms,
            who: row.who.clone(),
            why: row.why.clone(),
            verb: serde_json::from_str(&row.verb).unwrap_or_default(),
            filter: row.filter.clone(),
            rate: row.rate,
            state: row.state.name().to_owned(),
            total: row.total,
            waiting: row.waiting,
            refused: row.refused,
            in_flight: row.in_flight,
            in_exceptions: row.in_exceptions,
            ended: row.ended,
        }
    }
}

impl From<&ReplayItem> for Item {
    fn from(item: &ReplayItem) -> Item {
        Item {
            n: item.n,
            run: item.run.0,
            became: item.became.map(|run| run.0),
            state: item.state.map(|state| state.name().to_owned()),
            note: item.note.clone(),
        }
    }
}

impl Books {
    pub(super) fn of(flow: &str, counts: &Counts) -> Books {
        Books {
            flow: flow.to_owned(),
            received: counts.received,
            accepted: counts.accepted,
            duplicates: counts.duplicates,
            refused: counts.refused,
            delivered: counts.delivered,
            filtered: counts.filtered,
            discarded: counts.discarded,
            compensated: counts.compensated,
            in_flight: counts.in_flight,
            in_exceptions: counts.in_exceptions,
            superseded: counts.superseded,
            balanced: counts.balanced(),
        }
    }
}

impl From<&SystemRow> for System {
    fn from(row: &SystemRow) -> System {
        System {
            system: row.state.name.to_string(),
            state: row.state.health.to_string(),
            since_ms: row.state.since_ms,
            next_try_ms: row.state.until_ms,
            waiting: row.waiting,
            oldest_ms: row.oldest_at_ms,
            reason: row.state.reason.clone(),
            engines: row.seen_by.clone(),
        }
    }
}

impl From<&AuditRow> for Audited {
    fn from(row: &AuditRow) -> Audited {
        Audited {
            seq: row.seq,
            at_ms: row.at_ms,
            actor: row.actor.clone(),
            kind: row.kind.clone(),
            via: row.via.clone(),
            source: row.source.clone(),
            request: row.request.clone(),
            action: row.action.clone(),
            target_kind: row.target_kind.clone(),
            target: row.target.clone(),
            reason: row.reason.clone(),
            outcome: row.outcome.clone(),
            detail: row.detail.clone(),
            hash: audit::hex(&row.hash),
        }
    }
}

impl From<&TokenRow> for Token {
    fn from(row: &TokenRow) -> Token {
        Token {
            name: row.name.clone(),
            roles: row.roles.clone(),
            flows: row.flows.clone(),
            created_at_ms: row.created_at_ms,
            created_by: row.created_by.clone(),
            expires_at_ms: row.expires_at_ms,
            revoked_at_ms: row.revoked_at_ms,
            used_at_ms: row.used_at_ms,
        }
    }
}
