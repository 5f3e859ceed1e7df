//! What those see who watch an engine: metrics in both forms, health, and that alerts and the dashboard ask only for what is there.

mod engines;
mod scrape;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use crossdock::demo::engine::free_address;
use crossdock::world::metrics::words;
use serde_json::{Value, json};

use crate::support::receiver::Receiver;
use crate::support::{Sandbox, eventually};
use scrape::{Scrape, get};

/// A project whose flow books orders in the ERP that `web` stands in for, and where it is watched.
fn project(web: &Receiver) -> (Sandbox, SocketAddr) {
    let (sandbox, watched) = (Sandbox::new(), free_address().unwrap());
    sandbox.file(
        "crossdock.yaml",
        &format!(
            "listen: \"{}\"\ntelemetry: {{ metrics: {{ listen: \"{watched}\" }} }}\n",
            sandbox.address(),
        ),
    );
    sandbox.file(
        "systems/erp.yaml",
        &format!(
            "system: erp\nhttp: {{ base_url: 'http://{}' }}\n",
            web.address
        ),
    );
    sandbox.file("flows/orders.yaml", ORDERS);
    (sandbox, watched)
}

const ORDERS: &str = "flow: orders
source:
  webhook: { path: /orders, verify: none }
keys: { order: number }
once: { key: order }
steps:
  - id: only
    filter: number != 'skip'
sinks:
  erp: { http: { system: erp, post: /orders, idempotency_key: number }, retry: { attempts: 2, first: 10ms, most: 20ms } }
";

fn order(sandbox: &Sandbox, number: &str) {
    let reply = sandbox.post(
        "/orders",
        json!({ "number": number }).to_string().as_bytes(),
    );
    assert_eq!(reply.status, 200, "{}", reply.body);
}

/// The numbers once the store has been asked anew and this holds.
fn scraped(watched: SocketAddr, holds: impl Fn(&Scrape) -> bool) -> Scrape {
    eventually("the numbers come", || {
        let scrape = Scrape::of(watched);
        holds(&scrape).then_some(scrape)
    })
}

#[test]
fn an_engine_counts_what_it_does_and_the_books_balance() {
    let web = Receiver::web();
    let (sandbox, watched) = project(&web);
    let engine = sandbox.start();
    web.answers_orders(201);
    for number in ["1", "2", "2", "skip"] {
        order(&sandbox, number);
    }
    sandbox.books_at_rest(4);
    web.answers_orders(422);
    order(&sandbox, "refused");
    sandbox.books_at_rest(5);
    web.answers_orders(429);
    order(&sandbox, "throttled");
    sandbox.post("/orders", b"no json");
    sandbox.books_at_rest(7);
    let scrape = Scrape::of(watched);
    for (name, value) in [
        (
            "crossdock_runs_completed_total{flow=\"orders\",outcome=\"delivered\"}",
            2.0,
        ),
        (
            "crossdock_exceptions_open{flow=\"orders\",error_class=\"throttled\"}",
            1.0,
        ),
        ("crossdock_messages_received_total{flow=\"orders\"}", 7.0),
        ("crossdock_messages_duplicate_total{flow=\"orders\"}", 1.0),
        (
            "crossdock_runs_completed_total{flow=\"orders\",outcome=\"filtered\"}",
            1.0,
        ),
        ("crossdock_run_duration_seconds_count{flow=\"orders\"}", 3.0),
        (
            "crossdock_step_attempts_total{flow=\"orders\",step=\"erp\",outcome=\"done\",error_class=\"\"}",
            2.0,
        ),
        (
            "crossdock_step_attempts_total{flow=\"orders\",step=\"erp\",outcome=\"retried\",error_class=\"throttled\"}",
            1.0,
        ),
        (
            "crossdock_step_attempts_total{flow=\"orders\",step=\"erp\",outcome=\"failed\",error_class=\"validation\"}",
            1.0,
        ),
        (
            "crossdock_step_duration_seconds_count{flow=\"orders\",step=\"erp\"}",
            5.0,
        ),
        (
            "crossdock_system_requests_total{system=\"erp\",outcome=\"answered\",error_class=\"\"}",
            2.0,
        ),
        (
            "crossdock_system_requests_total{system=\"erp\",outcome=\"failed\",error_class=\"throttled\"}",
            2.0,
        ),
        ("crossdock_system_state{system=\"erp\",state=\"up\"}", 1.0),
        ("crossdock_exceptions_opened_total{flow=\"orders\"}", 3.0),
        ("crossdock_issues_open{flow=\"orders\"}", 3.0),
        ("crossdock_books_received_total{flow=\"orders\"}", 7.0),
        (
            "crossdock_books_runs{flow=\"orders\",state=\"in_exceptions\"}",
            3.0,
        ),
        ("crossdock_books_imbalance{flow=\"orders\"}", 0.0),
        (
            "crossdock_http_requests_total{listener=\"webhooks\",route=\"/orders\",method=\"POST\",status=\"200\"}",
            7.0,
        ),
        ("crossdock_build_info{version=\"0.1.0\"}", 1.0),
        ("crossdock_ready", 1.0),
        ("crossdock_store_read", 1.0),
    ] {
        assert_eq!(
            scrape.value(name),
            Some(value),
            "{name} in\n{}",
            scrape.text
        );
    }
    assert!(
        scrape
            .value("crossdock_store_sync_duration_seconds_count")
            .unwrap()
            > 0.0
    );
    assert!(scrape.value("crossdock_disk_free_bytes").unwrap() > 0.0);
    assert!(scrape.value("process_resident_memory_bytes").unwrap() > 1e6);
    assert!(scrape.value("crossdock_runtime_workers").unwrap() >= 1.0);
    let discarded = ["discard", "--all", "--reason", "a test"];
    sandbox.prints(&[&["exceptions"], &discarded[..]].concat());
    scraped(watched, |now| {
        now.value("crossdock_exceptions_resolved_total{how=\"discarded\"}") == Some(3.0)
    });
    assert_eq!(engine.terminate(), Some(0));
}

