//! `crossdock check`: every mistake in the project at once, for people and for CI.

use std::io::Write;

use clap::{Args, ValueEnum};

use super::{FINDINGS, GOOD, ProjectArguments, Terminal, UNLOADABLE, absolute, written};
use crate::diagnostic::render;
use crate::failure::Failure;
use crate::flow;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock check
  crossdock check --format github            annotations on a pull request
  crossdock check --format sarif > check.sarif
  crossdock check --deny-warnings            for CI

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
        let loaded = flow::load(&root, &world);
        let (findings, out) = (&loaded.findings, &mut terminal.out);
        written(match self.format {
            Format::Text => render::text(findings, out, terminal.color),
            Format::Json => render::json(findings, out),
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
                loaded.files
            ))?;
        }
        let denied = self.deny_warnings && !findings.is_empty();
        Ok(if findings.has_errors() || denied {
            FINDINGS
        } else {
            GOOD
        })
    }
}
