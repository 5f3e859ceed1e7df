//! `crossdock graph`: flows, steps, sinks and systems as a drawing.

use std::io::Write;

use clap::{Args, ValueEnum};

use super::{GOOD, ProjectArguments, Terminal, UNLOADABLE, absolute, written};
use crate::diagnostic::{closest, render};
use crate::failure::Failure;
use crate::flow::{self, graph};

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock graph                                  all flows, for Markdown (mermaid)
  crossdock graph order-booking --format dot | dot -Tsvg > booking.svg")]
pub(super) struct Graph {
    /// Only this flow
    flow: Option<String>,
    #[command(flatten)]
    project: ProjectArguments,
    /// The language of the drawing
    #[arg(long, value_enum, default_value_t = Language::Mermaid)]
    format: Language,
}

#[derive(Clone, Copy, ValueEnum)]
enum Language {
    /// Drawn by GitHub, GitLab and most editors inside Markdown
    Mermaid,
    /// Drawn by Graphviz
    Dot,
}

impl Graph {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let loaded = flow::load(&absolute(&self.project.project), &self.project.world()?);
        let Some(project) = loaded.project else {
            render::text(&loaded.findings, &mut terminal.err, false).ok();
            return Ok(UNLOADABLE);
        };
        let drawing = match (&self.flow, self.format) {
            (None, Language::Mermaid) => graph::mermaid(&project),
            (None, Language::Dot) => graph::dot(&project),
            (Some(name), format) => {
                let Some(plan) = project.plans.get(&**name) else {
                    let near = closest(name, project.plans.keys().map(|flow| &**flow));
                    let help = near
                        .map(|near| format!("; did you mean `{near}`?"))
                        .unwrap_or_default();
                    return Err(Failure::config(format!(
                        "the project has no flow `{name}`{help}"
                    )));
                };
                match format {
                    Language::Mermaid => graph::mermaid_of(plan),
                    Language::Dot => graph::dot_of(plan),
                }
            }
        };
        written(write!(terminal.out, "{drawing}"))?;
        Ok(GOOD)
    }
}
