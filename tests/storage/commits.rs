//! Power loss under the store alone: commits as fast as they go, a log that is moved into the database all the time, and hundreds of cuts.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use crossdock::message::MessageId;
use crossdock::store::commit::{
    Commit, End, FENCE_FIRST, First, Leaf, NewHop, NewRun, RunId, Turn,
};
use crossdock::store::{Options, Store};
use crossdock::world::World;

use super::Line;
use super::dice::Dice;
use super::disk::{Disk, Names, Syncs};
use super::site::now_ns;
use super::trace::{self, What};
use crate::support::shim::Shim;

/// Says to this test program that it is the one whose power goes.
const VARIABLE: &str = "CROSSDOCK_TEST_POWER";
/// How many commits are under way at the same time.
const WORKERS: usize = 6;
/// How many messages each of them takes through, before and after a clean stop.
const MESSAGES: usize = 40;

/// Not a test by itself: what `loses_power` runs in a process of its own, on a watched disk.
#[test]
fn the_process_whose_power_goes() {
    if let Ok(path) = std::env::var(VARIABLE) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(commit_for_a_while(Path::new(&path)));
    }
}

fn options(path: &Path) -> Options {
    Options {
        // The log is moved into the database again and again, under load.
        checkpoint_pages: 24,
        ..Options::at(path)
    }
}

async fn commit_for_a_while(path: &Path) {
    for session in 0..2 {
        let store = Store::open(options(path), World::real()).unwrap();
        let mut workers = tokio::task::JoinSet::new();
        for worker in 0..WORKERS {
            let store = store.clone();
            workers.spawn(async move {
                for n in 0..MESSAGES {
                    let run = new_run(&store, &format!("{session}-{worker}-{n}"));
                    let end = end(&run);
                    let id = run.run;
                    let accept = Commit {
                        accepts: vec![run],
                        ..Commit::default()
                    };
                    store.commit(accept).await.unwrap();
                    say("accepted", id);
                    if n % 3 != 0 {
                        let end = Commit {
                            ends: vec![end],
                            ..Commit::default()
                        };
                        store.commit(end).await.unwrap();
                        say("ended", id);
                    }
                }
            });
        }
        workers.join_all().await;
        store.shutdown().await;
    }
}

