//! One list of promises, held against every source: a new source joins by one line in `sources`, and a kind without a line fails.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossdock::component::{Intake, Library, Registry, Source};
use crossdock::diagnostic::{File, Findings};
use crossdock::failure::{Class, Failure};
use crossdock::net::listener::Listener;
use crossdock::source::{Ready, SourceKind};
use crossdock::system::System;
use crossdock::world::World;
use crossdock::yaml::shape::Formats;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::fake::{self, Fake, State};

mod handoffs;
mod losses;
mod site;

/// A source under test: what it is made of, and what the outside does so that messages come.
struct Subject {
    kind: &'static str,
    config: &'static str,
    /// How many messages the outside has.
    messages: usize,
    outside: Outside,
    /// Whether a restart goes on where the last one ended, without bringing anything twice.
    remembers: bool,
}

enum Outside {
    /// Nothing has to happen.
    Nothing,
    /// A file is dropped.
    File,
    /// A system answers at `/items`.
    System,
    /// Somebody posts to this path until each delivery is acknowledged.
    Posts(&'static str),
}

/// The kinds that are held to the promises elsewhere, or have no outside of their own to test: `amqp` beside a broker (`queues`), standard
/// input belongs to the test runner, `flow` runs nothing.
const APART: [&str; 3] = ["amqp", "stdin", "flow"];

fn sources() -> Vec<Subject> {
    let subject = |kind, config, messages, outside, remembers| Subject {
        kind,
        config,
        messages,
        outside,
        remembers,
    };
    vec![
        subject(
            "webhook",
            "{ path: /hook, verify: none, delivery_id: X-Id }",
            200,
            Outside::Posts("/hook"),
            true,
        ),
        subject(
            "api",
            "{ path: /hook, version: v1, clients: anyone, rate: 1000000/s }",
            200,
            Outside::Posts("/v1/hook"),
            true,
        ),
        subject(
            "file",
            "{ path: inbox/*.jsonl, format: jsonl, settle: 0s, every: 20ms }",
            300,
            Outside::File,
            true,
        ),
        subject(
            "poll",
            "{ system: stand-in, get: '/items?since={{@cursor}}', every: 20ms, cursor: { value: n, start: '0' } }",
            50,
            Outside::System,
            true,
        ),
        subject(
            "schedule",
            "{ cron: '* * * * * *', missed: all }",
            60,
            Outside::Nothing,
            true,
        ),
        subject(
            "generate",
            "{ count: 1000, body: { n: '{{@n}}' } }",
            1_000,
            Outside::Nothing,
            true,
        ),
    ]
}

/// A source at work, and the world that it works in.
struct Bench {
    root: tempfile::TempDir,
    fake: Arc<Fake>,
    _outside: Listener,
    library: Library,
    _items: Option<crossdock::net::listener::Registration>,
}

struct AnyFormat;

impl Formats for AnyFormat {
    fn check(&self, _: &str, _: &crossdock::yaml::Node, _: &Arc<File>, _: &mut Findings) {}
}

/// Answers `/items?since=n` with what is newer.
struct Items(usize);

impl crossdock::net::listener::Receive for Items {
    fn receive(
        &self,
        request: crossdock::net::listener::Received,
    ) -> crossdock::world::Pending<'_, crossdock::net::listener::Reply> {
        let since: usize = request
            .uri
            .query()
            .unwrap()
            .strip_prefix("since=")
            .unwrap()
            .parse()
            .unwrap();
        let items: Vec<String> = (since + 1..=self.0)
            .map(|n| format!("{{\"n\":{n}}}"))
            .collect();
        let body = format!("[{}]", items.join(","));
        let reply = crossdock::net::listener::Reply::json(http::StatusCode::OK, body);
        Box::pin(std::future::ready(reply))
    }

    fn body_max(&self) -> usize {
        0
    }
}

