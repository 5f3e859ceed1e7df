//! A sandbox for tests of the program: a temporary project, a free port, the engine as a child that never outlives the test.

#[allow(dead_code, reason = "scenarios of several engines use all of it")]
pub mod broker;
pub mod cluster;
#[allow(dead_code, reason = "the unit tests of sources use all of it")]
pub mod fake;
pub mod feed;
mod ground;
pub mod postgres;
pub mod provider;
pub mod proxy;
pub mod receiver;
pub mod shim;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crossdock::demo::engine::free_address;
use ground::Ground;

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A project in a temporary folder.
pub struct Sandbox {
    ground: std::rc::Rc<Ground>,
    root: PathBuf,
    address: SocketAddr,
    variables: Vec<(String, String)>,
}

/// A running engine; killed when it goes out of scope.
pub struct Running {
    child: Child,
    log: PathBuf,
}

/// What came back over HTTP.
pub struct Reply {
    pub status: u16,
    pub body: String,
}

impl Sandbox {
    /// An empty project; its settings listen on a free port.
    pub fn new() -> Sandbox {
        let ground = std::rc::Rc::new(Ground::new());
        let root = ground.path().to_owned();
        let address = free_address().unwrap();
        let sandbox = Sandbox {
            ground,
            root,
            address,
            variables: Vec::new(),
        };
        sandbox.file("crossdock.yaml", &format!("listen: \"{address}\"\n"));
        sandbox
    }

    /// The same sandbox, with a project in a folder below.
    pub fn below(&self, folder: &str) -> Sandbox {
        Sandbox {
            ground: self.ground.clone(),
            root: self.root.join(folder),
            address: self.address,
            variables: self.variables.clone(),
        }
    }

    /// Sets an environment variable for every command. What is a secret by its name, or as the password of a URL, may be found nowhere
    /// afterwards: in no file, no output, no answer.
    pub fn variable(mut self, name: &str, value: &str) -> Sandbox {
        self.ground.variable(name, value);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The project's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the engine listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes a file of the project.
    pub fn file(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        self.ground.wrote(&path);
    }

    /// All files whose path begins with `prefix`, joined in the order of their names.
    pub fn read_all(&self, prefix: &str) -> String {
        let folder = self.root().join(prefix);
        let Ok(entries) = std::fs::read_dir(folder) else {
            return String::new();
        };
        let mut paths: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .collect();
        paths.sort();
        paths
            .iter()
            .map(|path| std::fs::read_to_string(path).unwrap())
            .collect()
    }

    /// Runs a command of the program to its end, in the project's folder.
    pub fn crossdock(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        self.heard(&output);
        output
    }

    fn heard(&self, output: &Output) {
        self.ground.heard(&output.stdout, "a command");
        self.ground.heard(&output.stderr, "a command");
    }

    /// The same with something on standard input.
    pub fn crossdock_with(&self, arguments: &[&str], text: &str) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let text = text.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().ok();
        self.heard(&output);
        output
    }

    /// What a command prints; it must end with exit code 0.
    pub fn prints(&self, arguments: &[&str]) -> String {
        let output = self.crossdock(arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success(),
            "{arguments:?}: {:?}\n{out}{err}",
            output.status
        );
        out
    }

    /// Starts the engine and waits until it is ready.
    pub fn start(&self) -> Running {
        self.start_with(&[])
    }

    /// The same with more arguments.
    pub fn start_with(&self, arguments: &[&str]) -> Running {
        let log = self.root().join("engine.log");
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let child = self
            .command(&["run"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        let mut running = Running { child, log };
        let began = Instant::now();
        loop {
            if self
                .get("/healthz/ready")
                .is_some_and(|reply| reply.status == 200)
            {
                return running;
            }
            let ended = running.child.try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < PATIENCE,
                "the engine is not ready: {ended:?}\n{}",
                running.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A GET to the engine; `None` if it does not answer.
    pub fn get(&self, path: &str) -> Option<Reply> {
        self.send("GET", path, &[], b"")
    }

    /// A POST to the engine.
    pub fn post(&self, path: &str, body: &[u8]) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], body)
            .expect("the engine answers")
    }

    /// Any request; `None` if there was no answer.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Reply> {
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        self.ground.heard(&answer, "an answer");
        let answer = text(&answer);
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let body = answer
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned())
            .unwrap_or_default();
        Some(Reply { status, body })
    }

    /// Waits until the books have nothing in flight and at least this many messages received, and gives them.
    pub fn books_at_rest(&self, received: i64) -> serde_json::Value {
        eventually("the books come to rest", || {
            let books: serde_json::Value =
                serde_json::from_str(&self.prints(&["books", "--json"])).unwrap();
            let all = &books["all"];
            (all["received"].as_i64()? >= received && all["in_flight"] == 0)
                .then_some(books.clone())
        })
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crossdock"));
        command
            .args(arguments)
            .current_dir(self.root())
            .env("NO_COLOR", "1");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Running {
    /// SIGTERM; gives the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        self.signal("-TERM");
        eventually("the engine stops", || self.child.try_wait().unwrap()).code()
    }

    /// Sends it a signal, such as `-HUP`.
    pub fn signal(&self, which: &str) {
        Command::new("kill")
            .args([which, &self.child.id().to_string()])
            .status()
            .unwrap();
    }

    /// Resident memory in KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// What the engine has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it still runs.
    pub fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Asks until there is an answer.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes as text, for messages.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
