//! `crossdock simulate`: what a project's mappings would send for the last messages, against what was sent. It only reads.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::{
    FINDINGS, GOOD, ProjectArguments, Terminal, UNLOADABLE, absolute, reader, wait_for, written,
};
use crate::diagnostic::render;
use crate::failure::Failure;
use crate::flow;
use crate::run::simulate::{RequestDifference, RunDifference, Simulated, simulate};

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock simulate orders --last 100                 the project as it is on the disk now
  crossdock simulate orders --last 100 --with ../new   the project in another folder
  crossdock simulate orders --json

Nothing is sent: calls are answered with what was recorded, and messages are followed into other flows. It works while the
engine runs. Files that sinks append to have no record to be compared with.
Exit codes: 0 all the same, 1 something differs or would fail, 78 the project cannot be loaded")]
pub(super) struct Simulate {
    /// The flow
    flow: String,
    /// How many messages, the newest first
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    last: u32,
    /// The folder of the changed project; default: the project itself
    #[arg(long, value_name = "DIR")]
    with: Option<PathBuf>,
    /// Show at most so many messages that differ
    #[arg(long, default_value_t = 5)]
    show: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    project: ProjectArguments,
}

impl Simulate {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let reader = reader(&self.project)?;
        let root = absolute(self.with.as_ref().unwrap_or(&self.project.project));
        let loaded = flow::load(&root, &self.project.world()?);
        let Some(project) = loaded.project else {
            let color = terminal.color;
            render::text(&loaded.findings, &mut terminal.err, color).ok();
            writeln!(
                terminal.err,
                "crossdock: the project in {} cannot be loaded; nothing was simulated",
                root.display()
            )
            .ok();
            return Ok(UNLOADABLE);
        };
        let last = self.last as usize;
        let simulated = wait_for(simulate(&reader, &project, &self.flow, last))?;
        if self.json {
            let text = serde_json::to_string(&simulated)
                .map_err(|error| Failure::internal(error.to_string()))?;
            written(writeln!(terminal.out, "{text}"))?;
        } else {
            self.print(&simulated, terminal)?;
        }
        let same = simulated.different == 0 && simulated.fail == 0;
        Ok(if same { GOOD } else { FINDINGS })
    }

    fn print(&self, simulated: &Simulated, terminal: &mut Terminal) -> Result<(), Failure> {
        for run in simulated.runs.iter().take(self.show) {
            written(one(run, &mut terminal.out))?;
        }
        let more = simulated.runs.len().saturating_sub(self.show);
        if more > 0 {
            written(writeln!(
                terminal.out,
                "and {more} more; `--show {}` shows them all",
                simulated.runs.len()
            ))?;
        }
        let unknown = match simulated.unknown {
            0 => String::new(),
            many => format!(", {many} cannot be followed"),
        };
        written(writeln!(
            terminal.out,
            "{} same, {} different, {} would fail{unknown}",
            simulated.same, simulated.different, simulated.fail
        ))
    }
}

fn one(run: &RunDifference, out: &mut dyn Write) -> std::io::Result<()> {
    let keys: Vec<String> = run
        .keys
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    writeln!(out, "run {}  {}", run.run, keys.join(" "))?;
    for request in &run.requests {
        one_request(request, out)?;
    }
    for failure in &run.failures {
        writeln!(out, "  would fail: {failure}")?;
    }
    for unknown in &run.unknown {
        writeln!(out, "  unknown: {unknown}")?;
    }
    Ok(())
}

fn one_request(request: &RequestDifference, out: &mut dyn Write) -> std::io::Result<()> {
    let item = match &*request.item {
        "" => String::new(),
        item => format!(" [{item}]"),
    };
    let what = match &*request.what {
        "more" => ": would be sent, and was not",
        "less" => ": was sent, and would not be",
        _ => "",
    };
    writeln!(out, "  {} / {}{item}{what}", request.flow, request.step)?;
    for field in &request.fields {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        writeln!(
            out,
            "    {}: {} -> {}",
            field.path,
            shown(&field.was),
            shown(&field.is)
        )?;
    }
    Ok(())
}
