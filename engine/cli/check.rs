//! `crossdock check`: every mistake in the project at once, for people and for CI.

use std::io::Write;

use clap::{Args, ValueEnum};

use super::{FINDINGS, GOOD, ProjectArguments, Terminal, UNLOADABLE, absolute, against, written};
use crate::diagnostic::{Findings, render};
use crate::failure::Failure;
use crate::flow;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock check
  crossdock check --format github            annotations on a pull request
  crossdock check --format sarif > check.sarif
  crossdock check --deny-warnings            for CI
  crossdock check --against origin/main      what changed since, and whether others can live with it

Exit codes: 0 no errors, 1 errors (or warnings, with --deny-warnings), 78 the folder is no project")]
pub(super) struct Check {
    #[command(flatten)]
    project: ProjectArguments,
    /// The form of the findings
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Exit with 1 on warnings too
    #[arg(long)]
    deny_warnings: bool,
    /// Compare schemas and flows with an older state too: a git revision, or a folder that is a project
    #[arg(long, value_name = "REV|DIR")]
    against: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people: the line with carets, and one line of help
    Text,
    /// A list of {code, severity, file, line, column, message, help}
    Json,
    /// SARIF 2.1.0, for code scanning
    Sarif,
    /// GitHub workflow annotations
    Github,
}

impl Check {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let world = self.project.world()?;
        let root = absolute(&self.project.project);
        if !root.is_dir() {
            writeln!(
                terminal.err,
                "crossdock: {} is no folder; name the project's folder with --project",
                root.display()
            )
            .ok();
            return Ok(UNLOADABLE);
        }
        let mut loaded = flow::load(&root, &world);
        let compared = match &self.against {
            None => None,
            Some(state) => match against::compare(&root, state, &world) {
                Ok(compared) => Some(compared),
                Err(failure) => {
                    terminal.fail(&failure);
                    return Ok(UNLOADABLE);
                }
            },
        };
        for finding in compared
            .iter()
            .flat_map(|compared| compared.against.findings.iter())
        {
            loaded.findings.push(finding.clone());
        }
        let (tests, found) = flow::test::load(&root, loaded.project.as_ref());
        loaded.findings.extend(found);
        let (findings, out) = (&loaded.findings, &mut terminal.out);
        written(match self.format {
            Format::Text => render::text(findings, out, terminal.color),
            Format::Json => match &compared {
                Some(compared) => {
                    return self.ended(findings, against::json(compared, findings, terminal));
                }
                None => render::json(findings, out),
            },
            Format::Sarif => render::sarif(findings, out),
            Format::Github => render::github(findings, out),
        })?;
        if self.format == Format::Text && findings.is_empty() {
            let flows = loaded
                .project
                .as_ref()
                .map_or(0, |project| project.plans.len());
            written(writeln!(
                terminal.out,
                "{} files, {flows} flows: no findings",
                loaded.files + tests.len()
            ))?;
        }
        let told = match &compared {
            Some(compared) if self.format == Format::Text => against::text(compared, terminal),
            _ => Ok(()),
        };
        self.ended(findings, told)
    }

    /// The exit code, if all could be told.
    fn ended(&self, findings: &Findings, told: Result<(), Failure>) -> Result<u8, Failure> {
        told?;
        let denied = self.deny_warnings && !findings.is_empty();
        Ok(if findings.has_errors() || denied {
            FINDINGS
        } else {
            GOOD
        })
    }
}
