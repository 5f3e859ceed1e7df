//! A small project between a sender, a dropper of files and the stand-in ERP, whose disk is watched. It sends and looks; it judges nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossdock::demo::engine::free_address;
use crossdock::store::books::Counts;
use crossdock::store::reader::Reader;
use crossdock::store::runs::{RunFilter, RunRow, RunState};
use serde_json::Value;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many orders are sent at the same time.
const SENDERS: usize = 8;
/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_crossdock");

const FILES: &[(&str, &str)] = &[
    (
        "flows/orders.yaml",
        "flow: orders
source: { webhook: { path: /orders, verify: none } }
keys: { order: order_number }
once: { key: order, keep: 30d, changed: exception }
routes: { all: [{ otherwise: [erp, audit] }] }
sinks:
  erp:
    http: { system: erp, post: /sales-orders, idempotency_key: order_number }
    retry: { attempts: 20, first: 20ms, factor: 2, most: 500ms }
  audit: { file: { path: outbox/audit.jsonl, format: jsonl } }
",
    ),
    (
        "flows/stock.yaml",
        "flow: stock
source: { file: { path: inbox/stock-*.csv, format: csv, settle: 0s, every: 50ms } }
sinks:
  list: { file: { path: outbox/stock.jsonl, format: jsonl } }
",
    ),
    (
        "systems/erp.yaml",
        "system: erp
http: { base_url: \"${env:ERP_URL}\", idempotency_header: Idempotency-Key }
timeout: 5s
limits: { rate: 5000/s, concurrency: 16 }
circuit: { open: 1s, most: 2s }
failures: { \"503\": unavailable, \"409\": conflict, \"422\": validation }
",
    ),
];

/// How the ERP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Erp {
    /// It honours idempotency keys.
    Keys,
    /// It books whatever comes, and cannot be asked.
    Neither,
}

/// A project on a machine.
pub struct Site {
    folder: tempfile::TempDir,
    address: SocketAddr,
    erp: Erp,
}

/// A process that ends with its value.
pub struct Process {
    child: Child,
    log: PathBuf,
}

/// Nanoseconds since 1970, by the clock that the shim uses.
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_nanos()).unwrap()
}

/// The number of an order.
pub fn number(order: usize) -> String {
    format!("P-{order:05}")
}

/// What the sender sends of an order.
pub fn body(order: usize) -> String {
    let note = "as agreed on the phone ".repeat(20);
    format!(
        "{{\"order_number\":\"{}\",\"customer_number\":\"C-1000\",\"total\":\"{order}.50\",\"lines\":[{{\"sku\":\"A\"}}],\"note\":\"{note}\"}}",
        number(order)
    )
}

impl Site {
    /// A site with the project's files and nothing else.
    pub fn new(erp: Erp) -> Site {
        let site = Site::bare(erp);
        for (path, text) in FILES {
            site.file(path, text);
        }
        for folder in ["inbox", "outbox"] {
            std::fs::create_dir(site.root().join(folder)).unwrap();
        }
        site.settle_in();
        site
    }

