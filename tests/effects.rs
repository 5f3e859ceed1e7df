//! What the engine does with an effect whose attempt fails, is lost, or was under way when the engine died. The target is scripted, the
//! store is real.

mod again;
mod appends;
mod decisions;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use crossdock::component::common::RetryRule;
use crossdock::component::{
    Answer, Arrival, Attempt, Batch, Context, Effect, Library, Probed, Promises, Request, Verdict,
};
use crossdock::expression::Expression;
use crossdock::failure::{Class, Failure};
use crossdock::flow::plan::{Action, Node, OnFailure, Once, Plan, Prints, Project};
use crossdock::flow::settings::Settings;
use crossdock::message::Message;
use crossdock::net::listener::Listener;
use crossdock::run::supervisor::{Engine, Start};
use crossdock::store::books::Counts;
use crossdock::store::commit::Changed;
use crossdock::store::exceptions::{ExceptionFilter, ExceptionRow};
use crossdock::store::{Options, Store};
use crossdock::world::{Pending, World};
use tokio::sync::{mpsc, oneshot};

use crate::support::feed::{self, Offer};

/// What the target does with one request.
#[derive(Clone, Copy, Debug)]
enum Play {
    /// Applies it and answers.
    Apply,
    /// Says no, with this class.
    Refuse(Class),
    /// Applies it; the answer is lost.
    ApplyAndLose,
    /// Nobody knows; it was not applied.
    Lose,
    /// Never answers.
    Hang,
    /// The part itself breaks.
    Panic,
}

/// A target with a script; when the script is over it applies.
struct Target {
    promises: Promises,
    script: Mutex<VecDeque<Play>>,
    sent: Mutex<Vec<Request>>,
    applied: Mutex<Vec<String>>,
    probes: Mutex<u32>,
    probe_breaks: bool,
}

impl Target {
    fn new(script: &[Play]) -> Target {
        Target {
            promises: Promises {
                safe: false,
                kept_ms: None,
                probe_settle_ms: None,
                timeout_ms: 1_000,
                concurrency: 4,
            },
            script: Mutex::new(script.iter().copied().collect()),
            sent: Mutex::default(),
            applied: Mutex::default(),
            probes: Mutex::default(),
            probe_breaks: false,
        }
    }

    fn keeps_keys(mut self) -> Target {
        self.promises.kept_ms = Some(60_000);
        self
    }

    fn answers_probes(mut self) -> Target {
        self.promises.probe_settle_ms = Some(30);
        self
    }

    fn apply(&self, request: &Request) -> Attempt {
        let text = String::from_utf8_lossy(&request.bytes).into_owned();
        let mut applied = self.applied.lock().unwrap();
        let known = self.promises.kept_ms.is_some() && applied.contains(&text);
        if !known {
            applied.push(text);
        }
        Attempt::Applied(Answer {
            bytes: Bytes::from_static(b"{\"status\":201}"),
        })
    }

    fn sent(&self) -> usize {
        self.sent.lock().unwrap().len()
    }

    fn applied(&self) -> Vec<String> {
        self.applied.lock().unwrap().clone()
    }
}

impl Effect for Target {
    fn promises(&self) -> Promises {
        self.promises.clone()
    }

    fn prepare(&self, message: &Message, _: &Context<'_>) -> Result<Request, Failure> {
        let idempotency_key = self.promises.kept_ms.map(|_| message.id.to_string());
        Ok(Request {
            bytes: message.body.bytes().clone(),
            idempotency_key,
        })
    }

    fn perform<'a>(&'a self, request: &'a Request) -> Pending<'a, Attempt> {
        Box::pin(async move {
            self.sent.lock().unwrap().push(request.clone());
            let play = self
                .script
                .lock()
                .unwrap()
                .pop_front()
                .unwrap_or(Play::Apply);
            let lost = || {
                Attempt::Unknown(Failure::new(
                    Class::Ambiguous,
                    "the connection broke after the request had left",
                ))
            };
            match play {
                Play::Apply => self.apply(request),
                Play::Refuse(class) => {
                    Attempt::NotApplied(Failure::new(class, "the target says no"))
                }
                Play::ApplyAndLose => {
                    self.apply(request);
                    lost()
                }
                Play::Lose => lost(),
                Play::Hang => std::future::pending().await,
                Play::Panic => panic!("scripted"),
            }
        })
    }

