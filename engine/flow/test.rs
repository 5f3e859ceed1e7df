//! The language of flow tests: what a user writes in `flows/**/*.test.yaml`, as types, and the files of a project. What it means is found
//! by `check`; `run::test` runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::file::Held;
use super::plan::{Plan, Project};
use super::workspace::Texts;
use crate::component::Library;
use crate::component::words::{Duration, ExpressionText};
use crate::diagnostic::{File, Findings, Place, Span};
use crate::failure::Failure;
use crate::world::disk;
use crate::yaml::Node;

mod check;
pub(crate) mod fields;
pub mod mutants;
pub mod request;
pub(crate) mod value;

/// The time at which a test begins where its file says nothing: 2026-01-05T08:00:00Z, a Monday.
pub const CLOCK_MS: i64 = 1_767_600_000_000;
/// How many bytes a fixture may have.
pub(crate) const FIXTURE_BYTES_MAX: u64 = 16 << 20;
/// How many tests one file may have.
pub(crate) const TESTS_MAX: usize = 1_000;

/// Tests of a flow: what comes in, what the outside systems answer, and what must come of it.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tests {
    /// The flow under test.
    #[schemars(required)]
    pub flow: Option<String>,
    /// What is tested, in a sentence.
    pub description: Option<String>,
    /// Other flows that run too. What is handed to a flow that is not named here is accepted by it, looked at, and goes no further.
    pub with: Option<Vec<String>>,
    /// The time at which each test begins. Default `2026-01-05T08:00:00Z`.
    pub clock: Option<String>,
    /// Values of environment variables, before those of the file `example.env` in the project's folder. Those of the process are not seen.
    pub env: Option<BTreeMap<String, String>>,
    /// Cross-reference tables, as CSV, instead of the project's.
    pub tables: Option<BTreeMap<String, String>>,
    /// What the outside systems answer, in every test of the file: by the system's name, the first rule that fits a request.
    pub systems: Option<BTreeMap<String, Vec<Rule>>>,
    /// The tests.
    #[schemars(required, length(min = 1))]
    pub tests: Option<Vec<Test>>,
}

/// A test: messages that come, and what must come of them.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Test {
    /// What is promised, in a few words: the name of the test, once in the file.
    #[schemars(required)]
    pub test: Option<String>,
    /// Other flows that run too, beside those of the file.
    pub with: Option<Vec<String>>,
    /// The time at which it begins, instead of the file's.
    pub clock: Option<String>,
    /// Environment variables, before those of the file.
    pub env: Option<BTreeMap<String, String>>,
    /// Cross-reference tables, as CSV, before those of the file.
    pub tables: Option<BTreeMap<String, String>>,
    /// What the outside systems answer: rules before those of the file.
    pub systems: Option<BTreeMap<String, Vec<Rule>>>,
    /// What comes in, in this order.
    #[schemars(required, length(min = 1))]
    pub send: Option<Vec<Sent>>,
    /// Where the engine dies, without a word, as the power fails. It is started again on the same store.
    pub crash: Option<Crashes>,
    /// The test ends when so much time has passed, at the latest. Default: when nothing more happens by itself, at most a day.
    pub until: Option<Duration>,
    /// What must have come of it.
    #[schemars(required)]
    pub expect: Option<Expect>,
}

/// What comes in: a message, several, or a file that is dropped into a folder.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sent {
    /// The message, as YAML.
    pub body: Option<Held>,
    /// The message, byte for byte.
    pub text: Option<String>,
    /// A file with the message, beside the test; of a `.jsonl` file each line is a message.
    pub file: Option<String>,
    /// Fields of the message that are otherwise, by path: `customer.code: C-9`, `lines[0].quantity: 3`. `{ $absent: true }` leaves one out.
    pub change: Option<BTreeMap<String, Held>>,
    /// Drops the file (or `text`) at this path of the project, where a source of the kind `file` looks for it, instead of sending it.
    pub put: Option<String>,
    /// To this flow. Default: the flow under test.
    pub to: Option<String>,
    /// So long after the beginning of the test.
    pub at: Option<Duration>,
    /// So long after what was sent before it. Default: as soon as that is accepted.
    pub after: Option<Duration>,
    /// How often it is sent. Default 1.
    #[schemars(range(min = 1, max = 1000))]
    pub times: Option<u32>,
    /// Headers that come with it.
    pub headers: Option<BTreeMap<String, String>>,
    /// The sender's id of this delivery. A second one with the same id is acknowledged and has no effect.
    pub delivery: Option<String>,
}

