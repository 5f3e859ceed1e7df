//! The one value that changes durable state: all that a stage, an accept or a timer changes, in one transaction. It is data; it does nothing.

use std::sync::Arc;

use bytes::Bytes;

use crate::component::Progress;
use crate::component::api::Calls;
use crate::failure::{Class, Failure};
use crate::message::{Guard, MessageId, Names};

use super::answers::{AnswerChange, Known};
use super::approvals::ApprovalChange;
use super::audit::{Acting, Entry};
use super::canaries::CanaryChange;
use super::decisions::{Decided, Decision};
use super::erasure::{Erased, Erasure};
use super::facts::Fact;
use super::notices::NoticeChange;
use super::replays::{ReplayChange, ReplayId};
use super::reruns::{Rerun, Rerunning};
use super::revisions::RevisionChange;
use super::runs::RunState;
use super::sessions::SessionChange;
use super::shadows::ShadowChange;
use super::toggles::ToggleChange;
use super::tokens::{Issued, TokenChange};
use super::{groups, sequences, waits};

pub mod sagas;

use sagas::{SagaIntent, SagaResult, Undo, Undone};

/// A run's number in this store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub i64);

/// A hop's number in this store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HopId(pub i64);

/// An effect's id: a hash of root message, flow, step, item and generation; never of the run or the revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EffectId(pub [u8; 16]);

/// A message in a saga: a hash of message, flow, saga and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SagaId(pub [u8; 16]);

/// The fence of a new hop. It rises each time that the hop waits.
pub const FENCE_FIRST: i64 = 1;

/// All that changes together. Applied whole or not at all, in the order of the fields.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// New messages.
    pub accepts: Vec<NewRun>,
    /// Hops that end or wait, with what comes after them.
    pub ends: Vec<End>,
    /// Claims of messages in the middle of a flow. A claim's hash names the message, so that it finds its own claim again.
    pub claims: Vec<(RunId, Claim)>,
    /// Steps of sagas that are about to act.
    pub sagas: Vec<SagaIntent>,
    /// Versions of messages in the middle of a flow.
    pub sightings: Vec<Sighting>,
    /// Effects that are about to be tried.
    pub intents: Vec<Intent>,
    /// Messages that ask for a message of another flow, and wait for it.
    pub asks: Vec<waits::Ask>,
    /// Messages that join their groups.
    pub joins: Vec<groups::Join>,
    /// Groups that are over, with the ends of their members. If one of them is over already, nothing of this commit is applied.
    pub closes: Vec<groups::Close>,
    /// Messages that ask whether it is their turn.
    pub numbers: Vec<sequences::Number>,
    /// Messages that go on in their turn, with one of `ends`.
    pub passes: Vec<sequences::Pass>,
    /// Effects whose outcome is known now, though their hop goes on.
    pub outcomes: Vec<Outcome>,
    /// A source's cursor. If it is not where `from` says, nothing of this commit is applied.
    pub progress: Option<(Arc<str>, Progress)>,
    /// Arrivals that a flow's `on_breach: refuse` turned away: counted, not stored. Flow and number.
    pub refused: Option<(Arc<str>, u64)>,
    /// Who has called APIs.
    pub calls: Vec<Calls>,
    /// How systems are now.
    pub systems: Vec<SystemState>,
    /// How systems still are, as this engine sees them; of use where others share the store.
    pub systems_still: Vec<SystemState>,
    /// At the start of an engine: the steps of all systems, and how the systems are, instead of what was there.
    pub system_steps: Option<(Vec<SystemStep>, Vec<SystemState>)>,
    /// Flows and steps: what waits there for a time waits no longer.
    pub hurry: Vec<(Arc<str>, Arc<str>)>,
    /// Hops that waited and are due at this time (milliseconds since 1970) become ready, at most this many.
    pub release: Option<(i64, usize)>,
    /// Hops that were announced.
    pub announced: Vec<HopId>,
    /// Flows and steps whose hops are to be announced again, whatever was announced.
    pub forget: Vec<(Arc<str>, Arc<str>)>,
    /// Facts to be set, each if it is still what it was.
    pub facts: Vec<Fact>,
    /// What waits for a second person, and what becomes of it.
    pub approvals: Vec<ApprovalChange>,
    /// What people have decided about exceptions.
    pub decisions: Vec<Decision>,
    /// Runs that are begun again.
    pub reruns: Vec<Rerun>,
    /// Changes of lists of replays.
    pub replays: Vec<ReplayChange>,
    /// What is known of revisions from now on.
    pub revisions: Vec<RevisionChange>,
    /// What becomes of canaries.
    pub canaries: Vec<CanaryChange>,
    /// What becomes of shadows.
    pub shadows: Vec<ShadowChange>,
    /// What is stopped from now on, and what goes on.
    pub toggles: Vec<ToggleChange>,
    /// What the notifier has to keep.
    pub notices: Vec<NoticeChange>,
    /// Exceptions that were put off until this time (milliseconds since 1970), or an earlier one, are open again.
    pub wake: Option<i64>,
    /// What is to be erased of messages that have ended.
    pub erase: Option<Erasure>,
    /// API tokens that are made, revoked or used.
    pub tokens: Vec<TokenChange>,
    /// Sessions of people that begin, are used or end.
    pub sessions: Vec<SessionChange>,
    /// What the API keeps to answer the same to who asks once more.
    pub answers: Vec<AnswerChange>,
    /// Who acts, for the audit log; `None`: the engine, in the name that the parts carry.
    pub by: Option<Box<Acting>>,
    /// What the audit log is told beside what the other parts say.
    pub audit: Vec<Entry>,
}

