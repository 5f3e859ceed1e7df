//! What a test expects against what came of it. Each thing that is not so names the line that expects it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::compare::{Comparing, Difference, told};
use super::outcome::{Excepted, Outcome, Ran, counts_of, lines};
use super::{Case, Miss, Setting};
use crate::body::Body;
use crate::diagnostic::Place;
use crate::expression::{Expression, Scope, Tables};
use crate::flow::test::{Exceptions, Expect, Files, Given, Takes};
use crate::message::{Message, MessageId};
use crate::yaml::Node;

mod calls;
mod snapshot;

/// How a test was judged.
#[derive(Default)]
pub(super) struct Judged {
    pub(super) misses: Vec<Miss>,
    /// The snapshot was written.
    pub(super) updated: bool,
    /// The paths of bodies that were looked at.
    pub(super) looked_at: BTreeSet<String>,
}

/// Holds what came of a test against what it expects.
pub(super) fn judge(case: Case<'_>, setting: &Setting, outcome: &Outcome) -> Judged {
    let looked_at = RefCell::default();
    let mut judging = Judging {
        case,
        outcome,
        comparing: Comparing {
            file: case.file,
            schemas: &setting.library.schemas,
            looked_at: &looked_at,
        },
        base: vec![
            "tests".to_owned(),
            case.nth.to_string(),
            "expect".to_owned(),
        ],
        misses: Vec::new(),
    };
    judging.sound();
    if let Some(expect) = &case.test().expect {
        judging.all(expect);
    }
    let snapshot = case
        .test()
        .expect
        .as_ref()
        .and_then(|expect| expect.snapshot);
    let updated = snapshot == Some(true) && judging.snapshot(setting);
    Judged {
        misses: judging.misses,
        updated,
        looked_at: looked_at.into_inner(),
    }
}

struct Judging<'a> {
    case: Case<'a>,
    outcome: &'a Outcome,
    comparing: Comparing<'a>,
    /// The path of `expect` in the file.
    base: Vec<String>,
    misses: Vec<Miss>,
}