/// Which requests to a system, and how they are answered.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Method and path, such as `POST /orders` or `GET /customers/*`. `*` stands for any characters. Without a `?` the query does not matter.
    /// What a database is asked for is `SQL` and the table, what a broker gets is `PUBLISH`, the exchange, `/` and the routing key.
    pub on: String,
    /// Only requests of this step.
    pub step: Option<String>,
    /// Only requests for which this expression is true. It sees `method`, `path`, `headers`, `body`, `flow` and `step`.
    pub when: Option<ExpressionText>,
    /// The answers, in this order; the last one is repeated. A number is a status.
    #[schemars(length(min = 1))]
    pub answers: Vec<Answer>,
}

/// An answer: its status, or more of it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Answer {
    /// A status, with an empty body.
    Status(#[schemars(range(min = 100, max = 599))] u16),
    /// An answer, or why there is none.
    Full(Box<Reply>),
}

/// An answer, or why there is none.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// The status. Default 200.
    #[schemars(range(min = 100, max = 599))]
    pub status: Option<u16>,
    /// Its headers. Default: a `content-type` of JSON where there is a body.
    pub headers: Option<BTreeMap<String, String>>,
    /// Its body, as YAML.
    pub body: Option<Held>,
    /// Its body, byte for byte.
    pub text: Option<String>,
    /// A file with its body, beside the test.
    pub file: Option<String>,
    /// Fields of the body that are otherwise, by path, as in `send`.
    pub change: Option<BTreeMap<String, Held>>,
    /// How long the system takes for it.
    pub delay: Option<Duration>,
    /// Why the answer does not arrive.
    pub fails: Option<Fails>,
}

/// Why an answer does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fails {
    /// The system did what its `status` says, and the connection broke before the answer came.
    Lost,
    /// The system did what its `status` says, and nothing came back within the timeout.
    Timeout,
    /// No connection: the system has seen nothing.
    Unreachable,
}

/// Where the engine dies: at one moment, or at several, one after the other.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Crashes {
    /// At several moments.
    Many(Vec<Crash>),
    /// At one.
    One(Crash),
}

/// A moment at which the engine dies; exactly one of `after_commit`, `before_commit` and `at`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Crash {
    /// When so many commits are durable: the next thing does not happen. `crossdock test` shows how many there are.
    #[schemars(range(min = 1))]
    pub after_commit: Option<u64>,
    /// When this commit is about to be written: all that comes before it has happened, and it is not stored.
    #[schemars(range(min = 1))]
    pub before_commit: Option<u64>,
    /// When a request of this step has reached its system: what the answer says has happened, and nobody hears it.
    pub at: Option<String>,
    /// The how manieth request of the step. Default 1.
    #[schemars(range(min = 1))]
    pub nth: Option<u64>,
    /// How long it stays away before it is started again. Default: not at all.
    pub off: Option<Duration>,
}

/// What must have come of it. What is not named is not looked at, but for `exceptions`: without it there must be none.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The requests that a system got: all of them in their order, `none`, or `{ include, exclude, count }`.
    pub calls: Option<BTreeMap<String, Calls>>,
    /// The messages that a sink (or an `emit` step) gave to a flow, a file or the standard output: all of them in their order, `none`, or
    /// `{ include, exclude, count }`. A sink of another flow is `FLOW/SINK`.
    pub outputs: Option<BTreeMap<String, Given>>,
    /// The files that sinks have written, by path: their lines, `none`, or `{ text }`, `{ file }`, `{ count }`.
    pub files: Option<BTreeMap<String, Files>>,
    /// What waits for a person: all of it in its order, or `none`.
    pub exceptions: Option<Exceptions>,
    /// The books, by flow. They must balance in any case.
    pub books: Option<BTreeMap<String, Books>>,
    /// Runs, in the order in which they were accepted: all of the flow under test, and others that are named by `flow`.
    pub runs: Option<Vec<Run>>,
    /// How much time passed until the last thing happened.
    pub takes: Option<Takes>,
    /// Expressions that must be true. They see `calls`, `outputs`, `files`, `exceptions`, `runs`, `books` and `passed_ms`, as
    /// `crossdock test --format json` shows them.
    #[serde(rename = "where")]
    pub conditions: Option<Vec<ExpressionText>>,
    /// `true`: all that came of it is as the file `NAME.test.snap/TEST.json` beside the test says; `crossdock test --update` writes it.
    pub snapshot: Option<bool>,
}

/// Nothing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Nothing {
    /// There must be nothing.
    None,
}