fn say(what: &str, run: RunId) {
    let line = format!("\n{what} {} {}\n", run.0, now_ns());
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

fn new_run(store: &Store, key: &str) -> NewRun {
    let run = store.next_run();
    let message = MessageId::from_parts(0, u128::from(run.0.unsigned_abs()));
    let flow: Arc<str> = Arc::from("orders");
    NewRun {
        run,
        message,
        root: message,
        flow: flow.clone(),
        revision: Arc::from("1"),
        received_at_ms: 0,
        body: Bytes::from("x".repeat(2400)),
        envelope: Bytes::new(),
        keys: Arc::new(BTreeMap::from([(Arc::from("order"), key.to_owned())])),
        claims: Vec::new(),
        chains: Vec::new(),
        version: None,
        first: First::Hop(NewHop {
            hop: store.next_hop(),
            run,
            flow,
            step: Arc::from("erp"),
            message,
            body: None,
            envelope: None,
        }),
    }
}

fn end(run: &NewRun) -> End {
    let First::Hop(hop) = &run.first else {
        panic!("it begins with a hop");
    };
    End {
        hop: hop.hop,
        fence: FENCE_FIRST,
        run: run.run,
        flow: run.flow.clone(),
        step: hop.step.clone(),
        revision: None,
        turn: Turn::Over {
            next: Vec::new(),
            doors: Vec::new(),
            leaves: vec![Leaf::Delivered],
        },
        effect: None,
        saga: None,
        trail: Vec::new(),
        accepts: Vec::new(),
    }
}

/// Cuts the power so often, of a store that makes this mistake, if any.
pub fn loses_power(
    cuts: usize,
    seed: u64,
    syncs: Syncs,
    mutation: Option<&str>,
) -> Result<Line, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let root = folder.path().join("project");
    std::fs::create_dir(&root).map_err(|error| error.to_string())?;
    let root = root.canonicalize().map_err(|error| error.to_string())?;
    let shim = Shim::under(&root);
    let mut disk = Disk::of(&root);
    let run = Command::new(std::env::current_exe().map_err(|error| error.to_string())?)
        .args([
            "--exact",
            "storage::commits::the_process_whose_power_goes",
            "--nocapture",
        ])
        .env(VARIABLE, root.join(".crossdock/store.db"))
        .envs(mutation.map(|mistake| ("CROSSDOCK_MUTATION", mistake)))
        .envs(shim.environment(true))
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    disk.trace(trace::read(&shim.trace()), Vec::new());
    let said = acknowledged(&crate::support::text(&run.stdout));
    if !run.status.success() || said.len() < WORKERS * MESSAGES {
        return Err(format!("{:?} after {} commits", run.status, said.len()));
    }
    let mut line = Line::default();
    let mut dice = Dice::of(seed);
    for nth in 0..cuts {
        // Around an acknowledgement, or around any change of the disk.
        let at_ns = if dice.chance(0.4) {
            dice.one_of(&said).2
        } else {
            let entry = dice.one_of(disk.entries());
            *dice.one_of(&[entry.began_ns, entry.ended_ns, entry.ended_ns + 1])
        };
        let names = *dice.one_of(&[Names::ByFolder, Names::ByFile]);
        let left = tempfile::tempdir().map_err(|error| error.to_string())?;
        disk.cut(at_ns, names, syncs, &mut dice, left.path());
        let sure: Vec<_> = said.iter().filter(|(_, _, ns)| *ns <= at_ns).collect();
        let store = left.path().join(".crossdock/store.db");
        // A store that does not open has lost everything.
        let lost = missing(&store, &sure).unwrap_or_else(|error| vec![error; sure.len().max(1)]);
        line.sent += sure.len() as u64;
        line.delivered += sure.len().saturating_sub(lost.len()) as u64;
        line.lost += lost.len() as u64;
        line.faults += 1;
        line.wrong.extend(
            lost.iter()
                .take(3)
                .map(|lost| format!("cut {nth}, names {names:?}: {lost}")),
        );
    }
    let moved = disk.entries().iter().filter(|entry| match &entry.what {
        What::Sync(path) => path.to_string_lossy().ends_with("store.db"),
        _ => false,
    });
    let moved = moved.count();
    if moved < 10 {
        line.wrong.push(format!(
            "the log was moved {moved} times only, so this proves little"
        ));
    }
    line.notes.push(format!(
        "{} changes and syncs, the database synced {moved} times, {} commits",
        disk.entries().len(),
        said.len()
    ));
    Ok(line)
}

/// What was acknowledged when: whether the run ended, its number, the time.
fn acknowledged(said: &str) -> Vec<(bool, i64, u64)> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        let ended = match words.next()? {
            "accepted" => false,
            "ended" => true,
            _ => return None,
        };
        Some((
            ended,
            words.next()?.parse().ok()?,
            words.next()?.parse().ok()?,
        ))
    };
    said.lines().filter_map(line).collect()
}

/// Opens what is left as an engine does; gives what is missing of it, and everything else that is wrong.
fn missing(path: &Path, sure: &[&(bool, i64, u64)]) -> Result<Vec<String>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let mut missing = Vec::new();
    runtime.block_on(async {
        let store =
            Store::open(options(path), World::real()).map_err(|failure| failure.to_string())?;
        let (books, recount) = (store.books().await, store.recount().await);
        if books != recount {
            missing.push(format!(
                "the books {books:?} are not the recount {recount:?}"
            ));
        }
        if sure.iter().any(|(_, run, _)| *run > store.next_run().0) {
            missing.push("a run's number will be given twice".to_owned());
        }
        store.shutdown().await;
        Ok::<(), String>(())
    })?;
    let connection = rusqlite::Connection::open(path).map_err(|error| error.to_string())?;
    let pages: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .map_err(|error| error.to_string())?;
    if pages != "ok" {
        missing.push(pages);
    }
    let mut states = connection
        .prepare("SELECT id, state FROM runs")
        .map_err(|error| error.to_string())?;
    let states: BTreeMap<i64, i64> = states
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .and_then(Iterator::collect)
        .map_err(|error| error.to_string())?;
    for (ended, run, _) in sure {
        match states.get(run) {
            None => missing.push(format!("run {} was accepted and is lost", RunId(*run).0)),
            Some(0) if *ended => {
                missing.push(format!("run {run} had ended and is in flight again"))
            }
            Some(_) => {}
        }
    }
    Ok(missing)
}
