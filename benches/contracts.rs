//! Measures of what is found before anything runs: `check` with typing of 1,000 flows, 1,000 mappings and 200 schemas without a cache, and
//! one changed file of them in the language server.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::measure::Line;

/// How many flows there are, each with a mapping of its own.
const FLOWS: usize = 1_000;
/// How many pairs of schemas they go between.
const PAIRS: usize = 100;
/// How often a file is changed.
const CHANGES: usize = 21;

/// Prints both.
pub fn run(lines: &mut Vec<Line>) {
    let folder = tempfile::tempdir().expect("a folder");
    write_project(folder.path());
    let took = crate::absolutes::check(folder.path());
    lines.push(
        Line::below("check-typed-1000-flows", took.as_secs_f64(), "s", 5.0).with(format!(
            "{FLOWS} flows, {FLOWS} mappings, {} schemas, no cache",
            2 * PAIRS
        )),
    );
    let took = changes(folder.path());
    lines.push(
        Line::below(
            "language-server-change",
            took[took.len() / 2].as_secs_f64() * 1e3,
            "ms",
            500.0,
        )
        .with(format!(
            "from a change of one mapping among {FLOWS} to what is found in it, median of {}; slowest {:.0} ms",
            took.len(),
            took[took.len() - 1].as_secs_f64() * 1e3
        )),
    );
}

/// Changes a mapping to and fro in the language server, and waits each time for what is said of it; sorted.
fn changes(folder: &Path) -> Vec<Duration> {
    let mut editor = Editor::open(folder);
    let path = "mappings/map-500.yaml";
    let good = std::fs::read_to_string(folder.join(path)).expect("a mapping");
    let bad = good.replace("upper(sku)", "upper(skew)");
    assert_ne!(good, bad);
    let uri = format!("file://{}", folder.join(path).display());
    editor.tell(
        "textDocument/didOpen",
        json!({ "textDocument": { "uri": uri, "languageId": "yaml", "version": 0, "text": bad } }),
    );
    editor.wait_until(&uri, |found| found > 0);
    let mut took: Vec<Duration> = (1..=CHANGES)
        .map(|version| {
            let sound = version % 2 == 1;
            let text = if sound { &good } else { &bad };
            let began = Instant::now();
            editor.tell(
                "textDocument/didChange",
                json!({
                    "textDocument": { "uri": uri, "version": version },
                    "contentChanges": [{ "text": text }]
                }),
            );
            editor.wait_until(&uri, |found| (found == 0) == sound);
            began.elapsed()
        })
        .collect();
    took.sort();
    took
}