/// The requests that a system got.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Calls {
    /// None.
    Nothing(Nothing),
    /// All of them, in this order.
    All(Vec<Call>),
    /// Some of them.
    Some(SomeCalls),
}

/// Some of the requests that a system got.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SomeCalls {
    /// For each of these there is one, in any order.
    pub include: Option<Vec<Call>>,
    /// For none of these there is one.
    pub exclude: Option<Vec<Call>>,
    /// How many there are.
    pub count: Option<u64>,
}

/// A request that a system got.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Method and path, as in a rule.
    pub on: String,
    /// The step that made it.
    pub step: Option<String>,
    /// So many like this, one after the other. Default 1.
    #[schemars(range(min = 1))]
    pub times: Option<u32>,
    /// Its headers; more may be there.
    pub headers: Option<BTreeMap<String, Held>>,
    /// Its body; see the guide for how values are compared.
    pub body: Option<Held>,
    /// What came back: a status, `lost`, `timeout` or `unreachable`.
    pub answer: Option<Held>,
    /// So long after the beginning of the test.
    pub at: Option<Takes>,
}

/// Messages that a sink gave on.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Given {
    /// None.
    Nothing(Nothing),
    /// All of them, in this order.
    All(Vec<Held>),
    /// Some of them.
    Some(SomeGiven),
}

/// Some of the messages that a sink gave on.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SomeGiven {
    /// For each of these there is one, in any order.
    pub include: Option<Vec<Held>>,
    /// For none of these there is one.
    pub exclude: Option<Vec<Held>>,
    /// How many there are.
    pub count: Option<u64>,
}

/// A file that a sink has written.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Files {
    /// It is not there.
    Nothing(Nothing),
    /// Its lines: JSON where a line is JSON, else text.
    Lines(Vec<Held>),
    /// Its text, the file that it equals, or how many lines it has.
    Text(FileText),
}

/// The text of a file, the file that it equals, or how many lines it has.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileText {
    /// Its text, byte for byte.
    pub text: Option<String>,
    /// The file that it equals, beside the test.
    pub file: Option<String>,
    /// How many lines it has.
    pub count: Option<u64>,
}

/// What waits for a person.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Exceptions {
    /// Nothing.
    Nothing(Nothing),
    /// All of it, in the order in which it was opened.
    All(Vec<Exception>),
}

/// Something that waits for a person.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// Its flow. Default: the flow under test.
    pub flow: Option<String>,
    /// The step that failed; `@accept` for what breaks the contract.
    pub step: Option<String>,
    /// Its class.
    pub class: Option<String>,
    /// What its message contains, more lines included.
    pub message: Option<String>,
    /// How many attempts there were.
    pub attempts: Option<u64>,
    /// So many like this. Default 1.
    #[schemars(range(min = 1))]
    pub times: Option<u32>,
}

/// The books of a flow; what is not named is not looked at.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Books {
    /// All that came.
    pub received: Option<i64>,
    /// Became a run.
    pub accepted: Option<i64>,
    /// Known already.
    pub duplicates: Option<i64>,
    /// Turned away, because they break the contract.
    pub refused: Option<i64>,
    /// Reached a sink.
    pub delivered: Option<i64>,
    /// Ended by a filter.
    pub filtered: Option<i64>,
    /// Dropped for a reason.
    pub discarded: Option<i64>,
    /// Undone.
    pub compensated: Option<i64>,
    /// Being worked on, or waiting for an attempt or a time.
    pub in_flight: Option<i64>,
    /// Waiting for a person.
    pub in_exceptions: Option<i64>,
}

/// A run.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Its flow. Default: the flow under test.
    pub flow: Option<String>,
    /// Its business keys; more may be there.
    pub keys: Option<BTreeMap<String, String>>,
    /// Where it is: `delivered`, `filtered`, `discarded`, `compensated`, `in-flight`, `in-exception` or `superseded`.
    pub state: Option<String>,
    /// Steps that it went through, in this order; there may be others between them.
    pub through: Option<Vec<String>>,
}

/// A span of time.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Takes {
    /// No less than this.
    pub at_least: Option<Duration>,
    /// No more than this.
    pub at_most: Option<Duration>,
}

impl Crashes {
    /// The moments, one after the other.
    pub fn all(&self) -> &[Crash] {
        match self {
            Crashes::Many(all) => all,
            Crashes::One(one) => std::slice::from_ref(one),
        }
    }
}

