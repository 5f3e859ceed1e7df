//! `crossdock test`: the project's flow tests. It finds and shows them; `run::test` runs them.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::{Args, Subcommand, ValueEnum};

use super::{FINDINGS, GOOD, ProjectArguments, Terminal, UNLOADABLE, absolute, written};
use crate::diagnostic::{Findings, render};
use crate::failure::Failure;
use crate::flow;
use crate::flow::plan::Project;
use crate::flow::test::TestFile;
use crate::run::test::{Case, Report, Setting, coverage, mutate, run, sweep};
use crate::world::env::{FixedEnvironment, Overlay};
use crate::world::{World, disk};

mod keep;
mod shown;

/// Where the variables of tests stand, below the project's folder.
const EXAMPLE_ENV: &str = "example.env";

#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  crossdock test                                    all tests: flows/**/*.test.yaml
  crossdock test flows/orders.test.yaml --filter lost
  crossdock test --crash-sweep                      each test again, with a crash at each commit
  crossdock test --coverage --coverage-min 90
  crossdock test --mutate                           would the tests notice a mistake in a flow?
  crossdock test --junit report.xml

A test runs in this process: systems are answered as the test says, time passes when nothing else does, nothing leaves the machine.
Variables come from the test, then from example.env in the project's folder or the file of --env-file; those of this process are not seen.
Exit codes: 0 all passed, 1 a test failed (or the coverage is too low, or a mistake was not noticed), 78 the project cannot be loaded"
)]
pub(super) struct Test {
    #[command(subcommand)]
    instead: Option<Instead>,
    /// Test files, or folders of them; default: all of the project
    paths: Vec<PathBuf>,
    /// Only tests whose file or name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Show which tests there are, and run none
    #[arg(long)]
    list: bool,
    /// The form of what is shown
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The same as `--format tap`
    #[arg(long, conflicts_with = "format")]
    tap: bool,
    /// Write a JUnit report too
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write the snapshots of tests anew
    #[arg(long)]
    update: bool,
    /// Run each test again with a crash before and after each of its commits: what it does must stay the same
    #[arg(long)]
    crash_sweep: bool,
    /// Show what of the flows the tests go through
    #[arg(long)]
    coverage: bool,
    /// Fail if less than so many percent of it is gone through
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    coverage_min: Option<u8>,
    /// Make small mistakes in flows, mappings and systems, one at a time, and see whether a test notices
    #[arg(long)]
    mutate: bool,
    /// Fail if less than so many percent of the mistakes are noticed
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100), requires = "mutate")]
    mutate_min: Option<u8>,
    /// How many tests run at once; default: one for each processor
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: Option<u16>,
    #[command(flatten)]
    project: ProjectArguments,
}

/// What is done instead of running tests.
#[derive(Subcommand)]
enum Instead {
    /// Make a test of a real run: what came in, what the systems answered, what was sent
    #[command(name = "record")]
    Keep(keep::Keep),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// Test Anything Protocol, version 14
    Tap,
    /// One object: tests with what came of each, coverage, sweep, mistakes
    Json,
}

/// All that was found out.
#[derive(Default)]
struct Results {
    reports: Vec<Report>,
    swept: Vec<Option<Result<sweep::Swept, String>>>,
    covered: Option<Vec<coverage::Covered>>,
    mutated: Option<mutate::Mutated>,
}