    fn probe<'a>(&'a self, _: &'a Message, request: &'a Request) -> Pending<'a, Probed> {
        Box::pin(async move {
            *self.probes.lock().unwrap() += 1;
            assert!(!self.probe_breaks, "scripted");
            let text = String::from_utf8_lossy(&request.bytes).into_owned();
            if self.applied().contains(&text) {
                Probed::Applied(Answer {
                    bytes: Bytes::from_static(b"{\"status\":200}"),
                })
            } else {
                Probed::Absent
            }
        })
    }

    fn finish(&self, message: Message, _: &Answer, _: &Context<'_>) -> Result<Message, Failure> {
        Ok(message)
    }
}

/// An engine with one flow: keys and once on `n`, one sink that is the target.
struct Rig {
    engine: Engine,
    store: Store,
    offers: mpsc::Sender<Offer>,
}

async fn rig(folder: &Path, target: Arc<Target>, on_failure: Vec<(Class, OnFailure)>) -> Rig {
    rig_of(folder, Action::Effect(target), on_failure).await
}

async fn rig_of(folder: &Path, action: Action, on_failure: Vec<(Class, OnFailure)>) -> Rig {
    let (offers, feed) = mpsc::channel(8);
    let node = |id: &str, action, on_failure| Node {
        id: Arc::from(id),
        kind: "test",
        when: None,
        action,
        next: None,
        retry: RetryRule {
            attempts: 4,
            first_ms: 10,
            factor: 2.0,
            most_ms: 40,
        },
        on_failure,
        milestone: None,
        sink: true,
        system: None,
        hands_to: None,
        keeps: None,
    };
    let plan = Plan {
        flow: Arc::from("orders"),
        revision: Arc::from("1"),
        prints: Prints::default(),
        tables: Arc::default(),
        high: false,
        description: String::new(),
        source: feed::feed(feed),
        source_kind: "test",
        accepts: None,
        keys: vec![(Arc::from("n"), Expression::compile("n").unwrap())],
        once: Some(Once {
            key: Arc::from("n"),
            scope: Arc::from("orders"),
            keep_ms: 86_400_000,
            changed: Changed::Exception,
            version: None,
        }),
        order: None,
        personal: Arc::default(),
        nodes: vec![
            node("erp", action, on_failure),
            node("spare", Action::Discard, Vec::new()),
        ],
        sagas: Vec::new(),
    };
    let project = Project {
        revision: Arc::from("1"),
        plans: BTreeMap::from([(plan.flow.clone(), Arc::new(plan))]),
        library: Arc::new(Library::default()),
        settings: Settings::default(),
        parts: BTreeMap::new(),
        files: Vec::new(),
    };
    let world = World::real();
    let store = Store::open(Options::at(folder.join("store.db")), world.clone()).unwrap();
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let start = Start {
        project,
        root: folder.to_owned(),
        world,
        store: store.clone(),
        listener,
        loader: None,
        watch: None,
    };
    Rig {
        engine: Engine::start(start).await.unwrap(),
        store,
        offers,
    }
}

impl Rig {
    async fn offer(&self, bodies: &[&str]) -> Vec<Verdict> {
        let arrivals = bodies
            .iter()
            .map(|body| Arrival {
                body: Bytes::copy_from_slice(body.as_bytes()),
                ..Arrival::default()
            })
            .collect();
        let (verdicts, answer) = oneshot::channel();
        self.offers
            .send((
                Batch {
                    arrivals,
                    progress: None,
                },
                verdicts,
            ))
            .await
            .unwrap();
        answer.await.unwrap().unwrap()
    }

