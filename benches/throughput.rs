//! Measures (b) and (c): durable throughput of the engine against a bare SQLite loop that commits the same rows, and accept latency at half
//! of the top rate against one fsync. Everything is real: listener, store, hand-off, ledger, journey rows.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crossdock::flow;
use crossdock::flow::plan::Project;
use crossdock::net::listener::Listener;
use crossdock::run::supervisor::{self, Engine, Start};
use crossdock::store::{Options, Store};
use crossdock::world::World;

use crate::mapping;
use crate::measure::Line;

/// What one run of the engine gave.
pub struct Rate {
    pub per_second: f64,
    pub messages: u64,
    pub fsyncs: u64,
}

/// An engine that runs in this process.
pub struct Running {
    pub engine: Engine,
    pub store: Store,
    address: SocketAddr,
}

/// How many senders post at the same time, each waiting for its answer: a batch forms of those that wait.
const SENDERS: usize = 384;

/// generate -> map -> discard.
pub fn generate(runtime: &tokio::runtime::Runtime, folder: &Path, messages: u64) -> Rate {
    write_generating_flow(folder, messages);
    runtime.block_on(async {
        let began = Instant::now();
        let running = start(folder).await;
        running.engine.finished().await;
        let took = began.elapsed();
        let fsyncs = running.store.fsyncs();
        check_books(&running.store, messages).await;
        running.engine.stop(Duration::from_secs(20)).await;
        Rate {
            per_second: messages as f64 / took.as_secs_f64(),
            messages,
            fsyncs,
        }
    })
}

/// Webhook -> discard, as fast as the connections go.
pub fn webhook(runtime: &tokio::runtime::Runtime, folder: &Path, messages: u64) -> Rate {
    write_webhook_flow(folder);
    let running = runtime.block_on(start(folder));
    let began = Instant::now();
    let each = messages as usize / SENDERS;
    std::thread::scope(|scope| {
        scope.spawn(|| post_from_many(running.address, each));
    });
    runtime.block_on(async {
        running.engine.at_rest().await;
        let took = began.elapsed();
        let fsyncs = running.store.fsyncs();
        let messages = (each * SENDERS) as u64;
        check_books(&running.store, messages).await;
        running.engine.stop(Duration::from_secs(20)).await;
        Rate {
            per_second: messages as f64 / took.as_secs_f64(),
            messages,
            fsyncs,
        }
    })
}

/// What a run at a steady rate gave, each list sorted.
pub struct Steady {
    /// From sending a post to its answer.
    pub latencies: Vec<Duration>,
    /// How late posts were sent: a thread that sleeps wakes up late. Not part of the latency.
    pub late: Vec<Duration>,
    pub transactions: u64,
    pub fsyncs: u64,
}

/// Single posts at a steady rate a second, whatever becomes of those before: one thread sends, one receives, and each post takes a
/// connection that is free.
pub fn steady(runtime: &tokio::runtime::Runtime, folder: &Path, rate: f64, seconds: f64) -> Steady {
    write_webhook_flow(folder);
    let running = runtime.block_on(start(folder));
    let (transactions, fsyncs) = (running.store.transactions(), running.store.fsyncs());
    let (latencies, late) = post_steadily(running.address, rate, seconds);
    let transactions = running.store.transactions() - transactions;
    let fsyncs = running.store.fsyncs() - fsyncs;
    runtime.block_on(async {
        running.engine.at_rest().await;
        check_books(&running.store, latencies.len() as u64).await;
        running.engine.stop(Duration::from_secs(20)).await;
    });
    Steady {
        latencies,
        late,
        transactions,
        fsyncs,
    }
}

/// One append of 4 KiB and its fsync, on the same disk; sorted.
pub fn fsyncs(folder: &Path, times: usize) -> Vec<Duration> {
    let mut file = std::fs::File::create(folder.join("fsync")).expect("a file");
    let block = vec![7; 4096];
    let mut all: Vec<Duration> = (0..times)
        .map(|_| {
            let began = Instant::now();
            file.write_all(&block).expect("written");
            file.sync_data().expect("synced");
            began.elapsed()
        })
        .collect();
    all.sort();
    all
}

