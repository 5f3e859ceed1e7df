//! What the engine does with messages for a system that is down, refuses the credentials, is in maintenance or is slow. The target is
//! scripted, the store is real, the clock stands still until a test moves it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use crossdock::component::common::RetryRule;
use crossdock::component::{
    Answer, Arrival, Attempt, Batch, Context, Effect, Library, Probed, Promises, Request,
    Verdict as Accepted,
};
use crossdock::failure::{Class, Failure};
use crossdock::flow::plan::{Action, Node, Plan, Prints, Project};
use crossdock::flow::settings::Settings;
use crossdock::message::Message;
use crossdock::net::listener::Listener;
use crossdock::run::supervisor::{Engine, Start};
use crossdock::store::books::Counts;
use crossdock::store::exceptions::{ExceptionFilter, ExceptionRow};
use crossdock::store::systems::SystemRow;
use crossdock::store::{Options, Store};
use crossdock::system::admission::{Admission, Rules};
use crossdock::system::maintenance::Maintenance;
use crossdock::world::clock::{Clock, StillClock};
use crossdock::world::random::SeededRandom;
use crossdock::world::{Pending, World};
use tokio::sync::{mpsc, oneshot};

use crate::support::feed::{self, Offer};

/// 2026-11-22 08:00 UTC, a Sunday.
const START_MS: i64 = 1_795_334_400_000;
const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;

/// What the target does with every request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Good,
    /// Says no, with this class.
    No(Class),
    /// Answers after ten minutes.
    Slow,
    /// The connection breaks after the request has left; it was applied.
    Drops,
}

/// A target behind an admission of its own.
struct Target {
    admission: Arc<Admission>,
    clock: Arc<StillClock>,
    mode: Mutex<Mode>,
    /// When what was sent.
    sent: Mutex<Vec<(i64, String)>>,
    applied: Mutex<Vec<String>>,
    keeps_keys: bool,
    high: bool,
}

impl Target {
    fn new(clock: &Arc<StillClock>, rules: Rules) -> Target {
        Target {
            admission: Arc::new(Admission::new("erp", rules)),
            clock: clock.clone(),
            mode: Mutex::new(Mode::Good),
            sent: Mutex::default(),
            applied: Mutex::default(),
            keeps_keys: true,
            high: false,
        }
    }

    fn is(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn sent(&self) -> usize {
        self.sent.lock().unwrap().len()
    }

    fn times(&self) -> Vec<i64> {
        let sent = self.sent.lock().unwrap();
        sent.iter().map(|(at, _)| at - START_MS).collect()
    }

    fn play(&self, request: &Request) -> Attempt {
        let text = String::from_utf8_lossy(&request.bytes).into_owned();
        let now = self.clock.now_ms();
        self.sent.lock().unwrap().push((now, text.clone()));
        let mode = *self.mode.lock().unwrap();
        if !matches!(mode, Mode::No(_)) {
            let mut applied = self.applied.lock().unwrap();
            if !applied.contains(&text) {
                applied.push(text);
            }
        }
        match mode {
            Mode::Good | Mode::Slow => Attempt::Applied(Answer {
                bytes: Bytes::from_static(b"{\"status\":201}"),
            }),
            Mode::No(class) => Attempt::NotApplied(Failure::new(class, "the target says no")),
            Mode::Drops => Attempt::Unknown(Failure::new(Class::Ambiguous, "the line broke")),
        }
    }
}

impl Effect for Target {
    fn promises(&self) -> Promises {
        Promises {
            safe: false,
            kept_ms: self.keeps_keys.then_some(86_400_000),
            probe_settle_ms: None,
            timeout_ms: 1_000,
            concurrency: 4,
        }
    }

    fn admission(&self) -> Option<&Arc<Admission>> {
        Some(&self.admission)
    }

    fn prepare(&self, message: &Message, _: &Context<'_>) -> Result<Request, Failure> {
        Ok(Request {
            bytes: message.body.bytes().clone(),
            idempotency_key: self.keeps_keys.then(|| message.id.to_string()),
        })
    }

    fn perform<'a>(&'a self, request: &'a Request) -> Pending<'a, Attempt> {
        Box::pin(async move {
            let pass = match self
                .admission
                .enter(self.high, Duration::from_secs(1))
                .await
            {
                Ok(pass) => pass,
                Err(shut) => return Attempt::Held(shut),
            };
            if *self.mode.lock().unwrap() == Mode::Slow {
                self.clock.sleep(Duration::from_secs(600)).await;
            }
            match self.play(request) {
                Attempt::NotApplied(failure) if failure.class == Class::Auth => {
                    pass.failed(&failure);
                    Attempt::Held(failure)
                }
                Attempt::NotApplied(failure) => {
                    pass.failed(&failure);
                    Attempt::NotApplied(failure)
                }
                Attempt::Unknown(failure) => {
                    pass.failed(&failure);
                    Attempt::Unknown(failure)
                }
                other => {
                    pass.answered();
                    other
                }
            }
        })
    }