impl Judging<'_> {
    /// What holds in every test, whatever it expects.
    fn sound(&mut self) {
        for unsound in &self.outcome.unsound {
            self.miss(&[], unsound.clone(), Vec::new());
        }
        let unanswered: BTreeSet<&String> = self.outcome.unanswered.iter().collect();
        for asked in unanswered {
            let message = format!("{asked}, and no rule of the test answers");
            self.miss(&[], message, Vec::new());
        }
    }

    fn all(&mut self, expect: &Expect) {
        for (system, calls) in expect.calls.iter().flatten() {
            self.calls(system, calls);
        }
        for (sink, given) in expect.outputs.iter().flatten() {
            self.given(sink, given);
        }
        for (path, files) in expect.files.iter().flatten() {
            self.files(path, files);
        }
        self.exceptions(expect.exceptions.as_ref());
        for flow in expect.books.iter().flat_map(BTreeMap::keys) {
            self.books(flow);
        }
        self.runs(expect);
        if let Some(takes) = &expect.takes {
            self.takes(&["takes"], "it took", takes, self.outcome.passed_ms);
        }
        for (nth, condition) in expect.conditions.iter().flatten().enumerate() {
            self.condition(nth, &condition.0);
        }
    }

    fn given(&mut self, sink: &str, given: &Given) {
        let name = match sink.contains('/') {
            true => sink.to_owned(),
            false => format!("{}/{sink}", self.case.file.flow()),
        };
        let none = Vec::new();
        let outcome = self.outcome;
        let bodies = outcome.given.get(&name).unwrap_or(&none);
        let shown = |bodies: &[Body]| bodies.iter().map(text_of).collect::<Vec<_>>();
        let at = ["outputs", sink];
        match given {
            Given::Nothing(_) if bodies.is_empty() => {}
            Given::Nothing(_) => {
                let message = format!("{sink} must give nothing on, and gave {}", bodies.len());
                self.miss(&at, message, shown(bodies));
            }
            Given::All(expected) => self.each(&at, sink, expected.len(), bodies),
            Given::Some(some) => {
                let list = |key: &str, nth: usize| {
                    let nth = nth.to_string();
                    self.node(&["outputs", sink, key, &nth]).cloned()
                };
                let mut misses = Vec::new();
                for (key, many) in [
                    ("include", some.include.as_ref().map_or(0, Vec::len)),
                    ("exclude", some.exclude.as_ref().map_or(0, Vec::len)),
                ] {
                    for nth in 0..many {
                        let Some(node) = list(key, nth) else { continue };
                        let there = bodies
                            .iter()
                            .any(|body| self.comparing.body(&node, body).is_empty());
                        if there != (key == "include") {
                            misses.push((key, nth));
                        }
                    }
                }
                for (key, nth) in misses {
                    let message = match key {
                        "include" => format!("{sink} gave nothing like this on"),
                        _ => format!("{sink} must give nothing like this on, and did"),
                    };
                    let nth = nth.to_string();
                    self.miss(&["outputs", sink, key, &nth], message, shown(bodies));
                }
                self.count(&["outputs", sink, "count"], some.count, bodies.len());
            }
        }
    }

    /// Values that are expected in this order, and no more.
    fn each(&mut self, at: &[&str], what: &str, many: usize, bodies: &[Body]) {
        if many != bodies.len() {
            let message = format!("{what} must give {many} on, and gave {}", bodies.len());
            self.miss(at, message, bodies.iter().map(text_of).collect());
        }
        for (nth, body) in bodies.iter().enumerate().take(many) {
            let nth_text = nth.to_string();
            let path = [at, &[nth_text.as_str()]].concat();
            let found = match self.node(&path) {
                Some(node) => self.comparing.body(node, body),
                None => continue,
            };
            self.differs(&path, &format!("{} of {what}", nth + 1), &found);
        }
    }

    fn files(&mut self, path: &str, files: &Files) {
        let at = ["files", path];
        let outcome = self.outcome;
        let bytes = outcome.files.get(path);
        let missing = || {
            let known: Vec<&String> = outcome.files.keys().collect();
            vec![format!("files that are there: {known:?}")]
        };
        match (files, bytes) {
            (Files::Nothing(_), None) => {}
            (Files::Nothing(_), Some(bytes)) => {
                let message = format!("the file {path} must not be there");
                self.miss(&at, message, vec![text_of(&Body::new(bytes.clone()))]);
            }
            (_, None) => self.miss(&at, format!("there is no file {path}"), missing()),
            (Files::Lines(expected), Some(bytes)) => {
                let bodies: Vec<Body> = lines(bytes)
                    .map(|line| Body::new(Bytes::copy_from_slice(line)))
                    .collect();
                self.each(&at, path, expected.len(), &bodies);
            }
            (Files::Text(text), Some(bytes)) => {
                let wanted = match (&text.text, &text.file) {
                    (Some(text), _) => Some(Bytes::from(text.clone())),
                    (None, Some(file)) => self.case.file.fixture(file).ok(),
                    (None, None) => None,
                };
                if let Some(wanted) = wanted
                    && wanted != *bytes
                {
                    let message = format!("the file {path} is not as expected");
                    self.miss(&at, message, line_differences(&wanted, bytes));
                }
                self.count(&["files", path, "count"], text.count, lines(bytes).count());
            }
        }
    }

    fn exceptions(&mut self, expected: Option<&Exceptions>) {
        let got = &self.outcome.exceptions;
        let shown = || got.iter().map(exception_line).collect::<Vec<_>>();
        let own = self.case.file.flow();
        let Some(Exceptions::All(expected)) = expected else {
            if !got.is_empty() {
                let message = format!("nothing must wait for a person, and {} do", got.len());
                let message = match expected {
                    Some(_) => message,
                    None => format!("{message}; say which under `exceptions`"),
                };
                self.miss(&["exceptions"], message, shown());
            }
            return;
        };
        let spread: Vec<_> = expected
            .iter()
            .enumerate()
            .flat_map(|(nth, one)| std::iter::repeat_n((nth, one), one.times.unwrap_or(1) as usize))
            .collect();
        if spread.len() != got.len() {
            let message = format!(
                "{} must wait for a person, and {} do",
                spread.len(),
                got.len()
            );
            self.miss(&["exceptions"], message, shown());
        }
        let mut misses = Vec::new();
        for ((nth, want), is) in spread.into_iter().zip(got) {
            let mut found = Vec::new();
            let mut says = |what: &str, want: &str, is: &str| {
                if want != is {
                    found.push(format!("{what}: expected {want}, is {is}"));
                }
            };
            says("flow", want.flow.as_deref().unwrap_or(own), &is.flow);
            if let Some(step) = &want.step {
                says("step", step, &is.step);
            }
            if let Some(class) = &want.class {
                says("class", class, is.class);
            }
            if let Some(attempts) = want.attempts {
                says("attempts", &attempts.to_string(), &is.attempts.to_string());
            }
            if let Some(part) = &want.message
                && !is.message.contains(part.as_str())
            {
                found.push(format!(
                    "message: expected something with `{part}`, is `{}`",
                    is.message
                ));
            }
            if !found.is_empty() {
                misses.push((nth, found));
            }
        }
        for (nth, found) in misses {
            let nth = nth.to_string();
            let message = "what waits for a person is not as expected".to_owned();
            self.miss(&["exceptions", &nth], message, found);
        }
    }

    fn books(&mut self, flow: &str) {
        let counts = self.outcome.books.get(flow).copied().unwrap_or_default();
        let is: BTreeMap<&str, i64> = counts_of(&counts).into_iter().collect();
        let mut found = Vec::new();
        for (name, node) in self.node(&["books", flow]).map_or(&[][..], Node::entries) {
            let want = node.to_json().as_i64();
            let is = is.get(name.text.as_str()).copied();
            if want != is {
                let shown =
                    |count: Option<i64>| count.map_or("nothing".to_owned(), |it| it.to_string());
                found.push(format!(
                    "{}: expected {}, is {}",
                    name.text,
                    shown(want),
                    shown(is)
                ));
            }
        }
        if !found.is_empty() {
            let message = format!("the books of {flow} are not as expected");
            self.miss(&["books", flow], message, found);
        }
    }

    fn runs(&mut self, expect: &Expect) {
        let Some(expected) = &expect.runs else { return };
        let own = self.case.file.flow();
        let flows: BTreeSet<&str> = expected
            .iter()
            .map(|run| run.flow.as_deref().unwrap_or(own))
            .collect();
        let outcome = self.outcome;
        let mut misses = Vec::new();
        for flow in flows {
            let got: Vec<&Ran> = outcome
                .runs
                .iter()
                .filter(|run| &*run.flow == flow)
                .collect();
            let want: Vec<_> = expected
                .iter()
                .enumerate()
                .filter(|(_, run)| run.flow.as_deref().unwrap_or(own) == flow)
                .collect();
            if want.len() != got.len() {
                let message = format!(
                    "{flow} must have {} runs, and has {}",
                    want.len(),
                    got.len()
                );
                misses.push((None, message, got.iter().map(|run| run_line(run)).collect()));
            }
            for ((nth, want), got) in want.into_iter().zip(got) {
                let found = run_differences(want, got);
                if !found.is_empty() {
                    misses.push((
                        Some(nth),
                        format!("a run of {flow} is not as expected"),
                        found,
                    ));
                }
            }
        }
        for (nth, message, found) in misses {
            match nth {
                Some(nth) => self.miss(&["runs", &nth.to_string()], message, found),
                None => self.miss(&["runs"], message, found),
            }
        }
    }

    fn takes(&mut self, at: &[&str], what: &str, takes: &Takes, passed_ms: i64) {
        if let Some(words) = out_of(takes, passed_ms) {
            self.miss(at, format!("{what}: {words}"), Vec::new());
        }
    }

    fn condition(&mut self, nth: usize, text: &str) {
        let document = self.outcome.to_json(true).to_string();
        let message = Message::new(MessageId::default(), 0, Body::new(document));
        let tables = Tables::default();
        let decided = match Expression::compile(text) {
            Ok(expression) => match Scope::of(&message, &tables) {
                Ok(scope) => expression.decide(&scope).map_err(|failure| failure.message),
                Err(failure) => Err(failure.message),
            },
            Err(_) => Err("it cannot be read".to_owned()),
        };
        let nth = nth.to_string();
        match decided {
            Ok(true) => {}
            Ok(false) => self.miss(
                &["where", &nth],
                format!("`{text}` is not true"),
                Vec::new(),
            ),
            Err(why) => self.miss(&["where", &nth], format!("`{text}`: {why}"), Vec::new()),
        }
    }

    fn count(&mut self, at: &[&str], want: Option<u64>, is: usize) {
        if let Some(want) = want
            && want != is as u64
        {
            self.miss(at, format!("expected {want}, there are {is}"), Vec::new());
        }
    }

    fn node(&self, path: &[&str]) -> Option<&Node> {
        let base = self.base.iter().map(String::as_str);
        let path: Vec<&str> = base.chain(path.iter().copied()).collect();
        self.case.file.node.find(&path)
    }

    fn differs(&mut self, path: &[&str], what: &str, found: &[Difference]) {
        if !found.is_empty() {
            let message = format!("{what} is not as expected");
            self.miss(path, message, found.iter().map(told).collect());
        }
    }

    fn miss(&mut self, path: &[&str], message: String, differences: Vec<String>) {
        let place = self.place(path);
        self.misses.push(Miss {
            place,
            message,
            differences,
        });
    }

    /// The place of what is expected; of a part that is not there the nearest that is.
    fn place(&self, path: &[&str]) -> Place {
        let base: Vec<&str> = self.base.iter().map(String::as_str).collect();
        let mut node = self.case.file.find(&base);
        for part in path {
            match node.find(&[part]) {
                Some(found) => node = found,
                None => break,
            }
        }
        node.place(&self.case.file.file)
    }
}

