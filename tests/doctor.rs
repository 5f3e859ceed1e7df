//! `crossdock doctor`: each thing that can be wrong around an engine is told, with what to do, and nothing is changed by looking.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use serde_json::Value;

use crate::support::receiver::Receiver;
use crate::support::{Sandbox, text};

const FLOW: &str = "flow: orders
source: { file: { path: \"inbox/*.jsonl\", format: jsonl } }
sinks:
  out: { file: { path: out.jsonl, format: jsonl } }
";

fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.file("flows/orders.yaml", FLOW);
    sandbox
}

/// Adds to the settings.
fn settings(sandbox: &Sandbox, more: &str) {
    let listen = format!("listen: \"{}\"\n", sandbox.address());
    sandbox.file("crossdock.yaml", &format!("{listen}{more}"));
}

/// What the doctor says, and its exit code.
fn doctor(sandbox: &Sandbox) -> (Vec<Value>, Option<i32>) {
    let output = sandbox.crossdock(&["doctor", "--format", "json", "--timeout", "5"]);
    let lines = text(&output.stdout);
    let looks = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    (looks.collect(), output.status.code())
}

/// The doctor must say this word of this thing, with this in the sentence, and something to do if it is not good.
fn says(sandbox: &Sandbox, word: &str, name: &str, part: &str) {
    let (looks, code) = doctor(sandbox);
    let found = looks.iter().find(|look| {
        let said = format!("{}{}", look["found"], look["help"]);
        look["word"] == word && look["name"] == name && said.contains(part)
    });
    let found = found.unwrap_or_else(|| panic!("no `{word} {name}: ..{part}..` in {looks:#?}"));
    let helped = found["help"].as_str().is_some_and(|help| help.len() > 10);
    assert_eq!(helped, word != "ok", "{found}");
    let fails = looks.iter().any(|look| look["word"] == "FAIL");
    assert_eq!(code, Some(i32::from(fails)));
    if word == "FAIL" {
        assert_eq!(code, Some(1));
    }
}

/// A web server that answers everything so, from its status on.
fn web(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            let _read = stream.read(&mut head);
            let answer = format!("HTTP/1.1 {answer}\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).ok();
        }
    });
    address
}

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

#[test]
fn a_sound_project_is_good_before_while_and_after_it_runs() {
    let sandbox = project();
    let mut before = doctor(&sandbox);
    assert_eq!(before.1, Some(0), "{before:#?}");
    assert!(
        before.0.iter().all(|look| look["word"] == "ok"),
        "{before:#?}"
    );
    assert!(
        !sandbox.root().join(".crossdock").exists(),
        "looking makes nothing"
    );
    assert!(
        !sandbox.root().join("inbox").exists(),
        "looking makes nothing"
    );
    let engine = sandbox.start();
    says(&sandbox, "ok", "engine", "one runs");
    says(&sandbox, "ok", "listener", "the engine runs");
    says(&sandbox, "ok", "store pages", "sound");
    says(&sandbox, "ok", "folder of orders", "inbox can be written");
    assert_eq!(engine.terminate(), Some(0));
    before = doctor(&sandbox);
    assert_eq!(before.1, Some(0), "{before:#?}");
    let plain = sandbox.prints(&["doctor"]);
    assert!(
        plain.lines().all(|line| line.starts_with("ok   ")),
        "{plain}"
    );
}

#[test]
fn variables_and_mistakes_are_named() {
    let sandbox = project();
    sandbox.file(
        "systems/erp.yaml",
        "system: erp\nhttp: { base_url: '${env:NO_SUCH_URL}' }\n",
    );
    says(&sandbox, "FAIL", "variable", "NO_SUCH_URL");
    let sandbox = project();
    sandbox.file("flows/orders.yaml", &FLOW.replace("sinks:", "sinkz:"));
    says(&sandbox, "FAIL", "project", "flows/orders.yaml:3:1");
}

#[test]
fn a_store_that_cannot_be_used_is_told() {
    let sandbox = project();
    sandbox.file("file", "");
    settings(&sandbox, "store: { sqlite: { path: file/store.db } }\n");
    says(&sandbox, "FAIL", "store folder", "cannot write in");

    let sandbox = project();
    sandbox.file(".crossdock/store.db", &"no database ".repeat(200));
    says(&sandbox, "FAIL", "store", "damaged");

    let sandbox = project();
    drop(sandbox.start());
    let database = rusqlite::Connection::open(sandbox.root().join(".crossdock/store.db")).unwrap();
    let run = |sql: &str| database.execute_batch(sql).unwrap();
    run(
        "UPDATE books SET accepted = accepted + 1; INSERT INTO books SELECT 'x', 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0",
    );
    says(&sandbox, "FAIL", "books", "do not balance");
    run("UPDATE facts SET value = 4102444800000 WHERE name = 'clock_ms'");
    says(&sandbox, "FAIL", "clock", "behind what the store has seen");
    run("PRAGMA user_version = 999; UPDATE facts SET value = 999 WHERE name = 'readable_by'");
    says(&sandbox, "FAIL", "store", "newer crossdock");
}

#[test]
fn a_disk_with_little_space_is_told() {
    let sandbox = project();
    settings(&sandbox, "limits: { disk_free: 900000GB }\n");
    says(&sandbox, "FAIL", "disk", "limits.disk_free");
}

#[test]
fn an_address_that_somebody_else_has_is_told() {
    let sandbox = project();
    let _other = TcpListener::bind(sandbox.address()).unwrap();
    says(&sandbox, "FAIL", "listener", "cannot listen");
}