    fn probe<'a>(&'a self, _: &'a Message, _: &'a Request) -> Pending<'a, Probed> {
        Box::pin(async { Probed::Absent })
    }

    fn finish(&self, message: Message, _: &Answer, _: &Context<'_>) -> Result<Message, Failure> {
        Ok(message)
    }
}

/// An engine with one flow a target, named `a`, `b` ..
struct Rig {
    engine: Engine,
    store: Store,
    clock: Arc<StillClock>,
    offers: Vec<mpsc::Sender<Offer>>,
}

fn clock() -> Arc<StillClock> {
    Arc::new(StillClock::at(START_MS))
}

async fn rig(folder: &Path, clock: &Arc<StillClock>, target: &Arc<Target>) -> Rig {
    rig_with(
        folder,
        clock,
        std::slice::from_ref(target),
        Settings::default(),
    )
    .await
}

async fn rig_with(
    folder: &Path,
    clock: &Arc<StillClock>,
    targets: &[Arc<Target>],
    settings: Settings,
) -> Rig {
    let mut plans = BTreeMap::new();
    let mut offers = Vec::new();
    for (nth, target) in targets.iter().enumerate() {
        let (sender, feed) = mpsc::channel(8);
        offers.push(sender);
        let name: Arc<str> = Arc::from(["a", "b", "c"][nth]);
        let plan = plan(&name, target, feed);
        plans.insert(name, Arc::new(plan));
    }
    let project = Project {
        revision: Arc::from("1"),
        plans,
        library: Arc::new(Library::default()),
        settings,
        parts: BTreeMap::new(),
        files: Vec::new(),
    };
    let world = World {
        clock: clock.clone(),
        random: Arc::new(SeededRandom::new(1)),
        ..World::real()
    };
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
        clock: clock.clone(),
        offers,
    }
}

fn plan(name: &Arc<str>, target: &Arc<Target>, feed: mpsc::Receiver<Offer>) -> Plan {
    let node = Node {
        id: Arc::from("erp"),
        kind: "test",
        when: None,
        action: Action::Effect(target.clone()),
        next: None,
        retry: RetryRule {
            attempts: 4,
            first_ms: 1_000,
            factor: 2.0,
            most_ms: 10_000,
        },
        on_failure: Vec::new(),
        milestone: None,
        sink: true,
        system: None,
        hands_to: None,
        keeps: None,
    };
    Plan {
        flow: name.clone(),
        revision: Arc::from("1"),
        prints: Prints::default(),
        tables: Arc::default(),
        high: target.high,
        description: String::new(),
        source: feed::feed(feed),
        source_kind: "test",
        accepts: None,
        keys: Vec::new(),
        once: None,
        order: None,
        personal: Arc::default(),
        sagas: Vec::new(),
        nodes: vec![node],
    }
}

impl Rig {
    async fn try_offer(&self, flow: usize, from: usize, many: usize) -> Result<(), Failure> {
        let arrivals = (from..from + many)
            .map(|n| Arrival {
                body: Bytes::from(format!("{{\"n\":{n}}}")),
                ..Arrival::default()
            })
            .collect();
        let (verdicts, answer) = oneshot::channel();
        let batch = Batch {
            arrivals,
            progress: None,
        };
        self.offers[flow].send((batch, verdicts)).await.unwrap();
        let verdicts = answer.await.unwrap()?;
        assert_eq!(verdicts, vec![Accepted::Accepted; many]);
        Ok(())
    }

    async fn offer(&self, flow: usize, from: usize, many: usize) {
        self.try_offer(flow, from, many).await.unwrap();
    }

