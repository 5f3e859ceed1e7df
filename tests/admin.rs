//! The admin API over the network: who may what, what is said and done once, what is written down. With the program, and a client of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crossdock::demo::engine::free_address;
use serde_json::{Value, json};

use crate::support::{Running, Sandbox, eventually, text};

mod act;
mod approvals;
mod audit;
mod doors;
mod matrix;
mod people;
mod tokens;

/// A project with two flows that wait for a person, an admin API on the network, and a token for each role that was asked for.
pub struct Site {
    pub sandbox: Sandbox,
    pub admin: SocketAddr,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let name = format!("{}:", name.to_lowercase());
        self.head
            .lines()
            .find(|line| line.to_lowercase().starts_with(&name))
            .map(|line| line[name.len()..].trim())
    }

    /// The problem's code; nothing if it is none.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

const ERP: &str = "erp: { http: { system: erp, post: /orders, idempotency_key: number }, retry: { attempts: 1 } }";

impl Site {
    pub fn new() -> Site {
        Site::with("")
    }

    /// With more settings of `admin`.
    pub fn with(more: &str) -> Site {
        let sandbox = Sandbox::new();
        let admin = free_address().unwrap();
        let webhooks = sandbox.address();
        sandbox.file(
            "crossdock.yaml",
            &format!(
                "listen: \"{webhooks}\"\nadmin: {{ listen: \"{admin}\", rate: 10000/s{more} }}\n"
            ),
        );
        sandbox.file(
            "systems/erp.yaml",
            "system: erp\nhttp: { base_url: 'http://127.0.0.1:9' }\n",
        );
        sandbox.file(
            "schemas/order.v1.json",
            r#"{"type": "object", "required": ["number"], "properties": {"number": {"type": "string"}}}"#,
        );
        for flow in ["orders", "returns"] {
            let text = format!(
                "flow: {flow}\nsource:\n  webhook: {{ path: /{flow}, verify: none }}\naccepts: order.v1\nkeys: {{ order: number }}\nonce: {{ key: order }}\nsteps: []\nsinks:\n  {ERP}\n"
            );
            sandbox.file(&format!("flows/{flow}.yaml"), &text);
        }
        Site { sandbox, admin }
    }

    /// The engine with this many orders, and one return, that wait for a person.
    pub fn start(&self, orders: usize) -> Running {
        self.start_beside(orders, 0)
    }

    /// The same beside so many others that wait.
    pub fn start_beside(&self, orders: usize, others: usize) -> Running {
        let engine = self.sandbox.start();
        for n in 0..orders {
            let body = format!(r#"{{"number":"SECRET-{n}"}}"#);
            let reply = self.sandbox.post("/orders", body.as_bytes());
            assert_eq!(reply.status, 200);
        }
        let reply = self.sandbox.post("/returns", br#"{"number":"R-1"}"#);
        assert_eq!(reply.status, 200);
        eventually("all wait for a person", || {
            let books: Value =
                serde_json::from_str(&self.sandbox.prints(&["books", "--json"])).unwrap();
            (books["all"]["in_exceptions"] == orders + others + 1).then_some(())
        });
        engine
    }

    /// A token with these roles, for all flows or some.
    pub fn token(&self, name: &str, roles: &str, flows: Option<&str>) -> String {
        let mut arguments = vec!["token", "create", "--name", name, "--role", roles];
        arguments.extend(flows.iter().flat_map(|flows| ["--flows", flows]));
        let token = self.sandbox.prints(&arguments).trim().to_owned();
        assert!(
            token.starts_with("crossdock_") && token.len() == 53,
            "{token}"
        );
        token
    }

    pub fn get(&self, path: &str, token: &str) -> Answer {
        self.send("GET", path, token, &[], b"")
    }

    pub fn post(&self, path: &str, token: &str, body: &Value) -> Answer {
        self.send("POST", path, token, &[], body.to_string().as_bytes())
    }

    /// Any request; without a token if it is empty.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        send_to(self.admin, (method, path), token, headers, body)
    }

    /// The first exception of a flow.
    pub fn exception_of(&self, flow: &str) -> i64 {
        let list = self.sandbox.prints(&["exceptions", "--json", "--all"]);
        list.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .find(|row| row["flow"] == flow)
            .unwrap()["id"]
            .as_i64()
            .unwrap()
    }

    /// Who did what to what, and what became of it, the oldest first.
    pub fn audited(&self) -> Vec<Vec<String>> {
        let rows = self.sandbox.prints(&["audit", "--format", "json"]);
        let mut rows: Vec<Vec<String>> = rows
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|row| {
                ["actor", "kind", "via", "action", "target", "outcome"]
                    .map(|field| row[field].as_str().unwrap().to_owned())
                    .to_vec()
            })
            .collect();
        rows.reverse();
        rows
    }
}

/// Any request to an admin API; without a token if it is empty.
pub fn send_to(
    admin: SocketAddr,
    (method, path): (&str, &str),
    token: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    if !token.is_empty() {
        head.push_str(&format!("authorization: Bearer {token}\r\n"));
    }
    if !body.is_empty() {
        head.push_str("content-type: application/json\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    // The webhooks are ready a moment before the API is.
    let mut stream = eventually("the API listens", || TcpStream::connect(admin).ok());
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).ok();
    answer(&mut stream)
}

/// What comes until the other side closes.
pub fn answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok();
    let all = text(&bytes);
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or((&all, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Answer {
        status: status.unwrap_or(0),
        head: head.to_owned(),
        body: serde_json::from_str(body).unwrap_or_else(|_| json!(body)),
    }
}

/// The document as it is served and committed.
pub fn document() -> Value {
    serde_json::to_value(crossdock::admin::routes::document()).unwrap()
}

/// How long something took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    (work(), began.elapsed())
}