impl Bench {
    async fn new(subject: &Subject) -> Bench {
        let root = tempfile::tempdir().unwrap();
        let outside = Listener::bind("127.0.0.1:0").await.unwrap();
        let mut library = Library::default();
        let mut items = None;
        match subject.outside {
            Outside::Nothing | Outside::Posts(_) => {}
            Outside::File => {
                fs::create_dir(root.path().join("inbox")).unwrap();
                let lines: String = (1..=subject.messages)
                    .map(|n| format!("{{\"n\":{n}}}\n"))
                    .collect();
                fs::write(root.path().join("inbox/a.jsonl"), lines).unwrap();
            }
            Outside::System => {
                let served = outside.register(
                    http::Method::GET,
                    "/items",
                    Arc::new(Items(subject.messages)),
                );
                items = Some(served);
                let text = format!(
                    "system: stand-in\nhttp: {{ base_url: 'http://{}' }}\n",
                    outside.local_addr()
                );
                let (file, mut findings) =
                    (File::new("systems/stand-in.yaml", text), Findings::new());
                let node = crossdock::yaml::parse(&file, &mut findings).unwrap();
                let system = System::parse(&file, &node, &AnyFormat, &mut findings).unwrap();
                library
                    .systems
                    .insert("stand-in".to_owned(), Arc::new(system));
            }
        }
        let fake = Fake::slow(Duration::from_millis(1));
        if subject.kind == "schedule" {
            // A schedule that was down for a minute has sixty times to make up for.
            let minute_ago =
                crossdock::world::clock::Clock::now_ms(&crossdock::world::clock::SystemClock)
                    - 60_500;
            let time = jiff::Timestamp::from_millisecond(minute_ago).unwrap();
            fake.state()
                .cursors
                .insert("schedule".to_owned(), time.to_string());
        }
        Bench {
            root,
            fake,
            _outside: outside,
            library,
            _items: items,
        }
    }

    fn source(&self, subject: &Subject) -> Arc<dyn Source> {
        let yaml = format!("{}: {}", subject.kind, subject.config);
        let (ready, findings) = fake::build(&yaml, &self.library);
        match ready {
            Some(Ready::Runs(source)) => source,
            _ => panic!("{yaml}: {findings:?}"),
        }
    }

