//! One test in motion: an engine in this process, fed by hand, under a clock that stands until nothing goes on. It judges nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::idle::Idle;
use super::outcome::{self, Outcome};
use super::outside::Outside;
use super::power::{Moment, Power};
use super::prepare::{Prepared, Streams, prepare};
use super::{Case, Setting};
use crate::component::{Arrival, Batch};
use crate::failure::Failure;
use crate::flow::test::{CLOCK_MS, Crash, Sent, value};
use crate::flow::{self, Variant};
use crate::net::listener::Listener;
use crate::run::supervisor::{Engine, Start};
use crate::store::sync::SyncFile;
use crate::store::{Options, Store};
use crate::world::clock::{Clock, StillClock};
use crate::world::env::{Environment, FixedEnvironment};
use crate::world::metrics::Metrics;
use crate::world::random::SeededRandom;
use crate::world::scratch::Scratch;
use crate::world::{World, disk};

/// How long a test goes on at most where it says nothing.
const UNTIL_MS: i64 = 86_400_000;
/// How long a source that goes on by itself is waited for, where the test says nothing.
const OWN_SOURCE_MS: i64 = 30_000;
/// How often the clock may be moved.
const MOVES_MAX: usize = 50_000;
/// After how long a sender sends again what was not acknowledged.
const RESEND_MS: i64 = 1_000;

/// Something that a test does at a time.
struct Deed {
    at_ms: i64,
    what: What,
}

enum What {
    /// Hands a message to a flow.
    Send(String, Box<Arrival>),
    /// Drops a file.
    Put(String, Bytes),
}

/// How one life of an engine ended.
enum End {
    /// All is done; what came of it.
    Rest(Box<Outcome>),
    /// The power is gone.
    Crash,
}

/// What outlives the engine.
struct Bench<'a> {
    case: Case<'a>,
    setting: &'a Setting,
    scratch: Scratch,
    clock: Arc<StillClock>,
    power: Arc<Power>,
    outside: Arc<Outside>,
    streams: Streams,
    start_ms: i64,
    deeds: Vec<Deed>,
    /// How many of them are done.
    done: usize,
    until_ms: Option<i64>,
    /// When the engine was last started, after the beginning of the test.
    began_ms: i64,
}

/// Runs a test, with these crashes, and gives what came of it.
pub(super) fn run(
    case: Case<'_>,
    setting: &Setting,
    crashes: &[Crash],
) -> Result<Outcome, Failure> {
    let mut bench = Bench::new(case, setting)?;
    let mut crashes = crashes.iter();
    let mut died = 0;
    loop {
        let crash = crashes.next();
        bench.power.on(crash.and_then(moment));
        match bench.live()? {
            End::Crash => {
                died += 1;
                let off = crash.and_then(|crash| crash.off);
                bench.clock.advance(off.map_or(0, |off| millis(off.ms)));
                bench.began_ms = bench.clock.now_ms() - bench.start_ms;
            }
            End::Rest(mut outcome) => {
                outcome.crashes = died;
                return Ok(*outcome);
            }
        }
    }
}

fn moment(crash: &Crash) -> Option<Moment> {
    let after = crash.after_commit.map(Moment::AfterCommit);
    let before = crash.before_commit.map(Moment::BeforeCommit);
    let at = crash.at.as_deref();
    let at = at.map(|step| Moment::At(Arc::from(step), crash.nth.unwrap_or(1)));
    after.or(before).or(at)
}

