//! The yardstick of measure (b): a bare SQLite loop that commits the rows that the engine commits, with the same settings, in batches of at
//! most 128; and the store alone with the same batches. It measures no engine.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use crossdock::message::{MessageId, Names};
use crossdock::store::commit::{
    Commit, End, FENCE_FIRST, First, Leaf, NewHop, NewRun, Trail, Turn,
};
use crossdock::store::{Options, Store};
use crossdock::world::World;
use rusqlite::{Connection, params};

use crate::measure::{Line, order};
use crate::throughput::Rate;

/// How many messages one transaction takes.
const BATCH: u64 = 128;
const FLOW: &str = "made";
const REVISION: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const STEP: &str = "made";
const BEGAN_MS: i64 = 1_790_000_000_000;

/// Plain SQL over the store's own tables: for each batch one transaction that accepts and one that ends.
pub fn bare_loop(messages: u64) -> Rate {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    // The store makes the tables; from then on it has no part in it.
    runtime.block_on(async { open(&path).shutdown().await });
    let connection = connect(&path);
    let body = order();
    let mut fsyncs = 0;
    let began = Instant::now();
    let mut from = 1;
    while from <= messages {
        let batch = from..=(from + BATCH - 1).min(messages);
        connection.execute_batch("BEGIN IMMEDIATE").expect("begun");
        for run in batch.clone() {
            accept(&connection, run.cast_signed(), &body);
        }
        count(&connection, batch.clone().count(), true);
        connection.execute_batch("COMMIT").expect("committed");
        connection.execute_batch("BEGIN IMMEDIATE").expect("begun");
        for run in batch.clone() {
            end(&connection, run.cast_signed());
        }
        count(&connection, batch.clone().count(), false);
        connection.execute_batch("COMMIT").expect("committed");
        fsyncs += 2;
        if log_pages(&connection) > i64::from(Options::at("").checkpoint_pages) {
            checkpoint(&connection);
            fsyncs += 3;
        }
        from += BATCH;
    }
    let took = began.elapsed();
    rate(messages, took.as_secs_f64(), fsyncs)
}

/// The same messages through `Store::commit`, one commit after another.
pub fn store_loop(messages: u64) -> Rate {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let store = open(&folder.path().join("store.db"));
        let body = Bytes::from(order());
        let (flow, step, revision) = (Arc::from(FLOW), Arc::from(STEP), Arc::from(REVISION));
        let before = store.fsyncs();
        let began = Instant::now();
        let mut from = 1;
        while from <= messages {
            let batch = from..=(from + BATCH - 1).min(messages);
            let accepts: Vec<NewRun> = batch
                .map(|_| new_run(&store, &flow, &step, &revision, &body))
                .collect();
            let ends = accepts.iter().map(end_of).collect();
            store
                .commit(Commit {
                    accepts,
                    ..Commit::default()
                })
                .await
                .expect("committed");
            store
                .commit(Commit {
                    ends,
                    ..Commit::default()
                })
                .await
                .expect("committed");
            from += BATCH;
        }
        let took = began.elapsed();
        let fsyncs = store.fsyncs() - before;
        let books = store.books().await.expect("books");
        assert_eq!(
            books[0].counts.delivered.cast_unsigned(),
            messages,
            "the bench counts what the books count"
        );
        store.shutdown().await;
        rate(messages, took.as_secs_f64(), fsyncs)
    })
}

/// Prints the store alone against the bare loop, which is run before and after it.
pub fn run(lines: &mut Vec<Line>) {
    let messages = 60_000;
    let before = bare_loop(messages);
    let store = store_loop(messages);
    let after = bare_loop(messages);
    let bare = (before.per_second + after.per_second) / 2.0;
    let explained = format!(
        "{messages} messages, fsyncs {} against {} of the bare loop at {bare:.0}/s",
        store.fsyncs, after.fsyncs
    );
    lines.push(
        Line::at_least(
            "store-alone",
            store.per_second,
            "messages/s",
            store.per_second / bare,
            0.5,
        )
        .with(explained),
    );
}

fn rate(messages: u64, seconds: f64, fsyncs: u64) -> Rate {
    Rate {
        per_second: messages as f64 / seconds,
        messages,
        fsyncs,
    }
}

fn open(path: &Path) -> Store {
    Store::open(Options::at(path), World::real()).expect("a store")
}

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("a database");
    connection.set_prepared_statement_cache_capacity(64);
    for (name, value) in [
        ("synchronous", "FULL"),
        ("wal_autocheckpoint", "0"),
        ("temp_store", "MEMORY"),
        ("cache_size", "-16384"),
    ] {
        connection.pragma_update(None, name, value).expect("set");
    }
    connection
}

