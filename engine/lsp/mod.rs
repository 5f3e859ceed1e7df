//! The language server: findings as you type, completion, hover, definitions, outlines and fixes, over standard input and output. It says what
//! `check` says; it decides nothing itself.
//!
//! One thread reads messages, one looks at the project, and one answers. A look that is under way never delays an answer: answers are made
//! from the texts as they are and from the last look.

use std::collections::VecDeque;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::flow::workspace::{View, Workspace};
use crate::world::World;
use session::{Session, Snapshot};
use wire::Incoming;

mod ask;
mod complete;
mod cursor;
mod findings;
mod ground;
mod keys;
mod names;
mod position;
mod session;
mod symbols;
mod target;
mod wire;
mod within;

/// How long typing must pause before the project is looked at.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a look is put off by typing that does not pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How many messages may wait to be read.
const WAITING_MAX: usize = 1_000;

const NOT_JSON: i64 = -32_700;
const NO_REQUEST: i64 = -32_600;
const NO_METHOD: i64 = -32_601;
const NOT_INITIALIZED: i64 = -32_002;
const CANCELLED: i64 = -32_800;
const TOO_MANY: i64 = -32_803;

/// What the server is started with.
pub struct Options {
    /// The project's folder; without it the editor says it.
    pub root: Option<PathBuf>,
    /// Where variables come from.
    pub world: World,
}

/// What happens.
enum Heard {
    Came(Incoming),
    Looked(Box<(View, Snapshot)>),
}

/// Serves one editor until it says `exit` or goes away. True if it said `shutdown` before.
pub fn serve(
    input: impl Read + Send + 'static,
    output: &mut dyn Write,
    options: Options,
) -> Result<bool, Failure> {
    let (events, happened) = sync_channel(WAITING_MAX);
    let reading = events.clone();
    // It ends with the input; a process that ends does not wait for it.
    let reader = std::thread::Builder::new().name("lsp-read".to_owned());
    reader
        .spawn(move || read(input, &reading))
        .map_err(|error| Failure::internal(format!("no thread to read with: {error}")))?;
    let (ask, asked) = channel::<(PathBuf, Snapshot)>();
    let world = options.world.clone();
    let looker = std::thread::Builder::new().name("lsp-look".to_owned());
    let looker = looker
        .spawn(move || look(&asked, &events, &world))
        .map_err(|error| Failure::internal(format!("no thread to look with: {error}")))?;
    let mut server = Server {
        output,
        root: options.root,
        session: None,
        view: None,
        ask,
        looking: false,
        changed: None,
        waiting: VecDeque::new(),
        shut_down: false,
        broken: None,
    };
    server.run(&happened);
    let (shut_down, broken) = (server.shut_down, server.broken.take());
    drop(server);
    drop(happened);
    looker.join().ok();
    match broken {
        Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::internal(format!("cannot write: {error}")))
        }
        _ => Ok(shut_down),
    }
}

fn read(input: impl Read, events: &SyncSender<Heard>) {
    let mut input = BufReader::new(input);
    loop {
        let came = wire::read(&mut input);
        let end = came == Incoming::End;
        if events.send(Heard::Came(came)).is_err() || end {
            return;
        }
    }
}

/// Looks at the project whenever it is asked to.
fn look(asked: &Receiver<(PathBuf, Snapshot)>, events: &SyncSender<Heard>, world: &World) {
    let mut workspace: Option<Workspace> = None;
    while let Ok((root, snapshot)) = asked.recv() {
        let workspace = workspace.get_or_insert_with(|| Workspace::new(&root, world.clone()));
        let view = workspace.look(&snapshot.texts);
        if events
            .send(Heard::Looked(Box::new((view, snapshot))))
            .is_err()
        {
            return;
        }
    }
}

struct Server<'o> {
    output: &'o mut dyn Write,
    root: Option<PathBuf>,
    session: Option<Session>,
    view: Option<View>,
    ask: Sender<(PathBuf, Snapshot)>,
    /// Whether a look is under way.
    looking: bool,
    /// Since when there are changes that no look has seen, and when the last one came.
    changed: Option<(Instant, Instant)>,
    /// Messages that came and are not answered.
    waiting: VecDeque<Value>,
    shut_down: bool,
    /// Why nothing can be written any more.
    broken: Option<std::io::Error>,
}

