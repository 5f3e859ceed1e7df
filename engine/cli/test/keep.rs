//! `crossdock test record RUN`: a real run as a test.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::super::{
    GOOD, ProjectArguments, Terminal, UNLOADABLE, absolute, reader, wait_for, written,
};
use crate::diagnostic::render;
use crate::failure::Failure;
use crate::flow;
use crate::run::test::kept;
use crate::world::disk;

#[derive(Args)]
#[command(after_help = "Examples:
  crossdock test record 1042 > flows/orders-1042.test.yaml
  crossdock test record 1042 --mask customer.email --mask 'lines[].note' --out flows/orders-1042.test.yaml

It works while the engine runs. Of attempts only the last answer is kept. Headers and fields that may be secrets are left out.")]
pub(super) struct Keep {
    /// The run's number, or its message's id
    run: String,
    /// Replace the value of this field of the accepted message, wherever it stands
    #[arg(long, value_name = "PATH")]
    mask: Vec<String>,
    /// Write the test into this file; it must not be there
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    project: ProjectArguments,
}

impl Keep {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<u8, Failure> {
        let reader = reader(&self.project)?;
        let root = absolute(&self.project.project);
        let loaded = flow::load(&root, &self.project.world()?);
        let Some(project) = loaded.project else {
            render::text(&loaded.findings, &mut terminal.err, terminal.color).ok();
            return Ok(UNLOADABLE);
        };
        let text = wait_for(kept::keep(&reader, &project, &self.run, &self.mask))?;
        let Some(out) = &self.out else {
            written(terminal.out.write_all(text.as_bytes()))?;
            return Ok(GOOD);
        };
        if out.exists() {
            return Err(Failure::config(format!(
                "{} is there; name another file",
                out.display()
            )));
        }
        disk::write_atomic(&absolute(out), text.as_bytes())?;
        written(writeln!(terminal.out, "{}", out.display()))?;
        Ok(GOOD)
    }
}
