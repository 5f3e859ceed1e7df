//! A database that goes away and comes back: with all that it had, which is said once, and with less, which is noticed. And engines that see
//! systems differently.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::faults::backing::{Backing, Services};
use crate::support::postgres::{self, Postgres};
use crate::support::{Sandbox, eventually, text};

/// An order system that knows no keys: it books what it gets, and answers after a while.
struct Erp {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    booked: Arc<Mutex<Vec<String>>>,
    answers_after_ms: Arc<AtomicU64>,
    hangs_up: Arc<AtomicBool>,
}

impl Erp {
    fn start() -> Erp {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let erp = Erp {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
            booked: Arc::default(),
            answers_after_ms: Arc::default(),
            hangs_up: Arc::default(),
        };
        let (asked, booked) = (erp.asked.clone(), erp.booked.clone());
        let (after_ms, hangs_up) = (erp.answers_after_ms.clone(), erp.hangs_up.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (asked, booked) = (asked.clone(), booked.clone());
                let (after_ms, hangs_up) = (after_ms.clone(), hangs_up.clone());
                std::thread::spawn(move || {
                    serve(stream, &asked, &booked, &after_ms, &hangs_up);
                });
            }
        });
        erp
    }

    fn booked(&self) -> usize {
        self.booked.lock().unwrap().len()
    }
}

fn serve(
    stream: TcpStream,
    asked: &AtomicUsize,
    booked: &Mutex<Vec<String>>,
    after_ms: &AtomicU64,
    hangs_up: &AtomicBool,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    // The doctor looks in without an order.
    if length > 0 {
        asked.fetch_add(1, Ordering::SeqCst);
        booked.lock().unwrap().push(text(&body));
    }
    std::thread::sleep(Duration::from_millis(after_ms.load(Ordering::SeqCst)));
    if hangs_up.load(Ordering::SeqCst) {
        return None;
    }
    let answer = "HTTP/1.1 201 Created\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    stream.get_mut().write_all(answer.as_bytes()).ok()
}

const FLOW: &str = "flow: orders
source: { webhook: { path: /orders, verify: none } }
keys: { order: id }
sinks:
  erp: { http: { system: erp, post: /orders } }
";

/// A project whose store is a schema of this database; the hand-off is the engine's own.
fn project(url: &str, schema: &str, erp: SocketAddr) -> Sandbox {
    let sandbox = Sandbox::new().variable("DATABASE_URL", url);
    sandbox.file(
        "crossdock.yaml",
        &format!(
            "listen: \"{}\"\nstore:\n  postgres: {{ url: \"${{env:DATABASE_URL}}\", schema: {schema} }}\n",
            sandbox.address()
        ),
    );
    orders_for(&sandbox, erp, 64);
    sandbox
}

fn orders_for(sandbox: &Sandbox, erp: SocketAddr, at_once: usize) {
    sandbox.file("flows/orders.yaml", FLOW);
    sandbox.file(
        "systems/erp.yaml",
        &format!(
            "system: erp\nhttp: {{ base_url: 'http://{erp}' }}\nlimits: {{ concurrency: {at_once} }}\ncircuit: {{ window: 10s, least: 2, failures: 50%, open: 60s, most: 60s }}\n"
        ),
    );
}

fn post(sandbox: &Sandbox, orders: std::ops::Range<usize>) {
    for n in orders {
        let reply = sandbox.post("/orders", format!("{{\"id\": \"SO-{n}\"}}").as_bytes());
        assert!(reply.status < 300, "{}: {}", reply.status, reply.body);
    }
}

#[test]
fn an_outage_of_the_database_is_one_line_and_its_end_another() {
    goes_away(|_| {});
}

#[test]
fn an_outage_of_the_database_is_one_line_beside_a_broker_too() {
    let services = Services::shared().unwrap_or_else(|error| panic!("{error}"));
    let broker = services.broker.url();
    goes_away(|sandbox| {
        let settings = std::fs::read_to_string(sandbox.root().join("crossdock.yaml")).unwrap();
        let handoff = format!("handoff:\n  rabbitmq: {{ urls: ['{broker}'], name: outage }}\n");
        sandbox.file("crossdock.yaml", &(settings + &handoff));
    });
}

/// The database of an engine is killed while messages are under way.
fn goes_away(settle: impl FnOnce(&Sandbox)) {
    const MANY: usize = 30;
    let mut database = Postgres::start().unwrap_or_else(|error| panic!("{error}"));
    let erp = Erp::start();
    erp.answers_after_ms.store(2_000, Ordering::SeqCst);
    let sandbox = project(&database.url("postgres"), "outage", erp.address);
    settle(&sandbox);
    let running = sandbox.start();
    post(&sandbox, 0..MANY);
    eventually("all are under way", || {
        (erp.asked.load(Ordering::SeqCst) == MANY).then_some(())
    });
    database.kill();
    std::thread::sleep(Duration::from_secs(4));
    assert!(sandbox.post("/orders", b"{\"id\": \"late\"}").status == 503);
    database.start_again().unwrap();
    sandbox.books_at_rest(MANY as i64);
    let log = running.log();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!((errors.len(), warnings.len()), (1, 0), "{log}");
    assert!(errors[0].contains("cannot be reached"), "{}", errors[0]);
    let back: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("is there again after"))
        .collect();
    assert_eq!(back.len(), 1, "{log}");
    let failed = back[0].split("; ").nth(1).unwrap().split(' ').next();
    let failed: usize = failed.unwrap().parse().unwrap();
    assert!(failed >= MANY, "{}", back[0]);
    assert_eq!(erp.booked(), MANY);
}

