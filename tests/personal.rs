//! Personal data: masked wherever it is shown, seen only by who may and says so, taken out of the store on demand; and taps, which show messages as
//! they pass. With the program, over the admin API, the command line and the log.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;

use crossdock::demo::engine::free_address;
use serde_json::{Value, json};

use crate::admin::{Answer, document, send_to};
use crate::support::{Running, Sandbox, eventually, text};

const EMAIL: &str = "anna.persona@example.org";
/// What of the persona may be nowhere: in small letters, as it is and as it stands in a URL.
const PERSONA: [&str; 4] = [
    "anna.persona",
    "persona-example",
    "persona-neighbour",
    "49151123456789",
];

const FLOW: &str = "flow: orders
source:
  webhook: { path: /orders, verify: none }
accepts: order.v1
keys: { order: number, customer: customer.email }
once: { key: order }
personal: [customer.email, ship_to.name, \"lines[].note\", \"**.phone\"]
steps:
  - id: seen
    log: { level: warn, message: \"order {{number}} of {{customer.email}}\" }
  - id: canonical
    map: canonical
  - id: check
    filter: \"length(contact) > `0`\"
routes:
  first:
    - when: mood == 'bad'
      to: [erp]
    - otherwise: [copy]
sinks:
  erp: { http: { system: erp, post: \"/orders?who={{contact}}\", idempotency_key: number }, retry: { attempts: 1 } }
  copy: { flow: copies }
";

const COPIES: &str = "flow: copies
source: { flow: {} }
keys: { order: number, email: email }
sinks:
  out: { discard: {} }
";

const MAPPING: &str = "mapping: canonical
fields:
  number: number
  mood: mood
  contact: customer.email
  email: lower(customer.email)
  label: \"join(' / ', [ship_to.name, number])\"
  notes: lines[].note
";

struct Site {
    sandbox: Sandbox,
    admin: SocketAddr,
}

impl Site {
    fn new() -> Site {
        let sandbox = Sandbox::new();
        let admin = free_address().unwrap();
        let webhooks = sandbox.address();
        sandbox.file(
            "crossdock.yaml",
            &format!("listen: \"{webhooks}\"\nadmin: {{ listen: \"{admin}\", rate: 10000/s }}\n"),
        );
        sandbox.file(
            "systems/erp.yaml",
            "system: erp\nhttp: { base_url: 'http://127.0.0.1:9' }\n",
        );
        sandbox.file(
            "schemas/order.v1.json",
            r#"{"type": "object", "required": ["number", "customer", "ship_to"], "properties": {
              "number": {"type": "string"}, "mood": {"type": "string", "maxLength": 20},
              "customer": {"type": "object", "required": ["email"], "properties": {"email": {"type": "string", "maxLength": 30}, "phone": {"type": "string"}}},
              "ship_to": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
              "lines": {"type": "array", "items": {"type": "object", "properties": {"note": {"type": "string"}}}}}}"#,
        );
        sandbox.file("mappings/canonical.yaml", MAPPING);
        sandbox.file("flows/orders.yaml", FLOW);
        sandbox.file("flows/copies.yaml", COPIES);
        Site { sandbox, admin }
    }

    fn order(&self, number: &str, mood: &str, email: &str) -> u16 {
        let body = json!({
            "number": number, "mood": mood, "customer": { "email": email, "phone": "49151123456789" },
            "ship_to": { "name": "Anna Persona-Example" }, "lines": [{ "note": "to the Persona-Neighbour" }],
        });
        let sent = self.sandbox.post("/orders", body.to_string().as_bytes());
        sent.status
    }

    /// An engine with one order that was delivered, one that the ERP did not take, and one that breaks the contract.
    fn start(&self) -> Running {
        let engine = self.sandbox.start();
        assert_eq!(self.order("SO-1", "good", EMAIL), 200);
        assert_eq!(self.order("SO-2", "bad", EMAIL), 200);
        let long = format!("{EMAIL}.and.a.long.domain.example");
        assert_eq!(self.order("SO-3", "good", &long), 200);
        eventually("one order is through, and two wait for a person", || {
            let books: Value =
                serde_json::from_str(&self.sandbox.prints(&["books", "--json"])).unwrap();
            let all = &books["all"];
            (all["in_exceptions"] == 2 && all["delivered"] == 2).then_some(())
        });
        engine
    }

    fn token(&self, role: &str) -> String {
        let arguments = ["token", "create", "--name", role, "--role", role];
        self.sandbox.prints(&arguments).trim().to_owned()
    }

    fn get(&self, path: &str, token: &str) -> Answer {
        let path = format!("/api/v1{path}");
        send_to(self.admin, ("GET", &path), token, &[], b"")
    }

    fn post(&self, path: &str, token: &str, body: &Value) -> Answer {
        let path = format!("/api/v1{path}");
        let body = body.to_string();
        send_to(self.admin, ("POST", &path), token, &[], body.as_bytes())
    }

    fn rows(&self, arguments: &[&str]) -> Vec<Value> {
        let rows = self.sandbox.prints(arguments);
        rows.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// What the audit log says of an action: who, about what, with what detail.
    fn audited(&self, action: &str) -> Vec<Value> {
        self.rows(&["audit", "--format", "json", "--action", action])
    }
}

fn hides(where_: &str, shown: &str) {
    let shown = shown.to_lowercase();
    for word in PERSONA {
        assert!(!shown.contains(word), "{where_} shows `{word}`:\n{shown}");
    }
}

/// All addresses of a path of the document, with what there is filled in.
fn addresses(path: &str) -> Vec<String> {
    let encoded = EMAIL.replace('@', "%40");
    if path == "/search" {
        return vec![format!("/search?q={encoded}"), "/search?q=SO-2".to_owned()];
    }
    if path.contains("{name}/{value}") {
        return [
            format!("customer/{encoded}"),
            format!("email/{encoded}"),
            "order/SO-1".to_owned(),
        ]
        .map(|key| path.replace("{name}/{value}", &key))
        .to_vec();
    }
    let path = path.replace("{flow}", "orders").replace("{name}", "viewer");
    if !path.contains('{') {
        return vec![path.clone(), format!("{path}?limit=1")];
    }
    (1..=4)
        .map(|n| {
            path.replace("{run}", &n.to_string())
                .replace("{id}", &n.to_string())
        })
        .collect()
}

#[test]
fn a_persona_is_shown_nowhere_to_whoever_does_not_ask_or_may_not() {
    let site = Site::new();
    let engine = site.start();
    let roles = ["viewer", "business", "operator", "engineer", "admin"];
    let tokens = roles.map(|role| (role, site.token(role)));
    let list = [
        "replay",
        "--flow",
        "orders",
        "--state",
        "delivered",
        "--key",
        EMAIL,
    ];
    let list = [&list[..], &["--verb", "rerun"]].concat();
    assert!(site.sandbox.crossdock(&list).status.success());
    let mut asked = 0;
    let mut masked = 0;
    // The whole table: a path that is added shows nothing either.
    for (path, item) in document()["paths"].as_object().unwrap() {
        let path = path.strip_prefix("/api/v1").unwrap();
        let streams = path == "/changes" || path.ends_with("/tap");
        if streams || item.get("get").is_none() {
            continue;
        }
        for address in addresses(path) {
            for (role, token) in &tokens {
                let answer = site.get(&address, token);
                let shown = format!("{}\n{}", answer.head, answer.body);
                hides(&format!("GET {address} as {role}"), &shown);
                asked += 1;
                masked += usize::from(shown.contains("[personal]"));
            }
        }
    }
    assert!(asked > 100 && masked > 20, "{asked} asked, {masked} masked");
    for arguments in [
        &["runs"][..],
        &["runs", "--json"],
        &["runs", "1"],
        &["runs", "2", "--json"],
        &["runs", "3"],
        &["journey", "SO-1"],
        &["journey", "order=SO-2", "--json"],
        &["exceptions"],
        &["exceptions", "--json"],
        &["exceptions", "--issues"],
        &["exceptions", "1"],
        &["exceptions", "2", "--json"],
        &["replays"],
        &["simulate", "orders", "--json"],
        &["audit"],
    ] {
        let shown = site.sandbox.crossdock(arguments);
        hides(&format!("{arguments:?}"), &text(&shown.stdout));
    }
    assert!(engine.log().contains("order SO-1 of [personal]"));
    hides("the log", &engine.log());
    // Who knows the value finds the runs.
    assert!(site.sandbox.prints(&["journey", EMAIL]).contains("SO-1"));
}

#[test]
fn who_may_and_says_so_sees_it_and_that_is_written_down() {
    let site = Site::new();
    let _engine = site.start();
    let exceptions = site.rows(&["exceptions", "--json"]);
    let refused = exceptions.iter().find(|row| row["step"] == "erp").unwrap();
    let path = format!("/exceptions/{}?reveal=true", refused["id"]);
    for role in ["viewer", "business", "operator", "engineer"] {
        let answer = site.get(&path, &site.token(role));
        assert_eq!(answer.status, 403, "{role}: {answer:?}");
    }
    assert!(site.audited("personal.reveal").is_empty());
    let privacy = site.token("privacy");
    let answer = site.get(&path, &privacy);
    let shown = answer.body.to_string();
    assert!(
        shown.contains(EMAIL) && shown.contains("anna.persona%40example.org"),
        "{shown}"
    );
    let run = refused["run"].to_string();
    let shown = site.sandbox.prints(&["runs", &run, "--reveal", "--json"]);
    assert!(shown.contains(EMAIL), "{shown}");
    let id = refused["id"].to_string();
    let rows = site.audited("personal.reveal");
    let told: Vec<_> = rows
        .iter()
        .map(|row| (&row["actor"], &row["target"]))
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        rows.iter()
            .any(|row| row["actor"] == "privacy" && row["target"].as_str() == Some(&id))
    );
}

#[test]
fn a_mask_never_goes_out_in_the_place_of_what_it_hides() {
    let site = Site::new();
    let _engine = site.start();
    let exceptions = site.rows(&["exceptions", "--json"]);
    let broken = exceptions
        .iter()
        .find(|row| row["step"] == "@accept")
        .unwrap();
    let operator = site.token("operator");
    let path = format!("/exceptions/{}", broken["id"]);
    let body = site.get(&path, &operator).body["accepted"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(body.contains("[personal]"), "{body}");
    let edit =
        json!({ "verb": { "edit": { "body": body, "reason": "the address was too long" } } });
    let answer = site.post(&format!("{path}:act"), &operator, &edit);
    assert_eq!(
        (answer.status, answer.code()),
        (409, "refused"),
        "{answer:?}"
    );
    assert!(answer.body["detail"].as_str().unwrap().contains("--reveal"));
}

#[test]
fn what_is_erased_is_gone_and_a_repeat_of_it_is_still_known() {
    let site = Site::new();
    let mut engine = site.start();
    let key = format!("customer={EMAIL}");
    let erase = |more: &[&str]| {
        let arguments = [&["erase", &key, "--json"], more].concat();
        let output = site.sandbox.crossdock(&arguments);
        let erased: Value = serde_json::from_str(&text(&output.stdout)).unwrap();
        (erased, output.status.code())
    };
    let (would, code) = erase(&[]);
    assert_eq!(
        (&would["runs"], &would["left"], &would["dry_run"]),
        (&json!(2), &json!(1), &json!(true)),
        "{would}"
    );
    assert_eq!(code, Some(1));
    assert!(site.audited("personal.erase").is_empty());
    let viewer = site.post(
        "/personal:erase",
        &site.token("operator"),
        &json!({ "key": key, "why": "x" }),
    );
    assert_eq!(viewer.status, 403);
    let (erased, _) = erase(&["--reason", "request 17"]);
    assert_eq!(
        (&erased["runs"], &erased["keys"]),
        (&json!(2), &json!(3)),
        "{erased}"
    );
    assert_eq!(erased["waits_for"][0]["flow"], "orders");
    let (again, _) = erase(&["--reason", "request 17"]);
    assert_eq!(again["runs"], 0);
    // The journey keeps what happened.
    let journey = site.sandbox.prints(&["journey", "order=SO-1"]);
    assert!(
        journey.contains("delivered, erased") && journey.contains("copies"),
        "{journey}"
    );
    let run = site.rows(&["journey", "order=SO-1", "--json"]);
    let run = run.iter().find(|run| run["flow"] == "orders").unwrap()["run"].to_string();
    let refused = site.sandbox.crossdock(&["replay", "rerun", &run]);
    assert!(
        text(&refused.stderr).contains("its body was erased"),
        "{refused:?}"
    );
    // A repeat of the erased order is one.
    assert_eq!(site.order("SO-1", "good", EMAIL), 200);
    let books = site.sandbox.prints(&["books", "--json"]);
    let books: Value = serde_json::from_str(&books).unwrap();
    assert_eq!(books["all"]["duplicates"], 1, "{books}");
    let rows = site.audited("personal.erase");
    assert!(
        rows[0]["target"]
            .as_str()
            .unwrap()
            .starts_with("customer=sha256:")
    );
    hides("the audit log", &json!(rows).to_string());
    // What waited for a person can be erased once it is settled.
    let exceptions = site.rows(&["exceptions", "--json", "--flow", "orders"]);
    for row in &exceptions {
        let id = row["id"].to_string();
        site.sandbox
            .prints(&["exceptions", "discard", &id, "--reason", "a test"]);
    }
    let (rest, code) = erase(&["--reason", "request 17"]);
    assert_eq!(
        (&rest["runs"], &rest["left"], code),
        (&json!(1), &json!(0), Some(0)),
        "{rest}"
    );
    assert!(engine.lives());
    assert_eq!(engine.terminate(), Some(0));
    let audit = site.sandbox.prints(&["audit", "verify"]);
    assert!(!audit.is_empty());
}

/// A tap as a child of this process; it ends by itself.
fn tap(site: &Site, more: &[&str]) -> std::process::Child {
    let mut command = site
        .sandbox
        .command(&["tap", "orders", "--json", "--for", "5m"]);
    let command = command
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn a_tap_shows_messages_as_they_pass_masked_and_ends_by_itself() {
    let site = Site::new();
    let _engine = site.start();
    let tapped = tap(&site, &["--limit", "4"]);
    let late = tap(&site, &["--limit", "1", "--step", "copy"]);
    eventually("both taps are open", || {
        (site.audited("flow.tap").len() == 2).then_some(())
    });
    assert_eq!(site.order("SO-9", "good", EMAIL), 200);
    let tapped = tapped.wait_with_output().unwrap();
    let shown = text(&tapped.stdout);
    assert_eq!(
        tapped.status.code(),
        Some(0),
        "{shown}{}",
        text(&tapped.stderr)
    );
    hides("a tap", &shown);
    let rows: Vec<Value> = shown
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let steps: Vec<_> = rows
        .iter()
        .map(|row| row["step"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["seen", "canonical", "check", "copy"]);
    assert_eq!(
        rows[1]["keys"],
        json!({ "order": "SO-9", "customer": "[personal]" })
    );
    let body: Value = serde_json::from_str(rows[1]["body"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&body["number"], &body["contact"]),
        (&json!("SO-9"), &json!("[personal]"))
    );
    let late = late.wait_with_output().unwrap();
    assert!(text(&late.stdout).contains("\"step\":\"copy\""));
    let wrong = site.sandbox.crossdock(&["tap", "orders", "--step", "erb"]);
    assert!(
        text(&wrong.stderr).contains("has no step `erb`"),
        "{wrong:?}"
    );
}

/// Opens a tap as a stream and waits until it is there.
fn listen(site: &Site, token: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(site.admin).unwrap();
    let request = format!(
        "GET /api/v1/flows/orders/tap?seconds=600 HTTP/1.1\r\nhost: admin\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while !line.contains("tapped") {
        line.clear();
        assert!(
            reader.read_line(&mut line).unwrap() > 0,
            "the tap has closed"
        );
    }
    reader
}

#[test]
fn there_are_a_few_taps_at_once_and_who_may_see_no_bodies_sees_none() {
    let site = Site::new();
    let engine = site.start();
    let viewer = site.token("viewer");
    let mut open: Vec<_> = (0..4).map(|_| listen(&site, &viewer)).collect();
    let fifth = site.get("/flows/orders/tap", &viewer);
    assert_eq!(
        (fifth.status, fifth.code()),
        (429, "throttled"),
        "{fifth:?}"
    );
    assert_eq!(site.get("/flows/orders/tap?limit=0", &viewer).status, 400);
    assert_eq!(site.get("/flows/nothing/tap", &viewer).status, 404);
    assert_eq!(site.order("SO-9", "good", EMAIL), 200);
    let mut one = open.pop().unwrap();
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        assert!(one.read_line(&mut line).unwrap() > 0);
    }
    assert!(
        line.contains("SO-9") && !line.contains("\"body\""),
        "{line}"
    );
    hides("a viewer's tap", &line);
    // Whoever goes away makes room, as soon as the engine has something to say to them.
    drop(one);
    let mut number = 10;
    eventually("there is room for another tap", || {
        number += 1;
        assert_eq!(site.order(&format!("SO-{number}"), "good", EMAIL), 200);
        let again = site.get("/flows/orders/tap?limit=1&seconds=1", &viewer);
        (again.status == 200).then_some(())
    });
    let mut next = open.pop().unwrap();
    assert_eq!(engine.terminate(), Some(0));
    let mut rest = String::new();
    next.read_to_string(&mut rest).ok();
    assert!(rest.contains("event: end"), "{rest}");
}

#[test]
fn a_path_that_the_body_cannot_have_is_a_finding() {
    let site = Site::new();
    let paths = "personal: [customer.emial, \"**.phone\", \"a..b\", lower(number)]";
    let flow = FLOW.replace(
        "personal: [customer.email, ship_to.name, \"lines[].note\", \"**.phone\"]",
        paths,
    );
    assert!(flow.contains(paths));
    site.sandbox.file("flows/orders.yaml", &flow);
    let output = site.sandbox.crossdock(&["check", "--format", "json"]);
    let found = text(&output.stdout);
    assert!(
        found.contains("emial") && found.contains("did you mean"),
        "{found}"
    );
    assert!(found.contains("a name is missing"), "{found}");
    assert!(found.contains("only names"), "{found}");
}
