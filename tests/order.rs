//! Messages with the same key of an ordered flow: their effects come in the order in which they were accepted, whatever fails on the way.
//! The flow is YAML, the store is real, the target is scripted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use crossdock::component::{
    Answer, Arrival, Attempt, Batch, Context, Effect, Probed, Promises, Request, Verdict,
};
use crossdock::failure::{Class, Failure};
use crossdock::flow;
use crossdock::flow::plan::{Action, Plan};
use crossdock::message::Message;
use crossdock::net::listener::Listener;
use crossdock::run::supervisor::{Engine, Start};
use crossdock::store::books::Counts;
use crossdock::store::runs::{RunFilter, RunRow};
use crossdock::store::{Options, Store};
use crossdock::world::random::{Random, SeededRandom};
use crossdock::world::{Pending, World};
use tokio::sync::{mpsc, oneshot};

use crate::support::feed::{self, Offer};

use crate::support::Sandbox;

/// What the target does with a message: `None` applies it.
type Says = dyn Fn(&str) -> Option<Class> + Send + Sync;

/// A target that takes its time and notes what it applied.
pub struct Target {
    says: Box<Says>,
    slow: bool,
    safe: bool,
    random: SeededRandom,
    applied: Mutex<Vec<String>>,
    sent: Mutex<u64>,
}

impl Target {
    /// A target that says this to each body.
    pub fn new(
        slow: bool,
        says: impl Fn(&str) -> Option<Class> + Send + Sync + 'static,
    ) -> Arc<Target> {
        Arc::new(Target {
            says: Box::new(says),
            slow,
            safe: false,
            random: SeededRandom::new(11),
            applied: Mutex::default(),
            sent: Mutex::default(),
        })
    }

    /// What it has applied, in order.
    pub fn applied(&self) -> Vec<String> {
        self.applied.lock().unwrap().clone()
    }

    /// How often it was asked.
    pub fn sent(&self) -> u64 {
        *self.sent.lock().unwrap()
    }
}

impl Effect for Target {
    fn promises(&self) -> Promises {
        Promises {
            safe: self.safe,
            kept_ms: Some(60_000),
            probe_settle_ms: None,
            timeout_ms: 1_000,
            concurrency: 8,
        }
    }

    fn prepare(&self, message: &Message, _: &Context<'_>) -> Result<Request, Failure> {
        Ok(Request {
            bytes: message.body.bytes().clone(),
            idempotency_key: Some(message.id.to_string()),
        })
    }

    fn perform<'a>(&'a self, request: &'a Request) -> Pending<'a, Attempt> {
        Box::pin(async move {
            *self.sent.lock().unwrap() += 1;
            let text = String::from_utf8_lossy(&request.bytes).into_owned();
            if self.slow {
                tokio::time::sleep(Duration::from_micros(self.random.below(3_000))).await;
            }
            if let Some(class) = (self.says)(&text) {
                return Attempt::NotApplied(Failure::new(class, "the target says no"));
            }
            let mut applied = self.applied.lock().unwrap();
            if !applied.contains(&text) {
                applied.push(text);
            }
            Attempt::Applied(Answer {
                bytes: Bytes::from_static(b"{\"status\":201}"),
            })
        })
    }

    fn probe<'a>(&'a self, _: &'a Message, _: &'a Request) -> Pending<'a, Probed> {
        Box::pin(std::future::ready(Probed::Absent))
    }

    fn finish(&self, message: Message, _: &Answer, _: &Context<'_>) -> Result<Message, Failure> {
        Ok(message)
    }
}

/// An engine over a project; its flow `orders` is fed by the test, and every sink named `erp` is the target.
pub struct Rig {
    pub engine: Engine,
    pub store: Store,
    offers: mpsc::Sender<Offer>,
}