    /// Moves the clock in steps, and lets the engine work in between.
    async fn pass(&self, ms: i64, step: i64) {
        for _ in 0..ms / step {
            self.clock.advance(step);
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    /// Waits, without moving the clock, until the store says that the system is so, and all that was under way is done.
    async fn becomes(&self, health: &str) {
        let becomes = async {
            while &*self.system().await.state.health != health {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let limit = Duration::from_secs(20);
        let said = tokio::time::timeout(limit, becomes).await;
        assert!(said.is_ok(), "{:?}", self.system().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    /// Moves the clock until nothing is in flight.
    async fn rest(&self) -> Counts {
        let moving = async {
            loop {
                self.pass(SECOND, SECOND).await;
            }
        };
        let rest = async {
            tokio::select! {
                () = self.engine.at_rest() => {}
                () = moving => {}
            }
        };
        tokio::time::timeout(Duration::from_secs(60), rest)
            .await
            .expect("the engine comes to rest");
        let books = self.store.books().await.unwrap();
        assert_eq!(books, self.store.recount().await.unwrap());
        assert!(books[0].counts.balanced(), "{books:?}");
        books[0].counts
    }

    async fn exceptions(&self) -> Vec<ExceptionRow> {
        let filter = ExceptionFilter {
            limit: 100,
            ..ExceptionFilter::default()
        };
        self.store.exceptions(filter).await.unwrap()
    }

    async fn system(&self) -> SystemRow {
        self.store.systems().await.unwrap().remove(0)
    }

    /// The attempts to come of the messages of these runs.
    async fn attempts(&self, runs: std::ops::RangeInclusive<usize>) -> Vec<u32> {
        let mut attempts = Vec::new();
        for run in runs {
            let shown = self.store.run(&run.to_string()).await.unwrap().unwrap();
            attempts.extend(shown.hops.iter().map(|hop| hop.attempt));
        }
        attempts
    }

    async fn stop(self) {
        assert!(
            self.engine.stop(Duration::from_secs(10)).await,
            "a clean stop"
        );
    }
}

#[tokio::test]
async fn a_system_that_is_down_for_an_hour_costs_no_attempts_and_no_exceptions() {
    for mode in [Mode::No(Class::Unavailable), Mode::Drops] {
        let (folder, clock) = (tempfile::tempdir().unwrap(), clock());
        let target = Arc::new(Target::new(&clock, Rules::default()));
        let rig = rig(folder.path(), &clock, &target).await;
        target.is(mode);
        rig.offer(0, 0, 200).await;
        rig.becomes("down").await;
        rig.pass(MINUTE, SECOND).await;
        rig.offer(0, 200, 200).await;
        rig.pass(59 * MINUTE, 5 * SECOND).await;
        rig.becomes("down").await;
        let times = target.times();
        let at_once = times.iter().filter(|at| **at < 20 * SECOND).count();
        assert!((10..=14).contains(&at_once), "{mode:?} {times:?}");
        // 30 s, 1, 2, 4, 8 and then every 10 minutes, each up to a tenth more or less.
        let tries: Vec<i64> = times
            .iter()
            .copied()
            .filter(|at| *at > 20 * SECOND)
            .collect();
        assert!((5..=10).contains(&tries.len()), "{mode:?} {tries:?}");
        let row = rig.system().await;
        assert_eq!((&*row.state.health, row.waiting), ("down", 400));
        assert!(row.state.reason.contains("the"), "{row:?}");
        assert!(row.state.since_ms < START_MS + 20 * SECOND);
        let attempts = rig.attempts(1..=400).await;
        let spent: u32 = attempts.iter().map(|attempt| attempt - 1).sum();
        assert_eq!(spent as usize, target.sent(), "only what was sent counts");
        assert!(attempts.iter().all(|attempt| *attempt <= 4), "{attempts:?}");
        assert_eq!(rig.exceptions().await, []);
        target.is(Mode::Good);
        let counts = rig.rest().await;
        assert_eq!((counts.delivered, counts.in_exceptions), (400, 0));
        assert_eq!(target.applied.lock().unwrap().len(), 400);
        assert_eq!(&*rig.system().await.state.health, "up");
        rig.stop().await;
    }
}

#[tokio::test]
async fn an_open_circuit_is_open_after_a_restart() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), clock());
    let before = Arc::new(Target::new(&clock, Rules::default()));
    let first = rig(folder.path(), &clock, &before).await;
    before.is(Mode::No(Class::Timeout));
    first.offer(0, 0, 50).await;
    first.becomes("down").await;
    let since_ms = first.system().await.state.since_ms;
    first.stop().await;
    let after = Arc::new(Target::new(&clock, Rules::default()));
    let second = rig(folder.path(), &clock, &after).await;
    second.pass(10 * SECOND, SECOND).await;
    assert_eq!(after.sent(), 0, "it is not tried before its time");
    assert_eq!(second.system().await.state.since_ms, since_ms);
    let counts = second.rest().await;
    assert_eq!((counts.delivered, after.sent()), (50, 50));
    second.stop().await;
}

#[tokio::test]
async fn refused_credentials_pause_the_system_until_they_are_good() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), clock());
    let target = Arc::new(Target::new(&clock, Rules::default()));
    let rig = rig(folder.path(), &clock, &target).await;
    target.is(Mode::No(Class::Auth));
    rig.offer(0, 0, 30).await;
    rig.becomes("credentials refused").await;
    let at_once = target.sent();
    assert!((1..=4).contains(&at_once), "{:?}", target.times());
    rig.pass(10 * MINUTE, SECOND).await;
    let tries = target.sent() - at_once;
    assert!((7..=10).contains(&tries), "{:?}", target.times());
    let row = rig.system().await;
    assert_eq!(
        (&*row.state.health, row.waiting),
        ("credentials refused", 30)
    );
    assert_eq!(rig.attempts(1..=30).await, [1; 30]);
    assert_eq!(rig.exceptions().await, []);
    target.is(Mode::Good);
    assert_eq!(rig.rest().await.delivered, 30);
    rig.stop().await;
}

