//! What the tests of waiting share: a project in YAML, a clock that the test moves, sources that it feeds, engines that stop or die.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossdock::component::{Arrival, Batch, Verdict};
use crossdock::flow;
use crossdock::net::listener::Listener;
use crossdock::run::supervisor::{Engine, Start};
use crossdock::store::books::Counts;
use crossdock::store::exceptions::{ExceptionFilter, ExceptionRow};
use crossdock::store::runs::RunDetail;
use crossdock::store::{Options, Store};
use crossdock::world::World;
use crossdock::world::clock::StillClock;
use tokio::sync::{mpsc, oneshot};

use crate::support::feed::{self, Offer};

/// The time at which every test begins.
pub const START_MS: i64 = 1_790_000_000_000;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A project in a folder, its store, and a clock.
pub struct Bench {
    folder: tempfile::TempDir,
    pub clock: Arc<StillClock>,
}

impl Bench {
    /// So much time goes by.
    pub fn later(&self, duration: Duration) {
        let ms = i64::try_from(duration.as_millis()).unwrap();
        self.clock.advance(ms);
    }

    /// A project of these flows; each begins with `source: { flow: {} }`, which the test feeds.
    pub fn new(flows: &[&str]) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("flows")).unwrap();
        let bench = Bench {
            folder,
            clock: Arc::new(StillClock::at(START_MS)),
        };
        for (number, flow) in flows.iter().enumerate() {
            let path = format!("flows/f{number}.yaml");
            std::fs::write(bench.folder.path().join(path), flow).unwrap();
        }
        bench
    }

    fn store_path(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }

    /// The lines of a file that a sink has written, each as it stands there.
    pub fn lines(&self, file: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until the file has so many lines; gives them.
    pub async fn wait_for_lines(&self, file: &str, many: usize) -> Vec<String> {
        let began = Instant::now();
        loop {
            let lines = self.lines(file);
            if lines.len() >= many {
                assert_eq!(lines.len(), many, "{lines:?}");
                return lines;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{many} lines, there are {lines:?}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Starts an engine on the project and its store.
    pub async fn start(&self) -> Running {
        let world = World {
            clock: self.clock.clone(),
            ..World::real()
        };
        let loaded = flow::load(self.folder.path(), &world);
        let Some(mut project) = loaded.project else {
            panic!("{:?}", loaded.findings);
        };
        let mut feeds = BTreeMap::new();
        for (name, plan) in &mut project.plans {
            let (offers, feed) = mpsc::channel(64);
            let plan = Arc::get_mut(plan).expect("nobody else has the plan yet");
            plan.source = feed::feed(feed);
            feeds.insert(name.to_string(), offers);
        }
        let store = Store::open(Options::at(self.store_path()), world.clone()).unwrap();
        let start = Start {
            project,
            root: self.folder.path().to_owned(),
            world,
            store: store.clone(),
            listener: Listener::bind("127.0.0.1:0").await.unwrap(),
            loader: None,
            watch: None,
        };
        let engine = Engine::start(start).await.unwrap();
        Running {
            recovered: engine.recovered().hops,
            engine: Mutex::new(Some(engine)),
            store,
            feeds,
        }
    }
}

/// A running engine.
pub struct Running {
    engine: Mutex<Option<Engine>>,
    pub store: Store,
    /// How many hops were found at its start.
    pub recovered: u64,
    feeds: BTreeMap<String, mpsc::Sender<Offer>>,
}

impl Running {
    /// Hands messages to a flow, in one batch; they are durable when this ends.
    pub async fn offer(&self, flow: &str, bodies: &[&str]) -> Vec<Verdict> {
        let arrivals = bodies.iter().map(|body| Arrival {
            body: Bytes::copy_from_slice(body.as_bytes()),
            ..Arrival::default()
        });
        let batch = Batch {
            arrivals: arrivals.collect(),
            progress: None,
        };
        let (verdicts, answer) = oneshot::channel();
        self.feeds[flow].send((batch, verdicts)).await.unwrap();
        answer.await.unwrap().unwrap()
    }

    /// The books of a flow, which balance and equal their recount.
    pub async fn books(&self, flow: &str) -> Counts {
        let began = Instant::now();
        let mut books = self.store.books().await.unwrap();
        // Something may happen between the two looks.
        while books != self.store.recount().await.unwrap() {
            assert!(began.elapsed() < PATIENCE, "{books:?} is not the recount");
            books = self.store.books().await.unwrap();
        }
        for one in &books {
            assert!(one.counts.balanced(), "{one:?}");
        }
        let of_flow = books.iter().find(|books| &*books.flow == flow);
        of_flow.map(|books| books.counts).unwrap_or_default()
    }

    /// Waits until the books of a flow look as they should; gives them.
    pub async fn wait_for(&self, flow: &str, holds: impl Fn(&Counts) -> bool) -> Counts {
        let began = Instant::now();
        loop {
            let counts = self.books(flow).await;
            if holds(&counts) {
                return counts;
            }
            assert!(began.elapsed() < PATIENCE, "{flow}: {counts:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until so many hops wait in the store for a time.
    pub async fn waiting(&self, many: u64) {
        let began = Instant::now();
        loop {
            let counts = self.store.hop_counts().await.unwrap();
            let waiting: u64 = counts.iter().map(|count| count.waiting).sum();
            if waiting == many {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{many} wait: {counts:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until so many hops stand in the store, none of them ready.
    pub async fn standing(&self, many: u64) {
        let began = Instant::now();
        loop {
            let counts = self.store.hop_counts().await.unwrap();
            let ready: u64 = counts.iter().map(|count| count.ready).sum();
            let rest: u64 = counts.iter().map(|count| count.waiting + count.held).sum();
            if (ready, rest) == (0, many) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{many} stand: {counts:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until no hop is ready: all that is left waits for something.
    pub async fn quiet(&self) {
        let began = Instant::now();
        loop {
            let counts = self.store.hop_counts().await.unwrap();
            if counts.iter().all(|count| count.ready == 0) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{counts:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn exceptions(&self) -> Vec<ExceptionRow> {
        let filter = ExceptionFilter {
            limit: 1_000,
            ..ExceptionFilter::default()
        };
        self.store.exceptions(filter).await.unwrap()
    }

    /// A run with its timeline.
    pub async fn run(&self, run: i64) -> RunDetail {
        self.store.run(&run.to_string()).await.unwrap().unwrap()
    }

    /// The timeline of a run: step, what and detail of each line.
    pub async fn trail(&self, run: i64) -> Vec<(String, String, String)> {
        let trail = self.run(run).await.trail.into_iter();
        let lines = trail.map(|line| (line.step, line.what, line.detail.unwrap_or_default()));
        lines.collect()
    }

    /// Stops as an operator stops it.
    pub async fn stop(self) {
        let engine = self.engine.lock().unwrap().take().unwrap();
        let stopped = tokio::time::timeout(PATIENCE, engine.stop(Duration::from_secs(10)));
        assert!(stopped.await.expect("the engine stops"), "a clean stop");
    }

    /// Dies: nothing of it is stored any more from this moment on, whatever was under way.
    pub async fn die(self) {
        self.store.shutdown().await;
        std::mem::forget(self.engine.lock().unwrap().take());
    }
}

/// Runs a part of a test in a runtime of its own, which is torn down afterwards with all that is left in it: what an engine that dies needs.
pub async fn doomed<T: Send + 'static>(part: impl Future<Output = T> + Send + 'static) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let done = runtime.spawn(part).await.unwrap();
    runtime.shutdown_background();
    done
}