/// Starts an engine in a project's folder, as `Rig` says.
pub async fn rig(root: &Path, target: &Arc<Target>) -> Rig {
    let world = World::real();
    let loaded = flow::load(root, &world);
    let findings = loaded.findings.sorted();
    let told: Vec<_> = findings.iter().map(|finding| &finding.message).collect();
    let mut project = loaded.project.unwrap_or_else(|| panic!("{told:?}"));
    let (offers, feed) = mpsc::channel(8);
    let mut feed = Some(feed);
    for plan in project.plans.values_mut() {
        let plan: &mut Plan = Arc::get_mut(plan).unwrap();
        if &*plan.flow == "orders" {
            let feed = feed.take().unwrap();
            plan.source = feed::feed(feed);
        }
        for node in plan.nodes.iter_mut().filter(|node| &*node.id == "erp") {
            node.action = Action::Effect(target.clone());
            (node.retry.first_ms, node.retry.most_ms) = (2, 8);
            node.retry.attempts = 60;
        }
    }
    let store = Store::open(Options::at(root.join("store.db")), world.clone()).unwrap();
    let start = Start {
        project,
        root: root.to_owned(),
        world,
        store: store.clone(),
        listener: Listener::bind("127.0.0.1:0").await.unwrap(),
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
    /// Offers these bodies at once and gives what each was told.
    pub async fn offer(&self, bodies: &[String]) -> Vec<Verdict> {
        let arrivals = bodies.iter().map(|body| Arrival {
            body: Bytes::copy_from_slice(body.as_bytes()),
            ..Arrival::default()
        });
        let batch = Batch {
            arrivals: arrivals.collect(),
            progress: None,
        };
        let (verdicts, answer) = oneshot::channel();
        self.offers.send((batch, verdicts)).await.unwrap();
        answer.await.unwrap().unwrap()
    }

    /// Waits until nothing goes on by itself; the books of a flow.
    pub async fn rest(&self, flow: &str) -> Counts {
        tokio::time::timeout(Duration::from_secs(60), self.engine.at_rest())
            .await
            .expect("the engine comes to rest");
        let books = self.store.books().await.unwrap();
        assert_eq!(books, self.store.recount().await.unwrap());
        assert!(books.iter().all(|books| books.counts.balanced()));
        let found = books.iter().find(|books| &*books.flow == flow);
        found.map(|books| books.counts).unwrap_or_default()
    }

    /// All runs, the oldest first.
    pub async fn runs(&self) -> Vec<RunRow> {
        let mut runs = self.store.runs(RunFilter::default()).await.unwrap();
        runs.reverse();
        runs
    }

    /// Stops at once: what is under way does not come to its end.
    pub async fn cut(self) {
        self.engine.stop(Duration::ZERO).await;
        self.store.shutdown().await;
    }

    /// Stops as an operator does.
    pub async fn stop(self) {
        assert!(self.engine.stop(Duration::from_secs(20)).await);
    }
}

fn sandbox(flow: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.file("flows/orders.yaml", flow);
    sandbox
}

fn body(key: usize, n: usize) -> String {
    format!(r#"{{"order":"K{key}","n":{n}}}"#)
}

const ORDERED: &str = "flow: orders
source: { webhook: { path: /orders } }
keys: { order: order }
order_by: order
sinks:
  erp: { discard: {} }
";

/// Every key's numbers must rise in what was applied. Gives how many there were of each key.
fn in_order(applied: &[String]) -> BTreeMap<String, usize> {
    let mut last: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for text in applied {
        let body: serde_json::Value = serde_json::from_str(text).unwrap();
        let seen = last.entry(body["order"].as_str().unwrap().to_owned());
        seen.or_default().push(body["n"].as_u64().unwrap());
    }
    for (key, seen) in &last {
        assert!(seen.is_sorted(), "{key}: {seen:?}");
    }
    let counts = last.into_iter().map(|(key, seen)| (key, seen.len()));
    counts.collect()
}

/// A target that says no to a third of what it is asked, for a while.
fn moody() -> Arc<Target> {
    let random = SeededRandom::new(5);
    Target::new(true, move |_| {
        (random.below(3) == 0).then_some(Class::Unavailable)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effects_of_a_key_come_in_order_over_refusals_and_restarts() {
    const KEYS: usize = 5;
    const ROUNDS: usize = 4;
    let sandbox = sandbox(ORDERED);
    let target = moody();
    let mut n = 0;
    for round in 0..ROUNDS {
        let rig = rig(sandbox.root(), &target).await;
        for _ in 0..6 {
            let bodies: Vec<_> = (0..20).map(|at| body(at % KEYS, n + at)).collect();
            n += bodies.len();
            let told = rig.offer(&bodies).await;
            assert!(told.iter().all(|told| *told == Verdict::Accepted));
        }
        if round + 1 < ROUNDS {
            rig.cut().await;
            continue;
        }
        let counts = rig.rest("orders").await;
        assert_eq!((counts.accepted, counts.delivered), (n as i64, n as i64));
        assert_eq!(rig.store.hop_counts().await.unwrap(), []);
        rig.stop().await;
    }
    assert!(target.sent() > n as u64, "some were tried again");
    let applied = in_order(&target.applied());
    assert!(applied.values().all(|count| *count == n / KEYS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_a_message_are_all_over_before_the_next_begins() {
    let sandbox = sandbox(
        "flow: orders
source: { webhook: { path: /orders } }
keys: { order: order }
order_by: order
steps:
  - id: lines
    split: { items: lines, key: id }
sinks:
  erp: { discard: {} }
",
    );
    let target = moody();
    let rig = rig(sandbox.root(), &target).await;
    for n in 0..12 {
        let line = |at| format!(r#"{{"id":"{at}","order":"A","n":{n}}}"#);
        let lines: Vec<_> = (0..4).map(line).collect();
        let body = format!(r#"{{"order":"A","lines":[{}]}}"#, lines.join(","));
        rig.offer(&[body]).await;
    }
    assert_eq!(rig.rest("orders").await.delivered, 12);
    rig.stop().await;
    assert_eq!(in_order(&target.applied())["A"], 48);
}

/// Of five messages of one key the third is refused for good; one of another key comes last. Gives what was applied, and who waits.
async fn refused(order_by: &str) -> (Vec<String>, Vec<Option<i64>>) {
    let sandbox = sandbox(&ORDERED.replace("order_by: order", order_by));
    let target = Target::new(false, |text| {
        text.contains("\"n\":2").then_some(Class::Validation)
    });
    let rig = rig(sandbox.root(), &target).await;
    let mut bodies: Vec<_> = (0..5).map(|n| body(0, n)).collect();
    bodies.push(body(1, 9));
    rig.offer(&bodies).await;
    let counts = rig.rest("orders").await;
    assert_eq!(counts.in_exceptions, 1);
    let waits = rig.runs().await;
    let waits = waits
        .iter()
        .map(|run| Some(run.waits_for.as_ref()?.run.0))
        .collect();
    rig.stop().await;
    in_order(&target.applied());
    (target.applied(), waits)
}

#[tokio::test]
async fn a_message_that_waits_for_a_person_holds_its_key_and_no_other() {
    let (applied, waits) = refused("order_by: order").await;
    assert_eq!(applied.len(), 3, "{applied:?}");
    assert!(applied.contains(&body(1, 9)));
    assert_eq!(waits, [None, None, None, Some(3), Some(3), None]);
    let (applied, waits) = refused("order_by: { key: order, on_exception: pass }").await;
    assert_eq!(applied.len(), 5, "{applied:?}");
    assert_eq!(waits, [None; 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_door_keeps_the_order_in_which_messages_were_handed_over() {
    let sandbox = sandbox(
        "flow: orders
source: { webhook: { path: /orders } }
keys: { order: order }
order_by: order
steps:
  - id: read
    filter: \"order != 'K9'\"
sinks:
  booking: { flow: booking }
",
    );
    sandbox.file(
        "flows/booking.yaml",
        "flow: booking
source: { flow: {} }
keys: { order: order }
order_by: order
sinks:
  erp: { discard: {} }
",
    );
    let target = moody();
    let rig = rig(sandbox.root(), &target).await;
    for n in 0..40 {
        rig.offer(&[body(0, 2 * n), body(1, n), body(0, 2 * n + 1)])
            .await;
    }
    assert_eq!(rig.rest("booking").await.delivered, 120);
    rig.stop().await;
    let applied = in_order(&target.applied());
    assert_eq!((applied["K0"], applied["K1"]), (80, 40));
}

#[tokio::test]
async fn a_message_without_the_key_waits_for_a_person() {
    let sandbox = sandbox(ORDERED);
    let target = Target::new(false, |_| None);
    let rig = rig(sandbox.root(), &target).await;
    let told = rig.offer(&["{\"n\":1}".to_owned(), body(0, 2)]).await;
    assert_eq!(told, [Verdict::Accepted, Verdict::Accepted]);
    let counts = rig.rest("orders").await;
    assert_eq!((counts.in_exceptions, counts.delivered), (1, 1));
    let found = rig.store.exceptions(Default::default()).await.unwrap();
    let said = &found[0].message;
    assert!(
        said.contains("`order`") && said.contains("`order_by`"),
        "{said}"
    );
    rig.stop().await;
}

#[tokio::test]
async fn the_command_line_says_whom_a_message_waits_for() {
    let sandbox = sandbox(ORDERED);
    let target = Target::new(false, |_| Some(Class::Validation));
    let settings = std::fs::read_to_string(sandbox.root().join("crossdock.yaml")).unwrap();
    let store = "store: { sqlite: { path: store.db } }\n";
    sandbox.file("crossdock.yaml", &format!("{settings}{store}"));
    let rig = rig(sandbox.root(), &target).await;
    rig.offer(&[body(0, 1), body(0, 2)]).await;
    rig.rest("orders").await;
    rig.stop().await;
    let waits = "waits for run 1 (order=K0)";
    assert!(sandbox.prints(&["runs"]).contains(waits));
    assert!(sandbox.prints(&["runs", "2"]).contains(waits));
    let state = sandbox.prints(&["runs", "--json"]);
    assert!(
        state.contains(r#""waits_for":{"run":1,"key":"order=K0"}"#),
        "{state}"
    );
}

const LATEST: &str = "flow: orders
source: { webhook: { path: /orders } }
keys: { order: order }
steps:
  - id: latest
    newest: { key: \"[order]\", version: n }
sinks:
  erp: { discard: {} }
";

/// What was applied of each key must only rise, and end with the newest.
fn only_newer(applied: &[String], newest: u64) {
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for text in applied {
        let body: serde_json::Value = serde_json::from_str(text).unwrap();
        let n = body["n"].as_u64().unwrap();
        let key = body["order"].as_str().unwrap().to_owned();
        let before = last.insert(key, n);
        assert!(before.is_none_or(|before| before < n), "{before:?} {text}");
    }
    assert!(last.values().all(|last| *last == newest), "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_state_wins_whatever_the_order_and_nothing_old_overwrites_it() {
    const KEYS: usize = 4;
    const EACH: usize = 60;
    for safe in [false, true] {
        let sandbox = sandbox(LATEST);
        let mut target = moody();
        Arc::get_mut(&mut target).unwrap().safe = safe;
        let random = SeededRandom::new(3);
        let mut all: Vec<String> = (1..=EACH)
            .flat_map(|n| (0..KEYS).map(move |key| body(key, n)))
            .collect();
        let repeats: Vec<_> = all.iter().step_by(7).cloned().collect();
        all.extend(repeats);
        for at in 0..all.len() {
            let with = at + random.below(50.min(all.len() - at) as u64) as usize;
            all.swap(at, with);
        }
        let rig = rig(sandbox.root(), &target).await;
        for bodies in all.chunks(16) {
            rig.offer(bodies).await;
        }
        let counts = rig.rest("orders").await;
        assert_eq!(counts.delivered + counts.filtered, all.len() as i64);
        assert_eq!(counts.delivered, target.applied().len() as i64);
        assert!(counts.filtered >= (all.len() - KEYS * EACH) as i64);
        only_newer(&target.applied(), EACH as u64);
        rig.stop().await;
    }
}

#[tokio::test]
async fn an_old_state_that_waits_for_a_retry_is_dropped_once_a_newer_one_is_seen() {
    let sandbox = sandbox(LATEST);
    let target = Target::new(false, |text| {
        text.contains("\"n\":1}").then_some(Class::Unavailable)
    });
    let rig = rig(sandbox.root(), &target).await;
    rig.offer(&[body(0, 1)]).await;
    while target.sent() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    rig.offer(&[body(0, 2)]).await;
    let counts = rig.rest("orders").await;
    assert_eq!((counts.delivered, counts.filtered), (1, 1));
    assert_eq!(target.applied(), [body(0, 2)]);
    let found = rig.store.run("1").await.unwrap().unwrap();
    let last = found.trail.last().unwrap();
    assert_eq!((&*last.step, &*last.what), ("erp", "filtered"));
    assert_eq!(last.detail.as_deref(), Some("older than version 2"));
    rig.stop().await;
}

#[tokio::test]
async fn a_version_that_is_no_version_waits_for_a_person() {
    let sandbox = sandbox(LATEST);
    let target = Target::new(false, |_| None);
    let rig = rig(sandbox.root(), &target).await;
    for n in ["5", "null", "\"r6\"", "5", "4"] {
        rig.offer(&[format!(r#"{{"order":"A","n":{n}}}"#)]).await;
        rig.rest("orders").await;
    }
    let counts = rig.rest("orders").await;
    let counted = (counts.delivered, counts.filtered, counts.in_exceptions);
    assert_eq!(counted, (1, 2, 2));
    let found = rig.store.exceptions(Default::default()).await.unwrap();
    assert_eq!(found[0].class, Class::Conflict);
    assert_eq!(found[1].class, Class::Mapping);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_message_runs_after_the_one_before_and_an_older_one_is_a_repeat() {
    let sandbox = sandbox(
        "flow: orders
source: { webhook: { path: /orders } }
keys: { order: order }
once: { key: order, changed: newest, version: n }
sinks:
  erp: { discard: {} }
",
    );
    let target = moody();
    let rig = rig(sandbox.root(), &target).await;
    let told = rig
        .offer(&[
            body(0, 3),
            body(1, 1),
            body(0, 1),
            body(0, 4),
            body(0, 5),
            body(0, 4),
        ])
        .await;
    let (accepted, duplicate) = (Verdict::Accepted, Verdict::Duplicate);
    let expect = [
        &accepted, &accepted, &duplicate, &accepted, &accepted, &duplicate,
    ];
    assert!(told.iter().eq(expect), "{told:?}");
    let counts = rig.rest("orders").await;
    assert_eq!((counts.received, counts.duplicates), (6, 2));
    assert_eq!(counts.delivered + counts.filtered, 4);
    let applied = target.applied();
    let last = applied.iter().rfind(|text| text.contains("K0"));
    assert_eq!(last, Some(&body(0, 5)));
    in_order(&applied);
    let late = rig.offer(&[body(0, 4), body(0, 6)]).await;
    assert_eq!(late, [duplicate, accepted]);
    rig.rest("orders").await;
    assert_eq!(target.applied().last(), Some(&body(0, 6)));
    rig.stop().await;
}