    /// An empty folder, to be filled with what a disk has kept.
    pub fn bare(erp: Erp) -> Site {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("project")).unwrap();
        Site {
            folder,
            address: free_address().unwrap(),
            erp,
        }
    }

    /// Says where this engine listens, and how it answers a known ERP.
    pub fn settle_in(&self) {
        self.file(
            "crossdock.yaml",
            &format!("listen: \"{}\"\nlimits: {{ drain: 10s }}\n", self.address),
        );
        if self.erp == Erp::Neither {
            let flow = FILES[0].1.replace(", idempotency_key: order_number", "");
            self.file("flows/orders.yaml", &flow);
        }
    }

    /// The project's folder.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("project").canonicalize().unwrap()
    }

    /// Beside the project: the ERP's journal.
    pub fn erp_journal(&self) -> PathBuf {
        self.folder.path().join("erp.jsonl")
    }

    /// Where the engine listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How the ERP is.
    pub fn erp(&self) -> Erp {
        self.erp
    }

    /// Writes a file of the project.
    pub fn file(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Puts a whole file into the inbox, as another program does; gives its bytes and its inode.
    pub fn drop_file(&self, name: &str, rows: &[String]) -> (Vec<u8>, u64) {
        let content = format!("sku,on_hand\n{}\n", rows.join("\n"));
        let half = self.folder.path().join("half");
        std::fs::write(&half, &content).unwrap();
        let inode = std::os::unix::fs::MetadataExt::ino(&half.metadata().unwrap());
        std::fs::rename(half, self.root().join("inbox").join(name)).unwrap();
        (content.into_bytes(), inode)
    }

    /// Starts the ERP somewhere. Gives it with its address.
    pub fn start_erp(&self) -> (Process, String) {
        self.start_erp_at(free_address().unwrap())
    }

    /// Starts the ERP at an address.
    pub fn start_erp_at(&self, address: SocketAddr) -> (Process, String) {
        let mode = match self.erp {
            Erp::Keys => "keys",
            Erp::Neither => "neither",
        };
        let mut child = Command::new(PROGRAM)
            .args([
                "demo-erp",
                "--until-stdin-closes",
                "--mode",
                mode,
                "--listen",
                &address.to_string(),
                "--journal",
            ])
            .arg(self.erp_journal())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.as_mut().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        let log = self.folder.path().join("erp.log");
        (Process { child, log }, format!("http://{}", line.trim()))
    }

    /// Starts the engine. It need not be ready yet.
    pub fn start_engine(&self, erp_url: &str, environment: &[(String, String)]) -> Process {
        self.start_by(Command::new(PROGRAM), erp_url, environment)
    }

    /// Starts an engine that may have so many files and connections open.
    pub fn start_with_files(&self, erp_url: &str, files: u32) -> Process {
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            "ulimit -n \"$0\" && exec \"$@\"",
            &files.to_string(),
            PROGRAM,
        ]);
        self.start_by(shell, erp_url, &[])
    }

    fn start_by(
        &self,
        mut command: Command,
        erp_url: &str,
        environment: &[(String, String)],
    ) -> Process {
        let log = self.folder.path().join("engine.log");
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).append(true).open(&log).unwrap();
        let child = command
            .args(["run", "--project"])
            .arg(self.root())
            .env("NO_COLOR", "1")
            .env("ERP_URL", erp_url)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Process { child, log }
    }

    /// Waits until the engine is ready. Fails with what it said if it ended, or takes too long.
    pub fn until_ready(&self, engine: &mut Process) -> Result<(), String> {
        let began = Instant::now();
        while self.status("GET", "/healthz/ready", "") != Some(200) {
            let ended = engine.child.try_wait().unwrap();
            if ended.is_some() || began.elapsed() > PATIENCE {
                return Err(format!(
                    "the engine is not ready ({ended:?}):\n{}",
                    engine.log()
                ));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Asks the engine for something; the status, if it answered.
    pub fn status(&self, method: &str, path: &str, body: &str) -> Option<u16> {
        Some(self.ask(method, path, body)?.0)
    }

    /// Asks the engine for something; the status and all that came, if it answered.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some((answer.split(' ').nth(1)?.parse().ok()?, answer))
    }

    /// Sends one order once; whether it was acknowledged.
    pub fn send_one(&self, order: usize) -> Option<u16> {
        self.status("POST", "/orders", &body(order))
    }

    /// Sends each order until it is acknowledged, several at a time. Gives when each was, and how often something was sent again.
    pub fn send(&self, orders: &BTreeSet<usize>) -> Result<(BTreeMap<usize, u64>, u64), String> {
        let queue: Vec<usize> = orders.iter().copied().collect();
        let (next, again) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let acknowledged = Mutex::new(BTreeMap::new());
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..SENDERS {
                scope.spawn(|| {
                    while let Some(order) = queue.get(next.fetch_add(1, Ordering::SeqCst)) {
                        while began.elapsed() < PATIENCE {
                            if self.send_one(*order).is_some_and(|status| status == 200) {
                                acknowledged.lock().unwrap().insert(*order, now_ns());
                                break;
                            }
                            again.fetch_add(1, Ordering::SeqCst);
                            std::thread::sleep(Duration::from_millis(30));
                        }
                    }
                });
            }
        });
        let acknowledged = acknowledged.into_inner().unwrap();
        if acknowledged.len() < orders.len() {
            let missing = orders.len() - acknowledged.len();
            return Err(format!(
                "{missing} orders were not acknowledged within {PATIENCE:?}"
            ));
        }
        Ok((acknowledged, again.into_inner() as u64))
    }

    /// Waits until nothing is in flight and no file waits; gives the books of all flows.
    pub fn at_rest(&self, received: i64) -> Result<Vec<Counts>, String> {
        let runtime = runtime();
        let began = Instant::now();
        let mut last = String::new();
        while began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(25));
            let Ok(reader) = Reader::open(&self.store()) else {
                continue;
            };
            let looked = runtime.block_on(async {
                let books = reader.books().await?;
                let hops = reader.hop_counts().await?;
                Ok::<_, crossdock::failure::Failure>((books, hops))
            });
            let Ok((books, hops)) = looked else { continue };
            let counts: Vec<Counts> = books.into_iter().map(|books| books.counts).collect();
            let of = |count: fn(&Counts) -> i64| counts.iter().map(count).sum::<i64>();
            let quiet = hops.is_empty() && of(|counts| counts.in_flight) == 0;
            if quiet && of(|counts| counts.received) >= received && self.inbox().is_empty() {
                return Ok(counts);
            }
            last = format!("{counts:?} {hops:?} inbox {:?}", self.inbox());
        }
        Err(format!("not at rest after {PATIENCE:?}: {last}"))
    }

    /// How many messages wait for a time.
    pub fn waiting_hops(&self) -> u64 {
        let counted = runtime().block_on(async { Reader::open(&self.store())?.hop_counts().await });
        counted.map_or(0, |counts| counts.iter().map(|count| count.waiting).sum())
    }

    /// The files that wait to be taken, or are being read.
    fn inbox(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for folder in ["inbox", "inbox/.claimed/stock"] {
            let entries = std::fs::read_dir(self.root().join(folder));
            let paths = entries
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path());
            found.extend(paths.filter(|path| path.is_file()));
        }
        found
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.root().join(".crossdock/store.db")
    }

    /// What is wrong with the store in itself: pages, sums, balance.
    pub fn flaws(&self) -> Vec<String> {
        let mut flaws = Vec::new();
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = rusqlite::Connection::open_with_flags(self.store(), flags).unwrap();
        let pages: String = connection
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap_or_else(|error| error.to_string());
        if pages != "ok" {
            flaws.push(format!("the store's pages: {pages}"));
        }
        let sums = runtime().block_on(async {
            let reader = Reader::open(&self.store())?;
            Ok::<_, crossdock::failure::Failure>((reader.books().await?, reader.recount().await?))
        });
        match sums {
            Ok((books, recount)) => {
                if books != recount {
                    flaws.push(format!(
                        "the books {books:?} are not the recount {recount:?}"
                    ));
                }
                if !books.iter().all(|books| books.counts.balanced()) {
                    flaws.push(format!("the books do not balance: {books:?}"));
                }
            }
            Err(failure) => flaws.push(failure.to_string()),
        }
        flaws
    }

    /// The orders that wait for a person.
    pub fn waiting(&self) -> Result<BTreeSet<String>, String> {
        let found = runtime().block_on(async {
            let reader = Reader::open(&self.store())?;
            let filter = RunFilter {
                state: Some(RunState::InException),
                limit: 100_000,
                ..RunFilter::default()
            };
            reader.runs(filter).await
        });
        let rows = found.map_err(|failure| failure.to_string())?;
        let key = |row: &RunRow| row.keys.get("order").cloned();
        Ok(rows.iter().filter_map(key).collect())
    }

    /// How often the ERP has booked each order.
    pub fn booked(&self) -> BTreeMap<String, u64> {
        let mut booked = BTreeMap::new();
        for line in lines(&self.erp_journal()) {
            if let Some(order) = line["applied"]["order_number"].as_str() {
                *booked.entry(order.to_owned()).or_default() += 1;
            }
        }
        booked
    }

    /// How often each value of a field stands in a file that the engine appends to. A torn line is an error.
    pub fn listed(&self, path: &str, field: &str) -> Result<BTreeMap<String, u64>, String> {
        let text = std::fs::read_to_string(self.root().join(path)).unwrap_or_default();
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(format!("{path} ends in the middle of a line"));
        }
        let mut listed = BTreeMap::new();
        for line in text.lines() {
            let value: Value = serde_json::from_str(line)
                .map_err(|error| format!("{path}: `{line}` is no line: {error}"))?;
            *listed
                .entry(value[field].as_str().unwrap_or_default().to_owned())
                .or_default() += 1;
        }
        Ok(listed)
    }
}

impl Process {
    /// SIGTERM, and the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().unwrap();
        self.ended(PATIENCE)
    }

    /// Waits until it ends by itself; the exit code.
    pub fn ended(&mut self, within: Duration) -> Option<i32> {
        let began = Instant::now();
        while began.elapsed() < within {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// The whole lines of a journal.
pub fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