/// What became of a commit's items, each list in the order of its items.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// For each of `accepts`.
    pub accepts: Vec<Accepted>,
    /// For each of `ends`: whether the hop was there with this fence. If not, nothing of that end was applied.
    pub ends: Vec<bool>,
    /// For each of `claims`: whether the message is the first one with that key.
    pub claims: Vec<bool>,
    /// For each of `sightings`.
    pub sightings: Vec<Seen>,
    /// For each of `intents`.
    pub intents: Vec<Intended>,
    /// For each of `asks`.
    pub asks: Vec<waits::Asked>,
    /// For each of `joins`.
    pub joins: Vec<groups::Joined>,
    /// For each of `numbers`.
    pub numbers: Vec<sequences::Turned>,
    /// For each of `ends`: the verdicts of its own accepts.
    pub ends_accepts: Vec<Vec<Accepted>>,
    /// The hops that this commit has made ready beside those that it names: what `release` found due, held hops whose turn has come, and what
    /// people let go on.
    pub released: Vec<StoredHop>,
    /// The runs that have ended by this commit.
    pub ended: Vec<RunEnded>,
    /// For each of `approvals`: its number, if it could be. If others hang on one that could not, there is nothing for them here.
    pub approvals: Vec<Option<i64>>,
    /// For each of `decisions`.
    pub decisions: Vec<Decided>,
    /// For each of `reruns`.
    pub reruns: Vec<Rerunning>,
    /// For each of `replays`: the list, if it was applied. If a `Take` was not, no decision and no rerun of the commit was.
    pub replays: Vec<Option<ReplayId>>,
    /// For `erase`.
    pub erased: Option<Erased>,
    /// For each of `tokens`.
    pub tokens: Vec<Issued>,
    /// For each of `answers`.
    pub answers: Vec<Known>,
}

/// A run that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEnded {
    /// The run.
    pub run: RunId,
    /// Its flow.
    pub flow: Arc<str>,
    /// As what.
    pub state: RunState,
    /// When its message was received, in milliseconds since 1970; `None` where nothing had to be read for its end. Who has ended its last hop
    /// knows it then.
    pub received_ms: Option<i64>,
}

/// A message that is accepted: it becomes a run with its first hop, or an exception, or turns out to be known.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// The run's number, from `Store::next_run`.
    pub run: RunId,
    /// The message's id.
    pub message: MessageId,
    /// The accepted message at the root of it all: for messages from another flow that flow's root, else the message itself.
    pub root: MessageId,
    /// The flow.
    pub flow: Arc<str>,
    /// The flow's revision.
    pub revision: Arc<str>,
    /// When it was accepted, in milliseconds since 1970.
    pub received_at_ms: i64,
    /// The accepted bytes.
    pub body: Bytes,
    /// Headers, variables and item, as `Envelope` writes them; empty if there are none.
    pub envelope: Bytes,
    /// Business keys: searchable, one row each.
    pub keys: Arc<Names>,
    /// Claims: if one of them is taken, the message is a duplicate (same hash) or changed (other hash).
    pub claims: Vec<Claim>,
    /// The chains in which it waits for its turn. A duplicate gets no place.
    pub chains: Vec<Chain>,
    /// Its version, where a claim judges changes by it (`Changed::Newest`).
    pub version: Option<Sighting>,
    /// What comes first.
    pub first: First,
}