impl Test {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        if let Some(Instead::Keep(keep)) = &self.instead {
            return keep.run(terminal);
        }
        let root = absolute(&self.project.project);
        let world = self.world(&root)?;
        let loaded = flow::load(&root, &world);
        let Some(project) = loaded.project else {
            return Ok(unloadable(&loaded.findings, terminal));
        };
        let (files, findings) = flow::test::load(&root, Some(&project));
        let files: Vec<&TestFile> = files
            .iter()
            .filter(|file| self.wants(&root, file))
            .collect();
        if findings.has_errors() {
            return Ok(unloadable(&findings, terminal));
        }
        let cases = self.cases(&files);
        if self.list {
            return self.list(&cases, terminal);
        }
        if cases.is_empty() {
            writeln!(
                terminal.err,
                "crossdock: no test; tests stand beside flows, in `flows/NAME.test.yaml`"
            )
            .ok();
            return Ok(FINDINGS);
        }
        let setting = Setting {
            root: root.clone(),
            env: world.env.clone(),
            library: project.library.clone(),
            edit: None,
            update: self.update,
        };
        let results = self.results(&cases, &setting, &project, &world);
        let format = match self.tap {
            true => Format::Tap,
            false => self.format,
        };
        match format {
            Format::Text => shown::text(&cases, &results, terminal),
            Format::Tap => shown::tap(&cases, &results, terminal),
            Format::Json => shown::json(&cases, &results, terminal),
        }?;
        if let Some(path) = &self.junit {
            let report = shown::junit(&cases, &results);
            disk::write_atomic(&absolute(path), report.as_bytes())?;
        }
        Ok(self.code(&results, terminal))
    }

    /// The world of tests: their variables come from files, never from this process.
    fn world(&self, root: &Path) -> Result<World, Failure> {
        let mut world = World::real();
        let file = match &self.project.env_file {
            Some(file) => Some(file.clone()),
            None => Some(root.join(EXAMPLE_ENV)).filter(|path| path.is_file()),
        };
        let nothing = Arc::new(FixedEnvironment::default());
        let text = file
            .map(|file| disk::read_text(&file, 1 << 20))
            .transpose()?;
        world.env = Arc::new(Overlay::parse(nothing, &text.unwrap_or_default()));
        Ok(world)
    }

    /// Whether a file was asked for.
    fn wants(&self, root: &Path, file: &TestFile) -> bool {
        let path = root.join(&*file.file.path);
        self.paths.is_empty()
            || self
                .paths
                .iter()
                .any(|wanted| path.starts_with(absolute(wanted)))
    }

    fn cases<'a>(&self, files: &[&'a TestFile]) -> Vec<Case<'a>> {
        let filter = self.filter.as_deref().unwrap_or_default();
        let mut cases = Vec::new();
        for file in files {
            for nth in 0..file.all().len() {
                let case = Case { file, nth };
                if case.name().contains(filter) || file.file.path.contains(filter) {
                    cases.push(case);
                }
            }
        }
        cases
    }

    fn list(&self, cases: &[Case<'_>], terminal: &mut Terminal) -> Result<u8, Failure> {
        for case in cases {
            let line = format!("{}: {}", case.file.file.path, case.name());
            written(writeln!(terminal.out, "{line}"))?;
        }
        Ok(GOOD)
    }

    fn results(
        &self,
        cases: &[Case<'_>],
        setting: &Setting,
        project: &Project,
        world: &World,
    ) -> Results {
        let threads = self.threads.map_or_else(
            || std::thread::available_parallelism().map_or(1, usize::from),
            usize::from,
        );
        let mut results = Results {
            reports: each(cases, threads, |case| run(case, setting)),
            ..Results::default()
        };
        if self.crash_sweep {
            results.swept = each(cases, threads, |case| {
                let swept = sweep::sweep(case, setting);
                Some(swept.map_err(|failure| failure.message))
            });
        }
        if self.coverage || self.coverage_min.is_some() {
            let touched: Vec<_> = results
                .reports
                .iter()
                .map(|report| report.touched.clone())
                .collect();
            let flows: BTreeSet<&str> = cases.iter().map(|case| case.file.flow()).collect();
            results.covered = Some(coverage::coverage(project, &setting.root, flows, &touched));
        }
        if self.mutate {
            results.mutated = Some(mutate::mutate(cases, setting, project, world, threads));
        }
        results
    }

    fn code(&self, results: &Results, terminal: &mut Terminal) -> u8 {
        let mut good = results.reports.iter().all(Report::passed);
        for swept in results.swept.iter().flatten() {
            good &= swept.as_ref().is_ok_and(|swept| swept.different.is_empty());
        }
        if let (Some(least), Some(covered)) = (self.coverage_min, &results.covered) {
            let percent = shown::percent_covered(covered);
            if percent < u64::from(least) {
                writeln!(
                    terminal.err,
                    "crossdock: the tests go through {percent}% of their flows; {least}% is wanted"
                )
                .ok();
                good = false;
            }
        }
        if let Some(mutated) = &results.mutated {
            let least = u64::from(self.mutate_min.unwrap_or(100));
            if shown::percent_killed(mutated) < least {
                writeln!(
                    terminal.err,
                    "crossdock: fewer than {least}% of the mistakes are noticed"
                )
                .ok();
                good = false;
            }
        }
        match good {
            true => GOOD,
            false => FINDINGS,
        }
    }
}

fn unloadable(findings: &Findings, terminal: &mut Terminal) -> u8 {
    let color = terminal.color;
    render::text(findings, &mut terminal.err, color).ok();
    writeln!(
        terminal.err,
        "crossdock: the project cannot be loaded; no test was run"
    )
    .ok();
    UNLOADABLE
}

/// Does something for each case, on so many threads; the results stay in the order of the cases.
fn each<T: Send>(
    cases: &[Case<'_>],
    threads: usize,
    work: impl Fn(Case<'_>) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, cases.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(at) else { break };
                    let result = work(*case);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
