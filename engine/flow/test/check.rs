//! A test file -> its tests, and everything that is wrong with it: shape, names, fixtures, expressions. It runs nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::{Sent, TESTS_MAX, Test, TestFile, Tested, Tests, start_of};
use crate::component::codes as part_codes;
use crate::diagnostic::{Code, Diagnostic, File, Findings, Severity};
use crate::expression::Tables;
use crate::failure::Failure;
use crate::flow::check::words::Words;
use crate::flow::{codes, shapes};
use crate::yaml::{self, Node, shape};

mod expected;
mod systems;

/// A file or folder of tests that cannot be read.
pub(super) fn unreadable(path: &str, failure: &Failure) -> Diagnostic {
    let place = start_of(&File::new(path, ""));
    Diagnostic::error(codes::UNREADABLE, place, failure.message.clone())
        .help("check its permissions and its size")
}

/// Reads a test file. What is wrong becomes findings; without a shape there are no tests.
pub(super) fn read(
    file: Arc<File>,
    path: &Path,
    project: Option<&Tested<'_>>,
    findings: &mut Findings,
) -> Option<TestFile> {
    let mut found = Findings::new();
    let read = yaml::read(&file, &mut found);
    let whole = read.unread.is_empty() && read.dubious.is_empty();
    let tests = read.node.as_ref().filter(|_| whole).and_then(|node| {
        shaped(&file, node, &mut found);
        match Tests::deserialize(node.to_json()) {
            Ok(tests) => Some(tests),
            // What the shape says is said better.
            Err(error) if !found.has_errors() => {
                let message = error.to_string();
                let place = node.place(&file);
                found.push(Diagnostic::error(part_codes::BAD_VALUE, place, message));
                None
            }
            Err(_) => None,
        }
    });
    let (Some(node), Some(tests)) = (read.node, tests) else {
        findings.extend(found);
        return None;
    };
    let mut read = TestFile {
        file,
        node,
        tests,
        folder: path.parent().unwrap_or(path).to_owned(),
        sound: true,
    };
    let mut checking = Checking {
        of: &read,
        project,
        findings: &mut found,
    };
    checking.file();
    read.sound = !found.has_errors();
    findings.extend(found);
    Some(read)
}

fn shaped(file: &Arc<File>, node: &Node, findings: &mut Findings) {
    let secrets = RefCell::new(Vec::new());
    let (keys, tables) = (BTreeSet::new(), Tables::default());
    let words = Words {
        variables: None,
        keys: &keys,
        tables: &tables,
        missing: &[],
        secrets: &secrets,
    };
    shape::check_with(shapes::tests(), node, file, &words, findings);
}

/// One file, while it is looked at.
struct Checking<'a> {
    of: &'a TestFile,
    /// What is tested; `None` if it cannot be loaded.
    project: Option<&'a Tested<'a>>,
    findings: &'a mut Findings,
}

