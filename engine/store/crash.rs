//! What a crash leaves: a process that commits is killed with signal 9, again and again, and its store is opened and counted.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rusqlite::Connection;

use super::commit::{Commit, Leaf, Trail};
use super::sample::*;
use super::{Options, Store};
use crate::world::World;
use crate::world::random::{Random, SystemRandom};

const VARIABLE: &str = "CROSSDOCK_TEST_CRASH";
const ROUNDS: usize = 6;

#[test]
fn what_was_acknowledged_survives_kill_9_and_nothing_is_half_there() {
    if let Ok(path) = std::env::var(VARIABLE) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(child(Path::new(&path)));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let (mut accepted, mut ended) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..ROUNDS {
        let lines = 200 + SystemRandom.below(800);
        run_and_kill(&path, lines, &mut accepted, &mut ended);
        let torn = folder.path().join(format!("torn-{round}.db"));
        tear(&path, &torn);
        consistent(&torn);
        let connection = consistent(&path);
        for (sql, acknowledged) in [
            ("SELECT id FROM runs", &accepted),
            ("SELECT id FROM runs WHERE state = 2", &ended),
        ] {
            let mut statement = connection.prepare(sql).unwrap();
            let stored: BTreeSet<i64> = statement
                .query_map([], |row| row.get(0))
                .unwrap()
                .map(Result::unwrap)
                .collect();
            let lost: Vec<_> = acknowledged.difference(&stored).collect();
            assert!(lost.is_empty(), "round {round}, {sql}: lost {lost:?}");
        }
    }
    assert!(accepted.len() > 100 * ROUNDS, "{} accepted", accepted.len());
    assert!(!ended.is_empty() && ended.len() < accepted.len());
}

/// Starts this test as a child, reads what it acknowledges, and kills it after so many lines.
fn run_and_kill(path: &Path, lines: u64, accepted: &mut BTreeSet<i64>, ended: &mut BTreeSet<i64>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "store::crash::what_was_acknowledged_survives_kill_9_and_nothing_is_half_there",
            "--nocapture",
        ])
        .env(VARIABLE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut read = 0;
    let mut line = String::new();
    loop {
        line.clear();
        if out.read_line(&mut line).unwrap() == 0 {
            break;
        }
        let whole = line.ends_with('\n');
        match line.trim().split_once(' ') {
            Some(("accepted", run)) if whole => accepted.insert(run.parse().unwrap()),
            Some(("ended", run)) if whole => ended.insert(run.parse().unwrap()),
            _ => continue,
        };
        read += 1;
        if read == lines {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(read >= lines, "the child ended by itself");
}

/// Accepts and ends messages for ever, several at a time, and says what was acknowledged.
async fn child(path: &Path) {
    let store = Store::open(Options::at(path), World::real()).unwrap();
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let sample = Sample::over(store.clone());
        workers.spawn(async move {
            for n in 0.. {
                let key = format!("{}-{worker}-{n}", sample.store.owner());
                let order = sample.order(&key, &"x".repeat(2400));
                sample.accept(vec![order.clone()]).await;
                say("accepted", order.run.0);
                if n % 3 == 0 {
                    continue;
                }
                let mut end = over(&order, first_hop(&order), vec![], vec![Leaf::Delivered]);
                end.trail.push(Trail {
                    at_ms: START_MS,
                    step: Arc::from("erp"),
                    what: "done",
                    detail: None,
                    hash: None,
                });
                sample
                    .store
                    .commit(Commit {
                        ends: vec![end],
                        ..Commit::default()
                    })
                    .await
                    .unwrap();
                say("ended", order.run.0);
            }
        });
    }
    workers.join_all().await;
}

fn say(what: &str, run: i64) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{what} {run}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Copies a store and cuts or spoils the end of its log, as a power failure may.
fn tear(path: &Path, copy: &Path) {
    std::fs::copy(path, copy).unwrap();
    let mut log = std::fs::read(with_suffix(path, "-wal")).unwrap();
    let cut = SystemRandom.below(20_000).min(log.len() as u64 / 2) as usize;
    log.truncate(log.len() - cut);
    let length = log.len();
    for byte in &mut log[length.saturating_sub(3000)..] {
        *byte ^= 0x5A;
    }
    std::fs::write(with_suffix(copy, "-wal"), log).unwrap();
}

fn with_suffix(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens the store as an engine does, and checks that every commit is there whole or not at all.
fn consistent(path: &Path) -> Connection {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Store::open(Options::at(path), World::real()).unwrap();
        let books = store.books().await.unwrap();
        assert_eq!(books, store.recount().await.unwrap());
        assert!(books.iter().all(|books| books.counts.balanced()));
        store.shutdown().await;
    });
    let connection = Connection::open(path).unwrap();
    for (what, expect) in [
        ("SELECT integrity_check FROM pragma_integrity_check", "ok"),
        (
            "SELECT count(*) FROM runs WHERE id NOT IN (SELECT run FROM bodies)",
            "0",
        ),
        (
            "SELECT count(*) FROM runs WHERE id NOT IN (SELECT run FROM keys)",
            "0",
        ),
        (
            "SELECT count(*) FROM runs WHERE id NOT IN (SELECT run FROM claims)",
            "0",
        ),
        (
            "SELECT count(*) FROM runs WHERE state = 0 AND id NOT IN (SELECT run FROM hops)",
            "0",
        ),
        (
            "SELECT count(*) FROM runs WHERE state = 2 AND id IN (SELECT run FROM hops)",
            "0",
        ),
        (
            "SELECT count(*) FROM runs WHERE state = 2 AND id NOT IN (SELECT run FROM trail)",
            "0",
        ),
        (
            "SELECT count(*) FROM hops WHERE run NOT IN (SELECT id FROM runs)",
            "0",
        ),
    ] {
        let found: String = connection
            .query_row(&format!("SELECT CAST(({what}) AS TEXT)"), [], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(found, expect, "{what}");
    }
    connection
}
