//! `crossdock run --dry`: samples through a flow, to see what each step would do and what would be sent. Nothing leaves the machine.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{FINDINGS, GOOD, Terminal, written};
use crate::body::{Body, Item, Kind};
use crate::diagnostic::closest;
use crate::failure::Failure;
use crate::flow::plan::{Plan, Project};
use crate::format::{FormatConfig, FormatName, Position};
use crate::run::dry::{Act, Course, End, Rehearsal, What};
use crate::world::{World, disk};

/// The largest file of samples.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// How many samples one rehearsal takes.
const SAMPLES_MAX: u64 = 100_000;

#[derive(Args)]
pub(super) struct Dry {
    /// Take samples from these files (.json, .jsonl, .csv, .xml) through a flow and show what would be sent; nothing is sent or stored
    #[arg(long = "dry", value_name = "FILE", num_args = 1..)]
    files: Vec<PathBuf>,
    /// The flow that takes the samples; needed where the project has several
    #[arg(long, requires = "files")]
    flow: Option<String>,
    /// The body of the answer to a call: the step's id and a JSON file
    #[arg(long = "answer", value_name = "STEP=FILE", requires = "files")]
    answers: Vec<String>,
    /// Print one JSON line a sample
    #[arg(long, requires = "files")]
    json: bool,
}

/// How many samples ended in which way.
#[derive(Default)]
struct Counts {
    all: u64,
    by_end: BTreeMap<End, u64>,
}

impl Dry {
    /// Whether it is asked for.
    pub(super) fn is_wanted(&self) -> bool {
        !self.files.is_empty()
    }

    pub(super) fn run(
        &self,
        project: &Project,
        world: &World,
        terminal: &mut Terminal,
    ) -> Result<u8, Failure> {
        let plan = self.plan(project)?;
        let mut rehearsal = Rehearsal::of(project, plan, self.answers()?)?;
        let mut counts = Counts::default();
        for path in &self.files {
            self.file(path, plan, &mut rehearsal, world, &mut counts, terminal)?;
        }
        let count = |end| counts.by_end.get(&end).copied().unwrap_or(0);
        let failed = count(End::Failed);
        if self.json {
            return Ok(if failed == 0 { GOOD } else { FINDINGS });
        }
        let words = [
            (End::Delivered, "delivered"),
            (End::Filtered, "filtered"),
            (End::Duplicate, "duplicates"),
            (End::Dropped, "dropped"),
            (End::Open, "waiting for an answer or for others"),
            (End::Failed, "failed"),
        ];
        let parts: Vec<String> = words
            .iter()
            .filter(|(end, _)| count(*end) > 0)
            .map(|(end, words)| format!("{} {words}", count(*end)))
            .collect();
        written(writeln!(
            terminal.out,
            "{} samples: {}; nothing was sent",
            counts.all,
            if parts.is_empty() {
                "none".to_owned()
            } else {
                parts.join(", ")
            }
        ))?;
        Ok(if failed == 0 { GOOD } else { FINDINGS })
    }