/// A file of tests, read.
pub struct TestFile {
    /// Its text, by its path in the project.
    pub file: Arc<File>,
    /// Its tree: where what is expected stands.
    pub node: Node,
    /// What it says.
    pub tests: Tests,
    /// The folder in which it is: what fixtures are relative to.
    pub folder: PathBuf,
    /// Whether it can be run: nothing is wrong with it.
    pub sound: bool,
}

impl TestFile {
    /// The flow under test.
    pub fn flow(&self) -> &str {
        self.tests.flow.as_deref().unwrap_or_default()
    }

    /// Its tests.
    pub fn all(&self) -> &[Test] {
        self.tests.tests.as_deref().unwrap_or_default()
    }

    /// The part of the file at this path; the whole file if there is no such part.
    pub fn find(&self, path: &[&str]) -> &Node {
        self.node.find(path).unwrap_or(&self.node)
    }

    /// The place of a part of the file.
    pub fn place(&self, path: &[&str]) -> Place {
        self.find(path).place(&self.file)
    }

    /// The bytes of a fixture, by its path beside the test.
    pub fn fixture(&self, path: &str) -> Result<bytes::Bytes, Failure> {
        disk::read(&self.folder.join(path), FIXTURE_BYTES_MAX)
    }

    /// A document with what stands under `change` at this path.
    pub(crate) fn changed(&self, at: &[&str], bytes: bytes::Bytes) -> Result<bytes::Bytes, String> {
        let Some(change) = self.node.find(&[at, &["change"]].concat()) else {
            return Ok(bytes);
        };
        let changes: Vec<(String, &Node)> = change
            .entries()
            .iter()
            .map(|(key, node)| (key.text.clone(), node))
            .collect();
        value::changed(&crate::body::Body::new(bytes), &changes).map(bytes::Bytes::from)
    }

    /// The folder of its snapshots.
    pub fn snapshots(&self) -> PathBuf {
        let name = self.file.path.rsplit('/').next().unwrap_or_default();
        let name = name.strip_suffix(".yaml").unwrap_or(name);
        self.folder.join(format!("{name}.snap"))
    }
}

/// What tests are about: the flows and what they use.
pub(super) struct Tested<'a> {
    pub(super) plans: BTreeMap<&'a str, &'a Plan>,
    pub(super) library: &'a Library,
}

/// The test files of a project, checked; all findings at once. `project` is what they test.
pub fn load(root: &Path, project: Option<&Project>) -> (Vec<TestFile>, Findings) {
    let tested = project.map(|project| Tested {
        plans: project
            .plans
            .iter()
            .map(|(name, plan)| (&**name, &**plan))
            .collect(),
        library: &project.library,
    });
    load_over(root, tested.as_ref(), &Texts::new())
}

/// The same with these texts instead of those on the disk.
pub(super) fn load_over(
    root: &Path,
    tested: Option<&Tested<'_>>,
    texts: &Texts,
) -> (Vec<TestFile>, Findings) {
    let mut findings = Findings::new();
    let mut files = Vec::new();
    let mut paths = match paths(root) {
        Ok(paths) => paths,
        Err(failure) => {
            findings.push(check::unreadable("flows", &failure));
            return (files, findings);
        }
    };
    paths.extend(
        texts
            .keys()
            .filter(|path| path.starts_with("flows/"))
            .cloned(),
    );
    paths.retain(|path| path.ends_with(".test.yaml"));
    for below in paths {
        let path = root.join(&below);
        let text = match texts.get(&below) {
            Some(text) => Ok(text.clone()),
            None => disk::read_text(&path, super::folder::TEXT_BYTES_MAX),
        };
        match text {
            Ok(text) => {
                let file = File::new(below.as_str(), text);
                files.extend(check::read(file, &path, tested, &mut findings));
            }
            Err(failure) => findings.push(check::unreadable(&below, &failure)),
        }
    }
    (files, findings)
}

/// The files below `flows/`.
fn paths(root: &Path) -> Result<BTreeSet<String>, Failure> {
    let flows = root.join("flows");
    if !flows.is_dir() {
        return Ok(BTreeSet::new());
    }
    let paths = disk::list(&flows, true, super::folder::FILES_MAX)?;
    let below = |path: &PathBuf| {
        let below = path.strip_prefix(root).unwrap_or(path);
        below.to_string_lossy().replace('\\', "/")
    };
    Ok(paths.iter().map(below).collect())
}

/// The beginning of a file.
fn start_of(file: &Arc<File>) -> Place {
    Place {
        file: file.clone(),
        span: Span::default(),
    }
}
