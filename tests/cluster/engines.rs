//! Several engines on one broker and one database: another one goes on with a schedule when its engine dies, an older and a newer program share
//! the work, and the demo shows it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};

use crate::faults::backing::{Backing, Services};
use crate::faults::cluster::{CLOCK, ticks};
use crate::support::{Sandbox, eventually, text};

const ORDERS: &str = "flow: orders
source: { webhook: { path: /orders, verify: none } }
keys: { order: id }
once: { key: order, keep: 1d }
sinks:
  out: { file: { path: out/orders.jsonl, format: jsonl } }
";

fn services() -> &'static Services {
    Services::shared().unwrap_or_else(|error| panic!("{error}"))
}

/// A project whose engine shares what stands behind it with others.
fn engine(backing: &Backing, flow: &str) -> Sandbox {
    let sandbox = backing.under(Sandbox::new()).unwrap();
    sandbox.file("flows/flow.yaml", flow);
    sandbox
}

fn number(backing: &Backing, sql: &str) -> u64 {
    backing.sql(sql).unwrap().parse().unwrap()
}

#[test]
fn another_engine_goes_on_with_a_schedule_and_no_tick_runs_twice() {
    let backing = Backing::on(services());
    let ticked = || number(&backing, "SELECT count(*) FROM keys WHERE name = 'tick'");
    let more = |what: &str| {
        let until = ticked() + 3;
        eventually(what, || (ticked() >= until).then_some(()));
    };
    // Who is alone leads, and goes on doing so when another one comes.
    let (first, second) = (engine(&backing, CLOCK), engine(&backing, CLOCK));
    let leader = first.start();
    more("the first engine ticks");
    let other = second.start();
    more("the first engine goes on");
    drop(leader);
    let died = Instant::now();
    more("the second engine goes on");
    assert!(died.elapsed() < Duration::from_secs(15));
    // The one that died comes again, and the other one dies.
    let again = first.start();
    drop(other);
    more("the first engine goes on again");
    assert_eq!(again.terminate(), Some(0));
    let (wrong, note) = ticks(&backing, &[]).unwrap();
    assert!(wrong.is_empty(), "{wrong:?}; {note}");
}

#[test]
fn an_engine_on_a_server_is_reached_by_commands_and_cuts_off_what_was_never_committed() {
    let backing = Backing::on(services());
    let sandbox = engine(&backing, ORDERS);
    let running = sandbox.start();
    post(&sandbox, 0..1);
    let long = format!("{{\"id\": \"{}\"}}", "x".repeat(600));
    assert!(sandbox.post("/orders", long.as_bytes()).status < 300);
    let books = sandbox.books_at_rest(2);
    assert_eq!(books["all"]["in_exceptions"], 1, "{books}");
    let shown = sandbox.prints(&["exceptions"]);
    assert!(shown.contains("a key may have at most 512"), "{shown}");
    sandbox.prints(&["exceptions", "discard", "1", "--reason", "no order"]);
    let looks = sandbox.crossdock(&["doctor", "--format", "json"]);
    let looks = text(&looks.stdout);
    let listener = looks.lines().find(|look| look.contains("\"listener\""));
    let listener = listener.unwrap_or_else(|| panic!("{looks}"));
    assert!(listener.contains("\"ok\""), "{listener}");
    drop(running);
    // As a crash between the write and the commit leaves it; another engine may have written it meanwhile, to a file of its own.
    let committed = sandbox.read_all("out/");
    assert!(committed.contains("SO-0"), "{committed}");
    let tail = format!("{committed}{{\"id\": \"SO-2\"}}\n");
    sandbox.file("out/orders.jsonl", &tail);
    let running = sandbox.start();
    assert_eq!(sandbox.read_all("out/"), committed);
    assert!(running.log().contains("are cut off"), "{}", running.log());
}

/// Posts orders to an engine.
fn post(sandbox: &Sandbox, numbers: std::ops::Range<usize>) {
    for n in numbers {
        let reply = sandbox.post("/orders", format!("{{\"id\": \"SO-{n}\"}}").as_bytes());
        assert!(reply.status < 300, "{}: {}", reply.status, reply.body);
    }
}

/// All that was booked by engines, in the order of its text.
fn written(sandboxes: &[&Sandbox]) -> Vec<String> {
    let texts = sandboxes.iter().map(|sandbox| sandbox.read_all("out/"));
    let mut lines: Vec<String> = texts
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    lines.sort_unstable();
    lines
}

