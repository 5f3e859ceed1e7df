//! The program as a new user meets it: a new project, checks, mappings, books, a clean stop.

use crate::support::{Sandbox, eventually, text};

#[test]
fn a_new_project_checks_runs_and_counts_its_duplicate() {
    let sandbox = Sandbox::new();
    let made = sandbox.crossdock(&["new", "shop"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let address = sandbox.address().to_string();
    let shop = sandbox.below("shop").variable("CROSSDOCK_LISTEN", &address);
    assert!(
        shop.prints(&["check", "--deny-warnings"])
            .contains("no findings")
    );
    let engine = shop.start();
    std::fs::create_dir_all(shop.root().join("inbox")).unwrap();
    std::fs::copy(
        shop.root().join("samples/orders.jsonl"),
        shop.root().join("inbox/orders.jsonl"),
    )
    .unwrap();
    let books = shop.books_at_rest(3);
    assert_eq!(books["all"]["accepted"], 2, "{books}");
    assert_eq!(books["all"]["duplicates"], 1, "{books}");
    assert_eq!(books["all"]["delivered"], 2, "{books}");
    assert_eq!(books["all"]["balanced"], true, "{books}");
    let written = shop.read_all("outbox");
    assert!(
        written.contains(r#""order_number":"1001""#) && written.contains(r#""amount":"59.97""#),
        "{written}"
    );
    assert_eq!(written.lines().count(), 2, "{written}");
    let journey = shop.prints(&["journey", "1001"]);
    assert!(
        journey.contains("delivered") && journey.contains("order=1001"),
        "{journey}"
    );
    assert!(shop.prints(&["runs"]).lines().count() >= 3);
    assert!(
        shop.prints(&["exceptions"]).contains("nothing waits"),
        "no exceptions are open"
    );
    assert_eq!(engine.terminate(), Some(0));
}

#[test]
fn numbers_go_through_a_flow_unchanged_and_sums_are_exact() {
    let sandbox = Sandbox::new();
    sandbox.file(
        "flows/numbers.yaml",
        r#"flow: numbers
source: { stdin: { format: jsonl } }
steps:
  - id: shape
    map: numbers
sinks:
  out: { stdout: { format: jsonl } }
"#,
    );
    sandbox.file(
        "mappings/numbers.yaml",
        r#"mapping: numbers
fields:
  big: big
  price: price
  sum: add(`0.1`, `0.2`)
  product: multiply(price_text.decimal(@), `3`)
  total: sum(parts)
"#,
    );
    let line = r#"{"big": 9007199254740993, "price": 19.9000, "price_text": "19.99", "parts": [0.1, 0.2]}"#;
    let output = sandbox.crossdock_with(&["run"], &format!("{line}\n"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout).trim(),
        r#"{"big":9007199254740993,"price":19.9000,"sum":0.3,"product":59.97,"total":0.3}"#
    );
}

#[test]
fn a_batch_of_expressions_answers_line_by_line() {
    let sandbox = Sandbox::new();
    let lines = [
        r#"{"expression": "a.b", "input": {"a": {"b": [1, 2.50]}}}"#,
        r#"{"expression": "let $x = a in $x", "input": {"a": 1}}"#,
        r#"{"expression": "foo[", "input": {}}"#,
        r#"{"expression": "nope(@)", "input": {}}"#,
        r#"{"expression": "abs()", "input": {}}"#,
        r#"{"expression": "abs('x')", "input": {}}"#,
        r#"{"expression": "foo[::0]", "input": {"foo": [1]}}"#,
        "not json",
    ];
    let output = sandbox.crossdock_with(&["map", "--batch"], &lines.join("\n"));
    let answers: Vec<serde_json::Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), lines.len());
    assert!(
        text(&output.stdout).starts_with(r#"{"result":[1,2.50]}"#),
        "number text is kept"
    );
    assert_eq!(answers[1]["result"], 1);
    let kinds: Vec<_> = answers[2..]
        .iter()
        .map(|answer| answer["error"]["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "syntax",
            "unknown-function",
            "invalid-arity",
            "invalid-type",
            "invalid-value",
            "invalid-input"
        ]
    );
}

#[test]
fn a_broken_project_is_not_started_and_says_why() {
    let sandbox = Sandbox::new();
    sandbox.file(
        "flows/broken.yaml",
        "flow: broken\nsource: { stdin: {} }\nsteps:\n  - mpa: x\nsinks:\n  out: { stdout: {} }\n",
    );
    let run = sandbox.crossdock(&["run"]);
    assert_eq!(run.status.code(), Some(78), "{}", text(&run.stderr));
    let check = sandbox.crossdock(&["check", "--format", "json"]);
    assert_eq!(check.status.code(), Some(1));
    let findings: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    let found = &findings[0];
    assert_eq!(
        (&found["file"], &found["line"], &found["column"]),
        (&"flows/broken.yaml".into(), &4.into(), &5.into()),
        "{findings}"
    );
    assert!(found["help"].as_str().unwrap().contains("map"), "{found}");
    for format in ["text", "sarif", "github"] {
        let output = sandbox.crossdock(&["check", "--format", format]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stdout).contains("broken.yaml"), "{format}");
    }
}

#[test]
fn a_demo_without_orders_is_a_failure() {
    let demo = Sandbox::new().crossdock(&["demo", "--orders", "0"]);
    assert_eq!(demo.status.code(), Some(1), "{}", text(&demo.stderr));
}

#[test]
fn every_command_has_help_with_an_example() {
    let sandbox = Sandbox::new();
    let commands = [
        "run",
        "check",
        "map",
        "graph",
        "new",
        "schema",
        "runs",
        "exceptions",
        "journey",
        "books",
        "demo",
        "completions",
        "man",
    ];
    for command in commands {
        let help = sandbox.prints(&[command, "--help"]);
        assert!(help.contains("crossdock "), "{command}: {help}");
        assert!(
            help.contains("Example"),
            "`{command} --help` shows no example"
        );
    }
    assert_eq!(sandbox.crossdock(&["nonsense"]).status.code(), Some(2));
    assert!(
        sandbox
            .prints(&["completions", "bash"])
            .contains("crossdock")
    );
    assert!(sandbox.prints(&["man"]).contains(".TH"));
}

#[test]
fn a_stop_finishes_what_has_begun() {
    let sandbox = Sandbox::new();
    sandbox.file(
        "flows/hooks.yaml",
        "flow: hooks\nsource: { webhook: { path: /hooks, verify: none } }\nkeys: { n: n }\nonce: { key: n, keep: 1d }\nsinks:\n  out: { file: { path: \"out/all.jsonl\", format: jsonl } }\n",
    );
    let engine = sandbox.start();
    for n in 0..50 {
        assert!(
            sandbox
                .post("/hooks", format!("{{\"n\": \"{n}\"}}").as_bytes())
                .status
                < 300
        );
    }
    assert_eq!(engine.terminate(), Some(0));
    let engine = sandbox.start();
    sandbox.books_at_rest(50);
    let written = eventually("all are written", || {
        let written = sandbox.read_all("out");
        (written.lines().count() >= 50).then_some(written)
    });
    assert_eq!(written.lines().count(), 50);
    assert_eq!(
        sandbox.post("/hooks", b"{\"n\": \"7\"}").status,
        200,
        "a repeat is acknowledged"
    );
    assert_eq!(sandbox.books_at_rest(51)["all"]["duplicates"], 1);
    drop(engine);
}

#[test]
fn the_code_of_an_engine_that_cannot_start_says_whether_to_try_again() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let nobody = "store: { postgres: { url: \"postgres://postgres@127.0.0.1:1/postgres\" } }\n";
    for (settings, code, said) in [
        (format!("listen: \"{address}\"\n"), 78, "cannot listen"),
        (nobody.to_owned(), 69, "cannot be reached"),
    ] {
        let sandbox = Sandbox::new();
        sandbox.file("crossdock.yaml", &settings);
        sandbox.file(
            "flows/orders.yaml",
            "flow: orders\nsource: { webhook: { path: /orders, verify: none } }\nsinks:\n  out: { discard: {} }\n",
        );
        let run = sandbox.crossdock(&["run"]);
        let shown = text(&run.stderr);
        assert_eq!(run.status.code(), Some(code), "{shown}");
        assert!(shown.contains(said), "{shown}");
    }
}
