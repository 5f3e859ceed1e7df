//! A client of the language server: what an editor does, with bounded patience.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::Sandbox;

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// An editor, and the server that it has started; killed when it goes out of scope.
pub struct Client {
    child: Child,
    input: Option<ChildStdin>,
    messages: Receiver<Value>,
    /// What was told last of each file.
    told: HashMap<String, Vec<Value>>,
    answers: Vec<Value>,
    versions: HashMap<String, i64>,
    root: String,
    last: i64,
}

impl Client {
    /// Starts the server for a project and introduces itself.
    pub fn start(sandbox: &Sandbox) -> Client {
        let mut child = sandbox
            .command(&["lsp", "--stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (sender, messages) = channel();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            while let Some(message) = read(&mut output) {
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let mut client = Client {
            input: child.stdin.take(),
            child,
            messages,
            told: HashMap::new(),
            answers: Vec::new(),
            versions: HashMap::new(),
            root: format!("file://{}", sandbox.root().display()),
            last: 0,
        };
        let root = client.root.clone();
        let abilities =
            client.request("initialize", json!({ "rootUri": root, "capabilities": {} }));
        assert_eq!(
            abilities["capabilities"]["positionEncoding"], "utf-16",
            "{abilities}"
        );
        client.send(&json!({ "jsonrpc": "2.0", "method": "initialized", "params": {} }));
        client
    }

    pub fn uri(&self, path: &str) -> String {
        format!("{}/{path}", self.root)
    }

    pub fn open(&mut self, path: &str, text: &str) {
        let document =
            json!({ "uri": self.uri(path), "languageId": "yaml", "version": 1, "text": text });
        self.versions.insert(path.to_owned(), 1);
        self.tell("textDocument/didOpen", json!({ "textDocument": document }));
    }

    pub fn change(&mut self, path: &str, text: &str) {
        let version = self.versions.get_mut(path).unwrap();
        *version += 1;
        let document = json!({ "uri": format!("{}/{path}", self.root), "version": version });
        let changes = json!({ "textDocument": document, "contentChanges": [{ "text": text }] });
        self.tell("textDocument/didChange", changes);
    }

    pub fn close(&mut self, path: &str) {
        let document = json!({ "uri": self.uri(path) });
        self.tell("textDocument/didClose", json!({ "textDocument": document }));
    }

    /// Asks about a file.
    pub fn ask(&mut self, method: &str, path: &str, mut parameters: Value) -> Value {
        parameters["textDocument"] = json!({ "uri": self.uri(path) });
        self.request(method, parameters)
    }

    /// Waits until the findings of a file are as wanted.
    pub fn findings(&mut self, path: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let uri = self.uri(path);
        self.until(|client| {
            let told = client.told.get(&uri)?;
            wanted(told).then(|| told.clone())
        })
    }

    /// Waits for the answer to a request.
    pub fn answer(&mut self, id: &Value) -> Value {
        self.until(|client| {
            let at = client
                .answers
                .iter()
                .position(|answer| &answer["id"] == id)?;
            Some(client.answers.remove(at))
        })
    }

    pub fn send(&mut self, message: &Value) {
        let text = message.to_string();
        self.raw(&format!("Content-Length: {}\r\n\r\n{text}", text.len()));
    }

    pub fn raw(&mut self, text: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    /// Says good-bye; the exit code of the server.
    pub fn leave(mut self) -> Option<i32> {
        assert_eq!(self.request("shutdown", Value::Null), Value::Null);
        self.send(&json!({ "jsonrpc": "2.0", "method": "exit" }));
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the server does not end");
    }

    fn tell(&mut self, method: &str, parameters: Value) {
        // What was told until now is taken in first. It goes on to count until the server tells something else.
        if let Some(uri) = parameters["textDocument"]["uri"].as_str() {
            let uri = uri.to_owned();
            self.take_all();
            if method == "textDocument/didClose" {
                self.versions
                    .retain(|path, _| format!("{}/{path}", self.root) != uri);
            }
        }
        self.send(&json!({ "jsonrpc": "2.0", "method": method, "params": parameters }));
    }

    fn request(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let id = json!(self.last);
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": parameters }));
        let answer = self.answer(&id);
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    fn until<T>(&mut self, ready: impl Fn(&mut Client) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = ready(self) {
                return found;
            }
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let message = self.messages.recv_timeout(left);
            self.take(message.unwrap_or_else(|_| panic!("nothing came: {:?}", self.told)));
        }
    }

    fn take_all(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            self.take(message);
        }
    }

    fn take(&mut self, message: Value) {
        if message["method"] == "textDocument/publishDiagnostics" {
            let uri = message["params"]["uri"].as_str().unwrap().to_owned();
            let list = message["params"]["diagnostics"].as_array().unwrap().clone();
            self.told.insert(uri, list);
        } else {
            self.answers.push(message);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn read(output: &mut impl BufRead) -> Option<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        output.read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.trim().strip_prefix("Content-Length: ") {
            Some(number) => length = number.parse().unwrap(),
            None if line.trim().is_empty() => break,
            None => {}
        }
    }
    let mut bytes = vec![0; length];
    output.read_exact(&mut bytes).ok()?;
    Some(serde_json::from_slice(&bytes).unwrap())
}