/// This program is the older one. What the newer one would do to the store and to the queues is done by hand: its step of the store adds a
/// table and a column while an engine works, and what it announces is in a format that this program does not know.
#[test]
fn an_engine_works_on_with_the_store_and_the_messages_of_a_newer_program() {
    let backing = Backing::on(services());
    let (first, second) = (engine(&backing, ORDERS), engine(&backing, ORDERS));
    let older = first.start();
    post(&first, 0..30);
    backing
        .sql("ALTER TABLE hops ADD COLUMN newer TEXT; CREATE TABLE newer (a BIGINT); UPDATE schema_version SET version = 999; SELECT 1")
        .unwrap();
    post(&first, 30..60);
    let started_later = second.start();
    post(&first, 60..80);
    post(&second, 80..100);
    first.books_at_rest(100);
    post(&second, 100..400);
    drop((older, started_later));
    let url = backing.environment().remove(1).1;
    let queues = ["@accept", "out"].map(|step| format!("{}.orders.{step}", backing.name()));
    let found = eventually("the broker has taken back what the engines had", || {
        let found = rewrite(&url, &queues);
        (found > 0).then_some(found)
    });
    // Each engine cuts off its own file what it had written and not yet committed.
    let (again, other) = (first.start(), second.start());
    first.books_at_rest(400);
    let lines = written(&[&first, &second]);
    let apart: BTreeSet<_> = lines.iter().collect();
    assert_eq!((lines.len(), apart.len()), (400, 400), "{found} rewritten");
    assert!(
        !again.log().contains("no message of ours"),
        "{}",
        again.log()
    );
    // One that has changed the store is left alone, and says from which program on.
    drop(other);
    assert_eq!(again.terminate(), Some(0));
    backing
        .sql("UPDATE facts SET value = 999 WHERE name = 'readable_by'; SELECT 1")
        .unwrap();
    let output = first.crossdock(&["run"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("for programs from 999 on"), "{said}");
}

/// Takes what is in the queues and puts it back as a newer program would have written it: with the ids as they are, and nothing else that
/// could be read.
fn rewrite(url: &str, queues: &[String]) -> usize {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let connecting = Connection::connect(url, ConnectionProperties::default());
        let connection = connecting.await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        confirms.await.unwrap();
        let mut letters = Vec::new();
        for queue in queues {
            let options = BasicConsumeOptions {
                no_ack: true,
                ..BasicConsumeOptions::default()
            };
            let name = queue.as_str();
            let taking =
                channel.basic_consume(name.into(), "test".into(), options, FieldTable::default());
            let mut taken = taking.await.unwrap();
            let quiet = Duration::from_secs(1);
            while let Ok(Some(got)) = tokio::time::timeout(quiet, taken.next()).await {
                letters.push((queue, got.unwrap().properties));
            }
            let ending = channel.basic_cancel("test".into(), BasicCancelOptions::default());
            ending.await.unwrap();
        }
        for (queue, properties) in &letters {
            let ids = ["store", "flow", "step", "hop", "fence"].map(|id| format!("crossdock-{id}"));
            let given = properties.headers().clone().unwrap_or_default();
            let mut headers = FieldTable::default();
            for (name, value) in given.inner() {
                if ids.iter().any(|id| id == name.as_str()) {
                    headers.insert(name.clone(), value.clone());
                }
            }
            headers.insert("crossdock-format".into(), AMQPValue::LongLongInt(99));
            let publishing = channel.basic_publish(
                "".into(),
                queue.as_str().into(),
                BasicPublishOptions::default(),
                b"what nobody can read yet",
                properties.clone().with_headers(headers),
            );
            publishing.await.unwrap().await.unwrap();
        }
        connection.close(200, "closed".into()).await.unwrap();
        letters.len()
    })
}

#[test]
fn the_demo_of_three_engines_loses_and_doubles_nothing_and_tidies_up() {
    let services = services();
    let broker = services.broker.url();
    let database = services.postgres.url("postgres");
    let output = Sandbox::new().crossdock(&[
        "demo",
        "--orders",
        "200",
        "--engines",
        "3",
        "--rabbitmq",
        &broker,
        "--postgres",
        &database,
    ]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{:?}\n{out}\n{err}", output.status);
    assert!(out.contains("lost 0, doubled 0"), "{out}");
    let queues = services.broker.control(&["list_queues", "name"]).unwrap();
    assert!(!queues.contains("demo"), "{queues}");
}