#[tokio::test]
async fn nothing_is_sent_during_maintenance() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), clock());
    let window = Maintenance::parse("Sun 08:10-08:30 UTC").unwrap();
    let rules = Rules {
        maintenance: vec![window],
        ..Rules::default()
    };
    let target = Arc::new(Target::new(&clock, rules));
    let rig = rig(folder.path(), &clock, &target).await;
    rig.offer(0, 0, 5).await;
    rig.rest().await;
    rig.pass(11 * MINUTE, 5 * SECOND).await;
    rig.offer(0, 5, 20).await;
    rig.pass(15 * MINUTE, 5 * SECOND).await;
    assert_eq!(target.sent(), 5);
    let row = rig.system().await;
    assert_eq!((&*row.state.health, row.waiting), ("maintenance", 20));
    assert_eq!(row.state.until_ms, Some(START_MS + 30 * MINUTE));
    assert_eq!(rig.rest().await.delivered, 25);
    assert!(target.times()[5..].iter().all(|at| *at >= 30 * MINUTE));
    assert_eq!(rig.attempts(1..=25).await, [] as [u32; 0]);
    rig.stop().await;
}

#[tokio::test]
async fn without_a_circuit_each_message_uses_up_its_attempts() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), clock());
    let rules = Rules {
        circuit: None,
        ..Rules::default()
    };
    let target = Arc::new(Target::new(&clock, rules));
    let rig = rig(folder.path(), &clock, &target).await;
    target.is(Mode::No(Class::Unavailable));
    rig.offer(0, 0, 3).await;
    let counts = rig.rest().await;
    assert_eq!((counts.in_exceptions, target.sent()), (3, 12));
    rig.stop().await;
}

#[tokio::test]
async fn answers_that_say_no_do_not_open_the_circuit() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), clock());
    let target = Arc::new(Target::new(&clock, Rules::default()));
    let rig = rig(folder.path(), &clock, &target).await;
    target.is(Mode::No(Class::Conflict));
    rig.offer(0, 0, 50).await;
    let counts = rig.rest().await;
    assert_eq!((counts.in_exceptions, target.sent()), (50, 50));
    assert_eq!(&*rig.system().await.state.health, "up");
    rig.stop().await;
}

fn settings(in_flight: u32, flow_in_flight: u32, backlog: u32) -> Settings {
    let mut settings = Settings::default();
    settings.limits.in_flight = Some(in_flight);
    settings.limits.flow_in_flight = Some(flow_in_flight);
    settings.limits.backlog = Some(backlog);
    settings
}

async fn full(rig: &Rig, flow: usize, from: usize) -> String {
    let failure = rig.try_offer(flow, from, 1).await.unwrap_err();
    assert_eq!(failure.class, Class::Throttled);
    failure.message
}

#[tokio::test]
async fn a_system_that_is_down_takes_no_place_from_other_flows() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), clock());
    let down = Arc::new(Target::new(&clock, Rules::default()));
    let mut other = Target::new(&clock, Rules::default());
    other.admission = Arc::new(Admission::new("wms", Rules::default()));
    let targets = [down.clone(), Arc::new(other)];
    let rig = rig_with(folder.path(), &clock, &targets, settings(40, 30, 150)).await;
    down.is(Mode::No(Class::Unavailable));
    rig.offer(0, 0, 30).await;
    rig.becomes("down").await;
    for batch in 1..5 {
        rig.offer(0, batch * 30, 30).await;
    }
    assert!(full(&rig, 0, 999).await.contains("limits.backlog"));
    rig.offer(1, 0, 30).await;
    while targets[1].sent() < 30 {
        rig.pass(SECOND, SECOND).await;
    }
    assert!(down.sent() < 20);
    down.is(Mode::Good);
    assert_eq!(rig.rest().await.delivered, 150);
    rig.stop().await;
}