    fn plan<'p>(&self, project: &'p Project) -> Result<&'p Plan, Failure> {
        let flows: Vec<&str> = project.plans.keys().map(|flow| &**flow).collect();
        match &self.flow {
            Some(name) => project
                .plans
                .get(&**name)
                .map(|plan| &**plan)
                .ok_or_else(|| {
                    let help = match closest(name, flows.iter().copied()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("it has {}", flows.join(", ")),
                    };
                    Failure::config(format!("the project has no flow `{name}`; {help}"))
                }),
            None => match project.plans.values().next().filter(|_| flows.len() == 1) {
                Some(plan) => Ok(plan),
                None => Err(Failure::config(format!(
                    "say with --flow which flow takes the samples: {}",
                    flows.join(", ")
                ))),
            },
        }
    }

    fn answers(&self) -> Result<BTreeMap<String, Body>, Failure> {
        let mut all = BTreeMap::new();
        for answer in &self.answers {
            let Some((step, path)) = answer.split_once('=') else {
                let words = format!("`{answer}` is no answer; write STEP=FILE");
                return Err(Failure::config(words));
            };
            let body = Body::new(disk::read(Path::new(path), FILE_BYTES_MAX)?);
            body.document()
                .map_err(|failure| Failure::config(format!("{path}: {}", failure.message)))?;
            all.insert(step.to_owned(), body);
        }
        Ok(all)
    }

    fn file(
        &self,
        path: &Path,
        plan: &Plan,
        rehearsal: &mut Rehearsal<'_>,
        world: &World,
        counts: &mut Counts,
        terminal: &mut Terminal,
    ) -> Result<(), Failure> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let format = match extension {
            Some("json") => FormatName::Json,
            Some("jsonl" | "ndjson") => FormatName::Jsonl,
            Some("csv") => FormatName::Csv,
            Some("xml") => FormatName::Xml,
            _ => {
                let words = format!(
                    "{}: samples are .json, .jsonl, .csv or .xml",
                    path.display()
                );
                return Err(Failure::config(words));
            }
        };
        let format = FormatConfig::Name(format)
            .ready()
            .map_err(|fault| Failure::internal(fault.message))?;
        let schema = plan.accepts.as_ref().map(|accepts| accepts.schema.raw());
        let mut decoder = format.decoder(schema, Position::default());
        decoder.feed(&disk::read(path, FILE_BYTES_MAX)?);
        decoder.finish();
        while let Some(next) = decoder.next_document() {
            match next {
                Ok(document) => {
                    for body in parts(document.body) {
                        let course = rehearsal.take(body, world.clock.now_ms());
                        self.show(path, document.line, &course, counts, terminal)?;
                    }
                }
                Err(broken) => {
                    let course = unread(plan, &broken.failure);
                    self.show(path, broken.line, &course, counts, terminal)?;
                    if broken.fatal {
                        break;
                    }
                }
            }
            if counts.all >= SAMPLES_MAX {
                let words = format!("a rehearsal takes at most {SAMPLES_MAX} samples");
                return Err(Failure::config(words));
            }
        }
        Ok(())
    }

    fn show(
        &self,
        path: &Path,
        line: u64,
        course: &Course,
        counts: &mut Counts,
        terminal: &mut Terminal,
    ) -> Result<(), Failure> {
        counts.all += 1;
        *counts.by_end.entry(course.end).or_default() += 1;
        if self.json {
            let line = json!({ "file": path.display().to_string(), "line": line, "number": counts.all, "course": course });
            return written(writeln!(terminal.out, "{line}"));
        }
        written(shown(path, line, counts.all, course, &mut terminal.out))
    }
}

/// A list is as many samples as it has items.
fn parts(body: Body) -> Vec<Body> {
    let list = body
        .document()
        .ok()
        .filter(|item| item.kind() == Kind::List);
    let items: Option<Vec<Body>> =
        list.map(|list| list.items().map(Item::to_bytes).map(Body::new).collect());
    items.unwrap_or_else(|| vec![body])
}

fn unread(plan: &Plan, failure: &Failure) -> Course {
    let act = Act {
        flow: plan.flow.clone(),
        step: "@accept".into(),
        what: What::Fails,
        words: failure.to_string(),
        sends: None,
    };
    Course {
        keys: BTreeMap::new(),
        acts: vec![act],
        end: End::Failed,
    }
}

fn shown(
    path: &Path,
    line: u64,
    number: u64,
    course: &Course,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let keys: Vec<String> = course
        .keys
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let end = match course.end {
        End::Duplicate => "duplicate",
        End::Filtered => "filtered",
        End::Delivered => "delivered",
        End::Dropped => "dropped",
        End::Open => "open",
        End::Failed => "FAILED",
    };
    writeln!(
        out,
        "sample {number} ({}:{line})  {}  {end}",
        path.display(),
        keys.join(" ")
    )?;
    for act in &course.acts {
        let verb = match act.what {
            What::Passes => "passes",
            What::Sends => "would send to",
            What::Writes => "would write",
            What::Hands => "hands to",
            What::Waits => "waits",
            What::Filtered => "ends here",
            What::Dropped => "is dropped:",
            What::Open => "",
            What::Fails => "fails:",
        };
        let words = act.words.replace('\n', "\n    ");
        let said = format!("{verb} {words}");
        writeln!(out, "  {} / {}: {}", act.flow, act.step, said.trim())?;
        if let Some(sends) = &act.sends {
            pretty(sends, out)?;
        }
    }
    Ok(())
}

/// What would be sent: JSON indented, anything else as it is.
fn pretty(text: &str, out: &mut dyn Write) -> std::io::Result<()> {
    let body = Body::new(text.to_owned());
    let mut indented = Vec::new();
    if let Ok(item) = body.document() {
        super::table::pretty(item, 0, &mut indented);
    }
    let whole = String::from_utf8_lossy(&indented);
    let whole = if whole.is_empty() { text } else { &whole };
    for line in whole.lines() {
        writeln!(out, "    {line}")?;
    }
    Ok(())
}