/// What comes first for an accepted message.
#[derive(Clone, Debug)]
pub enum First {
    /// A hop to this step.
    Hop(NewHop),
    /// It breaks the contract: an exception at once.
    Exception(NewException),
}

/// A place in the chain of (scope, key): messages in it run one after another, in the order in which they were accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The flow, or what else keeps its keys apart.
    pub scope: String,
    /// The key and its value, as `name=value`.
    pub key: String,
    /// Whether those behind it go on while all that is left of it waits for a person.
    pub pass: bool,
}

/// A claim on (scope, key).
#[derive(Clone, Debug)]
pub struct Claim {
    /// The flow, unless the flow says otherwise; for delivery ids `delivery:FLOW`.
    pub scope: String,
    /// The key's value.
    pub key: String,
    /// A hash of the body, to tell a repeat from a change; all zero where any repeat counts as the same.
    pub hash: [u8; 16],
    /// How long it is kept after the run has ended, in milliseconds.
    pub keep_ms: i64,
    /// What a claim with another hash leads to.
    pub changed: Changed,
}

/// What happens to a message whose key is known and whose body differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Stored as a run that ends in an exception of class `duplicate`.
    Exception,
    /// Counted as a duplicate.
    Ignore,
    /// Counted as refused, and nothing is stored.
    Refuse,
    /// Judged by the version: a newer one takes the claim over and is a run of its own, an older one is counted as a duplicate, and the same
    /// version with another body is stored as an exception.
    Newest,
}

/// A version that a message brings for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Key, version and message.
    pub guard: Guard,
    /// How long the version is kept after it was seen, in milliseconds.
    pub keep_ms: i64,
}

/// What the store says to a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is the newest, and the last one seen from now on; or this message has brought it before.
    Newest,
    /// This newer one was seen before.
    Stale(String),
    /// Another message has brought the same version.
    Repeat(String),
    /// This one was seen before, and the two are of different kinds.
    Unlike(String),
}

/// What became of a new message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is a run now; its first hop is ready, or it is an exception.
    New,
    /// It is a run now; its first hop is held until this run, which is at the head of its chain, is over and its turn has come.
    Held(RunId),
    /// This run had it before: counted, nothing else stored.
    Duplicate(RunId),
    /// This run had the key with another body: stored as a run in exception.
    Changed(RunId),
    /// This run had the key with another body: counted as refused, nothing else stored.
    Refused(RunId),
}

/// The step under which messages stand at the door of a flow: they are no part of the run that has sent them.
pub const DOOR: &str = "@accept";

/// A hop to be: a message that waits for a step.
#[derive(Clone, Debug)]
pub struct NewHop {
    /// The hop's number, from `Store::next_hop`.
    pub hop: HopId,
    /// The run; of a hop to another flow's door, the run that sent it.
    pub run: RunId,
    /// The flow in which the step is.
    pub flow: Arc<str>,
    /// The step's id; `@accept` is the door of a flow.
    pub step: Arc<str>,
    /// The message's own id, where it is not the run's (parts of a split).
    pub message: MessageId,
    /// The bytes; `None` if they are the run's accepted bytes.
    pub body: Option<Bytes>,
    /// Headers, variables and item; `None` if they are the run's.
    pub envelope: Option<Bytes>,
}