impl<'a> Bench<'a> {
    fn new(case: Case<'a>, setting: &'a Setting) -> Result<Bench<'a>, Failure> {
        let test = case.test();
        let clock = test.clock.as_ref().or(case.file.tests.clock.as_ref());
        let start_ms = clock
            .and_then(|clock| clock.parse::<jiff::Timestamp>().ok())
            .map_or(CLOCK_MS, jiff::Timestamp::as_millisecond);
        let clock = Arc::new(StillClock::at(start_ms));
        let power = Arc::new(Power::default());
        let outside = Outside::of((case.file, case.nth), clock.clone(), power.clone())?;
        let mut bench = Bench {
            scratch: Scratch::new()?,
            outside: Arc::new(outside),
            streams: Streams::default(),
            deeds: Vec::new(),
            done: 0,
            until_ms: test.until.map(|until| millis(until.ms)),
            began_ms: 0,
            case,
            setting,
            clock,
            power,
            start_ms,
        };
        bench.deeds()?;
        Ok(bench)
    }

    /// What is sent, in the order of its time; of the same time in the order of the file.
    fn deeds(&mut self) -> Result<(), Failure> {
        let mut at_ms = 0;
        let mut number = 0;
        for (nth, sent) in self.case.test().send.iter().flatten().enumerate() {
            at_ms = match (sent.at, sent.after) {
                (Some(at), _) => millis(at.ms),
                (None, Some(after)) => at_ms + millis(after.ms),
                (None, None) => at_ms,
            };
            for bytes in self.bytes(nth, sent)? {
                for _ in 0..sent.times.unwrap_or(1) {
                    number += 1;
                    let what = match &sent.put {
                        Some(path) => What::Put(path.clone(), bytes.clone()),
                        None => {
                            let flow = sent.to.as_deref().unwrap_or(self.case.file.flow());
                            let arrival = arrival(sent, bytes.clone(), number);
                            What::Send(flow.to_owned(), Box::new(arrival))
                        }
                    };
                    self.deeds.push(Deed { at_ms, what });
                }
            }
        }
        self.deeds.sort_by_key(|deed| deed.at_ms);
        Ok(())
    }

    /// The messages of an entry of `send`.
    fn bytes(&self, nth: usize, sent: &Sent) -> Result<Vec<Bytes>, Failure> {
        let case = self.case.nth.to_string();
        let at = ["tests", &case, "send", &nth.to_string()].map(str::to_owned);
        let at: Vec<&str> = at.iter().map(String::as_str).collect();
        let changed = |bytes| {
            let changed = self.case.file.changed(&at, bytes);
            changed.map_err(Failure::config)
        };
        if let Some(text) = &sent.text {
            return Ok(vec![changed(Bytes::from(text.clone()))?]);
        }
        if let Some(path) = &sent.file {
            let bytes = self.case.file.fixture(path)?;
            if !path.ends_with(".jsonl") || sent.put.is_some() {
                return Ok(vec![changed(bytes)?]);
            }
            let lines = bytes
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty());
            return lines
                .map(|line| changed(Bytes::copy_from_slice(line)))
                .collect();
        }
        let body = [&at[..], &["body"]].concat();
        let body = Bytes::from(value::json_of(self.case.file.find(&body)));
        Ok(vec![changed(body)?])
    }

    /// One life of an engine.
    fn live(&mut self) -> Result<End, Failure> {
        let idle = Arc::new(Idle::default());
        let runtime = idle.runtime()?;
        let end = runtime.block_on(async {
            let world = self.world();
            let prepared = self.prepared(&world)?;
            let Prepared {
                project,
                feeds,
                own_source,
            } = prepared;
            let plans = project.plans.clone();
            let start = Start {
                project,
                root: self.root(),
                store: self.store(world.clone())?,
                world,
                listener: Listener::unheard(),
                loader: None,
                watch: None,
            };
            let store = start.store.clone();
            let power = self.power.clone();
            let engine = tokio::select! {
                biased;
                () = power.fails() => return Ok(End::Crash),
                engine = Engine::start(start) => engine?,
            };
            let driven = self.drive(&idle, &feeds, own_source, &store);
            let rest = tokio::select! {
                biased;
                () = power.fails() => false,
                rest = driven => rest?,
            };
            if !rest {
                return Ok(End::Crash);
            }
            let seen = outcome::Seen {
                plans: &plans,
                store: &store,
                outside: &self.outside,
                streams: &self.streams,
                files: &self.root(),
                start_ms: self.start_ms,
                commits: self.power.commits(),
            };
            let outcome = outcome::collect(seen).await?;
            drop(engine);
            Ok(End::Rest(Box::new(outcome)))
        });
        // All that is left of the engine goes with the runtime: nothing of it is heard of again.
        drop(runtime);
        end
    }

    /// Where relative paths of sources and sinks lead.
    fn root(&self) -> PathBuf {
        self.scratch.path().join("files")
    }

    fn world(&self) -> World {
        let mut env = BTreeMap::new();
        let test = self.case.test();
        for given in [&self.case.file.tests.env, &test.env] {
            env.extend(given.iter().flatten().map(|(a, b)| (a.clone(), b.clone())));
        }
        World {
            clock: self.clock.clone(),
            env: Arc::new(Behind {
                first: FixedEnvironment(env),
                then: self.setting.env.clone(),
            }),
            random: Arc::new(SeededRandom::new(1)),
            watch: Some(self.power.clone()),
            metrics: Metrics::default(),
        }
    }

    fn prepared(&self, world: &World) -> Result<Prepared, Failure> {
        let file = &self.case.file.tests;
        let test = self.case.test();
        let mut variant = Variant {
            files: Some(self.root()),
            tables: BTreeMap::new(),
            edit: self.setting.edit.as_deref().map(|edit| edit as _),
            schemas: Some(self.setting.library.schemas.clone()),
            clients: None,
            untyped: true,
        };
        for given in [&file.tables, &test.tables] {
            let tables = given.iter().flatten();
            variant
                .tables
                .extend(tables.map(|(name, text)| (name.clone(), text.clone())));
        }
        let loaded = flow::load_variant(&self.setting.root, world, &variant);
        let Some(project) = loaded.project else {
            let first = loaded.findings.sorted();
            let told = first.first().map_or(String::new(), |finding| {
                let (line, _) = finding.place.line_column();
                format!("{}:{line}: {}", finding.place.file.path, finding.message)
            });
            return Err(Failure::config(format!(
                "the project cannot be loaded: {told}"
            )));
        };
        let with: BTreeSet<String> = file
            .with
            .iter()
            .chain(&test.with)
            .flatten()
            .cloned()
            .collect();
        self.outside.starts();
        prepare(
            project,
            self.case.file.flow(),
            &with,
            &self.outside,
            &self.streams,
        )
    }

    fn store(&self, world: World) -> Result<Store, Failure> {
        disk::make_folder(&self.root())?;
        let options = Options {
            // Nothing is lost here but with the whole folder.
            sync: SyncFile::by(|_| Ok(())),
            // One commit a transaction: a crash between two of them is one that can happen.
            group_max: 1,
            cache_bytes: 1 << 20,
            ..Options::at(self.scratch.path().join("store.db"))
        };
        Store::open(options, world)
    }

    /// Sends what is to be sent, and moves the clock, until nothing more happens by itself. Gives whether it came to that.
    async fn drive(
        &mut self,
        idle: &Idle,
        feeds: &BTreeMap<String, tokio::sync::mpsc::Sender<super::feed::Offer>>,
        own_source: bool,
        store: &Store,
    ) -> Result<bool, Failure> {
        for _ in 0..MOVES_MAX {
            self.settle(idle).await;
            let passed_ms = self.clock.now_ms() - self.start_ms;
            if let Some(deed) = self.deeds.get(self.done)
                && deed.at_ms <= passed_ms
            {
                if !self.act(idle, feeds).await? {
                    self.advance(RESEND_MS);
                }
                continue;
            }
            let next = self.deeds.get(self.done).map(|deed| deed.at_ms);
            let last_ms = self.deeds.last().map_or(0, |deed| deed.at_ms);
            // An engine that was off begins its day when it is on again.
            let last_ms = last_ms.max(self.began_ms);
            let limit_ms = match (self.until_ms, own_source) {
                (Some(until_ms), _) => until_ms,
                (None, true) => last_ms + OWN_SOURCE_MS,
                (None, false) => last_ms + UNTIL_MS,
            };
            if passed_ms >= limit_ms && next.is_none() {
                return Ok(true);
            }
            let moving = self.moving(store, own_source).await?;
            let to_ms = match (moving, next) {
                (None, None) if self.until_ms.is_none() => return Ok(true),
                (None, None) => limit_ms,
                (Some(one), None) => one.min(limit_ms),
                (None, Some(one)) => one,
                (Some(one), Some(other)) => one.min(other),
            };
            self.advance((to_ms - passed_ms).max(1));
        }
        Err(Failure::internal(format!(
            "the clock was moved {MOVES_MAX} times and there is no rest; add `until`"
        )))
    }

    /// When something happens next by itself, after the beginning; `None` if nothing does.
    async fn moving(&self, store: &Store, own_source: bool) -> Result<Option<i64>, Failure> {
        let counts = store.hop_counts().await?;
        let ready: u64 = counts.iter().map(|count| count.ready).sum();
        let sleeps = || self.clock.next_ms().map(|at| at - self.start_ms);
        if own_source || ready > 0 || self.outside.busy() {
            return Ok(sleeps());
        }
        let due = store.next_due().await?;
        Ok(due.map(|at| at - self.start_ms))
    }

    fn advance(&self, ms: i64) {
        self.clock.advance(ms);
    }

    async fn settle(&self, idle: &Idle) {
        let life = || self.power.commits() + self.clock.sleeps() + self.outside.count();
        let busy = || async {
            let busy = self.power.busy();
            if busy {
                self.power.moved().await;
            }
            busy
        };
        idle.settle(life, busy).await;
    }

    /// Does what is next. Gives whether it was taken.
    async fn act(
        &mut self,
        idle: &Idle,
        feeds: &BTreeMap<String, tokio::sync::mpsc::Sender<super::feed::Offer>>,
    ) -> Result<bool, Failure> {
        match &self.deeds[self.done].what {
            What::Put(path, bytes) => {
                put(&self.root().join(path), bytes)?;
                self.done += 1;
                Ok(true)
            }
            What::Send(flow, arrival) => {
                let batch = Batch {
                    arrivals: vec![(**arrival).clone()],
                    progress: None,
                };
                let (verdicts, mut told) = oneshot::channel();
                let feed = feeds
                    .get(flow)
                    .ok_or_else(|| Failure::config(format!("the flow `{flow}` does not run")))?;
                if feed.send((batch, verdicts)).await.is_err() {
                    return Err(Failure::internal(format!(
                        "the source of `{flow}` has ended"
                    )));
                }
                // The commit of the accept must be over; what follows it may go on.
                loop {
                    match told.try_recv() {
                        Ok(Ok(_)) => {
                            self.done += 1;
                            return Ok(true);
                        }
                        Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => return Ok(false),
                        Err(oneshot::error::TryRecvError::Empty) => self.settle(idle).await,
                    }
                }
            }
        }
    }
}

/// Drops a file as people do: it is there whole, or not.
fn put(path: &Path, bytes: &Bytes) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        disk::make_folder(folder)?;
    }
    disk::write_atomic(path, bytes)
}

fn arrival(sent: &Sent, body: Bytes, number: usize) -> Arrival {
    let headers = sent.headers.iter().flatten();
    Arrival {
        body,
        headers: headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .collect(),
        // What was not acknowledged is sent again, as the same delivery.
        delivery: Some(
            sent.delivery
                .clone()
                .unwrap_or_else(|| format!("test-{number}")),
        ),
        identity: Some(match &sent.delivery {
            Some(delivery) => format!("test-{delivery}-{number}"),
            None => format!("test-{number}"),
        }),
        ..Arrival::default()
    }
}

fn millis(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX / 4)
}

/// The variables of a test, with others behind them.
struct Behind {
    first: FixedEnvironment,
    then: Arc<dyn Environment>,
}

impl Environment for Behind {
    fn get(&self, name: &str) -> Option<String> {
        self.first.get(name).or_else(|| self.then.get(name))
    }
}