#[test]
fn a_folder_that_cannot_be_made_is_told() {
    let sandbox = project();
    sandbox.file("inbox", "a file where the folder must be");
    says(&sandbox, "FAIL", "folder of orders", "cannot write in");
}

#[test]
fn systems_are_reached_and_logged_in_to() {
    let check = |http: &str, word: &str, part: &str| {
        let sandbox = project();
        sandbox.file(
            "systems/erp.yaml",
            &format!("system: erp\nhttp: {{ {http} }}\n"),
        );
        sandbox.file("secret", "x");
        says(&sandbox, word, "system erp", part);
    };
    let base = |address: SocketAddr| format!("base_url: 'http://{address}/api'");
    check(&base(web("405 No")), "ok", "status 405");
    check(&base(web("503 No")), "warn", "status 503");
    check(&base(web("403 No")), "warn", "right");
    check(&base(web("401 No")), "FAIL", "auth");
    check(&base(nobody()), "FAIL", "whether it runs");
    let oauth = |address: SocketAddr| {
        let token = format!(
            "token_url: 'http://{address}/token', client_id: we, client_secret: '${{file:secret}}'"
        );
        format!("{}, auth: {{ oauth2: {{ {token} }} }}", base(web("200 OK")))
    };
    check(&oauth(web("400 No")), "FAIL", "client_secret");
    check(&oauth(nobody()), "FAIL", "token server");
}

#[test]
fn a_system_whose_clock_differs_is_told() {
    let sandbox = project();
    let address = web("200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT");
    sandbox.file(
        "systems/erp.yaml",
        &format!("system: erp\nhttp: {{ base_url: 'http://{address}' }}\n"),
    );
    says(&sandbox, "warn", "clock", "system erp");
}

#[test]
fn databases_are_reached_and_asked_who_we_are() {
    let check = |url: &str, word: &str, part: &str| {
        let sandbox = project();
        sandbox.file(
            "systems/db.yaml",
            &format!("system: db\nsql: {{ url: '{url}' }}\n"),
        );
        rusqlite::Connection::open(sandbox.root().join("good.db")).unwrap();
        sandbox.file("broken.db", &"no database ".repeat(200));
        says(&sandbox, word, "system db", part);
    };
    check("sqlite:good.db", "ok", "SQLite");
    check("sqlite:missing.db", "FAIL", "db");
    check("sqlite:broken.db", "FAIL", "db");
    check(
        "postgres://postgres@127.0.0.1:5432/postgres",
        "ok",
        "PostgreSQL",
    );
    check(
        "postgres://postgres@127.0.0.1:5432/no_such_database",
        "FAIL",
        "no_such_database",
    );
    check(
        &format!("postgres://postgres@{}/postgres", nobody()),
        "FAIL",
        "whether it runs",
    );
}

#[test]
fn those_who_are_told_are_reached_and_told_nothing() {
    let (hook, mail) = (Receiver::web(), Receiver::mail());
    let notify = |hook: SocketAddr, mail: SocketAddr| {
        format!(
            "notify:\n  - webhook: {{ url: 'http://{hook}/hook' }}\n  - mail: {{ smtp: 'smtp://{mail}', from: a@example.com, to: [b@example.com] }}\n"
        )
    };
    let sandbox = project();
    settings(&sandbox, &notify(hook.address, mail.address));
    says(&sandbox, "ok", "notify webhook 1", "answers");
    says(&sandbox, "ok", "notify mail 1", "greets");
    assert!(mail.taken().is_empty());
    let asked = hook.taken();
    assert!(
        asked
            .iter()
            .all(|(head, body)| head.starts_with("HEAD ") && body.is_empty())
    );
    settings(&sandbox, &notify(nobody(), nobody()));
    says(&sandbox, "FAIL", "notify webhook 1", "network");
    says(&sandbox, "FAIL", "notify mail 1", "address");
}

#[test]
fn a_store_on_a_server_is_reached() {
    let sandbox = project().variable(
        "DATABASE_URL",
        "postgres://postgres@127.0.0.1:5432/postgres",
    );
    settings(
        &sandbox,
        "store: { postgres: { url: \"${env:DATABASE_URL}\", schema: crossdock_doctor_test } }\n",
    );
    says(&sandbox, "ok", "store", "is not there yet");
    says(&sandbox, "ok", "clock", "agree");
    let url = format!("postgres://postgres@{}/postgres", nobody());
    let sandbox = sandbox.variable("DATABASE_URL", &url);
    says(&sandbox, "FAIL", "store", "store.postgres");
}

#[test]
fn the_engines_own_certificates_are_looked_at_before_a_sender_does() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let sandbox = Sandbox::new();
    let settings = format!(
        "listen: \"{}\"\ntls: {{ certificate: a.pem, key: a.key }}\nadmin: {{ tls: {{ certificate: a.pem, key: other.key }} }}\n",
        sandbox.address()
    );
    sandbox.file("crossdock.yaml", &settings);
    sandbox.file("flows/a.yaml", "flow: a\nsource: { webhook: { path: /a, verify: none } }\nsinks: { out: { discard: {} } }\n");
    let refused = sandbox.crossdock(&["run"]);
    assert_eq!(refused.status.code(), Some(78));
    assert!(
        text(&refused.stderr).contains("a.pem"),
        "{}",
        text(&refused.stderr)
    );
    says(&sandbox, "FAIL", "certificate", "a.pem");
    sandbox.file("a.pem", &made.cert.pem());
    sandbox.file("a.key", &made.signing_key.serialize_pem());
    let another = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    sandbox.file("other.key", &another.signing_key.serialize_pem());
    says(&sandbox, "FAIL", "certificate", "do not fit");
    says(
        &sandbox,
        "ok",
        "certificate",
        "the one for senders is good for",
    );
}