    async fn start(&self, subject: &Subject) -> At {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let cx = fake::intake(&self.fake, World::real(), self.root.path(), &listener);
        let running = tokio::spawn(self.source(subject).run(cx.clone()));
        let path = match subject.outside {
            Outside::Posts(path) => Some(path),
            _ => None,
        };
        let posts = path.map(|path| {
            let (listener, count) = (listener.clone(), subject.messages);
            tokio::spawn(async move {
                for number in 0..count {
                    while !post(&listener, path, number).await {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            })
        });
        At { cx, running, posts }
    }

    /// Whether all that the outside has was stored, each once.
    fn is_whole(&self, subject: &Subject, state: &State) -> bool {
        state.stored.len() >= subject.messages
    }
}

/// A running source.
struct At {
    cx: Intake,
    running: JoinHandle<Result<(), Failure>>,
    posts: Option<JoinHandle<()>>,
}

impl At {
    /// Stops it; every source does so within a second, and it is no failure.
    async fn stop(self, kind: &str) {
        if let Some(posts) = self.posts {
            posts.abort();
        }
        let began = Instant::now();
        self.cx.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(1), self.running).await;
        let ended = ended.unwrap_or_else(|_| panic!("{kind} does not stop within a second"));
        ended
            .unwrap()
            .unwrap_or_else(|failure| panic!("{kind}: {failure}"));
        assert!(began.elapsed() < Duration::from_secs(1), "{kind}");
    }

    /// Takes it away as a crash would.
    async fn crash(self) {
        if let Some(posts) = self.posts {
            posts.abort();
        }
        self.running.abort();
        drop(self.running.await);
    }
}

/// Posts a delivery; true if it is acknowledged.
async fn post(listener: &Listener, path: &str, number: usize) -> bool {
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nx-id: d{number}\r\nidempotency-key: d{number}\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    let Ok(mut stream) = TcpStream::connect(listener.local_addr()).await else {
        return false;
    };
    let mut answer = Vec::new();
    stream.write_all(request.as_bytes()).await.is_ok()
        && stream.read_to_end(&mut answer).await.is_ok()
        && (answer.starts_with(b"HTTP/1.1 200") || answer.starts_with(b"HTTP/1.1 202"))
}

fn down() -> Option<Failure> {
    Some(Failure::new(Class::Unavailable, "the engine is down"))
}

#[test]
fn every_kind_of_source_is_held_to_the_promises_and_its_example_builds() {
    let tested: Vec<&str> = sources()
        .iter()
        .map(|subject| subject.kind)
        .chain(APART)
        .collect();
    for kind in SourceKind::KINDS {
        assert!(
            tested.contains(&kind.name),
            "{} is not in the list of sources",
            kind.name
        );
        assert!(kind.example.starts_with("source:"), "{}", kind.example);
    }
    assert_eq!(tested.len(), SourceKind::KINDS.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_the_outside_has_comes_in_once() {
    for subject in sources() {
        let bench = Bench::new(&subject).await;
        let at = bench.start(&subject).await;
        bench
            .fake
            .until(subject.kind, |state| bench.is_whole(&subject, state))
            .await;
        at.stop(subject.kind).await;
        for body in bench.fake.bodies() {
            let parsed = serde_json::from_str::<serde_json::Value>(&body);
            assert!(parsed.is_ok(), "{}: {body}", subject.kind);
        }
        let state = bench.fake.state();
        assert_eq!(state.duplicates, 0, "{}", subject.kind);
        assert!(
            state.batches.iter().all(|&size| size <= 128),
            "{}: {:?}",
            subject.kind,
            state.batches
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_engine_takes_nothing_nothing_is_lost_and_no_cursor_moves() {
    for subject in sources() {
        let bench = Bench::new(&subject).await;
        let before = bench.fake.state().cursors.clone();
        bench.fake.state().failing = std::iter::repeat_n(down(), 10_000).collect();
        let at = bench.start(&subject).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        {
            let mut state = bench.fake.state();
            assert!(
                state.failing.len() < 10_000,
                "{} has not tried",
                subject.kind
            );
            assert!(
                state.failing.len() > 9_000,
                "{} tries without pause",
                subject.kind
            );
            assert!(
                state.stored.is_empty() && state.cursors == before,
                "{}",
                subject.kind
            );
            state.failing.clear();
        }
        bench
            .fake
            .until(subject.kind, |state| bench.is_whole(&subject, state))
            .await;
        at.stop(subject.kind).await;
        assert_eq!(bench.fake.state().duplicates, 0, "{}", subject.kind);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_or_a_lost_answer_every_message_is_there_once() {
    for subject in sources().iter().filter(|subject| subject.remembers) {
        for commits in [0, 1, 2, 5] {
            let bench = Bench::new(subject).await;
            {
                let mut state = bench.fake.state();
                state.lost_after = Some(commits);
                state.failing = std::iter::repeat_n(None, commits + 1)
                    .chain(std::iter::repeat_n(down(), 10_000))
                    .collect();
            }
            let at = bench.start(subject).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            at.crash().await;
            bench.fake.state().failing.clear();
            let at = bench.start(subject).await;
            bench
                .fake
                .until(subject.kind, |state| bench.is_whole(subject, state))
                .await;
            at.stop(subject.kind).await;
            let state = bench.fake.state();
            let mut identities: Vec<_> = state
                .stored
                .iter()
                .filter_map(|arrival| arrival.identity.clone())
                .collect();
            identities.sort();
            let all = identities.len();
            identities.dedup();
            assert_eq!(identities.len(), all, "{}", subject.kind);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_comes_through_at_any_time() {
    for subject in sources() {
        for wait_ms in [0, 5, 50] {
            let bench = Bench::new(&subject).await;
            if wait_ms == 50 {
                bench.fake.state().failing = std::iter::repeat_n(down(), 10_000).collect();
            }
            let at = bench.start(&subject).await;
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            at.stop(subject.kind).await;
        }
    }
}