    async fn rest(&self) -> Counts {
        tokio::time::timeout(Duration::from_secs(20), self.engine.at_rest())
            .await
            .expect("the engine comes to rest");
        let books = self.store.books().await.unwrap();
        assert_eq!(
            books,
            self.store.recount().await.unwrap(),
            "the running sums are the recount"
        );
        assert!(books[0].counts.balanced(), "{books:?}");
        books[0].counts
    }

    async fn exceptions(&self) -> Vec<ExceptionRow> {
        self.store
            .exceptions(ExceptionFilter {
                limit: 100,
                ..ExceptionFilter::default()
            })
            .await
            .unwrap()
    }

    async fn stop(self) {
        assert!(
            self.engine.stop(Duration::from_secs(10)).await,
            "a clean stop"
        );
    }
}

const ORDER: &str = r#"{"n":"1001","total":19.90}"#;

/// One order against a target; what was sent, applied and left behind.
async fn deliver(target: Target) -> (Arc<Target>, Counts, Vec<ExceptionRow>) {
    let folder = tempfile::tempdir().unwrap();
    let target = Arc::new(target);
    let rig = rig(folder.path(), target.clone(), Vec::new()).await;
    assert_eq!(rig.offer(&[ORDER]).await, [Verdict::Accepted]);
    let counts = rig.rest().await;
    let exceptions = rig.exceptions().await;
    rig.stop().await;
    (target, counts, exceptions)
}

#[tokio::test]
async fn a_good_target_gets_it_once() {
    let (target, counts, exceptions) = deliver(Target::new(&[])).await;
    assert_eq!(
        (target.sent(), counts.delivered, exceptions.len()),
        (1, 1, 0)
    );
    assert_eq!(target.applied(), [ORDER]);
}

#[tokio::test]
async fn refusals_that_may_pass_are_repeated_and_others_wait_for_a_person() {
    let (target, counts, _) = deliver(Target::new(&[
        Play::Refuse(Class::Unavailable),
        Play::Refuse(Class::Throttled),
    ]))
    .await;
    assert_eq!((target.sent(), counts.delivered), (3, 1));
    let (target, counts, exceptions) =
        deliver(Target::new(&[Play::Refuse(Class::Validation)])).await;
    assert_eq!((target.sent(), counts.in_exceptions), (1, 1));
    assert_eq!(
        (exceptions[0].class, &*exceptions[0].step),
        (Class::Validation, "erp")
    );
}

#[tokio::test]
async fn attempts_are_counted_and_end() {
    let (target, counts, exceptions) =
        deliver(Target::new(&[Play::Refuse(Class::Timeout); 9])).await;
    assert_eq!((target.sent(), counts.in_exceptions), (4, 1));
    assert_eq!(exceptions[0].attempts, 4);
}

#[tokio::test]
async fn a_lost_answer_is_never_sent_again_blindly() {
    let (target, counts, exceptions) = deliver(Target::new(&[Play::ApplyAndLose])).await;
    assert_eq!((target.sent(), counts.in_exceptions), (1, 1));
    assert_eq!(exceptions[0].class, Class::Ambiguous);
}