/// What an editor has of the language server.
struct Editor {
    server: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Editor {
    fn open(folder: &Path) -> Editor {
        let mut server = Command::new(env!("CARGO_BIN_EXE_crossdock"))
            .args(["lsp", "--project"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("crossdock lsp");
        let to = server.stdin.take().expect("its input");
        let from = BufReader::new(server.stdout.take().expect("its output"));
        let mut editor = Editor { server, to, from };
        let capabilities = json!({ "capabilities": {}, "processId": null, "rootUri": format!("file://{}", folder.display()) });
        editor.send(
            json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": capabilities }),
        );
        while editor.next()["id"] != 1 {}
        editor.tell("initialized", json!({}));
        editor
    }

    fn tell(&mut self, method: &str, params: Value) {
        self.send(json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    }

    fn send(&mut self, message: Value) {
        let text = message.to_string();
        write!(self.to, "Content-Length: {}\r\n\r\n{text}", text.len()).expect("written");
        self.to.flush().expect("written");
    }

    fn next(&mut self) -> Value {
        let mut length = 0;
        loop {
            let mut line = String::new();
            let read = self.from.read_line(&mut line).expect("read");
            assert!(read > 0, "the language server has ended");
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some(given) = line.strip_prefix("Content-Length: ") {
                length = given.parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        self.from.read_exact(&mut body).expect("read");
        serde_json::from_slice(&body).expect("JSON")
    }

    /// Waits until so many findings are said of a file.
    fn wait_until(&mut self, uri: &str, enough: impl Fn(usize) -> bool) {
        loop {
            let said = self.next();
            if said["method"] == "textDocument/publishDiagnostics"
                && said["params"]["uri"] == uri
                && said["params"]["diagnostics"]
                    .as_array()
                    .is_some_and(|found| enough(found.len()))
            {
                return;
            }
        }
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

/// Flows and mappings that differ pairwise in names, conditions and expressions, between schemas that many of them share.
pub fn write_project(folder: &Path) {
    for kind in ["flows", "mappings", "schemas/in", "schemas/out"] {
        std::fs::create_dir_all(folder.join(kind)).expect("a folder");
    }
    let write = |path: String, text: String| {
        std::fs::write(folder.join(path), text).expect("written");
    };
    for pair in 0..PAIRS {
        write(
            format!("schemas/in/order-{pair}.v1.json"),
            format!(
                r##"{{"type":"object","required":["number","status","customer","lines","total_{pair}"],"additionalProperties":false,
"properties":{{"number":{{"type":"string","minLength":1,"maxLength":20}},"status":{{"enum":["open","paid","cancelled"]}},"note":{{"type":["string","null"]}},"total_{pair}":{{"$ref":"#/$defs/money"}},
"customer":{{"type":"object","required":["code"],"additionalProperties":false,"properties":{{"code":{{"type":"string","minLength":5,"maxLength":5}},"email":{{"type":"string","format":"email"}},"address":{{"type":"object","properties":{{"city":{{"type":"string"}},"zip":{{"type":"string"}},"country":{{"enum":["DE","AT","CH"]}}}}}}}}}},
"lines":{{"type":"array","minItems":1,"items":{{"type":"object","required":["sku","price","quantity"],"additionalProperties":false,"properties":{{"sku":{{"type":"string","minLength":1}},"price":{{"$ref":"#/$defs/money"}},"quantity":{{"type":"integer","minimum":1}},"text":{{"type":"string"}}}}}}}}}},
"$defs":{{"money":{{"type":"string","pattern":"^[0-9]+[.][0-9]{{2}}$"}}}}}}"##
            ),
        );
        write(
            format!("schemas/out/order-{pair}.v1.json"),
            format!(
                r#"{{"type":"object","required":["order_number","customer","lines"],"additionalProperties":false,
"properties":{{"order_number":{{"type":"string","minLength":1}},"state_{pair}":{{"type":"string"}},"customer":{{"type":"string","minLength":5,"maxLength":5}},"remark":{{"type":"string"}},"city":{{"type":["string","null"]}},"total":{{"type":"string"}},
"lines":{{"type":"array","minItems":1,"items":{{"type":"object","required":["item","amount"],"additionalProperties":false,"properties":{{"item":{{"type":"string","minLength":1}},"count":{{"type":"integer"}},"amount":{{"type":"string"}}}}}}}}}}}}"#
            ),
        );
    }
    for n in 0..FLOWS {
        let pair = n % PAIRS;
        write(
            format!("flows/flow-{n}.yaml"),
            format!(
                "flow: flow-{n}\nsource:\n  webhook: {{ path: /hooks/{n}, verify: none }}\naccepts: in/order-{pair}.v1\nkeys: {{ order: number, customer: customer.code }}\nonce: {{ key: order, keep: 30d }}\nsteps:\n  - id: live-{n}\n    filter: status != 'cancelled' && length(lines) > `{few}`\n  - id: shape-{n}\n    map: map-{n}\n  - id: check-{n}\n    validate: out/order-{pair}.v1\nroutes:\n  first:\n    - when: length(lines) > `{many}`\n      to: [review]\n    - otherwise: [book, audit]\nsinks:\n  review: {{ discard: {{}} }}\n  book: {{ file: {{ path: \"out/{n}/{{{{order_number}}}}.json\", format: json, mode: replace }} }}\n  audit: {{ file: {{ path: \"audit/{n}-{{{{@today}}}}.jsonl\", format: jsonl }} }}\n",
                few = n % 3,
                many = 10 + n,
            ),
        );
        write(
            format!("mappings/map-{n}.yaml"),
            format!(
                "mapping: map-{n}\nfrom: in/order-{pair}.v1\nto: out/order-{pair}.v1\nfields:\n  order_number: number\n  state_{pair}: \"status == 'paid' && 'P{n}' || 'O{n}'\"\n  customer: customer.code\n  remark: not_null(note, 'none-{n}')\n  city: customer.address.city\n  lines:\n    - each: lines\n      fields:\n        item: upper(sku)\n        count: quantity\n        amount: fixed(multiply(decimal(price), quantity), `2`)\n  total: fixed(sum(lines[].multiply(decimal(price), quantity)), `2`)\n"
            ),
        );
    }
}
