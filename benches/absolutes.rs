//! Measures (d) and (e): `check` of 1,000 generated, pairwise different flows; idle memory and start of the program.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::measure::Line;

/// Prints (d) and (e).
pub fn run(lines: &mut Vec<Line>) {
    let folder = tempfile::tempdir().expect("a folder");
    thousand_flows(folder.path(), 1_000);
    let took = check(folder.path());
    lines.push(Line::below(
        "check-1000-flows",
        took.as_secs_f64(),
        "s",
        2.0,
    ));
    start_and_idle(lines);
}

/// How long `crossdock check` of this project takes; it must be right.
pub fn check(project: &Path) -> Duration {
    let began = Instant::now();
    let output = Command::new(program())
        .args(["check", "--project"])
        .arg(project)
        .output()
        .expect("crossdock check");
    let took = began.elapsed();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    took
}

fn start_and_idle(lines: &mut Vec<Line>) {
    let folder = tempfile::tempdir().expect("a folder");
    let made = Command::new(program())
        .arg("new")
        .arg(folder.path().join("project"))
        .output()
        .expect("crossdock new");
    assert!(made.status.success());
    let address = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port");
    let began = Instant::now();
    let mut engine = Engine(
        Command::new(program())
            .args(["run", "--project"])
            .arg(folder.path().join("project"))
            .env("CROSSDOCK_LISTEN", address.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("crossdock run"),
    );
    while TcpStream::connect(address).is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "the engine does not listen"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    lines.push(Line::below(
        "start",
        began.elapsed().as_secs_f64() * 1e3,
        "ms",
        300.0,
    ));
    std::thread::sleep(Duration::from_secs(2));
    let status = std::fs::read_to_string(format!("/proc/{}/status", engine.0.id()))
        .expect("the engine runs");
    let resident = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .and_then(|line| line.split_whitespace().nth(1));
    let resident_kib: f64 = resident.and_then(|kib| kib.parse().ok()).expect("VmRSS");
    lines.push(Line::below(
        "idle-memory",
        resident_kib / 1024.0,
        "MB",
        60.0,
    ));
    engine.0.kill().ok();
}

/// The program that was built with the bench.
fn program() -> &'static str {
    env!("CARGO_BIN_EXE_crossdock")
}

struct Engine(Child);

impl Drop for Engine {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Flows, mappings and schemas that differ pairwise in names, fields, expressions and conditions.
fn thousand_flows(folder: &Path, count: usize) {
    for kind in ["flows", "mappings", "schemas/in", "schemas/out"] {
        std::fs::create_dir_all(folder.join(kind)).expect("a folder");
    }
    for n in 0..count {
        let flow = format!(
            "flow: flow-{n}\nsource:\n  webhook: {{ path: /hooks/{n}, verify: none }}\naccepts: in/order-{n}.v1\nkeys: {{ order: number_{n}, customer: customer.code }}\nonce: {{ key: order, keep: 30d }}\nsteps:\n  - id: shape-{n}\n    map: map-{n}\n  - id: check-{n}\n    validate: out/order-{n}.v1\n  - id: live-{n}\n    filter: status != 'cancelled-{n}'\nroutes:\n  first:\n    - when: decimal(total_{n}) > `{limit}`\n      to: [review]\n    - otherwise: [book, audit]\nsinks:\n  review: {{ discard: {{}} }}\n  book: {{ file: {{ path: \"out/{n}/{{{{order_{n}}}}}.json\", format: json, mode: replace }} }}\n  audit: {{ file: {{ path: \"audit/{n}-{{{{@today}}}}.jsonl\", format: jsonl }} }}\n",
            limit = 1000 + n
        );
        let mapping = format!(
            "mapping: map-{n}\nfrom: in/order-{n}.v1\nto: out/order-{n}.v1\nfields:\n  order_{n}: number_{n}\n  status: status\n  lines:\n    - each: lines_{n}[?quantity > `{least}`]\n      fields:\n        sku: upper(sku)\n        amount: multiply(decimal(price), quantity)\n  total_{n}: sum(lines_{n}[].multiply(decimal(price), quantity))\n",
            least = n % 7
        );
        let accepted = format!(
            r#"{{"type":"object","required":["number_{n}","status","customer","lines_{n}"],"properties":{{"number_{n}":{{"type":"string","maxLength":{length}}},"status":{{"type":"string"}},"customer":{{"type":"object","required":["code"],"properties":{{"code":{{"type":"string"}}}}}},"lines_{n}":{{"type":"array","items":{{"type":"object","required":["sku","price","quantity"],"properties":{{"sku":{{"type":"string"}},"price":{{"type":"string"}},"quantity":{{"type":"integer"}}}}}}}}}}}}"#,
            length = 20 + n
        );
        let mapped = format!(
            r#"{{"type":"object","required":["order_{n}","lines"],"properties":{{"order_{n}":{{"type":"string"}},"status":{{"type":"string"}},"lines":{{"type":"array","items":{{"type":"object","properties":{{"sku":{{"type":"string"}},"amount":{{"type":"string"}}}}}}}},"total_{n}":{{"type":"string"}}}}}}"#
        );
        for (path, text) in [
            (format!("flows/flow-{n}.yaml"), flow),
            (format!("mappings/map-{n}.yaml"), mapping),
            (format!("schemas/in/order-{n}.v1.json"), accepted),
            (format!("schemas/out/order-{n}.v1.json"), mapped),
        ] {
            std::fs::write(folder.join(path), text).expect("written");
        }
    }
}