/// How a hop ends, or that it waits.
#[derive(Clone, Debug)]
pub struct End {
    /// The hop.
    pub hop: HopId,
    /// The fence that the hop was taken with.
    pub fence: i64,
    /// The run.
    pub run: RunId,
    /// The flow.
    pub flow: Arc<str>,
    /// The step at which the hop stood.
    pub step: Arc<str>,
    /// The revision under which it went on, and what follows it does, where that is another one than that of the run.
    pub revision: Option<Arc<str>>,
    /// What the hop turns into.
    pub turn: Turn,
    /// The effect that this hop was about, with its outcome, if it had one.
    pub effect: Option<Outcome>,
    /// What that means for the saga that the step belongs to, if it does.
    pub saga: Option<SagaResult>,
    /// What is shown on the run's timeline.
    pub trail: Vec<Trail>,
    /// Of a hop at a flow's door: the run that it becomes.
    pub accepts: Vec<NewRun>,
}

/// What a hop turns into.
#[derive(Clone, Debug)]
pub enum Turn {
    /// It is over: these hops follow (of this run, or at other flows' doors), and these leaves end here.
    Over {
        /// Hops of the same run.
        next: Vec<NewHop>,
        /// Hops at the doors of other flows. They are not part of this run.
        doors: Vec<NewHop>,
        /// What ends here, one for each leaf.
        leaves: Vec<Leaf>,
    },
    /// It waits for another attempt, with the same message.
    Wait {
        /// Not before this time, in milliseconds since 1970.
        due_at_ms: i64,
        /// The number of the attempt to come; the first is 1.
        attempt: u32,
        /// Why it waits.
        failure: Failure,
    },
    /// It waits for a time, with the same message, and nothing has failed. It comes back as attempt 0: it has waited.
    Rest {
        /// Not before this time, in milliseconds since 1970.
        due_at_ms: i64,
        /// Why it waits, in a few words.
        why: String,
    },
}

/// How one leaf of a run ends.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a leaf lives as long as its commit, and a batch has at most some hundred"
)]
pub enum Leaf {
    /// It reached a sink.
    Delivered,
    /// A step filtered it.
    Filtered,
    /// It was dropped for a reason (`on_failure: drop`).
    Discarded(String),
    /// It waits for a person.
    Exception(NewException),
    /// What was done for it is undone.
    Compensated,
    /// It failed in a saga: what was done before is undone, or if nothing was, it waits for a person.
    Undo(Box<Undo>),
    /// An undo has ended: the next one follows, or the saga is over.
    Undone(Box<Undone>),
}

/// A message that cannot go on, with all that a person needs.
#[derive(Clone, Debug)]
pub struct NewException {
    /// The step that failed.
    pub step: Arc<str>,
    /// The class.
    pub class: Class,
    /// One sentence.
    pub message: String,
    /// More lines.
    pub detail: Option<String>,
    /// Equal for exceptions with the same cause.
    pub fingerprint: String,
    /// How many attempts there were.
    pub attempts: u32,
    /// The message's id at the step.
    pub at: MessageId,
    /// The step's own bytes; `None` if they are the run's accepted bytes.
    pub body: Option<Bytes>,
    /// The step's headers, variables and item; `None` if they are the run's.
    pub envelope: Option<Bytes>,
    /// The request that was sent, if there was one.
    pub request: Option<Bytes>,
    /// What the target answered, if it did.
    pub answer: Option<Bytes>,
}

/// A line of a run's timeline.
#[derive(Clone, Debug)]
pub struct Trail {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// The step.
    pub step: Arc<str>,
    /// One word: `done`, `filtered`, `failed`, `waits`, `sent`, `exception`, `milestone`, ..
    pub what: &'static str,
    /// A few words more, if there are any.
    pub detail: Option<String>,
    /// A hash of the body that the step gave, where there is one.
    pub hash: Option<[u8; 8]>,
}

/// An effect that is about to be tried.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The effect.
    pub effect: EffectId,
    /// The hop that tries it.
    pub hop: HopId,
    /// The run.
    pub run: RunId,
    /// The flow.
    pub flow: Arc<str>,
    /// The step.
    pub step: Arc<str>,
    /// The split item; empty for the whole.
    pub item: Arc<str>,
    /// What will be sent; kept from the first intent on, a retry sends that.
    pub request: Bytes,
    /// The key that lets the target recognise a repeat.
    pub idempotency_key: Option<String>,
    /// Which start of which engine tries it.
    pub owner: i64,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// When this intent counts as dead.
    pub lease_until_ms: i64,
    /// The message's generation: what a person sends as new has a higher one.
    pub generation: u32,
    /// The versions that the message brought: the effect is not tried once a newer one is seen.
    pub guards: Arc<Vec<Guard>>,
    /// An intent of a dead owner without a result is taken over: only after the engine has probed, or may repeat.
    pub take_over: bool,
}