/// Why a time is not within its bounds.
fn out_of(takes: &Takes, passed_ms: i64) -> Option<String> {
    let passed = u64::try_from(passed_ms).unwrap_or(0);
    let shown = crate::component::words::Duration { ms: passed };
    match (takes.at_least, takes.at_most) {
        (Some(least), _) if passed < least.ms => {
            Some(format!("{shown}, at least {least} expected"))
        }
        (_, Some(most)) if passed > most.ms => Some(format!("{shown}, at most {most} expected")),
        _ => None,
    }
}

fn exception_line(one: &Excepted) -> String {
    let first = one.message.lines().next().unwrap_or_default();
    format!("{} / {}: {}: {first}", one.flow, one.step, one.class)
}

fn run_line(run: &Ran) -> String {
    format!(
        "{} {:?} through {}",
        run.state,
        run.keys,
        run.through.join(" > ")
    )
}

fn run_differences(want: &crate::flow::test::Run, got: &Ran) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(state) = &want.state
        && state != got.state
    {
        found.push(format!("state: expected {state}, is {}", got.state));
    }
    for (name, value) in want.keys.iter().flatten() {
        let is = got.keys.get(name);
        if is != Some(value) {
            let is = is.map_or("nothing", String::as_str);
            found.push(format!("keys.{name}: expected {value}, is {is}"));
        }
    }
    if let Some(through) = &want.through {
        let mut rest = got.through.iter();
        let there = through.iter().all(|step| rest.any(|done| done == step));
        if !there {
            found.push(format!(
                "through: expected {}, is {}",
                through.join(" > "),
                got.through.join(" > ")
            ));
        }
    }
    found
}

/// A body, as it is shown in a line.
fn text_of(body: &Body) -> String {
    let text = String::from_utf8_lossy(body.bytes());
    match text.char_indices().nth(400) {
        Some((at, _)) => format!("{}.. ({} bytes)", &text[..at], text.len()),
        None => text.into_owned(),
    }
}

/// The lines in which two texts differ.
fn line_differences(wanted: &Bytes, is: &Bytes) -> Vec<String> {
    let texts = [wanted, is].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let (wanted, is): (Vec<&str>, Vec<&str>) =
        (texts[0].lines().collect(), texts[1].lines().collect());
    let mut found = Vec::new();
    for nth in 0..wanted.len().max(is.len()) {
        let (want, got) = (wanted.get(nth), is.get(nth));
        if want != got {
            let shown =
                |line: Option<&&str>| line.map_or("nothing".to_owned(), |it| format!("`{it}`"));
            found.push(format!(
                "line {}: expected {}, is {}",
                nth + 1,
                shown(want),
                shown(got)
            ));
        }
    }
    if found.is_empty() {
        found.push("the ends of lines differ".to_owned());
    }
    found
}
