//! Measures (b) and (c): durable throughput of the engine against a bare SQLite loop that commits the same rows, and accept latency at half
//! of the top rate against one fsync. Everything is real: listener, store, hand-off, ledger, journey rows.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crossdock::flow;
use crossdock::net::listener::Listener;
use crossdock::run::supervisor::{Engine, Start};
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

struct Running {
    engine: Engine,
    store: Store,
    address: SocketAddr,
}

/// How many senders post at the same time, each waiting for its answer: a batch forms of those that wait.
const SENDERS: usize = 384;

/// generate -> map -> discard.
pub fn generate(runtime: &tokio::runtime::Runtime, folder: &Path, messages: u64) -> Rate {
    write(
        folder,
        "flows/made.yaml",
        &format!(
            "flow: made\nsource:\n  generate:\n    count: {messages}\n    body: {}\nsteps:\n  - map: bench\nsinks:\n  nowhere: {{ discard: {{}} }}\n",
            mapping::ORDER.replace('\n', " ")
        ),
    );
    write(folder, "mappings/bench.yaml", &mapping::file());
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

/// Latencies of single posts, at a steady rate a second, spread over connections; sorted.
pub fn latencies(
    runtime: &tokio::runtime::Runtime,
    folder: &Path,
    rate: f64,
    seconds: f64,
) -> Vec<Duration> {
    write_webhook_flow(folder);
    let running = runtime.block_on(start(folder));
    let connections = 32;
    let gap = Duration::from_secs_f64(connections as f64 / rate);
    let mut all: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|nth| {
                let address = running.address;
                scope.spawn(move || {
                    post_steadily(
                        address,
                        gap,
                        gap.mul_f64(f64::from(nth) / f64::from(connections)),
                        seconds,
                    )
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("a client"))
            .collect()
    });
    runtime.block_on(async {
        running.engine.at_rest().await;
        running.engine.stop(Duration::from_secs(20)).await;
    });
    all.sort();
    all
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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
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

fn latency(lines: &mut Vec<Line>, runtime: &tokio::runtime::Runtime, rate: f64) {
    let folder = tempfile::tempdir().expect("a folder");
    let before = fsyncs(folder.path(), 500);
    let all = latencies(runtime, folder.path(), rate, 5.0);
    let after = fsyncs(folder.path(), 500);
    let sync = (before[250] + after[250]) / 2;
    let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize];
    let p50 = at(0.5);
    lines.push(
        Line::at_most(
            "accept-latency-p50",
            p50.as_secs_f64() * 1e6,
            "us",
            p50.as_secs_f64() / sync.as_secs_f64(),
            2.0,
        )
        .with(format!(
            "{} posts at {rate:.0}/s, p99 {:.0} us, one fsync {:.0} us",
            all.len(),
            at(0.99).as_secs_f64() * 1e6,
            sync.as_secs_f64() * 1e6
        )),
    );
}

async fn start(folder: &Path) -> Running {
    let world = World::real();
    let loaded = flow::load(folder, &world);
    let project = loaded.project.unwrap_or_else(|| {
        panic!(
            "the project of the bench has mistakes: {:?}",
            loaded.findings
        )
    });
    let store = Store::open(
        Options::at(folder.join(".crossdock/store.db")),
        world.clone(),
    )
    .expect("a store");
    let listener = Listener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr();
    let start = Start {
        project,
        root: folder.to_owned(),
        world,
        store: store.clone(),
        listener,
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

fn write_webhook_flow(folder: &Path) {
    write(
        folder,
        "flows/hooks.yaml",
        "flow: hooks\nsource: { webhook: { path: /hooks, verify: none } }\nsinks:\n  nowhere: { discard: {} }\n",
    );
}

fn write(folder: &Path, path: &str, text: &str) {
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

/// One request at a time, begun on the beat.
fn post_steadily(
    address: SocketAddr,
    gap: Duration,
    offset: Duration,
    seconds: f64,
) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_nodelay(true).expect("set");
    let request = request();
    let mut buffer = vec![0; 16 << 10];
    let began = Instant::now();
    let mut next = offset;
    let mut all = Vec::new();
    while next.as_secs_f64() < seconds {
        std::thread::sleep(next.saturating_sub(began.elapsed()));
        let sent = Instant::now();
        stream.write_all(&request).expect("sent");
        let read = stream.read(&mut buffer).expect("answered");
        assert!(
            buffer[..read].starts_with(b"HTTP/1.1 2"),
            "{}",
            String::from_utf8_lossy(&buffer[..read])
        );
        all.push(sent.elapsed());
        next += gap;
    }
    all
}