impl Server<'_> {
    fn run(&mut self, happened: &Receiver<Heard>) {
        while self.broken.is_none() {
            let event = match self.due() {
                Some(due) => happened.recv_timeout(due),
                None => happened.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let mut goes_on = match event {
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => {
                    self.begin_look();
                    true
                }
                Err(RecvTimeoutError::Disconnected) => false,
            };
            // All that has come is read before anything is answered, so that what is cancelled is not worked on.
            while goes_on && self.waiting.len() < WAITING_MAX {
                match happened.try_recv() {
                    Ok(event) => goes_on = self.take(event),
                    Err(_) => break,
                }
            }
            if self.answer_waiting() || !goes_on {
                return;
            }
        }
    }

    /// How long until a look is due.
    fn due(&self) -> Option<Duration> {
        let (first, last) = self.changed.filter(|_| !self.looking)?;
        let due = (last + PAUSE).min(first + PAUSE_MAX);
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Takes note of what has happened. False if nothing can come any more.
    fn take(&mut self, event: Heard) -> bool {
        match event {
            Heard::Came(Incoming::End) => return false,
            Heard::Came(Incoming::Broken(why)) => {
                self.send(&wire::refusal(&Value::Null, NOT_JSON, &why));
            }
            Heard::Came(Incoming::Message(message)) => match message["method"].as_str() {
                Some("$/cancelRequest") => self.cancel(&message["params"]["id"]),
                _ if self.waiting.len() == WAITING_MAX => {
                    self.send(&wire::refusal(
                        &message["id"],
                        TOO_MANY,
                        "too many requests wait",
                    ));
                }
                _ => self.waiting.push_back(message),
            },
            Heard::Looked(seen) => self.looked(*seen),
        }
        true
    }

    fn looked(&mut self, (view, snapshot): (View, Snapshot)) {
        self.looking = false;
        let told = match &mut self.session {
            Some(session) => session.publish(&view, &snapshot),
            None => Vec::new(),
        };
        for parameters in told {
            self.send(&wire::notice("textDocument/publishDiagnostics", parameters));
        }
        self.view = Some(view);
    }

    fn cancel(&mut self, id: &Value) {
        let at = self.waiting.iter().position(|message| &message["id"] == id);
        if at.and_then(|at| self.waiting.remove(at)).is_some() {
            self.send(&wire::refusal(id, CANCELLED, "cancelled"));
        }
    }

    fn send(&mut self, message: &Value) {
        if let Err(error) = wire::write(self.output, message) {
            self.broken.get_or_insert(error);
        }
    }

    /// Answers what waits, in the order in which it came. True if the editor has said `exit`.
    fn answer_waiting(&mut self) -> bool {
        while let Some(message) = self.waiting.pop_front() {
            let method = message["method"].as_str().unwrap_or_default().to_owned();
            if method == "exit" {
                return true;
            }
            let is_question = message.get("id").is_some();
            let needs_view = is_question && method.starts_with("textDocument/");
            if needs_view && self.session.is_some() && self.view.is_none() {
                if !self.looking {
                    self.begin_look();
                }
                self.waiting.push_front(message);
                return false;
            }
            if is_question {
                let answer = self.answer(&method, &message);
                if let Some(answer) = answer {
                    self.send(&answer);
                }
            } else {
                self.note(&method, &message["params"]);
            }
        }
        false
    }

    /// A notification.
    fn note(&mut self, method: &str, parameters: &Value) {
        let Some(session) = &mut self.session else {
            return;
        };
        let changed = match method {
            "textDocument/didOpen" => session.open(parameters),
            "textDocument/didChange" => session.change(parameters),
            "textDocument/didClose" => session.close(parameters),
            "textDocument/didSave" | "workspace/didChangeWatchedFiles" | "initialized" => true,
            _ => false,
        };
        if changed {
            let now = Instant::now();
            let first = self.changed.map_or(now, |(first, _)| first);
            self.changed = Some((first, now));
        }
    }

    fn begin_look(&mut self) {
        let Some(session) = &self.session else {
            return;
        };
        self.changed = None;
        let asked = (session.root().to_owned(), session.snapshot());
        self.looking = self.ask.send(asked).is_ok();
    }

    /// The answer to a request; nothing for what is an answer itself.
    fn answer(&mut self, method: &str, message: &Value) -> Option<Value> {
        let (id, parameters) = (&message["id"], &message["params"]);
        if method.is_empty() {
            let answers = message.get("result").is_some() || message.get("error").is_some();
            return (!answers).then(|| wire::refusal(id, NO_REQUEST, "a request names its method"));
        }
        if self.shut_down {
            return Some(wire::refusal(id, NO_REQUEST, "the server was shut down"));
        }
        match method {
            "initialize" => {
                let root = self.root.clone().unwrap_or_else(|| root_of(parameters));
                self.session = Some(Session::new(root));
                return Some(wire::answer(id, abilities()));
            }
            "shutdown" => {
                self.shut_down = true;
                return Some(wire::answer(id, Value::Null));
            }
            _ => {}
        }
        let Some(session) = &self.session else {
            return Some(wire::refusal(
                id,
                NOT_INITIALIZED,
                "`initialize` comes first",
            ));
        };
        let answer = self
            .view
            .as_ref()
            .and_then(|view| session.answer(method, parameters, view));
        Some(match answer {
            Some(answer) => wire::answer(id, answer),
            None => wire::refusal(id, NO_METHOD, &format!("there is no method `{method}`")),
        })
    }
}

/// The project's folder, as the editor says it: the nearest folder above that holds a project.
fn root_of(parameters: &Value) -> PathBuf {
    let folder = parameters["workspaceFolders"][0]["uri"].as_str();
    let said = folder.or_else(|| parameters["rootUri"].as_str());
    let said = said.and_then(position::path);
    let said = said.or_else(|| Some(PathBuf::from(parameters["rootPath"].as_str()?)));
    let said = said.unwrap_or_else(|| PathBuf::from("."));
    let said = std::path::absolute(&said).unwrap_or(said);
    let holds =
        |folder: &&Path| folder.join("crossdock.yaml").is_file() || folder.join("flows").is_dir();
    let above = said.ancestors().find(holds).map(Path::to_owned);
    above.unwrap_or(said)
}

/// What the server can do, as `initialize` tells it.
fn abilities() -> Value {
    json!({
        "capabilities": {
            "positionEncoding": "utf-16",
            "textDocumentSync": { "openClose": true, "change": 1, "save": true },
            "completionProvider": { "triggerCharacters": [".", "$", "'", "{", " ", "/"] },
            "hoverProvider": true,
            "definitionProvider": true,
            "documentSymbolProvider": true,
            "codeActionProvider": { "codeActionKinds": ["quickfix"] },
        },
        "serverInfo": { "name": "crossdock", "version": env!("CARGO_PKG_VERSION") },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_cancelled_while_it_waits_is_refused() {
        let mut output: Vec<u8> = Vec::new();
        let (ask, _asked) = channel();
        let mut server = Server {
            output: &mut output,
            root: None,
            session: None,
            view: None,
            ask,
            looking: false,
            changed: None,
            waiting: VecDeque::new(),
            shut_down: false,
            broken: None,
        };
        for message in [
            json!({ "jsonrpc": "2.0", "id": "stays", "method": "textDocument/hover" }),
            json!({ "jsonrpc": "2.0", "id": "late", "method": "textDocument/hover" }),
            json!({ "jsonrpc": "2.0", "method": "$/cancelRequest", "params": { "id": "late" } }),
            json!({ "jsonrpc": "2.0", "method": "$/cancelRequest", "params": { "id": "unheard" } }),
        ] {
            assert!(server.take(Heard::Came(Incoming::Message(message))));
        }
        let waiting: Vec<Value> = server.waiting.iter().map(|one| one["id"].clone()).collect();
        assert_eq!(waiting, ["stays"]);
        drop(server);
        let mut told = BufReader::new(&output[..]);
        let refusal = json!({ "jsonrpc": "2.0", "id": "late", "error": { "code": -32_800, "message": "cancelled" } });
        assert_eq!(wire::read(&mut told), Incoming::Message(refusal));
        assert_eq!(wire::read(&mut told), Incoming::End);
    }
}