/// A path within the file.
type Parts<'p> = &'p [&'p str];

impl Checking<'_> {
    fn file(&mut self) {
        let of = self.of;
        self.flow_named(&["flow"], of.flow());
        for (nth, flow) in of.tests.with.iter().flatten().enumerate() {
            self.flow_named(&["with", &nth.to_string()], flow);
        }
        self.clock(&["clock"], of.tests.clock.as_deref());
        self.systems(&["systems"], of.tests.systems.as_ref());
        if of.all().len() > TESTS_MAX {
            let message = format!("the file has more than {TESTS_MAX} tests");
            self.error(
                codes::BAD_TEST,
                &["tests"],
                message,
                "split it into several files",
            );
            return;
        }
        let mut names = BTreeSet::new();
        for (nth, test) in of.all().iter().enumerate() {
            let nth = nth.to_string();
            let at: Parts<'_> = &["tests", &nth];
            let name = test.test.as_deref().unwrap_or_default().trim();
            if name.is_empty() {
                let help = "say in a few words what it promises";
                self.error(
                    codes::BAD_NAME,
                    &[at, &["test"]].concat(),
                    "the test has no name",
                    help,
                );
            } else if !names.insert(name) {
                let message = format!("there are two tests `{name}` in the file");
                let help = "give each a name of its own";
                self.error(
                    codes::DUPLICATE_ID,
                    &[at, &["test"]].concat(),
                    message,
                    help,
                );
            }
            self.test(at, test);
        }
    }

    fn test(&mut self, at: Parts<'_>, test: &Test) {
        for (nth, flow) in test.with.iter().flatten().enumerate() {
            self.flow_named(&[at, &["with", &nth.to_string()]].concat(), flow);
        }
        self.clock(&[at, &["clock"]].concat(), test.clock.as_deref());
        self.systems(&[at, &["systems"]].concat(), test.systems.as_ref());
        for (nth, sent) in test.send.iter().flatten().enumerate() {
            self.sent(&[at, &["send", &nth.to_string()]].concat(), sent, test);
        }
        self.crashes(at, test);
        if let Some(expect) = &test.expect {
            self.expected(&[at, &["expect"]].concat(), expect);
        }
    }

    fn sent(&mut self, at: Parts<'_>, sent: &Sent, test: &Test) {
        let body = self.of.find(at).get("body").is_some();
        let given =
            usize::from(body) + usize::from(sent.text.is_some()) + usize::from(sent.file.is_some());
        if given != 1 {
            let message = "what is sent is one of `body`, `text` and `file`";
            let help = match given {
                0 => "add `file: NAME` with a message in a file beside the test, or `body`",
                _ => "keep one of them",
            };
            self.error(part_codes::CONFLICTING_SETTINGS, at, message, help);
        }
        if sent.put.is_some() && body {
            let help = "give the file's content by `text` or by `file`";
            let path = [at, &["body"]].concat();
            self.error(
                part_codes::CONFLICTING_SETTINGS,
                &path,
                "`put` drops a file as it is",
                help,
            );
        }
        if let Some(put) = &sent.put
            && (put.starts_with('/') || put.split('/').any(|part| part == ".."))
        {
            let path = [at, &["put"]].concat();
            let help = "name it as the source does, below the project's folder";
            self.error(
                part_codes::BAD_VALUE,
                &path,
                "the path leads out of the project",
                help,
            );
        }
        if sent.at.is_some() && sent.after.is_some() {
            let path = [at, &["after"]].concat();
            let message = "`at` and `after` are two times";
            self.error(
                part_codes::CONFLICTING_SETTINGS,
                &path,
                message,
                "keep one of them",
            );
        }
        self.fixture(&[at, &["file"]].concat(), sent.file.as_deref(), false);
        if sent.change.is_some() {
            self.change(at, sent.text.as_deref(), sent.file.as_deref());
        }
        if let Some(to) = &sent.to {
            let path = [at, &["to"]].concat();
            self.flow_named(&path, to);
            if self.knows_flow(to) && !self.runs(test, to) {
                let message = format!("the flow `{to}` does not run in this test");
                let help = format!("add `with: [{to}]`");
                self.error(codes::BAD_TEST, &path, message, help);
            }
        }
    }

    /// What is changed of a document can be.
    fn change(&mut self, at: Parts<'_>, text: Option<&str>, file: Option<&str>) {
        let of = self.of;
        let bytes = match (of.find(at).get("body"), text, file) {
            (Some(body), ..) => bytes::Bytes::from(super::value::json_of(body)),
            (None, Some(text), _) => bytes::Bytes::from(text.to_owned()),
            (None, None, Some(file)) => match of.fixture(file) {
                Ok(bytes) => bytes,
                // It is told already.
                Err(_) => return,
            },
            (None, None, None) => return,
        };
        if let Err(fault) = of.changed(at, bytes) {
            let path = [at, &["change"]].concat();
            let (message, help) = fault.split_once("; ").unwrap_or((&fault, ""));
            self.error(part_codes::BAD_VALUE, &path, message, help);
        }
    }

    /// Whether a flow runs in a test.
    fn runs(&self, test: &Test, flow: &str) -> bool {
        let with = self.of.tests.with.iter().chain(&test.with).flatten();
        flow == self.of.flow() || with.into_iter().any(|name| name == flow)
    }

    fn crashes(&mut self, at: Parts<'_>, test: &Test) {
        let Some(crashes) = &test.crash else { return };
        let many = matches!(crashes, super::Crashes::Many(_));
        for (nth, crash) in crashes.all().iter().enumerate() {
            let nth = nth.to_string();
            let path: Vec<&str> = match many {
                true => [at, &["crash", &nth]].concat(),
                false => [at, &["crash"]].concat(),
            };
            let given = usize::from(crash.after_commit.is_some())
                + usize::from(crash.before_commit.is_some())
                + usize::from(crash.at.is_some());
            if given != 1 {
                let message = "a crash has exactly one of `after_commit`, `before_commit` and `at`";
                let help = "`at: STEP` is the moment at which a request of the step has reached its system";
                self.error(part_codes::CONFLICTING_SETTINGS, &path, message, help);
            }
            if crash.nth.is_some() && crash.at.is_none() {
                let path = [&path[..], &["nth"]].concat();
                self.error(
                    codes::MEANINGLESS_KEY,
                    &path,
                    "`nth` counts the requests of `at`",
                    "leave it out",
                );
            }
            if let Some(step) = &crash.at {
                self.step(&[&path[..], &["at"]].concat(), self.of.flow(), step);
            }
        }
    }

    fn clock(&mut self, at: Parts<'_>, clock: Option<&str>) {
        if let Some(clock) = clock
            && clock.parse::<jiff::Timestamp>().is_err()
        {
            let message = format!("`{clock}` is no time");
            self.error(
                part_codes::BAD_VALUE,
                at,
                message,
                "write it like `2026-03-02T08:00:00Z`",
            );
        }
    }

    /// A fixture must be there; with `json` it must be JSON.
    fn fixture(&mut self, at: Parts<'_>, path: Option<&str>, json: bool) {
        let Some(path) = path else { return };
        match self.of.fixture(path) {
            Err(failure) => {
                let help = "fixtures are named relative to the file of the test";
                self.error(codes::MISSING_FIXTURE, at, failure.message, help);
            }
            Ok(bytes) if json => {
                if let Err(failure) = crate::body::Body::new(bytes).document() {
                    let message = format!("{path} is no JSON: {}", failure.message);
                    self.error(
                        codes::MISSING_FIXTURE,
                        at,
                        message,
                        "compare text with `$contains`",
                    );
                }
            }
            Ok(_) => {}
        }
    }

    fn knows_flow(&self, name: &str) -> bool {
        self.project
            .is_some_and(|project| project.plans.contains_key(name))
    }

    fn flow_named(&mut self, at: Parts<'_>, name: &str) {
        let Some(project) = self.project else { return };
        if !project.plans.contains_key(name) {
            let known: Vec<String> = project
                .plans
                .keys()
                .map(|name| (*name).to_owned())
                .collect();
            let help = part_codes::names_help("flow", name, &known, "flows/");
            let message = format!("there is no flow `{name}`");
            self.error(part_codes::UNKNOWN_FLOW, at, message, help);
        }
    }

    /// A step, route or sink of a flow.
    fn step(&mut self, at: Parts<'_>, flow: &str, step: &str) {
        let Some(plan) = self.project.and_then(|project| project.plans.get(flow)) else {
            return;
        };
        if plan.node(step).is_none() && step != "@accept" {
            let known: Vec<String> = plan.nodes.iter().map(|node| node.id.to_string()).collect();
            let help = part_codes::names_help("step", step, &known, "the flow");
            let message = format!("the flow `{flow}` has no step or sink `{step}`");
            self.error(codes::UNKNOWN_STEP, at, message, help);
        }
    }

    fn expression(&mut self, at: Parts<'_>, text: &str) {
        let node = self.of.find(at).clone();
        let file = self.of.file.clone();
        let tables = Tables::default();
        let nothing = BTreeSet::new();
        let place = |start, end| crate::diagnostic::Place {
            file: file.clone(),
            span: node.span_within(&file, start, end),
        };
        let (_, found) = part_codes::expression(text, &place, &nothing, &nothing, &tables);
        for finding in found {
            if finding.severity == Severity::Error {
                self.findings.push(finding);
            }
        }
    }

    fn error(
        &mut self,
        code: Code,
        at: Parts<'_>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        // Of a part that is missing, the nearest that is there.
        let mut node = &self.of.node;
        for part in at {
            match node.find(&[part]) {
                Some(found) => node = found,
                None => break,
            }
        }
        let place = node.place(&self.of.file);
        self.findings
            .push(Diagnostic::error(code, first_line(place), message).help(help));
    }
}

/// A long value is named by its first line.
fn first_line(mut place: crate::diagnostic::Place) -> crate::diagnostic::Place {
    let text = &place.file.text[place.span.start..place.span.end];
    if let Some(line) = text.lines().next() {
        place.span.end = place.span.start + line.len();
    }
    place
}