#[test]
fn health_says_what_is_wrong_with_an_engine_or_with_one_flow() {
    let web = Receiver::web();
    let (sandbox, watched) = project(&web);
    let engine = sandbox.start();
    for (path, status, part) in [
        ("/healthz/live", 200, "live"),
        ("/healthz/startup", 200, "started"),
        ("/healthz/ready", 200, "ready"),
        ("/healthz/flows/orders", 200, "\"good\""),
        ("/healthz/flows/others", 404, "no flow of this name"),
        ("/elsewhere", 404, "/metrics"),
    ] {
        let (head, body) = get(watched, path, "");
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path}: {head}"
        );
        assert!(body.contains(part), "{path}: {body}");
    }
    assert_eq!(
        sandbox.get("/metrics").unwrap().status,
        404,
        "senders see no numbers"
    );
    web.answers_orders(401);
    order(&sandbox, "1");
    let told = eventually("the flow waits for its system", || {
        let (head, body) = get(watched, "/healthz/flows/orders", "");
        head.starts_with("HTTP/1.1 503 ").then_some(body)
    });
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["causes"], json!(["erp: credentials refused"]));
    assert!(
        get(watched, "/healthz/ready", "")
            .0
            .starts_with("HTTP/1.1 200 "),
        "others may go on"
    );
    drop(engine);
}

#[test]
fn both_forms_of_the_text_keep_their_rules() {
    let web = Receiver::web();
    let (sandbox, watched) = project(&web);
    let _engine = sandbox.start();
    web.answers_orders(201);
    order(&sandbox, "1");
    let (head, plain) = get(watched, "/metrics", "accept: text/plain\r\n");
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    let plain = Scrape::plain(&plain);
    let (head, open) = get(
        watched,
        "/metrics",
        "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n",
    );
    assert!(
        head.contains("application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    let open = Scrape::open(&open);
    let names = |scrape: &Scrape| scrape.values.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&plain), names(&open));
}

/// The spans that a collector has taken.
fn exported(collector: &Receiver) -> Vec<Value> {
    let taken = collector.taken().into_iter();
    let traces = taken.filter(|(head, _)| head.starts_with("POST /v1/traces "));
    let mut spans = Vec::new();
    for (head, body) in traces {
        assert!(head.contains("x-key: let-me-in"), "{head}");
        let body: Value = serde_json::from_str(&body).unwrap();
        let resource = &body["resourceSpans"][0];
        let service = &resource["resource"]["attributes"][0]["value"]["stringValue"];
        assert_eq!(service, "crossdock");
        spans.extend(
            resource["scopeSpans"][0]["spans"]
                .as_array()
                .unwrap()
                .clone(),
        );
    }
    spans
}