#[tokio::test]
async fn a_lost_answer_is_repeated_with_the_same_key_where_the_target_keeps_keys() {
    let (target, counts, _) = deliver(Target::new(&[Play::ApplyAndLose]).keeps_keys()).await;
    assert_eq!((target.sent(), counts.delivered), (2, 1));
    assert_eq!(target.applied(), [ORDER]);
    let sent = target.sent.lock().unwrap();
    assert_eq!(sent[0], sent[1], "the stored request is sent, with its key");
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_where_there_is_a_probe() {
    let (target, counts, _) = deliver(Target::new(&[Play::ApplyAndLose]).answers_probes()).await;
    assert_eq!(
        (
            target.sent(),
            counts.delivered,
            *target.probes.lock().unwrap()
        ),
        (1, 1, 1)
    );
    assert_eq!(target.applied(), [ORDER]);
}

#[tokio::test]
async fn a_request_that_was_lost_is_sent_again_after_two_noes() {
    let (target, counts, _) = deliver(Target::new(&[Play::Lose]).answers_probes()).await;
    assert_eq!(
        (
            target.sent(),
            counts.delivered,
            *target.probes.lock().unwrap()
        ),
        (2, 1, 2)
    );
    assert_eq!(target.applied(), [ORDER]);
}

#[tokio::test]
async fn a_part_that_breaks_while_sending_leaves_an_ambiguous_exception_and_a_living_engine() {
    let folder = tempfile::tempdir().unwrap();
    let target = Arc::new(Target::new(&[Play::Panic]));
    let rig = rig(folder.path(), target.clone(), Vec::new()).await;
    rig.offer(&[ORDER]).await;
    rig.rest().await;
    assert_eq!(rig.exceptions().await[0].class, Class::Ambiguous);
    rig.offer(&[r#"{"n":"1002"}"#]).await;
    assert_eq!(rig.rest().await.delivered, 1);
    rig.stop().await;
}

#[tokio::test]
async fn repeats_are_acknowledged_once_and_changes_wait_for_a_person() {
    let folder = tempfile::tempdir().unwrap();
    let target = Arc::new(Target::new(&[]));
    let rig = rig(folder.path(), target.clone(), Vec::new()).await;
    assert_eq!(
        rig.offer(&[ORDER, ORDER]).await,
        [Verdict::Accepted, Verdict::Duplicate]
    );
    rig.rest().await;
    assert_eq!(rig.offer(&[ORDER]).await, [Verdict::Duplicate]);
    assert_eq!(
        rig.offer(&[r#"{"n":"1001","total":20}"#]).await,
        [Verdict::Accepted]
    );
    let counts = rig.rest().await;
    assert_eq!(
        (
            counts.received,
            counts.accepted,
            counts.duplicates,
            counts.delivered,
            counts.in_exceptions
        ),
        (4, 2, 2, 1, 1)
    );
    assert_eq!(rig.exceptions().await[0].class, Class::Duplicate);
    assert_eq!(
        rig.offer(&[r#"{"total":1}"#, "no json"]).await,
        [const { Verdict::Accepted }; 2]
    );
    let mut classes: Vec<_> = rig
        .exceptions()
        .await
        .into_iter()
        .map(|exception| exception.class)
        .collect();
    classes.sort();
    assert_eq!(classes, [Class::Validation, Class::Duplicate, Class::Parse]);
    assert_eq!(target.applied(), [ORDER]);
    rig.stop().await;
}

#[tokio::test]
async fn what_is_durable_goes_on_though_its_source_went_away() {
    let folder = tempfile::tempdir().unwrap();
    let target = Arc::new(Target::new(&[]));
    let rig = rig(folder.path(), target.clone(), Vec::new()).await;
    let batch = Batch {
        arrivals: vec![Arrival {
            body: Bytes::from_static(ORDER.as_bytes()),
            ..Arrival::default()
        }],
        progress: None,
    };
    let (verdicts, _) = oneshot::channel();
    rig.offers.send((batch, verdicts)).await.unwrap();
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if target.sent() > 0 {
            break;
        }
    }
    assert_eq!(rig.rest().await.delivered, 1);
    rig.stop().await;
}

#[tokio::test]
async fn failures_go_where_the_flow_says() {
    for (what, delivered, discarded) in [
        (OnFailure::To(1), 1, 0),
        (OnFailure::Drop("not ours".into()), 0, 1),
        (OnFailure::Continue, 1, 0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let target = Arc::new(Target::new(&[Play::Refuse(Class::NotFound)]));
        let rig = rig(folder.path(), target, vec![(Class::NotFound, what.clone())]).await;
        rig.offer(&[ORDER]).await;
        let counts = rig.rest().await;
        assert_eq!(
            (counts.delivered, counts.discarded, counts.in_exceptions),
            (delivered, discarded, 0),
            "{what:?}"
        );
        rig.stop().await;
    }
}

/// An engine begins with an order and dies once `begun` (its tasks are dropped, nothing is stored any more).
async fn dies(folder: &Path, action: Action, begun: impl Fn() -> bool + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let path = folder.to_owned();
    runtime
        .spawn(async move {
            let rig = rig_of(&path, action, Vec::new()).await;
            rig.offer(&[ORDER]).await;
            while !begun() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            std::mem::forget(rig.engine);
            rig.store.shutdown().await;
        })
        .await
        .unwrap();
    runtime.shutdown_background();
}

/// The engine dies while a request is under way; the next one finds the intent.
async fn dies_while_sending(
    first: Target,
    second: Target,
) -> (usize, Arc<Target>, Counts, Vec<ExceptionRow>) {
    let folder = tempfile::tempdir().unwrap();
    let first = Arc::new(first);
    let target = first.clone();
    let begun = move || target.sent() > 0;
    dies(folder.path(), Action::Effect(first.clone()), begun).await;
    let second = Arc::new(second);
    *second.applied.lock().unwrap() = first.applied();
    let again = rig(folder.path(), second.clone(), Vec::new()).await;
    assert_eq!(again.engine.recovered().hops, 1);
    let counts = again.rest().await;
    let exceptions = again.exceptions().await;
    again.stop().await;
    (first.sent(), second, counts, exceptions)
}

#[tokio::test]
async fn an_intent_without_result_is_not_sent_again_after_a_crash() {
    let (sent, second, counts, exceptions) =
        dies_while_sending(Target::new(&[Play::Hang]), Target::new(&[])).await;
    assert_eq!((sent, second.sent(), counts.in_exceptions), (1, 0, 1));
    assert_eq!(exceptions[0].class, Class::Ambiguous);
}

#[tokio::test]
async fn after_a_crash_a_key_makes_the_repeat_safe() {
    let (_, second, counts, _) = dies_while_sending(
        Target::new(&[Play::Hang]).keeps_keys(),
        Target::new(&[]).keeps_keys(),
    )
    .await;
    assert_eq!((second.sent(), counts.delivered), (1, 1));
    assert_eq!(second.applied(), [ORDER]);
}

#[tokio::test]
async fn after_a_crash_a_probe_finds_out() {
    let (_, second, counts, _) = dies_while_sending(
        Target::new(&[Play::Hang]).answers_probes(),
        Target::new(&[]).answers_probes(),
    )
    .await;
    assert_eq!(
        (
            second.sent(),
            counts.delivered,
            *second.probes.lock().unwrap()
        ),
        (1, 1, 2),
        "two noes, then sent"
    );
    assert_eq!(second.applied(), [ORDER]);
}

#[tokio::test]
async fn a_refusal_of_a_repeat_says_nothing_about_the_first_try() {
    for (class, sent) in [(Class::Conflict, 2), (Class::Throttled, 4)] {
        let mut script = vec![Play::ApplyAndLose];
        script.extend([Play::Refuse(class); 9]);
        let (target, counts, exceptions) = deliver(Target::new(&script).keeps_keys()).await;
        assert_eq!((target.sent(), counts.in_exceptions), (sent, 1), "{class}");
        assert_eq!(exceptions[0].class, Class::Ambiguous, "{class}");
        assert_eq!(target.applied(), [ORDER]);
    }
}

#[tokio::test]
async fn a_request_that_is_lost_again_and_again_comes_to_an_end() {
    let (target, counts, exceptions) =
        deliver(Target::new(&[Play::Lose; 50]).answers_probes()).await;
    assert_eq!((target.sent(), counts.in_exceptions), (4, 1));
    assert_eq!(exceptions[0].class, Class::Ambiguous);
}

#[tokio::test]
async fn a_probe_that_breaks_loses_nothing() {
    let target = Target {
        probe_breaks: true,
        ..Target::new(&[Play::Lose])
    };
    let (target, counts, exceptions) = deliver(target.answers_probes()).await;
    assert_eq!((target.sent(), counts.in_exceptions), (1, 1));
    assert_eq!(exceptions[0].class, Class::Ambiguous);
}