#[test]
fn a_system_that_goes_down_while_the_database_is_away_is_shown_when_it_is_back() {
    const MANY: usize = 12;
    let mut database = Postgres::start().unwrap_or_else(|error| panic!("{error}"));
    let erp = Erp::start();
    erp.answers_after_ms.store(2_000, Ordering::SeqCst);
    let sandbox = project(&database.url("postgres"), "outage", erp.address);
    let running = sandbox.start();
    post(&sandbox, 0..MANY);
    eventually("all are under way", || {
        (erp.asked.load(Ordering::SeqCst) == MANY).then_some(())
    });
    erp.hangs_up.store(true, Ordering::SeqCst);
    database.kill();
    eventually("the engine sees it", || {
        running.log().contains("erp is down").then_some(())
    });
    database.start_again().unwrap();
    eventually("everybody sees it", || {
        let shown = sandbox.prints(&["systems", "--json"]);
        shown.contains("\"state\":\"down\"").then_some(())
    });
}

#[test]
fn a_database_that_was_put_back_is_noticed_and_once_marked_books_nothing_twice() {
    const MANY: usize = 6;
    let services = Services::shared().unwrap_or_else(|error| panic!("{error}"));
    let url = services.postgres.url("postgres");
    let erp = Erp::start();
    erp.answers_after_ms.store(1_500, Ordering::SeqCst);
    let sandbox = project(&url, "put_back", erp.address);
    orders_for(&sandbox, erp.address, 2);
    let running = sandbox.start();
    post(&sandbox, 0..MANY);
    // Of the others the copy does not know that they are ever tried.
    eventually("two are under way", || {
        (erp.asked.load(Ordering::SeqCst) == 2).then_some(())
    });
    let dump = postgres::dump(&url, "put_back").unwrap();
    sandbox.books_at_rest(MANY as i64);
    assert_eq!(erp.booked(), MANY);
    // The note that the engine makes every two seconds is all that is left of it.
    std::thread::sleep(Duration::from_secs(3));
    drop(running);
    let put_back = || {
        services
            .postgres
            .sql("postgres", "DROP SCHEMA put_back CASCADE")
            .unwrap();
        postgres::load(&url, &dump).unwrap();
    };
    put_back();
    for _ in 0..2 {
        let refused = sandbox.crossdock(&["run"]);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(78), "{said}");
        assert!(said.contains("crossdock restore --mark"), "{said}");
    }
    let looks = text(&sandbox.crossdock(&["doctor"]).stdout);
    assert!(looks.contains("FAIL store: "), "{looks}");
    let marked = sandbox.prints(&["restore", "--mark"]);
    assert!(
        marked.contains(&format!("{MANY} messages in flight go on")),
        "{marked}"
    );
    let running = sandbox.start();
    sandbox.books_at_rest(MANY as i64);
    let again = sandbox.crossdock(&["restore", "--mark"]);
    assert!(text(&again.stderr).contains("stop all of them first"));
    let doubts = sandbox.prints(&["exceptions"]);
    assert_eq!(doubts.matches("ambiguous").count(), MANY, "{doubts}");
    let booked = erp.booked.lock().unwrap().clone();
    assert_eq!(
        booked.len(),
        MANY,
        "{booked:?}\n{doubts}\n{}",
        running.log()
    );
    // What comes new is in no doubt.
    erp.answers_after_ms.store(0, Ordering::SeqCst);
    post(&sandbox, MANY..MANY + 2);
    sandbox.books_at_rest(MANY as i64 + 2);
    assert_eq!(erp.booked(), MANY + 2);
    assert_eq!(running.terminate(), Some(0));
    // Without a note nothing is noticed: that is what the command is for, and the manual says so.
    put_back();
    std::fs::remove_dir_all(sandbox.root().join(".crossdock/seen")).unwrap();
    sandbox.prints(&["restore", "--mark", "--resume"]);
}

#[test]
fn engines_that_see_a_system_differently_are_shown_with_the_worst_view() {
    let services = Services::shared().unwrap_or_else(|error| panic!("{error}"));
    let backing = Backing::on(services);
    let erp = Erp::start();
    let engine = |erp: SocketAddr| {
        let sandbox = backing.under(Sandbox::new()).unwrap();
        orders_for(&sandbox, erp, 64);
        sandbox
    };
    // The second one's way to the system is broken.
    let (sees, blind) = (
        engine(erp.address),
        engine(SocketAddr::from(([127, 0, 0, 1], 9))),
    );
    let (first, second) = (sees.start(), blind.start());
    let shown = || -> serde_json::Value {
        let line = sees.prints(&["systems", "--json"]);
        serde_json::from_str(line.lines().next().unwrap()).unwrap()
    };
    let mut n = 0;
    let shows = eventually("the second engine's view", || {
        post(&sees, n..n + 4);
        n += 4;
        let shows = shown();
        (shows["state"] == "down").then_some(shows)
    });
    let port = |sandbox: &Sandbox| format!(":{}", sandbox.address().port());
    let ends = |engine: &serde_json::Value, sandbox: &Sandbox| {
        engine.as_str().unwrap().ends_with(&port(sandbox))
    };
    assert!(ends(&shows["engines"][0], &blind), "{shows}");
    assert!(ends(&shows["other_engines"][0]["engine"], &sees), "{shows}");
    let table = sees.prints(&["systems"]);
    assert!(table.contains("seen so by"), "{table}");
    assert!(table.contains("1 of 2: "), "{table}");
    // One that is killed says nothing more: after a while only the other one counts.
    drop(second);
    eventually("only the first one's view", || {
        (shown()["state"] == "up").then_some(())
    });
    assert_eq!(first.terminate(), Some(0));
}