#[tokio::test]
async fn a_slow_system_fills_the_share_of_its_flow_and_high_criticality_has_room() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), clock());
    let slow = Arc::new(Target::new(&clock, Rules::default()));
    let mut urgent = Target::new(&clock, Rules::default());
    urgent.high = true;
    urgent.admission = Arc::new(Admission::new("wms", Rules::default()));
    let targets = [slow.clone(), slow.clone(), Arc::new(urgent)];
    let rig = rig_with(folder.path(), &clock, &targets, settings(40, 20, 100)).await;
    slow.is(Mode::Slow);
    rig.offer(0, 0, 20).await;
    assert!(full(&rig, 0, 99).await.contains("limits.flow_in_flight"));
    rig.offer(1, 20, 15).await;
    assert!(full(&rig, 1, 99).await.contains("`limits.in_flight`"));
    rig.offer(2, 0, 15).await;
    while targets[2].sent() < 15 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(slow.sent(), 0, "the clock stands still");
    slow.is(Mode::Good);
    let counts = rig.rest().await;
    assert_eq!(counts.delivered, 20);
    rig.stop().await;
}

#[tokio::test]
async fn a_flow_works_on_a_few_messages_where_others_fill_everything() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), clock());
    let slow = Arc::new(Target::new(&clock, Rules::default()));
    let mut urgent = Target::new(&clock, Rules::default());
    urgent.high = true;
    let urgent = Arc::new(urgent);
    let targets = [slow.clone(), slow.clone(), urgent.clone()];
    let rig = rig_with(folder.path(), &clock, &targets, settings(200, 100, 1_000)).await;
    slow.is(Mode::Slow);
    urgent.is(Mode::Slow);
    // A twentieth of 200 is shared out among three flows: three messages for each.
    rig.offer(0, 0, 100).await;
    rig.offer(2, 0, 91).await;
    assert!(full(&rig, 2, 99).await.contains("`limits.in_flight`"));
    rig.offer(1, 100, 3).await;
    assert!(full(&rig, 1, 99).await.contains("`limits.in_flight`"));
    slow.is(Mode::Good);
    urgent.is(Mode::Good);
    assert_eq!(rig.rest().await.delivered, 100);
    rig.stop().await;
}

#[tokio::test]
async fn repeats_that_fail_are_limited_by_the_retry_budget_and_cost_no_attempts() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), clock());
    let rules = Rules {
        circuit: None,
        ..Rules::default()
    };
    let target = Arc::new(Target::new(&clock, rules));
    let rig = rig(folder.path(), &clock, &target).await;
    target.is(Mode::No(Class::Unavailable));
    rig.offer(0, 0, 50).await;
    while target.sent() < 50 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rig.pass(50 * SECOND, SECOND).await;
    // 20 % of 50 first calls and of the repeats, and 10; without a budget it would be 150.
    let repeats = target.sent() - 50;
    assert!((10..=30).contains(&repeats), "{repeats}");
    let spent: u32 = rig
        .attempts(1..=50)
        .await
        .iter()
        .map(|attempt| attempt - 1)
        .sum();
    assert_eq!(spent as usize, target.sent(), "only what was sent counts");
    assert_eq!(rig.exceptions().await, []);
    target.is(Mode::Good);
    assert_eq!(rig.rest().await.delivered, 50);
    rig.stop().await;
}

#[tokio::test]
async fn first_tries_go_on_while_repeats_wait_for_the_budget() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), clock());
    let rules = Rules {
        circuit: None,
        ..Rules::default()
    };
    let target = Arc::new(Target::new(&clock, rules));
    let rig = rig(folder.path(), &clock, &target).await;
    target.is(Mode::No(Class::Unavailable));
    rig.offer(0, 0, 60).await;
    rig.pass(40 * SECOND, SECOND).await;
    let before = target.sent();
    target.is(Mode::Good);
    rig.offer(0, 60, 1).await;
    while !target
        .applied
        .lock()
        .unwrap()
        .contains(&"{\"n\":60}".to_owned())
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        target.sent() - before <= 20,
        "it did not wait for all repeats"
    );
    assert_eq!(rig.rest().await.delivered, 61);
    rig.stop().await;
}
