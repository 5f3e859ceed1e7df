//! Measure: a whole flow (generate, map, nowhere) with its store on PostgreSQL and its hops over RabbitMQ, beside the same flow on the
//! embedded defaults, and whose processes had the processors meanwhile. It has no goal: it says where the time goes.

use std::path::Path;
use std::time::{Duration, Instant};

use crossdock::demo::cluster::Cluster;
use crossdock::store::postgres::begin::Use;
use crossdock::store::reader::Place;
use crossdock::store::{Options, Store};

use crate::measure::Line;
use crate::throughput::{self, Running};

/// The servers of this machine.
const POSTGRES: &str = "postgres://postgres@127.0.0.1:5432/postgres";
const RABBITMQ: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
/// How many messages pass.
const MESSAGES: u64 = 20_000;
/// The clock runs from when this share of them is done: starting is another measure.
const BEFORE: f64 = 0.05;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What Linux counts a process's time in, on all that we build for.
const TICKS_A_SECOND: f64 = 100.0;

/// What passed, how fast, and who had the processors meanwhile.
struct Passed {
    per_second: f64,
    /// The part of all processors' time: the engine's, PostgreSQL's, RabbitMQ's.
    shares: [f64; 3],
    messages_a_commit: f64,
}

/// Measures, if both servers are there; without them only who asks for it by name is told.
pub fn run(lines: &mut Vec<Line>) {
    let there = [POSTGRES, RABBITMQ].map(|url| std::net::TcpStream::connect(host(url)).is_ok());
    if there.contains(&false) {
        let named = std::env::args().any(|argument| argument == "cluster");
        assert!(
            !named,
            "no PostgreSQL on 5432 or no RabbitMQ on 5672; `make services` starts both"
        );
        return;
    }
    let runtime = throughput::runtime();
    let folder = tempfile::tempdir().expect("a folder");
    throughput::write_generating_flow(folder.path(), MESSAGES);
    let alone = runtime.block_on(async { pass(throughput::start(folder.path()).await).await });
    let folder = tempfile::tempdir().expect("a folder");
    let shared = runtime.block_on(on_servers(folder.path()));
    let [engine, postgres, rabbitmq] = shared.shares.map(|share| share * 100.0);
    let line = Line::told(
        "flow-rabbitmq-postgres",
        shared.per_second,
        "messages/s",
        shared.per_second / alone.per_second,
    );
    lines.push(line.with(format!(
        "{MESSAGES} messages, {:.0} to a commit; the processors' time: engine {engine:.0} %, PostgreSQL {postgres:.0} %, RabbitMQ {rabbitmq:.0} %, \
         idle or waiting for the disk {:.0} %; the same flow on the embedded store: {:.0}/s, {:.0} to a commit, engine {:.0} %",
        shared.messages_a_commit,
        100.0 - engine - postgres - rabbitmq,
        alone.per_second,
        alone.messages_a_commit,
        alone.shares[0] * 100.0,
    )));
}

/// The host and port of a URL.
fn host(url: &str) -> &str {
    let after = url.split('@').next_back().unwrap_or(url);
    after.split('/').next().unwrap_or(after)
}

async fn on_servers(folder: &Path) -> Passed {
    let name = format!("bench{}", std::process::id());
    throughput::write_generating_flow(folder, MESSAGES);
    throughput::write(
        folder,
        "crossdock.yaml",
        &format!(
            "store:\n  postgres: {{ url: \"{POSTGRES}\", schema: {name} }}\nhandoff:\n  rabbitmq: {{ urls: [\"{RABBITMQ}\"], name: {name} }}\n"
        ),
    );
    let running = throughput::start_on(folder, |project, world| {
        let server = project
            .settings
            .store
            .postgres
            .as_ref()
            .expect("written above");
        let server = server.server().expect("a server");
        let options = Options {
            sharing: Use::Shared,
            ..Options::of(Place::Server(Box::new(server)))
        };
        Store::open(options, world.clone()).expect("a store")
    });
    let passed = pass(running.await).await;
    let cluster = Cluster {
        postgres: Some(POSTGRES.to_owned()),
        rabbitmq: Some(RABBITMQ.to_owned()),
        name,
    };
    let program = Path::new(env!("CARGO_BIN_EXE_crossdock"));
    let removed = cluster.remove(program, folder, Vec::new()).await;
    removed.expect("nothing of this run stays on the servers");
    passed
}

/// Looks on while the messages pass, and stops the engine.
async fn pass(running: Running) -> Passed {
    let store = &running.store;
    let done = async || {
        let books = store.books().await.expect("books");
        books.iter().map(|flow| flow.counts.delivered).sum::<i64>() as f64
    };
    let least = MESSAGES as f64 * BEFORE;
    let mut first = done().await;
    while first < least {
        tokio::time::sleep(LOOK_EVERY).await;
        first = done().await;
    }
    let (began, before, commits) = (Instant::now(), busy(), store.transactions());
    while done().await < MESSAGES as f64 {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let (took, after) = (began.elapsed().as_secs_f64(), busy());
    let commits = (store.transactions() - commits) as f64;
    running.engine.finished().await;
    running.engine.stop(Duration::from_secs(20)).await;
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    Passed {
        per_second: (MESSAGES as f64 - first) / took,
        shares: std::array::from_fn(|nth| (after[nth] - before[nth]) / took / processors),
        messages_a_commit: (MESSAGES as f64 - first) / commits,
    }
}

/// The seconds that this process, PostgreSQL's and RabbitMQ's have had of the processors.
fn busy() -> [f64; 3] {
    let mut busy = [
        seconds(Path::new("/proc/self")).map_or(0.0, |(_, time)| time),
        0.0,
        0.0,
    ];
    for entry in std::fs::read_dir("/proc").expect("Linux").flatten() {
        match seconds(&entry.path()) {
            Some((name, time)) if name == "postgres" => busy[1] += time,
            Some((name, time)) if name == "beam.smp" => busy[2] += time,
            _ => {}
        }
    }
    busy
}

/// The name of a process, and the seconds that it has had.
fn seconds(process: &Path) -> Option<(String, f64)> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let mut ticks = rest
        .split_whitespace()
        .skip(11)
        .map_while(|field| field.parse::<f64>().ok());
    let (user, system) = (ticks.next()?, ticks.next()?);
    Some((name.to_owned(), (user + system) / TICKS_A_SECOND))
}
