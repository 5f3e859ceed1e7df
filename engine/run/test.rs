//! Flow tests, run in this process: messages come in, systems answer as the test says, time passes when nothing else does. What must have come
//! of it is held against what did.

use std::path::PathBuf;
use std::sync::Arc;

use crate::component::Library;
use crate::diagnostic::Place;
use crate::failure::Failure;
use crate::flow::test::{Test, TestFile};
use crate::world::env::Environment;
use crate::yaml::Node;

mod bench;
mod compare;
pub mod coverage;
mod feed;
mod idle;
mod judge;
pub mod kept;
pub mod mutate;
mod outcome;
mod outside;
mod power;
mod prepare;
pub mod sweep;

use outcome::Outcome;

/// A change of a file of the project, for this run only.
pub type Edit = Arc<dyn Fn(&str, &mut Node) + Send + Sync>;

/// What all tests of a run share.
#[derive(Clone)]
pub struct Setting {
    /// The project's folder.
    pub root: PathBuf,
    /// The variables that stand behind those of the tests.
    pub env: Arc<dyn Environment>,
    /// What the project offers, as it is on the disk: the schemas that expectations name.
    pub library: Arc<Library>,
    /// A change of the project.
    pub edit: Option<Edit>,
    /// Write what came of it where a test has a snapshot.
    pub update: bool,
}

/// One test of a file.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// Its file.
    pub file: &'a TestFile,
    /// Which one, from 0.
    pub nth: usize,
}

impl<'a> Case<'a> {
    /// What it says.
    pub fn test(&self) -> &'a Test {
        &self.file.all()[self.nth]
    }

    /// Whether one of these flows runs in it.
    fn runs_any(&self, flows: &std::collections::BTreeSet<&str>) -> bool {
        let with = self.file.tests.with.iter().chain(&self.test().with);
        let mut runs = with.flatten().map(String::as_str);
        flows.contains(self.file.flow()) || runs.any(|flow| flows.contains(flow))
    }

    /// Its name.
    pub fn name(&self) -> &'a str {
        self.test().test.as_deref().unwrap_or_default()
    }
}

/// Something that is not as a test expects it.
#[derive(Clone, Debug)]
pub struct Miss {
    /// What was expected, and where.
    pub place: Place,
    /// What is not so.
    pub message: String,
    /// Path by path: what was expected and what was there.
    pub differences: Vec<String>,
}

/// How a test went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is not as expected; nothing if it passed.
    pub misses: Vec<Miss>,
    /// Why it could not be run.
    pub broken: Option<String>,
    /// What came of it.
    pub outcome: serde_json::Value,
    /// How many commits there were.
    pub commits: u64,
    /// How much time passed in the test, in milliseconds.
    pub passed_ms: i64,
    /// The snapshot was written.
    pub updated: bool,
    /// What it has gone through.
    pub touched: coverage::Touched,
}

impl Report {
    /// Whether all is as expected.
    pub fn passed(&self) -> bool {
        self.misses.is_empty() && self.broken.is_none()
    }

    fn broken(failure: &Failure) -> Report {
        Report {
            broken: Some(failure.message.clone()),
            ..Report::default()
        }
    }
}

/// Runs a test.
pub fn run(case: Case<'_>, setting: &Setting) -> Report {
    let crashes = case.test().crash.as_ref();
    let crashes = crashes.map_or(&[][..], |crashes| crashes.all());
    match bench::run(case, setting, crashes) {
        Ok(outcome) => judged(case, setting, &outcome, crashes.len()),
        Err(failure) => Report::broken(&failure),
    }
}

fn judged(case: Case<'_>, setting: &Setting, outcome: &Outcome, crashes: usize) -> Report {
    let mut judged = judge::judge(case, setting, outcome);
    if outcome.crashes < crashes {
        let place = case.file.place(&["tests", &case.nth.to_string(), "crash"]);
        let message = format!(
            "the engine died {} of {crashes} times: it never came to the moment of the next crash; there were {} commits",
            outcome.crashes, outcome.commits
        );
        judged.misses.push(Miss {
            place,
            message,
            differences: Vec::new(),
        });
    }
    Report {
        misses: judged.misses,
        broken: None,
        outcome: outcome.to_json(true),
        commits: outcome.commits,
        passed_ms: outcome.passed_ms,
        updated: judged.updated,
        touched: coverage::Touched::of(case.file.flow(), outcome, judged.looked_at),
    }
}