/// Two flows, one after the other, and a collector that exports no new traces by chance.
fn traced(web: &Receiver, collector: &Receiver) -> Sandbox {
    let (sandbox, _) = project(web);
    let sandbox = sandbox.variable("OTLP_KEY", "let-me-in");
    sandbox.file(
        "crossdock.yaml",
        &format!(
            "listen: \"{}\"\ntelemetry: {{ otlp: {{ endpoint: \"http://{}\", headers: {{ x-key: \"${{env:OTLP_KEY}}\" }}, sample: 0 }} }}\n",
            sandbox.address(),
            collector.address
        ),
    );
    sandbox.file(
        "flows/orders.yaml",
        "flow: orders
source:
  webhook: { path: /orders, verify: none }
steps:
  - id: short
    filter: number != 'skip'
sinks:
  on: { flow: booking }
",
    );
    sandbox.file(
        "flows/booking.yaml",
        "flow: booking
source: { flow: {} }
sinks:
  erp: { http: { system: erp, post: /book, idempotency_key: number }, retry: { attempts: 1 } }
",
    );
    sandbox
}

#[test]
fn one_trace_leads_from_the_sender_over_two_flows_to_the_system() {
    let (web, collector) = (Receiver::web(), Receiver::web());
    let sandbox = traced(&web, &collector);
    let engine = sandbox.start();
    let sender = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [
        ("content-type", "application/json"),
        ("traceparent", sender),
    ];
    let reply = sandbox.send("POST", "/orders", &headers, b"{\"number\": \"1\"}");
    assert_eq!(reply.unwrap().status, 200);
    let spans = eventually("the spans come", || {
        let spans = exported(&collector);
        (spans.len() >= 5).then_some(spans)
    });
    let named = |name: &str| {
        let found = spans.iter().find(|span| span["name"] == name);
        found
            .unwrap_or_else(|| panic!("no {name} in {spans:#?}"))
            .clone()
    };
    let accepted = named("POST /orders");
    let (first, second) = (named("process orders/short"), named("process booking/erp"));
    let (between, call) = (named("process booking/@accept"), named("POST erp"));
    for (span, parent, kind) in [
        (&accepted, &json!("00f067aa0ba902b7"), 2),
        (&first, &accepted["spanId"], 5),
        (&between, &accepted["spanId"], 5),
        (&second, &accepted["spanId"], 5),
        (&call, &second["spanId"], 3),
    ] {
        assert_eq!(
            span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736",
            "{span:#}"
        );
        assert_eq!(
            (&span["parentSpanId"], &span["kind"]),
            (parent, &json!(kind)),
            "{span:#}"
        );
        assert!(span["status"].is_null(), "{span:#}");
    }
    let booked = web
        .taken()
        .into_iter()
        .find(|(head, _)| head.starts_with("POST /book "));
    let carried = format!(
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01",
        call["spanId"].as_str().unwrap()
    );
    assert!(
        booked.unwrap().0.contains(&carried),
        "the system is told its place"
    );
    // Of a trace that nobody wants only what fails is exported.
    web.answers(422);
    order(&sandbox, "2");
    sandbox.books_at_rest(2);
    web.answers(200);
    order(&sandbox, "3");
    sandbox.books_at_rest(4);
    assert_eq!(engine.terminate(), Some(0));
    let spans = exported(&collector);
    let failed: Vec<&str> = spans[5..]
        .iter()
        .map(|span| span["name"].as_str().unwrap())
        .collect();
    assert_eq!(failed, ["POST erp", "process booking/erp"]);
    assert!(spans[5..].iter().all(|span| span["status"]["code"] == 2));
    assert_ne!(spans[5]["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
}

#[test]
fn a_collector_gets_the_numbers_that_a_scrape_gets() {
    let (web, collector) = (Receiver::web(), Receiver::web());
    let sandbox = traced(&web, &collector);
    let path = sandbox.root().join("crossdock.yaml");
    let settings = std::fs::read_to_string(path).unwrap();
    let often = settings.replace("sample: 0", "sample: 0, metrics: 1s");
    sandbox.file("crossdock.yaml", &often);
    let engine = sandbox.start();
    order(&sandbox, "1");
    order(&sandbox, "skip");
    sandbox.books_at_rest(3);
    let last = || {
        let sent = collector.taken().into_iter();
        let mut sent = sent.filter(|(head, _)| head.starts_with("POST /v1/metrics "));
        let (head, body) = sent.next_back()?;
        assert!(head.contains("x-key: let-me-in"), "{head}");
        Some(serde_json::from_str::<Value>(&body).unwrap())
    };
    let sum = |body: &Value, name: &str, flow: &str| {
        let metrics = &body["resourceMetrics"][0]["scopeMetrics"][0]["metrics"];
        let metrics = metrics.as_array().unwrap().iter();
        let named = metrics.filter(|metric| metric["name"] == name);
        let points = named.flat_map(|metric| metric["sum"]["dataPoints"].as_array().unwrap());
        let of_flow = json!({ "key": "flow", "value": { "stringValue": flow } });
        let points = points.filter(|point| {
            let attributes = point["attributes"].as_array().unwrap();
            attributes.contains(&of_flow)
        });
        let values = points.map(|point| point["asDouble"].as_f64().unwrap());
        values.sum::<f64>() as i64
    };
    eventually("the numbers come", || {
        let body = last()?;
        let received = sum(&body, "crossdock_messages_received", "orders");
        let completed = sum(&body, "crossdock_runs_completed", "booking");
        (received == 2 && completed == 1).then_some(())
    });
    assert_eq!(engine.terminate(), Some(0));
}

/// All words that look like a name of a metric.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let words = words.filter(|word| word.starts_with("crossdock_") || word.starts_with("process_"));
    words.map(str::to_owned).collect()
}

#[test]
fn alerts_and_the_dashboard_ask_only_for_what_there_is() {
    let mut known = BTreeSet::new();
    for word in words::ALL {
        known.insert(word.full_name());
        if let words::Kind::Histogram(_) = word.kind {
            known.extend(["_bucket", "_sum", "_count"].map(|end| format!("{}{end}", word.name)));
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating");
    for file in [
        "prometheus/alerts.yaml",
        "prometheus/alerts.test.yaml",
        "grafana/crossdock.json",
        "telemetry.md",
    ] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let asked = names_in(&text);
        assert!(asked.len() > 4, "{file}: {asked:?}");
        let unknown: Vec<_> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    let dashboard = std::fs::read_to_string(folder.join("grafana/crossdock.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 10);
}

#[test]
fn what_is_served_is_in_the_list_and_has_its_labels() {
    let web = Receiver::web();
    let (sandbox, watched) = project(&web);
    let _engine = sandbox.start();
    order(&sandbox, "1");
    let scrape = Scrape::of(watched);
    for (name, labels) in scrape.families() {
        let word = words::ALL.iter().find(|word| {
            let histogram = matches!(word.kind, words::Kind::Histogram(_));
            let ends = ["_bucket", "_sum", "_count"];
            let part = ends.iter().any(|end| name == format!("{}{end}", word.name));
            name == word.full_name() || (histogram && part)
        });
        let word = word.unwrap_or_else(|| panic!("{name} is not in the list"));
        let mut expected: Vec<&str> = word.labels.to_vec();
        if name.ends_with("_bucket") {
            expected.insert(0, "le");
        }
        assert_eq!(labels, expected, "{name}");
    }
}

#[test]
fn an_engine_that_has_not_started_yet_stops_in_good_order() {
    // It takes a connection and says nothing: a start waits for it.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (sandbox, watched) = project(&Receiver::web());
    let settings = format!(
        "listen: \"{}\"\ntelemetry: {{ metrics: {{ listen: \"{watched}\" }} }}\nhandoff: {{ rabbitmq: {{ urls: ['amqp://{}'], name: early }} }}\n",
        sandbox.address(),
        silent.local_addr().unwrap()
    );
    sandbox.file("crossdock.yaml", &settings);
    let child = sandbox
        .command(&["run"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("it is starting", || {
        TcpStream::connect(watched).is_ok().then_some(())
    });
    let (head, _) = get(watched, "/healthz/startup", "");
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    let number = child.id().to_string();
    Command::new("kill")
        .args(["-TERM", &number])
        .status()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("stopped before it had started"), "{said}");
}
