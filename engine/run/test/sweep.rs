//! A test once more with a crash at each commit: before it and after it. What it does outside and in the books must be what it does without
//! a crash. What the test expects is not looked at.

use std::collections::BTreeSet;

use super::outcome::{Outcome, counts_of};
use super::outside::Called;
use super::{Case, Setting, bench};
use crate::failure::Failure;
use crate::flow::test::Crash;

/// How many commits of a test are swept at most.
const COMMITS_MAX: u64 = 2_000;

/// What a sweep found.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// How often the engine died.
    pub crashes: u64,
    /// Where it made a difference, and what.
    pub different: Vec<Differs>,
}

/// A crash that makes a difference.
#[derive(Clone, Debug)]
pub struct Differs {
    /// The moment: `before commit 3`, `after commit 3`.
    pub moment: String,
    /// What is otherwise; or why the test could not be run.
    pub what: Vec<String>,
}

/// Sweeps a test.
pub fn sweep(case: Case<'_>, setting: &Setting) -> Result<Swept, Failure> {
    let without = bench::run(case, setting, &[])?;
    let expected = Effects::of(&without);
    let mut swept = Swept::default();
    for commit in 1..=without.commits.min(COMMITS_MAX) {
        for (word, crash) in [
            (
                "before",
                Crash {
                    before_commit: Some(commit),
                    ..Crash::default()
                },
            ),
            (
                "after",
                Crash {
                    after_commit: Some(commit),
                    ..Crash::default()
                },
            ),
        ] {
            let what = match bench::run(case, setting, &[crash]) {
                Ok(outcome) => {
                    swept.crashes += outcome.crashes as u64;
                    expected.differences(&Effects::of(&outcome))
                }
                Err(failure) => vec![failure.message],
            };
            if !what.is_empty() {
                let moment = format!("{word} commit {commit}");
                swept.different.push(Differs { moment, what });
            }
        }
    }
    Ok(swept)
}

/// What a test does to the world, told so that a repeat that does no harm is told once.
struct Effects(BTreeSet<String>);

impl Effects {
    fn of(outcome: &Outcome) -> Effects {
        let mut all = BTreeSet::new();
        // What may not be repeated is numbered, so that a second one is seen.
        let mut add = |text: String| {
            let mut numbered = text.clone();
            let mut nth = 1;
            while !all.insert(numbered) {
                nth += 1;
                numbered = format!("{text} (once more: {nth})");
            }
        };
        let mut repeats = BTreeSet::new();
        for call in outcome.calls.iter().filter(|call| call.applied) {
            if ["GET", "HEAD"].contains(&call.method.as_str()) {
                continue;
            }
            let text = effect(call);
            if call.key.is_some() || call.safe {
                repeats.insert(text);
            } else {
                add(text);
            }
        }
        repeats.into_iter().for_each(&mut add);
        for (sink, bodies) in &outcome.given {
            for body in bodies {
                add(format!(
                    "{sink} gives on {}",
                    String::from_utf8_lossy(body.bytes())
                ));
            }
        }
        for (path, bytes) in &outcome.files {
            add(format!(
                "the file {path} is {}",
                String::from_utf8_lossy(bytes)
            ));
        }
        for one in &outcome.exceptions {
            // Not its class: where a crash leaves a doubt, what waits is `ambiguous`, and rightly so.
            add(format!("{} / {}: an exception", one.flow, one.step));
        }
        for run in &outcome.runs {
            add(format!(
                "a run of {} is {}, {:?}",
                run.flow, run.state, run.keys
            ));
        }
        for (flow, counts) in &outcome.books {
            // A sender that heard nothing sends again: what came is more, what was accepted is not.
            let kept = counts_of(counts)
                .into_iter()
                .filter(|(name, _)| !["received", "duplicates"].contains(name));
            let kept: Vec<String> = kept
                .map(|(name, count)| format!("{name} {count}"))
                .collect();
            add(format!("the books of {flow}: {}", kept.join(", ")));
        }
        all.extend(outcome.unsound.iter().cloned());
        Effects(all)
    }

    fn differences(&self, other: &Effects) -> Vec<String> {
        let missing = self.0.difference(&other.0);
        let more = other.0.difference(&self.0);
        let missing = missing.map(|what| format!("missing: {what}"));
        missing
            .chain(more.map(|what| format!("more: {what}")))
            .collect()
    }
}

fn effect(call: &Called) -> String {
    let key = call.key.as_ref();
    let key = key.map_or(String::new(), |key| format!(" with the key {key}"));
    format!(
        "{} {} {}{key}: {}",
        call.system,
        call.method,
        call.path,
        String::from_utf8_lossy(call.body.bytes())
    )
}