fn accept(connection: &Connection, run: i64, body: &[u8]) {
    let id = message_id(run).to_bytes();
    let execute = |sql: &str, params: &[&dyn rusqlite::ToSql]| {
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params))
            .expect("written");
    };
    execute(
        "INSERT INTO runs (id, message, root, flow, revision, received_at, keys, open, excepted, worst, state)
         VALUES (?1, ?2, ?2, ?3, ?4, ?5, '{}', 1, 0, 0, 0)",
        params![run, id, FLOW, REVISION, BEGAN_MS],
    );
    execute(
        "INSERT INTO bodies (run, envelope, body) VALUES (?1, x'', ?2)",
        params![run, body],
    );
    execute(
        "INSERT INTO hops (id, run, flow, step, message, fence, attempt) VALUES (?1, ?1, ?2, ?3, ?4, 1, 1)",
        params![run, FLOW, STEP, id],
    );
}

fn end(connection: &Connection, run: i64) {
    let execute = |sql: &str, params: &[&dyn rusqlite::ToSql]| {
        connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params))
            .expect("written");
    };
    execute("DELETE FROM hops WHERE id = ?1 AND fence = 1", params![run]);
    execute(
        "UPDATE runs SET open = 0, worst = 2, state = 2, ended_at = ?2 WHERE id = ?1",
        params![run, BEGAN_MS],
    );
    let lines = format!(
        "[[{BEGAN_MS},\"made\",\"done\",null,\"{run:016x}\"],[{BEGAN_MS},\"nowhere\",\"delivered\",null,null]]"
    );
    execute(
        "INSERT INTO trail (run, hop, fence, lines) VALUES (?1, ?1, 1, ?2)",
        params![run, lines],
    );
}

fn count(connection: &Connection, messages: usize, accepted: bool) {
    let messages = i64::try_from(messages).expect("a batch is small");
    let (accepted, delivered) = if accepted {
        (messages, 0)
    } else {
        (0, messages)
    };
    connection
        .prepare_cached(
            "INSERT INTO books (flow, received, accepted, duplicates, refused, delivered, filtered, discarded, compensated, in_flight, in_exceptions)
             VALUES (?1, ?2, ?2, 0, 0, ?3, 0, 0, 0, ?2 - ?3, 0) ON CONFLICT (flow) DO UPDATE SET
             received = received + ?2, accepted = accepted + ?2, delivered = delivered + ?3, in_flight = in_flight + ?2 - ?3",
        )
        .and_then(|mut statement| statement.execute(params![FLOW, accepted, delivered]))
        .expect("counted");
}

fn log_pages(connection: &Connection) -> i64 {
    connection
        .prepare_cached("PRAGMA wal_checkpoint(NOOP)")
        .and_then(|mut statement| {
            statement.query_row([], |row| Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?))
        })
        .expect("asked")
}

fn checkpoint(connection: &Connection) {
    connection
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
        .expect("moved");
}

fn message_id(run: i64) -> MessageId {
    let run = run.cast_unsigned();
    MessageId::from_parts(
        BEGAN_MS.cast_unsigned() + run / 50,
        u128::from(run.wrapping_mul(0x9E37_79B9_7F4A_7C15)) << 16,
    )
}

fn new_run(
    store: &Store,
    flow: &Arc<str>,
    step: &Arc<str>,
    revision: &Arc<str>,
    body: &Bytes,
) -> NewRun {
    let run = store.next_run();
    let message = message_id(run.0);
    NewRun {
        run,
        message,
        root: message,
        flow: flow.clone(),
        revision: revision.clone(),
        received_at_ms: BEGAN_MS,
        body: body.clone(),
        envelope: Bytes::new(),
        keys: Arc::new(Names::new()),
        claims: Vec::new(),
        chains: Vec::new(),
        version: None,
        first: First::Hop(NewHop {
            hop: store.next_hop(),
            run,
            flow: flow.clone(),
            step: step.clone(),
            message,
            body: None,
            envelope: None,
        }),
    }
}

fn end_of(run: &NewRun) -> End {
    let First::Hop(hop) = &run.first else {
        unreachable!("every message of the bench has a hop")
    };
    let trail = |step: &str, what, hash| Trail {
        at_ms: BEGAN_MS,
        step: Arc::from(step),
        what,
        detail: None,
        hash,
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
        trail: vec![
            trail("made", "done", Some(run.run.0.to_be_bytes())),
            trail("nowhere", "delivered", None),
        ],
        accepts: Vec::new(),
    }
}
