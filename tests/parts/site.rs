//! A store with a hand-off over it, embedded or over a broker, and what is done with it. It holds nobody to anything.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use crossdock::failure::Failure;
use crossdock::handoff::embedded::{Embedded, Limits};
use crossdock::handoff::rabbitmq::topology::{Stage, Topology};
use crossdock::handoff::rabbitmq::{self, Rabbit};
use crossdock::handoff::{Handoff, Hop, Station};
use crossdock::message::{MessageId, Names};
use crossdock::store::commit::{Commit, End, First, HopId, Leaf, NewHop, NewRun, Turn};
use crossdock::store::postgres::begin::Use;
use crossdock::store::{Options, Store};
use crossdock::world::World;
use lapin::options::QueueDeleteOptions;

/// The broker of this machine; `make services` starts it.
pub const SERVER: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
/// How long a test waits for what must come: a loss is found out after twenty seconds.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// How long nothing must come.
pub const QUIET: Duration = Duration::from_millis(300);

#[derive(Clone)]
pub enum Backend {
    Embedded,
    /// Over a broker at this URL.
    Rabbit(String),
}

/// A store with a hand-off over it, and the names of its own on the broker.
pub struct Site {
    pub backend: Backend,
    pub name: String,
    pub world: World,
    pub store: Store,
    pub handoff: Handoff,
    _folder: tempfile::TempDir,
    path: PathBuf,
    /// Whether the queues are deleted in the end.
    tidy: bool,
}

pub fn store(path: &std::path::Path, backend: &Backend, world: &World) -> Store {
    let options = Options {
        sharing: match backend {
            Backend::Embedded => Use::Alone,
            Backend::Rabbit(_) => Use::Shared,
        },
        ..Options::at(path)
    };
    Store::open(options, world.clone()).unwrap()
}

pub fn topology(name: &str) -> Topology {
    let stage = |step: &str| Stage {
        flow: Arc::from("orders"),
        step: Arc::from(step),
        also: Vec::new(),
        prefetch: 50,
        single: step == "@accept",
    };
    Topology::new(name, vec![stage("erp"), stage("@accept")])
}

pub async fn handoff(
    store: &Store,
    backend: &Backend,
    name: &str,
    world: &World,
) -> Result<Handoff, Failure> {
    let local = Embedded::new(store.clone(), Limits::default());
    let handoff = match backend {
        Backend::Embedded => Handoff::from(local),
        Backend::Rabbit(url) => {
            let options = rabbitmq::Options {
                place: rabbitmq::place(std::slice::from_ref(url), None, None).unwrap(),
                topology: topology(name),
                body_max: 4096,
                patience: Duration::from_secs(3),
            };
            let rabbit = Rabbit::start(store.clone(), local.clone(), world.clone(), options);
            Handoff::over(local, rabbit.await?)
        }
    };
    handoff.recover().await?;
    Ok(handoff)
}

impl Site {
    pub async fn new(backend: &Backend) -> Site {
        Site::within(backend, World::real()).await
    }