/// What the ledger says to an intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intended {
    /// Go on: the intent is durable. The request to send (the stored one, if there was one) and the number of this attempt.
    Send {
        /// What to send.
        request: Bytes,
        /// The idempotency key to send.
        idempotency_key: Option<String>,
        /// 1 for the first.
        attempt: u32,
        /// When the first attempt was made.
        first_at_ms: i64,
    },
    /// It took effect before: no second effect, this was the answer.
    Done(Bytes),
    /// Somebody tried it, and nobody knows the outcome. Nothing was changed.
    Unknown {
        /// What was sent.
        request: Bytes,
        /// With this key.
        idempotency_key: Option<String>,
        /// When it was sent first.
        first_at_ms: i64,
        /// When it was sent last.
        last_at_ms: i64,
        /// How often a probe has said that the target does not have it.
        absent: u32,
        /// It may never have been sent: the store was restored, and does not know what was done after its backup.
        restored: bool,
    },
    /// Another owner is at it right now, until this time.
    Busy(i64),
    /// The same effect with another request was stored: not sent.
    Differs(Bytes),
    /// It took effect and was undone: not sent, because the target may still know the request.
    Undone,
    /// A newer version of one of its keys, this one, was seen since: not sent.
    Stale(String),
}

/// What is known about an effect now.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The effect.
    pub effect: EffectId,
    /// What is known.
    pub state: EffectState,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// What is stored for an effect that had no intent (safe requests): flow, step, run, request. `None` where there was an intent.
    pub unannounced: Option<Unannounced>,
}

/// An effect that needed no intent: a request that only reads.
#[derive(Clone, Debug)]
pub struct Unannounced {
    /// The run.
    pub run: RunId,
    /// The flow.
    pub flow: Arc<str>,
    /// The step.
    pub step: Arc<str>,
    /// The split item; empty for the whole.
    pub item: Arc<str>,
    /// What was sent.
    pub request: Bytes,
}

/// The states of an effect in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EffectState {
    /// It took effect; the answer.
    Done(Bytes),
    /// It surely took no effect: may be sent again.
    NotApplied,
    /// Nobody knows.
    Unknown,
    /// A probe said that the target does not have it; counts up.
    Absent,
}

/// How an outside system is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemState {
    /// The system.
    pub name: Arc<str>,
    /// `up`, `down`, `credentials refused` or `maintenance`.
    pub health: Arc<str>,
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
    /// Until when nothing is sent, if that is known.
    pub until_ms: Option<i64>,
    /// How often the circuit has opened in this outage.
    pub times: u32,
    /// Why; empty if it is up.
    pub reason: String,
}

/// A step that acts on a system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemStep {
    /// The system.
    pub system: Arc<str>,
    /// The flow.
    pub flow: Arc<str>,
    /// The step.
    pub step: Arc<str>,
}

/// A hop as the store gives it back.
#[derive(Clone, Debug)]
pub struct StoredHop {
    /// The hop.
    pub hop: HopId,
    /// The fence to end it with.
    pub fence: i64,
    /// The run.
    pub run: RunId,
    /// The flow.
    pub flow: Arc<str>,
    /// The step.
    pub step: Arc<str>,
    /// The number of the attempt to come; 0 if it has waited for a time (`Turn::Rest`).
    pub attempt: u32,
    /// The message's id at this hop.
    pub message: MessageId,
    /// The root's id.
    pub root: MessageId,
    /// When the root was accepted.
    pub received_at_ms: i64,
    /// The revision of the flow under which it goes on.
    pub revision: Arc<str>,
    /// Whether that is another one than that under which the run was accepted: a person has let it go on under it.
    pub moved: bool,
    /// The bytes.
    pub body: Bytes,
    /// Whether the bytes are the run's accepted ones.
    pub runs_body: bool,
    /// Headers, variables and item.
    pub envelope: Bytes,
    /// Business keys.
    pub keys: Arc<Names>,
}