/// Prints (b) and (c).
pub fn run(lines: &mut Vec<Line>) {
    let runtime = runtime();
    let messages = 60_000;
    let mut bare = crate::durability::bare_loop(messages);
    for (name, measure) in [
        (
            "generate-map-discard",
            generate as fn(&_, &Path, u64) -> Rate,
        ),
        ("webhook-discard", webhook),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let rate = measure(&runtime, folder.path(), messages);
        let again = crate::durability::bare_loop(messages);
        let bare_rate = (bare.per_second + again.per_second) / 2.0;
        lines.push(
            Line::at_least(
                name,
                rate.per_second,
                "messages/s",
                rate.per_second / bare_rate,
                0.5,
            )
            .with(format!(
                "{} messages, fsyncs {} against {} of the bare loop at {:.0}/s",
                rate.messages, rate.fsyncs, again.fsyncs, bare_rate
            )),
        );
        bare = again;
        if name == "webhook-discard" {
            latency(lines, &runtime, rate.per_second / 2.0);
        }
    }
}

/// A runtime as the program has it.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(supervisor::threads())
        .enable_all()
        .build()
        .expect("a runtime")
}

fn latency(lines: &mut Vec<Line>, runtime: &tokio::runtime::Runtime, rate: f64) {
    let folder = tempfile::tempdir().expect("a folder");
    let before = fsyncs(folder.path(), 500);
    let steady = steady(runtime, folder.path(), rate, 5.0);
    let bare = crate::floor::listen(runtime, folder.path(), request().len());
    let (floor, _) = post_steadily(bare, rate, 5.0);
    let after = fsyncs(folder.path(), 500);
    let sync = (before[250] + after[250]) / 2;
    let us = |all: &[Duration], share: f64| {
        all[((all.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6
    };
    let p50 = us(&steady.latencies, 0.5);
    lines.push(
        Line::at_most(
            "accept-latency-p50",
            p50,
            "us",
            p50 / (sync.as_secs_f64() * 1e6),
            2.0,
        )
        .with(format!(
            "{} posts at {rate:.0}/s, p10 {:.0} us, p90 {:.0} us, p99 {:.0} us, one fsync {:.0} us; appended to a file, synced and no more: p10 {:.0} us, p50 {:.0} us, p99 {:.0} us; sent late by p50 {:.0} us, p99 {:.0} us; {} transactions, {} fsyncs",
            steady.latencies.len(),
            us(&steady.latencies, 0.1),
            us(&steady.latencies, 0.9),
            us(&steady.latencies, 0.99),
            sync.as_secs_f64() * 1e6,
            us(&floor, 0.1),
            us(&floor, 0.5),
            us(&floor, 0.99),
            us(&steady.late, 0.5),
            us(&steady.late, 0.99),
            steady.transactions,
            steady.fsyncs,
        )),
    );
}

/// Starts the project in a folder on a store in a file there.
pub async fn start(folder: &Path) -> Running {
    start_on(folder, |_, world| {
        let options = Options::at(folder.join(".crossdock/store.db"));
        Store::open(options, world.clone()).expect("a store")
    })
    .await
}

/// Starts the project in a folder on a store.
pub async fn start_on(folder: &Path, open: impl FnOnce(&Project, &World) -> Store) -> Running {
    let world = World::real();
    let loaded = flow::load(folder, &world);
    let project = loaded.project.unwrap_or_else(|| {
        panic!(
            "the project of the bench has mistakes: {:?}",
            loaded.findings
        )
    });
    let store = open(&project, &world);
    let listener = Listener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr();
    let start = Start {
        project,
        root: folder.to_owned(),
        world,
        store: store.clone(),
        listener,
        loader: None,
        watch: None,
    };
    Running {
        engine: Engine::start(start).await.expect("an engine"),
        store,
        address,
    }
}

async fn check_books(store: &Store, messages: u64) {
    let books = store.books().await.expect("books");
    let delivered: i64 = books.iter().map(|flow| flow.counts.delivered).sum();
    assert_eq!(
        delivered as u64, messages,
        "the bench counts what the books count"
    );
}

/// generate -> map -> discard, so many times.
pub fn write_generating_flow(folder: &Path, messages: u64) {
    write(
        folder,
        "flows/made.yaml",
        &format!(
            "flow: made\nsource:\n  generate:\n    count: {messages}\n    body: {}\nsteps:\n  - map: bench\nsinks:\n  nowhere: {{ discard: {{}} }}\n",
            mapping::ORDER.replace('\n', " ")
        ),
    );
    write(folder, "mappings/bench.yaml", &mapping::file());
}

fn write_webhook_flow(folder: &Path) {
    write(
        folder,
        "flows/hooks.yaml",
        "flow: hooks\nsource: { webhook: { path: /hooks, verify: none } }\nsinks:\n  nowhere: { discard: {} }\n",
    );
}

/// Writes a file of a project.
pub fn write(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, text).expect("written");
}

fn request() -> Vec<u8> {
    let body = mapping::ORDER.as_bytes();
    let mut request = format!(
        "POST /hooks HTTP/1.1\r\nhost: bench\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// Many senders on one thread, each with one request under way.
fn post_from_many(address: SocketAddr, each: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let request = bytes::Bytes::from(request());
    runtime.block_on(async {
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| tokio::spawn(post_in_turn(address, request.clone(), each)))
            .collect();
        for sender in senders {
            sender.await.expect("a sender");
        }
    });
}

async fn post_in_turn(address: SocketAddr, request: bytes::Bytes, count: usize) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("connected");
    stream.set_nodelay(true).expect("set");
    let mut buffer = vec![0; 4096];
    for nth in 0..count {
        stream.write_all(&request).await.expect("sent");
        let read = stream.read(&mut buffer).await.expect("answered");
        assert!(
            buffer[..read].starts_with(b"HTTP/1.1 2"),
            "post {nth}: {}",
            String::from_utf8_lossy(&buffer[..read])
        );
    }
}

/// How many connections the steady client has; if none is free, a post waits for one and counts as late.
const CONNECTIONS: usize = 256;

/// Posts on the beat. Gives latencies, and how late posts were sent.
fn post_steadily(address: SocketAddr, rate: f64, seconds: f64) -> (Vec<Duration>, Vec<Duration>) {
    let (free, frees) = mpsc::channel();
    let sent: Arc<Vec<AtomicU64>> = Arc::new((0..CONNECTIONS).map(|_| AtomicU64::new(0)).collect());
    let mut writers = Vec::new();
    let mut readers = Vec::new();
    for nth in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_nodelay(true).expect("set");
        readers.push(stream.try_clone().expect("cloned"));
        stream.set_nonblocking(true).expect("set");
        writers.push(stream);
        free.send(nth).expect("open");
    }
    let began = Instant::now();
    let receiving = {
        let sent = sent.clone();
        std::thread::spawn(move || receive_all(readers, began, &sent, &free))
    };
    let request = request();
    let gap = Duration::from_secs_f64(1.0 / rate);
    let mut late = Vec::new();
    let mut due = Duration::ZERO;
    while due.as_secs_f64() < seconds {
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        let nth = frees.recv().expect("a connection");
        let now = began.elapsed();
        late.push(now.saturating_sub(due));
        sent[nth].store(now.as_nanos() as u64, Ordering::Release);
        let written = writers[nth].write(&request).expect("sent");
        assert_eq!(written, request.len(), "a post fits into a socket");
        due += gap;
    }
    // All are answered once all connections are free again; then the receiver sees them closed.
    for _ in 0..CONNECTIONS {
        frees.recv().expect("a connection");
    }
    for writer in &writers {
        writer.shutdown(Shutdown::Both).expect("closed");
    }
    let mut latencies = receiving.join().expect("a receiver");
    latencies.sort();
    late.sort();
    (latencies, late)
}

/// Reads the answers of all connections on one thread, until they are closed.
fn receive_all(
    readers: Vec<TcpStream>,
    began: Instant,
    sent: &Arc<Vec<AtomicU64>>,
    free: &mpsc::Sender<usize>,
) -> Vec<Duration> {
    use tokio::io::AsyncReadExt;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut receiving = tokio::task::JoinSet::new();
        for (nth, stream) in readers.into_iter().enumerate() {
            stream.set_nonblocking(true).expect("set");
            let mut stream = tokio::net::TcpStream::from_std(stream).expect("a stream");
            let (sent, free) = (sent.clone(), free.clone());
            receiving.spawn(async move {
                let mut buffer = vec![0; 4 << 10];
                let mut latencies = Vec::new();
                loop {
                    let read = stream.read(&mut buffer).await.expect("answered");
                    let now = began.elapsed();
                    if read == 0 {
                        return latencies;
                    }
                    assert!(
                        buffer[..read].starts_with(b"HTTP/1.1 2"),
                        "{}",
                        String::from_utf8_lossy(&buffer[..read])
                    );
                    let sent = Duration::from_nanos(sent[nth].load(Ordering::Acquire));
                    latencies.push(now.saturating_sub(sent));
                    free.send(nth).expect("open");
                }
            });
        }
        receiving.join_all().await.concat()
    })
}