    pub async fn within(backend: &Backend, world: World) -> Site {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("crossdock-test-{}-{nth}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let store = store(&path, backend, &world);
        let handoff = handoff(&store, backend, &name, &world).await.unwrap();
        Site {
            backend: backend.clone(),
            name,
            world,
            store,
            handoff,
            _folder: folder,
            path,
            tidy: matches!(backend, Backend::Rabbit(url) if url == SERVER),
        }
    }

    /// Accepts so many messages; gives their first hops. Announces nothing.
    pub async fn accept(&self, bodies: Vec<String>) -> Vec<Hop> {
        let runs: Vec<NewRun> = bodies.into_iter().map(|body| self.run(body)).collect();
        let commit = Commit {
            accepts: runs.clone(),
            ..Commit::default()
        };
        self.store.commit(commit).await.unwrap();
        let hops: Vec<HopId> = runs.iter().map(hop_of).collect();
        let (stored, _) = self.store.ready_hops(hops, usize::MAX).await.unwrap();
        let hops = stored
            .into_iter()
            .map(|stored| Hop::from_store(stored).unwrap());
        hops.collect()
    }

    pub fn run(&self, body: String) -> NewRun {
        let run = self.store.next_run();
        let message = MessageId::from_parts(1, run.0 as u128);
        NewRun {
            run,
            message,
            root: message,
            flow: Arc::from("orders"),
            revision: Arc::from("r1"),
            received_at_ms: 1_000,
            body: Bytes::from(body),
            envelope: Bytes::new(),
            keys: Arc::new(Names::from([(Arc::from("order"), format!("SO-{}", run.0))])),
            claims: Vec::new(),
            chains: Vec::new(),
            version: None,
            first: First::Hop(NewHop {
                hop: self.store.next_hop(),
                run,
                flow: Arc::from("orders"),
                step: Arc::from("erp"),
                message,
                body: None,
                envelope: None,
            }),
        }
    }

    pub async fn announced(&self, many: usize) -> Vec<Hop> {
        let hops = self
            .accept((0..many).map(|n| format!("body {n}")).collect())
            .await;
        for hop in &hops {
            self.handoff.announce(hop.clone());
        }
        hops
    }

    pub async fn take(&self, max: usize) -> Vec<Hop> {
        patiently(self.handoff.take(ERP, max)).await
    }

    /// Takes until there are so many.
    pub async fn take_all(&self, many: usize) -> Vec<Hop> {
        let mut taken = Vec::new();
        while taken.len() < many {
            taken.extend(self.take(many - taken.len()).await);
        }
        taken
    }

    pub async fn nothing_more(&self) {
        let take = self.handoff.take(ERP, 9);
        let more = tokio::time::timeout(QUIET, take).await;
        assert!(more.is_err(), "{more:?}");
    }

    /// Ends these hops; gives for each whether it was there.
    pub async fn end(&self, hops: &[Hop]) -> Vec<bool> {
        let commit = Commit {
            ends: hops.iter().map(|hop| end_of(hop, over())).collect(),
            ..Commit::default()
        };
        let ended = self.store.commit(commit).await.unwrap().ends;
        for hop in hops {
            self.handoff.ended(hop.hop);
        }
        ended
    }

    /// Takes and ends, 50 at once, until so many were there, those before it counted. Gives how many there were.
    pub async fn end_more(&self, mut seen: usize, until: usize) -> usize {
        while seen < until {
            let taken = self.take(50).await;
            let ended = self.end(&taken).await;
            seen += ended.iter().filter(|there| **there).count();
        }
        seen
    }

    pub async fn delivered(&self) -> i64 {
        let books = self.store.books().await.unwrap();
        books.iter().map(|book| book.counts.delivered).sum()
    }

    /// The engine ends without a word, and a new one starts.
    pub async fn restart(&mut self, clean: bool) {
        if clean {
            self.handoff.close().await;
        }
        self.store.shutdown().await;
        let gone = Store::open(Options::at(self.path.with_extension("none")), World::real());
        let gone = gone.unwrap();
        self.handoff = Handoff::from(Embedded::new(gone.clone(), Limits::default()));
        self.store = gone;
        self.store = store(&self.path, &self.backend, &self.world);
        self.handoff = handoff(&self.store, &self.backend, &self.name, &self.world)
            .await
            .unwrap();
    }

    pub fn queue(&self, birth: &str) -> String {
        format!("{}.orders.erp{birth}", self.name)
    }

    pub async fn finish(self) {
        self.handoff.close().await;
        self.store.shutdown().await;
        let Backend::Rabbit(url) = &self.backend else {
            return;
        };
        if !self.tidy {
            return;
        }
        let channel = channel(url).await;
        let accept = format!("{}.orders.@accept", self.name);
        let unroutable = format!("{}.unroutable", self.name);
        for queue in [self.queue(""), self.queue("~2"), accept, unroutable.clone()] {
            let deleting =
                channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default());
            deleting.await.unwrap();
        }
        for exchange in [format!("{}.x", self.name), unroutable] {
            let deleting = channel.exchange_delete(exchange.as_str().into(), Default::default());
            deleting.await.unwrap();
        }
    }
}

pub async fn channel(url: &str) -> lapin::Channel {
    let connecting = lapin::Connection::connect(url, lapin::ConnectionProperties::default());
    let connection = connecting
        .await
        .expect("the broker is there; `make services` starts it");
    connection.create_channel().await.unwrap()
}

pub fn hop_of(run: &NewRun) -> HopId {
    match &run.first {
        First::Hop(hop) => hop.hop,
        First::Exception(_) => unreachable!("it begins with a hop"),
    }
}

pub fn over() -> Turn {
    Turn::Over {
        next: Vec::new(),
        doors: Vec::new(),
        leaves: vec![Leaf::Delivered],
    }
}

pub fn end_of(hop: &Hop, turn: Turn) -> End {
    End {
        hop: hop.hop,
        fence: hop.fence,
        run: hop.run,
        flow: hop.flow.clone(),
        step: hop.step.clone(),
        revision: None,
        turn,
        effect: None,
        saga: None,
        trail: Vec::new(),
        accepts: Vec::new(),
    }
}

/// Where the hops of the site stand.
pub const ERP: Station<'_> = Station {
    flow: "orders",
    revision: "r1",
    step: "erp",
};

pub async fn patiently<T>(what: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, what).await;
    waited.expect("it came in time")
}

pub fn bodies(hops: &[Hop]) -> BTreeSet<String> {
    hops.iter()
        .map(|hop| String::from_utf8(hop.message.body.bytes().to_vec()).unwrap())
        .collect()
}
